//! A private network namespace for each test, and a second one to reach into.

use std::thread;

use linux::link::{self, Link, VethPeer, VethSpec};
use linux::{Namespace, Socket};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a thread that has left for a new, empty network namespace.
/// The namespace ends with the thread and its sockets.
pub(crate) fn in_new_namespace(test: impl FnOnce(&Socket) + Send) {
    let outcome = thread::scope(|scope| {
        let run = move || {
            enter_new_namespace();
            test(&Socket::route().unwrap());
        };
        scope.spawn(run).join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A new namespace beside the calling thread's.
pub(crate) fn new_namespace() -> Namespace {
    let make = || {
        enter_new_namespace();
        Namespace::current().unwrap()
    };
    thread::spawn(make).join().unwrap()
}

/// Runs something in a namespace, on a thread of its own, with a socket there.
pub(crate) fn inside<T: Send>(namespace: &Namespace, run: impl FnOnce(&Socket) -> T + Send) -> T {
    let outcome = thread::scope(|scope| {
        let run = move || {
            namespace.enter().unwrap();
            run(&Socket::route().unwrap())
        };
        scope.spawn(run).join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn enter_new_namespace() {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        panic!(
            "cannot make a network namespace ({errno}): these tests need root; \
             as an ordinary user run them under `unshare -Urn`"
        );
    }
}

/// A pair with both ends in the socket's namespace and up.
pub(crate) fn veth_pair(socket: &Socket, name: &str, peer: &str) -> (Link, Link) {
    let spec = VethSpec {
        name,
        up: true,
        peer: VethPeer { name: peer, ..VethPeer::default() },
        ..VethSpec::default()
    };
    let made = spec.create(socket).unwrap();
    let peer = link::get(socket, peer).unwrap();
    link::set_up(socket, peer.index).unwrap();
    (link::get_by_index(socket, made.index).unwrap(), peer)
}

/// Runs `ip` or another tool in the thread's namespace and answers what it
/// printed: what others see of what we did.
pub(crate) fn tool(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = std::process::Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error} (iproute2 is needed)"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
