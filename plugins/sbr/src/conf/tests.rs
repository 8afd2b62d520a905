use super::*;
use cni::{Code, ContainerId, IfName};

fn plan(keys: &str, result: &str) -> Result<Plan> {
    let text = format!(r#"{{"cniVersion":"1.1.0","name":"n","prevResult":{result}{keys}}}"#);
    let request = Request {
        network: Network::new(text.into_bytes(), "".into(), &[]).expect("valid"),
        container_id: ContainerId::new("c").expect("valid"),
        ifname: IfName::new("net1").expect("valid"),
        netns: None,
        args: String::new(),
    };
    let result = request.prev_result().expect("valid").expect("there");
    Plan::new(&request, &result)
}

const RESULT: &str = r#"{"cniVersion":"1.1.0",
    "interfaces":[{"name":"br0"},{"name":"net1","sandbox":"/x"},{"name":"net2","sandbox":"/x"}],
    "ips":[{"address":"10.1.0.2/24","gateway":"10.1.0.1","interface":1},
        {"address":"10.2.0.2/24","interface":1},{"address":"10.1.0.2/24"},
        {"address":"10.9.0.2/24","interface":2},{"address":"10.8.0.2/24","interface":0},
        {"address":"2001:db8::2/64","interface":7}],
    "routes":[{"dst":"10.0.0.0/8","gw":"10.2.0.7"},{"dst":"0.0.0.0/0","gw":"10.2.0.9"},
        {"dst":"::/0","gw":"2001:db8:5::1"}]}"#;

fn shown(keys: &str) -> Vec<String> {
    let plan = plan(keys, RESULT).expect("valid");
    let gateway = |address: &Address| address.gateway.map(|ip| format!(" via {ip}"));
    plan.addresses
        .iter()
        .map(|address| format!("{}{}", address.net, gateway(address).unwrap_or_default()))
        .collect()
}

#[test]
fn each_address_of_the_interface_has_a_gateway_of_its_own() {
    assert_eq!(
        shown(""),
        ["10.1.0.2/24 via 10.1.0.1", "10.2.0.2/24 via 10.2.0.9", "2001:db8::2/64"]
    );
    assert_eq!(
        shown(r#","gateways":["10.1.0.254","2001:db8::fe"]"#),
        [
            "10.1.0.2/24 via 10.1.0.254",
            "10.2.0.2/24 via 10.1.0.254",
            "2001:db8::2/64 via 2001:db8::fe"
        ]
    );
    assert_eq!(shown(r#","table":5,"gateways":["zz"]"#).len(), 3);
}

#[test]
fn what_is_wrong_is_named() {
    for (keys, part) in [
        (r#","table":0"#, "table 0 is out of range"),
        (r#","table":-5"#, "out of range"),
        (r#","table":4294967296"#, "out of range"),
        (r#","table":"main""#, "table"),
        (
            r#","gateways":["10.1.0.1","10.1.0.2"]"#,
            "multiple IPv4 addresses: 10.1.0.1 and 10.1.0.2",
        ),
        (r#","gateways":["::1","::2"]"#, "multiple IPv6 addresses"),
        (r#","gateways":["zz"]"#, "invalid static gateway IP address: zz"),
        (r#","gateways":["1.1.1.1","::1","::2"]"#, "cannot contain more than 2 entries"),
        (r#","addSourceHints":1"#, "addSourceHints"),
    ] {
        let error = plan(keys, RESULT).expect_err(keys);
        assert_eq!(error.code(), Code::INVALID_CONFIG, "{error}");
        assert!(error.msg().contains(part), "{keys}: {error}");
    }
    for result in [
        r#"{"cniVersion":"1.1.0"}"#,
        r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],
            "ips":[{"address":"10.1.0.2/24","interface":0}]}"#,
    ] {
        let error = plan("", result).expect_err(result);
        assert!(error.msg().contains("No IP addresses supplied on interface: net1"), "{error}");
    }
}
