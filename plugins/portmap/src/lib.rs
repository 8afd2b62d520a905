//! **portmap**: ports of the host that lead to ports of the container.
//!
//! Chained behind a plugin that gave the container an address, it takes the
//! runtime's `portMappings` and has the kernel rewrite the destination of
//! packets to such a port of the host, from outside, from the host, from other
//! containers and from the container itself. Only packets to an address of this
//! host are looked at.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | map and set elements | host, nf_tables | table `cni_hostport`; the owner in the comment | [`nftables::add`] | DEL, GC | no |
//! | table, chains, their rules | host, nf_tables | table `cni_hostport` | [`nftables::add`] | the DEL or GC that takes the last mapping; the guard stays | yes |
//! | or: a chain, and rules that lead to it | host, iptables | `CNI-DN-H` from the attachment | [`iptables::add`] | DEL, GC | no |
//! | chains for all, jumps to them, a guard | host, iptables | `CNI-HOSTPORT-..` | [`iptables::add`] | stay | yes |
//! | `route_localnet` | the container's link on the host | sysctl | [`loopback::allow`] | with the link | yes |
//! | UDP flows | host, conntrack | | clients | [`flows`], at ADD, DEL and GC | no |
//!
//! Which of the two backends holds an attachment is nowhere written: DEL and GC
//! look in both.

mod both;
mod changes;
mod conf;
mod flows;
mod iptables;
mod loopback;
mod nftables;
mod place;

use attach::backend::{Backend, FAMILIES, Netfilter};
use attach::chained::{self, Owner, Owners};
use attach::{ability, kernel, undo, verify};
use changes::Changes;
use cni::{
    AttachmentId, Attachments, Code, Error, Network, Plugin, Request, Result, Success, Version,
};
use conf::{HostPort, Needs, Plan};
use linux::Socket;
use linux::nft::script;
use place::Place;
use std::cell::LazyCell;
use std::net::IpAddr;

/// The plugin.
pub struct Portmap;

/// The chains of iptables that ours stand beside: an `ACCEPT` there keeps
/// packets from them.
const BESIDE: [&str; 3] = ["PREROUTING", "OUTPUT", "POSTROUTING"];

impl Plugin for Portmap {
    fn name(&self) -> &'static str {
        "portmap"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let result = chained::prev_result(request, "portmap")?;
        let Some(plan) = Plan::new(request, &result)? else { return Ok(result) };
        let host = Socket::route().map_err(kernel)?;
        map(&Claimant::new(request, &plan), || {
            // Not before the guard is there, which comes with the mappings.
            loopback::allow(&host, &plan)?;
            flows::end_to_host(&host, &plan.hosts(), &plan.families())
        })?;
        request.network.made(plan.hosts().iter().map(HostPort::short));
        Ok(result)
    }

    fn check(&self, request: &Request) -> Result<()> {
        let promised = verify::prev_result(request)?;
        let Some(plan) = Plan::new(request, &promised)? else { return Ok(()) };
        check_mappings(&Claimant::new(request, &plan))?;
        loopback::check(&Socket::route().map_err(kernel)?, &plan)
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let promised = verify::prev_result(request)?;
        let Some(plan) = Plan::new(request, &promised)? else { return Ok(()) };
        if self.check(request).is_ok() {
            return Ok(());
        }
        let claimant = Claimant::new(request, &plan);
        if has_more(&claimant)? {
            // ADD does not look for what other addresses have.
            remove(request, &plan.hosts())?;
        }
        map(&claimant, || Ok(()))?;
        let host = Socket::route().map_err(kernel)?;
        loopback::allow(&host, &plan)?;
        request.network.made(plan.hosts().iter().map(HostPort::short));
        // Those that came while nothing led them to the container.
        flows::end_unmapped(&host, &plan.hosts(), &plan.families())
    }

    fn del(&self, request: &Request) -> Result<()> {
        match conf::mappings_to_remove(&request.network) {
            Some(hosts) => remove(request, &hosts),
            None => Ok(()),
        }
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        sweep(network, &valid)
    }

    fn status(&self, network: &Network) -> Result<()> {
        let needs = Needs::of(network)?;
        let netfilter = Netfilter::open()?;
        netfilter.status(needs.backend, iptables::TABLE, &BESIDE, &nftables::shared())?;
        verify_readers(&netfilter, &needs)?;
        needs.external_mark_chain.map_or(Ok(()), |name| {
            iptables::verify_mark_chain(&netfilter, &name)
                .map_err(|error| error.with_code(Code::NOT_AVAILABLE))
        })
    }

    fn forget(&self, network: &Network, dead: &AttachmentId, address: IpAddr) -> Result<()> {
        match Netfilter::open_if_permitted()? {
            Some(_) => remove_of(network, dead, &[], Some(address)),
            None => Ok(()),
        }
    }

    fn forget_invalid(&self, network: &Network) -> Result<()> {
        match Netfilter::open_if_permitted()? {
            Some(_) => self.gc(network),
            None => Ok(()),
        }
    }
}

/// The commands that read the conditions are there.
fn verify_readers(netfilter: &Netfilter, needs: &Needs) -> Result<()> {
    needs.conditions.iter().try_for_each(|(key, family)| {
        let found = match needs.backend {
            Some(Backend::Iptables) => netfilter.need_iptables(*family).map(drop),
            _ => script::find().map(drop),
        };
        found.map_err(|e| ability::unavailable(e.context(format_args!("map ports under {key}"))))
    })
}

/// Who maps what.
struct Claimant<'a> {
    request: &'a Request,
    plan: &'a Plan,
    owner: Owner,
    place: Option<Place>,
    changes: Changes,
}

impl<'a> Claimant<'a> {
    fn new(request: &'a Request, plan: &'a Plan) -> Claimant<'a> {
        let place = request.netns.as_deref().and_then(Place::of);
        Claimant { request, plan, owner: Owner::of(request), place, changes: Changes::default() }
    }
}

/// Makes the mappings, all of them or none, with the backend that suits, and does
/// `what_follows`. When that fails too, the mappings are what they were.
fn map(claimant: &Claimant, what_follows: impl FnOnce() -> Result<()>) -> Result<()> {
    let netfilter = Netfilter::open()?;
    let nft = netfilter.nft()?;
    undo::scope(&mut (), |(), undo| {
        // Of one that fails as well: the answer may be all that was lost.
        undo.push("take the port mappings back", |()| claimant.changes.take_back(claimant));
        netfilter.with(claimant.plan.backend, iptables::TABLE, &BESIDE, |backend| {
            both::add(&netfilter, nft, backend, claimant)
        })??;
        what_follows()
    })
}

/// Verifies the mappings in the backend that is named. Where none is, in either:
/// the host may have changed since the ADD, or another version have made them.
fn check_mappings(claimant: &Claimant) -> Result<()> {
    let netfilter = Netfilter::open()?;
    let nft = netfilter.nft()?;
    let check = |backend| match (backend, nft) {
        (Backend::Nftables, Some(socket)) => nftables::check(socket, claimant),
        _ => iptables::check(&netfilter, claimant),
    };
    let named = claimant.plan.backend;
    let first = netfilter.choose(named, iptables::TABLE, &BESIDE)?;
    let Err(error) = check(first) else { return Ok(()) };
    if named.is_some() {
        return Err(error);
    }
    let other = match first {
        Backend::Nftables => Backend::Iptables,
        Backend::Iptables => Backend::Nftables,
    };
    check(other).map_err(|elsewhere| match other {
        // What is missing is missing where the rest is.
        Backend::Iptables if iptables::has_chain_of(&netfilter, claimant) => elsewhere,
        _ => error,
    })
}

/// Whether an earlier ADD mapped more than is wanted, in either backend.
fn has_more(claimant: &Claimant) -> Result<bool> {
    let netfilter = Netfilter::open()?;
    let in_table = netfilter.nft()?.map(|socket| nftables::has_more(socket, claimant));
    Ok(in_table.unwrap_or(Ok(false))? || iptables::has_more(&netfilter, claimant)?)
}

/// Removes what the attachment has in either backend, upstream's included.
fn remove(request: &Request, hosts: &[HostPort]) -> Result<()> {
    remove_of(&request.network, &request.attachment(), hosts, None)
}

/// The same of any attachment to the network; only what leads to `target`, where that is
/// told.
fn remove_of(
    network: &Network,
    attachment: &AttachmentId,
    hosts: &[HostPort],
    target: Option<IpAddr>,
) -> Result<()> {
    let owner = Owner::new(network.name(), attachment);
    let AttachmentId { container_id, ifname } = attachment;
    let belongs = |key: &str| key == owner.key();
    let elements =
        nftables::Leaving { belongs: &belongs, target, hosts, container_id: Some(container_id) };
    let chains = iptables::Leaving::One {
        chains: iptables::chain_names(network.name().as_str(), container_id, ifname),
        owner: owner.key(),
        target,
    };
    release(network, &elements, &chains)
}

/// Removes what is there of attachments to the network that are not valid.
fn sweep(network: &Network, valid: &Attachments) -> Result<()> {
    // Not where there are no mappings.
    let owners = LazyCell::new(|| Owners::new(network.name(), valid));
    let by_key = |key: &str| owners.lack(key);
    // Upstream does not say which interface it was.
    let by_name = |named: &str, container: &str| {
        named == network.name().as_str() && !valid.has_container(container)
    };
    let elements =
        nftables::Leaving { belongs: &by_key, target: None, hosts: &[], container_id: None };
    let chains = iptables::Leaving::Invalid { by_key: &by_key, by_name: &by_name };
    release(network, &elements, &chains)
}

fn release(
    network: &Network,
    elements: &nftables::Leaving,
    chains: &iptables::Leaving,
) -> Result<()> {
    let netfilter = Netfilter::open()?;
    let (mut flows, mut chains_gone) = (Vec::new(), Vec::new());
    let mut of_chains = None;
    let removed = netfilter.remove(|socket, out| {
        flows = nftables::plan(socket, elements, out)?;
        chains_gone = iptables::plan(socket, chains, out)?;
        if elements.hosts.is_empty() && !chains_gone.is_empty() {
            of_chains.get_or_insert_with(|| iptables::flows(&netfilter, &chains_gone));
        }
        Ok(())
    });
    if removed.is_ok() {
        network.removed(flows.iter().map(|flow| flow.host.short()));
        network.removed(chains_gone.iter().map(|(_, chain)| chain));
    }
    let mut errors: Vec<Error> = removed.err().into_iter().collect();
    // Unless they were another's by the time of the last plan.
    flows.extend(of_chains.filter(|_| !chains_gone.is_empty()).unwrap_or_default());
    for outcome in iptables::remove_legacy(&netfilter, chains) {
        match outcome {
            Ok(more) => {
                network.removed(more.iter().map(|flow| flow.host.short()));
                flows.extend(more);
            }
            Err(e) => errors.push(e),
        }
    }
    // The rules are gone, so nothing takes the old way again.
    errors.extend(flows::end_to_containers(&flows).err());
    if !chains_gone.is_empty() {
        let ended = Socket::route()
            .map_err(kernel)
            .and_then(|host| flows::end_to_host(&host, elements.hosts, &FAMILIES));
        errors.extend(ended.err());
    }
    Error::join(errors)
}
