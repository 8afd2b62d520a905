//! What is attached: a container by its ID, its network namespace, the
//! interface in it, and what the caller wants for it.

use cni::{Code, ContainerId, Error, IfName, Result, config};
use serde_json::{Map, Value};
use sha2::{Digest, Sha512};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// An attachment as the caller of a verb describes it. CHECK and DEL must be
/// given what ADD was given.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The container.
    pub container_id: ContainerId,
    /// The interface in it.
    pub ifname: IfName,
    /// The path of its network namespace; may be empty for DEL.
    pub netns: PathBuf,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// Values of capabilities (`portMappings`, `bandwidth`, ..), for the
    /// `runtimeConfig` of the plugins that declare them.
    pub capabilities: Map<String, Value>,
}

impl Attachment {
    /// Without arguments and capabilities.
    ///
    /// # Errors
    /// A malformed ID (code 3 or 4) or interface name (code 4).
    pub fn new(container_id: &str, netns: impl Into<PathBuf>, ifname: &str) -> Result<Attachment> {
        Ok(Attachment {
            container_id: ContainerId::new(container_id)?,
            ifname: IfName::new(ifname)?,
            netns: netns.into(),
            args: Vec::new(),
            capabilities: Map::new(),
        })
    }

    /// The attachment `cnitool` makes: its container ID comes from the path of
    /// the namespace, which is made absolute.
    ///
    /// # Errors
    /// A malformed interface name, or no working directory.
    pub fn of_netns(netns: &Path, ifname: &str) -> Result<Attachment> {
        let netns = absolute(netns)?;
        let container_id = container_id_of_netns(&netns);
        Attachment::new(&container_id, netns, ifname)
    }

    /// `CNI_ARGS` as plugins get it.
    pub(crate) fn args_text(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(";")
    }
}

/// The container ID `cnitool` gives the namespace at an absolute path:
/// `cnitool-` and the first 10 bytes of the path's SHA-512 in hexadecimal.
pub fn container_id_of_netns(netns: &Path) -> String {
    format!("cnitool-{}", hex(&Sha512::digest(netns.as_os_str().as_bytes())[..10]))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `path`, absolute, without `.`, `..` and doubled slashes, by its text alone:
/// links are not followed and nothing need exist.
///
/// # Errors
/// The working directory is gone and `path` is relative to it.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let full = match path.is_absolute() {
        true => path.to_owned(),
        false => std::env::current_dir()
            .map_err(|e| Error::new(Code::IO, format!("make {} absolute: {e}", path.display())))?
            .join(path),
    };
    let mut clean = PathBuf::from("/");
    for component in full.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => _ = clean.pop(),
            _ => {}
        }
    }
    Ok(clean)
}

/// Parses `CNI_ARGS` as a runtime takes it: `K=V;K2=V2`, no part empty.
///
/// # Errors
/// Code 4, naming the pair.
pub fn parse_args(text: &str) -> Result<Vec<(String, String)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(';')
        .zip(1..)
        .map(|(pair, number)| match pair.split_once('=') {
            Some((k, v)) if !k.is_empty() && !v.is_empty() && !v.contains('=') => {
                Ok((k.to_owned(), v.to_owned()))
            }
            _ => Err(Error::new(
                Code::INVALID_ENVIRONMENT,
                // Not what it is: it may be a password.
                format!("invalid CNI_ARGS pair {number}: pairs are KEY=VALUE, joined by \";\""),
            )),
        })
        .collect()
}

/// Parses `CAP_ARGS`, a JSON object from capability to value.
///
/// # Errors
/// Code 4 when it is not an object.
pub fn parse_capabilities(text: &OsStr) -> Result<Map<String, Value>> {
    let invalid = |what: String| {
        Err(Error::new(Code::INVALID_ENVIRONMENT, format!("parse CAP_ARGS: {what}")))
    };
    match config::parse(text.as_bytes()) {
        Ok(Value::Object(capabilities)) => Ok(capabilities),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => invalid("it must be a JSON object such as {\"portMappings\": [..]}".to_owned()),
        Err(e) => invalid(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_those_of_the_well_known_tool() {
        let path = Path::new("/var/run/netns/testing");
        assert_eq!(container_id_of_netns(path), "cnitool-77383ca0a0715733ca6f");
        let attachment = Attachment::of_netns(Path::new("/var/run/./netns/testing/"), "eth0");
        let attachment = attachment.expect("valid");
        assert_eq!(attachment.container_id.as_str(), "cnitool-77383ca0a0715733ca6f");
        assert_eq!(attachment.netns, path);
    }

    #[test]
    fn paths_are_cleaned_by_their_text() {
        let cwd = std::env::current_dir().expect("there is one");
        for (given, clean) in [
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("/..", "/"),
            ("/", "/"),
            ("/a/b/..", "/a"),
        ] {
            assert_eq!(absolute(Path::new(given)), Ok(PathBuf::from(clean)), "{given}");
        }
        assert_eq!(absolute(Path::new("")), Ok(cwd.clone()));
        assert_eq!(absolute(Path::new("./x")), Ok(cwd.join("x")));
    }

    #[test]
    fn args() {
        let pairs = |list: &[(&str, &str)]| {
            list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(parse_args(""), Ok(vec![]));
        assert_eq!(parse_args("A=1;B=x y;A=2"), Ok(pairs(&[("A", "1"), ("B", "x y"), ("A", "2")])));
        for bad in ["A", "A=", "=1", "A=1;", ";", "A=1=2"] {
            assert!(parse_args(bad).expect_err(bad).msg().starts_with("invalid CNI_ARGS pair"));
        }
    }

    #[test]
    fn capabilities() {
        let parse = |text: &str| parse_capabilities(OsStr::new(text));
        assert_eq!(parse("null"), Ok(Map::new()));
        assert_eq!(parse(r#"{"ips":["10.0.0.1"]}"#).expect("an object").len(), 1);
        for bad in ["", "[]", "1", "{", "{} x"] {
            assert!(parse(bad).expect_err(bad).msg().starts_with("parse CAP_ARGS"));
        }
    }
}
