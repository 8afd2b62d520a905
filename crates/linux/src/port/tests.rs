use super::*;
use crate::wire::{assert_same, bytes};
use proptest::prelude::*;

#[test]
fn changes_a_port_as_iproute2_does_but_for_the_kind() {
    // ip link set dev v0 type bridge_slave hairpin on isolated on learning off
    //
    // The recording has IFLA_INFO_KIND "bridge_slave" where the bytes below
    // have IFLA_INFO_SLAVE_KIND "bridge": the kernel takes the port's kind
    // from its master, and compares neither (rtnl_changelink,
    // net/core/rtnetlink.c at v6.18). The namespace test proves ours.
    let change = PortChange { hairpin: Some(true), isolated: Some(true), learning: Some(false) };
    assert_same(
        &change.message(4),
        IFINFOMSG_LEN,
        &[(&[18], 0), (&[18, 5], 0)],
        "4c 00 00 00 10 00 05 00  e4 7e 05 6b 00 00 00 00
         00 00 00 00 04 00 00 00  00 00 00 00 00 00 00 00
         2c 00 12 00 0b 00 04 00  62 72 69 64 67 65 00 00
         1c 00 05 00 05 00 04 00  01 00 00 00
         05 00 21 00 01 00 00 00  05 00 08 00 00 00 00 00",
    );
}

#[test]
fn adds_an_access_vlan_as_iproute2_does() {
    // bridge vlan add dev v0 vid 100 pvid untagged
    assert_same(
        &add_vlans_message(4, &[VlanRange::access(100)]),
        IFINFOMSG_LEN,
        &[(&[26], 0)],
        "2c 00 00 00 13 00 05 00  e5 7e 05 6b 00 00 00 00
         07 00 00 00 04 00 00 00  00 00 00 00 00 00 00 00
         0c 00 1a 00 08 00 02 00  06 00 64 00",
    );
}

#[test]
fn adds_and_deletes_a_range_as_iproute2_does() {
    // bridge vlan add dev v0 vid 200-300
    let range = [VlanRange { last: 300, ..VlanRange::tagged(200) }];
    assert_same(
        &add_vlans_message(4, &range),
        IFINFOMSG_LEN,
        &[],
        "34 00 00 00 13 00 05 00  fa 7e 05 6b 00 00 00 00
         07 00 00 00 04 00 00 00  00 00 00 00 00 00 00 00
         14 00 1a 00 08 00 02 00  08 00 c8 00 08 00 02 00
         10 00 2c 01",
    );
    // bridge vlan del dev v0 vid 200-300
    assert_same(
        &delete_vlans_message(4, &range),
        IFINFOMSG_LEN,
        &[],
        "34 00 00 00 11 00 05 00  fa 7e 05 6b 00 00 00 00
         07 00 00 00 04 00 00 00  00 00 00 00 00 00 00 00
         14 00 1a 00 08 00 02 00  08 00 c8 00 08 00 02 00
         10 00 2c 01",
    );
}

#[test]
fn reads_back_ranges_and_flags() {
    let vlans = [
        VlanRange::access(1),
        VlanRange { last: 300, ..VlanRange::tagged(200) },
        VlanRange { untagged: true, ..VlanRange::tagged(4094) },
    ];
    let message = add_vlans_message(4, &vlans);
    assert_eq!(parse_vlans(&message.as_bytes()[16..]), vlans);
}

#[test]
fn a_range_without_beginning_is_one_vlan() {
    let mut body = vec![0; IFINFOMSG_LEN];
    body.extend(bytes("0c 00 1a 00 08 00 02 00 10 00 2c 01"));
    assert_eq!(parse_vlans(&body), [VlanRange::tagged(300)]);
}

#[test]
fn every_vlan_fits_in_one_request() {
    // The worst case: no two IDs are neighbours.
    let ranges = VlanRange::tagged_ranges((1..=4094).step_by(2));
    assert_eq!(ranges.len(), 2047);
    assert!(add_vlans_message(4, &ranges).as_bytes().len() < usize::from(u16::MAX));
}

proptest! {
    #[test]
    fn ranges_hold_exactly_the_given_ids(ids in proptest::collection::btree_set(1_u16..=4094, 0..200)) {
        let ranges = VlanRange::tagged_ranges(ids.iter().rev().copied().chain(ids.first().copied()));
        let expanded: Vec<u16> = ranges.iter().flat_map(|range| range.first..=range.last).collect();
        prop_assert_eq!(&expanded, &ids.iter().copied().collect::<Vec<u16>>());
        prop_assert!(ranges.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
    }
}
