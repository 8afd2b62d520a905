//! What the process may do, like `getpcaps`: its capabilities, in the user
//! namespace it is in.

use crate::error::{Error, Result};
use std::fs;
use std::io;

const STATUS: &str = "/proc/thread-self/status";

/// Number of `CAP_NET_ADMIN` (include/uapi/linux/capability.h).
const NET_ADMIN: u32 = 12;

/// That of `CAP_SYS_ADMIN`.
const SYS_ADMIN: u32 = 21;

/// Whether `CAP_NET_ADMIN` is in effect for the calling thread.
///
/// # Errors
///
/// /proc does not tell.
pub fn has_net_admin() -> Result<bool> {
    has(NET_ADMIN)
}

/// The same of `CAP_SYS_ADMIN`, without which no namespace can be entered.
///
/// # Errors
///
/// As [`has_net_admin`].
pub fn has_sys_admin() -> Result<bool> {
    has(SYS_ADMIN)
}

fn has(capability: u32) -> Result<bool> {
    const OPERATION: &str = "read the capabilities in /proc/thread-self/status";
    let text = fs::read_to_string(STATUS).map_err(|e| Error::from_io(OPERATION, &e))?;
    let effective = effective(&text)
        .ok_or_else(|| Error::from_io(OPERATION, &io::Error::other("there are none in it")))?;
    Ok(effective & (1 << capability) != 0)
}

/// The effective set in the text of /proc/PID/status (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t00000000a80435fb\n";
        assert_eq!(effective(status), Some(0xa804_35fb));
        for bad in ["", "CapEff:", "CapEff:\tzz\n"] {
            assert_eq!(effective(bad), None, "{bad:?}");
        }
        has_net_admin().expect("/proc tells");
    }
}
