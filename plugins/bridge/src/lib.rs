//! **bridge**: containers on a Linux bridge, each through a veth pair.
//!
//! A container gets one end of a veth pair; the other end becomes a port of
//! the bridge, which is made when it is missing. With IPAM the container gets
//! addresses and routes; as a gateway the bridge gets the gateways' addresses
//! and the host forwards. Without IPAM it is a layer 2 network.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | bridge | host | `bridge` (`cni0`) | [`switch::ensure`] | stays; a failed ADD takes back one it made | yes |
//! | veth pair | both | `CNI_IFNAME`, `vethH..` from the attachment | [`attach::veth`] | DEL, GC | no |
//! | port flags, VLANs | host | of the veth's host end | [`port::configure`] | with the link | no |
//! | packet filter rules | host | from the attachment | [`attach::masquerade`], [`attach::spoof`] | DEL, GC | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the link | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//! | gateway addresses | bridge | from IPAM | [`gateway::ensure`] | stay with the bridge | yes |
//! | VLAN gateway | host | `<bridge>.<vlan>`, `veth..` | [`gateway::ensure`] | stays | yes |
//! | forwarding | host | sysctl | [`gateway::ensure`] | stays | yes |

mod conf;
mod filter;
mod foreseen;
mod gateway;
mod port;
mod switch;

use attach::ability;
use attach::addresses::{self, Target, Uniqueness};
use attach::backend::Netfilter;
use attach::forwarding::Forwarding;
use attach::ipam;
use attach::lock;
use attach::neighbours::set_if_there;
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{contained, kernel, verify, veth};
use cni::{AttachmentId, Error, Interface, Network, Plugin, Request, Result, Success, Version};
use conf::Plan;
use linux::link::Link;
use linux::{Socket, announce, link};
use port::Watch;
use std::net::IpAddr;

/// The plugin.
pub struct Bridge;

/// Index of the container's interface in the result: bridge, host end,
/// container end.
const CONTAINER: i64 = 2;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
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
        let netfilter = filter::open(&plan)?;
        let mut sandbox = Sandbox::open(request)?;
        if let Some(ipam) = &plan.ipam {
            ipam.check(&sandbox)?;
        }
        let at = verify::interface(request, &promised)?;
        let bridge = switch::verify(sandbox.host(), &plan, &promised)?;
        gateway::verify(sandbox.host(), &plan, &bridge, &promised)?;
        let container = verify::container_link(sandbox.enter()?, &promised.interfaces[at], "veth")?;
        verify::mtu(&container, &promised.interfaces[at])?;
        port::verify(sandbox.host(), &plan, &bridge, &container, &promised)?;
        filter::verify(netfilter.as_ref(), &plan, &sandbox, &container, &promised)?;
        if plan.container_up && !container.is_up() {
            return Err(Error::internal(format!("check {}: the link is down", container.name)));
        }
        let target = target(sandbox.enter()?, container.index, request, at as i64);
        verify::addresses_and_routes(&target, &promised)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network, &request.args)?;
        let promised = verify::prev_result(request)?;
        let at = verify::interface(request, &promised)?;
        let mut sandbox = Sandbox::open(request)?;
        undo::scope(&mut sandbox, |sandbox, undo| restore(sandbox, undo, &plan, &promised, at))
    }

    fn del(&self, request: &Request) -> Result<()> {
        let netfilter = Netfilter::open();
        let mut sandbox = Sandbox::open_if_there(request)?;
        let (link, rules) = attach::filter::remove_with_veth(&netfilter, &mut sandbox);
        // Last, and only when nothing carries the addresses any more.
        let leases = match &link {
            Ok(()) => ipam::release(&sandbox),
            Err(_) => Ok(()),
        };
        Error::all([link, rules, leases])
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let host = Socket::route().map_err(kernel)?;
        let links = veth::sweep(&host, network, &valid);
        let rules = attach::filter::sweep(&host, network, &valid);
        let leases = ipam::sweep(network);
        Error::all([links, rules, leases])
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::new(network, "")?;
        let host = Socket::route().map_err(kernel)?;
        switch::status(&host, &plan)?;
        veth::status(&host)?;
        if plan.container_up {
            ability::entering()?;
        }
        gateway::status(&host, &plan, network)?;
        if plan.is_gateway && plan.ipam.is_some() {
            Forwarding::status()?;
        }
        lock::verify_host()?;
        filter::status(&plan)?;
        ipam::status(network)
    }

    fn forget(&self, network: &Network, dead: &AttachmentId, address: IpAddr) -> Result<()> {
        attach::filter::forget(network, dead, address)
    }
}

/// ADD, once everything that can be refused without touching the host has
/// been.
fn attach<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Success> {
    let netfilter = filter::open(plan)?;
    let joining = switch::join(sandbox.home())?;
    let bridge = switch::ensure(sandbox, undo, plan)?;
    let spec = veth::Spec { mtu: plan.mtu, mac: plan.mac, master: Some(bridge.index) };
    let pair = undo.after(veth::create(sandbox, spec)?, "remove the veth pair", |sandbox, pair| {
        veth::remove_pair(sandbox, &pair)
    });
    drop(joining);
    port::configure(sandbox.host(), plan, pair.host)?;
    let mut success = match &plan.ipam {
        Some(ipam) => {
            let success = ipam.add(sandbox)?;
            let ipam = ipam.clone();
            undo.push("release the addresses", move |sandbox| ipam.take_back(sandbox));
            plan.complete(success, CONTAINER)
        }
        None => Success::default(),
    };
    // Not before IPAM: it refuses what is attached already, whose rules these are.
    if netfilter.is_some() {
        // Before the rules: those of two families are not made at once.
        undo.push("remove the packet filter rules", attach::filter::undo);
    }
    filter::check_mac(netfilter.as_ref(), plan, sandbox, &pair)?;
    filter::masquerade(netfilter.as_ref(), plan, sandbox.request, &success)?;
    let forwarding = gateway::forwarding(plan, &success)?;
    let watch = Watch::open(pair.host)?;
    if plan.container_up {
        configure_container(sandbox, plan, &pair, &watch, &success)?;
    }
    let now = switch::now(sandbox.host(), &bridge)?;
    let vlan_link = gateway::ensure(sandbox, plan, &bridge, &success, forwarding)?;
    if plan.container_up {
        // Only now: before the port forwards, announcements go nowhere. Without
        // CAP_NET_RAW the neighbours learn by asking.
        let addresses = success.ips.iter().map(|ip| ip.address.ip());
        let _ = announce::send(sandbox.container()?, pair.container, pair.container_mac, addresses);
    }
    let container = Link { mac: Some(pair.container_mac), ..Link::default() };
    success.interfaces = vec![
        on_host(&bridge.name, mac_text(&now)),
        on_host(&pair.host_name, pair.host_mac.to_string()),
        contained::interface(sandbox.request, &container, plan.mtu),
    ];
    success.interfaces.extend(vlan_link);
    if let Some(dns) = &plan.dns {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// RESTORE: all that can be gone while the pair is there, which is interface `at`
/// of the result.
fn restore<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    promised: &Success,
    at: usize,
) -> Result<()> {
    let request = sandbox.request;
    veth::restore_pair(sandbox.host(), request, promised)?;
    let netfilter = filter::open(plan)?;
    // On the host first: its commands and sysctls are out of reach later.
    if let (Some(masquerade), Some(netfilter)) = (&plan.masquerade, &netfilter) {
        masquerade.restore(netfilter, request, promised)?;
    }
    let joining = switch::join(sandbox.home())?;
    let bridge = switch::restore(sandbox, undo, plan, promised)?;
    let forwarding = gateway::forwarding(plan, promised)?;
    gateway::ensure(sandbox, plan, &bridge, promised, forwarding)?;
    let container = verify::container_link(sandbox.enter()?, &promised.interfaces[at], "veth")?;
    let port = port::restore(sandbox.host(), plan, &bridge, &container)?;
    drop(joining);
    filter::restore_mac_check(netfilter.as_ref(), plan, sandbox, &port, &container)?;
    if !plan.container_up {
        return Ok(());
    }
    let target = target(sandbox.container()?, container.index, request, at as i64);
    addresses::restore(&target, promised)
}

/// Addresses, routes and state of the container's end. From here on the thread
/// is in the container.
fn configure_container(
    sandbox: &mut Sandbox,
    plan: &Plan,
    pair: &veth::Pair,
    watch: &Watch,
    success: &Success,
) -> Result<()> {
    sandbox.enter()?;
    let (request, host) = (sandbox.request, sandbox.host());
    let target = target(sandbox.container()?, pair.container, request, CONTAINER);
    if plan.ipam.is_none() {
        link::set_up(target.socket, target.index).map_err(kernel)?;
        return watch.wait_until_forwarding(host);
    }
    let asked = success.ips.iter().any(|ip| ip.address.is_ipv6()) && {
        set_duplicate_detection(target.name, plan.uniqueness)?;
        plan.uniqueness == Uniqueness::Asked
    };
    if asked {
        // A question asked before the port forwards goes nowhere.
        link::set_up(target.socket, target.index).map_err(kernel)?;
        watch.wait_until_forwarding(host)?;
    }
    addresses::configure(&target, success, plan.uniqueness)?;
    if asked {
        addresses::settle(&target, success)?;
    }
    watch.wait_until_forwarding(host)
}

/// `enabledad`: ask the neighbours, and recognise our own question when the
/// bridge sends it back (RFC 7527). Otherwise the addresses are unique.
fn set_duplicate_detection(name: &str, uniqueness: Uniqueness) -> Result<()> {
    let set = |key: &str, value: &str| set_if_there(&["net", "ipv6", "conf", name, key], value);
    match uniqueness {
        Uniqueness::Known => set("accept_dad", "0"),
        Uniqueness::Asked => set("enhanced_dad", "1").and_then(|()| set("accept_dad", "1")),
    }
}

fn target<'a>(socket: &'a Socket, index: u32, request: &'a Request, interface: i64) -> Target<'a> {
    Target { socket, index, name: request.ifname.as_str(), interface }
}

fn on_host(name: &str, mac: String) -> Interface {
    Interface { name: name.to_owned(), mac, ..Interface::default() }
}

/// A link's address as results write it.
fn mac_text(link: &Link) -> String {
    link.mac.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string()).unwrap_or_default()
}
