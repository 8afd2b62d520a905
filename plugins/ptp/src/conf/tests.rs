use super::*;
use cni::{Code, IpConfig};

fn plan(text: &str) -> Result<Plan> {
    let text = format!(r#"{{"name":"n","cniVersion":"1.0.0",{text}}}"#);
    Plan::new(&Network::new(text.into_bytes(), "".into(), &[]).expect("valid"))
}

#[test]
fn keys_are_read_and_checked() {
    let good = plan(r#""mtu":1400,"ipam":{"type":"static"}"#).expect("valid");
    assert_eq!(good.mtu, Some(1400));
    assert_eq!(plan(r#""mtu":-5,"ipam":{"type":"static"}"#).expect("valid").mtu, None);
    for (bad, code, part) in [
        (r#""mtu":1400"#, Code::INVALID_CONFIG, "ipam.type"),
        (r#""mtu":1,"ipam":{"type":"static"}"#, Code::INVALID_CONFIG, "mtu 1 "),
        (r#""mtu":"1","ipam":{"type":"static"}"#, Code::INVALID_CONFIG, "mtu"),
        (
            r#""ipMasq":true,"ipMasqBackend":"x","ipam":{"type":"static"}"#,
            Code::INVALID_CONFIG,
            "ipMasqBackend",
        ),
    ] {
        let error = plan(bad).err().expect(bad);
        assert!(error.code() == code && error.msg().contains(part), "{bad}: {error}");
    }
}

#[test]
fn every_address_needs_a_gateway_of_its_own() {
    let of = |address: &str, gateway: Option<&str>| {
        let ip = IpConfig {
            interface: None,
            address: address.parse().expect("an address"),
            gateway: gateway.map(|g| g.parse().expect("an address")),
        };
        complete(Success { ips: vec![ip], ..Success::default() }, 1)
    };
    let good = of("10.1.0.2/24", Some("10.1.0.1")).expect("it has one");
    assert_eq!(good.ips[0].interface, Some(1));
    for (gateway, part) in [
        (None, "no gateway"),
        (Some("10.1.0.2"), "the address itself"),
        (Some("fd00::1"), "other family"),
    ] {
        let error = of("10.1.0.2/24", gateway).expect_err(part);
        assert!(error.msg().contains(part) && error.msg().contains("10.1.0.2/24"), "{error}");
    }
}
