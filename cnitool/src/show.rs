//! The commands that only look.

use crate::{Session, print, warn};
use cni::{Result, Version, versions};
use runtime::{Entry, Presence, lint, load, versions_of};
use serde_json::{Value, json};
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn attachments(session: &Session, network: Option<&str>) -> Result<ExitCode> {
    let contents = session.runtime.cache().contents()?;
    for (_, error) in &contents.unreadable {
        warn(&error.to_string());
    }
    let shown: Vec<Entry> = contents
        .entries
        .into_iter()
        .filter(|entry| network.is_none_or(|network| entry.network == network))
        .collect();
    entries(session, &shown)
}

pub(crate) fn entries(session: &Session, entries: &[Entry]) -> Result<ExitCode> {
    if session.invocation.json {
        let list: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "network": entry.network,
                    "containerID": entry.container_id,
                    "ifname": entry.ifname,
                    "netns": entry.netns.to_string_lossy(),
                    "exists": entry.presence() == Presence::Exists,
                    "namespace": presence(entry),
                    "ips": addresses(entry),
                })
            })
            .collect();
        let mut text = versions::pretty(&list);
        text.push(b'\n');
        return print(text);
    }
    let rows = entries.iter().map(|entry| {
        [
            entry.network.clone(),
            entry.container_id.clone(),
            entry.ifname.clone(),
            addresses(entry).join(","),
            presence(entry).to_owned(),
            entry.netns.to_string_lossy().into_owned(),
        ]
    });
    let head = ["NETWORK", "CONTAINER", "INTERFACE", "ADDRESSES", "NAMESPACE", "PATH"];
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    print(table(&rows))
}

fn presence(entry: &Entry) -> &'static str {
    match entry.presence() {
        Presence::Exists => "exists",
        Presence::Gone => "gone",
        Presence::Unknown => "unknown",
    }
}

fn addresses(entry: &Entry) -> Vec<String> {
    let Ok(outcome) = entry.outcome(Version::LATEST) else { return Vec::new() };
    outcome.success().ips.iter().map(|ip| ip.address.to_string()).collect()
}

pub(crate) fn networks(session: &Session) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for (file, list) in load::all(&session.environment.networks)? {
        match list {
            Err(error) => warn(&format!("read {}: {error}", file.display())),
            Ok(list) => {
                let plugins: Vec<_> = list.plugins().iter().map(|plugin| plugin.kind()).collect();
                let version = match list.version_text() {
                    "" => Version::V0_1_0.as_str(),
                    version => version,
                };
                rows.push([
                    list.name().to_string(),
                    version.to_owned(),
                    plugins.join(","),
                    file.to_string_lossy().into_owned(),
                ]);
            }
        }
    }
    print(table(&rows))
}

pub(crate) fn findings(session: &Session, network: Option<&str>) -> Result<ExitCode> {
    let folder = &session.environment.networks;
    let lists = match network {
        None => load::all(folder)?,
        Some(file) if file.contains('/') => vec![(file.into(), load::file(Path::new(file)))],
        Some(name) => {
            let found = load::network(folder, name)?;
            found.remarks.iter().for_each(|remark| warn(remark));
            vec![(found.file, Ok(found.list))]
        }
    };
    let mut text = String::new();
    let mut fatal = false;
    let mut seen: Vec<(String, PathBuf)> = Vec::new();
    for (file, list) in lists {
        let shown = file.display();
        let list = match list {
            Err(error) => {
                let _ = writeln!(text, "{shown}: error: {error}");
                fatal = true;
                continue;
            }
            Ok(list) => list,
        };
        let mut findings = lint::lint(&session.runtime, &list);
        if let Some((_, first)) = seen.iter().find(|(name, _)| name == list.name().as_str()) {
            findings.push(lint::Finding {
                fatal: false,
                text: format!("it is never used: {} has the same name", first.display()),
            });
        }
        for finding in &findings {
            let _ = writeln!(text, "{shown}: {finding}");
        }
        if findings.is_empty() {
            let _ = writeln!(text, "{shown}: network {:?} is valid", list.name().as_str());
        }
        fatal |= findings.iter().any(|finding| finding.fatal);
        seen.push((list.name().to_string(), file));
    }
    print(text)?;
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn versions(session: &Session, plugins: &[String]) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut failed = false;
    let mut show = |name: &str, spoken: Result<Vec<String>>| match spoken {
        Ok(spoken) => rows.push([name.to_owned(), spoken.join(" ")]),
        Err(error) => {
            crate::complain(&error.to_string());
            failed = true;
        }
    };
    show("cnitool", Ok(Version::ALL.iter().map(ToString::to_string).collect()));
    for plugin in plugins {
        show(plugin, session.runtime.versions_of(plugin));
    }
    if plugins.is_empty() {
        for (name, file) in installed(session) {
            show(&name, versions_of(&file));
        }
    }
    print(table(&rows))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Every executable in the folders of plugins, sorted by name; of one name the
/// first is used. This one may be among them, and is no plugin.
fn installed(session: &Session) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for folder in std::env::split_paths(session.runtime.path()) {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let executable =
                |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_first =
                name != env!("CARGO_PKG_NAME") && !found.iter().any(|(known, _)| *known == name);
            if is_first && entry.path().metadata().is_ok_and(executable) {
                found.push((name, entry.path()));
            }
        }
    }
    found.sort();
    found
}

/// Columns two spaces apart; the last one is not filled up.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row[..N - 1].iter().zip(&widths) {
            let shown = if cell.is_empty() { "-" } else { cell };
            let _ = write!(text, "{shown:<width$}  ");
        }
        let last = &row[N - 1];
        text.push_str(if last.is_empty() { "-" } else { last });
        text.push('\n');
    }
    text
}
