//! DEL asks the kernel for one link deletion at the most: each takes it some
//! milliseconds, most of what a DEL costs.

use std::fs;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use crate::conf;
use crate::links::ipam;

pub(crate) fn list() -> Vec<Case> {
    let list = cases! {
        [Strace, Bridge, Macvlan, Tun] del_deletes_one_link,
        [Strace, Vlan, Ipvlan, Dummy] del_deletes_one_link_of_other_kinds,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// What strace saw of a DEL: by name, or by number of a socket that is not in its own
/// namespace.
fn deletions(host: &Host, plugin: &str, keys: Value) -> usize {
    let conf = conf::with(&conf::of_type(host, plugin, json!({"ipam": ipam("46")})), keys);
    let container = host.container("pod");
    host.plugin(plugin).add(&container, "eth0", &conf).expect_result();
    let (given, trace) = (host.scratch().join("conf"), host.scratch().join("trace"));
    host.write(&given, conf.to_string());
    let folder = testkit::plugins_folder();
    let script = format!(
        "CNI_COMMAND=DEL CNI_CONTAINERID={} CNI_IFNAME=eth0 CNI_NETNS={} CNI_PATH={folder} \
         exec strace -f -qq -e trace=sendto,sendmsg -o {} {folder}/{plugin} <{}",
        container.id(),
        container.path().display(),
        trace.display(),
        given.display(),
        folder = folder.display(),
    );
    host.exec(["sh", "-c", script.as_str()]);
    assert_eq!(container.links(), ["lo"]);
    container.destroy();
    let seen = fs::read_to_string(&trace).expect("strace wrote it");
    seen.matches("nlmsg_type=RTM_DELLINK").count() + seen.matches("nlmsg_type=0x11 ").count()
}

fn del_deletes_one_link(host: &Host) {
    drop(host.outside());
    host.exec("ip link add ens5 type veth peer name wire5");
    for (plugin, keys, count) in [
        ("bridge", json!({"bridge": "cni0", "isGateway": true}), 1),
        ("ptp", json!({}), 1),
        ("macvlan", json!({"master": "uplink"}), 1),
        // The shim is another.
        ("macvlan", json!({"master": "uplink", "hostShim": true}), 2),
        ("tap", json!({}), 1),
        ("host-device", json!({"device": "ens5"}), 0),
    ] {
        assert_eq!(deletions(host, plugin, keys), count, "{plugin}");
    }
}

fn del_deletes_one_link_of_other_kinds(host: &Host) {
    drop(host.outside());
    for (plugin, keys) in [
        ("vlan", json!({"master": "uplink", "vlanId": 7})),
        ("ipvlan", json!({"master": "uplink"})),
        ("dummy", json!({})),
    ] {
        assert_eq!(deletions(host, plugin, keys), 1, "{plugin}");
    }
}
