//! Rules: the matches and statements this project uses, and no others.

mod build;

use std::net::IpAddr;

use super::chain::{Chain, Family};
use super::set::{Protocol, Type, Value};
use super::unnamed::Unnamed;

/// What a rule looks at in a packet, its connection or its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `ip saddr`
    IpSaddr,
    /// `ip daddr`
    IpDaddr,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `ip6 hoplimit`
    Ip6HopLimit,
    /// `ether saddr`
    EtherSaddr,
    /// `ether daddr`
    EtherDaddr,
    /// `tcp sport` and the like; `th sport` without a protocol.
    Sport(Option<Protocol>),
    /// `tcp dport` and the like; `th dport` without a protocol.
    Dport(Option<Protocol>),
    /// `iifname`
    Iifname,
    /// `oifname`
    Oifname,
    /// `meta nfproto`, in `inet` tables only.
    Nfproto,
    /// `meta protocol`: the type field of the frame.
    EtherType,
    /// `meta l4proto`
    L4proto,
    /// `meta mark`
    Mark,
    /// `ct mark`
    CtMark,
    /// `ct state`
    CtState,
    /// `ct status`
    CtStatus,
    /// `fib saddr type`
    FibSaddrType,
    /// `fib daddr type`
    FibDaddrType,
}

impl Field {
    /// The type of its values, such as the key of a set it is looked up in.
    #[must_use]
    pub fn kind(self) -> Type {
        match self {
            Field::IpSaddr | Field::IpDaddr => Type::Ipv4Addr,
            Field::Ip6Saddr | Field::Ip6Daddr => Type::Ipv6Addr,
            Field::Ip6HopLimit => Type::HopLimit,
            Field::EtherSaddr | Field::EtherDaddr => Type::EtherAddr,
            Field::Sport(_) | Field::Dport(_) => Type::InetService,
            Field::Iifname | Field::Oifname => Type::Ifname,
            Field::Nfproto => Type::Nfproto,
            Field::EtherType => Type::EtherType,
            Field::L4proto => Type::InetProto,
            Field::Mark | Field::CtMark => Type::Mark,
            Field::CtState => Type::CtState,
            Field::CtStatus => Type::CtStatus,
            Field::FibSaddrType | Field::FibDaddrType => Type::FibAddrType,
        }
    }
}

/// States of a connection (`ct state`), combined with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CtState(pub u32);

impl CtState {
    /// No connection could be made out.
    pub const INVALID: CtState = CtState(1);
    /// Packets went both ways.
    pub const ESTABLISHED: CtState = CtState(2);
    /// Belongs to another connection, such as an ICMP error.
    pub const RELATED: CtState = CtState(4);
    /// The first packet.
    pub const NEW: CtState = CtState(8);
    /// Exempt from tracking.
    pub const UNTRACKED: CtState = CtState(64);
}

impl std::ops::BitOr for CtState {
    type Output = CtState;

    fn bitor(self, other: CtState) -> CtState {
        CtState(self.0 | other.0)
    }
}

/// What happened to a connection (`ct status`), combined with `|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CtStatus(pub u32);

impl CtStatus {
    /// A reply was seen.
    pub const SEEN_REPLY: CtStatus = CtStatus(2);
    /// Its source is rewritten.
    pub const SNAT: CtStatus = CtStatus(0x10);
    /// Its destination is rewritten.
    pub const DNAT: CtStatus = CtStatus(0x20);
}

impl std::ops::BitOr for CtStatus {
    type Output = CtStatus;

    fn bitor(self, other: CtStatus) -> CtStatus {
        CtStatus(self.0 | other.0)
    }
}

/// What the routing table says of an address (`fib .. type`, `RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddrType {
    /// No route.
    Unspec,
    /// Behind a gateway or on a link.
    Unicast,
    /// One of this host's own.
    Local,
    /// A broadcast address.
    Broadcast,
    /// An anycast address.
    Anycast,
    /// A multicast address.
    Multicast,
    /// Dropped in silence.
    Blackhole,
    /// Refused as unreachable.
    Unreachable,
    /// Refused as forbidden.
    Prohibit,
}

const ADDR_TYPES: [(AddrType, &str); 9] = [
    (AddrType::Unspec, "unspec"),
    (AddrType::Unicast, "unicast"),
    (AddrType::Local, "local"),
    (AddrType::Broadcast, "broadcast"),
    (AddrType::Anycast, "anycast"),
    (AddrType::Multicast, "multicast"),
    (AddrType::Blackhole, "blackhole"),
    (AddrType::Unreachable, "unreachable"),
    (AddrType::Prohibit, "prohibit"),
];

impl AddrType {
    /// `RTN_*`, which is the position in the table.
    pub(crate) fn number(self) -> u32 {
        (0..).zip(ADDR_TYPES).find(|(_, row)| row.0 == self).map_or(0, |(number, _)| number)
    }

    pub(crate) fn from_number(number: u32) -> Option<AddrType> {
        ADDR_TYPES.get(usize::try_from(number).ok()?).map(|row| row.0)
    }

    pub(crate) fn name(self) -> &'static str {
        ADDR_TYPES.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }
}

/// Whether a match wants equality or difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Equal, inside the range or prefix, in the set, any of the flags.
    Eq,
    /// The opposite (`!=`).
    Ne,
}

/// What a match compares its fields with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A value, prefix or range; for one field.
    Value(Value),
    /// A named set, or the key of a map; for one or more fields.
    Set(String),
    /// `FIELD & mask == value`, for marks.
    Masked {
        /// The bits looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// Any of these bits, for `ct state` and `ct status`.
    Flags(u32),
}

/// A condition: the rule goes on only where it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// One field, or several concatenated for a set.
    pub fields: Vec<Field>,
    /// Equality or difference.
    pub op: Op,
    /// What to compare with.
    pub operand: Operand,
}

/// How a rule, or an element of a verdict map, decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let the packet through this chain's hook.
    Accept,
    /// Throw the packet away.
    Drop,
    /// Go on with the next rule.
    Continue,
    /// Go back to the calling chain.
    Return,
    /// Call a chain of the same table, and come back.
    Jump(String),
    /// Go on in a chain of the same table; its end is the end of the caller.
    Goto(String),
}

/// A new mark for a packet or connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MarkChange {
    /// A number.
    Value(u32),
    /// The old mark with changed bits: `(mark & mask) ^ xor`.
    Bits {
        /// The bits kept.
        mask: u32,
        /// The bits then flipped.
        xor: u32,
    },
    /// The other mark: the connection's for a packet, the packet's for a
    /// connection.
    OtherMark,
    /// What a map answers for the fields.
    Map {
        /// The key.
        fields: Vec<Field>,
        /// The map's name.
        map: String,
    },
}

impl MarkChange {
    /// `mark | bits`
    #[must_use]
    pub fn or(bits: u32) -> MarkChange {
        MarkChange::Bits { mask: !bits, xor: bits }
    }

    /// `mark & bits`
    #[must_use]
    pub fn and(bits: u32) -> MarkChange {
        MarkChange::Bits { mask: bits, xor: 0 }
    }
}

/// How ports and addresses are chosen in address translation (`NF_NAT_RANGE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct NatFlags {
    /// `random`
    pub random: bool,
    /// `fully-random`
    pub fully_random: bool,
    /// `persistent`
    pub persistent: bool,
}

/// Where address translation points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NatTarget {
    /// An address, and a port unless the packet's own stays. A port needs a
    /// match on the transport protocol before it.
    Address(IpAddr, Option<u16>),
    /// What a map answers for the fields.
    Map {
        /// [`Family::Ip`] or [`Family::Ip6`]: what the map holds.
        family: Family,
        /// The key.
        fields: Vec<Field>,
        /// The map's name.
        map: String,
        /// Whether the map answers an address and a port, or an address.
        port: bool,
    },
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// A condition.
    Match(Match),
    /// Decide by a verdict map; packets not in it go on.
    VerdictMap {
        /// The key.
        fields: Vec<Field>,
        /// The map's name.
        map: String,
    },
    /// `counter`
    Counter {
        /// Packets so far.
        packets: u64,
        /// Bytes so far.
        bytes: u64,
    },
    /// `meta mark set ..`
    SetMark(MarkChange),
    /// `ct mark set ..`
    SetCtMark(MarkChange),
    /// `masquerade`
    Masquerade(NatFlags),
    /// `redirect`: to this host, at a port unless the packet's own stays.
    Redirect(Option<u16>, NatFlags),
    /// `dnat to ..`
    Dnat(NatTarget, NatFlags),
    /// `snat to ..`
    Snat(NatTarget, NatFlags),
    /// The end of the rule.
    Verdict(Verdict),
    /// A rule of another author with expressions outside this list: all of
    /// them, as the kernel encodes `NFTA_RULE_EXPRESSIONS`. It is then the
    /// rule's only statement. Written back unchanged, but for the names of sets
    /// without one.
    Opaque(Vec<u8>),
}

/// A rule: matches and statements in order, in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The family of its table.
    pub family: Family,
    /// The name of its table.
    pub table: String,
    /// The name of its chain.
    pub chain: String,
    /// In order.
    pub statements: Vec<Statement>,
    /// At most [`COMMENT_MAX`](super::COMMENT_MAX) bytes.
    pub comment: Option<String>,
    /// The kernel's number for it; `None` for one that was not read.
    pub handle: Option<u64>,
    /// The handle of the rule to stand behind (`add`) or before (`insert`);
    /// `None` for the end or the start of the chain.
    pub position: Option<u64>,
    /// The sets without a name that an opaque rule looks something up in; only
    /// [`Socket::remember`](super::Socket::remember) reads them.
    pub unnamed: Vec<Unnamed>,
}

impl Rule {
    /// A rule without statements.
    #[must_use]
    pub fn new(chain: &Chain) -> Rule {
        Rule {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            statements: Vec::new(),
            comment: None,
            handle: None,
            position: None,
            unnamed: Vec::new(),
        }
    }

    /// The rule of a handle, to delete it or to put another in its place.
    #[must_use]
    pub fn at(chain: &Chain, handle: u64) -> Rule {
        Rule { handle: Some(handle), ..Rule::new(chain) }
    }

    /// The same rule with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Rule {
        self.comment = Some(comment.into());
        self
    }

    /// The same rule behind (`add`) or before (`insert`) the rule of a handle.
    #[must_use]
    pub fn position(mut self, handle: u64) -> Rule {
        self.position = Some(handle);
        self
    }
}
