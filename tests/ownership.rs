//! What one attachment has, no other's verb takes away.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

pub(crate) fn list() -> Vec<Case> {
    let cases = cases! {
        [Bridge] del_of_another_network_leaves_the_link_alone,
        [Bridge] a_failed_add_again_keeps_what_was_held,
    };
    cases.into_iter().map(Case::ours_only).collect()
}

fn network(name: &str, ipam: Value) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
        "isGateway": true, "ipam": ipam})
}

fn del_of_another_network_leaves_the_link_alone(host: &Host) {
    let one = host.container("one");
    let first = network("a", json!({"type": "host-local", "subnet": "10.1.0.0/24"}));
    let second = network("b", json!({"type": "host-local", "subnet": "10.2.0.0/24"}));
    host.plugin("bridge").add(&one, "eth0", &first).expect_result();
    host.plugin("bridge").add(&one, "eth0", &second).expect_error(999, "already used");
    // What a runtime does after a failed ADD.
    host.plugin("bridge").del(&one, "eth0", &second).expect_ok();
    assert!(one.link("eth0").is_some(), "the other network's link is gone");
    assert!(host.files("/var/lib/cni/networks/a").iter().any(|name| name.contains("10.1.0.2")));
    host.plugin("bridge").del(&one, "eth0", &first).expect_ok();
    assert_eq!(one.link("eth0"), None);
}

fn a_failed_add_again_keeps_what_was_held(host: &Host) {
    let (old, new) = (host.container("old"), host.container("new"));
    let mut conf =
        network("a", json!({"type": "host-local", "subnet": "10.1.0.0/24", "idempotentAdd": true}));
    host.plugin("bridge").add(&old, "eth0", &conf).expect_result();
    // The same attachment in another namespace, with a route that cannot be.
    conf["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]);
    let moved = host.plugin("bridge").env("CNI_CONTAINERID", &old.id());
    moved.add(&new, "eth0", &conf).expect_error(999, "192.0.2.0/24");
    let leases = host.files("/var/lib/cni/networks/a");
    assert!(leases.iter().any(|name| name.contains("10.1.0.2")), "the lease is gone: {leases:?}");
    assert!(old.link("eth0").is_some());
    host.plugin("bridge").del(&old, "eth0", &conf).expect_ok();
}
