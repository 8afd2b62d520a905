//! The sets without a name that nft makes of `{ .., .. }` in a rule. Such a set is
//! part of its rule and goes with it, so that whoever is to write the rule again has
//! to write its sets before it. Read and written as bytes, whatever they hold.

use std::ops::Range;

use crate::error::Result;
use crate::netlink::{Attrs, Message};

use super::chain::Family;
use super::expr::{BODY, LIST_ELEM, NAME};
use super::rule::{Rule, Statement};
use super::socket::Socket;
use super::wire::{self, ELEMENTS_PER_MESSAGE, HEADER_LEN, Kind, NESTED, SET_CONCAT};

/// What makes a set what it is: `NFTA_SET_FLAGS` to `_DESC`, `_TIMEOUT` to
/// `_USERDATA`, `_OBJ_TYPE`, `_EXPR` and `_EXPRESSIONS`.
const KEPT: [Range<u16>; 4] = [3..10, 11..14, 15..16, 17..19];

/// `NFTA_SET_FLAGS`
const SET_FLAGS: u16 = 3;

/// `NFTA_LOOKUP_SET` and `NFTA_LOOKUP_SET_ID`
const LOOKUP_SET: u16 = 1;
const LOOKUP_SET_ID: u16 = 4;

/// A set without a name that a rule looks something up in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unnamed {
    /// The kernel's name for it.
    name: String,
    attributes: Vec<(u16, Vec<u8>)>,
    /// Ascending where they are ranges, which the kernel insists on.
    elements: Vec<Vec<u8>>,
}

impl Socket {
    /// The rule with its sets without a name, to be written again. One that is gone
    /// meanwhile lacks them.
    pub(super) fn with_unnamed(&self, rule: &Rule) -> Result<Rule> {
        let mut unnamed: Vec<Unnamed> = Vec::new();
        for name in names(rule) {
            if unnamed.iter().all(|known| known.name != name) {
                unnamed.extend(self.unnamed(rule.family, &rule.table, name)?);
            }
        }
        Ok(Rule { unnamed, ..rule.clone() })
    }

    fn unnamed(&self, family: Family, table: &str, name: &str) -> Result<Option<Unnamed>> {
        let question = |kind| {
            let mut question = wire::get(kind, Some(family))
                .operation(format!("read set {name} of table {family} {table}"));
            question.attr_str(1, table).attr_str(2, name);
            question
        };
        let Some(attributes) = self.find(question(Kind::Set), attributes)? else { return Ok(None) };
        let lists = self.netlink.dump(question(Kind::Elements), |reply| Some(elements(reply.body)));
        let mut elements = match lists {
            Err(error) if error.is_not_found() => return Ok(None),
            lists => lists?.concat(),
        };
        // Of ranges the kernel lists the last one first, unless the key has parts.
        let flags = attributes.iter().find(|(kind, _)| *kind == SET_FLAGS);
        let flags = flags.and_then(|(_, bytes)| Some(u32::from_be_bytes(*bytes.first_chunk()?)));
        if flags.unwrap_or_default() & SET_CONCAT == 0 {
            elements.reverse();
        }
        Ok(Some(Unnamed { name: name.to_owned(), attributes, elements }))
    }
}

fn attributes(body: &[u8]) -> Option<Vec<(u16, Vec<u8>)>> {
    let all = Attrs::after(body, HEADER_LEN);
    let kept = all.filter(|attr| KEPT.iter().any(|range| range.contains(&attr.kind)));
    Some(kept.map(|attr| (attr.kind, attr.payload.to_vec())).collect())
}

fn elements(body: &[u8]) -> Vec<Vec<u8>> {
    let list = Attrs::after(body, HEADER_LEN).find(3).map(|list| list.nested());
    list.into_iter().flatten().map(|element| element.payload.to_vec()).collect()
}

/// The sets without a name that a rule refers to.
fn names(rule: &Rule) -> impl Iterator<Item = &str> {
    let expressions = match rule.statements.as_slice() {
        [Statement::Opaque(bytes)] => bytes.as_slice(),
        _ => &[],
    };
    Attrs::new(expressions).filter_map(|expression| unnamed_of(expression.nested()))
}

fn unnamed_of(expression: Attrs<'_>) -> Option<&str> {
    expression.find(NAME).filter(|name| name.str() == Some("lookup"))?;
    let set = expression.find(BODY)?.nested().find(LOOKUP_SET)?.str()?;
    set.starts_with("__").then_some(set)
}

/// The messages that make a rule's sets, for the rule that follows in the batch.
pub(super) fn messages(rule: &Rule, batch_id: u32) -> Vec<Message> {
    let mut out = Vec::new();
    for (at, set) in rule.unnamed.iter().enumerate() {
        let id = id(batch_id, at);
        let mut message = wire::make(Kind::Set, rule.family);
        message.attr_str(1, &rule.table).attr_str(2, &set.template()).attr_be32(10, id);
        for (kind, payload) in &set.attributes {
            // NFTA_SET_DESC, _EXPR, _EXPRESSIONS
            let flag = if matches!(kind, 9 | 17 | 18) { NESTED } else { 0 };
            message.attr(kind | flag, payload);
        }
        out.push(message);
        for some in set.elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut message = wire::make(Kind::Elements, rule.family);
            message.attr_str(1, &rule.table).attr_str(2, &set.template()).attr_be32(4, id);
            message.nest(3, |list| {
                for element in some {
                    list.attr(LIST_ELEM | NESTED, element);
                }
            });
            out.push(message);
        }
    }
    out
}

/// Adds the expressions of a rule, which look up in the sets that were made before it.
pub(super) fn put_expressions<'m>(
    out: &'m mut Message,
    rule: &Rule,
    batch_id: u32,
    bytes: &[u8],
) -> &'m mut Message {
    out.nest(4, |list| {
        for expression in Attrs::new(bytes) {
            let name = unnamed_of(expression.nested());
            let at = rule.unnamed.iter().position(|set| name == Some(set.name.as_str()));
            match (at.map(|at| (at, &rule.unnamed[at])), expression.nested().find(BODY)) {
                (Some((at, set)), Some(body)) => {
                    list.nest(LIST_ELEM, |lookup| {
                        lookup.attr_str(NAME, "lookup").nest(BODY, |out| {
                            let other = |kind| ![LOOKUP_SET, LOOKUP_SET_ID].contains(&kind);
                            for attr in body.nested().filter(|attr| other(attr.kind)) {
                                out.attr(attr.kind, attr.payload);
                            }
                            out.attr_str(LOOKUP_SET, &set.template());
                            out.attr_be32(LOOKUP_SET_ID, id(batch_id, at));
                        });
                    });
                }
                _ => {
                    list.attr(LIST_ELEM | NESTED, expression.payload);
                }
            }
        }
    })
}

/// A set's number in a batch: above those of its operations, which have one each.
fn id(batch_id: u32, at: usize) -> u32 {
    u32::try_from(at + 1).unwrap_or(u32::MAX) << 24 | batch_id
}

impl Unnamed {
    /// What the kernel makes a name of: `__set%d`.
    fn template(&self) -> String {
        format!("{}%d", self.name.trim_end_matches(|c: char| c.is_ascii_digit()))
    }
}
