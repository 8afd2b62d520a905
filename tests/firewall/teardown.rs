//! What is left: nothing that somebody does not need.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{OUTSIDE, Pod, STAYS, firewall, outside, reaches};
use crate::chained::{at, both_backends};
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let mut list = both_backends(
        "firewall::teardown",
        &[],
        &[
            ("del_gives_everything_back", del_gives_everything_back),
            ("del_without_netns", del_without_netns),
            ("del_of_a_broken_configuration", del_of_a_broken_configuration),
            ("del_after_the_backend_was_changed", del_after_the_backend_was_changed),
            ("isolation_goes_with_the_last_who_needs_it", isolation_goes_with_the_last),
            ("adding_again_changes_nothing", adding_again_changes_nothing),
            ("an_address_given_to_another_container", an_address_given_on),
            ("gc_sweeps_what_is_not_valid", gc_sweeps),
            ("check_sees_each_difference", check_sees_each_difference),
            ("many_at_once", many_at_once),
        ],
    );
    list.extend(cases! {
        [Bridge, Nft, Iptables, OurPlugins] iptables_that_is_gone_is_not_needed,
        [Bridge, Nft, OurPlugins] limits_go_with_the_last_who_has_them,
        [Bridge, Nft, OurPlugins, Strace] nothing_is_executed,
        [Bridge, Nft, LegacyIptables, OurPlugins, Strace] an_add_executes_nothing_beside_legacy_tables,
        [Bridge, Nft, Iptables, OurPlugins, Strace] iptables_is_executed_once_for_each_family,
    });
    list
}

const POLICIES: [&str; 3] = ["open", "same-bridge", "isolated"];

/// The rules of everybody, without tables and chains that stay empty.
fn rules(host: &Host) -> String {
    host.exec("nft list ruleset") + &host.exec("iptables-save") + &host.exec("ip6tables-save")
}

/// Nothing that names the container, its addresses or its bridge.
#[track_caller]
fn expect_no_trace(host: &Host, pod: &Pod) {
    let rules = rules(host);
    let bridge = pod.result["interfaces"][0]["name"].as_str().expect("a bridge");
    for word in [&pod.container.id(), bridge, &pod.address(0), &pod.address(1)] {
        assert!(!rules.contains(word), "{word} in\n{rules}");
    }
}

#[track_caller]
fn expect_clean(host: &Host, before: &testkit::Snapshot, backend: &str) {
    host.expect_unchanged_but(before, if backend == "nftables" { &[] } else { &STAYS });
}

fn del_gives_everything_back(host: &Host, backend: &str) {
    let (pod, other) = (Pod::new(host, "pod", 1), Pod::new(host, "other", 2));
    let before = host.snapshot();
    for policy in POLICIES {
        let conf = firewall(backend, 1, &json!({"ingressPolicy": policy}));
        pod.del(host, &conf).expect_ok();
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
        expect_clean(host, &before, backend);
        expect_no_trace(host, &pod);
        // Among others, whatever their policy.
        for others_policy in POLICIES {
            let others = firewall(backend, 2, &json!({"ingressPolicy": others_policy}));
            other.add(host, &others).expect_result();
            let with_other = host.snapshot();
            pod.add(host, &conf).expect_result();
            pod.del(host, &conf).expect_ok();
            if backend == "nftables" || others_policy != "open" {
                host.expect_unchanged(&with_other);
            }
            other.check(host, &others).expect_ok();
            other.del(host, &others).expect_ok();
            expect_no_trace(host, &pod);
            expect_no_trace(host, &other);
        }
    }
    expect_clean(host, &before, backend);
}

fn del_without_netns(host: &Host, backend: &str) {
    for how in ["empty", "gone", "stale"] {
        let pod = Pod::new(host, how, 1);
        let conf = firewall(backend, 1, &json!({"ingressPolicy": "isolated"}));
        pod.add(host, &conf).expect_result();
        let plugin = host.plugin("firewall");
        match how {
            "empty" => {
                plugin.del_without_netns(&pod.container, "eth0", &pod.conf(&conf)).expect_ok();
            }
            "gone" => {
                pod.container.destroy();
                pod.del(host, &conf).expect_ok();
            }
            _ => {
                pod.container.make_stale_file();
                // Nor with a previous result.
                plugin.del(&pod.container, "eth0", &conf).expect_ok();
            }
        }
        expect_no_trace(host, &pod);
    }
}

fn del_of_a_broken_configuration(host: &Host, backend: &str) {
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall(backend, 1, &json!({"ingressPolicy": "same-bridge"}));
    let breaks: [fn(&mut Value); 6] = [
        |conf| conf["ingressPolicy"] = "sometimes".into(),
        |conf| conf["backend"] = "ebtables".into(),
        |conf| conf["iptablesAdminChainName"] = "a b".into(),
        |conf| conf["denyCIDRs"] = json!(["everything"]),
        |conf| conf["denyCIDRs"] = "everything".into(),
        |conf| conf["prevResult"] = json!({"cniVersion": "1.1.0", "ips": "none"}),
    ];
    for change in breaks {
        pod.add(host, &conf).expect_result();
        let mut broken = pod.conf(&conf);
        change(&mut broken);
        host.plugin("firewall").del(&pod.container, "eth0", &broken).expect_ok();
        expect_no_trace(host, &pod);
    }
}

fn del_after_the_backend_was_changed(host: &Host, backend: &str) {
    let pod = Pod::new(host, "pod", 1);
    let other = if backend == "nftables" { "iptables" } else { "nftables" };
    for now in [other, "", "firewalld"] {
        let keys = json!({"ingressPolicy": "isolated"});
        pod.add(host, &firewall(backend, 1, &keys)).expect_result();
        pod.del(host, &firewall(now, 1, &keys)).expect_ok();
        expect_no_trace(host, &pod);
    }
}

fn isolation_goes_with_the_last(host: &Host, backend: &str) {
    let same = firewall(backend, 1, &json!({"ingressPolicy": "same-bridge"}));
    let isolated = firewall(backend, 1, &json!({"ingressPolicy": "isolated"}));
    let pods = [
        Pod::behind(host, "one", 1, &same),
        Pod::behind(host, "two", 1, &isolated),
        Pod::behind(host, "three", 1, &same),
    ];
    let far = Pod::behind(
        host,
        "far",
        2,
        &firewall(backend, 2, &json!({"ingressPolicy": "same-bridge"})),
    );
    let apart = |from: &Pod, to: &Pod| !to.is_reached_by(&from.container, 0);
    assert!(apart(&pods[0], &pods[2]), "somebody on the bridge is isolated");
    assert!(apart(&pods[0], &far) && apart(&far, &pods[0]));
    pods[1].del(host, &isolated).expect_ok();
    assert!(!apart(&pods[0], &pods[2]), "nobody is isolated any more");
    assert!(apart(&pods[0], &far), "but kept from other bridges");
    pods[0].del(host, &same).expect_ok();
    assert!(apart(&pods[0], &far));
    pods[2].check(host, &same).expect_ok();
    pods[2].del(host, &same).expect_ok();
    assert!(!apart(&pods[0], &far));
    // A policy that was changed for a container that stays.
    pods[0].add(host, &isolated).expect_result();
    pods[2].add(host, &same).expect_result();
    assert!(apart(&pods[2], &pods[0]));
    pods[0].add(host, &same).expect_result();
    if backend == "nftables" {
        assert!(!apart(&pods[2], &pods[0]));
    }
    pods[0].add(host, &firewall(backend, 1, &json!({}))).expect_result();
    assert!(apart(&far, &pods[2]), "the other still needs it");
}

fn adding_again_changes_nothing(host: &Host, backend: &str) {
    let pod = Pod::new(host, "pod", 1);
    for policy in POLICIES {
        let conf = firewall(backend, 1, &json!({"ingressPolicy": policy}));
        pod.add(host, &conf).expect_result();
        let before = host.snapshot();
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        host.expect_unchanged(&before);
        pod.del(host, &conf).expect_ok();
    }
}

/// A DEL that comes late takes nothing from the next owner of an address.
fn an_address_given_on(host: &Host, backend: &str) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let conf = firewall(backend, 1, &json!({"ingressPolicy": "same-bridge"}));
    let mut fixed = super::bridge(1);
    fixed["ipam"] = json!({"type": "static", "addresses": [
        {"address": "10.1.0.77/24", "gateway": "10.1.0.1"},
    ]});
    let attach = |name: &str| {
        let container = host.container(name);
        let result = host.plugin("bridge").add(&container, "eth0", &fixed).expect_result();
        let pod = Pod { container, result };
        pod.add(host, &conf).expect_result();
        pod
    };
    let one = attach("one");
    one.container.destroy();
    let two = attach("two");
    two.check(host, &conf).expect_ok();
    let before = host.snapshot();
    one.del(host, &conf).expect_ok();
    two.check(host, &conf).expect_ok();
    host.expect_unchanged_but(&before, &["link: ", "port: ", "veth"]);
    let to = at(OUTSIDE[0], 7000);
    two.container.udp(to).expect("let through");
    assert!(reaches(&two.container, to));
    two.del(host, &conf).expect_ok();
    assert!(!rules(host).contains("10.1.0.77"));
}

fn gc_sweeps(host: &Host, backend: &str) {
    let conf = |number| firewall(backend, number, &json!({"ingressPolicy": "isolated"}));
    let keep = Pod::new(host, "keep", 1);
    let (lost, other) = (Pod::new(host, "lost", 1), Pod::new(host, "other", 2));
    keep.add(host, &conf(1)).expect_result();
    other.add(host, &conf(2)).expect_result();
    let wanted = host.snapshot();
    lost.add(host, &conf(1)).expect_result();
    let gc = |number, valid: Value| {
        let mut gc = firewall(backend, number, &json!({}));
        gc["cni.dev/valid-attachments"] = valid.clone();
        gc["cni.dev/attachments"] = valid;
        gc
    };
    let all = host.snapshot();
    host.plugin("firewall").gc(&firewall(backend, 1, &json!({}))).expect_ok();
    host.plugin("firewall").gc(&gc(1, json!("all"))).expect_error(7, "valid");
    host.expect_unchanged(&all);
    let valid = json!([{"containerID": "ctr-keep", "ifname": "eth0"}]);
    host.plugin("firewall").gc(&gc(1, valid.clone())).expect_ok();
    host.expect_unchanged(&wanted);
    keep.check(host, &conf(1)).expect_ok();
    host.plugin("firewall").gc(&gc(1, json!([]))).expect_ok();
    other.check(host, &conf(2)).expect_ok();
    expect_no_trace(host, &keep);
    host.plugin("firewall").gc(&gc(2, json!([]))).expect_ok();
    expect_no_trace(host, &other);
}

fn check_sees_each_difference(host: &Host, backend: &str) {
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall(backend, 1, &json!({"ingressPolicy": "isolated"}));
    pod.check(host, &conf).expect_error(999, "check firewall rules");
    let damages: &[&str] = match backend {
        "nftables" => &[
            "nft delete element inet cni_firewall containers4 { 10.1.0.2 }",
            "nft delete element inet cni_firewall containers6 { 2001:db8:1::2 }",
            "nft delete element inet cni_firewall bridges { cni1 }",
            "nft delete element inet cni_firewall same_bridge { cni1 . cni1 }",
            "nft delete element inet cni_firewall isolated { cni1 . cni1 }",
            "nft add element inet cni_firewall egress4 { 10.1.0.2 : drop }",
            "nft flush chain inet cni_firewall forward",
            "nft flush chain inet cni_firewall input",
            "nft flush chain inet cni_firewall admins",
            "nft insert rule inet cni_firewall isolation accept",
            "nft delete table inet cni_firewall",
        ],
        _ => &[
            "iptables -w -D FORWARD 1",
            "iptables -w -D FORWARD 2",
            "iptables -w -D CNI-FORWARD 1",
            // The second is the record, which upstream's have not.
            "iptables -w -D CNI-FORWARD 3",
            "ip6tables -w -D CNI-FORWARD 3",
            "ip6tables -w -D CNI-FORWARD 4",
            "iptables -w -D CNI-ISOLATION-STAGE-1 1",
            "iptables -w -D CNI-ISOLATION-STAGE-1 2",
            "iptables -w -F CNI-ISOLATION-STAGE-2",
        ],
    };
    for damage in damages {
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        host.exec(*damage);
        let before = host.snapshot();
        let seen = pod.check(host, &conf);
        assert!(!seen.success(), "{damage} went unseen\n{}", rules(host));
        seen.expect_error(999, "check firewall rules");
        // It only looks.
        host.expect_unchanged(&before);
        pod.del(host, &conf).expect_ok();
    }
    if backend == "iptables" {
        // No chain is made by looking.
        host.exec("nft flush ruleset");
        let before = host.snapshot();
        pod.check(host, &conf).expect_error(999, "check firewall rules");
        host.expect_unchanged(&before);
    }
}

fn many_at_once(host: &Host, backend: &str) {
    const MANY: usize = 10;
    let pods: Vec<Pod> = (0..MANY).map(|n| Pod::new(host, &format!("p{n}"), 1)).collect();
    let conf = firewall(backend, 1, &json!({"ingressPolicy": "same-bridge"}));
    let before = host.snapshot();
    host.parallel(MANY, |n| pods[n].add(host, &conf).expect_result());
    host.parallel(MANY, |n| pods[n].check(host, &conf).expect_ok());
    if backend == "iptables" {
        let rules = host.exec("iptables-save -t filter");
        for shared in [
            "-j CNI-FORWARD",
            "-j CNI-ADMIN",
            "-j CNI-ISOLATION-STAGE-1",
            "-j CNI-ISOLATION-STAGE-2",
        ] {
            let count = rules.lines().filter(|line| line.ends_with(shared)).count();
            assert_eq!(count, 1, "{shared}\n{rules}");
        }
    }
    host.parallel(MANY, |n| pods[n].del(host, &conf).expect_ok());
    expect_clean(host, &before, backend);
    expect_no_trace(host, &pods[0]);
}

fn iptables_that_is_gone_is_not_needed(host: &Host) {
    let conf = |number| firewall("iptables", number, &json!({"ingressPolicy": "isolated"}));
    let (pod, lost) = (Pod::new(host, "pod", 1), Pod::new(host, "lost", 1));
    let keep = Pod::behind(host, "keep", 2, &conf(2));
    // Not everything there is has been made by plugins.
    host.exec("iptables -w -A CNI-FORWARD -d 10.1.0.9 -p tcp -m conntrack --ctstate NEW -j LOG");
    host.exec("iptables -w -A FORWARD -i eth9 -m limit --limit 9/hour -j ACCEPT");
    // By its other name it is still there.
    let stored = || {
        let all = host.exec("iptables-nft-save") + &host.exec("ip6tables-nft-save");
        let lines = all.lines().filter(|line| line.starts_with("-A") || line.starts_with(":CNI"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = stored();
    pod.add(host, &conf(1)).expect_result();
    lost.add(host, &conf(1)).expect_result();
    install_iptables(host, "");
    pod.del(host, &conf(1)).expect_ok();
    assert!(stored().iter().any(|line| line.contains("-i cni1")), "another needs them");
    let mut gc = conf(1);
    gc["cni.dev/valid-attachments"] = json!([]);
    host.plugin("firewall").gc(&gc).expect_ok();
    assert_eq!(stored(), before);
    keep.del(host, &conf(2)).expect_ok();
    let left = stored();
    let told = |word: &str| left.iter().any(|line| line.contains(word));
    assert!(!told("10.2.0.2") && !told("cni2") && !told("ISOLATION"), "{left:#?}");
    assert!(told("10.1.0.9") && told("eth9") && told("CNI-ADMIN"), "{left:#?}");
}

fn limits_go_with_the_last_who_has_them(host: &Host) {
    let limited = |deny: &str| firewall("nftables", 1, &json!({"denyCIDRs": [deny]}));
    let (first, second) = (limited("198.51.100.0/24"), limited("203.0.113.0/24"));
    let before = host.snapshot();
    let pods = ["one", "two", "three"].map(|name| Pod::new(host, name, 1));
    pods[0].add(host, &first).expect_result();
    pods[1].add(host, &first).expect_result();
    pods[2].add(host, &second).expect_result();
    let chains = || host.exec("nft list table inet cni_firewall").matches("chain egress_").count();
    assert_eq!(chains(), 2, "one for each list");
    pods[0].del(host, &first).expect_ok();
    pods[1].check(host, &first).expect_ok();
    assert_eq!(chains(), 2);
    pods[1].del(host, &first).expect_ok();
    assert_eq!(chains(), 1);
    pods[2].check(host, &second).expect_ok();
    pods[2].del(host, &second).expect_ok();
    assert_eq!(before.section("nft"), host.snapshot().section("nft"));
}

/// To change its rules; `iptables-save` would read all there are, of other tables too.
fn iptables_is_executed_once_for_each_family(host: &Host) {
    for (number, policy) in [1, 2, 3].into_iter().zip(POLICIES) {
        let pod = Pod::new(host, policy, number);
        let conf = pod.conf(&firewall("iptables", number, &json!({"ingressPolicy": policy})));
        let after = |processes: usize| {
            let plugin = host.plugin("firewall");
            plugin.fail_own_call("clone,clone3,fork,vfork", "EPERM", processes + 1)
        };
        let added = after(2).add(&pod.container, "eth0", &conf);
        added.expect_result();
        let checked = after(0).check(&pod.container, "eth0", &conf);
        checked.expect_ok();
        let again = after(0).add(&pod.container, "eth0", &conf);
        again.expect_result();
        for outcome in [added, checked, again] {
            assert!(!outcome.fault_fired(), "{policy}: {outcome}");
        }
    }
}

fn nothing_is_executed(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    let keys = json!({"ingressPolicy": "isolated", "denyCIDRs": ["198.51.100.0/24"]});
    let conf = pod.conf(&firewall("nftables", 1, &keys));
    let plugin = host.plugin("firewall").fail_call("clone,clone3,fork,vfork", "EPERM", 1);
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
/// Which may have rules of whomever; only what is removed has to be looked for there.
fn an_add_executes_nothing_beside_legacy_tables(host: &Host) {
    for command in ["iptables-legacy", "ip6tables-legacy"] {
        host.exec(format!("{command} -w -t filter -L"));
    }
    let pod = Pod::new(host, "pod", 1);
    let conf = pod.conf(&firewall("nftables", 1, &json!({})));
    let plugin = host.plugin("firewall").fail_call("clone,clone3,fork,vfork", "EPERM", 1);
    let added = plugin.add(&pod.container, "eth0", &conf);
    added.expect_result();
    let checked = plugin.check(&pod.container, "eth0", &conf);
    checked.expect_ok();
    for outcome in [added, checked] {
        assert!(!outcome.fault_fired(), "{outcome}");
    }
}
