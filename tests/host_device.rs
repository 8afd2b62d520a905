//! The host-device plugin: a device of the host becomes the container's and
//! comes back as it was, whatever happens meanwhile.
//!
//! One end of a veth pair plays the device; the other, `wire`, is in a
//! namespace `far`, where the rest of the network is.

mod check;
mod hardware;
mod lending;
mod mixing;
mod returning;
mod selecting;
mod spoiling;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _};

use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    let mut list = lending::list();
    list.extend(check::list());
    list.extend(hardware::list());
    list.extend(mixing::list());
    list.extend(returning::list());
    list.extend(selecting::list());
    list.extend(spoiling::list());
    list
}

/// Stays when a record is removed.
const LEFT: &[&str] = &["/var/lib/cni"];

/// Makes the device, up, with a connected far side that has 10.5.0.1/24.
fn device(host: &Host, name: &str) -> Container {
    let far = host.container("far");
    // So that the host's link-local address is there at once, each time.
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    host.exec(format!("ip link add {name} type veth peer name wire netns far"));
    host.exec(format!("ip link set {name} up"));
    far.exec("ip link set lo up");
    far.exec("ip link set wire up");
    far.exec("ip address add 10.5.0.1/24 dev wire");
    far.exec("ip address add 2001:db8:5::1/64 dev wire nodad");
    settle(host, name);
    far
}

/// Waits for the address that the kernel adds some time after a device came up.
fn settle(host: &Host, name: &str) {
    if host.sysctl("net/ipv6/conf/all/disable_ipv6").as_deref() == Some("0") {
        let show = format!("ip -6 address show dev {name} scope link");
        host.wait_until("the device has its link-local address", || !host.exec(&show).is_empty());
    }
    host.wait_for_addresses();
}

/// Makes the device, never yet up.
fn device_down(host: &Host) {
    host.exec("ip link add ens5 type veth peer name wire5");
}

/// A network of the device `ens5` with these keys.
fn conf(host: &Host, keys: Value) -> Value {
    conf::with(&conf::of_type(host, "host-device", json!({"device": "ens5"})), keys)
}

/// The same, with the address 10.5.0.2/24.
fn addressed(host: &Host) -> Value {
    conf(host, json!({"ipam": conf::fixed(&["10.5.0.2/24"])}))
}

/// The same, with a lease, so that what is held can be seen.
fn leased(host: &Host) -> Value {
    conf(
        host,
        json!({"ipam": {"type": "host-local", "subnet": "10.5.0.0/24",
        "rangeStart": "10.5.0.2"}}),
    )
}

/// The leases of the network that are held.
fn leases(host: &Host) -> usize {
    let files = host.files("/var/lib/cni/networks/net");
    files.iter().filter(|name| name.starts_with("10.")).count()
}

/// The records of lent devices.
fn records(host: &Host) -> usize {
    host.files("/var/lib/cni/oxcni/host-device").len()
}

/// What the kernel does with hardware when its namespace ends, which a virtual
/// link cannot show: it puts it on the host, down, under a name of its choice.
fn bring_home_as_the_kernel_does(pod: &Container, link: &str, name: &str) {
    let host = "/run/netns/host";
    pod.exec(format!("ip link set {link} down"));
    pod.exec(format!("ip link set {link} name {name}"));
    pod.exec(format!("ip link set {name} netns {host}"));
}

/// Gives the host's own namespace a path, for [`bring_home_as_the_kernel_does`].
fn name_the_host(host: &Host) {
    host.exec("touch /run/netns/host");
    host.exec("mount --bind /proc/thread-self/ns/net /run/netns/host");
}
