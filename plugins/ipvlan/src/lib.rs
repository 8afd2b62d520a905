//! **ipvlan**: containers that share the Ethernet address of a link of the host.
//!
//! The container gets an ipvlan on the parent, a link of the host (or, with
//! `linkInContainer`, of the container): for networks that allow one Ethernet
//! address a port. In mode l2 it stands on the parent's network; in l3 and l3s
//! the host routes. Chained, parent and addresses may come from the plugin
//! before. Host and containers do not reach each other over the parent;
//! `hostShim` changes that.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | the ipvlan | container | `CNI_IFNAME` | [`create`] | DEL, or with the namespace | no |
//! | its alias | container | `oxcni:..` | [`attach::contained`] | with the link | no |
//! | addresses, routes | container | from IPAM or the previous result | [`attach::addresses`] | with the link | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//! | the host's shim, routes on it | host | `shimH..` | [`attach::shim`] | DEL of the last, GC | by the network's attachments |
//!
//! The mode belongs to the parent: the kernel gives all its ipvlans that of the
//! one made last.

mod conf;

use attach::contained::{self, Birth};
use attach::ipam;
use attach::parent::{self, Child, Parent, Place};
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{lock, shim, verify};
use cni::{Error, Network, Plugin, Request, Result, Success, Version};
use conf::{Addresses, Plan, Sources};
use linux::link::{IpvlanMode, IpvlanSpec, Link, LinkInfo};

/// The plugin.
pub struct Ipvlan;

/// The kernel's name for the kind of link.
const KIND: &str = "ipvlan";

impl Plugin for Ipvlan {
    fn name(&self) -> &'static str {
        "ipvlan"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let plan = Plan::new(&request.network)?;
        let sources = Sources::new(&plan, request)?;
        let mut sandbox = Sandbox::open(request)?;
        undo::scope(&mut sandbox, |sandbox, undo| attach(sandbox, undo, &plan, sources))
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network)?;
        let promised = verify::prev_result(request)?;
        let mut sandbox = Sandbox::open(request)?;
        if let Some(ipam) = &plan.ipam {
            ipam.check(&sandbox)?;
        }
        let at = verify::interface(request, &promised)?;
        let link = verify::container_link(sandbox.enter()?, &promised.interfaces[at], KIND)?;
        let parent = promised_parent(&sandbox, &plan, &link)?;
        verify_mode(&link, plan.mode)?;
        verify::link_state(&link, &promised.interfaces[at])?;
        let target = contained::target(sandbox.container()?, &link, request, at as i64);
        verify::addresses_and_routes(&target, &promised)?;
        plan.disable_ipv6_when_unused.verify(target.name, &promised)?;
        match (&plan.shim, parent) {
            (None, _) => Ok(()),
            (Some(shim), Some(parent)) => shim::verify(&sandbox, shim, &parent, &link, &promised),
            (Some(_), None) => Err(no_parent_on_host(&link)),
        }
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network)?;
        let mut sandbox = Sandbox::open(request)?;
        let (link, promised) =
            contained::restore(&mut sandbox, KIND, plan.disable_ipv6_when_unused)?;
        let Some(shim) = &plan.shim else { return Ok(()) };
        let parent = promised_parent(&sandbox, &plan, &link)?;
        let parent = parent.ok_or_else(|| no_parent_on_host(&link))?;
        shim::join(&sandbox, shim, &parent, &link, &promised)
    }

    fn del(&self, request: &Request) -> Result<()> {
        shim::del(request, KIND)
    }

    fn gc(&self, network: &Network) -> Result<()> {
        shim::gc(network, KIND)
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::new(network)?;
        // One in a container is not there yet, and without a name it may come
        // from the plugin before.
        if plan.place == Place::Host && !plan.parent.is_empty() {
            parent::status(&plan.parent, plan.mtu, Child::Ipvlan)?;
        }
        plan.place.status(KIND)?;
        plan.shim.as_ref().map_or(Ok(()), |_| lock::verify_host())?;
        ipam::status(network)
    }
}

/// ADD, once everything that can be refused without touching the host has been.
fn attach<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    sources: Sources,
) -> Result<Success> {
    sandbox.enter()?;
    let parent = parent::find(sandbox, &sources.parent, plan.place)?;
    parent.check_mtu(plan.mtu)?;
    let link = create(sandbox, undo, plan, &parent)?;
    let mut success = match sources.addresses {
        Addresses::Ipam(ipam) => contained::lease(sandbox, undo, &ipam, KIND)?,
        Addresses::Previous(previous) => contained::adopt(previous),
    };
    let target = contained::target(sandbox.container()?, &link, sandbox.request, 0);
    plan.disable_ipv6_when_unused.apply(target.name, &success)?;
    contained::configure(&target, &success)?;
    if let Some(plan) = &plan.shim {
        undo.push("leave the host shim", |sandbox| shim::leave(sandbox, KIND));
        shim::join(sandbox, plan, &parent, &link, &success)?;
    }
    success.interfaces = vec![contained::interface(sandbox.request, &link, plan.mtu)];
    if let Some(dns) = &plan.dns {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// The ipvlan in the container.
///
/// Like `ip link add eth0 link PARENT netns N type ipvlan mode l2`.
fn create<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    parent: &Parent,
) -> Result<Link> {
    let make = |Birth { socket, name, namespace }: Birth| {
        let (mode, mtu) = (plan.mode, plan.mtu);
        IpvlanSpec { name, parent: parent.link.index, mode, mtu, namespace }.create(socket)
    };
    contained::create(sandbox, undo, KIND, parent.place, make, |error| {
        parent.refused(error, sandbox, Child::Ipvlan)
    })
}

/// The parent, which the link must stand on. One that came from the plugin
/// before, or the default route of that day, is known by no name; it is what the
/// link stands on now.
fn promised_parent(sandbox: &Sandbox, plan: &Plan, link: &Link) -> Result<Option<Parent>> {
    if !plan.parent.is_empty() {
        let parent = parent::find(sandbox, &plan.parent, plan.place)?;
        return parent.verify(sandbox, link).map(|()| Some(parent));
    }
    parent::below(sandbox, link, plan.place)
}

fn no_parent_on_host(link: &Link) -> Error {
    Error::internal(format!(
        "check {}: its parent is not on the host, and the host shim needs it there",
        link.name
    ))
}

fn verify_mode(link: &Link, promised: IpvlanMode) -> Result<()> {
    let name = match promised {
        IpvlanMode::L2 => "l2",
        IpvlanMode::L3 => "l3",
        IpvlanMode::L3s => "l3s",
    };
    match link.info {
        LinkInfo::Ipvlan { mode } if mode == Some(promised) => Ok(()),
        _ => Err(Error::internal(format!(
            "check {}: it is not in mode {name}, as promised: the last ADD on its parent decides for all",
            link.name
        ))),
    }
}
