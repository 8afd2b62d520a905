//! Rounds: the contenders take turns, each with one cycle of a scenario's verbs,
//! in an order that changes from round to round.

use crate::Outcome;
use crate::contender::{
    Answer, Container, Contender, PATH, Under, Who, call, cpu_of_children, find_program, timed,
};
use crate::counts::{Counts, count};
use crate::host::{Netns, run};
use crate::leases;
use crate::leftovers;
use crate::scenario::{Link, Need, Plugin, Scenario, Verb};
use crate::stats::{Sample, Summary};
use serde_json::{Value, json};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A group of scenarios ends early when it takes longer, but not before
/// `FEWEST_ROUNDS`.
const BUDGET: Duration = Duration::from_secs(30);
const FEWEST_ROUNDS: usize = 3;

/// Before the rounds, so that bridges and indices are there and files cached.
const WARM_UP_ROUNDS: usize = 1;

/// How many times more rounds there are where links are deleted: the kernel
/// waits for a grace period, whose phase moves a deletion by some 5 ms.
const MORE_FOR_LINKS: usize = 3;

/// What was found out about one verb of one scenario.
#[derive(Debug, Default)]
pub(crate) struct Row {
    samples: BTreeMap<Who, Vec<Sample>>,
    pub(crate) counts: BTreeMap<Who, Counts>,
    /// KiB of the largest process.
    pub(crate) peak: BTreeMap<Who, u64>,
}

impl Row {
    pub(crate) fn summary(&self, who: Who) -> Option<Summary> {
        Summary::of(self.samples.get(&who)?)
    }
}

/// Everything that was found out about a scenario.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) rows: BTreeMap<Verb, Row>,
    /// Who failed to run, and why.
    pub(crate) failures: BTreeMap<Who, String>,
    /// Addresses that were given twice, or given though they were taken.
    pub(crate) duplicates: BTreeMap<Who, BTreeSet<String>>,
    /// What the host held after the first cycle.
    clean: BTreeMap<Who, BTreeSet<String>>,
    /// What it held in addition after a later one.
    pub(crate) left: BTreeMap<Who, BTreeSet<String>>,
}

/// The machine with all who run on it.
pub(crate) struct Bench {
    pub(crate) ours: Contender,
    pub(crate) peer: Contender,
    ip: PathBuf,
    pub(crate) rounds: usize,
    /// A number for each container and host that was ever named.
    serial: u64,
}

impl Bench {
    pub(crate) fn new(ours: Contender, peer: Contender, rounds: usize) -> Outcome<Bench> {
        let ip = find_program("ip")?;
        Ok(Bench { ours, peer, ip, rounds, serial: 0 })
    }

    fn contender(&self, who: Who) -> &Contender {
        if who == Who::Peer { &self.peer } else { &self.ours }
    }

    /// Runs scenarios of one group; gives the results in their order.
    pub(crate) fn run_group(&mut self, group: &[Scenario]) -> Vec<Results> {
        let mut lanes: Vec<_> = group.iter().map(Lane::new).collect();
        for lane in &mut lanes {
            for who in lane.all() {
                if let Err(e) = lane.prepare(self, who) {
                    lane.note(who, Err(e));
                }
            }
        }
        let deletes_links = group.iter().any(|scenario| scenario.link.is_some());
        let rounds = self.rounds * if deletes_links { MORE_FOR_LINKS } else { 1 };
        let start = Instant::now();
        for round in 0..rounds + WARM_UP_ROUNDS {
            let timed_rounds = round.saturating_sub(WARM_UP_ROUNDS);
            if timed_rounds >= FEWEST_ROUNDS && start.elapsed() > BUDGET {
                break;
            }
            for turn in 0..lanes.len() {
                let count = lanes.len();
                let lane = &mut lanes[(turn + round) % count];
                let mut all = lane.all();
                let places = all.len().max(1);
                all.rotate_left(round % places);
                for who in
                    all.into_iter().filter(|who| round >= WARM_UP_ROUNDS || *who != Who::Link)
                {
                    // The first of all are not at once: the peer's fail where two make
                    // what all share.
                    let at_once = if round < WARM_UP_ROUNDS { 1 } else { lane.scenario.at_once };
                    let samples = lane.cycle(self, who, How::Timed, at_once);
                    if round >= WARM_UP_ROUNDS {
                        lane.note(who, samples);
                    } else if let Err(e) = samples {
                        lane.note(who, Err(e));
                    }
                }
            }
        }
        for lane in &mut lanes {
            lane.look_closer(self);
        }
        lanes.into_iter().map(|lane| lane.results).collect()
    }

    /// A container of `who`, whose namespace is used again and again: a cycle
    /// leaves it empty, and tearing one down would disturb what comes next.
    fn container(&mut self, who: Who, number: usize) -> Outcome<Container> {
        self.serial += 1;
        let id = format!("bench-{}-{}", who.name(), self.serial);
        Ok(Container { id, netns: Netns::ensure(&container_name(who, number))? })
    }
}

fn container_name(who: Who, number: usize) -> String {
    match who {
        Who::Ours => format!("ours-{number}"),
        Who::Peer => format!("peer-{number}"),
        Who::Link => format!("links-{number}"),
    }
}

/// How the verbs of a cycle are run.
#[derive(Clone, Copy)]
enum How {
    Timed,
    Peak,
    Counted,
}

/// What a cycle gave for one verb.
enum Found {
    Sample(Sample),
    Peak(u64),
    Counts(Counts),
}

/// A scenario with what is known of it by now.
struct Lane<'a> {
    scenario: &'a Scenario,
    /// Of its own, so that no scenario meets the rules and bridges of another.
    hosts: BTreeMap<Who, Netns>,
    results: Results,
}

impl<'a> Lane<'a> {
    fn new(scenario: &'a Scenario) -> Lane<'a> {
        let rows = scenario.verbs.iter().map(|(verb, _)| (*verb, Row::default()));
        let results = Results { rows: rows.collect(), ..Results::default() };
        Lane { scenario, hosts: BTreeMap::new(), results }
    }

    /// Who still takes part.
    fn all(&self) -> Vec<Who> {
        let mut all = vec![Who::Ours, Who::Peer, Who::Link];
        all.retain(|who| !self.results.failures.contains_key(who));
        all.retain(|who| match who {
            Who::Link => self.scenario.link.is_some(),
            who => self.scenario.concerns(*who),
        });
        all
    }

    /// Keeps what was found, or why nothing was.
    fn note(&mut self, who: Who, found: Outcome<Vec<(Verb, Found)>>) {
        let found = match found {
            Ok(found) => found,
            Err(e) => {
                self.results.failures.insert(who, e);
                return;
            }
        };
        for (verb, found) in found {
            let row = self.results.rows.entry(verb).or_default();
            match found {
                Found::Sample(sample) => row.samples.entry(who).or_default().push(sample),
                Found::Peak(peak) => drop(row.peak.insert(who, peak)),
                Found::Counts(counts) => drop(row.counts.insert(who, counts)),
            }
        }
    }

    fn prepare(&mut self, bench: &mut Bench, who: Who) -> Outcome<()> {
        self.enter_host(bench, who)?;
        if let (Who::Link, Some(link)) = (who, self.scenario.link) {
            return run("ip", &["-batch", "-"], link.once).map(drop);
        }
        let contender = bench.contender(who);
        if self.scenario.taken > 0 {
            leases::make(&contender.data, &self.scenario.network(), self.scenario.taken)?;
        }
        (self.scenario.prepare)(contender)
    }

    /// Links are deleted on our host, because the host's settings count: where IPv6
    /// is forwarded, a link with an IPv6 address takes twice as long.
    fn enter_host(&mut self, bench: &mut Bench, who: Who) -> Outcome<()> {
        let who = if who == Who::Link { Who::Ours } else { who };
        let host = match self.hosts.entry(who) {
            Entry::Occupied(host) => host.into_mut(),
            Entry::Vacant(place) => {
                bench.serial += 1;
                place.insert(Netns::create(&format!("host-{}-{}", who.name(), bench.serial))?)
            }
        };
        host.enter()
    }

    /// One cycle of each for the peak memory and for the counts; not timed, and
    /// not where many calls would write over one another's.
    fn look_closer(&mut self, bench: &mut Bench) {
        if self.scenario.at_once > 1 {
            return;
        }
        for who in self.all().into_iter().filter(|who| *who != Who::Link) {
            for how in [How::Peak, How::Counted] {
                let found = self.cycle(bench, who, how, 1);
                self.note(who, found);
            }
        }
    }

    fn cycle(
        &mut self,
        bench: &mut Bench,
        who: Who,
        how: How,
        at_once: usize,
    ) -> Outcome<Vec<(Verb, Found)>> {
        self.enter_host(bench, who)?;
        if let (Who::Link, Some(link)) = (who, self.scenario.link) {
            let sample = delete_link(bench, &link)?;
            return Ok(vec![(Verb::Del, Found::Sample(sample))]);
        }
        let containers =
            (0..at_once).map(|number| bench.container(who, number)).collect::<Outcome<Vec<_>>>()?;
        let contender = bench.contender(who);
        let plugins = (self.scenario.chain)(contender);
        self.warm(contender, &plugins, &containers[0])?;
        let mut attachments: Vec<_> = containers
            .into_iter()
            .zip(0..)
            .map(|(container, number)| Attachment { container, number, result: None })
            .collect();
        let mut all = Vec::new();
        for (verb, _) in &self.scenario.verbs {
            let chain =
                Chain { contender, scenario: self.scenario, plugins: &plugins, verb: *verb };
            let found = chain.run(&mut attachments, how);
            if *verb == Verb::Add && found.is_ok() {
                self.look_for_duplicates(who, &attachments);
            }
            match found {
                Ok(found) => all.push((*verb, found)),
                Err(e) => {
                    // What was attached would spoil what other rows measure.
                    let del = Chain { verb: Verb::Del, ..chain };
                    let _ = del.run(&mut attachments, How::Timed);
                    return Err(e);
                }
            }
        }
        self.look_for_leftovers(contender)?;
        Ok(all)
    }

    /// Has each program run once, so that the processor's caches are not those
    /// of the one before: a peer that has read 10,000 files, say.
    fn warm(
        &self,
        contender: &Contender,
        plugins: &[Plugin],
        container: &Container,
    ) -> Outcome<()> {
        let conf = json!({"cniVersion": self.scenario.cni_version()});
        for Plugin { program, .. } in plugins {
            call(contender, program, Verb::Version, container, &conf, Under::Nothing)?;
        }
        Ok(())
    }

    fn look_for_leftovers(&mut self, contender: &Contender) -> Outcome<()> {
        if !self.scenario.needs(Need::NothingLeft) {
            return Ok(());
        }
        let held = leftovers::of(contender)?;
        let Some(clean) = self.results.clean.get(&contender.who) else {
            self.results.clean.insert(contender.who, held);
            return Ok(());
        };
        let left = self.results.left.entry(contender.who).or_default();
        left.extend(held.difference(clean).cloned());
        Ok(())
    }

    fn look_for_duplicates(&mut self, who: Who, attachments: &[Attachment]) {
        if !self.scenario.needs(Need::NoDuplicate) {
            return;
        }
        let mut given = BTreeSet::new();
        let duplicates = self.results.duplicates.entry(who).or_default();
        for attachment in attachments {
            let addresses = attachment.addresses();
            if addresses.is_empty() {
                duplicates.insert(format!("{} got none", attachment.container.id));
            }
            for address in addresses {
                let taken = match address {
                    IpAddr::V4(address) => leases::is_taken(address, self.scenario.taken),
                    IpAddr::V6(_) => false,
                };
                if taken || !given.insert(address) {
                    duplicates.insert(address.to_string());
                }
            }
        }
    }
}

/// Makes a link as the scenario's plugin does, and times its deletion.
fn delete_link(bench: &Bench, link: &Link) -> Outcome<Sample> {
    let name = container_name(Who::Link, 0);
    Netns::ensure(&name)?;
    run("ip", &["-batch", "-"], &link.make.replace("NETNS", &name))?;
    run("ip", &["-n", &name, "-batch", "-"], link.inside)?;
    wait_for_any_moment();
    let mut command = Command::new(&bench.ip);
    command.args(["link", "del", "link0"]).env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(timed(command)?.0)
}

/// The kernel waits for a grace period of RCU, which ticks of the clock end, before a
/// link is deleted. What has just been done begins one, so a deletion at a fixed time
/// after it would take a tick of 4 ms more or less than another, always.
#[expect(clippy::disallowed_methods, reason = "it is for no event")]
fn wait_for_any_moment() {
    /// In microseconds: three ticks.
    const LONGEST: u64 = 12_000;
    let random = RandomState::new().build_hasher().finish();
    thread::sleep(Duration::from_micros(random % LONGEST));
}

/// A container with what ADD said of it.
struct Attachment {
    container: Container,
    /// Among those of its cycle.
    number: u64,
    result: Option<Value>,
}

impl Attachment {
    fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result.as_ref().and_then(|result| result["ips"].as_array());
        let text = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
        ips.into_iter().flatten().filter_map(text).collect()
    }
}

/// A verb for all plugins of a scenario.
#[derive(Clone, Copy)]
struct Chain<'a> {
    contender: &'a Contender,
    scenario: &'a Scenario,
    plugins: &'a [Plugin],
    verb: Verb,
}

impl Chain<'_> {
    /// For all containers: one is timed by its processes, many by when the last
    /// of them is done.
    fn run(&self, attachments: &mut [Attachment], how: How) -> Outcome<Found> {
        if self.verb == Verb::Del {
            wait_for_any_moment();
        }
        if let [attachment] = attachments {
            return self.run_one(attachment, how);
        }
        let cpu = cpu_of_children()?;
        let start = Instant::now();
        thread::scope(|scope| {
            let workers: Vec<_> = attachments
                .iter_mut()
                .map(|attachment| scope.spawn(|| self.run_one(attachment, how)))
                .collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Outcome<Found>>| {
                worker.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))
            };
            // All are waited for, also behind one that failed.
            let all: Vec<_> = workers.into_iter().map(join).collect();
            all.into_iter().collect::<Outcome<Vec<_>>>()
        })?;
        let wall = start.elapsed();
        Ok(Found::Sample(Sample { wall, cpu: cpu_of_children()?.saturating_sub(cpu) }))
    }

    /// As a runtime does: ADD and CHECK in order, DEL backwards; ADD hands the
    /// result on, the others give the last one to all.
    fn run_one(&self, attachment: &mut Attachment, how: How) -> Outcome<Found> {
        let mut sum = Sample { wall: Duration::ZERO, cpu: Duration::ZERO };
        let mut peak = 0;
        let mut counts = Counts::new();
        let mut order: Vec<_> = self.plugins.iter().collect();
        if self.verb == Verb::Del {
            order.reverse();
        }
        let note = Path::new("/run").join(format!("note-{}", attachment.container.id));
        let under = match how {
            How::Timed => Under::Nothing,
            How::Peak => Under::Peak(&note),
            How::Counted => Under::Strace(&note),
        };
        let mut previous = if self.verb == Verb::Add { None } else { attachment.result.clone() };
        for plugin in order {
            let conf = self.configuration(plugin, attachment.number, previous.as_ref());
            let Answer { sample, result } = call(
                self.contender,
                plugin.program,
                self.verb,
                &attachment.container,
                &conf,
                if plugin.timed { under } else { Under::Nothing },
            )?;
            if plugin.timed {
                sum.wall += sample.wall;
                sum.cpu += sample.cpu;
            }
            match how {
                How::Timed => (),
                _ if !plugin.timed => (),
                How::Peak => peak = peak.max(read_peak(&take(&note)?)?),
                How::Counted => {
                    for (name, value) in count(&take(&note)?) {
                        *counts.entry(name).or_default() += value;
                    }
                }
            }
            if self.verb == Verb::Add {
                previous = Some(result);
                attachment.result.clone_from(&previous);
            }
        }
        Ok(match how {
            How::Timed => Found::Sample(sum),
            How::Peak => Found::Peak(peak),
            How::Counted => Found::Counts(counts),
        })
    }

    fn configuration(&self, plugin: &Plugin, number: u64, previous: Option<&Value>) -> Value {
        let mut conf = plugin.conf.clone();
        if let Some(Value::Array(mappings)) = conf.pointer_mut("/runtimeConfig/portMappings") {
            for mapping in mappings {
                mapping["hostPort"] = json!(mapping["hostPort"].as_u64().unwrap_or(0) + number);
            }
        }
        conf["cniVersion"] = json!(self.scenario.cni_version());
        conf["name"] = json!(self.scenario.network());
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        conf
    }
}

/// Reads a file and removes it.
fn take(path: &Path) -> Outcome<String> {
    let text = fs::read(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    let _ = fs::remove_file(path);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn read_peak(text: &str) -> Outcome<u64> {
    text.trim().parse().map_err(|e| format!("read a peak from {text:?}: {e}"))
}
