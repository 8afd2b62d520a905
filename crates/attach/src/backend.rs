//! What packet filter rules are made with: nf_tables, spoken over netlink, or
//! the commands of iptables.
//!
//! A configuration may name one ([`Backend::named`]). Where it names none,
//! [`Netfilter::choose`] decides by what it finds:
//!
//! 1. no nf_tables in the kernel: iptables;
//! 2. the host's rules of the same kind may *except* packets, which they can
//!    do in their own table only: iptables, so that ours come after them. Such
//!    are rules of iptables-nft that end the chains in question
//!    ([`ends_early`]), and any legacy table in use where `iptables` is the
//!    legacy one (what is in it cannot be read without executing that);
//! 3. otherwise nf_tables; and iptables still, where the kernel then refuses a
//!    part of it ([`Netfilter::with`]): NAT in `inet` tables came with 5.2, and
//!    4.16 and 4.17 allow but one of the two on a NAT hook.
//!
//! The choice may come out otherwise at the next ADD. Nobody remembers it: DEL
//! and GC remove the rules of both. They do it without executing anything, by
//! netlink, except where a legacy table is in use ([`Netfilter::legacy`]).
//!
//! Sockets and commands act on the host, wherever the thread goes later:
//! [`Netfilter::open`] is called before the container is entered.

use crate::lock::{self, Held, Of, Patience};
use crate::{ability, kernel};
use cni::{Code, Error, Result};
use linux::iptables::{self, Batch, Iptables, Part, Program, Saved, Variant};
use linux::link;
use linux::nft::{Chain, Socket, Table, Transaction, Verdict};
use linux::{ErrorKind, Family};
use std::collections::BTreeSet;
use std::time::Duration;

/// What rules are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables over netlink; nothing is executed.
    Nftables,
    /// `iptables-restore` and `ip6tables-restore`, of whichever kind the host
    /// has.
    Iptables,
}

impl Backend {
    /// What the configuration's `key` says; `None` leaves the choice to us.
    ///
    /// # Errors
    /// Code 7: neither `nftables` nor `iptables`.
    pub fn named(key: &str, text: Option<&str>) -> Result<Option<Backend>> {
        match text {
            None => Ok(None),
            Some("nftables") => Ok(Some(Backend::Nftables)),
            Some("iptables") => Ok(Some(Backend::Iptables)),
            Some(other) => Err(Error::invalid_config(format!(
                "load network configuration: unknown {key} {other:?}: use \"nftables\" or \"iptables\", or leave the key out"
            ))),
        }
    }
}

/// How long one waits for others that change rules of iptables. Each takes some
/// 5 ms, and those that wait are served in turn.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// What the lock is for.
const DOING: &str = "change rules of iptables";

/// The two address families, as iptables keeps them apart.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The host's packet filter.
pub struct Netfilter {
    /// `None` in a kernel without netfilter.
    nft: Option<Socket>,
    iptables: Iptables,
    /// Of all that is removed by iptables.
    patience: Patience,
}

impl Netfilter {
    /// Opens the packet filter of the network namespace the calling thread is
    /// in now. Costs 50 us; nothing is executed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Netfilter> {
        let nft = match Socket::open() {
            Ok(socket) => Some(socket),
            Err(e) if e.is_unsupported() => None,
            Err(e) => return Err(kernel(e)),
        };
        let iptables = Iptables::open().map_err(kernel)?;
        Ok(Netfilter { nft, iptables, patience: Patience::default() })
    }

    /// The same, for what others have made; `None` where this process may change
    /// nothing, and so has none of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_if_permitted() -> Result<Option<Netfilter>> {
        let netfilter = Netfilter::open()?;
        match netfilter.nft.as_ref().map(Socket::generation) {
            Some(Err(e)) if e.is_permission() => Ok(None),
            _ => Ok(Some(netfilter)),
        }
    }

    /// nf_tables; `None` where the kernel has it not.
    ///
    /// # Errors
    /// Not allowed, without `CAP_NET_ADMIN`.
    pub fn nft(&self) -> Result<Option<&Socket>> {
        let Some(socket) = &self.nft else { return Ok(None) };
        match socket.generation() {
            Ok(_) => Ok(Some(socket)),
            Err(e) if e.is_unsupported() => Ok(None),
            Err(e) => Err(kernel(e)),
        }
    }

    /// The socket to nf_tables, whether or not there is an nf_tables.
    pub(crate) fn nft_socket(&self) -> Option<&Socket> {
        self.nft.as_ref()
    }

    /// The iptables of a family, which must be there.
    ///
    /// # Errors
    /// [`is_not_found`](linux::Error::is_not_found): it is not installed.
    pub fn need_iptables(&self, family: Family) -> linux::Result<Program<'_>> {
        self.iptables.program(family).ok_or_else(|| {
            let name = match family {
                Family::V4 => "iptables-restore",
                Family::V6 => "ip6tables-restore",
            };
            linux::Error::with_kind(
                "use iptables",
                ErrorKind::NotFound,
                format!("no {name} in {}", iptables::SEARCH.join(", ")),
            )
            .hint("install iptables, or let the configuration use nftables")
        })
    }

    /// The command to remove legacy rules from a table with; `None` where
    /// there can be none, because the table is not in use.
    pub fn legacy(&self, family: Family, table: &str) -> Option<Program<'_>> {
        let in_use = self.iptables.legacy_tables(family).iter().any(|name| name == table);
        in_use.then(|| self.iptables.program_of(family, Variant::Legacy)).flatten()
    }

    /// The iptables commands.
    pub fn iptables(&self) -> &Iptables {
        &self.iptables
    }

    /// The backend that is named, or the one that suits the host best for rules
    /// that would stand beside those in `chains` of iptables' `table`. See the
    /// top of this file.
    ///
    /// # Errors
    /// What is named is not there, or neither is.
    pub fn choose(&self, named: Option<Backend>, table: &str, chains: &[&str]) -> Result<Backend> {
        let nft = self.nft()?;
        match (named, nft) {
            (Some(Backend::Nftables), None) => {
                Err(Error::internal("use nftables: the kernel has no nf_tables"))
            }
            (Some(Backend::Nftables), Some(_)) => Ok(Backend::Nftables),
            (Some(Backend::Iptables), _) => match self.has_iptables() {
                true => Ok(Backend::Iptables),
                false => self.need_iptables(Family::V4).map(|_| Backend::Iptables).map_err(kernel),
            },
            (None, Some(socket)) => match self.host_makes_exceptions(socket, table, chains)? {
                true => Ok(Backend::Iptables),
                false => Ok(Backend::Nftables),
            },
            (None, None) if self.has_iptables() => Ok(Backend::Iptables),
            (None, None) => Err(self.neither()),
        }
    }

    /// Calls `make` with the chosen backend; where none is named and the kernel
    /// lacks something that its nf_tables would need, again with iptables.
    /// After an error `make` has left nothing behind.
    ///
    /// # Errors
    /// Those of [`Netfilter::choose`] and of `make`.
    pub fn with<T>(
        &self,
        named: Option<Backend>,
        table: &str,
        chains: &[&str],
        mut make: impl FnMut(Backend) -> linux::Result<T>,
    ) -> Result<T> {
        let backend = self.choose(named, table, chains)?;
        make(backend).or_else(|error| {
            let refused = error.batch_index().is_some()
                && (error.is_unsupported() || error.is_not_found() || error.is_busy());
            if named.is_some() || backend == Backend::Iptables || !refused || !self.has_iptables() {
                return Err(kernel(error));
            }
            make(Backend::Iptables).map_err(|e| kernel(e).with_details(error.to_string()))
        })
    }

    /// Removes what `plan` finds in nf_tables: rules of our own tables, and those
    /// iptables-nft made. Reads only where nothing is to be removed; otherwise
    /// it is one batch, whose waiting costs 10 to 16 ms, so everything an
    /// attachment has goes with one call.
    ///
    /// # Errors
    /// The kernel's. A kernel without nf_tables has nothing to remove.
    pub fn remove(
        &self,
        plan: impl FnMut(&Socket, &mut Transaction) -> linux::Result<()>,
    ) -> Result<()> {
        match self.nft()? {
            Some(socket) => self.change(socket, plan).map_err(kernel),
            None => Ok(()),
        }
    }

    /// [`Socket::update`]: alone among all plugins on this host as soon as something of
    /// iptables-nft goes, so that nobody adds to that, or does what it has read of it to
    /// what is not there any more. Goes on without the lock when others keep it too long.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(
        &self,
        socket: &Socket,
        mut plan: impl FnMut(&Socket, &mut Transaction) -> linux::Result<()>,
    ) -> linux::Result<()> {
        let mut alone = None;
        socket.update(|socket, out| {
            plan(socket, out)?;
            // What was changed until now is seen when the plan is made again.
            alone = alone.take().or_else(|| self.alone_for(out));
            Ok(())
        })
    }

    /// The lock for a transaction by which something of iptables-nft goes; `None` for
    /// any other, and when others keep it too long.
    pub fn alone_for(&self, transaction: &Transaction) -> Option<Held> {
        if !iptables::is_touched_by(transaction) {
            return None;
        }
        self.patience.alone(Of::Host(self.iptables.namespace()), DOING)
    }

    /// Reads a part of a table, as [`Program::read`] does.
    ///
    /// # Errors
    /// Those of [`Program::read`].
    pub fn read(&self, program: &Program, part: &Part) -> linux::Result<Saved> {
        program.read(self.nft.as_ref(), part)
    }

    /// Reads a part of a table, lets `plan` fill a batch with what is missing, and
    /// applies that: alone among all plugins on this host, so that nobody adds a
    /// shared rule twice.
    ///
    /// # Errors
    /// What the command said; [`is_timed_out`](linux::Error::is_timed_out) when
    /// others take too long; of kind `Io` when the lock cannot be written.
    pub fn update(
        &self,
        program: &Program,
        part: &Part,
        plan: impl FnOnce(&Saved, &mut Batch) -> linux::Result<()>,
    ) -> linux::Result<()> {
        let _alone = self.alone()?;
        let saved = self.read(program, part)?;
        let mut batch = Batch::new(part.table);
        plan(&saved, &mut batch)?;
        program.restore(&batch)
    }

    /// Waits until nobody else among all plugins on this host changes rules of
    /// iptables, nor begins to until this is dropped.
    ///
    /// # Errors
    /// Those of [`Netfilter::update`], but for the command's.
    pub fn alone(&self) -> linux::Result<Held> {
        let host = Of::Host(self.iptables.namespace());
        lock::take_alone(host, LOCK_LIMIT).map_err(|error| {
            let kind = if error.is_timed_out() { ErrorKind::TimedOut } else { ErrorKind::Io };
            linux::Error::with_kind(DOING, kind, error.to_string())
        })
    }

    /// The same with a whole table, to remove what is there: goes on without the lock
    /// when others keep it too long.
    ///
    /// # Errors
    /// What the command said.
    pub fn update_to_remove(
        &self,
        program: &Program,
        table: &str,
        plan: impl FnOnce(&Saved, &mut Batch) -> linux::Result<()>,
    ) -> linux::Result<()> {
        let _alone = self.patience.alone(Of::Host(self.iptables.namespace()), DOING);
        program.update(table, plan)
    }

    /// STATUS: could rules be made now, by the backend that [`Netfilter::choose`]
    /// chooses? `shared` adds what nf_tables would need for all attachments.
    ///
    /// # Errors
    /// Code 50 when what is named is not there, or neither is; when something else
    /// has a name of `shared`, or another process its table.
    pub fn status(
        &self,
        named: Option<Backend>,
        table: &str,
        chains: &[&str],
        shared: &Transaction,
    ) -> Result<()> {
        let unavailable = |error: Error| error.with_code(Code::NOT_AVAILABLE);
        match (self.choose(named, table, chains).map_err(unavailable)?, &self.nft) {
            (Backend::Nftables, Some(nft)) => {
                nft.verify_addable(shared).map_err(ability::unavailable)
            }
            _ => lock::verify_host(),
        }
    }

    fn has_iptables(&self) -> bool {
        FAMILIES.into_iter().any(|family| self.iptables.program(family).is_some())
    }

    /// Whether rules of the host that stand where ours would with iptables may
    /// except packets from ours.
    fn host_makes_exceptions(&self, socket: &Socket, table: &str, chains: &[&str]) -> Result<bool> {
        let is_concerned = chains.contains(&"PREROUTING") && self.has_iptables();
        if is_concerned && services_may_be_local(socket)? {
            return Ok(true);
        }
        for family in FAMILIES {
            let legacy = self.iptables.legacy_tables(family).iter().any(|name| name == table);
            let table = iptables::nft_table(family, table);
            let nft = ends_early(socket, &table, chains).map_err(kernel)?;
            if !legacy && !nft {
                continue;
            }
            let Some(program) = self.iptables.program(family) else { continue };
            let there = match program.variant() {
                Some(Variant::Legacy) => legacy,
                Some(Variant::Nft) => nft,
                None => true,
            };
            if there {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn neither(&self) -> Error {
        Error::internal(format!(
            "make packet filter rules: the kernel has no nf_tables, and there is no iptables-restore in {}",
            iptables::SEARCH.join(", ")
        ))
    }
}

/// Whether the services' addresses are the host's own, on the link that kube-proxy has
/// for them in IPVS mode, or may come to be so: kubelet is there, and neither is what
/// only the other modes of kube-proxy have. What is to them it excepts from rules about local
/// addresses, by an `ACCEPT` at the end of its `KUBE-SERVICES` (CVE-2019-9946).
fn services_may_be_local(socket: &Socket) -> Result<bool> {
    let host = linux::Socket::route().map_err(kernel)?;
    if link::find(&host, "kube-ipvs0").map_err(kernel)?.is_some() {
        return Ok(true);
    }
    let any = |table: &str, chain: &str| -> Result<bool> {
        for family in FAMILIES {
            let table = iptables::nft_table(family, table);
            if socket.chain(&table, chain).map_err(kernel)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    Ok(any("mangle", "KUBE-KUBELET-CANARY")?
        && !any("nat", "KUBE-NODEPORTS")?
        && socket.table(linux::nft::Family::Ip, "kube-proxy").map_err(kernel)?.is_none()
        && socket.table(linux::nft::Family::Ip6, "kube-proxy").map_err(kernel)?.is_none())
}

/// What the names of chains begin with that are not looked into: they are about
/// services or single containers, there may be thousands of them, and an
/// `ACCEPT` in them is about packets that are their program's own. kube-proxy;
/// these plugins and upstream's; podman's netavark.
const NOT_LOOKED_INTO: [&str; 3] = ["KUBE-", "CNI-", "NETAVARK-"];

/// Whether packets may leave the base chains of iptables-nft before the rules at
/// their end: by `ACCEPT` or a source address of the administrator's, in a chain they
/// lead to as well; by `RETURN` or `-g` in themselves. Elsewhere those only go back.
fn ends_early(socket: &Socket, table: &Table, bases: &[&str]) -> linux::Result<bool> {
    let is_foreign = |name: &str| NOT_LOOKED_INTO.iter().all(|start| !name.starts_with(start));
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut ahead: Vec<String> = bases.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = ahead.pop() {
        for rule in socket.rules(&Chain::regular(table, name.as_str()))? {
            if iptables::rewrites_source(&rule) {
                return Ok(true);
            }
            match iptables::verdict_of(&rule) {
                Some(Verdict::Accept) => return Ok(true),
                Some(Verdict::Return | Verdict::Goto(_)) if bases.contains(&name.as_str()) => {
                    return Ok(true);
                }
                Some(Verdict::Jump(to) | Verdict::Goto(to))
                    if is_foreign(&to) && seen.insert(to.clone()) =>
                {
                    ahead.push(to);
                }
                _ => {}
            }
        }
    }
    Ok(false)
}
