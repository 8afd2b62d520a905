use super::*;
use cni::Code;

fn network(text: &str) -> Network {
    let text = format!(r#"{{"name":"n","cniVersion":"1.1.0","type":"vrf"{text}}}"#);
    Network::new(text.into_bytes(), "".into(), &[]).expect("valid")
}

#[test]
fn a_name_is_that_of_a_link() {
    let plan = Plan::new(&network(r#","VRFName":"blue","table":0"#)).expect("in any letter case");
    assert_eq!((plan.name.as_str(), plan.table), ("blue", None));
    let plan = Plan::new(&network(r#","vrfname":"blue","table":4294967295"#)).expect("valid");
    assert_eq!(plan.table, Some(u32::MAX));
    for (bad, part) in [
        ("", "expected to have a valid vrf name: vrfname is missing"),
        (r#","vrfname":"""#, "vrfname is missing"),
        (r#","vrfname":"sixteen-chars-xx""#, "too long"),
        (r#","vrfname":"a/b""#, "contains /"),
        (r#","vrfname":"..""#, "is . or .."),
        (r#","vrfname":"vrf%d""#, "percent sign"),
        (r#","vrfname":5"#, "vrfname"),
        (r#","vrfname":"blue","table":-1"#, "table"),
        (r#","vrfname":"blue","table":4294967296"#, "table"),
        (r#","vrfname":"blue","table":"10""#, "table"),
    ] {
        let error = Plan::new(&network(bad)).expect_err(bad);
        assert!(error.code() == Code::INVALID_CONFIG && error.msg().contains(part), "{error}");
    }
}

#[test]
fn a_del_reads_no_more_than_the_name() {
    for (text, expected) in [
        (r#","vrfname":"blue","table":"ten""#, Some("blue")),
        (r#","VRFNAME":"blue""#, Some("blue")),
        (r#","vrfname":"""#, None),
        (r#","vrfname":["blue"]"#, None),
        ("", None),
    ] {
        assert_eq!(conf::name(&network(text)).as_deref(), expected, "{text}");
    }
}

#[test]
fn gc_finds_nothing_and_reads_its_list() {
    assert_eq!(Vrf.gc(&network("")), Ok(()));
    assert_eq!(Vrf.gc(&network(r#","cni.dev/valid-attachments":[]"#)), Ok(()));
    assert!(Vrf.gc(&network(r#","cni.dev/valid-attachments":7"#)).is_err());
}
