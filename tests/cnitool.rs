//! Whole chains, driven by `cnitool` as a person would.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, Output, cases};

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Ping] two_containers_come_and_go,
        [Bridge] the_namespace_may_be_gone_before_del,
        [Bridge] del_needs_no_configuration,
        [Bridge] a_second_add_takes_nothing_away,
        [Bridge] what_exists_survives_a_gc,
        [Bridge, PeerPlugins] foreign_plugins_join_the_chain,
        [Bridge, PeerPlugins] a_chain_that_fails_leaves_nothing,
        [Bridge] many_at_once_and_a_gc_among_them,
        [Bridge, Shaping, Ifb] limits_of_the_runtime_reach_the_end_of_the_chain,
    };
    for case in cases! {
        [Bridge] a_stale_file_is_no_namespace,
        [Bridge] attachments_of_older_runtimes_are_not_taken_for_dead,
        [Bridge] keep_wants_something_to_keep,
        [Bridge] a_failed_add_takes_nothing_from_another_network,
        [Bridge] plugins_forget_what_the_cache_has_lost,
        [Bridge] status_knows_when_addresses_are_out,
        [Bridge, Nft] check_and_del_are_given_what_add_was,
        [] it_is_no_plugin_itself,
        [Bridge] a_lock_that_is_no_file_is_told,
        [Bridge] an_add_whose_result_is_lost_is_taken_back,
    } {
        list.push(case.ours_only());
    }
    list
}

/// `cargo test` builds it beside the plugins, as `cargo build` does.
fn tool() -> String {
    let tool = Path::new(env!("CARGO_BIN_EXE_oxcni")).with_file_name("cnitool");
    assert!(tool.exists(), "{} is missing: cargo build -p cnitool", tool.display());
    tool.display().to_string()
}

/// Runs it on this host with the plugins under test, and the peer's behind
/// them.
#[track_caller]
pub(crate) fn cnitool(host: &Host, line: &str) -> Output {
    cnitool_env(host, line, &[])
}

/// The same with these variables.
#[track_caller]
pub(crate) fn cnitool_env(host: &Host, line: &str, variables: &[(&str, &str)]) -> Output {
    let path =
        format!("{}:{}", testkit::plugins_folder().display(), testkit::peer_folder().display());
    let mut argv = vec!["env".to_owned(), format!("CNI_PATH={path}")];
    argv.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    argv.push(tool());
    argv.extend(line.split_whitespace().map(str::to_owned));
    host.try_exec(argv)
}

/// With these values of capabilities.
#[track_caller]
pub(crate) fn cnitool_with(host: &Host, capabilities: &str, line: &str) -> Output {
    cnitool_env(host, line, &[("CAP_ARGS", capabilities)])
}

/// Runs what must succeed without a warning.
#[track_caller]
pub(crate) fn ok(host: &Host, line: &str) -> String {
    let output = cnitool(host, line);
    assert!(output.success() && output.stderr.is_empty(), "{output}");
    output.stdout
}

/// Attaches, and gives the first address with its length.
#[track_caller]
fn add(host: &Host, network: &str, container: &Container) -> String {
    let stdout = ok(host, &format!("add {network} {}", container.path().display()));
    let result: Value = serde_json::from_str(&stdout).expect("a result");
    result["ips"][0]["address"].as_str().expect("an address").to_owned()
}

/// A bridge network as a list, with `more` plugins behind it.
fn write_network(host: &Host, version: &str, more: &[Value]) {
    let mut plugins = vec![json!({"type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/28"}})];
    plugins.extend_from_slice(more);
    let list = json!({"cniVersion": version, "name": "net", "plugins": plugins});
    host.write("/etc/cni/net.d/10-net.conflist", list.to_string());
    // A gateway switches it on for the host, and it stays.
    host.set_sysctl("net/ipv4/ip_forward", "1");
}

fn leases(host: &Host) -> BTreeSet<String> {
    let is_lease = |name: &String| name.starts_with("10.");
    host.files("/var/lib/cni/networks/net").into_iter().filter(is_lease).collect()
}

fn cached(host: &Host) -> usize {
    host.files("/var/lib/cni/results").len()
}

/// The bridge, the folders of the cache and of the leases, and the mark of the
/// last address: they are shared, and stay.
const STAYS: &[&str] = &["cni0", "/var/lib/cni"];

fn two_containers_come_and_go(host: &Host) {
    let newest = if Feature::OurPlugins.present() { "1.1.0" } else { "1.0.0" };
    for version in ["0.3.1", "0.4.0", "1.0.0", newest] {
        write_network(host, version, &[]);
        let (one, two) = (host.container("one"), host.container("two"));
        let before = host.snapshot();
        add(host, "net", &one);
        let address = add(host, "net", &two);
        one.expect_ping(address.trim_end_matches("/28"));
        host.expect_ping(address.trim_end_matches("/28"));
        assert_eq!((leases(host).len(), cached(host)), (2, 2));
        let list = ok(host, "list net");
        assert!(list.contains(&address) && list.contains("/run/netns/two"), "{list}");
        for container in [&one, &two] {
            if version != "0.3.1" {
                ok(host, &format!("check net {}", container.path().display()));
            }
            ok(host, &format!("del net {}", container.path().display()));
            ok(host, &format!("del net {}", container.path().display()));
            assert_eq!(container.links(), ["lo"]);
        }
        assert_eq!((leases(host).len(), cached(host)), (0, 0));
        host.expect_unchanged_but(&before, STAYS);
        one.destroy();
        two.destroy();
    }
}

fn the_namespace_may_be_gone_before_del(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let one = host.container("one");
    add(host, "net", &one);
    one.destroy();
    ok(host, "del net /run/netns/one");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
}

fn del_needs_no_configuration(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let one = host.container("one");
    add(host, "net", &one);
    host.write("/etc/cni/net.d/10-net.conflist", "{");
    let output = cnitool(host, "del net /run/netns/one");
    assert!(output.success() && output.stderr.contains("warning: "), "{output}");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
    assert_eq!(one.links(), ["lo"]);
}

fn a_second_add_takes_nothing_away(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let one = host.container("one");
    let address = add(host, "net", &one);
    let (kept, links) = (leases(host), one.links());
    let output = cnitool(host, "add net /run/netns/one");
    assert_eq!(output.code(), Some(1), "{output}");
    assert_eq!((leases(host), one.links()), (kept, links));
    assert!(one.addresses("eth0").contains(&address));
    ok(host, "check net /run/netns/one");
}

fn what_exists_survives_a_gc(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let [one, two] = ["one", "two"].map(|name| host.container(name));
    let address = add(host, "net", &one);
    add(host, "net", &two);
    two.destroy();
    let output = cnitool(host, "gc net /run/netns/one");
    assert_eq!(output.code(), Some(1), "{output}");
    assert_eq!(ok(host, "gc net --keep-existing --dry-run").lines().count(), 2);
    assert_eq!(cached(host), 2);
    ok(host, "gc net --keep-existing");
    assert_eq!(leases(host), BTreeSet::from([address.trim_end_matches("/28").to_owned()]));
    assert_eq!(cached(host), 1);
    ok(host, "check net /run/netns/one");
    ok(host, "gc net --all");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
    assert_eq!(one.links(), ["lo"]);
}

/// As it is after a reboot when /run is no tmpfs. Upstream's bridge refuses to
/// be deleted from such a file.
fn a_stale_file_is_no_namespace(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let one = host.container("one");
    add(host, "net", &one);
    one.make_stale_file();
    assert!(ok(host, "list").contains(" gone "));
    ok(host, "gc net --keep-existing");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
}

/// Before version 1.2 the reference library did not write down the namespace, which
/// podman 4 and older versions of containerd and CRI-O are built with. A result may
/// name it.
fn attachments_of_older_runtimes_are_not_taken_for_dead(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let [named, unnamed] = ["named", "unnamed"].map(|name| host.container(name));
    for container in [&named, &unnamed] {
        add(host, "net", container);
        let id = runtime::container_id_of_netns(container.path());
        let file = format!("/var/lib/cni/results/net-{id}-eth0");
        let mut entry: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("cached")).expect("JSON");
        entry.as_object_mut().expect("an object").remove("netns");
        if container.name() == "unnamed" {
            entry["result"].as_object_mut().expect("an object").remove("interfaces");
        }
        host.write(&file, entry.to_string());
    }
    let words = |line: &str, at: usize| -> Vec<String> {
        let text = ok(host, line);
        let word = |line: &str| line.split_whitespace().nth(at).unwrap_or_default().to_owned();
        text.lines().skip(1).map(word).collect()
    };
    let sorted = |mut words: Vec<String>| {
        words.sort();
        words
    };
    assert_eq!(sorted(words("list", 4)), ["exists", "unknown"]);
    assert_eq!(words("leases", 5), ["in", "unknown"]);
    let output = cnitool(host, "restore");
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(
        output.stdout.contains(" complete ") && output.stdout.contains(" unknown "),
        "{output}"
    );
    let told = "does not say in which namespace it is";
    assert!(output.stderr.lines().count() == 1 && output.stderr.contains(told), "{output}");
    // With a warning.
    let gc = || {
        let output = cnitool(host, "gc net --keep-existing");
        assert!(output.success() && output.stderr.contains(told), "{output}");
    };
    gc();
    assert_eq!((leases(host).len(), cached(host)), (2, 2));
    for container in [&named, &unnamed] {
        assert!(container.link("eth0").is_some(), "{}", container.name());
    }
    // What is gone for certain goes.
    named.destroy();
    assert_eq!(sorted(words("list", 4)), ["gone", "unknown"]);
    gc();
    assert_eq!((leases(host).len(), cached(host)), (1, 1));
    ok(host, "gc net --all");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
}

/// The peer's tuning plugin sets a sysctl of the container, and knows the
/// previous result.
fn tuning(sysctl: &str) -> Value {
    json!({"type": "tuning", "sysctl": {sysctl: "1"}})
}

/// Installed beside the plugins, as `scripts/install --with-cnitool` does.
fn it_is_no_plugin_itself(host: &Host) {
    let folder = host.scratch().join("installed");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    for (name, program) in [
        ("cnitool", PathBuf::from(tool())),
        ("loopback", testkit::plugins_folder().join("loopback")),
    ] {
        std::os::unix::fs::symlink(program, folder.join(name)).expect("the folder is ours");
    }
    let path = folder.display().to_string();
    let shown = cnitool_env(host, "version", &[("CNI_PATH", &path)]).expect_success();
    let names: Vec<_> = shown.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["cnitool", "loopback"]);
}

fn foreign_plugins_join_the_chain(host: &Host) {
    write_network(host, "1.0.0", &[tuning("net.ipv4.conf.eth0.arp_notify")]);
    // The peer's before the one of the same name that is under test.
    let folder = host.scratch().join("foreign");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    let theirs = testkit::peer_folder().join("tuning");
    std::os::unix::fs::symlink(theirs, folder.join("tuning")).expect("the folder is ours");
    let path = format!("{}:{}", folder.display(), testkit::plugins_folder().display());
    let run = |line: &str| cnitool_env(host, line, &[("CNI_PATH", &path)]);
    let one = host.container("one");
    let before = host.snapshot();
    let _ = run("add net /run/netns/one").expect_success();
    assert_eq!(one.sysctl("net/ipv4/conf/eth0/arp_notify").as_deref(), Some("1"));
    let _ = run("check net /run/netns/one").expect_success();
    let _ = run("validate net").expect_success();
    one.set_sysctl("net/ipv4/conf/eth0/arp_notify", "0");
    let output = run("check net /run/netns/one");
    assert!(output.stderr.starts_with("plugin type=\"tuning\" failed (check): "), "{output}");
    let _ = run("del net /run/netns/one").expect_success();
    host.expect_unchanged_but(&before, STAYS);
}

fn a_chain_that_fails_leaves_nothing(host: &Host) {
    write_network(host, "1.0.0", &[tuning("net.ipv4.there_is_no_such_key")]);
    let one = host.container("one");
    let before = host.snapshot();
    let output = cnitool(host, "add net /run/netns/one");
    assert_eq!((output.code(), output.stdout.as_str()), (Some(1), ""), "{output}");
    assert!(output.stderr.starts_with("plugin type=\"tuning\" failed (add): "), "{output}");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
    assert_eq!(one.links(), ["lo"]);
    host.expect_unchanged_but(&before, STAYS);
}

fn many_at_once_and_a_gc_among_them(host: &Host) {
    write_network(host, "1.0.0", &[]);
    let containers: Vec<_> = (0..8).map(|n| host.container(&format!("c{n}"))).collect();
    let addresses: BTreeSet<_> = host
        .parallel(9, |n| match containers.get(n) {
            Some(container) => Some(add(host, "net", container)),
            None => {
                ok(host, "gc net --keep-existing");
                None
            }
        })
        .into_iter()
        .flatten()
        .collect();
    assert_eq!((addresses.len(), leases(host).len(), cached(host)), (8, 8, 8));
    host.parallel(8, |n| ok(host, &format!("del net {}", containers[n].path().display())));
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
}

/// What no cache tells of is removed by the plugins themselves, from the list
/// of those that are valid.
fn limits_of_the_runtime_reach_the_end_of_the_chain(host: &Host) {
    let shaped = || host.ip("link show type ifb").len();
    let limits = r#"{"bandwidth":{"ingressRate":8000000,"ingressBurst":1600000,"egressRate":1600000,"egressBurst":800000}}"#;
    let newest = if Feature::OurPlugins.present() { "1.1.0" } else { "1.0.0" };
    for version in ["0.3.1", "0.4.0", "1.0.0", newest] {
        let capable = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        write_network(host, version, &[capable]);
        let one = host.container("one");
        let before = host.snapshot();
        let attachment = one.path().display().to_string();
        let added = cnitool_with(host, limits, &format!("add net {attachment}"));
        let result: Value = serde_json::from_str(&added.expect_success()).expect("a result");
        assert_eq!(result["interfaces"].as_array().map(Vec::len), Some(4), "{result}");
        assert_eq!(shaped(), 1);
        let tbf = host.exec("tc qdisc show");
        assert!(tbf.contains("rate 8Mbit burst 200000b lat 25ms"), "{tbf}");
        if version != "0.3.1" {
            let check = format!("check net {attachment}");
            drop(cnitool_with(host, limits, &check).expect_success());
        }
        // As the cache has them.
        ok(host, &format!("del net {attachment}"));
        assert_eq!(shaped(), 0);
        host.expect_unchanged_but(&before, STAYS);
        one.destroy();
    }
}

fn plugins_forget_what_the_cache_has_lost(host: &Host) {
    write_network(host, "1.1.0", &[]);
    let (one, two) = (host.container("one"), host.container("two"));
    add(host, "net", &one);
    let address = add(host, "net", &two);
    let lost = host.files("/var/lib/cni/results").into_iter().find(|name| {
        let file = format!("/var/lib/cni/results/{name}");
        host.exec(["cat", &file]).contains("/run/netns/one")
    });
    host.exec(["rm", &format!("/var/lib/cni/results/{}", lost.expect("it was cached"))]);
    one.destroy();
    ok(host, "gc net --keep-existing");
    assert_eq!(leases(host), BTreeSet::from([address.trim_end_matches("/28").to_owned()]));
    ok(host, "check net /run/netns/two");
}

fn status_knows_when_addresses_are_out(host: &Host) {
    write_network(host, "1.1.0", &[]);
    ok(host, "status net");
    // A /28 has 14 addresses, and the gateway has one.
    for n in 0..13 {
        add(host, "net", &host.container(&format!("c{n}")));
    }
    let output = cnitool(host, "status net");
    assert_eq!(output.code(), Some(1), "{output}");
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
    ok(host, "del net /run/netns/c7");
    ok(host, "status net");
}

fn keep_wants_something_to_keep(host: &Host) {
    write_network(host, "1.1.0", &[]);
    let one = host.container("one");
    add(host, "net", &one);
    let path = one.path().display();
    let output = cnitool(host, &format!("gc net --keep {path}-misspelt"));
    assert!(!output.success() && output.stderr.contains("nothing was removed"), "{output}");
    assert!(one.link("eth0").is_some());
    // The interface there that was meant must not go.
    let output = cnitool(host, &format!("gc net --keep {path}:eth9"));
    assert!(!output.success() && output.stderr.contains("has eth0 there"), "{output}");
    // By whatever path, all that the network has there.
    ok(host, &format!("add -i eth1 net {path}"));
    for keep in [format!("{path}"), format!("/proc/self/root{path}"), format!("{path}/../one")] {
        ok(host, &format!("gc net --keep {keep}"));
        assert_eq!(one.links(), ["lo", "eth0", "eth1"], "{keep}");
    }
    ok(host, &format!("gc net --keep {path}:eth0"));
    assert_eq!(one.links(), ["lo", "eth0"]);
    ok(host, &format!("del net {path}"));
}

/// Without them portmap would leave its mapping to whoever gets the address next.
fn check_and_del_are_given_what_add_was(host: &Host) {
    let mappings = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    write_network(host, "1.0.0", &[mappings]);
    let one = host.container("one");
    let mapping = r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#;
    let path = one.path().display().to_string();
    let rules = || host.exec("nft list ruleset");
    drop(cnitool_with(host, mapping, &format!("add net {path}")).expect_success());
    ok(host, &format!("check net {path}"));
    host.exec("nft flush map ip cni_hostport any_address");
    let output = cnitool(host, &format!("check net {path}"));
    assert!(output.stderr.contains("8080"), "{output}");
    ok(host, &format!("del net {path}"));
    drop(cnitool_with(host, mapping, &format!("add net {path}")).expect_success());
    assert!(rules().contains("8080"), "{}", rules());
    ok(host, &format!("del net {path}"));
    assert!(!rules().contains("8080"), "{}", rules());
}

fn a_failed_add_takes_nothing_from_another_network(host: &Host) {
    write_network(host, "1.1.0", &[]);
    let other = json!({"cniVersion": "1.1.0", "name": "other", "plugins": [
        {"type": "bridge", "bridge": "br-other", "ipam": {"type": "host-local", "subnet": "10.2.0.0/24"}}]});
    host.write("/etc/cni/net.d/20-other.conflist", other.to_string());
    let one = host.container("one");
    add(host, "net", &one);
    let path = one.path().display();
    let output = cnitool(host, &format!("add other {path}"));
    assert!(!output.success() && output.stderr.contains("already used"), "{output}");
    assert!(one.link("eth0").is_some(), "the other network's link is gone");
    ok(host, &format!("check net {path}"));
    ok(host, &format!("del net {path}"));
}

/// One that is a pipe was waited for without end, and a link was followed.
fn a_lock_that_is_no_file_is_told(host: &Host) {
    const ELSEWHERE: &str = "/run/elsewhere";
    write_network(host, "1.1.0", &[]);
    let one = host.container("one");
    let path = one.path().display();
    ok(host, &format!("add net {path}"));
    ok(host, &format!("del net {path}"));
    let before = host.snapshot();
    for name in ["net", ".net.gate"] {
        let lock = format!("/var/lib/cni/locks/{name}");
        for planted in [format!("ln -s {ELSEWHERE}"), "mkfifo".to_owned(), "mkdir".to_owned()] {
            host.exec(format!("rm -f {lock}"));
            host.exec(format!("{planted} {lock}"));
            let told = cnitool(host, &format!("add net {path}"));
            assert!(!told.success() && told.stderr.contains(&lock), "{planted}: {told}");
            assert!(!Path::new(ELSEWHERE).exists(), "{planted}: the link was followed");
            assert_eq!((leases(host).len(), cached(host)), (0, 0));
            let told = cnitool(host, "gc net --all");
            assert!(!told.success() && told.stderr.contains(&lock), "{planted}: {told}");
            // It must not keep a container from ending.
            ok(host, &format!("del net {path}"));
            host.exec(format!("rm -rf {lock}"));
        }
    }
    host.expect_unchanged_but(&before, STAYS);
    ok(host, &format!("add net {path}"));
    ok(host, &format!("del net {path}"));
}

/// Who is told of a failure expects nothing to be there.
fn an_add_whose_result_is_lost_is_taken_back(host: &Host) {
    write_network(host, "1.1.0", &[]);
    let one = host.container("one");
    let path = one.path().display().to_string();
    ok(host, &format!("add net {path}"));
    ok(host, &format!("del net {path}"));
    let before = host.snapshot();
    let inside = one.network_snapshot();
    let add = || {
        let plugins = testkit::plugins_folder().display().to_string();
        let line = format!("CNI_PATH={plugins} {} add net {path} > /dev/full", tool());
        host.try_exec(vec!["sh".to_owned(), "-c".to_owned(), line])
    };
    let told = add();
    assert_eq!(told.code(), Some(1), "{told}");
    assert!(told.stderr.contains("No space left") && told.stderr.contains("detached"), "{told}");
    assert_eq!((leases(host).len(), cached(host)), (0, 0));
    host.expect_unchanged_but(&before, STAYS);
    inside.expect_same(&one.network_snapshot());
    // One of before stays.
    ok(host, &format!("add net {path}"));
    assert_eq!(add().code(), Some(1));
    ok(host, &format!("check net {path}"));
    ok(host, &format!("del net {path}"));
}
