//! Another hardware address for a link in use.

use super::{Change, Link, Mac, set_mac};
use crate::addr::{self, Addr, AddrFlags};
use crate::error::Result;
use crate::family::Family;
use crate::neigh::{self, Neigh};
use crate::netlink::Socket;
use crate::route::{self, Filter, Route, RouteKind, RouteProtocol, Scope};

/// `ip link set dev .. address`, keeping the neighbours set by hand, which the
/// kernel forgets with the old address (`neigh_changeaddr`,
/// net/core/neighbour.c at v6.18). Where the driver takes another address only
/// from a link that is down, by [`set_mac_at_rest`].
///
/// # Errors
///
/// Those of both.
pub fn set_mac_and_keep_routes(socket: &Socket, link: &Link, mac: Mac) -> Result<()> {
    let neighbours = neighbours(socket, link.index)?;
    match set_mac(socket, link.index, mac) {
        Ok(()) => restore_neighbours(socket, &neighbours),
        // `eth_prepare_mac_addr_change`, net/ethernet/eth.c at v6.18
        Err(error) if error.is_busy() && link.is_up() => set_mac_at_rest(socket, link.index, mac),
        Err(error) => Err(error),
    }
}

/// Sets a link that is up down, changes its address, sets it up again, and puts
/// back what the kernel dropped meanwhile: IPv6 addresses, routes, and
/// neighbours set by hand. Like
/// `ip link set dev L down && ip link set dev L address M && ip link set dev L up`
/// between two `ip route save` and `restore`.
///
/// What the kernel makes by itself it makes anew: the link-local address, routes
/// to subnets, and what routers advertise.
///
/// # Errors
///
/// Those of [`set_mac`]; then the link has its old address, and all that was on
/// it.
pub fn set_mac_at_rest(socket: &Socket, index: u32, mac: Mac) -> Result<()> {
    let on_link = OnLink::of(socket, index)?;
    // The kernel goes on after a refusal, so the link comes up in any case.
    let changes = [
        Change::new(index).down().message(),
        Change::new(index).mac(mac).message(),
        Change::new(index).up().message(),
    ];
    let changed = socket.batch(changes);
    let restored = on_link.restore(socket);
    changed.and(restored)
}

/// What is lost when a link goes down.
struct OnLink {
    index: u32,
    addresses: Vec<Addr>,
    routes: Vec<Route>,
    neighbours: Vec<Neigh>,
}

impl OnLink {
    fn of(socket: &Socket, index: u32) -> Result<OnLink> {
        let mut addresses = addr::list(socket, Some(Family::V6), Some(index))?;
        addresses.retain(|a| a.scope != Scope::LINK && a.flags.contains(AddrFlags::PERMANENT));
        for address in &mut addresses {
            // They have been found unique before.
            let kept = AddrFlags(address.flags.0 & AddrFlags::NOPREFIXROUTE.0);
            address.flags = kept.with(AddrFlags::NODAD);
        }
        let mut routes = route::list(socket, by(index))?;
        routes.retain(|route| {
            let made_anew = [RouteProtocol::KERNEL, RouteProtocol::RA].contains(&route.protocol);
            route.kind == RouteKind::UNICAST && !made_anew
        });
        Ok(OnLink { index, addresses, routes, neighbours: neighbours(socket, index)? })
    }

    fn restore(self, socket: &Socket) -> Result<()> {
        let mut messages: Vec<_> = self.addresses.iter().map(Addr::add_message).collect();
        let there = route::list(socket, by(self.index))?;
        // A gateway must be within reach when its route is added.
        for has_gateway in [false, true] {
            let lost = self.routes.iter().filter(|route| !there.contains(route));
            let lost = lost.filter(|route| route.gateway.is_some() == has_gateway);
            messages.extend(lost.map(Route::add_message));
        }
        let outcomes = socket.batch_each(messages)?;
        let failed = outcomes.into_iter().filter_map(Result::err).find(|e| !e.is_exists());
        failed.map_or(Ok(()), Err).and(restore_neighbours(socket, &self.neighbours))
    }
}

/// Those set by hand.
fn neighbours(socket: &Socket, index: u32) -> Result<Vec<Neigh>> {
    let mut neighbours = neigh::list(socket, None, Some(index))?;
    neighbours.retain(|neighbour| neighbour.state & Neigh::PERMANENT != 0);
    Ok(neighbours)
}

fn restore_neighbours(socket: &Socket, neighbours: &[Neigh]) -> Result<()> {
    neighbours.iter().try_for_each(|neighbour| neigh::replace(socket, neighbour))
}

fn by(index: u32) -> Filter {
    Filter { family: None, table: None, oif: Some(index) }
}
