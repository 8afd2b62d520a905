//! firewalld, the real one, on a bus of the test's own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::{OUTSIDE, Pod, firewall, outside, reaches};
use crate::chained::at;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [Bridge, Nft, Firewalld, OurPlugins] a_running_firewalld_is_told,
        [Bridge, Nft, Firewalld, OurPlugins] del_leaves_the_zone_in_every_state,
        [Bridge, Nft, Firewalld, OurPlugins] bridges_are_kept_apart_as_well,
        [Bridge, Nft, Firewalld, OurPlugins] a_zone_that_is_not_there,
        [Bridge, Nft, Firewalld, PeerPlugins, OurPlugins] upstreams_sources_are_removed,
        [Bridge, Nft, Firewalld, OurPlugins] firewalld_that_has_ended,
        [Bridge, Nft, Firewalld, OurPlugins] firewalld_that_hangs_is_left_later,
        [Bridge, Nft, Firewalld, OurPlugins] an_add_that_firewalld_does_not_answer,
    }
}

/// A program that runs until dropped.
struct Service(Child);

impl Service {
    fn start(program: &str, arguments: &[&str]) -> Service {
        // It gets this thread's namespaces.
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Service(child.unwrap_or_else(|e| panic!("start {program}: {e}")))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The system's bus of this host alone: everybody may do everything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>"#;

/// The bus, and firewalld on it.
struct Firewalld {
    firewalld: Option<Service>,
    _bus: Service,
}

impl Firewalld {
    fn start(host: &Host) -> Firewalld {
        host.install_firewalld();
        let folder = host.scratch().display().to_string();
        host.write(format!("{folder}/bus.conf"), BUS);
        host.write("/run/dbus/note", "the bus listens beside this file");
        let config = format!("--config-file={folder}/bus.conf");
        let bus = Service::start("dbus-daemon", &[&config, "--nofork", "--nopidfile"]);
        host.wait_until("the bus listens", || {
            std::os::unix::net::UnixStream::connect("/run/dbus/system_bus_socket").is_ok()
        });
        let (system, log) = (format!("{folder}/etc"), format!("{folder}/log"));
        host.write(format!("{system}/note"), "no settings");
        let firewalld = Service::start(
            "firewalld",
            &["--nofork", "--nopid", "--system-config", &system, "--log-file", &log],
        );
        host.wait_until("firewalld runs", || {
            host.try_exec("nft list table inet firewalld").success()
                && host.try_exec("firewall-cmd --state").success()
        });
        Firewalld { firewalld: Some(firewalld), _bus: bus }
    }
}

/// The sources of a zone, as firewalld says.
fn sources(host: &Host, zone: &str) -> Vec<String> {
    let text = host.exec(format!("firewall-cmd --zone={zone} --list-sources"));
    text.split_whitespace().map(str::to_owned).collect()
}

fn of(pod: &Pod) -> Vec<String> {
    vec![format!("{}/32", pod.address(0)), format!("{}/128", pod.address(1))]
}

fn a_running_firewalld_is_told(host: &Host) {
    let _firewalld = Firewalld::start(host);
    let outside = outside(host);
    let _server = outside.echo_server(7000);
    let pod = Pod::new(host, "pod", 1);
    assert!(!reaches(&pod.container, at(OUTSIDE[0], 7000)), "firewalld lets nobody through");
    // Named, and as what runs.
    for backend in ["firewalld", ""] {
        let conf = firewall(backend, 1, &json!({}));
        host.plugin("firewall").status(&conf).expect_ok();
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        assert_eq!(sources(host, "trusted"), of(&pod));
        for address in OUTSIDE {
            pod.container.tcp(at(address, 7000)).expect("let through");
        }
        pod.add(host, &conf).expect_result();
        pod.check(host, &conf).expect_ok();
        host.exec(["firewall-cmd", "--zone=trusted", "--remove-source", &of(&pod)[1]]);
        pod.check(host, &conf).expect_error(999, "is not in zone trusted");
        pod.del(host, &conf).expect_ok();
        pod.del(host, &conf).expect_ok();
        assert_eq!(sources(host, "trusted"), Vec::<String>::new());
        assert!(!host.exec("nft list ruleset").contains("cni_firewall"));
    }
}

fn del_leaves_the_zone_in_every_state(host: &Host) {
    let _firewalld = Firewalld::start(host);
    let conf = firewall("firewalld", 1, &json!({"firewalldZone": "internal"}));
    let plugin = host.plugin("firewall");
    let gc = |valid: Value| {
        let mut gc = firewall("", 1, &json!({}));
        gc["cni.dev/valid-attachments"] = valid;
        gc
    };
    for how in ["no-netns", "gone", "no-result", "renamed-zone", "renamed-backend", "gc"] {
        let (pod, keep) = (Pod::new(host, how, 1), Pod::new(host, &format!("keep-{how}"), 1));
        keep.add(host, &conf).expect_result();
        pod.add(host, &conf).expect_result();
        assert_eq!(sources(host, "internal").len(), 4);
        match how {
            "no-netns" => {
                plugin.del_without_netns(&pod.container, "eth0", &pod.conf(&conf)).expect_ok();
            }
            "gone" => {
                pod.container.destroy();
                pod.del(host, &conf).expect_ok();
            }
            "no-result" => plugin.del(&pod.container, "eth0", &conf).expect_ok(),
            "renamed-zone" => pod.del(host, &firewall("firewalld", 1, &json!({}))).expect_ok(),
            "renamed-backend" => pod.del(host, &firewall("nftables", 1, &json!({}))).expect_ok(),
            _ => {
                let keeps = json!([{"containerID": keep.container.id(), "ifname": "eth0"}]);
                plugin.gc(&gc(keeps)).expect_ok();
            }
        }
        assert_eq!(sources(host, "internal"), of(&keep), "{how}");
        keep.check(host, &conf).expect_ok();
        keep.del(host, &conf).expect_ok();
    }
}

fn bridges_are_kept_apart_as_well(host: &Host) {
    let _firewalld = Firewalld::start(host);
    let keys = json!({"ingressPolicy": "same-bridge"});
    let confs = [1, 2].map(|number| firewall("firewalld", number, &keys));
    let pods = [Pod::behind(host, "a", 1, &confs[0]), Pod::behind(host, "b", 2, &confs[1])];
    let near = Pod::behind(host, "near", 1, &confs[0]);
    assert!(near.is_reached_by(&pods[0].container, 0));
    assert!(!pods[0].is_reached_by(&pods[1].container, 0));
    pods[1].check(host, &confs[1]).expect_ok();
    pods[1].del(host, &confs[1]).expect_ok();
    let open = firewall("firewalld", 2, &json!({}));
    pods[1].add(host, &open).expect_result();
    assert!(pods[0].is_reached_by(&pods[1].container, 0));
}

fn a_zone_that_is_not_there(host: &Host) {
    let _firewalld = Firewalld::start(host);
    let pod = Pod::new(host, "pod", 1);
    let before = host.snapshot();
    for keys in [json!({}), json!({"denyCIDRs": ["198.51.100.0/24"]})] {
        let mut conf = firewall("firewalld", 1, &keys);
        conf["firewalldZone"] = "nowhere".into();
        pod.add(host, &conf).expect_error(999, "zone nowhere");
        host.expect_unchanged(&before);
    }
    // An address in another zone.
    host.exec(["firewall-cmd", "--zone=internal", "--add-source", &of(&pod)[1]]);
    let conf = firewall("firewalld", 1, &json!({}));
    pod.add(host, &conf).expect_error(999, "ZONE_CONFLICT");
    assert_eq!(sources(host, "internal"), &of(&pod)[1..]);
    assert_eq!(sources(host, "trusted"), Vec::<String>::new());
    assert!(!host.exec("nft list ruleset").contains("cni_firewall"));
}

/// Upstream records nothing: the previous result tells.
fn upstreams_sources_are_removed(host: &Host) {
    let _firewalld = Firewalld::start(host);
    let pod = Pod::new(host, "pod", 1);
    for backend in ["firewalld", ""] {
        let mut conf = firewall(backend, 1, &json!({}));
        conf["cniVersion"] = "1.0.0".into();
        let mut result = pod.result.clone();
        result["cniVersion"] = "1.0.0".into();
        let conf = testkit::with_previous_result(&conf, &result);
        host.peer("firewall").add(&pod.container, "eth0", &conf).expect_result();
        assert_eq!(sources(host, "trusted"), of(&pod));
        host.plugin("firewall").del(&pod.container, "eth0", &conf).expect_ok();
        assert_eq!(sources(host, "trusted"), Vec::<String>::new());
        // And the other way round.
        host.plugin("firewall").add(&pod.container, "eth0", &conf).expect_result();
        host.peer("firewall").check(&pod.container, "eth0", &conf).expect_ok();
        host.peer("firewall").del(&pod.container, "eth0", &conf).expect_ok();
        assert_eq!(sources(host, "trusted"), Vec::<String>::new());
        host.plugin("firewall").del(&pod.container, "eth0", &conf).expect_ok();
    }
}

/// Its sources have ended with it.
fn firewalld_that_has_ended(host: &Host) {
    let mut services = Firewalld::start(host);
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("firewalld", 1, &json!({"ingressPolicy": "isolated"}));
    pod.add(host, &conf).expect_result();
    drop(services.firewalld.take());
    host.plugin("firewall").status(&conf).expect_error(50, "start firewalld");
    pod.check(host, &conf).expect_error(999, "start firewalld");
    pod.del(host, &conf).expect_ok();
    assert!(!host.exec("nft list ruleset").contains("cni_firewall"));
    // Without the bus.
    drop(services);
    std::fs::remove_file("/run/dbus/system_bus_socket").expect("it is ours");
    pod.del(host, &conf).expect_ok();
    pod.add(host, &conf).expect_error(999, "start firewalld");
    pod.add(host, &firewall("", 1, &json!({}))).expect_result();
}

impl Firewalld {
    /// Stops it, or lets it go on.
    fn signal(&self, host: &Host, signal: &str) {
        let process = self.firewalld.as_ref().expect("it runs").0.id().to_string();
        host.exec(["kill", signal, &process]);
    }
}

/// How long a teardown may take that waits for firewalld 10 s in all, on a machine
/// with other work.
const BOUND: Duration = Duration::from_secs(20);

/// What is known of a zone stays until it was left, so that a second DEL, or GC, does
/// it; whatever the number of addresses, each waits once.
fn firewalld_that_hangs_is_left_later(host: &Host) {
    let firewalld = Firewalld::start(host);
    let conf = firewall("", 1, &json!({"firewalldZone": "internal"}));
    let other_zone = firewall("", 1, &json!({}));
    let pods = ["by-del", "by-gc"].map(|name| Pod::new(host, name, 1));
    for pod in &pods {
        pod.add(host, &conf).expect_result();
    }
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    let gc = || host.plugin("firewall").gc(&gc);
    let known = || host.exec("nft list ruleset").matches("zone: internal").count();
    let before = known();
    assert!(before >= 4, "{before}");
    firewalld.signal(host, "-STOP");
    for verb in ["DEL", "GC"] {
        let started = Instant::now();
        let outcome = if verb == "DEL" { pods[0].del(host, &conf) } else { gc() };
        let took = started.elapsed();
        outcome.expect_error(11, "from zone internal of firewalld");
        assert!(took < BOUND, "{verb} took {took:?}");
        assert_eq!(known(), before, "{verb}: {outcome}");
    }
    firewalld.signal(host, "-CONT");
    // What the configuration says now is another zone.
    pods[0].del(host, &other_zone).expect_ok();
    host.wait_until("the zone is left", || sources(host, "internal").len() <= 2);
    assert!(known() < before);
    gc().expect_ok();
    assert_eq!(sources(host, "internal"), Vec::<String>::new());
    assert_eq!(known(), 0);
}

/// It fails within a bound, and DEL finds what firewalld did after all.
fn an_add_that_firewalld_does_not_answer(host: &Host) {
    let firewalld = Firewalld::start(host);
    let pod = Pod::new(host, "pod", 1);
    let conf = firewall("firewalld", 1, &json!({}));
    firewalld.signal(host, "-STOP");
    let started = Instant::now();
    pod.add(host, &conf).expect_error(11, "addSource");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(50), "{took:?}");
    firewalld.signal(host, "-CONT");
    pod.del(host, &conf).expect_ok();
    assert_eq!(sources(host, "trusted"), Vec::<String>::new());
    assert!(!host.exec("nft list ruleset").contains("cni_firewall"));
}
