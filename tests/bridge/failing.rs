//! An ADD that fails: the error says why, and the host is as it was. That this
//! holds wherever it fails is a property of all plugins, see `properties`.

use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases};

use super::{attach, attach_by_hand, ports};
use crate::conf::{bridge, fixed, leased, with};
use crate::recorder::Recorder;

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge] a_name_that_is_taken_is_an_error,
        [Bridge, Ping] a_second_add_takes_nothing_away,
    };
    for case in cases! {
        // Upstream leaves the bridge, and what it made on it.
        [Bridge] a_namespace_must_be_there,
        [Bridge] an_mtu_that_no_pair_can_have_is_named,
        [Bridge] a_route_that_leads_nowhere_is_named,
        [Bridge] no_address_left_is_an_error,
        [Bridge] a_limit_on_the_size_of_files_is_told,
        [Bridge] a_bridge_of_others_is_as_it_was,
        [Bridge] a_bridge_of_others_stays_up_for_who_has_joined_it,
        [BridgeVlan] a_bridge_of_others_filters_no_vlans_again,
        [Bridge, Ping] what_others_use_stays,
        [Bridge, Ping] the_bridge_is_kept_for_who_has_joined_it,
    } {
        list.push(case.ours_only());
    }
    list
}

/// The ADD fails with this code and text, and nothing is changed, on the host
/// or in the container.
#[track_caller]
fn expect_refused(host: &Host, container: &Container, conf: &Value, code: u32, part: &str) {
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    host.plugin("bridge").add(container, "eth0", conf).expect_error(code, part);
    // Folders, the mark of the last lease and the index over leases stay.
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    inside.expect_same(&container.network_snapshot());
    assert_eq!(leases(host), 0);
}

/// The kernel ends a process that goes beyond it, unless that has asked for an error.
fn a_limit_on_the_size_of_files_is_told(host: &Host) {
    let (conf, one) = (gateway(host), host.container("one"));
    let (before, inside) = (host.snapshot(), one.network_snapshot());
    let limited = host.plugin("bridge").with_file_size(0);
    limited.add(&one, "eth0", &conf).expect_error(5, "file too large");
    host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/cni"]);
    inside.expect_same(&one.network_snapshot());
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
}

fn leases(host: &Host) -> usize {
    let files = host.files("/var/lib/cni/networks/net");
    files.iter().filter(|name| name.starts_with("10.")).count()
}

fn gateway(host: &Host) -> Value {
    bridge(host, json!({"isGateway": true, "ipam": leased(&["10.1.0.0/24"])}))
}

fn a_namespace_must_be_there(host: &Host) {
    let conf = gateway(host);
    let one = host.container("one");
    one.make_stale_file();
    let before = host.snapshot();
    let plugin = host.plugin("bridge");
    plugin.add(&one, "eth0", &conf).expect_error(8, "/run/netns/one");
    host.exec("rm /run/netns/one");
    plugin.add(&one, "eth0", &conf).expect_error(8, "/run/netns/one");
    host.exec("mkdir /run/netns/one");
    plugin.add(&one, "eth0", &conf).expect_error(8, "/run/netns/one");
    host.exec("rmdir /run/netns/one");
    host.expect_unchanged_but(&before, &["/run/netns/one"]);
}

fn a_name_that_is_taken_is_an_error(host: &Host) {
    let conf = gateway(host);
    attach(host, "other", &conf);
    let one = host.container("one");
    one.exec("ip link add eth0 address 02:00:00:00:00:01 type veth peer name eth1");
    let before = (ports(host, "cni0"), leases(host));
    let failed = host.plugin("bridge").add(&one, "eth0", &conf);
    failed.expect_error(999, "eth0");
    assert_eq!(one.mac("eth0"), "02:00:00:00:00:01");
    assert_eq!(one.links(), ["lo", "eth1", "eth0"]);
    assert_eq!((ports(host, "cni0"), leases(host)), before);
}

fn an_mtu_that_no_pair_can_have_is_named(host: &Host) {
    let one = host.container("one");
    for mtu in [20, 67, 65536, 4_000_000_000_u32] {
        let conf = with(&gateway(host), json!({"mtu": mtu}));
        expect_refused(host, &one, &conf, 7, &format!("mtu {mtu} is out of range"));
    }
}

fn a_route_that_leads_nowhere_is_named(host: &Host) {
    let one = host.container("one");
    let ipam = with(
        &leased(&["10.1.0.0/24"]),
        json!({"routes": [{"dst": "10.9.0.0/16", "gw": "10.77.0.1"}]}),
    );
    let conf = with(&gateway(host), json!({"ipam": ipam}));
    expect_refused(host, &one, &conf, 999, "10.9.0.0/16");
}

fn no_address_left_is_an_error(host: &Host) {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24",
        "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"}]]});
    let conf = with(&gateway(host), json!({"ipam": ipam}));
    attach(host, "one", &conf);
    let two = host.container("two");
    let (before, inside) = (host.snapshot(), two.network_snapshot());
    host.plugin("bridge").add(&two, "eth0", &conf).expect_error(999, "10.1.0.9");
    host.expect_unchanged_but(&before, &["/.oxcni/"]);
    inside.expect_same(&two.network_snapshot());
}

/// The runtime may ask twice for the same attachment, and must not lose the
/// first one by it.
fn a_second_add_takes_nothing_away(host: &Host) {
    let conf = gateway(host);
    let (one, _) = attach(host, "one", &conf);
    let before = (ports(host, "cni0"), one.links(), leases(host));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "");
    assert_eq!((ports(host, "cni0"), one.links(), leases(host)), before);
    one.expect_ping("10.1.0.1");
}

fn what_others_use_stays(host: &Host) {
    let conf = gateway(host);
    let (one, _) = attach(host, "one", &conf);
    let two = host.container("two");
    let ipam = with(
        &fixed(&["10.1.0.77/24"]),
        json!({"routes": [{"dst": "10.9.0.0/16", "gw": "10.77.0.1"}]}),
    );
    let bad = with(&conf, json!({"name": "other", "ipam": ipam}));
    host.plugin("bridge").add(&two, "eth0", &bad).expect_error(999, "10.9.0.0/16");
    assert_eq!(host.addresses("cni0"), ["10.1.0.1/24"]);
    one.expect_ping("10.1.0.1");
}

/// A configuration of layer 2 and IPAM whose ADD fails at its last step, when all has
/// been done to the bridge.
fn failing_late(host: &Host, keys: Value) -> Value {
    let ipam = with(
        &fixed(&["10.1.0.77/24"]),
        json!({"routes": [{"dst": "10.9.0.0/16", "gw": "10.77.0.1"}]}),
    );
    with(&bridge(host, json!({"name": "bad", "ipam": ipam})), keys)
}

const ACCEPT_RA: &str = "net/ipv6/conf/cni0/accept_ra";

/// What an ADD may change of the bridge.
fn settings(host: &Host) -> Value {
    let link = host.link("cni0").expect("the bridge stays");
    let flags = link["flags"].as_array().expect("a list");
    let has = |flag: &str| flags.contains(&json!(flag));
    let vlan_filtering = &link["linkinfo"]["info_data"]["vlan_filtering"];
    let (address, mtu) = (&link["address"], &link["mtu"]);
    json!([has("UP"), has("PROMISC"), address, mtu, vlan_filtering, host.sysctl(ACCEPT_RA)])
}

fn a_bridge_of_others_is_as_it_was(host: &Host) {
    let one = host.container("one");
    for options in ["", "address 02:00:00:00:00:99", "mtu 1400"] {
        for state in ["down", "up", "promisc on"] {
            for port in [false, true] {
                host.exec(format!("ip link add cni0 {options} type bridge"));
                host.exec(format!("ip link set cni0 {state}"));
                host.set_sysctl(ACCEPT_RA, "2");
                if port {
                    host.exec("ip link add near type veth peer name far");
                    host.exec("ip link set near master cni0");
                }
                host.note(format!("{options}, {state}, with a port: {port}"));
                let (before, inside) = (host.snapshot(), one.network_snapshot());
                let bridge = settings(host);
                let conf = failing_late(host, json!({"promiscMode": true, "mtu": 1300}));
                host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "10.9.0.0/16");
                assert_eq!(settings(host), bridge);
                // That it had a port shows in its offloads, qdisc and link-local address.
                host.expect_unchanged_but(&before, &["cni0"]);
                inside.expect_same(&one.network_snapshot());
                if port {
                    host.exec("ip link del near");
                }
                host.exec("ip link del cni0");
            }
        }
    }
}

fn a_bridge_of_others_stays_up_for_who_has_joined_it(host: &Host) {
    host.exec("ip link add cni0 type bridge");
    let (one, two) = (host.container("one"), host.container("two"));
    let good = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    fails_while(host, &one, &good, || {
        host.plugin("bridge").add(&two, "eth0", &good).expect_result();
    });
    let now = settings(host);
    assert!(now[0] == true && now[5] == "0", "{now}");
    let three = attach_by_hand(host, "three", &bridge(host, json!({})), &["10.1.0.3/24"]);
    three.expect_ping("10.1.0.2");
}

fn a_bridge_of_others_filters_no_vlans_again(host: &Host) {
    host.exec("ip link add cni0 type bridge");
    let (one, before) = (host.container("one"), settings(host));
    let conf = failing_late(host, json!({"vlan": 7}));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "10.9.0.0/16");
    assert_eq!((settings(host), &before[4]), (before.clone(), &json!(0)));
}

/// An ADD that made the bridge and fails must not take it from another that
/// found it there.
fn the_bridge_is_kept_for_who_has_joined_it(host: &Host) {
    let good = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let (one, two) = (host.container("one"), host.container("two"));
    fails_while(host, &one, &good, || {
        host.plugin("bridge").add(&two, "eth0", &good).expect_result();
    });
    assert_eq!(ports(host, "cni0").len(), 1);
    assert_eq!(one.links(), ["lo"]);
    let three = attach_by_hand(host, "three", &bridge(host, json!({})), &["10.1.0.3/24"]);
    three.expect_ping("10.1.0.2");
}

/// An ADD of `conf` for `container` whose IPAM plugin fails, after `meanwhile`.
fn fails_while(host: &Host, container: &Container, conf: &Value, meanwhile: impl Fn() + Sync) {
    // It fails once it is told to.
    let script = "[ $CNI_COMMAND = ADD ] || exit 0
        while [ ! -e ${0%/*}/fail ]; do sleep 0.02; done
        echo '{\"code\": 100, \"msg\": \"as told\"}'; exit 1";
    let recorder = Recorder::new(host, "recorder", script);
    let bad = with(conf, json!({"name": "bad", "ipam": recorder.ipam()}));
    host.parallel(2, |which| {
        if which == 0 {
            let plugin = host.plugin("bridge").cni_path(&recorder.path());
            plugin.add(container, "eth0", &bad).expect_error(100, "as told");
        } else {
            host.wait_until("IPAM was asked", || !recorder.verbs().is_empty());
            meanwhile();
            fs::write(recorder.program().with_file_name("fail"), "").expect("the folder is ours");
        }
    });
}
