//! portmap: which packets reach a container by a port of the host, who owns a
//! port, and what is left afterwards; with each backend, and beside upstream's.

mod across;
mod beside;
mod failing;
mod ownership;
mod same_container;
mod teardown;
pub(crate) mod traffic;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, with_previous_result};

use crate::chained::{self, version};

pub(crate) fn list() -> Vec<Case> {
    let mut list = traffic::list();
    list.extend(ownership::list());
    list.extend(same_container::list());
    list.extend(across::list());
    list.extend(beside::list());
    list.extend(failing::list());
    list.extend(teardown::list());
    testkit::on_every_kernel(&mut list, &EVERY_KERNEL);
    list
}

/// Every kind of rule, element and question to the kernel once; emulation is
/// slow. Associations of SCTP are there for want of a kernel that has them here.
const EVERY_KERNEL: [&str; 3] = [
    "portmap::traffic::every_way_leads_there_nftables",
    "portmap::traffic::udp_clients_follow_to_the_next_container_nftables",
    "portmap::across::a_port_of_the_other_backend_is_refused_iptables_first",
];

/// The host as outside sees it, of each family.
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];

/// The gateway of containers, of each family.
const GATEWAY: [&str; 2] = ["10.1.0.1", "2001:db8:1::1"];

/// Words of lines that stay after DEL by intent: what a container's link and
/// iptables' shared chains leave.
const STAYS: [&str; 6] =
    ["route_localnet", "CNI-HOSTPORT", "guards the loopback", "iptables: ", "ip6tables: ", "nft: "];

/// A network of both families.
fn bridge() -> Value {
    json!({
        "cniVersion": version(), "name": "net", "type": "bridge", "bridge": "cni0",
        "isDefaultGateway": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8:1::/64"}],
        ]},
    })
}

/// The mappings of a network with a backend; `""` names none.
fn portmap(backend: &str, mappings: &[Value]) -> Value {
    let mut conf = json!({
        "cniVersion": version(), "name": "net", "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings},
    });
    if !backend.is_empty() {
        conf["backend"] = backend.into();
    }
    conf
}

fn tcp(host_port: u16, container_port: u16) -> Value {
    json!({"hostPort": host_port, "containerPort": container_port, "protocol": "tcp"})
}

fn udp(host_port: u16, container_port: u16) -> Value {
    json!({"hostPort": host_port, "containerPort": container_port, "protocol": "udp"})
}

fn on(host_ip: &str, mut mapping: Value) -> Value {
    mapping["hostIP"] = host_ip.into();
    mapping
}

/// A container on the bridge, with what portmap needs to know of it.
struct Pod {
    container: Container,
    result: Value,
}

impl Pod {
    fn new(host: &Host, name: &str) -> Pod {
        Pod::on(host, name, &bridge())
    }

    fn on(host: &Host, name: &str, bridge: &Value) -> Pod {
        let container = host.container(name);
        let result = host.plugin("bridge").add(&container, "eth0", bridge).expect_result();
        Pod { container, result }
    }

    /// The configuration behind this pod's interface.
    fn behind(&self, conf: &Value) -> Value {
        with_previous_result(conf, &self.result)
    }

    /// The same as upstream 1.1.1 knows it.
    fn old(&self, conf: &Value) -> Value {
        chained::old(conf, &self.result)
    }

    fn map(&self, host: &Host, conf: &Value) -> testkit::Outcome {
        host.plugin("portmap").add(&self.container, "eth0", &self.behind(conf))
    }

    fn unmap(&self, host: &Host, conf: &Value) -> testkit::Outcome {
        host.plugin("portmap").del(&self.container, "eth0", &self.behind(conf))
    }

    fn check(&self, host: &Host, conf: &Value) -> testkit::Outcome {
        host.plugin("portmap").check(&self.container, "eth0", &self.behind(conf))
    }

    /// CHECK passes; that of 1.1.1 finds fault with its own rules, too.
    #[track_caller]
    fn expect_checked(&self, host: &Host, conf: &Value) {
        if host.has_our_plugins() {
            self.check(host, conf).expect_ok();
        }
    }

    fn address(&self, family: usize) -> String {
        chained::address(&self.result, family)
    }
}
