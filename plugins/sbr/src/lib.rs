//! **sbr**: routing by source address.
//!
//! Chained behind a plugin that gave the container an interface with addresses,
//! it sends what comes from these addresses out by this interface, whatever
//! other interfaces the container has.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | rule of an address | container | the address; protocol 115 | [`routing`] | DEL, GC | no |
//! | table of an address | container | the first free one from 100; protocol 115 | [`routing`] | DEL, GC | no |
//! | ways to the subnets with a source, with `addSourceHints` | container, main table | protocol 115 | [`routing`] | DEL, GC | no |
//! | routes of the interface in the main table | container | (not ours) | taken away by ADD | DEL and GC bring them back | no |
//! | record | file | [`record`] | ADD, before any change | DEL, GC | no |
//!
//! With `table` there is only the rule.

mod conf;
mod record;
mod routing;

use attach::lock::{self, Of, Patience};
use attach::records::{Origin, Records, Slot};
use attach::{ability, chained, kernel, notice, sandbox, undo, verify};
use cni::{Code, Error, Network, Plugin, Request, Result, Success, Version};
use conf::{Mode, Plan};
use ipnetwork::IpNetwork;
use linux::link::{self, Link};
use linux::route::Route;
use linux::rule::{self, Rule};
use linux::{Family, Namespace, Socket, addr};
use record::Record;
use routing::{Routing, Unrecorded, Wanted};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// How long an ADD waits for others, each of which takes some milliseconds. Two at
/// once would choose the same table.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The plugin.
pub struct Sbr;

impl Plugin for Sbr {
    fn name(&self) -> &'static str {
        "sbr"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let result = chained::prev_result(request, "sbr")?;
        let plan = Plan::new(request, &result)?;
        set_up(request, &plan, Beginning::Add)?;
        Ok(plan.routed(result))
    }

    fn check(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(request, &verify::prev_result(request)?)?;
        let earlier = match Records::open(Path::new(record::DIRECTORY))? {
            Some(records) => record::of(&record::find(&records, request)?),
            None => None,
        };
        let socket = sandbox::enter(request)?;
        let link = routed_link(&socket, request)?;
        let now = Routing::read(&socket, Some(link.index))?;
        verify_routing(&now, &plan, &link, earlier.as_ref())
    }

    fn restore(&self, request: &Request) -> Result<()> {
        let plan = Plan::new(request, &verify::prev_result(request)?)?;
        set_up(request, &plan, Beginning::Restore)
    }

    fn del(&self, request: &Request) -> Result<()> {
        let records = Records::open(Path::new(record::DIRECTORY))?;
        let slot = records.as_ref().map(|records| record::find(records, request)).transpose()?;
        let record = slot.as_ref().and_then(record::of);
        // A runtime may not give a namespace that is still there.
        let recorded = || record.as_ref().and_then(|record| record.origin.namespace());
        if let Some(namespace) = sandbox::namespace_if_there(request)?.or_else(recorded) {
            // A container that was started anew has nothing of the old one.
            let record = record.filter(|record| record.origin.is_of(&namespace));
            let rules = remove(&namespace, record.as_ref(), Some(request), &Patience::default())?;
            request.network.removed(rules);
        }
        match (records, slot) {
            (Some(records), Some(slot)) => records.remove(&slot),
            _ => Ok(()),
        }
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let Some(records) = Records::open(Path::new(record::DIRECTORY))? else { return Ok(()) };
        let lost = record::invalid(&records, network.name(), &valid)?;
        let patience = Patience::default();
        let sweep = |slot: &Slot| {
            let record = record::of(slot);
            if let Some(namespace) = record.as_ref().and_then(|record| record.origin.namespace()) {
                network.removed(remove(&namespace, record.as_ref(), None, &patience)?);
            }
            records.remove(slot)
        };
        Error::join(lost.iter().filter_map(|slot| sweep(slot).err()).collect())
    }

    fn status(&self, network: &Network) -> Result<()> {
        Mode::of(network)?;
        ability::containers()?;
        let unavailable = |error: Error| error.with_code(Code::NOT_AVAILABLE);
        // A kernel without CONFIG_IP_MULTIPLE_TABLES has no rules at all.
        let socket = Socket::route().map_err(kernel)?;
        rule::list(&socket, None).map_err(kernel).map_err(unavailable)?;
        Records::verify_writable(Path::new(record::DIRECTORY)).map_err(unavailable)
    }
}

/// Whether there has been an ADD.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Add,
    Restore,
}

/// Makes what is missing of rules and routes, and of the record.
fn set_up(request: &Request, plan: &Plan, beginning: Beginning) -> Result<()> {
    let namespace = sandbox::namespace(request)?;
    let doing = format!("route {} by source address", request.ifname);
    let _alone = lock::alone(Of::Container(&namespace), &doing, LOCK_LIMIT)?;
    let socket = &sandbox::enter_namespace(&namespace)?;
    let link = routed_link(socket, request)?;

    let records = Records::create(Path::new(record::DIRECTORY))?;
    let slot = record::find(&records, request)?;
    let origin = Origin::here(request, Some(link.index))?;
    let earlier = record::of(&slot).filter(|earlier| earlier.origin.is_beside(&origin));
    let now = Routing::read(socket, Some(link.index))?;
    let seen = match (beginning, &earlier) {
        (Beginning::Add, _) => now.clone(),
        (Beginning::Restore, Some(record)) => now.clone().with_rules_of(record),
        // Nobody else knows how the main table was.
        (Beginning::Restore, None) => {
            return Err(Error::internal(format!(
                "route {} by source address: its record in {} is gone: DEL and ADD the attachment",
                link.name,
                record::DIRECTORY
            )));
        }
    };
    let (wanted, rules) = Wanted::after_add(&seen, plan, link.index, earlier.as_ref());
    let addresses: Vec<IpAddr> = rules.iter().map(|rule| rule.address).collect();
    undo::scope(&mut (), |(), undo| {
        let own_tables = plan.mode.has_own_tables();
        let routes = in_recorded_order(wanted.moved.clone(), earlier.as_ref());
        let record = Record { origin, rules, own_tables, routes };
        records.write(&slot, record.text().as_bytes())?;
        undo.push("restore the record", |()| records.restore(&slot));
        undo.push("restore rules and routes", |()| {
            Routing::read(socket, Some(link.index))?.change_to(socket, &now.as_wanted())
        });
        let named = |e: Error| e.context(format!("route {} by source address", link.name));
        now.change_to(socket, &wanted).map_err(named)
    })?;
    request.network.made(addresses);
    Ok(())
}

/// The kernel may list again in another order what nobody has changed.
fn in_recorded_order(routes: Vec<Route>, earlier: Option<&Record>) -> Vec<Route> {
    let is_same = |earlier: &&Record| {
        earlier.routes.len() == routes.len()
            && routes.iter().all(|route| earlier.routes.contains(route))
    };
    earlier.filter(is_same).map(|earlier| earlier.routes.clone()).unwrap_or(routes)
}

fn routed_link(socket: &Socket, request: &Request) -> Result<Link> {
    let ifname = request.ifname.as_str();
    link::find(socket, ifname).map_err(kernel)?.ok_or_else(|| {
        Error::internal(format!(
            "route {ifname} by source address: there is no such link in {}",
            request.sandbox()
        ))
    })
}

/// CHECK: each address has its rule, and what ADD put in its table is there.
/// What upstream's plugin made is looked at as far as that is known.
fn verify_routing(now: &Routing, plan: &Plan, link: &Link, record: Option<&Record>) -> Result<()> {
    let failed = |what: String| Err(Error::internal(format!("check {}: {what}", link.name)));
    let (wanted, chosen) = Wanted::after_add(now, plan, link.index, record);
    for rule in &chosen {
        let is_meant = |there: &&Rule| match (record, &plan.mode) {
            (None, Mode::Own { .. }) => true,
            _ => there.table == Some(rule.table),
        };
        let is_known = |there: &&Rule| {
            routing::is_own(there, rule.address) || (record.is_none() && routing::is_nobodys(there))
        };
        if !now.rules_of(rule.address).filter(is_known).any(|there| is_meant(&there)) {
            return failed(format!("the rule for packets from {} is missing", rule.address));
        }
    }
    let is_ours = |route: &&Route| chosen.iter().any(|rule| rule.table == route.table);
    let missing = wanted.routes.iter().filter(is_ours).find(|route| !now.routes.contains(route));
    match missing.filter(|_| record.is_some() && plan.mode.has_own_tables()) {
        Some(route) => failed(format!("route {route} is missing")),
        None => Ok(()),
    }
}

/// DEL and GC: rules, tables and hints away, and the main table as it was. Answers
/// whose packets the rules were about.
fn remove(
    namespace: &Namespace,
    record: Option<&Record>,
    request: Option<&Request>,
    patience: &Patience,
) -> Result<Vec<IpAddr>> {
    let _alone = patience.alone(Of::Container(namespace), "remove routes by source address");
    sandbox::inside(namespace, |socket| {
        let ifname = request.map(|request| request.ifname.as_str()).unwrap_or_default();
        let index = index_of(socket, record, ifname)?;
        let now = Routing::read(socket, index)?;
        let (rules, moved) = match (record, request) {
            (Some(record), _) => (now.rules_in(record), routing::saved(Some(record), index)),
            (None, Some(request)) => {
                let known = unrecorded(socket, index, request)?;
                (known.rules(&now), known.moved(&now))
            }
            (None, None) => return Ok(Vec::new()),
        };
        let addresses = rules.iter().filter_map(|rule| Some(rule.src?.ip())).collect();
        now.change_to(socket, &routing::without(&now, &rules, moved)).or_else(|error| {
            // A link that is down, or has lost its addresses, does not take its
            // routes back; it is about to go.
            notice(&format!("sbr: routes of the main table are not restored: {error}"));
            let now = Routing::read(socket, index)?;
            now.change_to(socket, &routing::without(&now, &rules, Vec::new()))
        })?;
        Ok(addresses)
    })
}

/// The link, as far as it is there.
fn index_of(socket: &Socket, record: Option<&Record>, ifname: &str) -> Result<Option<u32>> {
    let found = match record.and_then(|record| record.origin.index) {
        Some(index) => link::get_by_index(socket, index).map(Some),
        None => link::find(socket, ifname),
    };
    match found {
        Ok(link) => Ok(link.map(|link| link.index)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(kernel(error)),
    }
}

/// Of the link, of the configuration, and of the previous result as far as it can be
/// read.
fn unrecorded(socket: &Socket, index: Option<u32>, request: &Request) -> Result<Unrecorded> {
    let result = request.prev_result().ok().flatten().unwrap_or_default();
    let mut addresses: Vec<IpNetwork> =
        chained::container_ips(request, &result).map(|ip| ip.address).collect();
    if let Some(index) = index {
        let on_link = addr::list(socket, None, Some(index)).map_err(kernel)?;
        addresses.extend(on_link.iter().map(|address| address.net));
    }
    let table = match Mode::of(&request.network) {
        Ok(Mode::Given(table)) => Some(table),
        _ => None,
    };
    let defaults = result.routes.iter().filter(|route| route.is_default());
    let defaults = defaults.map(|route| Family::of(route.dst.ip())).collect();
    Ok(Unrecorded { addresses, table, defaults })
}
