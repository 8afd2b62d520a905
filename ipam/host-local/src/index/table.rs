//! A hash table in a file, from attachments to the addresses they hold: open
//! addressing with linear probing, a slot per lease, read and written in place.
//!
//! The key is a hash of container and interface. Two attachments of the same
//! hash do no harm: each lease has its own slot, and who asks reads the leases
//! to see which are his.

use super::overflow::{Overflow, by_key};
use super::{mix, words};
use cni::AttachmentId;
use linux::netns::Trace;
use store::{DataFile, Result};

/// A lease. Boot and namespace are kept because the lease's own format has no
/// room for them: they tell whether its owner can still be alive.
// Packed, because many are in memory at once: 48 bytes in place of 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(8))]
pub(crate) struct Entry {
    /// [`owner_key`]
    pub(crate) owner: u64,
    pub(crate) address: u128,
    /// The lease's modification time, in nanoseconds since 1970: an entry of
    /// another lease of the same address is not mistaken for this one's.
    pub(crate) made: u64,
    /// Of the boot it was made in; 0 is not known. A part of the boot ID will
    /// do: that it is mistaken for another's has a chance of 1 in 2^32, and
    /// then a dead owner is taken for a live one.
    pub(crate) boot: u32,
    /// Inode of the owner's network namespace; 0 is not known.
    pub(crate) netns: u32,
    /// Which namespace of this boot it is; 0 is not known.
    pub(crate) netns_id: u64,
}

/// What stands for an attachment in the table; for a lease of the old format
/// the interface is empty.
pub(crate) fn owner_key(owner: &AttachmentId) -> u64 {
    let bytes = owner.container_id.bytes().chain([0]).chain(owner.ifname.bytes());
    // FNV-1a, the 64-bit variant.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Its low bits are good, its high ones, which choose the slot, are not.
    mix(&[hash]).clamp(EMPTY + 1, REMOVED - 1)
}

/// Keys with a meaning of their own.
const EMPTY: u64 = 0;
const REMOVED: u64 = u64::MAX;

pub(super) const SLOT: usize = 48;
const HEAD: usize = 16;
const MAGIC: u64 = u64::from_le_bytes(*b"oxcni ow");
/// Slots read at once: nearly every search ends in the first lot.
const LOT: u64 = 32;
/// 12 KiB.
const LEAST_CAPACITY: u64 = 256;
/// Slots written, or read, at once where all are: 24 KiB.
const MANY: u64 = 512;

impl Entry {
    pub(super) fn to_bytes(self) -> [u8; SLOT] {
        let last = u64::from(self.boot) << 32 | u64::from(self.netns);
        let (low, high) = (self.address as u64, (self.address >> 64) as u64);
        let words = [self.owner, low, high, self.made, last, self.netns_id];
        let mut bytes = [0; SLOT];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Entry> {
        let [owner, low, high, made, last, netns_id] = words::<6>(bytes)?;
        Some(Entry {
            owner,
            address: u128::from(high) << 64 | u128::from(low),
            made,
            boot: (last >> 32) as u32,
            netns: last as u32,
            netns_id,
        })
    }

    /// The owner's namespace, where it is known.
    pub(crate) fn namespace(&self) -> Option<Trace> {
        (self.netns != 0).then_some(Trace { number: self.netns, id: self.netns_id })
    }

    /// The same with the owner's namespace.
    pub(crate) fn with_namespace(self, namespace: Option<Trace>) -> Entry {
        let (netns, netns_id) = namespace.map_or((0, 0), |trace| (trace.number, trace.id));
        Entry { netns, netns_id, ..self }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    file: DataFile,
    capacity: u64,
}

impl Table {
    /// Slots for `leases` and half as many more before it has to grow.
    pub(super) fn capacity_for(leases: u64) -> u64 {
        (leases * 2).max(LEAST_CAPACITY)
    }

    /// None when it is not the table of `build` and `capacity`.
    pub(super) fn open(file: DataFile, build: u64, capacity: u64) -> Option<Table> {
        let length = capacity.checked_mul(SLOT as u64)?.checked_add(HEAD as u64)?;
        let mut head = [0; HEAD];
        file.read_at(0, &mut head).ok()?;
        let fits = capacity > 0 && file.length() == length && words(&head)? == [MAGIC, build];
        fits.then_some(Table { file, capacity })
    }

    /// Writes a new one, from front to back: the slots where the searches for
    /// keys begin ascend with the keys. Fewer entries than `capacity`.
    pub(super) fn write(
        file: &mut DataFile,
        entries: &mut [Entry],
        overflow: Option<&Overflow>,
        build: u64,
        capacity: u64,
    ) -> Result<()> {
        let count = entries.len() as u64 + overflow.map_or(0, Overflow::len);
        let mut end = 0;
        by_key(entries, overflow, &mut |entry| {
            end = home(entry.owner, capacity).max(end) + 1;
            Ok(())
        })?;
        // So many find no room before the end, and are at the beginning.
        let over = end.saturating_sub(capacity);
        file.set_length(0)?;
        file.set_length(byte(capacity) as u64)?;
        let mut writer = Writer::new(file, build);
        if over > 0 {
            let mut before = count - over;
            by_key(entries, overflow, &mut |entry| match before {
                0 => writer.put(0, entry),
                _ => {
                    before -= 1;
                    Ok(())
                }
            })?;
        }
        let mut left = count - over;
        by_key(entries, overflow, &mut |entry| match left {
            0 => Ok(()),
            _ => {
                left -= 1;
                writer.put(home(entry.owner, capacity), entry)
            }
        })?;
        writer.flush()
    }

    /// Visits the slots where `key` may be, until `visit` returns something or
    /// an empty slot was visited.
    fn probe<T>(
        &self,
        key: u64,
        mut visit: impl FnMut(u64, &Entry) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut at = home(key, self.capacity);
        let mut left = self.capacity;
        let mut bytes = [0; LOT as usize * SLOT];
        while left > 0 {
            let count = LOT.min(left).min(self.capacity - at);
            let lot = &mut bytes[..count as usize * SLOT];
            // A short read leaves zeros, which are empty slots.
            lot.fill(0);
            self.file.read_at(byte(at) as u64, lot)?;
            for (slot, bytes) in (at..).zip(lot.chunks_exact(SLOT)) {
                let entry = Entry::from_bytes(bytes).expect("a slot has the length of an entry");
                let found = visit(slot, &entry);
                if found.is_some() || entry.owner == EMPTY {
                    return Ok(found);
                }
            }
            at = (at + count) % self.capacity;
            left -= count;
        }
        Ok(None)
    }

    pub(super) fn find(&self, key: u64) -> Result<Vec<u128>> {
        let mut found = Vec::new();
        self.probe(key, |_, entry| {
            if entry.owner == key {
                found.push(entry.address);
            }
            None::<()>
        })?;
        Ok(found)
    }

    pub(super) fn get(&self, key: u64, address: u128) -> Result<Option<Entry>> {
        self.probe(key, |_, e| (e.owner == key && e.address == address).then_some(*e))
    }

    /// True when it took a slot that was never used before.
    pub(super) fn insert(&mut self, new: &Entry) -> Result<bool> {
        let free = |entry: &Entry| entry.owner == EMPTY || entry.owner == REMOVED;
        let found = self.probe(new.owner, |slot, entry| free(entry).then_some((slot, *entry)))?;
        let (slot, entry) = found.ok_or_else(|| self.file.error("insert into", "it is full"))?;
        self.file.write_at(byte(slot) as u64, &new.to_bytes())?;
        Ok(entry.owner == EMPTY)
    }

    pub(super) fn remove(&mut self, key: u64, address: u128) -> Result<()> {
        let is_it = |entry: &Entry| entry.owner == key && entry.address == address;
        let found = self.probe(key, |slot, entry| is_it(entry).then_some(slot))?;
        let Some(slot) = found else { return Ok(()) };
        self.file.write_at(byte(slot) as u64, &REMOVED.to_le_bytes())
    }

    /// Visits all of them, from the first slot to the last.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&Entry)) -> Result<()> {
        let live = |entry: &Entry| entry.owner != EMPTY && entry.owner != REMOVED;
        let mut bytes = vec![0; MANY as usize * SLOT];
        for slot in (0..self.capacity).step_by(MANY as usize) {
            let count = MANY.min(self.capacity - slot) as usize;
            let lot = &mut bytes[..count * SLOT];
            lot.fill(0);
            self.file.read_at(byte(slot) as u64, lot)?;
            let entries = lot.chunks_exact(SLOT).filter_map(Entry::from_bytes);
            entries.filter(live).for_each(|entry| visit(&entry));
        }
        Ok(())
    }
}

/// Fills slots from front to back.
struct Writer<'f> {
    file: &'f DataFile,
    /// What comes next in the file, and from where on.
    bytes: Vec<u8>,
    start: usize,
    next: u64,
}

impl Writer<'_> {
    fn new(file: &DataFile, build: u64) -> Writer<'_> {
        let mut bytes = Vec::with_capacity(byte(MANY));
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(build.to_le_bytes());
        Writer { file, bytes, start: 0, next: 0 }
    }

    /// Puts an entry into the first free slot at `home` or behind.
    fn put(&mut self, home: u64, entry: &Entry) -> Result<()> {
        let slot = home.max(self.next);
        self.next = slot + 1;
        if byte(self.next) - self.start > self.bytes.capacity() {
            self.flush()?;
            self.start = byte(slot);
        }
        // Empty slots are zeros.
        self.bytes.resize(byte(slot) - self.start, 0);
        self.bytes.extend(entry.to_bytes());
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(self.start as u64, &self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}

/// The slot where the search for `key` begins.
pub(super) fn home(key: u64, capacity: u64) -> u64 {
    ((u128::from(key) * u128::from(capacity)) >> 64) as u64
}

/// Where a slot lies in the file.
fn byte(slot: u64) -> usize {
    HEAD + slot as usize * SLOT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::temporary::Temporary;
    use proptest::prelude::*;
    use store::Dir;

    const BUILD: u64 = 7;

    fn table(entries: &mut [Entry], capacity: u64) -> (Temporary, Table) {
        let temporary = Temporary::new();
        let dir = Dir::open(temporary.path()).expect("made");
        let mut file = dir.create_data("t", 0o600).expect("made");
        Table::write(&mut file, entries, None, BUILD, capacity).expect("written");
        let file = dir.open_data("t").expect("there");
        (temporary, Table::open(file, BUILD, capacity).expect("it is the one"))
    }

    fn all_of(table: &Table) -> Vec<Entry> {
        let mut all = Vec::new();
        table.each(&mut |entry| all.push(*entry)).expect("readable");
        all
    }

    fn entry(owner: u64, address: u128) -> Entry {
        Entry {
            owner,
            address,
            made: address as u64 ^ 5,
            boot: u32::MAX - 1,
            netns: 0xf000_0001,
            netns_id: owner ^ 3,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a list. The keys are few and close, so that searches run
        /// into each other and round the end of the file.
        #[test]
        fn is_a_map_to_many(
            first in prop::collection::btree_set((0_usize..6, 0_u128..40), 0..20),
            steps in prop::collection::vec((any::<bool>(), 0_usize..6, 0_u128..40), 0..200),
        ) {
            let keys = [1, 2, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 2, u64::MAX - 1];
            let mut model: Vec<Entry> = first.iter().map(|(k, a)| entry(keys[*k], *a)).collect();
            let (_temporary, mut table) = table(&mut model, 70);
            let mut used = model.len() as u64;
            for (insert, key, address) in steps {
                let new = entry(keys[key], address);
                let at = model.iter().position(|e| *e == new);
                match (insert, at) {
                    (true, None) if used < 69 => {
                        used += u64::from(table.insert(&new).expect("there is room"));
                        model.push(new);
                    }
                    (false, Some(at)) => {
                        table.remove(new.owner, address).expect("removed");
                        model.remove(at);
                    }
                    (false, None) => table.remove(new.owner, address).expect("nothing to do"),
                    _ => {}
                }
            }
            for key in keys {
                let mut found = table.find(key).expect("readable");
                let mut expected: Vec<u128> = model.iter().filter(|e| e.owner == key).map(|e| e.address).collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
            let order = |e: &Entry| (e.owner, e.address);
            let mut all = all_of(&table);
            all.sort_unstable_by_key(order);
            model.sort_unstable_by_key(order);
            prop_assert_eq!(all, model);
        }
    }

    /// Larger than what is written at once, and with keys that run over the end.
    #[test]
    fn what_is_written_is_found() {
        for keys in [&[1_u64 << 63][..], &[u64::MAX - 1, 1], &[5, u64::MAX / 3, u64::MAX - 9]] {
            let spread = (0..3000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 2);
            let crowd = (0..900).map(|n| keys[n % keys.len()]);
            let mut all: Vec<Entry> =
                (0..).zip(spread.chain(crowd)).map(|(n, owner)| entry(owner, n)).collect();
            let (_temporary, table) = table(&mut all, Table::capacity_for(3900));
            for entry in &all {
                let (owner, address) = (entry.owner, entry.address);
                assert_eq!(table.get(owner, address).expect("readable"), Some(*entry));
            }
            for key in keys {
                let count = all.iter().filter(|entry| entry.owner == *key).count();
                assert_eq!(table.find(*key).expect("readable").len(), count);
            }
            let order = |e: &Entry| (e.owner, e.address);
            let mut read = all_of(&table);
            read.sort_unstable_by_key(order);
            all.sort_unstable_by_key(order);
            assert_eq!(read, all);
        }
    }

    /// In parts, as in memory.
    #[test]
    fn what_overflows_is_written_the_same() {
        for keys in [&[][..], &[u64::MAX - 1, 1], &[u64::MAX - 9; 700]] {
            let spread = (0..12_000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 2);
            let owners = spread.chain(keys.iter().copied());
            let mut entries: Vec<Entry> = (0..).zip(owners).map(|(n, o)| entry(o, n)).collect();
            let capacity = entries.len() as u64 + 100;
            let (temporary, _table) = table(&mut entries.clone(), capacity);
            let dir = Dir::open(temporary.path()).expect("made");
            let mut overflow = Overflow::new(&dir).expect("there is room");
            overflow.add(&entries[..5000]).expect("there is room");
            overflow.add(&entries[5000..11_000]).expect("there is room");
            let mut file = dir.create_data("parts", 0o600).expect("made");
            let rest = &mut entries[11_000..];
            Table::write(&mut file, rest, Some(&overflow), BUILD, capacity).expect("written");
            let file = dir.open_data("parts").expect("there");
            let parts = Table::open(file, BUILD, capacity).expect("it is the one");
            let read = |name: &str| std::fs::read(temporary.path().join(name)).expect("there");
            let sorted = |mut entries: Vec<Entry>| {
                entries.sort_unstable_by_key(|e| (e.owner, e.address));
                entries
            };
            assert_eq!(read("parts").len(), read("t").len());
            assert_eq!(sorted(all_of(&parts)), sorted(entries.clone()));
            for entry in &entries {
                let (owner, address) = (entry.owner, entry.address);
                assert_eq!(parts.get(owner, address).expect("readable"), Some(*entry));
            }
            let names = std::fs::read_dir(temporary.path()).expect("there").count();
            assert_eq!(names, 2, "the list has no name");
        }
    }

    #[test]
    fn a_full_table_says_so() {
        let mut full: Vec<Entry> = (0..4).map(|n| entry(9, n)).collect();
        let (_temporary, mut table) = table(&mut full, 4);
        assert_eq!(table.find(8).expect("readable"), []);
        assert!(table.insert(&entry(8, 1)).is_err());
        table.remove(9, 2).expect("removed");
        assert!(!table.insert(&entry(8, 1)).expect("there is room"), "a used slot");
    }

    #[test]
    fn another_table_is_not_opened() {
        let (temporary, _table) = table(&mut [], 10);
        let dir = Dir::open(temporary.path()).expect("made");
        let open =
            |build, capacity| Table::open(dir.open_data("t").expect("there"), build, capacity);
        assert!(open(BUILD, 10).is_some());
        assert!(open(BUILD + 1, 10).is_none() && open(BUILD, 9).is_none());
        assert!(open(BUILD, 0).is_none() && open(BUILD, u64::MAX).is_none());
    }

    #[test]
    fn keys_differ_with_container_and_interface() {
        let key = |container_id: &str, ifname: &str| {
            owner_key(&AttachmentId { container_id: container_id.into(), ifname: ifname.into() })
        };
        let mut keys =
            vec![key("a", "b"), key("ab", ""), key("", "ab"), key("a", "bc"), key("ab", "c")];
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 5);
        // It is on the disk: another value would be another format.
        assert_eq!(key("c1", "eth0"), 1_841_963_499_250_946_006);
    }
}
