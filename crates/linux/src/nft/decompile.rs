//! From the kernel's expressions back to statements.
//!
//! Reading is lax, proof is strict: statements are guessed from the
//! instructions, compiled again, and believed only if the same instructions
//! come out. Everything else stays opaque.

use super::chain::Family;
use super::compile::{Known, compile, load};
use super::expr::{Dest, Expr, base, cmp, ct, meta, nat, range};
use super::rule::{Field, MarkChange, Match, NatFlags, NatTarget, Op, Operand, Statement};
use super::set::{Protocol, Type, Value};
use super::value::{be16, decode, ends_of, ne32, prefix_of};

/// The statements that compile to `exprs`, as nft would print them; `None` if
/// there are none.
pub(crate) fn decompile(family: Family, exprs: &[Expr]) -> Option<Vec<Statement>> {
    let guess = Reader::default().read(exprs)?;
    let shown = as_shown(family, &guess);
    // The dependencies nft hides are put back by the compiler, unless a rule
    // has them in an unusual place.
    [shown, guess]
        .into_iter()
        .find(|statements| compile(family, statements).is_ok_and(|again| again == exprs))
}

/// The statements as nft prints them: without dependencies that go without
/// saying, and with the transport protocol's name where it is known.
pub(crate) fn as_shown(family: Family, statements: &[Statement]) -> Vec<Statement> {
    let mut known = Known::in_family(family);
    let mut named = statements.to_vec();
    for statement in &mut named {
        // `tcp dport` says as much as `meta l4proto tcp`, for the whole
        // statement it is in and for those behind it.
        let said = fields_of(statement).iter().find_map(|field| match field {
            Field::Sport(protocol) | Field::Dport(protocol) => *protocol,
            _ => None,
        });
        if let Some(protocol) = said {
            known.learn_transport(protocol);
        }
        let protocol = known.transport().filter(|protocol| has_ports(*protocol));
        for field in fields_mut(statement) {
            if let Field::Sport(name @ None) | Field::Dport(name @ None) = field {
                *name = protocol;
            }
        }
        if let Statement::Match(condition) = statement {
            known.learn(family, condition);
        }
    }
    (0..named.len())
        .filter(|&at| !goes_without_saying(family, &named, at))
        .map(|at| named[at].clone())
        .collect()
}

/// The protocols whose port fields nft knows by name.
fn has_ports(protocol: Protocol) -> bool {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol(33)].contains(&protocol)
}

/// Whether the match at a position is implied by a later field, up to the next
/// statement that is no match.
fn goes_without_saying(family: Family, statements: &[Statement], at: usize) -> bool {
    let Some(Statement::Match(Match { fields, op: Op::Eq, operand: Operand::Value(value) })) =
        statements.get(at)
    else {
        return false;
    };
    let implies = |field: &Field| match (fields.as_slice(), value, field) {
        (
            [Field::L4proto],
            Value::Protocol(protocol),
            Field::Sport(Some(other)) | Field::Dport(Some(other)),
        ) => protocol == other,
        ([Field::Nfproto], Value::Nfproto(Family::Ip), Field::IpSaddr | Field::IpDaddr) => true,
        (
            [Field::Nfproto],
            Value::Nfproto(Family::Ip6),
            Field::Ip6Saddr | Field::Ip6Daddr | Field::Ip6HopLimit,
        ) => true,
        ([Field::EtherType], Value::EtherType(kind), field) => {
            family == Family::Bridge
                && match field {
                    Field::IpSaddr | Field::IpDaddr => *kind == 0x0800,
                    Field::Ip6Saddr | Field::Ip6Daddr | Field::Ip6HopLimit => *kind == 0x86dd,
                    _ => false,
                }
        }
        _ => false,
    };
    for statement in statements.iter().skip(at + 1) {
        if fields_of(statement).iter().any(implies) {
            return true;
        }
        if !matches!(statement, Statement::Match(_)) {
            return false;
        }
    }
    false
}

fn fields_of(statement: &Statement) -> &[Field] {
    match statement {
        Statement::Match(Match { fields, .. })
        | Statement::VerdictMap { fields, .. }
        | Statement::SetMark(MarkChange::Map { fields, .. })
        | Statement::SetCtMark(MarkChange::Map { fields, .. })
        | Statement::Dnat(NatTarget::Map { fields, .. }, _)
        | Statement::Snat(NatTarget::Map { fields, .. }, _) => fields,
        _ => &[],
    }
}

fn fields_mut(statement: &mut Statement) -> &mut [Field] {
    match statement {
        Statement::Match(Match { fields, .. })
        | Statement::VerdictMap { fields, .. }
        | Statement::SetMark(MarkChange::Map { fields, .. })
        | Statement::SetCtMark(MarkChange::Map { fields, .. })
        | Statement::Dnat(NatTarget::Map { fields, .. }, _)
        | Statement::Snat(NatTarget::Map { fields, .. }, _) => fields,
        _ => &mut [],
    }
}

/// What the registers hold, as far as it matters for guessing.
#[derive(Default)]
struct Reader {
    statements: Vec<Statement>,
    /// Fields loaded and not yet used, with the bytes loaded of each.
    fields: Vec<(Field, u32)>,
    /// What the last bitwise instruction did to the only field.
    bits: Option<(Vec<u8>, Vec<u8>)>,
    /// Constants loaded and not yet used.
    constants: Vec<Vec<u8>>,
    /// The map whose answer is in the registers.
    map: Option<String>,
    /// The lower end of a range, waiting for the upper.
    from: Option<Vec<u8>>,
}

impl Reader {
    fn read(mut self, exprs: &[Expr]) -> Option<Vec<Statement>> {
        for expr in exprs {
            self.step(expr)?;
        }
        // Something loaded and never used is not ours.
        let idle = self.fields.is_empty() && self.constants.is_empty() && self.from.is_none();
        idle.then_some(self.statements)
    }

    fn step(&mut self, expr: &Expr) -> Option<()> {
        let statement = match expr {
            Expr::Meta { .. } | Expr::Ct { .. } | Expr::Fib { .. } | Expr::Payload { .. } => {
                // The interface type is only ever a dependency.
                if !matches!(expr, Expr::Meta { key: meta::IIFTYPE, .. }) {
                    self.fields.push(field_of(expr)?);
                }
                return Some(());
            }
            Expr::Bitwise { mask, xor, .. } => {
                self.bits = Some((mask.clone(), xor.clone()));
                return Some(());
            }
            Expr::Cmp { op, data, .. } => {
                if self.fields.is_empty() {
                    return Some(());
                }
                match *op {
                    cmp::GTE => {
                        self.from = Some(data.clone());
                        return Some(());
                    }
                    cmp::LTE => {
                        let (field, _) = self.take_field()?;
                        let value = ends_of(field.kind(), &self.from.take()?, data)?;
                        condition(vec![field], Op::Eq, Operand::Value(value))
                    }
                    cmp::EQ => self.compare(Op::Eq, data)?,
                    cmp::NEQ => self.compare(Op::Ne, data)?,
                    _ => return None,
                }
            }
            Expr::Range { op: cmp::NEQ, from, to, .. } => {
                let (field, _) = self.take_field()?;
                let value = ends_of(field.kind(), from, to)?;
                condition(vec![field], Op::Ne, Operand::Value(value))
            }
            Expr::Range { .. } => return None,
            // A set without a name of its own, whose content is part of the rule.
            Expr::Lookup { set, .. } if set.starts_with("__") => return None,
            Expr::Lookup { set, dest: None, inverted, .. } => {
                let op = if *inverted { Op::Ne } else { Op::Eq };
                condition(self.take_fields(), op, Operand::Set(set.clone()))
            }
            Expr::Lookup { set, dest: Some(Dest::Verdict), .. } => {
                Statement::VerdictMap { fields: self.take_fields(), map: set.clone() }
            }
            Expr::Lookup { set, dest: Some(Dest::Reg(_)), .. } => {
                self.map = Some(set.clone());
                return Some(());
            }
            Expr::Immediate { data, .. } => {
                self.constants.push(data.clone());
                return Some(());
            }
            Expr::Verdict(verdict) => Statement::Verdict(verdict.clone()),
            Expr::Counter { packets, bytes } => {
                Statement::Counter { packets: *packets, bytes: *bytes }
            }
            Expr::MetaSet { key: meta::MARK, .. } => {
                Statement::SetMark(self.mark(Field::Mark, Field::CtMark)?)
            }
            Expr::CtSet { key: ct::MARK, .. } => {
                Statement::SetCtMark(self.mark(Field::CtMark, Field::Mark)?)
            }
            Expr::MetaSet { .. } | Expr::CtSet { .. } => return None,
            Expr::Masquerade { flags } => Statement::Masquerade(nat_flags(*flags)),
            Expr::Redirect { port, flags } => {
                let port = match port {
                    Some(_) => Some(be16(&self.constants.pop()?)?),
                    None => None,
                };
                Statement::Redirect(port, nat_flags(*flags))
            }
            Expr::Nat { kind, family, port, flags, .. } => {
                let target = self.nat_target(*family, port.is_some())?;
                match *kind {
                    nat::DNAT => Statement::Dnat(target, nat_flags(*flags)),
                    nat::SNAT => Statement::Snat(target, nat_flags(*flags)),
                    _ => return None,
                }
            }
        };
        self.statements.push(statement);
        Some(())
    }

    fn take_field(&mut self) -> Option<(Field, u32)> {
        match std::mem::take(&mut self.fields).as_slice() {
            &[field] => Some(field),
            _ => None,
        }
    }

    fn take_fields(&mut self) -> Vec<Field> {
        std::mem::take(&mut self.fields).into_iter().map(|(field, _)| field).collect()
    }

    fn compare(&mut self, op: Op, data: &[u8]) -> Option<Statement> {
        let (field, loaded) = self.take_field()?;
        let kind = field.kind();
        let operand = match (self.bits.take(), kind) {
            (Some((mask, _)), Type::CtState | Type::CtStatus) => {
                let flipped = if op == Op::Eq { Op::Ne } else { Op::Eq };
                return Some(condition(vec![field], flipped, Operand::Flags(ne32(&mask)?)));
            }
            (Some((mask, _)), Type::Mark) => {
                Operand::Masked { mask: ne32(&mask)?, value: ne32(data)? }
            }
            (Some((mask, _)), Type::Ipv4Addr | Type::Ipv6Addr) => {
                let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
                Operand::Value(prefix_of(data, u8::try_from(ones).ok()?)?)
            }
            (Some(_), _) => return None,
            (None, Type::Ipv4Addr | Type::Ipv6Addr) => {
                let full = kind.size()?;
                let mut bytes = data.to_vec();
                bytes.resize(full, 0);
                let bits = u8::try_from(loaded.checked_mul(8)?).ok()?;
                Operand::Value(prefix_of(&bytes, bits)?)
            }
            (None, kind) => Operand::Value(decode(data, kind)?),
        };
        Some(condition(vec![field], op, operand))
    }

    fn mark(&mut self, own: Field, other: Field) -> Option<MarkChange> {
        if let Some(map) = self.map.take() {
            return Some(MarkChange::Map { fields: self.take_fields(), map });
        }
        if let Some(constant) = self.constants.pop() {
            return Some(MarkChange::Value(ne32(&constant)?));
        }
        match (self.take_field()?.0, self.bits.take()) {
            (field, None) if field == other => Some(MarkChange::OtherMark),
            (field, Some((mask, xor))) if field == own => {
                Some(MarkChange::Bits { mask: ne32(&mask)?, xor: ne32(&xor)? })
            }
            _ => None,
        }
    }

    fn nat_target(&mut self, family: u32, port: bool) -> Option<NatTarget> {
        if let Some(map) = self.map.take() {
            let family = Family::from_number(u8::try_from(family).ok()?)?;
            return Some(NatTarget::Map { family, fields: self.take_fields(), map, port });
        }
        let port = if port { Some(be16(&self.constants.pop()?)?) } else { None };
        let address = crate::netlink::ip_from_bytes(&self.constants.pop()?)?;
        Some(NatTarget::Address(address, port))
    }
}

fn condition(fields: Vec<Field>, op: Op, operand: Operand) -> Statement {
    Statement::Match(Match { fields, op, operand })
}

/// The field an instruction loads, and how many bytes of it.
fn field_of(expr: &Expr) -> Option<(Field, u32)> {
    const FIELDS: [Field; 20] = [
        Field::IpSaddr,
        Field::IpDaddr,
        Field::Ip6Saddr,
        Field::Ip6Daddr,
        Field::Ip6HopLimit,
        Field::EtherSaddr,
        Field::EtherDaddr,
        Field::Sport(None),
        Field::Dport(None),
        Field::Iifname,
        Field::Oifname,
        Field::Nfproto,
        Field::EtherType,
        Field::L4proto,
        Field::Mark,
        Field::CtMark,
        Field::CtState,
        Field::CtStatus,
        Field::FibSaddrType,
        Field::FibDaddrType,
    ];
    let (dreg, loaded) = match expr {
        Expr::Payload { dreg, len, .. } => (*dreg, *len),
        Expr::Meta { dreg, .. } | Expr::Ct { dreg, .. } | Expr::Fib { dreg, .. } => (*dreg, 0),
        _ => return None,
    };
    let field = FIELDS.into_iter().find(|field| {
        let mut whole = load(*field, dreg);
        // The first bytes of an address are a prefix of it.
        if let Expr::Payload { base: base::NETWORK, len, .. } = &mut whole
            && loaded > 0
            && loaded < *len
        {
            *len = loaded;
        }
        whole == *expr
    })?;
    Some((field, loaded))
}

fn nat_flags(flags: u32) -> NatFlags {
    NatFlags {
        random: flags & range::PROTO_RANDOM != 0,
        fully_random: flags & range::PROTO_RANDOM_FULLY != 0,
        persistent: flags & range::PERSISTENT != 0,
    }
}
