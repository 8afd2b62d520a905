//! The address plugin a configuration names in `ipam.type`.

use crate::sandbox::Sandbox;
use cni::delegate::Delegate;
use cni::{Code, Error, Network, Result, Success, Version};
use serde::Deserialize;
use serde_json::Value;
use std::cell::Cell;

/// The address plugin of a network.
#[derive(Debug, Clone)]
pub struct Ipam {
    kind: String,
    /// `idempotentAdd`: an ADD may hand out what the attachment has already.
    idempotent_add: bool,
    /// It had addresses before the ADD.
    held: Cell<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    ipam: IpamConf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IpamConf {
    #[serde(rename = "type")]
    kind: String,
    /// Anything, because the IPAM plugin is the judge of it, and DEL needs none.
    #[serde(rename = "idempotentAdd")]
    idempotent_add: Value,
}

/// Plugins that give no addresses: one of them would ask its own IPAM plugin, itself
/// again, and so on without end.
const OTHERS: [&str; 16] = [
    "bandwidth",
    "bridge",
    "dummy",
    "firewall",
    "flannel",
    "host-device",
    "ipvlan",
    "loopback",
    "macvlan",
    "portmap",
    "ptp",
    "sbr",
    "tap",
    "tuning",
    "vlan",
    "vrf",
];

impl Ipam {
    /// The one the configuration names; `None` without `ipam.type`, a network
    /// without addresses (layer 2 only).
    ///
    /// # Errors
    /// Code 7 when `ipam` is not an object with a text as `type`, or that is no
    /// address plugin's.
    pub fn of(network: &Network) -> Result<Option<Ipam>> {
        match Ipam::named(network)? {
            Some(ipam) if !ipam.gives_addresses() => Err(Error::invalid_config(format!(
                "load network configuration: ipam.type {:?} is a plugin that gives no addresses: name one that does, such as host-local",
                ipam.kind
            ))),
            ipam => Ok(ipam),
        }
    }

    /// For DEL and GC: one that gives no addresses has given none.
    fn of_teardown(network: &Network) -> Result<Option<Ipam>> {
        Ok(Ipam::named(network)?.filter(Ipam::gives_addresses))
    }

    fn gives_addresses(&self) -> bool {
        !OTHERS.contains(&self.kind.as_str())
    }

    fn named(network: &Network) -> Result<Option<Ipam>> {
        let IpamConf { kind, idempotent_add } = network.conf::<Conf>()?.ipam;
        let held = Cell::new(false);
        let idempotent_add = idempotent_add == true;
        Ok((!kind.is_empty()).then_some(Ipam { kind, idempotent_add, held }))
    }

    /// [`Ipam::of`] for a plugin whose network may do without addresses.
    ///
    /// # Errors
    /// Code 7 also where there is none and the version's results must have an
    /// address: to be told before anything is done.
    pub fn of_layer_2(network: &Network) -> Result<Option<Ipam>> {
        let ipam = Ipam::of(network)?;
        if ipam.is_none() && network.version() < Version::V0_3_0 {
            return Err(Error::invalid_config(format!(
                "load network configuration: a result of version {} must have an address, and there is no ipam: use cniVersion 0.3.0 or later",
                network.version()
            )));
        }
        Ok(ipam)
    }

    /// The one the configuration must name.
    ///
    /// # Errors
    /// Code 7 without `ipam.type`.
    pub fn required(network: &Network) -> Result<Ipam> {
        Ipam::of(network)?.ok_or_else(|| {
            Error::invalid_config(
                "load network configuration: ipam.type is missing, and this plugin needs addresses",
            )
        })
    }

    /// Is it one of ours, which needs nothing of the attachment but its name?
    ///
    /// # Errors
    /// Those of [`Delegate::find`]: it is not installed.
    pub fn is_ours(&self, network: &Network) -> Result<bool> {
        Ok(Delegate::find(network, &self.kind)?.is_ours())
    }

    /// Gets addresses for the attachment. After a failure nothing is held
    /// that was not held before.
    ///
    /// # Errors
    /// The IPAM plugin's, or code 999 when it gave no address.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Success> {
        let delegate = self.delegate(sandbox)?;
        self.held.set(self.idempotent_add && delegate.check(sandbox.request).is_ok());
        let (error, holds) = match delegate.add(sandbox.request) {
            Ok(success) if !success.ips.is_empty() => return Ok(success),
            Ok(_) => {
                (Error::internal(format!("IPAM plugin {:?} returned no address", self.kind)), true)
            }
            // Spec, section 4: a failed delegate ADD is followed by its DEL.
            // One of our own has undone itself, and must not lose what the
            // attachment held before.
            Err(error) => (error, delegate.may_have_left_something()),
        };
        if !holds || self.held.get() {
            return Err(error);
        }
        Err(match delegate.del(sandbox.request) {
            Ok(()) => error,
            Err(undo) => error.with_details(format!("undo: release addresses: {undo}")),
        })
    }

    /// Undoes [`Ipam::add`]: releases the addresses, unless the attachment had
    /// them before.
    ///
    /// # Errors
    /// The IPAM plugin's.
    pub fn take_back(&self, sandbox: &Sandbox) -> Result<()> {
        if self.held.get() { Ok(()) } else { self.del(sandbox) }
    }

    /// Asks it to verify.
    ///
    /// # Errors
    /// The IPAM plugin's.
    pub fn check(&self, sandbox: &Sandbox) -> Result<()> {
        self.delegate(sandbox)?.check(sandbox.request)
    }

    /// Releases what the attachment holds.
    ///
    /// # Errors
    /// The IPAM plugin's.
    pub fn del(&self, sandbox: &Sandbox) -> Result<()> {
        self.delegate(sandbox)?.del(sandbox.request)
    }

    fn delegate<'a>(&'a self, sandbox: &'a Sandbox) -> Result<Delegate<'a>> {
        Ok(Delegate::find(&sandbox.request.network, &self.kind)?.at_home(sandbox))
    }

    /// Has it remove what attachments left that are not valid any more.
    ///
    /// # Errors
    /// The IPAM plugin's.
    pub fn gc(&self, network: &Network) -> Result<()> {
        Delegate::find(network, &self.kind)?.gc()
    }

    /// Could it give addresses now?
    ///
    /// # Errors
    /// The IPAM plugin's; code 50 when there is none.
    pub fn status(&self, network: &Network) -> Result<()> {
        let missing = |error: Error| match error.code() {
            Code::INTERNAL => error.with_code(Code::NOT_AVAILABLE),
            _ => error,
        };
        Delegate::find(network, &self.kind).map_err(missing)?.status()
    }
}

/// Do the addresses come from a plugin of others? It may need the link to release them,
/// as one that tells a DHCP server.
pub fn is_of_others(network: &Network) -> bool {
    let named = Ipam::of_teardown(network).ok().flatten();
    named.is_some_and(|ipam| matches!(ipam.is_ours(network), Ok(false)))
}

/// DEL: releases what the attachment holds, if the configuration names a plugin
/// for it. To be called when nothing carries the addresses any more.
///
/// # Errors
/// Code 7 when `ipam` is malformed; those of [`Ipam::del`].
pub fn release(sandbox: &Sandbox) -> Result<()> {
    Ipam::of_teardown(&sandbox.request.network)?.map_or(Ok(()), |ipam| ipam.del(sandbox))
}

/// GC of the addresses, if the configuration names a plugin for them.
///
/// # Errors
/// Code 7 when `ipam` is malformed; those of [`Ipam::gc`].
pub fn sweep(network: &Network) -> Result<()> {
    Ipam::of_teardown(network)?.map_or(Ok(()), |ipam| ipam.gc(network))
}

/// STATUS of the addresses, if the configuration names a plugin for them.
///
/// # Errors
/// Those of [`Ipam::of`] and [`Ipam::status`].
pub fn status(network: &Network) -> Result<()> {
    Ipam::of(network)?.map_or(Ok(()), |ipam| ipam.status(network))
}
