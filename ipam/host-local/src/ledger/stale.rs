//! Leases whose owners have gone for certain, without a DEL: of a former boot, or
//! of a network namespace that has ended. They are not freed, but taken over when
//! a range has nothing else to give.
//!
//! What is not known for certain is in use: a lease of this boot that this program
//! has not made, or for a namespace it could not see.

use super::{Ledger, Owner, Turn, key_of};
use crate::index::{Entry, owner_key};
use crate::leases::{Holder, content};
use crate::range::{address, number};
use std::net::IpAddr;
use std::time::Duration;
use store::Result;

/// A lease that may be taken over, as it was found under the lock.
#[derive(Debug)]
pub(crate) struct Stale {
    pub(crate) ip: IpAddr,
    key: u64,
}

impl Ledger {
    /// The lease to take over among those of addresses that `may` be given: the
    /// oldest of a former boot, or else the oldest whose namespace has ended.
    pub(crate) fn stale(&self, may: &dyn Fn(IpAddr) -> bool) -> Result<Option<Stale>> {
        let mut entries = self.entries()?;
        entries.retain(|entry| may(address(entry.address)));
        entries.sort_unstable_by_key(|entry| (entry.made, entry.address));
        // Not known, nothing is of a former one.
        let booted = store::booted().unwrap_or(Duration::ZERO);
        let (former, mut present): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| of_former_boot(entry, self.boot, booted));
        if let Some(stale) = former.iter().find_map(|entry| self.verified(entry)) {
            return Ok(Some(stale));
        }
        present.retain(|entry| entry.boot != 0 && entry.namespace().is_some());
        let traces: Vec<_> = present.iter().filter_map(Entry::namespace).collect();
        let ended = linux::netns::ended(&traces);
        let mut dead = present.iter().zip(ended).filter(|(_, ended)| *ended);
        Ok(dead.find_map(|(entry, _)| self.verified(entry)))
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        match &self.known {
            super::Known::Index(index) => index.entries(),
            super::Known::Memory(found) => Ok(found.entries.clone()),
        }
    }

    /// Is the lease still the one that `entry` is about?
    fn verified(&self, entry: &Entry) -> Option<Stale> {
        let ip = address(entry.address);
        let (holder, made) = self.leases.found(ip);
        let is_it = made == entry.made && key_of(&holder) == Some(entry.owner);
        is_it.then_some(Stale { ip, key: entry.owner })
    }

    /// Gives the address of a stale lease to `owner`, and moves round robin on. The
    /// one becomes the other: there is no time when the address looks free.
    ///
    /// # Errors
    /// Then the lease is as it was.
    pub(crate) fn take_over(
        &mut self,
        stale: &Stale,
        owner: &Owner,
        turn: &mut Turn,
    ) -> Result<()> {
        self.touched = true;
        self.leases.set_turn(turn, stale.ip)?;
        self.rewrite(stale, &content(&owner.id), owner_key(&owner.id), owner)
    }

    /// `owner` goes on with the address it has, in the namespace and the boot of
    /// now: the lease must not look stale for those of then.
    pub(crate) fn renew(&mut self, ip: IpAddr, owner: &Owner) -> Result<()> {
        let (holder, made) = self.leases.found(ip);
        let Some(key) = key_of(&holder) else { return Ok(()) };
        let now = self.entry_of(number(ip), made, key, owner.netns);
        if now.boot != 0 && self.entries()?.contains(&now) {
            return Ok(());
        }
        let text = match holder {
            Holder::Attachment(id) => content(&id),
            Holder::Container(id) => id,
            Holder::Nobody | Holder::Unknown(_) => return Ok(()),
        };
        self.touched = true;
        self.rewrite(&Stale { ip, key }, &text, key, owner)
    }

    /// Replaces a lease, which stands under `before.key`, by one under `key`.
    fn rewrite(&mut self, before: &Stale, text: &str, key: u64, owner: &Owner) -> Result<()> {
        let n = number(before.ip);
        let made = self.leases.replace(before.ip, text, self.index_dir.as_ref())?;
        self.forget(&[(n, [before.key; 2])]);
        self.insert(self.entry_of(n, made, key, owner.netns));
        Ok(())
    }
}

/// Was the lease made before the machine was started last? `boot` is this boot,
/// 0 where it is not known; `booted` is when it began.
pub(super) fn of_former_boot(entry: &Entry, boot: u64, booted: Duration) -> bool {
    match entry.boot {
        0 => entry.made != 0 && Duration::from_nanos(entry.made) < booted,
        known => boot != 0 && known != boot as u32,
    }
}
