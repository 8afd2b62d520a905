//! What works on the packet filter. The peer has iptables only, and is asked
//! for that whatever ours is asked for. Its portmap's CHECK fails on what its ADD
//! has made, so there is none beside it.

use super::{ipam, plugin};
use crate::Outcome;
use crate::contender::{Container, Contender, Under, call};
use crate::host::{Netns, run};
use crate::scenario::Need::{self, AtMost, Faster, Growth, Slower, Within};
use crate::scenario::Verb::{Add, Check, Del};
use crate::scenario::{Plugin, Scenario};
use serde_json::{Value, json};

const ONE: &str = "portmap, one mapping, nftables";

/// The socket is not even opened.
const NO_NETFILTER: Need = AtMost { counter: "netfilter", most: 0 };

/// Each waits for the kernel: 10 to 16 ms where it removes something.
const ONE_BATCH: Need = AtMost { counter: "nft-batches", most: 1 };

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("bridge + host-local", "ipMasq, nftables", |contender| {
            masquerading(contender, "nftables", "10.71.0.0/16")
        })
        .verb(Add, &[Faster(8.0)])
        .verb(Check, &[])
        .verb(Del, &[AtMost { counter: "link-deletions", most: 1 }, ONE_BATCH]),
        Scenario::new("bridge + host-local", "ipMasq, iptables", |contender| {
            masquerading(contender, "iptables", "10.72.0.0/16")
        })
        .by_iptables()
        .verb(Add, &[Faster(2.5)])
        .verb(Check, &[])
        .verb(Del, &[AtMost { counter: "link-deletions", most: 1 }]),
        Scenario::new("portmap", "no mapping", |_| portmap("nftables", 0))
            .verb(Add, &[Faster(6.0), NO_NETFILTER])
            .verb(Check, &[NO_NETFILTER])
            .verb(Del, &[NO_NETFILTER]),
        Scenario::new("portmap", "one mapping, nftables", |_| portmap("nftables", 1))
            .group("portmap by nftables")
            .verb(Add, &[Faster(20.0)])
            .verb(Del, &[ONE_BATCH]),
        Scenario::new("portmap", "100 mappings, nftables", |_| portmap("nftables", 100))
            .group("portmap by nftables")
            .only_ours()
            .verb(Add, &[Within { than: ONE, ms: 2.0 }])
            .verb(Check, &[])
            .verb(Del, &[ONE_BATCH]),
        Scenario::new("portmap", "one mapping beside 10,000, nftables", |_| portmap("nftables", 1))
            .group("portmap by nftables")
            .only_ours()
            .prepare(ten_thousand_mappings)
            .verb(Add, &[Growth { than: ONE, times: 1.5 }])
            .verb(Check, &[])
            .verb(Del, &[ONE_BATCH]),
        Scenario::new("portmap", "one mapping, iptables", |_| portmap("iptables", 1))
            .by_iptables()
            .verb(Add, &[Faster(4.0)])
            .verb(Del, &[]),
        Scenario::new("portmap", "100 mappings, iptables", |_| portmap("iptables", 100))
            .by_iptables()
            .verb(Add, &[Faster(20.0)])
            .verb(Del, &[]),
        Scenario::new("firewall", "nftables", |contender| firewall(contender, "nftables"))
            .verb(Add, &[Faster(15.0)])
            .verb(Check, &[])
            .verb(Del, &[ONE_BATCH]),
        Scenario::new("firewall", "iptables", |contender| firewall(contender, "iptables"))
            .by_iptables()
            .verb(Add, &[Faster(4.0)])
            .verb(Check, &[])
            .verb(Del, &[]),
        Scenario::new("firewall", "beside 1,000 services", |_| {
            vec![plugin("firewall", json!({"prevResult": previous(5)}))]
        })
        .by_iptables()
        .prepare(thousand_services)
        .verb(Add, &[Slower(1.0)])
        .verb(Check, &[Slower(1.0)])
        .verb(Del, &[]),
    ]
}

fn masquerading(contender: &Contender, backend: &str, subnet: &str) -> Vec<Plugin> {
    let conf = json!({
        "bridge": format!("masq-{backend}"), "isGateway": true, "ipMasq": true,
        "ipMasqBackend": backend, "ipam": ipam(contender, &[subnet]),
    });
    vec![plugin("bridge", conf)]
}

/// What the plugin before it in a chain would have said.
fn previous(host: u8) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "bench0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/bench"},
        ],
        "ips": [{"address": format!("10.73.0.{host}/16"), "interface": 1}],
    })
}

fn portmap(backend: &str, mappings: u16) -> Vec<Plugin> {
    let conf = json!({
        "backend": backend, "prevResult": previous(5),
        "runtimeConfig": {"portMappings": self::mappings(20_000, mappings)},
    });
    vec![plugin("portmap", conf)]
}

fn mappings(first: u16, count: u16) -> Value {
    (0..count)
        .map(|n| json!({"hostPort": first + n, "containerPort": 80, "protocol": "tcp"}))
        .collect()
}

/// Of other networks' containers, 500 each.
fn ten_thousand_mappings(contender: &Contender) -> Outcome<()> {
    // Of a namespace that lives.
    let netns = Netns::ensure("others")?;
    for number in 0..20u8 {
        let mut conf = portmap("nftables", 0).remove(0).conf;
        conf["prevResult"] = previous(100 + number);
        conf["cniVersion"] = "1.0.0".into();
        conf["name"] = "others".into();
        conf["runtimeConfig"]["portMappings"] = mappings(30_000 + 500 * u16::from(number), 500);
        let container = Container { id: format!("other-{number}"), netns: netns.clone() };
        call(contender, "portmap", Add, &container, &conf, Under::Nothing)?;
    }
    Ok(())
}

/// What kube-proxy has for them, of three containers each: 4,000 rules of another
/// table, and one that lets the firewall choose iptables.
fn thousand_services(_: &Contender) -> Outcome<()> {
    let first = "*filter\n-N KUBE-FORWARD\n-A FORWARD -j KUBE-FORWARD\nCOMMIT\n\
                 *nat\n-N KUBE-SERVICES\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
    run("iptables-restore", &["--noflush"], first)?;
    for some in 0..20u8 {
        let mut rules = "*nat\n".to_owned();
        for number in 0..50u8 {
            let chain = format!("KUBE-SVC-{some}-{number}");
            let dnat = "-m statistic --mode random --probability 0.3 -p tcp -j DNAT";
            rules += &format!(
                "-N {chain}\n-A KUBE-SERVICES -d 10.96.{some}.{number} -p tcp --dport 80 -j {chain}\n"
            );
            for container in 1..=3 {
                rules += &format!("-A {chain} {dnat} --to-destination 10.74.0.{container}:80\n");
            }
        }
        run("iptables-restore", &["--noflush"], &(rules + "COMMIT\n"))?;
    }
    Ok(())
}

fn firewall(contender: &Contender, backend: &str) -> Vec<Plugin> {
    let backend = if contender.is_ours { backend } else { "iptables" };
    vec![plugin("firewall", json!({"backend": backend, "prevResult": previous(5)}))]
}
