use linux::link::{self, BridgeSpec, LinkInfo};
use linux::port::{self, PortChange, VlanRange};

use crate::host::{in_new_namespace, tool, veth_pair};

#[test]
fn flags_change_in_one_request_and_the_others_stay() {
    in_new_namespace(|socket| {
        let bridge =
            BridgeSpec { name: "br0", up: true, ..BridgeSpec::default() }.create(socket).unwrap();
        let (a, b) = veth_pair(socket, "a", "b");
        let error = port::get(socket, a.index).unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.to_string(), "find bridge port a: the link is not a port of a bridge");
        link::set_master(socket, a.index, bridge.index).unwrap();
        let before = port::get(socket, a.index).unwrap();
        assert_eq!((before.hairpin, before.learning, before.isolated), (false, true, false));

        let change =
            PortChange { hairpin: Some(true), isolated: Some(true), learning: Some(false) };
        change.apply(socket, a.index).unwrap();
        let after = port::get(socket, a.index).unwrap();
        assert_eq!((after.hairpin, after.learning, after.isolated), (true, false, true));
        let shown = tool("bridge -d link show dev a");
        assert!(shown.contains("hairpin on") && shown.contains("isolated on"), "{shown}");

        PortChange { hairpin: Some(false), ..PortChange::default() }
            .apply(socket, a.index)
            .unwrap();
        let after = port::get(socket, a.index).unwrap();
        assert_eq!((after.hairpin, after.learning, after.isolated), (false, false, true));

        // Nothing to change is no request, not even about a missing link.
        PortChange::default().apply(socket, 999).unwrap();
        change.apply(socket, b.index).unwrap_err();
        assert!(change.apply(socket, 999).unwrap_err().is_not_found());
    });
}

#[test]
fn vlans_are_added_listed_and_deleted_in_ranges() {
    in_new_namespace(|socket| {
        let spec = BridgeSpec {
            name: "br0",
            vlan_filtering: Some(true),
            up: true,
            ..BridgeSpec::default()
        };
        let before = link::list(socket).unwrap().len();
        let can = BridgeSpec::can_filter_vlans(socket).unwrap();
        assert_eq!(link::list(socket).unwrap().len(), before, "the question makes nothing");
        let made = spec.create(socket);
        assert_eq!(made.is_ok(), can);
        let bridge = match made {
            Ok(bridge) => bridge,
            // Built without CONFIG_BRIDGE_VLAN_FILTERING: then everything about
            // VLANs must say so, and a bridge without is no error.
            Err(error) => {
                assert!(error.is_unsupported(), "{error}");
                let plain = BridgeSpec { vlan_filtering: None, ..spec }.create(socket).unwrap();
                let (a, _) = veth_pair(socket, "a", "b");
                link::set_master(socket, a.index, plain.index).unwrap();
                let vlans = [VlanRange::access(100)];
                let error = port::add_vlans(socket, a.index, &vlans).unwrap_err();
                assert!(error.is_unsupported(), "{error}");
                assert_eq!(port::vlans(socket, a.index).unwrap(), []);
                return;
            }
        };
        assert!(matches!(bridge.info, LinkInfo::Bridge { vlan_filtering: true, .. }));
        let (a, _) = veth_pair(socket, "a", "b");
        link::set_master(socket, a.index, bridge.index).unwrap();
        assert_eq!(port::vlans(socket, a.index).unwrap(), [VlanRange::access(1)]);

        port::delete_vlans(socket, a.index, &[VlanRange::access(1)]).unwrap();
        let trunk = VlanRange::tagged_ranges((200..=300).chain([7, 4094]));
        let mut wanted = vec![VlanRange::access(100)];
        wanted.extend(trunk);
        port::add_vlans(socket, a.index, &wanted).unwrap();
        wanted.sort_by_key(|range| range.first);
        assert_eq!(port::vlans(socket, a.index).unwrap(), wanted);

        let middle = VlanRange { last: 290, ..VlanRange::tagged(210) };
        port::delete_vlans(socket, a.index, &[middle]).unwrap();
        let listed = port::vlans(socket, a.index).unwrap();
        let ids: usize = listed.iter().map(|range| usize::from(range.last - range.first) + 1).sum();
        assert_eq!(ids, 3 + 101 - 81);

        link::set_vlan_filtering(socket, bridge.index, false).unwrap();
        let bridge = link::get_by_index(socket, bridge.index).unwrap();
        assert!(matches!(bridge.info, LinkInfo::Bridge { vlan_filtering: false, .. }));
    });
}
