//! What DEL and GC cannot read in the container: whose the rules are, and how
//! the main table was.
//!
//! | what | value |
//! |---|---|
//! | directory | `/run/cni/oxcni/sbr` |
//! | file | `<network>:<container>:<interface>`; none of the three can contain a colon. Longer than a file name can be: `sha512-` and 64 digits |
//! | content | one JSON object, a [`Record`] |
//! | missing | DEL goes by the addresses of the link and of the result, and by marks, see [`crate::routing::Unrecorded`] |
//! | malformed | as if it were missing; ADD replaces it, DEL and GC remove it |

use attach::records::{FILE_NAME_MAX, Origin, Records, Slot, hashed_name};
use attach::saved;
use cni::{AttachmentId, Attachments, NetworkName, Request, Result, config};
use linux::route::Route;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Ends with the boot, as namespaces do.
pub(crate) const DIRECTORY: &str = "/run/cni/oxcni/sbr";

/// An attachment whose packets are routed by their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) origin: Origin,
    pub(crate) rules: Vec<SavedRule>,
    /// Whether the tables were chosen, and are ours.
    pub(crate) own_tables: bool,
    /// Those of the main table on the container's link, as they were.
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SavedRule {
    pub(crate) address: IpAddr,
    pub(crate) table: u32,
}

impl Record {
    /// As JSON, by hand: derived code is some KiB for each type.
    pub(crate) fn text(&self) -> String {
        let rule =
            |rule: &SavedRule| json!({"address": rule.address.to_string(), "table": rule.table});
        let rules: Vec<Value> = self.rules.iter().map(rule).collect();
        let routes: Vec<Value> = self.routes.iter().map(saved::route).collect();
        json!({"origin": self.origin.to_json(), "rules": rules, "ownTables": self.own_tables,
            "routes": routes})
        .to_string()
    }

    pub(crate) fn read(json: &Value) -> Option<Record> {
        let origin = Origin::read(&json["origin"])?;
        let rule = |rule: &Value| {
            Some(SavedRule {
                address: saved::ip(&rule["address"])?,
                table: saved::number(&rule["table"])?,
            })
        };
        let rules = json["rules"].as_array()?.iter().map(rule).collect::<Option<_>>()?;
        let route = |route: &Value| saved::read_route(route, origin.index?);
        let routes = json["routes"].as_array()?.iter().map(route).collect::<Option<_>>()?;
        let own_tables = json["ownTables"].as_bool()?;
        Some(Record { origin, rules, own_tables, routes })
    }
}

/// The record in a file; `None` when it is missing or malformed.
pub(crate) fn of(slot: &Slot) -> Option<Record> {
    Record::read(&config::parse(slot.content()?).ok()?)
}

/// The attachment's file, or the place for it.
///
/// # Errors
/// Code 5.
pub(crate) fn find(records: &Records, request: &Request) -> Result<Slot> {
    records.slot(&file_name(request.network.name(), &request.attachment()))
}

/// The files of attachments to `network` that are not in `valid`.
///
/// # Errors
/// Code 5.
pub(crate) fn invalid(
    records: &Records,
    network: &NetworkName,
    valid: &Attachments,
) -> Result<Vec<Slot>> {
    let mut slots = records.all()?;
    slots.retain(|slot| match of(slot) {
        Some(Record { origin, .. }) => origin.is_invalid(network, valid),
        None => match slot.name().split(':').collect::<Vec<_>>()[..] {
            [of, container_id, ifname] => {
                let attachment =
                    AttachmentId { container_id: container_id.into(), ifname: ifname.into() };
                of == network.as_str() && !valid.contains(&attachment)
            }
            _ => false,
        },
    });
    Ok(slots)
}

fn file_name(network: &NetworkName, attachment: &AttachmentId) -> String {
    let AttachmentId { container_id, ifname } = attachment;
    let plain = format!("{network}:{container_id}:{ifname}");
    if plain.len() <= FILE_NAME_MAX { plain } else { hashed_name(&plain) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::route::{RouteProtocol, Scope};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let origin = json!({"network": "n", "containerID": "c", "ifname": "net1", "ifindex": 7,
            "netns": "/x", "netnsDevice": 4, "netnsInode": 5, "bootID": "6"});
        let net = |text: &str| text.parse().expect("a prefix");
        let ip = |text: &str| text.parse().expect("an address");
        let mut special = Route::new(net("2001:db8::/64")).via(ip("fe80::1")).dev(7).priority(9);
        (special.mtu, special.advmss, special.onlink) = (Some(1300), Some(1200), true);
        special.protocol = RouteProtocol::KERNEL;
        let plain = Route::new(net("10.2.0.0/24")).dev(7).scope(Scope::LINK).source(ip("10.2.0.5"));
        let record = Record {
            origin: Origin::read(&origin).expect("valid"),
            rules: vec![SavedRule { address: ip("10.2.0.5"), table: 100 }],
            own_tables: true,
            routes: vec![special, plain],
        };
        let text = record.text();
        let read = |text: &str| Record::read(&config::parse(text.as_bytes()).expect("JSON"));
        assert_eq!(read(&text), Some(record));
        for (part, damage) in [
            ("\"10.2.0.0/24\"", "5"),
            ("\"10.2.0.5\",\"table\"", "5,\"table\""),
            ("\"ownTables\":true", "\"ownTables\":5"),
            ("\"netns\"", "\"x\""),
        ] {
            assert!(text.contains(part), "{part} in {text}");
            assert_eq!(read(&text.replace(part, damage)), None, "{part}");
        }
    }

    const WHOLE: &str = r#"{"origin":{"network":"n","containerID":"c","ifname":"net1","ifindex":7,
        "netns":"/x","netnsDevice":4,"netnsInode":5,"bootID":"6"},"rules":[{"address":"10.2.0.5",
        "table":100}],"ownTables":true,"routes":[{"dst":"2001:db8::/64","gateway":"fe80::1",
        "source":null,"metric":9,"mtu":1300,"advmss":1200,"scope":0,"protocol":2,"onlink":true}]}"#;

    fn read_text(bytes: &[u8]) -> Option<Record> {
        Record::read(&config::parse(bytes).ok()?)
    }

    #[test]
    fn the_whole_is_read() {
        assert!(read_text(WHOLE.as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn a_damaged_record_is_read_or_none(
            damage in vec((any::<Index>(), any::<u8>()), 0..5),
            end in any::<Index>(),
            noise in vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let cut = &bytes[..end.index(bytes.len())];
            for bytes in [&bytes, cut, &noise] {
                if let Some(record) = read_text(bytes) {
                    prop_assert_eq!(read_text(record.text().as_bytes()), Some(record));
                }
            }
        }
    }
}
