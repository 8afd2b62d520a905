//! Ports mapped by iptables, in upstream's chains and rules, so that either
//! plugin can check and remove what the other made:
//!
//! ```text
//! -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT      # and OUTPUT
//! -A POSTROUTING -m comment --comment ".." -j CNI-HOSTPORT-MASQ
//! -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"N\" id: \"C\"" \
//!     -m multiport --dports 8080 -j CNI-DN-H
//! -A CNI-DN-H -m comment --comment "<owner>, ns: 4026532294/71 /run/netns/x"
//! -A CNI-DN-H -s 10.1.0.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-H -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//! -A CNI-DN-H -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80
//! ```
//!
//! The first rule of an attachment's chain is ours alone: it does nothing, and
//! tells whose the chain is. Upstream's chains have none.

mod aside;
mod back;
mod parse;
mod remove;

use attach::backend::Netfilter;
use attach::identity::digest;
use attach::kernel;
use cni::{Error, Result};
use linux::iptables::{Batch, Part, Program, Rule, Saved};
use linux::nft::Protocol;
use linux::{Family, IpNetwork};
use std::net::{IpAddr, Ipv4Addr};

use crate::Claimant;
use crate::changes::Kind;
use crate::conf::{HostPort, Mapping, Masquerade, Target};
use aside::chain_too_many;
pub(crate) use aside::{legacy_in_the_way, move_legacy_aside, stand_aside};
pub(crate) use back::{leave_out_taken, plan_back};
use parse::Mapped;
pub(crate) use remove::{Leaving, flows, plan, remove_legacy};

pub(crate) const TABLE: &str = "nat";
const DNAT: &str = "CNI-HOSTPORT-DNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";

/// What the names of attachments' chains begin with.
const START: &str = "CNI-DN-";

/// Ports one multiport match holds (`XT_MULTI_PORTS`,
/// include/uapi/linux/netfilter/xt_multiport.h).
const MULTI_PORTS: usize = 15;

/// Hexadecimal digits in an attachment's chain, which fill the 28 characters a
/// chain's name may have.
const CHAIN_DIGITS: usize = 21;

/// Upstream's name for the chain of a container on a network, and the name
/// for a second interface of the container there.
pub(crate) fn chain_names(network: &str, container_id: &str, ifname: &str) -> [String; 2] {
    let name = |text: &str| format!("{START}{}", digest(text, CHAIN_DIGITS));
    [name(&format!("{network}{container_id}")), name(&format!("{network}{container_id}/{ifname}"))]
}

fn own_chains(claimant: &Claimant) -> [String; 2] {
    let request = claimant.request;
    let (network, container) = (request.network.name(), &request.container_id);
    chain_names(network.as_str(), container.as_str(), request.ifname.as_str())
}

/// Shared chains, those of all attachments, and the chain of others that marks.
fn part<'a>(claimant: &'a Claimant, [first, second]: &'a [String; 2]) -> Part<'a> {
    let mut others = vec!["PREROUTING", "OUTPUT", "POSTROUTING"];
    others.extend(claimant.plan.external_mark_chain.as_deref());
    let own = vec![DNAT, SETMARK, MASQ, first, second];
    Part { table: TABLE, own, own_start: Some(START), others }
}

fn read(netfilter: &Netfilter, program: &Program, claimant: &Claimant) -> linux::Result<Saved> {
    netfilter.read(program, &part(claimant, &own_chains(claimant)))
}

/// Maps the ports, all of them or none. The outer error is that of the commands;
/// the inner one says what speaks against it.
pub(crate) fn add(netfilter: &Netfilter, claimant: &Claimant) -> linux::Result<Result<()>> {
    let mut programs = Vec::new();
    for target in &claimant.plan.targets {
        programs.push((netfilter.need_iptables(target.family())?, target));
    }
    if let Err(error) =
        programs.iter().try_for_each(|(p, target)| read_conditions(p, claimant, target))
    {
        return Ok(Err(error));
    }
    // From the first look until both families are done: what was read holds.
    let _alone = netfilter.alone()?;
    let mut tables = Vec::new();
    for (program, _) in &programs {
        tables.push(read(netfilter, program, claimant)?);
    }
    let mut batches = Vec::new();
    for (saved, (_, target)) in tables.iter().zip(&programs) {
        let adding = Adding { saved, claimant, target };
        let mut batch = Batch::new(TABLE);
        match adding.plan(&mut batch) {
            Ok(chains) => batches.push((batch, chains)),
            Err(conflict) => return Ok(Err(conflict)),
        }
    }
    // Now that nothing speaks against it in either.
    for ((saved, (batch, chains)), (program, target)) in tables.iter().zip(batches).zip(&programs) {
        // Before anything leads to 127.0.0.1.
        if target.at_loopback {
            guard_loopback(netfilter, program)?;
        }
        claimant.changes.iptables(target.family(), Kind::Usual, saved, chains);
        program.restore(&batch).map_err(|error| match target.conditions.is_empty() {
            true => error,
            false => error.context(format_args!("map ports under {}", target.conditions_key())),
        })?;
    }
    Ok(Ok(()))
}

/// Has the command read the conditions, which are all that it may not understand,
/// while nothing is changed yet: of no family, and nothing an earlier ADD made.
fn read_conditions(program: &Program, claimant: &Claimant, target: &Target) -> Result<()> {
    if target.conditions.is_empty() {
        return Ok(());
    }
    let adding = Adding { saved: &Saved::default(), claimant, target };
    let [chain, _] = own_chains(claimant);
    let mut batch = Batch::new(TABLE);
    batch.empty_chain(&chain);
    for entry in adding.entries(&chain) {
        batch.append("PREROUTING", entry);
    }
    program.test(&batch).map_err(|error| target.conditions_refused(error))
}

/// Drops what arrives from elsewhere with an address of the host's loopback
/// link, before connections are tracked: see [`crate::loopback`].
fn guard_loopback(netfilter: &Netfilter, program: &Program) -> linux::Result<()> {
    let saved = netfilter.read(program, &raw())?;
    let mut batch = Batch::new("raw");
    for rule in guard_rules() {
        if !saved.has("PREROUTING", &rule) {
            batch.append("PREROUTING", rule);
        }
    }
    program.restore(&batch)
}

/// Where the guard is.
fn raw() -> Part<'static> {
    Part { table: "raw", own: vec!["PREROUTING"], own_start: None, others: Vec::new() }
}

fn guard_rules() -> [Rule; 2] {
    ["-s 127.0.0.0/8 ! -i lo", "-d 127.0.0.0/8 ! -i lo"]
        .map(|words| Rule::new(words).comment("CNI portfwd guards the loopback").jump("DROP"))
}

/// Verifies that everything ADD made is there, and nothing else of this
/// attachment; changes nothing.
pub(crate) fn check(netfilter: &Netfilter, claimant: &Claimant) -> Result<()> {
    for target in &claimant.plan.targets {
        let program = netfilter.need_iptables(target.family()).map_err(kernel)?;
        let saved = read(netfilter, &program, claimant).map_err(kernel)?;
        let maker = Adding { saved: &saved, claimant, target }.check()?;
        // Upstream makes none, and what it made works as it always did.
        if target.at_loopback && maker == Maker::Ourselves {
            let saved = netfilter.read(&program, &raw()).map_err(kernel)?;
            if let Some(rule) = guard_rules().iter().find(|rule| !saved.has("PREROUTING", rule)) {
                return Err(missing("raw", "PREROUTING", rule));
            }
        }
    }
    match chain_too_many(netfilter, claimant)? {
        None => Ok(()),
        Some((family, chain)) => Err(Error::internal(format!(
            "check port mappings: chain {chain} of {} maps ports as well, for an earlier ADD of this attachment: DEL removes that",
            match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            }
        ))),
    }
}

fn no_mark_chain(name: &str) -> Error {
    Error::internal(format!(
        "there is no chain {name} in table {TABLE}: externalSetMarkChain must name one"
    ))
}

/// STATUS: the chain of others that marks is there, in one of the families: which of
/// them an ADD needs, its addresses say.
pub(crate) fn verify_mark_chain(netfilter: &Netfilter, name: &str) -> Result<()> {
    let part = Part { table: TABLE, own: Vec::new(), own_start: None, others: vec![name] };
    for family in [Family::V4, Family::V6] {
        let Ok(program) = netfilter.need_iptables(family) else { continue };
        let saved = netfilter.read(&program, &part).map_err(kernel)?;
        if saved.chain(name).is_some() {
            return Ok(());
        }
    }
    Err(no_mark_chain(name).context("map ports"))
}

/// Whether an earlier ADD of this attachment has mapped ports of a family that is not
/// wanted.
pub(crate) fn has_more(netfilter: &Netfilter, claimant: &Claimant) -> Result<bool> {
    Ok(chain_too_many(netfilter, claimant)?.is_some())
}

/// Whether there is a chain of this attachment, whole or not.
pub(crate) fn has_chain_of(netfilter: &Netfilter, claimant: &Claimant) -> bool {
    claimant.plan.targets.iter().any(|target| {
        let program = netfilter.need_iptables(target.family());
        let saved = program.and_then(|program| read(netfilter, &program, claimant));
        saved.is_ok_and(|saved| {
            let chain = Adding { saved: &saved, claimant, target }.chain_to_use();
            saved.chain(&chain).is_some()
        })
    })
}

/// Who made an attachment's chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    Ourselves,
    Upstream,
}

fn missing(table: &str, chain: &str, rule: &Rule) -> Error {
    Error::internal(format!(
        "check port mappings: rule {rule} is missing in chain {chain} of table {table}"
    ))
}

/// One family's part of an attachment against what is there.
struct Adding<'a> {
    saved: &'a Saved,
    claimant: &'a Claimant<'a>,
    target: &'a Target,
}

impl Adding<'_> {
    /// Answers which chains are written or removed.
    fn plan(&self, batch: &mut Batch) -> Result<Vec<String>> {
        self.note_earlier();
        self.refuse_conflicts()?;
        self.plan_shared(batch)?;
        let chain = self.chain_to_use();
        let (rules, entries) = (self.rules(), self.entries(&chain));
        let known = self.saved.chain(&chain);
        let same_rules = known.is_some_and(|known| known.rules == rules);
        let there = self.entries_there(&chain);
        // How a condition is shown cannot be foreseen.
        let same_entries = self.target.conditions.is_empty() && there == entries;
        let mut chains = self.plan_replaced(batch, &chain);
        if !same_rules {
            batch.empty_chain(&chain);
            for rule in rules {
                batch.append(&chain, rule);
            }
        }
        if !same_entries {
            for rule in there {
                batch.delete(DNAT, rule);
            }
            for rule in entries {
                batch.append(DNAT, rule);
            }
        }
        chains.push(chain);
        Ok(chains)
    }

    /// The attachment has a chain already.
    fn note_earlier(&self) {
        if self.saved.chain(&self.chain_to_use()).is_some() {
            self.claimant.changes.note_earlier();
        }
    }

    /// Chains and rules for everybody.
    fn plan_shared(&self, batch: &mut Batch) -> Result<()> {
        let has = |chain: &str| self.saved.chain(chain).is_some();
        if let Some(external) = &self.claimant.plan.external_mark_chain
            && !has(external)
        {
            let doing = format!("map ports to {}", self.target.address.ip());
            return Err(no_mark_chain(external).context(doing));
        }
        let shared = self.shared_rules();
        for chain in [SETMARK, MASQ, DNAT] {
            let is_used =
                shared.iter().any(|(of, rule, _)| *of == chain || rule.target() == Some(chain));
            if is_used && !has(chain) {
                batch.new_chain(chain);
            }
        }
        for (chain, rule, place) in shared {
            if !self.saved.has(chain, &rule) {
                match place {
                    Place::First => batch.insert(chain, 1, rule),
                    Place::Last => batch.append(chain, rule),
                };
            }
        }
        Ok(())
    }

    fn shared_rules(&self) -> Vec<(&'static str, Rule, Place)> {
        let plan = self.claimant.plan;
        let mut rules = Vec::new();
        if plan.masquerade != Masquerade::Nobody && plan.external_mark_chain.is_none() {
            let mark = format!("{:#x}/{:#x}", plan.mark, plan.mark);
            let comment = |text| Rule::default().comment(text);
            rules.push((
                SETMARK,
                comment("CNI portfwd masquerade mark")
                    .jump("MARK")
                    .words("--set-xmark")
                    .word(&mark),
                Place::Last,
            ));
            rules.push((
                MASQ,
                Rule::new("-m mark --mark").word(&mark).jump("MASQUERADE"),
                Place::Last,
            ));
            rules.push((
                "POSTROUTING",
                comment("CNI portfwd requiring masquerade").jump(MASQ),
                Place::First,
            ));
        }
        for hook in ["PREROUTING", "OUTPUT"] {
            let rule = Rule::new("-m addrtype --dst-type LOCAL").jump(DNAT);
            rules.push((hook, rule, Place::Last));
        }
        rules
    }

    /// The chain this attachment has, or may take: upstream's name, unless
    /// another interface of the container has it.
    fn chain_to_use(&self) -> String {
        let [first, second] = own_chains(self.claimant);
        let owner_of = |name: &str| {
            let chain = self.saved.chain(name)?;
            parse::marker(&chain.rules).map(|marker| marker.owner)
        };
        let own = Some(self.claimant.owner.key());
        match (owner_of(&first), owner_of(&second)) {
            (_, other) if other.as_deref() == own => second,
            (Some(other), _) if Some(other.as_str()) != own => second,
            _ => first,
        }
    }

    /// What the attachment's chain holds.
    fn rules(&self) -> Vec<Rule> {
        let plan = self.claimant.plan;
        let mark_chain = plan.external_mark_chain.as_deref().unwrap_or(SETMARK);
        let mut rules = vec![self.marker()];
        for mapping in self.specific_first() {
            let to_port = |source: Option<IpNetwork>| to_port(source, &mapping.host);
            match plan.masquerade {
                Masquerade::Nobody => {}
                Masquerade::Everybody => rules.push(to_port(None).jump(mark_chain)),
                Masquerade::Locals => {
                    rules.push(to_port(Some(subnet(self.target.address))).jump(mark_chain));
                    if self.target.family() == Family::V4 {
                        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST).into();
                        rules.push(to_port(Some(localhost)).jump(mark_chain));
                    }
                }
            }
            let to = std::net::SocketAddr::new(self.target.address.ip(), mapping.container_port);
            let dnat = to_port(None).jump("DNAT").words("--to-destination").word(to.to_string());
            rules.push(dnat);
        }
        rules
    }

    /// The first rule that fits decides.
    fn specific_first(&self) -> impl Iterator<Item = &Mapping> {
        let (one, all): (Vec<&Mapping>, Vec<&Mapping>) =
            self.target.mappings.iter().partition(|mapping| mapping.host.address.is_some());
        one.into_iter().chain(all)
    }

    fn marker(&self) -> Rule {
        let key = self.claimant.owner.key();
        let room = linux::iptables::COMMENT_MAX - key.len();
        let place = self.claimant.place.as_ref().map(|place| place.words(room)).unwrap_or_default();
        Rule::default().comment(format!("{key}{place}"))
    }

    /// The rules that lead to the attachment's chain: for each protocol, in
    /// groups of as many ports as a match holds.
    fn entries(&self, chain: &str) -> Vec<Rule> {
        let request = self.claimant.request;
        let comment = entry_comment(request.network.name().as_str(), request.container_id.as_str());
        let mut entries = Vec::new();
        // As upstream sorts them.
        for protocol in [Protocol::SCTP, Protocol::TCP, Protocol::UDP] {
            let mut ports: Vec<u16> = Vec::new();
            for HostPort { port, .. } in
                self.target.mappings.iter().map(|m| m.host).filter(|h| h.protocol == protocol)
            {
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
            for some in ports.chunks(MULTI_PORTS) {
                let list: Vec<String> = some.iter().map(u16::to_string).collect();
                let mut rule = Rule::new(&format!("-p {protocol}"))
                    .comment(comment.clone())
                    .words("-m multiport --dports")
                    .word(list.join(","));
                for word in &self.target.conditions {
                    rule = rule.word(word);
                }
                entries.push(rule.jump(chain));
            }
        }
        entries
    }

    fn entries_there(&self, chain: &str) -> Vec<Rule> {
        let all = self.saved.chain(DNAT).map(|dnat| dnat.rules.as_slice()).unwrap_or_default();
        all.iter().filter(|rule| rule.target() == Some(chain)).cloned().collect()
    }

    /// Chains whose owner is not alive any more go whole where they have a port
    /// we want, or lead to the address that is ours now.
    fn plan_replaced(&self, batch: &mut Batch, own: &str) -> Vec<String> {
        self.plan_removed(batch, |there| there.chain != own && self.is_stale(there))
    }

    /// The chains with such mappings go; answers which.
    fn plan_removed(&self, batch: &mut Batch, goes: impl Fn(&Mapped) -> bool) -> Vec<String> {
        let going = parse::mapped(self.saved).filter(goes).map(|there| there.chain.to_owned());
        let mut chains: Vec<String> = going.collect();
        chains.dedup();
        batch.remove_chains(self.saved, |name| chains.iter().any(|chain| chain == name));
        chains
    }

    /// Whether its owner is not alive any more, and it is in the way. Of upstream's
    /// only that is known which leads where we want it to: the address is ours now.
    fn is_stale(&self, there: &Mapped) -> bool {
        let at_our_address = there.target == self.target.address.ip();
        match &there.marker {
            Some(marker) => {
                !marker.is_alive(self.claimant.place.as_ref())
                    && (at_our_address || self.is_wanted(there))
            }
            None => {
                let Mapping { host, container_port } = there.mapping;
                let mut wanted = self.target.mappings.iter();
                at_our_address
                    && wanted.any(|m| m.container_port == container_port && m.host.overlaps(&host))
            }
        }
    }

    /// Of the same container: the first rule that leads there decides, and the other
    /// one when that is gone.
    fn is_beside(&self, there: &Mapped) -> bool {
        let container_id = self.claimant.request.container_id.as_str();
        parse::entry_of(self.saved, there.chain)
            .is_some_and(|comment| parse::is_of_container(comment, container_id))
    }

    fn is_own(&self, there: &Mapped) -> bool {
        let [first, second] = own_chains(self.claimant);
        match &there.marker {
            Some(marker) => marker.owner == self.claimant.owner.key(),
            None => there.chain == first || there.chain == second,
        }
    }

    fn is_wanted(&self, there: &Mapped) -> bool {
        self.target.mappings.iter().any(|m| m.host.overlaps(&there.mapping.host))
    }

    fn refuse_conflicts(&self) -> Result<()> {
        for there in parse::mapped(self.saved).filter(|there| self.is_wanted(there)) {
            if self.is_own(&there) || self.is_stale(&there) || self.is_beside(&there) {
                continue;
            }
            let whose = parse::entry_of(self.saved, there.chain)
                .and_then(parse::describe)
                .unwrap_or_else(|| format!("chain {}", there.chain));
            return Err(Error::internal(format!(
                "map {} of the host to {}: the port is mapped to {} port {} for {whose}{}",
                there.mapping.host,
                self.target.address.ip(),
                there.target,
                there.mapping.container_port,
                parse::way_out(there.marker.as_ref()),
            )));
        }
        Ok(())
    }

    /// All of its rules are there, as the one who made them makes them.
    fn check(&self) -> Result<Maker> {
        for (chain, rule, _) in self.shared_rules() {
            if !self.saved.has(chain, &rule) {
                return Err(missing(TABLE, chain, &rule));
            }
        }
        let name = self.chain_to_use();
        let Some(chain) = self.saved.chain(&name) else {
            return Err(Error::internal(format!(
                "check port mappings: chain {name} is missing in table {TABLE}"
            )));
        };
        let wanted = self.rules();
        // Upstream's chains have no marker, and are as good.
        let (maker, wanted) = match parse::marker(&chain.rules) {
            Some(_) => (Maker::Ourselves, &wanted[..]),
            None => (Maker::Upstream, &wanted[1..]),
        };
        if let Some(rule) = wanted.iter().find(|rule| !chain.rules.contains(rule)) {
            return Err(missing(TABLE, &name, rule));
        }
        if let Some(rule) = chain.rules.iter().find(|rule| !wanted.contains(rule)) {
            return Err(Error::internal(format!(
                "check port mappings: rule {rule} in chain {name} of table {TABLE} is not one of this attachment's"
            )));
        }
        let there = self.entries_there(&name);
        // How a condition is shown cannot be foreseen, and upstream's entries
        // also have the ports of the other family.
        if maker == Maker::Ourselves && self.target.conditions.is_empty() {
            let missing_entry = self.entries(&name).into_iter().find(|e| !there.contains(e));
            return missing_entry.map_or(Ok(maker), |entry| Err(missing(TABLE, DNAT, &entry)));
        }
        let leads = |host: &HostPort| {
            there.iter().any(|entry| parse::is_entry_of(entry, host.protocol, host.port))
        };
        match self.target.mappings.iter().find(|mapping| !leads(&mapping.host)) {
            None => Ok(maker),
            Some(mapping) => Err(Error::internal(format!(
                "check port mappings: no rule for {} in chain {DNAT} of table {TABLE} leads to chain {name}",
                mapping.host
            ))),
        }
    }
}

/// Where in a chain a shared rule goes.
#[derive(Clone, Copy)]
enum Place {
    First,
    Last,
}

/// Upstream's comment; longer ones are cut by it as well, at 255 bytes.
fn entry_comment(network: &str, container_id: &str) -> String {
    let mut comment = format!("dnat name: \"{network}\" id: \"{container_id}\"");
    // Both are ASCII.
    if comment.len() > linux::iptables::COMMENT_MAX {
        comment.truncate(linux::iptables::COMMENT_MAX - 3);
        comment.push_str("...");
    }
    comment
}

/// A rule for packets to a port of the host, as `iptables-save` shows it.
fn to_port(source: Option<IpNetwork>, host: &HostPort) -> Rule {
    let mut rule = Rule::default();
    if let Some(source) = source {
        rule = rule.words("-s").word(source.to_string());
    }
    if let Some(address) = host.address {
        rule = rule.words("-d").word(IpNetwork::from(address).to_string());
    }
    let HostPort { protocol, port, .. } = host;
    rule.words(&format!("-p {protocol} -m {protocol} --dport {port}"))
}

/// Without host bits.
fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

#[cfg(test)]
mod tests;
