//! Network configurations, as tests write them: what is the same everywhere
//! once, what a test is about on the spot.

use std::sync::OnceLock;

use serde_json::{Value, json};
use testkit::Host;

/// The network's name where the test gives none.
pub(crate) const NETWORK: &str = "net";

/// A bridge network with these keys.
pub(crate) fn bridge(host: &Host, keys: Value) -> Value {
    of_type(host, "bridge", keys)
}

/// A network of this type with these keys, at the newest version that the
/// plugins under test speak.
pub(crate) fn of_type(host: &Host, kind: &str, keys: Value) -> Value {
    let base = json!({"cniVersion": newest_version(host), "name": NETWORK, "type": kind});
    with(&base, keys)
}

/// The configuration with `keys` set, each in place of what was there.
pub(crate) fn with(conf: &Value, keys: Value) -> Value {
    let (mut conf, Value::Object(keys)) = (conf.clone(), keys) else {
        panic!("keys are an object");
    };
    for (key, value) in keys {
        conf[key] = value;
    }
    conf
}

/// `ipam` with leases, one range set for each subnet and the default route of
/// each family.
pub(crate) fn leased(subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({"type": "host-local", "ranges": ranges, "routes": default_routes(subnets)})
}

/// `ipam` with just these addresses, `10.1.0.2/24`.
pub(crate) fn fixed(addresses: &[&str]) -> Value {
    let list: Vec<_> = addresses.iter().map(|address| json!({"address": address})).collect();
    json!({"type": "static", "addresses": list})
}

/// A default route for each family among `networks`, without a gateway.
fn default_routes(networks: &[&str]) -> Vec<Value> {
    let all = [(".", "0.0.0.0/0"), (":", "::/0")];
    let used = all.iter().filter(|(mark, _)| networks.iter().any(|net| net.contains(mark)));
    used.map(|(_, dst)| json!({"dst": dst})).collect()
}

/// The versions the plugins under test speak, oldest first.
pub(crate) fn versions(host: &Host) -> Vec<String> {
    static KNOWN: OnceLock<Vec<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let reply = host.plugin("bridge").version().expect_result();
        let list = reply["supportedVersions"].as_array().expect("a list");
        list.iter().map(|version| version.as_str().expect("a text").to_owned()).collect()
    });
    known.clone()
}

/// The newest of them.
pub(crate) fn newest_version(host: &Host) -> String {
    versions(host).pop().expect("there is one")
}
