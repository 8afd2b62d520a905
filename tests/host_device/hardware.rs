//! Hardware, which alone the kernel brings home when a namespace ends: the card of
//! the machine that `scripts/vm` makes. It comes to the machine's first namespace,
//! so the plugin works there, and not in the private host's.

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, cases, plugins_folder};

use super::{conf, leases, records};
use crate::conf as network;

pub(super) fn list() -> Vec<Case> {
    let list = cases! {
        [NetworkCard] a_card_comes_home_from_a_namespace_that_ended,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// In the network namespace of the machine's first process.
fn on_the_machine(host: &Host, command: &str) -> String {
    host.exec(["nsenter", "--net=/proc/1/ns/net", "sh", "-c", command])
}

#[track_caller]
fn run(host: &Host, verb: &str, pod: &Container, conf: &Value) {
    host.write("/run/conf.json", conf.to_string());
    let folder = plugins_folder().display().to_string();
    let variables = format!(
        "CNI_COMMAND={verb} CNI_CONTAINERID={} CNI_NETNS={} CNI_IFNAME=eth0 CNI_PATH={folder}",
        pod.id(),
        pod.path().display()
    );
    on_the_machine(host, &format!("{variables} {folder}/host-device </run/conf.json"));
}

fn a_card_comes_home_from_a_namespace_that_ended(host: &Host) {
    // Of the namespace that it is mounted from.
    on_the_machine(host, "mount -t sysfs sysfs /sys");
    let found = on_the_machine(host, "readlink -f /sys/bus/virtio/drivers/virtio_net/virtio*");
    let (pci, virtio) = found.trim().rsplit_once('/').expect("below a PCI device");
    let card = on_the_machine(host, &format!("ls {pci}/{virtio}/net")).trim().to_owned();
    let id = pci.rsplit('/').next().expect("its place on the bus");
    for command in ["mtu 1400 address 02:00:5e:10:00:01 alias rack-5", "up"] {
        on_the_machine(host, &format!("ip link set {card} {command}"));
    }
    on_the_machine(host, &format!("ip link property add dev {card} altname {card}-too"));
    // Without its index, which is another one each time.
    let state = || on_the_machine(host, &format!("ip -d link show dev {card} | sed s/^[0-9]*//"));
    let before = state();
    let none = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": []});
    for (run_number, (keys, renamed, verb)) in [
        (json!({"device": card}), false, "DEL"),
        (json!({"device": format!("{card}-too")}), true, "GC"),
        (json!({"device": "", "pciBusID": id}), true, "DEL"),
        (json!({"device": "", "runtimeConfig": {"deviceID": id}}), false, "DEL"),
        (json!({"device": "", "kernelpath": pci}), false, "GC"),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = host.container(&format!("pod{run_number}"));
        let ipam = json!({"type": "host-local", "subnet": "10.5.0.0/24"});
        let conf = network::with(
            &network::with(&conf(host, keys.clone()), json!({"ipam": ipam})),
            none.clone(),
        );
        run(host, "ADD", &pod, &conf);
        assert!(pod.addresses("eth0").iter().any(|address| address.starts_with("10.5.0.")));
        if renamed {
            pod.exec("ip link set eth0 down");
            pod.exec("ip link set eth0 name wan mtu 1300 address 02:00:00:00:00:77 alias mine");
        }
        pod.destroy();
        if verb == "GC" {
            // The kernel does it in its own time, and a GC does not wait.
            host.wait_until("the card is back", || {
                !on_the_machine(host, &format!("ls {pci}/{virtio}/net")).is_empty()
            });
        }
        run(host, verb, &pod, &conf);
        assert_eq!(state(), before, "{keys}, {verb}");
        assert_eq!((leases(host), records(host)), (0, 0), "{keys}, {verb}");
    }
}
