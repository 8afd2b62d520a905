//! **loopback**: brings up `lo` in the container.
//!
//! It has no keys of its own and is always about `lo`, whatever `CNI_IFNAME`
//! says. Chained, it hands the previous result on.
//!
//! | what | where | created by | removed by |
//! |---|---|---|---|
//! | `lo` up, with the kernel's addresses | container | ADD | DEL sets it down |
//!
//! Nothing of it can outlive the namespace, so GC has nothing to find; and it
//! depends on nothing, so STATUS has nothing to ask.

use attach::{ability, kernel, sandbox};
use cni::{Error, Interface, IpConfig, Network, Plugin, Request, Result, Success, Version};
use linux::addr::Addr;
use linux::link::{self, Change};
use linux::{Socket, addr};

/// The plugin.
pub struct Loopback;

const LO: &str = "lo";

/// Always 1: the kernel registers it first in a new namespace
/// (`loopback_net_init`, drivers/net/loopback.c at v6.18).
const LO_INDEX: u32 = 1;

/// The address `ip link show lo` prints.
const LO_MAC: &str = "00:00:00:00:00:00";

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let previous = request.prev_result()?;
        let container = &sandbox::enter(request)?;
        let was_up = link::get_by_index(container, LO_INDEX).map_err(kernel)?.is_up();
        let set_up = Change::new(LO_INDEX).up().apply(container).map_err(kernel);
        let addresses = set_up.and_then(|()| loopback_addresses(container)).map_err(|error| {
            let undone = if was_up { Ok(()) } else { set_down(container) };
            match undone {
                Ok(()) => error,
                Err(undo) => error.with_details(format!("undo: {undo}")),
            }
        })?;
        Ok(previous.unwrap_or_else(|| Success {
            interfaces: vec![Interface {
                name: LO.into(),
                mac: LO_MAC.into(),
                sandbox: request.sandbox(),
                ..Interface::default()
            }],
            ips: addresses,
            ..Success::default()
        }))
    }

    fn check(&self, request: &Request) -> Result<()> {
        let container = &sandbox::enter(request)?;
        match link::get_by_index(container, LO_INDEX).map_err(kernel)?.is_up() {
            false => Err(Error::internal(format!(
                "check lo in {}: loopback interface is down",
                request.sandbox()
            ))),
            true => loopback_addresses(container).map(drop),
        }
    }

    fn restore(&self, request: &Request) -> Result<()> {
        self.add(request).map(drop)
    }

    fn del(&self, request: &Request) -> Result<()> {
        sandbox::enter_if_there(request)?.as_ref().map_or(Ok(()), set_down)
    }

    fn gc(&self, network: &Network) -> Result<()> {
        // Nothing outlives the namespace; a malformed list is an error all the
        // same.
        network.valid_attachments().map(drop)
    }

    fn status(&self, _network: &Network) -> Result<()> {
        // To set `lo` up.
        ability::containers()
    }
}

fn set_down(container: &Socket) -> Result<()> {
    Change::new(LO_INDEX).down().apply(container).map_err(kernel)
}

/// The first address of each family, which is the kernel's own.
fn loopback_addresses(container: &Socket) -> Result<Vec<IpConfig>> {
    let present = addr::list(container, None, Some(LO_INDEX)).map_err(kernel)?;
    if let Some(stranger) = present.iter().find(|addr| !addr.ip().is_loopback()) {
        return Err(Error::internal(format!(
            "use lo: loopback interface found with non-loopback address {}: the container is not isolated, or something else configured it",
            stranger.net
        )));
    }
    let first = |is_v4: bool| present.iter().find(|addr| addr.net.is_ipv4() == is_v4);
    let ip = |addr: &Addr| IpConfig { interface: Some(0), address: addr.net, gateway: None };
    Ok([true, false].into_iter().filter_map(first).map(ip).collect())
}
