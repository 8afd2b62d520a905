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
//!     map egress4 { type ipv4_addr : verdict; .. }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         jump isolation
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
//!     chain egress_H { .. }
//! }
//! ```
//!
//! An attachment is one element for each address, however many others there
//! are. What is dropped here is dropped, whatever other tables say; what is
//! accepted here is accepted as far as this table goes: its policy is the
//! administrator's to change.

mod layout;
mod release;

use attach::chained::Owner;
use attach::kernel;
use cni::{Error, Result};
use linux::nft::{Element, Elements, Object, Operation, Set, Socket, Transaction, Verdict};
use linux::{Family, Result as KernelResult};
use std::net::IpAddr;

use crate::conf::{Isolation, Plan, Policy};
pub(crate) use layout::{Container, is_own_chain};
use layout::{Egress, Layout};
pub(crate) use release::{plan, recorded};

/// Whose rules they are.
pub(crate) struct Claimant<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) owner: &'a Owner,
    pub(crate) container_id: &'a str,
    /// The zone of firewalld the addresses are put in.
    pub(crate) zone: Option<&'a str>,
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

fn list(elements: &[Element]) -> String {
    let texts: Vec<String> = elements.iter().take(3).map(Element::to_string).collect();
    texts.join(", ")
}

fn plan_all(socket: &Socket, claimant: &Claimant, out: &mut Transaction) -> KernelResult<()> {
    let layout = Layout::new();
    let plan = claimant.plan;
    let fresh = socket.table(layout.table.family, &layout.table.name)?.is_none();
    layout.plan_shared(socket, &plan.admin_chain, out)?;
    let mut adding = Adding { socket, claimant, layout: &layout, fresh, out };
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
    out: &'o mut Transaction,
}

impl Adding<'_, '_> {
    /// The elements of these keys that are there.
    fn there(&self, set: &Set, wanted: &[Element]) -> KernelResult<Vec<Option<Element>>> {
        if self.fresh {
            Ok(vec![None; wanted.len()])
        } else {
            self.socket.find_elements(set, wanted)
        }
    }

    /// Puts these elements in a set, in the place of others of the same key.
    fn put(&mut self, set: &Set, wanted: Vec<Element>) -> KernelResult<()> {
        let there = self.there(set, &wanted)?;
        let (mut wrong, mut missing) = (Vec::new(), Vec::new());
        for (wanted, there) in wanted.into_iter().zip(there) {
            match there {
                Some(there) if there == wanted => continue,
                Some(there) => wrong.push(there),
                None => {}
            }
            missing.push(wanted);
        }
        take(self.out, set, wrong);
        if !missing.is_empty() {
            self.out.add(Elements::of(set, missing));
        }
        Ok(())
    }

    fn plan_containers(&mut self) -> KernelResult<()> {
        let Claimant { plan, owner, container_id, zone } = self.claimant;
        let mut changed = false;
        for family in [Family::V4, Family::V6] {
            let set = self.layout.containers(family);
            let element = |address: IpAddr| {
                Container::element(address, owner, plan.isolation.as_ref(), *zone, container_id)
            };
            let wanted: Vec<Element> = plan.of(family).into_iter().map(element).collect();
            // An address that was another's, or ours under another policy: its
            // bridge may need no rules any more.
            let there = self.there(set, &wanted)?;
            changed |= there.iter().zip(&wanted).any(|(t, w)| t.as_ref().is_some_and(|t| t != w));
            self.put(set, wanted)?;
        }
        if changed {
            let stays = plan.isolation.as_ref();
            release::plan_isolation(self.socket, self.layout, &plan.addresses, stays, self.out)?;
        }
        Ok(())
    }

    fn plan_isolation(&mut self, isolation: &Isolation) -> KernelResult<()> {
        let bridge = isolation.bridge.as_str();
        let layout = self.layout;
        self.put(&layout.bridges, vec![Element::new(bridge)])?;
        self.put(&layout.same_bridge, vec![Element::new(bridge).and(bridge)])?;
        if isolation.policy == Policy::Isolated {
            self.put(&layout.isolated, vec![Element::new(bridge).and(bridge)])?;
        }
        Ok(())
    }

    fn plan_egress(&mut self) -> KernelResult<()> {
        let plan = self.claimant.plan;
        let egress = (!plan.deny.is_empty()).then(|| Egress::new(&plan.deny, &plan.allow));
        if let Some(egress) = &egress {
            egress.plan(self.socket, self.layout, self.fresh, self.out)?;
        }
        for family in [Family::V4, Family::V6] {
            let map = self.layout.egress(family);
            let keys: Vec<Element> = plan.of(family).into_iter().map(Element::new).collect();
            match &egress {
                Some(egress) => {
                    let jump = || Verdict::Jump(egress.chain.clone());
                    let wanted = keys.into_iter().map(|key| key.verdict(jump())).collect();
                    self.put(map, wanted)?;
                }
                None => {
                    let there = self.there(map, &keys)?;
                    take(self.out, map, there.into_iter().flatten().collect());
                }
            }
        }
        Ok(())
    }
}

fn take(out: &mut Transaction, set: &Set, elements: Vec<Element>) {
    if !elements.is_empty() {
        out.delete(Elements::of(set, elements));
    }
}
