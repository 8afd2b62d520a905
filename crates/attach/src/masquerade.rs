//! Masquerading: what a container sends beyond its subnets gets the host's
//! address.
//!
//! | what | where | name | removed by | shared |
//! |---|---|---|---|---|
//! | rules | nft `inet cni_plugins_masquerade`, `masq_checks` | comment `H-H, net: N, if: I, id: C` | [`plan_removal`], [`plan_sweep`] | no |
//! | table, `postrouting` | nft `inet cni_plugins_masquerade` | | stay | yes |
//! | chain | iptables `nat`, of each family | `CNI-H` | [`plan_removal`], [`remove_legacy`], [`plan_sweep`], [`sweep_legacy`] | by a container's attachments to one network |
//! | jumps to it | iptables `nat`, `POSTROUTING` | comment `name: "N" id: "C"` | with the chain | no |
//!
//! Tables, chains, comments and hashes are those of the reference plugins
//! (`pkg/ip/ipmasq_*_linux.go` of containernetworking/plugins v1.9.1): either
//! program removes what the other made. H is a part of a SHA-512, so that what
//! is looked for comes from the names of network, container and interface,
//! never from a namespace or an address.

mod nftables;
#[cfg(test)]
mod tests;
mod xtables;

use crate::backend::{Backend, FAMILIES, Netfilter};
use crate::kernel;
use cni::{AttachmentId, Attachments, Error, Network, NetworkName, Request, Result, Success};
use ipnetwork::IpNetwork;
use linux::Family;
use linux::nft::{Socket, Transaction};
use serde::Deserialize;
use std::net::IpAddr;

/// iptables' table, and the chain ours would stand in.
const TABLE: &str = "nat";
const CHAIN: &str = "POSTROUTING";

/// Whose rules they are.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The network.
    pub network: &'a NetworkName,
    /// Container and interface.
    pub attachment: &'a AttachmentId,
}

/// Which of the jumps go to a chain that several attachments share: the reference
/// plugins give all of a container to one network the same.
#[derive(Debug, Clone, Copy)]
pub enum Jumps<'a> {
    /// Those of these addresses, if that is known. Without any, or where none
    /// matches, all do.
    Of(&'a [IpAddr]),
    /// Those of this address, if there are any.
    Only(IpAddr),
}

impl Jumps<'_> {
    fn take(&self, address: IpAddr) -> bool {
        match self {
            Jumps::Of(addresses) => addresses.contains(&address),
            Jumps::Only(only) => *only == address,
        }
    }

    /// Whether the chain goes, of which so many jumps are taken and others not.
    fn take_chain(&self, taken: usize, others: usize) -> bool {
        match self {
            Jumps::Of(_) => taken == 0 || others == 0,
            Jumps::Only(_) => others == 0,
        }
    }
}

/// What a configuration asks for by `ipMasq` and `ipMasqBackend`.
#[derive(Debug, Clone, Copy)]
pub struct Masquerade {
    /// What the rules are made with; `None` leaves it to us.
    pub named: Option<Backend>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    #[serde(rename = "ipMasq")]
    ip_masq: bool,
    #[serde(rename = "ipMasqBackend")]
    backend: Option<String>,
}

impl Masquerade {
    /// What the configuration asks for; `None` without `ipMasq`, and then
    /// whatever `ipMasqBackend` says.
    ///
    /// # Errors
    /// Code 7: an unknown backend.
    pub fn of(network: &Network) -> Result<Option<Masquerade>> {
        let conf: Conf = network.conf()?;
        conf.ip_masq
            .then(|| Backend::named("ipMasqBackend", conf.backend.as_deref()))
            .transpose()
            .map(|named| named.map(|named| Masquerade { named }))
    }

    /// [`ensure`] for the addresses of a result.
    ///
    /// # Errors
    /// Those of [`ensure`].
    pub fn ensure(
        &self,
        netfilter: &Netfilter,
        request: &Request,
        success: &Success,
    ) -> Result<()> {
        let attachment = &request.attachment();
        let owner = Owner { network: request.network.name(), attachment };
        ensure(netfilter, self.named, owner, &addresses(success))
    }

    /// [`verify`] for the addresses of a result.
    ///
    /// # Errors
    /// Those of [`verify`].
    pub fn verify(
        &self,
        netfilter: &Netfilter,
        request: &Request,
        promised: &Success,
    ) -> Result<()> {
        let attachment = &request.attachment();
        let owner = Owner { network: request.network.name(), attachment };
        verify(netfilter, self.named, owner, &addresses(promised))
    }

    /// RESTORE: makes the rules again unless all of them are there.
    ///
    /// # Errors
    /// Those of [`verify`] but for what is missing, and of [`ensure`].
    pub fn restore(
        &self,
        netfilter: &Netfilter,
        request: &Request,
        promised: &Success,
    ) -> Result<()> {
        if self.verify(netfilter, request, promised).is_ok() {
            return Ok(());
        }
        let attachment = &request.attachment();
        let owner = Owner { network: request.network.name(), attachment };
        let addresses = addresses(promised);
        netfilter
            .with(self.named, TABLE, &[CHAIN], |backend| match (backend, netfilter.nft_socket()) {
                (Backend::Nftables, Some(socket)) => nftables::replace(socket, owner, &addresses),
                _ => xtables::ensure(netfilter, owner, &addresses),
            })
            .map_err(|error| error.context("masquerade"))
    }

    /// STATUS: could it be done now?
    ///
    /// # Errors
    /// Code 50 where the backend is not there, or none is, or another's things have
    /// the names.
    pub fn status(&self, netfilter: &Netfilter) -> Result<()> {
        netfilter.status(self.named, TABLE, &[CHAIN], &nftables::shared())
    }
}

fn addresses(success: &Success) -> Vec<IpNetwork> {
    success.ips.iter().map(|ip| ip.address).collect()
}

/// Makes sure that what comes from `addresses` and leaves their subnets is
/// masqueraded, with the backend that is named, or the one that suits the host.
/// Adds what is missing; nothing else of the attachment stays.
///
/// Like `nft add rule inet cni_plugins_masquerade masq_checks ip saddr A ip
/// daddr != SUBNET masquerade comment ".."`, or `iptables -t nat -A POSTROUTING
/// -s A -j CNI-..`.
///
/// # Errors
/// No such backend; the kernel's, iptables'. Then some may be there, which
/// [`crate::filter::remove`] removes: iptables makes those of one family after those of the
/// other.
pub fn ensure(
    netfilter: &Netfilter,
    named: Option<Backend>,
    owner: Owner,
    addresses: &[IpNetwork],
) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    netfilter
        .with(named, TABLE, &[CHAIN], |backend| match (backend, netfilter.nft_socket()) {
            (Backend::Nftables, Some(socket)) => nftables::ensure(socket, owner, addresses),
            _ => xtables::ensure(netfilter, owner, addresses),
        })
        .map_err(|error| error.context("masquerade"))
}

/// CHECK: the rules for `addresses` are there; in either backend where none is
/// named.
///
/// # Errors
/// Names the first rule that is missing.
pub fn verify(
    netfilter: &Netfilter,
    named: Option<Backend>,
    owner: Owner,
    addresses: &[IpNetwork],
) -> Result<()> {
    let nftables = match (named, netfilter.nft()?) {
        (Some(Backend::Iptables), _) | (_, None) => None,
        (_, Some(socket)) => Some(nftables::missing(socket, owner, addresses).map_err(kernel)?),
    };
    let xtables = match (named, &nftables) {
        (Some(Backend::Nftables), _) | (_, Some(None)) => None,
        _ => Some(xtables::missing(netfilter, owner, addresses).map_err(kernel)?),
    };
    match (nftables, xtables) {
        (Some(None), _) | (_, Some(None)) => Ok(()),
        (Some(Some(rule)), _) | (None, Some(Some(rule))) => Err(Error::internal(format!(
            "check the masquerading of {}: {rule} is missing",
            owner.attachment.ifname
        ))),
        (None, None) => Err(Error::internal(format!(
            "check the masquerading of {}: the kernel has no nf_tables",
            owner.attachment.ifname
        ))),
    }
}

/// Plans the removal of an attachment's rules from nf_tables: those of either
/// backend; a chain goes with the last jump to it. See [`Netfilter::remove`].
///
/// # Errors
/// The kernel's; that nothing is there is none.
pub fn plan_removal(
    socket: &Socket,
    owner: Owner,
    jumps: Jumps,
    out: &mut Transaction,
) -> linux::Result<()> {
    let only = match jumps {
        Jumps::Of(_) => None,
        Jumps::Only(address) => Some(address),
    };
    nftables::plan_removal(socket, owner, only, out)?;
    FAMILIES
        .into_iter()
        .try_for_each(|family| xtables::plan_removal(socket, family, owner, jumps, out))
}

/// Removes an attachment's rules from the tables of legacy iptables; executes
/// it only where its table is in use.
///
/// # Errors
/// What the command said, of both families.
pub fn remove_legacy(netfilter: &Netfilter, owner: Owner, jumps: Jumps) -> Result<()> {
    let remove = |family| xtables::remove_legacy(netfilter, family, owner, jumps).err();
    Error::join(FAMILIES.into_iter().filter_map(remove).map(kernel).collect())
}

/// GC, planning: the rules in nf_tables of attachments of `network` that are
/// not in `valid`.
///
/// # Errors
/// The kernel's.
pub fn plan_sweep(
    socket: &Socket,
    network: &NetworkName,
    valid: &Attachments,
    out: &mut Transaction,
) -> linux::Result<()> {
    nftables::plan_sweep(socket, network, valid, out)?;
    FAMILIES
        .into_iter()
        .try_for_each(|family| xtables::plan_sweep(socket, family, network, valid, out))
}

/// GC of the tables of legacy iptables.
///
/// # Errors
/// What the command said, of both families.
pub fn sweep_legacy(
    netfilter: &Netfilter,
    network: &NetworkName,
    valid: &Attachments,
) -> Result<()> {
    let sweep = |family| xtables::sweep_legacy(netfilter, family, network, valid).err();
    Error::join(FAMILIES.into_iter().filter_map(sweep).map(kernel).collect())
}

/// At most `max` bytes of `text`, which is ASCII but for an interface's name.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The multicast addresses, which are never masqueraded.
fn multicast(family: Family) -> &'static str {
    match family {
        Family::V4 => "224.0.0.0/4",
        Family::V6 => "ff00::/8",
    }
}

/// The prefix an address is in.
fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}
