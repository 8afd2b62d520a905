//! The kernel's table of connections: list entries, delete entries, like
//! `conntrack -L` and `conntrack -D`.
//!
//! A connection keeps the address translation its first packet met. A UDP
//! "connection" lives for as long as packets come, so that after a port is
//! mapped, or mapped elsewhere, a client that keeps sending still reaches the
//! old target until the entry is deleted.
//!
//! Numbers are those of include/uapi/linux/netfilter/nfnetlink_conntrack.h at
//! v6.18.

use std::net::IpAddr;

use nix::libc;

use crate::error::{Error, ErrorKind, Result};
use crate::family::Family;
use crate::netlink::{Attr, Attrs, Message, Socket};
use crate::nft::{Family as Nfproto, Protocol};

/// `NFNL_SUBSYS_CTNETLINK`, with `IPCTNL_MSG_CT_GET` and
/// `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `sizeof(struct nfgenmsg)`.
const HEADER_LEN: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC` and so on, net/netfilter/nf_internals.h.
const FILTER_SOURCE: u32 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_SOURCE_PORT: u32 = 1 << 4;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;

/// Filters up to this number are handed to the kernel one by one, which walks
/// through its table for each; beyond it the table is read, which costs as much
/// as some twenty walks.
const FEW: usize = 8;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const NESTED: u16 = 0x8000;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Where packets come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// Of protocols that have ports.
    pub source_port: Option<u16>,
    /// Of protocols that have ports.
    pub destination_port: Option<u16>,
}

/// A connection as the kernel tracks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The transport protocol.
    pub protocol: Protocol,
    /// As the first packet came, before any translation.
    pub original: Direction,
    /// As answers come: `source` is who really answers.
    pub reply: Direction,
    /// The kernel's number for it.
    id: Option<u32>,
    /// The zone both directions belong to.
    zone: Option<u16>,
    /// The original direction as the kernel wrote it, to name the entry with.
    original_tuple: Vec<u8>,
}

/// Which connections are meant: those for which everything given is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The transport protocol.
    pub protocol: Option<Protocol>,
    /// The source of the first packet.
    pub original_source: Option<IpAddr>,
    /// The destination of the first packet, such as the host's address.
    pub original_destination: Option<IpAddr>,
    /// The destination port of the first packet, such as a host port.
    pub original_destination_port: Option<u16>,
    /// The source of answers, such as the container a port is mapped to.
    pub reply_source: Option<IpAddr>,
    /// The source port of answers, such as the container's port.
    pub reply_source_port: Option<u16>,
}

impl Filter {
    /// Every connection of a family; narrow it with the fields.
    #[must_use]
    pub fn new(family: Family) -> Filter {
        Filter {
            family,
            protocol: None,
            original_source: None,
            original_destination: None,
            original_destination_port: None,
            reply_source: None,
            reply_source_port: None,
        }
    }

    /// Whether an entry is meant.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, is: T) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        Family::of(entry.original.source) == self.family
            && fits(self.protocol, entry.protocol)
            && fits(self.original_source, entry.original.source)
            && fits(self.original_destination, entry.original.destination)
            && fits(self.original_destination_port.map(Some), entry.original.destination_port)
            && fits(self.reply_source, entry.reply.source)
            && fits(self.reply_source_port.map(Some), entry.reply.source_port)
    }
}

/// Lists the connections a filter means, like `conntrack -L`.
///
/// The socket is one of [`Protocol::Netfilter`](crate::netlink::Protocol).
///
/// # Errors
///
/// [`is_unsupported`](Error::is_unsupported) where the kernel tracks no
/// connections, [`is_permission`](Error::is_permission) without
/// `CAP_NET_ADMIN`.
pub fn list(socket: &Socket, filter: &Filter) -> Result<Vec<Entry>> {
    list_any(socket, std::slice::from_ref(filter))
}

/// Deletes the connections that any of the filters means, like `conntrack -D`.
///
/// Without filters nothing is deleted. An entry that ends meanwhile is no
/// error.
///
/// # Errors
///
/// Those of [`list`].
pub fn delete(socket: &Socket, filters: &[Filter]) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let of_family: Vec<Filter> =
            filters.iter().filter(|filter| filter.family == family).copied().collect();
        if of_family.is_empty() || delete_by_filter(socket, &of_family)? {
            continue;
        }
        let entries = list_any(socket, &of_family)?;
        let messages: Vec<Message> =
            entries.iter().map(|entry| delete_message(family, entry)).collect();
        for outcome in socket.batch_each(messages)? {
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Has the kernel find and delete what is meant, which costs a fraction of
/// reading the table, and nothing where it is empty. False when there are too
/// many filters, or the kernel (before 6.12) cannot.
fn delete_by_filter(socket: &Socket, filters: &[Filter]) -> Result<bool> {
    // Such a kernel looks for one entry of that very tuple, and finds it
    // incomplete. Without any tuple it would empty its table: one without a
    // protocol is not sent.
    if filters.len() > FEW || !filters.iter().all(kernel_understands) {
        return Ok(false);
    }
    let messages: Vec<Message> = filters.iter().filter_map(filtered_delete_message).collect();
    for outcome in socket.batch_each(messages)? {
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// IPv6 addresses are compared the wrong way round, also in 6.18: all others are
/// meant.
fn kernel_understands(filter: &Filter) -> bool {
    let addresses = [filter.original_source, filter.original_destination, filter.reply_source];
    filter.protocol.is_some()
        && (filter.family == Family::V4 || addresses.iter().all(Option::is_none))
}

fn filtered_delete_message(filter: &Filter) -> Option<Message> {
    let protocol = filter.protocol?;
    let mut message = message(DELETE, filter.family, "delete connections");
    let mut tuple = |kind, source, destination, source_port, destination_port| {
        let mut flags = FILTER_PROTOCOL;
        message.nest(kind, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                for (address, v4, v6, flag) in [
                    (source, CTA_IP_V4_SRC, CTA_IP_V6_SRC, FILTER_SOURCE),
                    (destination, CTA_IP_V4_DST, CTA_IP_V6_DST, FILTER_DESTINATION),
                ] {
                    match address {
                        Some(IpAddr::V4(address)) => ip.attr(v4, &address.octets()),
                        Some(IpAddr::V6(address)) => ip.attr(v6, &address.octets()),
                        None => continue,
                    };
                    flags |= flag;
                }
            });
            tuple.nest(CTA_TUPLE_PROTO, |proto| {
                proto.attr_u8(CTA_PROTO_NUM, protocol.0);
                for (port, kind, flag) in [
                    (source_port, CTA_PROTO_SRC_PORT, FILTER_SOURCE_PORT),
                    (destination_port, CTA_PROTO_DST_PORT, FILTER_DESTINATION_PORT),
                ] {
                    if let Some(port) = port {
                        proto.attr_be16(kind, port);
                        flags |= flag;
                    }
                }
            });
        });
        flags
    };
    let original = tuple(
        CTA_TUPLE_ORIG,
        filter.original_source,
        filter.original_destination,
        None,
        filter.original_destination_port,
    );
    let reply = tuple(CTA_TUPLE_REPLY, filter.reply_source, None, filter.reply_source_port, None);
    message.nest(CTA_FILTER, |filter| {
        filter.attr_u32(CTA_FILTER_ORIG_FLAGS, original);
        filter.attr_u32(CTA_FILTER_REPLY_FLAGS, reply);
    });
    Some(message)
}

/// Lists what any of the filters, all of one family, means.
fn list_any(socket: &Socket, filters: &[Filter]) -> Result<Vec<Entry>> {
    let Some(first) = filters.first() else { return Ok(Vec::new()) };
    let mut question = message(GET, first.family, "list connections");
    narrow(&mut question, filters);
    let listed = socket.dump(question, |reply| {
        parse(reply.body).filter(|entry| filters.iter().any(|filter| filter.matches(entry)))
    });
    listed.map_err(|error| match error.errno() {
        // nfnetlink answers so where nobody handles a subsystem.
        Some(libc::EINVAL) => Error::with_kind(
            "list connections",
            ErrorKind::Unsupported,
            "the kernel has no connection tracking over netlink",
        ),
        _ => error,
    })
}

/// Lets the kernel leave out what no filter can mean: a node has many TCP
/// connections and few UDP ones. Kernels before 5.8 ignore it.
fn narrow(question: &mut Message, filters: &[Filter]) {
    let Some(protocol) = common(filters, |filter| filter.protocol) else { return };
    let port = common(filters, |filter| filter.original_destination_port);
    question.nest(CTA_TUPLE_ORIG, |tuple| {
        tuple.nest(CTA_TUPLE_PROTO, |proto| {
            proto.attr_u8(CTA_PROTO_NUM, protocol.0);
            if let Some(port) = port {
                proto.attr_be16(CTA_PROTO_DST_PORT, port);
            }
        });
    });
    let ports = if port.is_some() { FILTER_DESTINATION_PORT } else { 0 };
    question.nest(CTA_FILTER, |filter| {
        filter.attr_u32(CTA_FILTER_ORIG_FLAGS, FILTER_PROTOCOL | ports);
        filter.attr_u32(CTA_FILTER_REPLY_FLAGS, 0);
    });
}

/// What all filters have in common.
fn common<T: PartialEq + Copy>(filters: &[Filter], of: impl Fn(&Filter) -> Option<T>) -> Option<T> {
    let first = of(filters.first()?)?;
    filters.iter().all(|filter| of(filter) == Some(first)).then_some(first)
}

fn message(kind: u16, family: Family, operation: &'static str) -> Message {
    let mut message = Message::new(kind, 0, operation);
    let family = match family {
        Family::V4 => Nfproto::Ip,
        Family::V6 => Nfproto::Ip6,
    };
    message.put(&[family.number(), 0, 0, 0]);
    message
}

fn delete_message(family: Family, entry: &Entry) -> Message {
    let mut message = message(DELETE, family, "delete connection");
    // A delete that names no entry would empty the table: `parse` lets none
    // through without its tuple.
    message.attr(CTA_TUPLE_ORIG | NESTED, &entry.original_tuple);
    if let Some(zone) = entry.zone {
        message.attr_be16(CTA_ZONE, zone);
    }
    if let Some(id) = entry.id {
        message.attr_be32(CTA_ID, id);
    }
    message
}

pub(crate) fn parse(body: &[u8]) -> Option<Entry> {
    let attrs = Attrs::after(body, HEADER_LEN);
    let original_tuple = attrs.find(CTA_TUPLE_ORIG)?;
    let (protocol, original) = direction(original_tuple)?;
    let (_, reply) = direction(attrs.find(CTA_TUPLE_REPLY)?)?;
    Some(Entry {
        protocol,
        original,
        reply,
        id: attrs.find(CTA_ID).and_then(|id| id.be32()),
        zone: attrs.find(CTA_ZONE).and_then(|zone| zone.be16()),
        original_tuple: original_tuple.payload.to_vec(),
    })
}

fn direction(tuple: Attr<'_>) -> Option<(Protocol, Direction)> {
    let ip = tuple.nested().find(CTA_TUPLE_IP)?.nested();
    let proto = tuple.nested().find(CTA_TUPLE_PROTO)?.nested();
    let address = |v4, v6| ip.find(v4).or_else(|| ip.find(v6))?.ip();
    let port = |kind| proto.find(kind).and_then(|port| port.be16());
    let direction = Direction {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    };
    Some((Protocol(proto.find(CTA_PROTO_NUM)?.u8()?), direction))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sched::{CloneFlags, unshare};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::netlink;
    use crate::nft::{self, Chain, ChainType, CtState, Hook, Rule, Table, Transaction};

    fn entry(protocol: Protocol, port: u16) -> Entry {
        let direction = |source: [u8; 4], destination: [u8; 4], from, to| Direction {
            source: source.into(),
            destination: destination.into(),
            source_port: Some(from),
            destination_port: Some(to),
        };
        Entry {
            protocol,
            original: direction([192, 0, 2, 1], [192, 0, 2, 2], 40_000, port),
            reply: direction([10, 0, 0, 5], [192, 0, 2, 1], 53, 40_000),
            id: None,
            zone: None,
            original_tuple: Vec::new(),
        }
    }

    #[test]
    fn filters_want_everything_given() {
        let entry = entry(Protocol::UDP, 5353);
        let all = Filter::new(Family::V4);
        let own: IpAddr = [192, 0, 2, 2].into();
        for (filter, matches) in [
            (all, true),
            (Filter::new(Family::V6), false),
            (Filter { protocol: Some(Protocol::UDP), ..all }, true),
            (Filter { protocol: Some(Protocol::TCP), ..all }, false),
            (Filter { original_destination_port: Some(5353), ..all }, true),
            (Filter { original_destination_port: Some(53), ..all }, false),
            (Filter { original_destination: Some(own), ..all }, true),
            (Filter { original_source: Some(own), ..all }, false),
            (Filter { reply_source: Some([10, 0, 0, 5].into()), ..all }, true),
            (Filter { reply_source: Some(own), ..all }, false),
            (Filter { reply_source_port: Some(53), ..all }, true),
            (
                Filter { reply_source_port: Some(53), original_destination_port: Some(1), ..all },
                false,
            ),
        ] {
            assert_eq!(filter.matches(&entry), matches, "{filter:?}");
        }
        // A protocol without ports has none that could be equal.
        let portless = Direction { destination_port: None, ..entry.original };
        let entry = Entry { original: portless, ..entry };
        assert!(!Filter { original_destination_port: Some(5353), ..all }.matches(&entry));
    }

    /// The kernel itself leaves out what is not meant.
    #[test]
    fn the_kernel_filters() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: run as root");
            let table = Table::ip("t");
            let chain = Chain::base(&table, "out", ChainType::Filter, Hook::Output, 0);
            let mut rules = Transaction::new();
            rules.add(&table).add(&chain).add(Rule::new(&chain).ct_state(CtState::NEW).accept());
            nft::Socket::open().unwrap().commit(&rules).unwrap();
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("the ip command").success());
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            for port in [1, 2, 3, 5353] {
                // The port unreachable message comes back as an error later.
                let _ = client.send_to(b"x", ("127.0.0.1", port));
            }
            let socket = Socket::open(netlink::Protocol::Netfilter).unwrap();
            let listed = |filters: &[Filter]| {
                let mut question = message(GET, Family::V4, "list connections");
                narrow(&mut question, filters);
                let entries = socket.dump(question, |reply| parse(reply.body)).unwrap();
                entries.into_iter().filter(|entry| entry.protocol == Protocol::UDP).count()
            };
            let all = Filter::new(Family::V4);
            let udp = Filter { protocol: Some(Protocol::UDP), ..all };
            let tcp = Filter { protocol: Some(Protocol::TCP), ..all };
            let port = |port| Filter { original_destination_port: Some(port), ..udp };
            assert_eq!(listed(&[all]), 4);
            assert_eq!(listed(&[udp, tcp]), 4);
            assert_eq!(listed(&[udp]), 4);
            assert_eq!(listed(&[tcp]), 0);
            assert_eq!(listed(&[port(5353)]), 1);
            assert_eq!(listed(&[port(5353), port(2)]), 4);
            assert_eq!(listed(&[port(9)]), 0);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..300)) {
            if let Some(entry) = parse(&bytes) {
                let _ = Filter::new(Family::V4).matches(&entry);
            }
        }

        /// A delete always names its entry.
        #[test]
        fn what_is_parsed_has_a_tuple(
            parts in vec((1_u16..4, 1_u16..3, vec(any::<u8>(), 0..20)), 0..8),
        ) {
            let mut made = message(GET, Family::V4, "");
            for (tuple, part, payload) in parts {
                made.nest(tuple, |inner| {
                    inner.nest(part, |inner| {
                        inner.attr(1, &payload).attr(2, &payload);
                    });
                });
            }
            if let Some(entry) = parse(&made.as_bytes()[16..]) {
                prop_assert!(!entry.original_tuple.is_empty());
            }
        }
    }
}
