//! firewalld, on machines that have it and on those that do not want it: its package
//! would start it. `scripts/test` unpacks it with what it needs, and a host lays that
//! over `/usr`, where nobody else sees it.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::host::Host;

/// What has to be there.
const PROGRAMS: [&str; 3] =
    ["/usr/sbin/firewalld", "/usr/bin/firewall-cmd", "/usr/bin/dbus-daemon"];

/// Whether the calling thread's namespaces have firewalld now, or get it.
pub(crate) fn lay_out() -> Result<(), String> {
    let missing = || PROGRAMS.iter().find(|program| !Path::new(program).is_file());
    if missing().is_none() {
        return Ok(());
    }
    let folder = unpacked().ok_or("OXCNI_TEST_FIREWALLD names no folder")?;
    let options = format!("lowerdir={}:/usr", folder.join("usr").display());
    let flags = MsFlags::MS_RDONLY;
    mount(Some("firewalld"), "/usr", Some("overlay"), flags, Some(options.as_str()))
        .map_err(|e| format!("lay {} over /usr: {e}", folder.display()))?;
    match missing() {
        None => Ok(()),
        Some(program) => Err(format!("{} has no {program}", folder.display())),
    }
}

fn unpacked() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
    let given = std::env::var_os("OXCNI_TEST_FIREWALLD");
    given.filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

impl Host {
    /// Has firewalld's programs at their usual places, as
    /// [`Feature::Firewalld`](crate::Feature::Firewalld) promises.
    ///
    /// # Panics
    /// When they are not there and cannot be laid there.
    pub fn install_firewalld(&self) {
        lay_out().unwrap_or_else(|e| panic!("install firewalld: {e}"));
    }
}
