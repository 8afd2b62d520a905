use super::*;
use cni::Code;

fn plan_with(args: &str, text: &str) -> Result<Plan> {
    let version = if text.contains("cniVersion") { "" } else { r#","cniVersion":"1.0.0""# };
    let text = format!(r#"{{"name":"n"{version},{text}}}"#);
    Plan::new(&Network::new(text.into_bytes(), "".into(), &[]).expect("valid"), args)
}

fn plan(text: &str) -> Result<Plan> {
    plan_with("", text)
}

#[test]
fn defaults_are_upstreams() {
    let plan = plan(r#""x":1"#).expect("valid");
    assert_eq!((plan.parent.as_str(), plan.place), ("", Place::Host));
    assert_eq!((plan.mode, plan.mtu, plan.mac), (MacvlanMode::Bridge, None, None));
    assert!(plan.broadcast_queue_len.is_none() && plan.shim.is_none() && plan.ipam.is_none());
}

#[test]
fn modes_are_the_four_without_source() {
    for (text, mode) in [
        ("bridge", MacvlanMode::Bridge),
        ("private", MacvlanMode::Private),
        ("vepa", MacvlanMode::Vepa),
        ("passthru", MacvlanMode::Passthru),
    ] {
        assert_eq!(plan(&format!(r#""mode":"{text}""#)).expect(text).mode, mode);
    }
}

#[test]
fn the_runtimes_address_wins_then_the_arguments_then_the_configurations() {
    let of = |args: &str, keys: &str| {
        let mac = plan_with(args, keys).expect(keys).mac;
        mac.map(|mac| mac.bytes()[5])
    };
    let own = r#""mac":"02:00:00:00:00:01""#;
    let runtimes = r#""mac":"bad","runtimeConfig":{"mac":"02:00:00:00:00:03"}"#;
    let args = "IgnoreUnknown=1;K8S=x;MAC=02:00:00:00:00:02";
    assert_eq!(of("", own), Some(1));
    assert_eq!(of(args, own), Some(2));
    assert_eq!(of(args, runtimes), Some(3));
    assert_eq!(of("MAC=", own), Some(1));
}

#[test]
fn what_cannot_be_is_refused() {
    for (bad, part) in [
        (r#""mode":"source""#, "unknown macvlan mode"),
        (r#""mtu":-1"#, "invalid MTU -1"),
        (r#""mtu":4294967296"#, "out of range"),
        (r#""mtu":1.5"#, "mtu"),
        (r#""bcqueuelen":-1"#, "bcqueuelen"),
        (r#""mac":"nope""#, "nope"),
        (r#""linkInContainer":"yes""#, "linkInContainer"),
        (r#""cniVersion":"0.2.0""#, "0.2.0"),
        (r#""hostShim":true"#, "needs ipam"),
        (r#""hostShim":true,"ipam":{"type":"x"},"mode":"private""#, "needs mode bridge"),
        (r#""hostShim":true,"ipam":{"type":"x"},"linkInContainer":true"#, "linkInContainer"),
    ] {
        let error = plan(bad).err().expect(bad);
        assert!(error.code() == Code::INVALID_CONFIG && error.msg().contains(part), "{error}");
    }
    let error = plan_with("MAC=a;X=1", r#""x":1"#).err().expect("unknown X");
    assert_eq!(error.code(), Code::INVALID_ENVIRONMENT);
}
