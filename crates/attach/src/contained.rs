//! The link of an attachment that lives in the container as a whole: macvlan,
//! ipvlan, VLAN, dummy. The host has no end of it.
//!
//! | what | where | name | removed by |
//! |---|---|---|---|
//! | the link | container | `CNI_IFNAME`; [`identity::first_link_name`] for a moment, at times | [`remove`], or with the namespace |
//! | its alias | container | [`identity::alias`] | with the link |
//!
//! Programs in the container rename their links at times; the alias stays, so
//! DEL finds the link all the same.

use crate::addresses::{self, Target, Uniqueness};
use crate::ipam::{self, Ipam};
use crate::neighbours::DisableIpv6WhenUnused;
use crate::parent::Place;
use crate::sandbox::Sandbox;
use crate::undo::Undo;
use crate::{identity, kernel, neighbours, verify};
use cni::{Error, Interface, Network, Request, Result, Success};
use linux::Socket;
use linux::link::{self, Link};
use std::os::fd::{AsFd, BorrowedFd};

/// How a link is to be created.
pub struct Birth<'a> {
    /// By which socket: that of its parent's namespace.
    pub socket: &'a Socket,
    /// Under which name.
    pub name: &'a str,
    /// Where; `None` where the socket is.
    pub namespace: Option<BorrowedFd<'a>>,
}

/// Creates the link in the container, by a request to where its parent is, and
/// says on it whose it is. The sandbox must have been [entered](Sandbox::enter).
///
/// It is born under its own name. Only before Linux 6.15, and if a link on the
/// host has that name, it must have another at first.
///
/// # Errors
/// The name is taken in the container; those of `make`, as `refused` tells them.
pub fn create<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    kind: &'static str,
    parent: Place,
    make: impl Fn(Birth) -> linux::Result<()>,
    refused: impl FnOnce(linux::Error) -> Error,
) -> Result<Link> {
    let (container, request) = (sandbox.container()?, sandbox.request);
    let name = request.ifname.as_str();
    if link::find(container, name).map_err(kernel)?.is_some() {
        return Err(Error::internal(format!(
            "in {}: create {kind} {name}: file exists: the name is already used",
            request.sandbox()
        )));
    }
    // From here on whatever has the name is ours, also when the kernel has made
    // it and only its answer was lost.
    undo.push("remove the link", move |sandbox| take_back(sandbox, kind));
    let birth = |name| Birth {
        socket: if parent == Place::Host { sandbox.host() } else { container },
        name,
        namespace: sandbox.namespace().filter(|_| parent == Place::Host).map(AsFd::as_fd),
    };
    let link = match make(birth(name)) {
        Ok(()) => link::get(container, name).map_err(kernel)?,
        Err(e) if e.is_exists() && matches!(link::find(birth(name).socket, name), Ok(Some(_))) => {
            let first = identity::first_link_name(request.network.name(), &request.attachment());
            make(birth(&first))
                .map_err(|e| refused(e.operation(format!("create {kind} {name}"))))?;
            let link = link::get(container, &first).map_err(kernel)?;
            link::rename(container, link.index, name).map_err(kernel)?;
            Link { name: name.to_owned(), ..link }
        }
        Err(e) => return Err(refused(e)),
    };
    label(sandbox, &link)?;
    Ok(link)
}

/// Undoes [`create`].
fn take_back(sandbox: &Sandbox, kind: &str) -> Result<()> {
    let (container, request) = (sandbox.container()?, sandbox.request);
    let first = identity::first_link_name(request.network.name(), &request.attachment());
    for name in [request.ifname.as_str(), &first] {
        let link = link::find(container, name).map_err(kernel)?;
        if let Some(link) = link.filter(|link| link.is_kind(kind)) {
            return delete(container, &link, request);
        }
    }
    Ok(())
}

/// Says on a link in the container whose it is.
///
/// # Errors
/// The kernel's.
pub fn label(sandbox: &Sandbox, link: &Link) -> Result<()> {
    match own_alias(sandbox.request) {
        None => Ok(()),
        Some(alias) => link::set_alias(sandbox.container()?, link.index, &alias).map_err(kernel),
    }
}

/// Gets addresses for the link, which is index 0 of the result's interfaces. When
/// a later step fails, the link goes before they are released, or loses them: until
/// then it could use them.
///
/// # Errors
/// The IPAM plugin's.
pub fn lease<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    ipam: &Ipam,
    kind: &'static str,
) -> Result<Success> {
    let success = ipam.add(sandbox)?;
    let ipam = ipam.clone();
    undo.push("release the addresses", move |sandbox| {
        let link = match ipam::is_of_others(&sandbox.request.network) {
            true => undress(sandbox, kind),
            false => take_back(sandbox, kind),
        };
        Error::all([link, ipam.take_back(sandbox)])
    });
    Ok(adopt(success))
}

/// The addresses of `success`, whoever gave them, as the link's.
pub fn adopt(mut success: Success) -> Success {
    for ip in &mut success.ips {
        ip.interface = Some(0);
    }
    Success { interfaces: Vec::new(), ..success }
}

/// RESTORE of a plugin whose link of `kind` is in the container as a whole: its MTU,
/// if one was promised, its addresses and routes, and no IPv6 where it is unused.
/// Gives the link, and what was promised.
///
/// # Errors
/// The link is gone, which only DEL and ADD make anew; the kernel's.
pub fn restore(
    sandbox: &mut Sandbox,
    kind: &str,
    ipv6: DisableIpv6WhenUnused,
) -> Result<(Link, Success)> {
    let request = sandbox.request;
    let promised = verify::prev_result(request)?;
    let at = verify::interface(request, &promised)?;
    let interface = &promised.interfaces[at];
    let link = verify::container_link(sandbox.enter()?, interface, kind)?;
    let target = target(sandbox.container()?, &link, request, at as i64);
    if let (Err(_), Ok(mtu)) = (verify::mtu(&link, interface), u32::try_from(interface.mtu)) {
        link::set_mtu(target.socket, link.index, mtu).map_err(kernel)?;
    }
    ipv6.apply(target.name, &promised)?;
    addresses::restore(&target, &promised)?;
    Ok((link, promised))
}

/// DEL of such a plugin: the link, whatever became of it, and the addresses last,
/// when nothing carries them any more. An IPAM plugin of others finds the link, without
/// its addresses; then it goes, whatever that said.
///
/// # Errors
/// The kernel's and the IPAM plugin's, all of them.
pub fn del(request: &Request, kind: &str) -> Result<()> {
    del_with(request, kind, |_| Ok(()))
}

/// [`del`], with what else leads to the addresses.
///
/// # Errors
/// Those of [`del`] and of `further`.
pub fn del_with(
    request: &Request,
    kind: &str,
    further: impl FnOnce(&Sandbox) -> Result<()>,
) -> Result<()> {
    let sandbox = &mut Sandbox::open_if_there(request)?;
    let of_others = ipam::is_of_others(&request.network);
    let first = if of_others { undress(sandbox, kind) } else { remove(sandbox, kind) };
    let further = further(sandbox);
    let lease = ipam::release(sandbox);
    let last = if of_others { remove(sandbox, kind) } else { Ok(()) };
    Error::all([first, further, lease, last])
}

/// GC of such a plugin: the addresses. The links went with their namespaces.
///
/// # Errors
/// The IPAM plugin's; the list of valid attachments is malformed.
pub fn gc(network: &Network) -> Result<()> {
    match network.valid_attachments()? {
        Some(_) => ipam::sweep(network),
        None => Ok(()),
    }
}

/// Where the link's addresses and routes go; `interface` is its place in the
/// result. The socket is the container's.
pub fn target<'a>(
    socket: &'a Socket,
    link: &Link,
    request: &'a Request,
    interface: i64,
) -> Target<'a> {
    Target { socket, index: link.index, name: request.ifname.as_str(), interface }
}

/// Gives the link its addresses and routes and sets it up. The neighbours are
/// told of the addresses, and asked about IPv6 ones first. Without addresses it
/// is only set up.
///
/// # Errors
/// What the kernel refuses; an address that another host has.
pub fn configure(target: &Target, success: &Success) -> Result<()> {
    if success.ips.is_empty() {
        return link::set_up(target.socket, target.index).map_err(kernel);
    }
    neighbours::announce_when_up(target.name);
    if !success.ips.iter().any(|ip| ip.address.is_ipv6()) {
        return addresses::configure(target, success, Uniqueness::Known);
    }
    neighbours::with_short_detection(target.name, || {
        addresses::configure(target, success, Uniqueness::Asked)?;
        addresses::settle(target, success)
    })
}

/// The link of `kind` that is the attachment's: the one that carries its alias,
/// whatever it is called by now, or the one of its name if that is nobody's.
///
/// # Errors
/// The kernel's.
pub fn find(container: &Socket, request: &Request, kind: &str) -> Result<Option<Link>> {
    let own = own_alias(request);
    let is_own = |link: &Link| own.is_some() && link.alias == own;
    let named = link::find(container, request.ifname.as_str()).map_err(kernel)?;
    let named = named.filter(|link| link.is_kind(kind));
    if named.as_ref().is_some_and(is_own) {
        return Ok(named);
    }
    // Renamed, and another has the name now, perhaps; or never given its name by an
    // ADD that was killed.
    let first = identity::first_link_name(request.network.name(), &request.attachment());
    let is_first = |link: &Link| link.alias.is_none() && link.name == first;
    let links = link::list_kind(container, kind).map_err(kernel)?;
    let found =
        links.iter().find(|link| is_own(link)).or_else(|| links.iter().find(|l| is_first(l)));
    if let Some(link) = found {
        return Ok(Some(link.clone()));
    }
    // As the reference plugins leave it.
    let is_others = |link: &Link| link.alias.as_deref().is_some_and(identity::is_alias);
    Ok(named.filter(|link| !is_others(link)))
}

/// Removes the attachment's link of `kind`, whatever it is called by now.
///
/// # Errors
/// The kernel's; that nothing is there, or the namespace is gone and the link
/// with it, is none.
pub fn remove(sandbox: &mut Sandbox, kind: &str) -> Result<()> {
    if sandbox.namespace().is_none() {
        return Ok(());
    }
    let request = sandbox.request;
    let container = sandbox.enter()?;
    match find(container, request, kind)? {
        Some(link) => delete(container, &link, request),
        None => Ok(()),
    }
}

/// Takes the addresses from the attachment's link, so that it uses them no more.
fn undress(sandbox: &mut Sandbox, kind: &str) -> Result<()> {
    if sandbox.namespace().is_none() {
        return Ok(());
    }
    let request = sandbox.request;
    let container = sandbox.enter()?;
    match find(container, request, kind)? {
        Some(link) => addresses::remove(container, link.index),
        None => Ok(()),
    }
}

fn delete(container: &Socket, link: &Link, request: &Request) -> Result<()> {
    match link::delete(container, link.index) {
        Err(e) if !e.is_not_found() => {
            Err(kernel(e.context(format_args!("remove {}", request.ifname))))
        }
        _ => Ok(()),
    }
}

/// The link's entry in the result. An MTU is reported where one was asked for: it
/// is what CHECK compares, so that a plugin behind may promise another.
pub fn interface(request: &Request, link: &Link, mtu: Option<u32>) -> Interface {
    Interface {
        name: request.ifname.as_str().to_owned(),
        mac: link.mac.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: mtu.map_or(0, i64::from),
        sandbox: request.sandbox(),
        ..Interface::default()
    }
}

fn own_alias(request: &Request) -> Option<String> {
    identity::alias(request.network.name(), &request.attachment())
}
