//! Tables and chains: the shelves on which rules stand.

use std::fmt;

/// Bytes a table, chain or set name may have (`NFT_NAME_MAXLEN` without its
/// NUL, include/uapi/linux/netfilter/nf_tables.h at v6.18).
pub const NAME_MAX: usize = 255;

/// Bytes a comment may have. The kernel stores 256 bytes of user data, but
/// nft itself refuses longer comments, so a ruleset with them could not be
/// saved and loaded again.
pub const COMMENT_MAX: usize = 128;

/// The protocol family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 in one table.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames that cross a bridge.
    Bridge,
    /// ARP.
    Arp,
    /// Ingress and egress of a device.
    Netdev,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 6] =
        [Family::Inet, Family::Ip, Family::Ip6, Family::Bridge, Family::Arp, Family::Netdev];

    /// The number in `struct nfgenmsg` (`NFPROTO_*`).
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Arp => 3,
            Family::Netdev => 5,
            Family::Bridge => 7,
            Family::Ip6 => 10,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.number() == number)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Bridge => "bridge",
            Family::Arp => "arp",
            Family::Netdev => "netdev",
        })
    }
}

/// A table: a name space for chains and sets within one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The family of all its chains.
    pub family: Family,
    /// At most [`NAME_MAX`] bytes.
    pub name: String,
    /// At most [`COMMENT_MAX`] bytes. Kernels before 5.10 ignore it.
    pub comment: Option<String>,
    /// The table exists but filters nothing (`flags dormant`).
    pub dormant: bool,
    /// One process alone may change it, as long as that runs (`flags owner`).
    /// Read back, never written.
    pub owned: bool,
    /// The kernel's number for it; `None` for one that was not read.
    pub handle: Option<u64>,
}

impl Table {
    /// A table of any family.
    #[must_use]
    pub fn new(family: Family, name: impl Into<String>) -> Table {
        Table {
            family,
            name: name.into(),
            comment: None,
            dormant: false,
            owned: false,
            handle: None,
        }
    }

    /// A table for IPv4 and IPv6.
    #[must_use]
    pub fn inet(name: impl Into<String>) -> Table {
        Table::new(Family::Inet, name)
    }

    /// A table for IPv4.
    #[must_use]
    pub fn ip(name: impl Into<String>) -> Table {
        Table::new(Family::Ip, name)
    }

    /// A table for IPv6.
    #[must_use]
    pub fn ip6(name: impl Into<String>) -> Table {
        Table::new(Family::Ip6, name)
    }

    /// A table for bridged frames.
    #[must_use]
    pub fn bridge(name: impl Into<String>) -> Table {
        Table::new(Family::Bridge, name)
    }

    /// The same table with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Table {
        self.comment = Some(comment.into());
        self
    }
}

/// What a base chain does with packets (`type ..`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChainType {
    /// Accept or drop.
    Filter,
    /// Rewrite addresses; sees the first packet of a connection only.
    Nat,
    /// Rewrite the mark or header of locally made packets and route them anew.
    Route,
}

impl ChainType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
            ChainType::Route => "route",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<ChainType> {
        [ChainType::Filter, ChainType::Nat, ChainType::Route]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// Where on a packet's way a base chain hangs (`hook ..`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// After arrival, before routing.
    Prerouting,
    /// For packets to this host.
    Input,
    /// For packets that pass through.
    Forward,
    /// For packets this host made.
    Output,
    /// Before leaving, after routing.
    Postrouting,
    /// A device's own hook, or one this crate does not know, by its number.
    /// Read back, never written.
    Other(u32),
}

impl Hook {
    /// `NF_INET_*`; the numbers of `NF_BR_*` are the same.
    pub(crate) fn number(self) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
            Hook::Other(number) => number,
        }
    }

    pub(crate) fn from_number(family: Family, number: u32) -> Hook {
        if matches!(family, Family::Netdev | Family::Arp) {
            return Hook::Other(number);
        }
        match number {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            other => Hook::Other(other),
        }
    }
}

/// What happens to packets that reach the end of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// They go on.
    #[default]
    Accept,
    /// They are dropped.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `type ..`
    pub kind: ChainType,
    /// `hook ..`
    pub hook: Hook,
    /// `priority ..`: lower numbers come first.
    pub priority: i32,
    /// `policy ..`
    pub policy: Policy,
    /// The device of a device's hook (`device ".."`). Read back, never written.
    pub device: Option<String>,
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The family of its table.
    pub family: Family,
    /// The name of its table.
    pub table: String,
    /// At most [`NAME_MAX`] bytes.
    pub name: String,
    /// The hook, for a base chain.
    pub base: Option<Base>,
    /// At most [`COMMENT_MAX`] bytes. Kernels before 5.10 ignore it.
    pub comment: Option<String>,
    /// The kernel's number for it; `None` for one that was not read.
    pub handle: Option<u64>,
}

impl Chain {
    /// A chain that packets reach by `jump` or `goto`.
    #[must_use]
    pub fn regular(table: &Table, name: impl Into<String>) -> Chain {
        Chain {
            family: table.family,
            table: table.name.clone(),
            name: name.into(),
            base: None,
            comment: None,
            handle: None,
        }
    }

    /// A chain that hangs on a hook, with policy accept, like
    /// `add chain inet t c { type nat hook postrouting priority 100 ; }`.
    #[must_use]
    pub fn base(
        table: &Table,
        name: impl Into<String>,
        kind: ChainType,
        hook: Hook,
        priority: i32,
    ) -> Chain {
        let base = Base { kind, hook, priority, policy: Policy::Accept, device: None };
        Chain { base: Some(base), ..Chain::regular(table, name) }
    }

    /// The same base chain with another policy; a regular chain has none and
    /// stays as it is.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Chain {
        if let Some(base) = &mut self.base {
            base.policy = policy;
        }
        self
    }

    /// The same chain with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Chain {
        self.comment = Some(comment.into());
        self
    }
}
