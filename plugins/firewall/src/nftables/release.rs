//! DEL and GC: what attachments have in the table, and the table itself when it
//! serves nobody any more.

use linux::nft::{Chain, Data, Element, Rule, Set, Socket, Statement, Transaction, Verdict};
use linux::{Family, Result};
use std::net::IpAddr;

use super::layout::{Container, EGRESS, Layout, is_own_chain, owner_of};
use super::take;
use crate::conf::{Isolation, Policy, unique};

/// Whose addresses there are.
#[derive(Default)]
pub(crate) struct Parted {
    pub(crate) going: Vec<Container>,
    pub(crate) staying: Vec<Container>,
}

/// Plans the removal of everything whose owner is meant; answers with the
/// addresses that go and those that stay. Reads one message where there is no such
/// table.
///
/// # Errors
/// The kernel's.
pub(crate) fn plan(
    socket: &Socket,
    belongs: &dyn Fn(&str) -> bool,
    out: &mut Transaction,
) -> Result<Parted> {
    let layout = Layout::new();
    if socket.table(layout.table.family, &layout.table.name)?.is_none() {
        return Ok(Parted::default());
    }
    let (going, staying): (Vec<Container>, Vec<Container>) =
        containers(socket, &layout)?.into_iter().partition(|container| belongs(&container.owner));
    let (macs, other_macs): (Vec<Element>, Vec<Element>) = all(socket, &layout.egress_mac)?
        .into_iter()
        .partition(|e| owner_of(e).is_some_and(belongs));
    if going.is_empty() && macs.is_empty() {
        return Ok(Parted { going, staying });
    }
    let serves_others = !staying.is_empty() || other_macs.iter().any(|e| owner_of(e).is_some());
    if !serves_others && is_all(socket, &layout)? {
        out.delete(&layout.table);
        return Ok(Parted { going, staying });
    }
    let addresses: Vec<IpAddr> = going.iter().map(|container| container.address).collect();
    for family in [Family::V4, Family::V6] {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        let keys: Vec<Element> =
            addresses.iter().filter(of_family).map(|address| Element::new(*address)).collect();
        take(out, layout.containers(family), keys);
    }
    plan_isolation(socket, &layout, &addresses, None, out)?;
    plan_egress(socket, &layout, &addresses, (macs, other_macs), out)?;
    Ok(Parted { going, staying })
}

/// The addresses that are let through and whose they are.
pub(super) fn containers(socket: &Socket, layout: &Layout) -> Result<Vec<Container>> {
    let mut containers = Vec::new();
    for family in [Family::V4, Family::V6] {
        let elements = all(socket, layout.containers(family))?;
        containers.extend(elements.iter().filter_map(Container::read));
    }
    Ok(containers)
}

/// The elements of a set; none where it, or its table, is not there.
pub(super) fn all(socket: &Socket, set: &Set) -> Result<Vec<Element>> {
    match socket.elements(set) {
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

/// The rules of bridges that nobody needs when these addresses are gone, but for
/// what `stays` needs.
pub(super) fn plan_isolation(
    socket: &Socket,
    layout: &Layout,
    leaving: &[IpAddr],
    stays: Option<&Isolation>,
    out: &mut Transaction,
) -> Result<()> {
    let all_containers = containers(socket, layout)?;
    let needed: Vec<&Isolation> = all_containers
        .iter()
        .filter(|container| !leaving.contains(&container.address))
        .filter_map(|container| container.isolation.as_ref())
        .chain(stays)
        .collect();
    let has = |bridge: &str, isolated: bool| {
        needed.iter().any(|needed| {
            needed.bridge == bridge && (!isolated || needed.policy == Policy::Isolated)
        })
    };
    for (set, isolated) in
        [(&layout.bridges, false), (&layout.same_bridge, false), (&layout.isolated, true)]
    {
        let unneeded = all(socket, set)?.into_iter().filter(|element| {
            bridge_of(element).is_some_and(|bridge| {
                // Only those that were somebody's: others may be a person's.
                all_containers
                    .iter()
                    .any(|c| c.isolation.as_ref().is_some_and(|i| i.bridge == bridge))
                    && !has(&bridge, isolated)
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

/// Limits of the addresses and hardware addresses, those that go and those that
/// stay, and chains that no other is sent to.
fn plan_egress(
    socket: &Socket,
    layout: &Layout,
    leaving: &[IpAddr],
    macs: (Vec<Element>, Vec<Element>),
    out: &mut Transaction,
) -> Result<()> {
    let mut maps = vec![(&layout.egress_mac, macs)];
    for family in [Family::V4, Family::V6] {
        let map = layout.egress(family);
        let leaves = |element: &Element| {
            leaving.iter().any(|address| Element::new(*address).key == element.key)
        };
        maps.push((map, all(socket, map)?.into_iter().partition(leaves)));
    }
    let (mut freed, mut used) = (Vec::new(), Vec::new());
    for (map, (going, staying)) in maps {
        freed.extend(going.iter().filter_map(chain_of));
        used.extend(staying.iter().filter_map(chain_of));
        take(out, map, going);
    }
    free(layout, freed, &used, out);
    Ok(())
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
