//! The command line, as given. Nothing is looked up here.

use crate::help::{self, Topic};
use cni::{Code, Error, Result};
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What is to be done, with the options that go with any command.
#[derive(Debug, PartialEq)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    pub(crate) ifname: Option<String>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) json: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Add { network: String, netns: PathBuf },
    Check { network: String, netns: PathBuf },
    Del { network: String, netns: PathBuf },
    Restore { network: Option<String>, dry_run: bool },
    Gc { network: String, plan: GcPlan },
    Status { network: String },
    List { network: Option<String> },
    Leases { network: Option<String>, plan: LeasePlan },
    Networks,
    Validate { network: Option<String> },
    Version { plugins: Vec<String> },
    Completion { shell: Shell },
    Help { topic: Option<Topic> },
    Usage,
    OwnVersion,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct GcPlan {
    /// Namespaces to keep, each with its interface when one was given.
    pub(crate) keep: Vec<(PathBuf, Option<String>)>,
    pub(crate) keep_existing: bool,
    pub(crate) dry_run: bool,
}

/// Which leases are shown, and which are freed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct LeasePlan {
    /// Where to look; empty: wherever the configurations say.
    pub(crate) data_dirs: Vec<PathBuf>,
    pub(crate) only_stale: bool,
    pub(crate) free: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Options and words in the order they came.
#[derive(Default)]
struct Given {
    words: Vec<OsString>,
    ifname: Option<String>,
    cache: Option<PathBuf>,
    keep: Vec<OsString>,
    keep_existing: bool,
    all: bool,
    dry_run: bool,
    stale: bool,
    reconcile: bool,
    data_dirs: Vec<PathBuf>,
    json: bool,
    help: bool,
    version: bool,
}

impl Invocation {
    /// Parses the arguments behind the program's name. Options may stand
    /// anywhere.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
        let mut given = Given::read(args)?;
        let words = std::mem::take(&mut given.words);
        let mut words = words.into_iter();
        let command = match words.next() {
            _ if given.version => Command::OwnVersion,
            None if given.help => Command::Help { topic: None },
            None => Command::Usage,
            Some(word) => {
                let topic = topic(&word)?;
                given.refuse_foreign_options(topic)?;
                match given.help {
                    true => Command::Help { topic: Some(topic) },
                    false => given.command(topic, Words { topic, words })?,
                }
            }
        };
        Ok(Invocation { command, ifname: given.ifname, cache: given.cache, json: given.json })
    }
}

impl Given {
    fn read(args: impl IntoIterator<Item = OsString>) -> Result<Given> {
        let mut given = Given::default();
        let mut parser = Parser::from_args(args);
        let failed = |e: lexopt::Error| usage(format!("{e}: see cnitool --help"));
        while let Some(arg) = parser.next().map_err(failed)? {
            match arg {
                Arg::Value(word) => given.words.push(word),
                Arg::Short('h') | Arg::Long("help") => given.help = true,
                Arg::Short('V') | Arg::Long("version") => given.version = true,
                Arg::Short('i') | Arg::Long("ifname") => {
                    let value = parser.value().and_then(|v| v.string());
                    given.ifname = Some(value.map_err(failed)?);
                }
                Arg::Long("cache-dir") => {
                    given.cache = Some(parser.value().map_err(failed)?.into());
                }
                Arg::Long("keep") => given.keep.push(parser.value().map_err(failed)?),
                Arg::Long("keep-existing") => given.keep_existing = true,
                Arg::Long("all") => given.all = true,
                Arg::Short('n') | Arg::Long("dry-run") => given.dry_run = true,
                Arg::Long("stale") => given.stale = true,
                Arg::Long("reconcile") => given.reconcile = true,
                Arg::Long("data-dir") => {
                    given.data_dirs.push(parser.value().map_err(failed)?.into());
                }
                Arg::Long("json") => given.json = true,
                Arg::Short(letter) => {
                    return Err(usage(format!("unknown option -{letter}: see cnitool --help")));
                }
                Arg::Long(name) => {
                    let known = [
                        "ifname",
                        "cache-dir",
                        "keep",
                        "keep-existing",
                        "all",
                        "dry-run",
                        "stale",
                        "reconcile",
                        "data-dir",
                        "json",
                        "help",
                        "version",
                    ];
                    let hint = suggestion(name, known).map(|n| format!("did you mean --{n}?"));
                    let hint = hint.unwrap_or_else(|| "see cnitool --help".to_owned());
                    return Err(usage(format!("unknown option --{name}: {hint}")));
                }
            }
        }
        Ok(given)
    }

    fn refuse_foreign_options(&self, topic: Topic) -> Result<()> {
        let [gc, leases, restore] =
            [Topic::Gc, Topic::Leases, Topic::Restore].map(|its| topic == its);
        for (given, option, its) in [
            (!self.keep.is_empty(), "--keep", gc),
            (self.keep_existing, "--keep-existing", gc),
            (self.all, "--all", gc),
            (self.dry_run, "--dry-run", gc || leases || restore),
            (self.stale, "--stale", leases),
            (self.reconcile, "--reconcile", leases),
            (!self.data_dirs.is_empty(), "--data-dir", leases),
            (self.json, "--json", topic == Topic::List || leases || restore),
        ] {
            if given && !its {
                return Err(usage(format!(
                    "{} has no option {option}: see cnitool {} --help",
                    topic.name(),
                    topic.name()
                )));
            }
        }
        Ok(())
    }

    fn command(&self, topic: Topic, mut words: Words) -> Result<Command> {
        let command = match topic {
            Topic::Add => Command::Add { network: words.network()?, netns: words.netns()? },
            Topic::Check => Command::Check { network: words.network()?, netns: words.netns()? },
            Topic::Del => Command::Del { network: words.network()?, netns: words.netns()? },
            Topic::Restore => {
                Command::Restore { network: words.optional()?, dry_run: self.dry_run }
            }
            Topic::Gc => {
                let network = words.network()?;
                words.skip_netns();
                Command::Gc { plan: self.gc_plan(&network)?, network }
            }
            Topic::Status => {
                let network = words.network()?;
                words.skip_netns();
                Command::Status { network }
            }
            Topic::List => Command::List { network: words.optional()? },
            Topic::Leases => {
                Command::Leases { network: words.optional()?, plan: self.lease_plan()? }
            }
            Topic::Networks => Command::Networks,
            Topic::Validate => Command::Validate { network: words.optional()? },
            Topic::Version => {
                let mut plugins = Vec::new();
                while let Some(plugin) = words.optional()? {
                    plugins.push(plugin);
                }
                Command::Version { plugins }
            }
            Topic::Completion => Command::Completion { shell: words.shell()? },
            Topic::Help => match words.words.next() {
                None => Command::Help { topic: None },
                Some(word) => Command::Help { topic: Some(self::topic(&word)?) },
            },
        };
        words.end()?;
        Ok(command)
    }

    /// Deleting everything has to be asked for: the reference tool does it
    /// whatever namespace it is given.
    fn gc_plan(&self, network: &str) -> Result<GcPlan> {
        let keeps = self.keep_existing || !self.keep.is_empty();
        if keeps && self.all {
            return Err(usage(
                "gc: --all keeps nothing, so it does not go with --keep or --keep-existing",
            ));
        }
        if !keeps && !self.all {
            return Err(usage(format!(
                "gc would delete every attachment of network {network:?}: say which to keep by \
                 --keep NETNS[:IFNAME] or --keep-existing, or that you mean it by --all"
            )));
        }
        Ok(GcPlan {
            keep: self.keep.iter().map(|text| kept(text)).collect::<Result<_>>()?,
            keep_existing: self.keep_existing,
            dry_run: self.dry_run,
        })
    }

    fn lease_plan(&self) -> Result<LeasePlan> {
        if self.dry_run && !self.reconcile {
            return Err(usage(
                "leases: --dry-run goes with --reconcile: without it nothing is freed",
            ));
        }
        if self.data_dirs.iter().any(|dir| dir.as_os_str().is_empty()) {
            return Err(usage("leases: --data-dir needs the path of a directory"));
        }
        Ok(LeasePlan {
            data_dirs: self.data_dirs.clone(),
            only_stale: self.stale || self.reconcile,
            free: self.reconcile && !self.dry_run,
        })
    }
}

/// What is left of the words behind a command.
struct Words {
    topic: Topic,
    words: std::vec::IntoIter<OsString>,
}

impl Words {
    // An empty word is a variable of a script that is not set.
    fn network(&mut self) -> Result<String> {
        let word = self.optional()?.filter(|word| !word.is_empty());
        word.ok_or_else(|| self.missing("a network"))
    }

    fn netns(&mut self) -> Result<PathBuf> {
        let word = self.words.next().filter(|word| !word.is_empty());
        word.map(PathBuf::from).ok_or_else(|| self.missing("a network namespace"))
    }

    fn skip_netns(&mut self) {
        self.words.next();
    }

    fn optional(&mut self) -> Result<Option<String>> {
        self.words
            .next()
            .map(|word| {
                word.into_string()
                    .map_err(|word| usage(format!("{} is not UTF-8", word.to_string_lossy())))
            })
            .transpose()
    }

    fn shell(&mut self) -> Result<Shell> {
        match self.optional()?.as_deref() {
            Some("bash") => Ok(Shell::Bash),
            Some("zsh") => Ok(Shell::Zsh),
            Some("fish") => Ok(Shell::Fish),
            Some(other) => {
                Err(usage(format!("no completion for {other:?}: bash, zsh and fish have one")))
            }
            None => Err(self.missing("a shell: bash, zsh or fish")),
        }
    }

    fn missing(&self, what: &str) -> Error {
        usage(format!("{} needs {what}: usage: {}", self.topic.name(), help::usage(self.topic)))
    }

    fn end(mut self) -> Result<()> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => Err(usage(format!(
                "unexpected argument {:?}: usage: {}",
                word.to_string_lossy(),
                help::usage(self.topic)
            ))),
        }
    }
}

/// `NETNS[:IFNAME]`. An interface name has neither `:` nor `/`.
fn kept(text: &OsStr) -> Result<(PathBuf, Option<String>)> {
    let Some(plain) = text.to_str() else { return Ok((text.into(), None)) };
    if plain.is_empty() {
        return Err(usage("gc: --keep needs the path of a network namespace"));
    }
    Ok(match plain.rsplit_once(':') {
        Some((netns, ifname))
            if !netns.is_empty() && !ifname.is_empty() && !ifname.contains('/') =>
        {
            (netns.into(), Some(ifname.to_owned()))
        }
        _ => (plain.into(), None),
    })
}

fn topic(word: &OsStr) -> Result<Topic> {
    let text = word.to_string_lossy();
    Topic::ALL.iter().copied().find(|topic| topic.name() == text).ok_or_else(|| {
        let names = Topic::ALL.iter().map(|topic| topic.name());
        let hint = match suggestion(&text, names.clone()) {
            Some(name) => format!("did you mean {name:?}?"),
            None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
        };
        usage(format!("unknown command {text:?} for \"cnitool\": {hint}"))
    })
}

/// The name closest to `text`, if it is close.
fn suggestion<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    names
        .into_iter()
        .map(|name| (distance(&text, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn usage(msg: impl Into<String>) -> Error {
    Error::new(Code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests;
