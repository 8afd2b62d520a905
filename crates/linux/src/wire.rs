//! Compares requests with those of iproute2, recorded with
//! `strace -e trace=sendmsg -e write=all` (iproute2 6.1.0, little endian).
//!
//! The order of attributes means nothing to the kernel, and iproute2's follows
//! its command line, so both sides are sorted before they are compared.

use crate::netlink::{Attrs, Message};
use crate::uapi::NLM_F_ACK;

/// Where attributes are nested: the types on the way, and the length of a fixed
/// header before the inner ones.
pub(crate) type Nest<'a> = (&'a [u16], usize);

/// Asserts that `message` says the same as the recorded bytes.
#[track_caller]
pub(crate) fn assert_same(message: &Message, header_len: usize, nests: &[Nest<'_>], hex: &str) {
    let recorded = bytes(hex);
    let ours = tree_of(message.as_bytes(), header_len, nests);
    let theirs = tree_of(&recorded, header_len, nests);
    assert_eq!(ours, theirs, "\nours:   {ours:#?}\ntheirs: {theirs:#?}");
}

/// Bytes from pairs of hexadecimal digits, white space between them ignored.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| {
            let pair: String = pair.iter().collect();
            u8::from_str_radix(&pair, 16).expect("hexadecimal digits")
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Header(u16, u16, Vec<u8>),
    Value(u16, Vec<u8>),
    Nested(u16, Vec<u8>, Vec<Node>),
}

fn tree_of(message: &[u8], header_len: usize, nests: &[Nest<'_>]) -> Vec<Node> {
    let (header, body) = message.split_at(16);
    let length = u32::from_ne_bytes(header[..4].try_into().expect("4 bytes"));
    assert_eq!(usize::try_from(length), Ok(message.len()), "length field");
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    // Acknowledgements are asked for when sending.
    let flags = u16::from_ne_bytes([header[6], header[7]]) | NLM_F_ACK;
    let (fixed, attributes) = body.split_at(header_len);
    let mut nodes = vec![Node::Header(kind, flags, fixed.to_vec())];
    nodes.extend(nodes_of(attributes, &mut Vec::new(), nests));
    nodes
}

fn nodes_of(bytes: &[u8], path: &mut Vec<u16>, nests: &[Nest<'_>]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Attrs::new(bytes)
        .map(|attr| {
            path.push(attr.kind);
            let nest = nests.iter().find(|(nest, _)| *nest == path.as_slice());
            let node = match nest {
                Some(&(_, header_len)) => {
                    let (fixed, inner) = attr.payload.split_at(header_len);
                    Node::Nested(attr.kind, fixed.to_vec(), nodes_of(inner, path, nests))
                }
                None => Node::Value(attr.kind, text_or_bytes(attr.payload)),
            };
            path.pop();
            node
        })
        .collect();
    nodes.sort();
    nodes
}

/// The kernel takes text with or without its NUL; iproute2 leaves it out of
/// kinds.
fn text_or_bytes(payload: &[u8]) -> Vec<u8> {
    let text = payload.strip_suffix(&[0]).unwrap_or(payload);
    let printable = text.len() > 1 && text.iter().all(|byte| byte.is_ascii_graphic());
    if printable { text.to_vec() } else { payload.to_vec() }
}
