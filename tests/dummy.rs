//! The dummy plugin: a link that leads nowhere. It needs a kernel with dummy
//! links: see `scripts/test vm`.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use crate::conf;
use crate::links::{self, Subject};

pub(crate) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    // Debian's package has no such plugin.
    for case in cases! {
        [Dummy, Ping, Ipv6] a_container_has_addresses_of_its_own,
        [Dummy] comes_and_goes_at_every_version,
        [Dummy] many_at_once,
        [Dummy] a_second_add_takes_nothing_away,
        [Dummy] what_cannot_work_is_refused_and_changes_nothing,
        [Dummy, Ipv6] del_works_from_any_state,
        [Dummy] del_accepts_a_bad_configuration,
        [Dummy, Ipv6] ipam_of_others_finds_the_link,
        [Dummy] gc_frees_what_is_not_valid,
        [Dummy, Ipv6] check_names_what_is_missing,
        [Dummy, Ipv6] check_knows_every_kind_of_route,
        [Dummy] dns_is_ipams_or_the_configurations,
        [Dummy] ipv6_is_off_where_it_is_unused,
        [Dummy] status_asks_ipam,
    } {
        list.push(case.ours_only());
    }
    list
}

const V4: &str = "10.1.0.0/24";
const V6: &str = "fd00:1::/64";

fn subject<'a>(host: &'a Host, subnets: &[&str], keys: Value) -> Subject<'a> {
    let base = conf::of_type(host, "dummy", json!({"ipam": conf::leased(subnets)}));
    Subject { host, plugin: "dummy", conf: conf::with(&base, keys) }
}

fn a_container_has_addresses_of_its_own(host: &Host) {
    let (container, result) = subject(host, &[V4, V6], json!({})).attach("pod");
    let link = container.link("eth0").expect("made");
    assert_eq!(link["linkinfo"]["info_kind"], "dummy");
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(1));
    container.exec("ip link set lo up");
    assert!(container.answers_ping("10.1.0.2") && container.answers_ping("fd00:1::2"));
    let server = container.echo_server(80);
    let at = "10.1.0.2:80".parse().expect("an address");
    assert_eq!(container.tcp(at).expect("served").ip().to_string(), "10.1.0.2");
    drop(server);
}

fn comes_and_goes_at_every_version(host: &Host) {
    links::come_and_go_at_every_version(&subject(host, &[V4], json!({})));
}

fn many_at_once(host: &Host) {
    links::many_at_once(&subject(host, &[V4], json!({})));
}

fn a_second_add_takes_nothing_away(host: &Host) {
    links::a_second_add_takes_nothing_away(&subject(host, &[V4], json!({})));
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    let subject = subject(host, &[V4], json!({}));
    let container = host.container("pod");
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    for (keys, code, part) in [
        (json!({"ipam": {}}), 7, "requires an IPAM configuration"),
        (json!({"ipam": {"type": "none-such"}}), 999, "none-such"),
        (json!({"disableIPv6WhenUnused": "yes"}), 7, "disableIPv6WhenUnused"),
        (json!({"ipam": {"type": "static", "addresses": []}}), 999, "no address"),
    ] {
        let conf = conf::with(&subject.conf, keys.clone());
        host.plugin("dummy").add(&container, "eth0", &conf).expect_error(code, part);
        assert!(subject.leases().is_empty(), "{keys}");
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
        container.network_snapshot().expect_same(&inside);
    }
    container.exec("ip link add eth0 type bridge");
    let taken = host.plugin("dummy").add(&container, "eth0", &subject.conf);
    taken.expect_error(999, "the name is already used");
}

fn del_works_from_any_state(host: &Host) {
    links::del_works_from_any_state(&subject(host, &[V4, V6], json!({})));
}

fn del_accepts_a_bad_configuration(host: &Host) {
    let bad = [json!({"disableIPv6WhenUnused": 5}), json!({"dns": "none"})];
    links::del_accepts_a_bad_configuration(&subject(host, &[V4], json!({})), &bad);
}

fn ipam_of_others_finds_the_link(host: &Host) {
    links::ipam_of_others_finds_the_link(&subject(host, &[], json!({})));
}

fn gc_frees_what_is_not_valid(host: &Host) {
    links::gc_keeps_what_is_valid(&subject(host, &[V4], json!({})));
}

fn check_names_what_is_missing(host: &Host) {
    let addresses = json!([
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "fd00:1::2/64"},
    ]);
    let routes = json!([{"dst": "192.0.2.0/24"}]);
    let ipam = json!({"type": "static", "addresses": addresses, "routes": routes});
    let subject = subject(host, &[V4], json!({"ipam": ipam}));
    for (command, part) in [
        ("ip link set eth0 down", "eth0: the link is down"),
        ("ip link set eth0 address 02:00:00:00:00:77", "02:00:00:00:00:77"),
        ("ip link del eth0", "the link is gone"),
        ("ip address del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 is missing"),
        ("ip address del fd00:1::2/64 dev eth0", "fd00:1::2/64 is missing"),
        ("ip route del 192.0.2.0/24", "route to 192.0.2.0/24"),
    ] {
        subject.check_misses(|container, _| drop(container.exec(command)), part);
    }
    let (container, result) = subject.attach("pod");
    container.exec("ip link del eth0");
    container.exec("ip link add eth0 type bridge");
    subject.check(&container, &result).expect_error(999, "bridge link, not dummy");
}

fn check_knows_every_kind_of_route(host: &Host) {
    links::check_knows_every_kind_of_route(&subject(host, &[V4], json!({})));
}

fn dns_is_ipams_or_the_configurations(host: &Host) {
    host.write("/run/resolv.conf", "nameserver 192.0.2.53\n");
    let subject = subject(host, &[V4], json!({"dns": {"nameservers": ["192.0.2.54"]}}));
    let (container, result) = subject.attach("pod");
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.54"]}));
    subject.del(&container);
    let ipam = conf::with(&subject.conf["ipam"], json!({"resolvConf": "/run/resolv.conf"}));
    let both = conf::with(&subject.conf, json!({"ipam": ipam}));
    let result = host.plugin("dummy").add(&container, "eth0", &both).expect_result();
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
}

fn ipv6_is_off_where_it_is_unused(host: &Host) {
    let off = subject(host, &[V4], json!({"disableIPv6WhenUnused": true}));
    let (container, result) = off.attach("v4");
    assert!(container.exec("ip -6 address show dev eth0").trim().is_empty());
    off.check(&container, &result).expect_ok();
    container.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    off.check(&container, &result).expect_error(999, "IPv6 is on");
}

fn status_asks_ipam(host: &Host) {
    let subject = subject(host, &[V4], json!({}));
    host.plugin("dummy").status(&subject.conf).expect_ok();
    let without = conf::with(&subject.conf, json!({"ipam": {}}));
    host.plugin("dummy").status(&without).expect_error(7, "IPAM");
    let missing = conf::with(&subject.conf, json!({"ipam": {"type": "none-such"}}));
    host.plugin("dummy").status(&missing).expect_error(50, "none-such");
}
