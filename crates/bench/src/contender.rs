//! The two that are compared, and how one of them is called.

use crate::Outcome;
use crate::host::{make_folder, pipe_with};
use crate::scenario::Verb;
use crate::stats::Sample;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What programs of plugins are found by.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Characters of a configuration that an error shows.
const LONGEST_SHOWN: usize = 800;

/// Whose time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Ours,
    Peer,
    /// `ip link del`, for comparison.
    Link,
}

impl Who {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Ours => "ours",
            Who::Peer => "peer",
            Who::Link => "ip link del",
        }
    }
}

/// A folder of plugins, and one for their leases.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) who: Who,
    pub(crate) plugins: PathBuf,
    /// Has what only our plugins know: either, where two builds of them are compared.
    pub(crate) is_ours: bool,
    /// A folder for leases, on the file system that was asked for.
    pub(crate) data: PathBuf,
}

impl Contender {
    pub(crate) fn new(who: Who, plugins: &Path, data: &Path) -> Outcome<Contender> {
        let data = data.join(who.name());
        make_folder(&data)?;
        Ok(Contender { who, plugins: plugins.to_owned(), is_ours: who == Who::Ours, data })
    }
}

/// How a plugin is started.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Under<'a> {
    /// As a runtime does.
    Nothing,
    /// With its peak memory written to a file, by this very program.
    Peak(&'a Path),
    /// With its system calls written to a file.
    Strace(&'a Path),
}

impl Under<'_> {
    fn command(self, program: &Path) -> Outcome<Command> {
        let mut command = match self {
            Under::Nothing => return Ok(Command::new(program)),
            Under::Peak(file) => {
                let own = std::env::current_exe().map_err(|e| format!("find oneself: {e}"))?;
                let mut command = Command::new(own);
                command.arg("--peak").arg(file);
                command
            }
            Under::Strace(file) => {
                let mut command = Command::new(find_program("strace")?);
                command.args(["-f", "-qq", "-yy", "-v", "-e", "signal=none", "-o"]).arg(file);
                command
            }
        };
        command.arg(program);
        Ok(command)
    }
}

/// The file of a program in `PATH`; a path lets std start it the cheap way.
pub(crate) fn find_program(name: &str) -> Outcome<PathBuf> {
    PATH.split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("there is no {name} in {PATH}"))
}

/// A container as a runtime names it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) netns: PathBuf,
}

/// What a call took and said.
pub(crate) struct Answer {
    pub(crate) sample: Sample,
    pub(crate) result: Value,
}

/// Calls a plugin and waits for its end. The clock runs from before the process
/// is started until its end is known.
///
/// # Errors
/// When it cannot be started, fails, or prints something else than JSON.
pub(crate) fn call(
    contender: &Contender,
    program: &str,
    verb: Verb,
    container: &Container,
    conf: &Value,
    under: Under<'_>,
) -> Outcome<Answer> {
    let said = Path::new("/run/stderr").join(&container.id);
    make_folder(Path::new("/run/stderr"))?;
    let stderr = File::create(&said).map_err(|e| format!("create {}: {e}", said.display()))?;
    let mut command = under.command(&contender.plugins.join(program))?;
    command
        .env_clear()
        .env("PATH", PATH)
        .env("CNI_COMMAND", verb.name())
        .env("CNI_CONTAINERID", &container.id)
        .env("CNI_NETNS", &container.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", &contender.plugins)
        .stdin(input(&container.id, conf)?)
        .stdout(Stdio::piped())
        .stderr(stderr);
    let answer = timed(command);
    let stderr = fs::read_to_string(&said).unwrap_or_default();
    let _ = fs::remove_file(&said);
    let failed = |e: &str| {
        let program = contender.plugins.join(program);
        let conf: String = conf.to_string().chars().take(LONGEST_SHOWN).collect();
        format!("{} {verb} with {conf}: {e} {stderr}", program.display()).trim_end().to_owned()
    };
    let (sample, stdout) = answer.map_err(|e| failed(&e))?;
    let result = match stdout.trim_ascii() {
        [] => Value::Null,
        text => serde_json::from_slice(text).map_err(|e| failed(&format!("bad result: {e}")))?,
    };
    Ok(Answer { sample, result })
}

/// A pipe, as from a runtime, unless a pipe cannot hold all of it.
fn input(name: &str, conf: &Value) -> Outcome<Stdio> {
    let text = conf.to_string();
    if text.len() <= 65_536 {
        return pipe_with(text.as_bytes());
    }
    let path = Path::new("/run").join(format!("stdin-{name}"));
    let file = fs::write(&path, text).and_then(|()| File::open(&path));
    let file = file.map_err(|e| format!("write {}: {e}", path.display()))?;
    let _ = fs::remove_file(&path);
    Ok(file.into())
}

/// Runs a command whose stdout is a pipe. The processor time is only right when
/// nothing else is started meanwhile.
///
/// # Errors
/// When it fails, with its stdout.
pub(crate) fn timed(mut command: Command) -> Outcome<(Sample, Vec<u8>)> {
    let mut stdout = Vec::with_capacity(4096);
    let before = cpu_of_children()?;
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("start: {e}"))?;
    if let Some(pipe) = &mut child.stdout {
        pipe.read_to_end(&mut stdout).map_err(|e| format!("read its output: {e}"))?;
    }
    let status = child.wait().map_err(|e| format!("wait: {e}"))?;
    let wall = start.elapsed();
    let cpu = cpu_of_children()?.saturating_sub(before);
    if !status.success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&stdout).trim()));
    }
    Ok((Sample { wall, cpu }, stdout))
}

/// What all processes took that were waited for, and what those waited for.
pub(crate) fn cpu_of_children() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| format!("getrusage: {e}"))?;
    let micros = |time: nix::sys::time::TimeVal| {
        time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs()
    };
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}
