use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn conf(text: &str) -> RangeConf {
    let mut range = RangeConf::default();
    for field in text.split_whitespace() {
        let (key, value) = field.split_once('=').unwrap_or(("subnet", field));
        let ip = || Some(cidr::parse_ip(value).expect(value));
        match key {
            "subnet" => range.subnet = Some(cidr::parse(value).expect(value)),
            "start" => range.range_start = ip(),
            "end" => range.range_end = ip(),
            "gateway" => range.gateway = ip(),
            "exclude" => range.exclude = value.split(',').map(str::to_owned).collect(),
            _ => panic!("{field}"),
        }
    }
    range
}

/// Ranges separated by `|`.
fn set(text: &str) -> Result<RangeSet, String> {
    RangeSet::new(&text.split('|').map(conf).collect::<Vec<_>>())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn defaults_are_filled_in() {
    for (text, range, gateway) in [
        ("10.1.2.0/24", "10.1.2.1-10.1.2.254", "10.1.2.1"),
        ("10.1.2.0/30", "10.1.2.1-10.1.2.2", "10.1.2.1"),
        ("10.1.2.0/24 start=10.1.2.10 end=10.1.2.20", "10.1.2.10-10.1.2.20", "10.1.2.1"),
        ("10.1.2.0/24 gateway=10.9.9.9", "10.1.2.1-10.1.2.254", "10.9.9.9"),
        // The reference accepts these too.
        ("10.1.2.0/24 start=10.1.2.0 end=10.1.2.255", "10.1.2.0-10.1.2.255", "10.1.2.1"),
        ("fd00::/64", "fd00::1-fd00::ffff:ffff:ffff:ffff", "fd00::1"),
        ("fd00::/126", "fd00::1-fd00::3", "fd00::1"),
        ("::/0", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1"),
        ("0.0.0.0/0", "0.0.0.1-255.255.255.254", "0.0.0.1"),
        // In the reference these become IPv4 addresses.
        ("::100:0/112", "::100:1-::100:ffff", "::100:1"),
    ] {
        let set = set(text).expect(text);
        assert_eq!(set.to_string(), range, "{text}");
        assert_eq!(set.0[0].gateway(), ip(gateway), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, culprit) in [
        ("start=10.1.2.3", "its subnet is missing"),
        ("10.1.2.0/31", "network 10.1.2.0/31 is too small"),
        ("fd00::/127", "network fd00::/127 is too small"),
        ("10.1.2.3/24", "prefix of length 24 the network address is 10.1.2.0"),
        ("10.1.2.0/24 gateway=fd00::1", "gateway fd00::1 is not of the family"),
        ("10.1.2.0/24 start=10.1.3.1", "rangeStart 10.1.3.1 is not in network 10.1.2.0/24"),
        ("10.1.2.0/24 start=fd00::1", "rangeStart fd00::1 is not in network"),
        ("10.1.2.0/24 end=10.1.1.1", "rangeEnd 10.1.1.1 is not in network"),
        (
            "10.1.2.0/24 start=10.1.2.9 end=10.1.2.8",
            "rangeStart 10.1.2.9 is after rangeEnd 10.1.2.8",
        ),
        ("10.1.2.0/24 exclude=10.1.2.3,x", "exclude: invalid IP address: x"),
        ("10.1.2.0/24 exclude=10.1.2.0/40", "exclude: invalid CIDR address: 10.1.2.0/40"),
        ("10.1.2.0/24 exclude=10.1.3.0/24", "exclude: 10.1.3.0/24 is not in network 10.1.2.0/24"),
        ("10.1.2.0/24|fd00::/64", "both address families"),
        (
            "10.1.2.0/24|10.1.0.0/16",
            "the ranges 10.1.2.1-10.1.2.254 and 10.1.0.1-10.1.255.254 overlap",
        ),
        ("10.1.0.0/16|10.1.2.0/24", "overlap"),
    ] {
        let error = set(text).expect_err(text);
        assert!(error.contains(culprit), "{text}: {error}");
    }
    assert!(RangeSet::new(&[]).expect_err("empty").contains("empty"));
    // One subnet in parts is fine.
    set("10.1.2.0/24 end=10.1.2.9|10.1.2.0/24 start=10.1.2.10").expect("apart");
}

#[test]
fn the_text_of_an_address_is_gos() {
    // As `net.IP.String` writes them, which is the name of a lease.
    for text in [
        "10.1.2.3",
        "::",
        "::1",
        "fd00::1",
        "1:0:0:2::",
        "::1:0:0:2:0:0",
        "1::2:0:0:3",
        "0:1:2:3:4:5:6:7",
        "1:0:2:3:4:5:6:7",
        "::102:304",
        "64:ff9b::a01:203",
        "fe80::ffff:ffff:ffff:ffff",
    ] {
        let n = number(ip(text));
        assert_eq!(address(n).to_string(), text);
    }
    assert_eq!(address(number(ip("::1.2.3.4"))).to_string(), "::102:304");
}

#[test]
fn what_may_not_be_asked_for_is_told() {
    let set = set("10.1.2.0/24 exclude=10.1.2.16/28,10.1.2.3").expect("valid");
    assert_eq!(set.refusal(ip("10.1.2.4")), None);
    assert_eq!(set.refusal(ip("10.9.2.4")), None, "that is another error");
    let told = |text: &str| set.refusal(ip(text)).expect("refused");
    assert!(told("10.1.2.1").contains("is the gateway"));
    assert!(told("10.1.2.3").contains("is excluded from range 10.1.2.1-10.1.2.254"));
    assert!(told("10.1.2.31").contains("is excluded"));
}

#[test]
fn round_robin_walks_all_ranges_and_ends_where_it_began() {
    let set =
        set("10.0.0.0/29|10.0.1.0/29 start=10.0.1.3|10.0.2.0/29 end=10.0.2.2").expect("valid");
    let mut occupied = Occupancy::default();
    let mut last = Some(number(ip("10.0.1.4")));
    let mut order = Vec::new();
    while let Some(n) = set.next_free(last, &occupied, &|_| false) {
        occupied.insert(n);
        last = Some(n);
        order.push(address(n).to_string());
    }
    let expected =
        "10.0.1.5 10.0.1.6 10.0.2.2 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.1.3 10.0.1.4";
    assert_eq!(order.join(" "), expected);
    // A freed address waits for its turn.
    occupied.remove(number(ip("10.0.1.4")));
    occupied.remove(number(ip("10.0.1.5")));
    assert_eq!(set.next_free(last, &occupied, &|_| false), Some(number(ip("10.0.1.5"))));
}

#[test]
fn a_last_address_outside_begins_anew() {
    let set = set("10.0.0.0/24").expect("valid");
    for last in [None, Some(number(ip("10.0.1.7"))), Some(number(ip("fd00::1")))] {
        let first = set.next_free(last, &Occupancy::default(), &|_| false);
        assert_eq!(first, Some(number(ip("10.0.0.2"))));
    }
}

#[test]
fn ipv6_ranges_never_yield_an_ipv4_address() {
    let set = set("::/64 start=::fffe:ffff:ffff").expect("valid");
    let mut occupied = Occupancy::default();
    occupied.insert(number(ip("::fffe:ffff:ffff")));
    let next = set.next_free(None, &occupied, &|_| false).map(address);
    assert_eq!(next, Some(ip("::1:0:0:0")));
}

/// A set of 1 to 3 small ranges, with the addresses it may yield in order of
/// one lap.
fn small_set() -> impl Strategy<Value = (RangeSet, Vec<u128>)> {
    let range =
        (0_u128..20, 0_u128..60, 0_u128..64, prop::collection::vec((0_u128..64, 24_u8..=32), 0..3));
    (any::<bool>(), prop::collection::vec(range, 1..4)).prop_map(|(v4, ranges)| {
        let mut all = Vec::new();
        let mut confs = Vec::new();
        for (i, (start, length, gateway, exclude)) in ranges.into_iter().enumerate() {
            let base = number(ip(if v4 { "10.0.0.0" } else { "fd00::" })) + ((i as u128) << 8);
            let end = (start + length).min(63);
            let wide = |prefix: u8| if v4 { prefix } else { prefix + 96 };
            let exclude: Vec<(u128, u128, String)> = exclude
                .into_iter()
                .map(|(offset, prefix)| {
                    let size = 1_u128 << (32 - prefix);
                    let first = base + (offset & !(size - 1));
                    let text = format!("{}/{}", address(first), wide(prefix));
                    (first, first + size - 1, text)
                })
                .collect();
            let subnet = IpNetwork::new(address(base), wide(24)).expect("valid");
            confs.push(RangeConf {
                subnet: Some(subnet),
                range_start: Some(address(base + start)),
                range_end: Some(address(base + end)),
                gateway: Some(address(base + gateway)),
                exclude: exclude.iter().map(|e| e.2.clone()).collect(),
            });
            let may = |n: &u128| {
                *n != base + gateway
                    && !exclude.iter().any(|(first, last, _)| (*first..=*last).contains(n))
            };
            all.extend((base + start..=base + end).filter(may));
        }
        (RangeSet::new(&confs).expect("apart"), all)
    })
}

proptest! {
    /// Against a model that tries one address after the other.
    #[test]
    fn the_next_free_address_is_the_first_of_the_lap(
        (set, all) in small_set(),
        taken in prop::collection::btree_set(0_usize..190, 0..150),
        resting in prop::collection::btree_set(0_usize..190, 0..20),
        last in prop::option::of((0_u128..3, 0_u128..70)),
    ) {
        let pick = |chosen: BTreeSet<usize>| -> BTreeSet<u128> {
            chosen.into_iter().filter_map(|i| all.get(i).copied()).collect()
        };
        let (taken, resting) = (pick(taken), pick(resting));
        let mut occupied = Occupancy::default();
        taken.iter().for_each(|n| occupied.insert(*n));
        let base = set.0[0].start >> 8 << 8;
        let last = last.map(|(i, offset)| base + (i << 8) + offset);
        let within = last.filter(|n| set.range_of(address(*n)).is_some());
        // The lap begins behind `last` and ends with it.
        let (before, after): (Vec<u128>, Vec<u128>) = match within {
            Some(last) => all.iter().partition(|n| **n <= last),
            None => (Vec::new(), all.clone()),
        };
        let expected = after.into_iter().chain(before).find(|n| !taken.contains(n) && !resting.contains(n));
        prop_assert_eq!(set.next_free(last, &occupied, &|n| resting.contains(&n)), expected);
    }

    #[test]
    fn numbers_and_addresses_are_each_others_inverse(n: u128, v4: u32) {
        prop_assert_eq!(number(address(n)), n);
        prop_assert_eq!(address(number(IpAddr::V4(v4.into()))), IpAddr::V4(v4.into()));
    }
}
