//! Addresses in a zone of firewalld, over the system bus. Like
//! `firewall-cmd --zone=ZONE --add-source=ADDRESS/32`.
//!
//! What is added at run time is gone when firewalld ends or reloads.

use attach::kernel;
use cni::{Error, Result};
use linux::IpNetwork;
use linux::dbus::{Answer, Connection, Method, Value};
use std::net::IpAddr;
use std::time::Duration;

/// How long an ADD, CHECK or STATUS waits for all that it asks: what the reference
/// library of D-Bus allows for one answer. While firewalld reloads it gives none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// The same of DEL, GC and the undo of an ADD, which leave the rest to the next one.
pub(crate) const PATIENCE_TO_LEAVE: Duration = Duration::from_secs(10);

const SERVICE: &str = "org.fedoraproject.FirewallD1";

/// What firewalld's own codes, with which its texts begin, say about sources
/// (`errors.py` of firewalld 1.3; the first is what it was called before 0.3).
const THERE_ALREADY: [&str; 2] = ["ZONE_ALREADY_SET", "ALREADY_ENABLED"];
const NOT_THERE: [&str; 4] = ["UNKNOWN_SOURCE", "NOT_ENABLED", "INVALID_ZONE", "ZONE_CONFLICT"];

/// A firewalld that runs.
pub(crate) struct Firewalld {
    bus: Connection,
    /// It gave no answer once, and would be waited for in vain.
    is_lost: bool,
}

impl Firewalld {
    /// `None` when none runs, or there is no system bus. All that is asked of it may
    /// take `patience` together.
    ///
    /// # Errors
    /// The bus is there and does not answer.
    pub(crate) fn find(patience: Duration) -> Result<Option<Firewalld>> {
        let mut bus = match Connection::system(patience) {
            Ok(bus) => bus,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(kernel(e)),
        };
        let runs = bus.has_owner(SERVICE).map_err(kernel)?;
        Ok(runs.then_some(Firewalld { bus, is_lost: false }))
    }

    /// One that must run.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn need() -> Result<Firewalld> {
        Firewalld::find(PATIENCE)?.ok_or_else(|| {
            Error::internal(format!(
                "use firewalld: nobody is {SERVICE} on the system bus: start firewalld, or let the configuration use another backend"
            ))
        })
    }

    /// Puts the addresses in a zone; those that are there stay.
    ///
    /// # Errors
    /// An address is in another zone; there is no such zone.
    pub(crate) fn add(&mut self, zone: &str, addresses: &[IpAddr]) -> Result<()> {
        for address in addresses {
            match self.call("addSource", zone, *address)? {
                Answer::Refused { text, .. } if !begins(&text, &THERE_ALREADY) => {
                    return Err(Error::internal(format!(
                        "add {address} to zone {zone} of firewalld: {text}"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Verifies that the addresses are in a zone.
    ///
    /// # Errors
    /// Names one that is not.
    pub(crate) fn check(&mut self, zone: &str, addresses: &[IpAddr]) -> Result<()> {
        for address in addresses {
            let why = match self.call("querySource", zone, *address)? {
                Answer::Returned(Some(Value::Bool(true))) => continue,
                Answer::Refused { text, .. } => format!(": {text}"),
                Answer::Returned(_) => String::new(),
            };
            return Err(Error::internal(format!(
                "check firewall rules: {address} is not in zone {zone} of firewalld{why}"
            )));
        }
        Ok(())
    }

    /// Takes an address out of a zone; one that is not in it is no error.
    ///
    /// # Errors
    /// What firewalld refused, or that it does not answer.
    pub(crate) fn remove(&mut self, zone: &str, address: IpAddr) -> Result<()> {
        match self.call("removeSource", zone, address) {
            Ok(Answer::Refused { text, .. }) if !begins(&text, &NOT_THERE) => Err(Error::internal(
                format!("remove {address} from zone {zone} of firewalld: {text}"),
            )),
            Ok(_) => Ok(()),
            Err(error) => {
                Err(error.context(format_args!("remove {address} from zone {zone} of firewalld")))
            }
        }
    }

    /// Whether it gave no answer.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn call(&mut self, member: &str, zone: &str, address: IpAddr) -> Result<Answer> {
        let method = Method {
            destination: SERVICE,
            path: "/org/fedoraproject/FirewallD1",
            interface: "org.fedoraproject.FirewallD1.zone",
            member,
        };
        let source = IpNetwork::from(address).to_string();
        let answer = self.bus.call(&method, &[zone, &source]);
        self.is_lost |= answer.is_err();
        answer.map_err(kernel)
    }
}

/// Its codes end at a colon.
fn begins(text: &str, codes: &[&str]) -> bool {
    codes
        .iter()
        .any(|code| text.strip_prefix(code).is_some_and(|r| r.is_empty() || r.starts_with(':')))
}
