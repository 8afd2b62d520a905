//! What STATUS says of each fault. The table is that of docs/reliability.md: a
//! row there is a case here, and the other way round.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Feature, Host, Netns as _, Outcome};

use crate::conf::{fixed, of_type, with};
use crate::masquerade::install_iptables;

/// A plugin, a fault in the words of the table, what it needs, and how the fault is
/// made and STATUS asked.
type Fault = (&'static str, &'static str, &'static [Feature], fn(&Host) -> Outcome);

const PAGE: &str = include_str!("../docs/reliability.md");

pub(crate) fn list() -> Vec<Case> {
    let case = |&(plugin, fault, needs, ask): &Fault| {
        let name = format!("status::{}::{}", slug(plugin), slug(fault));
        Case::new(name, needs, move |host| expect_row(plugin, fault, &ask(host))).ours_only()
    };
    let mut list: Vec<Case> = FAULTS.iter().map(case).collect();
    list.push(Case::pure("status::the_table_has_a_row_for_each_case", || {
        let cases: BTreeSet<_> =
            FAULTS.iter().map(|(plugin, fault, ..)| (*plugin, *fault)).collect();
        let rows: BTreeSet<_> = rows().map(|row| (row[0], row[1])).collect();
        assert_eq!(rows, cases, "left: docs/reliability.md; right: tests/status.rs");
    }));
    list.push(Case::new("status::without_a_fault_it_succeeds", &[Feature::OurPlugins], healthy));
    let refusing = Case::new("status::it_refuses_what_add_would", &[], refusing);
    list.push(refusing.ours_only());
    list
}

const FAULTS: &[Fault] = &[
    ("bridge", "a link of another kind has the bridge's name", &[], |host| {
        host.exec("ip link add cni0 type veth peer name other");
        status(host, "bridge", json!({}))
    }),
    (
        "bridge",
        "`ipMasqBackend` is `iptables`, and that is not installed",
        &[Feature::Nft],
        |host| {
            install_iptables(host, "");
            status(host, "bridge", json!({"ipMasq": true, "ipMasqBackend": "iptables"}))
        },
    ),
    (
        "bridge",
        "`ipMasqBackend` is `nftables`, and the kernel has none",
        &[Feature::Strace],
        |host| {
            let conf =
                of_type(host, "bridge", json!({"ipMasq": true, "ipMasqBackend": "nftables"}));
            // Its second socket.
            host.plugin("bridge").fail_call("socket", "EPROTONOSUPPORT", 2).status(&conf)
        },
    ),
    (
        "bridge",
        "`macspoofchk` is set, and the kernel has no nftables",
        &[Feature::Strace],
        |host| {
            let conf = of_type(host, "bridge", json!({"macspoofchk": true}));
            host.plugin("bridge").fail_call("socket", "EPROTONOSUPPORT", 2).status(&conf)
        },
    ),
    ("every plugin with `ipam`", "the address plugin is not installed", &[], |host| {
        status(host, "bridge", json!({"ipam": {"type": "none-such"}}))
    }),
    ("every plugin with `ipam`", "the address plugin cannot serve an ADD", &[], |host| {
        full(host);
        status(host, "ptp", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/30"}}))
    }),
    ("macvlan, vlan, ipvlan", "the parent is not there", &[], |host| {
        let parent = json!({"master": "eth7", "vlanId": 5, "ipam": fixed(&["10.1.0.2/24"])});
        same(["macvlan", "vlan", "ipvlan"].map(|plugin| status(host, plugin, parent.clone())))
    }),
    ("macvlan, vlan, ipvlan", "the parent is down", &[], |host| {
        host.exec("ip link add eth7 type veth peer name other");
        let parent = json!({"master": "eth7", "vlanId": 5, "ipam": fixed(&["10.1.0.2/24"])});
        same(["macvlan", "vlan", "ipvlan"].map(|plugin| status(host, plugin, parent.clone())))
    }),
    ("macvlan", "no parent is named, and there is no default route", &[], |host| {
        status(host, "macvlan", json!({"ipam": fixed(&["10.1.0.2/24"])}))
    }),
    ("host-device", "the device is not there", &[], |host| {
        status(host, "host-device", json!({"device": "ens5"}))
    }),
    ("tap", "the host has no tap devices", &[], |host| {
        host.exec("mount -t tmpfs tmpfs /dev/net");
        status(host, "tap", json!({}))
    }),
    ("flannel", "flanneld has not leased a subnet", &[], |host| status(host, "flannel", json!({}))),
    ("flannel", "its file lacks a key", &[], |host| {
        host.write("/run/flannel/subnet.env", "FLANNEL_NETWORK=10.1.0.0/16\n");
        status(host, "flannel", json!({}))
    }),
    ("flannel", "the delegate is not installed", &[], |host| {
        let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\n\
                     FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        host.write("/run/flannel/subnet.env", lease);
        status(host, "flannel", json!({"delegate": {"type": "none-such"}}))
    }),
    ("portmap", "`backend` is `iptables`, and that is not installed", &[Feature::Nft], |host| {
        install_iptables(host, "");
        status(host, "portmap", json!({"backend": "iptables"}))
    }),
    ("firewall", "`backend` is `iptables`, and that is not installed", &[Feature::Nft], |host| {
        install_iptables(host, "");
        status(host, "firewall", json!({"backend": "iptables"}))
    }),
    ("firewall", "`backend` is `firewalld`, which does not run", &[], |host| {
        status(host, "firewall", json!({"backend": "firewalld"}))
    }),
    ("host-local", "a range set has no free address", &[], |host| {
        full(host);
        status(host, "host-local", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/30"}}))
    }),
    ("host-local", "the disk is full", &[], |host| {
        fs::create_dir_all(LEASES).expect("a private folder");
        host.exec(format!("mount -t tmpfs -o size=16k tmpfs {LEASES}"));
        let filler = |n: usize| fs::write(Path::new(LEASES).join(format!("filler{n}")), [1; 4096]);
        let full = (0..100).find(|n| filler(*n).is_err());
        assert!(full.is_some(), "it does not fill up");
        let told = leased(host, json!({}));
        host.exec(format!("umount {LEASES}"));
        told
    }),
    ("host-local", "the directory cannot be written", &[], |host| {
        fs::create_dir_all(LEASES).expect("a private folder");
        host.exec(format!("mount -t tmpfs tmpfs {LEASES}"));
        host.exec(format!("mount -o remount,bind,ro {LEASES}"));
        let told = leased(host, json!({}));
        host.exec(format!("umount {LEASES}"));
        told
    }),
    ("host-local", "another process keeps the lock", &[], |host| {
        fs::create_dir_all(LEASES).expect("a private folder");
        let lock = fs::File::create(format!("{LEASES}/lock")).expect("our folder");
        lock.lock().expect("nobody has it");
        leased(host, json!({"lockTimeout": 0}))
    }),
    ("host-local", "`resolvConf` cannot be read", &[], |host| {
        leased(host, json!({"resolvConf": "/run/none-such"}))
    }),
    ("every plugin", "the configuration is not valid", &[], |host| {
        same(["bridge", "firewall"].map(|plugin| {
            let key = if plugin == "bridge" { "mtu" } else { "backend" };
            status(host, plugin, json!({key: []}))
        }))
    }),
];

const LEASES: &str = "/var/lib/cni/networks/net";

fn status(host: &Host, plugin: &str, keys: Value) -> Outcome {
    host.plugin(plugin).status(&of_type(host, plugin, keys))
}

fn leased(host: &Host, keys: Value) -> Outcome {
    let ipam = with(&json!({"type": "host-local", "subnet": "10.1.0.0/24"}), keys);
    status(host, "host-local", json!({"ipam": ipam}))
}

/// One address can be given, and somebody has it.
fn full(host: &Host) {
    host.write(format!("{LEASES}/10.1.0.2"), "c1\r\neth0");
}

/// Answers of several plugins to one fault, which must be of one form.
fn same<const N: usize>(outcomes: [Outcome; N]) -> Outcome {
    let codes: BTreeSet<_> = outcomes.iter().map(|o| o.document()["code"].to_string()).collect();
    assert_eq!(codes.len(), 1, "{codes:?}");
    let mut outcomes = outcomes.into_iter();
    outcomes.next_back().expect("there is one")
}

#[track_caller]
fn expect_row(plugin: &str, fault: &str, outcome: &Outcome) {
    let row = rows().find(|row| row[..2] == [plugin, fault]);
    let row = row.unwrap_or_else(|| panic!("no row for {plugin}, {fault}: {outcome}"));
    let told = outcome.document();
    let msg = told["msg"].as_str().expect("a text");
    assert_eq!(told["code"].to_string(), row[2], "{outcome}");
    assert!(fits(msg, row[3].trim_matches('`')), "the table has {}\nSTATUS says `{msg}`", row[3]);
    assert_eq!(msg.lines().count(), 1, "{outcome}");
}

/// Whether a message is as the table says, where two dots stand for anything.
fn fits(msg: &str, pattern: &str) -> bool {
    let mut parts = pattern.split("..");
    let start = parts.next().unwrap_or_default();
    let Some(mut rest) = msg.strip_prefix(start) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

/// Plugin, fault, code and message of each row of the table under the heading
/// "STATUS".
fn rows() -> impl Iterator<Item = [&'static str; 4]> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with("STATUS"));
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| "));
    rows.skip(1).map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    })
}

fn slug(fault: &str) -> String {
    let letters = fault.chars().filter(|c| *c != '`' && *c != '\'' && *c != ',');
    letters.map(|c| if c == ' ' { '_' } else { c }).collect()
}

fn healthy(host: &Host) {
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
    for (plugin, keys) in [
        ("bridge", json!({})),
        ("ptp", json!({"ipam": fixed(&["10.1.0.2/24"])})),
        ("macvlan", json!({"master": "eth7"})),
        ("host-device", json!({"device": "eth7"})),
        ("loopback", json!({})),
        ("portmap", json!({})),
        ("firewall", json!({})),
        ("static", json!({"ipam": fixed(&["10.1.0.2/24"])})),
        ("host-local", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}})),
    ] {
        status(host, plugin, keys).expect_ok();
    }
}

/// One mistake in a good configuration, or two keys that contradict each other.
fn refusing(host: &Host) {
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
    let good = json!({"master": "eth7", "vlanId": 5, "device": "eth7",
        "ipam": fixed(&["10.1.0.2/24"])});
    let container = host.container("pod");
    let before = host.snapshot();
    for (plugin, keys) in [
        ("ptp", json!({"mtu": "big"})),
        ("ptp", json!({"dns": {"nameservers": 1}})),
        ("ptp", json!({"ipam": {}})),
        ("macvlan", json!({"mode": "source"})),
        ("macvlan", json!({"mtu": -1})),
        ("macvlan", json!({"mtu": 9000})),
        ("macvlan", json!({"mac": "zz"})),
        ("macvlan", json!({"hostShim": true, "mode": "vepa"})),
        ("macvlan", json!({"hostShim": true, "ipam": {}})),
        ("ipvlan", json!({"mode": "l4"})),
        ("ipvlan", json!({"mtu": -1})),
        ("ipvlan", json!({"mtu": 9000})),
        ("ipvlan", json!({"hostShim": true, "linkInContainer": true})),
        ("vlan", json!({"vlanId": 4095})),
        ("vlan", json!({"mtu": -1})),
        ("vlan", json!({"mtu": 9000})),
        ("vlan", json!({"disableIPv6WhenUnused": 1})),
        ("host-device", json!({"kernelpath": "/tmp", "device": ""})),
        ("host-device", json!({"dns": {"search": "x"}})),
        ("dummy", json!({"ipam": {}})),
        ("dummy", json!({"dns": {"domain": 1}})),
        ("tap", json!({"mtu": -1})),
        ("tap", json!({"owner": u32::MAX})),
        ("tap", json!({"mac": "ff:ff:ff:ff:ff:ff"})),
        ("tap", json!({"selinuxContext": "a b"})),
    ] {
        let conf = with(&of_type(host, plugin, good.clone()), keys);
        let refused = host.plugin(plugin).add(&container, "eth0", &conf).expect_error(7, "");
        let told = host.plugin(plugin).status(&conf).expect_error(7, "");
        assert_eq!(told, refused, "left: STATUS, right: ADD, of {conf}");
        host.expect_unchanged(&before);
    }
}
