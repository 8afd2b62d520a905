use super::*;
use crate::wire::{assert_same, bytes};

#[test]
fn adds_an_ingress_qdisc_as_iproute2_does() {
    // tc qdisc add dev v0 ingress
    let recorded = "30 00 00 00 24 00 05 06  47 bb 05 6b 00 00 00 00
         00 00 00 00 03 00 00 00  00 00 ff ff f1 ff ff ff
         00 00 00 00 0c 00 01 00  69 6e 67 72 65 73 73 00";
    assert_same(&add_ingress_message(3), TCMSG_LEN, &[], recorded);
}

#[test]
fn redirects_as_iproute2_does() {
    // tc filter add dev v0 parent ffff: protocol all prio 1 u32 match u32 0 0
    //   flowid 1:1 action mirred egress redirect dev ifb9
    let recorded = "94 00 00 00 2c 00 05 06  47 bb 05 6b 00 00 00 00
         00 00 00 00 03 00 00 00  00 00 00 00 00 00 ff ff
         00 03 01 00 08 00 01 00  75 33 32 00 68 00 02 00
         08 00 01 00 01 00 01 00  38 00 07 00 34 00 01 00
         0b 00 01 00 6d 69 72 72  65 64 00 00 24 00 02 80
         20 00 02 00 00 00 00 00  00 00 00 00 04 00 00 00
         00 00 00 00 00 00 00 00  01 00 00 00 04 00 00 00
         24 00 05 00 01 00 01 00  00 00 00 00 00 00 00 00
         00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00
         00 00 00 00";
    let nests: &[(&[u16], usize)] = &[(&[2], 0), (&[2, 7], 0), (&[2, 7, 1], 0), (&[2, 7, 1, 2], 0)];
    let redirect = Redirect { link: 3, clsact: false, to: 4 };
    assert_same(&redirect.add_message(Classifier::U32), TCMSG_LEN, nests, recorded);
}

#[test]
fn a_tbf_is_what_iproute2_asks_for_without_its_table() {
    // tc qdisc add dev v0 root handle 1: tbf rate 8mbit burst 200000b
    //   limit 225000, without TCA_TBF_RTAB and TCA_TBF_BURST, which say the
    // same again; lengths and the unused cells adapted.
    let recorded = "58 00 00 00 24 00 05 06  47 bb 05 6b 00 00 00 00
         00 00 00 00 03 00 00 00  00 00 01 00 ff ff ff ff
         00 00 00 00 08 00 01 00  74 62 66 00 2c 00 02 00
         28 00 01 00 00 01 00 00  00 00 00 00 40 42 0f 00
         00 00 00 00 00 00 00 00  00 00 00 00 e8 6e 03 00
         08 af 2f 00 00 00 00 00";
    let tbf = Tbf { rate: 1_000_000, fill: Fill::Ticks(3_125_000), limit: 225_000 };
    assert_same(&tbf.add_message(3), TCMSG_LEN, &[(&[2], 0)], recorded);
    let reply = Reply { kind: RTM_NEWQDISC, flags: 0, body: &bytes(recorded)[16..] };
    let read = Qdisc::parse(reply).expect("a qdisc");
    assert_eq!((read.link, read.handle, read.kind.as_str()), (3, 0x1_0000, "tbf"));
    assert_eq!(read.tbf, Some(tbf));
    assert!(!read.is_ingress());
}

#[test]
fn a_bucket_beyond_ticks_is_shown_by_their_lower_bits() {
    // 2147 s at 1 Mbit/s.
    let tbf = Tbf { rate: 125_000, fill: Fill::Bytes(268_435_455), limit: u32::MAX };
    let ticks = 268_435_455_u64 * 1_000_000_000 / 125_000 / 64;
    assert!(ticks > u64::from(u32::MAX));
    let shown = |off: u64| Tbf { fill: Fill::Ticks(cut(ticks + off)), ..tbf };
    assert!(tbf.is_shown_as(&shown(0)) && tbf.is_shown_as(&shown(2000)));
    assert!(!tbf.is_shown_as(&shown(3000)) && !tbf.is_shown_as(&tbf));
    assert!(!tbf.is_shown_as(&Tbf { rate: 125_001, ..shown(0) }));
    assert!(!tbf.is_shown_as(&Tbf { limit: 1, ..shown(0) }));
    // Just below, what is shown has begun again.
    let short = Tbf { fill: Fill::Ticks(3), ..tbf };
    assert!(short.is_shown_as(&Tbf { fill: Fill::Ticks(u32::MAX - 3), ..tbf }));
    assert!(!short.is_shown_as(&Tbf { fill: Fill::Ticks(u32::MAX - 30), ..tbf }));
    // Nobody is asked to shape to nothing, but nothing may divide by it either.
    assert_eq!(Tbf { rate: 0, ..tbf }.ticks(), 268_435_455 * TICKS_PER_S);
}

#[test]
fn replies_cut_short_are_no_qdisc() {
    let tbf = Tbf { rate: u64::MAX, fill: Fill::Bytes(9), limit: 1 };
    let message = tbf.add_message(3);
    let body = &message.as_bytes()[16..];
    for end in 0..body.len() {
        for kind in [RTM_NEWQDISC, RTM_DELQDISC] {
            let _ = Qdisc::parse(Reply { kind, flags: 0, body: &body[..end] });
        }
    }
    let whole = Qdisc::parse(Reply { kind: RTM_NEWQDISC, flags: 0, body });
    assert_eq!(whole.and_then(|qdisc| qdisc.tbf).map(|tbf| tbf.rate), Some(u64::MAX));
}
