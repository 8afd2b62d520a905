//! What the runtime asks for. Identifiers are checked at birth, so no code
//! behind the door needs to doubt them.

use crate::attachments::{Attachments, Listed, Whole};
use crate::config::{self, ConfError};
use crate::intake::{Intake, Taken};
use crate::log::Log;
use crate::versions::{self, Version};
use crate::{Code, Error, Plugin, Result, Success};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Names what the runtime made: the ID of a container.
///
/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, so it is safe as part of a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

/// The name of a network: the same alphabet as [`ContainerId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkName(String);

/// The name of the interface in the container: 1 to 15 bytes, not `.` or
/// `..`, without `/`, `:` and white space (the kernel's `dev_valid_name`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(String);

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl ContainerId {
    /// Checks `text`.
    ///
    /// # Errors
    /// Code 3 when empty, code 4 for a character outside the alphabet.
    pub fn new(text: impl Into<String>) -> Result<ContainerId> {
        let text = text.into();
        if text.is_empty() {
            return Err(Error::new(Code::UNKNOWN_CONTAINER, "missing containerID"));
        }
        if !is_identifier(&text) {
            return Err(Error::new(Code::INVALID_ENVIRONMENT, "invalid characters in containerID")
                .with_details(text));
        }
        Ok(ContainerId(text))
    }
}

impl NetworkName {
    /// Checks `text`.
    ///
    /// # Errors
    /// Code 7.
    pub fn new(text: impl Into<String>) -> Result<NetworkName> {
        let text = text.into();
        if text.is_empty() {
            return Err(Error::invalid_config("missing network name"));
        }
        if !is_identifier(&text) {
            return Err(Error::invalid_config("invalid characters found in network name")
                .with_details(text));
        }
        Ok(NetworkName(text))
    }
}

impl IfName {
    /// Checks `text`.
    ///
    /// # Errors
    /// Code 4.
    pub fn new(text: impl Into<String>) -> Result<IfName> {
        let text = text.into();
        let invalid = |msg: &str| Err(Error::new(Code::INVALID_ENVIRONMENT, msg));
        match text.as_str() {
            "" => invalid("interface name is empty"),
            _ if text.len() > 15 => invalid("interface name is too long").map_err(|e: Error| {
                e.with_details("interface name should be less than 16 characters")
            }),
            "." | ".." => invalid("interface name is . or .."),
            _ if text.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace()) => {
                invalid("interface name contains / or : or whitespace characters")
            }
            _ => Ok(IfName(text)),
        }
    }
}

macro_rules! text {
    ($type:ty) => {
        impl $type {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(ContainerId);
text!(NetworkName);
text!(IfName);

/// Names an attachment on a network, as in `cni.dev/valid-attachments`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct AttachmentId {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

/// The network of a request: its configuration, and where delegates are.
#[derive(Clone)]
pub struct Network {
    name: NetworkName,
    version: Version,
    config: Value,
    listed: Listed,
    text: Vec<u8>,
    path: OsString,
    registry: &'static [&'static dyn Plugin],
    log: Option<&'static Log>,
}

impl Network {
    /// Checks a configuration document.
    ///
    /// `path` is `CNI_PATH`; `registry` lists the plugins in this executable,
    /// which [`crate::delegate`] may call in process.
    ///
    /// # Errors
    /// Code 6 when `raw` cannot be decoded, 7 for a bad name, 1 for an unknown
    /// version.
    pub fn new(
        raw: Vec<u8>,
        path: OsString,
        registry: &'static [&'static dyn Plugin],
    ) -> Result<Network> {
        let document = Document::read(&mut raw.as_slice())?;
        let version = document.version.as_str();
        let version = version.parse().map_err(|()| incompatible(version, Version::ALL))?;
        Ok(Network::from_parts(document, version, path, registry))
    }

    pub(crate) fn from_parts(
        document: Document,
        version: Version,
        path: OsString,
        registry: &'static [&'static dyn Plugin],
    ) -> Network {
        let Document { name, config, listed, text, .. } = document;
        Network { name, version, config, listed, text, path, registry, log: None }
    }

    /// Has what delegates do in this process written down as well.
    pub(crate) fn logged(self, log: Option<&'static Log>) -> Network {
        Network { log, ..self }
    }

    pub(crate) fn log(&self) -> Option<&'static Log> {
        self.log
    }

    /// For the log: an ADD or a RESTORE has made these, by names without spaces.
    pub fn made(&self, things: impl IntoIterator<Item = impl fmt::Display>) {
        if let Some(log) = self.log {
            log.made(things);
        }
    }

    /// The same of what a DEL or a GC has removed.
    pub fn removed(&self, things: impl IntoIterator<Item = impl fmt::Display>) {
        if let Some(log) = self.log {
            log.removed(things);
        }
    }

    /// The same request environment with another configuration document, for
    /// plugins that write the configuration of their delegate themselves.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn with_config(&self, raw: Vec<u8>) -> Result<Network> {
        Network::new(raw, self.path.clone(), self.registry).map(|new| new.logged(self.log))
    }

    /// [`Network::with_config`] for a delegate's GC: the lists of attachments in
    /// `raw`, which are empty, have what those of this request have.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn with_config_of_gc(&self, raw: Vec<u8>) -> Result<Network> {
        let new = self.with_config(raw)?;
        Ok(Network { listed: new.listed.with_items_of(&self.listed), ..new })
    }

    /// The name of the network.
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The version results are printed in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The configuration as a document, without the lists of attachments.
    pub fn document(&self) -> &Value {
        &self.config
    }

    /// The configuration, byte by byte as it came, but for what stood in lists of
    /// attachments.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The configuration as it came: what delegates get.
    pub(crate) fn whole(&self) -> Whole<'_> {
        self.listed.put_back(&self.text)
    }

    /// The configuration as a type.
    ///
    /// # Errors
    /// Code 7, naming the path of the culprit.
    pub fn conf<T: DeserializeOwned>(&self) -> Result<T> {
        config::decode(&self.config).map_err(|e: ConfError| {
            Error::invalid_config(format!("load network configuration {:?}: {e}", self.name.0))
        })
    }

    /// `CNI_PATH`.
    pub(crate) fn path(&self) -> &OsString {
        &self.path
    }

    pub(crate) fn registry(&self) -> &'static [&'static dyn Plugin] {
        self.registry
    }

    /// Has each plugin here [forget](Plugin::forget) an attachment that is dead.
    ///
    /// # Errors
    /// The first plugin's that cannot: the address must not be given away.
    pub fn forget(&self, dead: &AttachmentId, address: IpAddr) -> Result<()> {
        self.registry.iter().try_for_each(|plugin| plugin.forget(self, dead, address)).map_err(
            |error| {
                let container_id = &dead.container_id;
                error.context(format_args!("take {address} over from container {container_id}"))
            },
        )
    }

    /// The same before the addresses go of all attachments that are not valid, by GC.
    ///
    /// # Errors
    /// All that went wrong.
    pub fn forget_invalid(&self) -> Result<()> {
        let outcomes = self.registry.iter().map(|plugin| plugin.forget_invalid(self));
        Error::join(outcomes.filter_map(Result::err).collect())
    }

    /// The attachments that must survive a GC; `None` when the runtime did
    /// not say, and then nothing may be removed. A `null` is what the
    /// reference runtime library writes for an empty list.
    ///
    /// # Errors
    /// Code 7 when the list is malformed: then nothing may be removed either.
    pub fn valid_attachments(&self) -> Result<Option<Attachments<'_>>> {
        self.listed.read().map_err(|(key, e)| {
            Error::invalid_config(format!("read the valid attachments in {key}: {e}"))
        })
    }
}

/// ADD, CHECK or DEL of one attachment.
#[derive(Clone)]
pub struct Request {
    /// The network it attaches to.
    pub network: Network,
    /// The container.
    pub container_id: ContainerId,
    /// The interface in the container.
    pub ifname: IfName,
    /// The path of the container's network namespace. Always there for ADD
    /// and CHECK; it may be missing, or lead nowhere, for DEL.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`, not yet parsed: each plugin knows other keys.
    pub args: String,
}

impl Request {
    /// The path of the network namespace.
    ///
    /// # Errors
    /// Code 4 when the runtime gave none (the dispatcher refuses ADD and CHECK
    /// without it).
    pub fn netns(&self) -> Result<&Path> {
        self.netns.as_deref().ok_or_else(|| {
            Error::new(Code::INVALID_ENVIRONMENT, "required env variables [CNI_NETNS] missing")
        })
    }

    /// The netns path as results and previous results write it.
    pub fn sandbox(&self) -> String {
        self.netns.as_deref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The attachment's name on its network.
    pub fn attachment(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.0.clone(), ifname: self.ifname.0.clone() }
    }

    /// The result of the plugin before this one in the chain, or of the ADD
    /// (for CHECK and DEL).
    ///
    /// # Errors
    /// Code 6 when it is malformed or of another family of versions than the
    /// configuration.
    pub fn prev_result(&self) -> Result<Option<Success>> {
        match config::get(&self.network.config, "prevResult") {
            None => Ok(None),
            Some(value) => versions::parse_prev_result(value, self.network.version).map(Some),
        }
    }

    /// The same attachment on a network with another configuration.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn with_config(&self, raw: Vec<u8>) -> Result<Request> {
        Ok(Request { network: self.network.with_config(raw)?, ..self.clone() })
    }
}

/// A configuration document of which only the name was checked.
pub(crate) struct Document {
    pub(crate) name: NetworkName,
    pub(crate) version: String,
    config: Value,
    listed: Listed,
    text: Vec<u8>,
}

/// The largest configuration that is read, in bytes. Real ones have a few
/// thousand; the limit keeps a broken runtime from filling the memory.
const CONFIG_LIMIT: u64 = 16 << 20;

impl Document {
    /// Reads it to its end.
    ///
    /// # Errors
    /// Code 5 when it cannot be read, 6 when it cannot be decoded, 7 for a bad name.
    pub(crate) fn read(source: &mut dyn Read) -> Result<Document> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Head {
            name: String,
            #[serde(rename = "cniVersion")]
            version: String,
        }
        let undecodable = |why: String| {
            Error::new(Code::DECODE, format!("decode the network configuration on stdin: {why}"))
        };
        let Taken { text, document, listed } = take(source)?.finish().map_err(undecodable)?;
        let head: Head = config::decode(&document).map_err(|e| undecodable(e.to_string()))?;
        let name = NetworkName::new(head.name)?;
        Ok(Document { name, version: head.version, config: document, listed, text })
    }
}

/// Takes all of it in.
fn take(source: &mut dyn Read) -> Result<Intake> {
    let mut intake = Intake::default();
    let unreadable = |code, why: String| {
        Error::new(code, format!("read the network configuration from stdin: {why}"))
    };
    match io::copy(&mut source.take(CONFIG_LIMIT + 1), &mut intake) {
        Ok(length) if length > CONFIG_LIMIT => {
            let most = CONFIG_LIMIT >> 20;
            Err(unreadable(Code::DECODE, format!("it is larger than {most} MiB")))
        }
        // A runtime may close fd 0; the reference reads that as empty.
        Err(e) if e.raw_os_error() != Some(9) => Err(unreadable(Code::IO, e.to_string())),
        _ => Ok(intake),
    }
}

pub(crate) fn incompatible(version: &str, supported: &[Version]) -> Error {
    let quoted: Vec<String> = supported.iter().map(|v| format!("\"{v}\"")).collect();
    Error::new(Code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
        .with_details(format!("config is \"{version}\", plugin supports [{}]", quoted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_checked() {
        for good in ["a", "0", "a..b", "A_b-c.d", &"x".repeat(300)] {
            assert!(ContainerId::new(good).is_ok() && NetworkName::new(good).is_ok(), "{good}");
        }
        for bad in [".a", "-a", "_a", "a/b", "a b", "a\n", "ä", "../x"] {
            assert_eq!(ContainerId::new(bad).expect_err(bad).code(), Code::INVALID_ENVIRONMENT);
            assert_eq!(NetworkName::new(bad).expect_err(bad).code(), Code::INVALID_CONFIG);
        }
        assert_eq!(ContainerId::new("").expect_err("empty").code(), Code::UNKNOWN_CONTAINER);
        assert_eq!(NetworkName::new("").expect_err("empty").code(), Code::INVALID_CONFIG);
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "...", "%d", "-x", "ééééééé", "a.b"] {
            assert!(IfName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\u{a0}b",
            "a\u{3000}b",
            "a\u{85}b",
            "éééééééé",
            "sixteen-chars-xx",
        ] {
            assert_eq!(IfName::new(bad).expect_err(bad).code(), Code::INVALID_ENVIRONMENT);
        }
    }

    #[test]
    fn gc_lists_are_read_under_both_names() {
        let read = |text: &str| {
            Network::new(format!("{{\"name\":\"n\",{text}}}").into_bytes(), OsString::new(), &[])
                .expect("valid")
                .valid_attachments()
                .map(|list| list.map(|list| list.iter().collect::<Vec<_>>()))
        };
        let one = vec![AttachmentId { container_id: "c".into(), ifname: "eth0".into() }];
        assert_eq!(read(r#""x":1"#), Ok(None));
        assert_eq!(
            read(r#""cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]"#),
            Ok(Some(one.clone()))
        );
        assert_eq!(
            read(
                r#""cni.dev/attachments":[],"CNI.dev/Valid-Attachments":[{"CONTAINERID":"c","ifname":"eth0"}]"#
            ),
            Ok(Some(one.clone()))
        );
        assert_eq!(read(r#""cni.dev/valid-attachments":null"#), Ok(Some(vec![])));
        // Repeated, the last list counts, and null is none.
        let listed = r#""cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]"#;
        let null = r#""cni.dev/valid-attachments":null"#;
        for text in [format!("{listed},{null}"), format!("{null},{listed}")] {
            assert_eq!(read(&text), Ok(Some(one.clone())), "{text}");
        }
        let error = |text: &str| read(text).expect_err(text).to_string();
        for (text, culprit) in [
            ("5", ": invalid type: integer `5`, expected a list"),
            ("{}", ": invalid type: object, expected a list"),
            (r#"[{"containerID":"c","ifname":"eth0"},7]"#, "[1]: invalid type"),
            (r#"[{"ifname":"eth0"},3]"#, "[0]: missing field `containerID`"),
            (r#"[{"containerID":"c","ifname":8}]"#, "[0].ifname: invalid type"),
        ] {
            let text = error(&format!(r#""cni.dev/valid-attachments":{text}"#));
            assert!(text.contains(culprit), "{text}");
            assert!(text.contains("cni.dev/valid-attachments"), "{text}");
        }
    }
}
