//! Tables, chains, comments and hashes: the reference plugins' own, and never
//! twice.

use serde_json::Value;
use testkit::{Case, Host, Netns as _, cases};

use super::{attach, conf, conf_v4, rules_of};

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Nft, Ipv6, OurPlugins] nftables_rules_are_as_documented,
        [Bridge, Nft, Ipv6, OurPlugins] nftables_rules_are_those_of_the_reference_transaction,
        [Bridge, Iptables, PeerPlugins, Ipv6] iptables_rules_are_the_peers,
        [Bridge, LegacyIptables, PeerPlugins, Ipv6] legacy_iptables_rules_are_the_peers,
        [Bridge, Nft, OurPlugins] the_second_attachment_adds_one_rule_and_touches_nothing,
        [Bridge, Nft, OurPlugins] shared_rules_that_are_lost_come_back,
        [Bridge, Nft, OurPlugins] leftovers_of_an_attachment_go_with_its_del,
        [Bridge, Nft, OurPlugins] the_reference_finds_our_rules,
        [Bridge, Iptables, OurPlugins] leftovers_in_iptables_are_completed,
        [Bridge, LegacyIptables, OurPlugins] leftovers_in_legacy_iptables_are_completed,
        [Bridge, Nft, OurPlugins] attachments_at_once_share_one_set_of_shared_rules,
        [Bridge, Iptables] attachments_at_once_with_iptables_all_get_their_rules,
        [Bridge, Nft, OurPlugins] a_table_of_the_name_that_is_anothers_is_refused,
        [Bridge, Nft, OurPlugins] long_ids_are_cut_in_comments_only,
        [Bridge, Iptables] long_ids_fit_iptables,
    }
}

/// Of network `net` and `eth0` of `ctr-pod`: `printf net | sha512sum`,
/// `printf eth0:ctr-pod | sha512sum`, `printf netctr-pod | sha512sum`.
const NETWORK_HASH: &str = "a4861f4ae9f7d238";
const POD_HASH: &str = "a6230e0641176dc0";
const POD_CHAIN: &str = "CNI-ba31dda80ed3b72303158909";

fn pod_comment() -> String {
    format!("{NETWORK_HASH}-{POD_HASH}, net: net, if: eth0, id: ctr-pod")
}

fn documented() -> String {
    let comment = pod_comment();
    let lines = [
        "table inet cni_plugins_masquerade {",
        "\tcomment \"Masquerading for plugins from github.com/containernetworking/plugins\"",
        "\tchain masq_checks {",
        "\t\tcomment \"Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet\"",
        &format!("\t\tip saddr 10.1.0.2 ip daddr != 10.1.0.0/24 masquerade comment \"{comment}\""),
        &format!(
            "\t\tip6 saddr 2001:db8:1::2 ip6 daddr != 2001:db8:1::/64 masquerade comment \"{comment}\""
        ),
        "\t}",
        "",
        "\tchain postrouting {",
        "\t\ttype nat hook postrouting priority srcnat; policy accept;",
        "\t\tip daddr 224.0.0.0/4 return",
        "\t\tip6 daddr ff00::/8 return",
        "\t\tgoto masq_checks",
        "\t}",
        "}",
        "",
    ];
    lines.join("\n")
}

fn nftables_rules_are_as_documented(host: &Host) {
    attach(host, "pod", &conf("nftables"));
    assert_eq!(host.exec("nft list ruleset"), documented());
}

/// What the reference plugins hand to nft on each ADD (`pkg/ip/ipmasq_nftables_linux.go`).
fn reference_transaction(comment: &str, address: &str, subnet: &str) -> String {
    format!(
        "add table inet cni_plugins_masquerade {{ comment \"Masquerading for plugins from github.com/containernetworking/plugins\" ; }}
add chain inet cni_plugins_masquerade masq_checks {{ comment \"Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet\" ; }}
add chain inet cni_plugins_masquerade postrouting {{ type nat hook postrouting priority 100 ; }}
flush chain inet cni_plugins_masquerade postrouting
add rule inet cni_plugins_masquerade postrouting ip daddr == 224.0.0.0/4 return
add rule inet cni_plugins_masquerade postrouting ip6 daddr == ff00::/8 return
add rule inet cni_plugins_masquerade postrouting goto masq_checks
add rule inet cni_plugins_masquerade masq_checks ip saddr == {address} ip daddr != {subnet} masquerade comment \"{comment}\"
"
    )
}

#[track_caller]
fn nft(host: &Host, text: &str) {
    let file = host.scratch().join("rules.nft");
    host.write(&file, text);
    host.exec(["nft", "-f", &file.display().to_string()]);
}

/// Where that transaction was, ours finds all that is shared; and where it comes
/// later, what ours made stays.
fn nftables_rules_are_those_of_the_reference_transaction(host: &Host) {
    nft(host, &reference_transaction("theirs", "10.1.0.9", "10.1.0.0/24"));
    let theirs = host.exec("nft -a list ruleset");
    let (pod, _) = attach(host, "pod", &conf_v4("nftables"));
    let both = host.exec("nft -a list ruleset");
    let new: Vec<&str> = both.lines().filter(|line| !theirs.contains(line)).collect();
    assert!(matches!(new.as_slice(), [rule] if rule.contains(&pod_comment())), "{new:?}");
    nft(host, &reference_transaction("later", "10.1.0.10", "10.1.0.0/24"));
    let rules = host.exec("nft list chain inet cni_plugins_masquerade masq_checks");
    assert!(rules.contains(&pod_comment()), "{rules}");
    host.plugin("bridge").del(&pod, "eth0", &conf_v4("nftables")).expect_ok();
    let left = host.exec("nft list chain inet cni_plugins_masquerade masq_checks");
    assert!(left.contains("theirs") && left.contains("later"), "{left}");
    assert!(!left.contains("ctr-pod"), "{left}");
}

/// On DEL the reference plugins list the rules of `masq_checks` and delete, by
/// their handles, those whose comment starts with both hashes.
fn the_reference_finds_our_rules(host: &Host) {
    attach(host, "pod", &conf("nftables"));
    attach(host, "other", &conf("nftables"));
    let start = format!("comment \"{NETWORK_HASH}-{POD_HASH}");
    let listed = host.exec("nft -a list chain inet cni_plugins_masquerade masq_checks");
    let found: Vec<&str> = listed
        .lines()
        .filter(|line| line.contains(&start))
        .filter_map(|line| line.rsplit_once("# handle ").map(|(_, handle)| handle.trim()))
        .collect();
    assert_eq!(found.len(), 2, "{listed}");
    for handle in found {
        let chain = "inet cni_plugins_masquerade masq_checks";
        host.exec(format!("nft delete rule {chain} handle {handle}"));
    }
    let left = host.exec("nft list chain inet cni_plugins_masquerade masq_checks");
    assert!(left.contains("ctr-other") && !left.contains("ctr-pod"), "{left}");
}

/// What both programs leave in iptables after the same ADD, without dates and
/// counters.
#[track_caller]
fn saved_by(host: &Host, peer: bool, kind: &str) -> Vec<String> {
    super::install_iptables(host, kind);
    let mut conf = conf("iptables");
    if peer {
        // Debian's version knows no backends, and has iptables alone.
        conf.as_object_mut().expect("an object").remove("ipMasqBackend");
        conf["cniVersion"] = "1.0.0".into();
    }
    let pod = host.container("pod");
    let plugin = if peer { host.peer("bridge") } else { host.plugin("bridge") };
    plugin.add(&pod, "eth0", &conf).expect_result();
    let mut lines = Vec::new();
    for command in ["iptables-save -t nat", "ip6tables-save -t nat"] {
        let saved = host.exec(command);
        lines.extend(saved.lines().filter(|line| line.starts_with("-A")).map(str::to_owned));
    }
    lines
}

fn iptables_rules_are_the_peers(host: &Host) {
    let theirs = Host::run(|other| saved_by(other, true, "nft"));
    let ours = saved_by(host, false, "nft");
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 6, "{ours:?}");
    assert!(ours[0].ends_with(&format!("-j {POD_CHAIN}")), "{ours:?}");
}

fn legacy_iptables_rules_are_the_peers(host: &Host) {
    let theirs = Host::run(|other| saved_by(other, true, "legacy"));
    let ours = saved_by(host, false, "legacy");
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 6, "{ours:?}");
    assert_eq!(host.exec("nft list ruleset"), "");
}

/// Handles tell what was made anew.
fn the_second_attachment_adds_one_rule_and_touches_nothing(host: &Host) {
    attach(host, "pod", &conf_v4("nftables"));
    let first = host.exec("nft -a list ruleset");
    attach(host, "two", &conf_v4("nftables"));
    let second = host.exec("nft -a list ruleset");
    let new: Vec<&str> = second.lines().filter(|line| !first.contains(line)).collect();
    assert!(matches!(new.as_slice(), [rule] if rule.contains("id: ctr-two")), "{new:?}");
    let gone: Vec<&str> = first.lines().filter(|line| !second.contains(line)).collect();
    assert_eq!(gone, Vec::<&str>::new());
}

fn shared_rules_that_are_lost_come_back(host: &Host) {
    attach(host, "pod", &conf_v4("nftables"));
    let whole = host.exec("nft list chain inet cni_plugins_masquerade postrouting");
    host.exec("nft flush chain inet cni_plugins_masquerade postrouting");
    attach(host, "two", &conf_v4("nftables"));
    assert_eq!(host.exec("nft list chain inet cni_plugins_masquerade postrouting"), whole);
}

/// Of ADDs that were killed: the same rule twice, and one of another address.
fn leftovers_of_an_attachment_go_with_its_del(host: &Host) {
    nft(host, &reference_transaction(&pod_comment(), "10.1.0.2", "10.1.0.0/24"));
    nft(host, &reference_transaction(&pod_comment(), "10.7.0.9", "10.7.0.0/16"));
    let (pod, _) = attach(host, "pod", &conf_v4("nftables"));
    assert_eq!(rules_of(host, &pod).len(), 3);
    host.plugin("bridge").del(&pod, "eth0", &conf_v4("nftables")).expect_ok();
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

/// The chain is there, as after an ADD that nobody took back, but not whole.
fn complete_leftovers(host: &Host, kind: &str) {
    super::install_iptables(host, kind);
    let (pod, _) = attach(host, "pod", &conf_v4("iptables"));
    let whole = host.exec("iptables-save -t nat");
    let whole: Vec<&str> = whole.lines().filter(|line| line.starts_with("-A")).collect();
    // The container's own link, but not its rules.
    pod.exec("ip link del eth0");
    host.exec("iptables -w -t nat -D POSTROUTING 1");
    host.exec(format!("iptables -w -t nat -D {POD_CHAIN} 1"));
    std::fs::remove_dir_all("/var/lib/cni/networks").expect("it is private");
    host.plugin("bridge").add(&pod, "eth0", &conf_v4("iptables")).expect_result();
    let again = host.exec("iptables-save -t nat");
    let again: Vec<&str> = again.lines().filter(|line| line.starts_with("-A")).collect();
    assert_eq!(again, whole);
    host.plugin("bridge").del(&pod, "eth0", &conf_v4("iptables")).expect_ok();
    assert_eq!(rules_of(host, &pod), Vec::<String>::new());
}

fn leftovers_in_iptables_are_completed(host: &Host) {
    complete_leftovers(host, "nft");
}

fn leftovers_in_legacy_iptables_are_completed(host: &Host) {
    complete_leftovers(host, "legacy");
}

#[track_caller]
fn attach_at_once(host: &Host, conf: &Value) -> usize {
    const COUNT: usize = 12;
    let pods: Vec<_> = (0..COUNT).map(|n| host.container(&format!("pod{n:02}"))).collect();
    host.parallel(COUNT, |n| {
        host.plugin("bridge").add(&pods[n], "eth0", conf).expect_result();
    });
    pods.iter().map(|pod| rules_of(host, pod).len()).sum()
}

fn attachments_at_once_share_one_set_of_shared_rules(host: &Host) {
    assert_eq!(attach_at_once(host, &conf_v4("nftables")), 12);
    let shared = host.exec("nft list chain inet cni_plugins_masquerade postrouting");
    assert_eq!(shared.matches("return").count(), 2, "{shared}");
    assert_eq!(shared.matches("goto").count(), 1, "{shared}");
}

fn attachments_at_once_with_iptables_all_get_their_rules(host: &Host) {
    assert_eq!(attach_at_once(host, &conf_v4("iptables")), 3 * 12);
}

fn a_table_of_the_name_that_is_anothers_is_refused(host: &Host) {
    host.exec("nft add table inet cni_plugins_masquerade");
    nft(
        host,
        "add chain inet cni_plugins_masquerade postrouting { type filter hook input priority 0 ; }\n",
    );
    let pod = host.container("pod");
    let before = host.snapshot();
    let outcome = host.plugin("bridge").add(&pod, "eth0", &conf_v4("nftables"));
    outcome.expect_error(999, "type filter hook input");
    let words = ["/var/lib/cni"];
    host.expect_unchanged_but(&before, &words);
    // DEL finds nothing of its own, and that is fine.
    host.plugin("bridge").del(&pod, "eth0", &conf_v4("nftables")).expect_ok();
    host.expect_unchanged_but(&before, &words);
}

/// The runtime's name for a container may be as long as it likes.
fn long_id(host: &Host) -> testkit::Container {
    host.container(&"long-".repeat(40))
}

fn long_ids_are_cut_in_comments_only(host: &Host) {
    let (pod, other) = (long_id(host), host.container(&format!("{}x", "long-".repeat(40))));
    let conf = conf_v4("nftables");
    for pod in [&pod, &other] {
        host.plugin("bridge").add(pod, "eth0", &conf).expect_result();
    }
    let rules = host.exec("nft list chain inet cni_plugins_masquerade masq_checks");
    assert_eq!(rules.matches("masquerade comment").count(), 2, "{rules}");
    // The hash, which comes first, tells them apart.
    host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
    let rules = host.exec("nft list chain inet cni_plugins_masquerade masq_checks");
    assert!(rules.contains("10.1.0.3") && !rules.contains("10.1.0.2"), "{rules}");
}

fn long_ids_fit_iptables(host: &Host) {
    let pod = host.container(&"long-".repeat(48));
    let conf = conf_v4("iptables");
    host.plugin("bridge").add(&pod, "eth0", &conf).expect_result();
    let saved = host.exec("iptables-save -t nat");
    assert_eq!(saved.lines().filter(|line| line.contains("long-")).count(), 3, "{saved}");
    host.plugin("bridge").del(&pod, "eth0", &conf).expect_ok();
    assert!(!host.exec("iptables-save -t nat").contains("long-"));
}
