//! Everything in nft's syntax, as nft 1.0.6 prints it.
//!
//! `{:#}` adds handles, as `nft -a` does.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv6Addr};

use super::chain::{Base, Chain, Family, Hook, Policy, Table};
use super::decompile::as_shown;
use super::rule::{
    Field, MarkChange, Match, NatFlags, NatTarget, Op, Operand, Rule, Statement, Verdict,
};
use super::set::{Data, Element, Protocol, Set, SetData, Type, Value, is_host};

/// Things with a separator between them.
struct Join<'a, T>(&'a [T], &'static str);

impl<T: Display> Display for Join<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, item) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(self.1)?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

/// An address as `inet_ntop` writes it: unlike the standard library's, with
/// dotted digits where only the last 32 bits are set.
struct Address(IpAddr);

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(v6) if matches!(v6.segments(), [0, 0, 0, 0, 0, 0, high, _] if high != 0) => {
                let [.., a, b, c, d] = v6.octets();
                write!(f, "::{a}.{b}.{c}.{d}")
            }
            other => other.fmt(f),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Net(net) if is_host(net) => Address(net.ip()).fmt(f),
            Value::Net(net) => write!(f, "{}/{}", Address(net.network()), net.prefix()),
            Value::NetRange(first, last) => write!(f, "{}-{}", Address(*first), Address(*last)),
            Value::Mac(mac) => mac.fmt(f),
            Value::Protocol(protocol) => protocol.fmt(f),
            Value::Port(port) => port.fmt(f),
            Value::PortRange(first, last) => write!(f, "{first}-{last}"),
            Value::Mark(mark) => write!(f, "{mark:#010x}"),
            // A star at the end would be read as a wildcard.
            Value::Ifname(name) => match name.strip_suffix('*') {
                Some(stem) => write!(f, "\"{stem}\\*\""),
                None => write!(f, "\"{name}\""),
            },
            Value::IfnamePrefix(prefix) => write!(f, "\"{prefix}*\""),
            Value::Nfproto(Family::Ip) => f.write_str("ipv4"),
            Value::Nfproto(Family::Ip6) => f.write_str("ipv6"),
            Value::Nfproto(family) => family.number().fmt(f),
            Value::EtherType(0x0800) => f.write_str("ip"),
            Value::EtherType(0x0806) => f.write_str("arp"),
            Value::EtherType(0x8100) => f.write_str("8021q"),
            Value::EtherType(0x86dd) => f.write_str("ip6"),
            Value::EtherType(number) => write!(f, "{number:#06x}"),
            Value::AddrType(kind) => f.write_str(kind.name()),
            Value::HopLimit(number) => number.fmt(f),
            Value::Bytes(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let th = |protocol: &Option<Protocol>| match protocol {
            Some(protocol) => protocol.to_string(),
            None => "th".to_owned(),
        };
        f.write_str(match self {
            Field::IpSaddr => "ip saddr",
            Field::IpDaddr => "ip daddr",
            Field::Ip6Saddr => "ip6 saddr",
            Field::Ip6Daddr => "ip6 daddr",
            Field::Ip6HopLimit => "ip6 hoplimit",
            Field::EtherSaddr => "ether saddr",
            Field::EtherDaddr => "ether daddr",
            Field::Sport(protocol) => return write!(f, "{} sport", th(protocol)),
            Field::Dport(protocol) => return write!(f, "{} dport", th(protocol)),
            Field::Iifname => "iifname",
            Field::Oifname => "oifname",
            Field::Nfproto => "meta nfproto",
            Field::EtherType => "meta protocol",
            Field::L4proto => "meta l4proto",
            Field::Mark => "meta mark",
            Field::CtMark => "ct mark",
            Field::CtState => "ct state",
            Field::CtStatus => "ct status",
            Field::FibSaddrType => "fib saddr type",
            Field::FibDaddrType => "fib daddr type",
        })
    }
}

/// Names of the bits of `ct state` and `ct status`, lowest bit first.
const STATES: [(u32, &str); 5] =
    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
const STATUSES: [(u32, &str); 7] = [
    (1, "expected"),
    (2, "seen-reply"),
    (4, "assured"),
    (8, "confirmed"),
    (0x10, "snat"),
    (0x20, "dnat"),
    (0x200, "dying"),
];

fn write_flags(f: &mut Formatter<'_>, kind: Type, flags: u32) -> fmt::Result {
    let names = if kind == Type::CtState { &STATES[..] } else { &STATUSES[..] };
    let mut rest = flags;
    let mut comma = "";
    for (bit, name) in names {
        if flags & bit != 0 {
            write!(f, "{comma}{name}")?;
            comma = ",";
            rest &= !bit;
        }
    }
    if rest == 0 { Ok(()) } else { write!(f, "{comma}{rest:#x}") }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Join(&self.fields, " . ").fmt(f)?;
        let ne = self.op == Op::Ne;
        match &self.operand {
            Operand::Value(value) => write!(f, "{} {value}", if ne { " !=" } else { "" }),
            Operand::Set(set) => write!(f, "{} @{set}", if ne { " !=" } else { "" }),
            Operand::Masked { mask, value } => {
                let op = if ne { "!=" } else { "==" };
                write!(f, " & {mask:#010x} {op} {value:#010x}")
            }
            Operand::Flags(flags) => {
                f.write_str(if ne { " ! " } else { " " })?;
                let kind = self.fields.first().map_or(Type::CtState, |field| field.kind());
                write_flags(f, kind, *flags)
            }
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for NatFlags {
    /// Starts with a space where there are any.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut delimiter = " ";
        for (set, name) in [
            (self.random, "random"),
            (self.fully_random, "fully-random"),
            (self.persistent, "persistent"),
        ] {
            if set {
                write!(f, "{delimiter}{name}")?;
                delimiter = ",";
            }
        }
        Ok(())
    }
}

/// A statement in a table of a family.
struct InFamily<'a>(&'a Statement, Family);

impl Display for InFamily<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Statement::Match(condition) => condition.fmt(f),
            Statement::VerdictMap { fields, map } => {
                write!(f, "{} vmap @{map}", Join(fields, " . "))
            }
            Statement::Counter { packets, bytes } => {
                write!(f, "counter packets {packets} bytes {bytes}")
            }
            Statement::SetMark(change) => write_mark(f, ["meta mark", "ct mark"], change),
            Statement::SetCtMark(change) => write_mark(f, ["ct mark", "meta mark"], change),
            Statement::Masquerade(flags) => write!(f, "masquerade{flags}"),
            Statement::Redirect(None, flags) => write!(f, "redirect{flags}"),
            Statement::Redirect(Some(port), flags) => write!(f, "redirect to :{port}{flags}"),
            Statement::Dnat(target, flags) => write_nat(f, "dnat", self.1, target, *flags),
            Statement::Snat(target, flags) => write_nat(f, "snat", self.1, target, *flags),
            Statement::Verdict(verdict) => verdict.fmt(f),
            Statement::Opaque(bytes) => write!(f, "# {} bytes not understood", bytes.len()),
        }
    }
}

fn write_mark(f: &mut Formatter<'_>, [own, other]: [&str; 2], change: &MarkChange) -> fmt::Result {
    write!(f, "{own} set ")?;
    match change {
        MarkChange::Value(mark) => write!(f, "{mark:#010x}"),
        MarkChange::OtherMark => f.write_str(other),
        MarkChange::Map { fields, map } => write!(f, "{} map @{map}", Join(fields, " . ")),
        MarkChange::Bits { mask, xor } => {
            // Bits that are cleared and then flipped are simply set.
            let set = xor & !mask;
            let (keep, flip) = (mask | set, xor & mask);
            f.write_str(own)?;
            if keep != u32::MAX || *xor == 0 {
                write!(f, " & {keep:#010x}")?;
            }
            if flip != 0 {
                write!(f, " ^ {flip:#010x}")?;
            }
            if set != 0 {
                write!(f, " | {set:#010x}")?;
            }
            Ok(())
        }
    }
}

fn write_nat(
    f: &mut Formatter<'_>,
    verb: &str,
    table: Family,
    target: &NatTarget,
    flags: NatFlags,
) -> fmt::Result {
    let (family, says_family) = match target {
        NatTarget::Address(IpAddr::V4(_), _) => (Family::Ip, false),
        NatTarget::Address(IpAddr::V6(_), _) => (Family::Ip6, false),
        NatTarget::Map { family, port, .. } => (*family, *port),
    };
    f.write_str(verb)?;
    if says_family || table != family {
        write!(f, " {family}")?;
    }
    f.write_str(" to ")?;
    match target {
        NatTarget::Address(address, None) => Address(*address).fmt(f)?,
        NatTarget::Address(IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}")?,
        NatTarget::Address(IpAddr::V6(address), Some(port)) => {
            let address: Ipv6Addr = *address;
            write!(f, "[{}]:{port}", Address(address.into()))?;
        }
        NatTarget::Map { fields, map, .. } => write!(f, "{} map @{map}", Join(fields, " . "))?,
    }
    flags.fmt(f)
}

/// ` comment ".."`, or nothing.
pub(crate) struct Comment<'a>(pub(crate) &'a Option<String>);

impl Display for Comment<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(comment) => write!(f, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}

/// ` # handle N` where it is known and asked for.
pub(crate) struct Handle(pub(crate) Option<u64>);

impl Display for Handle {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(handle) if f.alternate() => write!(f, " # handle {handle}"),
            _ => Ok(()),
        }
    }
}

/// The line nft prints for the rule, such as
/// `ip saddr 10.1.0.2 ip daddr != 10.1.0.0/16 masquerade comment "c1"`.
impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, statement) in as_shown(self.family, &self.statements).iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{}", InFamily(statement, self.family))?;
        }
        Comment(&self.comment).fmt(f)?;
        Handle(self.handle).fmt(f)
    }
}

/// `10.1.0.2 comment "c1" : jump c1`
impl Display for Element {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Join(&self.key, " . ").fmt(f)?;
        Comment(&self.comment).fmt(f)?;
        match &self.data {
            None => Ok(()),
            Some(Data::Verdict(verdict)) => write!(f, " : {verdict}"),
            Some(Data::Values(values)) => write!(f, " : {}", Join(values, " . ")),
        }
    }
}

/// `inet nat`: what comes after the word `table`.
impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// `inet nat checks`: what comes after the word `chain`.
impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.name)
    }
}

/// `inet nat ports`: what comes after the word `set` or `map`.
impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.name)
    }
}

impl Set {
    /// `set` or `map`.
    pub(crate) fn word(&self) -> &'static str {
        if self.data.is_none() { "set" } else { "map" }
    }

    /// `type ipv4_addr . inet_service : verdict`
    pub(crate) fn types(&self) -> impl Display {
        let key = Join(&self.key, " . ");
        match &self.data {
            None => format!("type {key}"),
            Some(SetData::Verdict) => format!("type {key} : verdict"),
            Some(SetData::Values(types)) => format!("type {key} : {}", Join(types, " . ")),
        }
    }
}

impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        })
    }
}

/// A base chain's hook as it is listed, with the names nft gives to some
/// priorities.
pub(crate) struct Listed<'a>(pub(crate) &'a Base, pub(crate) Family);

impl Display for Listed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Listed(base, family) = self;
        write!(f, "type {} hook {}", base.kind.name(), hook_name(*family, base.hook))?;
        if let Some(device) = &base.device {
            write!(f, " device \"{device}\"")?;
        }
        f.write_str(" priority ")?;
        let (name, offset) = priority_name(*family, base.hook, base.priority);
        match (name, offset) {
            (None, priority) => write!(f, "{priority}")?,
            (Some(name), 0) => f.write_str(name)?,
            (Some(name), 1..) => write!(f, "{name} + {offset}")?,
            (Some(name), _) => write!(f, "{name} - {}", -offset)?,
        }
        write!(f, "; policy {};", base.policy)
    }
}

/// A base chain's hook as a command takes it: `type nat hook postrouting
/// priority 100 ; policy accept ;`.
pub(crate) struct Command<'a>(pub(crate) &'a Base, pub(crate) Family);

impl Display for Command<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Command(base, family) = self;
        let (kind, hook) = (base.kind.name(), hook_name(*family, base.hook));
        write!(f, "type {kind} hook {hook} priority {} ; policy {} ;", base.priority, base.policy)
    }
}

fn hook_name(family: Family, hook: Hook) -> String {
    let name = match (family, hook) {
        (_, Hook::Prerouting) => "prerouting",
        (_, Hook::Input) => "input",
        (_, Hook::Forward) => "forward",
        (_, Hook::Output) => "output",
        (_, Hook::Postrouting) => "postrouting",
        (Family::Arp, Hook::Other(0)) => "input",
        (Family::Arp, Hook::Other(1)) => "output",
        (Family::Netdev, Hook::Other(0)) | (_, Hook::Other(5)) => "ingress",
        (Family::Netdev, Hook::Other(1)) => "egress",
        (_, Hook::Other(number)) => return number.to_string(),
    };
    name.to_owned()
}

/// The name closest to a priority, and the distance to it; nft names what is
/// within 10 of a standard one that belongs at the hook.
fn priority_name(family: Family, hook: Hook, priority: i32) -> (Option<&'static str>, i32) {
    let at = |wanted: Hook| hook == wanted;
    let standard: &[(&str, i32, bool)] = match family {
        Family::Bridge => &[
            ("dstnat", -300, at(Hook::Prerouting)),
            ("filter", -200, true),
            ("out", 100, at(Hook::Output)),
            ("srcnat", 300, at(Hook::Postrouting)),
        ],
        Family::Arp | Family::Netdev => &[("filter", 0, true)],
        Family::Inet | Family::Ip | Family::Ip6 => &[
            ("raw", -300, true),
            ("mangle", -150, true),
            ("dstnat", -100, at(Hook::Prerouting)),
            ("filter", 0, true),
            ("security", 50, true),
            ("srcnat", 100, at(Hook::Postrouting)),
        ],
    };
    for (name, number, usable) in standard {
        let offset = priority.saturating_sub(*number);
        if *usable && offset.abs() <= 10 {
            return (Some(name), offset);
        }
    }
    (None, priority)
}
