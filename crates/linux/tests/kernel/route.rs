use linux::addr::{self, Addr};
use linux::route::{self, Filter, NextHop, Route, RouteKind, RouteProtocol, Scope, TABLE_MAIN};
use linux::{Family, IpNetwork, Socket};
use std::net::IpAddr;

use crate::host::{in_new_namespace, tool, veth_pair};

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A link with 10.1.0.2/24 and fd00:1::2/64 on it; answers its index.
fn on_link(socket: &Socket) -> u32 {
    let (a, _) = veth_pair(socket, "a", "b");
    addr::add(socket, &Addr::new(a.index, net("10.1.0.2/24"))).unwrap();
    addr::add(socket, &Addr::new(a.index, net("fd00:1::2/64")).nodad()).unwrap();
    a.index
}

fn listed(socket: &Socket, dst: &str) -> Vec<Route> {
    let mut routes = route::list(socket, Filter::default()).unwrap();
    routes.retain(|route| route.dst == net(dst));
    routes
}

#[test]
fn what_is_added_is_listed_whole() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let mut v4 = Route::new(net("10.5.0.0/16"))
            .via(ip("10.1.0.1"))
            .dev(index)
            .table(1000)
            .priority(7)
            .source(ip("10.1.0.2"));
        v4.mtu = Some(1400);
        v4.advmss = Some(1360);
        v4.protocol = RouteProtocol::STATIC;
        let mut v6 = Route::new(net("fd00:5::/64")).via(ip("fd00:1::1")).dev(index).priority(9);
        v6.mtu = Some(1400);
        let link_scope = Route::new(net("10.6.0.1/32")).dev(index).scope(Scope::LINK);
        let mut onlink = Route::new(net("10.7.0.0/16")).via(ip("192.0.2.1")).dev(index);
        onlink.onlink = true;
        let mixed = Route::new(net("10.8.0.0/16")).via(ip("fe80::1")).dev(index);
        for route in [&v4, &v6, &link_scope, &onlink, &mixed] {
            route::add(socket, route).unwrap();
            assert_eq!(&listed(socket, &route.dst.to_string())[..], std::slice::from_ref(route));
        }
        let shown = tool("ip route show table 1000");
        assert_eq!(
            shown.trim(),
            "10.5.0.0/16 via 10.1.0.1 dev a proto static src 10.1.0.2 metric 7 mtu 1400 advmss 1360"
        );
    });
}

#[test]
fn default_routes_of_both_families() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        for (family, gateway) in [(Family::V4, "10.1.0.1"), (Family::V6, "fd00:1::1")] {
            let route = Route::default_of(family).via(ip(gateway)).dev(index);
            route::add(socket, &route).unwrap();
            assert!(route::add(socket, &route).unwrap_err().is_exists());
            let found = route::list(socket, Filter { family: Some(family), ..Filter::MAIN });
            let found: Vec<Route> = found.unwrap().into_iter().filter(Route::is_default).collect();
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].gateway, found[0].oif), (Some(ip(gateway)), Some(index)));
            assert_eq!(found[0].family(), family);
            route::delete(socket, &route).unwrap();
            assert!(route::delete(socket, &route).unwrap_err().is_not_found());
        }
    });
}

#[test]
fn filters_by_table_and_link() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let route = Route::new(net("10.5.0.0/16")).dev(index).table(77);
        route::add(socket, &route).unwrap();
        let table = |table| Filter { table: Some(table), ..Filter::default() };
        assert_eq!(route::list(socket, table(77)).unwrap(), [route]);
        for family in [None, Some(Family::V4), Some(Family::V6)] {
            let filter = Filter { family, ..table(4242) };
            assert_eq!(route::list(socket, filter).unwrap(), [], "{family:?}");
        }
        let main = route::list(socket, Filter::MAIN).unwrap();
        assert!(main.iter().all(|route| route.table == TABLE_MAIN) && !main.is_empty());
        let here = Filter { oif: Some(index), ..Filter::default() };
        let here = route::list(socket, here).unwrap();
        assert!(here.iter().all(|route| route.oif == Some(index)) && here.len() >= 3);
    });
}

#[test]
fn multipath_weights_are_those_that_were_given() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let hop = |gateway, weight| NextHop {
            gateway: Some(ip(gateway)),
            oif: index,
            weight,
            onlink: false,
        };
        let mut route = Route::new(net("10.6.0.0/16"));
        route.next_hops = vec![hop("10.1.0.9", 3), hop("10.1.0.10", 1)];
        route::add(socket, &route).unwrap();
        assert_eq!(listed(socket, "10.6.0.0/16")[0].next_hops, route.next_hops);
        let shown = tool("ip route show 10.6.0.0/16");
        assert!(shown.contains("via 10.1.0.9 dev a weight 3"), "{shown}");
        let here = Filter { family: Some(Family::V4), oif: Some(index), ..Filter::MAIN };
        let _ = route::list(socket, here).unwrap();

        // IPv6 makes one of two that differ by gateway only.
        for gateway in ["fd00:1::9", "fd00:1::10"] {
            let route = Route::new(net("fd00:6::/64")).via(ip(gateway)).dev(index);
            route::append(socket, &route).unwrap();
        }
        let merged = listed(socket, "fd00:6::/64");
        assert_eq!(merged.len(), 1, "{merged:?}");
        assert_eq!(merged[0].next_hops.len(), 2);
    });
}

#[test]
fn deletes_what_the_kernel_made_and_only_that() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let connected = &listed(socket, "10.1.0.0/24")[0];
        assert_eq!(connected.protocol, RouteProtocol::KERNEL);
        assert_eq!(connected.scope, Scope::LINK);
        route::add(socket, &Route::new(net("10.1.0.0/24")).dev(index).priority(50)).unwrap();
        let any = Route::new(net("10.1.0.0/24")).dev(index).priority(50);
        route::delete(socket, &any).unwrap();
        assert_eq!(listed(socket, "10.1.0.0/24").len(), 1);
        // Without saying who made it, or how far it leads.
        route::delete(socket, &Route::new(net("10.1.0.0/24")).dev(index)).unwrap();
        assert_eq!(listed(socket, "10.1.0.0/24"), []);
    });
}

#[test]
fn replaces_the_route_of_the_same_metric() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let route = |gateway| Route::new(net("10.5.0.0/16")).via(ip(gateway)).dev(index);
        route::add(socket, &route("10.1.0.1")).unwrap();
        route::replace(socket, &route("10.1.0.9")).unwrap();
        assert_eq!(listed(socket, "10.5.0.0/16"), [route("10.1.0.9")]);
    });
}

#[test]
fn kinds_other_than_unicast() {
    in_new_namespace(|socket| {
        on_link(socket);
        for kind in [RouteKind::BLACKHOLE, RouteKind::UNREACHABLE, RouteKind::PROHIBIT] {
            let mut route = Route::new(net("10.7.0.0/16"));
            route.kind = kind;
            route::add(socket, &route).unwrap();
            assert_eq!(listed(socket, "10.7.0.0/16")[0].kind, kind);
            route::delete(socket, &route).unwrap();
        }
    });
}

#[test]
fn looks_up_the_way_a_packet_takes() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let error = route::get(socket, ip("192.0.2.1")).unwrap_err();
        assert_eq!(error.errno(), Some(nix::libc::ENETUNREACH), "{error}");
        assert!(error.to_string().starts_with("look up route to 192.0.2.1: "), "{error}");
        let default = Route::default_of(Family::V4).via(ip("10.1.0.1")).dev(index);
        route::add(socket, &default).unwrap();
        let found = route::get(socket, ip("192.0.2.1")).unwrap();
        assert_eq!((found.gateway, found.oif), (Some(ip("10.1.0.1")), Some(index)));
        assert_eq!((found.source, found.table), (Some(ip("10.1.0.2")), TABLE_MAIN));
        let neighbour = route::get(socket, ip("fd00:1::7")).unwrap();
        assert_eq!((neighbour.gateway, neighbour.oif), (None, Some(index)));
    });
}

#[test]
fn the_kernel_says_what_is_wrong_with_a_route() {
    in_new_namespace(|socket| {
        let index = on_link(socket);
        let bits = Route::new(net("10.5.0.1/16")).dev(index);
        let error = route::add(socket, &bits).unwrap_err();
        assert_eq!(error.kind(), linux::ErrorKind::Invalid);
        assert!(error.kernel_message().is_some(), "{error}");
        let stranger = Route::new(net("10.5.0.0/16")).via(ip("192.0.2.1")).dev(index);
        let error = route::add(socket, &stranger).unwrap_err();
        assert_eq!(error.errno(), Some(nix::libc::ENETUNREACH));
        assert_eq!(error.kernel_message(), Some("Nexthop has invalid gateway"));
    });
}
