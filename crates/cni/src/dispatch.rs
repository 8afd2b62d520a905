//! The door itself: reads the environment and stdin, calls the plugin, writes
//! one JSON document to stdout.
//!
//! Nothing else reads `CNI_*` or prints. The order of the checks is the
//! reference implementation's, with one improvement: a network namespace that
//! is the plugin's own is refused before anything is done, not after.

use crate::log::Log;
use crate::request::{Document, incompatible};
use crate::versions::{self, Version, parse_number};
use crate::{Code, ContainerId, Error, IfName, Network, Plugin, Request, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Verify an attachment.
    Check,
    /// Make again what is missing of an attachment; ours alone.
    Restore,
    /// Detach.
    Del,
    /// Remove what invalid attachments left.
    Gc,
    /// Could an ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Verb {
    /// As in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Restore => "RESTORE",
            Verb::Del => "DEL",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }

    fn parse(text: &str) -> Option<Verb> {
        use Verb::*;
        [Add, Check, Restore, Del, Gc, Status, Version]
            .into_iter()
            .find(|verb| verb.as_str() == text)
    }

    fn is_for_an_attachment(self) -> bool {
        matches!(self, Verb::Add | Verb::Check | Verb::Restore | Verb::Del)
    }

    /// The first version that has the verb.
    fn since(self) -> Option<Version> {
        match self {
            Verb::Check | Verb::Restore => Some(Version::V0_4_0),
            Verb::Gc | Verb::Status => Some(Version::V1_1_0),
            Verb::Add | Verb::Del | Verb::Version => None,
        }
    }
}

/// Runs the plugin of `registry` whose name is that of the executable: the
/// whole life of the process.
///
/// Called under another name, the executable explains itself: `--plugins`
/// prints the names it can be installed under, one per line.
pub fn run(registry: &'static [&'static dyn Plugin]) -> ExitCode {
    let mut argv = std::env::args_os();
    let name = argv.next().map(PathBuf::from).unwrap_or_default();
    let name = name.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let plugin = registry.iter().find(|plugin| plugin.name() == name).copied();
    let log = plugin.and_then(wanted_log);
    #[expect(
        clippy::disallowed_methods,
        reason = "release builds abort on panic: this is the only chance to answer"
    )]
    std::panic::set_hook(Box::new(move |panic| {
        let place =
            panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        let error = Error::internal(format!("internal error{place}: {text}: please report it"));
        let status = i32::from(!print(&versions::pretty(&error))) + 1;
        if let Some(log) = log {
            log.verb(Err(&error));
        }
        std::process::exit(status);
    }));
    let Some(plugin) = plugin else { return explain(registry, &name, argv.next()) };
    let environment = Environment::read();
    let answer = serve(plugin, registry, &environment, &mut io::stdin().lock(), log);
    let record = |outcome| {
        if let Some(log) = log {
            log.verb(outcome);
        }
    };
    match &answer {
        Ok(Answer::Nothing) => {
            record(Ok(()));
            ExitCode::SUCCESS
        }
        Ok(Answer::About) => {
            let about = format!(
                "CNI {name} plugin {}\nCNI protocol versions supported: {}\n",
                concat!("oxcni v", env!("CARGO_PKG_VERSION")),
                versions::list(plugin.versions())
            );
            let _ = io::stderr().write_all(about.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Answer::Document(text)) if print(text) => {
            record(Ok(()));
            ExitCode::SUCCESS
        }
        Ok(Answer::Document(_)) => {
            record(Err(&Error::new(Code::IO, "write to stdout: it did not take the result")));
            ExitCode::FAILURE
        }
        Err(error) => {
            print(&versions::pretty(error));
            record(Err(error));
            ExitCode::FAILURE
        }
    }
}

/// The log, when one is wanted. It lives as long as the process, which is why
/// it may be leaked.
#[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
fn wanted_log(plugin: &'static dyn Plugin) -> Option<&'static Log> {
    let wanted = std::env::var_os("CNI_LOG").filter(|wanted| !wanted.is_empty())?;
    let get = |name: &str| std::env::var_os(name).unwrap_or_default();
    Some(Box::leak(Box::new(Log::open(wanted, plugin.name(), get))))
}

/// One write, so that a reader never sees half a document. False when stdout
/// does not take it.
fn print(text: &[u8]) -> bool {
    // The standard library's handle would keep back what follows the last
    // newline.
    let written =
        io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).write_all(text));
    match written {
        Ok(()) => true,
        Err(e) => {
            let _ =
                writeln!(io::stderr(), "write to stdout: {e}: {}", String::from_utf8_lossy(text));
            false
        }
    }
}

/// The executable under a name that is no plugin's.
#[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
fn explain(registry: &[&dyn Plugin], name: &str, argument: Option<OsString>) -> ExitCode {
    let names: Vec<&str> = registry.iter().map(|plugin| plugin.name()).collect();
    if std::env::var_os("CNI_COMMAND").is_some_and(|v| !v.is_empty()) {
        let error = Error::internal(format!(
            "run plugin {name:?}: this executable is {}: install it under one of these names",
            names.join(", ")
        ));
        print(&versions::pretty(&error));
        return ExitCode::FAILURE;
    }
    if argument.is_some_and(|a| a == "--plugins") {
        return ExitCode::from(u8::from(!print(format!("{}\n", names.join("\n")).as_bytes())));
    }
    let text = format!(
        "oxcni {}: CNI plugins for Linux in one executable\n\n\
         Install it under the name of a plugin (a hard link for each), in /opt/cni/bin:\n  {}\n\n\
         oxcni --plugins  prints these names, one per line\n",
        env!("CARGO_PKG_VERSION"),
        names.join(" ")
    );
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::FAILURE
}

/// The variables of the protocol, as they are; empty counts as missing.
#[derive(Debug, Clone, Default)]
struct Environment {
    command: String,
    container_id: String,
    netns: OsString,
    ifname: String,
    args: String,
    path: OsString,
    netns_override: bool,
}

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
    fn read() -> Environment {
        let raw = |name: &str| std::env::var_os(name).unwrap_or_default();
        let text = |name: &str| raw(name).to_string_lossy().into_owned();
        let netns_override = text("CNI_NETNS_OVERRIDE");
        Environment {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: raw("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            path: raw("CNI_PATH"),
            netns_override: netns_override == "1" || netns_override.eq_ignore_ascii_case("true"),
        }
    }

    /// Checks what the verb requires, in the reference's order: an invalid
    /// value ends the walk, missing ones are collected.
    fn check(&self, verb: Option<Verb>) -> Result<()> {
        let attachment = verb.is_none_or(Verb::is_for_an_attachment);
        // An unknown verb is only told after stdin was read; nothing but the
        // command itself is required of it.
        let requires = |needed: bool| verb.is_some() && needed;
        let mut missing = Vec::new();
        if self.command.is_empty() {
            missing.push("CNI_COMMAND");
        }
        if requires(attachment) {
            match self.container_id.is_empty() {
                true => missing.push("CNI_CONTAINERID"),
                false => _ = ContainerId::new(self.container_id.as_str())?,
            }
        }
        if requires(matches!(verb, Some(Verb::Add | Verb::Check | Verb::Restore)))
            && self.netns.is_empty()
        {
            missing.push("CNI_NETNS");
        }
        if requires(attachment) {
            match self.ifname.is_empty() {
                true => missing.push("CNI_IFNAME"),
                false => {
                    IfName::new(self.ifname.as_str())?;
                    // DEL takes them: a link may have been given the name otherwise.
                    if verb == Some(Verb::Add) {
                        refuse_names_of_the_kernel(&self.ifname)?;
                    }
                }
            }
        }
        if requires(verb != Some(Verb::Version)) && self.path.is_empty() {
            missing.push("CNI_PATH");
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                Code::INVALID_ENVIRONMENT,
                format!("required env variables [{}] missing", missing.join(",")),
            )),
        }
    }
}

/// Refuses names that no new link can have.
fn refuse_names_of_the_kernel(ifname: &str) -> Result<()> {
    let refused =
        |what, why: &str| Err(Error::new(Code::INVALID_ENVIRONMENT, what).with_details(why));
    match ifname {
        _ if ifname.contains('%') => refused(
            "interface name contains a percent sign",
            "the kernel would make another name of it",
        ),
        // `sysctl_dev_name_is_allowed`, include/net/ip.h of Linux 6.12.
        "all" | "default" => refused(
            "interface name is all or default",
            "the kernel keeps these for its settings of all and of new links, as in /proc/sys/net/ipv4/conf",
        ),
        _ => Ok(()),
    }
}

/// What goes to stdout.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    About,
    Document(Vec<u8>),
}

fn serve(
    plugin: &'static dyn Plugin,
    registry: &'static [&'static dyn Plugin],
    environment: &Environment,
    stdin: &mut dyn Read,
    log: Option<&'static Log>,
) -> Result<Answer> {
    if environment.command.is_empty() {
        return Ok(Answer::About);
    }
    let verb = Verb::parse(&environment.command);
    environment.check(verb)?;
    if verb == Some(Verb::Version) {
        return Ok(Answer::Document(version_reply(plugin)));
    }
    let document = Document::read(stdin)?;
    if let Some(log) = log {
        log.network(document.name.as_str());
    }
    let Some(verb) = verb else {
        return Err(Error::new(
            Code::INVALID_ENVIRONMENT,
            format!("unknown CNI_COMMAND: {}", environment.command),
        ));
    };
    let version = negotiate(plugin, verb, &document.version)?;
    let network =
        Network::from_parts(document, version, environment.path.clone(), registry).logged(log);
    if !verb.is_for_an_attachment() {
        match verb {
            Verb::Gc => plugin.gc(&network)?,
            _ => plugin.status(&network)?,
        }
        return Ok(Answer::Nothing);
    }
    let request = Request {
        network,
        container_id: ContainerId::new(environment.container_id.as_str())?,
        ifname: IfName::new(environment.ifname.as_str())?,
        netns: (!environment.netns.is_empty()).then(|| PathBuf::from(&environment.netns)),
        args: environment.args.clone(),
    };
    match verb {
        Verb::Add => {
            refuse_own_netns(environment)?;
            let success = plugin.add(&request)?;
            if let Some(log) = log {
                log.result(&success);
            }
            // Below 0.3.0 a result without address cannot be told. Plugins that
            // could make one refuse such a configuration before they act; from
            // here, with the thread in the container, nothing can be undone.
            versions::render(&success, version).map(Answer::Document)
        }
        Verb::Check => plugin.check(&request).map(|()| Answer::Nothing),
        Verb::Restore => {
            refuse_own_netns(environment)?;
            plugin.restore(&request).map(|()| Answer::Nothing)
        }
        _ => {
            refuse_own_netns(environment)?;
            plugin.del(&request).map(|()| Answer::Nothing)
        }
    }
}

fn version_reply(plugin: &dyn Plugin) -> Vec<u8> {
    let supported: Vec<String> = plugin.versions().iter().map(|v| format!("\"{v}\"")).collect();
    format!(
        "{{\"cniVersion\":\"{}\",\"supportedVersions\":[{}]}}\n",
        Version::LATEST,
        supported.join(",")
    )
    .into_bytes()
}

/// Is the configuration's version one of the plugin's, and does it have the
/// verb?
fn negotiate(plugin: &dyn Plugin, verb: Verb, text: &str) -> Result<Version> {
    if let Some(since) = verb.since() {
        let number = |text: &str| {
            parse_number(text)
                .map_err(|e| Error::new(Code::DECODE, format!("compare the cniVersion: {e}")))
        };
        let refuse = |who: &str| {
            let msg = format!("{who} version does not allow {}", verb.as_str());
            Err(Error::new(Code::INCOMPATIBLE_VERSION, msg))
        };
        let wanted = number(text)?;
        if wanted < number(since.as_str())? {
            return refuse("config");
        }
        let newest = plugin.versions().last().copied().unwrap_or(Version::V0_1_0);
        if number(newest.as_str())? < wanted {
            return refuse("plugin");
        }
    }
    let shown = if text.is_empty() { Version::V0_1_0.as_str() } else { text };
    match text.parse::<Version>() {
        Ok(version) if plugin.versions().contains(&version) => Ok(version),
        _ => Err(incompatible(shown, plugin.versions())),
    }
}

/// A container's namespace that is our own is a recycled process ID or a
/// mistake: acting on it would take down the host's links.
fn refuse_own_netns(environment: &Environment) -> Result<()> {
    let identity = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    if environment.netns_override || environment.netns.as_bytes().is_empty() {
        return Ok(());
    }
    // The only thread's. `thread-self` would cost the kernel twice the entries.
    let (own, given) =
        (identity(Path::new("/proc/self/ns/net")), identity(Path::new(&environment.netns)));
    match own.is_some() && own == given {
        true => Err(Error::new(
            Code::INVALID_NETNS,
            "plugin's netns and netns from CNI_NETNS should not be the same",
        )
        .with_details(format!(
            "CNI_NETNS={}; nothing was changed",
            environment.netns.to_string_lossy()
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
