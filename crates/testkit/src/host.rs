//! The fake host: a thread with namespaces of its own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::command::Command;
use crate::container::Container;
use crate::netns::Netns;
use crate::plugin::Plugin;
use crate::snapshot::{self, Snapshot};

/// Files of the test itself; left out of snapshots.
pub(crate) const SCRATCH: &str = "/run/scratch";

/// Folders in which the machine's own files are hidden and the host's are
/// private. `/run` comes first: the others may need a place in it.
const PRIVATE_FOLDERS: [&str; 3] = ["/run", "/var/lib/cni", "/etc/cni"];

/// How long what the kernel does behind our back (freeing a namespace, losing
/// a link, ending duplicate address detection) may take.
const SETTLE: Duration = Duration::from_secs(10);

static PLUGINS: OnceLock<PathBuf> = OnceLock::new();

/// Says where the plugins under test are, unless `OXCNI_TEST_PLUGINS` does.
/// The first call counts.
pub fn set_plugins_folder(folder: &Path) {
    PLUGINS.get_or_init(|| folder.to_owned());
}

/// The folder of the plugins under test: `OXCNI_TEST_PLUGINS`, else what
/// [`set_plugins_folder`] was given.
///
/// # Panics
/// When neither was said, or the folder does not exist.
#[must_use]
pub fn plugins_folder() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
    let given = std::env::var_os("OXCNI_TEST_PLUGINS");
    let folder = match given {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PLUGINS.get().cloned().expect("OXCNI_TEST_PLUGINS names no folder of plugins"),
    };
    assert!(folder.is_dir(), "no folder of plugins at {}", folder.display());
    folder
}

/// The folder of upstream's plugins: `OXCNI_TEST_PEER`, else where Debian's package
/// puts them.
#[must_use]
pub fn peer_folder() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
    let given = std::env::var_os("OXCNI_TEST_PEER").filter(|folder| !folder.is_empty());
    given.map_or_else(|| PathBuf::from("/usr/lib/cni"), PathBuf::from)
}

/// What a host and its containers share.
#[derive(Debug, Default)]
#[doc(hidden)]
pub struct World {
    journal: Mutex<Vec<String>>,
}

impl World {
    /// Adds to what a failing test prints.
    pub(crate) fn note(&self, entry: String) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub(crate) fn journal(&self) -> String {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

/// A private host. See the crate's page for a test.
#[derive(Debug)]
pub struct Host {
    world: Arc<World>,
}

impl Host {
    /// Calls `work` on a fresh host, in a fresh thread, and gives its answer.
    ///
    /// # Panics
    /// As `work` does, after printing the journal; and when the namespaces
    /// cannot be made, see [`crate::Feature::PrivateHost`].
    pub fn run<T: Send>(work: impl FnOnce(&Self) -> T + Send) -> T {
        Self::run_recorded(work).unwrap_or_else(|(panic, journal)| {
            // What an ordinary test prints is shown only when it fails.
            #[expect(clippy::print_stderr, reason = "the journal of a failed test")]
            if !journal.is_empty() {
                eprintln!("journal of the host:\n{journal}");
            }
            resume_unwind(panic)
        })
    }

    /// As `run`; a panic is given back with the host's journal.
    pub(crate) fn run_recorded<T: Send>(
        work: impl FnOnce(&Self) -> T + Send,
    ) -> Result<T, (Box<dyn std::any::Any + Send>, String)> {
        let world = Arc::new(World::default());
        let name = thread::current().name().unwrap_or("host").to_owned();
        let result = thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, || {
                    enter_private_host().unwrap_or_else(|e| panic!("make a private host: {e}"));
                    work(&Self { world: Arc::clone(&world) })
                })
                .expect("the machine has room for one more thread");
            worker.join()
        });
        result.map_err(|panic| (panic, world.journal()))
    }

    /// Makes a container: an empty network namespace at `/run/netns/<name>`.
    #[must_use]
    pub fn container(&self, name: &str) -> Container {
        Container::create(&self.world, name)
    }

    /// Makes the world outside: a namespace behind a veth pair whose host end
    /// is `uplink`. Outside is 192.0.2.2/24 and 2001:db8:ffff::2/64, the host
    /// `.1` and `::1`. Outside has no route back to containers, so it answers
    /// only to what was masqueraded, until the test adds one.
    #[must_use]
    pub fn outside(&self) -> Container {
        let outside = self.container("outside");
        self.exec("ip link add uplink type veth peer name uplink netns outside");
        for (place, last) in [(None, 1), (Some(&outside), 2)] {
            for command in [
                format!("ip address add 192.0.2.{last}/24 dev uplink"),
                format!("ip address add 2001:db8:ffff::{last}/64 dev uplink nodad"),
                "ip link set uplink up".to_owned(),
            ] {
                drop(place.map_or_else(|| self.exec(&command), |outside| outside.exec(&command)));
            }
        }
        outside.exec("ip link set lo up");
        outside
    }

    /// A plugin of the folder under test, to be called.
    ///
    /// # Panics
    /// When the folder has no such plugin.
    #[track_caller]
    pub fn plugin(&self, name: &str) -> Plugin<'_> {
        Plugin::new(&self.world, &plugins_folder(), name)
    }

    /// A plugin of the peer, see [`peer_folder`]; needs
    /// [`crate::Feature::PeerPlugins`].
    ///
    /// # Panics
    /// When the peer has no such plugin.
    #[track_caller]
    pub fn peer(&self, name: &str) -> Plugin<'_> {
        Plugin::new(&self.world, &peer_folder(), name)
    }

    /// A folder for the test's own files, empty at first and left out of
    /// snapshots.
    #[must_use]
    pub fn scratch(&self) -> &'static Path {
        Path::new(SCRATCH)
    }

    /// Writes a file of the host, and its folders where they are missing. Only
    /// below `/run`, `/var/lib/cni` and `/etc/cni`, which are private.
    ///
    /// # Panics
    /// When the file is elsewhere or cannot be written.
    #[track_caller]
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = path.as_ref();
        assert!(
            PRIVATE_FOLDERS.iter().any(|folder| path.starts_with(folder)),
            "{} is the machine's own",
            path.display()
        );
        let folder = path.parent().expect("it is below a private folder");
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, content));
        written.unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }

    /// Hides a folder of the machine's below an empty one, for a program that writes
    /// there whatever it is told.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn hide(&self, folder: impl AsRef<Path>) {
        make_private(folder.as_ref()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// The names in a folder, sorted; empty when there is no such folder.
    #[must_use]
    pub fn files(&self, folder: impl AsRef<Path>) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// All that a plugin can change on the host, as text: links, addresses,
    /// routes, rules, neighbours, bridge ports and VLANs, qdiscs and filters,
    /// firewall rules, sysctls, files.
    #[must_use]
    #[track_caller]
    pub fn snapshot(&self) -> Snapshot {
        snapshot::of_host(self, &PRIVATE_FOLDERS)
    }

    /// Fails the test unless the host becomes what it was: what the kernel
    /// still does behind our back is waited for.
    ///
    /// # Panics
    /// With what differs, after some seconds.
    #[track_caller]
    pub fn expect_unchanged(&self, before: &Snapshot) {
        self.expect_unchanged_but(before, &[]);
    }

    /// As `expect_unchanged`, leaving out each line that contains one of
    /// `words`: things that stay by intent, such as the bridge `cni0`.
    ///
    /// # Panics
    /// With what differs, after some seconds.
    #[track_caller]
    pub fn expect_unchanged_but(&self, before: &Snapshot, words: &[&str]) {
        let before = before.without(words);
        let give_up = Instant::now() + SETTLE;
        loop {
            let after = self.snapshot().without(words);
            let Some(diff) = before.diff(&after) else { return };
            assert!(Instant::now() < give_up, "the host is not what it was\n{diff}");
            pause();
        }
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not within some seconds.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let give_up = Instant::now() + SETTLE;
        while !condition() {
            assert!(Instant::now() < give_up, "waited in vain until {what}");
            pause();
        }
    }

    /// Calls `work` with 0 to `count`-1, all at once, on this host, and gives
    /// the answers in order.
    ///
    /// # Panics
    /// As the first of them that does.
    pub fn parallel<T: Send>(&self, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let name = thread::current().name().unwrap_or("parallel").to_owned();
        thread::scope(|scope| {
            let work = &work;
            let start = |index| {
                let builder = thread::Builder::new().name(name.clone());
                builder.spawn_scoped(scope, move || work(index))
            };
            let workers: Vec<_> = (0..count).map(start).collect();
            let answer = |worker: Result<thread::ScopedJoinHandle<'_, T>, _>| {
                let worker = worker.expect("the machine has room for the threads");
                worker.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            workers.into_iter().map(answer).collect()
        })
    }

    /// Adds to the journal, which is printed when the test fails.
    pub fn note(&self, entry: impl Into<String>) {
        self.world.note(entry.into());
    }
}

impl Netns for Host {
    fn netns(&self) -> Option<&Path> {
        None
    }

    fn place(&self) -> &'static str {
        "host"
    }

    fn world(&self) -> &World {
        &self.world
    }
}

/// Between two looks at something that must come true within a bound, where
/// the kernel has no event for it.
pub(crate) fn pause() {
    #[expect(clippy::disallowed_methods, reason = "one look after the other, bounded by callers")]
    thread::sleep(Duration::from_millis(20));
}

/// Gives the calling thread a network and a mount namespace of its own, with
/// `lo` up and private folders empty.
pub(crate) fn enter_private_host() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|e| format!("unshare the mount and network namespaces: {e}"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|e| format!("make the mounts private: {e}"))?;
    for folder in PRIVATE_FOLDERS {
        make_private(Path::new(folder))?;
    }
    fs::create_dir(SCRATCH).map_err(|e| format!("create {SCRATCH}: {e}"))?;
    // /sys/class/net shows the namespace of whoever mounted it. In a container
    // that hides parts of /sys the kernel refuses, and nothing is lost but
    // that view.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none);
    let output = Command::new("ip link set lo up", "host", None).try_run()?;
    if output.success() { Ok(()) } else { Err(output.to_string()) }
}

/// Hides `folder` below an empty tmpfs. Where the machine has no such folder
/// its parent gets a stand-in, so that nothing is created on the machine.
fn make_private(folder: &Path) -> Result<(), String> {
    if !folder.exists() {
        let parent = folder.parent().ok_or("the root is no private folder")?;
        stand_in_for(parent)?;
        fs::DirBuilder::new()
            .mode(0o755)
            .create(folder)
            .map_err(|e| format!("create {}: {e}", folder.display()))?;
    }
    mount_tmpfs(folder)
}

/// Covers a folder with a tmpfs of links to its former entries.
fn stand_in_for(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let kept = Path::new("/run/machine").join(folder.strip_prefix("/").unwrap_or(folder));
    fs::create_dir_all(&kept).map_err(|e| format!("create {}: {e}", kept.display()))?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(folder), &kept, None::<&str>, flags, None::<&str>)
        .map_err(|e| format!("bind {shown}: {e}"))?;
    mount_tmpfs(folder)?;
    let entries = fs::read_dir(&kept).map_err(|e| format!("read {}: {e}", kept.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        symlink(entry.path(), folder.join(&name))
            .map_err(|e| format!("link {} in {shown}: {e}", name.display()))?;
    }
    Ok(())
}

pub(crate) fn mount_tmpfs(folder: &Path) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some("mode=0755"))
        .map_err(|e| format!("mount a tmpfs on {}: {e}", folder.display()))
}
