//! Links: the network interfaces, their state, and how to find, list and
//! delete them.
//!
//! Creating is in [`VethSpec`], [`BridgeSpec`] and their like; changing in
//! [`Change`].

mod change;
mod conf;
mod create;
mod mac;
mod parented;
mod rest;

use std::fmt;
use std::fs;

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkHeader, LinkInfo as LinkInfoNla, LinkMessage,
};

pub use self::change::{
    Change, add_alt_names, delete_alt_names, rename, set_alias, set_down, set_mac, set_master,
    set_mtu, set_netns, set_promisc, set_up, set_vlan_filtering, unset_master,
};
pub(crate) use self::conf::ipv4_message;
pub use self::conf::{Conf, conf, restore_conf_v4, restore_conf_v6};
pub use self::create::{BridgeSpec, DummySpec, IfbSpec, VethPeer, VethSpec, VrfSpec, knows};
pub use self::mac::Mac;
pub use self::parented::{IpvlanMode, IpvlanSpec, MacvlanMode, MacvlanSpec, VlanSpec};
pub use self::rest::{set_mac_and_keep_routes, set_mac_at_rest};

use crate::error::{Error, Result};
use crate::netlink::{Attrs, Message, Reply, Socket, field_u32};
use crate::port::Port;
use crate::uapi::{
    IFINFOMSG_LEN, IFLA_ADDRESS, IFLA_ALLMULTI, IFLA_ALT_IFNAME, IFLA_BR_STP_STATE,
    IFLA_BR_VLAN_DEFAULT_PVID, IFLA_BR_VLAN_FILTERING, IFLA_CARRIER, IFLA_GROUP, IFLA_IFALIAS,
    IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND,
    IFLA_IPVLAN_MODE, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MACVLAN_MODE, IFLA_MASTER,
    IFLA_MTU, IFLA_OPERSTATE, IFLA_PERM_ADDRESS, IFLA_PROMISCUITY, IFLA_PROP_LIST, IFLA_TUN_GROUP,
    IFLA_TUN_MULTI_QUEUE, IFLA_TUN_OWNER, IFLA_TUN_PERSIST, IFLA_TUN_TYPE, IFLA_TXQLEN,
    IFLA_VLAN_ID, IFLA_VLAN_PROTOCOL, IFLA_VRF_TABLE, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK,
};

/// Bytes of the longest interface name (`IFNAMSIZ` less its NUL,
/// include/uapi/linux/if.h). Alternative names may have 127.
pub const NAME_MAX: usize = 15;

/// A network interface as the kernel reported it, like `ip -d link show`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace; loopback is 1.
    pub index: u32,
    /// The name, such as `eth0`.
    pub name: String,
    /// Further names it can be found by.
    pub alt_names: Vec<String>,
    /// Ethernet address; `None` for links with other kinds of addresses. On
    /// loopback it is all zero.
    pub mac: Option<Mac>,
    /// The address burnt into the hardware, where there is one.
    pub perm_mac: Option<Mac>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Packets the transmit queue holds.
    pub tx_queue_len: u32,
    /// `IFF_*`; see the `is_` methods.
    pub flags: u32,
    /// RFC 2863 operational state.
    pub oper_state: OperState,
    /// Whether the driver sees a carrier; known at once, while
    /// [`Link::oper_state`] follows a little later.
    pub carrier: bool,
    /// The driver's name: `veth`, `bridge`, ..; `None` for hardware.
    pub kind: Option<String>,
    /// What only links of this kind have.
    pub info: LinkInfo,
    /// Index of the bridge, bond or VRF it is a port of.
    pub master: Option<u32>,
    /// Index of the veth peer, or of the lower device of a VLAN, macvlan or
    /// ipvlan; in the namespace [`Link::link_netns_id`], if that is given.
    pub link: Option<u32>,
    /// Number of the namespace [`Link::link`] is in, when it is another one;
    /// see [`netns::nsid`](crate::netns::nsid).
    pub link_netns_id: Option<i32>,
    /// How many users have switched on promiscuous mode.
    pub promiscuity: u32,
    /// How many users want all multicast packets.
    pub all_multi: u32,
    /// Free text (`ip link set dev .. alias`).
    pub alias: Option<String>,
    /// Link group; 0 unless set.
    pub group: u32,
    /// Its state as a port of a bridge, if it is one.
    pub port: Option<Port>,
}

/// The part of a [`Link`] that depends on its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkInfo {
    /// Nothing this crate knows.
    #[default]
    Other,
    /// A bridge.
    Bridge {
        /// Whether it looks at VLAN tags.
        vlan_filtering: bool,
        /// VLAN new ports are in, untagged; 0 for none, 1 unless set.
        default_pvid: u16,
        /// Whether the spanning tree protocol runs.
        stp: bool,
    },
    /// A macvlan, or a macvtap.
    Macvlan {
        /// How it shares its lower device; `None` if unknown to this crate.
        mode: Option<MacvlanMode>,
    },
    /// An ipvlan.
    Ipvlan {
        /// How it shares its lower device; `None` if unknown to this crate.
        mode: Option<IpvlanMode>,
    },
    /// A VLAN.
    Vlan {
        /// VLAN ID.
        id: u16,
        /// Ethernet protocol: 0x8100 for 802.1Q.
        protocol: u16,
    },
    /// A TAP device.
    Tap {
        /// The user that may open it; see [`TapSpec`](crate::tap::TapSpec).
        owner: Option<u32>,
        /// The group that may open it.
        group: Option<u32>,
        /// Whether programs may open it several times.
        multi_queue: bool,
        /// Whether it stays when no program has it open.
        persistent: bool,
    },
    /// A VRF.
    Vrf {
        /// Its routing table.
        table: u32,
    },
}

/// Operational state of a link (RFC 2863; `IF_OPER_*`,
/// include/uapi/linux/if.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say; loopback is always in this state.
    #[default]
    Unknown,
    /// A part is missing.
    NotPresent,
    /// No carrier, or not set up.
    Down,
    /// The lower device is down.
    LowerLayerDown,
    /// In test mode.
    Testing,
    /// Waiting for something, such as authentication.
    Dormant,
    /// Ready to send.
    Up,
}

impl OperState {
    fn from_raw(raw: u8) -> OperState {
        match raw {
            1 => OperState::NotPresent,
            2 => OperState::Down,
            3 => OperState::LowerLayerDown,
            4 => OperState::Testing,
            5 => OperState::Dormant,
            6 => OperState::Up,
            _ => OperState::Unknown,
        }
    }
}

impl fmt::Display for OperState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperState::Unknown => "unknown",
            OperState::NotPresent => "not-present",
            OperState::Down => "down",
            OperState::LowerLayerDown => "lower-layer-down",
            OperState::Testing => "testing",
            OperState::Dormant => "dormant",
            OperState::Up => "up",
        })
    }
}

// include/uapi/linux/if.h
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_PROMISC: u32 = 1 << 8;
const IFF_ALLMULTI: u32 = 1 << 9;
const IFF_NOARP: u32 = 1 << 7;
const IFF_MULTICAST: u32 = 1 << 12;
const IFF_DYNAMIC: u32 = 1 << 15;

/// Those of [`Link::flags`] that are a user's to set beside up and promiscuous mode:
/// `arp`, `multicast`, `allmulticast`, `dynamic`.
pub const SETTABLE_FLAGS: u32 = IFF_NOARP | IFF_ALLMULTI | IFF_MULTICAST | IFF_DYNAMIC;

impl Link {
    /// Whether it is set up (`ip link set up`); it may still lack a carrier.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Whether it is a loopback device.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }

    /// Whether promiscuous mode was set on the link itself, unlike
    /// [`Link::promiscuity`], which bridges and packet captures raise too.
    #[must_use]
    pub fn is_promisc(&self) -> bool {
        self.flags & IFF_PROMISC != 0
    }

    /// The same of [`Link::all_multi`].
    #[must_use]
    pub fn is_all_multi(&self) -> bool {
        self.flags & IFF_ALLMULTI != 0
    }

    /// Whether its driver has this name, such as `bridge`.
    #[must_use]
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Reads the body of `RTM_NEWLINK` or `RTM_DELLINK`.
    pub(crate) fn parse(body: &[u8]) -> Option<Link> {
        let mut link =
            Link { index: field_u32(body, 4)?, flags: field_u32(body, 8)?, ..Link::default() };
        for attr in Attrs::after(body, IFINFOMSG_LEN) {
            match attr.kind {
                IFLA_IFNAME => link.name = attr.text_lossy().into_owned(),
                IFLA_ADDRESS => link.mac = Mac::from_bytes(attr.payload),
                IFLA_PERM_ADDRESS => link.perm_mac = Mac::from_bytes(attr.payload),
                IFLA_MTU => link.mtu = attr.u32()?,
                IFLA_TXQLEN => link.tx_queue_len = attr.u32()?,
                IFLA_OPERSTATE => link.oper_state = OperState::from_raw(attr.u8()?),
                IFLA_CARRIER => link.carrier = attr.u8()? != 0,
                // 0 means none, which is also said by leaving it out.
                IFLA_MASTER => link.master = attr.u32().filter(|&index| index != 0),
                IFLA_LINK => link.link = attr.u32().filter(|&index| index != 0),
                IFLA_LINK_NETNSID => link.link_netns_id = attr.i32().filter(|&id| id >= 0),
                IFLA_PROMISCUITY => link.promiscuity = attr.u32()?,
                IFLA_ALLMULTI => link.all_multi = attr.u32()?,
                IFLA_IFALIAS => link.alias = attr.str().map(str::to_owned),
                IFLA_GROUP => link.group = attr.u32()?,
                IFLA_PROP_LIST => {
                    let names = attr.nested().filter(|name| name.kind == IFLA_ALT_IFNAME);
                    link.alt_names.extend(names.filter_map(|name| name.str().map(str::to_owned)));
                }
                IFLA_LINKINFO => link.parse_info(attr.nested()),
                _ => {}
            }
        }
        Some(link)
    }

    fn parse_info(&mut self, info: Attrs<'_>) {
        let kind = info.find(IFLA_INFO_KIND).and_then(|attr| attr.str());
        let data = info.find(IFLA_INFO_DATA).map(|attr| attr.nested());
        if let Some((kind, data)) = kind.zip(data) {
            self.info = LinkInfo::parse(kind, data);
        }
        self.kind = kind.map(str::to_owned);
        let port_kind = info.find(IFLA_INFO_SLAVE_KIND).and_then(|attr| attr.str());
        if port_kind == Some("bridge") {
            self.port = info.find(IFLA_INFO_SLAVE_DATA).map(|attr| Port::parse(attr.nested()));
        }
    }
}

impl LinkInfo {
    fn parse(kind: &str, data: Attrs<'_>) -> LinkInfo {
        let u8_of = |attr| data.find(attr).and_then(|attr| attr.u8());
        let u16_of = |attr| data.find(attr).and_then(|attr| attr.u16());
        let u32_of = |attr| data.find(attr).and_then(|attr| attr.u32());
        match kind {
            "bridge" => LinkInfo::Bridge {
                vlan_filtering: data
                    .find(IFLA_BR_VLAN_FILTERING)
                    .and_then(|attr| attr.u8())
                    .is_some_and(|on| on != 0),
                default_pvid: u16_of(IFLA_BR_VLAN_DEFAULT_PVID).unwrap_or_default(),
                stp: u32_of(IFLA_BR_STP_STATE).is_some_and(|state| state != 0),
            },
            "macvlan" | "macvtap" => LinkInfo::Macvlan {
                mode: u32_of(IFLA_MACVLAN_MODE).and_then(MacvlanMode::from_raw),
            },
            "ipvlan" => {
                LinkInfo::Ipvlan { mode: u16_of(IFLA_IPVLAN_MODE).and_then(IpvlanMode::from_raw) }
            }
            "vlan" => LinkInfo::Vlan {
                id: u16_of(IFLA_VLAN_ID).unwrap_or_default(),
                protocol: data
                    .find(IFLA_VLAN_PROTOCOL)
                    .and_then(|attr| attr.be16())
                    .unwrap_or_default(),
            },
            // A TUN device is of this kind as well; IFF_TAP is 2.
            "tun" if u8_of(IFLA_TUN_TYPE) == Some(2) => LinkInfo::Tap {
                owner: u32_of(IFLA_TUN_OWNER),
                group: u32_of(IFLA_TUN_GROUP),
                multi_queue: u8_of(IFLA_TUN_MULTI_QUEUE).is_some_and(|on| on != 0),
                persistent: u8_of(IFLA_TUN_PERSIST).is_some_and(|on| on != 0),
            },
            "vrf" => LinkInfo::Vrf { table: u32_of(IFLA_VRF_TABLE).unwrap_or_default() },
            _ => LinkInfo::Other,
        }
    }
}

/// Finds a link by its name or an alternative name, like `ip link show dev`.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is none.
pub fn get(socket: &Socket, name: &str) -> Result<Link> {
    // The kernel refuses IFLA_IFNAME of more than 15 bytes, but looks up
    // alternative names by it as well.
    let attribute = if name.len() <= NAME_MAX {
        LinkAttribute::IfName(name.to_owned())
    } else {
        LinkAttribute::Other(DefaultNla::new(IFLA_ALT_IFNAME, nul_terminated(name)))
    };
    let operation = format!("find link {name}");
    if name.is_empty() || name.len() > 127 || name.contains('\0') {
        return Err(Error::from_errno(operation, nix::libc::ENODEV));
    }
    get_with(socket, operation, LinkHeader::default(), attribute)
}

/// Like [`get`], with `None` instead of an error when there is no such link.
///
/// # Errors
///
/// The kernel's, other than not found.
pub fn find(socket: &Socket, name: &str) -> Result<Option<Link>> {
    match get(socket, name) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds a link by its index.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is none.
pub fn get_by_index(socket: &Socket, index: u32) -> Result<Link> {
    socket.get(get_message(index), parse_reply)
}

/// The request of [`get_by_index`].
pub(crate) fn get_message(index: u32) -> Message {
    let header = LinkHeader { index, ..LinkHeader::default() };
    let mut body = LinkMessage::default();
    body.header = header;
    body.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Message::with_body(RTM_GETLINK, 0, format!("find link with index {index}"), &body)
}

fn get_with(
    socket: &Socket,
    operation: String,
    header: LinkHeader,
    attribute: LinkAttribute,
) -> Result<Link> {
    let mut body = LinkMessage::default();
    body.header = header;
    // Gathering the statistics of a link costs five times the rest of the
    // answer.
    body.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]), attribute];
    socket.get(Message::with_body(RTM_GETLINK, 0, operation, &body), parse_reply)
}

/// All links of the namespace, like `ip link show`.
///
/// # Errors
///
/// The kernel's.
pub fn list(socket: &Socket) -> Result<Vec<Link>> {
    list_with(socket, "list links".to_owned(), None)
}

/// Whether the link keeps its Ethernet address unless it is told another one; a bridge
/// may take it from its ports. `None` where the mounted sysfs does not show the link, as
/// that of another namespace.
#[must_use]
pub fn has_lasting_mac(link: &Link) -> Option<bool> {
    /// `NET_ADDR_SET`
    const SET: &str = "3";
    let read = |key: &str| {
        let text = fs::read_to_string(format!("/sys/class/net/{}/{key}", link.name)).ok()?;
        Some(text.trim_end().to_owned())
    };
    let is_it = read("address")? == link.mac?.to_string();
    if is_it { Some(read("addr_assign_type")? == SET) } else { None }
}

/// The links whose master is the one with this index, like
/// `ip link show master`.
///
/// # Errors
///
/// The kernel's.
pub fn list_ports(socket: &Socket, master: u32) -> Result<Vec<Link>> {
    let operation = format!("list ports of link with index {master}");
    let mut ports = list_with(socket, operation, Some(LinkAttribute::Controller(master)))?;
    // Kernels before 4.20 may ignore the filter.
    ports.retain(|link| link.master == Some(master));
    Ok(ports)
}

/// The links of a kind such as `veth`, like `ip link show type`.
///
/// # Errors
///
/// The kernel's.
pub fn list_kind(socket: &Socket, kind: &str) -> Result<Vec<Link>> {
    let filter = LinkAttribute::LinkInfo(vec![LinkInfoNla::Kind(kind.into())]);
    let mut links = list_with(socket, format!("list {kind} links"), Some(filter))?;
    links.retain(|link| link.is_kind(kind));
    Ok(links)
}

fn list_with(
    socket: &Socket,
    operation: String,
    filter: Option<LinkAttribute>,
) -> Result<Vec<Link>> {
    let mut body = LinkMessage::default();
    body.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    body.attributes.extend(filter);
    socket.dump(Message::with_body(RTM_GETLINK, 0, operation, &body), parse_reply)
}

/// Deletes a link, like `ip link del`; of a veth pair, both ends.
///
/// Takes the kernel 10 to 18 ms (it waits for a grace period), so a teardown
/// does best with one.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when it is gone already.
pub fn delete(socket: &Socket, index: u32) -> Result<()> {
    let mut body = LinkMessage::default();
    body.header.index = index;
    let operation = format!("delete link with index {index}");
    socket.request(Message::with_body(RTM_DELLINK, 0, operation, &body))
}

/// Deletes the link of this name without looking it up first; see [`delete`].
///
/// The kernel also accepts alternative names.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is none.
pub fn delete_named(socket: &Socket, name: &str) -> Result<()> {
    let operation = format!("delete link {name}");
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Error::from_errno(operation, nix::libc::ENODEV));
    }
    let mut body = LinkMessage::default();
    body.attributes.push(LinkAttribute::IfName(name.to_owned()));
    socket.request(Message::with_body(RTM_DELLINK, 0, operation, &body))
}

/// Deletes all links of a group in one request, at the price of one; see
/// [`delete`].
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when the group is empty.
pub fn delete_group(socket: &Socket, group: u32) -> Result<()> {
    let mut body = LinkMessage::default();
    body.attributes.push(LinkAttribute::Group(group));
    let operation = format!("delete links of group {group}");
    socket.request(Message::with_body(RTM_DELLINK, 0, operation, &body))
}

pub(crate) fn parse_reply(reply: Reply<'_>) -> Option<Link> {
    (reply.kind == RTM_NEWLINK).then(|| Link::parse(reply.body)).flatten()
}

fn nul_terminated(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// Refuses a name the kernel would refuse (`dev_valid_name`, net/core/dev.c at
/// v6.18) or, because of a `%`, replace by another one.
pub(crate) fn check_name(operation: &str, name: &str) -> Result<()> {
    let cause = if name.is_empty() {
        "the interface name is empty"
    } else if name.len() > NAME_MAX {
        "the interface name is longer than 15 bytes"
    } else if name == "." || name == ".." {
        "the interface name is . or .."
    } else if name.bytes().any(|byte| matches!(byte, b'/' | b':' | b'%' | 0))
        || name.bytes().any(|byte| byte.is_ascii_whitespace() || byte == 0x0b)
    {
        "the interface name contains a slash, colon, percent sign or white space"
    } else {
        return Ok(());
    };
    Err(Error::invalid(operation.to_owned(), cause))
}

#[cfg(test)]
mod tests;
