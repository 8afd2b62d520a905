//! Addresses on links.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};

use crate::error::{Error, ErrorKind, Result};
use crate::family::{Family, wire_or_any};
use crate::link::Mac;
use crate::netlink::{Attrs, Message, Reply, Socket, field_u8, field_u32};
use crate::route::Scope;
use crate::uapi::{
    IFA_ADDRESS, IFA_BROADCAST, IFA_FLAGS, IFA_LABEL, IFA_LOCAL, IFA_PROTO, IFA_RT_PRIORITY,
    IFADDRMSG_LEN, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR,
};

/// An address on a link: as the kernel reported it, or to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addr {
    /// Index of the link.
    pub index: u32,
    /// The address with the length of its subnet's prefix.
    pub net: IpNetwork,
    /// The other end's address on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// How far the address is valid.
    pub scope: Scope,
    /// See [`AddrFlags`].
    pub flags: AddrFlags,
    /// IPv4 only: the subnet's broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// IPv4 only: the name it shows under in old tools; starts with the
    /// link's.
    pub label: Option<String>,
    /// Metric of the route to its subnet, where it is not the usual one.
    pub metric: Option<u32>,
    /// Who made it (`IFAPROT_*`), where that was said; since Linux 5.18.
    pub protocol: Option<u8>,
}

/// Flags of an address (`IFA_F_*`, include/uapi/linux/if_addr.h).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct AddrFlags(pub u32);

impl AddrFlags {
    /// A later address of a subnet the link already has one of.
    pub const SECONDARY: AddrFlags = AddrFlags(0x01);
    /// Use it at once, without asking whether others have it.
    pub const NODAD: AddrFlags = AddrFlags(0x02);
    /// Used already while others are asked.
    pub const OPTIMISTIC: AddrFlags = AddrFlags(0x04);
    /// Another host has it; it is not used.
    pub const DADFAILED: AddrFlags = AddrFlags(0x08);
    /// Not to be used for new connections.
    pub const DEPRECATED: AddrFlags = AddrFlags(0x20);
    /// Not used yet: others are being asked whether they have it.
    pub const TENTATIVE: AddrFlags = AddrFlags(0x40);
    /// Has no lifetime.
    pub const PERMANENT: AddrFlags = AddrFlags(0x80);
    /// Brings no route to its subnet.
    pub const NOPREFIXROUTE: AddrFlags = AddrFlags(0x200);

    /// Whether all of `flags` are set.
    #[must_use]
    pub fn contains(self, flags: AddrFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, flags: AddrFlags) -> AddrFlags {
        AddrFlags(self.0 | flags.0)
    }
}

impl fmt::Debug for AddrFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddrFlags({:#x})", self.0)
    }
}

impl Addr {
    /// An address to be put on the link with this index.
    ///
    /// An IPv4 subnet of more than two addresses gets its highest one as
    /// broadcast address, as by `ip addr add .. brd +`.
    #[must_use]
    pub fn new(index: u32, net: IpNetwork) -> Addr {
        let broadcast = match net {
            IpNetwork::V4(net) if net.prefix() < 31 => Some(net.broadcast()),
            _ => None,
        };
        Addr {
            index,
            net,
            peer: None,
            scope: Scope::UNIVERSE,
            flags: AddrFlags::default(),
            broadcast,
            label: None,
            metric: None,
            protocol: None,
        }
    }

    /// The link-local address of a link with this Ethernet address, used at once.
    #[must_use]
    pub fn link_local(index: u32, mac: Mac) -> Addr {
        let net = Ipv6Network::new(mac.link_local(), 64).expect("64 bits of 128");
        Addr::new(index, net.into()).scope(Scope::LINK).nodad()
    }

    /// `nodad`: IPv6 addresses that are known to be unique need not wait a
    /// second or two for others to object. No effect on IPv4.
    #[must_use]
    pub fn nodad(mut self) -> Addr {
        if self.family() == Family::V6 {
            self.flags = self.flags.with(AddrFlags::NODAD);
        }
        self
    }

    /// `peer ADDRESS`: the prefix then belongs to the peer's subnet.
    #[must_use]
    pub fn peer(mut self, peer: IpAddr) -> Addr {
        self.peer = Some(peer);
        self.broadcast = None;
        self
    }

    /// `scope SCOPE`
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Addr {
        self.scope = scope;
        self
    }

    /// The address without prefix.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.net.ip()
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.net.ip())
    }

    /// Whether it is an IPv6 address for this link alone.
    #[must_use]
    pub fn is_link_local(&self) -> bool {
        matches!(self.net, IpNetwork::V6(net) if net.ip().is_unicast_link_local())
    }

    /// Whether others are still being asked about it; never once
    /// [`Addr::is_duplicate`].
    #[must_use]
    pub fn is_tentative(&self) -> bool {
        self.flags.contains(AddrFlags::TENTATIVE) && !self.is_duplicate()
    }

    /// Whether another host on the link answered for it.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.flags.contains(AddrFlags::DADFAILED)
    }

    /// The request of [`add`].
    #[must_use]
    pub fn add_message(&self) -> Message {
        self.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, "add")
    }

    /// The request of [`replace`].
    #[must_use]
    pub fn replace_message(&self) -> Message {
        self.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, "replace")
    }

    /// The request of [`delete`].
    #[must_use]
    pub fn delete_message(&self) -> Message {
        self.message(RTM_DELADDR, 0, "delete")
    }

    fn message(&self, kind: u16, flags: u16, verb: &str) -> Message {
        let operation = self.operation(verb);
        let mut body = AddressMessage::default();
        body.header.family = self.family().wire();
        body.header.prefix_len = self.net.prefix();
        body.header.scope = self.scope.0.into();
        body.header.index = self.index;
        body.attributes = Vec::with_capacity(4);
        body.attributes.push(AddressAttribute::Local(self.ip()));
        body.attributes.push(AddressAttribute::Address(self.peer.unwrap_or(self.ip())));
        if kind == RTM_NEWADDR {
            // The header's byte holds the first flags, the attribute all.
            if let Ok(low) = u8::try_from(self.flags.0) {
                body.header.flags = AddressHeaderFlags::from_bits_retain(low);
            } else {
                let all = AddressFlags::from_bits_retain(self.flags.0);
                body.attributes.push(AddressAttribute::Flags(all));
            }
            body.attributes.extend(self.broadcast.map(AddressAttribute::Broadcast));
            body.attributes.extend(self.metric.map(AddressAttribute::RoutePriority));
            let protocol = |protocol| DefaultNla::new(IFA_PROTO, vec![protocol]);
            body.attributes.extend(self.protocol.map(protocol).map(AddressAttribute::Other));
        }
        body.attributes.extend(self.label.clone().map(AddressAttribute::Label));
        Message::with_body(kind, flags, operation, &body)
    }

    fn operation(&self, verb: &str) -> String {
        format!("{verb} address {} on link with index {}", self.net, self.index)
    }

    /// Reads the body of `RTM_NEWADDR` or `RTM_DELADDR`.
    pub(crate) fn parse(body: &[u8]) -> Option<Addr> {
        let family = Family::from_raw(field_u8(body, 0)?)?;
        let prefix = field_u8(body, 1)?;
        let mut flags = u32::from(field_u8(body, 2)?);
        let (mut local, mut address, mut broadcast, mut label) = (None, None, None, None);
        let (mut metric, mut protocol) = (None, None);
        for attr in Attrs::after(body, IFADDRMSG_LEN) {
            match attr.kind {
                IFA_LOCAL => local = attr.ip(),
                IFA_ADDRESS => address = attr.ip(),
                IFA_BROADCAST => {
                    broadcast = attr.payload.try_into().ok().map(<[u8; 4]>::into);
                }
                IFA_LABEL => label = attr.str().map(str::to_owned),
                IFA_FLAGS => flags = attr.u32()?,
                // 0 means none, which is also said by leaving it out.
                IFA_RT_PRIORITY => metric = attr.u32().filter(|&metric| metric != 0),
                IFA_PROTO => protocol = attr.u8().filter(|&protocol| protocol != 0),
                _ => {}
            }
        }
        // IPv4 always gives both, equal unless there is a peer; IPv6 gives
        // IFA_LOCAL only if there is one.
        let ip = local.or(address)?;
        if Family::of(ip) != family {
            return None;
        }
        Some(Addr {
            index: field_u32(body, 4)?,
            net: IpNetwork::new(ip, prefix).ok()?,
            peer: address.filter(|&address| address != ip),
            scope: Scope(field_u8(body, 3)?),
            flags: AddrFlags(flags),
            broadcast,
            label,
            metric,
            protocol,
        })
    }
}

/// The addresses of one family or both, on one link or all, like
/// `ip addr show`.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when the link does not exist.
pub fn list(socket: &Socket, family: Option<Family>, index: Option<u32>) -> Result<Vec<Addr>> {
    let operation = match index {
        Some(index) => format!("list addresses of link with index {index}").into(),
        None => std::borrow::Cow::Borrowed("list addresses"),
    };
    let mut body = AddressMessage::default();
    body.header.family = wire_or_any(family);
    body.header.index = index.unwrap_or_default();
    let mut addrs =
        socket.dump(Message::with_body(RTM_GETADDR, 0, operation, &body), parse_reply)?;
    // Kernels before 4.20 ignore the index.
    addrs.retain(|addr| index.is_none_or(|index| addr.index == index));
    Ok(addrs)
}

/// Adds an address, like `ip addr add`.
///
/// # Errors
///
/// [`is_exists`](Error::is_exists) when the link has it (with this prefix
/// length, for IPv4; with any, for IPv6).
pub fn add(socket: &Socket, addr: &Addr) -> Result<()> {
    socket.request(addr.add_message())
}

/// Adds an address or renews its flags and lifetime, like `ip addr replace`.
///
/// # Errors
///
/// The kernel's.
pub fn replace(socket: &Socket, addr: &Addr) -> Result<()> {
    socket.request(addr.replace_message())
}

/// Deletes an address, like `ip addr del`.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when the link does not have it, or
/// does not exist.
pub fn delete(socket: &Socket, addr: &Addr) -> Result<()> {
    socket.request(addr.delete_message()).map_err(|error| match error.errno() {
        // What the kernel answers for an address nobody has.
        Some(nix::libc::EADDRNOTAVAIL) => error.of_kind(ErrorKind::NotFound),
        _ => error,
    })
}

pub(crate) fn duplicate_error(addr: &Addr) -> Error {
    Error::duplicate(addr.operation("use"), addr.ip())
}

pub(crate) fn parse_reply(reply: Reply<'_>) -> Option<Addr> {
    (reply.kind == RTM_NEWADDR).then(|| Addr::parse(reply.body)).flatten()
}

#[cfg(test)]
mod tests;
