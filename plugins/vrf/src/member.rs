//! Membership: the container's link as a port of the VRF, and what is routed by
//! it.
//!
//! Like `ip link set eth0 master blue`. The kernel takes a link down and up again
//! when it joins or leaves a VRF (`cycle_netdev`, drivers/net/vrf.c at v6.12), by
//! which its routes are lost, but for those that come with its addresses, and its
//! IPv6 addresses too, unless `keep_addr_on_down` is set. They are brought back in
//! the same send, so that there is no moment to be killed at when they are gone:
//! routes of the main table in that of the VRF, all others where they were. On the
//! way out it is the other way round.

use crate::device::Device;
use attach::kernel;
use attach::undo::Undo;
use cni::{Error, Request, Result};
use linux::addr::{self, Addr, AddrFlags};
use linux::link::{self, Change, Link};
use linux::monitor::{Group, Monitor};
use linux::route::{self, Filter, Route, RouteKind, RouteProtocol, Scope, TABLE_LOCAL, TABLE_MAIN};
use linux::{Family, Socket};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Makes the link a port of the VRF.
///
/// # Errors
/// The kernel's.
pub(crate) fn join<'r>(
    socket: &'r Socket,
    undo: &mut Undo<'r, ()>,
    link: &'r Link,
    vrf: &Device,
) -> Result<()> {
    let passage = Passage::new(Carried::of(socket, link)?, TABLE_MAIN, vrf.table);
    let back = passage.clone().back();
    undo.push("take the link out of the VRF", move |()| transfer(socket, link, None, &back));
    transfer(socket, link, Some(vrf), &passage)
}

/// The link is a port of the VRF.
///
/// # Errors
/// It is not there, or of another master, or of none.
pub(crate) fn verify(socket: &Socket, request: &Request, vrf: &Device) -> Result<Link> {
    let (name, vrf_name) = (request.ifname.as_str(), &vrf.name);
    let fail = |why: &str| {
        Err(Error::internal(format!(
            "check {name}: failed to find {name} associated to vrf {vrf_name}: {why}"
        )))
    };
    match link::find(socket, name).map_err(kernel)? {
        None => fail("the link is gone"),
        Some(link) if link.master != Some(vrf.index) => fail("it is no port of it"),
        Some(link) => Ok(link),
    }
}

/// Takes the link out of the VRF.
///
/// Like `ip link set eth0 nomaster`.
///
/// # Errors
/// The kernel's.
pub(crate) fn leave(socket: &Socket, link: &Link, vrf: &Device) -> Result<()> {
    transfer(socket, link, None, &Passage::new(Carried::of(socket, link)?, vrf.table, TABLE_MAIN))
}

/// Waits until the addresses of a link that is in the VRF are in use.
///
/// # Errors
/// The kernel's.
pub(crate) fn settle(socket: &Socket, link: &Link, vrf: &Device) -> Result<()> {
    let addresses = addr::list(socket, Some(Family::V6), Some(link.index)).map_err(kernel)?;
    let known = addresses.iter().filter(|addr| {
        link.is_up() && addr.flags.contains(AddrFlags::PERMANENT) && addr.scope != Scope::LINK
    });
    let used = known.filter(|addr| !addr.is_tentative() && !addr.is_duplicate());
    wait_in_use(socket, vrf.table, used.map(|addr| addr.ip()).collect()).map_err(kernel)
}

/// What a link loses when it is taken down, and nobody else brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Carried {
    addresses: Vec<Addr>,
    /// Those on the link itself first: gateways are behind them.
    routes: Vec<Route>,
}

impl Carried {
    fn of(socket: &Socket, link: &Link) -> Result<Carried> {
        let failed =
            |e: linux::Error| kernel(e.context(format_args!("carry over what {} has", link.name)));
        let addresses = addr::list(socket, Some(Family::V6), Some(link.index)).map_err(failed)?;
        let on_link = Filter { oif: Some(link.index), ..Filter::default() };
        let routes = route::list(socket, on_link).map_err(failed)?;
        Ok(Carried::choose(link.index, addresses, routes))
    }

    /// What has a lifetime comes from routers, and comes again; what belongs to an
    /// address comes with it; a route by several links is not this one's.
    fn choose(index: u32, mut addresses: Vec<Addr>, mut routes: Vec<Route>) -> Carried {
        addresses.retain(|addr| addr.flags.contains(AddrFlags::PERMANENT));
        routes.retain(|route| {
            route.kind == RouteKind::UNICAST
                && route.table != TABLE_LOCAL
                && ![RouteProtocol::KERNEL, RouteProtocol::RA].contains(&route.protocol)
                && route.next_hops.iter().all(|hop| hop.oif == index)
        });
        let (behind, mut routes): (Vec<_>, Vec<_>) = routes
            .into_iter()
            .partition(|route| route.gateway.is_some() || !route.next_hops.is_empty());
        routes.extend(behind);
        Carried { addresses, routes }
    }

    /// The routes of one table in another.
    fn moved(mut self, from: u32, to: u32) -> Carried {
        for route in self.routes.iter_mut().filter(|route| route.table == from) {
            route.table = to;
        }
        self
    }
}

/// What a link has, and what it is to have on the other side.
#[derive(Clone)]
struct Passage {
    before: Carried,
    after: Carried,
}

impl Passage {
    fn new(before: Carried, from: u32, to: u32) -> Passage {
        Passage { after: before.clone().moved(from, to), before }
    }

    fn back(self) -> Passage {
        Passage { before: self.after, after: self.before }
    }
}

/// Moves the link into a VRF, or out of the one it is in.
fn transfer(socket: &Socket, link: &Link, into: Option<&Device>, passage: &Passage) -> Result<()> {
    let failed = |e: linux::Error| kernel(e.context(format_args!("configure {}", link.name)));
    let Carried { addresses, routes } = &passage.after;
    let change = Change::new(link.index);
    let change = match into {
        Some(vrf) => change.master(vrf.index),
        None => change.no_master(),
    };
    // The kernel makes link-local addresses itself, unless somebody wrote them down.
    let (own, global): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|addr| addr.scope == Scope::LINK);
    // Known to be unique once, they need not be asked about again; said before the
    // link goes down and, where they are lost by that, after.
    let known = || global.iter().filter(|addr| !addr.is_tentative() && !addr.is_duplicate());
    let unasked = || known().map(|addr| (*addr).clone().nodad().replace_message());
    let mut messages: Vec<_> = unasked().collect();
    let at = messages.len();
    messages.push(change.message());
    messages.extend(unasked());
    messages.extend(routes.iter().map(Route::append_message));
    // As they were, and those that are still being asked about.
    let asked = global.iter().filter(|addr| !addr.flags.contains(AddrFlags::NODAD));
    messages.extend(asked.map(|addr| addr.replace_message()));
    messages.extend(own.iter().map(|addr| addr.add_message()));

    let mut outcomes = socket.batch_each(messages).map_err(failed)?;
    if let Err(error) = outcomes.swap_remove(at) {
        // It has stayed where it was, with all it has there.
        let strays = routes.iter().filter(|route| !passage.before.routes.contains(route));
        let strays: Vec<_> = strays.map(Route::delete_message).collect();
        let errors = [Err(error), socket.batch(strays)].into_iter().filter_map(|o| o.err());
        return Error::join(errors.map(failed).collect());
    }
    let refused = |outcome: linux::Result<()>| outcome.err().filter(|e| !e.is_exists());
    if let Some(error) = outcomes.into_iter().find_map(refused) {
        return Err(failed(error));
    }
    let used = known().map(|addr| addr.ip()).filter(|_| link.is_up());
    wait_in_use(socket, into.map_or(TABLE_LOCAL, |vrf| vrf.table), used.collect()).map_err(failed)
}

/// The longest wait for the kernel to use addresses that nobody is asked about: it
/// does so at once, unless all processors are busy.
const IN_USE_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the kernel takes packets for IPv6 addresses: it does so a moment
/// after they were added (`addrconf_dad_work`, net/ipv6/addrconf.c at v6.12), by a
/// route in the table that is the link's for local addresses.
fn wait_in_use(socket: &Socket, table: u32, ips: Vec<IpAddr>) -> linux::Result<()> {
    let filter = Filter { family: Some(Family::V6), table: Some(table), oif: None };
    let is_done = || {
        let routes = route::list(socket, filter)?;
        let is_used = |ip: &IpAddr| {
            routes.iter().any(|route| route.kind == RouteKind::LOCAL && route.dst.ip() == *ip)
        };
        Ok(ips.iter().all(is_used))
    };
    if ips.is_empty() || is_done()? {
        return Ok(());
    }
    let monitor = Monitor::open(&[Group::Ipv6Route])?;
    if is_done()? {
        return Ok(());
    }
    let waited =
        monitor.wait_until(Instant::now() + IN_USE_LIMIT, |_| Ok(is_done()?.then_some(())));
    waited.map_err(|e| e.operation(format!("wait until addresses {ips:?} are in use")))
}

#[cfg(test)]
mod tests;
