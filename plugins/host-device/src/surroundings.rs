//! What the host had configured on a device and the kernel drops when it is
//! moved. It is in the record, so that it comes back with the device: when the ADD
//! fails or is killed, and by DEL and GC, however long the device was away.
//!
//! The VLANs of the device stay on the host, where they go down with it, and lose the
//! same. Its macvlans and ipvlans only become deaf.
//!
//! Left to others: addresses with a lifetime to who renews them, link-local ones
//! and routes of addresses to the kernel. Lost: queueing disciplines with their
//! filters, routes over several links or of a kind that is not told here, forwarding
//! entries of a bridge, the settings of a bond's port.

use crate::record::Device;
use attach::{kernel, sandbox, saved};
use cni::{Error, Result};
use linux::addr::{Addr, AddrFlags};
use linux::link::{self, Change, Conf, Link};
use linux::neigh::Neigh;
use linux::port::{self, VlanRange};
use linux::route::{Filter, Route, RouteProtocol};
use linux::{Namespace, Socket, addr, neigh, route};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// The most of each list of the device that is recorded: a router may have a million
/// routes.
const RECORDED_MAX: usize = 1000;

/// The same of all lists of its VLANs together.
const RECORDED_OF_UPPERS: usize = 4000;

/// What there is on a link, around it, and in its folders below /proc/sys/net.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    on_device: OnLink,
    sysctls: Conf,
    master: Option<Master>,
    /// Those that stand on others behind them.
    uppers: Vec<Upper>,
}

/// What goes when a link goes down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OnLink {
    addresses: Vec<Addr>,
    routes: Vec<Route>,
    /// Those that were set by hand.
    neighbours: Vec<Neigh>,
    /// The addresses that are answered for.
    proxies: Vec<Neigh>,
}

/// A link of the host on the device, or on such a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Upper {
    index: u32,
    up: bool,
    /// In bytes; the kernel keeps it at or below the device's.
    mtu: u32,
    /// Of a VLAN.
    on_link: OnLink,
}

/// The kinds of [`Upper`]: those that the kernel leaves on the host when their parent
/// moves, and that depend on it.
const UPPER_KINDS: [&str; 5] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"];

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
        Ok(Surroundings {
            on_device: OnLink::of(host, device.index)?,
            sysctls: link::conf(host, device.index)?,
            master: Master::of(host, device.index)?,
            uppers: Upper::all_of(host, device.index)?,
        })
    }

    /// For the record.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = self.on_device.to_json();
        json["ipv4"] = json!(self.sysctls.ipv4);
        json["ipv6"] = json!(self.sysctls.ipv6);
        json["master"] = json!(self.master.as_ref().map(Master::to_json));
        let mut room = RECORDED_OF_UPPERS;
        let uppers = self.uppers.iter().map(|upper| {
            let mut upper = upper.clone();
            upper.on_link.shorten(&mut room);
            upper.to_json()
        });
        json["uppers"] = uppers.collect();
        json
    }

    /// From a record, whose malformed parts count for nothing, for a device that may
    /// have been away for long: without the addresses that the host has by now.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn recorded(json: &Value, host: &Socket) -> Result<Surroundings> {
        let mut surroundings = Surroundings::read(json);
        let uppers = surroundings.uppers.iter_mut().map(|upper| &mut upper.on_link);
        let mut all: Vec<_> = uppers.chain([&mut surroundings.on_device]).collect();
        all.retain(|on_link| !on_link.addresses.is_empty());
        if !all.is_empty() {
            let present = addr::list(host, None, None).map_err(kernel)?;
            let is_there = |addr: &Addr| present.iter().any(|other| other.ip() == addr.ip());
            all.into_iter().for_each(|on_link| on_link.addresses.retain(|addr| !is_there(addr)));
        }
        Ok(surroundings)
    }

    fn read(json: &Value) -> Surroundings {
        let numbers = |json: &Value| {
            // Their places say what they are: all or none.
            json.as_array()?.iter().map(saved::number).collect::<Option<Vec<_>>>()
        };
        Surroundings {
            on_device: OnLink::read(json),
            sysctls: Conf {
                ipv4: numbers(&json["ipv4"]).unwrap_or_default(),
                ipv6: numbers(&json["ipv6"]).unwrap_or_default(),
            },
            master: Master::read(&json["master"]),
            uppers: read_list(&json["uppers"], Upper::read),
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
        let own = self.on_device.restore(host, index);
        let uppers = self.uppers.iter().map(|upper| upper.restore(host));
        let all = [master, own].into_iter().chain(uppers);
        Error::join(all.filter_map(Result::err).collect())
    }
}

fn list<T>(things: &[T], json: fn(&T) -> Value) -> Value {
    things.iter().take(RECORDED_MAX).map(json).collect()
}

fn read_list<T>(json: &Value, read: fn(&Value) -> Option<T>) -> Vec<T> {
    json.as_array().into_iter().flatten().filter_map(read).collect()
}

impl OnLink {
    /// To what there is room for, which becomes less by it.
    fn shorten(&mut self, room: &mut usize) {
        fn keep<T>(list: &mut Vec<T>, room: &mut usize) {
            list.truncate(*room);
            *room -= list.len();
        }
        keep(&mut self.addresses, room);
        keep(&mut self.routes, room);
        keep(&mut self.neighbours, room);
        keep(&mut self.proxies, room);
    }

    fn of(host: &Socket, index: u32) -> linux::Result<OnLink> {
        let mut addresses = addr::list(host, None, Some(index))?;
        addresses.retain(|addr| {
            let is_link_local = matches!(addr.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
            addr.flags.contains(AddrFlags::PERMANENT) && !is_link_local
        });
        let filter = Filter { family: None, table: None, oif: Some(index) };
        let mut routes = route::list(host, filter)?;
        routes.retain(|route| {
            let is_made_anew = [RouteProtocol::KERNEL, RouteProtocol::RA].contains(&route.protocol);
            !is_made_anew && route.next_hops.is_empty() && !route.is_special
        });
        // A gateway can only be used once there is a route to it.
        routes.sort_by_key(|route| route.gateway.is_some());
        let mut neighbours = neigh::list(host, None, Some(index))?;
        neighbours.retain(|neighbour| neighbour.state & Neigh::PERMANENT != 0);
        let proxies = neigh::list_proxies(host, index)?;
        Ok(OnLink { addresses, routes, neighbours, proxies })
    }

    fn to_json(&self) -> Value {
        json!({"addresses": list(&self.addresses, saved::addr),
            "routes": list(&self.routes, saved::route),
            "neighbours": list(&self.neighbours, saved::neigh),
            "proxies": list(&self.proxies, saved::neigh)})
    }

    /// The index comes with the link.
    fn read(json: &Value) -> OnLink {
        OnLink {
            addresses: read_list(&json["addresses"], |json| saved::read_addr(json, 0)),
            routes: read_list(&json["routes"], |json| saved::read_route(json, 0)),
            neighbours: read_list(&json["neighbours"], |json| saved::read_neigh(json, 0)),
            proxies: read_list(&json["proxies"], |json| saved::read_neigh(json, 0)),
        }
    }

    fn restore(&self, host: &Socket, index: u32) -> Result<()> {
        let mut messages = Vec::new();
        // The kernel lists the first IPv4 address first, and the last IPv6 one.
        let (v4, v6): (Vec<_>, Vec<_>) = self.addresses.iter().partition(|a| a.ip().is_ipv4());
        for addr in v4.into_iter().chain(v6.into_iter().rev()) {
            let addr = Addr { index, ..addr.clone() };
            if addr.ip().is_ipv6() && !addr.is_tentative() && !addr.is_duplicate() {
                // Nobody is asked again; that must not show on it afterwards.
                messages.push(addr.clone().nodad().replace_message());
            }
            messages.push(addr.replace_message());
        }
        let routes = self.routes.iter().map(|route| Route { oif: Some(index), ..route.clone() });
        messages.extend(routes.map(|route| route.append_message()));
        let neighbours = self.neighbours.iter().chain(&self.proxies);
        let neighbours = neighbours.map(|neighbour| Neigh { index, ..*neighbour });
        messages.extend(neighbours.map(|neighbour| neighbour.replace_message()));
        let outcomes = host.batch_each(messages).map_err(kernel)?;
        // The kernel may have made one of the routes with its address.
        let refused = outcomes.into_iter().filter_map(linux::Result::err);
        Error::join(refused.filter(|e| !e.is_exists()).map(kernel).collect())
    }
}

impl Upper {
    fn all_of(host: &Socket, device: u32) -> linux::Result<Vec<Upper>> {
        let mut links = link::list(host)?;
        links.retain(|link| link.link_netns_id.is_none() && is_upper(link));
        let (mut uppers, mut below) = (Vec::new(), vec![device]);
        while let Some(parent) = below.pop() {
            for link in links.iter().filter(|link| link.link == Some(parent)) {
                below.insert(0, link.index);
                let on_link = match link.is_kind("vlan") {
                    true => OnLink::of(host, link.index)?,
                    false => OnLink::default(),
                };
                uppers.push(Upper { index: link.index, up: link.is_up(), mtu: link.mtu, on_link });
            }
        }
        Ok(uppers)
    }

    fn to_json(&self) -> Value {
        let mut json = self.on_link.to_json();
        json["index"] = json!(self.index);
        json["up"] = json!(self.up);
        json["mtu"] = json!(self.mtu);
        json
    }

    fn read(json: &Value) -> Option<Upper> {
        Some(Upper {
            index: saved::number(&json["index"])?,
            up: json["up"].as_bool()?,
            mtu: saved::number(&json["mtu"])?,
            on_link: OnLink::read(json),
        })
    }

    /// A VLAN the kernel sets up when the device comes up, whatever it was before
    /// (`vlan_device_event`, net/8021q/vlan.c at v6.18). Another one has not been down,
    /// but the device has forgotten which frames to take for it (`dev_uc_flush`,
    /// `dev_mc_flush` in `__dev_change_net_namespace`, net/core/dev.c) until it comes up
    /// anew. One that somebody removed meanwhile is none to care for.
    fn restore(&self, host: &Socket) -> Result<()> {
        let link = match link::get_by_index(host, self.index) {
            Ok(link) if is_upper(&link) => link,
            Err(e) if !e.is_not_found() => return Err(kernel(e)),
            _ => return Ok(()),
        };
        let (mut up, mut on_link, mut changes) = (self.up, self.on_link.clone(), Vec::new());
        if !link.is_kind("vlan") {
            up = link.is_up();
            on_link = OnLink::of(host, self.index).map_err(kernel)?;
            changes.push(Change::new(self.index).down().message());
        }
        let change = Change::new(self.index).mtu(self.mtu);
        changes.push(if up { change.up() } else { change.down() }.message());
        let failed = |e: linux::Error| kernel(e.context(format_args!("restore {}", link.name)));
        let changed = host.batch(changes).map_err(failed);
        Error::all([changed, on_link.restore(host, self.index)])
    }
}

fn is_upper(link: &Link) -> bool {
    UPPER_KINDS.into_iter().any(|kind| link.is_kind(kind))
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
    fn a_record_can_be_read_however_much_there_is() {
        let route = |n: u32| {
            let [_, b, c, d] = n.to_be_bytes();
            Route::new(format!("10.{b}.{c}.{d}/32").parse().expect("a prefix")).dev(7)
        };
        let on_link = OnLink { routes: (0..900).map(route).collect(), ..OnLink::default() };
        let upper = |index| Upper { index, up: true, mtu: 1500, on_link: on_link.clone() };
        let much = Surroundings {
            on_device: OnLink { routes: (0..5000).map(route).collect(), ..OnLink::default() },
            uppers: (8..4102).map(upper).collect(),
            ..Surroundings::default()
        };
        let json = much.to_json();
        let length = serde_json::to_vec_pretty(&json).expect("plain").len();
        assert!(length < crate::record::RECORD_MAX / 2, "{length}");
        let read = Surroundings::read(&json);
        assert_eq!(read.uppers.len(), much.uppers.len());
        assert_eq!(read.on_device.routes.len(), RECORDED_MAX);
        let of_uppers: usize = read.uppers.iter().map(|upper| upper.on_link.routes.len()).sum();
        assert_eq!(of_uppers, RECORDED_OF_UPPERS);
    }

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
        special.metrics = vec![(1, 4), (10, 32)];
        special.preference = Some(3);
        labelled.metric = Some(77);
        labelled.protocol = Some(99);
        let ip = "10.5.0.9".parse().expect("one");
        let proxy = Neigh { index: 0, ip, mac: None, state: 0, flags: Neigh::PROXY };
        let on_device = OnLink {
            addresses: vec![labelled, peer, Addr::new(0, net("2001:db8::7/64")).nodad()],
            routes: vec![special],
            neighbours: vec![Neigh::permanent(0, ip, mac)],
            proxies: vec![proxy],
        };
        let upper = Upper { index: 9, up: true, mtu: 1400, on_link: on_device.clone() };
        let surroundings = Surroundings {
            on_device,
            uppers: vec![upper],
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
