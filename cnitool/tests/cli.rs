//! The program itself, with plugins that are shell scripts: what it prints,
//! where, and how it exits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder with networks, plugins and a cache, gone when dropped.
struct Bench(PathBuf);

/// What a run left: exit code, stdout, stderr.
type Outcome = (Option<i32>, String, String);

impl Bench {
    fn new() -> Bench {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cnitool-{}-{count}", std::process::id()));
        for folder in ["net.d", "bin"] {
            fs::create_dir_all(path.join(folder)).expect("a new name in the temporary folder");
        }
        let bench = Bench(path);
        bench.network(
            "10-net.conflist",
            r#"{"name":"net","cniVersion":"1.1.0","plugins":[{"type":"fake"}]}"#,
        );
        bench.plugin(
            "fake",
            r#"case $CNI_COMMAND in
                ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.2/24"}]}' ;;
                VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ;;
            esac"#,
        );
        bench
    }

    fn network(&self, file: &str, text: &str) {
        fs::write(self.0.join("net.d").join(file), text).expect("our folder");
    }

    /// Notes its call in `log`, then does `body`.
    fn plugin(&self, name: &str, body: &str) {
        let file = self.0.join("bin").join(name);
        let log = self.0.join("log");
        let text = format!(
            "#!/bin/sh\nstdin=$(cat)\n\
             [ $CNI_COMMAND = VERSION ] || echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $stdin\" >> {}\n\
             {body}\n",
            log.display()
        );
        fs::write(&file, text).expect("our folder");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("our file");
    }

    /// What plugins noted since the last call.
    fn log(&self) -> String {
        let file = self.0.join("log");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cnitool"));
        command.args(line.split_whitespace()).env_clear();
        // The scripts need their commands.
        command.env("PATH", "/usr/bin:/bin");
        command.env("NETCONFPATH", self.0.join("net.d"));
        command.env("CNI_PATH", self.0.join("bin"));
        command.env("CNI_CACHE_DIR", self.0.join("cache"));
        command
    }

    fn run(&self, line: &str) -> Outcome {
        finish(&mut self.command(line))
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Outcome {
        finish(self.command(line).envs(variables.iter().copied()))
    }

    /// Runs what must succeed without a word on stderr.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let (code, stdout, stderr) = self.run(line);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{line}: {stdout}");
        stdout
    }

    fn results(&self) -> Vec<String> {
        names(&self.0.join("cache/results"))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn finish(command: &mut Command) -> Outcome {
    let output = command.output().expect("cargo built it");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The path and the ID are those of the documentation of the reference tool.
const NETNS: &str = "/var/run/netns/testing";
const ID: &str = "cnitool-77383ca0a0715733ca6f";

#[test]
fn add_check_del() {
    let bench = Bench::new();
    let result = "{\n    \"cniVersion\": \"1.1.0\",\n    \"ips\": [\n        {\n            \"address\": \"10.1.0.2/24\"\n        }\n    ]\n}";
    assert_eq!(bench.ok(&format!("add net {NETNS}")), result);
    assert_eq!(bench.results(), [format!("net-{ID}-eth0")]);
    assert!(bench.log().starts_with(&format!("ADD {ID} {NETNS} eth0  {{")));
    assert_eq!(bench.ok(&format!("check net {NETNS}")), "");
    assert_eq!(bench.ok("status net"), "");
    assert_eq!(bench.ok(&format!("status net {NETNS}")), "");
    assert_eq!(bench.ok(&format!("del net {NETNS}")), "");
    assert_eq!(bench.results(), [""; 0]);
    assert_eq!(bench.ok(&format!("del net {NETNS}")), "");
}

#[test]
fn the_namespace_is_made_absolute() {
    let bench = Bench::new();
    let cwd = bench.0.display().to_string();
    let (code, ..) = finish(bench.command("add net ./a//b/../ns").current_dir(&bench.0));
    assert_eq!(code, Some(0));
    assert!(bench.log().contains(&format!(" {cwd}/a/ns eth0 ")));
}

#[test]
fn interface_from_option_then_variable_then_eth0() {
    let bench = Bench::new();
    for (line, variable, ifname) in [
        ("add net /x", None, "eth0"),
        ("add net /x", Some("net1"), "net1"),
        ("add net /x", Some(""), "eth0"),
        ("add net /x -i net2", Some("net1"), "net2"),
        ("--ifname= add net /x", Some("net1"), "net1"),
    ] {
        let variables: Vec<_> = variable.map(|value| ("CNI_IFNAME", value)).into_iter().collect();
        assert_eq!(bench.run_with(line, &variables).0, Some(0));
        let log = bench.log();
        assert_eq!(log.split(' ').nth(3), Some(ifname), "{line}: {log}");
    }
}

#[test]
fn arguments_and_capabilities_reach_the_plugins() {
    let bench = Bench::new();
    bench.network(
        "05.conflist",
        r#"{"name":"caps","cniVersion":"1.1.0","plugins":[{"type":"fake","capabilities":{"ips":true}}]}"#,
    );
    let variables =
        [("CNI_ARGS", "IgnoreUnknown=1;A=b"), ("CAP_ARGS", r#"{"ips":["10.1.0.9"],"mac":"x"}"#)];
    assert_eq!(bench.run_with("add caps /x", &variables).0, Some(0));
    let log = bench.log();
    assert!(log.contains(r#" eth0 IgnoreUnknown=1;A=b {"cniVersion":"1.1.0","name":"caps","runtimeConfig":{"ips":["10.1.0.9"]},"type":"fake"}"#), "{log}");
    assert_eq!(bench.run_with("add net /x", &[("CAP_ARGS", "null")]).0, Some(0));
}

/// The first failure in the reference's order, on one line of stderr.
#[test]
fn errors_are_one_line_and_exit_code_1() {
    let bench = Bench::new();
    bench.plugin(
        "broken",
        "echo 'it said' >&2; printf '{\"code\":7,\"msg\":\"two\\\\nlines\"}'; exit 3",
    );
    bench.network(
        "20.conflist",
        r#"{"name":"broken","cniVersion":"1.1.0","plugins":[{"type":"broken"}]}"#,
    );
    let bad = [("CAP_ARGS", "[]"), ("CNI_ARGS", "A="), ("CNI_IFNAME", "a/b")];
    for (line, variables, culprit) in [
        ("add none /x", &bad[..], "find network \"none\""),
        ("add net /x", &bad[..], "parse CAP_ARGS: "),
        ("add net /x", &bad[1..], "invalid CNI_ARGS pair 1"),
        ("add net /x", &bad[2..], "interface name contains"),
        ("add ../net /x", &[][..], "network name"),
        ("add net", &[][..], "usage: cnitool add"),
        ("adn net /x", &[][..], "did you mean \"add\"?"),
        ("check net /x", &[][..], "not attached"),
        ("gc net /x", &[][..], "every attachment of network \"net\""),
        (
            "add net /x",
            &[("NETCONFPATH", "/nowhere/at/all")][..],
            "no network configuration in /nowhere",
        ),
        (
            "add net /x",
            &[("CNI_PATH", "/nowhere/at/all")][..],
            "plugin type=\"fake\" failed (add): find plugin",
        ),
        ("list", &[("CNI_CACHE_DIR", "/proc/version")][..], "Not a directory"),
    ] {
        let (code, stdout, stderr) = bench.run_with(line, variables);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{line}: {stderr}");
        assert!(stderr.contains(culprit), "{line}: {stderr}");
        assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "{line}: {stderr}");
    }
    let (code, stdout, stderr) = bench.run("add broken /x");
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    // What plugins say on stderr is passed on: once for ADD, once for DEL.
    assert_eq!(
        stderr,
        "it said\nit said\nplugin type=\"broken\" failed (add): two lines; undo: plugin type=\"broken\" failed (delete): two lines\n"
    );
}

#[test]
fn help_is_for_people_and_its_absence_for_scripts() {
    let bench = Bench::new();
    let page = bench.ok("--help");
    assert!(page.contains("cnitool add mynet /run/netns/blue"), "{page}");
    assert_eq!(bench.ok("help"), page);
    assert_eq!(bench.run(""), (Some(1), String::new(), page));
    assert_eq!(bench.ok("gc --help"), bench.ok("help gc"));
    assert!(bench.ok("--version").starts_with("cnitool "));
}

#[test]
fn gc_keeps_what_it_is_told_to() {
    let bench = Bench::new();
    let attach = || {
        for (netns, ifname) in [("/proc/self/ns/uts", "eth0"), ("/gone", "eth0"), ("/gone", "eth1")]
        {
            bench.ok(&format!("add net {netns} -i {ifname}"));
        }
        bench.log();
    };
    let left = || {
        bench.log();
        let text = bench.ok("list");
        text.lines()
            .skip(1)
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(_, netns)| netns.to_owned())
            .collect::<Vec<_>>()
    };
    attach();
    let shown = bench.ok("gc net --keep-existing --dry-run");
    assert_eq!(shown.matches("/gone").count(), 2, "{shown}");
    assert_eq!((bench.log().as_str(), bench.results().len()), ("", 3));

    bench.ok("gc net --keep-existing");
    let log = bench.log();
    let verbs: Vec<_> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(verbs, ["DEL", "DEL", "GC"], "{log}");
    assert_eq!(left(), ["/proc/self/ns/uts"]);

    attach();
    bench.ok("gc net /ignored --keep /gone:eth1");
    let log = bench.log();
    assert!(
        log.contains(r#""cni.dev/valid-attachments":[{"containerID":"#)
            && log.contains(r#""ifname":"eth1"}]"#),
        "{log}"
    );
    assert_eq!(left(), ["/gone"]);
    bench.ok("gc net -i eth1 --keep /gone");
    assert_eq!(left(), ["/gone"]);
    bench.ok("gc net --all");
    assert_eq!(left(), [""; 0]);
}

#[test]
fn del_does_without_the_configuration() {
    let bench = Bench::new();
    bench.ok("add net /x");
    bench.network("10-net.conflist", "{");
    bench.log();
    let (code, stdout, stderr) = bench.run("del net /x");
    assert_eq!((code, stdout.as_str()), (Some(0), ""));
    assert!(
        stderr.starts_with("cnitool: warning: find network") && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert!(bench.log().starts_with("DEL "));
    assert_eq!(bench.run("del net /x").0, Some(1));
}

#[test]
fn looking_around() {
    let bench = Bench::new();
    bench.network("20.conf", r#"{"name":"one","type":"none"}"#);
    bench.network("30.conf", "{");
    bench.ok("add net /x");
    let list = bench.ok("list net --json");
    assert!(list.contains("\"ips\": [\n            \"10.1.0.2/24\"\n        ]"), "{list}");
    assert!(list.contains("\"exists\": false"), "{list}");
    assert_eq!(bench.ok("list other --json"), "[]\n");

    let folder = bench.0.join("net.d").display().to_string();
    let (code, stdout, stderr) = bench.run("networks");
    assert_eq!(code, Some(0));
    assert_eq!(
        stdout,
        format!("net  1.1.0  fake  {folder}/10-net.conflist\none  0.1.0  none  {folder}/20.conf\n")
    );
    assert!(stderr.starts_with(&format!("cnitool: warning: read {folder}/30.conf: ")), "{stderr}");

    assert_eq!(
        bench.ok("version fake"),
        "cnitool  0.1.0 0.2.0 0.3.0 0.3.1 0.4.0 1.0.0 1.1.0\nfake     1.0.0 1.1.0\n"
    );
    assert_eq!(bench.ok("version"), bench.ok("version fake"));
    assert_eq!(bench.run("version none").0, Some(1));
}

#[test]
fn mistakes_are_found_before_they_hurt() {
    let bench = Bench::new();
    let folder = bench.0.join("net.d").display().to_string();
    let valid = format!("{folder}/10-net.conflist: network \"net\" is valid\n");
    assert_eq!(bench.ok("validate"), valid);
    assert_eq!(bench.ok("validate net"), valid);
    assert_eq!(bench.ok(&format!("validate {folder}/10-net.conflist")), valid);
    bench.network(
        "11.conflist",
        r#"{"name":"net","cniVersion":"1.1.0","plugins":[{"type":"fake"}]}"#,
    );
    let text = bench.ok("validate");
    assert!(text.contains("11.conflist: warning: it is never used: "), "{text}");
    bench.network(
        "12.conflist",
        r#"{"name":"bad","cniVersion":"0.4.0","plugins":[{"type":"fake"}]}"#,
    );
    bench.network("13.conflist", "{");
    let (code, text, stderr) = bench.run("validate");
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    assert!(text.contains("12.conflist: error: plugins[0] \"fake\": "), "{text}");
    assert!(text.contains("13.conflist: error: EOF"), "{text}");
    assert_eq!(bench.run("validate net").0, Some(0));
}

#[test]
fn bash_completes_commands_networks_and_options() {
    let bench = Bench::new();
    let complete = |words: &str| {
        let script = format!(
            "eval \"$({exe} completion bash)\"; cnitool() {{ {exe} \"$@\"; }}\n\
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _cnitool; echo \"${{COMPREPLY[*]}}\"",
            exe = env!("CARGO_BIN_EXE_cnitool"),
        );
        let own = bench.command("");
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", &script]).env_clear();
        command.envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let (code, stdout, stderr) = finish(&mut command);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{words}");
        stdout.trim_end().to_owned()
    };
    assert_eq!(complete("cnitool st"), "status");
    assert_eq!(complete("cnitool add ''"), "net");
    assert_eq!(complete("cnitool -i eth1 add n"), "net");
    assert_eq!(complete("cnitool gc net --keep-"), "--keep-existing");
    assert_eq!(complete("cnitool completion f"), "fish");
    for shell in ["zsh", "fish"] {
        let script = bench.ok(&format!("completion {shell}"));
        assert!(
            script.contains("networks") && !script.contains("@COMM") && !script.contains("@NAMES"),
            "{script}"
        );
    }
}
