//! What the host had configured on a device and the kernel drops when it is
//! moved. It is in the record, so that it comes back with the device: when the ADD
//! fails or is killed, and by DEL and GC, however long the device was away.
//!
//! Left to others: addresses with a lifetime to who renews them, link-local ones
//! and routes of addresses to the kernel. Lost: queueing disciplines with their
//! filters, routes over several links or of a kind that is not told here, forwarding
//! entries of a bridge, the settings of a bond's port.

use crate::record::Device;
use attach::{kernel, sandbox, saved};
use cni::{Error, Result};
use linux::addr::{Addr, AddrFlags};
use linux::link::{self, Conf};
use linux::neigh::Neigh;
use linux::port::{self, VlanRange};
use linux::route::{Filter, Route, RouteProtocol};
use linux::{Namespace, Socket, addr, neigh, route};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// The most of each list that is recorded: a router may have a million routes.
const RECORDED_MAX: usize = 1000;

/// What there is on a link, around it, and in its folders below /proc/sys/net.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    addresses: Vec<Addr>,
    routes: Vec<Route>,
    /// Those that were set by hand.
    neighbours: Vec<Neigh>,
    sysctls: Conf,
    master: Option<Master>,
}

/// What the device is a port of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Master {
    index: u32,
    /// Of a bridge: how the port is set.
    port: Vec<(String, u32)>,
    vlans: Vec<VlanRange>,
}

impl Surroundings {
    /// What there is.
    ///
    /// # Errors
    /// The kernel's; not found when the device is gone.
    pub(crate) fn of(host: &Socket, device: &Device) -> linux::Result<Surroundings> {
        let index = Some(device.index);
        let master = Master::of(host, device.index)?;
        let mut addresses = addr::list(host, None, index)?;
        addresses.retain(|addr| {
            let is_link_local = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            addr.flags.contains(AddrFlags::PERMANENT) && !is_link_local
        });
        let filter = Filter { family: None, table: None, oif: index };
        let mut routes = route::list(host, filter)?;
        routes.retain(|route| {
            let is_made_anew = [RouteProtocol::KERNEL, RouteProtocol::RA].contains(&route.protocol);
            !is_made_anew && route.next_hops.is_empty() && !route.is_special
        });
        // A gateway can only be used once there is a route to it.
        routes.sort_by_key(|route| route.gateway.is_some());
        let mut neighbours = neigh::list(host, None, index)?;
        neighbours.retain(|neighbour| neighbour.state & Neigh::PERMANENT != 0);
        let sysctls = link::conf(host, device.index)?;
        Ok(Surroundings { addresses, routes, neighbours, sysctls, master })
    }

    /// For the record.
    pub(crate) fn to_json(&self) -> Value {
        fn list<T>(things: &[T], json: fn(&T) -> Value) -> Vec<Value> {
            things.iter().take(RECORDED_MAX).map(json).collect()
        }
        json!({"addresses": list(&self.addresses, saved::addr),
            "routes": list(&self.routes, saved::route),
            "neighbours": list(&self.neighbours, saved::neigh),
            "ipv4": self.sysctls.ipv4, "ipv6": self.sysctls.ipv6, "master": self.master.as_ref().map(Master::to_json)})
    }

    /// From a record, whose malformed parts count for nothing, for a device that may
    /// have been away for long: without the addresses that the host has by now.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn recorded(json: &Value, host: &Socket) -> Result<Surroundings> {
        let mut surroundings = Surroundings::read(json);
        if !surroundings.addresses.is_empty() {
            let present = addr::list(host, None, None).map_err(kernel)?;
            let is_there = |addr: &Addr| present.iter().any(|other| other.ip() == addr.ip());
            surroundings.addresses.retain(|addr| !is_there(addr));
        }
        Ok(surroundings)
    }

    fn read(json: &Value) -> Surroundings {
        fn list<T>(json: &Value, read: fn(&Value, u32) -> Option<T>) -> Vec<T> {
            // The index comes with the link.
            json.as_array().into_iter().flatten().filter_map(|json| read(json, 0)).collect()
        }
        let numbers = |json: &Value| {
            // Their places say what they are: all or none.
            json.as_array()?.iter().map(saved::number).collect::<Option<Vec<_>>>()
        };
        Surroundings {
            addresses: list(&json["addresses"], saved::read_addr),
            routes: list(&json["routes"], saved::read_route),
            neighbours: list(&json["neighbours"], saved::read_neigh),
            sysctls: Conf {
                ipv4: numbers(&json["ipv4"]).unwrap_or_default(),
                ipv6: numbers(&json["ipv6"]).unwrap_or_default(),
            },
            master: Master::read(&json["master"]),
        }
    }

    /// Sets the sysctls of the link `name`: before it comes up, for what the kernel
    /// then does depends on them.
    ///
    /// # Errors
    /// The kernel's, all of them.
    pub(crate) fn restore_sysctls(
        &self,
        host: &Socket,
        home: &Namespace,
        index: u32,
        name: &str,
    ) -> Result<()> {
        let (wanted, present) = (&self.sysctls, link::conf(host, index).map_err(kernel)?);
        let ipv4 = link::restore_conf_v4(host, index, &present, wanted).map_err(kernel);
        // The thread may be in the container.
        let ipv6 = sandbox::inside(home, |_| {
            let refused = link::restore_conf_v6(name, &present, wanted);
            Error::join(refused.into_iter().map(kernel).collect())
        });
        Error::all([ipv4, ipv6])
    }

    /// Puts the rest back on the device, which now has this index.
    ///
    /// # Errors
    /// The kernel's, all of them; it goes on after each.
    pub(crate) fn restore(&self, host: &Socket, index: u32) -> Result<()> {
        let master = self.master.as_ref().map_or(Ok(()), |master| master.restore(host, index));
        let mut messages = Vec::new();
        for addr in &self.addresses {
            let addr = Addr { index, ..addr.clone() };
            if addr.ip().is_ipv6() && !addr.is_tentative() && !addr.is_duplicate() {
                // Nobody is asked again; that must not show on it afterwards.
                messages.push(addr.clone().nodad().replace_message());
            }
            messages.push(addr.replace_message());
        }
        let routes = self.routes.iter().map(|route| Route { oif: Some(index), ..route.clone() });
        messages.extend(routes.map(|route| route.append_message()));
        let neighbours = self.neighbours.iter().map(|neighbour| Neigh { index, ..*neighbour });
        messages.extend(neighbours.map(|neighbour| neighbour.replace_message()));
        let outcomes = host.batch_each(messages).map_err(kernel)?;
        // The kernel may have made one of the routes with its address.
        let refused = outcomes.into_iter().filter_map(linux::Result::err);
        let refused: Vec<_> = refused.filter(|e| !e.is_exists()).map(kernel).collect();
        Error::all([master, Error::join(refused)])
    }
}

impl Master {
    fn of(host: &Socket, index: u32) -> linux::Result<Option<Master>> {
        let link = link::get_by_index(host, index)?;
        let Some(master) = link.master else { return Ok(None) };
        let mut master = Master { index: master, port: Vec::new(), vlans: Vec::new() };
        if link.port.is_some() {
            let settings = port::settings(host, index)?.into_iter();
            master.port = settings.map(|(name, value)| (name.to_owned(), value)).collect();
            master.vlans = port::vlans(host, index)?;
        }
        Ok(Some(master))
    }

    fn to_json(&self) -> Value {
        let port: Map<_, _> =
            self.port.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let vlans = self.vlans.iter().map(|VlanRange { first, last, pvid, untagged }| {
            json!({"first": first, "last": last, "pvid": pvid, "untagged": untagged})
        });
        json!({"index": self.index, "port": port, "vlans": vlans.collect::<Vec<_>>()})
    }

    fn read(json: &Value) -> Option<Master> {
        let number = |json: &Value| u16::try_from(json.as_u64()?).ok();
        let range = |json: &Value| {
            Some(VlanRange {
                first: number(&json["first"])?,
                last: number(&json["last"])?,
                pvid: json["pvid"].as_bool()?,
                untagged: json["untagged"].as_bool()?,
            })
        };
        let port = json["port"].as_object().into_iter().flatten();
        Some(Master {
            index: saved::number(&json["index"])?,
            port: port
                .filter_map(|(name, value)| Some((name.clone(), saved::number(value)?)))
                .collect(),
            vlans: json["vlans"].as_array().into_iter().flatten().filter_map(range).collect(),
        })
    }

    /// Makes the link with this index a port again, set as it was.
    fn restore(&self, host: &Socket, index: u32) -> Result<()> {
        let restore = || {
            link::set_master(host, index, self.index)?;
            if self.port.is_empty() {
                return Ok(());
            }
            port::restore_settings(host, index, &self.port)?;
            let present = port::vlans(host, index)?;
            let lacks = |some: &[VlanRange], others: &[VlanRange]| {
                some.iter().filter(|vlan| !others.contains(vlan)).copied().collect::<Vec<_>>()
            };
            port::delete_vlans(host, index, &lacks(&present, &self.vlans))?;
            port::add_vlans(host, index, &lacks(&self.vlans, &present))
        };
        restore().map_err(|e: linux::Error| kernel(e.context("restore the port")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read() {
        let text = |text: &str| text.to_owned();
        let net = |text: &str| text.parse().expect("a prefix");
        let mut labelled = Addr::new(0, net("10.5.0.7/24"));
        labelled.label = Some(text("ens5:1"));
        let peer = Addr::new(0, net("10.7.0.1/32")).peer("10.7.0.2".parse().expect("one"));
        let mut special = Route::new(net("2001:db8::/64")).dev(0).table(99).priority(9);
        special.mtu = Some(1300);
        let mac = "02:00:5e:10:00:01".parse().expect("one");
        let surroundings = Surroundings {
            addresses: vec![labelled, peer, Addr::new(0, net("2001:db8::7/64")).nodad()],
            routes: vec![special],
            neighbours: vec![Neigh::permanent(0, "10.5.0.9".parse().expect("one"), mac)],
            sysctls: Conf { ipv4: vec![0, 1], ipv6: vec![u32::MAX] },
            master: Some(Master {
                index: 7,
                port: vec![(text("isolated"), 1)],
                vlans: vec![VlanRange::access(5)],
            }),
        };
        assert_eq!(Surroundings::read(&surroundings.to_json()), surroundings);
        for damaged in [json!(null), json!([]), json!({"addresses": [5, {}], "master": 5})] {
            assert_eq!(Surroundings::read(&damaged), Surroundings::default(), "{damaged}");
        }
    }
}
