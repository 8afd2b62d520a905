//! The part of resolv.conf(5) that a result can carry.

use cni::{Code, Dns, Error, Result};
use std::path::Path;

/// What a resolver would read of it is shorter by far.
const LENGTH_MAX: usize = 1 << 20;

/// Reads `path`: every `nameserver`, the last `domain`, all `search` domains
/// and `options`. Nothing is checked: what the container makes of it is its
/// own business.
///
/// # Errors
/// Code 5 when it is not a readable file, or longer than a megabyte.
pub(crate) fn read(path: &Path) -> Result<Dns> {
    let content = store::read_foreign(path, LENGTH_MAX).map_err(|e| {
        Error::new(Code::IO, format!("read resolvConf {}: {}", path.display(), e.cause()))
    })?;
    Ok(parse(&String::from_utf8_lossy(&content)))
}

fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut fields = line.split_whitespace().map(str::to_owned);
        let (Some(keyword), Some(value)) = (fields.next(), fields.next()) else { continue };
        match keyword.as_str() {
            "nameserver" => dns.nameservers.push(value),
            "domain" => dns.domain = value,
            "search" => dns.search.extend([value].into_iter().chain(fields)),
            "options" => dns.options.extend([value].into_iter().chain(fields)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_result_can_carry_is_read() {
        let dns = parse(
            "# comment\n; another\nnameserver 10.0.0.1 ignored\n  nameserver\tfd00::1  \r\n\
             nameserver\ndomain first\ndomain last\nsearch a b\nsearch c\noptions ndots:5\n\
             options timeout:1 rotate\nsortlist 10.0.0.0\nNAMESERVER 10.0.0.9\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.1", "fd00::1"]);
        assert_eq!(dns.domain, "last");
        assert_eq!(dns.search, ["a", "b", "c"]);
        assert_eq!(dns.options, ["ndots:5", "timeout:1", "rotate"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        for (path, cause) in [("/nonexistent/r", "no such file"), ("/dev/zero", "it is a device")] {
            let error = read(Path::new(path)).expect_err(path);
            assert_eq!(error.code(), Code::IO);
            assert!(error.msg().contains(path) && error.msg().contains(cause), "{error}");
        }
    }
}
