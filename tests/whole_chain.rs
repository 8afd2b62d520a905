//! Chained plugins behind a bridge, as one: driven by `cnitool`, with real
//! packets. sbr is behind that of a second interface, where it belongs, and behind
//! flannel's, where all that may stand behind an interface stands behind one.

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, peer_folder};

use crate::cnitool::{cnitool_env, cnitool_with};
use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Shaping, Ifb] many_at_once,
    };
    for case in cases! {
        [Bridge, Shaping, Ifb, Ping, Nft] works_as_one_0_4_0,
        [Bridge, Shaping, Ifb, Ping, Nft] works_as_one_1_0_0,
        [Bridge, Shaping, Ifb, Ping, Nft] works_as_one_1_1_0,
        [Bridge, Shaping, Ifb, Ping, Iptables] works_as_one_by_iptables,
        [Bridge, Shaping, Ifb, Ping, Nft] works_as_one_behind_flannel_0_4_0,
        [Bridge, Shaping, Ifb, Ping, Nft] works_as_one_behind_flannel_1_0_0,
        [Bridge, Shaping, Ifb, Ping, Nft] works_as_one_behind_flannel_1_1_0,
        [Bridge, Shaping, Ifb, Ping, Nft, Vrf] works_as_one_in_a_vrf,
        [Bridge, Shaping, Ifb] gc_sweeps_the_whole_chain,
        [Bridge, Shaping, Ifb] a_failure_at_the_end_undoes_the_whole_chain,
        [Bridge, Shaping, Ifb, Nft, Iptables, PeerPlugins] after_a_rollback_a_gc_sweeps_the_rest,
    } {
        list.push(case.ours_only());
    }
    list
}

/// The plugins, in the order in which they are usually chained.
pub(crate) fn plugins(backend: Option<&str>) -> Vec<Value> {
    let mut list = vec![
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
            "ipMasq": true, "mtu": 1450,
            "ipam": conf::leased(&["10.1.0.0/24", "2001:db8:1::/64"])}),
        json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}),
        json!({"type": "firewall"}),
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        json!({"type": "tuning", "mtu": 1400, "sysctl": {"net.core.somaxconn": "500"}}),
    ];
    if let Some(backend) = backend {
        list[0]["ipMasqBackend"] = backend.into();
        list[1]["backend"] = backend.into();
        list[2]["backend"] = backend.into();
    }
    list
}

pub(crate) fn write_chain(host: &Host, version: &str, plugins: &[Value]) {
    let list = json!({"cniVersion": version, "name": "net", "plugins": plugins});
    host.write("/etc/cni/net.d/10-net.conflist", list.to_string());
    // Gateways switch it on for the host, and it stays.
    for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        host.set_sysctl(name, "1");
    }
    // An address that is still being checked answers nobody.
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
}

/// A second network for the same containers.
pub(crate) fn write_side_chain(host: &Host, version: &str) {
    let list = json!({"cniVersion": version, "name": "side", "plugins": [
        {"type": "bridge", "bridge": "cni1", "isGateway": true,
            "ipam": conf::leased(&["10.2.0.0/24", "2001:db8:2::/64"])},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "mtu": 1300, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}},
        {"type": "sbr"},
    ]});
    host.write("/etc/cni/net.d/20-side.conflist", list.to_string());
}

/// A port of the host of its own, and limits.
pub(crate) fn capabilities(port: u16) -> String {
    json!({
        "portMappings": [
            {"hostPort": port, "containerPort": 8080, "protocol": "tcp"},
            {"hostPort": port, "containerPort": 8080, "protocol": "udp"},
        ],
        "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000,
            "egressRate": 80_000_000, "egressBurst": 8_000_000},
    })
    .to_string()
}

#[track_caller]
fn run(host: &Host, verb: &str, container: &Container, port: u16) -> String {
    run_line(host, &format!("{verb} net {}", container.path().display()), port)
}

#[track_caller]
fn run_line(host: &Host, line: &str, port: u16) -> String {
    let output = cnitool_with(host, &capabilities(port), line);
    assert!(output.success(), "{output}");
    output.stdout
}

/// Attaches, and gives the addresses.
#[track_caller]
fn add(host: &Host, container: &Container, port: u16) -> Vec<String> {
    addresses(&run(host, "add", container, port))
}

#[track_caller]
pub(crate) fn addresses(stdout: &str) -> Vec<String> {
    let result: Value = serde_json::from_str(stdout).expect("a result");
    let ips = result["ips"].as_array().expect("a list");
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next().map(str::to_owned);
    ips.iter().map(|ip| address(ip).expect("an address")).collect()
}

/// What is shared, and stays: the bridge, folders, and marks of last addresses.
pub(crate) const STAYS: &[&str] = &["cni0", "cni1", "/var/lib/cni", "/run/cni"];

fn works_as_one_0_4_0(host: &Host) {
    works_as_one(host, "0.4.0", None);
}

fn works_as_one_1_0_0(host: &Host) {
    works_as_one(host, "1.0.0", None);
}

fn works_as_one_1_1_0(host: &Host) {
    works_as_one(host, "1.1.0", None);
}

fn works_as_one_by_iptables(host: &Host) {
    works_as_one(host, "1.1.0", Some("iptables"));
}

fn works_as_one(host: &Host, version: &str, backend: Option<&str>) {
    let outside = host.outside();
    outside.exec("ip route add 10.1.0.0/24 via 192.0.2.1");
    write_chain(host, version, &plugins(backend));
    write_side_chain(host, version);
    let (one, two) = (host.container("one"), host.container("two"));
    // The shared chains of the packet filter stay after the first.
    add(host, &one, 18080);
    run_line(host, "add -i eth1 side /run/netns/one", 0);
    run_line(host, "del -i eth1 side /run/netns/one", 0);
    run(host, "del", &one, 18080);
    let before = host.snapshot();
    for _ in 0..2 {
        let own = add(host, &one, 18080);
        let others = add(host, &two, 18081);
        for address in addresses(&run_line(host, "add -i eth1 side /run/netns/one", 0)) {
            host.expect_ping(&address);
        }
        for address in &others {
            one.expect_ping(address);
            host.expect_ping(address);
        }
        assert_eq!(one.sysctl("net/core/somaxconn").as_deref(), Some("500"));
        let server = one.echo_server(8080);
        let port = |address: &str, port: u16| {
            format!("{address}:{port}").parse().expect("an address and a port")
        };
        for (who, answer) in [
            ("outside", outside.tcp(port("192.0.2.1", 18080))),
            ("outside, by UDP", outside.udp(port("192.0.2.1", 18080))),
            ("outside, by IPv6", outside.tcp(port("[2001:db8:ffff::1]", 18080))),
            ("host", host.tcp(port("192.0.2.1", 18080))),
            ("host, at the loopback", host.tcp(port("127.0.0.1", 18080))),
            ("the container itself", one.tcp(port("10.1.0.1", 18080))),
            ("its neighbour", two.tcp(port("10.1.0.1", 18080))),
        ] {
            assert!(answer.is_ok(), "{who} to {own:?}: {answer:?}");
        }
        assert!(outside.tcp(port("192.0.2.1", 18081)).is_err(), "nobody listens there");
        drop(server);
        run_line(host, "check -i eth1 side /run/netns/one", 0);
        run_line(host, "del -i eth1 side /run/netns/one", 0);
        for (container, port) in [(&one, 18080), (&two, 18081)] {
            run(host, "check", container, port);
            run(host, "del", container, port);
            run(host, "del", container, port);
            assert_eq!(container.links(), ["lo"]);
        }
        host.expect_unchanged_but(&before, STAYS);
    }
}

fn works_as_one_behind_flannel_0_4_0(host: &Host) {
    works_as_one_behind_flannel(host, "0.4.0");
}

fn works_as_one_behind_flannel_1_0_0(host: &Host) {
    works_as_one_behind_flannel(host, "1.0.0");
}

fn works_as_one_behind_flannel_1_1_0(host: &Host) {
    works_as_one_behind_flannel(host, "1.1.0");
}

fn works_as_one_behind_flannel(host: &Host, version: &str) {
    host.write(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\n\
         FLANNEL_IPV6_NETWORK=2001:db8:1::/48\nFLANNEL_IPV6_SUBNET=2001:db8:1:17::1/64\n\
         FLANNEL_IPMASQ=false\n",
    );
    let mut list = plugins(None);
    list[0] =
        json!({"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
    // Their way out is another one than the bridge says.
    list.push(json!({"type": "sbr", "addSourceHints": true, "gateways": ["10.1.17.250"]}));
    host.exec("ip address add 10.1.17.250/32 dev lo");
    write_chain(host, version, &list);
    let (one, two) = (host.container("one"), host.container("two"));
    add(host, &one, 18080);
    run(host, "del", &one, 18080);
    let outside = host.outside();
    host.wait_for_addresses();
    let before = host.snapshot();
    for _ in 0..2 {
        add(host, &one, 18080);
        let with_one = host.snapshot();
        for address in add(host, &two, 18081) {
            one.expect_ping(&address);
            host.expect_ping(&address);
        }
        expect_published(host, &outside, &one);
        assert!(one.routes("100").join("\n").contains("default via 10.1.17.250"));
        run(host, "check", &one, 18080);
        run(host, "check", &two, 18081);
        // Older versions have no such verb.
        if version == "1.1.0" {
            two.destroy();
            let gc = cnitool_with(host, "{}", "gc net --keep-existing");
            assert!(gc.success(), "{gc}");
            host.expect_unchanged_but(&with_one, &[STAYS, &["/run/netns/two"]].concat());
            two.recreate();
        } else {
            run(host, "del", &two, 18081);
            host.expect_unchanged_but(&with_one, STAYS);
        }
        run(host, "check", &one, 18080);
        run(host, "del", &one, 18080);
        run(host, "del", &one, 18080);
        assert_eq!(one.links(), ["lo"]);
        for folder in ["/var/lib/cni/flannel", "/run/cni/oxcni/sbr", "/run/cni/tuning"] {
            assert!(host.files(folder).is_empty(), "{folder}");
        }
        host.expect_unchanged_but(&before, STAYS);
    }
}

/// Port 18080 of the host leads to the container's 8080.
#[track_caller]
fn expect_published(host: &Host, outside: &Container, container: &Container) {
    let _server = container.echo_server(8080);
    let at = "192.0.2.1:18080".parse().expect("an address and a port");
    for (who, answer) in [("outside", outside.tcp(at)), ("host", host.tcp(at))] {
        assert!(answer.is_ok(), "{who}: {answer:?}");
    }
}

fn works_as_one_in_a_vrf(host: &Host) {
    let mut list = plugins(None);
    list[0]["isDefaultGateway"] = true.into();
    // The server is not bound to the VRF.
    list[4]["sysctl"]["net.ipv4.tcp_l3mdev_accept"] = "1".into();
    list.push(json!({"type": "vrf", "vrfname": "blue"}));
    write_chain(host, "1.1.0", &list);
    let one = host.container("one");
    let outside = host.outside();
    add(host, &one, 18080);
    run(host, "del", &one, 18080);
    host.wait_for_addresses();
    let before = host.snapshot();
    for address in add(host, &one, 18080) {
        host.expect_ping(&address);
    }
    expect_published(host, &outside, &one);
    run(host, "check", &one, 18080);
    run(host, "del", &one, 18080);
    assert_eq!(one.links(), ["lo"]);
    host.expect_unchanged_but(&before, STAYS);
    add(host, &one, 18080);
    one.destroy();
    let gc = cnitool_with(host, "{}", "gc net --keep-existing");
    assert!(gc.success(), "{gc}");
    host.expect_unchanged_but(&before, &[STAYS, &["/run/netns/one"]].concat());
}

fn many_at_once(host: &Host) {
    write_chain(host, "1.0.0", &plugins(None));
    let containers: Vec<_> = (0..8).map(|n| host.container(&format!("c{n}"))).collect();
    add(host, &containers[0], 18000);
    run(host, "del", &containers[0], 18000);
    let before = host.snapshot();
    let port = |n: usize| 18000 + u16::try_from(n).expect("few");
    let mut all = host.parallel(containers.len(), |n| add(host, &containers[n], port(n)));
    let count = all.iter().map(Vec::len).sum::<usize>();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), count), (containers.len(), 2 * containers.len()));
    host.parallel(containers.len(), |n| run(host, "del", &containers[n], port(n)));
    host.expect_unchanged_but(&before, STAYS);
}

/// Half of the containers are gone without a DEL.
fn gc_sweeps_the_whole_chain(host: &Host) {
    write_chain(host, "1.1.0", &plugins(None));
    let (one, two) = (host.container("one"), host.container("two"));
    add(host, &one, 18080);
    let before = host.snapshot();
    add(host, &two, 18081);
    two.destroy();
    let gc = cnitool_with(host, "{}", "gc net --keep-existing");
    assert!(gc.success(), "{gc}");
    host.expect_unchanged_but(&before, &[STAYS, &["/run/netns/two"]].concat());
    run(host, "check", &one, 18080);
    // Its port is free again, and so is its address.
    two.recreate();
    add(host, &two, 18081);
    run(host, "check", &two, 18081);
}

/// Upstream's DEL knows nothing of nf_tables.
fn after_a_rollback_a_gc_sweeps_the_rest(host: &Host) {
    let list = plugins(Some("nftables"));
    let one = host.container("one");
    let capabilities = capabilities(18080);
    let folder = peer_folder().display().to_string();
    let upstreams = [("CNI_PATH", folder.as_str()), ("CAP_ARGS", &capabilities)];
    let roll_back_and_sweep = || {
        write_chain(host, "1.0.0", &list);
        add(host, &one, 18080);
        let del = || cnitool_env(host, "del net /run/netns/one", &upstreams);
        // It fails once for want of a chain that nobody made.
        let (first, second) = (del(), del());
        assert!(second.success(), "{first}\n{second}");
        assert_eq!(one.links(), ["lo"]);
        let rules = host.exec("nft list ruleset");
        assert!(rules.contains("10.1.0."), "upstream swept it all: {rules}");
        // Before 1.1.0 there is no such verb.
        write_chain(host, "1.1.0", &list);
        let gc = cnitool_with(host, "{}", "gc net --all");
        assert!(gc.success(), "{gc}");
    };
    // iptables leaves its empty tables.
    roll_back_and_sweep();
    let before = host.snapshot();
    roll_back_and_sweep();
    host.expect_unchanged_but(&before, STAYS);
}

fn a_failure_at_the_end_undoes_the_whole_chain(host: &Host) {
    let mut list = plugins(None);
    write_chain(host, "1.1.0", &list);
    let one = host.container("one");
    add(host, &one, 18080);
    run(host, "del", &one, 18080);
    let before = host.snapshot();
    list.push(json!({"type": "tuning", "dataDir": "/run/cni/other",
        "sysctl": {"net.ipv4.no_such_parameter": "1"}}));
    write_chain(host, "1.1.0", &list);
    let before_list = before.without(&["10-net.conflist"]);
    let failed = cnitool_with(host, &capabilities(18080), "add net /run/netns/one");
    assert!(!failed.success() && failed.stderr.contains("no_such_parameter"), "{failed}");
    host.expect_unchanged_but(&before_list, &[STAYS, &["10-net.conflist"]].concat());
    assert_eq!(one.links(), ["lo"]);
}
