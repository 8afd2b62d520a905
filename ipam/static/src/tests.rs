use super::*;
use cni::{Code, ContainerId, IfName};
use serde_json::{Value, json};
use std::ffi::OsString;

fn network(mut conf: Value) -> Network {
    let defaults = [("cniVersion", json!("1.1.0")), ("name", json!("net"))];
    for (key, value) in defaults {
        conf.as_object_mut().expect("an object").entry(key).or_insert(value);
    }
    Network::new(conf.to_string().into_bytes(), OsString::new(), &[]).expect("a valid document")
}

fn request(conf: Value, args: &str) -> Request {
    Request {
        network: network(conf),
        container_id: ContainerId::new("c1").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: Some("/run/netns/x".into()),
        args: args.to_owned(),
    }
}

/// `address gateway` of each, in order.
fn given(conf: Value, args: &str) -> Vec<String> {
    let success = Static.add(&request(conf, args)).expect("ADD succeeds");
    let text = |ip: &IpConfig| match ip.gateway {
        Some(gateway) => format!("{} {gateway}", ip.address),
        None => ip.address.to_string(),
    };
    success.ips.iter().map(text).collect()
}

fn addresses() -> Value {
    json!([{"address": "10.1.0.5/16", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}])
}

#[test]
fn what_is_configured_is_given() {
    let conf = json!({"ipam": {"addresses": addresses(),
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/48", "gw": "fd00::1", "mtu": 1400}],
        "dns": {"nameservers": ["10.1.0.1"], "domain": "x", "search": ["y"], "options": ["z"]}}});
    let success = Static.add(&request(conf.clone(), "")).expect("ADD succeeds");
    assert_eq!(given(conf, ""), ["10.1.0.5/16 10.1.0.1", "fd00::5/64"]);
    assert!(success.interfaces.is_empty());
    assert_eq!(success.routes.len(), 2);
    assert_eq!((success.routes[1].mtu, success.routes[1].gw), (1400, "fd00::1".parse().ok()));
    assert_eq!(success.dns.nameservers, ["10.1.0.1"]);
    assert_eq!(given(json!({"ipam": {}}), ""), Vec::<String>::new());
    // Keys in any letter case, null as if it were not there.
    let conf =
        json!({"IPAM": {"Addresses": [{"ADDRESS": "10.1.0.5/16", "gateway": null}], "dns": null}});
    assert_eq!(given(conf, ""), ["10.1.0.5/16"]);
}

#[test]
fn each_stronger_place_replaces_the_weaker_ones() {
    let ipam = json!({"addresses": addresses()});
    let args = "IP= 10.2.0.9/24 ,fd02::9/64";
    assert_eq!(
        given(json!({"ipam": ipam}), args),
        ["10.1.0.5/16 10.1.0.1", "fd00::5/64", "10.2.0.9/24", "fd02::9/64"]
    );
    let cni = json!({"cni": {"ips": ["10.3.0.1/24"]}});
    assert_eq!(given(json!({"ipam": ipam, "args": cni}), args), ["10.3.0.1/24"]);
    let runtime = json!({"ips": ["10.4.0.1/24", "fd04::1/64"]});
    let all = json!({"ipam": ipam, "args": cni, "runtimeConfig": runtime});
    assert_eq!(given(all, args), ["10.4.0.1/24", "fd04::1/64"]);
    let none = json!({"ipam": ipam, "args": cni, "runtimeConfig": {"ips": []}});
    assert_eq!(given(none, args), ["10.3.0.1/24"]);
}

#[test]
fn a_gateway_of_cni_args_goes_to_every_address_whose_subnet_holds_it() {
    let mut conf = json!({"ipam": {"addresses": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"},
        {"address": "fd00::5/64"}, {"address": "10.9.0.5/16"}]}});
    let args = "IP=10.1.7.7/24;GATEWAY=10.1.7.1,fd00::1,172.16.0.1";
    assert_eq!(
        given(conf.clone(), args),
        ["10.1.0.5/16 10.1.7.1", "fd00::5/64 fd00::1", "10.9.0.5/16", "10.1.7.7/24 10.1.7.1"]
    );
    conf["runtimeConfig"] = json!({"ips": ["10.1.7.8/24", "10.2.0.8/24"]});
    assert_eq!(given(conf, args), ["10.1.7.8/24 10.1.7.1", "10.2.0.8/24"]);
}

#[test]
fn errors_name_the_culprit_and_have_the_right_code() {
    let two = json!([{"address": "10.0.0.1/8"}, {"address": "10.0.0.2/8"}]);
    for (conf, culprit) in [
        (json!({}), "ipam is missing"),
        (json!({"ipam": 5}), "ipam"),
        (json!({"ipam": {"addresses": [{}]}}), "ipam.addresses[0].address is missing"),
        (
            json!({"ipam": {"addresses": [{"address": "10.0.0.1"}]}}),
            "ipam.addresses[0].address: invalid CIDR address: 10.0.0.1",
        ),
        (
            json!({"ipam": {"addresses": [{"address": "10.0.0.1/8", "gateway": "zz"}]}}),
            "ipam.addresses[0].gateway: invalid IP address: zz",
        ),
        (json!({"ipam": {}, "args": {"cni": {"ips": ["10.0.0.1"]}}}), "args.cni.ips[0]"),
        (json!({"ipam": {}, "runtimeConfig": {"ips": [null]}}), "runtimeConfig.ips[0]"),
        (
            json!({"cniVersion": "0.2.0", "ipam": {"addresses": two}}),
            "0.2.0 does not support more than 1 address per family",
        ),
    ] {
        let error = Static.add(&request(conf.clone(), "")).expect_err(&conf.to_string());
        assert_eq!(error.code(), Code::INVALID_CONFIG, "{conf}: {error}");
        assert!(error.msg().contains(culprit), "{conf}: {error}");
    }
    for (args, culprit) in [
        ("IP=10.0.0.1", "invalid CIDR address: 10.0.0.1"),
        ("IP=10.0.0.1/8,", "invalid CIDR address: :"),
        ("GATEWAY=x", "GATEWAY: invalid IP address: x"),
        ("ip=10.0.0.1/8", r#"unknown args ["ip"]:"#),
    ] {
        let error = Static.add(&request(json!({"ipam": {}}), args)).expect_err(args);
        assert_eq!(error.code(), Code::INVALID_ENVIRONMENT, "{args}: {error}");
        assert!(error.msg().contains(culprit), "{args}: {error}");
    }
}

#[test]
fn status_tells_an_invalid_configuration() {
    assert_eq!(Static.status(&network(json!({"ipam": {"addresses": addresses()}}))), Ok(()));
    let error = Static.status(&network(json!({"ipam": {"addresses": 5}}))).expect_err("wrong type");
    assert_eq!(error.code(), Code::INVALID_CONFIG);
}

#[test]
fn del_and_gc_succeed_whatever_the_configuration_says() {
    for conf in [json!({"ipam": 5}), json!({})] {
        assert_eq!(Static.del(&request(conf.clone(), "IP=nonsense")), Ok(()));
        assert_eq!(Static.gc(&network(conf)), Ok(()));
    }
}

#[test]
fn check_compares_address_length_and_gateway() {
    let check = |ips: Value| {
        let previous = json!({"cniVersion": "1.1.0", "ips": ips});
        let conf = json!({"ipam": {"addresses": addresses()}, "prevResult": previous});
        Static.check(&request(conf, "")).map_err(|e| e.msg().to_owned())
    };
    let v4 = json!({"address": "10.1.0.5/16", "gateway": "10.1.0.1"});
    let v6 = json!({"address": "fd00::5/64"});
    assert_eq!(check(json!([v4, v6])), Ok(()));
    let other = json!({"address": "192.0.2.1/24", "gateway": "192.0.2.254"});
    let wrong_first = json!({"address": "10.1.0.5/16", "gateway": "10.1.0.9"});
    assert_eq!(check(json!([other, wrong_first, v6, v4])), Ok(()), "any entry may be the one");
    // No gateway is configured, so none is compared.
    assert_eq!(check(json!([v4, {"address": "fd00::5/64", "gateway": "fd00::1"}])), Ok(()));
    for (ips, culprit) in [
        (json!([v4]), "fd00::5/64 of interface eth0: prevResult does not have it"),
        (json!([]), "10.1.0.5/16 of interface eth0: prevResult does not have it"),
        (
            json!([{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, v6]),
            "10.1.0.5/16 of interface eth0: in prevResult it is 10.1.0.5/24",
        ),
        (json!([wrong_first, v6]), "its gateway is 10.1.0.1, in prevResult it is 10.1.0.9"),
        (json!([{"address": "10.1.0.5/16"}, v6]), "in prevResult it is none"),
    ] {
        let error = check(ips.clone()).expect_err(&ips.to_string());
        assert!(error.contains(culprit), "{ips}: {error}");
    }
    let error = Static.check(&request(json!({"ipam": {}}), "")).expect_err("no prevResult");
    assert_eq!(error.code(), Code::INVALID_CONFIG);
    assert!(error.msg().contains("prevResult missing"), "{error}");
}
