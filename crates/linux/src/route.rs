//! Routes.

mod kinds;

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteVia,
};

pub use self::kinds::{RouteKind, RouteProtocol, Scope};

use crate::error::Result;
use crate::family::{Family, wire_or_any};
use crate::netlink::{
    Attr, Attrs, Message, Reply, Socket, align, field_u8, field_u16, field_u32, ip_from_bytes,
};
use crate::uapi::{
    NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTA_DST, RTA_ENCAP, RTA_GATEWAY,
    RTA_METRICS, RTA_MULTIPATH, RTA_NH_ID, RTA_OIF, RTA_PREF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE,
    RTA_VIA, RTAX_ADVMSS, RTAX_CC_ALGO, RTAX_MTU, RTM_DELROUTE, RTM_F_CLONED, RTM_GETROUTE,
    RTM_NEWROUTE, RTMSG_LEN, RTNH_F_ONLINK,
};

/// The main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The table of the host's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// A route: as the kernel reported it, or to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination; no bits set behind the prefix.
    pub dst: IpNetwork,
    /// Next hop; may be IPv6 for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// Index of the link it leaves by.
    pub oif: Option<u32>,
    /// Routing table.
    pub table: u32,
    /// How far the destination is away.
    pub scope: Scope,
    /// Metric: the lowest wins; 0 and none are the same for IPv4, 1024 is what
    /// IPv6 takes for none.
    pub priority: Option<u32>,
    /// Who made it.
    pub protocol: RouteProtocol,
    /// What happens to packets.
    pub kind: RouteKind,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP segment size in bytes to advertise.
    pub advmss: Option<u32>,
    /// The other metrics that are numbers, by `RTAX_*` (include/uapi/linux/rtnetlink.h):
    /// what is locked, window, hop limit, ..
    pub metrics: Vec<(u16, u32)>,
    /// IPv6: `ICMPV6_ROUTER_PREF_*` where it is not medium.
    pub preference: Option<u8>,
    /// Address this host sends from.
    pub source: Option<IpAddr>,
    /// Whether the gateway is on the link although no subnet says so.
    pub onlink: bool,
    /// The ways of a multipath route, in place of `gateway` and `oif`.
    pub next_hops: Vec<NextHop>,
    /// As read: it is for packets of one source or type of service alone, or
    /// encapsulates them, or goes by a next hop object, which is not told here. Made
    /// again from this it would be another.
    pub is_special: bool,
}

/// One way of a multipath route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Index of the link it leaves by.
    pub oif: u32,
    /// Its share, 1 to 256.
    pub weight: u16,
    /// See [`Route::onlink`].
    pub onlink: bool,
}

impl Route {
    /// A unicast route to `dst` in the main table, nothing else set.
    #[must_use]
    pub fn new(dst: IpNetwork) -> Route {
        Route {
            dst,
            gateway: None,
            oif: None,
            table: TABLE_MAIN,
            scope: Scope::UNIVERSE,
            priority: None,
            protocol: RouteProtocol::BOOT,
            kind: RouteKind::UNICAST,
            mtu: None,
            advmss: None,
            metrics: Vec::new(),
            preference: None,
            source: None,
            onlink: false,
            next_hops: Vec::new(),
            is_special: false,
        }
    }

    /// A default route.
    #[must_use]
    pub fn default_of(family: Family) -> Route {
        Route::new(family.anywhere())
    }

    /// `via ADDRESS`
    #[must_use]
    pub fn via(mut self, gateway: IpAddr) -> Route {
        self.gateway = Some(gateway);
        self
    }

    /// `dev`, by index
    #[must_use]
    pub fn dev(mut self, index: u32) -> Route {
        self.oif = Some(index);
        self
    }

    /// `scope SCOPE`
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Route {
        self.scope = scope;
        self
    }

    /// `src ADDRESS`
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Route {
        self.source = Some(source);
        self
    }

    /// `table NUMBER`
    #[must_use]
    pub fn table(mut self, table: u32) -> Route {
        self.table = table;
        self
    }

    /// `metric NUMBER`
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Route {
        self.priority = Some(priority);
        self
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.dst.ip())
    }

    /// Whether it is for every destination no other route is for.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.dst.prefix() == 0
    }

    /// The request of [`add`].
    #[must_use]
    pub fn add_message(&self) -> Message {
        self.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, "add")
    }

    /// The request of [`append`].
    #[must_use]
    pub fn append_message(&self) -> Message {
        self.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, "append")
    }

    /// A request for a route before others of its destination and metric, like
    /// `ip route prepend`.
    #[must_use]
    pub fn prepend_message(&self) -> Message {
        self.message(RTM_NEWROUTE, NLM_F_CREATE, "prepend")
    }

    /// The request of [`replace`].
    #[must_use]
    pub fn replace_message(&self) -> Message {
        self.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "replace")
    }

    /// The request of [`delete`].
    #[must_use]
    pub fn delete_message(&self) -> Message {
        self.message(RTM_DELROUTE, 0, "delete")
    }

    fn message(&self, kind: u16, flags: u16, verb: &str) -> Message {
        let delete = kind == RTM_DELROUTE;
        let family = self.family();
        let mut body = RouteMessage::default();
        body.header.address_family = family.wire();
        body.header.destination_prefix_length = self.dst.prefix();
        body.header.kind = self.kind.0.into();
        if delete {
            // Whoever made it, however far it leads: the rest names it well
            // enough. Protocol 0 and this scope match any.
            body.header.scope = Scope::NOWHERE.0.into();
        } else {
            body.header.protocol = self.protocol.0.into();
            body.header.scope = self.scope.0.into();
        }
        if self.onlink {
            body.header.flags |= RouteFlags::Onlink;
        }
        let attributes = &mut body.attributes;
        attributes.reserve(8);
        match u8::try_from(self.table) {
            Ok(table) => body.header.table = table,
            Err(_) => attributes.push(RouteAttribute::Table(self.table)),
        }
        if !self.is_default() {
            attributes.push(RouteAttribute::Destination(self.dst.ip().into()));
        }
        attributes.extend(self.gateway.map(|gateway| gateway_attribute(family, gateway)));
        attributes.extend(self.oif.map(RouteAttribute::Oif));
        attributes.extend(self.priority.map(RouteAttribute::Priority));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        let mut metrics: Vec<RouteMetric> =
            [self.mtu.map(RouteMetric::Mtu), self.advmss.map(RouteMetric::Advmss)]
                .into_iter()
                .flatten()
                .collect();
        let other = |(kind, value): &(u16, u32)| {
            RouteMetric::Other(DefaultNla::new(*kind, value.to_ne_bytes().to_vec()))
        };
        metrics.extend(self.metrics.iter().map(other));
        if !metrics.is_empty() && !delete {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        let preference = |value| DefaultNla::new(RTA_PREF, vec![value]);
        attributes.extend(self.preference.map(preference).map(RouteAttribute::Other));
        if !self.next_hops.is_empty() {
            let hops = self.next_hops.iter().map(|hop| hop.wire(family)).collect();
            attributes.push(RouteAttribute::MultiPath(hops));
        }
        Message::with_body(kind, flags, format!("{verb} route {self}"), &body)
    }

    /// Reads the body of `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for families
    /// other than IP and for cached entries.
    pub(crate) fn parse(body: &[u8]) -> Option<Route> {
        let family = Family::from_raw(field_u8(body, 0)?)?;
        let flags = field_u32(body, 8)?;
        let mut route = Route {
            dst: IpNetwork::new(family.anywhere().ip(), field_u8(body, 1)?).ok()?,
            table: u32::from(field_u8(body, 4)?),
            protocol: RouteProtocol(field_u8(body, 5)?),
            scope: Scope(field_u8(body, 6)?),
            kind: RouteKind(field_u8(body, 7)?),
            onlink: flags & RTNH_F_ONLINK != 0,
            // Bits of the source, type of service.
            is_special: field_u8(body, 2)? != 0 || field_u8(body, 3)? != 0,
            ..Route::new(family.anywhere())
        };
        for attr in Attrs::after(body, RTMSG_LEN) {
            match attr.kind {
                RTA_DST => {
                    let ip = attr.ip().filter(|&ip| Family::of(ip) == family)?;
                    route.dst = IpNetwork::new(ip, route.dst.prefix()).ok()?;
                }
                RTA_GATEWAY => route.gateway = attr.ip(),
                RTA_VIA => route.gateway = via(&attr),
                RTA_OIF => route.oif = attr.u32(),
                RTA_PRIORITY => route.priority = attr.u32(),
                RTA_PREFSRC => route.source = attr.ip(),
                RTA_TABLE => route.table = attr.u32()?,
                RTA_METRICS => {
                    for metric in attr.nested() {
                        match (metric.kind, metric.u32()) {
                            (RTAX_MTU, value) => route.mtu = value,
                            (RTAX_ADVMSS, value) => route.advmss = value,
                            (kind, Some(value)) if kind != RTAX_CC_ALGO => {
                                route.metrics.push((kind, value));
                            }
                            _ => {}
                        }
                    }
                }
                RTA_MULTIPATH => route.next_hops = next_hops(attr.payload),
                // 0 is medium.
                RTA_PREF => route.preference = attr.u8().filter(|&value| value != 0),
                RTA_ENCAP | RTA_NH_ID => route.is_special = true,
                _ => {}
            }
        }
        Some(route)
    }
}

impl fmt::Display for Route {
    /// As `ip route` would name it: `10.2.0.0/16 via 10.1.0.1 table 100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_default() {
            f.write_str(match self.family() {
                Family::V4 => "default",
                Family::V6 => "default (IPv6)",
            })?;
        } else {
            write!(f, "{}", self.dst)?;
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(index) = self.oif {
            write!(f, " on link with index {index}")?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        if let Some(priority) = self.priority {
            write!(f, " metric {priority}")?;
        }
        Ok(())
    }
}

impl NextHop {
    fn wire(&self, family: Family) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        // The kernel counts from 0: rtnh_hops is the weight less one.
        hop.hops = u8::try_from(self.weight.clamp(1, 256) - 1).unwrap_or(u8::MAX);
        hop.interface_index = self.oif;
        if self.onlink {
            hop.flags |= RouteNextHopFlags::Onlink;
        }
        hop.attributes.extend(self.gateway.map(|gateway| gateway_attribute(family, gateway)));
        hop
    }
}

fn gateway_attribute(family: Family, gateway: IpAddr) -> RouteAttribute {
    match (family, gateway) {
        (Family::V4, IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        (_, gateway) => RouteAttribute::Gateway(RouteAddress::from(gateway)),
    }
}

/// `struct rtvia`: 2 bytes of family, then the address.
fn via(attr: &Attr<'_>) -> Option<IpAddr> {
    ip_from_bytes(attr.payload.get(2..)?)
}

/// `struct rtnexthop` and its attributes, several times.
fn next_hops(mut bytes: &[u8]) -> Vec<NextHop> {
    const RTNEXTHOP_LEN: usize = 8;
    let mut hops = Vec::new();
    while let Some(len) = field_u16(bytes, 0).map(usize::from) {
        if len < RTNEXTHOP_LEN {
            break;
        }
        let Some(hop) = bytes.get(..len) else { break };
        let (Some(flags), Some(weight), Some(oif)) =
            (field_u8(hop, 2), field_u8(hop, 3), field_u32(hop, 4))
        else {
            break;
        };
        let attrs = Attrs::after(hop, RTNEXTHOP_LEN);
        let gateway = attrs
            .find(RTA_GATEWAY)
            .and_then(|attr| attr.ip())
            .or_else(|| attrs.find(RTA_VIA).as_ref().and_then(via));
        hops.push(NextHop {
            gateway,
            oif,
            weight: u16::from(weight) + 1,
            onlink: u32::from(flags) & RTNH_F_ONLINK != 0,
        });
        bytes = bytes.get(align(len)..).unwrap_or_default();
    }
    hops
}

/// Which routes to list; the default is all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this family.
    pub family: Option<Family>,
    /// Only this table.
    pub table: Option<u32>,
    /// Only those that leave by the link with this index (none of several
    /// next hops).
    pub oif: Option<u32>,
}

impl Filter {
    /// The main table, both families.
    pub const MAIN: Filter = Filter { family: None, table: Some(TABLE_MAIN), oif: None };

    fn admits(&self, route: &Route) -> bool {
        self.table.is_none_or(|table| route.table == table)
            && self.oif.is_none_or(|oif| {
                route.oif == Some(oif) || route.next_hops.iter().any(|hop| hop.oif == oif)
            })
    }
}

/// Routes, like `ip route show`; a table that does not exist is empty.
///
/// # Errors
///
/// The kernel's.
pub fn list(socket: &Socket, filter: Filter) -> Result<Vec<Route>> {
    let mut body = RouteMessage::default();
    body.header.address_family = wire_or_any(filter.family);
    body.attributes.extend(filter.table.map(RouteAttribute::Table));
    body.attributes.extend(filter.oif.map(RouteAttribute::Oif));
    let dumped = socket.dump(Message::with_body(RTM_GETROUTE, 0, "list routes", &body), |reply| {
        parse_reply(reply).filter(|route| filter.admits(route))
    });
    match dumped {
        Err(error) if error.is_not_found() && filter.table.is_some() && filter.oif.is_none() => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// The route a packet to `destination` takes now, like `ip route get`.
///
/// # Errors
///
/// `ENETUNREACH` and the like when there is none.
pub fn get(socket: &Socket, destination: IpAddr) -> Result<Route> {
    let family = Family::of(destination);
    let mut body = RouteMessage::default();
    body.header.address_family = family.wire();
    body.header.destination_prefix_length = family.bits();
    if family == Family::V4 {
        // Report the table that matched, not always the main one; IPv6 does so
        // unasked and refuses the flag.
        body.header.flags = RouteFlags::LookupTable;
    }
    body.attributes.push(RouteAttribute::Destination(destination.into()));
    let operation = format!("look up route to {destination}");
    // The answer is marked as cached, unlike those of a list.
    socket.get(Message::with_body(RTM_GETROUTE, 0, operation, &body), |reply| {
        Route::parse(reply.body)
    })
}

/// Adds a route, like `ip route add`.
///
/// # Errors
///
/// * [`is_exists`](crate::Error::is_exists): a route of this destination and
///   metric is there;
/// * [`ErrorKind::Invalid`](crate::ErrorKind::Invalid): bits behind the prefix,
///   a gateway that is no neighbour, ..; the kernel says which.
pub fn add(socket: &Socket, route: &Route) -> Result<()> {
    socket.request(route.add_message())
}

/// Adds a route behind others of its destination and metric, like
/// `ip route append`; IPv6 makes one multipath route of them.
///
/// # Errors
///
/// Those of [`add`].
pub fn append(socket: &Socket, route: &Route) -> Result<()> {
    socket.request(route.append_message())
}

/// Adds a route in place of one of the same destination and metric, like
/// `ip route replace`.
///
/// # Errors
///
/// Those of [`add`], but not `EEXIST`.
pub fn replace(socket: &Socket, route: &Route) -> Result<()> {
    socket.request(route.replace_message())
}

/// Deletes a route, like `ip route del`: the one of this destination, table and
/// metric, link and gateway, where given.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when there is none.
pub fn delete(socket: &Socket, route: &Route) -> Result<()> {
    socket.request(route.delete_message())
}

fn parse_reply(reply: Reply<'_>) -> Option<Route> {
    let cached = field_u32(reply.body, 8)? & RTM_F_CLONED != 0;
    (reply.kind == RTM_NEWROUTE && !cached).then(|| Route::parse(reply.body)).flatten()
}

#[cfg(test)]
mod tests;
