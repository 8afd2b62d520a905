//! What the table has of ports that iptables is to map now. A port of the living
//! is a conflict; what this attachment has there goes, and what the dead have.

use cni::Error;
use linux::Result;
use linux::nft::{Socket, Transaction};

use super::claim::Adding;
use super::release::{self, Leaving};
use crate::Claimant;
use crate::conf::{HostPort, Target};

/// Who else has a port that a target is to have, in the table as it is.
///
/// # Errors
/// The kernel's.
pub(crate) fn conflict(
    socket: &Socket,
    claimant: &Claimant,
    target: &Target,
) -> Result<Option<Error>> {
    let mut nothing = Transaction::new();
    let mut adding = Adding::new(socket, claimant, target, &mut nothing);
    adding.in_the_way()?;
    Ok(adding.conflict)
}

/// Answers with what speaks against the mappings, or plans what has to go. Reads
/// a message for each family where there is no such table.
///
/// # Errors
/// The kernel's.
pub(crate) fn stand_aside(
    socket: &Socket,
    claimant: &Claimant,
    out: &mut Transaction,
) -> Result<Option<Error>> {
    let mut going = vec![claimant.owner.key().to_owned()];
    for target in &claimant.plan.targets {
        let mut nothing = Transaction::new();
        let mut adding = Adding::new(socket, claimant, target, &mut nothing);
        let there = adding.in_the_way()?;
        if adding.conflict.is_some() {
            return Ok(adding.conflict);
        }
        going.extend(there.iter().filter_map(|claim| claim.owner().map(str::to_owned)));
    }
    let hosts: Vec<HostPort> = claimant.plan.hosts();
    let belongs = |key: &str| going.iter().any(|owner| owner == key);
    let container_id = Some(claimant.request.container_id.as_str());
    let before = out.operations().len();
    release::plan(
        socket,
        &Leaving { belongs: &belongs, target: None, hosts: &hosts, container_id },
        out,
    )?;
    // At whatever ports; something of the dead alone does no harm here.
    if out.operations().len() > before {
        claimant.changes.note_earlier();
    }
    Ok(None)
}
