use super::*;
use crate::chain::tests::Folder;
use std::os::unix::fs::symlink;

fn conflist(name: &str, kind: &str) -> String {
    format!(r#"{{"name":"{name}","cniVersion":"1.0.0","plugins":[{{"type":"{kind}"}}]}}"#)
}

fn kinds(found: &Found) -> Vec<&str> {
    found.list.plugins().iter().map(PluginConfig::kind).collect()
}

#[test]
fn lists_come_before_single_plugins_and_names_decide_the_order() {
    let folder = Folder::new();
    folder.write("00.conf", r#"{"name":"net","type":"single"}"#);
    folder.write("20.conflist", conflist("net", "second"));
    folder.write("10.conflist", conflist("net", "first"));
    folder.write("05.conflist", conflist("other", "other"));
    folder.write("only.json", r#"{"Name":"only","type":"single"}"#);
    folder.write("net/x.txt", "not looked at");
    let find = |name: &str| network(folder.path(), name).expect(name);
    let found = find("net");
    assert_eq!((kinds(&found), &found.file), (vec!["first"], &folder.path().join("10.conflist")));
    assert_eq!(kinds(&find("only")), ["single"]);
    let files: Vec<_> = all(folder.path())
        .expect("readable")
        .into_iter()
        .map(|(file, list)| {
            (file.file_name().map(|n| n.to_string_lossy().into_owned()), list.is_ok())
        })
        .collect();
    let order = ["05.conflist", "10.conflist", "20.conflist", "00.conf", "only.json"];
    assert_eq!(files, order.map(|name| (Some(name.to_owned()), true)));
}

#[test]
fn extensions_are_exact() {
    let folder = Folder::new();
    folder.write(".conflist", conflist("hidden", "x"));
    for name in ["a.conflist.bak", "a.CONFLIST", "conflist", "a.yaml"] {
        folder.write(name, conflist("net", "x"));
    }
    fs::create_dir(folder.path().join("folder.conflist")).expect("our folder");
    network(folder.path(), "hidden").expect("a dot file counts");
    network(folder.path(), "net").expect_err("none of these does");
}

#[test]
fn what_is_missing_is_told() {
    let folder = Folder::new();
    let fail = |path: &Path, name: &str| network(path, name).expect_err(name).to_string();
    let path = folder.path();
    assert!(fail(&path.join("none"), "net").ends_with("there is no such folder"));
    folder.write("notes.txt", "");
    assert!(fail(path, "net").ends_with("no file in it ends in .conflist, .conf or .json"));
    assert!(fail(&path.join("notes.txt"), "net").contains("Not a directory"));
    folder.write("10.conflist", conflist("other", "x"));
    let text = fail(path, "net");
    assert!(text.contains("find network \"net\" in ") && text.ends_with("it has other"), "{text}");
    for name in ["", "../other", "a/b", ".other"] {
        assert!(fail(path, name).contains("network name"), "{name}");
    }
}

#[test]
fn a_broken_file_is_only_in_its_own_way() {
    let folder = Folder::new();
    let path = folder.path();
    folder.write("10.conflist", "{");
    folder.write("11.conflist", r#"{"name":"bad","plugins":[{"type":5}]}"#);
    symlink("nowhere", path.join("12.conflist")).expect("our folder");
    folder.write("20.conflist", conflist("net", "x"));
    folder.write("30.conflist", "{");
    let found = network(path, "net").expect("it is there");
    assert_eq!(found.remarks.len(), 2, "{:?}", found.remarks);
    assert!(
        found.remarks[0].starts_with(&format!("read {}: ", path.join("10.conflist").display()))
    );
    let error = network(path, "bad").expect_err("its own file is broken");
    assert!(error.msg().contains("11.conflist: plugins[0]: type: "), "{error}");
    let error = network(path, "none").expect_err("not there");
    assert!(error.details().contains("30.conflist"), "{error}");
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = Folder::new();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("10.conflist")).status();
    assert!(made.expect("coreutils").success());
    folder.write("20.conflist", conflist("net", "x"));
    let found = network(folder.path(), "net").expect("it is there");
    assert!(found.remarks[0].ends_with("not a regular file"), "{:?}", found.remarks);
}

#[test]
fn a_folder_adds_plugins() {
    let folder = Folder::new();
    let path = folder.path();
    folder.write("10.conflist", conflist("net", "inlined"));
    folder.write("11.conflist", r#"{"name":"bare"}"#);
    folder.write("12.conflist", r#"{"name":"none"}"#);
    folder.write(
        "13.conflist",
        r#"{"name":"sealed","loadOnlyInlinedPlugins":"true","plugins":[{"type":"inlined"}]}"#,
    );
    folder.write("14.conf", r#"{"name":"single","type":"single"}"#);
    for network in ["net", "bare", "sealed", "single"] {
        folder.write(&format!("{network}/20.conf"), r#"{"type":"second"}"#);
        folder.write(&format!("{network}/10.conf"), r#"{"type":"first"}"#);
        folder.write(&format!("{network}/15.json"), "not looked at");
    }
    let find = |name: &str| network(path, name).expect(name);
    assert_eq!(kinds(&find("net")), ["inlined", "first", "second"]);
    assert_eq!(find("net").list.bytes(), conflist("net", "inlined").as_bytes());
    assert_eq!(kinds(&find("bare")), ["first", "second"]);
    assert_eq!(kinds(&find("sealed")), ["inlined"]);
    assert_eq!(kinds(&find("single")), ["single"]);
    let error = network(path, "none").expect_err("no plugin");
    assert!(error.msg().contains("there is no plugin in it, nor in"), "{error}");
    folder.write("net/30.conf", r#"{"name":"x"}"#);
    let error = network(path, "net").expect_err("a broken plugin");
    assert!(error.msg().contains("net/30.conf: the key \"type\" is missing"), "{error}");
    file(&path.join("10.conflist")).expect_err("the same one");
    assert_eq!(file(&path.join("13.conflist")).expect("sealed").plugins().len(), 1);
}

#[test]
fn what_is_too_large_or_too_deep_is_refused() {
    let folder = Folder::new();
    let path = folder.path();
    let large = File::create(path.join("10.conflist")).expect("our folder");
    large.set_len(FILE_LIMIT + 1).expect("our file");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    folder.write(
        "11.conflist",
        format!(r#"{{"name":"deep","plugins":[{{"type":"x","a":{deep}}}]}}"#),
    );
    folder.write("12.conflist", b"{\"name\":\"bytes\",\"plugins\":[{\"type\":\"\xff\"}]}");
    let found = network(path, "bytes").expect("as the reference reads it");
    assert_eq!(kinds(&found), ["\u{fffd}"]);
    assert!(found.remarks[0].ends_with("it is larger than 16 MiB"), "{:?}", found.remarks);
    assert!(found.remarks[1].contains("recursion limit"), "{:?}", found.remarks);
}
