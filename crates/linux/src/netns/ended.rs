//! Whether a network namespace that was seen once has ended since.
//!
//! That its path is gone does not tell: it may be mounted elsewhere, or live in a
//! process, in a descriptor, in a socket. Since Linux 6.18 the kernel answers, by the
//! handle of the namespace, whether there is anything of it left (`nsfs_fh_to_dentry`,
//! fs/nsfs.c). Before that, and where it may not be asked, what tells is its number. No
//! two namespaces of any type have the same one at a time (`proc_alloc_inum`,
//! fs/proc/generic.c), and it is given back when the last of them all has let go
//! and the links in it are gone (`net_ns_ops`, the first registered, is the last
//! to be undone: net/core/net_namespace.c at v6.18). So a namespace has ended
//!
//! - if a new namespace gets its number: the kernel gives the lowest that is free;
//! - or if its number is seen on another one: of another type, or with another
//!   [`id`](Trace::id).
//!
//! Anything else, and any error, leaves it open.
//!
//! One that lives is found by the same means: [`Trace::open`].

use super::{NSFS_MAGIC, Namespace};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::statfs;
use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a network namespace is recognised by, also after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its inode number, as in `net:[4026531840]`; another's after its end.
    pub number: u32,
    /// Its number among all namespaces of this boot, never another's; 0 where the
    /// kernel does not tell, before Linux 6.18.
    pub id: u64,
}

/// Namespaces made at a time to learn which numbers are free. A descriptor each,
/// of which a process has 1024 at least; 10 us each.
const MADE_MAX: usize = 500;

impl Trace {
    /// Of the namespace at a path; `None` when there is none, or another file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Trace> {
        if statfs(path).ok()?.filesystem_type() != NSFS_MAGIC {
            return None;
        }
        let number = path.metadata().ok()?.ino().try_into().ok()?;
        match Handle::of(path) {
            None => Some(Trace { number, id: 0 }),
            Some(handle) => {
                let is_it =
                    handle.number == number && handle.kind == CloneFlags::CLONE_NEWNET.bits();
                is_it.then_some(Trace { number, id: handle.id })
            }
        }
    }

    /// The namespace, under whatever path, mount or process it lives on; since Linux
    /// 6.18 also when there is none of them, as in a descriptor. `None` when it has
    /// ended, or cannot be found. Where the [`id`](Trace::id) is not known, it may be
    /// another one that got the number since.
    #[must_use]
    pub fn open(&self) -> Option<Namespace> {
        let is_it = |found: &Namespace| found.id.ino == u64::from(self.number);
        let by_handle = own_file().filter(|_| self.id != 0).map(|own| self.handle().open(&own));
        let mut found = None;
        match by_handle {
            Some(Ok(file)) => found = Namespace::of_file(file.into(), self.to_string().into()).ok(),
            Some(Err(Errno::ESTALE)) => {}
            _ => each_namespace(&mut |kind, number, path| {
                if found.is_none() && number == self.number && !is_another(kind, path, *self) {
                    found = Namespace::open(path).ok().filter(is_it);
                }
            }),
        }
        found.filter(is_it)
    }

    /// What the kernel says of it, asked by `own`; `None` when it says nothing.
    fn has_ended(&self, own: Option<&File>) -> Option<bool> {
        match self.handle().open(own.filter(|_| self.id != 0)?) {
            Ok(_) => Some(false),
            Err(Errno::ESTALE) => Some(true),
            Err(_) => None,
        }
    }

    fn handle(&self) -> Handle {
        Handle {
            bytes: Handle::BYTES,
            format: Handle::FORMAT,
            id: self.id,
            kind: CloneFlags::CLONE_NEWNET.bits(),
            number: self.number,
        }
    }
}

impl fmt::Display for Trace {
    /// As the kernel names it: `net:[4026531840]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.number)
    }
}

/// Any namespace's file stands for the file system that handles are of. A kernel that
/// gives none finds none either, which is no answer.
fn own_file() -> Option<File> {
    let own = Path::new("/proc/thread-self/ns/net");
    Handle::of(own).and_then(|_| File::open(own).ok())
}

/// Which of them are known to have ended, in the same order.
#[must_use]
pub fn ended(traces: &[Trace]) -> Vec<bool> {
    let own = own_file();
    let mut known: Vec<Option<bool>> =
        traces.iter().map(|trace| trace.has_ended(own.as_ref())).collect();
    if let Some(highest) = unknown(traces, &known).map(|trace| trace.number).max() {
        let free = free_numbers(highest);
        mark(traces, &mut known, |trace| free.contains(&trace.number));
    }
    if unknown(traces, &known).next().is_some() {
        each_namespace(&mut |kind, number, path| {
            mark(traces, &mut known, |trace| {
                trace.number == number && is_another(kind, path, *trace)
            });
        });
    }
    known.into_iter().map(|ended| ended == Some(true)).collect()
}

fn unknown<'t>(traces: &'t [Trace], known: &[Option<bool>]) -> impl Iterator<Item = &'t Trace> {
    traces.iter().zip(known).filter(|(_, ended)| ended.is_none()).map(|(trace, _)| trace)
}

fn mark(traces: &[Trace], known: &mut [Option<bool>], has_ended: impl Fn(&Trace) -> bool) {
    for (ended, trace) in known.iter_mut().zip(traces).filter(|(ended, _)| ended.is_none()) {
        *ended = has_ended(trace).then_some(true);
    }
}

/// Is the namespace at `path`, which has the number of `trace`, another one?
fn is_another(kind: &str, path: &Path, trace: Trace) -> bool {
    kind != "net"
        || Trace::of(path).is_some_and(|there| {
            there.number == trace.number && there.id != 0 && trace.id != 0 && there.id != trace.id
        })
}

/// Numbers that no namespace has now, up to `highest` or a little above: those that
/// new UTS namespaces get, the cheapest to make. They end with this call, and so
/// does the thread they are made in, so that this process stays where it is.
fn free_numbers(highest: u32) -> Vec<u32> {
    let make = || {
        let mut made = Vec::new();
        while made.len() < MADE_MAX && unshare(CloneFlags::CLONE_NEWUTS).is_ok() {
            // Open, or the next one would get the same number.
            let Ok(file) = File::open("/proc/thread-self/ns/uts") else { break };
            let number = file.metadata().ok().and_then(|m| u32::try_from(m.ino()).ok());
            let Some(number) = number else { break };
            made.push((number, file));
            if number > highest {
                break;
            }
        }
        made.into_iter().map(|(number, _)| number).collect()
    };
    std::thread::scope(|scope| scope.spawn(make).join().unwrap_or_default())
}

/// Visits type, number and path of the namespaces of all threads that can be seen,
/// and of the mounts in their mount namespaces.
fn each_namespace(visit: &mut dyn FnMut(&str, u32, &Path)) {
    // What ends meanwhile, or may not be looked into, is passed over.
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    let is_process =
        |entry: &fs::DirEntry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit);
    let mut visited = BTreeSet::new();
    for process in entries("/proc".into()).filter(is_process) {
        // Of threads, because each may be elsewhere.
        for thread in entries(process.path().join("task")) {
            for link in entries(thread.path().join("ns")) {
                let path = link.path();
                let Ok(target) = fs::read_link(&path) else { continue };
                let Some((kind, number)) = target.to_str().and_then(parse) else { continue };
                visit(kind, number, &path);
                if kind == "mnt" && visited.insert(number) {
                    each_mounted(&thread.path(), visit);
                }
            }
        }
    }
}

/// The same for what is mounted where the thread is that `thread` in /proc stands for.
fn each_mounted(thread: &Path, visit: &mut dyn FnMut(&str, u32, &Path)) {
    let mounts = fs::read(thread.join("mountinfo")).unwrap_or_default();
    for line in mounts.split(|byte| *byte == b'\n') {
        // `36 35 0:4 net:[4026532294] /run/netns/x rw .. - nsfs nsfs rw`, proc(5)
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(root), Some(point)) = (words.nth(3), words.next()) else { continue };
        if let Some((kind, number)) = std::str::from_utf8(root).ok().and_then(parse) {
            let point = unescape(point);
            let point = point.strip_prefix("/").unwrap_or(&point);
            visit(kind, number, &thread.join("root").join(point));
        }
    }
}

/// `net:[4026531840]`. Other file systems' roots in mountinfo begin with a slash.
fn parse(text: &str) -> Option<(&str, u32)> {
    let (kind, number) = text.strip_suffix(']')?.split_once(":[")?;
    let is_kind = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase());
    number.parse().ok().filter(|_| is_kind).map(|number| (kind, number))
}

/// A path in mountinfo has blanks and backslashes as three octal digits.
fn unescape(point: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(point.len());
    let mut rest = point;
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| *byte == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// `struct file_handle` with a `struct nsfs_file_handle` in it
/// (include/uapi/linux/nsfs.h at v6.18).
#[derive(Default)]
#[repr(C)]
struct Handle {
    bytes: u32,
    format: i32,
    id: u64,
    /// A `CLONE_NEW*` flag.
    kind: i32,
    number: u32,
}

impl Handle {
    const BYTES: u32 = 16;
    /// `FILEID_NSFS`, include/linux/exportfs.h.
    const FORMAT: i32 = 0xf1;

    /// Of the namespace at a path; `None` before Linux 6.18.
    fn of(path: &Path) -> Option<Handle> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        let mut handle = Handle { bytes: Handle::BYTES, ..Handle::default() };
        let mut mount = 0_i32;
        #[expect(unsafe_code, reason = "neither std nor nix has name_to_handle_at(2)")]
        // SAFETY: the path ends with a NUL; the kernel writes a handle of at most
        // `bytes` bytes behind the first two members, which is what the struct has
        // there, and an int.
        let code = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                libc::AT_SYMLINK_FOLLOW,
            )
        };
        let is_one = code == 0 && handle.bytes == Handle::BYTES && handle.format == Handle::FORMAT;
        is_one.then_some(handle)
    }

    /// Opens the namespace; `any` is a file of the same file system.
    fn open(&self, any: &File) -> nix::Result<OwnedFd> {
        #[expect(unsafe_code, reason = "neither std nor nix has open_by_handle_at(2)")]
        // SAFETY: the handle is as long as it says, and only read.
        let code = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                any.as_raw_fd(),
                std::ptr::from_ref(self),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        let fd = i32::try_from(Errno::result(code)?).map_err(|_| Errno::EBADF)?;
        #[expect(unsafe_code, reason = "the system call gave a number")]
        // SAFETY: it is a descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_have_not_ended() {
        let own = Trace::of(Path::new("/proc/thread-self/ns/net")).expect("a thread has one");
        assert_eq!(ended(&[own, own]), [false, false]);
        assert_eq!(ended(&[Trace { id: 0, ..own }]), [false], "of an older kernel");
        assert_eq!(ended(&[]), [false; 0]);
    }

    /// The numbers of this very process's namespaces.
    #[test]
    fn a_number_of_another_namespace_tells() {
        let of = |kind: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a process has it");
            parse(link.to_str().expect("ASCII")).expect("type and number").1
        };
        assert_eq!(ended(&[Trace { number: of("mnt"), id: 0 }]), [true]);
        let own = Trace::of(Path::new("/proc/thread-self/ns/net")).expect("a thread has one");
        let other = Trace { id: own.id ^ 1 << 40, ..own };
        assert_eq!(ended(&[other]), [own.id != 0]);
    }

    #[test]
    fn only_namespaces_leave_a_trace() {
        for path in ["/proc/self/status", "/", "/none-such", "/proc/self/ns/a\0b"] {
            assert_eq!(Trace::of(Path::new(path)), None, "{path:?}");
        }
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(parse("net:[4026531840]"), Some(("net", 4_026_531_840)));
        for odd in ["", "/", "/net:[1]", "net:[", "net:[x]", "net:[4026531840", "[1]"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
        for (written, path) in
            [("/a\\040b", "/a b"), ("/a\\134\\0", "/a\\\\0"), ("\\777x", "\\777x")]
        {
            assert_eq!(unescape(written.as_bytes()), Path::new(path));
        }
    }
}
