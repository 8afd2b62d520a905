use super::*;
use cni::{Code, ContainerId, IfName};

fn request(text: &str) -> Request {
    let text = format!(r#"{{"name":"n","cniVersion":"1.0.0",{text}}}"#);
    Request {
        network: Network::new(text.into_bytes(), "".into(), &[]).expect("valid"),
        container_id: ContainerId::new("c").expect("valid"),
        ifname: IfName::new("eth0").expect("valid"),
        netns: None,
        args: String::new(),
    }
}

fn plan(text: &str) -> Result<Plan> {
    Plan::new(&request(text).network)
}

fn sources(text: &str) -> Result<Sources> {
    let request = request(text);
    Sources::new(&Plan::new(&request.network)?, &request)
}

#[test]
fn modes_are_three_and_l2_is_the_default() {
    for (text, mode) in [
        ("", IpvlanMode::L2),
        ("l2", IpvlanMode::L2),
        ("l3", IpvlanMode::L3),
        ("l3s", IpvlanMode::L3s),
    ] {
        assert_eq!(plan(&format!(r#""mode":"{text}""#)).expect(text).mode, mode);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (bad, part) in [
        (r#""mode":"L2""#, "unknown ipvlan mode"),
        (r#""mtu":-1"#, "invalid MTU -1"),
        (r#""mtu":4294967296"#, "out of range"),
        (r#""master":["eth0"]"#, "master"),
        (r#""hostShim":true,"linkInContainer":true"#, "linkInContainer"),
    ] {
        let error = plan(bad).err().expect(bad);
        assert!(error.code() == Code::INVALID_CONFIG && error.msg().contains(part), "{error}");
    }
}

#[test]
fn parent_and_addresses_come_from_the_configuration_or_the_previous_result() {
    let previous =
        r#""prevResult":{"interfaces":[{"name":"below"}],"ips":[{"address":"10.1.0.2/24"}]}"#;
    let of = |text: &str| {
        let sources = sources(text).expect(text);
        let previous = matches!(sources.addresses, Addresses::Previous(_));
        (sources.parent, previous)
    };
    assert_eq!(of(previous), ("below".into(), true));
    assert_eq!(of(&format!(r#""master":"eth0",{previous}"#)), ("eth0".into(), true));
    let ipam = r#""ipam":{"type":"x"}"#;
    assert_eq!(of(&format!("{ipam},{previous}")), ("below".into(), false));
    assert_eq!(of(ipam), (String::new(), false));
}

#[test]
fn a_previous_result_without_them_is_an_error() {
    for (bad, part) in [
        (r#""master":"eth0""#, "ipam.type is missing"),
        (r#""master":"eth0","prevResult":{"interfaces":[{"name":"a"}]}"#, "ipam.type is missing"),
        (r#""prevResult":{"ips":[{"address":"10.1.0.2/24"}]}"#, "single named interface"),
        (r#""prevResult":{"interfaces":[{"name":"a"},{"name":"b"}]}"#, "single named interface"),
        (r#""prevResult":{"interfaces":[{"name":""}]}"#, "single named interface"),
    ] {
        let error = sources(bad).err().expect(bad);
        assert!(error.code() == Code::INVALID_CONFIG && error.msg().contains(part), "{error}");
    }
}
