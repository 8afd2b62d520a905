//! What the user wrote, and what it means.

use crate::routing::METRIC_V6;
use attach::chained;
use cni::{Error, Network, Request, Result, Success};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::route::TABLE_MAIN;
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

    /// The previous result with the default routes that the tables have: where a
    /// gateway of the configuration takes the place of one, CHECK of the plugin that
    /// made it would look for it in vain.
    pub(crate) fn routed(&self, mut result: Success) -> Success {
        let Mode::Own { gateways, .. } = &self.mode else { return result };
        for route in result.routes.iter_mut().filter(|route| route.is_default()) {
            let family = Family::of(route.dst.ip());
            let is_of_family = |gateway: &&IpAddr| Family::of(**gateway) == family;
            let Some(gateway) = gateways.iter().find(is_of_family) else { continue };
            let is_main =
                route.table.is_none_or(|table| [0, i64::from(TABLE_MAIN)].contains(&table));
            let is_usual = route.priority == 0
                || family == Family::V6 && route.priority == i64::from(METRIC_V6);
            let is_ours = self.addresses.iter().any(|address| address.family() == family);
            if is_main && is_usual && is_ours {
                route.gw = Some(*gateway);
            }
        }
        result
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

/// The gateway of the configuration, else of a default route in the result that leads
/// into the address's subnet, else of the address.
fn gateway(
    net: IpNetwork,
    configured: &[IpAddr],
    own: Option<IpAddr>,
    result: &Success,
) -> Option<IpAddr> {
    let is_same = |gateway: &IpAddr| Family::of(*gateway) == Family::of(net.ip());
    // Link-local addresses are in every subnet.
    let is_near = |gateway: &IpAddr| match gateway {
        IpAddr::V6(ip) if net.is_ipv6() && ip.is_unicast_link_local() => true,
        gateway => net.contains(*gateway),
    };
    let routed = || {
        let defaults = result.routes.iter().filter(|route| route.is_default());
        defaults.filter_map(|route| route.gw).find(is_near)
    };
    let configured = configured.iter().copied().find(is_same);
    configured.or_else(routed).or(own.filter(is_same))
}

fn invalid(text: impl fmt::Display) -> Error {
    Error::invalid_config(format!("load network configuration: {text}"))
}

#[cfg(test)]
mod tests;
