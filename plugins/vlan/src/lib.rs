//! **vlan**: containers in an 802.1Q VLAN of a link of the host.
//!
//! The container gets a VLAN link on the parent, a link of the host (or, with
//! `linkInContainer`, of the container), and stands on that VLAN as if it had a
//! cable there. A VLAN of a parent can be given to one container only: the
//! kernel has one link for it.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | the VLAN link | container | `CNI_IFNAME` | [`create`] | DEL, or with the namespace | no |
//! | its alias | container | `oxcni:..` | [`attach::contained`] | with the link | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the link | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |

mod conf;
mod holder;

use attach::contained::{self, Birth};
use attach::parent::{self, Child, Parent, Place};
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{kernel, verify};
use cni::{Error, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::link::{Link, LinkInfo, VlanSpec};

/// The plugin.
pub struct Vlan;

/// The kernel's name for the kind of link.
const KIND: &str = "vlan";

impl Plugin for Vlan {
    fn name(&self) -> &'static str {
        "vlan"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let plan = Plan::new(&request.network)?;
        let mut sandbox = Sandbox::open(request)?;
        undo::scope(&mut sandbox, |sandbox, undo| attach(sandbox, undo, &plan))
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network)?;
        let promised = verify::prev_result(request)?;
        let mut sandbox = Sandbox::open(request)?;
        plan.ipam.check(&sandbox)?;
        let at = verify::interface(request, &promised)?;
        let link = verify::container_link(sandbox.enter()?, &promised.interfaces[at], KIND)?;
        parent::find(&sandbox, &plan.parent, plan.place)?.verify(&sandbox, &link)?;
        verify_id(&link, plan.id)?;
        verify::link_state(&link, &promised.interfaces[at])?;
        let target = contained::target(sandbox.container()?, &link, request, at as i64);
        verify::addresses_and_routes(&target, &promised)?;
        plan.disable_ipv6_when_unused.verify(target.name, &promised)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network)?;
        let mut sandbox = Sandbox::open(request)?;
        contained::restore(&mut sandbox, KIND, plan.disable_ipv6_when_unused).map(drop)
    }

    fn del(&self, request: &Request) -> Result<()> {
        contained::del(request, KIND)
    }

    fn gc(&self, network: &Network) -> Result<()> {
        contained::gc(network)
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::new(network)?;
        // No container, no parent in it.
        if plan.place == Place::Host {
            parent::status(&plan.parent, plan.mtu, Child::Vlan)?;
        }
        plan.place.status(KIND)?;
        plan.ipam.status(network)
    }
}

/// ADD, once everything that can be refused without touching the host has been.
fn attach<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Success> {
    sandbox.enter()?;
    let parent = parent::find(sandbox, &plan.parent, plan.place)?;
    parent.check_mtu(plan.mtu)?;
    parent.check_up()?;
    let link = create(sandbox, undo, plan, &parent)?;
    let mut success = contained::lease(sandbox, undo, &plan.ipam, KIND)?;
    let target = contained::target(sandbox.container()?, &link, sandbox.request, 0);
    plan.disable_ipv6_when_unused.apply(target.name, &success)?;
    contained::configure(&target, &success)?;
    success.interfaces = vec![contained::interface(sandbox.request, &link, plan.mtu)];
    if let Some(dns) = &plan.dns {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// The VLAN link in the container.
///
/// Like `ip link add eth0 link PARENT netns N type vlan id 5`.
fn create<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    parent: &Parent,
) -> Result<Link> {
    let make = |Birth { socket, name, namespace }: Birth| {
        let (id, mtu) = (plan.id, plan.mtu);
        VlanSpec { name, parent: parent.link.index, id, mtu, namespace }.create(socket)
    };
    contained::create(sandbox, undo, KIND, parent.place, make, |error| {
        // The name is free.
        if !error.is_exists() {
            return parent.refused(error, sandbox, Child::Vlan);
        }
        let holder = holder::find(sandbox, parent, plan.id)
            .unwrap_or_else(|| "a link in another network namespace".to_owned());
        kernel(error.hint(format!(
            "VLAN {} of {} is already used by {holder}: a VLAN of a link can be in one container only",
            plan.id, parent.link.name
        )))
    })
}

fn verify_id(link: &Link, promised: u16) -> Result<()> {
    match link.info {
        LinkInfo::Vlan { id, .. } if id == promised => Ok(()),
        LinkInfo::Vlan { id, .. } => Err(Error::internal(format!(
            "check {}: its VLAN ID is {id}, promised was {promised}",
            link.name
        ))),
        _ => Err(Error::internal(format!("check {}: it has no VLAN ID", link.name))),
    }
}
