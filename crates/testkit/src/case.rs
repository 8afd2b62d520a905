//! A test as a value: a name, what it needs, a body.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::feature::Feature;
use crate::host::Host;

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Needs nothing of the machine.
    Pure,
    /// Needs a private host: on this machine, and again in a virtual machine
    /// with another kernel.
    Namespace,
}

enum Body {
    Pure(Box<dyn FnOnce() + Send>),
    Host(Box<dyn FnOnce(&Host) + Send>),
}

/// One test. See [`crate::cases`] for a list of them.
pub struct Case {
    name: String,
    needs: Vec<Feature>,
    every_kernel: bool,
    body: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("needs", &self.needs).finish()
    }
}

impl Case {
    /// A test that needs a fresh host with some features.
    pub fn new(
        name: impl Into<String>,
        needs: &[Feature],
        body: impl FnOnce(&Host) + Send + 'static,
    ) -> Self {
        let mut all = vec![Feature::PrivateHost];
        all.extend(needs);
        Self {
            name: name.into(),
            needs: all,
            every_kernel: false,
            body: Body::Host(Box::new(body)),
        }
    }

    /// A test that needs no host.
    pub fn pure(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Self {
        let body = Body::Pure(Box::new(body));
        Self { name: name.into(), needs: Vec::new(), every_kernel: false, body }
    }

    /// It tells of this project's plugins and does not hold for others.
    #[must_use]
    pub fn ours_only(mut self) -> Self {
        self.needs.push(Feature::OurPlugins);
        self
    }

    /// Its name: `module::behaviour`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it runs.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self.body {
            Body::Pure(_) => Lane::Pure,
            Body::Host(_) => Lane::Namespace,
        }
    }

    /// Is it for the virtual machine: because it needs something that development
    /// kernels lack, or because one kernel does not stand for another?
    #[must_use]
    pub fn needs_another_kernel(&self) -> bool {
        self.every_kernel || self.needs.iter().any(|feature| feature.of_distribution_kernels())
    }

    /// What it needs and the machine has not.
    #[must_use]
    pub fn missing(&self) -> Vec<Feature> {
        self.needs.iter().copied().filter(|feature| !feature.present()).collect()
    }

    /// Runs it in a thread of its own. [`record_panics`] must have been called.
    ///
    /// # Errors
    /// The messages and places of its panics, and the journal of its host.
    pub fn run(self) -> Result<(), String> {
        let name = self.name.clone();
        let work = move || match self.body {
            Body::Pure(body) => {
                catch_unwind(AssertUnwindSafe(body)).map_err(|panic| (panic, String::new()))
            }
            Body::Host(body) => Host::run_recorded(body),
        };
        let worker = thread::Builder::new().name(name.clone()).spawn(work);
        let worker = worker.map_err(|e| format!("start a thread: {e}"))?;
        let outcome = worker.join().unwrap_or_else(|panic| Err((panic, String::new())));
        outcome.map_err(|(panic, journal)| {
            let mut text = take_panics(&name);
            if text.is_empty() {
                text = payload(panic.as_ref());
            }
            if journal.is_empty() { text } else { format!("{text}\n\njournal:\n{journal}") }
        })
    }
}

/// Has cases run in the virtual machine as well: what they show depends on the
/// version of the kernel, or on its loading what is asked for as a module.
///
/// # Panics
/// When a name is that of no case in the list.
pub fn on_every_kernel(list: &mut [Case], names: &[&str]) {
    for name in names {
        let case = list.iter_mut().find(|case| case.name == *name);
        case.unwrap_or_else(|| panic!("there is no case {name}")).every_kernel = true;
    }
}

/// Panics by the name of the thread, which is the name of the test.
static PANICS: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Set while a message is being stored: a panic in there must not lock.
    static STORING: RefCell<bool> = const { RefCell::new(false) };
}

/// Keeps the messages and places of panics in named threads for [`Case::run`]
/// instead of printing them in between. Called once, before any case runs.
pub fn record_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let current = thread::current();
        let nested = STORING.with(|storing| storing.replace(true));
        match current.name() {
            Some(name) if name != "main" && !nested => {
                let place = info.location().map_or_else(String::new, |l| format!("{l}: "));
                let text = format!("{place}{}", payload(info.payload()));
                let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                panics.entry(name.to_owned()).or_default().push(text);
            }
            _ => print(info),
        }
        STORING.with(|storing| storing.replace(false));
    }));
}

fn take_panics(name: &str) -> String {
    let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    panics.remove(name).unwrap_or_default().join("\n")
}

fn payload(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// `tests/bridge.rs`'s `fn vlan` as `bridge::vlan`: the path without the name
/// of the executable.
#[must_use]
pub fn case_name(module: &str, function: &str) -> String {
    let module = module.split_once("::").map_or(module, |(_, rest)| rest);
    format!("{module}::{function}")
}

/// A `Vec<Case>` of functions that take a host, each behind what it needs:
///
/// ```
/// # use testkit::{Case, Host, cases};
/// # fn two_ports(_: &Host) {}
/// # fn vlan(_: &Host) {}
/// let list: Vec<Case> = cases! {
///     [Bridge] two_ports,
///     [Bridge, BridgeVlan, Ping] vlan,
/// };
/// ```
#[macro_export]
macro_rules! cases {
    ($([$($need:ident),* $(,)?] $function:path),* $(,)?) => {
        vec![$($crate::Case::new(
            $crate::case_name(module_path!(), stringify!($function)),
            &[$($crate::Feature::$need),*],
            $function,
        )),*]
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_executable() {
        assert_eq!(case_name("integration::bridge", "vlan"), "bridge::vlan");
        assert_eq!(case_name("integration", "vlan"), "integration::vlan");
    }

    #[test]
    fn a_failing_case_says_why() {
        let failed = Case::pure("fails", || panic!("the reason")).run();
        assert!(failed.expect_err("it panics").contains("the reason"));
        assert_eq!(Case::pure("passes", || {}).run(), Ok(()));
    }
}
