//! The addresses of one attachment: given, compared and taken back all
//! together.

use crate::conf::Plan;
use crate::io;
use crate::ledger::{Ledger, Owner, Stale};
use crate::range::RangeSet;
use cni::plugin::Forget;
use cni::{Error, IpConfig, Request, Result, Success};
use linux::netns::Trace;
use std::net::IpAddr;

/// One address of each set, or none at all: what it took it gives back when it
/// fails, and nothing else. What it has left from a namespace that is gone it takes
/// again. Who is dead is forgotten first: a kill in between leaves nothing that the
/// lease does not tell of.
pub(crate) fn all(
    ledger: &mut Ledger,
    plan: &Plan,
    request: &Request,
    forget: Forget,
) -> Result<Vec<IpConfig>> {
    let netns = request.netns.as_deref().and_then(Trace::of);
    let owner = Owner { id: request.attachment(), netns };
    let held = held_by_set(ledger, plan, &owner, forget)?;
    let mut taken = Vec::new();
    let sets = plan.sets.iter().zip(&plan.requested).zip(held).enumerate();
    let given: Result<Vec<IpConfig>> = sets
        .map(|(i, ((set, requested), held))| {
            let ip = match held {
                Held::Living(ip) => {
                    ledger.renew(ip, &owner).map_err(io)?;
                    ip
                }
                Held::Dead(stale) => {
                    stale.forget(&owner, forget)?;
                    ledger.resume(&stale, &owner).map_err(io)?;
                    taken.push(stale.ip);
                    stale.ip
                }
                Held::Nothing => {
                    let ip = one(ledger, i, set, *requested, &owner, forget)?;
                    taken.push(ip);
                    ip
                }
            };
            let range = set.range_of(ip).expect("the address was found in this set");
            let (address, gateway) = (range.network_of(ip), Some(range.gateway()));
            Ok(IpConfig { interface: None, address, gateway })
        })
        .collect();
    given.map_err(|error| {
        let undo = ledger.take_back(&taken, &owner.id);
        undo.into_iter().fold(error, |error, e| error.with_details(format!("undo: {e}")))
    })
}

/// What an attachment has of a set before its ADD.
enum Held {
    Nothing,
    /// `idempotentAdd` says that is all right.
    Living(IpAddr),
    /// It was of a namespace that has ended, or of a former boot: a DEL never came.
    Dead(Stale),
}

/// What the attachment holds of each set already.
fn held_by_set(
    ledger: &mut Ledger,
    plan: &Plan,
    owner: &Owner,
    forget: Forget,
) -> Result<Vec<Held>> {
    let held = ledger.held_by(&owner.id).map_err(io)?;
    let of_set = |(i, set): (usize, &RangeSet)| {
        let mut inside = held.clone();
        inside.retain(|ip| set.range_of(*ip).is_some());
        let requested = plan.requested[i];
        let as_requested = requested.filter(|ip| inside.contains(ip));
        let Some(ip) = as_requested.or(inside.first().copied()) else { return Ok(Held::Nothing) };
        let is_welcome = requested.is_none_or(|requested| requested == ip);
        let stale = |ip: &IpAddr| ledger.stale(&|other| other == *ip).transpose();
        if plan.idempotent_add && is_welcome {
            if let Some(stale) = stale(&ip).transpose().map_err(io)? {
                stale.forget(owner, forget)?;
            }
            return Ok(Held::Living(ip));
        }
        let mut dead =
            inside.iter().filter_map(stale).collect::<store::Result<Vec<_>>>().map_err(io)?;
        if let Some(ip) = inside.iter().find(|ip| !dead.iter().any(|stale| stale.ip == **ip)) {
            let allocated = format!(
                "{ip} has been allocated to {}, interface {}",
                owner.id.container_id, owner.id.ifname
            );
            return Err(refused(
                i,
                match requested.filter(|_| plan.idempotent_add) {
                    Some(requested) => format!("{requested} was requested, but {allocated}"),
                    None => format!(
                        "{allocated}, duplicate allocation is not allowed: DEL comes first, or set idempotentAdd"
                    ),
                },
            ));
        }
        if is_welcome && set.refusal(ip).is_none() {
            dead.retain(|stale| stale.ip == ip);
            return Ok(dead.pop().map_or(Held::Nothing, Held::Dead));
        }
        // What the DEL that never came would have done.
        inside.iter().try_for_each(|ip| forget(&owner.id, *ip))?;
        let released = ledger.release(&inside, &owner.id);
        Error::join(released.into_iter().map(io).collect()).map(|()| Held::Nothing)
    };
    plan.sets.iter().enumerate().map(of_set).collect()
}

/// Takes an address of `set`, which is number `i`.
fn one(
    ledger: &mut Ledger,
    i: usize,
    set: &RangeSet,
    requested: Option<IpAddr>,
    owner: &Owner,
    forget: Forget,
) -> Result<IpAddr> {
    let mut turn = ledger.turn(i).map_err(io)?;
    if let Some(ip) = requested {
        let Some(holder) = ledger.reserve(ip, owner, &mut turn).map_err(io)? else {
            return Ok(ip);
        };
        if let Some(stale) = ledger.stale(&|other| other == ip).map_err(io)? {
            stale.forget(owner, forget)?;
            return ledger.take_over(&stale, owner, &mut turn).map(|()| ip).map_err(io);
        }
        return Err(refused(
            i,
            format!("requested IP address {ip} is not available in range set {set}: {holder}"),
        ));
    }
    while let Some(ip) = ledger.next_free(set, turn.last).map_err(io)? {
        // Else it was taken after all, which the ledger has learned by now.
        if ledger.reserve(ip, owner, &mut turn).map_err(io)?.is_none() {
            return Ok(ip);
        }
    }
    let stale = stale(ledger, set)?.ok_or_else(|| refused(i, exhausted(set)))?;
    stale.forget(owner, forget)?;
    ledger.take_over(&stale, owner, &mut turn).map_err(io)?;
    Ok(stale.ip)
}

/// The lease of `set` to take over where no address is left.
fn stale(ledger: &Ledger, set: &RangeSet) -> Result<Option<Stale>> {
    let may = |ip| set.range_of(ip).is_some() && set.refusal(ip).is_none();
    ledger.stale(&may).map_err(io)
}

fn exhausted(set: &RangeSet) -> String {
    format!("no IP addresses available in range set: {set}")
}

fn refused(i: usize, cause: String) -> Error {
    Error::internal(format!("failed to allocate for range {i}: {cause}"))
}

/// Does the attachment hold an address, and all those of the previous result
/// that lie in the ranges?
pub(crate) fn verify(
    ledger: &mut Ledger,
    plan: &Plan,
    previous: Option<&Success>,
    request: &Request,
) -> Result<()> {
    let held = ledger.held_by(&request.attachment()).map_err(io)?;
    if held.is_empty() {
        return Err(not_found(request));
    }
    let promised = previous.into_iter().flat_map(|result| &result.ips).map(|ip| ip.address.ip());
    let ours = promised.filter(|ip| plan.sets.iter().any(|set| set.range_of(*ip).is_some()));
    for ip in ours {
        if !held.contains(&ip) {
            return Err(Error::internal(format!(
                "check address {ip} of container {}, interface {}: it is {}",
                request.container_id,
                request.ifname,
                ledger.holder(ip)
            )));
        }
    }
    Ok(())
}

pub(crate) fn not_found(request: &Request) -> Error {
    Error::internal(format!(
        "failed to find an address allocated to container {}, interface {} on network {}",
        request.container_id,
        request.ifname,
        request.network.name()
    ))
}

/// Gives back whatever the attachment holds, wherever the ranges are now.
pub(crate) fn remove(ledger: &mut Ledger, request: &Request) -> Result<()> {
    let owner = request.attachment();
    let held = ledger.held_by(&owner).map_err(io)?;
    Error::join(ledger.release(&held, &owner).into_iter().map(io).collect())
}

/// Has every set an address left, or a lease that may be taken over?
pub(crate) fn verify_free(ledger: &mut Ledger, plan: &Plan) -> Result<()> {
    for (i, set) in plan.sets.iter().enumerate() {
        // As ADD would, which fails when it cannot move round robin on.
        let turn = ledger.turn(i).map_err(io)?;
        let free = ledger.next_free(set, turn.last).map_err(io)?;
        if free.is_none() && stale(ledger, set)?.is_none() {
            return Err(refused(i, exhausted(set)));
        }
    }
    Ok(())
}
