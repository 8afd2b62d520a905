//! **dummy**: a link in the container that leads nowhere, to carry addresses.
//!
//! It gives a container addresses of its own that do not depend on any network:
//! for services that bind to an address which something else routes to.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | the dummy link | container | `CNI_IFNAME` | [`create`] | DEL, or with the namespace | no |
//! | its alias | container | `oxcni:..` | [`attach::contained`] | with the link | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the link | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//!
//! Nobody is on the link: its addresses are used at once, and the kernel tells
//! nobody about them.

use attach::addresses::{self, Uniqueness};
use attach::contained::{self, Birth};
use attach::ipam::Ipam;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::parent::Place;
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{ability, dns, kernel, verify};
use cni::{Dns, Error, Network, Plugin, Request, Result, Success, Version};
use linux::link::{DummySpec, Link, Mac};
use serde::Deserialize;

/// The plugin.
pub struct Dummy;

/// The kernel's name for the kind of link.
const KIND: &str = "dummy";

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
}

/// What ADD makes and CHECK expects.
struct Plan {
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
    ipam: Ipam,
    /// Where IPAM gives none.
    dns: Option<Dns>,
}

impl Plan {
    fn new(network: &Network) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let ipam = Ipam::of(network)?.ok_or_else(|| {
            Error::invalid_config(
                "load network configuration: dummy interface requires an IPAM configuration: ipam.type is missing",
            )
        })?;
        Ok(Plan {
            disable_ipv6_when_unused: conf.disable_ipv6_when_unused,
            ipam,
            dns: dns::configured(network)?,
        })
    }
}

impl Plugin for Dummy {
    fn name(&self) -> &'static str {
        "dummy"
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
        ability::links_in_containers(KIND)?;
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
    let link = create(sandbox, undo)?;
    let mut success = contained::lease(sandbox, undo, &plan.ipam, KIND)?;
    let target = contained::target(sandbox.container()?, &link, sandbox.request, 0);
    plan.disable_ipv6_when_unused.apply(target.name, &success)?;
    addresses::configure(&target, &success, Uniqueness::Known)?;
    success.interfaces = vec![contained::interface(sandbox.request, &link, None)];
    if let (true, Some(dns)) = (success.dns.is_empty(), &plan.dns) {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// The link in the container.
///
/// Like `ip link add eth0 type dummy`, from inside.
fn create<'r>(sandbox: &Sandbox<'r>, undo: &mut Undo<'r, Sandbox<'r>>) -> Result<Link> {
    let mac = Mac::random();
    let make = |Birth { socket, name, .. }: Birth| {
        DummySpec { name, mac: Some(mac), mtu: None }.create(socket).map(drop)
    };
    contained::create(sandbox, undo, KIND, Place::Container, make, |error| {
        let error = error.context(format_args!("in {}", sandbox.request.sandbox()));
        kernel(ability::explain(error, sandbox.host(), KIND))
    })
}

#[cfg(test)]
mod tests;
