//! ADD and CHECK: what is missing.

use linux::Family;
use linux::iptables::{Batch, Rule, Saved};

use super::{
    FORWARD, OWN, STAGE_1, STAGE_2, accepting, both_comment, end, entering_bridge, find,
    leaving_bridge, recorded, remove, within_bridge,
};
use crate::conf::{Isolation, Policy, unique};
use crate::nftables::{Claimant, Container};

/// Where in its chain a missing rule goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Last,
}

/// Plans what is missing, and removes what an earlier owner of an address, or an
/// earlier ADD, had otherwise.
pub(super) fn plan(saved: &Saved, claimant: &Claimant, family: Family, batch: &mut Batch) {
    let mut chains = vec![OWN, claimant.plan.admin_chain.as_str()];
    if claimant.plan.isolation.is_some() {
        chains.extend([STAGE_1, STAGE_2]);
    }
    for chain in chains {
        if saved.chain(chain).is_none() {
            batch.new_chain(chain);
        }
    }
    let was_last = plan_replaced(saved, claimant, family, batch);
    for (chain, rule, place) in wanted(claimant, family) {
        if find_wanted(saved, chain, &rule).is_some() {
            continue;
        }
        match place {
            Place::Last => batch.append(chain, rule),
            // Isolation stays before everything.
            Place::First if chain == FORWARD && rule.target() == Some(OWN) => {
                let isolation = position(saved, FORWARD, STAGE_1);
                batch.insert(chain, isolation.map_or(1, |at| at + 2), rule)
            }
            Place::First => batch.insert(chain, 1, rule),
        };
    }
    if was_last && claimant.plan.isolation.is_none() {
        remove::plan_stages(saved, batch);
    }
}

/// The first rule that should be there and is not, with its chain.
pub(super) fn missing(
    saved: &Saved,
    claimant: &Claimant,
    family: Family,
) -> Option<(&'static str, Rule)> {
    let is_recorded = recorded(saved).iter().any(|(_, there)| {
        there.owner == claimant.owner.key() || claimant.plan.addresses.contains(&there.address)
    });
    let mut needed = wanted(claimant, family).into_iter().filter(|(chain, rule, _)| {
        // Upstream makes no records.
        *chain != OWN || rule.target().is_some() || is_recorded
    });
    let absent = |(chain, rule, _): &(&str, Rule, _)| find_wanted(saved, chain, rule).is_none();
    needed.find(absent).map(|(chain, rule, _)| (chain, rule))
}

/// Records are equal word by word; other rules may be commented as they like.
fn find_wanted<'s>(saved: &'s Saved, chain: &str, rule: &Rule) -> Option<&'s Rule> {
    if rule.target().is_some() {
        return find(saved, chain, rule);
    }
    saved.chain(chain)?.rules.iter().find(|there| *there == rule)
}

/// The position of the rule that jumps to a chain, from 0.
fn position(saved: &Saved, chain: &str, target: &str) -> Option<u32> {
    let rules = &saved.chain(chain)?.rules;
    let at = rules.iter().position(|rule| rule.target() == Some(target))?;
    u32::try_from(at).ok()
}

fn wanted(claimant: &Claimant, family: Family) -> Vec<(&'static str, Rule, Place)> {
    let plan = claimant.plan;
    let commented = |text: &str| Rule::default().comment(text);
    let mut rules = vec![
        (FORWARD, commented("CNI firewall plugin rules").jump(OWN), Place::First),
        (
            OWN,
            commented("CNI firewall plugin admin overrides").jump(&plan.admin_chain),
            Place::First,
        ),
    ];
    for address in plan.of(family) {
        rules.push((OWN, record(claimant, address), Place::Last));
        rules.extend(accepting(address).map(|rule| (OWN, rule, Place::Last)));
    }
    if let Some(Isolation { bridge, policy }) = &plan.isolation {
        let to_stage_1 = commented(&both_comment()).jump(STAGE_1);
        rules.push((FORWARD, to_stage_1, Place::First));
        rules.push((STAGE_1, end(), Place::Last));
        rules.push((STAGE_1, leaving_bridge(bridge, policy.name()), Place::First));
        if *policy == Policy::Isolated {
            rules.push((STAGE_1, within_bridge(bridge), Place::First));
        }
        rules.push((STAGE_2, end(), Place::Last));
        rules.push((STAGE_2, entering_bridge(bridge), Place::First));
    }
    rules
}

fn record(claimant: &Claimant, address: std::net::IpAddr) -> Rule {
    let words = claimant.words("nftables");
    let network = linux::IpNetwork::from(address).to_string();
    Rule::new("-s").word(network).comment(claimant.owner.comment_with(&words))
}

/// Answers whether the last bridge with rules needs none any more.
fn plan_replaced(saved: &Saved, claimant: &Claimant, family: Family, batch: &mut Batch) -> bool {
    let plan = claimant.plan;
    let addresses = plan.of(family);
    let wanted: Vec<Rule> = addresses.iter().map(|a| record(claimant, *a)).collect();
    let (replaced, staying): (Vec<_>, Vec<_>) =
        recorded(saved).into_iter().partition(|(rule, container)| {
            let ours = container.owner == claimant.owner.key();
            (ours || addresses.contains(&container.address)) && !wanted.contains(rule)
        });
    for (rule, container) in &replaced {
        batch.delete(OWN, rule.clone());
        if !addresses.contains(&container.address) {
            for accepting in accepting(container.address) {
                if let Some(there) = find(saved, OWN, &accepting) {
                    batch.delete(OWN, there.clone());
                }
            }
        }
    }
    let bridges = replaced.iter().filter_map(|(_, c)| Some(c.isolation.as_ref()?.bridge.as_str()));
    let bridges = unique(bridges);
    let known = |address| {
        let of = |(_, container): &(Rule, Container)| container.address == address;
        addresses.contains(&address) || replaced.iter().chain(&staying).any(of)
    };
    if bridges.is_empty() || remove::are_strangers(saved, known) {
        return false;
    }
    let staying = staying.iter().filter_map(|(_, c)| c.isolation.as_ref());
    let needed: Vec<&Isolation> = staying.chain(&plan.isolation).collect();
    remove::plan_bridges(saved, &bridges, &needed, batch)
}
