//! Addresses and routes of the container's link: what IPAM handed out, put to
//! use.
//!
//! | what | where | created by | removed by |
//! |---|---|---|---|
//! | addresses | container's link | [`configure`] | the kernel, with the link |
//! | routes | container | [`configure`] | the kernel, with the link |
//! | IPv6 sysctls of the link | container | [`configure`] | the kernel, with the link |

use crate::{connected, kernel, verify};
use cni::{Error, Result, Success};
use linux::addr::{self, Addr, AddrFlags};
use linux::monitor::{self, Group, Monitor, Settled};
use linux::route::{self, Filter, Route, RouteKind, Scope, TABLE_MAIN};
use linux::{Family, Socket, link, sysctl};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How the addresses may be trusted to be unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uniqueness {
    /// Who handed them out knows: they are used at once.
    Known,
    /// Neighbours are asked first (duplicate address detection), which takes
    /// a second or two of IPv6 addresses.
    Asked,
}

/// The longest wait for duplicate address detection. One probe takes up to 1 s
/// of random delay and 1 s of waiting (RFC 4862 section 5.4); a host may be
/// configured for more of them.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// The container's link while it is configured. All calls are made from the
/// container's namespace.
pub struct Target<'a> {
    /// The container's socket.
    pub socket: &'a Socket,
    /// The link's index.
    pub index: u32,
    /// The link's name.
    pub name: &'a str,
    /// Index of the link in [`Success::interfaces`].
    pub interface: i64,
}

impl Target<'_> {
    fn addresses<'s>(
        &self,
        success: &'s Success,
    ) -> impl Iterator<Item = ipnetwork::IpNetwork> + use<'s> {
        let interface = self.interface;
        success.ips.iter().filter(move |ip| ip.interface == Some(interface)).map(|ip| ip.address)
    }

    /// The first gateway of `family` among the addresses of the link.
    fn gateway(&self, success: &Success, family: Family) -> Option<IpAddr> {
        let mine = success.ips.iter().filter(|ip| ip.interface == Some(self.interface));
        mine.filter_map(|ip| ip.gateway).find(|gateway| Family::of(*gateway) == family)
    }
}

/// Puts the link's addresses on it, sets it up, and makes the routes: like
/// `ip addr add`, `ip link set up`, `ip route add`. The addresses come first,
/// so that `arp_notify` announces them when the link comes up.
///
/// # Errors
/// What the kernel refuses, naming the address or route; a duplicate address.
pub fn configure(target: &Target, success: &Success, uniqueness: Uniqueness) -> Result<()> {
    let dress = |addr: Addr| match uniqueness {
        Uniqueness::Known => addr.nodad(),
        Uniqueness::Asked => addr,
    };
    put(target, success, &dress, &[])
}

/// The same on a link with a single neighbour: nobody else can have the
/// addresses, and their subnets are not on the link, so that `first` are the
/// only routes beside the result's, and come before them. Like
/// `ip addr add .. nodad noprefixroute`.
///
/// # Errors
/// What the kernel refuses, naming the address or route.
pub fn configure_alone(target: &Target, success: &Success, first: &[Route]) -> Result<()> {
    put(target, success, &alone, first)
}

fn alone(addr: Addr) -> Addr {
    let mut addr = addr.nodad();
    addr.flags = addr.flags.with(AddrFlags::NOPREFIXROUTE);
    addr
}

fn put(
    target: &Target,
    success: &Success,
    dress: &dyn Fn(Addr) -> Addr,
    first: &[Route],
) -> Result<()> {
    let addresses: Vec<_> = target.addresses(success).collect();
    if addresses.iter().any(|net| net.is_ipv6()) {
        enable_ipv6(target.name)?;
    }
    let mut messages: Vec<_> =
        addresses.iter().map(|net| dress(Addr::new(target.index, *net)).add_message()).collect();
    messages.push(link::Change::new(target.index).up().message());
    target
        .socket
        .batch(messages)
        .map_err(|e| kernel(e.context(format_args!("configure {}", target.name))))?;
    let mut routes = first.to_vec();
    routes.extend(plan_routes(target, success)?);
    let last_first = rivals(&routes).into_iter().flat_map(|group| group.into_iter().rev());
    target
        .socket
        .batch(last_first.map(Route::prepend_message).collect::<Vec<_>>())
        .map_err(|e| kernel(e.context(format_args!("configure {}", target.name))))
}

/// The routes in groups of which a packet takes one. IPv4: among those to one
/// destination the kernel uses the first. What an attachment gets is put before what
/// others have, as the reference plugins have it, and stays in the order it is written
/// in. A group stands where its last route stands, behind what leads to its gateways.
/// IPv6: the kernel makes one route of them.
fn rivals(routes: &[Route]) -> Vec<Vec<&Route>> {
    let mut groups = Vec::new();
    for (at, last) in routes.iter().enumerate() {
        if !routes[at + 1..].iter().any(|later| are_rivals(later, last)) {
            let earlier = routes[..at].iter().filter(|route| are_rivals(route, last));
            groups.push(earlier.chain([last]).collect());
        }
    }
    groups
}

fn are_rivals(one: &Route, other: &Route) -> bool {
    let key = |route: &Route| (route.dst, route.table, route.priority.unwrap_or(0));
    one.dst.is_ipv4() && key(one) == key(other)
}

/// Puts back what is missing of the link's addresses and routes, like
/// [`configure`], and sets it up; what is there is not touched. The addresses
/// are known to be the link's own, so nobody is asked.
///
/// # Errors
/// What the kernel refuses, naming the address or route.
pub fn restore(target: &Target, success: &Success) -> Result<()> {
    put_back(target, success, &Addr::nodad, &[])
}

/// The same after [`configure_alone`].
///
/// # Errors
/// What the kernel refuses, naming the address or route.
pub fn restore_alone(target: &Target, success: &Success, first: &[Route]) -> Result<()> {
    put_back(target, success, &alone, first)
}

fn put_back(
    target: &Target,
    success: &Success,
    dress: &dyn Fn(Addr) -> Addr,
    first: &[Route],
) -> Result<()> {
    let failed = |e: linux::Error| kernel(e.context(format_args!("restore {}", target.name)));
    let present = addr::list(target.socket, None, Some(target.index)).map_err(failed)?;
    let mut missing: Vec<_> = target.addresses(success).collect();
    missing.retain(|net| !present.iter().any(|addr| addr.net == *net));
    if missing.iter().any(|net| net.is_ipv6()) {
        enable_ipv6(target.name)?;
    }
    let mut messages: Vec<_> =
        missing.iter().map(|net| dress(Addr::new(target.index, *net)).add_message()).collect();
    messages.push(link::Change::new(target.index).up().message());
    target.socket.batch(messages).map_err(failed)?;
    // A plugin behind this one may have put the link into a VRF, and waits itself.
    let vrf = verify::table_of_vrf(target.socket, target.name)?;
    if vrf.is_none() {
        wait_in_use(target.socket, missing.iter().map(|net| net.ip()))?;
    }
    // First: gateways are behind them. Those of what is missing came with it.
    let mut connected = connected::missing(target.socket, target.index, &present)?;
    connected.iter_mut().for_each(|route| route.table = vrf.unwrap_or(TABLE_MAIN));
    let connected = connected.iter().map(Route::append_message);
    target.socket.batch(connected.collect::<Vec<_>>()).map_err(failed)?;
    let mut routes = first.to_vec();
    routes.extend(plan_routes(target, success)?);
    let missing = verify::missing_routes(target.socket, target.name, &routes)?;
    if missing.is_empty() {
        return Ok(());
    }
    let in_place = |route: &Route| match vrf.filter(|_| route.table == TABLE_MAIN) {
        Some(table) => Route { table, ..route.clone() },
        None => route.clone(),
    };
    let missing: Vec<Route> = missing.into_iter().map(in_place).collect();
    let all = Filter { family: Some(Family::V4), table: None, oif: None };
    let present = route::list(target.socket, all).map_err(failed)?;
    // Where they were: behind those by links that came later, as their indices tell.
    let is_before =
        |other: &Route, route: &Route| are_rivals(other, route) && other.oif >= route.oif;
    let mut messages = Vec::new();
    for group in rivals(&missing) {
        match present.iter().any(|other| is_before(other, group[0])) {
            true => messages.extend(group.into_iter().map(Route::append_message)),
            false => messages.extend(group.into_iter().rev().map(Route::prepend_message)),
        }
    }
    target.socket.batch(messages).map_err(failed)
}

/// Takes all addresses from a link that stays, but for link-local ones.
///
/// Like `ip addr flush dev eth0 scope global`.
///
/// # Errors
/// The kernel's.
pub fn remove(socket: &Socket, index: u32) -> Result<()> {
    let mut present = addr::list(socket, None, Some(index)).map_err(kernel)?;
    present.retain(|addr| addr.scope != Scope::LINK);
    for addr in &present {
        match addr::delete(socket, addr) {
            // With the first address of a subnet the kernel removes its others.
            Err(e) if !e.is_not_found() => return Err(kernel(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Waits until neighbours had their chance to object to the IPv6 addresses.
/// Without carrier there is nobody to ask, and no wait.
///
/// # Errors
/// Names the address another host has, or one that is still undecided.
pub fn settle(target: &Target, success: &Success) -> Result<()> {
    if !target.addresses(success).any(|net| net.is_ipv6()) {
        return Ok(());
    }
    match monitor::wait_addrs_settled(target.socket, target.index, SETTLE_LIMIT) {
        Ok(Settled::All | Settled::NoCarrier) => Ok(()),
        Err(e) => Err(kernel(e.context(format_args!("configure {}", target.name)))),
    }
}

/// The longest wait for the kernel to finish what it does at once, unless all
/// processors are busy.
const IN_USE_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the kernel takes packets for the IPv6 addresses among `ips`, which
/// are known to be unique: it does so a moment after they were added
/// (`addrconf_dad_work`, net/ipv6/addrconf.c at v6.18). The thread must be in the
/// socket's namespace.
///
/// # Errors
/// Code 11 when it does not; the kernel's.
pub fn wait_in_use(socket: &Socket, ips: impl IntoIterator<Item = IpAddr>) -> Result<()> {
    let mut waiting: Vec<IpAddr> = ips.into_iter().filter(IpAddr::is_ipv6).collect();
    waiting.retain(|ip| !is_in_use(socket, *ip));
    if waiting.is_empty() {
        return Ok(());
    }
    let monitor = Monitor::open(&[Group::Ipv6Route]).map_err(kernel)?;
    waiting.retain(|ip| !is_in_use(socket, *ip));
    if waiting.is_empty() {
        return Ok(());
    }
    let waited = monitor.wait_until(Instant::now() + IN_USE_LIMIT, |_| {
        waiting.retain(|ip| !is_in_use(socket, *ip));
        Ok(waiting.is_empty().then_some(()))
    });
    waited
        .map_err(|e| kernel(e.context(format_args!("wait until addresses {waiting:?} are in use"))))
}

/// Whether packets to `ip` are for this host.
pub fn is_in_use(socket: &Socket, ip: IpAddr) -> bool {
    route::get(socket, ip).is_ok_and(|route| route.kind == RouteKind::LOCAL)
}

/// Runtimes create namespaces with IPv6 switched off (docker's default); an
/// IPv6 address in the result switches it on, on `lo` as well. Its addresses
/// survive the link going down and up again.
fn enable_ipv6(name: &str) -> Result<()> {
    for link in ["lo", name] {
        match sysctl::write(&["net", "ipv6", "conf", link, "disable_ipv6"], "0") {
            Ok(_) => {}
            Err(e) if e.is_not_found() && link == "lo" => {
                return Err(Error::internal(format!(
                    "configure {name}: the kernel has no IPv6, and the result has an IPv6 address"
                )));
            }
            Err(e) if e.is_not_found() => {
                return Err(Error::invalid_config(format!(
                    "configure {name}: IPv6 needs an mtu of 1280 bytes at least, and the result has an IPv6 address"
                )));
            }
            Err(e) => return Err(kernel(e)),
        }
    }
    sysctl::write(&["net", "ipv6", "conf", name, "keep_addr_on_down"], "1").map_err(kernel)?;
    Ok(())
}

/// The kernel's routes for those of the result.
pub(crate) fn plan_routes(target: &Target, success: &Success) -> Result<Vec<Route>> {
    success
        .routes
        .iter()
        .map(|route| {
            let family = Family::of(route.dst.ip());
            let number = |what: &str, value: i64| {
                u32::try_from(value).map_err(|_| {
                    Error::invalid_config(format!(
                        "add route to {}: {what} {value} is out of range",
                        route.dst
                    ))
                })
            };
            let given = |what: &str, value: i64| match value {
                0 => Ok(None),
                value => number(what, value).map(Some),
            };
            if route.gw.is_some_and(|gw| Family::of(gw) != family && family == Family::V6) {
                return Err(Error::invalid_config(format!(
                    "add route to {}: its gateway {} is of the other family",
                    route.dst,
                    route.gw.expect("just seen")
                )));
            }
            let scope = match route.scope {
                None => Scope::UNIVERSE,
                Some(scope) => Scope(u8::try_from(scope).map_err(|_| {
                    Error::invalid_config(format!(
                        "add route to {}: scope {scope} is out of range",
                        route.dst
                    ))
                })?),
            };
            let mut planned = Route::new(route.dst).dev(target.index).scope(scope);
            // Routes to what is on the link itself have no next hop.
            planned.gateway = route.gw.or_else(|| {
                if scope == Scope::UNIVERSE { target.gateway(success, family) } else { None }
            });
            planned.table = route
                .table
                .map(|t| number("table", t))
                .transpose()?
                .filter(|t| *t != 0)
                .unwrap_or(TABLE_MAIN);
            planned.priority = given("priority", route.priority)?;
            planned.mtu = given("mtu", route.mtu)?;
            planned.advmss = given("advmss", route.advmss)?;
            Ok(planned)
        })
        .collect()
}
