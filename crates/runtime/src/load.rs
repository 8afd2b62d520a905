//! Finding a network in a folder of configuration files.
//!
//! `*.conflist` files are looked through first, in the order of their names,
//! then `*.conf` and `*.json` files with one plugin each. Unless the list says
//! otherwise, the plugins in `<folder>/<network>/*.conf` are appended to its
//! own.
//!
//! A file that cannot be read does not stand in the way of other networks: it
//! is remarked on. The reference library stops at the first one.

use crate::list::{ConfigList, PluginConfig, name_of, parse_object};
use cni::{Code, Error, NetworkName, Result};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes; plugins take no larger one.
const FILE_LIMIT: u64 = 16 << 20;

/// A network found in a folder.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its configuration.
    pub list: ConfigList,
    /// The file it is written in.
    pub file: PathBuf,
    /// Files that came before and could not be read: the network could have
    /// been in one of them.
    pub remarks: Vec<String>,
}

/// Finds the network `name` in `folder`.
///
/// # Errors
/// Code 7 for an impossible name, when there is no such network, or when its
/// file is not valid.
pub fn network(folder: &Path, name: &str) -> Result<Found> {
    let wanted = NetworkName::new(name)
        .map_err(|e| e.context(format!("find network {name:?} in {}", folder.display())))?;
    let mut remarks = Vec::new();
    let mut others = Vec::new();
    for (form, file) in files(folder)? {
        match Candidate::read(form, &file) {
            Err(e) => remarks.push(format!("read {}: {e}", file.display())),
            Ok(candidate) if candidate.name != wanted.as_str() => others.push(candidate.name),
            Ok(candidate) => {
                let list = candidate
                    .finish(folder)
                    .map_err(|e| e.context(format!("read {}", file.display())))?;
                return Ok(Found { list, file, remarks });
            }
        }
    }
    let known = match others.is_empty() {
        true => "there is no other either".to_owned(),
        false => format!("it has {}", others.join(", ")),
    };
    let error = Error::invalid_config(format!(
        "find network {name:?} in {}: no configuration has this name: {known}",
        folder.display()
    ));
    Err(remarks.iter().fold(error, |error, remark| error.with_details(remark)))
}

/// Every configuration file in `folder`, in the order [`network`] looks.
///
/// # Errors
/// The folder cannot be read.
pub fn all(folder: &Path) -> Result<Vec<(PathBuf, Result<ConfigList>)>> {
    let read = |form, file: &Path| Candidate::read(form, file)?.finish(folder);
    Ok(files(folder)?
        .into_iter()
        .map(|(form, file)| {
            let list = read(form, &file);
            (file, list)
        })
        .collect())
}

/// The configuration in `file`, whatever its name ends in, with the plugins of
/// the folder beside it.
///
/// # Errors
/// It cannot be read or is not valid.
pub fn file(file: &Path) -> Result<ConfigList> {
    let form = match extension(file) {
        "conf" | "json" => Form::Single,
        _ => Form::List,
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    Candidate::read(form, file)
        .and_then(|candidate| candidate.finish(folder))
        .map_err(|e| e.context(format!("read {}", file.display())))
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    List,
    Single,
}

/// A file of which only the name of the network is known.
struct Candidate {
    form: Form,
    name: String,
    bytes: Vec<u8>,
}

impl Candidate {
    fn read(form: Form, file: &Path) -> Result<Candidate> {
        let bytes = read_file(file)?;
        let document = parse_object(&bytes)?;
        let name = match form {
            Form::List => name_of(&document)?.to_owned(),
            Form::Single => cni::config::get(&document.into(), "name")
                .and_then(|name| name.as_str().map(str::to_owned))
                .unwrap_or_default(),
        };
        Ok(Candidate { form, name, bytes })
    }

    fn finish(self, folder: &Path) -> Result<ConfigList> {
        let mut list = match self.form {
            Form::List => ConfigList::parse_incomplete(&self.bytes)?,
            Form::Single => ConfigList::parse_single(&self.bytes)?,
        };
        if self.form == Form::List && !list.only_inlined() {
            let folder = folder.join(list.name().as_str());
            list.append(plugins_in(&folder)?);
            if list.plugins().is_empty() {
                return Err(Error::invalid_config(format!(
                    "there is no plugin in it, nor in {}",
                    folder.display()
                )));
            }
        }
        Ok(list)
    }
}

/// The plugins a folder adds, in the order of the names.
fn plugins_in(folder: &Path) -> Result<Vec<PluginConfig>> {
    let Some(files) = list_folder(folder)? else { return Ok(Vec::new()) };
    files
        .iter()
        .filter(|file| extension(file) == "conf")
        .map(|file| {
            read_file(file)
                .and_then(|bytes| PluginConfig::parse(&bytes))
                .map_err(|e| e.context(format!("read {}", file.display())))
        })
        .collect()
}

fn files(folder: &Path) -> Result<Vec<(Form, PathBuf)>> {
    let none = |what: &str| {
        Error::invalid_config(format!("no network configuration in {}: {what}", folder.display()))
    };
    let Some(all) = list_folder(folder)? else { return Err(none("there is no such folder")) };
    let of = |form: Form, extensions: &[&str]| {
        let files = all.iter().filter(|file| extensions.contains(&extension(file)));
        files.map(|file| (form, file.clone())).collect::<Vec<_>>()
    };
    let mut files = of(Form::List, &["conflist"]);
    files.extend(of(Form::Single, &["conf", "json"]));
    match files.is_empty() {
        true => Err(none("no file in it ends in .conflist, .conf or .json")),
        false => Ok(files),
    }
}

/// What is in a folder and is not a folder, sorted by name; `None` when there
/// is no such folder. Links are kept, wherever they lead.
fn list_folder(folder: &Path) -> Result<Option<Vec<PathBuf>>> {
    let failed =
        |e: io::Error| Error::new(Code::IO, format!("read folder {}: {e}", folder.display()));
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if !entry.file_type().map_err(failed)?.is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(Some(files))
}

/// Behind the last dot, in exact letters; unlike [`Path::extension`] it takes
/// `.conflist` for one.
fn extension(file: &Path) -> &str {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn read_file(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Opening a pipe would wait for a writer.
    let kind = file.metadata().map_err(|e| Error::new(Code::IO, e.to_string()))?;
    if !kind.is_file() {
        return Err(Error::new(Code::IO, "it is not a regular file"));
    }
    File::open(file)
        .and_then(|opened| opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::new(Code::IO, e.to_string()))?;
    match bytes.len() as u64 > FILE_LIMIT {
        true => Err(Error::invalid_config(format!("it is larger than {} MiB", FILE_LIMIT >> 20))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests;
