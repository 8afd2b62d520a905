//! Bad input: one JSON error that names the culprit, exit code 1, and nothing
//! changed.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

pub(crate) fn list() -> Vec<Case> {
    let mut list: Vec<Case> = cases! {
        [Bridge] documents_that_are_none,
        [Bridge] every_cut_of_a_configuration,
        [Bridge] values_of_every_wrong_type,
        [] odd_identifiers,
        [] what_gives_no_addresses_is_not_asked_for_them,
        [Bridge] configurations_that_contradict_themselves,
    }
    .into_iter()
    .map(Case::ours_only)
    .collect();
    list.extend(cases! { [Bridge] unknown_keys_are_accepted });
    list
}

fn good() -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br-x", "mtu": 1400, "vlan": 0,
        "isGateway": true, "hairpinMode": false, "ipam": {"type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5"}]], "routes": [{"dst": "0.0.0.0/0"}]}})
}

/// ADD fails with one document and leaves the host alone; DEL never panics.
#[track_caller]
fn refused(host: &Host, plugin: &str, document: &[u8], codes: &[u64]) {
    let one = host.container("victim");
    let before = host.snapshot();
    let outcome = host.plugin(plugin).send("ADD", &one, "eth0", document);
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let error = outcome.document();
    assert!(codes.contains(&error["code"].as_u64().unwrap_or_default()), "{outcome}");
    assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{outcome}");
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    for verb in ["DEL", "CHECK", "GC", "STATUS"] {
        let outcome = host.plugin(plugin).send(verb, &one, "eth0", document);
        match outcome.code() {
            Some(0) => assert!(outcome.stdout().is_empty(), "{outcome}"),
            Some(1) => drop(outcome.document()),
            other => panic!("{verb}: exit {other:?}\n{outcome}"),
        }
    }
    one.destroy();
}

/// One of our own would ask its IPAM plugin, itself again, until the stack is full.
fn what_gives_no_addresses_is_not_asked_for_them(host: &Host) {
    let one = host.container("one");
    for plugin in ["bridge", "ptp", "macvlan", "vlan", "dummy", "tap", "host-device", "ipvlan"] {
        for ipam in [plugin, "bridge", "flannel"] {
            let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "master": "lo",
                "device": "lo", "vlanId": 5, "ipam": {"type": ipam},
                "cni.dev/valid-attachments": []});
            let caller = host.plugin(plugin);
            caller.add(&one, "eth0", &conf).expect_error(7, "ipam.type");
            // Some look at the link first.
            let status = caller.status(&conf);
            assert_eq!(status.code(), Some(1), "{status}");
            assert!([50, 7].map(Value::from).contains(&status.document()["code"]), "{status}");
            // Nothing can have been attached.
            caller.del(&one, "eth0", &conf).expect_ok();
            caller.gc(&conf).expect_ok();
        }
    }
    let flannel = json!({"cniVersion": "1.1.0", "name": "net", "type": "flannel",
        "delegate": {"type": "flannel"}});
    host.plugin("flannel").status(&flannel).expect_error(7, "delegate.type must not be flannel");
}

fn documents_that_are_none(host: &Host) {
    let deep = "[".repeat(100_000);
    let nested = format!("{{\"name\":\"n\",\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let large = format!("{{\"name\":\"n\",\"x\":\"{}\"}}", "x".repeat(17 << 20));
    for document in [
        "",
        " ",
        "null",
        "5",
        "[]",
        "\"x\"",
        "{",
        "{}",
        "{}{}",
        "\u{feff}{}",
        "nul",
        "{'a':1}",
        &deep,
        &nested,
        &large,
    ] {
        for plugin in ["bridge", "host-local", "loopback", "static"] {
            refused(host, plugin, document.as_bytes(), &[6, 7]);
        }
    }
}

fn every_cut_of_a_configuration(host: &Host) {
    let whole = good().to_string();
    let one = host.container("victim");
    let before = host.snapshot();
    for end in 0..whole.len() {
        let outcome = host.plugin("bridge").send("ADD", &one, "eth0", &whole.as_bytes()[..end]);
        outcome.expect_error(6, "decode");
    }
    host.expect_unchanged(&before);
}

/// Each value of the document replaced by each of another type.
fn values_of_every_wrong_type(host: &Host) {
    let wrong = [
        json!(5.5),
        json!(-1),
        json!("\u{0}%s/../x"),
        json!(true),
        json!([[]]),
        json!({"x": 1}),
        json!(1e300),
    ];
    let whole = good();
    let mut paths = Vec::new();
    collect(&whole, &mut Vec::new(), &mut paths);
    // A gateway switches it on, and it stays.
    host.set_sysctl("net/ipv4/ip_forward", "1");
    let one = host.container("victim");
    let before = host.snapshot();
    for path in paths {
        for value in &wrong {
            let mut document = whole.clone();
            let slot =
                path.iter().try_fold(&mut document, |at, step| match step.parse::<usize>() {
                    Ok(index) if at.is_array() => at.get_mut(index),
                    _ => at.get_mut(step),
                });
            *slot.expect("the path is of this document") = value.clone();
            let outcome = host.plugin("bridge").add(&one, "eth0", &document);
            match outcome.code() {
                // Some are valid after all: a bridge of another name, mtu -1.
                Some(0) => drop(outcome.expect_result()),
                Some(1) => drop(outcome.document()),
                other => panic!("{path:?} = {value}: exit {other:?}\n{outcome}"),
            }
            let del = host.plugin("bridge").del(&one, "eth0", &document);
            assert!(matches!(del.code(), Some(0 | 1)), "{del}");
            // With what is right again, nothing of it is left.
            host.plugin("bridge").del(&one, "eth0", &whole).expect_ok();
            assert_eq!(one.link("eth0"), None, "{path:?} = {value}");
        }
    }
    let stays = ["br-x", "cni0", "/var/lib/cni"];
    host.expect_unchanged_but(&before, &stays);
}

fn collect(value: &Value, at: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (step, child) in children {
        at.push(step);
        paths.push(at.clone());
        collect(child, at, paths);
        at.pop();
    }
}

fn odd_identifiers(host: &Host) {
    let one = host.container("one");
    let before = host.snapshot();
    let conf = good().to_string();
    for id in ["../x", "a/b", ".x", "-x", "a b", "a\nb", "ä"] {
        let plugin = host.plugin("bridge").env("CNI_CONTAINERID", id);
        plugin.send("ADD", &one, "eth0", conf.as_bytes()).expect_error(4, "containerID");
    }
    for name in ["..", ".", "a/b", "a:b", "a b", "sixteen-chars-xx", "éééééééé"] {
        host.plugin("bridge")
            .send("ADD", &one, name, conf.as_bytes())
            .expect_error(4, "interface name");
    }
    for network in ["../x", "a/b", ".x", ""] {
        let mut conf = good();
        conf["name"] = json!(network);
        host.plugin("bridge").add(&one, "eth0", &conf).expect_error(7, "network name");
    }
    for netns in ["/nonexistent", "/dev/null", "/run", "/proc/self/ns/mnt", "x"] {
        let plugin = host.plugin("bridge").env("CNI_NETNS", netns);
        plugin.send("ADD", &one, "eth0", conf.as_bytes()).expect_error(8, netns);
    }
    host.expect_unchanged(&before);
}

fn configurations_that_contradict_themselves(host: &Host) {
    for (key, value) in [
        ("bridge", json!("")),
        ("bridge", json!("a/b")),
        ("bridge", json!("sixteen-chars-xx")),
        ("vlan", json!(4095)),
        ("vlan", json!(-1)),
        ("vlanTrunk", json!([{"minID": 5, "maxID": 4}])),
        ("vlanTrunk", json!([{"minID": 5}])),
        ("vlanTrunk", json!([{"id": 0}])),
        ("disableContainerInterface", json!(true)),
        ("runtimeConfig", json!({"mac": "ff:ff:ff:ff:ff:ff"})),
        ("args", json!({"cni": {"mac": "zz"}})),
    ] {
        let mut conf = good();
        conf[key] = value;
        refused(host, "bridge", conf.to_string().as_bytes(), &[7]);
    }
    let mut both = good();
    both["hairpinMode"] = json!(true);
    both["promiscMode"] = json!(true);
    refused(host, "bridge", both.to_string().as_bytes(), &[7]);
}

fn unknown_keys_are_accepted(host: &Host) {
    let one = host.container("one");
    let mut conf = good();
    conf["isGateway"] = json!(false);
    conf["noSuchKey"] = json!({"x": [1, null]});
    conf["ipam"]["alsoUnknown"] = json!(true);
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
}
