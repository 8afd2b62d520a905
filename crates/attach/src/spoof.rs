//! The MAC spoof check: frames that come out of a container with another
//! source address than the container's are dropped.
//!
//! | what | where | name | removed by | shared |
//! |---|---|---|---|---|
//! | jump | nft `bridge nat`, `PREROUTING` | comment `macspoofchk-C-I` | [`plan_removal`], [`plan_sweep`] | no |
//! | chains | nft `bridge nat` | `cni-br-iface-C-I`, `cni-br-iface-C-I-mac` | with the jump | no |
//! | table, `PREROUTING` | nft `bridge nat` | | stay | yes |
//!
//! ```text
//! table bridge nat {
//!     chain PREROUTING {
//!         type filter hook prerouting priority dstnat; policy accept;
//!         iifname "vethH" jump cni-br-iface-C-I comment "macspoofchk-C-I"
//!     }
//!     chain cni-br-iface-C-I {
//!         jump cni-br-iface-C-I-mac comment "macspoofchk-C-I"
//!     }
//!     chain cni-br-iface-C-I-mac {
//!         ether saddr 02:00:00:00:00:01 return comment "macspoofchk-C-I"
//!         drop comment "macspoofchk-C-I"
//!     }
//! }
//! ```
//!
//! Names and rules are those of the reference plugins (`pkg/link/spoofcheck.go`
//! of containernetworking/plugins v1.9.1). There is no other backend: iptables
//! sees no frames.

use crate::backend::Netfilter;
use crate::{ability, kernel};
use cni::{AttachmentId, Error, Result};
use linux::link::{self, Mac};
use linux::nft::{
    COMMENT_MAX, Chain, ChainType, Field, Hook, Match, NAME_MAX, Op, Operand, Rule, Socket,
    Statement, Table, Transaction, Value, Verdict,
};
use linux::{iptables, nft};

/// `NF_BR_PRI_NAT_DST_BRIDGED` (include/uapi/linux/netfilter_bridge.h at
/// v6.18).
const DSTNAT: i32 = -300;

const CHAIN_START: &str = "cni-br-iface-";
const COMMENT_START: &str = "macspoofchk-";

/// What is checked: frames from `host_link` must come from `mac`.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    /// Container and interface.
    pub attachment: &'a AttachmentId,
    /// The host end of the veth pair.
    pub host_link: &'a str,
    /// The container's address.
    pub mac: Mac,
}

/// Table, base chain, and the names of an attachment.
struct Place {
    table: Table,
    prerouting: Chain,
    iface: Chain,
    mac: Chain,
    comment: String,
}

impl Place {
    fn new(attachment: &AttachmentId) -> Place {
        let AttachmentId { container_id, ifname } = attachment;
        let id = format!("{container_id}-{ifname}");
        let (table, prerouting) = (table(), prerouting());
        let iface = Chain::regular(&table, format!("{CHAIN_START}{id}"));
        let mac = Chain::regular(&table, mac_chain(&iface.name));
        let mut comment = format!("{COMMENT_START}{id}").replace('"', "");
        comment.truncate(comment.floor_char_boundary(COMMENT_MAX));
        Place { table, prerouting, iface, mac, comment }
    }

    /// The attachment's rules, and what they stand in.
    fn parts(&self, check: Check) -> ([Rule; 4], Transaction) {
        let rule = |chain| Rule::new(chain).comment(self.comment.clone());
        let rules = [
            rule(&self.mac).ether_saddr(check.mac).return_(),
            rule(&self.mac).drop(),
            rule(&self.iface).jump(self.mac.name.clone()),
            // Last: from here on it is in force.
            rule(&self.prerouting).iifname(check.host_link).jump(self.iface.name.clone()),
        ];
        let mut objects = Transaction::new();
        objects.add(&self.table).add(&self.prerouting).add(&self.mac).add(&self.iface);
        (rules, objects)
    }

    fn wanted(&self, check: Check) -> Transaction {
        let (rules, mut wanted) = self.parts(check);
        for rule in rules {
            wanted.add(rule);
        }
        wanted
    }

    /// Rules of the attachment that are not the wanted ones.
    fn others(&self, socket: &Socket, wanted: &Transaction) -> linux::Result<Vec<Rule>> {
        let mut rules = socket.rules(&self.prerouting)?;
        let jump = Verdict::Jump(self.iface.name.clone());
        rules.retain(|rule| iptables::verdict_of(rule).as_ref() == Some(&jump));
        rules.extend(socket.rules(&self.iface)?);
        rules.extend(socket.rules(&self.mac)?);
        let mut wanted: Vec<&Rule> = wanted
            .operations()
            .iter()
            .filter_map(|operation| match &operation.object {
                nft::Object::Rule(rule) => Some(rule),
                _ => None,
            })
            .collect();
        // Each wanted one counts once: a second like it is too many.
        rules.retain(|rule| {
            let same = |w: &&Rule| w.chain == rule.chain && w.does_the_same(rule);
            match wanted.iter().position(same) {
                Some(at) => {
                    wanted.swap_remove(at);
                    false
                }
                None => true,
            }
        });
        Ok(rules)
    }
}

fn table() -> Table {
    Table::bridge("nat")
}

fn prerouting() -> Chain {
    Chain::base(&table(), "PREROUTING", ChainType::Filter, Hook::Prerouting, DSTNAT)
}

fn mac_chain(iface: &str) -> String {
    format!("{iface}-mac")
}

/// Makes sure that the check is in force, and only this one.
///
/// # Errors
/// The kernel has no nf_tables for bridges; otherwise the kernel's. Nothing was
/// changed then.
pub fn ensure(netfilter: &Netfilter, check: Check) -> Result<()> {
    let socket = need_nft(netfilter)?;
    let place = Place::new(check.attachment);
    let wanted = place.wanted(check);
    let made = socket.update(|socket, out| {
        if socket.chain(&place.table, &place.iface.name)?.is_some() {
            // Left by an ADD that was killed.
            for rule in place.others(socket, &wanted)? {
                out.delete(rule);
            }
            return socket.plan_missing(&wanted, out);
        }
        // No rule can jump to it: no need to look at those of all the others.
        let (rules, objects) = place.parts(check);
        socket.plan_missing(&objects, out)?;
        for rule in rules {
            out.add(rule);
        }
        Ok(())
    });
    made.map_err(|e| kernel(e.context("check MAC addresses")))
}

/// CHECK: the check is in force, and no other address is let through.
///
/// # Errors
/// Names the first rule that is missing, or too many.
pub fn verify(netfilter: &Netfilter, check: Check) -> Result<()> {
    let socket = need_nft(netfilter)?;
    let place = Place::new(check.attachment);
    let wanted = place.wanted(check);
    let mut missing = Transaction::new();
    socket.plan_missing(&wanted, &mut missing).map_err(kernel)?;
    let wrong = |what: String| {
        Err(Error::internal(format!("check the MAC spoof check of {}: {what}", check.host_link)))
    };
    if let Some(operation) = missing.operations().first() {
        return wrong(format!("missing: {operation}"));
    }
    match place.others(socket, &wanted).map_err(kernel)?.first() {
        Some(rule) => wrong(format!("chain {} also has {rule}", rule.chain)),
        None => Ok(()),
    }
}

/// Plans the removal of an attachment's check, whatever is there of it. See
/// [`Netfilter::remove`].
///
/// # Errors
/// The kernel's; that nothing is there is none.
pub fn plan_removal(
    socket: &Socket,
    attachment: &AttachmentId,
    out: &mut Transaction,
) -> linux::Result<()> {
    let place = Place::new(attachment);
    if place.mac.name.len() > NAME_MAX {
        // No chain can have such a name.
        return Ok(());
    }
    let chains = [place.iface.name.as_str(), place.mac.name.as_str()];
    iptables::plan_removal(socket, &place.table, &chains, &[&place.prerouting.name], out)
        .map(|_| ())
}

/// GC, planning: the checks of links that are gone, of whichever network. The
/// names do not tell the network, but a link is made before its check.
///
/// # Errors
/// The kernel's.
pub fn plan_sweep(
    socket: &Socket,
    host: &linux::Socket,
    out: &mut Transaction,
) -> linux::Result<()> {
    let jumps: Vec<(String, String)> =
        socket.rules(&prerouting())?.iter().filter_map(checked).collect();
    if jumps.is_empty() {
        return Ok(());
    }
    let there: Vec<String> =
        link::list_kind(host, "veth")?.into_iter().map(|link| link.name).collect();
    let stale: Vec<String> = jumps
        .into_iter()
        .filter(|(link, _)| !there.contains(link))
        .flat_map(|(_, chain)| [mac_chain(&chain), chain])
        .collect();
    let stale: Vec<&str> = stale.iter().map(String::as_str).collect();
    iptables::plan_removal(socket, &table(), &stale, &[&prerouting().name], out).map(|_| ())
}

/// STATUS: could the check be made now?
///
/// # Errors
/// Code 50 where the kernel has no nf_tables, or another's things have the names.
pub fn status(netfilter: &Netfilter) -> Result<()> {
    let socket = need_nft(netfilter).map_err(|e| e.with_code(cni::Code::NOT_AVAILABLE))?;
    let mut shared = Transaction::new();
    shared.add(table()).add(prerouting());
    socket.verify_addable(&shared).map_err(ability::unavailable)
}

/// Link and chain of a jump that is ours.
fn checked(rule: &Rule) -> Option<(String, String)> {
    let ours = rule.comment.as_deref()?.starts_with(COMMENT_START);
    let Verdict::Jump(chain) = iptables::verdict_of(rule)? else { return None };
    let link = rule.statements.iter().find_map(|statement| match statement {
        Statement::Match(Match {
            fields,
            op: Op::Eq,
            operand: Operand::Value(Value::Ifname(name)),
        }) if fields.as_slice() == [Field::Iifname] => Some(name.clone()),
        _ => None,
    })?;
    (ours && chain.starts_with(CHAIN_START)).then_some((link, chain))
}

fn need_nft(netfilter: &Netfilter) -> Result<&Socket> {
    netfilter.nft()?.ok_or_else(|| {
        Error::internal(
            "check MAC addresses: macspoofchk needs nf_tables, which the kernel has not",
        )
    })
}
