//! The crate against the running kernel. Every test makes its own network
//! namespaces and touches nothing else.
//!
//! Needs root, or a user namespace: `unshare -Urn cargo test -p linux`.

#![expect(clippy::unwrap_used, reason = "a failed step of a test shall panic")]

mod addr;
mod announce;
mod host;
mod link;
mod monitor;
mod neigh;
mod netlink;
mod netns;
mod port;
mod rest;
mod route;
mod rule;
mod sysctl;
mod tap;
mod tc;
