//! The other side of the protocol: what a container runtime does.
//!
//! A network is a list of plugins in a file. To attach a container, the
//! plugins are executed one after the other, each with the result of the one
//! before; the last result is kept in a cache, from which CHECK, DEL and GC
//! are served later. [`Runtime`] does that; `cnitool` and the tests stand on
//! it.
//!
//! - [`ConfigList`], [`load`]: the files in `/etc/cni/net.d`
//! - [`Attachment`]: a container, its namespace, the interface in it
//! - [`Runtime`]: ADD, CHECK, DEL, GC, STATUS, VERSION of a whole list, and to
//!   restore what is missing of it
//! - [`Cache`]: the results, in the reference library's format, so that both
//!   can be used in turn on one machine
//! - [`lint`]: what is wrong with a list before it is used
//!
//! Behaviour follows the CNI specification 1.1.0, sections 3 and 4
//! (<https://www.cni.dev/docs/spec/>), and libcni 1.3.0 where it does not
//! contradict it. It never prints, and never reads `CNI_*` of its own process.
//!
//! ```no_run
//! use runtime::{Attachment, Runtime, load};
//! use std::path::Path;
//!
//! let runtime = Runtime::new("/opt/cni/bin", "/var/lib/cni");
//! let network = load::network(Path::new("/etc/cni/net.d"), "mynet")?;
//! let attachment = Attachment::of_netns(Path::new("/run/netns/one"), "eth0")?;
//! let outcome = runtime.add(&network.list, &attachment)?;
//! assert!(!outcome.success().ips.is_empty());
//! runtime.del(&network.list, &attachment)?;
//! # Ok::<(), cni::Error>(())
//! ```

mod attachment;
mod base64;
mod cache;
mod chain;
mod gc;
mod json;
pub mod lint;
mod list;
pub mod load;
mod lock;
mod outcome;
mod probe;
mod restore;

pub use attachment::{Attachment, absolute, container_id_of_netns, parse_args, parse_capabilities};
pub use cache::{Cache, Contents, Entry, Presence};
pub use chain::Runtime;
pub use gc::{Keep, is_namespace, is_same_namespace};
pub use list::{ConfigList, PluginConfig};
pub use lock::Held;
pub use outcome::Outcome;
pub use probe::versions_of;

pub use cni::Result;
