//! The macvlan plugin: containers on the network of a link of the host.

mod shim;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use crate::conf;
use crate::links::{self, Subject, ipam, settled_outside};

pub(crate) fn list() -> Vec<Case> {
    let mut list = shim::list();
    list.extend(cases! {
        [Macvlan, Ping] containers_stand_on_the_parents_network,
        [Macvlan] comes_and_goes_at_every_version,
        [Macvlan, Ping] modes_are_as_different_as_they_should,
        [Macvlan] passthru_has_its_parents_address,
        [Macvlan] the_first_default_route_names_the_parent,
        [Macvlan] the_address_comes_from_three_sources,
        [Macvlan] layer_two_alone_works,
        [Macvlan] many_at_once,
        [Macvlan] a_second_add_takes_nothing_away,
    });
    for case in cases! {
        [Macvlan, Ipv6] a_duplicate_is_an_error,
        [Macvlan, Ping] the_parent_may_be_in_the_container,
        [Macvlan, Ipv6] addresses_are_announced,
        [Macvlan] the_host_may_have_a_link_of_the_same_name,
        [Macvlan] the_parent_may_go_by_an_alternative_name,
        [Macvlan, Tun] a_parent_of_the_wrong_kind_is_refused,
        [Macvlan] who_is_in_the_way_on_the_parent_is_named,
        [Macvlan] a_multipath_default_route_names_its_first_link,
        [Macvlan] passthru_takes_an_address_and_gives_it_back,
        [Macvlan, Ipv6] detection_takes_no_second,
        [Macvlan, Ipv6] without_carrier_there_is_no_wait,
        [Macvlan, Ipv6] settings_of_detection_are_restored,
        [Macvlan] what_cannot_work_is_refused_and_changes_nothing,
        [Macvlan, Ipv6] del_works_from_any_state,
        [Macvlan] del_takes_its_own_link_and_not_that_of_its_name,
        [Macvlan] settings_that_cannot_be_written_are_done_without,
        [Macvlan] del_accepts_a_bad_configuration,
        [Macvlan] del_needs_no_parent,
        [Macvlan, Ipv6] ipam_of_others_finds_the_link,
        [Macvlan] gc_frees_what_is_not_valid,
        [Macvlan, Ipv6] check_names_what_is_missing,
        [Macvlan, Ipv6] check_knows_every_kind_of_route,
        [Macvlan] dns_is_the_configurations_or_ipams,
        [Macvlan, Ipv6] ipv6_is_off_where_it_is_unused,
        [Macvlan] status_looks_at_the_parent_and_asks_ipam,
        [Macvlan, PeerPlugins] either_program_checks_and_removes_what_the_other_made,
    } {
        list.push(case.ours_only());
    }
    list
}

/// On `uplink`, which [`Host::outside`] has made.
fn subject<'a>(host: &'a Host, families: &str, keys: Value) -> Subject<'a> {
    let base = json!({"master": "uplink", "ipam": ipam(families)});
    let base = conf::of_type(host, "macvlan", base);
    Subject { host, plugin: "macvlan", conf: conf::with(&base, keys) }
}

/// What went with it is no news: the namespace, and `outside`.
const STAYS: &[&str] = &["/var/lib/cni", "/run/netns"];

fn containers_stand_on_the_parents_network(host: &Host) {
    let outside = host.outside();
    let subject = subject(host, "4", json!({}));
    let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
    assert_eq!(one.link("eth0").expect("made")["linkinfo"]["info_kind"], "macvlan");
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1));
    one.expect_ping("192.0.2.2");
    one.expect_ping("192.0.2.11");
    outside.expect_ping("192.0.2.11");
    two.expect_ping("192.0.2.10");
    assert!(!host.answers_ping("192.0.2.10"), "the parent and its macvlans do not meet");
    assert_eq!(one.sysctl("net/ipv4/conf/eth0/arp_notify").as_deref(), Some("1"));
}

fn comes_and_goes_at_every_version(host: &Host) {
    drop(settled_outside(host));
    links::come_and_go_at_every_version(&subject(host, "4", json!({})));
}

fn modes_are_as_different_as_they_should(host: &Host) {
    let outside = host.outside();
    for mode in ["private", "vepa", "bridge"] {
        let subject = subject(host, "4", json!({"mode": mode}));
        let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
        let data = &one.link("eth0").expect("made")["linkinfo"]["info_data"];
        assert_eq!(data["mode"], mode);
        let other = two.address("eth0").to_string();
        outside.expect_ping(&other);
        // Nobody outside sends a frame back to where it came from.
        assert_eq!(one.answers_ping(&other), mode == "bridge", "{mode}");
        subject.check(&one, &result).expect_ok();
        for container in [one, two] {
            subject.del(&container);
            container.destroy();
        }
    }
}

fn passthru_has_its_parents_address(host: &Host) {
    drop(host.outside());
    let subject = subject(host, "4", json!({"mode": "passthru"}));
    let (container, result) = subject.attach("pod");
    assert_eq!(result["interfaces"][0]["mac"], host.mac("uplink"));
    container.expect_ping("192.0.2.2");
    let other = host.container("other");
    let second = host.plugin("macvlan").add(&other, "eth0", &subject.conf);
    assert!(!second.success(), "{second}");
    subject.check(&container, &result).expect_ok();
    subject.del(&container);
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

fn the_first_default_route_names_the_parent(host: &Host) {
    drop(host.outside());
    let subject = subject(host, "4", json!({"master": ""}));
    let container = host.container("pod");
    let lost = host.plugin("macvlan").add(&container, "eth0", &subject.conf);
    lost.expect_error(999, "no default route interface found");
    host.exec("ip link add other type veth peer name rehto");
    host.exec("ip link set other up");
    host.exec("ip -6 route add default dev other");
    host.exec("ip route add default via 192.0.2.2 dev uplink");
    let result = subject.add(&container);
    container.expect_ping("192.0.2.2");
    subject.check(&container, &result).expect_ok();
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

fn the_address_comes_from_three_sources(host: &Host) {
    drop(host.outside());
    let container = host.container("pod");
    let subject = subject(host, "4", json!({"mac": "02:00:00:00:00:01"}));
    let run = |conf: &Value, args: &str| {
        let plugin = host.plugin("macvlan").args(args);
        let result = plugin.add(&container, "eth0", conf).expect_result();
        assert_eq!(result["interfaces"][0]["mac"], container.mac("eth0"));
        subject.del(&container);
        result["interfaces"][0]["mac"].as_str().expect("an address").to_owned()
    };
    assert_eq!(run(&subject.conf, ""), "02:00:00:00:00:01");
    let args = "IgnoreUnknown=1;MAC=02:00:00:00:00:02";
    assert_eq!(run(&subject.conf, args), "02:00:00:00:00:02");
    let runtimes = json!({"runtimeConfig": {"mac": "02:00:00:00:00:03"}});
    assert_eq!(run(&conf::with(&subject.conf, runtimes), args), "02:00:00:00:00:03");
}

fn layer_two_alone_works(host: &Host) {
    let outside = host.outside();
    let subject = subject(host, "4", json!({"ipam": {}}));
    let (container, result) = subject.attach("pod");
    assert!(result["ips"].is_null(), "{result}");
    assert!(container.addresses("eth0").is_empty());
    container.exec("ip address add 192.0.2.77/24 dev eth0");
    outside.expect_ping("192.0.2.77");
    subject.check(&container, &result).expect_ok();
    subject.del(&container);
    assert_eq!(container.links(), ["lo"]);
    let old = conf::with(&subject.conf, json!({"cniVersion": "0.2.0"}));
    let refused = host.plugin("macvlan").add(&container, "eth0", &old);
    assert!(!refused.success(), "its result could not be told: {refused}");
    if host.has_our_plugins() {
        assert_eq!(container.links(), ["lo"]);
    }
}

fn many_at_once(host: &Host) {
    drop(settled_outside(host));
    links::many_at_once(&subject(host, "4", json!({})));
}

fn a_second_add_takes_nothing_away(host: &Host) {
    drop(host.outside());
    links::a_second_add_takes_nothing_away(&subject(host, "4", json!({})));
}

fn a_duplicate_is_an_error(host: &Host) {
    let outside = settled_outside(host);
    outside.exec("ip address add 2001:db8:ffff::10/64 dev uplink nodad");
    let container = host.container("pod");
    let subject = subject(host, "46", json!({}));
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    let outcome = host.plugin("macvlan").add(&container, "eth0", &subject.conf);
    outcome.expect_error(999, "2001:db8:ffff::10");
    if host.has_our_plugins() {
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
        container.network_snapshot().expect_same(&inside);
        assert!(subject.leases().is_empty());
    }
}

fn the_host_may_have_a_link_of_the_same_name(host: &Host) {
    drop(host.outside());
    host.exec("ip link set uplink down");
    host.exec("ip link set uplink name eth0");
    host.exec("ip link set eth0 up");
    let subject = subject(host, "4", json!({"master": "eth0"}));
    let (container, result) = subject.attach("pod");
    subject.check(&container, &result).expect_ok();
    container.expect_ping("192.0.2.2");
    subject.del(&container);
    assert_eq!(host.links(), ["lo", "eth0"]);
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

fn who_is_in_the_way_on_the_parent_is_named(host: &Host) {
    drop(settled_outside(host));
    let alone = subject(host, "4", json!({"mode": "passthru"}));
    let shared = subject(host, "4", json!({}));
    let container = host.container("second");
    let refused = |subject: &Subject<'_>, part: &str| {
        let before = host.snapshot();
        let outcome = host.plugin("macvlan").add(&container, "eth0", &subject.conf);
        let error = outcome.expect_error(999, part);
        let msg = error["msg"].as_str().expect("a text");
        assert!(msg.contains("use parent link uplink: "), "{msg}");
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    };
    for mode in ["passthru", "bridge"] {
        let is_alone = mode == "passthru";
        // Seen on the host, and out of sight in a container.
        host.exec(format!("ip link add link uplink name mv type macvlan mode {mode}"));
        if is_alone {
            refused(&shared, "mv on it is a macvlan in mode passthru, which takes it whole");
        }
        refused(&alone, "mv on it is a macvlan as well, and passthru takes the whole parent");
        host.exec("ip link del mv");
        let first = host.container(mode);
        let subject = if is_alone { &alone } else { &shared };
        subject.add(&first);
        if is_alone {
            refused(&shared, "a container has a macvlan in mode passthru on it");
        }
        refused(&alone, "a container has a macvlan on it as well");
        subject.del(&first);
        first.destroy();
    }
}

fn a_multipath_default_route_names_its_first_link(host: &Host) {
    drop(host.outside());
    host.exec("ip link add other type veth peer name rehto");
    host.exec("ip address add 198.51.100.1/24 dev other");
    host.exec("ip link set rehto up");
    host.exec("ip link set other up");
    host.exec("ip route add unreachable default metric 4278198272");
    host.exec(
        "ip route add default nexthop via 192.0.2.2 dev uplink nexthop via 198.51.100.2 dev other",
    );
    let (container, _) = subject(host, "4", json!({"master": ""})).attach("pod");
    container.expect_ping("192.0.2.2");
}

fn passthru_takes_an_address_and_gives_it_back(host: &Host) {
    let outside = settled_outside(host);
    let before = host.snapshot();
    let keys = json!({"mode": "passthru", "mac": "02:00:00:00:00:01"});
    let subject = subject(host, "4", keys);
    let (container, result) = subject.attach("pod");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:01");
    assert_eq!(container.mac("eth0"), "02:00:00:00:00:01");
    outside.expect_ping("192.0.2.10");
    subject.check(&container, &result).expect_ok();
    subject.del(&container);
    host.expect_unchanged_but(&before, STAYS);
}

fn detection_takes_no_second(host: &Host) {
    let outside = settled_outside(host);
    let subject = subject(host, "46", json!({}));
    let container = host.container("pod");
    // An emulated processor needs longer for everything else.
    let started = Instant::now();
    host.plugin("macvlan").version().expect_result();
    let one_call = started.elapsed();
    let started = Instant::now();
    subject.add(&container);
    let bound = Duration::from_millis(600) + one_call * 10;
    assert!(started.elapsed() < bound, "ADD took {:?}", started.elapsed());
    let infos = container.ip("address show dev eth0");
    let addresses = infos[0]["addr_info"].as_array().expect("addresses");
    assert!(addresses.iter().all(|info| info["tentative"] != true), "{infos:?}");
    outside.wait_for_addresses();
    assert!(container.answers_ping("2001:db8:ffff::2"));
}

fn without_carrier_there_is_no_wait(host: &Host) {
    let outside = host.outside();
    outside.exec("ip link set uplink down");
    let subject = subject(host, "46", json!({}));
    let container = host.container("pod");
    let started = Instant::now();
    let result = subject.add(&container);
    assert!(started.elapsed() < Duration::from_secs(4), "ADD took {:?}", started.elapsed());
    subject.check(&container, &result).expect_ok();
}

fn settings_of_detection_are_restored(host: &Host) {
    drop(host.outside());
    let (container, _) = subject(host, "46", json!({})).attach("pod");
    for (key, value) in [
        ("net/ipv6/conf/eth0/router_solicitation_delay", "1"),
        ("net/ipv6/neigh/eth0/retrans_time_ms", "1000"),
        ("net/ipv6/conf/eth0/ndisc_notify", "1"),
        ("net/ipv6/conf/eth0/keep_addr_on_down", "1"),
    ] {
        assert_eq!(container.sysctl(key).as_deref(), Some(value), "{key}");
    }
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    drop(settled_outside(host));
    host.exec("ip link add in-bridge type veth peer name egdirb-ni");
    host.exec("ip link add br0 type bridge");
    host.exec("ip link set in-bridge master br0");
    let subject = subject(host, "4", json!({}));
    let container = host.container("pod");
    let elsewhere = host.container("elsewhere");
    elsewhere.exec("ip link add there type bridge");
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    for (keys, code, part) in [
        (json!({"master": "none-such"}), 999, "none-such"),
        (json!({"master": "there"}), 999, "there"),
        (json!({"master": "uplink", "linkInContainer": true}), 999, "in the container"),
        (json!({"master": "lo"}), 999, "loopback"),
        (json!({"master": "in-bridge"}), 999, "use parent link in-bridge: it is a port of br0"),
        (json!({"mtu": 1501}), 7, "must be [0, master MTU(1500)]"),
        (json!({"mtu": -1}), 7, "-1"),
        (json!({"mtu": 5}), 999, "eth0"),
        (json!({"mode": "source"}), 7, "source"),
        (json!({"mac": "01:00:5e:00:00:01"}), 7, "group address"),
        (json!({"bcqueuelen": "many"}), 7, "bcqueuelen"),
        (json!({"ipam": {"type": "none-such"}}), 999, "none-such"),
        (json!({"ipam": {"type": "static", "addresses": []}}), 999, "no address"),
        (
            json!({"ipam": {"type": "static", "addresses": [{"address": "192.0.2.9/24"}],
            "routes": [{"dst": "198.51.100.1/24"}]}}),
            999,
            "198.51.100.1/24",
        ),
    ] {
        let conf = conf::with(&subject.conf, keys.clone());
        host.plugin("macvlan").add(&container, "eth0", &conf).expect_error(code, part);
        assert!(subject.leases().is_empty(), "{keys}");
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
        container.network_snapshot().expect_same(&inside);
    }
    container.exec("ip link add eth0 type bridge");
    let taken = host.plugin("macvlan").add(&container, "eth0", &subject.conf);
    taken.expect_error(999, "the name is already used");
    assert_eq!(container.link("eth0").expect("still there")["linkinfo"]["info_kind"], "bridge");
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
}

fn del_works_from_any_state(host: &Host) {
    drop(settled_outside(host));
    links::del_works_from_any_state(&subject(host, "46", json!({})));
}

/// The application may have put another link of the kind in the place of its own.
fn del_takes_its_own_link_and_not_that_of_its_name(host: &Host) {
    drop(host.outside());
    let subject = subject(host, "4", json!({}));
    let (container, _) = subject.attach("pod");
    container.exec("ip link set eth0 down");
    container.exec("ip link set eth0 name mine");
    container.exec("ip link set mine up");
    container.exec("ip link add link mine name eth0 type macvlan mode bridge");
    host.plugin("macvlan").del(&container, "eth0", &subject.conf).expect_ok();
    assert!(container.link("mine").is_none(), "it has the address");
    assert!(subject.leases().is_empty());
}

/// As where /proc/sys is read-only: nobody is told of the addresses, that is all.
fn settings_that_cannot_be_written_are_done_without(host: &Host) {
    drop(host.outside());
    let subject = subject(host, "4", json!({}));
    let container = host.container("pod");
    host.exec("mount --bind -o ro /proc/sys /proc/sys");
    let result = host.plugin("macvlan").add(&container, "eth0", &subject.conf).expect_result();
    host.exec("umount /proc/sys");
    subject.check(&container, &result).expect_ok();
}

fn del_accepts_a_bad_configuration(host: &Host) {
    drop(settled_outside(host));
    let bad = [
        json!({"mode": "none-such"}),
        json!({"master": 5}),
        json!({"mtu": 9000}),
        json!({"mac": "x", "hostShim": 7}),
    ];
    links::del_accepts_a_bad_configuration(&subject(host, "4", json!({})), &bad);
}

fn del_needs_no_parent(host: &Host) {
    let outside = host.outside();
    let subject = subject(host, "4", json!({}));
    let (container, _) = subject.attach("pod");
    outside.exec("ip link del uplink");
    host.wait_until("the link went with its parent", || container.links() == ["lo"]);
    subject.del(&container);
    assert!(subject.leases().is_empty());
}

fn ipam_of_others_finds_the_link(host: &Host) {
    drop(settled_outside(host));
    links::ipam_of_others_finds_the_link(&subject(host, "46", json!({"hostShim": true})));
}

fn gc_frees_what_is_not_valid(host: &Host) {
    drop(host.outside());
    links::gc_keeps_what_is_valid(&subject(host, "4", json!({})));
}

fn check_names_what_is_missing(host: &Host) {
    let outside = host.outside();
    let addresses = json!([
        {"address": "192.0.2.10/24", "gateway": "192.0.2.2"},
        {"address": "2001:db8:ffff::10/64", "gateway": "2001:db8:ffff::2"},
    ]);
    let ipam = json!({"type": "static", "addresses": addresses, "routes": ipam("46")["routes"]});
    let subject = subject(host, "46", json!({"ipam": ipam, "mtu": 1400}));
    for (command, part) in [
        ("ip link set eth0 down", "eth0: the link is down"),
        ("ip link set eth0 mtu 1300", "mtu is 1300"),
        ("ip link set eth0 address 02:00:00:00:00:77", "02:00:00:00:00:77"),
        ("ip link set eth0 type macvlan mode private", "not in mode bridge"),
        ("ip link del eth0", "the link is gone"),
        ("ip address del 192.0.2.10/24 dev eth0", "address 192.0.2.10/24 is missing"),
        ("ip address del 2001:db8:ffff::10/64 dev eth0", "2001:db8:ffff::10/64 is missing"),
        ("ip route del default", "route to 0.0.0.0/0"),
        ("ip -6 route del default", "route to ::/0"),
    ] {
        subject.check_misses(|container, _| drop(container.exec(command)), part);
    }
    host.exec("ip link add other type veth peer name rehto");
    let onto_other = |container: &Container, result: &Value| {
        let mac = &result["interfaces"][0]["mac"].as_str().expect("an address");
        container.exec("ip link del eth0");
        host.exec(format!("ip link add moved address {mac} link other type macvlan mode bridge"));
        host.exec("ip link set moved netns checked name eth0");
    };
    subject.check_misses(onto_other, "its parent is not uplink");
    let (container, result) = subject.attach("kind");
    container.exec("ip link del eth0");
    container.exec("ip link add eth0 type bridge");
    subject.check(&container, &result).expect_error(999, "bridge link, not macvlan");
    container.exec("ip link del eth0");
    subject.del(&container);
    let result = subject.add(&container);
    outside.exec("ip link del uplink");
    host.wait_until("the link went with its parent", || container.links() == ["lo"]);
    subject.check(&container, &result).expect_error(999, "the link is gone");
}

fn check_knows_every_kind_of_route(host: &Host) {
    drop(host.outside());
    links::check_knows_every_kind_of_route(&subject(host, "46", json!({})));
}

fn dns_is_the_configurations_or_ipams(host: &Host) {
    drop(host.outside());
    links::dns_is_the_configurations_or_ipams(&subject(host, "4", json!({})));
}

pub(crate) fn ipv6_is_off_where_it_is_unused(host: &Host) {
    drop(host.outside());
    let off = subject(host, "4", json!({"disableIPv6WhenUnused": true}));
    let (container, result) = off.attach("v4");
    assert!(container.exec("ip -6 address show dev eth0").trim().is_empty());
    off.check(&container, &result).expect_ok();
    container.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    off.check(&container, &result).expect_error(999, "IPv6 is on");
    let both = subject(host, "46", json!({"disableIPv6WhenUnused": true, "name": "both"}));
    let (container, _) = both.attach("dual");
    assert!(container.addresses("eth0").contains(&"2001:db8:ffff::10/64".to_owned()));
}

fn status_looks_at_the_parent_and_asks_ipam(host: &Host) {
    let subject = subject(host, "4", json!({}));
    let status = |keys: Value| host.plugin("macvlan").status(&conf::with(&subject.conf, keys));
    status(json!({})).expect_error(50, "uplink");
    status(json!({"master": ""})).expect_error(50, "no default route");
    let outside = host.outside();
    status(json!({})).expect_ok();
    status(json!({"master": ""})).expect_error(50, "no default route");
    host.exec("ip route add default via 192.0.2.2");
    status(json!({"master": ""})).expect_ok();
    host.exec("ip link set uplink down");
    status(json!({})).expect_error(50, "uplink: it is down");
    status(json!({"linkInContainer": true})).expect_ok();
    host.exec("ip link set uplink up");
    let full = json!({"type": "host-local", "ranges": [[{"subnet": "192.0.2.0/24",
        "rangeStart": "192.0.2.10", "rangeEnd": "192.0.2.10"}]]});
    let full = json!({"ipam": full, "name": "full"});
    status(full.clone()).expect_ok();
    let container = host.container("pod");
    let conf = conf::with(&subject.conf, full.clone());
    host.plugin("macvlan").add(&container, "eth0", &conf).expect_result();
    status(full).expect_error(50, "");
    status(json!({"ipam": {}})).expect_ok();
    drop(outside);
}

fn either_program_checks_and_removes_what_the_other_made(host: &Host) {
    drop(settled_outside(host));
    let subject = subject(host, "4", json!({"cniVersion": "1.0.0"}));
    let (ours, peers) = (host.plugin("macvlan"), host.peer("macvlan"));
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
