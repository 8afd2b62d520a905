//! What is left: nothing, in whatever state DEL, GC or a failed ADD find things.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _};

use super::{HOST, Pod, bridge, on, portmap, tcp, udp};
use crate::chained::{at, both_backends};
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let mut list = both_backends(
        "portmap::teardown",
        &[
            "del_without_netns",
            "del_after_the_ports_were_changed",
            "del_after_the_backend_was_changed",
        ],
        &[
            ("del_gives_everything_back", del_gives_everything_back),
            ("del_without_netns", del_without_netns),
            ("del_without_what_it_needs", del_without_what_it_needs),
            ("del_after_the_ports_were_changed", del_after_the_ports_were_changed),
            ("del_after_the_backend_was_changed", del_after_the_backend_was_changed),
            ("gc_sweeps_what_is_not_valid", gc_sweeps),
            ("check_sees_each_difference", check_sees_each_difference),
            ("what_an_earlier_add_left_of_a_family_is_seen", seen_of_a_family),
        ],
    );
    list.extend(testkit::cases! {
        [Bridge, Nft, OurPlugins] foreign_things_in_the_table_stay,
        [Bridge, Nft, OurPlugins] a_port_too_many_is_seen_and_removed,
        [Bridge, Nft, OurPlugins] what_an_earlier_add_left_at_an_address_is_seen,
        [Bridge, Nft, LegacyIptables, OurPlugins] what_an_earlier_add_left_in_legacy_iptables_is_seen,
        [Bridge, Nft, OurPlugins] without_the_set_of_containers_all_goes,
        [Bridge, Nft, OurPlugins] the_ruleset_can_be_saved_and_loaded,
        [Bridge, Nft, OurPlugins] a_flushed_ruleset,
        [Bridge, Nft, OurPlugins, Strace] a_failure_at_any_step_changes_nothing,
        [Bridge, Nft, OurPlugins, Strace] del_after_a_kill_at_any_step,
        [Bridge, Nft, Iptables, OurPlugins, Strace] a_failing_iptables_changes_nothing,
        [Bridge, OurPlugins, Strace] without_mappings_no_socket_is_opened,
        [Bridge, Nft, OurPlugins, Strace] nothing_is_executed,
        [Bridge, Nft, Iptables, OurPlugins, Strace] iptables_is_executed_once_for_each_family,
        [Bridge, Nft, Iptables, OurPlugins, Strace] what_netlink_does_not_tell_iptables_does,
    });
    list
}

/// System calls that start a process.
pub(super) const PROCESSES: &str = "clone,clone3,fork,vfork";

fn some() -> Vec<Value> {
    vec![
        tcp(18080, 8080),
        udp(18080, 8080),
        on("192.0.2.1", tcp(18081, 8080)),
        on("2001:db8:ffff::1", udp(18082, 8080)),
    ]
}

/// The host after an attachment that came and went: the guard of the loopback
/// stays, and iptables' shared chains.
#[track_caller]
fn after_the_first(host: &Host, pod: &Pod, conf: &Value) -> testkit::Snapshot {
    pod.map(host, conf).expect_result();
    pod.unmap(host, conf).expect_ok();
    host.snapshot()
}

/// Nothing of a host without other mappings is left, but what iptables' shared
/// chains leave.
#[track_caller]
fn expect_clean(host: &Host, before: &testkit::Snapshot, backend: &str) {
    let stays: &[&str] = if backend == "nftables" { &[] } else { &super::STAYS };
    host.expect_unchanged_but(before, stays);
    let rules = host.exec("iptables-save") + &host.exec("ip6tables-save");
    assert!(!rules.contains("CNI-DN-"), "{rules}");
}

fn del_gives_everything_back(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let conf = portmap(backend, &some());
    let fresh = host.snapshot();
    // Before ADD, after it, and again.
    one.unmap(host, &conf).expect_ok();
    host.expect_unchanged(&fresh);
    let before = after_the_first(host, &one, &conf);
    if backend == "nftables" {
        let left = host.exec("nft list ruleset");
        let chains = left.lines().filter(|line| line.trim_start().starts_with("chain ")).count();
        assert_eq!((chains, left.contains("ip6")), (1, false), "only the guard stays\n{left}");
    }
    one.map(host, &conf).expect_result();
    one.unmap(host, &conf).expect_ok();
    one.unmap(host, &conf).expect_ok();
    expect_clean(host, &before, backend);
    // Among others.
    let others = portmap(backend, &[tcp(19080, 8080), on("192.0.2.1", tcp(19081, 8080))]);
    two.map(host, &others).expect_result();
    let with_two = host.snapshot();
    one.map(host, &conf).expect_result();
    one.unmap(host, &conf).expect_ok();
    host.expect_unchanged(&with_two);
    two.check(host, &others).expect_ok();
    two.unmap(host, &others).expect_ok();
    expect_clean(host, &before, backend);
}

fn del_without_netns(host: &Host, backend: &str) {
    let _outside = host.outside();
    for how in ["empty", "gone", "stale"] {
        let pod = Pod::new(host, how);
        let conf = portmap(backend, &some());
        pod.map(host, &conf).expect_result();
        let plugin = host.plugin("portmap");
        let behind = pod.behind(&conf);
        match how {
            "empty" => plugin.del_without_netns(&pod.container, "eth0", &behind).expect_ok(),
            "gone" => {
                pod.container.destroy();
                plugin.del(&pod.container, "eth0", &behind).expect_ok();
            }
            _ => {
                pod.container.make_stale_file();
                plugin.del(&pod.container, "eth0", &behind).expect_ok();
            }
        }
        let rules = host.exec("nft list ruleset") + &host.exec("iptables-save");
        assert!(!rules.contains("18080") && !rules.contains("CNI-DN"), "{how}: {rules}");
    }
}

/// A configuration that is broken by now, and no previous result.
fn del_without_what_it_needs(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap(backend, &some());
    let before = after_the_first(host, &pod, &conf);
    let breaks: [fn(&mut Value); 8] = [
        |_| {},
        |conf| conf["backend"] = "something".into(),
        |conf| conf["markMasqBit"] = 77.into(),
        |conf| conf["runtimeConfig"]["portMappings"][0]["hostPort"] = 0.into(),
        |conf| conf["runtimeConfig"]["portMappings"][1]["protocol"] = "smtp".into(),
        |conf| conf["runtimeConfig"]["portMappings"] = "many".into(),
        // Of a runtime that has forgotten them.
        |conf| conf["runtimeConfig"] = Value::Null,
        |conf| drop(conf.as_object_mut().expect("an object").remove("runtimeConfig")),
    ];
    for change in breaks {
        pod.map(host, &conf).expect_result();
        let mut broken = conf.clone();
        change(&mut broken);
        host.plugin("portmap").del(&pod.container, "eth0", &broken).expect_ok();
        expect_clean(host, &before, backend);
    }
}

fn del_after_the_ports_were_changed(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let before = after_the_first(host, &pod, &portmap(backend, &some()));
    pod.map(host, &portmap(backend, &some())).expect_result();
    pod.unmap(host, &portmap(backend, &[tcp(4711, 8080), tcp(18080, 8080)])).expect_ok();
    expect_clean(host, &before, backend);
}

fn del_after_the_backend_was_changed(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let other = if backend == "nftables" { "iptables" } else { "nftables" };
    let before = after_the_first(host, &pod, &portmap(backend, &some()));
    pod.map(host, &portmap(backend, &some())).expect_result();
    pod.unmap(host, &portmap(other, &some())).expect_ok();
    expect_clean(host, &before, backend);
}

fn gc_sweeps(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pods: Vec<Pod> = ["keep", "lost", "late"].map(|name| Pod::new(host, name)).into();
    let conf = |port: u16| portmap(backend, &[tcp(port, 8080), on("192.0.2.1", udp(port, 8080))]);
    let mut other_network = conf(18083);
    other_network["name"] = "other".into();
    let other = Pod::new(host, "other");
    let clean = host.snapshot();
    pods[0].map(host, &conf(18080)).expect_result();
    other.map(host, &other_network).expect_result();
    let wanted = host.snapshot();
    pods[1].map(host, &conf(18081)).expect_result();
    pods[2].map(host, &conf(18082)).expect_result();
    pods[2].container.destroy();
    let gc = |valid: Value| {
        let mut gc = portmap(backend, &[]);
        gc["cni.dev/valid-attachments"] = valid.clone();
        gc["cni.dev/attachments"] = valid;
        gc
    };
    let all = host.snapshot();
    // Without a list, and with one that cannot be read, nothing goes.
    host.plugin("portmap").gc(&portmap(backend, &[])).expect_ok();
    host.plugin("portmap").gc(&gc(json!("all"))).expect_error(7, "valid");
    host.expect_unchanged_but(&all, &["/run/netns", "veth", "fe80"]);
    let keep = json!([{"containerID": "ctr-keep", "ifname": "eth0"}]);
    host.plugin("portmap").gc(&gc(keep.clone())).expect_ok();
    host.expect_unchanged_but(&wanted, &["/run/netns", "veth", "fe80"]);
    pods[0].check(host, &conf(18080)).expect_ok();
    other.check(host, &other_network).expect_ok();
    host.plugin("portmap").gc(&gc(keep)).expect_ok();
    host.plugin("portmap").gc(&gc(json!([]))).expect_ok();
    other.check(host, &other_network).expect_ok();
    let mut gc_other = gc(json!([]));
    gc_other["name"] = "other".into();
    host.plugin("portmap").gc(&gc_other).expect_ok();
    let stays = [&super::STAYS[..], &["/run/netns", "veth", "fe80"]].concat();
    host.expect_unchanged_but(&clean, &stays);
    let rules = host.exec("nft list ruleset") + &host.exec("iptables-save");
    assert!(!rules.contains("18080") && !rules.contains("CNI-DN"), "{rules}");
}

fn check_sees_each_difference(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap(backend, &some());
    pod.check(host, &conf).expect_error(999, "check port mappings");
    let damages: &[&str] = match backend {
        "nftables" => &[
            "nft delete element ip cni_hostport any_address { tcp . 18080 }",
            "nft delete element ip6 cni_hostport one_address { 2001:db8:ffff::1 . udp . 18082 }",
            "nft delete element ip cni_hostport one_address_ports { tcp . 18081 }",
            "nft delete element ip cni_hostport masqueraded { 127.0.0.1 . 10.1.0.2 }",
            "nft add element ip cni_hostport masqueraded_all { 10.1.0.2 }",
            "nft flush set ip cni_hostport containers",
            "nft flush chain ip cni_hostport neighbours",
            "nft flush chain ip cni_hostport guard_loopback",
            "nft flush chain ip cni_hostport mapped_output",
            "nft insert rule ip6 cni_hostport mapped accept",
            "nft delete table ip6 cni_hostport",
        ],
        _ => &[
            "iptables -w -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
            "ip6tables -w -t nat -F CNI-HOSTPORT-DNAT",
            "iptables -w -t nat -F CNI-HOSTPORT-SETMARK",
            "iptables -w -t raw -F PREROUTING",
        ],
    };
    let damages = damages.iter().chain(&["sysctl -qw net.ipv4.conf.cni0.route_localnet=0"]);
    for damage in damages {
        pod.map(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        host.exec(*damage);
        let before = host.snapshot();
        let seen = pod.check(host, &conf);
        assert!(!seen.success(), "{damage} went unseen");
        seen.expect_error(999, "check port mappings");
        host.expect_unchanged(&before);
    }
    pod.map(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    let other = portmap(backend, &some()[..2]);
    pod.check(host, &other).expect_error(999, "check port mappings");
}

/// Of a set that says which are whose, or of one port that it does not count.
fn a_port_too_many_is_seen_and_removed(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap("nftables", &some());
    pod.map(host, &conf).expect_result();
    let before = host.snapshot();
    let rules = host.exec("nft list map ip cni_hostport any_address");
    let comment = rules.split('"').nth(1).expect("an element has a comment");
    let element = format!("{{ tcp . 9090 comment \"{comment}\" : 10.1.0.2 . 99 }}");
    host.exec(["nft", "add", "element", "ip", "cni_hostport", "any_address", &element]);
    pod.check(host, &conf).expect_error(999, "check port mappings");
    pod.map(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    host.expect_unchanged(&before);
}

/// CHECK names what else the attachment maps; RESTORE and DEL remove it.
#[track_caller]
fn expect_seen(host: &Host, pod: &Pod, conf: &Value, named: &str, others: impl Fn() -> bool) {
    let now = host.snapshot();
    pod.check(host, conf).expect_error(999, named);
    host.expect_unchanged(&now);
    assert!(others(), "{now}");
    let text = pod.behind(conf).to_string();
    host.plugin("portmap").send("RESTORE", &pod.container, "eth0", text.as_bytes()).expect_ok();
    assert!(!others(), "{}", host.snapshot());
    pod.check(host, conf).expect_ok();
}

fn what_an_earlier_add_left_at_an_address_is_seen(host: &Host) {
    let outside = host.outside();
    let mut pod = Pod::new(host, "pod");
    let (first, second) = (pod.result.clone(), with_address(&pod.result, "10.1.0.55"));
    let conf = portmap("nftables", &[tcp(18080, 8080)]);
    let next = portmap("nftables", &[tcp(19090, 8080)]);
    let clean = after_the_first(host, &pod, &conf);
    pod.map(host, &conf).expect_result();
    pod.result = second;
    pod.map(host, &next).expect_result();
    let is_there = || host.exec("nft list ruleset").contains("tcp . 18080");
    expect_seen(host, &pod, &next, "tcp port 18080 of the host is mapped to 10.1.0.2", is_there);
    // DEL needs no RESTORE.
    pod.result = first;
    pod.map(host, &portmap("nftables", &[tcp(18080, 8080), tcp(19090, 8080)])).expect_result();
    pod.unmap(host, &next).expect_ok();
    assert!(outside.tcp(at(HOST[0], 18080)).is_err());
    host.expect_unchanged(&clean);
}

fn with_address(result: &Value, address: &str) -> Value {
    let mut result = result.clone();
    result["ips"][0]["address"] = format!("{address}/24").into();
    result
}

fn without_ipv6(result: &Value) -> Value {
    let mut result = result.clone();
    result["ips"].as_array_mut().expect("a list").truncate(1);
    result
}

fn seen_of_a_family(host: &Host, backend: &str) {
    let _outside = host.outside();
    let [mut pod, other] = ["pod", "other"].map(|name| Pod::new(host, name));
    other.map(host, &portmap(backend, &[tcp(17080, 8080)])).expect_result();
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    pod.map(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    pod.result = without_ipv6(&pod.result);
    let next = portmap(backend, &[tcp(19090, 8080)]);
    pod.map(host, &next).expect_result();
    let named = match backend {
        "nftables" => "tcp port 18080 of the host is mapped to 2001:db8:1::2 port 8080",
        _ => "of ip6tables",
    };
    let is_there = || {
        let rules = host.exec("nft list ruleset") + &host.exec("ip6tables-save");
        rules.contains("18080")
    };
    expect_seen(host, &pod, &next, named, is_there);
    other.check(host, &portmap(backend, &[tcp(17080, 8080)])).expect_ok();
}

fn what_an_earlier_add_left_in_legacy_iptables_is_seen(host: &Host) {
    let _outside = host.outside();
    install_iptables(host, "legacy");
    let mut pod = Pod::new(host, "pod");
    let conf = portmap("iptables", &[tcp(18080, 8080)]);
    pod.map(host, &conf).expect_result();
    pod.result = without_ipv6(&pod.result);
    pod.check(host, &conf).expect_error(999, "of ip6tables");
    let is_there = || host.exec("ip6tables-legacy-save -t nat").contains("18080");
    expect_seen(host, &pod, &conf, "of ip6tables", is_there);
}

fn without_the_set_of_containers_all_goes(host: &Host) {
    let _outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let (conf, others) = (portmap("nftables", &some()), portmap("nftables", &[tcp(19080, 8080)]));
    let before = after_the_first(host, &pod, &conf);
    let mut gc = portmap("nftables", &[]);
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "ctr-other", "ifname": "eth0"}]);
    gc["cni.dev/attachments"] = gc["cni.dev/valid-attachments"].clone();
    for how in ["DEL", "DEL without mappings", "GC"] {
        other.map(host, &others).expect_result();
        pod.map(host, &conf).expect_result();
        host.exec("nft flush set ip cni_hostport containers");
        host.exec("nft flush map ip6 cni_hostport any_address");
        match how {
            "DEL" => pod.unmap(host, &conf).expect_ok(),
            "GC" => host.plugin("portmap").gc(&gc).expect_ok(),
            _ => {
                let mut forgotten = conf.clone();
                forgotten.as_object_mut().expect("an object").remove("runtimeConfig");
                pod.unmap(host, &forgotten).expect_ok();
            }
        };
        let rules = host.exec("nft list ruleset");
        assert!(!rules.contains("1808") && !rules.contains("10.1.0.2"), "{how}: {rules}");
        // The other one's stays.
        assert!(rules.contains("tcp . 19080"), "{how}: {rules}");
        other.unmap(host, &others).expect_ok();
        host.expect_unchanged(&before);
    }
}

fn foreign_things_in_the_table_stay(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap("nftables", &some());
    pod.map(host, &conf).expect_result();
    host.exec("nft add chain ip cni_hostport mine");
    host.exec("nft add rule ip cni_hostport mine counter");
    host.exec(
        "nft add element ip cni_hostport any_address { tcp . 7 comment \"mine\" : 10.9.9.9 . 7 }",
    );
    pod.unmap(host, &conf).expect_ok();
    let rules = host.exec("nft list ruleset");
    assert!(rules.contains("chain mine") && rules.contains("tcp . 7 comment"), "{rules}");
    assert!(!rules.contains("18080") && !rules.contains("ip6 cni_hostport"), "{rules}");
    // A port that somebody mapped by hand is owned as well.
    pod.map(host, &portmap("nftables", &[tcp(7, 8080)])).expect_error(999, "tcp port 7 ");

    // The same names with other types: somebody else's table.
    host.exec("nft delete table ip cni_hostport");
    host.exec("nft add table ip cni_hostport");
    host.exec("nft add set ip cni_hostport containers { type inet_service ; }");
    let before = host.snapshot();
    pod.map(host, &conf).expect_error(999, "containers");
    host.expect_unchanged(&before);
    pod.unmap(host, &conf).expect_ok();
    host.expect_unchanged(&before);
}

/// As services that keep the rules over a restart do.
fn the_ruleset_can_be_saved_and_loaded(host: &Host) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(8080);
    let conf = portmap("nftables", &some());
    pod.map(host, &conf).expect_result();
    let before = host.snapshot();
    let file = host.scratch().join("rules").display().to_string();
    host.exec([
        "sh",
        "-c",
        &format!("nft list ruleset > {file} && nft flush ruleset && nft -f {file}"),
    ]);
    host.expect_unchanged(&before);
    pod.check(host, &conf).expect_ok();
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
    pod.unmap(host, &conf).expect_ok();
}

fn a_flushed_ruleset(host: &Host) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let before = host.snapshot();
    let conf = portmap("nftables", &some());
    pod.map(host, &conf).expect_result();
    host.exec("nft flush ruleset");
    pod.check(host, &conf).expect_error(999, "check port mappings");
    pod.map(host, &conf).expect_result();
    let _server = pod.container.echo_server(8080);
    outside.tcp(at(HOST[0], 18080)).expect("mapped again");
    host.exec("nft flush ruleset");
    pod.unmap(host, &conf).expect_ok();
    host.expect_unchanged_but(&before, &["route_localnet"]);
}

fn a_failure_at_any_step_changes_nothing(host: &Host) {
    let _outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let conf = portmap("nftables", &some());
    after_the_first(host, &pod, &conf);
    for with_another in [false, true] {
        if with_another {
            other.map(host, &portmap("nftables", &[tcp(19080, 8080)])).expect_result();
        }
        host.set_sysctl("net/ipv4/conf/cni0/route_localnet", "0");
        let before = host.snapshot();
        let mut failures = 0;
        for (calls, error) in [("sendto,sendmsg", "ENOBUFS"), ("recvmsg,recvfrom", "ENOMEM")] {
            for nth in 1.. {
                let plugin = host.plugin("portmap").fail_call(calls, error, nth);
                let outcome = plugin.add(&pod.container, "eth0", &pod.behind(&conf));
                if !outcome.fault_fired() {
                    outcome.expect_result();
                    pod.unmap(host, &conf).expect_ok();
                    break;
                }
                // A question that is asked again may be answered then.
                if outcome.success() {
                    pod.check(host, &conf).expect_ok();
                    pod.unmap(host, &conf).expect_ok();
                } else {
                    failures += 1;
                    host.expect_unchanged_but(&before, &["route_localnet"]);
                }
            }
        }
        assert!(failures > 5, "no call failed");
    }
}

fn del_after_a_kill_at_any_step(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap("nftables", &some());
    let before = after_the_first(host, &pod, &conf);
    for nth in 1.. {
        let plugin = host.plugin("portmap").kill_at_call("sendto,sendmsg", nth);
        let outcome = plugin.add(&pod.container, "eth0", &pod.behind(&conf));
        pod.unmap(host, &conf).expect_ok();
        host.expect_unchanged(&before);
        if !outcome.fault_fired() {
            assert!(nth > 5, "no call was met");
            break;
        }
    }
}

fn a_failing_iptables_changes_nothing(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap("iptables", &some());
    let before = host.snapshot();
    for nth in 1.. {
        let plugin = host.plugin("portmap").fail_call(PROCESSES, "EAGAIN", nth);
        let outcome = plugin.add(&pod.container, "eth0", &pod.behind(&conf));
        if !outcome.fault_fired() {
            outcome.expect_result();
            assert!(nth > 2, "the commands of both families were not met");
            break;
        }
        outcome.expect_error(999, "execute");
        host.expect_unchanged_but(&before, &super::STAYS);
        let rules = host.exec("iptables-save");
        assert!(!rules.contains("CNI-DN-"), "{rules}");
    }
}

fn without_mappings_no_socket_is_opened(host: &Host) {
    let pod = Pod::on(host, "pod", &bridge());
    let before = host.snapshot();
    for backend in ["", "nftables", "iptables"] {
        let conf = pod.behind(&portmap(backend, &[]));
        let plugin = host.plugin("portmap").fail_call("socket", "EPERM", 1);
        let plugin_executes = host.plugin("portmap").fail_call(PROCESSES, "EPERM", 1);
        for plugin in [plugin, plugin_executes] {
            let added = plugin.add(&pod.container, "eth0", &conf);
            assert_eq!(added.expect_result()["ips"], pod.result["ips"]);
            let checked = plugin.check(&pod.container, "eth0", &conf);
            checked.expect_ok();
            let removed = plugin.del(&pod.container, "eth0", &conf);
            removed.expect_ok();
            for outcome in [added, checked, removed] {
                assert!(!outcome.fault_fired(), "{outcome}");
            }
        }
    }
    host.expect_unchanged(&before);
}

/// The plugin, which can start so many processes.
fn after(host: &Host, processes: usize) -> testkit::Plugin<'_> {
    host.plugin("portmap").fail_own_call(PROCESSES, "EPERM", processes + 1)
}

/// To change its rules; `iptables-save` would read all there are, of other tables too.
fn iptables_is_executed_once_for_each_family(host: &Host) {
    let _outside = host.outside();
    let keys = [json!({"snat": true}), json!({"snat": false}), json!({"masqAll": true})];
    for (nth, keys) in (0..).zip(keys) {
        let pod = Pod::new(host, &format!("pod{nth}"));
        let first = 18080 + 10 * nth;
        let mappings = [tcp(first, 8080), udp(first, 8080), on("192.0.2.1", tcp(first + 1, 81))];
        let mut conf = pod.behind(&portmap("iptables", &mappings));
        for (key, value) in keys.as_object().expect("keys") {
            conf[key] = value.clone();
        }
        // The guard of the loopback is in a table of its own.
        let guard = usize::from(nth == 0);
        let added = after(host, 2 + guard).add(&pod.container, "eth0", &conf);
        added.expect_result();
        let checked = after(host, 0).check(&pod.container, "eth0", &conf);
        checked.expect_ok();
        let again = after(host, 0).add(&pod.container, "eth0", &conf);
        again.expect_result();
        for outcome in [added, checked, again] {
            assert!(!outcome.fault_fired(), "{keys}: {outcome}");
        }
    }
}

/// A rule of somebody else's among ours, of which netlink tells only a part.
fn what_netlink_does_not_tell_iptables_does(host: &Host) {
    let _outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let conf = pod.behind(&portmap("iptables", &some()));
    host.plugin("portmap").add(&pod.container, "eth0", &conf).expect_result();
    host.exec("iptables -w -t nat -A CNI-HOSTPORT-DNAT -m conntrack --ctstate INVALID -j RETURN");
    let checked = after(host, 0).check(&pod.container, "eth0", &conf);
    checked.expect_error(999, "execute");
    assert!(checked.fault_fired(), "{checked}");
    pod.check(host, &portmap("iptables", &some())).expect_ok();
    let taken = other.map(host, &portmap("iptables", &some()));
    taken.expect_error(999, "is mapped");
    let others = portmap("iptables", &[tcp(19080, 8080)]);
    other.map(host, &others).expect_result();
    other.check(host, &others).expect_ok();
    pod.unmap(host, &portmap("iptables", &some())).expect_ok();
    other.check(host, &others).expect_ok();
}

fn nothing_is_executed(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = pod.behind(&portmap("nftables", &some()));
    let plugin = host.plugin("portmap").fail_call(PROCESSES, "EPERM", 1);
    let added = plugin.add(&pod.container, "eth0", &conf);
    added.expect_result();
    let checked = plugin.check(&pod.container, "eth0", &conf);
    checked.expect_ok();
    let removed = plugin.del(&pod.container, "eth0", &conf);
    removed.expect_ok();
    for outcome in [added, checked, removed] {
        assert!(!outcome.fault_fired(), "{outcome}");
    }
}
