//! The VRF: a link in the container whose ports are routed by its table.
//!
//! Like `ip link add blue type vrf table 10`, `ip link set blue up`.

use crate::conf::{self, Plan};
use attach::kernel;
use attach::undo::Undo;
use cni::{Error, Network, Request, Result};
use linux::link::{self, Link, LinkInfo, VrfSpec};
use linux::route::{self, Filter, TABLE_LOCAL, TABLE_MAIN};
use linux::{Socket, rule};

/// A VRF that is there.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) table: u32,
    is_up: bool,
}

/// `RT_TABLE_DEFAULT` (include/uapi/linux/rtnetlink.h), which rules of every new
/// namespace name, as the main and the local one.
const TABLE_DEFAULT: u32 = 253;

impl Device {
    fn of(link: &Link) -> Option<Device> {
        let LinkInfo::Vrf { table } = link.info else { return None };
        Some(Device { name: link.name.clone(), index: link.index, table, is_up: link.is_up() })
    }
}

/// The VRF of the plan, made where there is none. One that is there already, with
/// the planned table if there is one, is joined as it is.
///
/// # Errors
/// Another link has the name, or the VRF another table; the kernel's.
pub(crate) fn ensure<'r>(
    socket: &'r Socket,
    undo: &mut Undo<'r, ()>,
    plan: &'r Plan,
) -> Result<Device> {
    let name = &plan.name;
    if let Some(link) = link::find(socket, name).map_err(kernel)? {
        let vrf = suitable(&link, plan, "use")?;
        if !vrf.is_up {
            link::set_up(socket, vrf.index).map_err(kernel)?;
        }
        return Ok(vrf);
    }
    let table = match plan.table {
        Some(table) => table,
        None => free_table(socket)?,
    };
    // The kernel may have made it when only its answer was lost.
    undo.push("remove the VRF", move |()| remove_if_unused(socket, name));
    let made = VrfSpec { name, table, up: true }.create(socket).map_err(|e| {
        let e = e.operation(format!("could not add VRF {name} with table {table}"));
        kernel(if e.is_unsupported() { e.hint("the kernel lacks the module vrf") } else { e })
    })?;
    Ok(Device { name: name.clone(), index: made.index, table, is_up: true })
}

/// The VRF of the plan is there, up, and has its table.
///
/// # Errors
/// Names what is not so.
pub(crate) fn verify(socket: &Socket, request: &Request, plan: &Plan) -> Result<Device> {
    let name = &plan.name;
    let doing = format!("check {}", request.ifname);
    let Some(link) = link::find(socket, name).map_err(kernel)? else {
        return Err(Error::internal(format!(
            "{doing}: VRF {name} is gone from {}",
            request.sandbox()
        )));
    };
    let vrf = suitable(&link, plan, &doing)?;
    match vrf.is_up {
        true => Ok(vrf),
        false => Err(Error::internal(format!("{doing}: VRF {name} is down"))),
    }
}

fn suitable(link: &Link, plan: &Plan, doing: &str) -> Result<Device> {
    let name = &plan.name;
    let Some(vrf) = Device::of(link) else {
        let kind = link.kind.as_deref().unwrap_or("physical or loopback");
        return Err(Error::internal(format!(
            "{doing} VRF {name}: Netlink {name} is not a VRF: it is a {kind} link"
        )));
    };
    match plan.table {
        Some(table) if table != vrf.table => Err(Error::internal(format!(
            "{doing} VRF {name}: VRF {name} already exist with different routing table {}, configured is {table}",
            vrf.table
        ))),
        _ => Ok(vrf),
    }
}

/// The VRF that a DEL takes its link out of: the one that the configuration
/// names; where it names none, the one that the link is in.
pub(crate) fn left_by(
    socket: &Socket,
    network: &Network,
    link: Option<&Link>,
) -> Result<Option<Device>> {
    let found = match (conf::name(network), link.and_then(|link| link.master)) {
        (Some(name), _) => link::find(socket, &name),
        (None, Some(master)) => link::get_by_index(socket, master).map(Some),
        (None, None) => Ok(None),
    };
    Ok(found.map_err(kernel)?.as_ref().and_then(Device::of))
}

/// Removes the VRF, unless it has ports. As upstream, whoever made it.
///
/// Like `ip link del blue`.
///
/// # Errors
/// The kernel's; that it is gone is none.
pub(crate) fn remove_if_unused(socket: &Socket, name: &str) -> Result<()> {
    let link = link::find(socket, name).map_err(kernel)?;
    let Some(vrf) = link.as_ref().and_then(Device::of) else { return Ok(()) };
    if !link::list_ports(socket, vrf.index).map_err(kernel)?.is_empty() {
        return Ok(());
    }
    match link::delete(socket, vrf.index) {
        Err(e) if !e.is_not_found() => Err(kernel(e.context(format_args!("remove VRF {name}")))),
        _ => Ok(()),
    }
}

/// The lowest number of a table that nobody uses: no VRF, no route, no rule.
fn free_table(socket: &Socket) -> Result<u32> {
    let mut used = vec![TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL];
    let vrfs = link::list_kind(socket, "vrf").map_err(kernel)?;
    used.extend(vrfs.iter().filter_map(Device::of).map(|vrf| vrf.table));
    let routes = route::list(socket, Filter::default()).map_err(kernel)?;
    used.extend(routes.iter().map(|route| route.table));
    let rules = rule::list(socket, None).map_err(kernel)?;
    used.extend(rules.iter().filter_map(|rule| rule.table));
    Ok(lowest_free(&used))
}

fn lowest_free(used: &[u32]) -> u32 {
    (1..).find(|table| !used.contains(table)).expect("no list holds four milliards of numbers")
}

#[cfg(test)]
mod tests;
