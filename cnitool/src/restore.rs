//! `restore`: every attachment in the cache is as its ADD made it, again.

use crate::show::table;
use crate::{Session, print};
use cni::{Error, Result, versions};
use runtime::{Entry, Presence};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) fn all(session: &Session, network: Option<&str>, dry_run: bool) -> Result<ExitCode> {
    let contents = session.runtime.cache().contents()?;
    let mut errors: Vec<Error> = contents.unreadable.into_iter().map(|(_, error)| error).collect();
    let wanted = |entry: &&Entry| network.is_none_or(|network| entry.network == network);
    let mut rows = Vec::new();
    for entry in contents.entries.iter().filter(wanted) {
        let (state, what) = match one(session, entry, dry_run) {
            Ok(None) => ("gone", Vec::new()),
            Ok(Some(what)) if what.is_empty() => ("complete", what),
            Ok(Some(what)) if dry_run => ("incomplete", what),
            Ok(Some(what)) => ("restored", what),
            Err(error) => {
                errors.push(error.context(format!(
                    "container {} interface {} on network {:?}",
                    entry.container_id, entry.ifname, entry.network
                )));
                let unknown = entry.presence() == Presence::Unknown;
                (if unknown { "unknown" } else { "failed" }, Vec::new())
            }
        };
        rows.push((entry, state, what));
    }
    print(if session.invocation.json { as_json(&rows) } else { as_table(&rows) })?;
    // A line each: they have nothing to do with each other.
    errors.iter().for_each(|error| crate::complain(&error.to_string()));
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The plugins that made something again; or, with `dry_run`, what is missing. None
/// where the namespace is gone: that is for GC.
fn one(session: &Session, entry: &Entry, dry_run: bool) -> Result<Option<Vec<String>>> {
    match entry.presence() {
        Presence::Gone => Ok(None),
        Presence::Unknown => Err(Error::internal(format!(
            "restore: {} does not say in which namespace it is: DEL and ADD it",
            entry.file.display()
        ))),
        Presence::Exists if dry_run => {
            let wanting = session.runtime.wanting(entry)?;
            Ok(Some(wanting.iter().map(ToString::to_string).collect()))
        }
        Presence::Exists => session.runtime.restore(entry).map(Some),
    }
}

type Row<'a> = (&'a Entry, &'static str, Vec<String>);

fn as_table(rows: &[Row]) -> String {
    let head = ["NETWORK", "CONTAINER", "INTERFACE", "STATE", "WHAT"];
    let rows = rows.iter().map(|(entry, state, what)| {
        [
            entry.network.clone(),
            entry.container_id.clone(),
            entry.ifname.clone(),
            (*state).to_owned(),
            what.join(", "),
        ]
    });
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    table(&rows)
}

fn as_json(rows: &[Row]) -> String {
    let list: Vec<Value> = rows
        .iter()
        .map(|(entry, state, what)| {
            json!({
                "network": entry.network,
                "containerID": entry.container_id,
                "ifname": entry.ifname,
                "state": state,
                "what": what,
            })
        })
        .collect();
    let mut text = String::from_utf8(versions::pretty(&list)).expect("JSON is UTF-8");
    text.push('\n');
    text
}
