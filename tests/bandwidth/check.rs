//! What the kernel is told, and CHECK, which compares it.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{Pod, both, ifbs, limits, shown, tbf};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Shaping, Ifb] a_pair_is_shaped_at_its_host_end,
        [Bridge, Shaping, Ifb] the_runtimes_limits_count_unless_there_are_others,
    };
    for case in cases! {
        // Upstream's CHECK panics.
        [Bridge, Shaping, Ifb] what_is_not_limited_is_left_alone,
        [Bridge, Shaping, Ifb] check_names_what_is_missing,
        [Bridge, Shaping, Ifb] large_values_are_right,
        [Bridge, Shaping, Ifb, Ipv6] the_ifb_has_no_address,
        [Bridge, Shaping, Ifb] results_of_any_shape_are_understood,
        [Bridge, Shaping, Ifb] status_and_versions,
        [Macvlan, Shaping, Ifb] another_mtu_is_not_another_limit,
    } {
        list.push(case.ours_only());
    }
    list
}

fn a_pair_is_shaped_at_its_host_end(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let result = pod.add(host, &both()).expect_result();
    let end = pod.host_end(host);
    assert_eq!(tbf(host, &end).as_deref(), Some("8Mbit burst 200000b lat 25ms"));
    // The hash is of `netctr-pod`.
    let ifb = ifbs(host).pop().expect("an ifb");
    assert_eq!(tbf(host, &ifb).as_deref(), Some("1600Kbit burst 100000b lat 25ms"));
    let link = host.link(&ifb).expect("it is there");
    assert_eq!(link["mtu"], 1500);
    assert!(link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP")));
    let filter = host.exec(format!("tc filter show dev {end} ingress"));
    assert!(filter.contains("match 00000000/00000000 at 0"), "{filter}");
    assert!(filter.contains(&format!("(Egress Redirect to device {ifb}) stolen")), "{filter}");

    // The result is the one before, and the ifb.
    let mut expected = pod.result.clone();
    let entry = json!({"name": ifb, "mac": host.mac(&ifb)});
    expected["interfaces"].as_array_mut().expect("a list").push(entry);
    assert_eq!(result["interfaces"], expected["interfaces"]);
    assert_eq!(result["ips"], expected["ips"]);
    pod.check(host, &both()).expect_ok();
    assert!(!shown(&pod.container, "eth0").contains("tbf"));
    assert_eq!(ifbs(&pod.container), [""; 0]);
}

fn the_ifb_has_no_address(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    pod.add(host, &both()).expect_result();
    let ifb = ifbs(host).pop().expect("an ifb");
    // Its kind has no duplicate address detection to wait for.
    assert_eq!(host.exec(format!("ip -6 -o address show dev {ifb}")), "");
}

fn the_runtimes_limits_count_unless_there_are_others(host: &Host) {
    let runtime = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 1_600_000}});
    let pod = Pod::on_bridge(host, "pod");
    let conf = limits("net", &json!({"runtimeConfig": runtime}));
    pod.add(host, &conf).expect_result();
    pod.check(host, &conf).expect_ok();
    assert!(tbf(host, &pod.host_end(host)).is_some());

    // One key is enough, even 0.
    let other = Pod::on_bridge(host, "other");
    let conf = limits("net", &json!({"runtimeConfig": runtime, "egressBurst": 0}));
    let result = other.add(host, &conf).expect_result();
    assert_eq!(tbf(host, &other.host_end(host)), None);
    assert_eq!(result["interfaces"], other.result["interfaces"]);
}

fn what_is_not_limited_is_left_alone(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let before = host.snapshot();
    for keys in [
        json!({}),
        json!({"ingressRate": 0, "ingressBurst": 0}),
        json!({"runtimeConfig": {}}),
        json!({"runtimeConfig": {"bandwidth": {"egressRate": 0}}}),
    ] {
        let conf = limits("net", &keys);
        let result = pod.add(host, &conf).expect_result();
        assert_eq!(result["interfaces"], pod.result["interfaces"]);
        pod.check(host, &conf).expect_ok();
        host.expect_unchanged(&before);
        pod.del(host, &conf).expect_ok();
        host.expect_unchanged(&before);
    }
}

/// What somebody did to the kernel, and what CHECK says to it. `END` and `IFB`
/// stand for the links.
const SPOILED: &[(&[&str], &str)] = &[
    (&["tc qdisc del dev END root"], "the tbf qdisc that limits its rate is gone"),
    (
        &["tc qdisc replace dev END root handle 1: tbf rate 9mbit burst 200000b latency 25ms"],
        "its rate is 1125000 bytes/s, promised was 1000000",
    ),
    (
        &["tc qdisc replace dev END root handle 1: tbf rate 8mbit burst 300000b latency 25ms"],
        "its burst or latency is not what was promised",
    ),
    (
        &["tc qdisc replace dev END root handle 1: tbf rate 8mbit burst 200000b latency 50ms"],
        "its burst or latency is not what was promised",
    ),
    (
        &["tc qdisc del dev END root", "tc qdisc add dev END root handle 1: pfifo"],
        "its root qdisc is pfifo, not tbf",
    ),
    (&["tc filter del dev END parent ffff:"], "is not redirected to be shaped"),
    (&["tc qdisc del dev END ingress"], "is not redirected to be shaped"),
    (&["ip link set IFB down"], "it is down"),
    (&["ip link del IFB"], "the ifb that its traffic is shaped on is gone"),
    (&["tc qdisc del dev IFB root"], "the tbf qdisc that limits its rate is gone"),
    (
        &["tc qdisc replace dev IFB root handle 1: tbf rate 2mbit burst 100000b latency 25ms"],
        "its rate is 250000 bytes/s, promised was 200000",
    ),
];

fn check_names_what_is_missing(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let end = pod.host_end(host);
    for (commands, part) in SPOILED {
        pod.add(host, &both()).expect_result();
        pod.check(host, &both()).expect_ok();
        let ifb = ifbs(host).pop().expect("an ifb");
        for command in *commands {
            host.exec(command.replace("END", &end).replace("IFB", &ifb));
        }
        pod.check(host, &both()).expect_error(999, part);
        // Whatever is left, DEL takes it.
        pod.del(host, &both()).expect_ok();
        if !commands.concat().contains("pfifo") {
            assert!(!shown(host, &end).contains("tbf") && ifbs(host).is_empty(), "{commands:?}");
        } else {
            host.exec(format!("tc qdisc del dev {end} root"));
        }
    }
    pod.check(host, &both()).expect_error(999, "is gone");
    let mut conf = both();
    host.plugin("bandwidth").check(&pod.container, "eth0", &conf).expect_error(7, "prevResult");
    conf["egressRate"] = json!(7);
    pod.check(host, &conf).expect_error(7, "egressRate");
}

fn large_values_are_right(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let end = pod.host_end(host);
    for (rate, burst, rate_shown) in [
        // As Kubernetes' runtimes send it where only a rate is annotated.
        (1_000_000_u64, 2_147_483_647_u64, "1Mbit"),
        // 4 GB less 2 bytes.
        (1_000_000_000, 34_359_738_352, "1Gbit"),
        (8, 8 * 1600, "8bit"),
        (400_000_000_000, 80_000_000_000 / 4, "400Gbit"),
        (1_000_000_000_000_000, 34_359_738_352, "1e+03Tbit"),
    ] {
        let conf = limits(
            "net",
            &json!({"ingressRate": rate, "ingressBurst": burst,
                "egressRate": rate, "egressBurst": burst}),
        );
        pod.add(host, &conf).expect_result();
        let text = tbf(host, &end).expect("a token bucket");
        assert!(
            text.starts_with(rate_shown) || text.starts_with("1000Tbit"),
            "{rate} {burst}: {text}"
        );
        pod.check(host, &conf).expect_ok();
        let other = limits(
            "net",
            &json!({"ingressRate": rate, "ingressBurst": burst / 2,
                "egressRate": rate, "egressBurst": burst / 2}),
        );
        pod.check(host, &other).expect_error(999, "burst or latency");
        pod.del(host, &conf).expect_ok();
    }
    // The largest of all: the kernel may refuse it, but does not make another of it.
    let before = host.snapshot();
    let conf = limits("net", &json!({"ingressRate": u64::MAX, "egressRate": u64::MAX}));
    let outcome = pod.add(host, &conf);
    if outcome.success() {
        pod.check(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
    } else {
        outcome.expect_error(999, "shape");
    }
    host.expect_unchanged(&before);
}

/// The recorded results, with this attachment's names.
fn recorded(end: &str, netns: &str) -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/bandwidth/results");
    let mut list = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file");
        let text = text.replace("@HOST@", end).replace("@NETNS@", netns);
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        list.push((name, serde_json::from_str(&text).expect("JSON")));
    }
    list
}

fn results_of_any_shape_are_understood(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let end = pod.host_end(host);
    let results = recorded(&end, &pod.container.path().display().to_string());
    assert!(results.len() >= 7, "{results:?}");
    for (name, result) in results {
        host.note(format!("behind {name}"));
        let mut conf = testkit::with_previous_result(&both(), &result);
        conf["cniVersion"] = result["cniVersion"].clone();
        let bandwidth = || host.plugin("bandwidth");
        let answer = bandwidth().add(&pod.container, "eth0", &conf).expect_result();
        assert!(tbf(host, &end).is_some(), "{name}");
        // Nothing is put right, and one interface more.
        let mut expected = result.clone();
        let ifb = ifbs(host).pop().expect("an ifb");
        let entry = json!({"name": ifb, "mac": host.mac(&ifb)});
        match expected["interfaces"].as_array_mut() {
            Some(list) => list.push(entry),
            None => expected["interfaces"] = json!([entry]),
        }
        for key in ["interfaces", "ips", "routes"] {
            assert_eq!(answer[key], expected[key], "{name}: {key}");
        }
        let mut checked = testkit::with_previous_result(&conf, &answer);
        checked["cniVersion"] = conf["cniVersion"].clone();
        if conf["cniVersion"] == "0.4.0" {
            bandwidth().check(&pod.container, "eth0", &checked).expect_ok();
        }
        bandwidth().del(&pod.container, "eth0", &conf).expect_ok();
        assert_eq!((tbf(host, &end), ifbs(host)), (None, Vec::new()), "{name}");
    }
}

fn status_and_versions(host: &Host) {
    let before = host.snapshot();
    let mut conf = both();
    conf["cniVersion"] = json!("1.1.0");
    host.plugin("bandwidth").status(&conf).expect_ok();
    conf["ingressRate"] = json!(7);
    host.plugin("bandwidth").status(&conf).expect_error(7, "ingressRate");
    let versions = host.plugin("bandwidth").version().expect_result();
    let list = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(versions["supportedVersions"], list);
    host.expect_unchanged(&before);
}

/// As by tuning behind it.
fn another_mtu_is_not_another_limit(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::behind(host, "pod", "macvlan", json!({"master": "uplink"}));
    let conf = limits("net", &json!({"ingressRate": 400_000, "egressRate": 400_000}));
    pod.add(host, &conf).expect_result();
    pod.container.exec("ip link set eth0 mtu 1300");
    pod.check(host, &conf).expect_ok();
    let other = limits(
        "net",
        &json!({"ingressRate": 400_000, "egressRate": 400_000,
        "egressBurst": 800_000}),
    );
    pod.check(host, &other).expect_error(999, "its burst or latency is not what was promised");
    pod.del(host, &conf).expect_ok();
}
