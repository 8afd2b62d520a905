//! Rules of each family: matches, statements, and what other authors wrote.

use linux::link::Mac;
use linux::nft::{
    AddrType, Chain, ChainType, CtState, CtStatus, Family, Field, Hook, MarkChange, NatFlags,
    NatTarget, Op, Protocol, Rule, Set, Socket, Statement, Table, Transaction, Type, Value,
    Verdict,
};

use super::{both_ways, in_namespace, ip, mac, net, nft, rules_of};

/// Adds the rules to a chain of the table, and checks that each reads as said.
fn check_rules(table: &Table, rules: impl Fn(&Chain) -> Vec<(Rule, &'static str)>) {
    let chain = Chain::regular(table, "c");
    let mut transaction = Transaction::new();
    transaction.add(table).add(&chain).add(Chain::regular(table, "r"));
    let tcp = [Type::InetProto, Type::InetService];
    transaction
        .add(Set::new(table, "v4", [Type::Ipv4Addr]))
        .add(Set::new(table, "v6", [Type::Ipv6Addr]).interval())
        .add(Set::new(table, "names", [Type::Ifname]))
        .add(Set::new(table, "pairs", [Type::Ifname, Type::Ipv4Addr]))
        .add(Set::verdict_map(table, "verdicts", tcp))
        .add(Set::verdict_map(table, "macs", [Type::EtherAddr]))
        .add(Set::map(table, "ports4", tcp, [Type::Ipv4Addr, Type::InetService]))
        .add(Set::map(
            table,
            "ports6",
            [Type::Ipv6Addr, Type::InetProto, Type::InetService],
            [Type::Ipv6Addr, Type::InetService],
        ))
        .add(Set::map(table, "addrs", [Type::Ipv4Addr], [Type::Ipv4Addr]))
        .add(Set::map(table, "marks", [Type::Ipv4Addr], [Type::Mark]));
    let rules = rules(&chain);
    for (rule, text) in &rules {
        assert_eq!(rule.to_string(), *text);
        transaction.add(rule);
    }
    let read = both_ways(&transaction);
    let read: Vec<String> = rules_of(&read).map(Rule::to_string).collect();
    let said: Vec<&str> = rules.iter().map(|(_, text)| *text).collect();
    assert_eq!(read, said);
}

#[test]
fn inet_rules() {
    check_rules(&Table::inet("t"), |c| {
        let rule = || Rule::new(c);
        let tcp = [Field::L4proto, Field::Dport(None)];
        vec![
            (
                rule()
                    .ip_saddr(ip("10.0.0.1"))
                    .ip_daddr_not(net("10.0.0.7/24"))
                    .masquerade()
                    .comment("hello"),
                "ip saddr 10.0.0.1 ip daddr != 10.0.0.0/24 masquerade comment \"hello\"",
            ),
            (
                rule().ip_saddr(ip("fd00::1")).ip_daddr_not(net("ff00::/8")).masquerade(),
                "ip6 saddr fd00::1 ip6 daddr != ff00::/8 masquerade",
            ),
            (rule().ip_saddr(net("10.16.0.0/12")).accept(), "ip saddr 10.16.0.0/12 accept"),
            (rule().ip_saddr_not(net("10.0.0.0/9")).drop(), "ip saddr != 10.0.0.0/9 drop"),
            (rule().ip_saddr(net("fd00::/61")).accept(), "ip6 saddr fd00::/61 accept"),
            (rule().ip_saddr(net("0.0.0.0/0")).accept(), "ip saddr 0.0.0.0/0 accept"),
            (rule().ip_daddr(net("::/0")).accept(), "ip6 daddr ::/0 accept"),
            (rule().ip_daddr(ip("::1.2.3.4")).accept(), "ip6 daddr ::1.2.3.4 accept"),
            (rule().ip_daddr(ip("::ffff:1.2.3.4")).accept(), "ip6 daddr ::ffff:1.2.3.4 accept"),
            (rule().ip_daddr_not(ip("::1")).accept(), "ip6 daddr != ::1 accept"),
            (rule().ip_daddr(net("224.0.0.0/4")).return_(), "ip daddr 224.0.0.0/4 return"),
            (
                rule().value(
                    Field::IpSaddr,
                    Op::Eq,
                    Value::NetRange(ip("10.0.0.1"), ip("10.0.0.9")),
                ),
                "ip saddr 10.0.0.1-10.0.0.9",
            ),
            (rule().in_set([Field::IpSaddr], "v4").drop(), "ip saddr @v4 drop"),
            (rule().not_in_set([Field::Ip6Daddr], "v6").drop(), "ip6 daddr != @v6 drop"),
            (rule().in_set([Field::Iifname], "names").drop(), "iifname @names drop"),
            (
                rule().in_set([Field::Iifname, Field::IpSaddr], "pairs").drop(),
                "iifname . ip saddr @pairs drop",
            ),
            (
                rule().ip_saddr_not(ip("10.0.0.1")).ether_saddr(mac(1)).drop(),
                "ip saddr != 10.0.0.1 ether saddr 02:00:00:00:00:01 drop",
            ),
            (rule().ether_saddr_not(mac(1)).drop(), "ether saddr != 02:00:00:00:00:01 drop"),
            (rule().vmap([Field::EtherSaddr], "macs"), "ether saddr vmap @macs"),
            (
                rule().l4proto(Protocol::ICMPV6).hop_limit(255).ct_state(CtState::UNTRACKED),
                "meta l4proto ipv6-icmp ip6 hoplimit 255 ct state untracked",
            ),
            (
                rule().value(Field::Ip6HopLimit, Op::Ne, Value::HopLimit(1)).drop(),
                "ip6 hoplimit != 1 drop",
            ),
            (
                rule().ip_daddr(ip("ff02::1:2")).dport(Protocol::UDP, 547).return_(),
                "ip6 daddr ff02::1:2 udp dport 547 return",
            ),
            (
                rule().iifname("eth0").oifname_not("br0").jump("r"),
                "iifname \"eth0\" oifname != \"br0\" jump r",
            ),
            (rule().iifname_not("odd*").drop(), "iifname != \"odd\\*\" drop"),
            (
                rule().value(Field::Oifname, Op::Eq, Value::IfnamePrefix("eth".into())).goto("r"),
                "oifname \"eth*\" goto r",
            ),
            (
                rule().value(Field::Oifname, Op::Ne, Value::IfnamePrefix("eth".into())),
                "oifname != \"eth*\"",
            ),
            (
                rule()
                    .value(Field::Nfproto, Op::Eq, Value::Nfproto(Family::Ip))
                    .dport(Protocol::TCP, 80)
                    .accept(),
                "meta nfproto ipv4 tcp dport 80 accept",
            ),
            (
                rule().value(Field::Nfproto, Op::Ne, Value::Nfproto(Family::Ip6)).accept(),
                "meta nfproto != ipv6 accept",
            ),
            (
                rule().value(Field::EtherType, Op::Eq, Value::EtherType(0x0800)).accept(),
                "meta protocol ip accept",
            ),
            (rule().l4proto(Protocol::TCP).accept(), "meta l4proto tcp accept"),
            (rule().l4proto(Protocol::ICMPV6).accept(), "meta l4proto ipv6-icmp accept"),
            (rule().l4proto(Protocol(200)).accept(), "meta l4proto 200 accept"),
            (rule().dport(Protocol::TCP, 80).accept(), "tcp dport 80 accept"),
            (rule().dport(Protocol::UDP, 53).accept(), "udp dport 53 accept"),
            (rule().dport(Protocol::SCTP, 5).accept(), "sctp dport 5 accept"),
            (rule().th_dport(99).accept(), "th dport 99 accept"),
            (
                rule().value(Field::Sport(Some(Protocol::UDP)), Op::Ne, 67).drop(),
                "udp sport != 67 drop",
            ),
            (
                rule().value(Field::Dport(Some(Protocol::TCP)), Op::Eq, 80..=90).accept(),
                "tcp dport 80-90 accept",
            ),
            (
                rule().value(Field::Dport(Some(Protocol::TCP)), Op::Ne, 80..=90).accept(),
                "tcp dport != 80-90 accept",
            ),
            (
                rule().l4proto(Protocol::UDP).ip_saddr(ip("10.0.0.1")).th_dport(5).accept(),
                "ip saddr 10.0.0.1 udp dport 5 accept",
            ),
            (
                rule().l4proto(Protocol::TCP).counter().th_dport(5).accept(),
                "meta l4proto tcp counter packets 0 bytes 0 tcp dport 5 accept",
            ),
            (rule().mark(0x10).accept(), "meta mark 0x00000010 accept"),
            (
                rule().mark_masked(0x2000, 0x2000).masquerade(),
                "meta mark & 0x00002000 == 0x00002000 masquerade",
            ),
            (
                rule().mark_masked_not(0x2000, 0).accept(),
                "meta mark & 0x00002000 != 0x00000000 accept",
            ),
            (
                rule().value(Field::CtMark, Op::Ne, Value::Mark(7)).accept(),
                "ct mark != 0x00000007 accept",
            ),
            (rule().set_mark(MarkChange::Value(5)), "meta mark set 0x00000005"),
            (rule().set_mark(MarkChange::or(0x2000)), "meta mark set meta mark | 0x00002000"),
            (rule().set_mark(MarkChange::and(0xff)), "meta mark set meta mark & 0x000000ff"),
            (
                rule().set_mark(MarkChange::Bits { mask: u32::MAX, xor: 0x10 }),
                "meta mark set meta mark ^ 0x00000010",
            ),
            (
                rule().set_mark(MarkChange::Bits { mask: 0xffff_ff0f, xor: 0x10 }),
                "meta mark set meta mark & 0xffffff1f | 0x00000010",
            ),
            (rule().set_mark(MarkChange::OtherMark), "meta mark set ct mark"),
            (
                rule().set_mark(MarkChange::Map {
                    fields: vec![Field::IpSaddr],
                    map: "marks".into(),
                }),
                "meta mark set ip saddr map @marks",
            ),
            (rule().set_ct_mark(MarkChange::Value(5)), "ct mark set 0x00000005"),
            (rule().set_ct_mark(MarkChange::or(1)), "ct mark set ct mark | 0x00000001"),
            (rule().set_ct_mark(MarkChange::OtherMark), "ct mark set meta mark"),
            (
                rule().ct_state(CtState::RELATED | CtState::ESTABLISHED).accept(),
                "ct state established,related accept",
            ),
            (rule().ct_state(CtState::NEW | CtState::UNTRACKED), "ct state new,untracked"),
            (rule().ct_state_not(CtState::INVALID).accept(), "ct state ! invalid accept"),
            (
                rule().ct_status(CtStatus::DNAT | CtStatus::SNAT).accept(),
                "ct status snat,dnat accept",
            ),
            (rule().ct_status_not(CtStatus::DNAT).drop(), "ct status ! dnat drop"),
            (rule().fib_daddr(AddrType::Local).jump("r"), "fib daddr type local jump r"),
            (rule().fib_daddr_not(AddrType::Unspec), "fib daddr type != unspec"),
            (rule().fib_saddr(AddrType::Prohibit), "fib saddr type prohibit"),
            (rule().fib_saddr_not(AddrType::Local), "fib saddr type != local"),
            (rule().vmap(tcp, "verdicts"), "meta l4proto . th dport vmap @verdicts"),
            (
                rule().ip_daddr(ip("10.0.0.1")).vmap(tcp, "verdicts").counter(),
                "ip daddr 10.0.0.1 meta l4proto . th dport vmap @verdicts counter packets 0 bytes 0",
            ),
            (rule().counter().drop(), "counter packets 0 bytes 0 drop"),
            (
                rule().statement(Statement::Masquerade(NatFlags {
                    random: true,
                    fully_random: true,
                    persistent: true,
                })),
                "masquerade random,fully-random,persistent",
            ),
            (rule().redirect(None), "redirect"),
            (
                rule().dport(Protocol::TCP, 80).redirect(Some(8080)),
                "tcp dport 80 redirect to :8080",
            ),
            (rule().dnat(ip("10.0.0.5"), None), "dnat ip to 10.0.0.5"),
            (rule().dnat(ip("fd00::5"), None), "dnat ip6 to fd00::5"),
            (
                rule().dport(Protocol::TCP, 80).dnat(ip("10.0.0.5"), Some(8080)),
                "tcp dport 80 dnat ip to 10.0.0.5:8080",
            ),
            (
                rule().l4proto(Protocol::SCTP).dnat(ip("fd00::5"), Some(8080)),
                "meta l4proto sctp dnat ip6 to [fd00::5]:8080",
            ),
            (
                rule().dnat_map(Family::Ip, tcp, "ports4"),
                "dnat ip to meta l4proto . th dport map @ports4",
            ),
            (
                rule().dnat_map(
                    Family::Ip6,
                    [Field::Ip6Daddr, Field::L4proto, Field::Dport(None)],
                    "ports6",
                ),
                "dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6",
            ),
            (rule().statement(dnat_to_addrs()), "dnat ip to ip daddr map @addrs"),
            (rule().snat(ip("10.0.0.1")), "snat ip to 10.0.0.1"),
            (
                rule().statement(Statement::Snat(
                    NatTarget::Address(ip("fd00::1"), None),
                    NatFlags { random: true, ..NatFlags::default() },
                )),
                "snat ip6 to fd00::1 random",
            ),
            (rule().statement(Statement::Verdict(Verdict::Continue)), "continue"),
        ]
    });
}

/// To the address that a map has for the destination, port as it is.
fn dnat_to_addrs() -> Statement {
    let target = NatTarget::Map {
        family: Family::Ip,
        fields: vec![Field::IpDaddr],
        map: "addrs".into(),
        port: false,
    };
    Statement::Dnat(target, NatFlags::default())
}

#[test]
fn ip_rules() {
    check_rules(&Table::ip("t"), |c| {
        let rule = || Rule::new(c);
        vec![
            (
                rule().dport(Protocol::TCP, 80).dnat(ip("10.0.0.5"), Some(8080)).comment("id"),
                "tcp dport 80 dnat to 10.0.0.5:8080 comment \"id\"",
            ),
            (
                rule().ip_daddr(ip("1.2.3.4")).dport(Protocol::UDP, 53).dnat(ip("10.0.0.5"), None),
                "ip daddr 1.2.3.4 udp dport 53 dnat to 10.0.0.5",
            ),
            (
                rule().ip_saddr(ip("127.0.0.1")).ip_daddr(ip("10.0.0.5")).masquerade(),
                "ip saddr 127.0.0.1 ip daddr 10.0.0.5 masquerade",
            ),
            (
                rule().dnat_map(Family::Ip, [Field::L4proto, Field::Dport(None)], "ports4"),
                "dnat ip to meta l4proto . th dport map @ports4",
            ),
            (rule().statement(dnat_to_addrs()), "dnat to ip daddr map @addrs"),
            (rule().ether_saddr(mac(9)).accept(), "ether saddr 02:00:00:00:00:09 accept"),
        ]
    });
}

#[test]
fn ip6_rules() {
    let table = Table::ip6("t");
    let chain = Chain::regular(&table, "c");
    let rule = || Rule::new(&chain);
    let mut transaction = Transaction::new();
    transaction
        .add(&table)
        .add(&chain)
        .add(rule().dport(Protocol::TCP, 80).dnat(ip("fd00::1"), Some(8080)))
        .add(rule().ip_daddr(ip("fd00::2")).dport(Protocol::UDP, 80).dnat(ip("fd00::1"), None))
        .add(rule().ip_saddr(ip("fd00::1")).ip_daddr(ip("fd00::1")).masquerade());
    let read: Vec<String> = rules_of(&both_ways(&transaction)).map(Rule::to_string).collect();
    assert_eq!(
        read,
        [
            "tcp dport 80 dnat to [fd00::1]:8080",
            "ip6 daddr fd00::2 udp dport 80 dnat to fd00::1",
            "ip6 saddr fd00::1 ip6 daddr fd00::1 masquerade",
        ]
    );
}

#[test]
fn bridge_rules() {
    let table = Table::bridge("nat");
    let chain = Chain::regular(&table, "cni-br-iface-c1-eth0-mac");
    let top = Chain::base(&table, "PREROUTING", ChainType::Filter, Hook::Prerouting, -300);
    let rule = || Rule::new(&chain);
    let ethertype = |number| (Field::EtherType, Op::Eq, Value::EtherType(number));
    let arp = ethertype(0x0806);
    let ipv4 = ethertype(0x0800);
    let mut transaction = Transaction::new();
    transaction
        .add(&table)
        .add(&chain)
        .add(&top)
        .add(rule().ether_saddr(mac(1)).return_().comment("macspoofchk-c1-eth0"))
        .add(rule().ip_saddr_not(ip("10.0.0.1")).drop())
        .add(rule().ip_saddr(net("fd00::/64")).dport(Protocol::UDP, 67).drop())
        .add(rule().value(arp.0, arp.1, arp.2).accept())
        .add(rule().value(ipv4.0, ipv4.1, ipv4.2).ip_daddr(ip("10.0.0.1")).accept())
        .add(
            rule()
                .value(Field::EtherDaddr, Op::Eq, Mac::BROADCAST)
                .dport(Protocol::UDP, 68)
                .accept(),
        )
        .add(rule().drop())
        .add(Rule::new(&top).iifname("veth0").jump(&chain.name).comment("macspoofchk-c1-eth0"));
    let read: Vec<String> = rules_of(&both_ways(&transaction)).map(Rule::to_string).collect();
    assert_eq!(
        read,
        [
            "ether saddr 02:00:00:00:00:01 return comment \"macspoofchk-c1-eth0\"",
            "ip saddr != 10.0.0.1 drop",
            "ip6 saddr fd00::/64 udp dport 67 drop",
            "meta protocol arp accept",
            "ip daddr 10.0.0.1 accept",
            "ether daddr ff:ff:ff:ff:ff:ff udp dport 68 accept",
            "drop",
            "iifname \"veth0\" jump cni-br-iface-c1-eth0-mac comment \"macspoofchk-c1-eth0\"",
        ]
    );
}

#[test]
fn rules_of_other_authors_stay_opaque() {
    in_namespace(|| {
        nft(
            &["-f", "-"],
            "table inet t {
                chain c {
                    limit rate 5/second accept comment \"limited\"
                    tcp dport { 80, 443 } accept
                    ip saddr 10.0.0.1 log prefix \"x\" accept
                    tcp flags syn accept
                    ct original ip daddr 1.2.3.4 accept
                    meta nfproto ipv4 iifname \"x\" ip saddr 10.0.0.1 accept
                    ip saddr 10.0.0.2 accept
                }
            }",
        );
        let socket = Socket::open().unwrap();
        let chain = Chain::regular(&Table::inet("t"), "c");
        let rules = socket.rules(&chain).unwrap();
        let opaque = |rule: &Rule| matches!(rule.statements.as_slice(), [Statement::Opaque(_)]);
        let kinds: Vec<bool> = rules.iter().map(opaque).collect();
        assert_eq!(kinds, [true, true, true, true, true, false, false]);
        assert_eq!(rules[0].comment.as_deref(), Some("limited"));
        // A dependency in an unusual place is kept, and hidden.
        assert_eq!(rules[5].to_string(), "iifname \"x\" ip saddr 10.0.0.1 accept");
        assert_eq!(rules[5].statements.len(), 4);

        // What was not understood can still be put back as it was.
        let mut again = Transaction::new();
        again.add(Rule { position: None, ..rules[3].clone() });
        socket.commit(&again).unwrap();
        let listed = nft(&["list", "chain", "inet", "t", "c"], "");
        assert_eq!(listed.matches("tcp flags syn accept").count(), 2, "{listed}");
    });
}

/// Of others that come meanwhile, with sets that take the names, none is touched; nor
/// does a rule come back that somebody else removed.
#[test]
fn removed_rules_come_back_with_their_sets() {
    in_namespace(|| {
        let many: Vec<String> = (0..250).map(|n| format!("10.{n}.0.1-10.{n}.0.9")).collect();
        let rules = format!(
            "table inet t {{
                chain c {{
                    ip saddr {{ 192.0.2.0/24, 198.51.100.0/24 }} accept comment \"removed\"
                    ip saddr {{ 192.0.2.1, 192.0.2.2 }} tcp dport != {{ 80, 443 }} accept
                    ip saddr . tcp dport {{ 192.0.2.0/24 . 1-9, 192.0.2.7 . 80 }} accept
                    ip saddr {{ {} }} accept
                    tcp dport vmap {{ 22 : accept, 23-25 : drop }}
                    meta mark set tcp dport map {{ 1 : 0x1, 2 : 0x2 }}
                    tcp dport {{ 7 comment \"echo\", 8 }} counter packets 0 bytes 0
                }}
            }}",
            many.join(", ")
        );
        let socket = Socket::open().unwrap();
        let table = Table::inet("t");
        let chain = Chain::regular(&table, "c");
        let list = || nft(&["list", "table", "inet", "t"], "");
        type Change = fn(&Socket, &Chain, &mut Transaction);
        let changes: [Change; 3] = [
            |socket, chain, out| {
                socket.rules(chain).unwrap().iter().skip(1).step_by(2).for_each(|rule| {
                    out.delete(rule);
                });
            },
            |_, chain, out| {
                out.flush(chain).add(Rule::new(chain).accept());
            },
            |_, chain, out| {
                out.delete(Table::inet(&chain.table));
            },
        ];
        for change in changes {
            nft(&["-f", "-"], &rules);
            let was = list();
            let mut out = Transaction::new();
            change(&socket, &chain, &mut out);
            let before = socket.remember(&out).unwrap();
            socket.commit(&out).unwrap();
            socket.update(|socket, out| socket.plan_back(&before, out)).unwrap();
            assert_eq!(list(), was);
            nft(&["delete", "table", "inet", "t"], "");
        }

        nft(&["-f", "-"], &rules);
        let mut out = Transaction::new();
        changes[0](&socket, &chain, &mut out);
        let before = socket.remember(&out).unwrap();
        socket.commit(&out).unwrap();
        let others = socket.rules(&chain).unwrap();
        let mut theirs = Transaction::new();
        theirs.delete(&others[0]);
        socket.commit(&theirs).unwrap();
        nft(&["add", "rule", "inet", "t", "c", "udp dport { 1, 2, 3 } drop"], "");
        socket.update(|socket, out| socket.plan_back(&before, out)).unwrap();
        let now = list();
        assert!(!now.contains("removed") && now.contains("udp dport { 1, 2, 3 } drop"), "{now}");
        assert!(
            now.contains("ip saddr { 192.0.2.1, 192.0.2.2 } tcp dport != { 80, 443 }"),
            "{now}"
        );
        assert_eq!(socket.rules(&chain).unwrap().len(), 7, "{now}");
    });
}

/// Between an Ethernet and an IP match nft writes another dependency than we
/// do, to the same effect.
#[test]
fn ip_behind_ethernet_reads_the_same() {
    in_namespace(|| {
        let table = Table::inet("t");
        let chain = Chain::regular(&table, "c");
        let rule = Rule::new(&chain).ether_saddr(mac(1)).ip_saddr(ip("10.0.0.1")).drop();
        let mut transaction = Transaction::new();
        transaction.add(&table).add(&chain).add(&rule);
        let socket = Socket::open().unwrap();
        socket.commit(&transaction).unwrap();
        let text = "ether saddr 02:00:00:00:00:01 ip saddr 10.0.0.1 drop";
        assert_eq!(rule.to_string(), text);
        let listed = nft(&["list", "chain", "inet", "t", "c"], "");
        assert_eq!(listed, format!("table inet t {{\n\tchain c {{\n\t\t{text}\n\t}}\n}}\n"));
        assert!(socket.rules(&chain).unwrap()[0].does_the_same(&rule));
    });
}
