//! Upgrade and rollback under containers that run.

use serde_json::{Value, json};
use testkit::{Host, Netns as _, Plugin, with_previous_result};

use super::Pod;
use super::corpus::{Sample, Upstream};
use crate::conf::{NETWORK, with};

/// What one program has attached the other one finds as it should be, and
/// detaches: both ways, at each version that both speak.
pub(super) fn one_program_goes_on_where_the_other_was(host: &Host, sample: &Sample) {
    let upstream = sample.upstream.unwrap_or_default();
    let (ours, theirs) = (sample.plugin(host), host.peer(sample.plugin));
    let at_ours = Upstream { leaves: &[], is_never_content: false, ..upstream };
    let ways = [("up", &theirs, &ours, at_ours), ("back", &ours, &theirs, upstream)];
    let common: Vec<String> = versions(&theirs)
        .into_iter()
        .filter(|version| versions(&ours).contains(version))
        // The first ones have no previous results to chain with.
        .filter(|version| sample.behind.is_none() || version.as_str() >= "0.3.0")
        .collect();
    assert!(!common.is_empty(), "{}", sample.plugin);
    (sample.prepare)(host);
    // What is shared comes with the first of each, and stays.
    let newest = &common[common.len() - 1..];
    for from in [&theirs, &ours] {
        turn(host, sample, newest, "first", [from, &ours], upstream);
    }
    let before = host.snapshot();
    for (way, from, to, upstream) in ways {
        turn(host, sample, &common, way, [from, to], upstream);
        let kept = [&["/last_reserved_ip.", "/.oxcni/"], upstream.leaves].concat();
        host.expect_unchanged_but(&before, &kept);
    }
}

/// ADD by the first program, CHECK and DEL by the second one, of a container for each
/// version.
fn turn(
    host: &Host,
    sample: &Sample,
    versions: &[String],
    way: &str,
    [from, to]: [&Plugin<'_>; 2],
    upstream: Upstream,
) {
    for version in versions {
        let at = |kind: &str, keys: &Value| {
            let base = json!({"cniVersion": version, "name": NETWORK, "type": kind});
            with(&base, keys.clone())
        };
        let container = sample.container(host, &format!("{way}-{version}"));
        let first = sample.behind.as_ref().map(|(kind, keys)| (host.plugin(kind), at(kind, keys)));
        let previous = first
            .as_ref()
            .map(|(plugin, conf)| plugin.add(&container, "eth0", conf).expect_result());
        let pod = Pod { container, previous };
        let conf = sample.conf(version, &pod);
        let inside = pod.container.network_snapshot();
        let result = from.add(&pod.container, "eth0", &conf).expect_result();
        let conf = match version.as_str() < "0.3.0" {
            true => conf,
            false => with_previous_result(&conf, &result),
        };
        if version.as_str() >= "0.4.0" && !upstream.is_never_content {
            to.check(&pod.container, "eth0", &conf).expect_ok();
        }
        to.del(&pod.container, "eth0", &conf).expect_ok();
        if !upstream.spoils_the_container {
            pod.container.network_snapshot().expect_same(&inside);
        }
        if let Some((plugin, conf)) = &first {
            plugin.del(&pod.container, "eth0", conf).expect_ok();
        }
        pod.container.destroy();
    }
}

/// What a program says it speaks, oldest first.
fn versions(plugin: &Plugin<'_>) -> Vec<String> {
    let reply = plugin.version().expect_result();
    let list = reply["supportedVersions"].as_array().expect("a list");
    list.iter().map(|version| version.as_str().expect("a text").to_owned()).collect()
}
