//! The delegate's configuration.

use crate::conf::Conf;
use crate::subnet::Lease;
use cni::{Error, Network, Result, Route, Success, config as decode};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};
use std::ffi::OsString;

/// The delegate when none is named, and its IPAM.
const DELEGATE: &str = "bridge";
const IPAM: &str = "host-local";

/// A delegate's configuration: compact JSON with sorted keys, byte for byte as
/// the reference program writes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config(Map<String, Value>);

impl Config {
    /// Reads what an ADD remembered; `None` for what is no configuration that a
    /// delegate would take.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Config> {
        let Ok(Value::Object(config)) = decode::parse(bytes) else { return None };
        let kind = config.get("type").and_then(Value::as_str)?;
        let is_plain = !kind.is_empty() && !kind.contains('/') && kind != "." && kind != "..";
        let ipam = config.get("ipam");
        let is_whole = is_plain
            && ipam.is_none_or(|ipam| ipam.is_object() || ipam.is_null())
            && Network::new(bytes.to_vec(), OsString::new(), &[]).is_ok();
        is_whole.then_some(Config(config))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a JSON object has only string keys")
    }

    /// The delegate's CNI type.
    pub(crate) fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or(DELEGATE)
    }

    /// The network it was made for.
    pub(crate) fn network(&self) -> Option<&str> {
        self.0.get("name").and_then(Value::as_str)
    }

    /// With the previous result of the request, which the delegate's own CHECK
    /// and DEL need, and the version that is written in.
    pub(crate) fn with_prev_result(mut self, network: &Network) -> Config {
        for key in ["prevResult", "cniVersion"] {
            if let Some(value) = decode::get(network.document(), key) {
                self.0.insert(key.to_owned(), value.clone());
            }
        }
        self
    }

    /// With empty lists of the attachments that must stay, under the names of old
    /// and new.
    pub(crate) fn for_gc(mut self) -> Config {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            self.0.insert(key.to_owned(), json!([]));
        }
        self
    }
}

/// Makes the delegate's configuration: the user's `delegate` and `ipam` with
/// what flanneld leased. Without lease (a teardown) the subnets come from the
/// previous result.
pub(crate) fn config(
    network: &Network,
    conf: &Conf,
    lease: Option<&Lease>,
    previous: Option<&Success>,
) -> Result<Config> {
    let mut config = conf.delegate.clone();
    config.entry("type").or_insert_with(|| DELEGATE.into());
    if let Some(lease) = lease {
        config.entry("ipMasq").or_insert_with(|| (!lease.ip_masq).into());
        config.entry("mtu").or_insert_with(|| lease.mtu.into());
    }
    if config["type"] == DELEGATE {
        config.entry("isGateway").or_insert_with(|| true.into());
    }
    config.insert("name".into(), network.name().as_str().into());
    match decode::get(network.document(), "cniVersion") {
        Some(version) if version != "" => _ = config.insert("cniVersion".into(), version.clone()),
        _ => {}
    }
    if let Some(runtime_config) = &conf.runtime_config {
        config.insert("runtimeConfig".into(), Value::Object(runtime_config.clone()));
    }
    config.insert("ipam".into(), ipam(conf, lease, previous)?);
    Ok(Config(config))
}

fn ipam(conf: &Conf, lease: Option<&Lease>, previous: Option<&Success>) -> Result<Value> {
    let mut ipam = conf.ipam.clone();
    ipam.entry("type").or_insert_with(|| IPAM.into());
    let subnets: Vec<IpNetwork> = match (lease, previous) {
        (Some(lease), _) => lease.subnets.clone(),
        (None, Some(previous)) => previous.ips.iter().filter_map(|ip| subnet(ip.address)).collect(),
        (None, None) => Vec::new(),
    };
    if !subnets.is_empty() {
        let ranges: Vec<Value> =
            subnets.iter().map(|subnet| json!([{"subnet": subnet.to_string()}])).collect();
        ipam.insert("ranges".into(), ranges.into());
    }
    let given: Vec<Route> = match ipam.remove("routes") {
        Some(routes) => decode::decode(&routes).map_err(|e| {
            Error::invalid_config(format!("load network configuration: ipam.routes: {e}"))
        })?,
        None => Vec::new(),
    };
    let mut routes: Vec<Value> = given.iter().map(route).collect();
    routes.extend(
        lease.iter().flat_map(|lease| &lease.networks).map(|net| json!({"dst": net.to_string()})),
    );
    if !routes.is_empty() {
        ipam.insert("routes".into(), routes.into());
    }
    Ok(ipam.into())
}

fn subnet(address: IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(address.network(), address.prefix()).ok()
}

/// A route with the keys that are known.
fn route(route: &Route) -> Value {
    let mut object = Map::new();
    object.insert("dst".into(), route.dst.to_string().into());
    if let Some(gw) = route.gw {
        object.insert("gw".into(), gw.to_string().into());
    }
    for (key, value) in [("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority)]
    {
        if value != 0 {
            object.insert(key.into(), value.into());
        }
    }
    for (key, value) in [("table", route.table), ("scope", route.scope)] {
        if let Some(value) = value {
            object.insert(key.into(), value.into());
        }
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn what_no_delegate_would_take_is_damaged() {
        for state in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"type":"bridge"}"#,
            r#"{"type":"../x","name":"n"}"#,
            r#"{"type":"","name":"n"}"#,
            r#"{"type":"bridge","name":"n","ipam":5}"#,
            r#"{"type":"bridge","name":"n","cniVersion":"7.0.0"}"#,
        ] {
            assert_eq!(Config::parse(state.as_bytes()), None, "{state}");
        }
        let whole = br#"{"cniVersion":"1.0.0","ipam":{},"name":"n","type":"bridge"}"#;
        let config = Config::parse(whole).expect("whole");
        assert_eq!((config.kind(), config.network()), ("bridge", Some("n")));
        assert_eq!(config.bytes(), whole);
    }
}
