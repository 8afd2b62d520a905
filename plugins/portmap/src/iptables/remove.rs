//! DEL and GC: attachments' chains, wherever iptables keeps them.
//!
//! What iptables-nft made is removed by netlink. The legacy commands are
//! executed only where legacy tables are in use.

use attach::backend::{FAMILIES, Netfilter};
use attach::kernel;
use cni::Result;
use linux::Family;
use linux::iptables::{self, Rule, Saved, Variant, comment_of, dnat_of, nft_table, verdict_of};
use linux::nft::{Chain, Socket, Transaction, Verdict};

use super::parse::{Mapped, Marker, mapped, mapping, marker, names};
use super::{DNAT, TABLE};
use crate::flows::Flow;
use std::net::IpAddr;

/// Older versions of upstream's plugin had a chain for the other direction.
const SNAT: &str = "CNI-HOSTPORT-SNAT";

/// Whose chains go.
pub(crate) enum Leaving<'a> {
    /// One attachment's, for DEL.
    One {
        /// The names its chain may have, upstream's first.
        chains: [String; 2],
        /// The key of the owner.
        owner: &'a str,
        /// Only if they lead there.
        target: Option<IpAddr>,
    },
    /// For GC: all that are not valid.
    Invalid {
        /// Whether the owner of this key is to go.
        by_key: &'a dyn Fn(&str) -> bool,
        /// Of upstream's chains: whether those of this network and container
        /// ID are to go.
        by_name: &'a dyn Fn(&str, &str) -> bool,
    },
}

impl Leaving<'_> {
    /// Whether a chain goes, by its name, its marker, the comment of a rule that leads
    /// to it, and where it leads.
    fn takes(
        &self,
        name: &str,
        marker: Option<&Marker>,
        entry: Option<&str>,
        leads_to: impl FnOnce(IpAddr) -> bool,
    ) -> bool {
        match (self, marker) {
            (Leaving::One { chains, owner, target }, Some(marker)) => {
                chains.iter().any(|chain| chain == name)
                    && marker.owner == *owner
                    && target.is_none_or(leads_to)
            }
            // Upstream's.
            (Leaving::One { chains: [first, _], target, .. }, None) => {
                first == name && target.is_none_or(leads_to)
            }
            (Leaving::Invalid { by_key, .. }, Some(marker)) => by_key(&marker.owner),
            (Leaving::Invalid { by_name, .. }, None) => entry
                .and_then(names)
                .is_some_and(|(network, container)| by_name(network, container)),
        }
    }

    /// The chain of the other direction that an attachment may have.
    fn old(&self) -> Option<String> {
        match self {
            Leaving::One { chains: [first, _], target: None, .. } => {
                Some(first.replacen("CNI-DN-", "CNI-SN-", 1))
            }
            Leaving::One { .. } | Leaving::Invalid { .. } => None,
        }
    }
}

/// Plans the removal of what iptables-nft made; answers with the chains that go.
/// Reads one message for each family where there are none.
///
/// # Errors
/// The kernel's.
pub(crate) fn plan(
    socket: &Socket,
    leaving: &Leaving,
    out: &mut Transaction,
) -> linux::Result<Vec<(Family, String)>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        let table = nft_table(family, TABLE);
        let chain = |name: &str| Chain::regular(&table, name);
        if socket.chain(&table, DNAT)?.is_none() {
            continue;
        }
        let candidates = match leaving {
            Leaving::One { chains, .. } => chains.iter().map(|c| (c.clone(), None)).collect(),
            Leaving::Invalid { .. } => entered(&socket.rules(&chain(DNAT))?),
        };
        let mut going = Vec::new();
        for (name, comment) in &candidates {
            let rules = socket.rules(&chain(name))?;
            let first = rules.first().filter(|rule| verdict_of(rule).is_none());
            let marker = first.and_then(|rule| Marker::read(&comment_of(rule)?));
            let leads_to = |target| {
                rules.iter().filter_map(|rule| dnat_of(family, rule)).any(|(to, _)| to == target)
            };
            if leaving.takes(name, marker.as_ref(), comment.as_deref(), leads_to) {
                going.push(name.as_str());
            }
        }
        if iptables::plan_removal(socket, &table, &going, &[DNAT], out)? {
            all.extend(going.into_iter().map(|name| (family, name.to_owned())));
        }
        if let Some(old) = leaving.old() {
            iptables::plan_removal(socket, &table, &[&old], &[SNAT], out)?;
        }
    }
    Ok(all)
}

/// Which flows lead to the mappings of these chains. It takes the command to
/// read that; where it is gone, the flows stay until they end.
pub(crate) fn flows(netfilter: &Netfilter, chains: &[(Family, String)]) -> Vec<Flow> {
    let mut flows = Vec::new();
    for family in FAMILIES {
        let of_family = |name: &str| chains.iter().any(|(f, chain)| *f == family && chain == name);
        if chains.iter().any(|(of, _)| *of == family)
            && let Some(program) = netfilter.iptables().program_of(family, Variant::Nft)
            && let Ok(saved) = program.save(TABLE)
        {
            flows.extend(flows_in(&saved, of_family));
        }
    }
    flows
}

fn flows_in(saved: &Saved, goes: impl Fn(&str) -> bool) -> Vec<Flow> {
    let going = mapped(saved).filter(|mapped| goes(mapped.chain));
    let flow = |mapped: Mapped| Flow {
        host: mapped.mapping.host,
        target: mapped.target,
        container_port: mapped.mapping.container_port,
    };
    going.map(flow).collect()
}

/// The chains that rules lead to, each with the comment of such a rule.
fn entered(rules: &[linux::nft::Rule]) -> Vec<(String, Option<String>)> {
    let mut entered: Vec<(String, Option<String>)> = Vec::new();
    for rule in rules {
        if let Some(Verdict::Jump(to) | Verdict::Goto(to)) = verdict_of(rule)
            && entered.iter().all(|(known, _)| *known != to)
        {
            entered.push((to, comment_of(rule)));
        }
    }
    entered
}

/// Removes what the legacy commands made, executing them only where their table
/// is in use; answers which flows lead, or led, there, for each family.
pub(crate) fn remove_legacy(netfilter: &Netfilter, leaving: &Leaving) -> Vec<Result<Vec<Flow>>> {
    let old = leaving.old();
    let remove = |family| {
        let mut flows = Vec::new();
        let Some(program) = netfilter.legacy(family, TABLE) else { return Ok(flows) };
        let removed = netfilter.update_to_remove(&program, TABLE, |saved, batch| {
            let entries = saved.chain(DNAT).map(|c| c.rules.as_slice()).unwrap_or_default();
            let goes = |name: &str| {
                let Some(chain) = saved.chain(name) else { return false };
                let entry = entries.iter().find(|rule| rule.target() == Some(name));
                let comment = entry.and_then(Rule::comment_text);
                let leads_to =
                    |target| chain.rules.iter().filter_map(mapping).any(|(_, to)| to == target);
                Some(name) == old.as_deref()
                    || name.starts_with("CNI-DN-")
                        && leaving.takes(name, marker(&chain.rules).as_ref(), comment, leads_to)
            };
            flows = flows_in(saved, goes);
            batch.remove_chains(saved, goes);
            Ok(())
        });
        removed.map(|()| flows).map_err(kernel)
    };
    FAMILIES.into_iter().map(remove).collect()
}
