//! Chains of shell scripts that write down how they were called.

use super::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder with plugins in it, gone when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("oxcni-runtime-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("a new name in the temporary folder");
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.join(name);
        fs::create_dir_all(file.parent().expect("below the folder")).expect("our folder");
        fs::write(&file, content).expect("our folder");
        file
    }

    /// An executable of `/bin/sh`.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let file = self.write(name, format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("our file");
        file
    }

    /// A plugin: notes its name, its variables and stdin in `log`, then does
    /// `body`.
    pub(crate) fn plugin(&self, name: &str, body: &str) {
        let log = self.0.join("log");
        self.script(
            name,
            &format!(
                "stdin=$(cat)\n\
                 echo \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $stdin\" >> {}\n\
                 {body}",
                log.display()
            ),
        );
    }

    /// What was noted since the last call.
    pub(crate) fn log(&self) -> Vec<String> {
        let file = self.0.join("log");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// The same, only names and verbs.
    pub(crate) fn calls(&self) -> Vec<String> {
        let short = |line: &String| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        self.log().iter().map(short).collect()
    }

    pub(crate) fn runtime(&self) -> Runtime {
        Runtime::new(&self.0, self.0.join("cache")).with_lock_limit(Duration::from_millis(200))
    }

    pub(crate) fn results(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.0.join("cache/results")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn list(value: Value) -> ConfigList {
    ConfigList::parse(value.to_string().as_bytes()).expect("a valid list")
}

pub(crate) fn attachment() -> Attachment {
    Attachment::new("ctr", "/run/netns/ctr", "eth0").expect("valid")
}

/// The body of a plugin that answers ADD with an address.
const ONE: &str =
    r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}'"#;

/// The body of a plugin that fails `verb`.
fn failing(verb: &str) -> String {
    format!(
        "[ $CNI_COMMAND != {verb} ] || {{ echo '{{\"code\":142,\"msg\":\"no luck\",\"details\":\"at all\"}}'; exit 1; }}\n{ONE}"
    )
}

fn two() -> ConfigList {
    list(json!({"name": "net", "cniVersion": "1.1.0",
        "plugins": [{"type": "one"}, {"type": "two", "name": "second"}]}))
}

#[test]
fn a_chain_passes_results_on_and_back() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin(
        "two",
        r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.3/24"}]}'"#,
    );
    let runtime = folder.runtime();
    let list = list(json!({"name": "net", "cniVersion": "1.1.0", "plugins": [
        {"type": "one", "capabilities": {"ips": true}},
        {"type": "two", "capabilities": {"bandwidth": false}, "x": 1}]}));
    let mut attachment = attachment();
    attachment.args = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
    attachment.capabilities =
        json!({"ips": ["10.0.0.2"], "bandwidth": {}}).as_object().expect("an object").clone();

    let outcome = runtime.add(&list, &attachment).expect("ADD");
    assert_eq!(outcome.success().ips[0].address.to_string(), "10.0.0.3/24");
    let first = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}"#;
    let last = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.3/24"}]}"#;
    let tail = "ctr /run/netns/ctr eth0 A=1;B=2";
    let one = |verb: &str, result: &str| {
        format!(
            r#"one {verb} {tail} {{"cniVersion":"1.1.0","name":"net",{result}"runtimeConfig":{{"ips":["10.0.0.2"]}},"type":"one"}}"#
        )
    };
    let two = |verb: &str, result: &str| {
        format!(
            r#"two {verb} {tail} {{"cniVersion":"1.1.0","name":"net","prevResult":{result},"type":"two","x":1}}"#
        )
    };
    let with = format!("\"prevResult\":{last},");
    assert_eq!(folder.log(), [one("ADD", ""), two("ADD", first)]);
    assert_eq!(folder.results(), ["net-ctr-eth0"]);

    runtime.check(&list, &attachment).expect("CHECK");
    assert_eq!(folder.log(), [one("CHECK", &with), two("CHECK", last)]);
    runtime.status(&list).expect("STATUS");
    assert_eq!(
        folder.log(),
        [
            r#"one STATUS {"cniVersion":"1.1.0","name":"net","type":"one"}"#,
            r#"two STATUS {"cniVersion":"1.1.0","name":"net","type":"two","x":1}"#
        ]
    );
    runtime.del(&list, &attachment).expect("DEL");
    assert_eq!(folder.log(), [two("DEL", last), one("DEL", &with)]);
    assert_eq!(folder.results(), [""; 0]);
    // Again, with nothing known any more.
    runtime.del(&list, &attachment).expect("DEL");
    assert_eq!(folder.calls(), ["two DEL", "one DEL"]);
}

#[test]
fn a_failed_add_is_undone_everywhere() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", &failing("ADD"));
    let error = folder.runtime().add(&two(), &attachment()).expect_err("two fails");
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (Code(142), r#"plugin type="two" name="second" failed (add): no luck; at all"#)
    );
    let log = folder.log();
    assert_eq!(log.len(), 4, "{log:?}");
    assert!(
        log[2].starts_with("two DEL ctr /run/netns/ctr eth0") && log[2].contains("10.0.0.2/24")
    );
    assert!(log[3].starts_with("one DEL"));
    assert_eq!(folder.results(), [""; 0]);

    folder.plugin("one", &failing("DEL"));
    let error = folder.runtime().add(&two(), &attachment()).expect_err("two fails");
    assert_eq!(
        error.details(),
        r#"at all; undo: plugin type="one" failed (delete): no luck; at all"#
    );
    assert_eq!(folder.calls(), ["one ADD", "two ADD", "two DEL", "one DEL"]);
}

#[test]
fn an_add_that_cannot_be_cached_is_undone() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", ONE);
    folder.write("cache/results", "not a folder");
    let error = folder.runtime().add(&two(), &attachment()).expect_err("no cache");
    assert_eq!(error.code(), Code::IO);
    assert!(error.msg().starts_with("keep the result: "), "{error}");
    assert_eq!(folder.calls(), ["one ADD", "two ADD", "two DEL", "one DEL"]);
}

#[test]
fn a_second_add_that_fails_keeps_what_the_first_made() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", ONE);
    folder.runtime().add(&two(), &attachment()).expect("ADD");
    folder.plugin("two", &failing("ADD"));
    folder.log();
    let error = folder.runtime().add(&two(), &attachment()).expect_err("two fails");
    assert!(error.details().contains("attached before"), "{error}");
    assert_eq!(folder.calls(), ["one ADD", "two ADD"]);
    assert_eq!(folder.results(), ["net-ctr-eth0"]);
    // Nor when it cannot be told.
    folder.write("cache/results/net-ctr-eth0", "{");
    let error = folder.runtime().add(&two(), &attachment()).expect_err("two fails");
    assert!(error.details().contains("may have been attached before"), "{error}");
    assert_eq!(folder.calls(), ["one ADD", "two ADD"]);
}

#[test]
fn nothing_is_done_when_it_cannot_be_done_whole() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    let error = folder.runtime().add(&two(), &attachment()).expect_err("two is missing");
    assert!(
        error.msg().starts_with(r#"plugin type="two" name="second" failed (add): find plugin"#),
        "{error}"
    );
    let newer = list(json!({"name": "net", "cniVersion": "1.2.0", "plugins": [{"type": "one"}]}));
    let error = folder.runtime().add(&newer, &attachment()).expect_err("unknown version");
    assert_eq!(error.code(), Code::INCOMPATIBLE_VERSION);
    assert_eq!(folder.calls(), [""; 0]);
    // Teardown does not insist on it.
    folder.runtime().del(&newer, &attachment()).expect("DEL");
    assert_eq!(folder.calls(), ["one DEL"]);
}

#[test]
fn a_plugin_may_answer_in_another_version() {
    let folder = Folder::new();
    folder.plugin(
        "one",
        r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.2/24"}]}'"#,
    );
    // It passes on what it got.
    folder.plugin("two", r#"echo "$stdin" | sed 's/.*"prevResult":\({.*}\),"type.*/\1/'"#);
    let outcome = folder.runtime().add(&two(), &attachment()).expect("ADD");
    assert_eq!(
        String::from_utf8_lossy(&outcome.render()),
        "{\n    \"cniVersion\": \"1.1.0\",\n    \"ips\": [\n        {\n            \"address\": \"10.0.0.2/24\"\n        }\n    ]\n}"
    );
}

#[test]
fn del_stops_where_it_fails_and_can_be_repeated() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", &failing("DEL"));
    folder.runtime().add(&two(), &attachment()).expect("ADD");
    folder.log();
    let error = folder.runtime().del(&two(), &attachment()).expect_err("two fails");
    assert!(error.msg().starts_with(r#"plugin type="two" name="second" failed (delete): no"#));
    assert_eq!(folder.calls(), ["two DEL"]);
    assert_eq!(folder.results(), ["net-ctr-eth0"]);
    folder.plugin("two", ONE);
    folder.runtime().del(&two(), &attachment()).expect("DEL");
    assert_eq!(folder.results(), [""; 0]);
}

#[test]
fn del_goes_on_with_a_broken_cache() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", ONE);
    for broken in ["", "{", "[]", r#"{"kind":"cniCacheV1"}"#, r#"{"cniVersion":"7.0.0"}"#] {
        folder.write("cache/results/net-ctr-eth0", broken);
        folder.runtime().check(&two(), &attachment()).expect_err(broken);
        folder.runtime().del(&two(), &attachment()).expect(broken);
        let log = folder.log();
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(!log.iter().any(|line| line.contains("prevResult")), "{log:?}");
        assert_eq!(folder.results(), [""; 0], "{broken}");
    }
}

#[test]
fn del_before_version_0_4_0_has_no_result() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    let old = list(json!({"name": "net", "cniVersion": "0.3.1", "plugins": [{"type": "one"}]}));
    folder.runtime().add(&old, &attachment()).expect("ADD");
    folder.runtime().del(&old, &attachment()).expect("DEL");
    let log = folder.log();
    assert!(log[1].starts_with("one DEL") && !log[1].contains("prevResult"), "{log:?}");
    assert_eq!(folder.results(), [""; 0]);
}

#[test]
fn check_has_conditions() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    let check = |value: Value| folder.runtime().check(&list(value), &attachment());
    let plugins = json!([{"type": "one"}]);
    for version in ["", "0.1.0", "0.3.1"] {
        let error = check(
            json!({"name": "net", "cniVersion": version, "disableCheck": true, "plugins": plugins}),
        );
        assert!(error.expect_err(version).msg().ends_with("does not support the CHECK command"));
    }
    let disabled =
        json!({"name": "net", "cniVersion": "0.4.0", "disableCheck": "TRUE", "plugins": plugins});
    check(disabled).expect("disabled");
    let enabled = json!({"name": "net", "cniVersion": "0.4.0", "plugins": plugins});
    let error = check(enabled).expect_err("nothing is cached");
    assert!(error.msg().contains("not attached"), "{error}");
    assert_eq!(folder.calls(), [""; 0]);
}

/// The list's version may have been edited since.
#[test]
fn cached_results_are_converted() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    let of = |version: &str| {
        list(json!({"name": "net", "cniVersion": version, "plugins": [{"type": "one"}]}))
    };
    folder.runtime().add(&of("1.1.0"), &attachment()).expect("ADD");
    folder.log();
    folder.runtime().check(&of("0.4.0"), &attachment()).expect("CHECK");
    let log = folder.log();
    let result = r#""prevResult":{"cniVersion":"0.4.0","dns":{},"ips":[{"address":"10.0.0.2/24","version":"4"}]}"#;
    assert!(log[0].contains(result), "{log:?}");
}

#[test]
fn status_before_1_1_0_asks_nobody() {
    let folder = Folder::new();
    folder.plugin("one", &failing("STATUS"));
    let status = |version: &str| {
        let list =
            list(json!({"name": "net", "cniVersion": version, "plugins": [{"type": "one"}]}));
        folder.runtime().status(&list)
    };
    status("1.0.0").expect("nothing to ask");
    assert_eq!(folder.calls(), [""; 0]);
    let error = status("1.1.0").expect_err("it fails");
    assert_eq!(error.code(), Code(142));
    assert_eq!(status("1.x").expect_err("unknown").code(), Code::INCOMPATIBLE_VERSION);
}

#[test]
fn a_gc_keeps_add_out_and_is_told_so() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", ONE);
    let runtime = folder.runtime();
    let held = runtime.locks().exclusive("net").expect("free");
    for error in [
        runtime.add(&two(), &attachment()).expect_err("locked"),
        runtime.del(&two(), &attachment()).expect_err("locked"),
        runtime.gc(&two(), &crate::Keep::default()).expect_err("locked"),
    ] {
        assert_eq!(error.code(), Code::TRY_AGAIN);
    }
    assert_eq!(folder.calls(), [""; 0]);
    // Another network is free.
    drop(runtime.locks().shared("other").expect("free"));
    drop(held);
    let side_by_side = (runtime.locks().shared("net"), runtime.locks().shared("net"));
    assert!(side_by_side.0.is_ok() && side_by_side.1.is_ok());
    assert_eq!(runtime.locks().exclusive("net").expect_err("shared").code(), Code::TRY_AGAIN);
}

#[test]
fn a_gc_that_waits_is_not_overtaken() {
    let folder = Folder::new();
    let long = Runtime::new(folder.path(), folder.path().join("cache"));
    let short = folder.runtime();
    let first = long.locks().shared("net").expect("free");
    let (waiting, entered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _held = long.locks().exclusive("net").expect("in the end");
            waiting.send(()).expect("the test waits");
        });
        // From when the gate is taken, nobody comes in.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while short.locks().shared("net").is_ok() {
            assert!(std::time::Instant::now() < until, "the gate was never taken");
        }
        assert!(entered.try_recv().is_err(), "it entered beside another");
        drop(first);
        entered.recv().expect("it enters");
    });
}

#[test]
fn del_needs_no_lock_file() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    folder.plugin("two", ONE);
    folder.write("cache", "not a folder");
    folder.runtime().del(&two(), &attachment()).expect("DEL");
    assert_eq!(folder.calls(), ["two DEL", "one DEL"]);
    let error = folder.runtime().add(&two(), &attachment()).expect_err("no cache");
    assert_eq!((error.code(), folder.calls().len()), (Code::IO, 0));
}

/// An installer writes it in place.
#[test]
fn a_plugin_that_is_being_written_is_waited_for() {
    let folder = Folder::new();
    folder.plugin("one", ONE);
    let writer = fs::OpenOptions::new().append(true).open(folder.path().join("one"));
    let (installed, wait) = std::sync::mpsc::channel::<()>();
    let list = list(json!({"name": "net", "cniVersion": "1.1.0", "plugins": [{"type": "one"}]}));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Nobody sends: it is the time an installer takes.
            let _ = wait.recv_timeout(Duration::from_millis(100));
            drop(writer);
        });
        folder.runtime().add(&list, &attachment()).expect("in the end");
    });
    drop(installed);
    assert_eq!(folder.calls(), ["one ADD"]);
}
