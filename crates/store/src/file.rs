//! Plain files: read whole, and changed in place.

use crate::{Error, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a plain file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// All of it.
    pub content: Vec<u8>,
    /// When it was last written, in nanoseconds since 1970 by the wall clock.
    pub modified: u64,
}

/// Reads a plain file that is somebody else's, of up to `limit` bytes: by its
/// path, in which symbolic links are followed as they are in any program.
/// A pipe or a device in its place is refused at once, not waited for.
///
/// # Errors
/// [`Error::is_not_found`], [`Error::is_not_plain`], or it is longer.
pub fn read_foreign(path: &Path, limit: usize) -> Result<Vec<u8>> {
    // Opening a pipe to read waits for a writer otherwise.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|e| Error::io("open", path, &e))?;
    DataFile::new(file.into(), path.to_owned())?.read(limit)
}

/// An open plain file, for reading and for changing in place.
///
/// In place, because on ext4 that costs a tenth of replacing: truncation and
/// renaming make it write the data out (`auto_da_alloc`, ext4(5)). What a
/// killed writer leaves is therefore a mixture, and readers must cope with it.
#[derive(Debug)]
pub struct DataFile {
    file: File,
    path: PathBuf,
    length: u64,
    modified: u64,
}

impl DataFile {
    /// Takes over an open file, if it is a plain one.
    pub(crate) fn new(fd: OwnedFd, path: PathBuf) -> Result<DataFile> {
        let stat = fstat(&fd).map_err(|e| Error::errno("stat", &path, e))?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFREG {
            let what = match kind {
                SFlag::S_IFDIR => "it is a directory",
                SFlag::S_IFIFO => "it is a pipe",
                SFlag::S_IFSOCK => "it is a socket",
                _ => "it is a device",
            };
            return Err(Error::not_plain("open", &path, what));
        }
        Ok(DataFile {
            file: fd.into(),
            length: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            path,
        })
    }

    /// Its length in bytes when it was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// When it was last written, in nanoseconds since 1970, when it was
    /// opened.
    pub fn modified(&self) -> u64 {
        self.modified
    }

    /// An error about what the file holds.
    pub fn error(&self, operation: &'static str, cause: &'static str) -> Error {
        Error::text(operation, &self.path, cause)
    }

    /// All of it, up to `limit` bytes.
    ///
    /// # Errors
    /// It cannot be read, or is longer.
    pub fn read(&self, limit: usize) -> Result<Vec<u8>> {
        let error = |e| Error::io("read", &self.path, &e);
        let expected = usize::try_from(self.length).unwrap_or(usize::MAX).min(limit);
        // One byte more, so that one read tells the end.
        let mut content = vec![0; expected + 1];
        let mut filled = 0;
        loop {
            let read = (&self.file).read(&mut content[filled..]).map_err(error)?;
            filled += read;
            if filled > limit {
                return Err(Error::too_long(&self.path, limit));
            }
            if filled < content.len() {
                content.truncate(filled);
                return Ok(content);
            }
            content.resize(content.len() + 4096, 0);
        }
    }

    /// Fills as much of `buffer` as there is from `offset` on, and says how
    /// much that was.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path, &e)),
            }
        }
        Ok(filled)
    }

    /// Writes `bytes` at `offset`, making the file longer where needed.
    ///
    /// # Errors
    /// It cannot be written; part of it may have been.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_length(&self, length: u64) -> Result<()> {
        self.file.set_len(length).map_err(|e| Error::io("truncate", &self.path, &e))
    }

    /// Makes `bytes` all of the content. A writer killed half-way leaves the
    /// new bytes followed by the rest of the old.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn rewrite(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        self.write_at(0, bytes)?;
        if self.length > length {
            self.set_length(length)?;
        }
        self.length = length;
        Ok(())
    }
}

/// Since 1970; what lies before counts as 1970. The types of the kernel's
/// structure differ between platforms.
pub(crate) fn nanoseconds(seconds: impl TryInto<u64>, nanoseconds: impl TryInto<u64>) -> u64 {
    let seconds = seconds.try_into().unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::tests::Temporary;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_plain_file_is_read_and_nothing_is_waited_for() {
        let folder = Temporary::new();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "text").expect("written");
        symlink(at("file"), at("link")).expect("made");
        for name in ["file", "link"] {
            assert_eq!(read_foreign(&at(name), 4).expect("plain"), b"text");
        }
        let error = read_foreign(&at("file"), 3).expect_err("too long");
        assert!(error.to_string().ends_with("it is longer than 3 bytes"), "{error}");
        mkfifo(&at("pipe"), Mode::S_IRWXU).expect("made");
        for (path, what) in [
            (at("pipe"), "it is a pipe"),
            (at("."), "it is a directory"),
            ("/dev/zero".into(), "it is a device"),
        ] {
            let error = read_foreign(&path, 9).expect_err(what);
            assert!(error.is_not_plain() && error.to_string().ends_with(what), "{error}");
        }
        assert!(read_foreign(&at("missing"), 9).expect_err("missing").is_not_found());
    }
}
