//! The device a configuration means, on the host; and who has it when it is
//! not there.

use crate::conf::{BusSelector, LinkSelector, Selection};
use crate::record::{Device, Record};
use crate::sysfs;
use attach::kernel;
use cni::{Error, Result};
use linux::Socket;
use linux::link::{self, Link};
use std::io;
use std::path::{Path, PathBuf};

/// What was found.
pub(crate) enum Found {
    /// A link on the host.
    Link {
        link: Box<Link>,
        /// The hardware behind it, if there is any.
        hardware: Option<PathBuf>,
        /// Its address on the PCI bus, where it was found by that.
        pci_bus_id: Option<String>,
    },
    /// A device on the PCI bus without a link, which a program drives from
    /// user space (DPDK).
    Userspace { pci_bus_id: String },
    /// There is no such link in the host's namespace.
    Missing(Missing),
}

/// A device that is not on the host.
pub(crate) struct Missing {
    /// What was looked for and why it was not found, for errors.
    pub(crate) why: String,
    /// Where the hardware is, if the configuration says.
    hardware: Option<PathBuf>,
}

impl Missing {
    /// What is known of it.
    pub(crate) fn error(&self) -> Error {
        Error::internal(format!("find host device: {}", self.why))
    }
}

/// A device on a bus, by its directory in sysfs.
enum OnBus {
    Pci { id: String, directory: PathBuf },
    Auxiliary { id: String, directory: PathBuf },
}

/// Looks for the device in the host's namespace.
///
/// # Errors
/// The bus has no such device, or no driver is bound to it; sysfs cannot be
/// read; the kernel's.
pub(crate) fn find(host: &Socket, selection: &Selection) -> Result<Found> {
    let on_bus = selection.bus.as_ref().map(on_bus).transpose()?;
    if let Some(OnBus::Pci { id, directory }) = &on_bus
        && is_in_user_space(id, directory)?
    {
        return Ok(Found::Userspace { pci_bus_id: id.clone() });
    }
    match (&selection.link, &on_bus) {
        (Some(LinkSelector::Name(name)), _) => {
            let link = link::find(host, name).map_err(kernel)?;
            let why = || format!("there is no link named {name}");
            Ok(found(link, None, || Missing { why: why(), hardware: None }))
        }
        (Some(LinkSelector::Mac(mac)), _) => {
            let links = link::list(host).map_err(kernel)?;
            let link = links.into_iter().find(|link| link.mac == Some(*mac));
            let why = || format!("there is no link with address {mac}");
            Ok(found(link, None, || Missing { why: why(), hardware: None }))
        }
        (Some(LinkSelector::KernelPath(directory)), _) => {
            below(host, directory, &format!("kernelpath {}", directory.display()), None)
        }
        (None, Some(OnBus::Pci { id, directory })) => {
            below(host, directory, &format!("PCI device {id}"), Some(id))
        }
        (None, Some(OnBus::Auxiliary { id, directory })) => {
            below(host, directory, &format!("auxiliary device {id}"), None)
        }
        (None, None) => Err(Error::internal("find host device: none is named")),
    }
}

fn found(
    link: Option<Link>,
    pci_bus_id: Option<String>,
    missing: impl FnOnce() -> Missing,
) -> Found {
    match link {
        Some(link) => {
            Found::Link { hardware: sysfs::hardware(&link.name), link: Box::new(link), pci_bus_id }
        }
        None => Found::Missing(missing()),
    }
}

/// The first link of the device in `directory`.
fn below(
    host: &Socket,
    directory: &Path,
    what: &str,
    pci_bus_id: Option<&String>,
) -> Result<Found> {
    let name = sysfs::first_link(directory).map_err(|e| unreadable(what, directory, &e))?;
    let link = match &name {
        Some(name) => link::find(host, name).map_err(kernel)?,
        None => None,
    };
    let hardware = sysfs::resolved(directory);
    Ok(match link {
        Some(link) => Found::Link {
            hardware: sysfs::hardware(&link.name).or(hardware),
            link: Box::new(link),
            pci_bus_id: pci_bus_id.cloned(),
        },
        None => {
            let why = match &name {
                Some(name) => format!("{what} has link {name}, which is not on the host"),
                None if hardware.is_none() => format!("{what}: there is no such device"),
                None => format!("{what} has no link on the host"),
            };
            Found::Missing(Missing { why, hardware })
        }
    })
}

fn on_bus(selector: &BusSelector) -> Result<OnBus> {
    let nowhere = |what: String| Err(Error::internal(format!("find host device: {what}")));
    match selector {
        BusSelector::Pci(id) => match sysfs::pci(id) {
            Some(directory) => Ok(OnBus::Pci { id: id.clone(), directory }),
            None => nowhere(format!("pciBusID {id}: the PCI bus has no such device")),
        },
        BusSelector::DeviceId(id) => match (sysfs::pci(id), sysfs::auxiliary(id)) {
            (Some(directory), _) => Ok(OnBus::Pci { id: id.clone(), directory }),
            (None, Some(directory)) => Ok(OnBus::Auxiliary { id: id.clone(), directory }),
            (None, None) => nowhere(format!(
                "runtimeConfig.deviceID {id}: neither the PCI nor the auxiliary bus has such a device"
            )),
        },
    }
}

/// Does a program drive the device from user space?
fn is_in_user_space(id: &str, directory: &Path) -> Result<bool> {
    let what = format!("PCI device {id}");
    match sysfs::driver(directory).map_err(|e| unreadable(&what, directory, &e))? {
        Some(driver) => Ok(sysfs::is_userspace_driver(&driver)),
        None => Err(Error::internal(format!(
            "find host device: {what} is bound to no driver: bind it to its network driver, or to vfio-pci"
        ))),
    }
}

fn unreadable(what: &str, directory: &Path, error: &io::Error) -> Error {
    Error::internal(format!("find host device: {what}: read {}: {error}", directory.display()))
}

/// The records that may be of a device that was not found on the host.
pub(crate) fn records_of(
    records: &[Record],
    selection: &Selection,
    missing: &Missing,
) -> Vec<Record> {
    let means = |device: &Device| match (&selection.link, &missing.hardware) {
        (Some(LinkSelector::Name(name)), _) => {
            device.name == *name || device.alt_names.contains(name)
        }
        (Some(LinkSelector::Mac(mac)), _) => {
            let text = Some(mac.to_string());
            device.mac == text || device.permanent_mac == text
        }
        // The directory of a virtio device is below that of the PCI device.
        (_, Some(directory)) => {
            device.hardware.as_ref().is_some_and(|hardware| hardware.starts_with(directory))
        }
        (_, None) => false,
    };
    records.iter().filter(|record| record.device.as_ref().is_some_and(means)).cloned().collect()
}
