//! Ports that several attachments of one container want: the first has them in the
//! maps. What the others want waits in a set of its own, which is there only while
//! something waits, and takes over in the batch that removes the first.
//!
//! Who waits says so in the set of containers, so that nothing more is asked where
//! nobody does.

use cni::Error;
use linux::Result;
use linux::nft::{Element, Elements, Socket, Transaction};

use super::claim::Adding;
use super::layout::{Claim, Container, Layout, port_key};
use super::release::{self, add, delete};

/// What changes in the maps, and the containers that are left.
pub(super) struct Change<'a> {
    pub(super) going: &'a [Claim],
    pub(super) coming: &'a [Claim],
    pub(super) staying: &'a [Container],
}

/// What waits when a change is made.
pub(super) struct Waiting {
    /// What it takes over.
    pub(super) heirs: Vec<Claim>,
    /// What waits no more, as it is taken over or was for those that leave.
    done: Vec<Claim>,
    rest: Vec<Claim>,
}

impl Waiting {
    /// Who is alive and waited for what goes is an heir.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn after(
        socket: &Socket,
        layout: &Layout,
        leaves: &dyn Fn(&Claim) -> bool,
        change: &Change,
    ) -> Result<Waiting> {
        let mut kept = release::claims(socket, layout, &|_| true)?;
        kept.retain(|claim| !change.going.contains(claim));
        kept.extend_from_slice(change.coming);
        let mut after = Waiting { heirs: Vec::new(), done: Vec::new(), rest: Vec::new() };
        for claim in all(socket, layout)? {
            let is_had = kept.iter().any(|had| had.mapping.host.covers(&claim.mapping.host));
            let mut containers = change.staying.iter();
            let is_alive = containers.any(|c| is_of(&claim, c) && c.is_alive(None));
            if leaves(&claim) {
                after.done.push(claim);
            } else if is_alive && !is_had {
                kept.push(claim.clone());
                after.heirs.push(claim.clone());
                after.done.push(claim);
            } else {
                after.rest.push(claim);
            }
        }
        Ok(after)
    }

    /// Plans all but the maps, and what waits no more.
    pub(super) fn plan(&self, layout: &Layout, staying: &[Container], out: &mut Transaction) {
        for container in staying.iter().filter(|container| container.waits) {
            if !self.rest.iter().any(|claim| is_of(claim, container)) {
                let element = Container { waits: false, ..container.clone() }.element();
                delete(out, &layout.containers, vec![element.clone()]);
                add(out, &layout.containers, vec![element]);
            }
        }
        let hosts = self.heirs.iter().map(|heir| heir.mapping.host);
        let single = hosts.filter(|host| host.address.is_some());
        add(out, &layout.one_address_ports, single.map(|host| port_key(&host)).collect());
    }

    /// Plans that what waits no more goes, and the set with the last.
    pub(super) fn plan_set(&self, layout: &Layout, out: &mut Transaction) {
        if self.rest.is_empty() && !self.done.is_empty() {
            out.delete(&layout.waiting);
        } else {
            self.plan_elements(layout, out);
        }
    }

    fn plan_elements(&self, layout: &Layout, out: &mut Transaction) {
        delete(out, &layout.waiting, self.done.iter().map(Claim::waiting_element).collect());
    }
}

impl Adding<'_, '_> {
    /// What another attachment of the container has waits; answers with the rest.
    pub(super) fn let_wait(&mut self, wanted: Vec<Claim>) -> Vec<Claim> {
        let has = |claim: &Claim| {
            let host = &claim.mapping.host;
            self.beside.iter().find(|there| there.mapping.host.covers(host))
        };
        if !self.target.conditions.is_empty()
            && let Some((there, claim)) = wanted.iter().find_map(|claim| Some((has(claim)?, claim)))
        {
            // Its rules come before all mappings without conditions.
            let conflict = format!("{}, and conditions cannot wait", self.mapped_to(claim, there));
            self.conflict.get_or_insert_with(|| Error::internal(conflict));
        }
        let (waiting, arriving) = wanted.into_iter().partition(|claim| has(claim).is_some());
        self.waiting = waiting;
        arriving
    }

    /// Who waited for what leaves has it, unless it is wanted.
    pub(super) fn plan_heirs(
        &mut self,
        leaving: &[Claim],
        arriving: &[Claim],
    ) -> Result<Vec<Claim>> {
        if leaving.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.claimant.owner.key();
        let mut others = release::containers(self.socket, &self.layout)?;
        others.retain(|container| container.owner != own);
        if others.iter().all(|container| !container.waits) {
            return Ok(Vec::new());
        }
        let change = Change { going: leaving, coming: arriving, staying: &others };
        let waiting = Waiting::after(self.socket, &self.layout, &|_| false, &change)?;
        waiting.plan(&self.layout, &others, self.out);
        // The set stays: an ADD that fails puts elements back.
        waiting.plan_elements(&self.layout, self.out);
        Ok(waiting.heirs)
    }

    /// Plans that of this attachment waits what has to.
    pub(super) fn plan_waiting(&mut self) -> Result<()> {
        if self.waiting.is_empty() && !self.waited {
            return Ok(());
        }
        let own = Some(self.claimant.owner.key());
        let mut there = all(self.socket, &self.layout)?;
        there.retain(|claim| claim.owner() == own);
        let elements = |claims: &[Claim], others: &[Claim]| -> Vec<Element> {
            let missing = claims.iter().filter(|claim| !others.contains(claim));
            missing.map(Claim::waiting_element).collect()
        };
        delete(self.out, &self.layout.waiting, elements(&there, &self.waiting));
        let missing = elements(&self.waiting, &there);
        if !missing.is_empty() {
            self.out.add(&self.layout.waiting);
            self.out.add(Elements::of(&self.layout.waiting, missing));
        }
        Ok(())
    }
}

/// What waits, whosever it is.
fn all(socket: &Socket, layout: &Layout) -> Result<Vec<Claim>> {
    release::read_all(socket, &layout.waiting, |element| Claim::read_waiting(&element))
}

fn is_of(claim: &Claim, container: &Container) -> bool {
    container.address == claim.target && Some(container.owner.as_str()) == claim.owner()
}
