use super::*;
use cni::Code;

fn network(text: &str) -> Network {
    let text = format!(r#"{{"name":"n","cniVersion":"1.1.0",{text}}}"#);
    Network::new(text.into_bytes(), "".into(), &[]).expect("valid")
}

#[test]
fn ipam_is_required_to_add_but_not_to_collect() {
    let without = network(r#""ipam":{}"#);
    let error = Plan::new(&without).err().expect("nothing to carry");
    assert!(error.code() == Code::INVALID_CONFIG && error.msg().contains("requires an IPAM"));
    assert_eq!(Dummy.status(&without).map_err(|e| e.code()), Err(Code::INVALID_CONFIG));
    assert_eq!(Dummy.gc(&without), Ok(()));
    assert_eq!(Dummy.gc(&network(r#""ipam":{},"cni.dev/valid-attachments":[]"#)), Ok(()));
    assert!(Dummy.gc(&network(r#""cni.dev/valid-attachments":7"#)).is_err());
}

#[test]
fn keys_are_read_in_any_letter_case() {
    let plan = Plan::new(&network(r#""IPAM":{"type":"x"},"disableipv6whenunused":true"#));
    assert!(plan.expect("valid").disable_ipv6_when_unused.0);
}
