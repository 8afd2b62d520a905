//! Who reaches a mapped port, and as whom; and whose packets are left alone.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;
use testkit::{Case, Container, Feature, Host, Netns};

use super::ownership::take_over;
use super::{GATEWAY, HOST, Pod, bridge, on, portmap, tcp, udp};
use crate::chained::{self, at, both_backends};

pub(super) fn list() -> Vec<Case> {
    let mut list = both_backends(
        "portmap::traffic",
        &[
            "every_way_leads_there",
            "a_pod_reaches_itself_without_bridged_packets_in_the_filter",
            "sctp",
            "another_mark_bit",
        ],
        &[
            ("every_way_leads_there", every_way_leads_there),
            ("a_pod_reaches_itself_without_bridged_packets_in_the_filter", routed_hairpin),
            ("a_port_of_the_loopback_alone", a_port_of_the_loopback_alone),
            ("sctp", sctp),
            ("nobody_is_masqueraded_without_snat", without_snat),
            ("everybody_is_masqueraded_with_masq_all", masq_all),
            ("another_mark_bit", another_mark_bit),
            ("conditions_are_kept", conditions),
            ("refused_conditions_change_nothing", refused_conditions),
            ("udp_clients_follow_to_the_next_container", udp_clients_follow),
            ("udp_flows_of_others_are_left_alone", udp_flows_of_others),
        ],
    );
    let name = "portmap::traffic::services_with_local_addresses_come_first";
    let needs = [Feature::Bridge, Feature::Nft, Feature::Iptables];
    list.push(Case::new(name, &needs, services_with_local_addresses_come_first));
    for backend in chained::BACKENDS {
        let name = format!("portmap::traffic::sctp_associations_{backend}");
        let needs = [Feature::Bridge, Feature::Nft, Feature::Iptables, Feature::Sctp];
        let case = Case::new(name, &needs, move |host| sctp_associations(host, backend));
        list.push(case.ours_only());
    }
    list
}

/// The address a server saw, or why there was no answer.
fn seen(from: &impl Netns, server: SocketAddr, protocol: &str) -> Result<String, String> {
    let answer = if protocol == "tcp" { from.tcp(server) } else { from.udp(server) };
    answer.map(|address| address.ip().to_string())
}

/// Outside, with a way back to containers, so that nothing needs masquerading.
fn outside(host: &Host) -> Container {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    outside.exec("ip route add 2001:db8:1::/64 via 2001:db8:ffff::1");
    outside
}

const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

fn every_way_leads_there(host: &Host, backend: &str) {
    let outside = outside(host);
    let (pod, neighbour) = (Pod::new(host, "pod"), Pod::new(host, "neighbour"));
    let _server = pod.container.echo_server(8080);
    let conf = portmap(backend, &[tcp(18080, 8080), udp(18080, 8080)]);
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    for protocol in ["tcp", "udp"] {
        for family in [0, 1] {
            let mapped = at(HOST[family], 18080);
            let say = |who: &str| format!("{protocol} to {mapped} from {who}");
            let outsider = Ok(OUTSIDE[family].to_owned());
            assert_eq!(seen(&outside, mapped, protocol), outsider, "{}", say("outside"));
            assert!(seen(host, mapped, protocol).is_ok(), "{}", say("host"));
            let gateway = Ok(GATEWAY[family].to_owned());
            assert_eq!(seen(&pod.container, mapped, protocol), gateway, "{}", say("itself"));
            let neighbour = seen(&neighbour.container, mapped, protocol);
            assert_eq!(neighbour, gateway, "{}", say("neighbour"));
        }
        let localhost = at("127.0.0.1", 18080);
        assert_eq!(seen(host, localhost, protocol), Ok(GATEWAY[0].to_owned()), "{protocol}");
        assert!(seen(&outside, at(HOST[0], 18081), protocol).is_err(), "no such mapping");
    }
    pod.unmap(host, &conf).expect_ok();
    assert!(seen(&outside, at(HOST[0], 18080), "tcp").is_err());
    assert!(seen(&outside, at(HOST[1], 18080), "tcp").is_err());
}

/// Without the kernel's filter in the bridge, packets to the pod itself are
/// routed, and need no hairpin mode.
fn routed_hairpin(host: &Host, backend: &str) {
    let _outside = host.outside();
    for family in ["", "6"] {
        let name = format!("net/bridge/bridge-nf-call-ip{family}tables");
        if host.sysctl(&name).is_some() {
            host.set_sysctl(&name, "0");
        }
    }
    let mut plain = bridge();
    plain["hairpinMode"] = false.into();
    let (pod, neighbour) = (Pod::on(host, "pod", &plain), Pod::on(host, "neighbour", &plain));
    let _server = pod.container.echo_server(8080);
    pod.map(host, &portmap(backend, &[tcp(18080, 8080)])).expect_result();
    for family in [0, 1] {
        for from in [&pod, &neighbour] {
            let answer = seen(&from.container, at(HOST[family], 18080), "tcp");
            assert_eq!(answer, Ok(GATEWAY[family].to_owned()));
        }
    }
}

/// A mapping is about this host's addresses, not about a port wherever it is.
pub(crate) fn other_destinations(host: &Host, backend: &str) {
    let outside = outside(host);
    let (pod, neighbour) = (Pod::new(host, "pod"), Pod::new(host, "neighbour"));
    let everywhere = [tcp(53, 8080), udp(53, 8080), on("192.0.2.1", tcp(54, 8080))];
    pod.map(host, &portmap(backend, &everywhere)).expect_result();
    let _servers =
        [53, 54].map(|port| (outside.echo_server(port), neighbour.container.echo_server(port)));
    for family in [0, 1] {
        let neighbours = neighbour.address(family);
        for port in [53, 54] {
            for protocol in ["tcp", "udp"] {
                let say = format!("{protocol} port {port}");
                let from_pod = seen(&pod.container, at(OUTSIDE[family], port), protocol);
                assert_eq!(from_pod, Ok(pod.address(family)), "{say} from a pod to outside");
                let from_host = seen(host, at(OUTSIDE[family], port), protocol);
                assert_eq!(from_host, Ok(HOST[family].to_owned()), "{say} from the host");
                let to_pod = seen(&outside, at(&neighbours, port), protocol);
                assert_eq!(to_pod, Ok(OUTSIDE[family].to_owned()), "{say} from outside to a pod");
                let to_neighbour = seen(&pod.container, at(&neighbours, port), protocol);
                assert_eq!(to_neighbour, Ok(pod.address(family)), "{say} from pod to pod");
            }
        }
    }
}

/// What kube-proxy rewrites is not taken over, whichever was there first.
pub(crate) fn services_come_first(host: &Host, backend: &str) {
    let outside = outside(host);
    let (pod, service) = (Pod::new(host, "pod"), Pod::new(host, "service"));
    let _server = service.container.echo_server(9090);
    let to = service.address(0);
    let node_port = |port: u16| {
        host.exec("nft add table ip kube-proxy");
        let chain = "{ type nat hook prerouting priority -100 ; }";
        host.exec(format!("nft add chain ip kube-proxy nat-prerouting {chain}"));
        host.exec(format!("nft add rule ip kube-proxy nat-prerouting ip daddr 192.0.2.1 tcp dport {port} dnat to {to}:9090"));
    };
    let iptables_node_port = |port: u16| {
        host.exec("iptables -w -t nat -N KUBE-SERVICES");
        host.exec("iptables -w -t nat -I PREROUTING -j KUBE-SERVICES");
        host.exec(format!("iptables -w -t nat -A KUBE-SERVICES -p tcp -d 192.0.2.1 --dport {port} -j DNAT --to-destination {to}:9090"));
    };
    let conf = |port| portmap(backend, &[tcp(port, 8080)]);
    // Of two in iptables' own chains the first rule decides; of two tables the
    // priority does.
    if backend == "nftables" {
        node_port(18080);
    } else {
        iptables_node_port(18080);
    }
    pod.map(host, &conf(18080)).expect_result();
    outside.tcp(at(HOST[0], 18080)).expect("the service answers");
    pod.unmap(host, &conf(18080)).expect_ok();
    pod.map(host, &conf(18081)).expect_result();
    if backend == "nftables" {
        iptables_node_port(18081);
        node_port(18082);
        outside.tcp(at(HOST[0], 18081)).expect("the service of iptables answers");
        pod.map(host, &conf(18082)).expect_result();
        outside.tcp(at(HOST[0], 18082)).expect("the service of nftables answers");
    }
}

/// In IPVS mode kube-proxy gives a link of the host the services' addresses, and has an
/// `ACCEPT` at the end of its chain keep them from rules about the host's own. Kubelet is
/// there before any container, kube-proxy may come later.
fn services_with_local_addresses_come_first(host: &Host) {
    const SERVICE: &str = "10.96.0.10";
    let outside = outside(host);
    let kube_proxy = || {
        // Of any kind but kube-proxy's own, which this kernel may lack.
        host.exec("ip link add kube-ipvs0 type bridge");
        host.exec(format!("ip address add {SERVICE}/32 dev kube-ipvs0"));
        for chain in ["PREROUTING", "OUTPUT"] {
            host.exec(format!("iptables -w -t nat -I {chain} -j KUBE-SERVICES"));
        }
        host.exec(format!(
            "iptables -w -t nat -A KUBE-SERVICES -p tcp -d {SERVICE} --dport 18080 -j ACCEPT"
        ));
    };
    host.exec("iptables -w -t mangle -N KUBE-KUBELET-CANARY");
    host.exec("iptables -w -t nat -N KUBE-SERVICES");
    let (pod, neighbour) = (Pod::new(host, "pod"), Pod::new(host, "neighbour"));
    let conf = portmap("", &[tcp(18080, 8080)]);
    pod.map(host, &conf).expect_result();
    kube_proxy();
    for _ in 0..2 {
        let service = host.echo_server(18080);
        neighbour.container.tcp(at(SERVICE, 18080)).expect("the service answers a pod");
        host.tcp(at(SERVICE, 18080)).expect("the service answers the host");
        drop(service);
        let server = pod.container.echo_server(8080);
        outside.tcp(at(HOST[0], 18080)).expect("the pod answers");
        drop(server);
        pod.unmap(host, &conf).expect_ok();
        pod.map(host, &conf).expect_result();
    }
    pod.unmap(host, &conf).expect_ok();
    // Where it is known that the services have no addresses of the host.
    host.exec("ip link del kube-ipvs0");
    host.exec("iptables -w -t nat -N KUBE-NODEPORTS");
    pod.map(host, &conf).expect_result();
    assert!(host.exec("nft list tables").contains("cni_hostport"));
}

/// CVE-2020-8558: `route_localnet` must not open what listens at 127.0.0.1 to
/// the neighbours on the container's link.
pub(crate) fn the_loopback_is_guarded(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (pod, neighbour) = (Pod::new(host, "pod"), Pod::new(host, "neighbour"));
    let _secret = host.echo_server(9000);
    neighbour.container.set_sysctl("net/ipv4/conf/eth0/route_localnet", "1");
    neighbour.container.exec("ip route add 127.0.0.0/8 via 10.1.0.1 src 10.1.0.3");
    let loopback = at("127.0.0.1", 9000);
    // The way is open as soon as the sysctl is set.
    host.set_sysctl("net/ipv4/conf/cni0/route_localnet", "1");
    neighbour.container.tcp(loopback).expect("the loopback is reached");
    host.set_sysctl("net/ipv4/conf/cni0/route_localnet", "0");
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    pod.map(host, &conf).expect_result();
    let allowed = host.sysctl("net/ipv4/conf/cni0/route_localnet");
    assert_eq!(allowed.as_deref(), Some("1"), "the host reaches the mapping at 127.0.0.1");
    assert!(neighbour.container.tcp(loopback).is_err());
    let server = pod.container.echo_server(8080);
    host.tcp(at("127.0.0.1", 18080)).expect("the host does");
    drop(server);
    the_guard_stays(host, backend, &pod, &|| neighbour.container.tcp(loopback).is_err());
}

/// As long as the link may have the sysctl: when the last mapping went, and with
/// later ones that do not need it.
fn the_guard_stays(host: &Host, backend: &str, pod: &Pod, is_guarded: &dyn Fn() -> bool) {
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    let elsewhere = portmap(backend, &[on("192.0.2.1", tcp(18080, 8080))]);
    pod.unmap(host, &conf).expect_ok();
    assert!(is_guarded(), "after DEL of the last");
    pod.map(host, &elsewhere).expect_result();
    pod.expect_checked(host, &elsewhere);
    assert!(is_guarded(), "with a mapping at another address");
    pod.unmap(host, &elsewhere).expect_ok();
    assert!(is_guarded(), "after its DEL");
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    let mut gc = portmap(backend, &[]);
    gc["cni.dev/valid-attachments"] = json!([]);
    gc["cni.dev/attachments"] = json!([]);
    host.plugin("portmap").gc(&gc).expect_ok();
    assert!(is_guarded(), "after GC of the last");
}

fn a_port_of_the_loopback_alone(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(8080);
    let conf = portmap(backend, &[on("127.0.0.1", tcp(18080, 8080))]);
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    host.tcp(at("127.0.0.1", 18080)).expect("mapped");
    assert!(outside.tcp(at(HOST[0], 18080)).is_err());
    assert!(host.tcp(at(HOST[0], 18080)).is_err());
    pod.unmap(host, &conf).expect_ok();
    // No other address needs the kernel's leave.
    host.set_sysctl("net/ipv4/conf/cni0/route_localnet", "0");
    pod.map(host, &portmap(backend, &[on("192.0.2.1", tcp(18080, 8080))])).expect_result();
    let allowed = host.sysctl("net/ipv4/conf/cni0/route_localnet");
    assert_eq!(allowed.as_deref(), Some("0"));
}

fn sctp(host: &Host, backend: &str) {
    let outside = outside(host);
    let pod = Pod::new(host, "pod");
    let listener = pod.container.sctp_listener();
    let one = json!({"hostPort": 18080, "containerPort": 8080, "protocol": "sctp"});
    let two = json!({"hostPort": 18081, "containerPort": 18081, "protocol": "SCTP"});
    let conf = portmap(backend, &[one, two, tcp(18080, 8081), udp(18081, 8081)]);
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    let bound = Duration::from_secs(5);
    for (host_port, port) in [(18080, 8080), (18081, 18081)] {
        let to = format!("192.0.2.1:{host_port}").parse().expect("an address");
        outside.send_sctp(to);
        let from = listener.receive(port, bound).expect("mapped");
        assert_eq!(from.to_string(), "192.0.2.2");
    }
    pod.unmap(host, &conf).expect_ok();
    outside.send_sctp("192.0.2.1:18082".parse().expect("an address"));
    assert_eq!(listener.receive(8080, Duration::from_millis(200)), None);
}

fn sctp_associations(host: &Host, backend: &str) {
    let outside = outside(host);
    let pod = Pod::new(host, "pod");
    let _server = pod.container.sctp_server(8080);
    let conf =
        portmap(backend, &[json!({"hostPort": 18080, "containerPort": 8080, "protocol": "sctp"})]);
    pod.map(host, &conf).expect_result();
    for family in [0, 1] {
        let seen = |from: &dyn Fn(SocketAddr) -> Result<SocketAddr, String>| {
            from(at(HOST[family], 18080)).map(|address| address.ip().to_string())
        };
        assert_eq!(seen(&|to| outside.sctp(to)), Ok(OUTSIDE[family].to_owned()));
        assert!(seen(&|to| host.sctp(to)).is_ok());
    }
    pod.unmap(host, &conf).expect_ok();
    assert!(outside.sctp(at(HOST[0], 18080)).is_err());
}

fn without_snat(host: &Host, backend: &str) {
    let outside = outside(host);
    let pod = Pod::new(host, "pod");
    let _server = pod.container.echo_server(8080);
    let mut conf = portmap(backend, &[tcp(18080, 8080)]);
    conf["snat"] = false.into();
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    assert_eq!(seen(&outside, at(HOST[0], 18080), "tcp"), Ok(OUTSIDE[0].to_owned()));
    assert_eq!(host.sysctl("net/ipv4/conf/cni0/route_localnet").as_deref(), Some("0"));
    let rules = host.exec("iptables-save -t nat");
    assert!(!rules.contains("MASQUERADE"), "{rules}");
    // Another container, with masquerading, changes nothing for this one.
    let other = Pod::new(host, "other");
    other.map(host, &portmap(backend, &[tcp(18081, 8080)])).expect_result();
    assert_eq!(seen(&outside, at(HOST[0], 18080), "tcp"), Ok(OUTSIDE[0].to_owned()));
    pod.expect_checked(host, &conf);
    // With masquerading after all.
    conf["snat"] = true.into();
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    assert_eq!(seen(&pod.container, at(HOST[0], 18080), "tcp"), Ok(GATEWAY[0].to_owned()));
}

fn masq_all(host: &Host, backend: &str) {
    let outside = outside(host);
    let (pod, plain) = (Pod::new(host, "pod"), Pod::new(host, "plain"));
    let _servers = (pod.container.echo_server(8080), plain.container.echo_server(8080));
    let mut conf = portmap(backend, &[tcp(18080, 8080)]);
    conf["masqAll"] = true.into();
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    plain.map(host, &portmap(backend, &[tcp(18081, 8080)])).expect_result();
    for family in [0, 1] {
        let gateway = Ok(GATEWAY[family].to_owned());
        let mapped = at(HOST[family], 18080);
        assert_eq!(seen(&outside, mapped, "tcp"), gateway);
        assert_eq!(seen(&pod.container, mapped, "tcp"), gateway);
        // Only what is for that container.
        let other = seen(&outside, at(HOST[family], 18081), "tcp");
        assert_eq!(other, Ok(OUTSIDE[family].to_owned()));
    }
    assert_eq!(seen(host, at("127.0.0.1", 18080), "tcp"), Ok(GATEWAY[0].to_owned()));
    conf["masqAll"] = false.into();
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    assert_eq!(seen(&outside, at(HOST[0], 18080), "tcp"), Ok(OUTSIDE[0].to_owned()));
}

fn another_mark_bit(host: &Host, backend: &str) {
    let _outside = host.outside();
    let (pod, later) = (Pod::new(host, "pod"), Pod::new(host, "later"));
    let _servers = (pod.container.echo_server(8080), later.container.echo_server(8080));
    pod.map(host, &portmap(backend, &[tcp(18080, 8080)])).expect_result();
    let mut conf = portmap(backend, &[tcp(18081, 8080)]);
    conf["markMasqBit"] = 5.into();
    later.map(host, &conf).expect_result();
    later.expect_checked(host, &conf);
    let rules = host.exec(if backend == "nftables" { "nft list ruleset" } else { "iptables-save" });
    assert!(
        rules.contains(if backend == "nftables" { "0x00000020" } else { "0x20/0x20" }),
        "{rules}"
    );
    for port in [18080, 18081] {
        for from in [&pod, &later] {
            let answer = seen(&from.container, at(HOST[0], port), "tcp");
            assert_eq!(answer, Ok(GATEWAY[0].to_owned()), "port {port}");
        }
    }
    // A mark that somebody else set stays on what is not ours.
    let outside_mark = "type filter hook prerouting priority -150 ;";
    host.exec("nft add table ip marks");
    host.exec(format!("nft add chain ip marks before {{ {outside_mark} }}"));
    host.exec("nft add rule ip marks before tcp dport 7777 meta mark set 0x2020");
    host.exec("nft add chain ip marks after { type filter hook input priority 0 ; }");
    host.exec("nft add rule ip marks after tcp dport 7777 meta mark 0x2020 counter");
    let _own = host.echo_server(7777);
    pod.container.tcp(at("10.1.0.1", 7777)).expect("the host's own server");
    let counted = host.exec("nft list chain ip marks after");
    assert!(counted.contains("counter packets ") && !counted.contains("packets 0 "), "{counted}");
}

/// Conditions are in the words of the backend, and an attachment's own.
fn conditions(host: &Host, backend: &str) {
    let outside = outside(host);
    let (pod, free) = (Pod::new(host, "pod"), Pod::new(host, "free"));
    let _servers = (pod.container.echo_server(8080), free.container.echo_server(8080));
    // The backend follows from the words.
    let mut conf = portmap("", &[tcp(18080, 8080), on("192.0.2.1", udp(18080, 8080))]);
    let before = host.snapshot();
    if backend == "nftables" {
        conf["conditionsV4"] = json!(["ip", "saddr", "{ 192.0.2.2, 192.0.2.3 }"]);
        conf["conditionsV6"] = json!(["ip6", "saddr", "!=", "2001:db8:ffff::2"]);
    } else {
        conf["conditionsV4"] = json!(["-s", "192.0.2.2"]);
        conf["conditionsV6"] = json!(["!", "-s", "2001:db8:ffff::2"]);
    }
    pod.map(host, &conf).expect_result();
    pod.expect_checked(host, &conf);
    free.map(host, &portmap(backend, &[tcp(18081, 8080)])).expect_result();
    for _ in 0..2 {
        for protocol in ["tcp", "udp"] {
            assert!(seen(&outside, at(HOST[0], 18080), protocol).is_ok(), "{protocol}");
            assert!(seen(host, at(HOST[0], 18080), protocol).is_err(), "{protocol}");
        }
        assert!(seen(&outside, at(HOST[1], 18080), "tcp").is_err());
        assert!(seen(host, at(HOST[1], 18080), "tcp").is_ok());
        assert!(seen(host, at(HOST[0], 18081), "tcp").is_ok(), "the other has no conditions");
        // The second time.
        let made = host.snapshot();
        pod.map(host, &conf).expect_result();
        pod.expect_checked(host, &conf);
        // How iptables shows conditions cannot be foreseen: its rules are
        // written anew.
        if backend == "nftables" {
            host.expect_unchanged(&made);
        } else {
            assert_eq!(host.snapshot().lines().len(), made.lines().len());
        }
    }
    // The port is owned all the same.
    free.map(host, &portmap(backend, &[tcp(18080, 8080)])).expect_error(999, "container ctr-pod");
    pod.unmap(host, &conf).expect_ok();
    assert!(seen(&outside, at(HOST[0], 18080), "tcp").is_err());
    free.unmap(host, &portmap("", &[tcp(18081, 8080)])).expect_ok();
    host.expect_unchanged_but(&before, &super::STAYS);

    let word = if backend == "nftables" { "saddr" } else { "-s" };
    conf["conditionsV4"] = json!([word, "nonsense words here"]);
    let before = host.snapshot();
    pod.map(host, &conf).expect_error(7, "conditionsV4");
    host.expect_unchanged(&before);
}

/// The words of the family that comes last; on a fresh host, and after an ADD.
fn refused_conditions(host: &Host, backend: &str) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let (another, word) =
        if backend == "nftables" { ("iptables", "ip6") } else { ("nftables", "-s") };
    let [conf, other] = [backend, another].map(|backend| portmap(backend, &[tcp(18080, 8080)]));
    let mut wrong = portmap(backend, &[tcp(18081, 8080)]);
    wrong["conditionsV6"] = json!([word, "nonsense"]);
    for made in [None, Some(&conf), Some(&other)] {
        if let Some(made) = made {
            pod.map(host, made).expect_result();
        }
        let before = host.snapshot();
        pod.map(host, &wrong).expect_error(7, "conditionsV6");
        host.expect_unchanged(&before);
        if let Some(made) = made {
            pod.expect_checked(host, made);
        }
    }
}

/// A client that keeps sending from one port, as it was before.
struct Client(UdpSocket);

impl Client {
    fn new(from: &impl Netns, server: SocketAddr) -> Client {
        let socket = from.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a port");
        socket.connect(server).expect("a route");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        Client(socket)
    }

    fn is_answered(&self) -> bool {
        // An error may be that of the packet before.
        let _ = self.0.send(b"?");
        self.0.recv(&mut [0; 64]).is_ok()
    }
}

fn udp_clients_follow(host: &Host, backend: &str) {
    let outside = outside(host);
    let client = Client::new(&outside, at(HOST[0], 18080));
    let conf = portmap(backend, &[udp(18080, 8080)]);
    let (one, two, three) = (Pod::new(host, "one"), Pod::new(host, "two"), Pod::new(host, "three"));
    let answered =
        |client: &Client| host.wait_until("the client is answered", || client.is_answered());
    // ADD: from the host itself, where nothing listened, to the first.
    assert!(!client.is_answered());
    one.map(host, &conf).expect_result();
    let server = one.container.echo_server(8080);
    answered(&client);
    drop(server);
    // DEL and ADD: to the next, while the first one is still there.
    one.unmap(host, &conf).expect_ok();
    two.map(host, &conf).expect_result();
    let server = two.container.echo_server(8080);
    answered(&client);
    drop(server);
    // DEL: to the host itself.
    two.unmap(host, &conf).expect_ok();
    let server = host.echo_server(18080);
    answered(&client);
    drop(server);
    // ADD over one that died, and GC.
    two.map(host, &conf).expect_result();
    let server = two.container.echo_server(8080);
    answered(&client);
    drop(server);
    two.container.destroy();
    take_over(host, &three, &conf);
    let server = three.container.echo_server(8080);
    answered(&client);
    drop(server);
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    host.plugin("portmap").gc(&gc).expect_ok();
    let _server = host.echo_server(18080);
    answered(&client);
}

/// The same port of another host, on the way through this one.
fn udp_flows_of_others(host: &Host, backend: &str) {
    let outside = outside(host);
    host.exec("nft add table inet watch");
    host.exec("nft add chain inet watch forward { type filter hook forward priority 0 ; }");
    host.exec("nft add rule inet watch forward udp dport 18080 ct state new counter comment new");
    let (pod, client_pod) = (Pod::new(host, "pod"), Pod::new(host, "client"));
    let _server = outside.echo_server(18080);
    let client = Client::new(&client_pod.container, at(OUTSIDE[0], 18080));
    host.wait_until("the client is answered", || client.is_answered());
    let new = || host.exec("nft list table inet watch");
    let before = new();
    assert!(before.contains("counter packets "), "{before}");
    let conf = portmap(backend, &[udp(18080, 8080)]);
    pod.map(host, &conf).expect_result();
    assert!(client.is_answered());
    pod.unmap(host, &conf).expect_ok();
    assert!(client.is_answered());
    assert_eq!(new(), before, "the flow was taken for a new one");
}
