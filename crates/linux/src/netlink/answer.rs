//! What comes back for a request: replies, acknowledgements, refusals with
//! the kernel's explanation, or nothing readable at all.

use std::borrow::Cow;

use nix::libc;

use super::attrs::{Attrs, HEADER_LEN, Messages, RawMessage, align, field_u32};
use super::{Message, Reply};
use crate::error::{Error, Result};
use crate::uapi::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSGERR_ATTR_MISS_TYPE, NLMSGERR_ATTR_MSG,
};

/// The messages in a datagram, for those who read notifications.
pub(crate) fn replies(datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    Messages::new(datagram).map(Reply::from)
}

/// What came back for one message of an exchange.
pub(super) enum Answer<'a> {
    Reply(Reply<'a>),
    Outcome(Result<()>),
}

impl<'a> From<RawMessage<'a>> for Reply<'a> {
    fn from(raw: RawMessage<'a>) -> Reply<'a> {
        Reply { kind: raw.kind, flags: raw.flags, body: raw.body }
    }
}

/// Why no datagram could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveError {
    /// The datagram had this many bytes, more than the buffer.
    Truncated(usize),
    Errno(i32),
}

impl ReceiveError {
    pub(super) fn into_error(self, operation: impl Into<Cow<'static, str>>) -> Error {
        match self {
            ReceiveError::Truncated(len) => {
                Error::protocol(operation, format!("an answer of {len} bytes was cut off"))
            }
            ReceiveError::Errno(libc::EAGAIN) => {
                Error::timed_out(operation).hint("the kernel did not answer")
            }
            ReceiveError::Errno(libc::ENOBUFS) => Error::from_errno(operation, libc::ENOBUFS)
                .hint("answers were lost, so the outcome is unknown"),
            ReceiveError::Errno(errno) => Error::from_errno(operation, errno),
        }
    }

    pub(super) fn in_operation(self, message: &Message) -> Receive {
        match self {
            ReceiveError::Truncated(len) => Receive::Truncated(len),
            error => Receive::Error(error.into_error(message.operation_cow())),
        }
    }
}

/// [`ReceiveError`] once it is known what was being done.
pub(super) enum Receive {
    Truncated(usize),
    Error(Error),
}

impl From<Error> for Receive {
    fn from(error: Error) -> Receive {
        Receive::Error(error)
    }
}

/// Turns `NLMSG_ERROR` or `NLMSG_DONE` into the error it carries, with the
/// kernel's explanation.
pub(super) fn refusal(raw: &RawMessage<'_>, message: &Message) -> Result<()> {
    // NLMSG_DONE may come without a code on old kernels.
    let code = field_u32(raw.body, 0).map_or(0, |code| code.cast_signed());
    if code == 0 {
        return Ok(());
    }
    let attrs = if raw.flags & NLM_F_ACK_TLVS == 0 {
        Attrs::new(&[])
    } else if raw.kind == NLMSG_DONE {
        Attrs::after(raw.body, 4)
    } else if raw.flags & NLM_F_CAPPED != 0 {
        Attrs::after(raw.body, 4 + HEADER_LEN)
    } else {
        // The refused message stands between the code and the attributes.
        let refused = field_u32(raw.body, 4).map_or(usize::MAX / 2, |len| len as usize);
        Attrs::after(raw.body, 4 + align(refused))
    };
    let detail = match attrs.find(NLMSGERR_ATTR_MSG).and_then(|attr| attr.str()) {
        Some(text) => Some(text.to_owned()),
        None => attrs
            .find(NLMSGERR_ATTR_MISS_TYPE)
            .and_then(|attr| attr.u32())
            .map(|kind| format!("attribute {kind} is missing")),
    };
    let error = Error::from_errno(message.operation_cow(), code.saturating_neg()).detail(detail);
    Err(if error.errno() == Some(libc::EPERM) {
        error.hint("CAP_NET_ADMIN is needed in the network namespace")
    } else {
        error
    })
}

/// A dump the kernel broke off for a reason that passes.
pub(super) fn is_transient(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
