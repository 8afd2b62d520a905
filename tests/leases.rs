//! `cnitool leases`: what it makes of a data directory, and what it frees there; and
//! what host-local takes over by itself.

mod healing;
mod heirs;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use crate::cnitool::{cnitool, ok};

pub(crate) fn list() -> Vec<Case> {
    let own = cases! {
        [OurPlugins, Bridge] leases_of_before_a_reboot_are_freed_unless_somebody_lives,
        [OurPlugins] without_an_index_their_time_tells,
        [OurPlugins] a_cache_that_cannot_be_read_frees_nothing,
        [OurPlugins] freeing_waits_for_the_lock_of_the_directory,
        [OurPlugins] what_is_no_lease_stays,
        [OurPlugins, PeerPlugins] the_peer_gives_what_was_freed,
    };
    [own, healing::list(), heirs::list()].into_iter().flatten().collect()
}

fn network(data_dir: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "bridge": "cni0",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/28", "dataDir": data_dir}}]})
}

/// Writes a lease as upstream's program would, made so many seconds ago.
fn lease(folder: &Path, address: &str, content: &str, age: u64) {
    fs::create_dir_all(folder).expect("a private folder");
    let file = folder.join(address);
    fs::write(&file, content).expect("our folder");
    let made = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
    let file = File::options().write(true).open(file).expect("our file");
    file.set_modified(made).expect("our file");
}

/// Longer than any machine that runs tests is up.
const LONG_AGO: u64 = 20 * 365 * 86400;

fn reboot(host: &Host) {
    host.write("/run/boot_id", "11111111-2222-3333-4444-555555555555\n");
    host.exec("mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
}

fn end_of_reboot(host: &Host) {
    host.exec("umount /proc/sys/kernel/random/boot_id");
}

/// Address and state of each row.
fn states(host: &Host, line: &str) -> Vec<(String, String)> {
    let list: Value = serde_json::from_str(&ok(host, line)).expect("JSON");
    let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let rows = list.as_array().expect("a list").iter();
    rows.map(|row| (text(row, "address"), text(row, "state"))).collect()
}

fn pairs<const N: usize>(list: [(&str, &str); N]) -> Vec<(String, String)> {
    list.map(|(address, state)| (address.to_owned(), state.to_owned())).into()
}

fn names(folder: impl Into<PathBuf>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder.into()) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("10."));
    names.sort();
    names
}

fn leases_of_before_a_reboot_are_freed_unless_somebody_lives(host: &Host) {
    let dir = "/var/lib/cni/other";
    host.write("/etc/cni/net.d/10-net.conflist", network(dir).to_string());
    let [dead, back, gone] = ["dead", "back", "gone"].map(|name| host.container(name));
    for name in ["dead", "back"] {
        ok(host, &format!("add net /run/netns/{name}"));
    }
    dead.destroy();
    reboot(host);
    let new = host.container("new");
    for name in ["gone", new.name()] {
        ok(host, &format!("add net /run/netns/{name}"));
    }
    gone.destroy();
    let all = pairs([
        ("10.1.0.2", "stale"),
        ("10.1.0.3", "in use"),
        ("10.1.0.4", "gone"),
        ("10.1.0.5", "in use"),
    ]);
    // The directory is that of the configuration, and of the cache when it is gone.
    assert_eq!(states(host, "leases --json"), all);
    host.exec("rm /etc/cni/net.d/10-net.conflist");
    assert_eq!(states(host, "leases --json net"), all);
    assert_eq!(states(host, "leases --json other"), []);
    let table = ok(host, "leases");
    let stale = table.lines().nth(1).unwrap_or_default();
    assert!(stale.starts_with("net ") && stale.ends_with("  stale"), "{table}");
    assert_eq!(states(host, "leases --json --stale"), all[..1]);
    assert_eq!(states(host, "leases --json --reconcile --dry-run"), all[..1]);
    assert_eq!(names(format!("{dir}/net")).len(), 4);
    assert_eq!(states(host, "leases --json --reconcile"), all[..1]);
    assert_eq!(states(host, "leases --json"), all[1..]);
    assert_eq!(states(host, "leases --json --reconcile"), []);
    assert_eq!(names(format!("{dir}/net")), ["10.1.0.3", "10.1.0.4", "10.1.0.5"]);
    assert!(back.link("eth0").is_some());
    end_of_reboot(host);
}

fn without_an_index_their_time_tells(host: &Host) {
    let folder = Path::new("/var/lib/cni/networks/net");
    lease(folder, "10.1.0.2", "old\r\neth0", LONG_AGO);
    lease(folder, "10.1.0.3", "new\r\neth0", 0);
    // Of before 0.8.3 of the reference plugins: without the interface.
    lease(folder, "10.1.0.4", "old", LONG_AGO);
    lease(folder, "10.1.0.5", "new", 0);
    let all = [
        ("10.1.0.2", "stale"),
        ("10.1.0.3", "unknown"),
        ("10.1.0.4", "stale"),
        ("10.1.0.5", "unknown"),
    ];
    assert_eq!(states(host, "leases --json"), pairs(all));
    ok(host, "leases --reconcile");
    assert_eq!(names(folder), ["10.1.0.3", "10.1.0.5"]);
}

fn a_cache_that_cannot_be_read_frees_nothing(host: &Host) {
    let folder = Path::new("/var/lib/cni/networks/net");
    lease(folder, "10.1.0.2", "old\r\neth0", LONG_AGO);
    lease(&folder.with_file_name("net2"), "10.2.0.2", "old\r\neth0", LONG_AGO);
    host.write("/var/lib/cni/results/net-old-eth0", "{");
    let output = cnitool(host, "leases --reconcile");
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(output.stderr.contains("nothing was freed") && output.stderr.lines().count() == 1);
    // The other network's is no matter of that file.
    assert!(output.stdout.contains("net2") && !output.stdout.contains("10.1.0.2"), "{output}");
    assert_eq!(names(folder), ["10.1.0.2"]);
    assert_eq!(names(folder.with_file_name("net2")), [""; 0]);
}

/// A verb of any program that is at work holds it, and its lease may be just
/// about to be written.
fn freeing_waits_for_the_lock_of_the_directory(host: &Host) {
    let folder = Path::new("/var/lib/cni/networks/net");
    lease(folder, "10.1.0.2", "old\r\neth0", LONG_AGO);
    let file = File::create(folder.join("lock")).expect("our folder");
    file.lock().expect("nobody has it");
    let waits = || {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("open"));
        locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&format!(":{inode} ")))
    };
    std::thread::scope(|scope| {
        let freeing = scope.spawn(|| host.parallel(1, |_| ok(host, "leases --reconcile")));
        host.wait_until("it waits for the lock", waits);
        assert_eq!(names(folder), ["10.1.0.2"]);
        file.unlock().expect("it was locked");
        freeing.join().expect("it has not failed");
    });
    assert_eq!(names(folder), [""; 0]);
}

fn what_is_no_lease_stays(host: &Host) {
    let folder = Path::new("/var/lib/cni/networks/net");
    lease(folder, "10.1.0.2", "old\r\neth0", LONG_AGO);
    fs::write(folder.join("10.1.0.3"), "").expect("our folder");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("10.1.0.4")).expect("our folder");
    fs::create_dir(folder.join("10.1.0.5")).expect("our folder");
    fs::write(folder.join("10.1.0.006"), "old\r\neth0").expect("our folder");
    let all = [
        ("10.1.0.2", "stale"),
        ("10.1.0.3", "empty"),
        ("10.1.0.4", "no lease"),
        ("10.1.0.5", "no lease"),
    ];
    assert_eq!(states(host, "leases --json"), pairs(all));
    ok(host, "leases --reconcile");
    assert_eq!(names(folder), ["10.1.0.006", "10.1.0.3", "10.1.0.4", "10.1.0.5"]);
    assert!(Path::new("/etc/passwd").exists());
}

fn the_peer_gives_what_was_freed(host: &Host) {
    let folder = Path::new("/var/lib/cni/networks/net");
    for n in 2..=14 {
        lease(folder, &format!("10.1.0.{n}"), "old\r\neth0", LONG_AGO);
    }
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "host-local",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/28"}});
    let c = host.container("c");
    host.peer("host-local").add(&c, "eth0", &conf).expect_error(999, "no IP addresses available");
    assert_eq!(ok(host, "leases --reconcile").lines().count(), 14);
    host.peer("host-local").add(&c, "eth0", &conf).expect_result();
    let ours = host.plugin("host-local").env("CNI_CONTAINERID", "other");
    ours.add(&c, "eth0", &conf).expect_result();
    assert_eq!(names(folder).len(), 2);
}
