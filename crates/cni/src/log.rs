//! One record of each verb, for whoever wants to know what plugins did and how
//! long it took. Off unless `CNI_LOG` is set, and then no part of the verb: it
//! is written after the answer, and a log that cannot be written is told on
//! stderr and changes nothing.
//!
//! A record says what was done, to what, how it went and how long it took.
//! Nothing of the configuration is in it, nor of `CNI_ARGS`; of an error it has
//! the text that the runtime gets.

use crate::dispatch::Verb;
use crate::{Error, Result, Success};
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where systemd-journald takes records (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// As whom it is told of.
const IDENTIFIER: &str = "oxcni";
/// Of a log that is made.
const MODE: u32 = 0o600;
/// In bytes: what is kept of one text. An error may quote a whole document.
const TEXT_LIMIT: usize = 4096;
/// Of what a verb made or removed, the others are counted.
const NAMES: usize = 16;

/// Where records go, what stands in each of them, and which are written.
#[derive(Debug)]
pub(crate) struct Log {
    target: Target,
    level: Level,
    started: Instant,
    pub(crate) plugin: &'static str,
    pub(crate) command: String,
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    pub(crate) netns: String,
    trace: Option<Trace>,
    network: OnceLock<String>,
    result: OnceLock<String>,
    made: Mutex<Things>,
    removed: Mutex<Things>,
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    Journal,
}

/// What is written: with `Error` only verbs that fail, with `Debug` also
/// VERSION and delegates that are called in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Error,
    Info,
    Debug,
}

/// The trace and span the runtime is in (W3C Trace Context, version 00).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trace {
    id: String,
    span: String,
}

impl Log {
    /// Reads a log's variables by `get`, where `wanted` is the value of
    /// `CNI_LOG`.
    pub(crate) fn open(
        wanted: OsString,
        plugin: &'static str,
        get: impl Fn(&str) -> OsString,
    ) -> Log {
        let target = match wanted == "journald" {
            true => Target::Journal,
            false => Target::File(wanted.into()),
        };
        let text = |name: &str| get(name).to_string_lossy().into_owned();
        let level = match text("CNI_LOG_LEVEL").as_str() {
            "error" => Level::Error,
            "debug" => Level::Debug,
            _ => Level::Info,
        };
        Log {
            target,
            level,
            started: Instant::now(),
            plugin,
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            ifname: text("CNI_IFNAME"),
            netns: text("CNI_NETNS"),
            trace: Trace::parse(&text("TRACEPARENT")),
            network: OnceLock::new(),
            result: OnceLock::new(),
            made: Mutex::default(),
            removed: Mutex::default(),
        }
    }

    /// The configuration turned out to be of this network.
    pub(crate) fn network(&self, name: &str) {
        let _ = self.network.set(name.to_owned());
    }

    /// ADD turned out to give this.
    pub(crate) fn result(&self, success: &Success) {
        let _ = self.result.set(addresses(success));
    }

    /// ADD or RESTORE turned out to make these.
    pub(crate) fn made(&self, things: impl IntoIterator<Item = impl fmt::Display>) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).extend(things);
    }

    /// DEL or GC turned out to remove these.
    pub(crate) fn removed(&self, things: impl IntoIterator<Item = impl fmt::Display>) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).extend(things);
    }

    /// Writes the record of the verb.
    pub(crate) fn verb(&self, outcome: Result<(), &Error>) {
        let level = match (outcome.is_err(), self.command == Verb::Version.as_str()) {
            (true, _) => Level::Error,
            (false, true) => Level::Debug,
            (false, false) => Level::Info,
        };
        if level > self.level {
            return;
        }
        let result = self.result.get().map_or("", String::as_str);
        let done = Done {
            level,
            verb: &self.command,
            plugin: self.plugin,
            caller: "",
            code: outcome.err().map_or(0, |error| error.code().0),
            result,
            error: outcome.err().map(ToString::to_string).unwrap_or_default(),
            duration: self.started.elapsed(),
        };
        self.write(&done);
    }

    /// Are delegates in this process told of?
    pub(crate) fn tells_of_delegates(&self) -> bool {
        self.level == Level::Debug
    }

    /// Writes the record of what a delegate did in this process since `started`.
    pub(crate) fn delegate(
        &self,
        verb: Verb,
        plugin: &str,
        started: Instant,
        outcome: Result<&str, &Error>,
    ) {
        let error = outcome.err();
        self.write(&Done {
            level: if error.is_some() { Level::Error } else { Level::Debug },
            verb: verb.as_str(),
            plugin,
            caller: self.plugin,
            code: error.map_or(0, |error| error.code().0),
            result: outcome.unwrap_or_default(),
            error: error.map(ToString::to_string).unwrap_or_default(),
            duration: started.elapsed(),
        });
    }

    fn write(&self, done: &Done) {
        let (written, place) = match &self.target {
            Target::File(path) => (append(path, &self.json(done)), path.as_path()),
            Target::Journal => (send(&self.journal(done)), Path::new(JOURNAL)),
        };
        if let Err(e) = written {
            let _ = writeln!(io::stderr(), "write log {}: {e}", place.display());
        }
    }

    /// Name and value of each field that is known; the journal's names are
    /// these in capitals.
    fn fields(&self, done: &Done, each: &mut dyn FnMut(&str, &str)) {
        let network = self.network.get().map_or("", String::as_str);
        let things =
            |of: &Mutex<Things>| of.lock().unwrap_or_else(PoisonError::into_inner).to_string();
        let removed = things(&self.removed);
        // What failed took back what it had made.
        let made = if done.code == 0 { things(&self.made) } else { String::new() };
        for (name, text) in [
            ("verb", done.verb),
            ("plugin", done.plugin),
            ("caller", done.caller),
            ("network", network),
            ("container", &self.container_id),
            ("ifname", &self.ifname),
            ("netns", &self.netns),
            ("result", done.result),
            ("made", &made),
            ("removed", &removed),
            ("error", &done.error),
            ("trace_id", self.trace.as_ref().map_or("", |trace| &trace.id)),
            ("span_id", self.trace.as_ref().map_or("", |trace| &trace.span)),
        ] {
            if !text.is_empty() {
                each(name, cut(text));
            }
        }
    }

    fn json(&self, done: &Done) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line =
            format!("{{\"time\":\"{}\",\"level\":\"{}\"", date(now), done.level.as_str());
        self.fields(done, &mut |name, text| {
            line.push_str(",\"");
            line.push_str(name);
            line.push_str("\":\"");
            escape(text, &mut line);
            line.push('"');
        });
        line.push_str(&format!(
            ",\"code\":{},\"duration_us\":{},\"pid\":{}}}\n",
            done.code,
            done.duration.as_micros(),
            std::process::id()
        ));
        line.into_bytes()
    }

    fn journal(&self, done: &Done) -> Vec<u8> {
        let micros = done.duration.as_micros();
        let outcome = if done.error.is_empty() { done.result } else { &done.error };
        let message = format!(
            "{} {} {} {}: {} in {}.{:03} ms",
            done.plugin,
            done.verb,
            self.container_id,
            self.ifname,
            if outcome.is_empty() { "done" } else { cut(outcome) },
            micros / 1000,
            micros % 1000
        );
        let mut record = Vec::with_capacity(1024);
        let mut field = |name: &str, text: &str| {
            // A value with a line break in it comes with its length.
            record.extend(name.bytes().map(|byte| byte.to_ascii_uppercase()));
            record.push(b'\n');
            record.extend((text.len() as u64).to_le_bytes());
            record.extend(text.as_bytes());
            record.push(b'\n');
        };
        field("message", &message);
        field("syslog_identifier", IDENTIFIER);
        field("priority", done.level.priority());
        self.fields(done, &mut |name, text| field(&format!("cni_{name}"), text));
        field("cni_code", &done.code.to_string());
        field("cni_duration_us", &micros.to_string());
        record
    }
}

/// What a verb made or removed: how many, and the first of them by name.
#[derive(Debug, Default)]
struct Things {
    names: Vec<String>,
    count: usize,
}

impl Things {
    fn extend(&mut self, things: impl IntoIterator<Item = impl fmt::Display>) {
        for thing in things {
            self.count += 1;
            if self.names.len() < NAMES {
                self.names.push(thing.to_string());
            }
        }
    }
}

impl fmt::Display for Things {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(" "))?;
        match self.count - self.names.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What came of a verb.
struct Done<'a> {
    level: Level,
    verb: &'a str,
    plugin: &'a str,
    /// Of a delegate: the plugin that called it.
    caller: &'a str,
    code: u32,
    result: &'a str,
    error: String,
    duration: Duration,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// In syslog's numbers (syslog(3)).
    fn priority(self) -> &'static str {
        match self {
            Level::Error => "3",
            Level::Info => "6",
            Level::Debug => "7",
        }
    }
}

impl Trace {
    /// `00-<32 digits>-<16 digits>-<2 digits>`; of a later version only what
    /// this one has is looked at.
    fn parse(text: &str) -> Option<Trace> {
        let mut parts = text.trim().split('-');
        let mut digits = |count: usize| {
            let part = parts.next()?;
            let hex = part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            (part.len() == count && hex).then_some(part)
        };
        let (version, id, span, _flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
        let rest = parts.next().is_some();
        let is_zero = |text: &str| text.bytes().all(|b| b == b'0');
        let known = version != "ff" && (version != "00" || !rest);
        let valid = known && !is_zero(id) && !is_zero(span);
        valid.then(|| Trace { id: id.to_owned(), span: span.to_owned() })
    }
}

/// The addresses of a result.
pub(crate) fn addresses(success: &Success) -> String {
    success.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>().join(" ")
}

/// Appends a record to a file by one write, which others' records do not mix
/// with (O_APPEND, open(2)). Behind the half of a record that a full disk left, it
/// begins a line of its own. Never to what stdout leads to: the runtime reads
/// that.
fn append(path: &Path, record: &[u8]) -> io::Result<()> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidInput, what);
    if !path.is_absolute() {
        return Err(invalid("CNI_LOG is neither an absolute path nor \"journald\""));
    }
    match path.symlink_metadata() {
        // A pipe would have to be waited for; a link leads who knows where.
        Ok(found) if !found.is_file() && !found.file_type().is_char_device() => {
            return Err(invalid("it is not a plain file"));
        }
        Ok(found) => {
            let stdout = Path::new("/proc/self/fd/1").metadata();
            if stdout.is_ok_and(|out| (out.dev(), out.ino()) == (found.dev(), found.ino())) {
                return Err(invalid("it is stdout, which is for the result"));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
    let line = if is_torn(&file)? { [b"\n", record].concat() } else { record.to_vec() };
    match file.write(&line)? {
        all if all == line.len() => Ok(()),
        some => Err(io::Error::other(format!("only {some} of {} bytes were taken", line.len()))),
    }
}

/// Whether the file ends in the middle of a line.
fn is_torn(file: &File) -> io::Result<bool> {
    let mut last = [b'\n'];
    match file.metadata()?.len().checked_sub(1) {
        // Cut off just now: there is nothing to read, and nothing torn.
        Some(at) => file.read_at(&mut last, at).map(|_| last != *b"\n"),
        None => Ok(false),
    }
}

/// Sends a record to the journal, which may be too busy to take it.
fn send(record: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(record, JOURNAL).map(drop)
}

/// What is kept of a text, to the end of a character.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LIMIT)]
}

/// As JSON wants it between quotes.
fn escape(text: &str, line: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => line.push_str(&format!("\\u{:04x}", c as u32)),
            c => line.push(c),
        }
    }
}

/// A time since 1970 as `2026-03-01T12:00:00.250Z`.
pub fn date(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    // Days to a date of the Gregorian calendar, in years that begin in March:
    // 146,097 days are 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        era * 400 + year + later,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        time.subsec_millis()
    )
}

#[cfg(test)]
mod tests;
