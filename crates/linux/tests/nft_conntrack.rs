//! Connections listed and deleted, with real packets through real address
//! translation. Each test runs in a network namespace of its own, which ends
//! with it. Needs root and `ip`.

#![expect(clippy::unwrap_used, reason = "a failed step of a test shall panic")]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use linux::conntrack::{self, Entry, Filter};
use linux::nft::{self, Chain, ChainType, CtState, Hook, Protocol, Rule, Table, Transaction};
use linux::{Family, netlink};
use nix::sched::{CloneFlags, unshare};

fn in_namespace(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: run as root");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("the ip command").success());
        run();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Makes the namespace track connections, and sends `to` the server instead.
fn translate(to: SocketAddr, server: SocketAddr) {
    let table = if to.is_ipv4() { Table::ip("t") } else { Table::ip6("t") };
    let output = Chain::base(&table, "output", ChainType::Nat, Hook::Output, -100);
    let input = Chain::base(&table, "input", ChainType::Filter, Hook::Input, 0);
    let mut rules = Transaction::new();
    rules.add(&table).add(&output).add(&input);
    rules.add(Rule::new(&input).ct_state(CtState::NEW).accept());
    rules.add(
        Rule::new(&output)
            .ip_daddr(to.ip())
            .dport(Protocol::UDP, to.port())
            .dnat(server.ip(), Some(server.port())),
    );
    nft::Socket::open().unwrap().commit(&rules).unwrap();
}

fn bind(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("an address of lo");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket
}

/// Sends a datagram to an address, behind which is the server, and back.
fn round_trip(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) {
    let mut buffer = [0; 16];
    client.send_to(b"question", to).expect("sent");
    let (len, from) = server.recv_from(&mut buffer).expect("the question arrives");
    server.send_to(&buffer[..len], from).expect("answered");
    let (_, from) = client.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!(from, to, "the answer looks as if nothing was translated");
}

fn socket() -> netlink::Socket {
    netlink::Socket::open(netlink::Protocol::Netfilter).unwrap()
}

fn other_family(family: Family) -> Family {
    if family == Family::V4 { Family::V6 } else { Family::V4 }
}

fn destination(entry: &Entry) -> (IpAddr, Option<u16>) {
    (entry.original.destination, entry.original.destination_port)
}

fn deletes_only_what_is_meant(own: &str, mapped: SocketAddr, other: &str) {
    let server = bind(own);
    let server_address = server.local_addr().unwrap();
    translate(mapped, server_address);
    let clients = [bind(other), bind(other)];
    // The mapped port twice, the server's own port, and the same number of the
    // mapped port at another address and by TCP.
    round_trip(&clients[0], mapped, &server);
    round_trip(&clients[1], mapped, &server);
    round_trip(&clients[0], server_address, &server);
    let neighbour = SocketAddr::new(clients[0].local_addr().unwrap().ip(), mapped.port());
    let beside = bind(&neighbour.to_string());
    round_trip(&clients[0], neighbour, &beside);
    let listener = TcpListener::bind(mapped).unwrap();
    let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();

    let socket = socket();
    let family = Family::of(mapped.ip());
    let all = Filter::new(family);
    let udp = Filter { protocol: Some(Protocol::UDP), ..all };
    let port = Filter { original_destination_port: Some(mapped.port()), ..udp };
    let ours = Filter { reply_source: Some(server_address.ip()), ..port };
    let count = |filter: &Filter| conntrack::list(&socket, filter).unwrap().len();
    assert_eq!((count(&all), count(&udp), count(&port), count(&ours)), (5, 4, 3, 2));
    let by = Filter { original_destination: Some(mapped.ip()), ..all };
    assert_eq!(count(&by), 3, "two by UDP and one by TCP");
    let by = Filter { reply_source_port: Some(server_address.port()), ..all };
    assert_eq!(count(&by), 3, "two translated, one direct");
    let client = clients[1].local_addr().unwrap();
    let by = Filter { original_source: Some(client.ip()), ..ours };
    for entry in conntrack::list(&socket, &by).unwrap() {
        assert_eq!(entry.protocol, Protocol::UDP);
        assert_eq!(destination(&entry), (mapped.ip(), Some(mapped.port())));
        assert_eq!(entry.original.source, client.ip());
        assert_eq!(entry.reply.source, server_address.ip());
        assert_eq!(entry.reply.source_port, Some(server_address.port()));
        assert_eq!(entry.reply.destination_port, entry.original.source_port);
    }
    let absent = Filter { original_destination_port: Some(1), ..udp };
    assert_eq!(count(&absent), 0);

    let counts = || (count(&all), count(&udp), count(&port), count(&ours));
    conntrack::delete(&socket, &[]).unwrap();
    assert_eq!(counts(), (5, 4, 3, 2));
    conntrack::delete(&socket, &[absent, ours]).unwrap();
    assert_eq!(counts(), (3, 2, 1, 0));
    conntrack::delete(&socket, &[ours]).unwrap();
    assert_eq!(counts(), (3, 2, 1, 0), "gone already");

    // Whoever keeps sending is now translated anew.
    round_trip(&clients[0], mapped, &server);
    assert_eq!(counts(), (4, 3, 2, 1));

    // So many that the table is read instead.
    let mut many = vec![absent; 20];
    many.push(ours);
    conntrack::delete(&socket, &many).unwrap();
    assert_eq!(counts(), (3, 2, 1, 0));

    // Each part of a filter counts, also where the kernel itself filters.
    round_trip(&clients[0], mapped, &server);
    let wrong = [
        Filter { reply_source: Some(mapped.ip()), ..ours },
        Filter { reply_source_port: Some(1), ..ours },
        Filter { original_source: Some(mapped.ip()), ..ours },
        Filter { original_destination: Some(client.ip()), ..ours },
        Filter { original_destination_port: Some(1), ..ours },
        Filter { protocol: Some(Protocol::TCP), ..ours },
        Filter {
            family: other_family(family),
            protocol: Some(Protocol::UDP),
            ..Filter::new(family)
        },
    ];
    conntrack::delete(&socket, &wrong).unwrap();
    assert_eq!(counts(), (4, 3, 2, 1));
    let exact = Filter {
        original_source: Some(clients[0].local_addr().unwrap().ip()),
        original_destination: Some(mapped.ip()),
        reply_source_port: Some(server_address.port()),
        ..ours
    };
    conntrack::delete(&socket, &[exact]).unwrap();
    assert_eq!(counts(), (3, 2, 1, 0));
}

#[test]
fn ipv4_entries() {
    in_namespace(|| {
        let mapped = SocketAddr::from(([127, 0, 0, 5], 5353));
        deletes_only_what_is_meant("127.0.0.1:0", mapped, "127.0.0.2:0");
    });
}

#[test]
fn ipv6_entries() {
    in_namespace(|| {
        // Addresses become usable some time after they were added, even without
        // duplicate address detection; a local route is there at once.
        std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
        let added =
            Command::new("ip").args(["route", "add", "local", "fd00::/64", "dev", "lo"]).status();
        assert!(added.expect("the ip command").success());
        let mapped = SocketAddr::new("fd00::5".parse().unwrap(), 5353);
        deletes_only_what_is_meant("[fd00::1]:0", mapped, "[fd00::2]:0");
    });
}

#[test]
fn empty_table() {
    in_namespace(|| {
        let socket = socket();
        for family in [Family::V4, Family::V6] {
            assert_eq!(conntrack::list(&socket, &Filter::new(family)).unwrap(), []);
        }
    });
}
