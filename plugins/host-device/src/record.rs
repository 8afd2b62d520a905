//! What must outlive a crash so that a device can be given back: one file for
//! each attachment, written before the device is moved, removed when it is
//! home.
//!
//! | what | value |
//! |---|---|
//! | directory | `/var/lib/cni/oxcni/host-device` |
//! | file | `<network>:<container>:<interface>`; none of the three can contain a colon. Longer than a file name can be: `sha512-` and the first 64 digits |
//! | content | one JSON object, a [`Record`] |
//! | missing | DEL goes by the alias of the device, as the reference plugin does |
//! | malformed | as if it were missing; DEL and GC remove it |

use crate::recognise;
use attach::records::{FILE_NAME_MAX, boot_id, hashed_name};
use cni::{AttachmentId, Attachments, Code, Error, Network, Request, Result};
use linux::Namespace;
use linux::link::{self, Link};
use linux::netns::{NamespaceId, Trace};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use store::{Dir, Kind};

pub(crate) const DIRECTORY: &str = "/var/lib/cni/oxcni/host-device";

/// Permissions of what is made below /var/lib.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o600;

/// Bytes of the longest record: eight thousand addresses, routes and neighbours of
/// some 400 bytes each, of the device and of its VLANs, and four thousand of these.
pub(crate) const RECORD_MAX: usize = 16 << 20;

/// Bytes kept free for the index in the container, which is written in the
/// place of `null` later.
const ROOM: usize = 16;

/// An attachment that has a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) network: String,
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    /// `CNI_NETNS` of the ADD.
    pub(crate) netns: String,
    netns_device: u64,
    netns_inode: u64,
    /// Of [`Trace`]; 0 in records of older builds as well.
    #[serde(default)]
    netns_id: u64,
    /// A device does not stay in a container over a reboot.
    boot_id: String,
    /// What is lent; `None` when a program in user space drives it, and there
    /// was nothing to move.
    pub(crate) device: Option<Device>,
    /// In user space: its address on the PCI bus.
    #[serde(rename = "pciBusID")]
    pub(crate) pci_bus_id: Option<String>,
    /// [`Surroundings`](crate::surroundings::Surroundings) of the device.
    #[serde(default)]
    pub(crate) surroundings: Value,
}

/// A device as it was on the host, and what it can be recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) alt_names: Vec<String>,
    pub(crate) alias: Option<String>,
    /// Its index on the host.
    pub(crate) index: u32,
    /// Its index in the container, once it has arrived there.
    pub(crate) container_index: Option<u32>,
    pub(crate) mac: Option<String>,
    /// The address burnt into the hardware, where there is one.
    pub(crate) permanent_mac: Option<String>,
    /// The kind of a virtual link. `None` is hardware, which comes back to
    /// the host when its namespace ends; a virtual link ends with it.
    pub(crate) kind: Option<String>,
    pub(crate) up: bool,
    /// In bytes.
    pub(crate) mtu: u32,
    /// In packets.
    pub(crate) tx_queue_len: u32,
    pub(crate) promisc: bool,
    /// [`SETTABLE_FLAGS`](linux::link::SETTABLE_FLAGS) and the link's group; `None` in
    /// records of older builds.
    pub(crate) flags: Option<u32>,
    pub(crate) group: Option<u32>,
    /// The hardware's directory below /sys/devices.
    pub(crate) hardware: Option<PathBuf>,
}

impl Device {
    /// The device whose link on the host is `link`.
    pub(crate) fn of(link: &Link, hardware: Option<PathBuf>) -> Device {
        Device {
            name: link.name.clone(),
            alt_names: link.alt_names.clone(),
            alias: link.alias.clone(),
            index: link.index,
            container_index: None,
            mac: link.mac.map(|mac| mac.to_string()),
            permanent_mac: link.perm_mac.map(|mac| mac.to_string()),
            kind: link.kind.clone(),
            up: link.is_up(),
            mtu: link.mtu,
            tx_queue_len: link.tx_queue_len,
            promisc: link.is_promisc(),
            flags: Some(link.flags & link::SETTABLE_FLAGS),
            group: Some(link.group),
            hardware,
        }
    }

    /// Does another record mean the same device?
    pub(crate) fn is_same(&self, other: &Device) -> bool {
        let equal = |one: &Option<String>, two: &Option<String>| one.is_some() && one == two;
        let hardware = self.hardware.is_some() && self.hardware == other.hardware;
        self.kind == other.kind
            && self.permanent_mac == other.permanent_mac
            && (hardware || (self.name == other.name && equal(&self.mac, &other.mac)))
    }
}

impl Record {
    /// Nothing is written yet.
    ///
    /// # Errors
    /// The boot has no identity: /proc is not mounted.
    pub(crate) fn new(
        request: &Request,
        namespace: &Namespace,
        device: Option<Device>,
        pci_bus_id: Option<String>,
    ) -> Result<Record> {
        let AttachmentId { container_id, ifname } = request.attachment();
        let NamespaceId { dev, ino } = namespace.id();
        Ok(Record {
            network: request.network.name().to_string(),
            container_id,
            ifname,
            netns: request.sandbox(),
            netns_device: dev,
            netns_inode: ino,
            netns_id: namespace.trace().map_or(0, |trace| trace.id),
            boot_id: boot_id()?,
            device,
            pci_bus_id,
            surroundings: Value::Null,
        })
    }

    pub(crate) fn attachment(&self) -> AttachmentId {
        AttachmentId { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }

    /// Is it of a boot before this one? Then the device is where it was before
    /// ADD, and so is all its state.
    pub(crate) fn is_of_another_boot(&self) -> Result<bool> {
        Ok(self.boot_id != boot_id()?)
    }

    /// The container's namespace, under its path or wherever else it lives on.
    pub(crate) fn namespace(&self) -> Result<Option<Namespace>> {
        if self.is_of_another_boot()? {
            return Ok(None);
        }
        let under_its_path = Namespace::open(&self.netns).ok().filter(|it| self.is_in(it));
        Ok(under_its_path.or_else(|| self.namespace_elsewhere()))
    }

    /// Is it the container's namespace?
    pub(crate) fn is_in(&self, namespace: &Namespace) -> bool {
        let id = NamespaceId { dev: self.netns_device, ino: self.netns_inode };
        let is_another = |trace: Trace| ![0, self.netns_id].contains(&trace.id);
        let is_known = self.netns_id != 0;
        namespace.id() == id && !(is_known && namespace.trace().is_some_and(is_another))
    }

    /// One about to end may be there for a moment, and before Linux 6.18 another one may
    /// have its number: the device tells.
    fn namespace_elsewhere(&self) -> Option<Namespace> {
        let trace = Trace { number: self.netns_inode.try_into().ok()?, id: self.netns_id };
        let found = trace.open().filter(|it| self.is_in(it))?;
        let Some(device) = &self.device else { return Some(found).filter(|_| trace.id != 0) };
        let links = link::list(&found.route_socket().ok()?).ok()?;
        recognise::in_container(device, &self.ifname, &links)?;
        Some(found)
    }

    /// Writes it: whole, or not at all. One that an earlier ADD left is
    /// replaced.
    ///
    /// # Errors
    /// Code 5.
    pub(crate) fn write(&self) -> Result<()> {
        let mut text = self.text()?;
        text.resize(text.len() + ROOM, b' ');
        let directory = Dir::create(DIRECTORY, DIRECTORY_MODE).map_err(stored)?;
        let name = self.file_name();
        directory.remove(&name).map_err(stored)?;
        directory.put(&name, FILE_MODE, &text).map_err(|e| {
            stored(e.hint("without a record the device could not be given back after a crash"))
        })
    }

    /// Writes what is known now, in place and in one call, so that a killed
    /// ADD leaves the old record or the new one.
    ///
    /// # Errors
    /// Code 5.
    pub(crate) fn update(&self) -> Result<()> {
        let mut text = self.text()?;
        let directory = Dir::open(DIRECTORY).map_err(stored)?;
        let file = directory.open_data(self.file_name()).map_err(stored)?;
        // White space behind a JSON text means nothing.
        let length = usize::try_from(file.length()).unwrap_or_default();
        text.resize(text.len().max(length), b' ');
        file.write_at(0, &text).map_err(stored)
    }

    fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal(format!("write the record of the device: {e}")))
    }

    fn file_name(&self) -> String {
        file_name(&self.network, &self.attachment())
    }

    /// Removes it; that it is gone already is fine.
    ///
    /// # Errors
    /// Code 5.
    pub(crate) fn remove(&self) -> Result<()> {
        remove(&self.network, &self.attachment())
    }

    /// Who has the device, for errors.
    pub(crate) fn holder(&self) -> String {
        format!(
            "container {} of network {} has it as {} in {}",
            self.container_id, self.network, self.ifname, self.netns
        )
    }
}

/// The record of the request's attachment. One that is malformed is none.
///
/// # Errors
/// Code 5.
pub(crate) fn of(request: &Request) -> Result<Option<Record>> {
    let Some(directory) = open()? else { return Ok(None) };
    let attachment = request.attachment();
    let network = request.network.name().as_str();
    let record = read(&directory, &file_name(network, &attachment))?;
    Ok(record.filter(|record| record.network == network && record.attachment() == attachment))
}

/// Removes the record of an attachment; that there is none is fine.
///
/// # Errors
/// Code 5.
pub(crate) fn remove(network: &str, attachment: &AttachmentId) -> Result<()> {
    let Some(directory) = open()? else { return Ok(()) };
    match directory.remove(file_name(network, attachment)) {
        // A directory is none of ours, and stays.
        Err(e) if !e.is_not_plain() => Err(stored(e)),
        _ => Ok(()),
    }
}

/// All records there are, of every network, in the order of their names.
///
/// # Errors
/// Code 5.
pub(crate) fn all() -> Result<Vec<Record>> {
    let Some(directory) = open()? else { return Ok(Vec::new()) };
    let mut records = Vec::new();
    for name in names(&directory)? {
        records.extend(read(&directory, &name)?);
    }
    Ok(records)
}

/// Removes the malformed records of attachments that are not in `valid`.
///
/// # Errors
/// Code 5.
pub(crate) fn sweep_malformed(network: &Network, valid: &Attachments) -> Result<()> {
    let Some(directory) = open()? else { return Ok(()) };
    let own = format!("{}:", network.name());
    let is_valid =
        |name: &str| valid.iter().any(|id| file_name(network.name().as_str(), &id) == name);
    for name in names(&directory)? {
        if name.starts_with(&own) && read(&directory, &name)?.is_none() && !is_valid(&name) {
            directory.remove(&name).map_err(stored)?;
        }
    }
    Ok(())
}

fn open() -> Result<Option<Dir>> {
    match Dir::open(DIRECTORY) {
        Ok(directory) => Ok(Some(directory)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(stored(e)),
    }
}

/// Sorted, so that what is done first is the same every time.
fn names(directory: &Dir) -> Result<Vec<String>> {
    let mut names = Vec::new();
    directory
        .each(|name, kind| {
            // What a killed writer left begins with a dot.
            match name.to_str() {
                Some(name) if kind == Kind::Plain && !name.starts_with('.') => {
                    names.push(name.to_owned());
                }
                _ => {}
            }
            Ok::<(), store::Error>(())
        })
        .map_err(stored)?;
    names.sort();
    Ok(names)
}

fn read(directory: &Dir, name: &str) -> Result<Option<Record>> {
    match directory.read(name, RECORD_MAX) {
        Ok(plain) => Ok(serde_json::from_slice(&plain.content).ok()),
        Err(e) if e.is_not_found() || e.is_not_plain() || e.is_unreadable() => Ok(None),
        Err(e) => Err(stored(e)),
    }
}

fn file_name(network: &str, attachment: &AttachmentId) -> String {
    let AttachmentId { container_id, ifname } = attachment;
    let plain = format!("{network}:{container_id}:{ifname}");
    if plain.len() <= FILE_NAME_MAX { plain } else { hashed_name(&plain) }
}

fn stored(error: store::Error) -> Error {
    Error::new(Code::IO, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn every_attachment_has_a_file_name_of_its_own() {
        assert_eq!(file_name("net", &id("c1", "eth0")), "net:c1:eth0");
        let long = |last: char| "c".repeat(250) + &last.to_string();
        let names =
            [file_name("net", &id(&long('1'), "eth0")), file_name("net", &id(&long('2'), "eth0"))];
        assert!(names.iter().all(|name| name.len() == 71 && name.starts_with("sha512-")));
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn a_device_is_the_same_by_its_hardware_or_by_all_it_shows() {
        let link = Link {
            index: 7,
            name: "ens5".into(),
            mac: "02:00:5e:10:00:01".parse().ok(),
            ..Link::default()
        };
        let device =
            |link: &Link, hardware: Option<&str>| Device::of(link, hardware.map(Into::into));
        let plain = device(&link, None);
        assert!(plain.is_same(&plain.clone()));
        let renamed = Link { name: "ens6".into(), ..link.clone() };
        assert!(!plain.is_same(&device(&renamed, None)));
        assert!(
            device(&link, Some("/sys/devices/a"))
                .is_same(&device(&renamed, Some("/sys/devices/a")))
        );
        let virtual_ = Link { kind: Some("veth".into()), ..link };
        assert!(!plain.is_same(&device(&virtual_, None)));
    }

    const WHOLE: &str = r#"{"network":"n","containerID":"c","ifname":"net1","netns":"/x",
        "netnsDevice":4,"netnsInode":5,"bootId":"6","device":{"name":"ens5","altNames":["a"],
        "alias":null,"index":3,"containerIndex":4,"mac":"02:00:00:00:00:01","permanentMac":null,
        "kind":"dummy","up":true,"mtu":1500,"txQueueLen":1000,"promisc":false,
        "hardware":"/sys/devices/x"},"pciBusID":null}"#;

    fn read_text(bytes: &[u8]) -> Option<Record> {
        serde_json::from_slice(bytes).ok()
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
                    prop_assert_eq!(read_text(&record.text().expect("plain data")), Some(record));
                }
            }
        }
    }
}
