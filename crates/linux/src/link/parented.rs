//! Creating links that stand on another one: macvlan, ipvlan, VLAN.
//!
//! One that is born in another namespace than its parent's needs, before Linux
//! 6.15, a name that is free in both: the kernel looks for it in the socket's
//! (`rtnl_newlink`, net/core/rtnetlink.c at v6.12).

use std::os::fd::BorrowedFd;

use rtnetlink::packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, IpVlanFlags, IpVlanMode, MacVlanMode,
};

use super::Mac;
use super::create::{Builder, create_anywhere, create_message, dressed};
use crate::error::Result;
use crate::netlink::{Message, Socket};

/// How a macvlan shares its parent with others
/// (`enum macvlan_mode`, include/uapi/linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// They do not reach each other.
    Private,
    /// They reach each other through an external switch that sends back.
    Vepa,
    /// They reach each other directly.
    Bridge,
    /// Only one, which takes over the parent's address.
    Passthru,
}

impl MacvlanMode {
    pub(super) fn from_raw(raw: u32) -> Option<MacvlanMode> {
        Some(match MacVlanMode::from(raw) {
            MacVlanMode::Private => MacvlanMode::Private,
            MacVlanMode::Vepa => MacvlanMode::Vepa,
            MacVlanMode::Bridge => MacvlanMode::Bridge,
            MacVlanMode::Passthrough => MacvlanMode::Passthru,
            _ => return None,
        })
    }

    fn wire(self) -> MacVlanMode {
        match self {
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        }
    }
}

/// A macvlan to be created, like `ip link add link PARENT type macvlan`.
#[derive(Clone, Copy, Debug)]
pub struct MacvlanSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of the lower device, in the socket's namespace.
    pub parent: u32,
    /// See [`MacvlanMode`].
    pub mode: MacvlanMode,
    /// Its address; random if not given.
    pub mac: Option<Mac>,
    /// MTU in bytes; the parent's if not given.
    pub mtu: Option<u32>,
    /// Broadcast packets the parent's queue holds (5.11 and later).
    pub broadcast_queue_len: Option<u32>,
    /// The namespace it is born in; the socket's if not given.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl MacvlanSpec<'_> {
    /// The request.
    #[must_use]
    pub fn message(&self) -> Message {
        let mut data = vec![InfoMacVlan::Mode(self.mode.wire())];
        data.extend(self.broadcast_queue_len.map(InfoMacVlan::BcQueueLen));
        let builder = dressed(
            Builder::new_with_info_kind(InfoKind::MacVlan).name(self.name).link(self.parent),
            self.mac,
            self.mtu,
            None,
            self.namespace,
        )
        .set_info_data(InfoData::MacVlan(data));
        create_message(format!("create macvlan {}", self.name), &builder.build())
    }

    /// Creates it; find it with [`get`](super::get) in its namespace.
    ///
    /// # Errors
    ///
    /// [`is_exists`](crate::Error::is_exists) when the name is used.
    pub fn create(&self, socket: &Socket) -> Result<()> {
        create_anywhere(socket, self.message(), self.name)
    }
}

/// Which layer an ipvlan switches on
/// (`enum ipvlan_mode`, include/uapi/linux/if_link.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpvlanMode {
    /// Frames.
    L2,
    /// Packets, routed in the parent's namespace.
    L3,
    /// Packets, also seen by the parent namespace's packet filter (4.9 and
    /// later).
    L3s,
}

impl IpvlanMode {
    pub(super) fn from_raw(raw: u16) -> Option<IpvlanMode> {
        Some(match IpVlanMode::from(raw) {
            IpVlanMode::L2 => IpvlanMode::L2,
            IpVlanMode::L3 => IpvlanMode::L3,
            IpVlanMode::L3S => IpvlanMode::L3s,
            _ => return None,
        })
    }

    fn wire(self) -> IpVlanMode {
        match self {
            IpvlanMode::L2 => IpVlanMode::L2,
            IpvlanMode::L3 => IpVlanMode::L3,
            IpvlanMode::L3s => IpVlanMode::L3S,
        }
    }
}

/// An ipvlan to be created, like `ip link add link PARENT type ipvlan`.
#[derive(Clone, Copy, Debug)]
pub struct IpvlanSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of the lower device, in the socket's namespace.
    pub parent: u32,
    /// See [`IpvlanMode`].
    pub mode: IpvlanMode,
    /// MTU in bytes; the parent's if not given.
    pub mtu: Option<u32>,
    /// The namespace it is born in; the socket's if not given.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl IpvlanSpec<'_> {
    /// The request.
    #[must_use]
    pub fn message(&self) -> Message {
        let builder = dressed(
            Builder::new_with_info_kind(InfoKind::IpVlan).name(self.name).link(self.parent),
            None,
            self.mtu,
            None,
            self.namespace,
        )
        .set_info_data(InfoData::IpVlan(vec![
            InfoIpVlan::Mode(self.mode.wire()),
            InfoIpVlan::Flags(IpVlanFlags::empty()),
        ]));
        create_message(format!("create ipvlan {}", self.name), &builder.build())
    }

    /// Creates it; find it with [`get`](super::get) in its namespace.
    ///
    /// # Errors
    ///
    /// [`is_exists`](crate::Error::is_exists) when the name is used.
    pub fn create(&self, socket: &Socket) -> Result<()> {
        create_anywhere(socket, self.message(), self.name)
    }
}

/// An 802.1Q VLAN to be created, like `ip link add link PARENT type vlan id`.
#[derive(Clone, Copy, Debug)]
pub struct VlanSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Index of the lower device, in the socket's namespace.
    pub parent: u32,
    /// VLAN ID, 0 to 4094.
    pub id: u16,
    /// MTU in bytes; the parent's if not given.
    pub mtu: Option<u32>,
    /// The namespace it is born in; the socket's if not given.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl VlanSpec<'_> {
    /// The request.
    #[must_use]
    pub fn message(&self) -> Message {
        let builder = dressed(
            Builder::new_with_info_kind(InfoKind::Vlan).name(self.name).link(self.parent),
            None,
            self.mtu,
            None,
            self.namespace,
        )
        .set_info_data(InfoData::Vlan(vec![InfoVlan::Id(self.id)]));
        create_message(format!("create vlan {}", self.name), &builder.build())
    }

    /// Creates it; find it with [`get`](super::get) in its namespace.
    ///
    /// # Errors
    ///
    /// [`is_exists`](crate::Error::is_exists) when the name is used in its namespace
    /// or beside the parent, or the parent has this VLAN already.
    pub fn create(&self, socket: &Socket) -> Result<()> {
        create_anywhere(socket, self.message(), self.name)
    }
}
