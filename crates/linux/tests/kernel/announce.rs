use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use linux::addr::{self, Addr};
use linux::link::{self, Change, Link, Mac, OperState, VethPeer, VethSpec};
use linux::monitor::{Event, Group, Monitor};
use linux::{announce, neigh, sysctl};

use crate::host::{in_new_namespace, inside, new_namespace};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn neighbours_forget_the_last_owner() {
    in_new_namespace(|socket| {
        // "near" knows the neighbours by the Ethernet address of before.
        let there = new_namespace();
        let spec = VethSpec {
            name: "near",
            up: true,
            peer: VethPeer { name: "far", namespace: Some(there.as_fd()), ..VethPeer::default() },
            ..VethSpec::default()
        };
        let near = spec.create(socket).unwrap();
        let far = near.link.unwrap();
        let (v4, v6): (IpAddr, IpAddr) = ("10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        let old: Mac = "02:00:00:00:00:01".parse().unwrap();
        let new: Mac = "02:00:00:00:00:02".parse().unwrap();
        for net in ["10.1.0.1/24", "fd00::1/64"] {
            let addr = Addr::new(near.index, net.parse().unwrap()).nodad();
            addr::add(socket, &addr).unwrap();
        }
        // The kernel ignores ARP news about an entry younger than this.
        sysctl::write(&["net", "ipv4", "neigh", "near", "locktime"], "0").unwrap();
        let monitor = Monitor::open(&[Group::Link]).unwrap();
        inside(&there, |inside| {
            Change::new(far).mac(new).up().apply(inside).unwrap();
        });
        let is_up = |link: &Link| link.index == near.index && link.oper_state == OperState::Up;
        let comes_up = |event: &Event| match event {
            Event::Link(link) => Ok(is_up(link).then_some(())),
            _ => Ok(None),
        };
        monitor.wait_until(Instant::now() + BOUND, comes_up).unwrap();
        for ip in [v4, v6] {
            let command = format!("ip neigh replace {ip} lladdr {old} dev near nud stale");
            crate::host::tool(&command);
        }
        inside(&there, |inside| {
            for net in ["10.1.0.2/24", "fd00::2/64"] {
                addr::add(inside, &Addr::new(far, net.parse().unwrap()).nodad()).unwrap();
            }
            let link = link::get_by_index(inside, far).unwrap();
            announce::send(inside, far, link.mac.unwrap(), [v4, v6]).unwrap();
        });
        // Frames through a veth are handled right after the send, but on
        // another processor perhaps.
        let deadline = Instant::now() + BOUND;
        for ip in [v4, v6] {
            loop {
                let known = neigh::list(socket, None, Some(near.index)).unwrap();
                let entry = known.iter().find(|neigh| neigh.ip == ip).copied();
                if entry.and_then(|neigh| neigh.mac) == Some(new) {
                    break;
                }
                assert!(Instant::now() < deadline, "{ip} is still known as {entry:?}");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn a_link_that_is_not_there_cannot_announce() {
    in_new_namespace(|socket| {
        for ip in ["10.1.0.2", "fd00::2"] {
            let ip: IpAddr = ip.parse().unwrap();
            let error = announce::send(socket, 999, Mac::random(), [ip]).unwrap_err();
            assert!(error.to_string().starts_with("announce "), "{error}");
        }
        announce::send(socket, 999, Mac::random(), []).unwrap();
    });
}
