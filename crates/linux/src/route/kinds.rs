//! The small vocabularies of routes: scope, origin, kind.

use std::fmt;

/// How far an address is valid, or how far a destination is away
/// (`RT_SCOPE_*`, include/uapi/linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope(pub u8);

impl Scope {
    /// Everywhere; for a route, beyond a gateway.
    pub const UNIVERSE: Scope = Scope(0);
    /// Within the site (IPv6, historic).
    pub const SITE: Scope = Scope(200);
    /// On the link.
    pub const LINK: Scope = Scope(253);
    /// In this host.
    pub const HOST: Scope = Scope(254);
    /// In a request to delete: any.
    pub const NOWHERE: Scope = Scope(255);
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Scope::UNIVERSE => f.write_str("global"),
            Scope::SITE => f.write_str("site"),
            Scope::LINK => f.write_str("link"),
            Scope::HOST => f.write_str("host"),
            Scope::NOWHERE => f.write_str("nowhere"),
            Scope(other) => write!(f, "{other}"),
        }
    }
}

/// Who made a route (`RTPROT_*`, include/uapi/linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// Nobody said.
    pub const UNSPEC: RouteProtocol = RouteProtocol(0);
    /// The kernel, with an address.
    pub const KERNEL: RouteProtocol = RouteProtocol(2);
    /// Set-up scripts and programs; what `ip route add` uses.
    pub const BOOT: RouteProtocol = RouteProtocol(3);
    /// The administrator.
    pub const STATIC: RouteProtocol = RouteProtocol(4);
    /// From a router advertisement (`RTPROT_RA`).
    pub const RA: RouteProtocol = RouteProtocol(9);
}

/// What happens to a packet (`RTN_*`, include/uapi/linux/rtnetlink.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteKind(pub u8);

impl RouteKind {
    /// It is sent to the gateway or on the link.
    pub const UNICAST: RouteKind = RouteKind(1);
    /// It is for this host.
    pub const LOCAL: RouteKind = RouteKind(2);
    /// It is dropped in silence.
    pub const BLACKHOLE: RouteKind = RouteKind(6);
    /// It is refused: unreachable.
    pub const UNREACHABLE: RouteKind = RouteKind(7);
    /// It is refused: forbidden.
    pub const PROHIBIT: RouteKind = RouteKind(8);
}
