use super::*;
use cni::{Code, ContainerId, IfName};

fn plan(keys: &str, args: &str) -> Result<Plan> {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{keys}}}"#);
    Plan::new(&Request {
        network: Network::new(text.into_bytes(), "".into(), &[]).expect("valid"),
        container_id: ContainerId::new("c").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: None,
        args: args.to_owned(),
    })
}

fn sysctls(keys: &str) -> Vec<(String, String)> {
    let plan = plan(keys, "").expect("valid");
    plan.sysctls.into_iter().map(|sysctl| (sysctl.path, sysctl.value)).collect()
}

#[test]
fn the_address_has_four_sources() {
    let mac = |keys: &str, args: &str| plan(keys, args).expect("valid").mac.map(|m| m.to_string());
    let base = r#","mac":"02:00:00:00:00:04""#;
    let runtime = r#","runtimeConfig":{"mac":"02-00-00-00-00-02"}"#;
    let over = r#","args":{"cni":{"mac":"0200.0000.0001"}}"#;
    let args = "IgnoreUnknown=1;MAC=02:00:00:00:00:03;K8S_POD=x";
    let all = [base, runtime, over].concat();
    assert_eq!(mac(&all, args).as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(mac(&[base, runtime].concat(), args).as_deref(), Some("02:00:00:00:00:02"));
    assert_eq!(mac(base, args).as_deref(), Some("02:00:00:00:00:03"));
    assert_eq!(mac(base, "").as_deref(), Some("02:00:00:00:00:04"));
    assert_eq!(mac("", ""), None);
    // Somebody may want none.
    assert_eq!(mac(&[base, r#","args":{"cni":{"mac":""}}"#].concat(), ""), None);
}

#[test]
fn arguments_go_over_the_configuration() {
    let base = r#","promisc":true,"mtu":1400,"txQLen":7,"allmulti":true,"sysctl":{"net.a.b":"1","net.a.c":"1"}"#;
    let given = plan(base, "").expect("valid");
    assert!(given.promisc && given.changes_link());
    let settings = (given.mtu, given.tx_queue_len, given.all_multi);
    assert_eq!(settings, (Some(1400), Some(7), Some(true)));
    let over = r#","args":{"cni":{"promisc":false,"mtu":0,"txQLen":0,"allmulti":false,"sysctl":{"net/a/b":"2","net.a.d":"2"}}}"#;
    let given = plan(&[base, over].concat(), "").expect("valid");
    assert!(!given.promisc);
    let settings = (given.mtu, given.tx_queue_len, given.all_multi);
    assert_eq!(settings, (None, Some(0), Some(false)));
    let expected = [("net/a/c", "1"), ("net/a/d", "2"), ("net/a/b", "2")];
    assert_eq!(sysctls(&[base, over].concat()), expected.map(|(p, v)| (p.into(), v.into())));
    // Upstream's dies of this one.
    assert_eq!(sysctls(over).len(), 2);
    assert!(!plan(r#","promisc":false"#, "").expect("valid").changes_link());
}

#[test]
fn what_is_wrong_is_named() {
    for (keys, part) in [
        (r#","sysctl":{"net.a.b":"1","net.a.b":"2"}"#, "net.a.b is there twice"),
        (r#","sysctl":{"net.a.b":"1","net/a/b":"1"}"#, "net.a.b and net/a/b are the same"),
        (
            r#","sysctl":{"net.ipv4.conf.eth0.x":"1","net.ipv4.conf.IFNAME.x":"1"}"#,
            "duplicated sysctl keys are not allowed",
        ),
        (r#","args":{"cni":{"sysctl":{"net.a.b":"1","net.a.b":"1"}}}"#, "is there twice"),
        (r#","sysctl":{"kernel.hostname":"x"}"#, r#"invalid net sysctl key: "kernel.hostname""#),
        (r#","sysctl":{"net/../kernel/hostname":"x"}"#, "invalid net sysctl key"),
        (r#","sysctl":{"net.core.somaxconn":5}"#, "sysctl"),
        (r#","sysctl":{"net.core.somaxconn":"5\n6"}"#, r#"somaxconn: "5\n6": it must be one line"#),
        (r#","mac":"zz""#, "parse MAC address \"zz\""),
        (r#","mac":"01:00:5e:00:00:01""#, "group address"),
        (r#","mtu":-1"#, "mtu -1"),
        (r#","mtu":4294967296"#, "mtu 4294967296"),
        (r#","txQLen":-1"#, "txQLen -1 is out of range"),
        (r#","txQLen":4294967296"#, "out of range"),
        (r#","promisc":"yes""#, "promisc"),
    ] {
        let error = plan(keys, "").expect_err(keys);
        assert_eq!(error.code(), Code::INVALID_CONFIG, "{error}");
        assert!(error.msg().contains(part), "{keys}: {error}");
    }
    for args in ["MAC", "FOO=1", "mac=02:00:00:00:00:01"] {
        assert_eq!(plan("", args).expect_err(args).code(), Code::INVALID_ENVIRONMENT);
    }
}

#[test]
fn a_bad_configuration_still_has_a_place_for_backups() {
    let of = |keys: &str| {
        let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{keys}}}"#);
        data_dir(&Network::new(text.into_bytes(), "".into(), &[]).expect("valid"))
    };
    assert_eq!(of(""), PathBuf::from("/run/cni/tuning"));
    assert_eq!(of(r#","dataDir":"/x","mtu":"many""#), PathBuf::from("/x"));
    assert_eq!(of(r#","dataDir":5"#), PathBuf::from("/run/cni/tuning"));
}
