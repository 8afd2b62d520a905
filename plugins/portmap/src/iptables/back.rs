//! What a failed ADD changed in iptables, as it was before; but for ports that
//! somebody else has mapped meanwhile.

use cni::Error;
use linux::iptables::{Batch, Rule, Saved};
use linux::nft::Socket;

use super::{Adding, DNAT, parse};
use crate::conf::{Mapping, Target};
use crate::{Claimant, nftables};

/// Takes from these chains, as they were, the ports that are another's by now, and
/// says whose. A chain that leads nowhere then goes whole.
///
/// # Errors
/// The kernel's.
pub(crate) fn leave_out_taken(
    was: &mut Saved,
    now: &Saved,
    chains: &[String],
    claimant: &Claimant,
    nft: Option<&Socket>,
) -> linux::Result<Vec<Error>> {
    let mut taken = Vec::new();
    for name in chains {
        let mappings: Vec<(Mapping, Target)> = parse::mapped(was)
            .filter(|there| there.chain == name)
            .map(|there| (there.mapping, there.as_target()))
            .collect();
        let mut left = mappings.len();
        for (mapping, target) in mappings {
            let adding = Adding { saved: now, claimant, target: &target };
            let conflict = match (adding.refuse_conflicts(), nft) {
                (Err(conflict), _) => Some(conflict),
                (Ok(()), Some(socket)) => nftables::conflict(socket, claimant, &target)?,
                (Ok(()), None) => None,
            };
            let Some(conflict) = conflict else { continue };
            taken.push(conflict.context("give a port back to an earlier ADD"));
            let is_of_port = |rule: &Rule| parse::is_for(rule, &mapping.host);
            was.chains
                .iter_mut()
                .filter(|chain| chain.name == *name)
                .for_each(|chain| chain.rules.retain(|rule| !is_of_port(rule)));
            left -= 1;
        }
        if left == 0 && !taken.is_empty() {
            was.chains.retain(|chain| chain.name != *name);
            for chain in was.chains.iter_mut().filter(|chain| chain.name == DNAT) {
                chain.rules.retain(|rule| rule.target() != Some(name));
            }
        }
    }
    Ok(taken)
}

/// Plans that these chains are as they were, and are led to from where they were.
/// What all attachments share stays.
pub(crate) fn plan_back(was: &Saved, now: &Saved, chains: &[String], batch: &mut Batch) {
    let leads = |rule: &&Rule| {
        rule.target().is_some_and(|target| chains.iter().any(|chain| chain == target))
    };
    let all = |saved: &'_ Saved| -> Vec<Rule> {
        saved.chain(DNAT).map(|dnat| dnat.rules.clone()).unwrap_or_default()
    };
    let (entries_were, entries) = (all(was), all(now));
    let same_entries = entries.iter().filter(leads).eq(entries_were.iter().filter(leads));
    if !same_entries {
        for rule in entries.iter().filter(leads) {
            batch.delete(DNAT, rule.clone());
        }
    }
    for name in chains.iter().filter(|name| now.chain(name) != was.chain(name)) {
        match was.chain(name) {
            Some(chain) => {
                batch.empty_chain(name);
                for rule in &chain.rules {
                    batch.append(name, rule.clone());
                }
            }
            None => {
                batch.flush(name).delete_chain(name);
            }
        }
    }
    if !same_entries {
        let others = entries.iter().filter(|rule| !leads(rule)).count();
        let were = entries_were.iter().enumerate().filter(|(_, rule)| leads(rule));
        for (there, (at, rule)) in (others..).zip(were) {
            // Somebody may have taken others away.
            let position = u32::try_from(at.min(there) + 1).unwrap_or(u32::MAX);
            batch.insert(DNAT, position, rule.clone());
        }
    }
}
