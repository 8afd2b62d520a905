//! What the user wrote, and what it means.

use attach::ipam::Ipam;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::{dns, mac, mtu};
use cni::args::Args;
use cni::{Dns, Error, Network, Result};
use linux::link::Mac;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// The user and group ID that means "none" to the kernel
/// (`make_kuid`, include/linux/uidgid.h at v6.18).
const NOBODY_AT_ALL: u32 = u32::MAX;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    #[serde(rename = "multiQueue")]
    multi_queue: bool,
    mtu: i64,
    mac: String,
    owner: Option<u32>,
    group: Option<u32>,
    #[serde(rename = "selinuxContext")]
    selinux_context: String,
    bridge: String,
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
    #[serde(rename = "runtimeConfig")]
    runtime_config: MacConf,
    /// Must be an object; nothing in it is for this plugin.
    #[serde(rename = "args")]
    _args: BTreeMap<String, IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MacConf {
    mac: String,
}

/// What ADD makes and CHECK expects.
pub(crate) struct Plan {
    pub(crate) multi_queue: bool,
    /// In bytes; `None` is the kernel's choice.
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<Mac>,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) selinux_context: Option<String>,
    /// A bridge in the container.
    pub(crate) bridge: Option<String>,
    pub(crate) disable_ipv6_when_unused: DisableIpv6WhenUnused,
    pub(crate) ipam: Option<Ipam>,
    /// Instead of the one IPAM gives.
    pub(crate) dns: Option<Dns>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what is out of range, 4 for `CNI_ARGS`.
    pub(crate) fn new(network: &Network, args: &str) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let args = Args::parse(args, &["MAC"])?;
        let invalid = |text: String| {
            Err(Error::invalid_config(format!("load network configuration: {text}")))
        };
        let ipam = Ipam::of_layer_2(network)?;
        for (key, id) in [("owner", conf.owner), ("group", conf.group)] {
            if id == Some(NOBODY_AT_ALL) {
                return invalid(format!("{key} {NOBODY_AT_ALL} means nobody at all"));
            }
        }
        if conf.selinux_context.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return invalid(format!(
                "selinuxContext {:?} must not contain white space",
                conf.selinux_context
            ));
        }
        let given =
            [conf.runtime_config.mac.as_str(), args.get("MAC").unwrap_or_default(), &conf.mac];
        let mac = given.into_iter().find(|mac| !mac.is_empty()).map(mac::parse).transpose()?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Plan {
            multi_queue: conf.multi_queue,
            mtu: mtu::parse_not_negative(conf.mtu)?,
            mac,
            owner: conf.owner,
            group: conf.group,
            selinux_context: given(conf.selinux_context),
            bridge: given(conf.bridge),
            disable_ipv6_when_unused: conf.disable_ipv6_when_unused,
            ipam,
            dns: dns::configured(network)?,
        })
    }
}

#[cfg(test)]
mod tests;
