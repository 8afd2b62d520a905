//! The integration tests: one executable, a module per plugin and one per
//! property that crosses plugins.
//!
//! Cases are values with a list of what they need. What the machine does not
//! have makes a case *ignored*, with the reason; it never passes by default.
//! `scripts/test` compares what was skipped with what is expected to be.

mod advisories;
mod bandwidth;
mod bridge;
mod chained;
mod cnitool;
mod conf;
mod delegation;
mod deletions;
mod dummy;
mod firewall;
mod flannel;
mod harness;
mod host_device;
mod host_local;
mod hostile;
mod ipvlan;
mod kills;
mod leases;
mod links;
mod locks;
mod logging;
mod macvlan;
mod masquerade;
mod memory;
mod ownership;
mod podman;
mod portmap;
mod properties;
mod protocol;
mod ptp;
mod recorder;
mod reinstall;
mod restore;
mod sbr;
mod selftest;
mod soak;
mod spoof;
mod state;
mod static_ipam;
mod status;
mod tap;
mod tuning;
mod unprivileged;
mod vanishing;
mod vlan;
mod vrf;
mod whole_chain;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cases = Vec::new();
    cases.extend(selftest::list());
    cases.extend(cnitool::list());
    cases.extend(leases::list());
    cases.extend(restore::list());
    cases.extend(bridge::list());
    cases.extend(ptp::list());
    cases.extend(macvlan::list());
    cases.extend(vlan::list());
    cases.extend(ipvlan::list());
    cases.extend(dummy::list());
    cases.extend(properties::list());
    cases.extend(flannel::list());
    cases.extend(host_device::list());
    cases.extend(host_local::list());
    cases.extend(static_ipam::list());
    cases.extend(status::list());
    cases.extend(masquerade::list());
    cases.extend(spoof::list());
    cases.extend(portmap::list());
    cases.extend(firewall::list());
    cases.extend(whole_chain::list());
    cases.extend(kills::list());
    cases.extend(soak::list());
    cases.extend(reinstall::list());
    cases.extend(podman::list());
    cases.extend(vrf::list());
    cases.extend(vanishing::list());
    cases.extend(bandwidth::list());
    cases.extend(tap::list());
    cases.extend(sbr::list());
    cases.extend(tuning::list());
    cases.extend(ownership::list());
    cases.extend(delegation::list());
    cases.extend(deletions::list());
    cases.extend(hostile::list());
    cases.extend(state::list());
    cases.extend(locks::list());
    cases.extend(advisories::list());
    cases.extend(unprivileged::list());
    cases.extend(protocol::list());
    cases.extend(logging::list());
    cases.extend(memory::list());
    harness::run(cases)
}
