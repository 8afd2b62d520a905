//! Addresses, gateways and routes.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns, cases};

use super::{attach, attach_by_hand};
use crate::conf::{bridge, fixed, leased, with};

const V4: &str = "10.1.0.0/24";
const V6: &str = "2001:db8:1::/64";

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ping, Ipv6] without_a_gateway_the_host_is_left_alone,
        [Bridge, Ping, Ipv6] gateways_are_on_the_bridge_and_forward,
        [Bridge, Ping, Ipv6] the_default_gateway_leads_outside,
        [Bridge] a_default_route_with_a_gateway_of_its_own_is_kept,
        [Bridge, Ping] the_gateway_is_the_one_ipam_names,
        [Bridge, Ping] a_missing_gateway_is_the_first_address,
        [Bridge] routes_go_by_the_gateway_or_their_own,
        [Bridge, Ping] an_address_in_the_way_is_an_error,
        [Bridge, Ping] force_address_replaces_what_is_in_the_way,
        [Bridge, Ipv6] an_ipv6_address_is_in_the_way_only_in_the_same_subnet,
        [Bridge] a_second_container_needs_no_second_gateway,
        [Bridge, Ipv6] ipv6_is_switched_on_where_it_is_needed,
        [Bridge] dns_is_the_configurations,
        [Bridge, Ping] a_network_without_ipam_has_no_addresses,
    };
    for case in cases! {
        // Upstream adds the default route again that IPAM's list has without a
        // gateway: "file exists".
        [Bridge, Ping, Ipv6] a_default_route_of_ipams_gets_the_gateway,
        // Upstream's address is refused.
        [Bridge, Ipv6, Ping, RealRoot] ipv6_is_switched_on_at_the_gateway,
        // Upstream lets the second gateway be in the way of the first.
        [Bridge, Ping] two_ranges_have_two_gateways,
        // Upstream lets the kernel take it with the subnet's first.
        [Bridge, Ping] force_address_loses_no_address_that_is_wanted,
        [Bridge, Strace] a_failed_add_gives_back_what_force_address_took,
        // Upstream does not install them: newer than Debian's package, or lost
        // on the way to the kernel.
        [Bridge, Ipv6] routes_keep_all_their_properties,
        // Newer than Debian's package of upstream's.
        [Bridge, Ipv6] addresses_survive_the_link_going_down,
        [Bridge] dns_is_ipams_if_the_configuration_has_none,
        // Upstream uses the last that is written.
        [Bridge] of_several_routes_to_one_destination_the_first_is_used,
        // Upstream waits for two seconds.
        [Bridge, Ping, Ipv6] the_first_packet_finds_the_first_container_of_a_bridge,
        // Upstream configures everything, and then cannot print the result.
        [Bridge] an_old_version_must_have_addresses,
    } {
        list.push(case.ours_only());
    }
    list
}

/// The default routes of the main table.
fn default_routes(place: &impl Netns) -> Vec<String> {
    let routes = place.routes("main").into_iter();
    routes.filter(|route| route.starts_with("default")).collect()
}

fn without_a_gateway_the_host_is_left_alone(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]]});
    let conf = bridge(host, json!({"bridge": "br7", "ipam": ipam}));
    let (one, result) = attach(host, "one", &conf);
    attach(host, "two", &conf);
    assert_eq!(result["interfaces"][0]["name"], "br7");
    assert_eq!(one.addresses("eth0"), ["10.1.0.2/24", "2001:db8:1::2/64"]);
    one.expect_ping("10.1.0.3");
    one.expect_ping("2001:db8:1::3");
    assert_eq!(host.addresses("br7"), Vec::<String>::new());
    assert_eq!(default_routes(&one), Vec::<String>::new());
    assert_eq!(host.sysctl("net/ipv4/ip_forward").as_deref(), Some("0"));
    assert_eq!(host.sysctl("net/ipv6/conf/all/forwarding").as_deref(), Some("0"));
}

fn gateways_are_on_the_bridge_and_forward(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]]});
    let conf = bridge(host, json!({"isGateway": true, "ipam": ipam}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(host.addresses("cni0"), ["10.1.0.1/24", "2001:db8:1::1/64"]);
    let ip = |address: &str, gateway: &str| json!({"address": address, "gateway": gateway, "interface": 2});
    let ips = json!([ip("10.1.0.2/24", "10.1.0.1"), ip("2001:db8:1::2/64", "2001:db8:1::1")]);
    assert_eq!(result["ips"], ips);
    host.wait_for_addresses();
    one.expect_ping("10.1.0.1");
    one.expect_ping("2001:db8:1::1");
    host.expect_ping("10.1.0.2");
    host.expect_ping("2001:db8:1::2");
    assert_eq!(host.sysctl("net/ipv4/ip_forward").as_deref(), Some("1"));
    assert_eq!(host.sysctl("net/ipv6/conf/all/forwarding").as_deref(), Some("1"));
    // A gateway alone is no default route.
    assert_eq!(default_routes(&one), Vec::<String>::new());
}

/// Outside knows the way back, as without masquerading it must.
fn outside_with_a_way_back(host: &Host) -> testkit::Container {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    outside.exec("ip route add 2001:db8:1::/64 via 2001:db8:ffff::1");
    outside
}

fn the_default_gateway_leads_outside(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": V4}], [{"subnet": V6}]]});
    let conf = bridge(host, json!({"isDefaultGateway": true, "ipam": ipam}));
    let _outside = outside_with_a_way_back(host);
    let (one, result) = attach(host, "one", &conf);
    let routes =
        json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "2001:db8:1::1"}]);
    assert_eq!(result["routes"], routes);
    host.wait_for_addresses();
    one.expect_ping("192.0.2.2");
    one.expect_ping("2001:db8:ffff::2");
}

/// And before those that were there already; one may lead to the gateway of another.
fn of_several_routes_to_one_destination_the_first_is_used(host: &Host) {
    let routes = json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.8"}, {"dst": "10.9.0.1/32", "scope": 253},
        {"dst": "0.0.0.0/0", "gw": "10.9.0.1"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]);
    let ipam = with(&fixed(&["10.1.0.2/24"]), json!({"routes": routes}));
    let conf = bridge(host, json!({"ipam": ipam}));
    let one = host.container("one");
    one.exec("ip link add before type bridge");
    one.exec("ip address add 10.7.0.2/24 dev before");
    one.exec("ip link set before up");
    one.exec("ip route add default via 10.7.0.1");
    let before = one.network_snapshot();
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    let gateways = || {
        let routes = one.exec("ip -4 route show default");
        let gateways = routes.lines().filter_map(|line| line.split_whitespace().nth(2));
        gateways.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(gateways(), ["10.1.0.8", "10.9.0.1", "10.1.0.9", "10.7.0.1"]);
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    before.expect_same(&one.network_snapshot());
}

/// The bridge asks for it from a link-local address that is as new as it is.
fn the_first_packet_finds_the_first_container_of_a_bridge(host: &Host) {
    let outside = outside_with_a_way_back(host);
    host.wait_for_addresses();
    outside.wait_for_addresses();
    let conf = bridge(host, json!({"isDefaultGateway": true, "ipam": leased(&[V4, V6])}));
    attach(host, "one", &conf);
    // One packet, with no time for a second.
    assert!(outside.answers_ping("2001:db8:1::2"));
}

fn a_default_route_of_ipams_gets_the_gateway(host: &Host) {
    let conf = bridge(host, json!({"isDefaultGateway": true, "ipam": leased(&[V4, V6])}));
    let _outside = outside_with_a_way_back(host);
    let (one, _) = attach(host, "one", &conf);
    let found = default_routes(&one);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("default via 10.1.0.1 dev eth0"), "{found:?}");
    assert!(found[1].starts_with("default via 2001:db8:1::1 dev eth0"), "{found:?}");
    one.expect_ping("192.0.2.2");
    one.expect_ping("2001:db8:ffff::2");
}

fn a_default_route_with_a_gateway_of_its_own_is_kept(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": V4}]],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]});
    let conf = bridge(host, json!({"isDefaultGateway": true, "ipam": ipam}));
    let (one, _) = attach(host, "one", &conf);
    let found = default_routes(&one);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("default via 10.1.0.9 dev eth0"), "{found:?}");
}

fn the_gateway_is_the_one_ipam_names(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": V4, "gateway": "10.1.0.254"}]]});
    let conf = bridge(host, json!({"isGateway": true, "ipam": ipam}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.254");
    assert_eq!(host.addresses("cni0"), ["10.1.0.254/24"]);
    one.expect_ping("10.1.0.254");
}

fn a_missing_gateway_is_the_first_address(host: &Host) {
    let conf = bridge(host, json!({"isGateway": true, "ipam": fixed(&["10.1.0.77/26"])}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.65");
    assert_eq!(host.addresses("cni0"), ["10.1.0.65/26"]);
    one.expect_ping("10.1.0.65");
}

fn two_ranges_have_two_gateways(host: &Host) {
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&[V4, "10.2.0.0/24"])}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(one.addresses("eth0"), ["10.1.0.2/24", "10.2.0.2/24"]);
    assert_eq!(host.addresses("cni0"), ["10.1.0.1/24", "10.2.0.1/24"]);
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2));
    one.expect_ping("10.1.0.1");
    one.expect_ping("10.2.0.1");
    // The second range's gateway is in nobody's way the second time either.
    let (two, _) = attach(host, "two", &conf);
    two.expect_ping("10.2.0.2");
}

fn routes_go_by_the_gateway_or_their_own(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": V4}]],
        "routes": [{"dst": "10.8.0.0/16"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}]});
    let conf = bridge(host, json!({"isGateway": true, "ipam": ipam}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(result["routes"], ipam["routes"]);
    let found = one.routes("main");
    for wanted in ["10.8.0.0/16 via 10.1.0.1 dev eth0", "10.9.0.0/16 via 10.1.0.9 dev eth0"] {
        assert!(found.iter().any(|route| route.starts_with(wanted)), "{wanted}: {found:?}");
    }
}

fn routes_keep_all_their_properties(host: &Host) {
    let routes = json!([
        {"dst": "10.8.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "10.9.0.0/16", "table": 123},
        {"dst": "10.10.0.0/16", "table": 1000, "gw": "10.1.0.9"},
        {"dst": "10.11.0.0/16", "scope": 253},
        {"dst": "2001:db8:9::/48", "mtu": 1310, "priority": 7},
        {"dst": "2001:db8:a::/48", "table": 123},
    ]);
    let ipam = with(&leased(&[V4, V6]), json!({"routes": routes}));
    let (one, result) =
        attach(host, "one", &bridge(host, json!({"isGateway": true, "ipam": ipam})));
    assert_eq!(result["routes"], routes);
    for (table, wanted) in [
        ("main", "10.8.0.0/16 via 10.1.0.1 dev eth0 metric 77 mtu 1300 advmss 1200"),
        ("123", "10.9.0.0/16 via 10.1.0.1 dev eth0"),
        ("1000", "10.10.0.0/16 via 10.1.0.9 dev eth0"),
        ("main", "10.11.0.0/16 dev eth0 scope link"),
        ("main", "2001:db8:9::/48 via 2001:db8:1::1 dev eth0 metric 7 mtu 1310"),
        ("123", "2001:db8:a::/48 via 2001:db8:1::1 dev eth0"),
    ] {
        // iproute2 also says which protocol a route is of.
        let found = one.routes(table);
        let is_it = |route: &String| {
            let words = route.replace("proto boot ", "").replace("proto static ", "");
            words.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(wanted)
        };
        assert!(found.iter().any(is_it), "{wanted} in table {table}: {found:?}");
    }
}

/// A bridge with an address that no network of ours gave it.
fn bridge_with(host: &Host, addresses: &[&str]) {
    host.exec("ip link add cni0 type bridge");
    host.exec("ip link set cni0 up");
    for address in addresses {
        host.exec(format!("ip address add {address} dev cni0 nodad"));
    }
}

fn an_address_in_the_way_is_an_error(host: &Host) {
    bridge_with(host, &["10.9.0.1/24"]);
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&[V4])}));
    let one = host.container("one");
    let error = host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "cni0");
    if host.has_our_plugins() {
        let msg = error["msg"].as_str().expect("a text");
        for word in ["10.1.0.1/24", "10.9.0.1/24", "forceAddress"] {
            assert!(msg.contains(word), "{msg}");
        }
    }
    assert_eq!(host.addresses("cni0"), ["10.9.0.1/24"]);
    // The address that is wanted is no other address.
    let conf = with(&conf, json!({"ipam": leased(&["10.9.0.0/24"])}));
    let (two, _) = attach(host, "two", &conf);
    two.expect_ping("10.9.0.1");
}

fn force_address_replaces_what_is_in_the_way(host: &Host) {
    bridge_with(host, &["10.9.0.1/24", "10.9.1.1/24"]);
    let conf =
        bridge(host, json!({"isGateway": true, "forceAddress": true, "ipam": leased(&[V4])}));
    let (one, _) = attach(host, "one", &conf);
    assert_eq!(host.addresses("cni0"), ["10.1.0.1/24"]);
    one.expect_ping("10.1.0.1");
}

/// The kernel takes the others of a subnet away with the first of them.
fn force_address_loses_no_address_that_is_wanted(host: &Host) {
    bridge_with(host, &["10.1.0.9/24", "10.1.0.1/24", "10.1.0.8/24"]);
    let addresses = json!([{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "10.2.0.2/24", "gateway": "10.2.0.1"}]);
    let ipam = json!({"type": "static", "addresses": addresses});
    let conf = bridge(host, json!({"isGateway": true, "forceAddress": true, "ipam": ipam}));
    let (one, _) = attach(host, "one", &conf);
    let mut found = host.addresses("cni0");
    found.sort();
    assert_eq!(found, ["10.1.0.1/24", "10.2.0.1/24"]);
    one.expect_ping("10.1.0.1");
    one.expect_ping("10.2.0.1");
}

fn a_failed_add_gives_back_what_force_address_took(host: &Host) {
    let one = host.container("one");
    let ipam = json!({"type": "static", "addresses":
        [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]});
    let conf = bridge(host, json!({"isGateway": true, "forceAddress": true, "ipam": ipam}));
    bridge_with(host, &["10.9.0.1/24", "10.9.0.2/24", "10.9.1.1/24"]);
    host.exec("ip address add 10.8.0.1/24 brd + label cni0:x dev cni0");
    let before = host.exec("ip -4 address show dev cni0 scope global");
    for nth in 1.. {
        let outcome =
            host.plugin("bridge").fail_call("sendto", "ENOBUFS", nth).add(&one, "eth0", &conf);
        if !outcome.fault_fired() {
            assert!(nth > 5, "{nth} calls");
            outcome.expect_result();
            break;
        }
        let after = host.exec("ip -4 address show dev cni0 scope global");
        if outcome.success() {
            // An announcement that did not go out; the next one starts anew.
            host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
            host.exec("ip address flush dev cni0");
            for address in ["10.9.0.1/24", "10.9.0.2/24", "10.9.1.1/24"] {
                host.exec(format!("ip address add {address} dev cni0 nodad"));
            }
            host.exec("ip address add 10.8.0.1/24 brd + label cni0:x dev cni0");
            continue;
        }
        let of = |text: &str| -> Vec<String> {
            text.lines().filter(|l| l.contains("inet ")).map(|l| l.trim().to_owned()).collect()
        };
        assert_eq!(of(&after), of(&before), "call {nth}\n{outcome}");
    }
}

fn an_ipv6_address_is_in_the_way_only_in_the_same_subnet(host: &Host) {
    bridge_with(host, &["2001:db8:9::1/64", "fd00::1/48"]);
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&[V6])}));
    attach(host, "one", &conf);
    let now = ["2001:db8:1::1/64", "2001:db8:9::1/64", "fd00::1/48"];
    let mut found = host.addresses("cni0");
    found.sort();
    assert_eq!(found, now);

    let other = json!({"name": "other", "ipam": leased(&["2001:db8:9:0:8000::/65"])});
    let two = host.container("two");
    let failed = host.plugin("bridge").add(&two, "eth0", &with(&conf, other.clone()));
    failed.expect_error(999, "cni0");
    let other = with(&with(&conf, other), json!({"forceAddress": true}));
    host.plugin("bridge").add(&two, "eth1", &other).expect_result();
    let found = host.addresses("cni0");
    assert!(!found.contains(&"2001:db8:9::1/64".to_owned()), "{found:?}");
    assert!(found.contains(&"fd00::1/48".to_owned()), "{found:?}");
}

fn a_second_container_needs_no_second_gateway(host: &Host) {
    let conf = bridge(
        host,
        json!({"isDefaultGateway": true, "ipam": {"type": "host-local", "subnet": V4}}),
    );
    attach(host, "one", &conf);
    let (addresses, mac) = (host.addresses("cni0"), host.mac("cni0"));
    attach(host, "two", &conf);
    assert_eq!((host.addresses("cni0"), host.mac("cni0")), (addresses, mac));
}

/// As docker makes its namespaces.
fn ipv6_is_switched_on_where_it_is_needed(host: &Host) {
    let one = host.container("one");
    one.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    one.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/disable_ipv6").as_deref(), Some("1"));
    assert_eq!(one.sysctl("net/ipv6/conf/lo/disable_ipv6").as_deref(), Some("1"));
    let conf = bridge(host, json!({"ipam": fixed(&["10.2.0.2/24", "2001:db8:1::2/64"])}));
    host.plugin("bridge").add(&one, "eth1", &conf).expect_result();
    assert_eq!(one.addresses("eth1"), ["10.2.0.2/24", "2001:db8:1::2/64"]);
    assert_eq!(one.sysctl("net/ipv6/conf/lo/disable_ipv6").as_deref(), Some("0"));
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/disable_ipv6").as_deref(), Some("1"));
}

/// As hardened hosts are; the failed ADD is one whose forwarding cannot be switched on.
fn ipv6_is_switched_on_at_the_gateway(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    host.exec("ip link add cni0 type bridge");
    let off = || host.sysctl("net/ipv6/conf/cni0/disable_ipv6");
    let ipam = json!({"type": "static", "addresses": [
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"}]});
    let conf = bridge(host, json!({"isGateway": true, "ipam": ipam}));
    assert_eq!(off().as_deref(), Some("1"));
    let one = host.container("one");
    let forwarding = "/proc/sys/net/ipv6/conf/all/forwarding";
    host.exec(format!("mount --bind -o ro {forwarding} {forwarding}"));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "forwarding");
    host.exec(format!("umount {forwarding}"));
    assert_eq!((off().as_deref(), host.addresses("cni0")), (Some("1"), vec![]));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    one.expect_ping("2001:db8:1::1");
}

fn addresses_survive_the_link_going_down(host: &Host) {
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}));
    let (one, _) = attach(host, "one", &conf);
    let addresses = one.addresses("eth0");
    assert_eq!(addresses, ["10.1.0.2/24", "2001:db8:1::2/64"]);
    one.exec("ip link set eth0 down");
    one.exec("ip link set eth0 up");
    assert_eq!(one.addresses("eth0"), addresses);
    assert_eq!(one.sysctl("net/ipv4/conf/eth0/arp_notify").as_deref(), Some("1"));
}

fn dns(nameserver: &str) -> Value {
    json!({"nameservers": [nameserver], "domain": "example.com"})
}

fn dns_is_the_configurations(host: &Host) {
    let ipam = with(&fixed(&["10.1.0.2/24"]), json!({"dns": dns("10.9.9.9")}));
    let conf = bridge(host, json!({"ipam": ipam, "dns": dns("10.1.1.1")}));
    let (_, result) = attach(host, "one", &conf);
    assert_eq!(result["dns"], dns("10.1.1.1"));
}

fn dns_is_ipams_if_the_configuration_has_none(host: &Host) {
    let ipam = with(&fixed(&["10.1.0.2/24"]), json!({"dns": dns("10.9.9.9")}));
    let conf = bridge(host, json!({"ipam": ipam}));
    let (_, result) = attach(host, "one", &conf);
    assert_eq!(result["dns"], dns("10.9.9.9"));
    // A list that is given counts even when it is empty.
    let (_, result) = attach(host, "two", &with(&conf, json!({"dns": {"search": []}})));
    assert_eq!(result["dns"], Value::Null);
}

fn a_network_without_ipam_has_no_addresses(host: &Host) {
    let conf = bridge(host, json!({"isGateway": true}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!((&result["ips"], &result["routes"]), (&Value::Null, &Value::Null));
    assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(3));
    assert_eq!(one.addresses("eth0"), Vec::<String>::new());
    assert_eq!(host.addresses("cni0"), Vec::<String>::new());
    assert_eq!(host.sysctl("net/ipv4/ip_forward").as_deref(), Some("0"));
    assert_eq!(one.sysctl("net/ipv4/conf/eth0/arp_notify").as_deref(), Some("0"));
    // The link is up: who brings addresses can talk at once.
    one.exec("ip address add 10.1.0.2/24 dev eth0");
    let two = attach_by_hand(host, "two", &conf, &["10.1.0.3/24"]);
    two.expect_ping("10.1.0.2");
}

fn an_old_version_must_have_addresses(host: &Host) {
    let before = host.snapshot();
    let one = host.container("one");
    for version in ["0.1.0", "0.2.0", ""] {
        let conf = bridge(host, json!({"cniVersion": version}));
        host.plugin("bridge").add(&one, "eth0", &conf).expect_error(7, "ipam");
        host.expect_unchanged_but(&before, &["/run/netns"]);
    }
}
