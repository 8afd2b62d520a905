//! The shapes on the wire, field by field in print order.

use super::Version;
use crate::config::{self, ConfError};
use crate::{Dns, Interface, IpConfig, Route, Success};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io::{self, Write};
use std::net::IpAddr;

fn is_zero(n: &i64) -> bool {
    *n == 0
}

// ---- writing ----

#[derive(Serialize)]
pub(super) struct V0_2<'r> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Ip4Or6<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Ip4Or6<'r>>,
    dns: DnsOld<'r>,
}

#[derive(Serialize)]
struct Ip4Or6<'r> {
    #[serde(with = "crate::cidr::serde_cidr")]
    ip: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::cidr::serde_ip_opt")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteOld<'r>>,
}

#[derive(Serialize)]
pub(super) struct V0_4<'r> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<InterfaceOld<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpOld>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteOld<'r>>,
    dns: DnsOld<'r>,
}

#[derive(Serialize)]
struct InterfaceOld<'r> {
    name: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sandbox: &'r str,
}

#[derive(Serialize)]
struct IpOld {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    #[serde(with = "crate::cidr::serde_cidr")]
    address: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::cidr::serde_ip_opt")]
    gateway: Option<IpAddr>,
}

#[derive(Serialize)]
struct DnsOld<'r> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nameservers: &'r [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    domain: &'r str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    search: &'r [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    options: &'r [String],
}

#[derive(Serialize)]
struct RouteOld<'r> {
    #[serde(with = "crate::cidr::serde_cidr")]
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::cidr::serde_ip_opt")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: i64,
    #[serde(skip_serializing_if = "is_zero")]
    advmss: i64,
    #[serde(skip_serializing_if = "is_zero")]
    priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: &'r Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: &'r Option<i64>,
}

/// Keys in alphabetical order, at every level.
#[derive(Serialize)]
pub(super) struct V1<'r> {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<DnsNew<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<InterfaceNew<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpNew>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteNew<'r>>,
}

#[derive(Serialize)]
struct DnsNew<'r> {
    #[serde(skip_serializing_if = "str::is_empty")]
    domain: &'r str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nameservers: &'r [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    options: &'r [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    search: &'r [String],
}

#[derive(Serialize)]
struct InterfaceNew<'r> {
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'r str,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: i64,
    name: &'r str,
    #[serde(rename = "pciID", skip_serializing_if = "str::is_empty")]
    pci_id: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sandbox: &'r str,
    #[serde(rename = "socketPath", skip_serializing_if = "str::is_empty")]
    socket_path: &'r str,
}

#[derive(Serialize)]
struct IpNew {
    #[serde(with = "crate::cidr::serde_cidr")]
    address: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::cidr::serde_ip_opt")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
}

#[derive(Serialize)]
struct RouteNew<'r> {
    #[serde(skip_serializing_if = "is_zero")]
    advmss: i64,
    #[serde(with = "crate::cidr::serde_cidr")]
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::cidr::serde_ip_opt")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "is_zero")]
    mtu: i64,
    #[serde(skip_serializing_if = "is_zero")]
    priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: &'r Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: &'r Option<i64>,
}

fn dns_old(dns: &Dns) -> DnsOld<'_> {
    DnsOld {
        nameservers: &dns.nameservers,
        domain: &dns.domain,
        search: &dns.search,
        options: &dns.options,
    }
}

fn route_old(r: &Route) -> RouteOld<'_> {
    RouteOld {
        dst: r.dst,
        gw: r.gw,
        mtu: r.mtu,
        advmss: r.advmss,
        priority: r.priority,
        table: &r.table,
        scope: &r.scope,
    }
}

pub(super) fn v0_2(success: &Success, version: Version) -> V0_2<'_> {
    let family = |is_v4: bool| {
        let ip = success.ips.iter().find(|ip| ip.address.is_ipv4() == is_v4)?;
        let routes =
            success.routes.iter().filter(|r| r.dst.is_ipv4() == is_v4).map(route_old).collect();
        Some(Ip4Or6 { ip: ip.address, gateway: ip.gateway, routes })
    };
    V0_2 {
        version: version.as_str(),
        ip4: family(true),
        ip6: family(false),
        dns: dns_old(&success.dns),
    }
}

pub(super) fn v0_4(success: &Success, version: Version) -> V0_4<'_> {
    V0_4 {
        version: version.as_str(),
        interfaces: success
            .interfaces
            .iter()
            .map(|i| InterfaceOld { name: &i.name, mac: &i.mac, sandbox: &i.sandbox })
            .collect(),
        ips: success
            .ips
            .iter()
            .map(|ip| IpOld {
                version: if ip.address.is_ipv4() { "4" } else { "6" },
                interface: ip.interface,
                address: ip.address,
                gateway: ip.gateway,
            })
            .collect(),
        routes: success.routes.iter().map(route_old).collect(),
        dns: dns_old(&success.dns),
    }
}

pub(super) fn v1(success: &Success, version: Version) -> V1<'_> {
    let dns = &success.dns;
    V1 {
        version: version.as_str(),
        dns: (!dns.is_empty()).then_some(DnsNew {
            domain: &dns.domain,
            nameservers: &dns.nameservers,
            options: &dns.options,
            search: &dns.search,
        }),
        interfaces: success
            .interfaces
            .iter()
            .map(|i| InterfaceNew {
                mac: &i.mac,
                mtu: i.mtu,
                name: &i.name,
                pci_id: &i.pci_id,
                sandbox: &i.sandbox,
                socket_path: &i.socket_path,
            })
            .collect(),
        ips: success
            .ips
            .iter()
            .map(|ip| IpNew { address: ip.address, gateway: ip.gateway, interface: ip.interface })
            .collect(),
        routes: success
            .routes
            .iter()
            .map(|r| RouteNew {
                advmss: r.advmss,
                dst: r.dst,
                gw: r.gw,
                mtu: r.mtu,
                priority: r.priority,
                scope: &r.scope,
                table: &r.table,
            })
            .collect(),
    }
}

// ---- reading ----

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadV0_2 {
    ip4: Option<ReadIp4Or6>,
    ip6: Option<ReadIp4Or6>,
    dns: Dns,
}

#[derive(Deserialize)]
struct ReadIp4Or6 {
    #[serde(with = "crate::cidr::serde_cidr")]
    ip: IpNetwork,
    #[serde(default, with = "crate::cidr::serde_ip_opt")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadLater {
    interfaces: Vec<Interface>,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

pub(super) fn read_v0_2(value: &Value) -> Result<Success, ConfError> {
    let read: ReadV0_2 = config::decode(value)?;
    let mut success = Success { dns: read.dns, ..Success::default() };
    for family in [read.ip4, read.ip6].into_iter().flatten() {
        success.ips.push(IpConfig { interface: None, address: family.ip, gateway: family.gateway });
        success.routes.extend(family.routes);
    }
    Ok(success)
}

pub(super) fn read_v0_4_and_later(value: &Value) -> Result<Success, ConfError> {
    let read: ReadLater = config::decode(value)?;
    Ok(Success { interfaces: read.interfaces, ips: read.ips, routes: read.routes, dns: read.dns })
}

// ---- printing ----

/// Go's `json.MarshalIndent` with four spaces.
pub(super) struct GoFormatter(PrettyFormatter<'static>);

impl GoFormatter {
    pub(super) fn new() -> GoFormatter {
        GoFormatter(PrettyFormatter::with_indent(b"    "))
    }
}

impl Formatter for GoFormatter {
    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }

    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }

    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        w: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        escape(w, fragment)
    }
}

/// Writes a part of a string as the reference library does: what could end a
/// script in a page is escaped.
///
/// # Errors
/// The writer's.
pub fn escape<W: ?Sized + Write>(w: &mut W, fragment: &str) -> io::Result<()> {
    let mut rest = fragment;
    while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        let (plain, special) = rest.split_at(at);
        let c = special.chars().next().expect("found just above");
        w.write_all(plain.as_bytes())?;
        write!(w, "\\u{:04x}", u32::from(c))?;
        rest = &special[c.len_utf8()..];
    }
    w.write_all(rest.as_bytes())
}
