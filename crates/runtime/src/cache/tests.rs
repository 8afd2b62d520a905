//! Golden files are in `testdata/cache`: what the reference library writes.

use super::*;
use crate::chain::tests::{Folder, attachment, list};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cache").join(name)
}

fn outcome(value: Value) -> Outcome {
    Outcome::read(value.to_string().as_bytes(), Version::V1_1_0).expect("a result")
}

fn net(name: &str) -> ConfigList {
    list(json!({"name": name, "cniVersion": "1.1.0", "plugins": [{"type": "x"}]}))
}

fn of(container_id: &str, ifname: &str) -> Attachment {
    Attachment::new(container_id, "/run/netns/x", ifname).expect("valid")
}

#[test]
fn files_are_the_reference_librarys() {
    let folder = Folder::new();
    let cache = Cache::new(folder.path().join("cache"));
    let written = |name: &str| folder.path().join("cache/results").join(name);

    let conflist = fs::read(golden("full.conflist")).expect("test data");
    let full = ConfigList::parse(&conflist).expect("valid");
    let mut pod = Attachment::new("pod-1", "/run/netns/pod", "eth0").expect("valid");
    pod.args = vec![("IgnoreUnknown".into(), "1".into()), ("IP".into(), "10.1.0.9".into())];
    pod.capabilities =
        json!({"portMappings": [{"hostPort": 80, "containerPort": 8080}], "mac": "a<b"})
            .as_object()
            .expect("an object")
            .clone();
    let result = json!({"cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/run/netns/pod"}],
        "ips": [{"interface": 0, "address": "10.1.0.9/24", "gateway": "10.1.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.1.0.1"]}});
    cache.put(&full, &pod, &outcome(result)).expect("write");
    let file = written("full-pod-1-eth0");
    let (ours, theirs) = (fs::read_to_string(&file), fs::read_to_string(golden("full-pod-1-eth0")));
    assert_eq!(ours.expect("written"), theirs.expect("test data"));
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&folder.path().join("cache/results")), 0o700);
    assert_eq!(mode(&folder.path().join("cache")), 0o700);

    let old = ConfigList::parse_single(br#"{"cniVersion":"0.4.0","name":"old","type":"x"}"#);
    let result = Outcome::read(
        br#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.2/24"}]}"#,
        Version::V0_4_0,
    );
    let bare = Attachment::new("c", "", "eth0").expect("valid");
    cache.put(&old.expect("valid"), &bare, &result.expect("valid")).expect("write");
    let (ours, theirs) =
        (fs::read_to_string(written("old-c-eth0")), fs::read_to_string(golden("old-c-eth0")));
    assert_eq!(ours.expect("written"), theirs.expect("test data"));
}

#[test]
fn the_reference_librarys_files_are_read() {
    let folder = Folder::new();
    let results = folder.path().join("results");
    fs::create_dir(&results).expect("ours");
    for name in ["full-pod-1-eth0", "old-c-eth0", "legacy-c-eth0"] {
        fs::copy(golden(name), results.join(name)).expect("test data");
    }
    let cache = Cache::new(folder.path());
    let full = cache.get("full", "pod-1", "eth0").expect("readable").expect("there");
    assert_eq!(full.netns, Path::new("/run/netns/pod"));
    assert_eq!(full.args[1], ("IP".to_owned(), "10.1.0.9".to_owned()));
    assert_eq!(full.capabilities["portMappings"][0]["hostPort"], 80);
    assert_eq!(full.config, fs::read(golden("full.conflist")).expect("test data"));
    let result = full.outcome(Version::V0_4_0).expect("convertible").to_value();
    assert_eq!(result["ips"][0]["version"], "4");
    assert_eq!(full.attachment().expect("valid").args, full.args);

    // Only a result, of a version it does not tell.
    let legacy = cache.get("legacy", "c", "eth0").expect("readable").expect("there");
    let result = legacy.outcome(Version::V1_0_0).expect("convertible").to_value();
    assert_eq!(result, json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}]}));

    let contents = cache.contents().expect("readable");
    let names: Vec<_> = contents.entries.iter().map(|e| e.network.as_str()).collect();
    assert_eq!(names, ["full", "old"]);
    assert_eq!(contents.unreadable.len(), 1);
}

#[test]
fn attachments_that_share_a_name_do_not_share_a_file() {
    let folder = Folder::new();
    let cache = Cache::new(folder.path());
    let address = |n: u8| outcome(json!({"ips": [{"address": format!("10.0.0.{n}/24")}]}));
    cache.put(&net("a-b"), &of("c", "eth0"), &address(1)).expect("write");
    cache.put(&net("a"), &of("b-c", "eth0"), &address(2)).expect("write");
    let read = |network: &str, container: &str| {
        let entry = cache.get(network, container, "eth0").expect("readable")?;
        Some(entry.outcome(Version::V1_1_0).expect("valid"))
    };
    assert_eq!(read("a-b", "c"), Some(address(1)));
    assert_eq!(read("a", "b-c"), Some(address(2)));
    assert_eq!(cache.contents().expect("readable").entries.len(), 2);
    // Each is replaced and removed where it is.
    cache.put(&net("a"), &of("b-c", "eth0"), &address(3)).expect("write");
    assert_eq!((read("a-b", "c"), read("a", "b-c")), (Some(address(1)), Some(address(3))));
    cache.remove("a", "b-c", "eth0").expect("remove");
    cache.remove("a", "b-c", "eth0").expect("remove nothing");
    assert_eq!((read("a-b", "c"), read("a", "b-c")), (Some(address(1)), None));
    cache.remove("a-b", "c", "eth0").expect("remove");
    assert_eq!(cache.contents().expect("readable").entries, []);
}

#[test]
fn the_usual_name_is_taken_when_it_is_free_again() {
    let folder = Folder::new();
    let cache = Cache::new(folder.path());
    let empty = || outcome(json!({}));
    cache.put(&net("a-b"), &of("c", "eth0"), &empty()).expect("write");
    cache.put(&net("a"), &of("b-c", "eth0"), &empty()).expect("write");
    cache.remove("a-b", "c", "eth0").expect("remove");
    cache.put(&net("a"), &of("b-c", "eth0"), &empty()).expect("write");
    let entries = cache.contents().expect("readable").entries;
    assert_eq!(
        entries.iter().map(|e| e.file.clone()).collect::<Vec<_>>(),
        [folder.path().join("results/a-b-c-eth0")]
    );
}

#[test]
fn long_names_are_shortened() {
    let folder = Folder::new();
    let cache = Cache::new(folder.path());
    for (length, ifname) in [(235, "eth0"), (240, "eth0"), (300, "ééééééé"), (300, "eth0")] {
        let id = "x".repeat(length);
        cache.put(&net("some-network"), &of(&id, ifname), &outcome(json!({}))).expect("write");
        let entry = cache.get("some-network", &id, ifname).expect("readable").expect("there");
        assert_eq!(entry.container_id, id);
        cache.remove("some-network", &id, ifname).expect("remove");
    }
    assert_eq!(cache.contents().expect("readable").entries, []);
}

#[test]
fn writing_leaves_nothing_half_done() {
    let folder = Folder::new();
    let cache = Cache::new(folder.path());
    // A link that was planted is replaced, not followed.
    let victim = folder.write("victim", "precious");
    fs::create_dir(folder.path().join("results")).expect("ours");
    std::os::unix::fs::symlink(&victim, folder.path().join("results/net-ctr-eth0")).expect("ours");
    cache.put(&net("net"), &attachment(), &outcome(json!({}))).expect("write");
    assert_eq!(fs::read_to_string(victim).expect("there"), "precious");
    let names: Vec<_> = fs::read_dir(folder.path().join("results"))
        .expect("there")
        .map(|e| e.expect("readable").file_name())
        .collect();
    assert_eq!(names, ["net-ctr-eth0"]);
    // What another process is just writing is not in doubt.
    folder.write("results/.new-1-0", "{\"kind\":");
    let contents = cache.contents().expect("readable");
    assert_eq!((contents.entries.len(), contents.unreadable.len()), (1, 0));
}

#[test]
fn malformed_files_are_errors_that_name_them() {
    let folder = Folder::new();
    let cache = Cache::new(folder.path());
    let v1 = |rest: &str| {
        format!(
            r#"{{"kind":"cniCacheV1","containerId":"ctr","ifName":"eth0","networkName":"net"{rest}}}"#
        )
    };
    for (text, culprit) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "not a JSON object"),
        (r#"{"kind":"cniCacheV1"}"#.to_owned(), "does not name an attachment"),
        (v1(r#","config":"?""#), "not base64"),
        (v1(r#","netns":5"#), "netns"),
        (v1(r#","cniArgs":[["a"]]"#), "cniArgs"),
    ] {
        let file = folder.write("results/net-ctr-eth0", &text);
        let error = cache.get("net", "ctr", "eth0").expect_err(&text).to_string();
        assert!(error.contains(&file.display().to_string()) && error.contains(culprit), "{error}");
        assert_eq!(cache.contents().expect("readable").unreadable.len(), 1);
    }
    // All that is optional may be missing or null.
    folder.write("results/net-ctr-eth0", v1(r#","config":null,"cniArgs":null,"result":null"#));
    let entry = cache.get("net", "ctr", "eth0").expect("readable").expect("there");
    let empty = entry.outcome(Version::V1_1_0).expect("empty").to_value();
    assert_eq!(empty, json!({"cniVersion": "1.1.0"}));
}
