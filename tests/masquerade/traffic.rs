//! What the world, the host and neighbours see of a container's packets.

use std::net::SocketAddr;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::{HOST, attach, conf, conf_v4, install_iptables, newest, outside_of};

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Nft, Ipv6] nftables_shows_the_host_to_the_world,
        [Bridge, Iptables, Ipv6] iptables_shows_the_host_to_the_world,
        [Bridge, LegacyIptables, Ipv6] legacy_iptables_shows_the_host_to_the_world,
        [Bridge, Nft] without_ip_masq_the_world_sees_the_container,
        [Bridge, Nft, Ipv6] neighbours_and_host_see_the_container,
        [Bridge, Nft] only_the_subnet_of_the_address_is_spared,
        [Bridge, Nft] replies_and_later_packets_take_the_same_way,
        [Bridge, Nft, OurPlugins] rules_are_in_force_before_the_link_is_up,
        [Bridge, Nft, Ipv6, OurPlugins] ptp_does_the_same,
    }
}

/// Whoever serves outside sees the host, by both protocols and families.
#[track_caller]
fn expect_masquerade(host: &Host, conf: &Value) {
    let outside = host.outside();
    let _server = outside.echo_server(7000);
    let (pod, _) = attach(host, "pod", conf);
    for (family, seen) in HOST.iter().enumerate() {
        for client in [pod.tcp(outside_of(family)), pod.udp(outside_of(family))] {
            assert_eq!(client.map(|c| c.ip().to_string()), Ok((*seen).to_owned()));
        }
    }
}

fn nftables_shows_the_host_to_the_world(host: &Host) {
    expect_masquerade(host, &conf("nftables"));
}

fn iptables_shows_the_host_to_the_world(host: &Host) {
    expect_masquerade(host, &conf("iptables"));
}

fn legacy_iptables_shows_the_host_to_the_world(host: &Host) {
    install_iptables(host, "legacy");
    expect_masquerade(host, &conf("iptables"));
}

fn without_ip_masq_the_world_sees_the_container(host: &Host) {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    let _server = outside.echo_server(7000);
    let mut plain = conf_v4("");
    plain["ipMasq"] = false.into();
    let (pod, _) = attach(host, "pod", &plain);
    let seen = pod.tcp(outside_of(0)).expect("outside has a route back");
    assert_eq!(seen.ip().to_string(), "10.1.0.2");
    assert_eq!(host.exec("nft list ruleset"), "");
}

fn neighbours_and_host_see_the_container(host: &Host) {
    let conf = conf("nftables");
    let (one, result) = attach(host, "one", &conf);
    let (two, _) = attach(host, "two", &conf);
    let (_host_server, _server) = (host.echo_server(7001), two.echo_server(7001));
    let own: Vec<String> = result["ips"]
        .as_array()
        .expect("ips")
        .iter()
        .map(|ip| ip["address"].as_str().expect("text").split('/').next().expect("one").to_owned())
        .collect();
    for (family, servers) in
        [["10.1.0.1:7001", "10.1.0.3:7001"], ["[2001:db8:1::1]:7001", "[2001:db8:1::3]:7001"]]
            .iter()
            .enumerate()
    {
        for server in servers {
            let server: SocketAddr = server.parse().expect("an address");
            let seen = one.tcp(server).expect("it is on the link").ip().to_string();
            assert_eq!(seen, own[family], "from {server}");
        }
    }
}

/// Other networks of the host are beyond the subnet, as in the reference
/// plugins.
fn only_the_subnet_of_the_address_is_spared(host: &Host) {
    let mut other = conf_v4("nftables");
    other["name"] = "other".into();
    other["bridge"] = "cni1".into();
    other["ipam"]["subnet"] = "10.2.0.0/24".into();
    let (one, _) = attach(host, "one", &conf_v4("nftables"));
    let (two, _) = attach(host, "two", &other);
    let _server = two.echo_server(7001);
    let seen = one.tcp("10.2.0.2:7001".parse().expect("an address")).expect("the host routes");
    assert_eq!(seen.ip().to_string(), "10.2.0.1");
}

fn replies_and_later_packets_take_the_same_way(host: &Host) {
    let outside = host.outside();
    let _server = outside.echo_server(7000);
    let (pod, _) = attach(host, "pod", &conf_v4("nftables"));
    let ports: Vec<u16> =
        (0..3).map(|_| pod.udp(outside_of(0)).expect("it is served").port()).collect();
    // One server for the host's own port as well: it is not taken over.
    let seen = host.tcp(outside_of(0)).expect("the host is on the link");
    assert_eq!(seen.ip().to_string(), HOST[0]);
    assert!(ports.iter().all(|port| *port > 0));
}

/// The link comes up last: until then nothing can leave.
fn rules_are_in_force_before_the_link_is_up(host: &Host) {
    // An address that IPAM gives and the kernel refuses: the link never comes
    // up, and the rules that were there are gone again.
    let mut bad = conf_v4("nftables");
    bad["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.0.2/24"}],
        "routes": [{"dst": "10.9.0.0/16", "gw": "172.31.0.1"}]});
    let pod = host.container("pod");
    let outcome = host.plugin("bridge").add(&pod, "eth0", &bad);
    outcome.expect_error(999, "route");
    let left = host.exec("nft list ruleset");
    assert!(left.contains("masq_checks"), "the shared chains show that rules were made: {left}");
    assert!(!left.contains("pod"), "{left}");
}

/// The same code behind another plugin: traffic, CHECK, GC, and DEL after the
/// namespace is gone.
fn ptp_does_the_same(host: &Host) {
    let outside = host.outside();
    let _server = outside.echo_server(7000);
    let mut conf = conf("nftables");
    conf["type"] = "ptp".into();
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let (warm, pod) = (host.container("warm"), host.container("pod"));
    host.plugin("ptp").add(&warm, "eth0", &conf).expect_result();
    host.plugin("ptp").del(&warm, "eth0", &conf).expect_ok();
    let before = host.exec("nft list ruleset");
    let result = host.plugin("ptp").add(&pod, "eth0", &conf).expect_result();
    for (family, seen) in HOST.iter().enumerate() {
        let client = pod.tcp(outside_of(family)).expect("outside answers");
        assert_eq!(client.ip().to_string(), *seen);
    }
    let check = with_previous_result(&conf, &result);
    host.plugin("ptp").check(&pod, "eth0", &check).expect_ok();
    host.exec("nft flush chain inet cni_plugins_masquerade masq_checks");
    host.plugin("ptp").check(&pod, "eth0", &check).expect_error(999, "is missing");
    host.plugin("ptp").del(&pod, "eth0", &conf).expect_ok();

    for by_gc in [false, true] {
        let pod = host.container(if by_gc { "gone" } else { "lost" });
        host.plugin("ptp").add(&pod, "eth0", &conf).expect_result();
        pod.destroy();
        if by_gc {
            let mut gc = newest(&conf);
            gc["cni.dev/valid-attachments"] = json!([]);
            host.plugin("ptp").gc(&gc).expect_ok();
        } else {
            host.plugin("ptp").del_without_netns(&pod, "eth0", &conf).expect_ok();
        }
        assert_eq!(host.exec("nft list ruleset"), before);
    }
    conf["ipMasqBackend"] = "x".into();
    host.plugin("ptp").status(&newest(&conf)).expect_error(7, "unknown ipMasqBackend");
}
