//! The whole chain, killed at any instant: SIGKILL at each system call that changes
//! something, of each plugin, in ADD, DEL and GC, and then each of the ways in which
//! a runtime may go on. All points, none left out; how many, and how long it took,
//! is printed. The plugins one by one share from here what kills and what looks for
//! leftovers, see `properties::killed`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns, Outcome, cases, with_previous_result};

use crate::conf::{self, NETWORK, newest_version, with};

pub(crate) fn list() -> Vec<Case> {
    let list = cases! {
        [Bridge, Nft, Shaping, Ifb, Strace] a_chain_killed_at_any_instant_is_cleaned_up,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// Calls that change the kernel's state or files. A file that `openat` has created is
/// there when the call after it is not made. strace counts each name by itself.
pub(crate) const CALLS: &[&str] = &[
    "sendto",
    "sendmsg",
    "write",
    "pwrite64",
    "ftruncate",
    "linkat",
    "renameat",
    "renameat2",
    "unlinkat",
    "mkdirat",
    "fchmod",
    "utimensat",
];

/// More calls of one name than any verb makes; the loop must end before.
pub(crate) const TOO_MANY: usize = 200;

/// How many hosts at once: most of the time is the kernel's, which frees links and
/// namespaces at its leisure.
pub(crate) const HOSTS: usize = 6;

/// What is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    Add,
    /// After a whole ADD, which shows that the next one works.
    Del,
    /// After a whole ADD that the runtime has forgotten.
    Gc,
}

/// How a runtime goes on after a kill.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aftermath {
    /// It repeats the DEL.
    DelTwice,
    /// The namespace is gone by then.
    DelOfLost,
    /// It forgets the container, whose namespace is still there, and calls GC.
    Gc,
}

/// The number of the plugin that is killed, and what follows.
#[derive(Debug, Clone, Copy)]
struct Story {
    at: usize,
    aftermath: Aftermath,
}

/// Types and keys, in the order of the chain.
fn plugins() -> Vec<(&'static str, Value)> {
    vec![
        (
            "bridge",
            json!({"bridge": "cni0", "isGateway": true, "ipMasq": true,
                "ipMasqBackend": "nftables",
                "ipam": conf::leased(&["10.1.0.0/24", "2001:db8:1::/64"])}),
        ),
        (
            "portmap",
            json!({"backend": "nftables", "snat": true, "runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]}}),
        ),
        (
            "firewall",
            json!({"backend": "nftables", "ingressPolicy": "same-bridge",
                "denyCIDRs": ["169.254.0.0/16"]}),
        ),
        ("bandwidth", json!({"ingressRate": 8_000_000, "egressRate": 8_000_000})),
        (
            "tuning",
            json!({"mac": "02:00:00:00:00:0a", "mtu": 1400,
                "sysctl": {"net.core.somaxconn": "500"}}),
        ),
    ]
}

/// The chain on a host.
struct Chain<'h> {
    host: &'h Host,
    plugins: Vec<(&'static str, Value)>,
}

impl<'h> Chain<'h> {
    fn new(host: &'h Host) -> Self {
        let base = json!({"cniVersion": newest_version(host), "name": NETWORK});
        let whole = |(plugin, keys): (&'static str, Value)| {
            (plugin, with(&with(&base, json!({"type": plugin})), keys))
        };
        // Gateways switch it on for the host, and it stays.
        for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            host.set_sysctl(name, "1");
        }
        host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
        host.exec("mkdir -p -m 700 /run/cni/tuning");
        Self { host, plugins: plugins().into_iter().map(whole).collect() }
    }

    fn conf(&self, at: usize, previous: Option<&Value>) -> Value {
        let conf = &self.plugins[at].1;
        previous.map_or_else(|| conf.clone(), |previous| with_previous_result(conf, previous))
    }

    /// ADD of the first `count` plugins.
    #[track_caller]
    fn add(&self, container: &Container, count: usize) -> Option<Value> {
        (0..count).fold(None, |previous, at| {
            let conf = self.conf(at, previous.as_ref());
            let plugin = self.host.plugin(self.plugins[at].0);
            Some(plugin.add(container, "eth0", &conf).expect_result())
        })
    }

    /// DEL of the plugins from the last one to number `to`.
    #[track_caller]
    fn del(&self, container: &Container, previous: Option<&Value>, to: usize) {
        for at in (to..self.plugins.len()).rev() {
            let conf = self.conf(at, previous);
            self.host.plugin(self.plugins[at].0).del(container, "eth0", &conf).expect_ok();
        }
    }

    #[track_caller]
    fn del_of_lost(&self, container: &Container, previous: Option<&Value>) {
        for at in (0..self.plugins.len()).rev() {
            let (plugin, conf) = (self.host.plugin(self.plugins[at].0), self.conf(at, previous));
            plugin.del_without_netns(container, "eth0", &conf).expect_ok();
        }
    }

    /// The configuration of a GC for which no attachment is valid.
    fn forgotten(&self, at: usize) -> Value {
        let none = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": []});
        with(&self.plugins[at].1, none)
    }

    #[track_caller]
    fn gc(&self) {
        for (at, (plugin, _)) in self.plugins.iter().enumerate() {
            self.host.plugin(plugin).gc(&self.forgotten(at)).expect_ok();
        }
    }
}

/// Which verbs are killed: after that of GC the next one goes on.
pub(crate) fn verbs(aftermath: Aftermath) -> Vec<Verb> {
    match aftermath {
        Aftermath::Gc => vec![Verb::Add, Verb::Del, Verb::Gc],
        Aftermath::DelTwice | Aftermath::DelOfLost => vec![Verb::Add, Verb::Del],
    }
}

/// Kills each verb at each of its calls of this name, until it makes no more, and gives
/// how many kills that were. `kill` does it, cleans up, looks, and answers what became of
/// the verb.
pub(crate) fn at_each(
    call: &str,
    mut verbs: Vec<Verb>,
    mut kill: impl FnMut(Verb, usize) -> Outcome,
) -> usize {
    let mut kills = 0;
    for nth in 1.. {
        assert!(nth < TOO_MANY, "{call} is called without end");
        verbs.retain(|verb| {
            let outcome = kill(*verb, nth);
            assert!(outcome.fault_fired() || outcome.success(), "{outcome}");
            kills += usize::from(outcome.fault_fired());
            outcome.fault_fired()
        });
        if verbs.is_empty() {
            break;
        }
    }
    kills
}

/// What can be left, seen without the cost of a snapshot.
pub(crate) fn residue(host: &Host, container: Option<&Container>) -> BTreeSet<String> {
    let mut found = links_and_files(host, container);
    found.insert(host.exec("nft -s list ruleset"));
    found.insert(host.exec("tc qdisc show"));
    found
}

/// The same of what neither has rules nor shapes.
pub(crate) fn links_and_files(host: &Host, container: Option<&Container>) -> BTreeSet<String> {
    let mut found = host.links_and_addresses();
    for folder in ["/var/lib/cni", "/run/cni"] {
        let staying = ["/last_reserved_ip.", "/.oxcni/", "/oxcni/locks/"];
        let goes = |file: &String| !staying.iter().any(|part| file.contains(part));
        found.extend(files_below(folder.as_ref()).into_iter().filter(goes));
    }
    if let Some(container) = container {
        found.extend(container.links_and_addresses().iter().map(|fact| format!("inside {fact}")));
        found.extend(container.sysctl("net/core/somaxconn"));
    }
    found
}

/// The paths of all that is no folder; none where there is no such folder.
fn files_below(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let below = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path()),
        _ => vec![entry.path().display().to_string()],
    };
    entries.flat_map(below).collect()
}

/// Waits until a `look` finds nothing of what was killed in this `story`: the kernel
/// removes what was in a namespace a moment after it.
#[track_caller]
pub(crate) fn expect_gone(
    host: &Host,
    clean: &BTreeSet<String>,
    look: impl Fn() -> BTreeSet<String>,
    story: &str,
) {
    if look() == *clean {
        return;
    }
    host.note(story);
    host.wait_until("nothing is left of it", || {
        let left = look();
        let new: Vec<_> = left.symmetric_difference(clean).collect();
        if !new.is_empty() {
            host.note(format!("left: {new:#?}"));
        }
        new.is_empty()
    });
}

fn a_chain_killed_at_any_instant_is_cleaned_up(host: &Host) {
    let mut stories = Vec::new();
    for at in 0..plugins().len() {
        for aftermath in [Aftermath::DelTwice, Aftermath::DelOfLost, Aftermath::Gc] {
            stories.push(Story { at, aftermath });
        }
    }
    let (begun, next, points) = (Instant::now(), AtomicUsize::new(0), AtomicUsize::new(0));
    host.parallel(HOSTS, |_| {
        while let Some(story) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
            let killed = Host::run(|host| tell(host, *story));
            points.fetch_add(killed, Ordering::Relaxed);
        }
    });
    let (points, took) = (points.into_inner(), begun.elapsed().as_secs());
    let line = format!("the chain was killed {points} times; that took {took} s");
    let _ = writeln!(io::stderr(), "{line}");
    assert!(points > 200, "{line}");
}

/// Kills at each call; gives the number of kills.
fn tell(host: &Host, story: Story) -> usize {
    let chain = Chain::new(host);
    let container = host.container("pod");
    container.exec("ip link set lo up");
    // What is shared comes with the first one, and stays.
    let result = chain.add(&container, chain.plugins.len());
    chain.del(&container, result.as_ref(), 0);
    let look = || residue(host, Some(&container));
    let (before, clean) = (host.snapshot(), look());
    let mut points = 0;
    for call in CALLS {
        points += at_each(call, verbs(story.aftermath), |verb, nth| {
            let (killed, previous) = kill(&chain, &container, story.at, verb, (call, nth));
            clean_up(&chain, &container, story.aftermath, previous.as_ref());
            expect_gone(host, &clean, look, &format!("{story:?}, {killed}"));
            killed
        });
    }
    host.expect_unchanged_but(&before, &["/last_reserved_ip.", "/.oxcni/"]);
    points
}

/// Kills plugin number `at` at a call of this name and number; answers the result of
/// the whole chain as well, which a failed ADD has not.
fn kill(
    chain: &Chain<'_>,
    container: &Container,
    at: usize,
    verb: Verb,
    (call, nth): (&str, usize),
) -> (Outcome, Option<Value>) {
    let plugin = chain.host.plugin(chain.plugins[at].0).kill_at_call(call, nth);
    match verb {
        Verb::Add => {
            let previous = chain.add(container, at);
            let conf = chain.conf(at, previous.as_ref());
            (plugin.add(container, "eth0", &conf), None)
        }
        Verb::Del => {
            let result = chain.add(container, chain.plugins.len());
            chain.del(container, result.as_ref(), at + 1);
            let conf = chain.conf(at, result.as_ref());
            (plugin.del(container, "eth0", &conf), result)
        }
        Verb::Gc => {
            let result = chain.add(container, chain.plugins.len());
            (plugin.gc(&chain.forgotten(at)), result)
        }
    }
}

#[track_caller]
fn clean_up(
    chain: &Chain<'_>,
    container: &Container,
    aftermath: Aftermath,
    previous: Option<&Value>,
) {
    match aftermath {
        Aftermath::DelTwice => {
            chain.del(container, previous, 0);
            chain.del(container, previous, 0);
        }
        Aftermath::DelOfLost => {
            container.destroy();
            chain.del_of_lost(container, previous);
            container.recreate();
            container.exec("ip link set lo up");
        }
        Aftermath::Gc => chain.gc(),
    }
}
