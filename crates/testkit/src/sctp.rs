//! SCTP packets without a kernel that speaks it: the first packet of an
//! association, sent and received as it is. And associations, with one that does.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrLike,
    SockaddrStorage, bind, connect, listen, recvfrom, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Receives every SCTP packet of IPv4 that reaches a namespace; see
/// [`crate::Netns::sctp_listener`].
#[derive(Debug)]
pub struct SctpListener {
    socket: OwnedFd,
}

impl SctpListener {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: raw_socket()? })
    }

    /// Waits for a packet to this port and gives the address it comes from, or
    /// `None` when there is none within `bound`.
    ///
    /// # Panics
    /// When the socket fails.
    #[must_use]
    pub fn receive(&self, port: u16, bound: Duration) -> Option<Ipv4Addr> {
        let give_up = Instant::now() + bound;
        loop {
            let mut packet = [0; 256];
            match recvfrom::<()>(self.socket.as_raw_fd(), &mut packet) {
                Ok((length, _)) => {
                    if let Some((source, to)) = parse(&packet[..length.min(256)])
                        && to == port
                    {
                        return Some(source);
                    }
                    continue;
                }
                Err(Errno::EAGAIN) => {}
                Err(e) => panic!("receive SCTP: {e}"),
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut ready, timeout);
        }
    }
}

/// Sends the first packet of an association from a port of the caller's choice.
pub(crate) fn send(source_port: u16, to: SocketAddrV4) -> io::Result<()> {
    let mut packet = Vec::new();
    // RFC 9260: common header, then an INIT chunk.
    packet.extend(source_port.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    let address = SockaddrIn::from(to);
    sendto(raw_socket()?.as_raw_fd(), &packet, &address, MsgFlags::empty())?;
    Ok(())
}

/// Whether the kernel has associations, loading its module where it is one.
pub(crate) fn is_spoken() -> bool {
    stream_socket(AddressFamily::Inet).is_ok()
}

/// Waits for associations at a port of every address.
pub(crate) fn listen_at(port: u16) -> io::Result<TcpListener> {
    let socket = stream_socket(AddressFamily::Inet6)?;
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?;
    listen(&socket, Backlog::MAXCONN)?;
    // To its calls one kind of stream is as good as another.
    Ok(socket.into())
}

/// Makes an association within a bound.
pub(crate) fn connect_to(server: SocketAddr, bound: Duration) -> io::Result<TcpStream> {
    let server = SockaddrStorage::from(server);
    let family = server.family().unwrap_or(AddressFamily::Inet);
    let socket = stream_socket(family)?;
    let bound = TimeVal::new(bound.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::SendTimeout, &bound)?;
    connect(socket.as_raw_fd(), &server)?;
    Ok(socket.into())
}

fn stream_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp)
}

fn raw_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Sctp)?)
}

/// Source address and destination port of an IPv4 packet.
fn parse(packet: &[u8]) -> Option<(Ipv4Addr, u16)> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let port: [u8; 2] = packet.get(header + 2..header + 4)?.try_into().ok()?;
    Some((source.into(), u16::from_be_bytes(port)))
}

/// Castagnoli's CRC (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
