//! What the user wrote, and what it means.

use attach::ipam::Ipam;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::{dns, mac};
use cni::{Dns, Error, Network, Request, Result};
use linux::link::Mac;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// Where the kernel shows its devices; a `kernelpath` is below it.
const DEVICES: &str = "/sys/devices/";

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    device: String,
    hwaddr: String,
    kernelpath: String,
    #[serde(rename = "pciBusID")]
    pci_bus_id: String,
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
    #[serde(rename = "runtimeConfig")]
    runtime_config: RuntimeConfig,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    #[serde(rename = "deviceID")]
    device_id: String,
}

/// Which device is meant. At least one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Its link, said directly: wins over `bus`.
    pub(crate) link: Option<LinkSelector>,
    /// Its place on a bus, which also tells whether a program drives it from
    /// user space.
    pub(crate) bus: Option<BusSelector>,
}

/// The first of these keys that is given counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkSelector {
    /// `device`: a name or an alternative name.
    Name(String),
    /// `hwaddr`
    Mac(Mac),
    /// `kernelpath`: the directory of the device below /sys/devices.
    KernelPath(PathBuf),
}

/// A device's name on a bus: no slash in it, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BusSelector {
    /// `pciBusID`, such as 0000:00:1f.6.
    Pci(String),
    /// `runtimeConfig.deviceID`: on the PCI bus, or else on the auxiliary bus
    /// (subfunctions, such as `mlx5_core.sf.4`).
    DeviceId(String),
}

impl Selection {
    /// The device of the configuration; `None` when it names none.
    ///
    /// # Errors
    /// Code 7 for a malformed key.
    pub(crate) fn of(network: &Network) -> Result<Option<Selection>> {
        network.conf().and_then(Selection::from_conf)
    }

    fn from_conf(conf: Conf) -> Result<Option<Selection>> {
        let link = if !conf.device.is_empty() {
            Some(LinkSelector::Name(conf.device))
        } else if !conf.hwaddr.is_empty() {
            Some(LinkSelector::Mac(mac::parse(&conf.hwaddr).map_err(|e| e.context("hwaddr"))?))
        } else if !conf.kernelpath.is_empty() {
            Some(LinkSelector::KernelPath(kernel_path(&conf.kernelpath)?))
        } else {
            None
        };
        let device_id = conf.runtime_config.device_id;
        let bus = if !device_id.is_empty() {
            Some(BusSelector::DeviceId(bus_name("runtimeConfig.deviceID", device_id)?))
        } else if !conf.pci_bus_id.is_empty() {
            Some(BusSelector::Pci(bus_name("pciBusID", conf.pci_bus_id)?))
        } else {
            None
        };
        Ok((link.is_some() || bus.is_some()).then_some(Selection { link, bus }))
    }
}

fn kernel_path(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    match text.starts_with(DEVICES) && plain {
        true => Ok(path.to_owned()),
        false => Err(Error::invalid_config(format!(
            "load network configuration: kernelpath {text:?} must be absolute and begin with {DEVICES}"
        ))),
    }
}

fn bus_name(key: &str, text: String) -> Result<String> {
    match text.contains(['/', '\0']) || text == "." || text == ".." {
        false => Ok(text),
        true => Err(Error::invalid_config(format!(
            "load network configuration: {key} {text:?} is no device's name on a bus"
        ))),
    }
}

/// What ADD and CHECK are about.
pub(crate) struct Plan {
    pub(crate) selection: Selection,
    pub(crate) disable_ipv6_when_unused: DisableIpv6WhenUnused,
    pub(crate) ipam: Option<Ipam>,
    /// Instead of the one IPAM gives.
    pub(crate) dns: Option<Dns>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7.
    pub(crate) fn new(request: &Request) -> Result<Plan> {
        let network = &request.network;
        let conf: Conf = network.conf()?;
        let disable_ipv6_when_unused = conf.disable_ipv6_when_unused;
        let selection = Selection::from_conf(conf)?.ok_or_else(|| {
            Error::invalid_config(
                "load network configuration: which device? specify \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\" (or have the runtime give a deviceID)",
            )
        })?;
        let ipam = Ipam::of_layer_2(network)?;
        let dns = dns::configured(network)?;
        Ok(Plan { selection, disable_ipv6_when_unused, ipam, dns })
    }
}

#[cfg(test)]
mod tests;
