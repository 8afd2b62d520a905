//! The administrator's list of sysctls.

use serde_json::{Value, json};
use testkit::{Case, Host, Netns as _, cases};

use super::Pod;

pub(super) fn list() -> Vec<Case> {
    // Debian's package is older than the list.
    cases! {
        [Bridge, OurPlugins] what_is_on_the_list_may_be_set,
        [Bridge, OurPlugins] a_list_that_cannot_be_read_allows_nothing,
    }
}

const LIST: &str = "/etc/cni/tuning/allowlist.conf";

fn sysctl(key: &str) -> Value {
    json!({"sysctl": {key: "1"}})
}

fn what_is_on_the_list_may_be_set(host: &Host) {
    let pod = Pod::new(host, "pod");
    pod.add(sysctl("net.ipv4.conf.IFNAME.proxy_arp")).expect_result();
    host.write(
        LIST,
        "\n  ^net\\.ipv4\\.conf\\.IFNAME\\.(proxy|drop)_[a-z]*$  \n\n^net.ipv4.tcp_\n",
    );
    for key in ["net.ipv4.conf.IFNAME.proxy_arp", "net.ipv4.tcp_sack", "net/ipv4/tcp_sack"] {
        pod.add(sysctl(key)).expect_result();
    }
    for key in [
        "net.ipv4.conf.IFNAME.arp_notify",
        // As it is written.
        "net.ipv4.conf.eth0.proxy_arp",
        "net/ipv4/conf/IFNAME/proxy_arp",
        "net.ipv6.conf.IFNAME.proxy_ndp",
    ] {
        let part = format!("Sysctl {key} is not allowed");
        pod.add(sysctl(key)).expect_error(7, &part);
        pod.add(json!({"args": {"cni": sysctl(key)}})).expect_error(7, &part);
    }
    // As the bridge plugin left it.
    assert_eq!(pod.sysctl("net/ipv4/conf/eth0/arp_notify"), "1");
    // Only ADD asks.
    host.write(LIST, "^nothing$");
    pod.check(sysctl("net.ipv4.tcp_sack")).expect_ok();
    pod.add(json!({"mtu": 1400})).expect_result();
    pod.del(sysctl("net.ipv4.tcp_sack")).expect_ok();
    // Nothing is allowed by an empty list.
    host.write(LIST, "");
    pod.add(sysctl("net.ipv4.tcp_sack")).expect_error(7, "is not allowed");
}

fn a_list_that_cannot_be_read_allows_nothing(host: &Host) {
    let pod = Pod::new(host, "pod");
    let inside = pod.snapshot();
    for (content, part) in [
        (&b"[a-\n"[..], "error parsing regexp"),
        (b"^(?=x)\n", "error parsing regexp"),
        (b"\xff\xfe", "not UTF-8"),
    ] {
        host.write(LIST, content);
        pod.add(sysctl("net.ipv4.tcp_sack")).expect_error(5, part);
        // Who sets no sysctl does not need it.
        pod.add(json!({"mtu": 1400})).expect_result();
        pod.del(json!({})).expect_ok();
        pod.snapshot().expect_same(&inside);
    }
    host.exec(["rm", LIST]);
    // Nobody writes to it: it must not be waited for.
    host.exec(["mkfifo", LIST]);
    pod.add(sysctl("net.ipv4.tcp_sack")).expect_error(5, "it is a pipe");
    host.exec(["rm", LIST]);
    host.exec(["mkdir", LIST]);
    pod.add(sysctl("net.ipv4.tcp_sack")).expect_error(5, "it is a directory");
    pod.snapshot().expect_same(&inside);
}
