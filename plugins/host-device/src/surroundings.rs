//! What the host had configured on a device and the kernel drops when it is
//! moved: put back when the ADD fails, so that a failure changes nothing.
//!
//! A DEL does not: then the device was away for long, and whoever configures
//! the host learns of its return by an event.

use crate::record::Device;
use attach::kernel;
use cni::{Error, Result};
use linux::addr::{Addr, AddrFlags};
use linux::link;
use linux::route::{Filter, Route, RouteProtocol};
use linux::{Socket, addr, route};
use std::net::IpAddr;

/// Addresses, routes and bridge of a link.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    addresses: Vec<Addr>,
    routes: Vec<Route>,
    master: Option<u32>,
}

impl Surroundings {
    /// What there is. Addresses with a lifetime are left to who renews them,
    /// link-local ones and the routes of addresses to the kernel.
    ///
    /// # Errors
    /// The kernel's; not found when the device is gone.
    pub(crate) fn of(host: &Socket, device: &Device) -> linux::Result<Surroundings> {
        let index = Some(device.index);
        let master = link::get_by_index(host, device.index)?.master;
        let mut addresses = addr::list(host, None, index)?;
        addresses.retain(|addr| {
            let is_link_local = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            addr.flags.contains(AddrFlags::PERMANENT) && !is_link_local
        });
        let filter = Filter { family: None, table: None, oif: index };
        let mut routes = route::list(host, filter)?;
        routes.retain(|route| {
            route.protocol != RouteProtocol::KERNEL && route.protocol != RouteProtocol::RA
        });
        // A gateway can only be used once there is a route to it.
        routes.sort_by_key(|route| route.gateway.is_some());
        Ok(Surroundings { addresses, routes, master })
    }

    /// Puts it back on the device, which now has this index.
    ///
    /// # Errors
    /// The kernel's, all of them; it goes on after each.
    pub(crate) fn restore(self, host: &Socket, index: u32) -> Result<()> {
        let Surroundings { addresses, routes, master } = self;
        let mut messages = Vec::new();
        messages.extend(master.map(|master| link::Change::new(index).master(master).message()));
        messages.extend(addresses.into_iter().map(|addr| Addr { index, ..addr }.replace_message()));
        messages.extend(
            routes.into_iter().map(|route| Route { oif: Some(index), ..route }.append_message()),
        );
        let outcomes = host.batch_each(messages).map_err(kernel)?;
        // The kernel may have made one of the routes with its address.
        let refused = outcomes.into_iter().filter_map(linux::Result::err);
        Error::join(refused.filter(|e| !e.is_exists()).map(kernel).collect())
    }
}
