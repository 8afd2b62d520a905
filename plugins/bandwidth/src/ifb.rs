//! The ifb: a link that packets come to from another, for the queue it has. Like
//! `ip link add bwp.. type ifb`.

use crate::bucket;
use crate::place::Place;
use crate::redirect;
use attach::chained::{Owner, Owners, key_of};
use attach::identity::digest;
use attach::{ability, kernel};
use cni::{AttachmentId, Attachments, Error, Network, NetworkName, Request, Result, Success};
use linux::Socket;
use linux::link::{self, Change, IfbSpec, Link, Mac};
use linux::tc::{self, Hook, Tbf};

/// The kernel's name for the kind of link.
pub(crate) const KIND: &str = "ifb";

const PREFIX: &str = "bwp";
const DIGITS: usize = 12;

/// The names an attachment's ifb may have: upstream's, which is that of the
/// container; and, where another interface of the container has that, one that
/// depends on the interface as well.
pub(crate) fn names(network: &NetworkName, attachment: &AttachmentId) -> [String; 2] {
    let AttachmentId { container_id, ifname } = attachment;
    // No part of the second text contains a slash, and the first has none.
    [format!("{network}{container_id}"), format!("{network}/{container_id}/{ifname}")].map(hashed)
}

fn hashed(text: String) -> String {
    format!("{PREFIX}{}", digest(&text, DIGITS))
}

fn is_name(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The attachment that it says it is of; upstream's says nothing.
fn key(ifb: &Link) -> Option<&str> {
    ifb.alias.as_deref().and_then(key_of)
}

/// Whether it says that it is of this attachment.
pub(crate) fn is_of(ifb: &Link, network: &Network, attachment: &AttachmentId) -> bool {
    key(ifb).is_some_and(|key| key == Owner::new(network.name(), attachment).key())
}

/// The name for a new ifb. One that an attachment of the same name left behind is
/// removed.
///
/// # Errors
/// The attachment has one in use.
pub(crate) fn free_name(socket: &Socket, request: &Request, place: &Place) -> Result<String> {
    let owner = Owner::of(request);
    for name in names(request.network.name(), &request.attachment()) {
        let Some(found) = link::find(socket, &name).map_err(kernel)? else { return Ok(name) };
        let sources = redirect::sources(socket, found.index)?;
        let is_own = found.is_kind(KIND)
            && match key(&found) {
                Some(key) => key == owner.key(),
                None => sources.iter().all(|&link| link == place.index),
            };
        if is_own && !sources.is_empty() {
            return Err(Error::internal(format!(
                "create ifb {name}: file exists: the attachment is shaped already"
            )));
        }
        if is_own {
            remove(socket, found.index)?;
            return Ok(name);
        }
    }
    Err(Error::internal(format!(
        "create ifb for {}: file exists: both of its names are used by others",
        request.ifname
    )))
}

/// Creates it with its token bucket, and says on it whose it is.
///
/// # Errors
/// The kernel's.
pub(crate) fn create(
    socket: &Socket,
    request: &Request,
    spec: IfbSpec,
    bucket: &Tbf,
) -> Result<Link> {
    let owner = Owner::of(request);
    // GC knows it by its alias. It is no place to talk to: with a link-local address,
    // its deletion waits once more where IPv6 is forwarded.
    let spec = IfbSpec { alias: Some(owner.comment()), no_link_local: true, ..spec };
    let ifb = spec.create(socket).map_err(|e| kernel(ability::explain(e, socket, KIND)))?;
    // The bucket before it is up: then the kernel need not wait for packets that
    // are on their way.
    let steps =
        [bucket::message(ifb.index, bucket, spec.name), Change::new(ifb.index).up().message()];
    socket.batch(steps).map_err(bucket::refused)?;
    Ok(ifb)
}

/// RESTORE: it is up, and says whose it is.
///
/// # Errors
/// The kernel's.
pub(crate) fn dress(socket: &Socket, request: &Request, ifb: &Link) -> Result<()> {
    let change = Change::new(ifb.index).up();
    let change = match ifb.alias {
        None => change.alias(Owner::of(request).comment()),
        Some(_) if ifb.is_up() => return Ok(()),
        Some(_) => change,
    };
    change.apply(socket).map_err(kernel)
}

/// The address that the result promises for a link of this name.
pub(crate) fn promised_mac(promised: &Success, name: &str) -> Option<Mac> {
    let interface = promised.interfaces.iter().find(|interface| interface.name == name)?;
    attach::mac::parse(&interface.mac).ok()
}

/// Those of the attachment, upstream's included: rarely more than one. Upstream's
/// may be that of another interface of the container, so where there is a
/// container, it must be what the attachment's own link leads to.
///
/// # Errors
/// The kernel's.
pub(crate) fn find(socket: &Socket, request: &Request, container: Container) -> Result<Vec<Link>> {
    let owner = Owner::of(request);
    let mut own = Vec::new();
    for name in names(request.network.name(), &request.attachment()) {
        let found = link::find(socket, &name).map_err(kernel)?;
        let Some(ifb) = found.filter(|link| link.is_kind(KIND)) else { continue };
        let is_own = match (key(&ifb), container) {
            (Some(key), _) => key == owner.key(),
            (None, Container::Gone) => true,
            (None, Container::There(place)) => {
                let sources = redirect::sources(socket, ifb.index)?;
                sources.is_empty() || place.is_some_and(|place| sources.contains(&place.index))
            }
        };
        own.extend(Some(ifb).filter(|_| is_own));
    }
    Ok(own)
}

/// What is known of the attachment's container.
#[derive(Clone, Copy)]
pub(crate) enum Container<'a> {
    Gone,
    /// With the place that is shaped, if it is on the side that is looked at.
    There(Option<&'a Place>),
}

/// CHECK: the attachment's is there, and up.
///
/// # Errors
/// It is not.
pub(crate) fn verify(socket: &Socket, request: &Request, place: &Place) -> Result<Link> {
    let ifname = &request.ifname;
    let Some(ifb) = find(socket, request, Container::There(Some(place)))?.pop() else {
        return Err(Error::internal(format!(
            "check {ifname}: the ifb that its traffic is shaped on is gone"
        )));
    };
    if ifb.is_up() {
        return Ok(ifb);
    }
    Err(Error::internal(format!("check {}, the ifb of {ifname}: it is down", ifb.name)))
}

/// Removes one, with its token bucket.
///
/// # Errors
/// The kernel's; that it is gone is none.
pub(crate) fn remove(socket: &Socket, ifb: u32) -> Result<()> {
    match link::delete(socket, ifb) {
        Err(e) if !e.is_not_found() => Err(kernel(e.context("remove the ifb"))),
        _ => Ok(()),
    }
}

/// Undoes [`create`] under a name that was free.
///
/// # Errors
/// The kernel's.
pub(crate) fn take_back(socket: &Socket, name: &str) -> Result<()> {
    match link::delete_named(socket, name) {
        Err(e) if !e.is_not_found() => Err(kernel(e)),
        _ => Ok(()),
    }
}

/// Those of attachments of `network` that are not `valid`. Upstream's do not say
/// whose they are, so only those are stale that nothing is sent to any more.
///
/// # Errors
/// The kernel's.
pub(crate) fn stale(host: &Socket, network: &Network, valid: &Attachments) -> Result<Vec<Link>> {
    let owners = Owners::new(network.name(), valid);
    let mut stale = Vec::new();
    for ifb in link::list_kind(host, KIND).map_err(kernel)? {
        let is_stale = match key(&ifb) {
            Some(key) => owners.lack(key),
            None => {
                let is_valid = |id| names(network.name(), &id).contains(&ifb.name);
                is_name(&ifb.name) && !valid.iter().any(is_valid) && is_left_behind(host, &ifb)?
            }
        };
        stale.extend(Some(ifb).filter(|_| is_stale));
    }
    Ok(stale)
}

/// Whether an ADD of upstream's is done with it and what it was for is gone. Its
/// token bucket is the last that such an ADD makes, so it is looked for first. Ours has
/// its alias before that, but the list may have been from before both.
fn is_left_behind(host: &Socket, ifb: &Link) -> Result<bool> {
    let bucket = tc::get(host, ifb.index, Hook::Root).map_err(kernel)?;
    if bucket.is_none_or(|qdisc| qdisc.tbf.is_none()) {
        return Ok(false);
    }
    match link::get_by_index(host, ifb.index) {
        Ok(now) if key(&now).is_some() => Ok(false),
        Ok(_) => Ok(redirect::sources(host, ifb.index)?.is_empty()),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(kernel(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams_first() {
        let network = NetworkName::new("net").expect("valid");
        let id = |ifname: &str| AttachmentId { container_id: "c1".into(), ifname: ifname.into() };
        let [first, second] = names(&network, &id("eth0"));
        // As Debian's package made it.
        assert_eq!(first, "bwp623e1c388032");
        assert_eq!(first.len(), link::NAME_MAX);
        let [same, other] = names(&network, &id("eth1"));
        assert!(first == same && second != other && second != first);
        assert!([&first, &second, &other].iter().all(|name| is_name(name)));
        for not in ["bwp623e1c38803", "bwp623e1c38803g", "bwq623e1c388032", "ifb0"] {
            assert!(!is_name(not), "{not}");
        }
    }
}
