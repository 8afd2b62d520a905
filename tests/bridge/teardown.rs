//! DEL from whatever is left of an attachment.

use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{attach, host_end, ports};
use crate::conf::{bridge, leased, with};
use crate::recorder::Recorder;

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge] del_gives_back_all_but_what_is_shared,
        [Bridge] del_leaves_the_containers_other_links,
        [Bridge] del_leaves_other_attachments,
        [Bridge] a_link_that_is_gone_already_is_no_obstacle,
        [Bridge] a_lease_that_is_gone_already_is_no_obstacle,
        [Bridge] a_destroyed_namespace_is_no_obstacle,
        [Bridge] the_address_is_released_last,
    };
    for case in cases! {
        // Upstream leaves the host end.
        [Bridge] a_namespace_that_is_not_named_is_no_obstacle,
        [Bridge] a_renamed_container_end_is_found,
        [Bridge] a_namespace_that_lives_on_elsewhere_is_cleaned_up,
        // Upstream fails, and releases nothing.
        [Bridge] a_stale_file_is_no_obstacle,
        // Upstream reads the whole configuration first.
        [Bridge] a_configuration_that_add_refuses_is_no_obstacle,
        // Upstream deletes whatever has the name.
        [Bridge] a_link_of_another_kind_is_not_deleted,
        // Upstream stops at it.
        [Bridge] an_ipam_that_fails_is_no_obstacle_to_the_link,
        // Upstream's names are random, so that leftovers do not show.
        [Bridge] leftovers_do_not_stand_in_the_way_of_an_add,
    } {
        list.push(case.ours_only());
    }
    list
}

fn conf(host: &Host) -> Value {
    bridge(host, json!({"isGateway": true, "ipam": leased(&["10.1.0.0/24"])}))
}

/// Nothing is left of the only attachment.
#[track_caller]
fn expect_gone(host: &Host) {
    host.wait_until("the port is gone", || ports(host, "cni0").is_empty());
    let files = host.files("/var/lib/cni/networks/net");
    assert!(!files.iter().any(|name| name.starts_with("10.")), "{files:?}");
}

fn del_gives_back_all_but_what_is_shared(host: &Host) {
    // The host forwards already: what it sets off is the kernel's business.
    host.set_sysctl("net/ipv4/ip_forward", "1");
    let one = host.container("one");
    let before = host.snapshot();
    let conf = conf(host);
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    host.expect_unchanged_but(&before, &["cni0", "/var/lib/cni/networks"]);
    expect_gone(host);
    assert_eq!(host.addresses("cni0"), ["10.1.0.1/24"]);
    assert_eq!(host.sysctl("net/ipv4/ip_forward").as_deref(), Some("1"));
}

fn del_leaves_the_containers_other_links(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    one.exec("ip link add eth7 type veth peer name eth8");
    let second = host.plugin("bridge").add(&one, "eth1", &conf).expect_result();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    assert_eq!(one.links(), ["lo", "eth8", "eth7", "eth1"]);
    assert_eq!(ports(host, "cni0"), [host_end(&second)]);
}

fn del_leaves_other_attachments(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    let (two, _) = attach(host, "two", &conf);
    let other = with(&conf, json!({"name": "other", "ipam": leased(&["10.1.0.0/25"])}));
    let other = with(&other, json!({"isGateway": false}));
    let second = host.plugin("bridge").add(&one, "eth1", &other).expect_result();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    assert_eq!(ports(host, "cni0").len(), 2);
    assert!(ports(host, "cni0").contains(&host_end(&second)));
    assert_eq!(two.addresses("eth0"), ["10.1.0.3/24"]);
    assert!(host.files("/var/lib/cni/networks/net").contains("10.1.0.3"));
    assert!(host.files("/var/lib/cni/networks/other").contains("10.1.0.2"));
}

fn a_namespace_that_is_not_named_is_no_obstacle(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    host.plugin("bridge").del_without_netns(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
    assert_eq!(one.links(), ["lo"]);
}

fn a_destroyed_namespace_is_no_obstacle(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    one.destroy();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
}

fn a_stale_file_is_no_obstacle(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    one.make_stale_file();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
    // Nor is anything else that cannot be a namespace.
    host.exec("ln -s /run/netns/nowhere /run/netns/dangling");
    for path in ["/run/netns/one/below", "/run/netns", "/dev/null", "/run/netns/dangling"] {
        let plugin = host.plugin("bridge").env("CNI_NETNS", path);
        plugin.del(&one, "eth0", &conf).expect_ok();
    }
}

/// The namespace was unmounted, but a process of the container still has it:
/// neither end goes by itself.
fn a_namespace_that_lives_on_elsewhere_is_cleaned_up(host: &Host) {
    let conf = conf(host);
    let (one, result) = attach(host, "one", &conf);
    let held = fs::File::open(one.path()).expect("it is there");
    one.make_stale_file();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    assert!(host.link(&host_end(&result)).is_none());
    expect_gone(host);
    drop(held);
}

fn a_link_that_is_gone_already_is_no_obstacle(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    one.exec("ip link del eth0");
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
}

fn a_renamed_container_end_is_found(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    one.exec("ip link set eth0 down");
    one.exec("ip link set eth0 name renamed");
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
    assert_eq!(one.links(), ["lo"]);
}

fn a_lease_that_is_gone_already_is_no_obstacle(host: &Host) {
    let conf = conf(host);
    let (one, _) = attach(host, "one", &conf);
    host.exec("rm -r /var/lib/cni/networks");
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
    assert_eq!(one.links(), ["lo"]);
}

/// A bad edit never blocks a teardown.
fn a_configuration_that_add_refuses_is_no_obstacle(host: &Host) {
    let conf = conf(host);
    for (number, keys) in [
        json!({"vlan": 5000}),
        json!({"vlanTrunk": [{"minID": 9, "maxID": 1}]}),
        json!({"vlanTrunk": [null]}),
        json!({"hairpinMode": true, "promiscMode": true}),
        json!({"mtu": "big"}),
        json!({"bridge": "a name that no link can have"}),
        json!({"disableContainerInterface": true}),
        json!({"runtimeConfig": {"mac": "x"}}),
        json!({"prevResult": {"cniVersion": "9.9.9"}}),
        json!({"prevResult": 5}),
        json!({"ipam": {"type": "host-local", "dataDir": conf["ipam"]["dataDir"],
            "ranges": conf["ipam"]["ranges"], "idempotentAdd": "x"}}),
    ]
    .into_iter()
    .enumerate()
    {
        let (one, _) = attach(host, &format!("c{number}"), &conf);
        host.plugin("bridge").del(&one, "eth0", &with(&conf, keys)).expect_ok();
        expect_gone(host);
    }
    let (one, _) = attach(host, "one", &conf);
    host.plugin("bridge").args("WHAT=1;=;x").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
}

fn a_link_of_another_kind_is_not_deleted(host: &Host) {
    let conf = conf(host);
    let one = host.container("one");
    one.exec("ip link add eth0 type bridge");
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    assert_eq!(one.links(), ["lo", "eth0"]);
    host.plugin("bridge").env("CNI_IFNAME", "lo").del(&one, "lo", &conf).expect_ok();
}

/// What carries an address must be gone before another can have it.
fn the_address_is_released_last(host: &Host) {
    let script = "ip -o link show type veth | wc -l >>${0%/*}/links
        ip -o link show type veth netns one 2>/dev/null | wc -l >>${0%/*}/links
        [ $CNI_COMMAND != ADD ] || echo '{\"ips\": [{\"address\": \"10.1.0.2/24\"}]}'";
    let recorder = Recorder::new(host, "recorder", script);
    let conf = bridge(host, json!({"ipam": recorder.ipam()}));
    let plugin = host.plugin("bridge").cni_path(&recorder.path());
    let one = host.container("one");
    plugin.add(&one, "eth0", &conf).expect_result();
    fs::remove_file(recorder.program().with_file_name("links")).expect("it was written");
    plugin.del(&one, "eth0", &conf).expect_ok();
    let seen = fs::read_to_string(recorder.program().with_file_name("links")).expect("written");
    assert!(seen.split_whitespace().all(|count| count == "0"), "links at the release: {seen}");
    assert_eq!(recorder.verbs(), ["ADD", "DEL"]);
}

fn an_ipam_that_fails_is_no_obstacle_to_the_link(host: &Host) {
    let script = "case $CNI_COMMAND in
        ADD) echo '{\"ips\": [{\"address\": \"10.1.0.2/24\"}]}';;
        DEL) echo '{\"code\": 123, \"msg\": \"not today\"}'; exit 1;;
        esac";
    let recorder = Recorder::new(host, "recorder", script);
    let conf = bridge(host, json!({"ipam": recorder.ipam()}));
    let plugin = host.plugin("bridge").cni_path(&recorder.path());
    let one = host.container("one");
    plugin.add(&one, "eth0", &conf).expect_result();
    plugin.del(&one, "eth0", &conf).expect_error(123, "not today");
    assert_eq!(one.links(), ["lo"]);
    expect_gone(host);
}

fn leftovers_do_not_stand_in_the_way_of_an_add(host: &Host) {
    let conf = conf(host);
    let (one, first) = attach(host, "one", &conf);
    // The machine forgets the namespace and the lease, but not the link.
    let held = fs::File::open(one.path()).expect("it is there");
    one.make_stale_file();
    host.exec("rm -r /var/lib/cni/networks");
    one.recreate();
    let second = host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    assert_ne!(host_end(&first), host_end(&second));
    assert_eq!(ports(host, "cni0").len(), 2);
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    expect_gone(host);
    drop(held);
}
