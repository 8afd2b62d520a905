//! Either program undoes what the other did: ours and Debian's package of the
//! reference plugin.

use serde_json::json;
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::{addressed, conf, device, records};
use crate::conf as network;

pub(super) fn list() -> Vec<Case> {
    let list = cases! {
        [PeerPlugins] ours_gives_back_what_the_reference_lent,
        [PeerPlugins] the_reference_gives_back_what_ours_lent,
        [PeerPlugins] what_the_reference_lent_comes_home_by_itself,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// What both speak.
const BOTH: &str = "0.4.0";

fn ours_gives_back_what_the_reference_lent(host: &Host) {
    device(host, "ens5");
    host.exec("ip link property add dev ens5 altname uplink5");
    let mac = host.mac("ens5");
    let pod = host.container("pod");
    for keys in [json!({}), json!({"device": "uplink5"}), json!({"device": "", "hwaddr": mac})] {
        let conf = network::with(&addressed(host), keys);
        let conf = network::with(&conf, json!({"cniVersion": BOTH}));
        let result = host.peer("host-device").add(&pod, "eth0", &conf).expect_result();
        let checked = with_previous_result(&conf, &result);
        host.plugin("host-device").check(&pod, "eth0", &checked).expect_ok();
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        assert_eq!(host.links(), ["lo", "ens5"]);
        assert_eq!(host.link("ens5").expect("home").get("ifalias"), None);
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        assert_eq!(host.links(), ["lo", "ens5"]);
    }
}

fn the_reference_gives_back_what_ours_lent(host: &Host) {
    device(host, "ens5");
    let (one, two) = (host.container("one"), host.container("two"));
    let conf = conf(host, json!({"cniVersion": BOTH, "ipam": network::fixed(&["10.5.0.2/24"])}));
    let result = host.plugin("host-device").add(&one, "eth0", &conf).expect_result();
    let checked = with_previous_result(&conf, &result);
    host.peer("host-device").check(&one, "eth0", &checked).expect_ok();
    host.peer("host-device").del(&one, "eth0", &conf).expect_ok();
    assert_eq!(host.links(), ["lo", "ens5"]);
    // Our record is of nothing now, and harms nobody.
    assert_eq!(records(host), 1);
    host.plugin("host-device").add(&two, "eth0", &conf).expect_result();
    host.plugin("host-device").del(&one, "eth0", &conf).expect_ok();
    assert!(two.link("eth0").is_some());
    host.plugin("host-device").del(&two, "eth0", &conf).expect_ok();
    assert_eq!(host.links(), ["lo", "ens5"]);
    assert_eq!(records(host), 0);
}

fn what_the_reference_lent_comes_home_by_itself(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let conf = conf(host, json!({"cniVersion": BOTH, "ipam": network::fixed(&["10.5.0.2/24"])}));
    host.peer("host-device").add(&pod, "eth0", &conf).expect_result();
    pod.destroy();
    host.wait_until("the pair is gone", || host.links() == ["lo"]);
    // The reference has no name for that: its DEL fails for ever.
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    host.plugin("host-device").del_without_netns(&pod, "eth0", &conf).expect_ok();
}
