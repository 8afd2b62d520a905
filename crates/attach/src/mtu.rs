//! MTUs as configurations write them.

use cni::{Error, Result};

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
}
