//! The test kit itself: hosts are private, snapshots see what they must, and
//! nothing leaks.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [] a_host_starts_empty,
        [] two_hosts_do_not_see_each_other,
        [] the_machine_is_untouched,
        [Bridge] a_host_vanishes_with_its_thread,
        [] containers_come_and_go,
        [] a_snapshot_of_nothing_new_is_equal,
        [] a_snapshot_sees_rules_and_routes,
        [] a_snapshot_sees_sysctls_and_files,
        [Nft] a_snapshot_sees_nft_rules,
        [Iptables] a_snapshot_sees_iptables_rules,
        [Bridge] a_snapshot_sees_links_and_addresses,
        [Bridge] a_snapshot_sees_ports_and_neighbours,
        [BridgeVlan] a_snapshot_sees_vlans,
        [Shaping] a_snapshot_sees_qdiscs_and_filters,
        [Bridge] two_hosts_built_alike_have_equal_normal_forms,
        [Bridge, Ping] outside_is_reached_from_the_host,
        [Bridge] servers_tell_where_clients_come_from,
        [Bridge] a_capture_sees_announcements,
        [] commands_run_at_once,
        [Dummy] a_dummy_link,
        [Vlan] a_vlan_link,
        [Ipvlan] an_ipvlan_link,
        [Macvlan] a_macvlan_link,
        [Vrf] a_vrf,
        [Tun] a_tap_device,
        [Ifb] an_ifb_link,
        [PeerPlugins] a_plugin_call_is_judged,
        [PeerPlugins] a_plugin_call_has_the_environment_that_was_asked_for,
        [PeerPlugins, Strace] a_fault_meets_the_call_it_names,
        [RealRoot] root_is_real,
        [UserNamespaces] a_user_namespace_has_a_host_as_well,
    };
    list.push(Case::pure("selftest::a_case_without_a_host", || {
        assert_eq!(testkit::unified_diff(&[], &[]), None);
    }));
    list
}

fn a_host_starts_empty(host: &Host) {
    assert_eq!(host.links(), ["lo"]);
    assert_eq!(host.addresses("lo"), ["127.0.0.1/8", "::1/128"]);
    assert!(host.files("/var/lib/cni").is_empty());
    assert!(host.files("/etc/cni").is_empty());
    assert_eq!(host.routes("main"), Vec::<String>::new());
}

fn two_hosts_do_not_see_each_other(host: &Host) {
    host.write("/run/mark", "mine");
    host.exec("ip link set lo mtu 1400");
    Host::run(|other| {
        assert!(!Path::new("/run/mark").exists());
        assert_eq!(other.link("lo").expect("it is there")["mtu"], 65536);
        other.write("/run/mark", "theirs");
    });
    assert_eq!(fs::read_to_string("/run/mark").expect("it is ours"), "mine");
}

fn the_machine_is_untouched(host: &Host) {
    let private = ["/run", "/var/lib/cni", "/etc/cni"];
    // The main thread never leaves the machine's own namespaces.
    let machine = Path::new("/proc/self/root");
    let own_net = fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let machine_net = fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_ne!(own_net, machine_net);
    for folder in private {
        let mark = format!("{folder}/oxcni-selftest-mark");
        host.write(&mark, "private");
        let seen = machine.join(mark.trim_start_matches('/'));
        assert!(!seen.exists(), "{mark} is on the machine");
    }
    let present = || private.map(|folder| machine.join(folder.trim_start_matches('/')).exists());
    let before = present();
    Host::run(|other| drop(other.container("pod")));
    assert_eq!(before, present());
}

fn a_host_vanishes_with_its_thread(host: &Host) {
    let thread = fs::read_link("/proc/thread-self").expect("/proc is mounted");
    let here = format!("/proc/{}/ns/net", thread.display());
    // A veth pair goes when either end's namespace goes, and nothing but a mount
    // in the other host's mount namespace holds this container's.
    Host::run(|other| {
        let pod = other.container("pod");
        pod.exec(format!("ip link add inner type veth peer name outer netns {here}"));
    });
    host.wait_until("the other host's container is gone", || host.links() == ["lo"]);
}

fn containers_come_and_go(host: &Host) {
    let before = host.snapshot();
    let pod = host.container("pod");
    assert_eq!(pod.links(), ["lo"]);
    assert_eq!(pod.exec("ip netns identify").trim(), "pod");
    assert_eq!(host.snapshot().section("file").len(), before.section("file").len() + 2);
    pod.exec("ip link set lo mtu 1300");
    assert_eq!(host.link("lo").expect("it is there")["mtu"], 65536);

    pod.make_stale_file();
    assert!(pod.path().is_file());
    pod.recreate();
    assert_eq!(pod.link("lo").expect("it is new")["mtu"], 65536);
    pod.destroy();
    assert!(!pod.path().exists());
    host.expect_unchanged_but(&before, &["/run/netns"]);
}

fn a_snapshot_of_nothing_new_is_equal(host: &Host) {
    let before = host.snapshot();
    assert!(before.section("link").len() == 1 && before.section("address").len() == 2, "{before}");
    host.expect_unchanged(&before);
}

/// The section in which the command makes a difference, and only there.
#[track_caller]
fn expect_difference(host: &Host, commands: &[&str], sections: &[&str]) {
    let before = host.snapshot();
    for command in commands {
        host.exec(*command);
    }
    let after = host.snapshot();
    let diff = before.diff(&after).unwrap_or_else(|| panic!("{commands:?} went unseen\n{after}"));
    for section in sections {
        let seen = before.section(section) != after.section(section);
        assert!(seen, "{commands:?} made no difference in {section}\n{diff}");
    }
}

fn a_snapshot_sees_rules_and_routes(host: &Host) {
    expect_difference(host, &["ip rule add from 10.9.0.0/16 table 99"], &["rule"]);
    expect_difference(host, &["ip -6 rule add from 2001:db8::/64 table 99"], &["rule"]);
    expect_difference(host, &["ip route add 10.8.0.0/16 dev lo table 99"], &["route"]);
    expect_difference(host, &["ip -6 route add 2001:db8:8::/48 dev lo"], &["route"]);
    expect_difference(host, &["ip route change 10.8.0.0/16 dev lo table 99 mtu 1200"], &["route"]);
}

fn a_snapshot_sees_sysctls_and_files(host: &Host) {
    let before = host.snapshot();
    host.set_sysctl("net/ipv4/ip_forward", "1");
    host.write("/var/lib/cni/networks/net/10.1.0.2", "ctr\r\neth0");
    let diff = before.diff(&host.snapshot()).expect("two changes");
    assert!(diff.contains("- sysctl: net/ipv4/ip_forward = 0"), "{diff}");
    assert!(diff.contains("+ sysctl: net/ipv4/ip_forward = 1"), "{diff}");
    assert!(diff.contains(r#"/var/lib/cni/networks/net/10.1.0.2 644 0:0 "ctr\r\neth0""#), "{diff}");
    host.set_sysctl("net/ipv4/ip_forward", "0");
    fs::remove_dir_all("/var/lib/cni/networks").expect("it is ours");
    host.expect_unchanged(&before);
}

fn a_snapshot_sees_nft_rules(host: &Host) {
    expect_difference(host, &["nft add table inet ours"], &["nft"]);
    let rule = "nft add chain inet ours forward { type filter hook forward priority 0 ; }";
    expect_difference(host, &[rule], &["nft"]);
}

fn a_snapshot_sees_iptables_rules(host: &Host) {
    expect_difference(host, &["iptables -w -N OURS"], &["iptables"]);
    expect_difference(host, &["ip6tables -w -t nat -N OURS"], &["ip6tables"]);
    let before = host.snapshot();
    host.exec("iptables -w -A OURS -j ACCEPT");
    host.exec("iptables -w -F OURS");
    host.expect_unchanged(&before);
}

fn a_snapshot_sees_links_and_addresses(host: &Host) {
    let before = host.snapshot();
    expect_difference(host, &["ip link add one type veth peer name two"], &["link", "sysctl"]);
    expect_difference(host, &["ip address add 10.1.0.1/24 dev one"], &["address"]);
    expect_difference(host, &["ip link set one up", "ip link set two up"], &["link", "route"]);
    expect_difference(host, &["ip link set one mtu 1400"], &["link"]);
    expect_difference(host, &["ip link property add dev one altname uno"], &["link"]);
    assert_eq!(host.link("uno").expect("by altname")["ifname"], "one");
    assert_eq!(host.addresses("one"), ["10.1.0.1/24"]);
    assert_eq!(host.mac("one"), host.mac("uno"));
    host.exec("ip link del one");
    host.expect_unchanged(&before);
}

fn a_snapshot_sees_ports_and_neighbours(host: &Host) {
    host.exec("ip link add cni0 type bridge");
    host.exec("ip link add one type veth peer name two");
    expect_difference(host, &["ip link set one master cni0"], &["link", "port"]);
    expect_difference(host, &["bridge link set dev one hairpin on"], &["port"]);
    expect_difference(host, &["bridge fdb add 02:00:00:00:00:09 dev one master static"], &["fdb"]);
    let neighbour = "ip neighbour add 10.1.0.9 lladdr 02:00:00:00:00:09 nud permanent dev cni0";
    expect_difference(host, &[neighbour], &["neighbour"]);
}

fn a_snapshot_sees_vlans(host: &Host) {
    host.exec("ip link add cni0 type bridge vlan_filtering 1");
    host.exec("ip link add one type veth peer name two");
    host.exec("ip link set one master cni0");
    expect_difference(host, &["bridge vlan add vid 7 dev one pvid untagged"], &["vlan"]);
}

fn a_snapshot_sees_qdiscs_and_filters(host: &Host) {
    host.exec("ip link add one type veth peer name two");
    let shaper = "tc qdisc add dev one root tbf rate 1mbit burst 10kb latency 50ms";
    expect_difference(host, &[shaper], &["qdisc"]);
    expect_difference(host, &["tc qdisc add dev one ingress"], &["qdisc"]);
    let filter = "tc filter add dev one parent ffff: protocol all u32 match u32 0 0 \
                  action mirred egress redirect dev two";
    expect_difference(host, &[filter], &["filter"]);
}

fn two_hosts_built_alike_have_equal_normal_forms(_: &Host) {
    let build = |host: &Host| {
        host.exec("ip link add vethcafe0001 type veth peer name vethcafe0002");
        host.exec("ip link set vethcafe0001 up");
        host.exec("ip link set vethcafe0002 up");
        // The kernel gives them link-local addresses when it has seen the
        // carrier, some time after the command.
        host.wait_until("both ends have an address", || {
            host.exec("ip -6 -o address show scope link").matches("fe80::").count() == 2
        });
        host.snapshot()
    };
    let (one, two) = (Host::run(build), Host::run(build));
    assert!(one != two, "random MAC addresses cannot be equal");
    let diff = one.normalised().diff(&two.normalised());
    assert_eq!(diff, None);
}

fn outside_is_reached_from_the_host(host: &Host) {
    let outside = host.outside();
    host.expect_ping("192.0.2.2");
    host.expect_ping("2001:db8:ffff::2");
    outside.expect_ping("192.0.2.1");
    assert!(!host.answers_ping("192.0.2.77"));
}

fn servers_tell_where_clients_come_from(host: &Host) {
    let outside = host.outside();
    let server = outside.echo_server(8080);
    for (target, source) in [("192.0.2.2", "192.0.2.1"), ("2001:db8:ffff::2", "2001:db8:ffff::1")] {
        let target = SocketAddr::new(target.parse().expect("an address"), 8080);
        let seen_tcp = host.tcp(target).expect("it is served");
        let seen_udp = host.udp(target).expect("it is served");
        assert_eq!(
            (seen_tcp.ip().to_string(), seen_udp.ip().to_string()),
            (source.into(), source.into())
        );
    }
    drop(server);
    let target = SocketAddr::from(([192, 0, 2, 2], 8080));
    assert!(host.tcp(target).is_err());
    assert!(host.udp(target).is_err());
}

fn a_capture_sees_announcements(host: &Host) {
    let outside = host.outside();
    let capture = outside.capture();
    let v4 = "192.0.2.77".parse().expect("an address");
    assert_eq!(capture.wait_for(Duration::from_millis(50), |f| f.announces(v4)), None);
    // The kernel announces an address that is added with arp_notify when its
    // link comes up.
    host.set_sysctl("net/ipv4/conf/uplink/arp_notify", "1");
    host.exec("ip address add 192.0.2.77/24 dev uplink");
    host.exec("ip link set uplink down");
    host.exec("ip link set uplink up");
    let frame = capture.expect_announcement(v4);
    assert_eq!(frame.source, host.mac("uplink"));
    assert!(!frame.outgoing);
}

fn commands_run_at_once(host: &Host) {
    let codes =
        host.parallel(8, |index| host.try_exec(["sh", "-c", &format!("exit {index}")]).code());
    assert_eq!(codes, (0..8).map(Some).collect::<Vec<_>>());
}

#[track_caller]
fn expect_link(host: &Host, command: &str, kind: &str) {
    let before = host.snapshot();
    host.exec(command);
    assert_eq!(host.link("it").expect("just made")["linkinfo"]["info_kind"], kind);
    host.exec("ip link del it");
    host.expect_unchanged(&before);
}

fn a_dummy_link(host: &Host) {
    expect_link(host, "ip link add it type dummy", "dummy");
}

fn a_vlan_link(host: &Host) {
    host.exec("ip link add one type veth peer name two");
    expect_link(host, "ip link add link one name it type vlan id 5", "vlan");
}

fn an_ipvlan_link(host: &Host) {
    host.exec("ip link add one type veth peer name two");
    expect_link(host, "ip link add link one name it type ipvlan mode l3", "ipvlan");
}

fn a_macvlan_link(host: &Host) {
    host.exec("ip link add one type veth peer name two");
    expect_link(host, "ip link add link one name it type macvlan mode bridge", "macvlan");
}

fn a_vrf(host: &Host) {
    // The first one adds the rule that serves all; it stays.
    host.exec("ip link add first type vrf table 10");
    expect_link(host, "ip link add it type vrf table 11", "vrf");
}

fn a_tap_device(host: &Host) {
    expect_link(host, "ip tuntap add dev it mode tap", "tun");
}

fn an_ifb_link(host: &Host) {
    expect_link(host, "ip link add it type ifb", "ifb");
}

fn lease_conf() -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "host-local",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}})
}

fn a_plugin_call_is_judged(host: &Host) {
    let (pod, conf) = (host.container("pod"), lease_conf());
    let before = host.snapshot();
    let host_local = host.peer("host-local");
    let result = host_local.add(&pod, "eth0", &conf).expect_result();
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    assert!(host.files("/var/lib/cni/networks/net").contains("10.1.0.2"));
    host_local.check(&pod, "eth0", &with_previous_result(&conf, &result)).expect_ok();
    host_local.add(&pod, "eth0", &conf).expect_error(999, "duplicate allocation");
    host_local.send("ADD", &pod, "eth0", b"{").expect_error(6, "");
    host_local.del(&pod, "eth0", &conf).expect_ok();
    assert!(host_local.version().expect_result()["supportedVersions"].is_array());
    host.expect_unchanged_but(&before, &["/var/lib/cni/networks"]);
    let wrong = host_local.add(&pod, "eth0", &json!({"name": "net"}));
    let judged = std::panic::catch_unwind(|| wrong.expect_result());
    assert!(judged.is_err(), "a failure passed as a result");
}

fn a_plugin_call_has_the_environment_that_was_asked_for(host: &Host) {
    let (pod, conf) = (host.container("pod"), lease_conf());
    let host_local = host.peer("host-local");
    let result = host_local.clone().args("IP=10.1.0.9").add(&pod, "eth0", &conf).expect_result();
    assert_eq!(result["ips"][0]["address"], "10.1.0.9/24");
    host_local
        .clone()
        .without_env("CNI_IFNAME")
        .add(&pod, "eth0", &conf)
        .expect_error(4, "CNI_IFNAME");
    let other = host_local.env("CNI_CONTAINERID", "other").add(&pod, "eth0", &conf);
    assert_eq!(other.expect_result()["ips"][0]["address"], "10.1.0.10/24");
}

fn a_fault_meets_the_call_it_names(host: &Host) {
    let (pod, conf) = (host.container("pod"), lease_conf());
    let host_local = host.peer("host-local");
    let failed = host_local.clone().fail_call("mkdirat,mkdir", "EROFS", 1).add(&pod, "eth0", &conf);
    assert!(failed.fault_fired(), "{failed}");
    failed.expect_error(999, "read-only file system");
    let unharmed = host_local.clone().fail_call("setns", "EPERM", 1).add(&pod, "eth0", &conf);
    assert!(!unharmed.fault_fired(), "host-local enters no namespace");
    unharmed.expect_result();
    let killed = host_local.kill_at_call("flock", 1).del(&pod, "eth0", &conf);
    assert_eq!((killed.fault_fired(), killed.code()), (true, None), "{killed}");
    assert!(host.files("/var/lib/cni/networks/net").contains("10.1.0.2"));
}

fn root_is_real(host: &Host) {
    // A user namespace made by an ordinary user maps one ID only.
    let file = host.scratch().join("owned");
    fs::write(&file, "").expect("the folder is ours");
    chown(&file, Some(12_345), Some(12_345)).expect("every ID can be given a file");
}

fn a_user_namespace_has_a_host_as_well(host: &Host) {
    let own = std::env::current_exe().expect("cargo started us by a path");
    let own = own.display().to_string();
    let arguments =
        ["unshare", "-Urnm", &own, "--exact", "selftest::a_host_starts_empty", "--color=never"];
    let output = host.exec(arguments);
    assert!(output.contains("1 passed"), "{output}");
}
