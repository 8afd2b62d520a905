//! ADD, DEL and GC of one network at the same time.
//!
//! The specification (section 2, GC) has the runtime keep GC apart from ADD
//! and DEL. ADDs and DELs may run side by side. So they share a lock that GC
//! takes alone. A second lock, the gate, is passed on the way in and held by a
//! GC that waits: a stream of ADDs cannot keep it out for ever.
//!
//! The lock files are in a folder the reference library does not know. It
//! takes no locks, so nothing protects against it, and nothing disturbs it.

use crate::attachment::hex;
use cni::{Code, Error, Result};
use sha2::{Digest, Sha512};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{Dir, Kind, Lock};

/// Nobody else's business, and nobody else may lock them.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The locks of all networks of a cache.
#[derive(Debug, Clone)]
pub(crate) struct Locks {
    folder: PathBuf,
    limit: Duration,
}

/// Given back when dropped, or when the process dies.
#[derive(Debug)]
#[must_use]
pub struct Held {
    _inner: Lock,
    _gate: Option<Lock>,
}

type Take = fn(&Dir, String, u32, Duration) -> store::Result<Lock>;

impl Locks {
    /// Of the cache in `folder`; waits are ended after `limit`.
    pub(crate) fn new(folder: &Path, limit: Duration) -> Locks {
        Locks { folder: folder.join("locks"), limit }
    }

    /// For ADD and DEL.
    ///
    /// # Errors
    /// Code 5 when there can be no lock file, 11 when a GC does not end.
    pub(crate) fn shared(&self, network: &str) -> Result<Held> {
        let [_, inner] = self.pass(network, Lock::share)?;
        Ok(Held { _inner: inner, _gate: None })
    }

    /// For GC.
    ///
    /// # Errors
    /// Code 5 when there can be no lock file, 11 when others do not end.
    pub(crate) fn exclusive(&self, network: &str) -> Result<Held> {
        let [gate, inner] = self.pass(network, Lock::take)?;
        Ok(Held { _inner: inner, _gate: Some(gate) })
    }

    /// Through the gate and in, within the limit together.
    fn pass(&self, network: &str, take: Take) -> Result<[Lock; 2]> {
        let begin = Instant::now();
        let dir = Dir::create(&self.folder, DIR_MODE).map_err(|e| refused(network, &e))?;
        let gate = take_plain(&dir, network, gate_name(network), take, self.limit)?;
        let left = self.limit.saturating_sub(begin.elapsed());
        Ok([gate, take_plain(&dir, network, short(network), take, left)?])
    }
}

/// A pipe or a device that was planted is no lock, though it could be locked.
fn take_plain(dir: &Dir, network: &str, name: String, take: Take, wait: Duration) -> Result<Lock> {
    let kind = dir.kind(&name).map_err(|e| refused(network, &e))?;
    if kind.is_some_and(|kind| kind != Kind::Plain) {
        let path = dir.path().join(name);
        let text = format!("lock network {network:?}: {} is no plain file", path.display());
        return Err(Error::new(Code::IO, text));
    }
    take(dir, name, FILE_MODE, wait).map_err(|e| refused(network, &e))
}

fn refused(network: &str, error: &store::Error) -> Error {
    let code = if error.is_timed_out() { Code::TRY_AGAIN } else { Code::IO };
    Error::new(code, format!("lock network {network:?}: {error}"))
}

/// No network's name begins with a dot.
fn gate_name(network: &str) -> String {
    format!(".{}.gate", short(network))
}

/// A name of any length as a file name of at most 200 bytes; names are ASCII.
fn short(network: &str) -> String {
    match network.len() <= 200 {
        true => network.to_owned(),
        false => format!("{}~{}", &network[..160], hex(&Sha512::digest(network)[..8])),
    }
}
