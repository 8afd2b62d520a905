//! Which leases are taken over, and how.

use super::*;
use crate::ledger::stale::of_former_boot;

/// Makes the ledgers of `f` those of another boot.
fn in_boot(f: &Fixture, boot: u64) -> Ledger {
    let dir = Dir::open(f.place.dir()).expect("there");
    let mut ledger = Ledger::new(&f.place, dir).expect("ours");
    ledger.boot = boot;
    ledger.complete().expect("readable");
    ledger
}

fn date(f: &Fixture, name: &str, seconds: u64) {
    let file = fs::File::options().write(true).open(f.path(name)).expect("there");
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).expect("ours");
}

fn stale(ledger: &Ledger) -> Option<String> {
    ledger.stale(&|_| true).expect("readable").map(|stale| stale.ip.to_string())
}

#[test]
fn boot_and_time_tell_what_is_of_a_former_boot() {
    const THIS: u64 = 1 << 40 | 7;
    let booted = Duration::from_secs(1000);
    let second = 1_000_000_000;
    for (recorded, made, boot, is_former) in [
        (0, 999 * second, THIS, true),
        (0, 999 * second, 0, true),
        (0, 1000 * second, THIS, false),
        (0, 0, THIS, false),
        (7, 999 * second, THIS, false),
        (8, 2000 * second, THIS, true),
        (8, 2000 * second, 0, false),
        (8, 0, THIS, true),
    ] {
        let owner = Entry { owner: 5, address: 1, made, boot: recorded, netns: 0, netns_id: 0 };
        let said = of_former_boot(&owner, boot, booted);
        assert_eq!(said, is_former, "{recorded} {made} {boot}");
        // Not known when it began: by the record alone.
        let said = of_former_boot(&owner, boot, Duration::ZERO);
        assert_eq!(said, is_former && recorded != 0, "{recorded} {made} {boot}");
    }
}

#[test]
fn a_lease_is_taken_over_as_it_was_judged_or_not_at_all() {
    let f = Fixture::new("10.1.0.0/29");
    for n in 2..=6 {
        f.give(&format!("c{n}"));
    }
    assert_eq!(stale(&f.open()), None, "what they were given in is not known to have ended");
    let mut ledger = in_boot(&f, 99);
    assert_eq!(stale(&ledger).as_deref(), Some("10.1.0.2"));
    // Somebody who does not take the lock.
    fs::write(f.path("10.1.0.2"), "other\r\neth0").expect("written");
    fs::remove_file(f.path("10.1.0.3")).expect("there");
    let found = ledger.stale(&|_| true).expect("readable").expect("three are left");
    assert_eq!(found.ip, ip("10.1.0.4"));
    let mut turn = ledger.turn(0).expect("readable");
    ledger.take_over(&found, &owner_of("new"), &mut turn).expect("ours");
    assert_eq!(ledger.held_by(&id("new")).expect("readable"), [ip("10.1.0.4")]);
    assert_eq!(ledger.held_by(&id("c4")).expect("readable"), [] as [IpAddr; 0]);
    assert_eq!(f.lease("10.1.0.4").as_deref(), Some("new\r\neth0"));
    assert_eq!(f.lease("last_reserved_ip.0").as_deref(), Some("10.1.0.4"));
    assert!(ledger.occupied().contains(number(ip("10.1.0.4"))));
    assert_eq!(stale(&ledger).as_deref(), Some("10.1.0.5"), "that one is of this boot now");
    ledger.finish();
    assert!(!f.index("new").exists());
    let mut ledger = in_boot(&f, 99);
    assert!(uses_index(&ledger));
    assert_eq!(ledger.held_by(&id("new")).expect("readable"), [ip("10.1.0.4")]);
    // The index is the shortcut to the same.
    assert_eq!(stale(&ledger).as_deref(), Some("10.1.0.5"));
}

#[test]
fn what_an_index_has_seen_is_of_its_boot() {
    let f = Fixture::new("10.1.0.0/29");
    fs::create_dir(f.path("")).expect("made");
    fs::write(f.path("10.1.0.9"), "peer\r\neth0").expect("written");
    in_boot(&f, 98).finish();
    assert_eq!(stale(&in_boot(&f, 98)), None, "of that boot, as far as the time tells");
    assert_eq!(stale(&in_boot(&f, 99)).as_deref(), Some("10.1.0.9"));
}

#[test]
fn without_an_index_the_time_tells() {
    let f = Fixture::new("10.1.0.0/29");
    fs::write(f.temporary.path().join(".oxcni"), "a file").expect("written");
    f.give("c1");
    f.give("c2");
    f.give("c3");
    assert_eq!(stale(&f.open()), None);
    date(&f, "10.1.0.2", 2000);
    date(&f, "10.1.0.3", 1000);
    fs::write(f.path("10.1.0.9"), "").expect("written");
    date(&f, "10.1.0.9", 500);
    let mut ledger = f.open();
    let found = ledger.stale(&|_| true).expect("readable").expect("two are old");
    assert_eq!(found.ip, ip("10.1.0.3"), "the oldest; an empty one is free");
    let mut turn = ledger.turn(0).expect("readable");
    ledger.take_over(&found, &owner_of("new"), &mut turn).expect("ours");
    assert_eq!(stale(&ledger).as_deref(), Some("10.1.0.2"));
    drop(ledger);
    assert_eq!((f.held_by("new"), f.held_by("c2")), (vec!["10.1.0.3".to_owned()], vec![]));
}

#[test]
fn a_lease_that_goes_on_is_of_now() {
    let f = Fixture::new("10.1.0.0/29");
    f.give("c1");
    fs::write(f.path("10.1.0.9"), "c1").expect("written");
    date(&f, "10.1.0.2", 1000);
    date(&f, "10.1.0.9", 1000);
    let mut ledger = in_boot(&f, 99);
    ledger.renew(ip("10.1.0.2"), &owner_of("c1")).expect("ours");
    ledger.renew(ip("10.1.0.9"), &owner_of("c1")).expect("ours");
    assert_eq!(stale(&ledger), None);
    assert_eq!(f.lease("10.1.0.2").as_deref(), Some("c1\r\neth0"));
    assert_eq!(f.lease("10.1.0.9").as_deref(), Some("c1"), "of all interfaces, as it was");
    ledger.finish();
    fs::remove_dir_all(f.index("")).expect("there");
    assert_eq!(stale(&in_boot(&f, 100)), None, "nor by its time");
    // Once is enough.
    let before = fs::metadata(f.path("10.1.0.2")).expect("there").ino();
    let mut ledger = in_boot(&f, 100);
    ledger.renew(ip("10.1.0.2"), &owner_of("c1")).expect("ours");
    let renewed = fs::metadata(f.path("10.1.0.2")).expect("there").ino();
    ledger.renew(ip("10.1.0.2"), &owner_of("c1")).expect("ours");
    assert_ne!(before, renewed);
    assert_eq!(renewed, fs::metadata(f.path("10.1.0.2")).expect("there").ino());
}
