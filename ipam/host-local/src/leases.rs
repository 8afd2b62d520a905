//! The directory with the leases of a network, in upstream's format:
//!
//! | name | content |
//! |---|---|
//! | `10.1.2.3`, `fd00::3` | a lease: `<container ID>\r\n<interface>`; from before 0.8.3 only the ID |
//! | `last_reserved_ip.0` | where round robin is in range set 0: the text of an address |
//! | `lock` | taken with flock(2) by everyone who changes any of this |
//!
//! Only a name that is an address, as it is written canonically, is a lease.
//! A lease that is empty or full of NULs is what a crash leaves: it is
//! nobody's. What is no plain file was not put there by an address plugin: it
//! counts as taken, and is never followed, written or removed.

use crate::range;
use cni::AttachmentId;
use std::fmt;
use std::net::IpAddr;
use store::{DataFile, Dir, Kind, Lock, Result};

const LOCK: &str = "lock";
/// As upstream makes it; nothing is ever written to it.
const LOCK_MODE: u32 = 0o750;
const LEASE_MODE: u32 = 0o600;
/// A container ID has no limit, but is an environment variable's value.
const LEASE_LIMIT: usize = 128 << 10;

/// Whose a lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// There is no lease, or an empty one.
    Nobody,
    /// This attachment's.
    Attachment(AttachmentId),
    /// A lease of the old format: of all interfaces of this container.
    Container(String),
    /// It cannot be read, or is no plain file, for this reason.
    Unknown(String),
}

impl Holder {
    fn parse(content: &[u8]) -> Holder {
        if content.iter().all(|byte| *byte == 0) {
            return Holder::Nobody;
        }
        let text = String::from_utf8_lossy(content);
        match text.trim().split_once("\r\n") {
            Some((container_id, ifname)) => Holder::Attachment(AttachmentId {
                container_id: container_id.to_owned(),
                ifname: ifname.to_owned(),
            }),
            None if text.trim().is_empty() => Holder::Nobody,
            None => Holder::Container(text.trim().to_owned()),
        }
    }
}

/// The content of a lease.
pub(crate) fn content(owner: &AttachmentId) -> String {
    format!("{}\r\n{}", owner.container_id, owner.ifname)
}

/// `held by container c1, interface eth0`
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Nobody => f.write_str("held by nobody"),
            Holder::Attachment(id) => {
                write!(f, "held by container {}, interface {}", id.container_id, id.ifname)
            }
            Holder::Container(id) => write!(f, "held by container {id}"),
            Holder::Unknown(reason) => f.write_str(reason),
        }
    }
}

/// The outcome of [`Leases::create`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// When, in nanoseconds since 1970.
    At(u64),
    Taken(Holder),
}

/// The directory, locked.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: Dir,
    _lock: Lock,
}

impl Leases {
    /// # Errors
    /// [`store::Error::is_timed_out`].
    pub(crate) fn lock(dir: Dir, timeout: std::time::Duration) -> Result<Leases> {
        let lock = Lock::take(&dir, LOCK, LOCK_MODE, timeout)?;
        Ok(Leases { dir, _lock: lock })
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Makes the lease of `ip`; it appears whole. What nobody holds is
    /// replaced.
    pub(crate) fn create(
        &self,
        ip: IpAddr,
        owner: &AttachmentId,
        spare: Option<&Dir>,
    ) -> Result<Created> {
        let (name, content) = (ip.to_string(), content(owner));
        // Twice, because what is found may be nobody's; after that somebody
        // is at work who does not take the lock.
        for _ in 0..2 {
            match self.dir.create_new(&name, LEASE_MODE, content.as_bytes(), spare) {
                Ok(at) => return Ok(Created::At(at)),
                Err(e) if e.is_exists() => {}
                Err(e) => return Err(e),
            }
            match self.holder(ip) {
                Holder::Nobody => _ = self.dir.remove(&name)?,
                holder => return Ok(Created::Taken(holder)),
            }
        }
        Ok(Created::Taken(self.holder(ip)))
    }

    /// Makes `content` that of the lease of `ip`, which is there, so that at no
    /// time it looks free. Answers when it was made, in nanoseconds since 1970.
    pub(crate) fn replace(&self, ip: IpAddr, content: &str, spare: Option<&Dir>) -> Result<u64> {
        let spare = spare.unwrap_or(&self.dir);
        self.dir.replace_from(spare, ip.to_string(), LEASE_MODE, content.as_bytes())
    }

    /// Whose the lease of `ip` is.
    pub(crate) fn holder(&self, ip: IpAddr) -> Holder {
        self.found(ip).0
    }

    /// And when it was made, in nanoseconds since 1970; 0 is not known.
    pub(crate) fn found(&self, ip: IpAddr) -> (Holder, u64) {
        self.read(&ip.to_string())
    }

    fn read(&self, name: &str) -> (Holder, u64) {
        match self.dir.read(name, LEASE_LIMIT) {
            Ok(file) => (Holder::parse(&file.content), file.modified),
            Err(e) if e.is_not_found() => (Holder::Nobody, 0),
            Err(e) => (Holder::Unknown(e.to_string()), 0),
        }
    }

    /// Removes the lease of `ip`.
    pub(crate) fn remove(&self, ip: IpAddr) -> Result<()> {
        self.dir.remove(ip.to_string()).map(drop)
    }

    /// Reads every lease: its address, its holder, when it was made.
    pub(crate) fn walk(&self, mut visit: impl FnMut(IpAddr, Holder, u64)) -> Result<()> {
        self.dir.each(|name, kind| {
            let Some(name) = name.to_str() else { return Ok(()) };
            let Ok(ip) = name.parse::<IpAddr>() else { return Ok(()) };
            let ip = range::address(range::number(ip));
            if ip.to_string() != name {
                return Ok(());
            }
            let (holder, made) = match kind {
                Kind::Plain => self.read(name),
                Kind::Directory => (Holder::Unknown("it is a directory".to_owned()), 0),
                Kind::Odd => (Holder::Unknown("it is no plain file".to_owned()), 0),
            };
            visit(ip, holder, made);
            Ok(())
        })
    }

    /// Where round robin is in range set `set`.
    ///
    /// # Errors
    /// It is no plain file, or protected: ADD could not move it on.
    pub(crate) fn turn(&self, set: usize) -> Result<Turn> {
        let name = format!("last_reserved_ip.{set}");
        match self.dir.open_data(&name) {
            Ok(file) => {
                let content = file.read(64).unwrap_or_default();
                let last = String::from_utf8_lossy(&content).parse().ok();
                Ok(Turn { name, file: Some(file), last })
            }
            Err(e) if e.is_not_found() => Ok(Turn { name, file: None, last: None }),
            Err(e) => Err(e),
        }
    }

    /// Moves round robin on to `ip`.
    pub(crate) fn set_turn(&self, turn: &mut Turn, ip: IpAddr) -> Result<()> {
        let file = match &mut turn.file {
            Some(file) => file,
            None => turn.file.insert(self.dir.create_data(&turn.name, LEASE_MODE)?),
        };
        file.rewrite(ip.to_string().as_bytes())
    }
}

/// The state of round robin in a range set.
#[derive(Debug)]
pub(crate) struct Turn {
    name: String,
    file: Option<DataFile>,
    /// The address given last, if the file says one.
    pub(crate) last: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    #[test]
    fn the_content_of_a_lease_says_whose_it_is() {
        let attachment = |container_id: &str, ifname: &str| {
            Holder::Attachment(AttachmentId {
                container_id: container_id.into(),
                ifname: ifname.into(),
            })
        };
        for (content, holder) in [
            (&b"c1\r\neth0"[..], attachment("c1", "eth0")),
            (b" c1\r\neth0\n", attachment("c1", "eth0")),
            (b"c1", Holder::Container("c1".into())),
            (b"c1\r\n", Holder::Container("c1".into())),
            (b"c1\neth0", Holder::Container("c1\neth0".into())),
            (b"", Holder::Nobody),
            (b" \n", Holder::Nobody),
            (b"\0\0\0\0", Holder::Nobody),
            (b"\xff", Holder::Container("\u{fffd}".into())),
        ] {
            assert_eq!(Holder::parse(content), holder, "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn any_content_has_a_holder(
            bytes in vec(prop_oneof![any::<u8>(), select(b"\r\n \0c1".to_vec())], 0..80),
        ) {
            match Holder::parse(&bytes) {
                Holder::Attachment(id) => {
                    let said = id.container_id.len() + id.ifname.len();
                    // What is no UTF-8 is shown as three bytes each.
                    prop_assert!(said <= 3 * bytes.len() && !id.container_id.contains("\r\n"));
                }
                Holder::Container(id) => prop_assert!(!id.is_empty() && id.trim() == id),
                Holder::Nobody => {}
                Holder::Unknown(reason) => prop_assert!(false, "{reason}"),
            }
        }
    }
}
