use super::*;
use crate::tests::temporary::Temporary;
use proptest::collection::vec;
use proptest::prelude::*;

const BOOT: u64 = 3;
const STAMP: u64 = 1_700_000_000_123_456_789;

fn entry(owner: u64, address: u128) -> Entry {
    Entry { owner, address, made: 1, boot: 2, netns: 4, netns_id: 5 }
}

fn saved() -> (Temporary, Dir) {
    let temporary = Temporary::new();
    let dir = Dir::open(temporary.path()).expect("made");
    let mut found = Found { walked: 9, old_format: true, ..Found::default() };
    for n in [5, 300, 1 << 100] {
        found.occupied.insert(n);
        found.entries.push(entry(n as u64 + 1, n));
    }
    found.save(&dir, BOOT, STAMP).expect("written");
    (temporary, dir)
}

#[test]
fn what_was_saved_is_read() {
    let (_temporary, dir) = saved();
    let mut index = Index::read(&dir).expect("intact");
    assert!(index.is_current(STAMP, BOOT));
    assert!(!index.is_current(STAMP + 1, BOOT) && !index.is_current(STAMP, BOOT + 1));
    assert!(index.has_old_format() && index.walked() == 9);
    assert_eq!(index.held_by(6).expect("readable"), [5]);
    index.insert(entry(6, 700)).expect("there is room");
    index.remove(6, 5).expect("removed");
    index.save(STAMP + 7).expect("written");
    let index = Index::read(&dir).expect("intact");
    assert!(index.is_current(STAMP + 7, BOOT));
    assert_eq!(index.held_by(6).expect("readable"), [700]);
    let taken = |n| index.occupied().contains(n);
    assert!(taken(700) && taken(300) && taken(1 << 100) && !taken(5));
    let mut found = index.found(None).expect("readable");
    found.entries.sort_unstable_by_key(|entry| entry.address);
    assert_eq!(found.entries, [entry(301, 300), entry(6, 700), entry(1, 1 << 100)]);
}

#[test]
fn an_index_that_was_changed_but_not_saved_is_not_read() {
    let (_temporary, dir) = saved();
    let mut index = Index::read(&dir).expect("intact");
    index.insert(entry(6, 6)).expect("there is room");
    for page in index.occupied.take_changed() {
        let at = Head::BYTES + page.place * PAGE_BYTES;
        index.pages.write_at(at as u64, &page_to_bytes(&page)).expect("written");
    }
    // Here a writer is killed: before the head.
    assert!(Index::read(&dir).is_none());
}

#[test]
fn a_damaged_index_is_not_read() {
    let (temporary, dir) = saved();
    let path = temporary.path().join(PAGES);
    let intact = std::fs::read(&path).expect("there");
    for at in 0..intact.len() {
        let mut damaged = intact.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).expect("written");
        assert!(Index::read(&dir).is_none(), "byte {at}");
    }
    for length in [0, 10, Head::BYTES, intact.len() - 1] {
        std::fs::write(&path, &intact[..length]).expect("written");
        assert!(Index::read(&dir).is_none(), "length {length}");
    }
    std::fs::write(&path, &intact).expect("written");
    assert!(Index::read(&dir).is_some());
    let owners = temporary.path().join(OWNERS);
    let table = std::fs::read(&owners).expect("there");
    std::fs::write(&owners, &table[..table.len() - 1]).expect("written");
    assert!(Index::read(&dir).is_none(), "a table that was cut");
    std::fs::remove_file(&owners).expect("there");
    assert!(Index::read(&dir).is_none(), "no table");
}

#[test]
fn pages_and_table_of_two_builds_do_not_mix() {
    let (temporary, dir) = saved();
    let owners = temporary.path().join(OWNERS);
    let old = std::fs::read(&owners).expect("there");
    Found::default().save(&dir, BOOT, STAMP + 1).expect("written");
    let new = std::fs::read(&owners).expect("there");
    assert_eq!(old.len(), new.len(), "else the length would tell");
    std::fs::write(&owners, old).expect("written");
    assert!(Index::read(&dir).is_none());
}

#[test]
fn stamps_lie_in_the_past_and_differ() {
    let now = store::now().as_nanos() as u64;
    let stamp = fresh_stamp(0);
    assert!((now - 11_000_000_000..now - 5_000_000_000).contains(&stamp), "{stamp} {now}");
    assert_ne!(fresh_stamp(stamp), stamp);
}

/// Makes the checksums of `pages` right.
fn seal(pages: &mut [u8]) {
    let Some(body) = pages.get(Head::BYTES..) else { return };
    let sums = body.chunks_exact(PAGE_BYTES).map(|page| mix(&words::<6>(page).expect("a page")));
    let sum = sums.fold(0_u64, u64::wrapping_add);
    pages[80..88].copy_from_slice(&sum.to_le_bytes());
    let own = mix(&words::<11>(&pages[..88]).expect("a head"));
    pages[88..96].copy_from_slice(&own.to_le_bytes());
}

/// Found by `fuzz/targets/index`: the arithmetic on it overflowed.
#[test]
fn a_table_fuller_than_it_can_be_is_not_read() {
    let (temporary, dir) = saved();
    let path = temporary.path().join(PAGES);
    let mut pages = std::fs::read(&path).expect("there");
    // Head::used
    pages[64..72].copy_from_slice(&u64::MAX.to_le_bytes());
    seal(&mut pages);
    std::fs::write(&path, &pages).expect("written");
    assert!(Index::read(&dir).is_none());
    pages[64..72].copy_from_slice(&3_u64.to_le_bytes());
    seal(&mut pages);
    std::fs::write(&path, &pages).expect("written");
    assert!(Index::read(&dir).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bytes that the checksums agree with say anything; nothing that is asked of
    /// them panics, or takes longer than its file is.
    #[test]
    fn any_index_is_read_or_not(
        damage in vec((any::<bool>(), any::<prop::sample::Index>(), any::<u8>()), 0..12),
        lengths in any::<[Option<u16>; 2]>(),
    ) {
        let (temporary, dir) = saved();
        let paths = [PAGES, OWNERS].map(|name| temporary.path().join(name));
        let mut files = paths.each_ref().map(|path| std::fs::read(path).expect("there"));
        for (of_pages, at, byte) in damage {
            let file = &mut files[usize::from(of_pages)];
            let at = at.index(file.len());
            file[at] = byte;
        }
        for (file, length) in files.iter_mut().zip(lengths) {
            if let Some(length) = length.filter(|length| length % 4 == 0) {
                file.resize(usize::from(length), 7);
            }
        }
        seal(&mut files[0]);
        for (path, content) in paths.iter().zip(&files) {
            std::fs::write(path, content).expect("ours");
        }
        if let Some(mut index) = Index::read(&dir) {
            let found = index.found(None).expect("readable");
            prop_assert!(found.entries.len() <= files[1].len());
            for owner in [0, 6, u64::MAX] {
                let held = index.held_by(owner).expect("readable");
                prop_assert!(held.len() <= files[1].len());
                let _ = index.entry(owner, 5);
            }
            prop_assert!(index.has_room(0) || !index.has_room(1));
            // A full table refuses.
            let _ = index.insert(entry(6, 700));
            let _ = index.remove(6, 700);
            let _ = index.save(STAMP + 7);
        }
    }
}
