//! The door: the CNI protocol as a plugin speaks it.
//!
//! A runtime executes a plugin with `CNI_*` variables and a JSON document on
//! stdin, and reads one JSON document from stdout. This crate turns that into
//! a [`Request`] and calls a [`Plugin`]; what the plugin returns it prints in
//! the version the configuration asked for. It knows no netlink and owns no
//! file but a log that was asked for.
//!
//! - [`plugin`][]: the trait every plugin implements, with all verbs
//! - [`dispatch`][]: the only reader of `CNI_*`, the only writer of stdout
//! - [`request`][]: what the runtime asks for; identifiers checked at birth
//! - [`config`][]: Go-compatible decoding of configurations
//! - [`args`][]: `CNI_ARGS`
//! - [`result`][], [`versions`][]: the one internal result, all shapes on the wire
//! - [`delegate`][]: find and run another plugin
//! - [`error`][]: the CNI error object
//! - [`log`][]: a record of each verb, where it is wanted
//!
//! Behaviour follows the CNI specification 1.1.0
//! (<https://www.cni.dev/docs/spec/>) and, where the specification is silent,
//! the reference implementation.

pub mod args;
mod attachments;
pub mod cidr;
pub mod config;
pub mod delegate;
pub mod dispatch;
pub mod error;
mod intake;
pub mod log;
pub mod plugin;
pub mod request;
pub mod result;
pub mod versions;

pub use attachments::Attachments;
pub use error::{Code, Error};
pub use plugin::Plugin;
pub use request::{AttachmentId, ContainerId, IfName, Network, NetworkName, Request};
pub use result::{Dns, Interface, IpConfig, Route, Success};
pub use versions::Version;

/// What every fallible call in this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
