use super::*;
use linux::IpNetwork;
use linux::route::NextHop;

const INDEX: u32 = 7;

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

fn route(dst: &str) -> Route {
    Route::new(net(dst)).dev(INDEX)
}

fn carried(routes: Vec<Route>) -> Vec<Route> {
    Carried::choose(INDEX, Vec::new(), routes).routes
}

#[test]
fn only_what_nobody_brings_back_is_carried() {
    let gateway = "10.1.0.1".parse().expect("an address");
    let hop = |oif| NextHop { gateway: Some(gateway), oif, weight: 1, onlink: false };
    let by = |hops: Vec<NextHop>| Route { next_hops: hops, oif: None, ..route("10.9.0.0/16") };
    let kept = [
        route("10.1.0.1/32").scope(Scope::LINK),
        route("10.7.0.0/16").table(77),
        route("0.0.0.0/0").via(gateway),
        by(vec![hop(INDEX), hop(INDEX)]),
    ];
    let from = |protocol| Route { protocol, ..route("10.2.0.0/16") };
    let mut all = vec![
        from(RouteProtocol::KERNEL),
        from(RouteProtocol::RA),
        route("10.1.0.2/32").table(TABLE_LOCAL),
        Route { kind: RouteKind::LOCAL, ..route("10.1.0.2/32") },
        by(vec![hop(INDEX), hop(INDEX + 1)]),
    ];
    // Gateways come first, and are to be last.
    all.extend(kept.iter().rev().cloned());
    let carried = carried(all);
    assert_eq!(carried.len(), kept.len());
    assert!(kept.iter().all(|route| carried.contains(route)), "{carried:?}");
    assert_eq!((&carried[0].gateway, &carried[1].gateway), (&None, &None));
}

#[test]
fn addresses_with_an_end_are_not_carried() {
    let addr = |flags| Addr { flags, ..Addr::new(INDEX, net("2001:db8::2/64")) };
    let all = vec![addr(AddrFlags::PERMANENT), addr(AddrFlags::default())];
    let carried = Carried::choose(INDEX, all, Vec::new());
    assert_eq!(carried.addresses, [addr(AddrFlags::PERMANENT)]);
}

#[test]
fn only_routes_of_the_one_table_move() {
    let routes = vec![route("10.7.0.0/16").table(77), route("10.2.0.0/16")];
    let inside = Carried { addresses: Vec::new(), routes }.moved(TABLE_MAIN, 10);
    assert_eq!(inside.routes[0].table, 77);
    assert_eq!(inside.routes[1].table, 10);
    assert_eq!(inside.moved(10, TABLE_MAIN).routes[1].table, TABLE_MAIN);
}
