//! The bridge as the containers' gateway: their gateway addresses on it (or,
//! in a VLAN, on a link of its own into that VLAN), and forwarding.

use crate::conf::Plan;
use crate::foreseen::Foreseen;
use crate::{mac_text, port};
use attach::forwarding::Forwarding;
use attach::sandbox::Sandbox;
use attach::{kernel, veth};
use cni::{Code, Error, Interface, Network, Result, Success};
use ipnetwork::IpNetwork;
use linux::addr::{self, Addr, AddrFlags};
use linux::link::{self, Link, Mac, VethPeer, VethSpec};
use linux::port::VlanRange;
use linux::{Socket, sysctl};

/// The link that carries the gateway addresses of a VLAN.
pub(crate) fn vlan_link_name(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

/// The gateways of `success` with the lengths of their subnets, each once.
fn gateways(success: &Success) -> Vec<IpNetwork> {
    let mut gateways: Vec<IpNetwork> = Vec::new();
    for ip in &success.ips {
        let net = ip.gateway.and_then(|gateway| IpNetwork::new(gateway, ip.address.prefix()).ok());
        gateways.extend(net.filter(|net| !gateways.contains(net)));
    }
    gateways.sort_by_key(IpNetwork::is_ipv6);
    gateways
}

/// The forwarding the gateways of `success` need. Asked before the thread enters
/// the container.
pub(crate) fn forwarding(plan: &Plan, success: &Success) -> Result<Forwarding> {
    let gateways = if plan.is_gateway { gateways(success) } else { Vec::new() };
    Forwarding::needed(gateways.iter().map(IpNetwork::ip))
}

/// Puts the gateway addresses where they belong and switches forwarding on.
/// Answers the VLAN's link, if they are on one. When it fails, it has taken back what it added; others may rely on it once
/// it has not, so it is the last step of an ADD that can fail.
///
/// Like `ip addr add G dev cni0`.
pub(crate) fn ensure(
    sandbox: &Sandbox,
    plan: &Plan,
    bridge: &Link,
    success: &Success,
    forwarding: Forwarding,
) -> Result<Option<Interface>> {
    if !plan.is_gateway || plan.ipam.is_none() {
        return Ok(None);
    }
    let mut made = Vec::new();
    let done = ensure_addresses(sandbox, plan, bridge, success, &mut made)
        .and_then(|vlan_link| forwarding.switch_on(sandbox).map(|()| vlan_link));
    done.map_err(|error| {
        let undo = made.iter().rev().filter_map(|made| made.take_back(sandbox).err());
        undo.fold(error, |error, failed| error.with_details(format!("undo: {failed}")))
    })
}

/// What this ADD has changed so far, or may have: an answer can be lost.
enum Made {
    Added(Addr),
    /// By `forceAddress`.
    Removed(Addr),
    VlanLink(u32),
    /// On the link of this name.
    Ipv6(String),
}

impl Made {
    fn take_back(&self, sandbox: &Sandbox) -> Result<()> {
        let host = sandbox.host();
        let undone = match self {
            Made::Added(addr) => addr::delete(host, addr),
            Made::Removed(addr) => addr::add(host, addr),
            Made::VlanLink(index) => link::delete(host, *index),
            Made::Ipv6(link) => return switch_ipv6(sandbox, link, "1").map(drop),
        };
        match undone {
            // What the request did not do need not be undone.
            Err(e) if !e.is_not_found() && !e.is_exists() => Err(kernel(e)),
            _ => Ok(()),
        }
    }
}

fn ensure_addresses(
    sandbox: &Sandbox,
    plan: &Plan,
    bridge: &Link,
    success: &Success,
    made: &mut Vec<Made>,
) -> Result<Option<Interface>> {
    let host = sandbox.host();
    let vlan_link = match plan.vlan {
        0 => None,
        vlan => Some(ensure_vlan_link(sandbox, plan, bridge, vlan, made)?),
    };
    let carrier = vlan_link.as_ref().unwrap_or(bridge);
    let gateways = gateways(success);
    let present = addr::list(host, None, Some(carrier.index)).map_err(kernel)?;
    let in_the_way = in_the_way(&present, &gateways, &[]);
    refuse(carrier, plan, &in_the_way)?;
    // With the first address of a subnet the kernel removes its others
    // (`__inet_del_ifa`, net/ipv4/devinet.c at v6.12). They go before it, so that
    // each can be brought back; one that is wanted comes again behind.
    let goes = |addr: &Addr| {
        in_the_way.iter().any(|(other, _)| *other == addr || is_secondary_of(addr, other))
    };
    for addr in present.iter().rev().filter(|addr| goes(addr)) {
        match addr::delete(host, addr) {
            Err(e) if e.is_not_found() => {}
            done => {
                made.push(Made::Removed(addr.clone()));
                done.map_err(kernel)?;
            }
        }
    }
    let stays = |gateway: &IpNetwork| present.iter().any(|a| a.net == *gateway && !goes(a));
    let missing: Vec<_> = gateways.iter().filter(|gateway| !stays(gateway)).collect();
    if missing.iter().any(|gateway| gateway.is_ipv6()) && switch_ipv6(sandbox, &carrier.name, "0")?
    {
        made.push(Made::Ipv6(carrier.name.clone()));
    }
    for gateway in &missing {
        // The bridge is ours and so is the address: no question to the
        // neighbours, so that it works at once.
        let addr = Addr::new(carrier.index, **gateway).nodad();
        match addr::add(host, &addr) {
            // Another ADD was faster.
            Err(e) if e.is_exists() => {}
            done => {
                made.push(Made::Added(addr));
                done.map_err(kernel)?;
            }
        }
    }
    Ok(vlan_link.map(|link| Interface {
        name: link.name.clone(),
        mac: mac_text(&link),
        ..Interface::default()
    }))
}

/// The addresses that are there, and the gateway that each is in the way of; one of
/// `tolerated` is in nobody's.
fn in_the_way<'a>(
    present: &'a [Addr],
    gateways: &'a [IpNetwork],
    tolerated: &[IpNetwork],
) -> Vec<(&'a Addr, &'a IpNetwork)> {
    let is_missing = |gateway: &&IpNetwork| !present.iter().any(|addr| addr.net == **gateway);
    present
        .iter()
        .filter(|addr| !gateways.contains(&addr.net) && !tolerated.contains(&addr.net))
        .filter_map(|addr| {
            let mut missing = gateways.iter().filter(is_missing);
            Some((addr, missing.find(|gateway| conflicts(addr.net, **gateway))?))
        })
        .collect()
}

fn refuse(carrier: &Link, plan: &Plan, in_the_way: &[(&Addr, &IpNetwork)]) -> Result<()> {
    match in_the_way.first() {
        Some((other, gateway)) if !plan.force_address => Err(Error::internal(format!(
            "add gateway address {gateway} to {}: it already has {}: forceAddress replaces it",
            carrier.name, other.net
        ))),
        _ => Ok(()),
    }
}

/// STATUS: nothing is in the way of the gateways that are known before an ADD.
pub(crate) fn status(host: &Socket, plan: &Plan, network: &Network) -> Result<()> {
    if !plan.is_gateway || plan.ipam.is_none() {
        return Ok(());
    }
    let Some(carrier) = link::find(host, &carrier_name(&plan.bridge, plan)).map_err(kernel)? else {
        return Ok(());
    };
    let present = addr::list(host, None, Some(carrier.index)).map_err(kernel)?;
    let Foreseen { certain, possible } = Foreseen::of(network)?;
    refuse(&carrier, plan, &in_the_way(&present, &certain, &possible))
        .map_err(|error| error.with_code(Code::NOT_AVAILABLE))
}

/// The link that carries the gateway addresses.
fn carrier_name(bridge: &str, plan: &Plan) -> String {
    if plan.vlan == 0 { bridge.to_owned() } else { vlan_link_name(bridge, plan.vlan) }
}

/// Off is the default of many a host, and a new link has the default. Answers whether
/// it was otherwise.
fn switch_ipv6(sandbox: &Sandbox, link: &str, disable: &str) -> Result<bool> {
    let write = || sysctl::write(&["net", "ipv6", "conf", link, "disable_ipv6"], disable);
    match sandbox.in_home(|| Ok(write()))? {
        // Where there is no IPv6 at all, the address is refused.
        Err(e) if e.is_not_found() => Ok(false),
        written => written.map_err(kernel),
    }
}

/// IPv4: a bridge is one network's gateway, so any other address is in the
/// way. IPv6: links have several addresses, only the same subnet is.
fn conflicts(present: IpNetwork, gateway: IpNetwork) -> bool {
    match (present, gateway) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(one), IpNetwork::V6(other)) => {
            one.contains(other.ip()) || other.contains(one.ip())
        }
        _ => false,
    }
}

/// Does the kernel hold `addr` for one more of the subnet of `first`?
fn is_secondary_of(addr: &Addr, first: &Addr) -> bool {
    let subnet = |addr: &Addr| (addr.net.network(), addr.net.prefix());
    let secondary = addr.flags.contains(AddrFlags::SECONDARY);
    addr.net.is_ipv4() && secondary && subnet(addr) == subnet(first)
}

/// The host's own link into a VLAN of the bridge: a veth pair whose other end
/// is a port in that VLAN. It is set up last, so that one that is down may have
/// been left half made by an ADD that was killed, and is completed.
fn ensure_vlan_link(
    sandbox: &Sandbox,
    plan: &Plan,
    bridge: &Link,
    vlan: u16,
    made: &mut Vec<Made>,
) -> Result<Link> {
    let host = sandbox.host();
    let name = vlan_link_name(&bridge.name, vlan);
    if let Some(link) = link::find(host, &name).map_err(kernel)?.filter(Link::is_up) {
        return Ok(link);
    }
    let (port_name, port_mac) = (port_name(&name), Mac::random());
    let spec = VethSpec {
        name: &port_name,
        mac: Some(port_mac),
        mtu: plan.mtu,
        master: Some(bridge.index),
        up: true,
        peer: VethPeer {
            name: &name,
            mac: Some(Mac::random()),
            mtu: plan.mtu,
            ..VethPeer::default()
        },
        ..VethSpec::default()
    };
    match spec.create(host) {
        Ok(port) => made.push(Made::VlanLink(port.index)),
        // Another ADD was faster, or the link is somebody else's.
        Err(e) if e.is_exists() => {}
        Err(e) => {
            // It may be the answer that was lost, and not the request.
            let left = link::find(host, &port_name).ok().flatten();
            let left = left.filter(|port| port.mac == Some(port_mac));
            made.extend(left.map(|port| Made::VlanLink(port.index)));
            return Err(kernel(e));
        }
    }
    if let Some(port) = link::find(host, &port_name).map_err(kernel)? {
        let vlans = [VlanRange::access(vlan)];
        port::set_vlans(host, port.index, &vlans, plan.preserve_default_vlan)?;
    }
    sandbox.in_home(|| {
        [&name, &port_name]
            .into_iter()
            .try_for_each(|link| veth::refuse_router_advertisements(link))
    })?;
    let link = link::get(host, &name).map_err(kernel)?;
    link::set_up(host, link.index).map_err(kernel)?;
    Ok(link)
}

/// The port's name: `veth` and a hash of the link's, the same for every ADD.
fn port_name(link: &str) -> String {
    attach::identity::shared_link_name(link)
}

/// CHECK: the gateways' addresses are there, and the host forwards. Called
/// from the host's namespace.
pub(crate) fn verify(host: &Socket, plan: &Plan, bridge: &Link, promised: &Success) -> Result<()> {
    if !plan.is_gateway || plan.ipam.is_none() {
        return Ok(());
    }
    let name = carrier_name(&bridge.name, plan);
    let Some(carrier) = link::find(host, &name).map_err(kernel)? else {
        return Err(Error::internal(format!("check gateway: link {name} is gone")));
    };
    if !carrier.is_up() {
        return Err(Error::internal(format!("check gateway: link {name} is down")));
    }
    let present = addr::list(host, None, Some(carrier.index)).map_err(kernel)?;
    if let Some(missing) =
        gateways(promised).iter().find(|g| !present.iter().any(|addr| addr.net == **g))
    {
        return Err(Error::internal(format!(
            "check gateway: address {missing} is missing on {name}"
        )));
    }
    veth::verify_no_router_advertisements(&name)?;
    forwarding(plan, promised)?.verify()
}
