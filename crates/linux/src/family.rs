//! The two address families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use nix::libc;
use rtnetlink::packet_route::AddressFamily;

const ANYWHERE_V4: Ipv4Network =
    Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).expect("0 bits fit in 32");
const ANYWHERE_V6: Ipv6Network =
    Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).expect("0 bits fit in 128");

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// `0.0.0.0/0` or `::/0`, the destination of a default route.
    #[must_use]
    pub fn anywhere(self) -> IpNetwork {
        match self {
            Family::V4 => IpNetwork::V4(ANYWHERE_V4),
            Family::V6 => IpNetwork::V6(ANYWHERE_V6),
        }
    }

    /// Bits of an address: 32 or 128.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    pub(crate) fn from_raw(raw: u8) -> Option<Family> {
        match i32::from(raw) {
            libc::AF_INET => Some(Family::V4),
            libc::AF_INET6 => Some(Family::V6),
            _ => None,
        }
    }

    pub(crate) fn wire(self) -> AddressFamily {
        match self {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        }
    }
}

/// The family of a filter: none is both.
pub(crate) fn wire_or_any(family: Option<Family>) -> AddressFamily {
    family.map_or(AddressFamily::Unspec, Family::wire)
}
