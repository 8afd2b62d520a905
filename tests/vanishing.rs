//! A namespace that goes away while an interface plugin works on it: between the
//! making of the link and its addresses, by a hand of the IPAM plugin's.

use serde_json::{Value, json};
use testkit::Feature::{Bridge, Dummy, Ipvlan, Macvlan, OurPlugins, Tun, Vlan};
use testkit::{Case, Feature, Host, Netns as _};

use crate::conf;
use crate::recorder::Recorder;

pub(crate) fn list() -> Vec<Case> {
    let on_uplink = json!({"master": "uplink"});
    let samples: [(&'static str, &[Feature], Value); 7] = [
        ("ptp", &[Bridge], json!({})),
        ("macvlan", &[Macvlan], on_uplink.clone()),
        ("ipvlan", &[Ipvlan], on_uplink),
        ("vlan", &[Vlan], json!({"master": "uplink", "vlanId": 5})),
        ("host-device", &[Bridge], json!({"device": "lent"})),
        ("dummy", &[Dummy], json!({})),
        ("tap", &[Tun], json!({})),
    ];
    let mut list = Vec::new();
    for (plugin, needs, keys) in samples {
        let needs: Vec<_> = needs.iter().copied().chain([OurPlugins]).collect();
        let of = |name: &str| format!("vanishing::{name}::{plugin}");
        let conf = keys.clone();
        list.push(Case::new(of("before_an_add"), &needs, move |host| before(host, plugin, &conf)));
        list.push(Case::new(of("under_an_add"), &needs, move |host| under(host, plugin, &keys)));
    }
    list
}

/// Where the plugins' links stand.
fn prepare(host: &Host) {
    // Addresses that the kernel adds in its own time would be taken for changes.
    host.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    // A gateway switches it on, and it stays.
    host.set_sysctl("net/ipv4/ip_forward", "1");
    for (link, other) in [("uplink", "wire"), ("lent", "tnel")] {
        host.exec(format!("ip link add {link} type veth peer name {other}"));
        host.exec(format!("ip link set {other} up"));
        host.exec(format!("ip link set {link} up"));
    }
}

fn before(host: &Host, plugin: &'static str, keys: &Value) {
    prepare(host);
    let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24"});
    let conf = conf::with(&conf::of_type(host, plugin, json!({"ipam": ipam})), keys.clone());
    for lost in ["gone", "stale"] {
        let pod = host.container(lost);
        match lost {
            "stale" => pod.make_stale_file(),
            _ => pod.destroy(),
        }
        let before = host.snapshot();
        host.plugin(plugin).add(&pod, "eth0", &conf).expect_error(8, lost);
        host.expect_unchanged(&before);
        host.plugin(plugin).del(&pod, "eth0", &conf).expect_ok();
        host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    }
}

/// The plugin holds the namespace, so it may end its work there; or say what went
/// wrong. Either way a DEL leaves nothing behind.
fn under(host: &Host, plugin: &'static str, keys: &Value) {
    prepare(host);
    let result = json!({"cniVersion": "1.0.0",
        "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]});
    let ipam = Recorder::new(
        host,
        "vanish",
        &format!(
            "[ $CNI_COMMAND = ADD ] || exit 0\n\
             umount -l $CNI_NETNS && rm $CNI_NETNS && echo '{result}'"
        ),
    );
    let conf = conf::of_type(host, plugin, json!({"ipam": ipam.ipam()}));
    let conf = conf::with(&conf, keys.clone());
    let pod = host.container("pod");
    let before = host.snapshot();
    let called = || host.plugin(plugin).cni_path(&ipam.path());
    let added = called().add(&pod, "eth0", &conf);
    if added.success() {
        assert_eq!(added.expect_result()["ips"][0]["address"], "10.1.0.2/24");
    } else {
        assert!(added.document()["msg"].is_string(), "{added}");
    }
    assert!(!pod.path().exists(), "the namespace was there to the end");
    called().del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(ipam.verbs().last().map(String::as_str), Some("DEL"), "the address is released");
    // A virtual device that was lent went with the namespace, and its peer with it.
    let lost = if plugin == "host-device" { &["lent", "tnel"][..] } else { &[] };
    let words: Vec<_> =
        ["/var/lib/cni", "/run/netns", "/run/mount"].iter().chain(lost).copied().collect();
    host.expect_unchanged_but(&before, &words);
}
