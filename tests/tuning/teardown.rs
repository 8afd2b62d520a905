//! Everything as it was, from any state.

use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::{BACKUPS, Pod, every_key};
use crate::conf;

pub(super) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for case in cases! {
        [Bridge] a_second_add_does_not_forget_how_it_was,
        [Bridge] two_of_them_in_a_chain,
        [Bridge] del_works_from_any_state,
        [Bridge] del_accepts_a_bad_configuration,
        [Bridge] del_succeeds_where_the_kernel_does_not_take_a_value_back,
        [Bridge] del_leaves_another_link_and_another_container_alone,
        [Bridge] names_that_would_collide,
        [Bridge] gc_puts_back_what_is_not_valid,
        [Bridge, PeerPlugins] either_program_undoes_what_the_other_did,
    } {
        list.push(case.ours_only());
    }
    list
}

fn valid(conf: &Value, list: &Value) -> Value {
    conf::with(conf, json!({"cni.dev/valid-attachments": list, "cni.dev/attachments": list}))
}

fn a_second_add_does_not_forget_how_it_was(host: &Host) {
    let pod = Pod::new(host, "pod");
    let inside = pod.snapshot();
    pod.add(every_key()).expect_result();
    let saved = fs::read_to_string(pod.backup()).expect("written");
    pod.add(every_key()).expect_result();
    assert_eq!(fs::read_to_string(pod.backup()).expect("there"), saved);
    // More, and other values.
    let more = json!({"mtu": 1300, "sysctl": {"net.ipv4.conf.IFNAME.proxy_arp": "0",
        "net.ipv4.tcp_sack": "0"}});
    pod.add(more.clone()).expect_result();
    assert_eq!(pod.link()["mtu"], 1300);
    // One that fails leaves it as the one before did.
    let (now, saved) = (pod.snapshot(), fs::read_to_string(pod.backup()).expect("there"));
    pod.add(json!({"txQLen": 5, "mtu": 70_000, "sysctl": {"net.core.somaxconn": "5"}}))
        .expect_error(999, "mtu");
    pod.snapshot().expect_same(&now);
    assert_eq!(fs::read_to_string(pod.backup()).expect("there"), saved);
    pod.del(more).expect_ok();
    inside.expect_same(&pod.snapshot());
    assert!(host.files(BACKUPS).is_empty());
}

fn two_of_them_in_a_chain(host: &Host) {
    let pod = Pod::new(host, "pod");
    let inside = pod.snapshot();
    let (one, two) = (json!({"mac": "02:00:00:00:00:0a"}), json!({"mtu": 1400, "promisc": true}));
    pod.add(one.clone()).expect_result();
    pod.add(two.clone()).expect_result();
    pod.check(one.clone()).expect_ok();
    pod.check(two.clone()).expect_ok();
    pod.del(two).expect_ok();
    pod.del(one).expect_ok();
    inside.expect_same(&pod.snapshot());
}

fn del_works_from_any_state(host: &Host) {
    for state in ["before", "twice", "no netns", "gone", "stale", "no link", "garbage", "empty"] {
        let pod = Pod::new(host, &state.replace(' ', "-"));
        let inside = pod.snapshot();
        let conf = conf::of_type(host, "tuning", every_key());
        let plugin = host.plugin("tuning");
        let del = || plugin.del(&pod.container, "eth0", &conf);
        if state == "before" {
            del().expect_ok();
        }
        pod.add(every_key()).expect_result();
        match state {
            // The namespace is there, and known.
            "no netns" => plugin.del_without_netns(&pod.container, "eth0", &conf).expect_ok(),
            "gone" => pod.container.destroy(),
            "stale" => pod.container.make_stale_file(),
            "no link" => drop(pod.container.exec("ip link del eth0")),
            "garbage" => host.write(pod.backup(), "{\"mtu\": 15"),
            "empty" => host.write(pod.backup(), ""),
            _ => {}
        }
        del().expect_ok();
        del().expect_ok();
        assert!(host.files(BACKUPS).is_empty(), "{state}: {:?}", host.files(BACKUPS));
        match state {
            "before" | "twice" | "no netns" => inside.expect_same(&pod.snapshot()),
            "no link" => assert_eq!(pod.sysctl("net/core/somaxconn"), "4096"),
            _ => {}
        }
    }
}

fn del_accepts_a_bad_configuration(host: &Host) {
    let pod = Pod::new(host, "pod");
    let inside = pod.snapshot();
    for bad in [
        json!({"mtu": "many"}),
        json!({"sysctl": {"kernel.x": 5}}),
        json!({"mac": "zz", "prevResult": {"ips": 5}}),
        json!({"args": 5}),
    ] {
        pod.add(every_key()).expect_result();
        let conf = conf::of_type(host, "tuning", bad);
        host.plugin("tuning").args("FOO").del(&pod.container, "eth0", &conf).expect_ok();
        inside.expect_same(&pod.snapshot());
    }
}

fn del_succeeds_where_the_kernel_does_not_take_a_value_back(host: &Host) {
    let pod = Pod::new(host, "pod");
    let keys = json!({"mtu": 1400, "sysctl": {"net.core.somaxconn": "77"}});
    pod.add(keys.clone()).expect_result();
    let text = fs::read_to_string(pod.backup()).expect("written");
    assert!(text.contains("4096"), "{text}");
    host.write(pod.backup(), text.replace("4096", "many"));
    let outcome = pod.del(keys);
    outcome.expect_ok();
    assert!(outcome.stderr().contains("somaxconn to many: invalid argument"), "{outcome}");
    assert_eq!(pod.link()["mtu"], 1500);
    assert!(host.files(BACKUPS).is_empty());
}

fn del_leaves_another_link_and_another_container_alone(host: &Host) {
    // Another link of that name.
    let pod = Pod::new(host, "pod");
    pod.add(json!({"mtu": 1400})).expect_result();
    pod.container.exec("ip link del eth0");
    pod.container.exec("ip link add eth0 mtu 1234 type veth peer name other");
    pod.del(json!({})).expect_ok();
    assert_eq!(pod.link()["mtu"], 1234);
    // The same link under another name.
    let pod = Pod::new(host, "renamed");
    pod.add(json!({"mtu": 1400})).expect_result();
    for words in ["down", "name eth7", "up"] {
        pod.container.exec(format!("ip link set {} {words}", pod.container.links()[1]));
    }
    pod.del(json!({})).expect_ok();
    assert_eq!(pod.container.link("eth7").expect("there")["mtu"], 1500);
    // A backup of a container of this name that died, with values of its own.
    let pod = Pod::new(host, "again");
    let saved = json!({"mtu": 1111, "oxcni": {"network": "net", "containerID": pod.container.id(),
        "ifname": "eth0", "ifindex": 2, "netns": "/run/netns/again", "netnsDevice": 1,
        "netnsInode": 1, "bootID": "0"}});
    host.write(pod.backup(), saved.to_string());
    pod.add(json!({"mtu": 1400})).expect_result();
    pod.del(json!({})).expect_ok();
    assert_eq!(pod.link()["mtu"], 1500);
    host.write(pod.backup(), saved.to_string());
    pod.del(json!({})).expect_ok();
    assert_eq!(pod.link()["mtu"], 1500);
    assert!(host.files(BACKUPS).is_empty());
}

fn names_that_would_collide(host: &Host) {
    let one = Pod::new(host, "x_y");
    let two = Pod::new(host, "x");
    let plugin = host.plugin("tuning");
    two.container.exec("ip link set eth0 down");
    two.container.exec("ip link set eth0 name y_eth0");
    two.container.exec("ip link set y_eth0 up");
    let conf = |pod: &Pod<'_>, mtu: u32| pod.conf(json!({"mtu": mtu}));
    plugin.add(&one.container, "eth0", &conf(&one, 1400)).expect_result();
    plugin.add(&two.container, "y_eth0", &conf(&two, 1300)).expect_result();
    assert_eq!(host.files(BACKUPS).len(), 2);
    plugin.del(&one.container, "eth0", &conf(&one, 1400)).expect_ok();
    assert_eq!(two.container.link("y_eth0").expect("there")["mtu"], 1300);
    plugin.del(&two.container, "y_eth0", &conf(&two, 1300)).expect_ok();
    assert_eq!(two.container.link("y_eth0").expect("there")["mtu"], 1500);
    assert!(host.files(BACKUPS).is_empty());
}

fn gc_puts_back_what_is_not_valid(host: &Host) {
    let (kept, lost, dead) =
        (Pod::new(host, "kept"), Pod::new(host, "lost"), Pod::new(host, "dead"));
    let inside = lost.snapshot();
    for pod in [&kept, &lost, &dead] {
        pod.add(every_key()).expect_result();
    }
    // Another network's, upstream's and something else stay.
    let other = Pod::new(host, "other");
    let others = with_previous_result(
        &json!({"cniVersion": "1.1.0", "name": "other", "type": "tuning", "mtu": 1400}),
        &other.result,
    );
    host.plugin("tuning").add(&other.container, "eth0", &others).expect_result();
    host.write(format!("{BACKUPS}/upstreams_eth0.json"), "{\n \"mtu\": 1500\n}");
    host.write(format!("{BACKUPS}/notes"), "hello");
    dead.container.destroy();
    let port = dead.result["interfaces"][1]["name"].as_str().expect("a name");
    host.wait_until("the port is gone", || host.link(port).is_none());
    let conf = conf::of_type(host, "tuning", json!({}));
    let before = host.snapshot();
    host.plugin("tuning").gc(&conf).expect_ok();
    host.expect_unchanged(&before);
    let list = json!([{"containerID": kept.container.id(), "ifname": "eth0"},
        {"containerID": lost.container.id(), "ifname": "eth1"}]);
    host.plugin("tuning").gc(&valid(&conf, &list)).expect_ok();
    inside.expect_same(&lost.snapshot());
    kept.check(every_key()).expect_ok();
    assert_eq!(other.link()["mtu"], 1400);
    let names = ["notes".to_owned(), "upstreams_eth0.json".to_owned()].into_iter();
    let pods = [&kept, &other].map(|pod| format!("{}_eth0.json", pod.container.id()));
    assert_eq!(host.files(BACKUPS), names.chain(pods).collect());
    kept.del(every_key()).expect_ok();
    assert_eq!(kept.link()["mtu"], 1500);
}

fn either_program_undoes_what_the_other_did(host: &Host) {
    let link = json!({"mac": "02:00:00:00:00:0a", "mtu": 1400, "promisc": true, "allmulti": true});
    for ours_first in [true, false] {
        let pod = Pod::new(host, &format!("pod{ours_first}"));
        let inside = pod.snapshot();
        let conf = conf::with(&pod.conf(link.clone()), json!({"cniVersion": "1.0.0"}));
        let conf =
            with_previous_result(&conf, &conf::with(&pod.result, json!({"cniVersion": "1.0.0"})));
        let plugins = [host.plugin("tuning"), host.peer("tuning")];
        let (adds, dels) = (usize::from(!ours_first), usize::from(ours_first));
        plugins[adds].add(&pod.container, "eth0", &conf).expect_result();
        assert_eq!(pod.settings().1, 1400);
        plugins[dels].del(&pod.container, "eth0", &conf).expect_ok();
        inside.expect_same(&pod.snapshot());
        assert!(host.files(BACKUPS).is_empty());
    }
}
