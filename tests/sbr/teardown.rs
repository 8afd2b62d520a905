//! Our rules, all of them, and nobody else's.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::Pod;
use crate::conf;

pub(super) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for case in cases! {
        [Bridge, Ipv6] del_works_from_any_state,
        [Bridge, Ipv6] del_removes_only_what_is_ours,
        [Bridge, Ipv6] without_its_record_del_leaves_the_administrators_rules,
        [Bridge] del_accepts_a_bad_configuration,
        [Bridge, Ipv6] gc_removes_what_is_not_valid,
        [Bridge, PeerPlugins] either_program_undoes_what_the_other_did,
    } {
        list.push(case.ours_only());
    }
    list
}

const RECORDS: &str = "/run/cni/oxcni/sbr";

fn del_works_from_any_state(host: &Host) {
    for state in [
        "before",
        "twice",
        "no netns",
        "gone",
        "stale",
        "no link",
        "link down",
        "no addresses",
        "no record",
        "garbage",
    ] {
        let pod = Pod::new(host, &state.replace(' ', "-"), 3);
        let inside = pod.snapshot();
        let conf = conf::of_type(host, "sbr", json!({}));
        let plugin = host.plugin("sbr");
        let record = format!("{RECORDS}/net:{}:net1", pod.container.id());
        if state == "before" {
            plugin.del(&pod.container, "net1", &conf).expect_ok();
            inside.expect_same(&pod.snapshot());
        }
        pod.add(1, json!({})).expect_result();
        pod.add(2, json!({})).expect_result();
        match state {
            // The namespace is there, and known.
            "no netns" => plugin.del_without_netns(&pod.container, "net1", &conf).expect_ok(),
            "gone" => pod.container.destroy(),
            "stale" => pod.container.make_stale_file(),
            "no link" => drop(pod.container.exec("ip link del net1")),
            "link down" => drop(pod.container.exec("ip link set net1 down")),
            "no addresses" => drop(pod.container.exec("ip address flush dev net1")),
            "no record" => drop(host.exec(["rm", record.as_str()])),
            "garbage" => host.write(&record, "{"),
            _ => {}
        }
        // Some runtimes give the previous result, others do not.
        if state == "twice" {
            pod.del(1, json!({})).expect_ok();
        }
        for _ in 0..2 {
            plugin.del(&pod.container, "net1", &conf).expect_ok();
        }
        assert!(!host.files(RECORDS).contains(&format!("net:{}:net1", pod.container.id())));
        if matches!(state, "gone" | "stale") {
            plugin.del(&pod.container, "net2", &conf).expect_ok();
        } else {
            let rules = pod.rules();
            assert!(
                rules.iter().all(|rule| rule.contains(":2::2") || rule.contains("10.2.")),
                "{state}: {rules:?}"
            );
            assert!(pod.table(100).is_empty() && pod.table(101).is_empty(), "{state}");
            pod.check(2, json!({})).expect_ok();
            pod.del(2, json!({})).expect_ok();
            assert!(pod.rules().is_empty());
        }
        if matches!(state, "before" | "twice" | "no netns" | "no record" | "garbage") {
            inside.expect_same(&pod.snapshot());
        }
        assert!(host.files(RECORDS).is_empty(), "{state}: {:?}", host.files(RECORDS));
    }
}

fn del_removes_only_what_is_ours(host: &Host) {
    let pod = Pod::new(host, "pod", 3);
    // The administrator's: for the same address, for another, for more.
    for words in [
        "from 10.1.0.2 lookup 200",
        "from 10.1.0.2 to 192.0.2.0/24 lookup 201",
        "from 10.1.0.0/24 lookup 202",
        "from 10.1.0.2 iif lo lookup 203",
        "from 10.9.0.2 lookup 204 protocol 115",
        "from 10.1.0.2 lookup 205 protocol 115",
    ] {
        pod.container.exec(format!("ip rule add {words}"));
    }
    pod.container.exec("ip route add default via 10.1.0.1 dev net1 table 200");
    let inside = pod.snapshot();
    pod.add(2, json!({})).expect_result();
    let with_other = pod.snapshot();
    // One with our mark for our address is taken for ours.
    pod.container.exec("ip rule del from 10.1.0.2 lookup 205");
    let without = pod.snapshot();
    pod.add(1, json!({})).expect_result();
    pod.del(1, json!({})).expect_ok();
    without.expect_same(&pod.snapshot());
    assert_ne!(with_other, without);
    pod.del(2, json!({})).expect_ok();
    pod.container.exec("ip rule add from 10.1.0.2 lookup 205 protocol 115");
    assert_eq!(inside.section("route"), pod.snapshot().section("route"));
    // Nothing was attached: nothing goes.
    let now = pod.snapshot();
    pod.container.exec("ip rule del from 10.1.0.2 lookup 205");
    pod.del(2, json!({})).expect_ok();
    pod.container.exec("ip rule add from 10.1.0.2 lookup 205 protocol 115");
    now.expect_same(&pod.snapshot());
}

fn without_its_record_del_leaves_the_administrators_rules(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    // Without a mark, as upstream's; one is in a table that upstream might choose.
    for n in 0..2 {
        for table in [77 + n, 177 + n] {
            pod.container.exec(format!("ip rule add from 10.{n}.0.2 lookup {table}"));
            pod.container.exec(format!(
                "ip route add default via 10.{n}.0.1 dev {} table {table}",
                super::ifname(n)
            ));
        }
    }
    let inside = pod.snapshot();
    for n in 0..2 {
        // No ADD was made.
        pod.del(n, json!({})).expect_ok();
        inside.expect_same(&pod.snapshot());
        for keys in [json!({}), json!({"addSourceHints": true}), json!({"table": 99})] {
            pod.add(n, keys.clone()).expect_result();
            host.exec(format!("rm -r {RECORDS}"));
            for _ in 0..2 {
                pod.del(n, keys.clone()).expect_ok();
                inside.expect_same(&pod.snapshot());
            }
        }
    }
}

fn del_accepts_a_bad_configuration(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    let inside = pod.snapshot();
    for bad in [
        json!({"table": "many"}),
        json!({"gateways": ["zz"]}),
        json!({"prevResult": {"ips": 5}}),
        json!({"table": 77}),
    ] {
        pod.add(1, json!({})).expect_result();
        let conf = conf::of_type(host, "sbr", bad);
        host.plugin("sbr").del(&pod.container, "net1", &conf).expect_ok();
        inside.expect_same(&pod.snapshot());
    }
}

fn gc_removes_what_is_not_valid(host: &Host) {
    let pod = Pod::new(host, "pod", 4);
    let dead = Pod::new(host, "dead", 2);
    for n in 1..3 {
        pod.add(n, json!({})).expect_result();
    }
    let inside = pod.snapshot();
    dead.add(1, json!({})).expect_result();
    pod.add(3, json!({})).expect_result();
    // Another network's stays.
    let other = conf::with(&pod.conf(0, json!({})), json!({"name": "other"}));
    host.plugin("sbr").add(&pod.container, "eth0", &other).expect_result();
    host.write(format!("{RECORDS}/net:broken:net1"), "{");
    dead.container.destroy();
    let conf = conf::of_type(host, "sbr", json!({}));
    let with_all = (pod.snapshot(), host.files(RECORDS));
    host.plugin("sbr").gc(&conf).expect_ok();
    assert_eq!((pod.snapshot(), host.files(RECORDS)), with_all);
    let attachment =
        |n: usize| json!({"containerID": pod.container.id(), "ifname": super::ifname(n)});
    let list: Vec<Value> = [1, 2, 0].map(attachment).to_vec();
    let valid = json!({"cni.dev/valid-attachments": list, "cni.dev/attachments": list});
    host.plugin("sbr").gc(&conf::with(&conf, valid)).expect_ok();
    let names = [("other", "eth0"), ("net", "net1"), ("net", "net2")];
    let names = names.map(|(net, ifname)| format!("{net}:{}:{ifname}", pod.container.id()));
    assert_eq!(host.files(RECORDS), names.into_iter().collect());
    host.plugin("sbr").del(&pod.container, "eth0", &other).expect_ok();
    inside.expect_same(&pod.snapshot());
    pod.check(1, json!({})).expect_ok();
}

fn either_program_undoes_what_the_other_did(host: &Host) {
    for ours_first in [true, false] {
        let pod = Pod::new(host, &format!("pod{ours_first}"), 2);
        let old = json!({"cniVersion": "1.0.0"});
        let conf = conf::with(&pod.conf(1, json!({})), old.clone());
        let conf = with_previous_result(&conf, &conf::with(&pod.results[1], old));
        let plugins = [host.plugin("sbr"), host.peer("sbr")];
        let (adds, dels) = (usize::from(!ours_first), usize::from(ours_first));
        plugins[adds].add(&pod.container, "net1", &conf).expect_result();
        assert_eq!(pod.way("192.0.2.2", "10.1.0.2"), "net1 via 10.1.0.1");
        host.plugin("sbr").check(&pod.container, "net1", &conf).expect_ok();
        plugins[dels].del(&pod.container, "net1", &conf).expect_ok();
        assert!(pod.rules().is_empty(), "{:?}", pod.rules());
        host.plugin("sbr").del(&pod.container, "net1", &conf).expect_ok();
        assert!(host.files(RECORDS).is_empty());
    }
}
