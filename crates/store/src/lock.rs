//! flock(2) with a bounded, fair wait.

use crate::{Dir, Error, Result};
use fs2::FileExt;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, major, minor};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// An advisory lock on a file. It ends with the value, and with the process
/// whatever happens to it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Beside whom one has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    WithOthers,
}

/// Of the thread that waits; it makes one system call.
const STACK: usize = 64 << 10;

impl Lock {
    /// Locks the file `name` in `dir`, making it with `mode` where it is
    /// missing, like `flock -w SECONDS DIR/NAME`. Whoever waits longest gets it
    /// first.
    ///
    /// # Errors
    /// [`Error::is_timed_out`] after `wait`, naming who holds it;
    /// [`Error::is_not_plain`] for a symbolic link.
    pub fn take(dir: &Dir, name: impl AsRef<OsStr>, mode: u32, wait: Duration) -> Result<Lock> {
        Lock::acquire(dir, name.as_ref(), mode, wait, Sharing::Alone)
    }

    /// The same beside others who share it, like `flock -s -w SECONDS DIR/NAME`.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn share(dir: &Dir, name: impl AsRef<OsStr>, mode: u32, wait: Duration) -> Result<Lock> {
        Lock::acquire(dir, name.as_ref(), mode, wait, Sharing::WithOthers)
    }

    fn acquire(
        dir: &Dir,
        name: &OsStr,
        mode: u32,
        wait: Duration,
        sharing: Sharing,
    ) -> Result<Lock> {
        let path = dir.path().join(name);
        // None is further away than the clock reaches.
        let deadline = Instant::now().checked_add(wait);
        loop {
            let file = open(dir, name, mode, &path)?;
            let left = deadline.map_or(wait, |d| d.saturating_duration_since(Instant::now()));
            let file = match lock(file, left, sharing) {
                Ok(file) => file,
                Err(Failed::Io(e)) => return Err(Error::io("lock", &path, &e)),
                Err(Failed::TimedOut) => return Err(timed_out(dir, name, &path, wait)),
            };
            // While this process waited, somebody may have removed the file:
            // then the lock is of no file that others can find.
            match fstat(&file) {
                Ok(stat) if stat.st_nlink == 0 => {}
                Ok(_) => return Ok(Lock { _file: file }),
                Err(e) => return Err(Error::errno("stat", &path, e)),
            }
        }
    }
}

fn open(dir: &Dir, name: &OsStr, mode: u32, path: &Path) -> Result<File> {
    // Read-only, so that it works where nothing may be written.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(mode);
    let fd = match openat(dir, name, flags, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) => openat(dir, name, flags | OFlag::O_CREAT, mode),
        other => other,
    };
    match fd {
        Ok(fd) => Ok(File::from(fd)),
        Err(nix::errno::Errno::ELOOP) => {
            Err(Error::not_plain("lock", path, "it is a symbolic link, not followed"))
        }
        Err(e) => Err(Error::errno("lock", path, e)),
    }
}

enum Failed {
    Io(io::Error),
    TimedOut,
}

/// Tries; where that fails, a thread waits in the kernel's queue, and this one
/// for the thread.
fn lock(file: File, wait: Duration, sharing: Sharing) -> Result<File, Failed> {
    // Since Rust 1.89 `File` has methods of the same names, which win over
    // the trait's in a method call.
    let tried = match sharing {
        Sharing::Alone => FileExt::try_lock_exclusive(&file),
        Sharing::WithOthers => FileExt::try_lock_shared(&file),
    };
    match tried {
        Ok(()) => return Ok(file),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
        Err(e) => return Err(Failed::Io(e)),
    }
    if wait.is_zero() {
        return Err(Failed::TimedOut);
    }
    let (sender, receiver) = sync_channel(0);
    let waiting = move || {
        let locked = loop {
            let locked = match sharing {
                Sharing::Alone => FileExt::lock_exclusive(&file),
                Sharing::WithOthers => FileExt::lock_shared(&file),
            };
            match locked {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        // Nobody listens any more when the deadline has passed; the file, and
        // with it the lock, is then dropped here.
        let _ = sender.send(locked.map(|()| file));
    };
    // It is not joined: after the deadline it may wait as long as the holder
    // pleases.
    std::thread::Builder::new().stack_size(STACK).spawn(waiting).map_err(Failed::Io)?;
    match receiver.recv_timeout(wait) {
        Ok(locked) => locked.map_err(Failed::Io),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Failed::TimedOut),
    }
}

/// Of a holder that this process namespace does not show.
const UNSEEN: &str = "of another process namespace, or by a child of a process that has ended";

/// How often the holder is looked for. The kernel's list passes over a lock when
/// one in front of it ends between two reads of the list.
const LOOKS: usize = 5;

/// The list in as few reads as the kernel allows: a page each.
fn held_locks() -> io::Result<String> {
    let mut text = String::with_capacity(64 << 10);
    File::open("/proc/locks")?.read_to_string(&mut text)?;
    Ok(text)
}

fn timed_out(dir: &Dir, name: &OsStr, path: &Path, wait: Duration) -> Error {
    let holder = open(dir, name, 0, path)
        .ok()
        .and_then(|file| fstat(file).ok())
        .and_then(|stat| (0..LOOKS).find_map(|_| holder(&held_locks().ok()?, &stat)));
    let process = holder.map(|pid| (pid, std::fs::read_to_string(format!("/proc/{pid}/comm"))));
    let by = match process {
        Some((pid, Ok(command))) => format!("by process {pid} ({})", command.trim_end()),
        // What a process started while it held the lock holds it as well, and
        // below the first process namespace the kernel then lists nobody.
        Some((pid, Err(_))) => format!("by process {pid} {UNSEEN}"),
        None => format!("by a process {UNSEEN}"),
    };
    Error::timed_out("lock", path, format!("still held {by} after {} s", wait.as_secs_f64()))
        .hint("see what that process waits for, or end it")
}

/// Who holds a lock of flock(2) on the file, by the lines of `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 708 00:13:1523 0 EOF` (proc(5)).
fn holder(locks: &str, stat: &FileStat) -> Option<u32> {
    let of_inode = |line: &&[&str]| {
        line.get(1) == Some(&"FLOCK")
            && line.get(5).and_then(|id| id.rsplit(':').next()?.parse().ok()) == Some(stat.st_ino)
    };
    let device = format!("{:02x}:{:02x}:", major(stat.st_dev), minor(stat.st_dev));
    let lines: Vec<Vec<&str>> =
        locks.lines().map(|line| line.split_whitespace().collect()).collect();
    let found: Vec<&[&str]> = lines.iter().map(Vec::as_slice).filter(|l| of_inode(l)).collect();
    // Some file systems (btrfs, overlayfs) show another device to stat(2).
    let exact = found.iter().find(|line| line[5].starts_with(&device)).or_else(|| found.first());
    exact.and_then(|line| line.get(4)?.parse().ok())
}

#[cfg(test)]
mod tests;
