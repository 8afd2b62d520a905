//! What the user wrote, and what it means.

use attach::ipam::Ipam;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::parent::Place;
use attach::{dns, mtu};
use cni::{Dns, Error, Network, Result};
use serde::Deserialize;
use std::ops::RangeInclusive;

/// The VLAN IDs (IEEE 802.1Q). 0 is none: its frames are tagged for their priority
/// only, and reach everybody; 4095 is reserved.
const IDS: RangeInclusive<u16> = 1..=4094;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    master: String,
    #[serde(rename = "vlanId")]
    vlan_id: i64,
    mtu: i64,
    #[serde(rename = "linkInContainer")]
    link_in_container: bool,
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
}

/// What ADD makes and CHECK expects.
pub(crate) struct Plan {
    pub(crate) parent: String,
    pub(crate) place: Place,
    pub(crate) id: u16,
    /// In bytes; `None` is the parent's.
    pub(crate) mtu: Option<u32>,
    pub(crate) disable_ipv6_when_unused: DisableIpv6WhenUnused,
    pub(crate) ipam: Ipam,
    /// Instead of the one IPAM gives.
    pub(crate) dns: Option<Dns>,
}

impl Conf {
    /// The parent, which has no default: a VLAN of the default route's link is
    /// nobody's guess.
    fn parent(&self) -> Result<&str> {
        match self.master.as_str() {
            "" => Err(Error::invalid_config(
                "load network configuration: \"master\" field is required. It specifies the host interface name to create the VLAN for",
            )),
            master => Ok(master),
        }
    }

    /// The VLAN, which has no default either.
    fn id(&self) -> Result<u16> {
        u16::try_from(self.vlan_id).ok().filter(|id| IDS.contains(id)).ok_or_else(|| {
            Error::invalid_config(format!(
                "load network configuration: invalid VLAN ID {}: vlanId must be between {} and {}",
                self.vlan_id,
                IDS.start(),
                IDS.end()
            ))
        })
    }
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what is missing or out of range.
    pub(crate) fn new(network: &Network) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let parent = conf.parent()?.to_owned();
        let id = conf.id()?;
        Ok(Plan {
            parent,
            place: Place::new(conf.link_in_container),
            id,
            mtu: mtu::parse_not_negative(conf.mtu)?,
            disable_ipv6_when_unused: conf.disable_ipv6_when_unused,
            ipam: Ipam::required(network)?,
            dns: dns::configured(network)?,
        })
    }
}

#[cfg(test)]
mod tests;
