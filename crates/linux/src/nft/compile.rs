//! From a rule's statements to the kernel's expressions.
//!
//! A field of a header can only be trusted where the packet has that header,
//! so nft puts a *dependency* before it: `ip saddr` in an `inet` table becomes
//! "network family is IPv4, and ..". The same is done here, in the same form,
//! because nft hides exactly these when it prints a rule.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::chain::Family;
use super::expr::{Dest, Expr, Reg, base, cmp, ct, fib, meta, nat, range};
use super::rule::{Field, MarkChange, Match, NatFlags, NatTarget, Op, Operand, Statement, Verdict};
use super::set::{Protocol, Type, Value, is_host};
use super::value::{Cause, bounds, check_ifname, check_name, encode, mismatch, words};

/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ARPHRD_ETHER: u16 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Registers of 4 bytes an instruction sequence may use.
const REGISTERS: usize = 16;

/// What a rule has made sure of at some point.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    /// The type field of the frame, as far as the network header goes.
    network: Option<u16>,
    transport: Option<Protocol>,
    ethernet: bool,
}

impl Known {
    pub(crate) fn in_family(family: Family) -> Known {
        let network = match family {
            Family::Ip => Some(ETH_P_IP),
            Family::Ip6 => Some(ETH_P_IPV6),
            Family::Inet | Family::Bridge | Family::Arp | Family::Netdev => None,
        };
        let ethernet = matches!(family, Family::Bridge | Family::Netdev);
        Known { network, transport: None, ethernet }
    }

    pub(crate) fn transport(self) -> Option<Protocol> {
        self.transport
    }

    pub(crate) fn learn_transport(&mut self, protocol: Protocol) {
        self.transport.get_or_insert(protocol);
    }

    /// Takes in what a match that holds says.
    pub(crate) fn learn(&mut self, family: Family, condition: &Match) {
        let (Op::Eq, [field], Operand::Value(value)) =
            (condition.op, condition.fields.as_slice(), &condition.operand)
        else {
            return;
        };
        match (field, value) {
            (Field::L4proto, Value::Protocol(protocol)) => self.transport = Some(*protocol),
            (Field::Nfproto, Value::Nfproto(Family::Ip)) => self.network = Some(ETH_P_IP),
            (Field::Nfproto, Value::Nfproto(Family::Ip6)) => self.network = Some(ETH_P_IPV6),
            (Field::EtherType, Value::EtherType(kind))
                if matches!(family, Family::Bridge | Family::Netdev) =>
            {
                self.network = Some(*kind);
            }
            _ => {}
        }
    }

    fn need_network(
        &mut self,
        family: Family,
        kind: u16,
        out: &mut Vec<Expr>,
    ) -> Result<(), Cause> {
        match self.network {
            Some(known) if known == kind => return Ok(()),
            Some(_) => return Err("its matches exclude each other: IPv4 and IPv6".into()),
            None => self.network = Some(kind),
        }
        let is_ip = kind == ETH_P_IP;
        let (key, data) = match family {
            Family::Inet => {
                let of = if is_ip { Family::Ip } else { Family::Ip6 };
                (meta::NFPROTO, vec![of.number()])
            }
            Family::Arp => return Err("an arp table sees no IP header".into()),
            _ => (meta::PROTOCOL, kind.to_be_bytes().to_vec()),
        };
        out.extend([Expr::Meta { key, dreg: 0 }, Expr::Cmp { sreg: 0, op: cmp::EQ, data }]);
        Ok(())
    }

    fn need_transport(&mut self, protocol: Protocol, out: &mut Vec<Expr>) -> Result<(), Cause> {
        match self.transport {
            Some(known) if known == protocol => return Ok(()),
            Some(known) => {
                let cause = format!("its matches exclude each other: {known} and {protocol}");
                return Err(cause.into());
            }
            None => self.transport = Some(protocol),
        }
        out.extend([
            Expr::Meta { key: meta::L4PROTO, dreg: 0 },
            Expr::Cmp { sreg: 0, op: cmp::EQ, data: vec![protocol.0] },
        ]);
        Ok(())
    }

    fn need_ethernet(&mut self, out: &mut Vec<Expr>) {
        if !self.ethernet {
            self.ethernet = true;
            out.extend([
                Expr::Meta { key: meta::IIFTYPE, dreg: 0 },
                Expr::Cmp { sreg: 0, op: cmp::EQ, data: ARPHRD_ETHER.to_ne_bytes().to_vec() },
            ]);
        }
    }

    /// Puts the dependency of a field, where it has one that is not met yet.
    fn need(&mut self, family: Family, field: Field, out: &mut Vec<Expr>) -> Result<(), Cause> {
        match field {
            Field::IpSaddr | Field::IpDaddr => self.need_network(family, ETH_P_IP, out),
            Field::Ip6Saddr | Field::Ip6Daddr | Field::Ip6HopLimit => {
                self.need_network(family, ETH_P_IPV6, out)
            }
            Field::Sport(Some(protocol)) | Field::Dport(Some(protocol)) => {
                self.need_transport(protocol, out)
            }
            Field::EtherSaddr | Field::EtherDaddr => {
                self.need_ethernet(out);
                Ok(())
            }
            Field::Nfproto if family != Family::Inet => {
                Err("meta nfproto is only useful in the inet family".into())
            }
            _ => Ok(()),
        }
    }
}

/// Compiles the statements of a rule in a table of `family`; `Opaque` is not
/// for here.
pub(crate) fn compile(family: Family, statements: &[Statement]) -> Result<Vec<Expr>, Cause> {
    let mut known = Known::in_family(family);
    let mut out = Vec::new();
    for statement in statements {
        match statement {
            Statement::Match(condition) => {
                compile_match(family, &mut known, condition, &mut out)?;
                known.learn(family, condition);
            }
            Statement::VerdictMap { fields, map } => {
                load_all(family, &mut known, fields, &mut out)?;
                out.push(lookup(map, Some(Dest::Verdict), false)?);
            }
            Statement::Counter { packets, bytes } => {
                out.push(Expr::Counter { packets: *packets, bytes: *bytes });
            }
            Statement::SetMark(change) => {
                let mark = Expr::Meta { key: meta::MARK, dreg: 0 };
                let other = Expr::Ct { key: ct::MARK, dreg: 0 };
                compile_mark(family, &mut known, change, [mark, other], &mut out)?;
                out.push(Expr::MetaSet { key: meta::MARK, sreg: 0 });
            }
            Statement::SetCtMark(change) => {
                let mark = Expr::Ct { key: ct::MARK, dreg: 0 };
                let other = Expr::Meta { key: meta::MARK, dreg: 0 };
                compile_mark(family, &mut known, change, [mark, other], &mut out)?;
                out.push(Expr::CtSet { key: ct::MARK, sreg: 0 });
            }
            Statement::Masquerade(flags) => {
                out.push(Expr::Masquerade { flags: nat_flags(*flags) });
            }
            Statement::Redirect(port, flags) => {
                let register = match port {
                    Some(port) => Some(immediate_port(known, *port, 0, &mut out)?),
                    None => None,
                };
                out.push(Expr::Redirect { port: register, flags: nat_flags(*flags) });
            }
            Statement::Dnat(target, flags) => {
                let nat = compile_nat(family, &mut known, nat::DNAT, target, *flags, &mut out)?;
                out.push(nat);
            }
            Statement::Snat(target, flags) => {
                let nat = compile_nat(family, &mut known, nat::SNAT, target, *flags, &mut out)?;
                out.push(nat);
            }
            Statement::Verdict(verdict) => {
                check_verdict(verdict)?;
                out.push(Expr::Verdict(verdict.clone()));
            }
            Statement::Opaque(_) => return Err("an opaque rule has no other statements".into()),
        }
    }
    Ok(out)
}

fn compile_match(
    family: Family,
    known: &mut Known,
    condition: &Match,
    out: &mut Vec<Expr>,
) -> Result<(), Cause> {
    let op = match condition.op {
        Op::Eq => cmp::EQ,
        Op::Ne => cmp::NEQ,
    };
    if let Operand::Set(set) = &condition.operand {
        load_all(family, known, &condition.fields, out)?;
        out.push(lookup(set, None, condition.op == Op::Ne)?);
        return Ok(());
    }
    let &[field] = condition.fields.as_slice() else {
        return Err("concatenated fields can only be looked up in a set".into());
    };
    known.need(family, field, out)?;
    match &condition.operand {
        Operand::Set(_) => {}
        Operand::Value(value) => compile_value(field, op, value, out)?,
        Operand::Masked { mask, value } => {
            if field.kind() != Type::Mark {
                return Err("only marks can be masked".into());
            }
            out.extend([load(field, 0), bits(*mask, 0)]);
            out.push(Expr::Cmp { sreg: 0, op, data: value.to_ne_bytes().to_vec() });
        }
        Operand::Flags(flags) => {
            if !matches!(field, Field::CtState | Field::CtStatus) {
                return Err("only ct state and ct status have flags".into());
            }
            if *flags == 0 {
                return Err("no state or status is named".into());
            }
            out.extend([load(field, 0), bits(*flags, 0)]);
            // "Any of them" is: the rest is not zero.
            let op = if condition.op == Op::Eq { cmp::NEQ } else { cmp::EQ };
            out.push(Expr::Cmp { sreg: 0, op, data: vec![0; 4] });
        }
    }
    Ok(())
}

fn compile_value(field: Field, op: u32, value: &Value, out: &mut Vec<Expr>) -> Result<(), Cause> {
    match value {
        Value::Net(network) if !is_host(network) => {
            let (first, _) = bounds(value, field.kind())?;
            let prefix = usize::from(network.prefix());
            if prefix > 0 && prefix.is_multiple_of(8) {
                // A prefix of whole bytes is compared without a mask.
                let bytes = prefix / 8;
                let mut short = load(field, 0);
                if let Expr::Payload { len, .. } = &mut short {
                    *len = u32::from(network.prefix() / 8);
                }
                out.push(short);
                out.push(Expr::Cmp { sreg: 0, op, data: first[..bytes].to_vec() });
            } else {
                let mask = match network {
                    IpNetwork::V4(net) => net.mask().octets().to_vec(),
                    IpNetwork::V6(net) => net.mask().octets().to_vec(),
                };
                let xor = vec![0; mask.len()];
                out.extend([load(field, 0), Expr::Bitwise { sreg: 0, dreg: 0, mask, xor }]);
                out.push(Expr::Cmp { sreg: 0, op, data: first });
            }
        }
        Value::NetRange(..) | Value::PortRange(..) => {
            let (from, to) = bounds(value, field.kind())?;
            out.push(load(field, 0));
            if op == cmp::EQ {
                out.push(Expr::Cmp { sreg: 0, op: cmp::GTE, data: from });
                out.push(Expr::Cmp { sreg: 0, op: cmp::LTE, data: to });
            } else {
                out.push(Expr::Range { sreg: 0, op, from, to });
            }
        }
        Value::IfnamePrefix(prefix) => {
            if field.kind() != Type::Ifname {
                return Err(mismatch(value, field.kind()));
            }
            check_ifname(prefix)?;
            out.push(load(field, 0));
            out.push(Expr::Cmp { sreg: 0, op, data: prefix.as_bytes().to_vec() });
        }
        exact => {
            let data = encode(exact, field.kind())?;
            out.extend([load(field, 0), Expr::Cmp { sreg: 0, op, data }]);
        }
    }
    Ok(())
}

fn compile_mark(
    family: Family,
    known: &mut Known,
    change: &MarkChange,
    [own, other]: [Expr; 2],
    out: &mut Vec<Expr>,
) -> Result<(), Cause> {
    match change {
        MarkChange::Value(mark) => {
            out.push(Expr::Immediate { dreg: 0, data: mark.to_ne_bytes().to_vec() });
        }
        MarkChange::Bits { mask, xor } => out.extend([own, bits(*mask, *xor)]),
        MarkChange::OtherMark => out.push(other),
        MarkChange::Map { fields, map } => {
            load_all(family, known, fields, out)?;
            out.push(lookup(map, Some(Dest::Reg(0)), false)?);
        }
    }
    Ok(())
}

fn compile_nat(
    table: Family,
    known: &mut Known,
    kind: u32,
    target: &NatTarget,
    flags: NatFlags,
    out: &mut Vec<Expr>,
) -> Result<Expr, Cause> {
    let flags = nat_flags(flags);
    let family = match target {
        NatTarget::Address(IpAddr::V4(_), _) => Family::Ip,
        NatTarget::Address(IpAddr::V6(_), _) => Family::Ip6,
        NatTarget::Map { family: family @ (Family::Ip | Family::Ip6), .. } => *family,
        NatTarget::Map { family, .. } => {
            return Err(format!("there are no {family} addresses to translate to").into());
        }
    };
    if matches!(table, Family::Ip | Family::Ip6) && table != family {
        return Err(format!("a table of family {table} cannot translate to {family}").into());
    }
    let (address, port) = match target {
        NatTarget::Address(address, port) => {
            let data = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            out.push(Expr::Immediate { dreg: 0, data });
            let port = match port {
                // The second 16-byte register, as an IPv6 address fills the first.
                Some(port) => Some(immediate_port(*known, *port, 4, out)?),
                None => None,
            };
            (0, port)
        }
        NatTarget::Map { fields, map, port, .. } => {
            load_all(table, known, fields, out)?;
            out.push(lookup(map, Some(Dest::Reg(0)), false)?);
            // The port follows the address in the map's data.
            let behind = if family == Family::Ip { 1 } else { 4 };
            (0, port.then_some(behind))
        }
    };
    let family = u32::from(family.number());
    Ok(Expr::Nat { kind, family, address: Some(address), port, flags })
}

fn immediate_port(known: Known, port: u16, dreg: Reg, out: &mut Vec<Expr>) -> Result<Reg, Cause> {
    if known.transport.is_none() {
        return Err("a port needs a match on the transport protocol before it".into());
    }
    out.push(Expr::Immediate { dreg, data: port.to_be_bytes().to_vec() });
    Ok(dreg)
}

/// Loads fields side by side from the first register, all dependencies before.
fn load_all(
    family: Family,
    known: &mut Known,
    fields: &[Field],
    out: &mut Vec<Expr>,
) -> Result<(), Cause> {
    for field in fields {
        known.need(family, *field, out)?;
    }
    let mut next: Reg = 0;
    for field in fields {
        let words = words(field.kind());
        if usize::from(next) + words > REGISTERS {
            return Err("the fields do not fit the kernel's registers".into());
        }
        out.push(load(*field, next));
        // At most REGISTERS, as just checked.
        next += u8::try_from(words).unwrap_or(u8::MAX);
    }
    if fields.is_empty() { Err("there is no field to look up".into()) } else { Ok(()) }
}

/// The instruction that loads a field.
pub(crate) fn load(field: Field, dreg: Reg) -> Expr {
    let payload = |base, offset, len| Expr::Payload { base, offset, len, dreg };
    let meta = |key| Expr::Meta { key, dreg };
    match field {
        Field::IpSaddr => payload(base::NETWORK, 12, 4),
        Field::IpDaddr => payload(base::NETWORK, 16, 4),
        Field::Ip6Saddr => payload(base::NETWORK, 8, 16),
        Field::Ip6Daddr => payload(base::NETWORK, 24, 16),
        Field::Ip6HopLimit => payload(base::NETWORK, 7, 1),
        Field::EtherSaddr => payload(base::LINK, 6, 6),
        Field::EtherDaddr => payload(base::LINK, 0, 6),
        Field::Sport(_) => payload(base::TRANSPORT, 0, 2),
        Field::Dport(_) => payload(base::TRANSPORT, 2, 2),
        Field::Iifname => meta(meta::IIFNAME),
        Field::Oifname => meta(meta::OIFNAME),
        Field::Nfproto => meta(meta::NFPROTO),
        Field::EtherType => meta(meta::PROTOCOL),
        Field::L4proto => meta(meta::L4PROTO),
        Field::Mark => meta(meta::MARK),
        Field::CtMark => Expr::Ct { key: ct::MARK, dreg },
        Field::CtState => Expr::Ct { key: ct::STATE, dreg },
        Field::CtStatus => Expr::Ct { key: ct::STATUS, dreg },
        Field::FibSaddrType => Expr::Fib { result: fib::ADDRTYPE, flags: fib::SADDR, dreg },
        Field::FibDaddrType => Expr::Fib { result: fib::ADDRTYPE, flags: fib::DADDR, dreg },
    }
}

/// `(register & mask) ^ xor` on a 4-byte number in host byte order.
fn bits(mask: u32, xor: u32) -> Expr {
    let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
    Expr::Bitwise { sreg: 0, dreg: 0, mask, xor }
}

fn lookup(set: &str, dest: Option<Dest>, inverted: bool) -> Result<Expr, Cause> {
    check_name(set)?;
    Ok(Expr::Lookup { set: set.to_owned(), sreg: 0, dest, inverted })
}

fn nat_flags(flags: NatFlags) -> u32 {
    let mut number = 0;
    for (set, flag) in [
        (flags.random, range::PROTO_RANDOM),
        (flags.persistent, range::PERSISTENT),
        (flags.fully_random, range::PROTO_RANDOM_FULLY),
    ] {
        if set {
            number |= flag;
        }
    }
    number
}

fn check_verdict(verdict: &Verdict) -> Result<(), Cause> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => check_name(chain),
        Verdict::Accept | Verdict::Drop | Verdict::Continue | Verdict::Return => Ok(()),
    }
}
