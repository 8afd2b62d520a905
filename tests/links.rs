//! What holds for every plugin that gives a container a link: the modules of
//! ptp, macvlan, ipvlan, vlan and dummy each run these on a configuration of
//! their own.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{Container, Host, Netns as _, Outcome, with_previous_result};

use crate::conf;
use crate::recorder::Recorder;

/// What is shared and stays: the folder of leases, with the lock and the mark of
/// the last address.
const STAYS: &[&str] = &["/var/lib/cni"];

/// A plugin with a configuration whose leases are host-local's.
pub(crate) struct Subject<'a> {
    pub(crate) host: &'a Host,
    pub(crate) plugin: &'static str,
    pub(crate) conf: Value,
}

impl Subject<'_> {
    #[track_caller]
    pub(crate) fn add(&self, container: &Container) -> Value {
        self.host.plugin(self.plugin).add(container, "eth0", &self.conf).expect_result()
    }

    #[track_caller]
    pub(crate) fn attach(&self, name: &str) -> (Container, Value) {
        let container = self.host.container(name);
        let result = self.add(&container);
        (container, result)
    }

    #[track_caller]
    pub(crate) fn del(&self, container: &Container) {
        self.host.plugin(self.plugin).del(container, "eth0", &self.conf).expect_ok();
    }

    pub(crate) fn check(&self, container: &Container, result: &Value) -> Outcome {
        let conf = with_previous_result(&self.conf, result);
        self.host.plugin(self.plugin).check(container, "eth0", &conf)
    }

    /// The addresses that are held.
    pub(crate) fn leases(&self) -> BTreeSet<String> {
        let is_lease = |name: &String| name.starts_with(|c: char| c.is_ascii_hexdigit());
        let folder = format!("/var/lib/cni/networks/{}", conf::NETWORK);
        self.host
            .files(folder)
            .into_iter()
            .filter(|name| is_lease(name) && name != "lock")
            .collect()
    }

    fn with(&self, keys: Value) -> Subject<'_> {
        Subject { host: self.host, plugin: self.plugin, conf: conf::with(&self.conf, keys) }
    }

    /// CHECK passes; after `damage` it fails and says `part`; and the container
    /// and the host are then as they were after a new ADD.
    #[track_caller]
    pub(crate) fn check_misses(&self, damage: impl FnOnce(&Container, &Value), part: &str) {
        let (container, result) = self.attach("checked");
        self.check(&container, &result).expect_ok();
        damage(&container, &result);
        self.check(&container, &result).expect_error(999, part);
        self.del(&container);
        container.destroy();
    }
}

/// Leases on the network of `outside`, which is the gateway.
pub(crate) fn ipam(families: &str) -> Value {
    let mut ranges = Vec::new();
    let mut routes = Vec::new();
    if families.contains('4') {
        let range =
            json!({"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.10", "gateway": "192.0.2.2"});
        ranges.push(json!([range]));
        routes.push(json!({"dst": "0.0.0.0/0"}));
    }
    if families.contains('6') {
        let range = json!({"subnet": "2001:db8:ffff::/64", "rangeStart": "2001:db8:ffff::10",
            "gateway": "2001:db8:ffff::2"});
        ranges.push(json!([range]));
        routes.push(json!({"dst": "::/0"}));
    }
    json!({"type": "host-local", "ranges": ranges, "routes": routes})
}

/// [`Host::outside`], where `uplink` has all its addresses: for tests that compare
/// the host with what it was.
pub(crate) fn settled_outside(host: &Host) -> Container {
    let outside = host.outside();
    let has_its_own = |routes: Vec<String>| routes.iter().any(|r| r.starts_with("local fe80::"));
    host.wait_until("uplink has its link-local addresses", || {
        has_its_own(host.routes("local")) && has_its_own(outside.routes("local"))
    });
    outside
}

/// ADD, CHECK and DEL at every version; DEL again; the host is what it was.
pub(crate) fn come_and_go_at_every_version(subject: &Subject<'_>) {
    let host = subject.host;
    for version in conf::versions(host) {
        let subject = subject.with(json!({"cniVersion": version}));
        let container = host.container("pod");
        let before = host.snapshot();
        let result = subject.add(&container);
        assert_eq!(result["cniVersion"], version);
        if version.as_str() >= "0.3.0" {
            let interfaces = result["interfaces"].as_array().expect("interfaces");
            let own = interfaces.last().expect("the container's");
            assert_eq!((&own["name"], &own["sandbox"]), (&json!("eth0"), &json!("/run/netns/pod")));
            assert_eq!(own["mac"], container.mac("eth0"));
            let of_ip = &result["ips"][0]["interface"];
            assert_eq!(*of_ip, interfaces.len() - 1, "{result}");
        } else {
            let address = result["ip4"]["ip"].as_str().expect("an address");
            assert!(container.addresses("eth0").contains(&address.to_owned()), "{result}");
        }
        if version.as_str() >= "0.4.0" {
            subject.check(&container, &result).expect_ok();
        }
        assert!(!subject.leases().is_empty());
        subject.del(&container);
        assert_eq!((container.links(), subject.leases()), (vec!["lo".to_owned()], BTreeSet::new()));
        subject.del(&container);
        host.expect_unchanged_but(&before, STAYS);
        container.destroy();
    }
}

/// DEL before ADD, twice, without a namespace or with one that is gone, stale or
/// new, after the link was deleted or renamed, without the previous result, and
/// with a configuration that ADD would refuse: each succeeds, and nothing stays.
pub(crate) fn del_works_from_any_state(subject: &Subject<'_>) {
    let host = subject.host;
    let never = host.container("never");
    subject.del(&never);
    type Change = fn(&Container);
    let states: [(&str, Change); 7] = [
        ("the namespace is gone", |c| c.destroy()),
        ("its file is stale", |c| c.make_stale_file()),
        ("a new namespace has its name", |c| {
            c.destroy();
            c.recreate();
        }),
        ("the link is gone", |c| drop(c.exec("ip link del eth0"))),
        ("the link was renamed", |c| {
            c.exec("ip link set eth0 down");
            c.exec("ip link set eth0 name moved");
        }),
        ("another link has its name", |c| {
            c.exec("ip link set eth0 down");
            c.exec("ip link set eth0 name moved");
            c.exec("ip link add eth0 type bridge");
        }),
        ("nothing happened", |_| {}),
    ];
    for (index, (state, change)) in states.iter().enumerate() {
        let container = host.container(&format!("pod{index}"));
        let before = host.snapshot();
        subject.add(&container);
        assert!(!subject.leases().is_empty());
        change(&container);
        host.note(format!("DEL when {state}"));
        subject.del(&container);
        assert_eq!(subject.leases(), BTreeSet::new(), "when {state}");
        if container.path().is_file()
            && host.try_exec(format!("ip netns exec pod{index} true")).success()
        {
            let left = container.links();
            assert!(!left.contains(&"moved".to_owned()), "when {state}: {left:?}");
            let kept = left.contains(&"eth0".to_owned());
            assert_eq!(kept, *state == "another link has its name", "when {state}: {left:?}");
        }
        host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
        subject.del(&container);
    }
    let container = host.container("lost");
    let before = host.snapshot();
    subject.add(&container);
    host.plugin(subject.plugin).del_without_netns(&container, "eth0", &subject.conf).expect_ok();
    assert_eq!(subject.leases(), BTreeSet::new());
    // Without its name the namespace is beyond reach; it goes with what is in it.
    container.destroy();
    host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
}

/// DEL with keys that ADD would refuse.
pub(crate) fn del_accepts_a_bad_configuration(subject: &Subject<'_>, bad: &[Value]) {
    let host = subject.host;
    for (index, keys) in bad.iter().enumerate() {
        let container = host.container(&format!("pod{index}"));
        let before = host.snapshot();
        subject.add(&container);
        let other = host.container(&format!("other{index}"));
        let refused = subject.with(keys.clone());
        let outcome = host.plugin(subject.plugin).add(&other, "eth0", &refused.conf);
        assert!(!outcome.success(), "ADD takes {keys}");
        assert_eq!(other.links(), ["lo"], "{keys}");
        refused.del(&container);
        assert_eq!((container.links(), subject.leases()), (vec!["lo".to_owned()], BTreeSet::new()));
        other.destroy();
        host.expect_unchanged_but(&before, STAYS);
    }
}

/// An IPAM plugin of others may need the link to give an address back, as one that tells
/// a DHCP server: at DEL, and when ADD fails behind it, the link is there and up, and
/// does not use the address any more. Then it goes, whatever that plugin says.
pub(crate) fn ipam_of_others_finds_the_link(subject: &Subject<'_>) {
    let host = subject.host;
    let container = host.container("pod");
    let (here, elsewhere) = (json!([]), json!([{"dst": "10.8.0.0/16", "gw": "203.0.113.1"}]));
    for (routes, code) in [(&here, 0), (&here, 1), (&elsewhere, 0)] {
        let ips = json!([{"address": "192.0.2.10/24"}, {"address": "2001:db8:ffff::10/64"}]);
        let result = json!({"cniVersion": "1.0.0", "ips": ips, "routes": routes});
        let seen = host.scratch().join("seen");
        let look = "ip -o link show up dev $CNI_IFNAME; ip -o address show dev $CNI_IFNAME";
        let script = format!(
            "[ $CNI_COMMAND != ADD ] || echo '{result}'\n[ $CNI_COMMAND = DEL ] || exit 0\n\
             ip netns exec \"${{CNI_NETNS##*/}}\" sh -c '{look}' >{} 2>&1\nexit {code}",
            seen.display()
        );
        let ipam = Recorder::new(host, "dhcp", &script);
        let conf = conf::with(&subject.conf, json!({"ipam": ipam.ipam()}));
        let before = host.snapshot();
        let plugin = || host.plugin(subject.plugin).cni_path(&ipam.path());
        let added = plugin().add(&container, "eth0", &conf);
        if routes == &here {
            added.expect_result();
            assert_eq!(container.addresses("eth0").len(), 2, "{added}");
            let removed = plugin().del(&container, "eth0", &conf);
            assert_eq!(removed.success(), code == 0, "{removed}");
        } else {
            added.expect_error(999, "10.8.0.0/16");
        }
        assert_eq!(ipam.verbs(), ["ADD", "DEL"]);
        let seen = std::fs::read_to_string(&seen).expect("the plugin has looked");
        assert!(seen.contains(": eth0") && seen.contains("UP"), "{seen}");
        assert!(!seen.contains("192.0.2.10") && !seen.contains("2001:db8"), "{seen}");
        assert_eq!(container.links(), ["lo"], "{code}");
        host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/scratch"]);
        std::fs::remove_file(ipam.file("log")).expect("it was called");
    }
}

/// CHECK passes with a single address, a route in a table of its own, and two ways
/// to one place, which the kernel makes one route of; and misses each of them.
pub(crate) fn check_knows_every_kind_of_route(subject: &Subject<'_>) {
    let ipam = json!({"type": "static",
        "addresses": [{"address": "192.0.2.10/24", "gateway": "192.0.2.2"},
            {"address": "198.51.100.9/32"},
            {"address": "2001:db8:ffff::10/64", "gateway": "2001:db8:ffff::2"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"},
            {"dst": "10.8.0.0/16", "table": 100, "priority": 5, "mtu": 1300, "advmss": 1200},
            {"dst": "2001:db8:8::/48", "gw": "2001:db8:ffff::2"},
            {"dst": "2001:db8:8::/48", "gw": "2001:db8:ffff::3"}]});
    let subject = subject.with(json!({"ipam": ipam}));
    for (damage, part) in [
        ("ip address del 198.51.100.9/32 dev eth0", "198.51.100.9/32 is missing"),
        ("ip route del default", "route to 0.0.0.0/0 via 192.0.2.2 is missing"),
        ("ip -6 route del default", "route to ::/0 via 2001:db8:ffff::2 is missing"),
        ("ip route flush table 100", "route to 10.8.0.0/16 via 192.0.2.2 in table 100 is missing"),
        (
            "ip route change 10.8.0.0/16 via 192.0.2.2 metric 5 advmss 1200 table 100",
            "route to 10.8.0.0/16 via 192.0.2.2 in table 100",
        ),
        (
            "ip route change 10.8.0.0/16 via 192.0.2.2 metric 5 mtu 1300 table 100",
            "route to 10.8.0.0/16 via 192.0.2.2 in table 100",
        ),
        (
            "ip -6 route del 2001:db8:8::/48 via 2001:db8:ffff::3",
            "route to 2001:db8:8::/48 via 2001:db8:ffff::3 is missing",
        ),
    ] {
        subject.check_misses(|container, _| drop(container.exec(damage)), part);
    }
}

/// A link without Ethernet addresses is no parent for links that have some.
pub(crate) fn a_parent_of_the_wrong_kind_is_refused(subject: &Subject<'_>) {
    let host = subject.host;
    host.exec("ip tuntap add dev raw0 mode tun");
    host.exec("ip link set raw0 up");
    let container = host.container("pod");
    let (before, inside) = (host.snapshot(), container.network_snapshot());
    let refused = subject.with(json!({"master": "raw0"}));
    let outcome = host.plugin(subject.plugin).add(&container, "eth0", &refused.conf);
    outcome.expect_error(999, "in /run/netns/pod");
    assert_eq!(refused.leases(), BTreeSet::new());
    host.expect_unchanged_but(&before, STAYS);
    container.network_snapshot().expect_same(&inside);
    refused.del(&container);
}

/// How many containers come and go at once: `pod0`, `pod1`, ..
pub(crate) const MANY: usize = 8;

/// Many ADDs at once, then many DELs at once.
pub(crate) fn many_at_once(subject: &Subject<'_>) {
    const COUNT: usize = MANY;
    let host = subject.host;
    let containers: Vec<_> = (0..COUNT).map(|n| host.container(&format!("pod{n}"))).collect();
    let before = host.snapshot();
    let results = host.parallel(COUNT, |n| subject.add(&containers[n]));
    let addresses: BTreeSet<_> =
        results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    assert_eq!((addresses.len(), subject.leases().len() >= COUNT), (COUNT, true));
    host.parallel(COUNT, |n| subject.check(&containers[n], &results[n]).expect_ok());
    host.parallel(COUNT, |n| subject.del(&containers[n]));
    assert_eq!(subject.leases(), BTreeSet::new());
    host.expect_unchanged_but(&before, STAYS);
}

/// A second ADD of the same attachment is refused and takes nothing away.
pub(crate) fn a_second_add_takes_nothing_away(subject: &Subject<'_>) {
    let (container, result) = subject.attach("pod");
    let state = || (subject.host.links(), container.links(), subject.leases());
    let before = state();
    let again = subject.host.plugin(subject.plugin).add(&container, "eth0", &subject.conf);
    assert!(!again.success(), "{again}");
    assert_eq!(state(), before);
    subject.check(&container, &result).expect_ok();
}

/// A GC with one valid attachment keeps that, and frees the address of another
/// that died unseen; without a list it removes nothing.
pub(crate) fn gc_keeps_what_is_valid(subject: &Subject<'_>) {
    let host = subject.host;
    let ((kept, kept_result), (lost, _)) = (subject.attach("kept"), subject.attach("lost"));
    let held = subject.leases().len();
    lost.destroy();
    host.plugin(subject.plugin).gc(&subject.conf).expect_ok();
    assert_eq!(subject.leases().len(), held, "nobody said what is valid");
    let valid = json!([{"containerID": kept.id(), "ifname": "eth0"}]);
    let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": valid}));
    host.plugin(subject.plugin).gc(&conf).expect_ok();
    assert_eq!(subject.leases().len(), held / 2);
    subject.check(&kept, &kept_result).expect_ok();
    let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": []}));
    host.plugin(subject.plugin).gc(&conf).expect_ok();
    assert_eq!(subject.leases(), BTreeSet::new());
}

/// What leads over a shim to the addresses that the next one inherits.
pub(crate) fn ways_to_the_heir(host: &Host) -> Vec<String> {
    let leads_there = |way: &String| {
        way.starts_with("192.0.2.10 dev shim") || way.starts_with("2001:db8:ffff::10 dev shim")
    };
    host.routes("main").into_iter().filter(leads_there).collect()
}

/// Who gets the addresses of a dead container has the host's ways to them alone, and the
/// late DEL or a GC of the dead one takes nothing of the heir's: also where the dead
/// one's ways are still there, as an ADD of an older version leaves them.
pub(crate) fn an_heir_is_reached_whatever_the_dead_left(subject: &Subject<'_>) {
    let host = subject.host;
    let ipam = conf::fixed(&["192.0.2.10/24", "2001:db8:ffff::10/64"]);
    let subject = subject.with(json!({"hostShim": true, "ipam": ipam}));
    let plugin = host.plugin(subject.plugin);
    for late in ["DEL", "GC"] {
        let (dead, _) = subject.attach(&format!("dead-{late}"));
        let of_the_dead = ways_to_the_heir(host);
        assert_eq!(of_the_dead.len(), 2);
        dead.destroy();
        let (heir, result) = (host.container(&format!("heir-{late}")), OnceCell::new());
        host.wait_until("the namespace has ended", || {
            let outcome = plugin.add(&heir, "eth0", &subject.conf);
            outcome.success() && result.set(outcome.expect_result()).is_ok()
        });
        let own = ways_to_the_heir(host);
        let is_new = own.iter().all(|way| !of_the_dead.contains(way));
        assert!(own.len() == 2 && is_new, "{late}: {of_the_dead:?} {own:?}");
        for way in &of_the_dead {
            host.exec(format!("ip route add {way}"));
        }
        let valid = json!([{"containerID": heir.id(), "ifname": "eth0"}]);
        let conf = conf::with(&subject.conf, json!({"cni.dev/valid-attachments": valid}));
        let outcome = match late {
            "DEL" => plugin.del_without_netns(&dead, "eth0", &subject.conf),
            _ => plugin.gc(&conf),
        };
        outcome.expect_ok();
        assert_eq!(ways_to_the_heir(host), own, "{late}");
        subject.check(&heir, result.get().expect("it was added")).expect_ok();
        host.expect_ping("192.0.2.10");
        host.expect_ping("2001:db8:ffff::10");
        subject.del(&heir);
        heir.destroy();
    }
}

/// The configuration's `dns` counts, or else IPAM's.
pub(crate) fn dns_is_the_configurations_or_ipams(subject: &Subject<'_>) {
    let host = subject.host;
    host.write("/run/resolv.conf", "nameserver 192.0.2.53\nsearch ipam.example\n");
    let ipam = conf::with(&subject.conf["ipam"], json!({"resolvConf": "/run/resolv.conf"}));
    let ipams = subject.with(json!({"ipam": ipam}));
    let (container, result) = ipams.attach("pod");
    let expected = json!({"nameservers": ["192.0.2.53"], "search": ["ipam.example"]});
    assert_eq!(result["dns"], expected);
    ipams.del(&container);
    let own = json!({"nameservers": ["192.0.2.54"], "domain": "own.example"});
    let result = ipams.with(json!({"dns": own})).add(&container);
    assert_eq!(result["dns"], own);
}
