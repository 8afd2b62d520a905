//! The kernel's network objects: links, addresses, routes, rules, bridge
//! ports, namespaces, sysctls. Nothing here knows what they are used for.
//!
//! Everything goes over one kind of blocking netlink [`Socket`]. A socket
//! belongs to the network namespace its creator was in, so *which* socket is
//! handed to a function says *where* its effect lands:
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use linux::{Namespace, Socket, addr, link, route};
//!
//! # fn main() -> linux::Result<()> {
//! let host = Socket::route()?;
//! let namespace = Namespace::open("/run/netns/x")?;
//! let pair = link::VethSpec {
//!     name: "veth1234",
//!     up: true,
//!     peer: link::VethPeer {
//!         name: "eth0",
//!         namespace: Some(namespace.as_fd()),
//!         ..Default::default()
//!     },
//!     ..Default::default()
//! }
//! .create(&host)?;
//!
//! namespace.enter()?;
//! let inside = Socket::route()?;
//! let eth0 = pair.link.unwrap_or_default();
//! let address = "10.1.0.2/24".parse().expect("an address");
//! let anywhere = "0.0.0.0/0".parse().expect("a prefix");
//! let gateway = "10.1.0.1".parse().expect("an address");
//! inside.batch([
//!     addr::Addr::new(eth0, address).add_message(),
//!     link::Change::new(eth0).up().message(),
//!     route::Route::new(anywhere).via(gateway).dev(eth0).add_message(),
//! ])?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what | like |
//! |---|---|---|
//! | [`netlink`] | [`Socket`]: request, batch, dump; [`netlink::Message`], [`netlink::Attrs`] for other message types | |
//! | [`netns`] | [`Namespace`]: open, compare, enter, run a child in it; whether one has ended | `ip netns` |
//! | [`link`] | get, find, list, delete; `VethSpec`, `BridgeSpec`, ..; [`link::Change`]; [`link::Mac`] | `ip link` |
//! | [`addr`] | list, add, delete | `ip addr` |
//! | [`route`] | list, get, add, replace, delete | `ip route` |
//! | [`rule`] | list, add, delete | `ip rule` |
//! | [`neigh`] | list, set, delete | `ip neigh` |
//! | [`port`] | a bridge port's flags, state and VLANs | `bridge link`, `bridge vlan` |
//! | [`tap`] | create a TAP device | `ip tuntap` |
//! | [`tc`] | token buckets, redirection of what comes in | `tc` |
//! | [`sysctl`] | read, and write where different | `sysctl` |
//! | [`capability`] | what the process may do | `getpcaps` |
//! | [`limit`] | an error instead of the end | `trap '' XFSZ` |
//! | [`monitor`] | wait for a link, a bridge port, IPv6 addresses | `ip monitor` |
//! | [`announce`] | tell the neighbours about addresses | `arping -U`, `ndsend` |
//! | [`nft`] | packet filter rules | `nft` |
//! | [`dbus`] | methods of services on the system bus | `busctl call` |
//! | [`iptables`] | packet filter rules through the commands of iptables | `iptables-restore`, `iptables-save` |
//! | [`arena`] | an allocator for short-lived programs | |
//!
//! Functions that take a `&Socket` do one request; types have a `.._message()`
//! beside it, so that several go in one [`Socket::batch`].

pub mod addr;
pub mod announce;
pub mod arena;
pub mod capability;
pub mod conntrack;
pub mod dbus;
mod error;
mod family;
pub mod iptables;
pub mod limit;
pub mod link;
pub mod monitor;
pub mod neigh;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod port;
#[doc(hidden)]
pub mod replies;
pub mod route;
pub mod rule;
pub mod sysctl;
pub mod tap;
pub mod tc;
mod uapi;
#[cfg(test)]
mod wire;

pub use error::{Error, ErrorKind, Result};
pub use family::Family;
pub use ipnetwork::IpNetwork;
pub use netlink::{Protocol, Socket};
pub use netns::Namespace;
