//! A port is one container's, whichever backend maps it: each ADD looks at what
//! the other one has as well, and at the other kind of iptables.
//!
//! Nothing is executed for that, unless a table of legacy iptables is in use.

use attach::backend::{Backend, Netfilter};
use cni::Error;
use linux::Result;
use linux::iptables::Variant;
use linux::nft::{Socket, Transaction};

use crate::{Claimant, iptables, nftables};

/// Maps the ports with a backend, all of them or none. The outer error is the
/// kernel's or a command's; the inner one says what speaks against it.
pub(crate) fn add(
    netfilter: &Netfilter,
    nft: Option<&Socket>,
    backend: Backend,
    claimant: &Claimant,
) -> Result<std::result::Result<(), Error>> {
    let other = Other { claimant, netfilter, nft, variant: variant(netfilter, claimant) };
    let nftables = nft.filter(|_| backend == Backend::Nftables);
    let mut legacy_is_stale = false;
    if nftables.is_some() || other.variant == Some(Variant::Nft) {
        match iptables::legacy_in_the_way(netfilter, claimant)? {
            Ok(stale) => legacy_is_stale = stale,
            Err(conflict) => return Ok(Err(conflict)),
        }
    }
    let made = match nftables {
        Some(socket) => nftables::add(netfilter, socket, claimant)?,
        None => match other.conflict()? {
            Some(conflict) => Err(conflict),
            None => iptables::add(netfilter, claimant)?,
        },
    };
    if made.is_err() {
        return Ok(made);
    }
    if legacy_is_stale {
        iptables::move_legacy_aside(netfilter, claimant)?;
    }
    match nftables {
        // It saw to it in the same batch.
        Some(_) => Ok(Ok(())),
        None => other.move_aside(),
    }
}

/// The kind of iptables that is used.
fn variant(netfilter: &Netfilter, claimant: &Claimant) -> Option<Variant> {
    let family = claimant.plan.families().into_iter().next()?;
    netfilter.iptables().program(family)?.variant()
}

/// What is in nf_tables while iptables is what maps.
struct Other<'a> {
    claimant: &'a Claimant<'a>,
    netfilter: &'a Netfilter,
    nft: Option<&'a Socket>,
    variant: Option<Variant>,
}

impl Other<'_> {
    fn plan(&self, socket: &Socket, out: &mut Transaction) -> Result<Option<Error>> {
        let conflict = nftables::stand_aside(socket, self.claimant, out)?;
        if conflict.is_some() || self.variant != Some(Variant::Legacy) {
            return Ok(conflict);
        }
        iptables::stand_aside(socket, self.claimant, out)
    }

    fn conflict(&self) -> Result<Option<Error>> {
        match self.nft {
            Some(socket) => self.plan(socket, &mut Transaction::new()),
            None => Ok(None),
        }
    }

    /// Removes what has to go. Who mapped one of the ports meanwhile keeps it, and is
    /// what speaks against it.
    fn move_aside(&self) -> Result<std::result::Result<(), Error>> {
        let mut conflict = None;
        if let Some(socket) = self.nft {
            let changes = &self.claimant.changes;
            let step = changes.next();
            self.netfilter.change(socket, |socket, out| {
                conflict = self.plan(socket, out)?;
                if conflict.is_some() {
                    *out = Transaction::new();
                }
                changes.nftables(step, socket, out)
            })?;
        }
        Ok(conflict.map_or(Ok(()), Err))
    }
}
