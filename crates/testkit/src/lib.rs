//! A fake host for tests: containers, plugins, snapshots, traffic.
//!
//! Nothing here touches the machine's own network or files. Each test gets a
//! fresh thread with a network and a mount namespace of its own: only `lo`,
//! empty `/run`, `/var/lib/cni` and `/etc/cni`, and everything in it vanishes
//! with the thread. It works as root and, under `unshare -Urnm`, as an
//! ordinary user.
//!
//! # A test
//!
//! ```no_run
//! use serde_json::json;
//! use testkit::{Case, Host, Netns as _, cases};
//!
//! /// The cases of one module; `tests/main.rs` collects them.
//! pub fn list() -> Vec<Case> {
//!     cases! {
//!         [Bridge, Ping] two_containers_talk,
//!         [Bridge] del_gives_everything_back,
//!     }
//! }
//!
//! fn two_containers_talk(host: &Host) {
//!     let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge",
//!         "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
//!     let (one, two) = (host.container("one"), host.container("two"));
//!     host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
//!     host.plugin("bridge").add(&two, "eth0", &conf).expect_result();
//!     one.expect_ping("10.1.0.3");
//! }
//!
//! fn del_gives_everything_back(host: &Host) {
//!     let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "bridge",
//!         "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
//!     let one = host.container("one");
//!     let before = host.snapshot();
//!     host.plugin("bridge").add(&one, "eth0", &conf).expect_result();
//!     host.plugin("bridge").del(&one, "eth0", &conf).expect_ok();
//!     // The bridge is shared and stays; whatever else is left is a leak.
//!     host.expect_unchanged_but(&before, &["cni0"]);
//! }
//! ```
//!
//! A test fails by panicking. What it printed is its message, followed by the
//! journal of the host: every plugin call and every failed command with input,
//! output and exit status, so that a failure can be read without a rerun.
//!
//! # What is where
//!
//! - [`Host`]: containers, plugins, files, snapshots, [`Host::parallel`].
//! - [`Container`]: a network namespace at `/run/netns/<name>`, which can be
//!   destroyed or turned into a stale file.
//! - [`Netns`]: what host and containers have in common: run a command, read
//!   links, addresses, routes and sysctls, ping, serve and connect, capture.
//! - [`Plugin`] and [`Outcome`]: one plugin call and what it answered, with
//!   fault injection by system call ([`Plugin::fail_call`]).
//! - [`Snapshot`]: all that a plugin can change on a host, as text.
//! - [`Feature`]: what a test needs; a case whose needs are not met is skipped
//!   by name and counted as ignored, never as passed.
//! - [`Case`]: a test as a value, so that properties over plugins and versions
//!   can be generated at run time.
//!
//! Crates with ordinary `#[test]` functions use [`Host::run`] directly.

mod capture;
mod case;
mod cgroup;
mod command;
mod container;
mod diff;
mod feature;
mod firewalld;
mod host;
mod json;
mod netns;
mod plugin;
mod sctp;
mod snapshot;
mod traffic;

pub use capture::{Capture, Frame, Payload};
pub use case::{Case, Lane, case_name, on_every_kernel, record_panics};
pub use command::{Argv, Output};
pub use container::Container;
pub use diff::unified_diff;
pub use feature::Feature;
pub use host::{Host, peer_folder, plugins_folder, set_plugins_folder};
pub use json::with_previous_result;
pub use netns::Netns;
pub use plugin::{Outcome, Plugin};
pub use sctp::SctpListener;
pub use snapshot::Snapshot;
pub use traffic::EchoServer;
