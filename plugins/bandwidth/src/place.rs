//! Where an attachment is shaped: at the host end of its veth pair, which the
//! container cannot reach, or, where its link has none, in the container.
//!
//! The host end is found by the pair itself. Results of other programs have it
//! under other names, in odd places, or not at all.

use attach::kernel;
use attach::sandbox::Sandbox;
use cni::{Error, Result};
use linux::Socket;
use linux::link::{self, Link};
use linux::netns;

/// A side of the attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    /// In its namespace.
    Container,
}

impl Side {
    /// Its links.
    ///
    /// # Errors
    /// The container was not entered.
    pub(crate) fn socket<'s>(self, sandbox: &'s Sandbox) -> Result<&'s Socket> {
        match self {
            Side::Host => Ok(sandbox.host()),
            Side::Container => sandbox.container(),
        }
    }
}

/// The link whose traffic is shaped.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) side: Side,
    pub(crate) index: u32,
    pub(crate) name: String,
    /// In bytes.
    pub(crate) mtu: u32,
}

impl Place {
    pub(crate) fn new(side: Side, link: Link) -> Place {
        Place { side, index: link.index, name: link.name, mtu: link.mtu }
    }

    /// `veth1234, the host end of eth0`, or `eth0`.
    pub(crate) fn describe(&self, ifname: &str) -> String {
        match self.side {
            Side::Host => format!("{}, the host end of {ifname}", self.name),
            Side::Container => self.name.clone(),
        }
    }
}

/// Finds it, and takes the thread into the container for that.
///
/// # Errors
/// The container has no such link, or it is its loopback.
pub(crate) fn find(sandbox: &mut Sandbox) -> Result<Place> {
    let ifname = sandbox.request.ifname.as_str();
    match find_if_there(sandbox)? {
        Some(place) => Ok(place),
        None => Err(Error::internal(format!(
            "shape {ifname} in {}: there is no such link, or it is the loopback",
            sandbox.request.sandbox()
        ))),
    }
}

/// [`find`] for DEL: `None` where there is nothing to shape (any more).
///
/// # Errors
/// The kernel's.
pub(crate) fn find_if_there(sandbox: &mut Sandbox) -> Result<Option<Place>> {
    if sandbox.namespace().is_none() {
        return Ok(None);
    }
    let ifname = sandbox.request.ifname.as_str();
    let link = link::find(sandbox.enter()?, ifname).map_err(kernel)?;
    let Some(link) = link.filter(|link| !link.is_loopback()) else { return Ok(None) };
    if let Some(end) = host_end(sandbox, &link)? {
        return Ok(Some(Place::new(Side::Host, end)));
    }
    Ok(Some(Place::new(Side::Container, link)))
}

/// The other end of a veth pair, if that is on this host: indexes are numbered
/// anew in each namespace, so it must be this one that the pair leads to.
fn host_end(sandbox: &Sandbox, link: &Link) -> Result<Option<Link>> {
    let (Some(peer), Some(there)) = (link.link, link.link_netns_id) else { return Ok(None) };
    if !link.is_kind("veth") {
        return Ok(None);
    }
    if netns::nsid(sandbox.container()?, sandbox.home()).map_err(kernel)? != Some(there) {
        return Ok(None);
    }
    match link::get_by_index(sandbox.host(), peer) {
        Ok(end) => Ok(Some(end)),
        // It went while we asked, and its end with it.
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(kernel(e)),
    }
}
