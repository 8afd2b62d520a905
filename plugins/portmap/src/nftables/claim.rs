//! ADD and CHECK: the elements of one attachment.

use attach::backend::{FAMILIES, Netfilter};
use attach::chained;
use attach::kernel;
use cni::{Error, Result};
use linux::Family;
use linux::nft::{Chain, Element, Elements, Rule, Socket, Transaction, script};
use std::collections::HashMap;
use std::net::IpAddr;

use super::layout::{
    Claim, Container, Layout, UPSTREAM_CHAINS, destination_port, key, masquerade_pairs, port_key,
};
use super::release;
use crate::conf::{HostPort, Mapping, Masquerade, Target};
use crate::{Claimant, iptables};

/// How often a script is tried again because the rules changed under it. Only
/// attachments with conditions need one.
const SCRIPT_ATTEMPTS: usize = 20;

/// Maps the ports, all of them or none. The outer error is the kernel's, after
/// which another backend may be tried; the inner one is final.
pub(crate) fn add(
    netfilter: &Netfilter,
    socket: &Socket,
    claimant: &Claimant,
) -> linux::Result<Result<()>> {
    let mut conflict = None;
    let step = claimant.changes.next();
    if claimant.plan.targets.iter().all(|target| target.conditions.is_empty()) {
        netfilter.change(socket, |socket, out| {
            conflict = plan_all(socket, claimant, out)?;
            claimant.changes.nftables(step, socket, out)
        })?;
        return Ok(conflict.map_or(Ok(()), Err));
    }
    let mut alone = None;
    for attempt in 1.. {
        let generation = socket.generation()?;
        let mut out = Transaction::new();
        conflict = plan_all(socket, claimant, &mut out)?;
        if conflict.is_some() {
            break;
        }
        if alone.is_none() {
            alone = netfilter.alone_for(&out);
            if alone.is_some() {
                continue;
            }
        }
        claimant.changes.nftables(step, socket, &out)?;
        match script::apply(&format!("{out}{}", conditional_rules(claimant))) {
            Ok(()) => break,
            Err(_) if attempt < SCRIPT_ATTEMPTS && socket.generation()? != generation => {}
            // Not for another backend to try: the conditions are in nft's words.
            Err(e) => return Ok(Err(refused(claimant, e))),
        }
    }
    Ok(conflict.map_or(Ok(()), Err))
}

/// The line that the command shows tells whose the conditions are.
fn refused(claimant: &Claimant, error: linux::Error) -> Error {
    let shown = error.to_string();
    let mut targets = claimant.plan.targets.iter().filter(|t| !t.conditions.is_empty());
    let is_shown = |t: &&Target| shown.contains(&Layout::new(t.family()).conditional.to_string());
    match targets.clone().find(is_shown).or_else(|| targets.next()) {
        Some(target) => target.conditions_refused(error),
        None => kernel(error),
    }
}

/// Answers with what speaks against it; then nothing is planned.
fn plan_all(
    socket: &Socket,
    claimant: &Claimant,
    out: &mut Transaction,
) -> linux::Result<Option<Error>> {
    if let Some(conflict) = iptables::stand_aside(socket, claimant, out)? {
        return Ok(Some(conflict));
    }
    for target in &claimant.plan.targets {
        let mut adding = Adding::new(socket, claimant, target, out);
        adding.plan()?;
        if let Some(conflict) = adding.conflict {
            *out = Transaction::new();
            return Ok(Some(conflict));
        }
    }
    Ok(None)
}

fn conditional_rules(claimant: &Claimant) -> String {
    let Claimant { plan, owner, .. } = claimant;
    let mut text = String::new();
    for target in plan.targets.iter().filter(|target| !target.conditions.is_empty()) {
        let layout = Layout::new(target.family());
        for mapping in &target.mappings {
            let rules = layout.conditional_rules(
                mapping,
                target.address.ip(),
                plan.mark,
                &target.conditions,
                owner.comment(),
            );
            for rule in rules {
                text.push_str(&rule);
                text.push('\n');
            }
        }
    }
    text
}

/// Verifies that everything ADD made is there, and nothing else of this
/// attachment; changes nothing.
pub(crate) fn check(socket: &Socket, claimant: &Claimant) -> Result<()> {
    for family in FAMILIES {
        let own = own_claims(socket, claimant, family).map_err(kernel)?;
        if let Some(target) = claimant.plan.target(family) {
            check_target(socket, claimant, target, &own)?;
        }
        if let Some(other) = other_claim(claimant, family, &own) {
            return Err(Error::internal(format!(
                "check port mappings: {} of the host is mapped to {} port {} as well, by an earlier ADD of this attachment: DEL removes that",
                other.mapping.host, other.target, other.mapping.container_port
            )));
        }
    }
    Ok(())
}

/// Whether an earlier ADD of this attachment has mapped something that is not wanted,
/// to whichever address.
pub(crate) fn has_more(socket: &Socket, claimant: &Claimant) -> Result<bool> {
    for family in FAMILIES {
        let own = own_claims(socket, claimant, family).map_err(kernel)?;
        if other_claim(claimant, family, &own).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn own_claims(socket: &Socket, claimant: &Claimant, family: Family) -> linux::Result<Vec<Claim>> {
    release::claims(socket, &Layout::new(family), &|owner| owner == claimant.owner.key())
}

fn other_claim<'c>(claimant: &Claimant, family: Family, own: &'c [Claim]) -> Option<&'c Claim> {
    let target = claimant.plan.target(family);
    own.iter().find(|claim| {
        !target.is_some_and(|target| {
            target.address.ip() == claim.target && target.mappings.contains(&claim.mapping)
        })
    })
}

/// What is of the target's family; `own` are the attachment's claims there.
fn check_target(
    socket: &Socket,
    claimant: &Claimant,
    target: &Target,
    own: &[Claim],
) -> Result<()> {
    let mut out = Transaction::new();
    let mut checking =
        Adding { listed: Some(own), ..Adding::new(socket, claimant, target, &mut out) };
    checking.plan().map_err(kernel)?;
    if let Some(conflict) = checking.conflict {
        return Err(conflict.context("check port mappings"));
    }
    let conditional = checking.count_conditional().map_err(kernel)?;
    let expected = match target.conditions.is_empty() {
        true => 0,
        // What is planned anew was there, and is told apart below.
        false => 2 * target.mappings.len(),
    };
    if conditional != expected {
        return Err(Error::internal(format!(
            "check port mappings: chain {} has {conditional} rules of this attachment, not {expected}",
            checking.layout.conditional
        )));
    }
    // Rules under conditions are always written anew.
    let own_rules = |operation: &linux::nft::Operation| {
        matches!(&operation.object, linux::nft::Object::Rule(rule)
                if rule.chain == checking.layout.conditional.name)
    };
    let layout_chain = |operation: &&linux::nft::Operation| !own_rules(operation);
    if let Some(different) = checking.out.operations().iter().find(layout_chain) {
        return Err(Error::internal(format!(
            "check port mappings: the host's rules are not as ADD made them: this would be needed: {}",
            shortened(&different.to_string())
        )));
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((cut, _)) => format!("{}..", &text[..cut]),
        None => text.to_owned(),
    }
}

/// The plan for one family: what has to change so that the mappings are there.
pub(super) struct Adding<'a, 'o> {
    pub(super) socket: &'a Socket,
    pub(super) claimant: &'a Claimant<'a>,
    pub(super) target: &'a Target,
    pub(super) layout: Layout,
    pub(super) out: &'o mut Transaction,
    pub(super) conflict: Option<Error>,
    /// All claims of the attachment, where they were listed.
    listed: Option<&'a [Claim]>,
    /// Whether owners are alive, so that none is looked at twice.
    alive: HashMap<(String, IpAddr), bool>,
    /// What another attachment of the container has of the ports that are wanted.
    pub(super) beside: Vec<Claim>,
    /// What is wanted and has to wait for that.
    pub(super) waiting: Vec<Claim>,
    /// Whether an earlier ADD of this attachment left something that waits.
    pub(super) waited: bool,
}

impl<'a, 'o> Adding<'a, 'o> {
    pub(super) fn new(
        socket: &'a Socket,
        claimant: &'a Claimant<'a>,
        target: &'a Target,
        out: &'o mut Transaction,
    ) -> Adding<'a, 'o> {
        let layout = Layout::new(target.family());
        Adding {
            socket,
            claimant,
            target,
            layout,
            out,
            conflict: None,
            listed: None,
            alive: HashMap::new(),
            beside: Vec::new(),
            waiting: Vec::new(),
            waited: false,
        }
    }

    fn address(&self) -> IpAddr {
        self.target.address.ip()
    }

    fn plan(&mut self) -> linux::Result<()> {
        // The guard of the loopback may be all there is.
        let fresh = self.socket.sets(&self.layout.table)?.is_empty();
        let mark = self.claimant.plan.mark;
        self.layout.plan_shared(self.socket, mark, self.target.at_loopback, self.out)?;
        let mut leaving = Vec::new();
        self.check_upstream()?;
        if !fresh {
            self.plan_address(&mut leaving)?;
        }
        let wanted: Vec<Claim> = self.target.mappings.iter().map(|m| self.claim(*m)).collect();
        let mut arriving = Vec::new();
        if fresh {
            arriving = wanted;
        } else {
            let hosts: Vec<HostPort> = wanted.iter().map(|claim| claim.mapping.host).collect();
            let there = self.find_claims(&hosts)?;
            for (claim, there) in wanted.into_iter().zip(there) {
                match there {
                    Some(there) if there == claim => self.claimant.changes.note_earlier(),
                    Some(there) => {
                        self.take_over(there, &mut leaving);
                        arriving.push(claim);
                    }
                    None => arriving.push(claim),
                }
            }
            self.check_overlaps(&hosts, &mut leaving)?;
            arriving = self.let_wait(arriving);
        }
        if self.conflict.is_some() {
            return Ok(());
        }
        arriving.extend(self.plan_heirs(&leaving, &arriving)?);
        release::plan_claims(&self.layout, &leaving, self.out);
        release::plan_ports(self.socket, &self.layout, &leaving, &arriving, self.out)?;
        release::plan_arrival(&self.layout, &arriving, self.out);
        self.plan_waiting()?;
        self.plan_ports(fresh)?;
        self.plan_container(fresh)?;
        self.plan_sources(fresh)
    }

    /// The claims on the ports that are wanted, in the table of the family as it
    /// is; a conflict where the owner is alive.
    pub(super) fn in_the_way(&mut self) -> linux::Result<Vec<Claim>> {
        let mut there = Vec::new();
        if self.socket.table(self.layout.table.family, &self.layout.table.name)?.is_some() {
            self.check_upstream()?;
            let hosts: Vec<HostPort> = self.target.mappings.iter().map(|m| m.host).collect();
            for claim in self.find_claims(&hosts)?.into_iter().flatten() {
                self.take_over(claim, &mut there);
            }
            self.check_overlaps(&hosts, &mut there)?;
        }
        Ok(there)
    }

    fn claim(&self, mapping: Mapping) -> Claim {
        let comment = self.claimant.owner.comment().to_owned();
        Claim { mapping, target: self.address(), comment }
    }

    fn find_claims(&self, hosts: &[HostPort]) -> linux::Result<Vec<Option<Claim>>> {
        let mut found = vec![None; hosts.len()];
        for set in [&self.layout.any_address, &self.layout.one_address] {
            let of_set: Vec<usize> =
                (0..hosts.len()).filter(|at| self.layout.set_of(&hosts[*at]) == set).collect();
            let keys: Vec<Element> = of_set.iter().map(|at| key(&hosts[*at])).collect();
            let there = self.socket.find_elements(set, &keys)?;
            for (at, element) in of_set.into_iter().zip(there) {
                found[at] = element.as_ref().and_then(Claim::read);
            }
        }
        Ok(found)
    }

    /// The address may be in the books already: as ours, because this is the
    /// second ADD, or as another's, who had it before.
    fn plan_address(&mut self, leaving: &mut Vec<Claim>) -> linux::Result<()> {
        let there = self.find_container(self.address())?;
        let Some(there) = there else { return Ok(()) };
        self.waited = self.note_owner(Some(&there.owner)) && there.waits;
        if there.owner != self.claimant.owner.key() && there.is_alive(self.claimant.place.as_ref())
        {
            let whose = self.describe(&there)?;
            self.conflict.get_or_insert_with(|| {
                Error::internal(format!(
                    "map ports to {}: the address is that of {whose}, whose ports are mapped to it",
                    there.address
                ))
            });
            return Ok(());
        }
        let as_wanted = Container::read(&self.container_element()).as_ref() == Some(&there)
            && self.target.conditions.is_empty();
        // Whatever the books say, there may be more.
        let old = match self.listed {
            Some(own) if there.owner == self.claimant.owner.key() => own.to_vec(),
            _ => release::claims(self.socket, &self.layout, &|owner| owner == there.owner)?,
        };
        let wanted: Vec<Claim> = self.target.mappings.iter().map(|m| self.claim(*m)).collect();
        leaving.extend(old.into_iter().filter(|claim| {
            // A second ADD keeps what is right.
            claim.target == there.address && !wanted.contains(claim)
        }));
        if !as_wanted {
            release::plan_conditional(self.socket, &self.layout, &|o| o == there.owner, self.out)?;
        }
        Ok(())
    }

    fn find_container(&self, address: IpAddr) -> linux::Result<Option<Container>> {
        let element = [Element::new(address)];
        let there = self.socket.find_elements(&self.layout.containers, &element)?;
        Ok(there.into_iter().flatten().find_map(|element| Container::read(&element)))
    }

    /// Another's claim on a host port we want: an error if the other is alive, unless
    /// it is of the same container, whose first one has the port.
    fn take_over(&mut self, there: Claim, leaving: &mut Vec<Claim>) {
        let ours = self.note_owner(there.owner());
        if !ours && self.is_alive(&there) {
            let container_id = self.claimant.request.container_id.as_str();
            if chained::is_of_container(&there.comment, container_id) {
                self.beside.push(there);
                return;
            }
            let conflict = self.mapped_to(&there, &there);
            self.conflict.get_or_insert_with(|| Error::internal(conflict));
        }
        if !leaving.contains(&there) {
            leaving.push(there);
        }
    }

    /// What speaks against a mapping.
    pub(super) fn mapped_to(&self, wanted: &Claim, there: &Claim) -> String {
        format!(
            "map {} of the host to {}: the port is mapped to {} port {} for {}",
            wanted.mapping.host,
            self.target.address.ip(),
            there.target,
            there.mapping.container_port,
            chained::describe(&there.comment)
        )
    }

    /// Whether that is this attachment, of which an earlier ADD has left something then.
    fn note_owner(&self, owner: Option<&str>) -> bool {
        let ours = owner == Some(self.claimant.owner.key());
        if ours {
            self.claimant.changes.note_earlier();
        }
        ours
    }

    /// Who claims a port lives as long as the namespace behind the address the
    /// port leads to, and as that address is theirs.
    fn is_alive(&mut self, claim: &Claim) -> bool {
        let Some(owner) = claim.owner() else { return true };
        let id = (owner.to_owned(), claim.target);
        if let Some(alive) = self.alive.get(&id) {
            return *alive;
        }
        let alive = match self.find_container(claim.target) {
            Ok(Some(container)) => {
                container.owner == owner && container.is_alive(self.claimant.place.as_ref())
            }
            Ok(None) => false,
            // It cannot be told.
            Err(_) => true,
        };
        self.alive.insert(id, alive);
        alive
    }

    /// A port of all addresses is also that of each single one.
    fn check_overlaps(
        &mut self,
        hosts: &[HostPort],
        leaving: &mut Vec<Claim>,
    ) -> linux::Result<()> {
        let own = self.claimant.owner.key();
        let (one, all): (Vec<HostPort>, Vec<HostPort>) =
            hosts.iter().partition(|host| host.address.is_some());
        let general: Vec<HostPort> =
            one.iter().map(|host| HostPort { address: None, ..*host }).collect();
        for there in self.find_claims(&general)?.into_iter().flatten() {
            if there.owner() != Some(own) {
                self.take_over(there, leaving);
            }
        }
        let keys: Vec<Element> = all.iter().map(port_key).collect();
        let special = self.socket.find_elements(&self.layout.one_address_ports, &keys)?;
        if special.iter().all(Option::is_none) {
            return Ok(());
        }
        for element in self.socket.elements(&self.layout.one_address)? {
            let Some(there) = Claim::read(&element) else { continue };
            let general = HostPort { address: None, ..there.mapping.host };
            if all.contains(&general) && there.owner() != Some(own) {
                self.take_over(there, leaving);
            }
        }
        Ok(())
    }

    /// Upstream's rules come before ours, since they stand with kube-proxy's;
    /// whether their owner lives cannot be told.
    fn check_upstream(&mut self) -> linux::Result<()> {
        let chain = Chain::regular(&self.layout.table, UPSTREAM_CHAINS[0]);
        for rule in self.socket.rules(&chain)? {
            let comment = rule.comment.as_deref().unwrap_or_default();
            let Some((protocol, port)) = destination_port(&rule) else { continue };
            let same = |m: &&Mapping| {
                let address = super::layout::destination_address(&rule);
                (m.host.protocol, m.host.port) == (protocol, port)
                    && (m.host.address.is_none() || address.is_none() || m.host.address == address)
            };
            if comment == self.claimant.request.container_id.as_str() {
                self.claimant.changes.note_earlier();
                continue;
            }
            if let Some(mapping) = self.target.mappings.iter().find(same) {
                self.conflict.get_or_insert_with(|| {
                    Error::internal(format!(
                        "map {} of the host to {}: another version of this plugin mapped the port for container {comment}: detach that container, or delete rule {} of chain {chain}",
                        mapping.host,
                        self.target.address.ip(),
                        rule.handle.unwrap_or_default()
                    ))
                });
            }
        }
        Ok(())
    }

    /// The ports in the first map are also in a set, for whoever wants one of
    /// all addresses.
    fn plan_ports(&mut self, fresh: bool) -> linux::Result<()> {
        let set = &self.layout.one_address_ports;
        let waits = |m: &Mapping| self.waiting.iter().any(|claim| claim.mapping == *m);
        let special = |m: &&Mapping| m.host.address.is_some() && !waits(m);
        let ports = self.target.mappings.iter().filter(special).map(|m| port_key(&m.host));
        let mut ports: Vec<Element> = ports.collect();
        if !fresh {
            let there = self.socket.find_elements(set, &ports)?;
            let mut there = there.iter();
            ports.retain(|_| there.next().is_some_and(Option::is_none));
        }
        release::add(self.out, set, ports);
        Ok(())
    }

    fn container_element(&self) -> Element {
        let Claimant { owner, place, .. } = self.claimant;
        let container = Container {
            address: self.address(),
            owner: owner.key().to_owned(),
            ports: self.target.mappings.len(),
            waits: !self.waiting.is_empty(),
            place: place.clone(),
        };
        container.element()
    }

    fn plan_container(&mut self, fresh: bool) -> linux::Result<()> {
        let (set, wanted) = (&self.layout.containers, self.container_element());
        let there = match fresh {
            true => None,
            false => {
                let there = self.socket.find_elements(set, std::slice::from_ref(&wanted))?;
                there.into_iter().flatten().next()
            }
        };
        if there.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if there.is_some() {
            self.out.delete(Elements::of(set, [wanted.clone()]));
        }
        release::add(self.out, set, vec![wanted]);
        Ok(())
    }

    /// Whose source address is rewritten: membership in two sets, and a rule
    /// for the subnet.
    fn plan_sources(&mut self, fresh: bool) -> linux::Result<()> {
        let (address, masquerade) = (self.address(), self.claimant.plan.masquerade);
        let (layout, out) = (&self.layout, &mut *self.out);
        let sets = [
            (&layout.masquerade, masquerade_pairs(address), masquerade == Masquerade::Locals),
            (
                &layout.masquerade_all,
                vec![Element::new(address)],
                masquerade == Masquerade::Everybody,
            ),
        ];
        for (set, elements, wanted) in sets {
            let there = match fresh {
                true => vec![None; elements.len()],
                false => self.socket.find_elements(set, &elements)?,
            };
            let wrong = elements.into_iter().zip(there).filter(|(_, t)| t.is_some() != wanted);
            let wrong: Vec<Element> = wrong.map(|(element, _)| element).collect();
            if wanted {
                release::add(out, set, wrong);
            } else if !wrong.is_empty() {
                out.delete(Elements::of(set, wrong));
            }
        }
        let subnet = self.target.address;
        // A neighbour in a subnet of one address would be the container itself.
        let alone = subnet.prefix() == Family::of(subnet.ip()).bits();
        if masquerade == Masquerade::Locals && !alone {
            let rule = self.layout.neighbours_rule(subnet);
            if fresh {
                self.out.add(rule);
            } else {
                let mut wanted = Transaction::new();
                wanted.add(rule);
                self.socket.plan_missing(&wanted, self.out)?;
            }
        }
        Ok(())
    }

    fn count_conditional(&self) -> linux::Result<usize> {
        let rules = self.socket.rules(&self.layout.conditional)?;
        let own = self.claimant.owner.key();
        let is_own = |rule: &&Rule| rule.comment.as_deref().and_then(chained::key_of) == Some(own);
        Ok(rules.iter().filter(is_own).count())
    }

    /// A container in the books, by the words of one of its mappings.
    fn describe(&self, container: &Container) -> linux::Result<String> {
        let claims = release::claims(self.socket, &self.layout, &|owner| owner == container.owner)?;
        Ok(match claims.first() {
            Some(claim) => chained::describe(&claim.comment),
            None => format!("another container ({})", container.owner),
        })
    }
}
