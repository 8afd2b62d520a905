//! **ptp**: a wire from the host to the container, a veth pair and nothing else.
//!
//! The container gets one end with the addresses of IPAM, the host the other
//! with the addresses of their gateways; the host routes. Containers reach each
//! other and the world through it, and never meet on a shared network.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | veth pair | both | `CNI_IFNAME`, `vethH..` from the attachment | [`attach::veth`] | DEL, GC | no |
//! | gateway addresses, a link-local one | host end | from IPAM, its Ethernet address | [`routes::make_on_host`] | with the link | no |
//! | routes to the container | host | its addresses | [`routes::make_on_host`] | with the link | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the link | no |
//! | masquerading rules | host | from the attachment | [`attach::masquerade`] | DEL, GC | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//! | forwarding | host | sysctl | [`attach::forwarding`] | stays | yes |
//!
//! Nobody but the two ends is on the wire, so no address is asked for before it
//! is used, and none is announced.

mod conf;
mod routes;

use attach::ability;
use attach::addresses::{self, Target};
use attach::backend::Netfilter;
use attach::forwarding::Forwarding;
use attach::ipam;
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{contained, filter, kernel, mtu, verify, veth};
use cni::{AttachmentId, Error, Interface, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::{Socket, link};
use std::net::IpAddr;

/// The plugin.
pub struct Ptp;

/// Index of the container's interface in the result: host end, container end.
const CONTAINER: i64 = 1;

impl Plugin for Ptp {
    fn name(&self) -> &'static str {
        "ptp"
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
        if let Some(masquerade) = &plan.masquerade {
            masquerade.verify(&Netfilter::open()?, request, &promised)?;
        }
        let mut sandbox = Sandbox::open(request)?;
        plan.ipam.check(&sandbox)?;
        let at = verify::interface(request, &promised)?;
        Forwarding::needed(promised.ips.iter().map(|ip| ip.address.ip()))?.verify()?;
        let container = verify::container_link(sandbox.enter()?, &promised.interfaces[at], "veth")?;
        verify::link_state(&container, &promised.interfaces[at])?;
        let end = veth::verify_host_end(sandbox.host(), &container, &promised)?;
        routes::verify_on_host(sandbox.host(), &promised, &end)?;
        let target = target(sandbox.container()?, container.index, request, at as i64);
        verify::addresses_and_routes(&target, &promised)?;
        let own = routes::of_container(&promised, container.index);
        verify::routes(target.socket, target.name, &own)?;
        plan.disable_ipv6_when_unused.verify(target.name, &promised)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network)?;
        let promised = verify::prev_result(request)?;
        let at = verify::interface(request, &promised)?;
        let mut sandbox = Sandbox::open(request)?;
        veth::restore_pair(sandbox.host(), request, &promised)?;
        if let Some(masquerade) = &plan.masquerade {
            masquerade.restore(&Netfilter::open()?, request, &promised)?;
        }
        let forwarding = Forwarding::needed(promised.ips.iter().map(|ip| ip.address.ip()))?;
        let container = verify::container_link(sandbox.enter()?, &promised.interfaces[at], "veth")?;
        let end = veth::host_end(sandbox.host(), &container)?;
        routes::restore_on_host(sandbox.host(), &promised, &end)?;
        let target = target(sandbox.container()?, container.index, request, at as i64);
        let own = routes::of_container(&promised, container.index);
        plan.disable_ipv6_when_unused.apply(target.name, &promised)?;
        addresses::restore_alone(&target, &promised, &own)?;
        routes::wait_on_host(&sandbox, &promised)?;
        forwarding.switch_on(&sandbox)
    }

    fn del(&self, request: &Request) -> Result<()> {
        let netfilter = Netfilter::open();
        let mut sandbox = Sandbox::open_if_there(request)?;
        let (link, rules) = filter::remove_with_veth(&netfilter, &mut sandbox);
        // Last, when nothing carries the addresses any more.
        let lease = ipam::release(&sandbox);
        Error::all([link, rules, lease])
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let host = Socket::route().map_err(kernel)?;
        let links = veth::sweep(&host, network, &valid);
        let rules = filter::sweep(&host, network, &valid);
        let leases = ipam::sweep(network);
        Error::all([links, rules, leases])
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::new(network)?;
        veth::status(&Socket::route().map_err(kernel)?)?;
        ability::entering()?;
        Forwarding::status()?;
        if let Some(masquerade) = &plan.masquerade {
            masquerade.status(&Netfilter::open()?)?;
        }
        plan.ipam.status(network)
    }

    fn forget(&self, network: &Network, dead: &AttachmentId, address: IpAddr) -> Result<()> {
        filter::forget(network, dead, address)
    }
}

/// ADD, once everything that can be refused without touching the host has been.
fn attach<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Success> {
    let (given, ipam) = (plan.ipam.add(sandbox)?, plan.ipam.clone());
    undo.push("release the addresses", move |sandbox| ipam.take_back(sandbox));
    let mut success = conf::complete(given, CONTAINER)?;
    mtu::verify_room(plan.mtu, &success)?;
    if let Some(masquerade) = &plan.masquerade {
        // Before the rules: those of two families are not made at once.
        undo.push("remove the packet filter rules", filter::undo);
        masquerade.ensure(&Netfilter::open()?, sandbox.request, &success)?;
    }
    let forwarding = Forwarding::needed(success.ips.iter().map(|ip| ip.address.ip()))?;
    let spec = veth::Spec { mtu: plan.mtu, ..veth::Spec::default() };
    let pair = undo.after(veth::create(sandbox, spec)?, "remove the veth pair", |sandbox, pair| {
        veth::remove_pair(sandbox, &pair)
    });
    routes::make_on_host(sandbox.host(), &success, &pair)?;
    configure_container(sandbox, plan, &pair, &success)?;
    routes::wait_on_host(sandbox, &success)?;
    forwarding.switch_on(sandbox)?;
    let container = link::Link { mac: Some(pair.container_mac), ..link::Link::default() };
    success.interfaces = vec![
        Interface { name: pair.host_name, mac: pair.host_mac.to_string(), ..Interface::default() },
        contained::interface(sandbox.request, &container, plan.mtu),
    ];
    if let Some(dns) = &plan.dns {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// Addresses, routes and state of the container's end. From here on the thread
/// is in the container.
fn configure_container(
    sandbox: &mut Sandbox,
    plan: &Plan,
    pair: &veth::Pair,
    success: &Success,
) -> Result<()> {
    let request = sandbox.request;
    let target = target(sandbox.enter()?, pair.container, request, CONTAINER);
    plan.disable_ipv6_when_unused.apply(target.name, success)?;
    let first = routes::of_container(success, pair.container);
    addresses::configure_alone(&target, success, &first)?;
    addresses::wait_in_use(target.socket, success.ips.iter().map(|ip| ip.address.ip()))
}

fn target<'a>(socket: &'a Socket, index: u32, request: &'a Request, interface: i64) -> Target<'a> {
    Target { socket, index, name: request.ifname.as_str(), interface }
}
