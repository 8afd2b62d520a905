//! Rules as text: the format of `iptables-restore` and `iptables-save`.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::error::{Error, Result};

/// Bytes a comment may have (`XT_MAX_COMMENT_LEN` without its NUL,
/// include/uapi/linux/netfilter/xt_comment.h at v6.18).
pub const COMMENT_MAX: usize = 255;

/// A rule: the words after the chain's name, such as `-s 10.1.0.2/32 -j EXAMPLE`.
///
/// Equal to what [`Saved`] reads back if it is written as `iptables-save`
/// prints it: addresses with their length, matches before the target, the
/// comment after other matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    words: Vec<String>,
}

impl Rule {
    /// A rule of words without white space in them.
    #[must_use]
    pub fn new(words: &str) -> Rule {
        Rule { words: words.split_whitespace().map(str::to_owned).collect() }
    }

    /// The same rule with one more word, whatever is in it.
    #[must_use]
    pub fn word(mut self, word: impl Into<String>) -> Rule {
        self.words.push(word.into());
        self
    }

    /// The same rule with further words without white space in them.
    #[must_use]
    pub fn words(mut self, words: &str) -> Rule {
        self.words.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// The same rule with a comment, of at most [`COMMENT_MAX`] bytes.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Rule {
        self.words("-m comment --comment").word(comment)
    }

    /// The same rule with a target: a chain, or what the kernel offers.
    #[must_use]
    pub fn jump(self, target: impl Into<String>) -> Rule {
        self.word("-j").word(target)
    }

    /// The same rule with all words of another behind its own.
    pub(super) fn then(mut self, other: &Rule) -> Rule {
        self.words.extend_from_slice(&other.words);
        self
    }

    /// Its words.
    #[must_use]
    pub fn as_words(&self) -> &[String] {
        &self.words
    }

    /// The word after `-j` or `-g`.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.after(&["-j", "-g", "--jump", "--goto"])
    }

    /// The word after `--comment`.
    #[must_use]
    pub fn comment_text(&self) -> Option<&str> {
        self.after(&["--comment"])
    }

    fn after(&self, options: &[&str]) -> Option<&str> {
        let at = self.words.iter().position(|word| options.contains(&word.as_str()))?;
        self.words.get(at + 1).map(String::as_str)
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, word) in self.words.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            write_word(f, word)?;
        }
        Ok(())
    }
}

/// Quoted where `iptables-restore` would take it apart (`add_param_to_argv` in
/// iptables/xshared.c of 1.8.9).
fn write_word(f: &mut Formatter<'_>, word: &str) -> fmt::Result {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '\\' | '\'');
    if !word.is_empty() && word.chars().all(plain) {
        return f.write_str(word);
    }
    f.write_char('"')?;
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// Changes to one table, applied together by
/// [`Program::restore`](super::Program::restore).
///
/// Prints as the input of `iptables-restore --noflush`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    table: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `:CHAIN -`
    EmptyChain(String),
    /// A command of chain, and rule where it has one: `-A CHAIN RULE`.
    Command(&'static str, String, Option<u32>, Option<Rule>),
}

impl Batch {
    /// No changes to a table such as `nat`.
    #[must_use]
    pub fn new(table: &str) -> Batch {
        Batch { table: table.to_owned(), lines: Vec::new() }
    }

    /// Makes a chain, or empties the one that is there (`:CHAIN -`).
    pub fn empty_chain(&mut self, chain: &str) -> &mut Batch {
        self.lines.push(Line::EmptyChain(chain.to_owned()));
        self
    }

    /// Makes a chain that must not be there (`-N`).
    pub fn new_chain(&mut self, chain: &str) -> &mut Batch {
        self.command("-N", chain, None, None)
    }

    /// Puts a rule last (`-A`).
    pub fn append(&mut self, chain: &str, rule: Rule) -> &mut Batch {
        self.command("-A", chain, None, Some(rule))
    }

    /// Puts a rule at a position, from 1 (`-I`).
    pub fn insert(&mut self, chain: &str, position: u32, rule: Rule) -> &mut Batch {
        self.command("-I", chain, Some(position), Some(rule))
    }

    /// Removes the first rule like this, which must be there (`-D`).
    pub fn delete(&mut self, chain: &str, rule: Rule) -> &mut Batch {
        self.command("-D", chain, None, Some(rule))
    }

    /// Removes all rules of a chain, which must be there (`-F`).
    pub fn flush(&mut self, chain: &str) -> &mut Batch {
        self.command("-F", chain, None, None)
    }

    /// Removes a chain, which must be there, empty and unused (`-X`).
    pub fn delete_chain(&mut self, chain: &str) -> &mut Batch {
        self.command("-X", chain, None, None)
    }

    fn command(
        &mut self,
        command: &'static str,
        chain: &str,
        position: Option<u32>,
        rule: Option<Rule>,
    ) -> &mut Batch {
        self.lines.push(Line::Command(command, chain.to_owned(), position, rule));
        self
    }

    /// Removes, from what [`Saved`] read, the chains that `mine` says are the
    /// caller's own, and every rule elsewhere that jumps to one.
    pub fn remove_chains(&mut self, saved: &Saved, mine: impl Fn(&str) -> bool) -> &mut Batch {
        let own: Vec<&Chain> = saved.chains.iter().filter(|chain| mine(&chain.name)).collect();
        let is_own = |name: &str| own.iter().any(|chain| chain.name == name);
        for chain in saved.chains.iter().filter(|chain| !is_own(&chain.name)) {
            for rule in &chain.rules {
                if rule.target().is_some_and(is_own) {
                    self.delete(&chain.name, rule.clone());
                }
            }
        }
        // All are emptied before the first goes: one may jump to another.
        for chain in &own {
            self.flush(&chain.name);
        }
        for chain in &own {
            self.delete_chain(&chain.name);
        }
        self
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The input of `iptables-restore`.
    pub(super) fn text(&self) -> Result<String> {
        for line in &self.lines {
            let (chain, rule) = match line {
                Line::EmptyChain(chain) => (chain, None),
                Line::Command(_, chain, _, rule) => (chain, rule.as_ref()),
            };
            let words = rule.map(|rule| rule.words.as_slice()).unwrap_or_default();
            if let Some(bad) = words.iter().chain([chain]).find(|word| !is_word(word)) {
                return Err(Error::invalid(
                    format!("write rule of chain {chain}"),
                    format!("{bad:?} cannot be part of a rule"),
                ));
            }
            if let Some(comment) = rule.and_then(Rule::comment_text)
                && comment.len() > COMMENT_MAX
            {
                return Err(Error::invalid(
                    format!("write rule of chain {chain}"),
                    format!("comment {comment:?} is longer than {COMMENT_MAX} bytes"),
                ));
            }
        }
        Ok(self.to_string())
    }
}

/// Whether a rule can have the word: not a line break, nor more than 1,023 bytes.
#[must_use]
pub fn is_word(text: &str) -> bool {
    !text.contains(['\n', '\0']) && text.len() <= WORD_MAX
}

/// Bytes a word may have (`struct xt_param_buf` in iptables/xshared.h of
/// 1.8.9, without its NUL).
const WORD_MAX: usize = 1023;

impl Display for Batch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        for line in &self.lines {
            match line {
                Line::EmptyChain(chain) => write!(f, ":{chain} -")?,
                Line::Command(command, chain, position, rule) => {
                    write!(f, "{command} {chain}")?;
                    if let Some(position) = position {
                        write!(f, " {position}")?;
                    }
                    if let Some(rule) = rule {
                        write!(f, " {rule}")?;
                    }
                }
            }
            f.write_char('\n')?;
        }
        f.write_str("COMMIT\n")
    }
}

/// A table as `iptables-save` printed it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Saved {
    /// In order.
    pub chains: Vec<Chain>,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// In order.
    pub rules: Vec<Rule>,
}

impl Saved {
    /// The chain of a name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Whether a chain has a rule.
    #[must_use]
    pub fn has(&self, chain: &str, rule: &Rule) -> bool {
        self.chain(chain).is_some_and(|chain| chain.rules.contains(rule))
    }

    pub(crate) fn parse(text: &str) -> Saved {
        let mut saved = Saved::default();
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix(':') {
                let name = declared.split(' ').next().unwrap_or_default();
                saved.chains.push(Chain { name: name.to_owned(), rules: Vec::new() });
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = split_words(rule);
                if words.is_empty() {
                    continue;
                }
                let name = words.remove(0);
                if let Some(chain) = saved.chains.iter_mut().find(|chain| chain.name == name) {
                    chain.rules.push(Rule { words });
                }
            }
        }
        saved
    }
}

/// The words of a line: the opposite of [`write_word`].
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        if escaped {
            word.get_or_insert_default().push(c);
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
            word.get_or_insert_default();
        } else if !quoted && c == ' ' {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);
    words
}
