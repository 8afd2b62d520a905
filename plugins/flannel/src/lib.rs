//! **flannel**: containers in the subnet that flanneld leased for this node.
//!
//! flanneld writes the lease to `subnet.env`. This plugin makes a bridge
//! configuration of it (or what `delegate` says), remembers it, and has the
//! delegate do the work.
//!
//! | what | where | name | created by | removed by | shared |
//! |---|---|---|---|---|---|
//! | state | `dataDir` | `<container>@<network>@<interface>` | ADD, before the delegate | DEL, after the delegate; GC | no |
//! | the same for the reference program | `dataDir` | `<container>` | ADD, if the name is free | as above | by the container's attachments |
//! | everything else | the delegate's | | | | |

mod conf;
mod delegate;
mod state;
mod subnet;

use attach::records::Records;
use attach::undo;
use cni::delegate::Delegate;
use cni::{Code, Error, Network, Plugin, Request, Result, Success, Version};
use conf::Conf;
use state::{Known, States};
use subnet::Lease;

/// The plugin.
pub struct Flannel;

impl Plugin for Flannel {
    fn name(&self) -> &'static str {
        "flannel"
    }

    fn versions(&self) -> &'static [Version] {
        Version::ALL
    }

    fn add(&self, request: &Request) -> Result<Success> {
        let conf = Conf::of(&request.network)?;
        let lease = Lease::wait_for(&conf.subnet_file, conf.subnet_file_wait)?;
        let config = delegate::config(&request.network, &conf, Some(&lease), None)?;
        let delegated = request.with_config(config.bytes())?;
        let to = Delegate::find(&delegated.network, config.kind())?;
        let states = States::create(&conf.data_dir)?;
        let before = states.before(request)?;
        let added = undo::scope(&mut (), |(), undo| {
            states.write(request, &config.bytes(), before)?;
            // What the attachment had before is not to be taken away.
            let forget = "forget the delegate's configuration";
            match before.known {
                Known::Nothing => undo.push(forget, |()| states.remove(request)),
                Known::Theirs => undo.push(forget, |()| states.remove_ours(request)),
                Known::Ours => {}
            }
            to.add(&delegated).map_err(|error| {
                // One of ours has undone itself.
                if before.known != Known::Nothing || !to.may_have_left_something() {
                    return error;
                }
                match to.del(&delegated) {
                    Ok(()) => error,
                    Err(failed) => error.with_details(format!("undo: {failed}")),
                }
            })
        })?;
        request.network.made([config.kind()]);
        Ok(added)
    }

    fn check(&self, request: &Request) -> Result<()> {
        with_delegate(request, &|to, delegated| to.check(delegated))
    }

    fn restore(&self, request: &Request) -> Result<()> {
        with_delegate(request, &|to, delegated| to.restore(delegated))
    }

    fn del(&self, request: &Request) -> Result<()> {
        let conf = Conf::for_teardown(&request.network);
        let states = States::open(&conf.data_dir)?;
        let known = match &states {
            Some(states) => states.read(request)?,
            None => None,
        };
        let lost = known.is_none();
        let previous = request.prev_result().ok().flatten();
        let config = match known {
            Some(config) => config,
            // Lost or damaged, or there never was an ADD: what can be said
            // without it is enough to tear down.
            None => {
                let lease = Lease::load(&conf.subnet_file).ok();
                delegate::config(&request.network, &conf, lease.as_ref(), previous.as_ref())?
            }
        };
        // A damaged one would keep a delegate that reads it from succeeding,
        // ever.
        let config = match previous {
            Some(_) => config.with_prev_result(&request.network),
            None => config,
        };
        let delegated = request.with_config(config.bytes())?;
        match Delegate::find(&delegated.network, config.kind()) {
            Ok(to) => {
                to.del(&delegated)?;
                request.network.removed([config.kind()]);
            }
            // Without state there is no sign that it was ever called.
            Err(_) if lost => {}
            Err(error) => return Err(error),
        }
        // Only now: a failed DEL is tried again, and needs it.
        states.map_or(Ok(()), |states| states.remove(request))
    }

    fn gc(&self, network: &Network) -> Result<()> {
        let Some(valid) = network.valid_attachments()? else { return Ok(()) };
        let conf = Conf::of(network)?;
        let lease = Lease::load(&conf.subnet_file).ok();
        let config = delegate::config(network, &conf, lease.as_ref(), None)?.for_gc();
        let delegated = network.with_config_of_gc(config.bytes())?;
        Delegate::find(&delegated, config.kind())?.gc()?;
        States::open(&conf.data_dir)?.map_or(Ok(()), |states| states.sweep(network.name(), &valid))
    }

    fn status(&self, network: &Network) -> Result<()> {
        let conf = Conf::of(network)?;
        let lease = Lease::load(&conf.subnet_file).map_err(|e| e.with_code(Code::NOT_AVAILABLE))?;
        Records::verify_writable(&conf.data_dir).map_err(|e| e.with_code(Code::NOT_AVAILABLE))?;
        let config = delegate::config(network, &conf, Some(&lease), None)?;
        let delegated = network.with_config(config.bytes())?;
        Delegate::find(&delegated, config.kind())
            .map_err(|e| e.with_code(Code::NOT_AVAILABLE))?
            .status()
    }
}

/// Has the delegate do something to an attachment that was made.
fn with_delegate(
    request: &Request,
    work: &dyn Fn(&Delegate, &Request) -> Result<()>,
) -> Result<()> {
    let conf = Conf::of(&request.network)?;
    let config = match States::open(&conf.data_dir)?
        .map(|states| states.read(request))
        .transpose()?
        .flatten()
    {
        Some(config) => config,
        None => {
            return Err(Error::internal(format!(
                "check the attachment: {} has no state of it: it was never added, or was deleted",
                conf.data_dir.display()
            )));
        }
    };
    let config = config.with_prev_result(&request.network);
    let delegated = request.with_config(config.bytes())?;
    work(&Delegate::find(&delegated.network, config.kind())?, &delegated)
}
