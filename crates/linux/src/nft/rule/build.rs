//! A rule written the way nft reads: `Rule::new(&chain).iifname("veth0").drop()`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::link::Mac;

use super::{
    AddrType, CtState, CtStatus, Field, MarkChange, Match, NatFlags, NatTarget, Op, Operand, Rule,
    Statement, Verdict,
};
use crate::nft::chain::Family;
use crate::nft::set::{Protocol, Value, masked};

impl Rule {
    /// Adds any statement.
    #[must_use]
    pub fn statement(mut self, statement: Statement) -> Rule {
        self.statements.push(statement);
        self
    }

    /// `ip saddr ADDRESS`, or `ip6 saddr`, by the family of the address; a
    /// prefix matches every address in it.
    #[must_use]
    pub fn ip_saddr(self, address: impl Into<IpNetwork>) -> Rule {
        self.address(Field::IpSaddr, Field::Ip6Saddr, Op::Eq, address.into())
    }

    /// `ip saddr != ADDRESS`, or `ip6 saddr`.
    #[must_use]
    pub fn ip_saddr_not(self, address: impl Into<IpNetwork>) -> Rule {
        self.address(Field::IpSaddr, Field::Ip6Saddr, Op::Ne, address.into())
    }

    /// `ip daddr ADDRESS`, or `ip6 daddr`.
    #[must_use]
    pub fn ip_daddr(self, address: impl Into<IpNetwork>) -> Rule {
        self.address(Field::IpDaddr, Field::Ip6Daddr, Op::Eq, address.into())
    }

    /// `ip daddr != ADDRESS`, or `ip6 daddr`.
    #[must_use]
    pub fn ip_daddr_not(self, address: impl Into<IpNetwork>) -> Rule {
        self.address(Field::IpDaddr, Field::Ip6Daddr, Op::Ne, address.into())
    }

    fn address(self, v4: Field, v6: Field, op: Op, network: IpNetwork) -> Rule {
        let field = if network.is_ipv4() { v4 } else { v6 };
        self.matching([field], op, Operand::Value(Value::Net(masked(network))))
    }

    /// `ip6 hoplimit NUMBER`: 255 only for what no router forwarded.
    #[must_use]
    pub fn hop_limit(self, number: u8) -> Rule {
        self.value(Field::Ip6HopLimit, Op::Eq, Value::HopLimit(number))
    }

    /// `ether saddr MAC`
    #[must_use]
    pub fn ether_saddr(self, mac: Mac) -> Rule {
        self.value(Field::EtherSaddr, Op::Eq, Value::Mac(mac))
    }

    /// `ether saddr != MAC`
    #[must_use]
    pub fn ether_saddr_not(self, mac: Mac) -> Rule {
        self.value(Field::EtherSaddr, Op::Ne, Value::Mac(mac))
    }

    /// `iifname "NAME"`, exactly.
    #[must_use]
    pub fn iifname(self, name: impl Into<String>) -> Rule {
        self.value(Field::Iifname, Op::Eq, Value::Ifname(name.into()))
    }

    /// `iifname != "NAME"`
    #[must_use]
    pub fn iifname_not(self, name: impl Into<String>) -> Rule {
        self.value(Field::Iifname, Op::Ne, Value::Ifname(name.into()))
    }

    /// `oifname "NAME"`, exactly.
    #[must_use]
    pub fn oifname(self, name: impl Into<String>) -> Rule {
        self.value(Field::Oifname, Op::Eq, Value::Ifname(name.into()))
    }

    /// `oifname != "NAME"`
    #[must_use]
    pub fn oifname_not(self, name: impl Into<String>) -> Rule {
        self.value(Field::Oifname, Op::Ne, Value::Ifname(name.into()))
    }

    /// `meta l4proto PROTOCOL`
    #[must_use]
    pub fn l4proto(self, protocol: Protocol) -> Rule {
        self.value(Field::L4proto, Op::Eq, Value::Protocol(protocol))
    }

    /// `tcp dport PORT`, `udp dport`, `sctp dport`.
    #[must_use]
    pub fn dport(self, protocol: Protocol, port: u16) -> Rule {
        self.value(Field::Dport(Some(protocol)), Op::Eq, Value::Port(port))
    }

    /// `th dport PORT`: of any transport protocol that has ports there.
    #[must_use]
    pub fn th_dport(self, port: u16) -> Rule {
        self.value(Field::Dport(None), Op::Eq, Value::Port(port))
    }

    /// `meta mark NUMBER`
    #[must_use]
    pub fn mark(self, mark: u32) -> Rule {
        self.value(Field::Mark, Op::Eq, Value::Mark(mark))
    }

    /// `meta mark & MASK == NUMBER`
    #[must_use]
    pub fn mark_masked(self, mask: u32, value: u32) -> Rule {
        self.matching([Field::Mark], Op::Eq, Operand::Masked { mask, value })
    }

    /// `meta mark & MASK != NUMBER`
    #[must_use]
    pub fn mark_masked_not(self, mask: u32, value: u32) -> Rule {
        self.matching([Field::Mark], Op::Ne, Operand::Masked { mask, value })
    }

    /// `ct state A,B`: any of them.
    #[must_use]
    pub fn ct_state(self, states: CtState) -> Rule {
        self.matching([Field::CtState], Op::Eq, Operand::Flags(states.0))
    }

    /// `ct state ! A,B`: none of them.
    #[must_use]
    pub fn ct_state_not(self, states: CtState) -> Rule {
        self.matching([Field::CtState], Op::Ne, Operand::Flags(states.0))
    }

    /// `ct status dnat` and the like: any of them.
    #[must_use]
    pub fn ct_status(self, status: CtStatus) -> Rule {
        self.matching([Field::CtStatus], Op::Eq, Operand::Flags(status.0))
    }

    /// `ct status ! dnat` and the like: none of them.
    #[must_use]
    pub fn ct_status_not(self, status: CtStatus) -> Rule {
        self.matching([Field::CtStatus], Op::Ne, Operand::Flags(status.0))
    }

    /// `fib daddr type local` and the like. In the hooks prerouting, input,
    /// output and forward only.
    #[must_use]
    pub fn fib_daddr(self, kind: AddrType) -> Rule {
        self.value(Field::FibDaddrType, Op::Eq, Value::AddrType(kind))
    }

    /// `fib daddr type != local` and the like.
    #[must_use]
    pub fn fib_daddr_not(self, kind: AddrType) -> Rule {
        self.value(Field::FibDaddrType, Op::Ne, Value::AddrType(kind))
    }

    /// `fib saddr type local` and the like.
    #[must_use]
    pub fn fib_saddr(self, kind: AddrType) -> Rule {
        self.value(Field::FibSaddrType, Op::Eq, Value::AddrType(kind))
    }

    /// `fib saddr type != local` and the like.
    #[must_use]
    pub fn fib_saddr_not(self, kind: AddrType) -> Rule {
        self.value(Field::FibSaddrType, Op::Ne, Value::AddrType(kind))
    }

    /// `FIELD . FIELD @SET`
    #[must_use]
    pub fn in_set(self, fields: impl Into<Vec<Field>>, set: impl Into<String>) -> Rule {
        self.matching(fields, Op::Eq, Operand::Set(set.into()))
    }

    /// `FIELD . FIELD != @SET`
    #[must_use]
    pub fn not_in_set(self, fields: impl Into<Vec<Field>>, set: impl Into<String>) -> Rule {
        self.matching(fields, Op::Ne, Operand::Set(set.into()))
    }

    /// One field against one value, prefix or range.
    #[must_use]
    pub fn value(self, field: Field, op: Op, value: impl Into<Value>) -> Rule {
        self.matching([field], op, Operand::Value(value.into()))
    }

    /// Any match.
    #[must_use]
    pub fn matching(self, fields: impl Into<Vec<Field>>, op: Op, operand: Operand) -> Rule {
        self.statement(Statement::Match(Match { fields: fields.into(), op, operand }))
    }

    /// `FIELD . FIELD vmap @MAP`
    #[must_use]
    pub fn vmap(self, fields: impl Into<Vec<Field>>, map: impl Into<String>) -> Rule {
        self.statement(Statement::VerdictMap { fields: fields.into(), map: map.into() })
    }

    /// `counter`
    #[must_use]
    pub fn counter(self) -> Rule {
        self.statement(Statement::Counter { packets: 0, bytes: 0 })
    }

    /// `meta mark set ..`
    #[must_use]
    pub fn set_mark(self, change: MarkChange) -> Rule {
        self.statement(Statement::SetMark(change))
    }

    /// `ct mark set ..`
    #[must_use]
    pub fn set_ct_mark(self, change: MarkChange) -> Rule {
        self.statement(Statement::SetCtMark(change))
    }

    /// `masquerade`: the source becomes the address of the interface the
    /// packet leaves by.
    #[must_use]
    pub fn masquerade(self) -> Rule {
        self.statement(Statement::Masquerade(NatFlags::default()))
    }

    /// `dnat to ADDRESS:PORT`
    #[must_use]
    pub fn dnat(self, address: impl Into<IpAddr>, port: Option<u16>) -> Rule {
        let target = NatTarget::Address(address.into(), port);
        self.statement(Statement::Dnat(target, NatFlags::default()))
    }

    /// `dnat ip to FIELD . FIELD map @MAP`, with a map of addresses and ports.
    #[must_use]
    pub fn dnat_map(
        self,
        family: Family,
        fields: impl Into<Vec<Field>>,
        map: impl Into<String>,
    ) -> Rule {
        let target = NatTarget::Map { family, fields: fields.into(), map: map.into(), port: true };
        self.statement(Statement::Dnat(target, NatFlags::default()))
    }

    /// `snat to ADDRESS`
    #[must_use]
    pub fn snat(self, address: impl Into<IpAddr>) -> Rule {
        let target = NatTarget::Address(address.into(), None);
        self.statement(Statement::Snat(target, NatFlags::default()))
    }

    /// `redirect to :PORT`
    #[must_use]
    pub fn redirect(self, port: Option<u16>) -> Rule {
        self.statement(Statement::Redirect(port, NatFlags::default()))
    }

    /// `jump CHAIN`
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Rule {
        self.statement(Statement::Verdict(Verdict::Jump(chain.into())))
    }

    /// `goto CHAIN`
    #[must_use]
    pub fn goto(self, chain: impl Into<String>) -> Rule {
        self.statement(Statement::Verdict(Verdict::Goto(chain.into())))
    }

    /// `return`
    #[must_use]
    pub fn return_(self) -> Rule {
        self.statement(Statement::Verdict(Verdict::Return))
    }

    /// `accept`
    #[must_use]
    pub fn accept(self) -> Rule {
        self.statement(Statement::Verdict(Verdict::Accept))
    }

    /// `drop`
    #[must_use]
    pub fn drop(self) -> Rule {
        self.statement(Statement::Verdict(Verdict::Drop))
    }
}
