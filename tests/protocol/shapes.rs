//! Results in the shapes of all versions, byte by byte: the files in
//! `testdata/*/shapes` are what a plugin prints, with words in angle brackets
//! for what is random.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use crate::conf::{bridge, of_type, versions, with};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ipv6] bridge_results,
        [] static_results,
    };
    for case in cases! {
        // Upstream prints the newest shape with the old version in it.
        [Ipv6] loopback_results,
        [Bridge] a_previous_result_is_handed_on,
        // Upstream's code is that of everything, 999.
        [] a_previous_result_must_be_of_the_same_family,
    } {
        list.push(case.ours_only());
    }
    list
}

/// What is printed is what the file says. Older versions of upstream's print
/// the newest shape in another order, and an empty `dns`.
#[track_caller]
fn expect_shape(host: &Host, file: &str, version: &str, printed: &str, random: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    let expected =
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    let mut printed = printed.to_owned();
    for (value, name) in random {
        printed = printed.replace(value, &format!("<{name}>"));
    }
    let version_key = |version: &str| format!("\"cniVersion\": \"{version}\"");
    printed = printed.replace(&version_key(version), &version_key("<version>"));
    if !host.has_our_plugins() {
        let parsed = [&expected, &printed].map(|text| {
            let mut value: Value = serde_json::from_str(text).expect("a JSON document");
            let object = value.as_object_mut().expect("an object");
            object.retain(|_, value| *value != json!({}));
            value
        });
        assert_eq!(parsed[0], parsed[1], "{version}: {file}");
        return;
    }
    let diff = testkit::unified_diff(&lines(&expected), &lines(&printed));
    // A file ends with a newline, what is printed does not.
    assert!(
        diff.is_none() && expected == format!("{printed}\n"),
        "{version}: not as in {file}\n{}",
        diff.unwrap_or_default()
    );
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The versions that print alike have a file together.
fn family(version: &str) -> &'static str {
    match version {
        "0.1.0" | "0.2.0" => "0.2",
        "0.3.0" | "0.3.1" | "0.4.0" => "0.4",
        _ => "1",
    }
}

fn ipam() -> Value {
    json!({"type": "static",
        "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "2001:DB8:1::0:2/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "2001:db8:9::/48", "gw": "2001:db8:1::9"}]})
}

fn bridge_results(host: &Host) {
    let dns = json!({"nameservers": ["10.1.0.1"], "domain": "example.com",
        "search": ["a.example.com"], "options": ["ndots:5"]});
    // One that would else take its port's address, upstream.
    host.exec("ip link add cni0 address 02:00:00:00:00:01 type bridge");
    let conf = bridge(host, json!({"isGateway": true, "dns": dns, "ipam": ipam()}));
    for version in versions(host) {
        let one = host.container(&format!("at-{version}"));
        let conf = with(&conf, json!({"cniVersion": version}));
        let outcome = host.plugin("bridge").add(&one, "eth0", &conf);
        outcome.expect_result();
        let links = host.ip("link show master cni0");
        let port = links[0]["ifname"].as_str().expect("a name");
        let (bridge_mac, port_mac, mac) = (host.mac("cni0"), host.mac(port), one.mac("eth0"));
        let sandbox = one.path().display().to_string();
        let random = [
            (port, "port"),
            (port_mac.as_str(), "port-mac"),
            (bridge_mac.as_str(), "bridge-mac"),
            (mac.as_str(), "mac"),
            (sandbox.as_str(), "sandbox"),
        ];
        let file = format!("bridge/shapes/{}.json", family(&version));
        expect_shape(host, &file, &version, outcome.stdout(), &random);
        host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    }
}

fn static_results(host: &Host) {
    let one = host.container("one");
    for version in versions(host) {
        let conf = of_type(host, "static", json!({"cniVersion": version, "ipam": ipam()}));
        let outcome = host.plugin("static").add(&one, "eth0", &conf);
        outcome.expect_result();
        let file = format!("static/shapes/{}.json", family(&version));
        expect_shape(host, &file, &version, outcome.stdout(), &[]);
    }
}

fn loopback_results(host: &Host) {
    for version in versions(host) {
        let one = host.container(&format!("at-{version}"));
        let conf = of_type(host, "loopback", json!({"cniVersion": version}));
        let outcome = host.plugin("loopback").add(&one, "eth0", &conf);
        outcome.expect_result();
        let sandbox = one.path().display().to_string();
        let file = format!("loopback/shapes/{}.json", family(&version));
        expect_shape(host, &file, &version, outcome.stdout(), &[(&sandbox, "sandbox")]);
        assert_eq!(one.addresses("lo"), ["127.0.0.1/8", "::1/128"]);
    }
}

fn a_previous_result_is_handed_on(host: &Host) {
    let conf = bridge(host, json!({"isGateway": true, "ipam": ipam()}));
    for version in versions(host) {
        let one = host.container(&format!("at-{version}"));
        let conf = with(&conf, json!({"cniVersion": version}));
        let previous = host.plugin("bridge").add(&one, "eth0", &conf);
        let keys = json!({"cniVersion": version, "prevResult": previous.expect_result()});
        let chained = of_type(host, "loopback", keys);
        let outcome = host.plugin("loopback").add(&one, "eth0", &chained);
        assert_eq!(outcome.stdout(), previous.stdout());
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version.as_str()) {
            host.plugin("loopback").check(&one, "eth0", &chained).expect_ok();
        }
        assert!(one.exec("ip link show lo").contains("UP"));
        host.plugin("loopback").del(&one, "eth0", &chained).expect_ok();
        assert!(!one.exec("ip link show lo").contains("UP"));
        host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    }
}

fn a_previous_result_must_be_of_the_same_family(host: &Host) {
    let one = host.container("one");
    let plugin = host.plugin("loopback");
    let call = |version: &str, previous: Value| {
        let keys = json!({"cniVersion": version, "prevResult": previous});
        plugin.add(&one, "eth0", &of_type(host, "loopback", keys))
    };
    let all = versions(host);
    for config in &all {
        for previous in &all {
            let ip = json!({"version": "4", "address": "10.1.0.2/24"});
            let old = json!({"ip": "10.1.0.2/24"});
            let previous_result = json!({"cniVersion": previous, "ips": [ip], "ip4": old});
            let outcome = call(config, previous_result);
            if family(config) == family(previous) {
                outcome.expect_result();
            } else {
                outcome.expect_error(6, previous);
            }
        }
    }
    plugin.del(&one, "eth0", &of_type(host, "loopback", json!({}))).expect_ok();
    for (previous, told) in [
        (json!([]), "prevResult"),
        (json!("x"), "prevResult"),
        (json!({"cniVersion": 5}), "cniVersion"),
        (json!({"cniVersion": ""}), "cniVersion"),
        (json!({"ips": [{"address": "x"}]}), "ips"),
        (json!({"ips": 5}), "ips"),
        (json!({"ips": [{"address": "10.1.0.2/24", "gateway": "x"}]}), "gateway"),
        (json!({"routes": [{"dst": "10.1.0.0/99"}]}), "dst"),
        (json!({"interfaces": [5]}), "interfaces"),
    ] {
        call("1.0.0", previous.clone()).expect_error(6, told);
    }
    assert!(!one.exec("ip link show lo").contains("UP"));
    call("1.0.0", json!({})).expect_result();
    call("1.0.0", json!(null)).expect_result();
}
