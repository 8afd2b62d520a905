//! TAP devices: Ethernet links whose other end is a program, such as a virtual
//! machine monitor, that opens `/dev/net/tun`.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, pipe};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, write};

use crate::error::{Error, ErrorKind, Result};
use crate::link::NAME_MAX;

const DEVICE: &CStr = c"/dev/net/tun";

/// The label a thread acts under (proc_pid_attr(5)).
const OWN_LABEL: &CStr = c"/proc/thread-self/attr/current";

// include/uapi/linux/if_tun.h at v6.18
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
/// Refuse a name that is used instead of attaching to that device.
const IFF_TUN_EXCL: u16 = 0x8000;

/// A TAP device to be created, like `ip tuntap add mode tap`. It stays until it
/// is deleted or its namespace ends.
///
/// ```no_run
/// # fn main() -> linux::Result<()> {
/// use linux::tap::TapSpec;
///
/// TapSpec { name: "tap0", owner: Some(107), ..TapSpec::default() }.create()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TapSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The user that may open it without `CAP_NET_ADMIN`. With the group as
    /// well, both must fit; with neither, any user may
    /// (`tun_not_capable`, drivers/net/tun.c at v6.18).
    pub owner: Option<u32>,
    /// The group that may open it.
    pub group: Option<u32>,
    /// Whether programs may open it several times, once for each queue; then
    /// they must ask for it too.
    pub multi_queue: bool,
    /// The SELinux context the device is made under, which decides who may
    /// open it: `system_u:system_r:container_t:s0`.
    pub selinux_context: Option<&'a str>,
}

/// `struct ifreq` as `TUNSETIFF` reads it: 16 bytes of name, flags, and what
/// is left of a union (40 bytes in all on 64-bit machines, 32 on others).
#[repr(C)]
struct Request {
    name: [u8; NAME_MAX + 1],
    flags: u16,
    rest: [u8; 22],
}

impl Request {
    /// For a name that was checked.
    fn new(name: &str, flags: u16) -> Request {
        let flags = IFF_TAP | IFF_NO_PI | flags;
        let mut request = Request { name: [0; NAME_MAX + 1], flags, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request
    }
}

// Their arguments are declared as pointers to int, but are what stands here
// (drivers/net/tun.c at v6.18).
nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF`
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    Request
);
nix::ioctl_write_int_bad!(
    /// `TUNSETPERSIST`
    tun_set_persist,
    nix::request_code_write!(b'T', 203, size_of::<libc::c_int>())
);
nix::ioctl_write_int_bad!(
    /// `TUNSETOWNER`
    tun_set_owner,
    nix::request_code_write!(b'T', 204, size_of::<libc::c_int>())
);
nix::ioctl_write_int_bad!(
    /// `TUNSETGROUP`
    tun_set_group,
    nix::request_code_write!(b'T', 206, size_of::<libc::c_int>())
);

/// What failed; a child tells its parent by these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Label = 1,
    Open,
    Create,
    Owner,
    Group,
    Persist,
}

impl Step {
    const ALL: [Step; 6] =
        [Step::Label, Step::Open, Step::Create, Step::Owner, Step::Group, Step::Persist];
}

type Failure = (Step, Errno);

/// Could a TAP device be created? Opens the device that makes them, and makes
/// none.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) without /dev/net/tun or its driver;
/// [`is_permission`](Error::is_permission).
pub fn available() -> Result<()> {
    match open(DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(errno) => Err(open_error("open /dev/net/tun".to_owned(), errno)),
    }
}

/// Opens the device as the program at its other end does: what the link sends
/// is read from the file, a frame a time, and what is written to it the link
/// receives. Meanwhile the link has carrier. A device that is not there is made,
/// and goes with the file.
///
/// The calling thread must be in its namespace.
///
/// # Errors
///
/// * [`is_busy`](Error::is_busy) when another program has its only queue;
/// * [`ErrorKind::Invalid`] when it is no TAP device, or `multi_queue` is not
///   what it was made with;
/// * [`is_permission`](Error::is_permission) when it is not for this user.
pub fn attach(name: &str, multi_queue: bool) -> Result<File> {
    let operation = format!("open tap {name}");
    crate::link::check_name(&operation, name)?;
    let request = Request::new(name, if multi_queue { IFF_MULTI_QUEUE } else { 0 });
    let file = open(DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| open_error(operation.clone(), errno))?;
    #[expect(unsafe_code, reason = "nix offers ioctls as unsafe functions only")]
    // SAFETY: the descriptor is open, and TUNSETIFF reads an ifreq of up to 40
    // bytes, which `request` has.
    unsafe { tun_set_iff(file.as_raw_fd(), &request) }
        .map_err(|errno| Error::from_errno(operation, errno as i32))?;
    Ok(File::from(file))
}

fn open_error(operation: String, errno: Errno) -> Error {
    let error = Error::from_errno(operation, errno as i32);
    match errno {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            error.hint("load the module tun, or give the container runtime the device")
        }
        _ => error,
    }
}

impl TapSpec<'_> {
    /// Creates it in the namespace of the calling thread, down, with a random
    /// address. After a failure there is none.
    ///
    /// Programs that open it choose themselves whether they want a header with
    /// the protocol or with virtio's offloads; until one does, there is none.
    ///
    /// # Errors
    ///
    /// * [`is_exists`](Error::is_exists) when the name is used, by a TAP device
    ///   or any other link;
    /// * [`is_not_found`](Error::is_not_found) without /dev/net/tun;
    /// * [`is_permission`](Error::is_permission) without `CAP_NET_ADMIN`;
    /// * [`ErrorKind::Invalid`] for a name or owner the kernel does not take,
    ///   and for a context where SELinux is off.
    pub fn create(&self) -> Result<()> {
        let operation = || format!("create tap {}", self.name);
        crate::link::check_name(&operation(), self.name)?;
        let queues = if self.multi_queue { IFF_MULTI_QUEUE } else { 0 };
        let request = Request::new(self.name, IFF_TUN_EXCL | queues);
        let made = match self.selinux_context {
            None => self.make(&request),
            Some(context) => return self.make_as(context, &request),
        };
        made.map_err(|failure| self.error(failure))
    }

    /// Makes system calls only: also called in a child that shares the locks of
    /// threads it does not have.
    fn make(&self, request: &Request) -> std::result::Result<(), Failure> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = open(DEVICE, flags, Mode::empty()).map_err(|e| (Step::Open, e))?;
        let fd = file.as_raw_fd();
        #[expect(unsafe_code, reason = "nix offers ioctls as unsafe functions only")]
        // SAFETY: the descriptor is open. TUNSETIFF reads an ifreq of up to 40
        // bytes, which `request` has; the others take an int by value.
        unsafe {
            tun_set_iff(fd, request).map_err(|e| (Step::Create, e))?;
            if let Some(owner) = self.owner {
                tun_set_owner(fd, owner.cast_signed()).map_err(|e| (Step::Owner, e))?;
            }
            if let Some(group) = self.group {
                tun_set_group(fd, group.cast_signed()).map_err(|e| (Step::Group, e))?;
            }
            // Last: until now the device goes with the descriptor.
            tun_set_persist(fd, 1).map_err(|e| (Step::Persist, e))?;
        }
        Ok(())
    }

    /// Makes the device under another SELinux context.
    ///
    /// The device belongs to the context its maker acts under
    /// (`selinux_tun_dev_alloc_security`, security/selinux/hooks.c at v6.18),
    /// and no policy allows the way back from a container's context. So a child
    /// changes into it, makes the device, and ends. It is not executed anew, so
    /// this asks the policy for `dyntransition`, where executing a program
    /// under the context would ask for `transition`; policies for containers
    /// allow both together.
    fn make_as(&self, context: &str, request: &Request) -> Result<()> {
        let operation = || format!("create tap {} under SELinux context {context}", self.name);
        let failed = |e: &std::io::Error| Error::from_io(operation(), e);
        let (mut reader, writer) = pipe().map_err(|e| failed(&e))?;
        let writer = OwnedFd::from(writer);
        #[expect(unsafe_code, reason = "only a process of its own can have a context of its own")]
        // SAFETY: until it ends, the child makes system calls on memory that is
        // there already: it takes no lock, allocates nothing and runs no exit
        // handler.
        let child = match unsafe { fork() } {
            Err(errno) => return Err(Error::from_errno(operation(), errno as i32)),
            Ok(ForkResult::Child) => {
                let made = set_label(context).and_then(|()| self.make(request));
                tell(writer.as_fd(), made);
                // SAFETY: ends the process at once, which is all it is for.
                unsafe { libc::_exit(0) }
            }
            Ok(ForkResult::Parent { child }) => child,
        };
        drop(writer);
        let mut said = Vec::new();
        let read = reader.read_to_end(&mut said);
        // Who started this process may have it not wait for children.
        while waitpid(child, None) == Err(Errno::EINTR) {}
        read.map_err(|e| failed(&e))?;
        match heard(&said) {
            Some(Ok(())) => Ok(()),
            Some(Err(failure)) => Err(self.error(failure)),
            None => Err(Error::with_kind(operation(), ErrorKind::Other, "the child was killed")),
        }
    }

    fn error(&self, (step, errno): Failure) -> Error {
        let name = self.name;
        let operation = match step {
            Step::Open => return open_error(format!("open /dev/net/tun for tap {name}"), errno),
            Step::Label => {
                let context = self.selinux_context.unwrap_or_default();
                format!("change to SELinux context {context} for tap {name}")
            }
            Step::Create => format!("create tap {name}"),
            Step::Owner => format!("set owner {} of tap {name}", self.owner.unwrap_or_default()),
            Step::Group => format!("set group {} of tap {name}", self.group.unwrap_or_default()),
            Step::Persist => format!("make tap {name} persistent"),
        };
        let error = Error::from_errno(operation, errno as i32);
        match (step, errno) {
            // What the kernel answers to IFF_TUN_EXCL.
            (Step::Create, Errno::EBUSY) => {
                Error::from_errno(format!("create tap {name}"), libc::EEXIST)
                    .hint("the name is already used")
            }
            (Step::Label, Errno::EINVAL) => {
                error.hint("SELinux is off, or its policy has no such context")
            }
            (Step::Label, Errno::EACCES | Errno::EPERM) => {
                error.hint("the policy must allow dyntransition into it")
            }
            _ => error,
        }
    }
}

/// Like `setcon(3)`, for a process of one thread.
fn set_label(context: &str) -> std::result::Result<(), Failure> {
    let failed = |e| (Step::Label, e);
    let file =
        open(OWN_LABEL, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    match write(&file, context.as_bytes()).map_err(failed)? {
        written if written == context.len() => Ok(()),
        _ => Err(failed(Errno::EIO)),
    }
}

/// The step's number and the error's, or two zeros.
fn tell(pipe: BorrowedFd<'_>, outcome: std::result::Result<(), Failure>) {
    let (step, errno) = match outcome {
        Ok(()) => (0, 0),
        // Those of Linux are below 134 (asm-generic/errno.h).
        Err((step, errno)) => (step as u8, u8::try_from(errno as i32).unwrap_or(u8::MAX)),
    };
    // Without it the parent knows no more than that there was a failure.
    let _ = write(pipe, &[step, errno]);
}

fn heard(said: &[u8]) -> Option<std::result::Result<(), Failure>> {
    match *said {
        [0, 0] => Some(Ok(())),
        [step, errno] => {
            let step = Step::ALL.into_iter().find(|known| *known as u8 == step)?;
            Some(Err((step, Errno::from_raw(i32::from(errno)))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_kernels() {
        // TUNSETIFF, TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP as strace has them.
        let code = |number| nix::request_code_write!(b'T', number, size_of::<libc::c_int>());
        assert_eq!(
            [202, 203, 204, 206].map(code),
            [0x4004_54ca, 0x4004_54cb, 0x4004_54cc, 0x4004_54ce]
        );
        assert_eq!(size_of::<Request>(), 40);
    }

    #[test]
    fn a_child_is_understood() {
        let failure = (Step::Persist, Errno::EPERM);
        for outcome in [Ok(()), Err(failure), Err((Step::Label, Errno::EINVAL))] {
            let (mut reader, writer) = pipe().expect("a pipe");
            tell(writer.as_fd(), outcome);
            drop(writer);
            let mut said = Vec::new();
            reader.read_to_end(&mut said).expect("readable");
            assert_eq!(heard(&said), Some(outcome));
        }
        assert_eq!((heard(&[]), heard(&[99, 1])), (None, None));
    }

    #[test]
    fn errors_say_what_to_do() {
        let spec = TapSpec { name: "tap0", selinux_context: Some("a:b:c"), ..TapSpec::default() };
        let taken = spec.error((Step::Create, Errno::EBUSY));
        assert!(taken.is_exists());
        assert_eq!(taken.to_string(), "create tap tap0: file exists: the name is already used");
        let off = spec.error((Step::Label, Errno::EINVAL)).to_string();
        assert_eq!(
            off,
            "change to SELinux context a:b:c for tap tap0: invalid argument: SELinux is off, or its policy has no such context"
        );
    }
}
