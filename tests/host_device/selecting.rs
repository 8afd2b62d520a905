//! Which device is meant: by name, address, or place in a made-up sysfs.

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases};

use super::{LEFT, conf, device};
use crate::conf as network;

pub(super) fn list() -> Vec<Case> {
    let mut list = cases! {
        [] each_key_finds_the_device,
        [] a_device_in_user_space_stays_where_it_is,
    };
    list.extend(
        cases! {
            [] what_cannot_be_found_is_named,
            [] a_device_in_user_space_is_for_one,
            [] a_device_on_a_bus_that_is_lent_is_named,
        }
        .into_iter()
        .map(Case::ours_only),
    );
    list
}

const PCI: &str = "0000:00:05.0";
pub(super) const DEVICE: &str = "/sys/devices/pci0000:00/0000:00:05.0";

/// Hides the machine's sysfs behind an empty one.
pub(super) fn empty_sysfs(host: &Host) {
    host.exec("mount -t tmpfs tmpfs /sys");
    host.exec("mkdir -p /sys/bus/pci/devices /sys/bus/auxiliary/devices /sys/class/net");
}

/// A PCI device bound to `driver`, with `link` in `below`.
pub(super) fn pci_device(host: &Host, driver: &str, below: &str) {
    let parent = if below.is_empty() { DEVICE.to_owned() } else { format!("{DEVICE}/{below}") };
    host.exec(format!("mkdir -p {parent} /sys/bus/pci/drivers/{driver}"));
    host.exec(format!("ln -sfn /sys/bus/pci/drivers/{driver} {DEVICE}/driver"));
    host.exec(format!("ln -sfn {DEVICE} /sys/bus/pci/devices/{PCI}"));
}

/// The link shows below the device, as one of the host's does.
pub(super) fn show_link(host: &Host, link: &str, parent: &str) {
    host.exec(format!("mkdir -p {parent}/net/{link}"));
    host.exec(format!("ln -sfn {parent} {parent}/net/{link}/device"));
    host.exec(format!("ln -sfn {parent}/net/{link} /sys/class/net/{link}"));
}

fn hide_link(host: &Host, link: &str, parent: &str) {
    host.exec(format!("rm -r {parent}/net/{link} /sys/class/net/{link}"));
}

#[track_caller]
fn expect_found(host: &Host, pod: &Container, keys: &Value) {
    let conf = conf(host, keys.clone());
    let outcome = host.plugin("host-device").add(pod, "eth0", &conf);
    outcome.expect_result();
    assert_eq!(pod.link("eth0").expect("it is there")["ifalias"], "ens5", "{keys}");
    host.plugin("host-device").del(pod, "eth0", &conf).expect_ok();
    assert!(host.link("ens5").is_some(), "{keys}");
}

fn each_key_finds_the_device(host: &Host) {
    device(host, "ens5");
    host.exec("ip link property add dev ens5 altname uplink5");
    let mac = host.mac("ens5");
    let pod = host.container("pod");
    expect_found(host, &pod, &json!({"device": "ens5"}));
    expect_found(host, &pod, &json!({"device": "uplink5"}));
    if host.has_our_plugins() {
        // Longer than a link's own name can be.
        host.exec("ip link property add dev ens5 altname uplink-to-rack-5");
        expect_found(host, &pod, &json!({"device": "uplink-to-rack-5"}));
    }
    expect_found(host, &pod, &json!({"device": "", "hwaddr": mac}));
    expect_found(host, &pod, &json!({"device": null, "HWADDR": mac.to_uppercase()}));
    // The name wins.
    expect_found(host, &pod, &json!({"hwaddr": "02:00:00:00:00:99"}));

    empty_sysfs(host);
    pci_device(host, "mlx5_core", "");
    show_link(host, "ens5", DEVICE);
    expect_found(host, &pod, &json!({"device": "", "kernelpath": DEVICE}));
    expect_found(host, &pod, &json!({"device": "", "pciBusID": PCI}));
    let id = |id: &str| json!({"device": "", "runtimeConfig": {"deviceID": id}});
    expect_found(host, &pod, &id(PCI));
    if host.has_our_plugins() {
        let conf = conf(host, json!({"device": "", "pciBusID": PCI, "ipam": {}}));
        let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        assert_eq!(result["interfaces"][0]["pciID"], PCI);
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    }

    // A virtio device has its link one level down.
    hide_link(host, "ens5", DEVICE);
    pci_device(host, "virtio-pci", "virtio2");
    show_link(host, "ens5", &format!("{DEVICE}/virtio2"));
    host.exec(format!("rmdir {DEVICE}/net"));
    expect_found(host, &pod, &json!({"device": "", "pciBusID": PCI}));

    if host.has_our_plugins() {
        let aux = "/sys/devices/pci0000:00/0000:00:06.0/mlx5_core.sf.4";
        host.exec(format!("mkdir -p {aux}"));
        host.exec(format!("ln -s {aux} /sys/bus/auxiliary/devices/mlx5_core.sf.4"));
        show_link(host, "ens5", aux);
        expect_found(host, &pod, &id("mlx5_core.sf.4"));
    }
}

fn what_cannot_be_found_is_named(host: &Host) {
    device(host, "ens5");
    let pod = host.container("pod");
    empty_sysfs(host);
    pci_device(host, "mlx5_core", "");
    host.exec("mkdir -p /sys/devices/idle /sys/devices/lone/net/nowhere0");
    host.exec("ln -s /sys/devices/idle /sys/bus/pci/devices/0000:00:07.0");
    let before = host.snapshot();
    let cases = [
        (json!({"device": ""}), 7, "which device?"),
        (json!({"device": "ens6"}), 999, "no link named ens6"),
        (json!({"device": "", "hwaddr": "02:00:00:00:00:99"}), 999, "02:00:00:00:00:99"),
        (json!({"device": "", "hwaddr": "02:00:00:00:00"}), 7, "hwaddr"),
        (json!({"device": "", "kernelpath": "/dev/null"}), 7, "/sys/devices/"),
        (json!({"device": "", "kernelpath": "/sys/devices/none"}), 999, "no such device"),
        (json!({"device": "", "kernelpath": "/sys/devices/lone"}), 999, "nowhere0"),
        (json!({"device": "", "pciBusID": "0000:00:09.0"}), 999, "0000:00:09.0"),
        (json!({"device": "", "pciBusID": "0000:00:07.0"}), 999, "bound to no driver"),
        (json!({"device": "", "pciBusID": PCI}), 999, "has no link on the host"),
        (json!({"device": "", "runtimeConfig": {"deviceID": "sf.9"}}), 999, "sf.9"),
        (json!({"device": "lo"}), 999, "loopback"),
        (json!({"device": ["ens5"]}), 7, "device"),
    ];
    for (keys, code, part) in cases {
        let conf = conf(host, keys);
        host.plugin("host-device").add(&pod, "eth0", &conf).expect_error(code, part);
        // A configuration that ADD refuses is no obstacle to a teardown.
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
    }
    host.expect_unchanged_but(&before, LEFT);
    assert_eq!(pod.links(), ["lo"]);
}

fn user_space(host: &Host, keys: Value) -> Value {
    let ipam = network::fixed(&["10.5.0.2/24"]);
    let base = conf(host, json!({"device": "", "pciBusID": PCI, "ipam": ipam}));
    network::with(&base, keys)
}

fn a_device_in_user_space_stays_where_it_is(host: &Host) {
    device(host, "ens5");
    empty_sysfs(host);
    let pod = host.container("pod");
    for driver in ["vfio-pci", "uio_pci_generic", "igb_uio"] {
        pci_device(host, driver, "");
        let before = host.snapshot();
        let conf = user_space(host, json!({}));
        let result = host.plugin("host-device").add(&pod, "eth0", &conf).expect_result();
        assert_eq!(result["ips"][0]["address"], "10.5.0.2/24");
        if host.has_our_plugins() {
            assert_eq!(
                result["interfaces"],
                json!([{"name": "eth0", "sandbox": "/run/netns/pod", "pciID": PCI}])
            );
            let checked = testkit::with_previous_result(&conf, &result);
            host.plugin("host-device").check(&pod, "eth0", &checked).expect_ok();
            pci_device(host, "mlx5_core", "");
            host.plugin("host-device")
                .check(&pod, "eth0", &checked)
                .expect_error(999, "no program drives it from user space");
            pci_device(host, driver, "");
        }
        assert_eq!(pod.links(), ["lo"]);
        host.plugin("host-device").del(&pod, "eth0", &conf).expect_ok();
        host.expect_unchanged_but(&before, LEFT);
    }
}

fn a_device_in_user_space_is_for_one(host: &Host) {
    empty_sysfs(host);
    pci_device(host, "vfio-pci", "");
    let (one, two) = (host.container("one"), host.container("two"));
    let conf = user_space(host, json!({}));
    host.plugin("host-device").add(&one, "eth0", &conf).expect_result();
    host.plugin("host-device")
        .add(&two, "net1", &conf)
        .expect_error(999, "container ctr-one of network net has it as eth0");
    // A holder that died without a DEL holds nothing.
    one.destroy();
    host.plugin("host-device").add(&two, "net1", &conf).expect_result();
    host.plugin("host-device").del(&one, "eth0", &conf).expect_ok();
    host.plugin("host-device").del(&two, "net1", &conf).expect_ok();
    assert_eq!(super::records(host), 0);
}

fn a_device_on_a_bus_that_is_lent_is_named(host: &Host) {
    device(host, "ens5");
    empty_sysfs(host);
    pci_device(host, "virtio-pci", "virtio2");
    let virtio = format!("{DEVICE}/virtio2");
    show_link(host, "ens5", &virtio);
    let (one, two) = (host.container("one"), host.container("two"));
    host.plugin("host-device").add(&one, "eth0", &conf(host, json!({}))).expect_result();
    // A real sysfs shows links of its own namespace only.
    hide_link(host, "ens5", &virtio);
    for keys in [
        json!({"device": "", "pciBusID": PCI}),
        json!({"device": "", "kernelpath": virtio}),
        json!({"device": "", "runtimeConfig": {"deviceID": PCI}}),
    ] {
        host.plugin("host-device")
            .add(&two, "eth0", &conf(host, keys))
            .expect_error(999, "container ctr-one of network net has it as eth0");
    }
}
