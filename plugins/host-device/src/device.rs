//! The device itself: into the container, and back.

use crate::recognise;
use crate::record::{Device, Record};
use crate::surroundings::Surroundings;
use attach::sandbox::Sandbox;
use attach::{addresses, kernel};
use cni::{Error, Result};
use linux::link::{self, Change, Link, Mac};
use linux::monitor::{Event, Group, Monitor};
use linux::{Namespace, Socket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long hardware may take to come back after its namespace ended: the
/// kernel does it in the background, usually within 100 ms (`cleanup_net`,
/// net/core/net_namespace.c at v6.18).
const RETURN_LIMIT: Duration = Duration::from_secs(2);

/// The two sides between which a device is moved.
pub(crate) struct Sides<'a> {
    pub(crate) host: &'a Socket,
    pub(crate) home: &'a Namespace,
    /// `None` when the container's namespace is gone.
    pub(crate) container: Option<&'a Socket>,
}

/// What became of a device, and of what the host had configured on it: that some of
/// it did not come back is the reader's to know, and no reason to do it all again.
pub(crate) struct Given {
    pub(crate) fate: Fate,
    pub(crate) surroundings: Result<()>,
}

impl Given {
    fn nothing_but(fate: Fate) -> Given {
        Given { fate, surroundings: Ok(()) }
    }
}

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is on the host, under its name.
    Home,
    /// Hardware that is neither on the host nor in the container: in a
    /// namespace that has no path any more, or about to come back.
    Away,
    /// It ended with its namespace.
    Lost,
}

/// Moves the device into the container, names it, marks it with its name on
/// the host, and sets it up: one request, because a move costs 15 ms.
///
/// Like `ip link set dev D netns N name eth0 alias D up`. Fails as a whole or
/// half-way; [`give_back`] puts either right.
///
/// # Errors
/// The kernel's.
pub(crate) fn lend(sandbox: &Sandbox, device: &Device) -> linux::Result<()> {
    let request = sandbox.request;
    let ifname = request.ifname.as_str();
    let container = sandbox.namespace().map(AsFd::as_fd).ok_or_else(|| {
        linux::Error::with_kind("move the device", linux::ErrorKind::NotFound, "no namespace")
    })?;
    // Its own second name would stand in the way of its first.
    let is_in_the_way = device.alt_names.iter().any(|name| name == ifname);
    if is_in_the_way {
        link::delete_alt_names(sandbox.host(), device.index, &[ifname])?;
    }
    let change = Change::new(device.index).namespace(container).name(ifname);
    change.alias(&device.name).up().apply(sandbox.host()).map_err(|error| {
        if is_in_the_way {
            // Fails when the device got as far as the container: then the
            // record has the name.
            let _ = link::add_alt_names(sandbox.host(), device.index, &[ifname]);
        }
        error.operation(format!("move {} into {} as {ifname}", device.name, request.sandbox()))
    })
}

/// Is the device on the host, as it was?
///
/// # Errors
/// The kernel's.
pub(crate) fn is_at_home(host: &Socket, device: &Device) -> Result<bool> {
    let link = link::find(host, &device.name).map_err(kernel)?;
    Ok(link.is_some_and(|link| recognise::is_at_home(device, &link)))
}

/// CHECK: the container's link is this device.
///
/// # Errors
/// It is another one.
pub(crate) fn verify(record: &Record, link: &Link) -> Result<()> {
    let Some(device) = &record.device else { return Ok(()) };
    match device.container_index == Some(link.index) && recognise::is_of_the_make(device, link) {
        true => Ok(()),
        false => Err(Error::internal(format!(
            "check {}: it is not the device {} that was put here",
            link.name, device.name
        ))),
    }
}

/// Takes the addresses from the device in the container.
///
/// # Errors
/// The kernel's.
pub(crate) fn undress(container: &Socket, record: &Record) -> Result<()> {
    let links = link::list(container).map_err(kernel)?;
    let device = record.device.as_ref();
    match device.and_then(|device| recognise::in_container(device, &record.ifname, &links)) {
        Some(link) => addresses::remove(container, link.index),
        None => Ok(()),
    }
}

/// Gives the device back: from the container, or from where the kernel put it
/// when the namespace ended. It gets its name, state, MTU, aliases and
/// surroundings back.
///
/// # Errors
/// Another link of the host has its name; the kernel's. What is not restored
/// then is tried again the next time.
pub(crate) fn give_back(
    sides: &Sides,
    record: &Record,
    device: &Device,
    surroundings: &Surroundings,
) -> Result<Given> {
    let host = sides.host;
    if let Some(link) = link::find(host, &device.name).map_err(kernel)?
        && recognise::is_at_home(device, &link)
    {
        // Without the mark all was restored, by this program or another one,
        // or it never left; but for the name that was in the way.
        return match recognise::is_marked(device, &link) {
            true => restore(sides, device, &link, surroundings),
            false => restore_alt_name(host, device, &link, &record.ifname)
                .map(|()| Given::nothing_but(Fate::Home)),
        };
    }
    if let Some(container) = sides.container {
        let links = link::list(container).map_err(kernel)?;
        if let Some(link) = recognise::in_container(device, &record.ifname, &links) {
            let moved = move_out(sides, container, device, link).map_err(|error| {
                // The container is on its way out: what stays behind must not
                // go on using an address that is about to be given away.
                match link::set_down(container, link.index) {
                    Err(e) if !e.is_not_found() => error.with_details(e.to_string()),
                    _ => error,
                }
            })?;
            return restore(sides, device, &moved, surroundings);
        }
    }
    match find_returned(host, record, device)? {
        Some(link) => {
            let renamed = rename(host, device, link)?;
            restore(sides, device, &renamed, surroundings)
        }
        None if is_hardware(device) => Ok(Given::nothing_but(Fate::Away)),
        None => Ok(Given::nothing_but(Fate::Lost)),
    }
}

/// Waits until the kernel has given hardware back whose namespace ended. Call
/// it from the host's namespace.
///
/// # Errors
/// The kernel's; that it does not come is none.
pub(crate) fn wait_until_returned(host: &Socket, record: &Record, device: &Device) -> Result<()> {
    let deadline = Instant::now() + RETURN_LIMIT;
    let monitor = Monitor::open(&[Group::Link]).map_err(kernel)?;
    if find_returned(host, record, device)?.is_some() {
        return Ok(());
    }
    let is_it = |link: &Link| {
        recognise::returned(device, &record.ifname, std::slice::from_ref(link)).is_some()
    };
    let waited = monitor.wait_until(deadline, |event| {
        Ok(match event {
            Event::Link(link) => is_it(link).then_some(()),
            Event::Overrun => Some(()),
            _ => None,
        })
    });
    match waited {
        Err(e) if !e.is_timed_out() => Err(kernel(e)),
        _ => Ok(()),
    }
}

/// The device on the host under another name than its own.
///
/// # Errors
/// The kernel's.
pub(crate) fn find_returned(
    host: &Socket,
    record: &Record,
    device: &Device,
) -> Result<Option<Link>> {
    let links = link::list(host).map_err(kernel)?;
    Ok(recognise::returned(device, &record.ifname, &links).cloned())
}

/// Is the device hardware that is still plugged in?
fn is_hardware(device: &Device) -> bool {
    device.kind.is_none() && device.hardware.as_ref().is_some_and(|path| path.exists())
}

/// `ip link set dev eth0 netns HOST name D`, from the container.
fn move_out(sides: &Sides, container: &Socket, device: &Device, link: &Link) -> Result<Link> {
    let name = device.name.as_str();
    expect_free(sides.host, name)?;
    // What the application called it further is not the host's to know, and
    // could be in its way.
    let own = |alt_name: &&str| device.alt_names.iter().any(|own| own == alt_name);
    let (own, strange): (Vec<_>, Vec<_>) = link.alt_names.iter().map(String::as_str).partition(own);
    if !strange.is_empty() {
        link::delete_alt_names(container, link.index, &strange).map_err(kernel)?;
    }
    let request = || Change::new(link.index).namespace(sides.home.as_fd()).name(name);
    let mut moved = request().apply(container);
    if moved.as_ref().is_err_and(linux::Error::is_exists) && !own.is_empty() {
        // Meanwhile a link of the host has one of its further names.
        link::delete_alt_names(container, link.index, &own).map_err(kernel)?;
        moved = request().apply(container);
    }
    moved.map_err(|e| kernel(e.operation(format!("give {name} back to the host"))))?;
    link::get(sides.host, name).map_err(kernel)
}

/// Gives hardware its name back that the kernel brought home.
fn rename(host: &Socket, device: &Device, link: Link) -> Result<Link> {
    if link.name == device.name {
        return Ok(link);
    }
    expect_free(host, &device.name)?;
    // Kernels before 6.2 rename links that are down only.
    Change::new(link.index)
        .down()
        .apply(host)
        .and_then(|()| link::rename(host, link.index, &device.name))
        .map_err(|e| kernel(e.operation(format!("rename {} to {}", link.name, device.name))))?;
    link::get_by_index(host, link.index).map_err(kernel)
}

pub(crate) fn expect_free(host: &Socket, name: &str) -> Result<()> {
    match link::find(host, name).map_err(kernel)? {
        None => Ok(()),
        Some(other) => Err(Error::internal(format!(
            "give {name} back to the host: the host has another link of that name (index {}): rename it, and repeat the DEL",
            other.index
        ))),
    }
}

/// Makes the device on the host what it was. The alias comes last: as long as
/// it marks the device, this is not finished.
fn restore(
    sides: &Sides,
    device: &Device,
    link: &Link,
    surroundings: &Surroundings,
) -> Result<Given> {
    let host = sides.host;
    let mut errors = Vec::new();
    let mut attempt = |what: &str, outcome: linux::Result<()>| {
        errors.extend(
            outcome
                .err()
                .map(|e| kernel(e.operation(format!("restore {what} of {}", device.name)))),
        );
    };
    let index = link.index;
    let mac = device.mac.as_deref().and_then(|text| text.parse::<Mac>().ok());
    if let Some(mac) = mac.filter(|mac| link.mac != Some(*mac)) {
        attempt("the address", link::set_mac(host, index, mac));
    }
    if link.mtu != device.mtu {
        attempt("the mtu", link::set_mtu(host, index, device.mtu));
    }
    if link.tx_queue_len != device.tx_queue_len {
        let change = Change::new(index).tx_queue_len(device.tx_queue_len);
        attempt("the transmit queue", change.apply(host));
    }
    if link.is_promisc() != device.promisc {
        attempt("promiscuous mode", link::set_promisc(host, index, device.promisc));
    }
    if let Some(flags) = device.flags.filter(|flags| link.flags & link::SETTABLE_FLAGS != *flags) {
        attempt("the flags", Change::new(index).flags(flags).apply(host));
    }
    if let Some(group) = device.group.filter(|group| link.group != *group) {
        attempt("the group", Change::new(index).group(group).apply(host));
    }
    for name in device.alt_names.iter().filter(|name| !link.alt_names.contains(name)) {
        attempt("an alternative name", link::add_alt_names(host, index, &[name]));
    }
    let sysctls = surroundings.restore_sysctls(host, sides.home, index, &device.name);
    match (device.up, link.is_up()) {
        (true, false) => attempt("the state", link::set_up(host, index)),
        (false, true) => attempt("the state", link::set_down(host, index)),
        _ => {}
    }
    let rest = surroundings.restore(host, index);
    let alias = device.alias.as_deref().unwrap_or_default();
    attempt("the alias", link::set_alias(host, index, alias));
    Error::join(errors)?;
    let surroundings = Error::all([sysctls, rest])
        .map_err(|e| e.context(format!("restore what the host had on {}", device.name)));
    Ok(Given { fate: Fate::Home, surroundings })
}

/// Gives back the one name that [`lend`] takes away before the move.
fn restore_alt_name(host: &Socket, device: &Device, link: &Link, ifname: &str) -> Result<()> {
    let has = |names: &[String]| names.iter().any(|name| name == ifname);
    if !has(&device.alt_names) || has(&link.alt_names) {
        return Ok(());
    }
    link::add_alt_names(host, link.index, &[ifname])
        .map_err(|e| kernel(e.operation(format!("restore an alternative name of {}", device.name))))
}

/// Takes back what [`lend`] did.
///
/// # Errors
/// Those of [`give_back`], after which the record stays, and a DEL tries again; of the
/// surroundings.
pub(crate) fn take_back(
    sandbox: &Sandbox,
    record: &Record,
    device: &Device,
    surroundings: &Surroundings,
) -> Result<()> {
    let sides =
        Sides { host: sandbox.host(), home: sandbox.home(), container: sandbox.container().ok() };
    let given = give_back(&sides, record, device, surroundings)?;
    Error::all([given.surroundings, record.remove()])
}
