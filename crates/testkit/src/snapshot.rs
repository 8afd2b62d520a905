//! A host as text: everything a plugin can change, one fact a line.
//!
//! What the kernel changes by itself is left out: indexes, counters, timers,
//! the carrier, learned neighbours and forwarding entries, addresses that
//! follow from the carrier.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::Command;
use crate::diff::unified_diff;
use crate::host::{Host, SCRATCH, pause};
use crate::json::{parse_list, without_keys};
use crate::netns::Netns;

/// Keys of iproute2's JSON whose values change by themselves.
const VOLATILE: [&str; 24] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "operstate",
    "handle",
    "refcnt",
    "valid_life_time",
    "preferred_life_time",
    "bridge_id",
    "root_id",
    "designated_bridge",
    "designated_root",
    "topology_change",
    "topology_change_detected",
    "topology_change_timer",
    "topology_change_ack",
    "hello_timer",
    "tcn_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "config_pending",
    "state",
];

/// Link and address flags that follow from the carrier.
const CARRIER_FLAGS: [&str; 6] =
    ["LOWER_UP", "NO-CARRIER", "RUNNING", "DORMANT", "linkdown", "tentative"];

/// The folders of sysctls that every network namespace has; others come with
/// modules, in all namespaces at once.
const SYSCTL_FOLDERS: [&str; 2] = ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6"];

/// The random one among them.
const RANDOM_SYSCTL: &str = "ipv4/tcp_fastopen_key";

/// How long duplicate address detection may take before a test gives up.
const ADDRESS_BOUND: Duration = Duration::from_secs(10);

/// The state of a host or a namespace, as lines `<section>: <fact>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: Vec<String>,
}

impl Snapshot {
    /// Its lines, grouped by section.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The lines of one section: link, address, route, rule, neighbour, port,
    /// vlan, fdb, qdisc, filter, nft, iptables, ip6tables, sysctl, file.
    #[must_use]
    pub fn section(&self, name: &str) -> Vec<&str> {
        let facts = self.lines.iter().filter_map(|line| line.split_once(": "));
        facts.filter(|(section, _)| *section == name).map(|(_, fact)| fact).collect()
    }

    /// The snapshot without each line that contains one of `words`.
    #[must_use]
    pub fn without(&self, words: &[&str]) -> Self {
        let keep = |line: &&String| !words.iter().any(|word| line.contains(word));
        Self { lines: self.lines.iter().filter(keep).cloned().collect() }
    }

    /// What changed from this one to `after`, or `None`.
    #[must_use]
    pub fn diff(&self, after: &Self) -> Option<String> {
        unified_diff(&self.lines, &after.lines)
    }

    /// Fails the test unless `after` is the same; where the kernel may still be
    /// at work, [`Host::expect_unchanged`] waits.
    ///
    /// # Panics
    /// With what differs.
    #[track_caller]
    pub fn expect_same(&self, after: &Self) {
        if let Some(diff) = self.diff(after) {
            panic!("not the same\n{diff}");
        }
    }

    /// The snapshot with random values replaced by numbers in order of their
    /// appearance, to compare two hosts: MAC addresses, the IPv6 addresses
    /// made of them, and the names of veth links (`veth` and hexadecimal).
    #[must_use]
    pub fn normalised(&self) -> Self {
        let mut names = BTreeMap::new();
        let lines = self.lines.iter().map(|line| normalise_line(line, &mut names)).collect();
        Self { lines }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The host's network and the files below `folders`.
pub(crate) fn of_host(host: &Host, folders: &[&str]) -> Snapshot {
    let mut snapshot = of_network(host);
    for folder in folders {
        add_files(&mut snapshot.lines, Path::new(folder));
    }
    snapshot
}

/// The network namespace alone.
pub(crate) fn of_network(place: &impl Netns) -> Snapshot {
    let give_up = Instant::now() + ADDRESS_BOUND;
    let [links, addresses, mut neighbours, proxies] = loop {
        let neighbours = ["neighbour show nud permanent", "neighbour show proxy"];
        let read = ask(place, "ip", ["link show", "address show", neighbours[0], neighbours[1]]);
        if tentative(&read[1]).is_empty() {
            break read;
        }
        expect_in_time(place, give_up, &tentative(&read[1]));
    };
    let mut lines = Vec::new();
    let mut add = |section: &str, facts: Vec<String>| {
        lines.extend(facts.into_iter().map(|fact| format!("{section}: {fact}")));
    };
    add("link", links.iter().map(fact).collect());
    add("address", addresses.iter().flat_map(address_facts).collect());
    for family in ["-4", "-6"] {
        let program = format!("ip {family}");
        let [routes, rules] = ask(place, &program, ["route show table all", "rule show"]);
        add("route", sorted(routes.iter().filter(|route| !follows_from_carrier(route)).map(fact)));
        add("rule", rules.iter().map(|rule| format!("{family} {}", fact(rule))).collect());
    }
    neighbours.extend(proxies);
    add("neighbour", sorted(neighbours.iter().map(fact)));
    let [ports, vlans, entries] = ask(place, "bridge", ["link show", "vlan show", "fdb show"]);
    add("port", sorted(ports.iter().map(fact)));
    add("vlan", sorted(vlans.iter().map(fact)));
    add("fdb", sorted(entries.iter().filter(|entry| is_set_by_hand(entry)).map(fact)));
    let [qdiscs] = ask(place, "tc", ["qdisc show"]);
    add("qdisc", sorted(qdiscs.iter().map(fact)));
    add("filter", filters(place, &qdiscs));
    let nft = text(place, "nft -s list ruleset");
    // What iptables writes is a ruleset of nf_tables or has its tables named;
    // without either there is nothing that its own programs could show.
    let none_at_all = nft.as_deref() == Some("") && !has_legacy_tables(place);
    add("nft", rules(nft));
    if !none_at_all {
        add("iptables", rules(text(place, "iptables-save")));
        add("ip6tables", rules(text(place, "ip6tables-save")));
    }
    add("sysctl", sysctls(place));
    Snapshot { lines }
}

/// See [`Netns::wait_for_addresses`].
pub(crate) fn wait_for_addresses(place: &impl Netns) {
    let give_up = Instant::now() + ADDRESS_BOUND;
    loop {
        let [addresses] = ask(place, "ip -6", ["address show tentative"]);
        let tentative = tentative(&addresses);
        if tentative.is_empty() {
            return;
        }
        expect_in_time(place, give_up, &tentative);
    }
}

fn expect_in_time(place: &impl Netns, give_up: Instant, tentative: &[String]) {
    let place = place.place();
    assert!(
        Instant::now() < give_up,
        "addresses in {place} are still being checked: {tentative:?}"
    );
    pause();
}

/// The addresses that duplicate address detection is not done with; without a
/// carrier it does not begin.
fn tentative(addresses: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    for link in addresses {
        let has_carrier =
            link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == "LOWER_UP"));
        let infos = link["addr_info"].as_array().filter(|_| has_carrier);
        for info in infos.into_iter().flatten() {
            // A duplicate stays tentative for ever.
            if info["dadfailed"] != true && info["tentative"] == true {
                found.push(format!("{} {}", link["ifname"], info["local"]));
            }
        }
    }
    found
}

/// Asks a program of iproute2 several things in one process, since starting
/// one is what takes the time on an emulated processor.
fn ask<const N: usize>(place: &impl Netns, program: &str, questions: [&str; N]) -> [Vec<Value>; N] {
    let mut command = command(place, &format!("{program} -json -details -batch -"));
    command.stdin = questions.join("\n").into_bytes();
    if let Ok(output) = command.try_run()
        && output.success()
    {
        let answers = serde_json::Deserializer::from_str(&output.stdout).into_iter::<Vec<Value>>();
        let answers: Vec<Vec<Value>> = answers.map_while(Result::ok).collect();
        if let Ok(answers) = <[Vec<Value>; N]>::try_from(answers) {
            return answers.map(|list| list.into_iter().filter(|v| *v != json!({})).collect());
        }
    }
    // One of them has no answer here (no bridge VLANs, no such table): that is
    // no state, and the others are asked one by one.
    questions.map(|question| {
        let Some(text) = text(place, &format!("{program} -json -details {question}")) else {
            return Vec::new();
        };
        parse_list(&text).unwrap_or_else(|e| panic!("{program} {question}: {e}"))
    })
}

/// What a command prints, or `None` when it fails or is not there.
fn text(place: &impl Netns, words: &str) -> Option<String> {
    let output = command(place, words).try_run().ok()?;
    output.success().then_some(output.stdout)
}

fn command(place: &impl Netns, words: &str) -> Command {
    Command::new(words, place.place(), place.netns().map(Path::to_owned))
}

/// An object as one line of JSON, its keys sorted, volatile ones left out.
fn fact(value: &Value) -> String {
    let mut value = without_keys(value, &|key| VOLATILE.contains(&key));
    if let Some(map) = value.as_object_mut()
        && let Some(flags) = map.get_mut("flags").and_then(Value::as_array_mut)
    {
        flags.retain(|flag| !CARRIER_FLAGS.iter().any(|carrier| flag == carrier));
        if flags.is_empty() {
            map.remove("flags");
        }
    }
    // noop and noqueue say no more than whether the link is up.
    if let Some(map) = value.as_object_mut()
        && map.get("qdisc").is_some_and(|qdisc| qdisc == "noop" || qdisc == "noqueue")
    {
        map.remove("qdisc");
    }
    value.to_string()
}

/// The kernel's routes to link-local addresses of the host's own come when
/// duplicate address detection, which waits for the carrier, is done.
fn follows_from_carrier(route: &Value) -> bool {
    let is_link_local = route["dst"].as_str().is_some_and(|dst| dst.starts_with("fe80::"));
    is_link_local && route["table"] == "local" && route["protocol"] == "kernel"
}

fn sorted(facts: impl Iterator<Item = String>) -> Vec<String> {
    let mut facts: Vec<_> = facts.collect();
    facts.sort();
    facts
}

fn address_facts(link: &Value) -> Vec<String> {
    let name = link["ifname"].as_str().unwrap_or_default();
    let infos = link["addr_info"].as_array().into_iter().flatten();
    let facts = infos.map(|info| {
        let mut info = without_keys(info, &|key| VOLATILE.contains(&key));
        if let Some(map) = info.as_object_mut() {
            map.retain(|key, _| !CARRIER_FLAGS.contains(&key.as_str()));
        }
        format!("{name} {info}")
    });
    facts.collect()
}

/// Other forwarding entries are learned, or follow from the links' own
/// addresses.
fn is_set_by_hand(entry: &Value) -> bool {
    !entry["master"].is_null() && entry["state"] == "static"
}

/// Filters hang on a qdisc that takes them; only those that someone added are
/// asked, one command each.
fn filters(place: &impl Netns, qdiscs: &[Value]) -> Vec<String> {
    let mut facts = Vec::new();
    for qdisc in qdiscs {
        let (Some(kind), Some(dev)) = (qdisc["kind"].as_str(), qdisc["dev"].as_str()) else {
            continue;
        };
        if ["noqueue", "noop", "pfifo_fast", "fq_codel", "mq"].contains(&kind) {
            continue;
        }
        let hooks: &[&str] = match kind {
            "clsact" => &["ingress", "egress"],
            "ingress" => &["ingress"],
            _ => &["root"],
        };
        for hook in hooks {
            let shown = text(place, &format!("tc filter show dev {dev} {hook}"));
            let lines = shown.iter().flat_map(|text| text.lines());
            facts.extend(lines.map(|line| format!("{dev} {hook} {}", line.trim())));
        }
    }
    facts
}

/// Rules without what is no rule: comments, the date, counters, blank lines.
fn rules(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(without_counters).collect()
}

/// Whether the older iptables, apart from nf_tables, has tables here.
fn has_legacy_tables(place: &impl Netns) -> bool {
    let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let names = place.within(|| ["ip_tables_names", "ip6_tables_names"].map(read));
    names.into_iter().flatten().any(|names| !names.is_empty())
}

/// `:INPUT ACCEPT [12:3456]` without the numbers.
fn without_counters(line: &str) -> String {
    match line.rsplit_once(" [") {
        Some((rule, counters))
            if line.starts_with(':') && counters.ends_with(']') && counters.contains(':') =>
        {
            rule.to_owned()
        }
        _ => line.to_owned(),
    }
}

fn sysctls(place: &impl Netns) -> Vec<String> {
    place.within(|| {
        let mut facts = Vec::new();
        for folder in SYSCTL_FOLDERS {
            add_sysctls(&mut facts, Path::new(folder));
        }
        facts.sort();
        facts
    })
}

fn add_sysctls(facts: &mut Vec<String>, folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_sysctls(facts, &path);
            continue;
        }
        let name = path.strip_prefix("/proc/sys/net").unwrap_or(&path).display().to_string();
        if name == RANDOM_SYSCTL {
            continue;
        }
        // Some are only written (route/flush) or not set yet (stable_secret).
        if let Ok(value) = fs::read_to_string(&path) {
            facts.push(format!("net/{name} = {}", value.trim().replace(['\n', '\t'], " ")));
        }
    }
}

/// Files with mode, owner and content; a network namespace is only named.
fn add_files(lines: &mut Vec<String>, folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        // The test's own files; the machine's, behind a stand-in; the locks
        // that iptables and we leave.
        if path == Path::new(SCRATCH)
            || path == Path::new("/run/machine")
            || path == Path::new("/run/xtables.lock")
            || path == Path::new("/run/cni/oxcni/locks")
        {
            continue;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.mode() & 0o7777;
        let owner = format!("{}:{}", metadata.uid(), metadata.gid());
        let shown = path.display();
        if metadata.is_dir() {
            // Those that lead to our locks stay as well.
            if !Path::new("/run/cni/oxcni").starts_with(&path) {
                lines.push(format!("file: {shown}/ {mode:o} {owner}"));
            }
            add_files(lines, &path);
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).unwrap_or_default();
            lines.push(format!("file: {shown} -> {}", target.display()));
        } else if path.starts_with("/run/netns")
            && metadata.nlink() == 1
            && metadata.dev() != folder_dev(folder)
        {
            lines.push(format!("file: {shown} (namespace)"));
        } else if metadata.is_file() {
            let content = fs::read(&path).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            lines.push(format!("file: {shown} {mode:o} {owner} {content:?}"));
        } else {
            lines.push(format!("file: {shown} {mode:o} {owner} (special)"));
        }
    }
}

fn folder_dev(folder: &Path) -> u64 {
    fs::metadata(folder).map_or(0, |metadata| metadata.dev())
}

/// Replaces each random word of a line by its number.
fn normalise_line(line: &str, names: &mut BTreeMap<String, String>) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let mut text = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        match random_kind(word) {
            Some(kind) => {
                // An address made of a MAC is as random as the MAC.
                let number = names.len() + 1;
                let name = names.entry(word.to_owned());
                text.push_str(name.or_insert_with(|| format!("<{kind} {number}>")));
            }
            None => text.push_str(word),
        }
        let mut chars = tail.chars();
        text.extend(chars.next());
        rest = chars.as_str();
    }
    text
}

/// What a word is when it is random from run to run.
fn random_kind(word: &str) -> Option<&'static str> {
    let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let parts: Vec<_> = word.split(':').collect();
    if parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && is_hex(part)) {
        let fixed = word == "00:00:00:00:00:00"
            || word == "ff:ff:ff:ff:ff:ff"
            || word.starts_with("01:80:c2")
            || word.starts_with("33:33");
        return (!fixed).then_some("mac");
    }
    // fe80::xxxx:xxff:fexx:xxxx, and the same host part behind other prefixes.
    if let [.., third, fourth, _] = parts.as_slice()
        && third.ends_with("ff")
        && fourth.starts_with("fe")
        && parts.len() >= 5
    {
        return Some("eui64");
    }
    if let Some(suffix) = word.strip_prefix("veth") {
        return (suffix.len() >= 4 && is_hex(suffix)).then_some("veth");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_words_become_numbers() {
        let snapshot = Snapshot {
            lines: vec![
                r#"link: {"address":"12:34:56:78:9a:bc","ifname":"veth1a2b3c4d"}"#.to_owned(),
                r#"route: {"dev":"veth1a2b3c4d","dst":"fe80::1034:56ff:fe78:9abc"}"#.to_owned(),
                "link: vethhost 00:00:00:00:00:00 10.1.0.2 fe80::1".to_owned(),
            ],
        };
        let expected = [
            r#"link: {"address":"<mac 1>","ifname":"<veth 2>"}"#,
            r#"route: {"dev":"<veth 2>","dst":"<eui64 3>"}"#,
            "link: vethhost 00:00:00:00:00:00 10.1.0.2 fe80::1",
        ];
        assert_eq!(snapshot.normalised().lines(), expected);
    }

    #[test]
    fn counters_are_no_rules() {
        assert_eq!(without_counters(":INPUT ACCEPT [12:3456]"), ":INPUT ACCEPT");
        assert_eq!(without_counters("-A INPUT -j DROP"), "-A INPUT -j DROP");
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let lines = vec!["link: a: b".to_owned(), "linkage: c".to_owned()];
        let snapshot = Snapshot { lines };
        assert_eq!(snapshot.section("link"), ["a: b"]);
        assert_eq!(snapshot.without(&["a: b"]).lines(), ["linkage: c"]);
    }
}
