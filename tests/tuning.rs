//! tuning: sysctls and settings of the interface, behind a bridge.

mod allowlist;
mod teardown;

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use testkit::with_previous_result;
use testkit::{Case, Container, Host, Netns as _, Outcome, Snapshot, cases};

use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ping] settings_are_made_and_traffic_flows,
        [Bridge, OurPlugins] the_backup_is_upstreams_and_private,
        // Upstream's leaves it to the neighbours to find out.
        [Bridge, Ping, Ipv6, OurPlugins] another_mac_is_known_at_once_and_routes_stay,
        [Bridge] the_mac_has_four_sources,
        [Bridge, OurPlugins] the_result_says_what_the_link_has_become,
        [Bridge] comes_and_goes_at_every_version,
        [Bridge, OurPlugins] what_cannot_work_is_refused_and_changes_nothing,
        // Upstream's takes them away.
        [Bridge, Ipv6, OurPlugins] ipv6_addresses_that_were_promised_stay,
        [Bridge] sysctls_need_no_interface,
        // Upstream's writes them in any order, once.
        [Bridge, OurPlugins] one_sysctl_that_changes_another,
        [Bridge, OurPlugins, RealRoot] a_read_only_proc_is_an_obstacle_only_where_it_must_be_written,
        [Bridge, OurPlugins] check_names_what_is_different,
        [Bridge, OurPlugins] status_tells_what_stands_in_the_way,
        [Bridge, OurPlugins] many_at_once,
    };
    list.extend(allowlist::list());
    list.extend(teardown::list());
    list
}

const BACKUPS: &str = "/run/cni/tuning";

/// Everything that can be set on a link, and a sysctl.
fn every_key() -> Value {
    json!({"mac": "02:00:00:00:00:0a", "mtu": 1400, "promisc": true, "allmulti": true,
        "txQLen": 77, "sysctl": {"net.ipv4.conf.IFNAME.proxy_arp": "1",
            "net.ipv4.ip_local_reserved_ports": "8080,9000-9010", "net/core/somaxconn": "100"}})
}

/// A container behind a bridge.
struct Pod<'h> {
    host: &'h Host,
    container: Container,
    result: Value,
}

impl<'h> Pod<'h> {
    fn new(host: &'h Host, name: &str) -> Pod<'h> {
        let ipam = conf::leased(&["10.1.0.0/24"]);
        Pod::with(host, name, &json!({"isGateway": true, "ipam": ipam}))
    }

    fn with(host: &'h Host, name: &str, keys: &Value) -> Pod<'h> {
        let container = host.container(name);
        // The first time that lo comes up, some addresses stay.
        container.exec("ip link set lo up");
        let bridge = conf::bridge(host, keys.clone());
        let result = host.plugin("bridge").add(&container, "eth0", &bridge).expect_result();
        container.wait_for_addresses();
        Pod { host, container, result }
    }

    fn conf(&self, keys: Value) -> Value {
        with_previous_result(&conf::of_type(self.host, "tuning", keys), &self.result)
    }

    fn add(&self, keys: Value) -> Outcome {
        self.host.plugin("tuning").add(&self.container, "eth0", &self.conf(keys))
    }

    fn check(&self, keys: Value) -> Outcome {
        self.host.plugin("tuning").check(&self.container, "eth0", &self.conf(keys))
    }

    fn del(&self, keys: Value) -> Outcome {
        self.host.plugin("tuning").del(&self.container, "eth0", &self.conf(keys))
    }

    fn backup(&self) -> String {
        format!("{BACKUPS}/{}_eth0.json", self.container.id())
    }

    fn sysctl(&self, path: &str) -> String {
        self.container.sysctl(path).expect("it is there")
    }

    fn link(&self) -> Value {
        self.container.link("eth0").expect("it is there")
    }

    /// MAC, MTU, promiscuous, all-multicast, queue.
    fn settings(&self) -> (String, u64, bool, bool, u64) {
        let link = self.link();
        // A length of 0 is not shown.
        let number = |key: &str| link[key].as_u64().unwrap_or_default();
        let flag = |name: &str| link["flags"].as_array().expect("flags").contains(&json!(name));
        let mac = self.container.mac("eth0");
        (mac, number("mtu"), flag("PROMISC"), flag("ALLMULTI"), number("txqlen"))
    }

    fn snapshot(&self) -> Snapshot {
        self.container.network_snapshot()
    }
}

fn settings_are_made_and_traffic_flows(host: &Host) {
    let pod = Pod::new(host, "pod");
    let before = pod.snapshot();
    let was = pod.settings();
    pod.add(every_key()).expect_result();
    // Debian's package does not know txQLen.
    let length = if host.has_our_plugins() { 77 } else { was.4 };
    let wanted = ("02:00:00:00:00:0a".to_owned(), 1400, true, true, length);
    assert_eq!(pod.settings(), wanted);
    assert_eq!(pod.sysctl("net/ipv4/conf/eth0/proxy_arp"), "1");
    assert_eq!(pod.sysctl("net/core/somaxconn"), "100");
    assert_eq!(pod.sysctl("net/ipv4/ip_local_reserved_ports"), "8080,9000-9010");
    pod.container.expect_ping("10.1.0.1");
    // As large as it may be, and not larger.
    pod.container.exec("ping -c 1 -M do -s 1372 10.1.0.1");
    assert!(!pod.container.try_exec("ping -c 1 -M do -s 1373 10.1.0.1").success());
    // Nor IFNAME in CHECK.
    if host.has_our_plugins() {
        pod.check(every_key()).expect_ok();
    }
    pod.del(every_key()).expect_ok();
    assert_eq!(pod.settings(), was);
    assert!(host.files(BACKUPS).is_empty(), "{:?}", host.files(BACKUPS));
    if host.has_our_plugins() {
        // Upstream's leaves the sysctls as they are.
        before.expect_same(&pod.snapshot());
    }
    pod.container.expect_ping("10.1.0.1");
}

fn the_backup_is_upstreams_and_private(host: &Host) {
    let pod = Pod::new(host, "pod");
    let mac = pod.container.mac("eth0");
    pod.add(every_key()).expect_result();
    let text = fs::read_to_string(pod.backup()).expect("written");
    let upstreams = format!(
        "{{\n \"mac\": \"{mac}\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": false,\n \"txQLen\": 1000,\n"
    );
    assert!(text.starts_with(&upstreams), "{text}");
    let saved: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(saved["sysctl"]["net/ipv4/ip_local_reserved_ports"], "");
    assert_eq!(saved["sysctl"]["net/ipv4/conf/eth0/proxy_arp"], "0");
    assert_eq!(saved["oxcni"]["network"], "net");
    let mode = |path: &str| host.exec(["stat", "-c", "%a", path]).trim().to_owned();
    assert_eq!((mode(&pod.backup()), mode(BACKUPS)), ("600".into(), "700".into()));
    // Only of what is changed, and where it was told to be.
    let other = Pod::new(host, "other");
    let keys = json!({"mtu": 1300, "dataDir": "/run/elsewhere"});
    other.add(keys.clone()).expect_result();
    let path = format!("/run/elsewhere/{}_eth0.json", other.container.id());
    let saved: Value = serde_json::from_str(&fs::read_to_string(path).expect("written")).expect("");
    let mut names: Vec<_> = saved.as_object().expect("an object").keys().collect();
    names.sort();
    assert_eq!(names, ["mtu", "oxcni"]);
    other.del(keys).expect_ok();
    assert!(host.files("/run/elsewhere").is_empty());
}

fn another_mac_is_known_at_once_and_routes_stay(host: &Host) {
    let ipam = conf::leased(&["10.1.0.0/24", "2001:db8:1::/64"]);
    let pod = Pod::with(host, "pod", &json!({"isDefaultGateway": true, "ipam": ipam}));
    pod.container.exec("ip route add 192.0.2.0/24 via 10.1.0.1 table 77");
    pod.container
        .exec("ip neighbour add 10.1.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
    for name in ["arp_notify", "arp_accept"] {
        pod.container.set_sysctl(&format!("net/ipv4/conf/eth0/{name}"), "0");
    }
    pod.container.set_sysctl("net/ipv6/conf/eth0/ndisc_notify", "0");
    for address in ["10.1.0.2", "2001:db8:1::2"] {
        host.expect_ping(address);
    }
    let before = pod.snapshot();
    pod.add(json!({"mac": "02:00:00:00:00:0a"})).expect_result();
    // The host remembered the old one; it need not find out.
    host.wait_until("the host knows the new address", || {
        let known = host.exec("ip neighbour show dev cni0");
        known.matches("02:00:00:00:00:0a").count() >= 2
    });
    for address in ["10.1.0.2", "2001:db8:1::2"] {
        assert!(host.answers_ping(address), "{address}");
    }
    let now = pod.snapshot();
    for section in ["address", "route", "neighbour", "sysctl"] {
        assert_eq!(before.section(section), now.section(section), "{section}");
    }
    pod.del(json!({})).expect_ok();
    before.expect_same(&pod.snapshot());
}

fn the_mac_has_four_sources(host: &Host) {
    let pod = Pod::new(host, "pod");
    let base = json!({"mac": "02:00:00:00:00:01"});
    let runtime = conf::with(&base, json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}}));
    let over = conf::with(&runtime, json!({"args": {"cni": {"mac": "02:00:00:00:00:04"}}}));
    for (keys, args, mac) in [
        (&base, "", "02:00:00:00:00:01"),
        (&base, "IgnoreUnknown=1;MAC=02:00:00:00:00:02;K8S_POD_NAME=x", "02:00:00:00:00:02"),
        (&runtime, "MAC=02:00:00:00:00:02", "02:00:00:00:00:03"),
        (&over, "MAC=02:00:00:00:00:02", "02:00:00:00:00:04"),
    ] {
        let conf = pod.conf(keys.clone());
        let plugin = host.plugin("tuning").args(args);
        let result = plugin.add(&pod.container, "eth0", &conf).expect_result();
        assert_eq!(pod.container.mac("eth0"), mac);
        let interfaces = result["interfaces"].as_array().expect("a list");
        assert_eq!(interfaces.iter().filter(|i| i["mac"] == mac).count(), 1, "{result}");
        plugin.check(&pod.container, "eth0", &with_previous_result(&conf, &result)).expect_ok();
        plugin.del(&pod.container, "eth0", &conf).expect_ok();
    }
}

fn the_result_says_what_the_link_has_become(host: &Host) {
    let pod = Pod::new(host, "pod");
    let sandbox = pod.container.path().display().to_string();
    let previous = json!({"cniVersion": "1.1.0", "interfaces": [
        {"name": "eth0", "mac": "02:00:00:00:00:99"},
        {"name": "eth0", "mac": "02:00:00:00:00:98", "mtu": 1500, "sandbox": sandbox},
        {"name": "eth1", "mac": "02:00:00:00:00:97", "mtu": 1500, "sandbox": sandbox},
    ], "ips": [{"address": "10.1.0.2/24"}]});
    let keys = json!({"mac": "02-00-00-00-00-0A", "mtu": 1400});
    let conf = with_previous_result(&pod.conf(keys), &previous);
    let result = host.plugin("tuning").add(&pod.container, "eth0", &conf).expect_result();
    let mut expected = previous;
    expected["interfaces"][1]["mac"] = json!("02:00:00:00:00:0a");
    expected["interfaces"][1]["mtu"] = json!(1400);
    assert_eq!(result, expected);
    let checked = with_previous_result(&conf, &result);
    host.plugin("tuning").check(&pod.container, "eth0", &checked).expect_ok();
}

fn comes_and_goes_at_every_version(host: &Host) {
    for version in conf::versions(host) {
        let pod = Pod::new(host, &format!("at-{version}"));
        let previous = match version.as_str() {
            "0.1.0" | "0.2.0" => json!({"cniVersion": version, "ip4": {"ip": "10.1.0.9/24"}}),
            "0.3.0" | "0.3.1" | "0.4.0" => json!({"cniVersion": version,
                "interfaces": [{"name": "eth0", "sandbox": "/x"}],
                "ips": [{"version": "4", "interface": 0, "address": "10.1.0.9/24"}]}),
            _ => json!({"cniVersion": version, "interfaces": [{"name": "eth0", "sandbox": "/x"}],
                "ips": [{"interface": 0, "address": "10.1.0.9/24"}]}),
        };
        let conf = json!({"cniVersion": version, "name": "net", "type": "tuning", "mtu": 1400,
            "sysctl": {"net.core.somaxconn": "99"}, "prevResult": previous});
        let result = host.plugin("tuning").add(&pod.container, "eth0", &conf).expect_result();
        assert_eq!(result["cniVersion"], version.as_str());
        assert!(result.to_string().contains("10.1.0.9/24"), "{result}");
        assert_eq!(pod.link()["mtu"], 1400);
        if version.as_str() >= "0.4.0" {
            host.plugin("tuning").check(&pod.container, "eth0", &conf).expect_ok();
        }
        host.plugin("tuning").del(&pod.container, "eth0", &conf).expect_ok();
        assert_eq!(pod.link()["mtu"], 1500);
    }
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    let pod = Pod::new(host, "pod");
    host.exec("mkdir -p -m 700 /run/cni/tuning");
    let (before, inside) = (host.snapshot(), pod.snapshot());
    let sysctl = |key: &str, value: &str| json!({"mtu": 1400, "sysctl": {key: value}});
    for (keys, code, part) in [
        (sysctl("kernel.hostname", "x"), 7, "invalid net sysctl key"),
        (sysctl("net/../kernel/hostname", "x"), 7, "invalid net sysctl key"),
        (sysctl("net.ipv4.conf.no-such-link.forwarding", "1"), 999, "no such file"),
        (sysctl("net.ipv4.conf.IFNAME.proxy_arp", "many"), 999, "proxy_arp"),
        (sysctl("net.ipv4.tcp_available_congestion_control", "cubic"), 999, "permission"),
        // What comes before is taken back.
        (conf::with(&every_key(), json!({"mtu": 70_000})), 999, "mtu"),
        (conf::with(&every_key(), json!({"mtu": 60})), 999, "mtu"),
        (json!({"mac": "01:00:5e:00:00:01"}), 7, "group address"),
        (json!({"txQLen": -1}), 7, "txQLen"),
        (json!({"mtu": -1400}), 7, "mtu"),
        (json!({"sysctl": {"net.core.somaxconn": 5}}), 7, "sysctl"),
        (json!({"mtu": 1400, "dataDir": "/run/cni/tuning/file"}), 5, "/run/cni/tuning/file"),
    ] {
        if keys["dataDir"].is_string() {
            host.write("/run/cni/tuning/file", "");
        }
        pod.add(keys.clone()).expect_error(code, part);
        pod.snapshot().expect_same(&inside);
        host.expect_unchanged_but(&before, &["/run/cni/tuning/file"]);
    }
    let twice = pod.conf(json!({"sysctl": {"KEY": "1"}})).to_string();
    let twice =
        twice.replace(r#""KEY":"1""#, r#""net.core.somaxconn":"1","net.core.somaxconn":"2""#);
    let variables = BTreeMap::from([
        ("CNI_CONTAINERID", pod.container.id()),
        ("CNI_NETNS", pod.container.path().display().to_string()),
        ("CNI_IFNAME", "eth0".into()),
    ]);
    let outcome = host.plugin("tuning").raw("ADD", &variables, twice.as_bytes());
    outcome.expect_error(7, "duplicated sysctl keys are not allowed");
    let alone = conf::of_type(host, "tuning", json!({"mtu": 1400}));
    let plugin = host.plugin("tuning");
    plugin.add(&pod.container, "eth0", &alone).expect_error(7, "prevResult is missing");
    plugin.check(&pod.container, "eth0", &alone).expect_error(7, "prevResult missing");
    let conf = pod.conf(json!({"mtu": 1400}));
    plugin.add(&pod.container, "eth9", &conf).expect_error(999, "no such link");
    plugin.args("FOO=1").add(&pod.container, "eth0", &conf).expect_error(4, "unknown args");
    pod.snapshot().expect_same(&inside);
    host.expect_unchanged_but(&before, &["/run/cni/tuning/file"]);
}

fn ipv6_addresses_that_were_promised_stay(host: &Host) {
    let ipam = conf::leased(&["10.1.0.0/24", "2001:db8:1::/64"]);
    let bridge = json!({"isGateway": true, "ipam": ipam});
    let pod = Pod::with(host, "pod", &bridge);
    let (before, inside) = (host.snapshot(), pod.snapshot());
    let off = |key: &str| json!({"sysctl": {key: "1"}});
    for (keys, part) in [
        (json!({"mtu": 1279}), "mtu 1279"),
        (json!({"args": {"cni": {"mtu": 1000}}}), "mtu 1000"),
        (off("net.ipv6.conf.IFNAME.disable_ipv6"), "sysctl net.ipv6.conf.IFNAME.disable_ipv6"),
        (off("net/ipv6/conf/eth0/disable_ipv6"), "sysctl net/ipv6/conf/eth0/disable_ipv6"),
        (off("net.ipv6.conf.all.disable_ipv6"), "sysctl net.ipv6.conf.all.disable_ipv6"),
    ] {
        for part in [part, "2001:db8:1::2"] {
            pod.add(keys.clone()).expect_error(7, part);
        }
        pod.snapshot().expect_same(&inside);
        host.expect_unchanged(&before);
    }
    for keys in [
        json!({"mtu": 1280}),
        off("net.ipv6.conf.lo.disable_ipv6"),
        off("net.ipv6.conf.default.disable_ipv6"),
        json!({"sysctl": {"net.ipv6.conf.IFNAME.disable_ipv6": "0"}}),
    ] {
        pod.add(keys.clone()).expect_result();
        let checked = with_previous_result(&conf::bridge(host, bridge.clone()), &pod.result);
        host.plugin("bridge").check(&pod.container, "eth0", &checked).expect_ok();
        pod.del(keys).expect_ok();
    }
    // As docker makes containers: off, and on again for the interface.
    let container = host.container("docker");
    container.exec("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let conf = conf::bridge(host, bridge);
    let result = host.plugin("bridge").add(&container, "eth0", &conf).expect_result();
    let keys = off("net.ipv6.conf.all.disable_ipv6");
    let tuning = with_previous_result(&conf::of_type(host, "tuning", keys), &result);
    host.plugin("tuning").add(&container, "eth0", &tuning).expect_result();
    let conf = with_previous_result(&conf, &result);
    host.plugin("bridge").check(&container, "eth0", &conf).expect_ok();
    // Who has no IPv6 address, loses none.
    let pod = Pod::new(host, "old");
    pod.add(conf::with(&off("net.ipv6.conf.all.disable_ipv6"), json!({"mtu": 1000})))
        .expect_result();
}

fn sysctls_need_no_interface(host: &Host) {
    let pod = Pod::new(host, "pod");
    let conf = pod.conf(json!({"sysctl": {"net.core.somaxconn": "77"}}));
    host.plugin("tuning").add(&pod.container, "eth9", &conf).expect_result();
    assert_eq!(pod.sysctl("net/core/somaxconn"), "77");
    host.plugin("tuning").del(&pod.container, "eth9", &conf).expect_ok();
    // Nothing to do is nothing done.
    let nothing = pod.conf(json!({"promisc": false, "mtu": 0}));
    let result = host.plugin("tuning").add(&pod.container, "eth9", &nothing).expect_result();
    assert_eq!(result, pod.result);
}

fn one_sysctl_that_changes_another(host: &Host) {
    let pod = Pod::new(host, "pod");
    let before = pod.snapshot();
    let keys = json!({"sysctl": {
        "net.ipv4.conf.IFNAME.forwarding": "0", "net.ipv4.ip_forward": "1",
        "net.ipv4.ip_local_port_range": "2000 3000", "net.ipv4.route.flush": "1",
        "net.ipv4.tcp_rmem": "4096 0x20000 6291456"}});
    pod.add(keys.clone()).expect_result();
    assert_eq!(pod.sysctl("net/ipv4/ip_forward"), "1");
    assert_eq!(pod.sysctl("net/ipv4/conf/eth0/forwarding"), "0");
    assert_eq!(pod.sysctl("net/ipv4/tcp_rmem"), "4096\t131072\t6291456");
    pod.check(keys.clone()).expect_ok();
    pod.del(keys).expect_ok();
    before.expect_same(&pod.snapshot());
}

fn a_read_only_proc_is_an_obstacle_only_where_it_must_be_written(host: &Host) {
    let pod = Pod::new(host, "pod");
    let now = pod.sysctl("net/core/somaxconn");
    host.exec("mount --bind /proc/sys /proc/sys");
    host.exec("mount -o remount,ro,bind /proc/sys");
    let inside = pod.snapshot();
    let keys = |value: &str| {
        json!({"mtu": 1400, "mac": "02:00:00:00:00:0a",
        "sysctl": {"net.core.somaxconn": value}})
    };
    pod.add(keys("77")).expect_error(999, "read-only");
    pod.snapshot().expect_same(&inside);
    pod.add(keys(&now)).expect_result();
    assert_eq!(pod.link()["mtu"], 1400);
    pod.del(keys(&now)).expect_ok();
    pod.snapshot().expect_same(&inside);
}

fn check_names_what_is_different(host: &Host) {
    let pod = Pod::new(host, "pod");
    let keys = conf::with(&every_key(), json!({"mac": "02:00:00:00:00:AA"}));
    for (command, part) in [
        ("ip link set eth0 address 02:00:00:00:00:77", "its MAC is 02:00:00:00:00:77"),
        ("ip link set eth0 mtu 1300", "its mtu is 1300, configured was 1400"),
        ("ip link set eth0 promisc off", "promiscuous mode is off"),
        ("ip link set eth0 allmulticast off", "all-multicast mode is off"),
        ("ip link set eth0 txqueuelen 5", "its txQLen is 5"),
        ("sysctl -qw net.core.somaxconn=5", r#"net/core/somaxconn is "5""#),
        ("ip link del eth0", "no such"),
    ] {
        pod.add(keys.clone()).expect_result();
        pod.check(keys.clone()).expect_ok();
        pod.container.exec(command);
        pod.check(keys.clone()).expect_error(999, part);
    }
    // Somebody who listens changes nothing that was promised.
    let pod = Pod::new(host, "quiet");
    let keys = json!({"mtu": 1400});
    pod.add(keys.clone()).expect_result();
    pod.container.exec("ip link set eth0 promisc on");
    pod.check(keys).expect_ok();
}

fn status_tells_what_stands_in_the_way(host: &Host) {
    let status = |keys: Value| host.plugin("tuning").status(&conf::of_type(host, "tuning", keys));
    let before = host.snapshot();
    status(every_key()).expect_ok();
    host.expect_unchanged(&before);
    status(json!({"sysctl": {"kernel.x": "1"}})).expect_error(7, "invalid net sysctl key");
    host.write("/run/file", "");
    status(json!({"dataDir": "/run/file"})).expect_error(50, "/run/file");
    host.write("/etc/cni/tuning/allowlist.conf", "^net\\.ipv4\\.\n");
    status(json!({"sysctl": {"net.core.somaxconn": "1"}})).expect_error(50, "is not allowed");
    status(json!({"sysctl": {"net.ipv4.ip_forward": "1"}})).expect_ok();
}

fn many_at_once(host: &Host) {
    let pods: Vec<_> = (0..8).map(|n| Pod::new(host, &format!("pod{n}"))).collect();
    let before: Vec<_> = pods.iter().map(Pod::snapshot).collect();
    host.parallel(pods.len(), |n| pods[n].add(every_key()).expect_result());
    assert_eq!(host.files(BACKUPS).len(), pods.len());
    host.parallel(pods.len(), |n| pods[n].check(every_key()).expect_ok());
    host.parallel(pods.len(), |n| pods[n].del(every_key()).expect_ok());
    assert!(host.files(BACKUPS).is_empty());
    for (pod, before) in pods.iter().zip(before) {
        before.expect_same(&pod.snapshot());
    }
}
