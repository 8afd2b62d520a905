//! Calling a plugin as a runtime does, and judging what it answers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::command::{Command, Output};
use crate::container::Container;
use crate::host::{SCRATCH, World};

/// What plugins find commands by; a runtime's own environment is not passed.
const COMMAND_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A plugin to call: `host.plugin("bridge").add(&container, "eth0", &conf)`.
#[derive(Debug, Clone)]
#[must_use = "nothing is called before a verb"]
pub struct Plugin<'a> {
    world: &'a World,
    program: PathBuf,
    env: BTreeMap<String, Option<String>>,
    cni_path: String,
    fault: Option<Fault>,
    /// The capability it is called without.
    lacks: Option<&'static str>,
    /// Options of prlimit(1).
    limits: Vec<String>,
}

/// What is done to a system call of the plugin.
#[derive(Debug, Clone)]
struct Fault {
    calls: String,
    action: String,
    nth: usize,
    /// Whether its children's calls are met as well.
    follows: bool,
    /// Whether it dies of it.
    kills: bool,
}

impl<'a> Plugin<'a> {
    #[track_caller]
    pub(crate) fn new(world: &'a World, folder: &Path, name: &str) -> Self {
        let program = folder.join(name);
        assert!(program.exists(), "no plugin {name} in {}", folder.display());
        let cni_path = folder.display().to_string();
        let env = BTreeMap::new();
        Self { world, program, env, cni_path, fault: None, lacks: None, limits: Vec::new() }
    }

    /// Sets `CNI_ARGS`: `"IgnoreUnknown=1;IP=10.1.0.9"`.
    pub fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// Sets a variable, over whatever the verb sets it to.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), Some(value.to_owned()));
        self
    }

    /// Leaves a variable out that the verb would set.
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.insert(name.to_owned(), None);
        self
    }

    /// Sets `CNI_PATH`, by default the plugin's own folder.
    pub fn cni_path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.cni_path);
        self
    }

    /// Lets the `nth` (from 1) of the named system calls (`"sendto,sendmsg"`)
    /// fail with `error` (`"ENOBUFS"`), the plugin's own and its children's;
    /// needs [`crate::Feature::Strace`]. See [`Outcome::fault_fired`].
    pub fn fail_call(self, calls: &str, error: &str, nth: usize) -> Self {
        self.fault(calls, format!("error={error}"), nth)
    }

    /// As [`Plugin::fail_call`], of the plugin's own calls alone: each process is
    /// counted for itself, so that one that is started to take something back would
    /// fail at the same place.
    pub fn fail_own_call(mut self, calls: &str, error: &str, nth: usize) -> Self {
        self = self.fail_call(calls, error, nth);
        self.fault = self.fault.map(|fault| Fault { follows: false, ..fault });
        self
    }

    /// Kills the plugin by SIGKILL at the `nth` (from 1) of the named system
    /// calls, as the machine's memory killer would; the call is not made.
    pub fn kill_at_call(mut self, calls: &str, nth: usize) -> Self {
        self = self.fault(calls, "error=EINTR:signal=KILL".to_owned(), nth);
        self.fault = self.fault.map(|fault| Fault { kills: true, ..fault });
        self
    }

    /// Has it wait for `delay` before the `nth` (from 1) of the named system calls, so
    /// that others can get in between.
    pub fn delay_call(self, calls: &str, delay: Duration, nth: usize) -> Self {
        self.fault(calls, format!("delay_enter={}", delay.as_micros()), nth)
    }

    /// Calls it as root without `CAP_NET_ADMIN`, as in a locked-down container.
    pub fn without_net_admin(mut self) -> Self {
        self.lacks = Some("net_admin");
        self
    }

    /// The same without `CAP_SYS_ADMIN`: it can enter no namespace.
    pub fn without_sys_admin(mut self) -> Self {
        self.lacks = Some("sys_admin");
        self
    }

    /// Gives it no more memory to write to than `bytes`, reserved or used; what it
    /// starts gets as much.
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.limits.push(format!("--data={bytes}"));
        self
    }

    /// Lets it make no file longer than `bytes`, nor what it starts.
    pub fn with_file_size(mut self, bytes: usize) -> Self {
        self.limits.push(format!("--fsize={bytes}"));
        self
    }

    fn fault(mut self, calls: &str, action: String, nth: usize) -> Self {
        self.fault =
            Some(Fault { calls: calls.to_owned(), action, nth, follows: true, kills: false });
        self
    }

    /// ADD of an attachment.
    #[track_caller]
    pub fn add(&self, container: &Container, ifname: &str, conf: &Value) -> Outcome {
        self.attachment("ADD", container, ifname, conf)
    }

    /// CHECK of an attachment; `conf` has the previous result, see
    /// [`crate::with_previous_result`].
    #[track_caller]
    pub fn check(&self, container: &Container, ifname: &str, conf: &Value) -> Outcome {
        self.attachment("CHECK", container, ifname, conf)
    }

    /// DEL of an attachment.
    #[track_caller]
    pub fn del(&self, container: &Container, ifname: &str, conf: &Value) -> Outcome {
        self.attachment("DEL", container, ifname, conf)
    }

    /// DEL of an attachment without `CNI_NETNS`, as after a lost namespace.
    #[track_caller]
    pub fn del_without_netns(&self, container: &Container, ifname: &str, conf: &Value) -> Outcome {
        self.clone().without_env("CNI_NETNS").attachment("DEL", container, ifname, conf)
    }

    /// GC; `conf` has `cni.dev/valid-attachments` and `cni.dev/attachments`.
    #[track_caller]
    pub fn gc(&self, conf: &Value) -> Outcome {
        self.raw("GC", &BTreeMap::new(), conf.to_string().as_bytes())
    }

    /// STATUS.
    #[track_caller]
    pub fn status(&self, conf: &Value) -> Outcome {
        self.raw("STATUS", &BTreeMap::new(), conf.to_string().as_bytes())
    }

    /// VERSION.
    #[track_caller]
    pub fn version(&self) -> Outcome {
        let conf = json!({"cniVersion": "1.0.0"}).to_string();
        self.raw("VERSION", &BTreeMap::new(), conf.as_bytes())
    }

    /// Any verb on an attachment, with any bytes as its input.
    #[track_caller]
    pub fn send(&self, verb: &str, container: &Container, ifname: &str, stdin: &[u8]) -> Outcome {
        let env = BTreeMap::from([
            ("CNI_CONTAINERID", container.id()),
            ("CNI_NETNS", container.path().display().to_string()),
            ("CNI_IFNAME", ifname.to_owned()),
        ]);
        self.raw(verb, &env, stdin)
    }

    /// Any verb with just the given variables beside `CNI_COMMAND` and
    /// `CNI_PATH`, and any bytes as its input.
    #[track_caller]
    pub fn raw(&self, verb: &str, env: &BTreeMap<&str, String>, stdin: &[u8]) -> Outcome {
        let mut all = BTreeMap::from([
            ("PATH".to_owned(), COMMAND_PATH.to_owned()),
            ("CNI_COMMAND".to_owned(), verb.to_owned()),
            ("CNI_PATH".to_owned(), self.cni_path.clone()),
        ]);
        all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        for (name, value) in &self.env {
            match value {
                Some(value) => drop(all.insert(name.clone(), value.clone())),
                None => drop(all.remove(name)),
            }
        }
        self.call(verb, all, stdin)
    }

    #[track_caller]
    fn attachment(&self, verb: &str, container: &Container, ifname: &str, conf: &Value) -> Outcome {
        self.send(verb, container, ifname, conf.to_string().as_bytes())
    }

    #[track_caller]
    fn call(&self, verb: &str, env: BTreeMap<String, String>, stdin: &[u8]) -> Outcome {
        let program = self.program.display().to_string();
        let shown_env = env
            .iter()
            .filter(|(name, _)| *name != "PATH")
            .fold(String::new(), |text, (name, value)| format!("{text}\n    {name}={value}"));
        let trace = PathBuf::from(SCRATCH).join(format!("trace.{:?}", std::thread::current().id()));
        let mut argv = match &self.fault {
            None => vec![program],
            Some(fault) => {
                let Fault { calls, action, nth, follows, kills } = fault;
                // With the filter, which saves a stop at each other call, it sends no
                // signal.
                let children = match (follows, kills) {
                    (true, false) => "-f --seccomp-bpf ",
                    (true, true) => "-f ",
                    (false, _) => "",
                };
                let words = format!(
                    "strace {children}-qq -o {} -e trace={calls} -e inject={calls}:{action}:when={nth}",
                    trace.display()
                );
                let words = words.split(' ').map(str::to_owned);
                words.chain([program]).collect()
            }
        };
        if let Some(capability) = self.lacks {
            let words = format!("setpriv --bounding-set -{capability} --inh-caps -{capability}");
            argv.splice(0..0, words.split(' ').map(str::to_owned));
        }
        if !self.limits.is_empty() {
            argv.splice(0..0, std::iter::once("prlimit".to_owned()).chain(self.limits.clone()));
        }
        let mut command = Command::new(&argv, "host", None);
        command.env = Some(env);
        command.stdin = stdin.to_vec();
        let output = command.run();
        // strace marks an injected error and a delay, and tells of a killed child; it ends
        // as the plugin does.
        let is_marked = |trace: String| match &self.fault {
            Some(Fault { kills: true, .. }) => trace.contains("+++ killed by SIGKILL +++"),
            Some(_) => ["(INJECTED)", "(DELAYED)"].iter().any(|mark| trace.contains(mark)),
            None => false,
        };
        let fault_fired = self.fault.is_some()
            && (output.status.signal() == Some(Signal::SIGKILL as i32)
                || fs::read_to_string(&trace).is_ok_and(is_marked));
        let outcome = Outcome {
            verb: verb.to_owned(),
            story: format!(
                "{verb} {output}\n  env:{shown_env}\n  stdin: {}",
                String::from_utf8_lossy(stdin)
            ),
            output,
            fault_fired,
        };
        self.world.note(outcome.story.clone());
        outcome
    }
}

/// What a plugin answered.
#[derive(Debug, Clone)]
#[must_use = "a failure would go unseen"]
pub struct Outcome {
    verb: String,
    output: Output,
    story: String,
    fault_fired: bool,
}

impl Outcome {
    /// Its exit code, or `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.output.code()
    }

    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.output.success()
    }

    /// Its standard output.
    #[must_use]
    pub fn stdout(&self) -> &str {
        &self.output.stdout
    }

    /// Its standard error.
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.output.stderr
    }

    /// Whether the fault that was asked for met a call; `false` means that the
    /// plugin makes fewer calls, so that a loop over them is at its end.
    #[must_use]
    pub fn fault_fired(&self) -> bool {
        self.fault_fired
    }

    /// Its standard output, which must be exactly one JSON document.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn document(&self) -> Value {
        match serde_json::from_str(&self.output.stdout) {
            Ok(document) => document,
            Err(e) => panic!("{}: stdout is not one JSON document: {e}\n{self}", self.verb),
        }
    }

    /// The result of an ADD (or VERSION) that succeeded.
    ///
    /// # Panics
    /// When it failed or printed anything but one JSON object.
    #[track_caller]
    pub fn expect_result(&self) -> Value {
        assert!(self.success(), "{} failed\n{self}", self.verb);
        let document = self.document();
        assert!(document.is_object(), "{}: the result is no object\n{self}", self.verb);
        document
    }

    /// A verb without a result succeeded in silence.
    ///
    /// # Panics
    /// When it failed or printed anything.
    #[track_caller]
    pub fn expect_ok(&self) {
        assert!(self.success(), "{} failed\n{self}", self.verb);
        assert!(self.output.stdout.trim().is_empty(), "{} printed something\n{self}", self.verb);
    }

    /// It failed as the protocol says: exit code 1 and one error document with
    /// this code, whose message or details contain `part`. Gives the document.
    ///
    /// # Panics
    /// When any of that differs.
    #[track_caller]
    pub fn expect_error(&self, code: u32, part: &str) -> Value {
        assert_eq!(self.code(), Some(1), "{}: exit code\n{self}", self.verb);
        let document = self.document();
        assert_eq!(document["code"], code, "{}: error code\n{self}", self.verb);
        let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("msg").is_empty(), "{}: an error without a message\n{self}", self.verb);
        let both = format!("{} {}", text("msg"), text("details"));
        assert!(both.contains(part), "{}: the error does not say {part:?}\n{self}", self.verb);
        document
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story)
    }
}
