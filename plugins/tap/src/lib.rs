//! **tap**: a TAP device in the container, for a virtual machine.
//!
//! A program in the container, such as a virtual machine monitor, opens the
//! device and is its other end. With IPAM the container's end gets addresses
//! and routes; without, it is a bare link. With `bridge` it becomes a port of
//! a bridge in the container.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | the TAP device | container | `CNI_IFNAME` | [`create`] | DEL, or with the namespace | no |
//! | its alias | container | `oxcni:..` | [`attach::contained`] | with the link | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the link | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//!
//! The bridge is the user's. The device is persistent: it stays when the
//! program ends, but not when the namespace does.

mod conf;

use attach::ipam;
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{ability, contained, kernel, verify};
use cni::{Error, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::Socket;
use linux::link::{self, Change, Link, LinkInfo, Mac};
use linux::tap::{self, TapSpec};

/// The plugin.
pub struct Tap;

/// The kernel's name for the kind of link; TUN devices are of it as well.
const KIND: &str = "tun";

impl Plugin for Tap {
    fn name(&self) -> &'static str {
        "tap"
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
        verify_device(&link, &plan)?;
        verify::link_state(&link, &promised.interfaces[at])?;
        let container = sandbox.container()?;
        if let Some(bridge) = &plan.bridge {
            verify_port(container, &link, bridge)?;
        }
        let target = contained::target(container, &link, request, at as i64);
        verify::addresses_and_routes(&target, &promised)?;
        plan.disable_ipv6_when_unused.verify(target.name, &promised)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network, &request.args)?;
        let mut sandbox = Sandbox::open(request)?;
        let (link, _) = contained::restore(&mut sandbox, KIND, plan.disable_ipv6_when_unused)?;
        match &plan.bridge {
            Some(bridge) => put_back_port(sandbox.container()?, &link, bridge),
            None => Ok(()),
        }
    }

    fn del(&self, request: &Request) -> Result<()> {
        contained::del(request, KIND)
    }

    fn gc(&self, network: &Network) -> Result<()> {
        contained::gc(network)
    }

    fn status(&self, network: &Network) -> Result<()> {
        Plan::new(network, "")?;
        tap::available().map_err(ability::unavailable)?;
        ability::containers()?;
        ipam::status(network)
    }
}

/// ADD, once everything that can be refused without touching the container has
/// been.
fn attach<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Success> {
    sandbox.enter()?;
    let bridge = match &plan.bridge {
        Some(name) => Some(find_bridge(sandbox.container()?, name)?.index),
        None => None,
    };
    create(sandbox, plan)?;
    undo.push("remove the tap device", |sandbox| contained::remove(sandbox, KIND));
    let link = set_up(sandbox, plan, bridge)?;
    contained::label(sandbox, &link)?;
    let mut success = match &plan.ipam {
        Some(ipam) => contained::lease(sandbox, undo, ipam, KIND)?,
        None => Success::default(),
    };
    let target = contained::target(sandbox.container()?, &link, sandbox.request, 0);
    plan.disable_ipv6_when_unused.apply(target.name, &success)?;
    contained::configure(&target, &success)?;
    success.interfaces = vec![contained::interface(sandbox.request, &link, plan.mtu)];
    if let Some(dns) = &plan.dns {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// The device in the container, under its final name.
///
/// Like `ip tuntap add dev eth0 mode tap user U group G`, from inside.
fn create(sandbox: &Sandbox, plan: &Plan) -> Result<()> {
    let request = sandbox.request;
    let spec = TapSpec {
        name: request.ifname.as_str(),
        owner: plan.owner,
        group: plan.group,
        multi_queue: plan.multi_queue,
        selinux_context: plan.selinux_context.as_deref(),
    };
    spec.create().map_err(|e| kernel(e.context(format_args!("in {}", request.sandbox()))))
}

/// Address, MTU and bridge of the device; gives it as it is then. The address
/// is set even when any would do, so that nobody else thinks it his to choose.
///
/// Like `ip link set dev eth0 address M mtu B master BR`.
fn set_up(sandbox: &Sandbox, plan: &Plan, bridge: Option<u32>) -> Result<Link> {
    let container = sandbox.container()?;
    let ifname = sandbox.request.ifname.as_str();
    let link = link::get(container, ifname).map_err(kernel)?;
    let mac = plan.mac.unwrap_or_else(Mac::random);
    let mut change = Change::new(link.index).mac(mac);
    if let Some(mtu) = plan.mtu {
        change = change.mtu(mtu);
    }
    if let Some(bridge) = bridge {
        change = change.master(bridge);
    }
    change.apply(container).map_err(|e| kernel(e.context(format_args!("configure {ifname}"))))?;
    Ok(Link { mac: Some(mac), ..link })
}

/// The bridge in the container.
fn find_bridge(container: &Socket, name: &str) -> Result<Link> {
    let wrong =
        |what: &str| Error::internal(format!("find bridge {name} in the container: {what}"));
    match link::find(container, name).map_err(kernel)? {
        None => Err(wrong("there is no such link: the bridge must be made before")),
        Some(link) if !link.is_kind("bridge") => Err(wrong("the link is no bridge")),
        Some(link) => Ok(link),
    }
}

/// CHECK: it is a TAP device, and for whom it was made.
fn verify_device(link: &Link, plan: &Plan) -> Result<()> {
    let wrong = |what: String| Err(Error::internal(format!("check {}: {what}", link.name)));
    let LinkInfo::Tap { owner, group, multi_queue, persistent } = link.info else {
        return wrong("it is no TAP device".to_owned());
    };
    for (what, is, promised) in [("owner", owner, plan.owner), ("group", group, plan.group)] {
        let text = |id: Option<u32>| id.map_or("nobody".to_owned(), |id| id.to_string());
        if is != promised {
            return wrong(format!("its {what} is {}, promised was {}", text(is), text(promised)));
        }
    }
    if multi_queue != plan.multi_queue {
        let has = if multi_queue { "several queues" } else { "one queue" };
        return wrong(format!("it has {has}, promised was otherwise"));
    }
    match persistent {
        true => Ok(()),
        false => wrong("it goes when the program that has it open ends".to_owned()),
    }
}

/// CHECK: it is a port of its bridge.
fn verify_port(container: &Socket, link: &Link, bridge: &str) -> Result<()> {
    match find_bridge(container, bridge)?.index {
        index if link.master == Some(index) => Ok(()),
        _ => Err(Error::internal(format!("check {}: it is no port of {bridge}", link.name))),
    }
}

/// RESTORE: makes it a port of its bridge where it is none. What somebody else has
/// made it a port of is his.
fn put_back_port(container: &Socket, link: &Link, bridge: &str) -> Result<()> {
    match (link.master, find_bridge(container, bridge)?.index) {
        (None, bridge) => link::set_master(container, link.index, bridge).map_err(kernel),
        (Some(_), _) => verify_port(container, link, bridge),
    }
}
