//! A container on two networks with the same mappings on both, as podman wants it:
//! the first attachment has the ports, and the other one when that is gone.

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, with_previous_result};

use super::{HOST, Pod, bridge, on, portmap, tcp, udp};
use crate::chained::{at, both_backends};

pub(super) fn list() -> Vec<Case> {
    let mut list = both_backends(
        "portmap::same_container",
        &["the_other_attachment_takes_the_ports_over", "the_later_attachment_goes_first"],
        &[
            ("the_other_attachment_takes_the_ports_over", the_other_takes_over),
            ("the_later_attachment_goes_first", the_later_goes_first),
            ("gc_hands_ports_over", gc_hands_over),
            ("another_container_gets_none_of_them", another_container),
            ("ports_of_single_addresses", single_addresses),
            ("adding_again_with_other_ports_hands_them_over", adding_again),
            ("what_is_lost_is_restored", what_is_lost),
            ("a_container_that_died_leaves_nothing_behind", one_that_died),
            ("three_attachments", three_attachments),
            ("two_interfaces_on_one_network", two_interfaces),
        ],
    );
    for (word, first, second) in
        [("nftables_first", "nftables", "iptables"), ("iptables_first", "iptables", "nftables")]
    {
        let name = format!("portmap::same_container::across_backends_{word}");
        let needs = [Feature::Bridge, Feature::Nft, Feature::Iptables, Feature::OurPlugins];
        list.push(Case::new(name, &needs, move |host: &Host| across_backends(host, first, second)));
    }
    list.extend(testkit::cases! {
        [Bridge, Nft, OurPlugins] conditions_cannot_wait,
        [Bridge, Nft, Strace, OurPlugins] one_that_waits_and_fails_leaves_nothing,
    });
    list
}

/// One attachment of the pod: behind eth0, eth1, .., on a network and a bridge of
/// its own. Its mappings lead to a port of its own, too, so that it is known who
/// answers.
struct Attachment<'h> {
    host: &'h Host,
    container: &'h Container,
    ifname: String,
    conf: Value,
}

impl<'h> Attachment<'h> {
    /// Of a pod that has eth0, on network `net`.
    fn first(host: &'h Host, pod: &'h Pod, backend: &str) -> Self {
        let conf = pod.behind(&portmap(backend, &all_to(8080)));
        Self { host, container: &pod.container, ifname: "eth0".to_owned(), conf }
    }

    /// Of the same pod, on network `net<number>`.
    fn another(host: &'h Host, pod: &'h Pod, backend: &str, number: u16) -> Self {
        let mut network = bridge();
        network["name"] = format!("net{number}").into();
        network["bridge"] = format!("cni{number}").into();
        network["ipam"]["ranges"] = json!([
            [{"subnet": format!("10.{number}.0.0/24")}],
            [{"subnet": format!("2001:db8:{number}::/64")}],
        ]);
        network["isDefaultGateway"] = false.into();
        network["isGateway"] = true.into();
        let ifname = format!("eth{}", number - 1);
        let result = host.plugin("bridge").add(&pod.container, &ifname, &network).expect_result();
        // From outside the answers have to go the way the questions came.
        let mut conf = portmap(backend, &all_to(8079 + number));
        conf["name"] = network["name"].clone();
        conf["masqAll"] = true.into();
        let conf = with_previous_result(&conf, &result);
        Self { host, container: &pod.container, ifname, conf }
    }

    fn with(&self, mappings: &[Value]) -> Self {
        let mut conf = self.conf.clone();
        conf["runtimeConfig"]["portMappings"] = mappings.into();
        Self { host: self.host, container: self.container, ifname: self.ifname.clone(), conf }
    }

    fn add(&self) -> testkit::Outcome {
        self.host.plugin("portmap").add(self.container, &self.ifname, &self.conf)
    }

    fn check(&self) -> testkit::Outcome {
        self.host.plugin("portmap").check(self.container, &self.ifname, &self.conf)
    }

    #[track_caller]
    fn expect_checked(&self) {
        // That of 1.1.1 finds fault with its own rules.
        if self.host.has_our_plugins() {
            self.check().expect_ok();
        }
    }

    fn restore(&self) -> testkit::Outcome {
        let stdin = self.conf.to_string();
        let plugin = self.host.plugin("portmap");
        plugin.send("RESTORE", self.container, &self.ifname, stdin.as_bytes())
    }

    #[track_caller]
    fn del(&self) {
        self.host.plugin("portmap").del(self.container, &self.ifname, &self.conf).expect_ok();
    }
}

/// A port of all addresses, and of single ones.
fn all_to(port: u16) -> Vec<Value> {
    vec![
        tcp(18080, port),
        udp(18080, port),
        on("192.0.2.1", tcp(18081, port)),
        on("2001:db8:ffff::1", tcp(18082, port)),
    ]
}

/// The port of the container that all ports of the host lead to.
#[track_caller]
fn expect_at(outside: &Container, pod: &Pod, expected: Option<u16>) {
    for port in [8080, 8081, 8082] {
        let _server = pod.container.echo_server(port);
        let wanted = expected == Some(port);
        for (address, host_port) in
            [(HOST[0], 18080), (HOST[1], 18080), (HOST[0], 18081), (HOST[1], 18082)]
        {
            let answer = outside.tcp(at(address, host_port));
            assert_eq!(answer.is_ok(), wanted, "{address} {host_port} to {port}: {answer:?}");
        }
        let answer = outside.udp(at(HOST[0], 18080));
        assert_eq!(answer.is_ok(), wanted, "UDP to {port}: {answer:?}");
    }
}

fn the_other_takes_over(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    let before = host.snapshot();
    one.add().expect_result();
    two.add().expect_result();
    one.expect_checked();
    two.expect_checked();
    expect_at(&outside, &pod, Some(8080));
    // A second time as well.
    two.add().expect_result();
    one.add().expect_result();
    expect_at(&outside, &pod, Some(8080));
    one.del();
    two.expect_checked();
    expect_at(&outside, &pod, Some(8081));
    // It comes back, and has to wait in its turn.
    one.add().expect_result();
    one.expect_checked();
    two.expect_checked();
    expect_at(&outside, &pod, Some(8081));
    two.del();
    one.expect_checked();
    expect_at(&outside, &pod, Some(8080));
    one.del();
    two.del();
    expect_at(&outside, &pod, None);
    host.expect_unchanged_but(&before, &super::STAYS);
}

fn the_later_goes_first(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    one.add().expect_result();
    two.add().expect_result();
    two.del();
    let before = host.snapshot();
    two.add().expect_result();
    two.del();
    host.expect_unchanged(&before);
    two.del();
    host.expect_unchanged(&before);
    one.expect_checked();
    expect_at(&outside, &pod, Some(8080));
}

fn gc_hands_over(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    let before = host.snapshot();
    one.add().expect_result();
    two.add().expect_result();
    let collect = |network: &str, valid: Value| {
        let mut gc = portmap(backend, &[]);
        gc["name"] = network.into();
        gc["cni.dev/valid-attachments"] = valid.clone();
        gc["cni.dev/attachments"] = valid;
        host.plugin("portmap").gc(&gc).expect_ok();
    };
    let valid = json!([{"containerID": pod.container.id(), "ifname": "eth0"}]);
    let both = host.snapshot();
    collect("net", valid);
    host.expect_unchanged(&both);
    collect("net", json!([]));
    two.expect_checked();
    expect_at(&outside, &pod, Some(8081));
    one.add().expect_result();
    collect("net2", json!([]));
    one.expect_checked();
    expect_at(&outside, &pod, Some(8080));
    one.del();
    host.expect_unchanged_but(&before, &super::STAYS);
}

fn another_container(host: &Host, backend: &str) {
    let outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    one.add().expect_result();
    two.add().expect_result();
    let conf = portmap(backend, &[tcp(18080, 8080)]);
    let both = host.snapshot();
    other.map(host, &conf).expect_error(999, "container ctr-pod");
    host.expect_unchanged(&both);
    one.del();
    let last = host.snapshot();
    other.map(host, &conf).expect_error(999, "container ctr-pod");
    host.expect_unchanged(&last);
    expect_at(&outside, &pod, Some(8081));
    two.del();
    other.map(host, &conf).expect_result();
    other.check(host, &conf).expect_ok();
    // Nobody waits behind the back of another container.
    one.add().expect_error(999, "container ctr-other");
    other.unmap(host, &conf).expect_ok();
    expect_at(&outside, &pod, None);
}

/// Of overlapping ones the earlier one decides, but for what it does not have.
fn single_addresses(host: &Host, backend: &str) {
    let outside = host.outside();
    host.exec("ip address add 192.0.2.11/24 dev uplink");
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    let before = host.snapshot();
    let leads = |address: &str, port: u16| {
        let _server = pod.container.echo_server(port);
        outside.tcp(at(address, 18080)).is_ok()
    };
    let (all, single) =
        (one.with(&[tcp(18080, 8080)]), two.with(&[on("192.0.2.1", tcp(18080, 8081))]));
    all.add().expect_result();
    single.add().expect_result();
    all.check().expect_ok();
    single.check().expect_ok();
    assert!(leads(HOST[0], 8080) && leads("192.0.2.11", 8080));
    all.del();
    single.check().expect_ok();
    assert!(leads(HOST[0], 8081) && !leads("192.0.2.11", 8080));
    all.add().expect_result();
    all.check().expect_ok();
    single.check().expect_ok();
    assert!(leads(HOST[0], 8081) && leads("192.0.2.11", 8080));
    single.del();
    all.check().expect_ok();
    assert!(leads(HOST[0], 8080) && leads("192.0.2.11", 8080));
    all.del();
    host.expect_unchanged_but(&before, &super::STAYS);
}

fn adding_again(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    let before = host.snapshot();
    one.add().expect_result();
    two.add().expect_result();
    let elsewhere = one.with(&[tcp(18090, 8080)]);
    elsewhere.add().expect_result();
    elsewhere.check().expect_ok();
    two.check().expect_ok();
    expect_at(&outside, &pod, Some(8081));
    // The one that waits wants others.
    one.add().expect_result();
    let fewer = one.with(&all_to(8080)[1..]);
    fewer.add().expect_result();
    fewer.check().expect_ok();
    two.del();
    fewer.check().expect_ok();
    let _server = pod.container.echo_server(8080);
    outside.udp(at(HOST[0], 18080)).expect("taken over");
    assert!(outside.tcp(at(HOST[0], 18080)).is_err(), "not wanted any more");
    fewer.del();
    host.expect_unchanged_but(&before, &super::STAYS);
}

fn what_is_lost(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    let before = host.snapshot();
    one.add().expect_result();
    two.add().expect_result();
    let both = host.snapshot();
    one.restore().expect_ok();
    two.restore().expect_ok();
    host.expect_unchanged(&both);
    if backend == "nftables" {
        host.exec("nft delete set ip cni_hostport waiting");
        one.check().expect_ok();
        two.check().expect_error(999, "waiting");
        two.restore().expect_ok();
        two.check().expect_ok();
    }
    host.exec("nft flush ruleset");
    one.check().expect_error(999, "check port mappings");
    two.check().expect_error(999, "check port mappings");
    one.restore().expect_ok();
    two.restore().expect_ok();
    one.check().expect_ok();
    two.check().expect_ok();
    expect_at(&outside, &pod, Some(8080));
    one.del();
    two.check().expect_ok();
    expect_at(&outside, &pod, Some(8081));
    two.del();
    host.expect_unchanged_but(&before, &super::STAYS);
}

fn one_that_died(host: &Host, backend: &str) {
    let outside = host.outside();
    let (pod, heir) = (Pod::new(host, "pod"), Pod::new(host, "heir"));
    let one = Attachment::first(host, &pod, backend);
    let two = Attachment::another(host, &pod, backend, 2);
    one.add().expect_result();
    two.add().expect_result();
    pod.container.destroy();
    let conf = portmap(backend, &all_to(8080));
    super::ownership::take_over(host, &heir, &conf);
    heir.check(host, &conf).expect_ok();
    expect_at(&outside, &heir, Some(8080));
    // What the dead one waited for is not given to it.
    heir.unmap(host, &conf).expect_ok();
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("tcp . 18080 comment"), "{rules}");
    one.del();
    two.del();
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("18080"), "{rules}");
}

fn three_attachments(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let [two, three] = [2, 3].map(|number| Attachment::another(host, &pod, backend, number));
    let before = host.snapshot();
    for attachment in [&one, &two, &three] {
        attachment.add().expect_result();
    }
    two.del();
    one.check().expect_ok();
    three.check().expect_ok();
    two.add().expect_result();
    one.del();
    two.check().expect_ok();
    three.check().expect_ok();
    three.del();
    two.check().expect_ok();
    expect_at(&outside, &pod, Some(8081));
    two.del();
    host.expect_unchanged_but(&before, &super::STAYS);
}

fn two_interfaces(host: &Host, backend: &str) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, backend);
    let result = host.plugin("bridge").add(&pod.container, "eth1", &bridge()).expect_result();
    let conf = with_previous_result(&portmap(backend, &all_to(8081)), &result);
    let two = Attachment { host, container: &pod.container, ifname: "eth1".to_owned(), conf };
    one.add().expect_result();
    two.add().expect_result();
    one.check().expect_ok();
    two.check().expect_ok();
    expect_at(&outside, &pod, Some(8080));
    one.del();
    two.check().expect_ok();
    expect_at(&outside, &pod, Some(8081));
}

/// iptables' rules come first; the others are there when they go.
fn across_backends(host: &Host, first: &str, second: &str) {
    let outside = host.outside();
    let (pod, other) = (Pod::new(host, "pod"), Pod::new(host, "other"));
    let one = Attachment::first(host, &pod, first);
    let two = Attachment::another(host, &pod, second, 2);
    let before = host.snapshot();
    for (early, late, port) in [(&one, &two, 8081), (&two, &one, 8080)] {
        one.add().expect_result();
        two.add().expect_result();
        one.check().expect_ok();
        two.check().expect_ok();
        expect_at(&outside, &pod, Some(if first == "iptables" { 8080 } else { 8081 }));
        for backend in [first, second] {
            let conf = portmap(backend, &[tcp(18080, 8080)]);
            other.map(host, &conf).expect_error(999, "container ctr-pod");
        }
        early.del();
        late.check().expect_ok();
        expect_at(&outside, &pod, Some(port));
        late.del();
        host.expect_unchanged_but(&before, &super::STAYS);
    }
}

fn conditions_cannot_wait(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, "nftables");
    let mut two = Attachment::another(host, &pod, "nftables", 2);
    two.conf["conditionsV4"] = json!(["ip", "saddr", "192.0.2.0/24"]);
    one.add().expect_result();
    let before = host.snapshot();
    two.add().expect_error(999, "conditions cannot wait");
    host.expect_unchanged(&before);
    one.check().expect_ok();
    one.del();
    two.add().expect_result();
    two.check().expect_ok();
    // The other way round there is nothing under conditions that would wait.
    one.add().expect_result();
    one.check().expect_ok();
    two.check().expect_ok();
    two.del();
    one.check().expect_ok();
}

fn one_that_waits_and_fails_leaves_nothing(host: &Host) {
    let _outside = host.outside();
    let pod = Pod::new(host, "pod");
    let one = Attachment::first(host, &pod, "nftables");
    let two = Attachment::another(host, &pod, "nftables", 2);
    one.add().expect_result();
    two.add().expect_result();
    two.del();
    let before = host.snapshot();
    for call in ["sendto,sendmsg", "recvmsg,recvfrom"] {
        for nth in 1.. {
            let plugin = host.plugin("portmap").fail_own_call(call, "ENOMEM", nth);
            let outcome = plugin.add(two.container, &two.ifname, &two.conf);
            if outcome.success() {
                two.check().expect_ok();
                two.del();
            }
            host.expect_unchanged(&before);
            if !outcome.fault_fired() {
                break;
            }
        }
    }
    one.check().expect_ok();
}
