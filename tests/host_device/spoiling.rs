//! Whatever step of an ADD fails, and wherever it is killed: the host is, or
//! becomes by a DEL, what it was.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{LEFT, conf, device, leased, leases, records, settle};
use crate::conf as network;

pub(super) fn list() -> Vec<Case> {
    let list = cases! {
        [Bridge] a_failed_add_gives_back_what_the_host_had_configured,
        [Ipv6] no_route_comes_back_as_a_broader_one,
        [Bridge] a_failed_add_gives_back_the_port_of_a_bridge,
        [Bridge, BridgeVlan] a_failed_add_gives_back_the_vlans_of_a_port,
        [Vlan, Macvlan, Ipv6] links_on_the_device_stay_as_they_were,
        [Ipv6] a_failed_add_gives_back_addresses_in_use,
        [] what_can_be_refused_is_refused_before_the_move,
        [Strace, Ipv6] whatever_request_fails_nothing_is_changed,
        [Strace, Ipv6] whatever_file_call_fails_nothing_is_changed,
        [Strace, Ipv6] wherever_an_add_is_killed_a_del_puts_it_right,
        [Strace, Ipv6] wherever_a_del_is_killed_the_next_one_finishes,
    };
    list.into_iter().map(Case::ours_only).collect()
}

fn a_failed_add_gives_back_what_the_host_had_configured(host: &Host) {
    device(host, "ens5");
    for command in [
        "ip address add 10.5.0.7/24 dev ens5",
        "ip address add 10.5.0.8/24 dev ens5",
        "ip address add 10.7.0.1 peer 10.7.0.2 dev ens5",
        "ip address add 2001:db8:5::7/64 dev ens5 nodad",
        "ip route add default via 10.5.0.1",
        "ip route add 10.9.0.0/16 via 10.5.0.1 metric 5 mtu 1300",
        "ip route add 10.8.0.0/16 dev ens5 table 99",
        "ip -6 route add default via 2001:db8:5::1",
        "ip address add 10.5.4.7/24 dev ens5 metric 77",
        "ip address add 10.5.5.7/24 dev ens5 noprefixroute",
        "ip address add 2001:db8:6::7/64 dev ens5 nodad home metric 500",
        "ip address add 2001:db8:7::7/64 dev ens5 nodad mngtmpaddr noprefixroute",
        "ip route add 10.10.0.0/16 via 10.5.0.1 mtu lock 1300 window 5000 initcwnd 20",
        "ip -6 route add 2001:db8:9::/48 via 2001:db8:5::1 hoplimit 30 pref high",
        "ip neigh add proxy 10.5.0.3 dev ens5",
        "ip neigh add proxy 2001:db8:5::3 dev ens5",
        "ip neigh add 2001:db8:5::b lladdr 02:00:5e:10:00:0b dev ens5 nud permanent router",
        "ip neigh add 10.5.0.9 lladdr 02:00:5e:10:00:09 dev ens5 nud permanent",
        "ip neigh add 2001:db8:5::9 lladdr 02:00:5e:10:00:09 dev ens5 nud permanent",
        "ip link property add dev ens5 altname eth0",
    ] {
        host.exec(command);
    }
    set_sysctls(host);
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let failing = [
        json!({"ipam": {"type": "missing"}}),
        // A duplicate of the far side's address.
        json!({"ipam": network::fixed(&["10.5.0.2/24", "2001:db8:5::1/64"])}),
        // A route that leads nowhere.
        json!({"ipam": {"type": "static", "addresses": [{"address": "10.5.0.2/24"}],
            "routes": [{"dst": "10.99.0.0/16", "gw": "172.31.0.1"}]}}),
    ];
    for keys in failing {
        let outcome = host.plugin("host-device").add(&pod, "eth0", &conf(host, keys));
        let error = outcome.expect_error(999, "");
        assert_eq!(error.get("details"), None, "the undo was clean");
        assert_eq!(records(host), 0);
        host.expect_unchanged_but(&before, LEFT);
    }
}

/// Of the device alone, not what its links get.
fn set_sysctls(host: &Host) {
    for (name, value) in [
        ("ipv4/conf/ens5/arp_ignore", "2"),
        ("ipv4/conf/ens5/rp_filter", "2"),
        ("ipv6/conf/ens5/accept_ra", "0"),
        ("ipv6/conf/ens5/dad_transmits", "3"),
    ] {
        host.set_sysctl(&format!("net/{name}"), value);
    }
}

/// Fails when the addresses are there and the device has moved.
fn failing_late(host: &Host) -> Value {
    conf(
        host,
        json!({"ipam": {"type": "static", "addresses": [{"address": "10.5.0.2/24"}],
            "routes": [{"dst": "10.99.0.0/16", "gw": "172.31.0.1"}]}}),
    )
}

fn expect_unchanged_by_a_late_failure(host: &Host) {
    let pod = host.container("pod");
    let before = host.snapshot();
    let outcome = host.plugin("host-device").add(&pod, "eth0", &failing_late(host));
    let error = outcome.expect_error(999, "10.99.0.0/16");
    assert_eq!(error.get("details"), None, "the undo was clean");
    assert_eq!(records(host), 0);
    host.expect_unchanged_but(&before, LEFT);
}

/// What is not understood is left out: a route for one source alone would come back as
/// one for everybody.
fn no_route_comes_back_as_a_broader_one(host: &Host) {
    device(host, "ens5");
    for command in [
        "ip address add 10.5.0.7/24 dev ens5",
        "ip address add 2001:db8:5::7/64 dev ens5 nodad",
        "ip -6 route add default from 2001:db8:9::/64 dev ens5",
        "ip route add 10.71.0.0/16 via 10.5.0.1 tos 0x10",
        "ip route add 10.72.0.0/16 via 10.5.0.1",
    ] {
        host.exec(command);
    }
    settle(host, "ens5");
    let pod = host.container("pod");
    let keys = json!({"ipam": {"type": "static", "addresses": [{"address": "10.5.0.2/24"}],
        "routes": [{"dst": "10.99.0.0/16", "gw": "172.31.0.1"}]}});
    host.plugin("host-device").add(&pod, "eth0", &conf(host, keys)).expect_error(999, "");
    let routes = format!("{}{}", host.exec("ip route"), host.exec("ip -6 route"));
    assert!(routes.contains("10.72.0.0/16 via 10.5.0.1"), "{routes}");
    for broader in ["default dev ens5", "10.71.0.0/16 via 10.5.0.1 dev"] {
        assert!(!routes.contains(broader), "{routes}");
    }
}

fn a_failed_add_gives_back_the_port_of_a_bridge(host: &Host) {
    device(host, "ens5");
    host.exec("ip link add br0 type bridge");
    host.exec("ip link set ens5 master br0");
    host.exec(
        "bridge link set dev ens5 isolated on learning off flood off mcast_flood off \
        hairpin on cost 55 priority 9 guard on",
    );
    settle(host, "ens5");
    expect_unchanged_by_a_late_failure(host);
}

fn a_failed_add_gives_back_the_vlans_of_a_port(host: &Host) {
    device(host, "ens5");
    host.exec("ip link add br0 type bridge vlan_filtering 1");
    host.exec("ip link set ens5 master br0");
    host.exec("bridge vlan del dev ens5 vid 1");
    host.exec("bridge vlan add dev ens5 vid 7 pvid untagged");
    host.exec("bridge vlan add dev ens5 vid 20-29");
    settle(host, "ens5");
    expect_unchanged_by_a_late_failure(host);
}

/// They stay on the host when the device leaves it.
fn links_on_the_device_stay_as_they_were(host: &Host) {
    device(host, "ens5");
    for command in [
        "ip link add link ens5 name ens5.7 type vlan id 7",
        "ip link add link ens5.7 name inner type vlan id 8",
        "ip link add link ens5 name off type vlan id 9",
        "ip link set off up",
        "ip link set off down",
        "ip link add link ens5 name mv type macvlan mode bridge",
        "ip link set ens5.7 mtu 1450 up",
        "ip link set inner up",
        "ip link set mv up",
        "ip address add 10.7.0.7/24 dev ens5.7",
        "ip address add 2001:db8:7::7/64 dev ens5.7 nodad",
        "ip address add 2001:db8:8::7/64 dev inner nodad",
        "ip address add 2001:db8:9::7/64 dev mv nodad",
        "ip route add 10.77.0.0/16 via 10.7.0.1",
        "ip -6 route add 2001:db8:77::/48 via 2001:db8:8::1",
        "ip -6 route add 2001:db8:78::/48 via 2001:db8:9::1",
        "ip neigh add 10.7.0.9 lladdr 02:00:5e:10:00:09 dev ens5.7 nud permanent",
    ] {
        host.exec(command);
    }
    for name in ["ens5", "ens5.7", "inner", "mv"] {
        settle(host, name);
    }
    expect_unchanged_by_a_late_failure(host);
    let pod = host.container("two");
    let before = host.snapshot();
    host.plugin("host-device").add(&pod, "eth0", &leased(host)).expect_result();
    pod.exec("ip link set eth0 mtu 1400");
    let outcome = host.plugin("host-device").del(&pod, "eth0", &leased(host));
    outcome.expect_ok();
    assert_eq!(outcome.stderr(), "");
    host.expect_unchanged_but(&before, LEFT);
}

/// Nobody is asked again whether he has them.
fn a_failed_add_gives_back_addresses_in_use(host: &Host) {
    device(host, "ens5");
    host.set_sysctl("net/ipv6/conf/ens5/accept_dad", "1");
    host.exec("ip address add 2001:db8:5::7/64 dev ens5");
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let show = "ip -6 address show dev ens5 to 2001:db8:5::7";
    let shown = host.exec(show);
    host.plugin("host-device").add(&pod, "eth0", &failing_late(host)).expect_error(999, "");
    assert_eq!(host.exec(show), shown);
    host.expect_unchanged_but(&before, LEFT);
}

fn what_can_be_refused_is_refused_before_the_move(host: &Host) {
    device(host, "ens5");
    // What does not survive a move.
    host.exec("tc qdisc add dev ens5 root pfifo limit 7");
    let pod = host.container("pod");
    host.write("/var/lib/cni/networks/net/10.5.0.2", "c1\r\neth0");
    let before = host.snapshot();
    let full = json!({"type": "host-local", "subnet": "10.5.0.0/30", "rangeStart": "10.5.0.2"});
    for (ipam, part) in [
        (json!({"type": "missing"}), "missing"),
        (full, "no IP addresses available"),
        (json!({"type": "static", "addresses": [{"address": "10.5.0.2"}]}), "10.5.0.2"),
    ] {
        let outcome =
            host.plugin("host-device").add(&pod, "eth0", &conf(host, json!({"ipam": ipam})));
        assert!(!outcome.success() && outcome.to_string().contains(part), "{outcome}");
        host.expect_unchanged_but(&before, LEFT);
    }
}

/// Fails the first, second, .. of the calls, until an ADD makes no more.
fn expect_unchanged_by_faults(host: &Host, calls: &str, error: &str, least: usize) {
    device(host, "ens5");
    host.exec("ip address add 10.5.0.7/24 dev ens5");
    host.exec("ip route add 10.9.0.0/16 via 10.5.0.1");
    host.exec("ip link property add dev ens5 altname uplink-to-rack-5");
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let (before_pod, conf) = (pod.network_snapshot(), leased(host));
    let host_device = host.plugin("host-device");
    for nth in 1.. {
        let outcome = host_device.clone().fail_call(calls, error, nth).add(&pod, "eth0", &conf);
        if outcome.success() {
            // Some requests are not needed, such as an announcement.
            host_device.del(&pod, "eth0", &conf).expect_ok();
            if !outcome.fault_fired() {
                assert!(nth > least, "only {nth} calls of {calls}");
                return;
            }
        } else {
            assert!(outcome.fault_fired(), "{outcome}");
            let error = outcome.document();
            assert_eq!(error.get("details"), None, "call {nth}: the undo was not clean\n{outcome}");
            assert_eq!((leases(host), records(host)), (0, 0), "call {nth}");
        }
        host.expect_unchanged_but(&before, LEFT);
        pod.wait_for_addresses();
        let after = pod.network_snapshot();
        before_pod.without(&["sysctl"]).expect_same(&after.without(&["sysctl"]));
    }
}

fn whatever_request_fails_nothing_is_changed(host: &Host) {
    expect_unchanged_by_faults(host, "sendto,sendmsg", "ENOBUFS", 8);
}

fn whatever_file_call_fails_nothing_is_changed(host: &Host) {
    expect_unchanged_by_faults(host, "renameat,renameat2,mkdirat,mkdir,setns,fstatfs", "EROFS", 3);
}

fn wherever_an_add_is_killed_a_del_puts_it_right(host: &Host) {
    device(host, "ens5");
    host.exec("ip link set ens5 down");
    host.exec("ip link set ens5 mtu 1400 address 02:00:5e:10:00:01 up");
    host.exec(["ip", "link", "set", "ens5", "alias", "uplink to rack 5"]);
    host.exec("ip link property add dev ens5 altname eth0");
    host.exec("ip address add 10.5.0.7/24 dev ens5");
    host.exec("ip route add 10.9.0.0/16 via 10.5.0.1");
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = leased(host);
    let host_device = host.plugin("host-device");
    for nth in 1.. {
        let calls = "sendto,sendmsg,renameat,renameat2";
        let outcome = host_device.clone().kill_at_call(calls, nth).add(&pod, "eth0", &conf);
        let netns = nth % 2 == 0;
        let outcome_of_del = match netns {
            true => host_device.del(&pod, "eth0", &conf),
            false => host_device.del_without_netns(&pod, "eth0", &conf),
        };
        outcome_of_del.expect_ok();
        assert_eq!((leases(host), records(host)), (0, 0), "call {nth}");
        assert_eq!(pod.links(), ["lo"], "call {nth}");
        // Deleted before the move, the name has to be given back by hand: it is
        // the one thing that no mark on the device tells.
        host.expect_unchanged_but(&before, LEFT);
        if outcome.success() {
            assert!(nth > 10, "only {nth} calls");
            return;
        }
    }
}

fn wherever_a_del_is_killed_the_next_one_finishes(host: &Host) {
    device(host, "ens5");
    host.exec("ip link set ens5 mtu 1400");
    host.exec(["ip", "link", "set", "ens5", "alias", "uplink to rack 5"]);
    host.exec("ip link property add dev ens5 altname uplink-to-rack-5");
    host.exec("ip address add 10.5.0.7/24 dev ens5");
    host.exec("ip route add 10.9.0.0/16 via 10.5.0.1");
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = leased(host);
    let host_device = host.plugin("host-device");
    for nth in 1.. {
        host_device.add(&pod, "eth0", &conf).expect_result();
        pod.exec("ip link set eth0 mtu 1300");
        pod.exec("ip link property del dev eth0 altname uplink-to-rack-5");
        let calls = "sendto,sendmsg,unlinkat";
        let outcome = host_device.clone().kill_at_call(calls, nth).del(&pod, "eth0", &conf);
        host_device.del(&pod, "eth0", &conf).expect_ok();
        assert_eq!((leases(host), records(host)), (0, 0), "call {nth}");
        host.expect_unchanged_but(&before, LEFT);
        if outcome.success() {
            assert!(nth > 6, "only {nth} calls");
            return;
        }
    }
}
