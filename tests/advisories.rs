//! What was published as a hole in these plugins, in the library beside them or in
//! their like: each attack is made, and fails. The list, and what of it upstream's
//! plugins are open to, is in docs/reliability.md.

use std::net::{SocketAddr, SocketAddrV6};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Feature, Host, Netns as _, cases};

use crate::bridge::neighbours::{link_local, router_advertisement};
use crate::chained::both_backends;
use crate::conf::{bridge, fixed, of_type, with};
use crate::portmap::traffic;
use crate::{cnitool, flannel, macvlan, ptp, restore};

pub(crate) fn list() -> Vec<Case> {
    let mut list = both_backends(
        "advisories",
        &["cve_2025_67499", "cve_2019_9946"],
        &[
            ("cve_2025_67499", traffic::other_destinations),
            ("cve_2019_9946", traffic::services_come_first),
            ("cve_2020_8558", traffic::the_loopback_is_guarded),
        ],
    );
    list.extend(cases! {
        [Bridge] cve_2021_20206,
        [] cve_2022_28224,
        [Bridge] cve_2025_8283,
        [Bridge, Strace] cve_2026_32254,
        [Bridge, Strace] cve_2026_35406,
        [Strace] cve_2024_8418,
        [Bridge, Strace] cve_2023_41378,
        [Bridge, Ipv6, Ping] cve_2020_10749,
        [Bridge, Ipv6, Ping] cve_2020_11091,
        [Bridge, Ipv6, Ping] cve_2020_13597,
        [Bridge, Nft, Ping, Ipv6] cve_2025_52890,
    });
    for case in cases! {
        // Upstream's have no such key, and IPv6 in a container of an IPv4 network.
        [Bridge, Ipv6] cve_2020_13401,
        [Macvlan, Ipv6] cve_2024_32473,
        // Nor have they anything that brings rules back, or a log.
        [Bridge, Nft] cve_2025_54410,
        [Bridge, Nft] cve_2025_54388,
        [Bridge] cve_2026_41184,
        [Bridge] cve_2026_41185,
        [Bridge] cve_2026_6720,
        // 1.1.1 writes to what is not /proc, and knows no priority.
        [Bridge] cve_2025_52881,
        [Bridge] cve_2026_25804,
        // Debian's package has no flannel.
        [] cve_2026_32241,
        // Nor does it come with an installer.
        [] cve_2024_33522,
    } {
        list.push(case.ours_only());
    }
    list
}

/// A container that says it is a router could reroute the host's IPv6 traffic.
fn cve_2020_10749(host: &Host) {
    let conf = bridge(host, json!({"ipam": fixed(&["2001:db8:1::2/64"])}));
    a_router_is_not_believed(host, &conf, |_| "cni0".to_owned());
}

/// The same of Weave Net, whose bridge has an address of the containers' subnet.
fn cve_2020_11091(host: &Host) {
    let address = json!({"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"});
    let ipam = json!({"type": "static", "addresses": [address]});
    let conf = bridge(host, json!({"isGateway": true, "ipam": ipam}));
    a_router_is_not_believed(host, &conf, |_| "cni0".to_owned());
}

/// The same of Calico, whose hosts have a veth pair for each container, as ptp's.
fn cve_2020_13597(host: &Host) {
    let address = json!({"address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"});
    let ipam = json!({"type": "static", "addresses": [address]});
    let conf = of_type(host, "ptp", json!({"ipam": ipam}));
    a_router_is_not_believed(host, &conf, |result| {
        result["interfaces"][0]["name"].as_str().expect("the host end").to_owned()
    });
}

fn a_router_is_not_believed(host: &Host, conf: &Value, host_link: fn(&Value) -> String) {
    // As where the administrator wants the host to hear its routers.
    host.set_sysctl("net/ipv6/conf/default/accept_ra", "2");
    let one = host.container("one");
    let plugin = host.plugin(conf["type"].as_str().expect("a type"));
    let result = plugin.add(&one, "eth0", conf).expect_result();
    let link = host_link(&result);
    // Anything else is not heard as a neighbour's (RFC 4861, section 6.1.2).
    one.set_sysctl("net/ipv6/conf/eth0/hop_limit", "255");
    let _ = link_local(host, &one, "eth0");
    let host_address = link_local(host, host, &link);
    let index = one.link("eth0").expect("it is there")["ifindex"].as_u64().expect("a number");
    let index = u32::try_from(index).expect("an index");
    let advertise = || {
        let target = SocketAddrV6::new(host_address, 0, 0, index);
        one.send_icmpv6(target, &router_advertisement());
        // One after the other: once this is answered, that was heard.
        one.expect_ping(&format!("{host_address}%eth0"));
    };
    let believed = || {
        let routes = host.routes("all");
        routes.iter().any(|route| route.contains("proto ra"))
            || host.addresses(&link).iter().any(|address| address.contains("bad"))
    };
    advertise();
    assert!(!believed(), "{:?} {:?}", host.routes("all"), host.addresses(&link));
    // It is the sysctl that does it.
    host.set_sysctl(&format!("net/ipv6/conf/{link}/accept_ra"), "2");
    advertise();
    host.wait_until("the router is believed", believed);
}

/// A type that leaves the folder of plugins could have any program run.
fn cve_2021_20206(host: &Host) {
    const MARK: &str = "/run/was-run";
    let program = "/run/bin/program";
    host.write(program, format!("#!/bin/sh\necho run > {MARK}\necho '{{}}'\n"));
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("ours");
    // So that the types do lead there.
    host.write("/run/bin/folder/x", "");
    let one = host.container("one");
    let before = host.snapshot();
    for kind in
        ["../program", "/run/bin/program", "folder/../../program", "../bin/program", "./../program"]
    {
        let plugin = host.plugin("bridge").cni_path("/run/bin/folder");
        let conf = bridge(host, json!({"ipam": {"type": kind}}));
        for outcome in [plugin.add(&one, "eth0", &conf), plugin.del(&one, "eth0", &conf)] {
            assert_eq!(outcome.code(), Some(1), "{kind}: {outcome}");
        }
        let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": kind}]});
        host.write("/etc/cni/net.d/10-net.conflist", list.to_string());
        for verb in ["add", "del", "check"] {
            let line = format!("{verb} net {}", one.path().display());
            let tool = cnitool::cnitool_env(host, &line, &[("CNI_PATH", "/run/bin/folder")]);
            assert!(!tool.success(), "{kind}: {tool}");
        }
        assert!(!std::path::Path::new(MARK).exists(), "{kind} was run");
    }
    // Upstream's leaves a bridge and a pair.
    if Feature::OurPlugins.present() {
        host.expect_unchanged_but(&before, &["/run/bin", "/etc/cni", "/var/lib/cni/locks"]);
    }
}

/// An address that a user may ask for must be of the pool, and nobody's.
fn cve_2022_28224(host: &Host) {
    let (one, two) = (host.container("one"), host.container("two"));
    let range = json!({"type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10",
        "rangeEnd": "10.1.0.20", "gateway": "10.1.0.15"});
    let conf = of_type(host, "host-local", json!({"ipam": range}));
    let asked = |address: &str| host.plugin("host-local").args(&format!("IP={address}"));
    asked("10.1.0.12").add(&one, "eth0", &conf).expect_result();
    // Outside, the gateway, another's, network and broadcast, another family,
    // and none at all.
    for address in [
        "192.0.2.1",
        "10.1.0.9",
        "10.1.0.21",
        "10.1.0.15",
        "10.1.0.12",
        "10.1.0.0",
        "10.1.0.255",
        "::1",
        "::ffff:192.0.2.1",
        "0.0.0.0",
        "10.1.0.13,10.1.0.12",
        "x",
    ] {
        let outcome = asked(address).add(&two, "eth0", &conf);
        assert_eq!(outcome.code(), Some(1), "{address}: {outcome}");
    }
    let leases = host.files("/var/lib/cni/networks/net");
    let leases: Vec<&String> = leases.iter().filter(|name| name.starts_with("10.")).collect();
    assert_eq!(leases, ["10.1.0.12"]);
}

/// What a container resolves is what its network says, and nothing of the host's.
fn cve_2025_8283(host: &Host) {
    let one = host.container("one");
    let dns =
        json!({"nameservers": ["10.1.0.53"], "domain": "d", "search": ["s"], "options": ["o"]});
    for dns in [dns, json!({"nameservers": ["10.1.0.53"]})] {
        let conf = bridge(host, json!({"dns": dns, "ipam": fixed(&["10.1.0.2/24"])}));
        let result = host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
        assert_eq!(result["dns"], dns);
        host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
    }
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let result = host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    // Not what this machine asks.
    assert!(matches!(&result["dns"], Value::Null) || result["dns"] == json!({}), "{result}");
}

/// What listens can be asked by anybody. Nothing here does.
fn cve_2026_32254(host: &Host) {
    let keys = json!({"isGateway": true, "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
    nothing_listens(host, "bridge", keys, "10.1.0.1:8080");
}

/// A question that is cut off kept the containers' DNS server busy. There is none: who
/// resolves is what the network says.
fn cve_2026_35406(host: &Host) {
    let keys = json!({"isGateway": true, "dns": {"nameservers": ["10.1.0.1"]},
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
    nothing_listens(host, "bridge", keys, "10.1.0.1:53");
}

/// A client that says nothing kept it from the others.
fn cve_2024_8418(host: &Host) {
    let keys = json!({"dns": {"nameservers": ["10.1.0.1"]},
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
    nothing_listens(host, "ptp", keys, "10.1.0.1:53");
}

/// A handshake that does not end kept a server from all. A port that is mapped has
/// none: packets are led on, and it is the container that answers or does not.
fn cve_2023_41378(host: &Host) {
    let before = bridge(host, json!({"isGateway": true, "ipam": fixed(&["10.1.0.2/24"])}));
    let first = host.container("first");
    let result = host.plugin("bridge").add(&first, "eth0", &before).expect_result();
    let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
    let keys =
        json!({"runtimeConfig": {"portMappings": [mapping]}, "snat": true, "prevResult": result});
    nothing_listens(host, "portmap", keys, "127.0.0.1:8080");
}

/// During ADD and DEL nothing is listened at, between them nothing answers at
/// `address`, and no socket waits on the host.
fn nothing_listens(host: &Host, kind: &str, keys: Value, address: &str) {
    let one = host.container("one");
    let conf = of_type(host, kind, keys);
    let waiting = || host.exec("ss -H -l -n -t -u -x");
    let before = waiting();
    let plugin = host.plugin(kind).fail_call("listen,accept,accept4", "EACCES", 1);
    let added = plugin.add(&one, "eth0", &conf);
    added.expect_result();
    assert_eq!(waiting(), before);
    let address: SocketAddr = address.parse().expect("an address");
    assert!(host.tcp(address).is_err() && one.tcp(address).is_err(), "{address} answers");
    let deleted = plugin.del(&one, "eth0", &conf);
    deleted.expect_ok();
    assert!(!added.fault_fired() && !deleted.fault_fired(), "{added}");
}

/// Frames that are not IP's slipped past the check of the sender's address.
fn cve_2025_52890(host: &Host) {
    const FOREIGN: &str = "02:00:00:00:00:66";
    let keys = json!({"macspoofchk": true, "ipam": fixed(&["10.1.0.2/24", "2001:db8:1::2/64"])});
    let one = host.container("one");
    host.plugin("bridge").add(&one, "eth0", &bridge(host, keys)).expect_result();
    let two = host.container("two");
    let keys = json!({"ipam": fixed(&["10.1.0.3/24", "2001:db8:1::3/64"])});
    host.plugin("bridge").add(&two, "eth0", &bridge(host, keys)).expect_result();
    let capture = two.capture();
    // Nobody has these addresses, so each asks all by ARP and by IPv6's own.
    let questions = |place: &testkit::Container| {
        for address in ["10.1.0.77", "2001:db8:1::77", "ff02::1%eth0"] {
            let _ = place.answers_ping(address);
        }
    };
    let own = one.mac("eth0");
    questions(&one);
    assert!(capture.frames(|frame| frame.source == own).len() >= 2, "it asks");
    one.exec(format!("ip link set eth0 address {FOREIGN}"));
    questions(&one);
    // Whatever was sent before this arrives has arrived.
    one.exec(format!("ip link set eth0 address {own}"));
    one.expect_ping("10.1.0.3");
    assert_eq!(capture.frames(|frame| frame.source == FOREIGN).len(), 0);
}

/// A container of an IPv4 network had IPv6 all the same, and heard routers.
fn cve_2020_13401(host: &Host) {
    ptp::ipv6_is_off_where_it_is_unused(host);
}

/// The same of macvlan and ipvlan.
fn cve_2024_32473(host: &Host) {
    macvlan::ipv6_is_off_where_it_is_unused(host);
}

/// A reload of firewalld took the rules that isolate.
fn cve_2025_54410(host: &Host) {
    restore::rules_come_back_after_a_flush(host);
}

/// And those that keep neighbours from what is published at 127.0.0.1.
fn cve_2025_54388(host: &Host) {
    restore::the_loopback_is_guarded_again_after_a_flush(host);
}

/// A write to /proc that is led elsewhere.
fn cve_2025_52881(host: &Host) {
    const PLANTED: &str = "/run/planted";
    let forward = "/proc/sys/net/ipv4/ip_forward";
    let keys = json!({"isGateway": true, "ipam": fixed(&["10.1.0.2/24"])});
    let conf = bridge(host, keys);
    let one = host.container("one");
    host.write(PLANTED, "0\n");
    host.exec(format!("mount --bind {PLANTED} {forward}"));
    let before = host.snapshot();
    host.plugin("bridge").add(&one, "eth0", &conf).expect_error(999, "not a proc file system");
    host.expect_unchanged(&before);
    assert_eq!(std::fs::read_to_string(PLANTED).expect("there"), "0\n");
    host.exec(format!("umount {forward}"));
    host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
    assert_eq!(host.sysctl("net/ipv4/ip_forward").as_deref(), Some("1"));
}

/// A number that is too large became a small one, which comes first.
fn cve_2026_25804(host: &Host) {
    let one = host.container("one");
    let before = one.network_snapshot();
    for (key, value) in [
        ("priority", json!(4_294_967_301_i64)),
        ("priority", json!(-1)),
        ("priority", json!(i64::MAX)),
        ("table", json!(4_294_967_396_i64)),
        ("table", json!(-1)),
        ("mtu", json!(4_294_968_596_i64)),
        ("scope", json!(256)),
    ] {
        let mut ipam = fixed(&["10.1.0.2/24"]);
        ipam["routes"] = json!([{"dst": "10.9.0.0/16", "gw": "10.1.0.1", key: value}]);
        let conf = bridge(host, json!({"ipam": ipam}));
        let outcome = host.plugin("bridge").add(&one, "eth0", &conf);
        assert_eq!(outcome.code(), Some(1), "{key} {value}: {outcome}");
        assert!(
            outcome.document()["msg"].as_str().is_some_and(|msg| msg.contains(&value.to_string())),
            "{outcome}"
        );
        before.expect_same(&one.network_snapshot());
    }
}

const LOG: &str = "/run/cni.log";
const SECRET: &str = "s3cret";

/// A configuration with credentials where the plugins look for none.
fn with_secrets() -> Value {
    json!({"token": SECRET, "kubeconfig": {"user": {"token": SECRET}},
        "args": {"other": {"password": SECRET}}, "ipam": fixed(&["10.1.0.2/24"])})
}

/// Credentials of the configuration were in the log; here they are in no error either,
/// at no level.
fn cve_2026_41184(host: &Host) {
    secrets_are_not_told(host, &with_secrets(), &["IgnoreUnknown=1;A=b", "A=b", "x"], "");
}

/// Those of arguments and of the environment.
fn cve_2026_41185(host: &Host) {
    let plain = json!({"ipam": fixed(&["10.1.0.2/24"])});
    let args = ["IgnoreUnknown=1;PASSWORD=s3cret", "PASSWORD=s3cret", "s3cret", "A=b=s3cret"];
    secrets_are_not_told(host, &plain, &args, SECRET);
}

/// Those of whom an administrator's tool is given them.
fn cve_2026_6720(host: &Host) {
    let one = host.container("one");
    let path = one.path().display();
    let capabilities = json!({"mac": SECRET, "token": SECRET}).to_string();
    let variables = |args: &'static str| {
        [
            ("CNI_ARGS", args),
            ("CAP_ARGS", capabilities.as_str()),
            ("KUBERNETES_TOKEN", SECRET),
            ("CNI_LOG", LOG),
            ("CNI_LOG_LEVEL", "debug"),
        ]
    };
    for keys in [json!({}), json!({"mtu": -5}), json!({"ipam": {"type": "none-such"}})] {
        let plugin = with(&with(&with_secrets(), json!({"type": "bridge"})), keys);
        let list = json!({"cniVersion": "1.0.0", "name": "net", "token": SECRET,
            "plugins": [plugin, {"type": "tuning", "token": SECRET}]});
        host.write("/etc/cni/net.d/10-net.conflist", list.to_string());
        for args in ["IgnoreUnknown=1;PASSWORD=s3cret", "PASSWORD=s3cret", "s3cret"] {
            for line in [
                format!("add net {path}"),
                format!("check net {path}"),
                "list net".to_owned(),
                "validate net".to_owned(),
                "status net".to_owned(),
                "restore net".to_owned(),
                format!("del net {path}"),
                "gc net --all".to_owned(),
            ] {
                let told = cnitool::cnitool_env(host, &line, &variables(args));
                let said = format!("{}{}", told.stdout, told.stderr);
                assert!(!said.contains(SECRET), "{line}: {said}");
            }
        }
    }
    let log = std::fs::read_to_string(LOG).expect("it is written");
    assert!(log.lines().count() >= 8 && !log.contains(SECRET), "{log}");
}

/// Each verb of each plugin, right or wrong, with these `args`.
fn secrets_are_not_told(host: &Host, keys_of_all: &Value, args: &[&str], token: &str) {
    let one = host.container("one");
    for (plugin, keys) in [
        ("bridge", json!({})),
        ("bridge", json!({"mtu": -5})),
        ("bridge", json!({"bridge": "a/b"})),
        ("bridge", json!({"ipam": {"type": "none-such", "token": SECRET}})),
        ("ptp", json!({})),
        ("loopback", json!({"prevResult": {"cniVersion": "9.9.9", "token": SECRET}})),
        ("tuning", json!({"sysctl": 5})),
        ("portmap", json!({"backend": "none-such"})),
    ] {
        let conf = with(&of_type(host, plugin, keys_of_all.clone()), keys);
        // What is wrong with arguments is told without their values.
        for args in args {
            let caller = host.plugin(plugin).env("CNI_LOG", LOG).env("CNI_LOG_LEVEL", "debug");
            let caller = caller.args(args).env("KUBERNETES_TOKEN", token);
            for outcome in [
                caller.add(&one, "eth0", &conf),
                caller.check(&one, "eth0", &conf),
                caller.del(&one, "eth0", &conf),
                caller.gc(&conf),
                caller.status(&conf),
            ] {
                let said = format!("{}{}", outcome.stdout(), outcome.stderr());
                assert!(!said.contains(SECRET), "{said}");
            }
        }
    }
    let log = std::fs::read_to_string(LOG).expect("it is written");
    assert!(log.lines().count() >= 8 * args.len() * 5 && !log.contains(SECRET), "{log}");
}

/// Text for a shell in what another program writes.
fn cve_2026_32241(host: &Host) {
    flannel::shell_text_in_the_lease_stays_text(host);
}

/// An installer left what it installed with the setuid bit, where others may write.
fn cve_2024_33522(host: &Host) {
    let built = host.scratch().join("built");
    let folder = host.scratch().join("installed");
    let stub = built.join("oxcni");
    host.write(&stub, "#!/bin/sh\necho bridge\necho ptp\n");
    let mode = |path: &Path, bits: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).expect("ours");
    };
    // As a careless build and an earlier installer may have left them.
    mode(&stub, 0o6777);
    host.write(folder.join("bridge"), "an old one");
    mode(&folder.join("bridge"), 0o6777);
    mode(&folder, 0o755);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install");
    let install = |into: &Path| {
        let line = format!("umask 0; {script} --from {} {}", built.display(), into.display());
        host.try_exec(vec!["sh".to_owned(), "-c".to_owned(), line])
    };
    let new = host.scratch().join("new/bin");
    for into in [&folder, &new] {
        let told = install(into);
        assert!(told.success(), "{told}");
        let names: Vec<String> = host.files(into).into_iter().collect();
        assert_eq!(names, ["bridge", "ptp"]);
        for path in names.iter().map(|name| into.join(name)).chain([into.clone()]) {
            let found = std::fs::metadata(&path).expect("installed");
            let whose = (found.mode() & 0o7777, found.uid(), found.gid());
            assert_eq!(whose, (0o755, 0, 0), "{}", path.display());
        }
        let content = std::fs::read_to_string(into.join("bridge")).expect("installed");
        assert!(content.contains("echo ptp"), "the old one is there: {content}");
    }
    for bits in [0o777, 0o775, 0o1777] {
        let open = host.scratch().join(format!("open{bits:o}"));
        std::fs::create_dir_all(&open).expect("ours");
        mode(&open, bits);
        let told = install(&open);
        assert!(!told.success() && told.stderr.contains("others may write"), "{told}");
        assert!(host.files(&open).is_empty(), "{:?}", host.files(&open));
    }
}
