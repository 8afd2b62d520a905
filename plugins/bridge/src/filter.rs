//! The packet filter rules the configuration asks for. They are in force before
//! the container's link is up.

use crate::conf::Plan;
use attach::backend::Netfilter;
use attach::sandbox::Sandbox;
use attach::{kernel, spoof, veth};
use cni::{Error, Request, Result, Success};
use linux::link::{self, Link};

/// What rules are made with; `None` where the plan needs none.
pub(crate) fn open(plan: &Plan) -> Result<Option<Netfilter>> {
    (plan.masquerade.is_some() || plan.mac_spoof_check).then(Netfilter::open).transpose()
}

/// `macspoofchk`: nothing but the container's own address comes out.
pub(crate) fn check_mac(
    netfilter: Option<&Netfilter>,
    plan: &Plan,
    sandbox: &Sandbox,
    pair: &veth::Pair,
) -> Result<()> {
    let Some(netfilter) = netfilter.filter(|_| plan.mac_spoof_check) else { return Ok(()) };
    let check = spoof::Check {
        request: sandbox.request,
        host_link: &pair.host_name,
        mac: pair.container_mac,
    };
    spoof::ensure(netfilter, sandbox.host(), check)
}

/// RESTORE of [`check_mac`].
pub(crate) fn restore_mac_check(
    netfilter: Option<&Netfilter>,
    plan: &Plan,
    sandbox: &Sandbox,
    port: &Link,
    container: &Link,
) -> Result<()> {
    let Some(netfilter) = netfilter.filter(|_| plan.mac_spoof_check) else { return Ok(()) };
    let Some(mac) = container.mac else { return Ok(()) };
    let check = spoof::Check { request: sandbox.request, host_link: &port.name, mac };
    spoof::ensure(netfilter, sandbox.host(), check)
}

/// `ipMasq`: the host's address for what leaves the container's subnets.
pub(crate) fn masquerade(
    netfilter: Option<&Netfilter>,
    plan: &Plan,
    request: &Request,
    success: &Success,
) -> Result<()> {
    match (&plan.masquerade, netfilter) {
        (Some(masquerade), Some(netfilter)) => masquerade.ensure(netfilter, request, success),
        _ => Ok(()),
    }
}

/// CHECK: both, as far as the plan wants them.
pub(crate) fn verify(
    netfilter: Option<&Netfilter>,
    plan: &Plan,
    sandbox: &Sandbox,
    container: &Link,
    promised: &Success,
) -> Result<()> {
    let Some(netfilter) = netfilter else { return Ok(()) };
    let request = sandbox.request;
    if plan.mac_spoof_check {
        let host_end = link::get_by_index(sandbox.host(), container.link.unwrap_or_default())
            .map_err(kernel)?;
        let Some(mac) = container.mac else {
            return Err(Error::internal(format!("check {}: it has no MAC", container.name)));
        };
        spoof::verify(netfilter, spoof::Check { request, host_link: &host_end.name, mac })?;
    }
    match &plan.masquerade {
        Some(masquerade) => masquerade.verify(netfilter, request, promised),
        None => Ok(()),
    }
}

/// STATUS: whether what the configuration asks for could be made now.
pub(crate) fn status(plan: &Plan) -> Result<()> {
    let Some(netfilter) = open(plan)? else { return Ok(()) };
    if plan.mac_spoof_check {
        spoof::status(&netfilter)?;
    }
    plan.masquerade.as_ref().map_or(Ok(()), |masquerade| masquerade.status(&netfilter))
}
