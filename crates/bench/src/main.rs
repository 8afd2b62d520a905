//! `oxcni-bench`: how fast the plugins are, beside a peer's.
//!
//! Every time is that of a whole process, from before it is started until its
//! end is known, as a runtime sees it. The two contenders take turns, so that
//! whatever else the machine does hits both; what is compared are first
//! quartiles. Peak memory and system calls come from runs of their own, which
//! are not timed. Nothing of the machine is touched but a folder for leases.
//!
//! It knows the plugins only from outside: as files that speak the protocol.

mod contender;
mod counts;
mod host;
mod installed;
mod judge;
mod leases;
mod leftovers;
mod measure;
mod report;
mod rows;
mod scenario;
mod stats;

use contender::{Contender, Who};
use measure::Bench;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::utsname::uname;
use report::Report;
use scenario::Scenario;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Failures end as one line; there is nothing to match on.
type Outcome<T> = Result<T, String>;

const HELP: &str = "\
oxcni-bench: time CNI plugins beside those of a peer

Usage: oxcni-bench [options] OURS PEER     two folders of plugins

  --rows TEXT     only scenarios with TEXT in their name; may be repeated
  --rounds N      how often each is timed, at the most (default 100); a group
                  that takes long ends after 30 s
  --data FOLDER   where leases are kept (default /var/tmp); its file system counts
  --json FILE     write everything that was found to FILE as well
  --strict        fail when something is slower than it must be
  --within PART   PEER can do all that OURS can: instead of what the rows need,
                  each verb takes PART (0.03) more than the peer's at the most,
                  and starts as many processes
  --list          only name the rows

It needs root, or `unshare -Urnm`, and the programs ip and strace. Exit code: 0;
1 when something failed to run or, with --strict, missed what it must reach.
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, [file, program @ ..])) if first == "--peak" => peak(Path::new(file), program),
        _ => Options::parse(arguments).and_then(|options| run(&options)),
    }
    .unwrap_or_else(|e| {
        remark(&e);
        ExitCode::FAILURE
    })
}

/// Runs a program as this one was called, and writes the peak memory of the
/// largest of it and what it waited for, in KiB. A child inherits the peak of
/// whoever starts it (`setmax_mm_hiwater_rss` in `exec_mmap`, fs/exec.c, Linux
/// 6.12), hence a small process of its own.
fn peak(file: &Path, program: &[OsString]) -> Outcome<ExitCode> {
    let (program, arguments) = program.split_first().ok_or("--peak FILE PROGRAM")?;
    let status = Command::new(program)
        .args(arguments)
        .status()
        .map_err(|e| format!("start {}: {e}", program.display()))?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| format!("getrusage: {e}"))?;
    fs::write(file, usage.max_rss().to_string())
        .map_err(|e| format!("write {}: {e}", file.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The command line, as given.
struct Options {
    folders: Vec<PathBuf>,
    rows: Vec<String>,
    rounds: usize,
    data: PathBuf,
    json: Option<PathBuf>,
    strict: bool,
    within: Option<f64>,
    list: bool,
    help: bool,
}

impl Options {
    fn parse(arguments: Vec<OsString>) -> Outcome<Options> {
        let mut options = Options {
            folders: Vec::new(),
            rows: Vec::new(),
            rounds: 100,
            data: "/var/tmp".into(),
            json: None,
            strict: false,
            within: None,
            list: false,
            help: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "-h" | "--help" => options.help = true,
                "--list" => options.list = true,
                "--strict" => options.strict = true,
                "--data" => options.data = value()?.into(),
                "--json" => options.json = Some(value()?.into()),
                "--within" => {
                    let text = value()?.to_string_lossy().into_owned();
                    let part = text.parse().ok().filter(|part: &f64| part.is_finite());
                    options.within = Some(part.ok_or(format!("{text:?} is no part"))?);
                }
                "--rows" => options.rows.push(value()?.to_string_lossy().into_owned()),
                "--rounds" => {
                    let text = value()?.to_string_lossy().into_owned();
                    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
                    options.rounds = rounds.ok_or(format!("{text:?} is no number of rounds"))?;
                }
                other if other.starts_with('-') => {
                    return Err(format!("unknown option {other}: see --help"));
                }
                _ => options.folders.push(argument.into()),
            }
        }
        Ok(options)
    }

    fn scenarios(&self) -> Outcome<Vec<Scenario>> {
        let mut scenarios = rows::all();
        if let Some(part) = self.within {
            scenarios.retain(|scenario| !scenario.only_ours);
            scenarios = scenarios.into_iter().map(|s| s.beside_equal(1.0 + part)).collect();
        }
        scenarios.retain(|scenario| {
            let is_meant = |text: &String| {
                scenario.verbs.iter().any(|(verb, _)| scenario.row(*verb).contains(text.as_str()))
                    || scenario.name().contains(text.as_str())
            };
            self.rows.is_empty() || self.rows.iter().any(is_meant)
        });
        if scenarios.is_empty() {
            return Err(format!("no row has {:?} in its name: see --list", self.rows));
        }
        Ok(scenarios)
    }
}

fn run(options: &Options) -> Outcome<ExitCode> {
    if options.help {
        return print(HELP);
    }
    let mut scenarios = options.scenarios()?;
    if options.list {
        let rows = scenarios
            .iter()
            .flat_map(|scenario| scenario.verbs.iter().map(|(verb, _)| scenario.row(*verb) + "\n"));
        return print(&rows.collect::<String>());
    }
    let [ours, peer] = options.folders.as_slice() else {
        return Err("two folders are needed, of our plugins and of the peer's: see --help".into());
    };
    let absolute = |folder: &PathBuf| {
        fs::canonicalize(folder).map_err(|e| format!("{}: {e}", folder.display()))
    };
    let (ours, peer) = (absolute(ours)?, absolute(peer)?);
    for folder in [&ours, &peer] {
        if installed::installed(folder, None)?.names.is_empty() {
            return Err(format!("there is no plugin in {}", folder.display()));
        }
    }
    let data = Data::create(&absolute(&options.data)?)?;

    host::hide_the_machine()?;
    let mut conditions = conditions(options, &ours, &peer, &data.0)?;
    scenarios.retain(|scenario| {
        let lacked = scenario.kernel_may_lack.filter(|kind| !host::makes_links(kind));
        conditions.extend(
            lacked
                .map(|kind| format!("{}: not measured: the kernel lacks {kind}", scenario.name())),
        );
        lacked.is_none()
    });
    for scenario in &mut scenarios {
        if let Some(plugin) = scenario.peer_may_lack
            && !peer.join(plugin).exists()
        {
            scenario.only_ours = true;
            let name = scenario.name();
            conditions.push(format!("{name}: not beside the peer, which has no {plugin}"));
        }
    }
    let ours_here = Contender::new(Who::Ours, &ours, &data.0)?;
    let mut peer_here = Contender::new(Who::Peer, &peer, &data.0)?;
    peer_here.is_ours = options.within.is_some();
    let mut bench = Bench::new(ours_here, peer_here, options.rounds)?;
    let mut results = Vec::new();
    for group in
        scenarios.chunk_by(|left, right| !left.group.is_empty() && left.group == right.group)
    {
        let names: Vec<_> = group.iter().map(Scenario::name).collect();
        remark(&names.join("; "));
        results.extend(bench.run_group(group));
    }

    let ours = installed::installed(&ours, None)?;
    let peer = installed::installed(&peer, Some(&ours.names))?;
    let measured: Vec<_> = scenarios.iter().zip(&results).collect();
    let report = Report { conditions, measured: &measured, installed: [ours, peer] };
    print(&report.text())?;
    if let Some(file) = &options.json {
        fs::write(file, format!("{:#}\n", report.json()))
            .map_err(|e| format!("write {}: {e}", file.display()))?;
    }
    let tally = report.tally();
    let failed = tally.failed > 0 || options.strict && tally.missed > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(text: &str) -> Outcome<ExitCode> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|e| format!("write to stdout: {e}"))?;
    Ok(ExitCode::SUCCESS)
}

/// A line on stderr.
fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "oxcni-bench: {text}");
}

/// A folder for leases that goes with the value.
struct Data(PathBuf);

impl Data {
    fn create(parent: &Path) -> Outcome<Data> {
        let folder = parent.join(format!("oxcni-bench.{}", std::process::id()));
        fs::create_dir(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
        Ok(Data(folder))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the numbers depend on.
fn conditions(options: &Options, ours: &Path, peer: &Path, data: &Path) -> Outcome<Vec<String>> {
    let system = uname().map_err(|e| format!("uname: {e}"))?;
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    Ok(vec![
        format!("ours {}, peer {}", ours.display(), peer.display()),
        format!(
            "Linux {}, {processors} processors, load {load}; leases on {}; {} rounds at most",
            system.release().display(),
            file_system(data)?,
            options.rounds
        ),
    ])
}

/// The kind of the file system that a path is on, by the last mount above it.
fn file_system(path: &Path) -> Outcome<String> {
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(|e| format!("read /proc/self/mounts: {e}"))?;
    let kind = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            path.starts_with(point).then_some((point.len(), kind))
        })
        .max_by_key(|(length, _)| *length);
    Ok(kind.map_or("an unknown file system", |(_, kind)| kind).to_owned())
}
