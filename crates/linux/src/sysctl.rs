//! Kernel parameters under /proc/sys, read first and written only if
//! different, so that a read-only /proc/sys that is right already is no error.
//!
//! A parameter is named by its components, `["net", "ipv4", "conf", "eth0.5",
//! "arp_notify"]`: interface names may contain dots. Those below `net` belong
//! to the network namespace of the calling thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::error::{Error, Result};

/// The value, without the line's end, like `sysctl -n`.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is no such parameter.
pub fn read(name: &[&str]) -> Result<String> {
    let operation = || format!("read sysctl {}", name.join("/"));
    let path = path_of(name, operation)?;
    let mut file = open(&path, OpenOptions::new().read(true))
        .map_err(|error| Error::from_io(operation(), &error))?;
    read_value(&mut file).map_err(|error| Error::from_io(operation(), &error))
}

/// Makes the value so, like `sysctl -w`; answers whether it was different.
///
/// # Errors
///
/// * [`is_not_found`](Error::is_not_found) when there is no such parameter;
/// * [`is_permission`](Error::is_permission) when it is different and may not
///   be written;
/// * [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the kernel does not
///   take the value.
pub fn write(name: &[&str], value: &str) -> Result<bool> {
    match read(name) {
        Ok(now) if now == value => Ok(false),
        Ok(_) => set(name, value).map(|()| true),
        Err(error) => Err(error.operation(operation(name, value))),
    }
}

/// Whether [`write`] would be let to: the value is so already, or the parameter can
/// be opened for writing. Nothing is written.
///
/// # Errors
///
/// Those of [`write`], but for a value that the kernel does not take.
pub fn verify_settable(name: &[&str], value: &str) -> Result<()> {
    let failed = |error: Error| error.operation(operation(name, value));
    if read(name).map_err(failed)? == value {
        return Ok(());
    }
    let path = path_of(name, || operation(name, value))?;
    open(&path, OpenOptions::new().write(true))
        .map(drop)
        .map_err(|error| Error::from_io(operation(name, value), &error))
}

/// Writes the value, whatever it was: for parameters that can only be written,
/// such as `net/ipv4/route/flush`.
///
/// # Errors
///
/// Those of [`write`].
pub fn set(name: &[&str], value: &str) -> Result<()> {
    let path = path_of(name, || operation(name, value))?;
    let failed = |error: io::Error| Error::from_io(operation(name, value), &error);
    let mut file = open(&path, OpenOptions::new().write(true)).map_err(failed)?;
    // The kernel takes a write of nothing for none; a list is emptied by the
    // end of a line (`proc_do_large_bitmap`, kernel/sysctl.c at v6.18).
    let bytes = if value.is_empty() { b"\n" } else { value.as_bytes() };
    // One call: the kernel takes a value from the start of a write only.
    let written = file.write(bytes).map_err(failed)?;
    if written != bytes.len() {
        return Err(failed(io::Error::from(io::ErrorKind::WriteZero)));
    }
    Ok(())
}

fn operation(name: &[&str], value: &str) -> String {
    format!("set sysctl {} to {value}", name.join("/"))
}

fn path_of(name: &[&str], operation: impl Fn() -> String) -> Result<String> {
    let mut path = String::with_capacity(64);
    path.push_str("/proc/sys");
    for component in name {
        if matches!(*component, "" | "." | "..") || component.contains(['/', '\0']) {
            return Err(Error::invalid(
                operation(),
                format!("{component:?} is no part of a parameter's name"),
            ));
        }
        path.push('/');
        path.push_str(component);
    }
    Ok(path)
}

/// Opens a parameter and makes sure that it is one: nothing is read from or
/// written to a file that somebody put in the place of /proc.
fn open(path: &str, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if fstatfs(&file)?.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc is not a proc file system"));
    }
    Ok(file)
}

fn read_value(file: &mut File) -> io::Result<String> {
    // One read suffices for any number; the long ones continue.
    let mut bytes = Vec::with_capacity(128);
    let mut chunk = [0; 128];
    loop {
        let len = file.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..len]);
        if len < chunk.len() {
            break;
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("the value is not text"))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_are_kept_whole() {
        let path = path_of(&["net", "ipv4", "conf", "eth0.5", "arp_notify"], String::new);
        assert_eq!(path.ok().as_deref(), Some("/proc/sys/net/ipv4/conf/eth0.5/arp_notify"));
    }

    #[test]
    fn names_cannot_leave_the_tree() {
        for bad in ["", ".", "..", "a/b", "../../etc/passwd", "a\0b"] {
            let error = write(&["net", bad], "1").expect_err(bad);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
        }
    }

    #[test]
    fn unchanged_values_are_not_written() {
        // Any user can read this one, nobody can write it.
        let name = ["kernel", "ostype"];
        assert_eq!(read(&name).expect("readable"), "Linux");
        assert!(!write(&name, "Linux").expect("equal already"));
        verify_settable(&name, "Linux").expect("equal already");
        let error = verify_settable(&name, "Hurd").expect_err("not writable");
        assert!(error.is_permission(), "{error}");
        let error = write(&name, "Hurd").expect_err("not writable");
        assert!(error.is_permission(), "{error}");
        assert!(error.to_string().starts_with("set sysctl kernel/ostype to Hurd: "), "{error}");
    }

    #[test]
    fn missing_ones_are_named() {
        let error = read(&["net", "ipv4", "no_such"]).expect_err("no such parameter");
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "read sysctl net/ipv4/no_such: no such file or directory");
    }
}
