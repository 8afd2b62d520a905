//! The two network namespaces of a request.
//!
//! A socket belongs to the namespace it was opened in, so the thread enters
//! the container once, after the host's socket is open, and never goes back:
//! no code has to remember where it is. What must run on the host later (an
//! IPAM plugin that is executed) is started there explicitly.

use crate::kernel;
use cni::delegate::Home;
use cni::{Code, Error, Request, Result};
use linux::{Namespace, Socket};
use std::process::Command;

/// The host's and the container's side of one request.
pub struct Sandbox<'r> {
    /// What the runtime asked.
    pub request: &'r Request,
    host: Socket,
    home: Namespace,
    /// The container's namespace; `None` on DEL when it is gone.
    namespace: Option<Namespace>,
    /// Whether the thread has left the host.
    is_away: bool,
    /// Opened when the thread entered the container.
    container: Option<Socket>,
}

/// Takes the thread into the container for good, for plugins that touch nothing
/// else. For ADD and CHECK: the namespace must be there.
///
/// # Errors
/// Code 8 when it is not.
pub fn enter(request: &Request) -> Result<Socket> {
    enter_namespace(&namespace(request)?)
}

/// [`enter`] for DEL; `None` where [`Sandbox::open_if_there`] finds no namespace.
///
/// # Errors
/// Code 8 when it is there but cannot be entered.
pub fn enter_if_there(request: &Request) -> Result<Option<Socket>> {
    namespace_if_there(request)?.as_ref().map(enter_namespace).transpose()
}

/// The container's namespace, for ADD and CHECK.
///
/// # Errors
/// Code 8 when it is not there.
pub fn namespace(request: &Request) -> Result<Namespace> {
    Namespace::open(request.netns()?).map_err(invalid_netns)
}

/// The container's namespace, for DEL; `None` as in [`enter_if_there`].
///
/// # Errors
/// Code 8 when it is there but cannot be opened.
pub fn namespace_if_there(request: &Request) -> Result<Option<Namespace>> {
    match request.netns.as_deref().map(Namespace::open) {
        None => Ok(None),
        Some(Ok(namespace)) => Ok(Some(namespace)),
        Some(Err(e)) if e.is_not_found() || e.is_not_namespace() => Ok(None),
        Some(Err(e)) => Err(invalid_netns(e)),
    }
}

/// [`enter`] with a namespace that is open already.
///
/// # Errors
/// Code 8 when it cannot be entered.
pub fn enter_namespace(namespace: &Namespace) -> Result<Socket> {
    namespace.enter().map_err(invalid_netns)?;
    Socket::route().map_err(kernel)
}

/// Runs `act` in a namespace, on a thread of its own (100 us), for GC and others
/// that go into several: the calling thread stays where it is.
///
/// # Errors
/// Those of `act`; code 8 when the namespace cannot be entered.
pub fn inside<T: Send>(
    namespace: &Namespace,
    act: impl FnOnce(&Socket) -> Result<T> + Send,
) -> Result<T> {
    on_thread(|| act(&enter_namespace(namespace)?))
}

fn on_thread<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let (mut act, mut outcome) = (Some(act), None);
    run(&mut || outcome = act.take().map(|act| act()))?;
    outcome.unwrap_or_else(|| Err(failed("the thread died")))
}

/// Once for all that is done on threads: starting one is much code.
fn run(act: &mut (dyn FnMut() + Send)) -> Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, act);
        let thread = thread.map_err(|e| failed(&format!("start a thread: {e}")))?;
        thread.join().map_err(|_| failed("the thread died"))
    })
}

fn failed(why: &str) -> Error {
    Error::internal(format!("act in a network namespace: {why}"))
}

impl<'r> Sandbox<'r> {
    /// For ADD and CHECK: the container's namespace must be there.
    ///
    /// # Errors
    /// Code 8 when it is not.
    pub fn open(request: &'r Request) -> Result<Sandbox<'r>> {
        Sandbox::with(request, Some(namespace(request)?))
    }

    /// For DEL: a namespace that is not given, gone, or only a file that was
    /// left where it was mounted, is no obstacle.
    ///
    /// # Errors
    /// Code 8 when it is there but cannot be opened.
    pub fn open_if_there(request: &'r Request) -> Result<Sandbox<'r>> {
        Sandbox::with(request, namespace_if_there(request)?)
    }

    fn with(request: &'r Request, namespace: Option<Namespace>) -> Result<Sandbox<'r>> {
        let home = Namespace::current().map_err(kernel)?;
        Ok(Sandbox {
            request,
            host: Socket::route().map_err(kernel)?,
            home,
            namespace,
            is_away: false,
            container: None,
        })
    }

    /// The host's links, addresses and routes.
    pub fn host(&self) -> &Socket {
        &self.host
    }

    /// The host's namespace.
    pub fn home(&self) -> &Namespace {
        &self.home
    }

    /// The container's namespace, if it is there.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The container's links, addresses and routes. The first call takes the
    /// thread into the container: host sysctls and host sockets not opened by
    /// then are out of reach.
    ///
    /// # Errors
    /// Code 8 when the namespace is gone or may not be entered.
    pub fn enter(&mut self) -> Result<&Socket> {
        let container = match self.container.take() {
            Some(container) => container,
            None => {
                let namespace = self.namespace.as_ref().ok_or_else(|| {
                    Error::new(
                        Code::INVALID_NETNS,
                        format!("enter network namespace {:?}: it is gone", self.request.sandbox()),
                    )
                })?;
                namespace.enter().map_err(invalid_netns)?;
                self.is_away = true;
                Socket::route().map_err(kernel)?
            }
        };
        Ok(self.container.insert(container))
    }

    /// The container's side, once the thread has [entered](Sandbox::enter) it.
    ///
    /// # Errors
    /// It has not.
    pub fn container(&self) -> Result<&Socket> {
        self.container.as_ref().ok_or_else(|| {
            Error::internal("use the container's socket: the container was not entered")
        })
    }

    /// Runs `act` in the host's namespace: on a thread of its own (100 us) once the
    /// container was entered, for the rare host sysctl that must be written then.
    /// Before, nothing is entered, which an undo must not need the privilege for.
    ///
    /// # Errors
    /// Those of `act`.
    pub fn in_home<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if !self.is_away {
            return act();
        }
        let home = &self.home;
        on_thread(move || {
            home.enter().map_err(kernel)?;
            act()
        })
    }
}

impl Home for Sandbox<'_> {
    fn command(&self, command: &mut Command) {
        if self.is_away
            && let Err(e) = self.home.run_command_in(command)
        {
            // Out of descriptors: the child would run in the container, where
            // an IPAM plugin finds neither its daemon nor its cluster. Let it
            // fail to start instead.
            command.env_clear().current_dir(format!("/nonexistent/{e}"));
        }
    }

    fn run(&self, act: &mut (dyn FnMut() + Send)) -> Result<()> {
        self.in_home(|| {
            act();
            Ok(())
        })
    }
}

fn invalid_netns(error: linux::Error) -> Error {
    kernel(error).with_code(Code::INVALID_NETNS)
}
