//! Private hosts: nothing of the machine's own is seen or changed but the
//! folder for data.
//!
//! The process gets a mount namespace with empty `/run` and `/var/lib/cni`. Each
//! contender gets a network namespace as its host for each scenario, so that the
//! rules and bridges of one do not slow down the other. All of it vanishes with
//! the process.

use crate::Outcome;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `/run` comes first: the others may need a place in it.
const PRIVATE_FOLDERS: [&str; 2] = ["/run", "/var/lib/cni"];

/// Of the calling thread, whatever it has entered.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// Gives the process mounts of its own. Call before there are threads.
pub(crate) fn hide_the_machine() -> Outcome<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| {
        format!("unshare the mount namespace: {e}: run as root, or under unshare -Urnm")
    })?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| format!("make the mounts private: {e}"))?;
    for folder in PRIVATE_FOLDERS {
        empty(Path::new(folder))?;
    }
    make_folder(Path::new("/run/netns"))
}

/// Hides `folder` below an empty tmpfs. Where the machine has no such folder its
/// parent gets a stand-in, so that nothing is created on the machine.
fn empty(folder: &Path) -> Outcome<()> {
    if !folder.exists() {
        let parent = folder.parent().ok_or("the root is no private folder")?;
        let kept = Path::new("/run/machine").join(parent.strip_prefix("/").unwrap_or(parent));
        make_folder(&kept)?;
        bind(parent, &kept)?;
        mount_tmpfs(parent)?;
        let entries = fs::read_dir(&kept).map_err(|e| format!("read {}: {e}", kept.display()))?;
        for entry in entries.flatten() {
            let link = parent.join(entry.file_name());
            symlink(entry.path(), &link).map_err(|e| format!("link {}: {e}", link.display()))?;
        }
        make_folder(folder)?;
    }
    mount_tmpfs(folder)
}

fn mount_tmpfs(folder: &Path) -> Outcome<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some("mode=0755"))
        .map_err(|e| format!("mount a tmpfs on {}: {e}", folder.display()))
}

fn bind(from: &Path, to: &Path) -> Outcome<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .map_err(|e| format!("bind {} to {}: {e}", from.display(), to.display()))
}

pub(crate) fn make_folder(folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder).map_err(|e| format!("create {}: {e}", folder.display()))
}

/// A network namespace that has a path, like `ip netns add NAME`.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Makes `/run/netns/<name>`, with `lo` down.
    pub(crate) fn create(name: &str) -> Outcome<Netns> {
        let path = Path::new("/run/netns").join(name);
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            format!("create the network namespace {name}: {what}: {e}")
        };
        let before = File::open(OWN_NETNS).map_err(|e| failed("open the own one", &e))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("unshare", &e))?;
        let made = File::create_new(&path)
            .map_err(|e| failed("create its file", &e))
            .and_then(|_| bind(Path::new(OWN_NETNS), &path));
        setns(&before, CloneFlags::CLONE_NEWNET).map_err(|e| failed("go back", &e))?;
        made?;
        let file = File::open(&path).map_err(|e| failed("open", &e))?;
        Ok(Netns { path, file })
    }

    /// Makes the namespace, unless it is there.
    pub(crate) fn ensure(name: &str) -> Outcome<PathBuf> {
        let path = Path::new("/run/netns").join(name);
        match path.try_exists() {
            Ok(true) => Ok(path),
            _ => Netns::create(name).map(|netns| netns.path),
        }
    }

    /// Takes the calling thread, and what it starts, into the namespace.
    pub(crate) fn enter(&self) -> Outcome<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("enter {}: {e}", self.path.display()))
    }
}

/// Runs a program of the machine, not timed, in the namespace of the calling
/// thread; gives its stdout.
///
/// # Errors
/// When it cannot be started or fails, with its stderr.
pub(crate) fn run(program: &str, arguments: &[&str], stdin: &str) -> Outcome<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let input = pipe_with(stdin.as_bytes())?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => format!("{}: there is no {program} here", shown()),
            _ => format!("{}: {e}", shown()),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} with {stdin:?}: {}", shown(), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the kernel makes links of `kind`: one is made on a parent, and goes with it.
pub(crate) fn makes_links(kind: &str) -> bool {
    let id = if kind == "vlan" { " id 2" } else { "" };
    let make =
        format!("link add probe0 type bridge\nlink add link probe0 name probe1 type {kind}{id}\n");
    let made = run("ip", &["-batch", "-"], &make).is_ok();
    for name in ["probe1", "probe0"] {
        let _ = run("ip", &["link", "del", name], "");
    }
    made
}

/// The end to read of a pipe that holds `content`, 64 KiB at the most, so that
/// the writer is done before the reader is started.
pub(crate) fn pipe_with(content: &[u8]) -> Outcome<Stdio> {
    use std::io::Write as _;
    /// pipe(7), capacity since Linux 2.6.11
    const CAPACITY: usize = 65_536;
    if content.len() > CAPACITY {
        return Err(format!("{} bytes are more than a pipe holds", content.len()));
    }
    let (reader, mut writer) = std::io::pipe().map_err(|e| format!("make a pipe: {e}"))?;
    writer.write_all(content).map_err(|e| format!("fill a pipe: {e}"))?;
    Ok(reader.into())
}
