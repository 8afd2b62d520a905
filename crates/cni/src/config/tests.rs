use super::*;
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Conf {
    name: String,
    #[serde(rename = "isGateway")]
    is_gateway: bool,
    mtu: i32,
    vlan: Option<u16>,
    ipam: Ipam,
    dns: Option<Value>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
    ranges: Vec<Vec<Range>>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Range {
    #[serde(with = "crate::cidr::serde_cidr_opt")]
    subnet: Option<ipnetwork::IpNetwork>,
}

fn conf(text: &str) -> Result<Conf, String> {
    let value = parse(text.as_bytes()).map_err(|e| e.to_string())?;
    decode(&value).map_err(|e| e.to_string())
}

#[test]
fn keys_match_in_any_case_and_the_last_wins() {
    let got = conf(r#"{"NAME":"a","Name":"b","name":"c","ISGATEWAY":true,"MTU":5,"mtu":null}"#);
    assert_eq!(got, Ok(Conf { name: "c".into(), is_gateway: true, mtu: 5, ..Conf::default() }));
    // repeated objects merge field by field
    let got =
        conf(r#"{"ipam":{"type":"x"},"IPAM":{"ranges":[]},"ipam":{"type":"y"}}"#).expect("valid");
    assert_eq!(got.ipam.kind, "y");
}

#[test]
fn null_is_absent_and_unknown_keys_are_ignored() {
    assert_eq!(conf(r#"{"name":null,"ipam":null,"vlan":null,"x":{"y":[1]}}"#), Ok(Conf::default()));
    assert_eq!(conf("null"), Ok(Conf::default()));
    assert_eq!(conf(" {} \n"), Ok(Conf::default()));
}

#[test]
fn what_is_no_character_becomes_one() {
    for text in [r#"{"name":"a\ud800","mtu":5}"#, r#"{"na\udfffme":5,"name":"a\uDBFF","mtu":5}"#] {
        let got = conf(text).expect("valid");
        assert_eq!((got.name.as_str(), got.mtu), ("a\u{fffd}", 5), "{text}");
    }
}

#[test]
fn errors_say_where() {
    for (text, error) in [
        (r#"{"mtu":"x"}"#, "mtu: invalid type: string \"x\", expected a whole number"),
        (r#"{"mtu":5.0}"#, "mtu: invalid type: floating point `5.0`, expected a whole number"),
        (r#"{"mtu":5e0}"#, "mtu: invalid type: floating point `5.0`, expected a whole number"),
        (
            r#"{"mtu":4294967296}"#,
            "mtu: invalid value: integer `4294967296`, expected a whole number",
        ),
        (r#"{"ipam":5}"#, "ipam: invalid type: integer `5`, expected an object"),
        (
            r#"{"ipam":{"ranges":[[{"subnet":"10.0.0.0/8"},{"subnet":"zz"}]]}}"#,
            "ipam.ranges[0][1].subnet: invalid CIDR address: zz",
        ),
        (r#"{"ipam":{"ranges":[{}]}}"#, "ipam.ranges[0]: invalid type: object, expected a list"),
        (r#"{"ipam":{"ranges":[null]}}"#, "ipam.ranges[0]: invalid type: null, expected a list"),
        (r#"[]"#, "invalid type: list, expected an object"),
    ] {
        assert_eq!(conf(text), Err(error.to_owned()), "{text}");
    }
}

#[test]
fn broken_documents_are_errors() {
    for text in [
        "",
        " ",
        "{",
        "{\"name\":",
        "{\"name\":\"a\"} x",
        "{}{}",
        "\u{feff}{}",
        "{'a':1}",
        "nul",
        "{\"a\":\"\n\"}",
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text:?}");
    }
    let deep = "[".repeat(200_000);
    assert!(parse(deep.as_bytes()).expect_err("too deep").to_string().contains("recursion limit"));
    assert_eq!(parse(b"{\"a\":\"\xff\"}").expect("lossy"), json!({"a": "\u{fffd}"}));
}

#[test]
fn single_keys_are_found_in_any_case() {
    let value = json!({"PrevResult": {"a": 1}, "prevResult": null});
    assert_eq!(get(&value, "prevResult"), Some(&json!({"a": 1})));
    assert_eq!(get(&value, "nope"), None);
}
