//! ADD: the device becomes the container's interface.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::{LEFT, addressed, conf, device, leased, leases, records};
use crate::conf as network;
use crate::recorder::Recorder;

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Ping] the_device_becomes_the_containers_interface,
        [] without_ipam_it_is_a_bare_link,
        [] the_address_is_announced,
        [Ipv6, Ping] both_families_work_at_once,
        [Ipv6] without_carrier_nothing_is_waited_for,
        [] dns_is_the_configurations_else_ipams,
        [] an_old_version_needs_an_address,
        [] an_alternative_name_may_be_the_containers,
    };
    list.extend(
        cases! { [Ipv6] a_duplicate_address_is_named, [Ipv6] ipv6_is_off_where_it_is_unused,
            [Ipv6] ipv6_comes_back_with_the_device, [] one_of_two_at_once_gets_it, [] a_device_in_use_is_named,
            [] a_name_that_is_taken_is_an_error_and_nothing_moves }
            .into_iter()
            .map(Case::ours_only),
    );
    list
}

fn the_device_becomes_the_containers_interface(host: &Host) {
    let far = device(host, "ens5");
    let mac = host.mac("ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = addressed(host);
    let result = host.plugin("host-device").add(&pod, "net1", &conf).expect_result();
    assert_eq!(
        result["interfaces"],
        json!([{"name": "net1", "mac": mac, "sandbox": "/run/netns/pod"}])
    );
    assert_eq!(result["ips"], json!([{"address": "10.5.0.2/24", "interface": 0}]));
    assert_eq!(host.links(), ["lo"]);
    let link = pod.link("net1").expect("it is there");
    assert_eq!(link["ifalias"], "ens5");
    assert_eq!(pod.addresses("net1"), ["10.5.0.2/24"]);
    pod.expect_ping("10.5.0.1");
    far.expect_ping("10.5.0.2");

    host.plugin("host-device").del(&pod, "net1", &conf).expect_ok();
    assert_eq!(pod.links(), ["lo"]);
    if host.has_our_plugins() {
        host.expect_unchanged_but(&before, LEFT);
    }
}

fn without_ipam_it_is_a_bare_link(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    for version in network::versions(host).iter().filter(|v| v.as_str() >= "0.3.0") {
        let conf = conf(host, json!({"cniVersion": version}));
        let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        assert_eq!(result["interfaces"][0]["name"], "eth0");
        assert!(result.get("ips").is_none_or(|ips| ips == &json!([])), "{result}");
        let link = pod.link("eth0").expect("it is there");
        assert!(link["flags"].as_array().expect("flags").contains(&json!("UP")), "{link}");
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        host.exec("ip link set ens5 up");
    }
}

fn the_address_is_announced(host: &Host) {
    let far = device(host, "ens5");
    let pod = host.container("pod");
    let capture = far.capture();
    let keys = json!({"ipam": network::fixed(&["10.5.0.2/24", "2001:db8:5::2/64"])});
    host.plugin("host-device").add(&pod, "eth0", &conf(host, keys)).expect_result();
    if host.has_our_plugins() {
        for address in ["10.5.0.2", "2001:db8:5::2"] {
            let frame = capture.expect_announcement(address.parse().expect("an address"));
            assert_eq!(frame.source, pod.mac("eth0"));
        }
    }
}

fn both_families_work_at_once(host: &Host) {
    let far = device(host, "ens5");
    let pod = host.container("pod");
    let ipam = json!({"type": "static",
        "addresses": [{"address": "10.5.0.2/24", "gateway": "10.5.0.1"},
            {"address": "2001:db8:5::2/64", "gateway": "2001:db8:5::1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    far.exec("ip address add 192.0.2.9/32 dev lo");
    far.exec("ip address add 2001:db8:99::9/128 dev lo");
    host.plugin("host-device")
        .add(&pod, "eth0", &conf(host, json!({"ipam": ipam})))
        .expect_result();
    pod.expect_ping("192.0.2.9");
    pod.expect_ping("2001:db8:99::9");
}

fn a_duplicate_address_is_named(host: &Host) {
    let far = device(host, "ens5");
    far.exec("ip address add 2001:db8:5::2/64 dev wire nodad");
    let pod = host.container("pod");
    let before = host.snapshot();
    let ipam = json!({"type": "static",
        "addresses": [{"address": "2001:db8:5::2/64", "gateway": "2001:db8:5::1"}]});
    let outcome = host.plugin("host-device").add(&pod, "eth0", &conf(host, json!({"ipam": ipam})));
    outcome.expect_error(999, "2001:db8:5::2");
    host.expect_unchanged_but(&before, LEFT);
}

fn ipv6_is_off_where_it_is_unused(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let off = json!({"disableIPv6WhenUnused": true});
    let conf = network::with(&leased(host), off.clone());
    let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    assert_eq!(pod.exec("ip -6 address show dev eth0"), "");
    let checked = with_previous_result(&conf, &result);
    host.plugin("host-device").check(&pod, "eth0", &checked).expect_ok();
    pod.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    host.plugin("host-device").check(&pod, "eth0", &checked).expect_error(999, "IPv6 is on");
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    host.expect_unchanged_but(&before, LEFT);
    // With an IPv6 address it is used; without any, nobody knows.
    let dual = network::fixed(&["10.5.0.2/24", "2001:db8:5::2/64"]);
    for (ipam, is_off) in [(network::fixed(&["10.5.0.2/24"]), "1"), (dual, "0"), (json!({}), "0")] {
        let conf = network::with(&super::conf(host, off.clone()), json!({"ipam": ipam}));
        let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        assert_eq!(pod.sysctl("net/ipv6/conf/eth0/disable_ipv6").as_deref(), Some(is_off));
        let checked = with_previous_result(&conf, &result);
        host.plugin("host-device").check(&pod, "eth0", &checked).expect_ok();
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    }
}

fn ipv6_comes_back_with_the_device(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    // Of a device that somebody moves home it is the default.
    host.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let before = host.snapshot();
    let conf = conf(host, json!({"disableIPv6WhenUnused": true}));
    let late = json!({"type": "static", "addresses": [{"address": "10.5.0.2/24"}],
        "routes": [{"dst": "10.99.0.0/16", "gw": "172.31.0.1"}]});
    // One of others may need the device for its answer.
    let foreign = Recorder::giving(host, "foreign", "10.5.0.2/24");
    let plugin = host.plugin("host-device").cni_path(&foreign.path());
    let left = [LEFT[0], "/run/scratch"];
    for (ipam, fails) in
        [(network::fixed(&["10.5.0.2/24"]), false), (late, true), (foreign.ipam(), false)]
    {
        let conf = network::with(&conf, json!({"ipam": ipam}));
        let outcome = plugin.add(&pod, "eth0", &conf);
        if fails {
            outcome.expect_error(999, "10.99.0.0/16");
        } else {
            outcome.expect_result();
            assert_eq!(pod.exec("ip -6 address show dev eth0"), "");
            assert_eq!(pod.sysctl("net/ipv6/conf/eth0/disable_ipv6").as_deref(), Some("1"));
            plugin.del(&pod, "eth0", &conf).expect_ok();
        }
        host.expect_unchanged_but(&before, &left);
    }
}

fn without_carrier_nothing_is_waited_for(host: &Host) {
    let far = device(host, "ens5");
    far.exec("ip link set wire down");
    let pod = host.container("pod");
    let ipam = json!({"type": "static",
        "addresses": [{"address": "2001:db8:5::2/64", "gateway": "2001:db8:5::1"}]});
    let started = Instant::now();
    host.plugin("host-device")
        .add(&pod, "eth0", &conf(host, json!({"ipam": ipam})))
        .expect_result();
    if host.has_our_plugins() {
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
}

fn dns_is_the_configurations_else_ipams(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let mut ipam = network::fixed(&["10.5.0.2/24"]);
    ipam["dns"] = json!({"nameservers": ["10.5.0.53"]});
    let own = json!({"domain": "example"});
    let mut keys = json!({"ipam": ipam, "dns": own});
    let result = host.plugin("host-device").add(&pod, "eth0", &conf(host, keys.clone()));
    assert_eq!(result.expect_result()["dns"], own);
    host.plugin("host-device").del(&pod, "eth0", &conf(host, keys.clone())).expect_ok();
    if host.has_our_plugins() {
        keys["dns"] = json!({});
        let result = host.plugin("host-device").add(&pod, "eth0", &conf(host, keys));
        assert_eq!(result.expect_result()["dns"], json!({"nameservers": ["10.5.0.53"]}));
    }
}

fn an_old_version_needs_an_address(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let old = json!({"cniVersion": "0.2.0"});
    let outcome = host.plugin("host-device").add(&pod, "eth0", &conf(host, old.clone()));
    if host.has_our_plugins() {
        outcome.expect_error(7, "0.3.0");
        host.expect_unchanged_but(&before, LEFT);
        let addressed = network::with(&addressed(host), old);
        let result = host.plugin("host-device").add(&pod, "eth0", &addressed).expect_result();
        assert_eq!(result["ip4"]["ip"], "10.5.0.2/24");
    } else {
        assert!(!outcome.success());
    }
}

fn an_alternative_name_may_be_the_containers(host: &Host) {
    device(host, "ens5");
    host.exec("ip link property add dev ens5 altname net1");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = conf(host, json!({"device": "net1"}));
    let outcome = host.plugin("host-device").add(&pod, "net1", &conf);
    if host.has_our_plugins() {
        outcome.expect_result();
        assert!(pod.links().contains(&"net1".to_owned()));
        host.plugin("host-device").del(&pod, "net1", &conf).expect_ok();
        host.expect_unchanged_but(&before, LEFT);
    }
}

fn one_of_two_at_once_gets_it(host: &Host) {
    device(host, "ens5");
    let pods = [host.container("one"), host.container("two")];
    let before = host.snapshot();
    let conf = leased(host);
    for _ in 0..5 {
        let outcomes =
            host.parallel(2, |i| host.plugin("host-device").add(&pods[i], "eth0", &conf));
        let winner = outcomes.iter().position(|outcome| outcome.success());
        let winner = winner.expect("one gets it");
        outcomes[1 - winner].expect_error(999, "ens5");
        // What the runtime does after a failed ADD takes nothing from the other.
        host.plugin("host-device").del(&pods[1 - winner], "eth0", &conf).expect_ok();
        assert!(pods[winner].link("eth0").is_some());
        assert_eq!((leases(host), records(host)), (1, 1));
        host.plugin("host-device").del(&pods[winner], "eth0", &conf).expect_ok();
        host.expect_unchanged_but(&before, LEFT);
    }
}

fn a_name_that_is_taken_is_an_error_and_nothing_moves(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    pod.exec("ip link add eth0 type bridge");
    let (before, inside) = (host.snapshot(), pod.network_snapshot());
    for name in ["eth0", "lo"] {
        let outcome = host.plugin("host-device").add(&pod, name, &leased(host));
        outcome.expect_error(999, "file exists: the name is already used");
        host.expect_unchanged_but(&before, LEFT);
        inside.expect_same(&pod.network_snapshot());
    }
    assert_eq!((leases(host), records(host)), (0, 0));
}

fn a_device_in_use_is_named(host: &Host) {
    device(host, "ens5");
    host.exec("ip link property add dev ens5 altname uplink-to-rack-5");
    let (one, two) = (host.container("one"), host.container("two"));
    let mac = host.mac("ens5");
    host.plugin("host-device").add(&one, "eth0", &leased(host)).expect_result();
    let before = host.snapshot();
    for keys in [
        json!({}),
        json!({"device": "uplink-to-rack-5"}),
        json!({"device": "", "hwaddr": mac.to_uppercase()}),
    ] {
        let conf = network::with(&leased(host), keys);
        let outcome = host.plugin("host-device").add(&two, "net1", &conf);
        let error = outcome.expect_error(999, "container ctr-one of network net has it as eth0");
        assert!(error["msg"].as_str().expect("text").contains("/run/netns/one"), "{error}");
    }
    assert_eq!(two.links(), ["lo"]);
    host.expect_unchanged(&before);
}
