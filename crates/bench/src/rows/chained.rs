//! Plugins that come behind another one, and whole chains. What is in front of a
//! single one is not timed. There is no CHECK of chains in which the peer's does
//! not find what its own ADD made: routes behind sbr, rules of portmap.

use super::{bridge, ipam, plugin};
use crate::Outcome;
use crate::contender::Contender;
use crate::scenario::Need::{AtMost, Faster, LinkDeletion, NoDuplicate, NothingLeft, Within};
use crate::scenario::Verb::{Add, Check, Del};
use crate::scenario::{Link, Plugin, Scenario};
use serde_json::{Value, json};
use std::fs;

const DELEGATE: &str = "bridge + host-local, as flannel's delegate";

/// Where the scenarios' flanneld would write.
const SUBNET_FILE: &str = "/run/bench-subnet.env";

pub(super) fn all() -> Vec<Scenario> {
    let one_deletion = AtMost { counter: "link-deletions", most: 1 };
    vec![
        Scenario::new("bandwidth", "both directions", |contender| {
            behind_ptp(contender, "10.91.0.0/16", plugin("bandwidth", rates()))
        })
        .link(IFB)
        .verb(Add, &[Faster(4.0)])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        Scenario::new("tuning", "", |contender| {
            behind_ptp(contender, "10.92.0.0/16", plugin("tuning", tuned()))
        })
        .verb(Add, &[Faster(5.0)])
        .verb(Check, &[])
        .verb(Del, &[]),
        Scenario::new("sbr", "", |contender| {
            behind_ptp(contender, "10.93.0.0/16", plugin("sbr", json!({})))
        })
        .verb(Add, &[Faster(5.0)])
        .verb(Del, &[]),
        // The peer's release has no flannel.
        Scenario::new("bridge + host-local", "as flannel's delegate", |contender| {
            vec![plugin("bridge", delegate(contender))]
        })
        .group("flannel")
        .only_ours()
        .verb(Add, &[])
        .verb(Del, &[]),
        Scenario::new("flannel", "", |contender| {
            let conf = json!({
                // Not the network's own folder, which has the leases.
                "subnetFile": SUBNET_FILE, "dataDir": contender.data.join("flannel-states"),
                "delegate": {"bridge": "bench-fl", "isDefaultGateway": true, "ipMasq": false},
                "ipam": {"dataDir": contender.data},
            });
            vec![plugin("flannel", conf)]
        })
        .group("flannel")
        .prepare(subnet_file)
        .only_ours()
        .verb(Add, &[Within { than: DELEGATE, ms: 0.5 }])
        .verb(Del, &[]),
        Scenario::new("the whole chain", "nftables", |contender| {
            whole(contender, "nftables", "10.95.0.0/16")
        })
        .verb(Add, &[Faster(10.0)])
        .verb(Del, &[Faster(3.0)]),
        Scenario::new("the whole chain", "iptables", |contender| {
            whole(contender, "iptables", "10.96.0.0/16")
        })
        .by_iptables()
        .verb(Add, &[])
        .verb(Del, &[]),
        Scenario::new("the whole chain", "20 at once", |contender| {
            whole(contender, "nftables", "10.97.0.0/16")
        })
        .at_once(20)
        .verb(Add, &[Faster(10.0), NoDuplicate])
        .verb(Del, &[NothingLeft]),
    ]
}

fn behind_ptp(contender: &Contender, subnet: &str, last: Plugin) -> Vec<Plugin> {
    let mut ipam = ipam(contender, &[subnet]);
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    vec![plugin("ptp", json!({"ipam": ipam})).not_timed(), last]
}

fn rates() -> Value {
    json!({
        "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
        "egressRate": 80_000_000, "egressBurst": 8_000_000,
    })
}

fn tuned() -> Value {
    json!({"sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400})
}

/// What flannel makes of `SUBNET`.
fn delegate(contender: &Contender) -> Value {
    json!({
        "bridge": "bench-fl", "isGateway": true, "isDefaultGateway": true,
        "ipMasq": false, "mtu": 1450,
        "ipam": ipam(contender, &["10.94.7.0/24"]),
    })
}

fn subnet_file(_: &Contender) -> Outcome<()> {
    let text = "FLANNEL_NETWORK=10.94.0.0/16\nFLANNEL_SUBNET=10.94.7.1/24\n\
                FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    fs::write(SUBNET_FILE, text).map_err(|e| format!("write {SUBNET_FILE}: {e}"))
}

/// bridge, host-local, portmap with two ports, firewall, bandwidth, tuning. The
/// peer has iptables only.
fn whole(contender: &Contender, backend: &str, subnet: &str) -> Vec<Plugin> {
    let backend = if contender.is_ours { backend } else { "iptables" };
    let mut first = bridge(contender, &[subnet]).remove(0);
    first.conf["bridge"] = json!(format!("chain-{}", &subnet[3..5]));
    let ports = json!([
        {"hostPort": 20_000, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 30_000, "containerPort": 53, "protocol": "udp"},
    ]);
    vec![
        first,
        plugin("portmap", json!({"backend": backend, "runtimeConfig": {"portMappings": ports}})),
        plugin("firewall", json!({"backend": backend})),
        plugin("bandwidth", rates()),
        plugin("tuning", tuned()),
    ]
}

/// The link that the plugin bandwidth makes.
const IFB: Link = Link {
    once: "",
    make: "link add link0 type ifb\n\
           link set link0 addrgenmode none\n\
           link set link0 up\n",
    inside: "",
};
