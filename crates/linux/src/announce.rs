//! Telling the neighbours that an address is here now, so that what they
//! remember of its last owner does not mislead them.
//!
//! IPv4: a gratuitous ARP request (RFC 5227 section 3). IPv6: an unsolicited
//! neighbour advertisement to all nodes (RFC 4861 section 7.2.6).
//!
//! No packet socket: closing one waits for an RCU grace period, 10 to 20 ms
//! (`packet_release`, net/packet/af_packet.c at v6.18). The kernel sends the
//! ARP requests itself when asked in the right way, and the advertisements go
//! through an ICMPv6 socket.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    sendmsg, socket,
};

use crate::error::{Error, Result};
use crate::link::{Change, Mac, ipv4_message};
use crate::netlink::Socket;

/// include/uapi/linux/ip.h
const IPV4_DEVCONF_ARP_NOTIFY: usize = 22;

/// Advertisement (24 bytes) and the option with the Ethernet address (8).
const ADVERTISEMENT_LEN: usize = 32;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Receivers ignore an advertisement with less: it proves that no router was
/// passed.
const HOP_LIMIT: libc::c_int = 255;

/// Announces addresses of the link with this index. The link must be up, in
/// the namespace of `socket` and of the calling thread.
///
/// For IPv4 it announces every address of the link, and from now on the link
/// does so whenever it comes up (`arp_notify`): like `ip link set dev L address
/// M` with the address it has.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is no such link;
/// [`is_permission`](Error::is_permission) without `CAP_NET_RAW` (IPv6).
pub fn send(
    socket: &Socket,
    index: u32,
    mac: Mac,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<()> {
    let mut arp = false;
    let mut icmp = None;
    for address in addresses {
        let IpAddr::V6(ip) = address else {
            arp = true;
            continue;
        };
        let icmp = match &icmp {
            Some(icmp) => icmp,
            None => icmp.insert(open()?),
        };
        advertise(icmp, index, mac, ip)?;
    }
    if !arp {
        return Ok(());
    }
    // "Setting" the address makes the kernel tell everybody who cares
    // (NETDEV_CHANGEADDR), and IPv4 then sends the ARP requests
    // (`inetdev_event`, net/ipv4/devinet.c at v6.18).
    socket
        .batch([
            ipv4_message(index, &[(IPV4_DEVCONF_ARP_NOTIFY, 1)]),
            Change::new(index).mac(mac).message(),
        ])
        .map_err(|error| error.context(format_args!("announce on link with index {index}")))
}

fn open() -> Result<OwnedFd> {
    socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)
        .map_err(|errno| Error::from_errno("open ICMPv6 socket", errno as i32))
}

fn advertise(socket: &OwnedFd, index: u32, mac: Mac, ip: Ipv6Addr) -> Result<()> {
    let failed =
        |errno: i32| Error::from_errno(format!("announce {ip} on link with index {index}"), errno);
    let info = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
        ipi6_ifindex: index,
    };
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(&advertisement(mac, ip))],
        &[ControlMessage::Ipv6PacketInfo(&info), ControlMessage::Ipv6HopLimit(&HOP_LIMIT)],
        MsgFlags::empty(),
        Some(&SockaddrIn6::from(SocketAddrV6::new(ALL_NODES, 0, 0, index))),
    )
    .map(drop)
    .map_err(|errno| failed(errno as i32))
}

/// A neighbour advertisement with the override flag. The kernel fills in the
/// checksum (RFC 3542 section 3.1).
fn advertisement(mac: Mac, ip: Ipv6Addr) -> [u8; ADVERTISEMENT_LEN] {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

    let mut icmp = [0; ADVERTISEMENT_LEN];
    icmp[0] = NEIGHBOUR_ADVERTISEMENT;
    icmp[4] = OVERRIDE;
    icmp[8..24].copy_from_slice(&ip.octets());
    icmp[24] = TARGET_LINK_LAYER_ADDRESS;
    icmp[25] = 1; // in units of 8 bytes
    icmp[26..32].copy_from_slice(&mac.bytes());
    icmp
}
