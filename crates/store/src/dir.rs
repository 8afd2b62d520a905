//! An open directory, and files in it by name.

use crate::file::nanoseconds;
use crate::{DataFile, Error, Plain, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, futimens, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, UnlinkatFlags, faccessat, geteuid, linkat, unlinkat};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// An open directory. It stays the same one even when its path comes to mean
/// another.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    Plain,
    /// A directory.
    Directory,
    /// A symbolic link, a pipe, a socket, a device.
    Odd,
}

const READ: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOFOLLOW)
    // So that opening a planted pipe or device does not wait.
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);
/// What becomes another file when it is complete.
const NEW: &str = "new";
const DIRECTORY: OFlag = READ.union(OFlag::O_DIRECTORY);

impl Dir {
    /// Opens the directory at `path`. Where its last component is a symbolic
    /// link, it is followed only if root or this user made it (as
    /// `fs.protected_symlinks` has it, proc(5)): an administrator may move a
    /// data directory, nobody else.
    ///
    /// # Errors
    /// [`Error::is_not_found`], or it is no directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Dir> {
        let path = path.into();
        match open_at(AT_FDCWD, &path, DIRECTORY) {
            Ok(fd) => Ok(Dir { fd, path }),
            Err(Errno::ELOOP | Errno::ENOTDIR) => Dir::open_link(path),
            Err(e) => Err(Error::errno("open", &path, e)),
        }
    }

    fn open_link(path: PathBuf) -> Result<Dir> {
        let stat = path.symlink_metadata().map_err(|e| Error::io("open", &path, &e))?;
        if stat.is_symlink() && stat.uid() != 0 && stat.uid() != geteuid().as_raw() {
            let what = format!("it is a symbolic link of user {}, not followed", stat.uid());
            return Err(Error::not_plain("open", &path, what));
        }
        match open_at(AT_FDCWD, &path, DIRECTORY.difference(OFlag::O_NOFOLLOW)) {
            Ok(fd) => Ok(Dir { fd, path }),
            Err(e) => Err(Error::errno("open", &path, e)),
        }
    }

    /// Opens the directory at `path`, making it and its parents where they are
    /// missing, like `mkdir -p -m MODE` (the parents get the mode too).
    ///
    /// # Errors
    /// It cannot be made, or is no directory.
    pub fn create(path: impl Into<PathBuf>, mode: u32) -> Result<Dir> {
        let path = path.into();
        match Dir::open(&path) {
            Err(e) if e.is_not_found() => {}
            other => return other,
        }
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(|e| Error::io("create directory", &path, &e))?;
        Dir::open(path)
    }

    /// Opens a directory in this one; a symbolic link is refused.
    ///
    /// # Errors
    /// [`Error::is_not_found`], or it is no directory.
    pub fn open_below(&self, name: impl AsRef<OsStr>) -> Result<Dir> {
        let path = self.path.join(name.as_ref());
        match open_at(&self.fd, name.as_ref(), DIRECTORY) {
            Ok(fd) => Ok(Dir { fd, path }),
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                Err(Error::not_plain("open", &path, "it is not a directory"))
            }
            Err(e) => Err(Error::errno("open", &path, e)),
        }
    }

    /// Opens a directory in this one, making it where it is missing; a
    /// symbolic link is refused.
    ///
    /// # Errors
    /// It cannot be made, or is no directory.
    pub fn create_below(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Dir> {
        match self.open_below(name.as_ref()) {
            Err(e) if e.is_not_found() => {}
            other => return other,
        }
        match mkdirat(&self.fd, name.as_ref(), Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(Errno::EEXIST) => self.open_below(name),
            Err(e) => Err(self.error("create directory", name.as_ref(), e)),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `visit` for each name in it, in no particular order. Names that
    /// come and go meanwhile may or may not be among them.
    ///
    /// # Errors
    /// It cannot be read, or the first error of `visit`.
    pub fn each<E: From<Error>>(
        &self,
        mut visit: impl FnMut(&OsStr, Kind) -> Result<(), E>,
    ) -> Result<(), E> {
        use nix::dir::Type;
        let error = |e| Error::errno("list", &self.path, e);
        // Opened anew, because the position is the descriptor's.
        let fd = open_at(&self.fd, ".", DIRECTORY).map_err(error)?;
        let mut list = nix::dir::Dir::from_fd(fd).map_err(error)?;
        for entry in list.iter() {
            let entry = entry.map_err(error)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                Some(Type::File) => Kind::Plain,
                Some(Type::Directory) => Kind::Directory,
                Some(_) => Kind::Odd,
                None => match self.kind(name)? {
                    Some(kind) => kind,
                    None => continue,
                },
            };
            visit(name, kind)?;
        }
        Ok(())
    }

    /// What `name` stands for, if it is there.
    ///
    /// # Errors
    /// The directory cannot be searched.
    pub fn kind(&self, name: impl AsRef<OsStr>) -> Result<Option<Kind>> {
        match fstatat(&self.fd, name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFREG => Kind::Plain,
                SFlag::S_IFDIR => Kind::Directory,
                _ => Kind::Odd,
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(self.error("stat", name.as_ref(), e)),
        }
    }

    /// Reads a plain file of up to `limit` bytes.
    ///
    /// # Errors
    /// [`Error::is_not_found`], [`Error::is_not_plain`], or it is longer.
    pub fn read(&self, name: impl AsRef<OsStr>, limit: usize) -> Result<Plain> {
        let file = self.open_file(name.as_ref(), READ)?;
        Ok(Plain { content: file.read(limit)?, modified: file.modified() })
    }

    /// Opens a plain file for reading and writing.
    ///
    /// # Errors
    /// [`Error::is_not_found`], [`Error::is_not_plain`], or it is protected.
    pub fn open_data(&self, name: impl AsRef<OsStr>) -> Result<DataFile> {
        self.open_file(name.as_ref(), READ.union(OFlag::O_RDWR))
    }

    /// The same, making it empty where it is missing.
    ///
    /// # Errors
    /// As [`Dir::open_data`], or it cannot be made.
    pub fn create_data(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<DataFile> {
        let name = name.as_ref();
        let flags = READ.union(OFlag::O_RDWR).union(OFlag::O_CREAT);
        let fd = openat(&self.fd, name, flags, Mode::from_bits_truncate(mode))
            .map_err(|e| self.error("create", name, e))?;
        DataFile::new(fd, self.path.join(name))
    }

    fn open_file(&self, name: &OsStr, flags: OFlag) -> Result<DataFile> {
        let fd = open_at(&self.fd, name, flags).map_err(|e| self.error("open", name, e))?;
        DataFile::new(fd, self.path.join(name))
    }

    /// Makes a file that did not exist: it appears with all of its content or
    /// not at all. Returns when it was written, in nanoseconds since 1970.
    ///
    /// Where the file system has no unnamed files (O_TMPFILE, open(2)), it is
    /// made in `spare` under the name `new`, a directory of the same file
    /// system, and moved; then the caller must hold the lock that all who
    /// write `name` or `spare` take.
    ///
    /// # Errors
    /// [`Error::is_exists`]: whatever it is, it was left alone.
    /// [`Error::is_full`].
    pub fn create_new(
        &self,
        name: impl AsRef<OsStr>,
        mode: u32,
        bytes: &[u8],
        spare: Option<&Dir>,
    ) -> Result<u64> {
        let name = name.as_ref();
        match self.link_new(name, mode, bytes) {
            Err(e) if is_without_unnamed_files(e) => {
                let spare = spare.ok_or_else(|| self.error("create", name, Errno::EOPNOTSUPP))?;
                self.move_new(name, mode, bytes, spare)
            }
            other => other.map_err(|e| self.error("create", name, e)),
        }
    }

    /// Makes a file without a name, for what does not fit the memory: it is gone
    /// when it is closed.
    ///
    /// # Errors
    /// The file system has none, or no room.
    pub fn create_unnamed(&self) -> Result<DataFile> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|e| Error::errno("make a file in", &self.path, e))?;
        DataFile::new(fd, self.path.clone())
    }

    fn link_new(&self, name: &OsStr, mode: u32, bytes: &[u8]) -> nix::Result<u64> {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, ".", flags, Mode::from_bits_truncate(mode))?;
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
        let stat = fstat(&file)?;
        // open(2) has this under O_TMPFILE; with AT_EMPTY_PATH it would need
        // CAP_DAC_READ_SEARCH.
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(AT_FDCWD, source.as_str(), &self.fd, name, AtFlags::AT_SYMLINK_FOLLOW) {
            Ok(()) => Ok(nanoseconds(stat.st_mtime, stat.st_mtime_nsec)),
            // Either the directory was removed, or /proc is not mounted.
            Err(Errno::ENOENT) if !Path::new(&source).exists() => Err(Errno::EOPNOTSUPP),
            Err(e) => Err(e),
        }
    }

    fn move_new(&self, name: &OsStr, mode: u32, bytes: &[u8], spare: &Dir) -> Result<u64> {
        self.move_from(spare, "create", name, mode, bytes, || match self.kind(name)? {
            None => Ok(()),
            Some(_) => Err(self.error("create", name, Errno::EEXIST)),
        })
    }

    /// Writes a file in `spare`, and moves it here if `may` has no objection then.
    fn move_from(
        &self,
        spare: &Dir,
        operation: &'static str,
        name: &OsStr,
        mode: u32,
        bytes: &[u8],
        may: impl FnOnce() -> Result<()>,
    ) -> Result<u64> {
        spare.remove(NEW)?;
        let modified = spare.write_excl(OsStr::new(NEW), mode, bytes)?;
        let moved = may().and_then(|()| {
            renameat(&spare.fd, NEW, &self.fd, name).map_err(|e| self.error(operation, name, e))
        });
        moved.map(|()| modified).inspect_err(|_| {
            // It holds nothing; the next one removes it first.
            let _ = spare.remove(NEW);
        })
    }

    /// Makes `bytes` the content of `name`, as [`Dir::replace`] does, and returns
    /// when that was written, in nanoseconds since 1970. It is made in `spare`
    /// under the name `new`, a directory of the same file system, so that a killed
    /// process leaves nothing in this one; the caller must hold the lock that all
    /// who write `name` or `spare` take.
    ///
    /// # Errors
    /// It cannot be written; then the old one is as it was.
    pub fn replace_from(
        &self,
        spare: &Dir,
        name: impl AsRef<OsStr>,
        mode: u32,
        bytes: &[u8],
    ) -> Result<u64> {
        self.move_from(spare, "replace", name.as_ref(), mode, bytes, || Ok(()))
    }

    /// Makes a file and fills it; removes it again when that fails.
    fn write_excl(&self, name: &OsStr, mode: u32, bytes: &[u8]) -> Result<u64> {
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::from_bits_truncate(mode))
            .map_err(|e| self.error("create", name, e))?;
        let path = self.path.join(name);
        let mut file = File::from(fd);
        let written = file
            .write_all(bytes)
            .map_err(|e| Error::io("write", &path, &e))
            .and_then(|()| fstat(&file).map_err(|e| Error::errno("stat", &path, e)));
        match written {
            Ok(stat) => Ok(nanoseconds(stat.st_mtime, stat.st_mtime_nsec)),
            Err(error) => match self.remove(name) {
                Ok(_) => Err(error),
                Err(left) => Err(error.hint(format!("and it stays behind: {left}"))),
            },
        }
    }

    /// Makes `bytes` the content of `name`: a reader sees the old file or the
    /// new one, whole. The new one is written beside it and moved over it, so
    /// a symbolic link there is replaced, not followed.
    ///
    /// # Errors
    /// It cannot be written; then the old one is as it was.
    pub fn replace(&self, name: impl AsRef<OsStr>, mode: u32, bytes: &[u8]) -> Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = name.as_ref();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let beside = format!(".new-{}-{count}", std::process::id());
        let beside = OsStr::new(&beside);
        // Of a killed process that had this process's number.
        self.remove(beside)?;
        self.write_excl(beside, mode, bytes)?;
        renameat(&self.fd, beside, &self.fd, name).map_err(|e| {
            let error = self.error("replace", name, e);
            match self.remove(beside) {
                Ok(_) => error,
                Err(left) => error.hint(format!("and a temporary file stays behind: {left}")),
            }
        })
    }

    /// As [`Dir::replace`], but a file that is new never has another name, so that a
    /// kill leaves nothing else. Not every file system can do that (O_TMPFILE,
    /// open(2)).
    ///
    /// # Errors
    /// As [`Dir::replace`].
    pub fn put(&self, name: impl AsRef<OsStr>, mode: u32, bytes: &[u8]) -> Result<()> {
        let name = name.as_ref();
        match self.link_new(name, mode, bytes) {
            Err(e) if e == Errno::EEXIST || is_without_unnamed_files(e) => {
                self.replace(name, mode, bytes)
            }
            made => made.map(drop).map_err(|e| self.error("create", name, e)),
        }
    }

    /// Removes a name that is no directory; a symbolic link itself, never what
    /// it leads to. False when it was not there.
    ///
    /// # Errors
    /// It cannot be removed; [`Error::is_not_plain`] when it is a directory.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        let name = name.as_ref();
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            // The kernel asks for a file system that can be written before it looks
            // (`do_unlinkat`, fs/namei.c at v6.18).
            Err(Errno::EROFS) if matches!(self.kind(name), Ok(None)) => Ok(false),
            Err(e) => Err(self.error("remove", name, e)),
        }
    }

    /// When a name in it last came, went or was replaced, in nanoseconds since
    /// 1970 by the wall clock: its modification time.
    ///
    /// # Errors
    /// The file system is gone.
    pub fn modified(&self) -> Result<u64> {
        let stat = fstat(&self.fd).map_err(|e| Error::errno("stat", &self.path, e))?;
        Ok(nanoseconds(stat.st_mtime, stat.st_mtime_nsec))
    }

    /// Sets the modification time, like `touch -m -d`. Not every file system
    /// keeps nanoseconds.
    ///
    /// # Errors
    /// It is another user's, or read-only.
    pub fn set_modified(&self, nanoseconds: u64) -> Result<()> {
        let time = TimeSpec::from_duration(std::time::Duration::from_nanos(nanoseconds));
        futimens(&self.fd, &TimeSpec::UTIME_OMIT, &time)
            .map_err(|e| Error::errno("set the modification time of", &self.path, e))
    }

    /// Could a small file be made here now? Tries it with one that never gets
    /// a name.
    ///
    /// # Errors
    /// What stands in the way: [`Error::is_full`], [`Error::is_read_only`],
    /// [`Error::is_permission`].
    pub fn check_writable(&self) -> Result<()> {
        self.try_file(&[0; 128])
    }

    fn try_file(&self, content: &[u8]) -> Result<()> {
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let error = |e| Error::errno("write in", &self.path, e);
        match openat(&self.fd, ".", flags, Mode::S_IRUSR) {
            Ok(fd) => {
                File::from(fd).write_all(content).map_err(|e| Error::io("write in", &self.path, &e))
            }
            Err(e) if is_without_unnamed_files(e) => self.seems_writable().map_err(error),
            Err(e) => Err(error(e)),
        }
    }

    /// The same for this many files and directories together, as far as the file
    /// system counts them.
    ///
    /// # Errors
    /// As [`Dir::check_writable`].
    pub fn check_room(&self, files: u32) -> Result<()> {
        self.check_writable()?;
        self.check_names(files)
    }

    /// The same for one file that stays empty, as a lock does, among them: it takes
    /// no byte of a disk, and on a tmpfs neither do directories.
    ///
    /// # Errors
    /// As [`Dir::check_writable`].
    pub fn check_room_for_empty(&self, files: u32) -> Result<()> {
        let error = |e| Error::errno("write in", &self.path, e);
        let is_tmpfs = fstatfs(&self.fd).map_err(error)?.filesystem_type() == TMPFS_MAGIC;
        self.try_file(if files == 1 || is_tmpfs { &[] } else { &[0; 128] })?;
        self.check_names(files)
    }

    fn check_names(&self, files: u32) -> Result<()> {
        let error = |e| Error::errno("write in", &self.path, e);
        let space = fstatvfs(&self.fd).map_err(error)?;
        match space.files() > 0 && space.files_available() < files.into() {
            true => Err(error(Errno::ENOSPC)),
            false => Ok(()),
        }
    }

    /// As [`Dir::check_writable`] where every file has a name: as far as it can be told without
    /// making one.
    fn seems_writable(&self) -> nix::Result<()> {
        let mode = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&self.fd, ".", mode, AtFlags::AT_EACCESS)?;
        if matches!(fstatfs(&self.fd)?.filesystem_type(), PROC_SUPER_MAGIC | SYSFS_MAGIC) {
            return Err(Errno::EPERM);
        }
        let space = fstatvfs(&self.fd)?;
        // Some count neither.
        let is_full = space.blocks() > 0 && space.blocks_available() == 0
            || space.files() > 0 && space.files_available() == 0;
        if is_full { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    fn error(&self, operation: &'static str, name: &OsStr, errno: Errno) -> Error {
        let path = self.path.join(name);
        match errno {
            Errno::ELOOP => {
                Error::not_plain(operation, &path, "it is a symbolic link, not followed")
            }
            Errno::EISDIR => Error::not_plain(operation, &path, "it is a directory"),
            Errno::ENXIO => Error::not_plain(operation, &path, "it is a pipe or a socket"),
            errno => Error::errno(operation, &path, errno),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Does a file system that answers `errno` to O_TMPFILE have none (open(2))?
fn is_without_unnamed_files(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOSYS)
}

fn open_at<P: ?Sized + nix::NixPath>(
    dir: impl AsFd,
    path: &P,
    flags: OFlag,
) -> nix::Result<OwnedFd> {
    openat(dir, path, flags, Mode::empty())
}

#[cfg(test)]
pub(crate) mod tests;
