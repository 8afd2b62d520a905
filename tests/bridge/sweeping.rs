//! GC and STATUS, and many attachments at once.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use super::{attach, host_end, ports};
use crate::conf::{bridge, leased, with};
use crate::recorder::Recorder;

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge] many_at_once,
    };
    for case in cases! {
        // Upstream has no GC, and Debian's package no STATUS.
        [Bridge] gc_removes_pairs_and_leases_of_what_is_not_valid,
        [Bridge] gc_without_a_list_does_nothing,
        [Bridge] gc_knows_the_attachments_of_its_network_only,
        [Bridge] gc_leaves_links_that_are_not_its_own,
        [Bridge] gc_goes_on_after_an_error,
        [Bridge] status_asks_the_bridge_and_ipam,
    } {
        list.push(case.ours_only());
    }
    list
}

const MANY: usize = 20;

fn conf(host: &Host) -> Value {
    bridge(host, json!({"isDefaultGateway": true, "ipam": leased(&["10.1.0.0/24"])}))
}

/// The configuration that GC gets when these are valid.
fn valid(conf: &Value, list: &[(&Container, &str)]) -> Value {
    let list: Vec<_> = list
        .iter()
        .map(|(container, ifname)| json!({"containerID": container.id(), "ifname": ifname}))
        .collect();
    with(conf, json!({"cni.dev/valid-attachments": list, "cni.dev/attachments": list}))
}

fn leases(host: &Host, network: &str) -> BTreeSet<String> {
    let files = host.files(format!("/var/lib/cni/networks/{network}"));
    files.into_iter().filter(|name| name.starts_with("10.")).collect()
}

fn many_at_once(host: &Host) {
    // With IPAM's default route upstream's ADD fails.
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24"});
    let conf = with(&conf(host), json!({"ipam": ipam}));
    let containers: Vec<_> = (0..MANY).map(|n| host.container(&format!("c{n}"))).collect();
    let results = host.parallel(MANY, |n| {
        host.plugin("bridge").add(&containers[n], "eth0", &conf).expect_result()
    });
    let addresses: BTreeSet<_> = results
        .iter()
        .map(|result| result["ips"][0]["address"].as_str().expect("an address").to_owned())
        .collect();
    assert_eq!(addresses.len(), MANY, "{addresses:?}");
    assert_eq!((ports(host, "cni0").len(), leases(host, "net").len()), (MANY, MANY));
    assert_eq!(host.addresses("cni0"), ["10.1.0.1/24"]);
    if host.has_our_plugins() {
        // Upstream's bridge takes the address of its lowest port, until later.
        for (container, result) in containers.iter().zip(&results) {
            let checked = with_previous_result(&conf, result);
            host.plugin("bridge").check(container, "eth0", &checked).expect_ok();
        }
    }
    host.parallel(MANY, |n| {
        host.plugin("bridge").del(&containers[n], "eth0", &conf).expect_ok();
    });
    assert_eq!((ports(host, "cni0").len(), leases(host, "net").len()), (0, 0));
    assert!(containers.iter().all(|container| container.links() == ["lo"]));
    let others = host.links().into_iter().filter(|link| !["lo", "cni0"].contains(&link.as_str()));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new());
}

fn gc_removes_pairs_and_leases_of_what_is_not_valid(host: &Host) {
    let conf = conf(host);
    let plugin = host.plugin("bridge");
    let (one, first) = attach(host, "one", &conf);
    let second = plugin.add(&one, "eth1", &with(&conf, json!({"isDefaultGateway": false})));
    second.expect_result();
    let (two, _) = attach(host, "two", &conf);
    plugin.gc(&valid(&conf, &[(&one, "eth0"), (&one, "eth1"), (&two, "eth0")])).expect_ok();
    assert_eq!((ports(host, "cni0").len(), leases(host, "net").len()), (3, 3));
    plugin.gc(&valid(&conf, &[(&one, "eth0"), (&two, "eth1")])).expect_ok();
    assert_eq!(ports(host, "cni0"), [host_end(&first)]);
    assert_eq!(leases(host, "net"), BTreeSet::from(["10.1.0.2".to_owned()]));
    assert_eq!((one.links(), two.links()), (vec!["lo".into(), "eth0".into()], vec!["lo".into()]));
    plugin.check(&one, "eth0", &with_previous_result(&conf, &first)).expect_ok();
    plugin.gc(&valid(&conf, &[])).expect_ok();
    assert_eq!((ports(host, "cni0").len(), leases(host, "net").len()), (0, 0));
}

fn gc_without_a_list_does_nothing(host: &Host) {
    let conf = conf(host);
    attach(host, "one", &conf);
    let before = host.snapshot();
    host.plugin("bridge").gc(&conf).expect_ok();
    for list in [json!(5), json!("all"), json!([{"containerID": 5}]), json!([{"ifname": "eth0"}])] {
        let conf = with(&conf, json!({"cni.dev/valid-attachments": list}));
        host.plugin("bridge").gc(&conf).expect_error(7, "cni.dev/valid-attachments");
    }
    host.expect_unchanged(&before);
    // What the reference runtime library writes for an empty list.
    let none = with(&conf, json!({"cni.dev/valid-attachments": null}));
    host.plugin("bridge").gc(&none).expect_ok();
    assert_eq!((ports(host, "cni0").len(), leases(host, "net").len()), (0, 0));
}

fn gc_knows_the_attachments_of_its_network_only(host: &Host) {
    let conf = conf(host);
    let other = with(
        &conf,
        json!({"name": "ne", "ipam": leased(&["10.2.0.0/24"]),
        "bridge": "cni1"}),
    );
    attach(host, "one", &conf);
    let (_two, kept) = attach(host, "two", &other);
    host.plugin("bridge").gc(&valid(&conf, &[])).expect_ok();
    assert_eq!(ports(host, "cni0").len(), 0);
    assert_eq!(ports(host, "cni1"), [host_end(&kept)]);
    assert_eq!((leases(host, "net").len(), leases(host, "ne").len()), (0, 1));
}

fn gc_leaves_links_that_are_not_its_own(host: &Host) {
    let conf = conf(host);
    attach(host, "one", &conf);
    host.exec("ip link add someones type veth peer name others");
    host.exec("ip link set someones master cni0 alias net/ctr-one/eth0");
    host.exec("ip link add also type bridge");
    host.exec("ip link set also alias oxcni:net/ctr-one/eth0");
    host.plugin("bridge").gc(&valid(&conf, &[])).expect_ok();
    assert_eq!(ports(host, "cni0"), ["someones"]);
    assert!(host.link("also").is_some());
}

fn gc_goes_on_after_an_error(host: &Host) {
    let script = "[ $CNI_COMMAND != GC ] || { echo '{\"code\": 123, \"msg\": \"no\"}'; exit 1; }
        [ $CNI_COMMAND != ADD ] || echo '{\"ips\": [{\"address\": \"10.1.0.2/24\"}]}'";
    let recorder = Recorder::new(host, "recorder", script);
    let conf = bridge(host, json!({"ipam": recorder.ipam()}));
    let plugin = host.plugin("bridge").cni_path(&recorder.path());
    plugin.add(&host.container("one"), "eth0", &conf).expect_result();
    plugin.gc(&valid(&conf, &[])).expect_error(123, "no");
    assert_eq!(ports(host, "cni0").len(), 0);
    assert_eq!(recorder.verbs(), ["ADD", "GC"]);
}

fn status_asks_the_bridge_and_ipam(host: &Host) {
    let conf = conf(host);
    let plugin = host.plugin("bridge");
    let before = host.snapshot();
    plugin.status(&conf).expect_ok();
    plugin.status(&bridge(host, json!({}))).expect_ok();
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    attach(host, "one", &conf);
    plugin.status(&conf).expect_ok();

    let full = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24",
        "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.2"}]]});
    plugin.status(&with(&conf, json!({"ipam": full}))).expect_error(50, "10.1.0.2");
    let nowhere = json!({"ipam": {"type": "there-is-no-such-plugin"}});
    plugin.status(&with(&conf, nowhere)).expect_error(50, "there-is-no-such-plugin");
    host.exec("ip link add cni7 type veth peer name other");
    plugin.status(&with(&conf, json!({"bridge": "cni7"}))).expect_error(50, "cni7");

    let script =
        "[ $CNI_COMMAND != STATUS ] || { echo '{\"code\": 51, \"msg\": \"half\"}'; exit 1; }";
    let recorder = Recorder::new(host, "recorder", script);
    let conf = bridge(host, json!({"ipam": recorder.ipam()}));
    plugin.cni_path(&recorder.path()).status(&conf).expect_error(51, "half");
    assert_eq!(recorder.verbs(), ["STATUS"]);
    fs::remove_file(recorder.program()).expect("it is ours");
}
