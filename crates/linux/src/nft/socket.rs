//! The kernel's side of it: apply a transaction, read what is there, add what
//! is missing.

mod read;
mod refusal;

use std::cell::Cell;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};

use crate::error::{Error, ErrorKind, Result};
use crate::netlink::{self, Message};
use crate::uapi::NLM_F_ACK;

use super::chain::Chain;
use super::rule::Rule;
use super::transaction::{Object, Operation, Transaction, Verb};
use super::wire::{self, SUBSYSTEM};

use self::refusal::{explain, is_missing_owner, is_unknown_destroy, owned, shortened};

/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_BATCH_GENID`,
/// include/uapi/linux/netfilter/nfnetlink.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;

/// How often work is done again because the ruleset changed meanwhile. Each
/// attempt takes less than a millisecond; others on the host write in bursts.
const ATTEMPTS: usize = 50;

/// Batches up to this size fit the default send buffer of 208 KiB.
const DEFAULT_SEND_LEN: usize = 128 * 1024;

sockopt_impl!(
    /// What does not fit the receive queue is dropped in silence.
    FirstAnswersDo,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_NO_ENOBUFS,
    bool
);

/// A socket to nf_tables in the network namespace it was opened in.
pub struct Socket {
    pub(super) netlink: netlink::Socket,
    /// Whether the kernel has `destroy`, once that is known not to be so.
    lacks_destroy: Cell<bool>,
}

impl Socket {
    /// Opens a socket in the network namespace the calling thread is in now.
    ///
    /// Needs no privilege; every other call needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// [`is_unsupported`](Error::is_unsupported) where the kernel has no
    /// netfilter.
    pub fn open() -> Result<Socket> {
        let netlink = netlink::Socket::open(netlink::Protocol::Netfilter)?;
        // Only the first refusals of a batch matter. Without this a kernel that
        // has more of them than fit reports that it lost some, and no more.
        setsockopt(&netlink, FirstAnswersDo, &true)
            .map_err(|errno| Error::from_errno("open netfilter netlink socket", errno as i32))?;
        Ok(Socket { netlink, lacks_destroy: Cell::new(false) })
    }

    /// Applies all operations of a transaction, or none.
    ///
    /// Does nothing, and asks the kernel nothing, when there are none.
    ///
    /// # Errors
    ///
    /// That of the first operation the kernel refused, which the error names
    /// and [`batch_index`](Error::batch_index) counts:
    /// [`is_not_found`](Error::is_not_found) for a table, chain, set or handle
    /// that is not there, [`is_exists`](Error::is_exists),
    /// [`is_busy`](Error::is_busy) for a chain or set that rules still use,
    /// [`is_permission`](Error::is_permission),
    /// [`is_unsupported`](Error::is_unsupported) where the kernel lacks an
    /// expression or a hook does not allow it, `Invalid` for what cannot be
    /// written at all, such as a comment that is too long.
    pub fn commit(&self, transaction: &Transaction) -> Result<()> {
        if !self.lacks_destroy.get() {
            match self.send(transaction, None) {
                Err(error) if self.has_to_look(&error, transaction) => {}
                outcome => return outcome,
            }
        } else if transaction.operations().iter().all(|made| made.verb != Verb::Destroy) {
            return self.send(transaction, None);
        }
        self.retry(&mut |socket| socket.without_destroy(transaction))
    }

    /// Whether a transaction can only succeed with `delete`s of what is there
    /// instead of `destroy`s.
    fn has_to_look(&self, error: &Error, transaction: &Transaction) -> bool {
        let unknown = is_unknown_destroy(error, transaction);
        if unknown {
            self.lacks_destroy.set(true);
        }
        unknown || is_missing_owner(error, transaction)
    }

    /// Reads with `plan`, then applies the transaction it filled, unless the
    /// ruleset changed in between: then both are done again.
    ///
    /// # Errors
    ///
    /// Those of `plan`, and those of [`Socket::commit`]; `Busy` when the
    /// ruleset kept changing.
    pub fn update(
        &self,
        mut plan: impl FnMut(&Socket, &mut Transaction) -> Result<()>,
    ) -> Result<()> {
        self.retry(&mut |socket| {
            let mut transaction = Transaction::new();
            plan(socket, &mut transaction)?;
            Ok(transaction)
        })
    }

    /// Adds what a transaction of `add`s wants and the kernel does not have;
    /// answers how many operations that took. Nothing is sent when nothing is
    /// missing; nothing that is there is touched.
    ///
    /// A rule is there if its chain holds one with the same statements and
    /// comment. A missing one goes before the first of those wanted after it
    /// that is there, else to the end of its chain. Operations other than
    /// `add` are applied as they are.
    ///
    /// # Errors
    ///
    /// [`is_exists`](Error::is_exists) when an object of the name is there but
    /// is another: a chain on another hook, a set of another type, an element
    /// with other data or another comment. Otherwise those of
    /// [`Socket::update`].
    pub fn ensure(&self, wanted: &Transaction) -> Result<usize> {
        let mut count = 0;
        self.update(|socket, transaction| {
            socket.plan_missing(wanted, transaction)?;
            count = transaction.operations().len();
            Ok(())
        })?;
        Ok(count)
    }

    /// What [`Socket::ensure`] would apply, for a plan of [`Socket::update`]
    /// that has more to do.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::ensure`].
    pub fn plan_missing(&self, wanted: &Transaction, out: &mut Transaction) -> Result<()> {
        super::missing::plan(self, wanted, out)
    }

    /// Asks whether what a transaction of `add`s wants is there or could be added
    /// now, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`is_permission`](Error::is_permission) where another process owns one of
    /// the tables; those of [`Socket::plan_missing`].
    pub fn verify_addable(&self, wanted: &Transaction) -> Result<()> {
        for operation in wanted.operations() {
            if let Object::Table(table) = &operation.object
                && self.table(table.family, &table.name)?.is_some_and(|there| there.owned)
            {
                return Err(owned(table));
            }
        }
        self.plan_missing(wanted, &mut Transaction::new())
    }

    /// Plans that `chain` holds `rules`, in this order and nothing else: all of
    /// them anew unless they are there. A chain that `is_new` is not looked at.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::rules`].
    pub fn plan_rules(
        &self,
        chain: &Chain,
        rules: Vec<Rule>,
        is_new: bool,
        out: &mut Transaction,
    ) -> Result<()> {
        let there = if is_new { Vec::new() } else { self.rules(chain)? };
        let same = there.len() == rules.len()
            && there.iter().zip(&rules).all(|(there, rule)| there.does_the_same(rule));
        if same {
            return Ok(());
        }
        if !there.is_empty() {
            out.flush(chain);
        }
        for rule in rules {
            out.add(rule);
        }
        Ok(())
    }

    /// Plans at a generation, and applies the plan if it is still that one.
    fn retry(&self, plan: &mut dyn FnMut(&Socket) -> Result<Transaction>) -> Result<()> {
        let mut look = false;
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let mut transaction = plan(self)?;
            if look || self.lacks_destroy.get() {
                transaction = self.without_destroy(&transaction)?;
            }
            match self.send(&transaction, Some(generation)) {
                Err(error) if error.errno() == Some(libc::ERESTART) => {}
                Err(error) if self.has_to_look(&error, &transaction) => look = true,
                outcome => return outcome,
            }
        }
        Err(Error::with_kind(
            "change packet filter rules",
            ErrorKind::Busy,
            "the rules kept changing",
        )
        .hint("another program writes them all the time"))
    }

    /// The transaction with each `destroy` turned into a `delete` where the
    /// object exists, and left out where it does not.
    fn without_destroy(&self, transaction: &Transaction) -> Result<Transaction> {
        let mut plain = Transaction::new();
        for operation in transaction.operations() {
            let operation = operation.clone();
            if operation.verb != Verb::Destroy {
                plain.push_operation(operation);
                continue;
            }
            let object = match operation.object {
                Object::Elements(mut elements) => {
                    let there = self.find_elements(&elements.set, &elements.elements)?;
                    let mut there = there.iter();
                    elements.elements.retain(|_| there.next().is_some_and(Option::is_some));
                    if elements.elements.is_empty() {
                        continue;
                    }
                    Object::Elements(elements)
                }
                object if self.exists(&object)? || made_in(&plain, &object) => object,
                _ => continue,
            };
            plain.push_operation(Operation { verb: Verb::Delete, object });
        }
        Ok(plain)
    }

    fn exists(&self, object: &Object) -> Result<bool> {
        Ok(match object {
            Object::Table(table) => self.table(table.family, &table.name)?.is_some(),
            Object::Chain(chain) => self.find_chain(chain)?.is_some(),
            Object::Set(set) => self.find_set(set)?.is_some(),
            Object::Rule(rule) => match rule.handle {
                Some(handle) => self.find_rule(rule, handle)?.is_some(),
                // To be refused like the delete it will be.
                None => true,
            },
            Object::Elements(_) => true,
        })
    }

    /// Sends a batch; with a generation, only if the ruleset is still that one.
    fn send(&self, transaction: &Transaction, generation: Option<u32>) -> Result<()> {
        let operations = transaction.operations();
        // The operation of each message of the batch, behind its beginning.
        let mut owners = Vec::with_capacity(operations.len());
        let mut batch = vec![batch_edge(BATCH_BEGIN)];
        if let Some(generation) = generation {
            batch[0].attr_be32(BATCH_GENID, generation);
        }
        for (index, operation) in operations.iter().enumerate() {
            // A number that is unique within the batch.
            let set_id = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let messages = wire::operation(operation, set_id).map_err(|cause| {
                Error::invalid(shortened(operation), cause).at_batch_index(index)
            })?;
            owners.resize(owners.len() + messages.len(), index);
            batch.extend(messages);
        }
        // The kernel answers in order, so that the last answer means the end.
        match batch.as_mut_slice() {
            [_] => return Ok(()),
            [.., last] => last.add_flags(NLM_F_ACK),
            [] => return Ok(()),
        };
        batch.push(batch_edge(BATCH_END));
        self.make_room(&batch);

        let mut first: Option<(usize, Error)> = None;
        let mut acknowledged = false;
        let outcome = self.netlink.transact(
            &mut batch,
            |_, _| acknowledged = true,
            |index, error| {
                if first.as_ref().is_none_or(|(at, _)| index < *at) {
                    first = Some((index, error));
                }
            },
        );
        match (first, outcome) {
            (Some((index, error)), _) => {
                // Position 0 is the beginning: the batch as a whole was refused.
                let owner = index.checked_sub(1).and_then(|at| owners.get(at)).copied();
                Err(explain(error, owner, operations))
            }
            (None, outcome) => outcome.map_err(|error| explain(error, None, operations)),
        }
    }

    /// Makes the socket's send buffer large enough for a batch. Where that is
    /// not allowed the kernel says so when it matters.
    fn make_room(&self, batch: &[Message]) {
        let len: usize = batch.iter().map(|message| message.as_bytes().len()).sum();
        if len > DEFAULT_SEND_LEN {
            // Beyond net.core.wmem_max only in the first user namespace.
            let _ = setsockopt(&self.netlink, sockopt::SndBufForce, &len)
                .or_else(|_| setsockopt(&self.netlink, sockopt::SndBuf, &len));
        }
    }
}

/// The beginning or the end of a batch.
fn batch_edge(kind: u16) -> Message {
    let mut edge = Message::new(kind, 0, "");
    let [high, low] = SUBSYSTEM.to_be_bytes();
    edge.put(&[0, 0, high, low]);
    edge
}

/// Whether operations so far make what a later one names.
fn made_in(transaction: &Transaction, object: &Object) -> bool {
    transaction.operations().iter().any(|made| {
        let same = match (&made.object, object) {
            (Object::Table(a), Object::Table(b)) => a.name == b.name,
            (Object::Chain(a), Object::Chain(b)) => a.table == b.table && a.name == b.name,
            (Object::Set(a), Object::Set(b)) => a.table == b.table && a.name == b.name,
            _ => false,
        };
        same && made.object.family() == object.family()
            && matches!(made.verb, Verb::Add | Verb::Create)
    })
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
