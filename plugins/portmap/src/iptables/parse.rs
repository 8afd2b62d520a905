//! What stands in the chains, ours and upstream's.

use attach::chained;
use linux::IpNetwork;
use linux::iptables::{Rule, Saved};
use linux::nft::Protocol;
use std::net::{IpAddr, SocketAddr};

use super::{DNAT, START};
use crate::conf::{HostPort, Mapping, Target};
use crate::place::Place;

/// Who a chain belongs to, as its first rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) owner: String,
    place: Option<Place>,
}

/// The end of an error that names the owner of a chain: what helps where nothing tells
/// whether it lives.
pub(super) fn way_out(marker: Option<&Marker>) -> &'static str {
    match marker.and_then(|marker| marker.place.as_ref()) {
        Some(_) => "",
        None => ": nothing tells whether it lives; if not, its DEL or a GC frees the port",
    }
}

impl Marker {
    pub(super) fn read(comment: &str) -> Option<Marker> {
        let owner = chained::key_of(comment)?.to_owned();
        Some(Marker { owner, place: Place::read(comment) })
    }

    /// As `own` sees it, who wants to know.
    pub(super) fn is_alive(&self, own: Option<&Place>) -> bool {
        self.place.as_ref().is_none_or(|place| place.is_alive(own))
    }
}

/// The marker of a chain with these rules; `None` for upstream's.
pub(super) fn marker(rules: &[Rule]) -> Option<Marker> {
    let first = rules.first().filter(|rule| rule.target().is_none())?;
    Marker::read(first.comment_text()?)
}

/// A mapping that is there.
pub(super) struct Mapped<'a> {
    pub(super) chain: &'a str,
    pub(super) marker: Option<Marker>,
    pub(super) mapping: Mapping,
    pub(super) target: IpAddr,
}

impl Mapped<'_> {
    /// The same as if it were to be made, as far as that can be in somebody's way.
    pub(super) fn as_target(&self) -> Target {
        Target {
            address: self.target.into(),
            mappings: vec![self.mapping],
            conditions: Vec::new(),
            at_loopback: false,
        }
    }
}

/// Every mapping that a rule leads to.
pub(super) fn mapped(saved: &Saved) -> impl Iterator<Item = Mapped<'_>> {
    let entries = saved.chain(DNAT).map(|dnat| dnat.rules.as_slice()).unwrap_or_default();
    let is_used = |name: &str| entries.iter().any(|rule| rule.target() == Some(name));
    let chains = saved.chains.iter().filter(move |c| c.name.starts_with(START) && is_used(&c.name));
    chains.flat_map(|chain| {
        let marker = marker(&chain.rules);
        chain.rules.iter().filter_map(move |rule| {
            let (mapping, target) = mapping(rule)?;
            Some(Mapped { chain: &chain.name, marker: marker.clone(), mapping, target })
        })
    })
}

/// The mapping that a rule is.
pub(super) fn mapping(rule: &Rule) -> Option<(Mapping, IpAddr)> {
    if rule.target() != Some("DNAT") {
        return None;
    }
    let to: SocketAddr = after(rule, "--to-destination")?.parse().ok()?;
    Some((Mapping { host: host_of(rule)?, container_port: to.port() }, to.ip()))
}

/// Whether a rule of an attachment's chain is about packets to a port of the host.
pub(super) fn is_for(rule: &Rule, host: &HostPort) -> bool {
    host_of(rule).as_ref() == Some(host)
}

fn host_of(rule: &Rule) -> Option<HostPort> {
    let address = match after(rule, "-d") {
        None => None,
        Some(text) => Some(text.parse::<IpNetwork>().ok()?.ip()),
    };
    let protocol: Protocol = after(rule, "-p")?.parse().ok()?;
    let port = after(rule, "--dport")?.parse().ok()?;
    Some(HostPort { protocol, port, address })
}

fn after<'r>(rule: &'r Rule, option: &str) -> Option<&'r str> {
    let words = rule.as_words();
    let at = words.iter().position(|word| word == option)?;
    words.get(at + 1).map(String::as_str)
}

/// Whether a rule that leads to an attachment's chain is for a port.
pub(super) fn is_entry_of(rule: &Rule, protocol: Protocol, port: u16) -> bool {
    let same = after(rule, "-p").is_some_and(|text| text.parse() == Ok(protocol));
    let ports = after(rule, "--dports").unwrap_or_default();
    same && ports.split(',').any(|text| text.parse() == Ok(port))
}

/// Network and container ID in a comment of upstream's form.
pub(super) fn names(comment: &str) -> Option<(&str, &str)> {
    let rest = comment.strip_prefix("dnat name: \"")?;
    let (network, rest) = rest.split_once("\" id: \"")?;
    Some((network, rest.strip_suffix('"')?))
}

/// Whether a rule with upstream's comment is of a container, on whichever network; not
/// where the names are longer than a comment.
pub(super) fn is_of_container(comment: &str, container_id: &str) -> bool {
    names(comment).is_some_and(|(_, id)| id == container_id)
}

/// The comment of a rule that leads to a chain.
pub(super) fn entry_of<'s>(saved: &'s Saved, chain: &str) -> Option<&'s str> {
    let entries = &saved.chain(DNAT)?.rules;
    entries.iter().find(|rule| rule.target() == Some(chain))?.comment_text()
}

/// Whose a rule with upstream's comment is, for people.
pub(super) fn describe(comment: &str) -> Option<String> {
    let (network, container) = names(comment)?;
    Some(format!("container {container} (network {network})"))
}
