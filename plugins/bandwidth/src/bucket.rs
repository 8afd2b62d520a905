//! The token bucket: the root qdisc of a link, which lets the rate leave by it.
//! Like `tc qdisc add dev .. root handle 1: tbf rate .. burst .. latency ..`.

use attach::kernel;
use cni::{Error, Result};
use linux::Socket;
use linux::netlink::Message;
use linux::tc::{self, Hook, Tbf};

use crate::conf::Limit;
use crate::place::Place;

/// The kernel's name for it.
pub(crate) const KIND: &str = "tbf";

/// Nobody has put a root qdisc on the link.
///
/// # Errors
/// Somebody has: this attachment's ADD was made, or it is another program's.
pub(crate) fn expect_none(socket: &Socket, link: u32, what: &str) -> Result<()> {
    match tc::get(socket, link, Hook::Root).map_err(kernel)? {
        None => Ok(()),
        Some(found) => Err(Error::internal(format!(
            "shape {what}: file exists: it has a root qdisc of kind {}: the attachment is shaped already, or another program does it",
            found.kind
        ))),
    }
}

/// Puts it on a link that has none.
///
/// # Errors
/// The kernel's.
pub(crate) fn add(socket: &Socket, link: u32, bucket: &Tbf, what: &str) -> Result<()> {
    socket.request(message(link, bucket, what)).map_err(refused)
}

/// RESTORE: puts it there, in place of one with other numbers; nobody else's qdisc
/// gives way.
///
/// # Errors
/// Another program's is there; the kernel's.
pub(crate) fn ensure(
    socket: &Socket,
    link: u32,
    limit: &Limit,
    place: &Place,
    what: &str,
) -> Result<()> {
    match tc::get(socket, link, Hook::Root).map_err(kernel)? {
        Some(found) if found.tbf.is_some_and(|shown| limit.is_shown_as(&shown, place)) => {
            return Ok(());
        }
        Some(found) if found.kind == KIND => remove(socket, link)?,
        _ => expect_none(socket, link, what)?,
    }
    add(socket, link, &limit.bucket(place.mtu), what)
}

/// The request for it.
pub(crate) fn message(link: u32, bucket: &Tbf, what: &str) -> Message {
    bucket.add_message(link).operation(format!("shape {what} by tbf"))
}

/// The kernel's answer to [`message`], or to a batch with one.
pub(crate) fn refused(e: linux::Error) -> Error {
    match e.is_not_found() {
        true => kernel(e.hint("the kernel lacks tbf (CONFIG_NET_SCH_TBF)")),
        false => kernel(e),
    }
}

/// CHECK: it is there as ADD made it.
///
/// # Errors
/// Names what is not so.
pub(crate) fn verify(
    socket: &Socket,
    link: u32,
    limit: &Limit,
    place: &Place,
    what: &str,
) -> Result<()> {
    let wrong = |text: String| Err(Error::internal(format!("check {what}: {text}")));
    let Some(found) = tc::get(socket, link, Hook::Root).map_err(kernel)? else {
        return wrong("the tbf qdisc that limits its rate is gone".to_owned());
    };
    match found.tbf {
        None => wrong(format!("its root qdisc is {}, not tbf", found.kind)),
        Some(shown) if shown.rate != limit.rate() => {
            wrong(format!("its rate is {} bytes/s, promised was {}", shown.rate, limit.rate()))
        }
        Some(shown) if !limit.is_shown_as(&shown, place) => {
            wrong("its burst or latency is not what was promised".to_owned())
        }
        Some(_) => Ok(()),
    }
}

/// Removes it if it has the numbers that ADD gives it: another program's may be of
/// the same kind.
///
/// # Errors
/// The kernel's; that it is gone, or its link, is none.
pub(crate) fn remove_of(socket: &Socket, limit: &Limit, place: &Place) -> Result<()> {
    match tc::get(socket, place.index, Hook::Root) {
        Ok(Some(found)) if found.tbf.is_some_and(|shown| limit.is_shown_as(&shown, place)) => {
            remove(socket, place.index)
        }
        Err(e) if !e.is_not_found() => Err(kernel(e)),
        _ => Ok(()),
    }
}

/// Removes it, whatever its numbers, and no qdisc of another kind or number.
///
/// # Errors
/// The kernel's; that it is gone is none.
pub(crate) fn remove(socket: &Socket, link: u32) -> Result<()> {
    tc::delete(socket, link, Hook::Root, KIND).map_err(kernel)
}
