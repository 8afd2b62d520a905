//! Rules of iptables-nft where they are kept: in tables of nf_tables.
//!
//! It writes what nf_tables can express natively, and the rest as matches and
//! targets of iptables (`nft_compat`), among them every comment. Such rules
//! come back as [`Statement::Opaque`]; what follows finds its way in them.

use std::net::IpAddr;

use crate::error::Result;
use crate::family::Family;
use crate::netlink::{Attr, Attrs};
use crate::nft::{
    self, Field, Match, Op, Operand, Protocol, Rule, Socket, Statement, Transaction, Value, Verdict,
};

/// The table of nf_tables in which iptables-nft keeps its table `name`.
#[must_use]
pub fn nft_table(family: Family, name: &str) -> nft::Table {
    match family {
        Family::V4 => nft::Table::ip(name),
        Family::V6 => nft::Table::ip6(name),
    }
}

/// The tables of iptables, one for each `iptable_*.c` in net/ipv4/netfilter at v6.18.
const TABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Whether a transaction changes a table that [`nft_table`] answers with.
#[must_use]
pub fn is_touched_by(transaction: &Transaction) -> bool {
    transaction.operations().iter().any(|operation| {
        let object = &operation.object;
        matches!(object.family(), nft::Family::Ip | nft::Family::Ip6)
            && TABLES.contains(&object.table())
    })
}

/// What a rule of iptables-nft decides: the verdict its `-j` or `-g` stands
/// for. `None` for targets that are not verdicts, such as `MASQUERADE`.
#[must_use]
pub fn verdict_of(rule: &Rule) -> Option<Verdict> {
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Verdict(verdict) => Some(verdict.clone()),
        Statement::Opaque(bytes) => expressions(bytes).find_map(|(name, data)| {
            // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT
            (name == "immediate").then(|| verdict(data.find(2)?.nested().find(2)?))?
        }),
        _ => None,
    })
}

/// Whether a rule of iptables-nft gives packets another source address than their
/// link's (`-j SNAT`, `-j NETMAP`), which nothing after it changes.
#[must_use]
pub fn rewrites_source(rule: &Rule) -> bool {
    /// `NFT_NAT_SNAT`, in `NFTA_NAT_TYPE`.
    const SNAT: u32 = 0;
    rule.statements.iter().any(|statement| match statement {
        Statement::Snat(..) => true,
        Statement::Opaque(bytes) => expressions(bytes).any(|(name, data)| match name {
            // NFTA_TARGET_NAME
            "target" => {
                let target = data.find(1).and_then(|attr| attr.str());
                matches!(target, Some("SNAT" | "NETMAP"))
            }
            "nat" => data.find(1).and_then(|attr| attr.be32()) == Some(SNAT),
            _ => false,
        }),
        _ => false,
    })
}

/// The comment of a rule of iptables-nft (`-m comment --comment`).
#[must_use]
pub fn comment_of(rule: &Rule) -> Option<String> {
    let in_match = || {
        rule.statements.iter().find_map(|statement| match statement {
            Statement::Opaque(bytes) => expressions(bytes).find_map(|(name, data)| {
                // NFTA_MATCH_NAME, NFTA_MATCH_INFO: struct xt_comment_info is
                // the text.
                let is_comment = name == "match" && data.find(1)?.str() == Some("comment");
                is_comment.then(|| data.find(3).map(text))?
            }),
            _ => None,
        })
    };
    rule.comment.clone().or_else(in_match)
}

/// The source address a rule of iptables-nft is for (`-s ADDRESS`); `None` for
/// other matches, prefixes among them.
#[must_use]
pub fn source_of(rule: &Rule) -> Option<IpAddr> {
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Match(Match {
            fields,
            op: Op::Eq,
            operand: Operand::Value(Value::Net(net)),
        }) if matches!(fields.as_slice(), [Field::IpSaddr | Field::Ip6Saddr]) => {
            (net.prefix() == Family::of(net.ip()).bits()).then(|| net.ip())
        }
        Statement::Opaque(bytes) => opaque_source(bytes),
        _ => None,
    })
}

/// `payload load 4b @ network header + 12`, then `cmp eq`.
fn opaque_source(bytes: &[u8]) -> Option<IpAddr> {
    /// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_CMP_EQ`.
    const NETWORK_HEADER: u32 = 1;
    const EQ: u32 = 0;
    let mut steps = expressions(bytes);
    let is_source = |(name, data): (&str, Attrs<'_>)| {
        // NFTA_PAYLOAD_BASE, _OFFSET, _LEN; where the source stands in the
        // headers of IPv4 and IPv6.
        let number = |kind| data.find(kind)?.be32();
        let place = (number(2)?, number(3)?, number(4)?);
        let wanted = [(NETWORK_HEADER, 12, 4), (NETWORK_HEADER, 8, 16)];
        (name == "payload" && wanted.contains(&place)).then_some(())
    };
    steps.by_ref().find_map(is_source)?;
    let (name, data) = steps.next()?;
    // NFTA_CMP_OP, NFTA_CMP_DATA, NFTA_DATA_VALUE
    let equal = name == "cmp" && data.find(2)?.be32()? == EQ;
    equal.then(|| data.find(3)?.nested().find(1)?.ip())?
}

/// What a rule sends its packets to, as far as it names it: `-p PROTOCOL -d
/// ADDRESS --dport PORT`, or `--dports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its protocol.
    pub protocol: Protocol,
    /// One address; `None` for other matches, prefixes among them.
    pub address: Option<IpAddr>,
    /// Each of its ports.
    pub ports: Vec<u16>,
}

/// The destination a rule is for, of iptables-nft or of anybody else; `None`
/// where it names no protocol and port.
#[must_use]
pub fn destination_of(rule: &Rule) -> Option<Destination> {
    let (mut protocol, mut address, mut ports) = (None, None, Vec::new());
    for statement in &rule.statements {
        let (fields, value) = match statement {
            Statement::Match(Match { fields, op: Op::Eq, operand: Operand::Value(value) }) => {
                (fields.as_slice(), value)
            }
            Statement::Opaque(bytes) => return opaque_destination(bytes),
            _ => continue,
        };
        match (fields, value) {
            ([Field::L4proto], Value::Protocol(named)) => protocol = Some(*named),
            ([Field::Dport(named)], Value::Port(port)) => {
                protocol = named.or(protocol);
                ports.push(*port);
            }
            ([Field::IpDaddr | Field::Ip6Daddr], Value::Net(net)) => {
                address = (net.prefix() == Family::of(net.ip()).bits()).then(|| net.ip());
            }
            _ => {}
        }
    }
    Some(Destination { protocol: protocol?, address, ports }).filter(|to| !to.ports.is_empty())
}

fn opaque_destination(bytes: &[u8]) -> Option<Destination> {
    #[derive(Clone, Copy)]
    enum Loaded {
        Protocol,
        Address,
        Port,
        Other,
    }
    let (mut protocol, mut address, mut ports) = (None, None, Vec::new());
    let mut loaded = Loaded::Other;
    for (name, data) in expressions(bytes) {
        let number = |kind| data.find(kind).and_then(|attr| attr.be32());
        match name {
            // NFTA_META_KEY: NFT_META_L4PROTO
            "meta" if number(2) == Some(16) => loaded = Loaded::Protocol,
            // NFTA_PAYLOAD_BASE, _OFFSET, _LEN in the headers of IPv4, of IPv6
            // and of the protocols with ports.
            "payload" => {
                loaded = match (number(2), number(3), number(4)) {
                    (Some(1), Some(9), Some(1)) | (Some(1), Some(6), Some(1)) => Loaded::Protocol,
                    (Some(1), Some(16), Some(4)) | (Some(1), Some(24), Some(16)) => Loaded::Address,
                    (Some(2), Some(2), Some(2)) => Loaded::Port,
                    _ => Loaded::Other,
                };
            }
            // NFTA_CMP_OP: NFT_CMP_EQ; NFTA_CMP_DATA, NFTA_DATA_VALUE
            "cmp" if number(2) == Some(0) => {
                let value = data.find(3).and_then(|attr| attr.nested().find(1));
                let is = value.map(|value| value.payload).unwrap_or_default();
                match (loaded, is) {
                    (Loaded::Protocol, [number]) => protocol = Some(Protocol(*number)),
                    (Loaded::Port, [high, low]) => ports.push(u16::from_be_bytes([*high, *low])),
                    (Loaded::Address, _) => address = value.and_then(|value| value.ip()),
                    _ => {}
                }
            }
            // NFTA_MATCH_NAME, NFTA_MATCH_INFO
            "match" => {
                let info = data.find(3).map(|attr| attr.payload).unwrap_or_default();
                let kind = data.find(1).and_then(|attr| attr.str()).unwrap_or_default();
                ports.extend(ports_of_match(kind, info));
            }
            _ => loaded = Loaded::Other,
        }
    }
    Some(Destination { protocol: protocol?, address, ports }).filter(|to| !to.ports.is_empty())
}

/// Destination ports in what iptables hands to the kernel, in its byte order:
/// `struct xt_tcp` and `xt_udp` begin with the range of sources, then that of
/// destinations, `struct xt_sctp_info` the other way round (xt_tcpudp.h and
/// xt_sctp.h in include/uapi/linux/netfilter); `struct xt_multiport_v1` with
/// its kind, a number of ports, and these (xt_multiport.h).
fn ports_of_match(kind: &str, info: &[u8]) -> Vec<u16> {
    /// `XT_MULTIPORT_SOURCE`
    const SOURCES: u8 = 0;
    let ports = |from: usize, count: usize| -> Vec<u16> {
        let bytes = info.get(from..).unwrap_or_default();
        let pairs = bytes.as_chunks::<2>().0.iter();
        pairs.take(count).map(|pair| u16::from_ne_bytes(*pair)).collect()
    };
    let range = match (kind, info) {
        ("tcp" | "udp", _) => ports(4, 2),
        ("sctp", _) => ports(0, 2),
        ("multiport", [kind, count, ..]) if *kind != SOURCES => return ports(2, (*count).into()),
        _ => return Vec::new(),
    };
    match range.as_slice() {
        [from, to] if from == to => vec![*from],
        _ => Vec::new(),
    }
}

/// Where a rule rewrites the destination to (`-j DNAT --to-destination ADDRESS:PORT`),
/// of iptables-nft or of anybody else; `None` where that is not one address and port.
#[must_use]
pub fn dnat_of(family: Family, rule: &Rule) -> Option<(IpAddr, u16)> {
    rule.statements.iter().find_map(|statement| match statement {
        Statement::Dnat(nft::NatTarget::Address(address, port), _) => Some((*address, (*port)?)),
        Statement::Opaque(bytes) => expressions(bytes).find_map(|(name, data)| {
            // NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO
            let is_dnat = name == "target" && data.find(1)?.str() == Some("DNAT");
            is_dnat.then(|| range_of(family, data.find(2)?.be32()?, data.find(3)?.payload))?
        }),
        _ => None,
    })
}

/// `struct nf_nat_ipv4_multi_range_compat` of revision 0, and what the next two begin
/// with, `struct nf_nat_range` (include/uapi/linux/netfilter/nf_nat.h).
fn range_of(family: Family, revision: u32, info: &[u8]) -> Option<(IpAddr, u16)> {
    let (first, last, ports) = match revision {
        0 => (8, 12, 16),
        _ => (4, 20, 36),
    };
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = info.get(at..)?;
        Some(match family {
            Family::V4 => <[u8; 4]>::try_from(bytes.get(..4)?).ok()?.into(),
            Family::V6 => <[u8; 16]>::try_from(bytes.get(..16)?).ok()?.into(),
        })
    };
    let (address, last) = (address(first)?, address(last)?);
    let &[high, low, ref same @ ..] = info.get(ports..ports + 4)? else { return None };
    let port = u16::from_be_bytes([high, low]);
    (address == last && same == [high, low] && port != 0).then_some((address, port))
}

/// Plans the removal of chains of iptables-nft and of every rule in `callers`
/// that jumps to one of them; nothing for chains that are not there. Answers
/// whether there is anything to remove.
///
/// Like `iptables-nft -D CALLER ..`, `-F CHAIN`, `-X CHAIN`, without executing
/// it.
///
/// # Errors
///
/// Those of reading the table.
pub fn plan_removal(
    socket: &Socket,
    table: &nft::Table,
    chains: &[&str],
    callers: &[&str],
    out: &mut Transaction,
) -> Result<bool> {
    let mut there = Vec::new();
    for name in chains {
        there.extend(socket.chain(table, name)?);
    }
    if there.is_empty() {
        return Ok(false);
    }
    for caller in callers {
        let caller = nft::Chain::regular(table, *caller);
        for rule in socket.rules(&caller)? {
            let (Some(Verdict::Jump(to) | Verdict::Goto(to)), Some(handle)) =
                (verdict_of(&rule), rule.handle)
            else {
                continue;
            };
            if there.iter().any(|chain| chain.name == to) {
                out.delete(Rule::at(&caller, handle));
            }
        }
    }
    // All are emptied before the first goes: one may jump to another.
    for chain in &there {
        out.flush(nft::Chain::regular(table, chain.name.clone()));
    }
    for chain in &there {
        out.delete(nft::Chain::regular(table, chain.name.clone()));
    }
    Ok(true)
}

/// Name and data of each expression in `NFTA_RULE_EXPRESSIONS`.
pub(super) fn expressions(bytes: &[u8]) -> impl Iterator<Item = (&str, Attrs<'_>)> {
    Attrs::new(bytes).filter_map(|element| {
        // NFTA_EXPR_NAME, NFTA_EXPR_DATA
        let name = element.nested().find(1)?;
        let data = element.nested().find(2)?;
        Some((name.str()?, data.nested()))
    })
}

fn verdict(attr: Attr<'_>) -> Option<Verdict> {
    // NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN; the codes are those of
    // `enum nft_verdicts`, include/uapi/linux/netfilter/nf_tables.h at v6.18.
    let chain = || attr.nested().find(2).map(text);
    match attr.nested().find(1)?.be32()?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -1 => Some(Verdict::Continue),
        -3 => Some(Verdict::Jump(chain()?)),
        -4 => Some(Verdict::Goto(chain()?)),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}

pub(super) fn text(attr: Attr<'_>) -> String {
    attr.text_lossy().into_owned()
}
