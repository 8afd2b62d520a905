//! sbr: containers with several interfaces, each with its own way out.

mod teardown;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Outcome, Snapshot, cases, with_previous_result};

use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ping] answers_leave_by_the_interface_the_question_came_by,
        [Bridge, Ping, Ipv6, OurPlugins] each_address_has_a_rule_and_a_table,
        // Upstream's takes a table that has routes and no rule.
        [Bridge, OurPlugins] tables_in_use_are_never_taken,
        // The rest is newer than Debian's package, or not so with upstream's.
        [Bridge, Ipv6, OurPlugins] gateways_of_the_configuration_come_first,
        [Bridge, Ipv6, OurPlugins] a_given_table_gets_rules_only,
        [Bridge, Ipv6, OurPlugins] hints_keep_the_subnets_in_the_main_table,
        [Bridge, Ipv6, OurPlugins] a_second_add_changes_nothing,
        [Bridge, OurPlugins] several_addresses_in_a_subnet,
        [Bridge, Ipv6, OurPlugins] routes_of_another_family_or_nobody_are_not_lost,
        [Bridge] comes_and_goes_at_every_version,
        [Bridge, OurPlugins] what_cannot_work_is_refused_and_changes_nothing,
        [Bridge, Ipv6, OurPlugins] check_names_what_is_missing,
        [Bridge, OurPlugins] status_tells_what_stands_in_the_way,
        [Bridge, OurPlugins] many_interfaces_at_once,
    };
    list.extend(teardown::list());
    list
}

/// A container with interfaces `eth0`, `net1`, `net2`, .. on networks of their
/// own, of which the first has the default routes.
struct Pod<'h> {
    host: &'h Host,
    container: Container,
    results: Vec<Value>,
}

fn ifname(n: usize) -> String {
    if n == 0 { "eth0".to_owned() } else { format!("net{n}") }
}

impl<'h> Pod<'h> {
    fn new(host: &'h Host, name: &str, interfaces: usize) -> Pod<'h> {
        let container = host.container(name);
        // The first time that lo comes up, some addresses stay.
        container.exec("ip link set lo up");
        let mut pod = Pod { host, container, results: Vec::new() };
        for n in 0..interfaces {
            let mut routes = json!([{"dst": format!("198.51.{n}.0/24")}]);
            if n == 0 {
                routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
            }
            pod.attach(n, &json!({"type": "static", "routes": routes, "addresses": [
                {"address": format!("10.{n}.0.2/24"), "gateway": format!("10.{n}.0.1")},
                {"address": format!("2001:db8:{n}::2/64"), "gateway": format!("2001:db8:{n}::1")},
            ]}));
        }
        pod
    }

    fn attach(&mut self, n: usize, ipam: &Value) {
        let keys = json!({"bridge": format!("br{n}"), "isGateway": true, "ipam": ipam});
        let conf = conf::bridge(self.host, keys);
        let plugin = self.host.plugin("bridge");
        self.results.push(plugin.add(&self.container, &ifname(n), &conf).expect_result());
        self.container.wait_for_addresses();
        self.host.wait_for_addresses();
    }

    fn conf(&self, n: usize, keys: Value) -> Value {
        with_previous_result(&conf::of_type(self.host, "sbr", keys), &self.results[n])
    }

    fn add(&self, n: usize, keys: Value) -> Outcome {
        self.host.plugin("sbr").add(&self.container, &ifname(n), &self.conf(n, keys))
    }

    fn check(&self, n: usize, keys: Value) -> Outcome {
        self.host.plugin("sbr").check(&self.container, &ifname(n), &self.conf(n, keys))
    }

    fn del(&self, n: usize, keys: Value) -> Outcome {
        self.host.plugin("sbr").del(&self.container, &ifname(n), &self.conf(n, keys))
    }

    /// The plugin before it finds its routes where they are now.
    fn check_bridge(&self, n: usize, result: &Value) -> Outcome {
        let keys = json!({"bridge": format!("br{n}"), "isGateway": true,
            "ipam": {"type": "static", "routes": self.results[n]["routes"], "addresses": [
                {"address": format!("10.{n}.0.2/24")}, {"address": format!("2001:db8:{n}::2/64")}]}});
        let bridge = with_previous_result(&conf::bridge(self.host, keys), result);
        self.host.plugin("bridge").check(&self.container, &ifname(n), &bridge)
    }

    fn snapshot(&self) -> Snapshot {
        self.container.network_snapshot()
    }

    /// `from 10.1.0.2 lookup 100`, without the kernel's own.
    fn rules(&self) -> Vec<String> {
        let text = self.container.exec("ip rule show") + &self.container.exec("ip -6 rule show");
        let rules = text.lines().filter_map(|line| Some(line.split_once('\t')?.1.trim()));
        let mut rules: Vec<_> =
            rules.filter(|rule| !rule.starts_with("from all")).map(str::to_owned).collect();
        rules.sort();
        rules
    }

    /// The routes of a table, without what the kernel adds to each.
    fn table(&self, table: impl ToString) -> Vec<String> {
        let routes = self.container.routes(&table.to_string());
        let cut = |route: &String| route.replace(" pref medium", "").trim().to_owned();
        let is_interesting = |route: &String| !route.starts_with("fe80::");
        let mut routes: Vec<_> = routes.iter().map(cut).filter(is_interesting).collect();
        routes.sort();
        routes
    }

    /// The interface and the gateway a packet goes by.
    fn way(&self, to: &str, from: &str) -> String {
        let from = if from.is_empty() { String::new() } else { format!("from {from}") };
        let answer = self.container.exec(format!("ip route get {to} {from}"));
        let words: Vec<_> = answer.split_whitespace().collect();
        let behind = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at + 1).map(|word| (*word).to_owned())
        };
        let device = behind("dev").expect("a device");
        behind("via").map_or(device.clone(), |via| format!("{device} via {via}"))
    }
}

fn answers_leave_by_the_interface_the_question_came_by(host: &Host) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod", 3);
    for n in 0..3 {
        outside.exec(format!("ip route add 10.{n}.0.0/24 via 192.0.2.1"));
    }
    // The host takes no packet that comes by the wrong bridge.
    host.set_sysctl("net/ipv4/conf/all/rp_filter", "1");
    outside.expect_ping("10.0.0.2");
    assert!(!outside.answers_ping("10.1.0.2") && !outside.answers_ping("10.2.0.2"));
    for n in 1..3 {
        pod.add(n, json!({})).expect_result();
    }
    for n in 0..3 {
        outside.expect_ping(&format!("10.{n}.0.2"));
        let server = pod.container.echo_server(80);
        let at = format!("10.{n}.0.2:80").parse().expect("an address");
        let seen = outside.tcp(at).expect("served").ip().to_string();
        assert_eq!(seen, "192.0.2.2");
        drop(server);
    }
    // What has no source yet goes the usual way.
    pod.container.expect_ping("192.0.2.2");
    for n in 1..3 {
        pod.del(n, json!({})).expect_ok();
    }
    assert!(!outside.answers_ping("10.1.0.2"));
    outside.expect_ping("10.0.0.2");
}

fn each_address_has_a_rule_and_a_table(host: &Host) {
    let outside = host.outside();
    let pod = Pod::new(host, "pod", 3);
    let eth0 = pod.table("main dev eth0");
    for n in 1..3 {
        let result = pod.add(n, json!({})).expect_result();
        assert_eq!(result, pod.results[n]);
    }
    let expected = [
        "from 10.1.0.2 lookup 100 proto 115",
        "from 10.2.0.2 lookup 102 proto 115",
        "from 2001:db8:1::2 lookup 101 proto 115",
        "from 2001:db8:2::2 lookup 103 proto 115",
    ];
    assert_eq!(pod.rules(), expected);
    for n in 1..3 {
        let (v4, v6) = (98 + 2 * n, 99 + 2 * n);
        let expected = [
            format!("10.{n}.0.0/24 dev net{n} proto 115 scope link src 10.{n}.0.2"),
            format!("198.51.{n}.0/24 via 10.{n}.0.1 dev net{n} proto 115"),
            format!("default via 10.{n}.0.1 dev net{n} proto 115"),
        ];
        assert_eq!(pod.table(v4), expected);
        let expected = [
            format!("2001:db8:{n}::/64 dev net{n} proto 115 metric 256"),
            format!("default via 2001:db8:{n}::1 dev net{n} proto 115 metric 1024"),
        ];
        assert_eq!(pod.table(v6), expected);
        assert!(pod.table(format!("main dev net{n}")).is_empty());
        // Its neighbours' link-local addresses are still there.
        assert!(!pod.container.routes(&format!("main dev net{n}")).is_empty());
        pod.check(n, json!({})).expect_ok();
        pod.check_bridge(n, &pod.results[n]).expect_ok();
    }
    assert_eq!(pod.table("main dev eth0"), eth0);
    for (to, from, way) in [
        ("192.0.2.2", "10.1.0.2", "net1 via 10.1.0.1"),
        ("192.0.2.2", "10.2.0.2", "net2 via 10.2.0.1"),
        ("192.0.2.2", "10.0.0.2", "eth0 via 10.0.0.1"),
        ("192.0.2.2", "", "eth0 via 10.0.0.1"),
        ("10.1.0.9", "10.1.0.2", "net1"),
        ("198.51.2.9", "10.2.0.2", "net2 via 10.2.0.1"),
        ("2001:db8:ffff::2", "2001:db8:1::2", "net1 via 2001:db8:1::1"),
        ("2001:db8:ffff::2", "2001:db8:2::2", "net2 via 2001:db8:2::1"),
        ("2001:db8:2::9", "2001:db8:2::2", "net2"),
    ] {
        assert_eq!(pod.way(to, from), way, "{to} from {from}");
    }
    outside.exec("ip -6 route add 2001:db8:2::/64 via 2001:db8:ffff::1");
    outside.expect_ping("2001:db8:2::2");
}

fn tables_in_use_are_never_taken(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    pod.container.exec("ip rule add from 192.0.2.9 lookup 100");
    pod.container.exec("ip route add 192.0.2.10 via 10.0.0.1 table 101");
    pod.container.exec("ip -6 rule add from 2001:db8::9 lookup 102");
    pod.container.exec("ip rule add fwmark 7 lookup 104");
    let inside = pod.snapshot();
    pod.add(1, json!({})).expect_result();
    assert!(pod.rules().contains(&"from 10.1.0.2 lookup 103 proto 115".to_owned()));
    assert!(pod.rules().contains(&"from 2001:db8:1::2 lookup 105 proto 115".to_owned()));
    assert_eq!(pod.table(101), ["192.0.2.10 via 10.0.0.1 dev eth0"]);
    pod.del(1, json!({})).expect_ok();
    inside.expect_same(&pod.snapshot());
}

fn gateways_of_the_configuration_come_first(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    // The default routes may be on the interface itself.
    for (n, keys, v4, v6) in [
        (1, json!({"gateways": ["10.1.0.9"]}), "net1 via 10.1.0.9", "net1 via 2001:db8:1::1"),
        (
            0,
            json!({"gateways": ["2001:db8:0::9", "10.0.0.9"]}),
            "eth0 via 10.0.0.9",
            "eth0 via 2001:db8::9",
        ),
    ] {
        let inside = pod.snapshot();
        let result = pod.add(n, keys.clone()).expect_result();
        assert_eq!(pod.way("192.0.2.2", &format!("10.{n}.0.2")), v4);
        assert_eq!(pod.way("2001:db8:ffff::2", &format!("2001:db8:{n}::2")), v6);
        pod.check(n, keys.clone()).expect_ok();
        // The result says which way it is, to CHECK of the plugin before it as well.
        let gateways: Vec<_> = result["routes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|route| route["gw"].as_str())
            .collect();
        let promised: &[&str] = if n == 0 { &["10.0.0.9", "2001:db8::9"] } else { &[] };
        assert_eq!(gateways, promised);
        pod.check_bridge(n, &result).expect_ok();
        pod.del(n, keys).expect_ok();
        inside.expect_same(&pod.snapshot());
    }
    // A default route keeps what is special about it.
    pod.container.exec("ip route replace default via 10.0.0.1 mtu 1300");
    pod.add(0, json!({})).expect_result();
    assert!(
        pod.table(100).contains(&"default via 10.0.0.1 dev eth0 proto 115 mtu 1300".to_owned())
    );
}

fn a_given_table_gets_rules_only(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    pod.container.exec("ip route add default via 10.1.0.1 dev net1 table 77");
    let (inside, keys) = (pod.snapshot(), json!({"table": 77, "gateways": ["zz"]}));
    for _ in 0..2 {
        pod.add(1, keys.clone()).expect_result();
        let rules = ["from 10.1.0.2 lookup 77 proto 115", "from 2001:db8:1::2 lookup 77 proto 115"];
        assert_eq!(pod.rules(), rules);
        assert_eq!(inside.section("route"), pod.snapshot().section("route"));
    }
    assert_eq!(pod.way("192.0.2.2", "10.1.0.2"), "net1 via 10.1.0.1");
    pod.check(1, keys.clone()).expect_ok();
    pod.check(1, json!({"table": 78})).expect_error(999, "the rule for packets from 10.1.0.2");
    pod.del(1, keys.clone()).expect_ok();
    inside.expect_same(&pod.snapshot());
    // From one kind to the other, and back.
    pod.add(1, json!({})).expect_result();
    pod.add(1, keys.clone()).expect_result();
    assert_eq!(inside.section("route"), pod.snapshot().section("route"));
    pod.add(1, json!({})).expect_result();
    assert_eq!(pod.rules()[0], "from 10.1.0.2 lookup 100 proto 115");
    pod.del(1, json!({})).expect_ok();
    inside.expect_same(&pod.snapshot());
}

fn hints_keep_the_subnets_in_the_main_table(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    let (inside, keys) = (pod.snapshot(), json!({"addSourceHints": true}));
    for _ in 0..2 {
        pod.add(1, keys.clone()).expect_result();
        let main = [
            "10.1.0.0/24 proto kernel scope link src 10.1.0.2",
            "2001:db8:1::/64 proto 115 src 2001:db8:1::2 metric 256",
        ];
        assert_eq!(pod.table("main dev net1"), main);
        pod.check(1, keys.clone()).expect_ok();
    }
    for (to, from, way) in [
        ("10.1.0.9", "", "net1"),
        ("2001:db8:1::9", "", "net1"),
        ("192.0.2.2", "10.1.0.2", "net1 via 10.1.0.1"),
        ("192.0.2.2", "", "eth0 via 10.0.0.1"),
    ] {
        assert_eq!(pod.way(to, from), way, "{to} from {from}");
    }
    pod.del(1, keys).expect_ok();
    inside.expect_same(&pod.snapshot());
}

fn a_second_add_changes_nothing(host: &Host) {
    let pod = Pod::new(host, "pod", 3);
    let before = pod.snapshot();
    pod.add(1, json!({})).expect_result();
    pod.add(2, json!({})).expect_result();
    let (inside, files) = (pod.snapshot(), host.snapshot());
    pod.add(1, json!({})).expect_result();
    pod.add(2, json!({})).expect_result();
    inside.expect_same(&pod.snapshot());
    host.expect_unchanged(&files);
    pod.del(1, json!({})).expect_ok();
    pod.check(2, json!({})).expect_ok();
    pod.del(2, json!({})).expect_ok();
    before.expect_same(&pod.snapshot());
}

fn several_addresses_in_a_subnet(host: &Host) {
    let mut pod = Pod::new(host, "pod", 1);
    pod.attach(
        1,
        &json!({"type": "static", "addresses": [
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"}, {"address": "10.1.0.3/24"},
        {"address": "10.3.0.2/24", "gateway": "10.3.0.1"}]}),
    );
    let inside = pod.snapshot();
    pod.add(1, json!({})).expect_result();
    let rules = ["10.1.0.2 lookup 100", "10.1.0.3 lookup 101", "10.3.0.2 lookup 102"];
    assert_eq!(pod.rules(), rules.map(|rule| format!("from {rule} proto 115")));
    assert_eq!(pod.way("192.0.2.2", "10.1.0.2"), "net1 via 10.1.0.1");
    assert_eq!(pod.way("192.0.2.2", "10.3.0.2"), "net1 via 10.3.0.1");
    assert_eq!(pod.way("192.0.2.2", "10.1.0.3"), "net1 via 10.1.0.1");
    pod.check(1, json!({})).expect_ok();
    pod.del(1, json!({})).expect_ok();
    inside.expect_same(&pod.snapshot());
    // Without a gateway only the subnet is another way.
    let ips = json!([{"address": "10.1.0.2/24"}]);
    let result = json!({"cniVersion": "1.1.0", "ips": ips});
    let conf = with_previous_result(&pod.conf(1, json!({})), &result);
    host.plugin("sbr").add(&pod.container, "net1", &conf).expect_result();
    assert_eq!(pod.way("10.1.0.9", "10.1.0.2"), "net1");
    assert_eq!(pod.way("192.0.2.2", "10.1.0.2"), "eth0 via 10.0.0.1");
    pod.del(1, json!({})).expect_ok();
    inside.expect_same(&pod.snapshot());
}

fn routes_of_another_family_or_nobody_are_not_lost(host: &Host) {
    let mut pod = Pod::new(host, "pod", 1);
    pod.attach(1, &json!({"type": "static", "addresses": [{"address": "10.1.0.2/24"}]}));
    pod.container.exec("ip address add 2001:db8:9::2/64 dev net1 nodad");
    pod.container.exec("ip route add 192.0.2.77 via 10.77.0.1 dev net1 onlink metric 5");
    pod.container.exec("ip route add 192.0.2.78 dev net1");
    let (inside, v6) = (pod.snapshot(), pod.container.exec("ip -6 route show"));
    pod.add(1, json!({})).expect_result();
    assert_eq!(pod.container.exec("ip -6 route show"), v6);
    assert_eq!(pod.way("192.0.2.77", "10.1.0.2"), "net1 via 10.77.0.1");
    assert_eq!(pod.way("192.0.2.78", "10.1.0.2"), "net1");
    pod.check(1, json!({})).expect_ok();
    pod.del(1, json!({})).expect_ok();
    inside.expect_same(&pod.snapshot());
}

fn comes_and_goes_at_every_version(host: &Host) {
    for version in conf::versions(host) {
        let pod = Pod::new(host, &format!("at-{version}"), 2);
        let ip = json!({"version": "4", "address": "10.1.0.2/24", "gateway": "10.1.0.1"});
        let previous = match version.as_str() {
            "0.1.0" | "0.2.0" => json!({"cniVersion": version,
                "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1"}}),
            _ => json!({"cniVersion": version, "ips": [ip]}),
        };
        let conf = json!({"cniVersion": version, "name": "net", "type": "sbr",
            "prevResult": previous});
        let result = host.plugin("sbr").add(&pod.container, "net1", &conf).expect_result();
        assert_eq!(result["cniVersion"], version.as_str());
        assert_eq!(pod.way("192.0.2.2", "10.1.0.2"), "net1 via 10.1.0.1");
        if version.as_str() >= "0.4.0" {
            host.plugin("sbr").check(&pod.container, "net1", &conf).expect_ok();
        }
        host.plugin("sbr").del(&pod.container, "net1", &conf).expect_ok();
        assert!(pod.rules().is_empty(), "{:?}", pod.rules());
    }
}

fn what_cannot_work_is_refused_and_changes_nothing(host: &Host) {
    let pod = Pod::new(host, "pod", 2);
    host.exec("mkdir -p -m 700 /run/cni/oxcni/sbr");
    let (before, inside) = (host.snapshot(), pod.snapshot());
    for (keys, code, part) in [
        (json!({"table": 0}), 7, "table 0 is out of range"),
        (json!({"table": -1}), 7, "out of range"),
        (json!({"gateways": ["zz"]}), 7, "invalid static gateway IP address: zz"),
        (json!({"gateways": ["10.1.0.1", "10.1.0.3"]}), 7, "multiple IPv4 addresses"),
        (json!({"gateways": ["1.1.1.1", "::1", "::2"]}), 7, "more than 2 entries"),
        // Nobody there.
        (json!({"gateways": ["192.0.2.9"]}), 999, "default via 192.0.2.9"),
    ] {
        pod.add(1, keys).expect_error(code, part);
        inside.expect_same(&pod.snapshot());
        host.expect_unchanged(&before);
    }
    let plugin = host.plugin("sbr");
    let alone = conf::of_type(host, "sbr", json!({}));
    plugin.add(&pod.container, "net1", &alone).expect_error(7, "must be called as chained plugin");
    plugin.check(&pod.container, "net1", &alone).expect_error(7, "prevResult missing");
    let conf = pod.conf(1, json!({}));
    plugin.add(&pod.container, "eth0", &conf).expect_error(7, "No IP addresses supplied");
    let loose = with_previous_result(
        &alone,
        &json!({"cniVersion": "1.1.0",
        "ips": [{"address": "10.1.0.2/24"}]}),
    );
    plugin.add(&pod.container, "net9", &loose).expect_error(999, "no such link");
    // Nothing is made where the namespace should be.
    let gone = host.container("gone");
    gone.destroy();
    plugin.add(&gone, "net1", &loose).expect_error(8, "no such file");
    assert!(!gone.path().exists());
    inside.expect_same(&pod.snapshot());
    host.expect_unchanged(&before);
}

fn check_names_what_is_missing(host: &Host) {
    for (command, part) in [
        ("ip rule del from 10.1.0.2", "the rule for packets from 10.1.0.2 is missing"),
        ("ip -6 rule del from 2001:db8:1::2", "packets from 2001:db8:1::2 is missing"),
        ("ip route del default table 100", "route default via 10.1.0.1"),
        ("ip route del 10.1.0.0/24 table 100", "route 10.1.0.0/24"),
        ("ip -6 route flush table 101", "table 101"),
        ("ip link del net1", "no such link"),
    ] {
        let pod = Pod::new(host, "pod", 2);
        pod.add(1, json!({})).expect_result();
        pod.check(1, json!({})).expect_ok();
        let before = host.snapshot();
        pod.container.exec(command);
        pod.check(1, json!({})).expect_error(999, part);
        host.expect_unchanged_but(&before, &["veth"]);
        pod.del(1, json!({})).expect_ok();
        pod.container.destroy();
    }
}

fn status_tells_what_stands_in_the_way(host: &Host) {
    let status = |keys: Value| host.plugin("sbr").status(&conf::of_type(host, "sbr", keys));
    let before = host.snapshot();
    status(json!({})).expect_ok();
    status(json!({"table": 7})).expect_ok();
    host.expect_unchanged(&before);
    status(json!({"gateways": ["zz"]})).expect_error(7, "zz");
    host.write("/run/cni/oxcni/sbr", "");
    status(json!({})).expect_error(50, "/run/cni/oxcni/sbr");
}

fn many_interfaces_at_once(host: &Host) {
    const COUNT: usize = 8;
    let pod = Pod::new(host, "pod", COUNT);
    let inside = pod.snapshot();
    host.parallel(COUNT, |n| drop(pod.add(n, json!({})).expect_result()));
    let tables: std::collections::BTreeSet<_> = pod
        .rules()
        .iter()
        .filter_map(|rule| Some(rule.split("lookup ").nth(1)?.to_owned()))
        .collect();
    assert_eq!((pod.rules().len(), tables.len()), (2 * COUNT, 2 * COUNT), "{:?}", pod.rules());
    for n in 0..COUNT {
        let way = format!("{} via 10.{n}.0.1", ifname(n));
        assert_eq!(pod.way("192.0.2.2", &format!("10.{n}.0.2")), way);
    }
    host.parallel(COUNT, |n| pod.check(n, json!({})).expect_ok());
    host.parallel(COUNT, |n| pod.del(n, json!({})).expect_ok());
    inside.expect_same(&pod.snapshot());
}
