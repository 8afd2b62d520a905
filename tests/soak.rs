//! Many chains at once, for a while, in random order: attached, checked, detached,
//! lost and swept on two networks. No address and no port has two owners, nothing
//! that lives is swept, nobody waits for ever, and in the end nothing is left.
//!
//! | variable | meaning |
//! |---|---|
//! | `OXCNI_SOAK` | `WORKERSxSECONDS`, by default `20x10` |
//! | `OXCNI_SOAK_SEED` | a number: the same choices as in the run that printed it; by default by the clock |

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use testkit::{Case, Container, Host, Netns as _, Output, cases};

use crate::cnitool::cnitool_with;
use crate::whole_chain::{STAYS, addresses, capabilities, plugins, write_chain, write_side_chain};

pub(crate) fn list() -> Vec<Case> {
    let list = cases! {
        [Bridge, Shaping, Ifb, Nft] chains_at_random_keep_what_is_theirs,
    };
    list.into_iter().map(Case::ours_only).collect()
}

/// No verb takes longer, or somebody waits for somebody who waits for him. Locks are
/// waited for up to a minute, and that is an error; two hundred on a busy machine of
/// two processors are slow without any of that.
const VERB_LIMIT: Duration = Duration::from_mins(3);

/// Networks and the interfaces on them.
const NETWORKS: [(&str, &str); 2] = [("net", "eth0"), ("side", "eth1")];

/// How many of the workers also sweep: a GC waits until the ADDs before it are done,
/// and keeps those behind it waiting.
const SWEEPERS: usize = 20;

const FIRST_PORT: u16 = 20_000;

/// How many, how long, and which choices.
#[derive(Debug, Clone, Copy)]
struct Setting {
    workers: usize,
    time: Duration,
    seed: u64,
}

impl Setting {
    #[expect(clippy::disallowed_methods, reason = "the tests' own settings")]
    fn read() -> Self {
        let text = std::env::var("OXCNI_SOAK").unwrap_or_else(|_| "20x10".to_owned());
        let (workers, seconds) = text.split_once('x').expect("OXCNI_SOAK is WORKERSxSECONDS");
        let clock = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.expect("it is later than 1970").as_nanos() as u64
        };
        let seed = std::env::var("OXCNI_SOAK_SEED").ok();
        Self {
            workers: workers.parse().expect("a number of workers"),
            time: Duration::from_secs(seconds.parse().expect("a number of seconds")),
            seed: seed.map_or_else(clock, |seed| seed.parse().expect("OXCNI_SOAK_SEED: a number")),
        }
    }
}

/// Choices that are the same for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

/// Who has what, as those know who were told so.
#[derive(Default)]
struct Owners<T>(Mutex<BTreeMap<T, usize>>);

impl<T: Ord + Debug> Owners<T> {
    fn take(&self, thing: T, worker: usize) {
        let text = format!("{thing:?}");
        let before = self.0.lock().expect("nobody panicked").insert(thing, worker);
        assert_eq!(before, None, "worker {worker} was given {text}, which another has");
    }

    fn release(&self, worker: usize, which: impl Fn(&T) -> bool) {
        let mut map = self.0.lock().expect("nobody panicked");
        map.retain(|thing, owner| *owner != worker || !which(thing));
    }
}

#[derive(Default)]
struct Shared {
    addresses: Owners<String>,
    ports: Owners<u16>,
    counts: BTreeMap<&'static str, AtomicUsize>,
    slowest_ms: AtomicUsize,
}

impl Shared {
    fn count(&self, what: &str) {
        self.counts[what].fetch_add(1, Ordering::Relaxed);
    }
}

const COUNTED: &[&str] =
    &["add", "check", "del", "port taken", "gc", "lost and deleted", "forgotten and swept"];

struct Worker<'a> {
    host: &'a Host,
    shared: &'a Shared,
    number: usize,
    container: Container,
    /// Of each network: the port it was attached with.
    attached: [Option<u16>; 2],
    dice: Dice,
    ports: usize,
}

impl Worker<'_> {
    fn run(&self, line: &str, port: u16) -> Output {
        let begun = Instant::now();
        let output = cnitool_with(self.host, &capabilities(port), line);
        let took = begun.elapsed();
        assert!(took < VERB_LIMIT, "{line} took {took:?}\n{output}");
        self.shared.slowest_ms.fetch_max(took.as_millis() as usize, Ordering::Relaxed);
        output
    }

    fn line(&self, verb: &str, at: usize) -> String {
        let (network, ifname) = NETWORKS[at];
        format!("{verb} -i {ifname} {network} {}", self.container.path().display())
    }

    #[track_caller]
    fn ok(&self, line: &str, port: u16) -> String {
        let output = self.run(line, port);
        assert!(output.success(), "worker {}: {output}", self.number);
        output.stdout
    }

    fn step(&mut self) {
        let at = self.dice.roll(2);
        let roll = self.dice.roll(20);
        let sweeps = self.number < SWEEPERS;
        match (self.attached[at], roll) {
            (_, 0) if sweeps => {
                self.ok(&format!("gc {} --keep-existing", NETWORKS[at].0), 0);
                self.shared.count("gc");
            }
            (None, _) => self.add(at),
            (Some(_), 1) => self.lose(),
            (Some(port), 2) if sweeps => self.forget(at, port),
            (Some(port), 3..=8) => {
                self.ok(&self.line("check", at), port);
                self.shared.count("check");
            }
            (Some(port), _) => {
                self.release(at);
                self.ok(&self.line("del", at), port);
                self.shared.count("del");
            }
        }
    }

    fn add(&mut self, at: usize) {
        let port = FIRST_PORT + u16::try_from(self.dice.roll(self.ports)).expect("few");
        let output = self.run(&self.line("add", at), port);
        if !output.success() {
            // Only on the first network there are ports.
            let is_taken = at == 0 && output.stderr.contains(&format!("port {port}"));
            assert!(is_taken, "worker {}: {output}", self.number);
            return self.shared.count("port taken");
        }
        if at == 0 {
            self.shared.ports.take(port, self.number);
        }
        for address in addresses(&output.stdout) {
            self.shared.addresses.take(address, self.number);
        }
        self.attached[at] = Some(port);
        self.shared.count("add");
    }

    /// Before what is released can be another's.
    fn release(&mut self, at: usize) {
        let prefixes = [["10.1.", "2001:db8:1:"], ["10.2.", "2001:db8:2:"]][at];
        let is_of = |address: &String| prefixes.iter().any(|p| address.starts_with(p));
        self.shared.addresses.release(self.number, is_of);
        if at == 0 {
            self.shared.ports.release(self.number, |_| true);
        }
        self.attached[at] = None;
    }

    /// The namespace goes first, then comes the DEL.
    fn lose(&mut self) {
        self.container.destroy();
        for at in 0..2 {
            if let Some(port) = self.attached[at] {
                self.release(at);
                self.ok(&self.line("del", at), port);
            }
        }
        self.container.recreate();
        self.container.exec("ip link set lo up");
        self.shared.count("lost and deleted");
    }

    /// The runtime has lost its memory of the attachment: GC sweeps it, as others
    /// come and go.
    fn forget(&mut self, at: usize, port: u16) {
        let (network, ifname) = NETWORKS[at];
        let files = self.host.files("/var/lib/cni/results");
        let listed = self.ok("list --json", port);
        let rows: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let path = self.container.path().display().to_string();
        let row = rows.as_array().expect("a list").iter().find(|row| row["netns"] == path.as_str());
        let id = row.and_then(|row| row["containerID"].as_str()).expect("it is attached");
        let name = format!("{network}-{id}-{ifname}");
        assert!(files.contains(&name), "{name} in {files:?}");
        self.host.exec(format!("rm /var/lib/cni/results/{name}"));
        self.release(at);
        self.ok(&format!("gc {network} --keep-existing"), port);
        let links = self.container.links();
        assert!(!links.iter().any(|link| link == ifname), "{links:?}");
        self.shared.count("forgotten and swept");
    }
}

fn chains_at_random_keep_what_is_theirs(host: &Host) {
    let setting = Setting::read();
    let say = |line: String| {
        host.note(line.clone());
        let _ = writeln!(io::stderr(), "{line}");
    };
    say(format!("soak: {setting:?}"));
    write_chain(host, "1.1.0", &plugins(Some("nftables")));
    write_side_chain(host, "1.1.0");
    let containers: Vec<_> =
        (0..setting.workers).map(|n| host.container(&format!("c{n}"))).collect();
    let shared = Shared {
        counts: COUNTED.iter().map(|what| (*what, AtomicUsize::new(0))).collect(),
        ..Shared::default()
    };
    let shared = &shared;
    let workers: Vec<_> = containers
        .into_iter()
        .enumerate()
        .map(|(number, container)| {
            container.exec("ip link set lo up");
            // Zero would stay zero.
            let dice = Dice((setting.seed ^ (number as u64).wrapping_mul(0x9e37_79b9)) | 1);
            // Fewer ports than workers, so that they meet.
            let ports = setting.workers.div_ceil(2);
            let attached = [None, None];
            Mutex::new(Worker { host, shared, number, container, attached, dice, ports })
        })
        .collect();
    // What is shared comes with the first, and stays.
    {
        let mut first = workers[0].lock().expect("nobody had it");
        for at in 0..2 {
            first.add(at);
            let port = first.attached[at].expect("nobody else is there");
            first.release(at);
            first.ok(&first.line("del", at), port);
        }
    }
    let before = host.snapshot();
    let end = Instant::now() + setting.time;
    host.parallel(setting.workers, |number| {
        let mut worker = workers[number].lock().expect("it is its own");
        while Instant::now() < end {
            worker.step();
        }
        for at in 0..2 {
            if let Some(port) = worker.attached[at] {
                worker.ok(&worker.line("check", at), port);
                worker.release(at);
                worker.ok(&worker.line("del", at), port);
            }
        }
        assert_eq!(worker.container.links(), ["lo"]);
    });
    host.expect_unchanged_but(&before, STAYS);
    let counts: Vec<_> = shared
        .counts
        .iter()
        .map(|(what, count)| format!("{} {what}", count.load(Ordering::Relaxed)))
        .collect();
    let slowest = shared.slowest_ms.load(Ordering::Relaxed);
    say(format!("soak: {}; the slowest took {slowest} ms", counts.join(", ")));
    let adds = shared.counts["add"].load(Ordering::Relaxed);
    assert!(adds > setting.workers, "{adds} ADDs are no load");
    assert_eq!(host.files("/var/lib/cni/results").len(), 0);
}
