//! What is left after DEL and GC: nothing, and nobody else's.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{Pod, both, ifbs, limits, shown, tbf};
use crate::conf;

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Shaping, Ifb] del_leaves_no_ifb,
        [Bridge, Shaping, Ifb] del_finds_the_ifb_without_its_namespace,
    };
    for case in cases! {
        [Bridge, Shaping, Ifb] del_works_from_any_state,
        [Bridge, Shaping, Ifb] del_takes_a_bad_configuration,
        [Bridge, Shaping, Ifb] del_leaves_what_others_put_there,
        [Bridge, Shaping, Ifb] gc_removes_what_is_not_valid,
        [Bridge, Shaping] gc_removes_a_token_bucket_without_an_ifb,
        [Bridge, Shaping, Ifb, Strace] gc_leaves_what_an_add_is_making,
        [Macvlan, Shaping, Ifb] del_in_the_container_leaves_nothing,
        [Bridge, Shaping, Ifb] interfaces_of_one_container_are_apart,
        [Bridge, Shaping, Ifb] many_at_once,
    } {
        list.push(case.ours_only());
    }
    list
}

fn del_leaves_no_ifb(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    for _ in 0..2 {
        pod.add(host, &both()).expect_result();
        assert_eq!(ifbs(host).len(), 1);
        pod.del(host, &both()).expect_ok();
        assert_eq!(ifbs(host), [""; 0]);
        pod.del(host, &both()).expect_ok();
        if !host.has_our_plugins() {
            // Upstream leaves them to the end of the pair.
            let end = pod.host_end(host);
            host.exec(format!("tc qdisc del dev {end} root"));
            host.exec(format!("tc qdisc del dev {end} ingress"));
        }
    }
}

fn del_finds_the_ifb_without_its_namespace(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    pod.add(host, &both()).expect_result();
    pod.container.destroy();
    pod.del(host, &both()).expect_ok();
    assert_eq!(ifbs(host), [""; 0]);
}

fn del_works_from_any_state(host: &Host) {
    type Change = fn(&Host, &Pod);
    let states: [(&str, Change); 6] = [
        ("the link was renamed", |_, pod| {
            pod.container.exec("ip link set eth0 down");
            pod.container.exec("ip link set eth0 name moved");
        }),
        ("the host end was renamed", |host, pod| {
            let end = pod.host_end(host);
            host.exec(format!("ip link set {end} down"));
            host.exec(format!("ip link set {end} name moved"));
        }),
        ("the pair is gone", |_, pod| drop(pod.container.exec("ip link del eth0"))),
        ("the ifb is gone", |host, _| {
            drop(host.exec(format!("ip link del {}", ifbs(host).concat())));
        }),
        ("the qdiscs are gone", |host, pod| {
            let end = pod.host_end(host);
            host.exec(format!("tc qdisc del dev {end} root"));
            host.exec(format!("tc qdisc del dev {end} ingress"));
        }),
        ("nothing happened", |_, _| {}),
    ];
    for (index, (state, change)) in states.iter().enumerate() {
        host.note(format!("DEL when {state}"));
        let pod = Pod::on_bridge(host, &format!("pod{index}"));
        pod.add(host, &both()).expect_result();
        change(host, &pod);
        pod.del(host, &both()).expect_ok();
        assert_eq!(ifbs(host), [""; 0], "when {state}");
        let left = host.exec("tc qdisc show");
        assert!(!left.contains("tbf"), "when {state}: {left}");
        assert!(!left.contains("ingress"), "when {state}: {left}");
        pod.container.destroy();
    }
}

fn del_takes_a_bad_configuration(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let before = host.snapshot();
    for keys in [
        json!({"ingressRate": -1, "egressRate": "fast"}),
        json!({"ingressRate": null, "ingressBurst": 8}),
        json!({"latency": 1_000_000}),
        json!({"prevResult": {"cniVersion": "9.9.9"}}),
        json!({"runtimeConfig": 7}),
    ] {
        pod.add(host, &both()).expect_result();
        let bad = conf::with(&pod.conf(&both()), keys);
        host.plugin("bandwidth").del(&pod.container, "eth0", &bad).expect_ok();
        host.expect_unchanged(&before);
    }
}

fn del_leaves_what_others_put_there(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let end = pod.host_end(host);
    // Before ADD, and after.
    host.exec(format!("tc qdisc add dev {end} clsact"));
    pod.add(host, &both()).expect_result();
    pod.check(host, &both()).expect_ok();
    host.exec(format!(
        "tc filter add dev {end} ingress protocol ip prio 9 u32 match u32 0 0 \
         action mirred egress mirror dev {end}"
    ));
    pod.del(host, &both()).expect_ok();
    assert!(shown(host, &end).contains("clsact"));
    let filters = host.exec(format!("tc filter show dev {end} ingress"));
    assert!(filters.contains("pref 9") && !filters.contains("Redirect"), "{filters}");
    host.exec(format!("tc qdisc del dev {end} clsact"));

    pod.add(host, &both()).expect_result();
    host.exec(format!(
        "tc filter add dev {end} ingress protocol ip prio 9 u32 match u32 0 0 \
         action mirred egress mirror dev {end}"
    ));
    pod.del(host, &both()).expect_ok();
    let filters = host.exec(format!("tc filter show dev {end} ingress"));
    assert!(filters.contains("pref 9") && !filters.contains("Redirect"), "{filters}");

    // An attachment that was never shaped, and its link by somebody else.
    let other = Pod::on_bridge(host, "other");
    let end = other.host_end(host);
    host.exec(format!("tc qdisc add dev {end} root handle 7: tbf rate 1mbit burst 9kb limit 9kb"));
    host.exec(format!("tc qdisc add dev {end} ingress"));
    other.del(host, &both()).expect_ok();
    assert!(shown(host, &end).contains("tbf 7:") && shown(host, &end).contains("ingress"));
}

fn gc(host: &Host, network: &str, valid: &[&Pod]) {
    let valid: Vec<Value> = valid
        .iter()
        .map(|pod| json!({"containerID": pod.container.id(), "ifname": pod.ifname}))
        .collect();
    let mut conf = limits(network, &json!({"cni.dev/valid-attachments": valid}));
    conf["cniVersion"] = json!("1.1.0");
    host.plugin("bandwidth").gc(&conf).expect_ok();
}

fn gc_removes_what_is_not_valid(host: &Host) {
    let (kept, lost, gone) =
        (Pod::on_bridge(host, "kept"), Pod::on_bridge(host, "lost"), Pod::on_bridge(host, "gone"));
    let other = Pod::on_bridge(host, "other");
    let others = conf::with(&both(), json!({"name": "others"}));
    // Nobody's, but for its kind.
    host.exec("ip link add ifb7 type ifb");
    host.exec("ip link add bwp000000000000 type ifb");
    for pod in [&kept, &lost, &gone] {
        pod.add(host, &both()).expect_result();
    }
    other.add(host, &others).expect_result();
    gone.container.destroy();
    assert_eq!(ifbs(host).len(), 6);

    gc(host, "net", &[&kept, &lost, &gone]);
    gc(host, "another", &[]);
    assert_eq!(ifbs(host).len(), 6);
    gc(host, "net", &[&kept]);
    assert_eq!(ifbs(host).len(), 4);
    kept.check(host, &both()).expect_ok();
    other.check(host, &others).expect_ok();
    // The link of one that lives is free to be shaped anew.
    assert_eq!(tbf(host, &lost.host_end(host)), None);
    lost.add(host, &both()).expect_result();
    gc(host, "net", &[]);
    gc(host, "others", &[]);
    let mut left = ifbs(host);
    left.sort();
    assert_eq!(left, ["bwp000000000000", "ifb7"]);
}

fn gc_removes_a_token_bucket_without_an_ifb(host: &Host) {
    let (kept, lost) = (Pod::on_bridge(host, "kept"), Pod::on_bridge(host, "lost"));
    let one_way = limits("net", &json!({"ingressRate": 8_000_000}));
    for pod in [&kept, &lost] {
        pod.add(host, &one_way).expect_result();
    }
    gc(host, "another", &[]);
    assert!(tbf(host, &lost.host_end(host)).is_some());
    gc(host, "net", &[&kept]);
    assert_eq!(tbf(host, &lost.host_end(host)), None);
    kept.check(host, &one_way).expect_ok();
    lost.add(host, &one_way).expect_result();
}

/// GC of another network has a list of ifbs from before one had its alias, and then
/// finds the token bucket that an ADD makes last, while nothing is sent to it yet.
fn gc_leaves_what_an_add_is_making(host: &Host) {
    const PAUSE: Duration = Duration::from_millis(500);
    let pod = Pod::on_bridge(host, "pod");
    pod.add(host, &both()).expect_result();
    let made = ifbs(host).concat();
    let alias = host.link(&made).expect("there")["ifalias"].as_str().expect("a text").to_owned();
    pod.del(host, &both()).expect_ok();
    let mut conf = limits("another", &json!({"cni.dev/valid-attachments": []}));
    conf["cniVersion"] = json!("1.1.0");
    let mut waited = 0;
    for nth in 1.. {
        host.exec(format!("ip link add {made} type ifb"));
        let collected = thread::scope(|scope| {
            let plugin = host.plugin("bandwidth").delay_call("sendto,sendmsg", PAUSE, nth);
            let conf = &conf;
            let gc = scope.spawn(move || plugin.gc(conf));
            #[expect(clippy::disallowed_methods, reason = "nothing tells that strace delays")]
            thread::sleep(PAUSE / 2);
            host.exec(["ip", "link", "set", &made, "alias", &alias]);
            host.exec(format!(
                "tc qdisc add dev {made} root tbf rate 8mbit burst 1mb latency 25ms"
            ));
            gc.join().expect("it does not panic")
        });
        collected.expect_ok();
        assert_eq!(ifbs(host), [made.as_str()], "{collected}");
        host.exec(format!("ip link del {made}"));
        if !collected.fault_fired() {
            break;
        }
        waited += 1;
    }
    assert!(waited > 2, "{waited}");
}

fn del_in_the_container_leaves_nothing(host: &Host) {
    host.exec("ip link add uplink type veth peer name wire");
    host.exec("ip link set uplink up");
    let pod = Pod::behind(host, "pod", "macvlan", json!({"master": "uplink"}));
    let inside = pod.container.network_snapshot();
    let check = |rename: bool| {
        pod.add(host, &both()).expect_result();
        assert_eq!(tbf(&pod.container, "eth0").as_deref(), Some("1600Kbit burst 100000b lat 25ms"));
        let ifb = ifbs(&pod.container).concat();
        assert_eq!(tbf(&pod.container, &ifb).as_deref(), Some("8Mbit burst 200000b lat 25ms"));
        if rename {
            pod.container.exec("ip link set eth0 down");
            pod.container.exec("ip link set eth0 name moved");
        }
        pod.del(host, &both()).expect_ok();
        if rename {
            pod.container.exec("ip link set moved name eth0");
            pod.container.exec("ip link set eth0 up");
        }
        inside.expect_same(&pod.container.network_snapshot());
    };
    check(false);
    check(true);
    pod.add(host, &both()).expect_result();
    gc(host, "net", &[]);
    pod.check(host, &both()).expect_ok();
    pod.container.destroy();
    pod.del(host, &both()).expect_ok();
}

fn interfaces_of_one_container_are_apart(host: &Host) {
    let first = Pod::on_bridge(host, "pod");
    let keys = json!({"isGateway": true, "ipam": super::addresses()});
    let again = first.container.clone();
    let second = Pod::attach(host, again, "eth1", "bridge", keys);
    for pod in [&first, &second] {
        pod.add(host, &both()).expect_result();
    }
    assert_eq!(ifbs(host).len(), 2);
    for pod in [&first, &second] {
        pod.check(host, &both()).expect_ok();
    }
    first.del(host, &both()).expect_ok();
    first.del(host, &both()).expect_ok();
    second.check(host, &both()).expect_ok();
    first.add(host, &both()).expect_result();
    second.del(host, &both()).expect_ok();
    second.del(host, &both()).expect_ok();
    first.check(host, &both()).expect_ok();
    first.del(host, &both()).expect_ok();
    assert_eq!(ifbs(host), [""; 0]);
}

fn many_at_once(host: &Host) {
    const COUNT: usize = 12;
    let pods: Vec<_> = (0..COUNT).map(|n| Pod::on_bridge(host, &format!("pod{n}"))).collect();
    let before = host.snapshot();
    host.parallel(COUNT, |n| drop(pods[n].add(host, &both()).expect_result()));
    assert_eq!(ifbs(host).len(), COUNT);
    host.parallel(COUNT, |n| pods[n].check(host, &both()).expect_ok());
    host.parallel(COUNT, |n| pods[n].del(host, &both()).expect_ok());
    host.expect_unchanged(&before);
}
