//! Who gets the address of a dead container gets nothing else of it: what was mapped
//! to it, and what masqueraded it, is gone by then, without GC.

use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, Outcome, with_previous_result};

use crate::chained::{BACKENDS, Body, at, old};
use crate::conf::with;
use crate::kills::CALLS;
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let bodies: [(&str, Body); 11] = [
        ("an_heir_gets_the_address_alone", gets_the_address_alone),
        ("an_heir_elsewhere_gets_the_address_alone", elsewhere),
        ("an_heir_who_asks_for_the_address", asks_for_the_address),
        ("who_comes_back_without_ports_has_none", comes_back),
        ("what_the_peer_made_is_not_inherited", of_the_peer),
        ("the_living_of_one_name_keep_what_is_theirs", of_one_name),
        ("the_living_keep_what_is_theirs_when_an_old_address_goes", of_one_who_is_back),
        ("who_comes_back_idempotently_without_ports_has_none", comes_back_idempotently),
        ("what_gc_frees_is_not_inherited", freed_by_gc),
        ("an_address_that_cannot_be_cleared_stays_the_dead_ones", cannot_be_forgotten),
        ("killed_anywhere_an_heir_has_no_ports_of_the_dead", killed_anywhere),
    ];
    let mut list = Vec::new();
    for (behaviour, body) in bodies {
        for kind in [BACKENDS[0], BACKENDS[1], "legacy"] {
            let only = match behaviour.split('_').next() {
                Some("killed") => Some(BACKENDS[0]),
                _ if behaviour.contains("cannot_be_cleared") => Some("legacy"),
                _ => None,
            };
            if only.is_some_and(|only| only != kind) {
                continue;
            }
            let iptables = match kind {
                "legacy" => Feature::LegacyIptables,
                _ => Feature::Iptables,
            };
            let mut needs = vec![Feature::OurPlugins, Feature::Bridge, Feature::Nft, iptables];
            if behaviour.starts_with("what_the_peer") {
                if kind == BACKENDS[0] {
                    continue;
                }
                needs.push(Feature::PeerPlugins);
            }
            if behaviour.starts_with("killed") {
                needs.push(Feature::Strace);
            }
            if behaviour.contains("elsewhere") {
                needs.push(Feature::Tun);
            }
            let name = format!("leases::heirs::{behaviour}_{kind}");
            list.push(Case::new(name, &needs, move |host: &Host| {
                if kind == "legacy" {
                    install_iptables(host, kind);
                }
                body(host, if kind == "legacy" { BACKENDS[1] } else { kind });
            }));
        }
    }
    list
}

const PORT: u16 = 18080;

/// One address of each family is left to give.
fn bridge(backend: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
        "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": backend,
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.2"}],
            [{"subnet": "2001:db8:1::/64", "rangeStart": "2001:db8:1::2",
                "rangeEnd": "2001:db8:1::2"}],
        ]},
    })
}

/// The same without masquerading.
fn plain() -> Value {
    with(&bridge(BACKENDS[0]), json!({"ipMasq": false}))
}

/// With IPv4 alone.
fn of_one_family(bridge: &Value) -> Value {
    let range = json!([{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.2",
        "rangeEnd": "10.1.0.2"}]);
    with(bridge, json!({"ipam": {"type": "host-local", "ranges": [range]}}))
}

fn portmap(backend: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "portmap", "backend": backend,
        "runtimeConfig": {"portMappings": [
            {"hostPort": PORT, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": PORT, "containerPort": 53, "protocol": "udp"}]},
    })
}

fn firewall(backend: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "firewall", "backend": backend,
        "denyCIDRs": ["198.51.100.0/24"],
    })
}

/// Rules and elements that name an address of the range, of whichever kind.
fn rules(host: &Host) -> Vec<String> {
    let mut all = host.exec("nft -s list ruleset");
    for command in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        if Feature::LegacyIptables.present() {
            for table in ["nat", "filter"] {
                all.push_str(&host.exec(format!("{command} -t {table}")));
            }
        }
    }
    let is_one = |line: &&str| line.contains("10.1.0.2") || line.contains("2001:db8:1::2");
    all.lines().filter(is_one).map(|line| line.trim().to_owned()).collect()
}

/// A container with ports that ends without a DEL.
fn die(host: &Host, name: &str, bridge: &Value, backend: &str) -> Container {
    let container = host.container(name);
    let result = host.plugin("bridge").add(&container, "eth0", bridge).expect_result();
    let conf = with_previous_result(&portmap(backend), &result);
    host.plugin("portmap").add(&container, "eth0", &conf).expect_result();
    let conf = with_previous_result(&firewall(backend), &result);
    host.plugin("firewall").add(&container, "eth0", &conf).expect_result();
    assert!(rules(host).len() >= 5, "{:?}", rules(host));
    container.destroy();
    container
}

/// All addresses are taken until then.
fn wait_until_dead(host: &Host) {
    let conf = with(&of_one_family(&plain()), json!({"cniVersion": "1.1.0"}));
    let is_free = || host.plugin("bridge").status(&conf).success();
    host.wait_until("the namespace has ended", is_free);
}

/// ADD, once the kernel has ended the namespace of the dead.
fn succeed(host: &Host, add: impl Fn() -> Outcome) {
    host.wait_until("the namespace has ended", || add().success());
}

fn expect_unmapped(host: &Host, heir: &Container) {
    let _server = heir.echo_server(80);
    assert!(host.tcp(at("10.1.0.1", PORT)).is_err());
    assert!(host.tcp(at("2001:db8:1::1", PORT)).is_err());
    host.tcp(at("10.1.0.2", 80)).expect("it is there");
}

fn gets_the_address_alone(host: &Host, backend: &str) {
    let dead = die(host, "dead", &bridge(backend), backend);
    let heir = host.container("heir");
    succeed(host, || host.plugin("bridge").add(&heir, "eth0", &plain()));
    assert_eq!(rules(host), [""; 0]);
    expect_unmapped(host, &heir);
    // Late.
    for (plugin, conf) in [("portmap", portmap(backend)), ("bridge", bridge(backend))] {
        host.plugin(plugin).del_without_netns(&dead, "eth0", &conf).expect_ok();
    }
    host.tcp(at("10.1.0.2", 80)).expect_err("nobody serves");
    host.plugin("bridge").del(&heir, "eth0", &plain()).expect_ok();
    // With rules of its own: those, and no more.
    let more = host.container("more");
    host.plugin("bridge").add(&more, "eth0", &bridge(backend)).expect_result();
    let own = rules(host);
    more.destroy();
    let last = host.container("last");
    succeed(host, || host.plugin("bridge").add(&last, "eth0", &bridge(backend)));
    let count = |rules: &[String]| rules.len();
    assert_eq!(count(&rules(host)), count(&own), "{:?}", rules(host));
}

/// Of a plugin whose thread is in the container by then, and of host-local as a program
/// of its own.
fn elsewhere(host: &Host, backend: &str) {
    let tap = |conf: Value| with(&conf, json!({"type": "tap", "bridge": null}));
    die(host, "dead", &bridge(backend), backend);
    let heir = host.container("heir");
    succeed(host, || host.plugin("tap").add(&heir, "eth0", &tap(plain())));
    assert_eq!(rules(host), [""; 0]);
    host.plugin("tap").del(&heir, "eth0", &tap(plain())).expect_ok();
    die(host, "next", &bridge(backend), backend);
    let outside = host.container("last");
    let alone = with(&plain(), json!({"type": "host-local"}));
    succeed(host, || host.plugin("host-local").add(&outside, "eth0", &alone));
    assert_eq!(rules(host), [""; 0]);
}

fn asks_for_the_address(host: &Host, backend: &str) {
    die(host, "dead", &bridge(backend), backend);
    let heir = host.container("heir");
    let wider = with(
        &plain(),
        json!({"args": {"cni": {"ips": ["10.1.0.2", "2001:db8:1::2"]}},
            "ipam": {"type": "host-local", "ranges": [
                [{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8:1::/64"}]]}}),
    );
    succeed(host, || host.plugin("bridge").add(&heir, "eth0", &wider));
    assert_eq!(rules(host), [""; 0]);
    expect_unmapped(host, &heir);
}

/// Under its own name, in a namespace of its own: it takes its own dead lease.
fn comes_back(host: &Host, backend: &str) {
    let dead = die(host, "dead", &bridge(backend), backend);
    dead.recreate();
    succeed(host, || host.plugin("bridge").add(&dead, "eth0", &plain()));
    assert_eq!(rules(host), [""; 0]);
    expect_unmapped(host, &dead);
}

fn of_the_peer(host: &Host, backend: &str) {
    let dead = host.container("dead");
    // The lease is ours: of the peer's nothing tells that its owner is dead.
    let masquerading = of_one_family(&bridge(backend));
    let result = host.plugin("bridge").add(&dead, "eth0", &masquerading).expect_result();
    host.peer("portmap").add(&dead, "eth0", &old(&portmap(backend), &result)).expect_result();
    assert!(rules(host).len() >= 3, "{:?}", rules(host));
    dead.destroy();
    let heir = host.container("heir");
    succeed(host, || host.plugin("bridge").add(&heir, "eth0", &of_one_family(&plain())));
    assert_eq!(rules(host), [""; 0]);
}

/// Another interface of a container of that name, which runs: by iptables it shares a
/// chain with the dead one, which may have had no masquerading itself.
fn of_one_name(host: &Host, backend: &str) {
    let wider = with(
        &bridge(backend),
        json!({"ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8:1::/64"}]]}}),
    );
    for of_the_dead in [bridge(backend), plain()] {
        let container = host.container("dead");
        host.plugin("bridge").add(&container, "eth0", &of_the_dead).expect_result();
        container.destroy();
        container.recreate();
        let result = host.plugin("bridge").add(&container, "eth1", &wider).expect_result();
        let ours = with_previous_result(&wider, &result);
        let heir = host.container("heir");
        succeed(host, || host.plugin("bridge").add(&heir, "eth0", &plain()));
        assert_eq!(rules(host), [""; 0]);
        host.plugin("bridge").check(&container, "eth1", &ours).expect_ok();
        host.plugin("bridge").del(&container, "eth1", &ours).expect_ok();
        host.plugin("bridge").del(&heir, "eth0", &plain()).expect_ok();
        container.destroy();
        heir.destroy();
    }
}

/// The dead one's name may be alive by now, with another address.
fn of_one_who_is_back(host: &Host, backend: &str) {
    let _outside = host.outside();
    let container = die(host, "dead", &bridge(backend), backend);
    container.recreate();
    let elsewhere = with(
        &bridge(backend),
        json!({"ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.3", "rangeEnd": "10.1.0.3"}],
            [{"subnet": "2001:db8:1::/64", "rangeStart": "2001:db8:1::3",
                "rangeEnd": "2001:db8:1::3"}]]}}),
    );
    let result = host.plugin("bridge").add(&container, "eth0", &elsewhere).expect_result();
    let (own, ports) = (with_previous_result(&elsewhere, &result), portmap(backend));
    let ports = with_previous_result(&ports, &result);
    host.plugin("portmap").add(&container, "eth0", &ports).expect_result();
    let expect_served = || {
        host.plugin("bridge").check(&container, "eth0", &own).expect_ok();
        host.plugin("portmap").check(&container, "eth0", &ports).expect_ok();
        let _server = container.echo_server(80);
        host.tcp(at("10.1.0.1", PORT)).expect("mapped");
        host.tcp(at("2001:db8:1::1", PORT)).expect("mapped");
    };
    expect_served();
    let heir = host.container("heir");
    succeed(host, || host.plugin("bridge").add(&heir, "eth0", &plain()));
    assert_eq!(rules(host), [""; 0]);
    expect_served();
}

/// `idempotentAdd` gives the same addresses again, and nothing else.
fn comes_back_idempotently(host: &Host, backend: &str) {
    let dead = die(host, "dead", &bridge(backend), backend);
    let mut keeps = plain();
    keeps["ipam"]["idempotentAdd"] = true.into();
    wait_until_dead(host);
    dead.recreate();
    host.plugin("bridge").add(&dead, "eth0", &keeps).expect_result();
    assert_eq!(rules(host), [""; 0]);
    expect_unmapped(host, &dead);
}

/// GC frees the addresses before it comes to the plugins behind.
fn freed_by_gc(host: &Host, backend: &str) {
    die(host, "dead", &bridge(backend), backend);
    let none = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [],
        "cni.dev/attachments": []});
    host.plugin("bridge").gc(&with(&plain(), none)).expect_ok();
    assert_eq!(rules(host), [""; 0]);
}

/// Somebody keeps iptables' lock: then the address stays the dead one's.
fn cannot_be_forgotten(host: &Host, backend: &str) {
    die(host, "dead", &bridge(backend), backend);
    let before = rules(host);
    let heir = host.container("heir");
    wait_until_dead(host);
    let lock = fs::File::create("/run/xtables.lock").expect("a private folder");
    lock.lock().expect("nobody has it");
    let refused = host.plugin("bridge").add(&heir, "eth0", &plain());
    refused.expect_error(11, "take 10.1.0.2 over from container ctr-dead");
    assert_eq!(rules(host), before);
    drop(lock);
    host.plugin("bridge").add(&heir, "eth0", &plain()).expect_result();
    assert_eq!(rules(host), [""; 0]);
    expect_unmapped(host, &heir);
}

/// By DEL of the heir, whose ADD was killed, the address becomes free: there must be
/// nothing of the dead one by then. Of one family: the other's lease would tell of it.
fn killed_anywhere(host: &Host, backend: &str) {
    let (whole, plain) = (of_one_family(&bridge(backend)), of_one_family(&plain()));
    let plugin = host.plugin("bridge");
    let mut kills = 0;
    for call in CALLS {
        for nth in 1.. {
            die(host, &format!("dead-{call}-{nth}"), &whole, backend);
            let heir = host.container(&format!("heir-{call}-{nth}"));
            wait_until_dead(host);
            let killed = plugin.clone().kill_at_call(call, nth).add(&heir, "eth0", &plain);
            plugin.del(&heir, "eth0", &plain).expect_ok();
            let next = host.container(&format!("next-{call}-{nth}"));
            plugin.add(&next, "eth0", &plain).expect_result();
            assert_eq!(rules(host), [""; 0], "{killed}");
            plugin.del(&next, "eth0", &plain).expect_ok();
            [heir, next].iter().for_each(Container::destroy);
            if !killed.fault_fired() {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 20, "{kills}");
    host.note(format!("killed {kills} times"));
}
