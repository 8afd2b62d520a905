//! Objects as netlink messages, and back.
//!
//! Numbers are those of include/uapi/linux/netfilter/nf_tables.h at v6.18; the
//! layout of user data, in which nft keeps comments, is that of libnftnl 1.2.4
//! (include/libnftnl/udata.h).

mod compat;
mod read;

use crate::netlink::Message;
use crate::uapi::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::chain::{COMMENT_MAX, Chain, Family, Hook, Policy};
use super::compile::compile;
use super::decompile::as_shown;
use super::expr::{LIST_ELEM, put_data, put_verdict};
use super::rule::{Rule, Statement};
use super::set::{Data, Element, Elements, Set, SetData, Type};
use super::transaction::{Object, Operation, Verb};
use super::unnamed;
use super::value::{Cause, bounds, check_name, encode, words};

pub(crate) use self::read::{assemble, chain, elements, rule, rule_comment, set, single, table};

/// `NFNL_SUBSYS_NFTABLES`, include/uapi/linux/netfilter/nfnetlink.h.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `sizeof(struct nfgenmsg)`.
pub(crate) const HEADER_LEN: usize = 4;
pub(super) const NESTED: u16 = 0x8000;

/// `NFT_MSG_NEW*` of each kind of object; its get and delete follow it.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Table = 0,
    Chain = 3,
    Rule = 6,
    Set = 9,
    Elements = 12,
    Generation = 15,
}

impl Kind {
    fn make(self) -> u16 {
        self as u16
    }

    fn get(self) -> u16 {
        self as u16 + 1
    }

    fn delete(self) -> u16 {
        self as u16 + 2
    }

    /// `NFT_MSG_DESTROY*`, since 6.3.
    fn destroy(self) -> u16 {
        26 + self as u16 / 3
    }
}

/// Elements in one message: each takes at most about 1 KiB (a comment, a chain
/// name, both ends of a range), and the list has to fit 64 KiB.
pub(super) const ELEMENTS_PER_MESSAGE: usize = 48;

/// `NFT_SET_*`
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
pub(super) const SET_CONCAT: u32 = 0x80;
/// `NFT_DATA_VERDICT`
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// `NFT_SET_ELEM_INTERVAL_END`
const ELEMENT_INTERVAL_END: u32 = 1;
/// Bits of each type number in the number of a concatenation.
const TYPE_BITS: u32 = 6;

fn message(kind: u16, flags: u16, family: Option<Family>) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | kind, flags, "");
    message.put(&[family.map_or(0, Family::number), 0, 0, 0]);
    message
}

/// Asks for objects of a kind; attributes that narrow the question are to
/// follow.
pub(crate) fn get(kind: Kind, family: Option<Family>) -> Message {
    message(kind.get(), 0, family)
}

/// Makes an object of a kind; its attributes are to follow.
pub(super) fn make(kind: Kind, family: Family) -> Message {
    message(kind.make(), NLM_F_CREATE, Some(family))
}

/// Asks for the elements of a set: all, or those of the keys of some.
pub(crate) fn get_elements(set: &Set, elements: &[Element]) -> Result<Message, Cause> {
    let mut message = get(Kind::Elements, Some(set.family));
    message.attr_str(1, &set.table).attr_str(2, &set.name);
    put_elements(&mut message, set, elements, false)?;
    Ok(message)
}

/// The messages of one operation.
pub(crate) fn operation(operation: &Operation, set_id: u32) -> Result<Vec<Message>, Cause> {
    let Operation { verb, object } = operation;
    let family = Some(object.family());
    let made = match (verb, object) {
        (Verb::Insert, Object::Rule(_)) => NLM_F_CREATE,
        (Verb::Add | Verb::Create, Object::Rule(_)) => NLM_F_CREATE | NLM_F_APPEND,
        (Verb::Add, _) => NLM_F_CREATE,
        (Verb::Create, _) => NLM_F_CREATE | NLM_F_EXCL,
        (Verb::Replace, Object::Rule(_)) => NLM_F_REPLACE,
        _ => 0,
    };
    check_name(object.table())?;
    Ok(match (verb, object) {
        (Verb::Add | Verb::Create, Object::Table(table)) => {
            let mut out = message(Kind::Table.make(), made, family);
            out.attr_str(1, &table.name);
            if table.dormant {
                out.attr_be32(2, 1);
            }
            put_comment(&mut out, 6, 0, table.comment.as_deref())?;
            vec![out]
        }
        (Verb::Add | Verb::Create, Object::Chain(chain)) => {
            let mut out = message(Kind::Chain.make(), made, family);
            put_chain(&mut out, chain)?;
            vec![out]
        }
        (Verb::Add | Verb::Create | Verb::Insert | Verb::Replace, Object::Rule(rule)) => {
            let mut out = message(Kind::Rule.make(), made, family);
            put_rule(&mut out, *verb, rule, set_id)?;
            let mut messages = unnamed::messages(rule, set_id);
            messages.push(out);
            messages
        }
        (Verb::Add | Verb::Create, Object::Set(set)) => {
            let mut out = message(Kind::Set.make(), made, family);
            put_set(&mut out, set, set_id)?;
            vec![out]
        }
        (Verb::Add | Verb::Create, Object::Elements(elements)) => {
            element_messages(Kind::Elements.make(), made, elements, true)?
        }
        (Verb::Flush, Object::Table(table)) => {
            let mut out = message(Kind::Rule.delete(), 0, family);
            out.attr_str(1, &table.name);
            vec![out]
        }
        (Verb::Flush, Object::Chain(chain)) => {
            let mut out = message(Kind::Rule.delete(), 0, family);
            out.attr_str(1, &chain.table).attr_str(2, &chain.name);
            vec![out]
        }
        (Verb::Flush, Object::Set(set)) => {
            let mut out = message(Kind::Elements.delete(), 0, family);
            out.attr_str(1, &set.table).attr_str(2, &set.name);
            vec![out]
        }
        (Verb::Delete, object) => remove(Kind::delete, object)?,
        (Verb::Destroy, object) => remove(Kind::destroy, object)?,
        (Verb::Insert | Verb::Replace, _) => return Err("only rules have a position".into()),
        (Verb::Flush, Object::Rule(_) | Object::Elements(_)) => {
            return Err("there is nothing inside to flush".into());
        }
    })
}

fn remove(number: fn(Kind) -> u16, object: &Object) -> Result<Vec<Message>, Cause> {
    let family = Some(object.family());
    let mut out = match object {
        Object::Table(_) => message(number(Kind::Table), 0, family),
        Object::Chain(_) => message(number(Kind::Chain), 0, family),
        Object::Rule(_) => message(number(Kind::Rule), 0, family),
        Object::Set(_) => message(number(Kind::Set), 0, family),
        Object::Elements(elements) => {
            return element_messages(number(Kind::Elements), 0, elements, false);
        }
    };
    match object {
        Object::Table(table) => {
            out.attr_str(1, &table.name);
        }
        Object::Chain(chain) => {
            out.attr_str(1, &chain.table).attr_str(3, &chain.name);
        }
        Object::Rule(rule) => {
            // Without a handle the kernel would remove every rule of the chain.
            let handle = rule.handle.ok_or("a rule is removed by its handle, and it has none")?;
            out.attr_str(1, &rule.table).attr_str(2, &rule.chain).attr_be64(3, handle);
        }
        Object::Set(set) => {
            out.attr_str(1, &set.table).attr_str(2, &set.name);
        }
        Object::Elements(_) => {}
    }
    Ok(vec![out])
}

fn put_chain(out: &mut Message, chain: &Chain) -> Result<(), Cause> {
    check_name(&chain.name)?;
    out.attr_str(1, &chain.table).attr_str(3, &chain.name);
    if let Some(base) = &chain.base {
        if matches!(base.hook, Hook::Other(_)) || base.device.is_some() {
            return Err("chains on a device's hook are only read".into());
        }
        out.nest(4, |hook| {
            hook.attr_be32(1, base.hook.number());
            hook.attr_be32(2, base.priority.cast_unsigned());
        });
        out.attr_be32(5, u32::from(base.policy == Policy::Accept));
        out.attr_str(7, base.kind.name());
    }
    put_comment(out, 12, 0, chain.comment.as_deref())
}

fn put_rule(out: &mut Message, verb: Verb, rule: &Rule, set_id: u32) -> Result<(), Cause> {
    check_name(&rule.chain)?;
    out.attr_str(1, &rule.table).attr_str(2, &rule.chain);
    if verb == Verb::Replace {
        let handle = rule.handle.ok_or("a rule is replaced by its handle, and it has none")?;
        out.attr_be64(3, handle);
    }
    if let [Statement::Opaque(bytes)] = rule.statements.as_slice() {
        match rule.unnamed.as_slice() {
            [] => out.attr(4 | NESTED, bytes),
            _ => unnamed::put_expressions(out, rule, set_id, bytes),
        };
        compat::put(out, bytes);
    } else {
        // In the form that is also printed.
        let program = compile(rule.family, &as_shown(rule.family, &rule.statements))?;
        out.nest(4, |list| program.iter().for_each(|expr| expr.write(list)));
    }
    if verb != Verb::Replace
        && let Some(position) = rule.position
    {
        out.attr_be64(6, position);
    }
    put_comment(out, 7, 0, rule.comment.as_deref())
}

fn put_set(out: &mut Message, set: &Set, id: u32) -> Result<(), Cause> {
    check_name(&set.name)?;
    if set.other_flags != 0 {
        return Err("the set was read with flags that are not written".into());
    }
    let concatenated = set.key.len() > 1;
    let mut flags = 0;
    if set.interval {
        flags |= SET_INTERVAL;
        if concatenated {
            flags |= SET_CONCAT;
        } else if set.key.iter().any(|kind| kind.is_host_order()) {
            return Err("there are no ranges of marks and names".into());
        }
    }
    if set.data.is_some() {
        flags |= SET_MAP;
    }
    out.attr_str(1, &set.table).attr_str(2, &set.name).attr_be32(3, flags);
    put_types(out, [4, 5], &set.key)?;
    match &set.data {
        None => {}
        Some(SetData::Verdict) => {
            out.attr_be32(6, DATA_TYPE_VERDICT).attr_be32(7, 0);
        }
        Some(SetData::Values(types)) => put_types(out, [6, 7], types)?,
    }
    out.attr_be32(10, id);
    if flags & SET_CONCAT != 0 {
        out.nest(9, |description| {
            description.nest(2, |fields| {
                for kind in &set.key {
                    fields.nest(LIST_ELEM, |field| {
                        let size = kind.size().unwrap_or(0);
                        field.attr_be32(1, u32::try_from(size).unwrap_or(0));
                    });
                }
            });
        });
    }
    out.attr(13, &set_user_data(set)?);
    Ok(())
}

/// The type number and length of a key or of data.
fn put_types(out: &mut Message, [kind, len]: [u16; 2], types: &[Type]) -> Result<(), Cause> {
    let mut number = 0;
    let mut size = 0;
    for part in types {
        let part_size = part.size().ok_or("the set has a type that is only read")?;
        number = number << TYPE_BITS | part.number();
        size += if types.len() == 1 { part_size } else { words(*part) * 4 };
    }
    // Five types of 6 bits fit the number; 16 registers of 4 bytes hold a key.
    if types.is_empty() || types.len() > 5 || size > 64 {
        return Err("a key or data has one to five parts, of 64 bytes together".into());
    }
    out.attr_be32(kind, number).attr_be32(len, u32::try_from(size).unwrap_or(u32::MAX));
    Ok(())
}

/// What nft remembers about a set: in which byte order it shows keys (0) and
/// data (1), whether data are ranges (6), the comment (7).
fn set_user_data(set: &Set) -> Result<Vec<u8>, Cause> {
    let order = |types: &[Type]| match types {
        [one] if one.is_big_endian() => 2,
        [_] => 1,
        _ => 0,
    };
    let mut bytes = Vec::new();
    let mut number = |kind: u8, value: u32| {
        bytes.extend([kind, 4]);
        bytes.extend(value.to_ne_bytes());
    };
    number(0, order(&set.key));
    if let Some(data) = &set.data {
        number(1, if let SetData::Values(types) = data { order(types) } else { 0 });
        number(6, 0);
    }
    if let Some(comment) = &set.comment {
        bytes.extend(comment_data(7, comment)?);
    }
    Ok(bytes)
}

fn put_comment(out: &mut Message, attr: u16, kind: u8, comment: Option<&str>) -> Result<(), Cause> {
    if let Some(comment) = comment {
        out.attr(attr, &comment_data(kind, comment)?);
    }
    Ok(())
}

/// A comment in user data: type, length with the NUL, text, NUL.
fn comment_data(kind: u8, comment: &str) -> Result<Vec<u8>, Cause> {
    if comment.len() > COMMENT_MAX {
        let len = comment.len();
        return Err(format!("a comment may have {COMMENT_MAX} bytes, not {len}").into());
    }
    if comment.chars().any(|c| c == '"' || c.is_control()) {
        return Err("nft comments cannot hold quotes and control characters".into());
    }
    // At most COMMENT_MAX, as just checked.
    let len = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![kind, len];
    bytes.extend(comment.as_bytes());
    bytes.push(0);
    Ok(bytes)
}

fn element_messages(
    kind: u16,
    flags: u16,
    elements: &Elements,
    with_data: bool,
) -> Result<Vec<Message>, Cause> {
    let set = &elements.set;
    check_name(&set.name)?;
    let mut out = Vec::new();
    for chunk in elements.elements.chunks(ELEMENTS_PER_MESSAGE) {
        let mut message = message(kind, flags, Some(set.family));
        message.attr_str(1, &set.table).attr_str(2, &set.name);
        put_elements(&mut message, set, chunk, with_data)?;
        out.push(message);
    }
    Ok(out)
}

/// An element ready to be written.
struct Encoded<'a> {
    first: Vec<u8>,
    /// The end of a range of a concatenated key.
    last: Option<Vec<u8>>,
    /// The value behind a range of a simple key: a second element marks it.
    behind: Option<Vec<u8>>,
    data: Option<EncodedData<'a>>,
    comment: Option<Vec<u8>>,
}

enum EncodedData<'a> {
    Verdict(&'a super::rule::Verdict),
    Value(Vec<u8>),
}

fn put_elements(
    out: &mut Message,
    set: &Set,
    elements: &[Element],
    with_data: bool,
) -> Result<(), Cause> {
    if elements.is_empty() {
        return Ok(());
    }
    let encoded = elements
        .iter()
        .map(|element| encode_element(set, element, with_data))
        .collect::<Result<Vec<_>, _>>()?;
    out.nest(3, |list| {
        for element in &encoded {
            list.nest(LIST_ELEM, |inner| {
                put_data(inner, 1, &element.first);
                if let Some(last) = &element.last {
                    put_data(inner, 10, last);
                }
                match &element.data {
                    Some(EncodedData::Verdict(verdict)) => put_verdict(inner, 2, verdict),
                    Some(EncodedData::Value(bytes)) => put_data(inner, 2, bytes),
                    None => {}
                }
                if let Some(comment) = &element.comment {
                    inner.attr(6, comment);
                }
            });
            if let Some(behind) = &element.behind {
                list.nest(LIST_ELEM, |end| {
                    end.attr_be32(3, ELEMENT_INTERVAL_END);
                    put_data(end, 1, behind);
                });
            }
        }
    });
    Ok(())
}

fn encode_element<'a>(
    set: &Set,
    element: &'a Element,
    with_data: bool,
) -> Result<Encoded<'a>, Cause> {
    if element.key.len() != set.key.len() {
        return Err(format!("the key of {element} has not the parts of the set's").into());
    }
    let mut first = Vec::new();
    let mut last = Vec::new();
    for (value, kind) in element.key.iter().zip(&set.key) {
        let (from, to) = if set.interval {
            bounds(value, *kind)?
        } else {
            let bytes = encode(value, *kind)?;
            (bytes.clone(), bytes)
        };
        let padded = if set.key.len() > 1 { words(*kind) * 4 } else { from.len() };
        for (whole, part) in [(&mut first, from), (&mut last, to)] {
            let end = whole.len() + padded;
            whole.extend(part);
            whole.resize(end, 0);
        }
    }
    let ranges = set.interval && set.key.len() > 1;
    let behind = if set.interval && !ranges { next(&last) } else { None };
    let data = match (&element.data, &set.data) {
        _ if !with_data => None,
        (None, None) => None,
        (Some(Data::Verdict(verdict)), Some(SetData::Verdict)) => {
            Some(EncodedData::Verdict(verdict))
        }
        (Some(Data::Values(values)), Some(SetData::Values(types)))
            if values.len() == types.len() =>
        {
            let mut bytes = Vec::new();
            for (value, kind) in values.iter().zip(types) {
                bytes.extend(encode(value, *kind)?);
                if types.len() > 1 {
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
            }
            Some(EncodedData::Value(bytes))
        }
        _ => return Err(format!("the data of {element} is not what the set holds").into()),
    };
    let comment = match &element.comment {
        Some(comment) if with_data => Some(comment_data(0, comment)?),
        _ => None,
    };
    Ok(Encoded { first, last: ranges.then_some(last), behind, data, comment })
}

/// Whether two elements of a set have the same key, however it is written.
pub(crate) fn same_key(set: &Set, a: &Element, b: &Element) -> bool {
    let ends = |element: &Element| -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        element.key.iter().zip(&set.key).map(|(value, kind)| bounds(value, *kind).ok()).collect()
    };
    a.key.len() == b.key.len() && ends(a).is_some_and(|key| ends(b) == Some(key))
}

/// The number after a big-endian one; `None` after the last.
fn next(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
