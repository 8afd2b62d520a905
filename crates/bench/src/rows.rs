//! The table: what is measured, and what it must reach. A new row is a few lines
//! here; `scenario` has the words.

mod chained;
mod interfaces;
mod netfilter;

use crate::contender::Contender;
use crate::leases::{SUBNET, attachments};
use crate::scenario::Need::{AtMost, Faster, Growth, LinkDeletion, NoDuplicate};
use crate::scenario::Verb::{Add, Check, Del, Gc, Status, Version};
use crate::scenario::{Link, Plugin, Scenario};
use serde_json::{Value, json};

/// KiB that no verb of ours may need more of.
pub(crate) const PEAK_KIB: u64 = 3 * 1024;

/// KiB that all plugins may take on the disk, hard links counted once: 2 MiB,
/// and what was granted for the packet filter (portmap, firewall, masquerade),
/// for the other interfaces and for the chained plugins.
pub(crate) const INSTALLED_KIB: u64 = 2 * 1024 + 250 + 200 + 200;

/// Many enough to see what grows with them.
const MANY: u32 = 10_000;

/// All rows, in the order of the report.
pub(crate) fn all() -> Vec<Scenario> {
    [basics(), netfilter::all(), interfaces::all(), chained::all()].into_iter().flatten().collect()
}

fn basics() -> Vec<Scenario> {
    vec![
        Scenario::new("loopback", "", |_| vec![plugin("loopback", json!({}))])
            .verb(Version, &[Faster(6.0)])
            .verb(Add, &[Faster(6.0)])
            .verb(Check, &[])
            .verb(Del, &[AtMost { counter: "link-deletions", most: 0 }]),
        Scenario::new("static", "", |_| vec![plugin("static", json!({"ipam": addresses()}))])
            .verb(Version, &[Faster(6.0)])
            .verb(Add, &[Faster(6.0)])
            .verb(Check, &[])
            .verb(Del, &[]),
        Scenario::new("host-local", "empty", host_local)
            .group("host-local")
            .verb(Add, &[Faster(5.0)])
            .verb(Check, &[])
            .verb(Del, &[]),
        Scenario::new("host-local", "10,000 leases", host_local)
            .group("host-local")
            .leases(MANY)
            .verb(Add, &[Faster(60.0), Growth { than: "host-local, empty", times: 1.5 }])
            .verb(Check, &[Growth { than: "host-local, empty", times: 1.5 }])
            .verb(Del, &[Growth { than: "host-local, empty", times: 1.5 }]),
        Scenario::new("host-local", "50 at once on 10,000 leases", host_local)
            .leases(MANY)
            .at_once(50)
            .verb(Add, &[Faster(40.0), NoDuplicate])
            .verb(Del, &[]),
        Scenario::new("host-local", "10,000 leases, all valid", |contender| {
            let mut plugins = host_local(contender);
            // Runtimes write both.
            for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                plugins[0].conf[key] = attachments(MANY);
            }
            plugins
        })
        .leases(MANY)
        .only_ours()
        .verb(Gc, &[]),
        Scenario::new("host-local", "10,000 leases of others", host_local)
            .leases(MANY)
            .only_ours()
            .verb(Status, &[]),
        Scenario::new("bridge + host-local", "gateway, IPv4", |contender| {
            bridge(contender, &["10.65.0.0/16"])
        })
        .link(BRIDGE_PORT)
        .verb(Add, &[Faster(4.0)])
        .verb(Check, &[])
        .verb(Del, &[LinkDeletion { ms: 2.0 }, AtMost { counter: "link-deletions", most: 1 }]),
        Scenario::new("bridge + host-local", "gateway, dual stack", |contender| {
            bridge(contender, &["10.66.0.0/16", "fd00:10:66::/64"])
        })
        .verb(Add, &[])
        .verb(Check, &[])
        .verb(Del, &[AtMost { counter: "link-deletions", most: 1 }]),
        Scenario::new("bridge", "", |contender| bridge(contender, &["10.67.0.0/16"]))
            .only_ours()
            .verb(Status, &[]),
    ]
}

fn plugin(program: &'static str, mut conf: Value) -> Plugin {
    conf["type"] = json!(program);
    Plugin { program, conf, timed: true }
}

fn addresses() -> Value {
    json!({
        "type": "static",
        "addresses": [{"address": "10.63.0.5/24", "gateway": "10.63.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    })
}

/// The configuration of addresses from the leases on the contender's disk.
fn ipam(contender: &Contender, subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({"type": "host-local", "dataDir": contender.data, "ranges": ranges})
}

fn host_local(contender: &Contender) -> Vec<Plugin> {
    vec![plugin("host-local", json!({"ipam": ipam(contender, &[SUBNET])}))]
}

fn bridge(contender: &Contender, subnets: &[&str]) -> Vec<Plugin> {
    let ipam = ipam(contender, subnets);
    let name = format!("bench{}", subnets.len());
    vec![plugin("bridge", json!({"bridge": name, "isGateway": true, "ipam": ipam}))]
}

/// The veth pair that the plugin bridge makes.
const BRIDGE_PORT: Link = Link {
    once: "link add link1 type bridge\n\
           address add 10.62.0.1/16 dev link1\n\
           link set link1 up\n",
    make: "link add link0 master link1 up type veth peer name eth0 netns NETNS\n\
           link set link0 addrgenmode none\n",
    inside: "address add 10.62.0.2/16 dev eth0\n\
             link set eth0 up\n",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts;
    use crate::scenario::Need;
    use std::collections::BTreeSet;

    #[test]
    fn rows_refer_to_what_there_is() {
        let all = all();
        for scenario in &all {
            for (verb, need) in
                scenario.verbs.iter().flat_map(|(verb, needs)| needs.iter().map(move |n| (verb, n)))
            {
                match need {
                    Growth { than, .. } | Need::Within { than, .. } => {
                        let other = all.iter().find(|other| other.name() == *than);
                        let other = other.unwrap_or_else(|| panic!("no scenario {than:?}"));
                        assert!(other.verbs.iter().any(|(theirs, _)| theirs == verb));
                    }
                    AtMost { counter, .. } => assert!(counts::is_known(counter), "{counter}"),
                    LinkDeletion { .. } => assert!(scenario.link.is_some()),
                    Faster(_) | Need::Slower(_) | Need::NoMoreProcesses => {
                        assert!(!scenario.only_ours);
                    }
                    NoDuplicate => assert!(scenario.at_once > 1),
                    Need::NothingLeft => assert_eq!(*verb, Del),
                }
            }
        }
    }

    #[test]
    fn rows_and_networks_are_named_once() {
        let all = all();
        let rows = all
            .iter()
            .flat_map(|scenario| scenario.verbs.iter().map(move |(verb, _)| scenario.row(*verb)));
        let rows: Vec<_> = rows.collect();
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
        let networks: BTreeSet<_> = all.iter().map(Scenario::network).collect();
        assert_eq!(networks.len(), all.len());
    }
}
