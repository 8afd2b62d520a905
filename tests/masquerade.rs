//! Masquerading (`ipMasq`): what the world sees of containers, with each
//! backend on each kind of host; what is left when they go; and that the
//! reference plugins' rules and ours are the same.

mod backends;
mod layout;
mod teardown;
mod traffic;

use std::net::SocketAddr;

use serde_json::{Value, json};
use testkit::{Case, Container, Host, Netns as _, Output};

pub(crate) fn list() -> Vec<Case> {
    let mut list = traffic::list();
    list.extend(layout::list());
    list.extend(teardown::list());
    list.extend(backends::list());
    testkit::on_every_kernel(&mut list, &EVERY_KERNEL);
    list
}

/// The rules of nf_tables, and of a kernel's own iptables; emulation is slow.
const EVERY_KERNEL: [&str; 2] = [
    "masquerade::traffic::nftables_shows_the_host_to_the_world",
    "masquerade::traffic::legacy_iptables_shows_the_host_to_the_world",
];

/// Outside, as `Host::outside` makes it, and the host as it sees it.
const OUTSIDE: [&str; 2] = ["192.0.2.2:7000", "[2001:db8:ffff::2]:7000"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];

/// A network of both families with masquerading; `backend` `""` names none. Of
/// a version that Debian's upstream knows as well.
fn conf(backend: &str) -> Value {
    let mut conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "cni0",
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8:1::/64"}],
        ]},
    });
    if !backend.is_empty() {
        conf["ipMasqBackend"] = backend.into();
    }
    conf
}

/// The same of IPv4 alone: neither program waits for addresses then.
fn conf_v4(backend: &str) -> Value {
    let mut conf = conf(backend);
    conf["ipam"] = json!({"type": "host-local", "subnet": "10.1.0.0/24"});
    conf
}

/// The same of the version that has GC and STATUS.
fn newest(conf: &Value) -> Value {
    let mut conf = conf.clone();
    conf["cniVersion"] = "1.1.0".into();
    conf
}

#[track_caller]
fn attach(host: &Host, name: &str, conf: &Value) -> (Container, Value) {
    let container = host.container(name);
    let result = host.plugin("bridge").add(&container, "eth0", conf).expect_result();
    (container, result)
}

/// Every rule that names an attachment of `container`, in nf_tables and in both
/// kinds of iptables.
#[track_caller]
fn rules_of(host: &Host, container: &Container) -> Vec<String> {
    let mut rules = Vec::new();
    for command in ["nft list ruleset", "iptables-nft-save", "ip6tables-nft-save"] {
        rules.extend(host.exec(command).lines().map(str::to_owned));
    }
    for (names, command) in
        [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        // To look at a legacy table makes it.
        let names = host.exec(format!("cat /proc/thread-self/net/{names}"));
        for table in names.lines() {
            rules.extend(host.exec(format!("{command} -t {table}")).lines().map(str::to_owned));
        }
    }
    rules.retain(|rule| rule.contains(&container.id()));
    rules
}

/// The names of chains that masquerading with iptables makes, in any table.
#[track_caller]
fn own_chains(host: &Host) -> Vec<String> {
    let mut names = host.exec("nft list ruleset");
    for family in ["ip_tables_names", "ip6_tables_names"] {
        let in_use = host.exec(format!("cat /proc/thread-self/net/{family}"));
        if in_use.lines().any(|table| table == "nat") {
            let command = family.replace("_tables_names", "tables-legacy-save -t nat");
            names.push_str(&host.exec(command));
        }
    }
    let words = names.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let mut own: Vec<String> =
        words.filter(|word| word.starts_with("CNI-")).map(str::to_owned).collect();
    own.sort();
    own.dedup();
    own
}

/// Makes the host's plain commands those of a kind: `nft`, `legacy`, or `""`
/// for a host without iptables. The machine's own links are only covered.
#[track_caller]
pub(crate) fn install_iptables(host: &Host, kind: &str) {
    let folder = "/etc/alternatives";
    let links: Vec<(String, String)> = host
        .files(folder)
        .into_iter()
        .filter_map(|name| {
            let target = std::fs::read_link(format!("{folder}/{name}")).ok()?;
            Some((name, target.display().to_string()))
        })
        .collect();
    host.exec(format!("mount -t tmpfs none {folder}"));
    for (name, target) in links {
        let target = match name.strip_prefix("iptables").or(name.strip_prefix("ip6tables")) {
            None => target,
            Some(_) if kind.is_empty() => continue,
            Some(rest) => {
                let stem = name.strip_suffix(rest).unwrap_or(&name);
                format!("/usr/sbin/{stem}-{kind}{rest}")
            }
        };
        host.exec(["ln", "-s", &target, &format!("{folder}/{name}")]);
    }
    if kind.is_empty() {
        assert!(!std::path::Path::new("/usr/sbin/iptables-restore").exists());
    }
}

/// Calls the plugin behind other words of a shell, such as `exec strace`:
/// `exec {} < stdin`, with the plugin's path in place of the braces.
#[track_caller]
fn call_by_shell(host: &Host, verb: &str, pod: &Container, conf: &Value, words: &str) -> Output {
    let folder = testkit::plugins_folder();
    let input = host.scratch().join("stdin");
    host.write(&input, conf.to_string());
    let shell = format!("{words} < {}", input.display())
        .replace("{}", &folder.join("bridge").display().to_string());
    let mut argv = vec!["env".to_owned()];
    for (name, value) in [
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", pod.id()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_NETNS", pod.path().display().to_string()),
        ("CNI_PATH", folder.display().to_string()),
    ] {
        argv.push(format!("{name}={value}"));
    }
    argv.extend(["unshare", "-m", "sh", "-c", &shell].map(str::to_owned));
    host.try_exec(argv)
}

fn outside_of(family: usize) -> SocketAddr {
    OUTSIDE[family].parse().expect("an address")
}

/// Has another plugin at work while one makes rules of iptables: what the `nth`
/// `iptables-restore` executes begins with `plugin`, and goes on once that has ended, or
/// has been at it for a while. To be called after [`install_iptables`].
pub(crate) fn meanwhile(host: &Host, nth: usize, plugin: &str, env: &str, conf: &Value) {
    let real = std::fs::read_link(RESTORE).expect("a link").display().to_string();
    let plugins = testkit::plugins_folder();
    let plugins = plugins.display();
    host.write("/run/meanwhile/conf", conf.to_string());
    host.write(
        "/run/meanwhile/restore",
        format!(
            "#!/bin/sh
cd /run/meanwhile
echo >>calls
if [ $(wc -l <calls) = {nth} ]; then
    (env -i {env} CNI_PATH={plugins} {plugins}/{plugin} <conf >said; echo $? >ended) >log 2>&1 &
    waits=0
    while [ ! -s ended ] && [ $((waits += 1)) -lt 20 ]; do sleep 0.05; done
fi
exec {real} \"$@\"
"
        ),
    );
    host.exec("chmod +x /run/meanwhile/restore");
    host.exec(format!("ln -sf /run/meanwhile/restore {RESTORE}"));
}

const RESTORE: &str = "/etc/alternatives/iptables-restore";

/// The exit code of that other one, once it has ended, and what it said.
#[track_caller]
pub(crate) fn ended_meanwhile(host: &Host) -> (String, String) {
    let read = |name| std::fs::read_to_string(format!("/run/meanwhile/{name}")).unwrap_or_default();
    host.wait_until("the other one has ended", || read("ended").ends_with('\n'));
    let ended = (read("ended").trim().to_owned(), read("said") + &read("log"));
    host.exec("rm -r /run/meanwhile");
    host.exec(format!("ln -sf /usr/sbin/iptables-nft-restore {RESTORE}"));
    ended
}
