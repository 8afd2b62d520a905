//! The administrator's list of sysctls that configurations may set: one regular
//! expression a line, found anywhere in the key as the configuration writes
//! it. Without the file everything is allowed, with an empty one nothing.

use crate::pattern::Pattern;
use crate::sysctl::Sysctl;
use cni::{Code, Error, Result};
use std::path::Path;

/// Upstream's path.
pub(crate) const PATH: &str = "/etc/cni/tuning/allowlist.conf";

/// The largest file that is read, in bytes.
const FILE_MAX: usize = 1 << 20;

/// May all of `sysctls` be set?
///
/// # Errors
/// Code 7 for one that is not on the list; code 5 when the list cannot be read
/// or understood: then nothing is allowed.
pub(crate) fn verify(sysctls: &[Sysctl]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let Some(text) = read(Path::new(PATH))? else { return Ok(()) };
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    sysctls.iter().try_for_each(|sysctl| allow(&lines, &sysctl.key))
}

fn allow(lines: &[&str], key: &str) -> Result<()> {
    for line in lines {
        let pattern = Pattern::new(line)
            .map_err(|e| failed(format!("error parsing regexp {line:?}: {e}")))?;
        if pattern.is_found_in(key) {
            return Ok(());
        }
    }
    Err(Error::invalid_config(format!(
        "load network configuration: Sysctl {key} is not allowed. Only the following sysctls are allowed: [{}] (from {PATH})",
        lines.join(" ")
    )))
}

fn read(path: &Path) -> Result<Option<String>> {
    let bytes = match store::read_foreign(path, FILE_MAX) {
        Err(e) if e.is_not_found() => return Ok(None),
        read => read.map_err(|e| failed(e.cause()))?,
    };
    String::from_utf8(bytes).map(Some).map_err(|_| failed("it is not UTF-8"))
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::new(Code::IO, format!("read allowlist {PATH}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_allowed_by_any_line() {
        let lines = [r"^net\.core\.", "arp_notify$", "[bad"];
        assert_eq!(allow(&lines, "net.core.somaxconn"), Ok(()));
        assert_eq!(allow(&lines, "net.ipv4.conf.IFNAME.arp_notify"), Ok(()));
        // As upstream, a bad line is an error when it is reached.
        assert_eq!(allow(&lines, "net/core/somaxconn").expect_err("bad").code(), Code::IO);
        let refused = allow(&lines[..2], "net/core/somaxconn").expect_err("refused");
        assert_eq!(refused.code(), Code::INVALID_CONFIG);
        assert!(refused.msg().contains("Sysctl net/core/somaxconn is not allowed"), "{refused}");
        assert!(allow(&[], "net.core.somaxconn").is_err());
    }
}
