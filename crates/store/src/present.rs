//! Which boot this is, and what time.

use crate::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The random UUID the kernel made when it started (random(4)), as a number;
/// it differs after every reboot.
///
/// # Errors
/// `/proc` is not mounted, or holds something else.
pub fn boot_id() -> Result<u128> {
    let path = Path::new(BOOT_ID);
    let mut text = [0; 64];
    let read = File::open(path).and_then(|mut file| file.read(&mut text));
    let read = read.map_err(|e| Error::io("read", path, &e))?;
    let text = text[..read].trim_ascii();
    std::str::from_utf8(text).ok().and_then(parse_uuid).ok_or_else(|| {
        Error::text("read", path, format!("{:?} is not a UUID", text.escape_ascii().to_string()))
    })
}

fn parse_uuid(text: &str) -> Option<u128> {
    let digits: String = text.split('-').collect();
    let plain = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

/// When this boot began, by the wall clock, since 1970: nothing that was written
/// in it has an earlier time.
///
/// A clock that is set forward while the system runs (by NTP where there is no
/// battery, or after a virtual machine was paused) moves what it says about the
/// beginning as well. What it said then is kept by `/proc`, whose time is that of
/// its mount, and the earlier of the two is the answer: too early where `/proc`
/// was mounted with a clock that was behind, never too late.
///
/// # Errors
/// `/proc` is not mounted, or holds something else.
pub fn booted() -> Result<Duration> {
    let mounted = Path::new("/proc").metadata().and_then(|m| m.modified());
    let mounted = mounted.map_err(|e| Error::io("stat", Path::new("/proc"), &e))?;
    let mounted = mounted.duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = Path::new("/proc/uptime");
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    let uptime = text.split_whitespace().next().and_then(|seconds| seconds.parse::<f64>().ok());
    uptime
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|uptime| now().saturating_sub(uptime).min(mounted))
        .ok_or_else(|| Error::text("read", path, format!("{text:?} is not a time")))
}

/// The wall clock, since 1970. It can step, in both directions.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_boot_began_before_now() {
        let before = booted().expect("on Linux");
        assert!(before < now());
        let mounted = Path::new("/proc").metadata().and_then(|m| m.modified()).expect("mounted");
        assert!(before <= mounted.duration_since(UNIX_EPOCH).expect("after 1970"));
    }

    #[test]
    fn the_boot_id_is_read() {
        assert_eq!(boot_id().expect("on Linux"), boot_id().expect("on Linux"));
        assert_eq!(
            parse_uuid("0000001f-0000-0000-0000-000000000001"),
            Some((0x1f << 96) + 1),
            "digits in the order they are written"
        );
        for bad in ["", "1f", "+000001f-0000-0000-0000-000000000001", "x"] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }
}
