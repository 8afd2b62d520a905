//! The vlan plugin: containers in a VLAN of a link of the host. It needs a
//! kernel with 802.1Q: see `scripts/test vm`.

use std::net::IpAddr;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use crate::conf;
use crate::links::{self, Subject, settled_outside};

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Vlan, Ping] a_container_stands_in_its_vlan,
        [Vlan] comes_and_goes_at_every_version,
    };
    for case in cases! {
        [Vlan] the_host_may_have_a_link_of_the_same_name,
        [Vlan, Ping] the_parent_may_be_in_the_container,
        [Vlan, Ping] the_parent_may_go_by_an_alternative_name,
        [Vlan, Ipv6] addresses_are_announced,
        [Vlan] a_second_add_takes_nothing_away,
        [Vlan] who_has_a_vlan_is_named,
        [Vlan] several_vlans_of_a_parent_at_once,
        [Vlan] what_cannot_work_is_refused_and_changes_nothing,
        [Vlan, Ipv6] del_works_from_any_state,
        [Vlan] del_accepts_a_bad_configuration,
        [Vlan] del_needs_no_parent,
        [Vlan, Ipv6] ipam_of_others_finds_the_link,
        [Vlan] gc_frees_what_is_not_valid,
        [Vlan, Ipv6] check_names_what_is_missing,
        [Vlan, Ipv6] check_knows_every_kind_of_route,
        [Vlan] dns_is_the_configurations_or_ipams,
        [Vlan] ipv6_is_off_where_it_is_unused,
        [Vlan] status_looks_at_the_parent_and_asks_ipam,
        [Vlan, PeerPlugins] either_program_checks_and_removes_what_the_other_made,
    } {
        list.push(case.ours_only());
    }
    list
}

const STAYS: &[&str] = &["/var/lib/cni", "/run/netns"];

const V4: &str = "10.5.0.0/24";
const V6: &str = "fd00:5::/64";

/// In VLAN 5 of `uplink`, which [`Host::outside`] has made.
fn subject<'a>(host: &'a Host, subnets: &[&str], keys: Value) -> Subject<'a> {
    let base = json!({"master": "uplink", "vlanId": 5, "ipam": conf::leased(subnets)});
    let base = conf::of_type(host, "vlan", base);
    Subject { host, plugin: "vlan", conf: conf::with(&base, keys) }
}

/// Puts outside into the VLAN as the gateway.
fn gateway(outside: &Container, id: u16) {
    outside.exec(format!("ip link add link uplink name vlan{id} type vlan id {id}"));
    outside.exec(format!("ip address add 10.5.0.1/24 dev vlan{id}"));
    outside.exec(format!("ip address add fd00:5::1/64 dev vlan{id} nodad"));
    outside.exec(format!("ip link set vlan{id} up"));
}

fn a_container_stands_in_its_vlan(host: &Host) {
    let outside = host.outside();
    gateway(&outside, 5);
    let (container, result) = subject(host, &[V4], json!({"mtu": 1400})).attach("pod");
    let link = container.link("eth0").expect("made");
    assert_eq!(link["linkinfo"]["info_kind"], "vlan");
    assert_eq!(link["linkinfo"]["info_data"]["id"], 5);
    assert_eq!(link["linkinfo"]["info_data"]["protocol"], "802.1Q");
    assert_eq!(link["mtu"], 1400);
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1));
    container.expect_ping("10.5.0.1");
    outside.expect_ping("10.5.0.2");
    outside.exec("ip link del vlan5");
    gateway(&outside, 6);
    assert!(!container.answers_ping("10.5.0.1"), "that is another VLAN");
}

fn comes_and_goes_at_every_version(host: &Host) {
    drop(settled_outside(host));
    links::come_and_go_at_every_version(&subject(host, &[V4], json!({})));
}

fn the_parent_may_be_in_the_container(host: &Host) {
    let outside = host.outside();
    gateway(&outside, 5);
    let container = host.container("pod");
    host.exec("ip link set uplink netns pod");
    container.exec("ip link set uplink up");
    let subject = subject(host, &[V4], json!({"linkInContainer": true}));
    let result = subject.add(&container);
    container.expect_ping("10.5.0.1");
    subject.check(&container, &result).expect_ok();
    subject.del(&container);
    assert_eq!(container.links(), ["lo", "uplink"]);
    container.exec("ip link add link uplink name there type vlan id 5");
    let refused = host.plugin("vlan").add(&container, "eth0", &subject.conf);
    refused.expect_error(999, "already used by there in the same container");
}

fn the_parent_may_go_by_an_alternative_name(host: &Host) {
    gateway(&host.outside(), 5);
    host.exec("ip link property add dev uplink altname enp0s31f6np0-of-the-first-card");
    let keys = json!({"master": "enp0s31f6np0-of-the-first-card"});
    let subject = subject(host, &[V4], keys);
    let (container, result) = subject.attach("pod");
    container.expect_ping("10.5.0.1");
    subject.check(&container, &result).expect_ok();
}

fn addresses_are_announced(host: &Host) {
    let outside = host.outside();
    gateway(&outside, 5);
    let capture = outside.capture();
    let (container, _) = subject(host, &[V4, V6], json!({})).attach("pod");
    let mac = container.mac("eth0");
    let v4: IpAddr = "10.5.0.2".parse().expect("an address");
    let v6: IpAddr = "fd00:5::2".parse().expect("an address");
    assert_eq!(capture.expect_announcement(v4).source, mac);
    assert_eq!(capture.expect_announcement(v6).source, mac);
}

fn the_host_may_have_a_link_of_the_same_name(host: &Host) {
    drop(host.outside());
    host.exec("ip link set uplink down");
    host.exec("ip link set uplink name eth0");
    host.exec("ip link set eth0 up");
    let subject = subject(host, &[V4], json!({"master": "eth0"}));
    let (container, result) = subject.attach("pod");
    subject.check(&container, &result).expect_ok();
    let other = conf::with(&subject.conf, json!({"ipam": {"type": "none-such"}}));
    let second = host.container("second");
    assert!(!host.plugin("vlan").add(&second, "eth0", &other).success());
    assert_eq!(second.links(), ["lo"]);
    subject.del(&container);
    assert_eq!(
        (container.links(), host.links()),
        (vec!["lo".into()], vec!["lo".into(), "eth0".into()])
    );
}

fn a_second_add_takes_nothing_away(host: &Host) {
    drop(host.outside());
    links::a_second_add_takes_nothing_away(&subject(host, &[V4], json!({})));
}

fn who_has_a_vlan_is_named(host: &Host) {
    drop(host.outside());
    let subject = subject(host, &[V4], json!({}));
    let (one, _) = subject.attach("one");
    let two = host.container("two");
    let refuse = |part: &str| {
        host.plugin("vlan").add(&two, "eth0", &subject.conf).expect_error(999, part);
        assert_eq!(two.links(), ["lo"]);
    };
    refuse(
        "VLAN 5 of uplink is already used by eth0 in /run/netns/one, of container ctr-one on network net",
    );
    assert_eq!(subject.leases().len(), 1);
    subject.del(&one);
    host.exec("ip link add link uplink name own type vlan id 5");
    refuse("already used by own on the host");
    host.exec("ip link del own");
    subject.add(&two);
}

fn several_vlans_of_a_parent_at_once(host: &Host) {
    drop(settled_outside(host));
    let containers: Vec<_> = (0..6_u16).map(|n| host.container(&format!("pod{n}"))).collect();
    let before = host.snapshot();
    let subject = subject(host, &[V4], json!({}));
    let conf = |n: usize| conf::with(&subject.conf, json!({"vlanId": 10 + n}));
    host.parallel(6, |n| {
        host.plugin("vlan").add(&containers[n], "eth0", &conf(n)).expect_result();
    });
    for (n, container) in containers.iter().enumerate() {
        let link = container.link("eth0").expect("made");
        assert_eq!(link["linkinfo"]["info_data"]["id"], 10 + n);
    }
    host.parallel(6, |n| {
        host.plugin("vlan").del(&containers[n], "eth0", &conf(n)).expect_ok();
    });
    assert!(subject.leases().is_empty());
    host.expect_unchanged_but(&before, STAYS);
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    drop(settled_outside(host));
    host.exec("ip link add idle type veth peer name eldi");
    host.container("elsewhere").exec("ip link add there type bridge");
    let subject = subject(host, &[V4], json!({}));
    let container = host.container("pod");
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    for (keys, code, part) in [
        (json!({"master": ""}), 7, "\"master\" field is required"),
        (json!({"master": "none-such"}), 999, "none-such"),
        (json!({"master": "idle"}), 999, "idle: it is down"),
        (json!({"master": "there"}), 999, "there is no there on the host"),
        (json!({"master": "uplink", "linkInContainer": true}), 999, "in the container"),
        (json!({"master": "lo"}), 999, "loopback"),
        (json!({"vlanId": 0}), 7, "invalid VLAN ID 0: vlanId must be between 1 and 4094"),
        (json!({"vlanId": null}), 7, "invalid VLAN ID 0"),
        (json!({"vlanId": 4095}), 7, "invalid VLAN ID 4095"),
        (json!({"vlanId": -1}), 7, "invalid VLAN ID -1"),
        (json!({"mtu": 1501}), 7, "must be [0, master MTU(1500)]"),
        (json!({"mtu": -1}), 7, "-1"),
        (json!({"ipam": {}}), 7, "ipam.type"),
        (json!({"ipam": {"type": "none-such"}}), 999, "none-such"),
    ] {
        let conf = conf::with(&subject.conf, keys.clone());
        host.plugin("vlan").add(&container, "eth0", &conf).expect_error(code, part);
        assert!(subject.leases().is_empty(), "{keys}");
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
        container.network_snapshot().expect_same(&inside);
    }
    container.exec("ip link add eth0 type bridge");
    let taken = host.plugin("vlan").add(&container, "eth0", &subject.conf);
    taken.expect_error(999, "the name is already used");
}

fn del_works_from_any_state(host: &Host) {
    drop(settled_outside(host));
    links::del_works_from_any_state(&subject(host, &[V4, V6], json!({})));
}

fn del_accepts_a_bad_configuration(host: &Host) {
    drop(settled_outside(host));
    let bad = [
        json!({"master": ""}),
        json!({"master": "none-such"}),
        json!({"vlanId": 0}),
        json!({"vlanId": 4095}),
        json!({"mtu": 9000}),
    ];
    links::del_accepts_a_bad_configuration(&subject(host, &[V4], json!({})), &bad);
}

fn del_needs_no_parent(host: &Host) {
    let outside = host.outside();
    let subject = subject(host, &[V4], json!({}));
    let (container, _) = subject.attach("pod");
    outside.exec("ip link del uplink");
    host.wait_until("the link went with its parent", || container.links() == ["lo"]);
    subject.del(&container);
    assert!(subject.leases().is_empty());
}

fn ipam_of_others_finds_the_link(host: &Host) {
    drop(settled_outside(host));
    links::ipam_of_others_finds_the_link(&subject(host, &[], json!({})));
}

fn gc_frees_what_is_not_valid(host: &Host) {
    drop(host.outside());
    let subject = subject(host, &[V4], json!({}));
    let (container, _) = subject.attach("pod");
    container.destroy();
    let gc = |valid: Value| {
        let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": valid}));
        host.plugin("vlan").gc(&conf).expect_ok();
    };
    gc(json!([{"containerID": container.id(), "ifname": "eth0"}]));
    assert_eq!(subject.leases().len(), 1);
    gc(json!([]));
    assert!(subject.leases().is_empty());
}

fn check_names_what_is_missing(host: &Host) {
    drop(host.outside());
    let addresses = json!([
        {"address": "10.5.0.2/24", "gateway": "10.5.0.1"},
        {"address": "fd00:5::2/64", "gateway": "fd00:5::1"},
    ]);
    let routes = conf::leased(&[V4, V6])["routes"].clone();
    let ipam = json!({"type": "static", "addresses": addresses, "routes": routes});
    let subject = subject(host, &[V4], json!({"ipam": ipam, "mtu": 1400}));
    for (command, part) in [
        ("ip link set eth0 down", "eth0: the link is down"),
        ("ip link set eth0 mtu 1300", "mtu is 1300"),
        ("ip link set eth0 address 02:00:00:00:00:77", "02:00:00:00:00:77"),
        ("ip link del eth0", "the link is gone"),
        ("ip address del 10.5.0.2/24 dev eth0", "address 10.5.0.2/24 is missing"),
        ("ip address del fd00:5::2/64 dev eth0", "fd00:5::2/64 is missing"),
        ("ip route del default", "route to 0.0.0.0/0"),
        ("ip -6 route del default", "route to ::/0"),
    ] {
        subject.check_misses(|container, _| drop(container.exec(command)), part);
    }
    host.exec("ip link add other type veth peer name rehto");
    let (container, result) = subject.attach("pod");
    for (keys, part) in [
        (json!({"master": "other"}), "its parent is not other"),
        (json!({"vlanId": 6}), "its VLAN ID is 5, promised was 6"),
    ] {
        let conf = with_previous_result(&conf::with(&subject.conf, keys), &result);
        host.plugin("vlan").check(&container, "eth0", &conf).expect_error(999, part);
    }
}

fn check_knows_every_kind_of_route(host: &Host) {
    drop(host.outside());
    links::check_knows_every_kind_of_route(&subject(host, &[V4], json!({})));
}

fn dns_is_the_configurations_or_ipams(host: &Host) {
    drop(host.outside());
    links::dns_is_the_configurations_or_ipams(&subject(host, &[V4], json!({})));
}

fn ipv6_is_off_where_it_is_unused(host: &Host) {
    drop(host.outside());
    let off = subject(host, &[V4], json!({"disableIPv6WhenUnused": true}));
    let (container, result) = off.attach("v4");
    assert!(container.exec("ip -6 address show dev eth0").trim().is_empty());
    off.check(&container, &result).expect_ok();
    container.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    off.check(&container, &result).expect_error(999, "IPv6 is on");
}

fn status_looks_at_the_parent_and_asks_ipam(host: &Host) {
    let subject = subject(host, &[V4], json!({}));
    let status = |keys: Value| host.plugin("vlan").status(&conf::with(&subject.conf, keys));
    status(json!({})).expect_error(50, "uplink");
    status(json!({"master": ""})).expect_error(7, "required");
    drop(host.outside());
    status(json!({})).expect_ok();
    host.exec("ip link set uplink down");
    status(json!({})).expect_error(50, "uplink: it is down");
    status(json!({"linkInContainer": true})).expect_ok();
    status(json!({"linkInContainer": true, "ipam": {}})).expect_error(7, "ipam.type");
}

fn either_program_checks_and_removes_what_the_other_made(host: &Host) {
    drop(settled_outside(host));
    let subject = subject(host, &[V4], json!({"cniVersion": "1.0.0"}));
    let (ours, peers) = (host.plugin("vlan"), host.peer("vlan"));
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
