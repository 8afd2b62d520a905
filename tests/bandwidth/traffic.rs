//! Real packets, measured by iperf3.

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases};

use super::{Pod, limits, shown};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Shaping, Ifb, Iperf3] both_directions_have_their_rates,
        [Bridge, Shaping, Ifb, Iperf3] one_limit_leaves_the_other_direction_alone,
    };
    for case in cases! {
        [Bridge, Shaping, Ifb, Iperf3] a_default_burst_is_no_flood,
        [Bridge, Shaping, Ifb, Iperf3] slow_rates_get_their_packets_through,
        [Macvlan, Shaping, Ifb, Iperf3] a_macvlan_is_shaped_in_the_container,
        [Ipvlan, Shaping, Ifb, Iperf3] an_ipvlan_is_shaped_in_the_container,
        [Bridge, Shaping, Ifb, Iperf3, Ping] latency_is_a_choice,
    } {
        list.push(case.ours_only());
    }
    list
}

/// Which way the data goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToContainer,
    FromContainer,
}

/// Sends for so many seconds between a container and somebody who reaches it at
/// `address`, and gives iperf3's report.
fn send(
    host: &Host,
    from: &impl testkit::Netns,
    container: &Container,
    address: &str,
    way: Way,
    seconds: u32,
) -> Value {
    let report = host.parallel(2, |who| {
        if who == 0 {
            // For one client, and not for ever if none comes.
            container.exec("iperf3 -s -1 -J --idle-timeout 20");
            return String::new();
        }
        wait_for_server(host, container);
        let reverse = if way == Way::FromContainer { " -R" } else { "" };
        from.exec(format!("iperf3 -c {address} -t {seconds} -i 1 -J --get-server-output{reverse}"))
    });
    serde_json::from_str(&report[1]).expect("iperf3 -J prints JSON")
}

fn wait_for_server(host: &Host, container: &Container) {
    host.wait_until("iperf3 listens", || {
        !container.exec("ss -Hltn sport = :5201").trim().is_empty()
    });
}

/// Bits per second that arrived, without the first second, in which the burst
/// went through.
fn rate_after_burst(report: &Value) -> f64 {
    let receiver = match report["start"]["test_start"]["reverse"] == 1 {
        true => report,
        false => &report["server_output_json"],
    };
    let intervals = receiver["intervals"].as_array().expect("a list");
    let (mut bytes, mut seconds) = (0.0, 0.0);
    for interval in intervals.iter().skip(1) {
        bytes += interval["sum"]["bytes"].as_f64().expect("a number");
        seconds += interval["sum"]["seconds"].as_f64().expect("a number");
    }
    bytes * 8.0 / seconds
}

/// How often a sender is given the chance to fill what it may use.
const TRIES: usize = 3;

/// Never more than was promised, and not less: but a machine that is busy with other
/// things keeps the sender from sending, so too little is measured again. Gives the
/// last report of iperf3.
///
/// Headers and acknowledgements count for the kernel and not for iperf3: of a
/// packet of 1514 bytes 1448 are data.
fn expect_rate(promised: f64, measure: impl Fn() -> Value) -> Value {
    let mut rates = Vec::new();
    loop {
        let report = measure();
        let part = rate_after_burst(&report) / promised;
        rates.push(part);
        assert!(part <= 1.1, "{rates:?} of {promised:.0} bit/s\n{report}");
        if part >= 0.9 {
            return report;
        }
        assert!(rates.len() < TRIES, "{rates:?} of {promised:.0} bit/s\n{report}");
    }
}

const MBIT: u64 = 1_000_000;

/// Two rates, neither a multiple of the other.
fn two_rates() -> Value {
    limits(
        "net",
        &json!({"ingressRate": 40 * MBIT, "ingressBurst": 2 * MBIT,
            "egressRate": 15 * MBIT, "egressBurst": MBIT}),
    )
}

fn both_directions_have_their_rates(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    pod.add(host, &two_rates()).expect_result();
    expect_rate(40e6, || send(host, host, &pod.container, "10.1.0.2", Way::ToContainer, 4));
    expect_rate(15e6, || send(host, host, &pod.container, "10.1.0.2", Way::FromContainer, 4));
    pod.del(host, &two_rates()).expect_ok();
}

fn one_limit_leaves_the_other_direction_alone(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let conf = limits("net", &json!({"egressRate": 10 * MBIT, "egressBurst": MBIT}));
    pod.add(host, &conf).expect_result();
    let to = send(host, host, &pod.container, "10.1.0.2", Way::ToContainer, 2);
    assert!(rate_after_burst(&to) > 100e6, "{to}");
    expect_rate(10e6, || send(host, host, &pod.container, "10.1.0.2", Way::FromContainer, 4));
}

fn a_default_burst_is_no_flood(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let conf = limits("net", &json!({"ingressRate": 20 * MBIT, "egressRate": 20 * MBIT}));
    pod.add(host, &conf).expect_result();
    for way in [Way::ToContainer, Way::FromContainer] {
        let report = expect_rate(20e6, || send(host, host, &pod.container, "10.1.0.2", way, 3));
        let sum = &report["end"]["sum_received"];
        let bits = sum["bytes"].as_f64().expect("a number") * 8.0;
        let seconds = sum["seconds"].as_f64().expect("a number");
        assert!(bits <= 20e6 * (seconds + 0.3), "{report}");
    }
}

fn slow_rates_get_their_packets_through(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    // A tenth of a second is less than one packet.
    let conf = limits("net", &json!({"ingressRate": 100_000, "egressRate": 100_000}));
    pod.add(host, &conf).expect_result();
    let ping = "ping -n -c 3 -i 0.4 -s 1472 -M do -w 10 10.1.0.2";
    let text = host.exec(ping);
    assert!(text.contains(" 0% packet loss"), "{text}");
    pod.del(host, &conf).expect_ok();
    // TCP sends packets by twos.
    let conf = limits("net", &json!({"ingressRate": 256_000, "egressRate": 256_000}));
    pod.add(host, &conf).expect_result();
    for way in [Way::ToContainer, Way::FromContainer] {
        expect_rate(256e3, || send(host, host, &pod.container, "10.1.0.2", way, 8));
    }
}

/// The container's link has no end on the host, so all of it is in the
/// container.
fn shaped_in_the_container(host: &Host, plugin: &str) {
    let outside = host.outside();
    let ipam = json!({"type": "static", "addresses": [{"address": "192.0.2.10/24"}]});
    let pod = Pod::behind(host, "pod", plugin, json!({"master": "uplink", "ipam": ipam}));
    let before = host.snapshot();
    let result = pod.add(host, &two_rates()).expect_result();
    host.expect_unchanged(&before);
    let ifb = result["interfaces"][1].clone();
    assert_eq!(ifb["sandbox"], pod.container.path().display().to_string());
    assert_eq!(super::ifbs(&pod.container), [ifb["name"].as_str().expect("a name")]);
    pod.check(host, &two_rates()).expect_ok();
    expect_rate(40e6, || send(host, &outside, &pod.container, "192.0.2.10", Way::ToContainer, 4));
    expect_rate(15e6, || send(host, &outside, &pod.container, "192.0.2.10", Way::FromContainer, 4));

    pod.del(host, &two_rates()).expect_ok();
    assert_eq!(super::ifbs(&pod.container), [""; 0]);
    assert!(!shown(&pod.container, "eth0").contains("tbf"));
    host.expect_unchanged(&before);
}

fn a_macvlan_is_shaped_in_the_container(host: &Host) {
    shaped_in_the_container(host, "macvlan");
}

fn an_ipvlan_is_shaped_in_the_container(host: &Host) {
    shaped_in_the_container(host, "ipvlan");
}

/// Milliseconds that a small packet takes while as much is sent as goes: the
/// median of some.
fn ping_under_load(host: &Host, latency: u64) -> f64 {
    let pod = Pod::on_bridge(host, &format!("pod{latency}"));
    // A burst of two packets: what waits is what the latency says.
    let conf = limits(
        "net",
        &json!({"ingressRate": 20 * MBIT, "ingressBurst": 25_000, "latency": latency}),
    );
    pod.add(host, &conf).expect_result();
    let address = pod.result["ips"][0]["address"].as_str().expect("an address");
    let address = address.split('/').next().expect("a prefix").to_owned();
    let answers = host.parallel(3, |who| match who {
        0 => pod.container.try_exec("iperf3 -s -1 --idle-timeout 20").stdout,
        // Twice what goes: the queue is full.
        1 => {
            wait_for_server(host, &pod.container);
            host.exec(format!("iperf3 -c {address} -u -b 40M -l 1400 -t 5"))
        }
        _ => {
            wait_for_server(host, &pod.container);
            host.try_exec(format!("ping -n -c 15 -i 0.2 -w 6 {address}")).stdout
        }
    });
    let mut times: Vec<f64> = answers[2]
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    assert!(times.len() >= 3, "{answers:?}");
    times[times.len() / 2]
}

fn latency_is_a_choice(host: &Host) {
    let (short, long) = (ping_under_load(host, 5), ping_under_load(host, 100));
    assert!(long > 2.0 * short, "{short} ms with latency 5, {long} ms with latency 100");
}
