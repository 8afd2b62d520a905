use super::*;
use crate::wire::{assert_same, bytes};
use proptest::prelude::*;

#[test]
fn creates_a_veth_pair_as_iproute2_does() {
    // ip link add va mtu 1400 txqueuelen 500 address 02:00:00:00:00:01
    //   type veth peer name vb address 02:00:00:00:00:02 mtu 1400
    let spec = VethSpec {
        name: "va",
        mac: Some(Mac::new([2, 0, 0, 0, 0, 1])),
        mtu: Some(1400),
        tx_queue_len: Some(500),
        peer: VethPeer {
            name: "vb",
            mac: Some(Mac::new([2, 0, 0, 0, 0, 2])),
            mtu: Some(1400),
            ..VethPeer::default()
        },
        ..VethSpec::default()
    };
    // The peer is a link message of its own: 16 bytes of header first.
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 2], 0), (&[18, 2, 1], 16)],
        "84 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         08 00 04 00 78 05 00 00  08 00 0d 00 f4 01 00 00
         0a 00 01 00 02 00 00 00  00 01 00 00 07 00 03 00
         76 61 00 00 40 00 12 00  08 00 01 00 76 65 74 68
         34 00 02 00 30 00 01 00  00 00 00 00 00 00 00 00
         00 00 00 00 00 00 00 00  0a 00 01 00 02 00 00 00
         00 02 00 00 08 00 04 00  78 05 00 00 07 00 03 00
         76 62 00 00",
    );
}

#[test]
fn creates_a_bridge_as_iproute2_does() {
    // ip link add br1 type bridge vlan_filtering 1 vlan_default_pvid 0
    let spec = BridgeSpec {
        name: "br1",
        vlan_filtering: Some(true),
        default_pvid: Some(0),
        ..BridgeSpec::default()
    };
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 2], 0)],
        "4c 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         08 00 03 00 62 72 31 00  24 00 12 00 0a 00 01 00
         62 72 69 64 67 65 00 00  14 00 02 00 05 00 07 00
         01 00 00 00 06 00 27 00  00 00 00 00",
    );
}

#[test]
fn creates_a_macvlan_as_iproute2_does() {
    // ip link add link v0 name mv0 type macvlan mode bridge bcqueuelen 500
    let spec = MacvlanSpec {
        name: "mv0",
        parent: 4,
        mode: MacvlanMode::Bridge,
        mac: None,
        mtu: None,
        broadcast_queue_len: Some(500),
        namespace: None,
    };
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 2], 0)],
        "54 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         08 00 05 00 04 00 00 00  08 00 03 00 6d 76 30 00
         24 00 12 00 0b 00 01 00  6d 61 63 76 6c 61 6e 00
         14 00 02 00 08 00 07 00  f4 01 00 00 08 00 01 00
         04 00 00 00",
    );
}

#[test]
fn creates_an_ipvlan_as_iproute2_does() {
    // ip link add link v0 name iv0 type ipvlan mode l3s
    let spec =
        IpvlanSpec { name: "iv0", parent: 4, mode: IpvlanMode::L3s, mtu: None, namespace: None };
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 2], 0)],
        "54 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         08 00 05 00 04 00 00 00  08 00 03 00 69 76 30 00
         24 00 12 00 0a 00 01 00  69 70 76 6c 61 6e 00 00
         14 00 02 00 06 00 01 00  02 00 00 00 06 00 02 00
         00 00 00 00",
    );
}

#[test]
fn creates_a_vlan_as_iproute2_does() {
    // ip link add link v0 name vl0 type vlan id 100
    let spec = VlanSpec { name: "vl0", parent: 4, id: 100, mtu: None, namespace: None };
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 2], 0)],
        "48 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         08 00 05 00 04 00 00 00  08 00 03 00 76 6c 30 00
         18 00 12 00 08 00 01 00  76 6c 61 6e 0c 00 02 00
         06 00 01 00 64 00 00 00",
    );
}

#[test]
fn creates_a_dummy_as_iproute2_does() {
    // ip link add name d0 mtu 1400 type dummy
    let spec = DummySpec { name: "d0", mtu: Some(1400), ..DummySpec::default() };
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0)],
        "40 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         08 00 04 00 78 05 00 00  07 00 03 00 64 30 00 00
         10 00 12 00 09 00 01 00  64 75 6d 6d 79 00 00 00",
    );
}

#[test]
fn creates_a_vrf_as_iproute2_does() {
    // ip link add vrf0 type vrf table 1000
    let spec = VrfSpec { name: "vrf0", table: 1000, up: false };
    assert_same(
        &spec.message(),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 2], 0)],
        "44 00 00 00 10 00 05 06  e4 7e 05 6b 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         09 00 03 00 76 72 66 30  00 00 00 00 18 00 12 00
         07 00 01 00 76 72 66 00  0c 00 02 00 08 00 01 00
         e8 03 00 00",
    );
}

#[test]
fn the_message_names_what_is_created() {
    let spec = VethSpec {
        name: "va",
        peer: VethPeer { name: "eth0", ..VethPeer::default() },
        ..VethSpec::default()
    };
    assert_eq!(spec.message().operation_text(), "create veth va with peer eth0");
    assert_eq!(
        Change::new(7).mtu(1400).up().message().operation_text(),
        "set mtu, up of link with index 7"
    );
}

#[test]
fn names_the_kernel_would_refuse_or_change_are_refused() {
    for good in ["eth0", "eth0.100", "a", "abcdefghijklmno", "ü"] {
        check_name("create", good).expect(good);
    }
    let bad =
        ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\0", "abcdefghijklmnop", "eth%d", "a\u{b}b"];
    for bad in bad {
        let error = check_name("create veth x", bad).expect_err(bad);
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert!(error.to_string().starts_with("create veth x: the interface name "), "{error}");
    }
}

#[test]
fn reads_kinds_this_machine_may_not_have() {
    // The attributes of a VLAN, an ipvlan and a VRF as the kernel writes them
    // (vlan_fill_info, ipvlan_nl_fillinfo, vrf_fillinfo at v6.18).
    for (kind, data, expected) in [
        (
            "vlan",
            "06 00 05 00 81 00 00 00 06 00 01 00 64 00 00 00",
            LinkInfo::Vlan { id: 100, protocol: 0x8100 },
        ),
        (
            "ipvlan",
            "06 00 01 00 02 00 00 00 06 00 02 00 00 00 00 00",
            LinkInfo::Ipvlan { mode: Some(IpvlanMode::L3s) },
        ),
        ("vrf", "08 00 01 00 e8 03 00 00", LinkInfo::Vrf { table: 1000 }),
        (
            "macvlan",
            "08 00 01 00 08 00 00 00",
            LinkInfo::Macvlan { mode: Some(MacvlanMode::Passthru) },
        ),
        ("macvlan", "08 00 01 00 10 00 00 00", LinkInfo::Macvlan { mode: None }),
        (
            "bridge",
            "05 00 07 00 01 00 00 00 06 00 27 00 05 00 00 00",
            LinkInfo::Bridge { vlan_filtering: true, default_pvid: 5, stp: false },
        ),
    ] {
        assert_eq!(LinkInfo::parse(kind, Attrs::new(&bytes(data))), expected, "{kind}");
    }
}

#[test]
fn a_truncated_answer_is_no_link() {
    assert_eq!(Link::parse(&[0; 11]), None);
    // An MTU of two bytes is nonsense; better none than a wrong one.
    let mut body = vec![0; IFINFOMSG_LEN];
    body.extend(bytes("06 00 04 00 78 05 00 00"));
    assert_eq!(Link::parse(&body), None);
}

proptest! {
    #[test]
    fn hostile_bytes_do_not_panic(
        header in proptest::collection::vec(any::<u8>(), 16),
        attrs in proptest::collection::vec((0_u16..70, proptest::collection::vec(any::<u8>(), 0..24)), 0..16),
        cut in 0_usize..400,
    ) {
        let mut body = header;
        for (kind, payload) in attrs {
            let len = u16::try_from(payload.len() + 4).expect("short");
            body.extend(len.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(&payload);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body.truncate(cut);
        let _ = Link::parse(&body);
        let _ = crate::addr::Addr::parse(&body);
        let _ = crate::route::Route::parse(&body);
        let _ = crate::rule::Rule::parse(&body);
    }
}
