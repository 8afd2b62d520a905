//! host-local, through its executable: alone, taking turns with the peer's,
//! and when things go wrong.

mod faults;
mod peer;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, Outcome, cases, with_previous_result};

use crate::conf::with;

pub(crate) fn list() -> Vec<Case> {
    let own = cases! {
        [OurPlugins] many_adds_at_once_share_no_address,
        [OurPlugins] adds_dels_and_gcs_at_once_leave_what_they_should,
        [OurPlugins] verbs_of_one_attachments_life,
        [OurPlugins] a_reboot_makes_the_index_anew,
        [OurPlugins, Strace] whoever_reads_all_leases_spares_the_next_one,
        [OurPlugins] ten_thousand_leases_and_a_full_range,
        [OurPlugins] hostile_input_is_told_and_changes_nothing,
    };
    [own, peer::list(), faults::list()].into_iter().flatten().collect()
}

const DATA: &str = "/var/lib/cni/networks";

/// A network at `version` with these keys of `ipam`.
fn network(version: &str, ipam: Value) -> Value {
    let ipam = with(&json!({"type": "host-local"}), ipam);
    json!({"cniVersion": version, "name": "net", "type": "host-local", "ipam": ipam})
}

/// Both families, at the newest version both programs speak.
fn dual() -> Value {
    network("1.0.0", json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}))
}

fn v4(version: &str) -> Value {
    network(version, json!({"subnet": "10.1.0.0/24"}))
}

fn path(name: &str) -> PathBuf {
    Path::new(DATA).join("net").join(name)
}

/// The addresses that have a lease, in order of their text.
fn leases(host: &Host) -> Vec<String> {
    let names = host.files(path(""));
    names.into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
}

/// The addresses of a result of 0.3.0 or later, without their length.
fn addresses(outcome: &Outcome) -> Vec<String> {
    let result = outcome.expect_result();
    let ips = result["ips"].as_array().expect("a list");
    let text = |ip: &Value| ip["address"].as_str().expect("a text").to_owned();
    ips.iter().map(|ip| text(ip).split('/').next().unwrap_or_default().to_owned()).collect()
}

/// Every file of the network's directory, with its content.
fn content(host: &Host, dir: &Path) -> Vec<(String, String)> {
    let read = |name: String| {
        let text = fs::read_to_string(dir.join(&name)).unwrap_or_else(|e| e.to_string());
        (name, text)
    };
    host.files(dir).into_iter().map(read).collect()
}

fn many_adds_at_once_share_no_address(host: &Host) {
    let container = host.container("c");
    let given = host.parallel(50, |n| {
        let plugin = host.plugin("host-local").env("CNI_CONTAINERID", &format!("id{n}"));
        addresses(&plugin.add(&container, "eth0", &dual()))
    });
    let distinct: BTreeSet<String> = given.concat().into_iter().collect();
    assert_eq!(distinct.len(), 100);
    assert_eq!(leases(host).len(), 100);
    let own = |n: usize| {
        let plugin = host.plugin("host-local").env("CNI_CONTAINERID", &format!("id{n}"));
        plugin.del(&container, "eth0", &dual()).expect_ok();
    };
    host.parallel(50, own);
    assert_eq!(leases(host), [""; 0]);
}

fn adds_dels_and_gcs_at_once_leave_what_they_should(host: &Host) {
    let container = host.container("c");
    let conf = v4("1.1.0");
    let valid: Vec<Value> =
        (0..30).map(|n| json!({"containerID": format!("id{n}"), "ifname": "eth0"})).collect();
    let sweep = with(&conf, json!({"cni.dev/valid-attachments": valid}));
    host.parallel(40, |n| {
        let plugin = host.plugin("host-local").env("CNI_CONTAINERID", &format!("id{n}"));
        if n >= 30 {
            return plugin.gc(&sweep).expect_ok();
        }
        plugin.add(&container, "eth0", &conf).expect_result();
        if n % 2 == 0 {
            plugin.del(&container, "eth0", &conf).expect_ok();
        }
    });
    assert_eq!(leases(host).len(), 15);
    let none = with(&conf, json!({"cni.dev/valid-attachments": []}));
    host.plugin("host-local").gc(&none).expect_ok();
    assert_eq!(leases(host), [""; 0]);
}

fn verbs_of_one_attachments_life(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    let conf = v4("1.1.0");
    let before = host.snapshot();
    plugin.status(&conf).expect_ok();
    plugin.del(&c, "eth0", &conf).expect_ok();
    plugin.gc(&with(&conf, json!({"cni.dev/valid-attachments": []}))).expect_ok();
    host.expect_unchanged(&before);
    let result = plugin.add(&c, "eth0", &conf).expect_result();
    let held = with_previous_result(&conf, &result);
    plugin.check(&c, "eth0", &held).expect_ok();
    let lease = fs::read_to_string(path("10.1.0.2")).expect("there");
    assert_eq!(lease, format!("{}\r\neth0", c.id()));
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": c.id(), "ifname": "eth0"}]});
    plugin.gc(&with(&conf, valid)).expect_ok();
    plugin.check(&c, "eth0", &held).expect_ok();
    fs::remove_file(path("10.1.0.2")).expect("there");
    plugin.check(&c, "eth0", &held).expect_error(999, "failed to find an address allocated to");
    plugin.add(&c, "eth0", &conf).expect_result();
    plugin.check(&c, "eth0", &held).expect_error(999, "10.1.0.2");
    c.destroy();
    plugin.del_without_netns(&c, "eth0", &conf).expect_ok();
    plugin.del(&c, "eth0", &conf).expect_ok();
    assert_eq!(leases(host), [""; 0]);
}

fn a_reboot_makes_the_index_anew(host: &Host) {
    let containers = ["a", "b", "c"].map(|name| host.container(name));
    let plugin = host.plugin("host-local");
    let conf = v4("1.1.0");
    let [a, b, c] = &containers;
    plugin.add(a, "eth0", &conf).expect_result();
    let index = Path::new(DATA).join(".oxcni/net/pages");
    let before = fs::read(&index).expect("there");
    host.write("/run/boot_id", "11111111-2222-3333-4444-555555555555\n");
    host.exec("mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
    plugin.add(b, "eth0", &conf).expect_result();
    // The boot stands at byte 16.
    let after = fs::read(&index).expect("there");
    assert_ne!(before[16..24], after[16..24]);
    for damage in [&b""[..], b"nonsense", &before, &after[..after.len() - 1]] {
        fs::write(&index, damage).expect("written");
        plugin.add(c, "eth0", &conf).expect_result();
        plugin.del(c, "eth0", &conf).expect_ok();
        plugin.check(a, "eth0", &conf).expect_ok();
    }
    for container in &containers {
        plugin.del(container, "eth0", &conf).expect_ok();
    }
    assert_eq!(leases(host), [""; 0]);
    host.exec("umount /proc/sys/kernel/random/boot_id");
}

fn whoever_reads_all_leases_spares_the_next_one(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    let conf = network("1.1.0", json!({"subnet": "10.1.0.0/16"}));
    fs::create_dir_all(path("")).expect("it is a private folder");
    for n in 0..300 {
        let name = format!("10.1.1.{}", n % 256);
        let name = if n < 256 { name } else { format!("10.1.2.{}", n % 256) };
        fs::write(path(&name), format!("id{n}\r\neth0")).expect("written");
    }
    let valid: Vec<Value> =
        (0..300).map(|n| json!({"containerID": format!("id{n}"), "ifname": "eth0"})).collect();
    let sweep = with(&conf, json!({"cni.dev/valid-attachments": valid}));
    let of = |n: usize| plugin.clone().env("CNI_CONTAINERID", &format!("id{n}"));
    // A verb that reads every lease opens more than a hundred files.
    let reads_all = || {
        let outcome = of(7).fail_call("openat", "EIO", 100).check(&c, "eth0", &conf);
        (!outcome.fault_fired()).then(|| outcome.expect_ok()).is_none()
    };
    let verbs: [(&str, &dyn Fn()); 4] = [
        ("CHECK", &|| of(7).check(&c, "eth0", &conf).expect_ok()),
        ("STATUS", &|| plugin.status(&conf).expect_ok()),
        ("DEL", &|| of(999).del(&c, "eth0", &conf).expect_ok()),
        ("GC", &|| plugin.gc(&sweep).expect_ok()),
    ];
    for (verb, call) in verbs {
        assert!(reads_all(), "there is no index before {verb}");
        call();
        assert!(!reads_all(), "after {verb} of what the peer left");
        fs::write(path("10.1.3.1"), "other\r\neth0").expect("written");
        call();
        assert!(!reads_all(), "after {verb}, when somebody has changed a lease");
        fs::remove_file(path("10.1.3.1")).ok();
        fs::remove_dir_all(Path::new(DATA).join(".oxcni")).expect("there");
    }
    assert_eq!(leases(host).len(), 300);
}

fn ten_thousand_leases_and_a_full_range(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    // 192 addresses of 10,000 are free; round robin has all the others before it.
    let conf = network("1.1.0", json!({"subnet": "10.1.0.0/16", "rangeEnd": "10.1.40.1"}));
    fs::create_dir_all(path("")).expect("it is a private folder");
    let ip = |n: usize| format!("10.1.{}.{}", n / 256, n % 256);
    for n in 2..10_050 {
        fs::write(path(&ip(n)), format!("id{n}\r\neth0")).expect("written");
    }
    assert_eq!(addresses(&plugin.add(&c, "eth0", &conf)), ["10.1.39.66"]);
    let of = |n: usize| plugin.clone().env("CNI_CONTAINERID", &format!("id{n}"));
    of(5000).check(&c, "eth0", &conf).expect_ok();
    of(5000).del(&c, "eth0", &conf).expect_ok();
    of(5000).check(&c, "eth0", &conf).expect_error(999, "failed to find");
    // The table of owners grows on the way.
    for n in 10_051..=10_241 {
        assert_eq!(addresses(&of(n).add(&c, "eth0", &conf)), [ip(n)]);
    }
    // After a lap, what was released.
    assert_eq!(addresses(&of(10_242).add(&c, "eth0", &conf)), [ip(5000)]);
    of(10_243).add(&c, "eth0", &conf).expect_error(999, "no IP addresses available in range set");
    plugin.status(&conf).expect_error(50, "no IP addresses available in range set");
    assert_eq!(leases(host).len(), 10_240);
    of(7777).del(&c, "eth0", &conf).expect_ok();
    assert_eq!(addresses(&of(10_243).add(&c, "eth0", &conf)), [ip(7777)]);
}

fn hostile_input_is_told_and_changes_nothing(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    plugin.add(&c, "eth0", &v4("1.1.0")).expect_result();
    let before = content(host, &path(""));
    let deep = format!("{{\"name\":\"net\",\"x\":{}", "[".repeat(100_000));
    let ipam = |text: &str| format!(r#"{{"cniVersion":"1.1.0","name":"net","ipam":{text}}}"#);
    let subnet = r#""subnet":"10.1.0.0/24""#;
    let table = [
        (6, String::new(), ""),
        (6, "{".to_owned(), ""),
        (6, "[]".to_owned(), ""),
        (6, "\u{0}".to_owned(), ""),
        (6, deep, ""),
        (6, ipam("{}}"), ""),
        (7, r#"{"cniVersion":"1.1.0","ipam":{}}"#.to_owned(), "name"),
        (7, r#"{"cniVersion":"1.1.0","name":"../net"}"#.to_owned(), "name"),
        (7, r#"{"cniVersion":"1.1.0","name":".oxcni"}"#.to_owned(), "name"),
        (7, r#"{"cniVersion":"1.1.0","name":"net"}"#.to_owned(), "ipam"),
        (7, ipam("5"), "ipam"),
        (7, ipam("{}"), "no IP ranges"),
        (7, ipam(r#"{"subnet":5}"#), "ipam.subnet"),
        (7, ipam(r#"{"subnet":"10.1.0.0/24","subnet":"x"}"#), "ipam.subnet"),
        (7, ipam(r#"{"ranges":{}}"#), "ipam.ranges"),
        (7, ipam(r#"{"ranges":[[[]]]}"#), "ipam.ranges[0][0]"),
        (7, ipam(r#"{"ranges":[[{"subnet":"10.1.0.0/24","exclude":"10.1.0.2"}]]}"#), "exclude"),
        (7, ipam(&format!(r#"{{{subnet},"dataDir":[]}}"#)), "ipam.dataDir"),
        (7, ipam(&format!(r#"{{{subnet},"routes":[{{"dst":"x"}}]}}"#)), "ipam.routes[0].dst"),
        (7, ipam(&format!(r#"{{{subnet},"idempotentAdd":"yes"}}"#)), "ipam.idempotentAdd"),
        (7, ipam(&format!(r#"{{{subnet},"lockTimeout":1e99}}"#)), "ipam.lockTimeout"),
        (5, ipam(&format!(r#"{{{subnet},"dataDir":"/proc/self/none"}}"#)), "/proc/self/none"),
        (5, ipam(&format!(r#"{{{subnet},"dataDir":"/dev/null"}}"#)), "/dev/null"),
        (
            5,
            ipam(&format!(r#"{{{subnet},"dataDir":"/run/{}"}}"#, "x".repeat(300))),
            "name too long",
        ),
        (5, ipam(&format!(r#"{{{subnet},"dataDir":"/run/a\u0000b"}}"#)), "/run/a"),
        (5, ipam(&format!(r#"{{{subnet},"resolvConf":"/run"}}"#)), "/run"),
    ];
    for (code, input, part) in &table {
        plugin.send("ADD", &c, "eth1", input.as_bytes()).expect_error(*code, part);
        assert_eq!(content(host, &path("")), before, "{input}");
    }
    let long = "x".repeat(250);
    let name = with(&v4("1.1.0"), json!({"name": long}));
    plugin.add(&c, "eth1", &name).expect_result();
    plugin.del(&c, "eth1", &name).expect_ok();
    // Unknown keys are none of ours.
    let more = json!({"zzz": {"a": [null, 1.5e300, "\u{1F600}"]}});
    plugin.add(&c, "eth2", &with(&v4("1.1.0"), more)).expect_result();
}
