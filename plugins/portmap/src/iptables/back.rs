//! What a failed ADD changed in iptables, as it was before.

use linux::iptables::{Batch, Rule, Saved};

use super::DNAT;

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
