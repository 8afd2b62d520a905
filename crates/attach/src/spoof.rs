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
//!
//! Container `a-b` with interface `c` and container `a` with interface `b-c` have
//! the same names, and that of `a` with `b-mac` is the second chain's of `a` with
//! `b`. Whose a chain is tells the link of the jump to it: the second of two is
//! refused, and what frames of another's link pass is never removed.

use crate::backend::Netfilter;
use crate::{ability, identity, kernel};
use cni::{AttachmentId, Error, IfName, Request, Result};
use linux::iptables;
use linux::link::{self, Link, Mac};
use linux::nft::{
    COMMENT_MAX, Chain, ChainType, Field, Hook, Match, NAME_MAX, Object, Op, Operand, Rule, Socket,
    Statement, Table, Transaction, Value, Verdict,
};

/// `NF_BR_PRI_NAT_DST_BRIDGED` (include/uapi/linux/netfilter_bridge.h at
/// v6.18).
const DSTNAT: i32 = -300;

const CHAIN_START: &str = "cni-br-iface-";
const CHAIN_END: &str = "-mac";
const COMMENT_START: &str = "macspoofchk-";

/// What is checked: frames from `host_link` must come from `mac`.
#[derive(Clone, Copy)]
pub struct Check<'a> {
    /// Whose link it is.
    pub request: &'a Request,
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
    fn new(request: &Request) -> Place {
        let AttachmentId { container_id, ifname } = request.attachment();
        let id = format!("{container_id}-{ifname}");
        let (table, prerouting) = (table(), prerouting());
        let iface = Chain::regular(&table, iface_chain(&container_id, &ifname));
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

    /// Whether a plan makes both chains, so that no rule can jump to them yet.
    fn is_new_in(&self, plan: &Transaction) -> bool {
        [&self.iface, &self.mac].into_iter().all(|own| {
            plan.operations().iter().any(|operation| {
                matches!(&operation.object, Object::Chain(made) if made.name == own.name)
            })
        })
    }

    /// The jumps to chains that are the attachment's, or would be in its way.
    fn jumps(&self, socket: &Socket) -> linux::Result<Vec<Jump>> {
        let chains = entangled(&self.iface.name);
        let mut jumps = Jump::all(socket)?;
        jumps.retain(|jump| chains.contains(&jump.chain));
        Ok(jumps)
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
                Object::Rule(rule) => Some(rule),
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

fn iface_chain(container_id: &str, ifname: &str) -> String {
    format!("{CHAIN_START}{container_id}-{ifname}")
}

fn mac_chain(iface: &str) -> String {
    format!("{iface}{CHAIN_END}")
}

/// The chains of the check whose first is `iface`, and the first of the one whose
/// second that would be.
fn entangled(iface: &str) -> Vec<String> {
    let before = iface.strip_suffix(CHAIN_END).map(str::to_owned);
    [iface.to_owned(), mac_chain(iface)].into_iter().chain(before).collect()
}

/// A jump from the base chain to one of a check.
struct Jump {
    handle: u64,
    /// Whose frames take it; `None` for a rule that somebody else wrote.
    link: Option<String>,
    chain: String,
}

impl Jump {
    fn all(socket: &Socket) -> linux::Result<Vec<Jump>> {
        let rules = socket.rules(&prerouting())?;
        Ok(rules.iter().filter_map(Jump::read).collect())
    }

    fn read(rule: &Rule) -> Option<Jump> {
        let Verdict::Jump(chain) = iptables::verdict_of(rule)? else { return None };
        let link = rule.statements.iter().find_map(|statement| match statement {
            Statement::Match(Match {
                fields,
                op: Op::Eq,
                operand: Operand::Value(Value::Ifname(name)),
            }) if fields.as_slice() == [Field::Iifname] => Some(name.clone()),
            _ => None,
        });
        let handle = rule.handle?;
        chain.starts_with(CHAIN_START).then_some(Jump { handle, link, chain })
    }

    /// The link, where it is there and may be another attachment's.
    fn of_another(&self, host: &linux::Socket, request: &Request) -> linux::Result<Option<Link>> {
        let (id, ifname) = (request.container_id.as_str(), request.ifname.as_str());
        if self.chain == iface_chain(id, ifname) && !reads_as_another(id, ifname) {
            return Ok(None);
        }
        match &self.link {
            Some(name) if identity::host_link_names(request).all(|own| own != *name) => {
                link::find(host, name)
            }
            _ => Ok(None),
        }
    }
}

/// Whether the name of the chain is also that of another container with another
/// interface. Those of the usual IDs, without `-` or with many digits behind the
/// last, are not.
fn reads_as_another(container_id: &str, ifname: &str) -> bool {
    let name = format!("{container_id}-{ifname}");
    name.match_indices('-')
        .any(|(at, _)| at != container_id.len() && at > 0 && IfName::new(&name[at + 1..]).is_ok())
}

/// The first of other attachments' links whose frames take one of the jumps.
fn another(host: &linux::Socket, request: &Request, jumps: &[Jump]) -> linux::Result<Option<Link>> {
    for jump in jumps {
        if let Some(link) = jump.of_another(host, request)? {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Makes sure that the check is in force, and only this one.
///
/// # Errors
/// The kernel has no nf_tables for bridges; the chain is another's; otherwise the
/// kernel's. Nothing was changed then.
pub fn ensure(netfilter: &Netfilter, host: &linux::Socket, check: Check) -> Result<()> {
    let socket = need_nft(netfilter)?;
    let place = Place::new(check.request);
    let wanted = place.wanted(check);
    let mut owner = None;
    let made = socket.update(|socket, out| {
        owner = None;
        let (rules, objects) = place.parts(check);
        socket.plan_missing(&objects, out)?;
        if place.is_new_in(out) {
            for rule in rules {
                out.add(rule);
            }
            return Ok(());
        }
        *out = Transaction::new();
        let mut jumps = place.jumps(socket)?;
        jumps.retain(|jump| jump.link.as_deref() != Some(check.host_link));
        owner = another(host, check.request, &jumps)?;
        if owner.is_some() {
            return Ok(());
        }
        // Left by an ADD that was killed.
        for rule in place.others(socket, &wanted)? {
            out.delete(rule);
        }
        socket.plan_missing(&wanted, out)
    });
    made.map_err(|e| kernel(e.context("check MAC addresses")))?;
    owner.map_or(Ok(()), |owner| Err(taken(&place, &owner)))
}

fn taken(place: &Place, owner: &Link) -> Error {
    let alias = owner.alias.as_deref().map(|alias| format!(" ({alias})")).unwrap_or_default();
    Error::internal(format!(
        "check MAC addresses: chain {} is in use for {}{alias}, whose container and interface read the same: name the interface otherwise",
        place.iface.name, owner.name
    ))
}

/// CHECK: the check is in force, and no other address is let through.
///
/// # Errors
/// Names the first rule that is missing, or too many.
pub fn verify(netfilter: &Netfilter, check: Check) -> Result<()> {
    let socket = need_nft(netfilter)?;
    let place = Place::new(check.request);
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
    host: &linux::Socket,
    request: &Request,
    out: &mut Transaction,
) -> linux::Result<()> {
    let place = Place::new(request);
    if place.mac.name.len() > NAME_MAX {
        // No chain can have such a name.
        return Ok(());
    }
    let chains = entangled(&place.iface.name);
    let there = there(socket, &chains)?;
    if there.is_empty() {
        return Ok(());
    }
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for jump in place.jumps(socket)? {
        let is_own = jump.of_another(host, request)?.is_none();
        if is_own { &mut own } else { &mut others }.push(jump);
    }
    plan_chains(socket, there, &own, &others, out)
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
    let jumps = Jump::all(socket)?;
    if jumps.is_empty() {
        return Ok(());
    }
    let links: Vec<String> =
        link::list_kind(host, "veth")?.into_iter().map(|link| link.name).collect();
    let is_gone = |jump: &Jump| jump.link.as_ref().is_some_and(|link| !links.contains(link));
    let (gone, others): (Vec<Jump>, Vec<Jump>) = jumps.into_iter().partition(is_gone);
    let mut chains: Vec<String> = gone.iter().flat_map(|jump| entangled(&jump.chain)).collect();
    chains.sort();
    chains.dedup();
    plan_chains(socket, there(socket, &chains)?, &gone, &others, out)
}

/// Those of the chains that are there.
fn there(socket: &Socket, names: &[String]) -> linux::Result<Vec<Chain>> {
    let mut there = Vec::new();
    for name in names {
        there.extend(socket.chain(&table(), name)?);
    }
    Ok(there)
}

/// Plans the removal of the jumps that go, and of those chains that frames which
/// take the others do not pass.
fn plan_chains(
    socket: &Socket,
    chains: Vec<Chain>,
    gone: &[Jump],
    others: &[Jump],
    out: &mut Transaction,
) -> linux::Result<()> {
    for jump in gone {
        out.delete(Rule::at(&prerouting(), jump.handle));
    }
    let is_passed = |chain: &Chain| {
        others.iter().any(|jump| jump.chain == chain.name || mac_chain(&jump.chain) == chain.name)
    };
    let (staying, going): (Vec<Chain>, Vec<Chain>) = chains.into_iter().partition(is_passed);
    // All are emptied before the first goes: one jumps to another.
    for chain in &going {
        out.flush(Chain::regular(&table(), chain.name.clone()));
    }
    for chain in &staying {
        let leads = |rule: &Rule| {
            matches!(iptables::verdict_of(rule),
            Some(Verdict::Jump(to)) if going.iter().any(|chain| chain.name == to))
        };
        for rule in socket.rules(chain)?.into_iter().filter(leads) {
            out.delete(rule);
        }
    }
    for chain in &going {
        out.delete(Chain::regular(&table(), chain.name.clone()));
    }
    Ok(())
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

fn need_nft(netfilter: &Netfilter) -> Result<&Socket> {
    netfilter.nft()?.ok_or_else(|| {
        Error::internal(
            "check MAC addresses: macspoofchk needs nf_tables, which the kernel has not",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_names_read_but_one_way() {
        let hex = "0123456789abcdef".repeat(4);
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (container_id, ifname, another) in [
            (hex.as_str(), "eth0", false),
            (hex.as_str(), "vlan-5", true),
            (uuid, "eth0", false),
            (uuid, "e0", true),
            ("a-b", "c", true),
            ("a", "b-c", true),
            ("a", "b", false),
        ] {
            assert_eq!(reads_as_another(container_id, ifname), another, "{container_id} {ifname}");
        }
    }

    #[test]
    fn the_chains_of_two_checks_may_be_one() {
        assert_eq!(entangled("x-a-b"), ["x-a-b", "x-a-b-mac"]);
        assert_eq!(entangled("x-a-b-mac"), ["x-a-b-mac", "x-a-b-mac-mac", "x-a-b"]);
    }
}
