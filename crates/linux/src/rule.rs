//! Policy rules: which routing table a packet is looked up in.

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::error::Result;
use crate::family::{Family, wire_or_any};
use crate::netlink::{Attrs, Message, Reply, Socket, field_u8, field_u32};
use crate::route::RouteProtocol;
use crate::uapi::{
    FIB_RULE_HDR_LEN, FIB_RULE_INVERT, FRA_DST, FRA_FWMARK, FRA_FWMASK, FRA_IIFNAME, FRA_L3MDEV,
    FRA_OIFNAME, FRA_PRIORITY, FRA_PROTOCOL, FRA_SRC, FRA_TABLE, NLM_F_CREATE, NLM_F_EXCL,
    RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE,
};

/// A policy rule. What is not given matches everything, or, in [`delete`],
/// any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Source addresses.
    pub src: Option<IpNetwork>,
    /// Destination addresses.
    pub dst: Option<IpNetwork>,
    /// Name of the link a packet came in by.
    pub iif: Option<String>,
    /// Name of the link a local socket is bound to.
    pub oif: Option<String>,
    /// Firewall mark.
    pub fwmark: Option<u32>,
    /// Bits of the mark that are compared; all if not given.
    pub fwmask: Option<u32>,
    /// Routing table to look in.
    pub table: Option<u32>,
    /// Order: the lowest comes first; the kernel picks one if not given.
    pub priority: Option<u32>,
    /// Whether it is for packets that do *not* match.
    pub invert: bool,
    /// Whether to look in the table of the packet's VRF.
    pub l3mdev: bool,
    /// Who made it (4.17 and later).
    pub protocol: Option<RouteProtocol>,
    /// What happens (`FR_ACT_*`, include/uapi/linux/fib_rules.h): 1 is the
    /// look-up in the table, 6 blackhole, 7 unreachable, 8 prohibit.
    pub action: u8,
}

/// `FR_ACT_TO_TBL`.
const ACTION_LOOKUP: u8 = 1;

impl Rule {
    /// A rule that sends every packet of a family to a table.
    #[must_use]
    pub fn lookup(family: Family, table: u32) -> Rule {
        Rule {
            family,
            src: None,
            dst: None,
            iif: None,
            oif: None,
            fwmark: None,
            fwmask: None,
            table: Some(table),
            priority: None,
            invert: false,
            l3mdev: false,
            protocol: None,
            action: ACTION_LOOKUP,
        }
    }

    /// `from PREFIX`
    #[must_use]
    pub fn src(mut self, src: IpNetwork) -> Rule {
        self.src = Some(src);
        self
    }

    /// `to PREFIX`
    #[must_use]
    pub fn dst(mut self, dst: IpNetwork) -> Rule {
        self.dst = Some(dst);
        self
    }

    /// `priority NUMBER`
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Rule {
        self.priority = Some(priority);
        self
    }

    /// The request of [`add`].
    #[must_use]
    pub fn add_message(&self) -> Message {
        self.message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, "add")
    }

    /// The request of [`delete`].
    #[must_use]
    pub fn delete_message(&self) -> Message {
        self.message(RTM_DELRULE, 0, "delete")
    }

    fn message(&self, kind: u16, flags: u16, verb: &str) -> Message {
        let mut body = RuleMessage::default();
        body.header.family = self.family.wire();
        body.header.src_len = self.src.map_or(0, |net| net.prefix());
        body.header.dst_len = self.dst.map_or(0, |net| net.prefix());
        body.header.action = RuleAction::from(self.action);
        if self.invert {
            body.header.flags |= RuleFlags::from_bits_retain(FIB_RULE_INVERT);
        }
        let attributes = &mut body.attributes;
        // The kernel refuses an address attribute of a /0.
        let given = |net: Option<IpNetwork>| net.filter(|net| net.prefix() > 0);
        attributes.extend(given(self.src).map(|net| RuleAttribute::Source(net.ip())));
        attributes.extend(given(self.dst).map(|net| RuleAttribute::Destination(net.ip())));
        attributes.extend(self.iif.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.oif.clone().map(RuleAttribute::Oifname));
        attributes.extend(self.fwmark.map(RuleAttribute::FwMark));
        attributes.extend(self.fwmask.map(RuleAttribute::FwMask));
        attributes.extend(self.priority.map(RuleAttribute::Priority));
        if self.l3mdev {
            attributes.push(RuleAttribute::L3MDev(true));
        }
        attributes.extend(self.protocol.map(|by| RuleAttribute::Protocol(by.0.into())));
        if let Some(table) = self.table {
            // iproute2 also puts a small number in the header; the attribute
            // alone is enough (fib_rule, frh_get_table).
            attributes.push(RuleAttribute::Table(table));
        }
        Message::with_body(kind, flags, self.operation(verb), &body)
    }

    fn operation(&self, verb: &str) -> String {
        let mut text = format!("{verb} rule");
        let mut word = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push(' ');
                text.push_str(name);
                text.push(' ');
                text.push_str(&value);
            }
        };
        word("priority", self.priority.map(|priority| priority.to_string()));
        word("from", self.src.map(|net| net.to_string()));
        word("to", self.dst.map(|net| net.to_string()));
        word("fwmark", self.fwmark.map(|mark| format!("{mark:#x}")));
        word("lookup", self.table.map(|table| table.to_string()));
        text
    }

    /// Reads the body of `RTM_NEWRULE`.
    pub(crate) fn parse(body: &[u8]) -> Option<Rule> {
        let family = Family::from_raw(field_u8(body, 0)?)?;
        let (dst_len, src_len) = (field_u8(body, 1)?, field_u8(body, 2)?);
        let flags = field_u32(body, 8)?;
        let mut rule = Rule {
            invert: flags & FIB_RULE_INVERT != 0,
            action: field_u8(body, 7)?,
            ..Rule::lookup(family, u32::from(field_u8(body, 4)?))
        };
        for attr in Attrs::after(body, FIB_RULE_HDR_LEN) {
            match attr.kind {
                FRA_SRC => rule.src = IpNetwork::new(attr.ip()?, src_len).ok(),
                FRA_DST => rule.dst = IpNetwork::new(attr.ip()?, dst_len).ok(),
                FRA_IIFNAME => rule.iif = attr.str().map(str::to_owned),
                FRA_OIFNAME => rule.oif = attr.str().map(str::to_owned),
                FRA_FWMARK => rule.fwmark = attr.u32(),
                FRA_FWMASK => rule.fwmask = attr.u32(),
                FRA_TABLE => rule.table = attr.u32(),
                FRA_PRIORITY => rule.priority = attr.u32(),
                FRA_L3MDEV => rule.l3mdev = attr.u8()? != 0,
                FRA_PROTOCOL => rule.protocol = attr.u8().map(RouteProtocol),
                _ => {}
            }
        }
        // 0 is no table: the rule does something else than a look-up.
        rule.table = rule.table.filter(|&table| table != 0);
        Some(rule)
    }
}

/// The rules of one family or both, like `ip rule show`, in their order within
/// each family.
///
/// # Errors
///
/// The kernel's.
pub fn list(socket: &Socket, family: Option<Family>) -> Result<Vec<Rule>> {
    let mut body = RuleMessage::default();
    body.header.family = wire_or_any(family);
    socket.dump(Message::with_body(RTM_GETRULE, 0, "list rules", &body), |reply: Reply<'_>| {
        (reply.kind == RTM_NEWRULE).then(|| Rule::parse(reply.body)).flatten()
    })
}

/// Adds a rule, like `ip rule add`.
///
/// # Errors
///
/// [`is_exists`](crate::Error::is_exists) when the same rule is there.
pub fn add(socket: &Socket, rule: &Rule) -> Result<()> {
    socket.request(rule.add_message())
}

/// Deletes the first rule that has everything this one gives, like
/// `ip rule del`.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when there is none.
pub fn delete(socket: &Socket, rule: &Rule) -> Result<()> {
    socket.request(rule.delete_message())
}

#[cfg(test)]
mod tests;
