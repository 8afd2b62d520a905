//! The lock of a network namespace, for what several attachments share there.
//!
//! | what | where | name | removed by |
//! |---|---|---|---|
//! | lock of a host's namespace | [`DIRECTORY`] | `host-` and the namespace's device and inode number | stays |
//! | lock of a container's namespace | the same | `container-` and the inode number modulo 256 | stays |
//!
//! The files are empty and only root can open them. The namespace's own file would
//! leave nothing behind, but anybody who can see a namespace may open that and lock
//! it (flock(2) asks for no right to write), and so stop everybody's networking.
//! Containers share 256 files, so that containers that come and go leave no more;
//! those that start together have numbers that follow each other, and so different
//! files. No verb holds two of these locks at once.
//!
//! Who sets something up needs the lock: [`alone`], [`shared`]. Who takes it away
//! waits with [`Patience`] and goes on without it: a holder that is stopped must
//! not keep a container from ending.

use crate::{kernel, notice, records};
use cni::{Code, Error, Result};
use linux::Namespace;
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};
use store::{Dir, Kind};

/// Beside the records of plugins that need no more than this boot.
pub const DIRECTORY: &str = "/run/cni/oxcni/locks";

/// Nobody else's business, and nobody else may lock them.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Files that all containers share.
const CONTAINER_FILES: u64 = 256;

/// How long a verb that takes something away waits for others, in all. Each
/// takes some milliseconds, 20 when it removes a link.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whose lock.
#[derive(Clone, Copy, Debug)]
pub enum Of<'n> {
    /// The plugin's own namespace.
    Host(&'n Namespace),
    /// A container's.
    Container(&'n Namespace),
}

impl Of<'_> {
    fn file_name(self) -> String {
        match self {
            Of::Host(namespace) => {
                let id = namespace.id();
                format!("host-{}-{}", id.dev, id.ino)
            }
            Of::Container(namespace) => {
                format!("container-{}", namespace.id().ino % CONTAINER_FILES)
            }
        }
    }
}

/// A lock that is held, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Held {
    _lock: store::Lock,
}

/// Waits until nobody else has the lock, and takes it, `doing` what the error
/// says.
///
/// # Errors
/// Code 11 after `wait`, naming who has it; code 5 when the directory cannot be
/// written.
pub fn alone(of: Of, doing: &str, wait: Duration) -> Result<Held> {
    take_alone(of, wait).map_err(|e| refused(&e).context(doing))
}

/// The same, for who says by itself what for.
pub(crate) fn take_alone(of: Of, wait: Duration) -> store::Result<Held> {
    take(of, store::Lock::take, wait)
}

/// The same beside others who share it.
///
/// # Errors
/// Those of [`alone`].
pub fn shared(of: Of, doing: &str, wait: Duration) -> Result<Held> {
    take(of, store::Lock::share, wait).map_err(|e| refused(&e).context(doing))
}

/// Takes the lock if it is free.
///
/// # Errors
/// Code 5 when the directory cannot be written.
pub fn alone_now(of: Of) -> Result<Option<Held>> {
    match take(of, store::Lock::take, Duration::ZERO) {
        Err(e) if e.is_timed_out() => Ok(None),
        other => other.map(Some).map_err(|e| refused(&e)),
    }
}

/// STATUS: could the lock of the namespace that the calling thread is in be taken,
/// once nobody has it?
///
/// # Errors
/// Code 50: what stands in the way.
pub fn verify_host() -> Result<()> {
    let here = Namespace::current().map_err(kernel)?;
    let name = Of::Host(&here).file_name();
    let there = Dir::open(DIRECTORY).and_then(|dir| dir.kind(name));
    if matches!(there, Ok(Some(Kind::Plain))) { Ok(()) } else { verify_containers() }
}

/// The same of a container that is yet to come.
///
/// # Errors
/// As [`verify_host`].
pub fn verify_containers() -> Result<()> {
    records::verify_room(Path::new(DIRECTORY), Dir::check_room_for_empty)
        .map_err(|error| error.with_code(Code::NOT_AVAILABLE))
}

/// What is left of a verb's time to wait, for all the locks it takes.
#[derive(Debug)]
pub struct Patience {
    left: Cell<Duration>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { left: Cell::new(PATIENCE) }
    }
}

impl Patience {
    /// As [`alone`]; `None`, and a notice in the log, when the time is over or the
    /// lock cannot be had at all.
    pub fn alone(&self, of: Of, doing: &str) -> Option<Held> {
        let begin = Instant::now();
        let held = alone(of, doing, self.left.get());
        self.left.set(self.left.get().saturating_sub(begin.elapsed()));
        held.map_err(|error| notice(&format!("{error}: going on without it"))).ok()
    }
}

type Take = fn(&Dir, String, u32, Duration) -> store::Result<store::Lock>;

fn take(of: Of, take: Take, wait: Duration) -> store::Result<Held> {
    let dir = Dir::create(DIRECTORY, DIR_MODE)?;
    take(&dir, of.file_name(), FILE_MODE, wait).map(|lock| Held { _lock: lock })
}

fn refused(error: &store::Error) -> Error {
    let code = if error.is_timed_out() { Code::TRY_AGAIN } else { Code::IO };
    Error::new(code, error.to_string())
}
