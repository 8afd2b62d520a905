//! Sets, maps and verdict maps, and what is in them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::link::Mac;

use super::chain::{Family, Table};
use super::rule::{AddrType, Verdict};

/// Bytes of an interface name with its NUL (`IFNAMSIZ`).
pub(crate) const IFNAME_LEN: usize = 16;

/// A transport protocol by its number (`/etc/protocols`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Protocol = Protocol(1);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);
}

/// The names nft prints for the numbers that occur; it takes them from
/// `/etc/protocols`, which a minimal root file system does not have.
const PROTOCOL_NAMES: [(u8, &str); 10] = [
    (1, "icmp"),
    (2, "igmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (132, "sctp"),
];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOL_NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol({self})")
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    /// The protocol of a name in any case (`tcp`, `UDP`) or a number.
    fn from_str(text: &str) -> Result<Protocol, UnknownProtocol> {
        if let Some((number, _)) =
            PROTOCOL_NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text))
        {
            return Ok(Protocol(*number));
        }
        text.parse().map(Protocol).map_err(|_| UnknownProtocol)
    }
}

/// The text names no transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProtocol;

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown transport protocol")
    }
}

impl std::error::Error for UnknownProtocol {}

/// What a field or a part of a set's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `ether_addr`
    EtherAddr,
    /// `inet_proto`
    InetProto,
    /// `inet_service`: a port
    InetService,
    /// `mark`
    Mark,
    /// `ifname`
    Ifname,
    /// `nf_proto`: the network family of a packet
    Nfproto,
    /// `ether_type`
    EtherType,
    /// `ct_state`
    CtState,
    /// `ct_status`
    CtStatus,
    /// `fib_addrtype`
    FibAddrType,
    /// The byte of `ip6 hoplimit`. To nft it is an `integer`, which may have any
    /// size, so no set is written or read with it.
    HopLimit,
    /// Another type, by nft's number for it.
    Other(u32),
}

/// Types, nft's number (`enum datatypes`, include/datatype.h of nft 1.0.6; a
/// stable interface, as rulesets carry it), bytes, and name.
const TYPES: [(Type, u32, usize, &str); 12] = [
    (Type::Nfproto, 2, 1, "nf_proto"),
    (Type::Ipv4Addr, 7, 4, "ipv4_addr"),
    (Type::Ipv6Addr, 8, 16, "ipv6_addr"),
    (Type::EtherAddr, 9, 6, "ether_addr"),
    (Type::EtherType, 10, 2, "ether_type"),
    (Type::InetProto, 12, 1, "inet_proto"),
    (Type::InetService, 13, 2, "inet_service"),
    (Type::Mark, 19, 4, "mark"),
    (Type::CtState, 26, 4, "ct_state"),
    (Type::CtStatus, 28, 4, "ct_status"),
    (Type::FibAddrType, 38, 4, "fib_addrtype"),
    (Type::Ifname, 41, IFNAME_LEN, "ifname"),
];

impl Type {
    fn row(self) -> Option<&'static (Type, u32, usize, &'static str)> {
        TYPES.iter().find(|row| row.0 == self)
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Type::Other(number) => number,
            known => known.row().map_or(0, |row| row.1),
        }
    }

    pub(crate) fn from_number(number: u32) -> Type {
        TYPES.iter().find(|row| row.1 == number).map_or(Type::Other(number), |row| row.0)
    }

    /// Bytes of a value, or `None` for [`Type::Other`].
    pub(crate) fn size(self) -> Option<usize> {
        self.row().map(|row| row.2)
    }

    /// Whether the kernel holds values in host byte order.
    pub(crate) fn is_host_order(self) -> bool {
        matches!(
            self,
            Type::Mark | Type::Ifname | Type::CtState | Type::CtStatus | Type::FibAddrType
        )
    }

    /// Whether nft keeps values of the type in host byte order as far as sets
    /// are concerned (`NFTNL_UDATA_SET_KEYBYTEORDER`).
    pub(crate) fn is_big_endian(self) -> bool {
        !self.is_host_order() && !matches!(self, Type::Nfproto | Type::Other(_))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.row()) {
            (_, Some(row)) => f.write_str(row.3),
            (Type::Other(number), None) => write!(f, "type{number}"),
            (Type::HopLimit, None) => f.write_str("integer"),
            (_, None) => Ok(()),
        }
    }
}

/// One value: what a rule compares with, or a part of an element's key or data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// An address (full prefix length) or a prefix; host bits are ignored.
    Net(IpNetwork),
    /// Addresses from the first to the last, both included, of one family.
    NetRange(IpAddr, IpAddr),
    /// A link layer address.
    Mac(Mac),
    /// A transport protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
    /// Ports from the first to the last, both included.
    PortRange(u16, u16),
    /// A packet or connection mark.
    Mark(u32),
    /// An interface's exact name, at most 15 bytes.
    Ifname(String),
    /// The start of interface names: `eth` is nft's `"eth*"`.
    IfnamePrefix(String),
    /// The network family of a packet in an `inet` table.
    Nfproto(Family),
    /// The type field of an Ethernet frame, such as 0x0800 for IPv4.
    EtherType(u16),
    /// What the routing table says of an address.
    AddrType(AddrType),
    /// How many routers a packet may still pass.
    HopLimit(u8),
    /// A value of a type this crate does not know, as the kernel holds it.
    Bytes(Vec<u8>),
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Value {
        Value::Net(IpNetwork::from(address))
    }
}

impl From<Ipv4Addr> for Value {
    fn from(address: Ipv4Addr) -> Value {
        Value::from(IpAddr::V4(address))
    }
}

impl From<Ipv6Addr> for Value {
    fn from(address: Ipv6Addr) -> Value {
        Value::from(IpAddr::V6(address))
    }
}

impl From<IpNetwork> for Value {
    fn from(network: IpNetwork) -> Value {
        Value::Net(masked(network))
    }
}

impl From<Mac> for Value {
    fn from(mac: Mac) -> Value {
        Value::Mac(mac)
    }
}

impl From<Protocol> for Value {
    fn from(protocol: Protocol) -> Value {
        Value::Protocol(protocol)
    }
}

impl From<u16> for Value {
    /// A port.
    fn from(port: u16) -> Value {
        Value::Port(port)
    }
}

impl From<RangeInclusive<u16>> for Value {
    /// Ports.
    fn from(ports: RangeInclusive<u16>) -> Value {
        Value::PortRange(*ports.start(), *ports.end())
    }
}

impl From<&str> for Value {
    /// An interface's exact name.
    fn from(name: &str) -> Value {
        Value::Ifname(name.to_owned())
    }
}

/// The network without host bits, as nft writes it.
pub(crate) fn masked(network: IpNetwork) -> IpNetwork {
    match network {
        IpNetwork::V4(net) => {
            Ipv4Network::new(net.network(), net.prefix()).map_or(network, IpNetwork::V4)
        }
        IpNetwork::V6(net) => {
            Ipv6Network::new(net.network(), net.prefix()).map_or(network, IpNetwork::V6)
        }
    }
}

/// Whether a network is one address.
pub(crate) fn is_host(network: &IpNetwork) -> bool {
    match network {
        IpNetwork::V4(net) => net.prefix() == 32,
        IpNetwork::V6(net) => net.prefix() == 128,
    }
}

/// What a map answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetData {
    /// A verdict: the map is a verdict map.
    Verdict,
    /// One value, or several concatenated.
    Values(Vec<Type>),
}

/// A named set, map or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The family of its table.
    pub family: Family,
    /// The name of its table.
    pub table: String,
    /// At most [`NAME_MAX`](super::NAME_MAX) bytes.
    pub name: String,
    /// The parts of the key: one, or several concatenated.
    pub key: Vec<Type>,
    /// `None` for a set.
    pub data: Option<SetData>,
    /// Whether elements may be ranges and prefixes (`flags interval`).
    pub interval: bool,
    /// At most [`COMMENT_MAX`](super::COMMENT_MAX) bytes.
    pub comment: Option<String>,
    /// `NFT_SET_*` flags this crate does not set itself (anonymous, constant,
    /// timeout, dynamic, ..), as read.
    pub other_flags: u32,
    /// The kernel's number for it; `None` for one that was not read.
    pub handle: Option<u64>,
}

impl Set {
    /// A set, like `add set inet t s { type ipv4_addr . inet_service ; }`.
    #[must_use]
    pub fn new(table: &Table, name: impl Into<String>, key: impl Into<Vec<Type>>) -> Set {
        Set {
            family: table.family,
            table: table.name.clone(),
            name: name.into(),
            key: key.into(),
            data: None,
            interval: false,
            comment: None,
            other_flags: 0,
            handle: None,
        }
    }

    /// A map, like `add map inet t m { type inet_service : ipv4_addr ; }`.
    #[must_use]
    pub fn map(
        table: &Table,
        name: impl Into<String>,
        key: impl Into<Vec<Type>>,
        data: impl Into<Vec<Type>>,
    ) -> Set {
        Set { data: Some(SetData::Values(data.into())), ..Set::new(table, name, key) }
    }

    /// A verdict map, like `add map inet t v { type ipv4_addr : verdict ; }`.
    #[must_use]
    pub fn verdict_map(table: &Table, name: impl Into<String>, key: impl Into<Vec<Type>>) -> Set {
        Set { data: Some(SetData::Verdict), ..Set::new(table, name, key) }
    }

    /// The same set, able to hold ranges and prefixes (`flags interval`).
    #[must_use]
    pub fn interval(mut self) -> Set {
        self.interval = true;
        self
    }

    /// The same set with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Set {
        self.comment = Some(comment.into());
        self
    }
}

/// What an element of a map stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// In a verdict map.
    Verdict(Verdict),
    /// In a map: one value, or several concatenated.
    Values(Vec<Value>),
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// As many values as the set's key has parts.
    pub key: Vec<Value>,
    /// `None` in a set.
    pub data: Option<Data>,
    /// At most [`COMMENT_MAX`](super::COMMENT_MAX) bytes.
    pub comment: Option<String>,
}

impl Element {
    /// An element whose key starts with `value`.
    #[must_use]
    pub fn new(value: impl Into<Value>) -> Element {
        Element { key: vec![value.into()], data: None, comment: None }
    }

    /// The same element with one more part to its key (nft's `.`).
    #[must_use]
    pub fn and(mut self, value: impl Into<Value>) -> Element {
        self.key.push(value.into());
        self
    }

    /// The same element with data, or with one more part to its data.
    #[must_use]
    pub fn to(mut self, value: impl Into<Value>) -> Element {
        match &mut self.data {
            Some(Data::Values(values)) => values.push(value.into()),
            data => *data = Some(Data::Values(vec![value.into()])),
        }
        self
    }

    /// The same element with a verdict.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Element {
        self.data = Some(Data::Verdict(verdict));
        self
    }

    /// The same element with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Element {
        self.comment = Some(comment.into());
        self
    }
}

/// Elements together with the set they are for: what `add element` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elements {
    /// The set; its key, data and flags say how elements are written.
    pub set: Set,
    /// Any number; a long list is sent in several messages of one batch.
    pub elements: Vec<Element>,
}

impl Elements {
    /// Elements of a set.
    #[must_use]
    pub fn of(set: &Set, elements: impl IntoIterator<Item = Element>) -> Elements {
        Elements { set: set.clone(), elements: elements.into_iter().collect() }
    }
}
