//! Masquerading with iptables, in the table `nat` of each family:
//!
//! ```text
//! -A POSTROUTING -s 10.1.0.2/32 -m comment --comment "name: \"N\" id: \"C\"" -j CNI-H
//! -A CNI-H -d 10.1.0.0/24 -m comment --comment "name: \"N\" id: \"C\"" -j ACCEPT
//! -A CNI-H ! -d 224.0.0.0/4 -m comment --comment "name: \"N\" id: \"C\"" -j MASQUERADE
//! ```
//!
//! The interface is in no name: all attachments of a container to one network
//! share the chain.

use super::{CHAIN, Jumps, Owner, TABLE, cut, multicast, subnet};
use crate::backend::{FAMILIES, Netfilter};
use crate::identity::digest;
use cni::{Attachments, NetworkName};
use ipnetwork::IpNetwork;
use linux::iptables::{self, Batch, COMMENT_MAX, Part, Rule, Saved};
use linux::nft::{self, Socket, Transaction, Verdict};
use linux::{Family, Result};

/// Digits of the hash in a chain's name, which iptables limits to 28 bytes.
const DIGITS: usize = 24;

fn chain_name(owner: Owner) -> String {
    let text = format!("{}{}", owner.network, owner.attachment.container_id);
    format!("CNI-{}", digest(&text, DIGITS))
}

/// Whether a chain may be one of masquerading; others have names of the same
/// beginning, such as `CNI-HOSTPORT-DNAT`.
fn is_chain_name(name: &str) -> bool {
    name.strip_prefix("CNI-").is_some_and(|hash| {
        hash.len() == DIGITS && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The alphabet of names and IDs has nothing to be escaped in quotes.
fn comment(network: &NetworkName, container_id: &str) -> String {
    let text = format!("{}{container_id}\"", comment_start(network));
    cut(&text, COMMENT_MAX).to_owned()
}

fn comment_start(network: &NetworkName) -> String {
    format!("name: \"{network}\" id: \"")
}

/// The rules of one family.
struct Rules {
    chain: String,
    accept: Vec<Rule>,
    masquerade: Rule,
    jump: Vec<Rule>,
}

impl Rules {
    fn new(owner: Owner, family: Family, addresses: &[IpNetwork]) -> Rules {
        let chain = chain_name(owner);
        let comment = comment(owner.network, &owner.attachment.container_id);
        let rule =
            |words: String, target: &str| Rule::new(&words).comment(comment.clone()).jump(target);
        let mut accept = Vec::new();
        let mut jump = Vec::new();
        for address in addresses {
            // iptables-save leaves out what matches everything.
            let everywhere = address.prefix() == 0;
            let subnet =
                if everywhere { String::new() } else { format!("-d {}", subnet(*address)) };
            let subnet = rule(subnet, "ACCEPT");
            if !accept.contains(&subnet) {
                accept.push(subnet);
            }
            jump.push(rule(format!("-s {}/{}", address.ip(), family.bits()), &chain));
        }
        let masquerade = rule(format!("! -d {}", multicast(family)), "MASQUERADE");
        Rules { chain, accept, masquerade, jump }
    }

    fn all(&self) -> impl Iterator<Item = (&str, &Rule)> {
        let own = self.accept.iter().chain([&self.masquerade]);
        own.map(|rule| (self.chain.as_str(), rule)).chain(self.jump.iter().map(|r| (CHAIN, r)))
    }

    /// For an attachment that has none yet; refused where it has.
    fn new_batch(&self) -> Batch {
        let mut batch = Batch::new(TABLE);
        batch.new_chain(&self.chain);
        for (chain, rule) in self.all() {
            batch.append(chain, rule.clone());
        }
        batch
    }

    /// What it takes to know what is missing.
    fn part(&self) -> Part<'_> {
        Part { table: TABLE, own: vec![&self.chain], own_start: None, others: vec![CHAIN] }
    }

    /// What is missing.
    fn plan(&self, saved: &Saved, batch: &mut Batch) {
        if saved.chain(&self.chain).is_none() {
            batch.new_chain(&self.chain);
        }
        for rule in self.accept.iter().filter(|rule| !saved.has(&self.chain, rule)) {
            batch.insert(&self.chain, 1, rule.clone());
        }
        if !saved.has(&self.chain, &self.masquerade) {
            batch.append(&self.chain, self.masquerade.clone());
        }
        for rule in self.jump.iter().filter(|rule| !saved.has(CHAIN, rule)) {
            batch.append(CHAIN, rule.clone());
        }
    }
}

/// The addresses of each family that has any.
fn by_family(addresses: &[IpNetwork]) -> impl Iterator<Item = (Family, Vec<IpNetwork>)> {
    FAMILIES.into_iter().filter_map(|family| {
        let of_family = |address: &&IpNetwork| Family::of(address.ip()) == family;
        let own: Vec<IpNetwork> = addresses.iter().filter(of_family).copied().collect();
        (!own.is_empty()).then_some((family, own))
    })
}

pub(super) fn ensure(netfilter: &Netfilter, owner: Owner, addresses: &[IpNetwork]) -> Result<()> {
    // Before anything is made: whether both can be.
    let mut programs = Vec::new();
    for (family, own) in by_family(addresses) {
        programs.push((netfilter.need_iptables(family)?, Rules::new(owner, family, &own)));
    }
    for (program, rules) in programs {
        // As a rule there is nothing of the attachment, and one command does
        // it without reading what all the others have.
        if program.restore(&rules.new_batch()).is_err() {
            netfilter.update(&program, &rules.part(), |saved, batch| {
                rules.plan(saved, batch);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The first rule (or command) that should be there and is not, as text.
pub(super) fn missing(
    netfilter: &Netfilter,
    owner: Owner,
    addresses: &[IpNetwork],
) -> Result<Option<String>> {
    for (family, own) in by_family(addresses) {
        let program = match netfilter.need_iptables(family) {
            Ok(program) => program,
            Err(e) if e.is_not_found() => return Ok(Some(e.to_string())),
            Err(e) => return Err(e),
        };
        let rules = Rules::new(owner, family, &own);
        let saved = netfilter.read(&program, &rules.part())?;
        if let Some((chain, rule)) = rules.all().find(|(chain, rule)| !saved.has(chain, rule)) {
            return Ok(Some(format!("{TABLE} rule -A {chain} {rule}")));
        }
    }
    Ok(None)
}

pub(super) fn plan_removal(
    socket: &Socket,
    family: Family,
    owner: Owner,
    which: Jumps,
    out: &mut Transaction,
) -> Result<()> {
    let (table, name) = (iptables::nft_table(family, TABLE), chain_name(owner));
    if socket.chain(&table, &name)?.is_none() {
        return Ok(());
    }
    let postrouting = nft::Chain::regular(&table, CHAIN);
    let mut jumps = socket.rules(&postrouting)?;
    jumps.retain(|rule| iptables::verdict_of(rule) == Some(Verdict::Jump(name.clone())));
    let (own, others): (Vec<nft::Rule>, Vec<nft::Rule>) = jumps
        .into_iter()
        .partition(|rule| iptables::source_of(rule).is_some_and(|source| which.take(source)));
    for handle in own.iter().filter_map(|rule| rule.handle) {
        out.delete(nft::Rule::at(&postrouting, handle));
    }
    if !which.take_chain(own.len(), others.len()) {
        return Ok(());
    }
    for handle in others.iter().filter_map(|rule| rule.handle) {
        out.delete(nft::Rule::at(&postrouting, handle));
    }
    let chain = nft::Chain::regular(&table, name);
    out.flush(&chain).delete(&chain);
    Ok(())
}

pub(super) fn remove_legacy(
    netfilter: &Netfilter,
    family: Family,
    owner: Owner,
    which: Jumps,
) -> Result<()> {
    let Some(program) = netfilter.legacy(family, TABLE) else { return Ok(()) };
    let name = chain_name(owner);
    let is_own = |rule: &&Rule| {
        let mut words = rule.as_words().iter();
        let source = words.find(|word| *word == "-s").and_then(|_| words.next());
        let source = source.and_then(|word| word.parse::<IpNetwork>().ok());
        source.is_some_and(|source| source.prefix() == family.bits() && which.take(source.ip()))
    };
    netfilter.update_to_remove(&program, TABLE, |saved, batch| {
        let jumps = saved.chain(CHAIN).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        let (own, others): (Vec<&Rule>, Vec<&Rule>) =
            jumps.iter().filter(|rule| rule.target() == Some(&name)).partition(is_own);
        if which.take_chain(own.len(), others.len()) {
            batch.remove_chains(saved, |chain| chain == name);
        } else {
            for rule in own {
                batch.delete(CHAIN, rule.clone());
            }
        }
        Ok(())
    })
}

/// Tells stale chains from others by the comments of their rules.
struct Stale<'a> {
    network: &'a NetworkName,
    start: String,
    valid: &'a Attachments<'a>,
}

impl<'a> Stale<'a> {
    fn new(network: &'a NetworkName, valid: &'a Attachments) -> Stale<'a> {
        Stale { network, start: comment_start(network), valid }
    }

    fn is(&self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix(&self.start) else { return false };
        match rest.strip_suffix('"') {
            Some(container_id) => !self.valid.has_container(container_id),
            // It was cut.
            None => !self.valid.iter().any(|id| comment(self.network, &id.container_id) == text),
        }
    }
}

pub(super) fn plan_sweep(
    socket: &Socket,
    family: Family,
    network: &NetworkName,
    valid: &Attachments,
    out: &mut Transaction,
) -> Result<()> {
    let (table, stale) = (iptables::nft_table(family, TABLE), Stale::new(network, valid));
    let mut names = Vec::new();
    for chain in socket.chains(&table)?.into_iter().filter(|chain| is_chain_name(&chain.name)) {
        let is_stale = |rule| iptables::comment_of(rule).is_some_and(|text| stale.is(&text));
        if socket.rules(&chain)?.iter().any(is_stale) {
            names.push(chain.name);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    iptables::plan_removal(socket, &table, &names, &[CHAIN], out).map(|_| ())
}

pub(super) fn sweep_legacy(
    netfilter: &Netfilter,
    family: Family,
    network: &NetworkName,
    valid: &Attachments,
) -> Result<()> {
    let Some(program) = netfilter.legacy(family, TABLE) else { return Ok(()) };
    let stale = Stale::new(network, valid);
    netfilter.update_to_remove(&program, TABLE, |saved, batch| {
        batch.remove_chains(saved, |name| {
            let rules = saved.chain(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
            is_chain_name(name)
                && rules.iter().any(|rule| rule.comment_text().is_some_and(|c| stale.is(c)))
        });
        Ok(())
    })
}
