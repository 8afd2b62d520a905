//! CHECK: passes for what ADD made, and names what is missing of it.

use serde_json::{Value, json};
use testkit::Feature::{self, Bridge, BridgeVlan, Ipv6};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use super::{attach, host_end};
use crate::conf::{bridge, with};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge] a_previous_result_is_needed,
        [Bridge] more_than_was_promised_is_no_fault,
        [Bridge] a_broken_lease_is_ipams_to_tell,
    };
    list.extend(
        cases! {
            // Upstream's CHECK asks the IPAM plugin that there is not.
            [Bridge] a_network_without_ipam_can_be_checked,
            // Upstream looks for a route without one.
            [Bridge] a_route_goes_by_the_gateway_that_it_does_not_name,
            // Upstream compares the paths as texts.
            [Bridge] a_namespace_has_several_paths,
        }
        .into_iter()
        .map(Case::ours_only),
    );
    list.extend(Damage::all().into_iter().map(Damage::case));
    list
}

/// Something that ADD made and that is not so any more.
struct Damage {
    name: &'static str,
    /// Keys beside those of every attachment here.
    keys: Value,
    needs: &'static [Feature],
    /// What is done, `port` being the host end's name.
    done: fn(&Host, &Container, &str),
    /// What the error says, `PORT` being the host end's name.
    says: &'static [&'static str],
    ours_only: bool,
}

fn damage(
    name: &'static str,
    done: fn(&Host, &Container, &str),
    says: &'static [&'static str],
) -> Damage {
    Damage { name, keys: json!({}), needs: &[Bridge], done, says, ours_only: false }
}

impl Damage {
    fn keys(self, keys: Value) -> Damage {
        Damage { keys, ..self }
    }

    fn needs(self, needs: &'static [Feature]) -> Damage {
        Damage { needs, ..self }
    }

    /// Upstream's CHECK does not look at it.
    fn ours_only(self) -> Damage {
        Damage { ours_only: true, ..self }
    }

    fn all() -> Vec<Damage> {
        let v6 = || json!({"ipam": ipam(&["2001:db8:1::2/64"], &["2001:db8:9::/48"])});
        vec![
            damage(
                "address",
                |_, one, _| drop(one.exec("ip address del 10.1.0.2/24 dev eth0")),
                &["10.1.0.2/24", "eth0"],
            ),
            damage(
                "prefix_length",
                |_, one, _| {
                    one.exec("ip address del 10.1.0.2/24 dev eth0");
                    one.exec("ip address add 10.1.0.2/25 dev eth0");
                },
                &["10.1.0.2/24"],
            ),
            damage(
                "ipv6_address",
                |_, one, _| drop(one.exec("ip address del 2001:db8:1::2/64 dev eth0")),
                &["2001:db8:1::2/64"],
            )
            .keys(v6())
            .needs(&[Bridge, Ipv6]),
            damage(
                "route",
                |_, one, _| drop(one.exec("ip route del 10.9.0.0/16")),
                &["10.9.0.0/16"],
            ),
            damage(
                "ipv6_route",
                |_, one, _| drop(one.exec("ip route del 2001:db8:9::/48")),
                &["2001:db8:9::/48"],
            )
            .keys(v6())
            .needs(&[Bridge, Ipv6]),
            damage(
                "route_by_another_gateway",
                |_, one, _| {
                    one.exec("ip route replace 10.9.0.0/16 via 10.1.0.77");
                },
                &["10.9.0.0/16"],
            )
            .ours_only(),
            damage(
                "route_in_a_table",
                |_, one, _| drop(one.exec("ip route flush table 77")),
                &["10.9.0.0/16", "77"],
            )
            .keys(json!({"ipam": {"type": "static",
                "addresses": [{"address": "10.1.0.2/24"}],
                "routes": [{"dst": "10.9.0.0/16", "table": 77}]}}))
            .ours_only(),
            damage(
                "container_link",
                |_, one, _| {
                    one.exec("ip link set eth0 down");
                    one.exec("ip link set eth0 name renamed");
                },
                &["eth0"],
            ),
            damage(
                "container_link_down",
                |_, one, _| drop(one.exec("ip link set eth0 down")),
                &["eth0"],
            ),
            damage(
                "container_link_of_another_kind",
                |_, one, _| {
                    one.exec("ip link del eth0");
                    one.exec("ip link add eth0 type bridge");
                },
                &["eth0"],
            ),
            damage(
                "container_mac",
                |_, one, _| drop(one.exec("ip link set eth0 address 02:00:00:00:00:99")),
                &["eth0", "02:00:00:00:00:99"],
            ),
            damage(
                "container_mtu",
                |_, one, _| drop(one.exec("ip link set eth0 mtu 1300")),
                &["eth0", "1300"],
            )
            .keys(json!({"mtu": 1400}))
            .ours_only(),
            damage(
                "host_end",
                |_, one, _| {
                    one.exec("ip link del eth0");
                    one.exec("ip link add eth0 type veth peer name other");
                },
                &["eth0"],
            ),
            damage(
                "host_mac",
                |host, _, port| {
                    host.exec(format!("ip link set {port} address 02:00:00:00:00:99"));
                },
                &["PORT"],
            ),
            damage(
                "host_end_down",
                |host, _, port| drop(host.exec(format!("ip link set {port} down"))),
                &["PORT"],
            )
            .ours_only(),
            damage(
                "port_accepts_router_advertisements",
                |host, _, port| {
                    host.set_sysctl(&format!("net/ipv6/conf/{port}/accept_ra"), "1");
                },
                &["PORT", "router advertisements"],
            )
            .needs(&[Bridge, Ipv6])
            .ours_only(),
            damage(
                "port",
                |host, _, port| drop(host.exec(format!("ip link set {port} nomaster"))),
                &["cni0"],
            ),
            damage(
                "port_of_another_bridge",
                |host, _, port| {
                    host.exec("ip link add cni1 type bridge");
                    host.exec(format!("ip link set {port} master cni1"));
                },
                &["cni0"],
            ),
            damage(
                "hairpin",
                |host, _, port| {
                    host.exec(format!("bridge link set dev {port} hairpin off"));
                },
                &["PORT", "hairpin"],
            )
            .keys(json!({"hairpinMode": true}))
            .ours_only(),
            damage(
                "isolation",
                |host, _, port| {
                    host.exec(format!("bridge link set dev {port} isolated off"));
                },
                &["PORT", "isolated"],
            )
            .keys(json!({"portIsolation": true}))
            .ours_only(),
            damage("bridge", |host, _, _| drop(host.exec("ip link del cni0")), &["cni0"]),
            damage(
                "bridge_of_another_kind",
                |host, _, _| {
                    host.exec("ip link del cni0");
                    host.exec("ip link add cni0 type veth peer name other");
                },
                &["cni0"],
            ),
            damage("bridge_down", |host, _, _| drop(host.exec("ip link set cni0 down")), &["cni0"])
                .ours_only(),
            damage(
                "bridge_mac",
                |host, _, _| drop(host.exec("ip link set cni0 address 02:00:00:00:00:99")),
                &["cni0", "02:00:00:00:00:99"],
            )
            .ours_only(),
            damage(
                "bridge_promisc",
                |host, _, _| drop(host.exec("ip link set cni0 promisc off")),
                &["cni0"],
            )
            .keys(json!({"promiscMode": true})),
            damage(
                "bridge_accepts_router_advertisements",
                |host, _, _| {
                    host.set_sysctl("net/ipv6/conf/cni0/accept_ra", "1");
                },
                &["cni0", "router advertisements"],
            )
            .needs(&[Bridge, Ipv6])
            .ours_only(),
            damage(
                "gateway",
                |host, _, _| drop(host.exec("ip address flush dev cni0")),
                &["10.1.0.1/24", "cni0"],
            )
            .ours_only(),
            damage(
                "forwarding",
                |host, _, _| host.set_sysctl("net/ipv4/ip_forward", "0"),
                &["ip_forward"],
            )
            .ours_only(),
            damage(
                "ipv6_forwarding",
                |host, _, _| {
                    host.set_sysctl("net/ipv6/conf/all/forwarding", "0");
                },
                &["forwarding"],
            )
            .keys(v6())
            .needs(&[Bridge, Ipv6])
            .ours_only(),
            damage(
                "vlan",
                |host, _, port| drop(host.exec(format!("bridge vlan del dev {port} vid 7"))),
                &["PORT", "VLAN 7"],
            )
            .keys(vlans())
            .needs(&[Bridge, BridgeVlan])
            .ours_only(),
            damage(
                "vlan_tagged_otherwise",
                |host, _, port| {
                    host.exec(format!("bridge vlan add dev {port} vid 100 untagged"));
                },
                &["PORT", "VLAN 100"],
            )
            .keys(vlans())
            .needs(&[Bridge, BridgeVlan])
            .ours_only(),
            damage(
                "vlan_too_many",
                |host, _, port| {
                    host.exec(format!("bridge vlan add dev {port} vid 8"));
                },
                &["PORT", "VLAN 8"],
            )
            .keys(vlans())
            .needs(&[Bridge, BridgeVlan])
            .ours_only(),
            damage(
                "vlan_filtering",
                |host, _, _| {
                    host.exec("ip link set cni0 type bridge vlan_filtering 0");
                },
                &["cni0", "VLAN filtering"],
            )
            .keys(vlans())
            .needs(&[Bridge, BridgeVlan])
            .ours_only(),
            damage(
                "vlan_gateway",
                |host, _, _| drop(host.exec("ip link del cni0.100")),
                &["cni0.100"],
            )
            .keys(vlans())
            .needs(&[Bridge, BridgeVlan])
            .ours_only(),
        ]
    }

    fn case(self) -> Case {
        let ours_only = self.ours_only;
        let name = format!("bridge::check::notices_{}", self.name);
        let case = Case::new(name, self.needs, move |host| self.is_noticed(host));
        if ours_only { case.ours_only() } else { case }
    }

    fn is_noticed(&self, host: &Host) {
        let conf = with(&conf(host), self.keys.clone());
        let (one, result) = attach(host, "one", &conf);
        let checked = with_previous_result(&conf, &result);
        let plugin = host.plugin("bridge");
        plugin.check(&one, "eth0", &checked).expect_ok();
        let port = host_end(&result);
        (self.done)(host, &one, &port);
        let failed = plugin.check(&one, "eth0", &checked);
        let words = if host.has_our_plugins() { self.says } else { &[] };
        failed.expect_error(999, "");
        for word in words {
            failed.expect_error(999, &word.replace("PORT", &port));
        }
        // Whatever was broken, it can be taken down.
        plugin.del(&one, "eth0", &checked).expect_ok();
        let files = host.files("/var/lib/cni/networks/net");
        assert!(!files.iter().any(|name| name.starts_with("10.")), "{files:?}");
    }
}

fn vlans() -> Value {
    json!({"vlan": 100, "vlanTrunk": [{"id": 7}]})
}

fn ipam(addresses: &[&str], routes: &[&str]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|address| json!({"address": address})).collect();
    let gateway = |dst: &str| if dst.contains(':') { "2001:db8:1::1" } else { "10.1.0.1" };
    let routes: Vec<_> = routes.iter().map(|dst| json!({"dst": dst, "gw": gateway(dst)})).collect();
    json!({"type": "static", "addresses": addresses, "routes": routes})
}

fn conf(host: &Host) -> Value {
    bridge(host, json!({"isGateway": true, "ipam": ipam(&["10.1.0.2/24"], &["10.9.0.0/16"])}))
}

fn a_previous_result_is_needed(host: &Host) {
    let conf = conf(host);
    let (one, result) = attach(host, "one", &conf);
    let plugin = host.plugin("bridge");
    let code = if host.has_our_plugins() { 7 } else { 999 };
    plugin.check(&one, "eth0", &conf).expect_error(code, "prevResult");
    // One that tells of something else is as good as none.
    plugin.check(&one, "eth1", &with_previous_result(&conf, &result)).expect_error(999, "");
    let other = with(&conf, json!({"bridge": "cni1"}));
    plugin.check(&one, "eth0", &with_previous_result(&other, &result)).expect_error(999, "");
    let mut elsewhere = result.clone();
    elsewhere["interfaces"][2]["sandbox"] = json!("/run/netns/two");
    plugin.check(&one, "eth0", &with_previous_result(&conf, &elsewhere)).expect_error(999, "");
}

fn more_than_was_promised_is_no_fault(host: &Host) {
    let conf = conf(host);
    let (one, result) = attach(host, "one", &conf);
    one.exec("ip address add 10.2.0.2/24 dev eth0");
    one.exec("ip route add 10.7.0.0/16 via 10.1.0.1");
    host.exec("ip address add 10.6.0.1/24 dev cni0");
    attach(host, "two", &with(&conf, json!({"ipam": ipam(&["10.1.0.3/24"], &[])})));
    let checked = with_previous_result(&conf, &result);
    host.plugin("bridge").check(&one, "eth0", &checked).expect_ok();
}

fn a_broken_lease_is_ipams_to_tell(host: &Host) {
    let conf = bridge(host, json!({"ipam": crate::conf::leased(&["10.1.0.0/24"])}));
    let (one, result) = attach(host, "one", &conf);
    let checked = with_previous_result(&conf, &result);
    host.plugin("bridge").check(&one, "eth0", &checked).expect_ok();
    host.exec("rm /var/lib/cni/networks/net/10.1.0.2");
    host.plugin("bridge").check(&one, "eth0", &checked).expect_error(999, "");
}

fn a_network_without_ipam_can_be_checked(host: &Host) {
    let conf = bridge(host, json!({}));
    let (one, result) = attach(host, "one", &conf);
    let checked = with_previous_result(&conf, &result);
    host.plugin("bridge").check(&one, "eth0", &checked).expect_ok();
    one.exec("ip link set eth0 down");
    host.plugin("bridge").check(&one, "eth0", &checked).expect_error(999, "eth0");
    // Where it is to be down, that is as promised.
    let disabled = with(&checked, json!({"disableContainerInterface": true}));
    host.plugin("bridge").check(&one, "eth0", &disabled).expect_ok();
}

fn a_namespace_has_several_paths(host: &Host) {
    let conf = conf(host);
    let (one, result) = attach(host, "one", &conf);
    host.exec("ln -s /run/netns /run/also");
    let checked = with_previous_result(&conf, &result);
    let plugin = host.plugin("bridge").env("CNI_NETNS", "/run/also/one");
    plugin.check(&one, "eth0", &checked).expect_ok();
}

fn a_route_goes_by_the_gateway_that_it_does_not_name(host: &Host) {
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.0.2/24"}],
        "routes": [{"dst": "10.9.0.0/16"}]});
    let conf = with(&conf(host), json!({"ipam": ipam}));
    let (one, result) = attach(host, "one", &conf);
    let checked = with_previous_result(&conf, &result);
    host.plugin("bridge").check(&one, "eth0", &checked).expect_ok();
    one.exec("ip route replace 10.9.0.0/16 via 10.1.0.77");
    host.plugin("bridge").check(&one, "eth0", &checked).expect_error(999, "10.9.0.0/16");
}
