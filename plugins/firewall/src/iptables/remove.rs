//! DEL and GC: what attachments have in the chains, wherever iptables keeps
//! them. What iptables-nft made is removed by netlink. The legacy commands are
//! executed only where legacy tables are in use.

use attach::backend::{FAMILIES, Netfilter};
use attach::kernel;
use cni::Result;
use linux::Family;
use linux::iptables::{Batch, Program, Rule, Saved, Stored, nft_table};
use linux::nft::{Socket, Transaction};
use std::net::IpAddr;

use super::{
    FORWARD, OWN, STAGE_1, STAGE_2, TABLE, accepting, address_of, end, entering_bridge, find,
    leaving_bridge, recorded, same_but_for_comment, within_bridge,
};
use crate::conf::{Isolation, Policy, unique};
use crate::nftables::Container;

/// Whose rules go.
pub(crate) struct Leaving<'a> {
    /// By the key of the owner.
    pub(crate) belongs: &'a dyn Fn(&str) -> bool,
    /// Only what they have of these addresses, which are another's now.
    pub(crate) only: Option<&'a [IpAddr]>,
    /// Whether one of theirs may go.
    pub(crate) leaves: &'a dyn Fn(&Container) -> bool,
    /// Addresses of an attachment that nobody recorded: upstream's.
    pub(crate) addresses: &'a [IpAddr],
    /// The bridge of such an attachment.
    pub(crate) bridge: Option<&'a str>,
}

impl Leaving<'_> {
    fn takes(&self, container: &Container) -> bool {
        (self.belongs)(&container.owner)
            && self.only.is_none_or(|only| only.contains(&container.address))
            && (self.leaves)(container)
    }

    fn concerns(&self, family: Family) -> bool {
        self.only.is_none_or(|only| only.iter().any(|address| Family::of(*address) == family))
    }
}

/// Removes them from each family and kind of iptables; answers with the
/// addresses that were recorded and go.
pub(crate) fn remove(netfilter: &Netfilter, leaving: &Leaving) -> Vec<Result<Vec<Container>>> {
    let mut outcomes = remove_stored(netfilter, leaving);
    for family in FAMILIES.into_iter().filter(|family| leaving.concerns(*family)) {
        if let Some(program) = netfilter.legacy(family, TABLE) {
            outcomes.push(remove_legacy(netfilter, &program, family, leaving));
        }
    }
    outcomes
}

/// The same of iptables-nft alone, for which nothing is executed.
pub(crate) fn remove_stored(
    netfilter: &Netfilter,
    leaving: &Leaving,
) -> Vec<Result<Vec<Container>>> {
    let remove = |family| {
        let mut gone = Vec::new();
        let removed = netfilter.remove(|socket, out| {
            gone = plan_in_nft(socket, family, leaving, out)?;
            Ok(())
        });
        removed.map(|()| gone)
    };
    FAMILIES.into_iter().filter(|family| leaving.concerns(*family)).map(remove).collect()
}

/// From where iptables-nft keeps them.
fn plan_in_nft(
    socket: &Socket,
    family: Family,
    leaving: &Leaving,
    out: &mut Transaction,
) -> linux::Result<Vec<Container>> {
    let table = nft_table(family, TABLE);
    if socket.chain(&table, OWN)?.is_none() {
        return Ok(Vec::new());
    }
    let stored = Stored::read(socket, &table, &[FORWARD, OWN, STAGE_1, STAGE_2])?;
    let mut batch = Batch::new(TABLE);
    let gone = plan(stored.saved(), family, leaving, &mut batch);
    stored.plan(&batch, out)?;
    Ok(gone)
}

fn remove_legacy(
    netfilter: &Netfilter,
    program: &Program,
    family: Family,
    leaving: &Leaving,
) -> Result<Vec<Container>> {
    let mut gone = Vec::new();
    let updated = netfilter.update_to_remove(program, TABLE, |saved, batch| {
        gone = plan(saved, family, leaving, batch);
        Ok(())
    });
    updated.map(|()| gone).map_err(kernel)
}

pub(super) fn plan(
    saved: &Saved,
    family: Family,
    leaving: &Leaving,
    batch: &mut Batch,
) -> Vec<Container> {
    let (going, staying): (Vec<_>, Vec<_>) =
        recorded(saved).into_iter().partition(|(_, container)| leaving.takes(container));
    let is_recorded = |address: IpAddr| staying.iter().any(|(_, c)| c.address == address);
    let unrecorded = leaving.addresses.iter().copied().filter(|a| Family::of(*a) == family);
    let addresses: Vec<IpAddr> = unique(going.iter().map(|(_, c)| c.address).chain(unrecorded));
    for (rule, _) in &going {
        batch.delete(OWN, rule.clone());
    }
    for address in addresses.iter().filter(|address| !is_recorded(**address)) {
        for rule in accepting(*address) {
            if let Some(there) = find(saved, OWN, &rule) {
                batch.delete(OWN, there.clone());
            }
        }
    }
    let known = |address: IpAddr| addresses.contains(&address) || is_recorded(address);
    let strangers = are_strangers(saved, known);
    let staying: Vec<&Isolation> =
        staying.iter().filter_map(|(_, c)| c.isolation.as_ref()).collect();
    if !strangers {
        let bridges = going.iter().filter_map(|(_, c)| Some(c.isolation.as_ref()?.bridge.as_str()));
        if plan_bridges(saved, &unique(bridges.chain(leaving.bridge)), &staying, batch) {
            plan_stages(saved, batch);
        }
    }
    going.into_iter().map(|(_, container)| container).collect()
}

/// Whether there is somebody whose needs nobody recorded.
pub(super) fn are_strangers(saved: &Saved, known: impl Fn(IpAddr) -> bool) -> bool {
    let all = saved.chain(OWN).map(|chain| chain.rules.as_slice()).unwrap_or_default();
    all.iter()
        .filter(|rule| rule.target() == Some("ACCEPT"))
        .any(|rule| address_of(rule).is_some_and(|address| !known(address)))
}

/// The rules of bridges that nobody needs; answers whether they were the last.
pub(super) fn plan_bridges(
    saved: &Saved,
    bridges: &[&str],
    needed: &[&Isolation],
    batch: &mut Batch,
) -> bool {
    let mut gone: Vec<(&str, Rule)> = Vec::new();
    for bridge in bridges {
        let of_bridge = |isolation: &&&Isolation| isolation.bridge == *bridge;
        if !needed.iter().any(|i| of_bridge(&i) && i.policy == Policy::Isolated) {
            gone.push((STAGE_1, within_bridge(bridge)));
        }
        if !needed.iter().any(|i| of_bridge(&i)) {
            gone.push((STAGE_1, leaving_bridge(bridge, "")));
            gone.push((STAGE_2, entering_bridge(bridge)));
        }
    }
    let goes = |chain: &str, there: &Rule| {
        gone.iter().any(|(of, rule)| *of == chain && same_but_for_comment(rule, there))
    };
    let (mut left, mut any) = (false, false);
    for name in [STAGE_1, STAGE_2] {
        let Some(chain) = saved.chain(name) else { continue };
        for rule in &chain.rules {
            if goes(name, rule) {
                batch.delete(name, rule.clone());
                any = true;
            } else {
                left |= !same_but_for_comment(rule, &end());
            }
        }
    }
    any && !left
}

/// The chains of bridges' rules.
pub(super) fn plan_stages(saved: &Saved, batch: &mut Batch) {
    let Some(forward) = saved.chain(FORWARD) else { return };
    for rule in forward.rules.iter().filter(|rule| rule.target() == Some(STAGE_1)) {
        batch.delete(FORWARD, rule.clone());
    }
    for name in [STAGE_1, STAGE_2] {
        if saved.chain(name).is_some() {
            batch.flush(name);
        }
    }
    for name in [STAGE_1, STAGE_2] {
        if saved.chain(name).is_some() {
            batch.delete_chain(name);
        }
    }
}
