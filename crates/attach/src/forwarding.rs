//! Forwarding, which a host that is its containers' gateway must do.
//!
//! | what | where | created by | removed by | shared |
//! |---|---|---|---|---|
//! | `ip_forward`, `forwarding` | host | [`Forwarding::switch_on`] | stays | yes |

use crate::ability;
use crate::kernel;
use crate::sandbox::Sandbox;
use cni::{Error, Result};
use linux::sysctl;
use std::net::IpAddr;

const V4: &[&str] = &["net", "ipv4", "ip_forward"];
const V6: &[&str] = &["net", "ipv6", "conf", "all", "forwarding"];

const GATEWAY: &str = "a gateway must forward";

/// Forwarding that is needed and still off, by family.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding {
    v4: bool,
    v6: bool,
}

impl Forwarding {
    /// Looks what packets of these addresses need. The sysctls are those of the
    /// thread's namespace, so this is asked before it enters the container.
    ///
    /// # Errors
    /// The kernel's.
    pub fn needed(addresses: impl IntoIterator<Item = IpAddr>) -> Result<Forwarding> {
        let (mut v4, mut v6) = (false, false);
        for address in addresses {
            *if address.is_ipv4() { &mut v4 } else { &mut v6 } = true;
        }
        let off =
            |used: bool, name: &[&str]| Ok(used && sysctl::read(name).map_err(kernel)? != "1");
        Ok(Forwarding { v4: off(v4, V4)?, v6: off(v6, V6)? })
    }

    /// Like `sysctl net.ipv4.ip_forward=1`. It stays: others come to need it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn switch_on(self, sandbox: &Sandbox) -> Result<()> {
        if !self.v4 && !self.v6 {
            return Ok(());
        }
        sandbox.in_home(move || {
            for (off, name) in [(self.v4, V4), (self.v6, V6)] {
                if off {
                    sysctl::write(name, "1").map_err(|e| kernel(e.hint(GATEWAY)))?;
                }
            }
            Ok(())
        })
    }

    /// STATUS: containers of one address family at least would have their packets
    /// forwarded. Which they will be of only IPAM knows.
    ///
    /// # Errors
    /// Code 50: neither is on, and neither can be switched on.
    pub fn status() -> Result<()> {
        let settable = |name: &[&str]| sysctl::verify_settable(name, "1");
        match (settable(V4), settable(V6)) {
            (Err(e), Err(_)) => Err(ability::unavailable(e.hint(GATEWAY))),
            _ => Ok(()),
        }
    }

    /// CHECK: everything needed is on.
    ///
    /// # Errors
    /// Names the sysctl that is off.
    pub fn verify(self) -> Result<()> {
        match (self.v4, self.v6) {
            (false, false) => Ok(()),
            (true, _) => Err(Error::internal(
                "check gateway: the host does not forward IPv4 (net.ipv4.ip_forward is off)",
            )),
            (_, true) => Err(Error::internal(
                "check gateway: the host does not forward IPv6 (net.ipv6.conf.all.forwarding is off)",
            )),
        }
    }
}
