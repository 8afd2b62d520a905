//! The veth's host end as a port of the bridge: flags and VLANs.

use crate::conf::Plan;
use attach::{kernel, veth};
use cni::{Error, Result, Success};
use linux::Socket;
use linux::link::{self, Change, Link};
use linux::monitor::{Group, Monitor};
use linux::port::{self, PortChange, PortState, VlanRange};
use std::time::{Duration, Instant};

/// The longest wait for the port to forward. Without spanning tree it takes
/// the kernel less than a millisecond; with it, twice the forward delay (15 s
/// by default, IEEE 802.1D) and the hello time.
const FORWARDING_LIMIT: Duration = Duration::from_secs(35);

/// Sets what differs from a new port's defaults.
///
/// Like `bridge link set dev P hairpin on isolated on`, `bridge vlan add dev P
/// vid V pvid untagged`.
pub(crate) fn configure(host: &Socket, plan: &Plan, index: u32) -> Result<()> {
    if plan.hairpin || plan.isolated {
        let on = |wanted: bool| wanted.then_some(true);
        let change = PortChange {
            hairpin: on(plan.hairpin),
            isolated: on(plan.isolated),
            ..PortChange::default()
        };
        change.apply(host, index).map_err(kernel)?;
    }
    match &plan.vlans {
        Some(vlans) => set_vlans(host, index, vlans, plan.preserve_default_vlan),
        None => Ok(()),
    }
}

/// RESTORE: the host end of the container's `link` is on the bridge and up, with
/// its flags and VLANs. Answers it.
pub(crate) fn restore(host: &Socket, plan: &Plan, bridge: &Link, link: &Link) -> Result<Link> {
    let end = veth::host_end(host, link)?;
    if end.master != Some(bridge.index) || !end.is_up() {
        let change = Change::new(end.index).master(bridge.index).up();
        change.apply(host).map_err(kernel)?;
        configure(host, plan, end.index)?;
    } else if verify_vlans(host, plan, &end).is_err() || !has_flags(host, plan, &end)? {
        configure(host, plan, end.index)?;
    }
    Ok(end)
}

fn has_flags(host: &Socket, plan: &Plan, end: &Link) -> Result<bool> {
    let flags = port::get(host, end.index).map_err(kernel)?;
    Ok((flags.hairpin, flags.isolated) == (plan.hairpin, plan.isolated))
}

/// Puts the port into `vlans`, and out of the bridge's default VLAN unless that
/// is preserved.
pub(crate) fn set_vlans(
    host: &Socket,
    index: u32,
    vlans: &[VlanRange],
    preserve_default: bool,
) -> Result<()> {
    if !preserve_default {
        let present = port::vlans(host, index).map_err(kernel)?;
        if !present.is_empty() {
            port::delete_vlans(host, index, &present).map_err(kernel)?;
        }
    }
    port::add_vlans(host, index, vlans).map_err(kernel)
}

/// Watches a port. Notifications come to the namespace the watch was opened
/// in, so it is opened before the thread enters the container.
pub(crate) struct Watch {
    monitor: Monitor,
    index: u32,
}

impl Watch {
    pub(crate) fn open(index: u32) -> Result<Watch> {
        Ok(Watch { monitor: Monitor::open(&[Group::Link]).map_err(kernel)?, index })
    }

    /// Waits until frames get through the port.
    pub(crate) fn wait_until_forwarding(&self, host: &Socket) -> Result<()> {
        let state =
            || link::get_by_index(host, self.index).map(|link| link.port.map(|port| port.state));
        let mut last = state().map_err(kernel)?;
        if last == Some(PortState::Forwarding) {
            return Ok(());
        }
        let waited = self.monitor.wait_until(Instant::now() + FORWARDING_LIMIT, |_| {
            last = state()?;
            Ok((last == Some(PortState::Forwarding)).then_some(()))
        });
        waited.map_err(|error| match last {
            Some(state) if error.is_timed_out() => kernel(
                error
                    .operation("wait for the bridge port to forward")
                    .hint(format!("its state is {state}")),
            ),
            _ => kernel(error.operation("wait for the bridge port to forward")),
        })
    }
}

/// CHECK: the container's peer is a port of the bridge, up, with the promised
/// address, flags and VLANs.
pub(crate) fn verify(
    host: &Socket,
    plan: &Plan,
    bridge: &Link,
    container: &Link,
    promised: &Success,
) -> Result<()> {
    let found = veth::verify_host_end(host, container, promised)?;
    let wrong = |what: String| {
        Err(Error::internal(format!(
            "check {}, the host end of {}: {what}",
            found.name, container.name
        )))
    };
    if found.master != Some(bridge.index) {
        return wrong(format!("it is not a port of bridge {}", bridge.name));
    }
    let flags = port::get(host, found.index).map_err(kernel)?;
    for (what, is, wanted) in
        [("hairpin", flags.hairpin, plan.hairpin), ("isolated", flags.isolated, plan.isolated)]
    {
        if is != wanted {
            return wrong(format!("{what} is {}, promised was {}", on_off(is), on_off(wanted)));
        }
    }
    if let Some(mtu) = plan.mtu.filter(|mtu| *mtu != found.mtu) {
        return wrong(format!("its mtu is {}, promised was {mtu}", found.mtu));
    }
    verify_vlans(host, plan, &found)
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn verify_vlans(host: &Socket, plan: &Plan, found: &Link) -> Result<()> {
    let Some(vlans) = &plan.vlans else { return Ok(()) };
    let expand = |ranges: &[VlanRange]| -> Vec<(u16, bool, bool)> {
        ranges.iter().flat_map(|r| (r.first..=r.last).map(|id| (id, r.pvid, r.untagged))).collect()
    };
    let (present, wanted) =
        (expand(&port::vlans(host, found.index).map_err(kernel)?), expand(vlans));
    if let Some((id, ..)) = wanted.iter().find(|vlan| !present.contains(vlan)) {
        return Err(Error::internal(format!(
            "check {}: VLAN {id} is missing or tagged otherwise",
            found.name
        )));
    }
    match present.iter().find(|(id, ..)| !wanted.iter().any(|(w, ..)| w == id)) {
        Some((id, ..)) if !plan.preserve_default_vlan => Err(Error::internal(format!(
            "check {}: it is in VLAN {id}, which was not promised",
            found.name
        ))),
        _ => Ok(()),
    }
}
