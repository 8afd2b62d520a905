//! Who has a VLAN: the kernel gives each VLAN of a parent to one link only, and
//! says no more than that it is taken. Only called when an ADD fails by that.

use attach::parent::{Parent, Place};
use attach::sandbox::Sandbox;
use linux::link::{self, Link, LinkInfo};
use linux::{Namespace, Socket, netns};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where runtimes bind the namespaces of containers, beside the folder of
/// `CNI_NETNS`.
const FOLDERS: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// The link that has VLAN `id` of `parent`, and where it is: `eth0 in
/// /run/netns/x, of container x on network y`. `None` when it is in a namespace
/// that has no name and no process.
pub(crate) fn find(sandbox: &Sandbox, parent: &Parent, id: u16) -> Option<String> {
    // A parent in the container can only be seen from there.
    if parent.place == Place::Container {
        let link = holder(sandbox.container().ok()?, None, parent, id)?;
        return Some(format!("{} in the same container", describe(&link)));
    }
    if let Some(link) = holder(sandbox.host(), None, parent, id) {
        return Some(format!("{} on the host", describe(&link)));
    }
    let home = sandbox.home();
    candidates(sandbox).into_iter().find_map(|path| {
        let there = Namespace::open(&path).ok().filter(|there| there.id() != home.id())?;
        let link = look_into(&there, home, parent, id)?;
        Some(format!("{} in {}{}", link.name, path.display(), owner(&link)))
    })
}

/// Looks from a thread of its own, since whoever enters a namespace stays.
fn look_into(there: &Namespace, home: &Namespace, parent: &Parent, id: u16) -> Option<Link> {
    let look = || {
        there.enter().ok()?;
        let socket = Socket::route().ok()?;
        // It has no number for a namespace that none of its links leads to.
        let number = netns::nsid(&socket, home).ok()??;
        holder(&socket, Some(number), parent, id)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, look).ok()?;
        thread.join().ok().flatten()
    })
}

fn holder(socket: &Socket, parents: Option<i32>, parent: &Parent, id: u16) -> Option<Link> {
    let has_it = |link: &Link| {
        matches!(link.info, LinkInfo::Vlan { id: other, .. } if other == id)
            && link.link == Some(parent.link.index)
            && link.link_netns_id == parents
    };
    link::list_kind(socket, "vlan").ok()?.into_iter().find(has_it)
}

/// Paths of network namespaces, each namespace once, those with names first.
fn candidates(sandbox: &Sandbox) -> Vec<PathBuf> {
    let given = sandbox.request.netns.as_deref().and_then(Path::parent).map(Path::to_owned);
    let folders = given.into_iter().chain(FOLDERS.map(PathBuf::from));
    let named = folders.flat_map(|folder| entries(&folder));
    let of_processes = entries(Path::new("/proc")).into_iter().filter(|process| {
        process.file_name().is_some_and(|n| n.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    });
    let mut seen = BTreeSet::new();
    named
        .chain(of_processes.map(|process| process.join("ns/net")))
        .filter(|path| path.metadata().is_ok_and(|m| seen.insert((m.dev(), m.ino()))))
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn describe(link: &Link) -> String {
    format!("{}{}", link.name, owner(link))
}

/// Whose it is, if it is one of ours: the alias says so.
fn owner(link: &Link) -> String {
    match link.alias.as_deref().and_then(attach::identity::parts_of_alias) {
        Some((network, container)) => format!(", of container {container} on network {network}"),
        None => String::new(),
    }
}
