//! The ptp plugin: a wire between host and container.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use crate::bridge::neighbours::link_local;
use crate::conf;
use crate::links::{self, Subject};

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ping] host_and_containers_reach_each_other,
        [Bridge] comes_and_goes_at_every_version,
        [Bridge] the_gateway_is_the_only_neighbour,
        [Bridge] both_ends_have_the_mtu,
        [Bridge] dns_is_the_configurations_or_ipams,
        [Bridge] the_default_route_of_the_later_attachment_is_used,
        [Bridge] many_at_once,
        [Bridge] a_second_add_takes_nothing_away,
        [Bridge] a_container_speaks_to_another_and_outside,
    };
    for case in cases! {
        [Bridge, Ping, Ipv6] ipv6_is_ready_at_once,
        [Bridge, Ping, Ipv6] an_address_that_moves_needs_no_announcement,
        [Bridge, Ipv6] del_works_from_any_state,
        [Bridge] del_accepts_a_bad_configuration,
        [Bridge] gc_removes_what_is_not_valid,
        [Bridge, Ipv6] check_names_what_is_missing,
        [Bridge] addresses_of_one_subnet_and_single_ones_work,
        [Bridge] what_cannot_work_is_refused_and_changes_nothing,
        [Bridge] an_address_in_use_is_not_taken,
        [Bridge] routes_have_all_their_attributes,
        [Bridge] a_default_route_that_was_lost_comes_back_to_its_place,
        [Bridge, Ipv6] ipv6_is_off_where_it_is_unused,
        [Bridge, Ping, Ipv6] ipv6_is_switched_on_at_the_host_end,
        [Bridge] status_asks_ipam,
        [Bridge, PeerPlugins] either_program_checks_and_removes_what_the_other_made,
    } {
        list.push(case.ours_only());
    }
    list
}

const V4: &str = "10.1.0.0/24";
const V6: &str = "fd00:1::/64";

fn subject<'a>(host: &'a Host, subnets: &[&str], keys: Value) -> Subject<'a> {
    // A host that forwards already, since that stays on.
    host.set_sysctl("net/ipv4/ip_forward", "1");
    if subnets.contains(&V6) {
        host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    }
    let base = conf::of_type(host, "ptp", json!({"ipam": conf::leased(subnets)}));
    Subject { host, plugin: "ptp", conf: conf::with(&base, keys) }
}

fn host_end(result: &Value) -> String {
    assert!(result["interfaces"][0]["sandbox"].is_null(), "{result}");
    result["interfaces"][0]["name"].as_str().expect("a name").to_owned()
}

fn host_and_containers_reach_each_other(host: &Host) {
    let subject = subject(host, &[V4], json!({}));
    let ((one, _), (two, _)) = (subject.attach("one"), subject.attach("two"));
    one.expect_ping("10.1.0.1");
    one.expect_ping("10.1.0.3");
    two.expect_ping("10.1.0.2");
    host.expect_ping("10.1.0.2");
    host.expect_ping("10.1.0.3");
    subject.del(&one);
    assert!(!two.answers_ping("10.1.0.2"));
    host.expect_ping("10.1.0.3");
}

fn ipv6_is_ready_at_once(host: &Host) {
    let subject = subject(host, &[V4, V6], json!({}));
    let ((one, result), (two, _)) = (subject.attach("one"), subject.attach("two"));
    let of_host = host.ip(&format!("address show dev {}", host_end(&result)));
    let of_container = one.ip("address show dev eth0");
    for info in [of_host, of_container].iter().flatten().map(|link| &link["addr_info"]) {
        let global = info.as_array().into_iter().flatten().filter(|info| info["scope"] == "global");
        for info in global {
            assert_ne!(info["tentative"], true, "{info}");
        }
    }
    // One packet, with no time for a second.
    assert!(one.answers_ping("fd00:1::1") && host.answers_ping("fd00:1::2"));
    assert!(one.answers_ping("fd00:1::3") && two.answers_ping("fd00:1::2"));
    // One that nobody, the host least of all, has spoken to.
    let (three, _) = subject.attach("three");
    assert!(two.answers_ping("fd00:1::4") && three.answers_ping("fd00:1::3"));
}

/// Two networks with a default route each, attached as `eth0` and then as `net1`:
/// interface, configuration and result.
fn attach_two(host: &Host, container: &Container) -> [(&'static str, Value, Value); 2] {
    let one = subject(host, &[V4], json!({})).conf;
    let other = json!({"name": "other", "ipam": conf::leased(&["10.2.0.0/24"])});
    let other = conf::with(&one, other);
    [("eth0", one), ("net1", other)].map(|(interface, conf)| {
        let result = host.plugin("ptp").add(container, interface, &conf).expect_result();
        (interface, conf, result)
    })
}

/// The ways out, the one that is used first.
fn ways_out(container: &Container) -> Vec<String> {
    let routes = container.exec("ip -4 route show default");
    routes.lines().map(|line| line.trim().to_owned()).collect()
}

const LATER_FIRST: [&str; 2] = ["default via 10.2.0.1 dev net1", "default via 10.1.0.1 dev eth0"];

fn the_default_route_of_the_later_attachment_is_used(host: &Host) {
    let container = host.container("pod");
    attach_two(host, &container);
    assert_eq!(ways_out(&container), LATER_FIRST);
}

fn a_default_route_that_was_lost_comes_back_to_its_place(host: &Host) {
    let container = host.container("pod");
    let attached = attach_two(host, &container);
    let restore = |at: usize| {
        let (interface, conf, result) = &attached[at];
        let conf = with_previous_result(conf, result).to_string();
        host.plugin("ptp").send("RESTORE", &container, interface, conf.as_bytes()).expect_ok();
    };
    for lost in [&[0][..], &[1], &[0, 1], &[1, 0]] {
        for at in lost {
            container.exec(format!("ip route del default dev {}", attached[*at].0));
        }
        lost.iter().for_each(|at| restore(*at));
        assert_eq!(ways_out(&container), LATER_FIRST, "lost {lost:?}");
    }
}

/// The host is the only neighbour, and what it knew of the address has gone with the
/// pair: the first packet of either side arrives at the new owner.
fn an_address_that_moves_needs_no_announcement(host: &Host) {
    let addresses = json!([{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "fd00:1::2/64", "gateway": "fd00:1::1"}]);
    let ipam = json!({"type": "static", "addresses": addresses});
    let subject = subject(host, &[V4, V6], json!({"ipam": ipam}));
    let capture = host.capture();
    for (name, asks) in [("one", true), ("two", true), ("three", false)] {
        let (container, result) = subject.attach(name);
        let end = host_end(&result);
        for [own, gateway] in [["10.1.0.2", "10.1.0.1"], ["fd00:1::2", "fd00:1::1"]] {
            // One packet, with no time for a second.
            let arrived =
                if asks { host.answers_ping(own) } else { container.answers_ping(gateway) };
            assert!(arrived, "{name}: {own}");
            let known = host.exec(format!("ip neigh show {own} dev {end}"));
            assert!(known.contains(&container.mac("eth0")), "{known:?}");
        }
        subject.del(&container);
    }
    let said = capture.frames(|frame| {
        ["10.1.0.2", "fd00:1::2"].iter().any(|ip| frame.announces(ip.parse().expect("an address")))
    });
    assert_eq!(said, []);
}

fn comes_and_goes_at_every_version(host: &Host) {
    links::come_and_go_at_every_version(&subject(host, &[V4], json!({})));
}

fn the_gateway_is_the_only_neighbour(host: &Host) {
    let (container, result) = subject(host, &[V4], json!({})).attach("pod");
    let end = host_end(&result);
    assert_eq!(host.addresses(&end), ["10.1.0.1/32"]);
    assert_eq!(host.routes("main")[0], format!("10.1.0.2 dev {end} scope host"));
    assert_eq!(
        container.routes("main")[..3],
        [
            "default via 10.1.0.1 dev eth0",
            "10.1.0.0/24 via 10.1.0.1 dev eth0 src 10.1.0.2",
            "10.1.0.1 dev eth0 scope link src 10.1.0.2",
        ]
    );
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}]));
    assert_eq!(host.sysctl(&format!("net/ipv6/conf/{end}/accept_ra")).as_deref(), Some("0"));
}

fn both_ends_have_the_mtu(host: &Host) {
    let subject = subject(host, &[V4], json!({"mtu": 1342}));
    let (container, result) = subject.attach("pod");
    assert_eq!(container.link("eth0").expect("made")["mtu"], 1342);
    assert_eq!(host.link(&host_end(&result)).expect("made")["mtu"], 1342);
    subject.check(&container, &result).expect_ok();
}

fn dns_is_the_configurations_or_ipams(host: &Host) {
    links::dns_is_the_configurations_or_ipams(&subject(host, &[V4], json!({})));
}

fn many_at_once(host: &Host) {
    links::many_at_once(&subject(host, &[V4], json!({})));
}

fn a_second_add_takes_nothing_away(host: &Host) {
    links::a_second_add_takes_nothing_away(&subject(host, &[V4], json!({})));
}

fn a_container_speaks_to_another_and_outside(host: &Host) {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    let subject = subject(host, &[V4], json!({}));
    let ((one, _), (two, _)) = (subject.attach("one"), subject.attach("two"));
    let server = two.echo_server(80);
    let at = |ip: &str| SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), 80);
    assert_eq!(one.tcp(at("10.1.0.3")).expect("served").ip().to_string(), "10.1.0.2");
    assert_eq!(outside.tcp(at("10.1.0.3")).expect("served").ip().to_string(), "192.0.2.2");
    assert_eq!(host.tcp(at("10.1.0.3")).expect("served").ip().to_string(), "10.1.0.1");
    drop(server);
}

fn del_works_from_any_state(host: &Host) {
    links::del_works_from_any_state(&subject(host, &[V4, V6], json!({})));
}

fn del_accepts_a_bad_configuration(host: &Host) {
    let bad = [json!({"mtu": "big"}), json!({"dns": 5}), json!({"mtu": 4_294_967_296_u64})];
    links::del_accepts_a_bad_configuration(&subject(host, &[V4], json!({})), &bad);
}

fn gc_removes_what_is_not_valid(host: &Host) {
    let subject = subject(host, &[V4], json!({}));
    links::gc_keeps_what_is_valid(&subject);
    // The namespace is still there, but nobody counts on it.
    let container = host.container("stray");
    let before = host.snapshot();
    subject.add(&container);
    let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": []}));
    host.plugin("ptp").gc(&conf).expect_ok();
    assert_eq!((container.links(), subject.leases().len()), (vec!["lo".to_owned()], 0));
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
}

fn check_names_what_is_missing(host: &Host) {
    let addresses = json!([
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "fd00:1::2/64", "gateway": "fd00:1::1"},
    ]);
    let routes = conf::leased(&[V4, V6])["routes"].clone();
    let ipam = json!({"type": "static", "addresses": addresses, "routes": routes});
    let subject = subject(host, &[V4, V6], json!({"mtu": 1400, "ipam": ipam}));
    let in_container = |command: &'static str, part: &str| {
        subject.check_misses(|container, _| drop(container.exec(command)), part);
    };
    in_container("ip link set eth0 down", "eth0: the link is down");
    in_container("ip link set eth0 mtu 1300", "mtu is 1300");
    in_container("ip link set eth0 address 02:00:00:00:00:77", "02:00:00:00:00:77");
    in_container("ip link del eth0", "the link is gone");
    in_container("ip address del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 is missing");
    in_container("ip address del fd00:1::2/64 dev eth0", "address fd00:1::2/64 is missing");
    in_container("ip route del default", "route to 0.0.0.0/0");
    in_container("ip -6 route del default", "route to ::/0");
    in_container("ip -6 route del fd00:1::/64", "route to fd00:1::/64");
    in_container("ip route del 10.1.0.0/24", "route to 10.1.0.0/24");
    let on_host = |command: &'static str, part: &str| {
        let damage = |_: &_, result: &Value| {
            drop(host.exec(command.replace("END", &host_end(result))));
        };
        subject.check_misses(damage, part);
    };
    on_host("ip link set END down", "it is down");
    on_host("ip link set END address 02:00:00:00:00:77", "02:00:00:00:00:77");
    on_host("ip address del 10.1.0.1/32 dev END", "gateway's address 10.1.0.1/32 is missing");
    on_host("ip address del fd00:1::1/128 dev END", "gateway's address fd00:1::1/128 is missing");
    on_host("sysctl -q -w net.ipv6.conf.END.accept_ra=1", "it accepts router advertisements");
    on_host("ip route del 10.1.0.2 dev END", "route to 10.1.0.2/32 is missing");
    on_host("ip -6 route del fd00:1::2 dev END", "route to fd00:1::2/128 is missing");
    subject.check_misses(|_, _| host.set_sysctl("net/ipv4/ip_forward", "0"), "ip_forward");
    host.set_sysctl("net/ipv4/ip_forward", "1");
    let (container, _) = subject.attach("checked");
    host.plugin("ptp").check(&container, "eth0", &subject.conf).expect_error(7, "prevResult");
}

fn addresses_of_one_subnet_and_single_ones_work(host: &Host) {
    let addresses = json!([
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "10.1.0.3/24", "gateway": "10.1.0.1"},
        {"address": "10.9.0.7/32", "gateway": "169.254.1.1"},
    ]);
    let ipam = json!({"type": "static", "addresses": addresses});
    let subject = subject(host, &[V4], json!({"ipam": ipam}));
    let before = host.snapshot();
    let (container, result) = subject.attach("pod");
    subject.check(&container, &result).expect_ok();
    for address in ["10.1.0.2", "10.1.0.3", "10.9.0.7"] {
        host.expect_ping(address);
    }
    for gateway in ["10.1.0.1", "169.254.1.1"] {
        container.expect_ping(gateway);
    }
    subject.del(&container);
    host.expect_unchanged_but(&before, &["/run/netns"]);
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    let subject = subject(host, &[V4], json!({}));
    let container = host.container("pod");
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    let fixed = |gateway: Value| {
        let address = json!([{"address": "10.1.0.2/24", "gateway": gateway}]);
        json!({"ipam": {"type": "static", "addresses": address}})
    };
    let address = json!([{"address": "fd00::2/64", "gateway": "fd00::1"}]);
    let small = json!({"mtu": 1279, "ipam": {"type": "static", "addresses": address}});
    for (keys, code, part) in [
        (json!({"ipam": {}}), 7, "ipam.type"),
        (json!({"ipam": {"type": "none-such"}}), 999, "none-such"),
        (json!({"ipam": conf::fixed(&["10.1.0.2/24"])}), 999, "no gateway"),
        (fixed(json!("10.1.0.2")), 999, "the address itself"),
        (fixed(json!("fd00::1")), 999, "other family"),
        (json!({"mtu": 5}), 7, "mtu 5 is out of range"),
        (json!({"mtu": 70_000}), 7, "mtu 70000 is out of range"),
        (small, 7, "mtu 1279 is too small for fd00::2/64"),
    ] {
        let conf = conf::with(&subject.conf, keys.clone());
        host.plugin("ptp").add(&container, "eth0", &conf).expect_error(code, part);
        assert!(subject.leases().is_empty(), "{keys}");
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
        container.network_snapshot().expect_same(&inside);
    }
    container.exec("ip link add eth0 type bridge");
    let refused = host.plugin("ptp").add(&container, "eth0", &subject.conf);
    refused.expect_error(999, "the name eth0 is already used");
    assert!(subject.leases().is_empty());
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
}

fn an_address_in_use_is_not_taken(host: &Host) {
    let address = json!([{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]);
    let ipam = json!({"type": "static", "addresses": address});
    let subject = subject(host, &[V4], json!({"ipam": ipam}));
    let (one, result) = subject.attach("one");
    let two = host.container("two");
    // The snapshot has it.
    let _ = link_local(host, host, &host_end(&result));
    let before = host.snapshot();
    let refused = host.plugin("ptp").add(&two, "eth0", &subject.conf);
    refused.expect_error(999, &format!("10.1.0.2 by {}", host_end(&result)));
    host.expect_unchanged(&before);
    assert_eq!(two.links(), ["lo"]);
    host.expect_ping("10.1.0.2");
    subject.check(&one, &result).expect_ok();
}

fn routes_have_all_their_attributes(host: &Host) {
    let routes = json!([
        {"dst": "0.0.0.0/0", "mtu": 1400, "advmss": 1300, "priority": 50},
        {"dst": "192.0.2.0/24", "table": 1000},
        {"dst": "198.51.100.0/24", "gw": "10.1.0.1"},
    ]);
    let ipam = conf::with(&conf::leased(&[V4]), json!({"routes": routes}));
    let subject = subject(host, &[V4], json!({"ipam": ipam}));
    let (container, result) = subject.attach("pod");
    let main = container.routes("main").join("\n");
    assert!(
        main.contains("default via 10.1.0.1 dev eth0 metric 50 mtu 1400 advmss 1300"),
        "{main}"
    );
    assert!(main.contains("198.51.100.0/24 via 10.1.0.1 dev eth0"), "{main}");
    assert_eq!(container.routes("1000"), ["192.0.2.0/24 via 10.1.0.1 dev eth0"]);
    subject.check(&container, &result).expect_ok();
    container.exec("ip route del 192.0.2.0/24 table 1000");
    subject.check(&container, &result).expect_error(999, "192.0.2.0/24 via 10.1.0.1 in table 1000");
}

pub(crate) fn ipv6_is_off_where_it_is_unused(host: &Host) {
    let off = subject(host, &[V4], json!({"disableIPv6WhenUnused": true}));
    let (container, result) = off.attach("v4");
    assert!(container.exec("ip -6 address show dev eth0").trim().is_empty());
    off.check(&container, &result).expect_ok();
    container.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    off.check(&container, &result).expect_error(999, "IPv6 is on");
    off.del(&container);
    let both = subject(host, &[V4, V6], json!({"disableIPv6WhenUnused": true, "name": "both"}));
    let (container, result) = both.attach("dual");
    assert!(container.addresses("eth0").contains(&"fd00:1::2/64".to_owned()));
    both.check(&container, &result).expect_ok();
}

/// As hardened hosts have it.
fn ipv6_is_switched_on_at_the_host_end(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let both = subject(host, &[V4, V6], json!({}));
    let (container, result) = both.attach("dual");
    both.check(&container, &result).expect_ok();
    container.expect_ping("fd00:1::1");
}

fn status_asks_ipam(host: &Host) {
    let good = subject(host, &[V4], json!({}));
    host.plugin("ptp").status(&good.conf).expect_ok();
    let full = json!({"ipam": {"type": "host-local", "subnet": "10.2.0.0/30"}});
    let full = Subject { conf: conf::with(&good.conf, full), ..good };
    let (container, _) = full.attach("pod");
    host.plugin("ptp").status(&full.conf).expect_error(50, "");
    full.del(&container);
    host.plugin("ptp").status(&full.conf).expect_ok();
}

fn either_program_checks_and_removes_what_the_other_made(host: &Host) {
    let subject = subject(host, &[V4], json!({"cniVersion": "1.0.0"}));
    let (ours, peers) = (host.plugin("ptp"), host.peer("ptp"));
    let before = host.snapshot();
    for (maker, other) in [(&ours, &peers), (&peers, &ours)] {
        let container = host.container("pod");
        let result = maker.add(&container, "eth0", &subject.conf).expect_result();
        let conf = with_previous_result(&subject.conf, &result);
        other.check(&container, "eth0", &conf).expect_ok();
        other.del(&container, "eth0", &conf).expect_ok();
        assert_eq!((container.links(), subject.leases().len()), (vec!["lo".to_owned()], 0));
        container.destroy();
        host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
    }
}
