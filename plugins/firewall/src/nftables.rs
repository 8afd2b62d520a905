//! Rules of nf_tables, spoken over netlink:
//!
//! ```text
//! table inet cni_firewall {
//!     set containers4 {                         # and containers6
//!         type ipv4_addr
//!         elements = { 10.1.0.2 comment "<owner>, policy: isolated, bridge: cni0, id: C" }
//!     }
//!     set bridges { type ifname; elements = { "cni0" } }
//!     set same_bridge { type ifname . ifname; elements = { "cni0" . "cni0" } }
//!     set isolated { type ifname . ifname; elements = { "cni0" . "cni0" } }
//!     map egress4 { type ipv4_addr : verdict; .. }  # and egress6
//!     map egress_mac {
//!         type ether_addr : verdict
//!         elements = { 02:..:01 comment "<owner>, id: C" : jump egress_H }
//!     }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         jump isolation
//!         ether saddr vmap @egress_mac
//!         ip saddr vmap @egress4
//!         jump admins
//!         ip saddr @containers4 accept
//!         ip daddr @containers4 ct state established,related accept
//!         ..
//!     }
//!     chain isolation {
//!         iifname . oifname @isolated drop
//!         iifname . oifname @same_bridge return
//!         iifname @bridges oifname @bridges drop
//!     }
//!     chain admins { jump CNI-ADMIN }
//!     chain CNI-ADMIN { }                       # the administrator's
//!     chain input {
//!         type filter hook input priority filter; policy accept;
//!         ether saddr vmap @egress_mac
//!         ip saddr vmap @egress4
//!         ..
//!     }
//!     chain egress_H {
//!         ct state established,related return
//!         meta l4proto ipv6-icmp ip6 hoplimit 255 ct state untracked return
//!         ip daddr 255.255.255.255 udp dport 67 return
//!         ip6 daddr ff02::1:2 udp dport 547 return
//!         ip daddr 10.9.0.0/16 return           # allowed
//!         ip daddr 10.0.0.0/8 drop              # denied
//!     }
//! }
//! ```
//!
//! An attachment is one element for each address, however many others there
//! are; one with denied destinations has others for its addresses and hardware
//! addresses. What is dropped here is dropped, whatever other tables say; what is
//! accepted here is accepted as far as this table goes: its policy is the
//! administrator's to change.

mod layout;
mod release;

use attach::backend::FAMILIES;
use attach::chained::Owner;
use attach::kernel;
use cni::{Error, Result};
use linux::Result as KernelResult;
use linux::nft::{Data, Element, Elements, Object, Operation, Set, Socket, Transaction, Verdict};
use std::net::IpAddr;

use crate::conf::{Isolation, Plan, Policy};
pub(crate) use layout::{Container, is_own_chain};
use layout::{Egress, Layout, owner_of};
use release::Bridges;
pub(crate) use release::{Leaving, Parted, plan};

/// Whose rules they are.
#[derive(Clone, Copy)]
pub(crate) struct Claimant<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) owner: &'a Owner,
    pub(crate) container_id: &'a str,
    /// The zone of firewalld the addresses are put in.
    pub(crate) zone: Option<&'a str>,
    /// Whether there are rules of iptables beside these.
    pub(crate) beside: bool,
}

/// Adds what all attachments share, but for the rules: those are written anew.
pub(crate) fn shared(admin: &str) -> Transaction {
    let mut shared = Transaction::new();
    Layout::new().add_objects(admin, &mut shared);
    shared
}

/// Lets the addresses through, all of them or none.
///
/// # Errors
/// The kernel's.
pub(crate) fn add(socket: &Socket, claimant: &Claimant) -> KernelResult<()> {
    socket.update(|socket, out| plan_all(socket, claimant, out))
}

/// Verifies that everything ADD made is there; changes nothing.
///
/// # Errors
/// Names what would be needed.
pub(crate) fn check(socket: &Socket, claimant: &Claimant) -> Result<()> {
    let mut needed = Transaction::new();
    plan_all(socket, claimant, &mut needed).map_err(kernel)?;
    match needed.operations().first() {
        None => Ok(()),
        Some(Operation { verb, object }) => {
            let what = match object {
                Object::Rule(rule) => format!("{verb} rule {rule} in chain {}", rule.chain),
                Object::Elements(elements) => {
                    format!("{verb} elements of {}: {}", elements.set, list(&elements.elements))
                }
                _ => Operation { verb: *verb, object: object.clone() }.to_string(),
            };
            Err(Error::internal(format!(
                "check firewall rules: they are not as ADD made them: this would be needed: {what}"
            )))
        }
    }
}

/// Whether an attachment needs rules here that has rules of iptables alone: what
/// nobody let through is dropped, or it should be kept from bridges or destinations.
///
/// # Errors
/// The kernel's.
pub(crate) fn concern(socket: &Socket, plan: &Plan) -> KernelResult<bool> {
    let layout = Layout::new();
    if !plan.deny.is_empty() || crate::is_closed(socket, &layout.table, &layout.forward.name)? {
        return Ok(true);
    }
    let Some(Isolation { bridge, .. }) = &plan.isolation else { return Ok(false) };
    let own = Element::new(bridge.as_str());
    Ok(release::all(socket, &layout.bridges)?.iter().any(|there| there.key != own.key))
}

fn list(elements: &[Element]) -> String {
    let texts: Vec<String> = elements.iter().take(3).map(Element::to_string).collect();
    texts.join(", ")
}

fn plan_all(socket: &Socket, claimant: &Claimant, out: &mut Transaction) -> KernelResult<()> {
    let layout = Layout::new();
    let plan = claimant.plan;
    let fresh = socket.table(layout.table.family, &layout.table.name)?.is_none();
    layout.plan_shared(socket, &plan.admin_chain, out)?;
    let (replaced, left) = (Vec::new(), Vec::new());
    let mut adding = Adding { socket, claimant, layout: &layout, fresh, replaced, left, out };
    adding.plan_containers()?;
    if let Some(isolation) = &plan.isolation {
        adding.plan_isolation(isolation)?;
    }
    adding.plan_egress()
}

struct Adding<'a, 'o> {
    socket: &'a Socket,
    claimant: &'a Claimant<'a>,
    layout: &'a Layout,
    fresh: bool,
    /// Owners of addresses that are this attachment's now.
    replaced: Vec<String>,
    /// Limits that go, or are others now.
    left: Vec<Element>,
    out: &'o mut Transaction,
}

impl Adding<'_, '_> {
    /// For each set, the elements of these keys that are there.
    fn there<const N: usize>(
        &self,
        wanted: &[Elements; N],
    ) -> KernelResult<[Vec<Option<Element>>; N]> {
        let absent = wanted.each_ref().map(|wanted| vec![None; wanted.elements.len()]);
        if self.fresh {
            return Ok(absent);
        }
        Ok(self.socket.find_in_sets(wanted)?.try_into().unwrap_or(absent))
    }

    /// Puts these elements in their set, in the place of others of the same key,
    /// which are `there`.
    fn put(&mut self, wanted: Elements, there: Vec<Option<Element>>) {
        let (mut wrong, mut missing) = (Vec::new(), Vec::new());
        for (wanted, there) in wanted.elements.into_iter().zip(there) {
            match there {
                Some(there) if there == wanted => continue,
                Some(there) => wrong.push(there),
                None => {}
            }
            missing.push(wanted);
        }
        take(self.out, &wanted.set, wrong);
        if !missing.is_empty() {
            self.out.add(Elements::of(&wanted.set, missing));
        }
    }

    fn put_all<const N: usize>(&mut self, wanted: [Elements; N]) -> KernelResult<()> {
        let there = self.there(&wanted)?;
        wanted.into_iter().zip(there).for_each(|(wanted, there)| self.put(wanted, there));
        Ok(())
    }

    fn plan_containers(&mut self) -> KernelResult<()> {
        let Claimant { plan, owner, .. } = self.claimant;
        let element = |address: IpAddr| Container::element(address, self.claimant);
        let wanted = FAMILIES.map(|family| {
            let elements = plan.of(family).into_iter().map(element);
            Elements::of(self.layout.containers(family), elements)
        });
        let there = self.there(&wanted)?;
        // An address that was another's, or ours under another policy: its bridge
        // may need no rules any more.
        let mut changed = false;
        for (wanted, there) in wanted.into_iter().zip(there) {
            let differing =
                |(t, w): (&Option<Element>, &Element)| t.as_ref().is_some_and(|t| t != w);
            changed |= there.iter().zip(&wanted.elements).any(differing);
            let owners = there.iter().flatten().filter_map(owner_of).filter(|o| *o != owner.key());
            self.replaced.extend(owners.map(str::to_owned));
            self.put(wanted, there);
        }
        if changed {
            let stays = plan.isolation.as_ref();
            let bridges = Bridges::without(&plan.addresses, self.socket, self.layout)?;
            release::plan_isolation(self.socket, self.layout, &bridges, stays, self.out)?;
        }
        Ok(())
    }

    fn plan_isolation(&mut self, isolation: &Isolation) -> KernelResult<()> {
        let bridge = isolation.bridge.as_str();
        let layout = self.layout;
        let pair = || Element::new(bridge).and(bridge);
        self.put_all([
            Elements::of(&layout.bridges, [Element::new(bridge)]),
            Elements::of(&layout.same_bridge, [pair()]),
            Elements::of(&layout.isolated, (isolation.policy == Policy::Isolated).then(pair)),
        ])
    }

    fn plan_egress(&mut self) -> KernelResult<()> {
        let Claimant { plan, owner, container_id, .. } = self.claimant;
        let layout = self.layout;
        let egress = (!plan.deny.is_empty()).then(|| Egress::new(&plan.deny, &plan.allow));
        if let Some(egress) = &egress {
            egress.plan(self.socket, layout, self.fresh, self.out)?;
        }
        let [v4, v6] = FAMILIES.map(|family| {
            let keys = plan.of(family).into_iter().map(Element::new);
            Elements::of(layout.egress(family), keys)
        });
        let comment = owner.comment_with(&format!("id: {container_id}"));
        let macs = plan.macs.iter().map(|mac| Element::new(*mac).comment(&comment));
        let limited = [v4, v6, Elements::of(&layout.egress_mac, macs)];
        let there = self.there(&limited)?;
        let lost = self.plan_lost()?;
        // A hardware address may be that of somebody on another link.
        let is_anothers = |element: &Element| {
            owner_of(element).is_some_and(|o| o != owner.key() && lost.iter().all(|l| l != o))
        };
        for (mut wanted, mut there) in limited.into_iter().zip(there) {
            if let Some(egress) = &egress {
                for element in &mut wanted.elements {
                    element.data = Some(Data::Verdict(Verdict::Jump(egress.chain.clone())));
                }
                self.left.extend(there.iter().flatten().cloned());
                self.put(wanted, there);
            } else {
                there.retain(|there| there.as_ref().is_some_and(|there| !is_anothers(there)));
                self.left.extend(there.iter().flatten().cloned());
                take(self.out, &wanted.set, there.into_iter().flatten().collect());
            }
        }
        let kept = egress.as_ref().map(|egress| egress.chain.as_str());
        self.left.retain(|element| release::chain_of(element).as_deref() != kept);
        match self.left.is_empty() {
            true => Ok(()),
            false => release::plan_chains(self.socket, layout, &self.left, kept, self.out),
        }
    }

    /// Removes the limits of hardware addresses whose owners are gone: they have no
    /// address any more, because this attachment has it, nor a link; answers with
    /// these owners. Its own hardware addresses are left to the caller.
    fn plan_lost(&mut self) -> KernelResult<Vec<String>> {
        let lost = std::mem::take(&mut self.replaced);
        if lost.is_empty() {
            return Ok(lost);
        }
        let plan = self.claimant.plan;
        let lost = release::gone(self.socket, self.layout, lost, &plan.addresses)?;
        let map = &self.layout.egress_mac;
        let mut theirs = release::all(self.socket, map)?;
        theirs.retain(|element| {
            let is_ours = plan.macs.iter().any(|mac| Element::new(*mac).key == element.key);
            !is_ours && owner_of(element).is_some_and(|owner| lost.iter().any(|l| l == owner))
        });
        self.left.extend(theirs.iter().cloned());
        take(self.out, map, theirs);
        Ok(lost)
    }
}

fn take(out: &mut Transaction, set: &Set, elements: Vec<Element>) {
    if !elements.is_empty() {
        out.delete(Elements::of(set, elements));
    }
}
