//! `cnitool restore`: what was taken from attachments comes back, and what goes
//! on meanwhile goes on.

mod chained;
mod links;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Plugin, cases, with_previous_result};

use crate::cnitool::{cnitool, cnitool_env, cnitool_with, ok};
use crate::conf::{of_type, with};
use crate::recorder::Recorder;
use crate::whole_chain;

pub(crate) fn list() -> Vec<Case> {
    let mut list = cases! {
        [Bridge, Nft] rules_come_back_after_a_flush,
        [Bridge, Iptables] rules_of_iptables_come_back,
        [Bridge, Nft] connections_go_on,
        [Bridge, Nft] a_client_that_found_nobody_finds_the_container_again,
        [Bridge, Nft, Strace] a_restore_that_was_killed_is_repeated,
        [Bridge] addresses_and_routes_come_back,
        [Bridge] a_bridge_that_was_removed_comes_back,
        [Bridge, Shaping, Ifb, Ping, Nft] the_whole_chain_comes_back_with_its_bridge,
        [Bridge, Nft] lists_of_before_check_are_restored,
        [Nft] a_wire_comes_back,
        [Bridge, Nft] half_of_the_rules_are_not_doubled,
        [Bridge, Nft] what_is_deleted_meanwhile_is_not_brought_back,
        [Bridge, Nft] nothing_is_made_for_a_pair_that_is_gone,
        [Bridge, Nft] del_after_a_flush_succeeds,
        [Bridge] what_cannot_come_back_is_told,
        [Bridge, Macvlan] links_in_the_container_get_their_addresses_back,
        [Tun, Bridge, Ipv6] a_tap_device_comes_back_to_its_bridge_and_addresses,
        [Ipv6] a_lent_device_gets_its_addresses_back,
        [Bridge, PeerPlugins] plugins_of_others_say_that_they_cannot,
    };
    list.extend(chained::list());
    list.extend(links::list());
    list.into_iter().map(Case::ours_only).collect()
}

const PORT: u16 = 8080;

/// Keys of a bridge that makes all there is to make.
fn with_all_rules() -> Value {
    json!({"bridge": "cni0", "isGateway": true, "ipMasq": true, "macspoofchk": true,
        "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}})
}

/// A network with such a bridge, port mappings and firewall.
fn network(host: &Host, keys: Value) {
    let bridge = with(&with(&with_all_rules(), json!({"type": "bridge"})), keys.clone());
    let backend = keys["ipMasqBackend"].as_str().unwrap_or("nftables");
    let plugins = json!([bridge,
        {"type": "portmap", "backend": backend, "capabilities": {"portMappings": true}},
        {"type": "firewall", "backend": backend}]);
    write(host, plugins);
}

fn write(host: &Host, plugins: Value) {
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins});
    host.write("/etc/cni/net.d/10-net.conflist", list.to_string());
}

/// With a port of the host.
fn add(host: &Host, container: &Container) -> Value {
    let line = format!("add net {}", container.path().display());
    serde_json::from_str(&with_port(host, &line)).expect("a result")
}

fn with_port(host: &Host, line: &str) -> String {
    let mappings = json!({"portMappings": [
        {"hostPort": PORT, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": PORT, "containerPort": 80, "protocol": "udp"}]});
    let output = cnitool_env(host, line, &[("CAP_ARGS", &mappings.to_string())]);
    assert!(output.success(), "{output}");
    output.stdout
}

/// Interface, state and what of each attachment.
fn states(host: &Host, line: &str) -> Vec<(String, Vec<String>)> {
    let list: Value = serde_json::from_str(&ok(host, line)).expect("JSON");
    let row = |row: &Value| {
        let what = row["what"].as_array().expect("a list").iter();
        let what = what.map(|w| w.as_str().expect("a text").to_owned()).collect();
        (row["state"].as_str().expect("a text").to_owned(), what)
    };
    list.as_array().expect("a list").iter().map(row).collect()
}

/// Everything is as in `before` after `restore`, which says that `plugins` did
/// something, and then that nothing is to be done.
#[track_caller]
fn expect_restored(host: &Host, before: &testkit::Snapshot, plugins: &[&str]) {
    let missing = states(host, "restore --dry-run --json");
    assert_eq!((missing[0].0.as_str(), missing[0].1.len()), ("incomplete", plugins.len()));
    let done = states(host, "restore --json");
    assert_eq!((done[0].0.as_str(), &done[0].1), ("restored", &owned(plugins)));
    host.expect_unchanged(before);
    assert_eq!(states(host, "restore --json")[0], ("complete".to_owned(), Vec::new()));
    host.expect_unchanged(before);
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// Tables, chains and rules come back in the order in which they are missed, which
/// is not that of the ADDs.
fn words(host: &Host) -> Vec<String> {
    let snapshot = host.snapshot();
    let words = snapshot.lines().iter().flat_map(|line| line.split_whitespace());
    let mut words: Vec<String> = words.map(|word| word.trim_end_matches(',').to_owned()).collect();
    words.sort_unstable();
    words
}

pub(crate) fn rules_come_back_after_a_flush(host: &Host) {
    network(host, json!({}));
    let [one, two] = ["one", "two"].map(|name| host.container(name));
    add(host, &one);
    // No second container may have the port.
    let plain = ok(host, "add net /run/netns/two");
    assert!(plain.contains("10.1.0.3"), "{plain}");
    let before = words(host);
    host.exec("nft flush ruleset");
    let missing = states(host, "restore --dry-run --json");
    assert_eq!(missing.len(), 2);
    let texts: Vec<String> = missing.into_iter().flat_map(|(_, what)| what).collect();
    let texts = texts.join("\n");
    for plugin in ["bridge", "portmap", "firewall"] {
        assert!(texts.contains(&format!("type=\"{plugin}\" failed (check)")), "{texts}");
    }
    assert!(!host.exec("nft list ruleset").contains("masquerade"), "a dry run made something");
    let table = ok(host, "restore net");
    assert_eq!(table.matches(" restored ").count(), 2, "{table}");
    assert_eq!(words(host), before);
    ok(host, "check net /run/netns/two");
    let again = ok(host, "restore");
    assert_eq!(again.matches(" complete ").count(), 2, "{again}");
    assert_eq!(words(host), before);
    drop((one, two));
}

/// Who shares the container's network reached what listens at the host's 127.0.0.1
/// once the rules were gone: a mapped port has the kernel lead such packets.
pub(crate) fn the_loopback_is_guarded_again_after_a_flush(host: &Host) {
    network(host, json!({"macspoofchk": false}));
    let [one, two] = ["one", "two"].map(|name| host.container(name));
    add(host, &one);
    ok(host, "add net /run/netns/two");
    let _secret = host.echo_server(9000);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 9000));
    two.set_sysctl("net/ipv4/conf/eth0/route_localnet", "1");
    two.exec("ip route add 127.0.0.0/8 via 10.1.0.1 src 10.1.0.3");
    assert!(two.tcp(loopback).is_err(), "guarded from the beginning");
    host.exec("nft flush ruleset");
    two.tcp(loopback).expect("without rules the loopback is reached");
    ok(host, "restore net");
    assert!(two.tcp(loopback).is_err(), "guarded again");
}

fn rules_of_iptables_come_back(host: &Host) {
    network(host, json!({"ipMasqBackend": "iptables", "macspoofchk": false}));
    let one = host.container("one");
    add(host, &one);
    let before = host.snapshot();
    for command in ["iptables", "ip6tables"] {
        for table in ["nat", "filter"] {
            host.exec(format!("{command} -t {table} -F"));
            host.exec(format!("{command} -t {table} -X"));
        }
    }
    expect_restored(host, &before, &["bridge", "portmap", "firewall"]);
}

/// A connection through the port of the host and one to the outside.
fn connections_go_on(host: &Host) {
    network(host, json!({}));
    let outside = host.outside();
    let one = host.container("one");
    let result = add(host, &one);
    assert_eq!(result["ips"][0]["address"], "10.1.0.2/24");
    let listen = |at: &Container, port| {
        at.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("free"))
    };
    let (inner, outer) = (listen(&one, 80), listen(&outside, 9));
    let connect = |from: &Container, to: &str| {
        let to: SocketAddr = to.parse().expect("an address");
        from.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("a way"))
    };
    let mut mapped = (connect(&outside, "192.0.2.1:8080"), inner.accept().expect("it came").0);
    let mut leaving = (connect(&one, "192.0.2.2:9"), outer.accept().expect("it came").0);
    let talk = |pair: &mut (TcpStream, TcpStream)| {
        pair.1.set_read_timeout(Some(Duration::from_secs(5))).expect("it is open");
        pair.0.write_all(b"hello").expect("it is open");
        pair.1.read_exact(&mut [0; 5]).expect("it arrives");
        std::mem::swap(&mut pair.0, &mut pair.1);
    };
    let source = leaving.1.peer_addr().expect("it is open").ip().to_string();
    assert_eq!(source, "192.0.2.1", "masqueraded");
    for pair in [&mut mapped, &mut leaving] {
        talk(pair);
        talk(pair);
    }
    host.exec("nft flush ruleset");
    ok(host, "restore");
    for pair in [&mut mapped, &mut leaving] {
        talk(pair);
        talk(pair);
    }
    // And new ones.
    let again = connect(&outside, "192.0.2.1:8080");
    inner.accept().expect("it came");
    let leaving = connect(&one, "192.0.2.2:9");
    assert_eq!(outer.accept().expect("it came").1.ip().to_string(), "192.0.2.1");
    drop((again, leaving));
}

/// UDP "connections" are what the kernel remembers of a client: of one that came
/// while nothing led it to the container it must forget, of others it must not.
fn a_client_that_found_nobody_finds_the_container_again(host: &Host) {
    network(host, json!({}));
    let outside = host.outside();
    let one = host.container("one");
    add(host, &one);
    let bind = |at: &Container, port: u16| {
        let socket = at.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("free"));
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it is open");
        socket
    };
    let [server, early, late] = [bind(&one, 80), bind(&outside, 0), bind(&outside, 0)];
    let ask = |client: &UdpSocket| client.send_to(b"hello", "192.0.2.1:8080").expect("a way");
    let hear = |from: &UdpSocket| from.recv_from(&mut [0; 5]).expect("it arrives").1;
    ask(&early);
    let first = hear(&server);
    // Only these: without any rule the kernel looks at no connections at all.
    host.exec("nft delete table ip cni_hostport");
    ask(&late);
    // The kernel has seen it, and remembers where it went.
    host.wait_until("the packet came to the host", || {
        fs::read_to_string("/proc/thread-self/net/snmp").is_ok_and(|text| {
            let ports = text.lines().filter(|line| line.starts_with("Udp: ")).nth(1);
            // Of packets to a port where nobody listens.
            ports.is_some_and(|line| line.split(' ').nth(2) != Some("0"))
        })
    });
    ok(host, "restore");
    ask(&late);
    assert_eq!(hear(&server).port(), late.local_addr().expect("bound").port());
    // From this side: what is forgotten would come from another address.
    server.send_to(b"there", first).expect("a way");
    assert_eq!(hear(&early).to_string(), "192.0.2.1:8080");
}

/// Killed at each of its requests to the kernel.
fn a_restore_that_was_killed_is_repeated(host: &Host) {
    let one = host.container("one");
    let mapping = json!([{"hostPort": PORT, "containerPort": 80, "protocol": "tcp"}]);
    let plugins = [
        ("bridge", with_all_rules()),
        ("portmap", json!({"backend": "nftables", "runtimeConfig": {"portMappings": mapping}})),
        ("firewall", json!({"backend": "nftables"})),
    ];
    let mut result = Value::Null;
    let mut confs = Vec::new();
    for (plugin, keys) in plugins {
        let conf = of_type(host, plugin, keys);
        let added =
            if result.is_null() { conf.clone() } else { with_previous_result(&conf, &result) };
        result = host.plugin(plugin).add(&one, "eth0", &added).expect_result();
        confs.push((plugin, conf));
    }
    one.wait_for_addresses();
    let (before, inside) = (words(host), one.network_snapshot());
    let restore = |plugin: Plugin<'_>, conf: &Value| {
        plugin.send(
            "RESTORE",
            &one,
            "eth0",
            with_previous_result(conf, &result).to_string().as_bytes(),
        )
    };
    let mut points = 0;
    for (plugin, conf) in &confs {
        for call in ["sendto", "sendmsg", "setns"] {
            for nth in 1.. {
                host.exec("nft flush ruleset");
                host.exec("ip addr flush dev cni0 scope global");
                one.exec("ip addr flush dev eth0 scope global");
                let killed = restore(host.plugin(plugin).kill_at_call(call, nth), conf);
                for (plugin, conf) in &confs {
                    restore(host.plugin(plugin), conf).expect_ok();
                }
                assert_eq!(words(host), before, "{plugin}, {call} {nth}: {killed}");
                inside.expect_same(&one.network_snapshot());
                if !killed.fault_fired() {
                    break;
                }
                points += 1;
            }
        }
    }
    assert!(points > 30, "{points}");
    for (plugin, conf) in confs.iter().rev() {
        host.plugin(plugin).del(&one, "eth0", &with_previous_result(conf, &result)).expect_ok();
    }
    assert_eq!(one.links(), ["lo"]);
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("ctr-one") && !rules.contains("10.1.0.2"), "{rules}");
}

fn addresses_and_routes_come_back(host: &Host) {
    network(host, json!({}));
    let one = host.container("one");
    add(host, &one);
    let before = host.snapshot();
    host.exec("ip addr flush dev cni0 scope global");
    host.set_sysctl("net/ipv4/ip_forward", "0");
    expect_restored(host, &before, &["bridge"]);
    let inside = one.network_snapshot();
    for damage in [
        "ip addr flush dev eth0 scope global",
        "ip route del default",
        "ip -6 route del default",
        "ip link set eth0 down",
        "ip route flush dev eth0",
        "ip -6 route flush dev eth0",
        "ip route del 10.1.0.0/24",
        "ip -6 route del fd00:1::/64",
    ] {
        one.exec(damage);
        assert_eq!(states(host, "restore --json")[0].0, "restored", "{damage}");
        one.wait_for_addresses();
        inside.expect_same(&one.network_snapshot());
    }
    host.expect_unchanged(&before);
}

fn a_bridge_that_was_removed_comes_back(host: &Host) {
    network(host, json!({"hairpinMode": true}));
    let [one, two] = ["one", "two"].map(|name| host.container(name));
    add(host, &one);
    ok(host, "add net /run/netns/two");
    let mac = host.mac("cni0");
    host.exec("ip link del cni0");
    assert_eq!(states(host, "restore --json").len(), 2);
    assert_eq!(host.mac("cni0"), mac);
    for container in [&one, &two] {
        ok(host, &format!("check net {}", container.path().display()));
    }
    if testkit::Feature::Ping.present() {
        one.expect_ping("10.1.0.3");
        one.expect_ping("10.1.0.1");
    }
}

/// What portmap set on the bridge is missed only when there is a bridge again.
fn the_whole_chain_comes_back_with_its_bridge(host: &Host) {
    whole_chain::write_chain(host, "1.0.0", &whole_chain::plugins(None));
    let pods = [("one", 18080), ("two", 18081)].map(|(name, port)| {
        let container = host.container(name);
        let capabilities = whole_chain::capabilities(port);
        let line = format!("add net {}", container.path().display());
        let output = cnitool_with(host, &capabilities, &line);
        assert!(output.success(), "{output}");
        (container, whole_chain::addresses(&output.stdout))
    });
    host.exec("ip link del cni0");
    let states_of = |line| states(host, line).into_iter().map(|(state, _)| state);
    assert_eq!(states_of("restore --json").collect::<Vec<_>>(), ["restored", "restored"]);
    assert_eq!(states_of("restore --json").collect::<Vec<_>>(), ["complete", "complete"]);
    let (one, others) = (&pods[0].0, &pods[1].1);
    others.iter().for_each(|address| one.expect_ping(address));
    let _server = one.echo_server(8080);
    let at_loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 18080));
    host.tcp(at_loopback).expect("mapped at the loopback");
}

/// kube-flannel's list of old, and containerd's own; and a plugin that knows no more.
fn lists_of_before_check_are_restored(host: &Host) {
    host.write(
        "/run/flannel/subnet.env",
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\n\
         FLANNEL_IPMASQ=false\n",
    );
    let write = |file: &str, name: &str, plugins: Value| {
        let list = json!({"cniVersion": "0.3.1", "name": name, "plugins": plugins});
        host.write(format!("/etc/cni/net.d/{file}"), list.to_string());
    };
    write(
        "10-net.conflist",
        "net",
        json!([{"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]),
    );
    write("99-loopback.conflist", "cni-loopback", json!([{"type": "loopback"}]));
    let one = host.container("one");
    ok(host, "add -i lo cni-loopback /run/netns/one");
    add(host, &one);
    let complete = ("complete".to_owned(), Vec::new());
    assert_eq!(states(host, "restore --json"), [complete.clone(), complete.clone()]);
    let (before, inside) = (host.snapshot(), one.network_snapshot());
    host.exec("nft flush ruleset");
    one.exec("ip route del default");
    one.exec("ip link set lo down");
    let done = states(host, "restore --json");
    assert_eq!(done[0], ("restored".to_owned(), owned(&["loopback"])));
    assert_eq!(done[1], ("restored".to_owned(), owned(&["flannel", "portmap"])));
    host.expect_unchanged(&before);
    inside.expect_same(&one.network_snapshot());

    let script = r#"[ $CNI_COMMAND = ADD ] || [ $CNI_COMMAND = DEL ] || {
        echo '{"code": 1, "msg": "incompatible CNI versions"}'; exit 1; }
        [ $CNI_COMMAND = DEL ] || echo '{"cniVersion": "0.3.1"}'"#;
    let older = Recorder::new(host, "older", script);
    write("20-side.conflist", "side", json!([{"type": "loopback"}, {"type": "older"}]));
    let path = older.path();
    let run = |line: &str| cnitool_env(host, line, &[("CNI_PATH", &path)]);
    assert!(run("add side /run/netns/one").success());
    let output = run("restore side");
    assert_eq!(output.code(), Some(1), "{output}");
    let told = "plugin type=\"older\" failed (restore): the list is of before version 0.4.0";
    assert!(output.stderr.contains(told) && output.stdout.contains(" failed "), "{output}");
    assert_eq!(run("restore cni-loopback").code(), Some(0));
}

fn a_wire_comes_back(host: &Host) {
    write(
        host,
        json!([{"type": "ptp", "ipMasq": true, "ipMasqBackend": "nftables",
            "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}}]),
    );
    let one = host.container("one");
    let result = add(host, &one);
    let end = result["interfaces"][0]["name"].as_str().expect("a name").to_owned();
    let (before, inside) = (host.snapshot(), one.network_snapshot());
    for damage in [
        "nft flush ruleset".to_owned(),
        format!("ip addr flush dev {end} scope global"),
        format!("ip route del 10.1.0.2 dev {end}"),
        format!("ip -6 route del fd00:1::2 dev {end}"),
        format!("ip link set {end} down"),
    ] {
        host.exec(damage);
        expect_restored(host, &before, &["ptp"]);
    }
    // Routes of IPv6 would stay, and lose the source address that they name.
    one.exec("ip -4 addr flush dev eth0 scope global");
    expect_restored(host, &before, &["ptp"]);
    inside.expect_same(&one.network_snapshot());
    one.exec("ip -6 addr flush dev eth0 scope global");
    expect_restored(host, &before, &["ptp"]);
}

fn half_of_the_rules_are_not_doubled(host: &Host) {
    network(host, json!({}));
    let one = host.container("one");
    add(host, &one);
    let rules = host.exec("nft -a list chain inet cni_plugins_masquerade masq_checks");
    let rule = rules.lines().find(|line| line.contains("10.1.0.2")).expect("a rule");
    let handle = rule.rsplit(' ').next().expect("a handle");
    host.exec(format!("nft delete rule inet cni_plugins_masquerade masq_checks handle {handle}"));
    assert_eq!(states(host, "restore --json")[0], ("restored".to_owned(), owned(&["bridge"])));
    let rules = host.exec("nft list chain inet cni_plugins_masquerade masq_checks");
    assert_eq!(rules.matches(" masquerade").count(), 2, "{rules}");
    with_port(host, "del net /run/netns/one");
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("10.1.0.2"), "{rules}");
}

/// As by a runtime that takes no lock: the last plugin of the chain is one that
/// forgets the attachment when it is asked to CHECK.
fn what_is_deleted_meanwhile_is_not_brought_back(host: &Host) {
    let folder = host.scratch().join("rude");
    fs::create_dir_all(&folder).expect("our folder");
    let script = "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = ADD ] && \
        echo '{\"cniVersion\":\"1.0.0\",\"ips\":[]}'\n\
        [ $CNI_COMMAND = CHECK ] && rm -f /var/lib/cni/results/*\nexit 0\n";
    host.write(folder.join("rude"), script);
    host.exec(["chmod", "755", &folder.join("rude").display().to_string()]);
    let bridge = with(&with_all_rules(), json!({"type": "bridge"}));
    write(host, json!([{"type": "rude"}, bridge]));
    let one = host.container("one");
    let path = format!("{}:{}", testkit::plugins_folder().display(), folder.display());
    let run = |line: &str| cnitool_env(host, line, &[("CNI_PATH", &path)]);
    let added = run("add net /run/netns/one");
    assert!(added.success(), "{added}");
    host.exec("nft flush ruleset");
    let output = run("restore");
    assert!(!output.success() && output.stderr.contains("it was deleted meanwhile"), "{output}");
    assert_eq!(one.links(), ["lo"]);
    let rules = host.exec("nft list ruleset");
    assert!(!rules.contains("10.1.0.2") && !rules.contains("macspoofchk-"), "{rules}");
}

fn nothing_is_made_for_a_pair_that_is_gone(host: &Host) {
    for plugin in ["bridge", "ptp"] {
        let keys = if plugin == "bridge" {
            json!({"type": plugin})
        } else {
            json!({"type": plugin, "bridge": null, "isGateway": null, "macspoofchk": null})
        };
        write(host, json!([with(&with_all_rules(), keys)]));
        let one = host.container("one");
        ok(host, "add net /run/netns/one");
        one.exec("ip link del eth0");
        host.exec("nft flush ruleset");
        let output = cnitool(host, "restore");
        assert!(!output.success() && output.stderr.contains("its veth pair is gone"), "{output}");
        assert_eq!(host.exec("nft list ruleset"), "");
        ok(host, "del net /run/netns/one");
        one.destroy();
    }
}

fn del_after_a_flush_succeeds(host: &Host) {
    network(host, json!({}));
    let one = host.container("one");
    add(host, &one);
    host.exec("nft flush ruleset");
    with_port(host, "del net /run/netns/one");
    assert_eq!(one.links(), ["lo"]);
    assert_eq!(host.files("/var/lib/cni/results").len(), 0);
}

fn what_cannot_come_back_is_told(host: &Host) {
    network(host, json!({}));
    let [one, two, gone] = ["one", "two", "gone"].map(|name| host.container(name));
    add(host, &one);
    for name in ["two", "gone"] {
        ok(host, &format!("add net /run/netns/{name}"));
    }
    gone.destroy();
    assert!(ok(host, "restore").contains(" gone "));
    one.exec("ip link del eth0");
    two.exec("ip route del default");
    host.write("/var/lib/cni/results/net-x-eth0", "{");
    let output = cnitool(host, "restore");
    assert_eq!(output.code(), Some(1), "{output}");
    // The other one is not held up.
    assert!(output.stdout.contains(" failed ") && output.stdout.contains(" restored "), "{output}");
    assert_eq!(output.stdout.lines().count(), 4, "{output}");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{output}");
    assert!(
        lines[1].contains("type=\"bridge\" failed (restore): ") && lines[1].contains("is gone")
    );
}

fn links_in_the_container_get_their_addresses_back(host: &Host) {
    host.exec("ip link add up0 type bridge");
    host.exec("ip link set up0 up");
    write(
        host,
        json!([{"type": "macvlan", "master": "up0",
            "ipam": {"type": "static", "addresses": [{"address": "10.1.0.2/24"}],
                "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.0.1"}]}}]),
    );
    let one = host.container("one");
    ok(host, "add net /run/netns/one");
    one.wait_for_addresses();
    let inside = one.network_snapshot();
    for damage in [
        "ip addr flush dev eth0 scope global",
        "ip route del 10.9.0.0/16",
        "ip route flush dev eth0",
        "ip route del 10.1.0.0/24",
        "ip link set eth0 down",
    ] {
        one.exec(damage);
        assert_eq!(states(host, "restore --json")[0].0, "restored", "{damage}");
        one.wait_for_addresses();
        inside.expect_same(&one.network_snapshot());
    }
}

/// After each damage and a restore the link has what it had.
#[track_caller]
fn expect_repaired(host: &Host, one: &Container, damages: &[&str]) {
    let had = || {
        let link = one.link("eth0").expect("there");
        let state = (link["master"].clone(), link["flags"].to_string().contains("\"UP\""));
        (state, one.addresses("eth0"), one.routes("main"))
    };
    one.wait_for_addresses();
    let before = had();
    for damage in damages {
        host.note(*damage);
        one.exec(*damage);
        assert_ne!(had(), before, "no damage");
        assert_eq!(states(host, "restore --json")[0].0, "restored", "{damage}");
        // Its link-local route is the kernel's to make, a moment later.
        host.wait_until("all is back", || had() == before);
    }
}

/// Addresses of both families, and a route.
fn dual_stack() -> Value {
    json!({"type": "static", "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.0.1"}],
        "addresses": [{"address": "10.1.0.2/24"}, {"address": "fd00:1::2/64"}]})
}

fn a_tap_device_comes_back_to_its_bridge_and_addresses(host: &Host) {
    write(host, json!([{"type": "tap", "bridge": "br0", "ipam": dual_stack()}]));
    let one = host.container("one");
    one.exec("ip link add br0 address 02:00:00:00:00:01 type bridge");
    ok(host, "add net /run/netns/one");
    let damages = [
        "ip addr flush dev eth0 scope global",
        "ip route del 10.9.0.0/16",
        "ip link set eth0 down",
        "ip link set eth0 nomaster",
    ];
    expect_repaired(host, &one, &damages);
    // Another's, by now.
    one.exec("ip link add br1 type bridge");
    one.exec("ip link set eth0 master br1");
    let output = cnitool(host, "restore");
    assert!(!output.success() && output.stderr.contains("it is no port of br0"), "{output}");
    assert_eq!(one.link("eth0").expect("there")["master"], "br1");
}

fn a_lent_device_gets_its_addresses_back(host: &Host) {
    host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
    for end in ["ens5", "wire5"] {
        if host.link(end).is_none() {
            host.exec("ip link add ens5 type veth peer name wire5");
        }
        host.exec(format!("ip link set {end} up"));
    }
    write(host, json!([{"type": "host-device", "device": "ens5", "ipam": dual_stack()}]));
    let one = host.container("one");
    ok(host, "add net /run/netns/one");
    let damages = [
        "ip addr flush dev eth0 scope global",
        "ip route del 10.9.0.0/16",
        "ip link set eth0 down",
    ];
    expect_repaired(host, &one, &damages);
    // Something else under its name gets nothing.
    one.exec("ip link set eth0 down");
    one.exec("ip link set eth0 name other");
    one.exec(format!("ip link add eth0 address {} type bridge", one.mac("other")));
    let output = cnitool(host, "restore");
    assert!(!output.success() && output.stderr.contains("it is not the device ens5"), "{output}");
    assert_eq!(one.addresses("eth0"), [""; 0]);
}

fn plugins_of_others_say_that_they_cannot(host: &Host) {
    // Under a name that none of ours has.
    let folder = host.scratch().join("theirs");
    fs::create_dir_all(&folder).expect("our folder");
    fs::copy(testkit::peer_folder().join("tuning"), folder.join("theirs")).expect("readable");
    let path = format!("{}:{}", testkit::plugins_folder().display(), folder.display());
    let run = |line: &str| cnitool_env(host, line, &[("CNI_PATH", &path)]);
    write(
        host,
        json!([{"type": "bridge", "bridge": "cni0",
            "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}},
            {"type": "theirs", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}}]),
    );
    let one = host.container("one");
    assert!(run("add net /run/netns/one").success());
    one.set_sysctl("net/ipv4/conf/eth0/arp_notify", "0");
    let output = run("restore");
    assert_eq!(output.code(), Some(1), "{output}");
    let told = "plugin type=\"theirs\" failed (restore): this plugin cannot do it";
    assert!(output.stderr.contains(told), "{output}");
    assert_eq!(one.sysctl("net/ipv4/conf/eth0/arp_notify").as_deref(), Some("0"));
}
