use super::*;
use cni::{AttachmentId, IfName};
use std::ffi::OsString;

const PREV_RESULT: &str = r#"{"cniVersion": "1.1.0", "interfaces": [
    {"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.1.0.2/24", "interface": 2}, {"address": "fd00::2/64", "interface": 2}]}"#;

fn request(keys: &str, result: &str) -> Request {
    let raw = format!(
        r#"{{"cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": {result}{}{keys}}}"#,
        if keys.is_empty() { "" } else { ", " }
    );
    Request {
        network: Network::new(raw.into_bytes(), OsString::new(), &[]).expect("valid"),
        container_id: cni::ContainerId::new("ctr").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: None,
        args: String::new(),
    }
}

fn plan_behind(keys: &str, result: &str) -> Result<Option<Plan>> {
    let request = request(keys, result);
    let result = request.prev_result().expect("valid").expect("given");
    Plan::new(&request, &result)
}

fn plan(keys: &str) -> Result<Option<Plan>> {
    plan_behind(keys, PREV_RESULT)
}

fn mapped(keys: &str, mappings: &str) -> String {
    let comma = if keys.is_empty() { "" } else { ", " };
    format!(r#"{keys}{comma}"runtimeConfig": {{"portMappings": [{mappings}]}}"#)
}

const ONE: &str = r#"{"hostPort": 80, "containerPort": 8080, "protocol": "TCP"}"#;

#[test]
fn defaults() {
    let plan = plan(&mapped("", ONE)).expect("valid").expect("something to map");
    assert_eq!((plan.backend, plan.mark), (None, 1 << 13));
    assert_eq!(plan.masquerade, Masquerade::Locals);
    assert_eq!(plan.families(), [Family::V4, Family::V6]);
    assert_eq!(plan.targets[0].address.to_string(), "10.1.0.2/24");
    assert!(plan.targets[0].at_loopback && !plan.targets[1].at_loopback);
    assert_eq!(plan.hosts()[0].to_string(), "tcp port 80");
}

#[test]
fn nothing_to_map() {
    assert!(plan("").expect("valid").is_none());
    assert!(plan(&mapped("", "")).expect("valid").is_none());
    assert!(plan(r#""runtimeConfig": {"portMappings": null}"#).expect("valid").is_none());
    let no_address = r#"{"cniVersion": "1.1.0"}"#;
    assert!(plan_behind(&mapped("", ONE), no_address).expect("valid").is_none());
}

#[test]
fn addresses_of_the_host() {
    let mapping = |host_ip: &str| {
        format!(
            r#"{{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "{host_ip}"}}"#
        )
    };
    let families = |host_ip: &str| {
        let plan = plan(&mapped("", &mapping(host_ip))).expect("valid").expect("mapped");
        let loopback: Vec<bool> = plan.targets.iter().map(|t| t.at_loopback).collect();
        (plan.families(), loopback)
    };
    let both = (vec![Family::V4, Family::V6], vec![true, false]);
    assert_eq!(families(""), both);
    assert_eq!(families("0.0.0.0"), both);
    assert_eq!(families("::"), both);
    assert_eq!(families("192.0.2.1"), (vec![Family::V4], vec![false]));
    assert_eq!(families("::ffff:192.0.2.1"), (vec![Family::V4], vec![false]));
    assert_eq!(families("127.0.0.2"), (vec![Family::V4], vec![true]));
    assert_eq!(families("2001:db8::1"), (vec![Family::V6], vec![false]));
}

#[test]
fn families_of_the_container() {
    let only_v6 = r#"{"cniVersion": "1.1.0", "ips": [{"address": "fd00::2/64"}]}"#;
    let plan = plan_behind(&mapped("", ONE), only_v6).expect("valid").expect("mapped");
    assert_eq!(plan.families(), [Family::V6]);
    let v4 = r#"{"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}"#;
    let error = plan_behind(&mapped("", v4), only_v6).expect_err("no way there");
    assert!(error.msg().contains("tcp port 80 of 192.0.2.1"), "{error}");
    assert!(error.msg().contains("no IPv4 address"), "{error}");
}

#[test]
fn backends_follow_from_other_keys() {
    let backend = |keys: &str| plan(&mapped(keys, ONE)).map(|plan| plan.expect("mapped").backend);
    let is =
        |keys: &str, backend_: Backend| assert_eq!(backend(keys), Ok(Some(backend_)), "{keys}");
    is(r#""backend": "nftables""#, Backend::Nftables);
    is(r#""backend": "iptables""#, Backend::Iptables);
    is(r#""conditionsV4": ["ip", "saddr", "10.0.0.0/8"]"#, Backend::Nftables);
    is(r#""conditionsV6": ["!", "-s", "fd00::/8"]"#, Backend::Iptables);
    is(r#""externalSetMarkChain": "KUBE-MARK-MASQ""#, Backend::Iptables);
    assert_eq!(backend(r#""conditionsV4": [], "conditionsV6": null"#), Ok(None));
    for (keys, culprit) in [
        (r#""backend": "" "#, "backend \"\""),
        (r#""backend": "ebtables""#, "ebtables"),
        (r#""backend": "nftables", "externalSetMarkChain": "X""#, "externalSetMarkChain is for"),
        (r#""backend": "iptables", "conditionsV4": ["tcp"]"#, "conditionsV4 is for nftables"),
        (
            r#""conditionsV4": ["-s", "::1"], "conditionsV6": ["tcp"]"#,
            "conditionsV6 is for nftables",
        ),
        (
            r#""externalSetMarkChain": "X", "markMasqBit": 5"#,
            "externalSetMarkChain and markMasqBit",
        ),
        (r#""markMasqBit": 32"#, "between 0 and 31"),
        (r#""markMasqBit": -1"#, "between 0 and 31"),
        (r#""conditionsV4": ["ip saddr 10.0.0.1 accept ; flush ruleset"]"#, "cannot be part"),
        (r#""conditionsV4": ["ip", "saddr 10.0.0.1 #"]"#, "cannot be part"),
        (r#""conditionsV6": ["ip6", "a\nb"]"#, "conditionsV6: \"a\\nb\" cannot be part"),
        (r#""conditionsV6": ["-s", "a\nb"]"#, "conditionsV6: \"a\\nb\" cannot be part"),
        (r#""conditionsV4": [""]"#, "conditionsV4: the first word is empty"),
        (r#""backend": "iptables", "conditionsV6": ["", "-s"]"#, "conditionsV6: the first word"),
    ] {
        let error = backend(keys).expect_err(keys);
        assert_eq!(error.code(), cni::Code::INVALID_CONFIG, "{keys}");
        assert!(error.msg().contains(culprit), "{keys}: {error}");
    }
}

#[test]
fn mappings_that_cannot_be() {
    let two = |one: &str, other: &str| format!("{one}, {other}");
    for (mappings, culprit) in [
        (
            r#"{"hostPort": 0, "containerPort": 1, "protocol": "tcp"}"#.into(),
            "Invalid host port number: 0",
        ),
        (
            r#"{"hostPort": 65536, "containerPort": 1, "protocol": "tcp"}"#.into(),
            "Invalid host port number: 65536",
        ),
        (
            r#"{"hostPort": 1, "containerPort": 0, "protocol": "tcp"}"#.into(),
            "Invalid container port number: 0",
        ),
        (
            r#"{"hostPort": -1, "containerPort": 65536, "protocol": "tcp"}"#.into(),
            "Invalid container port number: 65536",
        ),
        (
            r#"{"hostPort": "80-90", "containerPort": 1, "protocol": "tcp"}"#.into(),
            "portMappings[0].hostPort",
        ),
        (r#"{"hostPort": 1, "containerPort": 1}"#.into(), "protocol \"\""),
        (r#"{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}"#.into(), "protocol \"icmp\""),
        (r#"{"hostPort": 1, "containerPort": 1, "protocol": "6"}"#.into(), "protocol \"6\""),
        (
            r#"{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "eth0"}"#.into(),
            "hostIP",
        ),
        (
            r#"{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "192.0.2.0/24"}"#
                .into(),
            "hostIP",
        ),
        (
            r#"{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "::1"}"#.into(),
            "does not route it",
        ),
        (
            r#"{"hostPort": 1, "containerPort": 1, "protocol": "tcp", "hostIP": "224.0.0.1"}"#
                .into(),
            "group",
        ),
        (
            two(ONE, r#"{"hostPort": 80, "containerPort": 81, "protocol": "tcp"}"#),
            "portMappings[1]: tcp port 80 leads to port 8080",
        ),
    ] {
        let error = plan(&mapped("", &mappings)).expect_err(&mappings);
        assert_eq!(error.code(), cni::Code::INVALID_CONFIG, "{mappings}");
        assert!(error.msg().contains(culprit), "{mappings}: {error}");
    }
    let twice = plan(&mapped("", &two(ONE, ONE))).expect("valid").expect("mapped");
    assert_eq!(twice.targets[0].mappings.len(), 1);
}

#[test]
fn teardown_reads_what_it_can() {
    let hosts = |keys: &str| mappings_to_remove(&request(keys, PREV_RESULT).network);
    assert_eq!(hosts(&mapped("", "")), None);
    assert_eq!(hosts(&mapped(r#""backend": "x""#, ONE)).map(|hosts| hosts.len()), Some(1));
    for unknown in ["", r#""runtimeConfig": {}"#, r#""runtimeConfig": {"portMappings": null}"#] {
        assert_eq!(hosts(unknown), Some(Vec::new()), "{unknown}");
    }
    for broken in [r#"{"hostPort": 0}"#, r#""all""#, "null"] {
        assert_eq!(hosts(&mapped("", broken)), Some(Vec::new()), "{broken}");
    }
}

#[test]
fn chains_are_upstreams() {
    // The names upstream's plugin makes for these.
    let names = crate::iptables::chain_names("rcnet", "ctr1", "eth0");
    assert_eq!(names[0], "CNI-DN-183a3a9dc2408ec059074");
    assert!(names[1].len() == 28 && names[1] != names[0]);
    let attachment = AttachmentId { container_id: "ctr1".into(), ifname: "eth0".into() };
    let owner = attach::chained::Owner::new(request("", PREV_RESULT).network.name(), &attachment);
    assert_eq!(attach::chained::key_of(owner.comment()), Some(owner.key()));
}
