//! Creating links, each in one request and where it shall live.
//!
//! A link born in another namespace (by an open handle on it) spares the move
//! afterwards, which costs 15 to 20 ms.

use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, InfoVrf, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Change, Link, Mac, check_name, find, get, parse_reply};
use crate::error::{Error, ErrorKind, Result};
use crate::netlink::{Message, Socket};
use crate::uapi::{NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, RTM_NEWLINK};

pub(super) type Builder = LinkMessageBuilder<LinkUnspec>;

/// A veth pair to be created in one request: one end here, its peer anywhere.
///
/// ```no_run
/// # fn main() -> linux::Result<()> {
/// use std::os::fd::AsFd;
/// use linux::link::{Mac, VethPeer, VethSpec};
///
/// let socket = linux::Socket::route()?;
/// let namespace = linux::Namespace::open("/run/netns/x")?;
/// let spec = VethSpec {
///     name: "veth1234",
///     up: true,
///     peer: VethPeer {
///         name: "eth0",
///         mac: Some(Mac::random()),
///         namespace: Some(namespace.as_fd()),
///         ..VethPeer::default()
///     },
///     ..VethSpec::default()
/// };
/// let link = spec.create(&socket)?;
/// # let _ = link;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct VethSpec<'a> {
    /// Name of the end in the socket's namespace.
    pub name: &'a str,
    /// Its address; random if not given.
    pub mac: Option<Mac>,
    /// Its MTU in bytes; 1500 if not given.
    pub mtu: Option<u32>,
    /// Packets in its transmit queue; 1000 if not given.
    pub tx_queue_len: Option<u32>,
    /// Index of the bridge it becomes a port of.
    pub master: Option<u32>,
    /// Whether to set it up.
    pub up: bool,
    /// A text that says on it what it is for. The kernel takes none in the request
    /// that creates a link, so [`VethSpec::create`] sends two together.
    pub alias: Option<&'a str>,
    /// Whether it does without a link-local IPv6 address, where it has IPv6 at all.
    /// Sent together with the creation as well.
    pub no_link_local: bool,
    /// The other end.
    pub peer: VethPeer<'a>,
}

/// The other end of a [`VethSpec`].
///
/// It cannot be set up at creation: at that moment it has no peer yet, and the
/// kernel answers `ENOTCONN` (`veth_open`, drivers/net/veth.c at v6.18).
#[derive(Clone, Copy, Debug, Default)]
pub struct VethPeer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; random if not given.
    pub mac: Option<Mac>,
    /// Its MTU in bytes; 1500 if not given.
    pub mtu: Option<u32>,
    /// Packets in its transmit queue; 1000 if not given.
    pub tx_queue_len: Option<u32>,
    /// The namespace it is born in; the socket's if not given.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl VethSpec<'_> {
    /// The request, but for what cannot be said in it.
    #[must_use]
    pub fn message(&self) -> Message {
        let peer = dressed(
            Builder::new().name(self.peer.name),
            self.peer.mac,
            self.peer.mtu,
            self.peer.tx_queue_len,
            self.peer.namespace,
        );
        let mut builder = dressed(
            Builder::new_with_info_kind(InfoKind::Veth).name(self.name),
            self.mac,
            self.mtu,
            self.tx_queue_len,
            None,
        )
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        if let Some(index) = self.master {
            builder = builder.controller(index);
        }
        if self.up {
            builder = builder.up();
        }
        let operation = format!("create veth {} with peer {}", self.name, self.peer.name);
        create_message(operation, &builder.build())
    }

    /// Creates the pair and answers this end; its [`Link::link`] is the peer's
    /// index in the peer's namespace.
    ///
    /// The state of the port and the operational state are not settled yet.
    ///
    /// # Errors
    ///
    /// [`is_exists`](Error::is_exists) when one of the names is used; the hint
    /// says which. A link that has this end's name by then has got the alias, and
    /// so has a new pair that an error other than this one is about.
    pub fn create(&self, socket: &Socket) -> Result<Link> {
        for name in [self.name, self.peer.name] {
            check_name(&format!("create veth {} with peer {}", self.name, self.peer.name), name)?;
        }
        let further = further(self.name, self.alias, self.no_link_local);
        let mut link =
            create_in_one(socket, self.message(), further, self.name).map_err(|error| {
                if !error.is_exists() {
                    return error;
                }
                match find(socket, self.name) {
                    Ok(Some(_)) => error.hint(format!("the name {} is already used", self.name)),
                    _ => error.hint(format!(
                        "the name {} is already used in the peer's namespace",
                        self.peer.name
                    )),
                }
            })?;
        // The echo is from before the kernel made it a port.
        link.master = self.master;
        Ok(link)
    }
}

/// A bridge to be created, like `ip link add type bridge`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BridgeSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// A fixed address. If not given, the kernel makes one up and changes it
    /// to the lowest of the ports' whenever a port comes or goes
    /// (`br_stp_recalculate_bridge_id`, net/bridge/br_stp_if.c at v6.18).
    pub mac: Option<Mac>,
    /// MTU in bytes; if not given, the lowest of the ports'. A given one is
    /// adjusted to the ports all the same, until [`set_mtu`](super::set_mtu)
    /// sets it on the finished bridge.
    pub mtu: Option<u32>,
    /// Whether to look at VLAN tags; `None` leaves the kernel's default (no).
    pub vlan_filtering: Option<bool>,
    /// VLAN new ports are put in, untagged; 0 for none; `None` leaves the
    /// kernel's default (1).
    pub default_pvid: Option<u16>,
    /// Whether to set it up.
    pub up: bool,
}

impl BridgeSpec<'_> {
    /// The request.
    #[must_use]
    pub fn message(&self) -> Message {
        let mut builder = dressed(
            Builder::new_with_info_kind(InfoKind::Bridge).name(self.name),
            self.mac,
            self.mtu,
            None,
            None,
        );
        let mut data = Vec::new();
        data.extend(self.vlan_filtering.map(InfoBridge::VlanFiltering));
        data.extend(self.default_pvid.map(InfoBridge::VlanDefaultPvid));
        if !data.is_empty() {
            builder = builder.set_info_data(InfoData::Bridge(data));
        }
        if self.up {
            builder = builder.up();
        }
        create_message(format!("create bridge {}", self.name), &builder.build())
    }

    /// Creates the bridge.
    ///
    /// # Errors
    ///
    /// [`is_exists`](Error::is_exists) when the name is used, by a bridge or
    /// anything else; [`is_unsupported`](Error::is_unsupported) for
    /// `vlan_filtering` without CONFIG_BRIDGE_VLAN_FILTERING.
    pub fn create(&self, socket: &Socket) -> Result<Link> {
        check_name(&format!("create bridge {}", self.name), self.name)?;
        create_here(socket, self.message(), self.name).map_err(name_hint)
    }

    /// Whether the kernel has bridges that filter VLANs, or a module with them,
    /// which it loads for this question.
    ///
    /// Nothing is made: both requests are refused, the first for its multicast
    /// address once the module is there, the second, which names no link and asks
    /// for none to be made, for a VLAN that does not exist, but only where bridges
    /// know VLANs (`br_validate`, net/bridge/br_netlink.c at v6.12).
    ///
    /// # Errors
    ///
    /// The kernel's, such as [`is_permission`](Error::is_permission).
    pub fn can_filter_vlans(socket: &Socket) -> Result<bool> {
        let body = Builder::new_with_info_kind(InfoKind::Bridge).address(vec![1; 6]).build();
        match socket.request(create_message("ask for bridges".to_owned(), &body)) {
            Err(error) if error.is_unsupported() => return Ok(false),
            Err(error) if error.is_permission() => return Err(error),
            _ => {}
        }
        let body = Builder::new_with_info_kind(InfoKind::Bridge)
            .set_info_data(InfoData::Bridge(vec![InfoBridge::VlanDefaultPvid(u16::MAX)]))
            .build();
        let operation = "ask for bridges that filter VLANs";
        match socket.request(Message::with_body(RTM_NEWLINK, 0, operation, &body)) {
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) if error.kind() != ErrorKind::Invalid => Err(error),
            _ => Ok(true),
        }
    }
}

/// A dummy interface to be created, like `ip link add type dummy`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DummySpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; random if not given.
    pub mac: Option<Mac>,
    /// MTU in bytes; 1500 if not given.
    pub mtu: Option<u32>,
}

impl DummySpec<'_> {
    /// The request.
    #[must_use]
    pub fn message(&self) -> Message {
        let builder = dressed(
            Builder::new_with_info_kind(InfoKind::Dummy).name(self.name),
            self.mac,
            self.mtu,
            None,
            None,
        );
        create_message(format!("create dummy {}", self.name), &builder.build())
    }

    /// Creates it in the socket's namespace and answers it.
    ///
    /// # Errors
    ///
    /// [`is_exists`](Error::is_exists) when the name is used.
    pub fn create(&self, socket: &Socket) -> Result<Link> {
        check_name(&format!("create dummy {}", self.name), self.name)?;
        create_here(socket, self.message(), self.name).map_err(name_hint)
    }
}

/// An intermediate functional block to be created, like
/// `ip link add type ifb`: a place to queue what comes in elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct IfbSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; one by chance if not given. It cannot be changed later.
    pub mac: Option<Mac>,
    /// MTU in bytes; 1500 if not given.
    pub mtu: Option<u32>,
    /// Packets in its transmit queue; 32 if not given.
    pub tx_queue_len: Option<u32>,
    /// Whether to set it up.
    pub up: bool,
    /// As [`VethSpec::alias`].
    pub alias: Option<&'a str>,
    /// As [`VethSpec::no_link_local`].
    pub no_link_local: bool,
}

impl IfbSpec<'_> {
    /// The request, but for what cannot be said in it.
    #[must_use]
    pub fn message(&self) -> Message {
        let mut builder = dressed(
            Builder::new_with_info_kind(InfoKind::Ifb).name(self.name),
            self.mac,
            self.mtu,
            self.tx_queue_len,
            None,
        );
        if self.up {
            builder = builder.up();
        }
        create_message(format!("create ifb {}", self.name), &builder.build())
    }

    /// Creates it in the socket's namespace.
    ///
    /// # Errors
    ///
    /// [`is_exists`](Error::is_exists) when the name is used.
    pub fn create(&self, socket: &Socket) -> Result<Link> {
        check_name(&format!("create ifb {}", self.name), self.name)?;
        let further = further(self.name, self.alias, self.no_link_local);
        create_in_one(socket, self.message(), further, self.name).map_err(name_hint)
    }
}

/// A VRF to be created, like `ip link add type vrf table`.
#[derive(Clone, Copy, Debug)]
pub struct VrfSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The routing table its ports use.
    pub table: u32,
    /// Whether to set it up.
    pub up: bool,
}

impl VrfSpec<'_> {
    /// The request.
    #[must_use]
    pub fn message(&self) -> Message {
        let mut builder = Builder::new_with_info_kind(InfoKind::Vrf)
            .name(self.name)
            .set_info_data(InfoData::Vrf(vec![InfoVrf::TableId(self.table)]));
        if self.up {
            builder = builder.up();
        }
        create_message(format!("create vrf {}", self.name), &builder.build())
    }

    /// Creates it in the socket's namespace.
    ///
    /// # Errors
    ///
    /// [`is_exists`](Error::is_exists) when the name is used;
    /// [`is_unsupported`](Error::is_unsupported) without CONFIG_NET_VRF.
    pub fn create(&self, socket: &Socket) -> Result<Link> {
        check_name(&format!("create vrf {}", self.name), self.name)?;
        create_here(socket, self.message(), self.name).map_err(name_hint)
    }
}

/// Whether the kernel knows a kind of link; its module is loaded if there is
/// one. Nothing is created: what is asked for has more queues than there may be,
/// which the kernel sees before it makes anything that it would wait to be rid of
/// (`rtnl_create_link`, net/core/rtnetlink.c at v6.18), and a name that cannot be.
///
/// # Errors
///
/// [`is_permission`](Error::is_permission) when the kernel may not be asked.
pub fn knows(socket: &Socket, kind: &str) -> Result<bool> {
    let builder = Builder::new_with_info_kind(InfoKind::from(kind))
        .name("/")
        .append_extra_attribute(LinkAttribute::NumTxQueues(u32::MAX));
    match socket.request(create_message(format!("try kind {kind} of link"), &builder.build())) {
        Err(error) if error.is_unsupported() => Ok(false),
        Err(error) if error.is_permission() => Err(error),
        _ => Ok(true),
    }
}

pub(super) fn dressed(
    mut builder: Builder,
    mac: Option<Mac>,
    mtu: Option<u32>,
    tx_queue_len: Option<u32>,
    namespace: Option<BorrowedFd<'_>>,
) -> Builder {
    if let Some(mac) = mac {
        builder = builder.address(mac.bytes().to_vec());
    }
    if let Some(mtu) = mtu {
        builder = builder.mtu(mtu);
    }
    if let Some(packets) = tx_queue_len {
        builder = builder.txqueuelen(packets);
    }
    if let Some(namespace) = namespace {
        builder = builder.setns_by_fd(namespace.as_raw_fd());
    }
    builder
}

pub(super) fn create_message(operation: String, body: &LinkMessage) -> Message {
    Message::with_body(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, operation, body)
}

/// Creates a link in the socket's namespace and answers it: by the echo of the
/// kernel (6.2 and later), or by looking it up.
fn create_here(socket: &Socket, message: Message, name: &str) -> Result<Link> {
    create_in_one(socket, message, [], name)
}

/// What cannot be said in the request that creates a link called `name`.
fn further(name: &str, alias: Option<&str>, no_link_local: bool) -> impl Iterator<Item = Message> {
    let change = || Change::new(0).name(name);
    // In a request of its own: a link without IPv6 refuses it.
    let no_link_local = no_link_local.then(|| change().no_link_local().message());
    alias.map(|alias| change().alias(alias).message()).into_iter().chain(no_link_local)
}

/// [`create_here`], and then further requests about the link, in one send, which
/// no kill divides. What the kernel lacks for a further one is done without.
fn create_in_one(
    socket: &Socket,
    mut message: Message,
    further: impl IntoIterator<Item = Message>,
    name: &str,
) -> Result<Link> {
    message.add_flags(NLM_F_ECHO);
    let mut messages = vec![message];
    messages.extend(further);
    for message in &mut messages {
        message.add_flags(NLM_F_ACK);
    }
    let (mut created, mut refused) = (None, None);
    socket.transact(
        &mut messages,
        |_, reply| {
            created =
                parse_reply(reply).filter(|link| link.name == name).or_else(|| created.take());
        },
        |at, error| {
            let fine = at > 0 && error.is_unsupported();
            refused = refused.take().or(Some(error).filter(|_| !fine));
        },
    )?;
    match (refused, created) {
        (Some(error), _) => Err(error),
        (None, Some(link)) => Ok(link),
        (None, None) => get(socket, name),
    }
}

/// Creates a link in a namespace the echo may not come from.
pub(super) fn create_anywhere(socket: &Socket, message: Message, name: &str) -> Result<()> {
    check_name(message.operation_text(), name)?;
    socket.request(message).map_err(name_hint)
}

fn name_hint(error: Error) -> Error {
    if error.is_exists() { error.hint("the name is already used") } else { error }
}
