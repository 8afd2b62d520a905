//! The MAC spoof check (`macspoofchk`): frames with a container's own address
//! pass, others do not; what is left when it goes; the reference plugins' rules
//! are the same.

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Nft, Ping] own_frames_pass_and_others_do_not,
        [Bridge, Nft, Ping] it_holds_without_ipam,
        [Bridge, Nft] rules_are_as_documented,
        [Bridge, Nft, PeerPlugins] rules_are_the_peers,
        [Bridge, Nft, PeerPlugins] the_peer_removes_ours,
        [Bridge, Nft, PeerPlugins, OurPlugins] ours_are_removed_where_the_peer_forgets,
        [Bridge, Nft, OurPlugins] a_leftover_with_another_address_is_replaced,
        [Bridge, Nft] the_second_attachment_touches_nothing,
        [Bridge, Nft] attachments_at_once_get_one_jump_each,
        [Bridge, Nft, OurPlugins] gc_sweeps_what_has_no_link,
        [Bridge, Nft, OurPlugins] check_wants_exactly_these_rules,
        [Bridge, Nft] a_failed_add_takes_it_back,
        [Bridge, Nft, OurPlugins] an_add_that_is_refused_leaves_that_of_the_attachment,
        [Bridge, Nft, Strace, OurPlugins] a_kernel_without_nf_tables_is_refused,
        [Bridge, Nft, OurPlugins] rules_of_others_stay,
        [Bridge, Nft, OurPlugins] long_ids_have_rules_or_a_reason,
        [Bridge, Nft, OurPlugins] the_second_of_two_that_read_the_same_is_refused,
        [Bridge, Nft, PeerPlugins, OurPlugins] of_two_that_read_the_same_one_keeps_its_check,
    };
    for (name, make) in [
        ("with_everything_there", (|_| {}) as fn(&Container)),
        ("with_link_gone", |pod| drop(pod.exec("ip link del eth0"))),
        ("with_netns_gone", Container::destroy),
        ("with_a_stale_netns_file", Container::make_stale_file),
    ] {
        let needs = [testkit::Feature::Bridge, testkit::Feature::Nft];
        let name = format!("spoof::del_{name}");
        let case = Case::new(name.clone(), &needs, move |host| del_leaves_nothing(host, make));
        // Where something is gone, upstream leaves the rules.
        list.push(if name.ends_with("everything_there") { case } else { case.ours_only() });
    }
    testkit::on_every_kernel(&mut list, &["spoof::own_frames_pass_and_others_do_not"]);
    list
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
        "macspoofchk": true,
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"},
    })
}

#[track_caller]
fn attach(host: &Host, name: &str, conf: &Value) -> (Container, Value) {
    let container = host.container(name);
    let result = host.plugin("bridge").add(&container, "eth0", conf).expect_result();
    (container, result)
}

fn host_end(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().expect("the host end").to_owned()
}

/// All of the table, or nothing when there is none.
fn table(host: &Host) -> String {
    let listed = host.try_exec("nft list table bridge nat");
    if listed.success() { listed.stdout } else { String::new() }
}

/// The same container in another namespace, as after a restart without DEL: IPAM
/// refuses it, and what is there goes on as it was.
fn an_add_that_is_refused_leaves_that_of_the_attachment(host: &Host) {
    let mut masked = conf();
    masked["ipMasq"] = true.into();
    masked["ipMasqBackend"] = "nftables".into();
    let (one, result) = attach(host, "one", &masked);
    let other = host.container("other");
    let before = host.snapshot();
    let elsewhere = host.plugin("bridge").env("CNI_NETNS", "/run/netns/other");
    elsewhere.add(&one, "eth0", &masked).expect_error(999, "duplicate allocation");
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    host.plugin("bridge").check(&one, "eth0", &with_previous_result(&masked, &result)).expect_ok();
    assert_eq!(other.link("eth0"), None);
}

fn own_frames_pass_and_others_do_not(host: &Host) {
    let (one, _) = attach(host, "one", &conf());
    let (two, _) = attach(host, "two", &conf());
    let own = one.mac("eth0");
    one.expect_ping("10.1.0.3");
    // The neighbour knows the address already: what counts is the frame's.
    one.exec("ip link set eth0 address 02:00:00:00:00:66");
    assert!(!one.answers_ping("10.1.0.3"));
    // The kernel counts what the rule dropped nowhere, but the other end saw
    // nothing of it.
    let capture = two.capture();
    assert!(!one.answers_ping("10.1.0.3"));
    assert_eq!(capture.frames(|frame| frame.source == "02:00:00:00:00:66").len(), 0);
    one.exec(format!("ip link set eth0 address {own}"));
    one.expect_ping("10.1.0.3");
    // Frames to the container are not looked at.
    two.expect_ping("10.1.0.2");
}

fn it_holds_without_ipam(host: &Host) {
    let mut conf = conf();
    conf.as_object_mut().expect("an object").remove("ipam");
    let (one, _) = attach(host, "one", &conf);
    let (two, _) = attach(host, "two", &conf);
    for (pod, address) in [(&one, "10.1.0.2/24"), (&two, "10.1.0.3/24")] {
        pod.exec(format!("ip address add {address} dev eth0"));
    }
    one.expect_ping("10.1.0.3");
    one.exec("ip link set eth0 address 02:00:00:00:00:66");
    assert!(!one.answers_ping("10.1.0.3"));
}

/// As in `pkg/link/spoofcheck.go`.
fn documented(host_end: &str, mac: &str) -> String {
    let comment = "comment \"macspoofchk-ctr-pod-eth0\"";
    let lines = [
        "table bridge nat {",
        "\tchain PREROUTING {",
        "\t\ttype filter hook prerouting priority dstnat; policy accept;",
        &format!("\t\tiifname \"{host_end}\" jump cni-br-iface-ctr-pod-eth0 {comment}"),
        "\t}",
        "",
        "\tchain cni-br-iface-ctr-pod-eth0 {",
        &format!("\t\tjump cni-br-iface-ctr-pod-eth0-mac {comment}"),
        "\t}",
        "",
        "\tchain cni-br-iface-ctr-pod-eth0-mac {",
        &format!("\t\tether saddr {mac} return {comment}"),
        &format!("\t\tdrop {comment}"),
        "\t}",
        "}",
        "",
    ];
    lines.join("\n")
}

/// Chains stand in the order they were made in.
#[track_caller]
fn sorted_chains(table: &str) -> Vec<String> {
    let mut chains: Vec<String> = table.split("\tchain ").map(|c| c.trim().to_owned()).collect();
    for chain in &mut chains {
        *chain = chain.trim_end_matches("}\n}").trim_end_matches('}').trim().to_owned();
    }
    chains.sort();
    chains
}

fn rules_are_as_documented(host: &Host) {
    let (pod, result) = attach(host, "pod", &conf());
    let wanted = documented(&host_end(&result), &pod.mac("eth0"));
    assert_eq!(sorted_chains(&table(host)), sorted_chains(&wanted), "{}", table(host));
}

fn rules_are_the_peers(host: &Host) {
    let pod = host.container("pod");
    let result = host.peer("bridge").add(&pod, "eth0", &conf()).expect_result();
    let wanted = documented(&host_end(&result), &pod.mac("eth0"));
    assert_eq!(sorted_chains(&table(host)), sorted_chains(&wanted), "{}", table(host));
}

fn the_peer_removes_ours(host: &Host) {
    let (pod, _) = attach(host, "pod", &conf());
    host.peer("bridge").del(&pod, "eth0", &conf()).expect_ok();
    let left = table(host);
    assert!(left.contains("PREROUTING") && !left.contains("ctr-pod"), "{left}");
}

fn ours_are_removed_where_the_peer_forgets(host: &Host) {
    // A name that no other container and interface have together: the link may
    // still be there when DEL looks.
    let pod = host.container("podofthepeer");
    host.peer("bridge").add(&pod, "eth0", &conf()).expect_result();
    pod.destroy();
    host.peer("bridge").del(&pod, "eth0", &conf()).expect_ok();
    assert!(table(host).contains(&pod.id()), "the peer forgot it");
    host.plugin("bridge").del(&pod, "eth0", &conf()).expect_ok();
    assert!(!table(host).contains(&pod.id()));
}

fn del_leaves_nothing(host: &Host, make: fn(&Container)) {
    let (stays, _) = attach(host, "stays", &conf());
    let before = table(host);
    // As it does without CNI_NETNS, or when the check was switched off.
    let ways = if host.has_our_plugins() { &[false, true][..] } else { &[false] };
    for by_empty_name in ways.iter().copied() {
        let pod = host.container(if by_empty_name { "pod2" } else { "pod" });
        host.plugin("bridge").add(&pod, "eth0", &conf()).expect_result();
        assert!(table(host).contains(&pod.id()));
        make(&pod);
        // Whatever the configuration says by now.
        let mut plain = conf();
        plain["macspoofchk"] = (!host.has_our_plugins()).into();
        for _ in 0..2 {
            let plugin = host.plugin("bridge");
            let outcome = match by_empty_name {
                true => plugin.del_without_netns(&pod, "eth0", &plain),
                false => plugin.del(&pod, "eth0", &plain),
            };
            outcome.expect_ok();
            assert_eq!(table(host), before);
        }
    }
    assert!(before.contains(&stays.id()));
}

/// Of an ADD that was killed: the chains are there, for a container that has
/// another address by now.
fn a_leftover_with_another_address_is_replaced(host: &Host) {
    for command in [
        "nft add table bridge nat",
        "nft add chain bridge nat PREROUTING { type filter hook prerouting priority -300 ; }",
        "nft add chain bridge nat cni-br-iface-ctr-pod-eth0-mac",
        "nft add chain bridge nat cni-br-iface-ctr-pod-eth0",
        "nft add rule bridge nat cni-br-iface-ctr-pod-eth0-mac ether saddr 02:00:00:00:00:66 return",
        "nft add rule bridge nat cni-br-iface-ctr-pod-eth0-mac drop",
        "nft add rule bridge nat PREROUTING iifname veth66 jump cni-br-iface-ctr-pod-eth0",
    ] {
        host.exec(command);
    }
    let (pod, result) = attach(host, "pod", &conf());
    let wanted = documented(&host_end(&result), &pod.mac("eth0"));
    assert_eq!(sorted_chains(&table(host)), sorted_chains(&wanted), "{}", table(host));
}

fn the_second_attachment_touches_nothing(host: &Host) {
    attach(host, "one", &conf());
    let first = host.exec("nft -a list table bridge nat");
    attach(host, "two", &conf());
    let second = host.exec("nft -a list table bridge nat");
    let gone: Vec<&str> = first.lines().filter(|line| !second.contains(line)).collect();
    assert_eq!(gone, Vec::<&str>::new());
    let new = second.lines().filter(|line| line.contains("ctr-two") && line.contains("comment"));
    assert_eq!(new.count(), 4, "{second}");
}

fn attachments_at_once_get_one_jump_each(host: &Host) {
    const COUNT: usize = 10;
    let pods: Vec<_> = (0..COUNT).map(|n| host.container(&format!("pod{n}"))).collect();
    host.parallel(COUNT, |n| {
        host.plugin("bridge").add(&pods[n], "eth0", &conf()).expect_result();
    });
    let prerouting = host.exec("nft list chain bridge nat PREROUTING");
    assert_eq!(prerouting.matches(" jump ").count(), COUNT, "{prerouting}");
    host.parallel(COUNT, |n| host.plugin("bridge").del(&pods[n], "eth0", &conf()).expect_ok());
    assert!(!table(host).contains("cni-br-iface"), "{}", table(host));
}

/// Of whichever network, and of the peer's as well: its names do not tell.
fn gc_sweeps_what_has_no_link(host: &Host) {
    let (valid, _) = attach(host, "valid", &conf());
    let mut other = conf();
    other["name"] = "other".into();
    other["ipam"]["subnet"] = "10.2.0.0/24".into();
    attach(host, "foreign", &other);
    let kept = table(host);
    let (stale, _) = attach(host, "stale", &conf());
    let (renamed, _) = attach(host, "renamed", &conf());
    // The link is there until GC removes it, in a container nobody knows.
    assert!(renamed.link("eth0").is_some());
    let links = host.links().len();
    stale.destroy();
    let mut gc = conf();
    gc["cniVersion"] = "1.1.0".into();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": valid.id(), "ifname": "eth0"}]);
    host.wait_until("the link of the container is gone", || host.links().len() < links);
    host.plugin("bridge").gc(&gc).expect_ok();
    assert_eq!(table(host), kept);
}

fn check_wants_exactly_these_rules(host: &Host) {
    let (pod, result) = attach(host, "pod", &conf());
    let check = with_previous_result(&conf(), &result);
    let expect = |part: &str| {
        host.plugin("bridge").check(&pod, "eth0", &check).expect_error(999, part);
    };
    let before = host.snapshot();
    host.plugin("bridge").check(&pod, "eth0", &check).expect_ok();
    host.expect_unchanged(&before);
    let whole = host.exec("nft list ruleset");
    let file = host.scratch().join("whole.nft");
    host.write(&file, format!("flush ruleset\n{whole}"));
    for (command, part) in [
        ("nft flush chain bridge nat PREROUTING", "missing: add rule bridge nat PREROUTING"),
        ("nft delete table bridge nat", "missing: add table bridge nat"),
        (
            "nft insert rule bridge nat cni-br-iface-ctr-pod-eth0-mac ether saddr 02:00:00:00:00:66 return",
            "also has ether saddr 02:00:00:00:00:66 return",
        ),
        ("nft insert rule bridge nat cni-br-iface-ctr-pod-eth0 return", "also has return"),
    ] {
        host.exec(command);
        expect(part);
        host.exec(["nft", "-f", &file.display().to_string()]);
        host.plugin("bridge").check(&pod, "eth0", &check).expect_ok();
    }
}

fn a_failed_add_takes_it_back(host: &Host) {
    let (warm, _) = attach(host, "warm", &conf());
    let before = table(host);
    let mut bad = conf();
    bad["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.0.2/24"}],
        "routes": [{"dst": "10.9.0.0/16", "gw": "172.31.0.1"}]});
    let pod = host.container("pod");
    host.plugin("bridge").add(&pod, "eth0", &bad).expect_error(999, "route");
    assert_eq!(table(host), before);
    assert!(before.contains(&warm.id()));
}

fn a_kernel_without_nf_tables_is_refused(host: &Host) {
    let pod = host.container("pod");
    let before = host.links();
    let plugin = host.plugin("bridge").fail_call("socket", "EPROTONOSUPPORT", 2);
    plugin.add(&pod, "eth0", &conf()).expect_error(999, "macspoofchk needs nf_tables");
    assert_eq!(host.links(), before);
    let mut status = conf();
    status["cniVersion"] = "1.1.0".into();
    plugin.status(&status).expect_error(50, "macspoofchk needs nf_tables");
    host.plugin("bridge").status(&status).expect_ok();
}

fn rules_of_others_stay(host: &Host) {
    for command in [
        "nft add table bridge nat",
        "nft add chain bridge nat PREROUTING { type filter hook prerouting priority -300 ; }",
        "nft add chain bridge nat theirs",
        "nft add rule bridge nat theirs ether saddr 02:00:00:00:00:66 counter",
        "nft add rule bridge nat PREROUTING iifname gone jump theirs",
    ] {
        host.exec(command);
    }
    let before = host.exec("nft -s -a list table bridge nat");
    let (pod, _) = attach(host, "pod", &conf());
    let mut gc = conf();
    gc["cniVersion"] = "1.1.0".into();
    gc["cni.dev/valid-attachments"] = json!([]);
    host.plugin("bridge").del(&pod, "eth0", &conf()).expect_ok();
    host.plugin("bridge").gc(&gc).expect_ok();
    assert_eq!(host.exec("nft -s -a list table bridge nat"), before);
}

fn long_ids_have_rules_or_a_reason(host: &Host) {
    let fits = host.container(&"long-".repeat(40));
    host.plugin("bridge").add(&fits, "eth0", &conf()).expect_result();
    assert_eq!(table(host).matches("jump cni-br-iface-").count(), 2);
    host.plugin("bridge").del(&fits, "eth0", &conf()).expect_ok();
    assert!(!table(host).contains("long-"));
    // With its ends the name of the chain has more than 255 bytes.
    let too_long = host.container(&"long-".repeat(46));
    let links = host.links();
    let outcome = host.plugin("bridge").add(&too_long, "eth0", &conf());
    outcome.expect_error(999, "check MAC addresses");
    assert_eq!(host.links(), links);
    host.plugin("bridge").del(&too_long, "eth0", &conf()).expect_ok();
}

/// Of the second, neither ADD nor DEL does anything to the first; of the first, DEL
/// works when the second was refused and is not detached yet.
fn the_second_of_two_that_read_the_same_is_refused(host: &Host) {
    for (n, [(first, c), (second, b_c)]) in [
        [("a-b", "c"), ("a", "b-c")],
        [("d", "e-f"), ("d-e", "f")],
        // The second chain of one is the first of the other.
        [("g", "h"), ("g", "h-mac")],
        [("i", "j-mac"), ("i", "j")],
        [("k-l", "mac"), ("k", "l")],
    ]
    .into_iter()
    .enumerate()
    {
        let first = host.container(first);
        let second = if n == 2 || n == 3 { None } else { Some(host.container(second)) };
        let second = second.as_ref().unwrap_or(&first);
        let bridge = || host.plugin("bridge");
        let result = bridge().add(&first, c, &conf()).expect_result();
        let (before, links) = (table(host), host.links());
        let refused = bridge().add(second, b_c, &conf());
        refused.expect_error(999, &format!("is in use for {}", host_end(&result)));
        refused.expect_error(999, &format!("(oxcni:net/{}/{c})", first.id()));
        bridge().del(second, b_c, &conf()).expect_ok();
        bridge().del_without_netns(second, b_c, &conf()).expect_ok();
        assert_eq!((table(host), host.links()), (before, links));
        bridge().check(&first, c, &with_previous_result(&conf(), &result)).expect_ok();
        // A link that is gone is in nobody's way.
        first.exec(format!("ip link del dev {c}"));
        let result = bridge().add(second, b_c, &conf()).expect_result();
        bridge().check(second, b_c, &with_previous_result(&conf(), &result)).expect_ok();
        bridge().del(&first, c, &conf()).expect_ok();
        bridge().check(second, b_c, &with_previous_result(&conf(), &result)).expect_ok();
        bridge().del(second, b_c, &conf()).expect_ok();
        assert!(!table(host).contains("cni-br-iface"), "{}", table(host));
    }
}

/// The peer lets two share chains. Ours takes the way there of one of them, and the
/// chains when the other goes.
fn of_two_that_read_the_same_one_keeps_its_check(host: &Host) {
    let jumps = |result: &Value| table(host).matches(&host_end(result)).count();
    for by_gc in [false, true] {
        let names = if by_gc { ["d-e", "d"] } else { ["a-b", "a"] };
        let [one, two] = names.map(|name| host.container(name));
        let (c, b_c) = if by_gc { ("f", "e-f") } else { ("c", "b-c") };
        let first = host.peer("bridge").add(&one, c, &conf()).expect_result();
        let second = host.peer("bridge").add(&two, b_c, &conf()).expect_result();
        assert_eq!((jumps(&first), jumps(&second)), (1, 1));
        if by_gc {
            one.exec(format!("ip link del dev {c}"));
            let mut gc = conf();
            gc["cniVersion"] = "1.1.0".into();
            gc["cni.dev/valid-attachments"] = json!([{"containerID": two.id(), "ifname": b_c}]);
            host.plugin("bridge").gc(&gc).expect_ok();
        }
        host.plugin("bridge").del(&one, c, &conf()).expect_ok();
        assert_eq!((jumps(&first), jumps(&second)), (0, 1));
        assert!(table(host).contains(&two.mac(b_c)), "{}", table(host));
        host.plugin("bridge").del(&two, b_c, &conf()).expect_ok();
        assert!(!table(host).contains("cni-br-iface"), "{}", table(host));
    }
}
