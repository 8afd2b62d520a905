//! The bridge itself. It is shared by all attachments, of several networks
//! even, so nobody removes it; only a failed ADD takes back the one it made, and
//! what it changed of another, if nobody else has come to use it.

use crate::conf::Plan;
use attach::lock::{self, Held, Of};
use attach::neighbours::set_if_there;
use attach::sandbox::Sandbox;
use attach::undo::Undo;
use attach::{ability, kernel, verify, veth};
use cni::{Code, Error, Result, Success};
use linux::Socket;
use linux::addr::{self, Addr};
use linux::link::{self, BridgeSpec, Change, Link, LinkInfo, Mac};
use linux::netns::Namespace;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an ADD waits for others that need the host to themselves: one that
/// takes its bridge back, 15 ms; those that change rules of iptables or use a host
/// shim, some milliseconds each.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// From making sure of the bridge until the port is on it, nobody may take the
/// bridge back.
pub(crate) fn join(host: &Namespace) -> Result<Held> {
    lock::shared(Of::Host(host), "join the bridge", JOIN_LIMIT)
}

/// Makes sure that the bridge is there and up, with its own address from the
/// start (otherwise it takes the lowest of its ports', and changes it as they
/// come and go), and closed to router advertisements (CVE-2020-10749).
///
/// Like `ip link add cni0 address M up type bridge vlan_filtering V`.
pub(crate) fn ensure<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
) -> Result<Link> {
    let host = sandbox.host();
    let name = plan.bridge.as_str();
    let vlan_filtering = plan.vlans.is_some();
    let existing = match link::find(host, name).map_err(kernel)? {
        Some(link) => Some(link),
        None => {
            let mac = Mac::random();
            let spec = BridgeSpec {
                name,
                mac: Some(mac),
                mtu: plan.mtu,
                vlan_filtering: vlan_filtering.then_some(true),
                up: true,
                ..BridgeSpec::default()
            };
            match spec.create(host) {
                Ok(made) => {
                    let index = made.index;
                    undo.push("remove the bridge it made", move |sandbox| withdraw(sandbox, index));
                    // An MTU given at creation lasts until the first port.
                    if let Some(mtu) = plan.mtu {
                        link::set_mtu(host, index, mtu).map_err(kernel)?;
                    }
                    if plan.promisc {
                        link::set_promisc(host, index, true).map_err(kernel)?;
                    }
                    veth::refuse_router_advertisements(name)?;
                    // From which it asks for the containers that others send to. The
                    // kernel would use the same after one to two seconds; where it
                    // refuses this, there is no IPv6.
                    if plan.is_gateway {
                        let _ = addr::add(host, &Addr::link_local(index, mac));
                    }
                    return Ok(made);
                }
                // Another ADD made it just now.
                Err(e) if e.is_exists() => link::find(host, name).map_err(kernel)?,
                Err(e) => {
                    // It may be the answer that was lost, and not the request.
                    if let Ok(Some(made)) = link::find(host, name)
                        && made.mac == Some(mac)
                    {
                        undo.push("remove the bridge it made", move |sandbox| {
                            withdraw(sandbox, made.index)
                        });
                    }
                    return Err(refused(plan, e));
                }
            }
        }
    };
    let bridge = existing
        .ok_or_else(|| Error::internal(format!("create bridge {name}: it vanished at once")))?;
    if !bridge.is_kind("bridge") {
        return Err(not_a_bridge(&bridge));
    }
    let bridge = pinned(host, plan, bridge)?;
    let own = bridge.clone();
    undo.push("give the bridge its own address and MTU back", move |sandbox| {
        unless_joined(sandbox, own.index, &BTreeSet::new(), |sandbox| lone(sandbox.host(), &own))
    });
    let to_filter = vlan_filtering && !filters_vlans(&bridge);
    let to_raise = !bridge.is_up() || (plan.promisc && !bridge.is_promisc());
    let accept_ra = veth::accepted_router_advertisements(name)?;
    if !to_filter && !to_raise && accept_ra.is_none() {
        return Ok(bridge);
    }
    let before = Before { link: bridge.clone(), accept_ra };
    let known = ports(host, bridge.index)?;
    undo.push("put the bridge back as it was", move |sandbox| {
        unless_joined(sandbox, before.link.index, &known, |sandbox| before.put_back(sandbox))
    });
    if to_filter {
        link::set_vlan_filtering(host, bridge.index, true).map_err(|e| refused(plan, e))?;
    }
    if to_raise {
        let change = Change::new(bridge.index).up();
        let change = if plan.promisc { change.promisc(true) } else { change };
        change.apply(host).map_err(kernel)?;
    }
    veth::refuse_router_advertisements(name)?;
    Ok(bridge)
}

/// A bridge of others may follow its ports' addresses; to be told its own ends that. A
/// gateway's is what neighbours remember, and what several ADDs at once promise: so
/// before the first port of ours.
fn pinned(host: &Socket, plan: &Plan, bridge: Link) -> Result<Link> {
    let is_concerned = plan.is_gateway && plan.ipam.is_some() && plan.vlan == 0;
    let Some(mac) = bridge.mac.filter(|_| is_concerned) else { return Ok(bridge) };
    let lasts = match link::has_lasting_mac(&bridge) {
        Some(lasts) => lasts,
        // Then it has the address of a port, as soon as there is one.
        None => {
            let ports = link::list_ports(host, bridge.index).map_err(kernel)?;
            !ports.is_empty() && ports.iter().all(|port| port.mac != Some(mac))
        }
    };
    if lasts {
        return Ok(bridge);
    }
    let mac = if mac.is_zero() { Mac::random() } else { mac };
    link::set_mac(host, bridge.index, mac).map_err(kernel)?;
    Ok(Link { mac: Some(mac), ..bridge })
}

/// A bridge of others, before an ADD changed it.
struct Before {
    link: Link,
    accept_ra: Option<String>,
}

impl Before {
    fn put_back(&self, sandbox: &Sandbox) -> Result<()> {
        let (host, index) = (sandbox.host(), self.link.index);
        let now = link::get_by_index(host, index).map_err(kernel)?;
        if filters_vlans(&now) && !filters_vlans(&self.link) {
            link::set_vlan_filtering(host, index, false).map_err(kernel)?;
        }
        let change = Change::new(index).promisc(self.link.is_promisc());
        let change = if self.link.is_up() { change } else { change.down() };
        change.apply(host).map_err(kernel)?;
        match &self.accept_ra {
            Some(value) => sandbox
                .in_home(|| set_if_there(&["net", "ipv6", "conf", &now.name, "accept_ra"], value)),
            None => Ok(()),
        }
    }
}

/// A bridge takes address and MTU from its ports unless it was told some; when the
/// only port leaves again, it is left without an address, and with the MTU of
/// Ethernet.
fn lone(host: &Socket, own: &Link) -> Result<()> {
    let now = link::get_by_index(host, own.index).map_err(kernel)?;
    if let Some(mac) = own.mac.filter(|mac| now.mac != Some(*mac) && !mac.is_zero()) {
        link::set_mac(host, own.index, mac).map_err(kernel)?;
    }
    if now.mtu != own.mtu {
        link::set_mtu(host, own.index, own.mtu).map_err(kernel)?;
    }
    Ok(())
}

/// Does so unless somebody has joined the bridge beside these ports, or is about to.
fn unless_joined<'r>(
    sandbox: &Sandbox<'r>,
    index: u32,
    known: &BTreeSet<u32>,
    act: impl FnOnce(&Sandbox<'r>) -> Result<()>,
) -> Result<()> {
    let Some(_alone) = lock::alone_now(Of::Host(sandbox.home()))? else {
        return Ok(());
    };
    match ports(sandbox.host(), index)?.is_subset(known) {
        true => act(sandbox),
        false => Ok(()),
    }
}

fn ports(host: &Socket, bridge: u32) -> Result<BTreeSet<u32>> {
    let ports = link::list_ports(host, bridge).map_err(kernel)?;
    Ok(ports.iter().map(|port| port.index).collect())
}

/// RESTORE: as [`ensure`], and with the address it was promised with, which the
/// neighbours remember.
pub(crate) fn restore<'r>(
    sandbox: &Sandbox<'r>,
    undo: &mut Undo<'r, Sandbox<'r>>,
    plan: &Plan,
    promised: &Success,
) -> Result<Link> {
    let bridge = ensure(sandbox, undo, plan)?;
    let named = |i: &&cni::Interface| i.name == plan.bridge && i.sandbox.is_empty();
    let promised = promised.interfaces.iter().find(named).and_then(|i| i.mac.parse::<Mac>().ok());
    match promised.filter(|mac| bridge.mac != Some(*mac)) {
        None => Ok(bridge),
        Some(mac) => {
            link::set_mac(sandbox.host(), bridge.index, mac).map_err(kernel)?;
            link::get_by_index(sandbox.host(), bridge.index).map_err(kernel)
        }
    }
}

/// Takes the bridge back unless somebody has joined it.
fn withdraw(sandbox: &Sandbox, index: u32) -> Result<()> {
    unless_joined(sandbox, index, &BTreeSet::new(), |sandbox| {
        link::delete(sandbox.host(), index).map_err(kernel)
    })
}

/// The bridge as it is now.
pub(crate) fn now(host: &Socket, bridge: &Link) -> Result<Link> {
    link::get_by_index(host, bridge.index).map_err(kernel)
}

/// CHECK: there, a bridge, up, with the promised address, promiscuous and
/// VLAN-aware if it should be, closed to router advertisements.
pub(crate) fn verify(host: &Socket, plan: &Plan, promised: &Success) -> Result<Link> {
    let name = plan.bridge.as_str();
    let wrong = |what: &str| Err(Error::internal(format!("check bridge {name}: {what}")));
    let Some(entry) = promised.interfaces.iter().find(|i| i.name == name && i.sandbox.is_empty())
    else {
        return wrong("prevResult does not have it");
    };
    let Some(bridge) = link::find(host, name).map_err(kernel)? else { return wrong("it is gone") };
    if !bridge.is_kind("bridge") {
        return Err(not_a_bridge(&bridge));
    }
    verify::mac(&bridge, entry)?;
    if !bridge.is_up() {
        return wrong("it is down");
    }
    if plan.promisc && !bridge.is_promisc() {
        return wrong("it is not promiscuous");
    }
    if plan.vlans.is_some() && !filters_vlans(&bridge) {
        return wrong("VLAN filtering is off");
    }
    veth::verify_no_router_advertisements(name)?;
    Ok(bridge)
}

/// STATUS: a link of this name must be a bridge, or one can be made, that is closed
/// to router advertisements; and where the configuration has VLANs, the kernel must
/// be able to tell them apart.
pub(crate) fn status(host: &Socket, plan: &Plan) -> Result<()> {
    let name = plan.bridge.as_str();
    ability::links(host, "bridge")?;
    let filters = match link::find(host, name).map_err(kernel)? {
        Some(link) if !link.is_kind("bridge") => {
            return Err(not_a_bridge(&link).with_code(Code::NOT_AVAILABLE));
        }
        Some(link) => {
            veth::router_advertisements_status(name)?;
            filters_vlans(&link)
        }
        None => false,
    };
    if plan.vlans.is_none() || filters || BridgeSpec::can_filter_vlans(host).map_err(kernel)? {
        return Ok(());
    }
    Err(Error::not_available(format!("have bridge {name} filter VLANs: {NO_VLANS}")))
}

const NO_VLANS: &str = "vlan and vlanTrunk need a kernel with CONFIG_BRIDGE_VLAN_FILTERING";

/// The kernel refused to make the bridge, or to have it filter VLANs.
fn refused(plan: &Plan, error: linux::Error) -> Error {
    let lacking = error.is_unsupported() && plan.vlans.is_some();
    kernel(if lacking { error.hint(NO_VLANS) } else { error })
}

fn not_a_bridge(link: &Link) -> Error {
    let kind = match link.kind.as_deref() {
        Some(kind) => kind,
        None if link.is_loopback() => "loopback",
        None => "physical",
    };
    Error::internal(format!(
        "use bridge {}: it is a {kind} link, not a bridge: give the bridge another name",
        link.name
    ))
}

fn filters_vlans(bridge: &Link) -> bool {
    matches!(&bridge.info, LinkInfo::Bridge { vlan_filtering: true, .. })
}
