//! What an attachment needs to be remembered of beyond the process that made it:
//! one file for each in a directory, and whose it is.
//!
//! | what | value |
//! |---|---|
//! | directory | the plugin's; made with mode 0700 |
//! | file | the plugin's choice of name; mode 0600; it appears whole or not at all |
//! | content | the plugin's; with an [`Origin`] in it, GC and a DEL without namespace know what to do |

use crate::identity::digest;
use cni::{AttachmentId, Attachments, Code, Error, NetworkName, Request, Result};
use linux::Namespace;
use linux::netns::NamespaceId;
use serde_json::{Value, json};
use std::path::Path;
use store::{Dir, Kind};

/// Nobody else's business.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Bytes of the longest file name (`NAME_MAX`, include/uapi/linux/limits.h).
pub const FILE_NAME_MAX: usize = 255;

/// Bytes of the largest file.
const FILE_MAX: usize = 1 << 20;

const INDEX: &str = "ifindex";

/// Whose a record is, and of which namespace. As JSON it is read and written by
/// hand: derived code is some KiB for each such type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The network's name.
    pub network: String,
    attachment: AttachmentId,
    /// Index of the link in the container, if there was one.
    pub index: Option<u32>,
    netns: String,
    netns_id: NamespaceId,
    /// Numbers of namespaces begin anew with a boot.
    boot_id: String,
}

impl Origin {
    /// Of a request whose container the calling thread has entered.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn here(request: &Request, index: Option<u32>) -> Result<Origin> {
        Ok(Origin {
            network: request.network.name().to_string(),
            attachment: request.attachment(),
            index,
            netns: request.sandbox(),
            netns_id: Namespace::current_id().map_err(crate::kernel)?,
            boot_id: boot_id()?,
        })
    }

    /// Is it of this network's, but not in the list of its valid attachments?
    pub fn is_invalid(&self, network: &NetworkName, valid: &Attachments) -> bool {
        self.network == network.as_str() && !valid.contains(&self.attachment)
    }

    /// From JSON; `None` when it is malformed.
    pub fn read(json: &Value) -> Option<Origin> {
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let attachment =
            AttachmentId { container_id: text("containerID")?, ifname: text("ifname")? };
        Some(Origin {
            network: text("network")?,
            attachment,
            index: json[INDEX].as_u64().and_then(|index| u32::try_from(index).ok()),
            netns: text("netns")?,
            netns_id: NamespaceId {
                dev: json["netnsDevice"].as_u64()?,
                ino: json["netnsInode"].as_u64()?,
            },
            boot_id: text("bootID")?,
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let AttachmentId { container_id, ifname } = &self.attachment;
        json!({"network": self.network, "containerID": container_id, "ifname": ifname,
            INDEX: self.index, "netns": self.netns, "netnsDevice": self.netns_id.dev,
            "netnsInode": self.netns_id.ino, "bootID": self.boot_id})
    }

    /// The attachment.
    pub fn attachment(&self) -> &AttachmentId {
        &self.attachment
    }

    /// Is `other` of the same namespace, and is that of this boot?
    pub fn is_beside(&self, other: &Origin) -> bool {
        self.is_in(other.netns_id)
    }

    /// Is it of this namespace?
    pub fn is_of(&self, namespace: &Namespace) -> bool {
        self.is_in(namespace.id())
    }

    /// The container's namespace, if it is still there under its path.
    pub fn namespace(&self) -> Option<Namespace> {
        Namespace::open(&self.netns).ok().filter(|namespace| self.is_of(namespace))
    }

    fn is_in(&self, namespace: NamespaceId) -> bool {
        self.netns_id == namespace && boot_id().is_ok_and(|boot| boot == self.boot_id)
    }
}

/// A directory of records.
pub struct Records {
    dir: Dir,
}

/// An attachment's file, or the place for it.
#[derive(Debug, Clone)]
pub struct Slot {
    name: String,
    content: Option<Vec<u8>>,
}

impl Slot {
    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in the file; `None` when there is none. What is there and no plain
    /// file, or cannot be read, counts as empty.
    pub fn content(&self) -> Option<&[u8]> {
        self.content.as_deref()
    }
}

impl Records {
    /// Opens the directory, making it first if it is missing.
    ///
    /// # Errors
    /// Code 5.
    pub fn create(path: &Path) -> Result<Records> {
        Dir::create(path, DIR_MODE).map(|dir| Records { dir }).map_err(stored)
    }

    /// Opens the directory; `None` when there is none.
    ///
    /// # Errors
    /// Code 5.
    pub fn open(path: &Path) -> Result<Option<Records>> {
        match Dir::open(path) {
            Ok(dir) => Ok(Some(Records { dir })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(stored(e)),
        }
    }

    /// STATUS: could an ADD write there? Where the directory is missing, in the
    /// first of those above it that is there.
    ///
    /// # Errors
    /// Code 5: what stands in the way.
    pub fn verify_writable(path: &Path) -> Result<()> {
        verify_room(path, Dir::check_room)
    }

    /// The file of this name.
    ///
    /// # Errors
    /// Code 5.
    pub fn slot(&self, name: &str) -> Result<Slot> {
        let content = match self.dir.read(name, FILE_MAX) {
            Ok(plain) => Some(plain.content),
            Err(e) if e.is_not_plain() || e.is_unreadable() => Some(Vec::new()),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(stored(e)),
        };
        Ok(Slot { name: name.to_owned(), content })
    }

    /// All files, in the order of their names.
    ///
    /// # Errors
    /// Code 5.
    pub fn all(&self) -> Result<Vec<Slot>> {
        let mut names = Vec::new();
        self.dir
            .each(|name, kind| {
                names.extend(name.to_str().filter(|_| kind == Kind::Plain).map(str::to_owned));
                Ok::<_, store::Error>(())
            })
            .map_err(stored)?;
        names.sort();
        names.iter().map(|name| self.slot(name)).collect()
    }

    /// Makes `text` the content of the file; one that has it already is not
    /// touched.
    ///
    /// # Errors
    /// Code 5; then the file is as it was.
    pub fn write(&self, slot: &Slot, text: &[u8]) -> Result<()> {
        match &slot.content {
            Some(content) if content == text => Ok(()),
            Some(_) => self.dir.replace(&slot.name, FILE_MODE, text).map_err(stored),
            None => self.dir.put(&slot.name, FILE_MODE, text).map_err(stored),
        }
    }

    /// Takes [`Records::write`] back.
    ///
    /// # Errors
    /// Code 5.
    pub fn restore(&self, slot: &Slot) -> Result<()> {
        match &slot.content {
            Some(content) => self.dir.replace(&slot.name, FILE_MODE, content).map_err(stored),
            None => self.remove(slot),
        }
    }

    /// Removes the file; that it is gone already is fine. A directory of its name
    /// is none of ours, and stays.
    ///
    /// # Errors
    /// Code 5.
    pub fn remove(&self, slot: &Slot) -> Result<()> {
        match self.dir.remove(&slot.name) {
            Err(e) if !e.is_not_plain() => Err(stored(e)),
            _ => Ok(()),
        }
    }
}

/// Could one file be made in the folder at `path`, as far as `check` goes?
pub(crate) fn verify_room(path: &Path, check: fn(&Dir, u32) -> store::Result<()>) -> Result<()> {
    // The file, and the folders that are missing.
    for (files, folder) in (1..).zip(path.ancestors()) {
        // Above a relative path of one component is the working directory.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match Dir::open(folder) {
            Err(e) if e.is_not_found() => {
                if folder.is_symlink() {
                    return Err(stored(e.hint("it is a symbolic link that leads nowhere")));
                }
            }
            opened => return opened.and_then(|dir| check(&dir, files)).map_err(stored),
        }
    }
    Ok(())
}

/// A name that is never too long: `sha512-` and 64 digits.
pub fn hashed_name(text: &str) -> String {
    format!("sha512-{}", digest(text, 64))
}

/// Which boot this is: 32 hexadecimal digits.
///
/// # Errors
/// Code 5.
pub fn boot_id() -> Result<String> {
    store::boot_id().map(|id| format!("{id:032x}")).map_err(stored)
}

fn stored(error: store::Error) -> Error {
    Error::new(Code::IO, error.to_string())
}
