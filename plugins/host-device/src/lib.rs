//! **host-device**: a network device of the host, lent to a container.
//!
//! The device leaves the host and becomes the container's interface; DEL gives
//! it back as it was. With IPAM it gets addresses and routes. A device that a
//! program drives from user space (DPDK) stays where it is: then only
//! addresses are handed out.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | device | host, then container | its own, then `CNI_IFNAME` | (not ours) | DEL and GC give it back | no |
//! | alias of the device | container | its name on the host | [`device::lend`] | with its return, which restores its own | no |
//! | record | file | [`record`] | ADD, before the move | DEL, GC | no |
//! | addresses, routes | container | from IPAM | [`attach::addresses`] | with the move | no |
//! | leases | IPAM | the attachment | [`attach::ipam`] | DEL (last), GC | no |
//!
//! Hardware comes back to the initial namespace of the machine when the
//! container's ends, under a name of the kernel's choice; DEL, GC and the next
//! ADD put that right. Virtual links end with the namespace.

mod conf;
mod device;
mod find;
mod foreign;
mod recognise;
mod record;
mod surroundings;
mod sysfs;

use attach::addresses::{self, Target};
use attach::ipam;
use attach::records::Records;
use attach::sandbox::Sandbox;
use attach::undo::{self, Undo};
use attach::{ability, contained, dns, kernel, notice, verify};
use cni::{
    Attachments, Code, Error, Interface, Network, Plugin, Request, Result, Success, Version,
};
use conf::{Plan, Selection};
use device::{Fate, Sides};
use find::Found;
use linux::link::{self, Link};
use linux::{Namespace, Socket, announce};
use record::{Device, Record};
use std::path::Path;
use surroundings::Surroundings;

/// The plugin.
pub struct HostDevice;

/// Index of the device in the result.
const DEVICE: i64 = 0;

impl Plugin for HostDevice {
    fn name(&self) -> &'static str {
        "host-device"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let plan = Plan::new(request)?;
        let mut sandbox = Sandbox::open(request)?;
        match find_or_reclaim(&sandbox, &plan.selection)? {
            Found::Link { link, .. } if link.is_loopback() => Err(loopback(&link)),
            Found::Link { link, hardware, pci_bus_id } => {
                let device = Device::of(&link, hardware);
                undo::scope(&mut sandbox, |sandbox, undo| {
                    lend(sandbox, undo, &plan, device, pci_bus_id)
                })
            }
            Found::Userspace { pci_bus_id } => {
                undo::scope(&mut sandbox, |sandbox, undo| reserve(sandbox, undo, &plan, pci_bus_id))
            }
            Found::Missing(missing) => Err(missing.error()),
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(request)?;
        let promised = verify::prev_result(request)?;
        let mut sandbox = Sandbox::open(request)?;
        if let Some(ipam) = &plan.ipam {
            ipam.check(&sandbox)?;
        }
        let at = verify::interface(request, &promised)?;
        let Some((container, link)) = lent(&mut sandbox, &plan, &promised.interfaces[at])? else {
            return Ok(());
        };
        verify::link_state(&link, &promised.interfaces[at])?;
        let target = target(container, link.index, request, at as i64);
        verify::addresses_and_routes(&target, &promised)?;
        plan.disable_ipv6_when_unused.verify(target.name, &promised)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(request)?;
        let promised = verify::prev_result(request)?;
        let mut sandbox = Sandbox::open(request)?;
        let at = verify::interface(request, &promised)?;
        let Some((container, link)) = lent(&mut sandbox, &plan, &promised.interfaces[at])? else {
            return Ok(());
        };
        let target = target(container, link.index, request, at as i64);
        plan.disable_ipv6_when_unused.apply(target.name, &promised)?;
        addresses::restore(&target, &promised)
    }

    fn del(&self, request: &Request) -> Result<()> {
        let sandbox = Sandbox::open_if_there(request)?;
        // Another program may need the device to release the addresses.
        if ipam::is_of_others(&request.network) {
            let addresses = undress(&sandbox);
            let leases = ipam::release(&sandbox);
            return Error::all([addresses, leases, give_back(&sandbox)]);
        }
        let device = give_back(&sandbox);
        // Last, when nothing carries the addresses any more; and always.
        let leases = ipam::release(&sandbox);
        Error::all([device, leases])
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let devices = sweep(network, &valid);
        let leases = ipam::sweep(network);
        Error::all([devices, leases])
    }

    fn status(&self, network: &Network) -> Result<()> {
        dns::configured(network)?;
        let unavailable = |e: Error| e.with_code(Code::NOT_AVAILABLE);
        // Without a device in the configuration the runtime names one with
        // each ADD.
        if let Some(selection) = Selection::of(network)? {
            present_or_lent(&selection).map_err(unavailable)?;
        }
        ability::containers()?;
        Records::verify_writable(Path::new(record::DIRECTORY)).map_err(unavailable)?;
        ipam::status(network)
    }
}

fn loopback(link: &Link) -> Error {
    Error::internal(format!(
        "find host device: {} is the loopback device, which cannot leave the host",
        link.name
    ))
}

/// The device on the host. Where a container has it, that is an error that
/// says which; where it came home without its name, it gets that back.
fn find_or_reclaim(sandbox: &Sandbox, selection: &Selection) -> Result<Found> {
    let host = sandbox.host();
    let missing = match find::find(host, selection)? {
        Found::Missing(missing) => missing,
        found => return Ok(found),
    };
    for record in find::records_of(&record::all()?, selection, &missing) {
        if record.namespace()?.is_some() {
            return Err(missing.error().context(record.holder()));
        }
        let sides = Sides { host, home: sandbox.home(), container: None };
        if let Some(device) = &record.device
            && give_home(&sides, &record, device)? == Fate::Home
        {
            record.remove()?;
            return find::find(host, selection);
        }
    }
    Ok(Found::Missing(missing))
}

/// ADD of a device that has a link on the host.
fn lend<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    device: Device,
    pci_bus_id: Option<String>,
) -> Result<Success> {
    let request = sandbox.request;
    let surroundings = surroundings_of(sandbox, plan, &device)?;
    expect_name_free(sandbox, &device)?;
    // One of ours needs no link to give addresses; others may, as those by DHCP.
    let is_ours = match &plan.ipam {
        Some(ipam) => ipam.is_ours(&request.network)?,
        None => true,
    };
    let early = if is_ours { Some(lease(sandbox, undo, plan)?) } else { None };
    let link = take(sandbox, undo, plan, device, surroundings)?;
    let mut success = match early {
        Some(success) => success,
        None => lease(sandbox, undo, plan)?,
    };
    if plan.ipam.is_some() {
        let target = target(sandbox.container()?, link.index, request, DEVICE);
        plan.disable_ipv6_when_unused.apply(target.name, &success)?;
        contained::configure(&target, &success)?;
        announce_ipv4(target.socket, &link, &success);
    }
    let pci_id = pci_bus_id.unwrap_or_default();
    success.interfaces = vec![Interface { pci_id, ..contained::interface(request, &link, None) }];
    Ok(success)
}

/// What the host has configured on the device.
fn surroundings_of(sandbox: &Sandbox, plan: &Plan, device: &Device) -> Result<Surroundings> {
    match Surroundings::of(sandbox.host(), device) {
        Err(e) if e.is_not_found() => Err(taken_meanwhile(sandbox, plan, kernel(e))),
        surroundings => surroundings.map_err(kernel),
    }
}

fn expect_name_free(sandbox: &mut Sandbox, device: &Device) -> Result<()> {
    let request = sandbox.request;
    let ifname = request.ifname.as_str();
    match link::find(sandbox.enter()?, ifname).map_err(kernel)? {
        None => Ok(()),
        Some(_) => Err(Error::internal(format!(
            "move {} into {} as {ifname}: file exists: the name is already used",
            device.name,
            request.sandbox()
        ))),
    }
}

/// Records the device and moves it into the container; gives its link there.
fn take<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    device: Device,
    surroundings: Surroundings,
) -> Result<Link> {
    let request = sandbox.request;
    let mut record = Record::new(request, namespace(sandbox)?, Some(device.clone()), None)?;
    record.surroundings = surroundings.to_json();
    record.write()?;
    match device::lend(sandbox, &device) {
        Err(e) if e.is_not_found() => {
            let error = abandon(kernel(e), &record);
            return Err(taken_meanwhile(sandbox, plan, error));
        }
        Err(e) if device::is_at_home(sandbox.host(), &device)? => {
            return Err(abandon(kernel(e), &record));
        }
        moved => {
            let (record, device) = (record.clone(), device);
            undo.push("give the device back", move |sandbox| {
                device::take_back(sandbox, &record, &device, &surroundings)
            });
            moved.map_err(kernel)?;
        }
    }
    let link = link::get(sandbox.container()?, request.ifname.as_str()).map_err(kernel)?;
    if let Some(device) = &mut record.device {
        device.container_index = Some(link.index);
    }
    record.update()?;
    Ok(link)
}

/// Another ADD was faster: says whose, where its record tells.
fn taken_meanwhile(sandbox: &Sandbox, plan: &Plan, error: Error) -> Error {
    match find_or_reclaim(sandbox, &plan.selection) {
        Err(holder) => holder,
        Ok(Found::Missing(missing)) => missing.error(),
        Ok(_) => error,
    }
}

/// The error of a move that did not happen: the record of it goes.
fn abandon(error: Error, record: &Record) -> Error {
    match record.remove() {
        Ok(()) => error,
        Err(undo) => error.with_details(format!("undo: {undo}")),
    }
}

/// ADD of a device that a program drives from user space: it has no link to
/// move, and whoever configures it takes the addresses from the result.
fn reserve<'r>(
    sandbox: &mut Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    pci_bus_id: String,
) -> Result<Success> {
    let request = sandbox.request;
    for other in record::all()? {
        let is_other = other.network != request.network.name().as_str()
            || other.attachment() != request.attachment();
        if other.pci_bus_id.as_ref() == Some(&pci_bus_id)
            && is_other
            && other.namespace()?.is_some()
        {
            return Err(Error::internal(format!(
                "use PCI device {pci_bus_id}: {}",
                other.holder()
            )));
        }
    }
    let record = Record::new(request, namespace(sandbox)?, None, Some(pci_bus_id.clone()))?;
    record.write()?;
    undo.push("remove the record", move |_| record.remove());
    let mut success = lease(sandbox, undo, plan)?;
    success.interfaces = vec![Interface {
        name: request.ifname.to_string(),
        sandbox: request.sandbox(),
        pci_id: pci_bus_id,
        ..Interface::default()
    }];
    Ok(success)
}

/// What IPAM gives, for the device.
fn lease<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Success> {
    let mut success = Success::default();
    if let Some(ipam) = &plan.ipam {
        success = ipam.add(sandbox)?;
        let ipam = ipam.clone();
        undo.push("release the addresses", move |sandbox| {
            let silenced = silence(sandbox);
            Error::all([silenced, ipam.take_back(sandbox)])
        });
        for ip in &mut success.ips {
            ip.interface = Some(DEVICE);
        }
    }
    if let Some(dns) = &plan.dns {
        success.dns = dns.clone();
    }
    Ok(success)
}

/// Keeps the device in the container from using addresses that are about to be given
/// away, by taking it down, or them from it. It goes home next in any case.
fn silence(sandbox: &Sandbox) -> Result<()> {
    if ipam::is_of_others(&sandbox.request.network) {
        return undress(sandbox);
    }
    if let Ok(container) = sandbox.container()
        && let Ok(Some(link)) = link::find(container, sandbox.request.ifname.as_str())
    {
        let _ = link::set_down(container, link.index);
    }
    Ok(())
}

/// Takes the addresses from the device in the container, if there is a record of it.
fn undress(sandbox: &Sandbox) -> Result<()> {
    match (sandbox.namespace(), record::of(sandbox.request)?) {
        (Some(namespace), Some(record)) => {
            device::undress(&namespace.route_socket().map_err(kernel)?, &record)
        }
        _ => Ok(()),
    }
}

/// The link is up already, so the kernel does not announce the addresses that
/// are added (`inetdev_event`, net/ipv4/devinet.c at v6.18); IPv6 ones it does,
/// once they are known to be unique. Without CAP_NET_RAW, and on a link that
/// is no Ethernet, the neighbours learn by asking.
fn announce_ipv4(container: &Socket, link: &Link, success: &Success) {
    let addresses = success.ips.iter().map(|ip| ip.address.ip()).filter(|ip| ip.is_ipv4());
    if let Some(mac) = link.mac {
        let _ = announce::send(container, link.index, mac, addresses);
    }
}

/// The device in the container, and the container's socket; `None` for one that a
/// program in user space drives.
fn lent<'s>(
    sandbox: &'s mut Sandbox,
    plan: &Plan,
    promised: &Interface,
) -> Result<Option<(&'s Socket, Link)>> {
    let record = record::of(sandbox.request)?;
    if is_in_user_space(sandbox, &plan.selection, record.as_ref())? {
        return Ok(None);
    }
    let container = sandbox.enter()?;
    find_lent(container, promised, record.as_ref()).map(|link| Some((container, link)))
}

/// The link in the container: it has the promised address, and is the device that was
/// lent, as far as there is a record of that.
fn find_lent(container: &Socket, promised: &Interface, record: Option<&Record>) -> Result<Link> {
    let Interface { name, sandbox, .. } = promised;
    let gone = || Error::internal(format!("check {name}: the link is gone from {sandbox}"));
    let link = link::find(container, name).map_err(kernel)?.ok_or_else(gone)?;
    verify::mac(&link, promised)?;
    record.map_or(Ok(()), |record| device::verify(record, &link))?;
    Ok(link)
}

/// CHECK: is the device driven from user space? Then it must still be.
fn is_in_user_space(
    sandbox: &Sandbox,
    selection: &Selection,
    record: Option<&Record>,
) -> Result<bool> {
    if let Some(Record { device: Some(_), .. }) = record {
        return Ok(false);
    }
    let promised = record.and_then(|record| record.pci_bus_id.as_deref());
    match find::find(sandbox.host(), selection) {
        Ok(Found::Userspace { .. }) => Ok(true),
        Err(error) if promised.is_some() => Err(error),
        Ok(_) if promised.is_some() => Err(Error::internal(format!(
            "check PCI device {}: no program drives it from user space any more",
            promised.unwrap_or_default()
        ))),
        // Its own driver has it, or it is in the container, where the bus does
        // not show it.
        _ => Ok(false),
    }
}

/// DEL: the device to the host, and its record away.
fn give_back(sandbox: &Sandbox) -> Result<()> {
    let request = sandbox.request;
    let record = record::of(request)?;
    let given = sandbox.namespace();
    let own = match &record {
        // A runtime may not give a namespace that is still there, or another one.
        Some(record) if !given.is_some_and(|given| record.is_in(given)) => record.namespace()?,
        _ => None,
    };
    let namespace = own.as_ref().or(given);
    let container = namespace.map(Namespace::route_socket).transpose().map_err(kernel)?;
    let sides = Sides { host: sandbox.host(), home: sandbox.home(), container: container.as_ref() };
    match record {
        Some(record) => give_back_recorded(&sides, &record, true),
        None => {
            // A record that cannot be read is of no more use.
            record::remove(request.network.name().as_str(), &request.attachment())?;
            let selection = Selection::of(&request.network).unwrap_or_default();
            let others = match namespace {
                Some(namespace) => records_in(namespace)?,
                None => Vec::new(),
            };
            let is_claimed =
                |link: &Link| others.iter().any(|record| device::verify(record, link).is_ok());
            foreign::give_back(&sides, request.ifname.as_str(), selection.as_ref(), is_claimed)
        }
    }
}

/// The records of devices in this namespace.
fn records_in(namespace: &Namespace) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for record in record::all()? {
        let is_here = record.namespace()?.is_some_and(|there| there.id() == namespace.id());
        if is_here && record.device.is_some() {
            records.push(record);
        }
    }
    Ok(records)
}

/// Gives the device of a record back, with what the host had configured on it.
fn give_home(sides: &Sides, record: &Record, device: &Device) -> Result<Fate> {
    let surroundings = Surroundings::recorded(&record.surroundings, sides.host)?;
    let given = device::give_back(sides, record, device, &surroundings)?;
    if let Err(lacking) = given.surroundings {
        notice(&format!("host-device: {lacking}"));
    }
    Ok(given.fate)
}

/// Gives the device of a record back, and removes the record unless the device
/// is yet to come.
fn give_back_recorded(sides: &Sides, record: &Record, may_wait: bool) -> Result<()> {
    let Some(device) = &record.device else { return record.remove() };
    if record.is_of_another_boot()? {
        return record.remove();
    }
    let mut fate = give_home(sides, record, device)?;
    if fate != Fate::Home && is_lent_again(record, device)? {
        return record.remove();
    }
    if fate == Fate::Away && may_wait && sides.container.is_none() {
        device::wait_until_returned(sides.host, record, device)?;
        fate = give_home(sides, record, device)?;
    }
    let who =
        format!("host-device: device {}, lent to container {}", device.name, record.container_id);
    match fate {
        Fate::Home => record.remove(),
        Fate::Lost => {
            notice(&format!("{who}, is lost: it ended with {}", record.netns));
            record.remove()
        }
        Fate::Away => {
            notice(&format!(
                "{who}, has not come back from {}: GC or the next ADD fetches it when it has",
                record.netns
            ));
            Ok(())
        }
    }
}

/// Has another container got the device since? Then this record is an old one.
fn is_lent_again(record: &Record, device: &Device) -> Result<bool> {
    for other in record::all()? {
        let is_same = other.device.as_ref().is_some_and(|other| other.is_same(device));
        if other != *record && is_same && other.namespace()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// GC: devices of attachments that are not valid any more, home; records of
/// nothing, away.
fn sweep(network: &Network, valid: &Attachments) -> Result<()> {
    let host = Socket::route().map_err(kernel)?;
    let home = Namespace::current().map_err(kernel)?;
    let mut errors = Vec::new();
    for record in record::all()? {
        if record.network != network.name().as_str() || valid.contains(&record.attachment()) {
            continue;
        }
        let given = record.namespace().and_then(|namespace| {
            let container =
                namespace.map(|there| there.route_socket()).transpose().map_err(kernel)?;
            let sides = Sides { host: &host, home: &home, container: container.as_ref() };
            give_back_recorded(&sides, &record, false)
        });
        errors.extend(given.err());
    }
    errors.extend(record::sweep_malformed(network, valid).err());
    Error::join(errors)
}

/// STATUS: the device is on the host and can leave it, or a container has it.
fn present_or_lent(selection: &Selection) -> Result<()> {
    let host = Socket::route().map_err(kernel)?;
    let missing = match find::find(&host, selection)? {
        Found::Missing(missing) => missing,
        Found::Link { link, .. } if link.is_loopback() => return Err(loopback(&link)),
        _ => return Ok(()),
    };
    let mut lost = missing.error();
    for record in find::records_of(&record::all()?, selection, &missing) {
        let Some(device) = &record.device else { continue };
        if record.namespace()?.is_some() || device::find_returned(&host, &record, device)?.is_some()
        {
            return Ok(());
        }
        lost = lost.with_details(format!(
            "container {} of network {} had it in {}, which is gone",
            record.container_id, record.network, record.netns
        ));
    }
    Err(lost)
}

fn namespace<'s>(sandbox: &'s Sandbox) -> Result<&'s Namespace> {
    let gone = || Error::internal("move the device: the network namespace is gone");
    sandbox.namespace().ok_or_else(gone)
}

fn target<'a>(socket: &'a Socket, index: u32, request: &'a Request, interface: i64) -> Target<'a> {
    Target { socket, index, name: request.ifname.as_str(), interface }
}
