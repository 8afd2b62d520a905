//! `cnitool`: attach containers to networks from the command line.
//!
//! A drop-in for the tool of the reference library: the same commands,
//! variables, container IDs and cache, so that both can be used in turn. All
//! that is done is done by the crate `runtime`; here are the command line and
//! what is shown.
//!
//! It prints the result of `add` and what was asked for on stdout, and one
//! line for each error or warning on stderr. It exits with 0 or 1.

mod arguments;
mod completion;
mod help;
mod leases;
mod restore;
mod show;
mod verbs;

use arguments::{Command, Invocation};
use cni::{Error, Result};
use runtime::Runtime;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where container runtimes look for networks.
const DEFAULT_NETWORKS: &str = "/etc/cni/net.d";

/// Where plugins are installed.
const DEFAULT_PLUGINS: &str = "/opt/cni/bin";

/// Where the results are that container runtimes share.
const DEFAULT_CACHE: &str = "/var/lib/cni";

const DEFAULT_IFNAME: &str = "eth0";

/// The variables that are read; empty counts as not set.
struct Environment {
    networks: PathBuf,
    plugins: OsString,
    args: String,
    capabilities: OsString,
    ifname: Option<String>,
    cache: PathBuf,
}

impl Environment {
    fn read() -> Environment {
        #[expect(clippy::disallowed_methods, reason = "a main function reads the environment")]
        let get = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).map(|value| value.to_string_lossy().into_owned());
        let or = |name: &str, default: &str| get(name).unwrap_or_else(|| default.into());
        Environment {
            networks: or("NETCONFPATH", DEFAULT_NETWORKS).into(),
            plugins: or("CNI_PATH", DEFAULT_PLUGINS),
            args: text("CNI_ARGS").unwrap_or_default(),
            capabilities: get("CAP_ARGS").unwrap_or_default(),
            ifname: text("CNI_IFNAME"),
            cache: or("CNI_CACHE_DIR", DEFAULT_CACHE).into(),
        }
    }
}

/// What every command works with.
struct Session {
    environment: Environment,
    invocation: Invocation,
    runtime: Runtime,
}

impl Session {
    fn ifname(&self) -> &str {
        let given = self.invocation.ifname.as_deref().filter(|name| !name.is_empty());
        given.or(self.environment.ifname.as_deref()).unwrap_or(DEFAULT_IFNAME)
    }
}

fn main() -> ExitCode {
    let outcome = Invocation::parse(std::env::args_os().skip(1)).and_then(run);
    match outcome {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> Result<ExitCode> {
    let environment = Environment::read();
    let cache = invocation.cache.clone().unwrap_or_else(|| environment.cache.clone());
    let runtime = Runtime::new(environment.plugins.clone(), cache);
    let session = Session { environment, invocation, runtime };
    match &session.invocation.command {
        Command::Add { network, netns } => verbs::add(&session, network, netns),
        Command::Check { network, netns } => verbs::check(&session, network, netns),
        Command::Del { network, netns } => verbs::del(&session, network, netns),
        Command::Restore { network, dry_run } => {
            restore::all(&session, network.as_deref(), *dry_run)
        }
        Command::Gc { network, plan } => verbs::gc(&session, network, plan),
        Command::Status { network } => verbs::status(&session, network),
        Command::List { network } => show::attachments(&session, network.as_deref()),
        Command::Leases { network, plan } => leases::show(&session, network.as_deref(), plan),
        Command::Networks => show::networks(&session),
        Command::Validate { network } => show::findings(&session, network.as_deref()),
        Command::Version { plugins } => show::versions(&session, plugins),
        Command::Completion { shell } => print(completion::script(*shell)),
        Command::Help { topic } => print(help::text(*topic)),
        Command::Usage => {
            // Scripts may rely on a failure when they forget the command.
            let _ = io::stderr().write_all(help::text(None).as_bytes());
            Ok(ExitCode::FAILURE)
        }
        Command::OwnVersion => print(concat!("cnitool ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// Writes to stdout at once.
fn print(text: impl AsRef<[u8]>) -> Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::new(cni::Code::IO, format!("write to stdout: {e}")))?;
    Ok(ExitCode::SUCCESS)
}

/// One line on stderr, whatever is in the text.
fn complain(text: &str) {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn warn(text: &str) {
    complain(&format!("cnitool: warning: {text}"));
}
