//! What the kernel wants to know of a rule with matches and targets of iptables, and
//! does not tell: the protocol it is for, which `multiport` and others insist on
//! (`nft_parse_compat` in net/netfilter/nft_compat.c at v6.18).

use crate::netlink::{Attrs, Message};

/// `NFTA_RULE_COMPAT`, and in it `NFTA_RULE_COMPAT_PROTO` and `_FLAGS`.
const COMPAT: u16 = 5;
const PROTO: u16 = 1;
const FLAGS: u16 = 2;
/// `NFT_RULE_COMPAT_F_INV`: any protocol but this one.
const INVERTED: u32 = 2;

/// Adds that to a rule whose expressions, as they were read, have such.
pub(super) fn put(out: &mut Message, expressions: &[u8]) {
    let (mut loaded, mut protocol, mut flags, mut is_needed) = (false, 0, 0, false);
    for element in Attrs::new(expressions) {
        // NFTA_EXPR_NAME, NFTA_EXPR_DATA
        let (Some(name), Some(data)) = (element.nested().find(1), element.nested().find(2)) else {
            continue;
        };
        let data = data.nested();
        let number = |kind| data.find(kind).and_then(|attr| attr.be32());
        match name.str() {
            // NFTA_META_KEY: NFT_META_L4PROTO
            Some("meta") => loaded = number(2) == Some(16),
            // NFTA_PAYLOAD_BASE, _OFFSET, _LEN in the headers of IPv4 and IPv6.
            Some("payload") => {
                let place = (number(2), number(3), number(4));
                loaded = [9, 6].into_iter().any(|at| place == (Some(1), Some(at), Some(1)));
            }
            // NFTA_CMP_OP: NFT_CMP_NEQ; NFTA_CMP_DATA, NFTA_DATA_VALUE
            Some("cmp") if loaded => {
                let value = data.find(3).and_then(|attr| attr.nested().find(1));
                if let Some([byte]) = value.map(|value| value.payload) {
                    protocol = u32::from(*byte);
                    flags = if number(2) == Some(1) { INVERTED } else { 0 };
                }
                loaded = false;
            }
            Some("match" | "target") => is_needed = true,
            _ => {}
        }
    }
    if is_needed {
        out.nest(COMPAT, |compat| {
            compat.attr_be32(PROTO, protocol).attr_be32(FLAGS, flags);
        });
    }
}
