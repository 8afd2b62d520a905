//! What a configuration asks of the shim, and from which addresses the host
//! speaks through it.

use crate::parent::Parent;
use cni::{Error, Network, Result, Success, cidr};
use linux::addr::{Addr, AddrFlags};
use linux::link::{IpvlanMode, Link, LinkInfo, MacvlanMode};
use linux::route::Scope;
use serde::Deserialize;
use std::net::IpAddr;

/// What the shim is, which is what the containers' links are: the modes of one
/// parent's ipvlans are always the same, and macvlans only meet in bridge mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A macvlan in bridge mode.
    Macvlan,
    /// An ipvlan.
    Ipvlan(IpvlanMode),
}

impl Kind {
    /// Whether its frames carry the Ethernet addresses of neighbours.
    pub(super) fn has_neighbours(self) -> bool {
        matches!(self, Kind::Macvlan | Kind::Ipvlan(IpvlanMode::L2))
    }

    pub(super) fn matches(self, link: &Link) -> bool {
        match (self, &link.info) {
            (Kind::Macvlan, LinkInfo::Macvlan { mode }) => *mode == Some(MacvlanMode::Bridge),
            (Kind::Ipvlan(wanted), LinkInfo::Ipvlan { mode }) => *mode == Some(wanted),
            _ => false,
        }
    }
}

/// The shim a configuration asks for.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) kind: Kind,
    /// The shim's own, where the host is not to speak from the parent's.
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    #[serde(rename = "hostShim")]
    host_shim: bool,
    #[serde(rename = "hostShimAddresses")]
    host_shim_addresses: Vec<String>,
}

/// What `hostShim` and `hostShimAddresses` say; `None` without a shim.
///
/// # Errors
/// Code 7 for text that is no address, and addresses without a shim.
pub fn configured(network: &Network, kind: Kind) -> Result<Option<Plan>> {
    let conf: Conf = network.conf()?;
    let addresses: Vec<IpAddr> = conf
        .host_shim_addresses
        .iter()
        .map(|text| {
            cidr::parse_ip(text).map_err(|e| {
                Error::invalid_config(format!(
                    "load network configuration: hostShimAddresses: {e}: write it without a length"
                ))
            })
        })
        .collect::<Result<_>>()?;
    match (conf.host_shim, addresses.is_empty()) {
        (true, _) => Ok(Some(Plan { kind, addresses })),
        (false, true) => Ok(None),
        (false, false) => Err(Error::invalid_config(
            "load network configuration: hostShimAddresses without hostShim: set hostShim to true as well",
        )),
    }
}

/// From which of the host's addresses it speaks to one of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

impl Plan {
    /// The ways to the addresses of `success`. Those of a family the host has no
    /// address of have none, from the shim or otherwise.
    pub(super) fn ways(
        &self,
        parent: &Parent,
        on_parent: &[Addr],
        success: &Success,
    ) -> Result<Vec<Way>> {
        if let Some(both) = self.addresses.iter().find(|a| on_parent.iter().any(|p| p.ip() == **a))
        {
            return Err(Error::invalid_config(format!(
                "load network configuration: hostShimAddresses: {both} is on {} already, and the shim would take its traffic: name a free one, or none",
                parent.link.name
            )));
        }
        let ways: Vec<Way> = success
            .ips
            .iter()
            .filter_map(|ip| {
                let to = ip.address.ip();
                self.source(to, on_parent).map(|from| Way { from, to })
            })
            .collect();
        match ways.is_empty() {
            false => Ok(ways),
            true => Err(Error::internal(format!(
                "join the host shim: {} has no address the host could speak to the container from: give the shim hostShimAddresses",
                parent.link.name
            ))),
        }
    }

    fn source(&self, to: IpAddr, on_parent: &[Addr]) -> Option<IpAddr> {
        let own = self.addresses.iter().find(|a| a.is_ipv4() == to.is_ipv4()).copied();
        let near = |addr: &&Addr| addr.net.contains(to);
        let of_family =
            || on_parent.iter().filter(|a| is_usable(a) && a.ip().is_ipv4() == to.is_ipv4());
        own.or_else(|| of_family().find(near).or_else(|| of_family().next()).map(Addr::ip))
    }

    /// Whether an ARP request by the shim would speak of an address that is not its own.
    pub(super) fn must_not_ask(&self) -> bool {
        self.kind == Kind::Macvlan && !self.addresses.iter().any(IpAddr::is_ipv4)
    }

    /// Whether the host's address is only on the parent, where nobody among the
    /// containers can be asked for it.
    pub(super) fn is_borrowed(&self, from: IpAddr) -> bool {
        !self.addresses.contains(&from)
    }
}

pub(super) fn is_usable(addr: &Addr) -> bool {
    addr.scope == Scope::UNIVERSE
        && !addr.is_tentative()
        && !addr.is_duplicate()
        && !addr.flags.contains(AddrFlags::DEPRECATED)
}
