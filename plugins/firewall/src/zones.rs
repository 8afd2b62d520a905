//! DEL and GC: addresses leave their zones of firewalld before that is forgotten.
//!
//! An address's rule or element says which zone it was put in. It stays where the
//! zone cannot be left, so that another DEL, or GC, knows what is to be done.

use cni::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::firewalld::{Firewalld, PATIENCE_TO_LEAVE};

/// What firewalld was asked for by a verb.
#[derive(Default)]
pub(crate) struct Zones(RefCell<Asked>);

#[derive(Default)]
struct Asked {
    firewalld: Contact,
    /// Whether the address is in the zone no more: a plan is made several times.
    left: BTreeMap<(String, IpAddr), bool>,
    errors: Vec<Error>,
}

#[derive(Default)]
enum Contact {
    #[default]
    None,
    /// Or it does not run, and has no zones.
    Made(Option<Firewalld>),
    /// It does not answer, which was told.
    Lost,
}

impl Zones {
    /// Takes the address out of the zone; whether it is not in there any more.
    pub(crate) fn leave(&self, zone: &str, address: IpAddr) -> bool {
        let asked = &mut *self.0.borrow_mut();
        let key = (zone.to_owned(), address);
        if let Some(left) = asked.left.get(&key) {
            return *left;
        }
        let left = asked.leave(zone, address).unwrap_or_else(|error| {
            asked.errors.push(error);
            false
        });
        asked.left.insert(key, left);
        left
    }

    /// Nothing had a zone.
    pub(crate) fn is_untouched(&self) -> bool {
        self.0.borrow().left.is_empty()
    }

    /// What went wrong.
    pub(crate) fn into_errors(self) -> Vec<Error> {
        self.0.into_inner().errors
    }
}

impl Asked {
    fn leave(&mut self, zone: &str, address: IpAddr) -> Result<bool> {
        if matches!(self.firewalld, Contact::None) {
            // Should it fail.
            self.firewalld = Contact::Lost;
            self.firewalld = Contact::Made(Firewalld::find(PATIENCE_TO_LEAVE)?);
        }
        let firewalld = match &mut self.firewalld {
            Contact::Made(Some(firewalld)) => firewalld,
            Contact::Made(None) => return Ok(true),
            Contact::None | Contact::Lost => return Ok(false),
        };
        let removed = firewalld.remove(zone, address);
        if firewalld.is_lost() {
            self.firewalld = Contact::Lost;
        }
        removed.map(|()| true)
    }
}
