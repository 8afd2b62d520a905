//! Waiting for the kernel to say that something has changed.
//!
//! A [`Monitor`] subscribes first; whoever waits then looks at the state once
//! and listens, so that nothing falls between. [`wait_addrs_settled`] does that for
//! addresses, and looks once before, since mostly there is nothing to wait for.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::addr::{self, Addr};
use crate::error::{Error, Result};
use crate::family::Family;
use crate::link::{self, Link};
use crate::netlink::{Attrs, ReceiveError, Reply, Socket, field_u8, replies};
use crate::port::Port;
use crate::route::Route;
use crate::uapi::{
    IFINFOMSG_LEN, IFLA_PROTINFO, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWROUTE, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE,
    RTNLGRP_LINK,
};

/// Bytes of notifications asked for to be kept while nobody reads. Two hundred
/// other links coming up at once fit in it.
const QUEUE_LEN: usize = 1024 * 1024;

/// What to be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Links, and bridges about their ports.
    Link,
    /// IPv4 addresses.
    Ipv4Addr,
    /// IPv6 addresses.
    Ipv6Addr,
    /// IPv4 routes.
    Ipv4Route,
    /// IPv6 routes.
    Ipv6Route,
}

impl Group {
    fn number(self) -> u32 {
        match self {
            Group::Link => RTNLGRP_LINK,
            Group::Ipv4Addr => RTNLGRP_IPV4_IFADDR,
            Group::Ipv6Addr => RTNLGRP_IPV6_IFADDR,
            Group::Ipv4Route => RTNLGRP_IPV4_ROUTE,
            Group::Ipv6Route => RTNLGRP_IPV6_ROUTE,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is new or changed.
    Link(Box<Link>),
    /// A link is gone.
    LinkDeleted(Box<Link>),
    /// A bridge reports a change of its port, given by index.
    Port(u32, Port),
    /// An address is new or changed.
    Addr(Addr),
    /// An address is gone.
    AddrDeleted(Addr),
    /// A route is new or changed.
    Route(Box<Route>),
    /// A route is gone.
    RouteDeleted(Box<Route>),
    /// So much happened that reports were lost: look at the state again.
    Overrun,
}

/// A subscription to changes in the namespace of the thread that opened it.
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Subscribes.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::open`].
    pub fn open(groups: &[Group]) -> Result<Monitor> {
        let mut socket = Socket::route()?;
        socket.grow_receive_queue(QUEUE_LEN)?;
        socket.join_groups(groups.iter().map(|group| group.number()))?;
        Ok(Monitor { socket })
    }

    /// Hands events to `check` until it answers something, or the deadline
    /// passes. Events that came since [`Monitor::open`] come first.
    ///
    /// # Errors
    ///
    /// [`is_timed_out`](Error::is_timed_out); what `check` answers.
    pub fn wait_until<T>(
        &self,
        deadline: Instant,
        mut check: impl FnMut(&Event) -> Result<Option<T>>,
    ) -> Result<T> {
        self.socket.with_buffer(|buffer| {
            loop {
                match self.socket.receive(buffer, libc::MSG_DONTWAIT) {
                    Ok(()) => {
                        for reply in replies(buffer) {
                            let Some(event) = Event::parse(reply) else { continue };
                            if let Some(answer) = check(&event)? {
                                return Ok(answer);
                            }
                        }
                    }
                    Err(ReceiveError::Errno(libc::EAGAIN)) => self.wait_readable(deadline)?,
                    Err(ReceiveError::Errno(libc::ENOBUFS) | ReceiveError::Truncated(_)) => {
                        if let Some(answer) = check(&Event::Overrun)? {
                            return Ok(answer);
                        }
                    }
                    Err(ReceiveError::Errno(errno)) => {
                        return Err(Error::from_errno("wait for netlink notification", errno));
                    }
                }
                // Also when others keep us busy with events.
                if Instant::now() >= deadline {
                    return Err(Error::timed_out("wait for netlink notification"));
                }
            }
        })
    }

    fn wait_readable(&self, deadline: Instant) -> Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the last part of a millisecond is not spent
            // polling; very long waits come round again.
            let millis = left.as_micros().div_ceil(1000).min(60_000);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if Instant::now() >= deadline => {
                    return Err(Error::timed_out("wait for netlink notification"));
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => {
                    return Err(Error::from_errno("wait for netlink notification", errno as i32));
                }
            }
        }
    }
}

impl Event {
    pub(crate) fn parse(reply: Reply<'_>) -> Option<Event> {
        let body = reply.body;
        match reply.kind {
            RTM_NEWLINK if i32::from(field_u8(body, 0)?) == libc::AF_BRIDGE => {
                let port = Attrs::after(body, IFINFOMSG_LEN).find(IFLA_PROTINFO)?;
                let index = crate::netlink::field_u32(body, 4)?;
                Some(Event::Port(index, Port::parse(port.nested())))
            }
            // A bridge says so when a port leaves it; the link stays.
            RTM_DELLINK if i32::from(field_u8(body, 0)?) == libc::AF_BRIDGE => None,
            RTM_NEWLINK => Some(Event::Link(Box::new(Link::parse(body)?))),
            RTM_DELLINK => Some(Event::LinkDeleted(Box::new(Link::parse(body)?))),
            RTM_NEWADDR => Some(Event::Addr(Addr::parse(body)?)),
            RTM_DELADDR => Some(Event::AddrDeleted(Addr::parse(body)?)),
            RTM_NEWROUTE => Some(Event::Route(Box::new(Route::parse(body)?))),
            RTM_DELROUTE => Some(Event::RouteDeleted(Box::new(Route::parse(body)?))),
            _ => None,
        }
    }
}

/// What [`wait_addrs_settled`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Every address of the link is in use.
    All,
    /// Addresses are still tentative, but the link has no carrier: nobody can
    /// be asked, and waiting is no use.
    NoCarrier,
}

/// Waits until no IPv6 address of the link with this index is tentative any
/// more.
///
/// The calling thread must be in the namespace of `socket`.
///
/// # Errors
///
/// * [`ErrorKind::DuplicateAddress`](crate::ErrorKind::DuplicateAddress),
///   naming the address, when another host has one;
/// * [`is_timed_out`](Error::is_timed_out), naming one that is still
///   tentative.
pub fn wait_addrs_settled(socket: &Socket, index: u32, timeout: Duration) -> Result<Settled> {
    let Some(_) = first_tentative(socket, index)? else { return Ok(Settled::All) };
    let deadline = Instant::now() + timeout;
    let monitor = Monitor::open(&[Group::Ipv6Addr, Group::Link])?;
    let Some(mut tentative) = first_tentative(socket, index)? else { return Ok(Settled::All) };
    if !link::get_by_index(socket, index)?.carrier {
        return Ok(Settled::NoCarrier);
    }
    let waited = monitor.wait_until(deadline, |event| {
        match event {
            Event::Addr(addr) | Event::AddrDeleted(addr) if addr.index == index => {}
            Event::Link(link) if link.index == index => {
                return Ok((!link.carrier).then_some(Settled::NoCarrier));
            }
            Event::LinkDeleted(link) if link.index == index => {
                return Err(Error::from_errno(
                    format!("wait for addresses of link {}", link.name),
                    libc::ENODEV,
                ));
            }
            Event::Overrun => {}
            _ => return Ok(None),
        }
        Ok(match first_tentative(socket, index)? {
            Some(ip) => {
                tentative = ip;
                None
            }
            None => Some(Settled::All),
        })
    });
    waited.map_err(|error| {
        if !error.is_timed_out() {
            return error;
        }
        error
            .operation(format!("wait for addresses of link with index {index}"))
            .hint(format!("{tentative} is still tentative"))
    })
}

fn first_tentative(socket: &Socket, index: u32) -> Result<Option<IpAddr>> {
    let addrs = addr::list(socket, Some(Family::V6), Some(index))?;
    if let Some(addr) = addrs.iter().find(|addr| addr.is_duplicate()) {
        return Err(addr::duplicate_error(addr));
    }
    Ok(addrs.iter().find(|addr| addr.is_tentative()).map(Addr::ip))
}
