//! The kernel's expressions: a rule's statements as a program for nf_tables'
//! register machine, and the bytes of its instructions.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h at v6.18.

use crate::netlink::{Attr, Attrs, Message};

use super::rule::Verdict;

/// A 4-byte register, 0 to 15. Values start at one and take as many as they
/// need.
pub(crate) type Reg = u8;

/// Where an expression stores its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dest {
    Verdict,
    Reg(Reg),
}

/// `NFTA_EXPR_*`, `NFTA_LIST_ELEM`, `NFTA_DATA_*`, `NFTA_VERDICT_*`.
pub(super) const NAME: u16 = 1;
pub(super) const BODY: u16 = 2;
pub(crate) const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `NFT_META_*`
pub(crate) mod meta {
    pub(crate) const PROTOCOL: u32 = 1;
    pub(crate) const MARK: u32 = 3;
    pub(crate) const IIFNAME: u32 = 6;
    pub(crate) const OIFNAME: u32 = 7;
    pub(crate) const IIFTYPE: u32 = 8;
    pub(crate) const NFPROTO: u32 = 15;
    pub(crate) const L4PROTO: u32 = 16;
}

/// `NFT_CT_*`
pub(crate) mod ct {
    pub(crate) const STATE: u32 = 0;
    pub(crate) const STATUS: u32 = 2;
    pub(crate) const MARK: u32 = 3;
}

/// `NFT_PAYLOAD_*_HEADER`
pub(crate) mod base {
    pub(crate) const LINK: u32 = 0;
    pub(crate) const NETWORK: u32 = 1;
    pub(crate) const TRANSPORT: u32 = 2;
}

/// `NFT_CMP_*`; equality and difference have the same numbers in `NFT_RANGE_*`.
pub(crate) mod cmp {
    pub(crate) const EQ: u32 = 0;
    pub(crate) const NEQ: u32 = 1;
    pub(crate) const LTE: u32 = 3;
    pub(crate) const GTE: u32 = 5;
}

/// `NFT_NAT_*`
pub(crate) mod nat {
    pub(crate) const SNAT: u32 = 0;
    pub(crate) const DNAT: u32 = 1;
}

/// `NF_NAT_RANGE_*`, include/uapi/linux/netfilter/nf_nat.h.
pub(crate) mod range {
    pub(crate) const MAP_IPS: u32 = 1;
    pub(crate) const PROTO_SPECIFIED: u32 = 2;
    pub(crate) const PROTO_RANDOM: u32 = 4;
    pub(crate) const PERSISTENT: u32 = 8;
    pub(crate) const PROTO_RANDOM_FULLY: u32 = 16;
}

/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_*`
pub(crate) mod fib {
    pub(crate) const ADDRTYPE: u32 = 3;
    pub(crate) const SADDR: u32 = 1;
    pub(crate) const DADDR: u32 = 2;
}

/// One instruction. Only the forms that our statements compile to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta { key: u32, dreg: Reg },
    MetaSet { key: u32, sreg: Reg },
    Ct { key: u32, dreg: Reg },
    CtSet { key: u32, sreg: Reg },
    Payload { base: u32, offset: u32, len: u32, dreg: Reg },
    Fib { result: u32, flags: u32, dreg: Reg },
    Bitwise { sreg: Reg, dreg: Reg, mask: Vec<u8>, xor: Vec<u8> },
    Cmp { sreg: Reg, op: u32, data: Vec<u8> },
    Range { sreg: Reg, op: u32, from: Vec<u8>, to: Vec<u8> },
    Lookup { set: String, sreg: Reg, dest: Option<Dest>, inverted: bool },
    Immediate { dreg: Reg, data: Vec<u8> },
    Verdict(Verdict),
    Counter { packets: u64, bytes: u64 },
    Masquerade { flags: u32 },
    Redirect { port: Option<Reg>, flags: u32 },
    Nat { kind: u32, family: u32, address: Option<Reg>, port: Option<Reg>, flags: u32 },
}

/// The number of a register: those on 16-byte boundaries keep the old names.
fn number(reg: Reg) -> u32 {
    let reg = u32::from(reg);
    if reg.is_multiple_of(4) { 1 + reg / 4 } else { 8 + reg }
}

fn dest_from(number: u32) -> Option<Dest> {
    match number {
        0 => Some(Dest::Verdict),
        old @ 1..=4 => Reg::try_from((old - 1) * 4).ok().map(Dest::Reg),
        new @ 8..=23 => Reg::try_from(new - 8).ok().map(Dest::Reg),
        _ => None,
    }
}

fn reg_from(attr: Option<Attr<'_>>) -> Option<Reg> {
    match dest_from(attr?.be32()?)? {
        Dest::Reg(reg) => Some(reg),
        Dest::Verdict => None,
    }
}

/// A register attribute that may be missing; `None` if it is there but wrong.
#[expect(clippy::option_option, reason = "missing and malformed are different answers")]
fn optional_reg(attr: Option<Attr<'_>>) -> Option<Option<Reg>> {
    match attr {
        None => Some(None),
        attr => reg_from(attr).map(Some),
    }
}

/// Appends a value in the nested form of `struct nft_data`.
pub(crate) fn put_data(message: &mut Message, kind: u16, data: &[u8]) {
    message.nest(kind, |inner| {
        inner.attr(DATA_VALUE, data);
    });
}

/// Appends a verdict in the nested form of `struct nft_data`.
pub(crate) fn put_verdict(message: &mut Message, kind: u16, verdict: &Verdict) {
    let (code, chain): (i32, Option<&str>) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Continue => (-1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    message.nest(kind, |data| {
        data.nest(DATA_VERDICT, |inner| {
            inner.attr_be32(VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                inner.attr_str(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// The bytes in a nested `struct nft_data`.
pub(crate) fn data_of(attr: Option<Attr<'_>>) -> Option<Vec<u8>> {
    Some(attr?.nested().find(DATA_VALUE)?.payload.to_vec())
}

/// The verdict in a nested `struct nft_data`.
pub(crate) fn verdict_of(attr: Attr<'_>) -> Option<Verdict> {
    let verdict = attr.nested().find(DATA_VERDICT)?.nested();
    let chain = || Some(verdict.find(VERDICT_CHAIN)?.str()?.to_owned());
    match verdict.find(VERDICT_CODE)?.be32()?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -1 => Some(Verdict::Continue),
        -3 => Some(Verdict::Jump(chain()?)),
        -4 => Some(Verdict::Goto(chain()?)),
        -5 => Some(Verdict::Return),
        _ => None,
    }
}

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
            Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
            Expr::Payload { .. } => "payload",
            Expr::Fib { .. } => "fib",
            Expr::Bitwise { .. } => "bitwise",
            Expr::Cmp { .. } => "cmp",
            Expr::Range { .. } => "range",
            Expr::Lookup { .. } => "lookup",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Counter { .. } => "counter",
            Expr::Masquerade { .. } => "masq",
            Expr::Redirect { .. } => "redir",
            Expr::Nat { .. } => "nat",
        }
    }

    /// Appends the instruction as one element of a list of expressions.
    pub(crate) fn write(&self, message: &mut Message) {
        message.nest(LIST_ELEM, |element| {
            element.attr_str(NAME, self.name());
            element.nest(BODY, |body| self.write_body(body));
        });
    }

    fn write_body(&self, body: &mut Message) {
        match self {
            Expr::Meta { key, dreg } => {
                body.attr_be32(1, number(*dreg)).attr_be32(2, *key);
            }
            Expr::MetaSet { key, sreg } => {
                body.attr_be32(2, *key).attr_be32(3, number(*sreg));
            }
            Expr::Ct { key, dreg } => {
                body.attr_be32(2, *key).attr_be32(1, number(*dreg));
            }
            Expr::CtSet { key, sreg } => {
                body.attr_be32(2, *key).attr_be32(4, number(*sreg));
            }
            Expr::Payload { base, offset, len, dreg } => {
                body.attr_be32(1, number(*dreg)).attr_be32(2, *base);
                body.attr_be32(3, *offset).attr_be32(4, *len);
            }
            Expr::Fib { result, flags, dreg } => {
                body.attr_be32(3, *flags).attr_be32(2, *result).attr_be32(1, number(*dreg));
            }
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                body.attr_be32(1, number(*sreg)).attr_be32(2, number(*dreg));
                body.attr_be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                // NFT_BITWISE_MASK_XOR; kernels before 5.6 know nothing else
                // and ignore the attribute.
                body.attr_be32(6, 0);
                put_data(body, 4, mask);
                put_data(body, 5, xor);
            }
            Expr::Cmp { sreg, op, data } => {
                body.attr_be32(1, number(*sreg)).attr_be32(2, *op);
                put_data(body, 3, data);
            }
            Expr::Range { sreg, op, from, to } => {
                body.attr_be32(1, number(*sreg)).attr_be32(2, *op);
                put_data(body, 3, from);
                put_data(body, 4, to);
            }
            Expr::Lookup { set, sreg, dest, inverted } => {
                body.attr_str(1, set).attr_be32(2, number(*sreg));
                match dest {
                    Some(Dest::Verdict) => {
                        body.attr_be32(3, 0);
                    }
                    Some(Dest::Reg(reg)) => {
                        body.attr_be32(3, number(*reg));
                    }
                    None => {}
                }
                if *inverted {
                    body.attr_be32(5, 1);
                }
            }
            Expr::Immediate { dreg, data } => {
                body.attr_be32(1, number(*dreg));
                put_data(body, 2, data);
            }
            Expr::Verdict(verdict) => {
                body.attr_be32(1, 0);
                put_verdict(body, 2, verdict);
            }
            Expr::Counter { packets, bytes } => {
                body.attr_be64(1, *bytes).attr_be64(2, *packets);
            }
            Expr::Masquerade { flags } => {
                if *flags != 0 {
                    body.attr_be32(1, *flags);
                }
            }
            Expr::Redirect { port, flags } => {
                let mut flags = *flags;
                if let Some(port) = port {
                    body.attr_be32(1, number(*port));
                    flags |= range::PROTO_SPECIFIED;
                }
                if flags != 0 {
                    body.attr_be32(3, flags);
                }
            }
            Expr::Nat { kind, family, address, port, flags } => {
                body.attr_be32(1, *kind).attr_be32(2, *family);
                if let Some(address) = address {
                    body.attr_be32(3, number(*address));
                }
                if let Some(port) = port {
                    body.attr_be32(5, number(*port));
                }
                if *flags != 0 {
                    body.attr_be32(7, *flags);
                }
            }
        }
    }

    /// Reads one element of a list of expressions; `None` for an instruction,
    /// or a form of one, that is not ours.
    pub(crate) fn parse(element: Attr<'_>) -> Option<Expr> {
        let name = element.nested().find(NAME)?.str()?;
        // An expression without parameters has no body.
        let body = element.nested().find(BODY).map_or(Attrs::new(&[]), |body| body.nested());
        let be32 = |kind| body.find(kind).and_then(|attr| attr.be32());
        let flags = |kind| be32(kind).unwrap_or(0);
        Some(match name {
            "meta" => match (body.find(1), body.find(3)) {
                (dreg @ Some(_), None) => Expr::Meta { key: be32(2)?, dreg: reg_from(dreg)? },
                (None, sreg) => Expr::MetaSet { key: be32(2)?, sreg: reg_from(sreg)? },
                _ => return None,
            },
            // A direction (3) makes it another field.
            "ct" if body.find(3).is_none() => match (body.find(1), body.find(4)) {
                (dreg @ Some(_), None) => Expr::Ct { key: be32(2)?, dreg: reg_from(dreg)? },
                (None, sreg) => Expr::CtSet { key: be32(2)?, sreg: reg_from(sreg)? },
                _ => return None,
            },
            "payload" if body.find(5).is_none() => Expr::Payload {
                dreg: reg_from(body.find(1))?,
                base: be32(2)?,
                offset: be32(3)?,
                len: be32(4)?,
            },
            "fib" => Expr::Fib { dreg: reg_from(body.find(1))?, result: be32(2)?, flags: be32(3)? },
            "bitwise" if flags(6) == 0 => Expr::Bitwise {
                sreg: reg_from(body.find(1))?,
                dreg: reg_from(body.find(2))?,
                mask: data_of(body.find(4))?,
                xor: data_of(body.find(5))?,
            },
            "cmp" => Expr::Cmp {
                sreg: reg_from(body.find(1))?,
                op: be32(2)?,
                data: data_of(body.find(3))?,
            },
            "range" => Expr::Range {
                sreg: reg_from(body.find(1))?,
                op: be32(2)?,
                from: data_of(body.find(3))?,
                to: data_of(body.find(4))?,
            },
            "lookup" => Expr::Lookup {
                set: body.find(1)?.str()?.to_owned(),
                sreg: reg_from(body.find(2))?,
                dest: match body.find(3) {
                    Some(attr) => Some(dest_from(attr.be32()?)?),
                    None => None,
                },
                inverted: match flags(5) {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            },
            "immediate" => match dest_from(be32(1)?)? {
                Dest::Verdict => Expr::Verdict(verdict_of(body.find(2)?)?),
                Dest::Reg(dreg) => Expr::Immediate { dreg, data: data_of(body.find(2))? },
            },
            "counter" => {
                Expr::Counter { bytes: body.find(1)?.be64()?, packets: body.find(2)?.be64()? }
            }
            // Port ranges (2, 3) are not ours.
            "masq" if body.find(2).is_none() => Expr::Masquerade { flags: nat_flags(flags(1))? },
            "redir" => {
                let port = optional_reg(body.find(1))?;
                single(port, body.find(2))?;
                Expr::Redirect { port, flags: nat_flags(flags(3))? }
            }
            "nat" => {
                let address = optional_reg(body.find(3))?;
                single(address, body.find(4))?;
                let port = optional_reg(body.find(5))?;
                single(port, body.find(6))?;
                Expr::Nat {
                    kind: be32(1)?,
                    family: be32(2)?,
                    address,
                    port,
                    flags: nat_flags(flags(7))?,
                }
            }
            _ => return None,
        })
    }
}

/// Refuses a range: the kernel repeats the lower end as the upper where only
/// one was given.
fn single(min: Option<Reg>, max: Option<Attr<'_>>) -> Option<()> {
    match max {
        None => Some(()),
        max => (reg_from(max) == min).then_some(()),
    }
}

/// Drops the flags that the kernel derives from the registers, refuses those
/// we do not know.
fn nat_flags(flags: u32) -> Option<u32> {
    let ours = range::PROTO_RANDOM | range::PERSISTENT | range::PROTO_RANDOM_FULLY;
    let derived = range::MAP_IPS | range::PROTO_SPECIFIED;
    (flags & !(ours | derived) == 0).then_some(flags & ours)
}
