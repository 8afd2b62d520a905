//! The IPAM plugin static, through its executable and beside the peer's.

use serde_json::{Value, json};
use testkit::{Case, Host, cases, with_previous_result};

use crate::conf::with;

pub(crate) fn list() -> Vec<Case> {
    cases! {
        [PeerPlugins] results_are_the_peers,
        [OurPlugins] verbs_of_one_attachments_life,
        [OurPlugins] hostile_input_is_told,
    }
}

fn network(version: &str, ipam: Value) -> Value {
    let ipam = with(&json!({"type": "static"}), ipam);
    json!({"cniVersion": version, "name": "net", "type": "static", "ipam": ipam})
}

fn results_are_the_peers(host: &Host) {
    let c = host.container("c");
    let ipam = json!({
        "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/48", "gw": "fd00::9"}],
        "dns": {"nameservers": ["10.1.0.53"], "domain": "d", "search": ["s"], "options": ["o"]},
    });
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let plain = network(version, ipam.clone());
        let mut cases = vec![
            (plain.clone(), ""),
            (with(&plain, json!({"args": {"cni": {"ips": ["10.2.0.5/24"]}}})), "IP=10.9.0.1/24"),
            (with(&plain, json!({"runtimeConfig": {"ips": ["10.3.0.5/24", "fd03::5/64"]}})), ""),
        ];
        // More than one address of a family.
        if version >= "0.3.0" {
            cases.push((plain, "IP=10.4.0.5/24,fd04::5/64;GATEWAY=10.4.0.1;IgnoreUnknown=1;X=y"));
        }
        // At 1.0.0 only some releases of the peer print an empty `dns`.
        if ("0.3.0".."1.0.0").contains(&version) {
            cases.push((network(version, json!({})), ""));
        }
        for (conf, args) in cases {
            let [ours, peers] = [host.plugin("static"), host.peer("static")]
                .map(|plugin| plugin.args(args).add(&c, "eth0", &conf));
            assert_eq!(ours.expect_result(), peers.expect_result(), "{conf} {args}");
            // From 1.0.0 on, newer releases of the peer order keys as we do.
            if version < "1.0.0" {
                assert_eq!(ours.stdout(), peers.stdout(), "{conf} {args}");
            }
        }
    }
}

fn verbs_of_one_attachments_life(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("static");
    let address = |text: &str| network("1.1.0", json!({"addresses": [{"address": text}]}));
    let conf = address("10.1.0.5/24");
    let before = host.snapshot();
    plugin.status(&conf).expect_ok();
    let result = plugin.add(&c, "eth0", &conf).expect_result();
    plugin.check(&c, "eth0", &with_previous_result(&conf, &result)).expect_ok();
    plugin.check(&c, "eth0", &conf).expect_error(7, "prevResult missing");
    let other = with_previous_result(&address("10.1.0.6/24"), &result);
    plugin.check(&c, "eth0", &other).expect_error(999, "10.1.0.6/24 of interface eth0");
    plugin.gc(&with(&conf, json!({"cni.dev/valid-attachments": []}))).expect_ok();
    c.destroy();
    plugin.del_without_netns(&c, "eth0", &with(&conf, json!({"ipam": 5}))).expect_ok();
    host.expect_unchanged_but(&before, &["/run/netns"]);
}

fn hostile_input_is_told(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("static");
    for (code, ipam, part) in [
        (7, json!(5), "ipam"),
        (7, json!({"addresses": {}}), "ipam.addresses"),
        (7, json!({"addresses": [null]}), "ipam.addresses[0]"),
        (7, json!({"addresses": [{"address": "10.1.0.5"}]}), "invalid CIDR address: 10.1.0.5"),
        (7, json!({"addresses": [{"address": "10.1.0.5/24", "gateway": 5}]}), "gateway"),
        (7, json!({"routes": [{"dst": "10.0.0.0"}]}), "ipam.routes[0].dst"),
        (7, json!({"dns": []}), "ipam.dns"),
    ] {
        let conf = with(&network("1.1.0", json!({})), json!({"ipam": ipam}));
        plugin.add(&c, "eth0", &conf).expect_error(code, part);
        plugin.status(&conf).expect_error(code, part);
    }
    let conf = network("1.1.0", json!({}));
    for args in ["IP=10.1.0.5", "GATEWAY=x", "MAC=x", "IP"] {
        plugin.clone().args(args).add(&c, "eth0", &conf).expect_error(4, "CNI_ARGS");
    }
}
