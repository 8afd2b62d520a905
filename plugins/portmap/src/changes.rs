//! What an ADD changes, and how that was, so that one that fails takes back its own
//! changes and nothing else: an earlier ADD of the attachment may have mapped ports,
//! which it leaves, unless somebody else has mapped them meanwhile. Of one that found none of the attachment, all goes, as by DEL.
//!
//! What was there is read when it is about to be changed, and only where something of
//! the attachment is.

use attach::backend::Netfilter;
use attach::kernel;
use cni::{Error, Result};
use linux::Family;
use linux::iptables::Saved;
use linux::nft::{Before, Socket, Transaction};
use std::cell::{Cell, RefCell};

use crate::{Claimant, iptables, nftables, remove};

/// See the top of this file.
#[derive(Default)]
pub(crate) struct Changes {
    earlier: Cell<bool>,
    steps: RefCell<Vec<Step>>,
}

/// A change that was begun, and may have been made.
enum Step {
    /// With what nf_tables had there; `None` where nothing of the attachment was.
    Nftables(Option<Before>),
    /// Chains of iptables that go or are written, of a family and a kind.
    Iptables(Family, Kind, Saved, Vec<String>),
}

/// Which command keeps the rules.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The host's `iptables`.
    Usual,
    /// The legacy one, which is not the usual one.
    Legacy,
}

impl Changes {
    /// Something of the attachment was there before.
    pub(crate) fn note_earlier(&self) {
        self.earlier.set(true);
    }

    /// Where the next step will stand, for one that is planned several times.
    pub(crate) fn next(&self) -> usize {
        self.steps.borrow().len()
    }

    /// Step `at` is this transaction, planned just now.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn nftables(
        &self,
        at: usize,
        socket: &Socket,
        planned: &Transaction,
    ) -> linux::Result<()> {
        self.steps.borrow_mut().truncate(at);
        if !planned.is_empty() {
            let mut before = self.earlier.get().then(|| socket.remember(planned)).transpose()?;
            // `route_localnet` may be set by then, and stays set.
            if let Some(before) = &mut before {
                before.keep(&nftables::guard());
            }
            self.steps.borrow_mut().push(Step::Nftables(before));
        }
        Ok(())
    }

    /// The next step changes these chains, which were so.
    pub(crate) fn iptables(&self, family: Family, kind: Kind, saved: &Saved, chains: Vec<String>) {
        self.steps.borrow_mut().push(Step::Iptables(family, kind, saved.clone(), chains));
    }

    /// Takes all steps back, the last one first, whatever goes wrong meanwhile.
    ///
    /// # Errors
    /// The kernel's, or what a command said.
    pub(crate) fn take_back(&self, claimant: &Claimant) -> Result<()> {
        let steps = self.steps.take();
        if steps.is_empty() {
            return Ok(());
        }
        if !self.earlier.get() {
            return remove(claimant.request, &claimant.plan.hosts());
        }
        // With a patience of its own.
        let netfilter = Netfilter::open()?;
        let outcomes = steps.into_iter().rev().map(|step| step.take_back(&netfilter, claimant));
        Error::join(outcomes.filter_map(Result::err).collect())
    }
}

impl Step {
    fn take_back(self, netfilter: &Netfilter, claimant: &Claimant) -> Result<()> {
        match self {
            Step::Nftables(None) => Ok(()),
            Step::Nftables(Some(before)) => {
                netfilter.remove(|socket, out| nftables::plan_back(socket, &before, claimant, out))
            }
            Step::Iptables(family, kind, mut was, chains) => {
                let program = match kind {
                    Kind::Usual => netfilter.need_iptables(family).map_err(kernel)?,
                    Kind::Legacy => match netfilter.legacy(family, iptables::TABLE) {
                        Some(program) => program,
                        None => return Ok(()),
                    },
                };
                let nft = netfilter.nft()?;
                let mut taken = Vec::new();
                let planned =
                    netfilter.update_to_remove(&program, iptables::TABLE, |now, batch| {
                        taken = iptables::leave_out_taken(&mut was, now, &chains, claimant, nft)?;
                        iptables::plan_back(&was, now, &chains, batch);
                        Ok(())
                    });
                Error::join(planned.map_err(kernel).err().into_iter().chain(taken).collect())
            }
        }
    }
}
