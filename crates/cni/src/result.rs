//! The result of an ADD, in the newest shape. All older shapes are made and
//! read by [`crate::versions`], at the door only.

use ipnetwork::IpNetwork;
use serde::Deserialize;
use std::net::IpAddr;

/// What an ADD made: the specification's "success result".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Success {
    /// Links made or used, host side and container side.
    pub interfaces: Vec<Interface>,
    /// Addresses given to the container.
    pub ips: Vec<IpConfig>,
    /// Routes made in the container.
    pub routes: Vec<Route>,
    /// For the container's `resolv.conf`; the runtime's business.
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address as text, `""` when it has none.
    pub mac: String,
    /// In bytes; 0 when not reported.
    pub mtu: i64,
    /// The path of the network namespace, `""` for the host's.
    pub sandbox: String,
    /// The socket of a userspace data plane.
    #[serde(rename = "socketPath")]
    pub socket_path: String,
    /// The PCI address of the device behind it.
    #[serde(rename = "pciID")]
    pub pci_id: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IpConfig {
    /// Index into [`Success::interfaces`].
    #[serde(default)]
    pub interface: Option<i64>,
    /// With its prefix length; host bits kept.
    #[serde(with = "crate::cidr::serde_cidr")]
    pub address: IpNetwork,
    /// The default gateway for this subnet, if there is one.
    #[serde(default, with = "crate::cidr::serde_ip_opt")]
    pub gateway: Option<IpAddr>,
}

/// A route in the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// Destination.
    #[serde(with = "crate::cidr::serde_cidr")]
    pub dst: IpNetwork,
    /// Next hop; none means the gateway of the address of the same family.
    #[serde(default, with = "crate::cidr::serde_ip_opt")]
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes; 0 is not given.
    #[serde(default)]
    pub mtu: i64,
    /// TCP maximal segment size to advertise, in bytes; 0 is not given.
    #[serde(default)]
    pub advmss: i64,
    /// Metric, lower is better; 0 is not given.
    #[serde(default)]
    pub priority: i64,
    /// Routing table.
    #[serde(default)]
    pub table: Option<i64>,
    /// 0 global, 253 link, 254 host.
    #[serde(default)]
    pub scope: Option<i64>,
}

impl Route {
    /// A plain route to `dst`.
    pub fn to(dst: IpNetwork) -> Route {
        Route { dst, gw: None, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }

    /// Is it `0.0.0.0/0` or `::/0`?
    pub fn is_default(&self) -> bool {
        self.dst.prefix() == 0
    }
}

/// Name resolution for the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// In order of preference.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: String,
    /// Search list for short names.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl Dns {
    /// Is nothing given?
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty()
            && self.domain.is_empty()
            && self.search.is_empty()
            && self.options.is_empty()
    }
}
