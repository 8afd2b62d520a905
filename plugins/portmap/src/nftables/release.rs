//! DEL and GC: what attachments have in the table, and the table itself when it
//! serves nobody any more, but for the guard of the loopback.

use attach::chained;
use linux::nft::{Chain, Element, Elements, Rule, Set, Socket, Transaction, Verb};
use linux::{Family, IpNetwork, Result};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::layout::{
    Claim, Container, Layout, UPSTREAM_CHAINS, destination_address, destination_port, key,
    masquerade_pairs, port_of,
};
use super::waiting::{Change, Waiting};
use crate::conf::HostPort;
use crate::flows::Flow;

/// Whose things go.
pub(crate) struct Leaving<'a> {
    /// By the key of the owner.
    pub(crate) belongs: &'a dyn Fn(&str) -> bool,
    /// Only what leads there; of conditions, only where the owner has nothing else.
    pub(crate) target: Option<IpAddr>,
    /// What the owner is believed to have; anything else is looked for as well.
    pub(crate) hosts: &'a [HostPort],
    /// Upstream marks its rules by the container's ID alone: those for `hosts`
    /// go.
    pub(crate) container_id: Option<&'a str>,
}

impl Leaving<'_> {
    fn takes(&self, owner: &str, address: IpAddr) -> bool {
        self.target.is_none_or(|target| target == address) && (self.belongs)(owner)
    }

    fn takes_claim(&self, claim: &Claim) -> bool {
        claim.owner().is_some_and(|owner| self.takes(owner, claim.target))
    }
}

/// Plans the removal from the tables of both families; answers which flows
/// lead, or led, to a mapping that goes. Reads one message for each family
/// where there is no such table.
pub(crate) fn plan(socket: &Socket, leaving: &Leaving, out: &mut Transaction) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for family in [Family::V4, Family::V6] {
        let layout = Layout::new(family);
        if socket.table(layout.table.family, &layout.table.name)?.is_some() {
            plan_family(socket, &layout, leaving, out, &mut flows)?;
        }
    }
    Ok(flows)
}

fn plan_family(
    socket: &Socket,
    layout: &Layout,
    leaving: &Leaving,
    out: &mut Transaction,
    flows: &mut Vec<Flow>,
) -> Result<()> {
    if let Some(container_id) = leaving.container_id {
        plan_upstream(socket, layout, container_id, leaving.hosts, out, flows)?;
    }
    let (staying, waits) = (RefCell::new(Vec::new()), Cell::new(false));
    let partly = Cell::new(false);
    let going = read_all(socket, &layout.containers, |element| {
        let container = Container::read(&element)?;
        waits.set(waits.get() || container.waits);
        let goes = leaving.takes(&container.owner, container.address);
        if !goes {
            partly.set(partly.get() || (leaving.belongs)(&container.owner));
            staying.borrow_mut().push(container.address);
        }
        goes.then_some(container)
    })?;
    let staying = staying.into_inner();
    let claims = claims_of(socket, layout, leaving, &going)?;
    if going.is_empty() && claims.is_empty() {
        return Ok(());
    }
    flows.extend(claims.iter().map(|claim| Flow {
        host: claim.mapping.host,
        target: claim.target,
        container_port: claim.mapping.container_port,
    }));
    let chains = socket.chains(&layout.table)?;
    if staying.is_empty()
        && layout.is_all(&chains, &socket.sets(&layout.table)?)
        && !others_claim(socket, layout, &claims)?
        && !upstream_has_rules(socket, layout, out)?
    {
        layout.delete_unused(&chains, out);
        return Ok(());
    }
    let mut heirs = Vec::new();
    if waits.get() {
        let mut staying = containers(socket, layout)?;
        staying.retain(|container| !leaving.takes(&container.owner, container.address));
        let change = Change { going: &claims, coming: &[], staying: &staying };
        let waiting = Waiting::after(socket, layout, &|claim| leaving.takes_claim(claim), &change)?;
        waiting.plan(layout, &staying, out);
        waiting.plan_set(layout, out);
        heirs = waiting.heirs;
    }
    plan_claims(layout, &claims, out);
    plan_ports(socket, layout, &claims, &heirs, out)?;
    plan_arrival(layout, &heirs, out);
    if !partly.get() {
        plan_conditional(socket, layout, leaving.belongs, out)?;
    }
    plan_containers(socket, layout, &addresses_of(&going, &claims, &staying), &staying, out)
}

/// Where ports led that lead nowhere now. Of a claim, too: the container may have
/// been taken out of the books.
fn addresses_of(going: &[Container], claims: &[Claim], staying: &[IpAddr]) -> Vec<IpAddr> {
    let of_claims = claims.iter().map(|claim| claim.target);
    let mut addresses: Vec<IpAddr> =
        going.iter().map(|container| container.address).chain(of_claims).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for address in staying {
        if let Ok(at) = addresses.binary_search(address) {
            addresses.remove(at);
        }
    }
    addresses
}

/// Whether a port leads anywhere but for these, whosever it is.
fn others_claim(socket: &Socket, layout: &Layout, claims: &[Claim]) -> Result<bool> {
    let hosts = hosts_of(claims);
    let is_another = |element: Element| {
        let host = Claim::read(&element).map(|claim| claim.mapping.host);
        host.is_none_or(|host| !hosts.contains(&host)).then_some(())
    };
    for set in [&layout.any_address, &layout.one_address] {
        if !read_all(socket, set, is_another)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Their ports, each of which is claimed once.
fn hosts_of(claims: &[Claim]) -> BTreeSet<HostPort> {
    claims.iter().map(|claim| claim.mapping.host).collect()
}

/// The claims of those that go: looked up where they are known, and listed if
/// these are not as many as the books say.
fn claims_of(
    socket: &Socket,
    layout: &Layout,
    leaving: &Leaving,
    going: &[Container],
) -> Result<Vec<Claim>> {
    let mut found = Vec::new();
    for set in [&layout.any_address, &layout.one_address] {
        let of_family = |host: &&HostPort| {
            host.address.is_none_or(|address| Family::of(address) == layout.family)
                && layout.set_of(host) == set
        };
        let keys: Vec<Element> = leaving.hosts.iter().filter(of_family).map(key).collect();
        let there = socket.find_elements(set, &keys)?;
        found.extend(there.iter().flatten().filter_map(Claim::read));
    }
    found.retain(|claim| leaving.takes_claim(claim));
    // Two entries of a configuration may name the same port.
    let mut unique: Vec<Claim> = Vec::with_capacity(found.len());
    for claim in found {
        if !unique.contains(&claim) {
            unique.push(claim);
        }
    }
    let in_books = going.iter().map(|container| container.ports).sum::<usize>();
    // Who is in no book may have any, and who waits has fewer.
    let is_known = (!going.is_empty() || !leaving.hosts.is_empty())
        && !going.iter().any(|container| container.waits);
    if is_known && unique.len() == in_books {
        return Ok(unique);
    }
    let mut all = claims(socket, layout, leaving.belongs)?;
    all.retain(|claim| leaving.takes_claim(claim));
    Ok(all)
}

/// Every claim of the owners that are meant.
pub(super) fn claims(
    socket: &Socket,
    layout: &Layout,
    belongs: &dyn Fn(&str) -> bool,
) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    let own = |element: Element| {
        let owner = element.comment.as_deref().and_then(chained::key_of);
        owner.is_some_and(belongs).then(|| Claim::read(&element)).flatten()
    };
    for set in [&layout.any_address, &layout.one_address] {
        claims.extend(read_all(socket, set, own)?);
    }
    Ok(claims)
}

/// What `read` makes of the elements of a set; none where somebody removed it.
pub(super) fn read_all<T>(
    socket: &Socket,
    set: &Set,
    read: impl Fn(Element) -> Option<T>,
) -> Result<Vec<T>> {
    match socket.elements_as(set, read) {
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

pub(super) fn add(out: &mut Transaction, set: &Set, elements: Vec<Element>) {
    if !elements.is_empty() {
        out.add(Elements::of(set, elements));
    }
}

pub(super) fn delete(out: &mut Transaction, set: &Set, elements: Vec<Element>) {
    if !elements.is_empty() {
        out.delete(Elements::of(set, elements));
    }
}

/// The claims themselves.
pub(super) fn plan_claims(layout: &Layout, claims: &[Claim], out: &mut Transaction) {
    for set in [&layout.any_address, &layout.one_address] {
        let of_set = claims.iter().filter(|claim| layout.set_of(&claim.mapping.host) == set);
        delete(out, set, of_set.map(|claim| key(&claim.mapping.host)).collect());
    }
}

/// The same, for those that come.
pub(super) fn plan_arrival(layout: &Layout, claims: &[Claim], out: &mut Transaction) {
    for set in [&layout.any_address, &layout.one_address] {
        let of_set = claims.iter().filter(|claim| layout.set_of(&claim.mapping.host) == set);
        add(out, set, of_set.map(Claim::element).collect());
    }
}

/// Every address in the books.
pub(super) fn containers(socket: &Socket, layout: &Layout) -> Result<Vec<Container>> {
    read_all(socket, &layout.containers, |element| Container::read(&element))
}

/// The ports of single addresses that no other claim has, nor one of those that
/// come.
pub(super) fn plan_ports(
    socket: &Socket,
    layout: &Layout,
    going: &[Claim],
    coming: &[Claim],
    out: &mut Transaction,
) -> Result<()> {
    if going.iter().all(|claim| claim.mapping.host.address.is_none()) {
        return Ok(());
    }
    let port = |host: HostPort| (host.protocol, host.port);
    let hosts = hosts_of(going);
    let mut kept = read_all(socket, &layout.one_address, |element| {
        let host = Claim::read(&element)?.mapping.host;
        (!hosts.contains(&host)).then_some(port(host))
    })?;
    kept.extend(coming.iter().map(|claim| port(claim.mapping.host)));
    kept.sort_unstable();
    let unused = read_all(socket, &layout.one_address_ports, |element| {
        let is_kept = port_of(&element).is_some_and(|port| kept.binary_search(&port).is_ok());
        (!is_kept).then_some(element)
    })?;
    delete(out, &layout.one_address_ports, unused);
    Ok(())
}

/// The rules of attachments with conditions.
pub(super) fn plan_conditional(
    socket: &Socket,
    layout: &Layout,
    belongs: &dyn Fn(&str) -> bool,
    out: &mut Transaction,
) -> Result<()> {
    let is_own = |comment: &str| chained::key_of(comment).is_some_and(belongs);
    for rule in socket.rules_commented(&layout.conditional, is_own)? {
        if let Some(handle) = rule.handle {
            out.delete(Rule::at(&layout.conditional, handle));
        }
    }
    Ok(())
}

/// The containers' addresses, whatever is said of them, and the rules of subnets
/// that nobody is left in.
fn plan_containers(
    socket: &Socket,
    layout: &Layout,
    going: &[IpAddr],
    staying: &[IpAddr],
    out: &mut Transaction,
) -> Result<()> {
    let addresses: Vec<Element> = going.iter().copied().map(Element::new).collect();
    let pairs: Vec<Element> = going.iter().copied().flat_map(masquerade_pairs).collect();
    for (set, elements) in [
        (&layout.masquerade, pairs),
        (&layout.masquerade_all, addresses.clone()),
        (&layout.containers, addresses),
    ] {
        let there = socket.find_elements(set, &elements)?;
        delete(out, set, there.into_iter().flatten().collect());
    }
    for rule in socket.rules(&layout.neighbours)? {
        let Some(handle) = rule.handle else { continue };
        let subnet = subnet_of(&rule);
        let has = |address: IpAddr| subnet.is_some_and(|subnet| subnet.contains(address));
        if going.iter().copied().any(has) && !staying.iter().copied().any(has) {
            out.delete(Rule::at(&layout.neighbours, handle));
        }
    }
    Ok(())
}

fn subnet_of(rule: &Rule) -> Option<IpNetwork> {
    use linux::nft::{Field, Operand, Statement, Value};
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Match(m) => match (m.fields.as_slice(), &m.operand) {
            ([Field::IpSaddr | Field::Ip6Saddr], Operand::Value(Value::Net(net))) => Some(*net),
            _ => None,
        },
        _ => None,
    })
}

/// What upstream's plugin left of this container: its rules for the ports, and
/// those that masquerade where they lead. Upstream's own DEL removes all rules
/// of the container, those of its other networks included.
fn plan_upstream(
    socket: &Socket,
    layout: &Layout,
    container_id: &str,
    hosts: &[HostPort],
    out: &mut Transaction,
    flows: &mut Vec<Flow>,
) -> Result<()> {
    let mut targets: Vec<IpAddr> = Vec::new();
    let mut others: Vec<IpAddr> = Vec::new();
    for name in UPSTREAM_CHAINS {
        let chain = Chain::regular(&layout.table, name);
        let is_own = |rule: &Rule| rule.comment.as_deref() == Some(container_id);
        for rule in socket.rules(&chain)?.into_iter().filter(is_own) {
            let Some(handle) = rule.handle else { continue };
            let Some((protocol, port)) = destination_port(&rule) else {
                let to = destination_address(&rule);
                if to.is_some_and(|to| targets.contains(&to) && !others.contains(&to)) {
                    out.delete(Rule::at(&chain, handle));
                }
                continue;
            };
            let address = destination_address(&rule);
            let host = HostPort { protocol, port, address };
            let target = target_of(&rule);
            if !hosts.contains(&host) {
                others.extend(target.map(|(address, _)| address));
                continue;
            }
            out.delete(Rule::at(&chain, handle));
            if let Some((target, container_port)) = target {
                targets.push(target);
                flows.push(Flow { host, target, container_port });
            }
        }
    }
    Ok(())
}

fn target_of(rule: &Rule) -> Option<(IpAddr, u16)> {
    use linux::nft::{NatTarget, Statement};
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Dnat(NatTarget::Address(address, Some(port)), _) => Some((*address, *port)),
        _ => None,
    })
}

/// Whether upstream's chains have rules besides those that go.
fn upstream_has_rules(socket: &Socket, layout: &Layout, out: &Transaction) -> Result<bool> {
    for name in UPSTREAM_CHAINS {
        let chain = Chain::regular(&layout.table, name);
        for rule in socket.rules(&chain)? {
            let goes = out.operations().iter().any(|operation| {
                operation.verb == Verb::Delete
                    && matches!(&operation.object, linux::nft::Object::Rule(gone)
                        if gone.chain == name && gone.family == rule.family
                            && gone.handle == rule.handle)
            });
            if !goes {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
