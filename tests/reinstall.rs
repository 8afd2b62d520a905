//! An installation over running use: whoever starts a plugin while `scripts/install`
//! replaces it gets the old one or the new one, whole.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use testkit::{Case, Host, Netns as _, Output, cases};

pub(crate) fn list() -> Vec<Case> {
    let list = cases! {
        [] plugins_run_while_they_are_installed_again,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// Installations, unless `OXCNI_REINSTALLS` says how many.
const INSTALLATIONS: usize = 10;

/// Executions for each of them.
const EXECUTIONS: usize = 100;

const CALLERS: usize = 4;

#[expect(clippy::disallowed_methods, reason = "the test's own setting")]
fn installations() -> usize {
    let text = std::env::var("OXCNI_REINSTALLS").ok();
    text.map_or(INSTALLATIONS, |text| text.parse().expect("OXCNI_REINSTALLS: a number"))
}

fn plugins_run_while_they_are_installed_again(host: &Host) {
    let built = host.scratch().join("built");
    let folder = host.scratch().join("installed");
    for path in [&built, &folder] {
        fs::create_dir_all(path).expect("our folder");
    }
    // Without what is for the debugger it is copied in a moment.
    let executable = Path::new(env!("CARGO_BIN_EXE_oxcni")).display().to_string();
    let small = built.join("oxcni").display().to_string();
    host.exec(["objcopy", "--strip-debug", &executable, &small]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install");
    let install = || {
        let line = [script, "--from", &built.display().to_string(), &folder.display().to_string()]
            .map(str::to_owned);
        let output = host.try_exec(line.to_vec());
        assert!(output.success(), "{output}");
    };
    install();
    let names: Vec<_> = host.files(&folder).into_iter().collect();
    assert!(names.len() > 10 && names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    let call = |nth: usize| -> Output {
        let program = folder.join(&names[nth % names.len()]).display().to_string();
        host.try_exec(vec!["env".to_owned(), "CNI_COMMAND=VERSION".to_owned(), program])
    };
    let (wanted, begun) = (installations(), Instant::now());
    let (installed, calls, failed) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    host.parallel(CALLERS + 1, |number| {
        if number == 0 {
            while installed.load(Ordering::Relaxed) < wanted && !failed.load(Ordering::Relaxed) {
                // Spread over all executions.
                if calls.load(Ordering::Relaxed) >= installed.load(Ordering::Relaxed) * EXECUTIONS {
                    install();
                    installed.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
            return;
        }
        let is_over = || {
            let (installed, calls) =
                (installed.load(Ordering::Relaxed), calls.load(Ordering::Relaxed));
            installed >= wanted && calls >= wanted * EXECUTIONS
        };
        while !is_over() {
            let output = call(calls.fetch_add(1, Ordering::Relaxed));
            let is_whole = output.success() && output.stdout.contains("supportedVersions");
            if !is_whole {
                failed.store(true, Ordering::Relaxed);
                panic!("{output}");
            }
        }
    });
    let (calls, took) = (calls.into_inner(), begun.elapsed().as_secs());
    let _ = writeln!(io::stderr(), "{calls} executions during {wanted} reinstalls in {took} s");
    assert_eq!(host.files(&folder).into_iter().collect::<Vec<_>>(), names, "nothing is left over");
}
