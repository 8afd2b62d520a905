//! Who reaches whom.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{OUTSIDE, Pod, firewall, outside, reaches};
use crate::chained::{at, both_backends};

pub(super) fn list() -> Vec<Case> {
    let mut list = both_backends(
        "firewall::traffic",
        &[
            "a_closed_host_lets_containers_through",
            "the_administrators_chain_decides_first",
            "open_keeps_nobody_apart",
            "same_bridge_keeps_bridges_apart",
        ],
        &[
            ("a_closed_host_lets_containers_through", a_closed_host_lets_containers_through),
            ("the_administrators_chain_decides_first", the_administrators_chain),
            ("open_keeps_nobody_apart", |host, backend| matrix(host, backend, "open")),
            ("same_bridge_keeps_bridges_apart", |host, backend| {
                matrix(host, backend, "same-bridge")
            }),
            ("isolated_keeps_all_apart", |host, backend| matrix(host, backend, "isolated")),
            ("isolation_is_back_after_a_flush", isolation_is_back_after_a_flush),
        ],
    );
    list.extend(cases! {
        [Bridge, Nft, OurPlugins] denied_destinations,
        [Bridge, Nft, OurPlugins] the_metadata_service_is_denied,
        [Bridge, Nft, OurPlugins] everything_but_what_is_allowed,
    });
    list
}

/// A host that forwards nothing: by the policy of iptables' chain, or of ours.
fn close(host: &Host, backend: &str) {
    if backend == "iptables" {
        host.exec("iptables -w -P FORWARD DROP");
        host.exec("ip6tables -w -P FORWARD DROP");
    } else {
        let chain = "{ type filter hook forward priority 0 ; policy drop ; }";
        host.exec(format!("nft add chain inet cni_firewall forward {chain}"));
    }
}

fn a_closed_host_lets_containers_through(host: &Host, backend: &str) {
    let outside = outside(host);
    let server = outside.echo_server(7000);
    let conf = firewall(backend, 1, &json!({}));
    let pod = Pod::behind(host, "pod", 1, &conf);
    close(host, backend);
    let stranger = Pod::new(host, "stranger", 2);
    for family in [0, 1] {
        let to = at(OUTSIDE[family], 7000);
        pod.container.tcp(to).expect("let through");
        pod.container.udp(to).expect("let through");
        assert!(!reaches(&stranger.container, to), "nobody spoke for it");
        // Answers come in, questions do not.
        assert!(!pod.is_reached_by(&outside, family));
    }
    pod.check(host, &conf).expect_ok();
    // Another ADD leaves the policy as it is.
    pod.add(host, &conf).expect_result();
    assert!(!reaches(&stranger.container, at(OUTSIDE[0], 7000)));
    let keep = Pod::behind(host, "keep", 1, &conf);
    pod.del(host, &conf).expect_ok();
    assert!(!reaches(&pod.container, at(OUTSIDE[0], 7000)));
    assert!(!reaches(&pod.container, at(OUTSIDE[1], 7000)));
    keep.container.udp(at(OUTSIDE[0], 7000)).expect("still let through");
    drop(server);
}

fn the_administrators_chain(host: &Host, backend: &str) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let conf = firewall(backend, 1, &json!({"iptablesAdminChainName": "MY-ADMIN"}));
    if backend == "iptables" {
        host.exec("iptables -w -N MY-ADMIN");
        host.exec("iptables -w -A MY-ADMIN -p udp --dport 7000 -j DROP");
    } else {
        host.exec("nft add table inet cni_firewall");
        host.exec("nft add chain inet cni_firewall MY-ADMIN");
        host.exec("nft add rule inet cni_firewall MY-ADMIN udp dport 7000 drop");
    }
    let pod = Pod::behind(host, "pod", 1, &conf);
    let to = at(OUTSIDE[0], 7000);
    pod.container.tcp(to).expect("nothing is said of it");
    assert!(!reaches(&pod.container, to));
    pod.check(host, &conf).expect_ok();
    // It outlives everybody.
    let rules = || host.exec("nft list ruleset");
    pod.del(host, &conf).expect_ok();
    assert!(rules().contains("udp dport 7000") && rules().contains("MY-ADMIN"), "{}", rules());
    let before = rules().matches("udp dport 7000").count();
    pod.add(host, &conf).expect_result();
    assert_eq!(rules().matches("udp dport 7000").count(), before);
    assert!(!reaches(&pod.container, to));
}

/// Two containers on one bridge, one on another, one on a bridge without a
/// policy, and outside: each to each, of both families.
fn matrix(host: &Host, backend: &str, policy: &str) {
    let outside = outside(host);
    let keys = json!({"ingressPolicy": policy});
    let pods = [
        Pod::behind(host, "a1", 1, &firewall(backend, 1, &keys)),
        Pod::behind(host, "a2", 1, &firewall(backend, 1, &keys)),
        Pod::behind(host, "b1", 2, &firewall(backend, 2, &keys)),
        Pod::behind(host, "c1", 3, &firewall(backend, 3, &json!({}))),
    ];
    host.wait_for_addresses();
    for (number, pod) in [1, 1, 2].into_iter().zip(&pods) {
        pod.check(host, &firewall(backend, number, &keys)).expect_ok();
    }
    let bridges = [1, 1, 2, 3];
    for (to, pod) in pods.iter().enumerate() {
        let _server = pod.container.echo_server(8080);
        for family in [0, 1] {
            outside.udp(at(&pod.address(family), 8080)).expect("outside reaches everybody");
            host.udp(at(&pod.address(family), 8080)).expect("the host reaches everybody");
            for (from, other) in pods.iter().enumerate().filter(|(from, _)| *from != to) {
                let has_policy = |pod: usize| policy != "open" && bridges[pod] != 3;
                let same_bridge = bridges[from] == bridges[to];
                let apart = match same_bridge {
                    true => has_policy(to) && policy == "isolated",
                    false => has_policy(to) && has_policy(from),
                };
                let to = at(&pod.address(family), 8080);
                let way = format!("{} to {}", other.container.name(), pod.container.name());
                match apart {
                    true => assert!(!reaches(&other.container, to), "{way}, family {family}"),
                    false => _ = other.container.udp(to).expect(&way),
                }
            }
        }
    }
    // Everybody reaches outside.
    let _server = outside.echo_server(7000);
    for pod in &pods {
        pod.container.udp(at(OUTSIDE[0], 7000)).expect("outside");
    }
}

fn isolation_is_back_after_a_flush(host: &Host, backend: &str) {
    let keys = json!({"ingressPolicy": "same-bridge"});
    let confs = [firewall(backend, 1, &keys), firewall(backend, 2, &keys)];
    let pods = [Pod::behind(host, "a", 1, &confs[0]), Pod::behind(host, "b", 2, &confs[1])];
    let is_apart = || !pods[0].is_reached_by(&pods[1].container, 0);
    assert!(is_apart());
    host.exec("nft flush ruleset");
    assert!(!is_apart());
    for (pod, conf) in pods.iter().zip(&confs) {
        pod.check(host, conf).expect_error(999, "check firewall rules");
        pod.add(host, conf).expect_result();
    }
    for (pod, conf) in pods.iter().zip(&confs) {
        pod.check(host, conf).expect_ok();
    }
    assert!(is_apart());
    // With one of them gone there is nobody to be kept apart from.
    pods[1].del(host, &confs[1]).expect_ok();
    assert!(!is_apart());
    pods[0].check(host, &confs[0]).expect_ok();
}

fn denying(deny: &[&str], allow: &[&str]) -> Value {
    firewall("", 1, &json!({"denyCIDRs": deny, "allowCIDRs": allow}))
}

fn denied_destinations(host: &Host) {
    let outside = outside(host);
    outside.exec("ip address add 192.0.2.3/24 dev uplink");
    let conf = denying(&["192.0.2.0/24", "2001:db8:ffff::/48", "10.1.0.1/32"], &["192.0.2.3/32"]);
    let pod = Pod::behind(host, "pod", 1, &conf);
    let free = Pod::behind(host, "free", 1, &firewall("nftables", 1, &json!({})));
    pod.check(host, &conf).expect_ok();
    let (_outsider, _gateway) = (outside.echo_server(7000), host.echo_server(7001));
    let reaches = |pod: &Pod, address: &str, port| reaches(&pod.container, at(address, port));
    let third = at("192.0.2.3", 7000);
    pod.container.tcp(third).expect("the exception");
    assert!(!reaches(&pod, "192.0.2.2", 7000));
    assert!(!reaches(&pod, OUTSIDE[1], 7000));
    // An address of the host itself, too.
    assert!(!reaches(&pod, "10.1.0.1", 7001));
    assert!(reaches(&pod, "2001:db8:1::1", 7001));
    for address in OUTSIDE {
        assert!(reaches(&free, address, 7000), "the other has no limits");
    }
    assert!(reaches(&free, "10.1.0.1", 7001));
    // Who is asked may answer, wherever the question comes from.
    assert!(pod.is_reached_by(&outside, 0));
    // The second ADD with another list.
    let other = denying(&["192.0.2.3/32"], &[]);
    pod.add(host, &other).expect_result();
    pod.check(host, &other).expect_ok();
    pod.check(host, &conf).expect_error(999, "check firewall rules");
    assert!(reaches(&pod, "192.0.2.2", 7000) && pod.container.tcp(third).is_err());
    let none = firewall("nftables", 1, &json!({}));
    pod.add(host, &none).expect_result();
    pod.container.tcp(third).expect("no limits any more");
    pod.check(host, &none).expect_ok();
}

fn the_metadata_service_is_denied(host: &Host) {
    let outside = outside(host);
    outside.exec("ip address add 169.254.169.254/32 dev lo");
    host.exec("ip route add 169.254.169.254/32 via 192.0.2.2");
    let _service = outside.echo_server(80);
    let metadata = at("169.254.169.254", 80);
    let pod = Pod::new(host, "pod", 1);
    pod.container.tcp(metadata).expect("reached without the plugin");
    let conf = denying(&["169.254.0.0/16"], &[]);
    pod.add(host, &conf).expect_result();
    assert!(pod.container.tcp(metadata).is_err());
    pod.container.udp(at(OUTSIDE[0], 80)).expect("the rest is free");
    host.tcp(metadata).expect("the host is free");
}

fn everything_but_what_is_allowed(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let conf = denying(&["0.0.0.0/0", "::/0"], &["192.0.2.2/32"]);
    let pod = Pod::behind(host, "pod", 1, &conf);
    pod.container.tcp(at(OUTSIDE[0], 7000)).expect("allowed");
    assert!(!reaches(&pod.container, at(OUTSIDE[1], 7000)));
    let _own = host.echo_server(7001);
    assert!(!reaches(&pod.container, at("10.1.0.1", 7001)));
}
