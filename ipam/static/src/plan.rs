//! From what is written, in four places, to the addresses that are given.
//!
//! The strongest first; a stronger place replaces the weaker ones:
//!
//! 1. `runtimeConfig.ips` (capability `ips`)
//! 2. `args.cni.ips`
//! 3. `ipam.addresses`, followed by `IP` of `CNI_ARGS`
//!
//! `GATEWAY` of `CNI_ARGS` is the gateway of each address whose subnet holds
//! it, wherever the address came from.

use cni::args::Args;
use cni::{Code, Dns, Error, IpConfig, Network, Result, Route, Version, cidr};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use std::net::IpAddr;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    ipam: Option<Ipam>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: Given,
    args: ConfArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(deserialize_with = "cidr::serde_cidr_opt::deserialize")]
    address: Option<IpNetwork>,
    #[serde(deserialize_with = "cidr::serde_ip_opt::deserialize")]
    gateway: Option<IpAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfArgs {
    cni: Given,
}

/// Addresses somebody asks for: a capability, or a person in `args`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    ips: Vec<Cidr>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
struct Cidr(#[serde(with = "cidr::serde_cidr")] IpNetwork);

/// What a request gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ips: Vec<IpConfig>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

impl Plan {
    /// # Errors
    /// Code 7, naming the culprit: no `ipam`, text that is no address, more
    /// than one address of a family below version 0.3.0. Code 4 for `args`.
    pub(crate) fn new(network: &Network, args: &str) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let ipam = conf.ipam.ok_or_else(|| invalid(network, "ipam is missing"))?;
        let mut ips = configured(network, &ipam.addresses)?;
        // Read even when they are replaced: an error in them is an error.
        let args = Args::parse(args, &["IP", "GATEWAY"])?;
        ips.extend(addresses(&args)?);
        for given in [conf.args.cni, conf.runtime_config] {
            if !given.ips.is_empty() {
                ips = given.ips.iter().map(|ip| ip_config(ip.0)).collect();
            }
        }
        for gateway in gateways(&args)? {
            for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
                ip.gateway = Some(gateway);
            }
        }
        let v4 = ips.iter().filter(|ip| ip.address.is_ipv4()).count();
        if network.version() < Version::V0_3_0 && (v4 > 1 || ips.len() - v4 > 1) {
            let version = network.version();
            return Err(invalid(
                network,
                format!("CNI version {version} does not support more than 1 address per family"),
            ));
        }
        Ok(Plan { ips, routes: ipam.routes, dns: ipam.dns })
    }
}

fn configured(network: &Network, addresses: &[Address]) -> Result<Vec<IpConfig>> {
    let one = |(i, given): (usize, &Address)| match given.address {
        Some(address) => Ok(IpConfig { gateway: given.gateway, ..ip_config(address) }),
        None => Err(invalid(network, format!("ipam.addresses[{i}].address is missing"))),
    };
    addresses.iter().enumerate().map(one).collect()
}

/// `IP=10.1.2.3/24,fd00::3/64`
fn addresses(args: &Args) -> Result<Vec<IpConfig>> {
    let one = |text| {
        let error = |e| format!("IP: {e}: it must have a prefix length, as 10.1.2.3/24");
        cidr::parse(text).map(ip_config).map_err(|e| invalid_args(error(e)))
    };
    list(args.get("IP")).map(one).collect()
}

/// `GATEWAY=10.1.2.1,fd00::1`
fn gateways(args: &Args) -> Result<Vec<IpAddr>> {
    let one = |text| cidr::parse_ip(text).map_err(|e| invalid_args(format!("GATEWAY: {e}")));
    list(args.get("GATEWAY")).map(one).collect()
}

fn list(value: Option<&str>) -> impl Iterator<Item = &str> {
    value.into_iter().flat_map(|value| value.split(',')).map(str::trim)
}

fn ip_config(address: IpNetwork) -> IpConfig {
    IpConfig { interface: None, address, gateway: None }
}

fn invalid(network: &Network, cause: impl std::fmt::Display) -> Error {
    let name = network.name().as_str();
    Error::invalid_config(format!("load network configuration {name:?}: {cause}"))
}

fn invalid_args(cause: String) -> Error {
    Error::new(Code::INVALID_ENVIRONMENT, format!("parse CNI_ARGS: {cause}"))
}
