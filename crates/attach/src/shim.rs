//! `hostShim`: the host's own link among the containers'.
//!
//! A macvlan or ipvlan never exchanges packets with its parent, so a host cannot
//! reach its own containers, nor they the host. A link of the same kind on the
//! host can: the shim. It needs no address of its own: packets to a container
//! leave by it from the address the host has on the parent, and the containers
//! find that address behind it. `hostShimAddresses` gives it addresses of its
//! own where the parent has none, or its packet filter wants to see them apart.
//!
//! | what | where | name | removed by | shared |
//! |---|---|---|---|---|
//! | the shim | host | `shim` and a hash of network and parent | [`leave`] of the last, [`gc`] | by the network's attachments |
//! | its alias | host | `oxcni-shim:<network>` | with the shim | |
//! | a route to each address | host | its metric is a hash of the attachment | [`leave`], [`gc`], [`join`] of who has the address next | no |
//! | a neighbour entry to each address | host, macvlan, ipvlan in mode l2 | the address | [`leave`], [`gc`] | no |
//! | neighbour entries and routes to the host | container | the host's addresses | with the container's link | no |
//!
//! The routes count the users: the shim goes with the last of them. Their
//! metrics tell whose they are without any memory of what ADD did.

mod plan;

pub use plan::{Kind, Plan, configured};

use crate::identity::digest;
use crate::lock::{self, Of, Patience};
use crate::neighbours::set_if_there;
use crate::parent::Parent;
use crate::sandbox::Sandbox;
use crate::{contained, ipam, kernel, verify};
use cni::{AttachmentId, Attachments, Error, Network, NetworkName, Request, Result, Success};
use ipnetwork::IpNetwork;
use linux::addr::{self, Addr};
use linux::link::{self, IpvlanMode, IpvlanSpec, Link, Mac, MacvlanMode, MacvlanSpec};
use linux::neigh::{self, Neigh};
use linux::netns::Namespace;
use linux::route::{self, Filter, Route, Scope};
use linux::{Socket, sysctl};
use plan::{Way, is_usable};
use sha2::{Digest, Sha512};
use std::net::IpAddr;
use std::time::Duration;

/// How long an ADD waits for others, each of which takes some milliseconds, 20
/// when it removes a shim. Between counting the users and removing the shim
/// nobody may join it.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// What a lock is for.
const DOING: &str = "use the host shim";

/// Makes sure of the shim and lets host and container reach each other by it; for
/// RESTORE as well, what is there stays. After a failure, [`leave`] takes back what was
/// done.
///
/// Like `ip link add shimX link eth0 type macvlan mode bridge` and
/// `ip route add 10.1.0.5 dev shimX src 10.1.0.1`.
///
/// # Errors
/// The host has no address to speak from; its packet filter (`rp_filter`) would
/// drop the answers; what the kernel refuses.
pub fn join(
    sandbox: &Sandbox,
    plan: &Plan,
    parent: &Parent,
    link: &Link,
    success: &Success,
) -> Result<()> {
    let (host, container) = (sandbox.host(), sandbox.container()?);
    let on_parent = addr::list(host, None, Some(parent.link.index)).map_err(kernel)?;
    let ways = plan.ways(parent, &on_parent, success)?;
    refuse_strict_reverse_path(sandbox, plan, parent, &ways)?;
    let alone = lock::alone(Of::Host(sandbox.home()), DOING, LOCK_LIMIT)?;
    let shim = ensure(sandbox, plan, parent)?;
    let attachment = sandbox.request.attachment();
    let own = routes_of(sandbox.request.network.name(), &attachment, shim.index, &ways);
    for route in &own {
        // One of IPv6 that is there loses its source when the shim loses that address.
        route::replace(host, route).map_err(|e| kernel(e.context("join the host shim")))?;
    }
    // IPAM gave the addresses to this attachment: another that has a route to one is dead.
    let of_the_dead = |(mark, route): &(u32, Route)| {
        own.iter().any(|own| own.dst == route.dst && own.priority != Some(*mark))
    };
    for (_, route) in marked(host, &shim)?.into_iter().filter(of_the_dead) {
        gone_is_fine(route::delete(host, &route))?;
    }
    for entry in host_neighbours(plan, &shim, link, &ways) {
        neigh::replace(host, &entry).map_err(kernel)?;
    }
    drop(alone);
    for entry in container_neighbours(plan, &shim, link.index, &on_parent, &ways) {
        neigh::replace(container, &entry).map_err(kernel)?;
    }
    for route in container_routes(link.index, &ways, success) {
        match route::add(container, &route) {
            Err(e) if !e.is_exists() => return Err(kernel(e.context("join the host shim"))),
            _ => {}
        }
    }
    Ok(())
}

/// Takes the attachment's routes from the network's shim of `kind`, and the
/// shim away when they were the last.
///
/// # Errors
/// The kernel's, all of them; that nothing is there is none.
pub fn leave(sandbox: &Sandbox, kind: &str) -> Result<()> {
    let name = sandbox.request.network.name();
    let own = mark(name, &sandbox.request.attachment());
    prune(sandbox.host(), sandbox.home(), name, kind, |mark| mark != own)
}

/// [`contained::del`] of a plugin whose links may have a shim beside them.
///
/// # Errors
/// The kernel's and the IPAM plugin's, all of them.
pub fn del(request: &Request, kind: &str) -> Result<()> {
    contained::del_with(request, kind, |sandbox| leave(sandbox, kind))
}

/// GC of such a plugin: shims and addresses of attachments that are not valid any
/// more. The links went with their namespaces.
///
/// # Errors
/// The kernel's and the IPAM plugin's, all of them.
pub fn gc(network: &Network, kind: &str) -> Result<()> {
    let Some(valid) = network.valid_attachments()? else { return Ok(()) };
    let shim = sweep(network, kind, &valid);
    let leases = ipam::sweep(network);
    Error::all([shim, leases])
}

fn sweep(network: &Network, kind: &str, valid: &Attachments) -> Result<()> {
    let (host, home) = (Socket::route().map_err(kernel)?, Namespace::current().map_err(kernel)?);
    let marks: Vec<u32> = valid.iter().map(|id| mark(network.name(), &id)).collect();
    prune(&host, &home, network.name(), kind, |mark| marks.contains(&mark))
}

/// CHECK: the shim and everything that leads to the container and back is there.
///
/// # Errors
/// Names what is not.
pub fn verify(
    sandbox: &Sandbox,
    plan: &Plan,
    parent: &Parent,
    container: &Link,
    promised: &Success,
) -> Result<()> {
    let host = sandbox.host();
    let network = sandbox.request.network.name();
    let name = shim_name(network, &parent.link.name);
    let wrong = |what: &str| Err(Error::internal(format!("check host shim {name}: {what}")));
    let Some(shim) = link::find(host, &name).map_err(kernel)? else {
        return wrong("it is gone");
    };
    if !plan.kind.matches(&shim) || shim.link != Some(parent.link.index) {
        return wrong("it is of another kind or mode, or on another parent");
    }
    if !shim.is_up() {
        return wrong("it is down");
    }
    let on_parent = addr::list(host, None, Some(parent.link.index)).map_err(kernel)?;
    let on_shim = addr::list(host, None, Some(shim.index)).map_err(kernel)?;
    if let Some(missing) = plan.addresses.iter().find(|a| !on_shim.iter().any(|s| s.ip() == **a)) {
        return wrong(&format!("address {missing} is missing"));
    }
    let ways = plan.ways(parent, &on_parent, promised)?;
    let attachment = sandbox.request.attachment();
    let routes = routes_of(network, &attachment, shim.index, &ways);
    verify::routes(host, &name, &routes)?;
    verify_sources(host, &name, &routes)?;
    let inside = sandbox.container()?;
    verify::routes(inside, &container.name, &container_routes(container.index, &ways, promised))?;
    verify_neighbours(host, &name, &host_neighbours(plan, &shim, container, &ways))?;
    let entries = container_neighbours(plan, &shim, container.index, &on_parent, &ways);
    verify_neighbours(inside, &container.name, &entries)
}

/// A route of IPv6 stays, and loses its source, when the shim loses that address.
fn verify_sources(host: &Socket, name: &str, promised: &[Route]) -> Result<()> {
    let filter = Filter { oif: promised.first().and_then(|route| route.oif), ..Filter::default() };
    let present = route::list(host, filter).map_err(kernel)?;
    let is_there = |route: &&Route| {
        let same = |other: &&Route| (other.dst, other.priority) == (route.dst, route.priority);
        present.iter().any(|other| same(&other) && other.source == route.source)
    };
    match promised.iter().find(|route| !is_there(route)) {
        None => Ok(()),
        Some(route) => Err(Error::internal(format!(
            "check {name}: the route to {} has not the source address it had",
            route.dst
        ))),
    }
}

fn verify_neighbours(socket: &Socket, name: &str, promised: &[Neigh]) -> Result<()> {
    let Some(first) = promised.first() else { return Ok(()) };
    let present = neigh::list(socket, None, Some(first.index)).map_err(kernel)?;
    let is_fulfilled = |entry: &&Neigh| {
        let lasts = |is: &Neigh| is.state & entry.state & Neigh::PERMANENT != 0;
        let is_it = |is: &Neigh| is.ip == entry.ip && is.mac == entry.mac;
        present.iter().any(|is| is_it(is) && (lasts(is) || entry.state != Neigh::PERMANENT))
    };
    match promised.iter().find(|entry| !is_fulfilled(entry)) {
        None => Ok(()),
        Some(entry) => Err(Error::internal(format!(
            "check {name}: the neighbour entry of {} is missing",
            entry.ip
        ))),
    }
}

/// The shim's name: one for each network on each parent.
fn shim_name(network: &NetworkName, parent: &str) -> String {
    format!("shim{}", digest(&format!("shim/{network}/{parent}"), 11))
}

/// What its alias says, by which it is found without the parent. A network's
/// name too long for an alias stands there as a hash.
fn shim_alias(network: &NetworkName) -> String {
    match network.as_str() {
        name if name.len() <= 200 => format!("oxcni-shim:{name}"),
        name => format!("oxcni-shim:{}", digest(name, 32)),
    }
}

/// A constant address, since containers are told it: of this network, this
/// parent and this host, of whose name its parent's address is part.
fn shim_mac(network: &NetworkName, parent: &Link) -> Mac {
    let own = parent.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let hash = Sha512::digest(format!("shim-mac/{network}/{}/{own}", parent.name));
    // Unicast, locally administered.
    Mac::new([hash[0] & 0xfc | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]])
}

/// The bit that tells the metrics of attachments from any a person would write.
const MARK: u32 = 1 << 31;

/// The metric of an attachment's routes. Two of a thousand attachments of one
/// network have the same with a chance of one in four thousand; the DEL of one
/// would then also take the host's way to the other.
fn mark(network: &NetworkName, attachment: &AttachmentId) -> u32 {
    let AttachmentId { container_id, ifname } = attachment;
    let hash = Sha512::digest(format!("mark/{network}/{container_id}/{ifname}"));
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) | MARK
}

fn only(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}

fn routes_of(
    network: &NetworkName,
    attachment: &AttachmentId,
    shim: u32,
    ways: &[Way],
) -> Vec<Route> {
    let mark = mark(network, attachment);
    ways.iter()
        .map(|Way { from, to }| {
            let route = Route::new(only(*to)).dev(shim).source(*from).priority(mark);
            if to.is_ipv4() { route.scope(Scope::LINK) } else { route }
        })
        .collect()
}

/// What the host would learn by a question from a borrowed address, and must not ask.
/// ARP from a macvlan would tell everybody outside that the address is the shim's. In
/// mode l2 of ipvlan the answers go to the parent; the Ethernet address is the parent's
/// anyway.
fn host_neighbours(plan: &Plan, shim: &Link, container: &Link, ways: &[Way]) -> Vec<Neigh> {
    let borrowed = ways.iter().filter(|way| plan.is_borrowed(way.from));
    match (plan.kind, shim.mac, container.mac) {
        // The container announces when it has another.
        (Kind::Macvlan, _, Some(mac)) => borrowed
            .filter(|way| way.to.is_ipv4())
            .map(|way| Neigh::learned(shim.index, way.to, mac))
            .collect(),
        (Kind::Ipvlan(IpvlanMode::L2), Some(mac), _) => {
            borrowed.map(|way| Neigh::permanent(shim.index, way.to, mac)).collect()
        }
        _ => Vec::new(),
    }
}

/// The shim does not answer for borrowed addresses: of IPv6 because they are not
/// its own, of IPv4 only to containers.
fn container_neighbours(
    plan: &Plan,
    shim: &Link,
    index: u32,
    on_parent: &[Addr],
    ways: &[Way],
) -> Vec<Neigh> {
    let Some(mac) = shim.mac.filter(|_| plan.kind.has_neighbours()) else { return Vec::new() };
    let is_met = |addr: &&Addr| {
        let same = |way: &Way| way.from.is_ipv4() == addr.ip().is_ipv4();
        is_usable(addr) && ways.iter().any(|way| same(way) && plan.is_borrowed(way.from))
    };
    on_parent.iter().filter(is_met).map(|addr| Neigh::permanent(index, addr.ip(), mac)).collect()
}

/// Where the host's address is in none of the container's subnets, the way back
/// is not by the container's gateway either.
fn container_routes(index: u32, ways: &[Way], success: &Success) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for Way { from, .. } in ways {
        let is_near = success.ips.iter().any(|ip| ip.address.contains(*from));
        let is_known = routes.iter().any(|route| route.dst == only(*from));
        if !is_near && !is_known {
            let route = Route::new(only(*from)).dev(index);
            routes.push(if from.is_ipv4() { route.scope(Scope::LINK) } else { route });
        }
    }
    routes
}

/// The shim, made if it is not there.
fn ensure(sandbox: &Sandbox, plan: &Plan, parent: &Parent) -> Result<Link> {
    let (host, network) = (sandbox.host(), sandbox.request.network.name());
    let name = shim_name(network, &parent.link.name);
    if let Some(shim) = link::find(host, &name).map_err(kernel)? {
        if !plan.kind.matches(&shim) || shim.link != Some(parent.link.index) {
            return Err(Error::internal(format!(
                "join the host shim {name}: it is of another kind or mode, or on another parent: the network was changed while containers are attached to it: detach them first"
            )));
        }
        // One that a killed ADD left half made, or that somebody took something from.
        let present = addr::list(host, None, Some(shim.index)).map_err(kernel)?;
        let is_there = |ip: &IpAddr| present.iter().any(|addr| addr.ip() == *ip);
        if !shim.is_up() || !plan.addresses.iter().all(is_there) {
            dress(sandbox, plan, &shim)?;
        }
        return Ok(shim);
    }
    let made = match plan.kind {
        Kind::Macvlan => MacvlanSpec {
            name: &name,
            parent: parent.link.index,
            mode: MacvlanMode::Bridge,
            mac: Some(shim_mac(network, &parent.link)),
            mtu: None,
            broadcast_queue_len: None,
            namespace: None,
        }
        .create(host),
        Kind::Ipvlan(mode) => {
            IpvlanSpec { name: &name, parent: parent.link.index, mode, mtu: None, namespace: None }
                .create(host)
        }
    };
    let shim = made
        .and_then(|()| link::get(host, &name))
        .map_err(|e| kernel(e.context("join the host shim")))?;
    match dress(sandbox, plan, &shim) {
        Ok(()) => Ok(shim),
        Err(error) => Err(match link::delete(host, shim.index) {
            Ok(()) => error,
            Err(undo) => error.with_details(format!("undo: {undo}")),
        }),
    }
}

/// Alias, settings, addresses, up.
fn dress(sandbox: &Sandbox, plan: &Plan, shim: &Link) -> Result<()> {
    let host = sandbox.host();
    link::set_alias(host, shim.index, &shim_alias(sandbox.request.network.name()))
        .map_err(kernel)?;
    let name = shim.name.as_str();
    sandbox.in_home(|| {
        // It answers only to whom the host reaches by it, so that hosts outside
        // keep to the parent. It takes no address and no route out of router
        // advertisements, and waits for nobody with its link-local address.
        set_if_there(&["net", "ipv4", "conf", name, "arp_filter"], "1")?;
        for (key, value) in [
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("accept_dad", "0"),
            ("dad_transmits", "0"),
            ("router_solicitation_delay", "0"),
        ] {
            set_if_there(&["net", "ipv6", "conf", name, key], value)?;
        }
        match plan.must_not_ask() {
            true => ask_nobody(name),
            false => Ok(()),
        }
    })?;
    let addresses = plan.addresses.iter().map(|ip| Addr::new(shim.index, only(*ip)).nodad());
    let mut messages: Vec<_> = addresses.map(|addr| addr.replace_message()).collect();
    messages.push(link::Change::new(shim.index).up().message());
    host.batch(messages).map_err(|e| kernel(e.context(format_args!("set up host shim {name}"))))
}

/// Has the host ask no neighbour by broadcast, also when one does not answer; it goes on
/// to ask that one by its Ethernet address, which else would be forgotten for good when
/// the parent had no carrier for some seconds. Where the kernel drops what it knows
/// whenever that is so (before Linux 5.16), a container would then be out of reach until
/// it speaks, and the host asks.
fn ask_nobody(name: &str) -> Result<()> {
    let set = |key: &str, value: &str| set_if_there(&["net", "ipv4", "neigh", name, key], value);
    match sysctl::write(&["net", "ipv4", "conf", name, "arp_evict_nocarrier"], "0") {
        Ok(_) => set("ucast_solicit", "1000000000").and_then(|()| set("mcast_solicit", "0")),
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(kernel(e)),
    }
}

/// In mode l2 a container's packets to a borrowed IPv4 address come in by the
/// parent; a strict filter of reverse paths wants them to come by the shim.
fn refuse_strict_reverse_path(
    sandbox: &Sandbox,
    plan: &Plan,
    parent: &Parent,
    ways: &[Way],
) -> Result<()> {
    let concerns = |way: &Way| way.from.is_ipv4() && plan.is_borrowed(way.from);
    if plan.kind != Kind::Ipvlan(IpvlanMode::L2) || !ways.iter().any(concerns) {
        return Ok(());
    }
    let name = parent.link.name.as_str();
    let strict = sandbox.in_home(|| {
        let value = |link: &str| {
            sysctl::read(&["net", "ipv4", "conf", link, "rp_filter"]).unwrap_or_default()
        };
        // The kernel takes the larger of the two; 1 is strict.
        Ok(value("all").max(value(name)) == "1")
    })?;
    match strict {
        false => Ok(()),
        true => Err(Error::internal(format!(
            "join the host shim: net.ipv4.conf.{name}.rp_filter is strict, and the host would drop what containers in mode l2 send to its address on {name}: give the shim hostShimAddresses, or use mode l3"
        ))),
    }
}

/// Takes away the routes whose mark `keep` does not, from the network's shims of
/// `kind`, and the shims that have none left.
fn prune(
    host: &Socket,
    home: &Namespace,
    network: &NetworkName,
    kind: &str,
    keep: impl Fn(u32) -> bool,
) -> Result<()> {
    let alias = shim_alias(network);
    let find = || {
        let mut shims = link::list_kind(host, kind).map_err(kernel)?;
        shims.retain(|link| link.alias.as_ref() == Some(&alias) || is_half_made(link));
        Ok::<_, Error>(shims)
    };
    if find()?.is_empty() {
        return Ok(());
    }
    let alone = Patience::default().alone(Of::Host(home), DOING);
    let prune_one = |shim: Link| {
        let marked = marked(host, &shim)?;
        if is_half_made(&shim) && (alone.is_none() || !marked.is_empty()) {
            return Ok(());
        }
        let (stay, go): (Vec<_>, Vec<_>) = marked.into_iter().partition(|(mark, _)| keep(*mark));
        if stay.is_empty() {
            return gone_is_fine(link::delete(host, shim.index));
        }
        for (_, route) in go {
            gone_is_fine(route::delete(host, &route))?;
            // The entry is then of who got the address after this one.
            if stay.iter().any(|(_, other)| other.dst == route.dst) {
                continue;
            }
            let (index, ip) = (shim.index, route.dst.ip());
            let entry = Neigh { index, ip, mac: None, state: 0, flags: 0 };
            gone_is_fine(neigh::delete(host, &entry))?;
        }
        Ok(())
    };
    Error::join(find()?.into_iter().filter_map(|shim| prune_one(shim).err()).collect())
}

/// The routes of attachments on a shim, with their marks.
fn marked(host: &Socket, shim: &Link) -> Result<Vec<(u32, Route)>> {
    let filter = Filter { family: None, table: None, oif: Some(shim.index) };
    let routes = route::list(host, filter).map_err(kernel)?;
    let with_mark = |route: Route| Some((route.priority.filter(|p| p & MARK != 0)?, route));
    Ok(routes.into_iter().filter_map(with_mark).collect())
}

/// Left by an ADD that was killed before it could say whose the link is. Nobody
/// is about to use it while one has the lock.
fn is_half_made(link: &Link) -> bool {
    let digits = link.name.strip_prefix("shim").unwrap_or_default();
    link.alias.is_none() && digits.len() == 11 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn gone_is_fine(outcome: linux::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if !e.is_not_found() => Err(kernel(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
