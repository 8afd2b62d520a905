use std::collections::BTreeSet;

use linux::link::{self, Mac};

use crate::host::{in_new_namespace, tool, veth_pair};

/// Addresses and routes of both families, without link-local ones. That there is a
/// carrier the kernel finds out in its own time, so routes are shown without that.
fn lines() -> BTreeSet<String> {
    let commands =
        ["ip -o address show dev a", "ip route show table all", "ip -6 route show table all"];
    let text = commands.map(tool).join("\n") + &tool("ip neighbour show nud permanent");
    let words = |line: &str| {
        let words = line.split_whitespace().filter(|word| !["dead", "linkdown"].contains(word));
        words.collect::<Vec<_>>().join(" ")
    };
    let lines = text.lines().map(words);
    lines.filter(|line| !["fe80:", "ff00::"].iter().any(|w| line.contains(w))).collect()
}

fn tools(commands: &[&str]) {
    commands.iter().for_each(|command| drop(tool(command)));
}

#[test]
fn what_is_on_a_link_is_there_again_under_another_address() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        tools(&[
            "ip address add 10.1.0.2/24 dev a",
            "ip address add fd00:1::2/64 dev a nodad",
            "ip address add fd00:2::2/64 dev a nodad noprefixroute",
            "ip route add 192.0.2.1 dev a scope link",
            "ip route add default via 10.1.0.1",
            "ip route add 10.9.0.0/16 via 192.0.2.1 metric 7 mtu 1400 table 77",
            "ip route add 10.8.0.0/16 dev a src 10.1.0.2",
            "ip -6 route add default via fd00:1::1",
            "ip -6 route add fd00:9::/64 dev a table 77",
            "ip neighbour add 10.1.0.1 lladdr 02:00:00:00:00:99 dev a nud permanent",
        ]);
        let before = lines();
        let mac: Mac = "02:00:00:00:00:0a".parse().unwrap();
        link::set_mac_at_rest(socket, a.index, mac).unwrap();
        let changed = link::get_by_index(socket, a.index).unwrap();
        assert_eq!((changed.mac, changed.is_up()), (Some(mac), true));
        assert_eq!(lines(), before);

        // A driver that is content with a link in use drops nothing.
        let other: Mac = "02:00:00:00:00:0b".parse().unwrap();
        link::set_mac_and_keep_routes(socket, &changed, other).unwrap();
        assert_eq!(link::get_by_index(socket, a.index).unwrap().mac, Some(other));
        assert_eq!(lines(), before);
    });
}

#[test]
fn an_address_that_is_refused_leaves_the_link_as_it_was() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        tools(&["ip address add 10.1.0.2/24 dev a", "ip route add default via 10.1.0.1"]);
        let before = lines();
        let group: Mac = "01:00:5e:00:00:01".parse().unwrap();
        link::set_mac_at_rest(socket, a.index, group).unwrap_err();
        let now = link::get_by_index(socket, a.index).unwrap();
        assert_eq!((now.mac, now.is_up()), (a.mac, true));
        assert_eq!(lines(), before);
    });
}
