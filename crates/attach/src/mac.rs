//! Hardware addresses as configurations write them.

use cni::{Code, Error, Result};
use linux::link::Mac;

/// Parses `02:00:00:00:00:01`, `02-00-00-00-00-01` or `0200.0000.0001`, in any
/// letter case, as Go's `net.ParseMAC` does. Longer addresses (EUI-64,
/// InfiniBand) are refused: no Ethernet link takes them.
///
/// # Errors
/// Code 7: malformed, or a group address.
pub fn parse(text: &str) -> Result<Mac> {
    let invalid = |why: &str| {
        Err(Error::new(Code::INVALID_CONFIG, format!("parse MAC address {text:?}: {why}")))
    };
    let hex = match text.len() {
        17 if text.matches('-').count() == 5 => text.replace('-', ":"),
        14 if text.matches('.').count() == 2 && text.is_ascii() => {
            let digits: String = text.split('.').collect();
            let pairs: Vec<&str> =
                (0..digits.len() / 2).map(|i| &digits[2 * i..2 * i + 2]).collect();
            pairs.join(":")
        }
        _ => text.to_owned(),
    };
    match hex.parse::<Mac>() {
        Err(_) => invalid("it must be six pairs of hexadecimal digits, like 02:00:5e:10:00:01"),
        Ok(mac) if mac.is_multicast() => invalid("it is a group address, which no link can have"),
        Ok(mac) if mac.is_zero() => invalid("it is zero, which no link can have"),
        Ok(mac) => Ok(mac),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_go_are_read() {
        for text in ["02:aB:00:00:00:01", "02-ab-00-00-00-01", "02ab.0000.0001"] {
            assert_eq!(parse(text).expect(text).to_string(), "02:ab:00:00:00:01");
        }
        for bad in [
            "",
            "02:ab:00:00:00",
            "zz:00:00:00:00:01",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "02:00:00:00:00:00:00:01",
            "02.ab.00.00.00",
            "é2ab.0000.000",
        ] {
            assert_eq!(parse(bad).expect_err(bad).code(), Code::INVALID_CONFIG);
        }
    }
}
