//! Kills: each call that changes something is the last one of an ADD, a DEL, and a GC
//! that is killed, and the runtime goes on in each of three ways. For the whole chain
//! see `kills`.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use testkit::{Host, Netns as _, Outcome};

use super::corpus::Sample;
use super::{Pod, valid};
use crate::kills::{
    Aftermath, CALLS, HOSTS, Verb, at_each, expect_gone, links_and_files, residue, verbs,
};

pub(super) fn a_kill_at_any_step_is_cleaned_up_by_del(host: &Host, sample: &Sample) {
    kill_at_each_step(host, sample, Aftermath::DelTwice);
}

pub(super) fn a_kill_at_any_step_is_cleaned_up_by_del_of_lost(host: &Host, sample: &Sample) {
    kill_at_each_step(host, sample, Aftermath::DelOfLost);
}

pub(super) fn a_kill_at_any_step_is_cleaned_up_by_gc(host: &Host, sample: &Sample) {
    kill_at_each_step(host, sample, Aftermath::Gc);
}

/// The hosts share the calls among them.
fn kill_at_each_step(host: &Host, sample: &Sample, aftermath: Aftermath) {
    let (next, kills) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let calls = || CALLS.get(next.fetch_add(1, Ordering::Relaxed)).copied();
    host.parallel(HOSTS, |_| {
        let killed = Host::run(|host| kill_on(host, sample, aftermath, &calls));
        kills.fetch_add(killed, Ordering::Relaxed);
    });
    assert!(kills.into_inner() > 0, "no call was met");
}

/// Kills at each of the calls that `next_call` gives; gives the number of kills.
fn kill_on(
    host: &Host,
    sample: &Sample,
    aftermath: Aftermath,
    next_call: &impl Fn() -> Option<&'static str>,
) -> usize {
    sample.set_up(host);
    // Where its namespace gets lost, each kill has a container of its own.
    let lasting = match aftermath {
        Aftermath::DelTwice | Aftermath::Gc => Some(sample.pod(host, "pod")),
        Aftermath::DelOfLost => None,
    };
    let container = lasting.as_ref().map(|pod| &pod.container);
    let (before, inside) = (host.snapshot(), container.map(|pod| pod.network_snapshot()));
    // Rules and qdiscs of others are in the snapshot.
    let look = || match sample.has_rules() {
        true => residue(host, container),
        false => links_and_files(host, container),
    };
    let clean = look();
    let mut kills = 0;
    while let Some(call) = next_call() {
        kills += at_each(call, verbs(aftermath), |verb, nth| {
            let own = lasting.is_none().then(|| sample.pod(host, "pod"));
            let pod = lasting.as_ref().or(own.as_ref()).expect("one of the two is there");
            let killed = kill(host, sample, pod, verb, (call, nth));
            clean_up(host, sample, pod, aftermath);
            expect_gone(host, &clean, look, &killed.to_string());
            killed
        });
    }
    sample.expect_unchanged(host, &before);
    if let (Some(container), Some(inside)) = (container, inside) {
        inside.expect_same(&container.network_snapshot());
    }
    kills
}

/// Kills the verb at a call of this name and number.
fn kill(
    host: &Host,
    sample: &Sample,
    pod: &Pod,
    verb: Verb,
    (call, nth): (&str, usize),
) -> Outcome {
    let plugin = sample.plugin(host).kill_at_call(call, nth);
    match verb {
        Verb::Add => sample.try_add(host, &plugin, pod),
        Verb::Del => {
            sample.add(host, pod);
            plugin.del(&pod.container, "eth0", &sample.newest_conf(host, pod))
        }
        Verb::Gc => {
            sample.add(host, pod);
            plugin.gc(&valid(&sample.newest_conf(host, pod), &json!([])))
        }
    }
}

fn clean_up(host: &Host, sample: &Sample, pod: &Pod, aftermath: Aftermath) {
    let (plugin, conf) = (sample.plugin(host), sample.newest_conf(host, pod));
    match aftermath {
        Aftermath::DelTwice => {
            sample.del(host, pod).expect_ok();
            sample.del(host, pod).expect_ok();
        }
        Aftermath::DelOfLost => {
            // The kernel frees what was in a namespace a moment after it, all at once,
            // and this as well: a parent may be used by one container only.
            let end = format!("end type veth peer name end netns {}", pod.container.name());
            host.exec(format!("ip link add {end}"));
            pod.container.destroy();
            plugin.del_without_netns(&pod.container, "eth0", &conf).expect_ok();
            if let Some((before, conf)) = sample.before(host) {
                let before = host.plugin(before);
                before.del_without_netns(&pod.container, "eth0", &conf).expect_ok();
            }
            let is_freed = || !host.links().contains(&"end".to_owned());
            host.wait_until("the kernel has freed the namespace", is_freed);
        }
        Aftermath::Gc => {
            plugin.gc(&valid(&conf, &json!([]))).expect_ok();
            // What only the namespace can tell apart goes with it, or by DEL.
            if sample.lives_in_the_namespace {
                sample.del(host, pod).expect_ok();
            }
        }
    }
}
