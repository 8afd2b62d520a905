//! What the user wrote, and what it means.

use attach::backend::Backend;
use attach::chained;
use cni::{Code, Error, Network, Request, Result, Success, cidr};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::nft::Protocol;
use serde::Deserialize;
use std::fmt;
use std::net::IpAddr;

/// The bit of the packet mark when none is given: Kubernetes uses 14 and 15,
/// Calico 20 to 31.
const DEFAULT_MARK_BIT: i64 = 13;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    backend: Option<String>,
    snat: Option<bool>,
    #[serde(rename = "masqAll")]
    masq_all: bool,
    #[serde(rename = "markMasqBit")]
    mark_masq_bit: Option<i64>,
    #[serde(rename = "externalSetMarkChain")]
    external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
    #[serde(rename = "runtimeConfig")]
    runtime_config: RuntimeConf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeConf {
    #[serde(rename = "portMappings")]
    port_mappings: Option<Vec<MappingConf>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MappingConf {
    #[serde(rename = "hostPort")]
    host_port: i64,
    #[serde(rename = "containerPort")]
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

/// A port of the host: what can be mapped once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// One address of the host; `None` for all of them.
    pub(crate) address: Option<IpAddr>,
}

/// `tcp port 80`, or `tcp port 80 of 192.0.2.1`.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol, self.port)?;
        match self.address {
            Some(address) => write!(f, " of {address}"),
            None => Ok(()),
        }
    }
}

/// A port of the host and the port of the container it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) host: HostPort,
    pub(crate) container_port: u16,
}

/// Whose source address is rewritten, so that the answers come back the way the
/// questions went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masquerade {
    /// Nobody's (`snat` is false).
    Nobody,
    /// The host's own at its loopback address, and that of the container and
    /// its neighbours, whose packets come from the container's own subnet.
    Locals,
    /// Everybody's (`masqAll`).
    Everybody,
}

/// The mappings to one address of the container.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: IpNetwork,
    pub(crate) mappings: Vec<Mapping>,
    /// In the words of the backend, as the user wrote them.
    pub(crate) conditions: Vec<String>,
    /// Whether programs of the host reach a mapping at 127.0.0.1, which needs
    /// the kernel's leave.
    pub(crate) at_loopback: bool,
}

impl HostPort {
    /// `80/tcp`, or `192.0.2.1:80/tcp`, for the log.
    pub(crate) fn short(&self) -> String {
        match self.address {
            None => format!("{}/{}", self.port, self.protocol),
            Some(address) => {
                format!("{}/{}", std::net::SocketAddr::new(address, self.port), self.protocol)
            }
        }
    }

    /// Whether a packet could be for both.
    pub(crate) fn overlaps(&self, other: &HostPort) -> bool {
        (self.protocol, self.port) == (other.protocol, other.port)
            && (self.address == other.address || self.address.is_none() || other.address.is_none())
    }

    /// Whether no packet is for the other that is not for this one.
    pub(crate) fn covers(&self, other: &HostPort) -> bool {
        self.overlaps(other) && (self.address.is_none() || self.address == other.address)
    }
}

impl Target {
    /// The key that the conditions stand under.
    pub(crate) fn conditions_key(&self) -> &'static str {
        match self.family() {
            Family::V4 => "conditionsV4",
            Family::V6 => "conditionsV6",
        }
    }

    /// Why they cannot be read, or the rules under them be made.
    pub(crate) fn conditions_refused(&self, error: linux::Error) -> Error {
        let is_invalid = error.kind() == linux::ErrorKind::Invalid;
        let error =
            attach::kernel(error).context(format!("map ports under {}", self.conditions_key()));
        if is_invalid { error.with_code(Code::INVALID_CONFIG) } else { error }
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.address.ip())
    }
}

/// What ADD makes and CHECK expects.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) backend: Option<Backend>,
    /// At most one for each family, with at least one mapping.
    pub(crate) targets: Vec<Target>,
    pub(crate) masquerade: Masquerade,
    /// The bit of the packet mark, as a mask.
    pub(crate) mark: u32,
    /// Another program's chain that sets its own mark instead.
    pub(crate) external_mark_chain: Option<String>,
}

/// The host ports of a request, and nothing else: for DEL, which takes what ADD
/// would refuse. `None` where the runtime says that there are none. One that does
/// not say, as after it lost its cache, leaves it to us to find them, as does
/// something that cannot be read.
pub(crate) fn mappings_to_remove(network: &Network) -> Option<Vec<HostPort>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Only {
        #[serde(rename = "runtimeConfig")]
        runtime_config: RuntimeConf,
    }
    let only: Only = network.conf().unwrap_or_default();
    let port = |(at, conf)| mapping(at, conf).ok().map(|mapping| mapping.host);
    match only.runtime_config.port_mappings {
        Some(none) if none.is_empty() => None,
        given => Some(given.unwrap_or_default().iter().enumerate().filter_map(port).collect()),
    }
}

/// What STATUS takes from a configuration.
pub(crate) struct Needs {
    pub(crate) backend: Option<Backend>,
    /// The keys with conditions, which a command of the backend has to read.
    pub(crate) conditions: Vec<(&'static str, Family)>,
    /// A chain of others, by iptables.
    pub(crate) external_mark_chain: Option<String>,
}

impl Needs {
    /// # Errors
    /// Code 7 for what contradicts itself.
    pub(crate) fn of(network: &Network) -> Result<Needs> {
        let conf: Conf = network.conf()?;
        let backend = plan_backend(&conf)?;
        plan_mark(&conf)?;
        let given = conf.conditions().into_iter().filter(|(.., words)| !words.is_empty());
        let conditions = given.map(|(key, family, _)| (key, family)).collect();
        Ok(Needs { backend, conditions, external_mark_chain: conf.external_set_mark_chain })
    }
}

impl Conf {
    /// The conditions of each family, under their key.
    fn conditions(&self) -> [(&'static str, Family, &[String]); 2] {
        [
            ("conditionsV4", Family::V4, self.conditions_v4.as_deref().unwrap_or_default()),
            ("conditionsV6", Family::V6, self.conditions_v6.as_deref().unwrap_or_default()),
        ]
    }
}

impl Plan {
    /// Every port of the host it maps.
    pub(crate) fn hosts(&self) -> Vec<HostPort> {
        let mappings = self.targets.iter().flat_map(|target| &target.mappings);
        mappings.map(|mapping| mapping.host).collect()
    }

    /// The families it maps ports in.
    pub(crate) fn families(&self) -> Vec<Family> {
        self.targets.iter().map(Target::family).collect()
    }

    /// What it maps in a family.
    pub(crate) fn target(&self, family: Family) -> Option<&Target> {
        self.targets.iter().find(|target| target.family() == family)
    }

    /// Decides everything that can be decided without looking at the host.
    /// `None` when there is nothing to map, or the container has no address it
    /// could be mapped to.
    ///
    /// # Errors
    /// Code 7 for what contradicts itself, or cannot be mapped.
    pub(crate) fn new(request: &Request, result: &Success) -> Result<Option<Plan>> {
        let conf: Conf = request.network.conf()?;
        let backend = plan_backend(&conf)?;
        let mark = plan_mark(&conf)?;
        let mappings =
            plan_mappings(conf.runtime_config.port_mappings.as_deref().unwrap_or_default())?;
        let masquerade = match (conf.snat.unwrap_or(true), conf.masq_all) {
            (false, _) => Masquerade::Nobody,
            (true, false) => Masquerade::Locals,
            (true, true) => Masquerade::Everybody,
        };
        let addresses = [Family::V4, Family::V6]
            .map(|family| chained::container_address(request, result, family));
        if mappings.is_empty() || addresses == [None, None] {
            return Ok(None);
        }
        let mut targets = Vec::new();
        let conditions = [conf.conditions_v4, conf.conditions_v6];
        for ((family, address), conditions) in
            [Family::V4, Family::V6].into_iter().zip(addresses).zip(conditions)
        {
            let of_family = |m: &&Mapping| m.host.address.is_none_or(|a| Family::of(a) == family);
            let mappings: Vec<Mapping> = mappings.iter().filter(of_family).copied().collect();
            let Some(address) = address else {
                // An address of the host that nothing can lead away from.
                if let Some(stranded) = mappings.iter().find(|m| m.host.address.is_some()) {
                    return Err(Error::invalid_config(format!(
                        "map {} to the container: the container has no {} address",
                        stranded.host,
                        name(family)
                    )));
                }
                continue;
            };
            if !mappings.is_empty() {
                let at_loopback = family == Family::V4
                    && masquerade != Masquerade::Nobody
                    && mappings.iter().any(|m| m.host.address.is_none_or(|a| a.is_loopback()));
                let conditions = conditions.unwrap_or_default();
                targets.push(Target { address, mappings, conditions, at_loopback });
            }
        }
        let external_mark_chain = conf.external_set_mark_chain;
        Ok(Some(Plan { backend, targets, masquerade, mark, external_mark_chain }))
    }
}

/// As people write it.
pub(crate) fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn invalid(text: impl fmt::Display) -> Error {
    Error::invalid_config(format!("load network configuration: {text}"))
}

/// The bit of the packet mark, as a mask.
fn plan_mark(conf: &Conf) -> Result<u32> {
    if conf.mark_masq_bit.is_some() && conf.external_set_mark_chain.is_some() {
        return Err(invalid("Cannot specify externalSetMarkChain and markMasqBit"));
    }
    let bit = conf.mark_masq_bit.unwrap_or(DEFAULT_MARK_BIT);
    let mark = u32::try_from(bit).ok().and_then(|bit| 1_u32.checked_shl(bit));
    mark.ok_or_else(|| invalid(format!("markMasqBit {bit} must be between 0 and 31")))
}

/// The backend that is named, or the only one that knows the other keys.
fn plan_backend(conf: &Conf) -> Result<Option<Backend>> {
    let named = Backend::named("backend", conf.backend.as_deref())?;
    let mut keys = Vec::new();
    if conf.external_set_mark_chain.is_some() {
        keys.push((Backend::Iptables, "externalSetMarkChain"));
    }
    for (key, _, words) in conf.conditions() {
        if let Some(backend) = syntax(key, words)? {
            check_words(key, words, backend)?;
            keys.push((backend, key));
        }
    }
    let backend = match (named, keys.first()) {
        (Some(named), _) => named,
        (None, Some((backend, _))) => *backend,
        (None, None) => return Ok(None),
    };
    match keys.iter().find(|(needed, _)| *needed != backend) {
        None => Ok(Some(backend)),
        Some((needed, key)) => {
            let name = |backend: Backend| match backend {
                Backend::Nftables => "nftables",
                Backend::Iptables => "iptables",
            };
            let why = match named {
                Some(named) => format!("backend is {}", name(named)),
                None => format!("{} is for {}", keys[0].1, name(backend)),
            };
            Err(invalid(format!("{key} is for {}, and {why}", name(*needed))))
        }
    }
}

/// Whose words conditions are: those of iptables begin with an option.
fn syntax(key: &str, words: &[String]) -> Result<Option<Backend>> {
    match words.first().map(String::as_str) {
        None => Ok(None),
        // It would be no condition at all, and the port open to everybody.
        Some("") => Err(invalid(format!(
            "{key}: the first word is empty: leave the key out where there is no condition"
        ))),
        Some(first) if first.starts_with(['-', '!']) => Ok(Some(Backend::Iptables)),
        Some(_) => Ok(Some(Backend::Nftables)),
    }
}

/// Refuses what would end the rule that nft is given, or hide its rest, and what
/// `iptables-restore` cannot read as a word.
fn check_words(key: &str, words: &[String], backend: Backend) -> Result<()> {
    let ends = |c: char| c.is_control() || matches!(c, ';' | '#' | '\\');
    let is_wrong = |word: &&String| match backend {
        Backend::Nftables => word.contains(ends),
        Backend::Iptables => !linux::iptables::is_word(word),
    };
    match words.iter().find(is_wrong) {
        None => Ok(()),
        Some(word) => Err(invalid(format!("{key}: {word:?} cannot be part of a condition"))),
    }
}

fn plan_mappings(given: &[MappingConf]) -> Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::with_capacity(given.len());
    for (at, conf) in given.iter().enumerate() {
        let mapping = mapping(at, conf)?;
        if let Some(IpAddr::V6(address)) = mapping.host.address
            && address.is_loopback()
        {
            return Err(invalid(format!(
                "{}: hostIP {address} cannot be mapped: the kernel does not route it; use 127.0.0.1",
                place(at)
            )));
        }
        match mappings.iter().find(|earlier| earlier.host == mapping.host) {
            None => mappings.push(mapping),
            Some(same) if *same == mapping => {}
            Some(earlier) => {
                return Err(invalid(format!(
                    "{}: {} leads to port {} of the container already",
                    place(at),
                    mapping.host,
                    earlier.container_port
                )));
            }
        }
    }
    Ok(mappings)
}

fn place(at: usize) -> String {
    format!("runtimeConfig.portMappings[{at}]")
}

fn mapping(at: usize, conf: &MappingConf) -> Result<Mapping> {
    let port = |what: &str, number: i64| match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(invalid(format!(
            "{}: Invalid {what} port number: {number}: it must be between 1 and 65535",
            place(at)
        ))),
    };
    let container_port = port("container", conf.container_port)?;
    let host_port = port("host", conf.host_port)?;
    let known = [(Protocol::TCP, "tcp"), (Protocol::UDP, "udp"), (Protocol::SCTP, "sctp")];
    let named = known.iter().find(|(_, name)| conf.protocol.eq_ignore_ascii_case(name));
    let Some((protocol, _)) = named else {
        return Err(invalid(format!(
            "{}: unknown protocol {:?}: it must be tcp, udp or sctp",
            place(at),
            conf.protocol
        )));
    };
    let address = match conf.host_ip.as_str() {
        "" => None,
        text => match cidr::parse_ip(text) {
            // Of either family: runtimes write 0.0.0.0 where nothing was said.
            Ok(address) if address.is_unspecified() => None,
            Ok(address) if address.is_multicast() => {
                return Err(invalid(format!("{}: hostIP {address} is a group", place(at))));
            }
            Ok(address) => Some(address),
            Err(e) => return Err(invalid(format!("{}: hostIP: {e}", place(at)))),
        },
    };
    Ok(Mapping { host: HostPort { protocol: *protocol, port: host_port, address }, container_port })
}

#[cfg(test)]
mod tests;
