//! What a person may see of the leases, and have freed of them, without a
//! configuration: a data directory is enough. Works under the lock that every
//! verb of every program takes.

use crate::conf::Place;
use crate::io;
use crate::leases::Holder;
use crate::ledger::Ledger;
use cni::{Error, NetworkName, Result};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use store::{Dir, Kind};

/// A lease, as it is seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What is leased.
    pub address: IpAddr,
    /// To whom.
    pub holder: Holder,
    /// When, since 1970; zero when that is not known.
    pub made: Duration,
    /// Was it made before the machine was started last? The index knows it of
    /// the leases this program has made; of others their time tells, as far as
    /// the clock was right.
    pub of_former_boot: bool,
}

/// The networks that have a directory in a data directory, sorted; none when
/// there is no such directory.
///
/// # Errors
/// Code 5 when it cannot be read.
pub fn networks(data_dir: &Path) -> Result<Vec<String>> {
    let dir = match Dir::open(data_dir) {
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        dir => dir.map_err(io)?,
    };
    let mut names = Vec::new();
    dir.each(|name, kind| {
        let name = name.to_str().filter(|name| NetworkName::new(*name).is_ok());
        names.extend(name.filter(|_| kind == Kind::Directory).map(str::to_owned));
        Ok::<(), store::Error>(())
    })
    .map_err(io)?;
    names.sort();
    Ok(names)
}

/// Shows every lease of a network to `is_doomed`, in no particular order, and
/// frees those it answers yes to. What is no plain file is never touched.
///
/// # Errors
/// Code 11 when another process keeps the lock, 5 when the leases cannot be
/// read, or those that are to be removed cannot be.
pub fn survey(
    data_dir: &Path,
    network: &NetworkName,
    is_doomed: &mut dyn FnMut(&Lease) -> bool,
) -> Result<()> {
    let place = Place::of(data_dir, network.as_str());
    let Some(mut ledger) = Ledger::open_to_sweep(&place).map_err(io)? else { return Ok(()) };
    let failed = ledger.survey(is_doomed);
    ledger.finish();
    Error::join(failed.map_err(io)?.into_iter().map(io).collect())
}
