//! What the hosts on the same network are told about a container's addresses,
//! and asked about them.
//!
//! All of it is done by the kernel; these are its settings, each of one link in
//! the container, and gone with it.

use crate::kernel;
use cni::{Error, Result, Success};
use linux::sysctl;
use serde::Deserialize;

/// Has the kernel announce the link's addresses whenever it comes up: by a
/// gratuitous ARP request for each IPv4 address, and by an unsolicited neighbour
/// advertisement for each IPv6 address once it is known to be unique. Where that
/// cannot be written, the neighbours learn by asking.
pub fn announce_when_up(name: &str) {
    for setting in announcing(name) {
        let _ = sysctl::write(&setting, "1");
    }
}

/// How long one question of duplicate address detection waits for an answer,
/// in milliseconds (RFC 4861's RetransTimer; 1000 by default). A host that has
/// the address answers within a few round trips of the local network.
const DETECTION_WAIT_MS: &str = "100";

/// Does `work`, which brings the link up with IPv6 addresses and waits for
/// them, while duplicate address detection on this link takes a tenth of a
/// second instead of one to two: without the random delay before the question
/// (which is for hosts that start all at once after a power failure), and with
/// [`DETECTION_WAIT_MS`] after it. Then the settings are what they were, since
/// they also govern router solicitations and the resolution of neighbours.
///
/// # Errors
/// Those of `work`. Where the settings cannot be changed, it just takes longer.
pub fn with_short_detection<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let settings = [
        (["net", "ipv6", "conf", name, "router_solicitation_delay"], "0"),
        (["net", "ipv6", "neigh", name, "retrans_time_ms"], DETECTION_WAIT_MS),
    ];
    with_settings(settings, work)
}

/// The settings of [`while_announcing`], for who wants to be sure of them.
pub fn announcing(name: &str) -> [[&str; 5]; 2] {
    [["net", "ipv4", "conf", name, "arp_notify"], ["net", "ipv6", "conf", name, "ndisc_notify"]]
}

/// Does `work`, which gives the link another hardware address, and has the
/// kernel tell the neighbours: as [`announce_when_up`], for this once. Where the
/// settings cannot be changed, the neighbours learn by asking.
///
/// # Errors
/// Those of `work`.
pub fn while_announcing<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    with_settings(announcing(name).map(|key| (key, "1")), work)
}

fn with_settings<T>(
    settings: [([&str; 5], &str); 2],
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let change = |(key, value): &([&str; 5], &str)| {
        let before = sysctl::read(key).ok()?;
        sysctl::write(key, value).ok()?;
        Some(before)
    };
    let before = settings.each_ref().map(change);
    let outcome = work();
    for ((key, _), before) in settings.iter().zip(before) {
        if let Some(before) = before {
            // After a failure the link may be gone, and its settings with it.
            let _ = sysctl::write(key, &before);
        }
    }
    outcome
}

/// `disableIPv6WhenUnused`: with addresses, none of which is IPv6, the link gets
/// no IPv6 at all, not even a link-local address or one that a router
/// advertises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DisableIpv6WhenUnused(pub bool);

impl DisableIpv6WhenUnused {
    /// Switches it off where it was asked for and is unused. Before the link is set up.
    ///
    /// Like `sysctl net.ipv6.conf.eth0.disable_ipv6=1`.
    ///
    /// # Errors
    /// The sysctl is there and cannot be written.
    pub fn apply(self, name: &str, success: &Success) -> Result<()> {
        match self.is_meant(success) {
            true => set_if_there(&["net", "ipv6", "conf", name, "disable_ipv6"], "1"),
            false => Ok(()),
        }
    }

    /// CHECK of [`apply`](DisableIpv6WhenUnused::apply).
    ///
    /// # Errors
    /// IPv6 is on again.
    pub fn verify(self, name: &str, promised: &Success) -> Result<()> {
        match sysctl::read(&["net", "ipv6", "conf", name, "disable_ipv6"]) {
            Ok(value) if self.is_meant(promised) && value != "1" => Err(Error::internal(format!(
                "check {name}: IPv6 is on, and disableIPv6WhenUnused promised that it is not"
            ))),
            _ => Ok(()),
        }
    }

    /// Without any address nobody can tell what the container will use.
    fn is_meant(self, success: &Success) -> bool {
        self.0 && !success.ips.is_empty() && success.ips.iter().all(|ip| ip.address.is_ipv4())
    }
}

/// A kernel without the sysctl does not need it.
///
/// # Errors
/// The sysctl is there and cannot be written.
pub fn set_if_there(name: &[&str], value: &str) -> Result<()> {
    match sysctl::write(name, value) {
        Err(e) if !e.is_not_found() => Err(kernel(e)),
        _ => Ok(()),
    }
}
