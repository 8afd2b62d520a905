pub(crate) mod temporary;

use super::*;
use cni::{ContainerId, IfName, IpConfig};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;
use temporary::Temporary;

/// A data directory, and requests for a network in it.
struct Fixture(Temporary);

impl Fixture {
    fn new() -> Fixture {
        Fixture(Temporary::new())
    }

    /// `ipam` gets a data directory; `more` is merged into the document.
    fn network(&self, mut ipam: Value, more: Value) -> Network {
        ipam["dataDir"] = json!(self.0.path().join("data"));
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam});
        for (key, value) in more.as_object().expect("an object") {
            conf[key] = value.clone();
        }
        Network::new(conf.to_string().into_bytes(), OsString::new(), &[]).expect("a valid document")
    }

    fn request(&self, id: &str, ipam: Value, more: Value) -> Request {
        Request {
            network: self.network(ipam, more),
            container_id: ContainerId::new(id).expect("valid"),
            ifname: IfName::new("eth0").expect("valid"),
            netns: Some("/proc/self/ns/net".into()),
            args: String::new(),
        }
    }

    fn add(&self, id: &str, ipam: Value) -> Result<Vec<String>> {
        HostLocal.add(&self.request(id, ipam, json!({}))).map(|success| texts(&success.ips))
    }

    fn del(&self, id: &str, ipam: Value) -> Result<()> {
        HostLocal.del(&self.request(id, ipam, json!({})))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("data/net").join(name)
    }

    fn leases(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("")) else { return Vec::new() };
        let names = entries.map(|e| e.expect("there").file_name().into_string().expect("ASCII"));
        let mut names: Vec<String> =
            names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        names.sort();
        names
    }
}

/// `address gateway` of each.
fn texts(ips: &[IpConfig]) -> Vec<String> {
    ips.iter().map(|ip| format!("{} {}", ip.address, ip.gateway.expect("always"))).collect()
}

fn v4() -> Value {
    json!({"subnet": "10.1.0.0/29"})
}

fn dual() -> Value {
    json!({"ranges": [[{"subnet": "10.1.0.0/29"}], [{"subnet": "fd00::/126"}]]})
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn add_gives_an_address_of_each_set() {
    let f = Fixture::new();
    let resolv = f.0.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 10.1.0.1\nsearch x\n").expect("written");
    let mut ipam = dual();
    ipam["routes"] =
        json!([{"dst": "0.0.0.0/0"}, {"dst": "fd01::/48", "gw": "fd00::1", "priority": 5}]);
    ipam["resolvConf"] = json!(resolv);
    let success = HostLocal.add(&f.request("c1", ipam, json!({}))).expect("room");
    assert_eq!(texts(&success.ips), ["10.1.0.2/29 10.1.0.1", "fd00::2/126 fd00::1"]);
    assert!(success.interfaces.is_empty() && success.ips.iter().all(|ip| ip.interface.is_none()));
    assert_eq!((success.routes.len(), success.routes[1].priority), (2, 5));
    assert_eq!(
        (success.dns.nameservers, success.dns.search),
        (vec!["10.1.0.1".into()], vec!["x".into()])
    );
    assert_eq!(
        f.add("c2", dual()),
        Ok(vec!["10.1.0.3/29 10.1.0.1".into(), "fd00::3/126 fd00::1".into()])
    );
}

#[test]
fn add_again_is_refused_and_changes_nothing() {
    let f = Fixture::new();
    f.add("c1", dual()).expect("room");
    let error = f.add("c1", dual()).expect_err("it has one");
    assert_eq!(error.code(), Code::INTERNAL);
    let told = "failed to allocate for range 0: 10.1.0.2 has been allocated to c1, interface eth0, duplicate allocation is not allowed";
    assert!(error.msg().starts_with(told), "{error}");
    // Also when another address is asked for.
    let more = json!({"runtimeConfig": {"ips": ["10.1.0.5"]}});
    let error = text(HostLocal.add(&f.request("c1", dual(), more)));
    assert!(error.contains("10.1.0.2 has been allocated to c1"), "{error}");
    assert_eq!(f.leases(), ["10.1.0.2", "fd00::2"]);
    // Another interface of the container is another attachment.
    let mut other = f.request("c1", dual(), json!({}));
    other.ifname = IfName::new("eth1").expect("valid");
    assert_eq!(texts(&HostLocal.add(&other).expect("room").ips)[0], "10.1.0.3/29 10.1.0.1");
}

#[test]
fn idempotent_add_returns_what_there_is_and_completes_it() {
    let f = Fixture::new();
    f.add("c0", v4()).expect("room");
    f.add("c1", v4()).expect("room");
    let mut ipam = dual();
    ipam["idempotentAdd"] = json!(true);
    let both = Ok(vec!["10.1.0.3/29 10.1.0.1".to_owned(), "fd00::2/126 fd00::1".to_owned()]);
    assert_eq!(f.add("c1", ipam.clone()), both);
    assert_eq!(f.add("c1", ipam.clone()), both);
    let ask = |ip: &str| {
        HostLocal.add(&f.request("c1", ipam.clone(), json!({"runtimeConfig": {"ips": [ip]}})))
    };
    assert_eq!(ask("10.1.0.3").map(|s| texts(&s.ips)), both);
    let error = text(ask("10.1.0.5"));
    assert!(
        error.contains("10.1.0.5 was requested, but 10.1.0.3 has been allocated to c1"),
        "{error}"
    );
    assert_eq!(f.leases(), ["10.1.0.2", "10.1.0.3", "fd00::2"]);
}

#[test]
fn a_failed_add_takes_back_what_it_took_and_nothing_else() {
    let f = Fixture::new();
    for id in ["a", "b"] {
        f.add(id, dual()).expect("room");
    }
    let before = f.leases();
    let error = text(f.add("c", dual()));
    let told =
        "failed to allocate for range 1: no IP addresses available in range set: fd00::1-fd00::3";
    assert_eq!(error, told);
    assert_eq!(f.leases(), before, "set 0 had room");
    // It holds an address of set 0 already; set 1 is exhausted.
    f.add("d", v4()).expect("room");
    let before = f.leases();
    let mut ipam = dual();
    ipam["idempotentAdd"] = json!(true);
    assert_eq!(text(f.add("d", ipam)), told);
    assert_eq!(f.leases(), before);
}

#[test]
fn requested_addresses() {
    let f = Fixture::new();
    let ask = |id: &str, ip: &str| {
        HostLocal.add(&f.request(id, dual(), json!({"args": {"cni": {"ips": [ip]}}})))
    };
    assert_eq!(
        texts(&ask("c1", "10.1.0.5").expect("free").ips),
        ["10.1.0.5/29 10.1.0.1", "fd00::2/126 fd00::1"]
    );
    let error = text(ask("c2", "10.1.0.5"));
    let told = "failed to allocate for range 0: requested IP address 10.1.0.5 is not available in range set 10.1.0.1-10.1.0.6: held by container c1, interface eth0";
    assert_eq!(error, told);
    let mut request = f.request("c3", dual(), json!({}));
    request.args = "IP=fd00::3;IgnoreUnknown=1".to_owned();
    // Round robin goes on after the one that was requested.
    assert_eq!(
        texts(&HostLocal.add(&request).expect("free").ips),
        ["10.1.0.6/29 10.1.0.1", "fd00::3/126 fd00::1"]
    );
    assert!(text(ask("c4", "10.1.0.1")).contains("10.1.0.1 is the gateway"));
    assert!(text(ask("c4", "10.9.0.1")).contains("failed to allocate all requested IPs: 10.9.0.1"));
    assert_eq!(f.leases(), ["10.1.0.5", "10.1.0.6", "fd00::2", "fd00::3"]);
}

#[test]
fn what_is_no_lease_is_named_and_left_alone() {
    let f = Fixture::new();
    fs::create_dir_all(f.path("10.1.0.3")).expect("made");
    let target = f.0.path().join("target");
    symlink(&target, f.path("10.1.0.2")).expect("made");
    assert_eq!(f.add("c1", v4()), Ok(vec!["10.1.0.4/29 10.1.0.1".into()]));
    for (ip, what) in [("10.1.0.2", "symbolic link"), ("10.1.0.3", "it is a directory")] {
        let more = json!({"runtimeConfig": {"ips": [ip]}});
        let error = text(HostLocal.add(&f.request("c2", v4(), more)));
        assert!(
            error.contains(what) && error.contains(&f.path(ip).display().to_string()),
            "{error}"
        );
    }
    assert!(!target.exists() && f.path("10.1.0.2").is_symlink() && f.path("10.1.0.3").is_dir());
    // Where round robin is, too.
    fs::remove_file(f.path("last_reserved_ip.0")).expect("there");
    symlink(&target, f.path("last_reserved_ip.0")).expect("made");
    let error = f.add("c3", v4()).expect_err("a link");
    assert!(error.code() == Code::IO && error.msg().contains("last_reserved_ip.0"), "{error}");
    assert!(!target.exists());
    assert_eq!(f.leases(), ["10.1.0.2", "10.1.0.3", "10.1.0.4"]);
}

#[test]
fn del_gives_back_everything_wherever_it_is() {
    let f = Fixture::new();
    assert_eq!(f.del("c1", v4()), Ok(()));
    assert!(!f.0.path().join("data").exists(), "nothing is made");
    f.add("c1", dual()).expect("room");
    f.add("c2", dual()).expect("room");
    // The ranges have been changed since, or broken.
    assert_eq!(f.del("c1", json!({"ranges": "nonsense", "routes": 5})), Ok(()));
    assert_eq!(f.leases(), ["10.1.0.3", "fd00::3"]);
    let mut request =
        f.request("c2", json!({"subnet": "10.77.0.0/24"}), json!({"runtimeConfig": 5}));
    (request.netns, request.args) = (None, "FOO".to_owned());
    for _ in 0..2 {
        assert_eq!(HostLocal.del(&request), Ok(()));
        assert_eq!(f.leases(), [""; 0]);
    }
}

#[test]
fn check_wants_the_leases_of_the_previous_result() {
    let f = Fixture::new();
    let check = |id: &str, ips: Option<Value>| {
        let previous = ips.map(|ips| json!({"cniVersion": "1.1.0", "ips": ips}));
        HostLocal.check(&f.request(id, dual(), json!({"prevResult": previous})))
    };
    let addresses = |list: &[&str]| Some(list.iter().map(|a| json!({"address": a})).collect());
    let error = check("c1", None).expect_err("not even a directory");
    assert_eq!(
        error.msg(),
        "failed to find an address allocated to container c1, interface eth0 on network net"
    );
    f.add("c1", dual()).expect("room");
    f.add("c2", v4()).expect("room");
    assert_eq!(check("c1", None), Ok(()));
    // An address of another plugin in the chain is none of ours.
    assert_eq!(check("c1", addresses(&["10.1.0.2/29", "fd00::2/126", "192.0.2.1/24"])), Ok(()));
    let error = text(check("c1", addresses(&["10.1.0.2/29", "fd00::3/126"])));
    assert_eq!(
        error,
        "check address fd00::3 of container c1, interface eth0: it is held by nobody"
    );
    let error = text(check("c1", addresses(&["10.1.0.3/29"])));
    assert!(error.ends_with("it is held by container c2, interface eth0"), "{error}");
    fs::remove_file(f.path("10.1.0.3")).expect("there");
    assert!(text(check("c2", None)).contains("failed to find an address"));
}

#[test]
fn gc_keeps_what_is_valid() {
    let f = Fixture::new();
    let gc = |valid: Value| HostLocal.gc(&f.network(json!({"ranges": 5}), valid));
    assert_eq!(gc(json!({"cni.dev/valid-attachments": []})), Ok(()));
    assert!(!f.0.path().join("data").exists(), "nothing is made");
    for id in ["c1", "c2", "c3"] {
        f.add(id, v4()).expect("room");
    }
    fs::write(f.path("10.1.0.5"), "old").expect("written");
    fs::write(f.path("10.1.0.6"), "older").expect("written");
    let all = f.leases();
    assert_eq!(gc(json!({})), Ok(()));
    assert_eq!(f.leases(), all, "nobody said which are valid");
    assert!(gc(json!({"cni.dev/valid-attachments": 5})).is_err());
    assert_eq!(f.leases(), all);
    let valid = json!([{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth1"},
        {"containerID": "old", "ifname": "any"}]);
    assert_eq!(gc(json!({"cni.dev/valid-attachments": valid})), Ok(()));
    assert_eq!(f.leases(), ["10.1.0.3", "10.1.0.5"]);
    // Nor does a clock that was ahead keep a lease.
    let ahead = f.path("10.1.0.77");
    fs::write(&ahead, "gone\r\neth0").expect("the folder is ours");
    let year = std::time::Duration::from_secs(1 << 25);
    let file = fs::File::open(&ahead).expect("just made");
    file.set_modified(std::time::SystemTime::now() + year).expect("ours");
    assert_eq!(gc(json!({"cni.dev/valid-attachments": valid})), Ok(()));
    assert!(!ahead.exists());
    assert_eq!(gc(json!({"cni.dev/valid-attachments": null})), Ok(()));
    assert_eq!(f.leases(), [""; 0]);
}

#[test]
fn where_nothing_can_be_there_is_nothing_to_release() {
    let f = Fixture::new();
    let data = f.0.path().join("data");
    let refused = |name: &str, told: &str| {
        let more = json!({"name": name});
        HostLocal.add(&f.request("a", v4(), more.clone())).expect_err(told);
        assert_eq!(HostLocal.del(&f.request("a", v4(), more.clone())), Ok(()), "{told}");
        let status = HostLocal.status(&f.network(v4(), more)).expect_err(told);
        assert_eq!(status.code(), Code::NOT_AVAILABLE);
        assert!(status.msg().contains(told), "{status}");
    };
    refused(&"x".repeat(256), "file name too long");
    fs::remove_dir_all(&data).expect("the ADD made it");
    std::os::unix::fs::symlink("/nonexistent/data", &data).expect("made");
    refused("net", "a link to what is not there");
    fs::remove_file(&data).expect("there");
    fs::write(&data, "").expect("written");
    refused("net", "not a directory");
}

#[test]
fn status_tells_what_an_add_would_meet() {
    let f = Fixture::new();
    let status = |ipam: Value| HostLocal.status(&f.network(ipam, json!({})));
    assert_eq!(status(dual()), Ok(()));
    assert!(!f.0.path().join("data").exists(), "nothing is made");
    let invalid = status(json!({"subnet": "x"})).expect_err("no subnet");
    assert_eq!(invalid.code(), Code::INVALID_CONFIG);
    let unavailable = |ipam: Value, told: &str| {
        let error = status(ipam).expect_err(told);
        assert_eq!(error.code(), Code::NOT_AVAILABLE, "{error}");
        assert!(error.msg().contains(told), "{error}");
    };
    unavailable(json!({"subnet": "10.1.0.0/24", "resolvConf": "/nonexistent"}), "/nonexistent");
    f.add("a", dual()).expect("room");
    assert_eq!(status(dual()), Ok(()));
    f.add("b", dual()).expect("room");
    unavailable(dual(), "range 1: no IP addresses available in range set: fd00::1-fd00::3");
    let held = store::Lock::take(
        &Dir::open(f.path("")).expect("there"),
        "lock",
        0o600,
        Duration::from_secs(9),
    );
    let mut ipam = v4();
    ipam["lockTimeout"] = json!(0);
    unavailable(ipam, "still held by process");
    drop(held);
    fs::remove_dir_all(f.path("")).expect("there");
    fs::write(f.0.path().join("data/net"), "").expect("written");
    unavailable(v4(), "not a directory");
}

#[test]
fn a_lock_held_too_long_is_an_error_to_try_again() {
    let f = Fixture::new();
    f.add("c1", v4()).expect("room");
    let dir = Dir::open(f.path("")).expect("there");
    let _held = store::Lock::take(&dir, "lock", 0o600, Duration::from_secs(9)).expect("free");
    let mut ipam = v4();
    ipam["lockTimeout"] = json!(0);
    let more = json!({"cni.dev/valid-attachments": []});
    for error in [
        f.add("c2", ipam.clone()).map(drop),
        f.del("c1", ipam.clone()),
        HostLocal.check(&f.request("c1", ipam.clone(), json!({}))),
        HostLocal.gc(&f.network(ipam, more)),
    ] {
        let error = error.expect_err("it is held");
        assert_eq!(error.code(), Code::TRY_AGAIN);
        let holder = format!("still held by process {} ", std::process::id());
        assert!(error.msg().contains(&holder) && error.msg().contains("data/net/lock"), "{error}");
    }
    assert_eq!(f.leases(), ["10.1.0.2"]);
}

#[test]
fn excluded_addresses_are_not_given() {
    let f = Fixture::new();
    let ipam = json!({"ranges": [[{"subnet": "10.1.0.0/28", "exclude": ["10.1.0.2", "10.1.0.4/30", "10.1.0.10"]}]]});
    let given: Vec<String> = (0..)
        .map_while(|n| f.add(&format!("c{n}"), ipam.clone()).ok())
        .map(|ips| ips[0].clone())
        .collect();
    let expected =
        ["3", "8", "9", "11", "12", "13", "14"].map(|n| format!("10.1.0.{n}/28 10.1.0.1"));
    assert_eq!(given, expected);
    let more = json!({"runtimeConfig": {"ips": ["10.1.0.5"]}});
    assert!(text(HostLocal.add(&f.request("d", ipam, more))).contains("10.1.0.5 is excluded"));
}

#[test]
fn a_cooldown_works_across_verbs() {
    let f = Fixture::new();
    let mut ipam = v4();
    ipam["releaseCooldown"] = json!(3600);
    let add = |id: &str| f.add(id, ipam.clone()).map(|ips| ips[0].clone()).expect("room");
    let given = |n: u8| format!("10.1.0.{n}/29 10.1.0.1");
    assert_eq!(["a", "b", "c", "d"].map(add), [2, 3, 4, 5].map(given));
    for id in ["c", "a", "b"] {
        f.del(id, ipam.clone()).expect("released");
    }
    // 6 never rested; then those that rest, in the order they were released.
    assert_eq!(["e", "f", "g", "h"].map(add), [6, 4, 2, 3].map(given));
    // Without the key nothing is recorded.
    f.del("e", v4()).expect("released");
    let record = fs::read_to_string(f.0.path().join("data/.oxcni/net/released")).expect("there");
    assert!(!record.contains("10.1.0.6"), "{record}");
}

#[test]
fn parallel_adds_never_share_an_address() {
    let f = Fixture::new();
    let ipam = json!({"subnet": "10.1.0.0/24"});
    let given: Vec<String> = std::thread::scope(|scope| {
        let run = |n: usize| {
            let (f, ipam) = (&f, ipam.clone());
            scope.spawn(move || f.add(&format!("c{n}"), ipam).expect("room").remove(0))
        };
        let threads: Vec<_> = (0..50).map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let distinct: BTreeSet<&String> = given.iter().collect();
    assert_eq!((distinct.len(), f.leases().len()), (50, 50));
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let f = Fixture::new();
    fs::write(f.0.path().join("data"), "a file").expect("written");
    let error = f.add("c1", v4()).expect_err("a file is in the way");
    assert_eq!(error.code(), Code::IO);
    assert!(error.msg().contains("data/net: not a directory"), "{error}");
    fs::remove_file(f.0.path().join("data")).expect("there");
    symlink("data", f.0.path().join("data")).expect("made");
    let error = f.del("c1", v4()).expect_err("a loop");
    assert_eq!(error.code(), Code::IO);
}
