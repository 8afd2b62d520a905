//! Traffic control: what shapes packets that leave by a link, and what sends
//! those that come in by it to another link, whose queue can be shaped.
//!
//! A link has one root qdisc for what leaves; for what comes in it has no queue,
//! only filters on a qdisc of kind `ingress` or `clsact`.

mod filter;

use crate::error::{ErrorKind, Result};
use crate::netlink::{Attr, Attrs, Message, Reply, Socket, field_u32};
use crate::uapi::{
    NLM_F_CREATE, NLM_F_EXCL, RTM_DELQDISC, RTM_GETQDISC, RTM_NEWQDISC, TC_H_INGRESS, TC_H_ROOT,
    TCA_KIND, TCA_OPTIONS, TCA_TBF_BURST, TCA_TBF_PARMS, TCA_TBF_RATE64, TCMSG_LEN,
};

pub use self::filter::{Classifier, Filter, Redirect};

/// `1:`, as iproute2 writes it.
const HANDLE_ROOT: u32 = 0x1_0000;

/// `ffff:`, which is what the kernel gives the qdiscs of [`Hook::Ingress`].
const HANDLE_INGRESS: u32 = 0xffff_0000;

/// A tick is `1 << PSCHED_SHIFT` nanoseconds (include/net/pkt_sched.h at v6.18),
/// since Linux 2.6.31 on every machine.
const TICKS_PER_S: u64 = 1_000_000_000 / 64;

/// Ticks of a microsecond, in which other programs count.
const ROUNDING: u32 = 16;

/// Where on a link a qdisc stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// For what leaves.
    Root,
    /// For what comes in.
    Ingress,
}

impl Hook {
    fn parent(self) -> u32 {
        match self {
            Hook::Root => TC_H_ROOT,
            Hook::Ingress => TC_H_INGRESS,
        }
    }

    fn handle(self) -> u32 {
        match self {
            Hook::Root => HANDLE_ROOT,
            Hook::Ingress => HANDLE_INGRESS,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Hook::Root => "root",
            Hook::Ingress => "ingress",
        }
    }
}

/// A token bucket filter: lets `rate` pass, and once in a while a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes per second.
    pub rate: u64,
    /// How long the bucket takes to fill.
    pub fill: Fill,
    /// Bytes that may wait; what does not fit is dropped.
    pub limit: u32,
}

/// The size of the bucket, as the time it takes to fill, in ticks of 64 ns.
///
/// The kernel takes a time of up to 2^32 ticks (275 s) or a number of bytes, and
/// shows a time, of which it keeps only the lower 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Ticks.
    Ticks(u32),
    /// Bytes of a bucket that takes longer than ticks can say.
    Bytes(u32),
}

impl Tbf {
    /// Whether this is what the kernel shows of it. For [`Fill::Bytes`] it works
    /// out the ticks by a rounded reciprocal.
    #[must_use]
    pub fn is_shown_as(&self, shown: &Tbf) -> bool {
        let Fill::Ticks(shown_ticks) = shown.fill else { return false };
        let ticks = self.ticks();
        let off = shown_ticks.wrapping_sub(cut(ticks));
        let bound = match self.fill {
            Fill::Ticks(_) => ROUNDING,
            Fill::Bytes(_) => cut(ticks >> 24).saturating_add(ROUNDING),
        };
        let near = off <= bound || off.wrapping_neg() <= bound;
        near && (self.rate, self.limit) == (shown.rate, shown.limit)
    }

    fn ticks(&self) -> u64 {
        match self.fill {
            Fill::Ticks(ticks) => ticks.into(),
            Fill::Bytes(bytes) => u64::from(bytes) * TICKS_PER_S / self.rate.max(1),
        }
    }

    /// The request for it as a link's root qdisc, like
    /// `tc qdisc add dev .. root handle 1: tbf`.
    #[must_use]
    pub fn add_message(&self, link: u32) -> Message {
        let mut message = qdisc_message(RTM_NEWQDISC, "add", link, Hook::Root, "tbf");
        // struct tc_tbf_qopt: the rate (struct tc_ratespec), the peak rate, the
        // limit, the bucket, the bucket of the peak rate.
        let mut options = [0; 36];
        // Links are Ethernet (TC_LINKLAYER_ETHERNET); no cells.
        options[1] = 1;
        let rate = u32::try_from(self.rate).unwrap_or(u32::MAX);
        options[8..12].copy_from_slice(&rate.to_ne_bytes());
        options[24..28].copy_from_slice(&self.limit.to_ne_bytes());
        options[28..32].copy_from_slice(&cut(self.ticks()).to_ne_bytes());
        message.nest_unflagged(TCA_OPTIONS, |inner| {
            inner.attr(TCA_TBF_PARMS, &options);
            if self.rate > u64::from(u32::MAX) {
                inner.attr_u64(TCA_TBF_RATE64, self.rate);
            }
            if let Fill::Bytes(bytes) = self.fill {
                inner.attr_u32(TCA_TBF_BURST, bytes);
            }
        });
        message
    }

    fn parse(options: Attr<'_>) -> Option<Tbf> {
        let parms = options.nested().find(TCA_TBF_PARMS)?.payload;
        let rate64 = options.nested().find(TCA_TBF_RATE64).and_then(|attr| attr.u64());
        Some(Tbf {
            rate: rate64.or(field_u32(parms, 8).map(u64::from))?,
            fill: Fill::Ticks(field_u32(parms, 28)?),
            limit: field_u32(parms, 24)?,
        })
    }
}

/// A qdisc as the kernel reported it, like `tc qdisc show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Index of its link.
    pub link: u32,
    /// Its number; `1:` is `0x10000`. Those that nobody added have 0.
    pub handle: u32,
    /// What it hangs on: another's number, or a [`Hook`]'s.
    pub parent: u32,
    /// `tbf`, `ingress`, `noqueue`, ..
    pub kind: String,
    /// What is special to it, for a [`Tbf`].
    pub tbf: Option<Tbf>,
}

impl Qdisc {
    /// Whether it takes filters for what comes in.
    #[must_use]
    pub fn is_ingress(&self) -> bool {
        self.parent == TC_H_INGRESS
    }

    pub(crate) fn parse(reply: Reply<'_>) -> Option<Qdisc> {
        if reply.kind != RTM_NEWQDISC {
            return None;
        }
        let attrs = Attrs::after(reply.body, TCMSG_LEN);
        let kind = attrs.find(TCA_KIND)?.str()?.to_owned();
        let options = attrs.find(TCA_OPTIONS).filter(|_| kind == "tbf");
        Some(Qdisc {
            link: field_u32(reply.body, 4)?,
            handle: field_u32(reply.body, 8)?,
            parent: field_u32(reply.body, 12)?,
            tbf: options.and_then(Tbf::parse),
            kind,
        })
    }
}

/// The qdisc that somebody put there; `None` for the kernel's own.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) without such a link.
pub fn get(socket: &Socket, link: u32, hook: Hook) -> Result<Option<Qdisc>> {
    let operation = format!("find {} qdisc of link with index {link}", hook.name());
    let mut message = Message::new(RTM_GETQDISC, 0, operation);
    message.put(&tcmsg(link, 0, hook.parent(), 0));
    let mut found = None;
    // Older kernels answer only where an echo is asked for, none does for its
    // own.
    let outcome = socket.request_echo(message, |reply| {
        found = Qdisc::parse(reply).filter(|qdisc| qdisc.link == link);
    });
    match outcome {
        Err(error) if error.errno() == Some(nix::libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found.filter(|qdisc| qdisc.handle != 0)),
    }
}

/// All qdiscs of the namespace that are [ingress](Qdisc::is_ingress) or root,
/// like `tc qdisc show`.
///
/// # Errors
///
/// The kernel's.
pub fn list(socket: &Socket) -> Result<Vec<Qdisc>> {
    let mut message = Message::new(RTM_GETQDISC, 0, "list qdiscs");
    message.put(&tcmsg(0, 0, 0, 0));
    socket.dump(message, Qdisc::parse)
}

/// The request for a link's `ingress` qdisc, like
/// `tc qdisc add dev .. ingress`.
#[must_use]
pub fn add_ingress_message(link: u32) -> Message {
    qdisc_message(RTM_NEWQDISC, "add", link, Hook::Ingress, "ingress")
}

/// Deletes a qdisc of a kind with the number that adding gives it, with its
/// filters, like `tc qdisc del dev .. root handle 1: tbf`. Another one that is
/// there stays.
///
/// # Errors
///
/// The kernel's; that it is gone, another's, or without a link, is none.
pub fn delete(socket: &Socket, link: u32, hook: Hook, kind: &str) -> Result<()> {
    match socket.request(qdisc_message(RTM_DELQDISC, "delete", link, hook, kind)) {
        Err(error) if error.is_not_found() || error.kind() == ErrorKind::Invalid => Ok(()),
        outcome => outcome,
    }
}

/// Whether the kernel knows a kind of qdisc; its module is loaded if there is
/// one. Nothing is added: what is asked for lacks its options.
///
/// # Errors
///
/// [`is_permission`](crate::Error::is_permission) when the kernel may not be asked.
pub fn knows(socket: &Socket, kind: &str) -> Result<bool> {
    const LOOPBACK: u32 = 1;
    match socket.request(qdisc_message(RTM_NEWQDISC, "try", LOOPBACK, Hook::Root, kind)) {
        Err(error) if error.errno() == Some(nix::libc::ENOENT) => Ok(false),
        Err(error) if error.is_permission() => Err(error),
        _ => Ok(true),
    }
}

/// What the kernel keeps of a number of ticks when it shows them (`tbf_dump`,
/// net/sched/sch_tbf.c at v6.18).
fn cut(ticks: u64) -> u32 {
    u32::try_from(ticks & u64::from(u32::MAX)).expect("32 bits are left")
}

fn qdisc_message(kind: u16, verb: &str, link: u32, hook: Hook, qdisc: &str) -> Message {
    let flags = if kind == RTM_NEWQDISC { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
    let operation = format!("{verb} {qdisc} qdisc of link with index {link}");
    let mut message = Message::new(kind, flags, operation);
    message.put(&tcmsg(link, hook.handle(), hook.parent(), 0)).attr_str(TCA_KIND, qdisc);
    message
}

/// `struct tcmsg`.
fn tcmsg(link: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG_LEN] {
    let mut header = [0; TCMSG_LEN];
    for (at, field) in [(4, link), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests;
