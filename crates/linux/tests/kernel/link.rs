use std::os::fd::AsFd;

use linux::link::{
    self, BridgeSpec, Change, DummySpec, IfbSpec, IpvlanMode, IpvlanSpec, Link, LinkInfo, Mac,
    MacvlanMode, MacvlanSpec, VethPeer, VethSpec, VlanSpec, VrfSpec,
};
use linux::{ErrorKind, Namespace, Result, Socket, sysctl};

use crate::host::{in_new_namespace, inside, new_namespace, tool, veth_pair};

#[test]
fn one_request_makes_the_pair_on_the_bridge_and_in_the_namespace() {
    in_new_namespace(|socket| {
        let bridge = BridgeSpec { name: "br0", up: true, ..BridgeSpec::default() };
        let bridge = bridge.create(socket).unwrap();
        let there = new_namespace();
        let (near_mac, far_mac) = (Mac::random(), Mac::random());
        let spec = VethSpec {
            name: "near",
            mac: Some(near_mac),
            mtu: Some(1400),
            tx_queue_len: Some(500),
            master: Some(bridge.index),
            up: true,
            alias: Some("whose it is"),
            no_link_local: true,
            peer: VethPeer {
                name: "eth0",
                mac: Some(far_mac),
                mtu: Some(1400),
                tx_queue_len: Some(700),
                namespace: Some(there.as_fd()),
            },
        };
        let made = spec.create(socket).unwrap();
        assert_eq!((made.name.as_str(), made.mac), ("near", Some(near_mac)));

        let near = link::get_by_index(socket, made.index).unwrap();
        assert_eq!((near.mac, near.alias.as_deref()), (Some(near_mac), Some("whose it is")));
        assert_eq!((near.mtu, near.tx_queue_len), (1400, 500));
        assert_eq!(near.master, Some(bridge.index));
        assert!(near.is_up() && near.is_kind("veth") && near.port.is_some(), "{near:?}");

        let far = inside(&there, |inside| link::get(inside, "eth0").unwrap());
        assert_eq!(far.mac, Some(far_mac));
        assert_eq!((far.mtu, far.tx_queue_len), (1400, 700));
        assert_eq!((made.link, made.master), (Some(far.index), Some(bridge.index)));
        assert!(!far.is_up());
        let mode = |link| sysctl::read(&["net", "ipv6", "conf", link, "addr_gen_mode"]).unwrap();
        assert_eq!((mode("near").as_str(), mode("br0").as_str()), ("1", "0"));
    });
}

/// The kernel gives links none whose MTU is too small for it.
#[test]
fn a_pair_without_ipv6_has_no_address_to_do_without() {
    in_new_namespace(|socket| {
        let spec = VethSpec {
            name: "near",
            mtu: Some(1000),
            alias: Some("whose it is"),
            no_link_local: true,
            peer: VethPeer { name: "far", ..VethPeer::default() },
            ..VethSpec::default()
        };
        let near = spec.create(socket).unwrap();
        let refused = Change::new(near.index).no_link_local().apply(socket).unwrap_err();
        assert!(refused.is_unsupported(), "{refused}");
        let near = link::get(socket, "near").unwrap();
        assert_eq!(near.alias.as_deref(), Some("whose it is"));
    });
}

#[test]
fn a_taken_name_is_an_error_that_says_which() {
    in_new_namespace(|socket| {
        let there = new_namespace();
        let create = |name, peer| {
            let spec = VethSpec {
                name,
                peer: VethPeer {
                    name: peer,
                    namespace: Some(there.as_fd()),
                    ..VethPeer::default()
                },
                ..VethSpec::default()
            };
            spec.create(socket)
        };
        create("near", "far").unwrap();
        let error = create("near", "far2").unwrap_err();
        assert!(error.is_exists());
        assert_eq!(
            error.to_string(),
            "create veth near with peer far2: file exists: the name near is already used"
        );
        let error = create("near2", "far").unwrap_err();
        assert!(error.is_exists());
        assert_eq!(
            error.to_string(),
            "create veth near2 with peer far: file exists: \
             the name far is already used in the peer's namespace"
        );
        // Neither attempt leaves half a pair.
        assert!(link::find(socket, "near2").unwrap().is_none());
        assert!(inside(&there, |inside| link::find(inside, "far2").unwrap().is_none()));
    });
}

#[test]
fn bad_names_do_not_reach_the_kernel() {
    in_new_namespace(|socket| {
        let bridge = BridgeSpec { name: "br%d", ..BridgeSpec::default() };
        let error = bridge.create(socket).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let index = veth_pair(socket, "a", "b").0.index;
        let error = link::rename(socket, index, "sixteen-bytes-xx").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}

#[test]
fn a_bridge_keeps_a_given_address_when_ports_come_and_go() {
    in_new_namespace(|socket| {
        let mac: Mac = "0a:58:0a:01:00:01".parse().unwrap();
        let spec = BridgeSpec {
            name: "br0",
            mac: Some(mac),
            mtu: Some(1400),
            up: true,
            ..BridgeSpec::default()
        };
        let bridge = spec.create(socket).unwrap();
        assert_eq!((bridge.mac, bridge.mtu), (Some(mac), 1400));
        assert!(bridge.is_up());
        assert!(matches!(bridge.info, LinkInfo::Bridge { stp: false, .. }), "{bridge:?}");
        let mac_of = |index| link::get_by_index(socket, index).unwrap().mac;
        // A port with a lower address would take over an address not given.
        let spec = VethSpec {
            name: "port",
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            master: Some(bridge.index),
            peer: VethPeer { name: "peer", ..VethPeer::default() },
            ..VethSpec::default()
        };
        let port = spec.create(socket).unwrap();
        assert_eq!(mac_of(bridge.index), Some(mac));
        link::delete(socket, port.index).unwrap();
        assert_eq!(mac_of(bridge.index), Some(mac));
    });
}

#[test]
fn several_changes_go_in_one_request() {
    in_new_namespace(|socket| {
        let bridge = BridgeSpec { name: "br0", ..BridgeSpec::default() }.create(socket).unwrap();
        let (a, _) = veth_pair(socket, "a", "b");
        // Kernels before 6.2 refuse to rename a link that is up.
        link::set_down(socket, a.index).unwrap();
        let mac = Mac::random();
        Change::new(a.index)
            .mac(mac)
            .mtu(1300)
            .tx_queue_len(77)
            .master(bridge.index)
            .alias("the a end")
            .group(5)
            .name("renamed")
            .down()
            .apply(socket)
            .unwrap();
        let a = link::get(socket, "renamed").unwrap();
        assert_eq!((a.mac, a.mtu, a.tx_queue_len), (Some(mac), 1300, 77));
        assert_eq!((a.master, a.group), (Some(bridge.index), 5));
        assert_eq!(a.alias.as_deref(), Some("the a end"));
        assert!(!a.is_up());

        link::unset_master(socket, a.index).unwrap();
        link::set_alias(socket, a.index, "").unwrap();
        let a = link::get(socket, "renamed").unwrap();
        assert_eq!((a.master, a.alias), (None, None));
    });
}

#[test]
fn promiscuity_counts_but_the_flag_is_our_own() {
    in_new_namespace(|socket| {
        let bridge = BridgeSpec { name: "br0", ..BridgeSpec::default() }.create(socket).unwrap();
        let (a, _) = veth_pair(socket, "a", "b");
        link::set_master(socket, a.index, bridge.index).unwrap();
        let port = link::get_by_index(socket, a.index).unwrap();
        assert_eq!((port.promiscuity, port.is_promisc()), (1, false));
        link::set_promisc(socket, a.index, true).unwrap();
        Change::new(a.index).all_multi(true).apply(socket).unwrap();
        let port = link::get_by_index(socket, a.index).unwrap();
        assert_eq!((port.promiscuity, port.is_promisc()), (2, true));
        // The port's own, and the one just switched on.
        assert_eq!(port.all_multi, link_all_multi("a"));
        link::set_promisc(socket, a.index, false).unwrap();
        assert!(!link::get_by_index(socket, a.index).unwrap().is_promisc());
    });
}

fn link_all_multi(name: &str) -> u32 {
    let shown = tool(&format!("ip -d link show dev {name}"));
    let mut words = shown.split_whitespace().skip_while(|word| *word != "allmulti");
    words.nth(1).unwrap().parse().unwrap()
}

#[test]
fn alternative_names_find_the_link() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        let long = "a-name-that-is-longer-than-fifteen-bytes";
        tool(&format!("ip link property add dev a altname short altname {long}"));
        for name in ["a", "short", long] {
            assert_eq!(link::get(socket, name).unwrap().index, a.index, "{name}");
        }
        let mut names = link::get(socket, "a").unwrap().alt_names;
        names.sort();
        assert_eq!(names, [long, "short"]);
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    in_new_namespace(|socket| {
        let too_long = "x".repeat(200);
        for name in ["none", "", "a-name-longer-than-fifteen-bytes", &too_long, "a\0b"] {
            let error = link::get(socket, name).unwrap_err();
            assert!(error.is_not_found(), "{name:?}: {error}");
            assert!(link::find(socket, name).unwrap().is_none());
        }
        assert!(link::get_by_index(socket, 999).unwrap_err().is_not_found());
        assert!(link::delete(socket, 999).unwrap_err().is_not_found());
        assert!(link::delete_named(socket, "none").unwrap_err().is_not_found());
        assert!(link::delete_group(socket, 77).unwrap_err().is_not_found());
        assert!(link::set_up(socket, 999).unwrap_err().is_not_found());
        assert_eq!(
            link::get(socket, "none").unwrap_err().to_string(),
            "find link none: no such device"
        );
    });
}

#[test]
fn lists_by_master_and_by_kind() {
    in_new_namespace(|socket| {
        let bridge = BridgeSpec { name: "br0", ..BridgeSpec::default() }.create(socket).unwrap();
        let (a, b) = veth_pair(socket, "a", "b");
        link::set_master(socket, a.index, bridge.index).unwrap();
        let names = |links: Vec<Link>| {
            let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
            names.sort();
            names
        };
        assert_eq!(names(link::list_ports(socket, bridge.index).unwrap()), ["a"]);
        assert_eq!(names(link::list_ports(socket, b.index).unwrap()), [""; 0]);
        assert_eq!(names(link::list_kind(socket, "veth").unwrap()), ["a", "b"]);
        assert_eq!(names(link::list_kind(socket, "bridge").unwrap()), ["br0"]);
        let all = names(link::list(socket).unwrap());
        assert!(["a", "b", "br0", "lo"].iter().all(|name| all.iter().any(|n| n == name)));
    });
}

#[test]
fn deletes_by_index_name_and_group() {
    in_new_namespace(|socket| {
        let (a, _) = veth_pair(socket, "a", "b");
        link::delete(socket, a.index).unwrap();
        assert!(link::find(socket, "b").unwrap().is_none(), "both ends go");
        veth_pair(socket, "c", "d");
        link::delete_named(socket, "d").unwrap();
        assert!(link::find(socket, "c").unwrap().is_none());
        for (name, peer) in [("e", "f"), ("g", "h")] {
            let (link, _) = veth_pair(socket, name, peer);
            Change::new(link.index).group(42).apply(socket).unwrap();
        }
        link::delete_group(socket, 42).unwrap();
        assert!(link::list_kind(socket, "veth").unwrap().is_empty());
    });
}

#[test]
fn a_move_takes_a_new_name_along() {
    in_new_namespace(|socket| {
        let there = new_namespace();
        let (a, _) = veth_pair(socket, "a", "b");
        Change::new(a.index)
            .namespace(there.as_fd())
            .name("eth0")
            .alias("was a")
            .apply(socket)
            .unwrap();
        assert!(link::find(socket, "a").unwrap().is_none());
        let moved = inside(&there, |inside| link::get(inside, "eth0").unwrap());
        assert_eq!(moved.alias.as_deref(), Some("was a"));
    });
}

#[test]
fn loopback_has_index_one_and_a_zero_address() {
    in_new_namespace(|socket| {
        let lo = link::get(socket, "lo").unwrap();
        assert_eq!((lo.index, lo.mac.map(Mac::is_zero)), (1, Some(true)));
        assert!(lo.is_loopback() && !lo.is_up() && lo.kind.is_none());
        link::set_up(socket, lo.index).unwrap();
        assert!(link::get(socket, "lo").unwrap().is_up());
    });
}

#[test]
fn a_macvlan_is_born_in_the_namespace() {
    in_new_namespace(|socket| {
        let (parent, _) = veth_pair(socket, "a", "b");
        let mac = Mac::random();
        born_there(
            socket,
            "macvlan",
            |namespace| {
                let spec = MacvlanSpec {
                    name: "eth0",
                    parent: parent.index,
                    mode: MacvlanMode::Bridge,
                    mac: Some(mac),
                    mtu: Some(1300),
                    broadcast_queue_len: Some(500),
                    namespace: Some(namespace.as_fd()),
                };
                spec.create(socket)
            },
            |link| {
                assert_eq!((link.mac, link.mtu, link.link), (Some(mac), 1300, Some(parent.index)));
                assert_eq!(link.info, LinkInfo::Macvlan { mode: Some(MacvlanMode::Bridge) });
            },
        );
    });
}

#[test]
fn a_vlan_is_born_in_the_namespace() {
    in_new_namespace(|socket| {
        let (parent, _) = veth_pair(socket, "a", "b");
        born_there(
            socket,
            "vlan",
            |namespace| {
                let spec = VlanSpec {
                    name: "eth0",
                    parent: parent.index,
                    id: 100,
                    mtu: None,
                    namespace: Some(namespace.as_fd()),
                };
                spec.create(socket)
            },
            |link| {
                assert_eq!(link.info, LinkInfo::Vlan { id: 100, protocol: 0x8100 });
            },
        );
    });
}

#[test]
fn an_ipvlan_is_born_in_the_namespace() {
    in_new_namespace(|socket| {
        let (parent, _) = veth_pair(socket, "a", "b");
        born_there(
            socket,
            "ipvlan",
            |namespace| {
                let spec = IpvlanSpec {
                    name: "eth0",
                    parent: parent.index,
                    mode: IpvlanMode::L3,
                    mtu: None,
                    namespace: Some(namespace.as_fd()),
                };
                spec.create(socket)
            },
            |link| {
                assert_eq!(link.info, LinkInfo::Ipvlan { mode: Some(IpvlanMode::L3) });
            },
        );
    });
}

#[test]
fn a_dummy_is_made_here() {
    in_new_namespace(|socket| {
        let spec = DummySpec { name: "eth0", mac: None, mtu: Some(1300) };
        let Some(made) = made_or_unsupported("dummy", spec.create(socket)) else { return };
        assert!(made.is_kind("dummy") && made.mtu == 1300, "{made:?}");
        assert!(spec.create(socket).unwrap_err().is_exists());
    });
}

#[test]
fn an_ifb_and_a_vrf_are_made_here() {
    in_new_namespace(|socket| {
        let spec = IfbSpec {
            name: "ifb-x",
            tx_queue_len: Some(99),
            up: true,
            mtu: Some(1300),
            alias: Some("somebody's"),
            no_link_local: true,
            ..IfbSpec::default()
        };
        if let Some(ifb) = made_or_unsupported("ifb", spec.create(socket)) {
            assert_eq!((ifb.name.as_str(), ifb.mtu, ifb.tx_queue_len), ("ifb-x", 1300, 99));
            let ifb = link::get(socket, "ifb-x").unwrap();
            assert!(ifb.is_up());
            assert_eq!(ifb.alias.as_deref(), spec.alias);
        }
        let before = link::list(socket).unwrap().len();
        let is_supported = link::knows(socket, "vrf").unwrap();
        assert_eq!(link::list(socket).unwrap().len(), before, "the question makes nothing");
        let spec = VrfSpec { name: "vrf-x", table: 1000, up: true };
        let made = made_or_unsupported("vrf", spec.create(socket));
        assert_eq!(made.is_some(), is_supported);
        if let Some(vrf) = made {
            assert_eq!(vrf.info, LinkInfo::Vrf { table: 1000 });
        }
    });
}

/// Creates `eth0` in another namespace, or finds that the kernel was built
/// without the kind, which `ip` must then agree with.
fn born_there(
    socket: &Socket,
    kind: &str,
    create: impl Fn(&Namespace) -> Result<()>,
    check: impl FnOnce(&Link) + Send,
) {
    let there = new_namespace();
    if made_or_unsupported(kind, create(&there)).is_none() {
        return;
    }
    assert!(link::find(socket, "eth0").unwrap().is_none(), "born elsewhere");
    inside(&there, |inside| {
        let link = link::get(inside, "eth0").unwrap();
        assert!(link.is_kind(kind), "{link:?}");
        check(&link);
    });
    let error = create(&there).unwrap_err();
    assert!(error.is_exists(), "{error}");
}

/// Unsupported is right only where `ip link add` finds it unsupported too.
fn made_or_unsupported<T>(kind: &str, made: Result<T>) -> Option<T> {
    match made {
        Ok(made) => Some(made),
        Err(error) if error.is_unsupported() => {
            let help = std::process::Command::new("ip")
                .args(["link", "add", "probe", "link", "lo", "type", kind])
                .args(match kind {
                    "vlan" => ["id", "7"].as_slice(),
                    "vrf" => ["table", "7"].as_slice(),
                    _ => [].as_slice(),
                })
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&help.stderr).into_owned();
            assert!(
                !help.status.success() && stderr.contains("not supported")
                    || stderr.contains("Unknown device type"),
                "we say unsupported ({error}), ip says {stderr:?}"
            );
            None
        }
        Err(error) => panic!("create {kind}: {error}"),
    }
}
