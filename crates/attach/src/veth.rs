//! The veth pair of an attachment: one end in the container, named by the
//! runtime, the other on the host, named after the attachment.
//!
//! | what | where | name | removed by |
//! |---|---|---|---|
//! | container end | container | `CNI_IFNAME` | [`remove`], or with the namespace |
//! | host end | host | [`identity::host_link_name`] | goes with the container end |
//! | its alias | host | [`identity::alias`] | with the link |

use crate::sandbox::Sandbox;
use crate::{ability, identity, kernel, verify};
use cni::{AttachmentId, Attachments, Error, Network, Request, Result, Success};
use linux::link::{self, Link, Mac, VethPeer, VethSpec};
use linux::sysctl;
use std::os::fd::AsFd;

/// Packets in the transmit queues of both ends: what `ip link add` gives. A
/// queue of 0 makes a shaper put on the link later drop everything.
const TX_QUEUE_LEN: u32 = 1000;

/// What a plugin decides about the pair.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spec {
    /// Both ends' MTU in bytes; `None` is the kernel's default.
    pub mtu: Option<u32>,
    /// The container end's address; random when not given.
    pub mac: Option<Mac>,
    /// Index of the bridge the host end becomes a port of.
    pub master: Option<u32>,
}

/// A pair that was created.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Index of the host end.
    pub host: u32,
    /// Its name.
    pub host_name: String,
    /// Its address.
    pub host_mac: Mac,
    /// Index of the container end, in the container.
    pub container: u32,
    /// Its address.
    pub container_mac: Mac,
}

/// Creates the pair in one request: the container end is born in the container
/// under its final name (moving a link costs 15 ms), both ends with their
/// addresses (so udev leaves them alone), the host end up; and in the same send
/// says on the host end whose it is, so that GC knows every pair there is.
/// It is closed to router advertisements of the container (CVE-2020-10749).
///
/// Like `ip link add vethX mtu M master B up type veth peer name eth0 netns N`.
///
/// # Errors
/// The name is taken in the container; the kernel refuses MTU or MAC.
pub fn create(sandbox: &Sandbox, spec: Spec) -> Result<Pair> {
    let request = sandbox.request;
    let namespace = sandbox
        .namespace()
        .ok_or_else(|| Error::internal("create veth: the network namespace is gone"))?;
    let (host_mac, container_mac) = (Mac::random(), spec.mac.unwrap_or_else(Mac::random));
    let alias = identity::alias(request.network.name(), &request.attachment());
    let mut taken = None;
    for host_name in identity::host_link_names(request) {
        let veth = VethSpec {
            name: &host_name,
            mac: Some(host_mac),
            mtu: spec.mtu,
            tx_queue_len: Some(TX_QUEUE_LEN),
            master: spec.master,
            up: true,
            alias: alias.as_deref(),
            // A port of a bridge gives what it receives to the bridge; and where IPv6
            // is forwarded, the kernel waits once more when a link with an address of
            // it is deleted.
            no_link_local: spec.master.is_some(),
            peer: VethPeer {
                name: request.ifname.as_str(),
                mac: Some(container_mac),
                mtu: spec.mtu,
                tx_queue_len: Some(TX_QUEUE_LEN),
                namespace: Some(namespace.as_fd()),
            },
        };
        match veth.create(sandbox.host()) {
            Ok(made) => {
                let container = made.link.unwrap_or_default();
                let pair = Pair { host: made.index, host_name, host_mac, container, container_mac };
                return match refuse_router_advertisements(&pair.host_name) {
                    Ok(()) => Ok(pair),
                    Err(error) => Err(match remove_pair(sandbox, &pair) {
                        Ok(()) => error,
                        Err(undo) => error.with_details(format!("undo: {undo}")),
                    }),
                };
            }
            // A leftover of this attachment, in another namespace, has the name
            // (and by now its alias). If it is the container's name that is
            // taken, the host's is free.
            Err(e)
                if e.is_exists()
                    && link::find(sandbox.host(), &host_name).map_err(kernel)?.is_some() =>
            {
                taken = Some(e);
            }
            Err(e) => {
                let error = kernel(e.context(format_args!("in {}", request.sandbox())));
                return Err(remove_unanswered(sandbox, &host_name, host_mac, error));
            }
        }
    }
    let error =
        taken.map(kernel).unwrap_or_else(|| Error::internal("create veth: no name was tried"));
    Err(error.with_details(
        "leftovers of this attachment have all names it could use; a DEL removes them",
    ))
}

/// The kernel may have made the pair, and only its answer been lost or the alias
/// been refused: removes it, known by its random address, and hands `error` on.
fn remove_unanswered(sandbox: &Sandbox, name: &str, mac: Mac, error: Error) -> Error {
    let Ok(Some(made)) = link::find(sandbox.host(), name) else { return error };
    if made.mac != Some(mac) {
        return error;
    }
    match gone_is_fine(link::delete(sandbox.host(), made.index)) {
        Ok(()) => error,
        Err(undo) => error.with_details(format!("undo: {undo}")),
    }
}

/// Keeps the host from taking routes out of router advertisements that come in
/// by `link` (CVE-2020-10749). Call it from the host's namespace.
///
/// # Errors
/// The sysctl is there, has another value, and cannot be written.
pub fn refuse_router_advertisements(link: &str) -> Result<()> {
    match sysctl::write(&["net", "ipv6", "conf", link, "accept_ra"], "0") {
        Ok(_) => Ok(()),
        // A kernel without IPv6 takes none.
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(kernel(e.hint(REROUTED))),
    }
}

/// What [`refuse_router_advertisements`] would change: the setting of a link that
/// takes them.
///
/// # Errors
/// The sysctl cannot be read.
pub fn accepted_router_advertisements(link: &str) -> Result<Option<String>> {
    match sysctl::read(&["net", "ipv6", "conf", link, "accept_ra"]) {
        Ok(now) => Ok(Some(now).filter(|now| now != "0")),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(kernel(e)),
    }
}

const REROUTED: &str = "without it a container could reroute the host's IPv6 traffic";

/// STATUS: a pair can be made, and [`refuse_router_advertisements`] would succeed
/// for its host end: a new link has the namespace's default.
///
/// # Errors
/// Code 50, saying what cannot be done.
pub fn status(host: &linux::Socket) -> Result<()> {
    ability::links(host, "veth")?;
    router_advertisements_status("default")
}

/// STATUS: [`refuse_router_advertisements`] of this link would succeed.
///
/// # Errors
/// Code 50.
pub fn router_advertisements_status(link: &str) -> Result<()> {
    match sysctl::verify_settable(&["net", "ipv6", "conf", link, "accept_ra"], "0") {
        Err(e) if !e.is_not_found() => Err(ability::unavailable(e.hint(REROUTED))),
        _ => Ok(()),
    }
}

/// CHECK: the host end of the container's `link` is on the host, up, closed to router
/// advertisements, and has the promised name and address. Answers it.
///
/// # Errors
/// Names what is not so.
pub fn verify_host_end(host: &linux::Socket, link: &Link, promised: &Success) -> Result<Link> {
    let end = host_end(host, link)?;
    let wrong = |what: &str| {
        let names = format!("check {}, the host end of {}", end.name, link.name);
        Err(Error::internal(format!("{names}: {what}")))
    };
    match promised.interfaces.iter().find(|i| i.name == end.name && i.sandbox.is_empty()) {
        None => return wrong("prevResult does not have it"),
        Some(entry) => verify::mac(&end, entry)?,
    }
    if !end.is_up() {
        return wrong("it is down");
    }
    match link::conf(host, end.index).map_err(kernel)?.accept_ra() {
        None | Some(0) => Ok(end),
        _ => wrong("it accepts router advertisements"),
    }
}

/// The host end of the container's `link`.
///
/// # Errors
/// It is not on the host.
pub fn host_end(host: &linux::Socket, link: &Link) -> Result<Link> {
    let end = match link::get_by_index(host, link.link.unwrap_or_default()) {
        Ok(end) => Some(end).filter(|end| end.is_kind("veth") && end.link == Some(link.index)),
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(kernel(e)),
    };
    end.ok_or_else(|| {
        Error::internal(format!(
            "check {}: the host end of its veth pair is not on the host",
            link.name
        ))
    })
}

/// RESTORE, first of all: a veth end that the result names is on the host, and is
/// closed to router advertisements. Without one the pair is gone, or is just going,
/// and nothing may be made for it. Call it from the host's namespace.
///
/// # Errors
/// There is none; as [`refuse_router_advertisements`].
pub fn restore_pair(host: &linux::Socket, request: &Request, promised: &Success) -> Result<()> {
    for end in promised.interfaces.iter().filter(|i| i.sandbox.is_empty()) {
        let link = link::find(host, &end.name).map_err(kernel)?;
        if link.is_some_and(|link| link.is_kind("veth")) {
            return refuse_router_advertisements(&end.name);
        }
    }
    Err(Error::internal(format!(
        "restore {}: its veth pair is gone: DEL and ADD it",
        request.ifname
    )))
}

/// CHECK: the link, in the namespace of the calling thread, is still closed to
/// router advertisements.
///
/// # Errors
/// It is not.
pub fn verify_no_router_advertisements(link: &str) -> Result<()> {
    match sysctl::read(&["net", "ipv6", "conf", link, "accept_ra"]) {
        Ok(value) if value != "0" => {
            Err(Error::internal(format!("check {link}: it accepts router advertisements")))
        }
        _ => Ok(()),
    }
}

/// Removes a pair just created, by its host end.
///
/// # Errors
/// The kernel's; that it is gone already is none.
pub fn remove_pair(sandbox: &Sandbox, pair: &Pair) -> Result<()> {
    gone_is_fine(link::delete(sandbox.host(), pair.host))
}

/// Whether the host end is there; a pair that the reference plugins made has another
/// name.
///
/// # Errors
/// The kernel's.
pub fn has_host_end(sandbox: &Sandbox) -> Result<bool> {
    let mut names = identity::host_link_names(sandbox.request);
    names.next().map_or(Ok(false), |name| {
        link::find(sandbox.host(), &name).map(|end| end.is_some()).map_err(kernel)
    })
}

/// Takes the host end down, so that nothing passes any more: costs 0.1 ms,
/// where to remove it takes 12.
///
/// Like `ip link set vethX down`.
///
/// # Errors
/// The kernel's; that nothing is there is none.
pub fn take_down(sandbox: &Sandbox) -> Result<()> {
    for name in identity::host_link_names(sandbox.request) {
        let Some(end) = link::find(sandbox.host(), &name).map_err(kernel)? else { break };
        gone_is_fine(link::set_down(sandbox.host(), end.index))?;
    }
    Ok(())
}

/// Removes the attachment's pair, whatever is left of it: by the container end
/// if the namespace is there, and by the host end's names (the namespace may
/// only be unmounted, or the container may have renamed its end).
///
/// # Errors
/// The kernel's; that nothing is there is none.
pub fn remove(sandbox: &mut Sandbox) -> Result<()> {
    let ifname = sandbox.request.ifname.as_str();
    if sandbox.namespace().is_some() {
        let container = sandbox.enter()?;
        if let Some(link) =
            link::find(container, ifname).map_err(kernel)?.filter(|link| link.is_kind("veth"))
            && !is_of_another(sandbox, &link)?
        {
            gone_is_fine(link::delete(sandbox.container()?, link.index))?;
        }
    }
    for name in identity::host_link_names(sandbox.request) {
        let Some(left) = link::find(sandbox.host(), &name).map_err(kernel)? else { break };
        gone_is_fine(link::delete(sandbox.host(), left.index))?;
    }
    Ok(())
}

/// Does the host end say that the container's `link` is another attachment's?
/// A network whose ADD failed because the name was taken must not take it from
/// the one that has it. An end without an alias of ours may be this one's.
fn is_of_another(sandbox: &Sandbox, link: &Link) -> Result<bool> {
    let request = sandbox.request;
    let host_end = match link::get_by_index(sandbox.host(), link.link.unwrap_or_default()) {
        Ok(found) if found.is_kind("veth") && found.link == Some(link.index) => found,
        Ok(_) => return Ok(false),
        Err(e) if e.is_not_found() => return Ok(false),
        Err(e) => return Err(kernel(e)),
    };
    let own = identity::alias(request.network.name(), &request.attachment());
    Ok(host_end.alias.is_some_and(|alias| identity::is_ours(&alias) && Some(alias) != own))
}

/// Removes the pairs of attachments of `network` that are not in `valid`. Those
/// without an alias of ours are left to DEL.
///
/// # Errors
/// The kernel's, all of them; it goes on after each.
pub fn sweep(host: &linux::Socket, network: &Network, valid: &Attachments) -> Result<()> {
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    for (_, link) in stale(host, network, valid)? {
        match gone_is_fine(link::delete(host, link.index)) {
            Ok(()) => removed.push(link.name),
            Err(e) => errors.push(e),
        }
    }
    network.removed(&removed);
    Error::join(errors)
}

/// The host ends of attachments of `network` that are not in `valid`, as their
/// aliases say; those without an alias of ours are not among them.
///
/// # Errors
/// The kernel's.
pub fn stale(
    host: &linux::Socket,
    network: &Network,
    valid: &Attachments,
) -> Result<Vec<(AttachmentId, Link)>> {
    let invalid = |link: Link| {
        let attachment = identity::from_alias(network.name(), link.alias.as_deref()?)?;
        (!valid.contains(&attachment)).then_some((attachment, link))
    };
    let ends = link::list_kind(host, "veth").map_err(kernel)?;
    Ok(ends.into_iter().filter_map(invalid).collect())
}

fn gone_is_fine(outcome: linux::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if !e.is_not_found() => Err(kernel(e)),
        _ => Ok(()),
    }
}
