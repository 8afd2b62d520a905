//! Sets and maps, and their elements.

use std::net::IpAddr;

use linux::IpNetwork;
use linux::nft::{
    Chain, Element, Elements, Protocol, Set, Socket, Table, Transaction, Type, Value, Verdict,
};

use super::{both_ways, in_namespace, ip, mac, net};

fn filled_sets(count: u8) -> Transaction {
    let table = Table::inet("t");
    let mut transaction = Transaction::new();
    transaction.add(&table).add(Chain::regular(&table, "r"));
    let mut fill = |set: Set, element: &dyn Fn(u8) -> Element| {
        transaction.add(&set);
        transaction.add(Elements::of(&set, (1..=count).map(element)));
    };
    let v4 = |last: u8| IpAddr::from([10, 0, 0, last]);
    let v6 = |last: u8| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]);
    fill(Set::new(&table, "a", [Type::Ipv4Addr]).comment("addresses"), &|n| {
        Element::new(v4(n)).comment(format!("e{n}"))
    });
    fill(Set::new(&table, "b", [Type::Ipv6Addr]), &|n| Element::new(v6(n)));
    fill(Set::new(&table, "c", [Type::EtherAddr]), &|n| Element::new(mac(n)));
    fill(Set::new(&table, "d", [Type::InetService]), &|n| Element::new(u16::from(n) * 300));
    fill(Set::new(&table, "e", [Type::Mark]), &|n| Element::new(Value::Mark(u32::from(n) << 12)));
    fill(Set::new(&table, "f", [Type::InetProto]), &|n| Element::new(Protocol(n + 199)));
    fill(Set::new(&table, "g", [Type::Ifname]), &|n| Element::new(format!("e{n}").as_str()));
    fill(Set::new(&table, "h", [Type::Ifname, Type::Mark, Type::EtherAddr]), &|n| {
        Element::new("eth0").and(Value::Mark(u32::from(n) * 257)).and(mac(n))
    });
    fill(Set::map(&table, "i", [Type::Ipv4Addr], [Type::Ipv6Addr]), &|n| {
        Element::new(v4(n)).to(v6(n))
    });
    fill(Set::verdict_map(&table, "j", [Type::InetService]), &|n| {
        let verdict = match n % 5 {
            0 => Verdict::Accept,
            1 => Verdict::Drop,
            2 => Verdict::Jump("r".into()),
            3 => Verdict::Goto("r".into()),
            _ => Verdict::Return,
        };
        Element::new(u16::from(n)).verdict(verdict)
    });
    fill(
        Set::map(
            &table,
            "k",
            [Type::Ipv4Addr, Type::InetProto, Type::InetService],
            [Type::Ipv4Addr, Type::InetService],
        )
        .comment("ports"),
        &|n| {
            Element::new(ip("192.0.2.1"))
                .and(Protocol::TCP)
                .and(u16::from(n))
                .to(v4(n))
                .to(8080)
                .comment(format!("c{n}"))
        },
    );
    fill(Set::new(&table, "l", [Type::Ipv4Addr]).interval().comment("nets"), &|n| {
        Element::new(IpNetwork::new([10, n, 0, 0].into(), 16).expect("a prefix")).comment("x")
    });
    fill(Set::new(&table, "m", [Type::Ipv6Addr]).interval(), &|n| match n {
        1 => Element::new(net("ffff::/16")),
        2 => Element::new(ip("::")),
        n => Element::new(Value::NetRange(v6(n * 4), v6(n * 4 + 2))),
    });
    fill(Set::verdict_map(&table, "n", [Type::InetService]).interval(), &|n| {
        let first = u16::from(n) * 100;
        Element::new(first..=first + 49).verdict(Verdict::Accept)
    });
    transaction
}

#[test]
fn sets_and_elements() {
    for count in [1, 2, 13] {
        both_ways(&filled_sets(count));
    }
}

#[test]
fn ranges_of_concatenations() {
    // nft lists these in the kernel's order, which is that of insertion here.
    let table = Table::inet("t");
    let set = Set::new(&table, "s", [Type::Ipv4Addr, Type::InetService]).interval();
    let element = |net_: &str, ports| Element::new(net(net_)).and(ports);
    let mut transaction = Transaction::new();
    transaction.add(&table).add(&set).add(Elements::of(
        &set,
        [
            element("10.0.0.0/8", Value::PortRange(80, 90)).comment("web"),
            element("10.1.1.1/32", Value::Port(5)),
            element("0.0.0.0/0", Value::Port(7)),
        ],
    ));
    let read = both_ways(&transaction);
    assert_eq!(read.tables[0].sets[0].1.len(), 3);
}

#[test]
fn many_elements_in_one_transaction() {
    in_namespace(|| {
        let table = Table::ip("t");
        let key = [Type::InetProto, Type::InetService];
        let map = Set::map(&table, "m", key, [Type::Ipv4Addr, Type::InetService]).comment("x");
        // More than the default send buffer takes, less than it can be made to
        // take in a user namespace.
        let elements = (1..=3000_u16).map(|port| {
            let element = Element::new(Protocol::TCP).and(port).to(ip("10.0.0.5")).to(port);
            element.comment(format!("owner of {port}"))
        });
        let mut transaction = Transaction::new();
        transaction.add(&table).add(&map).add(Elements::of(&map, elements));
        let socket = Socket::open().unwrap();
        socket.commit(&transaction).unwrap();
        assert_eq!(socket.elements(&map).unwrap().len(), 3000);
        assert_eq!(socket.ensure(&transaction).unwrap(), 0);
    });
}
