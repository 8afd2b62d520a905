use super::*;
use cni::Code;
use serde_json::{Value, json};

fn plan(extra: Value) -> Result<Plan> {
    plan_with(extra, "")
}

fn plan_with(extra: Value, args: &str) -> Result<Plan> {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "bridge"});
    let object = conf.as_object_mut().expect("an object");
    object.extend(extra.as_object().expect("an object").clone());
    let network = cni::Network::new(conf.to_string().into_bytes(), "/nonexistent".into(), &[])?;
    Plan::new(&network, args)
}

fn vlans(plan: &Plan) -> Vec<(u16, u16, bool)> {
    plan.vlans.iter().flatten().map(|range| (range.first, range.last, range.pvid)).collect()
}

#[test]
fn what_is_not_given_has_its_default() {
    let plan = plan(json!({})).expect("valid");
    assert_eq!((plan.bridge.as_str(), plan.mtu, plan.mac, plan.vlan), ("cni0", None, None, 0));
    assert!(!plan.is_gateway && !plan.hairpin && !plan.promisc && !plan.isolated);
    assert!(plan.container_up && plan.vlans.is_none() && plan.dns.is_none());
    assert_eq!(plan.uniqueness, Uniqueness::Known);
}

#[test]
fn what_contradicts_itself_is_refused_and_named() {
    for (extra, culprit) in [
        (json!({"bridge": ""}), "bridge"),
        (json!({"bridge": "a/b"}), "bridge"),
        (json!({"bridge": "sixteen-chars-xx"}), "bridge"),
        (json!({"bridge": "cni%d"}), "percent sign"),
        (json!({"bridge": ".."}), "bridge"),
        (json!({"vlan": 4095}), "vlan"),
        (json!({"vlan": -1}), "vlan"),
        (json!({"hairpinMode": true, "promiscMode": true}), "hairpinMode"),
        (
            json!({"disableContainerInterface": true, "ipam": {"type": "x"}}),
            "disableContainerInterface",
        ),
        (json!({"vlanTrunk": [{"minID": 5, "maxID": 4}]}), "minID"),
        (json!({"vlanTrunk": [{"minID": 5}]}), "maxID"),
        (json!({"vlanTrunk": [{"maxID": 5}]}), "minID"),
        (json!({"vlanTrunk": [{"id": 0}]}), "id"),
        (json!({"vlanTrunk": [{"minID": 0, "maxID": 5}]}), "minID"),
        (json!({"runtimeConfig": {"mac": "zz"}}), "zz"),
        (json!({"mtu": 5_000_000_000_i64}), "mtu"),
        (json!({"mtu": 67}), "mtu"),
        (json!({"mtu": 65_536}), "mtu"),
        (json!({"cniVersion": "0.2.0"}), "address"),
    ] {
        let Err(error) = plan(extra.clone()) else { panic!("{extra} is accepted") };
        assert_eq!(error.code(), Code::INVALID_CONFIG, "{extra}");
        assert!(error.msg().contains(culprit), "{extra}: {error}");
    }
    let Err(error) = plan_with(json!({}), "FOO=1") else {
        panic!("an unknown argument is accepted")
    };
    assert_eq!(error.code(), Code::INVALID_ENVIRONMENT);
}

#[test]
fn the_runtime_s_mac_wins_over_the_users_over_the_arguments() {
    let all = json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    let from_args = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    for (extra, last) in [(all, 1), (from_args, 2), (json!({}), 3)] {
        let plan = plan_with(extra, "MAC=02:00:00:00:00:03").expect("valid");
        assert_eq!(plan.mac.map(|mac| mac.bytes()[5]), Some(last));
    }
}

#[test]
fn the_ports_own_vlan_stays_untagged_whatever_the_trunk_says() {
    let of = |extra| vlans(&plan(extra).expect("valid"));
    assert_eq!(of(json!({"vlan": 7})), [(7, 7, true)]);
    assert_eq!(of(json!({"vlanTrunk": []})), [(1, 1, true)]);
    let trunk = json!([{"minID": 5, "maxID": 9}, {"id": 9}, {"id": 20}]);
    assert_eq!(
        of(json!({"vlan": 7, "vlanTrunk": trunk})),
        [(7, 7, true), (5, 6, false), (8, 9, false), (20, 20, false)]
    );
    assert_eq!(of(json!({"vlanTrunk": [{"minID": 1, "maxID": 3}]})), [(1, 1, true), (2, 3, false)]);
}

fn ips(list: &[(&str, Option<&str>)]) -> Success {
    let ip = |(address, gateway): &(&str, Option<&str>)| cni::IpConfig {
        interface: None,
        address: cni::cidr::parse(address).expect("an address"),
        gateway: gateway.map(|gateway| gateway.parse().expect("an address")),
    };
    Success { ips: list.iter().map(ip).collect(), ..Success::default() }
}

#[test]
fn gateways_and_default_routes_are_completed_once_per_family() {
    let plan = plan(json!({"isDefaultGateway": true, "ipam": {"type": "x"}})).expect("valid");
    let done = plan
        .complete(ips(&[("10.1.0.5/24", None), ("10.2.0.5/24", None), ("fd00::5/64", None)]), 2);
    let gateways: Vec<String> =
        done.ips.iter().map(|ip| ip.gateway.expect("given").to_string()).collect();
    assert_eq!(gateways, ["10.1.0.1", "10.2.0.1", "fd00::1"]);
    assert!(done.ips.iter().all(|ip| ip.interface == Some(2)));
    let routes: Vec<_> =
        done.routes.iter().map(|r| (r.dst.to_string(), r.gw.map(|gw| gw.to_string()))).collect();
    assert_eq!(
        routes,
        [("0.0.0.0/0".into(), Some("10.1.0.1".into())), ("::/0".into(), Some("fd00::1".into()))]
    );
    // IPAM's own default route, with or without gateway, is enough.
    let mut given = ips(&[("10.1.0.5/24", None)]);
    given.routes.push(Route::to(DEFAULT_V4));
    assert_eq!(plan.complete(given, 2).routes.len(), 1);
}
