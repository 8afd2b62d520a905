//! Masquerading with nf_tables:
//!
//! ```text
//! table inet cni_plugins_masquerade {
//!     chain masq_checks {
//!         ip saddr 10.1.0.2 ip daddr != 10.1.0.0/24 masquerade comment "H-H, net: ..."
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip daddr 224.0.0.0/4 return
//!         ip6 daddr ff00::/8 return
//!         goto masq_checks
//!     }
//! }
//! ```
//!
//! A rule per address, which the first packet of each connection is compared
//! with one after the other: docs/netfilter.md tells what that costs, and why
//! it is no set.

use super::{Owner, cut, multicast, subnet};
use crate::backend::FAMILIES;
use crate::chained::{self, Owners};
use cni::{AttachmentId, Attachments, NetworkName};
use ipnetwork::IpNetwork;
use linux::Result;
use linux::iptables::source_of;
use linux::nft::{COMMENT_MAX, Chain, ChainType, Hook, Rule, Socket, Table, Transaction};
use std::cell::LazyCell;
use std::net::IpAddr;

/// `NF_IP_PRI_NAT_SRC`, which nft calls `srcnat`
/// (include/uapi/linux/netfilter_ipv4.h at v6.18).
const SRCNAT: i32 = 100;

fn table() -> Table {
    Table::inet("cni_plugins_masquerade")
        .comment("Masquerading for plugins from github.com/containernetworking/plugins")
}

fn checks() -> Chain {
    Chain::regular(&table(), "masq_checks").comment(
        "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet",
    )
}

/// Table, chains and the rules all attachments share.
pub(super) fn shared() -> Transaction {
    let postrouting =
        Chain::base(&table(), "postrouting", ChainType::Nat, Hook::Postrouting, SRCNAT);
    let mut shared = Transaction::new();
    shared.add(table()).add(checks()).add(&postrouting);
    for family in FAMILIES {
        if let Ok(multicast) = multicast(family).parse::<IpNetwork>() {
            shared.add(Rule::new(&postrouting).ip_daddr(multicast).return_());
        }
    }
    shared.add(Rule::new(&postrouting).goto(checks().name));
    shared
}

fn wanted(owner: Owner, address: IpNetwork) -> Rule {
    Rule::new(&checks())
        .ip_saddr(address.ip())
        .ip_daddr_not(subnet(address))
        .masquerade()
        .comment(comment(owner))
}

/// What the comments of an attachment start with, and nobody else's.
pub(super) fn mark(owner: Owner) -> String {
    chained::Owner::new(owner.network, owner.attachment).key().to_owned()
}

fn comment(owner: Owner) -> String {
    let AttachmentId { container_id, ifname } = owner.attachment;
    let text = format!("{}, net: {}, if: {ifname}, id: {container_id}", mark(owner), owner.network);
    // nft has no way to write a quote in a comment; only an interface's name
    // can have one.
    cut(&text.replace('"', ""), COMMENT_MAX).to_owned()
}

/// Appends without a look at the rules of all the others, which at 5,000 of them
/// costs 30 ms: between two ADDs of an attachment there is a DEL (spec, section
/// 2, "Lifecycle & Ordering"), which finds whatever there is.
pub(super) fn ensure(socket: &Socket, owner: Owner, addresses: &[IpNetwork]) -> Result<()> {
    let shared = shared();
    socket.update(|socket, out| {
        socket.plan_missing(&shared, out)?;
        for address in addresses {
            out.add(wanted(owner, *address));
        }
        Ok(())
    })
}

/// The same where there may be some of them: those go in the same batch, so that
/// at no time there is none.
pub(super) fn replace(socket: &Socket, owner: Owner, addresses: &[IpNetwork]) -> Result<()> {
    let shared = shared();
    socket.update(|socket, out| {
        socket.plan_missing(&shared, out)?;
        plan_removal(socket, owner, None, out)?;
        for address in addresses {
            out.add(wanted(owner, *address));
        }
        Ok(())
    })
}

/// The first rule that should be there and is not, as text.
pub(super) fn missing(
    socket: &Socket,
    owner: Owner,
    addresses: &[IpNetwork],
) -> Result<Option<String>> {
    let mut missing = Transaction::new();
    socket.plan_missing(&shared(), &mut missing)?;
    if let Some(operation) = missing.operations().first() {
        let text = operation.to_string();
        let (_, object) = text.split_once(' ').unwrap_or_default();
        return Ok(Some(object.to_owned()));
    }
    let mark = mark(owner);
    let there = socket.rules_commented(&checks(), |comment| comment.starts_with(&mark))?;
    let absent = addresses
        .iter()
        .map(|address| wanted(owner, *address))
        .find(|rule| !there.iter().any(|present| present.does_the_same(rule)));
    Ok(absent.map(|rule| format!("rule {} {} {rule}", table(), checks().name)))
}

/// Of all addresses, or only one.
pub(super) fn plan_removal(
    socket: &Socket,
    owner: Owner,
    only: Option<IpAddr>,
    out: &mut Transaction,
) -> Result<()> {
    let mark = mark(owner);
    let mut own = socket.rules_commented(&checks(), |comment| comment.starts_with(&mark))?;
    own.retain(|rule| only.is_none() || source_of(rule) == only);
    delete_all(own, out);
    Ok(())
}

pub(super) fn plan_sweep(
    socket: &Socket,
    network: &NetworkName,
    valid: &Attachments,
    out: &mut Transaction,
) -> Result<()> {
    // Not where there are no rules.
    let owners = LazyCell::new(|| Owners::new(network, valid));
    delete_all(socket.rules_commented(&checks(), |comment| owners.lack(comment))?, out);
    Ok(())
}

fn delete_all(rules: Vec<Rule>, out: &mut Transaction) {
    for handle in rules.into_iter().filter_map(|rule| rule.handle) {
        out.delete(Rule::at(&checks(), handle));
    }
}
