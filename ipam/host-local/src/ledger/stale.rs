//! Leases whose owners have gone for certain, without a DEL: of a former boot, or
//! of a network namespace that has ended. They are not freed, but taken over when
//! a range has nothing else to give, or when their own attachment comes again.
//!
//! What is not known for certain is in use: a lease of this boot that this program
//! has not made, or for a namespace it could not see.

use super::{Ledger, Owner, Turn, key_of};
use crate::index::{Entry, owner_key};
use crate::leases::{Holder, content};
use crate::range::{address, number};
use cni::AttachmentId;
use cni::plugin::Forget;
use std::net::IpAddr;
use std::time::Duration;
use store::Result;

/// Stale leases looked at together; nearly always the first of them is still there.
const FEW: usize = 16;

/// When a lease was made, and of which address it is: no two have the same.
type Age = (u64, u128);

fn age(entry: &Entry) -> Age {
    (entry.made, entry.address)
}

/// A lease that may be taken over, as it was found under the lock.
#[derive(Debug)]
pub(crate) struct Stale {
    pub(crate) ip: IpAddr,
    key: u64,
    holder: Holder,
}

impl Stale {
    /// Has whoever had it forgotten, before it becomes `heir`'s. In the old format the
    /// interface is not told: it is believed to be named alike.
    ///
    /// # Errors
    /// Then it must not become the heir's.
    pub(crate) fn forget(&self, heir: &Owner, forget: Forget) -> cni::Result<()> {
        match &self.holder {
            Holder::Attachment(dead) => forget(dead, self.ip),
            Holder::Container(id) => {
                forget(&AttachmentId { container_id: id.clone(), ..heir.id.clone() }, self.ip)
            }
            Holder::Nobody | Holder::Unknown(_) => Ok(()),
        }
    }
}

impl Ledger {
    /// The lease to take over among those of addresses that `may` be given: the
    /// oldest of a former boot, or else the oldest whose namespace has ended.
    pub(crate) fn stale(&self, may: &dyn Fn(IpAddr) -> bool) -> Result<Option<Stale>> {
        // Not known, nothing is of a former one.
        let booted = store::booted().unwrap_or(Duration::ZERO);
        let is_former =
            |entry: &Entry| of_former_boot(entry, self.boot, booted) && may(address(entry.address));
        let former = self.first_verified(&mut |after| self.oldest(after, &mut { is_former }))?;
        if former.is_some() {
            return Ok(former);
        }
        let namespace = |entry: &Entry| {
            let known = entry.namespace().filter(|_| entry.boot != 0)?;
            (!of_former_boot(entry, self.boot, booted) && may(address(entry.address)))
                .then_some(known)
        };
        let mut traces = Vec::new();
        self.each_entry(&mut |entry| traces.extend(namespace(entry)))?;
        let ended = linux::netns::ended(&traces);
        drop(traces);
        self.first_verified(&mut |after| {
            let mut ended = ended.iter();
            self.oldest(after, &mut |entry| {
                namespace(entry).is_some() && ended.next() == Some(&true)
            })
        })
    }

    /// The first lease that is still there of those that `next` lists: some behind an
    /// age, or none.
    fn first_verified(
        &self,
        next: &mut dyn FnMut(Option<Age>) -> Result<Vec<Entry>>,
    ) -> Result<Option<Stale>> {
        let mut after = None;
        loop {
            let some = next(after)?;
            let Some(last) = some.last() else { return Ok(None) };
            after = Some(age(last));
            if let Some(stale) = some.iter().find_map(|entry| self.verified(entry)) {
                return Ok(Some(stale));
            }
        }
    }

    /// Of the leases behind an age that are meant, the oldest [`FEW`], in order.
    fn oldest(
        &self,
        after: Option<Age>,
        is_meant: &mut dyn FnMut(&Entry) -> bool,
    ) -> Result<Vec<Entry>> {
        let mut oldest: Vec<Entry> = Vec::with_capacity(FEW + 1);
        self.each_entry(&mut |entry| {
            let is_before = |last: Age| age(entry) <= last;
            if !is_meant(entry) || after.is_some_and(is_before) {
                return;
            }
            if oldest.len() < FEW || oldest.last().is_some_and(|last| age(entry) < age(last)) {
                let at = oldest.partition_point(|other| age(other) < age(entry));
                oldest.insert(at, *entry);
                oldest.truncate(FEW);
            }
        })?;
        Ok(oldest)
    }

    /// All of what is known, in the same order each time.
    fn each_entry(&self, visit: &mut dyn FnMut(&Entry)) -> Result<()> {
        match &self.known {
            super::Known::Index(index) => index.each_entry(visit),
            super::Known::Memory(found) => {
                found.entries.iter().for_each(visit);
                Ok(())
            }
        }
    }

    /// Is this known, all of it?
    fn knows(&self, entry: &Entry) -> bool {
        match &self.known {
            super::Known::Index(index) => index.entry(entry.owner, entry.address) == Some(*entry),
            super::Known::Memory(found) => found.entries.contains(entry),
        }
    }

    /// Is the lease still the one that `entry` is about?
    fn verified(&self, entry: &Entry) -> Option<Stale> {
        let ip = address(entry.address);
        let (holder, made) = self.leases.found(ip);
        let is_it = made == entry.made && key_of(&holder) == Some(entry.owner);
        is_it.then_some(Stale { ip, key: entry.owner, holder })
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
        self.rewrite((stale.ip, stale.key), &content(&owner.id), owner_key(&owner.id), owner)
    }

    /// Gives `owner` the address of its own stale lease again.
    ///
    /// # Errors
    /// Then the lease is as it was.
    pub(crate) fn resume(&mut self, stale: &Stale, owner: &Owner) -> Result<()> {
        self.touched = true;
        self.rewrite((stale.ip, stale.key), &content(&owner.id), owner_key(&owner.id), owner)
    }

    /// `owner` goes on with the address it has, in the namespace and the boot of
    /// now: the lease must not look stale for those of then.
    pub(crate) fn renew(&mut self, ip: IpAddr, owner: &Owner) -> Result<()> {
        let (holder, made) = self.leases.found(ip);
        let Some(key) = key_of(&holder) else { return Ok(()) };
        let now = self.entry_of(number(ip), made, key, owner.netns);
        if now.boot != 0 && self.knows(&now) {
            return Ok(());
        }
        let text = match holder {
            Holder::Attachment(id) => content(&id),
            Holder::Container(id) => id,
            Holder::Nobody | Holder::Unknown(_) => return Ok(()),
        };
        self.touched = true;
        self.rewrite((ip, key), &text, key, owner)
    }

    /// Replaces the lease of `ip`, which stands under `before`, by one under `key`.
    fn rewrite(
        &mut self,
        (ip, before): (IpAddr, u64),
        text: &str,
        key: u64,
        owner: &Owner,
    ) -> Result<()> {
        let n = number(ip);
        let made = self.leases.replace(ip, text, self.index_dir.as_ref())?;
        self.forget(&[(n, [before; 2])]);
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
