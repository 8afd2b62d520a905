//! Steps several plugins share. Each stands for one owned thing and has its
//! create, verify and remove side by side; a plugin strings them together.
//!
//! - [`undo`]: a scope that takes back what a failed ADD did
//! - [`identity`]: names in the kernel, derived from the attachment
//! - [`sandbox`]: the two network namespaces of a request
//! - [`lock`]: the lock of a network namespace
//! - [`ipam`]: the address plugin a configuration names
//! - [`veth`]: the pair between host and container
//! - [`addresses`]: addresses and routes of the container's link
//! - `connected`: routes to the subnets of the link's addresses
//! - [`contained`]: the link that lives in the container as a whole
//! - [`parent`]: the lower device it stands on
//! - [`shim`]: the host's own link among the containers'
//! - [`neighbours`]: what they are told and asked
//! - [`forwarding`]: the host as a gateway
//! - [`dns`]: name resolution, from the configuration
//! - [`chained`]: the previous result, and whose a rule is
//! - [`mtu`]: packet sizes as configurations write them
//! - [`mac`]: hardware addresses as configurations write them
//! - [`backend`]: what packet filter rules are made with
//! - [`masquerade`]: the host's address for what leaves a container's subnets
//! - [`filter`]: both, removed together
//! - [`spoof`]: only a container's own MAC address comes out of it
//! - [`records`]: what outlives a process, one file for each attachment
//! - [`saved`]: addresses, routes and neighbours in such a file
//! - [`verify`]: what CHECK compares
//! - [`ability`]: what STATUS asks the kernel
//!
//! This crate may use `cni`, `linux` and `store`; no plugin may use another.

pub mod ability;
pub mod addresses;
pub mod backend;
pub mod chained;
mod connected;
pub mod contained;
pub mod dns;
pub mod filter;
pub mod forwarding;
pub mod identity;
pub mod ipam;
pub mod lock;
pub mod mac;
pub mod masquerade;
pub mod mtu;
pub mod neighbours;
pub mod parent;
pub mod records;
pub mod sandbox;
pub mod saved;
pub mod shim;
pub mod spoof;
pub mod undo;
pub mod verify;
pub mod veth;

/// A kernel error as the runtime sees it: code 999, 11 where waiting longer may
/// help, or 5 where a file could not be written.
pub fn kernel(error: linux::Error) -> cni::Error {
    let code = match error.kind() {
        linux::ErrorKind::TimedOut => cni::Code::TRY_AGAIN,
        linux::ErrorKind::Io => cni::Code::IO,
        _ => cni::Code::INTERNAL,
    };
    cni::Error::new(code, error.to_string())
}

/// Tells the person who reads the log something that is no error, such as a
/// device that was lost. Runtimes pass a plugin's stderr on.
pub fn notice(text: &str) {
    let line = format!("{text}\n");
    // Nobody may be reading; then there is nobody to be told.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
