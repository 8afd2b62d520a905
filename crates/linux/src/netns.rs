//! Network namespaces: open one by path, compare, enter, run a child in it; whether
//! one has ended, and where it lives on.

mod ended;

pub use ended::{Trace, ended};

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::error::{Error, ErrorKind, Result};
use crate::netlink::{Attrs, Message, Socket};
use crate::uapi::{NETNSA_FD, NETNSA_NSID, RTM_GETNSID, RTM_NEWNSID};

/// `sizeof(struct rtgenmsg)`, padded.
const RTGENMSG_LEN: usize = 4;

/// An open handle on a network namespace; keeps it alive.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    id: NamespaceId,
    path: PathBuf,
}

/// Identifies a namespace while it exists: two handles with equal IDs are the
/// same namespace, whatever their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    /// Device number of the namespace file system.
    pub dev: u64,
    /// Inode number, as in `net:[4026531840]`.
    pub ino: u64,
}

impl Namespace {
    /// Opens the namespace at a path such as `/run/netns/x` or
    /// `/proc/1234/ns/net`.
    ///
    /// # Errors
    ///
    /// * [`is_not_found`](Error::is_not_found): nothing is there, or a parent
    ///   of it is no directory;
    /// * [`is_not_namespace`](Error::is_not_namespace): something else is
    ///   there, such as the plain file that stays when a namespace is
    ///   unmounted, or a namespace of another type;
    /// * otherwise what `open` answered.
    pub fn open(path: impl AsRef<Path>) -> Result<Namespace> {
        Namespace::open_path(path.as_ref())
    }

    fn open_path(path: &Path) -> Result<Namespace> {
        let operation = || format!("open network namespace {}", path.display());
        let file = OpenOptions::new()
            .read(true)
            // A planted FIFO or terminal must not block or be taken over.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| {
                let not_there = error.raw_os_error() == Some(libc::ENOTDIR);
                let error = Error::from_io(operation(), &error);
                if not_there { error.of_kind(ErrorKind::NotFound) } else { error }
            })?;
        Namespace::of_file(file, path.to_owned())
    }

    fn of_file(file: File, path: PathBuf) -> Result<Namespace> {
        let operation = || format!("open network namespace {}", path.display());
        let metadata = file.metadata().map_err(|error| Error::from_io(operation(), &error))?;
        if !is_network_namespace(&file).map_err(|error| Error::from_io(operation(), &error))? {
            return Err(Error::with_kind(
                operation(),
                ErrorKind::NotNamespace,
                "not a network namespace",
            )
            .hint("the namespace may have been removed and its file left behind"));
        }
        let id = NamespaceId { dev: metadata.dev(), ino: metadata.ino() };
        Ok(Namespace { file, id, path })
    }

    /// The namespace of the calling thread.
    ///
    /// Of the thread, not the process: `/proc/self` is the main thread's, and
    /// namespaces belong to threads.
    ///
    /// # Errors
    ///
    /// When /proc is not mounted.
    pub fn current() -> Result<Namespace> {
        Namespace::open("/proc/thread-self/ns/net")
    }

    /// The identity of the calling thread's namespace, without opening it.
    ///
    /// # Errors
    ///
    /// When /proc is not mounted.
    pub fn current_id() -> Result<NamespaceId> {
        let metadata = fs::metadata("/proc/thread-self/ns/net")
            .map_err(|error| Error::from_io("identify current network namespace", &error))?;
        Ok(NamespaceId { dev: metadata.dev(), ino: metadata.ino() })
    }

    /// The identity, to compare with others.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// What it is recognised by after its end; `None` without /proc.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        Trace::of(Path::new(&format!("/proc/thread-self/fd/{}", self.file.as_raw_fd())))
    }

    /// The path it was opened by; `net:[4026531840]` where it has none.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// Sockets and /proc/sys/net follow at once; sockets opened before stay
    /// where they were; /sys does not follow.
    ///
    /// # Errors
    ///
    /// [`is_permission`](Error::is_permission) without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            Error::from_errno(
                format!("enter network namespace {}", self.path.display()),
                errno as i32,
            )
        })
    }

    /// A socket for its links, addresses and routes, while the calling thread
    /// stays where it is (a thread of its own goes there to open it, 100 us).
    ///
    /// # Errors
    ///
    /// Those of [`Namespace::enter`] and [`Socket::route`].
    pub fn route_socket(&self) -> Result<Socket> {
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                self.enter()?;
                Socket::route()
            });
            opening.join().unwrap_or_else(|_| {
                let operation =
                    format!("open a socket in network namespace {}", self.path.display());
                Err(Error::with_kind(operation, ErrorKind::Other, "the thread died"))
            })
        })
    }

    /// Makes the child that `command` will start run in the namespace, like
    /// `ip netns exec` without its mounts.
    ///
    /// # Errors
    ///
    /// When the handle cannot be duplicated. What goes wrong in the child is
    /// an error of `spawn`.
    pub fn run_command_in(&self, command: &mut Command) -> Result<()> {
        let file = self.file.try_clone().map_err(|error| {
            Error::from_io(format!("duplicate network namespace {}", self.path.display()), &error)
        })?;
        #[expect(unsafe_code, reason = "the only way to act between fork and exec")]
        // SAFETY: the closure runs in the child after fork, where only
        // async-signal-safe calls are allowed. It makes one system call and
        // builds its error from a number: no allocation, no lock.
        unsafe {
            command
                .pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(())
    }
}

nix::ioctl_none_bad!(
    /// The type of a namespace file, as a `CLONE_NEW*` flag
    /// (`NS_GET_NSTYPE`, include/uapi/linux/nsfs.h).
    ns_get_nstype,
    nix::request_code_none!(0xb7, 3)
);

fn is_network_namespace(file: &File) -> io::Result<bool> {
    if fstatfs(file)?.filesystem_type() != NSFS_MAGIC {
        return Ok(false);
    }
    #[expect(unsafe_code, reason = "nix offers ioctls as unsafe functions only")]
    // SAFETY: the request takes no argument and the descriptor is open.
    let kind = unsafe { ns_get_nstype(file.as_raw_fd()) }?;
    Ok(kind == CloneFlags::CLONE_NEWNET.bits())
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The number by which the namespace of `socket` knows `namespace`, as it
/// stands in [`Link::link_netns_id`](crate::link::Link::link_netns_id); `None`
/// if it has none yet. Like `ip netns list-id`.
///
/// # Errors
///
/// The kernel's.
pub fn nsid(socket: &Socket, namespace: &Namespace) -> Result<Option<i32>> {
    let mut message = Message::new(
        RTM_GETNSID,
        0,
        format!("get ID of network namespace {}", namespace.path.display()),
    );
    message.put(&[0; RTGENMSG_LEN]).attr(NETNSA_FD, &namespace.file.as_raw_fd().to_ne_bytes());
    socket.get(message, |reply| {
        let id = Attrs::after(reply.body, RTGENMSG_LEN).find(NETNSA_NSID)?.i32()?;
        // NETNSA_NSID_NOT_ASSIGNED is -1.
        Some((id >= 0).then_some(id))
    })
}

/// Lets the kernel number `namespace` in the namespace of `socket`, and answers
/// the number; one that exists is kept. Like `ip netns set NAME auto`.
///
/// # Errors
///
/// The kernel's.
pub fn ensure_nsid(socket: &Socket, namespace: &Namespace) -> Result<i32> {
    let operation = format!("number network namespace {}", namespace.path.display());
    let mut message = Message::new(RTM_NEWNSID, 0, operation.clone());
    message
        .put(&[0; RTGENMSG_LEN])
        .attr(NETNSA_FD, &namespace.file.as_raw_fd().to_ne_bytes())
        .attr(NETNSA_NSID, &(-1_i32).to_ne_bytes());
    match socket.request(message) {
        Err(error) if !error.is_exists() => return Err(error),
        _ => {}
    }
    nsid(socket, namespace)?.ok_or_else(|| Error::protocol(operation, "no number was given"))
}
