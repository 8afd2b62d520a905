//! A server that tells clients where it saw them come from, and clients.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};

use crate::host::pause;
use crate::sctp;

/// How long a client waits for a connection and then for the answer.
const BOUND: Duration = Duration::from_secs(5);
/// How often a client sends a datagram again: the first may be lost while the
/// neighbour is resolved.
const DATAGRAMS: u32 = 5;

/// A server in a namespace, until dropped; see [`crate::Netns::echo_server`] and
/// [`crate::Netns::sctp_server`].
#[derive(Debug)]
pub struct EchoServer {
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts it in the calling thread's namespace.
    #[track_caller]
    pub(crate) fn start(port: u16) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // A socket of IPv6 takes IPv4 as well (net.ipv6.bindv6only is 0).
        let listener = once_free(|| TcpListener::bind(any));
        let listener = listener.unwrap_or_else(|e| panic!("listen on {any}: {e}"));
        let datagrams = once_free(|| UdpSocket::bind(any));
        let datagrams = datagrams.unwrap_or_else(|e| panic!("bind {any}: {e}"));
        Self::serving(listener, Some(datagrams))
    }

    /// Starts one that speaks SCTP.
    #[track_caller]
    pub(crate) fn start_sctp(port: u16) -> Self {
        let listener = sctp::listen_at(port).unwrap_or_else(|e| panic!("listen to SCTP: {e}"));
        Self::serving(listener, None)
    }

    fn serving(listener: TcpListener, datagrams: Option<UdpSocket>) -> Self {
        let (stopped, stop) = io::pipe().unwrap_or_else(|e| panic!("make a pipe: {e}"));
        let thread = thread::spawn(move || serve(&listener, datagrams.as_ref(), &stopped));
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

/// The socket of the server before is open until a program that another test begins to
/// execute at that moment has begun.
fn once_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let give_up = Instant::now() + Duration::from_secs(2);
    loop {
        match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => pause(),
            bound => return bound,
        }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Serves until the other end of `stopped` is closed.
fn serve(listener: &TcpListener, datagrams: Option<&UdpSocket>, stopped: &io::PipeReader) {
    loop {
        let mut ready = vec![
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        ready.extend(datagrams.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        let is_ready = |at: usize| ready.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        if is_ready(0) {
            return;
        }
        // A client that goes away is no reason to stop serving the others.
        if is_ready(1) {
            drop(listener.accept().and_then(|(stream, client)| answer(stream, client)));
        }
        if is_ready(2)
            && let Some(datagrams) = datagrams
        {
            let mut buffer = [0; 64];
            let asked = datagrams.recv_from(&mut buffer);
            drop(asked.and_then(|(_, client)| datagrams.send_to(shown(client).as_bytes(), client)));
        }
    }
}

fn answer(mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_write_timeout(Some(BOUND))?;
    stream.write_all(shown(client).as_bytes())
}

/// The client's address, an IPv4 one as such.
fn shown(client: SocketAddr) -> String {
    SocketAddr::new(client.ip().to_canonical(), client.port()).to_string()
}

/// Connects and gives the address that the server saw.
pub(crate) fn ask_by_tcp(server: SocketAddr) -> Result<SocketAddr, String> {
    ask_by_stream(|| TcpStream::connect_timeout(&server, BOUND))
}

/// The same by SCTP.
pub(crate) fn ask_by_sctp(server: SocketAddr) -> Result<SocketAddr, String> {
    ask_by_stream(|| sctp::connect_to(server, BOUND))
}

fn ask_by_stream(connect: impl Fn() -> io::Result<TcpStream>) -> Result<SocketAddr, String> {
    let ask = || {
        let mut stream = connect()?;
        stream.set_read_timeout(Some(BOUND))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|e: io::Error| e.to_string())?;
    answer.parse().map_err(|e| format!("{e}: {answer:?}"))
}

/// Sends datagrams until one is answered with the address the server saw.
pub(crate) fn ask_by_udp(server: SocketAddr) -> Result<SocketAddr, String> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let ask = || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(BOUND / DATAGRAMS))?;
        let mut buffer = [0; 64];
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..DATAGRAMS {
            socket.send(b"?")?;
            match socket.recv(&mut buffer) {
                Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    };
    let answer = ask().map_err(|e: io::Error| e.to_string())?;
    answer.parse().map_err(|e| format!("{e}: {answer:?}"))
}

/// Sends an ICMPv6 message; the kernel fills in the checksum.
pub(crate) fn send_icmpv6(target: SocketAddrV6, message: &[u8]) -> nix::Result<()> {
    let socket =
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    sendto(socket.as_raw_fd(), message, &SockaddrIn6::from(target), MsgFlags::empty())?;
    Ok(())
}
