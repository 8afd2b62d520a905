//! What outlives a process: directories, locks, files that appear whole, the
//! identity of this boot.
//!
//! It knows no network and no protocol. Files are named by an open directory
//! ([`Dir`]) and a name in it, never through a symbolic link; a file that is
//! no plain file is refused, so that nothing planted in a data directory is
//! written through, waited for or deleted by mistake.
//!
//! - [`Dir`]: open, create (`mkdir -p`), list; create, replace, remove files
//! - [`DataFile`]: a plain file read and changed in place
//! - [`read_foreign`]: a plain file that somebody else keeps, by its path
//! - [`Lock`]: flock(2) with a bounded, fair wait
//! - [`boot_id`], [`booted`], [`now`]: which boot this is and since when, and the
//!   wall clock
//! - [`Error`]: operation, path, cause, hint
//!
//! Nothing is synced to the disk: what these files describe does not survive a
//! power failure either, and a sync costs more than all other work of a verb.
//! So after one a file may be empty or full of NULs, and readers must cope.

mod dir;
mod error;
mod file;
mod lock;
mod present;

pub use dir::{Dir, Kind};
pub use error::{Error, Result};
pub use file::{DataFile, Plain, read_foreign};
pub use lock::Lock;
pub use present::{boot_id, booted, now};
