//! Listening to a namespace's links, to see what is announced on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket,
};

/// A frame's place in `sll_pkttype`: sent by this host itself; packet(7).
const PACKET_OUTGOING: u8 = 4;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const NEXT_HEADER_ICMPV6: u8 = 58;
/// ICMPv6 types; RFC 4861 sections 4.3 and 4.4.
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// What a frame says, as far as tests ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// An ARP packet.
    Arp {
        /// 1 request, 2 reply.
        operation: u16,
        /// The protocol address it speaks for.
        sender: Ipv4Addr,
        /// The protocol address it asks for or answers to.
        target: Ipv4Addr,
    },
    /// An ICMPv6 neighbour advertisement.
    NeighbourAdvertisement {
        /// The address it speaks for.
        target: Ipv6Addr,
        /// Whether it answers a solicitation.
        solicited: bool,
    },
    /// An ICMPv6 neighbour solicitation.
    NeighbourSolicitation {
        /// The address it asks for.
        target: Ipv6Addr,
        /// Whether it comes from `::`: duplicate address detection.
        probe: bool,
    },
    /// Anything else, with its Ethertype.
    Other(u16),
}

/// A frame on a link of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The index of the link.
    pub ifindex: usize,
    /// Whether this namespace sent it; else it was received.
    pub outgoing: bool,
    /// The MAC address it comes from, as text in lower case.
    pub source: String,
    /// What it says.
    pub payload: Payload,
}

impl Frame {
    /// Whether it was received here and announces `address` unasked: a
    /// gratuitous ARP (sender and target the same) or an unsolicited neighbour
    /// advertisement.
    #[must_use]
    pub fn announces(&self, address: IpAddr) -> bool {
        let unasked = match (self.payload, address) {
            (Payload::Arp { sender, target, .. }, IpAddr::V4(v4)) => sender == v4 && target == v4,
            (Payload::NeighbourAdvertisement { target, solicited }, IpAddr::V6(v6)) => {
                target == v6 && !solicited
            }
            _ => false,
        };
        unasked && !self.outgoing
    }
}

/// A recording of every frame since it was started; see
/// [`crate::Netns::capture`]. The kernel keeps the frames until they are read.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Starts it in the calling thread's namespace.
    #[track_caller]
    pub(crate) fn start() -> Self {
        let opened = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        );
        Self { socket: opened.unwrap_or_else(|e| panic!("open a packet socket: {e}")) }
    }

    /// The first frame that meets `condition`, waiting for it up to `bound`;
    /// what was read before it is dropped.
    #[must_use]
    pub fn wait_for(&self, bound: Duration, condition: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let give_up = Instant::now() + bound;
        loop {
            while let Some(frame) = self.next() {
                if condition(&frame) {
                    return Some(frame);
                }
            }
            let left = give_up.checked_duration_since(Instant::now())?;
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // An interrupted wait is looked at again like any other.
            let _ = poll(&mut ready, timeout);
        }
    }

    /// All frames recorded until now that meet `condition`.
    #[must_use]
    pub fn frames(&self, condition: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).filter(|frame| condition(frame)).collect()
    }

    /// Fails the test unless a frame received here announces `address`.
    ///
    /// # Panics
    /// When none does within some seconds, with what came instead.
    #[track_caller]
    pub fn expect_announcement(&self, address: IpAddr) -> Frame {
        let seen = std::cell::RefCell::new(Vec::new());
        let found = self.wait_for(Duration::from_secs(5), |frame| {
            seen.borrow_mut().push(frame.clone());
            frame.announces(address)
        });
        found.unwrap_or_else(|| panic!("nobody announced {address}; seen: {:#?}", seen.borrow()))
    }

    fn next(&self) -> Option<Frame> {
        let mut buffer = [0; 2048];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) => Some(Frame {
                ifindex: from.ifindex(),
                outgoing: from.pkttype() == PACKET_OUTGOING,
                source: show_mac(buffer.get(6..12).filter(|_| length >= 12).unwrap_or_default()),
                payload: parse(&buffer[..length]),
            }),
            Ok((_, None)) | Err(Errno::EAGAIN) => None,
            // The link went away or down with frames unread; the rest follows.
            Err(Errno::ENETDOWN) => self.next(),
            Err(e) => panic!("read a packet socket: {e}"),
        }
    }
}

fn show_mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// What an Ethernet frame says.
fn parse(frame: &[u8]) -> Payload {
    let Some(mut ethertype) = u16_at(frame, 12) else { return Payload::Other(0) };
    let mut start = 14;
    if ethertype == ETHERTYPE_VLAN {
        ethertype = u16_at(frame, 16).unwrap_or_default();
        start = 18;
    }
    let packet = frame.get(start..).unwrap_or_default();
    let known = match ethertype {
        ETHERTYPE_ARP => parse_arp(packet),
        ETHERTYPE_IPV6 => parse_neighbour(packet),
        _ => None,
    };
    known.unwrap_or(Payload::Other(ethertype))
}

/// RFC 826, for Ethernet and IPv4: operation at 6, sender's IP at 14, target's
/// at 24.
fn parse_arp(packet: &[u8]) -> Option<Payload> {
    Some(Payload::Arp {
        operation: u16_at(packet, 6)?,
        sender: ipv4_at(packet, 14)?,
        target: ipv4_at(packet, 24)?,
    })
}

/// The IPv6 header is 40 bytes, its source at 8; the ICMPv6 message follows
/// with its type at 0, flags at 4, target at 8.
fn parse_neighbour(packet: &[u8]) -> Option<Payload> {
    if *packet.get(6)? != NEXT_HEADER_ICMPV6 {
        return None;
    }
    let target = ipv6_at(packet, 48)?;
    match *packet.get(40)? {
        NEIGHBOUR_ADVERTISEMENT => {
            let solicited = packet.get(44)? & 0x40 != 0;
            Some(Payload::NeighbourAdvertisement { target, solicited })
        }
        NEIGHBOUR_SOLICITATION => {
            let probe = ipv6_at(packet, 8)?.is_unspecified();
            Some(Payload::NeighbourSolicitation { target, probe })
        }
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into())
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gratuitous_arp_is_known() {
        let mut frame = [0xff; 6].to_vec();
        frame.extend([2, 0, 0, 0, 0, 1, 0x08, 0x06]);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([2, 0, 0, 0, 0, 1, 10, 1, 0, 2]);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 1, 0, 2]);
        let address = Ipv4Addr::new(10, 1, 0, 2);
        let payload = parse(&frame);
        assert_eq!(payload, Payload::Arp { operation: 1, sender: address, target: address });
        let mut seen = Frame { ifindex: 1, outgoing: false, source: String::new(), payload };
        assert!(seen.announces(address.into()));
        seen.outgoing = true;
        assert!(!seen.announces(address.into()));
    }

    #[test]
    fn a_short_frame_is_no_panic() {
        for length in 0..60 {
            let mut frame = vec![0_u8; length];
            if length > 13 {
                frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
            }
            if length > 20 {
                frame[20] = NEXT_HEADER_ICMPV6;
            }
            let _ = parse(&frame);
        }
    }
}
