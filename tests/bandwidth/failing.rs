//! What cannot be: an error that says why, and nothing changed.

use serde_json::json;
use testkit::{Case, Host, Netns as _, cases};

use super::{Pod, both, ifbs, limits, shown, tbf};

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Shaping, Ifb, OurPlugins] bad_limits_are_refused_by_name,
        [Bridge, Shaping, Ifb, OurPlugins] a_second_add_takes_nothing_away,
        [Bridge, Shaping, Ifb, OurPlugins] another_programs_qdiscs_are_in_the_way,
        [Bridge, Shaping, Ifb, OurPlugins] what_is_missing_is_named,
        [Bridge, Shaping, Ifb, OurPlugins] a_burst_below_a_packet_is_warned_of,
        [Bridge, Shaping, Ifb, OurPlugins] a_leftover_ifb_is_no_obstacle,
    }
}

fn bad_limits_are_refused_by_name(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let before = host.snapshot();
    for (keys, part) in [
        (json!({"ingressBurst": 8}), "ingressBurst is set and ingressRate is not"),
        (json!({"egressRate": 0, "egressBurst": 8}), "egressBurst is set"),
        (json!({"ingressRate": 7}), "ingressRate 7 is less than a byte per second"),
        (json!({"ingressRate": 8000, "ingressBurst": 7}), "ingressBurst 7 is less than a byte"),
        (json!({"egressRate": 8000, "egressBurst": 1}), "egressBurst 1 is less than a byte"),
        (json!({"ingressRate": -1}), "ingressRate"),
        (json!({"ingressRate": 1e30}), "ingressRate"),
        (json!({"ingressRate": "1M"}), "ingressRate"),
        (json!({"egressRate": 8, "egressBurst": u64::MAX}), "burst cannot be more than 4GB"),
        (
            json!({"runtimeConfig": {"bandwidth": {"egressBurst": 8}}}),
            "egressBurst is set and egressRate is not",
        ),
        (json!({"ingressRate": 8000, "latency": 60_000}), "latency"),
    ] {
        pod.add(host, &limits("net", &keys)).expect_error(7, part);
        host.expect_unchanged(&before);
    }
}

fn a_second_add_takes_nothing_away(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    pod.add(host, &both()).expect_result();
    let before = host.snapshot();
    pod.add(host, &both()).expect_error(999, "the attachment is shaped already");
    host.expect_unchanged(&before);
    let egress = limits("net", &json!({"egressRate": 8000}));
    pod.add(host, &egress).expect_error(999, "the attachment is shaped already");
    host.expect_unchanged(&before);
    pod.check(host, &both()).expect_ok();
}

fn another_programs_qdiscs_are_in_the_way(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let end = pod.host_end(host);
    for (commands, part) in [
        (vec!["tc qdisc add dev END root handle 7: pfifo"], "it has a root qdisc of kind pfifo"),
        (
            vec![
                "tc qdisc add dev END clsact",
                "tc filter add dev END ingress protocol ip prio 5 u32 match u32 0 0 \
                 action mirred egress mirror dev END",
            ],
            "it has filters of another program",
        ),
    ] {
        for command in &commands {
            host.exec(command.replace("END", &end));
        }
        let before = host.snapshot();
        pod.add(host, &both()).expect_error(999, part);
        host.expect_unchanged(&before);
        let kind = if shown(host, &end).contains("clsact") { "clsact" } else { "root" };
        host.exec(format!("tc qdisc del dev {end} {kind}"));
    }
    // Of our kind and number; the ingress qdisc has a filter whose link is gone.
    host.exec("ip link add theirs type ifb");
    for command in [
        "tc qdisc add dev END root handle 1: tbf rate 3mbit burst 9kb limit 9kb",
        "tc qdisc add dev END ingress",
        "tc filter add dev END parent ffff: protocol all prio 5 u32 match u32 0 0 \
         action mirred egress redirect dev theirs",
        "ip link del theirs",
    ] {
        host.exec(command.replace("END", &end));
    }
    let before = host.snapshot();
    let egress = limits("net", &json!({"egressRate": 8000}));
    for conf in [&both(), &egress, &limits("net", &json!({"ingressRate": 8000}))] {
        pod.add(host, conf).expect_error(999, "another program");
        host.expect_unchanged(&before);
        pod.del(host, conf).expect_ok();
        host.expect_unchanged(&before);
    }
    host.exec(format!("tc qdisc del dev {end} ingress"));
    let before = host.snapshot();
    pod.add(host, &egress).expect_result();
    pod.del(host, &egress).expect_ok();
    host.expect_unchanged(&before);
    host.exec(format!("tc qdisc del dev {end} root"));
    // Where only one direction is limited, the other's qdisc is nobody's business.
    host.exec(format!("tc qdisc add dev {end} root handle 7: pfifo"));
    pod.add(host, &limits("net", &json!({"egressRate": 8000}))).expect_result();
    pod.del(host, &both()).expect_ok();
    assert!(shown(host, &end).contains("pfifo 7:"));
}

fn what_is_missing_is_named(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let before = host.snapshot();
    let plugin = host.plugin("bandwidth");
    plugin.add(&pod.container, "eth0", &both()).expect_error(7, "prevResult is missing");
    let nothing = limits("net", &json!({}));
    plugin.add(&pod.container, "eth0", &nothing).expect_error(7, "prevResult is missing");
    let conf = pod.conf(&both());
    plugin.add(&pod.container, "eth7", &conf).expect_error(999, "shape eth7");
    plugin.add(&pod.container, "lo", &conf).expect_error(999, "shape lo");
    plugin.check(&pod.container, "eth7", &conf).expect_error(999, "shape eth7");
    plugin.del(&pod.container, "eth7", &conf).expect_ok();
    let nowhere = host.plugin("bandwidth").env("CNI_NETNS", "/run/netns/nowhere");
    nowhere.add(&pod.container, "eth0", &conf).expect_error(8, "/run/netns/nowhere");
    host.expect_unchanged(&before);
}

fn a_burst_below_a_packet_is_warned_of(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    // The values of upstream's own tests.
    let conf = limits("net", &json!({"ingressRate": 8, "ingressBurst": 8}));
    let outcome = pod.add(host, &conf);
    outcome.expect_result();
    assert!(outcome.stderr().contains("the burst is less than a packet"), "{outcome}");
    assert_eq!(tbf(host, &pod.host_end(host)).as_deref(), Some("8bit burst 1b lat 0us"));
    pod.check(host, &conf).expect_ok();
    pod.del(host, &conf).expect_ok();
    let outcome = pod.add(host, &both());
    outcome.expect_result();
    assert_eq!(outcome.stderr(), "");
}

/// A container comes again under its name, after one whose DEL never came.
fn a_leftover_ifb_is_no_obstacle(host: &Host) {
    let old = Pod::on_bridge(host, "pod");
    old.add(host, &both()).expect_result();
    old.container.destroy();
    let end_is_gone = || host.exec("tc qdisc show").matches("tbf").count() == 1;
    host.wait_until("the pair has gone with its namespace", end_is_gone);
    assert_eq!(ifbs(host).len(), 1);
    old.container.recreate();
    let keys = json!({"isGateway": true, "ipam": super::addresses()});
    let mut conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge"});
    conf = crate::conf::with(&conf, keys);
    // The lease as well.
    host.plugin("bridge").del(&old.container, "eth0", &conf).expect_ok();
    let new = Pod::attach(host, old.container, "eth0", "bridge", conf);
    new.add(host, &both()).expect_result();
    new.check(host, &both()).expect_ok();
    assert_eq!(ifbs(host).len(), 1);
    new.del(host, &both()).expect_ok();
    assert_eq!(ifbs(host), [""; 0]);
}
