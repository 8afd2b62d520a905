//! Gives a container the addresses that are written down for it: for
//! debugging, for appliances, and for runtimes that decide on the address
//! themselves.
//!
//! | resource | where | made by | removed by |
//! |---|---|---|---|
//! | nothing | | | |
//!
//! It keeps no record. Two containers with the same configuration get the same
//! addresses; that they do not meet is the writer's business. Which addresses
//! are given is `plan`'s; the verbs only hand them out and compare.

mod plan;

use cni::{Error, IpConfig, Network, Plugin, Request, Result, Success, Version};
use plan::Plan;
use std::net::IpAddr;

/// The plugin of CNI type `static`.
#[derive(Debug, Clone, Copy)]
pub struct Static;

impl Plugin for Static {
    fn name(&self) -> &'static str {
        "static"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let plan = Plan::new(&request.network, &request.args)?;
        Ok(Success { ips: plan.ips, routes: plan.routes, dns: plan.dns, ..Success::default() })
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(&request.network, &request.args)?;
        let previous = request.prev_result()?.ok_or_else(|| {
            Error::invalid_config("check static addresses: required prevResult missing")
        })?;
        plan.ips.iter().try_for_each(|ip| verify(ip, &previous, request))
    }

    /// There is nothing to give back, so the configuration is not even read.
    fn del(&self, _request: &Request) -> Result<()> {
        Ok(())
    }

    /// No attachment leaves anything behind.
    fn gc(&self, _network: &Network) -> Result<()> {
        Ok(())
    }

    /// An ADD without arguments of its own succeeds if the configuration is
    /// valid.
    fn status(&self, network: &Network) -> Result<()> {
        Plan::new(network, "").map(drop)
    }
}

/// Is `planned` among the addresses of the previous result? Any entry may be
/// the one: another plugin of the chain may have added the same elsewhere.
fn verify(planned: &IpConfig, previous: &Success, request: &Request) -> Result<()> {
    let equal: Vec<&IpConfig> =
        previous.ips.iter().filter(|ip| ip.address == planned.address).collect();
    if equal.iter().any(|ip| planned.gateway.is_none() || ip.gateway == planned.gateway) {
        return Ok(());
    }
    let text = |gateway: Option<IpAddr>| gateway.map_or("none".to_owned(), |ip| ip.to_string());
    let other_length = previous.ips.iter().find(|ip| ip.address.ip() == planned.address.ip());
    let cause = match (equal.first(), other_length) {
        (Some(found), _) => format!(
            "its gateway is {}, in prevResult it is {}",
            text(planned.gateway),
            text(found.gateway)
        ),
        (None, Some(found)) => format!("in prevResult it is {}", found.address),
        (None, None) => "prevResult does not have it".to_owned(),
    };
    Err(Error::internal(format!(
        "check static address {} of interface {}: {cause}",
        planned.address, request.ifname
    )))
}

#[cfg(test)]
mod tests;
