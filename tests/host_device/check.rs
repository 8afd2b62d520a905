//! CHECK passes after each ADD and names what is missing; STATUS tells whether
//! an ADD could be served.

use serde_json::json;
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::{addressed, conf, device, leased};
use crate::conf as network;

pub(super) fn list() -> Vec<Case> {
    let list = cases! {
        [Ipv6] check_passes_after_add_at_every_version,
        [Ipv6] check_names_each_thing_that_is_gone,
        [] status_tells_the_truth,
    };
    list.into_iter().map(Case::ours_only).collect()
}

fn rich(host: &Host) -> serde_json::Value {
    let ipam = json!({"type": "static",
        "addresses": [{"address": "10.5.0.2/24", "gateway": "10.5.0.1"}, {"address": "10.6.0.2/32"},
            {"address": "2001:db8:5::2/64", "gateway": "2001:db8:5::1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.9.0.0/16", "gw": "10.5.0.9"},
            {"dst": "10.8.0.0/16", "table": 100, "mtu": 1400, "priority": 5},
            {"dst": "10.7.0.0/16", "scope": 253}]});
    conf(host, json!({"ipam": ipam}))
}

fn check_passes_after_add_at_every_version(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let versions = network::versions(host);
    for version in versions.iter().filter(|version| version.as_str() >= "0.4.0") {
        for conf in [rich(host), leased(host), conf(host, json!({}))] {
            let conf = network::with(&conf, json!({"cniVersion": version}));
            let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
            let checked = with_previous_result(&conf, &result);
            host.plugin("host-device").check(&pod, "eth0", &checked).expect_ok();
            host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        }
    }
}

fn check_names_each_thing_that_is_gone(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let conf = rich(host);
    let cases: &[(&[&str], &str)] = &[
        (&["ip link set eth0 down"], "down"),
        (&["ip link set eth0 address 02:00:00:00:00:77"], "its MAC is 02:00:00:00:00:77"),
        (&["ip link set eth0 down", "ip link set eth0 name wan"], "the link is gone"),
        (&["ip address del 10.5.0.2/24 dev eth0"], "10.5.0.2/24"),
        (&["ip address del 10.6.0.2/32 dev eth0"], "10.6.0.2/32"),
        (&["ip address del 2001:db8:5::2/64 dev eth0"], "2001:db8:5::2/64"),
        (&["ip route del default"], "0.0.0.0/0"),
        (&["ip -6 route del default"], "::/0"),
        (&["ip route del 10.9.0.0/16"], "10.9.0.0/16"),
        (&["ip route del 10.8.0.0/16 table 100"], "10.8.0.0/16"),
        (&["ip route del 10.7.0.0/16"], "10.7.0.0/16"),
    ];
    for (commands, part) in cases {
        let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        let checked = with_previous_result(&conf, &result);
        host.note(format!("{commands:?}"));
        commands.iter().for_each(|command| drop(pod.exec(*command)));
        host.plugin("host-device").check(&pod, "eth0", &checked).expect_error(999, part);
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    }
    // Another link that has all that was promised but is not the device.
    let conf = addressed(host);
    let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    let mac = pod.mac("eth0");
    pod.exec("ip link set eth0 down");
    pod.exec("ip link set eth0 name wan");
    pod.exec(format!("ip link add eth0 address {mac} type veth peer name x"));
    pod.exec("ip link set eth0 up");
    pod.exec("ip address add 10.5.0.2/24 dev eth0");
    let checked = with_previous_result(&conf, &result);
    let outcome = host.plugin("host-device").check(&pod, "eth0", &checked);
    outcome.expect_error(999, "not the device ens5");
    host.plugin("host-device").check(&pod, "eth0", &conf).expect_error(7, "prevResult");
}

fn status_tells_the_truth(host: &Host) {
    let status = |keys| {
        let conf = network::with(&leased(host), keys);
        host.plugin("host-device").status(&conf)
    };
    status(json!({})).expect_error(50, "no link named ens5");
    device(host, "ens5");
    status(json!({})).expect_ok();
    status(json!({"device": "", "pciBusID": "0000:00:3f.7"})).expect_error(50, "0000:00:3f.7");
    // The runtime names the device with each ADD.
    status(json!({"device": ""})).expect_ok();
    status(json!({"ipam": {"type": "missing"}})).expect_error(50, "missing");
    let pod = host.container("pod");
    host.plugin("host-device").add(&pod, "eth0", &leased(host)).expect_result();
    status(json!({})).expect_ok();
    let tiny = json!({"type": "host-local", "subnet": "10.5.0.0/24",
        "rangeStart": "10.5.0.2", "rangeEnd": "10.5.0.2"});
    status(json!({"ipam": tiny})).expect_error(50, "");
}
