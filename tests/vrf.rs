//! The vrf plugin: interfaces in routing domains of their own. It needs a kernel
//! with VRFs: see `scripts/test vm`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, Outcome, cases, with_previous_result};

use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Vrf, Bridge, Ping] networks_of_the_same_addresses_are_kept_apart,
        [Vrf, Bridge] a_vrf_goes_with_its_last_interface,
        [Vrf, Bridge] comes_and_goes_at_every_version,
    };
    for case in cases! {
        // Debian's package of upstream's loses the routes.
        [Vrf, Bridge, Ping] an_interface_is_routed_by_the_vrf,
        [Bridge] status_and_add_say_whether_the_kernel_has_vrfs,
        [Vrf] status_finds_vrfs_in_the_kernel,
        [Vrf, Bridge, Ipv6] what_the_interface_had_is_carried_in_and_out,
        [Vrf, Bridge] a_route_to_a_gateway_off_the_link_is_carried,
        [Vrf, Bridge] a_table_that_is_in_use_is_not_chosen,
        [Vrf, Bridge] many_at_once_in_one_container,
        [Vrf, Bridge] what_cannot_work_is_refused_and_changes_nothing,
        [Vrf, Bridge] del_works_from_any_state,
        [Vrf, Bridge] check_names_what_is_missing,
        [Vrf, Bridge, PeerPlugins] either_program_checks_and_removes_what_the_other_made,
    } {
        list.push(case.ours_only());
    }
    list
}

/// An interface on a bridge, and the VRF behind it.
struct Pod<'h> {
    host: &'h Host,
    container: Container,
    ifname: &'static str,
    result: Value,
}

impl<'h> Pod<'h> {
    /// On bridge `cni<number>`, with these addresses and the bridge as the way out.
    fn new(host: &'h Host, container: Container, ifname: &'static str, number: u8) -> Self {
        let result =
            host.plugin("bridge").add(&container, ifname, &bridge(host, number)).expect_result();
        Self { host, container, ifname, result }
    }

    fn add(&self, keys: Value) -> Outcome {
        self.call("ADD", keys)
    }

    fn check(&self, keys: Value) -> Outcome {
        self.call("CHECK", keys)
    }

    #[track_caller]
    fn del(&self, keys: Value) {
        self.call("DEL", keys).expect_ok();
    }

    fn call(&self, verb: &str, keys: Value) -> Outcome {
        self.call_of(self.host.plugin("vrf"), verb, keys)
    }

    fn call_of(&self, plugin: testkit::Plugin<'_>, verb: &str, keys: Value) -> Outcome {
        let conf = with_previous_result(&conf::of_type(self.host, "vrf", keys), &self.result);
        plugin.send(verb, &self.container, self.ifname, conf.to_string().as_bytes())
    }

    /// The name of the interface's master, and its table.
    fn vrf(&self) -> Option<(String, u64)> {
        let link = self.container.link(self.ifname)?;
        let name = link["master"].as_str()?.to_owned();
        Some((name.clone(), table(&self.container, &name)?))
    }
}

/// The table of a VRF, if it is there.
fn table(container: &Container, vrf: &str) -> Option<u64> {
    container.link(vrf)?["linkinfo"]["info_data"]["table"].as_u64()
}

/// The routes of `eth0` in the main table.
fn outside_the_vrf(container: &Container) -> Vec<String> {
    container.routes("main dev eth0")
}

fn bridge(host: &Host, number: u8) -> Value {
    conf::bridge(
        host,
        json!({"bridge": format!("cni{number}"), "isDefaultGateway": true,
        "ipam": conf::fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])}),
    )
}

/// A container with `lo` as it will stay, and the rule that the kernel adds with
/// the first VRF and never removes.
fn container(host: &Host, name: &str) -> Container {
    let container = host.container(name);
    container.exec("ip link set lo up");
    if Feature::Vrf.present() {
        container.exec("ip link add first type vrf table 9");
        container.exec("ip link del first");
    }
    container
}

fn pod<'h>(host: &'h Host, name: &str) -> Pod<'h> {
    Pod::new(host, container(host, name), "eth0", 0)
}

fn an_interface_is_routed_by_the_vrf(host: &Host) {
    let pod = pod(host, "pod");
    let added = pod.add(json!({"vrfname": "blue"})).expect_result();
    assert_eq!(added, pod.result, "the result is handed on");
    assert_eq!(pod.vrf(), Some(("blue".to_owned(), 1)));
    let is_default = |route: &String| route.starts_with("default ");
    assert!(pod.container.routes("1").iter().any(is_default));
    assert_eq!(outside_the_vrf(&pod.container), Vec::<String>::new());
    assert!(pod.container.addresses("eth0").contains(&"2001:db8:1::2/64".to_owned()));
    for address in ["10.1.0.1", "2001:db8:1::1"] {
        let asked = |by: &str| {
            pod.container.try_exec(format!("ping -n -c 1 -w 5 -I {by} {address}")).success()
        };
        // The bridge may still be asking whether others have its own.
        host.wait_until("the gateway answers through the VRF", || asked("blue"));
        assert!(!pod.container.answers_ping(address), "outside the VRF there is no way");
    }
    pod.check(json!({"vrfname": "blue"})).expect_ok();
    pod.check(json!({"vrfname": "blue", "table": 1})).expect_ok();
}

fn networks_of_the_same_addresses_are_kept_apart(host: &Host) {
    let container = container(host, "pod");
    let fixed = conf::fixed(&["10.1.0.2/24"]);
    let layer_2 = |number: u8, ipam: &Value| {
        conf::bridge(host, json!({"bridge": format!("cni{number}"), "ipam": ipam}))
    };
    for (number, (ifname, vrf)) in (1..).zip([("net1", "red"), ("net2", "green")]) {
        let conf = layer_2(number, &fixed);
        let result = host.plugin("bridge").add(&container, ifname, &conf).expect_result();
        let conf = conf::of_type(host, "vrf", json!({"vrfname": vrf, "table": 100 + number}));
        let conf = with_previous_result(&conf, &result);
        host.plugin("vrf").add(&container, ifname, &conf).expect_result();
        let peer = host.container(&format!("peer{number}"));
        let conf = layer_2(number, &conf::fixed(&["10.1.0.9/24"]));
        host.plugin("bridge").add(&peer, "eth0", &conf).expect_result();
        let ping = || {
            let asked = format!("ping -n -c 1 -w 5 -I {vrf} 10.1.0.9");
            container.try_exec(asked).success()
        };
        assert!(ping(), "{vrf}");
        peer.exec("ip link set eth0 down");
        assert!(!ping(), "{vrf}, though the other network has such an address");
        peer.exec("ip link set eth0 up");
        assert_eq!(table(&container, vrf), Some(100 + u64::from(number)));
    }
}

fn a_vrf_goes_with_its_last_interface(host: &Host) {
    let first = pod(host, "pod");
    first.add(json!({"vrfname": "blue", "table": 42})).expect_result();
    let addresses = json!({"type": "static", "addresses": [{"address": "10.2.0.2/24"}]});
    let conf = conf::bridge(host, json!({"bridge": "cni1", "ipam": addresses}));
    let result = host.plugin("bridge").add(&first.container, "eth1", &conf).expect_result();
    let conf = conf::of_type(host, "vrf", json!({"vrfname": "blue"}));
    let conf = with_previous_result(&conf, &result);
    host.plugin("vrf").add(&first.container, "eth1", &conf).expect_result();
    assert_eq!(first.container.link("eth1").expect("there")["master"], "blue");
    first.check(json!({"vrfname": "blue"})).expect_ok();

    first.del(json!({"vrfname": "blue"}));
    assert_eq!((first.vrf(), table(&first.container, "blue")), (None, Some(42)));
    assert!(first.container.routes("42").iter().all(|route| !route.contains("eth0")));
    host.plugin("vrf").check(&first.container, "eth1", &conf).expect_ok();
    host.plugin("vrf").del(&first.container, "eth1", &conf).expect_ok();
    assert_eq!(table(&first.container, "blue"), None);
}

fn comes_and_goes_at_every_version(host: &Host) {
    let spoken = host.plugin("vrf").version().expect_result();
    let spoken = spoken["supportedVersions"].as_array().expect("a list").clone();
    assert!(spoken.contains(&json!("0.3.1")) && !spoken.contains(&json!("0.3.0")));
    for version in spoken {
        let version = version.as_str().expect("a text");
        let container = container(host, &format!("at-{version}"));
        let at = |keys: Value| conf::with(&keys, json!({"cniVersion": version}));
        let (before, conf) = (at(bridge(host, 0)), at(conf::of_type(host, "vrf", json!({}))));
        let previous = host.plugin("bridge").add(&container, "eth0", &before).expect_result();
        let conf = with_previous_result(&conf::with(&conf, json!({"vrfname": "blue"})), &previous);
        let result = host.plugin("vrf").add(&container, "eth0", &conf).expect_result();
        assert_eq!((&result["cniVersion"], &result["ips"]), (&json!(version), &previous["ips"]));
        if version >= "0.4.0" {
            host.plugin("vrf").check(&container, "eth0", &conf).expect_ok();
        }
        for _ in 0..2 {
            host.plugin("vrf").del(&container, "eth0", &conf).expect_ok();
            assert_eq!(table(&container, "blue"), None);
        }
        host.plugin("bridge").del(&container, "eth0", &before).expect_ok();
        container.destroy();
    }
}

fn status_and_add_say_whether_the_kernel_has_vrfs(host: &Host) {
    let pod = pod(host, "pod");
    let blue = json!({"vrfname": "blue"});
    let status =
        |keys: &Value| host.plugin("vrf").status(&conf::of_type(host, "vrf", keys.clone()));
    status(&json!({})).expect_error(7, "vrfname is missing");
    let (on_host, inside) = (host.links(), pod.container.network_snapshot());
    if Feature::Vrf.present() {
        status(&blue).expect_ok();
        pod.add(blue).expect_result();
        return;
    }
    status(&blue).expect_error(50, "the kernel lacks the module vrf");
    pod.add(blue.clone()).expect_error(999, "could not add VRF blue");
    pod.check(blue.clone()).expect_error(999, "VRF blue is gone");
    pod.del(blue);
    assert_eq!(host.links(), on_host);
    inside.expect_same(&pod.container.network_snapshot());
}

fn status_finds_vrfs_in_the_kernel(host: &Host) {
    let before = host.snapshot();
    let conf = conf::of_type(host, "vrf", json!({"vrfname": "blue"}));
    host.plugin("vrf").status(&conf).expect_ok();
    host.expect_unchanged(&before);
}

/// An interface as another program may have left it: with routes of every sort,
/// and IPv6 addresses that the kernel would lose.
fn what_the_interface_had_is_carried_in_and_out(host: &Host) {
    let container = container(host, "pod");
    container.exec("ip link add eth0 type veth peer name other");
    container.exec("ip link set other up");
    for address in ["10.1.0.2/24", "2001:db8:1::2/64", "2001:db8:2::2/64 nodad noprefixroute"] {
        container.exec(format!("ip address add {address} dev eth0"));
    }
    container.exec("ip link set eth0 up");
    container.wait_for_addresses();
    container.exec("ip address add fe80::5/64 dev eth0 nodad");
    for route in [
        "10.9.0.1 scope link",
        "10.8.0.0/16 via 10.1.0.1 mtu 1300 metric 7",
        "10.7.0.0/16 via 10.1.0.1 table 77",
        "default via 10.9.0.1 proto static",
    ] {
        container.exec(format!("ip route add {route} dev eth0"));
    }
    container.exec("ip -6 route add default via fe80::1 dev eth0");
    container.exec("ip -6 route add 2001:db8:8::/48 via 2001:db8:1::1 src 2001:db8:2::2");
    let inside = container.network_snapshot();
    let interfaces = json!([{"name": "eth0", "sandbox": container.path()}]);
    let result = json!({"cniVersion": "1.0.0", "interfaces": interfaces,
        "ips": [{"address": "10.1.0.2/24", "interface": 0}], "routes": [{"dst": "10.9.0.1/32"}]});
    let pod = Pod { host, container, ifname: "eth0", result };

    let begun = std::time::Instant::now();
    pod.add(json!({"vrfname": "blue", "table": 10})).expect_result();
    let took = begun.elapsed();
    assert!(took.as_millis() < 900, "nobody is asked about known addresses: {took:?}");
    let tentative = pod.container.exec("ip -6 address show dev eth0 scope global tentative");
    assert_eq!(tentative.trim(), "");
    assert_eq!(outside_the_vrf(&pod.container), Vec::<String>::new());
    assert_eq!(pod.container.routes("77").len(), 1);
    let routes = pod.container.routes("10").join("\n");
    for part in [
        "10.9.0.1 ",
        "10.8.0.0/16 via 10.1.0.1 ",
        "default via 10.9.0.1 ",
        "default via fe80::1 ",
        "2001:db8:8::/48 via 2001:db8:1::1 ",
    ] {
        assert!(routes.contains(part), "{part:?} in\n{routes}");
    }
    pod.check(json!({"vrfname": "blue"})).expect_ok();

    pod.del(json!({"vrfname": "blue"}));
    pod.container.wait_for_addresses();
    inside.expect_same(&pod.container.network_snapshot());
}

/// ptp's gateway is not in a subnet of the link; its own CHECK finds its routes.
fn a_route_to_a_gateway_off_the_link_is_carried(host: &Host) {
    let container = container(host, "pod");
    let conf = conf::of_type(
        host,
        "ptp",
        json!({"ipam": conf::leased(&["10.1.0.0/24",
        "2001:db8:1::/64"])}),
    );
    let result = host.plugin("ptp").add(&container, "eth0", &conf).expect_result();
    let pod = Pod { host, container, ifname: "eth0", result };
    let routes = outside_the_vrf(&pod.container).len();
    pod.add(json!({"vrfname": "blue"})).expect_result();
    let ptp = with_previous_result(&conf, &pod.result);
    host.plugin("ptp").check(&pod.container, "eth0", &ptp).expect_ok();
    pod.check(json!({"vrfname": "blue"})).expect_ok();
    assert_eq!(outside_the_vrf(&pod.container), Vec::<String>::new());
    pod.del(json!({"vrfname": "blue"}));
    host.plugin("ptp").check(&pod.container, "eth0", &ptp).expect_ok();
    assert_eq!(outside_the_vrf(&pod.container).len(), routes);
}

fn a_table_that_is_in_use_is_not_chosen(host: &Host) {
    let pod = pod(host, "pod");
    pod.container.exec("ip route add 10.7.0.0/16 dev eth0 table 1");
    pod.container.exec("ip rule add from 10.1.0.2 lookup 2");
    pod.container.exec("ip link add red type vrf table 3");
    pod.add(json!({"vrfname": "blue"})).expect_result();
    assert_eq!(pod.vrf(), Some(("blue".to_owned(), 4)));
}

fn many_at_once_in_one_container(host: &Host) {
    const NAMES: [&str; 4] = ["eth0", "eth1", "eth2", "eth3"];
    let container = container(host, "pod");
    let confs: Vec<_> = (0..)
        .zip(NAMES)
        .map(|(number, ifname)| {
            let result = host
                .plugin("bridge")
                .add(
                    &container,
                    ifname,
                    &conf::bridge(
                        host,
                        json!({"bridge": format!("cni{number}"),
                "ipam": conf::fixed(&["10.1.0.2/24"])}),
                    ),
                )
                .expect_result();
            let conf = conf::of_type(host, "vrf", json!({"vrfname": format!("vrf{number}")}));
            with_previous_result(&conf, &result)
        })
        .collect();
    host.parallel(NAMES.len(), |n| {
        host.plugin("vrf").add(&container, NAMES[n], &confs[n]).expect_result();
    });
    let tables: BTreeSet<_> =
        (0..NAMES.len()).filter_map(|n| table(&container, &format!("vrf{n}"))).collect();
    assert_eq!(tables, BTreeSet::from([1, 2, 3, 4]));
    host.parallel(NAMES.len(), |n| {
        host.plugin("vrf").del(&container, NAMES[n], &confs[n]).expect_ok();
    });
    assert_eq!((0..4).filter_map(|n| table(&container, &format!("vrf{n}"))).count(), 0);

    // All into one, and out of it.
    let shared: Vec<_> =
        confs.iter().map(|conf| conf::with(conf, json!({"vrfname": "shared"}))).collect();
    host.parallel(NAMES.len(), |n| {
        host.plugin("vrf").add(&container, NAMES[n], &shared[n]).expect_result();
    });
    for name in NAMES {
        assert_eq!(container.link(name).expect("there")["master"], "shared", "{name}");
    }
    host.parallel(NAMES.len(), |n| {
        host.plugin("vrf").del(&container, NAMES[n], &shared[n]).expect_ok();
    });
    assert_eq!(table(&container, "shared"), None);
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    let mut pod = pod(host, "pod");
    pod.container.exec("ip link add green type vrf table 8");
    pod.container.exec("ip link add br0 type bridge");
    pod.container.exec("ip link add port type veth peer name other");
    pod.container.exec("ip link set port master br0");
    pod.container.wait_for_addresses();
    let (on_host, inside) = (host.snapshot(), pod.container.network_snapshot());
    for (keys, code, part) in [
        (json!({}), 7, "expected to have a valid vrf name"),
        (json!({"vrfname": "sixteen-chars-xx"}), 7, "too long"),
        (json!({"vrfname": "blue", "table": -1}), 7, "table"),
        (json!({"vrfname": "br0"}), 999, "Netlink br0 is not a VRF"),
        (json!({"vrfname": "eth0"}), 999, "Netlink eth0 is not a VRF"),
        (json!({"vrfname": "lo"}), 999, "Netlink lo is not a VRF"),
        (
            json!({"vrfname": "green", "table": 9}),
            999,
            "already exist with different routing table",
        ),
    ] {
        pod.add(keys.clone()).expect_error(code, part);
        host.expect_unchanged(&on_host);
        inside.expect_same(&pod.container.network_snapshot());
    }
    let alone = conf::of_type(host, "vrf", json!({"vrfname": "blue"}));
    host.plugin("vrf").add(&pod.container, "eth0", &alone).expect_error(7, "prevResult");
    host.plugin("vrf").check(&pod.container, "eth0", &alone).expect_error(7, "prevResult");
    for (ifname, part) in [
        ("none", "find link none"),
        ("lo", "a loopback device cannot be in a VRF"),
        ("port", "interface port has already a master set: br0"),
        // The kernel refuses it in the middle of the work.
        ("green", "L3 master"),
    ] {
        pod.ifname = ifname;
        pod.add(json!({"vrfname": "blue"})).expect_error(999, part);
        inside.expect_same(&pod.container.network_snapshot());
    }
    pod.ifname = "eth0";
    pod.add(json!({"vrfname": "green"})).expect_result();
    let state = pod.container.network_snapshot();
    pod.add(json!({"vrfname": "green"})).expect_error(999, "already a master set: green");
    state.expect_same(&pod.container.network_snapshot());
    host.expect_unchanged(&on_host);
}

fn del_works_from_any_state(host: &Host) {
    let blue = || json!({"vrfname": "blue"});
    let never = pod(host, "never");
    never.del(blue());
    never.del(json!({}));
    type Change = fn(&Container);
    let states: [(&str, Value, Change); 9] = [
        ("the interface is gone", blue(), |c| drop(c.exec("ip link del eth0"))),
        ("it was taken out", blue(), |c| drop(c.exec("ip link set eth0 nomaster"))),
        ("the VRF is gone", blue(), |c| drop(c.exec("ip link del blue"))),
        ("the VRF is down", blue(), |c| drop(c.exec("ip link set blue down"))),
        ("nobody says its name", json!({}), |_| {}),
        ("its name is none", json!({"vrfname": "a/b"}), |_| {}),
        ("the table is none", json!({"vrfname": "blue", "table": "ten"}), |_| {}),
        ("another table is said", json!({"vrfname": "blue", "table": 99}), |_| {}),
        ("another link has its name", blue(), |c| {
            c.exec("ip link del blue");
            c.exec("ip link add blue type bridge");
        }),
    ];
    for (index, (state, keys, change)) in states.into_iter().enumerate() {
        let pod = pod(host, &format!("pod{index}"));
        pod.add(blue()).expect_result();
        change(&pod.container);
        host.note(format!("DEL when {state}"));
        for _ in 0..2 {
            pod.del(keys.clone());
            assert_eq!((pod.vrf(), table(&pod.container, "blue")), (None, None), "when {state}");
        }
        let is_kept = pod.container.links().contains(&"blue".to_owned());
        assert_eq!(is_kept, state == "another link has its name", "when {state}");
    }
    for lost in ["destroyed", "stale"] {
        let pod = pod(host, lost);
        pod.add(blue()).expect_result();
        match lost {
            "stale" => pod.container.make_stale_file(),
            _ => pod.container.destroy(),
        }
        pod.del(blue());
    }
    let pod = pod(host, "unnamed");
    let conf = conf::of_type(host, "vrf", blue());
    host.plugin("vrf").del_without_netns(&pod.container, "eth0", &conf).expect_ok();
}

fn check_names_what_is_missing(host: &Host) {
    for (index, (command, part)) in [
        ("ip link set eth0 nomaster", "failed to find eth0 associated to vrf blue"),
        ("ip link del eth0", "failed to find eth0 associated to vrf blue: the link is gone"),
        ("ip link del blue", "VRF blue is gone"),
        ("ip link set blue down", "VRF blue is down"),
        ("ip route del default table 10", "route to 0.0.0.0/0 via 10.1.0.1 is missing"),
        ("ip address del 10.1.0.2/24 dev eth0", "address 10.1.0.2/24 is missing"),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = pod(host, &format!("pod{index}"));
        let keys = json!({"vrfname": "blue", "table": 10});
        pod.add(keys.clone()).expect_result();
        pod.check(keys.clone()).expect_ok();
        pod.container.exec(command);
        pod.check(keys).expect_error(999, part);
        pod.container.destroy();
    }
    let pod = pod(host, "last");
    pod.add(json!({"vrfname": "blue", "table": 10})).expect_result();
    pod.check(json!({"vrfname": "blue", "table": 11})).expect_error(999, "different routing table");
    pod.check(json!({"vrfname": "eth0"})).expect_error(999, "eth0 is not a VRF");
}

fn either_program_checks_and_removes_what_the_other_made(host: &Host) {
    let blue = || json!({"vrfname": "blue", "cniVersion": "1.0.0"});
    let (ours, peer) = (|| host.plugin("vrf"), || host.peer("vrf"));
    let mut pod = pod(host, "pod");
    pod.result["cniVersion"] = json!("1.0.0");
    pod.call_of(ours(), "ADD", blue()).expect_result();
    pod.call_of(peer(), "CHECK", blue()).expect_ok();
    pod.call_of(peer(), "DEL", blue()).expect_ok();
    assert_eq!((pod.vrf(), table(&pod.container, "blue")), (None, None));

    pod.call_of(peer(), "ADD", blue()).expect_result();
    assert_eq!(pod.vrf(), Some(("blue".to_owned(), 1)));
    // It has lost the default routes.
    pod.call_of(ours(), "CHECK", blue()).expect_error(999, "route to 0.0.0.0/0");
    for (family, gateway) in [("-4", "10.1.0.1"), ("-6", "2001:db8:1::1")] {
        pod.container.exec(format!("ip {family} route add default via {gateway} table 1"));
    }
    pod.call_of(ours(), "CHECK", blue()).expect_ok();
    pod.call_of(ours(), "DEL", blue()).expect_ok();
    assert_eq!((pod.vrf(), table(&pod.container, "blue")), (None, None));
}
