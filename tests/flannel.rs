//! flannel: flanneld's lease becomes a bridge network, through a delegate.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases, peer_folder, plugins_folder, with_previous_result};

use crate::recorder::Recorder;

pub(crate) fn list() -> Vec<Case> {
    let cases = cases! {
        [Bridge, Ping] two_containers_of_a_node_talk,
        [Bridge] the_state_is_what_the_reference_program_writes,
        [Bridge] check_asks_the_delegate,
        [Bridge] del_works_from_any_state,
        [Bridge] del_reads_what_it_can_of_the_configuration,
        [Bridge] del_without_state_needs_no_routes_and_no_type,
        [] the_delegate_hears_the_previous_result_with_state_and_without,
        [Bridge] two_attachments_of_a_container_do_not_collide,
        [Bridge] a_failed_add_leaves_nothing,
        [Bridge, PeerPlugins] a_repeated_add_takes_nothing_from_the_reference_programs_pod,
        [Bridge] a_failed_second_attachment_leaves_nothing,
        [Bridge] a_failed_del_keeps_the_state,
        [Bridge] gc_forgets_what_is_not_valid,
        [Bridge] status_waits_for_flanneld,
        [Bridge] a_pipe_in_place_of_the_lease_is_not_waited_for,
        [Bridge] add_waits_as_long_as_it_was_told,
        [Bridge] a_lease_with_the_line_ends_of_another_system_is_one,
        [Bridge] what_the_user_says_of_the_delegate_wins,
        [] what_flannel_sets_cannot_be_set,
    };
    // The reference program's is not in Debian's package.
    cases.into_iter().map(Case::ours_only).collect()
}

const LEASE: &str = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_IPV6_NETWORK=fc00::/48\n\
    FLANNEL_IPV6_SUBNET=fc00:0:0:17::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

const STATES: &str = "/var/lib/cni/flannel";

fn conf() -> Value {
    json!({"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel"})
}

fn leased(host: &Host) {
    host.write("/run/flannel/subnet.env", LEASE);
}

fn two_containers_of_a_node_talk(host: &Host) {
    leased(host);
    let (one, two) = (host.container("one"), host.container("two"));
    let before = host.snapshot();
    let result = host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    host.plugin("flannel").add(&two, "eth0", &conf()).expect_result();
    assert_eq!(result["ips"][0]["address"], "10.1.17.2/24");
    assert_eq!(result["ips"][1]["address"], "fc00:0:0:17::2/64");
    assert_eq!(one.link("eth0").expect("it is there")["mtu"], 1450);
    for address in ["10.1.17.3", "fc00:0:0:17::3", "10.1.17.1", "fc00:0:0:17::1"] {
        one.expect_ping(address);
    }
    // Another node's subnet is reached through the gateway.
    let routes = one.routes("main").join("\n");
    assert!(routes.contains("10.1.0.0/16 via 10.1.17.1"), "{routes}");
    for container in [&one, &two] {
        host.plugin("flannel").del(container, "eth0", &conf()).expect_ok();
    }
    host.expect_unchanged_but(
        &before,
        &[
            "cni0",
            "ip_forward",
            "forwarding",
            "accept_redirects",
            "last_reserved_ip",
            "lock",
            ".oxcni",
            "/var/lib/cni",
        ],
    );
    assert!(host.files(STATES).is_empty());
}

fn the_state_is_what_the_reference_program_writes(host: &Host) {
    leased(host);
    let one = host.container("one");
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    let expected = concat!(
        r#"{"cniVersion":"1.1.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.1.17.0/24"}],"#,
        r#"[{"subnet":"fc00:0:0:17::/64"}]],"routes":[{"dst":"10.1.0.0/16"},{"dst":"fc00::/48"}],"#,
        r#""type":"host-local"},"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
    );
    for name in [one.id(), format!("{}@cbr0@eth0", one.id())] {
        let path = format!("{STATES}/{name}");
        assert_eq!(std::fs::read_to_string(&path).expect(&path), expected);
        assert_eq!(host.exec(["stat", "-c", "%a", path.as_str()]).trim(), "600");
    }
    host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
}

fn check_asks_the_delegate(host: &Host) {
    leased(host);
    let one = host.container("one");
    let result = host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    let checked = with_previous_result(&conf(), &result);
    host.plugin("flannel").check(&one, "eth0", &checked).expect_ok();
    one.exec("ip route del 10.1.0.0/16");
    host.plugin("flannel").check(&one, "eth0", &checked).expect_error(999, "10.1.0.0/16");
    host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
    host.plugin("flannel").check(&one, "eth0", &checked).expect_error(999, "no state");
}

fn del_works_from_any_state(host: &Host) {
    leased(host);
    let whole = {
        let one = host.container("zero");
        host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
        let whole = std::fs::read(format!("{STATES}/{}", one.id())).expect("written");
        host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
        whole
    };
    // Missing, empty, cut in the middle, garbage; with and without the lease;
    // under our name, the reference program's, or both.
    let damages: [Option<&[u8]>; 4] =
        [None, Some(b""), Some(&whole[..whole.len() / 2]), Some(b"\0\0\0")];
    for (at, damage) in damages.into_iter().enumerate() {
        for lease in [true, false] {
            leased(host);
            let container = host.container(&format!("c{at}{}", u8::from(lease)));
            let result = host.plugin("flannel").add(&container, "eth0", &conf()).expect_result();
            for name in [container.id(), format!("{}@cbr0@eth0", container.id())] {
                let path = format!("{STATES}/{name}");
                match damage {
                    None => std::fs::remove_file(&path).expect("there"),
                    Some(content) => host.write(&path, content),
                }
            }
            if !lease {
                std::fs::remove_file("/run/flannel/subnet.env").expect("there");
            }
            let asked = with_previous_result(&conf(), &result);
            host.plugin("flannel").del(&container, "eth0", &asked).expect_ok();
            assert_eq!(container.link("eth0"), None);
            host.plugin("flannel").del(&container, "eth0", &asked).expect_ok();
            container.destroy();
            host.plugin("flannel").del_without_netns(&container, "eth0", &conf()).expect_ok();
        }
    }
    let left = host.files("/var/lib/cni/networks/cbr0");
    assert!(
        !left.iter().any(|name| name.contains("10.1.17.") || name.contains("fc00")),
        "leases are left: {left:?}"
    );
    assert!(host.files(STATES).is_empty(), "{:?}", host.files(STATES));
    // The reference program's state alone.
    leased(host);
    let old = host.container("old");
    host.plugin("flannel").add(&old, "eth0", &conf()).expect_result();
    std::fs::remove_file(format!("{STATES}/{}@cbr0@eth0", old.id())).expect("there");
    std::fs::remove_file("/run/flannel/subnet.env").expect("there");
    host.plugin("flannel").del(&old, "eth0", &conf()).expect_ok();
    assert_eq!(old.link("eth0"), None);
    assert!(host.files(STATES).is_empty());
}

/// A key that cannot be read takes no other with it.
fn del_reads_what_it_can_of_the_configuration(host: &Host) {
    leased(host);
    let conf = json!({"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel",
        "dataDir": "/run/fd", "ipam": {"dataDir": "/run/leases"}});
    let mistakes = [
        ("subnetFileWait", json!("5")),
        ("subnetFile", json!(true)),
        ("runtimeConfig", json!("x")),
        ("delegate", json!(5)),
        ("ipam", json!([])),
    ];
    for (at, (key, value)) in mistakes.into_iter().enumerate() {
        let container = host.container(&format!("c{at}"));
        host.plugin("flannel").add(&container, "eth0", &conf).expect_result();
        assert_eq!(host.files("/run/fd").len(), 2);
        let mut edited = conf.clone();
        edited[key] = value;
        host.plugin("flannel").add(&container, "eth1", &edited).expect_error(7, key);
        host.plugin("flannel").del(&container, "eth0", &edited).expect_ok();
        assert_eq!(container.link("eth0"), None, "{key}");
        assert!(host.files("/run/fd").is_empty(), "{key}: {:?}", host.files("/run/fd"));
        let leases = host.files("/run/leases/cbr0");
        assert!(!leases.iter().any(|name| name.contains("10.1.17.")), "{key}: {leases:?}");
    }
    // Without state, `delegate` says whom to ask.
    let one = host.container("one");
    let delegate = Recorder::new(host, "recorder", "");
    let edited = json!({"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel",
        "subnetFileWait": "5", "delegate": {"type": "recorder"}});
    let plugin = host.plugin("flannel").cni_path(&delegate.path());
    plugin.del(&one, "eth0", &edited).expect_ok();
    assert_eq!(delegate.verbs(), ["DEL"]);
}

fn del_without_state_needs_no_routes_and_no_type(host: &Host) {
    leased(host);
    for (at, (key, value)) in
        [("routes", json!("bad")), ("routes", json!([{"dst": "x"}])), ("type", json!(5))]
            .into_iter()
            .enumerate()
    {
        let container = host.container(&format!("c{at}"));
        host.plugin("flannel").add(&container, "eth0", &conf()).expect_result();
        for name in host.files(STATES) {
            std::fs::remove_file(format!("{STATES}/{name}")).expect("there");
        }
        let mut edited = conf();
        edited["ipam"] = json!({key: value});
        host.plugin("flannel").del(&container, "eth0", &edited).expect_ok();
        assert_eq!(container.link("eth0"), None, "{edited}");
        let leases = host.files("/var/lib/cni/networks/cbr0");
        assert!(!leases.iter().any(|name| name.contains("10.1.17.")), "{edited}: {leases:?}");
    }
}

fn the_delegate_hears_the_previous_result_with_state_and_without(host: &Host) {
    leased(host);
    let one = host.container("one");
    let stdin = host.scratch().join("stdin");
    let result = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.17.2/24"}]});
    let script = format!("cat >{}\n[ $CNI_COMMAND != ADD ] || echo '{result}'", stdin.display());
    let delegate = Recorder::new(host, "recorder", &script);
    let heard = || -> Value {
        let text = std::fs::read(&stdin).expect("it was called");
        serde_json::from_slice(&text).expect("a configuration")
    };
    let mut conf = conf();
    conf["delegate"] = json!({"type": "recorder"});
    let plugin = host.plugin("flannel").cni_path(&delegate.path());
    let asked = with_previous_result(&conf, &result);
    for has_state in [true, false] {
        plugin.add(&one, "eth0", &conf).expect_result();
        if !has_state {
            for name in host.files(STATES) {
                std::fs::remove_file(format!("{STATES}/{name}")).expect("there");
            }
        }
        plugin.del(&one, "eth0", &asked).expect_ok();
        assert_eq!(heard()["prevResult"], asked["prevResult"], "state: {has_state}");
        // One that cannot be read is of no use to the delegate either.
        let mut damaged = conf.clone();
        damaged["prevResult"] = json!({"cniVersion": "1.1.0", "ips": "none"});
        plugin.del(&one, "eth0", &damaged).expect_ok();
        assert_eq!(heard().get("prevResult"), None, "state: {has_state}");
    }
    assert_eq!(delegate.verbs(), ["ADD", "DEL", "DEL", "ADD", "DEL", "DEL"]);
}

fn two_attachments_of_a_container_do_not_collide(host: &Host) {
    leased(host);
    let one = host.container("one");
    let other = json!({"cniVersion": "1.1.0", "name": "other", "type": "flannel", "delegate": {"bridge": "br-other"}});
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    host.plugin("flannel").add(&one, "eth1", &other).expect_result();
    host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
    assert_eq!(one.link("eth0"), None);
    assert!(one.link("eth1").is_some());
    host.plugin("flannel").del(&one, "eth1", &other).expect_ok();
    assert_eq!(one.link("eth1"), None);
    assert!(host.files(STATES).is_empty());
}

fn a_failed_add_leaves_nothing(host: &Host) {
    leased(host);
    let one = host.container("one");
    one.exec("ip link add eth0 type bridge");
    let before = host.snapshot();
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_error(999, "eth0");
    host.expect_unchanged_but(&before, &["/var/lib/cni"]);
    assert!(host.files(STATES).is_empty());
    let missing = json!({"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel", "delegate": {"type": "nope"}});
    host.plugin("flannel").add(&one, "eth0", &missing).expect_error(999, "nope");
    assert!(host.files(STATES).is_empty());
}

/// A pod that upstream made, and the runtime's second ADD for it.
fn a_repeated_add_takes_nothing_from_the_reference_programs_pod(host: &Host) {
    let theirs =
        Recorder::new(host, "foreign", &format!("exec {}/bridge", peer_folder().display()));
    for (name, delegate, path) in [
        ("theirs", json!({"type": "foreign", "isGateway": true}), theirs.path()),
        ("ours", json!({}), plugins_folder().display().to_string()),
    ] {
        leased(host);
        let one = host.container(name);
        let mut conf = json!({"cniVersion": "1.0.0", "name": "cbr0", "type": "flannel"});
        conf["delegate"] = delegate;
        let plugin = host.plugin("flannel").cni_path(&path);
        plugin.add(&one, "eth0", &conf).expect_result();
        std::fs::remove_file(format!("{STATES}/{}@cbr0@eth0", one.id())).expect("there");
        let (state, inside) = (host.files(STATES), one.network_snapshot());
        assert_eq!(state.len(), 1);
        plugin.add(&one, "eth0", &conf).expect_error(999, "eth0");
        one.network_snapshot().expect_same(&inside);
        assert_eq!(host.files(STATES), state);
        plugin.del(&one, "eth0", &conf).expect_ok();
        assert_eq!(one.link("eth0"), None);
        assert!(host.files(STATES).is_empty());
    }
}

/// The file of the container is the first attachment's then.
fn a_failed_second_attachment_leaves_nothing(host: &Host) {
    leased(host);
    let one = host.container("one");
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    let state = host.files(STATES);
    let foreign = Recorder::new(host, "foreign", "[ $CNI_COMMAND != ADD ]");
    let mut conf = conf();
    conf["delegate"] = json!({"type": "foreign"});
    let plugin = host.plugin("flannel").cni_path(&foreign.path());
    plugin.add(&one, "eth1", &conf).expect_error(999, "foreign");
    assert_eq!(foreign.verbs(), ["ADD", "DEL"]);
    assert_eq!(host.files(STATES), state);
    assert!(one.link("eth0").is_some());
}

fn a_failed_del_keeps_the_state(host: &Host) {
    leased(host);
    let one = host.container("one");
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    host.plugin("flannel")
        .cni_path("/nonexistent")
        .del(&one, "eth0", &conf())
        .expect_error(999, "bridge");
    assert!(!host.files(STATES).is_empty());
    host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
    assert!(host.files(STATES).is_empty());
}

fn gc_forgets_what_is_not_valid(host: &Host) {
    leased(host);
    let (one, two) = (host.container("one"), host.container("two"));
    for container in [&one, &two] {
        host.plugin("flannel").add(container, "eth0", &conf()).expect_result();
    }
    host.plugin("flannel").gc(&conf()).expect_ok();
    assert_eq!(host.files(STATES).len(), 4, "without a list nothing is forgotten");
    let mut listed = conf();
    listed["cni.dev/valid-attachments"] = json!([{"containerID": two.id(), "ifname": "eth0"}]);
    host.plugin("flannel").gc(&listed).expect_ok();
    assert!(
        host.files(STATES).iter().all(|name| name.contains(&two.id())),
        "{:?}",
        host.files(STATES)
    );
    assert_eq!(one.link("eth0"), None);
    assert!(two.link("eth0").is_some());
    host.plugin("flannel").del(&two, "eth0", &conf()).expect_ok();
}

fn status_waits_for_flanneld(host: &Host) {
    host.plugin("flannel").status(&conf()).expect_error(50, "flanneld");
    host.write("/run/flannel/subnet.env", "FLANNEL_NETWORK=10.1.0.0/16\n");
    host.plugin("flannel").status(&conf()).expect_error(50, "FLANNEL_MTU");
    for damage in ["tr", "", "\"true\"", "$(true)"] {
        host.write("/run/flannel/subnet.env", format!("{LEASE}FLANNEL_IPMASQ={damage}"));
        host.plugin("flannel").status(&conf()).expect_error(50, "neither true nor false");
    }
    leased(host);
    host.plugin("flannel").status(&conf()).expect_ok();
}

fn a_pipe_in_place_of_the_lease_is_not_waited_for(host: &Host) {
    leased(host);
    let one = host.container("one");
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    host.exec(["rm", "/run/flannel/subnet.env"]);
    host.exec(["mkfifo", "/run/flannel/subnet.env"]);
    host.plugin("flannel").status(&conf()).expect_error(50, "it is a pipe");
    host.plugin("flannel").add(&one, "eth1", &conf()).expect_error(999, "it is a pipe");
    // The lease is asked where there is no state.
    for name in host.files(STATES) {
        std::fs::remove_file(format!("{STATES}/{name}")).expect("there");
    }
    host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
    assert_eq!(one.link("eth0"), None);
}

fn add_waits_as_long_as_it_was_told(host: &Host) {
    let one = host.container("one");
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_error(999, "it is not there");
    let mut patient = conf();
    patient["subnetFileWait"] = json!(1);
    host.plugin("flannel").add(&one, "eth0", &patient).expect_error(11, "it is not there");
    patient["subnetFileWait"] = json!(60);
    std::thread::scope(|scope| {
        let add =
            scope.spawn(|| host.plugin("flannel").add(&one, "eth0", &patient).expect_result());
        leased(host);
        add.join().expect("it found the lease");
    });
    host.plugin("flannel").del(&one, "eth0", &patient).expect_ok();
    // It is not there before it is whole.
    let half = LEASE.strip_suffix("ue\n").expect("it ends so");
    host.write("/run/flannel/subnet.env", half);
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_error(999, "FLANNEL_IPMASQ: \"tr\"");
    patient["subnetFileWait"] = json!(1);
    host.plugin("flannel").add(&one, "eth0", &patient).expect_error(11, "FLANNEL_IPMASQ: \"tr\"");
}

fn a_lease_with_the_line_ends_of_another_system_is_one(host: &Host) {
    host.write("/run/flannel/subnet.env", LEASE.replace('\n', "\r\n"));
    let one = host.container("one");
    host.plugin("flannel").add(&one, "eth0", &conf()).expect_result();
    let path = format!("{STATES}/{}", one.id());
    let state: Value = serde_json::from_slice(&std::fs::read(path).expect("there")).expect("JSON");
    assert_eq!(state["ipMasq"], false);
    assert_eq!(one.link("eth0").expect("it is there")["mtu"], 1450);
    host.plugin("flannel").del(&one, "eth0", &conf()).expect_ok();
}

fn what_the_user_says_of_the_delegate_wins(host: &Host) {
    leased(host);
    let one = host.container("one");
    let conf = json!({"cniVersion": "0.4.0", "name": "cbr0", "type": "flannel",
        "delegate": {"bridge": "br-x", "mtu": 1300, "isDefaultGateway": true, "hairpinMode": true},
        "ipam": {"dataDir": "/run/leases", "routes": [{"dst": "192.0.2.0/24"}]}});
    let result = host.plugin("flannel").add(&one, "eth0", &conf).expect_result();
    assert_eq!(result["interfaces"][0]["name"], "br-x");
    assert_eq!(one.link("eth0").expect("there")["mtu"], 1300);
    assert!(one.routes("main").join("\n").contains("192.0.2.0/24"));
    assert!(host.files("/run/leases/cbr0").iter().any(|name| name.contains("10.1.17.2")));
    host.plugin("flannel").del(&one, "eth0", &conf).expect_ok();
}

pub(crate) fn shell_text_in_the_lease_stays_text(host: &Host) {
    let one = host.container("one");
    for hostile in [
        "$(touch /run/pwned)",
        "`touch /run/pwned`",
        "10.1.0.0/24; touch /run/pwned",
        "'10.1.0.0/24'",
    ] {
        host.write("/run/flannel/subnet.env", format!("{LEASE}FLANNEL_SUBNET={hostile}\n"));
        host.plugin("flannel").add(&one, "eth0", &conf()).expect_error(999, "FLANNEL_SUBNET");
        assert!(!host.files("/run").iter().any(|name| name.contains("pwned")));
    }
}

fn what_flannel_sets_cannot_be_set(host: &Host) {
    leased(host);
    let one = host.container("one");
    for (key, value) in [("name", json!("x")), ("ipam", json!({})), ("type", json!(5))] {
        let mut conf = conf();
        conf["delegate"] = json!({key: value});
        host.plugin("flannel").add(&one, "eth0", &conf).expect_error(7, key);
    }
}
