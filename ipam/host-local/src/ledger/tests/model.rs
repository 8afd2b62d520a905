//! The ledger against a map, through random histories.

use super::*;
use proptest::prelude::*;

/// What may happen to a network's leases.
#[derive(Debug, Clone)]
enum Step {
    Give(u8),
    Take(u8),
    Sweep(u8),
    /// Like Give and Take, but the process is killed before it has finished.
    GiveCrash(u8),
    TakeCrash(u8),
    /// By another program.
    Write(u8, u8),
    Remove(u8),
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    let owner = 0_u8..5;
    prop_oneof![
        4 => owner.clone().prop_map(Step::Give),
        3 => owner.clone().prop_map(Step::Take),
        1 => owner.clone().prop_map(Step::Sweep),
        1 => owner.clone().prop_map(Step::GiveCrash),
        1 => owner.clone().prop_map(Step::TakeCrash),
        1 => (owner, 2_u8..14).prop_map(|(o, n)| Step::Write(o, n)),
        1 => (2_u8..14).prop_map(Step::Remove),
        1 => Just(Step::LoseIndex),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Against a map, whoever did what and whatever was interrupted.
    #[test]
    fn the_ledger_is_a_map_from_addresses_to_owners(steps in prop::collection::vec(step(), 1..40)) {
        let f = Fixture::new("10.1.0.0/28");
        f.open().finish();
        let mut model: BTreeMap<u8, u8> = BTreeMap::new();
        let (mut last, name) = (1_u8, |owner: u8| format!("c{owner}"));
        for step in steps {
            match step {
                Step::Give(owner) | Step::GiveCrash(owner) => {
                    let mut ledger = f.open();
                    let given = give(&mut ledger, &f.set, &name(owner));
                    match step {
                        Step::Give(_) => ledger.finish(),
                        _ => drop(ledger),
                    }
                    let expected = (last + 1..=14).chain(2..=last).find(|n| !model.contains_key(n));
                    prop_assert_eq!(given, expected.map(|n| ip(&format!("10.1.0.{n}"))));
                    if let Some(n) = expected {
                        model.insert(n, owner);
                        last = n;
                    }
                }
                Step::Take(owner) | Step::TakeCrash(owner) => {
                    let mut ledger = f.open();
                    let held = ledger.held_by(&id(&name(owner))).expect("readable");
                    prop_assert!(ledger.release(&held, &id(&name(owner))).is_empty());
                    match step {
                        Step::Take(_) => ledger.finish(),
                        _ => drop(ledger),
                    }
                    model.retain(|_, holder| *holder != owner);
                }
                Step::Sweep(owner) => {
                    let mut ledger = f.open();
                    let kept = Holder::Attachment(id(&name(owner)));
                    prop_assert!(sweep(&mut ledger, u64::MAX..=u64::MAX, |h| *h == kept).expect("readable").is_empty());
                    ledger.finish();
                    model.retain(|_, holder| *holder == owner);
                }
                Step::Write(owner, n) => {
                    if model.insert(n, owner).is_some() {
                        fs::remove_file(f.path(&format!("10.1.0.{n}"))).expect("there");
                    }
                    fs::write(f.path(&format!("10.1.0.{n}")), format!("c{owner}\r\neth0")).expect("written");
                }
                Step::Remove(n) => {
                    let removed = fs::remove_file(f.path(&format!("10.1.0.{n}"))).is_ok();
                    prop_assert_eq!(removed, model.remove(&n).is_some());
                }
                Step::LoseIndex => fs::remove_dir_all(f.index("")).expect("there"),
            }
            let mut ledger = f.open();
            for owner in 0..5 {
                let expected: Vec<IpAddr> = model
                    .iter()
                    .filter(|(_, holder)| **holder == owner)
                    .map(|(n, _)| ip(&format!("10.1.0.{n}")))
                    .collect();
                prop_assert_eq!(ledger.held_by(&id(&name(owner))).expect("readable"), expected);
            }
            ledger.finish();
        }
    }
}
