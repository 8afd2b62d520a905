//! Bytes read as everything that anybody could have answered, for property tests
//! and fuzzing; no plugin calls this.
//!
//! What is read is also printed, where it can be: a value that panics only when it
//! is shown would otherwise be found by whoever reads an error message.

use crate::addr::Addr;
use crate::conntrack;
use crate::iptables::{self, Saved};
use crate::link::Link;
use crate::monitor::Event;
use crate::neigh::Neigh;
use crate::netlink::{Reply, replies};
use crate::nft::wire::{assemble, chain, elements, rule, rule_comment, set, table};
use crate::nft::{Object, Operation, Set, Table, Type, Verb};
use crate::port::parse_vlans;
use crate::route::Route;
use crate::rule::Rule;
use crate::tc;
use crate::{Family, dbus};

/// Reads a datagram of the kernel: its messages by their type, and the body of
/// each as every kind of object, whatever the type says.
///
/// Answers how many objects were read; at most a dozen for each message, but for
/// the elements of sets.
#[must_use]
pub fn read_datagram(datagram: &[u8]) -> usize {
    replies(datagram).map(|reply| read_message(reply) + read_body(reply.body)).sum()
}

/// Reads what a message bus sent.
#[must_use]
pub fn read_bus_message(message: &[u8]) -> bool {
    dbus::decode(message).is_some()
}

/// Reads what `iptables-save` printed; answers how many rules that were.
#[must_use]
pub fn read_saved_rules(text: &str) -> usize {
    let saved = Saved::parse(text);
    let rules = saved.chains.iter().flat_map(|chain| &chain.rules);
    rules.filter(|rule| !rule.to_string().is_empty()).count()
}

fn read_message(reply: Reply<'_>) -> usize {
    const KINDS_OF_TC: [u16; 2] = [36, 44];
    // RTM_NEWQDISC and RTM_NEWTFILTER, whatever came
    let as_tc = |kind| Reply { kind, ..reply };
    [
        Event::parse(reply).is_some(),
        tc::Qdisc::parse(as_tc(KINDS_OF_TC[0])).is_some(),
        tc::Filter::parse(as_tc(KINDS_OF_TC[1])).is_some(),
    ]
    .into_iter()
    .filter(|read| *read)
    .count()
}

/// Reads a message's body, the fixed header first, as every kind of object.
#[must_use]
pub fn read_body(body: &[u8]) -> usize {
    let mut read = [
        Link::parse(body).is_some(),
        Addr::parse(body).is_some(),
        Route::parse(body).is_some(),
        Rule::parse(body).is_some(),
        Neigh::parse(body).is_some(),
        !parse_vlans(body).is_empty(),
        table(body).is_some_and(|table| !table.to_string().is_empty()),
        chain(body).is_some_and(shown),
        rule_comment(body).is_some(),
        set(body).is_some_and(shown),
    ]
    .into_iter()
    .filter(|read| *read)
    .count();
    if let Some(entry) = conntrack::parse(body) {
        read += 1 + usize::from(conntrack::Filter::new(Family::V4).matches(&entry));
    }
    if let Some(rule) = rule(body) {
        let _ = rule.to_string();
        let _ = (iptables::verdict_of(&rule), iptables::comment_of(&rule));
        let _ = (iptables::source_of(&rule), iptables::destination_of(&rule));
        read += 1;
    }
    for set in sets() {
        for element in assemble(&set, elements(&set, body).collect()) {
            read += usize::from(!element.to_string().is_empty());
        }
    }
    read
}

fn shown(object: impl Into<Object>) -> bool {
    !Operation { verb: Verb::Add, object: object.into() }.to_string().is_empty()
}

/// Sets of every kind.
fn sets() -> [Set; 7] {
    let owner = Table::inet("t");
    let pair = [Type::Ipv4Addr, Type::InetService];
    [
        Set::new(&owner, "a", [Type::Ipv6Addr]),
        Set::new(&owner, "b", [Type::Ipv4Addr]).interval(),
        Set::new(&owner, "c", pair).interval(),
        Set::map(&owner, "d", [Type::Ifname, Type::Mark], pair),
        Set::verdict_map(&owner, "e", [Type::EtherAddr]),
        Set::new(&owner, "f", [Type::Other(63), Type::InetProto]),
        Set::new(&owner, "g", [Type::FibAddrType]).interval(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Message;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// A datagram of messages that are well formed on the outside.
    fn datagrams() -> impl Strategy<Value = Vec<u8>> {
        let attribute = (1_u16..40, vec(any::<u8>(), 0..24), 0_u8..4);
        let message = (prop_oneof![16_u16..48, any::<u16>()], vec(any::<u8>(), 0..28));
        vec((message, vec(attribute, 0..8)), 1..4).prop_map(|messages| {
            let mut datagram = Vec::new();
            for ((kind, header), attributes) in messages {
                let mut message = Message::new(kind, 0, "");
                message.put(&header);
                for (kind, payload, depth) in attributes {
                    nest(&mut message, kind, &payload, depth);
                }
                datagram.extend(message.as_bytes());
            }
            datagram
        })
    }

    fn nest(message: &mut Message, kind: u16, payload: &[u8], depth: u8) {
        match depth {
            0 => drop(message.attr(kind, payload)),
            _ => drop(message.nest(kind, |inner| {
                nest(inner, kind, payload, depth - 1);
                nest(inner, kind % 7 + 1, payload, depth - 1);
            })),
        }
    }

    /// Nothing is read twice over, so no more comes out than went in.
    fn bound(bytes: &[u8]) -> usize {
        64 + 64 * bytes.len()
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in vec(any::<u8>(), 0..600)) {
            prop_assert!(read_datagram(&bytes) <= bound(&bytes));
            prop_assert!(read_body(&bytes) <= bound(&bytes));
            let _ = read_bus_message(&bytes);
            let _ = read_saved_rules(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn messages_of_nonsense_are_read(datagram in datagrams()) {
            prop_assert!(read_datagram(&datagram) <= bound(&datagram));
        }

        /// Lengths that lie, ends that are missing.
        #[test]
        fn damaged_messages_are_read(
            mut datagram in datagrams(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            end in any::<prop::sample::Index>(),
        ) {
            for (at, byte) in damage {
                let at = at.index(datagram.len());
                datagram[at] = byte;
            }
            datagram.truncate(end.index(datagram.len()) + 1);
            prop_assert!(read_datagram(&datagram) <= bound(&datagram));
        }
    }
}
