//! From cases to a test run that looks and counts like cargo's own.
//!
//! | variable | meaning |
//! |---|---|
//! | `OXCNI_LANE` | `pure`, `namespace` or `vm`: only the cases of that lane; default all. `vm`: those that need a distribution's kernel, and some of the packet filter's |
//! | `OXCNI_SKIP_REPORT` | a file; each skipped case adds the line `<case> needs <feature>, ..` |
//! | `OXCNI_TEST_PLUGINS` | the folder of plugins under test; default our own executable |

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, id};
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Trial};
use testkit::{Case, Lane};

/// The executable of the plugins, built by cargo beside this one.
const EXECUTABLE: &str = env!("CARGO_BIN_EXE_oxcni");

/// Runs the cases of the chosen lane; the exit code is cargo's: 101 when any
/// fails.
pub(crate) fn run(cases: Vec<Case>) -> ExitCode {
    let arguments = Arguments::from_args();
    let chosen = match Setting::read() {
        Ok(setting) => setting,
        Err(reason) => return refuse(&reason),
    };
    if !arguments.list
        && setting_needs_plugins(&chosen)
        && let Err(e) = link_plugins(Path::new(EXECUTABLE))
    {
        return refuse(&format!("lay out the plugins under test: {e}"));
    }
    testkit::record_panics();
    let report = chosen.report.map(Arc::new);
    let trials = cases
        .into_iter()
        .filter(|case| chosen.lane.is_none_or(|lane| lane.takes(case)))
        .map(|case| trial(case, report.clone()))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The lane of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Pure,
    Namespace,
    Vm,
}

impl Chosen {
    fn takes(self, case: &Case) -> bool {
        match self {
            Self::Pure => case.lane() == Lane::Pure,
            Self::Namespace => case.lane() == Lane::Namespace,
            // Emulation is slow: most of what this machine's kernel shows is not run twice.
            Self::Vm => case.needs_another_kernel(),
        }
    }
}

/// What the environment asks for.
struct Setting {
    lane: Option<Chosen>,
    report: Option<File>,
    foreign_plugins: bool,
}

impl Setting {
    #[expect(clippy::disallowed_methods, reason = "the tests' own settings, read once")]
    fn read() -> Result<Self, String> {
        let lane = match env::var("OXCNI_LANE").as_deref() {
            Err(_) | Ok("") => None,
            Ok("pure") => Some(Chosen::Pure),
            Ok("namespace") => Some(Chosen::Namespace),
            Ok("vm") => Some(Chosen::Vm),
            Ok(other) => return Err(format!("OXCNI_LANE={other}: use pure, namespace or vm")),
        };
        let path = env::var_os("OXCNI_SKIP_REPORT").map(PathBuf::from);
        let open = |path: PathBuf| {
            let file = OpenOptions::new().append(true).create(true).open(&path);
            file.map_err(|e| format!("open {}: {e}", path.display()))
        };
        let foreign_plugins = env::var_os("OXCNI_TEST_PLUGINS").is_some_and(|v| !v.is_empty());
        Ok(Self { lane, report: path.map(open).transpose()?, foreign_plugins })
    }
}

fn setting_needs_plugins(setting: &Setting) -> bool {
    !setting.foreign_plugins && setting.lane != Some(Chosen::Pure)
}

fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "integration: {reason}");
    ExitCode::from(2)
}

/// A case as libtest-mimic runs it. Features are tried when it is its turn, so
/// that a filtered run tries only what it needs.
fn trial(case: Case, report: Option<Arc<File>>) -> Trial {
    Trial::ignorable_test(case.name().to_owned(), move || {
        let missing: Vec<_> = case.missing().iter().map(|feature| feature.name()).collect();
        if missing.is_empty() {
            return case.run().map(|()| Completion::Completed).map_err(Into::into);
        }
        let reason = format!("needs {}", missing.join(", "));
        if let Some(mut file) = report.as_deref() {
            // One write in append mode: lines of other threads stay whole.
            let line = format!("{} {reason}\n", case.name());
            file.write_all(line.as_bytes()).map_err(|e| format!("write the skip report: {e}"))?;
        }
        Ok(Completion::ignored_with(reason))
    })
}

/// Lays out a folder as an installed one: the executable under each plugin's
/// name, beside the executable itself.
fn link_plugins(executable: &Path) -> io::Result<()> {
    let folder = executable.with_file_name("plugins-under-test");
    fs::create_dir_all(&folder)?;
    let output = Command::new(executable).arg("--plugins").output()?;
    let names = String::from_utf8_lossy(&output.stdout);
    let names: Vec<_> = names.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
    if !output.status.success() || names.is_empty() {
        return Err(io::Error::other(format!("{} --plugins names none", executable.display())));
    }
    for name in &names {
        // Another run of this executable may do the same at the same time.
        let beside = folder.join(format!(".{name}.{}", id()));
        if fs::hard_link(executable, &beside).is_err() {
            fs::copy(executable, &beside)?;
        }
        fs::rename(&beside, folder.join(name))?;
        // Renaming a link over another link to the same file leaves both.
        if beside.exists() {
            fs::remove_file(&beside)?;
        }
    }
    // What an older build left would be tested as if it were still there.
    for entry in fs::read_dir(&folder)?.flatten() {
        let name = entry.file_name();
        if !names.iter().any(|known| name == **known) && !name.to_string_lossy().starts_with('.') {
            fs::remove_file(entry.path())?;
        }
    }
    testkit::set_plugins_folder(&folder);
    Ok(())
}
