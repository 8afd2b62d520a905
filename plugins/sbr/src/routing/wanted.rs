//! How rules and routes shall be.

use super::{METRIC_V6, PROTOCOL, Routing};
use crate::conf::{Address, Mode, Plan};
use crate::record::{Record, SavedRule};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::route::{Route, RouteProtocol, Scope, TABLE_LOCAL, TABLE_MAIN};
use linux::rule::Rule;
use std::net::IpAddr;

/// The first table that is chosen, as upstream does.
pub(super) const FIRST_TABLE: u32 = 100;

/// Tables with a meaning of their own: default, main, local.
const RESERVED_TABLES: std::ops::RangeInclusive<u32> = 253..=TABLE_LOCAL;

/// What rules and routes shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) rules: Vec<Rule>,
    pub(crate) routes: Vec<Route>,
    /// Those of the main table that are not to stay there.
    pub(crate) moved: Vec<Route>,
}

impl Wanted {
    /// After ADD. Also the rules and routes that are the attachment's.
    pub(crate) fn after_add(
        now: &Routing,
        plan: &Plan,
        index: u32,
        earlier: Option<&Record>,
    ) -> (Wanted, Vec<SavedRule>) {
        let chosen = choose_tables(now, plan, earlier);
        let mut wanted = Wanted { moved: Vec::new(), ..now.as_wanted() };
        let mut addresses: Vec<IpAddr> = plan.addresses.iter().map(Address::ip).collect();
        addresses.extend(earlier.iter().flat_map(|record| &record.rules).map(|rule| rule.address));
        wanted.rules.retain(|rule| {
            let is_old = addresses.iter().any(|address| is_own(rule, *address));
            !is_old || chosen.iter().any(|chosen| is_of(rule, chosen))
        });
        for rule in &chosen {
            if !wanted.rules.iter().any(|there| is_of(there, rule)) {
                wanted.rules.push(source_rule(rule.address, rule.table));
            }
        }
        wanted.routes.retain(|route| route.protocol != PROTOCOL);
        // An ADD before this one has moved them already.
        let mut main = saved(earlier, Some(index));
        main.retain(|route| !wanted.routes.contains(route));
        let Mode::Own { source_hints, .. } = plan.mode else {
            wanted.routes.extend(main);
            return (wanted, chosen);
        };
        let was_there =
            |route: &&Route| is_movable(route, plan) && !is_gateways(route, plan, &main);
        let others: Vec<Route> = wanted.routes.iter().filter(was_there).cloned().collect();
        main.extend(others);
        wanted.routes.retain(|route| !is_movable(route, plan));
        if source_hints {
            wanted.routes.extend(main.iter().filter(|route| route.gateway.is_none()).cloned());
            hint(&mut wanted.routes, plan, index);
        }
        for (address, SavedRule { table, .. }) in plan.addresses.iter().zip(&chosen) {
            wanted.routes.extend(table_of(address, *table, index, &main, plan));
        }
        wanted.moved = main;
        (wanted, chosen)
    }
}

impl Routing {
    /// As if the rules of a record were there: whoever makes them again, makes them
    /// with the tables they had, unless somebody else has come to use those.
    pub(crate) fn with_rules_of(mut self, record: &Record) -> Routing {
        for saved in &record.rules {
            let is_there = |rule: &Rule| is_of(rule, saved);
            let is_others = |rule: &Rule| {
                let is_recorded = record.rules.iter().any(|saved| is_of(rule, saved));
                rule.table == Some(saved.table) && !is_recorded
            };
            let is_lost = !self.rules.iter().any(is_there);
            if is_lost && (!record.own_tables || !self.rules.iter().any(is_others)) {
                self.rules.push(source_rule(saved.address, saved.table));
            }
        }
        self
    }
}

/// After DEL: without the rules of an attachment, which are given, and its routes, and
/// with what ADD took from the main table.
pub(crate) fn without(now: &Routing, rules: &[Rule], moved: Vec<Route>) -> Wanted {
    let mut wanted = now.as_wanted();
    wanted.rules.retain(|rule| !rules.contains(rule));
    wanted.routes.retain(|route| route.protocol != PROTOCOL);
    let lost: Vec<Route> =
        moved.into_iter().filter(|route| !wanted.routes.contains(route)).collect();
    wanted.routes.extend(lost);
    wanted
}

/// What an ADD took from the main table, if the link is there.
pub(crate) fn saved(record: Option<&Record>, index: Option<u32>) -> Vec<Route> {
    // Those of another link are gone with it.
    let record = record.filter(|record| index.is_some() && record.origin.index == index);
    record.map(|record| record.routes.clone()).unwrap_or_default()
}

/// `from ADDRESS lookup TABLE`, and nothing else.
pub(crate) fn is_source_rule(rule: &Rule, address: IpAddr) -> bool {
    let plain = source_rule(address, rule.table.unwrap_or_default());
    let bare = Rule { priority: None, protocol: plain.protocol, ..rule.clone() };
    rule.table.is_some() && bare == plain
}

/// The same, and made by us.
pub(crate) fn is_own(rule: &Rule, address: IpAddr) -> bool {
    is_source_rule(rule, address) && rule.protocol == Some(PROTOCOL)
}

fn source_rule(address: IpAddr, table: u32) -> Rule {
    let rule = Rule::lookup(Family::of(address), table).src(address.into());
    Rule { protocol: Some(PROTOCOL), ..rule }
}

/// The table of each address: the one it has, or the first that nobody uses.
fn choose_tables(now: &Routing, plan: &Plan, earlier: Option<&Record>) -> Vec<SavedRule> {
    let mut used = now.tables.clone();
    let had = |address: IpAddr| {
        let rules = earlier.filter(|record| record.own_tables).map(|record| &record.rules)?;
        let rule = rules.iter().find(|rule| rule.address == address)?;
        now.rules.iter().any(|there| is_of(there, rule)).then_some(rule.table)
    };
    let choose = |address: &Address| {
        let address = address.ip();
        let is_free = |table: &u32| !used.contains(table) && !RESERVED_TABLES.contains(table);
        let table = match plan.mode {
            Mode::Given(table) => table,
            Mode::Own { .. } => had(address)
                .or_else(|| (FIRST_TABLE..).find(is_free))
                .expect("nobody has four thousand million tables"),
        };
        used.push(table);
        SavedRule { address, table }
    };
    plan.addresses.iter().map(choose).collect()
}

/// Is it this one, and ours?
pub(crate) fn is_of(rule: &Rule, saved: &SavedRule) -> bool {
    is_own(rule, saved.address) && rule.table == Some(saved.table)
}

/// Of a family that has an address here; the link itself needs the way to its
/// link-local neighbours, whatever the source.
fn is_movable(route: &Route, plan: &Plan) -> bool {
    let is_link_local = match route.dst {
        IpNetwork::V6(dst) => dst.ip().is_unicast_link_local(),
        IpNetwork::V4(_) => false,
    };
    route.table == TABLE_MAIN
        && !is_link_local
        && plan.addresses.iter().any(|address| address.family() == route.family())
}

/// Whether it is a default route by one of the plan's gateways in place of a `saved`
/// one: that is what the result has promised, so that the plugin before this one
/// makes it where the table has lost it.
fn is_gateways(route: &Route, plan: &Plan, saved: &[Route]) -> bool {
    let Mode::Own { gateways, .. } = &plan.mode else { return false };
    let is_rival = |saved: &Route| {
        saved.family() == route.family() && saved.is_default() && saved.priority == route.priority
    };
    route.is_default()
        && route.gateway.is_some_and(|gateway| gateways.contains(&gateway))
        && saved.iter().any(is_rival)
}

/// The routes of an address's own table.
fn table_of(address: &Address, table: u32, index: u32, main: &[Route], plan: &Plan) -> Vec<Route> {
    let is_for = |address: &Address, route: &Route| {
        let is_near = |ip: Option<IpAddr>| ip.is_some_and(|ip| address.net.contains(ip));
        let is_general = route.source.is_none() && route.gateway.is_none();
        address.family() == route.family()
            && (is_general || is_near(route.source) || is_near(route.gateway))
    };
    let wanted = main.iter().filter(|route| {
        // What is nobody's is everybody's: no way is lost.
        let is_nobodys = !plan.addresses.iter().any(|address| is_for(address, route));
        address.family() == route.family() && (is_nobodys || is_for(address, route))
    });
    let copy = |route: &Route| Route { table, protocol: PROTOCOL, ..route.clone() };
    let mut routes: Vec<Route> = wanted.map(copy).collect();
    if let Some(gateway) = address.gateway {
        let metric = (address.family() == Family::V6).then_some(METRIC_V6);
        let is_rival = |route: &Route| route.is_default() && route.priority == metric;
        routes.retain(|route| !is_rival(route) || route.gateway == Some(gateway));
        if !routes.iter().any(is_rival) {
            let mut default =
                Route::default_of(address.family()).via(gateway).dev(index).table(table);
            default.priority = metric;
            default.protocol = PROTOCOL;
            routes.push(default);
        }
    }
    routes
}

/// In the main table, the way to each address's subnet says which address to
/// use.
fn hint(routes: &mut Vec<Route>, plan: &Plan, index: u32) {
    for address in plan.addresses.iter().filter(|a| a.net.prefix() < a.family().bits()) {
        let Ok(subnet) = IpNetwork::new(address.net.network(), address.net.prefix()) else {
            continue;
        };
        let is_way = |route: &&mut Route| {
            route.table == TABLE_MAIN && route.dst == subnet && route.gateway.is_none()
        };
        match routes.iter_mut().find(is_way) {
            Some(way) if way.source.is_some() => {}
            Some(way) => {
                way.source = Some(address.ip());
                way.protocol = PROTOCOL;
            }
            None => {
                let scope = match address.family() {
                    Family::V4 => Scope::LINK,
                    Family::V6 => Scope::UNIVERSE,
                };
                let mut way = Route::new(subnet).dev(index).scope(scope).source(address.ip());
                way.priority = (address.family() == Family::V6).then_some(METRIC_V6);
                way.protocol = PROTOCOL;
                routes.push(way);
            }
        }
    }
}

/// Who makes rules without saying who they are, as upstream does.
pub(crate) fn is_nobodys(rule: &Rule) -> bool {
    rule.protocol.is_none_or(|protocol| protocol == RouteProtocol::UNSPEC)
}
