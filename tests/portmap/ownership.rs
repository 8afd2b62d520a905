//! A host port has one owner, who is named to whoever wants it as well, and
//! loses it only when it is gone.

use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{HOST, Pod, bridge, on, portmap, tcp, udp};
use crate::chained::{at, both_backends};
use crate::conf::with;
use crate::masquerade::{ended_meanwhile, install_iptables, meanwhile};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Nft, Iptables, OurPlugins] who_else_takes_from_the_dead_meanwhile,
    };
    list.extend(both_backends(
        "portmap::ownership",
        &[
            "one_port_on_two_addresses_of_the_host",
            "adding_again_changes_nothing",
            "a_container_on_two_networks",
        ],
        &[
            ("a_port_in_use_is_refused_by_the_name_of_its_owner", a_port_in_use_is_refused),
            ("a_port_of_a_dead_container_is_taken_over", a_port_of_the_dead_is_taken),
            ("a_port_of_a_dead_container_of_a_long_name", a_port_of_a_long_name),
            ("a_container_that_lives_without_a_path_keeps_its_port", lives_without_a_path),
            ("one_port_on_two_addresses_of_the_host", one_port_on_two_addresses),
            ("the_more_specific_of_a_list_decides", the_more_specific),
            ("a_port_of_all_addresses_is_that_of_each", a_port_of_all_addresses),
            ("adding_again_changes_nothing", adding_again_changes_nothing),
            ("adding_again_with_other_ports_replaces_them", adding_again_replaces),
            ("a_container_on_two_networks", a_container_on_two_networks),
            ("two_interfaces_of_a_container", two_interfaces),
            ("an_address_given_to_another_container", an_address_given_on),
            ("many_at_once", many_at_once),
        ],
    ));
    list
}

/// Which pod answers at a port of the host: each serves but one.
fn answers(host: &Host, port: u16, pods: &[&Pod]) -> Vec<bool> {
    let serves = |pod: &Pod| {
        let _server = pod.container.echo_server(8080);
        host.tcp(at(HOST[0], port)).is_ok()
    };
    pods.iter().map(|pod| serves(pod)).collect()
}

fn a_port_in_use_is_refused(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    one.map(host, &conf).expect_result();
    let before = host.snapshot();
    let refused = two.map(host, &portmap(backend, &[tcp(18081, 8080), tcp(18080, 8080)]));
    refused.expect_error(999, "tcp port 18080 of the host");
    refused.expect_error(999, "container ctr-one");
    host.expect_unchanged(&before);
    assert_eq!(answers(host, 18080, &[&one, &two]), [true, false]);
    // The other protocol is another port.
    two.map(host, &portmap(backend, &[udp(18080, 8080)])).expect_result();
    // As is an attempt after the owner is gone.
    two.unmap(host, &portmap(backend, &[udp(18080, 8080)])).expect_ok();
    one.unmap(host, &conf).expect_ok();
    two.map(host, &conf).expect_result();
    assert_eq!(answers(host, 18080, &[&one, &two]), [false, true]);
}

fn a_port_of_the_dead_is_taken(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let conf = portmap(backend, &[tcp(18080, 8080), udp(18080, 8080)]);
    one.map(host, &conf).expect_result();
    one.container.destroy();
    take_over(host, &two, &conf);
    two.expect_checked(host, &conf);
    assert_eq!(answers(host, 18080, &[&two]), [true]);
    // What comes late for the dead one takes nothing from the living.
    let before = host.snapshot();
    one.unmap(host, &conf).expect_ok();
    two.expect_checked(host, &conf);
    assert_eq!(answers(host, 18080, &[&two]), [true]);
    one.unmap(host, &conf).expect_ok();
    let conf_of_one = host.plugin("portmap").del_without_netns(&one.container, "eth0", &conf);
    conf_of_one.expect_ok();
    // But it may take what was its own.
    host.expect_unchanged_but(&before, &["elements", "ports: 2, ns", ". 10.1.0.", ". 2001:"]);
    two.expect_checked(host, &conf);
}

/// The kernel needs a moment to end a namespace.
#[track_caller]
pub(super) fn take_over(host: &Host, heir: &Pod, conf: &Value) {
    host.wait_until("the namespace has ended", || heir.map(host, conf).success());
}

/// A late DEL or a GC, or another one who wants the port, removes chains that an ADD
/// has seen and is about to remove: each waits for that.
fn who_else_takes_from_the_dead_meanwhile(host: &Host) {
    let _outside = host.outside();
    install_iptables(host, "nft");
    let conf = portmap("iptables", &[tcp(18080, 8080), udp(18080, 8080)]);
    for verb in ["DEL", "GC", "ADD"] {
        let [dead, heir, other] = ["dead", "heir", "other"].map(|name| Pod::new(host, name));
        dead.map(host, &conf).expect_result();
        dead.container.destroy();
        let valid = json!([{"containerID": "ctr-heir", "ifname": "eth0"}]);
        let keys = match verb {
            "GC" => json!({"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}),
            "ADD" => json!({"backend": "nftables"}),
            _ => json!({}),
        };
        let who = if verb == "ADD" { &other } else { &dead };
        let env = match verb {
            "GC" => String::new(),
            _ => format!(
                "CNI_CONTAINERID={} CNI_IFNAME=eth0 CNI_NETNS={}",
                who.container.id(),
                who.container.path().display(),
            ),
        };
        let env = format!("CNI_COMMAND={verb} {env}");
        meanwhile(host, 1, "portmap", &env, &with(&who.behind(&conf), keys));
        host.wait_until("the namespace has ended", || {
            let outcome = heir.map(host, &conf);
            let is_alive = outcome.stdout().contains("container ctr-dead");
            assert!(is_alive || outcome.success(), "{outcome}");
            !is_alive
        });
        let (code, said) = ended_meanwhile(host);
        match verb {
            "ADD" => assert!(code == "1" && said.contains("container ctr-heir"), "{said}"),
            _ => assert_eq!((code.as_str(), said.as_str()), ("0", ""), "{verb}"),
        }
        heir.check(host, &conf).expect_ok();
        let rules = host.exec("iptables-save -t nat");
        assert!(!rules.contains("ctr-dead") && rules.contains("ctr-heir"), "{verb}: {rules}");
        assert_eq!(answers(host, 18080, &[&heir]), [true]);
        heir.unmap(host, &conf).expect_ok();
        for pod in [heir, other] {
            host.plugin("bridge").del(&pod.container, "eth0", &bridge()).expect_ok();
            pod.container.destroy();
        }
    }
}

/// Its path does not fit into a comment of nftables.
fn a_port_of_a_long_name(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, &"long".repeat(20)), Pod::new(host, "two"));
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    one.map(host, &conf).expect_result();
    two.map(host, &conf).expect_error(999, "container ctr-longlong");
    one.container.destroy();
    take_over(host, &two, &conf);
    two.expect_checked(host, &conf);
}

fn lives_without_a_path(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    one.map(host, &conf).expect_result();
    // As a process in it would keep it.
    let open = fs::File::open(one.container.path()).expect("there");
    one.container.destroy();
    let before = host.snapshot();
    two.map(host, &conf).expect_error(999, "container ctr-one");
    host.expect_unchanged(&before);
    drop(open);
    take_over(host, &two, &conf);
    two.expect_checked(host, &conf);
}

fn one_port_on_two_addresses(host: &Host, backend: &str) {
    let outside = host.outside();
    host.exec("ip address add 192.0.2.11/24 dev uplink");
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let first = portmap(backend, &[on("192.0.2.1", tcp(18080, 8080))]);
    let second = portmap(backend, &[on("192.0.2.11", tcp(18080, 8081))]);
    one.map(host, &first).expect_result();
    two.map(host, &second).expect_result();
    one.expect_checked(host, &first);
    two.expect_checked(host, &second);
    let _servers = (one.container.echo_server(8080), two.container.echo_server(8081));
    for address in ["192.0.2.1", "192.0.2.11"] {
        outside.tcp(at(address, 18080)).expect("mapped");
        host.tcp(at(address, 18080)).expect("mapped for the host as well");
    }
    // Of other addresses of the host the port is nobody's.
    assert!(host.tcp(at("10.1.0.1", 18080)).is_err());
    assert!(host.tcp(at("127.0.0.1", 18080)).is_err());
    one.unmap(host, &first).expect_ok();
    assert!(outside.tcp(at("192.0.2.1", 18080)).is_err());
    outside.tcp(at("192.0.2.11", 18080)).expect("the other one stays");
    two.expect_checked(host, &second);
}

/// In whichever order they are listed.
fn the_more_specific(host: &Host, backend: &str) {
    let outside = host.outside();
    host.exec("ip address add 192.0.2.11/24 dev uplink");
    let pod = Pod::new(host, "pod");
    let (all, single) = (tcp(18080, 8080), on("192.0.2.1", tcp(18080, 8081)));
    for list in [[all.clone(), single.clone()], [single, all]] {
        let conf = portmap(backend, &list);
        pod.map(host, &conf).expect_result();
        pod.expect_checked(host, &conf);
        for (port, led) in [(8080, [false, true]), (8081, [true, false])] {
            let _server = pod.container.echo_server(port);
            let answers = ["192.0.2.1", "192.0.2.11"].map(|to| outside.tcp(at(to, 18080)).is_ok());
            assert_eq!(answers, led, "{port}");
        }
        pod.unmap(host, &conf).expect_ok();
    }
}

fn a_port_of_all_addresses(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (one, two) = (Pod::new(host, "one"), Pod::new(host, "two"));
    let (all, single) = (
        portmap(backend, &[tcp(18080, 8080)]),
        portmap(backend, &[on("192.0.2.1", tcp(18080, 8080))]),
    );
    one.map(host, &all).expect_result();
    two.map(host, &single).expect_error(999, "container ctr-one");
    one.unmap(host, &all).expect_ok();
    two.map(host, &single).expect_result();
    one.map(host, &all).expect_error(999, "container ctr-two");
    // 0.0.0.0 is what runtimes write for all.
    let all_written = portmap(backend, &[on("0.0.0.0", tcp(18080, 8080))]);
    one.map(host, &all_written).expect_error(999, "container ctr-two");
    two.unmap(host, &single).expect_ok();
    one.map(host, &all_written).expect_result();
    one.expect_checked(host, &all);
    two.map(host, &single).expect_error(999, "container ctr-one");
    // One container may have both.
    one.unmap(host, &all).expect_ok();
    let both = portmap(backend, &[tcp(18080, 8080), on("127.0.0.1", tcp(18080, 8081))]);
    one.map(host, &both).expect_result();
    one.expect_checked(host, &both);
}

fn adding_again_changes_nothing(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let conf = portmap(
        backend,
        &[
            tcp(18080, 8080),
            udp(18080, 8080),
            on("192.0.2.1", tcp(18090, 8080)),
            on("2001:db8:ffff::1", tcp(18090, 8080)),
        ],
    );
    pod.map(host, &conf).expect_result();
    let before = host.snapshot();
    pod.map(host, &conf).expect_result();
    host.expect_unchanged(&before);
    pod.expect_checked(host, &conf);
    host.expect_unchanged(&before);
}

fn adding_again_replaces(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let fresh = host.snapshot();
    let new = portmap(backend, &[tcp(18080, 8081), on("192.0.2.1", tcp(18082, 8080))]);
    // What is shared, and stays, comes with the first one.
    pod.map(host, &new).expect_result();
    pod.unmap(host, &new).expect_ok();
    pod.map(host, &new).expect_result();
    let wanted = host.snapshot();
    pod.unmap(host, &new).expect_ok();
    let old = portmap(backend, &[tcp(18080, 8080), tcp(18081, 8080), on("192.0.2.1", udp(1, 2))]);
    pod.map(host, &old).expect_result();
    pod.check(host, &new).expect_error(999, "check port mappings");
    pod.map(host, &new).expect_result();
    pod.expect_checked(host, &new);
    pod.check(host, &old).expect_error(999, "check port mappings");
    // iptables counts chains in the order they were made.
    if backend == "nftables" {
        host.expect_unchanged(&wanted);
    }
    pod.unmap(host, &new).expect_ok();
    host.expect_unchanged_but(&fresh, &super::STAYS);
}

fn a_container_on_two_networks(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let first = portmap(backend, &[tcp(18080, 8080)]);
    let mut second_bridge = bridge();
    second_bridge["name"] = "second".into();
    second_bridge["bridge"] = "cni1".into();
    second_bridge["ipam"] = json!({"type": "host-local", "subnet": "10.2.0.0/24"});
    second_bridge["isDefaultGateway"] = false.into();
    second_bridge["isGateway"] = true.into();
    let result = host.plugin("bridge").add(&pod.container, "eth1", &second_bridge).expect_result();
    let mut second = portmap(backend, &[tcp(18081, 8080)]);
    second["name"] = "second".into();
    let second = testkit::with_previous_result(&second, &result);
    pod.map(host, &first).expect_result();
    host.plugin("portmap").add(&pod.container, "eth1", &second).expect_result();
    let _server = pod.container.echo_server(8080);
    for port in [18080, 18081] {
        host.tcp(at(HOST[0], port)).expect("mapped");
    }
    host.plugin("portmap").del(&pod.container, "eth1", &second).expect_ok();
    host.tcp(at(HOST[0], 18080)).expect("the other network's mapping stays");
    assert!(host.tcp(at(HOST[0], 18081)).is_err());
    pod.expect_checked(host, &first);
}

fn two_interfaces(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let result = host.plugin("bridge").add(&pod.container, "eth1", &bridge()).expect_result();
    let first = portmap(backend, &[tcp(18080, 8080)]);
    let second = portmap(backend, &[tcp(18081, 8080)]);
    let second = testkit::with_previous_result(&second, &result);
    pod.map(host, &first).expect_result();
    let before = host.snapshot();
    let plugin = host.plugin("portmap");
    plugin.add(&pod.container, "eth1", &second).expect_result();
    plugin.check(&pod.container, "eth1", &second).expect_ok();
    pod.expect_checked(host, &first);
    plugin.del(&pod.container, "eth1", &second).expect_ok();
    host.expect_unchanged(&before);
    plugin.add(&pod.container, "eth1", &second).expect_result();
    pod.unmap(host, &first).expect_ok();
    plugin.check(&pod.container, "eth1", &second).expect_ok();
    let server = pod.container.echo_server(8080);
    assert!(host.tcp(at(HOST[0], 18080)).is_err());
    drop(server);
}

fn an_address_given_on(host: &Host, backend: &str) {
    let _outside = host.outside();
    let mut fixed = bridge();
    fixed["ipam"] = json!({"type": "static", "addresses": [
        {"address": "10.1.0.77/24", "gateway": "10.1.0.1"},
    ]});
    let one = Pod::on(host, "one", &fixed);
    one.map(host, &portmap(backend, &[tcp(18080, 8080), udp(18080, 8080)])).expect_result();
    one.container.destroy();
    let two = Pod::on(host, "two", &fixed);
    let conf = portmap(backend, &[tcp(18081, 8080)]);
    take_over(host, &two, &conf);
    two.expect_checked(host, &conf);
    // Nobody reaches the new one by the ports of the old one.
    let _server = two.container.echo_server(8080);
    host.tcp(at(HOST[0], 18081)).expect("its own port");
    assert!(host.tcp(at(HOST[0], 18080)).is_err());
    two.unmap(host, &conf).expect_ok();
    two.unmap(host, &conf).expect_ok();
}

fn many_at_once(host: &Host, backend: &str) {
    const MANY: usize = 10;
    let _outside = host.outside();
    let pods: Vec<Pod> = (0..MANY).map(|n| Pod::new(host, &format!("p{n}"))).collect();
    let confs: Vec<Value> = (0..18080)
        .skip(18000)
        .take(MANY)
        .map(|port| portmap(backend, &[tcp(port, 8080)]))
        .collect();
    let before = host.snapshot();
    host.parallel(MANY, |n| pods[n].map(host, &confs[n]).expect_result());
    host.parallel(MANY, |n| pods[n].check(host, &confs[n]).expect_ok());
    let rules = host.exec("iptables-save -t nat") + &host.exec("nft list tables");
    for shared in ["-A PREROUTING", "-A OUTPUT", "-A POSTROUTING", "-A CNI-HOSTPORT-SETMARK"] {
        let count = rules.lines().filter(|line| line.starts_with(shared)).count();
        assert_eq!(count, usize::from(backend == "iptables"), "{shared}\n{rules}");
    }
    // All want the same port, and one gets it.
    let all_the_same = portmap(backend, &[tcp(19000, 8080)]);
    let outcomes = host.parallel(MANY, |n| pods[n].map(host, &all_the_same).success());
    // What each had before went with the second ADD of the one that got it.
    assert_eq!(outcomes.iter().filter(|ok| **ok).count(), 1, "{outcomes:?}");
    host.parallel(MANY, |n| pods[n].unmap(host, &confs[n]).expect_ok());
    host.expect_unchanged_but(&before, &super::STAYS);
}
