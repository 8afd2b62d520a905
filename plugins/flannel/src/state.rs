//! What ADD told the delegate, so that DEL can say the same even when the
//! lease or the configuration has changed since.
//!
//! The reference program names its file by the container alone; a second
//! attachment of the container overwrites the first's. Ours is named by the
//! whole attachment (`@` occurs in none of the parts), with a copy under the
//! reference's name while that is free, so that either program can tear down
//! what the other made.

use crate::delegate::Config;
use cni::{AttachmentId, Attachments, Code, Error, NetworkName, Request, Result};
use std::path::Path;
use store::{Dir, Kind};

/// As the reference program makes them.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The largest state that is read, in bytes: as much as a configuration may
/// have.
const STATE_LIMIT: usize = 16 << 20;

/// Who remembers an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    /// The reference program alone: it made the attachment.
    Theirs,
    Ours,
}

/// What is remembered before an ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) known: Known,
    /// Nobody has the reference program's name for the container.
    is_free: bool,
}

/// The directory of states.
pub(crate) struct States {
    dir: Dir,
}

fn failed(error: store::Error) -> Error {
    Error::new(Code::IO, error.to_string())
}

fn file_name(network: &NetworkName, attachment: &AttachmentId) -> String {
    format!("{}@{network}@{}", attachment.container_id, attachment.ifname)
}

fn own_name(request: &Request) -> String {
    file_name(request.network.name(), &request.attachment())
}

impl States {
    /// Opens the directory, making it first if it is missing.
    pub(crate) fn create(path: &Path) -> Result<States> {
        Dir::create(path, DIR_MODE).map(|dir| States { dir }).map_err(failed)
    }

    /// Opens the directory; `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<States>> {
        match Dir::open(path) {
            Ok(dir) => Ok(Some(States { dir })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// What is remembered before an ADD.
    pub(crate) fn before(&self, request: &Request) -> Result<Before> {
        let shared = self.load(request.container_id.as_str())?;
        let network = request.network.name();
        let is_of_network =
            shared.as_ref().is_some_and(|config| config.network() == Some(network.as_str()));
        let known = if self.dir.kind(own_name(request)).map_err(failed)?.is_some() {
            Known::Ours
        } else if is_of_network
            // Else it is the copy of that one.
            && !self.has_any(&format!("{}@{network}@", request.container_id))?
        {
            Known::Theirs
        } else {
            Known::Nothing
        };
        Ok(Before { known, is_free: shared.is_none() })
    }

    /// Remembers `config`; it appears whole or not at all.
    pub(crate) fn write(&self, request: &Request, config: &[u8], before: Before) -> Result<()> {
        self.dir.put(own_name(request), FILE_MODE, config).map_err(failed)?;
        match before.is_free {
            true => {
                let shared = request.container_id.as_str();
                self.dir.put(shared, FILE_MODE, config).map_err(failed)
            }
            // Another attachment's, of whichever program.
            false => Ok(()),
        }
    }

    /// What was remembered of the attachment, by ours or by the reference
    /// program; `None` when it is missing, damaged, or cannot be read.
    pub(crate) fn read(&self, request: &Request) -> Result<Option<Config>> {
        if let Some(config) = self.load(&own_name(request))? {
            return Ok(Some(config));
        }
        let shared = self.load(request.container_id.as_str())?;
        Ok(shared.filter(|config| config.network() == Some(request.network.name().as_str())))
    }

    fn load(&self, name: &str) -> Result<Option<Config>> {
        match self.dir.read(name, STATE_LIMIT) {
            Ok(plain) => Ok(Config::parse(&plain.content)),
            Err(e) if e.is_not_found() || e.is_not_plain() || e.is_unreadable() => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Forgets the attachment.
    pub(crate) fn remove(&self, request: &Request) -> Result<()> {
        self.forget(request.network.name(), &request.attachment())
    }

    /// Takes back what [`States::write`] added to what the reference program
    /// remembers, which stays.
    pub(crate) fn remove_ours(&self, request: &Request) -> Result<()> {
        self.remove_file(&own_name(request))
    }

    fn forget(&self, network: &NetworkName, attachment: &AttachmentId) -> Result<()> {
        self.remove_file(&file_name(network, attachment))?;
        // The copy stays while another attachment of the container is here.
        let shared = attachment.container_id.as_str();
        match self.has_any(&format!("{shared}@"))?
            || self.dir.kind(shared).map_err(failed)? != Some(Kind::Plain)
        {
            true => Ok(()),
            false => self.dir.remove(shared).map(drop).map_err(failed),
        }
    }

    fn remove_file(&self, name: &str) -> Result<()> {
        match self.dir.remove(name) {
            // A directory is none of ours, and stays.
            Err(e) if !e.is_not_plain() => Err(failed(e)),
            _ => Ok(()),
        }
    }

    /// Is there a state whose name begins so?
    fn has_any(&self, prefix: &str) -> Result<bool> {
        let mut found = false;
        self.dir
            .each(|name, _| {
                found |= name.as_encoded_bytes().starts_with(prefix.as_bytes());
                Ok::<_, store::Error>(())
            })
            .map_err(failed)?;
        Ok(found)
    }

    /// Forgets the attachments of `network` that are not in `valid`; and what
    /// the reference program remembered of containers that have none.
    pub(crate) fn sweep(&self, network: &NetworkName, valid: &Attachments) -> Result<()> {
        let mut names = Vec::new();
        self.dir
            .each(|name, kind| {
                names.extend(name.to_str().filter(|_| kind == Kind::Plain).map(str::to_owned));
                Ok::<_, store::Error>(())
            })
            .map_err(failed)?;
        for name in names {
            match name.split('@').collect::<Vec<_>>()[..] {
                [container_id, of, ifname] if of == network.as_str() => {
                    let attachment =
                        AttachmentId { container_id: container_id.into(), ifname: ifname.into() };
                    if !valid.contains(&attachment) {
                        self.forget(network, &attachment)?;
                    }
                }
                [container_id] if !valid.has_container(container_id) => {
                    let of_network =
                        self.load(&name)?.is_some_and(|c| c.network() == Some(network.as_str()));
                    if of_network {
                        self.dir.remove(&name).map_err(failed)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
