use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use linux::link::{VethPeer, VethSpec};
use linux::netns::Trace;
use linux::{Namespace, Socket, link, netns};

use crate::host::{in_new_namespace, inside, new_namespace};

#[test]
fn what_is_no_namespace_is_told_apart() {
    let missing = Namespace::open("/run/netns/no-such-namespace").unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let below_a_file = Namespace::open("/etc/hostname/x").unwrap_err();
    assert!(below_a_file.is_not_found(), "{below_a_file}");

    let directory = std::env::temp_dir().join(format!("linux-netns-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let stale = directory.join("stale");
    fs::write(&stale, "").unwrap();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let errors = [&stale, &fifo, &directory].map(|path| Namespace::open(path).unwrap_err());
    fs::remove_dir_all(&directory).unwrap();
    for error in errors {
        assert!(error.is_not_namespace(), "{error}");
        assert!(error.to_string().contains(": not a network namespace: "), "{error}");
    }

    let other_kind = Namespace::open("/proc/self/ns/mnt").unwrap_err();
    assert!(other_kind.is_not_namespace(), "{other_kind}");
    let proc_file = Namespace::open("/proc/self/status").unwrap_err();
    assert!(proc_file.is_not_namespace(), "{proc_file}");
}

#[test]
fn identity_follows_the_thread() {
    in_new_namespace(|_| {
        let here = Namespace::current().unwrap();
        let there = new_namespace();
        assert_eq!(here.id(), Namespace::current_id().unwrap());
        assert_ne!(here.id(), there.id());
        assert_eq!(inside(&there, |_| Namespace::current_id().unwrap()), there.id());
        assert_eq!(here.id(), Namespace::current_id().unwrap());
    });
}

#[test]
fn a_descriptor_keeps_a_namespace() {
    in_new_namespace(|_| {
        let there = new_namespace();
        let path = format!("/proc/self/fd/{}", there.as_fd().as_raw_fd());
        let trace = Trace::of(Path::new(&path)).unwrap();
        assert_eq!(netns::ended(&[trace]), [false]);
        drop(there);
        if trace.id == 0 {
            // Its number, by which older kernels tell, may be another test's by now.
            return;
        }
        // The kernel takes it apart in its own time.
        let begin = Instant::now();
        while netns::ended(&[trace]) == [false] {
            assert!(begin.elapsed().as_secs() < 20, "it does not end");
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_namespace_is_found_by_its_trace() {
    in_new_namespace(|_| {
        let there = new_namespace();
        let id = there.id();
        let trace = there.trace().unwrap();
        let open = |trace: Trace| trace.open().map(|found| found.id());
        if trace.id != 0 {
            assert_eq!(open(trace), Some(id), "only this descriptor keeps it");
            assert_eq!(open(Trace { id: trace.id ^ 1 << 40, ..trace }), None);
        }
        let mut child = Command::new("sleep");
        child.arg("60");
        there.run_command_in(&mut child).unwrap();
        let mut child = child.spawn().unwrap();
        assert_eq!(open(trace), Some(id));
        assert_eq!(open(Trace { id: 0, ..trace }), Some(id), "by its number alone");
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_socket_stays_where_it_was_opened() {
    in_new_namespace(|socket| {
        let spec = VethSpec {
            name: "only-here",
            peer: VethPeer { name: "too", ..VethPeer::default() },
            ..VethSpec::default()
        };
        spec.create(socket).unwrap();
        new_namespace().enter().unwrap();
        assert!(link::find(&Socket::route().unwrap(), "only-here").unwrap().is_none());
        assert!(link::find(socket, "only-here").unwrap().is_some());
    });
}

#[test]
fn a_child_runs_in_the_namespace_and_the_parent_stays() {
    in_new_namespace(|_| {
        let before = Namespace::current_id().unwrap();
        let there = new_namespace();
        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net");
        there.run_command_in(&mut command).unwrap();
        let output = command.output().unwrap();
        let seen = String::from_utf8(output.stdout).unwrap();
        assert_eq!(seen.trim(), format!("net:[{}]", there.id().ino));
        assert_eq!(Namespace::current_id().unwrap(), before);
    });
}

#[test]
fn a_peer_elsewhere_is_known_by_the_namespaces_number() {
    in_new_namespace(|socket| {
        let there = new_namespace();
        assert_eq!(netns::nsid(socket, &there).unwrap(), None);
        let spec = VethSpec {
            name: "near",
            peer: VethPeer { name: "far", namespace: Some(there.as_fd()), ..VethPeer::default() },
            ..VethSpec::default()
        };
        spec.create(socket).unwrap();
        let near = link::get(socket, "near").unwrap();
        let number = netns::ensure_nsid(socket, &there).unwrap();
        assert_eq!(netns::nsid(socket, &there).unwrap(), Some(number));
        assert_eq!(near.link_netns_id, Some(number));
        assert_eq!(netns::ensure_nsid(socket, &there).unwrap(), number);
        let far = inside(&there, |inside| link::get(inside, "far").unwrap());
        assert_eq!(near.link, Some(far.index));
    });
}
