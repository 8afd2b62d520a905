use super::*;
use cni::Code;

fn plan(keys: &str, args: &str) -> Result<Plan> {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{keys}}}"#);
    Plan::new(&Network::new(text.into_bytes(), "".into(), &[]).expect("valid"), args)
}

#[test]
fn the_runtimes_address_wins_then_the_arguments() {
    let keys = [r#","runtimeConfig":{"mac":"02:00:00:00:00:01"}"#, r#","mac":"02:00:00:00:00:03""#];
    let mac = |keys: &str, args: &str| plan(keys, args).expect("valid").mac.map(|m| m.to_string());
    let args = "MAC=02:00:00:00:00:02";
    assert_eq!(mac(&keys.concat(), args).as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(mac(keys[1], args).as_deref(), Some("02:00:00:00:00:02"));
    assert_eq!(mac(keys[1], "MAC=").as_deref(), Some("02:00:00:00:00:03"));
    assert_eq!(mac("", "IgnoreUnknown=1;K8S_POD=x"), None);
}

#[test]
fn all_keys_are_read() {
    let plan = plan(
        r#","MultiQueue":true,"mtu":1400,"owner":107,"group":0,"selinuxContext":"a:b:c","bridge":"br0","disableipv6whenunused":true,"args":{"x":1}"#,
        "",
    )
    .expect("valid");
    assert!(plan.multi_queue);
    assert_eq!((plan.mtu, plan.owner, plan.group), (Some(1400), Some(107), Some(0)));
    assert_eq!(plan.selinux_context.as_deref(), Some("a:b:c"));
    assert_eq!(plan.bridge.as_deref(), Some("br0"));
    assert!(plan.disable_ipv6_when_unused.0);
}

#[test]
fn what_is_wrong_is_named() {
    for (keys, args, code, culprit) in [
        (r#","mtu":-1"#, "", Code::INVALID_CONFIG, "MTU"),
        (r#","mtu":"big""#, "", Code::INVALID_CONFIG, "mtu"),
        (r#","owner":-1"#, "", Code::INVALID_CONFIG, "owner"),
        (r#","owner":4294967295"#, "", Code::INVALID_CONFIG, "owner"),
        (r#","group":4294967296"#, "", Code::INVALID_CONFIG, "group"),
        (r#","mac":"x""#, "", Code::INVALID_CONFIG, "MAC"),
        (r#","disableIPv6WhenUnused":1"#, "", Code::INVALID_CONFIG, "disableIPv6WhenUnused"),
        (r#","args":"x""#, "", Code::INVALID_CONFIG, "args"),
        (r#","selinuxContext":"a b""#, "", Code::INVALID_CONFIG, "selinuxContext"),
        ("", "IP=10.0.0.1", Code::INVALID_ENVIRONMENT, r#"unknown args ["IP"]:"#),
        ("", "MAC=01:00:5e:00:00:01", Code::INVALID_CONFIG, "group address"),
    ] {
        let error = plan(keys, args).map(drop).expect_err(keys);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.msg().contains(culprit), "{keys}: {error}");
    }
}
