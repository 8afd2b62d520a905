//! The tap plugin: a TAP device in the container, with real frames between it
//! and a program that has it open, as a virtual machine monitor does.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv6Addr;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, with_previous_result};

use crate::conf;
use crate::links::{self, Subject};

pub(crate) fn list() -> Vec<Case> {
    // Debian's package has no tap, and upstream's cannot make several of these.
    let list = cases! {
        [Tun, RealRoot] every_key_is_as_the_kernel_shows_it,
        [Tun] the_address_has_three_sources,
        [Tun] without_ipam_it_is_a_bare_link_at_every_version,
        [Tun] a_machine_behind_the_device_talks_to_the_container,
        [Tun, Ipv6] a_machine_is_told_of_the_ipv6_address_and_asks_for_the_other,
        [Tun] several_programs_may_open_a_device_with_queues,
        [Tun, Bridge] machines_talk_over_a_bridge_in_the_container,
        [Tun, Ipv6] a_gateway_without_carrier_costs_no_wait,
        [Tun] dns_is_the_configurations_else_ipams,
        [Tun, Ipv6] ipv6_is_off_where_it_is_unused,
        [Tun] a_name_that_is_taken_is_an_error_and_nothing_leaks,
        [Tun] bad_input_changes_nothing,
        [Tun, Ipv6] check_passes_after_add_at_every_version,
        [Tun, Bridge, Ipv6] check_names_each_thing_that_is_gone,
        [Tun] del_finds_the_device_under_another_name,
        [Tun] del_is_content_with_what_is_left,
        [Tun] a_machine_that_runs_does_not_stop_a_del,
        [Tun, Ipv6] ipam_of_others_finds_the_link,
        [Tun] gc_releases_the_addresses_of_invalid_attachments,
        [] status_tells_whether_there_are_tap_devices,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// Stays when the last lease is gone.
const LEFT: &[&str] = &["/var/lib/cni"];

fn tap(host: &Host, keys: Value) -> Value {
    conf::of_type(host, "tap", keys)
}

/// A program that has the device open, and the frames it gets.
struct Program {
    file: File,
    frames: Receiver<Vec<u8>>,
}

impl Program {
    #[track_caller]
    fn open(pod: &Container, name: &str, multi_queue: bool) -> Self {
        let opened = pod.within(|| linux::tap::attach(name, multi_queue));
        let file = opened.unwrap_or_else(|e| panic!("{e}"));
        let mut reader = file.try_clone().expect("a descriptor is free");
        let (sender, frames) = channel();
        // Ends when the device does.
        thread::spawn(move || {
            let mut frame = [0; 2048];
            while let Ok(length) = reader.read(&mut frame) {
                if sender.send(frame[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { file, frames }
    }

    fn send(&mut self, frame: &[u8]) {
        self.file.write_all(frame).expect("the device takes it");
    }

    /// The first frame that is wanted.
    #[track_caller]
    fn expect(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let give_up = Instant::now() + Duration::from_secs(10);
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            match self.frames.recv_timeout(left) {
                Ok(frame) if wanted(&frame) => return frame,
                Ok(_) => {}
                Err(e) => panic!("{what}: no such frame: {e}"),
            }
        }
    }
}

/// An ARP request of a machine for `asked`.
fn question(mac: [u8; 6], own: [u8; 4], asked: [u8; 4]) -> Vec<u8> {
    let header = [&[0xff; 6][..], &mac, &[8, 6]].concat();
    [&header[..], &[0, 1, 8, 0, 6, 4, 0, 1], &mac, &own, &[0; 6], &asked].concat()
}

/// Is it the ARP answer to `mac` that somebody has `asked`?
fn is_answer(frame: &[u8], mac: [u8; 6], asked: [u8; 4]) -> bool {
    frame.len() >= 42
        && frame[..6] == mac
        && frame[12..14] == [8, 6]
        && frame[20..22] == [0, 2]
        && frame[28..32] == asked
}

/// Is it an unsolicited neighbour advertisement of `address`, to all nodes, with the
/// Ethernet address `mac`? RFC 4861 section 4.4, behind 14 bytes of Ethernet and 40 of
/// IPv6.
fn is_announcement(frame: &[u8], mac: [u8; 6], address: Ipv6Addr) -> bool {
    frame.len() >= 86
        && frame[..6] == [0x33, 0x33, 0, 0, 0, 1]
        && frame[6..12] == mac
        && frame[12..14] == [0x86, 0xdd]
        && frame[20] == 58
        && frame[54] == 136
        && frame[58] & 0x40 == 0
        && frame[62..78] == address.octets()
        && frame[80..86] == mac
}

fn flags(link: &Value) -> Vec<&str> {
    link["flags"].as_array().expect("flags").iter().filter_map(Value::as_str).collect()
}

fn every_key_is_as_the_kernel_shows_it(host: &Host) {
    let all = json!({"multiQueue": true, "mtu": 1400, "mac": "02:00:00:00:00:0A", "owner": 61_107,
        "group": 61_036});
    // Upstream takes two ways: with owner and group, and without.
    for (run, keys) in [
        all.clone(),
        conf::with(&all, json!({"group": null})),
        conf::with(&all, json!({"owner": null, "group": null, "multiQueue": false})),
        json!({"owner": 0}),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = host.container(&format!("pod{run}"));
        let conf = tap(host, keys.clone());
        let result = host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
        let link = pod.link("tap0").expect("it is there");
        assert!(flags(&link).contains(&"UP"), "{link}");
        let info = &link["linkinfo"]["info_data"];
        assert_eq!(info["type"], "tap", "{link}");
        assert_eq!((&info["pi"], &info["vnet_hdr"]), (&json!(false), &json!(false)), "{link}");
        assert_eq!(info["persist"], true, "{link}");
        assert_eq!(info["multi_queue"], keys["multiQueue"].as_bool().unwrap_or(false), "{link}");
        // Names where /etc/passwd has some.
        let id = |number: &Value| match number.as_u64() {
            Some(0) => json!("root"),
            Some(number) => json!(number.to_string()),
            None => Value::Null,
        };
        let said = |key: &str| match &info[key] {
            Value::Number(number) => json!(number.to_string()),
            other => other.clone(),
        };
        assert_eq!(
            (said("user"), said("group")),
            (id(&keys["owner"]), id(&keys["group"])),
            "{link}"
        );
        assert_eq!(link["mtu"], keys["mtu"].as_u64().unwrap_or(1500));
        assert_eq!(link["ifalias"], format!("oxcni:net/ctr-pod{run}/tap0"));
        let mac = pod.mac("tap0");
        if keys["mac"].is_string() {
            assert_eq!(mac, "02:00:00:00:00:0a");
        }
        let sandbox = pod.path().display().to_string();
        let mut expected = json!({"name": "tap0", "mac": mac, "sandbox": sandbox});
        // Reported where it was asked for.
        if keys["mtu"].is_u64() {
            expected["mtu"] = keys["mtu"].clone();
        }
        assert_eq!(result["interfaces"], json!([expected]));
        host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
        assert_eq!(pod.links(), ["lo"]);
    }
}

fn the_address_has_three_sources(host: &Host) {
    let pod = host.container("pod");
    let conf = tap(host, json!({"mac": "02:00:00:00:00:0A"}));
    host.plugin("tap").add(&pod, "tap2", &conf).expect_result();
    assert_eq!(pod.mac("tap2"), "02:00:00:00:00:0a");
    host.plugin("tap").args("MAC=02:00:00:00:00:0b").add(&pod, "tap0", &conf).expect_result();
    assert_eq!(pod.mac("tap0"), "02:00:00:00:00:0b");
    let conf = conf::with(&conf, json!({"runtimeConfig": {"mac": "02:00:00:00:00:0c"}}));
    host.plugin("tap").args("MAC=02:00:00:00:00:0b").add(&pod, "tap1", &conf).expect_result();
    assert_eq!(pod.mac("tap1"), "02:00:00:00:00:0c");
}

fn without_ipam_it_is_a_bare_link_at_every_version(host: &Host) {
    let pod = host.container("pod");
    let before = host.snapshot();
    for version in conf::versions(host) {
        let conf = tap(host, json!({"cniVersion": version}));
        let outcome = host.plugin("tap").add(&pod, "tap0", &conf);
        if version.as_str() < "0.3.0" {
            outcome.expect_error(7, "0.3.0");
        } else {
            assert_eq!(outcome.expect_result()["interfaces"][0]["name"], "tap0");
            assert!(flags(&pod.link("tap0").expect("there")).contains(&"UP"));
        }
        host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
        let keys = json!({"cniVersion": version, "ipam": conf::fixed(&["10.1.0.2/24"])});
        host.plugin("tap").add(&pod, "tap0", &tap(host, keys.clone())).expect_result();
        assert_eq!(pod.addresses("tap0"), ["10.1.0.2/24"]);
        host.plugin("tap").del(&pod, "tap0", &tap(host, keys)).expect_ok();
        assert_eq!(pod.links(), ["lo"]);
    }
    host.expect_unchanged_but(&before, LEFT);
}

const MACHINE: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn a_machine_behind_the_device_talks_to_the_container(host: &Host) {
    let pod = host.container("pod");
    let conf = tap(host, json!({"ipam": conf::fixed(&["10.1.0.2/24"])}));
    host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
    let mut machine = Program::open(&pod, "tap0", false);
    // Nothing is sent before the kernel has noticed the carrier.
    host.wait_until("the carrier is noticed", || {
        pod.link("tap0").expect("there")["operstate"] == "UP"
    });
    machine.send(&question(MACHINE, [10, 1, 0, 9], [10, 1, 0, 2]));
    let answer = machine.expect("an ARP answer", |f| is_answer(f, MACHINE, [10, 1, 0, 2]));
    let mac: Vec<String> = answer[22..28].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mac.join(":"), pod.mac("tap0"));
    // And what the container sends reaches the machine: an IPv4 packet to it.
    assert!(!pod.answers_ping("10.1.0.9"));
    machine.expect("an echo request", |f| f[..6] == MACHINE && f[12..14] == [8, 0] && f[23] == 1);
}

/// Nobody hears what the kernel says when ADD brings the device up. Of IPv6 addresses
/// it speaks again when there is a machine; of IPv4 ones it is asked.
fn a_machine_is_told_of_the_ipv6_address_and_asks_for_the_other(host: &Host) {
    let pod = host.container("pod");
    let mac = [2, 0, 0, 0, 0, 0x0a];
    let ipam = conf::fixed(&["10.1.0.2/24", "2001:db8:1::2/64"]);
    let conf = tap(host, json!({"mac": "02:00:00:00:00:0a", "ipam": ipam}));
    host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
    let mut machine = Program::open(&pod, "tap0", false);
    let address = "2001:db8:1::2".parse().expect("an address");
    machine.expect("an advertisement", |f| is_announcement(f, mac, address));
    machine.send(&question(MACHINE, [10, 1, 0, 9], [10, 1, 0, 2]));
    let answer = machine.expect("an ARP answer", |f| is_answer(f, MACHINE, [10, 1, 0, 2]));
    assert_eq!(answer[22..28], mac);
}

fn several_programs_may_open_a_device_with_queues(host: &Host) {
    let pod = host.container("pod");
    let add = |name: &str, keys: Value| {
        host.plugin("tap").add(&pod, name, &tap(host, keys)).expect_result();
    };
    add("many", json!({"multiQueue": true}));
    add("one", json!({}));
    let _machines = [Program::open(&pod, "many", true), Program::open(&pod, "many", true)];
    let _machine = Program::open(&pod, "one", false);
    let second = pod.within(|| linux::tap::attach("one", false));
    assert!(second.is_err_and(|e| e.is_busy()));
}

fn machines_talk_over_a_bridge_in_the_container(host: &Host) {
    let pod = host.container("pod");
    pod.exec("ip link add br0 type bridge");
    pod.exec("ip link set br0 up");
    pod.exec("ip address add 10.1.0.1/24 dev br0");
    let conf = tap(host, json!({"bridge": "br0", "mtu": 1400}));
    for name in ["tap0", "tap1"] {
        host.plugin("tap").add(&pod, name, &conf).expect_result();
        assert_eq!(pod.link(name).expect("there")["master"], "br0");
    }
    let mut one = Program::open(&pod, "tap0", false);
    let two = Program::open(&pod, "tap1", false);
    // The carrier has to reach the ports before they forward.
    host.wait_until("the ports forward", || {
        ["tap0", "tap1"].iter().all(|name| {
            pod.link(name).expect("there")["linkinfo"]["info_slave_data"]["state"] == "forwarding"
        })
    });
    one.send(&question(MACHINE, [10, 1, 0, 9], [10, 1, 0, 1]));
    one.expect("the bridge's answer", |f| is_answer(f, MACHINE, [10, 1, 0, 1]));
    two.expect("the question", |f| f[6..12] == MACHINE && f[12..14] == [8, 6]);
    host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
    host.plugin("tap").del(&pod, "tap1", &conf).expect_ok();
    assert_eq!(pod.links(), ["lo", "br0"]);
}

fn dual_stack() -> Value {
    json!({"type": "static",
        "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"},
            {"dst": "10.8.0.0/16", "table": 100, "mtu": 1300, "priority": 5}],
        "dns": {"nameservers": ["10.1.0.53"]}})
}

fn a_gateway_without_carrier_costs_no_wait(host: &Host) {
    let pod = host.container("pod");
    let conf = tap(host, json!({"ipam": dual_stack()}));
    let started = Instant::now();
    host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
    // Upstream's takes 5.08 s; a machine without an own processor some, too.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(pod.addresses("tap0"), ["10.1.0.2/24", "2001:db8:1::2/64"]);
    let routes = pod.routes("all").join("\n");
    for route in ["default via 10.1.0.1", "default via 2001:db8:1::1", "10.8.0.0/16 via 10.1.0.1"] {
        assert!(routes.contains(route), "{routes}");
    }
}

fn dns_is_the_configurations_else_ipams(host: &Host) {
    let pod = host.container("pod");
    let add = |name: &str, keys: Value| {
        host.plugin("tap").add(&pod, name, &tap(host, keys)).expect_result()["dns"].clone()
    };
    let ipams = json!({"nameservers": ["10.1.0.53"]});
    assert_eq!(add("tap0", json!({"ipam": dual_stack()})), ipams);
    let own = json!({"search": ["example"]});
    let mut other = dual_stack();
    other["addresses"] = json!([{"address": "10.2.0.2/24"}]);
    other["routes"] = json!([]);
    assert_eq!(add("tap1", json!({"ipam": other, "dns": own})), own);
    assert_eq!(add("tap2", json!({"dns": own})), own);
}

fn ipv6_is_off_where_it_is_unused(host: &Host) {
    let pod = host.container("pod");
    let disabled =
        |name: &str| pod.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6")).expect("there");
    let is_ipv6 = |frame: &[u8]| frame[12..14] == [0x86, 0xdd];
    let off = json!({"disableIPv6WhenUnused": true, "ipam": conf::fixed(&["10.1.0.2/24"])});
    let off = tap(host, off);
    let result = host.plugin("tap").add(&pod, "tap0", &off).expect_result();
    let on = tap(host, json!({"ipam": conf::fixed(&["10.2.0.2/24"])}));
    host.plugin("tap").add(&pod, "tap1", &on).expect_result();
    // The kernel has nothing to say before there is a machine; then the other one
    // shows what it would have said.
    let (silent, talkative) =
        (Program::open(&pod, "tap0", false), Program::open(&pod, "tap1", false));
    talkative.expect("a frame of IPv6", is_ipv6);
    host.wait_until("the other has its link-local address", || {
        !pod.exec("ip -6 address show dev tap1 -tentative").is_empty()
    });
    assert_eq!(pod.exec("ip -6 address show dev tap0"), "");
    assert!(!silent.frames.try_iter().any(|frame| is_ipv6(&frame)));
    let checked = with_previous_result(&off, &result);
    host.plugin("tap").check(&pod, "tap0", &checked).expect_ok();
    pod.set_sysctl("net/ipv6/conf/tap0/disable_ipv6", "0");
    host.plugin("tap").check(&pod, "tap0", &checked).expect_error(999, "IPv6 is on");
    // With an IPv6 address it is used; without any, nobody knows.
    for (name, keys) in [("tap2", json!({"ipam": dual_stack()})), ("tap3", json!({}))] {
        let conf = conf::with(&tap(host, json!({"disableIPv6WhenUnused": true})), keys);
        let result = host.plugin("tap").add(&pod, name, &conf).expect_result();
        assert_eq!(disabled(name), "0");
        let checked = with_previous_result(&conf, &result);
        host.plugin("tap").check(&pod, name, &checked).expect_ok();
    }
}

fn a_name_that_is_taken_is_an_error_and_nothing_leaks(host: &Host) {
    let pod = host.container("pod");
    pod.exec("ip link add tap0 type veth peer name other");
    pod.exec("ip tuntap add dev tap1 mode tap");
    pod.wait_for_addresses();
    let (before, inside) = (host.snapshot(), pod.network_snapshot());
    let lease = json!({"type": "host-local", "subnet": "10.1.0.0/24"});
    for (keys, owner) in [(json!({"ipam": lease}), 0), (json!({"owner": 0, "group": 0}), 1)] {
        for name in ["tap0", "tap1", "lo"] {
            host.plugin("tap")
                .add(&pod, name, &tap(host, keys.clone()))
                .expect_error(999, "file exists: the name is already used");
        }
        host.note(format!("with owner: {owner}"));
    }
    inside.expect_same(&pod.network_snapshot());
    host.expect_unchanged_but(&before, LEFT);
}

fn bad_input_changes_nothing(host: &Host) {
    let pod = host.container("pod");
    pod.exec("ip link add veth0 type veth peer name veth1");
    host.exec("ip link add name0 type veth peer name name1");
    let (before, inside) = (host.snapshot(), pod.network_snapshot());
    for (keys, code, part) in [
        (json!({"bridge": "br9"}), 999, "find bridge br9 in the container: there is no such link"),
        (json!({"bridge": "veth0"}), 999, "no bridge"),
        // A bridge of the host is none of the container's.
        (json!({"bridge": "name0"}), 999, "no such link"),
        (json!({"mtu": 67}), 999, "configure tap0"),
        (json!({"mtu": 70000}), 999, "configure tap0"),
        (json!({"mtu": -1}), 7, "invalid MTU -1"),
        (json!({"mac": "02:00"}), 7, "02:00"),
        (json!({"mac": "01:00:5e:00:00:01"}), 7, "group address"),
        (json!({"owner": 4_294_967_295_u64}), 7, "owner"),
        (json!({"args": []}), 7, "args"),
        (json!({"disableIPv6WhenUnused": "yes"}), 7, "disableIPv6WhenUnused"),
        (json!({"ipam": {"type": "missing"}}), 999, "missing"),
        (
            json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}],
                "routes": [{"dst": "10.9.0.0/16", "gw": "172.31.0.1"}]}}),
            999,
            "10.9.0.0/16",
        ),
    ] {
        host.plugin("tap").add(&pod, "tap0", &tap(host, keys)).expect_error(code, part);
        assert!(pod.link("tap0").is_none());
    }
    let selinux = std::fs::exists("/sys/fs/selinux/enforce").expect("/sys is there");
    if !selinux {
        let keys = json!({"selinuxContext": "system_u:system_r:container_t:s0"});
        let text = "change to SELinux context system_u:system_r:container_t:s0";
        host.plugin("tap").add(&pod, "tap0", &tap(host, keys)).expect_error(999, text);
    }
    host.plugin("tap")
        .args("X=1")
        .add(&pod, "tap0", &tap(host, json!({})))
        .expect_error(4, "unknown args");
    // What ADD refuses, DEL does not mind.
    host.plugin("tap").args("X=1").del(&pod, "tap0", &tap(host, json!({"mtu": -1}))).expect_ok();
    inside.expect_same(&pod.network_snapshot());
    host.expect_unchanged_but(&before, LEFT);
}

fn check_passes_after_add_at_every_version(host: &Host) {
    let pod = host.container("pod");
    let versions = conf::versions(host);
    for version in versions.iter().filter(|version| version.as_str() >= "0.4.0") {
        for keys in [json!({}), json!({"ipam": dual_stack(), "multiQueue": true, "mtu": 1400})] {
            let conf = conf::with(&tap(host, keys), json!({"cniVersion": version}));
            let result = host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
            let checked = with_previous_result(&conf, &result);
            host.plugin("tap").check(&pod, "tap0", &checked).expect_ok();
            host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
        }
    }
}

fn check_names_each_thing_that_is_gone(host: &Host) {
    let pod = host.container("pod");
    pod.exec("ip link add br0 type bridge");
    let conf = tap(host, json!({"ipam": dual_stack(), "mtu": 1400, "bridge": "br0"}));
    let cases: &[(&[&str], &str)] = &[
        (&["ip link set tap0 down"], "down"),
        (&["ip link set tap0 address 02:00:00:00:00:77"], "its MAC is 02:00:00:00:00:77"),
        (&["ip link set tap0 mtu 1300"], "its mtu is 1300"),
        (&["ip link set tap0 nomaster"], "no port of br0"),
        (&["ip link del tap0"], "the link is gone"),
        (&["ip link del tap0", "ip link add tap0 type veth peer name x"], "veth"),
        (&["ip link del tap0", "ip tuntap add dev tap0 mode tun"], "MAC"),
        (&["ip address del 10.1.0.2/24 dev tap0"], "10.1.0.2/24"),
        (&["ip address del 2001:db8:1::2/64 dev tap0"], "2001:db8:1::2/64"),
        (&["ip route del default"], "0.0.0.0/0"),
        (&["ip -6 route del default"], "::/0"),
        (&["ip route del 10.8.0.0/16 table 100"], "10.8.0.0/16"),
    ];
    for (commands, part) in cases {
        let result = host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
        let checked = with_previous_result(&conf, &result);
        host.note(format!("{commands:?}"));
        commands.iter().for_each(|command| drop(pod.exec(*command)));
        host.plugin("tap").check(&pod, "tap0", &checked).expect_error(999, part);
        pod.try_exec("ip link del tap0");
    }
    // The device as it was asked for, checked against another wish.
    let conf = tap(host, json!({}));
    let result = host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
    for (keys, part) in [
        (json!({"owner": 0}), "its owner is nobody, promised was 0"),
        (json!({"group": 0}), "its group is nobody, promised was 0"),
        (json!({"multiQueue": true}), "it has one queue"),
        (json!({"bridge": "br0"}), "no port of br0"),
        (json!({"bridge": "br1"}), "br1"),
    ] {
        let checked = with_previous_result(&tap(host, keys), &result);
        host.plugin("tap").check(&pod, "tap0", &checked).expect_error(999, part);
    }
    host.plugin("tap").check(&pod, "tap0", &conf).expect_error(7, "prevResult");
}

fn leased(host: &Host) -> Value {
    tap(host, json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}))
}

fn leases(host: &Host) -> usize {
    host.files("/var/lib/cni/networks/net").iter().filter(|name| name.starts_with("10.")).count()
}

fn del_finds_the_device_under_another_name(host: &Host) {
    let pod = host.container("pod");
    let conf = leased(host);
    host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
    // Kernels before 6.2 rename links that are down only.
    pod.exec("ip link set tap0 down");
    pod.exec("ip link set tap0 name vm0");
    pod.exec("ip tuntap add dev other mode tap");
    host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
    assert_eq!(pod.links(), ["lo", "other"]);
    assert_eq!(leases(host), 0);
}

fn del_is_content_with_what_is_left(host: &Host) {
    let conf = leased(host);
    let before = host.snapshot();
    for (run, spoil) in ["nothing", "link", "netns", "stale"].into_iter().enumerate() {
        let pod = host.container(&format!("pod{run}"));
        host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
        host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
        assert_eq!(leases(host), 1);
        match spoil {
            "link" => drop(pod.exec("ip link del tap0")),
            "netns" => pod.destroy(),
            "stale" => pod.make_stale_file(),
            _ => {}
        }
        host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
        assert_eq!(leases(host), 0, "{spoil}");
        host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
        host.plugin("tap").del_without_netns(&pod, "tap0", &conf).expect_ok();
    }
    host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
}

fn a_machine_that_runs_does_not_stop_a_del(host: &Host) {
    let pod = host.container("pod");
    let conf = leased(host);
    host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
    let machine = Program::open(&pod, "tap0", false);
    host.plugin("tap").del(&pod, "tap0", &conf).expect_ok();
    assert_eq!(pod.links(), ["lo"]);
    drop(machine);
    host.plugin("tap").add(&pod, "tap0", &conf).expect_result();
}

fn ipam_of_others_finds_the_link(host: &Host) {
    let conf = conf::of_type(host, "tap", json!({}));
    links::ipam_of_others_finds_the_link(&Subject { host, plugin: "tap", conf });
}

fn gc_releases_the_addresses_of_invalid_attachments(host: &Host) {
    let (one, two) = (host.container("one"), host.container("two"));
    let conf = leased(host);
    host.plugin("tap").add(&one, "tap0", &conf).expect_result();
    host.plugin("tap").add(&two, "tap0", &conf).expect_result();
    one.destroy();
    let valid = |list: Value| conf::with(&conf, json!({"cni.dev/valid-attachments": list}));
    host.plugin("tap").gc(&conf).expect_ok();
    host.plugin("tap").gc(&valid(json!(7))).expect_error(7, "valid-attachments");
    assert_eq!(leases(host), 2);
    let second = json!([{"containerID": "ctr-two", "ifname": "tap0"}]);
    host.plugin("tap").gc(&valid(second)).expect_ok();
    assert_eq!(leases(host), 1);
    assert!(two.link("tap0").is_some());
}

fn status_tells_whether_there_are_tap_devices(host: &Host) {
    let outcome = host.plugin("tap").status(&tap(host, json!({})));
    match testkit::Feature::Tun.present() {
        true => outcome.expect_ok(),
        false => drop(outcome.expect_error(50, "/dev/net/tun")),
    }
    let full = json!({"ipam": {"type": "missing"}});
    assert!(!host.plugin("tap").status(&tap(host, full)).success());
    // A host without the device.
    host.exec("mount -t tmpfs tmpfs /dev/net");
    host.plugin("tap").status(&tap(host, json!({}))).expect_error(50, "load the module tun");
}
