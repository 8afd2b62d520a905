use super::*;
use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A directory that is gone after the test.
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub(crate) fn new() -> Temporary {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oxcni-store-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("it is new");
        Temporary(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn open(&self) -> Dir {
        Dir::open(&self.0).expect("it was made")
    }

    fn names(&self) -> Vec<OsString> {
        let entries = std::fs::read_dir(&self.0).expect("readable");
        let mut names: Vec<_> = entries.map(|e| e.expect("readable").file_name()).collect();
        names.sort();
        names
    }

    fn content(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect(name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn directories_are_made_with_their_parents() {
    let temporary = Temporary::new();
    let path = temporary.path().join("a/b");
    assert!(Dir::open(&path).expect_err("not yet").is_not_found());
    Dir::create(&path, 0o700).expect("made");
    assert_eq!(path.metadata().expect("there").mode() & 0o7777, 0o700);
    let dir = Dir::create(&path, 0o755).expect("there already");
    let below = dir.create_below("c", 0o750).expect("made");
    assert_eq!(below.path(), path.join("c"));
    assert_eq!(below.path().metadata().expect("there").mode() & 0o7777, 0o750);
    assert!(dir.open_below("d").expect_err("not there").is_not_found());
}

#[test]
fn what_is_no_directory_is_refused() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    std::fs::write(temporary.path().join("file"), "").expect("written");
    symlink("/", temporary.path().join("link")).expect("made");
    for path in ["file", "file/x"] {
        let error = Dir::create(temporary.path().join(path), 0o700).expect_err(path);
        assert!(error.to_string().contains("not a directory"), "{error}");
    }
    for name in ["file", "link"] {
        assert!(dir.open_below(name).expect_err(name).is_not_plain());
        assert!(dir.create_below(name, 0o700).expect_err(name).is_not_plain());
    }
}

#[test]
fn a_link_to_a_data_directory_is_followed_if_root_or_this_user_made_it() {
    let temporary = Temporary::new();
    let (real, link) = (temporary.path().join("real"), temporary.path().join("link"));
    std::fs::create_dir(&real).expect("made");
    symlink("real", &link).expect("made");
    Dir::open(&link).expect("it is ours");
    if !geteuid().is_root() {
        return;
    }
    std::os::unix::fs::lchown(&link, Some(12345), None).expect("root may");
    let error = Dir::open(&link).expect_err("it is somebody else's");
    assert!(error.is_not_plain() && error.to_string().contains("user 12345"), "{error}");
}

#[test]
fn a_new_file_appears_whole_and_never_over_another() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let spare = dir.create_below("spare", 0o700).expect("made");
    type Make = fn(&Path);
    let others: [(&str, Make); 3] = [
        ("file", |path| std::fs::write(path, "old").expect("written")),
        ("link", |path| symlink("file", path).expect("made")),
        ("directory", |path| std::fs::create_dir(path).expect("made")),
    ];
    for (name, make) in others {
        make(&temporary.path().join(name));
    }
    // Both ways, whichever the file system allows.
    type Way = fn(&Dir, &str, &Dir) -> Result<u64>;
    let ways: [(&str, Way); 2] = [
        ("linked", |dir, name, _| {
            let error = |e| dir.error("create", OsStr::new(name), e);
            dir.link_new(OsStr::new(name), 0o640, b"new").map_err(error)
        }),
        ("moved", |dir, name, spare| dir.move_new(OsStr::new(name), 0o640, b"new", spare)),
    ];
    for (new, way) in ways {
        let at = way(&dir, new, &spare).expect("it is new");
        let plain = dir.read(new, 100).expect("readable");
        assert_eq!((plain.content, plain.modified), (b"new".to_vec(), at));
        assert_eq!(temporary.path().join(new).metadata().expect("there").mode() & 0o7777, 0o640);
        for (name, _) in others {
            assert!(way(&dir, name, &spare).expect_err(name).is_exists(), "{new} {name}");
        }
    }
    assert_eq!(temporary.content("file"), "old");
    assert!(spare.read("new", 100).expect_err("moved away").is_not_found());
    assert_eq!(temporary.names(), ["directory", "file", "link", "linked", "moved", "spare"]);
}

#[test]
fn a_leftover_in_the_spare_directory_is_no_obstacle() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let spare = dir.create_below("spare", 0o700).expect("made");
    std::fs::write(spare.path().join("new"), "half").expect("written");
    dir.move_new(OsStr::new("file"), 0o600, b"whole", &spare).expect("made");
    assert_eq!(temporary.content("file"), "whole");
}

#[test]
fn a_replaced_file_is_the_old_one_or_the_new_one() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    dir.replace("file", 0o600, b"one").expect("made");
    let open = dir.open_data("file").expect("there");
    dir.replace("file", 0o600, b"two").expect("replaced");
    assert_eq!(temporary.content("file"), "two");
    assert_eq!(open.read(100).expect("readable"), b"one", "who reads it sees the old one");
    symlink("file", temporary.path().join("link")).expect("made");
    dir.replace("link", 0o600, b"three").expect("replaced");
    assert_eq!(temporary.content("file"), "two", "the link was replaced, not followed");
    std::fs::create_dir(temporary.path().join("directory")).expect("made");
    assert!(dir.replace("directory", 0o600, b"x").expect_err("a directory").is_not_plain());
    assert_eq!(temporary.names(), ["directory", "file", "link"], "nothing stays behind");
}

#[test]
fn a_file_is_put_there_whether_it_is_new_or_not() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    for content in ["one", "two"] {
        dir.put("file", 0o600, content.as_bytes()).expect("put");
        assert_eq!(temporary.content("file"), content);
    }
    std::fs::create_dir(temporary.path().join("directory")).expect("made");
    assert!(dir.put("directory", 0o600, b"x").expect_err("a directory").is_not_plain());
    assert_eq!(temporary.names(), ["directory", "file"], "nothing stays behind");
}

#[test]
fn only_plain_files_are_read_and_none_is_waited_for() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    std::fs::write(temporary.path().join("file"), "12345").expect("written");
    symlink("file", temporary.path().join("link")).expect("made");
    std::fs::create_dir(temporary.path().join("directory")).expect("made");
    nix::unistd::mkfifo(&temporary.path().join("pipe"), Mode::S_IRWXU).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(temporary.path().join("socket"));
    assert_eq!(dir.read("file", 5).expect("readable").content, b"12345");
    let long = dir.read("file", 4).expect_err("too long");
    assert!(long.to_string().contains("longer than 4 bytes"), "{long}");
    assert!(dir.read("none", 5).expect_err("not there").is_not_found());
    for name in ["link", "directory", "pipe", "socket"] {
        for error in [dir.read(name, 5).map(drop), dir.open_data(name).map(drop)] {
            assert!(error.as_ref().is_err_and(Error::is_not_plain), "{name}: {error:?}");
        }
    }
    let mut seen = Vec::new();
    dir.each(|name, kind| -> Result<()> {
        seen.push((name.to_str().expect("ASCII").to_owned(), kind));
        Ok(())
    })
    .expect("readable");
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    let kinds = [
        ("directory", Kind::Directory),
        ("file", Kind::Plain),
        ("link", Kind::Odd),
        ("pipe", Kind::Odd),
        ("socket", Kind::Odd),
    ];
    assert_eq!(seen, kinds.map(|(name, kind)| (name.to_owned(), kind)));
    for (name, kind) in kinds {
        assert_eq!(dir.kind(name).expect("readable"), Some(kind));
    }
}

#[test]
fn removing_takes_the_name_and_nothing_behind_it() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    std::fs::write(temporary.path().join("file"), "x").expect("written");
    symlink("file", temporary.path().join("link")).expect("made");
    assert!(dir.remove("link").expect("removed"));
    assert!(!dir.remove("link").expect("gone already"));
    assert_eq!(temporary.names(), ["file"]);
    std::fs::create_dir(temporary.path().join("directory")).expect("made");
    assert!(dir.remove("directory").expect_err("a directory").is_not_plain());
}

#[test]
fn files_are_changed_in_place() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    let mut data = dir.create_data("data", 0o600).expect("made");
    for content in ["10.1.2.10", "10.1.2.9", "10.1.2.100", "", "x"] {
        data.rewrite(content.as_bytes()).expect("written");
        assert_eq!(temporary.content("data"), content);
    }
    data.write_at(4, b"y").expect("written");
    let mut buffer = [9; 8];
    assert_eq!(data.read_at(1, &mut buffer).expect("readable"), 4);
    assert_eq!(buffer, [0, 0, 0, b'y', 9, 9, 9, 9]);
    symlink("data", temporary.path().join("link")).expect("made");
    assert!(dir.create_data("link", 0o600).expect_err("a link").is_not_plain());
}

#[test]
fn the_modification_time_tells_changes() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    dir.set_modified(1_234_567_890_123_456_789).expect("it is ours");
    assert_eq!(dir.modified().expect("there"), 1_234_567_890_123_456_789);
    let mut before = dir.modified().expect("there");
    let file = temporary.path().join("file");
    let changes: [(&str, &dyn Fn()); 3] = [
        ("create", &|| std::fs::write(&file, "").expect("written")),
        ("rename", &|| std::fs::rename(&file, file.with_extension("x")).expect("renamed")),
        ("remove", &|| std::fs::remove_file(file.with_extension("x")).expect("removed")),
    ];
    for (name, change) in changes {
        change();
        assert_ne!(dir.modified().expect("there"), before, "{name}");
        before = 1;
        dir.set_modified(before).expect("it is ours");
    }
}

#[test]
fn whether_a_directory_can_be_written_is_tried() {
    let temporary = Temporary::new();
    let dir = temporary.open();
    dir.check_writable().expect("it is ours");
    assert_eq!(temporary.names(), Vec::<OsString>::new());
    if !geteuid().is_root() {
        let locked = std::fs::Permissions::from_mode(0o500);
        std::fs::set_permissions(temporary.path(), locked).expect("it is ours");
        assert!(dir.check_writable().expect_err("it is protected").is_permission());
    }
    for kernels in ["/proc", "/proc/self", "/sys", "/sys/kernel"] {
        let Ok(dir) = Dir::open(kernels) else { continue };
        let error = dir.check_writable().expect_err(kernels);
        assert!(error.to_string().starts_with(&format!("write in {kernels}: ")), "{error}");
    }
}
