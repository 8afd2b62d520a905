//! A port has one owner, whichever backend maps it: one attachment's rules may
//! be those of nf_tables, the next one's those of iptables of either kind.

use serde_json::Value;
use testkit::{Case, Feature, Host, Netns as _};

use super::ownership::take_over;
use super::teardown::PROCESSES;
use super::{HOST, Pod, on, portmap, tcp, udp};
use crate::chained::at;
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    let bodies: [(&str, Body); 4] = [
        ("a_port_of_the_other_backend_is_refused", a_port_is_refused),
        ("a_port_of_the_dead_in_the_other_backend", a_port_of_the_dead),
        ("adding_again_with_the_other_backend", adding_again),
        ("many_at_once_with_both_backends", many_at_once),
    ];
    for (name, body) in bodies {
        for (word, first, second) in PAIRS {
            let name = format!("portmap::across::{name}_{word}");
            let iptables = match word.contains("legacy") {
                true => Feature::LegacyIptables,
                false => Feature::Iptables,
            };
            let needs = [Feature::Bridge, Feature::Nft, iptables, Feature::OurPlugins];
            list.push(Case::new(name, &needs, move |host: &Host| {
                if word.contains("legacy") {
                    install_iptables(host, "legacy");
                }
                body(host, first, second);
            }));
        }
    }
    list.extend(testkit::cases! {
        [Bridge, Nft, Iptables, OurPlugins] only_netlink_looks_at_the_other_backend,
        [Bridge, Nft, LegacyIptables, OurPlugins] one_kind_of_iptables_after_the_other,
    });
    list
}

/// A case on a host, with the backend of the first and of the second.
type Body = fn(&Host, &str, &str);

const PAIRS: [(&str, &str, &str); 4] = [
    ("nftables_first", "nftables", "iptables"),
    ("iptables_first", "iptables", "nftables"),
    ("nftables_before_legacy", "nftables", "iptables"),
    ("legacy_before_nftables", "iptables", "nftables"),
];

fn some() -> Vec<Value> {
    vec![
        tcp(18080, 8080),
        udp(18080, 8080),
        on("192.0.2.1", tcp(18081, 8080)),
        on("2001:db8:ffff::1", tcp(18082, 8080)),
    ]
}

fn a_port_is_refused(host: &Host, first: &str, second: &str) {
    let outside = host.outside();
    host.exec("ip address add 192.0.2.11/24 dev uplink");
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let conf = portmap(first, &some());
    one.map(host, &conf).expect_result();
    let before = host.snapshot();
    for (mapping, whose) in [
        (tcp(18080, 8081), "tcp port 18080 of the host"),
        (udp(18080, 8081), "udp port 18080 of the host"),
        (on("192.0.2.1", tcp(18080, 8081)), "tcp port 18080"),
        (tcp(18081, 8081), "tcp port 18081"),
        (tcp(18082, 8081), "tcp port 18082"),
    ] {
        let refused = two.map(host, &portmap(second, &[tcp(18090, 8081), mapping]));
        refused.expect_error(999, whose);
        refused.expect_error(999, "container ctr-one");
        host.expect_unchanged(&before);
    }
    one.check(host, &conf).expect_ok();
    // Another protocol, and another address of the host.
    let beside =
        portmap(second, &[udp(18081, 8081), tcp(18090, 8081), on("192.0.2.11", tcp(18081, 8081))]);
    two.map(host, &beside).expect_result();
    two.check(host, &beside).expect_ok();
    one.check(host, &conf).expect_ok();
    let _servers = (one.container.echo_server(8080), two.container.echo_server(8081));
    for (address, port) in [
        (HOST[0], 18080),
        (HOST[1], 18080),
        (HOST[0], 18081),
        ("192.0.2.11", 18081),
        (HOST[0], 18090),
    ] {
        outside.tcp(at(address, port)).expect("mapped");
    }
    one.unmap(host, &conf).expect_ok();
    assert!(outside.tcp(at(HOST[0], 18080)).is_err());
    two.check(host, &beside).expect_ok();
    two.unmap(host, &beside).expect_ok();
    two.map(host, &portmap(second, &some())).expect_result();
}

fn a_port_of_the_dead(host: &Host, first: &str, second: &str) {
    let outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let (old, new) = (portmap(first, &some()), portmap(second, &some()));
    one.map(host, &old).expect_result();
    one.container.destroy();
    take_over(host, &two, &new);
    two.check(host, &new).expect_ok();
    {
        let _server = two.container.echo_server(8080);
        outside.tcp(at(HOST[0], 18080)).expect("mapped to the living");
        outside.tcp(at(HOST[1], 18080)).expect("mapped to the living");
    }
    assert!(!rules(host).contains(&one.address(0)), "{}", rules(host));
    // What comes late for the dead one takes nothing from the living.
    one.unmap(host, &old).expect_ok();
    two.check(host, &new).expect_ok();
}

fn adding_again(host: &Host, first: &str, second: &str) {
    let outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let (old, new) = (portmap(first, &some()), portmap(second, &some()[..1]));
    let beside = portmap(first, &[tcp(18099, 8080)]);
    other.map(host, &beside).expect_result();
    let before = host.snapshot();
    pod.map(host, &old).expect_result();
    pod.map(host, &new).expect_result();
    pod.check(host, &new).expect_ok();
    pod.check(host, &old).expect_error(999, "check port mappings");
    other.check(host, &beside).expect_ok();
    let there = rules(host);
    assert!(!there.contains("18081") && there.contains("18080"), "{there}");
    {
        let _server = pod.container.echo_server(8080);
        outside.tcp(at(HOST[0], 18080)).expect("mapped");
        assert!(outside.tcp(at(HOST[0], 18081)).is_err());
    }
    pod.unmap(host, &new).expect_ok();
    host.expect_unchanged_but(&before, &super::STAYS);
    other.check(host, &beside).expect_ok();
}

/// One port, wanted by many in both backends: never two have it.
fn many_at_once(host: &Host, first: &str, second: &str) {
    const MANY: usize = 8;
    let _outside = host.outside();
    let pods: Vec<Pod> = (0..MANY).map(|n| Pod::new(host, &format!("p{n}"))).collect();
    let conf =
        |n: usize| portmap(if n.is_multiple_of(2) { first } else { second }, &[tcp(18080, 8080)]);
    let before = host.snapshot();
    let outcomes = host.parallel(MANY, |n| pods[n].map(host, &conf(n)).success());
    let won: Vec<usize> = (0..MANY).filter(|n| outcomes[*n]).collect();
    assert!(won.len() <= 1, "{outcomes:?}");
    for n in won {
        pods[n].check(host, &conf(n)).expect_ok();
    }
    // Afterwards it is one's at most, and free when that one goes.
    let there = rules(host);
    let named = (0..MANY).filter(|n| there.contains(&format!("{} . 8080", pods[*n].address(0))));
    let chains = there.matches("--to-destination 10.1.0.").count();
    assert!(named.count() + chains <= 1, "{there}");
    host.parallel(MANY, |n| pods[n].unmap(host, &conf(n)).expect_ok());
    host.expect_unchanged_but(&before, &super::STAYS);
    pods[0].map(host, &conf(0)).expect_result();
}

/// What is mapped on the host, in nf_tables and in legacy iptables.
fn rules(host: &Host) -> String {
    let mut rules = host.exec("nft list ruleset");
    for (names, command) in
        [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        // To look at a legacy table makes it.
        let names = host.exec(format!("cat /proc/thread-self/net/{names}"));
        if names.lines().any(|table| table == "nat") {
            rules += &host.exec(format!("{command} -t nat"));
        }
    }
    rules
}

fn only_netlink_looks_at_the_other_backend(host: &Host) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    one.map(host, &portmap("iptables", &some())).expect_result();
    for (mappings, refused) in [(vec![tcp(18080, 8080)], true), (vec![tcp(18090, 8080)], false)] {
        let conf = two.behind(&portmap("nftables", &mappings));
        let plugin = host.plugin("portmap").fail_call(PROCESSES, "EPERM", 1);
        let outcome = plugin.add(&two.container, "eth0", &conf);
        assert_eq!(outcome.success(), !refused, "{outcome}");
        assert!(!outcome.fault_fired(), "{outcome}");
    }
    // The dead one's rules as well.
    one.container.destroy();
    let conf = two.behind(&portmap("nftables", &some()));
    // As `take_over`, and no process either time.
    host.wait_until("the namespace has ended", || {
        let plugin = host.plugin("portmap").fail_call(PROCESSES, "EPERM", 1);
        let outcome = plugin.add(&two.container, "eth0", &conf);
        assert!(!outcome.fault_fired(), "{outcome}");
        outcome.success()
    });
    assert!(!rules(host).contains("CNI-DN-"), "{}", rules(host));
}

fn one_kind_of_iptables_after_the_other(host: &Host) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let conf = portmap("iptables", &some());
    one.map(host, &conf).expect_result();
    install_iptables(host, "legacy");
    two.map(host, &conf).expect_error(999, "container ctr-one");
    one.unmap(host, &conf).expect_ok();
    two.map(host, &conf).expect_result();
    two.check(host, &conf).expect_ok();
    // Back again, with the owner's chains in the legacy tables.
    host.exec("umount /etc/alternatives");
    one.map(host, &conf).expect_error(999, "container ctr-two");
    two.container.destroy();
    take_over(host, &one, &conf);
    one.check(host, &conf).expect_ok();
    let legacy = host.exec("iptables-legacy-save -t nat");
    assert!(!legacy.contains("CNI-DN-"), "{legacy}");
}
