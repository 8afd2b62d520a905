//! What is an attachment's where no record says so: the record is lost, or upstream's
//! plugin made the attachment, which writes none and marks nothing.

use super::wanted::{FIRST_TABLE, is_nobodys, is_own, is_source_rule};
use super::{PROTOCOL, Routing};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::route::{Route, RouteProtocol, TABLE_MAIN};
use linux::rule::Rule;
use std::net::IpAddr;

/// What is known of it.
pub(crate) struct Unrecorded {
    /// Addresses of the link and of the previous result.
    pub(crate) addresses: Vec<IpNetwork>,
    /// `table` of the configuration.
    pub(crate) table: Option<u32>,
    /// Those that have a default route in the previous result.
    pub(crate) defaults: Vec<Family>,
}

impl Unrecorded {
    /// The rules that DEL removes: those with our mark. Where none has it, those that
    /// are as upstream makes them; the administrator's own have no mark either.
    pub(crate) fn rules(&self, now: &Routing) -> Vec<Rule> {
        let is_meant = |rule: &&Rule| self.table.is_none_or(|table| rule.table == Some(table));
        let find = |is_known: &dyn Fn(&Rule, &IpNetwork) -> bool| {
            let is_known = |rule: &&Rule| self.addresses.iter().any(|net| is_known(rule, net));
            now.rules.iter().filter(is_meant).filter(is_known).cloned().collect::<Vec<_>>()
        };
        let marked = find(&|rule, net| is_own(rule, net.ip()));
        match marked.is_empty() {
            true => find(&|rule, net| self.is_upstreams(now, rule, net)),
            false => marked,
        }
    }

    /// Upstream takes the link's routes from the main table, the kernel's to the
    /// subnet among them, and puts them into a table of its own choice. Where the
    /// table is the configuration's, a rule is all that it makes.
    fn is_upstreams(&self, now: &Routing, rule: &Rule, net: &IpNetwork) -> bool {
        let has_moved = || {
            let is_filled = now.routes.iter().any(|route| Some(route.table) == rule.table);
            rule.table >= Some(FIRST_TABLE) && is_filled && !now.has_way_to_subnet(net)
        };
        is_source_rule(rule, net.ip()) && is_nobodys(rule) && (self.table.is_some() || has_moved())
    }

    /// What our ADD took from the main table, as far as the tables with our mark
    /// tell. Whether a default route came from there, they do not.
    pub(crate) fn moved(&self, now: &Routing) -> Vec<Route> {
        let mut moved: Vec<Route> = Vec::new();
        let was_in_main = |route: &&Route| {
            let is_promised = !route.is_default() || self.defaults.contains(&route.family());
            route.protocol == PROTOCOL && route.table != TABLE_MAIN && is_promised
        };
        for route in now.routes.iter().filter(was_in_main) {
            let is_kernels = self.addresses.iter().any(|net| is_way_to_subnet(route, net));
            let protocol = if is_kernels { RouteProtocol::KERNEL } else { RouteProtocol::BOOT };
            let route = Route { table: TABLE_MAIN, protocol, ..route.clone() };
            if !moved.contains(&route) {
                moved.push(route);
            }
        }
        moved
    }
}

impl Routing {
    /// Whether the main table has the route that the kernel makes with an address.
    fn has_way_to_subnet(&self, net: &IpNetwork) -> bool {
        self.routes.iter().any(|route| {
            let is_kernels = route.protocol == RouteProtocol::KERNEL;
            is_kernels && route.table == TABLE_MAIN && is_way_to_subnet(route, net)
        })
    }
}

fn is_way_to_subnet(route: &Route, net: &IpNetwork) -> bool {
    let network: IpAddr = net.network();
    route.gateway.is_none() && route.dst.ip() == network && route.dst.prefix() == net.prefix()
}
