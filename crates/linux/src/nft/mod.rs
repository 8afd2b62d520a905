//! Packet filter rules: nf_tables over netlink, without the `nft` command.
//!
//! A [`Transaction`] is a list of nft's own verbs over [`Table`]s, [`Chain`]s,
//! [`Rule`]s, [`Set`]s (maps and verdict maps included) and their
//! [`Elements`]; [`Socket::commit`] applies all of it or nothing. The same
//! values have two renderers that agree: the netlink bytes, and nft's syntax
//! ([`Display`](std::fmt::Display)), so that what a transaction prints is what
//! `nft list ruleset` prints afterwards. What the kernel holds is read back
//! into the same types; rules that use expressions outside the closed set in
//! [`rule`](Statement) come back as [`Statement::Opaque`], never misread.
//!
//! Owned here: nothing. Every object belongs to the caller; no function
//! touches a table that was not named to it.
//!
//! Cost (kernel 6.18): a batch that only adds takes 0.3 ms. One that deletes
//! anything, flushes, or adds a chain that is already there makes the *close*
//! of the socket wait 10 to 16 ms for the kernel's destroy worker
//! (`nft_rcv_nl_event` in net/netfilter/nf_tables_api.c at v6.18). Hence
//! [`Socket::ensure`], which looks first and adds only what is missing.
//!
//! ```no_run
//! use linux::nft::{Chain, ChainType, Hook, Rule, Socket, Table, Transaction};
//!
//! let table = Table::inet("example").comment("what an example owns");
//! let checks = Chain::regular(&table, "checks");
//! let postrouting = Chain::base(&table, "postrouting", ChainType::Nat, Hook::Postrouting, 100);
//! let container: std::net::IpAddr = "10.1.0.2".parse()?;
//! let subnet: ipnetwork::IpNetwork = "10.1.0.0/16".parse()?;
//!
//! let mut wanted = Transaction::new();
//! wanted.add(&table);
//! wanted.add(&checks);
//! wanted.add(&postrouting);
//! wanted.add(Rule::new(&postrouting).goto("checks"));
//! wanted.add(
//!     Rule::new(&checks).ip_saddr(container).ip_daddr_not(subnet).masquerade().comment("c1"),
//! );
//! Socket::open()?.ensure(&wanted)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod before;
mod chain;
mod compile;
mod decompile;
mod expr;
mod missing;
mod rule;
mod ruleset;
pub mod script;
mod set;
mod socket;
mod text;
mod transaction;
mod unnamed;
mod value;
pub(crate) mod wire;

pub use before::Before;
pub use chain::{Base, COMMENT_MAX, Chain, ChainType, Family, Hook, NAME_MAX, Policy, Table};
pub use rule::{
    AddrType, CtState, CtStatus, Field, MarkChange, Match, NatFlags, NatTarget, Op, Operand, Rule,
    Statement, Verdict,
};
pub use ruleset::{Ruleset, TableContents};
pub use set::{Data, Element, Elements, Protocol, Set, SetData, Type, Value};
pub use socket::Socket;
pub use transaction::{Object, Operation, Transaction, Verb};
pub use unnamed::Unnamed;
