//! Leases that a walk has no room for in memory: a list in a file without a name,
//! which is gone with this process. A table is written from it part by part.

use super::table::{Entry, SLOT, home};
use store::{DataFile, Dir, Result};

/// Leases read at once: 24 KiB.
const LOT: usize = 512;

/// Leases sorted together, about: 192 KiB.
const PART: u64 = 4096;

#[derive(Debug)]
pub(super) struct Overflow {
    file: DataFile,
    count: u64,
}

impl Overflow {
    /// Beside the index.
    ///
    /// # Errors
    /// There is no such file here, or no room.
    pub(super) fn new(dir: &Dir) -> Result<Overflow> {
        Ok(Overflow { file: dir.create_unnamed()?, count: 0 })
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// # Errors
    /// It cannot be written; then none of these are on it.
    pub(super) fn add(&mut self, entries: &[Entry]) -> Result<()> {
        for (lot, entries) in (0..).zip(entries.chunks(LOT)) {
            let bytes = entries.iter().flat_map(|entry| entry.to_bytes()).collect::<Vec<u8>>();
            self.file.write_at(place(self.count + lot * LOT as u64), &bytes)?;
        }
        self.count += entries.len() as u64;
        Ok(())
    }

    pub(super) fn each(&self, visit: &mut dyn FnMut(&Entry)) -> Result<()> {
        let mut bytes = vec![0; LOT * SLOT];
        for first in (0..self.count).step_by(LOT) {
            let lot = &mut bytes[..SLOT * (self.count - first).min(LOT as u64) as usize];
            self.file.read_at(place(first), lot)?;
            lot.chunks_exact(SLOT).filter_map(Entry::from_bytes).for_each(|entry| visit(&entry));
        }
        Ok(())
    }
}

fn place(entry: u64) -> u64 {
    entry * SLOT as u64
}

/// All of both lists by their keys, in memory only those of some keys at a time.
pub(super) fn by_key(
    entries: &mut [Entry],
    overflow: Option<&Overflow>,
    visit: &mut dyn FnMut(&Entry) -> Result<()>,
) -> Result<()> {
    let Some(overflow) = overflow else {
        entries.sort_unstable_by_key(|entry| entry.owner);
        return entries.iter().try_for_each(visit);
    };
    // Keys are hashes: parts of all that there may be have about as many.
    let parts = (entries.len() as u64 + overflow.count) / PART + 1;
    let mut some = Vec::with_capacity(2 * PART as usize);
    for part in 0..parts {
        some.clear();
        let mut choose = |entry: &Entry| {
            if home(entry.owner, parts) == part {
                some.push(*entry);
            }
        };
        overflow.each(&mut choose)?;
        entries.iter().for_each(choose);
        some.sort_unstable_by_key(|entry| entry.owner);
        some.iter().try_for_each(&mut *visit)?;
    }
    Ok(())
}
