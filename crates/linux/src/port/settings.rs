//! All that can be set on a port, to be put back when it leaves its bridge for a
//! while.

use super::not_a_port;
use crate::error::Result;
use crate::link::get_message;
use crate::netlink::{Attrs, Message, Socket};
use crate::uapi::{
    IFINFOMSG_LEN, IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO, RTM_NEWLINK,
};

/// What a port is set to: the names of `bridge link`, or else of iproute2's
/// source, and numbers.
pub type Settings = Vec<(&'static str, u32)>;

/// Name, attribute and bytes of each (`IFLA_BRPORT_*`,
/// include/uapi/linux/if_link.h). The state is not among them: it is the
/// spanning tree's, or the kernel's.
const SETTABLE: [(&str, u16, usize); 25] = [
    ("priority", 2, 2),
    ("cost", 3, 4),
    ("hairpin", 4, 1),
    ("guard", 5, 1),
    ("root_block", 6, 1),
    ("fastleave", 7, 1),
    ("learning", 8, 1),
    ("flood", 9, 1),
    ("proxy_arp", 10, 1),
    ("proxy_arp_wifi", 12, 1),
    ("mcast_router", 25, 1),
    ("mcast_flood", 27, 1),
    ("mcast_to_unicast", 28, 1),
    ("vlan_tunnel", 29, 1),
    ("bcast_flood", 30, 1),
    ("group_fwd_mask", 31, 2),
    ("neigh_suppress", 32, 1),
    ("isolated", 33, 1),
    ("backup_port", 34, 4),
    ("mcast_eht_hosts_limit", 37, 4),
    ("locked", 39, 1),
    ("mab", 40, 1),
    ("mcast_max_groups", 42, 4),
    ("neigh_vlan_suppress", 43, 1),
    ("backup_nhid", 44, 4),
];

/// What the port with this index is set to, like `bridge -d link show dev`;
/// nothing for a link that is no bridge's port.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when there is no such link.
pub fn settings(socket: &Socket, index: u32) -> Result<Settings> {
    socket.get(get_message(index), |reply| Some(parse(reply.body)))
}

fn parse(body: &[u8]) -> Settings {
    let info = Attrs::after(body, IFINFOMSG_LEN).find(IFLA_LINKINFO).map(|info| info.nested());
    let Some(info) = info else { return Vec::new() };
    let kind = info.find(IFLA_INFO_SLAVE_KIND).and_then(|kind| kind.str());
    let Some(data) = info.find(IFLA_INFO_SLAVE_DATA).filter(|_| kind == Some("bridge")) else {
        return Vec::new();
    };
    let value = |(name, attribute, bytes): (&'static str, u16, usize)| {
        let attr = data.nested().find(attribute)?;
        let value = match bytes {
            1 => attr.u8()?.into(),
            2 => attr.u16()?.into(),
            _ => attr.u32()?,
        };
        Some((name, value))
    };
    SETTABLE.into_iter().filter_map(value).collect()
}

/// Sets the port with this index to what [`settings`] said, where it is not; names
/// that are none are passed over. Like `bridge link set dev .. isolated on ..`
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when there is no such link, or it is
/// not a bridge's port; the kernel's.
pub fn restore_settings(socket: &Socket, index: u32, wanted: &[(String, u32)]) -> Result<()> {
    let present = settings(socket, index)?;
    if present.is_empty() {
        return Err(not_a_port(&format!("with index {index}")));
    }
    let is_set = |(name, value): &&(String, u32)| present.contains(&(name.as_str(), *value));
    let differ: Vec<_> =
        wanted.iter().filter(|setting| !is_set(setting)).filter_map(wire).collect();
    if differ.is_empty() {
        return Ok(());
    }
    let operation = format!("change bridge port with index {index}");
    let mut message = Message::new(RTM_NEWLINK, 0, operation);
    // struct ifinfomsg: the index is at offset 4.
    let mut header = [0; IFINFOMSG_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    message.put(&header).nest_unflagged(IFLA_LINKINFO, |info| {
        info.attr_str(IFLA_INFO_SLAVE_KIND, "bridge");
        info.nest_unflagged(IFLA_INFO_SLAVE_DATA, |data| {
            for (attribute, bytes, value) in differ {
                match bytes {
                    1 => data.attr(attribute, &value.to_le_bytes()[..1]),
                    2 => data.attr_u16(attribute, u16::try_from(value).unwrap_or_default()),
                    _ => data.attr_u32(attribute, value),
                };
            }
        });
    });
    socket.request(message)
}

/// Attribute, bytes and value; `None` for a name that is none.
fn wire((name, value): &(String, u32)) -> Option<(u16, usize, u32)> {
    let (_, attribute, bytes) = SETTABLE.into_iter().find(|(known, ..)| known == name)?;
    Some((attribute, bytes, *value))
}
