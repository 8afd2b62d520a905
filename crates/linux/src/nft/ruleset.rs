//! A whole ruleset as read from the kernel, printed as `nft list ruleset` does.

use std::fmt::{self, Display, Formatter};

use super::chain::{Chain, Table};
use super::rule::Rule;
use super::set::{Element, Set, Type};
use super::text::{Handle, Listed};
use super::value::encode;

/// Every table of a network namespace, or of one family, with its contents.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// In the kernel's order.
    pub tables: Vec<TableContents>,
}

/// A table with its contents, in the kernel's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableContents {
    /// The table.
    pub table: Table,
    /// Its named sets and maps with their elements.
    pub sets: Vec<(Set, Vec<Element>)>,
    /// Its chains with their rules.
    pub chains: Vec<(Chain, Vec<Rule>)>,
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| table.fmt(f))
    }
}

/// What `nft list table` prints; `{:#}` is `nft -a list table`.
impl Display for TableContents {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let table = &self.table;
        write!(f, "table {table} {{")?;
        Handle(table.handle).fmt(f)?;
        f.write_str("\n")?;
        let mut blank = "";
        if table.dormant {
            f.write_str("\tflags dormant\n")?;
            blank = "\n";
        }
        if let Some(comment) = &table.comment {
            writeln!(f, "\tcomment \"{comment}\"")?;
        }
        for (set, elements) in &self.sets {
            f.write_str(std::mem::replace(&mut blank, "\n"))?;
            write_set(f, set, elements)?;
        }
        for (chain, rules) in &self.chains {
            f.write_str(std::mem::replace(&mut blank, "\n"))?;
            write_chain(f, chain, rules)?;
        }
        f.write_str("}\n")
    }
}

fn write_chain(f: &mut Formatter<'_>, chain: &Chain, rules: &[Rule]) -> fmt::Result {
    write!(f, "\tchain {} {{", chain.name)?;
    Handle(chain.handle).fmt(f)?;
    f.write_str("\n")?;
    if let Some(comment) = &chain.comment {
        writeln!(f, "\t\tcomment \"{comment}\"")?;
    }
    if let Some(base) = &chain.base {
        writeln!(f, "\t\t{}", Listed(base, chain.family))?;
    }
    for rule in rules {
        f.write_str("\t\t")?;
        rule.fmt(f)?;
        f.write_str("\n")?;
    }
    f.write_str("\t}\n")
}

fn write_set(f: &mut Formatter<'_>, set: &Set, elements: &[Element]) -> fmt::Result {
    write!(f, "\t{} {} {{", set.word(), set.name)?;
    Handle(set.handle).fmt(f)?;
    writeln!(f, "\n\t\t{}", set.types())?;
    if set.interval {
        f.write_str("\t\tflags interval\n")?;
    }
    if let Some(comment) = &set.comment {
        writeln!(f, "\t\tcomment \"{comment}\"")?;
    }
    if !elements.is_empty() {
        f.write_str("\t\telements = { ")?;
        let per_line = per_line(&set.key);
        for (at, element) in sorted(set, elements).iter().enumerate() {
            if at > 0 {
                let wrap = at.is_multiple_of(per_line);
                f.write_str(if wrap { ",\n\t\t\t     " } else { ", " })?;
            }
            element.fmt(f)?;
        }
        f.write_str(" }\n")?;
    }
    f.write_str("\t}\n")
}

/// Elements nft puts on a line (`calculate_delim`, src/expression.c of 1.0.6).
fn per_line(key: &[Type]) -> usize {
    match key {
        [Type::InetProto | Type::InetService | Type::Mark | Type::Nfproto] => 5,
        [Type::Ipv4Addr] => 2,
        _ => 1,
    }
}

/// By key; the kernel's order is that of a hash table. Ranges of concatenated
/// keys keep it, as they do in nft.
fn sorted<'a>(set: &Set, elements: &'a [Element]) -> Vec<&'a Element> {
    let mut sorted: Vec<&Element> = elements.iter().collect();
    if !set.interval {
        sorted.sort_by_cached_key(|element| sort_key(set, element));
    }
    sorted
}

fn sort_key(set: &Set, element: &Element) -> Vec<Vec<u8>> {
    let part = |(value, kind): (_, &Type)| {
        let mut bytes = encode(value, *kind).unwrap_or_default();
        // Numbers in host byte order compare by their highest byte first, and
        // names are such numbers to nft.
        if kind.is_host_order() && cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    };
    element.key.iter().zip(&set.key).map(part).collect()
}
