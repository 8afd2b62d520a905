//! DEL and GC: the device comes back as it was, from wherever it is.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases};

use super::selecting::{DEVICE, empty_sysfs, pci_device, show_link};
use super::{
    LEFT, addressed, bring_home_as_the_kernel_does, conf, device, device_down, leased, leases,
    name_the_host, records, settle,
};
use crate::conf as network;
use crate::links::{self, Subject};

pub(super) fn list() -> Vec<Case> {
    let list = cases! {
        [] whatever_the_application_changed_is_undone,
        [Bridge, Ipv6] what_the_host_had_configured_comes_back,
        [] an_address_that_another_link_has_by_now_stays_there,
        [] what_cannot_come_back_is_said_and_no_obstacle,
        [] a_device_that_was_down_comes_back_down,
        [] once_more_and_before_and_without_a_namespace,
        [] a_namespace_the_runtime_does_not_name_is_found,
        [] a_namespace_that_lost_its_path_is_found,
        [] a_path_that_is_anothers_by_now_is_no_obstacle,
        [] a_virtual_device_ends_with_its_namespace,
        [] what_the_kernel_brought_home_gets_its_name_back,
        [] the_next_add_fetches_what_came_home,
        [] a_taken_name_is_named_and_the_address_is_free,
        [] second_names_do_not_stand_in_the_way,
        [] links_of_others_stay_where_they_are,
        [] without_its_record_the_alias_says_where_it_belongs,
        [] a_record_of_before_the_last_boot_counts_for_nothing,
        [] hardware_that_does_not_come_is_remembered,
        [Ipv6] ipam_of_others_finds_the_device,
        [] gc_returns_devices_of_invalid_attachments,
        [] gc_drops_records_of_nothing,
        [Macvlan] a_macvlan_can_be_lent,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// As applications do; kernels before 6.2 rename links that are down only.
fn rename(pod: &Container, name: &str) {
    pod.exec("ip link set eth0 down");
    pod.exec(format!("ip link set eth0 name {name}"));
    pod.exec(format!("ip link set {name} up"));
}

fn whatever_the_application_changed_is_undone(host: &Host) {
    device(host, "ens5");
    host.exec("ip link set ens5 down");
    host.exec("ip link set ens5 mtu 1400 txqueuelen 500 address 02:00:5e:10:00:01 up");
    host.exec(["ip", "link", "set", "ens5", "alias", "uplink to rack 5"]);
    host.exec("ip link property add dev ens5 altname uplink-to-rack-5");
    host.exec("ip link property add dev ens5 altname ens5-too");
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    for command in [
        "ip link set eth0 mtu 1300 txqueuelen 7 promisc on",
        "ip link set eth0 arp off multicast off allmulticast on group 7",
        "ip link set eth0 down",
        "ip link set eth0 address 02:00:00:00:00:77",
        "ip link set eth0 name wan",
        "ip link set wan alias mine",
        "ip link property del dev wan altname ens5-too",
        "ip link property add dev wan altname mine-too",
    ] {
        pod.exec(command);
    }
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(pod.links(), ["lo"]);
    assert_eq!((leases(host), records(host)), (0, 0));
    host.expect_unchanged_but(&before, LEFT);
}

fn what_the_host_had_configured_comes_back(host: &Host) {
    device(host, "ens5");
    for command in [
        "ip link add br0 type bridge",
        "ip link set ens5 master br0",
        "bridge link set dev ens5 isolated on learning off cost 55",
        "ip address add 10.5.0.7/24 dev ens5",
        "ip address add 2001:db8:5::7/64 dev ens5",
        "ip route add 10.9.0.0/16 via 10.5.0.1 metric 5",
        "ip neigh add 10.5.0.9 lladdr 02:00:5e:10:00:09 dev ens5 nud permanent",
    ] {
        host.exec(command);
    }
    host.set_sysctl("net/ipv4/conf/ens5/arp_ignore", "2");
    settle(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    rename(&pod, "wan");
    let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
    outcome.expect_ok();
    assert_eq!(outcome.stderr(), "");
    host.expect_unchanged_but(&before, LEFT);
}

fn an_address_that_another_link_has_by_now_stays_there(host: &Host) {
    device(host, "ens5");
    host.exec("ip address add 10.5.0.7/24 dev ens5");
    host.exec("ip address add 10.6.0.7/24 dev ens5");
    let pod = host.container("pod");
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    host.exec("ip link add ens6 type veth peer name wire6");
    host.exec("ip address add 10.5.0.7/24 dev ens6");
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(host.addresses("ens5"), ["10.6.0.7/24"]);
    assert_eq!(host.addresses("ens6"), ["10.5.0.7/24"]);
}

fn what_cannot_come_back_is_said_and_no_obstacle(host: &Host) {
    device(host, "ens5");
    host.exec("ip link add br0 type bridge");
    host.exec("ip link set ens5 master br0");
    let pod = host.container("pod");
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    host.exec("ip link del br0");
    let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
    outcome.expect_ok();
    assert!(outcome.stderr().contains("restore what the host had on ens5"), "{outcome}");
    assert_eq!((leases(host), records(host)), (0, 0));
    assert_eq!(host.link("ens5").expect("home").get("ifalias"), None);
}

fn a_device_that_was_down_comes_back_down(host: &Host) {
    device_down(host);
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = addressed(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    host.expect_unchanged_but(&before, LEFT);
}

fn once_more_and_before_and_without_a_namespace(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = leased(host);
    let host_device = host.plugin("host-device");
    host_device.del(&pod, "eth0", &conf).expect_ok();
    host_device.del_without_netns(&pod, "eth0", &conf).expect_ok();
    host_device.add(&pod, "eth0", &conf).expect_result();
    host_device.del(&pod, "eth0", &conf).expect_ok();
    // What somebody does with the device afterwards is not undone.
    host.exec("ip link set ens5 mtu 1400");
    host_device.del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(host.link("ens5").expect("home")["mtu"], 1400);
    host.exec("ip link set ens5 mtu 1500");
    pod.destroy();
    host_device.del(&pod, "eth0", &conf).expect_ok();
    host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
}

fn a_namespace_the_runtime_does_not_name_is_found(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    host.plugin("host-device").del_without_netns(&pod, "eth0", &conf).expect_ok();
    assert_eq!(leases(host), 0);
    host.expect_unchanged_but(&before, LEFT);
}

/// What keeps a namespace alive without its path.
enum Keeper {
    Process(Child),
    Mount(&'static str),
    Descriptor(#[expect(dead_code, reason = "it is only kept open")] File),
}

impl Keeper {
    fn process(host: &Host, pod: &Container) -> Keeper {
        let net = format!("--net={}", pod.path().display());
        let child = Command::new("nsenter").args([&net, "sleep", "600"]).spawn();
        let child = child.expect("nsenter starts");
        let namespace = || fs::metadata(format!("/proc/{}/ns/net", child.id())).map(|m| m.ino());
        let own = fs::metadata(pod.path()).expect("it is bound").ino();
        host.wait_until("the process is there", || namespace().ok() == Some(own));
        Keeper::Process(child)
    }

    fn mount(host: &Host, pod: &Container) -> Keeper {
        let path = "/run/kept";
        host.exec(format!("touch {path}"));
        host.exec(format!("mount --bind {} {path}", pod.path().display()));
        Keeper::Mount(path)
    }

    fn descriptor(_: &Host, pod: &Container) -> Keeper {
        Keeper::Descriptor(File::open(pod.path()).expect("it is bound"))
    }

    fn end(self, host: &Host) {
        match self {
            Keeper::Process(mut child) => {
                child.kill().expect("it is ours");
                child.wait().expect("it is ours");
            }
            Keeper::Mount(path) => {
                host.exec(format!("umount {path}"));
                host.exec(format!("rm {path}"));
            }
            Keeper::Descriptor(_) => {}
        }
    }
}

/// Whether the record has what older builds, and older kernels, do not tell; takes it
/// away with `forget`.
fn knows_the_numbers_of_namespaces(host: &Host, forget: bool) -> bool {
    let folder = "/var/lib/cni/oxcni/host-device";
    let name = host.files(folder).pop_first().expect("a record");
    let path = format!("{folder}/{name}");
    let text = fs::read(&path).expect("readable");
    let mut record: Value = serde_json::from_slice(&text).expect("JSON");
    if forget {
        record.as_object_mut().expect("an object").remove("netnsId");
        host.write(&path, record.to_string());
    }
    record["netnsId"].as_u64().is_some_and(|number| number != 0)
}

fn a_namespace_that_lost_its_path_is_found(host: &Host) {
    device(host, "ens5");
    let conf = leased(host);
    let host_device = host.plugin("host-device");
    let other = host.container("other");
    let before = host.snapshot();
    let keepers = [Keeper::process, Keeper::mount, Keeper::descriptor];
    for (run, keep) in keepers.into_iter().enumerate() {
        for is_old in [false, true] {
            let pod = host.container(&format!("pod{run}{is_old}"));
            host_device.add(&pod, "eth0", &conf).expect_result();
            let keeper = keep(host, &pod);
            pod.destroy();
            let is_known = knows_the_numbers_of_namespaces(host, is_old);
            if matches!(keeper, Keeper::Descriptor(_)) && !is_known {
                // It leads nowhere that could be looked into.
                host_device.del(&pod, "eth0", &conf).expect_ok();
                assert_eq!((host.links(), records(host)), (vec!["lo".to_owned()], 0));
                keeper.end(host);
                return;
            }
            host_device.status(&conf).expect_ok();
            let lent = host_device.add(&other, "eth0", &conf);
            lent.expect_error(999, "of network net has it as eth0 in");
            let outcome = host_device.del(&pod, "eth0", &conf);
            outcome.expect_ok();
            assert_eq!(outcome.stderr(), "");
            assert_eq!((leases(host), records(host)), (0, 0));
            keeper.end(host);
            host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/mount"]);
        }
    }
}

fn a_path_that_is_anothers_by_now_is_no_obstacle(host: &Host) {
    device(host, "ens5");
    let conf = leased(host);
    let pod = host.container("pod");
    let before = host.snapshot();
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    let keeper = Keeper::process(host, &pod);
    pod.destroy();
    pod.recreate();
    let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
    outcome.expect_ok();
    assert_eq!(outcome.stderr(), "");
    keeper.end(host);
    host.expect_unchanged_but(&before, LEFT);
}

fn a_virtual_device_ends_with_its_namespace(host: &Host) {
    for stale in [false, true] {
        let name = if stale { "stale" } else { "gone" };
        host.exec("ip link add ens5 type veth peer name peer5");
        let pod = host.container(name);
        let conf = leased(host);
        host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        if stale {
            pod.make_stale_file();
        } else {
            pod.destroy();
        }
        host.wait_until("the pair is gone", || host.links() == ["lo"]);
        host.plugin("host-device")
            .status(&conf)
            .expect_error(50, &format!("container ctr-{name} of network net had it"));
        let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
        outcome.expect_ok();
        let said = format!("device ens5, lent to container ctr-{name}, is lost");
        assert!(outcome.stderr().contains(&said), "{outcome}");
        assert_eq!((leases(host), records(host)), (0, 0));
        host.plugin("host-device").status(&conf).expect_error(50, "no link named ens5");
    }
}

fn what_the_kernel_brought_home_gets_its_name_back(host: &Host) {
    let before_all = ["eth0", "dev31"];
    device(host, "ens5");
    host.exec("ip link set ens5 mtu 1400");
    host.exec(["ip", "link", "set", "ens5", "alias", "uplink to rack 5"]);
    name_the_host(host);
    for (run, name) in before_all.into_iter().enumerate() {
        let pod = host.container(&format!("pod{run}"));
        let before = host.snapshot();
        let conf = leased(host);
        host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        bring_home_as_the_kernel_does(&pod, "eth0", name);
        pod.destroy();
        host.plugin("host-device").status(&conf).expect_ok();
        if run == 0 {
            host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        } else {
            let none = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": []});
            host.plugin("host-device").gc(&network::with(&conf, none)).expect_ok();
        }
        assert_eq!((leases(host), records(host)), (0, 0));
        host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
    }
}

fn the_next_add_fetches_what_came_home(host: &Host) {
    let far = device(host, "ens5");
    host.exec("ip link set ens5 mtu 1400");
    name_the_host(host);
    let (one, two) = (host.container("one"), host.container("two"));
    let conf = addressed(host);
    host.plugin("host-device").add(&one, "eth0", &conf).expect_result();
    bring_home_as_the_kernel_does(&one, "eth0", "dev7");
    one.destroy();
    host.plugin("host-device").add(&two, "net1", &conf).expect_result();
    let link = two.link("net1").expect("it is there");
    assert_eq!((&link["ifalias"], &link["mtu"]), (&json!("ens5"), &json!(1400)));
    far.exec("ip link set wire mtu 1400");
    // The old attachment's DEL takes nothing from the new one.
    host.plugin("host-device").del(&one, "eth0", &conf).expect_ok();
    assert!(two.link("net1").is_some());
    host.plugin("host-device").del(&two, "net1", &conf).expect_ok();
    assert_eq!(host.links(), ["lo", "ens5"]);
    assert_eq!(records(host), 0);
}

fn a_taken_name_is_named_and_the_address_is_free(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    host.exec("ip link add usurper type veth peer name other");
    host.exec("ip link property add dev usurper altname ens5");
    let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
    outcome.expect_error(999, "the host has another link of that name");
    // Nobody answers for the address, and others may have it.
    let link = pod.link("eth0").expect("it stayed");
    assert!(!link["flags"].as_array().expect("flags").contains(&json!("UP")), "{link}");
    assert_eq!((leases(host), records(host)), (0, 1));
    host.exec("ip link del usurper");
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(host.links(), ["lo", "ens5"]);
    assert_eq!(records(host), 0);
}

fn second_names_do_not_stand_in_the_way(host: &Host) {
    device(host, "ens5");
    host.exec("ip link property add dev ens5 altname uplink-to-rack-5");
    let pod = host.container("pod");
    let conf = addressed(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    // One the application gave it, one the host gave to another link.
    pod.exec("ip link property add dev eth0 altname other");
    host.exec("ip link add other type veth peer name another");
    host.exec("ip link property add dev another altname uplink-to-rack-5");
    let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
    outcome.expect_error(999, "restore an alternative name of ens5");
    assert_eq!(host.link("ens5").expect("home").get("altnames"), None);
    assert_eq!(records(host), 1);
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    assert_eq!(records(host), 0);
}

fn links_of_others_stay_where_they_are(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    pod.exec("ip link add eth0 type veth peer name peer0");
    let conf = addressed(host);
    for alias in ["", "ens9", "ens5 or so"] {
        pod.exec(["ip", "link", "set", "eth0", "alias", alias]);
        host.plugin("host-device").add(&pod, "eth0", &conf).expect_error(999, "file exists");
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        assert!(pod.link("eth0").is_some(), "{alias:?}");
    }
    // Neither does one attachment take another's.
    host.plugin("host-device").add(&pod, "net1", &conf).expect_result();
    let other = network::with(&conf, json!({"name": "other"}));
    host.plugin("host-device").del(&pod, "net1", &other).expect_ok();
    assert!(pod.link("net1").is_some());
}

fn without_its_record_the_alias_says_where_it_belongs(host: &Host) {
    device_down(host);
    let pod = host.container("pod");
    let conf = addressed(host);
    let before = host.snapshot();
    for content in [None, Some(""), Some("\0\0\0"), Some("{\"network\":5}")] {
        host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        let file = "/var/lib/cni/oxcni/host-device/net:ctr-pod:eth0";
        match content {
            None => drop(host.exec(format!("rm {file}"))),
            Some(content) => host.write(file, content),
        }
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        assert_eq!(records(host), 0);
        host.expect_unchanged_but(&before, LEFT);
    }
}

fn a_record_of_before_the_last_boot_counts_for_nothing(host: &Host) {
    device(host, "ens5");
    let (one, two) = (host.container("one"), host.container("two"));
    let conf = addressed(host);
    host.plugin("host-device").add(&one, "eth0", &conf).expect_result();
    let file = "/var/lib/cni/oxcni/host-device/net:ctr-one:eth0";
    let text = std::fs::read_to_string(file).expect("it is there");
    let mut record: Value = serde_json::from_str(&text).expect("JSON");
    host.plugin("host-device").del(&one, "eth0", &conf).expect_ok();
    record["bootId"] = json!("00000000000000000000000000000000");
    host.write(file, record.to_string());
    host.plugin("host-device").add(&two, "eth0", &conf).expect_result();
    host.plugin("host-device").del(&one, "eth0", &conf).expect_ok();
    assert_eq!(records(host), 1);
    assert!(two.link("eth0").is_some());
}

/// Whether hardware comes back shows only on a machine that has some. Here a
/// record says so of a link that is none, and so does not come.
fn hardware_that_does_not_come_is_remembered(host: &Host) {
    device(host, "ens5");
    empty_sysfs(host);
    pci_device(host, "mlx5_core", "");
    show_link(host, "ens5", DEVICE);
    let pod = host.container("pod");
    let conf = leased(host);
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    let file = "/var/lib/cni/oxcni/host-device/net:ctr-pod:eth0";
    let text = std::fs::read_to_string(file).expect("it is there");
    let mut record: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(record["device"]["hardware"], DEVICE);
    record["device"]["kind"] = json!(null);
    host.write(file, record.to_string());
    pod.destroy();
    host.wait_until("the pair is gone", || host.links() == ["lo"]);

    let started = Instant::now();
    let outcome = host.plugin("host-device").del(&pod, "eth0", &conf);
    outcome.expect_ok();
    assert!(started.elapsed() >= Duration::from_secs(2), "it was not waited for");
    assert!(outcome.stderr().contains("has not come back from /run/netns/pod"), "{outcome}");
    assert_eq!((leases(host), records(host)), (0, 1));
    // Unplugged meanwhile.
    host.exec(format!("rm -r {DEVICE}"));
    let none = network::with(&conf, json!({"cni.dev/valid-attachments": []}));
    let outcome = host.plugin("host-device").gc(&none);
    outcome.expect_ok();
    assert!(outcome.stderr().contains("is lost"), "{outcome}");
    assert_eq!(records(host), 0);
}

fn ipam_of_others_finds_the_device(host: &Host) {
    device(host, "ens5");
    settle(host, "ens5");
    let conf = conf(host, json!({}));
    links::ipam_of_others_finds_the_link(&Subject { host, plugin: "host-device", conf });
    assert_eq!(records(host), 0);
}

fn gc_returns_devices_of_invalid_attachments(host: &Host) {
    device(host, "ens5");
    host.exec("ip link add ens6 type veth peer name wire6");
    let before = host.snapshot();
    let (one, two) = (host.container("one"), host.container("two"));
    let conf = leased(host);
    let other = network::with(&conf, json!({"device": "ens6"}));
    host.plugin("host-device").add(&one, "eth0", &conf).expect_result();
    host.plugin("host-device").add(&two, "eth0", &other).expect_result();
    let elsewhere = network::with(
        &conf,
        json!({"name": "elsewhere", "cniVersion": "1.1.0",
        "cni.dev/valid-attachments": []}),
    );
    let valid = |list: Value| network::with(&conf, json!({"cni.dev/valid-attachments": list}));
    // Nothing is known, of another network, both are valid: nothing is done.
    let both = json!([{"containerID": "ctr-one", "ifname": "eth0"},
        {"containerID": "ctr-two", "ifname": "eth0"}]);
    for conf in [&conf, &elsewhere, &valid(both)] {
        host.plugin("host-device").gc(conf).expect_ok();
        assert_eq!((leases(host), records(host)), (2, 2));
        assert!(one.link("eth0").is_some() && two.link("eth0").is_some());
    }
    host.plugin("host-device").gc(&valid(json!("?"))).expect_error(7, "valid-attachments");
    rename(&one, "wan");
    let second = json!([{"containerID": "ctr-two", "ifname": "eth0"}]);
    host.plugin("host-device").gc(&valid(second)).expect_ok();
    assert_eq!((leases(host), records(host)), (1, 1));
    assert_eq!(one.links(), ["lo"]);
    host.plugin("host-device").gc(&valid(json!(null))).expect_ok();
    assert_eq!((leases(host), records(host)), (0, 0));
    host.expect_unchanged_but(&before, &["/var/lib/cni", "/run/netns"]);
}

fn gc_drops_records_of_nothing(host: &Host) {
    let far = device(host, "ens5");
    let pod = host.container("pod");
    let conf = addressed(host);
    let none = network::with(&conf, json!({"cni.dev/valid-attachments": []}));
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    host.write("/var/lib/cni/oxcni/host-device/net:ctr-x:eth0", "");
    host.write("/var/lib/cni/oxcni/host-device/other:ctr-x:eth0", "");
    pod.destroy();
    host.wait_until("the pair is gone", || far.links() == ["lo"]);
    let outcome = host.plugin("host-device").gc(&none);
    outcome.expect_ok();
    assert!(outcome.stderr().contains("device ens5, lent to container ctr-pod, is lost"));
    let left = host.files("/var/lib/cni/oxcni/host-device");
    assert_eq!(left.into_iter().collect::<Vec<_>>(), ["other:ctr-x:eth0"]);
}

fn a_macvlan_can_be_lent(host: &Host) {
    device(host, "ens5");
    host.exec("ip link add link ens5 name mv0 type macvlan mode bridge");
    let pod = host.container("pod");
    let before = host.snapshot();
    let conf = conf(host, json!({"device": "mv0", "ipam": network::fixed(&["10.5.0.2/24"])}));
    host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
    pod.expect_ping("10.5.0.1");
    rename(&pod, "wan");
    host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    host.expect_unchanged_but(&before, LEFT);
}
