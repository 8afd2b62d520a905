//! What is there: tables, chains, rules, sets and their elements, each looked up
//! or listed.

use crate::error::{Error, ErrorKind, Result};
use crate::netlink::{Attrs, Message, Reply};
use crate::nft::chain::{Chain, Family, Table};
use crate::nft::rule::Rule;
use crate::nft::ruleset::{Ruleset, TableContents};
use crate::nft::set::{Element, Elements, Set};
use crate::nft::wire::{self, HEADER_LEN, Kind};
use crate::uapi::NLM_F_ACK;

use super::refusal::unsupported_subsystem;
use super::{ATTEMPTS, Socket};

/// Single elements asked for in one send; their answers have to fit the
/// receive queue.
const QUESTIONS: usize = 32;

impl Socket {
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

    pub(in crate::nft) fn find_chain(&self, chain: &Chain) -> Result<Option<Chain>> {
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

    pub(super) fn find_rule(&self, rule: &Rule, handle: u64) -> Result<Option<Rule>> {
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

    pub(in crate::nft) fn find_set(&self, set: &Set) -> Result<Option<Set>> {
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
        self.elements_as(set, Some)
    }

    /// What `read` makes of the elements of a set or map, of all but those it passes
    /// over. Of thousands nothing else is kept, unless the set holds ranges. It may
    /// run more than once for an element.
    ///
    /// # Errors
    ///
    /// As [`Socket::elements`].
    pub fn elements_as<T>(&self, set: &Set, read: impl Fn(Element) -> Option<T>) -> Result<Vec<T>> {
        let operation = format!("list elements of {set}");
        let question = wire::get_elements(set, &[])
            .map_err(|cause| Error::invalid(operation.clone(), cause))?
            .operation(operation);
        if !set.interval {
            return self.netlink.dump_many(question, |reply, all| {
                let some = wire::elements(set, reply.body);
                all.extend(some.filter_map(|raw| read(wire::single(set, raw)?)));
            });
        }
        // One message carries many elements, and half a range may be in the
        // next.
        let raw = self
            .netlink
            .dump_many(question, |reply, all| all.extend(wire::elements(set, reply.body)))?;
        Ok(wire::assemble(set, raw).into_iter().filter_map(read).collect())
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
        self.look_up(&wanted.iter().map(|element| (set, element)).collect::<Vec<_>>())
    }

    /// The same for several sets without ranges, with one question to the kernel
    /// for all of them: a list of answers for each.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::find_elements`]; `Invalid` for a set with ranges.
    pub fn find_in_sets(&self, wanted: &[Elements]) -> Result<Vec<Vec<Option<Element>>>> {
        if let Some(ranges) = wanted.iter().find(|elements| elements.set.interval) {
            let operation = format!("look up elements in {}", ranges.set);
            return Err(Error::invalid(operation, "it holds ranges, which are listed"));
        }
        let pairs = wanted.iter().flat_map(|of| of.elements.iter().map(|one| (&of.set, one)));
        let mut found = self.look_up(&pairs.collect::<Vec<_>>())?.into_iter();
        Ok(wanted.iter().map(|of| found.by_ref().take(of.elements.len()).collect()).collect())
    }

    fn look_up(&self, wanted: &[(&Set, &Element)]) -> Result<Vec<Option<Element>>> {
        let asking = |(set, element): &(&Set, &Element)| format!("look up {element} in {set}");
        let mut found = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(QUESTIONS) {
            let start = found.len();
            found.resize(start + some.len(), None);
            let mut questions = Vec::with_capacity(some.len());
            for pair in some {
                let question = wire::get_elements(pair.0, std::slice::from_ref(pair.1))
                    .map_err(|cause| Error::invalid(asking(pair), cause))?;
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
                    if let (Some((set, _)), Some(slot)) =
                        (some.get(index), found.get_mut(start + index))
                    {
                        let mut raw = wire::elements(set, reply.body);
                        *slot = raw.find_map(|raw| wire::single(set, raw));
                    }
                },
                |index, error| {
                    if !error.is_not_found() && refused.is_ok() {
                        refused = Err(match some.get(index) {
                            Some(pair) => error.operation(asking(pair)),
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

    pub(in crate::nft) fn contents(&self, table: Table) -> Result<TableContents> {
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

    pub(in crate::nft) fn find<T>(
        &self,
        question: Message,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.netlink.get(question, |reply: Reply<'_>| parse(reply.body)) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A list of something in a table that does not exist is empty.
fn absent_is_default<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.is_not_found() => Ok(T::default()),
        other => other,
    }
}
