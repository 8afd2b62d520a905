//! Writing a request: a header, a fixed body, attributes.

use std::borrow::Cow;

use rtnetlink::packet_core::Emitable;

use super::attrs::{HEADER_LEN, align};

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// `NLM_F_REQUEST`, on everything that goes to the kernel.
const REQUEST: u16 = 1;

/// A request under construction, with the words for its error.
///
/// Attributes that do not fit their 16-bit length make the message unsendable:
/// [`Socket`](super::Socket) answers `EMSGSIZE` for it, so nothing is cut off
/// in silence.
#[derive(Clone, Debug)]
pub struct Message {
    buffer: Vec<u8>,
    operation: Cow<'static, str>,
    oversized: bool,
}

impl Message {
    /// A message of a type (`RTM_*`, ..) and flags (`NLM_F_*`; `NLM_F_REQUEST`
    /// is added), whose errors will start with `operation`.
    #[must_use]
    pub fn new(kind: u16, flags: u16, operation: impl Into<Cow<'static, str>>) -> Message {
        // A create with its attributes stays below this; most messages need
        // no second allocation.
        let mut buffer = Vec::with_capacity(256);
        buffer.extend(0_u32.to_ne_bytes());
        buffer.extend(kind.to_ne_bytes());
        buffer.extend((flags | REQUEST).to_ne_bytes());
        // The sequence number is filled in when sending; port 0 is the kernel.
        buffer.extend([0; 8]);
        let mut message = Message { buffer, operation: operation.into(), oversized: false };
        message.update_len();
        message
    }

    /// A message whose body is one of the typed messages of
    /// [`packet_route`](rtnetlink::packet_route).
    #[must_use]
    pub fn with_body(
        kind: u16,
        flags: u16,
        operation: impl Into<Cow<'static, str>>,
        body: &impl Emitable,
    ) -> Message {
        let mut message = Message::new(kind, flags, operation);
        let start = message.buffer.len();
        message.buffer.resize(start + body.buffer_len(), 0);
        // The slice is exactly the length the body asked for.
        body.emit(&mut message.buffer[start..]);
        message.pad();
        message.update_len();
        message
    }

    /// The same message with other words for its error.
    #[must_use]
    pub fn operation(mut self, operation: impl Into<Cow<'static, str>>) -> Message {
        self.operation = operation.into();
        self
    }

    /// Appends a fixed header such as `struct ifinfomsg`, padded to 4 bytes.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Message {
        self.buffer.extend_from_slice(bytes);
        self.pad();
        self.update_len();
        self
    }

    /// Appends an attribute with raw bytes.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Message {
        let Ok(len) = u16::try_from(payload.len() + 4) else {
            self.oversized = true;
            return self;
        };
        self.buffer.extend_from_slice(&len.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.put(payload)
    }

    /// Appends an attribute without a value.
    pub fn attr_flag(&mut self, kind: u16) -> &mut Message {
        self.attr(kind, &[])
    }

    /// Appends a byte.
    pub fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Message {
        self.attr(kind, &[value])
    }

    /// Appends a value in host byte order.
    pub fn attr_u16(&mut self, kind: u16, value: u16) -> &mut Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a value in host byte order.
    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a value in host byte order.
    pub fn attr_u64(&mut self, kind: u16, value: u64) -> &mut Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a value in network byte order.
    pub fn attr_be16(&mut self, kind: u16, value: u16) -> &mut Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a value in network byte order.
    pub fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a value in network byte order.
    pub fn attr_be64(&mut self, kind: u16, value: u64) -> &mut Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends text and its terminating NUL.
    pub fn attr_str(&mut self, kind: u16, text: &str) -> &mut Message {
        let Ok(len) = u16::try_from(text.len() + 5) else {
            self.oversized = true;
            return self;
        };
        self.buffer.extend_from_slice(&len.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(text.as_bytes());
        self.put(&[0])
    }

    /// Appends an attribute (with `NLA_F_NESTED`) that holds what `fill`
    /// appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Message {
        self.nest_unflagged(kind | NESTED, fill)
    }

    /// Like [`Message::nest`] without the flag, as the older parts of
    /// rtnetlink are written by iproute2.
    pub fn nest_unflagged(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Message {
        let start = self.buffer.len();
        self.attr(kind, &[]);
        fill(self);
        match u16::try_from(self.buffer.len() - start) {
            Ok(len) => self.buffer[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.oversized = true,
        }
        self
    }

    /// The type (`RTM_*`, ..).
    #[must_use]
    pub fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.buffer[4], self.buffer[5]])
    }

    /// The flags (`NLM_F_*`).
    #[must_use]
    pub fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.buffer[6], self.buffer[7]])
    }

    /// Adds flags (`NLM_F_*`).
    pub fn add_flags(&mut self, flags: u16) -> &mut Message {
        let flags = self.flags() | flags;
        self.buffer[6..8].copy_from_slice(&flags.to_ne_bytes());
        self
    }

    /// The whole message, header included.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// What errors of this message start with.
    #[must_use]
    pub fn operation_text(&self) -> &str {
        &self.operation
    }

    pub(super) fn operation_cow(&self) -> Cow<'static, str> {
        self.operation.clone()
    }

    pub(super) fn is_oversized(&self) -> bool {
        self.oversized
    }

    pub(super) fn set_sequence(&mut self, sequence: u32) {
        self.buffer[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.buffer.resize(align(self.buffer.len()), 0);
    }

    fn update_len(&mut self) {
        match u32::try_from(self.buffer.len()) {
            Ok(len) => self.buffer[..4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.oversized = true,
        }
        debug_assert!(self.buffer.len() >= HEADER_LEN, "the header is written first");
    }
}

#[cfg(test)]
mod tests {
    use super::super::attrs::{Attrs, Messages};
    use super::*;

    #[test]
    fn nested_lengths_cover_their_content() {
        let mut message = Message::new(16, 4, "test");
        message.put(&[0; 16]).attr_str(3, "eth0").nest(18, |info| {
            info.attr_str(1, "veth").nest_unflagged(2, |data| {
                data.attr_u16(7, 0x0102);
            });
        });
        let raw = Messages::new(message.as_bytes()).next().expect("one message");
        assert_eq!((raw.kind, raw.flags), (16, 5));
        assert_eq!(raw.body.len() + HEADER_LEN, message.as_bytes().len());
        let attrs = Attrs::after(raw.body, 16);
        assert_eq!(attrs.find(3).and_then(|a| a.str()), Some("eth0"));
        let info = attrs.find(18).expect("info").nested();
        assert_eq!(info.find(1).and_then(|a| a.str()), Some("veth"));
        let data = info.find(2).expect("data").nested();
        assert_eq!(data.find(7).and_then(|a| a.u16()), Some(0x0102));
    }

    #[test]
    fn too_long_attributes_make_the_message_unsendable() {
        let mut message = Message::new(16, 0, "test");
        message.attr(1, &vec![0; 65_531]);
        assert!(!message.is_oversized());
        message.attr(1, &vec![0; 65_532]);
        assert!(message.is_oversized());

        let mut message = Message::new(16, 0, "test");
        message.nest(1, |inner| {
            inner.attr(2, &[0; 40_000]).attr(2, &[0; 40_000]);
        });
        assert!(message.is_oversized());
    }
}
