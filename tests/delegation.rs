//! Finding and running a foreign plugin: what it gets, what becomes of what it
//! answers.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use crate::conf::with;
use crate::recorder::Recorder;

pub(crate) fn list() -> Vec<Case> {
    let cases = cases! {
        [Bridge] a_foreign_delegate_works,
        [Bridge] its_error_is_passed_through_and_it_is_told_to_release,
        [Bridge] whatever_it_answers_becomes_one_error,
        [Bridge] however_much_it_says_the_error_stays_short,
        [Bridge] it_runs_on_the_host_whatever_the_verb,
        [Bridge] a_large_configuration_it_does_not_read,
        [Bridge, Strace] our_own_is_called_in_process,
        [Bridge] a_file_that_is_being_written_is_tried_again,
        [Bridge] a_file_that_stays_open_for_writing_is_named,
        [Bridge] a_file_that_cannot_be_executed_is_named,
        [Bridge, PeerPlugins] upstreams_ipam_serves_ours,
        [] one_that_is_not_there_is_named,
    };
    cases.into_iter().map(Case::ours_only).collect()
}

fn conf(ipam: Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": ipam})
}

fn verbs(recorder: &Recorder) -> Vec<String> {
    recorder.calls().into_iter().map(|(verb, _)| verb).collect()
}

fn a_foreign_delegate_works(host: &Host) {
    let one = host.container("one");
    let foreign = Recorder::giving(host, "foreign", "10.1.0.7/24");
    let plugin = host.plugin("bridge").cni_path(&foreign.path());
    let result = plugin.add(&one, "eth0", &conf(foreign.ipam())).expect_result();
    assert_eq!(result["ips"][0]["address"], "10.1.0.7/24");
    assert_eq!(one.address("eth0").to_string(), "10.1.0.7");
    plugin.del(&one, "eth0", &conf(foreign.ipam())).expect_ok();
    assert_eq!(verbs(&foreign), ["ADD", "DEL"]);
}

fn its_error_is_passed_through_and_it_is_told_to_release(host: &Host) {
    let one = host.container("one");
    let error = r#"{"code":123,"msg":"pool is dry","details":"ask again"}"#;
    let script =
        format!("echo a word >&2\n[ $CNI_COMMAND = DEL ] || {{ echo '{error}'; exit 1; }}");
    let foreign = Recorder::new(host, "foreign", &script);
    let before = host.snapshot();
    let plugin = host.plugin("bridge").cni_path(&foreign.path());
    let outcome = plugin.add(&one, "eth0", &conf(foreign.ipam()));
    let document = outcome.expect_error(123, "pool is dry");
    assert_eq!(document["details"], "ask again");
    assert!(outcome.stderr().contains("a word"), "{outcome}");
    assert_eq!(verbs(&foreign), ["ADD", "DEL"]);
    host.expect_unchanged_but(&before, &["/run/scratch"]);
    assert_eq!(one.link("eth0"), None);
}

fn whatever_it_answers_becomes_one_error(host: &Host) {
    let one = host.container("one");
    for (script, part) in [
        ("[ $CNI_COMMAND = DEL ] || exit 3", "exit status 3"),
        ("[ $CNI_COMMAND = DEL ] || kill -9 $$", "signal 9"),
        ("[ $CNI_COMMAND = DEL ] || { echo garbage; exit 1; }", "garbage"),
        ("[ $CNI_COMMAND = DEL ] || { echo only stderr >&2; exit 1; }", "only stderr"),
        ("[ $CNI_COMMAND = DEL ] || { echo '{\"code\":\"5\"}'; exit 1; }", "code"),
        (
            "[ $CNI_COMMAND = DEL ] || echo '{\"code\":7,\"msg\":\"the pool is dry\"}'",
            "pool is dry",
        ),
        ("true", "result"),
        ("[ $CNI_COMMAND = DEL ] || echo '[]'", "JSON object"),
        ("[ $CNI_COMMAND = DEL ] || echo '{\"ips\":[{\"address\":\"zz\"}]}'", "zz"),
        ("[ $CNI_COMMAND = DEL ] || echo '{}'", "no address"),
        ("[ $CNI_COMMAND = DEL ] || echo '{\"cniVersion\":\"7.0\"}'", "7.0"),
    ] {
        let foreign = Recorder::new(host, "foreign", script);
        let plugin = host.plugin("bridge").cni_path(&foreign.path());
        let outcome = plugin.add(&one, "eth0", &conf(foreign.ipam()));
        assert_eq!(outcome.code(), Some(1), "{script}\n{outcome}");
        let document = outcome.document();
        assert!(document.to_string().contains(part), "{script}: {document}");
        assert_eq!(one.link("eth0"), None, "{script}");
        assert_eq!(host.link("cni0"), None, "{script}");
    }
}

fn however_much_it_says_the_error_stays_short(host: &Host) {
    let one = host.container("one");
    let long = "head -c 2000000 /dev/zero | tr '\\0' x";
    for (script, part) in [
        (format!("{long}; exit 1"), "xxx\"... (2000000 bytes in all)"),
        (format!("{long} >&2; exit 1"), "xxx\"... (2000000 bytes in all)"),
        (format!("printf '{{\"code\":5,\"msg\":\"%s\"}}' $({long}); exit 1"), ""),
        (format!("printf '{{\"ips\":[{{\"address\":\"%s\"}}]}}' $({long})"), "bytes in all"),
        ("exec yes".to_owned(), "it printed more than 16 MiB, and was killed"),
        ("yes; true".to_owned(), "it printed more than 16 MiB, and was killed"),
    ] {
        let script = format!("[ $CNI_COMMAND != DEL ] || exit 0\n{script}");
        let foreign = Recorder::new(host, "foreign", &script);
        let plugin = host.plugin("bridge").cni_path(&foreign.path());
        let outcome = plugin.add(&one, "eth0", &conf(foreign.ipam()));
        assert_eq!(outcome.code(), Some(1), "{script}");
        assert!(outcome.stdout().len() < 10_000, "{} bytes: {script}", outcome.stdout().len());
        let document = outcome.document();
        let msg = document["msg"].as_str().expect("a message");
        assert!(msg.contains(part), "{script}: {}", &msg[msg.len().saturating_sub(300)..]);
        assert_eq!(host.link("cni0"), None, "{script}");
    }
}

fn it_runs_on_the_host_whatever_the_verb(host: &Host) {
    let one = host.container("one");
    let own = host.exec("readlink /proc/self/ns/net").trim().to_owned();
    let foreign = Recorder::giving(host, "foreign", "10.1.0.7/24");
    let plugin = host.plugin("bridge").cni_path(&foreign.path());
    let mut asked = conf(foreign.ipam());
    let result = plugin.add(&one, "eth0", &asked).expect_result();
    asked["prevResult"] = result;
    plugin.check(&one, "eth0", &asked).expect_ok();
    plugin.del(&one, "eth0", &asked).expect_ok();
    // An ADD that fails late, when the plugin is in the container already.
    let mut bad = conf(foreign.ipam());
    bad["bridge"] = json!("br-b");
    let script = r#"[ $CNI_COMMAND != ADD ] || echo '{"ips":[{"address":"10.1.0.7/24"}],"routes":[{"dst":"192.0.2.0/24","gw":"203.0.113.1"}]}'"#;
    let late = Recorder::new(host, "late", script);
    bad["ipam"] = late.ipam();
    host.plugin("bridge")
        .cni_path(&late.path())
        .add(&one, "eth0", &bad)
        .expect_error(999, "192.0.2.0/24");
    let calls: Vec<_> = foreign.calls().into_iter().chain(late.calls()).collect();
    let verbs: Vec<_> = calls.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["ADD", "CHECK", "DEL", "ADD", "DEL"]);
    assert!(calls.iter().all(|(_, namespace)| *namespace == own), "{own}: {calls:?}");
}

fn a_large_configuration_it_does_not_read(host: &Host) {
    let one = host.container("one");
    let foreign = Recorder::giving(host, "foreign", "10.1.0.7/24");
    let mut large = conf(foreign.ipam());
    // Several times what a pipe holds.
    large["padding"] = json!("x".repeat(300_000));
    let plugin = host.plugin("bridge").cni_path(&foreign.path());
    plugin.add(&one, "eth0", &large).expect_result();
    plugin.del(&one, "eth0", &large).expect_ok();
}

fn our_own_is_called_in_process(host: &Host) {
    let one = host.container("one");
    let folder = testkit::plugins_folder();
    let conf = conf(json!({"type": "host-local", "subnet": "10.1.0.0/24"}));
    host.write("/run/scratch/conf", conf.to_string());
    let count = |path: &str| {
        let script = format!(
            "CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_IFNAME=eth0 CNI_NETNS={} CNI_PATH={path} \
             strace -f -qq -e trace=execve -o /run/scratch/execs {}/bridge </run/scratch/conf >/run/scratch/out \
             && CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_IFNAME=eth0 CNI_NETNS={} CNI_PATH={path} {}/bridge </run/scratch/conf",
            one.path().display(),
            folder.display(),
            one.path().display(),
            folder.display(),
        );
        host.exec(["sh", "-c", script.as_str()]);
        std::fs::read_to_string("/run/scratch/execs").expect("a trace").matches("execve(").count()
    };
    assert_eq!(count(&folder.display().to_string()), 1, "a hard link of ours is called in process");
    let copies = host.scratch().join("copies");
    std::fs::create_dir_all(&copies).expect("scratch is ours");
    std::fs::copy(folder.join("host-local"), copies.join("host-local")).expect("copied");
    assert_eq!(count(&copies.display().to_string()), 2, "any other file is executed");
}

fn one_that_is_not_there_is_named(host: &Host) {
    let one = host.container("one");
    let before = host.snapshot();
    for (kind, code, part) in [
        ("no-such", 999, "no-such"),
        ("../../bin/sh", 7, "plain file name"),
        ("a/b", 7, "a/b"),
        ("..", 7, ".."),
    ] {
        host.plugin("bridge")
            .add(&one, "eth0", &conf(json!({"type": kind})))
            .expect_error(code, part);
        let conf = with(&conf(json!({"type": kind})), json!({"cniVersion": "1.1.0"}));
        let code = if code == 999 { 50 } else { code };
        host.plugin("bridge").status(&conf).expect_error(code, part);
        host.expect_unchanged(&before);
    }
}

/// As while an installer writes in place. The kernel refuses to execute a file
/// that somebody has open for writing.
fn a_file_that_is_being_written_is_tried_again(host: &Host) {
    let one = host.container("one");
    let foreign = Recorder::giving(host, "foreign", "10.1.0.7/24");
    let plugin = host.plugin("bridge").cni_path(&foreign.path());
    let writer = OpenOptions::new().append(true).open(foreign.program()).expect("it is ours");
    let writer = Mutex::new(Some(writer));
    host.parallel(2, |which| {
        if which == 0 {
            plugin.add(&one, "eth0", &conf(foreign.ipam())).expect_result();
        } else {
            // By now it has found its delegate, or will very soon.
            host.wait_until("the bridge is there", || host.link("cni0").is_some());
            assert!(foreign.calls().is_empty(), "it was executed while it was written");
            drop(writer.lock().expect("nobody panics with it").take());
        }
    });
    assert_eq!(verbs(&foreign), ["ADD"]);
}

fn a_file_that_stays_open_for_writing_is_named(host: &Host) {
    let one = host.container("one");
    let foreign = Recorder::giving(host, "foreign", "10.1.0.7/24");
    let plugin = host.plugin("bridge").cni_path(&foreign.path());
    let conf = with(&conf(foreign.ipam()), json!({"cniVersion": "1.1.0"}));
    let _writer = OpenOptions::new().append(true).open(foreign.program()).expect("it is ours");
    let told = format!("{}: still open for writing", foreign.program().display());
    host.parallel(2, |which| {
        if which == 0 {
            let error = plugin.add(&one, "eth0", &conf).expect_error(11, &told);
            // It did nothing, so nothing is undone, which would take as long again.
            assert_eq!(error["details"], Value::Null);
        } else {
            plugin.status(&conf).expect_error(50, &told);
        }
    });
    assert_eq!(foreign.calls(), []);
    assert_eq!(host.link("cni0"), None);
}

fn a_file_that_cannot_be_executed_is_named(host: &Host) {
    let one = host.container("one");
    let before = host.snapshot();
    for (mode, content) in [
        (0o644, "#!/bin/sh\n"),
        (0o755, "no program"),
        (0o755, ""),
        (0o755, "#!/there/is/no/such/shell\n"),
    ] {
        let foreign = Recorder::giving(host, "foreign", "10.1.0.7/24");
        fs::write(foreign.program(), content).expect("it is ours");
        fs::set_permissions(foreign.program(), Permissions::from_mode(mode)).expect("it is ours");
        let plugin = host.plugin("bridge").cni_path(&foreign.path());
        let program = foreign.program().display().to_string();
        let conf = with(&conf(foreign.ipam()), json!({"cniVersion": "1.1.0"}));
        let error = plugin.add(&one, "eth0", &conf).expect_error(999, &program);
        assert_eq!(error["details"], Value::Null, "there is nothing to undo");
        plugin.status(&conf).expect_error(50, &program);
        host.expect_unchanged(&before);
    }
    // A folder is no plugin, and the search goes on behind it.
    let folder = host.scratch().join("folders");
    fs::create_dir_all(folder.join("static")).expect("scratch is ours");
    let path = format!("::relative:{}:{}", folder.display(), testkit::plugins_folder().display());
    let given = json!({"type": "static", "addresses": [{"address": "10.1.0.2/24"}]});
    host.plugin("bridge").cni_path(&path).add(&one, "eth0", &conf(given)).expect_result();
}

/// The peer's lease, which ours releases.
fn upstreams_ipam_serves_ours(host: &Host) {
    let one = host.container("one");
    let plugin = host.plugin("bridge");
    let conf = conf(json!({"type": "host-local", "subnet": "10.1.0.0/24"}));
    let foreign = plugin.clone().cni_path(&testkit::peer_folder().display().to_string());
    let result = foreign.add(&one, "eth0", &conf).expect_result();
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    foreign.check(&one, "eth0", &with_previous_result(&conf, &result)).expect_ok();
    plugin.check(&one, "eth0", &with_previous_result(&conf, &result)).expect_ok();
    plugin.del(&one, "eth0", &conf).expect_ok();
    assert!(!host.files("/var/lib/cni/networks/net").contains("10.1.0.2"));
    plugin.add(&one, "eth0", &conf).expect_result();
    foreign.del(&one, "eth0", &conf).expect_ok();
    assert!(!host.files("/var/lib/cni/networks/net").contains("10.1.0.3"));
}
