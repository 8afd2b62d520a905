//! The kernel's side of it: apply a transaction, read what is there, add what
//! is missing.

mod refusal;

use std::cell::Cell;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};

use crate::error::{Error, ErrorKind, Result};
use crate::netlink::{self, Attrs, Message, Reply};
use crate::uapi::NLM_F_ACK;

use super::chain::{Chain, Family, Table};
use super::rule::Rule;
use super::ruleset::{Ruleset, TableContents};
use super::set::{Element, Set};
use super::transaction::{Object, Operation, Transaction, Verb};
use super::wire::{self, HEADER_LEN, Kind, SUBSYSTEM};

use self::refusal::{
    explain, is_missing_owner, is_unknown_destroy, owned, shortened, unsupported_subsystem,
};

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

/// Single elements asked for in one send; their answers have to fit the
/// receive queue.
const QUESTIONS: usize = 32;

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
    netlink: netlink::Socket,
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

    /// The number of the ruleset, which every change of it in this namespace
    /// increases.
    ///
    /// # Errors
    ///
    /// [`is_unsupported`](Error::is_unsupported) where the kernel has no
    /// nf_tables, [`is_permission`](Error::is_permission).
    pub fn generation(&self) -> Result<u32> {
        let question = wire::get(Kind::Generation, None).operation("read nftables generation");
        self.netlink
            .get(question, |reply| Attrs::after(reply.body, HEADER_LEN).find(1)?.be32())
            .map_err(unsupported_subsystem)
    }

    /// Every table, or those of one family, like `nft list tables`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn tables(&self, family: Option<Family>) -> Result<Vec<Table>> {
        let question = wire::get(Kind::Table, family).operation("list nftables tables");
        self.netlink.dump(question, |reply| wire::table(reply.body)).map_err(unsupported_subsystem)
    }

    /// The table of a name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn table(&self, family: Family, name: &str) -> Result<Option<Table>> {
        let operation = format!("read table {family} {name}");
        let mut question = wire::get(Kind::Table, Some(family)).operation(operation);
        question.attr_str(1, name);
        self.find(question, wire::table)
    }

    /// The chains of a table with their hooks; none if it does not exist.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn chains(&self, table: &Table) -> Result<Vec<Chain>> {
        let question = wire::get(Kind::Chain, Some(table.family))
            .operation(format!("list chains of table {table}"));
        // The kernel lists those of every table of the family.
        self.netlink.dump(question, |reply| {
            wire::chain(reply.body).filter(|chain| chain.table == table.name)
        })
    }

    /// The chain of a name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn chain(&self, table: &Table, name: &str) -> Result<Option<Chain>> {
        self.find_chain(&Chain::regular(table, name))
    }

    pub(super) fn find_chain(&self, chain: &Chain) -> Result<Option<Chain>> {
        let mut question =
            wire::get(Kind::Chain, Some(chain.family)).operation(format!("read chain {chain}"));
        question.attr_str(1, &chain.table).attr_str(3, &chain.name);
        self.find(question, wire::chain)
    }

    /// The rules of a chain in order, with handles; none if it does not exist.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn rules(&self, chain: &Chain) -> Result<Vec<Rule>> {
        self.list_rules(chain, |_| true)
    }

    /// The rules of a chain whose comment is `wanted`, in order, with handles.
    /// Of others nothing else is read, which halves what a long chain costs.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn rules_commented(
        &self,
        chain: &Chain,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Rule>> {
        self.list_rules(chain, |body| wire::rule_comment(body).is_some_and(|text| wanted(&text)))
    }

    fn list_rules(&self, chain: &Chain, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Rule>> {
        let mut question = wire::get(Kind::Rule, Some(chain.family))
            .operation(format!("list rules of chain {chain}"));
        question.attr_str(1, &chain.table).attr_str(2, &chain.name);
        // Kernels before 5.5 do not filter; a table that is not there is an
        // error to some.
        let listed = self.netlink.dump(question, |reply| {
            let rule = wanted(reply.body).then(|| wire::rule(reply.body)).flatten();
            rule.filter(|rule| rule.table == chain.table && rule.chain == chain.name)
        });
        absent_is_default(listed)
    }

    fn find_rule(&self, rule: &Rule, handle: u64) -> Result<Option<Rule>> {
        let mut question = wire::get(Kind::Rule, Some(rule.family))
            .operation(format!("read rule {handle} of {}", rule.chain));
        question.attr_str(1, &rule.table).attr_str(2, &rule.chain).attr_be64(3, handle);
        self.find(question, wire::rule)
    }

    /// The named sets and maps of a table; none if it does not exist.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn sets(&self, table: &Table) -> Result<Vec<Set>> {
        /// `NFT_SET_ANONYMOUS`
        const ANONYMOUS: u32 = 1;
        let mut question = wire::get(Kind::Set, Some(table.family))
            .operation(format!("list sets of table {table}"));
        question.attr_str(1, &table.name);
        let listed = self.netlink.dump(question, |reply| {
            wire::set(reply.body)
                .filter(|set| set.table == table.name && set.other_flags & ANONYMOUS == 0)
        });
        absent_is_default(listed)
    }

    /// The set or map of a name; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set(&self, table: &Table, name: &str) -> Result<Option<Set>> {
        self.find_set(&Set::new(table, name, []))
    }

    pub(super) fn find_set(&self, set: &Set) -> Result<Option<Set>> {
        let mut question =
            wire::get(Kind::Set, Some(set.family)).operation(format!("read set {set}"));
        question.attr_str(1, &set.table).attr_str(2, &set.name);
        self.find(question, wire::set)
    }

    /// The elements of a set or map; an error if it does not exist.
    ///
    /// # Errors
    ///
    /// [`is_not_found`](Error::is_not_found), and the kernel's others.
    pub fn elements(&self, set: &Set) -> Result<Vec<Element>> {
        let operation = format!("list elements of {set}");
        let question = wire::get_elements(set, &[])
            .map_err(|cause| Error::invalid(operation.clone(), cause))?
            .operation(operation);
        // One message carries many elements, and half a range may be in the
        // next.
        let mut parts =
            self.netlink.dump(question, |reply| Some(wire::elements(set, reply.body)))?;
        let raw = parts.iter_mut().flat_map(std::mem::take).collect();
        Ok(wire::assemble(set, raw))
    }

    /// Looks keys up in a set: for each element, the one of the same key that
    /// is there. Costs the same however many the set has, unless it holds
    /// ranges, which are listed.
    ///
    /// # Errors
    ///
    /// The kernel's; a set that does not exist has no elements.
    pub fn find_elements(&self, set: &Set, wanted: &[Element]) -> Result<Vec<Option<Element>>> {
        if set.interval {
            let there = absent_is_default(self.elements(set))?;
            let find = |wanted| there.iter().find(|element| wire::same_key(set, wanted, element));
            return Ok(wanted.iter().map(|element| find(element).cloned()).collect());
        }
        let asking = |element: &Element| format!("look up {element} in {set}");
        let mut found = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(QUESTIONS) {
            let start = found.len();
            found.resize(start + some.len(), None);
            let mut questions = Vec::with_capacity(some.len());
            for element in some {
                let question = wire::get_elements(set, std::slice::from_ref(element))
                    .map_err(|cause| Error::invalid(asking(element), cause))?;
                questions.push(question);
            }
            // Answers come in order: that to the last one is the end.
            if let Some(last) = questions.last_mut() {
                last.add_flags(NLM_F_ACK);
            }
            let mut refused = Ok(());
            self.netlink.transact(
                &mut questions,
                |index, reply| {
                    let raw = wire::elements(set, reply.body);
                    if let Some(slot) = found.get_mut(start + index) {
                        *slot = wire::assemble(set, raw).into_iter().next();
                    }
                },
                |index, error| {
                    if !error.is_not_found() && refused.is_ok() {
                        refused = Err(match some.get(index) {
                            Some(element) => error.operation(asking(element)),
                            None => error,
                        });
                    }
                },
            )?;
            refused?;
        }
        Ok(found)
    }

    /// Everything, or everything of one family, like `nft list ruleset`.
    ///
    /// Objects this crate does not know (flow tables, named counters, sets
    /// without a name) are left out.
    ///
    /// # Errors
    ///
    /// The kernel's; `Busy` when the ruleset kept changing.
    pub fn ruleset(&self, family: Option<Family>) -> Result<Ruleset> {
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let tables = self.tables(family)?;
            let contents: Result<Vec<TableContents>> =
                tables.into_iter().map(|table| self.contents(table)).collect();
            // Something may have come or gone between two lists.
            if self.generation()? == generation {
                return Ok(Ruleset { tables: contents? });
            }
        }
        Err(Error::with_kind("list ruleset", ErrorKind::Busy, "the rules kept changing"))
    }

    fn contents(&self, table: Table) -> Result<TableContents> {
        let mut sets = Vec::new();
        for set in self.sets(&table)? {
            let elements = self.elements(&set)?;
            sets.push((set, elements));
        }
        let mut chains = Vec::new();
        for chain in self.chains(&table)? {
            let rules = self.rules(&chain)?;
            chains.push((chain, rules));
        }
        Ok(TableContents { table, sets, chains })
    }

    fn find<T>(&self, question: Message, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>> {
        match self.netlink.get(question, |reply: Reply<'_>| parse(reply.body)) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
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

/// A list of something in a table that does not exist is empty.
fn absent_is_default<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.is_not_found() => Ok(T::default()),
        other => other,
    }
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
