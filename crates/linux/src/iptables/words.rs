//! Rules of iptables-nft in the words of `iptables-save`.
//!
//! What is known here are the matches and targets that the plugins' own rules
//! consist of. A rule with anything else has the word [`NOT_UNDERSTOOD`] and its
//! jump: words are never guessed.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use super::batch::Rule;
use super::stored::{comment_of, expressions, text, verdict_of};
use crate::netlink::{Attr, Attrs, ip_from_bytes};
use crate::nft::{self, Family, Field, Match, Op, Operand, Protocol, Statement, Value, Verdict};

/// Stands for everything in a rule that has no words here.
const NOT_UNDERSTOOD: &str = "?";

/// Whether there are words for all of a rule.
pub(super) fn is_understood(rule: &Rule) -> bool {
    rule.as_words().iter().all(|word| word != NOT_UNDERSTOOD)
}

/// A rule's words; see the top of this file.
pub(super) fn words_of(rule: &nft::Rule) -> Rule {
    let mut looks = Looks::of(rule.family);
    for statement in &rule.statements {
        let understood = match statement {
            Statement::Opaque(bytes) => looks.read(bytes),
            Statement::Match(found) => looks.take(found),
            Statement::Counter { .. } | Statement::Verdict(_) => Some(()),
            _ => None,
        };
        looks.not_understood |= understood.is_none();
    }
    let mut words = Rule::default();
    for (option, found) in OPTIONS.iter().zip(&looks.options) {
        let Some((op, value)) = found else { continue };
        words = words.words(if *op == Op::Ne { "!" } else { "" }).word(*option).word(value);
    }
    words = words.then(&looks.matches);
    if looks.not_understood {
        words = words.word(NOT_UNDERSTOOD);
    }
    if looks.matches.comment_text().is_none()
        && let Some(comment) = comment_of(rule)
    {
        words = words.comment(comment);
    }
    match verdict_of(rule) {
        None => words.then(&looks.target),
        Some(Verdict::Goto(chain)) => words.word("-g").word(chain),
        Some(Verdict::Jump(chain)) => words.jump(chain),
        Some(Verdict::Accept) => words.jump("ACCEPT"),
        Some(Verdict::Drop) => words.jump("DROP"),
        Some(Verdict::Return) => words.jump("RETURN"),
        Some(_) => words.word(NOT_UNDERSTOOD),
    }
}

/// What a rule looks at.
struct Looks {
    family: Family,
    /// In the order `iptables-save` prints them.
    options: [Option<(Op, String)>; 5],
    protocol: Option<Protocol>,
    /// In the rule's own order.
    matches: Rule,
    target: Rule,
    not_understood: bool,
}

const OPTIONS: [&str; 5] = ["-s", "-d", "-i", "-o", "-p"];
const SOURCE: usize = 0;
const DESTINATION: usize = 1;
const IN: usize = 2;
const OUT: usize = 3;
const PROTOCOL: usize = 4;

/// What an expression has loaded, to be compared.
#[derive(Clone, Copy)]
enum Loaded {
    /// Of [`OPTIONS`].
    Option(usize),
    Port,
    Mark,
}

impl Looks {
    fn of(family: Family) -> Looks {
        Looks {
            family,
            options: Default::default(),
            protocol: None,
            matches: Rule::default(),
            target: Rule::default(),
            not_understood: false,
        }
    }

    fn set(&mut self, option: usize, op: Op, value: String) -> Option<()> {
        match self.options.get_mut(option) {
            Some(free @ None) => *free = Some((op, value)),
            _ => return None,
        }
        Some(())
    }

    fn set_protocol(&mut self, op: Op, protocol: Protocol) -> Option<()> {
        if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol) {
            return None;
        }
        if op == Op::Eq {
            self.protocol = Some(protocol);
        }
        self.set(PROTOCOL, op, protocol.to_string())
    }

    fn add(&mut self, words: &str) {
        self.matches = std::mem::take(&mut self.matches).words(words);
    }

    fn add_port(&mut self, op: Op, port: u16) -> Option<()> {
        let protocol = self.protocol.filter(|_| op == Op::Eq)?;
        self.add(&format!("-m {protocol} --dport {port}"));
        Some(())
    }

    fn add_mark(&mut self, op: Op, mark: u32, mask: u32) -> Option<()> {
        match (op, mask) {
            (Op::Eq, u32::MAX) => self.add(&format!("-m mark --mark {mark:#x}")),
            (Op::Eq, _) => self.add(&format!("-m mark --mark {mark:#x}/{mask:#x}")),
            (Op::Ne, _) => return None,
        }
        Some(())
    }

    /// What this crate reads of itself.
    fn take(&mut self, found: &Match) -> Option<()> {
        let op = found.op;
        let value = match &found.operand {
            Operand::Value(value) => value,
            Operand::Masked { mask, value } if found.fields == [Field::Mark] => {
                return self.add_mark(op, *value, *mask);
            }
            _ => return None,
        };
        match (found.fields.as_slice(), value) {
            ([Field::IpSaddr | Field::Ip6Saddr], Value::Net(net)) => {
                self.set(SOURCE, op, net.to_string())
            }
            ([Field::IpDaddr | Field::Ip6Daddr], Value::Net(net)) => {
                self.set(DESTINATION, op, net.to_string())
            }
            ([Field::Iifname], Value::Ifname(name)) => self.set(IN, op, name.clone()),
            ([Field::Oifname], Value::Ifname(name)) => self.set(OUT, op, name.clone()),
            ([Field::L4proto], Value::Protocol(protocol)) => self.set_protocol(op, *protocol),
            ([Field::Dport(named)], Value::Port(port)) => {
                // It goes without saying where the field names it.
                if let (Some(protocol), None) = (named, self.protocol) {
                    self.set_protocol(Op::Eq, *protocol)?;
                }
                self.add_port(op, *port)
            }
            ([Field::Mark], Value::Mark(mark)) => self.add_mark(op, *mark, u32::MAX),
            _ => None,
        }
    }

    /// What it does not, as there is a match or a target of iptables in it.
    fn read(&mut self, bytes: &[u8]) -> Option<()> {
        let (mut loaded, mut mask) = (None, None);
        let mut all = Some(());
        for (name, data) in expressions(bytes) {
            let understood = match name {
                "counter" | "immediate" => Some(()),
                "payload" | "meta" => {
                    (loaded, mask) = (self.loaded(name, data), None);
                    loaded.map(drop)
                }
                "bitwise" => {
                    mask = mask_of(data);
                    mask.map(drop)
                }
                "cmp" => loaded.take().and_then(|what| self.compare(what, mask.take(), data)),
                "match" => self.read_match(data),
                "target" => target_of(self.family, data).map(|target| self.target = target),
                _ => None,
            };
            all = all.and(understood);
        }
        all
    }

    fn loaded(&self, name: &str, data: Attrs<'_>) -> Option<Loaded> {
        let number = |kind| data.find(kind).and_then(|attr| attr.be32());
        if name == "meta" {
            // NFTA_META_KEY: NFT_META_MARK, _IIFNAME, _OIFNAME, _L4PROTO
            return match number(2)? {
                3 => Some(Loaded::Mark),
                6 => Some(Loaded::Option(IN)),
                7 => Some(Loaded::Option(OUT)),
                16 => Some(Loaded::Option(PROTOCOL)),
                _ => None,
            };
        }
        // NFTA_PAYLOAD_BASE: NFT_PAYLOAD_NETWORK_HEADER, _TRANSPORT_HEADER; _OFFSET,
        // _LEN. Of an address the first bytes, where its prefix has no more.
        let v4 = self.family == Family::Ip;
        match (number(2)?, number(3)?, number(4)?) {
            (1, 9, 1) if v4 => Some(Loaded::Option(PROTOCOL)),
            (1, 12, 1..=4) if v4 => Some(Loaded::Option(SOURCE)),
            (1, 16, 1..=4) if v4 => Some(Loaded::Option(DESTINATION)),
            (1, 6, 1) if !v4 => Some(Loaded::Option(PROTOCOL)),
            (1, 8, 1..=16) if !v4 => Some(Loaded::Option(SOURCE)),
            (1, 24, 1..=16) if !v4 => Some(Loaded::Option(DESTINATION)),
            (2, 2, 2) => Some(Loaded::Port),
            _ => None,
        }
    }

    fn compare(&mut self, what: Loaded, mask: Option<&[u8]>, data: Attrs<'_>) -> Option<()> {
        // NFTA_CMP_OP: NFT_CMP_EQ, NFT_CMP_NEQ; NFTA_CMP_DATA, NFTA_DATA_VALUE
        let op = match data.find(2)?.be32()? {
            0 => Op::Eq,
            1 => Op::Ne,
            _ => return None,
        };
        let value = data.find(3)?.nested().find(1)?;
        match (what, mask) {
            (Loaded::Option(at @ (SOURCE | DESTINATION)), mask) => {
                let network = network_of(self.family, value.payload, mask)?;
                self.set(at, op, network.to_string())
            }
            (Loaded::Mark, mask) => {
                let mask = mask.map_or(Some(u32::MAX), |mask| u32_at(mask, 0))?;
                self.add_mark(op, value.u32()?, mask)
            }
            (_, Some(_)) => None,
            (Loaded::Option(PROTOCOL), None) => self.set_protocol(op, Protocol(value.u8()?)),
            (Loaded::Option(at), None) => self.set(at, op, name_of(value)?),
            (Loaded::Port, None) => self.add_port(op, value.be16()?),
        }
    }

    /// A match of iptables: `struct xt_NAME_info` and the like in
    /// include/uapi/linux/netfilter at v6.18, in the machine's byte order.
    fn read_match(&mut self, data: Attrs<'_>) -> Option<()> {
        // NFTA_MATCH_NAME, _REV, _INFO
        let info = data.find(3)?;
        match (data.find(1)?.str()?, data.find(2)?.be32()?) {
            ("comment", 0) => {
                self.matches = std::mem::take(&mut self.matches).comment(text(info));
            }
            ("conntrack", _) if is_answer(info.payload) => {
                self.add("-m conntrack --ctstate RELATED,ESTABLISHED");
            }
            ("tcp" | "udp", 0) => self.add_port(Op::Eq, port_of_match(info.payload)?)?,
            ("sctp", 0) => self.add_port(Op::Eq, sctp_port(info.payload)?)?,
            ("multiport", 1) => {
                let ports: Vec<String> =
                    multiport(info.payload)?.iter().map(u16::to_string).collect();
                self.add(&format!("-m multiport --dports {}", ports.join(",")));
            }
            // The source's type, the destination's: RTN_LOCAL; flags.
            ("addrtype", 1) => match u16s(info.payload).as_slice() {
                [0, 4, rest @ ..] if rest.iter().all(|n| *n == 0) => {
                    self.add("-m addrtype --dst-type LOCAL");
                }
                _ => return None,
            },
            // The mark, its mask, whether it is to be another.
            ("mark", 1) if info.payload.get(8) == Some(&0) => {
                self.add_mark(Op::Eq, u32_at(info.payload, 0)?, u32_at(info.payload, 4)?)?;
            }
            _ => return None,
        }
        Some(())
    }
}

/// The mask of what was loaded.
fn mask_of(data: Attrs<'_>) -> Option<&[u8]> {
    // NFTA_BITWISE_MASK, _XOR, NFTA_DATA_VALUE; NFTA_BITWISE_OP is not there, or
    // NFT_BITWISE_MASK_XOR.
    let value = |kind| data.find(kind)?.nested().find(1).map(|value| value.payload);
    let masks = data.find(6).is_none_or(|op| op.be32() == Some(0));
    let keeps = value(5)?.iter().all(|byte| *byte == 0);
    value(4).filter(|_| masks && keeps)
}

/// A network of the bytes that are looked at, and of their mask.
fn network_of(family: Family, bytes: &[u8], mask: Option<&[u8]>) -> Option<IpNetwork> {
    let ones: u32 = match mask {
        None => u32::try_from(bytes.len()).ok()? * 8,
        Some(mask) => mask.iter().map(|byte| byte.count_ones()).sum(),
    };
    let mut whole = bytes.to_vec();
    whole.resize(if family == Family::Ip { 4 } else { 16 }, 0);
    let network = IpNetwork::new(ip_from_bytes(&whole)?, u8::try_from(ones).ok()?).ok()?;
    // A mask may have holes, and be no prefix.
    let is_prefix = mask.is_none_or(|mask| match network.mask() {
        std::net::IpAddr::V4(wanted) => wanted.octets().starts_with(mask),
        std::net::IpAddr::V6(wanted) => wanted.octets().starts_with(mask),
    });
    is_prefix.then_some(network)
}

/// A whole name, which ends with NUL; without, it is the beginning of names.
fn name_of(value: Attr<'_>) -> Option<String> {
    let end = value.payload.iter().position(|byte| *byte == 0)?;
    let name = value.payload.get(..end)?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Whether a match is `--ctstate RELATED,ESTABLISHED` and nothing more: `struct
/// xt_conntrack_mtinfo3` (include/uapi/linux/netfilter/xt_conntrack.h at v6.18),
/// 146 bytes in: `match_flags`, `invert_flags`, `state_mask`.
fn is_answer(info: &[u8]) -> bool {
    /// `XT_CONNTRACK_STATE`, and `XT_CONNTRACK_STATE_ALIAS` of `-m state`.
    const STATE: [u16; 2] = [1, 1 | 1 << 13];
    /// `XT_CONNTRACK_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
    const ANSWER: u16 = 2 | 4;
    let numbers = u16s(info.get(146..152).unwrap_or_default());
    matches!(numbers.as_slice(), [flags, 0, ANSWER] if STATE.contains(flags))
}

/// `struct xt_tcp` and `xt_udp`: the range of sources, that of destinations, and
/// what else may be looked at.
fn port_of_match(info: &[u8]) -> Option<u16> {
    match u16s(info).as_slice() {
        [0, u16::MAX, from, to, rest @ ..] if from == to && rest.iter().all(|n| *n == 0) => {
            Some(*from)
        }
        _ => None,
    }
}

/// `struct xt_sctp_info`: the range of destinations first; what is looked at, and
/// what is to be otherwise, in its last two numbers.
fn sctp_port(info: &[u8]) -> Option<u16> {
    /// `XT_SCTP_DEST_PORTS`
    const PORTS: u32 = 2;
    let looks_at = (u32_at(info, 284)?, u32_at(info, 288)?);
    match u16s(info).as_slice() {
        [from, to, ..] if from == to && looks_at == (PORTS, 0) => Some(*from),
        _ => None,
    }
}

/// `struct xt_multiport_v1`: its kind, a number of ports, these, whether each is the
/// beginning of a range, whether it is to be another.
fn multiport(info: &[u8]) -> Option<Vec<u16>> {
    /// `XT_MULTIPORT_DESTINATION`, `XT_MULTI_PORTS`
    const DESTINATION: u8 = 1;
    const MOST: usize = 15;
    let (head, rest) = info.split_at_checked(2 + 2 * MOST)?;
    let [DESTINATION, count, ports @ ..] = head else { return None };
    let plain = rest.iter().all(|byte| *byte == 0);
    u16s(ports).get(..usize::from(*count)).filter(|_| plain).map(<[u16]>::to_vec)
}

/// A target of iptables, as [`Looks::read_match`].
fn target_of(family: Family, data: Attrs<'_>) -> Option<Rule> {
    // NFTA_TARGET_NAME, _REV, _INFO
    let info = data.find(3)?.payload;
    match (data.find(1)?.str()?, data.find(2)?.be32()?) {
        // IPv4's has a number of ranges, of which there is one, without anything.
        ("MASQUERADE", 0) if u32_at(info, 0)? <= 1 && info.iter().skip(4).all(|b| *b == 0) => {
            Some(Rule::new("-j MASQUERADE"))
        }
        ("MARK", 2) => {
            let (mark, mask) = (u32_at(info, 0)?, u32_at(info, 4)?);
            Some(Rule::new(&format!("-j MARK --set-xmark {mark:#x}/{mask:#x}")))
        }
        ("DNAT", 2) => {
            let to = range_of(family, info)?;
            Some(Rule::new(&format!("-j DNAT --to-destination {to}")))
        }
        _ => None,
    }
}

/// The one address and port of a `struct nf_nat_range2` (nf_nat.h): flags, the
/// lowest address, the highest, the lowest port, the highest, in network byte order.
fn range_of(family: Family, info: &[u8]) -> Option<SocketAddr> {
    /// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED`
    const BOTH: u32 = 1 | 2;
    let (low, high) = (info.get(4..20)?, info.get(20..36)?);
    let ([low_port, high_port], _) = info.get(36..)?.as_chunks::<2>().0.split_first_chunk()?;
    if u32_at(info, 0)? != BOTH || low != high || low_port != high_port {
        return None;
    }
    let address = low.get(..if family == Family::Ip { 4 } else { 16 })?;
    Some(SocketAddr::new(ip_from_bytes(address)?, u16::from_be_bytes(*low_port)))
}

fn u16s(bytes: &[u8]) -> Vec<u16> {
    bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_ne_bytes(*pair)).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}
