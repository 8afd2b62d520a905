//! Programs of the host that reach a mapping at 127.0.0.1.
//!
//! Their packets leave the host by the container's link with a loopback
//! address as source, which the kernel forbids unless `route_localnet` is set
//! for the link. With it, neighbours on that link could send to what listens
//! at 127.0.0.1 (CVE-2020-8558); so each backend drops what arrives from
//! elsewhere with a loopback address, *before* the sysctl is set.

use attach::kernel;
use cni::Result;
use linux::{Socket, link, route, sysctl};

use crate::conf::Plan;

/// Lets loopback addresses leave by the link the container is behind, like
/// `sysctl -w net.ipv4.conf.LINK.route_localnet=1`. The setting is the link's
/// and goes with it.
///
/// # Errors
/// It is not set and may not be written.
pub(crate) fn allow(host: &Socket, plan: &Plan) -> Result<()> {
    for target in plan.targets.iter().filter(|target| target.at_loopback) {
        let Some(name) = link_to(host, target.address.ip())? else { continue };
        if !is_allowed("all")? {
            sysctl::write(&parameter(&name), "1")
                .map_err(|e| kernel(e.context("let the host reach mapped ports at 127.0.0.1")))?;
        }
    }
    Ok(())
}

/// Verifies that it is so.
///
/// # Errors
/// Names the link for which it is not.
pub(crate) fn check(host: &Socket, plan: &Plan) -> Result<()> {
    for target in plan.targets.iter().filter(|target| target.at_loopback) {
        let Some(name) = link_to(host, target.address.ip())? else { continue };
        if !is_allowed("all")? && !is_allowed(&name)? {
            return Err(cni::Error::internal(format!(
                "check port mappings: net.ipv4.conf.{name}.route_localnet is not 1: the host does not reach them at 127.0.0.1"
            )));
        }
    }
    Ok(())
}

fn is_allowed(link: &str) -> Result<bool> {
    sysctl::read(&parameter(link)).map(|value| value == "1").map_err(kernel)
}

fn parameter(link: &str) -> [&str; 5] {
    ["net", "ipv4", "conf", link, "route_localnet"]
}

/// The link the container is behind; `None` where no route leads to it.
fn link_to(host: &Socket, container: std::net::IpAddr) -> Result<Option<String>> {
    let route = match route::get(host, container) {
        Ok(route) => route,
        Err(e) if e.is_unreachable() => return Ok(None),
        Err(e) => return Err(kernel(e)),
    };
    let Some(index) = route.oif else { return Ok(None) };
    link::get_by_index(host, index).map(|link| Some(link.name)).map_err(kernel)
}
