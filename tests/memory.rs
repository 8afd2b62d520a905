//! How little memory is enough, however much there is: a plugin gets 3 MiB to write
//! to, reserved or used, and ends as ever.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, Plugin, cases};

use crate::conf::with;
use crate::recorder::Recorder;

pub(crate) fn list() -> Vec<Case> {
    let cases = cases! {
        [Bridge] gc_of_thousands_by_ours,
        [Bridge] gc_of_thousands_by_a_foreign_ipam,
        [] gc_of_thousands_by_a_foreign_delegate,
        [Nft] gc_of_thousands_whose_ports_are_mapped,
        [Nft] gc_of_thousands_who_are_let_through,
        [] a_full_range_without_index,
    };
    cases.into_iter().map(Case::ours_only).collect()
}

const MANY: u32 = 10_000;

const ENOUGH: usize = 3 << 20;

fn plugin<'a>(host: &'a Host, name: &str) -> Plugin<'a> {
    host.plugin(name).with_memory(ENOUGH)
}

/// As long as runtimes make them.
fn id(number: u32) -> String {
    format!("{number:064x}")
}

/// Twice, as runtimes write them.
fn listing_many(conf: &Value) -> Value {
    let list: Value = (0..MANY).map(|n| json!({"containerID": id(n), "ifname": "eth0"})).collect();
    with(conf, json!({"cni.dev/valid-attachments": list, "cni.dev/attachments": list}))
}

fn conf(kind: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": kind})
}

const SUBNET_FILE: &str = "/run/flannel/subnet.env";

fn leased(host: &Host) {
    let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\n";
    host.write(SUBNET_FILE, lease);
}

fn gc_of_thousands_by_ours(host: &Host) {
    leased(host);
    let ipam = json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.17.0/24"}]]}});
    for conf in [
        with(&conf("host-local"), ipam.clone()),
        with(&conf("bridge"), ipam),
        conf("flannel"),
        conf("portmap"),
        conf("firewall"),
    ] {
        let kind = conf["type"].as_str().expect("given");
        plugin(host, kind).gc(&listing_many(&conf)).expect_ok();
        if conf.get("ipam").is_some() || kind == "flannel" {
            lease_to_the_dead(host);
            plugin(host, kind).gc(&listing_many(&conf)).expect_ok();
            let left = host.files("/var/lib/cni/networks/net");
            assert!(!left.iter().any(|name| name.starts_with("10.")), "{kind}");
        }
    }
}

/// As many as may be leased, to nobody on the list.
fn lease_to_the_dead(host: &Host) {
    for n in 0..MANY {
        let [.., third, fourth] = n.to_be_bytes();
        let name = format!("/var/lib/cni/networks/net/10.9.{third}.{fourth}");
        host.write(&name, format!("dead-{}\r\neth0", id(n)));
    }
}

/// One that writes down what it is given.
fn listener(host: &Host) -> Recorder {
    let heard = host.scratch().join("heard");
    Recorder::new(host, "foreign", &format!("exec cat >{}", heard.display()))
}

fn expect_heard(host: &Host) {
    let heard = fs::read_to_string(host.scratch().join("heard")).expect("it was called");
    let heard: Value = serde_json::from_str(&heard).expect("a document");
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let list = heard[key].as_array().expect("a list");
        assert_eq!(list.len(), MANY as usize, "{key}");
        assert_eq!(list[77], json!({"containerID": id(77), "ifname": "eth0"}));
    }
}

fn gc_of_thousands_by_a_foreign_ipam(host: &Host) {
    let foreign = listener(host);
    let conf = with(&conf("bridge"), json!({"ipam": foreign.ipam()}));
    plugin(host, "bridge").cni_path(&foreign.path()).gc(&listing_many(&conf)).expect_ok();
    expect_heard(host);
}

fn gc_of_thousands_by_a_foreign_delegate(host: &Host) {
    leased(host);
    let foreign = listener(host);
    let conf = with(&conf("flannel"), json!({"delegate": {"type": "foreign"}}));
    plugin(host, "flannel").cni_path(&foreign.path()).gc(&listing_many(&conf)).expect_ok();
    expect_heard(host);
}

/// Thousands are there beside two; the one that is not listed goes. `of_others` is
/// what nft needs to add some others' elements to.
fn expect_one_goes(host: &Host, conf: &Value, table: &str, of_others: &dyn Fn(u32) -> String) {
    let kind = conf["type"].as_str().expect("given");
    let (stays, goes) = (host.container("stays"), host.container("goes"));
    for (at, container) in [(2u8, &stays), (3, &goes)] {
        let ports =
            json!([{"hostPort": 8080 + u16::from(at), "containerPort": 80, "protocol": "tcp"}]);
        let conf = with(
            conf,
            json!({
                "runtimeConfig": {"portMappings": ports},
                "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": format!("10.1.0.{at}/16")}]},
            }),
        );
        host.plugin(kind).add(container, "eth0", &conf).expect_result();
    }
    let file = host.scratch().join("elements");
    let text: String = (0..MANY).map(of_others).collect();
    fs::write(&file, text).expect("the folder is ours");
    host.exec(["nft", "-f", &file.display().to_string()]);

    let mut listing = listing_many(conf);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let list = listing[key].as_array_mut().expect("a list");
        list.push(json!({"containerID": stays.id(), "ifname": "eth0"}));
    }
    let read = || host.exec(format!("nft list table {table}"));
    let before = read();
    plugin(host, kind).gc(&listing).expect_ok();
    let after = read();
    assert!(before.contains("10.1.0.3") && !after.contains("10.1.0.3"), "it goes");
    let count = |text: &str, part: &str| text.matches(part).count();
    for part in ["10.1.0.2", OTHERS] {
        assert_eq!(count(&after, part), count(&before, part), "{part} stays");
    }
    // Once more, with nothing to do.
    plugin(host, kind).gc(&listing).expect_ok();
    assert_eq!(read(), after);
}

/// What the comments of another network begin with.
const OTHERS: &str = "0123456789abcdef-";

fn owner(number: u32) -> String {
    format!("{OTHERS}{number:016x}")
}

fn address(number: u32) -> String {
    format!("10.64.{}.{}", number / 250, 1 + number % 250)
}

fn gc_of_thousands_whose_ports_are_mapped(host: &Host) {
    let conf = with(&conf("portmap"), json!({"backend": "nftables"}));
    expect_one_goes(host, &conf, "ip cni_hostport", &|number| {
        let (owner, address, port) = (owner(number), address(number), 10_000 + number);
        format!(
            "add element ip cni_hostport any_address {{ tcp . {port} comment \"{owner}, net: other, if: eth0, id: {}\" : {address} . 80 }}\n\
             add element ip cni_hostport containers {{ {address} comment \"{owner}, ports: 1, ns: 4026532294/71 /run/netns/cni-{number}\" }}\n",
            id(number)
        )
    });
}

fn gc_of_thousands_who_are_let_through(host: &Host) {
    let policy = json!({"backend": "nftables"});
    expect_one_goes(host, &with(&conf("firewall"), policy), "inet cni_firewall", &|number| {
        let (owner, address) = (owner(number), address(number));
        format!(
            "add element inet cni_firewall containers4 {{ {address} comment \"{owner}, policy: same-bridge, bridge: cni0, id: {number:040x}\" }}\n"
        )
    });
}

/// Names of the same files: thousands of files would take more memory than all else.
fn lease_all(folder: &Path) {
    fs::create_dir_all(folder).expect("the folder is ours");
    for part in 0..=255u8 {
        let first = folder.join(format!("10.64.{part}.1"));
        fs::write(&first, format!("{}\r\neth0", id(part.into()))).expect("the folder is ours");
        for rest in (0..=255u8).filter(|rest| *rest != 1) {
            let name = format!("10.64.{part}.{rest}");
            fs::hard_link(&first, folder.join(name)).expect("the folder is ours");
        }
    }
}

fn a_full_range_without_index(host: &Host) {
    const FULL: &str = "no IP addresses available";
    let pod = host.container("pod");
    let conf = with(
        &conf("host-local"),
        json!({"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.64.0.0/16"}]]}}),
    );
    lease_all(Path::new("/var/lib/cni/networks/net"));
    let index = Path::new("/var/lib/cni/networks/.oxcni");
    // Made by one verb, used by the next.
    let plugin = plugin(host, "host-local");
    plugin.status(&conf).expect_error(50, FULL);
    let pages = fs::read(index.join("net/pages")).expect("made");
    plugin.add(&pod, "eth0", &conf).expect_error(999, FULL);
    fs::remove_dir_all(index).expect("there");
    plugin.add(&pod, "eth0", &conf).expect_error(999, FULL);
    assert_eq!(fs::read(index.join("net/pages")).expect("made again").len(), pages.len());
}
