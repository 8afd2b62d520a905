//! What is not permitted: without `CAP_NET_ADMIN` no verb that has to do with the
//! packet filter does anything, and ADD nothing where another process owns the
//! table. Each says why, and nothing is half done.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, with_previous_result};

pub(crate) fn list() -> Vec<Case> {
    let mut list = Vec::new();
    for plugin in ["bridge", "portmap", "firewall"] {
        for backend in ["", "nftables", "iptables"] {
            let word = if backend.is_empty() { "none_named" } else { backend };
            let name = format!("unprivileged::{plugin}_{word}");
            let needs = [Feature::Bridge, Feature::Nft, Feature::Iptables, Feature::OurPlugins];
            list.push(Case::new(name, &needs, move |host: &Host| {
                every_verb_says_why(host, plugin, backend);
            }));
        }
    }
    list.extend(testkit::cases! {
        [Bridge, Nft, OurPlugins] a_table_that_another_process_owns,
    });
    list
}

/// A configuration that has rules made, and the valid attachments of none.
fn conf(plugin: &str, backend: &str) -> Value {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": "net", "type": plugin,
        "cni.dev/valid-attachments": [], "cni.dev/attachments": [],
    });
    let (key, more) = match plugin {
        "bridge" => ("ipMasqBackend", bridge(true)),
        "portmap" => (
            "backend",
            json!({"runtimeConfig": {"portMappings": [
                {"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"},
                {"hostPort": 18080, "containerPort": 8080, "protocol": "udp"},
            ]}}),
        ),
        _ => ("backend", json!({"ingressPolicy": "isolated"})),
    };
    for (key, value) in more.as_object().expect("keys") {
        conf[key] = value.clone();
    }
    if !backend.is_empty() {
        conf[key] = backend.into();
    }
    conf
}

fn bridge(filtered: bool) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": filtered, "macspoofchk": filtered,
        // Leases are files, which root may write all the same.
        "ipam": {"type": "static", "addresses": [
            {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            {"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"},
        ]},
    })
}

/// What the plugin stands behind.
fn prepare(host: &Host, pod: &Container, plugin: &str) -> Option<Value> {
    let add = || host.plugin("bridge").add(pod, "eth0", &bridge(false)).expect_result();
    (plugin != "bridge").then(add)
}

fn every_verb_says_why(host: &Host, plugin: &str, backend: &str) {
    const WHY: &str = "ot permitted";
    let mut conf = conf(plugin, backend);
    let pod = host.container("pod");
    if let Some(result) = prepare(host, &pod, plugin) {
        conf = with_previous_result(&conf, &result);
    }
    let (able, unable) = (host.plugin(plugin), host.plugin(plugin).without_net_admin());
    let before = host.snapshot();
    let inside = pod.network_snapshot();
    unable.add(&pod, "eth0", &conf).expect_error(999, WHY);
    host.expect_unchanged(&before);
    inside.expect_same(&pod.network_snapshot());

    let result = able.add(&pod, "eth0", &conf).expect_result();
    let conf = with_previous_result(&conf, &result);
    able.check(&pod, "eth0", &conf).expect_ok();
    let before = host.snapshot();
    unable.check(&pod, "eth0", &conf).expect_error(999, WHY);
    unable.del(&pod, "eth0", &conf).expect_error(999, WHY);
    unable.gc(&conf).expect_error(999, WHY);
    unable.status(&conf).expect_error(50, WHY);
    host.expect_unchanged(&before);
    able.check(&pod, "eth0", &conf).expect_ok();
    able.del(&pod, "eth0", &conf).expect_ok();
}

/// `nft -i` with a table of each of our names, which are its own as long as it
/// runs.
pub(crate) struct TableOwner(Child);

impl TableOwner {
    pub(crate) fn start(host: &Host) -> TableOwner {
        const TABLES: [&str; 4] =
            ["ip cni_hostport", "inet cni_firewall", "inet cni_plugins_masquerade", "bridge nat"];
        let mut nft = Command::new("nft");
        nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut owner = TableOwner(host.within(|| nft.spawn()).expect("nft is installed"));
        let stdin = owner.0.stdin.as_mut().expect("it is piped");
        for table in TABLES {
            writeln!(stdin, "add table {table} {{ flags owner ; }}").expect("nft reads");
        }
        let give_up = Instant::now() + Duration::from_secs(20);
        while host.exec("nft list tables").lines().count() < TABLES.len() {
            assert!(Instant::now() < give_up, "nft makes no tables");
            std::thread::yield_now();
        }
        owner
    }
}

impl Drop for TableOwner {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn a_table_that_another_process_owns(host: &Host) {
    let _owner = TableOwner::start(host);
    for plugin in ["bridge", "portmap", "firewall"] {
        for backend in ["", "nftables"] {
            let pod = host.container(&format!("{plugin}{backend}"));
            let mut conf = conf(plugin, backend);
            if let Some(result) = prepare(host, &pod, plugin) {
                conf = with_previous_result(&conf, &result);
            }
            let before = host.snapshot();
            host.plugin(plugin).add(&pod, "eth0", &conf).expect_error(999, "owns the table");
            host.expect_unchanged_but(&before, &["/run/netns"]);
            host.plugin(plugin).gc(&conf).expect_ok();
            host.plugin(plugin).del(&pod, "eth0", &conf).expect_ok();
            host.plugin("bridge").del(&pod, "eth0", &bridge(false)).expect_ok();
        }
    }
}
