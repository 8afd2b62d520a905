//! The one executable of the plugins: it looks at the name it was called by.
//!
//! This list is the product's table of contents. Each plugin can be built
//! alone through its Cargo feature.

use cni::Plugin;
use std::process::ExitCode;

static PLUGINS: &[&dyn Plugin] = &[
    // make an interface
    #[cfg(feature = "bridge")]
    &bridge::Bridge,
    #[cfg(feature = "dummy")]
    &dummy::Dummy,
    #[cfg(feature = "host-device")]
    &host_device::HostDevice,
    #[cfg(feature = "ipvlan")]
    &ipvlan::Ipvlan,
    #[cfg(feature = "loopback")]
    &loopback::Loopback,
    #[cfg(feature = "macvlan")]
    &macvlan::Macvlan,
    #[cfg(feature = "ptp")]
    &ptp::Ptp,
    #[cfg(feature = "tap")]
    &tap::Tap,
    #[cfg(feature = "vlan")]
    &vlan::Vlan,
    // chained
    #[cfg(feature = "bandwidth")]
    &bandwidth::Bandwidth,
    #[cfg(feature = "firewall")]
    &firewall::Firewall,
    #[cfg(feature = "portmap")]
    &portmap::Portmap,
    #[cfg(feature = "vrf")]
    &vrf::Vrf,
    #[cfg(feature = "sbr")]
    &sbr::Sbr,
    #[cfg(feature = "tuning")]
    &tuning::Tuning,
    // delegate
    #[cfg(feature = "flannel")]
    &flannel::Flannel,
    // give addresses
    #[cfg(feature = "host-local")]
    &host_local::HostLocal,
    #[cfg(feature = "static")]
    &static_ipam::Static,
];

#[global_allocator]
static ALLOCATOR: linux::arena::Arena = linux::arena::Arena::new();

fn main() -> ExitCode {
    // What fails is told and undone; what is killed is not.
    linux::limit::survive_file_size();
    cni::dispatch::run(PLUGINS)
}
