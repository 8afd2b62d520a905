//! The locks of network namespaces: nobody but root can take them; who keeps one
//! is named by an ADD, and keeps no DEL and no GC from ending.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Outcome, cases, with_previous_result};

use crate::conf::{fixed, of_type, with};
use crate::state::behind_a_bridge;

const DIRECTORY: &str = "/run/cni/oxcni/locks";

/// Less than anybody who waits for a lock does.
const AT_ONCE: Duration = Duration::from_secs(4);

/// More than a DEL or a GC waits for all locks, and less than it would for two.
const ONCE_IN_ALL: Duration = Duration::from_secs(9);

pub(crate) fn list() -> Vec<Case> {
    cases! {
        [RealRoot, Bridge, OurPlugins] an_ordinary_user_stops_no_bridge,
        [RealRoot, Bridge, Iptables, OurPlugins] an_ordinary_user_stops_no_iptables,
        [RealRoot, Macvlan, OurPlugins] an_ordinary_user_stops_no_shim,
        [RealRoot, Bridge, OurPlugins] an_ordinary_user_stops_no_sbr,
        [Bridge, OurPlugins] a_frozen_holder_stops_sbr_adds_only,
        [Bridge, OurPlugins] a_frozen_holder_stops_bridge_adds_only,
        [Bridge, Iptables, OurPlugins] a_frozen_holder_stops_no_del_with_iptables,
        [Macvlan, OurPlugins] a_frozen_holder_stops_shim_adds_only,
        [Vrf, Bridge, OurPlugins] a_frozen_holder_stops_vrf_adds_only,
        [Bridge, OurPlugins] without_a_place_for_locks_add_is_refused,
        [Bridge, Iptables, OurPlugins] without_a_place_for_locks_no_rule_of_iptables_is_added,
        [Bridge, Iptables, OurPlugins] without_a_place_for_locks_del_with_iptables_works,
        [Macvlan, OurPlugins] without_a_place_for_locks_a_shim_can_be_left,
        [Bridge, OurPlugins] lock_files_are_roots_and_few,
    }
}

/// A process that has the lock of a file and does nothing more.
struct Holder(Child);

impl Holder {
    /// Root's, stopped, on a file that is made where it is missing.
    fn frozen(host: &Host, path: &str) -> Holder {
        host.exec(format!("mkdir -p -m 700 {DIRECTORY}"));
        let holder = Holder::start(host, Command::new("flock").arg(path));
        host.exec(format!("kill -STOP {}", holder.0.id()));
        holder
    }

    /// Of a user without any capability, on what anybody can open.
    fn ordinary(host: &Host, path: &str) -> Holder {
        let mut setpriv = Command::new("setpriv");
        let words = "--reuid 65534 --regid 65534 --clear-groups --no-new-privs \
            --bounding-set -all --inh-caps -all flock -x";
        Holder::start(host, setpriv.args(words.split_whitespace()).arg(path))
    }

    fn start(host: &Host, flock: &mut Command) -> Holder {
        flock.args(["sh", "-c", "echo locked; read -r end"]);
        flock.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = host.within(|| flock.spawn()).expect("util-linux is installed");
        let mut said = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut said).expect("readable");
        assert_eq!(said, "locked\n");
        Holder(child)
    }

    fn is_named_in(&self) -> String {
        format!("still held by process {} (flock)", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its child ends with its input.
        drop(self.0.kill());
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

fn hosts_lock() -> String {
    let metadata = fs::metadata("/proc/thread-self/ns/net").expect("/proc is mounted");
    format!("{DIRECTORY}/host-{}-{}", metadata.dev(), metadata.ino())
}

fn containers_lock(container: &Container) -> String {
    let inode = fs::metadata(container.path()).expect("it is there").ino();
    format!("{DIRECTORY}/container-{}", inode % 256)
}

#[track_caller]
fn within<T>(limit: Duration, act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let outcome = act();
    let took = begin.elapsed();
    assert!(took < limit, "it took {took:?}");
    outcome
}

/// ADD gives up within a bound, with "try again" and the holder's name, and leaves
/// nothing; afterwards it works.
#[track_caller]
fn expect_a_bound(host: &Host, lock: &str, add: impl Fn() -> Outcome, unchanged: &Container) {
    let holder = Holder::frozen(host, lock);
    let inside = unchanged.network_snapshot();
    let before = host.snapshot();
    let outcome = within(Duration::from_secs(30), &add);
    outcome.expect_error(11, &holder.is_named_in());
    outcome.expect_error(11, lock);
    inside.expect_same(&unchanged.network_snapshot());
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    drop(holder);
    host.wait_until("the lock is free", || host.try_exec(["flock", "-n", lock, "true"]).success());
    add().expect_result();
}

fn nothing_valid(conf: &Value) -> Value {
    let none = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": []});
    with(&with(conf, json!({"cniVersion": "1.1.0"})), none)
}

fn on_bridge(host: &Host) -> Value {
    of_type(host, "bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}))
}

fn with_shim(host: &Host) -> Value {
    let keys = json!({"master": "uplink", "hostShim": true, "ipam": fixed(&["192.0.2.10/24"])});
    with(&of_type(host, "macvlan", json!({})), keys)
}

/// The container behind a bridge, and a configuration chained to that.
fn chained(host: &Host, pod: &Container, kind: &str, keys: Value) -> Value {
    with_previous_result(&of_type(host, kind, keys), &behind_a_bridge(host, pod))
}

fn by_iptables(host: &Host, pod: &Container) -> Value {
    let conf = chained(host, pod, "firewall", json!({"backend": "iptables"}));
    host.plugin("firewall").add(pod, "eth0", &conf).expect_result();
    assert!(host.exec("iptables-save").contains("10.1.0.2"));
    conf
}

#[track_caller]
fn expect_no_rule_of_iptables(host: &Host) {
    let rules = host.exec("iptables-save");
    assert!(!rules.contains("10.1.0.2"), "{rules}");
}

fn an_ordinary_user_stops_no_bridge(host: &Host) {
    let pod = host.container("pod");
    let _holder = Holder::ordinary(host, "/proc/self/ns/net");
    let conf = on_bridge(host);
    within(AT_ONCE, || host.plugin("bridge").add(&pod, "eth0", &conf)).expect_result();
    within(AT_ONCE, || host.plugin("bridge").del(&pod, "eth0", &conf)).expect_ok();
}

fn an_ordinary_user_stops_no_iptables(host: &Host) {
    let (pod, other) = (host.container("pod"), host.container("other"));
    let _holder = Holder::ordinary(host, "/proc/self/ns/net");
    let conf = within(AT_ONCE, || by_iptables(host, &pod));
    within(AT_ONCE, || host.plugin("firewall").del(&pod, "eth0", &conf)).expect_ok();
    expect_no_rule_of_iptables(host);
    let conf = by_iptables(host, &other);
    within(AT_ONCE, || host.plugin("firewall").gc(&nothing_valid(&conf))).expect_ok();
    expect_no_rule_of_iptables(host);
}

fn an_ordinary_user_stops_no_shim(host: &Host) {
    drop(host.outside());
    let pod = host.container("pod");
    let conf = with_shim(host);
    let _holder = Holder::ordinary(host, "/proc/self/ns/net");
    within(AT_ONCE, || host.plugin("macvlan").add(&pod, "eth0", &conf)).expect_result();
    let shims = || host.exec("ip -o link show type macvlan");
    assert!(shims().contains("shim"));
    within(AT_ONCE, || host.plugin("macvlan").del(&pod, "eth0", &conf)).expect_ok();
    assert_eq!(shims(), "");
}

fn an_ordinary_user_stops_no_sbr(host: &Host) {
    let pods = ["one", "two"].map(|name| host.container(name));
    let _holders =
        [&pods[0], &pods[1]].map(|pod| Holder::ordinary(host, &pod.path().display().to_string()));
    let confs = [&pods[0], &pods[1]].map(|pod| chained(host, pod, "sbr", json!({})));
    let sbr = || host.plugin("sbr");
    for (pod, conf) in pods.iter().zip(&confs) {
        within(AT_ONCE, || sbr().add(pod, "eth0", conf)).expect_result();
    }
    within(AT_ONCE, || sbr().del(&pods[0], "eth0", &confs[0])).expect_ok();
    within(AT_ONCE, || sbr().gc(&nothing_valid(&confs[1]))).expect_ok();
    for pod in &pods {
        assert_eq!(rules_by_source(pod), 0);
    }
}

fn rules_by_source(pod: &Container) -> usize {
    pod.exec("ip rule").lines().filter(|line| line.contains("10.1.0.2")).count()
}

fn a_frozen_holder_stops_sbr_adds_only(host: &Host) {
    let pods = ["pod", "one", "two"].map(|name| host.container(name));
    let confs = [&pods[0], &pods[1], &pods[2]].map(|pod| chained(host, pod, "sbr", json!({})));
    let locks = [&pods[0], &pods[1], &pods[2]].map(containers_lock);
    let sbr = || host.plugin("sbr");
    expect_a_bound(host, &locks[0], || sbr().add(&pods[0], "eth0", &confs[0]), &pods[0]);
    for n in [1, 2] {
        sbr().add(&pods[n], "eth0", &confs[n]).expect_result();
    }
    let holders = [&locks[0], &locks[1], &locks[2]].map(|lock| Holder::frozen(host, lock));
    let told = within(ONCE_IN_ALL, || sbr().del(&pods[0], "eth0", &confs[0]));
    told.expect_ok();
    assert!(told.stderr().contains(&holders[0].is_named_in()), "{}", told.stderr());
    let told = within(ONCE_IN_ALL, || sbr().gc(&nothing_valid(&confs[1])));
    told.expect_ok();
    for n in [1, 2] {
        assert!(told.stderr().contains(&holders[n].is_named_in()), "{}", told.stderr());
    }
    for pod in &pods {
        assert_eq!(rules_by_source(pod), 0);
    }
}

fn a_frozen_holder_stops_vrf_adds_only(host: &Host) {
    let pod = host.container("pod");
    let conf = chained(host, &pod, "vrf", json!({"vrfname": "blue"}));
    let lock = containers_lock(&pod);
    expect_a_bound(host, &lock, || host.plugin("vrf").add(&pod, "eth0", &conf), &pod);
    let _holder = Holder::frozen(host, &lock);
    within(ONCE_IN_ALL, || host.plugin("vrf").del(&pod, "eth0", &conf)).expect_ok();
}

/// Those who are about to make a bridge's port only share it, so the holder has
/// to be one who removes a bridge.
fn a_frozen_holder_stops_bridge_adds_only(host: &Host) {
    let pod = host.container("pod");
    let conf = on_bridge(host);
    let bridge = || host.plugin("bridge");
    bridge().add(&pod, "eth0", &conf).expect_result();
    bridge().del(&pod, "eth0", &conf).expect_ok();
    expect_a_bound(host, &hosts_lock(), || bridge().add(&pod, "eth0", &conf), &pod);
    let _holder = Holder::frozen(host, &hosts_lock());
    within(AT_ONCE, || bridge().del(&pod, "eth0", &conf)).expect_ok();
    within(AT_ONCE, || bridge().gc(&nothing_valid(&conf))).expect_ok();
}

fn a_frozen_holder_stops_no_del_with_iptables(host: &Host) {
    let (pod, other) = (host.container("pod"), host.container("other"));
    let conf = by_iptables(host, &pod);
    let frozen = Holder::frozen(host, &hosts_lock());
    let told = within(ONCE_IN_ALL, || host.plugin("firewall").del(&pod, "eth0", &conf));
    told.expect_ok();
    assert!(told.stderr().contains(&frozen.is_named_in()), "{}", told.stderr());
    expect_no_rule_of_iptables(host);
    drop(frozen);
    let conf = by_iptables(host, &other);
    let _frozen = Holder::frozen(host, &hosts_lock());
    within(ONCE_IN_ALL, || host.plugin("firewall").gc(&nothing_valid(&conf))).expect_ok();
    expect_no_rule_of_iptables(host);
}

fn a_frozen_holder_stops_shim_adds_only(host: &Host) {
    drop(host.outside());
    let pod = host.container("pod");
    let conf = with_shim(host);
    let macvlan = || host.plugin("macvlan");
    expect_a_bound(host, &hosts_lock(), || macvlan().add(&pod, "eth0", &conf), &pod);
    let frozen = Holder::frozen(host, &hosts_lock());
    within(ONCE_IN_ALL, || macvlan().del(&pod, "eth0", &conf)).expect_ok();
    let shims = || host.exec("ip -o link show type macvlan");
    assert_eq!(shims(), "");
    drop(frozen);
    macvlan().add(&pod, "eth0", &conf).expect_result();
    let _frozen = Holder::frozen(host, &hosts_lock());
    within(ONCE_IN_ALL, || macvlan().gc(&nothing_valid(&conf))).expect_ok();
    assert!(!shims().contains("shim"));
}

/// Nothing can be written where the locks are.
const HINDRANCES: [(&str, &str); 2] =
    [("ro", "read-only file system"), ("nr_inodes=1", "no space left on device")];

fn hinder(host: &Host, options: &str) {
    host.exec(format!("mkdir -p -m 700 {DIRECTORY}"));
    host.exec(format!("mount -t tmpfs -o {options} tmpfs {DIRECTORY}"));
}

fn unhinder(host: &Host) {
    host.exec(format!("umount {DIRECTORY}"));
}

fn without_a_place_for_locks_add_is_refused(host: &Host) {
    let pod = host.container("pod");
    let conf = with(&on_bridge(host), json!({"cniVersion": "1.1.0"}));
    let bridge = || host.plugin("bridge");
    bridge().status(&conf).expect_ok();
    for (options, why) in HINDRANCES {
        hinder(host, options);
        let before = host.snapshot();
        let told = bridge().add(&pod, "eth0", &conf);
        told.expect_error(5, why);
        told.expect_error(5, &format!("join the bridge: lock {}", hosts_lock()));
        host.expect_unchanged(&before);
        bridge().del(&pod, "eth0", &conf).expect_ok();
        bridge().status(&conf).expect_error(50, why);
        unhinder(host);
    }
    bridge().add(&pod, "eth0", &conf).expect_result();
    // Who has a lock file once needs no room for it.
    host.exec(format!("mount --bind {DIRECTORY} {DIRECTORY}"));
    host.exec(format!("mount -o remount,ro,bind {DIRECTORY}"));
    bridge().status(&conf).expect_ok();
    bridge().del(&pod, "eth0", &conf).expect_ok();
    bridge().add(&pod, "eth0", &conf).expect_result();
    unhinder(host);
}

/// Masquerading has no shared rules, and so no lock; the bridge has one.
fn without_a_place_for_locks_no_rule_of_iptables_is_added(host: &Host) {
    let pods = ["behind", "alone"].map(|name| host.container(name));
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
    let keys = json!({"backend": "iptables", "runtimeConfig": {"portMappings": [mapping]}});
    let result = behind_a_bridge(host, &pods[0]);
    let behind = |plugin| with_previous_result(&of_type(host, plugin, keys.clone()), &result);
    let masquerading = json!({"ipMasq": true, "ipMasqBackend": "iptables"});
    for (options, why) in HINDRANCES {
        hinder(host, options);
        let before = host.snapshot();
        for (plugin, pod, conf, doing) in [
            ("firewall", &pods[0], behind("firewall"), "change rules of iptables"),
            ("portmap", &pods[0], behind("portmap"), "change rules of iptables"),
            ("bridge", &pods[1], with(&on_bridge(host), masquerading.clone()), "join the bridge"),
        ] {
            let told = host.plugin(plugin).add(pod, "eth0", &conf);
            let msg = format!("{doing}: lock {}: {why}", hosts_lock());
            told.expect_error(5, &msg);
            assert_eq!(told.document()["msg"], msg, "{told}");
            host.expect_unchanged(&before);
        }
        unhinder(host);
    }
}

fn without_a_place_for_locks_del_with_iptables_works(host: &Host) {
    for (n, (options, why)) in HINDRANCES.into_iter().enumerate() {
        let pod = host.container(&format!("pod{n}"));
        let conf = by_iptables(host, &pod);
        hinder(host, options);
        let told = within(AT_ONCE, || host.plugin("firewall").del(&pod, "eth0", &conf));
        told.expect_ok();
        assert!(told.stderr().contains(why), "{}", told.stderr());
        expect_no_rule_of_iptables(host);
        host.plugin("firewall").add(&pod, "eth0", &conf).expect_error(5, why);
        expect_no_rule_of_iptables(host);
        unhinder(host);
    }
}

fn without_a_place_for_locks_a_shim_can_be_left(host: &Host) {
    drop(host.outside());
    let pod = host.container("pod");
    let conf = with_shim(host);
    let macvlan = || host.plugin("macvlan");
    for (options, why) in HINDRANCES {
        macvlan().add(&pod, "eth0", &conf).expect_result();
        hinder(host, options);
        within(AT_ONCE, || macvlan().del(&pod, "eth0", &conf)).expect_ok();
        assert_eq!(host.exec("ip -o link show type macvlan"), "");
        macvlan().add(&pod, "eth0", &conf).expect_error(5, why);
        assert_eq!(host.exec("ip -o link show type macvlan"), "");
        unhinder(host);
    }
}

fn lock_files_are_roots_and_few(host: &Host) {
    for n in 0..3 {
        let pod = host.container(&format!("pod{n}"));
        let conf = chained(host, &pod, "sbr", json!({}));
        host.plugin("sbr").add(&pod, "eth0", &conf).expect_result();
        host.plugin("sbr").del(&pod, "eth0", &conf).expect_ok();
    }
    let mode = |path: &str| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(DIRECTORY), 0o700);
    let files = host.files(DIRECTORY);
    assert!((2..=4).contains(&files.len()), "{files:?}");
    for name in files {
        let path = if name.starts_with('/') { name } else { format!("{DIRECTORY}/{name}") };
        assert_eq!((mode(&path), fs::read(&path).expect("root's")), (0o600, Vec::new()), "{path}");
    }
}
