//! Addresses, routes and neighbours of a link as JSON, for records. Written and
//! read by hand: derived code is some KiB for each type. Which link, the record
//! knows.

use ipnetwork::IpNetwork;
use linux::addr::{Addr, AddrFlags};
use linux::link::Mac;
use linux::neigh::Neigh;
use linux::route::{Route, RouteKind, RouteProtocol, Scope, TABLE_MAIN};
use serde_json::{Value, json};
use std::net::IpAddr;

/// A route by one link; ways over several links are left out.
pub fn route(route: &Route) -> Value {
    json!({"dst": route.dst.to_string(), "gateway": text(route.gateway),
        "source": text(route.source), "metric": route.priority, "mtu": route.mtu,
        "advmss": route.advmss, "metrics": route.metrics, "preference": route.preference, "scope": route.scope.0, "protocol": route.protocol.0,
        "onlink": route.onlink, "table": route.table, "kind": route.kind.0})
}

/// [`route`] again, by the link with this index; `None` when it is malformed.
pub fn read_route(json: &Value, index: u32) -> Option<Route> {
    let byte = |key: &str| u8::try_from(number(&json[key])?).ok();
    let metric = |pair: &Value| Some((u16::try_from(number(&pair[0])?).ok()?, number(&pair[1])?));
    Some(Route {
        gateway: ip(&json["gateway"]),
        source: ip(&json["source"]),
        priority: number(&json["metric"]),
        mtu: number(&json["mtu"]),
        advmss: number(&json["advmss"]),
        metrics: json["metrics"].as_array().into_iter().flatten().filter_map(metric).collect(),
        preference: byte("preference"),
        scope: Scope(byte("scope")?),
        protocol: RouteProtocol(byte("protocol")?),
        onlink: json["onlink"].as_bool()?,
        table: number(&json["table"]).unwrap_or(TABLE_MAIN),
        kind: byte("kind").map_or(RouteKind::UNICAST, RouteKind),
        ..Route::new(net(&json["dst"])?).dev(index)
    })
}

/// An address.
pub fn addr(addr: &Addr) -> Value {
    json!({"address": addr.net.to_string(), "peer": text(addr.peer), "scope": addr.scope.0,
        "flags": addr.flags.0, "broadcast": text(addr.broadcast.map(IpAddr::V4)),
        "label": addr.label, "metric": addr.metric, "protocol": addr.protocol})
}

/// [`addr`] again, on the link with this index; `None` when it is malformed.
pub fn read_addr(json: &Value, index: u32) -> Option<Addr> {
    let broadcast = match ip(&json["broadcast"]) {
        Some(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    };
    Some(Addr {
        peer: ip(&json["peer"]),
        scope: Scope(u8::try_from(number(&json["scope"])?).ok()?),
        flags: AddrFlags(number(&json["flags"])?),
        broadcast,
        label: json["label"].as_str().map(str::to_owned),
        metric: number(&json["metric"]),
        protocol: number(&json["protocol"]).and_then(|number| number.try_into().ok()),
        ..Addr::new(index, net(&json["address"])?)
    })
}

/// A neighbour that was set by hand, or an address that is answered for.
pub fn neigh(neigh: &Neigh) -> Value {
    json!({"ip": neigh.ip.to_string(), "mac": neigh.mac.map(|mac| mac.to_string()),
        "flags": neigh.flags})
}

/// [`neigh`] again, on the link with this index; `None` when it is malformed.
pub fn read_neigh(json: &Value, index: u32) -> Option<Neigh> {
    let mac = json["mac"].as_str().and_then(|text| text.parse::<Mac>().ok());
    let flags = number(&json["flags"]).and_then(|number| number.try_into().ok()).unwrap_or(0);
    let state = if flags & Neigh::PROXY == 0 { Neigh::PERMANENT } else { 0 };
    Some(Neigh { index, ip: ip(&json["ip"])?, mac, state, flags })
}

/// A number that fits; `None` for anything else.
pub fn number(json: &Value) -> Option<u32> {
    json.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// An address; `None` for anything else.
pub fn ip(json: &Value) -> Option<IpAddr> {
    json.as_str()?.parse().ok()
}

fn net(json: &Value) -> Option<IpNetwork> {
    json.as_str()?.parse().ok()
}

fn text(ip: Option<IpAddr>) -> Option<String> {
    ip.map(|ip| ip.to_string())
}
