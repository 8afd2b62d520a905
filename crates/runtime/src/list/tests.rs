use super::*;

fn parse(text: &str) -> Result<ConfigList> {
    ConfigList::parse(text.as_bytes())
}

#[test]
fn lists_that_are_not() {
    for (text, culprit) in [
        ("", "EOF"),
        ("[]", "it is not a JSON object"),
        ("null", "it is not a JSON object"),
        (r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "the key \"name\" is missing"),
        (
            r#"{"Name":"n","plugins":[{"type":"x"}]}"#,
            "the key \"name\" is missing (written \"Name\")",
        ),
        (r#"{"name":5,"plugins":[{"type":"x"}]}"#, "name: it must be a string"),
        (r#"{"name":null,"plugins":[{"type":"x"}]}"#, "name: it must be a string"),
        (r#"{"name":"","plugins":[{"type":"x"}]}"#, "missing network name"),
        (r#"{"name":"../x","plugins":[{"type":"x"}]}"#, "invalid characters found in network name"),
        (
            r#"{"name":"n","cniVersion":1,"plugins":[{"type":"x"}]}"#,
            "cniVersion: it must be a string",
        ),
        (
            r#"{"name":"n","cniVersions":"1.0.0","plugins":[{"type":"x"}]}"#,
            "cniVersions: it must be a list",
        ),
        (
            r#"{"name":"n","cniVersions":null,"plugins":[{"type":"x"}]}"#,
            "cniVersions: it must be a list",
        ),
        (
            r#"{"name":"n","cniVersions":[1],"plugins":[{"type":"x"}]}"#,
            "cniVersions[0]: it must be a string",
        ),
        (
            r#"{"name":"n","cniVersions":["1.x"],"plugins":[{"type":"x"}]}"#,
            "cniVersions[0]: invalid version",
        ),
        (
            r#"{"name":"n","cniVersion":"bad","cniVersions":[],"plugins":[{"type":"x"}]}"#,
            "cniVersion: invalid",
        ),
        (
            r#"{"name":"n","disableCheck":"yes","plugins":[{"type":"x"}]}"#,
            "disableCheck: \"yes\" is neither",
        ),
        (r#"{"name":"n","disableGC":null,"plugins":[{"type":"x"}]}"#, "disableGC: null is neither"),
        (
            r#"{"name":"n","loadOnlyInlinedPlugins":1,"plugins":[{"type":"x"}]}"#,
            "loadOnlyInlinedPlugins: 1",
        ),
        (r#"{"name":"n","loadOnlyInlinedPlugins":true}"#, "there is no key \"plugins\""),
        (r#"{"name":"n"}"#, "there is no plugin in it"),
        (r#"{"name":"n","plugins":[]}"#, "plugins: the list is empty"),
        (r#"{"name":"n","plugins":{}}"#, "plugins: it must be a list"),
        (r#"{"name":"n","plugins":[5]}"#, "plugins[0]: it is not a JSON object"),
        (r#"{"name":"n","plugins":[{"type":"x"},{}]}"#, "plugins[1]: the key \"type\" is missing"),
        (r#"{"name":"n","plugins":[{"type":5}]}"#, "plugins[0]: type: "),
        (r#"{"name":"n","plugins":[{"type":"x","ipam":[]}]}"#, "plugins[0]: ipam: "),
        (r#"{"name":"n","plugins":[{"type":"x","dns":1}]}"#, "plugins[0]: dns: "),
        (
            r#"{"name":"n","plugins":[{"type":"x","capabilities":{"ips":1}}]}"#,
            "plugins[0]: capabilities.ips: ",
        ),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.code(), Code::INVALID_CONFIG, "{text}");
        assert!(error.to_string().contains(culprit), "{text}: {error}");
    }
}

#[test]
fn flags_are_booleans_or_their_names() {
    for (value, on) in [("true", true), ("false", false), ("\"TRUE\"", true), ("\"False\"", false)]
    {
        let text = format!(
            r#"{{"name":"n","disableGC":{value},"disableCheck":{value},"plugins":[{{"type":"x"}}]}}"#
        );
        let list = parse(&text).expect(&text);
        assert_eq!((list.disable_gc(), list.disable_check()), (on, on));
    }
}

#[test]
fn the_newest_known_version_is_taken() {
    for (version, versions, taken) in [
        (None, None, ""),
        (Some("0.4.0"), None, "0.4.0"),
        (Some("7.7"), None, "7.7"),
        (Some("0.3.1"), Some(r#"["0.4.0","1.0.0"]"#), "1.0.0"),
        (Some("1.1.0"), Some(r#"["0.4.0","1.0.0"]"#), "1.1.0"),
        (None, Some(r#"["0.4.0"]"#), "0.4.0"),
        (Some("0.4.0"), Some(r#"["1.2.0","2.0.0"]"#), "0.4.0"),
        (Some("1.2.0"), Some(r#"["1.3.0"]"#), "1.2.0"),
        (Some("1.2.0"), Some(r#"["0.3.0"]"#), "0.3.0"),
        (Some("1.0.0"), Some("[]"), "1.0.0"),
        // Two spellings of one version: plugins know only the full one.
        (Some("1.1.0"), Some(r#"["1.1"]"#), "1.1.0"),
        (Some("1.1"), Some(r#"["1.1.0"]"#), "1.1.0"),
    ] {
        let mut object = json!({"name": "n", "plugins": [{"type": "x"}]});
        if let Some(version) = version {
            object["cniVersion"] = version.into();
        }
        if let Some(versions) = versions {
            object["cniVersions"] = serde_json::from_str(versions).expect("a list");
        }
        let list = parse(&object.to_string()).expect("valid");
        assert_eq!(list.version_text(), taken, "{object}");
    }
}

#[test]
fn what_only_the_runtime_may_say_is_not_taken_from_files() {
    let list = parse(
        r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"TYPE":"x","name":"own","Name":"other",
            "CNIVersion":"0.1.0","prevResult":{"ips":[]},"RuntimeConfig":{"ips":[]},
            "capabilities":{"ips":true},"cni.dev/valid-attachments":[],"CNI.dev/x":1,
            "args":{"cni":{"prevResult":1}}, "z<":1.0}]}"#,
    )
    .expect("valid");
    let plugin = &list.plugins()[0];
    assert_eq!(
        String::from_utf8_lossy(&plugin.request(&list, Extra::default())),
        r#"{"TYPE":"x","args":{"cni":{"prevResult":1}},"cniVersion":"1.1.0","name":"n","z\u003c":1}"#
    );
    assert_eq!(plugin.description(), r#"plugin type="x" name="own""#);
}

#[test]
fn a_list_of_valid_attachments_is_sent_under_both_names() {
    let list =
        parse(r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"x"}]}"#).expect("valid");
    let one = AttachmentId { container_id: "c".into(), ifname: "eth0".into() };
    for (valid, text) in [(&[][..], "[]"), (&[one][..], r#"[{"containerID":"c","ifname":"eth0"}]"#)]
    {
        let request =
            list.plugins()[0].request(&list, Extra { valid: Some(valid), ..Extra::default() });
        assert_eq!(
            String::from_utf8_lossy(&request),
            format!(
                r#"{{"cni.dev/attachments":{text},"cni.dev/valid-attachments":{text},"cniVersion":"1.1.0","name":"n","type":"x"}}"#
            )
        );
    }
}

#[test]
fn a_single_plugin_becomes_a_list() {
    let list = ConfigList::parse_single(
        br#"{"type":"x", "NAME":"n", "cniVersion":"0.3.1", "disableGC":true, "n": 1e3}"#,
    )
    .expect("valid");
    assert_eq!(
        String::from_utf8_lossy(list.bytes()),
        r#"{"cniVersion":"0.3.1","name":"n","plugins":[{"NAME":"n","cniVersion":"0.3.1","disableGC":true,"n":1000,"type":"x"}]}"#
    );
    assert!(!list.disable_gc());
    for (text, culprit) in [
        (r#"{"name":"n"}"#, "\"type\" is missing"),
        (r#"{"name":"n","plugins":[]}"#, "must end in .conflist"),
        (r#"{"type":"x"}"#, "missing network name"),
        (r#"{"type":"x","name":1}"#, "name: "),
    ] {
        let error = ConfigList::parse_single(text.as_bytes()).expect_err(text);
        assert!(error.to_string().contains(culprit), "{text}: {error}");
    }
}
