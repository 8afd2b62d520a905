//! What a transaction is going to change, as it was: to have it back when what was to
//! follow has failed.

use crate::error::Result;

use super::chain::{Chain, Table};
use super::rule::Rule;
use super::ruleset::TableContents;
use super::set::{Element, Elements, Set};
use super::socket::Socket;
use super::transaction::{Object, Operation, Transaction, Verb};

/// What [`Socket::remember`] read, of each table that is touched: all of one that goes;
/// of others the chains whose rules change, and the elements.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Before {
    tables: Vec<TableContents>,
    added_tables: Vec<Table>,
    added_elements: Vec<Elements>,
    added_rules: Vec<Rule>,
    removed_rules: Vec<Rule>,
}

impl Socket {
    /// Reads what a transaction would change, before it is applied.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn remember(&self, transaction: &Transaction) -> Result<Before> {
        let mut before = Before::default();
        for Operation { verb, object } in transaction.operations() {
            let removes = matches!(verb, Verb::Delete | Verb::Destroy | Verb::Flush);
            match object {
                Object::Rule(rule) if !removes => before.added_rules.push(rule.clone()),
                Object::Elements(elements) if !removes => {
                    before.added_elements.push(elements.clone());
                }
                _ => {}
            }
            let Some(table) = self.table(object.family(), object.table())? else {
                before.added_tables.extend(match object {
                    Object::Table(table) if !removes => Some(table.clone()),
                    _ => None,
                });
                continue;
            };
            match object {
                Object::Table(_) if removes => {
                    let whole = self.contents(table)?;
                    before.tables.retain(|known| !same_table(&known.table, &whole.table));
                    let removed = whole.chains.iter().flat_map(|(_, rules)| rules);
                    before.removed_rules.extend(removed.cloned());
                    before.tables.push(whole);
                }
                Object::Chain(chain) if removes => {
                    self.remember_chain(&table, &chain.name, &mut before)?;
                    let removed = before.rules(&Chain::regular(&table, &chain.name)).to_vec();
                    before.removed_rules.extend(removed);
                }
                Object::Rule(rule) => {
                    self.remember_chain(&table, &rule.chain, &mut before)?;
                    before.removed_rules.extend(removes.then(|| rule.clone()));
                }
                Object::Elements(Elements { set, elements }) => {
                    let there = self.find_elements(set, elements)?;
                    before.add_elements(&table, set, there.into_iter().flatten().collect());
                }
                _ => {}
            }
        }
        let Before { tables, removed_rules: removed, .. } = &mut before;
        let rules = tables.iter_mut().flat_map(|table| &mut table.chains).flat_map(|(_, r)| r);
        for rule in rules.filter(|rule| removed.iter().any(|removed| same_rule(removed, rule))) {
            *rule = self.with_unnamed(rule)?;
        }
        Ok(before)
    }

    fn remember_chain(&self, table: &Table, name: &str, before: &mut Before) -> Result<()> {
        let known = before.contents_of(table);
        if known.chains.iter().any(|(chain, _)| chain.name == name) {
            return Ok(());
        }
        if let Some(chain) = self.chain(table, name)? {
            let rules = self.rules(&chain)?;
            known.chains.push((chain, rules));
        }
        Ok(())
    }

    /// Plans that what was remembered is there again, and what was added is not. What
    /// somebody else changed meanwhile stays; so do sets and chains that were added,
    /// and a table that was added and is used by now.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn plan_back(&self, before: &Before, out: &mut Transaction) -> Result<()> {
        let mut gone = Vec::new();
        for table in &before.added_tables {
            if let Some(table) = self.table(table.family, &table.name)?
                && before.added_all_of(&self.contents(table.clone())?)
            {
                out.delete(&table);
                gone.push(table);
            }
        }
        let stays = |family, name: &str| {
            gone.iter().all(|gone| (gone.family, gone.name.as_str()) != (family, name))
        };
        for added in before.added_elements.iter().filter(|e| stays(e.set.family, &e.set.table)) {
            self.plan_elements_away(before, added, out)?;
        }
        let mut handles = Vec::new();
        for added in before.added_rules.iter().filter(|rule| stays(rule.family, &rule.table)) {
            self.plan_rule_away(before, added, &mut handles, out)?;
        }
        before.tables.iter().try_for_each(|was| self.plan_table_back(before, was, out))
    }

    fn plan_elements_away(
        &self,
        before: &Before,
        added: &Elements,
        out: &mut Transaction,
    ) -> Result<()> {
        let there = self.find_elements(&added.set, &added.elements)?.into_iter().flatten();
        let is_new = |there: &Element| before.is_added(&added.set, there);
        let new: Vec<Element> = there.filter(is_new).collect();
        if !new.is_empty() {
            out.delete(Elements::of(&added.set, new));
        }
        Ok(())
    }

    fn plan_rule_away(
        &self,
        before: &Before,
        added: &Rule,
        gone: &mut Vec<u64>,
        out: &mut Transaction,
    ) -> Result<()> {
        let chain = Chain::regular(&Table::new(added.family, &added.table), &added.chain);
        let was = before.rules(&chain);
        for rule in self.rules(&chain)?.into_iter().rev().filter(|rule| rule.does_the_same(added)) {
            // Unique in its table; a chain may have got the same rule twice.
            let Some(handle) = rule.handle else { continue };
            if was.iter().all(|was| was.handle != Some(handle)) && !gone.contains(&handle) {
                out.delete(Rule::at(&chain, handle));
                gone.push(handle);
                break;
            }
        }
        Ok(())
    }

    fn plan_table_back(
        &self,
        before: &Before,
        was: &TableContents,
        out: &mut Transaction,
    ) -> Result<()> {
        if self.table(was.table.family, &was.table.name)?.is_none() {
            out.add(&was.table);
        }
        for (set, elements) in &was.sets {
            if self.find_set(set)?.is_none() {
                out.add(set);
            }
            let there = self.find_elements(set, elements)?;
            let is_missing = |there: &Option<Element>| {
                there.as_ref().is_none_or(|there| before.is_added(set, there))
            };
            let missing = elements.iter().zip(&there).filter(|(_, there)| is_missing(there));
            let missing: Vec<Element> = missing.map(|(was, _)| was.clone()).collect();
            if !missing.is_empty() {
                out.add(Elements::of(set, missing));
            }
        }
        for (chain, _) in &was.chains {
            if self.find_chain(chain)?.is_none() {
                out.add(chain);
            }
        }
        // Behind all chains, as they may jump to each other.
        for (chain, rules) in &was.chains {
            before.plan_rules_back(rules, &self.rules(chain)?, out);
        }
        Ok(())
    }
}

impl Before {
    /// The rules that were removed, each behind the one it stood behind.
    fn plan_rules_back(&self, was: &[Rule], there: &[Rule], out: &mut Transaction) {
        let is_there = |rule: &Rule| there.iter().any(|there| there.handle == rule.handle);
        let is_missing = |rule: &Rule| {
            !is_there(rule) && self.removed_rules.iter().any(|removed| same_rule(removed, rule))
        };
        // From the last on, so that each comes before those that stood behind it.
        for (at, rule) in was.iter().enumerate().rev().filter(|(_, rule)| is_missing(rule)) {
            let rule = Rule { handle: None, ..rule.clone() };
            match was.iter().take(at).rev().find(|rule| is_there(rule)).and_then(|rule| rule.handle)
            {
                Some(handle) => out.add(rule.position(handle)),
                None => out.insert(rule),
            };
        }
    }

    /// Lets the rules of a chain be as the transaction makes them, and its table stay.
    pub fn keep(&mut self, chain: &Chain) {
        let is_kept = |rule: &Rule| {
            (rule.family, &rule.table, &rule.chain) == (chain.family, &chain.table, &chain.name)
        };
        self.added_rules.retain(|rule| !is_kept(rule));
        for TableContents { table, chains, .. } in &mut self.tables {
            let is_its = (table.family, &table.name) == (chain.family, &chain.table);
            chains.retain(|(known, _)| !is_its || known.name != chain.name);
        }
    }

    /// Whether a rule of a chain that is changed was there, and was this very one.
    #[must_use]
    pub fn has_rule(&self, rule: &Rule) -> bool {
        let chain = Chain::regular(&Table::new(rule.family, &rule.table), &rule.chain);
        self.rules(&chain).iter().any(|was| was.handle == rule.handle)
    }

    fn contents_of(&mut self, table: &Table) -> &mut TableContents {
        let at = match self.tables.iter().position(|known| same_table(&known.table, table)) {
            Some(at) => at,
            None => {
                let (sets, chains) = (Vec::new(), Vec::new());
                self.tables.push(TableContents { table: table.clone(), sets, chains });
                self.tables.len() - 1
            }
        };
        &mut self.tables[at]
    }

    fn add_elements(&mut self, table: &Table, set: &Set, there: Vec<Element>) {
        // There may be no such set.
        if there.is_empty() {
            return;
        }
        let known = self.contents_of(table);
        let at = match known.sets.iter().position(|(known, _)| known.name == set.name) {
            Some(at) => at,
            None => {
                known.sets.push((set.clone(), Vec::new()));
                known.sets.len() - 1
            }
        };
        for element in there {
            if !known.sets[at].1.contains(&element) {
                known.sets[at].1.push(element);
            }
        }
    }

    /// Whether an element that is there was added, and was not there before.
    fn is_added(&self, set: &Set, there: &Element) -> bool {
        let tables = self.tables.iter().flat_map(|table| &table.sets);
        let was = tables.filter(|(known, _)| same_set(known, set)).flat_map(|(_, was)| was);
        let mut added = self.added_elements.iter().filter(|added| same_set(&added.set, set));
        added.any(|added| added.elements.contains(there))
            && !was.into_iter().any(|was| was == there)
    }

    /// Whether a table that was not there holds nothing but what was added.
    fn added_all_of(&self, table: &TableContents) -> bool {
        let mut elements =
            table.sets.iter().flat_map(|(set, all)| all.iter().map(move |e| (set, e)));
        let mut rules = table.chains.iter().flat_map(|(_, rules)| rules);
        elements.all(|(set, element)| self.is_added(set, element))
            && rules.all(|rule| {
                let mut added = self.added_rules.iter().filter(|added| added.chain == rule.chain);
                added.any(|added| added.table == rule.table && added.does_the_same(rule))
            })
    }

    fn rules(&self, chain: &Chain) -> &[Rule] {
        let mut chains = self.tables.iter().flat_map(|table| &table.chains);
        let found = chains.find(|(known, _)| {
            (known.family, &known.table, &known.name) == (chain.family, &chain.table, &chain.name)
        });
        found.map(|(_, rules)| rules.as_slice()).unwrap_or_default()
    }
}

fn same_table(one: &Table, other: &Table) -> bool {
    (one.family, &one.name) == (other.family, &other.name)
}

fn same_rule(one: &Rule, other: &Rule) -> bool {
    (one.family, &one.table, one.handle) == (other.family, &other.table, other.handle)
}

fn same_set(one: &Set, other: &Set) -> bool {
    (one.family, &one.table, &one.name) == (other.family, &other.table, &other.name)
}
