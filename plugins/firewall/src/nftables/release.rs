//! DEL and GC: what attachments have in the table, and the table itself when it
//! serves nobody any more. And what the dead have of an address that is another's.

use attach::chained::Owner;
use attach::identity;
use linux::link::{self, Link};
use linux::nft::{
    Chain, Data, Element, Elements, Rule, Set, Socket, Statement, Transaction, Verdict,
};
use linux::{Family, Result};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use super::layout::{Container, EGRESS, Layout, is_own_chain, owner_of};
use super::take;
use crate::conf::{Isolation, Policy, unique};

/// Whose addresses there are.
#[derive(Default)]
pub(crate) struct Parted {
    pub(crate) going: Vec<Container>,
    /// Of the addresses that were asked for, those that others have.
    pub(crate) others: Vec<IpAddr>,
}

/// Whose things go.
pub(crate) struct Leaving<'a> {
    /// By the key of the owner.
    pub(crate) belongs: &'a dyn Fn(&str) -> bool,
    /// Only what they have of these addresses, which are another's now, and of their
    /// hardware addresses if nothing else of them is there.
    pub(crate) only: Option<&'a [IpAddr]>,
    /// Whether an address of theirs goes as well: its zone was left.
    pub(crate) leaves: &'a dyn Fn(&Container) -> bool,
    /// Addresses that somebody else may have by now.
    pub(crate) asked: &'a [IpAddr],
}

impl Leaving<'_> {
    fn takes(&self, container: &Container) -> bool {
        (self.belongs)(&container.owner)
            && self.only.is_none_or(|only| only.contains(&container.address))
    }

    /// Whether there is any of these addresses: asked for by name, however many others
    /// there are.
    fn are_there(&self, socket: &Socket, layout: &Layout, only: &[IpAddr]) -> Result<bool> {
        let wanted = [Family::V4, Family::V6].map(|family| {
            let own = only.iter().filter(|address| Family::of(**address) == family);
            Elements::of(layout.containers(family), own.map(|address| Element::new(*address)))
        });
        let there = socket.find_in_sets(&wanted)?;
        let mut there = there.iter().flatten().flatten().filter_map(Container::read);
        Ok(there.any(|container| self.takes(&container)))
    }
}

/// The bridges that are kept apart. Of thousands of containers that is little.
#[derive(Default)]
pub(super) struct Bridges {
    /// Somebody's, whether he goes or stays.
    known: Vec<String>,
    /// What those need that stay.
    needed: Vec<Isolation>,
}

impl Bridges {
    fn note(&mut self, container: &Container, stays: bool) {
        let Some(isolation) = &container.isolation else { return };
        if !self.known.contains(&isolation.bridge) {
            self.known.push(isolation.bridge.clone());
        }
        if stays && !self.needed.contains(isolation) {
            self.needed.push(isolation.clone());
        }
    }

    /// With these addresses gone.
    pub(super) fn without(leaving: &[IpAddr], socket: &Socket, layout: &Layout) -> Result<Bridges> {
        let mut bridges = RefCell::new(Bridges::default());
        containers(socket, layout, |container| {
            let stays = !leaving.contains(&container.address);
            bridges.borrow_mut().note(&container, stays);
            None::<()>
        })?;
        Ok(std::mem::take(bridges.get_mut()))
    }

    /// Is the bridge of nobody who stays?
    fn are_rid_of(&self, bridge: &str, isolated: bool) -> bool {
        let needs = |needed: &Isolation| {
            needed.bridge == bridge && (!isolated || needed.policy == Policy::Isolated)
        };
        // Only those that were somebody's: others may be a person's.
        self.known.iter().any(|known| known == bridge) && !self.needed.iter().any(needs)
    }
}

/// Plans the removal of everything whose owner is meant; answers with the
/// addresses that go. Reads one message where there is no such table.
///
/// # Errors
/// The kernel's.
pub(crate) fn plan(socket: &Socket, leaving: &Leaving, out: &mut Transaction) -> Result<Parted> {
    let layout = Layout::new();
    if socket.table(layout.table.family, &layout.table.name)?.is_none() {
        return Ok(Parted::default());
    }
    if let Some(only) = leaving.only
        && !leaving.are_there(socket, &layout, only)?
    {
        return Ok(Parted::default());
    }
    let (bridges, others) = (RefCell::new(Bridges::default()), RefCell::new(Vec::new()));
    let serves_others = Cell::new(false);
    let note_staying = |container: &Container| {
        bridges.borrow_mut().note(container, true);
        serves_others.set(true);
        let address = leaving.asked.iter().find(|asked| **asked == container.address);
        others.borrow_mut().extend(address);
    };
    let meant = containers(socket, &layout, |container| {
        if leaving.takes(&container) {
            bridges.borrow_mut().note(&container, false);
            return Some(container);
        }
        note_staying(&container);
        None
    })?;
    // Only now: firewalld changes rules, too, which would interrupt the reading.
    let (going, kept): (Vec<Container>, Vec<Container>) =
        meant.into_iter().partition(|container| (leaving.leaves)(container));
    kept.iter().for_each(note_staying);
    // Limits that nobody recorded go with the address, which may be kept for its zone.
    let limited = leaving.only.is_some().then_some(&kept).into_iter().flatten();
    let mut addresses: Vec<IpAddr> = going.iter().chain(limited).map(|c| c.address).collect();
    addresses.sort_unstable();
    let ended = match leaving.only {
        Some(only) => Some(ended(socket, &layout, going.iter().chain(&kept), only)?),
        None => None,
    };
    let goes = |owner: &str| match &ended {
        Some(ended) => ended.iter().any(|ended| ended == owner),
        None => (leaving.belongs)(owner) && !kept.iter().any(|c| c.owner == owner),
    };
    let mut egress = Egress::default();
    egress.part(socket, &layout.egress_mac, |element| {
        let owner = owner_of(element);
        let goes = owner.is_some_and(goes);
        serves_others.set(serves_others.get() || owner.is_some() && !goes);
        goes
    })?;
    let (bridges, others) = (bridges.into_inner(), others.into_inner());
    if addresses.is_empty() && egress.going.iter().all(|(_, macs)| macs.is_empty()) {
        return Ok(Parted { going, others });
    }
    if !serves_others.get() && is_all(socket, &layout)? {
        out.delete(&layout.table);
        return Ok(Parted { going, others });
    }
    for family in [Family::V4, Family::V6] {
        let of_family = going.iter().map(|c| c.address).filter(|a| Family::of(*a) == family);
        take(out, layout.containers(family), of_family.map(Element::new).collect());
        egress.part(socket, layout.egress(family), |element| {
            address_of(element).is_some_and(|address| addresses.binary_search(&address).is_ok())
        })?;
    }
    plan_isolation(socket, &layout, &bridges, None, out)?;
    egress.plan(&layout, out);
    Ok(Parted { going, others })
}

/// Of those who had these addresses and have limits by hardware address, the owners
/// who are gone.
fn ended<'c>(
    socket: &Socket,
    layout: &Layout,
    losers: impl Iterator<Item = &'c Container>,
    addresses: &[IpAddr],
) -> Result<Vec<String>> {
    let limited = all(socket, &layout.egress_mac)?;
    let is_limited = |owner: &String| limited.iter().any(|e| owner_of(e) == Some(owner));
    let lost = losers.map(|container| container.owner.clone()).filter(is_limited);
    gone(socket, layout, lost.collect(), addresses)
}

/// Of owners who have lost these addresses, those who are gone: they have no other one,
/// nor a link.
pub(super) fn gone(
    socket: &Socket,
    layout: &Layout,
    mut lost: Vec<String>,
    addresses: &[IpAddr],
) -> Result<Vec<String>> {
    if lost.is_empty() {
        return Ok(lost);
    }
    let still = containers(socket, layout, |container| {
        let is_lost = lost.contains(&container.owner);
        (is_lost && !addresses.contains(&container.address)).then_some(container.owner)
    })?;
    lost.retain(|owner| !still.contains(owner));
    if !lost.is_empty() {
        let linked = owners_of_links()?;
        lost.retain(|owner| !linked.contains(owner));
    }
    Ok(lost)
}

/// The attachments that have a veth pair on this host, as the links' aliases say.
fn owners_of_links() -> Result<Vec<String>> {
    let links = link::list_kind(&linux::Socket::route()?, "veth")?;
    let owner = |link: &Link| {
        let (network, id) = identity::attachment_of_alias(link.alias.as_deref()?)?;
        Some(Owner::new(&network, &id).key().to_owned())
    };
    Ok(links.iter().filter_map(owner).collect())
}

/// What `read` makes of the addresses that are let through, and whose they are.
pub(super) fn containers<T>(
    socket: &Socket,
    layout: &Layout,
    read: impl Fn(Container) -> Option<T>,
) -> Result<Vec<T>> {
    let of_family = |family| {
        read_all(socket, layout.containers(family), |element| read(Container::read(&element)?))
    };
    let mut all = of_family(Family::V4)?;
    all.extend(of_family(Family::V6)?);
    Ok(all)
}

/// The elements of a set; none where it, or its table, is not there.
pub(super) fn all(socket: &Socket, set: &Set) -> Result<Vec<Element>> {
    read_all(socket, set, Some)
}

/// What `read` makes of them.
fn read_all<T>(socket: &Socket, set: &Set, read: impl Fn(Element) -> Option<T>) -> Result<Vec<T>> {
    match socket.elements_as(set, read) {
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

/// The rules of bridges that nobody needs, but for what `stays` needs.
pub(super) fn plan_isolation(
    socket: &Socket,
    layout: &Layout,
    bridges: &Bridges,
    stays: Option<&Isolation>,
    out: &mut Transaction,
) -> Result<()> {
    let stay = |bridge: &str, isolated: bool| {
        stays.is_some_and(|stays| {
            stays.bridge == bridge && (!isolated || stays.policy == Policy::Isolated)
        })
    };
    for (set, isolated) in
        [(&layout.bridges, false), (&layout.same_bridge, false), (&layout.isolated, true)]
    {
        let unneeded = all(socket, set)?.into_iter().filter(|element| {
            bridge_of(element).is_some_and(|bridge| {
                bridges.are_rid_of(&bridge, isolated) && !stay(&bridge, isolated)
            })
        });
        take(out, set, unneeded.collect());
    }
    Ok(())
}

fn bridge_of(element: &Element) -> Option<String> {
    match element.key.first()? {
        linux::nft::Value::Ifname(name) => Some(name.clone()),
        _ => None,
    }
}

fn address_of(element: &Element) -> Option<IpAddr> {
    match element.key.as_slice() {
        [linux::nft::Value::Net(address)] => Some(address.ip()),
        _ => None,
    }
}

/// Limits of addresses and hardware addresses.
#[derive(Default)]
struct Egress<'a> {
    /// Those that go, of each map.
    going: Vec<(&'a Set, Vec<Element>)>,
    /// The chains that those are sent to who stay.
    used: Vec<String>,
}

impl<'a> Egress<'a> {
    /// Reads a map.
    fn part(
        &mut self,
        socket: &Socket,
        map: &'a Set,
        goes: impl Fn(&Element) -> bool,
    ) -> Result<()> {
        let used = RefCell::new(std::mem::take(&mut self.used));
        let going = read_all(socket, map, |element| {
            let goes = goes(&element);
            if let Some(chain) = chain_of(&element).filter(|_| !goes) {
                let mut used = used.borrow_mut();
                if !used.contains(&chain) {
                    used.push(chain);
                }
            }
            goes.then_some(element)
        })?;
        self.used = used.into_inner();
        self.going.push((map, going));
        Ok(())
    }

    /// Removes those that go, and the chains that nobody is sent to any more.
    fn plan(self, layout: &Layout, out: &mut Transaction) {
        let mut freed = Vec::new();
        for (map, going) in self.going {
            freed.extend(going.iter().filter_map(chain_of));
            take(out, map, going);
        }
        free(layout, freed, &self.used, out);
    }
}

/// The chains that nobody is sent to when these elements go or are others, but for
/// the one that is `kept`.
pub(super) fn plan_chains(
    socket: &Socket,
    layout: &Layout,
    leaving: &[Element],
    kept: Option<&str>,
    out: &mut Transaction,
) -> Result<()> {
    let mut used: Vec<String> = kept.map(str::to_owned).into_iter().collect();
    for map in [&layout.egress_mac, layout.egress(Family::V4), layout.egress(Family::V6)] {
        let mut staying = all(socket, map)?;
        staying.retain(|element| !leaving.contains(element));
        used.extend(staying.iter().filter_map(chain_of));
    }
    free(layout, leaving.iter().filter_map(chain_of).collect(), &used, out);
    Ok(())
}

fn free(layout: &Layout, freed: Vec<String>, used: &[String], out: &mut Transaction) {
    for name in unique(freed).iter().filter(|name| !used.contains(name) && name.starts_with(EGRESS))
    {
        let chain = Chain::regular(&layout.table, name);
        out.flush(&chain).delete(&chain);
    }
}

pub(super) fn chain_of(element: &Element) -> Option<String> {
    match &element.data {
        Some(Data::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))) => Some(chain.clone()),
        _ => None,
    }
}

/// Whether the table holds nothing but what this plugin makes: a chain of the
/// administrator's counts when there is a rule in it.
fn is_all(socket: &Socket, layout: &Layout) -> Result<bool> {
    let admins: Vec<String> = socket.rules(&layout.admins)?.iter().filter_map(jump_of).collect();
    for chain in socket.chains(&layout.table)? {
        let own = is_own_chain(&chain.name);
        if !own && !admins.contains(&chain.name) {
            return Ok(false);
        }
        if !own && !socket.rules(&chain)?.is_empty() {
            return Ok(false);
        }
    }
    let sets = socket.sets(&layout.table)?;
    Ok(sets.iter().all(|set| layout.sets().iter().any(|own| own.name == set.name)))
}

fn jump_of(rule: &Rule) -> Option<String> {
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Verdict(Verdict::Jump(chain)) => Some(chain.clone()),
        _ => None,
    })
}
