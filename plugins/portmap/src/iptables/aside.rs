//! What iptables has of the ports that something else is to map now: another
//! backend, or the other kind of iptables. A port of the living is a conflict;
//! what this attachment has there goes, and what the dead have.
//!
//! The rules of iptables come before those of nf_tables: a stale one would be
//! the one that counts.

use attach::backend::{FAMILIES, Netfilter};
use attach::kernel;
use cni::Error;
use linux::iptables::{self, Batch, Destination, comment_of, destination_of, dnat_of, nft_table};
use linux::nft::{Chain, Rule, Socket, Transaction, Verdict};
use linux::{Family, Result};

use super::parse::{self, Marker};
use super::{Adding, DNAT, TABLE, own_chains, part};
use crate::Claimant;
use crate::changes::Kind;
use crate::conf::{HostPort, Target};

/// Looks at what iptables-nft made, by netlink: a message for each family where
/// there is nothing. Answers with what speaks against the mappings, or plans
/// what has to go.
///
/// # Errors
/// The kernel's.
pub(crate) fn stand_aside(
    socket: &Socket,
    claimant: &Claimant,
    out: &mut Transaction,
) -> Result<Option<Error>> {
    let own = claimant.place.as_ref();
    for family in FAMILIES {
        let table = nft_table(family, TABLE);
        let target = claimant.plan.targets.iter().find(|target| target.family() == family);
        let mut going: Vec<String> = Vec::new();
        for entry in socket.rules(&Chain::regular(&table, DNAT))? {
            let Some(Verdict::Jump(name)) = iptables::verdict_of(&entry) else { continue };
            let known = going.contains(&name);
            if known || !may_concern(claimant, target, &name, &entry) {
                continue;
            }
            let rules = socket.rules(&Chain::regular(&table, name.clone()))?;
            let marker = marker(&rules);
            let wanted = target.and_then(|target| Some((target, wanted_by(target, &rules)?)));
            let is_stale = match &marker {
                Some(marker) => !marker.is_alive(own),
                None => target.is_some_and(|target| leads_to(target, &rules)),
            };
            let comment = comment_of(&entry).unwrap_or_default();
            match wanted {
                _ if is_own(claimant, &name, marker.as_ref()) => {
                    claimant.changes.note_earlier();
                    going.push(name);
                }
                Some(_) if is_stale => going.push(name),
                // Its rules come first, and those in the table when they go.
                Some(_)
                    if parse::is_of_container(&comment, claimant.request.container_id.as_str()) => {
                }
                Some((target, host)) => {
                    let way_out = parse::way_out(marker.as_ref());
                    return Ok(Some(conflict(target, &host, &name, &comment, way_out)));
                }
                None => {}
            }
        }
        let going: Vec<&str> = going.iter().map(String::as_str).collect();
        iptables::plan_removal(socket, &table, &going, &[DNAT], out)?;
    }
    Ok(None)
}

/// A chain of this attachment in a family of which it is to have none. Of iptables-nft
/// it is read by netlink; the legacy command is executed where its table is in use.
///
/// # Errors
/// The kernel's, or what the command said.
pub(super) fn chain_too_many(
    netfilter: &Netfilter,
    claimant: &Claimant,
) -> cni::Result<Option<(Family, String)>> {
    let owner = claimant.owner.key();
    let nft = netfilter.nft()?;
    for family in FAMILIES.into_iter().filter(|family| claimant.plan.target(*family).is_none()) {
        if let Some(socket) = nft {
            let table = nft_table(family, TABLE);
            for name in own_chains(claimant) {
                let rules = socket.rules(&Chain::regular(&table, &name)).map_err(kernel)?;
                if marker(&rules).is_some_and(|marker| marker.owner == owner) {
                    return Ok(Some((family, name)));
                }
            }
        }
        if let Some(program) = netfilter.legacy(family, TABLE) {
            let saved = program.save(TABLE).map_err(kernel)?;
            let is_own = |there: &parse::Mapped| {
                there.marker.as_ref().is_some_and(|marker| marker.owner == owner)
            };
            if let Some(there) = parse::mapped(&saved).find(is_own) {
                return Ok(Some((family, there.chain.to_owned())));
            }
        }
    }
    Ok(None)
}

/// Whether a chain may be in the way, by a rule that leads to it: other chains
/// are not read, of which a host may have hundreds.
fn may_concern(claimant: &Claimant, target: Option<&Target>, name: &str, entry: &Rule) -> bool {
    let is_wanted = |target: &Target| match destination_of(entry) {
        Some(to) => overlapping(target, &Destination { address: None, ..to }).is_some(),
        None => true,
    };
    own_chains(claimant).iter().any(|own| own == name) || target.is_some_and(is_wanted)
}

fn marker(rules: &[Rule]) -> Option<Marker> {
    let first = rules.first().filter(|rule| destination_of(rule).is_none())?;
    Marker::read(&comment_of(first)?)
}

/// Upstream's chains have no marker, and do not tell interfaces apart.
fn is_own(claimant: &Claimant, chain: &str, marker: Option<&Marker>) -> bool {
    match marker {
        Some(marker) => marker.owner == claimant.owner.key(),
        None => own_chains(claimant)[0] == chain,
    }
}

/// The first port of the host that is wanted and that these rules map.
fn wanted_by(target: &Target, rules: &[Rule]) -> Option<HostPort> {
    rules.iter().find_map(|rule| overlapping(target, &destination_of(rule)?))
}

fn overlapping(target: &Target, to: &Destination) -> Option<HostPort> {
    let mut hosts = target.mappings.iter().map(|mapping| mapping.host);
    hosts.find(|host| {
        let Destination { protocol, address, .. } = *to;
        to.ports.iter().any(|port| host.overlaps(&HostPort { protocol, port: *port, address }))
    })
}

/// Whether these rules map a port that is wanted to where it is wanted.
fn leads_to(target: &Target, rules: &[Rule]) -> bool {
    rules.iter().any(|rule| {
        let (Some(to), Some(Destination { protocol, address, ports })) =
            (dnat_of(target.family(), rule), destination_of(rule))
        else {
            return false;
        };
        let host = |port: &u16| HostPort { protocol, port: *port, address };
        target.mappings.iter().any(|m| {
            to == (target.address.ip(), m.container_port)
                && ports.iter().any(|port| m.host.overlaps(&host(port)))
        })
    })
}

fn conflict(target: &Target, host: &HostPort, chain: &str, comment: &str, way_out: &str) -> Error {
    let whose = parse::describe(comment).unwrap_or_else(|| format!("chain {chain}"));
    Error::internal(format!(
        "map {host} of the host to {}: the port is mapped for {whose}, with iptables{way_out}",
        target.address.ip()
    ))
}

/// Whether legacy iptables has something that has to go, or else what it has
/// that speaks against the mappings. Executes the command, but only where its
/// table is in use.
///
/// # Errors
/// What the command said.
pub(crate) fn legacy_in_the_way(
    netfilter: &Netfilter,
    claimant: &Claimant,
) -> Result<std::result::Result<bool, Error>> {
    let mut stale = false;
    for target in &claimant.plan.targets {
        let Some(program) = netfilter.legacy(target.family(), TABLE) else { continue };
        let saved = program.save(TABLE)?;
        let adding = Adding { saved: &saved, claimant, target };
        if let Err(conflict) = adding.refuse_conflicts() {
            return Ok(Err(conflict));
        }
        let mut batch = Batch::new(TABLE);
        adding.plan_aside(&mut batch);
        adding.note_earlier();
        stale = stale || !batch.is_empty();
    }
    Ok(Ok(stale))
}

/// Removes what [`legacy_in_the_way`] found.
///
/// # Errors
/// What the command said.
pub(crate) fn move_legacy_aside(netfilter: &Netfilter, claimant: &Claimant) -> Result<()> {
    let own = own_chains(claimant);
    for target in &claimant.plan.targets {
        let Some(program) = netfilter.legacy(target.family(), TABLE) else { continue };
        netfilter.update(&program, &part(claimant, &own), |saved, batch| {
            let chains = Adding { saved, claimant, target }.plan_aside(batch);
            claimant.changes.iptables(target.family(), Kind::Legacy, saved, chains);
            Ok(())
        })?;
    }
    Ok(())
}

impl Adding<'_> {
    /// Ours, and the chains of the dead that are in the way; answers which go.
    fn plan_aside(&self, batch: &mut Batch) -> Vec<String> {
        let going = |there: &parse::Mapped| self.is_own(there) || self.is_stale(there);
        self.plan_removed(batch, going)
    }
}
