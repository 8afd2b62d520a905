//! Where a device is on its bus, as sysfs shows it.
//!
//! The `net` directories of sysfs show the network namespace of whoever
//! mounted it, whatever namespace the thread is in
//! (`net_grab_current_ns`, net/core/net-sysfs.c at v6.18): here the host's.
//! So a device that is lent has no entry there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PCI: &str = "/sys/bus/pci/devices";
const AUXILIARY: &str = "/sys/bus/auxiliary/devices";
const LINKS: &str = "/sys/class/net";

/// Drivers that hand a device to a program in user space (DPDK), so that it
/// has no link.
const USERSPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// The directory of a device on the PCI bus, if it is there.
pub(crate) fn pci(id: &str) -> Option<PathBuf> {
    Some(Path::new(PCI).join(id)).filter(|path| path.exists())
}

/// The directory of a device on the auxiliary bus, if it is there.
pub(crate) fn auxiliary(id: &str) -> Option<PathBuf> {
    Some(Path::new(AUXILIARY).join(id)).filter(|path| path.exists())
}

/// The name of the driver a device is bound to, like `readlink DEVICE/driver`;
/// `None` when it is bound to none.
pub(crate) fn driver(device: &Path) -> io::Result<Option<String>> {
    match fs::read_link(device.join("driver")) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether the driver hands the device to user space.
pub(crate) fn is_userspace_driver(name: &str) -> bool {
    USERSPACE_DRIVERS.contains(&name)
}

/// The first link of a device, by name, like `ls DEVICE/net | head -1`; a
/// virtio device has it one level further down. `None` when it has none in
/// the host's namespace.
pub(crate) fn first_link(device: &Path) -> io::Result<Option<String>> {
    if let Some(name) = first(&device.join("net"), |_| true)? {
        return Ok(Some(name));
    }
    match first(device, |name| name.starts_with("virtio"))? {
        Some(virtio) => first(&device.join(virtio).join("net"), |_| true),
        None => Ok(None),
    }
}

/// The first name in a directory that may be missing.
fn first(directory: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut least = None;
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if wanted(&name) && least.as_ref().is_none_or(|least| name < *least) {
            least = Some(name);
        }
    }
    Ok(least)
}

/// The hardware behind a link of the host, as a path without symbolic links:
/// `/sys/devices/pci0000:00/0000:00:05.0/virtio2`. `None` for virtual links,
/// and without sysfs.
pub(crate) fn hardware(link: &str) -> Option<PathBuf> {
    fs::canonicalize(Path::new(LINKS).join(link).join("device")).ok()
}

/// A path without symbolic links, to compare with [`hardware`].
pub(crate) fn resolved(device: &Path) -> Option<PathBuf> {
    fs::canonicalize(device).ok()
}
