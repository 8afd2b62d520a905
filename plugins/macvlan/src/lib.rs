//! **macvlan**: containers with Ethernet addresses of their own on a link of the
//! host.
//!
//! The container gets a macvlan on the parent, a link of the host (or, with
//! `linkInContainer`, of the container), and stands on the parent's network as
//! if it had a cable there. With IPAM it gets addresses and routes; without, it
//! is a layer 2 network. Host and containers do not reach each other over the
//! parent; `hostShim` changes that.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | the macvlan | container | `CNI_IFNAME` | [`create`] | DEL, or with the namespace | no |
//! | its alias | container | `oxcni:..` | [`attach::contained`] | with the link | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the link | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//! | the host's shim, routes on it | host | `shimH..` | [`attach::shim`] | DEL of the last, GC | by the network's attachments |
//!
//! The parent is the user's. Only in mode passthru it takes the Ethernet address
//! that is asked for, and gets its own back from the kernel with the link.

mod conf;

use attach::contained::{self, Birth};
use attach::ipam;
use attach::parent::{self, Child, Parent, Place};
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{kernel, lock, shim, verify};
use cni::{Error, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::link::{self, Link, LinkInfo, Mac, MacvlanMode, MacvlanSpec};

/// The plugin.
pub struct Macvlan;

/// The kernel's name for the kind of link.
const KIND: &str = "macvlan";

impl Plugin for Macvlan {
    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let plan = Plan::new(&request.network, &request.args)?;
        let mut sandbox = Sandbox::open(request)?;
        undo::scope(&mut sandbox, |sandbox, undo| attach(sandbox, undo, &plan))
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network, &request.args)?;
        let promised = verify::prev_result(request)?;
        let mut sandbox = Sandbox::open(request)?;
        if let Some(ipam) = &plan.ipam {
            ipam.check(&sandbox)?;
        }
        let at = verify::interface(request, &promised)?;
        let link = verify::container_link(sandbox.enter()?, &promised.interfaces[at], KIND)?;
        let parent = parent::find(&sandbox, &plan.parent, plan.place)?;
        parent.verify(&sandbox, &link)?;
        verify_mode(&link, plan.mode)?;
        verify::link_state(&link, &promised.interfaces[at])?;
        let target = contained::target(sandbox.container()?, &link, request, at as i64);
        verify::addresses_and_routes(&target, &promised)?;
        plan.disable_ipv6_when_unused.verify(target.name, &promised)?;
        plan.shim
            .as_ref()
            .map_or(Ok(()), |shim| shim::verify(&sandbox, shim, &parent, &link, &promised))
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network, &request.args)?;
        let mut sandbox = Sandbox::open(request)?;
        let (link, promised) =
            contained::restore(&mut sandbox, KIND, plan.disable_ipv6_when_unused)?;
        let Some(shim) = &plan.shim else { return Ok(()) };
        let parent = parent::find(&sandbox, &plan.parent, plan.place)?;
        parent.verify(&sandbox, &link)?;
        shim::join(&sandbox, shim, &parent, &link, &promised)
    }

    fn del(&self, request: &Request) -> Result<()> {
        shim::del(request, KIND)
    }

    fn gc(&self, network: &Network) -> Result<()> {
        shim::gc(network, KIND)
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::new(network, "")?;
        // No container, no parent in it.
        if plan.place == Place::Host {
            parent::status(&plan.parent, plan.mtu, child(plan.mode))?;
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
) -> Result<Success> {
    sandbox.enter()?;
    let parent = parent::find(sandbox, &plan.parent, plan.place)?;
    parent.check_mtu(plan.mtu)?;
    let link = create(sandbox, undo, plan, &parent)?;
    let link = take_over_address(sandbox, plan, link)?;
    let mut success = match &plan.ipam {
        Some(ipam) => contained::lease(sandbox, undo, ipam, KIND)?,
        None => Success::default(),
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

/// The macvlan in the container.
///
/// Like `ip link add eth0 link PARENT netns N type macvlan mode bridge`.
fn create<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    parent: &Parent,
) -> Result<Link> {
    let is_passthru = plan.mode == MacvlanMode::Passthru;
    // In passthru it has its parent's to begin with.
    let mac = (!is_passthru).then(|| plan.mac.unwrap_or_else(Mac::random));
    let make = |Birth { socket, name, namespace }: Birth| {
        let spec = MacvlanSpec {
            name,
            parent: parent.link.index,
            mode: plan.mode,
            mac,
            mtu: plan.mtu,
            broadcast_queue_len: plan.broadcast_queue_len,
            namespace,
        };
        spec.create(socket)
    };
    contained::create(sandbox, undo, KIND, parent.place, make, |error| {
        parent.refused(error, sandbox, child(plan.mode))
    })
}

/// What it is to its parent.
fn child(mode: MacvlanMode) -> Child {
    if mode == MacvlanMode::Passthru { Child::Passthru } else { Child::Macvlan }
}

/// Passthru: an address that is asked for becomes the parent's as well, until
/// the link goes (`macvlan_port_destroy`, drivers/net/macvlan.c at v6.18).
fn take_over_address(sandbox: &Sandbox, plan: &Plan, mut link: Link) -> Result<Link> {
    if let (MacvlanMode::Passthru, Some(mac)) = (plan.mode, plan.mac) {
        link::set_mac(sandbox.container()?, link.index, mac).map_err(kernel)?;
        link.mac = Some(mac);
    }
    Ok(link)
}

fn verify_mode(link: &Link, promised: MacvlanMode) -> Result<()> {
    let name = match promised {
        MacvlanMode::Bridge => "bridge",
        MacvlanMode::Private => "private",
        MacvlanMode::Vepa => "vepa",
        MacvlanMode::Passthru => "passthru",
    };
    match link.info {
        LinkInfo::Macvlan { mode } if mode == Some(promised) => Ok(()),
        _ => Err(Error::internal(format!(
            "check {}: it is not in mode {name}, as promised",
            link.name
        ))),
    }
}
