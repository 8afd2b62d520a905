//! Beside upstream's plugin: either checks and undoes what the other made.

use serde_json::json;
use testkit::{Case, Host, Netns as _, cases};

use super::{Pod, both, ifbs, limits, tbf};

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Shaping, Ifb, PeerPlugins, OurPlugins] upstream_checks_and_undoes_ours,
        [Bridge, Shaping, Ifb, PeerPlugins, OurPlugins] upstreams_are_checked_and_undone,
        [Bridge, Shaping, Ifb, PeerPlugins, OurPlugins] what_upstream_left_behind_goes_by_gc,
        [Bridge, Shaping, Ifb, PeerPlugins, OurPlugins] huge_bursts_of_upstreams_pass_the_check,
    }
}

fn upstream_checks_and_undoes_ours(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let before = host.snapshot();
    for conf in [
        both(),
        limits(
            "net",
            &json!({"ingressRate": 15_000_000, "ingressBurst": 2_147_483_647_u64,
            "egressRate": 1_234_567, "egressBurst": 7_654_321}),
        ),
    ] {
        pod.add(host, &conf).expect_result();
        host.peer("bandwidth").check(&pod.container, "eth0", &pod.conf(&conf)).expect_ok();
        host.peer("bandwidth").del(&pod.container, "eth0", &pod.conf(&conf)).expect_ok();
        assert_eq!(ifbs(host), [""; 0]);
        // The rest goes with the pair; or by our DEL.
        pod.del(host, &conf).expect_ok();
        host.expect_unchanged(&before);
    }
}

fn upstreams_are_checked_and_undone(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let before = host.snapshot();
    for keys in [
        json!({"ingressRate": 8_000_000, "ingressBurst": 1_600_000,
            "egressRate": 1_600_000, "egressBurst": 800_000}),
        json!({"ingressRate": 1_234_567, "ingressBurst": 7_654_321,
            "egressRate": 15_000_001, "egressBurst": 2_147_483_647_u64}),
        json!({"egressRate": 8, "egressBurst": 8}),
    ] {
        let conf = limits("net", &keys);
        host.peer("bandwidth").add(&pod.container, "eth0", &pod.conf(&conf)).expect_result();
        pod.check(host, &conf).expect_ok();
        // Another interface's DEL does not touch it, a GC of what is valid neither.
        host.plugin("bandwidth").del(&pod.container, "lo", &pod.conf(&conf)).expect_ok();
        let valid = json!([{"containerID": pod.container.id(), "ifname": "eth0"}]);
        gc(host, &valid);
        gc(host, &json!([]));
        pod.check(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
        host.expect_unchanged(&before);
    }
}

fn gc(host: &Host, valid: &serde_json::Value) {
    let mut conf = limits("net", &json!({"cni.dev/valid-attachments": valid}));
    conf["cniVersion"] = json!("1.1.0");
    host.plugin("bandwidth").gc(&conf).expect_ok();
}

fn what_upstream_left_behind_goes_by_gc(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    host.peer("bandwidth").add(&pod.container, "eth0", &pod.conf(&both())).expect_result();
    pod.container.destroy();
    let end_is_gone = || host.exec("tc qdisc show").matches("tbf").count() == 1;
    host.wait_until("the pair has gone with its namespace", end_is_gone);
    assert_eq!(ifbs(host).len(), 1);
    gc(host, &json!([{"containerID": pod.container.id(), "ifname": "eth0"}]));
    assert_eq!(ifbs(host).len(), 1, "somebody says that it is valid");
    gc(host, &json!([]));
    assert_eq!(ifbs(host), [""; 0]);
}

/// Upstream's number of ticks overflows, which is what the kernel shows of ours.
fn huge_bursts_of_upstreams_pass_the_check(host: &Host) {
    let pod = Pod::on_bridge(host, "pod");
    let conf = limits("net", &json!({"ingressRate": 1_000_000, "ingressBurst": 2_147_483_647_u64}));
    host.peer("bandwidth").add(&pod.container, "eth0", &pod.conf(&conf)).expect_result();
    pod.check(host, &conf).expect_ok();
    pod.del(host, &conf).expect_ok();
    assert_eq!(tbf(host, &pod.host_end(host)), None);
    pod.add(host, &conf).expect_result();
    host.peer("bandwidth").check(&pod.container, "eth0", &pod.conf(&conf)).expect_ok();
    pod.del(host, &conf).expect_ok();
}
