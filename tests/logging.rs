//! `CNI_LOG`: what is written down of a verb, and that it never gets in a
//! verb's way.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, Outcome, cases, with_previous_result};

use crate::conf::{bridge, fixed, leased, of_type, with};

pub(crate) fn list() -> Vec<Case> {
    let list = cases! {
        [Bridge] each_verb_is_a_line,
        [Bridge] delegates_are_told_of_to_who_debugs,
        [Bridge] a_gc_tells_what_it_removed,
        [Bridge, Nft, Iptables] chained_plugins_tell_what_they_made_and_removed,
        [Bridge, Vrf] a_vrf_is_told_of,
        [Bridge] flannel_tells_whom_it_called,
        [Bridge, Nft] of_many_things_the_first_are_named,
        [] only_errors_when_only_errors_are_wanted,
        [] what_is_secret_is_not_written,
        [] a_log_that_cannot_be_written_stops_nothing,
        [] a_record_behind_half_of_one_is_a_line_of_its_own,
        [] nothing_is_logged_to_where_the_result_goes,
        [] lines_of_many_do_not_mix,
        [] the_journal_gets_fields,
        [] a_journal_that_takes_nothing_stops_nothing,
    };
    list.into_iter().map(Case::ours_only).collect()
}

const LOG: &str = "/run/cni.log";
const SOCKET: &str = "/run/systemd/journal/socket";
const TRACE: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

/// What was logged since the last call.
fn records(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    // Who looks at the end of the file while another is writing may take it for torn.
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// The one record since then.
#[track_caller]
fn record() -> Value {
    let mut records = records(LOG);
    assert_eq!(records.len(), 1, "{records:#?}");
    records.remove(0)
}

fn plain(host: &Host) -> Value {
    of_type(host, "loopback", json!({}))
}

fn each_verb_is_a_line(host: &Host) {
    let container = host.container("one");
    let conf = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24", "fd00:1::2/64"])}));
    let silent = host.plugin("bridge");
    let expected = silent.add(&container, "eth0", &conf).expect_result();
    silent.del(&container, "eth0", &conf).expect_ok();
    let traced = format!("00-{}-{}-01", TRACE.0, TRACE.1);
    let plugin = host.plugin("bridge").env("CNI_LOG", LOG).env("TRACEPARENT", &traced);
    let result = plugin.add(&container, "eth0", &conf).expect_result();
    assert_eq!(result["ips"], expected["ips"]);
    assert_eq!(fs::metadata(LOG).expect("there").mode() & 0o777, 0o600);
    let added = record();
    let netns = container.path().display().to_string();
    for (key, text) in [
        ("verb", "ADD"),
        ("level", "info"),
        ("plugin", "bridge"),
        ("network", "net"),
        ("container", "ctr-one"),
        ("ifname", "eth0"),
        ("netns", netns.as_str()),
        ("result", "10.1.0.2/24 fd00:1::2/64"),
        ("trace_id", TRACE.0),
        ("span_id", TRACE.1),
    ] {
        assert_eq!(added[key], text, "{added:#}");
    }
    assert_eq!(added["code"], 0);
    assert!(added["duration_us"].as_u64().is_some_and(|us| us > 100), "{added:#}");
    let now = host.exec("date -u +%FT%H");
    assert!(added["time"].as_str().is_some_and(|t| t.starts_with(&now.trim()[..10])), "{added:#}");

    plugin.check(&container, "eth0", &with_previous_result(&conf, &result)).expect_ok();
    assert_eq!(record()["verb"], "CHECK");
    plugin.del(&container, "eth0", &conf).expect_ok();
    assert_eq!(record()["verb"], "DEL");
    plugin.gc(&conf).expect_ok();
    assert_eq!(record()["verb"], "GC");
    plugin.status(&conf).expect_ok();
    assert_eq!(record()["verb"], "STATUS");
    plugin.version().expect_result();
    assert_eq!(records(LOG), [Value::Null; 0]);

    let bad = with(&conf, json!({"mtu": "x"}));
    let error = plugin.add(&container, "eth0", &bad).expect_error(7, "mtu");
    let failed = record();
    assert_eq!((&failed["code"], &failed["level"]), (&json!(7), &json!("error")));
    assert_eq!(failed["error"], error["msg"]);
    assert_eq!(failed["network"], "net");
    plugin.send("NONSENSE", &container, "eth0", b"{").expect_error(6, "");
    assert_eq!((&record()["verb"], &failed["pid"].is_u64()), (&json!("NONSENSE"), &true));
}

fn a_gc_tells_what_it_removed(host: &Host) {
    let conf = bridge(host, json!({"ipam": leased(&["10.1.0.0/24"])}));
    let plugin = host.plugin("bridge").env("CNI_LOG", LOG);
    let mut ends = Vec::new();
    for name in ["one", "two", "three"] {
        let result = plugin.add(&host.container(name), "eth0", &conf).expect_result();
        let end = result["interfaces"][1]["name"].as_str().expect("a name");
        ends.push(end.to_owned());
        assert_eq!(record()["removed"], Value::Null);
    }
    let kept = json!([{"containerID": "ctr-two", "ifname": "eth0"}]);
    plugin.gc(&with(&conf, json!({"cni.dev/valid-attachments": kept}))).expect_ok();
    let record = record();
    let removed = record["removed"].as_str().expect("a text");
    let mut removed: Vec<_> = removed.split(' ').collect();
    removed.sort_unstable();
    let mut expected = vec!["10.1.0.2", "10.1.0.4", &ends[0], &ends[2]];
    expected.sort_unstable();
    assert_eq!(removed, expected);
}

/// What ADD, RESTORE, DEL, and GC after another ADD tell.
#[track_caller]
fn told(host: &Host, kind: &str, keys: Value) -> [String; 4] {
    let container = host.container(&format!("of-{kind}"));
    let name = format!("net-{kind}");
    let under = bridge(host, json!({"name": name, "ipam": leased(&["10.1.0.0/24"])}));
    let result = host.plugin("bridge").add(&container, "eth0", &under).expect_result();
    let conf = with(&of_type(host, kind, keys), json!({"name": name}));
    let conf = with_previous_result(&conf, &result);
    let plugin = host.plugin(kind).env("CNI_LOG", LOG);
    let text = |key: &str| {
        let record = record();
        let other = if key == "made" { "removed" } else { "made" };
        assert_eq!((&record["code"], &record[other]), (&json!(0), &Value::Null), "{record:#}");
        record[key].as_str().unwrap_or_default().to_owned()
    };
    plugin.add(&container, "eth0", &conf).expect_result();
    let added = text("made");
    plugin.send("RESTORE", &container, "eth0", conf.to_string().as_bytes()).expect_ok();
    let restored = text("made");
    plugin.del(&container, "eth0", &conf).expect_ok();
    let deleted = text("removed");
    plugin.del(&container, "eth0", &conf).expect_ok();
    let again = text("removed");
    assert_eq!(again, "", "a second DEL of {kind}");
    plugin.add(&container, "eth0", &conf).expect_result();
    text("made");
    plugin.gc(&with(&conf, json!({"cni.dev/valid-attachments": []}))).expect_ok();
    let swept = text("removed");
    host.plugin(kind).del(&container, "eth0", &conf).expect_ok();
    host.plugin("bridge").del(&container, "eth0", &under).expect_ok();
    container.destroy();
    [added, restored, deleted, swept]
}

fn chained_plugins_tell_what_they_made_and_removed(host: &Host) {
    let mapping = |ip: &str| json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ip}]);
    for (ip, name) in [("", "8080/tcp"), ("192.0.2.1", "192.0.2.1:8080/tcp")] {
        let keys = json!({"backend": "nftables", "runtimeConfig": {"portMappings": mapping(ip)}});
        let [added, restored, deleted, swept] = told(host, "portmap", keys);
        assert_eq!([&*added, &restored, &deleted, &swept], [name, "", name, name]);
        let keys = json!({"backend": "iptables", "runtimeConfig": {"portMappings": mapping(ip)}});
        let [added, restored, deleted, swept] = told(host, "portmap", keys);
        assert_eq!([&*added, &restored], [name, ""]);
        for chain in [deleted, swept] {
            assert!(chain.starts_with("CNI-DN-") && !chain.contains(' '), "{chain}");
        }
    }
    for backend in ["nftables", "iptables"] {
        let keys = json!({"backend": backend, "denyCIDRs": ["198.51.100.0/24"]});
        let [added, restored, deleted, swept] = told(host, "firewall", keys);
        assert!(added.starts_with("10.1.0."), "{added}");
        assert_eq!(restored, "");
        assert_eq!([&deleted, &swept], [&added; 2]);
    }
    let keys = json!({"mtu": 1400, "sysctl": {"net.ipv4.conf.eth0.proxy_arp": "1"}});
    let [added, restored, deleted, swept] = told(host, "tuning", keys);
    let name = "mtu net/ipv4/conf/eth0/proxy_arp";
    assert_eq!([&*added, &restored, &deleted, &swept], [name, "", name, name]);
    let [added, _, deleted, swept] = told(host, "sbr", json!({}));
    assert!(added.starts_with("10.1.0."), "{added}");
    assert_eq!([&deleted, &swept], [&added; 2]);
    let keys = json!({"ingressRate": 1_000_000, "egressRate": 1_000_000});
    let [added, _, deleted, _] = told(host, "bandwidth", keys);
    let ifb = |text: &str| text.split(' ').find(|name| name.starts_with("bwp")).map(str::to_owned);
    assert!(added.contains("veth") && ifb(&added).is_some(), "{added}");
    assert_eq!(ifb(&deleted), ifb(&added));
}

fn a_vrf_is_told_of(host: &Host) {
    let container = host.container("one");
    let under = bridge(host, json!({"ipam": leased(&["10.1.0.0/24"])}));
    let result = host.plugin("bridge").add(&container, "eth0", &under).expect_result();
    let conf = with_previous_result(&of_type(host, "vrf", json!({"vrfname": "blue"})), &result);
    let plugin = host.plugin("vrf").env("CNI_LOG", LOG);
    plugin.add(&container, "eth0", &conf).expect_result();
    assert_eq!(record()["made"], "blue");
    plugin.del(&container, "eth0", &conf).expect_ok();
    assert_eq!(record()["removed"], "blue");
}

fn flannel_tells_whom_it_called(host: &Host) {
    let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    host.write("/run/flannel/subnet.env", lease);
    let container = host.container("one");
    let conf = of_type(host, "flannel", json!({}));
    let plugin = host.plugin("flannel").env("CNI_LOG", LOG);
    plugin.add(&container, "eth0", &conf).expect_result();
    let added = record();
    assert_eq!((&added["made"], &added["result"]), (&json!("bridge"), &json!("10.1.17.2/24")));
    plugin.del(&container, "eth0", &conf).expect_ok();
    assert_eq!(record()["removed"], "10.1.17.2 bridge");
    // What was taken back was not made.
    plugin.add(&container, "eth0", &conf).expect_result();
    record();
    plugin.add(&container, "eth0", &conf).expect_error(999, "");
    assert_eq!(record()["made"], Value::Null);
}

fn of_many_things_the_first_are_named(host: &Host) {
    let container = host.container("one");
    let under = bridge(host, json!({"ipam": fixed(&["10.1.0.2/24"])}));
    let result = host.plugin("bridge").add(&container, "eth0", &under).expect_result();
    let mappings: Vec<Value> = (8001..8101)
        .map(|port| json!({"hostPort": port, "containerPort": 80, "protocol": "udp"}))
        .collect();
    let keys = json!({"backend": "nftables", "runtimeConfig": {"portMappings": mappings}});
    let conf = with_previous_result(&of_type(host, "portmap", keys), &result);
    let plugin = host.plugin("portmap").env("CNI_LOG", LOG);
    plugin.add(&container, "eth0", &conf).expect_result();
    let text = record()["made"].as_str().expect("a text").to_owned();
    assert!(text.starts_with("8001/udp 8002/udp "), "{text}");
    assert!(text.ends_with(" 8016/udp and 84 more"), "{text}");
    plugin.del(&container, "eth0", &conf).expect_ok();
    let text = record()["removed"].as_str().expect("a text").to_owned();
    assert!(text.ends_with(" and 84 more") && text.len() < 300, "{text}");
}

fn delegates_are_told_of_to_who_debugs(host: &Host) {
    let container = host.container("one");
    let conf = bridge(host, json!({"ipam": leased(&["10.1.0.0/24"])}));
    let plugin = host.plugin("bridge").env("CNI_LOG", LOG).env("CNI_LOG_LEVEL", "debug");
    plugin.add(&container, "eth0", &conf).expect_result();
    let list = records(LOG);
    assert_eq!(list.len(), 2, "{list:#?}");
    let [delegate, caller] = [&list[0], &list[1]];
    assert_eq!(
        (&delegate["plugin"], &delegate["caller"]),
        (&json!("host-local"), &json!("bridge"))
    );
    assert_eq!((&delegate["level"], &delegate["result"]), (&json!("debug"), &json!("10.1.0.2/24")));
    assert_eq!((&caller["plugin"], &caller["level"]), (&json!("bridge"), &json!("info")));
    assert_eq!((&delegate["pid"], &delegate["container"]), (&caller["pid"], &caller["container"]));
    let us = |record: &Value| record["duration_us"].as_u64().expect("a number");
    assert!(us(delegate) < us(caller), "{list:#?}");
    plugin.add(&container, "eth0", &conf).expect_error(999, "");
    plugin.del(&container, "eth0", &conf).expect_ok();
    let list = records(LOG);
    let last = list.last().expect("records");
    assert_eq!((&last["verb"], &last["plugin"]), (&json!("DEL"), &json!("bridge")));
    assert_eq!(last["removed"], "10.1.0.2");
    plugin.version().expect_result();
    assert_eq!(record()["level"], "debug");
}

fn only_errors_when_only_errors_are_wanted(host: &Host) {
    let container = host.container("one");
    let conf = plain(host);
    let plugin = host.plugin("loopback").env("CNI_LOG", LOG).env("CNI_LOG_LEVEL", "error");
    plugin.add(&container, "lo", &conf).expect_result();
    assert!(!Path::new(LOG).exists());
    plugin.add(&container, "lo", &with(&conf, json!({"cniVersion": "9.9.9"}))).expect_error(1, "");
    assert_eq!(record()["code"], 1);
}

fn what_is_secret_is_not_written(host: &Host) {
    let container = host.container("one");
    let conf = with(&plain(host), json!({"token": "s3cret-conf"}));
    let plugin = host.plugin("loopback").env("CNI_LOG", LOG).env("CNI_LOG_LEVEL", "debug");
    let plugin = plugin.args("IgnoreUnknown=1;PASSWORD=s3cret-args").env("OTHER", "s3cret-env");
    plugin.add(&container, "lo", &conf).expect_result();
    plugin.del(&container, "lo", &conf).expect_ok();
    let text = fs::read_to_string(LOG).expect("there");
    assert!(text.lines().count() == 2 && !text.contains("s3cret"), "{text}");
}

/// The verb does and says the same, and stderr tells why there is no record.
#[track_caller]
fn expect_unlogged(host: &Host, log: &str, why: &str) {
    let container = host.container("one");
    let conf = plain(host);
    let expected = host.plugin("loopback").add(&container, "lo", &conf);
    let plugin = host.plugin("loopback").env("CNI_LOG", log);
    let judge = |outcome: &Outcome| {
        let told = outcome.stderr();
        assert!(told.lines().count() == 1 && told.contains(why), "{log}: {told}");
    };
    let added = plugin.add(&container, "lo", &conf);
    added.expect_result();
    assert_eq!(added.stdout(), expected.stdout(), "{log}");
    judge(&added);
    let deleted = plugin.del(&container, "lo", &conf);
    deleted.expect_ok();
    judge(&deleted);
    let refused = plugin.send("ADD", &container, "lo", b"{");
    refused.expect_error(6, "");
    judge(&refused);
    container.destroy();
}

fn a_log_that_cannot_be_written_stops_nothing(host: &Host) {
    host.exec("mkfifo /run/pipe");
    host.exec("ln -s /run/elsewhere /run/link");
    host.write("/run/file", "");
    for (log, why) in [
        ("/dev/full", "write log /dev/full: No space left on device"),
        ("/run/none/such.log", "No such file or directory"),
        ("/run/file/x", "Not a directory"),
        ("/run", "not a plain file"),
        ("/run/pipe", "not a plain file"),
        ("/run/link", "not a plain file"),
        ("journal", "neither an absolute path nor \"journald\""),
        ("journald", "write log /run/systemd/journal/socket: No such file or directory"),
    ] {
        expect_unlogged(host, log, why);
    }
    assert!(!Path::new("/run/elsewhere").exists());
}

fn a_record_behind_half_of_one_is_a_line_of_its_own(host: &Host) {
    let container = host.container("one");
    let conf = plain(host);
    fs::create_dir("/run/small").expect("a private folder");
    host.exec("mount -t tmpfs -o size=4k tmpfs /run/small");
    let log = "/run/small/cni.log";
    let first = format!("{{\"first\":\"{}\"}}", "x".repeat(4000));
    host.write(log, format!("{first}\n"));
    let plugin = host.plugin("loopback").env("CNI_LOG", log);
    let added = plugin.add(&container, "lo", &conf);
    added.expect_result();
    assert!(added.stderr().contains("bytes were taken"), "{}", added.stderr());
    host.exec("mount -o remount,size=1m /run/small");
    plugin.del(&container, "lo", &conf).expect_ok();
    plugin.gc(&conf).expect_ok();
    let text = fs::read_to_string(log).expect("there");
    let lines: Vec<_> = text.lines().collect();
    let [whole, half, deleted, collected] = lines[..] else { panic!("{text}") };
    assert!(whole == first && half.starts_with('{') && !half.ends_with('}'), "{text}");
    for (line, verb) in [(deleted, "DEL"), (collected, "GC")] {
        let record: Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!(record["verb"], verb, "{text}");
    }
    host.exec("umount /run/small");
}

fn nothing_is_logged_to_where_the_result_goes(host: &Host) {
    for log in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        expect_unlogged(host, log, "not a plain file");
    }
    let container = host.container("one");
    host.write("/run/conf", plain(host).to_string());
    let program = testkit::plugins_folder().join("loopback");
    let line = format!(
        "exec env -i CNI_COMMAND=ADD CNI_CONTAINERID=c CNI_IFNAME=lo CNI_PATH=/x CNI_NETNS={} \
         CNI_LOG=/run/out {} </run/conf >>/run/out",
        container.path().display(),
        program.display()
    );
    let output = host.try_exec(["sh", "-c", &line]);
    assert!(output.success() && output.stderr.contains("it is stdout"), "{output}");
    let text = fs::read_to_string("/run/out").expect("there");
    serde_json::from_str::<Value>(&text).expect("one document");
}

fn lines_of_many_do_not_mix(host: &Host) {
    let container = host.container("one");
    let conf = plain(host);
    host.parallel(40, |n| {
        let plugin = host.plugin("loopback").env("CNI_LOG", LOG);
        // Of different lengths.
        let id = format!("c{}", "x".repeat(n * 50));
        plugin.env("CNI_CONTAINERID", &id).add(&container, "lo", &conf).expect_result();
    });
    let list = records(LOG);
    assert_eq!(list.len(), 40);
    let mut lengths: Vec<_> =
        list.iter().map(|record| record["container"].as_str().expect("a text").len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, (0..40).map(|n| 1 + n * 50).collect::<Vec<_>>());
}

fn journal() -> UnixDatagram {
    fs::create_dir_all("/run/systemd/journal").expect("/run is private");
    UnixDatagram::bind(SOCKET).expect("/run is private")
}

fn the_journal_gets_fields(host: &Host) {
    let socket = journal();
    let container = host.container("one");
    let plugin = host.plugin("loopback").env("CNI_LOG", "journald");
    plugin.add(&container, "lo", &plain(host)).expect_result();
    socket.set_nonblocking(true).expect("it is open");
    let mut record = vec![0; 1 << 16];
    let length = socket.recv(&mut record).expect("the verb has ended, so its record is there");
    let text = String::from_utf8_lossy(&record[..length]);
    for (name, value) in [
        ("MESSAGE", "loopback ADD ctr-one lo: 127.0.0.1/8 ::1/128 in "),
        ("SYSLOG_IDENTIFIER", "oxcni\n"),
        ("PRIORITY", "6\n"),
        ("CNI_VERB", "ADD\n"),
        ("CNI_NETWORK", "net\n"),
        ("CNI_CONTAINER", "ctr-one\n"),
        ("CNI_CODE", "0\n"),
    ] {
        let at = text.find(&format!("{name}\n")).unwrap_or_else(|| panic!("no {name}: {text:?}"));
        // Behind the name a length of eight bytes.
        assert!(text[at + name.len() + 1..].contains(value), "{name}: {text:?}");
    }
    assert!(socket.recv(&mut record).is_err(), "one record");
}

/// As when it is stopped, or reads more slowly than it is written to.
fn a_journal_that_takes_nothing_stops_nothing(host: &Host) {
    let _socket = journal();
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("it is open");
    while sender.send_to(b"x", SOCKET).is_ok() {}
    expect_unlogged(host, "journald", "Resource temporarily unavailable");
    drop(_socket);
    expect_unlogged(host, "journald", "Connection refused");
}
