//! The leases of host-local: whose they are, which are stale, and how those are
//! freed. A lease tells container and interface, but not whether they exist;
//! that is in the cache, which the runtimes that use the reference library
//! share.

use crate::arguments::LeasePlan;
use crate::show::table;
use crate::{Session, print, warn};
use cni::{AttachmentId, Code, Error, NetworkName, Result, config, versions};
use host_local::{DATA_DIR, Holder, Lease};
use runtime::{ConfigList, Contents, Entry, Presence, load};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) fn show(session: &Session, network: Option<&str>, plan: &LeasePlan) -> Result<ExitCode> {
    let known = Known::read(session)?;
    let data_dirs = match plan.data_dirs.is_empty() {
        true => data_dirs(session, &known.contents),
        false => plan.data_dirs.iter().cloned().collect(),
    };
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for data_dir in &data_dirs {
        let networks = match host_local::networks(data_dir) {
            Ok(networks) => networks,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        for name in networks.iter().filter(|name| network.is_none_or(|n| n == *name)) {
            let outcome = of_network(session, &known, data_dir, name, plan, &mut found);
            errors.extend(outcome.err().map(|e| e.context(format!("network {name:?}"))));
        }
    }
    found.sort_by(|a, b| (&a.network, a.lease.address).cmp(&(&b.network, b.lease.address)));
    print(if session.invocation.json { as_json(&found) } else { as_table(&found) })?;
    Error::join(errors)?;
    Ok(ExitCode::SUCCESS)
}

/// A lease, and what is known of it.
struct Row {
    network: String,
    data_dir: PathBuf,
    lease: Lease,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InUse,
    Gone,
    Stale,
    Unknown,
    Empty,
    /// No plain file.
    Odd,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::InUse => "in use",
            State::Gone => "gone",
            State::Stale => "stale",
            State::Unknown => "unknown",
            State::Empty => "empty",
            State::Odd => "no lease",
        }
    }
}

fn of_network(
    session: &Session,
    known: &Known,
    data_dir: &std::path::Path,
    network: &str,
    plan: &LeasePlan,
    found: &mut Vec<Row>,
) -> Result<()> {
    let name = NetworkName::new(network)?;
    // Before its lease and its place in the cache an attachment of ours is
    // nowhere, so not between the two.
    let _alone = plan.free.then(|| session.runtime.alone(network)).transpose()?;
    // What was added while this waited.
    let fresh = if plan.free { Some(Known::read(session)?) } else { None };
    let known = fresh.as_ref().unwrap_or(known);
    if plan.free {
        known.is_complete(network)?;
    }
    host_local::survey(data_dir, &name, &mut |lease| {
        let state = known.state(network, lease);
        if !plan.only_stale || state == State::Stale {
            let (network, data_dir) = (network.to_owned(), data_dir.to_owned());
            found.push(Row { network, data_dir, lease: lease.clone(), state });
        }
        plan.free && state == State::Stale
    })
}

/// The attachments in the cache.
struct Known {
    contents: Contents,
}

impl Known {
    fn read(session: &Session) -> Result<Known> {
        Ok(Known { contents: session.runtime.cache().contents()? })
    }

    /// # Errors
    /// Code 6: a file of the network tells of nobody, so that a live attachment
    /// may be missing.
    fn is_complete(&self, network: &str) -> Result<()> {
        let prefix = format!("{network}-");
        let is_its = |file: &std::path::Path| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        };
        match self.contents.unreadable.iter().find(|(file, _)| is_its(file)) {
            None => Ok(()),
            Some((_, error)) => Err(Error::new(
                Code::DECODE,
                format!(
                    "find out which attachments exist: {error}: nothing was freed; remove the file \
                     if nothing is attached under its name"
                ),
            )),
        }
    }

    fn state(&self, network: &str, lease: &Lease) -> State {
        let (container_id, ifname) = match &lease.holder {
            Holder::Nobody => return State::Empty,
            Holder::Unknown(_) => return State::Odd,
            Holder::Attachment(AttachmentId { container_id, ifname }) => {
                (container_id, Some(ifname))
            }
            Holder::Container(container_id) => (container_id, None),
        };
        let is_its = |entry: &&Entry| {
            entry.network == network
                && entry.container_id == *container_id
                && ifname.is_none_or(|ifname| entry.ifname == *ifname)
        };
        let its = self.contents.entries.iter().filter(is_its);
        let its: Vec<Presence> = its.map(Entry::presence).collect();
        match its.is_empty() {
            _ if its.contains(&Presence::Exists) => State::InUse,
            _ if its.contains(&Presence::Unknown) => State::Unknown,
            _ if lease.of_former_boot => State::Stale,
            false => State::Gone,
            true => State::Unknown,
        }
    }
}

/// Where configurations have host-local keep its leases: those of the networks,
/// and those that attachments were made by.
fn data_dirs(session: &Session, contents: &Contents) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::from([PathBuf::from(DATA_DIR)]);
    let lists = load::all(&session.environment.networks).unwrap_or_default();
    for (file, list) in lists {
        match list {
            Ok(list) => of_list(&list, &mut found),
            Err(error) => warn(&format!("read {}: {error}", file.display())),
        }
    }
    for entry in &contents.entries {
        if let Ok(list) = ConfigList::parse(&entry.config) {
            of_list(&list, &mut found);
        }
    }
    found
}

fn of_list(list: &ConfigList, found: &mut BTreeSet<PathBuf>) {
    list.plugins()
        .iter()
        .flat_map(|plugin| plugin.keys().values())
        .for_each(|value| of_value(value, found));
}

/// Of the objects that name host-local as their type, in `ipam` and also in the
/// delegates of plugins that have some.
fn of_value(value: &Value, found: &mut BTreeSet<PathBuf>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| of_value(value, found)),
        Value::Object(object) => {
            let text = |key| config::get(value, key).and_then(Value::as_str);
            if text("type") == Some("host-local") {
                found.extend(text("dataDir").filter(|dir| !dir.is_empty()).map(PathBuf::from));
            }
            object.values().for_each(|value| of_value(value, found));
        }
        _ => {}
    }
}

fn as_table(rows: &[Row]) -> String {
    let head = ["NETWORK", "ADDRESS", "CONTAINER", "INTERFACE", "MADE", "STATE"];
    let rows = rows.iter().map(|row| {
        let (container_id, ifname) = holder(row);
        [
            row.network.clone(),
            row.lease.address.to_string(),
            container_id.to_owned(),
            ifname.to_owned(),
            date(row.lease.made),
            row.state.as_str().to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    table(&rows)
}

fn as_json(rows: &[Row]) -> String {
    let list: Vec<Value> = rows
        .iter()
        .map(|row| {
            let (container_id, ifname) = holder(row);
            json!({
                "network": row.network,
                "address": row.lease.address.to_string(),
                "containerID": container_id,
                "ifname": ifname,
                "made": date(row.lease.made),
                "ofFormerBoot": row.lease.of_former_boot,
                "state": row.state.as_str(),
                "dataDir": row.data_dir.to_string_lossy(),
            })
        })
        .collect();
    let mut text = String::from_utf8(versions::pretty(&list)).expect("JSON is UTF-8");
    text.push('\n');
    text
}

fn holder(row: &Row) -> (&str, &str) {
    match &row.lease.holder {
        Holder::Attachment(id) => (&id.container_id, &id.ifname),
        Holder::Container(id) => (id, ""),
        Holder::Nobody | Holder::Unknown(_) => ("", ""),
    }
}

/// Empty when it is not known.
fn date(made: Duration) -> String {
    match made {
        Duration::ZERO => String::new(),
        made => cni::log::date(Duration::from_secs(made.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_directories_are_found_wherever_they_stand() {
        let list = ConfigList::parse(
            br#"{"name":"n","cniVersion":"1.1.0","plugins":[
                {"type":"bridge","ipam":{"type":"host-local","DataDir":"/a"}},
                {"type":"flannel","dataDir":"/no","delegate":{"ipam":{"type":"host-local","dataDir":"/b"}}},
                {"type":"bridge","ipam":{"type":"static","dataDir":"/no"}}]}"#,
        )
        .expect("a list");
        let mut found = BTreeSet::new();
        of_list(&list, &mut found);
        assert_eq!(found, BTreeSet::from(["/a".into(), "/b".into()]));
    }
}
