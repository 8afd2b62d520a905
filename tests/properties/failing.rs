//! Faults: each system call of an ADD that can fail does so once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::{Host, Netns as _, Outcome};

use super::corpus::Sample;
use super::{Pod, is_in_a_vm, leases};
use crate::kills::{HOSTS, TOO_MANY};

/// System calls and the error each fails with: those that change something or
/// take something from the kernel's limits, and the answers to questions.
/// strace counts each name by itself.
const FAULTS: &[(&str, &str)] = &[
    ("socket", "EMFILE"),
    ("bind", "EADDRINUSE"),
    ("sendto", "ENOBUFS"),
    ("sendmsg", "ENOBUFS"),
    ("recvfrom", "ENOBUFS"),
    ("recvmsg", "ENOBUFS"),
    ("openat", "EMFILE"),
    ("read", "EIO"),
    ("write", "EIO"),
    ("pwrite64", "ENOSPC"),
    ("setns", "EPERM"),
    ("mkdir", "ENOSPC"),
    ("mkdirat", "ENOSPC"),
    ("linkat", "EIO"),
    ("renameat", "EIO"),
    ("renameat2", "EIO"),
    ("unlinkat", "EIO"),
    ("flock", "ENOLCK"),
    ("clone3", "EAGAIN"),
    ("getdents64", "EIO"),
];

/// One call of so many fails where the processor may be emulated.
const STRIDE_IN_A_VM: usize = 5;

/// All numbers from 1; in a virtual machine one of so many. Those of as many turns in a
/// row are all numbers together.
fn one_of(stride: usize, turn: usize) -> impl Iterator<Item = usize> {
    let stride = if is_in_a_vm() { stride } else { 1 };
    (1 + turn % stride..).step_by(stride)
}

/// What a failure may have left, seen without the cost of a snapshot.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    on_host: BTreeSet<String>,
    inside: BTreeSet<String>,
    leases: BTreeSet<String>,
}

impl Traces {
    fn of(host: &Host, pod: &Pod) -> Self {
        Self {
            on_host: host.links_and_addresses(),
            inside: pod.container.links_and_addresses(),
            leases: leases(),
        }
    }
}

/// Calls `work` with each of `list`, each on a host of its own.
fn on_hosts_of_their_own<T: Sync>(host: &Host, list: &[T], work: impl Fn(&Host, &T) + Sync) {
    host.parallel(HOSTS, |first| {
        for item in list.iter().skip(first).step_by(HOSTS) {
            Host::run(|host| work(host, item));
        }
    });
}

pub(super) fn a_failure_at_any_step_leaves_the_host_as_it_was(host: &Host, sample: &Sample) {
    let failures = AtomicUsize::new(0);
    on_hosts_of_their_own(host, FAULTS, |host, (call, error)| {
        failures.fetch_add(fail_each(host, sample, call, error), Ordering::Relaxed);
    });
    assert!(failures.into_inner() > 0, "no fault made a difference");
}

/// Lets each call of this name fail; gives the number of ADDs that failed.
fn fail_each(host: &Host, sample: &Sample, call: &str, error: &str) -> usize {
    (sample.prepare)(host);
    let prepared = host.links();
    // A gateway switches it on, and it stays.
    host.set_sysctl("net/ipv4/ip_forward", "1");
    host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    let pod = sample.pod(host, "pod");
    let (before, inside) = (host.snapshot(), pod.container.network_snapshot());
    let traces = Traces::of(host, &pod);
    let mut failures = 0;
    // Of two names, others.
    for nth in one_of(STRIDE_IN_A_VM, call.len()) {
        assert!(nth < TOO_MANY, "{call} is called without end");
        let plugin = sample.plugin(host).fail_call(call, error, nth);
        let outcome = sample.try_add(host, &plugin, &pod);
        if outcome.success() || went_unheard(&outcome) {
            sample.del(host, &pod).expect_ok();
            start_over(host, sample, &traces, &prepared);
        } else {
            // Before there is a plugin, there is nobody to say anything.
            let began = outcome.code() != Some(127);
            assert!(!began || outcome.document()["code"].is_u64(), "{outcome}");
            failures += usize::from(began);
        }
        assert_eq!(Traces::of(host, &pod), traces, "{call} {nth}: {outcome}");
        if !outcome.fault_fired() {
            assert!(outcome.success(), "{outcome}");
            break;
        }
    }
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    inside.expect_same(&pod.container.network_snapshot());
    failures
}

/// It did its work and could not say so: the runtime sees a failure, and the
/// specification has it call DEL.
fn went_unheard(outcome: &Outcome) -> bool {
    outcome.stdout().is_empty() && outcome.stderr().starts_with("write to stdout: ")
}

/// What is shared has stayed and was changed; the next ADD finds it as the
/// first one did.
fn start_over(host: &Host, sample: &Sample, before: &Traces, prepared: &[String]) {
    for link in host.links() {
        let is_stale = !before.on_host.contains(&link) || prepared.contains(&link);
        // Deleting one end of a pair deletes both.
        if is_stale && link != "lo" && host.links().contains(&link) {
            host.exec(["ip", "link", "del", &link]);
        }
    }
    (sample.prepare)(host);
}
