//! What plugins keep for a link beside its addresses and routes: the shim on the host,
//! the MTU, IPv6 switched off.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{states, write};
use crate::cnitool::{cnitool, ok};
use crate::conf::with;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Macvlan, Ipv6] a_shim_comes_back,
        [Ipvlan, Ipv6] a_shim_of_ipvlans_comes_back,
        [Macvlan, Ipv6] no_shim_is_made_for_a_link_that_is_gone,
        [Macvlan, Tun, Ipv6] the_mtu_comes_back,
        [Macvlan, Tun, Ipv6] ipv6_is_switched_off_again,
        [Vlan, Ipvlan, Dummy, Ipv6] ipv6_of_other_links_is_switched_off_again,
    }
}

fn fixed(addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|a| json!({"address": a})).collect();
    json!({"type": "static", "addresses": addresses})
}

/// Two containers share the shim: what is taken from one or both comes back.
fn expect_shim_repaired(host: &Host, keys: &Value, damages: &[&str]) {
    let containers = ["one", "two"].map(|name| host.container(name));
    for (container, ip) in containers.iter().zip(["10", "11"]) {
        let addresses = [format!("192.0.2.{ip}/24"), format!("2001:db8:ffff::{ip}/64")];
        let ipam = json!({"ipam": fixed(&addresses.each_ref().map(String::as_str))});
        write(host, json!([with(keys, ipam)]));
        ok(host, &format!("add net {}", container.path().display()));
        container.wait_for_addresses();
    }
    let shim = host.links().into_iter().find(|name| name.starts_with("shim")).expect("made");
    let before = host.snapshot();
    let inside = containers.each_ref().map(|container| container.network_snapshot());
    for damage in damages {
        let damage = damage.replace("SHIM", &shim);
        host.note(damage.as_str());
        host.exec(&damage);
        assert!(states(host, "restore --json").iter().any(|(state, _)| state == "restored"));
        // The link-local address of an ipvlan is another for each that is made.
        host.expect_unchanged_but(&before, &["fe80::"]);
        for (container, inside) in containers.iter().zip(&inside) {
            inside.expect_same(&container.network_snapshot());
        }
        assert!(states(host, "restore --json").iter().all(|(state, _)| state == "complete"));
    }
    for container in &containers {
        ok(host, &format!("del net {}", container.path().display()));
    }
    assert!(!host.links().contains(&shim));
    containers.iter().for_each(testkit::Container::destroy);
}

fn a_shim_comes_back(host: &Host) {
    drop(host.outside());
    host.wait_for_addresses();
    let keys = json!({"type": "macvlan", "master": "uplink", "hostShim": true});
    let damages = [
        "ip route del 192.0.2.10 dev SHIM",
        "ip -6 route del 2001:db8:ffff::11 dev SHIM",
        "ip link set SHIM down",
        "ip link del SHIM",
        "ip -n one neighbour del 2001:db8:ffff::1 dev eth0",
    ];
    expect_shim_repaired(host, &keys, &damages);
    // With an address of its own.
    let keys = with(&keys, json!({"hostShimAddresses": ["192.0.2.99", "2001:db8:ffff::99"]}));
    let damages = [
        "ip addr del 192.0.2.99/32 dev SHIM",
        "ip -6 addr flush dev SHIM scope global",
        "ip link del SHIM",
    ];
    expect_shim_repaired(host, &keys, &damages);
}

fn a_shim_of_ipvlans_comes_back(host: &Host) {
    drop(host.outside());
    host.wait_for_addresses();
    let keys = json!({"type": "ipvlan", "master": "uplink", "hostShim": true});
    let damages = [
        "ip route del 192.0.2.10 dev SHIM",
        "ip neighbour del 192.0.2.11 dev SHIM",
        "ip link set SHIM down",
        "ip link del SHIM",
        "ip -n one neighbour del 192.0.2.1 dev eth0",
    ];
    expect_shim_repaired(host, &keys, &damages);
    let keys = with(&keys, json!({"mode": "l3"}));
    expect_shim_repaired(host, &keys, &["ip route del 192.0.2.10 dev SHIM", "ip link del SHIM"]);
}

fn no_shim_is_made_for_a_link_that_is_gone(host: &Host) {
    drop(host.outside());
    let keys = json!({"type": "macvlan", "master": "uplink", "hostShim": true,
        "ipam": fixed(&["192.0.2.10/24"])});
    write(host, json!([keys]));
    let one = host.container("one");
    ok(host, "add net /run/netns/one");
    one.exec("ip link del eth0");
    let shim = host.links().into_iter().find(|name| name.starts_with("shim")).expect("made");
    host.exec(format!("ip link del {shim}"));
    let output = cnitool(host, "restore");
    assert!(!output.success() && output.stderr.contains("the link is gone"), "{output}");
    assert!(!host.links().contains(&shim));
}

fn attach(host: &Host, keys: &Value, name: &str) -> testkit::Container {
    host.note(keys.to_string());
    let address = json!({"address": "10.1.0.2/24", "gateway": "10.1.0.1"});
    write(host, json!([with(keys, json!({"ipam": {"type": "static", "addresses": [address]}}))]));
    let container = host.container(name);
    ok(host, &format!("add net {}", container.path().display()));
    container
}

fn the_mtu_comes_back(host: &Host) {
    drop(host.outside());
    for (name, keys) in [
        ("one", json!({"type": "tap", "mtu": 1400})),
        ("two", json!({"type": "macvlan", "master": "uplink", "mtu": 1400})),
    ] {
        let container = attach(host, &keys, name);
        for mtu in [1300, 1500] {
            container.exec(format!("ip link set eth0 mtu {mtu}"));
            assert_eq!(states(host, "restore --json")[0].0, "restored", "{mtu}");
            assert_eq!(container.link("eth0").expect("there")["mtu"], 1400);
        }
        ok(host, &format!("del net {}", container.path().display()));
    }
}

fn expect_ipv6_off_again(host: &Host, plugins: &[(&str, Value)]) {
    for (number, (plugin, keys)) in plugins.iter().enumerate() {
        let keys = with(keys, json!({"type": plugin, "disableIPv6WhenUnused": true}));
        let container = attach(host, &keys, &format!("pod{number}"));
        assert_eq!(container.exec("ip -6 address show dev eth0"), "");
        container.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
        assert_eq!(states(host, "restore --json")[0].0, "restored", "{plugin}");
        assert_eq!(container.exec("ip -6 address show dev eth0"), "", "{plugin}");
        assert_eq!(container.sysctl("net/ipv6/conf/eth0/disable_ipv6").as_deref(), Some("1"));
        assert_eq!(states(host, "restore --json")[0].0, "complete", "{plugin}");
        ok(host, &format!("del net {}", container.path().display()));
    }
}

fn ipv6_is_switched_off_again(host: &Host) {
    drop(host.outside());
    host.exec("ip link add ens5 type veth peer name wire5");
    host.exec("ip link set wire5 up");
    let plugins = [
        ("macvlan", json!({"master": "uplink"})),
        ("tap", json!({})),
        ("host-device", json!({"device": "ens5"})),
        ("ptp", json!({})),
    ];
    expect_ipv6_off_again(host, &plugins);
}

fn ipv6_of_other_links_is_switched_off_again(host: &Host) {
    drop(host.outside());
    let plugins = [
        ("vlan", json!({"master": "uplink", "vlanId": 7})),
        ("ipvlan", json!({"master": "uplink"})),
        ("dummy", json!({})),
    ];
    expect_ipv6_off_again(host, &plugins);
}
