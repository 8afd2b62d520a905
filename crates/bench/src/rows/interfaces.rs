//! Plugins that make an interface, but for bridge.

use super::{ipam, plugin};
use crate::Outcome;
use crate::contender::Contender;
use crate::host::run;
use crate::scenario::Need::{AtMost, Faster, Growth, LinkDeletion};
use crate::scenario::Verb::{Add, Check, Del};
use crate::scenario::{Link, Plugin, Scenario};
use serde_json::json;

pub(super) fn all() -> Vec<Scenario> {
    let one_deletion = AtMost { counter: "link-deletions", most: 1 };
    vec![
        Scenario::new("ptp + host-local", "IPv4", |contender| ptp(contender, &["10.81.0.0/16"]))
            .link(PAIR)
            .verb(Add, &[Faster(4.0)])
            .verb(Check, &[])
            .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        Scenario::new("ptp + host-local", "dual stack", |contender| {
            ptp(contender, &["10.82.0.0/16", "fd00:10:82::/64"])
        })
        .verb(Add, &[Faster(8.0)])
        .verb(Check, &[])
        .verb(Del, &[one_deletion]),
        Scenario::new("macvlan + host-local", "IPv4", |contender| {
            macvlan(contender, &["10.83.0.0/16"])
        })
        .prepare(parent)
        .link(MACVLAN)
        .verb(Add, &[Faster(4.0)])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        Scenario::new("macvlan + host-local", "dual stack", |contender| {
            macvlan(contender, &["10.84.0.0/16", "fd00:10:84::/64"])
        })
        .prepare(parent)
        .verb(Add, &[Faster(8.0)])
        .verb(Check, &[])
        .verb(Del, &[one_deletion]),
        // Debian's release has no tap. A device without carrier has nobody to ask
        // whether an address is free, and so must not be the slower for it.
        Scenario::new("tap + host-local", "IPv4, no carrier", |contender| {
            tap(contender, &["10.86.0.0/16"])
        })
        .group("tap")
        .peer_may_lack("tap")
        .link(TAP)
        .verb(Add, &[])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        Scenario::new("tap + host-local", "dual stack, no carrier", |contender| {
            tap(contender, &["10.85.0.0/16", "fd00:10:85::/64"])
        })
        .group("tap")
        .peer_may_lack("tap")
        .verb(
            Add,
            &[Faster(50.0), Growth { than: "tap + host-local, IPv4, no carrier", times: 3.0 }],
        )
        .verb(Check, &[])
        .verb(Del, &[one_deletion]),
        Scenario::new("vlan + host-local", "IPv4", |contender| {
            on_parent(contender, "vlan", &["10.87.0.0/16"])
        })
        .kernel_may_lack("vlan")
        .prepare(parent)
        .link(VLAN)
        .verb(Add, &[])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        Scenario::new("ipvlan + host-local", "IPv4", |contender| {
            on_parent(contender, "ipvlan", &["10.88.0.0/16"])
        })
        .kernel_may_lack("ipvlan")
        // A parent bears either macvlans or these.
        .prepare(second_parent)
        .link(IPVLAN)
        .verb(Add, &[])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        Scenario::new("dummy + host-local", "IPv4", |contender| {
            vec![plugin("dummy", json!({"ipam": ipam(contender, &["10.89.0.0/16"])}))]
        })
        .kernel_may_lack("dummy")
        .link(DUMMY)
        .verb(Add, &[])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, one_deletion]),
        // It deletes no link, but moves one, which takes the kernel no less.
        Scenario::new("host-device + host-local", "IPv4", |contender| {
            let ipam = ipam(contender, &["10.90.0.0/16"]);
            vec![plugin("host-device", json!({"device": "lent0", "ipam": ipam}))]
        })
        .prepare(lent)
        .link(LENT)
        .verb(Add, &[])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, AtMost { counter: "link-deletions", most: 0 }]),
    ]
}

fn on_parent(contender: &Contender, kind: &'static str, subnets: &[&str]) -> Vec<Plugin> {
    let master = if kind == "ipvlan" { "parent1" } else { "parent0" };
    let conf = json!({"master": master, "vlanId": 5, "ipam": ipam(contender, subnets)});
    vec![plugin(kind, conf)]
}

fn ptp(contender: &Contender, subnets: &[&str]) -> Vec<Plugin> {
    let mut ipam = ipam(contender, subnets);
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    vec![plugin("ptp", json!({"ipam": ipam}))]
}

/// The first address of each subnet is the gateway.
fn tap(contender: &Contender, subnets: &[&str]) -> Vec<Plugin> {
    vec![plugin("tap", json!({"ipam": ipam(contender, subnets)}))]
}

fn macvlan(contender: &Contender, subnets: &[&str]) -> Vec<Plugin> {
    vec![plugin("macvlan", json!({"master": "parent0", "ipam": ipam(contender, subnets)}))]
}

/// A parent with a carrier.
fn parent(_: &Contender) -> Outcome<()> {
    pair("parent0", "wire0")
}

fn second_parent(_: &Contender) -> Outcome<()> {
    pair("parent1", "wire1")
}

fn lent(_: &Contender) -> Outcome<()> {
    pair("lent0", "wire2")
}

/// Makes a pair that is up.
fn pair(one: &str, other: &str) -> Outcome<()> {
    if run("ip", &["link", "show", one], "").is_ok() {
        return Ok(());
    }
    let make = format!(
        "link add {one} type veth peer name {other}\nlink set {one} up\nlink set {other} up\n"
    );
    run("ip", &["-batch", "-"], &make).map(drop)
}

/// The veth pair that the plugin ptp makes, with the addresses and routes of both
/// ends: the kernel takes them away with it.
const PAIR: Link = Link {
    once: "",
    make: "link add link0 up type veth peer name eth0 netns NETNS\n\
           address add 10.81.0.1/32 dev link0\n\
           route add 10.81.200.2/32 dev link0\n",
    inside: "address add 10.81.200.2/16 dev eth0 noprefixroute\n\
             link set eth0 up\n\
             route add 10.81.0.1/32 dev eth0 src 10.81.200.2\n\
             route add 10.81.0.0/16 via 10.81.0.1 src 10.81.200.2\n\
             route add default via 10.81.0.1\n",
};

/// The link that the plugin macvlan makes; a link of the host, to be deleted
/// by the name that is deleted.
const MACVLAN: Link = Link {
    once: "",
    make: "link add link0 link parent0 type macvlan mode bridge\n\
           address add 10.83.0.2/16 dev link0\n\
           link set link0 up\n",
    inside: "",
};

/// The device that the plugin tap makes, likewise.
const TAP: Link = Link {
    once: "",
    make: "tuntap add dev link0 mode tap\n\
           address add 10.86.0.2/16 dev link0\n\
           link set link0 up\n",
    inside: "",
};

/// The link that the plugin vlan makes, likewise; with an ID of its own.
const VLAN: Link = Link {
    once: "",
    make: "link add link0 link parent0 type vlan id 9\n\
           address add 10.87.0.2/16 dev link0\n\
           link set link0 up\n",
    inside: "",
};

/// The link that the plugin ipvlan makes, likewise.
const IPVLAN: Link = Link {
    once: "",
    make: "link add link0 link parent1 type ipvlan mode l2\n\
           address add 10.88.0.2/16 dev link0\n\
           link set link0 up\n",
    inside: "",
};

/// The link that the plugin dummy makes, likewise.
const DUMMY: Link = Link {
    once: "",
    make: "link add link0 type dummy\n\
           address add 10.89.0.2/16 dev link0\n\
           link set link0 up\n",
    inside: "",
};

/// A pair like the one of which an end is lent.
const LENT: Link = Link {
    once: "",
    make: "link add link0 up type veth peer name eth0 netns NETNS\n\
           address add 10.90.0.1/16 dev link0\n",
    inside: "address add 10.90.0.2/16 dev eth0\n\
             link set eth0 up\n",
};
