//! What the user wrote, and what it means.

use attach::backend::{Backend, FAMILIES};
use cni::{Error, IfName, Interface, Network, Request, Result, Success, cidr};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::link::Mac;
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;

const DEFAULT_ADMIN_CHAIN: &str = "CNI-ADMIN";
const DEFAULT_ZONE: &str = "trusted";

/// Bytes the name of a chain of iptables may have (`XT_EXTENSION_MAXNAMELEN`
/// without its NUL, include/uapi/linux/netfilter/x_tables.h at v6.18).
const CHAIN_NAME_MAX: usize = 28;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    backend: Option<String>,
    #[serde(rename = "iptablesAdminChainName")]
    admin_chain: String,
    #[serde(rename = "firewalldZone")]
    zone: String,
    #[serde(rename = "ingressPolicy")]
    ingress_policy: String,
    #[serde(rename = "denyCIDRs")]
    deny: Vec<String>,
    #[serde(rename = "allowCIDRs")]
    allow: Vec<String>,
}

/// What rules jump to that is no chain of a user's: the verdicts and the targets of
/// iptables 1.8 (extensions/), whose names it gives no chain, and the chains that
/// the kernel has.
const TAKEN_NAMES: [&str; 48] = [
    "ACCEPT",
    "DROP",
    "QUEUE",
    "RETURN",
    "standard", // verdicts
    "INPUT",
    "FORWARD",
    "OUTPUT",
    "PREROUTING",
    "POSTROUTING", // chains
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNAT",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "MARK",
    "MASQUERADE",
    "NETMAP",
    "NFLOG",
    "NFQUEUE",
    "NOTRACK",
    "RATEEST",
    "REDIRECT",
    "REJECT",
    "SECMARK",
    "SET",
    "SNAT",
    "SNPT",
    "SYNPROXY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
];

/// What the configuration names as backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// Rules of our own.
    Rules(Backend),
    /// Addresses in a zone of firewalld, and rules of our own beside it.
    Firewalld,
}

/// Who may reach the containers on a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Everybody.
    Open,
    /// Not the containers on other bridges.
    SameBridge,
    /// Not the containers on any bridge.
    Isolated,
}

impl Policy {
    /// As configurations write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Policy::Open => "open",
            Policy::SameBridge => "same-bridge",
            Policy::Isolated => "isolated",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Policy> {
        [Policy::Open, Policy::SameBridge, Policy::Isolated]
            .into_iter()
            .find(|policy| policy.name() == text)
    }
}

/// A bridge whose containers are kept apart from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Isolation {
    pub(crate) bridge: String,
    /// Never [`Policy::Open`].
    pub(crate) policy: Policy,
}

/// What ADD makes and CHECK expects.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) named: Option<Named>,
    pub(crate) admin_chain: String,
    pub(crate) zone: String,
    pub(crate) isolation: Option<Isolation>,
    /// Every address of the previous result, once.
    pub(crate) addresses: Vec<IpAddr>,
    /// The hardware addresses that the container's packets come to this host with.
    pub(crate) macs: Vec<Mac>,
    pub(crate) deny: Vec<IpNetwork>,
    pub(crate) allow: Vec<IpNetwork>,
}

/// What the configuration says by itself.
pub(crate) struct Settings {
    pub(crate) named: Option<Named>,
    pub(crate) admin_chain: String,
    zone: String,
    policy: Policy,
    pub(crate) deny: Vec<IpNetwork>,
    allow: Vec<IpNetwork>,
}

impl Settings {
    /// # Errors
    /// Code 7 for what contradicts itself or is not known.
    pub(crate) fn of(network: &Network) -> Result<Settings> {
        let conf: Conf = network.conf()?;
        let policy = plan_policy(&conf.ingress_policy)?;
        let (deny, allow) =
            (networks("denyCIDRs", &conf.deny)?, networks("allowCIDRs", &conf.allow)?);
        if deny.is_empty() && !allow.is_empty() {
            return Err(invalid(
                "allowCIDRs makes exceptions from denyCIDRs, which denies nothing: to allow nothing else, deny 0.0.0.0/0 and ::/0",
            ));
        }
        Ok(Settings {
            named: plan_backend(&conf)?,
            admin_chain: plan_admin_chain(&conf.admin_chain)?,
            zone: plan_zone(&conf.zone)?,
            policy,
            deny,
            allow,
        })
    }
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what contradicts itself or is not known.
    pub(crate) fn new(request: &Request, result: &Success) -> Result<Plan> {
        let Settings { named, admin_chain, zone, policy, deny, allow } =
            Settings::of(&request.network)?;
        let isolation = match policy {
            Policy::Open => None,
            policy => Some(Isolation { bridge: bridge(result, policy)?, policy }),
        };
        let (addresses, macs) = (unique(addresses(result)), unique(macs(result)));
        Ok(Plan { named, admin_chain, zone, isolation, addresses, macs, deny, allow })
    }

    /// Whether there is nothing to let through and nothing to limit.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && (self.deny.is_empty() || self.macs.is_empty())
    }

    /// The families it has addresses of.
    pub(crate) fn families(&self) -> Vec<Family> {
        let has = |family: &Family| self.addresses.iter().any(|a| Family::of(*a) == *family);
        FAMILIES.into_iter().filter(has).collect()
    }

    /// The addresses of a family.
    pub(crate) fn of(&self, family: Family) -> Vec<IpAddr> {
        self.addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
    }
}

/// What DEL takes from a configuration and a previous result, as far as they can
/// be read; it does not depend on either.
pub(crate) struct Hints {
    /// Whether addresses may be in a zone of firewalld that nobody recorded.
    pub(crate) firewalld: bool,
    pub(crate) zone: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The bridge of an attachment that nobody recorded.
    pub(crate) bridge: Option<String>,
}

impl Hints {
    pub(crate) fn of(request: &Request) -> Hints {
        let conf: Conf = request.network.conf().unwrap_or_default();
        let result = request.prev_result().ok().flatten().unwrap_or_default();
        let zone = if conf.zone.is_empty() { DEFAULT_ZONE } else { &conf.zone };
        let isolates = !matches!(conf.ingress_policy.as_str(), "" | "open");
        let bridge = result.interfaces.first().map(|interface| interface.name.clone());
        Hints {
            firewalld: matches!(conf.backend.as_deref(), None | Some("" | "firewalld")),
            zone: zone.to_owned(),
            addresses: addresses(&result),
            bridge: bridge.filter(|name| isolates && !name.is_empty()),
        }
    }
}

/// Of all interfaces, as upstream.
fn addresses(result: &Success) -> Vec<IpAddr> {
    result.ips.iter().map(|ip| ip.address.ip()).collect()
}

/// Of the container's links whose other end is on this host. Without such an end
/// its packets come by no link of the host's, and the hardware address may be one
/// that others have as well, as that of ipvlan is its parent's.
fn macs(result: &Success) -> Vec<Mac> {
    let (of_host, of_container): (Vec<&Interface>, Vec<&Interface>) =
        result.interfaces.iter().partition(|interface| interface.sandbox.is_empty());
    if of_host.is_empty() {
        return Vec::new();
    }
    let macs = of_container.iter().filter_map(|interface| interface.mac.parse().ok());
    macs.filter(|mac: &Mac| !mac.is_multicast() && !mac.is_zero()).collect()
}

fn invalid(text: impl fmt::Display) -> Error {
    Error::invalid_config(format!("load network configuration: {text}"))
}

fn plan_backend(conf: &Conf) -> Result<Option<Named>> {
    Ok(match conf.backend.as_deref() {
        None | Some("") => None,
        Some("firewalld") => Some(Named::Firewalld),
        Some("nftables") => Some(Named::Rules(Backend::Nftables)),
        Some("iptables") => Some(Named::Rules(Backend::Iptables)),
        Some(other) => {
            return Err(invalid(format!(
                "unknown backend {other:?}: use \"nftables\", \"iptables\" or \"firewalld\", or leave the key out"
            )));
        }
    })
}

fn plan_policy(text: &str) -> Result<Policy> {
    match text {
        "" => Ok(Policy::Open),
        text => Policy::parse(text).ok_or_else(|| {
            invalid(format!(
                "unknown ingress policy: {text:?}: use \"open\", \"same-bridge\" or \"isolated\""
            ))
        }),
    }
}

/// The bridge is what the first plugin of the chain made first.
fn bridge(result: &Success, policy: Policy) -> Result<String> {
    let policy = policy.name();
    let Some(first) = result.interfaces.first() else {
        return Err(invalid(format!(
            "interface needs to be set for ingress policy {policy:?}, make sure to chain \"firewall\" plugin with \"bridge\""
        )));
    };
    // Quotes and commas would end a word in a comment.
    let name = first.name.as_str();
    if IfName::new(name).is_err() || name.contains(['"', ',']) || !first.sandbox.is_empty() {
        return Err(invalid(format!(
            "ingress policy {policy:?} needs a bridge, and the first interface in prevResult is {name:?}: make sure to chain \"firewall\" plugin with \"bridge\""
        )));
    }
    Ok(name.to_owned())
}

fn plan_admin_chain(name: &str) -> Result<String> {
    if name.is_empty() {
        return Ok(DEFAULT_ADMIN_CHAIN.to_owned());
    }
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !begins || name.len() > CHAIN_NAME_MAX || !name.chars().all(plain) {
        return Err(invalid(format!(
            "iptablesAdminChainName {name:?} must be a letter and up to {} letters, digits, '_', '-' or '.'",
            CHAIN_NAME_MAX - 1
        )));
    }
    if TAKEN_NAMES.contains(&name) {
        return Err(invalid(format!(
            "iptablesAdminChainName {name:?} is a target or a chain of iptables itself: choose another name"
        )));
    }
    if crate::nftables::is_own_chain(name) || crate::iptables::is_own_chain(name) {
        return Err(invalid(format!("iptablesAdminChainName {name:?} is a chain of this plugin")));
    }
    Ok(name.to_owned())
}

fn plan_zone(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | ',');
    match name {
        "" => Ok(DEFAULT_ZONE.to_owned()),
        name if name.chars().all(plain) => Ok(name.to_owned()),
        name => Err(invalid(format!("firewalldZone {name:?} cannot be the name of a zone"))),
    }
}

fn networks(key: &str, given: &[String]) -> Result<Vec<IpNetwork>> {
    let parse = |(at, text): (usize, &String)| {
        let network = cidr::parse(text).map_err(|e| invalid(format!("{key}[{at}]: {e}")))?;
        // Rules show networks without host bits.
        IpNetwork::new(network.network(), network.prefix())
            .map_err(|e| invalid(format!("{key}[{at}]: {e}")))
    };
    given.iter().enumerate().map(parse).collect::<Result<Vec<_>>>().map(unique)
}

/// Each of a few things once, in the order they came.
pub(crate) fn unique<T: PartialEq>(things: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for thing in things {
        if !unique.contains(&thing) {
            unique.push(thing);
        }
    }
    unique
}

#[cfg(test)]
mod tests;
