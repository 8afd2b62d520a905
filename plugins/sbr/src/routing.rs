//! Rules and routes: how they are, how they shall be, and the way from the one
//! to the other.
//!
//! ```text
//! ip rule add from 10.2.0.5 lookup 100 protocol 115
//! ip route add 10.2.0.0/24 dev net1 scope link src 10.2.0.5 table 100 protocol 115
//! ip route add default via 10.2.0.1 dev net1 table 100 protocol 115
//! ip route del 10.2.0.0/24 dev net1                 # and all of net1's in the main table
//! ```
//!
//! What is to be is computed from what is, in pure functions; ADD, DEL and the
//! undo differ only in that.

mod unrecorded;
mod wanted;

use crate::record::Record;
use attach::kernel;
use cni::Result;
use linux::link::LinkInfo;
use linux::netlink::Message;
use linux::route::{self, Filter, Route, RouteKind, RouteProtocol, TABLE_LOCAL};
use linux::rule::{self, Rule};
use linux::{Family, Socket, link};
use std::net::IpAddr;

pub(crate) use unrecorded::Unrecorded;
pub(crate) use wanted::{Wanted, is_nobodys, is_of, is_own, is_source_rule, saved, without};

/// Marks what is ours, like `protocol 115` of iproute2. A number that nobody in
/// its /etc/iproute2/rt_protos has.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol(115);

/// The metric of an IPv6 route that was given none (`IP6_RT_PRIO_USER`,
/// include/uapi/linux/ipv6_route.h at v6.18).
pub(crate) const METRIC_V6: u32 = 1024;

/// All rules, and the routes of one link, of all tables but the kernel's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    pub(crate) rules: Vec<Rule>,
    pub(crate) routes: Vec<Route>,
    /// Tables that somebody uses: in a rule, with a route, for a VRF.
    pub(crate) tables: Vec<u32>,
}

impl Routing {
    /// As it is. Without a link: the rules.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn read(socket: &Socket, index: Option<u32>) -> Result<Routing> {
        let rules = rule::list(socket, None).map_err(kernel)?;
        let all = Filter { family: None, table: None, oif: None };
        let mut routes = route::list(socket, all).map_err(kernel)?;
        let mut tables: Vec<u32> = rules.iter().filter_map(|rule| rule.table).collect();
        tables.extend(routes.iter().map(|route| route.table));
        for link in link::list_kind(socket, "vrf").map_err(kernel)? {
            if let LinkInfo::Vrf { table } = link.info {
                tables.push(table);
            }
        }
        routes.retain(|route| {
            let is_plain = route.kind == RouteKind::UNICAST && route.next_hops.is_empty();
            index.is_some() && route.oif == index && is_plain && route.table != TABLE_LOCAL
        });
        Ok(Routing { rules, routes, tables })
    }

    /// Makes it so, from how it is now. Nothing that stays is touched, and
    /// there is a way at every moment: what is new comes before what is old goes.
    ///
    /// # Errors
    /// The first of the kernel's.
    pub(crate) fn change_to(&self, socket: &Socket, wanted: &Wanted) -> Result<()> {
        let mut old: Vec<&Route> =
            self.routes.iter().filter(|route| !wanted.routes.contains(route)).collect();
        let is_new = |route: &&Route| !self.routes.contains(route);
        let new: Vec<&Route> = wanted.routes.iter().filter(is_new).collect();
        let mut messages: Vec<Message> = Vec::new();
        // A gateway must be within reach when its route is added.
        for route in by_reach(&new) {
            // The kernel takes two that differ in nothing that it looks at for
            // the same: the old one goes first.
            old.retain(|old| {
                let gives_way = is_alike(old, route);
                messages.extend(gives_way.then(|| old.delete_message()));
                !gives_way
            });
            // Another link may have the same route; it stays.
            messages.push(route.append_message());
        }
        let new_rules = wanted.rules.iter().filter(|rule| !self.rules.contains(rule));
        messages.extend(new_rules.map(Rule::add_message));
        let old_rules = self.rules.iter().filter(|rule| !wanted.rules.contains(rule));
        messages.extend(old_rules.map(Rule::delete_message));
        messages.extend(by_reach(&old).rev().map(Route::delete_message));
        if messages.is_empty() {
            return Ok(());
        }
        // There already, or gone already, is as good.
        let is_failure = |error: &linux::Error| !error.is_exists() && !error.is_not_found();
        let outcomes = socket.batch_each(messages).map_err(kernel)?;
        outcomes
            .into_iter()
            .filter_map(Result::err)
            .find(is_failure)
            .map_or(Ok(()), |e| Err(kernel(e)))
    }

    /// Just as it is.
    pub(crate) fn as_wanted(&self) -> Wanted {
        Wanted { rules: self.rules.clone(), routes: self.routes.clone(), moved: Vec::new() }
    }

    /// Those of a record that are there.
    pub(crate) fn rules_in(&self, record: &Record) -> Vec<Rule> {
        let is_recorded = |rule: &&Rule| record.rules.iter().any(|saved| is_of(rule, saved));
        self.rules.iter().filter(is_recorded).cloned().collect()
    }

    /// The rules for an address, whoever made them.
    pub(crate) fn rules_of(&self, address: IpAddr) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| is_source_rule(rule, address))
    }
}

/// Those without a gateway first.
fn by_reach<'a>(routes: &'a [&'a Route]) -> impl DoubleEndedIterator<Item = &'a Route> {
    let with = |has_gateway: bool| {
        routes.iter().copied().filter(move |route| route.gateway.is_some() == has_gateway)
    };
    with(false).chain(with(true))
}

/// Whether the kernel holds only one of the two.
fn is_alike(one: &Route, other: &Route) -> bool {
    let metric = |route: &Route| match route.family() {
        Family::V4 => route.priority.unwrap_or(0),
        Family::V6 => route.priority.unwrap_or(1024),
    };
    one.dst == other.dst
        && one.table == other.table
        && one.oif == other.oif
        && one.gateway == other.gateway
        && metric(one) == metric(other)
}
