//! A host that does not let an ADD do what it must: it says so, and leaves
//! nothing; and with what was missing the next one works.

use testkit::{Host, Netns as _, Outcome, Plugin};

use super::corpus::Sample;

pub(super) fn without_a_capability_an_add_says_why(host: &Host, sample: &Sample) {
    sample.set_up(host);
    refuses(host, sample, &sample.plugin(host).without_net_admin(), "no-net-admin");
    refuses(host, sample, &sample.plugin(host).without_sys_admin(), "no-sys-admin");
}

fn refuses(host: &Host, sample: &Sample, unable: &Plugin, name: &str) {
    let pod = sample.pod(host, name);
    let before = host.snapshot();
    let inside = pod.container.network_snapshot();
    let outcome = sample.try_add(host, unable, &pod);
    if outcome.success() {
        // It needs none: addresses are files, and lo may be up.
        sample.del(host, &pod).expect_ok();
    } else {
        expect_told(&outcome, "ot permitted");
    }
    sample.expect_unchanged(host, &before);
    inside.expect_same(&pod.container.network_snapshot());
    sample.add(host, &pod);
    let conf = sample.newest_conf(host, &pod);
    // It removes nothing, or all of it, and does not say what is not so.
    let deleted = unable.del(&pod.container, "eth0", &conf);
    if deleted.success() && deleted.stderr().contains("ot permitted") {
        // A link that stays as it was made is no reason to keep a container.
        return;
    } else if deleted.success() {
        sample.expect_unchanged(host, &before);
    } else {
        expect_told(&deleted, "ot permitted");
    }
    sample.del(host, &pod).expect_ok();
    sample.expect_unchanged(host, &before);
    inside.expect_same(&pod.container.network_snapshot());
}

/// As in most containers: what is set right already need not be written.
pub(super) fn a_read_only_proc_is_told(host: &Host, sample: &Sample) {
    sample.set_up(host);
    let pod = sample.pod(host, "pod");
    let before = host.snapshot();
    let inside = pod.container.network_snapshot();
    host.exec("mount --bind /proc/sys /proc/sys");
    host.exec("mount -o remount,ro,bind /proc/sys");
    let outcome = sample.try_add(host, &sample.plugin(host), &pod);
    if outcome.success() {
        // Nor does a DEL need to.
        sample.del(host, &pod).expect_ok();
    } else {
        expect_told(&outcome, "read-only");
        // The last is what mount(8) writes down.
        host.expect_unchanged_but(&before, &["/last_reserved_ip.", "/.oxcni/", "/run/mount"]);
    }
    inside.expect_same(&pod.container.network_snapshot());
    // Somebody may still have one of its files open.
    host.exec("mount -o remount,rw,bind /proc/sys");
    sample.add(host, &pod);
    sample.del(host, &pod).expect_ok();
    inside.expect_same(&pod.container.network_snapshot());
}

#[track_caller]
fn expect_told(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let error = outcome.document();
    let told = error["msg"].as_str().is_some_and(|msg| msg.contains(why));
    assert!(told && error["code"].is_u64(), "{why}: {outcome}");
}
