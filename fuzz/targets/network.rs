//! What a runtime says: the configuration with its previous result, `CNI_ARGS`,
//! and the names. In that order, separated by NUL bytes.

#![no_main]

use cni::args::Args;
use cni::versions::{self, Version};
use cni::{ContainerId, IfName, Network, NetworkName, Request};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(5, |byte| *byte == 0);
    let config = parts.next().unwrap_or_default();
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (args, container, ifname, netns) = (text(), text(), text(), text());

    let _ = Args::parse(&args, &["IP", "MAC", "IgnoreUnknown"]);
    let _ = NetworkName::new(container.as_str());
    let names = (ContainerId::new(container), IfName::new(ifname));
    if let Ok(document) = cni::config::parse(config) {
        for version in Version::ALL {
            result(&document, *version);
        }
    }
    let Ok(network) = Network::new(config.to_vec(), "/".into(), &[]) else { return };
    if let Ok(Some(valid)) = network.valid_attachments() {
        assert!(valid.iter().all(|attachment| valid.contains(&attachment)));
    }
    if let (Ok(container_id), Ok(ifname)) = names {
        let request =
            Request { network, container_id, ifname, netns: Some(netns.into()), args };
        if let Ok(Some(result)) = request.prev_result() {
            written(&result);
        }
    }
});

fn result(document: &Value, version: Version) {
    if let Ok(result) = versions::parse_result(document, version) {
        written(&result);
    }
}

/// What was read can be written at every version or is refused, and is read back
/// at the newest as it was.
fn written(result: &cni::Success) {
    for version in Version::ALL {
        let _ = versions::render(result, *version);
    }
    let latest = Version::LATEST;
    if let Ok(json) = versions::to_value(result, latest) {
        let read = versions::parse_result(&json, latest).expect("what was written is valid");
        assert_eq!(versions::to_value(&read, latest).ok(), Some(json));
    }
}
