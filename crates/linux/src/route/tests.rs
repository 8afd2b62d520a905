use super::*;
use crate::wire::{assert_same, bytes};

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn adds_a_route_as_iproute2_does() {
    // ip route add 10.5.0.0/16 via 10.1.0.9 dev v0 mtu 1400 advmss 1360
    //   metric 7 table 1000 src 10.1.0.1
    let mut route = Route::new(net("10.5.0.0/16"))
        .via(ip("10.1.0.9"))
        .dev(4)
        .priority(7)
        .table(1000)
        .source(ip("10.1.0.1"));
    route.mtu = Some(1400);
    route.advmss = Some(1360);
    assert_same(
        &route.add_message(),
        RTMSG_LEN,
        &[(&[8], 0)],
        "60 00 00 00 18 00 05 06  e4 7e 05 6b 00 00 00 00
         02 10 00 00 00 03 00 01  00 00 00 00 08 00 01 00
         0a 05 00 00 08 00 05 00  0a 01 00 09 08 00 06 00
         07 00 00 00 08 00 0f 00  e8 03 00 00 08 00 07 00
         0a 01 00 01 08 00 04 00  04 00 00 00 14 00 08 00
         08 00 02 00 78 05 00 00  08 00 08 00 50 05 00 00",
    );
}

#[test]
fn adds_a_multipath_route_as_iproute2_does() {
    // ip route add 10.6.0.0/16 nexthop via 10.1.0.9 weight 3
    //   nexthop via 10.1.0.10
    let hop =
        |gateway, weight| NextHop { gateway: Some(ip(gateway)), oif: 0, weight, onlink: false };
    let mut route = Route::new(net("10.6.0.0/16"));
    route.next_hops = vec![hop("10.1.0.9", 3), hop("10.1.0.10", 1)];
    let recorded = "48 00 00 00 18 00 05 06  e4 7e 05 6b 00 00 00 00
         02 10 00 00 fe 03 00 01  00 00 00 00 08 00 01 00
         0a 06 00 00 24 00 09 00  10 00 00 02 00 00 00 00
         08 00 05 00 0a 01 00 09  10 00 00 00 00 00 00 00
         08 00 05 00 0a 01 00 0a";
    assert_same(&route.add_message(), RTMSG_LEN, &[], recorded);
    let read = Route::parse(&bytes(recorded)[16..]).expect("a route");
    assert_eq!(read, route);
}

#[test]
fn adds_a_blackhole_as_iproute2_does() {
    // ip route add blackhole 10.7.0.0/16
    let mut route = Route::new(net("10.7.0.0/16"));
    route.kind = RouteKind::BLACKHOLE;
    assert_same(
        &route.add_message(),
        RTMSG_LEN,
        &[],
        "24 00 00 00 18 00 05 06  e4 7e 05 6b 00 00 00 00
         02 10 00 00 fe 03 00 06  00 00 00 00 08 00 01 00
         0a 07 00 00",
    );
}

#[test]
fn an_ipv6_gateway_for_ipv4_is_a_via_attribute() {
    let route = Route::new(net("10.8.0.0/16")).via(ip("fe80::1")).dev(4);
    let message = route.add_message();
    let read = Route::parse(&message.as_bytes()[16..]).expect("a route");
    assert_eq!(read, route);
}

#[test]
fn lying_next_hops_end_the_list() {
    for hostile in ["07 00 00 00 00 00 00 00", "ff 00 00 00 00 00 00 00", "08 00", "00 00 00 00"] {
        assert_eq!(next_hops(&bytes(hostile)), [], "{hostile}");
    }
}

#[test]
fn reads_like_ip_route() {
    let route = Route::default_of(Family::V4).via(ip("10.1.0.1")).dev(2).table(100);
    assert_eq!(route.to_string(), "default via 10.1.0.1 on link with index 2 table 100");
    assert_eq!(
        route.delete_message().operation_text(),
        "delete route default via 10.1.0.1 on link with index 2 table 100"
    );
}
