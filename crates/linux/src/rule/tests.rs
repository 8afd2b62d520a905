use super::*;
use crate::wire::{assert_same, bytes};

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a prefix")
}

#[test]
fn adds_a_rule_as_iproute2_does() {
    // ip rule add from 10.1.0.0/24 to 10.2.0.0/16 fwmark 0x1/0xff table 1000
    //   priority 100
    let recorded = "4c 00 00 00 20 00 05 06  f9 7e 05 6b 00 00 00 00
         02 10 18 00 00 00 00 01  00 00 00 00 08 00 02 00
         0a 01 00 00 08 00 01 00  0a 02 00 00 08 00 0a 00
         01 00 00 00 08 00 10 00  ff 00 00 00 08 00 0f 00
         e8 03 00 00 08 00 06 00  64 00 00 00";
    let mut rule = Rule::lookup(Family::V4, 1000)
        .src(net("10.1.0.0/24"))
        .dst(net("10.2.0.0/16"))
        .priority(100);
    rule.fwmark = Some(1);
    rule.fwmask = Some(0xff);
    assert_same(&rule.add_message(), FIB_RULE_HDR_LEN, &[], recorded);
    assert_eq!(Rule::parse(&bytes(recorded)[16..]), Some(rule));
}

#[test]
fn the_message_reads_like_ip_rule() {
    let rule = Rule::lookup(Family::V4, 1000).src(net("10.1.0.2/32")).priority(7);
    assert_eq!(
        rule.delete_message().operation_text(),
        "delete rule priority 7 from 10.1.0.2/32 lookup 1000"
    );
}
