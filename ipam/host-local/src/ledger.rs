//! The leases of a network, under its lock, with the index as a shortcut.
//!
//! Each change is made to the leases first; [`Ledger::finish`] brings the index
//! up to date. A ledger that is dropped without it, or a process killed at any
//! point, leaves an index that does not fit the directory any more, which the
//! next one notices.

mod stale;
mod survey;

pub(crate) use stale::Stale;

use crate::conf::Place;
use crate::cooldown::Resting;
use crate::index::{self, Entry, Found, Index, owner_key};
use crate::leases::{Created, Holder, Leases, Turn};
use crate::occupancy::Occupancy;
use crate::range::{RangeSet, address, number};
use cni::AttachmentId;
use linux::netns::Trace;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use store::{Dir, Error, Result};

/// Where indexes are, in the data directory. No network has this name.
const INDEXES: &str = ".oxcni";
const INDEX_MODE: u32 = 0o700;
const DIR_MODE: u32 = 0o755;
/// In seconds: before a range is called exhausted, the leases are read once
/// more if that is longer ago, in case somebody removed one without the lock
/// at the very moment a verb was at work, so that it went unnoticed.
const DOUBT_AFTER: u64 = 60;

/// Leases of which GC makes an index. It has the list of all attachments in memory;
/// the index of more is left to the next verb.
const FEW: usize = 1024;

/// Leases that GC removes at once, after which it looks for more: what it is about to
/// remove is all in memory.
const LOT: usize = 2048;

/// Who gets an address.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) id: AttachmentId,
    /// The container's network namespace, where there is one.
    pub(crate) netns: Option<Trace>,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    leases: Leases,
    /// None when it cannot be had: then every verb reads all leases.
    index_dir: Option<Dir>,
    known: Known,
    /// Is that all there is to know? Else no index is made of it.
    complete: bool,
    /// Which boot this is; 0 is not known.
    boot: u64,
    /// In seconds since 1970.
    now: u64,
    /// The directory's modification time, as far as this program set it.
    stamp: u64,
    /// Has the directory been changed since then?
    touched: bool,
    /// None without `releaseCooldown`: then nothing is recorded.
    resting: Option<Resting>,
    /// The addresses whose leases this verb has removed.
    freed: Vec<IpAddr>,
}

/// Where knowledge of the leases comes from.
#[derive(Debug)]
enum Known {
    /// The index on the disk, which is changed in place.
    Index(Box<Index>),
    /// They were read just now, or the index outgrew its file: it will be
    /// written anew.
    Memory(Found),
}

impl Ledger {
    /// Opens the leases of a network, making their directory.
    ///
    /// # Errors
    /// [`Error::is_timed_out`], or the directory cannot be had.
    pub(crate) fn create(place: &Place) -> Result<Ledger> {
        let dir = Dir::create(place.dir(), DIR_MODE)?;
        let mut ledger = Ledger::new(place, dir)?;
        ledger.complete()?;
        Ok(ledger)
    }

    /// Opens the leases of a network, if it has any.
    ///
    /// # Errors
    /// As [`Ledger::create`].
    pub(crate) fn open(place: &Place) -> Result<Option<Ledger>> {
        let mut ledger = Ledger::open_to_sweep(place)?;
        ledger.as_mut().map_or(Ok(()), Ledger::complete)?;
        Ok(ledger)
    }

    /// The same for [`Ledger::sweep`] alone, which reads the leases itself.
    ///
    /// # Errors
    /// As [`Ledger::create`].
    pub(crate) fn open_to_sweep(place: &Place) -> Result<Option<Ledger>> {
        match Dir::open(place.dir()) {
            // Where nothing can be, no ADD has ever left anything.
            Err(e) if e.is_not_found() || e.is_no_place() => Ok(None),
            dir => match Ledger::new(place, dir?) {
                // An ADD had room for the directory and for nothing in it.
                Err(e) if e.is_full() && is_empty(&place.dir())? => Ok(None),
                ledger => ledger.map(Some),
            },
        }
    }

    fn new(place: &Place, dir: Dir) -> Result<Ledger> {
        let leases = Leases::lock(dir, place.lock_timeout)?;
        // Without the boot's identity an index could not be trusted.
        let boot = store::boot_id().map_or(0, |id| ((id >> 64) as u64 ^ id as u64).max(1));
        let index_dir = Some(place).filter(|_| boot != 0).and_then(|place| index_dir(place).ok());
        let now = store::now().as_secs();
        let resting =
            (place.cooldown > 0).then(|| Resting::read(index_dir.as_ref(), place.cooldown, now));
        let modified = leases.dir().modified()?;
        Ok(Ledger {
            leases,
            index_dir,
            known: Known::Memory(Found::default()),
            complete: false,
            boot,
            now,
            stamp: modified,
            touched: false,
            resting,
            freed: Vec::new(),
        })
    }

    /// Takes the index, if it is current.
    fn recall(&mut self) -> Option<Index> {
        let index = self.index_dir.as_ref().and_then(Index::read)?;
        if !index.is_current(self.stamp, self.boot) {
            return Some(index);
        }
        self.known = Known::Index(Box::new(index));
        self.complete = true;
        None
    }

    /// Learns all there is to know.
    fn complete(&mut self) -> Result<()> {
        let outdated = self.recall();
        if self.complete {
            return Ok(());
        }
        self.walk(outdated.as_ref(), usize::MAX, &mut |_, _, _| true)
    }

    pub(crate) fn dir(&self) -> &Dir {
        self.leases.dir()
    }

    /// Whose the lease of `ip` is.
    pub(crate) fn holder(&self, ip: IpAddr) -> Holder {
        self.leases.holder(ip)
    }

    /// Reads all leases, and knows of those that `keep` wants kept: those it does
    /// not are about to be removed. Of more than `most` it knows nothing. `previous`
    /// is an index, however old, whose knowledge of owners is kept where it is about
    /// the same leases.
    fn walk(
        &mut self,
        previous: Option<&Index>,
        most: usize,
        keep: &mut dyn FnMut(IpAddr, &Holder, u64) -> bool,
    ) -> Result<()> {
        // First, so that a change made meanwhile without the lock shows.
        self.set_stamp();
        let mut found = Found::begin(self.now, most);
        let mut left = most;
        self.leases.walk(|ip, holder, made| {
            if !keep(ip, &holder, made) || left == 0 {
                return;
            }
            left -= 1;
            let n = number(ip);
            if holder != Holder::Nobody {
                found.occupied.insert(n);
            }
            found.old_format |= matches!(holder, Holder::Container(_));
            if let Some(owner) = key_of(&holder) {
                let known = previous.and_then(|index| recorded(index, owner, n, made));
                let unknown = Entry { owner, address: n, made, boot: 0, netns: 0, netns_id: 0 };
                found.push(known.unwrap_or(unknown), self.index_dir.as_ref());
            }
        })?;
        self.known = self.settled(found)?;
        self.complete = left > 0;
        Ok(())
    }

    /// What there is to know, where it has to be: what is too much for the memory is
    /// written as an index at once.
    fn settled(&self, mut found: Found) -> Result<Known> {
        if found.is_large()
            && let Some(dir) = &self.index_dir
            && found.save(dir, self.boot, self.stamp).is_ok()
            && let Some(index) = Index::read(dir)
        {
            return Ok(Known::Index(Box::new(index)));
        }
        found.gather()?;
        Ok(Known::Memory(found))
    }

    /// Reads all leases because the index was wrong.
    fn walk_again(&mut self) -> Result<()> {
        let known = std::mem::replace(&mut self.known, Known::Memory(Found::default()));
        match known {
            Known::Index(index) => self.walk(Some(&index), usize::MAX, &mut |_, _, _| true),
            Known::Memory(_) => self.walk(None, usize::MAX, &mut |_, _, _| true),
        }
    }

    fn occupied(&self) -> &Occupancy {
        match &self.known {
            Known::Index(index) => index.occupied(),
            Known::Memory(found) => &found.occupied,
        }
    }

    /// The addresses `owner` holds, in order; leases of the old format count
    /// when there are no others.
    pub(crate) fn held_by(&mut self, owner: &AttachmentId) -> Result<Vec<IpAddr>> {
        let held =
            self.held(owner, |holder| matches!(holder, Holder::Attachment(id) if id == owner))?;
        let old_format = match &self.known {
            Known::Index(index) => index.has_old_format(),
            Known::Memory(found) => found.old_format,
        };
        if !held.is_empty() || !old_format {
            return Ok(held);
        }
        let all = AttachmentId { ifname: String::new(), ..owner.clone() };
        self.held(
            &all,
            |holder| matches!(holder, Holder::Container(id) if *id == owner.container_id),
        )
    }

    fn held(
        &mut self,
        owner: &AttachmentId,
        is_his: impl Fn(&Holder) -> bool,
    ) -> Result<Vec<IpAddr>> {
        let key = owner_key(owner);
        loop {
            let candidates = match &self.known {
                Known::Index(index) => index.held_by(key).ok(),
                Known::Memory(found) => {
                    let his = found.entries.iter().filter(|entry| entry.owner == key);
                    Some(his.map(|entry| entry.address).collect())
                }
            };
            let verified = candidates.map(|mut list: Vec<u128>| {
                list.sort_unstable();
                list.dedup();
                let count = list.len();
                let mut list: Vec<IpAddr> = list.into_iter().map(address).collect();
                list.retain(|ip| is_his(&self.leases.holder(*ip)));
                (list.len() == count, list)
            });
            match (verified, &self.known) {
                (Some((true, list)), _) | (Some((_, list)), Known::Memory(_)) => return Ok(list),
                // What the index says is not so; what is so it does not say.
                _ => self.walk_again()?,
            }
        }
    }

    /// An address of `set` that could be given now, after `last`. Addresses
    /// that rest are taken when there are no others, the longest rested first.
    pub(crate) fn next_free(
        &mut self,
        set: &RangeSet,
        last: Option<IpAddr>,
    ) -> Result<Option<IpAddr>> {
        loop {
            let occupied = self.occupied();
            let rests = |n| self.resting.as_ref().is_some_and(|resting| resting.contains(n));
            let may = |n| {
                let ip = address(n);
                set.range_of(ip).is_some() && set.refusal(ip).is_none() && !occupied.contains(n)
            };
            let found = set
                .next_free(last.map(number), occupied, &rests)
                .or_else(|| self.resting.as_ref()?.oldest(may));
            match (&self.known, found) {
                (Known::Index(index), None)
                    if !(index.walked()..=index.walked() + DOUBT_AFTER).contains(&self.now) =>
                {
                    self.walk_again()?;
                }
                _ => return Ok(found.map(address)),
            }
        }
    }

    /// The state of round robin in range set `set`.
    pub(crate) fn turn(&self, set: usize) -> Result<Turn> {
        self.leases.turn(set)
    }

    /// Gives `ip` to `owner`, and moves round robin on; or says who has it.
    ///
    /// # Errors
    /// Nothing was given.
    pub(crate) fn reserve(
        &mut self,
        ip: IpAddr,
        owner: &Owner,
        turn: &mut Turn,
    ) -> Result<Option<Holder>> {
        let n = number(ip);
        self.touched = true;
        // Before the lease, so that the lease is all there is to undo.
        self.leases.set_turn(turn, ip)?;
        match self.leases.create(ip, &owner.id, self.index_dir.as_ref())? {
            Created::At(made) => {
                self.insert(self.entry_of(n, made, owner_key(&owner.id), owner.netns));
                Ok(None)
            }
            Created::Taken(holder) => {
                if !self.occupied().contains(n) {
                    self.walk_again()?;
                    match &mut self.known {
                        Known::Index(index) => index.occupy(n),
                        Known::Memory(found) => found.occupied.insert(n),
                    }
                }
                Ok(Some(holder))
            }
        }
    }

    /// Of a lease that was made just now.
    fn entry_of(&self, address: u128, made: u64, owner: u64, netns: Option<Trace>) -> Entry {
        let boot = self.boot as u32;
        Entry { owner, address, made, boot, netns: 0, netns_id: 0 }.with_namespace(netns)
    }

    fn insert(&mut self, entry: Entry) {
        if let Known::Index(index) = &self.known
            && !index.has_room(1)
            && let Ok(known) =
                index.found(self.index_dir.as_ref()).and_then(|found| self.settled(found))
        {
            self.known = known;
        }
        match &mut self.known {
            Known::Index(index) => {
                if index.insert(entry).is_err() {
                    self.index_dir = None;
                }
            }
            Known::Memory(found) => {
                found.occupied.insert(entry.address);
                found.entries.push(entry);
            }
        }
    }

    /// Takes back addresses that `holder` has; goes on after an error.
    pub(crate) fn release(&mut self, ips: &[IpAddr], holder: &AttachmentId) -> Vec<Error> {
        let old_format = AttachmentId { ifname: String::new(), ..holder.clone() };
        let keys = [owner_key(holder), owner_key(&old_format)];
        let leases: Vec<(IpAddr, [u64; 2])> = ips.iter().map(|ip| (*ip, keys)).collect();
        self.remove(&leases)
    }

    /// The same for addresses that were given just now and never used: they
    /// need no rest.
    pub(crate) fn take_back(&mut self, ips: &[IpAddr], holder: &AttachmentId) -> Vec<Error> {
        let resting = self.resting.take();
        let errors = self.release(ips, holder);
        self.resting = resting;
        errors
    }

    /// The addresses that are free by now because of this verb.
    pub(crate) fn freed(&self) -> &[IpAddr] {
        &self.freed
    }

    /// Removes leases, which stand under one of the two keys.
    fn remove(&mut self, leases: &[(IpAddr, [u64; 2])]) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut removed = Vec::with_capacity(leases.len());
        for (ip, keys) in leases {
            self.touched = true;
            match self.leases.remove(*ip) {
                Ok(()) => {
                    removed.push((number(*ip), *keys));
                    self.freed.push(*ip);
                }
                Err(e) => errors.push(e),
            }
        }
        removed.sort_unstable_by_key(|(n, _)| *n);
        if let Some(resting) = &mut self.resting {
            removed.iter().for_each(|(n, _)| resting.add(*n, self.now));
        }
        self.forget(&removed);
        errors
    }

    /// Leases, in the order of their addresses, do not stand under these keys any
    /// more.
    fn forget(&mut self, removed: &[(u128, [u64; 2])]) {
        match &mut self.known {
            Known::Index(index) => {
                for (n, keys) in removed {
                    if keys.iter().any(|key| index.remove(*key, *n).is_err()) {
                        self.index_dir = None;
                    }
                }
            }
            Known::Memory(found) => {
                removed.iter().for_each(|(n, _)| found.occupied.remove(*n));
                let gone =
                    |entry: &Entry| removed.binary_search_by_key(&{ entry.address }, |r| r.0);
                found.entries.retain(|entry| gone(entry).is_err());
            }
        }
    }

    /// Removes every lease whose holder is not to `keep`, but for those made at a
    /// time that is `young`, in nanoseconds since 1970; goes on after an error. `tell`
    /// hears which ones are gone, lot by lot.
    ///
    /// # Errors
    /// The leases could not be read.
    pub(crate) fn sweep(
        &mut self,
        young: RangeInclusive<u64>,
        keep: impl Fn(&Holder) -> bool,
        mut tell: impl FnMut(&[IpAddr]),
    ) -> Result<Vec<Error>> {
        let outdated = self.recall();
        let mut lot = LOT;
        loop {
            let (mut doomed, mut are_more) = (Vec::new(), false);
            let mut stays = |ip, holder: &Holder, made| {
                let odd = matches!(holder, Holder::Unknown(_));
                let stays = odd || young.contains(&made) || keep(holder);
                if !stays && doomed.len() < lot {
                    let key = key_of(holder).unwrap_or_default();
                    doomed.push((ip, [key, key]));
                } else {
                    are_more |= !stays;
                }
                stays
            };
            match self.complete {
                true => self.leases.walk(|ip, holder, made| _ = stays(ip, &holder, made))?,
                false => self.walk(outdated.as_ref(), FEW, &mut stays)?,
            }
            // What cannot be removed is met again with each lot.
            let errors = self.remove(&doomed);
            if self.freed.is_empty() {
                lot *= 2;
            }
            tell(&self.freed);
            self.freed.clear();
            if !are_more {
                // What could not be removed is not among what is known.
                self.complete &= errors.is_empty() || matches!(self.known, Known::Index(_));
                return Ok(errors);
            }
        }
    }

    /// Sets the directory's modification time to a value that only this
    /// program sets. Where that cannot be done, there is no index.
    fn set_stamp(&mut self) {
        if self.index_dir.is_none() {
            return;
        }
        let stamp = index::fresh_stamp(self.stamp);
        let dir = self.leases.dir();
        // Read back, because not every file system keeps nanoseconds.
        let kept = dir.set_modified(stamp).and_then(|()| dir.modified());
        match kept {
            Ok(kept) if kept == stamp => {
                self.stamp = stamp;
                self.touched = false;
            }
            _ => self.index_dir = None,
        }
    }

    /// Brings the index up to date. That it cannot be written is no error:
    /// then the next verb reads all leases.
    pub(crate) fn finish(mut self) {
        if self.touched && self.complete {
            self.set_stamp();
        } else if !self.touched && matches!(self.known, Known::Index(_)) {
            return;
        }
        let Some(dir) = &self.index_dir else { return };
        let _ = match &mut self.known {
            _ if !self.complete => Ok(()),
            Known::Index(index) => index.save(self.stamp),
            Known::Memory(found) => found.save(dir, self.boot, self.stamp),
        };
        if let Some(resting) = &mut self.resting {
            let _ = resting.save(dir);
        }
    }
}

fn index_dir(place: &Place) -> Result<Dir> {
    let all = place.data_dir.join(INDEXES);
    Dir::create(all, INDEX_MODE)?.create_below(&place.network, INDEX_MODE)
}

/// What an index, however old, knows of the lease that `owner` has of `address`
/// since `made`.
fn recorded(index: &Index, owner: u64, address: u128, made: u64) -> Option<Entry> {
    let entry = index.entry(owner, address).filter(|entry| entry.made == made)?;
    // Whoever made it, it was there when the index was written.
    Some(Entry { boot: if entry.boot == 0 { index.boot() } else { entry.boot }, ..entry })
}

/// What the holder of a lease stands under in the index.
fn key_of(holder: &Holder) -> Option<u64> {
    match holder {
        Holder::Attachment(id) => Some(owner_key(id)),
        Holder::Container(id) => {
            Some(owner_key(&AttachmentId { container_id: id.clone(), ifname: String::new() }))
        }
        Holder::Nobody | Holder::Unknown(_) => None,
    }
}

fn is_empty(path: &std::path::Path) -> Result<bool> {
    let mut empty = true;
    Dir::open(path)?.each(|_, _| {
        empty = false;
        Ok::<_, Error>(())
    })?;
    Ok(empty)
}

#[cfg(test)]
mod tests;
