use std::net::IpAddr;
use std::time::{Duration, Instant};

use linux::addr::{self, Addr};
use linux::link::{self, Mac, VethPeer, VethSpec};
use linux::monitor::{self, Event, Group, Monitor, Settled};
use linux::{ErrorKind, sysctl};

use crate::host::{in_new_namespace, veth_pair};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn nothing_that_happens_after_opening_is_missed() {
    in_new_namespace(|socket| {
        let monitor = Monitor::open(&[Group::Link, Group::Ipv4Addr, Group::Ipv4Route]).unwrap();
        let (a, _) = veth_pair(socket, "a", "b");
        let addr = Addr::new(a.index, "10.1.0.1/24".parse().unwrap());
        addr::add(socket, &addr).unwrap();
        addr::delete(socket, &addr).unwrap();
        link::delete(socket, a.index).unwrap();
        let mut seen = Vec::new();
        monitor
            .wait_until(Instant::now() + LONG, |event| {
                let done = matches!(event, Event::LinkDeleted(link) if link.index == a.index);
                seen.push(event.clone());
                Ok(done.then_some(()))
            })
            .unwrap();
        let position = |what: &dyn Fn(&Event) -> bool| seen.iter().position(what).unwrap();
        let link = position(&|e| matches!(e, Event::Link(link) if link.name == "a"));
        let added = position(&|e| matches!(e, Event::Addr(one) if one.net == addr.net));
        let route =
            position(&|e| matches!(e, Event::Route(r) if r.dst.to_string() == "10.1.0.0/24"));
        let deleted = position(&|e| matches!(e, Event::AddrDeleted(one) if one.net == addr.net));
        assert!(link < added && added < deleted && route < deleted, "{seen:?}");
    });
}

#[test]
fn waiting_ends_at_the_deadline() {
    in_new_namespace(|_| {
        let monitor = Monitor::open(&[Group::Link]).unwrap();
        let start = Instant::now();
        let error = monitor.wait_until(start + SHORT, |_| Ok(None::<()>)).unwrap_err();
        assert!(error.is_timed_out(), "{error}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < LONG);
    });
}

/// Shortens duplicate address detection to one question and a short wait.
fn quick_detection(names: &[&str]) {
    for name in names {
        sysctl::write(&["net", "ipv6", "neigh", name, "retrans_time_ms"], "50").unwrap();
        sysctl::write(&["net", "ipv6", "conf", name, "router_solicitations"], "0").unwrap();
    }
}

#[test]
fn tentative_addresses_are_waited_for() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        quick_detection(&["a", "b"]);
        let addr = Addr::new(a.index, "fd00::1/64".parse().unwrap());
        addr::add(socket, &addr).unwrap();
        let state = || {
            let listed = addr::list(socket, None, Some(a.index)).unwrap();
            listed.into_iter().find(|one| one.net == addr.net).unwrap()
        };
        assert!(state().is_tentative());
        let error = monitor::wait_addrs_settled(socket, a.index, Duration::ZERO).unwrap_err();
        assert!(error.is_timed_out());
        assert!(error.to_string().ends_with(" is still tentative"), "{error}");
        assert_eq!(monitor::wait_addrs_settled(socket, a.index, LONG).unwrap(), Settled::All);
        assert!(!state().is_tentative());
    });
}

#[test]
fn a_duplicate_address_is_an_error_that_names_it() {
    in_new_namespace(|socket| {
        let (a, b) = veth_pair(socket, "a", "b");
        quick_detection(&["a", "b"]);
        let address: IpAddr = "fd00::1".parse().unwrap();
        let net = "fd00::1/64".parse().unwrap();
        addr::add(socket, &Addr::new(b.index, net).nodad()).unwrap();
        addr::add(socket, &Addr::new(a.index, net)).unwrap();
        let error = monitor::wait_addrs_settled(socket, a.index, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DuplicateAddress, "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.to_string().ends_with("is already used by another host on the link"));
    });
}

#[test]
fn without_carrier_there_is_nobody_to_ask() {
    in_new_namespace(|socket| {
        let spec = VethSpec {
            name: "a",
            mac: Some(Mac::random()),
            up: true,
            peer: VethPeer { name: "b", ..VethPeer::default() },
            ..VethSpec::default()
        };
        let a = spec.create(socket).unwrap();
        addr::add(socket, &Addr::new(a.index, "fd00::1/64".parse().unwrap())).unwrap();
        let settled = monitor::wait_addrs_settled(socket, a.index, LONG).unwrap();
        assert_eq!(settled, Settled::NoCarrier);
    });
}
