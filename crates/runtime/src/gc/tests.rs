use super::*;
use crate::chain::tests::{Folder, attachment, list};
use crate::{Attachment, ConfigList};
use serde_json::json;
use std::fs;

const BODY: &str = r#"[ $CNI_COMMAND != ADD ] || echo '{"ips":[{"address":"10.0.0.2/24"}]}'"#;

fn net() -> ConfigList {
    list(
        json!({"name": "net", "cniVersion": "1.1.0", "plugins": [{"type": "one"}, {"type": "two"}]}),
    )
}

fn keep(ids: &[(&str, &str)]) -> Keep {
    let id =
        |(c, i): &(&str, &str)| AttachmentId { container_id: (*c).into(), ifname: (*i).into() };
    Keep { attachments: ids.iter().map(id).collect(), existing: false }
}

/// A folder in which `ctr` (whose namespace is gone), `live` and, on another
/// network, `else` are attached.
fn attached() -> Folder {
    let folder = Folder::new();
    folder.plugin("one", BODY);
    folder.plugin("two", BODY);
    let runtime = folder.runtime();
    let mut gone = attachment();
    gone.args = vec![("A".into(), "1".into())];
    runtime.add(&net(), &gone).expect("ADD");
    let live = Attachment::new("live", "/proc/self/ns/uts", "eth0").expect("valid");
    runtime.add(&net(), &live).expect("ADD");
    let other = list(json!({"name": "net-b", "cniVersion": "1.1.0", "plugins": [{"type": "one"}]}));
    let gone = Attachment::new("else", "/none", "eth0").expect("valid");
    runtime.add(&other, &gone).expect("ADD");
    folder.log();
    folder
}

#[test]
fn only_what_is_not_kept_is_removed() {
    let folder = attached();
    let stale = folder.runtime().stale(&net(), &keep(&[("live", "eth0")])).expect("clear");
    assert_eq!(stale.iter().map(|e| e.container_id.as_str()).collect::<Vec<_>>(), ["ctr"]);
    folder.runtime().gc(&net(), &keep(&[("live", "eth0"), ("new", "eth1")])).expect("GC");
    let log = folder.log();
    assert_eq!(log.len(), 4, "{log:?}");
    assert!(
        log[0].starts_with("two DEL ctr /run/netns/ctr eth0 A=1 {")
            && log[0].contains("prevResult")
    );
    assert!(log[1].starts_with("one DEL ctr /run/netns/ctr eth0 A=1 {"));
    let valid = r#"[{"containerID":"live","ifname":"eth0"},{"containerID":"new","ifname":"eth1"}]"#;
    for (line, kind) in log[2..].iter().zip(["one", "two"]) {
        assert_eq!(
            *line,
            format!(
                r#"{kind} GC {{"cni.dev/attachments":{valid},"cni.dev/valid-attachments":{valid},"cniVersion":"1.1.0","name":"net","type":"{kind}"}}"#
            )
        );
    }
    assert_eq!(folder.results(), ["net-b-else-eth0", "net-live-eth0"]);
}

#[test]
fn what_exists_is_kept_when_asked_for() {
    let folder = attached();
    folder.runtime().gc(&net(), &Keep { existing: true, ..Keep::default() }).expect("GC");
    assert_eq!(folder.calls(), ["two DEL", "one DEL", "one GC", "two GC"]);
    assert_eq!(folder.results(), ["net-b-else-eth0", "net-live-eth0"]);
    folder.runtime().gc(&net(), &Keep::default()).expect("GC");
    assert_eq!(folder.results(), ["net-b-else-eth0"]);
}

#[test]
fn nothing_is_removed_in_doubt() {
    let folder = attached();
    let existing = Keep { existing: true, ..Keep::default() };
    for doubtful in ["", "{", r#"{"kind":"cniCacheV1"}"#, r#"{"cniVersion":"0.4.0","ips":[]}"#] {
        let file = folder.write("cache/results/net-doubt-eth0", doubtful);
        let error = folder.runtime().gc(&net(), &existing).expect_err(doubtful);
        assert!(error.msg().contains(&file.display().to_string()), "{error}");
        assert!(error.msg().contains("nothing was removed"), "{error}");
    }
    assert_eq!(folder.calls(), [""; 0]);
    // It cannot be in question for another network, or when names are given.
    folder.runtime().gc(&net(), &keep(&[("live", "eth0")])).expect("GC");
    assert_eq!(folder.calls().len(), 4);
    fs::rename(
        folder.path().join("cache/results/net-doubt-eth0"),
        folder.path().join("cache/results/other-doubt-eth0"),
    )
    .expect("ours");
    folder.runtime().gc(&net(), &existing).expect("GC");
}

/// As written by the reference library before version 1.2: without `netns`.
#[test]
fn what_may_exist_is_kept() {
    let folder = attached();
    let results = folder.path().join("cache/results");
    let without_netns = |interfaces: serde_json::Value| {
        let file = results.join("net-ctr-eth0");
        let mut entry: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
        entry.as_object_mut().expect("an object").remove("netns");
        entry["result"]["interfaces"] = interfaces;
        fs::write(file, entry.to_string()).expect("ours");
        let runtime = folder.runtime();
        let entry = runtime.cache().get("net", "ctr", "eth0").expect("readable").expect("there");
        let existing = Keep { existing: true, ..Keep::default() };
        let stale = runtime.stale(&net(), &existing).expect("clear");
        (entry.netns.display().to_string(), entry.presence(), stale.len())
    };
    let (here, gone) = ("/proc/self/ns/uts", "/run/netns/ctr");
    for (interfaces, expected) in [
        (json!([]), ("", Presence::Unknown, 0)),
        (json!([{"name": "cni0"}, {"name": "veth0"}]), ("", Presence::Unknown, 0)),
        // A virtual machine's.
        (json!([{"name": "eth0", "sandbox": "vm-1"}]), ("", Presence::Unknown, 0)),
        (json!([{"name": "cni0"}, {"name": "eth0", "sandbox": here}]), (here, Presence::Exists, 0)),
        (json!([{"name": "eth0", "sandbox": gone}]), (gone, Presence::Gone, 1)),
        // The link may have been given another name.
        (json!([{"name": "net1", "sandbox": here}]), (here, Presence::Exists, 0)),
        (
            json!([{"name": "x", "sandbox": gone}, {"name": "eth0", "sandbox": here}]),
            (here, Presence::Exists, 0),
        ),
    ] {
        let (netns, presence, stale) = without_netns(interfaces.clone());
        assert_eq!((netns.as_str(), presence, stale), expected, "{interfaces}");
    }
    // By name it goes all the same.
    without_netns(json!([]));
    assert_eq!(folder.runtime().stale(&net(), &keep(&[("live", "eth0")])).expect("clear").len(), 1);
}

#[test]
fn an_unreadable_cache_is_an_error() {
    let folder = attached();
    fs::remove_dir_all(folder.path().join("cache/results")).expect("ours");
    folder.write("cache/results", "not a folder");
    let error = folder.runtime().gc(&net(), &Keep::default()).expect_err("no folder");
    assert!(error.msg().starts_with("read cache "), "{error}");
    assert_eq!(folder.calls(), [""; 0]);
}

#[test]
fn a_file_under_a_wrong_name_is_removed_with_its_attachment() {
    let folder = attached();
    let results = folder.path().join("cache/results");
    fs::rename(results.join("net-ctr-eth0"), results.join("moved")).expect("ours");
    fs::copy(results.join("net-live-eth0"), results.join("copy")).expect("ours");
    folder.runtime().gc(&net(), &keep(&[("live", "eth0")])).expect("GC");
    assert_eq!(folder.calls(), ["two DEL", "one DEL", "one GC", "two GC"]);
    assert_eq!(folder.results(), ["copy", "net-b-else-eth0", "net-live-eth0"]);
    // A second file with another namespace in it does not count.
    let text = fs::read_to_string(results.join("copy")).expect("ours");
    fs::write(results.join("copy"), text.replace("/proc/self/ns/uts", "/none")).expect("ours");
    let existing = Keep { existing: true, ..Keep::default() };
    assert_eq!(folder.runtime().stale(&net(), &existing), Ok(vec![]));
}

#[test]
fn gc_goes_on_after_errors_and_tells_all() {
    let folder = attached();
    folder.plugin(
        "one",
        r#"[ $CNI_COMMAND = VERSION ] || { echo '{"code":100,"msg":"no"}'; exit 1; }"#,
    );
    let error = folder.runtime().gc(&net(), &keep(&[("live", "eth0")])).expect_err("one fails");
    assert_eq!(
        error.to_string(),
        "delete stale attachment ctr eth0: plugin type=\"one\" failed (delete): no; plugin type=\"one\" failed (gc): no"
    );
    assert_eq!(folder.calls(), ["two DEL", "one DEL", "one GC", "two GC"]);
    assert!(folder.results().contains(&"net-ctr-eth0".to_owned()));
}

#[test]
fn lists_may_opt_out_and_old_ones_have_no_gc_verb() {
    let folder = attached();
    let gc = |extra: serde_json::Value| {
        let mut value = json!({"name": "net", "plugins": [{"type": "one"}]});
        value
            .as_object_mut()
            .expect("an object")
            .extend(extra.as_object().expect("an object").clone());
        folder.runtime().gc(&list(value), &Keep::default()).expect("GC");
        folder.calls()
    };
    assert_eq!(gc(json!({"cniVersion": "1.1.0", "disableGC": true})), [""; 0]);
    assert_eq!(gc(json!({"cniVersion": "1.0.0"})), ["one DEL", "one DEL"]);
}

#[test]
fn namespaces_are_known_from_files() {
    let folder = Folder::new();
    // Any will do: they are all files of one file system.
    assert!(is_namespace(Path::new("/proc/self/ns/uts")));
    let machine = Path::new("/proc/1/ns/net");
    assert!(!is_namespace(machine), "the machine's own is no container's, if it is seen at all");
    assert!(!is_namespace(&folder.write("stale", "")));
    assert!(!is_namespace(&folder.path().join("none")));
    assert!(!is_namespace(Path::new("")));
}
