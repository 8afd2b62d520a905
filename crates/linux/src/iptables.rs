//! Packet filter rules through the commands of iptables, for hosts whose rules
//! are kept with them.
//!
//! A [`Batch`] of rules of one address family is applied by one
//! `iptables-restore --noflush --wait`: per table, all of it or nothing.
//! [`Program::save`] reads a table back; [`Program::update`] reads, plans and
//! applies. Callers at once would add a shared rule twice: whoever adds such
//! rules lets nobody else do so meanwhile.
//!
//! There are two kinds of iptables on a host, with separate rules
//! ([`Variant`]). Which of them can hold rules is known without executing
//! either: legacy tables in use are listed in /proc
//! ([`Iptables::legacy_tables`]), and iptables-nft keeps its rules in tables of
//! nf_tables, which [`nft::Socket`](crate::nft::Socket) reads. Its chains and
//! rules can be removed there as well: [`plan_removal`], [`Stored`].
//!
//! ```no_run
//! use linux::Family;
//! use linux::iptables::{Batch, Iptables, Rule};
//!
//! let iptables = Iptables::open()?;
//! if let Some(program) = iptables.program(Family::V4) {
//!     let mut batch = Batch::new("nat");
//!     batch.new_chain("EXAMPLE");
//!     batch.append("EXAMPLE", Rule::new("! -d 224.0.0.0/4").comment("c 1").jump("MASQUERADE"));
//!     batch.append("POSTROUTING", Rule::new("-s 10.1.0.2/32").jump("EXAMPLE"));
//!     program.restore(&batch)?;
//! }
//! # Ok::<(), linux::Error>(())
//! ```
//!
//! The environment is not looked at, neither for PATH nor for anything else.

mod batch;
mod removal;
mod stored;
#[cfg(test)]
mod tests;
mod words;

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::family::Family;
use crate::netns::Namespace;
use crate::nft::Socket;

pub use self::batch::{Batch, COMMENT_MAX, Chain, Rule, Saved, is_word};
pub use self::removal::{Part, Stored};
pub use self::stored::{
    Destination, comment_of, destination_of, dnat_of, is_touched_by, nft_table, plan_removal,
    rewrites_source, source_of, verdict_of,
};

/// Where the commands are looked for, in this order: what a root shell has in
/// its PATH on Debian, Fedora and Alpine, and the one folder of NixOS.
pub const SEARCH: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/run/current-system/sw/bin",
];

/// How long the commands of one [`Iptables`] wait, in all, for the lock that all
/// legacy commands share (/run/xtables.lock), where it is not given back. Who
/// gives up has as long again for the undo.
const WAIT_LIMIT_MS: u64 = 10_000;

/// The kind of iptables, which decides where its rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Tables of the kernel's own for iptables (`CONFIG_IP_NF_IPTABLES`).
    Legacy,
    /// Tables of nf_tables named `filter`, `nat`, .. in the families `ip` and
    /// `ip6`.
    Nft,
}

/// The iptables commands of a host, and the network namespace they act on.
#[derive(Debug)]
pub struct Iptables {
    namespace: Namespace,
    search: &'static [&'static str],
    /// Legacy tables in use: of IPv4, of IPv6.
    legacy: [Vec<String>; 2],
    /// Milliseconds that are left of [`WAIT_LIMIT_MS`].
    patience_ms: AtomicU64,
}

impl Iptables {
    /// The commands in [`SEARCH`], for the network namespace the calling thread
    /// is in now. Executes nothing and looks for no command yet.
    ///
    /// # Errors
    ///
    /// When /proc is not mounted.
    pub fn open() -> Result<Iptables> {
        Iptables::open_with(SEARCH)
    }

    /// As [`Iptables::open`], looking for the commands in other folders.
    ///
    /// # Errors
    ///
    /// When /proc is not mounted.
    pub fn open_with(search: &'static [&'static str]) -> Result<Iptables> {
        let legacy = [read_names("ip_tables_names"), read_names("ip6_tables_names")];
        let patience_ms = AtomicU64::new(WAIT_LIMIT_MS);
        Ok(Iptables { namespace: Namespace::current()?, search, legacy, patience_ms })
    }

    /// The legacy tables in use when this was opened, such as `nat`. Where a
    /// table is not among them, the legacy commands have no rules in it. It
    /// also counts as in use when somebody only looked at it.
    #[must_use]
    pub fn legacy_tables(&self, family: Family) -> &[String] {
        &self.legacy[usize::from(family == Family::V6)]
    }

    /// The command a person means by `iptables` or `ip6tables`, of whichever
    /// kind; `None` where there is none.
    #[must_use]
    pub fn program(&self, family: Family) -> Option<Program<'_>> {
        self.find(family, "")
    }

    /// The command of a kind, under its own name (`iptables-legacy`) or as the
    /// host's plain `iptables`; `None` where there is none. A plain one of
    /// which the kind cannot be told, such as a script, is taken for legacy:
    /// what is in nf_tables needs no command.
    #[must_use]
    pub fn program_of(&self, family: Family, variant: Variant) -> Option<Program<'_>> {
        let infix = match variant {
            Variant::Legacy => "-legacy",
            Variant::Nft => "-nft",
        };
        let plain = || {
            self.find(family, "").filter(|program| match variant {
                Variant::Legacy => program.variant != Some(Variant::Nft),
                Variant::Nft => program.variant == Some(Variant::Nft),
            })
        };
        self.find(family, infix).or_else(plain)
    }

    fn find(&self, family: Family, infix: &str) -> Option<Program<'_>> {
        let stem = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let find = |suffix: &str| {
            let name = format!("{stem}{infix}-{suffix}");
            self.search.iter().map(|folder| Path::new(folder).join(&name)).find(|p| p.is_file())
        };
        let restore = find("restore")?;
        let variant = variant_of(&restore);
        let save = find("save");
        Some(Program { host: self, family, variant, restore, save })
    }

    /// Whole seconds a command may wait now; at least one, since 0 is not to wait at
    /// all, and the holder may be done in a moment.
    fn wait_s(&self) -> u64 {
        (self.patience_ms.load(Ordering::Relaxed) / 1000).max(1)
    }

    fn lose_patience(&self, waited: Duration) {
        let left = self.patience_ms.load(Ordering::Relaxed);
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.patience_ms.store(left.saturating_sub(waited_ms), Ordering::Relaxed);
    }

    /// The network namespace the commands act on.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// The iptables commands of one address family.
#[derive(Debug)]
pub struct Program<'h> {
    host: &'h Iptables,
    family: Family,
    variant: Option<Variant>,
    restore: PathBuf,
    /// Missing where only half of the package is installed.
    save: Option<PathBuf>,
}

impl Program<'_> {
    /// The family whose rules it keeps.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its kind, as far as the name of the file behind it tells.
    #[must_use]
    pub fn variant(&self) -> Option<Variant> {
        self.variant
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.restore
    }

    /// Applies a batch: all of it or, where one line is refused, nothing.
    /// Executes nothing for an empty one. Whoever adds rules that others add
    /// as well uses [`Program::update`].
    ///
    /// Like `iptables-restore --noflush --wait`.
    ///
    /// # Errors
    ///
    /// `Invalid` for a word that no rule can have, before anything is executed.
    /// Otherwise what the command said; `Invalid` where it did not understand a
    /// rule, `Unsupported` where kernel and command do not fit, `TimedOut` where
    /// another process holds the lock of the legacy commands.
    pub fn restore(&self, batch: &Batch) -> Result<()> {
        self.give(batch, &[])
    }

    /// Whether the command understands a batch; changes nothing. What the kernel
    /// thinks of it is not known.
    ///
    /// Like `iptables-restore --noflush --wait --test`.
    ///
    /// # Errors
    ///
    /// Those of [`Program::restore`].
    pub fn test(&self, batch: &Batch) -> Result<()> {
        self.give(batch, &["--test"])
    }

    fn give(&self, batch: &Batch, options: &[&str]) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let text = batch.text()?;
        let mut command = Command::new(&self.restore);
        command.args(["--noflush", &format!("--wait={}", self.host.wait_s())]).args(options);
        let started = Instant::now();
        let output = self.run(command, text.as_bytes())?;
        self.judge(&self.restore, &format!("table {}", batch.table()), &output).inspect_err(|e| {
            if e.is_timed_out() {
                self.host.lose_patience(started.elapsed());
            }
        })
    }

    /// Reads a table: its chains with their rules. Empty, and nothing is
    /// executed, where it is known that the table is not in use: to look at a
    /// legacy table makes it.
    ///
    /// Like `iptables-save -t nat`.
    ///
    /// # Errors
    ///
    /// What the command said. `Unsupported` where the table holds what the nft
    /// variant cannot show, a rule that somebody made with nft: it says so in place
    /// of the table, and ends well.
    pub fn save(&self, table: &str) -> Result<Saved> {
        let in_use = self.host.legacy_tables(self.family).iter().any(|name| name == table);
        if self.variant == Some(Variant::Legacy) && !in_use {
            return Ok(Saved::default());
        }
        let program = self.save.as_ref().ok_or_else(|| {
            let missing = self.restore.display().to_string().replace("-restore", "-save");
            Error::with_kind("read iptables rules", ErrorKind::NotFound, "no such file")
                .context(missing)
                .hint("only a part of iptables is installed")
        })?;
        let mut command = Command::new(program);
        command.args(["-t", table]);
        let output = self.run(command, &[])?;
        let object = format!("table {table}");
        self.judge(program, &object, &output)?;
        let text = String::from_utf8_lossy(&output.stdout);
        // `__do_output` in iptables/xtables-save.c of iptables 1.8.9.
        let incompatible =
            |line: &&str| line.starts_with("# Table `") && line.contains("is incompatible");
        if let Some(line) = text.lines().find(incompatible) {
            let operation = format!("{} for {object}", program.display());
            let cause = line.trim_start_matches("# ").to_owned();
            return Err(Error::with_kind(operation, ErrorKind::Unsupported, cause)
                .hint("it holds a rule that is not iptables': move that to a table of its own"));
        }
        Ok(Saved::parse(&text))
    }

    /// Reads a part of a table. What iptables-nft keeps is read by netlink, which
    /// costs the same whatever else there is; where that does not tell all that
    /// counts, or without a `socket`, it is the whole table, as [`Program::save`]
    /// reads it.
    ///
    /// Like `iptables -t nat -S CHAIN`.
    ///
    /// # Errors
    ///
    /// The kernel's, and those of [`Program::save`].
    pub fn read(&self, socket: Option<&Socket>, part: &Part) -> Result<Saved> {
        if let (Some(Variant::Nft), Some(socket)) = (self.variant, socket) {
            let table = nft_table(self.family, part.table);
            if let Some(stored) = Stored::read_part(socket, &table, part)? {
                return Ok(stored.into_saved());
            }
        }
        self.save(part.table)
    }

    /// Reads a table, lets `plan` fill a batch for it with what is missing, and
    /// applies that. Callers at once see to it that they do so in turn.
    ///
    /// # Errors
    ///
    /// Those of [`Program::save`], `plan` and [`Program::restore`].
    pub fn update(
        &self,
        table: &str,
        plan: impl FnOnce(&Saved, &mut Batch) -> Result<()>,
    ) -> Result<()> {
        let saved = self.save(table)?;
        let mut batch = Batch::new(table);
        plan(&saved, &mut batch)?;
        self.restore(&batch)
    }

    /// Runs a command in the namespace, to its end.
    fn run(&self, mut command: Command, input: &[u8]) -> Result<Output> {
        let program = PathBuf::from(command.get_program());
        let failed = |error: &std::io::Error| {
            Error::from_io(format!("execute {}", program.display()), error)
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if Namespace::current_id()? != self.host.namespace.id() {
            self.host.namespace.run_command_in(&mut command)?;
        }
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                // It gave up half way, and will say why.
                Err(error) if error.kind() == IoErrorKind::BrokenPipe => {}
                Err(error) => return Err(failed(&error)),
                Ok(()) => {}
            }
        }
        child.wait_with_output().map_err(|error| failed(&error))
    }

    fn judge(&self, program: &Path, object: &str, output: &Output) -> Result<()> {
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // `enum xtables_exittype` in xtables.h of iptables 1.8. Its 4 is for a lock
        // that was not had (`xtables_lock_or_exit`), and for more.
        let kind = match output.status.code() {
            Some(2) => ErrorKind::Invalid,
            Some(3) => ErrorKind::Unsupported,
            Some(4) if said.contains("xtables lock") => ErrorKind::TimedOut,
            Some(4) if said.contains("open lock file") => ErrorKind::Io,
            _ => ErrorKind::Other,
        };
        let lines: Vec<&str> =
            said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let cause = match lines.as_slice() {
            [] => output.status.to_string(),
            lines => lines.join("; "),
        };
        let error = Error::with_kind(format!("{} for {object}", program.display()), kind, cause);
        Err(match kind {
            ErrorKind::TimedOut => error.hint("/proc/locks tells which process holds it"),
            _ => error,
        })
    }
}

/// The kind by the file behind the name: both have one executable for all
/// their commands (`xtables-nft-multi`, `xtables-legacy-multi`; before 1.8.0
/// `xtables-multi`).
fn variant_of(program: &Path) -> Option<Variant> {
    let file = fs::canonicalize(program).ok()?;
    let name = file.file_name()?.to_str()?;
    if name.contains("nft") {
        Some(Variant::Nft)
    } else if name.contains("legacy") || name == "xtables-multi" {
        Some(Variant::Legacy)
    } else {
        None
    }
}

/// A list of names in /proc/net, which is the main thread's: `thread-self`
/// follows the calling thread. No file, no tables.
fn read_names(file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
