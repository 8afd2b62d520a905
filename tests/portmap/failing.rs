//! An ADD that fails after an earlier one of the same attachment: what that mapped
//! stays, with whichever backend, at whatever step.

use serde_json::{Value, json};
use testkit::{Case, Feature, Host, Netns as _, cases};

use super::teardown::PROCESSES;
use super::{HOST, Pod, on, portmap, tcp, udp};
use crate::chained::at;
use crate::masquerade::install_iptables;

pub(super) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for (name, first, second, mappings) in [
        ("nftables", "nftables", "nftables", new()),
        ("iptables", "iptables", "iptables", new()),
        ("nftables_then_iptables", "nftables", "iptables", new()),
        ("iptables_then_nftables", "iptables", "nftables", new()),
        ("nftables_then_others_by_iptables", "nftables", "iptables", vec![tcp(18095, 8080)]),
        ("iptables_then_others_by_nftables", "iptables", "nftables", vec![tcp(18095, 8080)]),
    ] {
        let name = format!("portmap::failing::an_earlier_add_at_any_step_{name}");
        let needs = [
            Feature::Bridge,
            Feature::Nft,
            Feature::Iptables,
            Feature::Strace,
            Feature::OurPlugins,
        ];
        list.push(Case::new(name, &needs, move |host: &Host| {
            fail_each(host, &portmap(first, &old()), &portmap(second, &mappings));
        }));
    }
    list.extend(cases! {
        [Bridge, Nft, Iptables, Strace, OurPlugins] an_earlier_add_under_conditions,
        [Bridge, Nft, Iptables, Strace, OurPlugins] an_earlier_add_under_conditions_then_iptables,
        [Bridge, Nft, Iptables, OurPlugins] an_earlier_add_with_any_set_in_its_conditions,
        [Bridge, Nft, LegacyIptables, Strace, OurPlugins] an_earlier_add_in_the_other_kind_of_iptables,
        [Bridge, Nft, Iptables, Strace, OurPlugins] the_guard_stays_where_the_loopback_was_opened,
        [Bridge, Nft, Iptables, OurPlugins] an_earlier_add_when_a_command_is_gone,
        [Bridge, Nft, Iptables, OurPlugins] an_earlier_add_when_the_second_family_fails,
        [Bridge, Nft, Iptables, OurPlugins] an_earlier_add_when_a_port_of_ipv6_is_taken,
        [Bridge, Nft, Iptables, OurPlugins] an_earlier_add_when_its_port_is_taken_meanwhile,
    });
    list
}

/// What fails, and how.
const FAULTS: [(&str, &str); 3] =
    [("sendto,sendmsg", "ENOBUFS"), ("recvmsg,recvfrom", "ENOMEM"), (PROCESSES, "EAGAIN")];

fn old() -> Vec<Value> {
    vec![tcp(18080, 8080), udp(18080, 8080), on("192.0.2.1", tcp(18081, 8080))]
}

fn new() -> Vec<Value> {
    vec![tcp(18080, 8081), udp(18090, 8080), on("2001:db8:ffff::1", udp(18082, 8080))]
}

/// Each call of a second ADD fails once: the first one's mappings are as they were.
#[track_caller]
fn fail_each(host: &Host, conf: &Value, next: &Value) {
    let outside = host.outside();
    let [early, other, pod, late] =
        ["early", "other", "pod", "late"].map(|name| Pod::new(host, name));
    let _server = pod.container.echo_server(8080);
    early.map(host, &portmap("nftables", &[tcp(17080, 8080)])).expect_result();
    other.map(host, &portmap("iptables", &[tcp(17081, 8080)])).expect_result();
    pod.map(host, conf).expect_result();
    if conf["backend"] == next["backend"] {
        let backend = conf["backend"].as_str().expect("named");
        late.map(host, &portmap(backend, &[tcp(19080, 8080)])).expect_result();
    }
    // What all share comes with the first one that needs it, and stays.
    pod.map(host, next).expect_result();
    pod.map(host, conf).expect_result();
    let (before, rules) = (host.snapshot(), rules(host));
    for (calls, error) in FAULTS {
        let mut failures = 0;
        for nth in 1.. {
            let plugin = host.plugin("portmap").fail_own_call(calls, error, nth);
            let outcome = plugin.add(&pod.container, "eth0", &pod.behind(next));
            if outcome.success() {
                pod.check(host, next).expect_ok();
                pod.map(host, conf).expect_result();
            } else {
                failures += 1;
            }
            assert_eq!(self::rules(host), rules, "{calls} {nth}: {outcome}");
            if !outcome.fault_fired() {
                assert!(outcome.success(), "{outcome}");
                break;
            }
        }
        // One with nf_tables executes nothing.
        let executes = next["backend"] == "iptables" || next.get("conditionsV4").is_some();
        assert!(failures > 0 || calls == PROCESSES && !executes, "no {calls} failed");
    }
    pod.check(host, conf).expect_ok();
    let sorted = |snapshot: testkit::Snapshot| {
        let mut lines = snapshot.normalised().lines().to_vec();
        lines.sort();
        lines
    };
    assert_eq!(sorted(host.snapshot()), sorted(before));
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
    pod.unmap(host, conf).expect_ok();
    assert!(outside.tcp(at(HOST[0], 18080)).is_err());
}

/// All rules but legacy iptables', the chains in any order: they are listed as they
/// were made.
fn rules(host: &Host) -> Vec<String> {
    blocks(&host.exec("nft -s list ruleset"))
}

/// Those of the tables of a name, but for what guards the loopback.
fn rules_of(host: &Host, table: &str) -> Vec<String> {
    let of = |family| host.exec(format!("nft -s list table {family} {table}"));
    let mut blocks = blocks(&(of("ip") + "\n" + &of("ip6")));
    blocks.retain(|block| !block.contains("guard_loopback"));
    blocks
}

fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> =
        text.split("\n\n").map(|block| block.trim_end_matches(['\n', '}']).to_owned()).collect();
    blocks.sort();
    blocks
}

/// Backends, and words of conditions for them. What stands in braces is a set without a
/// name, which goes with its rule.
const CONDITIONS: [(&str, &[&str]); 3] = [
    ("nftables", &["ip", "saddr", "192.0.2.0/24"]),
    ("nftables", &["ip", "saddr", "{ 192.0.2.0/24, 198.51.100.0/24 }"]),
    ("iptables", &["-s", "192.0.2.0/24"]),
];

fn under(words: &[&str], mut conf: Value) -> Value {
    conf["conditionsV4"] = json!(words);
    conf
}

fn an_earlier_add_under_conditions(host: &Host) {
    for (backend, words) in CONDITIONS {
        let [conf, next] = [old(), new()].map(|mappings| under(words, portmap(backend, &mappings)));
        Host::run(|host| fail_each(host, &conf, &next));
    }
    let _ = host;
}

fn an_earlier_add_under_conditions_then_iptables(host: &Host) {
    for (_, words) in CONDITIONS.into_iter().filter(|(backend, _)| *backend == "nftables") {
        let conf = under(words, portmap("nftables", &old()));
        Host::run(|host| fail_each(host, &conf, &portmap("iptables", &new())));
    }
    let _ = host;
}

/// With ranges, pairs, maps, several sets in a rule, one that is longer than a message;
/// as the only attachment, with whose mappings the table goes, and beside another.
fn an_earlier_add_with_any_set_in_its_conditions(host: &Host) {
    const OPENED: &str = "net/ipv4/conf/cni0/route_localnet";
    let outside = host.outside();
    let [pod, other] = ["pod", "other"].map(|name| Pod::new(host, name));
    let _server = pod.container.echo_server(8080);
    let many: Vec<String> = (0..200).map(|n| format!("192.0.2.{n}, 10.9.{n}.1")).collect();
    let ranges: Vec<String> = (0..120).map(|n| format!("10.{n}.0.1-10.{n}.0.9")).collect();
    let conditions = [
        format!("ip saddr {{ {} }}", many.join(", ")),
        format!("ip saddr {{ {}, 192.0.2.0/24 }}", ranges.join(", ")),
        "ip saddr != { 10.0.0.0/8, 203.0.113.7 } ip ttl { 1-63, 64, 65-255 }".to_owned(),
        "ip saddr . ip daddr { 192.0.2.2 . 192.0.2.1, 10.0.0.0/8 . 192.0.2.1-192.0.2.9 }"
            .to_owned(),
        "iifname { \"eth*\", \"uplink\" } ct state { new, untracked }".to_owned(),
        "meta mark set ip saddr map { 192.0.2.0/24 : 0x100, 10.0.0.0/8 : 0x200 }".to_owned(),
        "ip saddr vmap { 203.0.113.9 : drop, 192.0.2.0/24 : continue }".to_owned(),
    ];
    host.exec("mount --bind /proc/sys /proc/sys");
    for words in &conditions {
        let words: Vec<&str> = words.split(' ').collect();
        let others = under(&words, portmap("nftables", &[tcp(17080, 8080)]));
        let conf = under(&words, portmap("nftables", &old()));
        let next = [
            under(&words, portmap("nftables", &new())),
            portmap("nftables", &new()),
            portmap("iptables", &new()),
        ];
        for beside_another in [false, true] {
            pod.map(host, &conf).expect_result();
            if beside_another {
                other.map(host, &others).expect_result();
            }
            let before = rules_of(host, "cni_hostport");
            assert!(before.len() > 2);
            for next in &next {
                host.set_sysctl(OPENED, "0");
                host.exec("mount -o remount,ro,bind /proc/sys");
                let refused = pod.map(host, next);
                host.exec("mount -o remount,rw,bind /proc/sys");
                refused.expect_error(999, "route_localnet");
                assert_eq!(rules_of(host, "cni_hostport"), before, "{words:?} {next}");
                outside.tcp(at(HOST[0], 18080)).expect("mapped");
            }
            pod.unmap(host, &conf).expect_ok();
            other.unmap(host, &others).expect_ok();
        }
    }
}

fn an_earlier_add_in_the_other_kind_of_iptables(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let (conf, next) = (portmap("iptables", &old()), portmap("iptables", &new()));
    let legacy = || {
        let text =
            host.exec("iptables-legacy-save -t nat") + &host.exec("ip6tables-legacy-save -t nat");
        let own = text.lines().filter(|line| line.contains("CNI-DN-"));
        own.filter(|line| !line.starts_with(':')).map(str::to_owned).collect::<Vec<String>>()
    };
    let map_first = || {
        install_iptables(host, "legacy");
        pod.map(host, &conf).expect_result();
        host.exec("umount /etc/alternatives");
    };
    map_first();
    let before = legacy();
    assert!(!before.is_empty());
    let mut failures = 0;
    for (calls, error) in FAULTS {
        for nth in 1.. {
            let plugin = host.plugin("portmap").fail_own_call(calls, error, nth);
            let outcome = plugin.add(&pod.container, "eth0", &pod.behind(&next));
            if outcome.success() {
                assert_eq!(legacy(), Vec::<String>::new());
                map_first();
                break;
            }
            failures += 1;
            assert_eq!(legacy(), before, "{calls} {nth}: {outcome}");
            let moved =
                host.exec("iptables-nft-save -t nat") + &host.exec("ip6tables-nft-save -t nat");
            assert!(!moved.contains("CNI-DN-"), "{calls} {nth}: {outcome}{moved}");
        }
    }
    assert!(failures > 10, "{failures}");
}

/// It came with the ADD that failed, and so did `route_localnet`, which stays.
fn the_guard_stays_where_the_loopback_was_opened(host: &Host) {
    const OPENED: &str = "net/ipv4/conf/cni0/route_localnet";
    let _outside = host.outside();
    let [other, pod] = ["other", "pod"].map(|name| Pod::new(host, name));
    let conf = |backend| portmap(backend, &[on("192.0.2.1", udp(18081, 8080))]);
    other.map(host, &portmap("nftables", &[on("192.0.2.1", udp(17081, 8080))])).expect_result();
    for first in ["nftables", "iptables"] {
        let mut opened = 0;
        for nth in 1.. {
            pod.map(host, &conf(first)).expect_result();
            assert!(!rules(host).concat().contains("127.0.0.0/8"), "a mapping that needs no guard");
            let next = pod.behind(&portmap("nftables", &[udp(18080, 8080)]));
            let plugin = host.plugin("portmap").fail_own_call("sendto,sendmsg", "ENOBUFS", nth);
            let outcome = plugin.add(&pod.container, "eth0", &next);
            if outcome.success() {
                break;
            }
            if host.sysctl(OPENED).as_deref() == Some("1") {
                opened += 1;
                let drops = rules(host).concat().matches("127.0.0.0/8 drop").count();
                assert_eq!(drops, 2, "{nth}: {outcome}");
            }
            host.try_exec("nft delete chain ip cni_hostport guard_loopback");
            host.set_sysctl(OPENED, "0");
        }
        assert!(opened > 0, "none failed behind that");
        host.try_exec("nft delete chain ip cni_hostport guard_loopback");
        host.set_sysctl(OPENED, "0");
    }
}

/// A pod of both families, with mappings of both, by iptables.
fn mapped(host: &Host) -> (Pod, Value) {
    let pod = Pod::new(host, "pod");
    let conf = portmap("iptables", &old());
    pod.map(host, &conf).expect_result();
    (pod, conf)
}

fn an_earlier_add_when_a_command_is_gone(host: &Host) {
    let outside = host.outside();
    install_iptables(host, "nft");
    let (pod, _) = mapped(host);
    let _server = pod.container.echo_server(8080);
    host.exec(["sh", "-c", "rm /etc/alternatives/ip6tables*"]);
    let before = host.snapshot();
    let refused = pod.map(host, &portmap("iptables", &new()));
    refused.expect_error(999, "no ip6tables-restore");
    host.expect_unchanged(&before);
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
}

fn an_earlier_add_when_the_second_family_fails(host: &Host) {
    let outside = host.outside();
    install_iptables(host, "nft");
    let (pod, conf) = mapped(host);
    let _server = pod.container.echo_server(8080);
    let command = "/etc/alternatives/ip6tables-restore";
    let script = format!(
        "rm {command} && echo '#!/bin/sh\ncat >/dev/null; echo not today >&2; exit 1' >{command} && chmod +x {command}"
    );
    host.exec(["sh", "-c", &script]);
    let before = host.snapshot();
    pod.map(host, &portmap("iptables", &new())).expect_error(999, "not today");
    host.expect_unchanged(&before);
    outside.tcp(at(HOST[0], 18080)).expect("mapped");
    pod.check(host, &conf).expect_ok();
    // One that had nothing has nothing.
    let other = Pod::new(host, "other");
    let before = host.snapshot();
    other.map(host, &portmap("iptables", &[tcp(19080, 8080)])).expect_error(999, "not today");
    host.expect_unchanged(&before);
}

fn an_earlier_add_when_a_port_of_ipv6_is_taken(host: &Host) {
    let _outside = host.outside();
    let (pod, conf) = mapped(host);
    let other = Pod::new(host, "other");
    let taken = on("2001:db8:ffff::1", tcp(18099, 8080));
    other.map(host, &portmap("iptables", std::slice::from_ref(&taken))).expect_result();
    let before = host.snapshot();
    let refused = pod.map(host, &portmap("iptables", &[tcp(18085, 8080), taken]));
    refused.expect_error(999, "container ctr-other");
    host.expect_unchanged(&before);
    pod.check(host, &conf).expect_ok();
}

/// While the second ADD is at work: it has left the port, and its IPv6 part fails.
/// Neither our own plugin with nftables nor upstream's takes the lock of iptables.
fn an_earlier_add_when_its_port_is_taken_meanwhile(host: &Host) {
    const COMMAND: &str = "/etc/alternatives/ip6tables-restore";
    let outside = host.outside();
    install_iptables(host, "nft");
    let (pod, conf) = mapped(host);
    let other = Pod::new(host, "other");
    let _server = other.container.echo_server(8080);
    let taking = [on("192.0.2.1", tcp(18080, 8080))];
    // By iptables it is what that makes of it, again.
    pod.unmap(host, &conf).expect_ok();
    other.map(host, &portmap("iptables", &taking)).expect_result();
    let rules = host.exec("iptables-save -t nat");
    let own = rules.lines().filter(|line| line.contains("CNI-DN-"));
    let own = own.fold(String::new(), |text, line| text + line + "\n");
    other.unmap(host, &portmap("iptables", &taking)).expect_ok();
    host.write("/run/rules", format!("*nat\n{own}COMMIT\n"));
    host.write("/run/conf", other.behind(&portmap("nftables", &taking)).to_string());
    let plugins = testkit::plugins_folder();
    let plugins = plugins.display();
    let by_nftables = format!(
        "env -i CNI_COMMAND=ADD CNI_CONTAINERID={} CNI_IFNAME=eth0 CNI_NETNS={} CNI_PATH={plugins} {plugins}/portmap </run/conf",
        other.container.id(),
        other.container.path().display(),
    );
    let real = std::fs::read_link(COMMAND).expect("a link").display().to_string();
    for by in [by_nftables.as_str(), "iptables-nft-restore --noflush -w </run/rules"] {
        pod.map(host, &conf).expect_result();
        let script = format!(
            "#!/bin/sh\ncat >/dev/null\n{by} >/run/taken 2>&1\necho not today >&2\nexit 1\n"
        );
        host.write("/run/refuses", script);
        host.exec("chmod +x /run/refuses");
        host.exec(format!("ln -sf /run/refuses {COMMAND}"));
        let refused = pod.map(host, &portmap("iptables", &[tcp(18090, 8080)]));
        host.exec(["ln", "-sf", &real, COMMAND]);
        refused.expect_error(999, "not today");
        refused.expect_error(999, "give a port back to an earlier ADD");
        refused.expect_error(999, "container ctr-other");
        // It is the other's, who can be reached there.
        outside.tcp(at(HOST[0], 18080)).unwrap_or_else(|e| panic!("{by}: {e}: {refused}"));
        // The rest is the pod's again, and nothing of the ADD that failed is there.
        let rules = host.exec("iptables-save -t nat");
        assert!(rules.contains("--dport 18081"), "{by}: {rules}");
        assert!(rules.contains("-p udp -m udp --dport 18080"), "{by}: {rules}");
        assert!(!rules.contains("18090"), "{by}: {rules}");
        pod.check(host, &conf).expect_error(999, "18080");
        other.unmap(host, &portmap("nftables", &taking)).expect_ok();
        pod.unmap(host, &conf).expect_ok();
        let rules = host.exec("iptables-save -t nat") + &host.exec("ip6tables-save -t nat");
        assert!(!rules.contains("CNI-DN-"), "{by}: {rules}");
    }
}
