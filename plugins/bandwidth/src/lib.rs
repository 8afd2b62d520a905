//! **bandwidth**: limits the rate of what a container sends and receives.
//!
//! Chained behind a plugin that made the interface, it has the kernel delay what
//! exceeds a rate, after a burst that may be faster, and drop what would have to
//! wait too long. A veth pair is shaped at its host end, which the container
//! cannot reach; any other link in the container.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | token bucket for what leaves by the link | host, or container | root qdisc `1:` of the link | [`bucket`] | DEL, GC, or with the link | no |
//! | ifb, with a token bucket | host, or container | `bwpH` from network and container | [`ifb`] | DEL, GC, or with the namespace | no |
//! | its alias | host, or container | the mark of the attachment | [`ifb`] | with the ifb | no |
//! | redirection of what comes in by the link | host, or container | a filter at ingress qdisc `ffff:` | [`redirect`] | DEL, GC, or with the link | no |
//!
//! Nothing else says where an attachment is shaped: DEL looks on both sides. GC knows
//! an ifb by its alias, and a host end by that which the plugin gave it that made it.
//! A token bucket has no room for a name: it is ours on a link that leads to our ifb,
//! or with the numbers that the configuration makes.

mod bucket;
mod conf;
mod ifb;
mod place;
mod redirect;

use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{ability, chained, kernel, verify, veth};
use cni::{Attachments, Error, Interface, Network, Plugin, Request, Result, Success, Version};
use conf::{Limit, Plan};
use ifb::Container;
use linux::link::{IfbSpec, Link};
use linux::{Socket, tc};
use place::{Place, Side};

/// The plugin.
pub struct Bandwidth;

/// Results before 0.3.0 have no interfaces; upstream has none for them either.
const VERSIONS: &[Version] =
    &[Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

impl Plugin for Bandwidth {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn versions(&self) -> &'static [Version] {
        VERSIONS
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let mut result = chained::prev_result(request, "bandwidth")?;
        let Some(plan) = Plan::of(&request.network)? else { return Ok(result) };
        let mut sandbox = Sandbox::open(request)?;
        let ifb = undo::scope(&mut sandbox, |sandbox, undo| shape(sandbox, undo, &plan))?;
        request.network.made(ifb.iter().map(|ifb| &ifb.name));
        result.interfaces.extend(ifb);
        Ok(result)
    }

    fn check(&self, request: &Request) -> Result<()> {
        verify::prev_result(request)?;
        let Some(plan) = Plan::of(&request.network)? else { return Ok(()) };
        let mut sandbox = Sandbox::open(request)?;
        check(&mut sandbox, &plan)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let promised = verify::prev_result(request)?;
        let Some(plan) = Plan::of(&request.network)? else { return Ok(()) };
        restore(&mut Sandbox::open(request)?, &plan, &promised)
    }

    fn del(&self, request: &Request) -> Result<()> {
        let mut sandbox = Sandbox::open_if_there(request)?;
        remove(&mut sandbox, known_plan(&request.network).as_ref())
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        sweep(&Socket::route().map_err(kernel)?, network, &valid)
    }

    fn status(&self, network: &Network) -> Result<()> {
        Plan::of(network)?;
        let host = Socket::route().map_err(kernel)?;
        ability::containers()?;
        if !tc::knows(&host, bucket::KIND).map_err(ability::unavailable)? {
            return Err(Error::not_available(
                "shape traffic: the kernel lacks tbf (CONFIG_NET_SCH_TBF)",
            ));
        }
        ability::links(&host, ifb::KIND)
    }
}

/// The limits for what leaves by a link, and for what comes in by it.
fn limits(plan: &Plan, side: Side) -> (Option<Limit>, Option<Limit>) {
    match side {
        Side::Host => (plan.to_container, plan.from_container),
        Side::Container => (plan.from_container, plan.to_container),
    }
}

/// Makes everything; answers the ifb's entry in the result, if there is one.
fn shape<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Option<Interface>> {
    let request = sandbox.request;
    let place = place::find(sandbox)?;
    let Place { side, index, mtu, .. } = place;
    let socket = side.socket(sandbox)?;
    let what = place.describe(request.ifname.as_str());
    let (leaving, coming) = limits(plan, side);
    if [leaving, coming].iter().flatten().any(|limit| limit.drops_large_packets(mtu)) {
        attach::notice(&format!(
            "shape {what}: the burst is less than a packet of its MTU of {mtu} bytes: such packets will be dropped"
        ));
    }
    if let Some(limit) = leaving {
        bucket::expect_none(socket, index, &what)?;
        undo.push("remove the token bucket", move |sandbox: &mut Sandbox| {
            bucket::remove(side.socket(sandbox)?, index)
        });
        bucket::add(socket, index, &limit.bucket(mtu), &what)?;
        request.network.made([&place.name]);
    }
    let Some(limit) = coming else { return Ok(None) };
    let name = ifb::free_name(socket, request, &place)?;
    let named = name.clone();
    undo.push("remove the ifb", move |sandbox: &mut Sandbox| {
        ifb::take_back(side.socket(sandbox)?, &named)
    });
    let spec = IfbSpec { name: &name, mtu: Some(mtu), ..IfbSpec::default() };
    let ifb = ifb::create(socket, request, spec, &limit.bucket(mtu))?;
    let to = ifb.index;
    undo.push("remove the redirection", move |sandbox: &mut Sandbox| {
        redirect::remove(side.socket(sandbox)?, index, to)
    });
    redirect::create(socket, &place, to, &what)?;
    Ok(Some(interface(request, side, &ifb)))
}

fn interface(request: &Request, side: Side, ifb: &Link) -> Interface {
    Interface {
        name: ifb.name.clone(),
        mac: ifb.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        sandbox: match side {
            Side::Host => String::new(),
            Side::Container => request.sandbox(),
        },
        ..Interface::default()
    }
}

fn check(sandbox: &mut Sandbox, plan: &Plan) -> Result<()> {
    let request = sandbox.request;
    let place = place::find(sandbox)?;
    let socket = place.side.socket(sandbox)?;
    let what = place.describe(request.ifname.as_str());
    let (leaving, coming) = limits(plan, place.side);
    if let Some(limit) = leaving {
        bucket::verify(socket, place.index, &limit, &place, &what)?;
    }
    if let Some(limit) = coming {
        let ifb = ifb::verify(socket, request, &place)?;
        redirect::verify(socket, &place, ifb.index, &what)?;
        bucket::verify(socket, ifb.index, &limit, &place, &ifb.name)?;
    }
    Ok(())
}

/// RESTORE: what is missing of [`shape`]. A DEL finds what it made so far, and so
/// does the next RESTORE.
fn restore(sandbox: &mut Sandbox, plan: &Plan, promised: &Success) -> Result<()> {
    let request = sandbox.request;
    let place = place::find(sandbox)?;
    let socket = place.side.socket(sandbox)?;
    let what = place.describe(request.ifname.as_str());
    let (leaving, coming) = limits(plan, place.side);
    if let Some(limit) = leaving {
        bucket::ensure(socket, place.index, &limit, &place, &what)?;
        request.network.made([&place.name]);
    }
    let Some(limit) = coming else { return Ok(()) };
    let ifb = match ifb::find(socket, request, Container::There(Some(&place)))?.pop() {
        Some(ifb) => {
            bucket::ensure(socket, ifb.index, &limit, &place, &ifb.name)?;
            ifb::dress(socket, request, &ifb)?;
            ifb
        }
        None => {
            let name = &ifb::free_name(socket, request, &place)?;
            let mac = ifb::promised_mac(promised, name);
            let spec = IfbSpec { name, mac, mtu: Some(place.mtu), ..IfbSpec::default() };
            ifb::create(socket, request, spec, &limit.bucket(place.mtu))?
        }
    };
    redirect::ensure(socket, &place, ifb.index, &what)?;
    request.network.made([&ifb.name]);
    Ok(())
}

/// The limits as far as DEL and GC can know them: a bad edit hides them, and a
/// runtime need not say again what it said to ADD.
fn known_plan(network: &Network) -> Option<Plan> {
    Plan::of(network).ok().flatten()
}

/// Removes what the attachment has, upstream's included, on either side.
fn remove(sandbox: &mut Sandbox, plan: Option<&Plan>) -> Result<()> {
    let place = place::find_if_there(sandbox);
    let (place, failed) = match place {
        Ok(place) => (place, None),
        Err(e) => (None, Some(e)),
    };
    let mut errors: Vec<Error> = failed.into_iter().collect();
    let is_there = sandbox.container().is_ok();
    for side in [Side::Host, Side::Container] {
        // Nobody has been there if there is no namespace.
        let Ok(socket) = side.socket(sandbox) else { continue };
        let here = place.as_ref().filter(|place| place.side == side);
        let container = if is_there { Container::There(here) } else { Container::Gone };
        let network = &sandbox.request.network;
        let shaped = Shaped { network, socket, side, plan };
        errors.extend(shaped.remove(sandbox.request, container).err());
    }
    Error::join(errors)
}

/// A side on which something may be shaped, and how.
struct Shaped<'s> {
    network: &'s Network,
    socket: &'s Socket,
    side: Side,
    plan: Option<&'s Plan>,
}

impl Shaped<'_> {
    /// Removes what an attachment has here.
    fn remove(&self, request: &Request, container: Container) -> Result<()> {
        let place = match container {
            Container::There(place) => place,
            Container::Gone => None,
        };
        let ifbs = ifb::find(self.socket, request, container)?;
        let mut errors: Vec<Error> =
            ifbs.iter().filter_map(|ifb| self.unshape(ifb, place).err()).collect();
        if let Some(place) = place {
            errors.extend(self.clear(place).err());
        }
        Error::join(errors)
    }

    /// Removes an ifb and the redirection to it, which comes from the place if that
    /// is known, and is looked for if not. Who made that, found no token bucket of
    /// another program on the link, or did not limit what leaves by it.
    fn unshape(&self, ifb: &Link, place: Option<&Place>) -> Result<()> {
        let sources = match place {
            Some(place) => vec![place.index],
            None => redirect::sources(self.socket, ifb.index)?,
        };
        let mut errors = Vec::new();
        for link in sources {
            match redirect::find(self.socket, link) {
                Ok(Some(found)) => {
                    if found.leads_to(ifb.index) && self.may_limit_what_leaves() {
                        errors.extend(bucket::remove(self.socket, link).err());
                    }
                    errors.extend(found.remove(self.socket, ifb.index).err());
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        match ifb::remove(self.socket, ifb.index) {
            Ok(()) => self.network.removed([&ifb.name]),
            Err(error) => errors.push(error),
        }
        Error::join(errors)
    }

    fn may_limit_what_leaves(&self) -> bool {
        self.plan.is_none_or(|plan| limits(plan, self.side).0.is_some())
    }

    /// Removes what a link has beside the redirection to an ifb.
    fn clear(&self, place: &Place) -> Result<()> {
        let leaving = self.plan.and_then(|plan| limits(plan, self.side).0);
        let bucket = match leaving {
            Some(limit) => bucket::remove_of(self.socket, &limit, place),
            None => Ok(()),
        };
        Error::all([redirect::remove_dead(self.socket, place.index), bucket])
    }
}

/// A kill may have left a host end without an ifb, or an ifb that nothing leads to. A
/// host end that leads to an ifb which is not stale is shaped by another program.
fn sweep(host: &Socket, network: &Network, valid: &Attachments) -> Result<()> {
    let ends: Vec<_> = veth::stale(host, network, valid)?
        .into_iter()
        .map(|(attachment, end)| (attachment, Place::new(Side::Host, end)))
        .collect();
    let plan = known_plan(network);
    let shaped = Shaped { network, socket: host, side: Side::Host, plan: plan.as_ref() };
    let mut errors = Vec::new();
    for ifb in ifb::stale(host, network, valid)? {
        let end = ends.iter().find(|(attachment, _)| ifb::is_of(&ifb, network, attachment));
        errors.extend(shaped.unshape(&ifb, end.map(|(_, place)| place)).err());
    }
    for (_, place) in &ends {
        match redirect::is_there(host, place.index) {
            Ok(true) => {}
            Ok(false) => {
                errors.extend(shaped.clear(place).err());
                // The runtime's limits, which it does not tell GC.
                if plan.is_none() {
                    errors.extend(bucket::remove(host, place.index).err());
                }
            }
            Err(error) => errors.push(error),
        }
    }
    Error::join(errors)
}
