use super::*;
use serde_json::{Value, json};
use std::ffi::OsString;

fn network(mut conf: Value) -> Network {
    let defaults = [("cniVersion", json!("1.1.0")), ("name", json!("net"))];
    for (key, value) in defaults {
        conf.as_object_mut().expect("an object").entry(key).or_insert(value);
    }
    Network::new(conf.to_string().into_bytes(), OsString::new(), &[]).expect("a valid document")
}

fn plan(conf: Value, args: &str) -> Plan {
    Plan::new(&network(conf.clone()), args).unwrap_or_else(|e| panic!("{conf}: {e}"))
}

fn refused(conf: Value, args: &str) -> Error {
    Plan::new(&network(conf.clone()), args).expect_err(&conf.to_string())
}

fn sets(plan: &Plan) -> Vec<String> {
    plan.sets.iter().map(RangeSet::to_string).collect()
}

fn requested(plan: &Plan) -> Vec<Option<String>> {
    plan.requested.iter().map(|ip| ip.map(|ip| ip.to_string())).collect()
}

#[test]
fn sets_come_from_three_places_in_order() {
    let conf = json!({
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.3.0.0/29"}]]},
        "ipam": {
            "ranges": [[{"subnet": "10.2.0.0/29"}, {"subnet": "10.2.1.0/29"}], [{"subnet": "fd00::/126"}]],
            "subnet": "10.1.0.0/29", "rangeStart": "10.1.0.3", "rangeEnd": "10.1.0.4",
            "gateway": "10.1.0.6", "exclude": ["10.1.0.4"],
        },
    });
    assert_eq!(
        sets(&plan(conf, "")),
        [
            "10.3.0.1-10.3.0.6",
            "10.1.0.3-10.1.0.4",
            "10.2.0.1-10.2.0.6,10.2.1.1-10.2.1.6",
            "fd00::1-fd00::3"
        ]
    );
    // Keys in any letter case, null and empty texts as if they were not there.
    let conf =
        json!({"IPAM": {"Subnet": "10.1.0.0/29", "RANGEEND": "", "gateway": null, "ranges": null}});
    assert_eq!(sets(&plan(conf, "")), ["10.1.0.1-10.1.0.6"]);
    // Without a subnet the other three mean nothing.
    let conf = json!({"ipam": {"rangeStart": "10.9.0.1", "ranges": [[{"subnet": "10.2.0.0/29"}]]}});
    assert_eq!(sets(&plan(conf, "")), ["10.2.0.1-10.2.0.6"]);
}

#[test]
fn an_address_of_ipv4_in_ipv6_form_is_one_of_ipv4() {
    let range = json!({"subnet": "10.1.0.0/24", "rangeStart": "::ffff:10.1.0.9",
        "rangeEnd": "::ffff:10.1.0.10", "gateway": "::ffff:10.1.0.1"});
    let plan = plan(json!({"ipam": {"ranges": [[range]]}}), "IP=::ffff:10.1.0.9");
    assert_eq!(sets(&plan), ["10.1.0.9-10.1.0.10"]);
    assert_eq!(
        plan.sets[0].range_of(IpAddr::from([10, 1, 0, 9])).map(|r| r.gateway()),
        Some(IpAddr::from([10, 1, 0, 1]))
    );
    assert_eq!(requested(&plan), [Some("10.1.0.9".to_owned())]);
}

#[test]
fn keys_and_defaults() {
    let minimal = plan(json!({"ipam": {"subnet": "10.1.0.0/24"}}), "");
    let place = Place {
        data_dir: "/var/lib/cni/networks".into(),
        network: "net".into(),
        lock_timeout: Duration::from_secs(30),
        cooldown: 0,
    };
    assert_eq!(minimal.place, place);
    assert_eq!(place.dir(), PathBuf::from("/var/lib/cni/networks/net"));
    assert!(!minimal.idempotent_add && minimal.resolv_conf.is_none() && minimal.routes.is_empty());
    let all = json!({"ipam": {"subnet": "10.1.0.0/24", "dataDir": "/d", "resolvConf": "/r",
        "routes": [{"dst": "0.0.0.0/0"}], "releaseCooldown": 7, "lockTimeout": 0, "idempotentAdd": true}});
    let full = plan(all.clone(), "");
    assert_eq!(full.place.dir(), PathBuf::from("/d/net"));
    assert_eq!((full.place.cooldown, full.place.lock_timeout), (7, Duration::ZERO));
    assert_eq!(full.resolv_conf, Some("/r".into()));
    assert_eq!((full.idempotent_add, full.routes.len()), (true, 1));
    assert_eq!(Place::for_teardown(&network(all)), Ok(full.place));
}

#[test]
fn requested_addresses_are_added_up_and_find_their_sets() {
    let ipam = json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}], [{"subnet": "fd00::/64"}]]});
    let conf = json!({"ipam": ipam, "args": {"cni": {"ips": ["10.2.0.7/24"]}},
        "runtimeConfig": {"ips": ["fd00::00:7", "10.2.0.7"]}});
    let some = |text: &str| Some(text.to_owned());
    let all = plan(conf, "IP=10.1.0.7/8");
    assert_eq!(requested(&all), [some("10.1.0.7"), some("10.2.0.7"), some("fd00::7")]);
    let one = plan(json!({"ipam": ipam}), "IP=;IgnoreUnknown=1;K8S_POD_NAME=x");
    assert_eq!(requested(&one), [None, None, None]);
}

#[test]
fn teardown_needs_nothing_but_where_the_leases_are() {
    for conf in [
        json!({}),
        json!({"ipam": 5}),
        json!({"ipam": {"subnet": "nonsense", "ranges": 5, "lockTimeout": "x", "releaseCooldown": -1}}),
        json!({"ipam": {"dataDir": ""}, "runtimeConfig": 5, "args": []}),
    ] {
        let place = Place::for_teardown(&network(conf.clone())).expect("enough");
        assert_eq!(place.dir(), PathBuf::from("/var/lib/cni/networks/net"), "{conf}");
        assert_eq!((place.cooldown, place.lock_timeout), (0, Duration::from_secs(30)));
    }
    let error =
        Place::for_teardown(&network(json!({"ipam": {"dataDir": 5}}))).expect_err("no text");
    assert_eq!(error.code(), Code::INVALID_CONFIG);
}

#[test]
fn errors_name_the_culprit_and_have_the_right_code() {
    let subnet = || json!({"subnet": "10.1.0.0/24"});
    for (conf, culprit) in [
        (json!({}), "ipam is missing"),
        (json!({"ipam": []}), "ipam: "),
        (json!({"ipam": {}}), "no IP ranges specified"),
        (json!({"ipam": {"ranges": [[]]}}), "invalid range set 0: it is empty"),
        (json!({"ipam": {"ranges": [null]}}), "ipam.ranges[0]"),
        (json!({"ipam": {"ranges": [[null]]}}), "invalid range set 0: its subnet is missing"),
        (
            json!({"ipam": {"subnet": "::ffff:10.1.0.0/120"}}),
            "ipam.subnet: ::ffff:10.1.0.0/120 is a network of IPv4 addresses in IPv6 form: write 10.1.0.0/24",
        ),
        (json!({"ipam": {"ranges": [[{"subnet": "::FFFF:a01:0/112"}]]}}), "write 10.1.0.0/16"),
        (json!({"ipam": {"subnet": "::ffff:10.1.0.0/95"}}), "has host bits set"),
        (json!({"ipam": {"subnet": "10.1.0.0"}}), "ipam.subnet: invalid CIDR address: 10.1.0.0"),
        (json!({"ipam": {"ranges": [[subnet()], [{"subnet": "x"}]]}}), "ipam.ranges[1][0].subnet"),
        (
            json!({"ipam": {"ranges": [[subnet()], [{"subnet": "10.0.0.1/8"}]]}}),
            "invalid range set 1: ",
        ),
        (json!({"ipam": {"ranges": [[subnet()], [subnet()]]}}), "range set 0 overlaps with 1"),
        (
            json!({"cniVersion": "0.2.0", "ipam": {"ranges": [[subnet()], [{"subnet": "10.2.0.0/24"}]]}}),
            "CNI version 0.2.0 does not support more than 1 address per family",
        ),
        (
            json!({"ipam": {"subnet": "10.1.0.0/24", "exclude": ["x"]}}),
            "exclude: invalid IP address: x",
        ),
        (
            json!({"ipam": {"subnet": "10.1.0.0/24", "releaseCooldown": "x"}}),
            "ipam.releaseCooldown",
        ),
        (json!({"ipam": {"subnet": "10.1.0.0/24", "releaseCooldown": -5}}), "ipam.releaseCooldown"),
        (
            json!({"ipam": subnet(), "args": {"cni": {"ips": ["zz"]}}}),
            "args.cni.ips[0]: invalid IP address: zz",
        ),
        (json!({"ipam": subnet(), "runtimeConfig": {"ips": [""]}}), "runtimeConfig.ips[0]"),
        (json!({"ipam": subnet(), "runtimeConfig": {"ips": [null]}}), "runtimeConfig.ips[0]"),
        (
            json!({"ipam": subnet(), "runtimeConfig": {"ips": ["10.1.0.1"]}}),
            "10.1.0.1 is the gateway",
        ),
        (
            json!({"ipam": subnet(), "runtimeConfig": {"ips": ["10.1.0.5", "10.1.0.6", "10.9.0.1"]}}),
            "failed to allocate all requested IPs: 10.1.0.6 10.9.0.1",
        ),
    ] {
        let error = refused(conf.clone(), "");
        assert_eq!(error.code(), Code::INVALID_CONFIG, "{conf}: {error}");
        assert!(error.msg().contains(culprit), "{conf}: {error}");
    }
    for args in ["IP=zz", "IP=10.1.0.5,10.1.0.6", "IP=10.1.0.5/99", "ip=10.1.0.5", "FOO"] {
        let error = refused(json!({"ipam": subnet()}), args);
        assert_eq!(error.code(), Code::INVALID_ENVIRONMENT, "{args}: {error}");
    }
}
