//! Kernel parameters of the container: which one a key means, and its value
//! before and after.
//!
//! Like `sysctl -w KEY=VALUE` in the container. All are below `net`, where
//! /proc/sys shows the parameters of the thread's own network namespace.

use attach::kernel;
use cni::{Error, IfName, Result};
use linux::{ErrorKind, sysctl};

/// What stands for the name of the container's interface in a key.
const IFNAME: &str = "IFNAME";

/// Bytes below which a link has no IPv6 (`IPV6_MIN_MTU`, include/uapi/linux/ipv6.h at
/// v6.18).
pub(crate) const IPV6_MTU_MIN: u32 = 1280;

/// A parameter and the value it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// As the configuration writes it.
    pub(crate) key: String,
    /// Its place below /proc/sys: `net/ipv4/conf/eth0.5/arp_notify`.
    pub(crate) path: String,
    pub(crate) value: String,
}

impl Sysctl {
    /// Finds out which parameter `key` means.
    ///
    /// # Errors
    /// Code 7: none below `net`, or a value of several lines, of which the kernel
    /// would take the first.
    pub(crate) fn new(key: &str, value: &str, ifname: &str) -> Result<Sysctl> {
        let Some(path) = path_of(key, ifname) else {
            return Err(Error::invalid_config(format!(
                "load network configuration: invalid net sysctl key: {key:?}: it must name a parameter below net, like net.ipv4.conf.IFNAME.arp_notify"
            )));
        };
        if value.trim_end().contains(['\n', '\0']) {
            return Err(Error::invalid_config(format!(
                "load network configuration: invalid value of sysctl {key}: {value:?}: it must be one line"
            )));
        }
        Ok(Sysctl { key: key.to_owned(), path, value: value.to_owned() })
    }

    /// Whether it takes the IPv6 addresses from the link: it does not where it has its
    /// value already.
    pub(crate) fn ends_ipv6(&self, ifname: &IfName, now: &Values) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        let is_off = matches!(parts[..], ["net", "ipv6", "conf", link, "disable_ipv6"]
            if link == "all" || link == ifname.as_str());
        let has_it =
            |(path, value): &(String, String)| *path == self.path && is_same(value, &self.value);
        is_off && number(self.value.trim()).is_some_and(|on| on != 0) && !now.iter().any(has_it)
    }

    /// CHECK: it has the value.
    ///
    /// # Errors
    /// It has another.
    pub(crate) fn verify(&self, ifname: &IfName) -> Result<()> {
        match read(&self.path)? {
            Some(now) if !is_same(&now, &self.value) => Err(Error::internal(format!(
                "check {ifname}: sysctl {} is {now:?}, configured was {:?}",
                self.path, self.value
            ))),
            _ => Ok(()),
        }
    }
}

/// The components of a name are divided by dots or by slashes. The one that
/// comes first divides; within an interface's name the other one is a dot, as
/// in sysctl.d(5): `net/ipv4/conf/eth0.5/x` is `net.ipv4.conf.eth0/5.x`.
fn path_of(key: &str, ifname: &str) -> Option<String> {
    let key = key.strip_prefix('/').unwrap_or(key);
    let divider = key.chars().find(|c| matches!(c, '.' | '/'))?;
    let mut parts: Vec<String> = Vec::new();
    let mut words = key.split(divider).peekable();
    while let Some(word) = words.next() {
        let is_interface = parts.len() == 3 && matches!(parts[2].as_str(), "conf" | "neigh");
        if is_interface && words.peek().is_some() {
            parts.push(word.replace('/', "."));
        } else {
            parts.extend(word.split(['.', '/']).map(str::to_owned));
        }
    }
    if let Some(part) = parts.iter_mut().find(|part| part.contains(IFNAME)) {
        *part = part.replacen(IFNAME, ifname, 1);
    }
    let is_plain =
        |part: &String| !matches!(part.as_str(), "" | "." | "..") && !part.contains('\0');
    let is_below_net = parts.len() > 1 && parts[0] == "net";
    (is_below_net && parts.iter().all(is_plain)).then(|| parts.join("/"))
}

/// Parameters by their paths, and the values they have.
pub(crate) type Values = Vec<(String, String)>;

/// The values the parameters have now. Those that cannot be read (some can only
/// be written, some have no value yet) are left out.
///
/// # Errors
/// There is no such parameter.
pub(crate) fn values<'a>(paths: impl Iterator<Item = &'a str>) -> Result<Values> {
    let mut values = Values::new();
    for path in paths {
        if let Some(value) = read(path)? {
            values.push((path.to_owned(), value));
        }
    }
    Ok(values)
}

/// Parameters that are changed for a moment when the link gets another address
/// ([`attach::neighbours::while_announcing`]). Where the kernel has them.
///
/// # Errors
/// They cannot be read.
pub(crate) fn announcing(ifname: &str) -> Result<Values> {
    let mut values = Values::new();
    for key in attach::neighbours::announcing(ifname) {
        let path = key.join("/");
        match sysctl::read(&key) {
            Ok(value) => values.push((path, value)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(kernel(error)),
        }
    }
    Ok(values)
}

/// Gives the parameters their values. Those that have them already are not
/// written, so a read-only /proc/sys need not be an obstacle.
///
/// # Errors
/// The kernel's, for the first it refuses.
pub(crate) fn write(sysctls: &[Sysctl]) -> Result<()> {
    // One may change another (`ip_forward` sets `forwarding` of all links): what
    // it changed gets its own value in the second round.
    let rounds = if sysctls.len() > 1 { 2 } else { 1 };
    for round in 0..rounds {
        for Sysctl { path, value, .. } in sysctls {
            match read(path)? {
                Some(now) if is_same(&now, value) => {}
                None if round > 0 => {}
                _ => sysctl::set(&parts(path), value).map_err(kernel)?,
            }
        }
    }
    Ok(())
}

/// Gives parameters the values they had. One that is gone, went with its link.
///
/// # Errors
/// Those of all that could not be restored.
pub(crate) fn restore(values: &Values) -> Result<()> {
    let mut errors = Vec::new();
    for _ in 0..2 {
        errors.clear();
        for (path, value) in values {
            let restored = match sysctl::read(&parts(path)) {
                Ok(now) if is_same(&now, value) => Ok(()),
                Ok(_) => sysctl::set(&parts(path), value),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            };
            errors.extend(restored.map_err(kernel).err());
        }
    }
    Error::join(errors)
}

fn read(path: &str) -> Result<Option<String>> {
    match sysctl::read(&parts(path)) {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_unreadable(path, &error) => Ok(None),
        Err(error) => Err(kernel(error)),
    }
}

/// Write-only ones (`net/ipv4/route/flush`), and a secret without a value yet
/// (`addrconf_sysctl_stable_secret`, net/ipv6/addrconf.c at v6.18).
fn is_unreadable(path: &str, error: &linux::Error) -> bool {
    const EIO: i32 = 5;
    let is_unset = path.ends_with("/stable_secret") && error.errno() == Some(EIO);
    error.kind() == ErrorKind::Permission || is_unset
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').collect()
}

/// Lists of numbers are shown with tabs between them, and numbers in decimal,
/// however they were written.
fn is_same(now: &str, value: &str) -> bool {
    let same = |(now, value): (&str, &str)| {
        now == value || number(now).is_some_and(|now| number(value) == Some(now))
    };
    let (now, value) = (now.split_whitespace(), value.split_whitespace());
    now.clone().count() == value.clone().count() && now.zip(value).all(same)
}

/// As the kernel reads one: hexadecimal behind 0x, octal behind 0
/// (`strtoul_lenient`, kernel/sysctl.c at v6.18).
fn number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => i64::from_str_radix(digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
        None => digits.parse(),
    };
    value.ok().map(|value| sign * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_parameters_below_net() {
        for (key, path) in [
            ("net.core.somaxconn", "net/core/somaxconn"),
            ("net/core/somaxconn", "net/core/somaxconn"),
            ("/net/core/somaxconn", "net/core/somaxconn"),
            ("net.ipv4.conf.IFNAME.arp_notify", "net/ipv4/conf/eth0.5/arp_notify"),
            ("net/ipv4/conf/IFNAME/arp_notify", "net/ipv4/conf/eth0.5/arp_notify"),
            ("net/ipv4/neigh/a.b/locktime", "net/ipv4/neigh/a.b/locktime"),
            ("net.ipv4.neigh.a/b.locktime", "net/ipv4/neigh/a.b/locktime"),
            ("net/ipv4.conf.all.arp_notify", "net/ipv4/conf/all/arp_notify"),
            ("net/ipv4/conf/all.arp_notify", "net/ipv4/conf/all/arp_notify"),
            ("net.ipv4.conf.IFNAMEIFNAME.x", "net/ipv4/conf/eth0.5IFNAME/x"),
        ] {
            assert_eq!(path_of(key, "eth0.5").as_deref(), Some(path), "{key}");
        }
        for key in [
            "",
            "net",
            "net.",
            "kernel.hostname",
            "kernel/hostname",
            "net/../kernel/hostname",
            "net.ipv4...x",
            "net/ipv4/conf/../x",
            "net/ipv4/conf/./x",
            "net//core/x",
            "net.ipv4.conf.//.x",
            "../net/x",
            "network.x",
            "net/a\0b",
            "./net/x",
            "IFNAME.x",
            "/proc/sys/net/core/somaxconn",
        ] {
            assert_eq!(path_of(key, "eth0"), None, "{key}");
        }
    }

    #[test]
    fn any_name_below_net_or_none() {
        // Fuzzing, with the characters that matter.
        let letters = ['.', '/', 'n', 'e', 't', '\0', 'I'];
        let mut state = 1_u64;
        for _ in 0..200_000 {
            let mut key = String::from(if state & 1 == 0 { "net" } else { "" });
            for _ in 0..state % 13 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                key.push(letters[(state >> 33) as usize % letters.len()]);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            let Some(path) = path_of(&key, "eth0") else { continue };
            assert!(path.starts_with("net/") && !path.contains("//"), "{key:?}: {path}");
            assert!(path.split('/').all(|p| !matches!(p, "" | "." | "..")), "{key:?}: {path}");
        }
    }

    #[test]
    fn values_are_the_same_however_they_are_written() {
        for (now, value) in [
            ("1", "1\n"),
            ("4096\t87380\t6291456", "4096 87380 6291456"),
            ("16", "0x10"),
            ("8", "010"),
            ("-1", "-1"),
            ("", ""),
            ("cubic", "cubic"),
        ] {
            assert!(is_same(now, value), "{now:?} {value:?}");
        }
        for (now, value) in [("1", "0"), ("1", ""), ("1 2", "1"), ("cubic", "reno"), ("1", "+1")] {
            assert!(!is_same(now, value), "{now:?} {value:?}");
        }
    }
}
