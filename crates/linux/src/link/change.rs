//! Changing a link that exists.

use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoData, InfoKind, LinkAttribute,
    LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{IFF_ALLMULTI, IFF_DYNAMIC, IFF_MULTICAST, IFF_NOARP, Mac, check_name};
use crate::error::Result;
use crate::netlink::{Message, Socket};
use crate::uapi::{
    IFINFOMSG_LEN, IFLA_ALT_IFNAME, IFLA_IFALIAS, IFLA_PROP_LIST, NLM_F_CREATE, NLM_F_EXCL,
    RTM_DELLINKPROP, RTM_NEWLINK, RTM_NEWLINKPROP, RTM_SETLINK,
};

/// Several changes to one link, made in one request, like one
/// `ip link set dev`.
///
/// The kernel applies them in its own order (namespace, address, MTU, name,
/// alias, master, then up or down; `do_setlink`, net/core/rtnetlink.c at
/// v6.18) and stops at the first it refuses; the ones before stay.
///
/// ```no_run
/// # fn main() -> linux::Result<()> {
/// let socket = linux::Socket::route()?;
/// linux::link::Change::new(7).mtu(1400).master(3).up().apply(&socket)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Change {
    index: u32,
    builder: LinkMessageBuilder<LinkUnspec>,
    name: Option<String>,
    what: Vec<&'static str>,
}

impl Change {
    /// No change yet, to the link with this index.
    #[must_use]
    pub fn new(index: u32) -> Change {
        let builder = LinkMessageBuilder::<LinkUnspec>::new().index(index);
        Change { index, builder, name: None, what: Vec::new() }
    }

    fn add(
        mut self,
        what: &'static str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Change {
        self.builder = change(self.builder);
        self.what.push(what);
        self
    }

    /// `up`
    #[must_use]
    pub fn up(self) -> Change {
        self.add("up", |builder| builder.up())
    }

    /// `down`
    #[must_use]
    pub fn down(self) -> Change {
        self.add("down", |builder| builder.down())
    }

    /// `address MAC`
    #[must_use]
    pub fn mac(self, mac: Mac) -> Change {
        self.add("address", |builder| builder.address(mac.bytes().to_vec()))
    }

    /// `mtu BYTES`
    #[must_use]
    pub fn mtu(self, mtu: u32) -> Change {
        self.add("mtu", |builder| builder.mtu(mtu))
    }

    /// `txqueuelen PACKETS`
    #[must_use]
    pub fn tx_queue_len(self, packets: u32) -> Change {
        self.add("txqueuelen", |builder| builder.txqueuelen(packets))
    }

    /// `master`, by index
    #[must_use]
    pub fn master(self, index: u32) -> Change {
        self.add("master", |builder| builder.controller(index))
    }

    /// `nomaster`
    #[must_use]
    pub fn no_master(self) -> Change {
        self.add("nomaster", |builder| builder.nocontroller())
    }

    /// `promisc on` or `off`
    #[must_use]
    pub fn promisc(self, on: bool) -> Change {
        self.add("promisc", |builder| builder.promiscuous(on))
    }

    /// `allmulticast on` or `off`
    #[must_use]
    pub fn all_multi(self, on: bool) -> Change {
        self.add("allmulticast", |builder| builder.allmulticast(on))
    }

    /// The [`SETTABLE_FLAGS`](super::SETTABLE_FLAGS) as in `flags`: `arp off`,
    /// `multicast on`, ..
    #[must_use]
    pub fn flags(self, flags: u32) -> Change {
        let is = |flag| flags & flag != 0;
        self.add("flags", |builder| {
            let builder = builder.arp(!is(IFF_NOARP)).multicast(is(IFF_MULTICAST));
            builder.allmulticast(is(IFF_ALLMULTI)).dynamic(is(IFF_DYNAMIC))
        })
    }

    /// `name NAME`; kernels before 6.2 want the link down.
    #[must_use]
    pub fn name(mut self, name: &str) -> Change {
        self.name = Some(name.to_owned());
        self.add("name", |builder| builder.name(name))
    }

    /// `netns`, by an open handle. Costs 15 to 20 ms: better create the link
    /// where it shall live. Other changes in the same request happen after the
    /// move.
    #[must_use]
    pub fn namespace(self, namespace: BorrowedFd<'_>) -> Change {
        self.add("netns", |builder| builder.setns_by_fd(namespace.as_raw_fd()))
    }

    /// `alias TEXT`; an empty text removes it.
    #[must_use]
    pub fn alias(self, text: &str) -> Change {
        // Without NUL: an alias of length 0 is removed, one of "\0" is not.
        let attribute = DefaultNla::new(IFLA_IFALIAS, text.as_bytes().to_vec());
        self.add("alias", |builder| builder.append_extra_attribute(LinkAttribute::Other(attribute)))
    }

    /// `addrgenmode none`: it gets no link-local IPv6 address when it comes up. The
    /// kernel refuses the whole request, as
    /// [`is_unsupported`](crate::Error::is_unsupported), for a link without IPv6.
    #[must_use]
    pub fn no_link_local(self) -> Change {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        self.add("addrgenmode", |builder| builder.append_extra_attribute(attribute))
    }

    /// `group NUMBER`
    #[must_use]
    pub fn group(self, group: u32) -> Change {
        self.add("group", |builder| builder.link_group(group))
    }

    /// The request, for [`Socket::batch`].
    #[must_use]
    pub fn message(self) -> Message {
        let operation = format!("set {} of link with index {}", self.what.join(", "), self.index);
        let body: LinkMessage = self.builder.build();
        Message::with_body(RTM_SETLINK, 0, operation, &body)
    }

    /// Makes the changes.
    ///
    /// # Errors
    ///
    /// The kernel's; `Invalid` for a name it would not take.
    pub fn apply(self, socket: &Socket) -> Result<()> {
        if let Some(name) = &self.name {
            check_name(&format!("rename link with index {} to {name}", self.index), name)?;
        }
        socket.request(self.message())
    }
}

/// `ip link set dev .. up`
///
/// # Errors
///
/// The kernel's; [`is_not_found`](crate::Error::is_not_found) without such a
/// link.
pub fn set_up(socket: &Socket, index: u32) -> Result<()> {
    Change::new(index).up().apply(socket)
}

/// `ip link set dev .. down`
///
/// # Errors
///
/// Those of [`set_up`].
pub fn set_down(socket: &Socket, index: u32) -> Result<()> {
    Change::new(index).down().apply(socket)
}

/// `ip link set dev .. address`
///
/// # Errors
///
/// Those of [`set_up`]; `EADDRNOTAVAIL` for a multicast address.
pub fn set_mac(socket: &Socket, index: u32, mac: Mac) -> Result<()> {
    Change::new(index).mac(mac).apply(socket)
}

/// `ip link set dev .. mtu`
///
/// # Errors
///
/// Those of [`set_up`]; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) out
/// of the driver's range.
pub fn set_mtu(socket: &Socket, index: u32, mtu: u32) -> Result<()> {
    Change::new(index).mtu(mtu).apply(socket)
}

/// `ip link set dev .. master`
///
/// # Errors
///
/// Those of [`set_up`].
pub fn set_master(socket: &Socket, index: u32, master: u32) -> Result<()> {
    Change::new(index).master(master).apply(socket)
}

/// `ip link set dev .. nomaster`
///
/// # Errors
///
/// Those of [`set_up`].
pub fn unset_master(socket: &Socket, index: u32) -> Result<()> {
    Change::new(index).no_master().apply(socket)
}

/// `ip link set dev .. promisc on` (or `off`)
///
/// # Errors
///
/// Those of [`set_up`].
pub fn set_promisc(socket: &Socket, index: u32, on: bool) -> Result<()> {
    Change::new(index).promisc(on).apply(socket)
}

/// `ip link set dev .. name`; see [`Change::name`].
///
/// # Errors
///
/// Those of [`set_up`]; [`is_exists`](crate::Error::is_exists) when the name is
/// used.
pub fn rename(socket: &Socket, index: u32, name: &str) -> Result<()> {
    Change::new(index).name(name).apply(socket)
}

/// `ip link set dev .. netns`; see [`Change::namespace`].
///
/// # Errors
///
/// Those of [`set_up`]; [`is_exists`](crate::Error::is_exists) when the name is
/// used there.
pub fn set_netns(socket: &Socket, index: u32, namespace: BorrowedFd<'_>) -> Result<()> {
    Change::new(index).namespace(namespace).apply(socket)
}

/// `ip link set dev .. alias`; an empty text removes it.
///
/// # Errors
///
/// Those of [`set_up`].
pub fn set_alias(socket: &Socket, index: u32, text: &str) -> Result<()> {
    Change::new(index).alias(text).apply(socket)
}

/// `ip link set dev .. type bridge vlan_filtering 1` (or `0`)
///
/// # Errors
///
/// Those of [`set_up`]; [`is_unsupported`](crate::Error::is_unsupported)
/// without CONFIG_BRIDGE_VLAN_FILTERING.
pub fn set_vlan_filtering(socket: &Socket, bridge: u32, on: bool) -> Result<()> {
    let body = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
        .index(bridge)
        .set_info_data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(on)]))
        .build();
    let operation = format!("set vlan_filtering of bridge with index {bridge}");
    socket.request(Message::with_body(RTM_NEWLINK, 0, operation, &body))
}

/// `ip link property add dev .. altname ..`, several at once. The kernel stops
/// at the first it refuses; the ones before stay.
///
/// # Errors
///
/// [`is_exists`](crate::Error::is_exists) when a link of the namespace has the
/// name; [`is_unsupported`](crate::Error::is_unsupported) before Linux 5.5.
pub fn add_alt_names(socket: &Socket, index: u32, names: &[&str]) -> Result<()> {
    change_alt_names(socket, RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL, "add", index, names)
}

/// `ip link property del dev .. altname ..`, several at once.
///
/// # Errors
///
/// [`is_not_found`](crate::Error::is_not_found) when it does not have the name.
pub fn delete_alt_names(socket: &Socket, index: u32, names: &[&str]) -> Result<()> {
    change_alt_names(socket, RTM_DELLINKPROP, 0, "delete", index, names)
}

fn change_alt_names(
    socket: &Socket,
    kind: u16,
    flags: u16,
    verb: &str,
    index: u32,
    names: &[&str],
) -> Result<()> {
    let operation = format!("{verb} altname {} of link with index {index}", names.join(", "));
    let mut message = Message::new(kind, flags, operation);
    // struct ifinfomsg: the index is at offset 4.
    let mut header = [0; IFINFOMSG_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    message.put(&header).nest(IFLA_PROP_LIST, |list| {
        for name in names {
            list.attr_str(IFLA_ALT_IFNAME, name);
        }
    });
    socket.request(message)
}
