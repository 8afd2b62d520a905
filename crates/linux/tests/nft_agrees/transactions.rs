//! Tables and chains, and the verbs on all there is.

use linux::nft::{
    Chain, ChainType, Element, Elements, Hook, Policy, Rule, Ruleset, Set, Table, Transaction, Type,
};

use super::{both_ways, ip, rules_of};

#[test]
fn tables_and_chains() {
    let mut transaction = Transaction::new();
    let dormant = Table { dormant: true, ..Table::ip("quiet").comment("x") };
    let inet = Table::inet("t").comment("what an example owns");
    let bridge = Table::bridge("b");
    transaction.create(&dormant).add(Chain::regular(&dormant, "c")).add(&inet);
    transaction.create(Chain::regular(&inet, "r").comment("by jump"));
    let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    for (number, hook) in hooks.into_iter().enumerate() {
        for priority in [-300, -160, -150, -100, -91, 0, 7, 11, 45, 50, 99, 100, 300] {
            let name = format!("c{number}p{}", priority + 300);
            transaction.add(Chain::base(&inet, name, ChainType::Filter, hook, priority));
        }
    }
    transaction
        .add(Chain::base(&inet, "nat", ChainType::Nat, Hook::Postrouting, 100).comment("hey"))
        .add(Chain::base(&inet, "route", ChainType::Route, Hook::Output, -150))
        .add(Chain::base(&inet, "closed", ChainType::Filter, Hook::Forward, 0).policy(Policy::Drop))
        .add(&bridge);
    for (number, hook) in hooks.into_iter().enumerate() {
        for priority in [-310, -300, -200, -195, 0, 100, 300] {
            let name = format!("c{number}p{}", priority + 310);
            transaction.add(Chain::base(&bridge, name, ChainType::Filter, hook, priority));
        }
    }
    transaction.add(Table::ip6("empty"));
    both_ways(&transaction);
}

/// A table with a set of each type, filled.
#[test]
fn verbs() {
    // Handles are the same in both, as the same objects are made in order.
    let table = Table::inet("t");
    let chain = Chain::regular(&table, "c");
    let other = Chain::regular(&table, "o");
    let set = Set::new(&table, "s", [Type::Ipv4Addr]);
    let map = Set::map(&table, "m", [Type::Ipv4Addr], [Type::InetService]);
    let rule = |port| Rule::new(&chain).th_dport(port);
    let mut make = Transaction::new();
    make.add(&table).add(&chain).add(&other).add(&set).add(&map);
    make.add(Elements::of(&set, [Element::new(ip("10.0.0.1")), Element::new(ip("10.0.0.2"))]));
    make.add(Elements::of(&map, [Element::new(ip("10.0.0.1")).to(5)]));
    make.add(rule(1)).add(rule(2)).insert(rule(3)).add(Rule::new(&other).accept());
    let read = both_ways(&make);
    let handle_of = |port| {
        let wanted = rule(port);
        rules_of(&read).find(|rule| rule.does_the_same(&wanted)).expect("the rule").handle.unwrap()
    };

    let mut change = make.clone();
    change
        .add(rule(4).position(handle_of(3)))
        .insert(rule(5).position(handle_of(2)))
        .replace(Rule { handle: Some(handle_of(1)), ..rule(6).comment("new") })
        .delete(Rule::at(&chain, handle_of(2)))
        .delete(Elements::of(&set, [Element::new(ip("10.0.0.1"))]))
        .delete(Elements::of(&map, [Element::new(ip("10.0.0.1")).to(5)]))
        .create(Elements::of(&set, [Element::new(ip("10.0.0.3"))]))
        .flush(&other);
    let read = both_ways(&change);
    let left: Vec<String> = rules_of(&read).map(Rule::to_string).collect();
    assert_eq!(left, ["th dport 3", "th dport 4", "th dport 6 comment \"new\"", "th dport 5"]);

    change.flush(&set).flush(&map).delete(&set).delete(&map).delete(&other).flush(&table);
    let read = both_ways(&change);
    assert_eq!(read.to_string(), "table inet t {\n\tchain c {\n\t}\n}\n");

    change.delete(&chain).delete(&table);
    assert_eq!(both_ways(&change), Ruleset::default());
}
