//! Our plugins under a runtime that others wrote: podman with its CNI backend and
//! runc. Its storage, configuration and networks are the test's own; the
//! containers' cgroups are below a folder of the test's own.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{Case, Host, Netns, Output, cases, plugins_folder};

use crate::conf;

pub(crate) fn list() -> Vec<Case> {
    cases! {
        [Podman, Bridge, Nft, Shaping, Ifb, Ping] containers_talk_and_publish_ports_0_4_0,
        [Podman, Bridge, Nft, Shaping, Ifb, Ping] containers_talk_and_publish_ports_1_0_0,
        [Podman, Bridge, Nft, Shaping, Ifb] networks_are_connected_and_disconnected,
        [Podman, Bridge, Nft, Shaping, Ifb] ports_are_published_on_two_networks,
        [Podman, Bridge, Nft, Shaping, Ifb] a_container_stops_starts_and_goes_without_a_trace,
        [Podman, Bridge, Nft, Shaping, Ifb] one_that_dies_leaves_nothing,
    }
}

/// The runtime, with an image of a static busybox. Ends all containers when it is
/// dropped, whatever became of the test.
struct Podman<'h> {
    host: &'h Host,
    folder: &'static Path,
    /// Of the containers, below each of the hierarchies.
    cgroup: String,
    hierarchies: Vec<PathBuf>,
}

/// What the image can do.
const APPLETS: [&str; 5] = ["hostname", "httpd", "ip", "ping", "sh"];

/// A container's own page, so that it is known who answered.
const SERVE: &str = "hostname >/index.html && exec httpd -f -p 80 -h /";

impl<'h> Podman<'h> {
    /// With these networks, by name.
    fn new(host: &'h Host, networks: &[(&str, Value)]) -> Self {
        // A cache of images' parts goes there whatever --root says.
        host.hide("/var/lib/containers");
        // A gateway whose address is still being checked would be taken for a change.
        host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
        let folder = host.scratch();
        let test = std::thread::current().name().unwrap_or("podman").replace("::", "-");
        let cgroup = format!("/oxcni-test-{}-{test}", std::process::id());
        let podman = Self { host, folder, cgroup, hierarchies: host.mount_cgroups() };
        for (name, plugins) in networks {
            podman.write(&format!("net.d/{name}.conflist"), plugins.to_string());
        }
        let at = |name: &str| folder.join(name).display().to_string();
        podman.write(
            "containers.conf",
            format!(
                "[containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = []\n\
                 [network]\nnetwork_backend = \"cni\"\n\
                 cni_plugin_dirs = [\"{}\"]\nnetwork_config_dir = \"{}\"\n\
                 [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
                 events_logger = \"none\"\nlock_type = \"file\"\n",
                plugins_folder().display(),
                at("net.d"),
            ),
        );
        // No registry is asked: the image is a folder.
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            podman.write(&format!("image/{name}/.kept"), "");
        }
        let busybox = fs::read("/usr/bin/busybox").or_else(|_| fs::read("/bin/busybox"));
        podman.write("image/bin/busybox", busybox.expect("Feature::Podman has seen it"));
        host.exec(["chmod", "755", &at("image/bin/busybox")]);
        for applet in APPLETS {
            host.exec(["ln", "-s", "busybox", &at(&format!("image/bin/{applet}"))]);
        }
        host.exec(["tar", "-C", &at("image"), "-cf", &at("image.tar"), "."]);
        podman.run(&["import", &at("image.tar"), "busybox"]);
        podman
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        self.host.write(self.folder.join(name), content);
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut words = vec!["env".to_owned(), "-u".to_owned(), "XDG_RUNTIME_DIR".to_owned()];
        for (name, value) in
            [("CONTAINERS_CONF", "containers.conf"), ("HOME", "home"), ("TMPDIR", "tmp")]
        {
            words.push(format!("{name}={}", at(value)));
        }
        self.host.exec(["mkdir", "-p", &at("home"), &at("tmp")]);
        words.push("podman".to_owned());
        for (option, value) in [("--root", "root"), ("--runroot", "state"), ("--tmpdir", "tmp")] {
            words.extend([option.to_owned(), at(value)]);
        }
        words.extend(["--storage-driver", "vfs"].map(str::to_owned));
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.host.try_exec(words)
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).expect_success()
    }

    /// Starts a container that serves its name, with more options.
    #[track_caller]
    fn serve(&self, name: &str, options: &[&str]) {
        let mut words = vec!["run", "--detach", "--name", name, "--hostname", name];
        words.extend(["--cgroup-parent", &self.cgroup]);
        words.extend(options);
        words.extend(["busybox", "sh", "-c", SERVE]);
        self.run(&words);
        self.host.wait_until("the container serves", || {
            self.fetch(name, "127.0.0.1:80").as_deref() == Some(name)
        });
    }

    /// A command in a container.
    fn inside(&self, container: &str, command: &str) -> Output {
        let mut words = vec!["exec", container];
        words.extend(command.split_whitespace());
        self.try_run(&words)
    }

    /// What a container gets from a server.
    fn fetch(&self, container: &str, server: &str) -> Option<String> {
        answer(self.inside(container, &wget(server)))
    }

    /// A container's address on a network.
    #[track_caller]
    fn address(&self, container: &str, network: &str) -> String {
        let settings = self.settings(container);
        let of = &settings["Networks"][network]["IPAddress"];
        of.as_str().expect("an address").to_owned()
    }

    #[track_caller]
    fn settings(&self, container: &str) -> Value {
        let text = self.run(&["inspect", container]);
        let mut document: Value = serde_json::from_str(&text).expect("one document");
        document[0]["NetworkSettings"].take()
    }

    #[track_caller]
    fn remove(&self, container: &str) {
        self.run(&["rm", "--force", "--time", "0", container]);
    }

    /// The cgroups that the containers were in.
    fn cgroups(&self) -> Vec<PathBuf> {
        let own = self.hierarchies.iter().map(|folder| folder.join(&self.cgroup[1..]));
        own.filter(|folder| folder.is_dir()).collect()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let gone = self.try_run(&["rm", "--all", "--force", "--time", "0"]);
        // The last processes leave a little later. Deepest first; a cgroup's files
        // go with it.
        let waited = catch_unwind(AssertUnwindSafe(|| {
            self.host.wait_until("the containers' cgroups are gone", || {
                for folder in self.cgroups() {
                    let folder = folder.display().to_string();
                    let words = ["find", &folder, "-depth", "-type", "d", "-exec", "rmdir"];
                    let _ = self.host.try_exec([&words[..], &["{}", ";"]].concat().as_slice());
                }
                self.cgroups().is_empty()
            });
        }));
        if !std::thread::panicking() {
            assert!(gone.success() && waited.is_ok(), "{gone}\n{:?}", self.cgroups());
        }
    }
}

/// What a place gets from a server.
fn fetch(from: &impl Netns, server: &str) -> Option<String> {
    answer(from.try_exec(wget(server)))
}

/// Bounded from without: with a bound of its own Debian's static wget crashes.
fn wget(server: &str) -> String {
    format!("busybox timeout 3 busybox wget -q -O - http://{server}/")
}

/// `None` where nobody answered.
fn answer(output: Output) -> Option<String> {
    output.success().then(|| output.stdout.trim().to_owned())
}

/// A chain as podman's own, of both families, on a bridge of its own.
fn chain(version: &str, number: u8) -> Value {
    json!({"cniVersion": version, "name": format!("net{number}"), "plugins": [
        {"type": "bridge", "bridge": format!("cni{number}"), "isGateway": true, "ipMasq": true,
            "hairpinMode": true, "ipam": conf::leased(
                &[&format!("10.{number}.0.0/24"), &format!("2001:db8:{number}::/64")])},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"},
        {"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
            "egressRate": 80_000_000, "egressBurst": 8_000_000},
        {"type": "tuning", "mtu": 1400, "sysctl": {"net.core.somaxconn": "500"}},
    ]})
}

fn containers_talk_and_publish_ports_0_4_0(host: &Host) {
    containers_talk_and_publish_ports(host, "0.4.0");
}

fn containers_talk_and_publish_ports_1_0_0(host: &Host) {
    containers_talk_and_publish_ports(host, "1.0.0");
}

fn containers_talk_and_publish_ports(host: &Host, version: &str) {
    let outside = host.outside();
    let podman = Podman::new(host, &[("net1", chain(version, 1))]);
    podman.serve("web", &["--network", "net1", "--publish", "8080:80"]);
    podman.serve("client", &["--network", "net1"]);
    let web = podman.address("web", "net1");
    for (from, to) in [("client", &web), ("web", &podman.address("client", "net1"))] {
        let ping = podman.inside(from, &format!("ping -c 1 -W 5 {to}"));
        assert!(ping.success(), "{ping}");
    }
    // Masqueraded, since outside knows no way back.
    let out = podman.inside("client", "ping -c 1 -W 5 192.0.2.2");
    assert!(out.success(), "{out}");

    assert_eq!(fetch(&outside, "192.0.2.1:8080").as_deref(), Some("web"));
    assert_eq!(fetch(&outside, "[2001:db8:ffff::1]:8080").as_deref(), Some("web"));
    for server in ["127.0.0.1:8080", "192.0.2.1:8080", "10.1.0.1:8080", &format!("{web}:80")] {
        assert_eq!(fetch(host, server).as_deref(), Some("web"), "{server}");
    }
    for from in ["web", "client"] {
        for server in ["192.0.2.1:8080", "10.1.0.1:8080"] {
            assert_eq!(podman.fetch(from, server).as_deref(), Some("web"), "{from} {server}");
        }
    }
    assert_eq!(fetch(&outside, "192.0.2.1:80"), None);
}

fn networks_are_connected_and_disconnected(host: &Host) {
    let podman = Podman::new(host, &[("net1", chain("1.0.0", 1)), ("net2", chain("1.0.0", 2))]);
    podman.serve("web", &["--network", "net2"]);
    podman.serve("client", &["--network", "net1"]);
    let before = host.snapshot();
    for _ in 0..2 {
        podman.run(&["network", "connect", "net2", "client"]);
        let address = podman.address("client", "net2");
        let shown = podman.inside("client", "ip -4 address show dev eth1").expect_success();
        assert!(shown.contains(&address), "{shown}");
        let web = podman.address("web", "net2");
        assert_eq!(podman.fetch("client", &format!("{web}:80")).as_deref(), Some("web"));
        podman.run(&["network", "disconnect", "net2", "client"]);
        assert!(!podman.inside("client", "ip link show dev eth1").success());
        expect_unchanged(host, &before);
    }
    podman.run(&["network", "disconnect", "net1", "client"]);
    assert!(!podman.inside("client", "ip link show dev eth0").success());
    podman.run(&["network", "connect", "net1", "client"]);
    assert!(podman.inside("client", "ip link show dev eth0").success());
}

/// podman gives each network of a container all of its ports.
fn ports_are_published_on_two_networks(host: &Host) {
    let podman = Podman::new(host, &[("net1", chain("1.0.0", 1)), ("net2", chain("1.0.0", 2))]);
    let come = || podman.serve("web", &["--network", "net1,net2", "--publish", "8080:80"]);
    let answers = || fetch(host, "192.0.2.1:8080").as_deref() == Some("web");
    let _outside = host.outside();
    // What is shared and stays is there afterwards.
    come();
    podman.remove("web");
    let before = host.snapshot();
    come();
    assert!(answers(), "on both");
    for network in ["net1", "net2"] {
        podman.run(&["network", "disconnect", network, "web"]);
        assert!(answers(), "without {network}");
        podman.run(&["network", "connect", network, "web"]);
        assert!(answers(), "with {network} again");
    }
    podman.remove("web");
    assert!(!answers());
    expect_unchanged(host, &before);
}

fn a_container_stops_starts_and_goes_without_a_trace(host: &Host) {
    let podman = Podman::new(host, &[("net1", chain("1.0.0", 1))]);
    let come = || podman.serve("web", &["--network", "net1", "--publish", "8080:80"]);
    // What is shared and stays is there afterwards.
    come();
    podman.remove("web");
    let before = host.snapshot();
    for _ in 0..2 {
        come();
        assert_eq!(fetch(host, "127.0.0.1:8080").as_deref(), Some("web"));
        podman.run(&["stop", "--time", "0", "web"]);
        assert_eq!(fetch(host, "127.0.0.1:8080"), None);
        expect_unchanged(host, &before);
        podman.run(&["start", "web"]);
        host.wait_until("it serves again", || {
            fetch(host, "127.0.0.1:8080").as_deref() == Some("web")
        });
        podman.remove("web");
        expect_unchanged(host, &before);
    }
}

/// conmon sees the end and has podman call DEL, behind everybody's back.
fn one_that_dies_leaves_nothing(host: &Host) {
    let podman = Podman::new(host, &[("net1", chain("1.0.0", 1))]);
    let come = || podman.serve("web", &["--network", "net1", "--publish", "8080:80"]);
    come();
    podman.remove("web");
    let before = host.snapshot();
    come();
    podman.run(&["kill", "--signal", "KILL", "web"]);
    expect_unchanged(host, &before);
    podman.remove("web");
    expect_unchanged(host, &before);
}

/// But for the last address that was leased.
#[track_caller]
fn expect_unchanged(host: &Host, before: &testkit::Snapshot) {
    host.expect_unchanged_but(before, &["/last_reserved_ip.", "/.oxcni/"]);
}
