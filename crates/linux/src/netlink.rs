//! One blocking netlink socket: send a request, read its answer, know what
//! failed and why.
//!
//! Netlink answers inside the send call, so there is nothing to multiplex: no
//! runtime, no threads. Replies are matched by sequence number; strays (late
//! answers, messages of other processes) are dropped. A socket belongs for
//! ever to the network namespace its creator was in, whatever the thread does
//! later.

mod answer;
mod attrs;
mod message;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys;

pub(crate) use self::answer::{ReceiveError, replies};
pub use self::attrs::{Attr, Attrs};
pub(crate) use self::attrs::{align, field_u8, field_u16, field_u32, ip_from_bytes};
pub use self::message::Message;

use self::answer::{Answer, Receive, is_transient, refusal};
use self::attrs::Messages;
use crate::error::{Error, Result};
use crate::uapi::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
};

/// Bytes of the receive buffer. The kernel sizes the parts of a dump by it, up
/// to 32 KiB (`netlink_recvmsg`, net/netlink/af_netlink.c at v6.18), and a dump
/// that arrives in one part cannot be interrupted.
const BUFFER_LEN: usize = 32 * 1024;

/// Seconds until a missing answer becomes an error. The kernel answers inside
/// the send, so this only keeps a broken kernel from hanging the process.
const ANSWER_TIMEOUT_S: i64 = 10;

/// How often a dump that changed while it was read is started over.
const DUMP_ATTEMPTS: usize = 100;

/// Messages per send. Every acknowledgement waits in the socket's receive
/// queue (about 800 bytes each of the default 208 KiB) until the last message
/// is processed; more would be lost.
const BATCH_LEN: usize = 128;

/// A netlink family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, rules, neighbours, traffic control.
    Route,
    /// Packet filter and connection tracking.
    Netfilter,
}

/// A blocking netlink socket in the namespace of the thread that opened it.
pub struct Socket {
    socket: sys::Socket,
    /// The sequence number of the last message sent.
    sequence: Cell<u32>,
    /// The receive buffer, between calls.
    spare: Cell<Vec<u8>>,
}

/// A message from the kernel: its type, flags and body after the header.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// `RTM_*` and the like.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The fixed header of the type, then attributes.
    pub body: &'a [u8],
}

impl Socket {
    /// Opens a socket in the network namespace the calling thread is in now.
    ///
    /// # Errors
    ///
    /// [`is_unsupported`](Error::is_unsupported) where the kernel lacks the
    /// family.
    pub fn open(protocol: Protocol) -> Result<Socket> {
        let (number, operation) = match protocol {
            Protocol::Route => (sys::protocols::NETLINK_ROUTE, "open route netlink socket"),
            Protocol::Netfilter => {
                (sys::protocols::NETLINK_NETFILTER, "open netfilter netlink socket")
            }
        };
        let failed = |error: &io::Error| Error::from_io(operation, error);
        let socket = sys::Socket::new(number).map_err(|error| failed(&error))?;
        ignore_unknown_option(socket.set_ext_ack(true)).map_err(|error| failed(&error))?;
        if protocol == Protocol::Route {
            // Makes the kernel honour the filters of a dump and refuse what it
            // does not understand instead of ignoring it (4.20 and later).
            ignore_unknown_option(socket.set_netlink_get_strict_chk(true))
                .map_err(|error| failed(&error))?;
        }
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_S, 0))
            .map_err(|errno| Error::from_errno(operation, errno as i32))?;
        // An echo for a link created in another namespace can be delivered to
        // this process's socket *there* (port numbers are per namespace, and
        // both are the process ID). Sockets therefore number from different
        // starts, so that no stray matches.
        let start = u32::try_from(socket.as_raw_fd()).unwrap_or_default() << 20;
        Ok(Socket { socket, sequence: Cell::new(start), spare: Cell::new(Vec::new()) })
    }

    /// Opens a socket for links, addresses and routes; see [`Socket::open`].
    ///
    /// # Errors
    ///
    /// Those of [`Socket::open`].
    pub fn route() -> Result<Socket> {
        Socket::open(Protocol::Route)
    }

    /// Sends a message and waits for its acknowledgement.
    ///
    /// # Errors
    ///
    /// The kernel's, starting with the message's operation.
    pub fn request(&self, message: Message) -> Result<()> {
        self.request_with(message, 0, |_| {})
    }

    /// Sends a message with `NLM_F_ECHO` and hands every reply to `on_reply`
    /// before the acknowledgement. Kernels that know no echo for the message
    /// send none: `on_reply` is then not called.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::request`].
    pub fn request_echo(&self, message: Message, on_reply: impl FnMut(Reply<'_>)) -> Result<()> {
        self.request_with(message, NLM_F_ECHO, on_reply)
    }

    fn request_with(
        &self,
        mut message: Message,
        flags: u16,
        mut on_reply: impl FnMut(Reply<'_>),
    ) -> Result<()> {
        message.add_flags(NLM_F_ACK | flags);
        let mut result = Ok(());
        self.exchange(std::slice::from_mut(&mut message), &mut |_, answer| match answer {
            Answer::Reply(reply) => on_reply(reply),
            Answer::Outcome(outcome) => result = outcome,
        })?;
        result
    }

    /// Sends messages together, each with an acknowledgement, and answers the
    /// first error ([`Error::batch_index`] says which message).
    ///
    /// The kernel goes on after an error: messages behind a refused one take
    /// effect all the same.
    ///
    /// # Errors
    ///
    /// That of the first message refused.
    pub fn batch(&self, messages: impl Into<Vec<Message>>) -> Result<()> {
        self.batch_each(messages)?.into_iter().collect()
    }

    /// Like [`Socket::batch`], with the outcome of each message in order, for
    /// callers to whom `EEXIST` is fine.
    ///
    /// # Errors
    ///
    /// Only when the exchange itself fails; what the kernel did is then
    /// unknown.
    pub fn batch_each(&self, messages: impl Into<Vec<Message>>) -> Result<Vec<Result<()>>> {
        let mut messages = messages.into();
        let mut outcomes: Vec<Result<()>> = Vec::with_capacity(messages.len());
        for chunk in messages.chunks_mut(BATCH_LEN) {
            let start = outcomes.len();
            for message in &mut *chunk {
                message.add_flags(NLM_F_ACK);
                outcomes.push(Ok(()));
            }
            self.exchange(chunk, &mut |index, answer| {
                if let Answer::Outcome(Err(error)) = answer {
                    outcomes[start + index] = Err(error.at_batch_index(start + index));
                }
            })?;
        }
        Ok(outcomes)
    }

    /// Sends messages as they are, in one datagram, and reports everything that
    /// comes back: for the transactions of nf_tables, where the flags of each
    /// message (`NLM_F_ACK`, `NLM_F_ECHO`) are the caller's choice.
    ///
    /// Waits for the acknowledgement of each message that asks for one (the
    /// kernel answers inside the send, so a refusal has always arrived by then).
    /// Once a
    /// message that asked for none is refused, no more is waited for: the
    /// kernel may have given up the whole batch; what has arrived is still
    /// reported.
    ///
    /// # Errors
    ///
    /// When sending or receiving fails, or an awaited answer never comes.
    pub fn transact(
        &self,
        messages: &mut [Message],
        mut on_reply: impl FnMut(usize, Reply<'_>),
        mut on_error: impl FnMut(usize, Error),
    ) -> Result<()> {
        self.exchange(messages, &mut |index, answer| match answer {
            Answer::Reply(reply) => on_reply(index, reply),
            Answer::Outcome(Err(error)) => on_error(index, error.at_batch_index(index)),
            Answer::Outcome(Ok(())) => {}
        })
    }

    /// Asks for one object and parses the answer.
    ///
    /// # Errors
    ///
    /// The kernel's; `Protocol` when `parse` makes nothing of the reply.
    pub fn get<T>(
        &self,
        mut message: Message,
        mut parse: impl FnMut(Reply<'_>) -> Option<T>,
    ) -> Result<T> {
        let mut found = None;
        self.get_with(&mut message, &mut |reply| found = parse(reply))?;
        found.ok_or_else(|| {
            Error::protocol(message.operation_cow(), "the kernel's answer makes no sense")
        })
    }

    fn get_with(&self, message: &mut Message, on_reply: &mut dyn FnMut(Reply<'_>)) -> Result<()> {
        self.with_buffer(|buffer| {
            loop {
                let sequence = self.send(std::slice::from_mut(message))?;
                match self.receive_one(buffer, sequence, message, on_reply) {
                    Err(Receive::Truncated(len)) => buffer.reserve(len),
                    Err(Receive::Error(error)) => return Err(error),
                    Ok(()) => return Ok(()),
                }
            }
        })
    }

    fn receive_one(
        &self,
        buffer: &mut Vec<u8>,
        sequence: u32,
        message: &Message,
        on_reply: &mut dyn FnMut(Reply<'_>),
    ) -> std::result::Result<(), Receive> {
        loop {
            self.receive(buffer, 0).map_err(|error| error.in_operation(message))?;
            for raw in Messages::new(buffer).filter(|raw| raw.sequence == sequence) {
                match raw.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR => return Ok(refusal(&raw, message)?),
                    _ => {
                        on_reply(raw.into());
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Lists objects: `parse` turns each reply into an item, or skips it.
    ///
    /// A list that changed while the kernel wrote it is read again, so it is
    /// never partial. `parse` may run more than once for an object.
    ///
    /// # Errors
    ///
    /// The kernel's; `Protocol` if the list changed on every one of 100
    /// attempts.
    pub fn dump<T>(
        &self,
        message: Message,
        mut parse: impl FnMut(Reply<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.dump_many(message, |reply, items| items.extend(parse(reply)))
    }

    /// The same for replies of several objects: `parse` adds theirs to the list.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::dump`].
    pub fn dump_many<T>(
        &self,
        mut message: Message,
        mut parse: impl FnMut(Reply<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>> {
        message.add_flags(NLM_F_DUMP);
        let mut items = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            items.clear();
            if self.dump_once(&mut message, &mut |reply| parse(reply, &mut items))? {
                return Ok(items);
            }
        }
        Err(Error::protocol(message.operation_cow(), "the list kept changing while it was read"))
    }

    /// Answers whether the list is complete.
    fn dump_once(
        &self,
        message: &mut Message,
        on_reply: &mut dyn FnMut(Reply<'_>),
    ) -> Result<bool> {
        self.with_buffer(|buffer| {
            let sequence = self.send(std::slice::from_mut(message))?;
            let mut complete = true;
            loop {
                match self.receive(buffer, 0) {
                    Ok(()) => {}
                    Err(ReceiveError::Truncated(len)) => {
                        self.drain(buffer);
                        buffer.reserve(len);
                        return Ok(false);
                    }
                    Err(ReceiveError::Errno(libc::ENOBUFS)) => {
                        self.drain(buffer);
                        return Ok(false);
                    }
                    Err(error) => match error.in_operation(message) {
                        Receive::Error(error) => return Err(error),
                        Receive::Truncated(_) => return Ok(false),
                    },
                }
                for raw in Messages::new(buffer).filter(|raw| raw.sequence == sequence) {
                    complete &= raw.flags & NLM_F_DUMP_INTR == 0;
                    match raw.kind {
                        NLMSG_NOOP => {}
                        NLMSG_DONE | NLMSG_ERROR => {
                            return match refusal(&raw, message) {
                                Ok(()) => Ok(complete),
                                Err(error) if is_transient(&error) => Ok(false),
                                Err(error) => Err(error),
                            };
                        }
                        _ => on_reply(raw.into()),
                    }
                }
            }
        })
    }

    /// Sends all messages in one datagram and hands on every answer, with the
    /// position of the message it belongs to.
    fn exchange(
        &self,
        messages: &mut [Message],
        on_answer: &mut dyn FnMut(usize, Answer<'_>),
    ) -> Result<()> {
        let mut awaited = messages.iter().filter(|m| m.flags() & NLM_F_ACK != 0).count();
        let first = self.send(messages)?;
        // Where nothing is awaited, what is there already is still reported.
        let mut abandoned = awaited == 0;
        self.with_buffer(|buffer| {
            while awaited > 0 || abandoned {
                let flags = if abandoned { libc::MSG_DONTWAIT } else { 0 };
                match self.receive(buffer, flags) {
                    Ok(()) => {}
                    Err(ReceiveError::Errno(libc::EAGAIN)) if abandoned => break,
                    // Only an echo can be larger than the buffer; the
                    // acknowledgement behind it is not.
                    Err(ReceiveError::Truncated(_)) => continue,
                    Err(error) => {
                        let operation = messages.first().map(|m| m.operation_cow());
                        return Err(error.into_error(operation.unwrap_or_default()));
                    }
                }
                for raw in Messages::new(buffer) {
                    let index = raw.sequence.wrapping_sub(first) as usize;
                    let Some(message) = messages.get(index) else { continue };
                    match raw.kind {
                        NLMSG_NOOP => {}
                        NLMSG_ERROR => {
                            let outcome = refusal(&raw, message);
                            if message.flags() & NLM_F_ACK != 0 {
                                awaited = awaited.saturating_sub(1);
                            } else {
                                abandoned |= outcome.is_err();
                            }
                            on_answer(index, Answer::Outcome(outcome));
                        }
                        _ => on_answer(index, Answer::Reply(raw.into())),
                    }
                }
            }
            Ok(())
        })
    }

    /// Numbers and sends the messages; answers the first sequence number.
    fn send(&self, messages: &mut [Message]) -> Result<u32> {
        let first = self.sequence.get().wrapping_add(1);
        let mut next = first;
        for message in &mut *messages {
            if message.is_oversized() {
                return Err(Error::from_errno(message.operation_cow(), libc::EMSGSIZE));
            }
            message.set_sequence(next);
            next = next.wrapping_add(1);
        }
        self.sequence.set(next.wrapping_sub(1));
        let sent = match &*messages {
            [message] => self.socket.send(message.as_bytes(), 0),
            messages => {
                let len = messages.iter().map(|m| m.as_bytes().len()).sum();
                let mut datagram = Vec::with_capacity(len);
                for message in messages {
                    datagram.extend_from_slice(message.as_bytes());
                }
                self.socket.send(&datagram, 0)
            }
        };
        match sent {
            Ok(_) => Ok(first),
            Err(error) => {
                let operation = messages.first().map(|m| m.operation_cow());
                Err(Error::from_io(operation.unwrap_or_default(), &error))
            }
        }
    }

    /// Reads one datagram of the kernel into `buffer`.
    pub(crate) fn receive(
        &self,
        buffer: &mut Vec<u8>,
        flags: i32,
    ) -> std::result::Result<(), ReceiveError> {
        loop {
            buffer.clear();
            match self.socket.recv_from(buffer, flags | libc::MSG_TRUNC) {
                // Only the kernel has port 0; others may not be believed.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) if len > buffer.len() => return Err(ReceiveError::Truncated(len)),
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    errno => return Err(ReceiveError::Errno(errno.unwrap_or(libc::EIO))),
                },
            }
        }
    }

    /// Throws away what is left of an answer; reading is also what makes the
    /// kernel end a dump, without which the next is refused.
    fn drain(&self, buffer: &mut Vec<u8>) {
        loop {
            match self.receive(buffer, libc::MSG_DONTWAIT) {
                Ok(())
                | Err(ReceiveError::Truncated(_))
                | Err(ReceiveError::Errno(libc::ENOBUFS)) => {}
                Err(ReceiveError::Errno(_)) => return,
            }
        }
    }

    pub(crate) fn with_buffer<T>(&self, run: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut buffer = self.spare.take();
        if buffer.capacity() < BUFFER_LEN {
            buffer.clear();
            buffer.reserve_exact(BUFFER_LEN);
        }
        let result = run(&mut buffer);
        self.spare.set(buffer);
        result
    }

    /// Subscribes to notification groups (`RTNLGRP_*`).
    pub(crate) fn join_groups(&mut self, groups: impl Iterator<Item = u32>) -> Result<()> {
        let failed =
            |error: io::Error| Error::from_io("subscribe to netlink notifications", &error);
        // The kernel keeps a notification from the port that caused it. What
        // it does of its own accord is by port 0, which is also the number of
        // a socket that has neither sent nor been bound (do_one_broadcast,
        // net/netlink/af_netlink.c at v6.18).
        self.socket.bind(&sys::SocketAddr::new(0, 0)).map_err(failed)?;
        for group in groups {
            self.socket.add_membership(group).map_err(failed)?;
        }
        Ok(())
    }

    /// Asks for room for `len` bytes of notifications; the kernel's limit
    /// (net.core.rmem_max) may give less.
    pub(crate) fn grow_receive_queue(&self, len: usize) -> Result<()> {
        setsockopt(&self.socket, sockopt::RcvBuf, &len)
            .map_err(|errno| Error::from_errno("enlarge netlink receive queue", errno as i32))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A kernel too old for a socket option still works, with less comfort.
fn ignore_unknown_option(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::ENOPROTOOPT as i32) => Ok(()),
        other => other,
    }
}
