//! What the user wrote.

use cni::{Error, Network, Result, Route, config as decode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::Duration;

/// Where flanneld writes.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// Where the reference program remembers its delegates' configurations.
const DATA_DIR: &str = "/var/lib/cni/flannel";

/// The longest `subnetFileWait` that is accepted, in seconds: longer than any
/// runtime waits for a plugin.
const WAIT_MAX: u64 = 600;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    #[serde(rename = "subnetFile")]
    subnet_file: String,
    #[serde(rename = "dataDir")]
    data_dir: String,
    #[serde(rename = "subnetFileWait")]
    subnet_file_wait: u64,
    delegate: Map<String, Value>,
    ipam: Map<String, Value>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: Option<Map<String, Value>>,
}

/// The configuration with its defaults.
pub(crate) struct Conf {
    pub(crate) subnet_file: PathBuf,
    pub(crate) data_dir: PathBuf,
    /// How long ADD waits for flanneld to write; the default is not at all.
    pub(crate) subnet_file_wait: Duration,
    pub(crate) delegate: Map<String, Value>,
    pub(crate) ipam: Map<String, Value>,
    pub(crate) runtime_config: Option<Map<String, Value>>,
}

impl Conf {
    /// # Errors
    /// Code 7: a wrong type, or `delegate` sets what this plugin sets.
    pub(crate) fn of(network: &Network) -> Result<Conf> {
        let conf = Conf::from(network.conf::<Written>()?);
        let invalid = |text: String| {
            Err(Error::invalid_config(format!(
                "load network configuration {:?}: {text}",
                network.name().as_str()
            )))
        };
        for key in ["name", "ipam"] {
            if conf.delegate.contains_key(key) {
                return invalid(format!("delegate must not have {key}: flannel sets it"));
            }
        }
        match conf.delegate.get("type") {
            Some(kind) if !kind.is_string() => {
                return invalid("delegate.type must be a text".into());
            }
            Some(kind) if kind == "flannel" => {
                return invalid("delegate.type must not be flannel, which would ask itself".into());
            }
            _ => {}
        }
        match conf.subnet_file_wait.as_secs() > WAIT_MAX {
            true => invalid(format!("subnetFileWait must be at most {WAIT_MAX} seconds")),
            false => Ok(conf),
        }
    }

    /// For DEL, which a bad edit of the configuration must not block: what
    /// cannot be read takes its default. Each key is read by itself, so that
    /// a mistake in one does not hide where the others say the state is.
    pub(crate) fn for_teardown(network: &Network) -> Conf {
        let document = network.document();
        let mut conf = Conf::from(Written {
            subnet_file: readable(document, "subnetFile"),
            data_dir: readable(document, "dataDir"),
            // Nobody waits in a teardown.
            subnet_file_wait: 0,
            delegate: readable(document, "delegate"),
            ipam: readable(document, "ipam"),
            runtime_config: readable(document, "runtimeConfig"),
        });
        conf.delegate.retain(|key, value| match key.as_str() {
            "name" | "ipam" => false,
            "type" => value.is_string(),
            _ => true,
        });
        conf.ipam.retain(|key, value| match key.as_str() {
            "type" => value.is_string(),
            // No teardown needs them.
            "routes" => decode::decode::<Vec<Route>>(value).is_ok(),
            _ => true,
        });
        conf
    }
}

/// The value of a key, or its default where it is missing or of a wrong type.
fn readable<T: DeserializeOwned + Default>(document: &Value, key: &str) -> T {
    decode::get(document, key).and_then(|value| decode::decode(value).ok()).unwrap_or_default()
}

impl From<Written> for Conf {
    fn from(written: Written) -> Conf {
        let path = |given: String, default: &str| {
            PathBuf::from(if given.is_empty() { default.to_owned() } else { given })
        };
        Conf {
            subnet_file: path(written.subnet_file, SUBNET_FILE),
            data_dir: path(written.data_dir, DATA_DIR),
            subnet_file_wait: Duration::from_secs(written.subnet_file_wait),
            delegate: written.delegate,
            ipam: written.ipam,
            runtime_config: written.runtime_config,
        }
    }
}
