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
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a lock is tried while another process has it.
const PAUSE: Duration = Duration::from_millis(5);

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
    _inner: File,
    _gate: Option<File>,
}

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
        let until = Instant::now() + self.limit;
        let gate = self.open(&self.gate(network))?;
        self.take(&gate, File::try_lock_shared, until, network)?;
        let inner = self.open(&self.inner(network))?;
        self.take(&inner, File::try_lock_shared, until, network)?;
        Ok(Held { _inner: inner, _gate: None })
    }

    /// For GC.
    ///
    /// # Errors
    /// Code 5 when there can be no lock file, 11 when others do not end.
    pub(crate) fn exclusive(&self, network: &str) -> Result<Held> {
        let until = Instant::now() + self.limit;
        let gate = self.open(&self.gate(network))?;
        self.take(&gate, File::try_lock, until, network)?;
        let inner = self.open(&self.inner(network))?;
        self.take(&inner, File::try_lock, until, network)?;
        Ok(Held { _inner: inner, _gate: Some(gate) })
    }

    fn take(
        &self,
        file: &File,
        lock: fn(&File) -> Result<(), TryLockError>,
        until: Instant,
        network: &str,
    ) -> Result<()> {
        loop {
            match lock(file) {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(e)) => {
                    return Err(Error::new(Code::IO, format!("lock network {network:?}: {e}")));
                }
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "flock(2) has no time limit, so this polls"
                    )]
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        Code::TRY_AGAIN,
                        format!(
                            "lock network {network:?}: another process has been at it for {} s: \
                             see who has the files in {} open",
                            self.limit.as_secs(),
                            self.folder.display()
                        ),
                    ));
                }
            }
        }
    }

    fn open(&self, file: &Path) -> Result<File> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .and_then(|()| {
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)
            })
            .map_err(|e| Error::new(Code::IO, format!("open lock file {}: {e}", file.display())))
    }

    fn inner(&self, network: &str) -> PathBuf {
        self.folder.join(short(network))
    }

    /// No network's name begins with a dot.
    fn gate(&self, network: &str) -> PathBuf {
        self.folder.join(format!(".{}.gate", short(network)))
    }
}

/// A name of any length as a file name of at most 200 bytes; names are ASCII.
fn short(network: &str) -> String {
    match network.len() <= 200 {
        true => network.to_owned(),
        false => format!("{}~{}", &network[..160], hex(&Sha512::digest(network)[..8])),
    }
}
