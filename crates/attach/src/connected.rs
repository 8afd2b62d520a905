//! Connected routes: those to the subnets of a link's addresses, without which neither
//! neighbours nor gateways are reached. The kernel makes each with its address;
//! `ip route flush dev eth0` takes it away and leaves the address.

use crate::kernel;
use cni::Result;
use ipnetwork::IpNetwork;
use linux::addr::{Addr, AddrFlags};
use linux::route::{self, Filter, Route, RouteProtocol, Scope};
use linux::{Family, Socket, rule};

/// What the kernel gives those of IPv6 (`IP6_RT_PRIO_ADDRCONF`,
/// include/net/ip6_route.h at v6.18).
const IPV6_METRIC: u32 = 256;

/// Those that are missing of addresses of link `index`, as the kernel makes them. One in
/// another table was moved there; of an address that has a rule of its own whoever made
/// the rule knows the way.
///
/// # Errors
/// The kernel's.
pub(crate) fn missing(socket: &Socket, index: u32, addresses: &[Addr]) -> Result<Vec<Route>> {
    let mut wanted: Vec<Route> = Vec::new();
    for route in addresses.iter().filter_map(|addr| of(index, addr)) {
        if !wanted.iter().any(|other| other.dst == route.dst) {
            wanted.push(route);
        }
    }
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let present = route::list(socket, Filter { family: None, table: None, oif: Some(index) })
        .map_err(kernel)?;
    wanted.retain(|wanted| !present.iter().any(|route| route.dst == wanted.dst));
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let rules = rule::list(socket, None).map_err(kernel)?;
    let has_rule = |addr: &Addr| {
        let alone = IpNetwork::from(addr.ip());
        rules.iter().any(|rule| rule.src == Some(alone))
    };
    let ruled: Vec<IpNetwork> =
        addresses.iter().filter(|addr| has_rule(addr)).map(|addr| subnet(addr.net)).collect();
    wanted.retain(|wanted| !ruled.contains(&wanted.dst));
    Ok(wanted)
}

/// Like `ip route add SUBNET dev LINK proto kernel scope link src ADDRESS`.
fn of(index: u32, addr: &Addr) -> Option<Route> {
    let family = Family::of(addr.ip());
    let others = AddrFlags::NOPREFIXROUTE.with(AddrFlags::SECONDARY);
    let has_none = addr.net.prefix() == family.bits() || addr.peer.is_some();
    if has_none || addr.flags.0 & others.0 != 0 {
        return None;
    }
    let mut route = Route::new(subnet(addr.net)).dev(index);
    route.protocol = RouteProtocol::KERNEL;
    Some(match family {
        Family::V4 => route.scope(Scope::LINK).source(addr.ip()),
        Family::V6 => route.priority(IPV6_METRIC),
    })
}

fn subnet(net: IpNetwork) -> IpNetwork {
    IpNetwork::new(net.network(), net.prefix()).expect("the prefix was one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_those_the_kernel_makes() {
        let route = |net: &str, flags: AddrFlags| {
            let mut addr = Addr::new(7, net.parse().expect("a subnet"));
            addr.flags = flags;
            of(7, &addr)
        };
        let plain = AddrFlags::default();
        let v4 = route("10.1.0.2/24", plain).expect("it has one");
        assert_eq!(v4.to_string(), "10.1.0.0/24 on link with index 7");
        assert_eq!((v4.scope, v4.source), (Scope::LINK, "10.1.0.2".parse().ok()));
        let v6 = route("fd00::2/64", AddrFlags::NODAD).expect("it has one");
        assert_eq!(v6.to_string(), "fd00::/64 on link with index 7 metric 256");
        assert_eq!((v6.scope, v6.source), (Scope::UNIVERSE, None));
        for (net, flags) in [
            ("10.1.0.2/32", plain),
            ("fd00::2/128", plain),
            ("10.1.0.2/24", AddrFlags::SECONDARY),
            ("10.1.0.2/24", AddrFlags::NOPREFIXROUTE),
        ] {
            assert_eq!(route(net, flags), None, "{net}");
        }
    }
}
