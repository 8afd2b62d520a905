//! firewall: who may reach whom, with each backend, and what is left afterwards.

mod beside;
mod both;
mod firewalld;
mod heirs;
mod limits;
mod teardown;
mod traffic;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, with_previous_result};

use crate::chained::{self, at, version};

pub(crate) fn list() -> Vec<Case> {
    let mut list = traffic::list();
    list.extend(teardown::list());
    list.extend(beside::list());
    list.extend(both::list());
    list.extend(firewalld::list());
    list.extend(limits::list());
    list.extend(heirs::list());
    testkit::on_every_kernel(&mut list, &EVERY_KERNEL);
    list
}

/// Every kind of rule, set and question to the kernel once; emulation is slow.
const EVERY_KERNEL: [&str; 4] = [
    "firewall::traffic::a_closed_host_lets_containers_through_nftables",
    "firewall::traffic::everything_but_what_is_allowed",
    "firewall::limits::whatever_the_source_is_bridge",
    "firewall::limits::neighbours_are_found_bridge",
];

/// Outside, of each family.
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

/// Words of lines that stay after DEL by intent: what iptables' shared chains
/// leave.
const STAYS: [&str; 3] = ["iptables: ", "ip6tables: ", "nft: "];

/// A network on a bridge of its own, of both families: `cni1` is 10.1.0.0/24.
fn bridge(number: u8) -> Value {
    json!({
        "cniVersion": version(), "name": format!("net{number}"), "type": "bridge",
        "bridge": format!("cni{number}"), "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": format!("10.{number}.0.0/24")}],
            [{"subnet": format!("2001:db8:{number}::/64")}],
        ]},
    })
}

/// The firewall of a network; `""` names no backend.
fn firewall(backend: &str, number: u8, keys: &Value) -> Value {
    let mut conf =
        json!({"cniVersion": version(), "name": format!("net{number}"), "type": "firewall"});
    if !backend.is_empty() {
        conf["backend"] = backend.into();
    }
    for (key, value) in keys.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

/// A container on a bridge, with what firewall needs to know of it.
struct Pod {
    container: Container,
    result: Value,
}

impl Pod {
    fn new(host: &Host, name: &str, number: u8) -> Pod {
        let container = host.container(name);
        let result = host.plugin("bridge").add(&container, "eth0", &bridge(number)).expect_result();
        Pod { container, result }
    }

    /// With the firewall behind the bridge.
    fn behind(host: &Host, name: &str, number: u8, conf: &Value) -> Pod {
        let pod = Pod::new(host, name, number);
        pod.add(host, conf).expect_result();
        pod
    }

    fn conf(&self, conf: &Value) -> Value {
        with_previous_result(conf, &self.result)
    }

    /// The same as upstream 1.1.1 knows it.
    fn old(&self, conf: &Value) -> Value {
        chained::old(conf, &self.result)
    }

    fn add(&self, host: &Host, conf: &Value) -> testkit::Outcome {
        host.plugin("firewall").add(&self.container, "eth0", &self.conf(conf))
    }

    fn check(&self, host: &Host, conf: &Value) -> testkit::Outcome {
        host.plugin("firewall").check(&self.container, "eth0", &self.conf(conf))
    }

    #[track_caller]
    fn restore(&self, host: &Host, conf: &Value) {
        let text = self.conf(conf).to_string();
        let plugin = host.plugin("firewall");
        plugin.send("RESTORE", &self.container, "eth0", text.as_bytes()).expect_ok();
        self.check(host, conf).expect_ok();
    }

    fn del(&self, host: &Host, conf: &Value) -> testkit::Outcome {
        host.plugin("firewall").del(&self.container, "eth0", &self.conf(conf))
    }

    fn address(&self, family: usize) -> String {
        chained::address(&self.result, family)
    }

    /// Whether another reaches it.
    fn is_reached_by(&self, from: &Container, family: usize) -> bool {
        let _server = self.container.echo_server(8080);
        reaches(from, at(&self.address(family), 8080))
    }
}

/// How long an answer may take where everybody is on this machine, and how often
/// it is asked for.
const ANSWER: (Duration, u32) = (Duration::from_millis(100), 4);

/// Whether a server answers datagrams. A neighbour that has to be resolved
/// first answers to a later one.
fn reaches(from: &impl testkit::Netns, server: SocketAddr) -> bool {
    let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
    reaches_from(from, at(any, 0), server, 1)
}

/// The same from a source, with as many bytes.
fn reaches_from(
    from: &impl testkit::Netns,
    source: SocketAddr,
    server: SocketAddr,
    length: usize,
) -> bool {
    let (bound, times) = ANSWER;
    let question = vec![b'?'; length];
    from.within(|| {
        let socket = UdpSocket::bind(source).expect("a port");
        socket.set_read_timeout(Some(bound)).expect("a bound");
        (0..times).any(|_| {
            // What was refused before is told here.
            let asked = socket.send_to(&question, server);
            asked.is_ok() && socket.recv(&mut [0; 64]).is_ok()
        })
    })
}

/// Outside, with a way back to containers.
fn outside(host: &Host) -> Container {
    // Links are usable as soon as they are there: what is not answered while
    // addresses are checked must not be taken for dropped.
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    let outside = host.outside();
    for number in 1..4 {
        outside.exec(format!("ip route add 10.{number}.0.0/24 via 192.0.2.1"));
        outside.exec(format!("ip route add 2001:db8:{number}::/64 via 2001:db8:ffff::1"));
    }
    outside.wait_for_addresses();
    outside
}
