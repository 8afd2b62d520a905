//! STATUS: whether the kernel would let an ADD do its work now. Nothing is
//! made or changed by asking; each answer is code 50.

use crate::kernel;
use cni::{Code, Error, Result};
use linux::{Socket, capability, link};

/// What may be done about a refusal.
const PRIVILEGE: &str = "the plugin needs CAP_NET_ADMIN";

/// The network of the host and its links can be changed, and links of `kind`
/// made, whose module is loaded if it is there.
///
/// # Errors
/// Code 50: not permitted, or there is no such module.
pub fn links(host: &Socket, kind: &str) -> Result<()> {
    judge(link::knows(host, kind), kind)
}

fn judge(known: linux::Result<bool>, kind: &str) -> Result<()> {
    match known.map_err(|e| unavailable(e.hint(PRIVILEGE)))? {
        true => Ok(()),
        false => {
            Err(Error::not_available(format!("make a link of kind {kind}: {}", lacking(kind))))
        }
    }
}

/// Which module the kernel has links of `kind` in.
fn lacking(kind: &str) -> String {
    format!("the kernel lacks the module {}", if kind == "vlan" { "8021q" } else { kind })
}

/// The kernel's refusal of a link of `kind`, which names the module where that is
/// what it lacks.
pub fn explain(error: linux::Error, socket: &Socket, kind: &str) -> linux::Error {
    match error.is_unsupported() && matches!(link::knows(socket, kind), Ok(false)) {
        true => error.hint(lacking(kind)),
        false => error,
    }
}

/// [`links`] for who makes them in containers only. Whether that is permitted
/// depends on who owns a container's namespace: without a privilege on the host
/// its kernel cannot be asked, and the container may still be ours.
///
/// # Errors
/// Code 50: the process has no privilege at all, or there is no such module.
pub fn links_in_containers(kind: &str) -> Result<()> {
    containers()?;
    let host = Socket::route().map_err(unavailable)?;
    match link::knows(&host, kind) {
        Err(e) if e.is_permission() => Ok(()),
        known => judge(known, kind),
    }
}

/// The process may change the networks of containers.
///
/// # Errors
/// Those of [`network_admin`] and [`entering`].
pub fn containers() -> Result<()> {
    network_admin()?;
    entering()
}

/// The process may enter containers: it has `CAP_SYS_ADMIN` in its user namespace.
///
/// # Errors
/// Code 50 when it has not.
pub fn entering() -> Result<()> {
    match capability::has_sys_admin().map_err(unavailable)? {
        true => Ok(()),
        false => Err(Error::not_available(
            "enter a network namespace: operation not permitted: the plugin needs CAP_SYS_ADMIN",
        )),
    }
}

/// The process may change networks: it has `CAP_NET_ADMIN` in its user
/// namespace.
///
/// # Errors
/// Code 50 when it has not.
pub fn network_admin() -> Result<()> {
    match capability::has_net_admin().map_err(unavailable)? {
        true => Ok(()),
        false => Err(Error::not_available(format!(
            "change a network: operation not permitted: {PRIVILEGE}"
        ))),
    }
}

/// The kernel's refusal of a question, as STATUS tells it.
pub fn unavailable(error: linux::Error) -> Error {
    kernel(error).with_code(Code::NOT_AVAILABLE)
}
