//! What is left when an attachment goes, whatever is still there of it: nothing
//! of its own, and everything of others.

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use super::{
    attach, call_by_shell, conf_v4, ended_meanwhile, install_iptables, meanwhile, newest,
    own_chains, rules_of,
};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Iptables, PeerPlugins] the_peer_removes_what_iptables_made,
        [Bridge, LegacyIptables, PeerPlugins] the_peer_removes_what_legacy_iptables_made,
        [Bridge, Iptables, PeerPlugins, OurPlugins] the_peers_rules_are_removed,
        [Bridge, LegacyIptables, PeerPlugins, OurPlugins] the_peers_legacy_rules_are_removed,
        [Bridge, Iptables, OurPlugins] rules_go_after_iptables_was_uninstalled,
        [Bridge, Nft, Iptables] rules_of_a_former_backend_go,
        [Bridge, Nft, OurPlugins] rules_go_when_ip_masq_was_switched_off,
        [Bridge, Nft, OurPlugins] attachments_of_one_container_are_told_apart,
        [Bridge, Iptables, OurPlugins] attachments_of_one_container_that_share_a_chain,
        [Bridge, LegacyIptables, OurPlugins] attachments_of_one_container_that_share_a_legacy_chain,
        [Bridge, Iptables, OurPlugins] one_goes_while_the_next_comes_to_share_its_chain,
        [Bridge, Iptables, OurPlugins] a_failed_add_takes_its_rules_back,
        [Bridge, Nft, Iptables, OurPlugins] rules_of_others_stay,
        [Bridge, Nft, Strace, OurPlugins] del_without_rules_sends_no_batch,
        [Bridge, Nft, Strace, OurPlugins] del_sends_one_batch,
    };
    for (backend, kind) in [("nftables", "nft"), ("iptables", "nft"), ("iptables", "legacy")] {
        let feature = if kind == "legacy" {
            testkit::Feature::LegacyIptables
        } else {
            testkit::Feature::Iptables
        };
        let needs = [testkit::Feature::Bridge, testkit::Feature::Nft, feature];
        for state in STATES {
            let name = format!("masquerade::teardown::del_{}_{backend}_{kind}", state.name);
            let case = Case::new(name, &needs, move |host| {
                del_leaves_nothing(host, backend, kind, state.make);
            });
            // Where something is gone, upstream leaves the rules.
            list.push(if state.name == WHOLE { case } else { case.ours_only() });
        }
        let name = format!("masquerade::teardown::gc_{backend}_{kind}");
        let case = Case::new(name, &needs, move |host| gc_sweeps(host, backend, kind));
        list.push(case.ours_only());
    }
    list
}

/// What may have become of a container before its DEL.
struct State {
    name: &'static str,
    make: fn(&Container),
}

const WHOLE: &str = "with_everything_there";

const STATES: [State; 5] = [
    State { name: WHOLE, make: |_| {} },
    State { name: "with_link_gone", make: |pod| drop(pod.exec("ip link del eth0")) },
    State { name: "with_addresses_gone", make: |pod| drop(pod.exec("ip address flush dev eth0")) },
    State { name: "with_netns_gone", make: Container::destroy },
    State { name: "with_a_stale_netns_file", make: Container::make_stale_file },
];

fn del_leaves_nothing(host: &Host, backend: &str, kind: &str, make: fn(&Container)) {
    install_iptables(host, kind);
    let conf = conf_v4(backend);
    // The first makes what is shared and stays.
    let (warm, _) = attach(host, "warm", &conf);
    host.plugin("bridge").del(&warm, "eth0", &conf).expect_ok();
    let (stays, _) = attach(host, "stays", &conf);
    let words = ["last_reserved_ip", "/.oxcni/", "/run/netns/pod"];
    let before = host.snapshot();
    // As it does without CNI_NETNS.
    let ways = if host.has_our_plugins() { &[false, true][..] } else { &[false] };
    for by_empty_name in ways.iter().copied() {
        let pod = host.container(if by_empty_name { "pod2" } else { "pod" });
        host.plugin("bridge").add(&pod, "eth0", &conf).expect_result();
        assert!(!rules_of(host, &pod).is_empty(), "it has rules");
        make(&pod);
        let plugin = host.plugin("bridge");
        let del = |plugin: testkit::Plugin<'_>| match by_empty_name {
            true => plugin.del_without_netns(&pod, "eth0", &conf),
            false => plugin.del(&pod, "eth0", &conf),
        };
        del(plugin.clone()).expect_ok();
        assert_eq!(rules_of(host, &pod), Vec::<String>::new());
        host.expect_unchanged_but(&before, &words);
        // Again, and nothing more happens.
        del(plugin).expect_ok();
        host.expect_unchanged_but(&before, &words);
    }
    assert!(!rules_of(host, &stays).is_empty(), "others keep theirs");
}

fn gc_sweeps(host: &Host, backend: &str, kind: &str) {
    install_iptables(host, kind);
    let conf = conf_v4(backend);
    let mut other = conf_v4(backend);
    other["name"] = "other".into();
    other["bridge"] = "cni1".into();
    other["ipam"]["subnet"] = "10.2.0.0/24".into();
    let (valid, _) = attach(host, "valid", &conf);
    let (foreign, _) = attach(host, "foreign", &other);
    let kept = (rules_of(host, &valid), rules_of(host, &foreign));
    let (stale, _) = attach(host, "stale", &conf);
    stale.destroy();
    let mut gc = newest(&conf);
    // Without a list nothing is removed.
    host.plugin("bridge").gc(&gc).expect_ok();
    assert!(!rules_of(host, &stale).is_empty());
    gc["cni.dev/valid-attachments"] = json!([{"containerID": valid.id(), "ifname": "eth0"}]);
    host.plugin("bridge").gc(&gc).expect_ok();
    assert_eq!(rules_of(host, &stale), Vec::<String>::new());
    assert_eq!((rules_of(host, &valid), rules_of(host, &foreign)), kept);
    let chains = own_chains(host).len();
    assert_eq!(chains, if backend == "iptables" { 2 } else { 0 });
}

/// As Debian's version wants it: it knows neither the key nor 1.1.0.
fn for_the_peer(conf: &Value) -> Value {
    let mut conf = conf.clone();
    conf.as_object_mut().expect("an object").remove("ipMasqBackend");
    conf["cniVersion"] = "1.0.0".into();
    conf
}

fn peer_removes(host: &Host, kind: &str) {
    install_iptables(host, kind);
    let conf = conf_v4("iptables");
    let (pod, _) = attach(host, "pod", &conf);
    assert_eq!(own_chains(host).len(), 1);
    host.peer("bridge").del(&pod, "eth0", &for_the_peer(&conf)).expect_ok();
    assert_eq!(own_chains(host), Vec::<String>::new());
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn the_peer_removes_what_iptables_made(host: &Host) {
    peer_removes(host, "nft");
}

fn the_peer_removes_what_legacy_iptables_made(host: &Host) {
    peer_removes(host, "legacy");
}

/// The peer itself leaves them in this state.
fn peers_are_removed(host: &Host, kind: &str) {
    install_iptables(host, kind);
    let conf = conf_v4("nftables");
    let pod = host.container("pod");
    host.peer("bridge").add(&pod, "eth0", &for_the_peer(&conf)).expect_result();
    pod.destroy();
    host.peer("bridge").del(&pod, "eth0", &for_the_peer(&conf)).expect_ok();
    assert_eq!(own_chains(host).len(), 1, "the peer forgot it");
    host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(own_chains(host), Vec::<String>::new());
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn the_peers_rules_are_removed(host: &Host) {
    peers_are_removed(host, "nft");
}

fn the_peers_legacy_rules_are_removed(host: &Host) {
    peers_are_removed(host, "legacy");
}

fn rules_go_after_iptables_was_uninstalled(host: &Host) {
    let conf = conf_v4("iptables");
    let (pod, _) = attach(host, "pod", &conf);
    install_iptables(host, "");
    host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn rules_of_a_former_backend_go(host: &Host) {
    for (name, then, now) in [("a", "nftables", "iptables"), ("b", "iptables", "nftables")] {
        let (pod, _) = attach(host, name, &conf_v4(then));
        host.plugin("bridge").del(&pod, "eth0", &conf_v4(now)).expect_ok();
        assert_eq!(rules_of(host, &pod), Vec::<String>::new());
    }
}

fn rules_go_when_ip_masq_was_switched_off(host: &Host) {
    let (pod, _) = attach(host, "pod", &conf_v4("nftables"));
    let mut plain = conf_v4("no such backend");
    plain["ipMasq"] = false.into();
    host.plugin("bridge").del(&pod, "eth0", &plain).expect_ok();
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn attachments_of_one_container_are_told_apart(host: &Host) {
    let conf = conf_v4("nftables");
    let (pod, _) = attach(host, "pod", &conf);
    host.plugin("bridge").add(&pod, "eth1", &conf).expect_result();
    assert_eq!(rules_of(host, &pod).len(), 2);
    host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
    let left = rules_of(host, &pod);
    assert!(matches!(left.as_slice(), [rule] if rule.contains("10.1.0.3")), "{left:?}");
}

/// The previous result, which runtimes send, tells whose address is whose.
fn shared_chain(host: &Host, kind: &str) {
    install_iptables(host, kind);
    let conf = conf_v4("iptables");
    let (pod, first) = attach(host, "pod", &conf);
    let second = host.plugin("bridge").add(&pod, "eth1", &conf).expect_result();
    // Two jumps, an exception for the subnet, and masquerading.
    assert_eq!(rules_of(host, &pod).len(), 4);
    pod.destroy();
    let del = with_previous_result(&conf, &first);
    host.plugin("bridge").del_without_netns(&pod, "eth0", &del).expect_ok();
    let left = rules_of(host, &pod);
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().any(|rule| rule.contains("-s 10.1.0.3/32")), "{left:?}");
    let del = with_previous_result(&conf, &second);
    host.plugin("bridge").del_without_netns(&pod, "eth1", &del).expect_ok();
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
    assert_eq!(own_chains(host), Vec::<String>::new());
}

fn attachments_of_one_container_that_share_a_chain(host: &Host) {
    shared_chain(host, "nft");
}

fn attachments_of_one_container_that_share_a_legacy_chain(host: &Host) {
    shared_chain(host, "legacy");
}

/// The next one has seen the chain, and is about to add to it.
fn one_goes_while_the_next_comes_to_share_its_chain(host: &Host) {
    install_iptables(host, "nft");
    let conf = conf_v4("iptables");
    let (pod, result) = attach(host, "pod", &conf);
    let env = format!(
        "CNI_COMMAND=DEL CNI_CONTAINERID={} CNI_IFNAME=eth0 CNI_NETNS={}",
        pod.id(),
        pod.path().display(),
    );
    // The first one finds that the chain is there.
    meanwhile(host, 2, "bridge", &env, &with_previous_result(&conf, &result));
    let next = host.plugin("bridge").add(&pod, "eth1", &conf).expect_result();
    assert_eq!(ended_meanwhile(host), ("0".to_owned(), String::new()));
    let next = with_previous_result(&conf, &next);
    host.plugin("bridge").check(&pod, "eth1", &next).expect_ok();
    assert_eq!(own_chains(host).len(), 1);
    host.plugin("bridge").del(&pod, "eth1", &next).expect_ok();
    assert_eq!(own_chains(host), Vec::<String>::new());
}

/// Rules of IPv4 are made, those of IPv6 refused.
fn a_failed_add_takes_its_rules_back(host: &Host) {
    let (warm, _) = attach(host, "warm", &conf_v4("iptables"));
    host.plugin("bridge").del(&warm, "eth0", &conf_v4("iptables")).expect_ok();
    let pod = host.container("pod");
    let before = host.snapshot();
    let broken = host.scratch().join("broken");
    host.write(&broken, "#!/bin/sh\necho it is broken >&2\nexit 1\n");
    host.exec(["chmod", "755", &broken.display().to_string()]);
    let link = std::fs::canonicalize("/usr/sbin/ip6tables-restore").expect("it is installed");
    assert!(link.is_file());
    let alternatives = std::path::Path::new("/etc/alternatives/ip6tables-restore");
    install_iptables(host, "nft");
    std::fs::remove_file(alternatives).expect("it is ours");
    std::os::unix::fs::symlink(&broken, alternatives).expect("the folder is ours");
    let outcome = host.plugin("bridge").add(&pod, "eth0", &super::conf("iptables"));
    outcome.expect_error(999, "it is broken");
    host.expect_unchanged_but(&before, &["last_reserved_ip", "/.oxcni/", "/run/mount"]);
    assert_eq!(own_chains(host), Vec::<String>::new());
}

fn rules_of_others_stay(host: &Host) {
    for command in [
        "nft add table inet cni_plugins_masquerade",
        "nft add chain inet cni_plugins_masquerade masq_checks",
        "nft add rule inet cni_plugins_masquerade masq_checks ip saddr 10.1.0.2 masquerade",
        "iptables-nft -w -t nat -N CNI-ADMIN",
        "iptables-nft -w -t nat -A CNI-ADMIN -j RETURN",
        "iptables-nft -w -t nat -A POSTROUTING -s 10.1.0.2 -j CNI-ADMIN",
        "nft add table ip mine",
        "nft add chain ip mine postrouting { type nat hook postrouting priority 90 ; }",
        "nft add rule ip mine postrouting ip saddr 10.1.0.2 counter",
    ] {
        host.exec(command);
    }
    let before = (host.exec("nft -s list ruleset"), host.exec("iptables-nft-save"));
    for backend in ["nftables", "iptables"] {
        let conf = conf_v4(backend);
        let (pod, _) = attach(host, backend, &conf);
        let mut gc = newest(&conf);
        gc["cni.dev/valid-attachments"] = json!([]);
        host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
        host.plugin("bridge").gc(&gc).expect_ok();
    }
    let after = (host.exec("nft -s list ruleset"), host.exec("iptables-nft-save"));
    for line in before.0.lines().chain(before.1.lines()).filter(|line| !line.starts_with('#')) {
        let line = line.split(" [").next().unwrap_or_default();
        assert!(after.0.contains(line) || after.1.contains(line), "{line} is gone: {after:?}");
    }
}

/// The batches a DEL sends: messages of nf_tables begin with one of kind 0x10
/// (`NFNL_MSG_BATCH_BEGIN`).
#[track_caller]
fn batches_of_del(host: &Host, pod: &Container, conf: &Value) -> usize {
    let trace = host.scratch().join("trace");
    let words =
        format!("exec strace -f -qq -e trace=sendmsg,sendto,execve -o {} {{}}", trace.display());
    let _ = call_by_shell(host, "DEL", pod, conf, &words).expect_success();
    let trace = std::fs::read_to_string(&trace).expect("strace wrote it");
    assert_eq!(trace.matches("execve(").count(), 1, "nothing is executed:\n{trace}");
    trace.lines().filter(|line| line.contains("NFNL_MSG_BATCH_BEGIN")).count()
}

fn del_without_rules_sends_no_batch(host: &Host) {
    let mut plain = conf_v4("");
    plain["ipMasq"] = false.into();
    let (pod, _) = attach(host, "pod", &plain);
    assert_eq!(batches_of_del(host, &pod, &plain), 0);
}

fn del_sends_one_batch(host: &Host) {
    let mut conf = conf_v4("iptables");
    conf["macspoofchk"] = true.into();
    let (pod, _) = attach(host, "pod", &conf);
    conf["ipMasqBackend"] = "nftables".into();
    let other = host.container("other");
    host.plugin("bridge").add(&other, "eth0", &conf).expect_result();
    assert_eq!(batches_of_del(host, &pod, &conf), 1);
    assert_eq!(batches_of_del(host, &other, &conf), 1);
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
    assert_eq!(rules_of(host, &other), Vec::<String>::new());
}
