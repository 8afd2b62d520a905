//! All leases, one by one, with what the index remembers of each.

use super::stale::of_former_boot;
use super::{Ledger, key_of, recorded};
use crate::index::Entry;
use crate::leases::Holder;
use crate::range::number;
use crate::survey::Lease;
use std::time::Duration;
use store::{Error, Result};

impl Ledger {
    /// Shows every lease to `is_doomed`, and removes those it answers yes to;
    /// what is no plain file stays whatever it answers. Goes on after an error.
    ///
    /// # Errors
    /// The leases could not be read.
    pub(crate) fn survey(
        &mut self,
        is_doomed: &mut dyn FnMut(&Lease) -> bool,
    ) -> Result<Vec<Error>> {
        // One of a former boot, or outdated, knows as well when its leases were
        // made: what it says counts only for a lease that has not changed.
        let outdated = self.recall();
        let index = match &self.known {
            super::Known::Index(index) => Some(&**index),
            super::Known::Memory(_) => outdated.as_ref(),
        };
        let boot = self.boot;
        // Not known, nothing is of a former one.
        let booted = store::booted().unwrap_or(Duration::ZERO);
        let mut doomed = Vec::new();
        self.leases.walk(|ip, holder, made| {
            let key = key_of(&holder);
            let entry = key.and_then(|owner| recorded(index?, owner, number(ip), made));
            let (owner, address) = (key.unwrap_or_default(), number(ip));
            let unknown = Entry { owner, address, made, boot: 0, netns: 0, netns_id: 0 };
            let of_former_boot = of_former_boot(&entry.unwrap_or(unknown), boot, booted);
            let made = Duration::from_nanos(made);
            let removable = !matches!(holder, Holder::Unknown(_));
            let lease = Lease { address: ip, holder, made, of_former_boot };
            if is_doomed(&lease) && removable {
                let key = key.unwrap_or_default();
                doomed.push((ip, [key, key]));
            }
        })?;
        Ok(self.remove(&doomed))
    }
}
