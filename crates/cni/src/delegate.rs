//! Find another plugin and run it: IPAM, or the plugin a configuration
//! wrapper such as flannel stands in front of.
//!
//! The delegate is looked up in `CNI_PATH`. When the file found is this very
//! executable (same device and inode, as hard links have), it is called in
//! process: the same code, without the exec. Any other file is executed with
//! the same environment and the same configuration on stdin.

use crate::attachments::Whole;
use crate::dispatch::Verb;
use crate::error::cut;
use crate::log;
use crate::request::incompatible;
use crate::{Code, Error, Network, Plugin, Request, Result, Success, config, versions};
use serde::Deserialize;
use serde_json::Value;
use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a file that another process is writing (ETXTBSY) is retried, and
/// how often. Installers that write in place need a second or two.
const BUSY_LIMIT: Duration = Duration::from_secs(6);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The most that is read of a delegate's answer, in bytes: as much as of a
/// configuration.
const OUTPUT_LIMIT: u64 = 16 << 20;

/// What is quoted of an answer that is no CNI answer, in bytes.
const QUOTE_LIMIT: usize = 1 << 10;

/// What is passed through of each text of a delegate's error, in bytes.
const ERROR_LIMIT: usize = 8 << 10;

/// The host's network namespace, which the thread of a plugin may have left.
pub trait Home {
    /// Has a command run in it.
    fn command(&self, command: &mut Command);

    /// Does `act` in it.
    ///
    /// # Errors
    /// The kernel's; then nothing was done.
    fn run(&self, act: &mut (dyn FnMut() + Send)) -> Result<()>;
}

/// A plugin found for a network.
pub struct Delegate<'a> {
    network: &'a Network,
    kind: &'a str,
    found: Found,
    home: Option<&'a dyn Home>,
    /// Was it executed, at least once? Never when it is ours.
    ran: Cell<bool>,
}

enum Found {
    Ours(&'static dyn Plugin),
    Foreign(PathBuf),
}

impl<'a> Delegate<'a> {
    /// Finds the plugin of CNI type `kind` in `CNI_PATH`.
    ///
    /// # Errors
    /// Code 7 for an impossible name, 999 when there is no such file; both say
    /// where was looked.
    pub fn find(network: &'a Network, kind: &'a str) -> Result<Delegate<'a>> {
        let file = find_file(network.path(), kind)?;
        let ours = network
            .registry()
            .iter()
            .find(|plugin| plugin.name() == kind && is_this_executable(&file));
        let found = match ours {
            Some(plugin) => Found::Ours(*plugin),
            None => Found::Foreign(file),
        };
        Ok(Delegate { network, kind, found, home: None, ran: Cell::new(false) })
    }

    /// Has it run on the host, wherever the thread is.
    pub fn at_home(mut self, home: &'a dyn Home) -> Delegate<'a> {
        self.home = Some(home);
        self
    }

    /// Is it called in this process?
    pub fn is_ours(&self) -> bool {
        matches!(self.found, Found::Ours(_))
    }

    /// May a failed ADD have left something? One that is called in process has
    /// undone itself, and one that could not be started has done nothing.
    pub fn may_have_left_something(&self) -> bool {
        self.ran.get()
    }

    /// ADD.
    ///
    /// # Errors
    /// The delegate's own error, or code 999 when it could not be run or did
    /// not answer as a plugin does.
    pub fn add(&self, request: &Request) -> Result<Success> {
        match &self.found {
            Found::Ours(plugin) => {
                let started = self.started();
                let outcome = self.speaks(*plugin).and_then(|plugin| self.lease(plugin, request));
                if started.is_some() {
                    self.record(Verb::Add, started, outcome.as_ref().map(log::addresses));
                }
                versions::narrow(outcome?, self.network.version())
            }
            Found::Foreign(file) => {
                let stdout = self.execute(file, Verb::Add)?;
                let value = config::parse(&stdout).map_err(|e| {
                    Error::internal(format!("read the result of delegate {:?}: {e}", self.kind))
                })?;
                // Some say so and end as if all were well.
                if let Some(error) = error_in(&value).filter(|error| error.code() != Code(0)) {
                    return Err(error);
                }
                versions::parse_result(&value, self.network.version()).map_err(|e| {
                    e.shortened(ERROR_LIMIT).context(format!("delegate {:?}", self.kind))
                })
            }
        }
    }

    fn lease(&self, plugin: &dyn Plugin, request: &Request) -> Result<Success> {
        plugin.lease(request, &|dead, address| {
            let mut forgotten = Ok(());
            let mut forget = || forgotten = self.network.forget(dead, address);
            match self.home {
                Some(home) => home.run(&mut forget)?,
                None => forget(),
            }
            forgotten
        })
    }

    /// CHECK.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub fn check(&self, request: &Request) -> Result<()> {
        match &self.found {
            Found::Ours(plugin) => self.done(Verb::Check, *plugin, &|p| p.check(request)),
            Found::Foreign(file) => self.execute(file, Verb::Check).map(drop),
        }
    }

    /// RESTORE, which only plugins of ours know.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub fn restore(&self, request: &Request) -> Result<()> {
        match &self.found {
            Found::Ours(plugin) => self.done(Verb::Restore, *plugin, &|p| p.restore(request)),
            Found::Foreign(file) => self.execute(file, Verb::Restore).map(drop),
        }
    }

    /// DEL.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub fn del(&self, request: &Request) -> Result<()> {
        match &self.found {
            Found::Ours(plugin) => self.done(Verb::Del, *plugin, &|p| p.del(request)),
            Found::Foreign(file) => self.execute(file, Verb::Del).map(drop),
        }
    }

    /// GC.
    ///
    /// # Errors
    /// As [`Delegate::add`].
    pub fn gc(&self) -> Result<()> {
        match &self.found {
            Found::Ours(plugin) => self.done(Verb::Gc, *plugin, &|p| p.gc(self.network)),
            Found::Foreign(file) => self.execute(file, Verb::Gc).map(drop),
        }
    }

    /// STATUS.
    ///
    /// # Errors
    /// As [`Delegate::add`]; code 50 when it could not be started.
    pub fn status(&self) -> Result<()> {
        match &self.found {
            Found::Ours(plugin) => self.done(Verb::Status, *plugin, &|p| p.status(self.network)),
            Found::Foreign(file) => match self.execute(file, Verb::Status) {
                Err(error) if !self.ran.get() => Err(error.with_code(Code::NOT_AVAILABLE)),
                done => done.map(drop),
            },
        }
    }

    /// Has the plugin do a verb in this process.
    #[inline(never)] // five callers
    fn done(
        &self,
        verb: Verb,
        plugin: &'static dyn Plugin,
        work: &dyn Fn(&dyn Plugin) -> Result<()>,
    ) -> Result<()> {
        let started = self.started();
        let outcome = self.speaks(plugin).and_then(work);
        self.record(verb, started, outcome.as_ref().map(|()| String::new()));
        outcome
    }

    /// When it was called, where that is to be written down.
    fn started(&self) -> Option<Instant> {
        self.network.log().filter(|log| log.tells_of_delegates()).map(|_| Instant::now())
    }

    fn record(&self, verb: Verb, started: Option<Instant>, outcome: Result<String, &Error>) {
        if let (Some(started), Some(log)) = (started, self.network.log()) {
            log.delegate(verb, self.kind, started, outcome.as_deref().map_err(|error| *error));
        }
    }

    /// The version gate the dispatcher applies when the plugin is executed.
    fn speaks(&self, plugin: &'static dyn Plugin) -> Result<&'static dyn Plugin> {
        let version = self.network.version();
        match plugin.versions().contains(&version) {
            true => Ok(plugin),
            false => Err(incompatible(version.as_str(), plugin.versions())),
        }
    }

    fn execute(&self, file: &Path, verb: Verb) -> Result<Vec<u8>> {
        let child = start(file, &|command| {
            command.env("CNI_COMMAND", verb.as_str());
            if let Some(home) = self.home {
                home.command(command);
            }
        })?;
        self.ran.set(true);
        finish(file, child, Stdin::Pieces(self.network.whole()))
    }
}

/// Runs the plugin `file` with `stdin` and returns its stdout; its stderr is
/// passed on. `prepare` sets the variables: nothing but the environment of
/// this process is there before.
///
/// # Errors
/// The plugin's own error, code 11 when its file was being written all the time,
/// or code 999 when it could not be run or did not answer as a plugin does.
pub fn execute(file: &Path, stdin: &[u8], prepare: &dyn Fn(&mut Command)) -> Result<Vec<u8>> {
    finish(file, start(file, prepare)?, Stdin::Text(stdin))
}

/// What a plugin reads.
#[derive(Clone, Copy)]
enum Stdin<'a> {
    Text(&'a [u8]),
    Pieces(Whole<'a>),
}

impl Stdin<'_> {
    /// It has at most so many bytes.
    fn most(&self) -> usize {
        match self {
            Stdin::Text(text) => text.len(),
            Stdin::Pieces(whole) => whole.most(),
        }
    }

    fn write(&self, pipe: ChildStdin) -> io::Result<()> {
        let mut pipe = BufWriter::with_capacity(PIECE, pipe);
        let written = match self {
            Stdin::Text(text) => pipe.write_all(text),
            Stdin::Pieces(whole) => whole.write(&mut pipe),
        };
        match written.and_then(|()| pipe.flush()) {
            // It may answer without reading its configuration.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome,
        }
    }
}

fn start(file: &Path, prepare: &dyn Fn(&mut Command)) -> Result<Child> {
    spawn(file, prepare).map_err(|e| {
        let file = file.display();
        match e.kind() {
            io::ErrorKind::ExecutableFileBusy => Error::new(
                Code::TRY_AGAIN,
                format!(
                    "run plugin {file}: still open for writing after {} s: let its installer finish, or have it rename a new file over this one",
                    BUSY_LIMIT.as_secs()
                ),
            ),
            _ => Error::internal(format!("run plugin {file}: {e}")),
        }
    })
}

fn finish(file: &Path, child: Child, stdin: Stdin<'_>) -> Result<Vec<u8>> {
    let fail = |what: String| Error::internal(format!("run plugin {}: {what}", file.display()));
    let (output, total) = talk(child, stdin).map_err(|e| fail(e.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(delegate_error(&output).unwrap_or_else(|| {
        let (said, total) = match output.stdout.is_empty() {
            true => (&output.stderr, total),
            false => (&output.stdout, output.stdout.len()),
        };
        let said = String::from_utf8_lossy(said);
        let how = match (output.status.code(), output.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (_, Some(signal)) => format!("killed by signal {signal}"),
            _ => "unknown status".to_owned(),
        };
        match said.trim() {
            "" => fail(format!("{how} and no error message")),
            said => {
                let (said, rest) = cut(said, QUOTE_LIMIT, total);
                fail(format!("{how}, and it printed no CNI error but {said:?}{rest}"))
            }
        }
    }))
}

fn spawn(file: &Path, prepare: &dyn Fn(&mut Command)) -> io::Result<Child> {
    let started = Instant::now();
    loop {
        let mut command = Command::new(file);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        prepare(&mut command);
        match command.spawn() {
            Err(e)
                if e.kind() == io::ErrorKind::ExecutableFileBusy
                    && started.elapsed() < BUSY_LIMIT =>
            {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "nothing tells when the writer is done, so this polls"
                )]
                std::thread::sleep(BUSY_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// The first regular file named `kind` in the folders of `path`, which is
/// written as `CNI_PATH` is.
///
/// # Errors
/// Code 7 for an impossible name, 999 when there is no such file.
pub fn find_file(path: &OsStr, kind: &str) -> Result<PathBuf> {
    if kind.is_empty() {
        return Err(Error::invalid_config(
            "find a plugin: its type is empty (is \"ipam\": {\"type\": ..} missing?)",
        ));
    }
    if kind.contains(['/', '\0']) || kind == "." || kind == ".." {
        return Err(Error::invalid_config(format!(
            "find plugin {kind:?}: the type must be a plain file name"
        )));
    }
    let found = std::env::split_paths(path)
        // An empty element would mean the working directory: never intended.
        .filter(|dir| !dir.as_os_str().is_empty())
        .map(|dir| dir.join(kind))
        .find(|file| file.metadata().is_ok_and(|m| m.is_file()));
    found.map(|file| if file.has_root() { file } else { Path::new(".").join(file) }).ok_or_else(|| {
        Error::internal(format!(
            "find plugin {kind:?}: no such file in CNI_PATH {:?}: install it there, or correct the type",
            path.to_string_lossy()
        ))
    })
}

fn is_this_executable(file: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    let own = identity(Path::new("/proc/self/exe"));
    own.is_some() && own == identity(file)
}

/// A pipe holds this much unread (pipe(7)); a shorter document can be written
/// before anything is read.
const PIPE_CAPACITY: usize = 64 * 1024;

/// What is written of it at once, in bytes.
const PIECE: usize = 8 << 10;

/// Feeds `stdin` to the child, passes on what it says on stderr, and collects
/// what it answers; of stderr the beginning, and how many bytes it was.
fn talk(mut child: Child, stdin: Stdin<'_>) -> io::Result<(Output, usize)> {
    let pipe = child.stdin.take().expect("stdin is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let words = thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || pass_on(stderr))
        .inspect_err(|_| _ = child.kill())?;
    let stdout = if stdin.most() < PIPE_CAPACITY {
        stdin.write(pipe)?;
        answer(&mut child)?
    } else {
        thread::scope(|scope| {
            let writer = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, move || stdin.write(pipe))
                .inspect_err(|_| _ = child.kill())?;
            let stdout = answer(&mut child);
            writer.join().expect("the writer does not panic")?;
            stdout
        })?
    };
    let (stderr, total) = words.join().expect("the reader does not panic");
    Ok((Output { status: child.wait()?, stdout, stderr }, total))
}

/// For a thread that reads, with a buffer of [`QUOTE_LIMIT`], or writes.
const STACK: usize = 128 << 10;

/// Whatever the outcome: a plugin's words are often the only explanation. The
/// first of them are kept.
fn pass_on(mut stderr: ChildStderr) -> (Vec<u8>, usize) {
    let (mut kept, mut total) = (Vec::new(), 0);
    let mut buffer = [0; QUOTE_LIMIT];
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) => return (kept, total),
            Ok(count) => {
                let words = &buffer[..count];
                let _ = io::stderr().write_all(words);
                total += count;
                kept.extend(&words[..count.min(ERROR_LIMIT.saturating_sub(kept.len()))]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (kept, total),
        }
    }
}

/// All of stdout; a plugin that does not come to an end is ended.
fn answer(child: &mut Child) -> io::Result<Vec<u8>> {
    let mut stdout = Vec::new();
    let pipe = child.stdout.take().expect("stdout is piped");
    pipe.take(OUTPUT_LIMIT + 1).read_to_end(&mut stdout)?;
    if stdout.len() as u64 <= OUTPUT_LIMIT {
        return Ok(stdout);
    }
    child.kill()?;
    child.wait()?;
    let limit = OUTPUT_LIMIT >> 20;
    Err(io::Error::other(format!("it printed more than {limit} MiB, and was killed")))
}

/// The error object on stdout, if that is what it is.
fn delegate_error(output: &Output) -> Option<Error> {
    error_in(&config::parse(&output.stdout).ok()?)
}

fn error_in(document: &Value) -> Option<Error> {
    let error = Error::deserialize(document).ok()?;
    let is_one = !error.msg().is_empty() || error.code() != Code(0);
    is_one.then(|| error.shortened(ERROR_LIMIT))
}
