//! Neighbours: which Ethernet address an IP address on a link has.

use std::net::IpAddr;

use crate::error::Result;
use crate::family::{Family, wire_or_any};
use crate::link::Mac;
use crate::netlink::{Attrs, Message, Reply, Socket, field_u8, field_u16, field_u32};
use crate::uapi::{
    NDA_DST, NDA_IFINDEX, NDA_LLADDR, NDMSG_LEN, NLM_F_CREATE, NLM_F_REPLACE, RTM_DELNEIGH,
    RTM_GETNEIGH, RTM_NEWNEIGH,
};

/// An entry of the ARP or neighbour discovery cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neigh {
    /// Index of the link.
    pub index: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its Ethernet address, once known.
    pub mac: Option<Mac>,
    /// `NUD_*` bits (include/uapi/linux/neighbour.h): 0x02 reachable, 0x04
    /// stale, 0x20 failed, 0x80 permanent, ..
    pub state: u16,
    /// `NTF_*` bits: 0x08 proxy, 0x10 learned by somebody else, 0x80 router, ..
    pub flags: u8,
}

impl Neigh {
    /// `NUD_PERMANENT`: set by hand, never asked for and never forgotten.
    pub const PERMANENT: u16 = 0x80;

    /// `NTF_PROXY`: this host answers for the address; it has no state.
    pub const PROXY: u8 = 0x08;

    /// `NUD_STALE`: used at once, and verified by a question to its Ethernet address.
    pub const STALE: u16 = 0x04;

    /// `NTF_EXT_LEARNED`: not forgotten for lack of use.
    pub const LEARNED: u8 = 0x10;

    /// An entry to be set by hand.
    #[must_use]
    pub fn permanent(index: u32, ip: IpAddr, mac: Mac) -> Neigh {
        Neigh { index, ip, mac: Some(mac), state: Neigh::PERMANENT, flags: 0 }
    }

    /// An entry that what the neighbour says of itself changes, and that stays until
    /// then. Like `ip neigh replace .. nud stale extern_learn`.
    #[must_use]
    pub fn learned(index: u32, ip: IpAddr, mac: Mac) -> Neigh {
        Neigh { index, ip, mac: Some(mac), state: Neigh::STALE, flags: Neigh::LEARNED }
    }

    /// The request of [`replace`].
    #[must_use]
    pub fn replace_message(&self) -> Message {
        self.message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, "set")
    }

    fn message(&self, kind: u16, flags: u16, verb: &str) -> Message {
        let operation = format!("{verb} neighbour {} on link with index {}", self.ip, self.index);
        let mut message = Message::new(kind, flags, operation);
        let mut header = [0; NDMSG_LEN];
        header[0] = u8::from(wire_or_any(Some(Family::of(self.ip))));
        header[4..8].copy_from_slice(&self.index.to_ne_bytes());
        header[8..10].copy_from_slice(&self.state.to_ne_bytes());
        header[10] = self.flags;
        message.put(&header);
        match self.ip {
            IpAddr::V4(ip) => message.attr(NDA_DST, &ip.octets()),
            IpAddr::V6(ip) => message.attr(NDA_DST, &ip.octets()),
        };
        if let Some(mac) = self.mac {
            message.attr(NDA_LLADDR, &mac.bytes());
        }
        message
    }

    pub(crate) fn parse(body: &[u8]) -> Option<Neigh> {
        Family::from_raw(field_u8(body, 0)?)?;
        let attrs = Attrs::after(body, NDMSG_LEN);
        Some(Neigh {
            index: field_u32(body, 4)?,
            ip: attrs.find(NDA_DST)?.ip()?,
            mac: attrs.find(NDA_LLADDR).and_then(|attr| Mac::from_bytes(attr.payload)),
            state: field_u16(body, 8)?,
            flags: field_u8(body, 10)?,
        })
    }
}

/// Sets an entry, in place of what was known of the address, like
/// `ip neigh replace`.
///
/// # Errors
///
/// The kernel's; [`is_not_found`](crate::Error::is_not_found) when the link
/// does not exist.
pub fn replace(socket: &Socket, neigh: &Neigh) -> Result<()> {
    socket.request(neigh.replace_message())
}

/// Deletes the entry of an address, like `ip neigh del`.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when there is none.
pub fn delete(socket: &Socket, neigh: &Neigh) -> Result<()> {
    socket.request(neigh.message(RTM_DELNEIGH, 0, "delete"))
}

/// The neighbours of one family or both, on one link or all, like
/// `ip neigh show`.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when the link does not exist.
pub fn list(socket: &Socket, family: Option<Family>, index: Option<u32>) -> Result<Vec<Neigh>> {
    list_with(socket, 0, family, index)
}

/// The addresses that are answered for on the link with this index, like
/// `ip neigh show proxy`.
///
/// # Errors
///
/// The kernel's.
pub fn list_proxies(socket: &Socket, index: u32) -> Result<Vec<Neigh>> {
    list_with(socket, Neigh::PROXY, None, Some(index))
}

fn list_with(
    socket: &Socket,
    flags: u8,
    family: Option<Family>,
    index: Option<u32>,
) -> Result<Vec<Neigh>> {
    let mut message = Message::new(RTM_GETNEIGH, 0, "list neighbours");
    let mut header = [0; NDMSG_LEN];
    header[0] = u8::from(wire_or_any(family));
    header[10] = flags;
    message.put(&header);
    if let Some(index) = index {
        message.attr_u32(NDA_IFINDEX, index);
    }
    socket.dump(message, |reply: Reply<'_>| {
        (reply.kind == RTM_NEWNEIGH)
            .then(|| Neigh::parse(reply.body))
            .flatten()
            .filter(|neigh| index.is_none_or(|index| neigh.index == index))
    })
}
