//! What the user wrote, and what it means.

use attach::ipam::Ipam;
use attach::masquerade::Masquerade;
use attach::neighbours::DisableIpv6WhenUnused;
use attach::{dns, mtu};
use cni::{Dns, Error, Network, Result, Success};
use serde::Deserialize;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    mtu: i64,
    #[serde(rename = "disableIPv6WhenUnused")]
    disable_ipv6_when_unused: DisableIpv6WhenUnused,
}

/// What ADD makes and CHECK expects.
pub(crate) struct Plan {
    /// Of both ends, in bytes; `None` is the kernel's choice.
    pub(crate) mtu: Option<u32>,
    pub(crate) disable_ipv6_when_unused: DisableIpv6WhenUnused,
    pub(crate) masquerade: Option<Masquerade>,
    pub(crate) ipam: Ipam,
    /// Instead of the one IPAM gives.
    pub(crate) dns: Option<Dns>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what is missing or out of range.
    pub(crate) fn new(network: &Network) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        Ok(Plan {
            mtu: mtu::parse_of_veth(conf.mtu)?,
            disable_ipv6_when_unused: conf.disable_ipv6_when_unused,
            masquerade: Masquerade::of(network)?,
            ipam: Ipam::required(network)?,
            dns: dns::configured(network)?,
        })
    }
}

/// What IPAM gave, with whose addresses they are. Each needs a gateway: it is
/// the host's address at the other end, and all packets go there.
///
/// # Errors
/// An address without gateway, or with one that cannot be its.
pub(crate) fn complete(ipam: Success, interface: i64) -> Result<Success> {
    let mut success = Success { interfaces: Vec::new(), ..ipam };
    for ip in &mut success.ips {
        ip.interface = Some(interface);
        let address = ip.address;
        let wrong = |why: String| Err(Error::internal(format!("connect {address}: {why}")));
        match ip.gateway {
            None => {
                return wrong(
                    "IPAM gave it no gateway, and a ptp container reaches everything through one: give the address or its range a gateway"
                        .to_owned(),
                );
            }
            Some(gateway) if gateway == address.ip() => {
                return wrong(
                    "its gateway is the address itself: give the gateway another".to_owned(),
                );
            }
            Some(gateway) if gateway.is_ipv4() != address.is_ipv4() => {
                return wrong(format!("its gateway {gateway} is of the other family"));
            }
            Some(_) => {}
        }
    }
    Ok(success)
}

#[cfg(test)]
mod tests;
