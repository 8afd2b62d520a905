//! What STATUS says of each fault. The table is that of docs/reliability.md: a
//! row there is a case here, and the other way round.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Feature, Host, Netns as _, Outcome, Plugin};

use crate::conf::{fixed, newest_version, of_type, with};
use crate::masquerade::install_iptables;
use crate::unprivileged::TableOwner;

/// A plugin, a fault in the words of the table, what it needs, and how the fault is
/// made and STATUS asked.
type Fault = (&'static str, &'static str, &'static [Feature], fn(&Host) -> Outcome);

const PAGE: &str = include_str!("../docs/reliability.md");

pub(crate) fn list() -> Vec<Case> {
    let case = |&(plugin, fault, needs, ask): &Fault| {
        let name = format!("status::{}::{}", slug(plugin), slug(fault));
        Case::new(name, needs, move |host| expect_row(plugin, fault, &ask(host))).ours_only()
    };
    let mut list: Vec<Case> = FAULTS.iter().map(case).collect();
    list.push(Case::pure("status::the_table_has_a_row_for_each_case", || {
        let cases = FAULTS.iter().map(|(plugin, fault, ..)| (*plugin, *fault));
        let cases: BTreeSet<_> = cases.chain([MODULE, VLANS, SHAPER, PRIVILEGE, ENTRY]).collect();
        let rows: BTreeSet<_> = rows().map(|row| (row[0], row[1])).collect();
        assert_eq!(rows, cases, "left: docs/reliability.md; right: tests/status.rs");
    }));
    list.push(Case::pure("status::every_plugin_has_a_row_or_a_reason", every_plugin_has_a_row));
    let special = testkit::cases! {
        [Bridge] a_kernel_without_the_module,
        [Bridge] a_kernel_without_vlans_on_bridges,
        [Bridge] a_plugin_without_the_capability,
        [Bridge] a_read_only_proc_that_is_right,
        [Bridge, Iptables] locks_take_no_bytes,
    };
    list.extend(special.into_iter().map(Case::ours_only));
    list.push(Case::new("status::without_a_fault_it_succeeds", &[Feature::OurPlugins], healthy));
    let refusing = Case::new("status::it_refuses_what_add_would", &[], refusing);
    list.push(refusing.ours_only());
    list
}

const FAULTS: &[Fault] = &[
    ("bridge", "a link of another kind has the bridge's name", &[], |host| {
        host.exec("ip link add cni0 type veth peer name other");
        status(host, "bridge", json!({}))
    }),
    ("bridge", "the folder of its lock is below a link that leads nowhere", &[], |host| {
        host.exec("rm -rf /run/cni");
        host.exec("ln -s /none-such /run/cni");
        status(host, "bridge", json!({}))
    }),
    ("bridge", "it has another gateway address than host-local will give", &[], |host| {
        let keys = |subnet: &str| {
            json!({"isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}})
        };
        let conf = of_type(host, "bridge", keys("10.244.1.0/24"));
        host.plugin("bridge").add(&host.container("before"), "eth0", &conf).expect_result();
        // In the network's own words, and in those of flanneld, which leased another.
        status(host, "bridge", with(&keys("10.244.2.0/24"), json!({"forceAddress": true})))
            .expect_ok();
        let told = status(host, "bridge", keys("10.244.1.0/24"));
        let lease = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
                     FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        host.write("/run/flannel/subnet.env", lease);
        same([status(host, "flannel", json!({})), told])
    }),
    ("bridge", "the folder of its lock cannot be written", &[], |host| {
        host.exec("mkdir -p -m 700 /run/cni/oxcni/locks");
        host.exec("mount -t tmpfs -o ro tmpfs /run/cni/oxcni/locks");
        status(host, "bridge", json!({}))
    }),
    (
        "bridge",
        "`ipMasqBackend` is `iptables`, and that is not installed",
        &[Feature::Nft],
        |host| {
            install_iptables(host, "");
            let ipam = fixed(&["10.1.0.2/24"]);
            status(
                host,
                "bridge",
                json!({"ipMasq": true, "ipMasqBackend": "iptables", "ipam": ipam}),
            )
        },
    ),
    (
        "bridge",
        "`ipMasqBackend` is `nftables`, and the kernel has none",
        &[Feature::Strace],
        |host| {
            let conf =
                of_type(host, "bridge", json!({"ipMasq": true, "ipMasqBackend": "nftables"}));
            // Its second socket.
            host.plugin("bridge").fail_call("socket", "EPROTONOSUPPORT", 2).status(&conf)
        },
    ),
    (
        "bridge",
        "`macspoofchk` is set, and the kernel has no nftables",
        &[Feature::Strace],
        |host| {
            let conf = of_type(host, "bridge", json!({"macspoofchk": true}));
            host.plugin("bridge").fail_call("socket", "EPROTONOSUPPORT", 2).status(&conf)
        },
    ),
    ("every plugin with `ipam`", "the address plugin is not installed", &[], |host| {
        status(host, "bridge", json!({"ipam": {"type": "none-such"}}))
    }),
    ("every plugin with `ipam`", "the address plugin cannot serve an ADD", &[], |host| {
        full(host);
        status(host, "ptp", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/30"}}))
    }),
    ("macvlan, vlan, ipvlan", "the parent is not there", &[], |host| {
        let parent = json!({"master": "eth7", "vlanId": 5, "ipam": fixed(&["10.1.0.2/24"])});
        same(["macvlan", "vlan", "ipvlan"].map(|plugin| status(host, plugin, parent.clone())))
    }),
    ("macvlan, vlan, ipvlan", "the parent is down", &[], |host| {
        host.exec("ip link add eth7 type veth peer name other");
        let parent = json!({"master": "eth7", "vlanId": 5, "ipam": fixed(&["10.1.0.2/24"])});
        // Of macvlan and ipvlan an ADD makes a link all the same, which leads nowhere.
        same(
            ["macvlan", "vlan", "ipvlan"]
                .map(|plugin| host.plugin(plugin).status(&of_type(host, plugin, parent.clone()))),
        )
    }),
    ("macvlan, ipvlan", "the parent is a port", &[Feature::Bridge], |host| {
        parent(host);
        host.exec("ip link add br0 type bridge");
        host.exec("ip link set eth7 master br0");
        same(["macvlan", "ipvlan"].map(|plugin| status(host, plugin, on_parent())))
    }),
    ("macvlan, ipvlan", "the parent is no Ethernet link", &[Feature::Tun], |host| {
        host.exec("ip tuntap add dev eth7 mode tun");
        host.exec("ip link set eth7 up");
        same(["macvlan", "ipvlan"].map(|plugin| status(host, plugin, on_parent())))
    }),
    (
        "macvlan",
        "a macvlan of the host has the parent in mode passthru",
        &[Feature::Macvlan],
        |host| {
            parent(host);
            host.exec("ip link add link eth7 name mv0 type macvlan mode passthru");
            status(host, "macvlan", on_parent())
        },
    ),
    (
        "macvlan",
        "the mode is passthru, and the host has a macvlan on the parent",
        &[Feature::Macvlan],
        |host| {
            parent(host);
            host.exec("ip link add link eth7 name mv0 type macvlan mode bridge");
            status(host, "macvlan", with(&on_parent(), json!({"mode": "passthru"})))
        },
    ),
    ("ipvlan", "the host has a macvlan on the parent", &[Feature::Macvlan], |host| {
        parent(host);
        host.exec("ip link add link eth7 name mv0 type macvlan mode bridge");
        status(host, "ipvlan", on_parent())
    }),
    ("macvlan", "no parent is named, and there is no default route", &[], |host| {
        status(host, "macvlan", json!({"ipam": fixed(&["10.1.0.2/24"])}))
    }),
    ("host-device", "the device is not there", &[], |host| {
        status(host, "host-device", json!({"device": "ens5"}))
    }),
    ("host-device", "the device is the loopback device", &[], |host| {
        status(host, "host-device", json!({"device": "lo"}))
    }),
    ("host-device", "its records cannot be written", &[], |host| {
        host.exec("ip link add ens5 type veth peer name other");
        read_only("/var/lib/cni", host);
        status(host, "host-device", json!({"device": "ens5"}))
    }),
    ("tuning, sbr", "their records cannot be written", &[Feature::Bridge], |host| {
        let conf = chained(host);
        read_only("/run/cni", host);
        let keys = json!({"mtu": 1400, "prevResult": conf});
        same(["tuning", "sbr"].map(|plugin| status(host, plugin, keys.clone())))
    }),
    (
        "bridge, ptp",
        "a setting of new links in /proc/sys is not what it must be, and cannot be written",
        &[Feature::Bridge, Feature::Ipv6],
        |host| {
            read_only_proc(host);
            let keys = gateway();
            same(["bridge", "ptp"].map(|plugin| status(host, plugin, keys.clone())))
        },
    ),
    (
        "bridge, ptp",
        "the host is to be the gateway and forwards nothing, and that cannot be written",
        &[Feature::Bridge],
        |host| {
            accept_no_routers(host);
            read_only_proc(host);
            let keys = gateway();
            same(["bridge", "ptp"].map(|plugin| status(host, plugin, keys.clone())))
        },
    ),
    ("tap", "the host has no tap devices", &[], |host| {
        host.exec("mount -t tmpfs tmpfs /dev/net");
        status(host, "tap", json!({}))
    }),
    ("flannel", "flanneld has not leased a subnet", &[], |host| status(host, "flannel", json!({}))),
    ("flannel", "its file lacks a key", &[], |host| {
        host.write("/run/flannel/subnet.env", "FLANNEL_NETWORK=10.1.0.0/16\n");
        status(host, "flannel", json!({}))
    }),
    ("flannel", "what it remembers cannot be written", &[], |host| {
        lease_subnet(host);
        read_only("/run/states", host);
        status(host, "flannel", json!({"dataDir": "/run/states"}))
    }),
    ("flannel", "the delegate is not installed", &[], |host| {
        lease_subnet(host);
        status(host, "flannel", json!({"delegate": {"type": "none-such"}}))
    }),
    (
        "portmap",
        "`backend` is `iptables`, or the conditions are for it, and that is not installed",
        &[Feature::Nft],
        |host| {
            install_iptables(host, "");
            let conditions = json!({"conditionsV6": ["!", "-s", "2001:db8::/32"]});
            same([json!({"backend": "iptables"}), conditions].map(|keys| mapped(host, keys)))
        },
    ),
    ("portmap", "`externalSetMarkChain` names no chain", &[Feature::Iptables], |host| {
        let keys = json!({"externalSetMarkChain": "KUBE-MARK-MASQ"});
        let told = mapped(host, keys.clone());
        host.exec("iptables -t nat -N KUBE-MARK-MASQ");
        host.exec("ip6tables -t nat -N KUBE-MARK-MASQ");
        mapped(host, keys).expect_ok();
        told
    }),
    (
        "portmap",
        "the conditions are for `nft`, and that is not installed",
        &[Feature::Nft, Feature::Bridge],
        |host| {
            hide_nft(host);
            mapped(host, json!({"conditionsV4": ["ip", "saddr", "192.0.2.0/24"]}))
        },
    ),
    (
        "bridge, firewall, portmap",
        "another process owns their table of nftables",
        &[Feature::Nft, Feature::Bridge],
        |host| {
            let result = chained(host);
            let _owner = TableOwner::start(host);
            same(each_by_nftables(host, &result))
        },
    ),
    (
        "bridge, firewall, portmap",
        "a chain, set or map in their table of nftables is of another kind",
        &[Feature::Nft, Feature::Bridge],
        |host| {
            let result = chained(host);
            for object in [
                "table ip cni_hostport",
                "map ip cni_hostport any_address { type ipv4_addr : ipv4_addr ; }",
                "table inet cni_firewall",
                "chain inet cni_firewall forward { type filter hook input priority 0 ; }",
                "table inet cni_plugins_masquerade",
                "chain inet cni_plugins_masquerade postrouting { type nat hook output priority 0 ; }",
                "table bridge nat",
                "chain bridge nat PREROUTING { type filter hook input priority -300 ; }",
            ] {
                host.exec(format!("nft add {object}"));
            }
            same(each_by_nftables(host, &result))
        },
    ),
    ("firewall", "`backend` is `iptables`, and that is not installed", &[Feature::Nft], |host| {
        install_iptables(host, "");
        status(host, "firewall", json!({"backend": "iptables"}))
    }),
    ("firewall", "`backend` is `firewalld`, which does not run", &[], |host| {
        status(host, "firewall", json!({"backend": "firewalld"}))
    }),
    ("host-local", "a range set has no free address", &[], |host| {
        full(host);
        status(host, "host-local", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/30"}}))
    }),
    ("host-local", "the disk is full", &[], |host| {
        fs::create_dir_all(LEASES).expect("a private folder");
        host.exec(format!("mount -t tmpfs -o size=16k tmpfs {LEASES}"));
        let filler = |n: usize| fs::write(Path::new(LEASES).join(format!("filler{n}")), [1; 4096]);
        let full = (0..100).find(|n| filler(*n).is_err());
        assert!(full.is_some(), "it does not fill up");
        let told = leased(host, json!({}));
        host.exec(format!("umount {LEASES}"));
        told
    }),
    ("host-local", "the directory cannot be written", &[], |host| {
        fs::create_dir_all(LEASES).expect("a private folder");
        host.exec(format!("mount -t tmpfs tmpfs {LEASES}"));
        host.exec(format!("mount -o remount,bind,ro {LEASES}"));
        let told = leased(host, json!({}));
        host.exec(format!("umount {LEASES}"));
        told
    }),
    ("host-local", "another process keeps the lock", &[], |host| {
        fs::create_dir_all(LEASES).expect("a private folder");
        let lock = fs::File::create(format!("{LEASES}/lock")).expect("our folder");
        lock.lock().expect("nobody has it");
        leased(host, json!({"lockTimeout": 0}))
    }),
    ("host-local", "`resolvConf` cannot be read", &[], |host| {
        leased(host, json!({"resolvConf": "/run/none-such"}))
    }),
    ("every plugin", "the configuration is not valid", &[], |host| {
        same(["bridge", "firewall"].map(|plugin| {
            let key = if plugin == "bridge" { "mtu" } else { "backend" };
            status(host, plugin, json!({key: []}))
        }))
    }),
];

fn parent(host: &Host) {
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
}

fn on_parent() -> Value {
    json!({"master": "eth7", "ipam": fixed(&["10.1.0.2/24"])})
}

const LEASES: &str = "/var/lib/cni/networks/net";

/// Rows whose fault a kernel has or has not, and the one of all plugins.
const MODULE: (&str, &str) =
    ("macvlan, ipvlan, vlan, dummy, vrf, bandwidth", "the kernel lacks the module");
const VLANS: (&str, &str) = ("bridge", "VLANs are wanted, and the kernel's bridges know none");
const SHAPER: (&str, &str) = ("bandwidth", "the kernel lacks the token bucket");
const ENTRY: (&str, &str) = (
    "bridge, ptp, macvlan, ipvlan, vlan, dummy, host-device, tap, loopback, flannel, bandwidth, tuning, sbr, vrf",
    "the plugin has no `CAP_SYS_ADMIN`",
);
const PRIVILEGE: (&str, &str) = (
    "bridge, ptp, macvlan, ipvlan, vlan, dummy, host-device, tap, loopback, flannel, bandwidth, firewall, portmap, tuning, sbr, vrf",
    "the plugin has no `CAP_NET_ADMIN`",
);

/// Plugins that nothing of the host can keep from an ADD.
const NEED_NOTHING: &[(&str, &str)] = &[("static", "its configuration has all it gives")];

const PLUGINS: &str = include_str!("../plugins/main.rs");

fn every_plugin_has_a_row() {
    let named = PLUGINS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("#[cfg(feature = \"")?.strip_suffix("\")]"));
    let exempt = NEED_NOTHING.iter().map(|(plugin, _)| *plugin);
    let told: BTreeSet<_> = rows().flat_map(|row| row[0].split(", ")).chain(exempt).collect();
    let untold: Vec<_> = named.filter(|plugin| !told.contains(plugin)).collect();
    assert!(untold.is_empty(), "docs/reliability.md has no row for {untold:?}");
    assert!(told.contains("bridge"), "{told:?}");
}

/// What STATUS says; and an ADD fails as well.
#[track_caller]
fn status(host: &Host, plugin: &str, keys: Value) -> Outcome {
    asked(host, &host.plugin(plugin), &of_type(host, plugin, keys))
}

#[track_caller]
fn asked(host: &Host, plugin: &Plugin, conf: &Value) -> Outcome {
    let told = plugin.status(conf);
    let kind = conf["type"].as_str().expect("a type");
    let mut names = (0..).map(|n| format!("for-{kind}-{n}"));
    let name = names.find(|name| !Path::new("/run/netns").join(name).exists());
    let added = plugin.add(&host.container(&name.expect("a free one")), "eth0", conf);
    assert_eq!(added.success(), told.success(), "STATUS: {told}\nADD: {added}");
    told
}

/// STATUS of a portmap that would map a port.
#[track_caller]
fn mapped(host: &Host, keys: Value) -> Outcome {
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
    let ips = json!([{"address": "10.1.0.2/24"}, {"address": "2001:db8:1::2/64"}]);
    let more = json!({"runtimeConfig": {"portMappings": [mapping]},
        "prevResult": {"cniVersion": newest_version(host), "ips": ips}});
    status(host, "portmap", with(&more, keys))
}

/// What each plugin that has rules in nf_tables says: the bridge's of both.
#[track_caller]
fn each_by_nftables(host: &Host, result: &Value) -> [Outcome; 5] {
    let behind = |keys: Value| with(&keys, json!({"prevResult": result}));
    let masquerading = json!({"ipMasq": true, "ipam": fixed(&["10.1.0.2/24"])});
    [
        status(host, "bridge", with(&masquerading, json!({"ipMasqBackend": "nftables"}))),
        status(host, "bridge", masquerading),
        status(host, "bridge", json!({"macspoofchk": true})),
        status(host, "firewall", behind(json!({}))),
        mapped(host, json!({})),
    ]
}

fn hide_nft(host: &Host) {
    for folder in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        let command = Path::new(folder).join("nft");
        if command.is_file() {
            host.exec(format!("mount --bind /dev/null {}", command.display()));
        }
    }
}

/// The result of a bridge that plugins may be chained behind. Its interface has the
/// name of theirs, and lies in no container.
fn chained(host: &Host) -> Value {
    let conf = of_type(host, "bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}));
    host.plugin("bridge").add(&host.container("chained"), "eth0", &conf).expect_result()
}

fn read_only(folder: &str, host: &Host) {
    fs::create_dir_all(folder).expect("a private folder");
    host.exec(format!("mount -t tmpfs -o ro tmpfs {folder}"));
}

fn read_only_proc(host: &Host) {
    host.exec("mount --bind /proc/sys /proc/sys");
    host.exec("mount -o remount,ro,bind /proc/sys");
}

/// As what bridge and ptp set, for new links; nothing to do without IPv6.
fn accept_no_routers(host: &Host) {
    if Feature::Ipv6.present() {
        host.exec("sysctl -q -w net.ipv6.conf.default.accept_ra=0");
    }
}

/// What an ADD of a bridge or of ptp succeeds with.
fn gateway() -> Value {
    let address = json!({"address": "10.1.0.2/24", "gateway": "10.1.0.1"});
    json!({"isGateway": true, "ipam": {"type": "static", "addresses": [address]}})
}

fn a_read_only_proc_that_is_right(host: &Host) {
    accept_no_routers(host);
    host.exec("sysctl -q -w net.ipv4.ip_forward=1");
    read_only_proc(host);
    for plugin in ["bridge", "ptp"] {
        status(host, plugin, gateway()).expect_ok();
    }
}

/// What is full of bytes has room for an empty file.
fn locks_take_no_bytes(host: &Host) {
    host.exec("mkdir -p /run/cni");
    host.exec("mount -t tmpfs -o size=16k tmpfs /run/cni");
    let filler = |n: usize| fs::write(format!("/run/cni/filler{n}"), [1; 4096]);
    let full = (0..100).find(|n| filler(*n).is_err());
    assert!(full.is_some(), "it does not fill up");
    status(host, "bridge", json!({"ipam": fixed(&["10.1.0.2/24"])})).expect_ok();
    // Where the folders are, and where they have to be made.
    mapped(host, json!({"backend": "iptables"})).expect_ok();
    host.exec("umount /run/cni");
}

/// What the kernel has can be had, and what it lacks is told.
fn a_kernel_without_the_module(host: &Host) {
    let result = chained(host);
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
    let keys = json!({"master": "eth7", "vlanId": 5, "vrfname": "blue", "ingressRate": 1_000_000,
        "ipam": fixed(&["10.1.0.2/24"])});
    for (plugin, feature) in [
        ("macvlan", Feature::Macvlan),
        ("ipvlan", Feature::Ipvlan),
        ("vlan", Feature::Vlan),
        ("dummy", Feature::Dummy),
        ("vrf", Feature::Vrf),
        ("bandwidth", Feature::Ifb),
    ] {
        let mut conf = of_type(host, plugin, keys.clone());
        if ["vrf", "bandwidth"].contains(&plugin) {
            conf["prevResult"] = result.clone();
        }
        if feature.present() {
            host.plugin(plugin).status(&conf).expect_ok();
        } else {
            let told = asked(host, &host.plugin(plugin), &conf);
            expect_row(MODULE.0, MODULE.1, &told);
            if ["vrf", "bandwidth"].contains(&plugin) {
                continue;
            }
            let said = told.document()["msg"].as_str().expect("a text").to_owned();
            let module = said.split_once(": the").expect("a cause").1;
            let pod = host.container(&format!("{plugin}-pod"));
            host.plugin(plugin).add(&pod, "eth0", &conf).expect_error(999, module);
        }
    }
}

fn a_kernel_without_vlans_on_bridges(host: &Host) {
    let keys = json!({"vlan": 5, "ipam": fixed(&["10.1.0.2/24"])});
    match (status(host, "bridge", keys), Feature::BridgeVlan.present()) {
        (told, true) => told.expect_ok(),
        (told, false) => expect_row(VLANS.0, VLANS.1, &told),
    }
}

fn a_plugin_without_the_capability(host: &Host) {
    let result = chained(host);
    lease_subnet(host);
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
    let keys = json!({"master": "eth7", "vlanId": 5, "vrfname": "blue", "ingressRate": 1_000_000,
        "device": "eth7", "mtu": 1400, "runtimeConfig": {"portMappings": [mapping]}});
    for plugin in PRIVILEGE.0.split(", ") {
        let enters = ENTRY.0.split(", ").any(|other| other == plugin);
        let chained = ["bandwidth", "firewall", "portmap", "tuning", "sbr", "vrf"];
        let mut conf = of_type(host, plugin, keys.clone());
        if chained.contains(&plugin) {
            conf["prevResult"] = result.clone();
        } else if plugin != "flannel" && plugin != "loopback" {
            conf["ipam"] = fixed(&["10.1.0.2/24"]);
        }
        let unable = host.plugin(plugin).without_net_admin();
        expect_row(PRIVILEGE.0, PRIVILEGE.1, &asked(host, &unable, &conf));
        let told = asked(host, &host.plugin(plugin).without_sys_admin(), &conf);
        if enters {
            expect_row(ENTRY.0, ENTRY.1, &told);
        } else {
            told.expect_ok();
        }
    }
}

fn lease_subnet(host: &Host) {
    let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\n\
                 FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    host.write("/run/flannel/subnet.env", lease);
}

fn leased(host: &Host, keys: Value) -> Outcome {
    let ipam = with(&json!({"type": "host-local", "subnet": "10.1.0.0/24"}), keys);
    status(host, "host-local", json!({"ipam": ipam}))
}

/// One address can be given, and somebody has it.
fn full(host: &Host) {
    host.write(format!("{LEASES}/10.1.0.2"), "c1\r\neth0");
}

/// Answers of several plugins to one fault, which must be of one form.
fn same<const N: usize>(outcomes: [Outcome; N]) -> Outcome {
    let codes: BTreeSet<_> = outcomes.iter().map(|o| o.document()["code"].to_string()).collect();
    assert_eq!(codes.len(), 1, "{codes:?}");
    let mut outcomes = outcomes.into_iter();
    outcomes.next_back().expect("there is one")
}

#[track_caller]
fn expect_row(plugin: &str, fault: &str, outcome: &Outcome) {
    let row = rows().find(|row| row[..2] == [plugin, fault]);
    let row = row.unwrap_or_else(|| panic!("no row for {plugin}, {fault}: {outcome}"));
    let told = outcome.document();
    let msg = told["msg"].as_str().expect("a text");
    assert_eq!(told["code"].to_string(), row[2], "{outcome}");
    assert!(fits(msg, row[3].trim_matches('`')), "the table has {}\nSTATUS says `{msg}`", row[3]);
    assert_eq!(msg.lines().count(), 1, "{outcome}");
}

/// Whether a message is as the table says, where two dots stand for anything.
fn fits(msg: &str, pattern: &str) -> bool {
    let mut parts = pattern.split("..");
    let start = parts.next().unwrap_or_default();
    let Some(mut rest) = msg.strip_prefix(start) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

/// Plugin, fault, code and message of each row of the table under the heading
/// "STATUS".
fn rows() -> impl Iterator<Item = [&'static str; 4]> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with("STATUS"));
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| "));
    rows.skip(1).map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    })
}

fn slug(fault: &str) -> String {
    let letters = fault.chars().filter(|c| *c != '`' && *c != '\'' && *c != ',');
    letters.map(|c| if c == ' ' { '_' } else { c }).collect()
}

fn healthy(host: &Host) {
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
    for (plugin, keys) in [
        ("bridge", json!({})),
        ("ptp", json!({"ipam": fixed(&["10.1.0.2/24"])})),
        ("macvlan", json!({"master": "eth7"})),
        ("host-device", json!({"device": "eth7"})),
        ("loopback", json!({})),
        ("portmap", json!({})),
        ("firewall", json!({})),
        ("static", json!({"ipam": fixed(&["10.1.0.2/24"])})),
        ("host-local", json!({"ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}})),
    ] {
        host.plugin(plugin).status(&of_type(host, plugin, keys)).expect_ok();
    }
}

/// One mistake in a good configuration, or two keys that contradict each other.
fn refusing(host: &Host) {
    host.exec("ip link add eth7 type veth peer name other");
    host.exec("ip link set eth7 up");
    let good = json!({"master": "eth7", "vlanId": 5, "device": "eth7",
        "ipam": fixed(&["10.1.0.2/24"])});
    let container = host.container("pod");
    let before = host.snapshot();
    for (plugin, keys) in [
        ("ptp", json!({"mtu": "big"})),
        ("ptp", json!({"dns": {"nameservers": 1}})),
        ("ptp", json!({"ipam": {}})),
        ("macvlan", json!({"mode": "source"})),
        ("macvlan", json!({"mtu": -1})),
        ("macvlan", json!({"mtu": 9000})),
        ("macvlan", json!({"mac": "zz"})),
        ("macvlan", json!({"hostShim": true, "mode": "vepa"})),
        ("macvlan", json!({"hostShim": true, "ipam": {}})),
        ("ipvlan", json!({"mode": "l4"})),
        ("ipvlan", json!({"mtu": -1})),
        ("ipvlan", json!({"mtu": 9000})),
        ("ipvlan", json!({"hostShim": true, "linkInContainer": true})),
        ("vlan", json!({"vlanId": 4095})),
        ("vlan", json!({"mtu": -1})),
        ("vlan", json!({"mtu": 9000})),
        ("vlan", json!({"disableIPv6WhenUnused": 1})),
        ("host-device", json!({"kernelpath": "/tmp", "device": ""})),
        ("host-device", json!({"dns": {"search": "x"}})),
        ("host-device", json!({"disableIPv6WhenUnused": "yes"})),
        ("dummy", json!({"ipam": {}})),
        ("dummy", json!({"dns": {"domain": 1}})),
        ("tap", json!({"mtu": -1})),
        ("tap", json!({"disableIPv6WhenUnused": 1})),
        ("tap", json!({"owner": u32::MAX})),
        ("tap", json!({"mac": "ff:ff:ff:ff:ff:ff"})),
        ("tap", json!({"selinuxContext": "a b"})),
    ] {
        let conf = with(&of_type(host, plugin, good.clone()), keys);
        let refused = host.plugin(plugin).add(&container, "eth0", &conf).expect_error(7, "");
        let told = host.plugin(plugin).status(&conf).expect_error(7, "");
        assert_eq!(told, refused, "left: STATUS, right: ADD, of {conf}");
        host.expect_unchanged(&before);
    }
}
