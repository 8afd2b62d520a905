//! What holds for every plugin. The cases are made from one list of ways to
//! use a plugin, [`corpus`]: a line there, and all of it is tested.

mod corpus;
mod failing;
mod killed;
mod unable;
mod upgraded;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, Outcome, Plugin, Snapshot};
use testkit::{unified_diff, with_previous_result};

use crate::conf::{NETWORK, newest_version, versions, with};
use corpus::Sample;

/// A property: what it is called, what it needs beside the sample's needs, and
/// whether it holds for upstream's plugins as well.
struct Property {
    name: &'static str,
    needs: &'static [Feature],
    ours_only: bool,
    holds: fn(&Host, &Sample),
}

const fn property(name: &'static str, holds: fn(&Host, &Sample)) -> Property {
    Property { name, needs: &[], ours_only: false, holds }
}

impl Property {
    /// Upstream's plugins do not have it; the reason stands beside.
    const fn ours_only(self) -> Property {
        Property { ours_only: true, ..self }
    }

    const fn needs(self, needs: &'static [Feature]) -> Property {
        Property { needs, ..self }
    }
}

const PROPERTIES: &[Property] = &[
    property("add_then_del_leaves_the_host_as_it_was", add_then_del_leaves_the_host_as_it_was),
    property("del_twice_and_before_add_succeed", del_twice_and_before_add_succeed),
    property("del_of_a_lost_namespace_cleans_up", del_of_a_lost_namespace_cleans_up),
    // Upstream only asks IPAM to release, and leaves the links.
    property("del_without_netns_cleans_up", del_without_netns_cleans_up).ours_only(),
    // Upstream fails, and releases nothing.
    property("del_of_a_stale_file_cleans_up", del_of_a_stale_file_cleans_up).ours_only(),
    // Upstream's address plugin refuses.
    property(RESUMED, it_comes_back_after_its_namespace_was_lost).ours_only(),
    property("check_passes_at_every_version", check_passes_at_every_version),
    property("a_del_needs_no_previous_result", a_del_needs_no_previous_result),
    property("two_at_once_equal_two_in_turn", two_at_once_equal_two_in_turn),
    // Upstream's have no such verb.
    property("restore_of_what_is_there_changes_nothing", restore_of_what_is_there_changes_nothing)
        .ours_only(),
    // Upstream's have no GC.
    property("gc_removes_what_is_not_valid_and_no_more", gc_removes_what_is_not_valid_and_no_more)
        .ours_only(),
    // Upstream undoes nothing but the lease.
    property(
        "a_failure_at_any_step_leaves_the_host_as_it_was",
        failing::a_failure_at_any_step_leaves_the_host_as_it_was,
    )
    .needs(&[Feature::Strace])
    .ours_only(),
    property(
        "a_kill_at_any_step_is_cleaned_up_by_del",
        killed::a_kill_at_any_step_is_cleaned_up_by_del,
    )
    .needs(&[Feature::Strace])
    .ours_only(),
    property(
        "a_kill_at_any_step_is_cleaned_up_by_del_of_lost",
        killed::a_kill_at_any_step_is_cleaned_up_by_del_of_lost,
    )
    .needs(&[Feature::Strace])
    .ours_only(),
    property(
        "a_kill_at_any_step_is_cleaned_up_by_gc",
        killed::a_kill_at_any_step_is_cleaned_up_by_gc,
    )
    .needs(&[Feature::Strace])
    .ours_only(),
    property(UPGRADED, upgraded::one_program_goes_on_where_the_other_was)
        .needs(&[Feature::PeerPlugins, Feature::OurPlugins]),
    property("without_a_capability_an_add_says_why", unable::without_a_capability_an_add_says_why)
        .ours_only(),
    property("a_read_only_proc_is_told", unable::a_read_only_proc_is_told)
        // Of a user namespace's /proc nothing may be covered.
        .needs(&[Feature::RealRoot])
        .ours_only(),
];

const UPGRADED: &str = "one_program_goes_on_where_the_other_was";
const RESUMED: &str = "it_comes_back_after_its_namespace_was_lost";

pub(crate) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for sample in corpus::samples() {
        // A hundred ADDs take minutes on an emulated processor: there they are
        // only for what is skipped elsewhere.
        let is_too_slow = |property: &Property| {
            is_in_a_vm() && corpus::EACH_STEP.contains(&property.name) && !sample.needs_a_vm()
        };
        // Its kernel, before Linux 6.18, tells namespaces apart by numbers alone, and the
        // new one nearly always gets that of the old.
        let is_not_told = |property: &Property| is_in_a_vm() && property.name == RESUMED;
        let has = |property: &&Property| {
            sample.has(property.name) && !is_too_slow(property) && !is_not_told(property)
        };
        for property in PROPERTIES.iter().filter(has) {
            let name = format!("properties::{}::{}::{}", sample.plugin, sample.name, property.name);
            let needs: Vec<_> = sample.needs.iter().chain(property.needs).copied().collect();
            let (holds, sample) = (property.holds, sample.clone());
            let not_upstream = property.ours_only || sample.is_ours_only(property.name);
            let case = Case::new(name, &needs, move |host| holds(host, &sample));
            list.push(if not_upstream { case.ours_only() } else { case });
        }
    }
    list
}

/// Whether the processor may be emulated.
#[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
fn is_in_a_vm() -> bool {
    std::env::var_os("OXCNI_IN_VM").is_some()
}

/// A container to attach, with what the plugins before this one in the chain
/// have answered.
struct Pod {
    container: Container,
    previous: Option<Value>,
}

impl Sample {
    /// Makes what it stands on, and a first attachment that comes and goes, so
    /// that what is shared and stays is there.
    fn set_up(&self, host: &Host) {
        (self.prepare)(host);
        let first = self.pod(host, "first");
        self.add(host, &first);
        self.del(host, &first).expect_ok();
        if let Some((plugin, conf)) = self.before(host) {
            host.plugin(plugin).del(&first.container, "eth0", &conf).expect_ok();
        }
        first.container.destroy();
    }

    /// The plugin before it in the chain, with its configuration.
    fn before(&self, host: &Host) -> Option<(&'static str, Value)> {
        let (plugin, keys) = self.behind.as_ref()?;
        let base = json!({"cniVersion": newest_version(host), "name": NETWORK, "type": plugin});
        Some((plugin, with(&base, keys.clone())))
    }

    fn pod(&self, host: &Host, name: &str) -> Pod {
        let container = self.container(host, name);
        let previous = self.before(host).map(|(plugin, conf)| {
            host.plugin(plugin).add(&container, "eth0", &conf).expect_result()
        });
        Pod { container, previous }
    }

    fn container(&self, host: &Host, name: &str) -> Container {
        let container = host.container(name);
        self.touch(&container);
        container
    }

    fn touch(&self, container: &Container) {
        // The first time that lo comes up the kernel gives it addresses, and
        // some of them stay.
        container.exec("ip link set lo up");
        container.exec("ip link set lo down");
        (self.inside)(container);
    }

    fn plugin<'h>(&self, host: &'h Host) -> Plugin<'h> {
        host.plugin(self.plugin)
    }

    /// Its configuration for a verb at a version.
    fn conf(&self, version: &str, pod: &Pod) -> Value {
        let base = json!({"cniVersion": version, "name": NETWORK, "type": self.plugin});
        let conf = with(&base, self.keys.clone());
        match &pod.previous {
            Some(previous) => with_previous_result(&conf, previous),
            None => conf,
        }
    }

    fn newest_conf(&self, host: &Host, pod: &Pod) -> Value {
        self.conf(&newest_version(host), pod)
    }

    fn try_add(&self, host: &Host, plugin: &Plugin<'_>, pod: &Pod) -> Outcome {
        plugin.add(&pod.container, "eth0", &self.newest_conf(host, pod))
    }

    #[track_caller]
    fn add(&self, host: &Host, pod: &Pod) -> Value {
        self.try_add(host, &self.plugin(host), pod).expect_result()
    }

    fn del(&self, host: &Host, pod: &Pod) -> Outcome {
        self.plugin(host).del(&pod.container, "eth0", &self.newest_conf(host, pod))
    }

    /// The host, without what stays by intent: the mark of the last lease, and
    /// the index over them.
    fn expect_unchanged(&self, host: &Host, before: &Snapshot) {
        host.expect_unchanged_but(before, &["/last_reserved_ip.", "/.oxcni/"]);
    }
}

/// The addresses that are leased, from all networks.
fn leases() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for network in folder("/var/lib/cni/networks") {
        let names = folder(&network)
            .into_iter()
            .filter_map(|path| Some(Path::new(&path).file_name()?.to_string_lossy().into_owned()));
        found.extend(names.filter(|name| name.parse::<IpAddr>().is_ok()));
    }
    found
}

/// The paths in a folder; none if there is no folder.
fn folder(path: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path().display().to_string()).collect()
}

fn add_then_del_leaves_the_host_as_it_was(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let pod = sample.pod(host, "pod");
    let (before, inside) = (host.snapshot(), pod.container.network_snapshot());
    for _ in 0..2 {
        sample.add(host, &pod);
        sample.del(host, &pod).expect_ok();
        sample.expect_unchanged(host, &before);
        inside.expect_same(&pod.container.network_snapshot());
    }
}

fn del_twice_and_before_add_succeed(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let pod = sample.pod(host, "pod");
    let before = host.snapshot();
    sample.del(host, &pod).expect_ok();
    sample.expect_unchanged(host, &before);
    sample.add(host, &pod);
    sample.del(host, &pod).expect_ok();
    sample.del(host, &pod).expect_ok();
    sample.expect_unchanged(host, &before);
}

/// Whoever deletes links of the container's beforehand must not need them.
fn del_of_a_lost_namespace_cleans_up(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let before = host.snapshot();
    let pod = sample.pod(host, "pod");
    sample.add(host, &pod);
    pod.container.destroy();
    sample.del(host, &pod).expect_ok();
    sample.expect_unchanged(host, &before);
}

fn del_without_netns_cleans_up(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let pod = sample.pod(host, "pod");
    let before = host.snapshot();
    sample.add(host, &pod);
    let conf = sample.newest_conf(host, &pod);
    sample.plugin(host).del_without_netns(&pod.container, "eth0", &conf).expect_ok();
    sample.expect_unchanged(host, &before);
}

fn del_of_a_stale_file_cleans_up(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let before = host.snapshot();
    let pod = sample.pod(host, "pod");
    sample.add(host, &pod);
    pod.container.make_stale_file();
    sample.del(host, &pod).expect_ok();
    fs::remove_file(pod.container.path()).expect("the file is ours");
    sample.expect_unchanged(host, &before);
}

/// Under the same name, in a new namespace, with no DEL between.
fn it_comes_back_after_its_namespace_was_lost(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let before = host.snapshot();
    let pairs = || -> Vec<String> {
        host.links().into_iter().filter(|link| link.starts_with("veth")).collect()
    };
    let others = pairs();
    let mut pod = sample.pod(host, "pod");
    let first = sample.add(host, &pod);
    pod.container.destroy();
    // An ADD while the kernel is at it finds the routes of the old pair, and fails.
    host.wait_until("the pair is gone", || pairs() == others);
    pod.container.recreate();
    sample.touch(&pod.container);
    let succeeds = |add: &dyn Fn() -> Outcome| {
        let result = Cell::new(None);
        host.wait_until("the namespace has ended", || {
            let outcome = add();
            result.set(outcome.success().then(|| outcome.expect_result()));
            outcome.success()
        });
        result.into_inner()
    };
    if let Some((plugin, conf)) = sample.before(host) {
        pod.previous = succeeds(&|| host.plugin(plugin).add(&pod.container, "eth0", &conf));
    }
    let result = succeeds(&|| sample.try_add(host, &sample.plugin(host), &pod));
    let result = result.expect("it succeeded");
    assert_eq!(result["ips"], first["ips"]);
    let conf = with_previous_result(&sample.newest_conf(host, &pod), &result);
    sample.plugin(host).check(&pod.container, "eth0", &conf).expect_ok();
    sample.plugin(host).del(&pod.container, "eth0", &conf).expect_ok();
    if let Some((plugin, conf)) = sample.before(host) {
        host.plugin(plugin).del(&pod.container, "eth0", &conf).expect_ok();
    }
    pod.container.destroy();
    sample.expect_unchanged(host, &before);
}

fn a_del_needs_no_previous_result(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let pod = sample.pod(host, "pod");
    let before = host.snapshot();
    sample.add(host, &pod);
    let mut conf = sample.newest_conf(host, &pod);
    conf.as_object_mut().expect("an object").remove("prevResult");
    sample.plugin(host).del(&pod.container, "eth0", &conf).expect_ok();
    sample.expect_unchanged(host, &before);
}

fn check_passes_at_every_version(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let known = versions(host);
    let with_check = ["0.4.0", "1.0.0", "1.1.0"];
    let tried = known.iter().filter(|version| with_check.contains(&version.as_str()));
    for version in tried {
        // Plugins take previous results of their own family of versions only.
        if sample.behind.is_some() && *version != newest_version(host) {
            continue;
        }
        let pod = sample.pod(host, &format!("at-{version}"));
        let conf = sample.conf(version, &pod);
        let result = sample.plugin(host).add(&pod.container, "eth0", &conf).expect_result();
        let before = host.snapshot();
        let checked = with_previous_result(&conf, &result);
        sample.plugin(host).check(&pod.container, "eth0", &checked).expect_ok();
        // It only looks.
        host.expect_unchanged(&before);
        sample.plugin(host).del(&pod.container, "eth0", &checked).expect_ok();
    }
}

fn restore_of_what_is_there_changes_nothing(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let pod = sample.pod(host, "pod");
    let result = sample.add(host, &pod);
    let conf = with_previous_result(&sample.newest_conf(host, &pod), &result).to_string();
    host.wait_for_addresses();
    pod.container.wait_for_addresses();
    let (before, inside) = (host.snapshot(), pod.container.network_snapshot());
    for _ in 0..2 {
        let restored = sample.plugin(host).send("RESTORE", &pod.container, "eth0", conf.as_bytes());
        restored.expect_ok();
        sample.expect_unchanged(host, &before);
        inside.expect_same(&pod.container.network_snapshot());
    }
}

/// The state of a host with two attachments, as lines without what differs
/// from host to host and between the two.
fn two_attached(sample: &Sample, at_once: bool) -> Vec<String> {
    Host::run(|host| {
        (sample.prepare)(host);
        let pods = ["pod-a", "pod-b"].map(|name| sample.pod(host, name));
        if at_once {
            host.parallel(2, |n| drop(sample.add(host, &pods[n])));
        } else {
            pods.iter().for_each(|pod| drop(sample.add(host, pod)));
        }
        host.wait_for_addresses();
        pods.iter().for_each(|pod| pod.container.wait_for_addresses());
        let snapshots = [
            host.snapshot(),
            pods[0].container.network_snapshot(),
            pods[1].container.network_snapshot(),
        ];
        let lines = snapshots.iter().flat_map(|snapshot| snapshot.lines());
        let lines = lines.filter(|line| !line.contains("/.oxcni/")).map(|line| erase(line));
        // The kernel gives a bridge its own address when it notices a carrier, and
        // a port without one may be too short for that.
        let mut lines: Vec<_> = lines.filter(|line| !is_the_kernels(line)).collect();
        lines.sort();
        lines
    })
}

/// A bridge's link-local address, with its routes.
fn is_the_kernels(line: &str) -> bool {
    line.contains("cni0")
        && ["<link-local>", "fe80::/64", "ff00::/8"].iter().any(|word| line.contains(word))
}

/// The line with every random word, and the names of the two containers,
/// replaced by what kind of word it is.
fn erase(line: &str) -> String {
    let mut line = line.replace("pod-a", "<pod>").replace("pod-b", "<pod>");
    // The number of a bridge's port, bare and with its priority.
    for key in [r#""designated_port":"#, r#""id":"0x"#, r#""no":"0x"#] {
        if let Some((before, after)) = line.split_once(key) {
            let rest = after.find(',').map_or("", |end| &after[end..]);
            line = format!("{before}{key}<number>{rest}");
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let mut text = String::new();
    let mut rest = line.as_str();
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        text.push_str(random_kind(word).unwrap_or(word));
        let mut chars = tail.chars();
        text.extend(chars.next());
        rest = chars.as_str();
    }
    text
}

fn random_kind(word: &str) -> Option<&'static str> {
    let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let parts: Vec<_> = word.split(':').collect();
    let is_mac = parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && is_hex(part));
    if is_mac && !word.starts_with("33:33") && !word.starts_with("ff:") {
        return Some("<mac>");
    }
    if word.starts_with("fe80::") && word.len() > "fe80::/".len() {
        return Some("<link-local>");
    }
    let random = word.strip_prefix("veth").is_some_and(|rest| rest.len() >= 8 && is_hex(rest));
    random.then_some("<veth>")
}

fn two_at_once_equal_two_in_turn(_: &Host, sample: &Sample) {
    let (in_turn, at_once) = (two_attached(sample, false), two_attached(sample, true));
    if let Some(diff) = unified_diff(&in_turn, &at_once) {
        panic!("left: in turn, right: at once\n{diff}");
    }
}

fn gc_removes_what_is_not_valid_and_no_more(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let kept = sample.pod(host, "kept");
    let result = sample.add(host, &kept);
    let lost = sample.pod(host, "lost");
    let before = host.snapshot();
    sample.add(host, &lost);
    let conf = sample.newest_conf(host, &kept);
    // The list is not known: everything may be valid.
    let with_two = host.snapshot();
    sample.plugin(host).gc(&conf).expect_ok();
    sample.expect_unchanged(host, &with_two);
    let all = json!([attachment(&kept), attachment(&lost)]);
    sample.plugin(host).gc(&valid(&conf, &all)).expect_ok();
    sample.expect_unchanged(host, &with_two);

    sample.plugin(host).gc(&valid(&conf, &json!([attachment(&kept)]))).expect_ok();
    // What only the namespace can tell apart goes with it, or by DEL.
    if sample.lives_in_the_namespace {
        sample.del(host, &lost).expect_ok();
    }
    sample.expect_unchanged(host, &before);
    let checked = with_previous_result(&conf, &result);
    sample.plugin(host).check(&kept.container, "eth0", &checked).expect_ok();
    sample.plugin(host).gc(&valid(&conf, &json!([]))).expect_ok();
    assert!(leases().is_empty(), "{:?}", leases());
}

fn attachment(pod: &Pod) -> Value {
    json!({"containerID": pod.container.id(), "ifname": "eth0"})
}

fn valid(conf: &Value, list: &Value) -> Value {
    with(conf, json!({"cni.dev/valid-attachments": list, "cni.dev/attachments": list}))
}
