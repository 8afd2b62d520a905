//! Values as the kernel holds them in registers and elements, both ways, and
//! what a name may be.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::link::Mac;
use crate::netlink::ip_from_bytes;

use super::chain::{Family, NAME_MAX};
use super::rule::AddrType;
use super::set::{IFNAME_LEN, Protocol, Type, Value};

/// Why something cannot be written, in words for
/// [`Error::invalid`](crate::error::Error::invalid).
pub(crate) type Cause = Cow<'static, str>;

/// Registers a value of a type takes.
pub(crate) fn words(kind: Type) -> usize {
    kind.size().unwrap_or(4).div_ceil(4)
}

/// A single value as the kernel holds it, without padding.
pub(crate) fn encode(value: &Value, kind: Type) -> Result<Vec<u8>, Cause> {
    let bytes = match (value, kind) {
        (Value::Net(IpNetwork::V4(net)), Type::Ipv4Addr) if net.prefix() == 32 => {
            net.ip().octets().to_vec()
        }
        (Value::Net(IpNetwork::V6(net)), Type::Ipv6Addr) if net.prefix() == 128 => {
            net.ip().octets().to_vec()
        }
        (Value::Mac(mac), Type::EtherAddr) => mac.bytes().to_vec(),
        (Value::Protocol(protocol), Type::InetProto) => vec![protocol.0],
        (Value::Port(port), Type::InetService) => port.to_be_bytes().to_vec(),
        (Value::Mark(mark), Type::Mark) => mark.to_ne_bytes().to_vec(),
        (Value::Ifname(name), Type::Ifname) => {
            check_ifname(name)?;
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(IFNAME_LEN, 0);
            bytes
        }
        (Value::Nfproto(family), Type::Nfproto) => vec![family.number()],
        (Value::EtherType(number), Type::EtherType) => number.to_be_bytes().to_vec(),
        (Value::AddrType(kind), Type::FibAddrType) => kind.number().to_ne_bytes().to_vec(),
        (Value::HopLimit(number), Type::HopLimit) => vec![*number],
        (Value::Bytes(bytes), Type::Other(_)) => bytes.clone(),
        _ => return Err(mismatch(value, kind)),
    };
    Ok(bytes)
}

/// The first and last value, both included, of a value, prefix or range.
pub(crate) fn bounds(value: &Value, kind: Type) -> Result<(Vec<u8>, Vec<u8>), Cause> {
    let (first, last) = match (value, kind) {
        (Value::Net(IpNetwork::V4(net)), Type::Ipv4Addr) => {
            (net.network().octets().to_vec(), net.broadcast().octets().to_vec())
        }
        (Value::Net(IpNetwork::V6(net)), Type::Ipv6Addr) => {
            (net.network().octets().to_vec(), net.broadcast().octets().to_vec())
        }
        (Value::NetRange(IpAddr::V4(first), IpAddr::V4(last)), Type::Ipv4Addr) => {
            (first.octets().to_vec(), last.octets().to_vec())
        }
        (Value::NetRange(IpAddr::V6(first), IpAddr::V6(last)), Type::Ipv6Addr) => {
            (first.octets().to_vec(), last.octets().to_vec())
        }
        (Value::PortRange(first, last), Type::InetService) => {
            (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec())
        }
        _ => {
            let bytes = encode(value, kind)?;
            (bytes.clone(), bytes)
        }
    };
    if first > last && !kind.is_host_order() {
        return Err("a range ends before it starts".into());
    }
    Ok((first, last))
}

pub(crate) fn mismatch(value: &Value, kind: Type) -> Cause {
    format!("{value} is no single value of type {kind}").into()
}

/// A single value from the kernel's bytes.
pub(crate) fn decode(bytes: &[u8], kind: Type) -> Option<Value> {
    Some(match kind {
        Type::Ipv4Addr | Type::Ipv6Addr => prefix_of(bytes, u8::try_from(bytes.len() * 8).ok()?)?,
        Type::EtherAddr => Value::Mac(Mac::from_bytes(bytes)?),
        Type::InetProto => match bytes {
            [number] => Value::Protocol(Protocol(*number)),
            _ => return None,
        },
        Type::InetService => Value::Port(be16(bytes)?),
        Type::Mark => Value::Mark(ne32(bytes)?),
        Type::Ifname => match bytes.iter().position(|&byte| byte == 0) {
            Some(end) => Value::Ifname(std::str::from_utf8(bytes.get(..end)?).ok()?.to_owned()),
            None => Value::IfnamePrefix(std::str::from_utf8(bytes).ok()?.to_owned()),
        },
        Type::Nfproto => match bytes {
            [number] => Value::Nfproto(Family::from_number(*number)?),
            _ => return None,
        },
        Type::EtherType => Value::EtherType(be16(bytes)?),
        Type::FibAddrType => Value::AddrType(AddrType::from_number(ne32(bytes)?)?),
        Type::HopLimit => match bytes {
            [number] => Value::HopLimit(*number),
            _ => return None,
        },
        Type::CtState | Type::CtStatus => return None,
        Type::Other(_) => Value::Bytes(bytes.to_vec()),
    })
}

/// A value, prefix or range from its ends, both included, in the form nft
/// gives to elements.
pub(crate) fn range_of(kind: Type, first: &[u8], last: &[u8]) -> Option<Value> {
    if first == last {
        return decode(first, kind);
    }
    let is_address = matches!(kind, Type::Ipv4Addr | Type::Ipv6Addr);
    match prefix_len(first, last).filter(|_| is_address) {
        Some(prefix) => prefix_of(first, prefix),
        None => ends_of(kind, first, last),
    }
}

/// The length of the prefix whose first and last values these are, if they are
/// such: equal bits, then only zeros and only ones.
fn prefix_len(first: &[u8], last: &[u8]) -> Option<u8> {
    let mut len = 0;
    let mut in_host_bits = false;
    for (first, last) in first.iter().zip(last) {
        for bit in (0..8).rev() {
            match (first >> bit & 1, last >> bit & 1) {
                (a, b) if a == b && !in_host_bits => len += 1,
                (0, 1) => in_host_bits = true,
                _ => return None,
            }
        }
    }
    Some(len)
}

/// A range from its ends, both included.
pub(crate) fn ends_of(kind: Type, first: &[u8], last: &[u8]) -> Option<Value> {
    match kind {
        Type::InetService => Some(Value::PortRange(be16(first)?, be16(last)?)),
        Type::Ipv4Addr | Type::Ipv6Addr => {
            Some(Value::NetRange(ip_from_bytes(first)?, ip_from_bytes(last)?))
        }
        _ => None,
    }
}

pub(crate) fn prefix_of(bytes: &[u8], prefix: u8) -> Option<Value> {
    let address = ip_from_bytes(bytes)?;
    Some(Value::Net(IpNetwork::new(address, prefix).ok()?))
}

pub(crate) fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

pub(crate) fn ne32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Accepts the names that can stand in nft's syntax without being mistaken for
/// more than a name.
pub(crate) fn check_name(name: &str) -> Result<(), Cause> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(format!("a name has 1 to {NAME_MAX} bytes, not {}", name.len()).into());
    }
    if name.bytes().any(|byte| byte <= b' ' || b"\"{};#\x7f".contains(&byte)) {
        return Err(format!("the name {name:?} has a character nft would not take").into());
    }
    Ok(())
}

pub(crate) fn check_ifname(name: &str) -> Result<(), Cause> {
    if name.is_empty() || name.len() >= IFNAME_LEN {
        return Err(format!("an interface name has 1 to 15 bytes, unlike {name:?}").into());
    }
    if name.bytes().any(|byte| byte <= b' ' || b"\"/:\x7f".contains(&byte)) {
        return Err(format!("{name:?} is no interface name").into());
    }
    Ok(())
}
