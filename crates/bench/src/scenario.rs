//! What a row of the table is made of: a chain of plugins, the verbs that are
//! timed on it, and what each has to reach. The rows themselves are in `rows`.

use crate::Outcome;
use crate::contender::{Contender, Who};
use serde_json::Value;
use std::fmt;

/// The verbs of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verb {
    Version,
    Add,
    Check,
    Del,
    Gc,
    Status,
}

impl Verb {
    /// As in `CNI_COMMAND`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Version => "VERSION",
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Del => "DEL",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a row must reach. Times are first quartiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Need {
    /// The peer takes at least this many times as long.
    Faster(f64),
    /// At most this many times what the peer takes.
    Slower(f64),
    /// As many processes as the peer at the most.
    NoMoreProcesses,
    /// At most `times` what the same verb of the scenario called `than` takes.
    Growth { than: &'static str, times: f64 },
    /// At most `ms` more than the same verb of the scenario called `than`.
    Within { than: &'static str, ms: f64 },
    /// At most `ms` more than `ip link del` of a link made the same way.
    LinkDeletion { ms: f64 },
    /// At most `most` of what `counter` counts, see `counts::NAMES`.
    AtMost { counter: &'static str, most: usize },
    /// Of the addresses given at once none is given twice, nor was taken.
    NoDuplicate,
    /// After each cycle the host is as after the first.
    NothingLeft,
}

/// A plugin in a chain: what is executed, and its configuration without
/// `cniVersion`, `name` and, behind another plugin, `prevResult`.
#[derive(Debug, Clone)]
pub(crate) struct Plugin {
    pub(crate) program: &'static str,
    pub(crate) conf: Value,
    /// False for what only prepares the ground.
    pub(crate) timed: bool,
}

impl Plugin {
    /// Leaves it out of times, peaks and counts.
    pub(crate) fn not_timed(self) -> Plugin {
        Plugin { timed: false, ..self }
    }
}

/// A link to be deleted by `ip` for comparison, as lines for `ip -batch`.
/// `NETNS` stands for the name of the container's namespace; the end on the
/// host is called `link0`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Once, on the host.
    pub(crate) once: &'static str,
    /// Before each deletion, on the host.
    pub(crate) make: &'static str,
    /// Then, in the container.
    pub(crate) inside: &'static str,
}

/// One chain of plugins, under one circumstance.
pub(crate) struct Scenario {
    pub(crate) subject: &'static str,
    pub(crate) circumstance: &'static str,
    pub(crate) chain: fn(&Contender) -> Vec<Plugin>,
    /// In the order of a cycle, which must leave nothing behind.
    pub(crate) verbs: Vec<(Verb, Vec<Need>)>,
    /// Once, on the contender's host.
    pub(crate) prepare: fn(&Contender) -> Outcome<()>,
    /// The number of leases made before.
    pub(crate) taken: u32,
    /// How many containers get each verb at once; each has host ports of its own.
    pub(crate) at_once: usize,
    pub(crate) link: Option<Link>,
    /// Rounds of scenarios of one group take turns, so that they are compared
    /// under the same load.
    pub(crate) group: &'static str,
    /// For verbs that the peer does not have.
    pub(crate) only_ours: bool,
    /// A plugin that not every peer has; without it this is as [`Scenario::only_ours`],
    /// and what is needed beside the peer is not measured.
    pub(crate) peer_may_lack: Option<&'static str>,
    /// A kind of link that not every kernel has; without it nothing is measured.
    pub(crate) kernel_may_lack: Option<&'static str>,
    /// Programs of iptables are executed, which are larger than any plugin.
    pub(crate) by_iptables: bool,
}

impl Scenario {
    /// A scenario without verbs: one container, nothing prepared.
    pub(crate) fn new(
        subject: &'static str,
        circumstance: &'static str,
        chain: fn(&Contender) -> Vec<Plugin>,
    ) -> Scenario {
        Scenario {
            subject,
            circumstance,
            chain,
            verbs: Vec::new(),
            prepare: |_| Ok(()),
            taken: 0,
            at_once: 1,
            link: None,
            group: "",
            only_ours: false,
            peer_may_lack: None,
            kernel_may_lack: None,
            by_iptables: false,
        }
    }

    /// Adds a verb to the cycle.
    pub(crate) fn verb(mut self, verb: Verb, needs: &[Need]) -> Scenario {
        self.verbs.push((verb, needs.to_vec()));
        self
    }

    /// Has that many leases of other containers made before, see `leases`.
    pub(crate) fn leases(mut self, taken: u32) -> Scenario {
        self.taken = taken;
        self
    }

    /// Has something else made before.
    pub(crate) fn prepare(mut self, prepare: fn(&Contender) -> Outcome<()>) -> Scenario {
        self.prepare = prepare;
        self
    }

    pub(crate) fn at_once(mut self, containers: usize) -> Scenario {
        self.at_once = containers;
        self
    }

    pub(crate) fn link(mut self, link: Link) -> Scenario {
        self.link = Some(link);
        self
    }

    pub(crate) fn group(mut self, group: &'static str) -> Scenario {
        self.group = group;
        self
    }

    pub(crate) fn only_ours(mut self) -> Scenario {
        self.only_ours = true;
        self
    }

    pub(crate) fn kernel_may_lack(mut self, kind: &'static str) -> Scenario {
        self.kernel_may_lack = Some(kind);
        self
    }

    pub(crate) fn peer_may_lack(mut self, plugin: &'static str) -> Scenario {
        self.peer_may_lack = Some(plugin);
        self
    }

    pub(crate) fn by_iptables(mut self) -> Scenario {
        self.by_iptables = true;
        self
    }

    /// The same beside a peer that can do all it can, and takes `1 / times` as long
    /// at the least.
    pub(crate) fn beside_equal(mut self, times: f64) -> Scenario {
        for (_, needs) in &mut self.verbs {
            *needs = vec![Need::Slower(times), Need::NoMoreProcesses];
        }
        self.link = None;
        self
    }

    /// How other rows refer to it.
    pub(crate) fn name(&self) -> String {
        match self.circumstance {
            "" => self.subject.to_owned(),
            circumstance => format!("{}, {circumstance}", self.subject),
        }
    }

    /// The name of its network.
    pub(crate) fn network(&self) -> String {
        let is_word = |c: char| c.is_ascii_alphanumeric();
        let name = self.name();
        let words: Vec<_> = name.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
        words.join("-")
    }

    /// The name of a row.
    pub(crate) fn row(&self, verb: Verb) -> String {
        match self.circumstance {
            "" => format!("{} {verb}", self.subject),
            circumstance => format!("{} {verb}, {circumstance}", self.subject),
        }
    }

    /// Whether one of its verbs has to reach that.
    pub(crate) fn needs(&self, need: Need) -> bool {
        self.verbs.iter().any(|(_, needs)| needs.contains(&need))
    }

    pub(crate) fn concerns(&self, who: Who) -> bool {
        who == Who::Ours || !self.only_ours
    }

    /// The newest version of the specification that all who are concerned speak.
    pub(crate) fn cni_version(&self) -> &'static str {
        if self.only_ours { "1.1.0" } else { "1.0.0" }
    }
}
