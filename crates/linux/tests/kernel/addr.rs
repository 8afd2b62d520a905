use std::os::fd::AsFd;

use linux::addr::{self, Addr, AddrFlags};
use linux::link::{self, Change, VethPeer, VethSpec};
use linux::route::Scope;
use linux::{Family, IpNetwork};

use crate::host::{in_new_namespace, inside, new_namespace, tool, veth_pair};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

#[test]
fn what_is_added_is_listed() {
    in_new_namespace(|socket| {
        let (a, b) = veth_pair(socket, "a", "b");
        let added = [
            Addr::new(a.index, net("10.1.0.1/24")),
            Addr::new(a.index, net("10.2.0.1/31")),
            Addr::new(a.index, net("fd00::1/64")).nodad(),
        ];
        for addr in &added {
            addr::add(socket, addr).unwrap();
        }
        let v4 = addr::list(socket, Some(Family::V4), Some(a.index)).unwrap();
        assert_eq!(
            v4.iter().map(|addr| addr.net).collect::<Vec<_>>(),
            [added[0].net, added[1].net]
        );
        assert_eq!((v4[0].broadcast, v4[0].peer), (added[0].broadcast, None));
        assert_eq!((v4[1].broadcast, v4[0].scope), (None, Scope::UNIVERSE));
        let v6 = || addr::list(socket, Some(Family::V6), Some(a.index)).unwrap();
        let listed = v6();
        let ours = listed.iter().find(|addr| addr.net == added[2].net).unwrap();
        assert!(ours.flags.contains(AddrFlags::PERMANENT.with(AddrFlags::NODAD)));
        assert!(!ours.is_tentative() && !ours.is_duplicate());
        // The filter keeps the other end's addresses out.
        let other = Addr::new(b.index, net("fd00::2/64"));
        addr::add(socket, &other).unwrap();
        assert!(v6().iter().all(|addr| addr.index == a.index));
        assert!(addr::list(socket, Some(Family::V4), Some(b.index)).unwrap().is_empty());
        let all = addr::list(socket, None, None).unwrap();
        for addr in added.iter().chain([&other]) {
            assert!(
                all.iter().any(|one| (one.index, one.net) == (addr.index, addr.net)),
                "{addr:?}"
            );
        }
        assert!(
            tool("ip addr show dev a").contains("inet 10.1.0.1/24 brd 10.1.0.255 scope global")
        );
    });
}

#[test]
fn twice_is_exists_and_gone_is_not_found() {
    in_new_namespace(|socket| {
        for text in ["10.1.0.1/24", "fd00::1/64"] {
            let addr = Addr::new(1, net(text));
            addr::add(socket, &addr).unwrap();
            let error = addr::add(socket, &addr).unwrap_err();
            assert!(error.is_exists(), "{error}");
            addr::replace(socket, &addr).unwrap();
            addr::delete(socket, &addr).unwrap();
            let error = addr::delete(socket, &addr).unwrap_err();
            assert!(error.is_not_found(), "{error}");
        }
        let nowhere = Addr::new(999, net("10.1.0.1/24"));
        assert!(addr::add(socket, &nowhere).unwrap_err().is_not_found());
        assert!(addr::list(socket, Some(Family::V4), Some(999)).unwrap_or_default().is_empty());
    });
}

#[test]
fn a_peer_address_is_kept_apart_from_ours() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        let peer = "10.9.0.2".parse().unwrap();
        let addr = Addr::new(a.index, net("10.9.0.1/32")).peer(peer).scope(Scope::LINK);
        addr::add(socket, &addr).unwrap();
        let listed = addr::list(socket, Some(Family::V4), Some(a.index)).unwrap();
        assert_eq!((listed[0].net, listed[0].peer), (addr.net, Some(peer)));
        assert_eq!(listed[0].scope, Scope::LINK);
        assert!(tool("ip addr show dev a").contains("inet 10.9.0.1 peer 10.9.0.2/32 scope link"));
        addr::delete(socket, &addr).unwrap();
        assert!(addr::list(socket, Some(Family::V4), Some(a.index)).unwrap().is_empty());
    });
}

#[test]
fn one_send_makes_a_container_end_ready() {
    in_new_namespace(|socket| {
        let there = new_namespace();
        let spec = VethSpec {
            name: "near",
            up: true,
            peer: VethPeer { name: "eth0", namespace: Some(there.as_fd()), ..VethPeer::default() },
            ..VethSpec::default()
        };
        let eth0 = spec.create(socket).unwrap().link.unwrap();
        inside(&there, |inside| {
            inside
                .batch([
                    Addr::new(eth0, net("10.1.0.2/24")).add_message(),
                    Addr::new(eth0, net("fd00::2/64")).nodad().add_message(),
                    Change::new(eth0).up().message(),
                ])
                .unwrap();
            assert!(link::get_by_index(inside, eth0).unwrap().is_up());
            let listed = addr::list(inside, None, Some(eth0)).unwrap();
            assert!(listed.iter().any(|addr| addr.net == net("10.1.0.2/24")));
            assert!(listed.iter().any(|addr| addr.net == net("fd00::2/64")));
        });
    });
}
