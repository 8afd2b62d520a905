//! On hosts of every kind, and beside upstream's plugin.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{HOST, Pod, on, portmap, tcp, udp};
use crate::chained::{self, at};
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Iptables, PeerPlugins, OurPlugins] upstreams_mappings_are_checked_and_removed,
        [Bridge, Iptables, PeerPlugins, OurPlugins] upstream_removes_ours,
        [Bridge, Iptables, PeerPlugins, OurPlugins] shared_chains_are_shared_with_upstream,
        [Bridge, Iptables, PeerPlugins, OurPlugins] a_port_of_upstreams_is_refused,
        [Bridge, Nft, Iptables, PeerPlugins, OurPlugins] what_upstream_mapped_to_our_address,
        [Bridge, Nft, Iptables, PeerPlugins, OurPlugins] a_container_on_a_network_of_upstreams_too,
        [Bridge, Nft, Iptables, OurPlugins] a_table_that_iptables_cannot_show,
        [Bridge, Iptables, PeerPlugins, OurPlugins] gc_sweeps_upstreams,
        [Bridge, Nft, OurPlugins] upstreams_nftables_rules_are_removed,
        [Bridge, LegacyIptables, OurPlugins] legacy_iptables,
        [Bridge, Nft, Iptables, OurPlugins] the_default_is_nftables,
        [Bridge, LegacyIptables, OurPlugins] the_default_beside_legacy_rules,
        [Bridge, Nft, OurPlugins] without_iptables,
        [Bridge, Nft, OurPlugins] wrong_input_changes_nothing,
        [Bridge, Nft, Iptables, OurPlugins] conditions_that_do_not_parse,
        [Bridge, Iptables, OurPlugins] an_external_mark_chain,
        [Bridge, Nft, Strace, OurPlugins] status_tells_what_is_missing,
        [Bridge, Nft, OurPlugins] every_version,
        [Bridge, Nft, Iptables, OurPlugins] names_longer_than_a_comment,
        [Bridge, Nft, OurPlugins] a_hundred_mappings,
    }
}

fn peer<'a>(host: &'a Host) -> testkit::Plugin<'a> {
    host.peer("portmap")
}

/// A configuration that upstream 1.1.1 knows the version of.
fn conf(mappings: &[Value]) -> Value {
    let mut conf = portmap("iptables", mappings);
    conf["cniVersion"] = "1.0.0".into();
    conf
}

fn some() -> Vec<Value> {
    vec![tcp(18080, 8080), udp(18080, 8080), on("192.0.2.1", tcp(18081, 8080))]
}

#[track_caller]
fn expect_no_chains(host: &Host) {
    let rules = host.exec("iptables-save") + &host.exec("ip6tables-save");
    assert!(!rules.contains("CNI-DN-"), "{rules}");
}

fn upstreams_mappings_are_checked_and_removed(host: &Host) {
    let _outside = host.outside();
    for variant in [0, 2, 3] {
        let pod = Pod::new(host, &format!("pod{variant}"));
        let mut conf = conf(&some());
        match variant {
            2 => conf["snat"] = false.into(),
            3 => conf["markMasqBit"] = 7.into(),
            _ => {}
        }
        // After an upgrade, and with or without a backend named.
        let theirs = pod.old(&conf);
        conf.as_object_mut().expect("keys").remove("backend");
        for ours in [&theirs, &pod.old(&conf)] {
            let check = || host.plugin("portmap").check(&pod.container, "eth0", ours);
            peer(host).add(&pod.container, "eth0", &theirs).expect_result();
            check().expect_ok();
            host.exec(["sh", "-c", WITHOUT_A_TARGET]);
            check().expect_error(999, "is missing in chain CNI-DN-");
            host.plugin("portmap").del(&pod.container, "eth0", ours).expect_ok();
            expect_no_chains(host);
            check().expect_error(999, "check");
        }
    }
}

/// Takes one of the rules away that lead to a container.
const WITHOUT_A_TARGET: &str = "iptables-save -t nat | grep -m1 -e '^-A CNI-DN-.* -j DNAT ' | \
    sed 's/^-A/iptables -w -t nat -D/' | sh -e";

fn upstream_removes_ours(host: &Host) {
    let _outside = host.outside();
    for variant in [0, 2, 3] {
        let pod = Pod::new(host, &format!("pod{variant}"));
        let mut conf = conf(&some());
        match variant {
            2 => conf["snat"] = false.into(),
            3 => conf["markMasqBit"] = 7.into(),
            _ => {}
        }
        let conf = pod.old(&conf);
        host.plugin("portmap").add(&pod.container, "eth0", &conf).expect_result();
        // CHECK of 1.1.1 finds fault with its own rules, too.
        peer(host).del(&pod.container, "eth0", &conf).expect_ok();
        expect_no_chains(host);
    }
}

fn shared_chains_are_shared_with_upstream(host: &Host) {
    let outside = host.outside();
    let (ours, theirs) = (Pod::new(host, "ours"), Pod::new(host, "theirs"));
    let our_conf = ours.old(&conf(&[tcp(18080, 8080)]));
    let their_conf = theirs.old(&conf(&[tcp(18081, 8080)]));
    for ours_first in [true, false] {
        let add_ours = || {
            host.plugin("portmap").add(&ours.container, "eth0", &our_conf).expect_result();
        };
        if ours_first {
            add_ours();
        }
        peer(host).add(&theirs.container, "eth0", &their_conf).expect_result();
        if !ours_first {
            add_ours();
        }
        let rules = host.exec("iptables-save -t nat");
        for shared in ["-A PREROUTING", "-A OUTPUT", "-A POSTROUTING", "-A CNI-HOSTPORT-MASQ"] {
            let count = rules.lines().filter(|line| line.starts_with(shared)).count();
            assert_eq!(count, 1, "{shared}\n{rules}");
        }
        let _servers = (ours.container.echo_server(8080), theirs.container.echo_server(8080));
        for port in [18080, 18081] {
            outside.tcp(at(HOST[0], port)).expect("mapped");
        }
        host.plugin("portmap").del(&ours.container, "eth0", &our_conf).expect_ok();
        outside.tcp(at(HOST[0], 18081)).expect("the other's stays");
        peer(host).del(&theirs.container, "eth0", &their_conf).expect_ok();
        expect_no_chains(host);
    }
    // The mark of the iptables backend means another thing than ours.
    let mut ours_in_nft = our_conf.clone();
    ours_in_nft["backend"] = "nftables".into();
    host.plugin("portmap").add(&ours.container, "eth0", &ours_in_nft).expect_result();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    let _server = ours.container.echo_server(8080);
    let seen = outside.tcp(at(HOST[0], 18080)).expect("mapped");
    assert_eq!(seen.ip().to_string(), "192.0.2.2", "upstream's rules masquerade what is ours");
}

fn a_port_of_upstreams_is_refused(host: &Host) {
    let _outside = host.outside();
    let (ours, theirs) = (Pod::new(host, "ours"), Pod::new(host, "theirs"));
    let conf = conf(&some());
    peer(host).add(&theirs.container, "eth0", &theirs.old(&conf)).expect_result();
    let before = host.snapshot();
    let refused = host.plugin("portmap").add(&ours.container, "eth0", &ours.old(&conf));
    refused.expect_error(999, "container ctr-theirs (network net)");
    refused.expect_error(999, "nothing tells whether it lives");
    // With the other backend as well.
    let nftables = portmap("nftables", &some());
    ours.map(host, &nftables).expect_error(999, "its DEL or a GC frees the port");
    host.expect_unchanged_but(&before, &super::STAYS);
    peer(host).del(&theirs.container, "eth0", &theirs.old(&conf)).expect_ok();
    host.plugin("portmap").add(&ours.container, "eth0", &ours.old(&conf)).expect_result();
    // The second ADD for a container upstream had attached takes it on.
    peer(host).del(&ours.container, "eth0", &ours.old(&conf)).expect_ok();
    peer(host).add(&ours.container, "eth0", &ours.old(&conf)).expect_result();
    host.plugin("portmap").add(&ours.container, "eth0", &ours.old(&conf)).expect_result();
    host.plugin("portmap").check(&ours.container, "eth0", &ours.old(&conf)).expect_ok();
    host.plugin("portmap").del(&ours.container, "eth0", &ours.old(&conf)).expect_ok();
    expect_no_chains(host);
}

/// Upstream records no namespace; an address that is ours now is nobody else's.
fn what_upstream_mapped_to_our_address(host: &Host) {
    let outside = host.outside();
    let dead = host.container("dead");
    let pod = Pod::new(host, "pod");
    let before = host.snapshot();
    for backend in chained::BACKENDS {
        let theirs = pod.old(&conf(&some()));
        peer(host).add(&dead, "eth0", &theirs).expect_result();
        let left = host.snapshot();
        // Another port of the container: it could be somebody else's after all.
        let elsewhere = portmap(backend, &[tcp(18080, 8081)]);
        pod.map(host, &elsewhere).expect_error(999, "its DEL or a GC frees the port");
        host.expect_unchanged(&left);
        let conf = portmap(backend, &some());
        pod.map(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        let rules = host.exec("iptables-save -t nat");
        assert!(!rules.contains("ctr-dead"), "{rules}");
        let _server = pod.container.echo_server(8080);
        outside.tcp(at(HOST[0], 18080)).expect("mapped");
        outside.tcp(at(HOST[0], 18081)).expect("mapped");
        peer(host).del(&dead, "eth0", &theirs).expect_ok();
        pod.check(host, &conf).expect_ok();
        pod.unmap(host, &conf).expect_ok();
        host.expect_unchanged_but(&before, &super::STAYS);
    }
}

fn a_container_on_a_network_of_upstreams_too(host: &Host) {
    let outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let mut theirs = other.old(&conf(&[tcp(18080, 8080)]));
    theirs["name"] = "theirs".into();
    for backend in chained::BACKENDS {
        // Another address, so that who answers tells who is first.
        peer(host).add(&pod.container, "eth0", &theirs).expect_result();
        let ours = portmap(backend, &[tcp(18080, 8080)]);
        pod.map(host, &ours).expect_result();
        pod.check(host, &ours).expect_ok();
        let answers = |pod: &Pod| {
            let _server = pod.container.echo_server(8080);
            outside.tcp(at(HOST[0], 18080)).is_ok()
        };
        assert!(answers(&other) && !answers(&pod));
        peer(host).del(&pod.container, "eth0", &theirs).expect_ok();
        pod.check(host, &ours).expect_ok();
        assert!(answers(&pod));
        pod.unmap(host, &ours).expect_ok();
    }
}

/// iptables-save says so instead of its rules, and that all is well.
fn a_table_that_iptables_cannot_show(host: &Host) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(80);
    host.exec("iptables -w -t nat -N SEEN");
    host.exec("nft add set ip nat seen { type ipv4_addr; flags dynamic,timeout; }");
    host.exec("nft add rule ip nat SEEN update @seen { ip saddr timeout 10s } counter");
    let shown = host.exec("iptables-save -t nat");
    assert!(shown.contains("Table `nat' is incompatible"), "this one can show it: {shown}");
    let conf = portmap("iptables", &[tcp(8080, 80)]);
    host.plugin("portmap").status(&conf).expect_ok();
    for _ in 0..2 {
        pod.map(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
    }
    outside.tcp(at(HOST[0], 8080)).expect("the pod answers");
    pod.unmap(host, &conf).expect_ok();
    expect_no_chains(host);
}

fn gc_sweeps_upstreams(host: &Host) {
    let _outside = host.outside();
    let (keep, lost) = (Pod::new(host, "keep"), Pod::new(host, "lost"));
    let (kept, gone) = (conf(&[tcp(18080, 8080)]), conf(&[udp(18081, 8080)]));
    peer(host).add(&keep.container, "eth0", &keep.old(&kept)).expect_result();
    peer(host).add(&lost.container, "eth0", &lost.old(&gone)).expect_result();
    let mut gc = portmap("", &[]);
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "ctr-keep", "ifname": "eth0"}]);
    host.plugin("portmap").gc(&gc).expect_ok();
    let rules = host.exec("iptables-save -t nat");
    assert!(rules.contains("ctr-keep") && !rules.contains("ctr-lost"), "{rules}");
    assert_eq!(rules.matches(":CNI-DN-").count(), 1, "{rules}");
}

/// Upstream's rules as versions since 1.6.0 write them.
fn upstreams_nftables_rules_are_removed(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let address = pod.address(0);
    let script = format!(
        "add table ip cni_hostport {{ comment \"CNI portmap plugin\" ; }}
add chain ip cni_hostport hostports
add chain ip cni_hostport hostip_hostports
add chain ip cni_hostport hostports_all
add rule ip cni_hostport hostports_all jump hostip_hostports
add rule ip cni_hostport hostports_all jump hostports
add chain ip cni_hostport prerouting {{ type nat hook prerouting priority -100 ; }}
add rule ip cni_hostport prerouting fib daddr type local jump hostports_all
add chain ip cni_hostport output {{ type nat hook output priority -100 ; }}
add rule ip cni_hostport output fib daddr type local jump hostports_all
add chain ip cni_hostport masquerading {{ type nat hook postrouting priority 100 ; }}
add rule ip cni_hostport hostports tcp dport 18080 dnat to {address}:8080 comment \"ctr-pod\"
add rule ip cni_hostport hostports ip daddr 192.0.2.1 udp dport 18081 dnat to {address}:8080 comment \"ctr-pod\"
add rule ip cni_hostport hostports tcp dport 18090 dnat to 10.7.0.9:8080 comment \"ctr-pod\"
add rule ip cni_hostport hostports tcp dport 18099 dnat to 10.1.0.99:80 comment \"ctr-other\"
add rule ip cni_hostport masquerading ip saddr {address} ip daddr {address} masquerade comment \"ctr-pod\"
add rule ip cni_hostport masquerading ip saddr 127.0.0.1 ip daddr {address} masquerade comment \"ctr-pod\"
add rule ip cni_hostport masquerading ip saddr 10.7.0.9 ip daddr 10.7.0.9 masquerade comment \"ctr-pod\"
"
    );
    let file = host.scratch().join("upstream");
    host.write(&file, &script);
    host.exec(format!("nft -f {}", file.display()));
    // A port of another's is refused, as its rule would win.
    let other = Pod::new(host, "other");
    other.map(host, &portmap("nftables", &[tcp(18080, 8080)])).expect_error(999, "ctr-pod");
    other
        .map(host, &portmap("nftables", &[on("192.0.2.1", udp(18081, 80))]))
        .expect_error(999, "ctr-pod");
    let own = portmap("nftables", &[tcp(18070, 8080)]);
    other.map(host, &own).expect_result();
    // Those of this network go, and of this container's other network stay.
    let conf = portmap("", &[tcp(18080, 8080), on("192.0.2.1", udp(18081, 8080))]);
    pod.unmap(host, &conf).expect_ok();
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("18080") && !rules.contains("18081"), "{rules}");
    assert!(rules.contains("18090") && rules.contains("ctr-other"), "{rules}");
    assert!(rules.contains("ip daddr 10.7.0.9 masquerade"), "{rules}");
    assert!(!rules.contains(&format!("ip daddr {address} masquerade")), "{rules}");
    other.check(host, &own).expect_ok();
    // The table serves others still.
    other.unmap(host, &own).expect_ok();
    let rules = host.exec("nft list ruleset");
    assert!(rules.contains("ctr-other") && !rules.contains("18070"), "{rules}");
}

fn legacy_iptables(host: &Host) {
    install_iptables(host, "legacy");
    let outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let _server = pod.container.echo_server(8080);
    let conf = portmap("iptables", &some());
    pod.map(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
    host.tcp(at("127.0.0.1", 18080)).expect("mapped");
    outside.udp(at(HOST[1], 18080)).expect("mapped");
    assert_eq!(host.exec("nft list ruleset"), "");
    other.map(host, &conf).expect_error(999, "container ctr-pod");
    // Whatever is named now, or nothing.
    for backend in ["nftables", "iptables", ""] {
        pod.map(host, &conf).expect_result();
        pod.unmap(host, &portmap(backend, &some())).expect_ok();
        let rules = host.exec("iptables-legacy-save") + &host.exec("ip6tables-legacy-save");
        assert!(!rules.contains("CNI-DN-"), "{rules}");
    }
    pod.map(host, &conf).expect_result();
    let mut gc = portmap("", &[]);
    gc["cni.dev/valid-attachments"] = json!([]);
    host.plugin("portmap").gc(&gc).expect_ok();
    let rules = host.exec("iptables-legacy-save") + &host.exec("ip6tables-legacy-save");
    assert!(!rules.contains("CNI-DN-"), "{rules}");
}

fn the_default_is_nftables(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap("", &some());
    pod.map(host, &conf).expect_result();
    assert!(host.exec("nft list ruleset").contains("cni_hostport"));
    pod.check(host, &conf).expect_ok();
    // CHECK finds them even where the choice would be another by now.
    host.exec("iptables -w -t nat -A PREROUTING -d 192.0.2.77 -j ACCEPT");
    pod.check(host, &conf).expect_ok();
    pod.unmap(host, &conf).expect_ok();
    pod.map(host, &conf).expect_result();
    assert!(host.exec("iptables-save -t nat").contains("CNI-DN-"));
    pod.check(host, &conf).expect_ok();
    pod.unmap(host, &conf).expect_ok();
    expect_no_chains(host);
}

fn the_default_beside_legacy_rules(host: &Host) {
    install_iptables(host, "legacy");
    host.exec("iptables-legacy -w -t nat -A PREROUTING -d 192.0.2.77 -j ACCEPT");
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(8080);
    let conf = portmap("", &some());
    pod.map(host, &conf).expect_result();
    assert!(host.exec("iptables-legacy-save -t nat").contains("CNI-DN-"));
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
    pod.unmap(host, &conf).expect_ok();
    assert!(!host.exec("iptables-legacy-save -t nat").contains("CNI-DN-"));
}

fn without_iptables(host: &Host) {
    install_iptables(host, "");
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(8080);
    let conf = portmap("", &some());
    pod.map(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
    pod.unmap(host, &conf).expect_ok();
    let refused = pod.map(host, &portmap("iptables", &some()));
    refused.expect_error(999, "no iptables-restore");
    pod.unmap(host, &portmap("iptables", &some())).expect_ok();
}

/// Refused before anything is done; the rest of the list is among the plugin's
/// own tests.
fn wrong_input_changes_nothing(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let before = host.snapshot();
    let mapping = |host_port: Value, protocol: &str, host_ip: &str| json!({"hostPort": host_port, "containerPort": 80, "protocol": protocol, "hostIP": host_ip});
    for (bad, culprit) in [
        (mapping(0.into(), "tcp", ""), "Invalid host port number: 0"),
        (mapping(65536.into(), "tcp", ""), "65536"),
        (mapping("80-90".into(), "tcp", ""), "hostPort"),
        (mapping(80.into(), "icmp", ""), "icmp"),
        (mapping(80.into(), "tcp", "192.0.2.1/24"), "hostIP"),
        (mapping(80.into(), "tcp", "::1"), "::1"),
    ] {
        let conf = portmap("nftables", &[tcp(18080, 8080), bad]);
        pod.map(host, &conf).expect_error(7, culprit);
    }
    let chained = portmap("nftables", &some());
    let alone = host.plugin("portmap").add(&pod.container, "eth0", &chained);
    alone.expect_error(7, "must be called as chained plugin");
    host.plugin("portmap").check(&pod.container, "eth0", &chained).expect_error(7, "prevResult");
    // Mappings of a family the container has no address of.
    let mut only_v6 = pod.result.clone();
    only_v6["ips"].as_array_mut().expect("a list").remove(0);
    let only_v6 = Pod { container: host.container("six"), result: only_v6 };
    let of_v4 = portmap("nftables", &[on("192.0.2.1", tcp(18080, 8080))]);
    only_v6.map(host, &of_v4).expect_error(7, "no IPv4 address");
    host.expect_unchanged_but(&before, &["/run/netns"]);
    only_v6.map(host, &portmap("nftables", &[tcp(18080, 8080)])).expect_result();
    assert!(!host.exec("nft list tables").contains("table ip cni"));
}

/// They are another program's to judge. What is right of one family is not made
/// where the other is wrong.
fn conditions_that_do_not_parse(host: &Host) {
    let _outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    for (backend, good, bad) in [
        ("nftables", ["ip saddr 192.0.2.0/24", "ip6 saddr 2001:db8:ffff::/64"], "ip saddr ! x"),
        ("iptables", ["-s 192.0.2.0/24", "-s 2001:db8:ffff::/64"], "-s nonsense"),
    ] {
        // What all share is there.
        other.map(host, &portmap(backend, &[tcp(18099, 8080)])).expect_result();
        let before = host.snapshot();
        for wrong in ["conditionsV4", "conditionsV6"] {
            let mut conf = portmap(backend, &some());
            for (key, words) in ["conditionsV4", "conditionsV6"].into_iter().zip(good) {
                let words = if key == wrong { bad } else { words };
                conf[key] = words.split(' ').collect();
            }
            let refused = pod.map(host, &conf);
            let error = refused.expect_error(7, &format!("map ports under {wrong}: "));
            assert!(!error.to_string().contains("/dev/stdin"), "{error}");
            host.expect_unchanged(&before);
            pod.unmap(host, &conf).expect_ok();
            host.expect_unchanged(&before);
        }
        other.unmap(host, &portmap(backend, &[tcp(18099, 8080)])).expect_ok();
    }
    let mut ends = portmap("nftables", &some());
    ends["conditionsV4"] = json!(["ip saddr 192.0.2.1 ; flush ruleset"]);
    pod.map(host, &ends).expect_error(7, "cannot be part of a condition");
    for (backend, words, why) in [
        ("nftables", ["ip saddr", "192.0.2.1\n"], "\"192.0.2.1\\n\" cannot be part of"),
        ("iptables", ["-s", "192.0.2.1\n"], "\"192.0.2.1\\n\" cannot be part of"),
        ("nftables", ["", ""], "the first word is empty"),
        ("iptables", ["", ""], "the first word is empty"),
    ] {
        let mut conf = portmap(backend, &some());
        conf["conditionsV6"] = words.into();
        let before = host.snapshot();
        pod.map(host, &conf).expect_error(7, &format!("conditionsV6: {why}"));
        host.plugin("portmap").status(&conf).expect_error(7, &format!("conditionsV6: {why}"));
        host.expect_unchanged(&before);
    }
}

fn an_external_mark_chain(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let mut conf = portmap("", &[tcp(18080, 8080)]);
    conf["externalSetMarkChain"] = "KUBE-MARK-MASQ".into();
    pod.map(host, &conf).expect_error(999, "KUBE-MARK-MASQ");
    expect_no_chains(host);
    for program in ["iptables", "ip6tables"] {
        host.exec(format!("{program} -w -t nat -N KUBE-MARK-MASQ"));
        host.exec(format!("{program} -w -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000"));
        host.exec(format!(
            "{program} -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"
        ));
    }
    pod.map(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    let rules = host.exec("iptables-save -t nat");
    assert!(!rules.contains("CNI-HOSTPORT-MASQ") && !rules.contains("SETMARK"), "{rules}");
    let _server = pod.container.echo_server(8080);
    let seen = pod.container.tcp(at(HOST[0], 18080)).expect("mapped");
    assert_eq!(seen.ip().to_string(), super::GATEWAY[0]);
    pod.unmap(host, &conf).expect_ok();
    let rules = host.exec("iptables-save -t nat");
    assert!(rules.contains("KUBE-MARK-MASQ") && !rules.contains("CNI-DN-"), "{rules}");
}

fn status_tells_what_is_missing(host: &Host) {
    let plugin = host.plugin("portmap");
    for backend in ["", "nftables", "iptables"] {
        plugin.status(&portmap(backend, &[])).expect_ok();
    }
    install_iptables(host, "");
    plugin.status(&portmap("", &[])).expect_ok();
    plugin.status(&portmap("iptables", &[])).expect_error(50, "no iptables-restore");
    plugin.status(&portmap("ebtables", &[])).expect_error(7, "ebtables");
    // A kernel without nf_tables, and no iptables either.
    let plugin = plugin.fail_call("socket", "EPROTONOSUPPORT", 1);
    plugin.status(&portmap("", &[])).expect_error(50, "no nf_tables, and there is no iptables");
    plugin.status(&portmap("nftables", &[])).expect_error(50, "the kernel has no nf_tables");
}

fn every_version(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut bridge = super::bridge();
        bridge["cniVersion"] = version.into();
        bridge["name"] = "versions".into();
        let container = host.container(&format!("v{version}"));
        let result = host.plugin("bridge").add(&container, "eth0", &bridge).expect_result();
        let mut conf = portmap("nftables", &[tcp(18080, 8080)]);
        conf["cniVersion"] = version.into();
        let conf = testkit::with_previous_result(&conf, &result);
        let plugin = host.plugin("portmap");
        assert_eq!(plugin.add(&container, "eth0", &conf).expect_result(), result, "{version}");
        if !["0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&version) {
            plugin.check(&container, "eth0", &conf).expect_ok();
        }
        plugin.del(&container, "eth0", &conf).expect_ok();
    }
    drop(pod);
}

fn a_hundred_mappings(host: &Host) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(8080);
    let many: Vec<Value> = (0..100_u16)
        .map(|n| match n % 3 {
            0 => on("192.0.2.1", tcp(20000 + n, 8080)),
            1 => udp(20000 + n, 8080),
            _ => tcp(20000 + n, 8080),
        })
        .collect();
    for backend in chained::BACKENDS {
        let before = host.snapshot();
        let conf = portmap(backend, &many);
        pod.map(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        outside.tcp(at(HOST[0], 20000)).expect("mapped");
        outside.udp(at(HOST[0], 20097)).expect("mapped");
        outside.tcp(at(HOST[0], 20098)).expect("mapped");
        pod.unmap(host, &conf).expect_ok();
        host.expect_unchanged_but(&before, &super::STAYS);
        assert!(outside.tcp(at(HOST[0], 20000)).is_err());
    }
}

fn names_longer_than_a_comment(host: &Host) {
    let outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let _server = pod.container.echo_server(8080);
    // They differ where nothing is shown of them any more.
    let ids = ["a", "b"].map(|end| format!("{}{end}", "0123456789abcdef".repeat(20)));
    for backend in chained::BACKENDS {
        let mut conf = portmap(backend, &[tcp(18080, 8080)]);
        conf["name"] = "network".repeat(20).into();
        let plugin = |id: &str| host.plugin("portmap").env("CNI_CONTAINERID", id);
        let (conf, others) = (pod.behind(&conf), other.behind(&conf));
        plugin(&ids[0]).add(&pod.container, "eth0", &conf).expect_result();
        plugin(&ids[0]).check(&pod.container, "eth0", &conf).expect_ok();
        plugin(&ids[1]).add(&other.container, "eth0", &others).expect_error(999, "is mapped to");
        plugin(&ids[1]).del(&other.container, "eth0", &others).expect_ok();
        outside.tcp(at(HOST[0], 18080)).expect("mapped");
        plugin(&ids[0]).del(&pod.container, "eth0", &conf).expect_ok();
        assert!(outside.tcp(at(HOST[0], 18080)).is_err());
        expect_no_chains(host);
    }
}
