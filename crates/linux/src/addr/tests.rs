use super::*;
use crate::wire::assert_same;

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a prefix")
}

#[test]
fn adds_ipv4_as_iproute2_does() {
    // ip addr add 10.1.0.1/24 brd + dev v0
    assert_same(
        &Addr::new(4, net("10.1.0.1/24")).add_message(),
        IFADDRMSG_LEN,
        &[],
        "30 00 00 00 14 00 05 06  e4 7e 05 6b 00 00 00 00
         02 18 00 00 04 00 00 00  08 00 02 00 0a 01 00 01
         08 00 01 00 0a 01 00 01  08 00 04 00 0a 01 00 ff",
    );
}

#[test]
fn adds_ipv6_as_iproute2_does() {
    // ip addr add fd00::1/64 dev v0 nodad
    assert_same(
        &Addr::new(4, net("fd00::1/64")).nodad().add_message(),
        IFADDRMSG_LEN,
        &[],
        "40 00 00 00 14 00 05 06  e4 7e 05 6b 00 00 00 00
         0a 40 02 00 04 00 00 00  14 00 02 00 fd 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 01 14 00 01 00
         fd 00 00 00 00 00 00 00  00 00 00 00 00 00 00 01",
    );
}

#[test]
fn only_subnets_of_more_than_two_have_a_broadcast_address() {
    for (text, expected) in [
        ("10.1.0.1/30", Some("10.1.0.3")),
        ("10.1.2.3/8", Some("10.255.255.255")),
        ("10.1.0.1/31", None),
        ("10.1.0.1/32", None),
        ("fd00::1/64", None),
    ] {
        let expected = expected.map(|text| text.parse().expect("an address"));
        assert_eq!(Addr::new(1, net(text)).broadcast, expected, "{text}");
    }
}

#[test]
fn nodad_is_for_ipv6() {
    assert_eq!(Addr::new(1, net("10.1.0.1/24")).nodad().flags, AddrFlags::default());
}

#[test]
fn later_flags_go_in_the_attribute() {
    let mut addr = Addr::new(4, net("fd00::1/64"));
    addr.flags = AddrFlags::NOPREFIXROUTE.with(AddrFlags::NODAD);
    let message = addr.add_message();
    let body = &message.as_bytes()[16..];
    let flags = Attrs::after(body, IFADDRMSG_LEN).find(IFA_FLAGS).and_then(|attr| attr.u32());
    assert_eq!(flags, Some(0x202));
}
