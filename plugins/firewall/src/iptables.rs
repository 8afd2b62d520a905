//! Rules of iptables, in upstream's chains, so that either plugin can check and
//! remove what the other made:
//!
//! ```text
//! -A FORWARD -m comment --comment ".." -j CNI-ISOLATION-STAGE-1        # with an ingress policy
//! -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
//! -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
//! -A CNI-FORWARD -s 10.1.0.2/32 -m comment --comment "<owner>, policy: .., bridge: .., id: C"
//! -A CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//! -A CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT
//! -A CNI-ISOLATION-STAGE-1 -i cni0 ! -o cni0 -m comment --comment ".." -j CNI-ISOLATION-STAGE-2
//! -A CNI-ISOLATION-STAGE-1 -m comment --comment ".." -j RETURN
//! -A CNI-ISOLATION-STAGE-2 -o cni0 -m comment --comment ".." -j DROP
//! -A CNI-ISOLATION-STAGE-2 -m comment --comment ".." -j RETURN
//! ```
//!
//! The rule with the owner is ours alone: it does nothing, and tells whose an
//! address is and what it needs. Upstream's addresses have none.

mod add;
mod remove;

use attach::backend::Netfilter;
use attach::kernel;
use cni::{Error, Result};
use linux::IpNetwork;
use linux::iptables::{Part, Rule, Saved};
use std::net::IpAddr;

use crate::nftables::{Claimant, Container};
pub(crate) use remove::{Leaving, remove, remove_stored};

pub(crate) const TABLE: &str = "filter";
const FORWARD: &str = "FORWARD";
const OWN: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";

/// Whether a chain of this name is this plugin's.
pub(crate) fn is_own_chain(name: &str) -> bool {
    [OWN, STAGE_1, STAGE_2].contains(&name)
}

/// Lets the addresses through, all of them or none of a family.
///
/// # Errors
/// Those of the commands.
pub(crate) fn add(netfilter: &Netfilter, claimant: &Claimant) -> linux::Result<()> {
    for family in claimant.plan.families() {
        let program = netfilter.need_iptables(family)?;
        netfilter.update(&program, &part(claimant), |saved, batch| {
            add::plan(saved, claimant, family, batch);
            Ok(())
        })?;
    }
    Ok(())
}

/// Verifies that everything ADD made is there; changes nothing.
///
/// # Errors
/// Names what is missing.
pub(crate) fn check(netfilter: &Netfilter, claimant: &Claimant) -> Result<()> {
    for family in claimant.plan.families() {
        let program = netfilter.need_iptables(family).map_err(kernel)?;
        let saved = netfilter.read(&program, &part(claimant)).map_err(kernel)?;
        if let Some((chain, rule)) = add::missing(&saved, claimant, family) {
            return Err(Error::internal(format!(
                "check firewall rules: rule {rule} is missing in chain {chain} of table {TABLE}"
            )));
        }
    }
    Ok(())
}

/// What it takes to know what is there.
fn part<'a>(claimant: &'a Claimant) -> Part<'a> {
    Part {
        table: TABLE,
        own: vec![OWN, STAGE_1, STAGE_2],
        own_start: None,
        others: vec![FORWARD, &claimant.plan.admin_chain],
    }
}

/// The rules that let an address through, as `iptables-save` shows them.
fn accepting(address: IpAddr) -> [Rule; 2] {
    let network = IpNetwork::from(address).to_string();
    [
        Rule::new("-d")
            .word(&network)
            .words("-m conntrack --ctstate RELATED,ESTABLISHED")
            .jump("ACCEPT"),
        Rule::new("-s").word(&network).jump("ACCEPT"),
    ]
}

/// The address such a rule, or one with an owner, is about.
fn address_of(rule: &Rule) -> Option<IpAddr> {
    let words = rule.as_words();
    let option = words.first().filter(|word| matches!(word.as_str(), "-s" | "-d"));
    let network: IpNetwork = option.and(words.get(1))?.parse().ok()?;
    Some(network.ip())
}

/// Rules with an owner, and whose.
fn recorded(saved: &Saved) -> Vec<(Rule, Container)> {
    let rules = saved.chain(OWN).map(|chain| chain.rules.as_slice()).unwrap_or_default();
    let record = |rule: &Rule| {
        let is_record = rule.target().is_none();
        let address = address_of(rule).filter(|_| is_record)?;
        Some((rule.clone(), Container::parse(address, rule.comment_text()?)?))
    };
    rules.iter().filter_map(record).collect()
}

/// Whether two rules do the same, whatever is said of them: versions of upstream
/// comment them in different words.
fn same_but_for_comment(one: &Rule, other: &Rule) -> bool {
    let words = |rule: &Rule| {
        let mut words = rule.as_words().to_vec();
        if let Some(at) = words.iter().position(|word| word == "--comment") {
            words.drain(at.saturating_sub(2)..(at + 2).min(words.len()));
        }
        words
    };
    words(one) == words(other)
}

/// The rule that is there and does the same.
fn find<'s>(saved: &'s Saved, chain: &str, rule: &Rule) -> Option<&'s Rule> {
    saved.chain(chain)?.rules.iter().find(|there| same_but_for_comment(there, rule))
}

fn policy_comment(policy: &str) -> String {
    format!("CNI firewall plugin rules (ingressPolicy: {policy})")
}

/// Of rules that both policies need.
fn both_comment() -> String {
    policy_comment("same-bridge|isolated")
}

/// From a bridge to anywhere else.
fn leaving_bridge(bridge: &str, policy: &str) -> Rule {
    Rule::new("-i")
        .word(bridge)
        .words("! -o")
        .word(bridge)
        .comment(policy_comment(policy))
        .jump(STAGE_2)
}

/// Between containers of a bridge, where the kernel filters what is bridged.
fn within_bridge(bridge: &str) -> Rule {
    Rule::new("-i")
        .word(bridge)
        .words("-o")
        .word(bridge)
        .comment(policy_comment("isolated"))
        .jump("DROP")
}

/// From another bridge.
fn entering_bridge(bridge: &str) -> Rule {
    Rule::new("-o").word(bridge).comment(both_comment()).jump("DROP")
}

fn end() -> Rule {
    Rule::default().comment(both_comment()).jump("RETURN")
}

#[cfg(test)]
mod tests;
