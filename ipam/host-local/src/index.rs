//! A shortcut through the leases: which addresses are taken, and which
//! addresses an attachment holds, without reading every lease.
//!
//! It is only a hint. It lies outside the directory with the leases, in
//! `<dataDir>/.oxcni/<network>/` (no network's name starts with a dot),
//! because upstream's program reads all files in that directory and takes what
//! they contain for leases. What it says about a lease is verified by reading
//! the lease; where it turns out wrong, or is missing, it is made anew from the
//! leases.
//!
//! | name | content |
//! |---|---|
//! | `pages` | [`Head`], then the [`Occupancy`]: [`Page`]s of 48 bytes |
//! | `owners` | a [`Table`] from attachments to addresses |
//!
//! **How it knows that nobody else has changed anything.** Every creation and
//! removal of a file sets the directory's modification time. After its own
//! changes this program sets it to a value of its own, the stamp, and writes it
//! into the head last of all. So the two differ after a change by anybody else,
//! and after a crash anywhere between. The stamp lies in the past, so the
//! kernel never sets it. A lease changed in place by hand is the one thing that
//! is not noticed; hence the verification.
//!
//! An index of a former boot is not trusted: after a power failure the disk may
//! hold any mixture of old and new.

mod overflow;
mod table;

pub(crate) use table::{Entry, owner_key};

use crate::occupancy::{Occupancy, Page};
use overflow::Overflow;
use store::{DataFile, Dir, Result};
use table::Table;

const PAGES: &str = "pages";
const OWNERS: &str = "owners";
const MODE: u32 = 0o600;
const MAGIC: u64 = u64::from_le_bytes(*b"oxcni hl");
const VERSION: u64 = 2;
const PAGE_BYTES: usize = 48;
/// Of a file of pages, in bytes: those of 5 million addresses that lie together, or of
/// 20,000 that lie apart. A larger one is none of ours.
const LARGEST: usize = 1 << 20;
/// Leases that are kept in memory: 192 KiB.
const MOST: usize = 4096;
/// 10 s, in nanoseconds: what separates a stamp from the clock. More than the
/// clock is ever set back by a time daemon that slews.
const STAMP_AGE: u64 = 10_000_000_000;

/// What stands in front of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    boot: u64,
    /// The directory's modification time that this index is about.
    stamp: u64,
    /// The same number stands in the table that belongs to these pages.
    build: u64,
    /// When the leases were last read, all of them; in seconds since 1970.
    walked: u64,
    /// Is there a lease of the old format?
    old_format: u64,
    /// Slots of the table, and how many have ever been used.
    capacity: u64,
    used: u64,
    pages: u64,
    /// Of the pages: the sum of [`mix`] over them, so that it can be kept up
    /// to date page by page.
    sum: u64,
}

impl Head {
    const BYTES: usize = 96;

    fn words(&self) -> [u64; 11] {
        let Head { boot, stamp, build, walked, old_format, capacity, used, pages, sum } = *self;
        [MAGIC, VERSION, boot, stamp, build, walked, old_format, capacity, used, pages, sum]
    }

    fn to_bytes(self) -> [u8; Head::BYTES] {
        let words = self.words();
        let mut bytes = [0; Head::BYTES];
        let own = words.into_iter().chain([mix(&words)]);
        for (slot, word) in bytes.chunks_exact_mut(8).zip(own) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Head> {
        let words = words::<12>(bytes)?;
        let [
            magic,
            version,
            boot,
            stamp,
            build,
            walked,
            old_format,
            capacity,
            used,
            pages,
            sum,
            own,
        ] = words;
        let head = Head { boot, stamp, build, walked, old_format, capacity, used, pages, sum };
        let is_ours = magic == MAGIC && version == VERSION && own == mix(&head.words());
        (is_ours && used <= capacity).then_some(head)
    }
}

/// The index as it is on the disk. Whatever it says, it was written by this
/// program and is in itself consistent.
#[derive(Debug)]
pub(crate) struct Index {
    head: Head,
    pages: DataFile,
    table: Table,
    occupied: Occupancy,
}

impl Index {
    /// Reads it; none when it is missing or damaged.
    pub(crate) fn read(dir: &Dir) -> Option<Index> {
        let pages = dir.open_data(PAGES).ok()?;
        let content = pages.read(LARGEST).ok()?;
        let head = Head::from_bytes(content.get(..Head::BYTES)?)?;
        let body = &content[Head::BYTES..];
        if body.len() as u64 != head.pages.checked_mul(PAGE_BYTES as u64)? {
            return None;
        }
        let read = |(place, bytes)| page_from_bytes(bytes, place);
        let list: Vec<Page> =
            body.chunks_exact(PAGE_BYTES).enumerate().map(read).collect::<Option<_>>()?;
        if sum(&list) != head.sum {
            return None;
        }
        let occupied = Occupancy::from_pages(list)?;
        let table = Table::open(dir.open_data(OWNERS).ok()?, head.build, head.capacity)?;
        Some(Index { head, pages, table, occupied })
    }

    /// Is it about the directory as it is now?
    pub(crate) fn is_current(&self, modified: u64, boot: u64) -> bool {
        self.head.stamp == modified && self.head.boot == boot
    }

    /// When the leases were last read, in seconds since 1970.
    pub(crate) fn walked(&self) -> u64 {
        self.head.walked
    }

    /// Might there be a lease of the old format?
    pub(crate) fn has_old_format(&self) -> bool {
        self.head.old_format != 0
    }

    pub(crate) fn occupied(&self) -> &Occupancy {
        &self.occupied
    }

    /// The addresses of the leases of `owner`, and perhaps others.
    pub(crate) fn held_by(&self, owner: u64) -> Result<Vec<u128>> {
        self.table.find(owner)
    }

    /// What is known of the lease of `address`, if it is this owner's.
    pub(crate) fn entry(&self, owner: u64, address: u128) -> Option<Entry> {
        self.table.get(owner, address).ok().flatten()
    }

    /// What is known of all leases, one by one.
    pub(crate) fn each_entry(&self, visit: &mut dyn FnMut(&Entry)) -> Result<()> {
        self.table.each(visit)
    }

    /// Which boot it was written in, the part that an [`Entry`] keeps.
    pub(crate) fn boot(&self) -> u32 {
        self.head.boot as u32
    }

    /// All of it, to be written anew. What is too much for the memory goes to `dir`.
    pub(crate) fn found(&self, dir: Option<&Dir>) -> Result<Found> {
        let mut found = Found {
            occupied: self.occupied.clone(),
            old_format: self.has_old_format(),
            ..Found::begin(self.walked(), usize::MAX)
        };
        self.each_entry(&mut |entry| found.push(*entry, dir))?;
        Ok(found)
    }

    /// Is there room in the table for `more` leases? It stays fast up to three
    /// quarters.
    pub(crate) fn has_room(&self, more: u64) -> bool {
        (self.head.used + more) * 4 <= self.head.capacity * 3
    }

    /// A lease was made; [`Index::has_room`] was asked before.
    pub(crate) fn insert(&mut self, entry: Entry) -> Result<()> {
        self.occupied.insert(entry.address);
        self.head.used += u64::from(self.table.insert(&entry)?);
        Ok(())
    }

    /// Nobody is known to have the address, but it cannot be given.
    pub(crate) fn occupy(&mut self, address: u128) {
        self.occupied.insert(address);
    }

    /// A lease was removed.
    pub(crate) fn remove(&mut self, owner: u64, address: u128) -> Result<()> {
        self.occupied.remove(address);
        self.table.remove(owner, address)
    }

    /// Writes what has changed, `stamp` last.
    pub(crate) fn save(&mut self, stamp: u64) -> Result<()> {
        let before = self.head.sum;
        let pages = self.occupied.take_changed();
        for page in &pages {
            let at = Head::BYTES + page.place * PAGE_BYTES;
            self.pages.write_at(at as u64, &page_to_bytes(page))?;
        }
        let all = self.occupied.pages();
        let sum = if pages.is_empty() { before } else { sum(all) };
        self.head = Head { stamp, pages: all.len() as u64, sum, ..self.head };
        self.pages.write_at(0, &self.head.to_bytes())
    }
}

/// What a walk over all leases found, to make an index of.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) entries: Vec<Entry>,
    overflow: Option<Overflow>,
    pub(crate) occupied: Occupancy,
    pub(crate) old_format: bool,
    /// When, in seconds since 1970.
    pub(crate) walked: u64,
}

impl Found {
    /// Nothing yet, at a time; at most `most` leases are to come.
    pub(crate) fn begin(walked: u64, most: usize) -> Found {
        // At once, because growing leaves pieces behind; what is not reached is not
        // real.
        Found { walked, entries: Vec::with_capacity(MOST.min(most)), ..Found::default() }
    }

    /// Adds a lease. Where there are too many for the memory, they go to a file in
    /// `dir`; what cannot be written stays in memory.
    pub(crate) fn push(&mut self, entry: Entry, dir: Option<&Dir>) {
        if !self.entries.is_empty()
            && self.entries.len().is_multiple_of(MOST)
            && let Some(dir) = dir
        {
            if self.overflow.is_none() {
                self.overflow = Overflow::new(dir).ok();
            }
            if let Some(overflow) = &mut self.overflow
                && overflow.add(&self.entries).is_ok()
            {
                self.entries.clear();
            }
        }
        self.entries.push(entry);
    }

    /// Are there too many for the memory?
    pub(crate) fn is_large(&self) -> bool {
        self.overflow.is_some()
    }

    /// Has them all in memory again.
    pub(crate) fn gather(&mut self) -> Result<()> {
        let entries = &mut self.entries;
        self.overflow.take().map_or(Ok(()), |list| list.each(&mut |entry| entries.push(*entry)))
    }

    /// Writes a new index.
    pub(crate) fn save(&mut self, dir: &Dir, boot: u64, stamp: u64) -> Result<()> {
        // Its own number, so that pages and table of two builds never mix.
        let build = stamp ^ mix(&[u64::from(std::process::id()), self.walked]);
        let pages: Vec<Page> =
            (0..).zip(self.occupied.pages()).map(|(place, page)| Page { place, ..*page }).collect();
        let overflow = self.overflow.as_ref();
        let count = self.entries.len() as u64 + overflow.map_or(0, Overflow::len);
        let capacity = Table::capacity_for(count);
        let head = Head {
            boot,
            stamp,
            build,
            walked: self.walked,
            old_format: u64::from(self.old_format),
            capacity,
            used: count,
            pages: pages.len() as u64,
            sum: sum(&pages),
        };
        let mut table = dir.create_data(OWNERS, MODE)?;
        Table::write(&mut table, &mut self.entries, overflow, build, capacity)?;
        let mut content = vec![0; Head::BYTES];
        for page in &pages {
            content.extend(page_to_bytes(page));
        }
        let mut file = dir.create_data(PAGES, MODE)?;
        // With a head of zeros first: a killed writer leaves no index.
        file.rewrite(&content)?;
        file.write_at(0, &head.to_bytes())
    }
}

/// A stamp for a directory: in the past, and another than `before`.
pub(crate) fn fresh_stamp(before: u64) -> u64 {
    let now = u64::try_from(store::now().as_nanos()).unwrap_or(u64::MAX);
    let stamp = now.saturating_sub(STAMP_AGE);
    if stamp == before { stamp + 1 } else { stamp }
}

fn page_to_bytes(page: &Page) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(page_words(page)) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn page_from_bytes(bytes: &[u8], place: usize) -> Option<Page> {
    let [low, high, a, b, c, d] = words::<6>(bytes)?;
    let prefix = u128::from(high) << 64 | u128::from(low);
    Some(Page { prefix, bits: [a, b, c, d], place })
}

fn page_words(page: &Page) -> [u64; 6] {
    let [a, b, c, d] = page.bits;
    [page.prefix as u64, (page.prefix >> 64) as u64, a, b, c, d]
}

fn sum(pages: &[Page]) -> u64 {
    pages.iter().fold(0, |sum: u64, page| sum.wrapping_add(mix(&page_words(page))))
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    (bytes.len() == 8 * N).then_some(words)
}

/// A checksum; the constants are those of MurmurHash3's finalizer.
fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |sum, word| {
        let mut x = sum ^ word;
        x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ x >> 33
    })
}

#[cfg(test)]
mod tests;
