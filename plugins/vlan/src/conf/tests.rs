use super::*;
use cni::Code;

fn plan(text: &str) -> Result<Plan> {
    let text = format!(r#"{{"name":"n","cniVersion":"1.0.0",{text}}}"#);
    Plan::new(&Network::new(text.into_bytes(), "".into(), &[]).expect("valid"))
}

#[test]
fn ids_are_those_of_the_standard() {
    for (id, expected) in [("1", 1), ("4094", 4094)] {
        let text = format!(r#""master":"eth0","vlanId":{id},"ipam":{{"type":"x"}}"#);
        assert_eq!(plan(&text).expect(id).id, expected);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (bad, part) in [
        (r#""vlanId":5,"ipam":{"type":"x"}"#, "\"master\" field is required"),
        (r#""master":"eth0","vlanId":5"#, "ipam.type"),
        (r#""master":"eth0","ipam":{"type":"x"}"#, "invalid VLAN ID 0"),
        (r#""master":"eth0","vlanId":0,"ipam":{"type":"x"}"#, "invalid VLAN ID 0"),
        (r#""master":"eth0","vlanId":4095,"ipam":{"type":"x"}"#, "invalid VLAN ID 4095"),
        (r#""master":"eth0","vlanId":-1,"ipam":{"type":"x"}"#, "invalid VLAN ID -1"),
        (r#""master":"eth0","vlanId":65541,"ipam":{"type":"x"}"#, "invalid VLAN ID 65541"),
        (r#""master":"eth0","vlanId":"5","ipam":{"type":"x"}"#, "vlanId"),
        (r#""master":"eth0","vlanId":5,"mtu":-5,"ipam":{"type":"x"}"#, "invalid MTU -5"),
    ] {
        let error = plan(bad).err().expect(bad);
        assert!(error.code() == Code::INVALID_CONFIG && error.msg().contains(part), "{error}");
    }
}
