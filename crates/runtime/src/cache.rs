//! The cache of results: who is attached to what, and with which outcome.
//!
//! `<folder>/results/<network>-<container>-<interface>` is one attachment, in
//! the format of the reference library ("cniCacheV1"), so that both programs
//! can be used in turn. Three things are done more carefully here:
//!
//! - a file appears complete or not at all;
//! - `-` is legal in all three parts of the name, so two attachments can share
//!   a name. The content tells whose a file is; the second one goes to a name
//!   with a hash in it, as does one whose name would be too long;
//! - a file under a wrong name is known by its content.

use crate::attachment::{Attachment, hex};
use crate::gc::is_namespace;
use crate::json::compact;
use crate::list::ConfigList;
use crate::{Outcome, base64};
use cni::{Code, Error, Result, Version, config};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha512};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use store::Dir;

const KIND: &str = "cniCacheV1";

/// The largest file that is read, in bytes: a configuration and a result.
const FILE_LIMIT: u64 = 64 << 20;

/// The longest file name on every common file system, in bytes.
const NAME_LIMIT: usize = 255;

/// A cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// One cached attachment.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where it is written.
    pub file: PathBuf,
    /// The network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
    /// The network namespace, as ADD was given it; in files of before version 1.2 of
    /// the reference library, as the result names it. Empty when neither does.
    pub netns: PathBuf,
    /// `CNI_ARGS` of the ADD.
    pub args: Vec<(String, String)>,
    /// Capability values of the ADD.
    pub capabilities: Map<String, Value>,
    /// The configuration list of the ADD, without what a plugin folder added;
    /// empty in files of before version 0.7 of the reference library.
    pub config: Vec<u8>,
    /// The result as it was cached; see [`Entry::outcome`].
    pub result: Option<Value>,
}

/// All that is in a cache folder.
#[derive(Debug, Default)]
pub struct Contents {
    /// In the order of the file names.
    pub entries: Vec<Entry>,
    /// Files that do not tell whose they are, and why.
    pub unreadable: Vec<(PathBuf, Error)>,
}

/// The format on disk, in the order of its keys.
#[derive(Serialize)]
struct Written<'a> {
    kind: &'a str,
    #[serde(rename = "containerId")]
    container_id: &'a str,
    config: String,
    #[serde(rename = "ifName")]
    ifname: &'a str,
    #[serde(rename = "networkName")]
    network: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    netns: &'a str,
    #[serde(rename = "cniArgs", skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [(String, String)],
    #[serde(rename = "capabilityArgs", skip_serializing_if = "Map::is_empty")]
    capabilities: &'a Map<String, Value>,
    result: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    #[serde(rename = "containerId")]
    container_id: String,
    config: String,
    #[serde(rename = "ifName")]
    ifname: String,
    #[serde(rename = "networkName")]
    network: String,
    netns: PathBuf,
    #[serde(rename = "cniArgs")]
    args: Vec<(String, String)>,
    #[serde(rename = "capabilityArgs")]
    capabilities: Map<String, Value>,
    result: Option<Value>,
}

impl Cache {
    /// The cache in `folder`, for example `/var/lib/cni`; nothing is created
    /// before the first write.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn results(&self) -> PathBuf {
        self.folder.join("results")
    }

    /// The entry of an attachment; `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn get(&self, network: &str, container_id: &str, ifname: &str) -> Result<Option<Entry>> {
        let name = Name { network, container_id, ifname };
        for file in name.candidates(&self.results()) {
            match read(&file)? {
                None | Some(Content::Unknown) => {}
                Some(Content::Bare(result)) => return Ok(Some(name.bare_entry(file, result))),
                Some(Content::Entry(entry)) if name.is_of(&entry) => return Ok(Some(entry)),
                Some(Content::Entry(_)) => {}
            }
        }
        Ok(None)
    }

    /// Every attachment of every network.
    ///
    /// # Errors
    /// The folder is there and cannot be read. A file that cannot be is part
    /// of the contents.
    pub fn contents(&self) -> Result<Contents> {
        let folder = self.results();
        let failed =
            |e: io::Error| Error::new(Code::IO, format!("read cache {}: {e}", folder.display()));
        let listed = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
            listed => listed.map_err(failed)?,
        };
        let mut files = Vec::new();
        for entry in listed {
            files.push(entry.map_err(failed)?.path());
        }
        files.sort();
        let mut contents = Contents::default();
        for file in files {
            match read(&file) {
                // Removed since, or never an attachment.
                Ok(None | Some(Content::Unknown)) => {}
                Ok(Some(Content::Entry(entry))) => contents.entries.push(entry),
                Ok(Some(Content::Bare(_))) => {
                    let error = Error::new(
                        Code::DECODE,
                        format!(
                            "read cache file {}: it does not say whose result it is",
                            file.display()
                        ),
                    );
                    contents.unreadable.push((file, error));
                }
                // Just being written, by the name of `store`'s; or left by a
                // process that was killed, and no loss.
                Err(_) if split(&file).1.to_string_lossy().starts_with(".new-") => {}
                Err(error) => contents.unreadable.push((file, error)),
            }
        }
        Ok(contents)
    }

    /// Keeps the outcome of an ADD.
    pub(crate) fn put(
        &self,
        list: &ConfigList,
        attachment: &Attachment,
        outcome: &Outcome,
    ) -> Result<()> {
        let name = Name {
            network: list.name().as_str(),
            container_id: attachment.container_id.as_str(),
            ifname: attachment.ifname.as_str(),
        };
        let written = Written {
            kind: KIND,
            container_id: name.container_id,
            config: base64::encode(list.bytes()),
            ifname: name.ifname,
            network: name.network,
            netns: &attachment.netns.to_string_lossy(),
            args: &attachment.args,
            capabilities: &attachment.capabilities,
            result: outcome.to_value(),
        };
        let candidates = name.candidates(&self.results());
        let taken = |file: &Path| matches!(read(file), Ok(Some(Content::Entry(entry))) if !name.is_of(&entry));
        let file = candidates.iter().find(|file| !taken(file)).ok_or_else(|| {
            Error::internal(format!(
                "cache the result of {}: both {} are held by other attachments",
                name.network,
                candidates
                    .iter()
                    .map(|c| c.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" and ")
            ))
        })?;
        let (folder, file_name) = split(file);
        Dir::create(folder, 0o700)
            .and_then(|folder| folder.replace(file_name, 0o600, &compact(&written)))
            .map_err(|e| Error::new(Code::IO, format!("keep the result: {e}")))?;
        // It may have been under the other name until now.
        let ours = |file: &Path| matches!(read(file), Ok(Some(Content::Entry(entry))) if name.is_of(&entry));
        let mut former = candidates.iter().filter(|other| *other != file && ours(other));
        former.try_for_each(|other| remove_file(other))
    }

    /// Forgets an attachment; one that is not there is not an error.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, network: &str, container_id: &str, ifname: &str) -> Result<()> {
        let name = Name { network, container_id, ifname };
        for file in name.candidates(&self.results()) {
            match read(&file) {
                Ok(None | Some(Content::Unknown)) => {}
                Ok(Some(Content::Entry(entry))) if !name.is_of(&entry) => {}
                // Whatever else is under our name would only be found broken
                // again by the next verb.
                _ => remove_file(&file)?,
            }
        }
        Ok(())
    }
}

/// Whether the network namespace of an attachment is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Exists,
    /// It is not.
    Gone,
    /// The entry does not say where it was: the attachment may live.
    Unknown,
}

impl Entry {
    /// Is its network namespace there?
    pub fn presence(&self) -> Presence {
        match self.netns.as_os_str().is_empty() {
            true => Presence::Unknown,
            false if is_namespace(&self.netns) => Presence::Exists,
            false => Presence::Gone,
        }
    }

    /// What DEL of it is to be given.
    ///
    /// # Errors
    /// Its names are malformed: no ADD has made it.
    pub fn attachment(&self) -> Result<Attachment> {
        let attachment = Attachment::new(&self.container_id, self.netns.clone(), &self.ifname)
            .map_err(|e| e.context(format!("read cache file {}", self.file.display())))?;
        Ok(Attachment {
            args: self.args.clone(),
            capabilities: self.capabilities.clone(),
            ..attachment
        })
    }

    /// The result, converted to `version`. A missing one is an empty one.
    ///
    /// # Errors
    /// It is malformed, or `version` cannot express it.
    pub fn outcome(&self, version: Version) -> Result<Outcome> {
        Outcome::cached(self.result.as_ref(), version)
            .map_err(|e| e.context(format!("read cache file {}", self.file.display())))
    }

    fn name(&self) -> Name<'_> {
        Name { network: &self.network, container_id: &self.container_id, ifname: &self.ifname }
    }
}

/// What names an attachment in the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name<'a> {
    network: &'a str,
    container_id: &'a str,
    ifname: &'a str,
}

impl Name<'_> {
    /// Where it can be: under the usual name, or the one with a hash.
    fn candidates(&self, results: &Path) -> Vec<PathBuf> {
        let Name { network, container_id, ifname } = self;
        let usual = format!("{network}-{container_id}-{ifname}");
        // No part of a name has a `/`, so the three cannot be told apart
        // wrongly.
        let digest = hex(&Sha512::digest(format!("{network}/{container_id}/{ifname}"))[..8]);
        let mut end = usual.len().min(NAME_LIMIT - 1 - digest.len());
        while !usual.is_char_boundary(end) {
            end -= 1;
        }
        let hashed = format!("{}~{digest}", &usual[..end]);
        let mut candidates = Vec::with_capacity(2);
        if usual.len() <= NAME_LIMIT {
            candidates.push(results.join(usual));
        }
        candidates.push(results.join(hashed));
        candidates
    }

    fn is_of(&self, entry: &Entry) -> bool {
        *self == entry.name()
    }

    fn bare_entry(&self, file: PathBuf, result: Value) -> Entry {
        Entry {
            file,
            network: self.network.to_owned(),
            container_id: self.container_id.to_owned(),
            ifname: self.ifname.to_owned(),
            netns: PathBuf::new(),
            args: Vec::new(),
            capabilities: Map::new(),
            config: Vec::new(),
            result: Some(result),
        }
    }
}

/// What a file holds.
enum Content {
    Entry(Entry),
    /// A result and nothing else, as before version 0.7 of the reference
    /// library; its name tells whose it is, but not unambiguously.
    Bare(Value),
    /// A folder, a pipe, ..: nothing of the cache's.
    Unknown,
}

/// `None` when there is no such file.
fn read(file: &Path) -> Result<Option<Content>> {
    let failed = |code: Code, what: String| {
        Error::new(code, format!("read cache file {}: {what}", file.display()))
    };
    let metadata = match file.metadata() {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        metadata => metadata.map_err(|e| failed(Code::IO, e.to_string()))?,
    };
    if !metadata.is_file() {
        return Ok(Some(Content::Unknown));
    }
    let mut bytes = Vec::new();
    match File::open(file).and_then(|f| f.take(FILE_LIMIT + 1).read_to_end(&mut bytes)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| failed(Code::IO, e.to_string()))?,
    };
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(failed(Code::DECODE, format!("it is larger than {} MiB", FILE_LIMIT >> 20)));
    }
    let value = config::parse(&bytes).map_err(|e| failed(Code::DECODE, e.to_string()))?;
    if !value.is_object() {
        return Err(failed(Code::DECODE, "it is not a JSON object".to_owned()));
    }
    if config::get(&value, "kind").and_then(Value::as_str) != Some(KIND) {
        return Ok(Some(Content::Bare(value)));
    }
    let stored: Stored = config::decode(&value).map_err(|e| failed(Code::DECODE, e.to_string()))?;
    if [&stored.network, &stored.container_id, &stored.ifname].iter().any(|part| part.is_empty()) {
        return Err(failed(Code::DECODE, "it does not name an attachment".to_owned()));
    }
    let config = base64::decode(&stored.config)
        .ok_or_else(|| failed(Code::DECODE, "config: it is not base64".to_owned()))?;
    let netns = match stored.netns.as_os_str().is_empty() {
        true => stored.result.as_ref().and_then(|result| sandbox_of(result, &stored.ifname)),
        false => Some(stored.netns),
    };
    Ok(Some(Content::Entry(Entry {
        file: file.to_owned(),
        network: stored.network,
        container_id: stored.container_id,
        ifname: stored.ifname,
        netns: netns.unwrap_or_default(),
        args: stored.args,
        capabilities: stored.capabilities,
        config,
        result: stored.result,
    })))
}

/// The namespace in which a result (version 0.3.0 and later) has interfaces: that of
/// the one called `ifname`, or else of the first. What is no absolute path is the name
/// of a virtual machine.
fn sandbox_of(result: &Value, ifname: &str) -> Option<PathBuf> {
    let text = |interface, key| config::get(interface, key).and_then(Value::as_str);
    let inside: Vec<(&Value, &str)> = config::get(result, "interfaces")?
        .as_array()?
        .iter()
        .filter_map(|interface| Some((interface, text(interface, "sandbox")?)))
        .filter(|(_, sandbox)| sandbox.starts_with('/'))
        .collect();
    let named = inside.iter().find(|(interface, _)| text(interface, "name") == Some(ifname));
    named.or(inside.first()).map(|(_, sandbox)| PathBuf::from(sandbox))
}

pub(crate) fn remove_file(file: &Path) -> Result<()> {
    let (folder, name) = split(file);
    let removed = Dir::open(folder).and_then(|folder| folder.remove(name));
    match removed {
        Err(e) if !e.is_not_found() => Err(Error::new(Code::IO, format!("forget the result: {e}"))),
        _ => Ok(()),
    }
}

fn split(file: &Path) -> (&Path, &OsStr) {
    (
        file.parent().expect("a candidate is in a folder"),
        file.file_name().expect("a candidate has a name"),
    )
}

#[cfg(test)]
mod tests;
