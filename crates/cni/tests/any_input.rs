//! Whatever a runtime, a delegate or an earlier plugin says is read or refused:
//! without a panic, in bounded time and memory. The same as `fuzz/targets/network`,
//! on stable and without coverage.

use cni::args::Args;
use cni::versions::{self, Version};
use cni::{ContainerId, IfName, Network, NetworkName, Request};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// What is valid at a version, with everything that there is.
fn valid(version: Version) -> Value {
    let newest = json!({"cniVersion": version.as_str(),
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
        "ips": [{"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "table": 5}],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["x"], "domain": "d", "options": ["o"]}});
    let oldest = json!({"cniVersion": version.as_str(),
        "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::2/64"}, "dns": {"nameservers": ["::1"]}});
    let result = if version < Version::V0_3_0 { oldest } else { newest };
    json!({"cniVersion": version.as_str(), "name": "net", "type": "x", "prevResult": result,
        "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
        "capabilities": {"mac": true}, "ipam": {"type": "host-local", "ranges": [[{}]]}})
}

/// A value that may stand where another was.
fn values() -> impl Strategy<Value = Value> {
    let texts = ["", "x", "10.1.0.2/33", "::/0", "9.9.9", "\u{0}", "../x", "1e400", "-0"];
    prop_oneof![
        select(vec![json!(null), json!([]), json!({}), json!([[]]), json!({"x": 1}), json!(true)]),
        select(texts.to_vec()).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ]
}

/// Puts `value` in the place of one of the values in `document`, which are
/// numbered as they come.
fn replace(document: &mut Value, at: &mut usize, value: &Value) -> bool {
    if *at == 0 {
        document.clone_from(value);
        return true;
    }
    *at -= 1;
    match document {
        Value::Array(list) => list.iter_mut().any(|child| replace(child, at, value)),
        Value::Object(object) => object.values_mut().any(|child| replace(child, at, value)),
        _ => false,
    }
}

/// A result is written at each version or refused, and read back as it was.
fn check_result(result: &cni::Success, largest: usize) {
    for version in Version::ALL {
        if let Ok(bytes) = versions::render(result, *version) {
            // Indentation, and what is said by default.
            assert!(bytes.len() <= 2000 + 40 * largest, "{} of {largest}", bytes.len());
        }
    }
    if let Ok(json) = versions::to_value(result, Version::LATEST) {
        let read = versions::parse_result(&json, Version::LATEST).expect("written here");
        assert_eq!(versions::to_value(&read, Version::LATEST).ok(), Some(json));
    }
}

fn read(bytes: &[u8]) {
    if let Ok(document) = cni::config::parse(bytes) {
        for version in Version::ALL {
            if let Ok(result) = versions::parse_result(&document, *version) {
                check_result(&result, bytes.len());
            }
        }
    }
    let Ok(network) = Network::new(bytes.to_vec(), "/".into(), &[]) else { return };
    if let Ok(Some(listed)) = network.valid_attachments() {
        assert!(listed.iter().all(|attachment| listed.contains(&attachment)));
    }
    let request = Request {
        network,
        container_id: ContainerId::new("c1").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: None,
        args: String::new(),
    };
    if let Ok(Some(result)) = request.prev_result() {
        check_result(&result, bytes.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
        read(&bytes);
    }

    #[test]
    fn a_document_with_other_values_is_read_or_refused(
        version in select(Version::ALL.to_vec()),
        others in vec((any::<Index>(), values()), 1..4),
    ) {
        let mut document = valid(version);
        for (at, value) in others {
            replace(&mut document, &mut at.index(45), &value);
        }
        read(document.to_string().as_bytes());
    }

    #[test]
    fn a_damaged_document_is_read_or_refused(
        version in select(Version::ALL.to_vec()),
        damage in vec((any::<Index>(), any::<u8>()), 0..5),
        end in any::<Index>(),
    ) {
        let mut bytes = valid(version).to_string().into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read(&bytes);
        bytes.truncate(end.index(bytes.len()));
        read(&bytes);
    }

    #[test]
    fn any_arguments_are_read_or_refused(text in "(\\PC|[;=]|IgnoreUnknown=|IP=){0,30}") {
        if let Ok(args) = Args::parse(&text, &["IP", "IgnoreUnknown"]) {
            prop_assert!(args.get("IP").is_none_or(|ip| text.contains(ip)));
        }
    }

    /// What passes may be a part of a path.
    #[test]
    fn names_that_pass_are_file_names(text in "(\\PC|[./\u{0}\n]){0,40}") {
        for name in [
            ContainerId::new(text.as_str()).map(|name| name.to_string()),
            NetworkName::new(text.as_str()).map(|name| name.to_string()),
            IfName::new(text.as_str()).map(|name| name.to_string()),
        ].into_iter().flatten() {
            prop_assert!(!name.is_empty() && name != "." && name != "..", "{name:?}");
            prop_assert!(!name.contains(['/', '\0', '\n', ':']), "{name:?}");
            prop_assert_eq!(&name, &text);
        }
    }
}

#[test]
fn what_is_valid_is_read() {
    for version in Version::ALL {
        let document = valid(*version).to_string();
        let network = Network::new(document.into_bytes(), "/".into(), &[]).expect("valid");
        assert!(network.valid_attachments().expect("valid").is_some());
        let result = versions::parse_result(&valid(*version)["prevResult"], *version);
        assert_eq!(result.expect("valid").routes.len(), 1, "{version}");
    }
}
