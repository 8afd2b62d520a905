//! What stands behind the plugin that made the interface comes back as well: token
//! buckets, parameters of the kernel, rules by source address, a VRF.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Snapshot, cases};

use super::{owned, states, write};
use crate::cnitool::{cnitool, ok};
use crate::conf;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Shaping, Ifb] limits_come_back,
        [Tun, Shaping, Ifb] limits_in_the_container_come_back,
        [Bridge, Shaping, Ifb] limits_of_others_stay,
        [Bridge] parameters_come_back_and_the_backup_stays,
        [Bridge, Ipv6] rules_by_source_come_back,
        [Bridge, Ipv6] a_gateway_in_place_of_another_comes_back,
        [Bridge] a_table_that_others_took_meanwhile_stays_theirs,
        [Bridge] without_its_record_sbr_says_so,
        [Bridge, Vrf, Ipv6] a_vrf_comes_back,
    }
}

/// An attachment of a chain of a plugin that makes an interface and another one.
struct Attached<'h> {
    host: &'h Host,
    container: Container,
    outside: Snapshot,
    inside: Snapshot,
    files: Vec<(String, String)>,
    plugins: Vec<String>,
}

/// Folders with what plugins remember of an attachment.
const RECORDS: &[&str] = &["/run/cni/tuning", "/run/cni/oxcni/sbr"];

fn records(host: &Host) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in RECORDS {
        let paths: BTreeSet<String> =
            host.files(folder).iter().map(|name| format!("{folder}/{name}")).collect();
        found.extend(paths.into_iter().map(|path| (path.clone(), host.exec(["cat", &path]))));
    }
    found
}

fn attach<'h>(host: &'h Host, plugins: &[Value]) -> Attached<'h> {
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    write(host, json!(plugins));
    let container = host.container("one");
    container.exec("ip link set lo up");
    ok(host, "add net /run/netns/one");
    host.wait_for_addresses();
    container.wait_for_addresses();
    let kind = |plugin: &Value| plugin["type"].as_str().expect("a type").to_owned();
    Attached {
        host,
        outside: host.snapshot(),
        inside: container.network_snapshot(),
        files: records(host),
        plugins: plugins.iter().map(kind).collect(),
        container,
    }
}

impl Attached<'_> {
    #[track_caller]
    fn expect_as_before(&self, damage: &str) {
        self.host.note(format!("after {damage}"));
        self.host.wait_for_addresses();
        self.container.wait_for_addresses();
        // The number of an action is given to each anew, and the address of a VRF.
        let anew = [" index ", r#""ifname":"blue""#];
        self.host.expect_unchanged_but(&self.outside, &anew);
        let inside = self.container.network_snapshot().without(&anew);
        self.inside.without(&anew).expect_same(&inside);
        assert_eq!(records(self.host), self.files, "{damage}");
    }

    /// After this damage, the last plugin of the chain does something, perhaps with
    /// those before it; then all is as it was, and nothing more is to be done.
    #[track_caller]
    fn expect_restored_after(&self, damage: &str) {
        let done = states(self.host, "restore --json");
        assert_eq!(done[0].0, "restored", "{damage}");
        assert_eq!(done[0].1.last(), self.plugins.last(), "{damage}");
        self.expect_as_before(damage);
        let again = states(self.host, "restore --json");
        assert_eq!(again[0], ("complete".to_owned(), Vec::new()), "{damage}");
        self.expect_as_before(damage);
    }

    /// DEL leaves nothing of what was restored.
    fn expect_del(self) {
        ok(self.host, "del net /run/netns/one");
        assert_eq!(self.container.links(), ["lo"]);
        assert_eq!(records(self.host), []);
        let left = self.host.links();
        assert!(!left.iter().any(|link| link.starts_with("bwp")), "{left:?}");
    }
}

fn bridge() -> Value {
    json!({"type": "bridge", "bridge": "cni0", "ipam": conf::fixed(&["10.1.0.2/24"])})
}

fn limits() -> Value {
    json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 1_600_000,
        "egressRate": 1_600_000})
}

fn limits_come_back(host: &Host) {
    let attached = attach(host, &[bridge(), limits()]);
    let links = host.links();
    let find = |prefix: &str| links.iter().find(|link| link.starts_with(prefix)).expect("made");
    let (end, ifb) = (find("veth"), find("bwp"));
    for damage in [
        format!("tc qdisc del dev {end} root"),
        format!("tc qdisc replace dev {end} root handle 1: tbf rate 1mbit burst 5k latency 25ms"),
        format!("tc qdisc del dev {end} ingress"),
        format!("tc filter del dev {end} parent ffff:"),
        format!("tc qdisc del dev {ifb} root"),
        format!("ip link set {ifb} down"),
        format!("ip link del {ifb}"),
    ] {
        host.exec(&damage);
        attached.expect_restored_after(&damage);
    }
    attached.expect_del();
}

fn limits_in_the_container_come_back(host: &Host) {
    let tap = json!({"type": "tap", "ipam": conf::fixed(&["10.1.0.2/24"])});
    let attached = attach(host, &[tap, limits()]);
    let links = attached.container.links();
    let ifb = links.iter().find(|link| link.starts_with("bwp")).expect("made");
    for damage in ["tc qdisc del dev eth0 root".to_owned(), format!("ip link del {ifb}")] {
        attached.container.exec(&damage);
        attached.expect_restored_after(&damage);
    }
    attached.expect_del();
}

/// Who put another qdisc there meanwhile, meant it.
fn limits_of_others_stay(host: &Host) {
    let attached = attach(host, &[bridge(), limits()]);
    let links = host.links();
    let end = links.iter().find(|link| link.starts_with("veth")).expect("made");
    host.exec(format!("tc qdisc del dev {end} root"));
    host.exec(format!("tc qdisc add dev {end} root handle 5: pfifo limit 9"));
    let output = cnitool(host, "restore");
    assert!(!output.success() && output.stderr.contains("root qdisc of kind pfifo"), "{output}");
    assert!(host.exec(format!("tc qdisc show dev {end}")).contains("qdisc pfifo 5:"));
    attached.expect_del();
}

fn parameters_come_back_and_the_backup_stays(host: &Host) {
    let tuning = json!({"type": "tuning", "mac": "02:00:00:00:00:0a", "mtu": 1400,
        "promisc": true, "allmulti": true, "txQLen": 77,
        "sysctl": {"net.ipv4.conf.IFNAME.proxy_arp": "1", "net.core.somaxconn": "500"}});
    let before = host.container("other").sysctl("net/core/somaxconn");
    let attached = attach(host, &[bridge(), tuning]);
    let container = &attached.container;
    for damage in [
        "ip link set eth0 mtu 1300",
        "ip link set eth0 promisc off",
        "ip link set eth0 allmulticast off",
        "ip link set eth0 txqueuelen 1000",
        "ip link set eth0 address 02:00:00:00:00:0b",
    ] {
        container.exec(damage);
        attached.expect_restored_after(damage);
    }
    for (name, value) in [("net/ipv4/conf/eth0/proxy_arp", "0"), ("net/core/somaxconn", "7")] {
        let meant = container.sysctl(name);
        container.set_sysctl(name, value);
        attached.expect_restored_after(name);
        assert_eq!(container.sysctl(name), meant);
    }
    // As it was before the ADD, and not before the RESTORE.
    container.set_sysctl("net/core/somaxconn", "7");
    ok(host, "restore");
    ok(host, "del net /run/netns/one");
    assert_eq!(container.sysctl("net/core/somaxconn"), before);
    attached.expect_del();
}

fn two_ways() -> Value {
    json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "static",
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}, {"dst": "::/0"}],
        "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"}]}})
}

fn rules_by_source_come_back(host: &Host) {
    let attached = attach(host, &[two_ways(), json!({"type": "sbr"})]);
    for damage in [
        "ip rule del from 10.1.0.2",
        "ip -6 rule del from 2001:db8:1::2",
        "ip route del default table 100",
        "ip route flush table 100",
        "ip -6 route flush table 101",
        "ip addr flush dev eth0 scope global",
        "ip link set eth0 down",
    ] {
        attached.container.exec(damage);
        attached.expect_restored_after(damage);
    }
    for damage in ["ip rule del from 10.1.0.2", "ip -6 rule del from 2001:db8:1::2"] {
        attached.container.exec(damage);
    }
    attached.expect_restored_after("both rules");
    attached.expect_del();
}

/// The main table of before ADD has the other one.
fn a_gateway_in_place_of_another_comes_back(host: &Host) {
    let sbr = json!({"type": "sbr", "gateways": ["10.1.0.9", "2001:db8:1::9"]});
    let attached = attach(host, &[two_ways(), sbr]);
    for damage in
        ["ip route flush table 100", "ip -6 route flush table 101", "ip link set eth0 down"]
    {
        attached.container.exec(damage);
        attached.expect_restored_after(damage);
    }
    attached.expect_del();
}

fn a_table_that_others_took_meanwhile_stays_theirs(host: &Host) {
    let bridge = json!({"type": "bridge", "bridge": "cni0", "ipam": conf::fixed(&["10.1.0.2/24"])});
    let attached = attach(host, &[bridge, json!({"type": "sbr"})]);
    let container = &attached.container;
    let main = container.routes("main");
    container.exec("ip rule del from 10.1.0.2");
    container.exec("ip route flush table 100");
    container.exec("ip rule add from 10.7.0.0/16 lookup 100");
    // Nothing tells that the way to the subnet was moved; it is moved again.
    let both = owned(&["bridge", "sbr"]);
    assert_eq!(states(host, "restore --json")[0], ("restored".to_owned(), both));
    assert_eq!(container.routes("main"), main);
    let rules = container.exec("ip rule show");
    assert!(rules.contains("from 10.1.0.2 lookup 101"), "{rules}");
    assert!(rules.contains("from 10.7.0.0/16 lookup 100"), "{rules}");
    assert_eq!(states(host, "restore --json")[0].0, "complete");
    // The record says so, too.
    ok(host, "del net /run/netns/one");
    let rules = container.exec("ip rule show");
    assert!(!rules.contains("10.1.0.2") && rules.contains("10.7.0.0/16"), "{rules}");
    attached.expect_del();
}

fn without_its_record_sbr_says_so(host: &Host) {
    let attached = attach(host, &[two_ways(), json!({"type": "sbr"})]);
    attached.container.exec("ip rule del from 10.1.0.2");
    host.exec("rm -r /run/cni/oxcni/sbr");
    let before = attached.container.network_snapshot();
    let output = cnitool(host, "restore");
    let told = output.stderr.contains("its record in /run/cni/oxcni/sbr is gone");
    assert!(!output.success() && told, "{output}");
    before.expect_same(&attached.container.network_snapshot());
    attached.expect_del();
}

fn a_vrf_comes_back(host: &Host) {
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
        "ipam": conf::fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])});
    let attached = attach(host, &[bridge, json!({"type": "vrf", "vrfname": "blue"})]);
    for damage in [
        "ip link set eth0 nomaster",
        "ip link set blue down",
        "ip route del default table 1",
        "ip -6 route del default table 1",
        "ip addr flush dev eth0 scope global",
        "ip link del blue",
    ] {
        attached.container.exec(damage);
        attached.expect_restored_after(damage);
        let stray = attached.container.routes("main dev eth0");
        assert_eq!(stray, Vec::<String>::new(), "{damage}");
    }
    attached.expect_del();
}
