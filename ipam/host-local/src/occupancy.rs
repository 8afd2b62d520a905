//! Which addresses are taken: a bitmap, in pages of 256 addresses, so that the
//! next free one, or that there is none, is found by looking at a handful of
//! words.

/// Addresses of a page.
pub(crate) const PAGE: u128 = 256;

/// 256 addresses, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// The addresses' common bits: their number divided by [`PAGE`].
    pub(crate) prefix: u128,
    pub(crate) bits: [u64; 4],
    /// Where it lies in the index file, in pages.
    pub(crate) place: usize,
}

/// A set of addresses. A page that is not there is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Occupancy {
    /// By prefix.
    pages: Vec<Page>,
    /// Places of the pages that have changed, perhaps repeatedly.
    changed: Vec<usize>,
}

impl Occupancy {
    /// From pages of different prefixes, in any order; their places are their
    /// positions.
    pub(crate) fn from_pages(mut pages: Vec<Page>) -> Option<Occupancy> {
        pages.sort_unstable_by_key(|page| page.prefix);
        let apart = pages.windows(2).all(|two| two[0].prefix < two[1].prefix);
        apart.then_some(Occupancy { pages, changed: Vec::new() })
    }

    fn position(&self, n: u128) -> Result<usize, usize> {
        self.pages.binary_search_by_key(&(n / PAGE), |page| page.prefix)
    }

    pub(crate) fn insert(&mut self, n: u128) {
        let at = self.position(n).unwrap_or_else(|at| {
            let place = self.pages.len();
            self.pages.insert(at, Page { prefix: n / PAGE, bits: [0; 4], place });
            at
        });
        let (word, bit) = place_in_page(n);
        self.pages[at].bits[word] |= bit;
        self.change(at);
    }

    pub(crate) fn remove(&mut self, n: u128) {
        let Ok(at) = self.position(n) else { return };
        let (word, bit) = place_in_page(n);
        self.pages[at].bits[word] &= !bit;
        self.change(at);
    }

    fn change(&mut self, at: usize) {
        let place = self.pages[at].place;
        if self.changed.last() != Some(&place) {
            self.changed.push(place);
        }
    }

    pub(crate) fn contains(&self, n: u128) -> bool {
        self.first_free(n, n).is_none()
    }

    /// The first of `from..=to` that is not in the set.
    pub(crate) fn first_free(&self, from: u128, to: u128) -> Option<u128> {
        let mut at = from;
        let mut page = self.position(from).unwrap_or_else(|next| next);
        while at <= to {
            let bits = match self.pages.get(page) {
                Some(page) if page.prefix == at / PAGE => &page.bits,
                _ => return Some(at),
            };
            let base = at - at % PAGE;
            match first_zero(bits, (at % PAGE) as usize) {
                Some(offset) => return Some(base + offset as u128).filter(|n| *n <= to),
                None => at = base.checked_add(PAGE)?,
            }
            page += 1;
        }
        None
    }

    /// In the order of their prefixes.
    pub(crate) fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// The pages changed since the last call, each once.
    pub(crate) fn take_changed(&mut self) -> Vec<Page> {
        let mut places = std::mem::take(&mut self.changed);
        places.sort_unstable();
        places.dedup();
        let changed = |page: &&Page| places.binary_search(&page.place).is_ok();
        self.pages.iter().filter(changed).copied().collect()
    }
}

fn place_in_page(n: u128) -> (usize, u64) {
    let offset = (n % PAGE) as usize;
    (offset / 64, 1 << (offset % 64))
}

/// The first zero bit at `from` or behind.
fn first_zero(bits: &[u64; 4], from: usize) -> Option<usize> {
    (from / 64..4).find_map(|word| {
        let below = if word == from / 64 { (1_u64 << (from % 64)) - 1 } else { 0 };
        let taken = bits[word] | below;
        (taken != u64::MAX).then(|| word * 64 + taken.trailing_ones() as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set_of_numbers(
            base in prop_oneof![Just(0_u128), Just(u128::MAX - 1100), Just(0xffff_0a00_0000)],
            steps in prop::collection::vec((any::<bool>(), 0_u128..1100), 0..600),
            full in 0_u128..700,
            from in 0_u128..1100,
            length in 0_u128..1100,
        ) {
            let (mut model, mut set) = (BTreeSet::new(), Occupancy::default());
            let filled = (0..full).map(|n| (true, n));
            for (insert, offset) in filled.chain(steps) {
                let n = base + offset;
                match insert {
                    true => { model.insert(n); set.insert(n) }
                    false => { model.remove(&n); set.remove(n) }
                }
            }
            let (from, to) = (base + from, (base + from).saturating_add(length));
            prop_assert_eq!(set.first_free(from, to), (from..=to).find(|n| !model.contains(n)));
            let again = Occupancy::from_pages(set.pages().to_vec()).expect("pages are apart");
            prop_assert_eq!(again.pages(), set.pages());
        }
    }

    #[test]
    fn changed_pages_are_told_once() {
        let mut set = Occupancy::default();
        for n in [1, 2, 300, 2] {
            set.insert(n);
        }
        set.remove(1);
        let places =
            |pages: Vec<Page>| pages.iter().map(|p| (p.prefix, p.place)).collect::<Vec<_>>();
        assert_eq!(places(set.take_changed()), [(0, 0), (1, 1)]);
        set.insert(0x1_0000);
        assert_eq!(places(set.take_changed()), [(256, 2)]);
        assert_eq!(set.take_changed(), []);
    }

    #[test]
    fn a_page_twice_is_refused() {
        let page = Page { prefix: 1, bits: [0; 4], place: 0 };
        assert_eq!(Occupancy::from_pages(vec![page, page]), None);
    }
}
