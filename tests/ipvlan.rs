//! The ipvlan plugin: containers that share the Ethernet address of a link of
//! the host. It needs a kernel with ipvlan: see `scripts/test vm`.

use std::net::IpAddr;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use crate::conf;
use crate::links::{self, Subject, ipam, settled_outside};

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Ipvlan, Ping] containers_stand_on_the_parents_network,
        [Ipvlan] comes_and_goes_at_every_version,
        [Ipvlan, Ping] each_mode_works,
        [Ipvlan] many_at_once,
        [Ipvlan, Ping] chained_it_takes_parent_and_addresses_from_before,
    };
    for case in cases! {
        [Ipvlan] the_host_may_have_a_link_of_the_same_name,
        [Ipvlan, Ipv6] addresses_are_announced,
        [Ipvlan, Ipv6, Ping] ipv6_works_in_each_mode,
        [Ipvlan, Ping] the_parent_may_be_in_the_container,
        [Ipvlan] the_default_route_names_the_parent,
        [Ipvlan, Ping] the_parent_may_go_by_an_alternative_name,
        [Ipvlan, Tun] a_parent_of_the_wrong_kind_is_refused,
        [Ipvlan] a_second_add_takes_nothing_away,
        [Ipvlan] what_cannot_work_is_refused_and_changes_nothing,
        [Ipvlan, Ipv6] del_works_from_any_state,
        [Ipvlan] del_accepts_a_bad_configuration,
        [Ipvlan] del_needs_no_parent_and_no_previous_result,
        [Ipvlan, Ipv6] ipam_of_others_finds_the_link,
        [Ipvlan] gc_frees_what_is_not_valid,
        [Ipvlan, Ipv6] check_names_what_is_missing,
        [Ipvlan, Ipv6] check_knows_every_kind_of_route,
        [Ipvlan] dns_is_the_configurations_or_ipams,
        [Ipvlan] ipv6_is_off_where_it_is_unused,
        [Ipvlan] status_looks_at_the_parent_and_asks_ipam,
        [Ipvlan, PeerPlugins] either_program_checks_and_removes_what_the_other_made,
        [Ipvlan, Ping, Ipv6] a_shim_lets_host_and_containers_meet_in_each_mode,
        [Ipvlan, Ping] a_strict_reverse_path_filter_needs_a_shim_with_an_address,
        [Ipvlan, Ipv6] the_last_takes_the_shim_away,
        [Ipvlan, Ping, Ipv6] an_heir_is_reached_whatever_the_dead_left,
        [Ipvlan] check_knows_the_shim,
    } {
        list.push(case.ours_only());
    }
    list
}

const STAYS: &[&str] = &["/var/lib/cni", "/run/netns"];

/// On `uplink`, which [`Host::outside`] has made.
fn subject<'a>(host: &'a Host, families: &str, keys: Value) -> Subject<'a> {
    let base = json!({"master": "uplink", "ipam": ipam(families)});
    let base = conf::of_type(host, "ipvlan", base);
    Subject { host, plugin: "ipvlan", conf: conf::with(&base, keys) }
}

fn containers_stand_on_the_parents_network(host: &Host) {
    let outside = host.outside();
    let subject = subject(host, "4", json!({}));
    let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
    let link = one.link("eth0").expect("made");
    assert_eq!(link["linkinfo"]["info_kind"], "ipvlan");
    assert_eq!(link["linkinfo"]["info_data"]["mode"], "l2");
    assert_eq!(
        result["interfaces"],
        json!([{"name": "eth0", "mac": host.mac("uplink"),
        "sandbox": "/run/netns/one"}])
    );
    one.expect_ping("192.0.2.2");
    one.expect_ping("192.0.2.11");
    outside.expect_ping("192.0.2.11");
    two.expect_ping("192.0.2.10");
    assert!(!host.answers_ping("192.0.2.10"), "the parent and its ipvlans do not meet");
}

fn comes_and_goes_at_every_version(host: &Host) {
    drop(settled_outside(host));
    links::come_and_go_at_every_version(&subject(host, "4", json!({})));
}

fn each_mode_works(host: &Host) {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    host.set_sysctl("net/ipv4/ip_forward", "1");
    for mode in ["l2", "l3", "l3s"] {
        // In the layer 3 modes the host routes to subnets of their own.
        let keys = match mode {
            "l2" => json!({"mode": mode}),
            _ => json!({"mode": mode, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24",
                "routes": [{"dst": "0.0.0.0/0"}]}}),
        };
        let subject = subject(host, "4", keys);
        let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
        let link = one.link("eth0").expect("made");
        assert_eq!(link["linkinfo"]["info_data"]["mode"], mode);
        two.expect_ping(&one.address("eth0").to_string());
        one.expect_ping("192.0.2.2");
        if host.has_our_plugins() {
            subject.check(&one, &result).expect_ok();
        }
        for container in [one, two] {
            subject.del(&container);
            container.destroy();
        }
    }
}

fn many_at_once(host: &Host) {
    drop(settled_outside(host));
    links::many_at_once(&subject(host, "4", json!({})));
}

fn chained_it_takes_parent_and_addresses_from_before(host: &Host) {
    let outside = host.outside();
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "uplink"}],
        "ips": [{"address": "192.0.2.20/24", "gateway": "192.0.2.2", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let chained = json!({"cniVersion": "1.0.0", "master": "", "ipam": {}});
    let subject = subject(host, "4", chained);
    let container = host.container("pod");
    let conf = with_previous_result(&subject.conf, &previous);
    let result = host.plugin("ipvlan").add(&container, "eth0", &conf).expect_result();
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1));
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!((&result["ips"], &result["routes"]), (&previous["ips"], &previous["routes"]));
    container.expect_ping("192.0.2.2");
    outside.expect_ping("192.0.2.20");
    if host.has_our_plugins() {
        assert_eq!(result["dns"], previous["dns"]);
        subject.check(&container, &result).expect_ok();
        // What is wrong with the previous result is no matter for DEL.
        let broken = with_previous_result(&subject.conf, &json!({"cniVersion": "0.1.0", "ips": 5}));
        host.plugin("ipvlan").del(&container, "eth0", &broken).expect_ok();
        assert_eq!(container.links(), ["lo"]);
        let several = json!([{"name": "uplink"}, {"name": "lo"}]);
        let several = conf::with(&previous, json!({"interfaces": several}));
        let conf = with_previous_result(&subject.conf, &several);
        let refused = host.plugin("ipvlan").add(&container, "eth0", &conf);
        refused.expect_error(7, "lacks a single named interface");
        let bare = conf::with(&previous, json!({"ips": []}));
        let conf = with_previous_result(&subject.conf, &bare);
        let refused = host.plugin("ipvlan").add(&container, "eth0", &conf);
        refused.expect_error(7, "no previous result has addresses");
    } else {
        host.plugin("ipvlan").del(&container, "eth0", &conf).expect_ok();
    }
    assert_eq!(container.links(), ["lo"]);
}

fn addresses_are_announced(host: &Host) {
    let outside = host.outside();
    let capture = outside.capture();
    let (container, _) = subject(host, "46", json!({})).attach("pod");
    let mac = container.mac("eth0");
    let v4: IpAddr = "192.0.2.10".parse().expect("an address");
    let v6: IpAddr = "2001:db8:ffff::10".parse().expect("an address");
    assert_eq!(capture.expect_announcement(v4).source, mac);
    assert_eq!(capture.expect_announcement(v6).source, mac);
}

fn ipv6_works_in_each_mode(host: &Host) {
    let outside = host.outside();
    host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    for mode in ["l2", "l3", "l3s"] {
        let subject = subject(host, "46", json!({"mode": mode}));
        let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
        subject.check(&one, &result).expect_ok();
        two.expect_ping(&one.addresses("eth0")[1].replace("/64", ""));
        if mode == "l2" {
            one.expect_ping("2001:db8:ffff::2");
            outside.expect_ping(&two.addresses("eth0")[1].replace("/64", ""));
        }
        for container in [one, two] {
            subject.del(&container);
            container.destroy();
        }
    }
}

fn the_parent_may_be_in_the_container(host: &Host) {
    let outside = host.outside();
    let container = host.container("pod");
    host.exec("ip link set uplink netns pod");
    container.exec("ip link set uplink up");
    let subject = subject(host, "4", json!({"linkInContainer": true}));
    let result = subject.add(&container);
    container.expect_ping("192.0.2.2");
    outside.expect_ping("192.0.2.10");
    subject.check(&container, &result).expect_ok();
    subject.del(&container);
    assert_eq!(container.links(), ["lo", "uplink"]);
}

fn the_default_route_names_the_parent(host: &Host) {
    drop(host.outside());
    let subject = subject(host, "4", json!({"master": ""}));
    let container = host.container("pod");
    let lost = host.plugin("ipvlan").add(&container, "eth0", &subject.conf);
    lost.expect_error(999, "no default route interface found");
    host.exec("ip route add default via 192.0.2.2 dev uplink");
    let result = subject.add(&container);
    container.expect_ping("192.0.2.2");
    subject.check(&container, &result).expect_ok();
}

fn the_host_may_have_a_link_of_the_same_name(host: &Host) {
    drop(host.outside());
    host.exec("ip link set uplink down");
    host.exec("ip link set uplink name eth0");
    host.exec("ip link set eth0 up");
    let subject = subject(host, "4", json!({"master": "eth0"}));
    let (container, result) = subject.attach("pod");
    subject.check(&container, &result).expect_ok();
    let other = conf::with(&subject.conf, json!({"ipam": {"type": "none-such"}}));
    let second = host.container("second");
    assert!(!host.plugin("ipvlan").add(&second, "eth0", &other).success());
    assert_eq!(second.links(), ["lo"]);
    subject.del(&container);
    assert_eq!(
        (container.links(), host.links()),
        (vec!["lo".into()], vec!["lo".into(), "eth0".into()])
    );
}

fn a_second_add_takes_nothing_away(host: &Host) {
    drop(host.outside());
    links::a_second_add_takes_nothing_away(&subject(host, "4", json!({})));
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    drop(settled_outside(host));
    host.exec("ip link add with-macvlan type veth peer name rehto");
    host.exec("ip link add link with-macvlan name mv type macvlan mode bridge");
    host.container("elsewhere").exec("ip link add there type bridge");
    let subject = subject(host, "4", json!({}));
    let container = host.container("pod");
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    for (keys, code, part) in [
        (json!({"master": "none-such"}), 999, "none-such"),
        (json!({"master": "there"}), 999, "there is no there on the host"),
        (json!({"master": "uplink", "linkInContainer": true}), 999, "in the container"),
        (json!({"master": "lo"}), 999, "loopback"),
        (json!({"master": "with-macvlan"}), 999, "mv on it is a macvlan"),
        (json!({"mtu": 1501}), 7, "must be [0, master MTU(1500)]"),
        (json!({"mode": "l4"}), 7, "unknown ipvlan mode"),
        (json!({"ipam": {}}), 7, "ipam.type"),
        (json!({"ipam": {"type": "none-such"}}), 999, "none-such"),
        (json!({"hostShim": true, "linkInContainer": true}), 7, "linkInContainer"),
    ] {
        let conf = conf::with(&subject.conf, keys.clone());
        host.plugin("ipvlan").add(&container, "eth0", &conf).expect_error(code, part);
        assert!(subject.leases().is_empty(), "{keys}");
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
        container.network_snapshot().expect_same(&inside);
    }
    // The kernel knows when two ipvlans of a parent would have one address.
    let fixed = json!({"ipam": conf::fixed(&["192.0.2.77/24"])});
    let fixed = Subject { conf: conf::with(&subject.conf, fixed), ..subject };
    let (other, _) = fixed.attach("other");
    let twice = host.plugin("ipvlan").add(&container, "eth0", &fixed.conf);
    twice.expect_error(999, "192.0.2.77/24");
    assert_eq!(container.links(), ["lo"]);
    fixed.del(&other);
    container.exec("ip link add eth0 type bridge");
    let taken = host.plugin("ipvlan").add(&container, "eth0", &fixed.conf);
    taken.expect_error(999, "the name is already used");
    assert_eq!(container.link("eth0").expect("still there")["linkinfo"]["info_kind"], "bridge");
}

fn the_parent_may_go_by_an_alternative_name(host: &Host) {
    drop(host.outside());
    host.exec("ip link property add dev uplink altname enp0s31f6np0-of-the-first-card");
    let keys = json!({"master": "enp0s31f6np0-of-the-first-card"});
    let subject = subject(host, "4", keys);
    let (container, result) = subject.attach("pod");
    container.expect_ping("192.0.2.2");
    subject.check(&container, &result).expect_ok();
}

fn a_parent_of_the_wrong_kind_is_refused(host: &Host) {
    links::a_parent_of_the_wrong_kind_is_refused(&subject(host, "4", json!({})));
}

fn del_works_from_any_state(host: &Host) {
    drop(settled_outside(host));
    links::del_works_from_any_state(&subject(host, "46", json!({})));
}

fn del_accepts_a_bad_configuration(host: &Host) {
    drop(settled_outside(host));
    let bad = [
        json!({"mode": "l4"}),
        json!({"master": "none-such"}),
        json!({"mtu": 9000}),
        json!({"master": "", "prevResult": 5}),
    ];
    links::del_accepts_a_bad_configuration(&subject(host, "4", json!({})), &bad);
}

fn del_needs_no_parent_and_no_previous_result(host: &Host) {
    let outside = host.outside();
    host.exec("ip route add default via 192.0.2.2 dev uplink");
    let subject = subject(host, "4", json!({"master": ""}));
    let (container, _) = subject.attach("pod");
    outside.exec("ip link del uplink");
    host.wait_until("the link went with its parent", || container.links() == ["lo"]);
    subject.del(&container);
    assert!(subject.leases().is_empty());
}

fn ipam_of_others_finds_the_link(host: &Host) {
    drop(settled_outside(host));
    links::ipam_of_others_finds_the_link(&subject(host, "46", json!({})));
}

fn gc_frees_what_is_not_valid(host: &Host) {
    drop(host.outside());
    links::gc_keeps_what_is_valid(&subject(host, "4", json!({})));
}

fn check_names_what_is_missing(host: &Host) {
    drop(host.outside());
    let addresses = json!([
        {"address": "192.0.2.10/24", "gateway": "192.0.2.2"},
        {"address": "2001:db8:ffff::10/64", "gateway": "2001:db8:ffff::2"},
    ]);
    let ipam = json!({"type": "static", "addresses": addresses, "routes": ipam("46")["routes"]});
    let subject = subject(host, "46", json!({"ipam": ipam, "mtu": 1400}));
    for (command, part) in [
        ("ip link set eth0 down", "eth0: the link is down"),
        ("ip link set eth0 mtu 1300", "mtu is 1300"),
        ("ip link set eth0 type ipvlan mode l3", "not in mode l2"),
        ("ip link del eth0", "the link is gone"),
        ("ip address del 192.0.2.10/24 dev eth0", "address 192.0.2.10/24 is missing"),
        ("ip address del 2001:db8:ffff::10/64 dev eth0", "2001:db8:ffff::10/64 is missing"),
        ("ip route del default", "route to 0.0.0.0/0"),
        ("ip -6 route del default", "route to ::/0"),
    ] {
        subject.check_misses(|container, _| drop(container.exec(command)), part);
    }
    host.exec("ip link add other type veth peer name rehto");
    let (container, result) = subject.attach("pod");
    let other = conf::with(&subject.conf, json!({"master": "other"}));
    let conf = with_previous_result(&other, &result);
    host.plugin("ipvlan").check(&container, "eth0", &conf).expect_error(999, "not other");
}

fn check_knows_every_kind_of_route(host: &Host) {
    drop(host.outside());
    links::check_knows_every_kind_of_route(&subject(host, "46", json!({})));
}

fn dns_is_the_configurations_or_ipams(host: &Host) {
    drop(host.outside());
    links::dns_is_the_configurations_or_ipams(&subject(host, "4", json!({})));
}

fn ipv6_is_off_where_it_is_unused(host: &Host) {
    drop(host.outside());
    let off = subject(host, "4", json!({"disableIPv6WhenUnused": true}));
    let (container, result) = off.attach("v4");
    assert!(container.exec("ip -6 address show dev eth0").trim().is_empty());
    off.check(&container, &result).expect_ok();
    container.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    off.check(&container, &result).expect_error(999, "IPv6 is on");
}

fn status_looks_at_the_parent_and_asks_ipam(host: &Host) {
    let subject = subject(host, "4", json!({}));
    let status = |keys: Value| host.plugin("ipvlan").status(&conf::with(&subject.conf, keys));
    status(json!({})).expect_error(50, "uplink");
    status(json!({"master": ""})).expect_ok();
    drop(host.outside());
    status(json!({})).expect_ok();
    host.exec("ip link set uplink down");
    status(json!({})).expect_error(50, "uplink: it is down");
    status(json!({"linkInContainer": true})).expect_ok();
    status(json!({"master": "", "ipam": {"type": "none-such"}})).expect_error(50, "none-such");
}

fn either_program_checks_and_removes_what_the_other_made(host: &Host) {
    drop(settled_outside(host));
    let subject = subject(host, "4", json!({"cniVersion": "1.0.0"}));
    let (ours, peers) = (host.plugin("ipvlan"), host.peer("ipvlan"));
    let before = host.snapshot();
    for (maker, other) in [(&ours, &peers), (&peers, &ours)] {
        let container = host.container("pod");
        let result = maker.add(&container, "eth0", &subject.conf).expect_result();
        let conf = with_previous_result(&subject.conf, &result);
        other.check(&container, "eth0", &conf).expect_ok();
        other.del(&container, "eth0", &conf).expect_ok();
        assert_eq!((container.links(), subject.leases().len()), (vec!["lo".to_owned()], 0));
        container.destroy();
        host.expect_unchanged_but(&before, STAYS);
    }
}

fn shims(host: &Host) -> Vec<String> {
    host.links().into_iter().filter(|name| name.starts_with("shim")).collect()
}

fn a_shim_lets_host_and_containers_meet_in_each_mode(host: &Host) {
    drop(host.outside());
    for mode in ["l2", "l3", "l3s"] {
        let subject = subject(host, "46", json!({"mode": mode, "hostShim": true}));
        let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
        assert_eq!(shims(host).len(), 1);
        for container in [&one, &two] {
            container.expect_ping("192.0.2.1");
            container.expect_ping("2001:db8:ffff::1");
            for address in container.addresses("eth0") {
                host.expect_ping(address.split('/').next().expect("an address"));
            }
        }
        two.expect_ping(&one.address("eth0").to_string());
        if mode == "l2" {
            one.expect_ping("192.0.2.2");
        }
        host.expect_ping("192.0.2.2");
        subject.check(&one, &result).expect_ok();
        for container in [one, two] {
            subject.del(&container);
            container.destroy();
        }
        assert_eq!(shims(host).len(), 0);
    }
}

fn a_strict_reverse_path_filter_needs_a_shim_with_an_address(host: &Host) {
    let outside = settled_outside(host);
    host.set_sysctl("net/ipv4/conf/all/rp_filter", "1");
    let container = host.container("pod");
    let before = host.snapshot();
    let plain = subject(host, "4", json!({"hostShim": true}));
    let refused = host.plugin("ipvlan").add(&container, "eth0", &plain.conf);
    refused.expect_error(999, "rp_filter is strict");
    assert!(plain.leases().is_empty());
    host.expect_unchanged_but(&before, STAYS);
    let taken = json!({"hostShim": true, "hostShimAddresses": ["192.0.2.1"]});
    let taken = subject(host, "4", taken);
    let refused = host.plugin("ipvlan").add(&container, "eth0", &taken.conf);
    refused.expect_error(7, "192.0.2.1 is on uplink");
    let own = json!({"hostShim": true, "hostShimAddresses": ["192.0.2.99"]});
    let own = subject(host, "4", own);
    let result = own.add(&container);
    container.expect_ping("192.0.2.99");
    host.expect_ping(&container.address("eth0").to_string());
    outside.expect_ping("192.0.2.1");
    own.check(&container, &result).expect_ok();
    own.del(&container);
    host.expect_unchanged_but(&before, STAYS);
}

fn the_last_takes_the_shim_away(host: &Host) {
    drop(settled_outside(host));
    let before = host.snapshot();
    let subject = subject(host, "46", json!({"hostShim": true}));
    let ((one, _), (two, _)) = (subject.attach("one"), subject.attach("two"));
    subject.del(&one);
    assert_eq!(shims(host).len(), 1);
    let neighbours = host.exec(format!("ip neighbour show dev {} nud permanent", shims(host)[0]));
    assert!(neighbours.contains("192.0.2.11") && !neighbours.contains("192.0.2.10 "));
    two.destroy();
    let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": []}));
    host.plugin("ipvlan").gc(&conf).expect_ok();
    assert_eq!(shims(host).len(), 0);
    host.expect_unchanged_but(&before, STAYS);
}

fn an_heir_is_reached_whatever_the_dead_left(host: &Host) {
    drop(host.outside());
    links::an_heir_is_reached_whatever_the_dead_left(&subject(host, "46", json!({})));
}

fn check_knows_the_shim(host: &Host) {
    drop(host.outside());
    let keys = json!({"hostShim": true, "ipam": conf::fixed(&["192.0.2.10/24"])});
    let subject = subject(host, "4", keys);
    let keeper = conf::with(&subject.conf, json!({"ipam": conf::fixed(&["192.0.2.200/24"])}));
    host.plugin("ipvlan").add(&host.container("keeper"), "eth0", &keeper).expect_result();
    let shim = shims(host).remove(0);
    for (command, part) in [
        ("ip route del 192.0.2.10 dev SHIM", "route to 192.0.2.10/32"),
        ("ip neighbour del 192.0.2.10 dev SHIM", "neighbour entry of 192.0.2.10"),
    ] {
        let command = command.replace("SHIM", &shim);
        subject.check_misses(|_, _| drop(host.exec(command)), part);
    }
    let forget = "ip neighbour del 192.0.2.1 dev eth0";
    let part = "neighbour entry of 192.0.2.1";
    subject.check_misses(|container, _| drop(container.exec(forget)), part);
    subject.check_misses(|_, _| drop(host.exec(format!("ip link del {shim}"))), "it is gone");
}
