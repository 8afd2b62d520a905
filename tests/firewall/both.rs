//! Where no backend is named: rules of nf_tables, and of iptables as well where that
//! may drop. Hosts change between one container and the next.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{OUTSIDE, Pod, STAYS, bridge, firewall, outside, reaches};
use crate::chained::at;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Nft, Iptables, OurPlugins] bridges_are_kept_apart_whatever_came_first,
        [Bridge, Nft, Iptables, OurPlugins] so_are_those_of_one_family_and_of_two,
        [Bridge, Nft, Iptables, OurPlugins] a_closed_table_lets_through_who_came_later,
        [Bridge, Nft, Iptables, OurPlugins] what_either_table_drops_is_dropped,
        [Bridge, Nft, Iptables, OurPlugins] check_sees_what_either_table_lacks,
        [Bridge, Nft, Iptables, OurPlugins] rules_of_the_version_before,
    }
}

/// As Docker, kube-proxy or a person may have it: nothing is dropped by it.
fn add_a_rule(host: &Host) {
    for program in ["iptables", "ip6tables"] {
        host.exec(format!("{program} -w -A FORWARD -i docker0 -j ACCEPT"));
    }
}

fn take_the_rule(host: &Host) {
    for program in ["iptables", "ip6tables"] {
        host.exec(format!("{program} -w -D FORWARD -i docker0 -j ACCEPT"));
    }
}

#[track_caller]
fn expect_apart(pods: &[&Pod; 2], families: &[usize], apart: bool) {
    for (from, to) in [(0, 1), (1, 0)] {
        for family in families {
            let reached = pods[to].is_reached_by(&pods[from].container, *family);
            assert_ne!(reached, apart, "from {from} to {to}, family {family}");
        }
    }
}

fn is_in(host: &Host, pod: &Pod) -> [bool; 2] {
    let address = pod.address(0);
    let nft = host.try_exec("nft list table inet cni_firewall");
    [nft.stdout.contains(&address), host.exec("iptables-save -t filter").contains(&address)]
}

fn bridges_are_kept_apart_whatever_came_first(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    let (one, two) = (Pod::new(host, "one", 1), Pod::new(host, "two", 2));
    let before = host.snapshot();
    for policy in ["same-bridge", "isolated"] {
        let confs = [1, 2].map(|number| firewall("", number, &json!({"ingressPolicy": policy})));
        for had_a_rule in [false, true] {
            if had_a_rule {
                add_a_rule(host);
            }
            one.add(host, &confs[0]).expect_result();
            match had_a_rule {
                false => add_a_rule(host),
                true => take_all_of_iptables(host),
            }
            two.add(host, &confs[1]).expect_result();
            expect_apart(&[&one, &two], &[0, 1], true);
            assert_eq!(is_in(host, &two), [true, !had_a_rule], "{policy}");
            two.check(host, &confs[1]).expect_ok();
            if had_a_rule {
                // What was taken is missed, and is not needed any more.
                one.check(host, &confs[0]).expect_error(999, "check firewall rules");
                one.restore(host, &confs[0]);
            } else {
                one.check(host, &confs[0]).expect_ok();
            }
            expect_apart(&[&one, &two], &[0, 1], true);
            one.del(host, &confs[0]).expect_ok();
            expect_apart(&[&one, &two], &[0, 1], false);
            two.check(host, &confs[1]).expect_ok();
            two.del(host, &confs[1]).expect_ok();
            if !had_a_rule {
                take_the_rule(host);
            }
            host.expect_unchanged_but(&before, &STAYS);
            assert_eq!([&one, &two].map(|pod| is_in(host, pod)), [[false; 2]; 2]);
            take_all_of_iptables(host);
        }
    }
}

fn take_all_of_iptables(host: &Host) {
    for program in ["iptables", "ip6tables"] {
        host.exec(format!("{program} -w -F"));
        host.exec(format!("{program} -w -X"));
    }
}

/// The rules of one family decide nothing about the other.
fn so_are_those_of_one_family_and_of_two(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    host.exec("ip6tables -w -A FORWARD -p icmpv6 -j ACCEPT");
    let mut of_one = bridge(1);
    of_one["ipam"]["ranges"].as_array_mut().expect("a list").truncate(1);
    let container = host.container("one");
    let result = host.plugin("bridge").add(&container, "eth0", &of_one).expect_result();
    let (one, two) = (Pod { container, result }, Pod::new(host, "two", 2));
    let confs = [1, 2].map(|number| firewall("", number, &json!({"ingressPolicy": "same-bridge"})));
    let pods = [&one, &two];
    for order in [[0, 1], [1, 0]] {
        for at in order {
            pods[at].add(host, &confs[at]).expect_result();
        }
        expect_apart(&pods, &[0], true);
        for at in order {
            pods[at].check(host, &confs[at]).expect_ok();
            pods[at].del(host, &confs[at]).expect_ok();
        }
        expect_apart(&pods, &[0], false);
    }
}

/// The policy that docs/plugins/firewall.md shows.
const CLOSED: &str = "nft add chain inet cni_firewall forward { type filter hook forward priority 0 ; policy drop ; }";

fn a_closed_table_lets_through_who_came_later(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let pods = ["early", "late"].map(|name| Pod::new(host, name, 1));
    let conf = firewall("", 1, &json!({}));
    pods[0].add(host, &conf).expect_result();
    host.exec(CLOSED);
    add_a_rule(host);
    pods[1].add(host, &conf).expect_result();
    for pod in &pods {
        for address in OUTSIDE {
            pod.container.tcp(at(address, 7000)).expect("let through");
        }
        pod.check(host, &conf).expect_ok();
    }
    // And then the other way round.
    host.exec("iptables -w -P FORWARD DROP");
    pods[1].container.tcp(at(OUTSIDE[0], 7000)).expect("iptables lets it through as well");
    pods[1].check(host, &conf).expect_ok();
    pods[0].check(host, &conf).expect_error(999, "FORWARD in table ip filter of iptables");
    pods[0].restore(host, &conf);
    pods[0].container.tcp(at(OUTSIDE[0], 7000)).expect("let through");
    for pod in &pods {
        pod.del(host, &conf).expect_ok();
        assert_eq!(is_in(host, pod), [false; 2]);
    }
}

/// Each table decides for itself: what is let through by one is not let through by the
/// other.
fn what_either_table_drops_is_dropped(host: &Host) {
    let outside = outside(host);
    let _servers = [7000, 7001, 7002].map(|port| outside.echo_server(port));
    host.exec("iptables -w -P FORWARD DROP");
    host.exec("iptables -w -N CNI-ADMIN");
    host.exec("iptables -w -A CNI-ADMIN -p udp --dport 7001 -j DROP");
    let conf = firewall("", 1, &json!({}));
    let pod = Pod::behind(host, "pod", 1, &conf);
    host.exec("nft add rule inet cni_firewall CNI-ADMIN udp dport 7002 drop");
    let stranger = Pod::new(host, "stranger", 2);
    let to = |port| at(OUTSIDE[0], port);
    pod.container.udp(to(7000)).expect("let through");
    assert!(!reaches(&pod.container, to(7001)) && !reaches(&pod.container, to(7002)));
    assert!(!reaches(&stranger.container, to(7000)), "nobody spoke for it");
    assert!(!pod.is_reached_by(&outside, 0), "answers come in, questions do not");
    pod.check(host, &conf).expect_ok();
    // Of nf_tables alone is not enough.
    let named = firewall("nftables", 2, &json!({}));
    stranger.add(host, &named).expect_result();
    assert!(!reaches(&stranger.container, to(7000)));
    stranger.del(host, &named).expect_ok();
    pod.del(host, &conf).expect_ok();
    assert!(!reaches(&pod.container, to(7000)));
}

fn check_sees_what_either_table_lacks(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    add_a_rule(host);
    for keys in [json!({}), json!({"ingressPolicy": "isolated"})] {
        let conf = firewall("", 1, &keys);
        for damage in [
            "nft flush set inet cni_firewall containers4",
            "nft delete table inet cni_firewall",
            "iptables -w -F CNI-FORWARD",
            "ip6tables -w -F CNI-FORWARD",
        ] {
            pod.add(host, &conf).expect_result();
            pod.check(host, &conf).expect_ok();
            let whole = host.snapshot();
            host.exec(damage);
            let damaged = host.snapshot();
            pod.check(host, &conf).expect_error(999, "check firewall rules");
            host.expect_unchanged(&damaged);
            pod.restore(host, &conf);
            host.expect_unchanged(&whole);
        }
        // The host may open: both parts are there, and one would do.
        take_the_rule(host);
        pod.check(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
        assert_eq!(is_in(host, &pod), [false; 2]);
        take_all_of_iptables(host);
        add_a_rule(host);
    }
}

/// It made them in iptables alone where that may drop. They are told of where they do
/// not suffice.
fn rules_of_the_version_before(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let (old, other) = (Pod::new(host, "old", 1), Pod::new(host, "other", 2));
    let conf = |number, backend: &str| firewall(backend, number, &same_bridge());
    add_a_rule(host);
    old.add(host, &conf(1, "iptables")).expect_result();
    old.check(host, &conf(1, "")).expect_ok();
    // A bridge that only nf_tables knows of.
    other.add(host, &conf(2, "nftables")).expect_result();
    expect_apart(&[&old, &other], &[0, 1], false);
    old.check(host, &conf(1, "")).expect_error(999, &format!("containers4: {}", old.address(0)));
    old.check(host, &conf(1, "iptables")).expect_ok();
    old.restore(host, &conf(1, ""));
    expect_apart(&[&old, &other], &[0, 1], true);
    assert_eq!(is_in(host, &old), [true; 2]);
    old.del(host, &conf(1, "")).expect_ok();
    other.check(host, &conf(2, "")).expect_ok();
    // A chain of nf_tables that drops.
    host.exec(CLOSED);
    let open = |backend| firewall(backend, 1, &json!({}));
    old.add(host, &open("iptables")).expect_result();
    assert!(!reaches(&old.container, at(OUTSIDE[0], 7000)));
    old.check(host, &open("")).expect_error(999, "containers4");
    old.restore(host, &open(""));
    old.container.udp(at(OUTSIDE[0], 7000)).expect("let through");
    let mut gc = open("");
    gc["cni.dev/valid-attachments"] = json!([]);
    host.plugin("firewall").gc(&gc).expect_ok();
    assert_eq!(is_in(host, &old), [false; 2]);
}

fn same_bridge() -> Value {
    json!({"ingressPolicy": "same-bridge"})
}
