//! Addresses that were released a short time ago and rest before they are
//! given again (`releaseCooldown`), so that packets still under way to the old
//! owner, and neighbours that remember its MAC, do not reach the new one.
//!
//! The record is the file `released` beside the index, a line for each address,
//! the oldest first: `<seconds since 1970> <address>`. Losing it costs the
//! rest of the rests.

use crate::range::{address, number};
use store::{Dir, Result};

const NAME: &str = "released";
const MODE: u32 = 0o600;
/// Addresses remembered; beyond, the oldest are forgotten. 200 KiB of text.
const LIMIT: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resting {
    /// Since when, in seconds since 1970, and which; the oldest first.
    list: Vec<(u64, u128)>,
    changed: bool,
}

impl Resting {
    /// Reads which addresses still rest at `now`. A record that is missing or
    /// damaged counts as empty, a line that makes no sense is dropped.
    pub(crate) fn read(dir: Option<&Dir>, cooldown: u64, now: u64) -> Resting {
        let limit = LIMIT * 64;
        let content = dir.and_then(|dir| dir.read(NAME, limit).ok()).map(|file| file.content);
        Resting::parse(&String::from_utf8_lossy(&content.unwrap_or_default()), cooldown, now)
    }

    fn parse(text: &str, cooldown: u64, now: u64) -> Resting {
        let mut changed = false;
        let mut list: Vec<(u64, u128)> = Vec::new();
        for line in text.lines() {
            let parsed = line.split_once(' ').and_then(|(since, ip)| {
                Some((since.parse::<u64>().ok()?, number(ip.parse().ok()?)))
            });
            // A time in the future was written before the clock was set back:
            // the rest begins now, lest it last for years.
            match parsed.map(|(since, n)| (since.min(now), since > now, n)) {
                Some((since, was_later, n)) if now - since < cooldown => {
                    changed |= was_later;
                    list.push((since, n));
                }
                _ => changed = true,
            }
        }
        list.sort_by_key(|(since, _)| *since);
        Resting { list, changed }
    }

    pub(crate) fn contains(&self, n: u128) -> bool {
        self.list.iter().any(|(_, resting)| *resting == n)
    }

    /// The one that has rested longest among those that `may` be given.
    pub(crate) fn oldest(&self, may: impl Fn(u128) -> bool) -> Option<u128> {
        self.list.iter().map(|(_, n)| *n).find(|n| may(*n))
    }

    /// `n` was released.
    pub(crate) fn add(&mut self, n: u128, now: u64) {
        self.list.retain(|(_, resting)| *resting != n);
        self.list.push((now, n));
        let surplus = self.list.len().saturating_sub(LIMIT);
        self.list.drain(..surplus);
        self.changed = true;
    }

    /// Writes the record, if there is something new to write.
    pub(crate) fn save(&mut self, dir: &Dir) -> Result<()> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let line = |(since, n): &(u64, u128)| format!("{since} {}\n", address(*n));
        let text: String = self.list.iter().map(line).collect();
        dir.create_data(NAME, MODE)?.rewrite(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, cooldown: u64, now: u64) -> Vec<(u64, String)> {
        let resting = Resting::parse(text, cooldown, now);
        resting.list.iter().map(|(since, n)| (*since, address(*n).to_string())).collect()
    }

    #[test]
    fn rests_end() {
        let text = "100 10.0.0.2\n110 fd00::2\n";
        assert_eq!(list(text, 30, 120), [(100, "10.0.0.2".into()), (110, "fd00::2".into())]);
        assert_eq!(list(text, 30, 130), [(110, "fd00::2".into())]);
        assert_eq!(list(text, 30, 140), []);
        assert_eq!(list(text, 0, 100), []);
    }

    #[test]
    fn a_clock_set_back_makes_no_rest_longer_than_the_cooldown() {
        let text = "1000000 10.0.0.2\n90 10.0.0.3\n";
        assert_eq!(list(text, 30, 100), [(90, "10.0.0.3".into()), (100, "10.0.0.2".into())]);
        assert!(Resting::parse(text, 30, 100).changed, "so that the new time is remembered");
    }

    #[test]
    fn damage_costs_the_damaged_lines() {
        assert_eq!(
            list("x\n\0\0\n9 10.0.0.2\n10 10.0.0\n-1 10.0.0.3", 30, 10),
            [(9, "10.0.0.2".into())]
        );
    }

    #[test]
    fn the_oldest_that_may_be_given_is_found_and_the_record_is_bounded() {
        let mut resting = Resting::parse("1 10.0.0.2\n2 10.0.0.3\n", 100, 10);
        let ip = |text: &str| number(text.parse().expect("an address"));
        assert_eq!(resting.oldest(|_| true), Some(ip("10.0.0.2")));
        assert_eq!(resting.oldest(|n| n != ip("10.0.0.2")), Some(ip("10.0.0.3")));
        resting.add(ip("10.0.0.2"), 11);
        assert_eq!(resting.oldest(|_| true), Some(ip("10.0.0.3")));
        for n in 0..LIMIT as u128 {
            resting.add(ip("10.1.0.0") + n, 12);
        }
        assert_eq!(resting.list.len(), LIMIT);
        assert!(!resting.contains(ip("10.0.0.2")) && resting.contains(ip("10.1.0.0")));
    }
}
