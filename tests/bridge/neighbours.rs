//! What the neighbours hear: announcements, questions about duplicates.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Case, Container, Frame, Host, Netns, Payload, cases, with_previous_result};

use super::{attach, attach_by_hand};
use crate::conf::{bridge, fixed, leased, with};

/// How long a frame may take that must come.
const BOUND: Duration = Duration::from_secs(5);

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ipv6] no_address_of_a_container_is_tentative,
    };
    for case in cases! {
        // Upstream's announcements are made while the port does not forward
        // yet, and none of IPv6: who knew the address under another MAC talks to
        // nobody for some seconds.
        [Bridge, Ipv6] addresses_are_announced_to_the_other_ports,
        [Bridge] an_address_without_a_gateway_is_announced_to_the_host,
        [Bridge, Ping] a_container_is_found_under_its_new_mac,
        // Upstream lets the gateway be checked for duplicates for a second or
        // two, in which it does not answer.
        [Bridge, Ipv6, Ping] the_gateway_answers_at_once,
        [Bridge, Ping] the_gateway_of_many_at_once_has_one_address,
        // Newer than Debian's package of upstream's.
        [Bridge, Ipv6] a_unique_address_is_asked_about_and_used,
        [Bridge, Ipv6] a_duplicate_address_is_named_and_nothing_is_left,
    } {
        list.push(case.ours_only());
    }
    list
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addresses_are_announced_to_the_other_ports(host: &Host) {
    let conf = bridge(host, json!({"isGateway": true}));
    let ipam = |last: u8| {
        let addresses = [format!("10.1.0.{last}/24"), format!("2001:db8:1::{last}/64")];
        json!({"ipam": fixed(&addresses.each_ref().map(String::as_str))})
    };
    let (two, _) = attach(host, "two", &with(&conf, ipam(3)));
    // One for each address: they come in any order.
    let (v4, v6, on_host) = (two.capture(), two.capture(), host.capture());
    let (one, _) = attach(host, "one", &with(&conf, ipam(2)));
    let mac = one.mac("eth0");
    assert_eq!(v4.expect_announcement(ip("10.1.0.2")).source, mac);
    assert_eq!(v6.expect_announcement(ip("2001:db8:1::2")).source, mac);
    // The bridge itself, which is the gateway, hears it as well.
    let index = host.link("cni0").expect("the bridge")["ifindex"].as_u64().expect("a number");
    let on_bridge =
        |frame: &Frame| frame.ifindex as u64 == index && frame.announces(ip("10.1.0.2"));
    assert!(on_host.wait_for(BOUND, on_bridge).is_some());
}

/// Without a gateway, too: the host may have an address there of its own.
fn an_address_without_a_gateway_is_announced_to_the_host(host: &Host) {
    host.exec("ip link add cni0 type bridge");
    host.exec("ip address add 10.1.0.1/24 dev cni0");
    let capture = host.capture();
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let (one, _) = attach(host, "one", &conf);
    assert_eq!(capture.expect_announcement(ip("10.1.0.2")).source, one.mac("eth0"));
}

/// Who talked to the address's last owner is not left talking to nobody.
fn a_container_is_found_under_its_new_mac(host: &Host) {
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let two = attach_by_hand(host, "two", &bridge(host, json!({})), &["10.1.0.3/24"]);
    let (one, _) = attach(host, "one", &conf);
    two.expect_ping("10.1.0.2");
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    let (again, _) = attach(host, "again", &conf);
    assert_ne!(two_knows(&two), Value::Null);
    two.expect_ping("10.1.0.2");
    assert_eq!(two_knows(&two), again.mac("eth0"));
}

/// The MAC that container two has for 10.1.0.2.
fn two_knows(two: &Container) -> Value {
    let entries = two.ip("neighbour show dev eth0");
    let entry = entries.iter().find(|entry| entry["dst"] == "10.1.0.2");
    entry.map_or(Value::Null, |entry| entry["lladdr"].clone())
}

/// Addresses that duplicate address detection is not done with, link-local
/// ones left out.
fn tentative(place: &impl Netns, link: &str) -> Vec<Value> {
    let links = place.ip(&format!("-6 address show dev {link} tentative scope global"));
    address_infos(&links)
}

/// iproute2 leaves an empty object for each address that it filters out.
fn address_infos(links: &[Value]) -> Vec<Value> {
    let infos = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    infos.filter(|info| !info["local"].is_null()).cloned().collect()
}

fn no_address_of_a_container_is_tentative(host: &Host) {
    let conf = bridge(host, json!({"ipam": fixed(&["2001:db8:1::2/64", "2001:db8:2::2/64"])}));
    let (one, _) = attach(host, "one", &conf);
    assert_eq!(tentative(&one, "eth0"), Vec::<Value>::new());
    assert_eq!(one.addresses("eth0").len(), 2);
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/accept_dad").as_deref(), Some("0"));
}

/// On a bridge of others, which follows the addresses of its ports.
fn the_gateway_of_many_at_once_has_one_address(host: &Host) {
    for address in ["", "10.1.0.1/24", ""] {
        host.exec("ip link add cni0 type bridge");
        host.exec("ip link set cni0 up");
        if !address.is_empty() {
            host.exec(format!("ip address add {address} dev cni0"));
        }
        let conf = bridge(host, json!({"isGateway": true, "ipam": leased(&["10.1.0.0/24"])}));
        let pods: Vec<_> = (0..6).map(|n| host.container(&format!("pod{n}"))).collect();
        let results = Mutex::new(BTreeMap::new());
        host.parallel(pods.len(), |n| {
            let result = host.plugin("bridge").add(&pods[n], "eth0", &conf).expect_result();
            pods[n].expect_ping("10.1.0.1");
            results.lock().expect("nobody failed").insert(n, result);
        });
        for (n, result) in results.into_inner().expect("nobody failed") {
            let conf = with_previous_result(&conf, &result);
            host.plugin("bridge").check(&pods[n], "eth0", &conf).expect_ok();
            pods[n].expect_ping("10.1.0.1");
            host.plugin("bridge").del(&pods[n], "eth0", &conf).expect_ok();
            pods[n].destroy();
        }
        host.exec("ip link del cni0");
    }
}

fn the_gateway_answers_at_once(host: &Host) {
    let ipam = fixed(&["2001:db8:1::2/64"]);
    let conf = bridge(host, json!({"isDefaultGateway": true, "ipam": ipam}));
    let (one, _) = attach(host, "one", &conf);
    assert_eq!(tentative(&one, "eth0"), Vec::<Value>::new());
    assert_eq!(tentative(host, "cni0"), Vec::<Value>::new());
    one.exec("ping -n -c 1 -W 1 2001:db8:1::1");
}

fn a_unique_address_is_asked_about_and_used(host: &Host) {
    let conf = bridge(host, json!({"enabledad": true, "ipam": fixed(&["2001:db8:1::2/64"])}));
    let (two, _) = attach(host, "two", &bridge(host, json!({})));
    let capture = two.capture();
    let (one, _) = attach(host, "one", &conf);
    assert_eq!(tentative(&one, "eth0"), Vec::<Value>::new());
    let target: Ipv6Addr = "2001:db8:1::2".parse().expect("an address");
    let question = Payload::NeighbourSolicitation { target, probe: true };
    assert!(!capture.frames(|frame| frame.payload == question && !frame.outgoing).is_empty());
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/accept_dad").as_deref(), Some("1"));
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/enhanced_dad").as_deref(), Some("1"));
}

fn a_duplicate_address_is_named_and_nothing_is_left(host: &Host) {
    let wanted = "2001:db8:1::2";
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "2001:db8:1::/64"}]]});
    let conf = bridge(host, json!({"enabledad": true, "ipam": ipam}));
    let _two = attach_by_hand(host, "two", &bridge(host, json!({})), &["2001:db8:1::2/64"]);
    let one = host.container("one");
    // The folder of the leases stays, with the mark of the last one.
    let leases = "/var/lib/cni/networks";
    let (before, inside) = (host.snapshot(), one.network_snapshot());
    let plugin = host.plugin("bridge");
    plugin.add(&one, "eth0", &conf).expect_error(999, wanted);
    host.expect_unchanged_but(&before, &[leases]);
    inside.expect_same(&one.network_snapshot());
    assert!(!host.files(format!("{leases}/net")).contains(wanted));
    // The next one is free.
    let result = plugin.add(&one, "eth0", &conf).expect_result();
    assert_eq!(result["ips"][0]["address"], "2001:db8:1::3/64");
}

/// RFC 4861, section 4.2: type, code, checksum, hop limit, flags, lifetime of
/// 1800 s, reachable time, retransmission timer; section 4.6.2: the prefix
/// 2001:db8:bad::/64, on the link, for addresses, for 1800 s.
pub(crate) fn router_advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8];
    message.extend([0; 8]);
    message.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    message.extend("2001:db8:bad::".parse::<Ipv6Addr>().expect("an address").octets());
    message
}

/// The link-local address of a link, once it may be used.
pub(crate) fn link_local(host: &Host, place: &impl Netns, link: &str) -> Ipv6Addr {
    let usable = || {
        let links = place.ip(&format!("-6 address show dev {link} scope link"));
        let info = address_infos(&links).into_iter().find(|info| info["tentative"].is_null())?;
        info["local"].as_str().map(str::to_owned)
    };
    host.wait_until("there is a link-local address", || usable().is_some());
    usable().and_then(|address| address.parse().ok()).expect("just seen")
}
