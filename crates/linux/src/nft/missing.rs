//! What of a transaction is not in the kernel yet.

use crate::error::{Error, ErrorKind, Result};

use super::chain::{Base, Chain, Family};
use super::compile::compile;
use super::decompile::as_shown;
use super::expr::Expr;
use super::rule::{Rule, Statement};
use super::set::{Elements, Set};
use super::socket::Socket;
use super::transaction::{Object, Operation, Transaction, Verb};

/// Copies into `out` the operations of `wanted` that change anything.
pub(super) fn plan(socket: &Socket, wanted: &Transaction, out: &mut Transaction) -> Result<()> {
    let mut known = Known { socket, new: Vec::new(), chains: Vec::new() };
    for (at, operation) in wanted.operations().iter().enumerate() {
        if operation.verb != Verb::Add {
            out.push_operation(operation.clone());
            continue;
        }
        let later = wanted.operations().get(at + 1..).unwrap_or_default();
        if let Some(needed) = known.needed(operation, later)? {
            out.push_operation(needed);
        }
    }
    Ok(())
}

/// The name of a table, chain or set: family, table, and its own name.
type Name = (Family, String, String);

/// What has been read, so that nothing is read twice.
struct Known<'a> {
    socket: &'a Socket,
    /// What does not exist yet, so that there is nothing to read in it.
    new: Vec<Name>,
    chains: Vec<(Name, Vec<Rule>)>,
}

impl Known<'_> {
    fn is_new(&self, name: &Name) -> bool {
        self.new.iter().any(|new| new == name)
    }

    /// The operation that brings about what an `add` wants, if one is needed.
    fn needed(&mut self, operation: &Operation, later: &[Operation]) -> Result<Option<Operation>> {
        let object = &operation.object;
        let in_table = (object.family(), object.table().to_owned(), String::new());
        let table_is_new = self.is_new(&in_table);
        let needed = match object {
            Object::Table(table) => {
                let there = table_is_new || self.socket.table(table.family, &table.name)?.is_some();
                if !there {
                    self.new.push(in_table);
                }
                !there
            }
            Object::Chain(chain) => {
                let there = if table_is_new { None } else { self.socket.find_chain(chain)? };
                if let Some(there) = &there {
                    check_chain(chain, there)?;
                } else {
                    self.new.push(chain_name(chain.family, &chain.table, &chain.name));
                }
                there.is_none()
            }
            Object::Set(set) => {
                let there = if table_is_new { None } else { self.socket.find_set(set)? };
                if let Some(there) = &there {
                    check_set(set, there)?;
                } else {
                    self.new.push(set_name(set));
                }
                there.is_none()
            }
            Object::Elements(elements) => {
                if table_is_new || self.is_new(&set_name(&elements.set)) {
                    true
                } else {
                    return self.missing_elements(elements);
                }
            }
            Object::Rule(rule) => return self.missing_rule(rule, later),
        };
        Ok(needed.then(|| operation.clone()))
    }

    fn missing_elements(&self, wanted: &Elements) -> Result<Option<Operation>> {
        let set = &wanted.set;
        let there = self.socket.find_elements(set, &wanted.elements)?;
        let mut missing = Vec::new();
        for (element, there) in wanted.elements.iter().zip(there) {
            match there {
                None => missing.push(element.clone()),
                Some(there) if there.data == element.data && there.comment == element.comment => {}
                Some(there) => {
                    return Err(other(
                        format!("add element {set} {{ {element} }}"),
                        format!("the key is there as {there}"),
                    ));
                }
            }
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let object = Object::Elements(Elements { set: set.clone(), elements: missing });
        Ok(Some(Operation { verb: Verb::Add, object }))
    }

    fn missing_rule(&mut self, rule: &Rule, later: &[Operation]) -> Result<Option<Operation>> {
        let name = chain_name(rule.family, &rule.table, &rule.chain);
        let table = (rule.family, rule.table.clone(), String::new());
        if self.is_new(&name) || self.is_new(&table) {
            let object = Object::Rule(rule.clone());
            return Ok(Some(Operation { verb: Verb::Add, object }));
        }
        let there = self.rules(name, rule)?;
        if find(there, rule).is_some() {
            return Ok(None);
        }
        // Behind the rules wanted before it, before those wanted after it.
        let next = later.iter().find_map(|operation| match operation {
            Operation { verb: Verb::Add, object: Object::Rule(next) }
                if next.family == rule.family
                    && next.table == rule.table
                    && next.chain == rule.chain =>
            {
                find(there, next)?.handle
            }
            _ => None,
        });
        let mut rule = rule.clone();
        let verb = match next {
            Some(handle) if rule.position.is_none() => {
                rule.position = Some(handle);
                Verb::Insert
            }
            _ => Verb::Add,
        };
        Ok(Some(Operation { verb, object: Object::Rule(rule) }))
    }

    fn rules(&mut self, name: Name, rule: &Rule) -> Result<&[Rule]> {
        let at = match self.chains.iter().position(|(read, _)| *read == name) {
            Some(at) => at,
            None => {
                let chain = Chain {
                    family: rule.family,
                    table: rule.table.clone(),
                    name: rule.chain.clone(),
                    base: None,
                    comment: None,
                    handle: None,
                };
                self.chains.push((name, self.socket.rules(&chain)?));
                self.chains.len() - 1
            }
        };
        Ok(&self.chains[at].1)
    }
}

// Chains and sets have name spaces of their own.
fn chain_name(family: Family, table: &str, name: &str) -> Name {
    (family, table.to_owned(), format!("chain {name}"))
}

fn set_name(set: &Set) -> Name {
    (set.family, set.table.clone(), format!("set {}", set.name))
}

fn find<'a>(there: &'a [Rule], wanted: &Rule) -> Option<&'a Rule> {
    there.iter().find(|rule| wanted.does_the_same(rule))
}

impl Rule {
    /// Whether two rules have the same statements, however their dependencies
    /// are written and whatever their counters say, and the same comment.
    #[must_use]
    pub fn does_the_same(&self, other: &Rule) -> bool {
        if self.comment != other.comment || self.family != other.family {
            return false;
        }
        if self.statements == other.statements {
            return true;
        }
        match (self.program(), other.program()) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => false,
        }
    }

    fn program(&self) -> Option<Vec<Expr>> {
        let mut statements = as_shown(self.family, &self.statements);
        for statement in &mut statements {
            if let Statement::Counter { packets, bytes } = statement {
                (*packets, *bytes) = (0, 0);
            }
        }
        compile(self.family, &statements).ok()
    }
}

fn check_chain(wanted: &Chain, there: &Chain) -> Result<()> {
    // The policy is the administrator's to change.
    let hook = |base: &Option<Base>| base.as_ref().map(|b| (b.kind, b.hook, b.priority));
    if hook(&wanted.base) == hook(&there.base) {
        return Ok(());
    }
    let is = match &there.base {
        Some(base) => super::text::Listed(base, there.family).to_string(),
        None => "a chain without a hook".to_owned(),
    };
    Err(other(format!("add chain {wanted}"), format!("it is there as {is}")))
}

fn check_set(wanted: &Set, there: &Set) -> Result<()> {
    let same =
        wanted.key == there.key && wanted.data == there.data && wanted.interval == there.interval;
    if same {
        return Ok(());
    }
    let ranges = if there.interval { " with ranges" } else { "" };
    let is = format!("it is there as {}{ranges}", there.types());
    Err(other(format!("add {} {wanted}", wanted.word()), is))
}

fn other(operation: String, cause: String) -> Error {
    Error::with_kind(operation, ErrorKind::Exists, cause)
        .hint("another program has made it, or an older version of this one")
}
