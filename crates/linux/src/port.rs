//! Bridge ports: flags, state, VLANs.

mod settings;

use std::fmt;

pub use self::settings::{Settings, restore_settings, settings};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    BridgeVlanInfoFlags, InfoBridgePort, InfoPortData, LinkAttribute, LinkExtentMask, LinkMessage,
};
use rtnetlink::{LinkBridgePort, LinkBridgeVlan};

use crate::error::{Error, ErrorKind, Result};
use crate::link::get_by_index;
use crate::netlink::{Attrs, Message, Reply, Socket, field_u16, field_u32};
use crate::uapi::{
    BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_RANGE_BEGIN, BRIDGE_VLAN_INFO_RANGE_END,
    BRIDGE_VLAN_INFO_UNTAGGED, IFINFOMSG_LEN, IFLA_AF_SPEC, IFLA_BRIDGE_VLAN_INFO,
    IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LEARNING, IFLA_BRPORT_MODE, IFLA_BRPORT_STATE, RTM_DELLINK,
    RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK,
};

/// What a bridge says about one of its ports, like `bridge -d link show`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Whether frames pass.
    pub state: PortState,
    /// Whether frames may leave by the port they came in by.
    pub hairpin: bool,
    /// Whether the bridge remembers the addresses behind it.
    pub learning: bool,
    /// Whether it is kept apart from other isolated ports (4.18 and later).
    pub isolated: bool,
}

/// Spanning tree state of a port (`BR_STATE_*`,
/// include/uapi/linux/if_bridge.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortState {
    /// Nothing passes; the link is down or has just become a port.
    #[default]
    Disabled,
    /// Only the spanning tree protocol passes.
    Listening,
    /// As before, and addresses are learnt.
    Learning,
    /// Everything passes.
    Forwarding,
    /// Closed by the spanning tree protocol.
    Blocking,
}

impl PortState {
    pub(crate) fn from_raw(raw: u8) -> PortState {
        match raw {
            1 => PortState::Listening,
            2 => PortState::Learning,
            3 => PortState::Forwarding,
            4 => PortState::Blocking,
            _ => PortState::Disabled,
        }
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PortState::Disabled => "disabled",
            PortState::Listening => "listening",
            PortState::Learning => "learning",
            PortState::Forwarding => "forwarding",
            PortState::Blocking => "blocking",
        })
    }
}

impl Port {
    /// Reads `IFLA_BRPORT_*` attributes.
    pub(crate) fn parse(attrs: Attrs<'_>) -> Port {
        let mut port = Port::default();
        for attr in attrs {
            let on = attr.u8().is_some_and(|value| value != 0);
            match attr.kind {
                IFLA_BRPORT_STATE => {
                    port.state = PortState::from_raw(attr.u8().unwrap_or_default());
                }
                IFLA_BRPORT_MODE => port.hairpin = on,
                IFLA_BRPORT_LEARNING => port.learning = on,
                IFLA_BRPORT_ISOLATED => port.isolated = on,
                _ => {}
            }
        }
        port
    }
}

/// The port the link with this index is.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is no such link, or it is
/// not a bridge's port.
pub fn get(socket: &Socket, index: u32) -> Result<Port> {
    let link = get_by_index(socket, index)?;
    link.port.ok_or_else(|| not_a_port(&link.name))
}

fn not_a_port(link: &str) -> Error {
    Error::with_kind(
        format!("find bridge port {link}"),
        ErrorKind::NotFound,
        "the link is not a port of a bridge",
    )
}

/// Changes to a port; what is not given stays. The state is not among them:
/// without a spanning tree program the kernel sets it back at once.
/// New ports learn, are not
/// isolated and do not send back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortChange {
    /// See [`Port::hairpin`].
    pub hairpin: Option<bool>,
    /// See [`Port::isolated`].
    pub isolated: Option<bool>,
    /// See [`Port::learning`].
    pub learning: Option<bool>,
}

impl PortChange {
    /// The request, like `ip link set dev .. type bridge_slave hairpin on ..`.
    #[must_use]
    pub fn message(&self, index: u32) -> Message {
        let mut data = Vec::with_capacity(3);
        data.extend(self.hairpin.map(InfoBridgePort::HairpinMode));
        data.extend(self.learning.map(InfoBridgePort::Learning));
        data.extend(self.isolated.map(InfoBridgePort::Isolated));
        let body = LinkBridgePort::new(index).set_port_data(InfoPortData::BridgePort(data)).build();
        let operation = format!("change bridge port with index {index}");
        Message::with_body(RTM_NEWLINK, 0, operation, &body)
    }

    /// Changes the port that the link with this index is; nothing to change
    /// is no request.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found) when there is no such link; the
    /// kernel's when it is not a port.
    pub fn apply(&self, socket: &Socket, index: u32) -> Result<()> {
        if *self == PortChange::default() {
            return Ok(());
        }
        socket.request(self.message(index))
    }
}

/// VLANs from `first` to `last` with the same treatment on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanRange {
    /// Lowest VLAN ID, 1 to 4094.
    pub first: u16,
    /// Highest VLAN ID.
    pub last: u16,
    /// Whether untagged frames that come in belong to it; one VLAN of a port
    /// at most.
    pub pvid: bool,
    /// Whether its frames leave without tag.
    pub untagged: bool,
}

impl VlanRange {
    /// One VLAN, tagged.
    #[must_use]
    pub fn tagged(id: u16) -> VlanRange {
        VlanRange { first: id, last: id, pvid: false, untagged: false }
    }

    /// One VLAN, `pvid untagged`: an access port.
    #[must_use]
    pub fn access(id: u16) -> VlanRange {
        VlanRange { first: id, last: id, pvid: true, untagged: true }
    }

    /// The fewest tagged ranges that hold these IDs, in order.
    #[must_use]
    pub fn tagged_ranges(ids: impl IntoIterator<Item = u16>) -> Vec<VlanRange> {
        let mut ids: Vec<u16> = ids.into_iter().collect();
        ids.sort_unstable();
        let mut ranges: Vec<VlanRange> = Vec::new();
        for id in ids {
            match ranges.last_mut() {
                Some(range) if id <= range.last.saturating_add(1) => range.last = id,
                _ => ranges.push(VlanRange::tagged(id)),
            }
        }
        ranges
    }
}

/// The VLANs of the port with this index, like `bridge vlan show dev`; none if
/// it has none or is not a port.
///
/// # Errors
///
/// The kernel's.
pub fn vlans(socket: &Socket, index: u32) -> Result<Vec<VlanRange>> {
    let mut body = LinkMessage::default();
    body.header.interface_family = AddressFamily::Bridge;
    body.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
    let operation = format!("list VLANs of bridge port with index {index}");
    let found =
        socket.dump(Message::with_body(RTM_GETLINK, 0, operation, &body), |reply: Reply<'_>| {
            // The kernel has no filter for one port.
            let wanted = reply.kind == RTM_NEWLINK && field_u32(reply.body, 4)? == index;
            wanted.then(|| parse_vlans(reply.body))
        })?;
    Ok(found.into_iter().flatten().collect())
}

pub(crate) fn parse_vlans(body: &[u8]) -> Vec<VlanRange> {
    let mut ranges = Vec::new();
    let mut begun = None;
    let spec = Attrs::after(body, IFINFOMSG_LEN).find(IFLA_AF_SPEC);
    for attr in spec.into_iter().flat_map(|spec| spec.nested()) {
        if attr.kind != IFLA_BRIDGE_VLAN_INFO {
            continue;
        }
        // struct bridge_vlan_info
        let (Some(flags), Some(id)) = (field_u16(attr.payload, 0), field_u16(attr.payload, 2))
        else {
            continue;
        };
        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
            begun = Some(id);
            continue;
        }
        let begin = begun.take().filter(|_| flags & BRIDGE_VLAN_INFO_RANGE_END != 0);
        ranges.push(VlanRange {
            first: begin.unwrap_or(id),
            last: id,
            pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
            untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
        });
    }
    ranges
}

/// The request of [`add_vlans`].
#[must_use]
pub fn add_vlans_message(index: u32, vlans: &[VlanRange]) -> Message {
    vlans_message(RTM_SETLINK, "add VLANs to", index, vlans)
}

/// Puts the port with this index in VLANs, all in one request, like
/// `bridge vlan add dev .. vid .. [pvid] [untagged]`. Of a VLAN that is there
/// already, the treatment is changed.
///
/// # Errors
///
/// [`is_unsupported`](Error::is_unsupported) without
/// CONFIG_BRIDGE_VLAN_FILTERING or when the link is not a port.
pub fn add_vlans(socket: &Socket, index: u32, vlans: &[VlanRange]) -> Result<()> {
    if vlans.is_empty() {
        return Ok(());
    }
    socket.request(add_vlans_message(index, vlans))
}

/// The request of [`delete_vlans`].
#[must_use]
pub fn delete_vlans_message(index: u32, vlans: &[VlanRange]) -> Message {
    vlans_message(RTM_DELLINK, "delete VLANs from", index, vlans)
}

/// Takes the port with this index out of VLANs, like
/// `bridge vlan del dev .. vid ..`; those it is not in are ignored by the
/// kernel within a range.
///
/// # Errors
///
/// Those of [`add_vlans`].
pub fn delete_vlans(socket: &Socket, index: u32, vlans: &[VlanRange]) -> Result<()> {
    if vlans.is_empty() {
        return Ok(());
    }
    socket.request(delete_vlans_message(index, vlans))
}

fn vlans_message(kind: u16, verb: &str, index: u32, vlans: &[VlanRange]) -> Message {
    let mut builder = LinkBridgeVlan::new(index);
    for range in vlans {
        let mut flags = BridgeVlanInfoFlags::empty();
        if range.pvid && kind == RTM_SETLINK {
            flags |= BridgeVlanInfoFlags::Pvid;
        }
        if range.untagged && kind == RTM_SETLINK {
            flags |= BridgeVlanInfoFlags::Untagged;
        }
        builder = if range.first == range.last {
            builder.vlan(range.first, flags)
        } else {
            builder.vlan_range_start(range.first, flags).vlan_range_end(range.last, flags)
        };
    }
    let operation = format!("{verb} bridge port with index {index}");
    Message::with_body(kind, 0, operation, &builder.build())
}

#[cfg(test)]
mod tests;
