//! `hostShim`: host and containers reach each other, and nothing of it stays.

use serde_json::json;
use testkit::{Case, Frame, Host, Netns as _, Payload, cases};

use super::{STAYS, subject};
use crate::conf;
use crate::kills::TOO_MANY;
use crate::links::{self, Subject, settled_outside};

pub(super) fn list() -> Vec<Case> {
    let list = cases! {
        [Macvlan, Ping, Ipv6] a_shim_lets_host_and_containers_meet,
        [Macvlan, Ping] a_shim_may_have_an_address_of_its_own,
        [Macvlan] a_shim_is_not_heard_outside,
        [Macvlan, Ping] the_host_speaks_first_and_nobody_outside_takes_it_for_the_shim,
        [Macvlan] the_last_takes_the_shim_away,
        [Macvlan] many_share_a_shim,
        [Macvlan, Ping, Ipv6] an_heir_is_reached_whatever_the_dead_left,
        [Macvlan, Strace] an_heirs_failed_add_leaves_no_way_to_it,
        [Macvlan, Ipv6] check_knows_the_shim,
        [Macvlan] what_a_shim_cannot_be_is_refused,
    };
    list.into_iter().map(Case::ours_only).collect()
}

fn with_shim<'a>(host: &'a Host, families: &str) -> Subject<'a> {
    subject(host, families, json!({"hostShim": true}))
}

/// The names of the host's shims.
fn shims(host: &Host) -> Vec<String> {
    host.links().into_iter().filter(|name| name.starts_with("shim")).collect()
}

fn a_shim_lets_host_and_containers_meet(host: &Host) {
    let outside = host.outside();
    // The strictest filter there is.
    host.set_sysctl("net/ipv4/conf/all/rp_filter", "1");
    let subject = with_shim(host, "46");
    let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
    assert_eq!(shims(host).len(), 1);
    for container in [&one, &two] {
        container.expect_ping("192.0.2.1");
        container.expect_ping("2001:db8:ffff::1");
        container.expect_ping("192.0.2.2");
    }
    for address in ["192.0.2.10", "192.0.2.11", "2001:db8:ffff::10", "2001:db8:ffff::11"] {
        host.expect_ping(address);
        outside.expect_ping(address);
    }
    host.expect_ping("192.0.2.2");
    subject.check(&one, &result).expect_ok();
}

fn a_shim_may_have_an_address_of_its_own(host: &Host) {
    drop(settled_outside(host));
    host.exec("ip address flush dev uplink");
    let without = with_shim(host, "4");
    let container = host.container("pod");
    let before = host.snapshot();
    let refused = host.plugin("macvlan").add(&container, "eth0", &without.conf);
    refused.expect_error(999, "hostShimAddresses");
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    let keys = json!({"hostShim": true, "hostShimAddresses": ["192.0.2.99"],
        "ipam": conf::fixed(&["192.0.2.10/24"])});
    let subject = subject(host, "4", keys);
    let result = subject.add(&container);
    host.expect_ping("192.0.2.10");
    container.expect_ping("192.0.2.99");
    subject.check(&container, &result).expect_ok();
    subject.del(&container);
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
}

fn a_shim_is_not_heard_outside(host: &Host) {
    let outside = host.outside();
    let (container, _) = with_shim(host, "46").attach("pod");
    let uplink = host.mac("uplink");
    for (ip, address) in [("-4", "192.0.2.1"), ("-6", "2001:db8:ffff::1")] {
        outside.exec("ip neighbour flush all");
        outside.expect_ping(address);
        let known = outside.exec(format!("ip {ip} neighbour show {address}"));
        assert!(known.contains(&uplink), "{known}");
    }
    container.expect_ping("192.0.2.1");
    let of_host = &container.exec("ip neighbour show 192.0.2.1");
    assert!(of_host.contains(&host.mac(&shims(host)[0])), "{of_host}");
}

/// A question of the shim for a container would tell everybody that the host's address
/// is the shim's, and with a strict filter of reverse paths cut the host off.
fn the_host_speaks_first_and_nobody_outside_takes_it_for_the_shim(host: &Host) {
    let outside = host.outside();
    host.set_sysctl("net/ipv4/conf/all/rp_filter", "1");
    outside.expect_ping("192.0.2.1");
    let capture = outside.capture();
    let subject = with_shim(host, "4");
    let (container, result) = subject.attach("pod");
    let uplink = host.mac("uplink");
    let expect_known = |when: &str| {
        let known = outside.exec("ip neighbour show 192.0.2.1");
        assert!(known.contains(&uplink), "{when}: {known}");
        assert!(outside.answers_ping("192.0.2.1"), "{when}");
    };
    // One packet each time, with no time for a second.
    assert!(host.answers_ping("192.0.2.10"));
    expect_known("the host spoke first");
    subject.check(&container, &result).expect_ok();
    container.exec("ip link set eth0 address 02:00:00:00:00:0b");
    assert!(host.answers_ping("192.0.2.10"), "the container's address has changed");
    expect_known("the container's address has changed");
    let shim = shims(host).remove(0);
    // Both are of Linux 5.16, and not for who is no root.
    if host.sysctl(&format!("net/ipv4/neigh/{shim}/mcast_solicit")).as_deref() == Some("0") {
        outside.exec("ip link set uplink down");
        host.wait_until("the parent has no carrier", || {
            host.exec("ip link show dev uplink").contains("NO-CARRIER")
        });
        outside.exec("ip link set uplink up");
        host.wait_until("it has again", || outside.answers_ping("192.0.2.1"));
        assert!(host.answers_ping("192.0.2.10"), "the cable was out");
        // Until the host would have asked for the last time.
        for (key, value) in [("base_reachable_time_ms", "500"), ("delay_first_probe_time", "1")] {
            host.set_sysctl(&format!("net/ipv4/neigh/{shim}/{key}"), value);
        }
        outside.exec("ip link set uplink down");
        host.wait_until("the parent has no carrier", || !host.answers_ping("192.0.2.10"));
        for _ in 0..8 {
            assert!(!host.answers_ping("192.0.2.10"), "the parent has no carrier");
        }
        outside.exec("ip link set uplink up");
        host.wait_until("it has again", || outside.answers_ping("192.0.2.1"));
        host.wait_until("the host reaches the container", || host.answers_ping("192.0.2.10"));
        host.exec(format!("ip neighbour flush dev {shim}"));
        assert!(!host.answers_ping("192.0.2.10"), "nobody may be asked");
        subject.check(&container, &result).expect_error(999, "");
        container.exec("ip neighbour flush dev eth0");
        container.expect_ping("192.0.2.1");
        assert!(host.answers_ping("192.0.2.10"), "the container has asked");
        expect_known("all was forgotten");
    }
    let speaks_for_host = |frame: &Frame| match frame.payload {
        Payload::Arp { sender, .. } => sender.octets() == [192, 0, 2, 1] && !frame.outgoing,
        _ => false,
    };
    let said = capture.frames(|frame| speaks_for_host(frame) && frame.source != uplink);
    assert_eq!(said, []);
}

fn the_last_takes_the_shim_away(host: &Host) {
    drop(settled_outside(host));
    let before = host.snapshot();
    let subject = with_shim(host, "46");
    let ((one, _), (two, _)) = (subject.attach("one"), subject.attach("two"));
    let other = conf::with(&subject.conf, json!({"name": "other"}));
    let three = host.container("three");
    let fixed = json!({"ipam": conf::fixed(&["192.0.2.200/24"])});
    let other = conf::with(&other, fixed);
    host.plugin("macvlan").add(&three, "eth0", &other).expect_result();
    assert_eq!(shims(host).len(), 2, "a network has its own");
    host.plugin("macvlan").del(&three, "eth0", &other).expect_ok();
    assert_eq!(shims(host).len(), 1);
    // Without a namespace, and with the key gone from the configuration.
    let plain = conf::with(&subject.conf, json!({"hostShim": false}));
    host.plugin("macvlan").del_without_netns(&one, "eth0", &plain).expect_ok();
    assert_eq!(shims(host).len(), 1);
    let routes = host.routes("main").join("\n");
    assert!(routes.contains("192.0.2.11 dev shim") && !routes.contains("192.0.2.10 "), "{routes}");
    two.destroy();
    let conf = conf::with(
        &subject.conf,
        json!({"cni.dev/valid-attachments":
        [{"containerID": two.id(), "ifname": "eth0"}]}),
    );
    host.plugin("macvlan").gc(&conf).expect_ok();
    assert_eq!(shims(host).len(), 1);
    let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": []}));
    host.plugin("macvlan").gc(&conf).expect_ok();
    assert_eq!(shims(host).len(), 0);
    // Its link was out of reach without the namespace.
    one.destroy();
    host.expect_unchanged_but(&before, STAYS);
}

fn many_share_a_shim(host: &Host) {
    drop(settled_outside(host));
    for _ in 0..3 {
        let before = host.snapshot();
        links::many_at_once(&with_shim(host, "4"));
        assert_eq!(shims(host).len(), 0);
        host.expect_unchanged_but(&before, STAYS);
        for n in 0..links::MANY {
            host.exec(format!("ip netns del pod{n}"));
        }
    }
}

fn an_heir_is_reached_whatever_the_dead_left(host: &Host) {
    drop(host.outside());
    links::an_heir_is_reached_whatever_the_dead_left(&subject(host, "46", json!({})));
}

/// Nor does it, or the late DEL of the dead, take the shim from another.
fn an_heirs_failed_add_leaves_no_way_to_it(host: &Host) {
    drop(host.outside());
    let keys = json!({"hostShim": true, "ipam": conf::fixed(&["192.0.2.10/24"])});
    let subject = subject(host, "4", keys);
    let keeper = conf::with(&subject.conf, json!({"ipam": conf::fixed(&["192.0.2.200/24"])}));
    host.plugin("macvlan").add(&host.container("keeper"), "eth0", &keeper).expect_result();
    let shim = shims(host).remove(0);
    let neighbours = || host.exec(format!("ip neighbour show dev {shim} to 192.0.2.10"));
    let (dead, _) = subject.attach("dead");
    let of_the_dead = links::ways_to_the_heir(host);
    dead.destroy();
    let heir = host.container("heir");
    let mut taken = 0;
    for nth in 1.. {
        assert!(nth < TOO_MANY, "sendto is called without end");
        host.exec(format!("ip route replace {}", of_the_dead[0]));
        let plugin = host.plugin("macvlan").fail_call("sendto", "ENOBUFS", nth);
        let outcome = plugin.add(&heir, "eth0", &subject.conf);
        if !outcome.fault_fired() {
            outcome.expect_result();
            break;
        }
        if outcome.success() {
            subject.del(&heir);
        }
        let left = links::ways_to_the_heir(host);
        assert!(left.is_empty() || left == of_the_dead, "{left:?}\n{outcome}");
        taken += usize::from(left.is_empty() && !outcome.success());
        host.plugin("macvlan").del_without_netns(&dead, "eth0", &subject.conf).expect_ok();
        assert_eq!(neighbours(), "", "{outcome}");
        assert_eq!(shims(host), [&*shim], "{outcome}");
    }
    assert!(taken > 0, "no ADD came as far as the shim");
    subject.del(&heir);
    assert_eq!((links::ways_to_the_heir(host), neighbours()), (vec![], String::new()));
}

fn check_knows_the_shim(host: &Host) {
    drop(host.outside());
    let addresses = json!([{"address": "192.0.2.10/24"}, {"address": "2001:db8:ffff::10/64"}]);
    let ipam = json!({"type": "static", "addresses": addresses});
    let subject = subject(host, "46", json!({"hostShim": true, "ipam": ipam}));
    let keeper = conf::with(&subject.conf, json!({"ipam": conf::fixed(&["192.0.2.200/24"])}));
    host.plugin("macvlan").add(&host.container("keeper"), "eth0", &keeper).expect_result();
    let shim = shims(host).remove(0);
    for (command, part) in [
        ("ip route del 192.0.2.10 dev SHIM", "route to 192.0.2.10/32"),
        ("ip -6 route del 2001:db8:ffff::10 dev SHIM", "route to 2001:db8:ffff::10/128"),
        ("ip neighbour del 192.0.2.10 dev SHIM", "neighbour entry of 192.0.2.10"),
    ] {
        let command = command.replace("SHIM", &shim);
        subject.check_misses(|_, _| drop(host.exec(command)), part);
    }
    let forget = "ip neighbour del 2001:db8:ffff::1 dev eth0";
    let part = "neighbour entry of 2001:db8:ffff::1";
    subject.check_misses(|container, _| drop(container.exec(forget)), part);
    let down = || drop(host.exec(format!("ip link set {shim} down")));
    subject.check_misses(|_, _| down(), "it is down");
    subject.check_misses(|_, _| drop(host.exec(format!("ip link del {shim}"))), "it is gone");
}

fn what_a_shim_cannot_be_is_refused(host: &Host) {
    drop(settled_outside(host));
    let container = host.container("pod");
    let subject = with_shim(host, "4");
    let before = host.snapshot();
    for (keys, code, part) in [
        (json!({"mode": "private"}), 7, "mode bridge"),
        (json!({"mode": "passthru"}), 7, "mode bridge"),
        (json!({"ipam": {}}), 7, "ipam"),
        (json!({"linkInContainer": true}), 7, "linkInContainer"),
        (json!({"hostShimAddresses": ["192.0.2.1"]}), 7, "192.0.2.1 is on uplink"),
        (json!({"hostShimAddresses": ["192.0.2.1/24"]}), 7, "without a length"),
        (json!({"hostShim": false, "hostShimAddresses": ["192.0.2.9"]}), 7, "hostShim"),
    ] {
        let conf = conf::with(&subject.conf, keys);
        host.plugin("macvlan").add(&container, "eth0", &conf).expect_error(code, part);
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    }
}
