//! Objects from the kernel's messages.
//!
//! A message that makes no sense is no object; nothing here panics, whatever
//! the bytes.

use crate::netlink::{Attr, Attrs};

use super::{
    DATA_TYPE_VERDICT, ELEMENT_INTERVAL_END, HEADER_LEN, SET_CONCAT, SET_INTERVAL, SET_MAP,
    TYPE_BITS,
};
use crate::nft::chain::{Base, Chain, ChainType, Family, Hook, Policy, Table};
use crate::nft::decompile::decompile;
use crate::nft::expr::{Expr, data_of, verdict_of};
use crate::nft::rule::{Rule, Statement};
use crate::nft::set::{Data, Element, Set, SetData, Type, Value};
use crate::nft::value::{range_of, words};

/// The comment in user data.
fn comment_of(attr: Option<Attr<'_>>, kind: u8) -> Option<String> {
    let mut rest = attr?.payload;
    while let [found, len, tail @ ..] = rest {
        let value = tail.get(..usize::from(*len))?;
        if *found == kind {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return std::str::from_utf8(text).ok().map(str::to_owned);
        }
        rest = tail.get(usize::from(*len)..)?;
    }
    None
}

/// The number before a big-endian one; `None` before the first.
fn previous(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut previous = bytes.to_vec();
    for byte in previous.iter_mut().rev() {
        let (difference, borrow) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrow {
            return Some(previous);
        }
    }
    None
}

fn family_of(body: &[u8]) -> Option<Family> {
    Family::from_number(*body.first()?)
}

fn text(attrs: Attrs<'_>, kind: u16) -> Option<String> {
    attrs.find(kind)?.str().map(str::to_owned)
}

/// A message's body as a table.
pub(crate) fn table(body: &[u8]) -> Option<Table> {
    /// `NFT_TABLE_F_DORMANT` and `NFT_TABLE_F_OWNER`,
    /// include/uapi/linux/netfilter/nf_tables.h at v6.18.
    const DORMANT: u32 = 1;
    const OWNER: u32 = 2;
    let attrs = Attrs::after(body, HEADER_LEN);
    let flags = attrs.find(2).and_then(|flags| flags.be32()).unwrap_or_default();
    Some(Table {
        family: family_of(body)?,
        name: text(attrs, 1)?,
        comment: comment_of(attrs.find(6), 0),
        dormant: flags & DORMANT != 0,
        owned: flags & OWNER != 0,
        handle: attrs.find(4).and_then(|handle| handle.be64()),
    })
}

/// A message's body as a chain.
pub(crate) fn chain(body: &[u8]) -> Option<Chain> {
    let attrs = Attrs::after(body, HEADER_LEN);
    let family = family_of(body)?;
    let base = match attrs.find(4) {
        None => None,
        Some(hook) => Some(Base {
            kind: ChainType::from_name(attrs.find(7)?.str()?)?,
            hook: Hook::from_number(family, hook.nested().find(1)?.be32()?),
            priority: hook.nested().find(2)?.be32()?.cast_signed(),
            policy: match attrs.find(5).and_then(|policy| policy.be32()) {
                Some(0) => Policy::Drop,
                _ => Policy::Accept,
            },
            device: text(hook.nested(), 3),
        }),
    };
    Some(Chain {
        family,
        table: text(attrs, 1)?,
        name: text(attrs, 3)?,
        base,
        comment: comment_of(attrs.find(12), 0),
        handle: attrs.find(2).and_then(|handle| handle.be64()),
    })
}

/// The comment of a rule in a message's body, without reading the rest.
pub(crate) fn rule_comment(body: &[u8]) -> Option<String> {
    comment_of(Attrs::after(body, HEADER_LEN).find(7), 0)
}

/// A message's body as a rule.
pub(crate) fn rule(body: &[u8]) -> Option<Rule> {
    let attrs = Attrs::after(body, HEADER_LEN);
    let family = family_of(body)?;
    let statements = match attrs.find(4) {
        None => Vec::new(),
        Some(list) => {
            let program: Option<Vec<Expr>> = list.nested().map(Expr::parse).collect();
            program
                .and_then(|program| decompile(family, &program))
                .unwrap_or_else(|| vec![Statement::Opaque(list.payload.to_vec())])
        }
    };
    Some(Rule {
        family,
        table: text(attrs, 1)?,
        chain: text(attrs, 2)?,
        statements,
        comment: comment_of(attrs.find(7), 0),
        handle: attrs.find(3).and_then(|handle| handle.be64()),
        // The rule before this one; only of use in a request.
        position: None,
        unnamed: Vec::new(),
    })
}

/// A message's body as a set.
pub(crate) fn set(body: &[u8]) -> Option<Set> {
    let attrs = Attrs::after(body, HEADER_LEN);
    let number = |kind| attrs.find(kind).and_then(|attr| attr.be32());
    let flags = number(3).unwrap_or(0);
    let data = match number(6) {
        Some(DATA_TYPE_VERDICT) => Some(SetData::Verdict),
        Some(kind) if flags & SET_MAP != 0 => Some(SetData::Values(types_of(kind))),
        _ => None,
    };
    Some(Set {
        family: family_of(body)?,
        table: text(attrs, 1)?,
        name: text(attrs, 2)?,
        key: types_of(number(4)?),
        data,
        interval: flags & SET_INTERVAL != 0,
        comment: comment_of(attrs.find(13), 7),
        other_flags: flags & !(SET_INTERVAL | SET_MAP | SET_CONCAT),
        handle: attrs.find(16).and_then(|handle| handle.be64()),
    })
}

/// The types in the number of a type or concatenation.
fn types_of(number: u32) -> Vec<Type> {
    let mut types = Vec::new();
    let mut rest = number;
    loop {
        types.push(Type::from_number(rest & ((1 << TYPE_BITS) - 1)));
        rest >>= TYPE_BITS;
        if rest == 0 {
            types.reverse();
            return types;
        }
    }
}

/// An element as the kernel lists it: of a range over a simple key, one end.
pub(crate) struct RawElement {
    key: Vec<u8>,
    last: Option<Vec<u8>>,
    ends_interval: bool,
    data: Option<Data>,
    comment: Option<String>,
}

/// The elements in a message's body.
pub(crate) fn elements(set: &Set, body: &[u8]) -> impl Iterator<Item = RawElement> {
    let list = Attrs::after(body, HEADER_LEN).find(3);
    let elements = list.into_iter().flat_map(|list| list.nested());
    elements.filter_map(|element| raw_element(set, element))
}

fn raw_element(set: &Set, element: Attr<'_>) -> Option<RawElement> {
    let attrs = element.nested();
    let flags = attrs.find(3).and_then(|flags| flags.be32()).unwrap_or(0);
    let data = match (&set.data, attrs.find(2)) {
        (Some(SetData::Verdict), Some(attr)) => Some(Data::Verdict(verdict_of(attr)?)),
        (Some(SetData::Values(types)), attr @ Some(_)) => {
            let bytes = data_of(attr)?;
            Some(Data::Values(split(types, &bytes, &bytes)?))
        }
        _ => None,
    };
    Some(RawElement {
        // A catch-all element has no key; it is not ours.
        key: data_of(attrs.find(1))?,
        last: data_of(attrs.find(10)),
        ends_interval: flags & ELEMENT_INTERVAL_END != 0,
        data,
        comment: comment_of(attrs.find(6), 0),
    })
}

/// Splits the bytes of a concatenation, or of its two ends, into values.
fn split(types: &[Type], first: &[u8], last: &[u8]) -> Option<Vec<Value>> {
    if let [one] = types {
        return Some(vec![range_of(*one, first, last)?]);
    }
    if types.iter().any(|kind| kind.size().is_none()) {
        // Unknown types have unknown sizes.
        return Some(vec![Value::Bytes(first.to_vec())]);
    }
    let mut at = 0;
    let mut values = Vec::new();
    for kind in types {
        let end = at + kind.size()?;
        values.push(range_of(*kind, first.get(at..end)?, last.get(at..end)?)?);
        at += words(*kind) * 4;
    }
    Some(values)
}

/// An element of a set without ranges; none if it makes no sense.
pub(crate) fn single(set: &Set, raw: RawElement) -> Option<Element> {
    let RawElement { key, last, data, comment, .. } = raw;
    let key = split(&set.key, &key, last.as_ref().unwrap_or(&key))?;
    Some(Element { key, data, comment })
}

/// The elements of a set from all that the kernel listed, ranges put together.
/// Those that make no sense are left out.
pub(crate) fn assemble(set: &Set, mut raw: Vec<RawElement>) -> Vec<Element> {
    if !set.interval || set.key.len() != 1 {
        return raw.into_iter().filter_map(|raw| single(set, raw)).collect();
    }
    // Where one range starts right behind another, the end comes first.
    raw.sort_by(|a, b| (&a.key, !a.ends_interval).cmp(&(&b.key, !b.ends_interval)));
    let mut raw = raw.into_iter().peekable();
    let mut elements = Vec::new();
    while let Some(one) = raw.next() {
        if one.ends_interval {
            continue;
        }
        let last = match raw.peek() {
            Some(behind) => previous(&behind.key),
            // The last range may reach to the end of all values.
            None => Some(vec![u8::MAX; one.key.len()]),
        };
        elements.extend(single(set, RawElement { last, ..one }));
    }
    elements
}
