//! **vrf**: puts the container's interface into a routing domain of its own.
//!
//! Chained behind a plugin that made the interface, it makes it a port of a VRF
//! in the container: what comes in by it, and what is sent by sockets bound to
//! the VRF, is routed by a table that other interfaces have no part in. So two
//! interfaces may lead to networks with the same addresses.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | the VRF | container | `vrfname` | [`device::ensure`] | the DEL that leaves it without ports, or with the namespace | by the interfaces whose configuration names it |
//! | membership | container's link | the VRF | [`member::join`] | DEL | no |
//! | its routes | container, the VRF's table | the link | [`member::join`], in place of those in the main table | with the membership | no |
//!
//! Nothing of it outlives the namespace, so GC has nothing to look for.

mod conf;
mod device;
mod member;

use attach::addresses::Target;
use attach::chained;
use attach::lock::{self, Held, Of, Patience};
use attach::sandbox;
use attach::{ability, kernel, undo, verify};
use cni::{Error, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::link::{self, Link};
use linux::{Namespace, Socket};
use std::time::Duration;

/// The plugin.
pub struct Vrf;

/// How long an ADD waits for others, each of which takes some milliseconds, 20
/// when it removes a VRF.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// What the lock is for.
const DOING: &str = "use a VRF";

/// As upstream's.
const VERSIONS: &[Version] = &[Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

impl Plugin for Vrf {
    fn name(&self) -> &'static str {
        "vrf"
    }

    fn versions(&self) -> &'static [Version] {
        VERSIONS
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let result = chained::prev_result(request, "vrf")?;
        let plan = Plan::new(&request.network)?;
        let socket = sandbox::enter(request)?;
        let _alone = alone()?;
        let link = own_link(&socket, request)?;
        verify_free(&socket, &link, request, &plan)?;
        undo::scope(&mut (), |(), undo| {
            let vrf = device::ensure(&socket, undo, &plan)?;
            member::join(&socket, undo, &link, &vrf)
        })?;
        request.network.made([&plan.name]);
        Ok(result)
    }

    fn check(&self, request: &Request) -> Result<()> {
        let promised = verify::prev_result(request)?;
        let plan = Plan::new(&request.network)?;
        let socket = sandbox::enter(request)?;
        let vrf = device::verify(&socket, request, &plan)?;
        let link = member::verify(&socket, request, &vrf)?;
        // Results of other programs may leave the interface out.
        let Ok(at) = verify::interface(request, &promised) else { return Ok(()) };
        let target = Target {
            socket: &socket,
            index: link.index,
            name: request.ifname.as_str(),
            interface: at as i64,
        };
        verify::addresses_and_routes(&target, &promised)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        verify::prev_result(request)?;
        let plan = Plan::new(&request.network)?;
        let socket = sandbox::enter(request)?;
        let _alone = alone()?;
        let link = own_link(&socket, request)?;
        undo::scope(&mut (), |(), undo| {
            let vrf = device::ensure(&socket, undo, &plan)?;
            if link.master == Some(vrf.index) {
                return member::settle(&socket, &link, &vrf);
            }
            verify_free(&socket, &link, request, &plan)?;
            member::join(&socket, undo, &link, &vrf)
        })?;
        request.network.made([&plan.name]);
        Ok(())
    }

    fn del(&self, request: &Request) -> Result<()> {
        let Some(socket) = sandbox::enter_if_there(request)? else { return Ok(()) };
        let container = Namespace::current().map_err(kernel)?;
        let _alone = Patience::default().alone(Of::Container(&container), DOING);
        let link = link::find(&socket, request.ifname.as_str()).map_err(kernel)?;
        let Some(vrf) = device::left_by(&socket, &request.network, link.as_ref())? else {
            return Ok(());
        };
        let left = match link.filter(|link| link.master == Some(vrf.index)) {
            Some(link) => member::leave(&socket, &link, &vrf),
            None => Ok(()),
        };
        Error::all([left, device::remove_if_unused(&socket, &vrf.name)])?;
        request.network.removed([&vrf.name]);
        Ok(())
    }

    fn gc(&self, network: &Network) -> Result<()> {
        // The VRFs went with their namespaces.
        network.valid_attachments().map(drop)
    }

    fn status(&self, network: &Network) -> Result<()> {
        Plan::new(network)?;
        ability::links_in_containers("vrf")?;
        lock::verify_containers()
    }
}

/// Nobody joins a VRF between the look at its ports and its removal, and two
/// that choose a table see each other.
fn alone() -> Result<Held> {
    let container = Namespace::current().map_err(kernel)?;
    lock::alone(Of::Container(&container), DOING, LOCK_LIMIT)
}

fn own_link(socket: &Socket, request: &Request) -> Result<Link> {
    link::get(socket, request.ifname.as_str())
        .map_err(|e| kernel(e.context(format_args!("in {}", request.sandbox()))))
}

/// The link may become a port of the VRF.
fn verify_free(socket: &Socket, link: &Link, request: &Request, plan: &Plan) -> Result<()> {
    let name = request.ifname.as_str();
    let refuse = |text: String| {
        let vrf = &plan.name;
        Err(Error::internal(format!("put {name} into VRF {vrf} in {}: {text}", request.sandbox())))
    };
    if link.is_loopback() {
        return refuse("a loopback device cannot be in a VRF".to_owned());
    }
    let Some(master) = link.master else { return Ok(()) };
    let master = match link::get_by_index(socket, master) {
        Ok(master) => master.name,
        Err(_) => format!("the link with index {master}"),
    };
    refuse(format!("interface {name} has already a master set: {master}"))
}

#[cfg(test)]
mod tests;
