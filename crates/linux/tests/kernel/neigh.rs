use std::net::IpAddr;

use linux::link::Mac;
use linux::neigh::{self, Neigh};

use crate::host::{in_new_namespace, tool, veth_pair};

#[test]
fn a_permanent_entry_replaces_what_was_known_and_goes_by_its_address() {
    in_new_namespace(|socket| {
        let (near, _) = veth_pair(socket, "near", "far");
        let (old, new): (Mac, Mac) =
            ("02:00:00:00:00:01".parse().unwrap(), "02:00:00:00:00:02".parse().unwrap());
        for text in ["10.1.0.2", "fd00::2"] {
            let ip: IpAddr = text.parse().unwrap();
            tool(&format!("ip neigh add {ip} lladdr {old} dev near nud stale"));
            let entry = Neigh::permanent(near.index, ip, new);
            neigh::replace(socket, &entry).unwrap();
            let known = neigh::list(socket, None, Some(near.index)).unwrap();
            assert!(known.contains(&entry), "{known:?}");
            assert!(tool("ip neigh show dev near nud permanent").contains(&new.to_string()));
            let unnamed = Neigh { mac: None, state: 0, ..entry };
            neigh::delete(socket, &unnamed).unwrap();
            let error = neigh::delete(socket, &unnamed).unwrap_err();
            assert!(error.is_not_found(), "{error}");
            assert!(!tool("ip neigh show dev near nud permanent").contains(text));
        }
    });
}
