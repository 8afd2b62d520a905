//! What the user wrote, and what it means.

use attach::addresses::Uniqueness;
use attach::ipam::Ipam;
use attach::masquerade::Masquerade;
use attach::{mac, mtu};
use cni::args::Args;
use cni::cidr::{DEFAULT_V4, DEFAULT_V6};
use cni::{Dns, Error, IfName, Network, Result, Route, Success};
use linux::link::Mac;
use linux::port::VlanRange;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The name of the bridge when none is given.
const DEFAULT_BRIDGE: &str = "cni0";

/// VLAN IDs that exist: 0 means none, 4095 is reserved (IEEE 802.1Q).
const VLAN_MAX: i64 = 4094;

/// The configuration, key by key.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    bridge: Option<String>,
    #[serde(rename = "isGateway")]
    is_gateway: bool,
    #[serde(rename = "isDefaultGateway")]
    is_default_gateway: bool,
    #[serde(rename = "forceAddress")]
    force_address: bool,
    #[serde(rename = "macspoofchk")]
    mac_spoof_check: bool,
    mtu: i64,
    #[serde(rename = "hairpinMode")]
    hairpin_mode: bool,
    #[serde(rename = "promiscMode")]
    promisc_mode: bool,
    vlan: i64,
    #[serde(rename = "vlanTrunk")]
    vlan_trunk: Option<Vec<Trunk>>,
    #[serde(rename = "preserveDefaultVlan")]
    preserve_default_vlan: bool,
    enabledad: bool,
    #[serde(rename = "disableContainerInterface")]
    disable_container_interface: bool,
    #[serde(rename = "portIsolation")]
    port_isolation: bool,
    dns: Option<DnsConf>,
    args: ArgsConf,
    #[serde(rename = "runtimeConfig")]
    runtime_config: MacConf,
}

/// One entry of `vlanTrunk`: a range, a single ID, or both.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Trunk {
    #[serde(rename = "minID")]
    min_id: Option<i64>,
    #[serde(rename = "maxID")]
    max_id: Option<i64>,
    id: Option<i64>,
}

/// `dns` of the configuration; a list that is given counts even when empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DnsConf {
    nameservers: Option<Vec<String>>,
    domain: String,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ArgsConf {
    cni: MacConf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MacConf {
    mac: String,
}

/// What ADD makes and CHECK expects.
pub(crate) struct Plan {
    pub(crate) bridge: String,
    pub(crate) is_gateway: bool,
    pub(crate) force_address: bool,
    is_default_gateway: bool,
    /// In bytes; `None` is the kernel's choice.
    pub(crate) mtu: Option<u32>,
    pub(crate) hairpin: bool,
    pub(crate) isolated: bool,
    pub(crate) promisc: bool,
    /// The VLANs of the port; `None` on a bridge without VLANs.
    pub(crate) vlans: Option<Vec<VlanRange>>,
    /// The port also keeps the bridge's default VLAN.
    pub(crate) preserve_default_vlan: bool,
    /// The VLAN the gateway is in; 0 for the bridge itself.
    pub(crate) vlan: u16,
    pub(crate) uniqueness: Uniqueness,
    pub(crate) container_up: bool,
    pub(crate) mac: Option<Mac>,
    pub(crate) ipam: Option<Ipam>,
    pub(crate) masquerade: Option<Masquerade>,
    pub(crate) mac_spoof_check: bool,
    /// Instead of the one IPAM gives.
    pub(crate) dns: Option<Dns>,
}

impl Plan {
    /// Decides everything that can be decided without looking at the host.
    ///
    /// # Errors
    /// Code 7 for what contradicts itself, 4 for `CNI_ARGS`.
    pub(crate) fn new(network: &Network, args: &str) -> Result<Plan> {
        let conf: Conf = network.conf()?;
        let ipam = Ipam::of_layer_2(network)?;
        let args = Args::parse(args, &["MAC"])?;
        let invalid = |text: String| Err(Error::invalid_config(text));
        let bridge = conf.bridge.unwrap_or_else(|| DEFAULT_BRIDGE.to_owned());
        if IfName::new(bridge.as_str()).is_err() || bridge.contains('%') {
            return invalid(format!(
                "load network configuration: bridge {bridge:?} must be the name of an interface: 1 to 15 characters, without slash, colon, percent sign and white space"
            ));
        }
        if conf.disable_container_interface && ipam.is_some() {
            return invalid("load network configuration: disableContainerInterface excludes IPAM: a link that is down has no use for addresses".into());
        }
        if conf.hairpin_mode && conf.promisc_mode {
            return invalid("load network configuration: hairpinMode and promiscMode exclude each other: frames would come twice".into());
        }
        let given = [
            conf.runtime_config.mac.as_str(),
            conf.args.cni.mac.as_str(),
            args.get("MAC").unwrap_or_default(),
        ];
        let mac = given.into_iter().find(|mac| !mac.is_empty()).map(mac::parse).transpose()?;
        let vlan = match u16::try_from(conf.vlan) {
            Ok(vlan) if conf.vlan <= VLAN_MAX => vlan,
            _ => {
                return invalid(format!(
                    "load network configuration: vlan {} must be between 0 and {VLAN_MAX}",
                    conf.vlan
                ));
            }
        };
        let vlans = plan_vlans(vlan, conf.vlan_trunk.as_deref())?;
        if vlan != 0 && (conf.is_gateway || conf.is_default_gateway) && ipam.is_some() {
            let name = crate::gateway::vlan_link_name(&bridge, vlan);
            if name.len() > linux::link::NAME_MAX {
                return invalid(format!(
                    "load network configuration: the gateway of VLAN {vlan} would be called {name:?}, longer than 15 characters: use a shorter bridge name"
                ));
            }
        }
        Ok(Plan {
            masquerade: Masquerade::of(network)?,
            mac_spoof_check: conf.mac_spoof_check,
            bridge,
            is_gateway: conf.is_gateway || conf.is_default_gateway,
            is_default_gateway: conf.is_default_gateway,
            force_address: conf.force_address,
            mtu: mtu::parse_of_veth(conf.mtu)?,
            hairpin: conf.hairpin_mode,
            isolated: conf.port_isolation,
            promisc: conf.promisc_mode,
            vlans,
            preserve_default_vlan: conf.preserve_default_vlan,
            vlan,
            uniqueness: if conf.enabledad { Uniqueness::Asked } else { Uniqueness::Known },
            container_up: !conf.disable_container_interface,
            mac,
            ipam,
            dns: conf.dns.and_then(plan_dns),
        })
    }

    /// What IPAM gave, completed: whose addresses they are, gateways, default
    /// routes.
    pub(crate) fn complete(&self, ipam: Success, interface: i64) -> Success {
        let mut success = Success { interfaces: Vec::new(), ..ipam };
        for ip in &mut success.ips {
            ip.interface = Some(interface);
            if self.is_gateway && ip.gateway.is_none() {
                ip.gateway = Some(first_address(ip.address));
            }
        }
        if self.is_default_gateway {
            for default in [DEFAULT_V4, DEFAULT_V6] {
                let gateway = success
                    .ips
                    .iter()
                    .filter_map(|ip| ip.gateway)
                    .find(|gw| gw.is_ipv4() == default.is_ipv4());
                // A default route without gateway gets this one anyway.
                let has_one = success
                    .routes
                    .iter()
                    .any(|r| r.dst == default && r.table.is_none_or(|t| t == 254 || t == 0));
                if let (Some(gateway), false) = (gateway, has_one) {
                    success.routes.push(Route { gw: Some(gateway), ..Route::to(default) });
                }
            }
        }
        success
    }
}

/// The address after the network's: where gateways usually are.
fn first_address(net: ipnetwork::IpNetwork) -> IpAddr {
    match net.network() {
        IpAddr::V4(ip) => IpAddr::V4(u32::from(ip).wrapping_add(1).into()),
        IpAddr::V6(ip) => IpAddr::V6(u128::from(ip).wrapping_add(1).into()),
    }
}

/// The VLANs of a port: its own untagged, the trunk's tagged. With a trunk and
/// no VLAN of its own, untagged frames are in VLAN 1.
fn plan_vlans(vlan: u16, trunk: Option<&[Trunk]>) -> Result<Option<Vec<VlanRange>>> {
    if vlan == 0 && trunk.is_none() {
        return Ok(None);
    }
    let native = if vlan != 0 { vlan } else { 1 };
    let mut tagged = BTreeSet::new();
    for entry in trunk.unwrap_or_default() {
        tagged.extend(entry.ids()?);
    }
    // Untagged wins: the port's own VLAN must stay its own.
    tagged.remove(&native);
    let mut vlans = vec![VlanRange::access(native)];
    vlans.extend(VlanRange::tagged_ranges(tagged));
    Ok(Some(vlans))
}

impl Trunk {
    fn ids(&self) -> Result<Vec<u16>> {
        let invalid = |text: String| {
            Error::invalid_config(format!("load network configuration: vlanTrunk: {text}"))
        };
        let checked = |key: &str, value: i64| {
            u16::try_from(value)
                .ok()
                .filter(|id| (1..=VLAN_MAX).contains(&i64::from(*id)))
                .ok_or_else(|| invalid(format!("incorrect trunk {key} parameter {value}: it must be between 1 and {VLAN_MAX}")))
        };
        let mut ids = Vec::new();
        match (self.min_id, self.max_id) {
            (Some(min), Some(max)) => {
                let (min, max) = (checked("minID", min)?, checked("maxID", max)?);
                if min > max {
                    return Err(invalid(format!("minID {min} is greater than maxID {max}")));
                }
                ids.extend(min..=max);
            }
            (None, None) => {}
            (None, Some(_)) => return Err(invalid("maxID needs a minID".into())),
            (Some(_), None) => return Err(invalid("minID needs a maxID".into())),
        }
        if let Some(id) = self.id {
            ids.push(checked("id", id)?);
        }
        Ok(ids)
    }
}

fn plan_dns(conf: DnsConf) -> Option<Dns> {
    let given = conf.nameservers.is_some()
        || conf.search.is_some()
        || conf.options.is_some()
        || !conf.domain.is_empty();
    given.then(|| Dns {
        nameservers: conf.nameservers.unwrap_or_default(),
        domain: conf.domain,
        search: conf.search.unwrap_or_default(),
        options: conf.options.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
