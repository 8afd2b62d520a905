//! Bytes nobody vouches for, rules there and back without a kernel, and
//! requests that cannot be written.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::link::Mac;
use crate::nft::rule::{
    AddrType, Field, MarkChange, Match, NatFlags, NatTarget, Op, Operand, Verdict,
};
use crate::nft::set::{Protocol, Value, masked};
use crate::nft::value::range_of;
use crate::nft::{ChainType, Table, Transaction};
use crate::replies::read_body;

/// The body of the first message of an operation.
fn body(made: &Operation) -> Result<Vec<u8>, Cause> {
    let messages = operation(made, 1)?;
    Ok(messages[0].as_bytes()[16..].to_vec())
}

fn add(object: impl Into<Object>) -> Operation {
    Operation { verb: Verb::Add, object: object.into() }
}

fn addresses(v4: bool) -> BoxedStrategy<IpAddr> {
    if v4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    }
}

fn networks(v4: bool) -> impl Strategy<Value = IpNetwork> {
    let bits: u8 = if v4 { 32 } else { 128 };
    (addresses(v4), 0..=bits).prop_map(|(address, prefix)| {
        masked(IpNetwork::new(address, prefix).expect("a prefix of the family"))
    })
}

fn protocols() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP])
}

fn names() -> impl Strategy<Value = String> {
    vec(select(b"abcXYZ019_.-".to_vec()), 1..15)
        .prop_map(|bytes| format!("n{}", String::from_utf8(bytes).expect("ASCII")))
}

fn fields() -> impl Strategy<Value = Field> {
    let port =
        |field: fn(Option<Protocol>) -> Field| proptest::option::of(protocols()).prop_map(field);
    prop_oneof![
        select(vec![
            Field::IpSaddr,
            Field::IpDaddr,
            Field::Ip6Saddr,
            Field::Ip6Daddr,
            Field::Ip6HopLimit,
            Field::EtherSaddr,
            Field::EtherDaddr,
            Field::Iifname,
            Field::Oifname,
            Field::Nfproto,
            Field::EtherType,
            Field::L4proto,
            Field::Mark,
            Field::CtMark,
            Field::FibSaddrType,
            Field::FibDaddrType,
        ]),
        port(Field::Sport),
        port(Field::Dport),
    ]
}

fn address_values(v4: bool) -> BoxedStrategy<Value> {
    let range =
        (addresses(v4), addresses(v4)).prop_map(|(a, b)| Value::NetRange(a.min(b), a.max(b)));
    prop_oneof![3 => networks(v4).prop_map(Value::Net), 1 => range].boxed()
}

fn values(field: Field) -> BoxedStrategy<Value> {
    let number = any::<u16>();
    match field.kind() {
        Type::Ipv4Addr => address_values(true),
        Type::Ipv6Addr => address_values(false),
        Type::HopLimit => any::<u8>().prop_map(Value::HopLimit).boxed(),
        Type::EtherAddr => any::<[u8; 6]>().prop_map(|mac| Value::Mac(Mac::new(mac))).boxed(),
        Type::InetProto => prop_oneof![protocols(), any::<u8>().prop_map(Protocol)]
            .prop_map(Value::Protocol)
            .boxed(),
        Type::InetService => prop_oneof![
            number.prop_map(Value::Port),
            (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Value::PortRange(a.min(b), a.max(b))),
        ]
        .boxed(),
        Type::Mark => any::<u32>().prop_map(Value::Mark).boxed(),
        Type::Ifname => (names(), any::<bool>())
            .prop_map(
                |(name, whole)| {
                    if whole { Value::Ifname(name) } else { Value::IfnamePrefix(name) }
                },
            )
            .boxed(),
        Type::Nfproto => select(vec![Family::Ip, Family::Ip6]).prop_map(Value::Nfproto).boxed(),
        Type::EtherType => {
            select(vec![0x0800, 0x0806, 0x86dd, 0x1234]).prop_map(Value::EtherType).boxed()
        }
        _ => (0_u32..9)
            .prop_map(|number| Value::AddrType(AddrType::from_number(number).expect("one of nine")))
            .boxed(),
    }
}

fn ops() -> impl Strategy<Value = Op> {
    select(vec![Op::Eq, Op::Ne])
}

fn conditions() -> impl Strategy<Value = Match> {
    let value = fields().prop_flat_map(|field| {
        (ops(), values(field)).prop_map(move |(op, value)| Match {
            fields: vec![field],
            op,
            operand: Operand::Value(value),
        })
    });
    let set = (vec(fields(), 1..4), ops(), names()).prop_map(|(fields, op, set)| Match {
        fields,
        op,
        operand: Operand::Set(set),
    });
    let mark = (select(vec![Field::Mark, Field::CtMark]), ops(), any::<[u32; 2]>()).prop_map(
        |(field, op, [mask, value])| Match {
            fields: vec![field],
            op,
            operand: Operand::Masked { mask, value },
        },
    );
    let state = (select(vec![Field::CtState, Field::CtStatus]), ops(), 1_u32..).prop_map(
        |(field, op, flags)| Match { fields: vec![field], op, operand: Operand::Flags(flags) },
    );
    prop_oneof![4 => value, 2 => set, 1 => mark, 1 => state]
}

fn changes() -> impl Strategy<Value = MarkChange> {
    prop_oneof![
        any::<u32>().prop_map(MarkChange::Value),
        any::<[u32; 2]>().prop_map(|[mask, xor]| MarkChange::Bits { mask, xor }),
        Just(MarkChange::OtherMark),
        (vec(fields(), 1..3), names()).prop_map(|(fields, map)| MarkChange::Map { fields, map }),
    ]
}

fn targets() -> impl Strategy<Value = NatTarget> {
    let address = any::<bool>().prop_flat_map(|v4| {
        (addresses(v4), any::<Option<u16>>()).prop_map(|(a, port)| NatTarget::Address(a, port))
    });
    let map = (select(vec![Family::Ip, Family::Ip6]), vec(fields(), 1..3), names(), any::<bool>())
        .prop_map(|(family, fields, map, port)| NatTarget::Map { family, fields, map, port });
    prop_oneof![address, map]
}

fn flags() -> impl Strategy<Value = NatFlags> {
    any::<[bool; 3]>().prop_map(|[random, fully_random, persistent]| NatFlags {
        random,
        fully_random,
        persistent,
    })
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        select(vec![Verdict::Accept, Verdict::Drop, Verdict::Continue, Verdict::Return]),
        names().prop_map(Verdict::Jump),
        names().prop_map(Verdict::Goto),
    ]
}

fn statements() -> impl Strategy<Value = Statement> {
    prop_oneof![
        8 => conditions().prop_map(Statement::Match),
        1 => (vec(fields(), 1..3), names())
            .prop_map(|(fields, map)| Statement::VerdictMap { fields, map }),
        1 => any::<[u64; 2]>().prop_map(|[packets, bytes]| Statement::Counter { packets, bytes }),
        1 => changes().prop_map(Statement::SetMark),
        1 => changes().prop_map(Statement::SetCtMark),
        1 => flags().prop_map(Statement::Masquerade),
        1 => (any::<Option<u16>>(), flags()).prop_map(|(p, f)| Statement::Redirect(p, f)),
        1 => (targets(), flags()).prop_map(|(to, f)| Statement::Dnat(to, f)),
        1 => (targets(), flags()).prop_map(|(to, f)| Statement::Snat(to, f)),
        1 => verdicts().prop_map(Statement::Verdict),
    ]
}

fn rules() -> impl Strategy<Value = Rule> {
    (select(vec![Family::Inet, Family::Ip, Family::Ip6, Family::Bridge]), vec(statements(), 0..6))
        .prop_map(|(family, statements)| {
            let chain = Chain::regular(&Table::new(family, "t"), "c");
            Rule { statements, ..Rule::new(&chain).comment("a comment") }
        })
}

proptest! {
    #[test]
    fn hostile_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = read_body(&bytes);
    }

    /// Attributes that are well formed but make no sense where they are.
    #[test]
    fn hostile_attributes_do_not_panic(
        parts in vec((1_u16..18, vec(any::<u8>(), 0..40), 0_u8..4), 0..12),
    ) {
        let mut message = Message::new(0, 0, "");
        message.put(&[1, 0, 0, 0]);
        for (kind, payload, depth) in &parts {
            fill(&mut message, *kind, payload, *depth);
        }
        let _ = read_body(&message.as_bytes()[16..]);
    }

    /// Real rules with a few bytes changed.
    #[test]
    fn damaged_rules_do_not_panic(
        rule in rules(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        if let Ok(mut bytes) = body(&add(&rule)) {
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = read_body(&bytes);
        }
    }

    #[test]
    fn rules_there_and_back(rule in rules()) {
        // Rules that exclude themselves are refused, which is not the point.
        if let Ok(bytes) = body(&add(&rule)) {
            let read = super::rule(&bytes).expect("a rule");
            prop_assert_eq!(&read.statements, &as_shown(rule.family, &rule.statements));
            prop_assert_eq!(read.to_string(), rule.to_string());
            prop_assert!(read.does_the_same(&rule));
        }
    }

    #[test]
    fn elements_there_and_back(
        nets in prop::collection::btree_set((0_u32..1000, 1_u32..8), 0..20),
        ports in any::<[u16; 2]>(),
    ) {
        let owner = Table::ip("t");
        let pair = Set::map(&owner, "m", [Type::Ipv4Addr, Type::InetService], [Type::Mark]);
        let some = nets.iter().map(|(net, size)| {
            let address = std::net::Ipv4Addr::from(net << 8);
            Element::new(address).and(ports[0]).to(Value::Mark(*size)).comment(format!("c{net}"))
        });
        let wanted = Elements::of(&pair, some);
        check_elements(&wanted)?;

        // Ranges that do not touch or overlap, from the first address on.
        let ranges = Set::verdict_map(&owner, "r", [Type::Ipv4Addr]).interval();
        let mut behind = 0_u32;
        let some = nets.iter().map(|(gap, size)| {
            let first = behind + gap;
            behind = first + size + 1;
            let (first, last) = (first.to_be_bytes(), (behind - 1).to_be_bytes());
            let value = range_of(Type::Ipv4Addr, &first, &last).expect("addresses");
            Element::new(value).verdict(Verdict::Jump("c".into()))
        });
        let wanted = Elements::of(&ranges, some.collect::<Vec<_>>());
        check_elements(&wanted)?;
    }
}

fn fill(message: &mut Message, kind: u16, payload: &[u8], depth: u8) {
    if depth == 0 {
        message.attr(kind, payload);
        return;
    }
    const NAMES: [&str; 6] = ["immediate", "lookup", "bitwise", "cmp", "nat", "payload"];
    message.nest(kind, |inner| {
        let name = payload.first().map_or(0, |byte| usize::from(*byte) % NAMES.len());
        inner.attr_str(1, NAMES[name]);
        for inner_kind in 1..8 {
            fill(inner, inner_kind, payload, depth - 1);
        }
    });
}

fn check_elements(wanted: &Elements) -> Result<(), TestCaseError> {
    let messages = operation(&add(wanted), 1).expect("elements that fit the set");
    let raw = messages
        .iter()
        .flat_map(|message| elements(&wanted.set, &message.as_bytes()[16..]))
        .collect();
    prop_assert_eq!(&assemble(&wanted.set, raw), &wanted.elements);
    Ok(())
}

/// The cause for which an operation is refused before the kernel is asked.
fn refused(verb: Verb, object: impl Into<Object>) -> String {
    let made = Operation { verb, object: object.into() };
    match operation(&made, 1) {
        Ok(_) => panic!("{made} is written"),
        Err(cause) => cause.into_owned(),
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let owner = Table::inet("t");
    let chain = Chain::regular(&owner, "c");
    let rule = || Rule::new(&chain);
    let v4: IpAddr = "10.0.0.1".parse().unwrap();
    let v6: IpAddr = "fd00::1".parse().unwrap();
    let set = Set::new(&owner, "s", [Type::Ipv4Addr]);
    let map = Set::map(&owner, "m", [Type::Ipv4Addr], [Type::InetService]);
    let one = |set: &Set, element| Elements::of(set, [element]);

    let long = "x".repeat(129);
    for (object, cause) in [
        (Object::from(rule().comment(&long)), "a comment may have 128 bytes, not 129"),
        (chain.clone().comment(&long).into(), "a comment may have 128 bytes, not 129"),
        (owner.clone().comment(&long).into(), "a comment may have 128 bytes, not 129"),
        (set.clone().comment(&long).into(), "a comment may have 128 bytes, not 129"),
        (
            one(&set, Element::new(v4).comment(&long)).into(),
            "a comment may have 128 bytes, not 129",
        ),
        (rule().comment("a\"b").into(), "nft comments cannot hold quotes and control characters"),
        (rule().comment("a\nb").into(), "nft comments cannot hold quotes and control characters"),
        (Table::ip("").into(), "a name has 1 to 255 bytes, not 0"),
        (Chain::regular(&owner, "x".repeat(256)).into(), "a name has 1 to 255 bytes, not 256"),
        (
            Chain::regular(&owner, "a b").into(),
            "the name \"a b\" has a character nft would not take",
        ),
        (rule().jump("a;b").into(), "the name \"a;b\" has a character nft would not take"),
        (rule().in_set([Field::IpSaddr], "").into(), "a name has 1 to 255 bytes, not 0"),
        (rule().iifname("").into(), "an interface name has 1 to 15 bytes, unlike \"\""),
        (
            rule().iifname("sixteen-letters-").into(),
            "an interface name has 1 to 15 bytes, unlike \"sixteen-letters-\"",
        ),
        (rule().oifname("a/b").into(), "\"a/b\" is no interface name"),
        (
            rule().dnat(v4, Some(80)).into(),
            "a port needs a match on the transport protocol before it",
        ),
        (
            rule().redirect(Some(80)).into(),
            "a port needs a match on the transport protocol before it",
        ),
        (rule().ip_saddr(v4).ip_daddr(v6).into(), "its matches exclude each other: IPv4 and IPv6"),
        (
            rule().l4proto(Protocol::UDP).dport(Protocol::TCP, 80).into(),
            "its matches exclude each other: udp and tcp",
        ),
        (
            Rule::new(&Chain::regular(&Table::ip("t"), "c")).ip_saddr(v6).into(),
            "its matches exclude each other: IPv4 and IPv6",
        ),
        (
            Rule::new(&Chain::regular(&Table::ip6("t"), "c")).dnat(v4, None).into(),
            "a table of family ip6 cannot translate to ip",
        ),
        (
            rule().dnat_map(Family::Inet, [Field::L4proto], "m").into(),
            "there are no inet addresses to translate to",
        ),
        (
            Rule::new(&Chain::regular(&Table::bridge("t"), "c"))
                .value(Field::Nfproto, Op::Eq, Value::Nfproto(Family::Ip))
                .into(),
            "meta nfproto is only useful in the inet family",
        ),
        (
            Rule::new(&Chain::regular(&Table::new(Family::Arp, "t"), "c")).ip_saddr(v4).into(),
            "an arp table sees no IP header",
        ),
        (
            rule().value(Field::IpSaddr, Op::Eq, v6).into(),
            "fd00::1 is no single value of type ipv4_addr",
        ),
        (
            rule().value(Field::Dport(None), Op::Eq, Value::PortRange(90, 80)).into(),
            "a range ends before it starts",
        ),
        (
            rule().matching([Field::IpSaddr], Op::Eq, Operand::Flags(1)).into(),
            "only ct state and ct status have flags",
        ),
        (
            rule().matching([Field::CtState], Op::Eq, Operand::Flags(0)).into(),
            "no state or status is named",
        ),
        (
            rule().matching([Field::IpSaddr], Op::Eq, Operand::Masked { mask: 1, value: 1 }).into(),
            "only marks can be masked",
        ),
        (rule().in_set([], "s").into(), "there is no field to look up"),
        (
            rule().in_set([Field::Iifname; 5], "s").into(),
            "the fields do not fit the kernel's registers",
        ),
        (
            rule()
                .matching([Field::IpSaddr, Field::IpDaddr], Op::Eq, Operand::Value(Value::from(v4)))
                .into(),
            "concatenated fields can only be looked up in a set",
        ),
        (
            rule().accept().statement(Statement::Opaque(vec![1])).into(),
            "an opaque rule has no other statements",
        ),
        (one(&set, Element::new(v6)).into(), "fd00::1 is no single value of type ipv4_addr"),
        (
            one(&set, Element::new("10.0.0.0/8".parse::<IpNetwork>().unwrap())).into(),
            "10.0.0.0/8 is no single value of type ipv4_addr",
        ),
        (
            one(&set, Element::new(v4).and(80)).into(),
            "the key of 10.0.0.1 . 80 has not the parts of the set's",
        ),
        (
            one(&set, Element::new(v4).to(80)).into(),
            "the data of 10.0.0.1 : 80 is not what the set holds",
        ),
        (one(&map, Element::new(v4)).into(), "the data of 10.0.0.1 is not what the set holds"),
        (
            one(&map, Element::new(v4).verdict(Verdict::Drop)).into(),
            "the data of 10.0.0.1 : drop is not what the set holds",
        ),
        (
            Set::new(&owner, "s", [Type::Mark]).interval().into(),
            "there are no ranges of marks and names",
        ),
        (
            Set::new(&owner, "s", []).into(),
            "a key or data has one to five parts, of 64 bytes together",
        ),
        (
            Set::new(&owner, "s", [Type::Ifname; 5]).into(),
            "a key or data has one to five parts, of 64 bytes together",
        ),
        (Set::new(&owner, "s", [Type::Other(60)]).into(), "the set has a type that is only read"),
        (
            Set { other_flags: 1, ..set.clone() }.into(),
            "the set was read with flags that are not written",
        ),
        (
            Chain::base(&owner, "b", ChainType::Filter, Hook::Other(5), 0).into(),
            "chains on a device's hook are only read",
        ),
    ] {
        assert_eq!(refused(Verb::Add, object.clone()), cause, "{object:?}");
    }

    for (verb, object, cause) in [
        (Verb::Delete, Object::from(rule()), "a rule is removed by its handle, and it has none"),
        (Verb::Destroy, rule().into(), "a rule is removed by its handle, and it has none"),
        (Verb::Replace, rule().into(), "a rule is replaced by its handle, and it has none"),
        (Verb::Flush, rule().into(), "there is nothing inside to flush"),
        (Verb::Insert, chain.into(), "only rules have a position"),
    ] {
        assert_eq!(refused(verb, object), cause);
    }
}

/// The layouts that upstream programs read, byte for byte as nft 1.0.6 sends
/// them (strace).
#[test]
fn comments_are_stored_as_nft_does() {
    let owner = Table::inet("t");
    let made = body(&add(owner.clone().comment("tc"))).unwrap();
    // nfgenmsg, NFTA_TABLE_NAME, NFTA_TABLE_USERDATA; nft also sends flags of 0.
    assert_eq!(
        made,
        [
            &[1, 0, 0, 0][..],
            &[6, 0, 1, 0, b't', 0, 0, 0],
            &[9, 0, 6, 0, 0, 3, b't', b'c', 0, 0, 0, 0],
        ]
        .concat()
    );
    let set = Set::new(&owner, "s", [Type::Ipv4Addr]).interval().comment("sc");
    assert_eq!(
        set_user_data(&set).unwrap(),
        b"\x00\x04\x02\x00\x00\x00\x07\x03sc\x00",
        "on a little-endian machine"
    );
    let port = [Type::InetProto, Type::InetService];
    let map = Set::map(&owner, "m", port, port).comment("mc");
    let data = set_user_data(&map).unwrap();
    assert_eq!(&data[..12], b"\x00\x04\x00\x00\x00\x00\x01\x04\x00\x00\x00\x00");
    assert_eq!(&data[12..], b"\x06\x04\x00\x00\x00\x00\x07\x03mc\x00");
}

#[test]
fn a_transaction_prints_what_nft_reads() {
    let owner = Table::inet("t").comment("x");
    let chain = Chain::base(&owner, "c", ChainType::Nat, Hook::Postrouting, 100).comment("y");
    let set = Set::new(&owner, "s", [Type::Ipv4Addr]).interval().comment("z");
    let net: IpNetwork = "10.0.0.0/8".parse().unwrap();
    let mut made = Transaction::new();
    made.create(&owner)
        .add(&chain)
        .add(&set)
        .add(Elements::of(&set, [Element::new(net).comment("e")]))
        .insert(Rule::new(&chain).in_set([Field::IpSaddr], "s").masquerade().position(7))
        .replace(Rule { handle: Some(8), ..Rule::new(&chain).accept() })
        .delete(Rule::at(&chain, 9))
        .delete(Elements::of(&set, [Element::new(net).comment("e")]))
        .flush(&chain)
        .flush(&set)
        .destroy(&set)
        .destroy(&owner);
    assert_eq!(
        made.to_string(),
        r#"create table inet t { comment "x" ; }
add chain inet t c { type nat hook postrouting priority 100 ; policy accept ; comment "y" ; }
add set inet t s { type ipv4_addr ; flags interval ; comment "z" ; }
add element inet t s { 10.0.0.0/8 comment "e" }
insert rule inet t c handle 7 ip saddr @s masquerade
replace rule inet t c handle 8 accept
delete rule inet t c handle 9
delete element inet t s { 10.0.0.0/8 }
flush chain inet t c
flush set inet t s
destroy set inet t s
destroy table inet t
"#
    );
}
