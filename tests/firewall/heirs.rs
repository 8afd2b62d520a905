//! Who gets the address of a dead container is under none of its rules, without GC:
//! they go with the lease, or the heir's own ADD takes the address over, whichever
//! backend made them.

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, Outcome};

use super::{OUTSIDE, Pod, bridge, firewall, outside, reaches};
use crate::chained::{BACKENDS, at, both_backends};
use crate::conf::{fixed, with};
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for of in [BACKENDS[0], BACKENDS[1], "legacy"] {
        for by in ["", BACKENDS[0], BACKENDS[1]] {
            let iptables = match of {
                "legacy" => Feature::LegacyIptables,
                _ => Feature::Iptables,
            };
            let needs = [Feature::Bridge, Feature::Nft, Feature::OurPlugins, iptables];
            let backend = if of == "legacy" { BACKENDS[1] } else { of };
            let mut case = |behaviour: &str, body: fn(&Host, &str, &str)| {
                list.push(Case::new(
                    format!("firewall::heirs::{behaviour}_{of}"),
                    &needs,
                    move |host: &Host| {
                        if of == "legacy" {
                            install_iptables(host, of);
                        }
                        body(host, backend, by);
                    },
                ));
            };
            match by {
                "" => case("an_heir_without_rules_has_none_of", of_its_lease),
                _ => {
                    case(&format!("an_heir_by_{by}_has_none_of"), of_its_lease);
                    // It executes no command for what went with the lease.
                    if (by, of) != (BACKENDS[0], "legacy") {
                        case(&format!("an_add_by_{by}_takes_over_from"), of_its_address);
                    }
                }
            }
        }
    }
    list.extend(both_backends(
        "firewall::heirs",
        &[],
        &[("the_living_of_one_name_keep_what_is_theirs", of_one_name)],
    ));
    list
}

/// One address of each family is left to give.
fn narrow() -> Value {
    let ranges = json!([
        [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.2"}],
        [{"subnet": "2001:db8:1::/64", "rangeStart": "2001:db8:1::2",
            "rangeEnd": "2001:db8:1::2"}],
    ]);
    with(&bridge(1), json!({"ipam": {"type": "host-local", "ranges": ranges}}))
}

/// The same addresses, whoever else has them.
fn anyway() -> Value {
    with(&bridge(1), json!({"ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}))
}

fn limits() -> Value {
    json!({"ingressPolicy": "isolated", "denyCIDRs": ["192.0.2.0/24", "2001:db8:ffff::/48"]})
}

/// ADD, once the kernel has ended what the dead had.
fn attach(host: &Host, name: &str, bridge: &Value) -> Pod {
    let container = host.container(name);
    let result = succeed(host, || host.plugin("bridge").add(&container, "eth0", bridge));
    Pod { container, result }
}

fn succeed(host: &Host, add: impl Fn() -> Outcome) -> Value {
    let added = std::cell::OnceCell::new();
    host.wait_until("the namespace has ended", || {
        let outcome = add();
        outcome.success() && added.set(outcome.expect_result()).is_ok()
    });
    added.into_inner().expect("it was added")
}

/// Lines that name an address that is given on, the bridge, or one of these words.
fn rules(host: &Host, words: &[&str]) -> Vec<String> {
    let mut all = host.exec("nft -s list ruleset");
    for command in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        if Feature::LegacyIptables.present() {
            all.push_str(&host.exec(format!("{command} -t filter")));
        }
    }
    let words = [&["10.1.0.2", "2001:db8:1::2", "cni1"], words].concat();
    let is_one = |line: &&str| words.iter().any(|word| line.contains(word));
    all.lines().filter(is_one).map(|line| line.trim().to_owned()).collect()
}

fn reaches_outside(pod: &Container) -> [bool; 2] {
    OUTSIDE.map(|address| reaches(pod, at(address, 7000)))
}

#[track_caller]
fn expect_free(host: &Host, pod: &Pod) {
    // Neighbours of IPv6 take a moment.
    host.wait_until("it reaches outside", || reaches_outside(&pod.container) == [true; 2]);
}

/// A container with limits that ends without a DEL.
struct Dead {
    pod: Pod,
    conf: Value,
    mac: String,
}

impl Dead {
    fn new(host: &Host, bridge: &Value, backend: &str) -> Dead {
        let pod = attach(host, "dead", bridge);
        let (conf, mac) = (firewall(backend, 1, &limits()), pod.container.mac("eth0"));
        expect_free(host, &pod);
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        assert_eq!(reaches_outside(&pod.container), [false; 2]);
        let there = rules(host, &[&mac]).join("\n");
        assert!(there.contains("jump egress_") && there.contains("cni1"), "{there}");
        assert_eq!(there.contains("with: iptables"), backend == BACKENDS[1], "{there}");
        let link = pod.result["interfaces"][1]["name"].as_str().expect("the host end");
        pod.container.destroy();
        host.wait_until("its link is gone", || host.link(link).is_none());
        Dead { pod, conf, mac }
    }
}

fn of_its_lease(host: &Host, of: &str, by: &str) {
    inherit(host, of, by, &narrow());
}

fn of_its_address(host: &Host, of: &str, by: &str) {
    inherit(host, of, by, &anyway());
}

fn inherit(host: &Host, of: &str, by: &str, bridge: &Value) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    // Beside somebody who lives, and alone in the tables.
    for beside in [true, false] {
        let other = Pod::new(host, &format!("other-{beside}"), 2);
        let others = firewall(of, 2, &limits());
        if beside {
            other.add(host, &others).expect_result();
        }
        let before = host.exec("nft -s list ruleset");
        let dead = Dead::new(host, bridge, of);
        let heir = attach(host, "heir", bridge);
        let plain = firewall(by, 1, &json!({}));
        if !by.is_empty() {
            heir.add(host, &plain).expect_result();
            heir.check(host, &plain).expect_ok();
        } else if of == BACKENDS[0] {
            assert_eq!(host.exec("nft -s list ruleset"), before);
        }
        let own = rules(host, &[&dead.mac]);
        let text = own.join("\n");
        assert_eq!(own.is_empty(), by.is_empty(), "{text}");
        assert!(!text.contains("ctr-dead") && !text.contains("egress_"), "{text}");
        assert!(!text.contains("cni1") && !text.contains(&dead.mac), "{text}");
        assert!(beside || !host.exec("nft list ruleset").contains("chain egress_"));
        expect_free(host, &heir);
        assert!(heir.is_reached_by(&other.container, 0), "{text}");
        // Late, and by a GC.
        dead.pod.del(host, &dead.conf).expect_ok();
        let valid = json!([{"containerID": heir.container.id(), "ifname": "eth0"}]);
        let valid = json!({"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid});
        host.plugin("firewall").gc(&with(&dead.conf, valid)).expect_ok();
        assert_eq!(rules(host, &[&dead.mac]), own);
        if !by.is_empty() {
            heir.check(host, &plain).expect_ok();
            heir.del(host, &plain).expect_ok();
        }
        assert_eq!(rules(host, &[&dead.mac]), [""; 0]);
        if beside {
            other.check(host, &others).expect_ok();
            assert_eq!(reaches_outside(&other.container), [false; 2]);
            other.del(host, &others).expect_ok();
        }
        host.plugin("bridge").del(&heir.container, "eth0", bridge).expect_ok();
        [&heir, &other].iter().for_each(|pod| pod.container.destroy());
    }
}

/// It is back under its name, with another address.
fn of_one_name(host: &Host, backend: &str) {
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let Dead { pod, conf, .. } = Dead::new(host, &narrow(), backend);
    pod.container.recreate();
    let elsewhere = with(&bridge(1), json!({"ipam": fixed(&["10.1.0.9/24", "2001:db8:1::9/64"])}));
    let result = host.plugin("bridge").add(&pod.container, "eth0", &elsewhere).expect_result();
    let back = Pod { container: pod.container, result };
    back.add(host, &conf).expect_result();
    let mac = back.container.mac("eth0");
    let words = ["10.1.0.9", "2001:db8:1::9", &mac];
    let is_of_the_dead =
        |line: &String| ["10.1.0.2 ", "2001:db8:1::2 "].iter().any(|word| line.contains(word));
    let heir = attach(host, "heir", &narrow());
    let now = rules(host, &words);
    assert!(!now.iter().any(is_of_the_dead), "{}", now.join("\n"));
    expect_free(host, &heir);
    back.check(host, &conf).expect_ok();
    assert_eq!(reaches_outside(&back.container), [false; 2]);
    back.del(host, &conf).expect_ok();
    assert_eq!(rules(host, &words), [""; 0]);
}
