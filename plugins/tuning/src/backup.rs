//! How everything was before ADD, so that DEL can put it back: one file for each
//! attachment, upstream's in place and format.
//!
//! | what | value |
//! |---|---|
//! | directory | `dataDir`, `/run/cni/tuning` by default |
//! | file | `<container>_<interface>.json`; longer than a file name can be, or another attachment's of this name (`a_b` + `c` and `a` + `b_c`): `sha512-` and 64 digits |
//! | content | one JSON object, a [`Backup`]; upstream's plugin passes over `sysctl` and `oxcni` |
//! | missing | nothing was changed |
//! | malformed | as if it were missing; ADD replaces it, DEL and GC remove it |

use crate::settings::Settings;
use crate::sysctl::Values;
use attach::records::{FILE_NAME_MAX, Origin, Records, Slot, hashed_name};
use cni::{AttachmentId, Attachments, Error, NetworkName, Result, config};
use linux::Namespace;
use serde_json::{Map, Value};

/// Values as they were; only of what was changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backup {
    pub(crate) settings: Settings,
    pub(crate) sysctl: Values,
    /// Whose the values are; upstream's backups do not say.
    pub(crate) origin: Option<Origin>,
}

impl Backup {
    /// The index the link had, if it is known.
    pub(crate) fn link_index(&self) -> Option<u32> {
        self.origin.as_ref()?.index
    }

    /// Are the values those of this namespace? Upstream's do not say, and are
    /// taken for those of the container's.
    pub(crate) fn is_of(&self, namespace: &Namespace) -> bool {
        self.origin.as_ref().is_none_or(|origin| origin.is_of(namespace))
    }

    /// The container's namespace, if it is still there under its path.
    pub(crate) fn namespace(&self) -> Option<Namespace> {
        self.origin.as_ref()?.namespace()
    }

    /// The values of `self`, and those of a later ADD that are not in it: what
    /// was saved first is how it was.
    fn with_later(&self, later: &Backup) -> Backup {
        let mut merged = later.clone();
        if let (Some(mine), Some(origin)) = (&self.origin, &later.origin) {
            if !mine.is_beside(origin) {
                // Of a container of this name that died without a DEL.
                return merged;
            }
            // The link may be another one by now.
            if mine.index.is_none() || mine.index == origin.index {
                merged.settings = self.settings.or(later.settings);
            }
        } else {
            merged.settings = self.settings.or(later.settings);
        }
        merged.sysctl.retain(|(path, _)| self.sysctl.iter().all(|(mine, _)| mine != path));
        merged.sysctl.extend(self.sysctl.iter().cloned());
        merged
    }

    pub(crate) fn read(json: &Value) -> Option<Backup> {
        let number = |key: &str| json[key].as_u64().and_then(|number| u32::try_from(number).ok());
        json.as_object()?;
        let sysctls = json["sysctl"].as_object().into_iter().flatten();
        Some(Backup {
            settings: Settings {
                mac: json["mac"].as_str().and_then(|mac| attach::mac::parse(mac).ok()),
                promisc: json["promisc"].as_bool(),
                mtu: number("mtu"),
                all_multi: json["allmulti"].as_bool(),
                tx_queue_len: number("txQLen"),
            },
            sysctl: sysctls
                .filter_map(|(path, value)| Some((path.clone(), value.as_str()?.to_owned())))
                .collect(),
            origin: Origin::read(&json["oxcni"]),
        })
    }

    /// As upstream writes it: in its order, a key a line.
    pub(crate) fn text(&self) -> String {
        let Settings { mac, promisc, mtu, all_multi, tx_queue_len } = self.settings;
        let sysctls = self.sysctl.iter().cloned().map(|(path, value)| (path, value.into()));
        let sysctls: Map<String, Value> = sysctls.collect();
        let keys = [
            ("mac", mac.map(|mac| mac.to_string().into())),
            ("promisc", promisc.map(Value::from)),
            ("mtu", mtu.map(Value::from)),
            ("allmulti", all_multi.map(Value::from)),
            ("txQLen", tx_queue_len.map(Value::from)),
            ("sysctl", (!sysctls.is_empty()).then_some(Value::Object(sysctls))),
            ("oxcni", self.origin.as_ref().map(Origin::to_json)),
        ];
        let mut text = String::from("{");
        for (key, value) in keys {
            if let Some(value) = value {
                let comma = if text.len() > 1 { "," } else { "" };
                text.push_str(&format!("{comma}\n \"{key}\": {value}"));
            }
        }
        text + "\n}"
    }
}

/// What was saved; `None` when the file is missing or malformed.
pub(crate) fn of(slot: &Slot) -> Option<Backup> {
    Backup::read(&config::parse(slot.content()?).ok()?)
}

/// The attachment's file, or the place for it.
///
/// # Errors
/// Code 5.
pub(crate) fn find(records: &Records, attachment: &AttachmentId) -> Result<Slot> {
    let mut free = None;
    for name in file_names(attachment) {
        let slot = records.slot(&name)?;
        let origin = of(&slot).and_then(|backup| backup.origin);
        if slot.content().is_none() {
            free.get_or_insert(slot);
        } else if origin.is_none_or(|origin| origin.attachment() == attachment) {
            return Ok(slot);
        }
    }
    free.ok_or_else(|| {
        let AttachmentId { container_id, ifname } = attachment;
        Error::internal(format!(
            "save the settings of {ifname} in container {container_id}: the files' names are other attachments'"
        ))
    })
}

/// Saves how things are before an ADD, beside what an earlier one saved.
///
/// # Errors
/// Code 5; then the file is as it was.
pub(crate) fn save(records: &Records, slot: &Slot, backup: &Backup) -> Result<()> {
    let text = match of(slot) {
        Some(earlier) => earlier.with_later(backup).text(),
        None => backup.text(),
    };
    records.write(slot, text.as_bytes())
}

/// The files of attachments to `network` that are not in `valid`. Those that do
/// not say whose they are stay: they may be another network's.
///
/// # Errors
/// Code 5.
pub(crate) fn invalid(
    records: &Records,
    network: &NetworkName,
    valid: &Attachments,
) -> Result<Vec<Slot>> {
    let mut slots = records.all()?;
    slots.retain(|slot| {
        let origin = of(slot).and_then(|backup| backup.origin);
        origin.is_some_and(|origin| origin.is_invalid(network, valid))
    });
    Ok(slots)
}

fn file_names(attachment: &AttachmentId) -> Vec<String> {
    let AttachmentId { container_id, ifname } = attachment;
    let plain = format!("{container_id}_{ifname}.json");
    // A slash occurs in neither.
    let hashed = hashed_name(&format!("{container_id}/{ifname}"));
    match plain.len() <= FILE_NAME_MAX {
        true => vec![plain, hashed],
        false => vec![hashed],
    }
}

#[cfg(test)]
mod tests;
