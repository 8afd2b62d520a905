mod model;
mod stale;

use super::*;
use crate::range::RangeConf;
use crate::tests::temporary::Temporary;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A network of its own, whose directory is gone after the test.
struct Fixture {
    temporary: Temporary,
    place: Place,
    set: RangeSet,
}

impl Fixture {
    fn new(subnet: &str) -> Fixture {
        let temporary = Temporary::new();
        let place = Place {
            data_dir: temporary.path().to_owned(),
            network: "net".to_owned(),
            lock_timeout: Duration::from_secs(20),
            cooldown: 0,
        };
        let conf = RangeConf { subnet: cni::cidr::parse(subnet).ok(), ..RangeConf::default() };
        Fixture { temporary, place, set: RangeSet::new(&[conf]).expect("valid") }
    }

    fn open(&self) -> Ledger {
        Ledger::create(&self.place).expect("it is ours")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join("net").join(name)
    }

    fn index(&self, name: &str) -> PathBuf {
        self.temporary.path().join(".oxcni/net").join(name)
    }

    /// What the lease of `ip` says.
    fn lease(&self, ip: &str) -> Option<String> {
        fs::read_to_string(self.path(ip)).ok()
    }

    /// Gives the next free address to `owner`, as ADD does.
    fn give(&self, owner: &str) -> Option<IpAddr> {
        let mut ledger = self.open();
        let ip = give(&mut ledger, &self.set, owner);
        ledger.finish();
        ip
    }

    fn take(&self, owner: &str) {
        let mut ledger = self.open();
        let held = ledger.held_by(&id(owner)).expect("readable");
        assert_eq!(ledger.release(&held, &id(owner)).len(), 0);
        ledger.finish();
    }

    fn held_by(&self, owner: &str) -> Vec<String> {
        let mut ledger = self.open();
        let held = ledger.held_by(&id(owner)).expect("readable");
        ledger.finish();
        held.iter().map(IpAddr::to_string).collect()
    }

    /// Has `change` happen without the directory's time telling.
    fn unnoticed(&self, change: impl FnOnce()) {
        let dir = Dir::open(self.path("")).expect("there");
        let before = dir.modified().expect("there");
        change();
        dir.set_modified(before).expect("it is ours");
    }
}

fn id(container_id: &str) -> AttachmentId {
    AttachmentId { container_id: container_id.to_owned(), ifname: "eth0".to_owned() }
}

/// In a namespace that lives: one that was made up has ended, says the kernel.
fn owner_of(container_id: &str) -> Owner {
    let netns = Trace::of(Path::new("/proc/self/ns/net"));
    assert!(netns.is_some(), "a process has one");
    Owner { id: id(container_id), netns }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn give(ledger: &mut Ledger, set: &RangeSet, owner: &str) -> Option<IpAddr> {
    let mut turn = ledger.turn(0).expect("readable");
    while let Some(ip) = ledger.next_free(set, turn.last).expect("readable") {
        if ledger.reserve(ip, &owner_of(owner), &mut turn).expect("it is ours").is_none() {
            return Some(ip);
        }
    }
    None
}

fn uses_index(ledger: &Ledger) -> bool {
    matches!(ledger.known, Known::Index(_))
}

fn sweep(
    ledger: &mut Ledger,
    young: std::ops::RangeInclusive<u64>,
    keep: impl Fn(&Holder) -> bool,
) -> Result<Vec<Error>> {
    ledger.sweep(young, keep, |_| ())
}

#[test]
fn leases_are_upstreams_files() {
    let f = Fixture::new("10.1.2.0/24");
    assert_eq!(f.give("c1"), Some(ip("10.1.2.2")));
    assert_eq!(f.give("c2"), Some(ip("10.1.2.3")));
    assert_eq!(f.lease("10.1.2.2").as_deref(), Some("c1\r\neth0"));
    assert_eq!(f.lease("last_reserved_ip.0").as_deref(), Some("10.1.2.3"));
    let mut names: Vec<_> = fs::read_dir(f.path(""))
        .expect("there")
        .map(|e| e.expect("there").file_name().into_string().expect("ASCII"))
        .collect();
    names.sort();
    assert_eq!(names, ["10.1.2.2", "10.1.2.3", "last_reserved_ip.0", "lock"]);
    let mode = |name: &str| f.path(name).metadata().expect("there").mode() & 0o7777;
    assert_eq!((mode("10.1.2.2"), mode("last_reserved_ip.0"), mode("")), (0o600, 0o600, 0o755));
    f.take("c1");
    assert_eq!(f.lease("10.1.2.2"), None);
    let v6 = Fixture::new("fd00::/64");
    v6.give("c1");
    assert_eq!(v6.lease("fd00::2").as_deref(), Some("c1\r\neth0"));
}

#[test]
fn leases_are_not_read_again_while_only_this_program_changes_them() {
    let f = Fixture::new("10.1.0.0/16");
    f.give("c0");
    for n in 1..20 {
        let mut ledger = f.open();
        assert!(uses_index(&ledger), "{n}");
        give(&mut ledger, &f.set, &format!("c{n}"));
        ledger.finish();
        f.take(&format!("c{}", n - 1));
        assert_eq!(f.held_by(&format!("c{n}")), [format!("10.1.0.{}", n + 2)]);
        assert_eq!(f.held_by(&format!("c{}", n - 1)), [""; 0]);
    }
    // Opening and looking changes nothing, also when it is not finished.
    drop(f.open());
    assert!(uses_index(&f.open()));
}

#[test]
fn whoever_reads_all_leases_leaves_an_index() {
    let f = Fixture::new("10.1.0.0/16");
    fs::create_dir(f.path("")).expect("made");
    fs::write(f.path("10.1.0.9"), "c1\r\neth0").expect("written");
    let open = || Ledger::open(&f.place).expect("ours").expect("it is there");
    open().finish();
    assert!(uses_index(&open()), "CHECK, DEL and STATUS");
    fs::remove_dir_all(f.temporary.path().join(".oxcni")).expect("there");
    let mut ledger = Ledger::open_to_sweep(&f.place).expect("ours").expect("it is there");
    assert_eq!(sweep(&mut ledger, u64::MAX..=u64::MAX, |_| true).expect("readable").len(), 0);
    ledger.finish();
    assert!(uses_index(&open()), "GC");
    assert_eq!(f.held_by("c1"), ["10.1.0.9"]);
}

/// GC has the list of all attachments in memory, and no room for an index of as
/// many leases beside it.
#[test]
fn a_sweep_of_thousands_leaves_the_index_to_the_next_verb() {
    let f = Fixture::new("10.1.0.0/16");
    fs::create_dir(f.path("")).expect("made");
    for n in 0..=FEW {
        let name = format!("10.1.{}.{}", 1 + n / 250, 1 + n % 250);
        fs::write(f.path(&name), format!("c{n}\r\neth0")).expect("written");
    }
    let mut ledger = Ledger::open_to_sweep(&f.place).expect("ours").expect("it is there");
    let gone = Holder::Attachment(id("c7"));
    let swept = sweep(&mut ledger, u64::MAX..=u64::MAX, |holder| *holder != gone);
    assert_eq!(swept.expect("readable").len(), 0);
    ledger.finish();
    assert_eq!((f.lease("10.1.1.8"), f.lease("10.1.1.9").is_some()), (None, true));
    let ledger = f.open();
    assert!(!uses_index(&ledger), "as many as there is room for are too many");
    ledger.finish();
    assert!(uses_index(&f.open()));
    assert_eq!((f.held_by("c7").len(), f.held_by("c8").len()), (0, 1));
}

/// More than there is room for in memory; the table that they outgrow, too.
#[test]
fn of_thousands_the_index_is_made_at_once() {
    let f = Fixture::new("10.1.0.0/16");
    fs::create_dir(f.path("")).expect("made");
    for n in 0..5000 {
        let name = format!("10.1.{}.{}", 1 + n / 250, 1 + n % 250);
        fs::write(f.path(&name), format!("c{n}\r\neth0")).expect("written");
    }
    let mut ledger = f.open();
    assert!(uses_index(&ledger), "nothing but the list of all");
    for n in 5000..7700 {
        give(&mut ledger, &f.set, &format!("c{n}")).expect("there is room");
    }
    assert!(uses_index(&ledger));
    ledger.finish();
    assert!(uses_index(&f.open()), "it is current");
    for (owner, count) in [("c0", 1), ("c4999", 1), ("c5000", 1), ("c7699", 1), ("c7700", 0)] {
        assert_eq!(f.held_by(owner).len(), count, "{owner}");
    }
}

#[test]
fn a_sweep_that_could_not_remove_leaves_no_index() {
    let f = Fixture::new("10.1.0.0/16");
    f.give("c1");
    f.give("c2");
    fs::write(f.path("x"), "").expect("written");
    let mut ledger = Ledger::open_to_sweep(&f.place).expect("ours").expect("it is there");
    // When it is to be removed, a folder stands there, which no lease is.
    let errors = sweep(&mut ledger, u64::MAX..=u64::MAX, |holder| {
        if *holder == Holder::Attachment(id("c1")) {
            fs::remove_file(f.path("10.1.0.2")).expect("there");
            fs::create_dir(f.path("10.1.0.2")).expect("made");
            return false;
        }
        true
    });
    assert_eq!(errors.expect("readable").len(), 1);
    ledger.finish();
    let mut ledger = f.open();
    assert!(!uses_index(&ledger));
    assert!(ledger.occupied().contains(number(ip("10.1.0.2"))));
    assert_eq!(ledger.held_by(&id("c2")).expect("readable"), [ip("10.1.0.3")]);
}

#[test]
fn changes_by_others_are_noticed() {
    let f = Fixture::new("10.1.0.0/16");
    f.give("c1");
    let write = |name: &str, content: &str| fs::write(f.path(name), content).expect("written");
    let changes: [(&str, &dyn Fn()); 5] = [
        ("a lease", &|| write("10.1.0.3", "c2\r\neth0")),
        ("a lease gone", &|| fs::remove_file(f.path("10.1.0.2")).expect("there")),
        ("an empty lease", &|| write("10.1.0.4", "")),
        ("moved", &|| fs::rename(f.path("10.1.0.3"), f.path("10.1.0.5")).expect("there")),
        ("a link", &|| symlink("lock", f.path("10.1.0.6")).expect("made")),
    ];
    for (what, change) in changes {
        assert!(uses_index(&f.open()), "before {what}");
        change();
        let ledger = f.open();
        assert!(!uses_index(&ledger), "{what}");
        ledger.finish();
    }
    assert_eq!(f.held_by("c1"), [""; 0]);
    assert_eq!(f.held_by("c2"), ["10.1.0.5"]);
    // .2 is where round robin is, .4 is nobody's, .5 and .6 are taken.
    assert_eq!(
        [f.give("x"), f.give("x"), f.give("x")],
        [ip("10.1.0.3"), ip("10.1.0.4"), ip("10.1.0.7")].map(Some)
    );
    assert_eq!(f.lease("10.1.0.4").as_deref(), Some("x\r\neth0"));
    assert!(f.path("10.1.0.6").is_symlink() && f.lease("lock").as_deref() == Some(""));
}

#[test]
fn a_former_boots_index_and_a_lost_one_are_made_anew() {
    let f = Fixture::new("10.1.0.0/16");
    f.give("c1");
    let mut ledger = f.open();
    ledger.boot += 1;
    ledger.touched = true;
    ledger.walk_again().expect("readable");
    ledger.finish();
    assert!(!uses_index(&f.open()), "of another boot");
    f.give("c2");
    for name in ["pages", "owners"] {
        assert!(uses_index(&f.open()));
        fs::remove_file(f.index(name)).expect("there");
        assert!(!uses_index(&f.open()), "no {name}");
        assert_eq!(f.held_by("c1"), ["10.1.0.2"]);
        fs::write(f.index(name), "nonsense").expect("written");
        assert_eq!(f.held_by("c2"), ["10.1.0.3"]);
    }
}

#[test]
fn without_an_index_everything_works() {
    let f = Fixture::new("10.1.0.0/16");
    fs::write(f.temporary.path().join(".oxcni"), "a file").expect("written");
    assert_eq!([f.give("c1"), f.give("c2")], [ip("10.1.0.2"), ip("10.1.0.3")].map(Some));
    assert_eq!(f.held_by("c1"), ["10.1.0.2"]);
    f.take("c1");
    assert_eq!(f.held_by("c1"), [""; 0]);
    // Nor is a planted link followed.
    let elsewhere = Temporary::new();
    fs::remove_file(f.temporary.path().join(".oxcni")).expect("there");
    fs::create_dir(f.temporary.path().join(".oxcni")).expect("made");
    symlink(elsewhere.path(), f.index("")).expect_err("a trailing slash");
    symlink(elsewhere.path(), f.temporary.path().join(".oxcni/net")).expect("made");
    f.give("c3");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("there").count(), 0);
}

#[test]
fn what_the_index_says_wrongly_is_found_out() {
    let f = Fixture::new("10.1.0.0/29");
    f.give("c1");
    f.give("c2");
    // A lease that is gone.
    f.unnoticed(|| fs::remove_file(f.path("10.1.0.2")).expect("there"));
    assert!(uses_index(&f.open()));
    assert_eq!(f.held_by("c1"), [""; 0]);
    // A lease that says something else.
    f.unnoticed(|| fs::write(f.path("10.1.0.3"), "c3\r\neth0").expect("there"));
    assert_eq!(f.held_by("c2"), [""; 0]);
    assert_eq!(f.held_by("c3"), ["10.1.0.3"]);
    // An address that is taken.
    f.unnoticed(|| fs::write(f.path("10.1.0.4"), "c4\r\neth0").expect("there"));
    assert_eq!(f.give("c5"), Some(ip("10.1.0.5")));
    assert_eq!(f.held_by("c4"), ["10.1.0.4"]);
}

#[test]
fn a_range_is_not_called_exhausted_on_hearsay_for_long() {
    let f = Fixture::new("10.1.0.0/29");
    let mut given = 0;
    while f.give("c").is_some() {
        given += 1;
    }
    assert_eq!(given, 5);
    f.unnoticed(|| fs::remove_file(f.path("10.1.0.4")).expect("there"));
    let mut ledger = f.open();
    assert_eq!(ledger.next_free(&f.set, None).expect("readable"), None, "the index was believed");
    assert!(uses_index(&ledger));
    ledger.now += DOUBT_AFTER;
    assert_eq!(ledger.next_free(&f.set, None).expect("readable"), None);
    ledger.now += 2;
    assert_eq!(ledger.next_free(&f.set, None).expect("readable"), Some(ip("10.1.0.4")));
    drop(ledger);
    let mut ledger = f.open();
    ledger.now -= 100;
    let found = ledger.next_free(&f.set, None).expect("readable");
    assert_eq!(found, Some(ip("10.1.0.4")), "a clock that was set back");
}

#[test]
fn the_table_grows_with_the_leases() {
    let f = Fixture::new("10.1.0.0/16");
    let mut first = f.open();
    give(&mut first, &f.set, "c0");
    first.finish();
    let small = fs::metadata(f.index("owners")).expect("there").len();
    for n in 1..250 {
        let mut ledger = f.open();
        assert!(uses_index(&ledger), "{n}");
        give(&mut ledger, &f.set, &format!("c{n}"));
        ledger.finish();
    }
    assert!(fs::metadata(f.index("owners")).expect("there").len() > small);
    for n in 0..250 {
        assert_eq!(f.held_by(&format!("c{n}")).len(), 1, "{n}");
    }
    // Slots of removed leases are used again or cleared away.
    for n in 0..600 {
        f.give(&format!("d{n}"));
        f.take(&format!("d{n}"));
    }
    assert_eq!(f.held_by("c249").len(), 1);
    assert!(fs::metadata(f.index("owners")).expect("there").len() < 4 * small);
}

#[test]
fn what_is_known_of_an_owner_survives_a_walk_but_not_another_lease() {
    let f = Fixture::new("10.1.0.0/16");
    f.give("c1");
    f.give("c2");
    fs::write(f.path("x"), "").expect("written");
    // The same content, but made by somebody else, later.
    let content = fs::read(f.path("10.1.0.3")).expect("there");
    fs::remove_file(f.path("10.1.0.3")).expect("there");
    fs::write(f.path("10.1.0.3"), content).expect("written");
    let later = fs::metadata(f.path("10.1.0.3")).expect("there").modified().expect("there");
    let later = later + Duration::from_nanos(1);
    fs::File::options()
        .write(true)
        .open(f.path("10.1.0.3"))
        .and_then(|file| file.set_modified(later))
        .expect("it is ours");
    let ledger = f.open();
    let Known::Memory(found) = &ledger.known else { panic!("the change was not noticed") };
    let netns: BTreeMap<IpAddr, (u32, bool)> =
        found.entries.iter().map(|e| (address(e.address), (e.netns, e.boot != 0))).collect();
    let own = owner_of("c1").netns.expect("a process has one").number;
    assert_eq!(
        netns,
        BTreeMap::from([(ip("10.1.0.2"), (own, true)), (ip("10.1.0.3"), (0, false))])
    );
}

#[test]
fn leases_of_the_old_format_are_of_all_interfaces() {
    let f = Fixture::new("10.1.0.0/16");
    fs::create_dir(f.path("")).expect("made");
    fs::write(f.path("10.1.0.9"), "c1").expect("written");
    assert_eq!(f.held_by("c1"), ["10.1.0.9"]);
    assert!(uses_index(&f.open()));
    assert_eq!(f.held_by("c1"), ["10.1.0.9"], "by the index, too");
    assert_eq!(f.held_by("c"), [""; 0]);
    f.give("c1");
    assert_eq!(f.held_by("c1"), ["10.1.0.2"], "one of its own comes first");
    f.take("c1");
    assert_eq!(f.held_by("c1"), ["10.1.0.9"]);
    f.take("c1");
    assert_eq!((f.lease("10.1.0.9"), f.held_by("c1").len()), (None, 0));
}

#[test]
fn more_than_one_lot_is_swept() {
    let f = Fixture::new("10.1.0.0/16");
    fs::create_dir_all(f.path("")).expect("made");
    let many = LOT * 2 + 5;
    for n in 0..many {
        let path = f.path(&format!("10.1.{}.{}", n / 250, n % 250 + 2));
        fs::write(path, format!("gone{n}\r\neth0")).expect("written");
    }
    fs::write(f.path("10.1.200.2"), "stays\r\neth0").expect("written");
    let mut told = 0;
    let mut ledger = f.open();
    let stays =
        |holder: &Holder| matches!(holder, Holder::Attachment(id) if id.container_id == "stays");
    let errors = ledger.sweep(u64::MAX..=u64::MAX, stays, |lot| told += lot.len());
    assert_eq!((errors.expect("readable").len(), told), (0, many));
    ledger.finish();
    assert_eq!(f.held_by("stays"), ["10.1.200.2"]);
    assert!(f.held_by("gone77").is_empty());
}

#[test]
fn only_addresses_are_leases() {
    let f = Fixture::new("10.1.0.0/16");
    fs::create_dir(f.path("")).expect("made");
    fs::create_dir(f.path("10.1.0.8")).expect("made");
    fs::create_dir(f.path("sub")).expect("made");
    symlink(f.path("10.1.0.2"), f.path("10.1.0.7")).expect("made");
    let names = [
        "10.1.0.2",
        "last_reserved_ip.1",
        "lock",
        "010.1.0.3",
        "FD00::3",
        "fd00::0:3",
        "x",
        "sub/10.1.0.4",
        "10.1.0.8/10.1.0.5",
    ];
    for name in names {
        fs::write(f.path(name), "c1\r\neth0").expect("written");
    }
    assert_eq!(f.held_by("c1"), ["10.1.0.2"]);
    f.take("c1");
    let left = names.iter().filter(|name| f.path(name).exists()).count();
    assert_eq!(left, names.len() - 1);
    let mut ledger = f.open();
    let swept = sweep(&mut ledger, u64::MAX..=u64::MAX, |_| false).expect("readable");
    assert_eq!(swept.len(), 0);
    ledger.finish();
    let left = names.iter().filter(|name| f.path(name).exists()).count();
    assert_eq!(left, names.len() - 1, "GC neither");
    assert!(f.path("10.1.0.7").is_symlink());
    let v6 = Fixture::new("fd00::/64");
    fs::create_dir(v6.path("")).expect("made");
    fs::write(v6.path("FD00::2"), "c1\r\neth0").expect("written");
    assert_eq!(v6.give("c2"), Some(ip("fd00::2")), "upstream would take it as well");
}

#[test]
fn a_sweep_takes_what_is_not_kept_and_not_young() {
    let f = Fixture::new("10.1.0.0/16");
    for owner in ["c1", "c2", "c3"] {
        f.give(owner);
    }
    fs::write(f.path("10.1.0.20"), "").expect("written");
    fs::write(f.path("10.1.0.21"), "old").expect("written");
    let started = store::now().as_nanos() as u64 + 1_000_000_000;
    let young = fs::File::create(f.path("10.1.0.22")).expect("made");
    fs::write(f.path("10.1.0.22"), "c9\r\neth0").expect("written");
    young.set_modified(std::time::SystemTime::now() + Duration::from_secs(2)).expect("ours");
    // Somebody else's files are there, so the index is outdated: GC makes it
    // anew, of what it leaves.
    let mut ledger = Ledger::open_to_sweep(&f.place).expect("ours").expect("it is there");
    let keep = id("c2");
    let errors = sweep(&mut ledger, started..=u64::MAX, |h| *h == Holder::Attachment(keep.clone()));
    assert_eq!(errors.expect("readable").len(), 0);
    ledger.finish();
    assert!(uses_index(&f.open()));
    assert_eq!(
        [f.lease("10.1.0.2"), f.lease("10.1.0.20"), f.lease("10.1.0.21")],
        [None, None, None]
    );
    assert_eq!(
        (f.held_by("c2"), f.held_by("c9")),
        (vec!["10.1.0.3".into()], vec!["10.1.0.22".into()])
    );
    // With a current index it is kept up to date.
    let mut ledger = Ledger::open_to_sweep(&f.place).expect("ours").expect("it is there");
    assert_eq!(sweep(&mut ledger, u64::MAX..=u64::MAX, |_| false).expect("readable").len(), 0);
    ledger.finish();
    let mut ledger = f.open();
    assert!(uses_index(&ledger));
    assert_eq!(ledger.held_by(&id("c2")).expect("readable"), [] as [IpAddr; 0]);
    drop(ledger);
    assert_eq!(f.give("c5"), Some(ip("10.1.0.5")));
}

/// A clock that was ahead keeps no lease of it for years.
#[test]
fn a_sweep_takes_what_is_younger_than_it_can_be() {
    let f = Fixture::new("10.1.0.0/16");
    f.give("c1");
    let made = fs::File::open(f.path("10.1.0.2")).expect("given");
    made.set_modified(std::time::SystemTime::now() + Duration::from_secs(1 << 30)).expect("ours");
    let now = store::now().as_nanos() as u64;
    let mut ledger = Ledger::open_to_sweep(&f.place).expect("ours").expect("it is there");
    assert_eq!(sweep(&mut ledger, now..=now, |_| false).expect("readable").len(), 0);
    assert_eq!(f.lease("10.1.0.2"), None);
}

#[test]
fn released_addresses_rest() {
    let mut f = Fixture::new("10.1.0.0/29");
    f.place.cooldown = 100;
    let all: Vec<_> = (0..5).map(|n| f.give(&format!("c{n}"))).collect();
    assert_eq!(
        all,
        ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"].map(|t| Some(ip(t)))
    );
    f.take("c3");
    // As if that was longer ago than the next one.
    let record = fs::read_to_string(f.index("released")).expect("there");
    let (since, address) = record.trim_end().split_once(' ').expect("a line");
    assert_eq!(address, "10.1.0.5");
    let earlier = since.parse::<u64>().expect("a number") - 50;
    fs::write(f.index("released"), format!("{earlier} {address}\n")).expect("written");
    f.take("c1");
    // Under pressure the one that rested longest comes first.
    assert_eq!(
        [f.give("d1"), f.give("d2"), f.give("d3")],
        [Some(ip("10.1.0.5")), Some(ip("10.1.0.3")), None]
    );
    // With others to be had it is passed over.
    f.take("c0");
    let mut ledger = f.open();
    ledger.resting = Some(Resting::read(None, 100, 0));
    assert_eq!(ledger.next_free(&f.set, None).expect("readable"), Some(ip("10.1.0.2")));
    drop(ledger);
    f.take("c2");
    let long_ago = earlier - 1000;
    fs::write(f.index("released"), format!("{long_ago} 10.1.0.4\n{} 10.1.0.2\n", earlier + 50))
        .expect("written");
    assert_eq!(f.give("d4"), Some(ip("10.1.0.4")), "its rest is over");
    // What was taken back unused needs no rest.
    let mut ledger = f.open();
    let mut turn = ledger.turn(0).expect("readable");
    ledger.reserve(ip("10.1.0.2"), &owner_of("e"), &mut turn).expect("it is free");
    ledger.take_back(&[ip("10.1.0.2")], &id("e"));
    assert!(
        ledger.resting.as_ref().is_some_and(|r| r.oldest(|_| true) == Some(number(ip("10.1.0.2"))))
    );
}
