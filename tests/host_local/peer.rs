//! Taking turns with the peer on one directory.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;
use testkit::{Case, Host, cases, with_previous_result};

use super::{addresses, content, dual, leases, network, path};
use crate::conf::with;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [PeerPlugins] results_and_files_are_the_peers,
        [PeerPlugins] leases_of_one_program_are_released_by_the_other,
        [PeerPlugins] two_programs_take_turns,
        [PeerPlugins, OurPlugins] two_programs_at_once_share_no_address,
        [PeerPlugins, OurPlugins] what_the_peers_crash_left_is_used_again,
    }
}

fn results_and_files_are_the_peers(host: &Host) {
    let c = host.container("c");
    host.write("/run/resolv.conf", "# x\nnameserver 10.1.0.53\ndomain d\nsearch a b\noptions c\n");
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}]);
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let conf = |dir: &str| {
            let ipam = json!({"dataDir": format!("/var/lib/cni/{version}/{dir}"),
                "resolvConf": "/run/resolv.conf", "routes": routes,
                "ranges": [[{"subnet": "10.1.0.0/29", "rangeStart": "10.1.0.3"}, {"subnet": "10.2.0.0/24"}],
                           [{"subnet": "fd00:1::/64", "gateway": "fd00:1::99"}]]});
            network(version, ipam)
        };
        let ours = host.plugin("host-local").add(&c, "eth0", &conf("a"));
        let peers = host.peer("host-local").add(&c, "eth0", &conf("b"));
        assert_eq!(ours.expect_result(), peers.expect_result(), "{version}");
        // From 1.0.0 on, newer releases of the peer order keys as we do.
        if version < "1.0.0" {
            assert_eq!(ours.stdout(), peers.stdout(), "{version}");
        }
        let dir = |dir: &str| PathBuf::from(format!("/var/lib/cni/{version}/{dir}/net"));
        assert_eq!(content(host, &dir("a")), content(host, &dir("b")), "{version}");
        host.plugin("host-local").del(&c, "eth0", &conf("a")).expect_ok();
        host.peer("host-local").del(&c, "eth0", &conf("b")).expect_ok();
        assert_eq!(content(host, &dir("a")), content(host, &dir("b")), "{version}, after DEL");
    }
}

fn leases_of_one_program_are_released_by_the_other(host: &Host) {
    let (ours, peer) = (host.plugin("host-local"), host.peer("host-local"));
    let c = host.container("c");
    for (first, second) in [(&ours, &peer), (&peer, &ours)] {
        for _ in 0..3 {
            let added = first.add(&c, "eth0", &dual());
            let result = added.expect_result();
            let conf = with_previous_result(&dual(), &result);
            second.check(&c, "eth0", &conf).expect_ok();
            second
                .add(&c, "eth0", &dual())
                .expect_error(999, "duplicate allocation is not allowed");
            assert_eq!(leases(host), addresses(&added));
            second.del(&c, "eth0", &conf).expect_ok();
            assert_eq!(leases(host), [""; 0]);
            assert!(!first.check(&c, "eth0", &conf).success());
            first.del(&c, "eth0", &conf).expect_ok();
        }
    }
}

fn two_programs_take_turns(host: &Host) {
    let plugins = [host.plugin("host-local"), host.peer("host-local")];
    let containers: Vec<_> = (0..8).map(|n| host.container(&format!("c{n}"))).collect();
    for (n, container) in containers.iter().enumerate() {
        let given = addresses(&plugins[n % 2].add(container, "eth0", &dual()));
        let expected = [format!("10.1.0.{}", n + 2), format!("fd00:1::{:x}", n + 2)];
        assert_eq!(given, expected, "round robin goes on where the other was");
    }
    // Each releases what the other gave.
    for (n, container) in containers.iter().enumerate() {
        plugins[(n + 1) % 2].del(container, "eth0", &dual()).expect_ok();
        assert_eq!(leases(host).len(), 2 * (containers.len() - n - 1));
    }
}

fn two_programs_at_once_share_no_address(host: &Host) {
    let container = host.container("c");
    let plugins = [host.plugin("host-local"), host.peer("host-local")];
    let given = host.parallel(24, |n| {
        let id = format!("id{n}");
        let plugin = plugins[n % 2].clone().env("CNI_CONTAINERID", &id);
        let given = addresses(&plugin.add(&container, "eth0", &dual()));
        // Every third goes again, by the other program.
        if n % 3 == 0 {
            let other = plugins[(n + 1) % 2].clone().env("CNI_CONTAINERID", &id);
            other.del(&container, "eth0", &dual()).expect_ok();
            return Vec::new();
        }
        given
    });
    let given: Vec<String> = given.concat();
    let distinct: BTreeSet<&String> = given.iter().collect();
    assert_eq!((given.len(), distinct.len()), (32, 32), "{given:?}");
    assert_eq!(leases(host).iter().collect::<BTreeSet<_>>(), distinct);
}

fn what_the_peers_crash_left_is_used_again(host: &Host) {
    let (c, d) = (host.container("c"), host.container("d"));
    let conf = network("1.0.0", json!({"subnet": "10.1.0.0/29"}));
    // As the peer leaves it when it is killed between making and writing.
    for n in 2..=6 {
        host.write(path(&format!("10.1.0.{n}")), "");
    }
    host.write(path("10.1.0.6"), [0; 20]);
    let exhausted = "no IP addresses available in range set";
    host.peer("host-local").add(&c, "eth0", &conf).expect_error(999, exhausted);
    let plugin = host.plugin("host-local");
    assert_eq!(addresses(&plugin.add(&c, "eth0", &conf)), ["10.1.0.2"]);
    let asked = plugin.clone().args("IP=10.1.0.6").add(&d, "eth0", &conf);
    assert_eq!(addresses(&asked), ["10.1.0.6"]);
    let valid = json!({"cniVersion": "1.1.0",
        "cni.dev/valid-attachments": [{"containerID": c.id(), "ifname": "eth0"}]});
    plugin.gc(&with(&conf, valid)).expect_ok();
    assert_eq!(leases(host), ["10.1.0.2"]);
}
