//! Chains of iptables-nft as `iptables-save` would print them, and batches that
//! remove rules from them, by netlink: nothing is executed, nor need iptables be
//! installed any more.
//!
//! Words are found only for rules of a few matches and targets, see `words.rs`.

use super::batch::{Batch, Chain, Line, Rule, Saved};
use super::words::{is_understood, words_of};
use crate::error::{Error, Result};
use crate::nft::{self, Socket, Transaction};
use std::collections::BTreeSet;

/// What somebody wants to know of a table.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// Such as `nat`.
    pub table: &'a str,
    /// Chains of which every rule counts. None need be there.
    pub own: Vec<&'a str>,
    /// How the names of further such chains begin, which are read where a rule leads
    /// to one.
    pub own_start: Option<&'a str>,
    /// Chains of which only rules count that lead to one of those.
    pub others: Vec<&'a str>,
}

impl Part<'_> {
    fn is_own(&self, chain: &str) -> bool {
        self.own.contains(&chain) || self.own_start.is_some_and(|start| chain.starts_with(start))
    }
}

/// Some chains of a table of iptables-nft.
#[derive(Debug)]
pub struct Stored {
    table: nft::Table,
    saved: Saved,
    /// Of each rule of each chain.
    handles: Vec<Vec<u64>>,
}

impl Stored {
    /// Reads those of the chains that are there.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read(socket: &Socket, table: &nft::Table, chains: &[&str]) -> Result<Stored> {
        let mut stored =
            Stored { table: table.clone(), saved: Saved::default(), handles: Vec::new() };
        for name in chains {
            stored.read_chain(socket, name)?;
        }
        Ok(stored)
    }

    /// Reads a part of a table; `None` where a rule that counts has no words here.
    pub(super) fn read_part(
        socket: &Socket,
        table: &nft::Table,
        part: &Part,
    ) -> Result<Option<Stored>> {
        let mut stored = Stored::read(socket, table, &[&*part.own, &*part.others].concat())?;
        let mut at = 0;
        while let Some(chain) = stored.saved.chains.get(at) {
            let leads = |rule: &&Rule| rule.target().is_some_and(|name| part.is_own(name));
            let is_own = part.is_own(&chain.name);
            if chain.rules.iter().any(|rule| (is_own || leads(&rule)) && !is_understood(rule)) {
                return Ok(None);
            }
            let ahead = chain.rules.iter().filter(leads).filter_map(Rule::target);
            for name in ahead.map(str::to_owned).collect::<BTreeSet<_>>() {
                if stored.saved.chain(&name).is_none() {
                    stored.read_chain(socket, &name)?;
                }
            }
            at += 1;
        }
        Ok(Some(stored))
    }

    fn read_chain(&mut self, socket: &Socket, name: &str) -> Result<()> {
        let Some(chain) = socket.chain(&self.table, name)? else { return Ok(()) };
        let rules = socket.rules(&chain)?;
        self.handles.push(rules.iter().map(|rule| rule.handle.unwrap_or(0)).collect());
        let rules = rules.iter().map(words_of).collect();
        self.saved.chains.push(Chain { name: chain.name, rules });
        Ok(())
    }

    pub(super) fn into_saved(self) -> Saved {
        self.saved
    }

    /// The chains in words.
    #[must_use]
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Plans what a batch of removals ([`Batch::delete`], [`Batch::flush`],
    /// [`Batch::delete_chain`]) would do.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` for anything else, and for a rule that is not there.
    pub fn plan(&self, batch: &Batch, out: &mut Transaction) -> Result<()> {
        let mut left: Vec<Vec<(&Rule, u64)>> = Vec::new();
        for (chain, handles) in self.saved.chains.iter().zip(&self.handles) {
            left.push(chain.rules.iter().zip(handles.iter().copied()).collect());
        }
        for line in batch.lines() {
            let refused = || {
                let told = format!("{line:?} removes nothing that is there");
                Error::invalid(format!("change table {}", self.table.name), told)
            };
            let Line::Command(command, name, _, rule) = line else { return Err(refused()) };
            let at = self.saved.chains.iter().position(|chain| chain.name == *name);
            let rules = at.and_then(|at| left.get_mut(at)).ok_or_else(refused)?;
            let chain = nft::Chain::regular(&self.table, name.as_str());
            match (*command, rule) {
                ("-D", Some(rule)) => {
                    let found = rules.iter().position(|(there, _)| *there == rule);
                    let (_, handle) = rules.remove(found.ok_or_else(refused)?);
                    out.delete(nft::Rule::at(&chain, handle));
                }
                ("-F", None) => {
                    rules.clear();
                    out.flush(chain);
                }
                ("-X", None) => {
                    out.delete(chain);
                }
                _ => return Err(refused()),
            }
        }
        Ok(())
    }
}
