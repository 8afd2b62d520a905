//! From what the user wrote to what a verb works with. Pure: nothing is read
//! or made here.

use crate::range::{self, RangeConf, RangeSet};
use cni::args::Args;
use cni::{Code, Error, Network, Result, Route, Version, cidr, config};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where leases are unless `dataDir` says otherwise.
pub const DATA_DIR: &str = "/var/lib/cni/networks";

/// In seconds, unless `lockTimeout` says otherwise. A verb holds the lock for
/// a fraction of a millisecond, upstream's program with 10,000 leases for
/// 140 ms; runtimes give up on a verb after minutes.
const LOCK_TIMEOUT: u64 = 30;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    ipam: Option<Ipam>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: RuntimeConfig,
    args: ConfArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "resolvConf")]
    resolv_conf: PathBuf,
    routes: Vec<Route>,
    ranges: Vec<Vec<RangeConf>>,
    // The old form: one range, its keys beside the others.
    #[serde(deserialize_with = "range::subnet")]
    subnet: Option<ipnetwork::IpNetwork>,
    #[serde(rename = "rangeStart", deserialize_with = "cidr::serde_ip_opt::deserialize")]
    range_start: Option<IpAddr>,
    #[serde(rename = "rangeEnd", deserialize_with = "cidr::serde_ip_opt::deserialize")]
    range_end: Option<IpAddr>,
    #[serde(deserialize_with = "cidr::serde_ip_opt::deserialize")]
    gateway: Option<IpAddr>,
    exclude: Vec<String>,
    #[serde(rename = "dataDir")]
    data_dir: String,
    #[serde(rename = "idempotentAdd")]
    idempotent_add: bool,
    #[serde(rename = "releaseCooldown")]
    release_cooldown: u64,
    #[serde(rename = "lockTimeout")]
    lock_timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    #[serde(rename = "ipRanges")]
    ip_ranges: Vec<Vec<RangeConf>>,
    ips: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfArgs {
    cni: CniArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CniArgs {
    ips: Vec<String>,
}

/// Where the leases of a network are, and how they are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) network: String,
    /// How long to wait for the lock.
    pub(crate) lock_timeout: Duration,
    /// How long a released address rests, in seconds.
    pub(crate) cooldown: u64,
}

impl Place {
    fn new(network: &Network, data_dir: &str, lock_timeout: Option<u64>, cooldown: u64) -> Place {
        Place {
            data_dir: if data_dir.is_empty() { DATA_DIR } else { data_dir }.into(),
            network: network.name().as_str().to_owned(),
            lock_timeout: Duration::from_secs(lock_timeout.unwrap_or(LOCK_TIMEOUT)),
            cooldown,
        }
    }

    /// What DEL and GC need, and no more: no mistake in the rest of the
    /// configuration keeps an address from being given back.
    ///
    /// # Errors
    /// `dataDir` is no text: then nobody knows where the leases are.
    pub(crate) fn for_teardown(network: &Network) -> Result<Place> {
        let ipam = config::get(network.document(), "ipam");
        let key = |name: &str| config::get(ipam?, name);
        let seconds = |name: &str| key(name).and_then(|value| value.as_u64());
        let data_dir = match key("dataDir") {
            None => "",
            Some(value) => {
                value.as_str().ok_or_else(|| invalid(network, "ipam.dataDir is not a string"))?
            }
        };
        let cooldown = seconds("releaseCooldown").unwrap_or_default();
        Ok(Place::new(network, data_dir, seconds("lockTimeout"), cooldown))
    }

    /// A network of which nothing but its name is known.
    pub(crate) fn of(data_dir: &Path, network: &str) -> Place {
        Place {
            data_dir: data_dir.to_owned(),
            network: network.to_owned(),
            lock_timeout: Duration::from_secs(LOCK_TIMEOUT),
            cooldown: 0,
        }
    }

    /// The directory with the leases, in upstream's format.
    pub(crate) fn dir(&self) -> PathBuf {
        self.data_dir.join(&self.network)
    }
}

/// What ADD, CHECK and STATUS work with.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) place: Place,
    /// An attachment gets one address of each.
    pub(crate) sets: Vec<RangeSet>,
    /// The address asked for, by set.
    pub(crate) requested: Vec<Option<IpAddr>>,
    pub(crate) routes: Vec<Route>,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) idempotent_add: bool,
}

impl Plan {
    /// # Errors
    /// Code 7, naming the culprit; code 4 for `CNI_ARGS`.
    pub(crate) fn new(network: &Network, args: &str) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let mut ipam = conf.ipam.ok_or_else(|| invalid(network, "ipam is missing"))?;
        let mut requested: Vec<IpAddr> = args_ip(args)?.into_iter().collect();
        let lists =
            [("args.cni.ips", &conf.args.cni.ips), ("runtimeConfig.ips", &conf.runtime_config.ips)];
        for (key, list) in lists {
            for (i, text) in list.iter().enumerate() {
                let ip = address(text).map_err(|e| invalid(network, format!("{key}[{i}]: {e}")))?;
                requested.push(ip);
            }
        }
        let old_form = ipam.subnet.map(|subnet| {
            vec![RangeConf {
                subnet: Some(subnet),
                range_start: ipam.range_start,
                range_end: ipam.range_end,
                gateway: ipam.gateway,
                exclude: std::mem::take(&mut ipam.exclude),
            }]
        });
        let conf_sets: Vec<Vec<RangeConf>> =
            conf.runtime_config.ip_ranges.into_iter().chain(old_form).chain(ipam.ranges).collect();
        let sets = range_sets(network, &conf_sets)?;
        let requested = by_set(&sets, requested).map_err(|e| invalid(network, e))?;
        Ok(Plan {
            place: Place::new(network, &ipam.data_dir, ipam.lock_timeout, ipam.release_cooldown),
            sets,
            requested,
            routes: ipam.routes,
            resolv_conf: Some(ipam.resolv_conf).filter(|path| !path.as_os_str().is_empty()),
            idempotent_add: ipam.idempotent_add,
        })
    }
}

fn range_sets(network: &Network, conf: &[Vec<RangeConf>]) -> Result<Vec<RangeSet>> {
    if conf.is_empty() {
        return Err(invalid(network, "no IP ranges specified: ipam needs a subnet or ranges"));
    }
    let sets: Vec<RangeSet> = conf
        .iter()
        .enumerate()
        .map(|(i, set)| {
            RangeSet::new(set).map_err(|e| invalid(network, format!("invalid range set {i}: {e}")))
        })
        .collect::<Result<_>>()?;
    let v4 = sets.iter().filter(|set| set.is_ipv4()).count();
    if network.version() < Version::V0_3_0 && (v4 > 1 || sets.len() - v4 > 1) {
        let version = network.version();
        return Err(invalid(
            network,
            format!("CNI version {version} does not support more than 1 address per family"),
        ));
    }
    for (j, two) in sets.iter().enumerate() {
        if let Some(i) = sets[..j].iter().position(|one| one.overlaps(two)) {
            return Err(invalid(network, format!("range set {i} overlaps with {j}")));
        }
    }
    Ok(sets)
}

/// Which set each requested address is taken from: every one must have a set
/// of its own.
fn by_set(sets: &[RangeSet], mut requested: Vec<IpAddr>) -> Result<Vec<Option<IpAddr>>, String> {
    let mut seen = Vec::with_capacity(requested.len());
    requested.retain(|ip| !seen.contains(ip) && (seen.push(*ip), true).1);
    let mut by_set = Vec::with_capacity(sets.len());
    for set in sets {
        let found = requested.iter().position(|ip| set.range_of(*ip).is_some());
        let ip = found.map(|at| requested.remove(at));
        if let Some(refusal) = ip.and_then(|ip| set.refusal(ip)) {
            return Err(refusal);
        }
        by_set.push(ip);
    }
    if !requested.is_empty() {
        let left: Vec<String> = requested.iter().map(IpAddr::to_string).collect();
        return Err(format!(
            "failed to allocate all requested IPs: {}: each must lie in a range set of its own",
            left.join(" ")
        ));
    }
    Ok(by_set)
}

/// `IP=10.1.2.3` or `IP=10.1.2.3/24`.
fn args_ip(args: &str) -> Result<Option<IpAddr>> {
    let args = Args::parse(args, &["IP"])?;
    args.get("IP")
        .map(address)
        .transpose()
        .map_err(|e| Error::new(Code::INVALID_ENVIRONMENT, format!("parse CNI_ARGS: IP: {e}")))
}

/// `10.1.2.3`, or `10.1.2.3/24` of which only the address counts.
fn address(text: &str) -> Result<IpAddr, String> {
    match text.contains('/') {
        true => cidr::parse(text).map(|network| network.ip()),
        false => cidr::parse_ip(text),
    }
}

fn invalid(network: &Network, cause: impl std::fmt::Display) -> Error {
    Error::invalid_config(format!(
        "load network configuration {:?}: {cause}",
        network.name().as_str()
    ))
}

#[cfg(test)]
mod tests;
