//! When things go wrong: killed processes, full disks, stuck locks, planted
//! files.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Case, Host, Netns as _, cases, with_previous_result};

use super::{DATA, addresses, dual, leases, network, path, v4};
use crate::conf::with;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [OurPlugins, Strace] an_add_killed_anywhere_leaves_nothing_after_del,
        [OurPlugins, Strace] a_del_killed_anywhere_can_be_repeated,
        [OurPlugins, Strace] a_disk_that_fills_at_any_call_leaks_nothing,
        [OurPlugins] a_full_disk_is_told_and_leaks_nothing,
        [OurPlugins] what_the_last_files_are_enough_for_is_told,
        [OurPlugins] a_read_only_disk_is_told,
        [OurPlugins] a_frozen_holder_of_the_lock_is_named,
        [OurPlugins] a_lock_given_back_in_time_is_taken,
        [OurPlugins] what_is_planted_is_not_followed,
        [OurPlugins] a_link_planted_by_another_user_is_refused,
    }
}

/// The calls by which host-local changes anything.
const CHANGES: &str = "mkdir,mkdirat,openat,write,pwrite64,linkat,ftruncate,utimensat,unlinkat";

fn an_add_killed_anywhere_leaves_nothing_after_del(host: &Host) {
    let (c, other) = (host.container("c"), host.container("other"));
    let plugin = host.plugin("host-local");
    plugin.add(&other, "eth0", &dual()).expect_result();
    let mut killed = 0;
    loop {
        let outcome = plugin.clone().kill_at_call(CHANGES, killed + 1).add(&c, "eth0", &dual());
        if !outcome.fault_fired() {
            outcome.expect_result();
            break;
        }
        killed += 1;
        plugin.del(&c, "eth0", &dual()).expect_ok();
        assert_eq!(leases(host).len(), 2, "only the other's, after {killed} calls\n{outcome}");
        plugin.add(&c, "eth0", &dual()).expect_result();
        plugin.del(&c, "eth0", &dual()).expect_ok();
    }
    host.note(format!("killed {killed} times"));
    assert!(killed > 10, "{killed} calls");
    for container in [&c, &other] {
        plugin.del(container, "eth0", &dual()).expect_ok();
    }
    assert_eq!(leases(host), [""; 0]);
}

fn a_del_killed_anywhere_can_be_repeated(host: &Host) {
    let (c, other) = (host.container("c"), host.container("other"));
    let plugin = host.plugin("host-local");
    plugin.add(&other, "eth0", &dual()).expect_result();
    for nth in 1.. {
        plugin.add(&c, "eth0", &dual()).expect_result();
        let outcome = plugin.clone().kill_at_call(CHANGES, nth).del(&c, "eth0", &dual());
        plugin.del(&c, "eth0", &dual()).expect_ok();
        assert_eq!(leases(host).len(), 2, "only the other's, at call {nth}\n{outcome}");
        if !outcome.fault_fired() {
            assert!(nth > 8, "{nth} calls");
            break;
        }
    }
}

fn a_disk_that_fills_at_any_call_leaks_nothing(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    // What goes to stdout is no file's.
    let calls = CHANGES.replace("write,pwrite64", "pwrite64").replace(",unlinkat", "");
    let mut refused = 0;
    for nth in 1.. {
        // Each time with nothing there, so that everything has to be made.
        let _ = fs::remove_dir_all(DATA);
        let outcome = plugin.clone().fail_call(&calls, "ENOSPC", nth).add(&c, "eth0", &dual());
        if !outcome.fault_fired() {
            outcome.expect_result();
            break;
        }
        // The loader could not open a library.
        if outcome.code() == Some(127) {
            continue;
        }
        if outcome.success() {
            assert_eq!(leases(host), addresses(&outcome), "call {nth}\n{outcome}");
        } else {
            refused += 1;
            outcome.expect_error(5, "no space left on device");
            assert_eq!(leases(host), [""; 0], "call {nth}\n{outcome}");
        }
        plugin.del(&c, "eth0", &dual()).expect_ok();
        assert_eq!(leases(host), [""; 0], "call {nth}\n{outcome}");
    }
    assert!(refused > 5, "{refused} refused");
}

fn a_full_disk_is_told_and_leaks_nothing(host: &Host) {
    let (c, d) = (host.container("c"), host.container("d"));
    let plugin = host.plugin("host-local");
    let conf = v4("1.1.0");
    fs::create_dir_all(DATA).expect("it is a private folder");
    for limit in ["size=64k", "nr_inodes=20"] {
        host.exec(format!("mount -t tmpfs -o {limit} tmpfs {DATA}"));
        plugin.add(&c, "eth0", &conf).expect_result();
        let filler = |n: usize| Path::new(DATA).join(format!("filler{n}"));
        let full = (0..100).find(|n| fs::write(filler(*n), [1; 4096]).is_err());
        let full = full.unwrap_or_else(|| panic!("{limit}: it does not fill up"));
        plugin.add(&d, "eth0", &conf).expect_error(5, "no space left on device");
        plugin.status(&conf).expect_error(50, "no space left on device");
        assert_eq!(leases(host), ["10.1.0.2"], "{limit}");
        // Releasing needs no room.
        plugin.del(&c, "eth0", &conf).expect_ok();
        assert_eq!(leases(host), [""; 0], "{limit}");
        (0..=full).for_each(|n| drop(fs::remove_file(filler(n))));
        plugin.status(&conf).expect_ok();
        plugin.add(&d, "eth0", &conf).expect_result();
        plugin.del(&d, "eth0", &conf).expect_ok();
        host.exec(format!("umount {DATA}"));
    }
}

/// A network's first lease needs a directory and a lock as well.
fn what_the_last_files_are_enough_for_is_told(host: &Host) {
    let parent = Path::new(DATA).parent().expect("a folder").display().to_string();
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    let conf = v4("1.1.0");
    fs::create_dir_all(&parent).expect("it is a private folder");
    let mut outcomes = Vec::new();
    for inodes in 1..16 {
        host.exec(format!("mount -t tmpfs -o nr_inodes={inodes} tmpfs {parent}"));
        let status = plugin.status(&conf);
        let added = plugin.add(&c, "eth0", &conf);
        host.note(format!("{inodes} inodes: {:?} {:?}", status.code(), added.code()));
        if !added.success() {
            added.expect_error(5, "no space left on device");
        }
        if !status.success() {
            status.expect_error(50, "no space left on device");
        }
        outcomes.push((status.success(), added.success()));
        // Once more, with what the ADD left.
        let (status, again) = (plugin.status(&conf), plugin.add(&c, "eth0", &conf));
        assert!(!status.success() || again.success() || added.success(), "{status}{again}");
        plugin.del(&c, "eth0", &conf).expect_ok();
        plugin.check(&c, "eth0", &conf).expect_error(999, "");
        assert_eq!(leases(host), [""; 0]);
        host.exec(format!("umount {parent}"));
    }
    assert!(outcomes.iter().all(|(status, added)| added >= status), "{outcomes:?}");
    assert_eq!((outcomes.first(), outcomes.last()), (Some(&(false, false)), Some(&(true, true))));
}

fn a_read_only_disk_is_told(host: &Host) {
    let (c, d) = (host.container("c"), host.container("d"));
    let plugin = host.plugin("host-local");
    let conf = v4("1.1.0");
    fs::create_dir_all(DATA).expect("it is a private folder");
    host.exec(format!("mount -t tmpfs tmpfs {DATA}"));
    let result = plugin.add(&c, "eth0", &conf).expect_result();
    // Nor can an index be made.
    fs::remove_dir_all(Path::new(DATA).join(".oxcni")).expect("there");
    host.exec(format!("mount -o remount,bind,ro {DATA}"));
    plugin.add(&d, "eth0", &conf).expect_error(5, "read-only file system");
    plugin.status(&conf).expect_error(50, "read-only file system");
    plugin.check(&c, "eth0", &with_previous_result(&conf, &result)).expect_ok();
    plugin.del(&d, "eth0", &conf).expect_ok();
    plugin.del(&c, "eth0", &conf).expect_error(5, &path("10.1.0.2").display().to_string());
    let elsewhere = with(&conf, json!({"name": "other"}));
    plugin.status(&elsewhere).expect_error(50, "read-only file system");
    assert_eq!(leases(host), ["10.1.0.2"]);
    host.exec(format!("mount -o remount,bind,rw {DATA}"));
    plugin.del(&c, "eth0", &conf).expect_ok();
    host.exec(format!("umount {DATA}"));
}

/// A process that holds the lock until its input ends.
fn hold_lock() -> Child {
    let mut holder = Command::new("flock")
        .arg(path("lock"))
        .args(["sh", "-c", "echo locked; read -r end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut said = String::new();
    let output = holder.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut said).expect("readable");
    assert_eq!(said, "locked\n");
    holder
}

fn a_frozen_holder_of_the_lock_is_named(host: &Host) {
    let (c, d) = (host.container("c"), host.container("d"));
    let plugin = host.plugin("host-local");
    let conf = network("1.1.0", json!({"subnet": "10.1.0.0/24", "lockTimeout": 1}));
    plugin.add(&c, "eth0", &conf).expect_result();
    let mut holder = hold_lock();
    host.exec(format!("kill -STOP {}", holder.id()));
    let named = format!("by process {} (flock) after 1 s", holder.id());
    let begin = Instant::now();
    plugin.add(&d, "eth0", &conf).expect_error(11, &named);
    assert!(begin.elapsed() >= Duration::from_secs(1), "it did not wait");
    plugin.del(&c, "eth0", &conf).expect_error(11, &path("lock").display().to_string());
    plugin.status(&conf).expect_error(50, &named);
    host.exec(format!("kill -CONT {}", holder.id()));
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    plugin.del(&c, "eth0", &conf).expect_ok();
    assert_eq!(leases(host), [""; 0]);
}

fn a_lock_given_back_in_time_is_taken(host: &Host) {
    let (c, d) = (host.container("c"), host.container("d"));
    let plugin = host.plugin("host-local");
    plugin.add(&c, "eth0", &v4("1.1.0")).expect_result();
    let mut holder = hold_lock();
    let input = Mutex::new(holder.stdin.take());
    let given = host.parallel(2, |n| {
        if n == 0 {
            return addresses(&plugin.add(&d, "eth0", &v4("1.1.0")));
        }
        let inode = format!(":{} ", inode(&path("lock")));
        // A waiter's line has an arrow.
        host.wait_until("somebody waits for the lock", || {
            let locks = fs::read_to_string("/proc/locks").expect("on Linux");
            locks.lines().any(|line| line.contains("->") && line.contains(&inode))
        });
        drop(input.lock().expect("no panic").take());
        Vec::new()
    });
    holder.wait().expect("it ends");
    assert_eq!(given[0], ["10.1.0.3"]);
}

fn inode(path: &Path) -> u64 {
    path.metadata().expect("there").ino()
}

fn what_is_planted_is_not_followed(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    let conf = v4("1.1.0");
    fs::create_dir_all(path("10.1.0.3")).expect("it is a private folder");
    for (target, name) in [("/run/victim", "10.1.0.2"), ("/run/lease", "10.1.0.4")] {
        symlink(target, path(name)).expect("made");
    }
    host.exec(format!("mkfifo {}", path("10.1.0.5").display()));
    // Through the link it reads as this container's own.
    host.write("/run/lease", format!("{}\r\neth0", c.id()));
    plugin.check(&c, "eth0", &conf).expect_error(999, "failed to find");
    for n in 2..=5 {
        let lease = path(&format!("10.1.0.{n}")).display().to_string();
        let asked = plugin.clone().args(&format!("IP=10.1.0.{n}"));
        asked.add(&c, "eth0", &conf).expect_error(999, &lease);
    }
    let added = plugin.add(&c, "eth0", &conf);
    assert_eq!(addresses(&added), ["10.1.0.6"]);
    plugin.del(&c, "eth0", &conf).expect_ok();
    plugin.gc(&with(&conf, json!({"cni.dev/valid-attachments": []}))).expect_ok();
    assert_eq!(leases(host), ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]);
    assert!(!Path::new("/run/victim").exists());
    assert!(Path::new("/run/lease").exists());
    // The files beside the leases.
    for name in ["lock", "last_reserved_ip.0"] {
        let _ = fs::remove_file(path(name));
        symlink("/run/victim", path(name)).expect("made");
        plugin.add(&c, "eth0", &conf).expect_error(5, name);
        fs::remove_file(path(name)).expect("there");
    }
    assert!(!Path::new("/run/victim").exists());
    // The index's folder.
    fs::remove_dir_all(Path::new(DATA).join(".oxcni")).expect("there");
    fs::create_dir(Path::new(DATA).join(".oxcni")).expect("made");
    fs::create_dir("/run/elsewhere").expect("made");
    symlink("/run/elsewhere", Path::new(DATA).join(".oxcni/net")).expect("made");
    plugin.add(&c, "eth0", &conf).expect_result();
    assert!(host.files("/run/elsewhere").is_empty());
}

fn a_link_planted_by_another_user_is_refused(host: &Host) {
    let c = host.container("c");
    let plugin = host.plugin("host-local");
    fs::create_dir("/run/real").expect("made");
    fs::create_dir_all(DATA).expect("it is a private folder");
    symlink("/run/real", Path::new(DATA).join("net")).expect("made");
    // An administrator's own.
    plugin.add(&c, "eth0", &v4("1.1.0")).expect_result();
    plugin.del(&c, "eth0", &v4("1.1.0")).expect_ok();
    assert!(host.files("/run/real").contains("lock"));
    let link = path("").display().to_string();
    let link = link.trim_end_matches('/');
    // In a user namespace there may be no other user.
    if !host.try_exec(["chown", "-h", "1000", link]).success() {
        return;
    }
    plugin.add(&c, "eth0", &v4("1.1.0")).expect_error(5, "symbolic link of user 1000");
    plugin.status(&v4("1.1.0")).expect_error(50, "symbolic link of user 1000");
}
