//! Links: the bridge, the veth pair, the port.

use std::time::Duration;

use serde_json::json;
use testkit::{Case, Frame, Host, Netns as _, Payload, cases, with_previous_result};

use super::{attach, attach_by_hand, host_end, port, ports};
use crate::conf::{bridge, fixed, leased, with};

/// Frames of IPv4.
const IPV4: u16 = 0x0800;

/// How long is listened for a frame that must not come.
const SILENCE: Duration = Duration::from_millis(300);

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge] the_result_names_the_links_that_there_are,
        [Bridge] the_mac_is_the_configured_one,
        [Bridge] the_bridge_is_called_cni0,
        [Bridge, Ping] mtu_is_of_both_ends_and_of_a_new_bridge,
        [Bridge, Ping] hairpin_mode_sends_frames_back,
        [Bridge, Ping] promisc_mode_lets_the_bridge_hear_all,
        [Bridge] hairpin_and_promisc_exclude_each_other,
        [Bridge] a_bridge_that_is_there_is_used,
        [Bridge, Ping] a_bridge_that_is_down_is_set_up,
        [Bridge] a_link_that_is_no_bridge_is_refused,
        [Bridge, Ipv6] router_advertisements_are_not_accepted,
    };
    for case in cases! {
        // Upstream leaves the host end without a queue (0).
        [Bridge] both_ends_have_a_transmit_queue,
        // Upstream's names are random, and it leaves no alias.
        [Bridge] the_host_end_is_named_after_the_attachment,
        // Upstream's has a link-local one, which nobody can reach.
        [Bridge, Ipv6] the_host_end_has_no_ipv6_address,
        // Upstream only pins it when it adds a gateway address, and not even
        // then once the bridge has been without ports.
        [Bridge] the_bridges_mac_is_stable,
        // Newer than Debian's package of upstream's.
        [Bridge, Ping] isolated_ports_reach_the_gateway_only,
        [Bridge] a_disabled_container_interface_stays_down,
        [Bridge] a_disabled_container_interface_excludes_ipam,
        // Upstream waits for the carrier only; frames are still dropped then.
        [Bridge, Ping] add_waits_for_the_spanning_tree,
        // Upstream takes them as they are, and the kernel's text for an answer.
        [Bridge] an_impossible_mac_is_refused_before_anything_is_done,
        [Bridge, Ipv6] an_mtu_too_small_for_ipv6_is_named,
    } {
        list.push(case.ours_only());
    }
    list
}

fn the_result_names_the_links_that_there_are(host: &Host) {
    let conf = bridge(host, json!({"ipam": leased(&["10.1.0.0/24"])}));
    let (one, result) = attach(host, "one", &conf);
    let [bridge, outer, inner] = result["interfaces"].as_array().expect("a list").as_slice() else {
        panic!("not three links: {result}");
    };
    assert_eq!(bridge["name"], "cni0");
    assert_eq!(bridge["mac"], host.mac("cni0"));
    let outer_name = outer["name"].as_str().expect("a name");
    assert_eq!(outer["mac"], host.mac(outer_name));
    assert_eq!(
        *inner,
        json!({"name": "eth0", "mac": one.mac("eth0"), "sandbox": "/run/netns/one"})
    );
    assert_eq!(ports(host, "cni0"), [outer_name]);
    let (outer, inner) = (host.link(outer_name), one.link("eth0"));
    let [outer, inner] = [outer, inner].map(|link| link.expect("it is there"));
    assert_eq!(outer["link_index"], inner["ifindex"]);
    assert_eq!(inner["link_index"], outer["ifindex"]);
    for link in [outer, inner] {
        assert_eq!(link["linkinfo"]["info_kind"], "veth");
        assert_eq!(link["operstate"], "UP");
        assert_eq!(link["mtu"], 1500);
    }
}

fn both_ends_have_a_transmit_queue(host: &Host) {
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(one.link("eth0").expect("it is there")["txqlen"], 1000);
    assert_eq!(host.link(&host_end(&result)).expect("it is there")["txqlen"], 1000);
}

fn the_host_end_is_named_after_the_attachment(host: &Host) {
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let (one, result) = attach(host, "one", &conf);
    let name = host_end(&result);
    assert_eq!(host.link(&name).expect("it is there")["ifalias"], "oxcni:net/ctr-one/eth0");
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    let again = host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    assert_eq!(host_end(&again), name);
    // Another interface, another network: another name.
    let other = with(&conf, json!({"name": "other"}));
    let second = host.plugin("bridge").add(&one, "eth1", &other).expect_result();
    assert_ne!(host_end(&second), name);
}

fn the_host_end_has_no_ipv6_address(host: &Host) {
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&["2001:db8:1::/64"])}));
    let (one, result) = attach(host, "one", &conf);
    let shown = |link: &str| format!("ip -6 -o address show dev {link}");
    // ADD has waited for duplicate address detection of the other ones.
    assert_eq!(host.exec(shown(&host_end(&result))), "");
    assert!(one.exec(shown("eth0")).contains(" fe80:"));
    // A link with a smaller MTU has no IPv6 at all.
    let conf = with(
        &conf,
        json!({"name": "small", "bridge": "cni1", "mtu": 1000,
        "ipam": leased(&["10.1.0.0/24"])}),
    );
    let (two, result) = attach(host, "two", &conf);
    assert_eq!(host.exec(shown(&host_end(&result))), "");
    host.plugin("bridge")
        .check(&two, "eth0", &with(&conf, json!({"prevResult": result})))
        .expect_ok();
}

fn the_mac_is_the_configured_one(host: &Host) {
    let (by_args, by_conf, by_runtime) =
        ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c");
    let in_conf = json!({"args": {"cni": {"mac": by_conf}}});
    let both = json!({"args": {"cni": {"mac": by_conf}}, "runtimeConfig": {"mac": by_runtime}});
    let upper = json!({"args": {"cni": {"mac": "02-00-00-00-0F-AB"}}});
    let conf = bridge(host, json!({}));
    for (number, (args, keys, wanted)) in [
        ("", json!({}), None),
        ("MAC=02:00:00:00:00:0a", json!({}), Some(by_args)),
        ("MAC=;IgnoreUnknown=1;K8S_POD_NAME=one", json!({}), None),
        ("", in_conf.clone(), Some(by_conf)),
        ("MAC=02:00:00:00:00:0a", in_conf, Some(by_conf)),
        ("MAC=02:00:00:00:00:0a", both, Some(by_runtime)),
        ("", upper, Some("02:00:00:00:0f:ab")),
    ]
    .into_iter()
    .enumerate()
    {
        let container = host.container(&format!("c{number}"));
        let plugin = host.plugin("bridge").args(args);
        let result = plugin.add(&container, "eth0", &with(&conf, keys.clone())).expect_result();
        let mac = container.mac("eth0");
        assert_eq!(result["interfaces"][2]["mac"], mac);
        assert!(wanted.is_none_or(|wanted| wanted == mac), "{args} {keys}: {mac}");
    }
}

fn an_impossible_mac_is_refused_before_anything_is_done(host: &Host) {
    let one = host.container("one");
    let before = host.snapshot();
    for mac in
        ["02:00:00:00:00", "x", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"]
    {
        let conf = bridge(host, json!({"runtimeConfig": {"mac": mac}}));
        host.plugin("bridge").add(&one, "eth0", &conf).expect_error(7, mac);
    }
    host.expect_unchanged(&before);
}

fn an_mtu_too_small_for_ipv6_is_named(host: &Host) {
    let one = host.container("one");
    let conf = bridge(host, json!({"mtu": 1279, "ipam": fixed(&["2001:db8:1::2/64"])}));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(7, "mtu of 1280");
    assert_eq!(one.links(), ["lo"]);
}

fn the_bridge_is_called_cni0(host: &Host) {
    let mut conf = bridge(host, json!({}));
    conf.as_object_mut().expect("an object").remove("bridge");
    let (_, result) = attach(host, "one", &conf);
    assert_eq!(result["interfaces"][0]["name"], "cni0");
    assert_eq!(host.link("cni0").expect("it is made")["linkinfo"]["info_kind"], "bridge");
}

fn mtu_is_of_both_ends_and_of_a_new_bridge(host: &Host) {
    let ipam = leased(&["10.1.0.0/24"]);
    let conf = bridge(host, json!({"mtu": 1400, "isGateway": true, "ipam": ipam}));
    let (one, result) = attach(host, "one", &conf);
    for link in [one.link("eth0"), host.link(&host_end(&result)), host.link("cni0")] {
        assert_eq!(link.expect("it is there")["mtu"], 1400);
    }
    // 20 bytes of IPv4 header and 8 of ICMP.
    one.exec("ping -n -c 1 -w 5 -M do -s 1372 10.1.0.1");
    let too_long = one.try_exec("ping -n -c 1 -w 5 -M do -s 1373 10.1.0.1");
    assert!(!too_long.success(), "{too_long}");
    // Upstream's way: a negative one is none.
    let (two, _) = attach(host, "two", &with(&conf, json!({"mtu": -1})));
    assert_eq!(two.link("eth0").expect("it is there")["mtu"], 1500);
}

/// Whether a frame that one sends to all comes back to it.
fn comes_back(host: &Host, hairpin: bool) -> bool {
    let name = format!("br{}", u8::from(hairpin));
    let conf = bridge(
        host,
        json!({"bridge": name, "name": name, "hairpinMode": hairpin,
        "ipam": fixed(&["10.1.0.2/24"])}),
    );
    let (one, result) = attach(host, &format!("one{name}"), &conf);
    assert_eq!(port(host, &host_end(&result))["hairpin"], hairpin);
    let mac = one.mac("eth0");
    let capture = one.capture();
    // Nobody has the address, so it is asked for by ARP until ping gives up.
    assert!(!one.answers_ping("10.1.0.99"));
    let back = |frame: &Frame| !frame.outgoing && frame.source == mac;
    capture.wait_for(SILENCE, back).is_some()
}

fn hairpin_mode_sends_frames_back(host: &Host) {
    assert!(!comes_back(host, false));
    assert!(comes_back(host, true));
}

/// Whether the bridge itself hears what two new containers say to each other.
fn overhears(host: &Host, name: &str, promisc: bool, addresses: [&str; 2]) -> bool {
    let conf = bridge(host, json!({"bridge": name, "promiscMode": promisc}));
    let [one, two] = addresses.map(|address| {
        let ipam = json!({"ipam": fixed(&[&format!("{address}/24")])});
        attach(host, &format!("{name}-{address}"), &with(&conf, ipam)).0
    });
    one.expect_ping(addresses[1]);
    let index = host.link(name).expect("the bridge")["ifindex"].as_u64().expect("a number");
    let macs = [one.mac("eth0"), two.mac("eth0")];
    let capture = host.capture();
    one.expect_ping(addresses[1]);
    let heard = |frame: &Frame| {
        frame.ifindex as u64 == index
            && frame.payload == Payload::Other(IPV4)
            && macs.contains(&frame.source)
    };
    capture.wait_for(SILENCE, heard).is_some()
}

fn promisc_mode_lets_the_bridge_hear_all(host: &Host) {
    assert!(!overhears(host, "br0", false, ["10.1.0.2", "10.1.0.3"]));
    assert!(overhears(host, "br1", true, ["10.1.0.2", "10.1.0.3"]));
    assert!(host.exec("ip link show br1").contains("PROMISC"));
    // It is switched on where the bridge exists; never off.
    assert!(overhears(host, "br1", false, ["10.1.0.4", "10.1.0.5"]));
    assert!(overhears(host, "br0", true, ["10.1.0.4", "10.1.0.5"]));
}

fn hairpin_and_promisc_exclude_each_other(host: &Host) {
    let one = host.container("one");
    let before = host.snapshot();
    let conf = bridge(host, json!({"hairpinMode": true, "promiscMode": true}));
    let code = if host.has_our_plugins() { 7 } else { 999 };
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(code, "hairpin");
    host.expect_unchanged(&before);
}

fn isolated_ports_reach_the_gateway_only(host: &Host) {
    let isolated = bridge(
        host,
        json!({"isGateway": true, "portIsolation": true,
        "ipam": leased(&["10.1.0.0/24"])}),
    );
    let open = with(&isolated, json!({"portIsolation": false}));
    let (one, result) = attach(host, "one", &isolated);
    let (two, _) = attach(host, "two", &isolated);
    let (three, other) = attach(host, "three", &open);
    assert_eq!(port(host, &host_end(&result))["isolated"], true);
    assert_eq!(port(host, &host_end(&other))["isolated"], false);
    for container in [&one, &two, &three] {
        container.expect_ping("10.1.0.1");
    }
    assert!(!one.answers_ping("10.1.0.3"));
    assert!(!two.answers_ping("10.1.0.2"));
    one.expect_ping("10.1.0.4");
    three.expect_ping("10.1.0.2");
    three.expect_ping("10.1.0.3");
}

fn a_disabled_container_interface_stays_down(host: &Host) {
    let conf = bridge(host, json!({"disableContainerInterface": true}));
    let (one, result) = attach(host, "one", &conf);
    let flags = one.link("eth0").expect("it is there")["flags"].clone();
    assert!(!flags.as_array().expect("flags").contains(&json!("UP")), "{flags}");
    let flags = host.link(&host_end(&result)).expect("it is there")["flags"].clone();
    assert!(flags.as_array().expect("flags").contains(&json!("UP")), "{flags}");
}

fn a_disabled_container_interface_excludes_ipam(host: &Host) {
    let one = host.container("one");
    let before = host.snapshot();
    let conf = bridge(
        host,
        json!({"disableContainerInterface": true,
        "ipam": fixed(&["10.1.0.2/24"])}),
    );
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(7, "disableContainerInterface");
    if host.has_our_plugins() {
        host.plugin("bridge").status(&conf).expect_error(7, "disableContainerInterface");
    }
    host.expect_unchanged(&before);
}

fn the_bridges_mac_is_stable(host: &Host) {
    // Layer 2, where no gateway address pins it.
    let conf = bridge(host, json!({}));
    let containers: Vec<_> = (0..4).map(|n| host.container(&format!("c{n}"))).collect();
    let result = host.plugin("bridge").add(&containers[0], "eth0", &conf).expect_result();
    let mac = host.mac("cni0");
    assert_eq!(result["interfaces"][0]["mac"], mac);
    for container in &containers[1..] {
        host.plugin("bridge").add(container, "eth0", &conf).expect_result();
        assert_eq!(host.mac("cni0"), mac);
    }
    for container in &containers {
        host.plugin("bridge").del(container, "eth0", &conf).expect_ok();
        assert_eq!(host.mac("cni0"), mac);
    }
    let gateway = with(&conf, json!({"isGateway": true, "ipam": leased(&["10.1.0.0/24"])}));
    host.plugin("bridge").add(&containers[0], "eth0", &gateway).expect_result();
    assert_eq!(host.mac("cni0"), mac);

    // One that somebody else made follows its ports until it is a gateway.
    host.exec("ip link add cni1 type bridge");
    let gateway = with(&gateway, json!({"bridge": "cni1", "name": "other"}));
    host.plugin("bridge").add(&containers[1], "eth0", &gateway).expect_result();
    let mac = host.mac("cni1");
    for container in &containers[2..] {
        let result = host.plugin("bridge").add(container, "eth0", &gateway).expect_result();
        assert_eq!(result["interfaces"][0]["mac"], mac);
    }
    host.plugin("bridge").del(&containers[1], "eth0", &gateway).expect_ok();
    assert_eq!(host.mac("cni1"), mac);

    // Or if it is one already.
    host.exec("ip link add cni2 type bridge");
    host.exec("ip link set cni2 up");
    host.exec("ip address add 10.2.0.1/24 dev cni2");
    let mac = host.mac("cni2");
    let keys = json!({"bridge": "cni2", "name": "third", "ipam": leased(&["10.2.0.0/24"])});
    let gateway = with(&gateway, keys);
    let added: Vec<_> = (0..6)
        .map(|n| {
            let container = host.container(&format!("g{n}"));
            let result = host.plugin("bridge").add(&container, "eth0", &gateway).expect_result();
            assert_eq!(
                (&result["interfaces"][0]["mac"], host.mac("cni2")),
                (&json!(mac), mac.clone())
            );
            (container, result)
        })
        .collect();
    for (container, result) in &added {
        let conf = with_previous_result(&gateway, result);
        host.plugin("bridge").check(container, "eth0", &conf).expect_ok();
    }
}

fn a_bridge_that_is_there_is_used(host: &Host) {
    host.exec("ip link add cni0 address 02:00:00:00:00:01 mtu 1450 type bridge ageing_time 4242");
    host.exec("ip link set cni0 up");
    let conf = bridge(host, json!({"ipam": leased(&["10.1.0.0/24"])}));
    let (_, result) = attach(host, "one", &conf);
    let bridge = host.link("cni0").expect("it is there");
    assert_eq!(bridge["linkinfo"]["info_data"]["ageing_time"], 4242);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:01");
    assert_eq!(bridge["address"], "02:00:00:00:00:01");
}

fn a_bridge_that_is_down_is_set_up(host: &Host) {
    host.exec("ip link add cni0 type bridge");
    let conf = bridge(host, json!({}));
    let one = attach_by_hand(host, "one", &conf, &["10.1.0.2/24"]);
    attach_by_hand(host, "two", &conf, &["10.1.0.3/24"]);
    one.expect_ping("10.1.0.3");
}

fn a_link_that_is_no_bridge_is_refused(host: &Host) {
    host.exec("ip link add cni0 type veth peer name other");
    let one = host.container("one");
    let before = host.snapshot();
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&["10.1.0.0/24"])}));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "cni0");
    host.expect_unchanged(&before);
    // What cannot be attached can be taken down.
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
}

fn router_advertisements_are_not_accepted(host: &Host) {
    // Hosts that are routers may still want to hear their own.
    host.set_sysctl("net/ipv6/conf/default/accept_ra", "2");
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&["2001:db8:1::/64"])}));
    let (_, result) = attach(host, "one", &conf);
    for link in ["cni0", &host_end(&result)] {
        let accepted = host.sysctl(&format!("net/ipv6/conf/{link}/accept_ra"));
        assert_eq!(accepted.as_deref(), Some("0"), "{link}");
    }
    // Also on a bridge that was there.
    host.exec("ip link add cni1 type bridge");
    let conf = with(&conf, json!({"bridge": "cni1", "name": "other"}));
    attach(host, "two", &conf);
    assert_eq!(host.sysctl("net/ipv6/conf/cni1/accept_ra").as_deref(), Some("0"));
}

fn add_waits_for_the_spanning_tree(host: &Host) {
    // In hundredths of a second, the least there is: 2 s of listening and 2 s
    // of learning.
    host.exec("ip link add cni0 type bridge stp_state 1 forward_delay 200");
    let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&["10.1.0.0/24"])}));
    let (one, result) = attach(host, "one", &conf);
    assert_eq!(port(host, &host_end(&result))["state"], "forwarding");
    one.exec("ping -n -c 1 -W 1 10.1.0.1");
}
