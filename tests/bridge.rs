//! The bridge plugin: each key of its configuration as the kernel shows it and
//! as packets feel it; what it leaves behind when it fails, and when it is
//! asked to undo; what CHECK, GC and STATUS say.

mod addressing;
mod check;
mod failing;
mod link;
pub(crate) mod neighbours;
mod sweeping;
mod teardown;
mod vlan;

use serde_json::Value;
use testkit::{Case, Container, Host, Netns as _};

pub(crate) fn list() -> Vec<Case> {
    let mut list = addressing::list();
    list.extend(check::list());
    list.extend(failing::list());
    list.extend(link::list());
    list.extend(neighbours::list());
    list.extend(sweeping::list());
    list.extend(teardown::list());
    list.extend(vlan::list());
    list
}

/// Makes a container and attaches it as `eth0`; gives it with the result.
#[track_caller]
fn attach(host: &Host, name: &str, conf: &Value) -> (Container, Value) {
    let container = host.container(name);
    let result = host.plugin("bridge").add(&container, "eth0", conf).expect_result();
    (container, result)
}

/// The host end of the pair in a result.
#[track_caller]
fn host_end(result: &Value) -> String {
    let ends = result["interfaces"].as_array().expect("interfaces");
    assert!(ends[1]["sandbox"].is_null(), "the host end has no sandbox: {result}");
    ends[1]["name"].as_str().expect("a name").to_owned()
}

/// Attaches a container without IPAM and gives it an address by hand.
#[track_caller]
fn attach_by_hand(host: &Host, name: &str, conf: &Value, addresses: &[&str]) -> Container {
    let (container, _) = attach(host, name, conf);
    for address in addresses {
        container.exec(format!("ip address add {address} dev eth0 nodad"));
    }
    container
}

/// The port of the bridge as `bridge -d -json link show` has it.
#[track_caller]
fn port(host: &Host, name: &str) -> Value {
    let text = host.exec(format!("bridge -d -json link show dev {name}"));
    let list: Value = serde_json::from_str(&text).expect("JSON");
    list[0].clone()
}

/// The names of the bridge's ports, in order.
#[track_caller]
fn ports(host: &Host, bridge: &str) -> Vec<String> {
    let links = host.ip(&format!("link show master {bridge}"));
    let mut names: Vec<_> =
        links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}
