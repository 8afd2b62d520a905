//! Devices that the reference plugin lent. It keeps no record: in the
//! container the link is called as the runtime said, and its alias is its name
//! on the host. How it was before is not known; it comes back down, as that
//! plugin has it.

use crate::conf::{LinkSelector, Selection};
use crate::device::{Sides, expect_free};
use crate::recognise;
use attach::kernel;
use cni::Result;
use linux::Socket;
use linux::link::{self, Change, Link};
use std::os::fd::AsFd;

/// Gives the device back, if there is one, from the container or from where
/// the kernel put it when the namespace ended. `is_claimed` tells the devices
/// that have a record.
///
/// # Errors
/// Another link of the host has its name; the kernel's.
pub(crate) fn give_back(
    sides: &Sides,
    ifname: &str,
    selection: Option<&Selection>,
    is_claimed: impl Fn(&Link) -> bool,
) -> Result<()> {
    let Some(container) = sides.container else {
        return rename_returned(sides.host, ifname, selection);
    };
    let link = link::find(container, ifname).map_err(kernel)?;
    let Some(link) = link.filter(|link| link.name == ifname && !is_claimed(link)) else {
        return Ok(());
    };
    let Some(name) = name_on_host(&link).filter(|_| may_be(&link, selection)) else {
        return Ok(());
    };
    expect_free(sides.host, name)?;
    Change::new(link.index)
        .namespace(sides.home.as_fd())
        .name(name)
        .apply(container)
        .map_err(|e| kernel(e.operation(format!("give {name} back to the host"))))?;
    let home = link::get(sides.host, name).map_err(kernel)?;
    link::set_alias(sides.host, home.index, "").map_err(kernel)
}

/// Gives hardware its name back that the kernel brought home. Only where there
/// is no doubt: any link may have an alias.
fn rename_returned(host: &Socket, ifname: &str, selection: Option<&Selection>) -> Result<()> {
    let Some(selector) = selection.and_then(|selection| selection.link.as_ref()) else {
        return Ok(());
    };
    let links = link::list(host).map_err(kernel)?;
    let named = |link: &Link| match selector {
        LinkSelector::Name(name) => {
            link.alias.as_ref() == Some(name)
                && (link.name == ifname || recognise::is_fallback(&link.name))
        }
        LinkSelector::Mac(mac) => link.mac == Some(*mac) && recognise::is_fallback(&link.name),
        LinkSelector::KernelPath(_) => false,
    };
    let returned = links.iter().find(|link| link.kind.is_none() && named(link));
    let Some((link, name)) = returned.and_then(|link| Some((link, name_on_host(link)?))) else {
        return Ok(());
    };
    if link.name == name {
        return Ok(());
    }
    expect_free(host, name)?;
    Change::new(link.index)
        .down()
        .apply(host)
        .and_then(|()| link::rename(host, link.index, name))
        .and_then(|()| link::set_alias(host, link.index, ""))
        .map_err(|e| kernel(e.operation(format!("rename {} to {name}", link.name))))
}

/// Can the link in the container be the one the configuration means?
fn may_be(link: &Link, selection: Option<&Selection>) -> bool {
    match selection.and_then(|selection| selection.link.as_ref()) {
        Some(LinkSelector::Name(name)) => {
            link.alias.as_ref() == Some(name) || link.alt_names.contains(name)
        }
        Some(LinkSelector::Mac(mac)) => link.mac == Some(*mac) || link.perm_mac == Some(*mac),
        // Sysfs does not show what is in a container.
        Some(LinkSelector::KernelPath(_)) | None => true,
    }
}

/// The alias, where it can be a link's name (`dev_valid_name`, net/core/dev.c
/// at v6.18).
fn name_on_host(link: &Link) -> Option<&str> {
    let is_name = |text: &&str| {
        !text.is_empty()
            && text.len() <= link::NAME_MAX
            && *text != "."
            && *text != ".."
            && !text.contains(|c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace())
    };
    link.alias.as_deref().filter(is_name)
}
