//! Versions of the specification, and all the shapes a result has had.
//!
//! Inside there is one shape, [`Success`]. At the door it is written in the
//! version of the configuration and read from any:
//!
//! | version | shape |
//! |---|---|
//! | 0.1.0, 0.2.0 | `cniVersion`, `ip4` {`ip`,`gateway`,`routes`}, `ip6`, `dns` |
//! | 0.3.0, 0.3.1, 0.4.0 | `cniVersion`, `interfaces`, `ips` with `version`, `routes`, `dns` |
//! | 1.0.0, 1.1.0 | keys in alphabetical order, `dns` only when there is one |

mod shapes;

pub use shapes::escape;

use crate::{Code, Error, Result, Success, config};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// A released version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0, also what an absent or empty `cniVersion` means.
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0, the first with CHECK.
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0, the first with GC and STATUS.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: &'static [Version] = &[
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// The newest, and the one VERSION reports.
    pub const LATEST: Version = Version::V1_1_0;

    /// As written in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Versions of one family share the shape of their results.
    fn family(self) -> Family {
        match self {
            Version::V0_1_0 | Version::V0_2_0 => Family::V0_2,
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => Family::V0_4,
            Version::V1_0_0 | Version::V1_1_0 => Family::V1,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = ();

    /// An exact match, as the reference implementation compares; `""` is
    /// 0.1.0.
    fn from_str(text: &str) -> Result<Version, ()> {
        if text.is_empty() {
            return Ok(Version::V0_1_0);
        }
        Version::ALL.iter().copied().find(|v| v.as_str() == text).ok_or(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V0_2,
    V0_4,
    V1,
}

impl Family {
    fn versions(self) -> impl Iterator<Item = Version> {
        Version::ALL.iter().copied().filter(move |v| v.family() == self)
    }
}

/// `major.minor.patch`, missing parts 0: for the few comparisons of versions
/// that need not be known ones.
///
/// # Errors
/// Not one to three decimal numbers joined by dots.
pub fn parse_number(text: &str) -> Result<(i64, i64, i64), String> {
    let mut parts = [0, 1, 0];
    if text.is_empty() {
        return Ok((0, 1, 0));
    }
    let given: Vec<&str> = text.split('.').collect();
    if given.len() > 3 {
        return Err(format!("invalid version {text:?}: more than three parts"));
    }
    parts[1] = 0;
    for (part, text_part) in parts.iter_mut().zip(&given) {
        *part = text_part
            .parse()
            .map_err(|_| format!("invalid version {text:?}: {text_part:?} is not a number"))?;
    }
    Ok((parts[0], parts[1], parts[2]))
}

/// Renders `success` as `version` prints it: 4 spaces, no newline at the end,
/// `<`, `>` and `&` escaped.
///
/// # Errors
/// Below 0.3.0 a result must have an address.
pub fn render(success: &Success, version: Version) -> Result<Vec<u8>> {
    let success = narrow(success.clone(), version)?;
    Ok(match version.family() {
        Family::V0_2 => pretty(&shapes::v0_2(&success, version)),
        Family::V0_4 => pretty(&shapes::v0_4(&success, version)),
        Family::V1 => pretty(&shapes::v1(&success, version)),
    })
}

/// The same as a JSON value.
///
/// # Errors
/// As [`render`].
pub fn to_value(success: &Success, version: Version) -> Result<Value> {
    let success = narrow(success.clone(), version)?;
    let value = match version.family() {
        Family::V0_2 => serde_json::to_value(shapes::v0_2(&success, version)),
        Family::V0_4 => serde_json::to_value(shapes::v0_4(&success, version)),
        Family::V1 => serde_json::to_value(shapes::v1(&success, version)),
    };
    Ok(value.expect("a result has only string keys"))
}

/// Drops what `version` cannot express, as a delegate's result loses it on
/// its way through stdout.
///
/// # Errors
/// Below 0.3.0 a result must have an address.
pub fn narrow(mut success: Success, version: Version) -> Result<Success> {
    match version.family() {
        Family::V1 => {}
        Family::V0_4 => {
            for interface in &mut success.interfaces {
                interface.mtu = 0;
                interface.socket_path.clear();
                interface.pci_id.clear();
            }
        }
        Family::V0_2 => {
            success.interfaces.clear();
            let (mut v4, mut v6) = (false, false);
            success.ips.retain_mut(|ip| {
                ip.interface = None;
                !std::mem::replace(if ip.address.is_ipv4() { &mut v4 } else { &mut v6 }, true)
            });
            if success.ips.is_empty() {
                return Err(Error::internal(format!(
                    "convert the result to version {version}: it has no address, and results of this version must have one"
                )));
            }
            success.ips.sort_by_key(|ip| ip.address.is_ipv6());
            success.routes.retain(|route| if route.dst.is_ipv4() { v4 } else { v6 });
            success.routes.sort_by_key(|route| route.dst.is_ipv6());
            for route in &mut success.routes {
                *route =
                    crate::Route { dst: route.dst, gw: route.gw, ..crate::Route::to(route.dst) };
            }
        }
    }
    Ok(success)
}

/// Reads a result that a delegate or an earlier plugin printed. `default` is
/// the version assumed when it carries none.
///
/// # Errors
/// Not an object, an unknown version, malformed content.
pub fn parse_result(value: &Value, default: Version) -> Result<Success> {
    let version = match config::get(value, "cniVersion").and_then(Value::as_str) {
        None | Some("") => default,
        Some(text) => text.parse().map_err(|()| {
            Error::new(
                Code::INCOMPATIBLE_VERSION,
                format!("read a result: its cniVersion {text:?} is none of {}", list(Version::ALL)),
            )
        })?,
    };
    parse_shape(value, version)
}

/// Reads a `prevResult`: its version must be of the family of the
/// configuration's.
///
/// # Errors
/// As [`parse_result`], or another family.
pub(crate) fn parse_prev_result(value: &Value, config: Version) -> Result<Success> {
    let family = config.family();
    let version = match config::get(value, "cniVersion") {
        None => config,
        Some(Value::String(text)) => match text.parse::<Version>() {
            Ok(version)
                if version.family() == family && !(text.is_empty() && family > Family::V0_2) =>
            {
                version
            }
            _ => {
                let supported: Vec<Version> = family.versions().collect();
                return Err(Error::new(
                    Code::DECODE,
                    format!(
                        "parse prevResult: its cniVersion is {text:?}, a configuration of version {config} takes {}",
                        list(&supported)
                    ),
                ));
            }
        },
        Some(_) => {
            return Err(Error::new(
                Code::DECODE,
                "parse prevResult: its cniVersion is not a string",
            ));
        }
    };
    parse_shape(value, version).map_err(|e| e.context("parse prevResult"))
}

fn parse_shape(value: &Value, version: Version) -> Result<Success> {
    if !value.is_object() && !value.is_null() {
        return Err(Error::new(Code::DECODE, "read a result: it is not a JSON object"));
    }
    match version.family() {
        Family::V0_2 => shapes::read_v0_2(value),
        Family::V0_4 | Family::V1 => shapes::read_v0_4_and_later(value),
    }
    .map_err(|e| Error::new(Code::DECODE, format!("read a result of version {version}: {e}")))
}

/// `0.1.0, 0.2.0`.
pub fn list(versions: &[Version]) -> String {
    versions.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", ")
}

/// Prints JSON as the reference implementation does: 4 spaces, no newline at
/// the end, `<`, `>`, `&`, U+2028 and U+2029 escaped.
pub fn pretty<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut out, shapes::GoFormatter::new());
    value
        .serialize(&mut serializer)
        .expect("writing to a vector cannot fail, and keys are strings");
    out
}

#[cfg(test)]
mod tests;
