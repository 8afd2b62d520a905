//! What the user wrote, and what it means.

use attach::ipam::Ipam;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::parent::Place;
use attach::{dns, mac, mtu, shim};
use cni::args::Args;
use cni::{Dns, Error, Network, Result};
use linux::link::{Mac, MacvlanMode};
use serde::Deserialize;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    master: String,
    mode: String,
    mtu: i64,
    mac: String,
    #[serde(rename = "linkInContainer")]
    link_in_container: bool,
    bcqueuelen: u32,
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
    #[serde(rename = "runtimeConfig")]
    runtime_config: MacConf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MacConf {
    mac: String,
}

/// What ADD makes and CHECK expects.
pub(crate) struct Plan {
    /// `""`: that of the default route.
    pub(crate) parent: String,
    pub(crate) place: Place,
    pub(crate) mode: MacvlanMode,
    /// In bytes; `None` is the parent's.
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<Mac>,
    /// In packets; `None` is the kernel's choice.
    pub(crate) broadcast_queue_len: Option<u32>,
    pub(crate) disable_ipv6_when_unused: DisableIpv6WhenUnused,
    pub(crate) shim: Option<shim::Plan>,
    pub(crate) ipam: Option<Ipam>,
    /// Instead of the one IPAM gives.
    pub(crate) dns: Option<Dns>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what contradicts itself or is out of range, 4 for `CNI_ARGS`.
    pub(crate) fn new(network: &Network, args: &str) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let args = Args::parse(args, &["MAC"])?;
        let invalid = |text: String| {
            Err(Error::invalid_config(format!("load network configuration: {text}")))
        };
        let ipam = Ipam::of_layer_2(network)?;
        let mode = match conf.mode.as_str() {
            "" | "bridge" => MacvlanMode::Bridge,
            "private" => MacvlanMode::Private,
            "vepa" => MacvlanMode::Vepa,
            "passthru" => MacvlanMode::Passthru,
            other => {
                return invalid(format!(
                    "unknown macvlan mode: {other:?}: it must be bridge, private, vepa or passthru"
                ));
            }
        };
        let given =
            [conf.runtime_config.mac.as_str(), args.get("MAC").unwrap_or_default(), &conf.mac];
        let mac = given.into_iter().find(|mac| !mac.is_empty()).map(mac::parse).transpose()?;
        let shim = shim::configured(network, shim::Kind::Macvlan)?;
        let in_the_way = [
            (mode != MacvlanMode::Bridge, "mode bridge: in others macvlans do not meet"),
            (conf.link_in_container, "a parent on the host: remove linkInContainer"),
            (ipam.is_none(), "ipam: it is made of routes to addresses"),
        ];
        if let (Some(_), Some((_, needed))) = (&shim, in_the_way.iter().find(|(is_so, _)| *is_so)) {
            return invalid(format!("hostShim needs {needed}"));
        }
        Ok(Plan {
            parent: conf.master,
            place: Place::new(conf.link_in_container),
            mode,
            mtu: mtu::parse_not_negative(conf.mtu)?,
            mac,
            broadcast_queue_len: Some(conf.bcqueuelen).filter(|len| *len > 0),
            disable_ipv6_when_unused: conf.disable_ipv6_when_unused,
            shim,
            ipam,
            dns: dns::configured(network)?,
        })
    }
}

#[cfg(test)]
mod tests;
