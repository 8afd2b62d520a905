//! A container: a network namespace with a name, and nothing in it but a `lo`
//! that is down.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::host::World;
use crate::netns::Netns;

/// A network namespace bound at `/run/netns/<name>` of its host, as container
/// runtimes do; like `ip netns add`.
#[derive(Debug, Clone)]
pub struct Container {
    world: Arc<World>,
    name: String,
    path: PathBuf,
}

impl Container {
    pub(crate) fn create(world: &Arc<World>, name: &str) -> Self {
        let folder = Path::new("/run/netns");
        fs::create_dir_all(folder).expect("/run is our own tmpfs");
        let container =
            Self { world: Arc::clone(world), name: name.to_owned(), path: folder.join(name) };
        assert!(!container.path.exists(), "container {name} exists already");
        container.bind_new_namespace();
        container
    }

    /// The name it was made with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ID as the runtime gives it: `ctr-<name>`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("ctr-{}", self.name)
    }

    /// The path of its network namespace, the value of `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the namespace and its name, as a runtime does after the last
    /// DEL, or before it when things went wrong. The kernel frees what is
    /// inside some milliseconds later; like `ip netns del`.
    pub fn destroy(&self) {
        self.unbind();
        fs::remove_file(&self.path).expect("the name is in our own tmpfs");
    }

    /// Removes the namespace but leaves its name: an ordinary empty file, as
    /// it is after a reboot when /run is not a tmpfs.
    pub fn make_stale_file(&self) {
        self.unbind();
    }

    /// Puts a new, empty namespace under the name of one that was destroyed.
    pub fn recreate(&self) {
        self.bind_new_namespace();
    }

    fn unbind(&self) {
        umount2(&self.path, MntFlags::MNT_DETACH)
            .unwrap_or_else(|e| panic!("unmount {}: {e}", self.path.display()));
    }

    fn bind_new_namespace(&self) {
        fs::write(&self.path, b"").expect("/run/netns is in our own tmpfs");
        // The new thread shares this thread's mount namespace, so the mount it
        // makes is seen here; its network namespace is held by that mount.
        let made = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let own = Path::new("/proc/thread-self/ns/net");
                mount(Some(own), &self.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            });
            worker.join().expect("nothing in there panics")
        });
        made.unwrap_or_else(|e| panic!("make the namespace {}: {e}", self.path.display()));
    }
}

impl Netns for Container {
    fn netns(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn place(&self) -> &str {
        &self.name
    }

    fn world(&self) -> &World {
        &self.world
    }
}
