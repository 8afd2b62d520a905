//! What must be set, in which order it is looked at, and what is negotiated.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, Outcome, cases};

use crate::conf::{bridge, fixed, newest_version, of_type, with};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [] each_verb_requires_its_variables,
        [] container_ids_have_an_alphabet,
        [] interface_names_are_the_kernels,
        [] networks_have_names,
        [] verbs_have_a_first_version,
        [] versions_match_exactly,
        [] an_absent_version_is_the_oldest,
        [Bridge] args_have_a_grammar,
    };
    for case in cases! {
        // Debian's package of upstream's is older.
        [] gc_and_status_require_less,
        [] an_invalid_value_is_told_before_missing_ones,
        [] a_percent_sign_in_an_interface_name_is_refused_before_anything_is_made,
        [] a_name_that_the_kernel_keeps_is_refused_before_anything_is_made,
        [] an_unknown_verb_is_told_after_the_configuration,
        // Upstream looks when everything is done.
        [Bridge] the_plugins_own_namespace_is_refused_before_anything_is_done,
        [] the_override_allows_it,
    } {
        list.push(case.ours_only());
    }
    list
}

/// All variables of an attachment, valid.
fn valid() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("CNI_CONTAINERID", "ctr-one".to_owned()),
        ("CNI_NETNS", "/run/netns/one".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
    ])
}

/// A call of a plugin that touches nothing, with a valid configuration.
fn call(host: &Host, verb: &str, env: &BTreeMap<&str, String>) -> Outcome {
    let conf = of_type(host, "static", json!({"ipam": fixed(&["10.1.0.2/24"])}));
    host.plugin("static").raw(verb, env, conf.to_string().as_bytes())
}

/// A call with a valid environment.
fn send(host: &Host, verb: &str, conf: &Value) -> Outcome {
    host.plugin("static").raw(verb, &valid(), conf.to_string().as_bytes())
}

fn each_verb_requires_its_variables(host: &Host) {
    call(host, "ADD", &valid()).expect_result();
    call(host, "DEL", &valid()).expect_ok();
    for (verb, required) in [
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
    ] {
        for missing in required.split(',') {
            let mut env = valid();
            env.remove(missing);
            let told = format!("required env variables [{missing}] missing");
            call(host, verb, &env).expect_error(4, &told);
            // Set but empty is as good as missing.
            env.insert(missing, String::new());
            call(host, verb, &env).expect_error(4, &told);
        }
        let plugin = host.plugin("static").without_env("CNI_PATH");
        let told = format!("required env variables [{required},CNI_PATH] missing");
        plugin.raw(verb, &BTreeMap::new(), b"").expect_error(4, &told);
        plugin
            .raw(verb, &valid(), b"")
            .expect_error(4, "required env variables [CNI_PATH] missing");
    }
    let mut env = valid();
    env.remove("CNI_NETNS");
    call(host, "DEL", &env).expect_ok();
}

fn gc_and_status_require_less(host: &Host) {
    // Whatever the others are, they do not matter.
    let odd = BTreeMap::from([
        ("CNI_CONTAINERID", "../x".to_owned()),
        ("CNI_IFNAME", "much longer than a name may be".to_owned()),
    ]);
    for verb in ["GC", "STATUS"] {
        call(host, verb, &BTreeMap::new()).expect_ok();
        call(host, verb, &odd).expect_ok();
        let plugin = host.plugin("static").without_env("CNI_PATH");
        plugin
            .raw(verb, &valid(), b"")
            .expect_error(4, "required env variables [CNI_PATH] missing");
    }
}

fn an_invalid_value_is_told_before_missing_ones(host: &Host) {
    let with = |name: &'static str, value: &str| BTreeMap::from([(name, value.to_owned())]);
    call(host, "ADD", &with("CNI_IFNAME", "a/b")).expect_error(4, "interface name contains");
    call(host, "ADD", &with("CNI_CONTAINERID", "a/b")).expect_error(4, "invalid characters");
    // And before the input is read.
    let mut env = valid();
    env.insert("CNI_IFNAME", "a/b".to_owned());
    host.plugin("static").raw("ADD", &env, b"{").expect_error(4, "interface name contains");
}

fn container_ids_have_an_alphabet(host: &Host) {
    let long = "x".repeat(200);
    for good in ["a", "0", "a..b", "A_b-c.d", &long] {
        let mut env = valid();
        env.insert("CNI_CONTAINERID", good.to_owned());
        call(host, "ADD", &env).expect_result();
    }
    for bad in [".a", "-a", "_a", "a/b", "a b", "a\n", "ä", "../x", "a\\b", "a:b", "*"] {
        let mut env = valid();
        env.insert("CNI_CONTAINERID", bad.to_owned());
        for verb in ["ADD", "CHECK", "DEL"] {
            let error = call(host, verb, &env).expect_error(4, "invalid characters in containerID");
            assert_eq!(error["details"], bad);
        }
    }
}

fn interface_names_are_the_kernels(host: &Host) {
    for good in ["...", "-x", "ééééééé", "a.b", "fifteen-letters"] {
        let mut env = valid();
        env.insert("CNI_IFNAME", good.to_owned());
        call(host, "ADD", &env).expect_result();
    }
    for (bad, told) in [
        ("sixteen-letters-", "interface name is too long"),
        ("éééééééé", "interface name is too long"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        ("a/b", "interface name contains / or : or whitespace characters"),
        ("a:b", "interface name contains / or : or whitespace characters"),
        ("a b", "interface name contains / or : or whitespace characters"),
        ("a\u{a0}b", "interface name contains / or : or whitespace characters"),
        ("a\tb", "interface name contains / or : or whitespace characters"),
    ] {
        let mut env = valid();
        env.insert("CNI_IFNAME", bad.to_owned());
        for verb in ["ADD", "CHECK", "DEL"] {
            call(host, verb, &env).expect_error(4, told);
        }
    }
}

/// `dev_alloc_name` of the kernel makes `eth0` of `eth%d`.
fn a_percent_sign_in_an_interface_name_is_refused_before_anything_is_made(host: &Host) {
    let c = host.container("c");
    let before = host.snapshot();
    for kind in ["bridge", "ptp", "dummy", "host-device", "tap", "loopback", "static", "portmap"] {
        let conf = of_type(host, kind, json!({"ipam": fixed(&["10.1.0.2/24"]), "device": "x"}));
        for name in ["eth%d", "%", "a%%b"] {
            let plugin = host.plugin(kind);
            plugin.add(&c, name, &conf).expect_error(4, "percent sign");
            plugin.del(&c, name, &conf).expect_ok();
            plugin.del_without_netns(&c, name, &conf).expect_ok();
            host.expect_unchanged(&before);
        }
    }
}

/// Of settings of all and of new links the kernel makes folders beside those of links.
fn a_name_that_the_kernel_keeps_is_refused_before_anything_is_made(host: &Host) {
    let c = host.container("c");
    let before = host.snapshot();
    for kind in ["bridge", "ptp", "dummy", "host-device", "tap", "loopback", "static", "portmap"] {
        let conf = of_type(host, kind, json!({"ipam": fixed(&["10.1.0.2/24"]), "device": "x"}));
        for name in ["all", "default"] {
            let plugin = host.plugin(kind);
            let refused = plugin.add(&c, name, &conf);
            refused.expect_error(4, "all or default");
            refused.expect_error(4, "/proc/sys/net/ipv4/conf");
            plugin.del(&c, name, &conf).expect_ok();
            plugin.del_without_netns(&c, name, &conf).expect_ok();
            host.expect_unchanged(&before);
        }
    }
}

fn networks_have_names(host: &Host) {
    let conf = of_type(host, "static", json!({"ipam": fixed(&["10.1.0.2/24"])}));
    for verb in ["ADD", "DEL", "CHECK"] {
        send(host, verb, &with(&conf, json!({"name": ""}))).expect_error(7, "missing network name");
        send(host, verb, &with(&conf, json!({"name": null})))
            .expect_error(7, "missing network name");
        for bad in ["a/b", "../x", " a", "ä", "-a"] {
            let failed = send(host, verb, &with(&conf, json!({"name": bad})));
            let error = failed.expect_error(7, "invalid characters found in network name");
            assert_eq!(error["details"], bad);
        }
        send(host, verb, &with(&conf, json!({"name": 5}))).expect_error(6, "name");
    }
    send(host, "ADD", &with(&conf, json!({"name": "a..b"}))).expect_result();
}

fn an_unknown_verb_is_told_after_the_configuration(host: &Host) {
    let conf = of_type(host, "static", json!({})).to_string();
    let plugin = host.plugin("static").without_env("CNI_PATH");
    let none = BTreeMap::new();
    for verb in ["FOO", "add", "ADD ", "VERSIONS", "FINALIZE"] {
        let told = format!("unknown CNI_COMMAND: {verb}");
        plugin.raw(verb, &none, conf.as_bytes()).expect_error(4, &told);
        plugin.raw(verb, &none, b"").expect_error(6, "");
        plugin.raw(verb, &none, b"{\"cniVersion\": \"1.0.0\"}").expect_error(7, "network name");
    }
}

fn verbs_have_a_first_version(host: &Host) {
    let conf = |version: &str| json!({"cniVersion": version, "name": "net", "type": "static"});
    for version in ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1"] {
        let told = "config version does not allow CHECK";
        send(host, "CHECK", &conf(version)).expect_error(1, told);
    }
    send(host, "CHECK", &conf("9.0.0")).expect_error(1, "plugin version does not allow CHECK");
    send(host, "CHECK", &conf("0.4")).expect_error(1, "incompatible CNI versions");
    send(host, "CHECK", &conf("abc")).expect_error(6, "abc");
    send(host, "CHECK", &conf("1.2.3.4")).expect_error(6, "1.2.3.4");
    if !host.has_our_plugins() {
        return;
    }
    for verb in ["GC", "STATUS"] {
        for version in ["", "0.4.0", "1.0.0"] {
            let told = format!("config version does not allow {verb}");
            send(host, verb, &conf(version)).expect_error(1, &told);
        }
        let told = format!("plugin version does not allow {verb}");
        send(host, verb, &conf("1.1.1")).expect_error(1, &told);
    }
}

fn versions_match_exactly(host: &Host) {
    let conf = |version: &str| json!({"cniVersion": version, "name": "net", "type": "static"});
    for version in ["1.1", "1.01.0", "v1.0.0", "1.0.0 ", "9.9.9", "abc", "0.5.0"] {
        for verb in ["ADD", "DEL"] {
            let error =
                send(host, verb, &conf(version)).expect_error(1, "incompatible CNI versions");
            let details = error["details"].as_str().expect("details");
            let start =
                format!("config is \"{version}\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\"");
            assert!(details.starts_with(&start), "{details}");
        }
    }
    let number = json!({"cniVersion": 1, "name": "net"});
    send(host, "ADD", &number).expect_error(6, "");
}

fn an_absent_version_is_the_oldest(host: &Host) {
    let mut conf = of_type(host, "static", json!({"ipam": fixed(&["10.1.0.2/24"])}));
    for version in [json!(null), json!("")] {
        conf["cniVersion"] = version;
        assert_eq!(send(host, "ADD", &conf).expect_result()["cniVersion"], "0.1.0");
    }
    conf.as_object_mut().expect("an object").remove("cniVersion");
    assert_eq!(send(host, "ADD", &conf).expect_result()["cniVersion"], "0.1.0");
}

fn args_have_a_grammar(host: &Host) {
    let conf = bridge(host, json!({}));
    let one = host.container("one");
    let code = if host.has_our_plugins() { 4 } else { 999 };
    for (args, told) in [
        ("FOO", "invalid pair"),
        ("A=B=C", "invalid pair"),
        ("IgnoreUnknown=1;", "invalid pair"),
        ("FOO=BAR", "FOO"),
        ("ignoreunknown=1", "ignoreunknown"),
        ("mac=02:00:00:00:00:01", "mac"),
        ("IgnoreUnknown=maybe", "IgnoreUnknown"),
    ] {
        let failed = host.plugin("bridge").args(args).add(&one, "eth0", &conf);
        failed.expect_error(code, told);
    }
    for (number, args) in [
        "",
        "MAC=",
        "IgnoreUnknown=0",
        "FOO=1;=;IgnoreUnknown=TRUE",
        "IgnoreUnknown=1;K8S_POD_NAME=",
    ]
    .into_iter()
    .enumerate()
    {
        let ifname = format!("eth{number}");
        host.plugin("bridge").args(args).add(&one, &ifname, &conf).expect_result();
    }
}

/// A recycled process ID, or a mistake: acting on it would take the host's own
/// links away.
fn the_plugins_own_namespace_is_refused_before_anything_is_done(host: &Host) {
    host.exec("ip link add eth0 type veth peer name wire");
    let conf = bridge(host, json!({"isGateway": true, "ipam": fixed(&["10.1.0.2/24"])}));
    let one = host.container("one");
    let before = host.snapshot();
    let told = "plugin's netns and netns from CNI_NETNS should not be the same";
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        for plugin in ["bridge", "loopback", "host-local"] {
            let plugin = host.plugin(plugin).env("CNI_NETNS", path);
            plugin.add(&one, "eth0", &conf).expect_error(8, told);
            plugin.del(&one, "eth0", &conf).expect_error(8, told);
            let no = plugin.env("CNI_NETNS_OVERRIDE", "yes");
            no.del(&one, "eth0", &conf).expect_error(8, told);
        }
    }
    host.expect_unchanged(&before);
    // What is no namespace is not the same either, whatever it is.
    for path in ["/dev/null", "/proc/self", "/nonexistent"] {
        let plugin = host.plugin("static").env("CNI_NETNS", path);
        plugin.add(&one, "eth0", &conf).expect_result();
    }
}

fn the_override_allows_it(host: &Host) {
    let one = host.container("one");
    host.exec("ip link set lo down");
    let conf = of_type(host, "loopback", json!({}));
    for value in ["1", "true", "TRUE", "True"] {
        let plugin = host.plugin("loopback").env("CNI_NETNS", "/proc/self/ns/net");
        let plugin = plugin.env("CNI_NETNS_OVERRIDE", value);
        plugin.add(&one, "eth0", &conf).expect_result();
        assert!(host.exec("ip link show lo").contains("UP"));
        plugin.del(&one, "eth0", &conf).expect_ok();
        assert!(!host.exec("ip link show lo").contains("UP"));
    }
    assert_eq!(newest_version(host), "1.1.0");
}
