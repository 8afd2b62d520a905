//! GC of a list: what is attached no longer is detached, then every plugin
//! removes what it has left.

use crate::cache::{Contents, Entry, Presence, remove_file};
use crate::chain::{Runtime, failed};
use crate::list::{ConfigList, Extra};
use crate::lock::Held;
use cni::dispatch::Verb;
use cni::{AttachmentId, Code, Error, Result, Version};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Which attachments survive a GC. What is in neither part is removed,
/// [`Keep::default`] keeps nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// These, whether they are in the cache or not.
    pub attachments: Vec<AttachmentId>,
    /// And each in the cache whose network namespace still exists, or of which that
    /// is not known.
    pub existing: bool,
}

impl Runtime {
    /// Removes what is left of attachments that `keep` does not have: DEL of
    /// each that is in the cache, then GC of each plugin (version 1.1.0 and
    /// later) with the list of those that are kept. Goes on after errors. A
    /// list with `disableGC` is left alone.
    ///
    /// # Errors
    /// The first of all, with the rest as details. Nothing is done when it is
    /// not clear what is to be kept: the cache cannot be read, or a file in
    /// it does not say whose it is while `keep.existing` is asked for.
    pub fn gc(&self, list: &ConfigList, keep: &Keep) -> Result<()> {
        if list.disable_gc() {
            return Ok(());
        }
        list.version()?;
        let _held = self.locks().exclusive(list.name().as_str())?;
        let Plan { stale, valid } = self.plan(list, keep)?;
        let mut errors = Vec::new();
        for entry in &stale {
            let done = entry
                .attachment()
                .and_then(|attachment| self.del_all(list, &attachment, Some(entry)))
                .and_then(|()| remove_file(&entry.file));
            if let Err(e) = done {
                errors.push(e.context(format!(
                    "delete stale attachment {} {}",
                    entry.container_id, entry.ifname
                )));
            }
        }
        if list.is_at_least(Version::V1_1_0) {
            for plugin in list.plugins() {
                let request =
                    plugin.request(list, Extra { valid: Some(&valid), ..Extra::default() });
                let done = self
                    .find(plugin)
                    .and_then(|file| self.execute(&file, Verb::Gc, None, &request));
                if let Err(e) = done {
                    errors.push(failed(plugin, "gc", e));
                }
            }
        }
        Error::join(errors)
    }

    /// What [`Runtime::gc`] would detach.
    ///
    /// # Errors
    /// As [`Runtime::gc`], when it is not clear what is to be kept.
    pub fn stale(&self, list: &ConfigList, keep: &Keep) -> Result<Vec<Entry>> {
        if list.disable_gc() {
            return Ok(Vec::new());
        }
        Ok(self.plan(list, keep)?.stale)
    }

    /// Waits until no other verb is at work on a network, and keeps them from it
    /// as long as the value lives; other runtimes take no notice.
    ///
    /// # Errors
    /// Code 5 when there can be no lock, 11 when others do not end.
    pub fn alone(&self, network: &str) -> Result<Held> {
        self.locks().exclusive(network)
    }

    fn plan(&self, list: &ConfigList, keep: &Keep) -> Result<Plan> {
        plan(list.name().as_str(), keep, self.cache().contents()?)
    }
}

struct Plan {
    /// To be detached. One attachment may be in two files.
    stale: Vec<Entry>,
    /// To be kept, sorted.
    valid: Vec<AttachmentId>,
}

fn plan(network: &str, keep: &Keep, contents: Contents) -> Result<Plan> {
    if keep.existing {
        let prefix = format!("{network}-");
        let doubtful = contents.unreadable.into_iter().find(|(file, _)| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        });
        if let Some((_, error)) = doubtful {
            return Err(Error::new(
                Code::DECODE,
                format!(
                    "find out which attachments of network {network:?} exist: {error}: \
                     nothing was removed; remove the file if nothing is attached under its name"
                ),
            ));
        }
    }
    let (alive, dead): (Vec<Entry>, Vec<Entry>) = contents
        .entries
        .into_iter()
        .filter(|entry| entry.network == network)
        .partition(|entry| keep.existing && entry.presence() != Presence::Gone);
    let mut valid = keep.attachments.clone();
    valid.extend(alive.iter().map(id));
    valid.sort();
    valid.dedup();
    // A second file of an attachment may have an older namespace in it.
    let stale = dead.into_iter().filter(|entry| valid.binary_search(&id(entry)).is_err()).collect();
    Ok(Plan { stale, valid })
}

fn id(entry: &Entry) -> AttachmentId {
    AttachmentId { container_id: entry.container_id.clone(), ifname: entry.ifname.clone() }
}

/// Is there a namespace of a container's at `path`? A file it was once bound to, and
/// which outlived it, is none; nor is that of the machine's first process, which is what
/// `/proc/PID/ns/net` leads to when a process of the host has got the number of a
/// container's that ended.
///
/// Namespaces are files of one file system, nsfs, so its device number tells
/// (`fs/nsfs.c`; `kern_mount` in Linux 3.19 and later).
pub fn is_namespace(path: &Path) -> bool {
    let identity = |path: &str| Path::new(path).metadata().map(|m| (m.dev(), m.ino())).ok();
    let Ok(found) = path.metadata().map(|m| (m.dev(), m.ino())) else { return false };
    let is_nsfs = identity("/proc/self/ns/net").is_some_and(|(device, _)| device == found.0);
    // Where that cannot be seen, nothing is taken for it.
    is_nsfs && identity("/proc/1/ns/net") != Some(found)
}

/// Whether both paths lead to one namespace, by whatever way.
pub fn is_same_namespace(one: &Path, other: &Path) -> bool {
    let number = |path: &Path| path.metadata().map(|m| m.ino()).ok();
    is_namespace(one) && is_namespace(other) && number(one) == number(other)
}

#[cfg(test)]
mod tests;
