//! Input, output, exit codes; what the executable is called.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, Output, cases, plugins_folder};

use crate::conf::{NETWORK, bridge, fixed, newest_version, of_type, versions, with};

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [] version_is_one_line,
        [] version_does_not_wait_for_its_input,
        [] without_a_verb_it_tells_about_itself,
        [] an_error_is_four_spaces_and_no_newline,
        [] closed_input_is_empty_input,
        [] unreadable_input_is_an_error,
        [] a_full_disk_is_no_success,
        [Bridge] closed_descriptors_do_no_harm,
        [Bridge] keys_have_no_letter_case,
        [Bridge] null_is_as_good_as_nothing,
        [] integers_are_written_as_integers,
        [] nothing_may_follow_the_document,
    };
    for case in cases! {
        // Upstream has an executable for each.
        [Bridge] a_copy_works_under_a_plugins_name,
        [] under_another_name_it_explains_itself,
        // Of a key in two spellings upstream takes the last one.
        [Bridge] the_exact_key_wins,
    } {
        list.push(case.ours_only());
    }
    list
}

/// Runs a plugin from a shell, with `redirections` and, by `env`, just these
/// variables.
fn shell(host: &Host, program: &Path, env: &[(&str, &str)], redirections: &str) -> Output {
    let variables: String = env.iter().map(|(name, value)| format!(" {name}='{value}'")).collect();
    let line = format!("exec env -i{variables} {} {redirections}", program.display());
    host.try_exec(["sh", "-c", &line])
}

fn plugin(name: &str) -> PathBuf {
    plugins_folder().join(name)
}

/// The variables of an ADD.
fn add(host: &Host, name: &str) -> Vec<(&'static str, String)> {
    let container = host.container(name);
    vec![
        ("CNI_COMMAND", "ADD".to_owned()),
        ("CNI_CONTAINERID", container.id()),
        ("CNI_NETNS", container.path().display().to_string()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_PATH", plugins_folder().display().to_string()),
    ]
}

fn as_text<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Writes a configuration to a file, for `<` in a shell.
fn file(host: &Host, conf: &Value) -> String {
    let path = host.scratch().join("conf.json");
    fs::write(&path, conf.to_string()).expect("the folder is ours");
    path.display().to_string()
}

#[track_caller]
fn error_code(output: &Output) -> u64 {
    assert_eq!(output.code(), Some(1), "{output}");
    let document: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|e| panic!("not one JSON document: {e}\n{output}"));
    document["code"].as_u64().unwrap_or_else(|| panic!("no code\n{output}"))
}

fn version_is_one_line(host: &Host) {
    let newest = newest_version(host);
    let known = versions(host).join("\",\"");
    let line = format!("{{\"cniVersion\":\"{newest}\",\"supportedVersions\":[\"{known}\"]}}\n");
    for name in ["bridge", "loopback", "static", "host-local"] {
        let output = shell(host, &plugin(name), &[("CNI_COMMAND", "VERSION")], "");
        assert!(output.success() && output.stderr.is_empty(), "{output}");
        assert_eq!(output.stdout, line, "{name}");
        // Garbage is not looked at.
        let answer = host.plugin(name).raw("VERSION", &[].into(), b"{");
        assert_eq!(answer.stdout(), line);
    }
    assert_eq!(newest, if host.has_our_plugins() { "1.1.0" } else { "1.0.0" });
}

fn version_does_not_wait_for_its_input(host: &Host) {
    let pipe = host.scratch().join("pipe");
    let line = format!(
        "mkfifo {0}; exec 3<>{0}; exec env CNI_COMMAND=VERSION {1} <&3",
        pipe.display(),
        plugin("bridge").display()
    );
    // A hang is found by the bound on every command.
    let output = host.try_exec(["sh", "-c", &line]);
    assert!(output.success() && output.stdout.contains("supportedVersions"), "{output}");
}

fn without_a_verb_it_tells_about_itself(host: &Host) {
    for name in ["bridge", "loopback", "static", "host-local"] {
        for env in [vec![], vec![("CNI_COMMAND", "")]] {
            let output = shell(host, &plugin(name), &env, "</dev/null");
            assert_eq!((output.code(), output.stdout.as_str()), (Some(0), ""), "{output}");
            let lines: Vec<_> = output.stderr.lines().collect();
            assert!(lines[0].starts_with(&format!("CNI {name} plugin ")), "{output}");
            let known = format!("CNI protocol versions supported: {}", versions(host).join(", "));
            assert_eq!(lines[1..], [known], "{output}");
        }
    }
}

fn an_error_is_four_spaces_and_no_newline(host: &Host) {
    let failed = host.plugin("static").raw("ADD", &[].into(), b"");
    let text = "{\n    \"code\": 4,\n    \"msg\": \"required env variables \
                [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing\"\n}";
    assert_eq!(failed.stdout(), text);
    assert_eq!(failed.code(), Some(1));
    let conf = json!({"cniVersion": "<&>", "name": NETWORK});
    let one = host.container("one");
    let failed = host.plugin("static").add(&one, "eth0", &conf);
    assert!(failed.stdout().contains("config is \\\"\\u003c\\u0026\\u003e\\\""), "{failed}");
}

fn closed_input_is_empty_input(host: &Host) {
    let env = add(host, "one");
    let output = shell(host, &plugin("static"), &as_text(&env), "</dev/null");
    assert_eq!(error_code(&output), 6, "{output}");
    let output = shell(host, &plugin("static"), &as_text(&env), "<&-");
    // Older versions of upstream's tell of the descriptor.
    let code = if host.has_our_plugins() { 6..=6 } else { 5..=6 };
    assert!(code.contains(&error_code(&output)), "{output}");
}

fn unreadable_input_is_an_error(host: &Host) {
    let env = add(host, "one");
    let output = shell(host, &plugin("static"), &as_text(&env), "</");
    assert_eq!(error_code(&output), 5, "{output}");
}

fn a_full_disk_is_no_success(host: &Host) {
    let env = add(host, "one");
    let conf = of_type(host, "static", json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let input = file(host, &conf);
    let redirections = format!("<{input} >/dev/full");
    let output = shell(host, &plugin("static"), &as_text(&env), &redirections);
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(!output.stderr.is_empty(), "{output}");
    let version = shell(host, &plugin("static"), &[("CNI_COMMAND", "VERSION")], ">/dev/full");
    assert_eq!(version.code(), Some(1), "{version}");
    let failed = shell(host, &plugin("static"), &[("CNI_COMMAND", "ADD")], ">/dev/full");
    assert_eq!(failed.code(), Some(1), "{failed}");
}

/// What is opened next takes the number of what is closed: a result must not
/// end up in a socket, nor an error in a lease.
fn closed_descriptors_do_no_harm(host: &Host) {
    let conf = bridge(host, json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}}));
    let input = file(host, &conf);
    for (number, redirections) in [">&-", "2>&-", ">&- 2>&-"].into_iter().enumerate() {
        let name = format!("c{number}");
        let env = add(host, &name);
        let line = format!("<{input} {redirections}");
        let output = shell(host, &plugin("bridge"), &as_text(&env), &line);
        // Nobody hears the result: whether that is a failure is a matter of
        // taste, but it is no crash.
        assert!(matches!(output.code(), Some(0 | 1)), "{output}");
        let address = format!("10.1.0.{}", number + 2);
        let lease = fs::read_to_string(format!("/var/lib/cni/networks/net/{address}"));
        assert_eq!(lease.ok().as_deref(), Some(format!("ctr-{name}\r\neth0").as_str()));
        let seen = host.exec(format!("ip -n {name} -br address show dev eth0"));
        assert!(seen.contains(&address), "{seen}");
    }
}

fn keys_have_no_letter_case(host: &Host) {
    let conf = json!({"CNIVersion": newest_version(host), "NAME": NETWORK, "Type": "bridge",
        "BRIDGE": "br9", "isgateway": true, "Mtu": 1400,
        "RuntimeConfig": {"MAC": "02:00:00:00:00:0a"},
        "IPAM": {"TYPE": "static", "Addresses": [{"ADDRESS": "10.1.0.2/24"}]}});
    let one = host.container("one");
    let result = host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    assert_eq!(result["cniVersion"], newest_version(host));
    assert_eq!(one.addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(one.mac("eth0"), "02:00:00:00:00:0a");
    assert_eq!(one.link("eth0").expect("it is there")["mtu"], 1400);
    assert_eq!(host.addresses("br9"), ["10.1.0.1/24"]);
    host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    assert_eq!(one.links(), ["lo"]);
}

/// The text as it stands: a `Value` has each key once.
fn send(host: &Host, name: &str, text: &str) -> String {
    let container = host.container(name);
    let result = host.plugin("bridge").send("ADD", &container, "eth0", text.as_bytes());
    result.expect_result()["interfaces"][0]["name"].as_str().expect("a name").to_owned()
}

fn null_is_as_good_as_nothing(host: &Host) {
    let version = newest_version(host);
    let start = format!("{{\"cniVersion\": \"{version}\", \"name\": \"net\", \"type\": \"bridge\"");
    let nulls = "\"bridge\": null, \"mtu\": null, \"ipam\": null, \"vlan\": null, \"args\": null, \
                 \"runtimeConfig\": null, \"dns\": null, \"prevResult\": null, \"isGateway\": null";
    assert_eq!(send(host, "one", &format!("{start}, {nulls}}}")), "cni0");
    // Of a repeated key the last one counts, but null changes nothing.
    let twice = "\"bridge\": \"br1\", \"bridge\": \"br2\", \"bridge\": null";
    assert_eq!(send(host, "two", &format!("{start}, {twice}}}")), "br2");
    // Nobody knows this key.
    assert_eq!(send(host, "three", &format!("{start}, \"what\": {{\"is\": [1, null]}}}}")), "cni0");
}

fn the_exact_key_wins(host: &Host) {
    let start = "{\"cniVersion\": \"1.1.0\", \"name\": \"net\", \"type\": \"bridge\"";
    let twice = "\"bridge\": \"br1\", \"BRIDGE\": \"br2\"";
    assert_eq!(send(host, "one", &format!("{start}, {twice}}}")), "br1");
}

fn integers_are_written_as_integers(host: &Host) {
    let one = host.container("one");
    let code = if host.has_our_plugins() { 7 } else { 999 };
    for mtu in ["1400.0", "1.4e3", "\"1400\"", "true", "[1400]", "99999999999999999999"] {
        let text = format!(
            "{{\"cniVersion\": \"1.0.0\", \"name\": \"net\", \"type\": \"bridge\", \"mtu\": {mtu}}}"
        );
        let failed = host.plugin("bridge").send("ADD", &one, "eth0", text.as_bytes());
        failed.expect_error(code, "mtu");
    }
    assert_eq!(host.links(), ["lo"]);
}

fn nothing_may_follow_the_document(host: &Host) {
    let one = host.container("one");
    let conf = of_type(host, "static", json!({"ipam": fixed(&["10.1.0.2/24"])})).to_string();
    let plugin = host.plugin("static");
    plugin.send("ADD", &one, "eth0", format!("  {conf}\n \t\r\n").as_bytes()).expect_result();
    for text in [format!("{conf}{conf}"), format!("{conf} x"), format!("\u{feff}{conf}")] {
        plugin.send("ADD", &one, "eth0", text.as_bytes()).expect_error(6, "");
    }
}

/// By a process of its own: a file that is open for writing here is so in each
/// process that another test starts meanwhile, and then it cannot be executed.
fn copy_to(host: &Host, from: &str, to: &Path) {
    host.exec(["cp", &plugin(from).display().to_string(), &to.display().to_string()]);
}

fn a_copy_works_under_a_plugins_name(host: &Host) {
    let folder = host.scratch().join("copies");
    fs::create_dir_all(&folder).expect("the folder is ours");
    let copy = folder.join("bridge");
    copy_to(host, "loopback", &copy);
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let input = format!("<{}", file(host, &conf));
    let env = add(host, "one");
    let output = shell(host, &copy, &as_text(&env), &input);
    assert!(output.success() && output.stdout.contains("10.1.0.2/24"), "{output}");
    // By a symbolic link it is called by the link's name.
    let link = folder.join("static");
    std::os::unix::fs::symlink(plugin("bridge"), &link).expect("the folder is ours");
    let version = shell(host, &link, &[], "");
    assert!(version.stderr.starts_with("CNI static plugin "), "{version}");
}

fn under_another_name_it_explains_itself(host: &Host) {
    let folder = host.scratch().join("copies");
    fs::create_dir_all(&folder).expect("the folder is ours");
    for name in ["oxcni", "bridge2", "Bridge"] {
        let copy = folder.join(name);
        copy_to(host, "bridge", &copy);
        let env = add(host, name);
        let conf = with(&bridge(host, json!({})), json!({"type": name}));
        let output = shell(host, &copy, &as_text(&env), &format!("<{}", file(host, &conf)));
        assert_eq!(error_code(&output), 999, "{output}");
        for word in [name, "bridge", "host-local"] {
            assert!(output.stdout.contains(word), "{word}: {output}");
        }
        let explained = shell(host, &copy, &[], "</dev/null");
        assert_eq!((explained.code(), explained.stdout.as_str()), (Some(1), ""), "{explained}");
        assert!(explained.stderr.contains("host-local"), "{explained}");
        let names = host.exec([&copy.display().to_string(), "--plugins"]);
        assert!(names.lines().any(|name| name == "bridge"), "{names}");
    }
    assert_eq!(host.links(), ["lo"]);
}
