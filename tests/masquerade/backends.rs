//! Which backend it is: named, or chosen by what the host has.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, Outcome, cases, with_previous_result};

use super::{attach, call_by_shell, conf, conf_v4, install_iptables, newest, own_chains, rules_of};

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Iptables, OurPlugins] a_host_with_iptables_nft_gets_nftables,
        [Bridge, LegacyIptables, OurPlugins] a_host_with_unused_legacy_iptables_gets_nftables,
        [Bridge, LegacyIptables] a_host_with_legacy_nat_in_use_gets_iptables,
        [Bridge, LegacyIptables, OurPlugins] a_lock_that_is_not_given_back_ends_the_wait,
        [Bridge, LegacyIptables, OurPlugins] legacy_nat_beside_iptables_nft_does_not_count,
        [Bridge, Iptables] an_accept_in_iptables_gets_iptables,
        [Bridge, Iptables, OurPlugins] whatever_ends_the_chain_gets_iptables,
        [Bridge, Iptables, OurPlugins] usual_chains_of_others_get_nftables,
        [Bridge, Nft, OurPlugins] a_host_without_iptables_gets_nftables,
        [Bridge, Nft, LegacyIptables, Strace, OurPlugins] a_kernel_without_nf_tables_gets_iptables,
        [Bridge, Iptables, OurPlugins] what_the_kernel_refuses_goes_to_iptables,
        [Bridge, Nft, Strace, OurPlugins] a_host_with_neither_is_told_so,
        [Bridge, Nft, OurPlugins] iptables_that_is_not_installed_is_missed,
        [Bridge, Iptables, Strace, OurPlugins] nftables_that_the_kernel_lacks_is_missed,
        [Bridge, OurPlugins] an_unknown_backend_is_refused,
        [Bridge, Nft, OurPlugins] a_root_without_any_program_will_do,
        [Bridge, Nft, OurPlugins] check_wants_the_rules,
        [Bridge, Iptables, OurPlugins] check_wants_the_rules_of_iptables,
        [Bridge, Nft, Iptables, OurPlugins] check_takes_either_where_none_is_named,
    }
}

#[track_caller]
fn expect_chains(host: &Host, conf: &Value, wanted: usize) {
    expect_chains_of(host, "pod", conf, wanted);
}

#[track_caller]
fn expect_chains_of(host: &Host, name: &str, conf: &Value, wanted: usize) {
    let (pod, _) = attach(host, name, conf);
    assert!(!rules_of(host, &pod).is_empty());
    assert_eq!(own_chains(host).len(), wanted, "{}", host.exec("nft list ruleset"));
    host.plugin("bridge").del(&pod, "eth0", conf).expect_ok();
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn a_host_with_iptables_nft_gets_nftables(host: &Host) {
    // In use, but with nothing that excepts packets.
    host.exec("iptables-nft -w -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE");
    expect_chains(host, &conf_v4(""), 0);
}

fn a_host_with_unused_legacy_iptables_gets_nftables(host: &Host) {
    install_iptables(host, "legacy");
    expect_chains(host, &conf_v4(""), 0);
}

fn a_host_with_legacy_nat_in_use_gets_iptables(host: &Host) {
    install_iptables(host, "legacy");
    host.exec("iptables-legacy -w -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE");
    expect_chains(host, &conf_v4(""), 1);
}

/// Two families, and what a failed ADD takes back.
fn a_lock_that_is_not_given_back_ends_the_wait(host: &Host) {
    const LIMIT: Duration = Duration::from_secs(30);
    install_iptables(host, "legacy");
    let conf = conf("iptables");
    let (first, _) = attach(host, "first", &conf);
    let second = host.container("second");
    let plugin = host.plugin("bridge");
    let lock = fs::File::create("/run/xtables.lock").expect("a private folder");
    lock.lock().expect("nobody has it");
    let expect_told = |call: &dyn Fn() -> Outcome| {
        let started = Instant::now();
        let told = call();
        told.expect_error(11, "xtables lock");
        assert!(started.elapsed() < LIMIT, "{:?}: {told}", started.elapsed());
    };
    expect_told(&|| plugin.add(&second, "eth0", &conf));
    expect_told(&|| plugin.del(&first, "eth0", &conf));
    drop(lock);
    for pod in [&first, &second] {
        plugin.del(pod, "eth0", &conf).expect_ok();
    }
    assert_eq!(own_chains(host), Vec::<String>::new());
}

fn legacy_nat_beside_iptables_nft_does_not_count(host: &Host) {
    install_iptables(host, "nft");
    host.exec("iptables-legacy -w -t nat -A POSTROUTING -s 172.30.0.0/16 -j ACCEPT");
    expect_chains(host, &conf_v4(""), 0);
}

/// A packet to the other end of a tunnel must keep its address, says the
/// administrator, and rules of another table would not know.
fn an_accept_in_iptables_gets_iptables(host: &Host) {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    outside.exec("ip address add 192.0.2.3/24 dev uplink");
    let _server = outside.echo_server(7000);
    host.exec(
        "iptables-nft -w -t nat -A POSTROUTING -d 192.0.2.3 -m comment --comment vpn -j ACCEPT",
    );
    let conf = conf_v4("");
    let (pod, _) = attach(host, "pod", &conf);
    assert_eq!(own_chains(host).len(), 1);
    let seen = |server: &str| {
        let server = server.parse().expect("an address");
        pod.tcp(server).expect("outside answers").ip().to_string()
    };
    assert_eq!(seen("192.0.2.3:7000"), "10.1.0.2");
    assert_eq!(seen("192.0.2.2:7000"), "192.0.2.1");
}

/// Each as `iptables-restore` reads it.
fn whatever_ends_the_chain_gets_iptables(host: &Host) {
    let ends = [
        "-A POSTROUTING -d 192.0.2.3 -j RETURN",
        "-N VPN\n-A VPN -d 192.0.2.3 -j ACCEPT\n-A POSTROUTING -j VPN",
        "-N A\n-N B\n-A A -g B\n-A B -d 192.0.2.3 -j ACCEPT\n-A POSTROUTING -j A",
        "-N VPN\n-A VPN -d 192.0.2.3 -j RETURN\n-A POSTROUTING -g VPN",
        "-A POSTROUTING -s 10.1.0.0/24 -o up0 -j SNAT --to-source 192.0.2.7",
        "-N OUT\n-A OUT -s 10.1.0.0/24 -j NETMAP --to 192.0.2.0/24\n-A POSTROUTING -j OUT",
    ];
    for (n, rules) in ends.into_iter().enumerate() {
        load_nat(host, rules);
        expect_chains_of(host, &format!("pod{n}"), &conf_v4(""), 1);
    }
}

/// Docker, kube-proxy, ip-masq-agent, libvirt, netavark; upstream's plugins. Back
/// from a chain of theirs ours would come.
fn usual_chains_of_others_get_nftables(host: &Host) {
    let usual = [
        "-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
        "-N KUBE-SERVICES
-N KUBE-POSTROUTING
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "-N IP-MASQ-AGENT
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A IP-MASQ-AGENT -d 10.0.0.0/8 -j RETURN",
        "-N LIBVIRT_PRT
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -s 192.168.122.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE",
        "-N NETAVARK-1D8721804F16F
-A POSTROUTING -s 10.88.0.0/16 -j NETAVARK-1D8721804F16F
-A NETAVARK-1D8721804F16F -d 10.88.0.0/16 -j ACCEPT
-A NETAVARK-1D8721804F16F ! -d 224.0.0.0/4 -j MASQUERADE",
        "-N CNI-x
-A POSTROUTING -s 10.9.0.2/32 -j CNI-x
-A CNI-x -d 10.9.0.0/24 -j ACCEPT",
        "-N A\n-N B\n-A POSTROUTING -j A\n-A POSTROUTING -j B\n-A A -j B\n-A B -j RETURN",
    ];
    for (n, rules) in usual.into_iter().enumerate() {
        load_nat(host, rules);
        let others = own_chains(host).len();
        expect_chains_of(host, &format!("pod{n}"), &conf_v4(""), others);
    }
}

/// In the place of all that was in the table.
fn load_nat(host: &Host, rules: &str) {
    let file = host.scratch().join("nat");
    fs::write(&file, format!("*nat\n{rules}\nCOMMIT\n")).expect("a private folder");
    host.exec(format!("iptables-nft-restore {}", file.display()));
}

fn a_host_without_iptables_gets_nftables(host: &Host) {
    install_iptables(host, "");
    expect_chains(host, &conf_v4(""), 0);
    host.plugin("bridge").status(&newest(&conf(""))).expect_ok();
}

/// The plugin's second socket is that of nf_tables; the kernel says that there
/// is no such thing.
fn without_nf_tables<'a>(host: &'a Host) -> testkit::Plugin<'a> {
    host.plugin("bridge").fail_call("socket", "EPROTONOSUPPORT", 2)
}

fn a_kernel_without_nf_tables_gets_iptables(host: &Host) {
    install_iptables(host, "legacy");
    let (pod, conf) = (host.container("pod"), conf_v4(""));
    // Without its children: the kernel of iptables-legacy is whole. DEL opens
    // nf_tables first.
    let words = |nth| {
        format!(
            "exec strace -qq -o /dev/null -e inject=socket:error=EPROTONOSUPPORT:when={nth} {{}}"
        )
    };
    let _ = call_by_shell(host, "ADD", &pod, &conf, &words(2)).expect_success();
    assert_eq!(own_chains(host).len(), 1);
    assert_eq!(host.exec("nft list ruleset"), "");
    without_nf_tables(host).status(&newest(&conf)).expect_ok();
    let _ = call_by_shell(host, "DEL", &pod, &conf, &words(1)).expect_success();
    assert_eq!(own_chains(host), Vec::<String>::new());
}

/// As on a kernel that lacks a part: here a jump from a chain that translates
/// no addresses makes it refuse the rule.
fn what_the_kernel_refuses_goes_to_iptables(host: &Host) {
    for command in [
        "nft add table inet cni_plugins_masquerade",
        "nft add chain inet cni_plugins_masquerade masq_checks",
        "nft add chain inet cni_plugins_masquerade x { type filter hook forward priority 0 ; }",
        "nft add rule inet cni_plugins_masquerade x jump masq_checks",
    ] {
        host.exec(command);
    }
    expect_chains(host, &conf_v4(""), 1);
    let pod = host.container("named");
    let outcome = host.plugin("bridge").add(&pod, "eth0", &conf_v4("nftables"));
    outcome.expect_error(999, "masquerade: add rule inet cni_plugins_masquerade masq_checks");
    install_iptables(host, "");
    let outcome = host.plugin("bridge").add(&pod, "eth0", &conf_v4(""));
    outcome.expect_error(999, "masquerade: add rule inet cni_plugins_masquerade masq_checks");
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn a_host_with_neither_is_told_so(host: &Host) {
    install_iptables(host, "");
    let pod = host.container("pod");
    let before = host.links();
    let outcome = without_nf_tables(host).add(&pod, "eth0", &conf_v4(""));
    outcome.expect_error(999, "no nf_tables, and there is no iptables-restore");
    assert_eq!(host.links(), before);
    let outcome = without_nf_tables(host).status(&newest(&conf_v4("")));
    outcome.expect_error(50, "no nf_tables, and there is no iptables-restore");
    // Who asks for no masquerading is not concerned.
    let mut plain = conf_v4("");
    plain["ipMasq"] = false.into();
    without_nf_tables(host).status(&newest(&plain)).expect_ok();
}

fn iptables_that_is_not_installed_is_missed(host: &Host) {
    install_iptables(host, "");
    let pod = host.container("pod");
    let outcome = host.plugin("bridge").add(&pod, "eth0", &conf_v4("iptables"));
    outcome.expect_error(999, "no iptables-restore in /usr/local/sbin");
    host.plugin("bridge")
        .status(&newest(&conf_v4("iptables")))
        .expect_error(50, "install iptables");
    // It cannot have made any, so that there is nothing to remove.
    host.plugin("bridge").del(&pod, "eth0", &conf_v4("iptables")).expect_ok();
}

fn nftables_that_the_kernel_lacks_is_missed(host: &Host) {
    let pod = host.container("pod");
    let outcome = without_nf_tables(host).add(&pod, "eth0", &conf_v4("nftables"));
    outcome.expect_error(999, "the kernel has no nf_tables");
    assert_eq!(own_chains(host), Vec::<String>::new());
    without_nf_tables(host).status(&newest(&conf_v4("nftables"))).expect_error(50, "no nf_tables");
}

fn an_unknown_backend_is_refused(host: &Host) {
    let pod = host.container("pod");
    for backend in [json!("ebtables"), json!("")] {
        let mut conf = conf_v4("");
        conf["ipMasqBackend"] = backend;
        let outcome = host.plugin("bridge").add(&pod, "eth0", &conf);
        outcome.expect_error(7, "unknown ipMasqBackend");
        host.plugin("bridge").status(&newest(&conf)).expect_error(7, "unknown ipMasqBackend");
        // A bad edit does not keep a container from going.
        host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
    }
    assert!(host.link("cni0").is_none());
    let mut conf = conf_v4("");
    conf["ipMasqBackend"] = Value::Null;
    host.plugin("bridge").add(&pod, "eth0", &conf).expect_result();
}

/// Neither iptables nor nft nor a shell, not even `ip`.
fn a_root_without_any_program_will_do(host: &Host) {
    let conf = conf("");
    let pod = host.container("pod");
    for verb in ["ADD", "DEL"] {
        // The shell is in memory before its file is covered.
        let words = "mount -t tmpfs none /usr/sbin && mount -t tmpfs none /usr/bin && exec {}";
        let _ = call_by_shell(host, verb, &pod, &conf, words).expect_success();
        let rules = rules_of(host, &pod).len();
        assert_eq!(rules, if verb == "ADD" { 2 } else { 0 }, "after {verb}");
    }
}

/// CHECK after each command that breaks something, in a fresh attachment.
#[track_caller]
fn expect_check_to_miss(host: &Host, conf: &Value, breaks: &[(&str, &str)]) {
    for (n, (command, missed)) in breaks.iter().enumerate() {
        let (pod, result) = attach(host, &format!("pod{n}"), conf);
        let check = with_previous_result(conf, &result);
        let before = host.snapshot();
        host.plugin("bridge").check(&pod, "eth0", &check).expect_ok();
        host.expect_unchanged(&before);
        host.exec(*command);
        host.plugin("bridge").check(&pod, "eth0", &check).expect_error(999, missed);
        host.plugin("bridge").del(&pod, "eth0", conf).expect_ok();
    }
}

fn check_wants_the_rules(host: &Host) {
    let breaks = [
        ("nft flush chain inet cni_plugins_masquerade masq_checks", "ip saddr 10.1.0.2"),
        ("nft flush chain inet cni_plugins_masquerade postrouting", "224.0.0.0/4 return"),
        ("nft delete table inet cni_plugins_masquerade", "table inet cni_plugins_masquerade"),
    ];
    expect_check_to_miss(host, &conf_v4("nftables"), &breaks);
}

fn check_wants_the_rules_of_iptables(host: &Host) {
    let breaks = [("iptables-nft -w -t nat -F POSTROUTING", "-A POSTROUTING -s 10.1.0.2/32")];
    expect_check_to_miss(host, &conf_v4("iptables"), &breaks);
}

fn check_takes_either_where_none_is_named(host: &Host) {
    for backend in ["nftables", "iptables"] {
        let (pod, result) = attach(host, backend, &conf_v4(backend));
        let check = with_previous_result(&conf_v4(""), &result);
        host.plugin("bridge").check(&pod, "eth0", &check).expect_ok();
        host.exec("nft flush ruleset");
        host.plugin("bridge").check(&pod, "eth0", &check).expect_error(999, "is missing");
    }
}
