//! On hosts of every kind, and beside upstream's plugin.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{OUTSIDE, Pod, bridge, firewall, outside, reaches};
use crate::chained::{self, at};
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Iptables, PeerPlugins, OurPlugins] upstreams_rules_are_checked_and_removed,
        [Bridge, Iptables, PeerPlugins, OurPlugins] upstream_checks_and_removes_ours,
        [Bridge, Iptables, PeerPlugins, OurPlugins] chains_are_shared_with_upstream,
        [Bridge, Nft, Iptables, OurPlugins] the_default_where_iptables_has_no_say,
        [Bridge, Nft, Iptables, OurPlugins] the_default_where_iptables_may_drop,
        [Bridge, Nft, Iptables, OurPlugins] a_host_that_closes_later_is_noticed,
        [Bridge, LegacyIptables, OurPlugins] the_default_beside_legacy_rules,
        [Bridge, LegacyIptables, OurPlugins] legacy_iptables,
        [Bridge, Nft, OurPlugins] without_iptables,
        [Bridge, Nft, OurPlugins] wrong_input_changes_nothing,
        [Bridge, Nft, OurPlugins] foreign_things_in_the_table_stay,
        [Bridge, Nft, OurPlugins] the_ruleset_can_be_saved_and_loaded,
        [Bridge, Nft, Strace, OurPlugins] status_tells_what_is_missing,
        [Bridge, Nft, OurPlugins] versions,
        [Bridge, Nft, Iptables, OurPlugins] names_longer_than_a_comment,
    }
}

/// Upstream 1.1.1 knows these.
const POLICIES: [&str; 2] = ["open", "same-bridge"];

fn upstreams_rules_are_checked_and_removed(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    for policy in POLICIES {
        let conf = pod.old(&firewall("iptables", 1, &json!({"ingressPolicy": policy})));
        // The default as well, whatever it would choose for an ADD.
        let default = pod.old(&firewall("", 1, &json!({"ingressPolicy": policy})));
        let check = |conf| host.plugin("firewall").check(&pod.container, "eth0", conf);
        for theirs in [&default, &conf] {
            host.peer("firewall").add(&pod.container, "eth0", theirs).expect_result();
            check(&default).expect_ok();
            check(&conf).expect_ok();
            // One of ours beside it, which has a record.
            let beside = Pod::new(host, "beside", 1);
            beside.add(host, &conf).expect_result();
            check(&default).expect_ok();
            check(&conf).expect_ok();
            beside.del(host, &conf).expect_ok();
            host.plugin("bridge").del(&beside.container, "eth0", &bridge(1)).expect_ok();
            beside.container.destroy();
            host.exec(["sh", "-c", WITHOUT_A_RULE]);
            check(&default).expect_error(999, "check firewall rules");
            check(&conf).expect_error(999, "is missing in chain CNI-FORWARD");
            host.plugin("firewall").del(&pod.container, "eth0", theirs).expect_ok();
        }
        let rules = host.exec("iptables-save") + &host.exec("ip6tables-save");
        assert!(!rules.contains("10.1.0.2") && !rules.contains("2001:db8:1::2"), "{rules}");
        // Upstream leaves those of the bridge.
        assert!(!rules.contains("cni1") && !rules.contains("ISOLATION"), "{rules}");
        host.plugin("firewall")
            .check(&pod.container, "eth0", &conf)
            .expect_error(999, "check firewall rules");
    }
}

/// Takes one of the rules away that let a container's packets through.
const WITHOUT_A_RULE: &str = "iptables-save -t filter | \
    grep -m1 -e '^-A CNI-FORWARD -d 10.1.0.2/32 .*-j ACCEPT' | \
    sed 's/^-A/iptables -w -t filter -D/' | sh -e";

fn upstream_checks_and_removes_ours(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    for policy in POLICIES {
        let conf = pod.old(&firewall("iptables", 1, &json!({"ingressPolicy": policy})));
        host.plugin("firewall").add(&pod.container, "eth0", &conf).expect_result();
        host.peer("firewall").check(&pod.container, "eth0", &conf).expect_ok();
        host.peer("firewall").del(&pod.container, "eth0", &conf).expect_ok();
        let rules = host.exec("iptables-save") + &host.exec("ip6tables-save");
        assert!(!rules.contains("10.1.0.2/32 -j ACCEPT"), "{rules}");
        assert!(!rules.contains("ESTABLISHED"), "{rules}");
        // What only we know goes by GC.
        let mut gc = firewall("", 1, &json!({}));
        gc["cni.dev/valid-attachments"] = json!([]);
        host.plugin("firewall").gc(&gc).expect_ok();
        let rules = host.exec("iptables-save") + &host.exec("ip6tables-save");
        assert!(!rules.contains("10.1.0.2") && !rules.contains("cni1"), "{rules}");
    }
}

fn chains_are_shared_with_upstream(host: &Host) {
    let (ours, theirs) = (Pod::new(host, "ours", 1), Pod::new(host, "theirs", 2));
    let keys = json!({"ingressPolicy": "same-bridge"});
    let our_conf = ours.old(&firewall("iptables", 1, &keys));
    let their_conf = theirs.old(&firewall("iptables", 2, &keys));
    for ours_first in [true, false] {
        let add_ours = || {
            host.plugin("firewall").add(&ours.container, "eth0", &our_conf).expect_result();
        };
        if ours_first {
            add_ours();
        }
        host.peer("firewall").add(&theirs.container, "eth0", &their_conf).expect_result();
        if !ours_first {
            add_ours();
        }
        host.plugin("firewall").check(&ours.container, "eth0", &our_conf).expect_ok();
        assert!(!theirs.is_reached_by(&ours.container, 0));
        assert!(!ours.is_reached_by(&theirs.container, 0));
        // Isolation comes before what lets through.
        let rules = host.exec("iptables-save -t filter");
        let position = |target: &str| {
            let forward = rules.lines().filter(|line| line.starts_with("-A FORWARD"));
            forward.clone().position(|line| line.ends_with(target)).expect(target)
        };
        assert!(position("CNI-ISOLATION-STAGE-1") < position("CNI-FORWARD"), "{rules}");
        // While upstream's needs are not recorded, the bridges' rules stay.
        host.plugin("firewall").del(&ours.container, "eth0", &our_conf).expect_ok();
        let rules = host.exec("iptables-save -t filter");
        assert!(rules.contains("-i cni2 ! -o cni2") && rules.contains("-o cni2"), "{rules}");
        assert!(!rules.contains("10.1.0.2"), "{rules}");
        host.plugin("firewall").del(&theirs.container, "eth0", &their_conf).expect_ok();
        let rules = host.exec("iptables-save -t filter");
        assert!(!rules.contains("cni2"), "{rules}");
        host.exec("nft flush ruleset");
    }
}

#[track_caller]
fn expect_made_by(host: &Host, pod: &Pod, conf: &Value, backends: &[&str]) {
    pod.add(host, conf).expect_result();
    pod.check(host, conf).expect_ok();
    let address = pod.address(0);
    for (backend, rules) in [
        ("nftables", host.exec("nft list table inet cni_firewall")),
        ("iptables", host.exec("iptables-save -t filter")),
    ] {
        assert_eq!(rules.contains(&address), backends.contains(&backend), "{backend}: {rules}");
    }
    pod.del(host, conf).expect_ok();
}

fn the_default_where_iptables_has_no_say(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("", 1, &json!({}));
    expect_made_by(host, &pod, &conf, &["nftables"]);
    // In use, but for other things.
    host.exec("iptables -w -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE");
    host.exec("iptables -w -A INPUT -p tcp --dport 22 -j ACCEPT");
    expect_made_by(host, &pod, &conf, &["nftables"]);
}

fn the_default_where_iptables_may_drop(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("", 1, &json!({"ingressPolicy": "isolated"}));
    for (close, open) in [
        ("iptables -w -P FORWARD DROP", "iptables -w -P FORWARD ACCEPT"),
        ("iptables -w -A FORWARD -j REJECT", "iptables -w -F FORWARD"),
        ("ip6tables -w -N CNI-ADMIN", "ip6tables -w -X CNI-ADMIN"),
    ] {
        host.exec(close);
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        pod.container.tcp(at(OUTSIDE[0], 7000)).expect("let through");
        let rules = host.exec("iptables-save -t filter");
        assert!(rules.contains("CNI-FORWARD"), "{close}: {rules}");
        pod.del(host, &conf).expect_ok();
        for program in ["iptables", "ip6tables"] {
            host.exec(format!("{program} -w -F"));
            host.exec(format!("{program} -w -X"));
        }
        let _ = host.try_exec(open);
    }
    expect_made_by(host, &pod, &conf, &["nftables"]);
}

/// As Docker and ufw do when they start.
fn a_host_that_closes_later_is_noticed(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let pod = Pod::new(host, "pod", 1);
    let before = host.snapshot();
    let conf = firewall("", 1, &json!({"ingressPolicy": "isolated"}));
    pod.add(host, &conf).expect_result();
    // That alone keeps nobody out.
    host.exec("iptables -w -A FORWARD -i docker0 -j ACCEPT");
    pod.check(host, &conf).expect_ok();
    host.exec("iptables -w -P FORWARD DROP");
    let to = at(OUTSIDE[0], 7000);
    assert!(!reaches(&pod.container, to));
    pod.check(host, &conf).expect_error(999, "FORWARD in table ip filter of iptables");
    pod.restore(host, &conf);
    pod.container.udp(to).expect("let through");
    pod.del(host, &conf).expect_ok();
    host.expect_unchanged_but(&before, &super::STAYS);
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("10.1.0.2") && !rules.contains("cni1"), "{rules}");
    assert!(!rules.contains("cni_firewall"), "{rules}");
}

fn the_default_beside_legacy_rules(host: &Host) {
    install_iptables(host, "legacy");
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("", 1, &json!({}));
    expect_made_by(host, &pod, &conf, &["nftables"]);
    host.exec("iptables-legacy -w -A FORWARD -d 192.0.2.77 -j DROP");
    expect_made_by(host, &pod, &conf, &chained::BACKENDS);
    assert!(!host.exec("iptables-legacy-save").contains("10.1.0.2"));
}

fn legacy_iptables(host: &Host) {
    install_iptables(host, "legacy");
    let (pod, other) = (Pod::new(host, "pod", 1), Pod::new(host, "other", 2));
    let keys = json!({"ingressPolicy": "isolated"});
    let (conf, others) = (firewall("iptables", 1, &keys), firewall("iptables", 2, &keys));
    pod.add(host, &conf).expect_result();
    other.add(host, &others).expect_result();
    pod.check(host, &conf).expect_ok();
    assert_eq!(host.exec("nft list ruleset"), "");
    assert!(!pod.is_reached_by(&other.container, 0));
    other.del(host, &firewall("nftables", 2, &keys)).expect_ok();
    pod.check(host, &conf).expect_ok();
    pod.del(host, &firewall("", 1, &keys)).expect_ok();
    let rules = host.exec("iptables-legacy-save") + &host.exec("ip6tables-legacy-save");
    assert!(!rules.contains("10.1.0.2") && !rules.contains("cni1"), "{rules}");
    assert!(!rules.contains("ISOLATION") && rules.contains("CNI-ADMIN"), "{rules}");
}

fn without_iptables(host: &Host) {
    install_iptables(host, "");
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("", 1, &json!({"ingressPolicy": "isolated"}));
    let before = host.snapshot();
    pod.add(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    pod.del(host, &conf).expect_ok();
    host.expect_unchanged(&before);
    let named = firewall("iptables", 1, &json!({}));
    pod.add(host, &named).expect_error(999, "no iptables-restore");
    pod.del(host, &named).expect_ok();
}

fn wrong_input_changes_nothing(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    let before = host.snapshot();
    for backend in ["", "nftables", "iptables"] {
        for (keys, culprit) in [
            (json!({"ingressPolicy": "zz"}), "unknown ingress policy: \"zz\""),
            (json!({"iptablesAdminChainName": "has space"}), "iptablesAdminChainName"),
            (json!({"iptablesAdminChainName": "forward"}), "chain of this plugin"),
            (json!({"iptablesAdminChainName": "ACCEPT"}), "iptablesAdminChainName \"ACCEPT\""),
            (json!({"iptablesAdminChainName": "FORWARD"}), "iptablesAdminChainName \"FORWARD\""),
            (json!({"iptablesAdminChainName": "LOG"}), "iptablesAdminChainName \"LOG\""),
            (json!({"denyCIDRs": ["10.0.0.0"]}), "denyCIDRs[0]"),
            (json!({"denyCIDRs": ["10.0.0.0/8", "x"]}), "denyCIDRs[1]"),
            (json!({"allowCIDRs": ["10.0.0.0/8"]}), "allowCIDRs makes exceptions"),
            (json!({"firewalldZone": "a b"}), "firewalldZone"),
        ] {
            let conf = firewall(backend, 1, &keys);
            pod.add(host, &conf).expect_error(7, culprit);
            host.plugin("firewall").status(&conf).expect_error(7, culprit);
        }
    }
    pod.add(host, &firewall("ebtables", 1, &json!({}))).expect_error(7, "ebtables");
    // Without what the bridge made.
    let conf = firewall("nftables", 1, &json!({"ingressPolicy": "same-bridge"}));
    let plugin = host.plugin("firewall");
    plugin.add(&pod.container, "eth0", &conf).expect_error(7, "prevResult is missing");
    plugin.check(&pod.container, "eth0", &conf).expect_error(7, "prevResult");
    plugin.del(&pod.container, "eth0", &conf).expect_ok();
    let mut result = pod.result.clone();
    result["interfaces"] = json!([]);
    for ip in result["ips"].as_array_mut().expect("a list") {
        ip.as_object_mut().expect("an object").remove("interface");
    }
    let behind = testkit::with_previous_result(&conf, &result);
    plugin.add(&pod.container, "eth0", &behind).expect_error(7, "make sure to chain");
    let mut result = pod.result.clone();
    result["interfaces"].as_array_mut().expect("a list").rotate_left(2);
    for ip in result["ips"].as_array_mut().expect("a list") {
        ip["interface"] = 0.into();
    }
    let behind = testkit::with_previous_result(&conf, &result);
    plugin.add(&pod.container, "eth0", &behind).expect_error(7, "needs a bridge");
    host.expect_unchanged(&before);
    // Nothing to let through is no error.
    let nobody = json!({"cniVersion": "1.1.0", "interfaces": pod.result["interfaces"]});
    let behind = testkit::with_previous_result(&conf, &nobody);
    plugin.add(&pod.container, "eth0", &behind).expect_result();
    plugin.check(&pod.container, "eth0", &behind).expect_ok();
    host.expect_unchanged(&before);
}

fn foreign_things_in_the_table_stay(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("nftables", 1, &json!({"ingressPolicy": "same-bridge"}));
    pod.add(host, &conf).expect_result();
    host.exec("nft add chain inet cni_firewall mine");
    host.exec("nft add rule inet cni_firewall mine counter");
    host.exec("nft add element inet cni_firewall bridges { docker0 }");
    pod.del(host, &conf).expect_ok();
    let rules = host.exec("nft list ruleset");
    assert!(rules.contains("chain mine") && rules.contains("docker0"), "{rules}");
    assert!(!rules.contains("cni1") && !rules.contains("10.1.0.2"), "{rules}");
    host.exec("nft delete table inet cni_firewall");
    host.exec("nft add table inet cni_firewall");
    host.exec("nft add set inet cni_firewall bridges { type inet_service ; }");
    let before = host.snapshot();
    pod.add(host, &conf).expect_error(999, "bridges");
    host.expect_unchanged(&before);
    pod.del(host, &conf).expect_ok();
    host.expect_unchanged(&before);
}

fn the_ruleset_can_be_saved_and_loaded(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    let keys = json!({"ingressPolicy": "isolated", "denyCIDRs": ["198.51.100.0/24"]});
    let conf = firewall("nftables", 1, &keys);
    pod.add(host, &conf).expect_result();
    let before = host.snapshot();
    let file = host.scratch().join("rules").display().to_string();
    let shell = format!("nft list ruleset > {file} && nft flush ruleset && nft -f {file}");
    host.exec(["sh", "-c", &shell]);
    host.expect_unchanged(&before);
    pod.check(host, &conf).expect_ok();
    pod.del(host, &conf).expect_ok();
    assert_eq!(host.exec("nft list ruleset"), "");
}

fn status_tells_what_is_missing(host: &Host) {
    let plugin = host.plugin("firewall");
    for backend in ["", "nftables", "iptables"] {
        plugin.status(&firewall(backend, 1, &json!({}))).expect_ok();
    }
    plugin.status(&firewall("firewalld", 1, &json!({}))).expect_error(50, "start firewalld");
    install_iptables(host, "");
    plugin.status(&firewall("", 1, &json!({}))).expect_ok();
    plugin.status(&firewall("iptables", 1, &json!({}))).expect_error(50, "no iptables-restore");
    let without = plugin.clone().fail_call("socket", "EPROTONOSUPPORT", 1);
    let neither = "no nf_tables, and there is no iptables";
    without.status(&firewall("", 1, &json!({}))).expect_error(50, neither);
    let pod = Pod::new(host, "pod", 1);
    let before = host.snapshot();
    pod.add(host, &firewall("firewalld", 1, &json!({}))).expect_error(999, "start firewalld");
    host.expect_unchanged(&before);
}

fn versions(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let mut bridge = super::bridge(1);
        bridge["cniVersion"] = version.into();
        let container = host.container(&format!("v{version}"));
        let result = host.plugin("bridge").add(&container, "eth0", &bridge).expect_result();
        let mut conf = firewall("nftables", 1, &json!({"ingressPolicy": "same-bridge"}));
        conf["cniVersion"] = version.into();
        let conf = testkit::with_previous_result(&conf, &result);
        let plugin = host.plugin("firewall");
        assert_eq!(plugin.add(&container, "eth0", &conf).expect_result(), result, "{version}");
        plugin.check(&container, "eth0", &conf).expect_ok();
        assert!(reaches(&container, at(OUTSIDE[0], 7000)));
        plugin.del(&container, "eth0", &conf).expect_ok();
    }
    let mut conf = firewall("nftables", 1, &json!({}));
    conf["cniVersion"] = "0.3.1".into();
    host.plugin("firewall").add(&host.container("old"), "eth0", &conf).expect_error(1, "0.3.1");
}

fn names_longer_than_a_comment(host: &Host) {
    let (pod, other) = (Pod::new(host, "pod", 1), Pod::new(host, "other", 1));
    let ids = ["a", "b"].map(|end| format!("{}{end}", "0123456789abcdef".repeat(20)));
    for backend in chained::BACKENDS {
        let mut conf = firewall(backend, 1, &json!({"ingressPolicy": "isolated"}));
        conf["name"] = "network".repeat(20).into();
        let plugin = |id: &str| host.plugin("firewall").env("CNI_CONTAINERID", id);
        let (conf, others) = (pod.conf(&conf), other.conf(&conf));
        plugin(&ids[0]).add(&pod.container, "eth0", &conf).expect_result();
        plugin(&ids[1]).add(&other.container, "eth0", &others).expect_result();
        plugin(&ids[1]).del(&other.container, "eth0", &others).expect_ok();
        plugin(&ids[0]).check(&pod.container, "eth0", &conf).expect_ok();
        plugin(&ids[0]).del(&pod.container, "eth0", &conf).expect_ok();
        let rules = host.exec("nft list ruleset") + &host.exec("iptables-save");
        assert!(!rules.contains("10.1.0.2") && !rules.contains("cni1"), "{rules}");
    }
}
