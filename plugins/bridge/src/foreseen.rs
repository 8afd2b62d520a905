//! The gateways that STATUS can tell before an ADD: those of the ranges of host-local,
//! as the configuration has them. Of what it cannot read nothing is said; the address
//! plugin is the judge of its own configuration.

use cni::{Network, Result};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// The gateways of a network.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Foreseen {
    /// An ADD will have these.
    pub(crate) certain: Vec<IpNetwork>,
    /// It will have one of these: a set has several ranges.
    pub(crate) possible: Vec<IpNetwork>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    ipam: IpamConf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IpamConf {
    #[serde(rename = "type")]
    kind: Value,
    subnet: Value,
    gateway: Value,
    ranges: Value,
}

impl Foreseen {
    /// # Errors
    /// Code 7 when `ipam` is no object.
    pub(crate) fn of(network: &Network) -> Result<Foreseen> {
        Ok(network.conf::<Conf>()?.ipam.foresee())
    }
}

impl IpamConf {
    fn foresee(&self) -> Foreseen {
        let mut foreseen = Foreseen::default();
        if self.kind != "host-local" {
            return foreseen;
        }
        let first = [gateway(&self.subnet, &self.gateway)];
        let sets = self.ranges.as_array().into_iter().flatten().filter_map(Value::as_array);
        let of_range = |range: &Value| gateway(&range["subnet"], &range["gateway"]);
        let sets = sets.map(|set| set.iter().filter_map(of_range).collect());
        let sets = std::iter::once(first.into_iter().flatten().collect()).chain(sets);
        for set in sets {
            let set: Vec<IpNetwork> = set;
            let certain = set.len() == 1;
            (if certain { &mut foreseen.certain } else { &mut foreseen.possible }).extend(set);
        }
        foreseen
    }
}

/// That of a range: the one that is given, or the first address of the subnet.
fn gateway(subnet: &Value, given: &Value) -> Option<IpNetwork> {
    let subnet: IpNetwork = subnet.as_str()?.parse().ok()?;
    let address = match given.as_str() {
        Some(given) if !given.is_empty() => given.parse().ok()?,
        _ => match subnet.network() {
            IpAddr::V4(base) => IpAddr::V4(u32::from(base).checked_add(1)?.into()),
            IpAddr::V6(base) => IpAddr::V6(u128::from(base).checked_add(1)?.into()),
        },
    };
    (address.is_ipv4() == subnet.is_ipv4())
        .then(|| IpNetwork::new(address, subnet.prefix()).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_gateways_of_ranges_are_foreseen() {
        for (ipam, certain, possible) in [
            (json!({"subnet": "10.1.0.0/24"}), vec!["10.1.0.1/24"], vec![]),
            (json!({"subnet": "10.1.0.0/24", "gateway": "10.1.0.9"}), vec!["10.1.0.9/24"], vec![]),
            (
                json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "2001:db8::/64"}]]}),
                vec!["10.1.0.1/24", "2001:db8::1/64"],
                vec![],
            ),
            (
                json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}]]}),
                vec![],
                vec!["10.1.0.1/24", "10.2.0.1/24"],
            ),
            (json!({"type": "static", "subnet": "10.1.0.0/24"}), vec![], vec![]),
            (json!({"subnet": 5, "ranges": {"a": 1}}), vec![], vec![]),
            (json!({"subnet": "10.1.0.0/24", "gateway": "2001:db8::1"}), vec![], vec![]),
            (json!({"ranges": [5, [5, {"subnet": "x"}]]}), vec![], vec![]),
        ] {
            let mut conf = ipam.clone();
            if conf["type"].is_null() {
                conf["type"] = json!("host-local");
            }
            let read: IpamConf = serde_json::from_value(conf).expect("any object");
            let nets = |texts: Vec<&str>| -> Vec<IpNetwork> {
                texts.iter().map(|text| text.parse().expect("a network")).collect()
            };
            let expected = Foreseen { certain: nets(certain), possible: nets(possible) };
            assert_eq!(read.foresee(), expected, "{ipam}");
        }
    }
}
