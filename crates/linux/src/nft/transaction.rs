//! A list of nft's verbs over objects, applied together or not at all.

use std::borrow::Borrow;
use std::fmt::{self, Display, Formatter};

use super::chain::{Chain, Family, Table};
use super::rule::Rule;
use super::set::{Elements, Set};
use super::text::{Command, Comment};

/// nft's verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Make it; fine if it is there. A rule is appended.
    Add,
    /// Make it; an error if it is there.
    Create,
    /// Put a rule first, or before its position.
    Insert,
    /// Put a rule in the place of the one with its handle.
    Replace,
    /// Remove what is inside: the rules of a table or chain, the elements of a
    /// set.
    Flush,
    /// Remove it; an error if it is not there.
    Delete,
    /// Remove it; fine if it is not there.
    Destroy,
}

impl Display for Verb {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Add => "add",
            Verb::Create => "create",
            Verb::Insert => "insert",
            Verb::Replace => "replace",
            Verb::Flush => "flush",
            Verb::Delete => "delete",
            Verb::Destroy => "destroy",
        })
    }
}

/// What a verb is applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A table.
    Table(Table),
    /// A chain.
    Chain(Chain),
    /// A rule.
    Rule(Rule),
    /// A set, map or verdict map.
    Set(Set),
    /// Elements of one.
    Elements(Elements),
}

macro_rules! object_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Object {
                Object::$kind(object)
            }
        }

        impl From<&$kind> for Object {
            fn from(object: &$kind) -> Object {
                Object::$kind(object.clone())
            }
        }
    )*};
}

object_from!(Table, Chain, Rule, Set, Elements);

impl Object {
    pub(crate) fn family(&self) -> Family {
        match self {
            Object::Table(table) => table.family,
            Object::Chain(chain) => chain.family,
            Object::Rule(rule) => rule.family,
            Object::Set(set) => set.family,
            Object::Elements(elements) => elements.set.family,
        }
    }

    /// The name of its table, or its own if it is one.
    pub(crate) fn table(&self) -> &str {
        match self {
            Object::Table(table) => &table.name,
            Object::Chain(chain) => &chain.table,
            Object::Rule(rule) => &rule.table,
            Object::Set(set) => &set.table,
            Object::Elements(elements) => &elements.set.table,
        }
    }
}

/// A verb and its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What to do.
    pub verb: Verb,
    /// With what.
    pub object: Object,
}

/// Operations in order, to be applied by
/// [`Socket::commit`](super::Socket::commit) all together or not at all.
///
/// Prints as the input of `nft -f -` that does the same.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Transaction {
    operations: Vec<Operation>,
}

impl Transaction {
    /// No operations.
    #[must_use]
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// Makes an object unless it is there; appends a rule, always.
    ///
    /// Adding a chain that is already there costs 10 to 16 ms when the socket
    /// is closed; [`Socket::ensure`](super::Socket::ensure) avoids that.
    pub fn add(&mut self, object: impl Into<Object>) -> &mut Transaction {
        self.push(Verb::Add, object)
    }

    /// Makes an object that must not be there; for a rule the same as `add`.
    pub fn create(&mut self, object: impl Into<Object>) -> &mut Transaction {
        self.push(Verb::Create, object)
    }

    /// Puts a rule at the start of its chain, or before its position.
    pub fn insert(&mut self, rule: impl Borrow<Rule>) -> &mut Transaction {
        self.push(Verb::Insert, rule.borrow())
    }

    /// Puts a rule in the place of the one whose handle it has.
    pub fn replace(&mut self, rule: impl Borrow<Rule>) -> &mut Transaction {
        self.push(Verb::Replace, rule.borrow())
    }

    /// Empties a table or chain of its rules, or a set of its elements.
    pub fn flush(&mut self, object: impl Into<Object>) -> &mut Transaction {
        self.push(Verb::Flush, object)
    }

    /// Removes an object that must be there: a rule by its handle, a chain
    /// with its rules, a table with all that is in it.
    pub fn delete(&mut self, object: impl Into<Object>) -> &mut Transaction {
        self.push(Verb::Delete, object)
    }

    /// Removes an object if it is there. Kernels before 6.3 lack the verb:
    /// [`Socket::commit`](super::Socket::commit) then looks, and deletes what
    /// exists.
    pub fn destroy(&mut self, object: impl Into<Object>) -> &mut Transaction {
        self.push(Verb::Destroy, object)
    }

    fn push(&mut self, verb: Verb, object: impl Into<Object>) -> &mut Transaction {
        self.operations.push(Operation { verb, object: object.into() });
        self
    }

    pub(crate) fn push_operation(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// The operations in order.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.operations.iter().try_for_each(|operation| writeln!(f, "{operation}"))
    }
}

/// One line of `nft -f`, without the line's end.
impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verb = self.verb;
        let makes = matches!(verb, Verb::Add | Verb::Create);
        match &self.object {
            Object::Table(table) => {
                write!(f, "{verb} table {table}")?;
                let mut block = Block::new(f);
                if makes {
                    block.part_if(table.dormant, || "flags dormant ;".to_owned())?;
                    block.comment(table.comment.as_deref())?;
                }
                block.end()
            }
            Object::Chain(chain) => {
                write!(f, "{verb} chain {chain}")?;
                let mut block = Block::new(f);
                if makes {
                    if let Some(base) = &chain.base {
                        block.part(&Command(base, chain.family))?;
                    }
                    block.comment(chain.comment.as_deref())?;
                }
                block.end()
            }
            Object::Rule(rule) => write_rule(f, verb, rule),
            Object::Set(set) => {
                write!(f, "{verb} {} {set}", set.word())?;
                let mut block = Block::new(f);
                if makes {
                    block.part(&format_args!("{} ;", set.types()))?;
                    block.part_if(set.interval, || "flags interval ;".to_owned())?;
                    block.comment(set.comment.as_deref())?;
                }
                block.end()
            }
            Object::Elements(elements) => {
                write!(f, "{verb} element {} {{ ", elements.set)?;
                for (at, element) in elements.elements.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    if makes {
                        write!(f, "{element}")?;
                    } else {
                        // What is removed is named by its key.
                        let key = element.key.clone();
                        let bare = super::set::Element { key, data: None, comment: None };
                        write!(f, "{bare}")?;
                    }
                }
                f.write_str(" }")
            }
        }
    }
}

fn write_rule(f: &mut Formatter<'_>, verb: Verb, rule: &Rule) -> fmt::Result {
    // nft has no word for creating a rule, as every added rule is a new one.
    let word = if verb == Verb::Create { Verb::Add } else { verb };
    write!(f, "{word} rule {} {} {}", rule.family, rule.table, rule.chain)?;
    let named = match verb {
        Verb::Replace | Verb::Delete | Verb::Destroy => rule.handle,
        _ => rule.position,
    };
    if let Some(handle) = named {
        write!(f, " handle {handle}")?;
    }
    match verb {
        Verb::Delete | Verb::Destroy | Verb::Flush => Ok(()),
        _ if rule.statements.is_empty() => write!(f, "{}", Comment(&rule.comment)),
        _ => write!(f, " {}", rule),
    }
}

/// ` { part part }`, or nothing if there are no parts.
struct Block<'a, 'f> {
    f: &'a mut Formatter<'f>,
    open: bool,
}

impl<'a, 'f> Block<'a, 'f> {
    fn new(f: &'a mut Formatter<'f>) -> Block<'a, 'f> {
        Block { f, open: false }
    }

    fn part(&mut self, part: &dyn Display) -> fmt::Result {
        let before = if std::mem::replace(&mut self.open, true) { " " } else { " { " };
        write!(self.f, "{before}{part}")
    }

    fn part_if(&mut self, wanted: bool, part: impl FnOnce() -> String) -> fmt::Result {
        if wanted { self.part(&part()) } else { Ok(()) }
    }

    fn comment(&mut self, comment: Option<&str>) -> fmt::Result {
        match comment {
            Some(comment) => self.part(&format_args!("comment \"{comment}\" ;")),
            None => Ok(()),
        }
    }

    fn end(self) -> fmt::Result {
        if self.open { self.f.write_str(" }") } else { Ok(()) }
    }
}
