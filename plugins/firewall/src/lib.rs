//! **firewall**: lets containers through the host's packet filter, and keeps
//! them apart from each other.
//!
//! Chained behind a plugin that gave the container addresses, it lets what comes
//! from them, and the answers to it, be forwarded. An ingress policy keeps the
//! containers of other bridges away; lists of denied destinations limit where
//! the container may go.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | set and map elements | host, nf_tables | table `cni_firewall`; address or hardware address; the owner in the comment | [`nftables::add`] | DEL, GC | no |
//! | a bridge's elements, chains of denied destinations | host, nf_tables | the bridge's name, `egress_H` | [`nftables::add`] | the DEL or GC after which nobody needs them | yes |
//! | table, chains | host, nf_tables | table `cni_firewall` | [`nftables::add`] | the last DEL or GC, if the administrator's chain is empty | yes |
//! | also, or instead: rules | host, iptables | the address; the owner in a rule's comment | [`iptables::add`] | DEL, GC | no |
//! | a bridge's rules | host, iptables | `CNI-ISOLATION-STAGE-..` | [`iptables::add`] | the DEL or GC after which nobody needs them | yes |
//! | chains, jumps to them | host, iptables | `CNI-FORWARD`, `CNI-ADMIN` | [`iptables::add`] | stay | yes |
//! | sources of a zone | firewalld | the address | [`firewalld`] | DEL, GC | no |
//!
//! The administrator's chain is made when it is missing, and its rules are never
//! touched.

mod conf;
mod firewalld;
mod iptables;
mod nftables;
mod zones;

use attach::backend::{Backend, FAMILIES, Netfilter};
use attach::chained::{self, Owner, Owners};
use attach::{kernel, undo, verify};
use cni::{AttachmentId, Attachments, Error, Network, Plugin, Request, Result, Success, Version};
use conf::{Hints, Named, Plan, Settings};
use firewalld::{Firewalld, PATIENCE};
use linux::nft::{Chain, Policy, Socket, Table};
use linux::{Family, iptables as tables};
use nftables::{Claimant, Container, Parted};
use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use zones::Zones;

/// The plugin.
pub struct Firewall;

/// Results before 0.4.0 cannot be checked; upstream has none for them either.
const VERSIONS: &[Version] = &[Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

impl Plugin for Firewall {
    fn name(&self) -> &'static str {
        "firewall"
    }

    fn versions(&self) -> &'static [Version] {
        VERSIONS
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let result = chained::prev_result(request, "firewall")?;
        let plan = Plan::new(request, &result)?;
        if plan.is_empty() {
            return Ok(result);
        }
        let netfilter = Netfilter::open()?;
        let mut way = Way::choose(&netfilter, &plan)?;
        let owner = Owner::of(request);
        undo::scope(&mut (), |(), undo| {
            undo.push("remove the firewall rules", |()| remove(request));
            let claimant = way.claimant(&plan, &owner, request);
            way.tables.add(&netfilter, &claimant)?;
            match &mut way.firewalld {
                Some(firewalld) => firewalld.add(&plan.zone, &plan.addresses),
                None => Ok(()),
            }
        })?;
        request.network.made(&plan.addresses);
        Ok(result)
    }

    fn check(&self, request: &Request) -> Result<()> {
        let promised = verify::prev_result(request)?;
        let plan = Plan::new(request, &promised)?;
        if plan.is_empty() {
            return Ok(());
        }
        let netfilter = Netfilter::open()?;
        let mut way = Way::choose(&netfilter, &plan)?;
        let owner = Owner::of(request);
        let claimant = way.claimant(&plan, &owner, request);
        way.tables.check(&netfilter, &claimant).or_else(|error| {
            // Where none is named, the host may have changed since the ADD.
            let others = Tables::ALL.into_iter().filter(|_| plan.named.is_none());
            let mut others = others.filter(|tables| *tables != way.tables);
            match others.find(|tables| tables.check(&netfilter, &claimant).is_ok()) {
                Some(Tables::Both) => Ok(()),
                Some(Tables::Nftables) => verify_open(&netfilter, &plan.families()),
                // The reference plugin's rules, or those of an older version.
                Some(Tables::Iptables)
                    if !nftables::concern(nf_tables(&netfilter)?, &plan).map_err(kernel)? =>
                {
                    Ok(())
                }
                _ => Err(error),
            }
        })?;
        if let Some(firewalld) = &mut way.firewalld {
            firewalld.check(&plan.zone, &plan.addresses)?;
        }
        Ok(())
    }

    fn restore(&self, request: &Request) -> Result<()> {
        // ADD adds what is missing.
        self.check(request).or_else(|_| self.add(request).map(drop))
    }

    fn del(&self, request: &Request) -> Result<()> {
        remove(request)
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        sweep(network, &valid)
    }

    fn status(&self, network: &Network) -> Result<()> {
        let settings = Settings::of(network)?;
        let unavailable = |e: Error| e.with_code(cni::Code::NOT_AVAILABLE);
        let netfilter = Netfilter::open()?;
        let firewalld = find_firewalld(settings.named).map_err(unavailable)?;
        let may_drop = || match firewalld {
            Some(_) => Ok(false),
            None => any_may_drop(&netfilter, &settings.admin_chain, &FAMILIES),
        };
        let limits = !settings.deny.is_empty();
        let tables =
            Tables::choose(&netfilter, settings.named, limits, may_drop).map_err(unavailable)?;
        let shared = nftables::shared(&settings.admin_chain);
        for backend in tables.backends() {
            netfilter.status(Some(*backend), "", &[], &shared)?;
        }
        Ok(())
    }

    fn forget(&self, network: &Network, dead: &AttachmentId, address: IpAddr) -> Result<()> {
        let Some(netfilter) = Netfilter::open_if_permitted()? else { return Ok(()) };
        let owner = Owner::new(network.name(), dead);
        let mut errors = Vec::new();
        for backend in Tables::Both.backends() {
            let is_own = |key: &str| key == owner.key();
            match take_from(&netfilter, *backend, iptables::remove, &is_own, &[address]) {
                Ok(taken) => network.removed(taken),
                Err(e) => errors.push(e),
            }
        }
        Error::join(errors)
    }

    fn forget_invalid(&self, network: &Network) -> Result<()> {
        match Netfilter::open_if_permitted()? {
            Some(_) => self.gc(network),
            None => Ok(()),
        }
    }
}

/// To be told as well: the one that is named, or, where nothing is, the one that
/// runs.
fn find_firewalld(named: Option<Named>) -> Result<Option<Firewalld>> {
    match named {
        Some(Named::Firewalld) => Firewalld::need().map(Some),
        Some(Named::Rules(_)) => Ok(None),
        None => Firewalld::find(PATIENCE),
    }
}

/// How an attachment's rules are made.
struct Way {
    tables: Tables,
    /// To tell as well.
    firewalld: Option<Firewalld>,
}

impl Way {
    fn choose(netfilter: &Netfilter, plan: &Plan) -> Result<Way> {
        let firewalld = find_firewalld(plan.named)?;
        let may_drop = || match firewalld {
            Some(_) => Ok(false),
            None => any_may_drop(netfilter, &plan.admin_chain, &plan.families()),
        };
        let tables = Tables::choose(netfilter, plan.named, !plan.deny.is_empty(), may_drop)?;
        Ok(Way { tables, firewalld })
    }

    fn claimant<'a>(&self, plan: &'a Plan, owner: &'a Owner, request: &'a Request) -> Claimant<'a> {
        let zone = self.firewalld.is_some().then_some(plan.zone.as_str());
        let container_id = request.container_id.as_str();
        Claimant { plan, owner, container_id, zone, beside: false }
    }
}

/// Whose tables an attachment's rules are in. Packets pass those of both: what one
/// drops is dropped, and what one accepts the other still decides about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    Nftables,
    Iptables,
    Both,
}

impl Tables {
    const ALL: [Tables; 3] = [Tables::Nftables, Tables::Both, Tables::Iptables];

    /// The backend that is named. Where none is, nf_tables, so that all bridges with
    /// a policy are in one table, in whatever order they come; and iptables as well
    /// if it `may_drop` what nf_tables lets through, as only rules in its own table
    /// prevent that. What is denied is denied by nf_tables, whoever lets the rest
    /// through.
    fn choose(
        netfilter: &Netfilter,
        named: Option<Named>,
        limits: bool,
        may_drop: impl FnOnce() -> Result<bool>,
    ) -> Result<Tables> {
        let backend = match named {
            Some(Named::Rules(backend)) => Some(backend),
            Some(Named::Firewalld) | None => None,
        };
        match netfilter.choose(backend, "", &[])? {
            Backend::Nftables if backend.is_none() && may_drop()? => Ok(Tables::Both),
            Backend::Nftables => Ok(Tables::Nftables),
            Backend::Iptables if !limits => Ok(Tables::Iptables),
            Backend::Iptables if netfilter.nft()?.is_some() => Ok(Tables::Both),
            Backend::Iptables => Err(Error::internal(
                "limit destinations by denyCIDRs: the kernel has no nf_tables, which nothing else does",
            )),
        }
    }

    /// nf_tables first, which denies.
    fn backends(self) -> &'static [Backend] {
        match self {
            Tables::Nftables => &[Backend::Nftables],
            Tables::Iptables => &[Backend::Iptables],
            Tables::Both => &[Backend::Nftables, Backend::Iptables],
        }
    }

    fn add(self, netfilter: &Netfilter, claimant: &Claimant) -> Result<()> {
        let claimant = Claimant { beside: self == Tables::Both, ..*claimant };
        self.backends().iter().try_for_each(|backend| match backend {
            Backend::Nftables => nftables::add(nf_tables(netfilter)?, &claimant).map_err(kernel),
            Backend::Iptables => iptables::add(netfilter, &claimant).map_err(kernel),
        })?;
        // Where it has no rules it takes the addresses over as well; from a legacy table,
        // for which a command would be executed, the dead one's go when its lease does.
        let elsewhere = Tables::Both.backends().iter().filter(|b| !self.backends().contains(b));
        let others = |key: &str| key != claimant.owner.key();
        elsewhere
            .map(|backend| {
                let addresses = &claimant.plan.addresses;
                take_from(netfilter, *backend, iptables::remove_stored, &others, addresses)
            })
            .try_for_each(|taken| taken.map(drop))
    }

    fn check(self, netfilter: &Netfilter, claimant: &Claimant) -> Result<()> {
        let claimant = Claimant { beside: self == Tables::Both, ..*claimant };
        self.backends().iter().try_for_each(|backend| match backend {
            Backend::Nftables => nftables::check(nf_tables(netfilter)?, &claimant),
            Backend::Iptables => iptables::check(netfilter, &claimant),
        })
    }
}

fn nf_tables(netfilter: &Netfilter) -> Result<&Socket> {
    netfilter.nft()?.ok_or_else(|| Error::internal("use nftables: the kernel has no nf_tables"))
}

/// Whether iptables may drop what is forwarded, of any of these families.
fn any_may_drop(netfilter: &Netfilter, admin: &str, families: &[Family]) -> Result<bool> {
    let Some(socket) = netfilter.nft()? else { return Ok(false) };
    for family in families {
        if iptables_may_drop(netfilter, socket, admin, *family)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether iptables may drop what is forwarded: there is a rule in its chain
/// FORWARD, or another policy than to accept, or an administrator's chain; and
/// of legacy tables nothing more can be told than that they are in use.
fn iptables_may_drop(
    netfilter: &Netfilter,
    socket: &Socket,
    admin: &str,
    family: Family,
) -> Result<bool> {
    let Some(program) = netfilter.iptables().program(family) else { return Ok(false) };
    let in_use = |name: &String| name == iptables::TABLE;
    if program.variant() != Some(tables::Variant::Nft)
        && netfilter.iptables().legacy_tables(family).iter().any(in_use)
    {
        return Ok(true);
    }
    let table = tables::nft_table(family, iptables::TABLE);
    let drops = is_closed(socket, &table, "FORWARD").map_err(kernel)?;
    let rules = socket.rules(&Chain::regular(&table, "FORWARD")).map_err(kernel)?;
    let admin = socket.chain(&table, admin).map_err(kernel)?;
    Ok(drops || !rules.is_empty() || admin.is_some())
}

/// Whether the policy of a chain is to drop.
fn is_closed(socket: &Socket, table: &Table, chain: &str) -> linux::Result<bool> {
    let base = socket.chain(table, chain)?.and_then(|chain| chain.base);
    Ok(base.is_some_and(|base| base.policy != Policy::Accept))
}

/// Verifies that iptables-nft does not drop all that nf_tables lets through.
fn verify_open(netfilter: &Netfilter, families: &[Family]) -> Result<()> {
    let Some(socket) = netfilter.nft()? else { return Ok(()) };
    for family in families {
        let table = tables::nft_table(*family, iptables::TABLE);
        if is_closed(socket, &table, "FORWARD").map_err(kernel)? {
            return Err(Error::internal(format!(
                "check firewall rules: they are in table inet cni_firewall, and the policy of chain FORWARD in table {table} of iptables, which was open at ADD, drops what they let through: restore them, and they are made with iptables as well"
            )));
        }
    }
    Ok(())
}

/// Removes what the attachment has, made by any backend or by upstream's plugin.
fn remove(request: &Request) -> Result<()> {
    let owner = Owner::of(request);
    let hints = Hints::of(request);
    release(&request.network, &|key| key == owner.key(), Some(&hints))
}

/// Removes what those have of some addresses whose addresses they are no more; answers
/// which these were. The zone that one may be in stays, and its record, for their DEL or
/// GC: firewalld may let one wait.
fn take_from(
    netfilter: &Netfilter,
    backend: Backend,
    from_iptables: fn(&Netfilter, &iptables::Leaving) -> Vec<Result<Vec<Container>>>,
    belongs: &dyn Fn(&str) -> bool,
    addresses: &[IpAddr],
) -> Result<BTreeSet<IpAddr>> {
    let (only, leaves) = (Some(addresses), |container: &Container| container.zone.is_none());
    let mut gone = Vec::new();
    match backend {
        Backend::Nftables => netfilter.remove(|socket, out| {
            let leaving = nftables::Leaving { belongs, only, leaves: &leaves, asked: &[] };
            gone = nftables::plan(socket, &leaving, out)?.going;
            Ok(())
        })?,
        Backend::Iptables => {
            let leaving =
                iptables::Leaving { belongs, only, leaves: &leaves, addresses: &[], bridge: None };
            for of_family in from_iptables(netfilter, &leaving) {
                gone.extend(of_family?);
            }
        }
    }
    Ok(gone.into_iter().map(|container| container.address).collect())
}

/// Removes what is there of attachments to the network that are not valid.
fn sweep(network: &Network, valid: &Attachments) -> Result<()> {
    // Not where there are no rules.
    let owners = LazyCell::new(|| Owners::new(network.name(), valid));
    release(network, &|key| owners.lack(key), None)
}

fn release(network: &Network, belongs: &dyn Fn(&str) -> bool, hints: Option<&Hints>) -> Result<()> {
    let netfilter = Netfilter::open()?;
    let zones = Zones::default();
    let leaves = |container: &Container| {
        container.zone.as_deref().is_none_or(|zone| zones.leave(zone, container.address))
    };
    let mut errors = Vec::new();
    let mut parted = Parted::default();
    let unrecorded: Vec<IpAddr> = hints.map(|hints| hints.addresses.clone()).unwrap_or_default();
    let removed = netfilter.remove(|socket, out| {
        let leaving =
            nftables::Leaving { belongs, only: None, leaves: &leaves, asked: &unrecorded };
        parted = nftables::plan(socket, &leaving, out)?;
        Ok(())
    });
    let mut named = BTreeSet::new();
    if removed.is_ok() {
        named.extend(parted.going.iter().map(|container| container.address));
    }
    errors.extend(removed.err());
    let Parted { going: mut gone, others } = parted;
    let leaving = iptables::Leaving {
        belongs,
        only: None,
        leaves: &leaves,
        addresses: &unrecorded,
        bridge: hints.and_then(|hints| hints.bridge.as_deref()),
    };
    for outcome in iptables::remove(&netfilter, &leaving) {
        match outcome {
            Ok(more) => {
                named.extend(more.iter().map(|container| container.address));
                gone.extend(more);
            }
            Err(e) => errors.push(e),
        }
    }
    network.removed(named);
    if let Some(hints) = hints
        && gone.is_empty()
        && zones.is_untouched()
        && hints.firewalld
    {
        // An address that another attachment has by now stays.
        let free = |address: &&IpAddr| !others.contains(*address);
        for address in unrecorded.iter().filter(free) {
            zones.leave(&hints.zone, *address);
        }
    }
    errors.extend(zones.into_errors());
    Error::join(errors)
}
