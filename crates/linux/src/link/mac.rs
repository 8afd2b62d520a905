//! Ethernet addresses.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A 48-bit Ethernet address; printed as `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// An address from its bytes in the order they are written.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Mac {
        Mac(bytes)
    }

    /// An address from a slice; `None` unless it has 6 bytes (InfiniBand has
    /// 20, tunnels 4 or 16).
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Mac> {
        bytes.try_into().ok().map(Mac)
    }

    /// A random unicast address from the locally administered range
    /// (`x2`, `x6`, `xa`, `xe` as first byte's second digit).
    #[must_use]
    pub fn random() -> Mac {
        // The hasher's keys come from the kernel's random number generator:
        // 46 bits that nobody on the network can guess, without a dependency.
        let [mut first, b, c, d, e, f, ..] =
            RandomState::new().build_hasher().finish().to_ne_bytes();
        first = first & 0xfc | 0x02;
        Mac([first, b, c, d, e, f])
    }

    /// The IPv6 link-local address that is made of it (RFC 4291, appendix A), as by the
    /// kernel unless it is told to use another way.
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The bytes in the order they are written.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether it names a group (multicast or broadcast), which no interface
    /// can have as its own.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether it is `00:00:00:00:00:00`, as on loopback.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Parses six pairs of hexadecimal digits between colons, in either case;
    /// nothing else, so that a typing mistake is not taken for an address.
    fn from_str(text: &str) -> Result<Mac> {
        parse(text).ok_or_else(|| {
            Error::invalid(format!("parse MAC address {text:?}"), "not a MAC address")
                .hint("expected six pairs of hexadecimal digits such as 0a:58:0a:01:00:02")
        })
    }
}

fn parse(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs.next()?;
        // from_str_radix also takes a sign.
        if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(Mac(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_strictly_and_prints_lower_case() {
        let mac: Mac = "0A:58:0a:01:00:02".parse().expect("valid");
        assert_eq!(mac.to_string(), "0a:58:0a:01:00:02");
        for bad in [
            "",
            "0a:58:0a:01:00",
            "0a:58:0a:01:00:02:03",
            "0a-58-0a-01-00-02",
            "a:58:0a:01:00:02",
            "+a:58:0a:01:00:02",
            "0a:58:0a:01:00:0g",
            " 0a:58:0a:01:00:02",
            "0a:58:0a:01:00:02 ",
            "0a:58:0a:01:00:02:",
            "0a58.0a01.0002",
            "é:58:0a:01:00:02",
        ] {
            let error = bad.parse::<Mac>().expect_err(bad);
            assert!(error.to_string().contains("not a MAC address"), "{error}");
        }
    }

    #[test]
    fn a_link_local_address_has_its_bytes() {
        let mac: Mac = "0a:58:0a:01:00:02".parse().expect("valid");
        assert_eq!(mac.link_local().to_string(), "fe80::858:aff:fe01:2");
    }

    #[test]
    fn random_ones_are_local_unicast_and_differ() {
        let macs: std::collections::BTreeSet<Mac> = (0..64).map(|_| Mac::random()).collect();
        assert_eq!(macs.len(), 64);
        for mac in macs {
            assert!(!mac.is_multicast() && mac.bytes()[0] & 2 == 2, "{mac}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses(bytes: [u8; 6]) {
            let mac = Mac::new(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>().ok(), Some(mac));
        }

        #[test]
        fn any_text_is_refused_or_round_trips(text in "[0-9a-fA-F:x]{0,20}") {
            if let Ok(mac) = text.parse::<Mac>() {
                prop_assert_eq!(mac.to_string(), text.to_lowercase());
            }
        }
    }
}
