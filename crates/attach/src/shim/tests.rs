use super::*;
use crate::parent::Place;
use cni::{Code, IpConfig};
use linux::addr::AddrFlags;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn on_parent(nets: &[&str]) -> Vec<Addr> {
    nets.iter().map(|net| Addr::new(7, net.parse().expect("an address"))).collect()
}

fn container(nets: &[&str]) -> Success {
    let config = |net: &&str| IpConfig {
        interface: Some(0),
        address: net.parse().expect("an address"),
        gateway: None,
    };
    Success { ips: nets.iter().map(config).collect(), ..Success::default() }
}

fn parent() -> Parent {
    let link = Link { index: 7, name: "eth0".into(), ..Link::default() };
    Parent { link, place: Place::Host }
}

fn plan(own: &[&str]) -> Plan {
    Plan { kind: Kind::Macvlan, addresses: own.iter().map(|text| ip(text)).collect() }
}

#[test]
fn the_host_speaks_from_an_address_near_the_container() {
    let present = on_parent(&["192.0.2.1/24", "10.1.0.1/16", "fd00::1/64"]);
    let ways = |own: &[&str], to: &[&str]| {
        plan(own).ways(&parent(), &present, &container(to)).map(|ways| {
            ways.iter().map(|way| (way.from.to_string(), way.to.to_string())).collect::<Vec<_>>()
        })
    };
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(ways(&[], &["10.1.0.5/24"]), Ok(vec![pair("10.1.0.1", "10.1.0.5")]));
    assert_eq!(ways(&[], &["172.16.0.5/24"]), Ok(vec![pair("192.0.2.1", "172.16.0.5")]));
    assert_eq!(
        ways(&["10.1.9.9"], &["10.1.0.5/24", "fd00::5/64"]),
        Ok(vec![pair("10.1.9.9", "10.1.0.5"), pair("fd00::1", "fd00::5")])
    );
    let error = ways(&["10.1.0.1"], &["10.1.0.5/24"]).expect_err("it is on the parent");
    assert!(error.msg().contains("10.1.0.1 is on eth0"), "{error}");
    let error = plan(&[])
        .ways(&parent(), &on_parent(&["fd00::1/64"]), &container(&["10.1.0.5/24"]))
        .expect_err("no address of the family");
    assert!(error.msg().contains("hostShimAddresses"), "{error}");
}

#[test]
fn addresses_that_are_not_for_use_are_not_used() {
    let mut present = on_parent(&["fd00::1/64", "fd00::2/64", "fe80::1/64", "fd00::4/64"]);
    present[0].flags = AddrFlags::TENTATIVE;
    present[1].flags = AddrFlags::DEPRECATED;
    present[2].scope = Scope::LINK;
    let ways =
        plan(&[]).ways(&parent(), &present, &container(&["fd00::5/64"])).expect("one is left");
    assert_eq!(ways, [Way { from: ip("fd00::4"), to: ip("fd00::5") }]);
}

#[test]
fn marks_tell_attachments_apart_and_are_no_metric_of_a_person() {
    let network = NetworkName::new("net").expect("valid");
    let id = |container: &str, ifname: &str| AttachmentId {
        container_id: container.into(),
        ifname: ifname.into(),
    };
    let marks = [id("a", "eth0"), id("a", "eth1"), id("b", "eth0")].map(|id| mark(&network, &id));
    assert!(marks.iter().all(|mark| mark & MARK != 0));
    assert!(marks[0] != marks[1] && marks[0] != marks[2] && marks[1] != marks[2]);
}

#[test]
fn names_and_aliases_fit_the_kernel() {
    let network = NetworkName::new("n".repeat(300)).expect("valid");
    assert_eq!(shim_name(&network, "eth0").len(), 15);
    assert!(shim_alias(&network).len() < 256);
    assert!(!crate::identity::is_alias(&shim_alias(&network)), "no attachment is called that");
    let parent = Link { name: "eth0".into(), ..Link::default() };
    let mac = shim_mac(&network, &parent);
    assert!(!mac.is_multicast() && mac.bytes()[0] & 2 == 2);
    assert_eq!(mac, shim_mac(&network, &parent), "containers remember it");
}

#[test]
fn a_host_in_another_subnet_is_reached_directly() {
    let ways = [Way { from: ip("192.0.2.1"), to: ip("10.1.0.5") }];
    assert_eq!(container_routes(3, &ways, &container(&["192.0.2.5/24"])), []);
    let routes = container_routes(3, &[ways[0], ways[0]], &container(&["10.1.0.5/24"]));
    assert_eq!(routes.len(), 1);
    assert_eq!((routes[0].dst.to_string(), routes[0].oif), ("192.0.2.1/32".into(), Some(3)));
}

#[test]
fn keys_are_checked() {
    let of = |text: &str| {
        let text = format!(r#"{{"name":"n",{text}}}"#);
        let network = Network::new(text.into_bytes(), "".into(), &[]).expect("valid");
        configured(&network, Kind::Macvlan).map(|plan| plan.map(|plan| plan.addresses))
    };
    assert_eq!(of(r#""x":1"#), Ok(None));
    assert_eq!(of(r#""hostshim":true"#), Ok(Some(vec![])));
    let own = of(r#""hostShim":true,"hostShimAddresses":["10.1.0.9","fd00::9"]"#);
    assert_eq!(own, Ok(Some(vec![ip("10.1.0.9"), ip("fd00::9")])));
    for bad in [
        r#""hostShimAddresses":["10.1.0.9"]"#,
        r#""hostShim":true,"hostShimAddresses":["10.1.0.9/24"]"#,
        r#""hostShim":"yes""#,
    ] {
        assert_eq!(of(bad).expect_err(bad).code(), Code::INVALID_CONFIG);
    }
}
