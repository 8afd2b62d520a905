//! Control groups in a private host, whose `/sys` is too new to have them: the
//! machine's own hierarchies, mounted once more. A test makes groups below one of
//! its own and removes them.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::host::{Host, mount_tmpfs};

/// Where the world expects them.
const TOP: &str = "/sys/fs/cgroup";

impl Host {
    /// Mounts the hierarchies at their usual places and gives these.
    ///
    /// # Panics
    /// When that is not allowed.
    #[must_use]
    pub fn mount_cgroups(&self) -> Vec<PathBuf> {
        mount_all().unwrap_or_else(|e| panic!("mount the control groups: {e}"))
    }
}

/// As `/proc/self/cgroup` lists them: one unified hierarchy, or several, each in a
/// folder named for its controllers.
pub(crate) fn mount_all() -> Result<Vec<PathBuf>, String> {
    let list = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
    let names: Vec<_> = list.lines().filter_map(|line| line.split(':').nth(1)).collect();
    if names.iter().all(|name| name.is_empty()) {
        mount_one("cgroup2", Path::new(TOP), None)?;
        return Ok(vec![PathBuf::from(TOP)]);
    }
    mount_tmpfs(Path::new(TOP))?;
    let mut folders = Vec::new();
    for name in names {
        let (kind, folder, options) = match name.strip_prefix("name=") {
            Some(title) => ("cgroup", title, Some(format!("none,{name}"))),
            None if name.is_empty() => ("cgroup2", "unified", None),
            None => ("cgroup", name, Some(name.to_owned())),
        };
        let folder = Path::new(TOP).join(folder);
        fs::create_dir(&folder).map_err(|e| format!("make {}: {e}", folder.display()))?;
        mount_one(kind, &folder, options.as_deref())?;
        folders.push(folder);
    }
    Ok(folders)
}

fn mount_one(kind: &str, folder: &Path, options: Option<&str>) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(kind), folder, Some(kind), flags, options)
        .map_err(|e| format!("mount {kind} at {}: {e}", folder.display()))
}

/// Whether they can be mounted here, and groups be made in each.
pub(crate) fn may_be_made() -> bool {
    let probe = |folder: &PathBuf| {
        let probe = folder.join(format!("oxcni-probe-{}", std::process::id()));
        fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
    };
    mount_all().is_ok_and(|folders| folders.iter().all(probe))
}
