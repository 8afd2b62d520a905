//! What CHECK compares: the previous result against the container. Nothing is
//! changed; the first thing that is not as promised is named.

use crate::addresses::{Target, plan_routes};
use crate::{connected, kernel};
use cni::{Error, Request, Result, Success};
use linux::link::{self, Link, LinkInfo};
use linux::route::{Filter, Route};
use linux::rule::{self, Rule};
use linux::{Namespace, Socket, addr, route};

/// The result of the ADD, which CHECK cannot do without.
///
/// # Errors
/// Code 7 when the runtime sent none.
pub fn prev_result(request: &Request) -> Result<Success> {
    request
        .prev_result()?
        .ok_or_else(|| Error::invalid_config("check the attachment: Required prevResult missing"))
}

/// The index of the container's link in the result's interfaces.
///
/// # Errors
/// The result has no such interface, or in another namespace.
pub fn interface(request: &Request, success: &Success) -> Result<usize> {
    let ifname = request.ifname.as_str();
    let named = |sandboxed: bool| {
        move |i: &cni::Interface| i.name == ifname && i.sandbox.is_empty() != sandboxed
    };
    let at = success.interfaces.iter().rposition(named(true)).ok_or_else(|| {
        let place = if success.interfaces.iter().any(named(false)) {
            "only on the host"
        } else {
            "not at all"
        };
        Error::internal(format!("check {ifname}: prevResult has it {place}"))
    })?;
    let (sandbox, given) = (&success.interfaces[at].sandbox, request.sandbox());
    if *sandbox != given && !same_namespace(sandbox, &given) {
        return Err(Error::internal(format!(
            "check {ifname}: prevResult has it in {sandbox}, CNI_NETNS is {given}"
        )));
    }
    Ok(at)
}

/// Two paths, as `/run/netns/x` and `/var/run/netns/x`, can be one namespace.
fn same_namespace(one: &str, other: &str) -> bool {
    match (Namespace::open(one), Namespace::open(other)) {
        (Ok(one), Ok(other)) => one.id() == other.id(),
        _ => false,
    }
}

/// The container's link: there, of `kind`, with the promised address.
///
/// # Errors
/// Names what is not so.
pub fn container_link(socket: &Socket, promised: &cni::Interface, kind: &str) -> Result<Link> {
    let name = &promised.name;
    let Some(link) = link::find(socket, name).map_err(kernel)? else {
        return Err(Error::internal(format!(
            "check {name}: the link is gone from {}",
            promised.sandbox
        )));
    };
    if !link.is_kind(kind) {
        let is = link.kind.as_deref().unwrap_or("physical or loopback");
        return Err(Error::internal(format!("check {name}: it is a {is} link, not {kind}")));
    }
    mac(&link, promised)?;
    Ok(link)
}

/// `link` is up and has the promised MTU, if one was.
///
/// # Errors
/// Names what is not so.
pub fn link_state(link: &Link, promised: &cni::Interface) -> Result<()> {
    match link.is_up() {
        true => mtu(link, promised),
        false => Err(Error::internal(format!("check {}: the link is down", link.name))),
    }
}

/// `link` has the MTU that the result reports of it, if it does: by then another
/// plugin of the chain may have changed what the configuration asked for.
///
/// # Errors
/// Names both, in bytes.
pub fn mtu(link: &Link, promised: &cni::Interface) -> Result<()> {
    match promised.mtu {
        0 => Ok(()),
        mtu if mtu == i64::from(link.mtu) => Ok(()),
        mtu => Err(Error::internal(format!(
            "check {}: its mtu is {}, promised was {mtu}",
            link.name, link.mtu
        ))),
    }
}

/// `link` has the address `promised`, if one was.
///
/// # Errors
/// Names both addresses.
pub fn mac(link: &Link, promised: &cni::Interface) -> Result<()> {
    let is = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    match promised.mac.is_empty() || promised.mac.eq_ignore_ascii_case(&is) {
        true => Ok(()),
        false => Err(Error::internal(format!(
            "check {}: its MAC is {is}, promised was {}",
            link.name, promised.mac
        ))),
    }
}

/// The link's addresses and the container's routes.
///
/// # Errors
/// Names the first address or route that is missing or different.
pub fn addresses_and_routes(target: &Target, success: &Success) -> Result<()> {
    let name = target.name;
    let present = addr::list(target.socket, None, Some(target.index)).map_err(kernel)?;
    let mut found = Vec::new();
    for promised in
        success.ips.iter().filter(|ip| ip.interface.is_none_or(|i| i == target.interface))
    {
        let address = promised.address;
        match present.iter().find(|addr| addr.net == address) {
            None => {
                return Err(Error::internal(format!("check {name}: address {address} is missing")));
            }
            Some(addr) if addr.is_duplicate() => {
                return Err(Error::internal(format!(
                    "check {name}: another host has address {address} as well"
                )));
            }
            Some(addr) => found.push(addr.clone()),
        }
    }
    if let Some(missing) = connected::missing(target.socket, target.index, &found)?.first() {
        return Err(Error::internal(format!(
            "check {name}: route {}, which came with an address, is missing",
            describe(missing)
        )));
    }
    routes(target.socket, name, &plan_routes(target, success)?)
}

/// Routes of the socket's namespace that belong to the link called `name`.
///
/// # Errors
/// Names the first that is missing or different.
pub fn routes(socket: &Socket, name: &str, promised: &[Route]) -> Result<()> {
    match missing_routes(socket, name, promised)?.first() {
        None => Ok(()),
        Some(missing) => {
            Err(Error::internal(format!("check {name}: route {} is missing", describe(missing))))
        }
    }
}

/// Those of `promised` that are not there.
pub(crate) fn missing_routes<'a>(
    socket: &Socket,
    name: &str,
    promised: &'a [Route],
) -> Result<Vec<&'a Route>> {
    if promised.is_empty() {
        return Ok(Vec::new());
    }
    let present =
        route::list(socket, Filter { family: None, table: None, oif: None }).map_err(kernel)?;
    let is_missing = |promised: &Route| !present.iter().any(|route| fulfils(route, promised));
    let mut missing: Vec<_> = promised.iter().filter(|promised| is_missing(promised)).collect();
    if missing.is_empty() {
        return Ok(missing);
    }
    let mut tables = tables_of_addresses(socket)?;
    tables.extend(table_of_vrf(socket, name)?);
    let is_nowhere = |route: &&Route| {
        let is_in = |&table: &u32| !is_missing(&Route { table, ..(*route).clone() });
        route.table != route::TABLE_MAIN || !tables.iter().any(is_in)
    };
    missing.retain(is_nowhere);
    Ok(missing)
}

/// The tables that single source addresses are looked up in: a plugin behind the
/// one that made a route may have moved it there.
fn tables_of_addresses(socket: &Socket) -> Result<Vec<u32>> {
    let rules = rule::list(socket, None).map_err(kernel)?;
    let is_address = |rule: &&Rule| rule.src.is_some_and(|src| src.prefix() == rule.family.bits());
    Ok(rules.iter().filter(is_address).filter_map(|rule| rule.table).collect())
}

/// The table of the VRF the link is in: a plugin behind the one that made a route
/// may have put link and route there.
pub(crate) fn table_of_vrf(socket: &Socket, name: &str) -> Result<Option<u32>> {
    let Some(master) = link::find(socket, name).map_err(kernel)?.and_then(|link| link.master)
    else {
        return Ok(None);
    };
    match link::get_by_index(socket, master).map_err(kernel)?.info {
        LinkInfo::Vrf { table } => Ok(Some(table)),
        _ => Ok(None),
    }
}

fn fulfils(route: &Route, promised: &Route) -> bool {
    let way = match &route.next_hops[..] {
        [] => route.gateway == promised.gateway && route.oif == promised.oif,
        hops => {
            hops.iter().any(|hop| hop.gateway == promised.gateway && Some(hop.oif) == promised.oif)
        }
    };
    let given = |promised: Option<u32>, is: Option<u32>| promised.is_none() || promised == is;
    way && route.dst == promised.dst
        && route.table == promised.table
        && given(promised.priority, route.priority)
        && given(promised.mtu, route.mtu)
        && given(promised.advmss, route.advmss)
}

fn describe(route: &Route) -> String {
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let table = if route.table == route::TABLE_MAIN {
        String::new()
    } else {
        format!(" in table {}", route.table)
    };
    format!("to {}{via}{table}", route.dst)
}
