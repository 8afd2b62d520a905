use super::*;
use cni::IpConfig;

fn success(ips: &[(&str, &str)], routes: &[&str]) -> Success {
    let ip = |(address, gateway): &(&str, &str)| IpConfig {
        interface: Some(1),
        address: address.parse().expect("an address"),
        gateway: Some(gateway.parse().expect("an address")),
    };
    Success {
        ips: ips.iter().map(ip).collect(),
        routes: routes.iter().map(|dst| cni::Route::to(dst.parse().expect("a prefix"))).collect(),
        ..Success::default()
    }
}

fn shown(routes: &[Route]) -> Vec<String> {
    let show = |route: &Route| {
        let via = route.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
        let source = route.source.map(|s| format!(" src {s}")).unwrap_or_default();
        format!("{}{via}{source}", route.dst)
    };
    routes.iter().map(show).collect()
}

#[test]
fn the_gateway_is_the_only_neighbour() {
    let one = success(&[("10.1.0.2/24", "10.1.0.1")], &["0.0.0.0/0"]);
    assert_eq!(
        shown(&of_container(&one, 3)),
        ["10.1.0.1/32 src 10.1.0.2", "10.1.0.0/24 via 10.1.0.1 src 10.1.0.2"]
    );
    assert_eq!(shown(&of_host(&one, 3)), ["10.1.0.2/32"]);
}

#[test]
fn what_two_addresses_share_is_made_once() {
    let two = success(&[("10.1.0.2/24", "10.1.0.1"), ("10.1.0.3/24", "10.1.0.1")], &[]);
    assert_eq!(
        shown(&of_container(&two, 3)),
        ["10.1.0.1/32 src 10.1.0.2", "10.1.0.0/24 via 10.1.0.1 src 10.1.0.2"]
    );
    assert_eq!(host_addresses(&two, 3).len(), 1);
    assert_eq!(shown(&of_host(&two, 3)), ["10.1.0.2/32", "10.1.0.3/32"]);
}

#[test]
fn a_single_address_has_no_subnet() {
    let single = success(&[("10.1.0.2/32", "169.254.1.1"), ("fd00::2/128", "fe80::1")], &[]);
    assert_eq!(
        shown(&of_container(&single, 3)),
        ["169.254.1.1/32 src 10.1.0.2", "fe80::1/128 src fd00::2"]
    );
}

#[test]
fn a_route_of_ipam_to_the_subnet_counts() {
    let given = success(&[("10.1.0.2/24", "10.1.0.1")], &["10.1.0.0/24"]);
    assert_eq!(shown(&of_container(&given, 3)), ["10.1.0.1/32 src 10.1.0.2"]);
}
