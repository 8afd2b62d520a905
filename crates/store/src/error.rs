//! One error type: operation, path, cause, hint.

use nix::errno::Errno;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation on a path that failed. Reads as one line: `create
/// /var/lib/x/y: no space left on device`.
pub struct Error(Box<Inner>);

struct Inner {
    operation: Cow<'static, str>,
    path: PathBuf,
    cause: Cause,
    hint: Option<Cow<'static, str>>,
}

enum Cause {
    Errno(Errno),
    Text(Cow<'static, str>),
    /// The path is something else than the operation works on.
    NotPlain(Cow<'static, str>),
    /// Of this many bytes at most, it would be read.
    TooLong(usize),
    /// Held by somebody else for all of the time.
    TimedOut(String),
}

impl Error {
    fn build(operation: impl Into<Cow<'static, str>>, path: &Path, cause: Cause) -> Error {
        Error(Box::new(Inner {
            operation: operation.into(),
            path: path.to_owned(),
            cause,
            hint: None,
        }))
    }

    pub(crate) fn errno(
        operation: impl Into<Cow<'static, str>>,
        path: &Path,
        errno: Errno,
    ) -> Error {
        Error::build(operation, path, Cause::Errno(errno))
    }

    /// From an I/O error of the standard library.
    pub fn io(
        operation: impl Into<Cow<'static, str>>,
        path: impl AsRef<Path>,
        error: &io::Error,
    ) -> Error {
        let cause = match error.raw_os_error() {
            Some(errno) => Cause::Errno(Errno::from_raw(errno)),
            None => Cause::Text(error.to_string().into()),
        };
        Error::build(operation, path.as_ref(), cause)
    }

    pub(crate) fn not_plain(
        operation: impl Into<Cow<'static, str>>,
        path: &Path,
        what: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::build(operation, path, Cause::NotPlain(what.into()))
    }

    pub(crate) fn too_long(path: &Path, limit: usize) -> Error {
        Error::build("read", path, Cause::TooLong(limit))
    }

    pub(crate) fn text(
        operation: impl Into<Cow<'static, str>>,
        path: &Path,
        cause: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::build(operation, path, Cause::Text(cause.into()))
    }

    pub(crate) fn timed_out(
        operation: impl Into<Cow<'static, str>>,
        path: &Path,
        cause: String,
    ) -> Error {
        Error::build(operation, path, Cause::TimedOut(cause))
    }

    /// Adds, at the end of the line, what the reader may do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// The path the operation was on.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What went wrong, for a caller that says operation and path itself.
    pub fn cause(&self) -> String {
        self.0.cause.to_string()
    }

    fn is(&self, known: &[Errno]) -> bool {
        matches!(self.0.cause, Cause::Errno(errno) if known.contains(&errno))
    }

    /// There is no such file or directory.
    pub fn is_not_found(&self) -> bool {
        self.is(&[Errno::ENOENT])
    }

    /// Nothing can ever be at the path: a part of it is no directory, or too long.
    pub fn is_no_place(&self) -> bool {
        self.is(&[Errno::ENOTDIR, Errno::ENAMETOOLONG])
    }

    /// The name is already there.
    pub fn is_exists(&self) -> bool {
        self.is(&[Errno::EEXIST])
    }

    /// No room: the disk or the quota is full, or the inodes are used up.
    pub fn is_full(&self) -> bool {
        self.is(&[Errno::ENOSPC, Errno::EDQUOT])
    }

    /// The file system is mounted read-only.
    pub fn is_read_only(&self) -> bool {
        self.is(&[Errno::EROFS])
    }

    /// The caller may not.
    pub fn is_permission(&self) -> bool {
        self.is(&[Errno::EACCES, Errno::EPERM])
    }

    /// The path is a symbolic link, a directory, a pipe: not what the
    /// operation works on.
    pub fn is_not_plain(&self) -> bool {
        matches!(self.0.cause, Cause::NotPlain(_))
    }

    /// What is there cannot be read, however often one tries: it is too long or
    /// protected, or the disk is broken.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.0.cause, Cause::TooLong(_))
            || self.is(&[Errno::EACCES, Errno::EPERM, Errno::EIO])
    }

    /// A lock was held by somebody else for all of the time.
    pub fn is_timed_out(&self) -> bool {
        matches!(self.0.cause, Cause::TimedOut(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        write!(f, "{} {}: {}", inner.operation, inner.path.display(), inner.cause)?;
        match &inner.hint {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Errno(errno) => {
                let text = errno.desc();
                let mut letters = text.chars();
                match (letters.next(), letters.clone().next()) {
                    (Some(first), Some(second)) if second.is_lowercase() => {
                        write!(f, "{}{}", first.to_ascii_lowercase(), letters.as_str())
                    }
                    _ => f.write_str(text),
                }
            }
            Cause::Text(text) | Cause::NotPlain(text) => f.write_str(text),
            Cause::TooLong(limit) => write!(f, "it is longer than {limit} bytes"),
            Cause::TimedOut(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line_and_is_matched_by_category() {
        let full = Error::errno("create", Path::new("/d/f"), Errno::ENOSPC).hint("free some space");
        assert_eq!(full.to_string(), "create /d/f: no space left on device: free some space");
        assert_eq!(full.cause(), "no space left on device");
        assert!(full.is_full() && !full.is_permission() && !full.is_timed_out());
        assert_eq!(
            Error::errno("read", Path::new("/d/f"), Errno::EIO).to_string(),
            "read /d/f: I/O error"
        );
        assert!(Error::errno("x", Path::new("/"), Errno::EDQUOT).is_full());
        assert!(Error::errno("x", Path::new("/"), Errno::EROFS).is_read_only());
        let io = Error::io("open", "/d", &io::Error::from_raw_os_error(2));
        assert!(io.is_not_found(), "{io}");
    }
}
