//! Gives each attachment an address of every configured set of ranges, and
//! remembers which are taken in files on this host. The files are those of the
//! reference implementation, byte for byte, so the two can take turns.
//!
//! | resource | where | made by | removed by |
//! |---|---|---|---|
//! | lease | `<dataDir>/<network>/<address>` | ADD | DEL, GC, a failed ADD; an ADD that takes it over |
//! | state of round robin | `<dataDir>/<network>/last_reserved_ip.<set>` | ADD | nobody: shared |
//! | lock | `<dataDir>/<network>/lock` | the first verb | nobody: shared |
//! | index, rests | `<dataDir>/.oxcni/<network>/` | whoever reads all leases | nobody: a hint, made anew when wrong or missing |
//!
//! Every verb takes the lock once. A lease carries its owner's name, so DEL and
//! GC need nothing else; how they find it without reading all leases is told in
//! `index`.

mod allocate;
mod conf;
mod cooldown;
mod index;
mod leases;
mod ledger;
mod occupancy;
mod range;
mod resolv;
mod survey;

pub use conf::DATA_DIR;
pub use leases::Holder;
pub use survey::{Lease, networks, survey};

use cni::plugin::Forget;
use cni::{Code, Dns, Error, Network, Plugin, Request, Result, Success, Version};
use conf::{Place, Plan};
use ledger::Ledger;
use std::path::Path;
use store::Dir;

/// The plugin of CNI type `host-local`.
#[derive(Debug, Clone, Copy)]
pub struct HostLocal;

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        self.lease(request, &|dead, address| request.network.forget(dead, address))
    }

    fn lease(&self, request: &Request, forget: Forget) -> Result<Success> {
        let plan = Plan::new(&request.network, &request.args)?;
        let dns = dns(&plan)?;
        let mut ledger = Ledger::create(&plan.place).map_err(io)?;
        let allocated = allocate::all(&mut ledger, &plan, request, forget);
        ledger.finish();
        Ok(Success { ips: allocated?, routes: plan.routes, dns, ..Success::default() })
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network, &request.args)?;
        let previous = request.prev_result()?;
        let ledger = Ledger::open(&plan.place).map_err(io)?;
        let mut ledger = ledger.ok_or_else(|| allocate::not_found(request))?;
        let verified = allocate::verify(&mut ledger, &plan, previous.as_ref(), request);
        ledger.finish();
        verified
    }

    fn del(&self, request: &Request) -> Result<()> {
        let place = Place::for_teardown(&request.network)?;
        let Some(mut ledger) = Ledger::open(&place).map_err(io)? else { return Ok(()) };
        let released = allocate::remove(&mut ledger, request);
        request.network.removed(ledger.freed());
        ledger.finish();
        released
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let forgotten = network.forget_invalid();
        // Before the lock is waited for: what is leased while this waits
        // cannot be in the list.
        let now = || u64::try_from(store::now().as_nanos()).unwrap_or(u64::MAX);
        let started = now();
        let place = Place::for_teardown(network)?;
        let Some(mut ledger) = Ledger::open_to_sweep(&place).map_err(io)? else { return Ok(()) };
        let is_valid = |holder: &Holder| match holder {
            Holder::Attachment(id) => valid.contains(id),
            Holder::Container(id) => valid.has_container(id),
            Holder::Nobody | Holder::Unknown(_) => false,
        };
        let swept = ledger.sweep(started..=now(), is_valid, |freed| network.removed(freed));
        ledger.finish();
        let swept =
            swept.map_err(io).and_then(|errors| Error::join(errors.into_iter().map(io).collect()));
        Error::all([forgotten, swept])
    }

    fn status(&self, network: &Network) -> Result<()> {
        let plan = Plan::new(network, "")?;
        let unavailable = |error: Error| error.with_code(Code::NOT_AVAILABLE);
        dns(&plan).map_err(unavailable)?;
        let Some(mut ledger) = Ledger::open(&plan.place).map_err(io).map_err(unavailable)? else {
            return could_be_made(&plan).map_err(unavailable);
        };
        let status = ledger
            .dir()
            .check_room(leases(&plan))
            .map_err(io)
            .and_then(|()| allocate::verify_free(&mut ledger, &plan));
        ledger.finish();
        status.map_err(unavailable)
    }
}

fn dns(plan: &Plan) -> Result<Dns> {
    plan.resolv_conf.as_deref().map_or_else(|| Ok(Dns::default()), resolv::read)
}

/// Files and directories that come with the directory of a network: its lock, and an
/// index of a file in two directories.
const FIRST_FILES: u32 = 4;

/// How many an attachment gets.
fn leases(plan: &Plan) -> u32 {
    u32::try_from(plan.sets.len()).unwrap_or(u32::MAX)
}

/// Could the network's directory be made, where there is none, with the first lease of
/// each range set and the note of which was the last?
fn could_be_made(plan: &Plan) -> Result<()> {
    let files = FIRST_FILES.saturating_add(leases(plan).saturating_mul(2));
    for (missing, place) in (0..).zip(plan.place.dir().ancestors()) {
        // The parent of a relative path of one component is here.
        let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
        match Dir::open(place) {
            Err(e) if e.is_not_found() && place.is_symlink() => {
                let place = place.display();
                return Err(Error::new(
                    Code::IO,
                    format!("{place} is a link to what is not there"),
                ));
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(io(e)),
            Ok(dir) => return dir.check_room(files.saturating_add(missing)).map_err(io),
        }
    }
    Ok(())
}

/// A failure of the files: code 5, or 11 where somebody holds the lock.
fn io(error: store::Error) -> Error {
    let code = if error.is_timed_out() { Code::TRY_AGAIN } else { Code::IO };
    let error = if error.is_full() { error.hint("make room, or raise the quota") } else { error };
    Error::new(code, error.to_string())
}

#[cfg(test)]
mod tests;
