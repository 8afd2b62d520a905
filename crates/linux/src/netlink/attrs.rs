//! Reading attributes and message headers from bytes nobody vouches for.
//!
//! Lengths come from the kernel, but also from whatever the kernel grew since
//! this was written: the walk never panics, stops at the first attribute that
//! does not fit, and ignores what it does not know.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bits of an attribute's type that are not flags
/// (`NLA_TYPE_MASK`, include/uapi/linux/netlink.h at v6.18).
const TYPE_MASK: u16 = 0x3fff;

/// Bytes of a netlink message header (`struct nlmsghdr`).
pub(crate) const HEADER_LEN: usize = 16;

/// An iterator over the attributes in a message body or a nested attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// Walks `bytes`, which start with an attribute header.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Attrs<'a> {
        Attrs { rest: bytes }
    }

    /// Walks what follows a fixed header of `header_len` bytes, such as the 16
    /// of `struct ifinfomsg`; nothing if the body is shorter than that.
    #[must_use]
    pub fn after(body: &'a [u8], header_len: usize) -> Attrs<'a> {
        Attrs { rest: body.get(align(header_len)..).unwrap_or_default() }
    }

    /// The first attribute of a type.
    #[must_use]
    pub fn find(mut self, kind: u16) -> Option<Attr<'a>> {
        self.by_ref().find(|attr| attr.kind == kind)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let header: [u8; 4] = *self.rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let Some(payload) = self.rest.get(4..len) else {
            self.rest = &[];
            return None;
        };
        // The last attribute of a message may lack its padding.
        self.rest = self.rest.get(align(len)..).unwrap_or_default();
        Some(Attr { kind, payload })
    }
}

/// One attribute: its type without flags, and its value.
///
/// The typed accessors answer `None` when the value is too short; a longer one
/// is read by its first bytes, as the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<'a> {
    /// The type (`IFLA_*`, `IFA_*`, ..) without `NLA_F_NESTED` and the like.
    pub kind: u16,
    /// The value without padding.
    pub payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The value as one byte.
    #[must_use]
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The value in host byte order.
    #[must_use]
    pub fn u16(&self) -> Option<u16> {
        self.payload.first_chunk().copied().map(u16::from_ne_bytes)
    }

    /// The value in host byte order.
    #[must_use]
    pub fn u32(&self) -> Option<u32> {
        self.payload.first_chunk().copied().map(u32::from_ne_bytes)
    }

    /// The value in host byte order.
    #[must_use]
    pub fn i32(&self) -> Option<i32> {
        self.payload.first_chunk().copied().map(i32::from_ne_bytes)
    }

    /// The value in host byte order.
    #[must_use]
    pub fn u64(&self) -> Option<u64> {
        self.payload.first_chunk().copied().map(u64::from_ne_bytes)
    }

    /// The value in network byte order.
    #[must_use]
    pub fn be16(&self) -> Option<u16> {
        self.payload.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// The value in network byte order.
    #[must_use]
    pub fn be32(&self) -> Option<u32> {
        self.payload.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// The value in network byte order.
    #[must_use]
    pub fn be64(&self) -> Option<u64> {
        self.payload.first_chunk().copied().map(u64::from_be_bytes)
    }

    /// The text before the first NUL, or all of it; `None` if not UTF-8.
    #[must_use]
    pub fn str(&self) -> Option<&'a str> {
        let text = self.payload.split(|&byte| byte == 0).next()?;
        std::str::from_utf8(text).ok()
    }

    /// The text before the first NUL, or all of it, with what is not UTF-8
    /// replaced: the names of links may be any bytes.
    #[must_use]
    pub fn text_lossy(&self) -> Cow<'a, str> {
        let text = self.payload.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text)
    }

    /// An address: 4 bytes are IPv4, 16 are IPv6.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        ip_from_bytes(self.payload)
    }

    /// The attributes inside this one.
    #[must_use]
    pub fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.payload)
    }
}

pub(crate) fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// Rounds up to the 4 bytes on which headers and attributes start.
pub(crate) fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// The messages in one datagram.
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(crate) fn new(datagram: &'a [u8]) -> Messages<'a> {
        Messages { rest: datagram }
    }
}

/// A message as it came: header fields and body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawMessage<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = RawMessage<'a>;

    fn next(&mut self) -> Option<RawMessage<'a>> {
        let header: &[u8; HEADER_LEN] = self.rest.first_chunk()?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = self.rest.get(HEADER_LEN..len) else {
            self.rest = &[];
            return None;
        };
        let message = RawMessage {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body,
        };
        self.rest = self.rest.get(align(len)..).unwrap_or_default();
        Some(message)
    }
}

/// A field of a fixed header in host byte order; `None` past the end.
pub(crate) fn field_u8(body: &[u8], offset: usize) -> Option<u8> {
    body.get(offset).copied()
}

/// See [`field_u8`].
pub(crate) fn field_u16(body: &[u8], offset: usize) -> Option<u16> {
    body.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// See [`field_u8`].
pub(crate) fn field_u32(body: &[u8], offset: usize) -> Option<u32> {
    body.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attr(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = u16::try_from(payload.len() + 4).expect("short payload");
        bytes.extend(len.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    #[test]
    fn walks_padding_and_flags() {
        let mut bytes = attr(3, b"eth0\0");
        bytes.extend(attr(4 | 0x8000, &1500_u32.to_ne_bytes()));
        let attrs: Vec<Attr> = Attrs::new(&bytes).collect();
        assert_eq!(attrs.len(), 2);
        assert_eq!((attrs[0].kind, attrs[0].str()), (3, Some("eth0")));
        assert_eq!((attrs[1].kind, attrs[1].u32()), (4, Some(1500)));
        assert_eq!(attrs[1].u64(), None);
    }

    #[test]
    fn last_attribute_may_lack_padding() {
        let mut bytes = attr(1, &[1, 2, 3, 4]);
        bytes.extend(attr(2, &[9]));
        bytes.truncate(bytes.len() - 3);
        let attrs: Vec<Attr> = Attrs::new(&bytes).collect();
        assert_eq!(attrs.last().and_then(Attr::u8), Some(9));
    }

    #[test]
    fn stops_at_a_lying_length() {
        for len in [0_u16, 3, 200] {
            let mut bytes = attr(1, &[7]);
            bytes.extend(len.to_ne_bytes());
            bytes.extend([9, 0, 1, 2]);
            assert_eq!(Attrs::new(&bytes).count(), 1, "length {len}");
        }
    }

    #[test]
    fn text_without_nul_is_all_of_it() {
        let bytes = attr(1, b"veth");
        assert_eq!(Attrs::new(&bytes).find(1).and_then(|a| a.str()), Some("veth"));
    }

    #[test]
    fn text_that_is_not_utf8_is_none_or_replaced() {
        let bytes = attr(1, b"et\xffh\0rest");
        let attr = Attrs::new(&bytes).find(1).expect("one attribute");
        assert_eq!(attr.str(), None);
        assert_eq!(attr.text_lossy(), "et\u{fffd}h");
    }

    proptest! {
        #[test]
        fn hostile_bytes_neither_panic_nor_loop(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut total = 0;
            for attr in Attrs::new(&bytes) {
                total += attr.payload.len() + 4;
                let _ = (attr.u8(), attr.u16(), attr.u32(), attr.u64(), attr.str(), attr.ip());
                let _ = (attr.be16(), attr.be32(), attr.be64(), attr.i32());
                for inner in attr.nested() {
                    let _ = inner.nested().count();
                }
            }
            prop_assert!(total <= bytes.len());
            let mut body = 0;
            for message in Messages::new(&bytes) {
                body += message.body.len() + HEADER_LEN;
            }
            prop_assert!(body <= bytes.len());
        }

        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec((1_u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut bytes = Vec::new();
            for (kind, payload) in &values {
                bytes.extend(attr(*kind, payload));
            }
            let read: Vec<(u16, Vec<u8>)> =
                Attrs::new(&bytes).map(|a| (a.kind, a.payload.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
