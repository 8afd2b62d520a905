//! What plugins keep on the disk, where somebody else can write or nobody can:
//! planted files and links, wrong owners, full and read-only disks. host-local's are
//! in `host_local::faults`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};
use testkit::{Case, Container, Feature, Host, Netns as _, Outcome, with_previous_result};

use crate::conf::{fixed, of_type};

/// A plugin that keeps a file for each attachment.
#[derive(Clone, Copy)]
struct Keeper {
    plugin: &'static str,
    directory: &'static str,
    /// Whether an ADD goes through a bridge's first.
    is_chained: bool,
    keys: fn() -> Value,
    prepare: fn(&Host),
}

const KEEPERS: [Keeper; 4] = [
    Keeper {
        plugin: "tuning",
        directory: "/run/cni/tuning",
        is_chained: true,
        keys: || json!({"mtu": 1400, "sysctl": {"net.ipv4.conf.IFNAME.proxy_arp": "1"}}),
        prepare: |_| {},
    },
    Keeper {
        plugin: "sbr",
        directory: "/run/cni/oxcni/sbr",
        is_chained: true,
        keys: || json!({}),
        prepare: |_| {},
    },
    Keeper {
        plugin: "host-device",
        directory: "/var/lib/cni/oxcni/host-device",
        is_chained: false,
        keys: || json!({"device": "ens5"}),
        prepare: |host| {
            host.exec("ip link add ens5 type veth peer name wire5");
        },
    },
    Keeper {
        plugin: "flannel",
        directory: "/var/lib/cni/flannel",
        is_chained: false,
        keys: || json!({}),
        prepare: |host| {
            let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\n\
                FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
            host.write("/run/flannel/subnet.env", lease);
        },
    },
];

type Body = fn(&Kept<'_>);

pub(crate) fn list() -> Vec<Case> {
    let bodies: [(&str, Body); 7] = [
        ("what_is_planted_is_not_followed", what_is_planted_is_not_followed),
        ("a_folder_that_is_a_link_of_another_user", a_folder_that_is_a_link_of_another_user),
        ("a_file_in_the_place_of_the_folder", a_file_in_the_place_of_the_folder),
        ("a_folder_that_anybody_may_write", a_folder_that_anybody_may_write),
        ("a_file_that_is_too_long_is_as_if_missing", a_file_that_is_too_long_is_as_if_missing),
        ("a_full_disk_is_told_and_leaks_nothing", a_full_disk_is_told_and_leaks_nothing),
        ("a_read_only_disk_is_told_and_leaks_nothing", a_read_only_disk_is_told_and_leaks_nothing),
    ];
    let mut list = Vec::new();
    for keeper in KEEPERS {
        for (name, body) in bodies {
            let name = format!("state::{}::{name}", keeper.plugin);
            list.push(Case::new(name, &[Feature::Bridge, Feature::OurPlugins], move |host| {
                body(&Kept::new(host, keeper));
            }));
        }
    }
    list
}

/// A keeper on a host, with a container.
struct Kept<'h> {
    host: &'h Host,
    keeper: Keeper,
    container: Container,
    conf: Value,
}

impl<'h> Kept<'h> {
    fn new(host: &'h Host, keeper: Keeper) -> Kept<'h> {
        (keeper.prepare)(host);
        // Flannel's delegate has the host forward, and that stays.
        host.set_sysctl("net/ipv4/ip_forward", "1");
        let container = host.container("pod");
        let mut conf = of_type(host, keeper.plugin, (keeper.keys)());
        if keeper.is_chained {
            conf = with_previous_result(&conf, &behind_a_bridge(host, &container));
        }
        let kept = Kept { host, keeper, container, conf };
        // What is shared and stays is there.
        kept.add().expect_result();
        kept.del().expect_ok();
        kept
    }

    fn add(&self) -> Outcome {
        self.host.plugin(self.keeper.plugin).add(&self.container, "eth0", &self.conf)
    }

    fn del(&self) -> Outcome {
        self.host.plugin(self.keeper.plugin).del(&self.container, "eth0", &self.conf)
    }

    /// The files of the attachment while it is there.
    fn files(&self) -> Vec<String> {
        self.add().expect_result();
        let files: BTreeSet<String> = self.host.files(self.keeper.directory);
        self.del().expect_ok();
        assert!(!files.is_empty(), "it keeps nothing in {}", self.keeper.directory);
        files
            .into_iter()
            .map(|name| match name.starts_with('/') {
                true => name,
                false => format!("{}/{name}", self.keeper.directory),
            })
            .collect()
    }

    /// With what was in the way gone, all is as ever.
    #[track_caller]
    fn expect_works(&self) {
        self.add().expect_result();
        self.del().expect_ok();
        let left = self.host.files(self.keeper.directory);
        assert!(left.is_empty(), "{left:?}");
    }

    /// ADD fails with code 5, says `why`, and changes nothing.
    #[track_caller]
    fn expect_refused(&self, why: &str) {
        let before = self.host.snapshot();
        let inside = self.container.network_snapshot();
        self.add().expect_error(5, why);
        inside.expect_same(&self.container.network_snapshot());
        // The delegate's mark of the last lease.
        self.host.expect_unchanged_but(&before, &["/last_reserved_ip.", "/.oxcni/", "/networks"]);
    }
}

pub(crate) fn behind_a_bridge(host: &Host, container: &Container) -> Value {
    let conf = of_type(host, "bridge", json!({"ipam": fixed(&["10.1.0.2/24"])}));
    host.plugin("bridge").add(container, "eth0", &conf).expect_result()
}

fn what_is_planted_is_not_followed(kept: &Kept<'_>) {
    let (host, files) = (kept.host, kept.files());
    host.write("/run/secret", "secret");
    fs::set_permissions("/run/secret", fs::Permissions::from_mode(0o640)).expect("ours");
    type Plant = fn(&Host, &str);
    let plants: [(&str, Plant); 5] = [
        ("a link to a file", |_, path| symlink("/run/secret", path).expect("made")),
        ("a link to nothing", |_, path| symlink("/run/nothing", path).expect("made")),
        ("a second name", second_name),
        ("a pipe", |host, path| drop(host.exec(format!("mkfifo {path}")))),
        ("a folder", |_, path| fs::create_dir(path).expect("made")),
    ];
    for (what, plant) in plants {
        for path in &files {
            plant(host, path);
            let outcome = kept.add();
            // In its place, beside it, or not at all; but never through it.
            if !outcome.success() {
                assert!(outcome.document()["code"].is_u64(), "{what}: {outcome}");
            }
            kept.del().expect_ok();
            let secret = fs::read_to_string("/run/secret").expect("there");
            assert_eq!(secret, "secret", "{what} as {path}");
            let mode = fs::metadata("/run/secret").expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o640, "{what} as {path}");
            assert!(!Path::new("/run/nothing").exists(), "{what} as {path}");
            // What was not put there by a plugin may stay.
            host.exec(["rm", "-rf", path.as_str()]);
        }
    }
    kept.expect_works();
}

/// Only on the disk that the file is on.
fn second_name(_: &Host, path: &str) {
    if let Err(e) = fs::hard_link("/run/secret", path) {
        assert_eq!(e.kind(), std::io::ErrorKind::CrossesDevices, "{e}");
    }
}

fn a_folder_that_is_a_link_of_another_user(kept: &Kept<'_>) {
    let (host, directory) = (kept.host, kept.keeper.directory);
    fs::create_dir("/run/elsewhere").expect("it is a private folder");
    fs::remove_dir(directory).expect("empty");
    symlink("/run/elsewhere", directory).expect("made");
    // In a user namespace there may be no other user.
    if host.try_exec(["chown", "-h", "1000", directory]).success() {
        kept.expect_refused("symbolic link of user 1000");
        assert!(host.files("/run/elsewhere").is_empty());
        fs::remove_file(directory).expect("the link");
        symlink("/run/elsewhere", directory).expect("made");
    }
    // An administrator's own.
    kept.expect_works();
}

fn a_file_in_the_place_of_the_folder(kept: &Kept<'_>) {
    let directory = kept.keeper.directory;
    fs::remove_dir(directory).expect("empty");
    kept.host.write(directory, "x");
    kept.expect_refused(directory);
    assert_eq!(fs::read_to_string(directory).expect("there"), "x");
    fs::remove_file(directory).expect("the file");
    kept.expect_works();
}

/// Whatever the folder's mode, what is written is its owner's alone.
fn a_folder_that_anybody_may_write(kept: &Kept<'_>) {
    let directory = kept.keeper.directory;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("ours");
    kept.add().expect_result();
    for name in kept.host.files(directory) {
        let path = Path::new(directory).join(name);
        let metadata = fs::symlink_metadata(&path).expect("there");
        assert!(metadata.is_file(), "{}", path.display());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    kept.del().expect_ok();
    kept.expect_works();
}

fn a_file_that_is_too_long_is_as_if_missing(kept: &Kept<'_>) {
    for path in kept.files() {
        kept.add().expect_result();
        let file = fs::File::options().write(true).open(&path).expect("it is there");
        file.set_len(17 << 20).expect("it has no blocks");
        kept.del().expect_ok();
        assert!(!Path::new(&path).exists(), "{path}");
        kept.expect_works();
        // GC and another ADD have to do with it as well.
        fs::write(&path, "").expect("ours");
        fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|f| f.set_len(17 << 20))
            .expect("ours");
        let conf = with_previous_result(&kept.conf, &kept.conf["prevResult"]);
        let mut gc = conf.clone();
        gc["cni.dev/valid-attachments"] = json!([]);
        kept.host.plugin(kept.keeper.plugin).gc(&gc).expect_ok();
        kept.expect_works();
    }
}

fn a_full_disk_is_told_and_leaks_nothing(kept: &Kept<'_>) {
    let (host, directory) = (kept.host, kept.keeper.directory);
    // The folder itself is the one that there is room for.
    for limit in ["nr_inodes=1", "size=4k"] {
        host.exec(format!("mount -t tmpfs -o {limit} tmpfs {directory}"));
        if limit.starts_with("size") {
            fs::write(Path::new(directory).join("filler"), [1; 4096]).expect("it fits");
        }
        kept.expect_refused("no space left on device");
        kept.del().expect_ok();
        host.exec(format!("umount {directory}"));
    }
    kept.expect_works();
}

fn a_read_only_disk_is_told_and_leaks_nothing(kept: &Kept<'_>) {
    let (host, directory) = (kept.host, kept.keeper.directory);
    host.exec(format!("mount -t tmpfs tmpfs {directory}"));
    host.exec(format!("mount -o remount,ro,bind {directory}"));
    kept.expect_refused("read-only file system");
    kept.del().expect_ok();
    host.exec(format!("umount {directory}"));
    kept.expect_works();
}
