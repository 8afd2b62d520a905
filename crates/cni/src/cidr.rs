//! Addresses as CNI writes them.
//!
//! The syntax is Go's `net.ParseCIDR` and `net.ParseIP`: strict dotted quads,
//! no zones, a prefix length is required for a network, host bits are kept,
//! and an IPv4 address in IPv6 clothes (`::ffff:10.1.2.3`) is an IPv4 address.

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Parses `address/length`, keeping host bits.
///
/// # Errors
/// `invalid CIDR address: X`.
pub fn parse(text: &str) -> Result<IpNetwork, String> {
    fn inner(text: &str) -> Option<IpNetwork> {
        let (ip, len) = text.split_once('/')?;
        // `u8::from_str` takes a sign, Go does not.
        if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let len: u8 = len.trim_start_matches('0').parse().or(Ok::<u8, ()>(0)).ok()?;
        match ip.parse().ok()? {
            IpAddr::V4(ip) => Ipv4Network::new(ip, len).ok().map(IpNetwork::V4),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(v4) if len >= 96 => Ipv4Network::new(v4, len - 96).ok().map(IpNetwork::V4),
                _ => Ipv6Network::new(ip, len).ok().map(IpNetwork::V6),
            },
        }
    }
    let too_long = |t: &str| t.split_once('/').is_some_and(|(_, len)| len.len() > 16);
    (!too_long(text))
        .then(|| inner(text))
        .flatten()
        .ok_or_else(|| format!("invalid CIDR address: {text}"))
}

/// Parses a bare address.
///
/// # Errors
/// `invalid IP address: X`.
pub fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("invalid IP address: {text}"))?;
    Ok(ip.to_canonical())
}

/// `0.0.0.0/0`.
pub const DEFAULT_V4: IpNetwork =
    IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).unwrap());

/// `::/0`.
pub const DEFAULT_V6: IpNetwork =
    IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).unwrap());

/// For `#[serde(with = "cni::cidr::serde_cidr")]` on an [`IpNetwork`].
pub mod serde_cidr {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As `address/length`.
    pub fn serialize<S: Serializer>(net: &IpNetwork, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(net)
    }

    /// From `address/length`.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<IpNetwork, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        parse(&text).map_err(D::Error::custom)
    }
}

/// For an `Option<IpNetwork>`; `""` is none.
pub mod serde_cidr_opt {
    use super::*;
    use serde::{Deserialize, Deserializer, de::Error};

    /// From `address/length`, `""` or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpNetwork>, D::Error> {
        match Option::<std::borrow::Cow<str>>::deserialize(d)? {
            Some(text) if !text.is_empty() => parse(&text).map(Some).map_err(D::Error::custom),
            _ => Ok(None),
        }
    }
}

/// For an `Option<IpAddr>`; `""` is none, as Go's `net.IP` has it.
pub mod serde_ip_opt {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As text; call it only for `Some` (`skip_serializing_if`).
    pub fn serialize<S: Serializer>(ip: &Option<IpAddr>, s: S) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => s.collect_str(ip),
            None => s.serialize_str(""),
        }
    }

    /// From text, `""` or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpAddr>, D::Error> {
        match Option::<std::borrow::Cow<str>>::deserialize(d)? {
            Some(text) if !text.is_empty() => parse_ip(&text).map(Some).map_err(D::Error::custom),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_gos() {
        let same = ["10.1.2.3/24", "0.0.0.0/0", "fd00::1/64", "::/0", "10.0.0.1/32"];
        for text in same {
            assert_eq!(parse(text).expect(text).to_string(), text);
        }
        for (text, canonical) in [
            ("10.1.2.3/024", "10.1.2.3/24"),
            ("FD00::00A/64", "fd00::a/64"),
            ("::ffff:10.1.2.3/120", "10.1.2.3/24"),
        ] {
            assert_eq!(parse(text).expect(text).to_string(), canonical);
        }
        for bad in [
            "",
            "10.1.2.3",
            "10.1.2.3/",
            "10.1.2.3/33",
            "10.1.2.3/-1",
            "10.1.2.3/+8",
            " 10.1.2.3/24",
            "10.1.2.3/24 ",
            "010.1.2.3/24",
            "10.1.2/24",
            "fe80::1%eth0/64",
            "fd00::/129",
            "10.1.2.3/99999999999999999999",
        ] {
            assert_eq!(parse(bad), Err(format!("invalid CIDR address: {bad}")));
        }
        assert_eq!(parse_ip("::ffff:10.1.2.3"), Ok(IpAddr::from([10, 1, 2, 3])));
        assert!(parse_ip("10.1.2.3/24").is_err());
    }
}
