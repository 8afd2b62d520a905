//! What the user wrote, and what it means.

use attach::ipam::Ipam;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::parent::Place;
use attach::{dns, mtu, shim};
use cni::{Dns, Error, Network, Request, Result, Success};
use linux::link::IpvlanMode;
use serde::Deserialize;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    master: String,
    mode: String,
    mtu: i64,
    #[serde(rename = "linkInContainer")]
    link_in_container: bool,
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
}

/// What ADD makes and CHECK expects.
pub(crate) struct Plan {
    /// As configured; `""` when the previous result or the default route says.
    pub(crate) parent: String,
    pub(crate) place: Place,
    pub(crate) mode: IpvlanMode,
    /// In bytes; `None` is the parent's.
    pub(crate) mtu: Option<u32>,
    pub(crate) disable_ipv6_when_unused: DisableIpv6WhenUnused,
    pub(crate) shim: Option<shim::Plan>,
    pub(crate) ipam: Option<Ipam>,
    /// Instead of the one IPAM or the previous result gives.
    pub(crate) dns: Option<Dns>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what contradicts itself or is out of range.
    pub(crate) fn new(network: &Network) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let invalid = |text: String| {
            Err(Error::invalid_config(format!("load network configuration: {text}")))
        };
        let mode = match conf.mode.as_str() {
            "" | "l2" => IpvlanMode::L2,
            "l3" => IpvlanMode::L3,
            "l3s" => IpvlanMode::L3s,
            other => {
                return invalid(format!(
                    "unknown ipvlan mode: {other:?}: it must be l2, l3 or l3s"
                ));
            }
        };
        let shim = shim::configured(network, shim::Kind::Ipvlan(mode))?;
        if shim.is_some() && conf.link_in_container {
            return invalid("hostShim needs a parent on the host: remove linkInContainer".into());
        }
        Ok(Plan {
            parent: conf.master,
            place: Place::new(conf.link_in_container),
            mode,
            mtu: mtu::parse_not_negative(conf.mtu)?,
            disable_ipv6_when_unused: conf.disable_ipv6_when_unused,
            shim,
            ipam: Ipam::of(network)?,
            dns: dns::configured(network)?,
        })
    }
}

/// Where an ADD takes its parent and its addresses from.
pub(crate) struct Sources {
    /// `""`: the default route's link.
    pub(crate) parent: String,
    pub(crate) addresses: Addresses,
}

pub(crate) enum Addresses {
    Ipam(Ipam),
    /// Of the plugin before this one.
    Previous(Success),
}

impl Sources {
    /// The configuration comes first, then the previous result.
    ///
    /// # Errors
    /// Code 7 when neither has them.
    pub(crate) fn new(plan: &Plan, request: &Request) -> Result<Sources> {
        let previous = request.prev_result()?;
        let parent = match (&plan.parent[..], &previous) {
            ("", Some(previous)) => match &previous.interfaces[..] {
                [only] if !only.name.is_empty() => only.name.clone(),
                _ => {
                    return Err(Error::invalid_config(
                        "find the parent link: chained master failure. PrevResult lacks a single named interface: name one as master",
                    ));
                }
            },
            (named, _) => named.to_owned(),
        };
        let addresses = match (&plan.ipam, previous) {
            (Some(ipam), _) => Addresses::Ipam(ipam.clone()),
            (None, Some(previous)) if !previous.ips.is_empty() => Addresses::Previous(previous),
            (None, _) => {
                return Err(Error::invalid_config(
                    "load network configuration: ipam.type is missing, and no previous result has addresses",
                ));
            }
        };
        Ok(Sources { parent, addresses })
    }
}

#[cfg(test)]
mod tests;
