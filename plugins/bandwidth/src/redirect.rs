//! The redirection: everything that comes in by a link goes through the ifb. Like
//! `tc qdisc add dev .. ingress` and `tc filter add dev .. parent ffff: protocol
//! all prio 1 u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev
//! bwp..`.
//!
//! Another program may have made a qdisc for what comes in, of kind `ingress` or
//! `clsact`; then ours is a filter there. But not beside its own filters for what
//! comes in: a packet that comes back from an ifb meets none of them, and they may
//! be what keeps the container from where it may not go.

use crate::place::Place;
use attach::kernel;
use cni::{Error, Result};
use linux::Socket;
use linux::tc::{self, Classifier, Filter, Hook, Qdisc, Redirect};

/// The kernel's name for the kind of qdisc.
const KIND: &str = "ingress";

/// What the kernel shows as the index of a link that is gone (`tcf_mirred_dump`,
/// net/sched/act_mirred.c at v6.18).
const GONE: u32 = 0;

/// Of our filter, and of upstream's.
const PRIORITY: u16 = 1;

/// Sends what comes in by the link to another one.
///
/// # Errors
/// Another program looks at what comes in.
pub(crate) fn create(socket: &Socket, place: &Place, to: u32, what: &str) -> Result<()> {
    let clsact = match ensure_qdisc(socket, place, what)? {
        None => false,
        Some(found) if found.filters.is_empty() => found.qdisc.kind != KIND,
        Some(_) => {
            return Err(Error::internal(format!(
                "redirect what comes in by {what}: file exists: it has filters of another program, which would not see the packets any more"
            )));
        }
    };
    let redirect = Redirect { link: place.index, clsact, to };
    let add = |by| socket.request(redirect.add_message(by));
    let outcome = match add(Classifier::U32) {
        // The kernel has no u32.
        Err(e) if e.is_not_found() => add(Classifier::Matchall),
        outcome => outcome,
    };
    outcome.map_err(|e| {
        let e = e.operation(format!("redirect what comes in by {what}"));
        match e.is_not_found() {
            true => kernel(e.hint(
                "the kernel lacks u32 and matchall (CONFIG_NET_CLS_U32), or mirred (CONFIG_NET_ACT_MIRRED)",
            )),
            false => kernel(e),
        }
    })
}

/// Answers the one that was there, if it was, with its filters.
fn ensure_qdisc(socket: &Socket, place: &Place, what: &str) -> Result<Option<Found>> {
    let mut found = find(socket, place.index)?;
    if let Some(dead) = &found
        && dead.filters.iter().any(is_dead)
    {
        dead.remove(socket, GONE)?;
        found = find(socket, place.index)?;
    }
    if found.is_some() {
        return Ok(found);
    }
    match socket.request(tc::add_ingress_message(place.index)) {
        Ok(()) => Ok(None),
        // Another program was faster.
        Err(e) if e.is_exists() => find(socket, place.index),
        Err(e) => Err(kernel(e.operation(format!("redirect what comes in by {what}")))),
    }
}

/// RESTORE: [`create`] where it is not so already.
///
/// # Errors
/// As [`create`].
pub(crate) fn ensure(socket: &Socket, place: &Place, to: u32, what: &str) -> Result<()> {
    verify(socket, place, to, what).or_else(|_| create(socket, place, to, what))
}

/// CHECK: everything that comes in by the link goes to the other.
///
/// # Errors
/// It does not.
pub(crate) fn verify(socket: &Socket, place: &Place, to: u32, what: &str) -> Result<()> {
    match find(socket, place.index)? {
        Some(found) if found.leads_to(to) => Ok(()),
        _ => Err(Error::internal(format!(
            "check {what}: what comes in by it is not redirected to be shaped"
        ))),
    }
}

/// The links from which it comes to link `to`.
///
/// # Errors
/// The kernel's.
pub(crate) fn sources(socket: &Socket, to: u32) -> Result<Vec<u32>> {
    let mut sources = Vec::new();
    for qdisc in tc::list(socket).map_err(kernel)? {
        let filters = qdisc.filters(socket).map_err(kernel)?;
        if filters.iter().any(|filter| filter.redirects_to == Some(to)) {
            sources.push(qdisc.link);
        }
    }
    Ok(sources)
}

/// Whether what comes in by the link goes to another one that is there.
///
/// # Errors
/// The kernel's.
pub(crate) fn is_there(socket: &Socket, link: u32) -> Result<bool> {
    let to_one = |filter: &Filter| filter.redirects_to.is_some_and(|to| to != GONE);
    Ok(find(socket, link)?.is_some_and(|found| found.filters.iter().any(to_one)))
}

/// Removes the redirection of a link to another, see [`Found::remove`].
///
/// # Errors
/// The kernel's; that it is gone, or the link, is none.
pub(crate) fn remove(socket: &Socket, link: u32, to: u32) -> Result<()> {
    find(socket, link)?.map_or(Ok(()), |found| found.remove(socket, to))
}

/// [`remove`] for a redirection to a link that is gone: it only drops packets.
/// Somebody has deleted the ifb; upstream's DEL does no more.
///
/// # Errors
/// The kernel's.
pub(crate) fn remove_dead(socket: &Socket, link: u32) -> Result<()> {
    match find(socket, link)? {
        Some(found) if found.filters.iter().any(is_dead) => found.remove(socket, GONE),
        _ => Ok(()),
    }
}

fn is_dead(filter: &Filter) -> bool {
    leads_to(filter, GONE)
}

/// To a link that is gone, only filters that look like ours lead: it may have been
/// anybody's.
fn leads_to(filter: &Filter, to: u32) -> bool {
    filter.redirects_to == Some(to) && (to != GONE || filter.priority == PRIORITY)
}

/// The qdisc for what comes in by a link, whoever made it.
pub(crate) struct Found {
    qdisc: Qdisc,
    filters: Vec<Filter>,
}

/// The one that a link has.
///
/// # Errors
/// The kernel's; that the link is gone is none.
pub(crate) fn find(socket: &Socket, link: u32) -> Result<Option<Found>> {
    let qdisc = match tc::get(socket, link, Hook::Ingress) {
        Ok(Some(qdisc)) => qdisc,
        Ok(None) => return Ok(None),
        Err(e) if e.is_not_found() => return Ok(None),
        Err(e) => return Err(kernel(e)),
    };
    let filters = qdisc.filters(socket).map_err(kernel)?;
    Ok(Some(Found { qdisc, filters }))
}

impl Found {
    /// Whether everything that comes in goes to another link.
    pub(crate) fn leads_to(&self, to: u32) -> bool {
        self.filters.iter().any(|filter| leads_to(filter, to))
    }

    /// Removes the redirection to another link; the qdisc as well, unless it has
    /// other filters or is not of the kind that we make.
    ///
    /// # Errors
    /// The kernel's; that it is gone is none.
    pub(crate) fn remove(&self, socket: &Socket, to: u32) -> Result<()> {
        let Found { qdisc, filters } = self;
        if qdisc.kind == KIND && filters.iter().all(|filter| leads_to(filter, to)) {
            return tc::delete(socket, qdisc.link, Hook::Ingress, KIND).map_err(kernel);
        }
        let own = filters.iter().filter(|filter| leads_to(filter, to));
        Error::join(own.filter_map(|filter| filter.delete(socket).map_err(kernel).err()).collect())
    }
}
