//! bandwidth: what passes in which time, what the kernel was told, and what is
//! left afterwards.

mod beside;
mod check;
mod failing;
mod teardown;
mod traffic;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Outcome, with_previous_result};

use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    let mut list = traffic::list();
    list.extend(check::list());
    list.extend(teardown::list());
    list.extend(failing::list());
    list.extend(beside::list());
    list
}

/// A network of this name with these limits, at a version that Debian's package
/// of upstream's speaks as well.
fn limits(network: &str, keys: &Value) -> Value {
    let base = json!({"cniVersion": "1.0.0", "name": network, "type": "bandwidth"});
    conf::with(&base, keys.clone())
}

/// 8 Mbit/s towards the container with 200,000 bytes at once, and a fifth of it
/// back.
fn both() -> Value {
    limits(
        "net",
        &json!({"ingressRate": 8_000_000, "ingressBurst": 1_600_000,
            "egressRate": 1_600_000, "egressBurst": 800_000}),
    )
}

/// A container whose link another plugin has made.
struct Pod {
    container: Container,
    ifname: &'static str,
    result: Value,
}

impl Pod {
    /// On a bridge with the address 10.1.0.1, as 10.1.0.2 and so on.
    fn on_bridge(host: &Host, name: &str) -> Pod {
        Pod::behind(host, name, "bridge", json!({"isGateway": true, "ipam": addresses()}))
    }

    fn behind(host: &Host, name: &str, plugin: &str, keys: Value) -> Pod {
        Pod::attach(host, host.container(name), "eth0", plugin, keys)
    }

    fn attach(
        host: &Host,
        container: Container,
        ifname: &'static str,
        plugin: &str,
        keys: Value,
    ) -> Pod {
        let base = json!({"cniVersion": "1.0.0", "name": "net", "type": plugin});
        let conf = conf::with(&base, keys);
        let result = host.plugin(plugin).add(&container, ifname, &conf).expect_result();
        Pod { container, ifname, result }
    }

    fn conf(&self, conf: &Value) -> Value {
        with_previous_result(conf, &self.result)
    }

    fn add(&self, host: &Host, conf: &Value) -> Outcome {
        host.plugin("bandwidth").add(&self.container, self.ifname, &self.conf(conf))
    }

    fn check(&self, host: &Host, conf: &Value) -> Outcome {
        host.plugin("bandwidth").check(&self.container, self.ifname, &self.conf(conf))
    }

    fn del(&self, host: &Host, conf: &Value) -> Outcome {
        host.plugin("bandwidth").del(&self.container, self.ifname, &self.conf(conf))
    }

    /// The name of the host end of its pair.
    fn host_end(&self, host: &Host) -> String {
        let peer = self.container.link(self.ifname).expect("it is there")["link_index"].clone();
        let links = host.ip("link show");
        let end = links.iter().find(|link| link["ifindex"] == peer).expect("it is on the host");
        end["ifname"].as_str().expect("a name").to_owned()
    }
}

fn addresses() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]})
}

/// The names of links of kind ifb.
fn ifbs(place: &impl testkit::Netns) -> Vec<String> {
    let links = place.ip("link show type ifb");
    links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect()
}

/// A line that `tc qdisc show` prints for a link.
fn shown(place: &impl testkit::Netns, link: &str) -> String {
    place.exec(format!("tc qdisc show dev {link}"))
}

/// What the kernel keeps of a token bucket: rate, burst, latency.
fn tbf(place: &impl testkit::Netns, link: &str) -> Option<String> {
    let text = shown(place, link);
    let line = text.lines().find(|line| line.starts_with("qdisc tbf 1: root "))?;
    line.split_once("rate ").map(|(_, rest)| rest.trim().to_owned())
}
