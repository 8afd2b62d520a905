//! A full range whose owners have gone without a DEL heals by itself: host-local
//! takes over the leases of a former boot, and of namespaces that have ended.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command};

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Outcome, Plugin, cases, with_previous_result};

use super::{LONG_AGO, end_of_reboot, lease, names, reboot};
use crate::cnitool::cnitool_with;
use crate::conf::with;
use crate::whole_chain;

pub(super) fn list() -> Vec<Case> {
    cases! {
        [OurPlugins] leases_of_a_former_boot_are_taken_over_oldest_first,
        [OurPlugins] a_lease_of_an_ended_namespace_is_taken_over,
        [OurPlugins] a_namespace_that_lives_without_a_path_keeps_its_lease,
        [OurPlugins] a_wanted_address_is_taken_over,
        [OurPlugins] an_idempotent_add_renews_its_lease,
        [OurPlugins] an_attachment_takes_its_own_dead_lease_again,
        [OurPlugins] a_dead_lease_is_in_nobodys_way,
        [OurPlugins, Bridge, Shaping, Ifb, Nft] a_chain_comes_back_after_a_reboot,
        [OurPlugins] what_is_taken_over_at_once_has_one_owner,
        [OurPlugins, Strace] a_take_over_killed_anywhere_leaves_one_owner,
        [OurPlugins, PeerPlugins] leases_of_the_peer_are_taken_over_by_their_time,
    }
}

const FOLDER: &str = "/var/lib/cni/networks/net";
const EXHAUSTED: &str = "no IP addresses available in range set";

/// Room for five.
fn conf() -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "host-local",
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/29"}})
}

fn address(outcome: &Outcome) -> String {
    let result = outcome.expect_result();
    let text = result["ips"][0]["address"].as_str().expect("a text");
    text.split('/').next().unwrap_or_default().to_owned()
}

fn add(plugin: &Plugin, container: &Container) -> String {
    address(&plugin.add(container, "eth0", &conf()))
}

/// Fills the range.
fn five(host: &Host) -> [Container; 5] {
    let all = ["c2", "c3", "c4", "c5", "c6"].map(|name| host.container(name));
    for (n, container) in (2..).zip(&all) {
        assert_eq!(add(&host.plugin("host-local"), container), format!("10.1.0.{n}"));
    }
    all
}

fn owner(address: &str) -> String {
    let text = fs::read_to_string(Path::new(FOLDER).join(address)).expect("there");
    text.split("\r\n").next().unwrap_or_default().to_owned()
}

fn leases_of_a_former_boot_are_taken_over_oldest_first(host: &Host) {
    let plugin = host.plugin("host-local");
    let dead = five(host);
    dead.iter().for_each(Container::destroy);
    // The index knows the boot, whatever the time says; the time, which is older.
    lease(Path::new(FOLDER), "10.1.0.5", &format!("{}\r\neth0", dead[3].id()), LONG_AGO);
    reboot(host);
    let back = ["n1", "n2", "n3", "n4", "n5"].map(|name| host.container(name));
    for (container, expected) in back.iter().zip(["5", "2", "3", "4", "6"]) {
        plugin.status(&conf()).expect_ok();
        let outcome = plugin.add(container, "eth0", &conf());
        let expected = format!("10.1.0.{expected}");
        assert_eq!(address(&outcome), expected);
        assert_eq!(owner(&expected), container.id());
        let conf = with_previous_result(&conf(), &outcome.expect_result());
        plugin.check(container, "eth0", &conf).expect_ok();
    }
    // All are of this boot, and live.
    let more = host.container("more");
    plugin.add(&more, "eth0", &conf()).expect_error(999, EXHAUSTED);
    plugin.status(&conf()).expect_error(50, EXHAUSTED);
    // Late, and with nothing of theirs left.
    for container in &dead {
        plugin.del_without_netns(container, "eth0", &conf()).expect_ok();
    }
    assert_eq!(names(FOLDER).len(), 5);
    for container in &back {
        plugin.del(container, "eth0", &conf()).expect_ok();
    }
    assert_eq!(names(FOLDER), [""; 0]);
    end_of_reboot(host);
}

/// The kernel takes a namespace apart in its own time.
fn take_over(host: &Host, heir: &Container) {
    let plugin = host.plugin("host-local");
    host.wait_until("a namespace has ended", || plugin.status(&conf()).success());
    host.wait_until("it is known", || plugin.add(heir, "eth0", &conf()).success());
}

fn a_lease_of_an_ended_namespace_is_taken_over(host: &Host) {
    let plugin = host.plugin("host-local");
    let all = five(host);
    let new = ["n1", "n2"].map(|name| host.container(name));
    plugin.status(&conf()).expect_error(50, EXHAUSTED);
    for (dead, heir) in [&all[1], &all[4]].into_iter().zip(&new) {
        plugin.add(heir, "eth0", &conf()).expect_error(999, EXHAUSTED);
        let address = format!("10.1.0.{}", &dead.name()[1..]);
        dead.destroy();
        take_over(host, heir);
        assert_eq!(owner(&address), heir.id());
        plugin.del_without_netns(dead, "eth0", &conf()).expect_ok();
        assert_eq!(names(FOLDER).len(), 5);
    }
}

/// A process in the namespace of `container`.
fn inhabitant(host: &Host, container: &Container) -> Child {
    let netns = format!("--net={}", container.path().display());
    let child = Command::new("nsenter").args([&netns, "sleep", "600"]).spawn().expect("util-linux");
    let comm = format!("/proc/{}/comm", child.id());
    host.wait_until("it is inside", || {
        fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep")
    });
    child
}

fn a_namespace_that_lives_without_a_path_keeps_its_lease(host: &Host) {
    let plugin = host.plugin("host-local");
    let all = five(host);
    let mut process = inhabitant(host, &all[2]);
    // Nothing but a descriptor, and nothing but a mount elsewhere.
    let open = fs::File::open(all[3].path()).expect("there");
    host.write("/run/elsewhere", "");
    host.exec(format!("mount --bind {} /run/elsewhere", all[4].path().display()));
    all[2..].iter().for_each(Container::destroy);
    let heir = host.container("heir");
    for _ in 0..3 {
        plugin.add(&heir, "eth0", &conf()).expect_error(999, EXHAUSTED);
        plugin.status(&conf()).expect_error(50, EXHAUSTED);
    }
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
    take_over(host, &heir);
    assert_eq!(owner("10.1.0.4"), heir.id());
    drop(open);
    let next = host.container("next");
    take_over(host, &next);
    assert_eq!(owner("10.1.0.5"), next.id());
    plugin.status(&conf()).expect_error(50, EXHAUSTED);
    host.exec("umount /run/elsewhere");
    host.wait_until("the namespace has ended", || plugin.status(&conf()).success());
}

fn a_wanted_address_is_taken_over(host: &Host) {
    let plugin = host.plugin("host-local");
    let all = five(host);
    let wanted = with(&conf(), json!({"args": {"cni": {"ips": ["10.1.0.4"]}}}));
    let heir = host.container("heir");
    plugin.add(&heir, "eth0", &wanted).expect_error(999, "held by container ctr-c4");
    all[1].destroy();
    all[2].destroy();
    // Another is left, and it is not that one that is given.
    plugin.del(&all[0], "eth0", &conf()).expect_ok();
    host.wait_until("the namespace has ended", || plugin.add(&heir, "eth0", &wanted).success());
    assert_eq!(owner("10.1.0.4"), heir.id());
    // Nor is a lease taken over while an address is free.
    reboot(host);
    assert_eq!(add(&plugin, &host.container("next")), "10.1.0.2");
    let asked = plugin.clone().args("IP=10.1.0.6").add(&host.container("last"), "eth0", &conf());
    assert_eq!(address(&asked), "10.1.0.6");
    assert_eq!(owner("10.1.0.3"), all[1].id());
    end_of_reboot(host);
}

/// The same attachment in a new namespace, and after a reboot.
fn an_idempotent_add_renews_its_lease(host: &Host) {
    let plugin = host.plugin("host-local");
    let keeps = with(
        &conf(),
        json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/29", "idempotentAdd": true}}),
    );
    let all = five(host);
    all[0].destroy();
    all[0].recreate();
    assert_eq!(address(&plugin.add(&all[0], "eth0", &keeps)), "10.1.0.2");
    let heir = host.container("heir");
    for _ in 0..3 {
        plugin.add(&heir, "eth0", &conf()).expect_error(999, EXHAUSTED);
    }
    reboot(host);
    assert_eq!(address(&plugin.add(&all[0], "eth0", &keeps)), "10.1.0.2");
    assert_eq!(add(&plugin, &heir), "10.1.0.3");
    for name in ["4", "5", "6"] {
        add(&plugin, &host.container(&format!("n{name}")));
    }
    assert_eq!(owner("10.1.0.2"), all[0].id());
    plugin.add(&host.container("more"), "eth0", &conf()).expect_error(999, EXHAUSTED);
    end_of_reboot(host);
}

fn an_attachment_takes_its_own_dead_lease_again(host: &Host) {
    let plugin = host.plugin("host-local");
    let [one, two, old, theirs] = ["one", "two", "old", "theirs"].map(|name| host.container(name));
    assert_eq!(add(&plugin, &one), "10.1.0.2");
    assert_eq!(add(&plugin, &two), "10.1.0.3");
    const HELD: &str = "duplicate allocation is not allowed";
    for _ in 0..2 {
        plugin.add(&one, "eth0", &conf()).expect_error(999, HELD);
    }
    one.destroy();
    one.recreate();
    host.wait_until("the namespace has ended", || plugin.add(&one, "eth0", &conf()).success());
    assert_eq!(owner("10.1.0.2"), one.id());
    assert_eq!(names(FOLDER), ["10.1.0.2", "10.1.0.3"]);
    plugin.add(&one, "eth0", &conf()).expect_error(999, HELD);
    // Nothing is known of the second but that it is of this boot.
    lease(Path::new(FOLDER), "10.1.0.4", &format!("{}\r\neth0", old.id()), LONG_AGO);
    lease(Path::new(FOLDER), "10.1.0.5", &format!("{}\r\neth0", theirs.id()), 0);
    assert_eq!(add(&plugin, &old), "10.1.0.4");
    plugin.add(&theirs, "eth0", &conf()).expect_error(999, HELD);
    reboot(host);
    let all = [(&theirs, "10.1.0.5"), (&two, "10.1.0.3"), (&old, "10.1.0.4"), (&one, "10.1.0.2")];
    for (container, own) in all {
        container.destroy();
        container.recreate();
        let outcome = plugin.add(container, "eth0", &conf());
        assert_eq!(address(&outcome), own);
        let conf = with_previous_result(&conf(), &outcome.expect_result());
        plugin.check(container, "eth0", &conf).expect_ok();
        plugin.add(container, "eth0", &conf).expect_error(999, HELD);
    }
    assert_eq!(names(FOLDER), ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]);
    for (container, _) in all {
        plugin.del(container, "eth0", &conf()).expect_ok();
    }
    assert_eq!(names(FOLDER), [""; 0]);
    end_of_reboot(host);
}

/// Of another attachment, nor of its own: of the old format, beside a wanted address,
/// where the ADD fails.
fn a_dead_lease_is_in_nobodys_way(host: &Host) {
    let plugin = host.plugin("host-local");
    let container = host.container("c");
    let old = |address: &str, content: &str| {
        lease(Path::new(FOLDER), address, content, LONG_AGO);
    };
    // Of both interfaces, and each gets one.
    old("10.1.0.3", &container.id());
    old("10.1.0.4", &container.id());
    assert_eq!(add(&plugin, &container), "10.1.0.3");
    assert_eq!(address(&plugin.add(&container, "eth1", &conf())), "10.1.0.4");
    plugin.del(&container, "eth0", &conf()).expect_ok();
    assert_eq!(names(FOLDER), ["10.1.0.4"]);
    plugin.del(&container, "eth1", &conf()).expect_ok();
    // Another address is wanted: what it had is free.
    let own = format!("{}\r\neth0", container.id());
    let ipam = |more: Value| {
        let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/29"});
        with(&conf(), json!({"ipam": with(&ipam, more)}))
    };
    for idempotent in [false, true] {
        old("10.1.0.3", &own);
        let wants = plugin.clone().args("IP=10.1.0.6");
        let added = wants.add(&container, "eth0", &ipam(json!({"idempotentAdd": idempotent})));
        assert_eq!(address(&added), "10.1.0.6");
        assert_eq!(names(FOLDER), ["10.1.0.6"], "{idempotent}");
        plugin.del(&container, "eth0", &conf()).expect_ok();
    }
    // Of the second range set nothing is left: nothing stays of the first, as after a
    // DEL.
    let ranges = json!({"ranges": [[{"subnet": "10.2.0.0/30", "rangeStart": "10.2.0.2"}]]});
    lease(Path::new(FOLDER), "10.2.0.2", "live\r\neth0", 0);
    old("10.1.0.3", &own);
    plugin.add(&container, "eth0", &ipam(ranges)).expect_error(999, EXHAUSTED);
    assert_eq!(names(FOLDER), ["10.2.0.2"]);
}

/// Without a DEL: the whole chain takes its own place again.
fn a_chain_comes_back_after_a_reboot(host: &Host) {
    whole_chain::write_chain(host, "1.0.0", &whole_chain::plugins(None));
    let capabilities = whole_chain::capabilities(18080);
    let run = |line: &str| {
        let output = cnitool_with(host, &capabilities, line);
        assert!(output.success(), "{line}\n{output}");
        output.stdout
    };
    let one = host.container("one");
    let first = run("add net /run/netns/one");
    let addresses = whole_chain::addresses(&first);
    // Its namespace is gone, and nothing else.
    one.destroy();
    one.recreate();
    let again = RefCell::new(String::new());
    host.wait_until("the namespace has ended", || {
        let output = cnitool_with(host, &capabilities, "add net /run/netns/one");
        again.replace(output.stdout.clone());
        output.success()
    });
    assert_eq!(whole_chain::addresses(&again.into_inner()), addresses);
    run("check net /run/netns/one");
    let _server = one.echo_server(8080);
    host.tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 18080))).expect("mapped");
    drop(_server);
    // What a reboot takes.
    one.destroy();
    host.exec("ip link del cni0");
    host.exec("nft flush ruleset");
    host.exec("rm -r /run/cni");
    reboot(host);
    one.recreate();
    assert_eq!(whole_chain::addresses(&run("add net /run/netns/one")), addresses);
    run("check net /run/netns/one");
    let _server = one.echo_server(8080);
    host.tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 18080))).expect("mapped");
    let restored = run("restore");
    assert!(restored.contains(" complete "), "{restored}");
    run("del net /run/netns/one");
    assert_eq!((one.links(), names(FOLDER)), (vec!["lo".to_owned()], vec![]));
    assert!(host.files("/var/lib/cni/results").is_empty());
    end_of_reboot(host);
}

fn what_is_taken_over_at_once_has_one_owner(host: &Host) {
    for n in 2..=6 {
        lease(Path::new(FOLDER), &format!("10.1.0.{n}"), "old\r\neth0", LONG_AGO);
    }
    let container = host.container("c");
    let given: Vec<String> = host
        .parallel(12, |n| {
            let plugin = host.plugin("host-local").env("CNI_CONTAINERID", &format!("id{n}"));
            let outcome = plugin.add(&container, "eth0", &conf());
            match outcome.success() {
                true => Some(address(&outcome)),
                false => {
                    outcome.expect_error(999, EXHAUSTED);
                    None
                }
            }
        })
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 5);
    assert_eq!(given.len(), 5, "{given:?}");
}

fn a_take_over_killed_anywhere_leaves_one_owner(host: &Host) {
    const CHANGES: &str = "openat,write,pwrite64,renameat,renameat2,ftruncate,utimensat,unlinkat";
    let plugin = host.plugin("host-local");
    let container = host.container("c");
    for n in 3..=6 {
        lease(Path::new(FOLDER), &format!("10.1.0.{n}"), "live\r\neth0", 0);
    }
    for nth in 1.. {
        // Anew, since a file changed in place is not noticed for a minute.
        let _ = fs::remove_file(Path::new(FOLDER).join("10.1.0.2"));
        lease(Path::new(FOLDER), "10.1.0.2", "old\r\neth0", LONG_AGO);
        let outcome = plugin.clone().kill_at_call(CHANGES, nth).add(&container, "eth0", &conf());
        assert_eq!(names(FOLDER).len(), 5, "at call {nth}\n{outcome}");
        assert!(["old", "ctr-c"].contains(&&*owner("10.1.0.2")), "at call {nth}\n{outcome}");
        assert!(host.files(FOLDER).iter().all(|name| !name.contains("new")), "call {nth}");
        plugin.del(&container, "eth0", &conf()).expect_ok();
        if !outcome.fault_fired() {
            outcome.expect_result();
            host.note(format!("killed {} times", nth - 1));
            assert!(nth > 10, "{nth} calls");
            break;
        }
    }
}

fn leases_of_the_peer_are_taken_over_by_their_time(host: &Host) {
    let (ours, peer) = (host.plugin("host-local"), host.peer("host-local"));
    let old = with(&conf(), json!({"cniVersion": "1.0.0"}));
    // One of ours and two of the peer's, all of this boot.
    let all = ["c2", "c3", "c4"].map(|name| host.container(name));
    ours.add(&all[0], "eth0", &old).expect_result();
    peer.add(&all[1], "eth0", &old).expect_result();
    peer.add(&all[2], "eth0", &old).expect_result();
    // And two of long ago, one of the old format.
    lease(Path::new(FOLDER), "10.1.0.5", "old\r\neth0", LONG_AGO);
    lease(Path::new(FOLDER), "10.1.0.6", "older", LONG_AGO + 100);
    all[1].destroy();
    all[2].destroy();
    let heirs = ["n1", "n2", "n3"].map(|name| host.container(name));
    peer.add(&heirs[0], "eth0", &old).expect_error(999, EXHAUSTED);
    for (heir, expected) in heirs.iter().zip(["10.1.0.6", "10.1.0.5"]) {
        assert_eq!(address(&ours.add(heir, "eth0", &old)), expected);
        peer.add(heir, "eth0", &old).expect_error(999, "duplicate allocation is not allowed");
    }
    // Of the peer's own nothing is known but that they are of this boot.
    ours.add(&heirs[2], "eth0", &old).expect_error(999, EXHAUSTED);
    // After the next one it is: the index has seen them.
    reboot(host);
    assert_eq!(address(&ours.add(&heirs[2], "eth0", &old)), "10.1.0.2");
    let last = host.container("last");
    assert_eq!(address(&ours.add(&last, "eth0", &old)), "10.1.0.3");
    peer.del(&last, "eth0", &old).expect_ok();
    peer.del(&all[1], "eth0", &old).expect_ok();
    assert_eq!(names(FOLDER), ["10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
    end_of_reboot(host);
}
