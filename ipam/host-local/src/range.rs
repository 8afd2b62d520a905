//! Ranges of addresses and sets of them: what may be handed out, and in which
//! order. Pure arithmetic.
//!
//! An address is a number here, an IPv4 address that of its IPv6-mapped form
//! (`::ffff:a.b.c.d`), so that one order holds for both families.

use crate::occupancy::Occupancy;
use cni::cidr;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The number of an address.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address of a number.
pub(crate) fn address(number: u128) -> IpAddr {
    Ipv6Addr::from(number).to_canonical()
}

/// The numbers that stand for IPv4 addresses.
const MAPPED: (u128, u128) = (0xffff << 32, (0xffff << 32) + 0xffff_ffff);

/// A range as the user wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct RangeConf {
    #[serde(deserialize_with = "subnet")]
    pub(crate) subnet: Option<IpNetwork>,
    #[serde(rename = "rangeStart", deserialize_with = "cidr::serde_ip_opt::deserialize")]
    pub(crate) range_start: Option<IpAddr>,
    #[serde(rename = "rangeEnd", deserialize_with = "cidr::serde_ip_opt::deserialize")]
    pub(crate) range_end: Option<IpAddr>,
    #[serde(deserialize_with = "cidr::serde_ip_opt::deserialize")]
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) exclude: Vec<String>,
}

/// As text, `""` or null. A network of IPv4 addresses in IPv6 form is refused:
/// of which family its addresses should be nobody can tell.
pub(crate) fn subnet<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpNetwork>, D::Error> {
    match Option::<Cow<str>>::deserialize(d)? {
        Some(text) if !text.is_empty() => match cidr::parse(&text).map_err(D::Error::custom)? {
            v4 if v4.is_ipv4() && text.contains(':') => Err(D::Error::custom(format_args!(
                "{text} is a network of IPv4 addresses in IPv6 form: write {v4}"
            ))),
            network => Ok(Some(network)),
        },
        _ => Ok(None),
    }
}

/// A range with all its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    subnet: IpNetwork,
    gateway: IpAddr,
    /// First and last, both may be handed out.
    start: u128,
    end: u128,
    /// Inside, but never handed out: sorted, apart from each other.
    holes: Vec<(u128, u128)>,
}

impl Range {
    /// Fills in what is not given: the gateway and the start are the first
    /// address after the network's, the end is the last one, for IPv4 the one
    /// before the broadcast address.
    pub(crate) fn new(conf: &RangeConf) -> Result<Range, String> {
        let subnet = conf.subnet.ok_or("its subnet is missing")?;
        let v4 = subnet.is_ipv4();
        if subnet.prefix() > if v4 { 30 } else { 126 } {
            return Err(format!("network {subnet} is too small to allocate from"));
        }
        if subnet.ip() != subnet.network() {
            return Err(format!(
                "network {subnet} has host bits set: for a prefix of length {} the network address is {}",
                subnet.prefix(),
                subnet.network()
            ));
        }
        let (first, last) = bounds(subnet);
        let gateway = conf.gateway.unwrap_or_else(|| address(first + 1));
        if gateway.is_ipv4() != v4 {
            return Err(format!("gateway {gateway} is not of the family of network {subnet}"));
        }
        let end = conf.range_end.map_or(if v4 { last - 1 } else { last }, number);
        let start = conf.range_start.map_or(first + 1, number);
        let inside = |n| (first..=last).contains(&n);
        if !inside(start) {
            return Err(format!("rangeStart {} is not in network {subnet}", address(start)));
        }
        if !inside(end) {
            return Err(format!("rangeEnd {} is not in network {subnet}", address(end)));
        }
        if start > end {
            let (start, end) = (address(start), address(end));
            return Err(format!("rangeStart {start} is after rangeEnd {end} in network {subnet}"));
        }
        let mut holes = vec![(number(gateway), number(gateway))];
        for text in &conf.exclude {
            holes.push(exclude(text, subnet)?);
        }
        if !v4 {
            holes.push(MAPPED);
        }
        Ok(Range { subnet, gateway, start, end, holes: merge(holes) })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        (self.start..=self.end).contains(&number(ip))
    }

    /// Inside, but the gateway's or excluded.
    fn hole_at(&self, n: u128) -> Option<(u128, u128)> {
        let after = self.holes.partition_point(|hole| hole.0 <= n);
        let hole = *self.holes.get(after.checked_sub(1)?)?;
        (n <= hole.1).then_some(hole)
    }

    /// The first address of `from..=to` that is not occupied, no hole, and not
    /// to be skipped.
    fn first_free(
        &self,
        (from, to): (u128, u128),
        occupied: &Occupancy,
        skip: &dyn Fn(u128) -> bool,
    ) -> Option<u128> {
        let mut at = from;
        loop {
            at = occupied.first_free(at, to)?;
            at = match self.hole_at(at) {
                Some((_, end)) => end.checked_add(1)?,
                None if skip(at) => at.checked_add(1)?,
                None => return Some(at),
            };
            if at > to {
                return None;
            }
        }
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// `ip` with the length of the subnet's prefix.
    pub(crate) fn network_of(&self, ip: IpAddr) -> IpNetwork {
        IpNetwork::new(ip, self.subnet.prefix()).expect("the prefix is of the same family")
    }
}

/// `10.1.2.2-10.1.2.254`
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", address(self.start), address(self.end))
    }
}

/// Ranges that back each other up: an attachment gets one address of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

impl RangeSet {
    pub(crate) fn new(conf: &[RangeConf]) -> Result<RangeSet, String> {
        let ranges: Vec<Range> = conf.iter().map(Range::new).collect::<Result<_, _>>()?;
        let first = ranges.first().ok_or("it is empty")?;
        if ranges.iter().any(|range| range.subnet.is_ipv4() != first.subnet.is_ipv4()) {
            return Err("it has ranges of both address families".to_owned());
        }
        for (i, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges[..i].iter().find(|other| overlap(one, other)) {
                return Err(format!("the ranges {other} and {one} overlap"));
            }
        }
        Ok(RangeSet(ranges))
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.0[0].subnet.is_ipv4()
    }

    pub(crate) fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|one| other.0.iter().any(|two| overlap(one, two)))
    }

    /// The range `ip` lies in.
    pub(crate) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// Why `ip`, which lies in the set, may not be asked for.
    pub(crate) fn refusal(&self, ip: IpAddr) -> Option<String> {
        let range = self.range_of(ip)?;
        if ip == range.gateway {
            return Some(format!("requested IP address {ip} is the gateway of its subnet"));
        }
        let hole = range.hole_at(number(ip));
        hole.map(|_| format!("requested IP address {ip} is excluded from range {range}"))
    }

    /// Round robin: the first free address after `last`, walking all ranges
    /// and ending with `last` itself; from the start of the first range when
    /// there is no `last`, or it lies in no range.
    pub(crate) fn next_free(
        &self,
        last: Option<u128>,
        occupied: &Occupancy,
        skip: &dyn Fn(u128) -> bool,
    ) -> Option<u128> {
        self.lap(last).find_map(|(range, part)| range.first_free(part, occupied, skip))
    }

    /// The parts of the ranges in the order they are tried.
    fn lap(&self, last: Option<u128>) -> impl Iterator<Item = (&Range, (u128, u128))> {
        let count = self.0.len();
        let within =
            last.and_then(|n| Some((self.0.iter().position(|r| r.start <= n && n <= r.end)?, n)));
        let begin = within.map_or(0, |(i, _)| i);
        let rest_of_first = match within {
            Some((i, n)) => {
                Some((&self.0[i], (n.saturating_add(1), self.0[i].end))).filter(|(r, _)| n < r.end)
            }
            None => Some((&self.0[0], (self.0[0].start, self.0[0].end))),
        };
        let others = (1..count).map(move |i| &self.0[(begin + i) % count]);
        let back_to_last = within.map(|(i, n)| (&self.0[i], (self.0[i].start, n)));
        rest_of_first
            .into_iter()
            .chain(others.map(|range| (range, (range.start, range.end))))
            .chain(back_to_last)
    }
}

/// `10.1.2.2-10.1.2.9,10.1.3.2-10.1.3.9`
impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// First and last number of a subnet.
fn bounds(subnet: IpNetwork) -> (u128, u128) {
    (number(subnet.network()), number(subnet.broadcast()))
}

fn overlap(one: &Range, two: &Range) -> bool {
    one.start <= two.end && two.start <= one.end
}

/// `10.1.2.3` or `10.1.2.16/28`: first and last number.
fn exclude(text: &str, subnet: IpNetwork) -> Result<(u128, u128), String> {
    let (first, last) = match text.contains('/') {
        true => bounds(cidr::parse(text).map_err(|e| format!("exclude: {e}"))?),
        false => {
            let n = number(cidr::parse_ip(text).map_err(|e| format!("exclude: {e}"))?);
            (n, n)
        }
    };
    let (from, to) = bounds(subnet);
    if last < from || to < first {
        return Err(format!("exclude: {text} is not in network {subnet}"));
    }
    Ok((first, last))
}

/// Sorts, and joins those that touch.
fn merge(mut holes: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    holes.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(holes.len());
    for hole in holes {
        match merged.last_mut() {
            Some(before) if hole.0 <= before.1.saturating_add(1) => before.1 = before.1.max(hole.1),
            _ => merged.push(hole),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
