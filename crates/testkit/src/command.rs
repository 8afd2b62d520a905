//! Running a command to its end, bounded in time, in a chosen network
//! namespace, with all that is needed to explain a failure.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long any one command may take. Far above what even an emulated CPU
/// needs, so that only a hang meets it.
const BOUND: Duration = Duration::from_secs(60);

/// A command line: words of one string, or a list taken as it is.
pub trait Argv {
    /// The program and its arguments.
    fn argv(&self) -> Vec<String>;
}

impl Argv for str {
    /// Splits at white space; there is no quoting.
    fn argv(&self) -> Vec<String> {
        self.split_whitespace().map(str::to_owned).collect()
    }
}

impl Argv for String {
    fn argv(&self) -> Vec<String> {
        self.as_str().argv()
    }
}

impl Argv for [&str] {
    fn argv(&self) -> Vec<String> {
        self.iter().map(|word| (*word).to_owned()).collect()
    }
}

impl<const N: usize> Argv for [&str; N] {
    fn argv(&self) -> Vec<String> {
        self.as_slice().argv()
    }
}

impl Argv for Vec<String> {
    fn argv(&self) -> Vec<String> {
        self.clone()
    }
}

impl<T: Argv + ?Sized> Argv for &T {
    fn argv(&self) -> Vec<String> {
        (*self).argv()
    }
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line as a person would type it.
    pub command: String,
    /// Where it ran: "host" or the container's name.
    pub place: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; invalid UTF-8 is replaced.
    pub stdout: String,
    /// Its standard error; invalid UTF-8 is replaced.
    pub stderr: String,
}

impl Output {
    /// Whether the exit status is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code, or `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The standard output of a command that succeeded.
    ///
    /// # Panics
    /// When it failed, with the whole story.
    #[track_caller]
    #[must_use]
    pub fn expect_success(self) -> String {
        assert!(self.success(), "command failed\n{self}");
        self.stdout
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[{}] $ {}", self.place, self.command)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                writeln!(f, "  {name}: {}", text.trim_end())?;
            }
        }
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "  exit {code}"),
            (None, Some(signal)) => write!(f, "  ended by signal {signal}"),
            (None, None) => write!(f, "  {}", self.status),
        }
    }
}

/// A command to run.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) argv: Vec<String>,
    /// The complete environment, or `None` to inherit ours.
    pub(crate) env: Option<BTreeMap<String, String>>,
    pub(crate) stdin: Vec<u8>,
    /// The namespace to run in, or `None` for the calling thread's.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) place: String,
}

impl Command {
    pub(crate) fn new(argv: &(impl Argv + ?Sized), place: &str, netns: Option<PathBuf>) -> Self {
        Self { argv: argv.argv(), env: None, stdin: Vec::new(), netns, place: place.to_owned() }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started, does not end in time, or something it
    /// started keeps its output open after it has ended.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        match self.try_run() {
            Ok(output) => output,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// As `run`, with the reason why it could not be run to its end.
    pub(crate) fn try_run(self) -> Result<Output, String> {
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err("an empty command line".to_owned());
        };
        let shown = self.argv.join(" ");
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(env) = &self.env {
            command.env_clear().envs(env);
        }
        // The child gets the namespaces of the thread that starts it, so a
        // thread that enters the container needs no way back.
        let spawned = match &self.netns {
            None => command.spawn(),
            Some(path) => in_netns(path, || command.spawn())?,
        };
        let mut child = spawned.map_err(|e| format!("run {shown} in {}: {e}", self.place))?;

        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid is a positive i32"));
        let mut stdin = child.stdin.take().expect("stdin was asked for");
        let input = self.stdin;
        // Not joined: it ends when the child has read or closed its input.
        // A child that reads nothing breaks the pipe, which is its own right.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let (done, ended) = mpsc::channel();
        let waiter = thread::spawn(move || done.send(child.wait_with_output()));
        let output = match ended.recv_timeout(BOUND) {
            Ok(output) => output.map_err(|e| format!("wait for {shown}: {e}"))?,
            Err(_) => {
                // Still ours: the waiter has not reaped it. If it has ended
                // and only its output is held open, there is nothing to kill.
                let _ = kill(pid, Signal::SIGKILL);
                return Err(format!(
                    "{shown} in {} did not end within {} s, or left a process behind \
                     that holds its output open",
                    self.place,
                    BOUND.as_secs()
                ));
            }
        };
        drop(waiter.join());
        Ok(Output {
            command: shown,
            place: self.place,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// Calls `work` in a thread that has entered the network namespace at `path`.
///
/// # Errors
/// When the namespace cannot be entered: the path is gone or no namespace.
pub(crate) fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let enter = || {
        let shown = path.display();
        let file = File::open(path).map_err(|e| format!("open the namespace {shown}: {e}"))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| format!("enter the namespace {shown}: {e}"))
    };
    // Panics are gathered by thread name, see `case`.
    let name = thread::current().name().unwrap_or("netns").to_owned();
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name(name)
            .spawn_scoped(scope, || enter().map(|()| work()))
            .map_err(|e| format!("start a thread: {e}"))?;
        worker.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
