//! Denied destinations are denied whatever address the container speaks from, and
//! the link itself stays usable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    Case, Container, Feature, Host, Netns, Payload, Snapshot, cases, with_previous_result,
};

use super::{OUTSIDE, Pod, bridge, firewall, outside, reaches, reaches_from};
use crate::bridge::neighbours::link_local;
use crate::chained::{at, version};
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for kind in ["bridge", "ptp"] {
        for (behaviour, body) in [
            ("whatever_the_source_is", whatever_the_source_is as fn(&Host, &str)),
            ("neighbours_are_found", neighbours_are_found),
        ] {
            let name = format!("firewall::limits::{behaviour}_{kind}");
            let needs = [Feature::Bridge, Feature::Nft, Feature::Ipv6, Feature::Ping];
            list.push(Case::new(name, &needs, move |host: &Host| body(host, kind)).ours_only());
        }
    }
    list.extend(cases! {
        [Bridge, Nft, OurPlugins, Ipv6] neighbours_on_one_bridge_find_each_other,
        [Bridge, Nft, OurPlugins, Ipv6] dhcp_reaches_a_server_of_the_host,
        [Bridge, Nft, OurPlugins, Ipv6] a_container_without_addresses_is_limited,
        [Bridge, Nft, OurPlugins] another_hardware_address_needs_the_spoof_check,
        [Bridge, Nft, OurPlugins] hardware_addresses_go_with_their_owner,
        [Bridge, Nft, OurPlugins] they_go_when_the_address_is_another_containers,
        [Bridge, Nft, OurPlugins] one_that_two_networks_have_stays_limited,
        [Bridge, Nft, OurPlugins] the_living_stay_limited_when_their_address_is_anothers,
        [Bridge, Nft, OurPlugins] other_limits_leave_nothing_of_those_before,
        [Bridge, Nft, Iptables, OurPlugins] a_closed_host_lets_through_what_is_not_denied,
        [Bridge, Nft, Iptables, OurPlugins] they_are_undone_with_what_comes_after_them,
        [Bridge, Nft, OurPlugins] check_sees_what_is_missing,
        [Bridge, Nft, OurPlugins] the_table_of_the_version_before,
    });
    list
}

/// What a process in the container adds.
const ADDED: [&str; 2] = ["10.1.0.200", "2001:db8:1::200"];

/// The host, as the container's gateway.
const GATEWAY: [&str; 2] = ["10.1.0.1", "2001:db8:1::1"];

/// Longer than a packet: it comes in fragments.
const LONG: usize = 4000;

fn denying(deny: &[&str], allow: &[&str]) -> Value {
    firewall("nftables", 1, &json!({"denyCIDRs": deny, "allowCIDRs": allow}))
}

/// A container behind a plugin, with the same addresses behind each.
fn attach(host: &Host, kind: &str, name: &str) -> Pod {
    if kind == "bridge" {
        return Pod::new(host, name, 1);
    }
    let mut conf = json!({"cniVersion": version(), "name": "net1", "type": kind});
    conf["ipam"] = bridge(1)["ipam"].clone();
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    let container = host.container(name);
    let result = host.plugin(kind).add(&container, "eth0", &conf).expect_result();
    Pod { container, result }
}

/// The host's link that the container's packets come in by.
fn host_link(pod: &Pod) -> &str {
    pod.result["interfaces"][0]["name"].as_str().expect("a link of the host's")
}

/// A port of the host's, at the address that the kernel gave its link.
fn by_link_local(host: &Host, pod: &Pod, port: u16) -> SocketAddr {
    let address = link_local(host, host, host_link(pod));
    link_local(host, &pod.container, "eth0");
    let index = &pod.container.link("eth0").expect("the link")["ifindex"];
    let index = index.as_u64().and_then(|index| u32::try_from(index).ok()).expect("a number");
    SocketAddrV6::new(address, port, 0, index).into()
}

fn forget_neighbours(host: &Host, pods: &[&Pod]) {
    for pod in pods {
        host.exec(format!("ip neighbour flush dev {}", host_link(pod)));
        pod.container.exec("ip neighbour flush dev eth0");
    }
}

fn whatever_the_source_is(host: &Host, kind: &str) {
    let outside = outside(host);
    for address in ["192.0.2.3/24", "2001:db8:ffff::3/64"] {
        outside.exec(format!("ip address add {address} dev uplink nodad"));
    }
    let pod = attach(host, kind, "pod");
    for (address, bits) in ADDED.iter().zip([24, 64]) {
        pod.container.exec(format!("ip address add {address}/{bits} dev eth0 nodad"));
        if kind == "ptp" {
            host.exec(format!("ip route add {address} dev {}", host_link(&pod)));
        }
    }
    let _servers = (outside.echo_server(7000), host.echo_server(7001));
    let own = by_link_local(host, &pod, 7001);
    let mut ways = vec![(at("::", 0), own, 1)];
    for family in [0, 1] {
        let source = at(ADDED[family], 0);
        ways.push((source, at(OUTSIDE[family], 7000), 1));
        ways.push((source, at(OUTSIDE[family], 7000), LONG));
        ways.push((source, at(GATEWAY[family], 7001), 1));
    }
    let reach = |way: &(SocketAddr, SocketAddr, usize)| {
        let (source, to, length) = *way;
        reaches_from(&pod.container, source, to, length)
    };
    let expect_all = |when: &str| {
        for way in &ways {
            host.wait_until(&format!("{when} there is {way:?}"), || reach(way));
        }
    };
    expect_all("without limits");
    let conf = denying(
        &["192.0.2.0/24", "2001:db8:ffff::/48", "10.1.0.1/32", "2001:db8:1::1/128", "fe80::/10"],
        &["192.0.2.3/32", "2001:db8:ffff::3/128"],
    );
    pod.add(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    for way in &ways {
        assert!(!reach(way), "{way:?} is denied");
    }
    let _server = pod.container.echo_server(8080);
    for (family, allowed) in ["192.0.2.3", "2001:db8:ffff::3"].into_iter().enumerate() {
        let way = (at(ADDED[family], 0), at(allowed, 7000), LONG);
        host.wait_until(&format!("{way:?}, which is allowed"), || reach(&way));
        // Who is asked may answer.
        outside.tcp(at(ADDED[family], 8080)).expect("an answer");
        host.tcp(at(ADDED[family], 8080)).expect("an answer");
    }
    pod.del(host, &conf).expect_ok();
    expect_all("after DEL");
}

/// Outside, and not among what is allowed.
const DENIED: &str = "2001:db8:ffff::3";

fn neighbours_are_found(host: &Host, kind: &str) {
    let outside = outside(host);
    outside.exec(format!("ip address add {DENIED}/64 dev uplink nodad"));
    let pod = attach(host, kind, "pod");
    let _servers = (outside.echo_server(7000), host.echo_server(7001));
    let own = by_link_local(host, &pod, 7001);
    // With the hop limit of neighbour discovery.
    let ping = |address: &str| {
        let ping = format!("ping -6 -n -c 1 -W 1 -t 255 {address}");
        pod.container.try_exec(ping).success()
    };
    let links = format!("{}%eth0", own.ip());
    // Types that discovery has are no way to send what else is denied.
    pod.container.set_sysctl("net/ipv6/conf/eth0/hop_limit", "255");
    let mark: Ipv6Addr = "2001:db8:9::9".parse().expect("an address");
    let question = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &mark.octets()].concat();
    let solicits = || {
        let capture = outside.capture();
        let far = SocketAddrV6::new(DENIED.parse().expect("an address"), 0, 0, 0);
        pod.container.send_icmpv6(far, &question);
        // Whatever comes, comes before this.
        pod.container.tcp(at(OUTSIDE[1], 7000)).expect("allowed");
        let asks = Payload::NeighbourSolicitation { target: mark, probe: false };
        !capture.frames(|frame| frame.payload == asks).is_empty()
    };
    pod.container.udp(own).expect("no limits");
    assert!(ping(&links) && solicits(), "without limits");
    let allowed = [GATEWAY[1], OUTSIDE[1]].map(|address| format!("{address}/128"));
    let conf = denying(&["0.0.0.0/0", "::/0"], &allowed.each_ref().map(String::as_str));
    pod.add(host, &conf).expect_result();
    for allowed in [at(GATEWAY[1], 7001), at(OUTSIDE[1], 7000)] {
        forget_neighbours(host, &[&pod]);
        pod.container.tcp(allowed).expect("allowed");
    }
    forget_neighbours(host, &[&pod]);
    let _server = pod.container.echo_server(8080);
    outside.udp(at(&pod.address(1), 8080)).expect("who is asked may answer");
    for denied in [own, at(DENIED, 7000), at(OUTSIDE[0], 7000), at(GATEWAY[0], 7001)] {
        assert!(!reaches(&pod.container, denied), "{denied} is denied");
    }
    assert!(!ping(&links) && !solicits());
}

/// Also where the kernel filters what passes between ports of a bridge.
fn neighbours_on_one_bridge_find_each_other(host: &Host) {
    let _outside = outside(host);
    let filters = "net/bridge/bridge-nf-call-ip6tables";
    for value in ["0", "1"] {
        if host.sysctl(filters).is_some() {
            host.set_sysctl(filters, value);
        }
        let pods = ["one", "two"].map(|name| Pod::new(host, &format!("{name}{value}"), 1));
        let conf = denying(&["::/0"], &[&format!("{}/128", pods[1].address(1))]);
        pods[0].add(host, &conf).expect_result();
        let _servers = pods.each_ref().map(|pod| pod.container.echo_server(8080));
        for (from, to) in [(0, 1), (1, 0)] {
            forget_neighbours(host, &[&pods[0], &pods[1]]);
            let answer = pods[from].container.udp(at(&pods[to].address(1), 8080));
            answer.unwrap_or_else(|e| panic!("{filters} is {value}: {e}"));
        }
    }
}

/// Sends to everybody on the link, from its address or from none.
fn broadcast(from: &Container, port: u16) {
    from.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:68").expect("the client's port");
        socket.set_broadcast(true).expect("a broadcast");
        socket.send_to(b"?", (Ipv4Addr::BROADCAST, port)).expect("sent");
    });
}

fn dhcp_reaches_a_server_of_the_host(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    pod.container.exec("ip route add 255.255.255.255 dev eth0");
    pod.add(host, &denying(&["0.0.0.0/0", "::/0"], &[])).expect_result();
    // Nobody waits for what must not come as long as for what must.
    let (soon, long) = (Duration::from_millis(400), Duration::from_secs(5));
    let heard = |port: u16, bound: Duration, ask: &dyn Fn()| {
        let socket = host.within(|| UdpSocket::bind(("::", port)).expect("the server's port"));
        if port == 547 {
            let index = &host.link("cni1").expect("the bridge")["ifindex"];
            let index = u32::try_from(index.as_u64().expect("a number")).expect("an index");
            let servers = "ff02::1:2".parse().expect("an address");
            socket.join_multicast_v6(&servers, index).expect("joined");
        }
        socket.set_read_timeout(Some(bound)).expect("a bound");
        ask();
        socket.recv_from(&mut [0; 64]).ok().map(|(_, from)| from.ip().to_canonical())
    };
    let index = by_link_local(host, &pod, 0);
    let SocketAddr::V6(scope) = index else { panic!("{index}") };
    let solicit = |port: u16| {
        pod.container.within(|| {
            let to = SocketAddrV6::new("ff02::1:2".parse().expect("it"), port, 0, scope.scope_id());
            UdpSocket::bind("[::]:546").expect("a port").send_to(b"?", to).expect("sent");
        });
    };
    // Who has an address, as when it is rebound; then who has none.
    let has: IpAddr = pod.address(0).parse().expect("an address");
    assert_eq!(heard(67, long, &|| broadcast(&pod.container, 67)), Some(has));
    assert_eq!(heard(6767, soon, &|| broadcast(&pod.container, 6767)), None);
    pod.container.exec("ip -4 address flush dev eth0");
    pod.container.exec("ip route replace 255.255.255.255 dev eth0");
    let none = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    assert_eq!(heard(67, long, &|| broadcast(&pod.container, 67)), Some(none));
    assert_eq!(heard(6767, soon, &|| broadcast(&pod.container, 6767)), None);
    assert!(heard(547, long, &|| solicit(547)).is_some());
    assert_eq!(heard(5470, soon, &|| solicit(5470)), None);
}

fn a_container_without_addresses_is_limited(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    let mut plain = bridge(1);
    for key in ["ipam", "isDefaultGateway"] {
        plain.as_object_mut().expect("an object").remove(key);
    }
    let container = host.container("pod");
    let result = host.plugin("bridge").add(&container, "eth0", &plain).expect_result();
    assert!(result["ips"].as_array().is_none_or(Vec::is_empty), "{result}");
    let pod = Pod { container, result };
    let _server = host.echo_server(7001);
    let own = by_link_local(host, &pod, 7001);
    pod.container.udp(own).expect("no limits");
    let before = host.snapshot();
    let conf = denying(&["fe80::/10"], &[]);
    pod.add(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    assert!(!reaches(&pod.container, own));
    // Nothing else keeps the table.
    pod.del(host, &conf).expect_ok();
    pod.container.udp(own).expect("no limits any more");
    host.expect_unchanged(&before);
}

fn another_hardware_address_needs_the_spoof_check(host: &Host) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let to = at(OUTSIDE[0], 7000);
    for spoof_check in [false, true] {
        let mut conf = bridge(1);
        conf["macspoofchk"] = spoof_check.into();
        let container = host.container(&format!("pod-{spoof_check}"));
        let result = host.plugin("bridge").add(&container, "eth0", &conf).expect_result();
        let pod = Pod { container, result };
        pod.add(host, &denying(&["192.0.2.0/24"], &[])).expect_result();
        let added = at(ADDED[0], 0);
        pod.container.exec(format!("ip address add {}/24 dev eth0", ADDED[0]));
        assert!(!reaches_from(&pod.container, added, to, 1));
        let route = "ip route replace default via 10.1.0.1 dev eth0";
        pod.container.exec("ip link set eth0 address 02:00:00:00:00:66");
        pod.container.exec(route);
        host.exec("ip neighbour flush dev cni1");
        if spoof_check {
            assert!(!reaches_from(&pod.container, added, to, 1));
        } else {
            host.wait_until("the forged one passes", || reaches_from(&pod.container, added, to, 1));
        }
        pod.container.destroy();
    }
}

/// The hardware addresses in the map, sorted.
fn limited(host: &Host) -> Vec<String> {
    let listed = host.try_exec("nft list map inet cni_firewall egress_mac");
    let listed = if listed.success() { listed.stdout } else { String::new() };
    let words = listed.split([' ', '\t', '\n']).filter(|word| word.matches(':').count() == 5);
    let mut macs: Vec<String> = words.map(str::to_owned).collect();
    macs.sort();
    macs
}

fn macs_of(pods: &[&Pod]) -> Vec<String> {
    let mut macs: Vec<String> = pods.iter().map(|pod| pod.container.mac("eth0")).collect();
    macs.sort();
    macs
}

fn rules(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.section("nft")
}

fn hardware_addresses_go_with_their_owner(host: &Host) {
    let before = host.snapshot();
    let pods = ["one", "two", "three", "four"].map(|name| Pod::new(host, name, 1));
    let [one, two, three, four] = &pods;
    let conf = denying(&["198.51.100.0/24"], &[]);
    let free = firewall("nftables", 1, &json!({}));
    four.add(host, &free).expect_result();
    let among_others = host.snapshot();
    for pod in [one, two, three] {
        pod.add(host, &conf).expect_result();
    }
    assert_eq!(limited(host), macs_of(&[one, two, three]));
    one.del(host, &conf).expect_ok();
    assert_eq!(limited(host), macs_of(&[two, three]));
    two.check(host, &conf).expect_ok();
    // Without limits from the next ADD on.
    two.add(host, &free).expect_result();
    assert_eq!(limited(host), macs_of(&[three]));
    two.del(host, &free).expect_ok();
    // By GC.
    let mut gc = firewall("nftables", 1, &json!({}));
    gc["cni.dev/valid-attachments"] = json!([
        {"containerID": three.container.id(), "ifname": "eth0"},
        {"containerID": four.container.id(), "ifname": "eth0"},
    ]);
    host.plugin("firewall").gc(&gc).expect_ok();
    assert_eq!(limited(host), macs_of(&[three]));
    three.check(host, &conf).expect_ok();
    gc["cni.dev/valid-attachments"] =
        json!([{"containerID": four.container.id(), "ifname": "eth0"}]);
    host.plugin("firewall").gc(&gc).expect_ok();
    assert_eq!(rules(&host.snapshot()), rules(&among_others));
    // Whatever else of it is gone: only the hardware address tells whose it is.
    one.add(host, &conf).expect_result();
    host.exec("nft flush set inet cni_firewall containers4");
    host.exec("nft flush set inet cni_firewall containers6");
    one.del(host, &conf).expect_ok();
    assert_eq!(limited(host), [""; 0]);
    four.add(host, &free).expect_result();
    four.del(host, &free).expect_ok();
    assert_eq!(rules(&host.snapshot()), rules(&before));
}

fn they_go_when_the_address_is_another_containers(host: &Host) {
    let conf = denying(&["198.51.100.0/24"], &[]);
    let free = firewall("nftables", 1, &json!({}));
    let mut fixed = bridge(1);
    fixed["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.0.77/24"}]});
    let attach = |name: &str| {
        let container = host.container(name);
        let result = host.plugin("bridge").add(&container, "eth0", &fixed).expect_result();
        Pod { container, result }
    };
    for (second, limits) in [(&free, 0), (&conf, 1)] {
        let one = attach(&format!("one{limits}"));
        one.add(host, &conf).expect_result();
        assert_eq!(limited(host), macs_of(&[&one]));
        let link = host_end(&one);
        one.container.destroy();
        host.wait_until("its link is gone", || host.link(&link).is_none());
        let two = attach(&format!("two{limits}"));
        two.add(host, second).expect_result();
        two.check(host, second).expect_ok();
        let theirs = macs_of(&[&two]);
        assert_eq!(limited(host), theirs[..limits]);
        one.del(host, &conf).expect_ok();
        two.check(host, second).expect_ok();
        assert_eq!(limited(host), theirs[..limits]);
        two.del(host, second).expect_ok();
        two.container.destroy();
        assert_eq!(host.exec("nft list ruleset"), "");
    }
}

/// The veth end of the host's.
fn host_end(pod: &Pod) -> String {
    pod.result["interfaces"][1]["name"].as_str().expect("the host end").to_owned()
}

/// Networks of their own may have the same addresses.
fn the_living_stay_limited_when_their_address_is_anothers(host: &Host) {
    let before = host.snapshot();
    let conf = denying(&["10.1.0.1/32"], &[]);
    let free = firewall("nftables", 2, &json!({}));
    let _server = host.echo_server(7001);
    let (one, mut two) = (Pod::new(host, "one", 1), Pod::new(host, "two", 2));
    two.result["ips"] = one.result["ips"].clone();
    one.add(host, &conf).expect_result();
    two.add(host, &free).expect_result();
    let to = at(GATEWAY[0], 7001);
    assert!(!reaches(&one.container, to));
    assert_eq!(limited(host), macs_of(&[&one]));
    two.check(host, &free).expect_ok();
    two.del(host, &free).expect_ok();
    assert!(!reaches(&one.container, to));
    one.add(host, &conf).expect_result();
    one.check(host, &conf).expect_ok();
    one.del(host, &conf).expect_ok();
    assert!(reaches(&one.container, to));
    assert_eq!(rules(&host.snapshot()), rules(&before));
}

fn other_limits_leave_nothing_of_those_before(host: &Host) {
    let chains = || host.exec("nft list table inet cni_firewall").matches("chain egress_").count();
    let lists = [denying(&["198.51.100.0/24"], &[]), denying(&["203.0.113.0/24"], &[])];
    let (one, two) = (Pod::new(host, "one", 1), Pod::new(host, "two", 1));
    one.add(host, &lists[0]).expect_result();
    one.add(host, &lists[1]).expect_result();
    assert_eq!(chains(), 1, "{}", host.exec("nft list ruleset"));
    two.add(host, &lists[0]).expect_result();
    one.add(host, &lists[0]).expect_result();
    assert_eq!(chains(), 1, "{}", host.exec("nft list ruleset"));
    one.add(host, &firewall("nftables", 1, &json!({}))).expect_result();
    two.check(host, &lists[0]).expect_ok();
    two.add(host, &firewall("nftables", 1, &json!({}))).expect_result();
    assert_eq!(chains(), 0, "{}", host.exec("nft list ruleset"));
}

/// Docker and ufw close the host with iptables, and what that drops no other table
/// lets through.
fn a_closed_host_lets_through_what_is_not_denied(host: &Host) {
    let outside = outside(host);
    outside.exec("ip address add 192.0.2.3/24 dev uplink");
    let _server = outside.echo_server(7000);
    let pod = Pod::new(host, "pod", 1);
    let (denied, allowed) = (at("192.0.2.3", 7000), at(OUTSIDE[0], 7000));
    for backend in ["", "iptables"] {
        let conf = firewall(backend, 1, &json!({"denyCIDRs": ["192.0.2.3/32"]}));
        // Made while it was open, where nothing is named.
        pod.add(host, &conf).expect_result();
        assert!(!reaches(&pod.container, denied));
        host.exec("iptables -w -P FORWARD DROP");
        host.exec("ip6tables -w -P FORWARD DROP");
        if backend.is_empty() {
            pod.check(host, &conf).expect_error(999, "check firewall rules");
            restore(host, &pod, &conf);
        }
        host.plugin("firewall").status(&conf).expect_ok();
        pod.check(host, &conf).expect_ok();
        pod.container.tcp(allowed).expect("let through");
        assert!(!reaches(&pod.container, denied));
        // Either half is missed.
        host.exec("nft flush map inet cni_firewall egress4");
        pod.check(host, &conf).expect_error(999, "check firewall rules");
        pod.add(host, &conf).expect_result();
        host.exec("iptables -w -F CNI-FORWARD");
        pod.check(host, &conf).expect_error(999, "check firewall rules");
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
        assert!(!reaches(&pod.container, allowed));
        assert!(!host.try_exec("nft list table inet cni_firewall").success());
        assert!(!host.exec("iptables-save").contains("10.1.0."), "{}", host.exec("iptables-save"));
        host.exec("iptables -w -P FORWARD ACCEPT");
        host.exec("ip6tables -w -P FORWARD ACCEPT");
    }
}

/// On links of their own nothing keeps two containers from having the same.
fn one_that_two_networks_have_stays_limited(host: &Host) {
    let conf = denying(&["198.51.100.0/24"], &[]);
    let (one, mut two) = (Pod::new(host, "one", 1), Pod::new(host, "two", 2));
    let mac = one.container.mac("eth0");
    two.result["interfaces"][2]["mac"] = mac.as_str().into();
    one.add(host, &conf).expect_result();
    let free = firewall("nftables", 2, &json!({}));
    two.add(host, &free).expect_result();
    one.check(host, &conf).expect_ok();
    two.check(host, &free).expect_ok();
    two.del(host, &free).expect_ok();
    one.check(host, &conf).expect_ok();
    // With limits for both the later has it, and the other is told.
    let limits = firewall("nftables", 2, &json!({"denyCIDRs": ["203.0.113.0/24"]}));
    two.add(host, &limits).expect_result();
    two.check(host, &limits).expect_ok();
    one.check(host, &conf).expect_error(999, "egress_mac");
    one.del(host, &conf).expect_ok();
    two.check(host, &limits).expect_ok();
    assert_eq!(limited(host), [mac]);
}

fn check_sees_what_is_missing(host: &Host) {
    let pod = Pod::new(host, "pod", 1);
    let conf = denying(&["198.51.100.0/24"], &[]);
    let mac = pod.container.mac("eth0");
    for damage in [
        "nft flush map inet cni_firewall egress_mac".to_owned(),
        "nft flush chain inet cni_firewall input".to_owned(),
        format!(
            "nft 'delete element inet cni_firewall egress_mac {{ {mac} }}; \
             add element inet cni_firewall egress_mac {{ {mac} : accept }}'"
        ),
    ] {
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        let wanted = host.snapshot();
        host.exec(["sh", "-ec", &damage]);
        pod.check(host, &conf).expect_error(999, "check firewall rules");
        restore(host, &pod, &conf);
        assert_eq!(rules(&host.snapshot()), rules(&wanted), "{damage}");
    }
}

#[track_caller]
/// They are nf_tables', whoever lets the rest through; and that may fail.
fn they_are_undone_with_what_comes_after_them(host: &Host) {
    install_iptables(host, "nft");
    let pod = Pod::new(host, "pod", 1);
    let other = Pod::new(host, "other", 1);
    let conf = |deny: &str| firewall("iptables", 1, &json!({"denyCIDRs": [deny]}));
    // What all share comes with the first.
    other.add(host, &conf("203.0.113.0/24")).expect_result();
    let refuses = "#!/bin/sh\ncat >/dev/null; echo not today >&2; exit 1\n";
    host.write("/run/refuses", refuses);
    host.exec("chmod +x /run/refuses");
    for name in ["iptables-restore", "ip6tables-restore"] {
        let command = format!("/etc/alternatives/{name}");
        let real = std::fs::read_link(&command).expect("a link").display().to_string();
        host.exec(["ln", "-sf", "/run/refuses", &command]);
        let before = host.snapshot();
        for deny in ["198.51.100.0/24", "203.0.113.0/24"] {
            pod.add(host, &conf(deny)).expect_error(999, "not today");
            host.expect_unchanged(&before);
        }
        host.exec(["ln", "-sf", &real, &command]);
    }
    other.check(host, &conf("203.0.113.0/24")).expect_ok();
    pod.add(host, &conf("198.51.100.0/24")).expect_result();
    pod.check(host, &conf("198.51.100.0/24")).expect_ok();
}

fn restore(host: &Host, pod: &Pod, conf: &Value) {
    let text = with_previous_result(conf, &pod.result).to_string();
    host.plugin("firewall").send("RESTORE", &pod.container, "eth0", text.as_bytes()).expect_ok();
    pod.check(host, conf).expect_ok();
}

/// Makes of the table what the version before made.
fn as_before(host: &Host) {
    let mut chain = String::new();
    for line in host.exec("nft -a list table inet cni_firewall").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["chain", name, ..] => name.clone_into(&mut chain),
            [.., "handle", handle]
                if ["vmap @egress_mac", "hoplimit", "dport"].iter().any(|w| line.contains(w)) =>
            {
                host.exec(format!("nft delete rule inet cni_firewall {chain} handle {handle}"));
            }
            _ => {}
        }
    }
    host.exec("nft delete map inet cni_firewall egress_mac");
}

fn the_table_of_the_version_before(host: &Host) {
    let (pod, other) = (Pod::new(host, "pod", 1), Pod::new(host, "other", 1));
    let before = host.snapshot();
    let conf = denying(&["198.51.100.0/24"], &[]);
    let free = firewall("nftables", 1, &json!({}));
    // The last DEL takes all of it.
    pod.add(host, &conf).expect_result();
    as_before(host);
    host.plugin("firewall").status(&conf).expect_ok();
    pod.check(host, &conf).expect_error(999, "egress_mac");
    pod.del(host, &conf).expect_ok();
    assert_eq!(rules(&host.snapshot()), rules(&before));
    // One of several leaves the others what they have.
    pod.add(host, &conf).expect_result();
    other.add(host, &free).expect_result();
    as_before(host);
    let old = host.snapshot();
    pod.del(host, &conf).expect_ok();
    let left = host.exec("nft list table inet cni_firewall");
    assert!(!left.contains(&pod.address(0)) && !left.contains("egress_"), "{left}");
    assert!(left.contains(&other.address(0)), "{left}");
    // RESTORE and ADD bring it up to date.
    pod.add(host, &conf).expect_result();
    let new = host.snapshot();
    as_before(host);
    assert_eq!(rules(&host.snapshot()), rules(&old));
    restore(host, &pod, &conf);
    assert_eq!(rules(&host.snapshot()), rules(&new));
    other.check(host, &free).expect_ok();
}
