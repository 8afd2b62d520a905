//! One error type for everything the kernel can refuse.
//!
//! An error reads as one line: the operation and its object, the cause (with
//! the kernel's own words where it gives some), and a hint where one helps:
//! `create veth eth0: file exists: the name is already used`. Code matches on
//! categories ([`Error::kind`], [`Error::is_not_found`], ..), never on text.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

/// The category of an [`Error`], for code that has to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The link, address, route, file or namespace does not exist.
    NotFound,
    /// The object, or its name, is already there.
    Exists,
    /// The caller lacks the capability or the file is protected.
    Permission,
    /// The kernel was built without the feature, or is too old for it.
    Unsupported,
    /// The object is in use.
    Busy,
    /// The request itself is wrong: a bad name, a bad address.
    Invalid,
    /// Nothing arrived before the deadline.
    TimedOut,
    /// A file of the host's that is needed for it cannot be written.
    Io,
    /// A path that should be a network namespace is something else: a plain
    /// file left over after the namespace was unmounted, for example.
    NotNamespace,
    /// Another host on the link answered for an address (IPv6 duplicate
    /// address detection failed).
    DuplicateAddress,
    /// The kernel's answer could not be understood, or never completed.
    Protocol,
    /// Anything else; see [`Error::errno`].
    Other,
}

/// An operation the kernel refused, or an answer that made no sense.
pub struct Error(Box<Inner>);

struct Inner {
    operation: Cow<'static, str>,
    kind: ErrorKind,
    cause: Cause,
    /// The kernel's extended acknowledgement text.
    detail: Option<String>,
    hint: Option<Cow<'static, str>>,
    batch_index: Option<usize>,
}

enum Cause {
    Errno(Errno),
    Text(Cow<'static, str>),
}

impl Error {
    /// An error from an error number, such as `create veth eth0: file exists`.
    ///
    /// An errno of 0 or one unknown to this crate is kept as `unknown error N`.
    #[must_use]
    pub fn from_errno(operation: impl Into<Cow<'static, str>>, errno: i32) -> Error {
        let known = Errno::from_raw(errno);
        let cause = match known {
            Errno::UnknownErrno => Cause::Text(format!("unknown error {errno}").into()),
            known => Cause::Errno(known),
        };
        Error::build(operation.into(), kind_of(known), cause)
    }

    /// An error from the standard library's I/O error.
    #[must_use]
    pub fn from_io(operation: impl Into<Cow<'static, str>>, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(errno) => Error::from_errno(operation, errno),
            None => Error::build(
                operation.into(),
                ErrorKind::Other,
                Cause::Text(error.to_string().into()),
            ),
        }
    }

    /// A request that is wrong before the kernel is asked, such as a name that
    /// is too long.
    #[must_use]
    pub fn invalid(
        operation: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::with_kind(operation, ErrorKind::Invalid, cause)
    }

    /// An error of a given category that carries no error number.
    #[must_use]
    pub fn with_kind(
        operation: impl Into<Cow<'static, str>>,
        kind: ErrorKind,
        cause: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::build(operation.into(), kind, Cause::Text(cause.into()))
    }

    fn build(operation: Cow<'static, str>, kind: ErrorKind, cause: Cause) -> Error {
        Error(Box::new(Inner {
            operation,
            kind,
            cause,
            detail: None,
            hint: None,
            batch_index: None,
        }))
    }

    /// Puts what the caller was doing before the operation:
    /// `attach eth0: create veth eth0: file exists`.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Error {
        self.0.operation = format!("{doing}: {}", self.0.operation).into();
        self
    }

    /// Replaces the operation by the words of somebody who knows more, such as
    /// the link's name where only its index was known.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<Cow<'static, str>>) -> Error {
        self.0.operation = operation.into();
        self
    }

    /// Adds, at the end of the line, what the reader may do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts the error into another category, where the meaning of the error
    /// number depends on the request.
    #[must_use]
    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    pub(crate) fn detail(mut self, detail: Option<String>) -> Error {
        self.0.detail = detail;
        self
    }

    pub(crate) fn at_batch_index(mut self, index: usize) -> Error {
        self.0.batch_index = Some(index);
        self
    }

    /// The category.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel's error number, such as 17 for `EEXIST`.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self.0.cause {
            Cause::Errno(errno) => Some(errno as i32),
            Cause::Text(_) => None,
        }
    }

    /// The kernel's own explanation (extended acknowledgement), where it gave
    /// one: `Nexthop has invalid gateway`.
    #[must_use]
    pub fn kernel_message(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The position, from 0, of the refused message in the batch it was sent
    /// with.
    #[must_use]
    pub fn batch_index(&self) -> Option<usize> {
        self.0.batch_index
    }

    /// The object does not exist (`ENODEV`, `ENOENT`, `ESRCH`, ..).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// The object is already there (`EEXIST`).
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.0.kind == ErrorKind::Exists
    }

    /// The caller may not do this (`EPERM`, `EACCES`, `EROFS`).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.0.kind == ErrorKind::Permission
    }

    /// The kernel does not have the feature (`EOPNOTSUPP`, ..).
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.0.kind == ErrorKind::Unsupported
    }

    /// The object is in use (`EBUSY`).
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.kind == ErrorKind::Busy
    }

    /// No route leads there (`ENETUNREACH`, `EHOSTUNREACH`).
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0.cause, Cause::Errno(Errno::ENETUNREACH | Errno::EHOSTUNREACH))
    }

    /// The deadline passed.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        self.0.kind == ErrorKind::TimedOut
    }

    /// The path is not a network namespace.
    #[must_use]
    pub fn is_not_namespace(&self) -> bool {
        self.0.kind == ErrorKind::NotNamespace
    }

    pub(crate) fn timed_out(operation: impl Into<Cow<'static, str>>) -> Error {
        Error::with_kind(operation, ErrorKind::TimedOut, "timed out")
    }

    pub(crate) fn protocol(
        operation: impl Into<Cow<'static, str>>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::with_kind(operation, ErrorKind::Protocol, cause)
    }

    pub(crate) fn duplicate(operation: impl Into<Cow<'static, str>>, address: IpAddr) -> Error {
        Error::with_kind(
            operation,
            ErrorKind::DuplicateAddress,
            format!("address {address} is already used by another host on the link"),
        )
    }
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::ENXIO => ErrorKind::NotFound,
        Errno::EEXIST => ErrorKind::Exists,
        Errno::EPERM | Errno::EACCES | Errno::EROFS => ErrorKind::Permission,
        Errno::EOPNOTSUPP
        | Errno::EPROTONOSUPPORT
        | Errno::EAFNOSUPPORT
        | Errno::ESOCKTNOSUPPORT
        | Errno::ENOSYS
        | Errno::ENOPROTOOPT => ErrorKind::Unsupported,
        Errno::EBUSY => ErrorKind::Busy,
        Errno::EINVAL | Errno::ERANGE | Errno::ENAMETOOLONG => ErrorKind::Invalid,
        Errno::ETIMEDOUT => ErrorKind::TimedOut,
        _ => ErrorKind::Other,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if !inner.operation.is_empty() {
            write!(f, "{}: ", inner.operation)?;
        }
        match &inner.cause {
            Cause::Errno(errno) => write!(f, "{}", LowerFirst(errno.desc()))?,
            Cause::Text(text) => f.write_str(text)?,
        }
        if let Some(detail) = &inner.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, ": {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {}

/// A description with its first letter in lower case, unless it starts with an
/// abbreviation: `File exists` becomes `file exists`, `I/O error` stays.
struct LowerFirst(&'static str);

impl fmt::Display for LowerFirst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.0.chars();
        match (letters.next(), letters.clone().next()) {
            (Some(first), Some(second)) if second.is_lowercase() => {
                write!(f, "{}{}", first.to_lowercase(), letters.as_str())
            }
            _ => f.write_str(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line() {
        let error = Error::from_errno("create veth eth0 in /run/netns/x", 17)
            .hint("the name is already used");
        assert_eq!(
            error.to_string(),
            "create veth eth0 in /run/netns/x: file exists: the name is already used"
        );
        assert!(error.is_exists());
        assert_eq!(error.errno(), Some(17));
        assert_eq!(
            error.context("attach").to_string(),
            "attach: create veth eth0 in /run/netns/x: file exists: the name is already used"
        );
    }

    #[test]
    fn kernel_text_stands_in_brackets() {
        let error = Error::from_errno("add route", 22)
            .detail(Some("Nexthop has invalid gateway".to_owned()));
        assert_eq!(error.to_string(), "add route: invalid argument (Nexthop has invalid gateway)");
        assert_eq!(error.kernel_message(), Some("Nexthop has invalid gateway"));
    }

    #[test]
    fn abbreviations_keep_their_capitals() {
        assert_eq!(Error::from_errno("", 5).to_string(), "I/O error");
        assert_eq!(Error::from_errno("x", 524).to_string(), "x: unknown error 524");
    }

    #[test]
    fn categories() {
        for (errno, kind) in [
            (libc_errno::ENODEV, ErrorKind::NotFound),
            (libc_errno::ESRCH, ErrorKind::NotFound),
            (libc_errno::EPERM, ErrorKind::Permission),
            (libc_errno::EROFS, ErrorKind::Permission),
            (libc_errno::EOPNOTSUPP, ErrorKind::Unsupported),
            (libc_errno::EBUSY, ErrorKind::Busy),
            (libc_errno::EINVAL, ErrorKind::Invalid),
            (libc_errno::EIO, ErrorKind::Other),
        ] {
            assert_eq!(Error::from_errno("x", errno).kind(), kind, "errno {errno}");
        }
    }

    use nix::libc as libc_errno;
}
