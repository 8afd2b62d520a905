//! What the user wrote, and what it means.

use attach::chained;
use cni::{Error, Network, Request, Result, Success};
use ipnetwork::IpNetwork;
use linux::Family;
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    table: Option<i64>,
    gateways: Vec<String>,
    #[serde(rename = "addSourceHints")]
    source_hints: bool,
}

/// An address of the container, and where its packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) net: IpNetwork,
    pub(crate) gateway: Option<IpAddr>,
}

impl Address {
    pub(crate) fn ip(&self) -> IpAddr {
        self.net.ip()
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.net.ip())
    }
}

/// What the keys mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Packets are looked up in this table, which is the administrator's.
    Given(u32),
    /// Each address gets a table of its own, which the routes are moved to.
    Own {
        /// The way to the subnet stays in the main table.
        source_hints: bool,
        /// Of each family one at most.
        gateways: Vec<IpAddr>,
    },
}

/// What ADD makes and CHECK expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    /// At least one, each once.
    pub(crate) addresses: Vec<Address>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the container.
    ///
    /// # Errors
    /// Code 7 for what is out of range, or a result without addresses.
    pub(crate) fn new(request: &Request, result: &Success) -> Result<Plan> {
        let mode = Mode::of(&request.network)?;
        let mut addresses: Vec<Address> = Vec::new();
        for ip in chained::container_ips(request, result) {
            let gateway = match &mode {
                Mode::Given(_) => None,
                Mode::Own { gateways, .. } => gateway(ip.address, gateways, ip.gateway, result),
            };
            if addresses.iter().all(|known| known.ip() != ip.address.ip()) {
                addresses.push(Address { net: ip.address, gateway });
            }
        }
        if addresses.is_empty() {
            return Err(Error::invalid_config(format!(
                "route {} by source address: No IP addresses supplied on interface: {}: the plugin before this one must give it some",
                request.ifname, request.ifname
            )));
        }
        Ok(Plan { mode, addresses })
    }
}

impl Mode {
    /// Is it for us to choose the tables, and to fill them?
    pub(crate) fn has_own_tables(&self) -> bool {
        matches!(self, Mode::Own { .. })
    }

    /// Of a configuration.
    ///
    /// # Errors
    /// Code 7.
    pub(crate) fn of(network: &Network) -> Result<Mode> {
        let conf: Conf = network.conf()?;
        if let Some(table) = conf.table {
            return match u32::try_from(table) {
                Ok(table) if table > 0 => Ok(Mode::Given(table)),
                _ => Err(invalid(format!("table {table} is out of range"))),
            };
        }
        if conf.gateways.len() > 2 {
            return Err(invalid(
                "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)",
            ));
        }
        let mut gateways: Vec<IpAddr> = Vec::new();
        for text in &conf.gateways {
            let gateway: IpAddr = text
                .parse()
                .map_err(|_| invalid(format!("invalid static gateway IP address: {text}")))?;
            let family = Family::of(gateway);
            if let Some(other) = gateways.iter().find(|other| Family::of(**other) == family) {
                return Err(invalid(format!(
                    "gateways list contains multiple {} addresses: {other} and {gateway}",
                    if family == Family::V4 { "IPv4" } else { "IPv6" }
                )));
            }
            gateways.push(gateway);
        }
        Ok(Mode::Own { source_hints: conf.source_hints, gateways })
    }
}

/// The gateway of the configuration, else of the address, else of a default
/// route in the result that leads into the address's subnet.
fn gateway(
    net: IpNetwork,
    configured: &[IpAddr],
    own: Option<IpAddr>,
    result: &Success,
) -> Option<IpAddr> {
    let is_same = |gateway: &IpAddr| Family::of(*gateway) == Family::of(net.ip());
    let routed = || {
        let defaults = result.routes.iter().filter(|route| route.is_default());
        defaults.filter_map(|route| route.gw).find(|gateway| net.contains(*gateway))
    };
    let configured = configured.iter().copied().find(is_same);
    configured.or(own.filter(is_same)).or_else(routed)
}

fn invalid(text: impl fmt::Display) -> Error {
    Error::invalid_config(format!("load network configuration: {text}"))
}

#[cfg(test)]
mod tests;
