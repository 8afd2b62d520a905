use super::*;
use crate::cidr::parse as cidr;
use crate::{Dns, Interface, IpConfig, Route};
use serde_json::json;

fn full() -> Success {
    Success {
        interfaces: vec![
            Interface {
                name: "cni0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: 1500,
                ..Interface::default()
            },
            Interface {
                name: "eth0".into(),
                sandbox: "/run/netns/a".into(),
                pci_id: "x".into(),
                ..Default::default()
            },
        ],
        ips: vec![
            IpConfig {
                interface: Some(1),
                address: cidr("fd00::a/64").expect("valid"),
                gateway: None,
            },
            IpConfig {
                interface: Some(0),
                address: cidr("10.1.2.3/24").expect("valid"),
                gateway: Some([10, 1, 2, 1].into()),
            },
            IpConfig {
                interface: None,
                address: cidr("10.9.9.9/24").expect("valid"),
                gateway: None,
            },
        ],
        routes: vec![
            Route { mtu: 1400, table: Some(0), ..Route::to(cidr("::/0").expect("valid")) },
            Route {
                gw: Some([10, 1, 2, 1].into()),
                priority: 5,
                ..Route::to(cidr("0.0.0.0/0").expect("valid"))
            },
        ],
        dns: Dns { nameservers: vec!["10.1.2.1".into()], domain: "a<b".into(), ..Dns::default() },
    }
}

fn text(success: &Success, version: Version) -> String {
    String::from_utf8(render(success, version).expect("convertible")).expect("UTF-8")
}

#[test]
fn each_family_prints_its_shape() {
    assert_eq!(
        text(&full(), Version::V0_2_0),
        r#"{
    "cniVersion": "0.2.0",
    "ip4": {
        "ip": "10.1.2.3/24",
        "gateway": "10.1.2.1",
        "routes": [
            {
                "dst": "0.0.0.0/0",
                "gw": "10.1.2.1"
            }
        ]
    },
    "ip6": {
        "ip": "fd00::a/64",
        "routes": [
            {
                "dst": "::/0"
            }
        ]
    },
    "dns": {
        "nameservers": [
            "10.1.2.1"
        ],
        "domain": "a\u003cb"
    }
}"#
    );
    assert_eq!(
        to_value(&full(), Version::V0_4_0).expect("convertible"),
        json!({
            "cniVersion": "0.4.0",
            "interfaces": [
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "sandbox": "/run/netns/a"},
            ],
            "ips": [
                {"version": "6", "interface": 1, "address": "fd00::a/64"},
                {"version": "4", "interface": 0, "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
                {"version": "4", "address": "10.9.9.9/24"},
            ],
            "routes": [
                {"dst": "::/0", "mtu": 1400, "table": 0},
                {"dst": "0.0.0.0/0", "gw": "10.1.2.1", "priority": 5},
            ],
            "dns": {"nameservers": ["10.1.2.1"], "domain": "a<b"},
        })
    );
    let printed = text(&full(), Version::V1_1_0);
    let order = [
        "\"cniVersion\"",
        "\"dns\"",
        "\"domain\"",
        "\"nameservers\"",
        "\"interfaces\"",
        "\"mac\"",
        "\"mtu\": 1500",
        "\"name\": \"cni0\"",
        "\"pciID\"",
        "\"sandbox\"",
        "\"ips\"",
        "\"address\"",
        "\"interface\": 1",
        "\"gateway\"",
        "\"routes\"",
        "\"dst\"",
        "\"mtu\": 1400",
        "\"table\": 0",
        "\"gw\"",
        "\"priority\": 5",
    ];
    let mut at = 0;
    for key in order {
        at +=
            printed[at..].find(key).unwrap_or_else(|| panic!("{key} is out of order in {printed}"));
    }
}

#[test]
fn an_empty_result_prints_what_each_version_always_prints() {
    let empty = Success::default();
    assert_eq!(text(&empty, Version::V1_0_0), "{\n    \"cniVersion\": \"1.0.0\"\n}");
    assert_eq!(
        text(&empty, Version::V0_3_0),
        "{\n    \"cniVersion\": \"0.3.0\",\n    \"dns\": {}\n}"
    );
    let error = render(&empty, Version::V0_1_0).expect_err("no address");
    assert!(error.msg().contains("no address"), "{error}");
}

#[test]
fn every_version_reads_what_it_prints() {
    for &version in Version::ALL {
        let narrowed = narrow(full(), version).expect("convertible");
        let printed = to_value(&full(), version).expect("convertible");
        assert_eq!(parse_result(&printed, Version::V0_1_0), Ok(narrowed), "{version}");
    }
}

#[test]
fn all_pairs_of_versions_convert() {
    for &from in Version::ALL {
        for &to in Version::ALL {
            let printed = to_value(&full(), from).expect("convertible");
            let read = parse_result(&printed, Version::V0_1_0).expect("readable");
            let again = narrow(read, to).expect("convertible");
            assert_eq!(
                again,
                narrow(narrow(full(), from).expect("ok"), to).expect("ok"),
                "{from} to {to}"
            );
        }
    }
}

#[test]
fn results_without_version_take_the_default_and_unknown_ones_are_refused() {
    let value = json!({"ip4": {"ip": "10.0.0.2/8"}, "ips": [{"address": "10.0.0.3/8"}]});
    let address =
        |v: Version| parse_result(&value, v).expect("readable").ips[0].address.to_string();
    assert_eq!(address(Version::V0_2_0), "10.0.0.2/8");
    assert_eq!(address(Version::V1_0_0), "10.0.0.3/8");
    assert!(parse_result(&json!({"cniVersion": "2.0.0"}), Version::V1_0_0).is_err());
    assert!(parse_result(&json!([]), Version::V1_0_0).is_err());
    assert!(parse_result(&json!({"ips": [{"address": "10.0.0.3"}]}), Version::V1_0_0).is_err());
}

#[test]
fn prev_results_stay_in_their_family() {
    for &config in Version::ALL {
        for &prev in Version::ALL {
            let value = json!({"cniVersion": prev.as_str()});
            assert_eq!(
                parse_prev_result(&value, config).is_ok(),
                prev.family() == config.family(),
                "{prev} {config}"
            );
        }
        assert!(parse_prev_result(&json!({}), config).is_ok());
        assert!(parse_prev_result(&json!({"cniVersion": null}), config).is_ok());
        let explicit_empty = parse_prev_result(&json!({"cniVersion": ""}), config);
        assert_eq!(explicit_empty.is_ok(), config.family() == Family::V0_2);
        assert!(parse_prev_result(&json!(5), config).is_err());
    }
}

#[test]
fn version_numbers() {
    assert_eq!(parse_number(""), Ok((0, 1, 0)));
    assert_eq!(parse_number("1"), Ok((1, 0, 0)));
    assert_eq!(parse_number("0.4"), Ok((0, 4, 0)));
    assert_eq!(parse_number("01.1.+2"), Ok((1, 1, 2)));
    for bad in ["abc", "1.2.3.4", "1..2", "v1.0.0", "1.0.0-rc1"] {
        assert!(parse_number(bad).is_err(), "{bad}");
    }
}
