//! MTUs as configurations write them.

use cni::{Error, Result, Success};

/// What a veth pair or a bridge takes (`ETH_MIN_MTU`, `ETH_MAX_MTU`,
/// include/uapi/linux/if_ether.h).
const OF_VETH: std::ops::RangeInclusive<u32> = 68..=65535;
/// The least that a link with IPv6 addresses has (`IPV6_MIN_MTU`,
/// include/uapi/linux/ipv6.h).
const IPV6_MIN: u32 = 1280;

/// In bytes; `None` for 0 and, as with upstream, for a negative one: the
/// kernel's default.
///
/// # Errors
/// Code 7 above what the kernel can be asked for.
pub fn parse(mtu: i64) -> Result<Option<u32>> {
    match u32::try_from(mtu) {
        Ok(0) => Ok(None),
        Ok(mtu) => Ok(Some(mtu)),
        Err(_) if mtu < 0 => Ok(None),
        Err(_) => Err(Error::invalid_config(format!(
            "load network configuration: mtu {mtu} is out of range"
        ))),
    }
}

/// [`parse`] for a veth pair.
///
/// # Errors
/// Code 7 also for what the kernel does not take for one.
pub fn parse_of_veth(mtu: i64) -> Result<Option<u32>> {
    match parse(mtu)? {
        Some(mtu) if !OF_VETH.contains(&mtu) => Err(Error::invalid_config(format!(
            "load network configuration: mtu {mtu} is out of range: a veth pair takes {} to {} bytes",
            OF_VETH.start(),
            OF_VETH.end()
        ))),
        mtu => Ok(mtu),
    }
}

/// Is `mtu` enough for the addresses of `success`?
///
/// # Errors
/// Code 7 for IPv6 addresses on a link that is to be too small for them.
pub fn verify_room(mtu: Option<u32>, success: &Success) -> Result<()> {
    let address = success.ips.iter().map(|ip| ip.address).find(|address| address.is_ipv6());
    match (mtu, address) {
        (Some(mtu @ ..IPV6_MIN), Some(address)) => Err(Error::invalid_config(format!(
            "load network configuration: mtu {mtu} is too small for {address}: IPv6 needs {IPV6_MIN} bytes at least"
        ))),
        _ => Ok(()),
    }
}

/// [`parse`] for plugins that refuse a negative one.
///
/// # Errors
/// Code 7 also below 0.
pub fn parse_not_negative(mtu: i64) -> Result<Option<u32>> {
    match mtu {
        ..0 => Err(Error::invalid_config(format!(
            "load network configuration: invalid MTU {mtu}: it must not be negative"
        ))),
        _ => parse(mtu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_less_is_the_kernels_choice() {
        assert_eq!([0, -1, i64::MIN].map(|mtu| parse(mtu).expect("valid")), [None; 3]);
        assert_eq!(parse(1400), Ok(Some(1400)));
        assert!(parse(1 << 32).is_err());
    }

    #[test]
    fn a_veth_pair_has_bounds() {
        assert_eq!([0, -1].map(|mtu| parse_of_veth(mtu).expect("valid")), [None; 2]);
        assert_eq!(
            [68, 65535].map(|mtu| parse_of_veth(mtu).expect("valid")),
            [Some(68), Some(65535)]
        );
        for mtu in [1, 67, 65536, u32::MAX.into()] {
            let error = parse_of_veth(mtu).expect_err("the kernel refuses it");
            assert!(error.msg().contains(&format!("mtu {mtu} ")), "{error}");
        }
    }
}
