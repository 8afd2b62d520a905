//! The routes and gateway addresses that make one wire out of the pair. The
//! subnets of the addresses are not on the wire, only the two ends are:
//!
//! ```text
//! container:  10.1.0.1 dev eth0 scope link src 10.1.0.2
//!             10.1.0.0/24 via 10.1.0.1 dev eth0 src 10.1.0.2
//! host:       10.1.0.1/32 on vethX
//!             10.1.0.2 dev vethX scope host
//!             with IPv6 a link-local address on vethX, to ask for the container from
//! ```

use attach::neighbours::set_if_there;
use attach::sandbox::Sandbox;
use attach::veth::Pair;
use attach::{addresses, kernel};
use cni::{Error, Result, Success};
use ipnetwork::IpNetwork;
use linux::Socket;
use linux::addr::Addr;
use linux::link::{self, Link, Mac};
use linux::route::{self, Filter, Route, Scope, TABLE_MAIN};
use std::net::IpAddr;

/// The container's routes to its gateways, and through them to its subnets.
/// Where IPAM gave a route to a subnet itself, that one counts.
pub(crate) fn of_container(success: &Success, index: u32) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut add = |route: Route| {
        if !routes.iter().any(|known| known.dst == route.dst) {
            routes.push(route);
        }
    };
    for ip in &success.ips {
        let Some(gateway) = ip.gateway else { continue };
        let to_gateway = Route::new(gateway.into()).dev(index).source(ip.address.ip());
        add(if gateway.is_ipv4() { to_gateway.scope(Scope::LINK) } else { to_gateway });
    }
    for ip in &success.ips {
        let (Some(gateway), Ok(subnet)) =
            (ip.gateway, IpNetwork::new(ip.address.network(), ip.address.prefix()))
        else {
            continue;
        };
        let in_main =
            |table: Option<i64>| table.is_none_or(|t| t == 0 || t == i64::from(TABLE_MAIN));
        let is_given = success.routes.iter().any(|r| r.dst == subnet && in_main(r.table));
        // A single address is its own subnet.
        if subnet.ip() == ip.address.ip() && is_single(subnet) || is_given {
            continue;
        }
        add(Route::new(subnet).via(gateway).dev(index).source(ip.address.ip()));
    }
    routes
}

fn is_single(net: IpNetwork) -> bool {
    net.prefix() == if net.is_ipv4() { 32 } else { 128 }
}

/// The gateways' addresses on the host end, each once and alone in its subnet.
/// They are in use by nobody else: containers only ever meet their own end.
pub(crate) fn host_addresses(success: &Success, index: u32) -> Vec<Addr> {
    let mut addresses: Vec<Addr> = Vec::new();
    for gateway in success.ips.iter().filter_map(|ip| ip.gateway) {
        if !addresses.iter().any(|known| known.ip() == gateway) {
            addresses.push(Addr::new(index, gateway.into()).nodad());
        }
    }
    addresses
}

/// The link-local address by which the host asks for the container, if there is IPv6
/// to forward. The kernel would make the same, and use it after one to two seconds; a
/// packet that others sent to the container would wait as long.
fn link_local(success: &Success, index: u32, mac: Option<Mac>) -> Option<Addr> {
    let has_ipv6 = success.ips.iter().any(|ip| ip.address.is_ipv6());
    mac.filter(|_| has_ipv6).map(|mac| Addr::link_local(index, mac))
}

/// Off is the default of many a host, and a new link has the default.
fn speak_ipv6(success: &Success, link: &str) -> Result<()> {
    match success.ips.iter().any(|ip| ip.address.is_ipv6()) {
        // Where there is no IPv6 at all, the address is refused.
        true => set_if_there(&["net", "ipv6", "conf", link, "disable_ipv6"], "0"),
        false => Ok(()),
    }
}

/// The host's routes to the container's addresses.
pub(crate) fn of_host(success: &Success, index: u32) -> Vec<Route> {
    let to = |ip: &cni::IpConfig| {
        let route = Route::new(ip.address.ip().into()).dev(index);
        if ip.address.is_ipv4() { route.scope(Scope::HOST) } else { route }
    };
    success.ips.iter().map(to).collect()
}

/// Makes the host's part. It goes with the pair.
///
/// # Errors
/// The host routes one of the addresses elsewhere; what the kernel refuses.
pub(crate) fn make_on_host(host: &Socket, success: &Success, pair: &Pair) -> Result<()> {
    let index = pair.host;
    speak_ipv6(success, &pair.host_name)?;
    let mut addresses: Vec<_> =
        link_local(success, index, Some(pair.host_mac)).into_iter().collect();
    addresses.extend(host_addresses(success, index));
    host.batch(addresses.iter().map(Addr::add_message).collect::<Vec<_>>()).map_err(kernel)?;
    of_host(success, index).iter().try_for_each(|route| add_on_host(host, route))
}

/// RESTORE of [`make_on_host`]: what is missing, on a link that is up.
///
/// # Errors
/// Those of [`make_on_host`].
pub(crate) fn restore_on_host(host: &Socket, promised: &Success, end: &Link) -> Result<()> {
    speak_ipv6(promised, &end.name)?;
    link::set_up(host, end.index).map_err(kernel)?;
    let present = linux::addr::list(host, None, Some(end.index)).map_err(kernel)?;
    let mut addresses = host_addresses(promised, end.index);
    addresses.retain(|gateway| !present.iter().any(|addr| addr.net == gateway.net));
    if !present.iter().any(Addr::is_link_local) {
        addresses.extend(link_local(promised, end.index, end.mac));
    }
    host.batch(addresses.iter().map(Addr::add_message).collect::<Vec<_>>()).map_err(kernel)?;
    for route in of_host(promised, end.index) {
        if attach::verify::routes(host, &end.name, std::slice::from_ref(&route)).is_err() {
            add_on_host(host, &route)?;
        }
    }
    Ok(())
}

fn add_on_host(host: &Socket, route: &Route) -> Result<()> {
    route::add(host, route).map_err(|e| match e.is_exists() {
        true => elsewhere(host, route, e),
        false => kernel(e),
    })
}

/// Waits until the host answers for the gateways. It nearly always does by then;
/// the thread is in the container.
///
/// # Errors
/// Those of [`addresses::wait_in_use`].
pub(crate) fn wait_on_host(sandbox: &Sandbox, success: &Success) -> Result<()> {
    let gateways: Vec<_> = success.ips.iter().filter_map(|ip| ip.gateway).collect();
    let is_ready = |ip: &IpAddr| ip.is_ipv4() || addresses::is_in_use(sandbox.host(), *ip);
    match gateways.iter().all(is_ready) {
        true => Ok(()),
        false => {
            sandbox.in_home(|| addresses::wait_in_use(&Socket::route().map_err(kernel)?, gateways))
        }
    }
}

/// Names the link that has the route.
fn elsewhere(host: &Socket, wanted: &Route, error: linux::Error) -> Error {
    let present = route::list(host, Filter { family: Some(wanted.family()), ..Filter::MAIN });
    let other = present.ok().into_iter().flatten().find(|route| route.dst == wanted.dst);
    let name = other
        .and_then(|route| link::get_by_index(host, route.oif?).ok())
        .map_or_else(|| "another link".to_owned(), |link| link.name);
    kernel(error.hint(format!(
        "the host reaches {} by {name} already: two containers cannot have one address; a DEL or GC of the other removes it",
        wanted.dst.ip()
    )))
}

/// CHECK of [`make_on_host`].
///
/// # Errors
/// Names the address or route that is missing.
pub(crate) fn verify_on_host(host: &Socket, promised: &Success, end: &Link) -> Result<()> {
    let present = linux::addr::list(host, None, Some(end.index)).map_err(kernel)?;
    let gateways = host_addresses(promised, end.index);
    if let Some(missing) = gateways.iter().find(|g| !present.iter().any(|addr| addr.net == g.net)) {
        return Err(Error::internal(format!(
            "check {}: the gateway's address {} is missing",
            end.name, missing.net
        )));
    }
    attach::verify::routes(host, &end.name, &of_host(promised, end.index))
}

#[cfg(test)]
mod tests;
