//! A network configuration list, as written and as each plugin gets it.

use crate::json::compact;
use cni::versions::{self, parse_number};
use cni::{AttachmentId, Code, Error, NetworkName, Result, Version, config};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The keys of a list. They are matched exactly, those of plugins in any
/// letter case: so does the reference library.
pub(crate) const LIST_KEYS: &[&str] = &[
    "cniVersion",
    "cniVersions",
    "name",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
];

/// Under both names: older plugins look for the second.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A network: the plugins that attach a container to it, in order.
#[derive(Debug, Clone)]
pub struct ConfigList {
    name: NetworkName,
    version: String,
    plugins: Vec<PluginConfig>,
    disable_check: bool,
    disable_gc: bool,
    only_inlined: bool,
    bytes: Vec<u8>,
}

impl ConfigList {
    /// Reads a list (`*.conflist`), without what a plugin folder adds.
    ///
    /// # Errors
    /// Code 7, naming the key that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<ConfigList> {
        let list = ConfigList::parse_incomplete(bytes)?;
        if list.plugins.is_empty() {
            return Err(Error::invalid_config("there is no plugin in it"));
        }
        Ok(list)
    }

    /// Reads a list whose plugins may all come from its folder.
    pub(crate) fn parse_incomplete(bytes: &[u8]) -> Result<ConfigList> {
        let document = parse_object(bytes)?;
        let name = name_of(&document)?;
        let written = text(&document, "cniVersion")?.unwrap_or_default();
        let only_inlined = flag(&document, "loadOnlyInlinedPlugins")?;
        let plugins = match document.get("plugins") {
            None if only_inlined => {
                return Err(Error::invalid_config(
                    "loadOnlyInlinedPlugins is true, but there is no key \"plugins\"",
                ));
            }
            None => Vec::new(),
            Some(Value::Array(plugins)) if plugins.is_empty() => {
                return Err(Error::invalid_config("plugins: the list is empty"));
            }
            Some(Value::Array(plugins)) => plugins
                .iter()
                .enumerate()
                .map(|(at, plugin)| {
                    PluginConfig::new(plugin).map_err(|e| e.context(format!("plugins[{at}]")))
                })
                .collect::<Result<_>>()?,
            Some(_) => return Err(Error::invalid_config("plugins: it must be a list of objects")),
        };
        Ok(ConfigList {
            name: NetworkName::new(name)?,
            version: select_version(&document, written)?,
            plugins,
            disable_check: flag(&document, "disableCheck")?,
            disable_gc: flag(&document, "disableGC")?,
            only_inlined,
            bytes: bytes.to_vec(),
        })
    }

    /// Reads the configuration of one plugin (`*.conf`, `*.json`) as a list.
    ///
    /// # Errors
    /// Code 7, naming the key that is wrong.
    pub fn parse_single(bytes: &[u8]) -> Result<ConfigList> {
        let document = parse_object(bytes)?;
        if document.contains_key("plugins")
            && config::get(&Value::Object(document.clone()), "type").is_none()
        {
            return Err(Error::invalid_config(
                "it has \"plugins\" and no \"type\": the name of a configuration list must end in .conflist",
            ));
        }
        let document = Value::Object(document);
        PluginConfig::new(&document)?;
        let head = |key| config::get(&document, key).cloned().unwrap_or_else(|| "".into());
        let list = json!({
            "cniVersion": head("cniVersion"),
            "name": head("name"),
            "plugins": [document],
        });
        ConfigList::parse(&compact(&list))
    }

    /// The name of the network.
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// `cniVersion` as it goes to the plugins: the newest known one of
    /// `cniVersion` and `cniVersions`.
    pub fn version_text(&self) -> &str {
        &self.version
    }

    /// The version as one we can convert results to.
    ///
    /// # Errors
    /// Code 1, listing those that are known.
    pub fn version(&self) -> Result<Version> {
        self.version.parse().map_err(|()| {
            Error::new(
                Code::INCOMPATIBLE_VERSION,
                format!(
                    "network {:?}: its cniVersion {:?} is none of {}",
                    self.name.as_str(),
                    self.version,
                    versions::list(Version::ALL)
                ),
            )
        })
    }

    /// Is the version at least `since`? A version we do not know is compared
    /// by its numbers; one that has none is not.
    pub(crate) fn is_at_least(&self, since: Version) -> bool {
        let since = parse_number(since.as_str()).expect("a known version has numbers");
        parse_number(&self.version).is_ok_and(|number| number >= since)
    }

    /// The plugins, in the order of ADD.
    pub fn plugins(&self) -> &[PluginConfig] {
        &self.plugins
    }

    /// CHECK does nothing: the plugins are known to fail it.
    pub fn disable_check(&self) -> bool {
        self.disable_check
    }

    /// GC does nothing: the list is shared with something that would lose its
    /// attachments.
    pub fn disable_gc(&self) -> bool {
        self.disable_gc
    }

    /// The plugins of `<folder>/<name>/*.conf` are not to be added.
    pub(crate) fn only_inlined(&self) -> bool {
        self.only_inlined
    }

    pub(crate) fn append(&mut self, plugins: Vec<PluginConfig>) {
        self.plugins.extend(plugins);
    }

    /// The file as it was read, or the list made from a single plugin's.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    kind: String,
    name: String,
    capabilities: Vec<String>,
    ipam: Option<String>,
    /// Without the keys that only the runtime writes.
    document: Map<String, Value>,
}

/// What the types of a plugin's configuration must be for any plugin; the
/// rest is its own business.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    #[serde(rename = "cniVersion")]
    _version: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    capabilities: Map<String, Value>,
    ipam: Ipam,
    #[serde(rename = "dns")]
    _dns: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

impl PluginConfig {
    pub(crate) fn new(value: &Value) -> Result<PluginConfig> {
        let Value::Object(object) = value else {
            return Err(Error::invalid_config("it is not a JSON object"));
        };
        let head: Head = config::decode(value).map_err(|e| Error::invalid_config(e.to_string()))?;
        if head.kind.is_empty() {
            return Err(Error::invalid_config("the key \"type\" is missing"));
        }
        let mut capabilities = Vec::new();
        for (capability, on) in head.capabilities {
            match on {
                Value::Bool(true) => capabilities.push(capability),
                Value::Bool(false) | Value::Null => {}
                _ => {
                    return Err(Error::invalid_config(format!(
                        "capabilities.{capability}: it must be true or false"
                    )));
                }
            }
        }
        let document = object
            .iter()
            .filter(|(key, _)| !is_runtimes_own(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Ok(PluginConfig {
            kind: head.kind,
            name: head.name,
            capabilities,
            ipam: Some(head.ipam.kind).filter(|kind| !kind.is_empty()),
            document,
        })
    }

    /// Reads one file of a plugin folder.
    pub(crate) fn parse(bytes: &[u8]) -> Result<PluginConfig> {
        PluginConfig::new(&Value::Object(parse_object(bytes)?))
    }

    /// The CNI type: the name of the executable.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The type of the IPAM plugin it delegates to.
    pub fn ipam(&self) -> Option<&str> {
        self.ipam.as_deref()
    }

    /// The capabilities it declares.
    pub fn capabilities(&self) -> &[String] {
        &self.capabilities
    }

    /// Its keys as they were written, without those of the runtime's.
    pub fn keys(&self) -> &Map<String, Value> {
        &self.document
    }

    /// `plugin type="T" name="N"`: how errors call it.
    pub(crate) fn description(&self) -> String {
        match self.name.as_str() {
            "" => format!("plugin type={:?}", self.kind),
            name => format!("plugin type={:?} name={name:?}", self.kind),
        }
    }

    /// What it gets on stdin: one line of JSON with sorted keys.
    pub(crate) fn request(&self, list: &ConfigList, extra: Extra<'_>) -> Vec<u8> {
        let mut document = self.document.clone();
        let version = match extra.version {
            Some(version) => version.as_str(),
            None => &list.version,
        };
        document.insert("name".to_owned(), list.name.as_str().into());
        document.insert("cniVersion".to_owned(), version.into());
        if let Some(result) = extra.previous {
            document.insert("prevResult".to_owned(), result);
        }
        let declared: Map<String, Value> = extra
            .capabilities
            .into_iter()
            .flatten()
            .filter(|(capability, _)| self.capabilities.contains(capability))
            .map(|(capability, value)| (capability.clone(), value.clone()))
            .collect();
        if !declared.is_empty() {
            document.insert("runtimeConfig".to_owned(), declared.into());
        }
        if let Some(valid) = extra.valid {
            let valid: Vec<Value> = valid
                .iter()
                .map(|id| json!({"containerID": id.container_id, "ifname": id.ifname}))
                .collect();
            for key in VALID_ATTACHMENTS {
                document.insert(key.to_owned(), valid.clone().into());
            }
        }
        compact(&document)
    }
}

/// What a verb adds to a plugin's configuration.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    /// None is that of the list.
    pub(crate) version: Option<Version>,
    pub(crate) previous: Option<Value>,
    pub(crate) capabilities: Option<&'a Map<String, Value>>,
    pub(crate) valid: Option<&'a [AttachmentId]>,
}

/// Keys the specification reserves for the runtime (section 3, "Deriving
/// execution configuration"): written in a file they would pretend to be its
/// words.
pub(crate) fn is_runtimes_own(key: &str) -> bool {
    ["name", "cniVersion", "prevResult", "runtimeConfig", "capabilities"]
        .iter()
        .any(|own| key.eq_ignore_ascii_case(own))
        || key.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("cni.dev/"))
}

pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>> {
    match config::parse(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::invalid_config("it is not a JSON object")),
        Err(e) => Err(Error::invalid_config(e.to_string())),
    }
}

/// The name of a list, not yet checked.
pub(crate) fn name_of(document: &Map<String, Value>) -> Result<&str> {
    match document.get("name") {
        Some(Value::String(name)) => Ok(name),
        Some(_) => Err(Error::invalid_config("name: it must be a string")),
        None => {
            let close = document.keys().find(|key| key.eq_ignore_ascii_case("name"));
            let hint = close.map(|key| format!(" (written {key:?})")).unwrap_or_default();
            Err(Error::invalid_config(format!("the key \"name\" is missing{hint}")))
        }
    }
}

fn text<'d>(document: &'d Map<String, Value>, key: &str) -> Result<Option<&'d str>> {
    match document.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::invalid_config(format!("{key}: it must be a string"))),
    }
}

/// A boolean, also as a string in any letter case.
fn flag(document: &Map<String, Value>, key: &str) -> Result<bool> {
    match document.get(key) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => {
            Err(Error::invalid_config(format!("{key}: {other} is neither true nor false")))
        }
    }
}

/// The newest of `cniVersion` and `cniVersions` that is not newer than what we
/// know; `cniVersion` as it is when all are.
fn select_version(document: &Map<String, Value>, written: &str) -> Result<String> {
    let list = match document.get("cniVersions") {
        None => return Ok(written.to_owned()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Error::invalid_config("cniVersions: it must be a list of strings")),
    };
    let latest = parse_number(Version::LATEST.as_str()).expect("a known version has numbers");
    let mut best: Option<((i64, i64, i64), &str)> = None;
    let candidates = list.iter().enumerate().map(|(at, entry)| match entry.as_str() {
        Some(text) => Ok((format!("cniVersions[{at}]"), text)),
        None => Err(Error::invalid_config(format!("cniVersions[{at}]: it must be a string"))),
    });
    for candidate in candidates.chain([Ok(("cniVersion".to_owned(), written))]) {
        let (place, text) = candidate?;
        let number =
            parse_number(text).map_err(|e| Error::invalid_config(format!("{place}: {e}")))?;
        // Plugins compare versions as text, so of two spellings of one number
        // only the official one will do.
        let better = match best {
            None => true,
            Some((known, _)) if number != known => number > known,
            Some(_) => Version::ALL.iter().any(|v| v.as_str() == text),
        };
        if number <= latest && better {
            best = Some((number, text));
        }
    }
    Ok(best.map_or(written, |(_, text)| text).to_owned())
}

#[cfg(test)]
mod tests;
