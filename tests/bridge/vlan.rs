//! VLANs: who is in which, as the bridge's table has it and as packets find.

use serde_json::{Value, json};
use testkit::Feature::BridgeVlan;
use testkit::{Case, Container, Host, Netns as _, cases};

use super::{attach, attach_by_hand, host_end, ports};
use crate::conf::{bridge, fixed, leased, with};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, BridgeVlan, Ping] a_port_is_in_its_vlan_only,
    };
    for case in cases! {
        // Newer than Debian's package of upstream's, or wrong there.
        [Bridge, BridgeVlan, Vlan, Ping] a_trunk_carries_tagged_frames,
        [Bridge, BridgeVlan] the_table_is_what_the_keys_say,
        [Bridge, BridgeVlan, Ping] the_default_vlan_is_kept_on_demand,
        [Bridge, BridgeVlan, Ping] a_vlan_has_a_gateway_of_its_own,
        [Bridge, BridgeVlan] a_bridge_that_is_there_learns_to_filter,
        [Bridge] what_the_kernel_lacks_is_told,
        [Bridge] a_gateways_name_must_fit,
        [Bridge] impossible_vlans_are_refused,
    } {
        list.push(case.ours_only());
    }
    list
}

/// The VLANs of a port as `bridge vlan show` has them: `100 pvid untagged`.
fn vlans(host: &Host, port: &str) -> Vec<String> {
    let text = host.exec(format!("bridge -json -compressvlans vlan show dev {port}"));
    let list: Value = serde_json::from_str(&text).expect("JSON");
    let vlans = list[0]["vlans"].as_array().cloned().unwrap_or_default();
    let shown = vlans.iter().map(|vlan| {
        let last = vlan["vlanEnd"].as_u64().map(|last| format!("-{last}")).unwrap_or_default();
        let flags: Vec<_> =
            vlan["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("{}{last} {}", vlan["vlan"], flags.join(" ")).trim_end().to_lowercase()
    });
    shown.collect()
}

/// Who of these reaches whom, by the last number of their addresses.
#[track_caller]
fn expect_reach(containers: &[(&Container, u8)], connected: &[(u8, u8)]) {
    for (from, from_address) in containers {
        for (_, to) in containers.iter().filter(|(_, to)| to != from_address) {
            let pair = (*from_address.min(to), *from_address.max(to));
            if connected.contains(&pair) {
                from.expect_ping(&format!("10.1.0.{to}"));
            } else {
                assert!(!from.answers_ping(&format!("10.1.0.{to}")), "{from_address} reaches {to}");
            }
        }
    }
}

fn in_vlan(host: &Host, name: &str, keys: Value, address: &str) -> (Container, String) {
    let (container, result) = attach(host, name, &bridge(host, keys));
    container.exec(format!("ip address add {address}/24 dev eth0"));
    (container, host_end(&result))
}

fn a_port_is_in_its_vlan_only(host: &Host) {
    let (one, port) = in_vlan(host, "one", json!({"vlan": 100}), "10.1.0.1");
    let (two, _) = in_vlan(host, "two", json!({"vlan": 100}), "10.1.0.2");
    let (three, other) = in_vlan(host, "three", json!({"vlan": 200}), "10.1.0.3");
    assert_eq!(
        host.link("cni0").expect("it is there")["linkinfo"]["info_data"]["vlan_filtering"],
        1
    );
    if host.has_our_plugins() {
        // Upstream's older versions leave the default VLAN.
        assert_eq!(vlans(host, &port), ["100 pvid egress untagged"]);
        assert_eq!(vlans(host, &other), ["200 pvid egress untagged"]);
    }
    expect_reach(&[(&one, 1), (&two, 2), (&three, 3)], &[(1, 2)]);
}

fn a_trunk_carries_tagged_frames(host: &Host) {
    let trunk = json!({"vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 202}]});
    let (router, result) = attach(host, "router", &bridge(host, trunk));
    assert_eq!(vlans(host, &host_end(&result)), ["1 pvid egress untagged", "101", "200-202"]);
    for (vlan, address) in [(101, "10.1.0.1"), (201, "10.2.0.1"), (203, "10.3.0.1")] {
        router.exec(format!("ip link add link eth0 name eth0.{vlan} type vlan id {vlan}"));
        router.exec(format!("ip address add {address}/24 dev eth0.{vlan}"));
        router.exec(format!("ip link set eth0.{vlan} up"));
    }
    let (one, _) = in_vlan(host, "one", json!({"vlan": 101}), "10.1.0.2");
    let (two, _) = in_vlan(host, "two", json!({"vlan": 201}), "10.2.0.2");
    let (three, _) = in_vlan(host, "three", json!({"vlan": 203}), "10.3.0.2");
    one.expect_ping("10.1.0.1");
    two.expect_ping("10.2.0.1");
    // 203 is not in the trunk.
    assert!(!three.answers_ping("10.3.0.1"));
    router.exec("ip address add 10.4.0.1/24 dev eth0");
    // Untagged frames are in VLAN 1.
    let native =
        attach_by_hand(host, "native", &bridge(host, json!({"vlan": 1})), &["10.4.0.2/24"]);
    native.expect_ping("10.4.0.1");
}

fn the_table_is_what_the_keys_say(host: &Host) {
    for (number, (keys, table)) in [
        (json!({"vlanTrunk": []}), vec!["1 pvid egress untagged"]),
        (
            json!({"vlan": 7, "vlanTrunk": [{"id": 7}, {"id": 9}]}),
            vec!["7 pvid egress untagged", "9"],
        ),
        (
            json!({"vlan": 7, "vlanTrunk": [{"minID": 5, "maxID": 9}]}),
            vec!["5-6", "7 pvid egress untagged", "8-9"],
        ),
        (json!({"vlanTrunk": [{"id": 1}, {"id": 2}]}), vec!["1 pvid egress untagged", "2"]),
        (
            json!({"vlanTrunk": [{"minID": 9, "maxID": 11, "id": 20}, {"id": 10}, {"id": 12}]}),
            vec!["1 pvid egress untagged", "9-12", "20"],
        ),
        (json!({"vlan": 4094}), vec!["4094 pvid egress untagged"]),
        (
            json!({"vlan": 4094, "vlanTrunk": [{"minID": 1, "maxID": 4094}]}),
            vec!["1-4093", "4094 pvid egress untagged"],
        ),
        (
            json!({"vlan": 7, "preserveDefaultVlan": true}),
            vec!["1 egress untagged", "7 pvid egress untagged"],
        ),
        (json!({"vlan": 0}), vec!["1 pvid egress untagged"]),
    ]
    .into_iter()
    .enumerate()
    {
        let conf = bridge(host, keys.clone());
        let (one, result) = attach(host, &format!("c{number}"), &conf);
        assert_eq!(vlans(host, &host_end(&result)), table, "{keys}");
        let checked = testkit::with_previous_result(&conf, &result);
        host.plugin("bridge").check(&one, "eth0", &checked).expect_ok();
        host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    }
}

fn the_default_vlan_is_kept_on_demand(host: &Host) {
    let keep = json!({"vlan": 100, "preserveDefaultVlan": true});
    let (one, _) = in_vlan(host, "one", keep, "10.1.0.1");
    let (two, _) = in_vlan(host, "two", json!({"vlan": 100}), "10.1.0.2");
    let (three, _) = in_vlan(host, "three", json!({"vlan": 1}), "10.1.0.3");
    // What it sends is in VLAN 100; what is in VLAN 1 reaches it all the same.
    expect_reach(&[(&one, 1), (&two, 2), (&three, 3)], &[(1, 2)]);
    one.exec("ip neighbour replace 10.1.0.3 lladdr 02:00:00:00:00:03 dev eth0");
    let capture = one.capture();
    assert!(!three.answers_ping("10.1.0.1"));
    let mac = three.mac("eth0");
    assert!(!capture.frames(|frame| !frame.outgoing && frame.source == mac).is_empty());
}

fn a_vlan_has_a_gateway_of_its_own(host: &Host) {
    let hundred = bridge(
        host,
        json!({"name": "hundred", "vlan": 100, "isDefaultGateway": true,
        "ipam": leased(&["10.1.0.0/24"])}),
    );
    let other = with(
        &hundred,
        json!({"name": "other", "vlan": 200,
        "ipam": leased(&["10.2.0.0/24"])}),
    );
    let (one, result) = attach(host, "one", &hundred);
    let gateway = &result["interfaces"][3];
    assert_eq!(*gateway, json!({"name": "cni0.100", "mac": host.mac("cni0.100")}));
    assert_eq!(host.addresses("cni0.100"), ["10.1.0.1/24"]);
    assert_eq!(host.addresses("cni0"), Vec::<String>::new());
    one.expect_ping("10.1.0.1");
    let (two, second) = attach(host, "two", &hundred);
    assert_eq!(second["interfaces"][3], *gateway);
    two.expect_ping("10.1.0.2");
    let (three, _) = attach(host, "three", &other);
    three.expect_ping("10.2.0.1");
    // From VLAN to VLAN the host forwards; with an address of the other's
    // nobody is reached.
    three.expect_ping("10.1.0.2");
    let stray =
        attach_by_hand(host, "stray", &bridge(host, json!({"vlan": 200})), &["10.1.0.99/24"]);
    assert!(!stray.answers_ping("10.1.0.1"));
    assert!(!stray.answers_ping("10.1.0.2"));
    assert_eq!(host.sysctl("net/ipv6/conf/cni0.100/accept_ra").as_deref(), Some("0"));
    // Two containers, a stray, and the ports of the two gateways.
    assert_eq!(ports(host, "cni0").len(), 6);
}

fn a_bridge_that_is_there_learns_to_filter(host: &Host) {
    let (one, _) = attach(host, "one", &bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])})));
    let (_, result) = attach(host, "two", &bridge(host, json!({"vlan": 100})));
    assert_eq!(
        host.link("cni0").expect("it is there")["linkinfo"]["info_data"]["vlan_filtering"],
        1
    );
    assert_eq!(vlans(host, &host_end(&result)), ["100 pvid egress untagged"]);
    assert_eq!(one.addresses("eth0"), ["10.1.0.2/24"]);
}

/// On kernels of both kinds.
fn what_the_kernel_lacks_is_told(host: &Host) {
    let lacking = "need a kernel with CONFIG_BRIDGE_VLAN_FILTERING";
    let status = |keys: Value| {
        host.plugin("bridge").status(&with(&bridge(host, keys), json!({"cniVersion": "1.1.0"})))
    };
    let one = host.container("one");
    // Without a bridge, and with one that does not filter.
    for round in 0..2 {
        let before = host.snapshot();
        status(json!({})).expect_ok();
        for keys in [json!({"vlan": 100}), json!({"vlanTrunk": []})] {
            if BridgeVlan.present() {
                status(keys).expect_ok();
            } else {
                status(keys.clone()).expect_error(50, lacking);
                let conf = bridge(host, keys);
                host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, lacking);
            }
            host.expect_unchanged(&before);
        }
        if round == 0 {
            host.exec("ip link add cni0 type bridge");
        }
    }
}

#[track_caller]
fn expect_refused(host: &Host, keys: Value, part: &str) {
    let one = host.container(&format!("c{}", host.files("/run/netns").len()));
    let before = host.snapshot();
    host.plugin("bridge").add(&one, "eth0", &bridge(host, keys)).expect_error(7, part);
    host.expect_unchanged(&before);
}

fn a_gateways_name_must_fit(host: &Host) {
    let keys = json!({"bridge": "thirteen-long", "vlan": 100, "isGateway": true,
        "ipam": fixed(&["10.1.0.2/24"])});
    expect_refused(host, keys, "thirteen-long.100");
}

fn impossible_vlans_are_refused(host: &Host) {
    for (keys, part) in [
        (json!({"vlan": 4095}), "4095"),
        (json!({"vlan": -1}), "-1"),
        (json!({"vlanTrunk": [{"id": 0}]}), "id"),
        (json!({"vlanTrunk": [{"id": 5}, {"minID": 0, "maxID": 5}]}), "minID"),
        (json!({"vlanTrunk": [{"minID": 1, "maxID": 4095}]}), "maxID"),
        (json!({"vlanTrunk": [{"minID": 9, "maxID": 8}]}), "minID 9"),
        (json!({"vlanTrunk": [{"minID": 9}]}), "maxID"),
        (json!({"vlanTrunk": [{"maxID": 9}]}), "minID"),
    ] {
        expect_refused(host, keys, part);
    }
}
