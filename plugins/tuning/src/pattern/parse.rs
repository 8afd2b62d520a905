//! The syntax of a pattern.

use super::{Assert, Node, Set};

/// Brackets in brackets.
const DEPTH_MAX: u32 = 100;

/// The largest number in `{n,m}`, as Go has it.
const REPEAT_MAX: u32 = 1000;

const DIGITS: &[(char, char)] = &[('0', '9')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];

/// What stands between `[:` and `:]`.
const CLASSES: &[(&str, &[(char, char)])] = &[
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("digit", DIGITS),
    ("lower", &[('a', 'z')]),
    ("upper", &[('A', 'Z')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("word", WORD),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

struct Parser {
    text: Vec<char>,
    at: usize,
    ignore_case: bool,
    depth: u32,
}

pub(super) fn parse(text: &str) -> Result<Node, String> {
    let text = text.chars().collect();
    let mut parser = Parser { text, at: 0, ignore_case: false, depth: 0 };
    let node = parser.alternatives()?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err("unexpected )".into()),
    }
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn take(&mut self, word: &str) -> bool {
        let length = word.chars().count();
        let there = self.text.get(self.at..self.at + length);
        let is_there = there.is_some_and(|there| there.iter().copied().eq(word.chars()));
        self.at += if is_there { length } else { 0 };
        is_there
    }

    fn alternatives(&mut self) -> Result<Node, String> {
        let mut nodes = vec![self.sequence()?];
        while self.take("|") {
            nodes.push(self.sequence()?);
        }
        Ok(Node::Any(nodes))
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(c) = self.peek() {
            if matches!(c, '|' | ')') {
                break;
            }
            let node = self.atom()?;
            let node = self.repeated(node)?;
            nodes.push(node);
        }
        Ok(Node::All(nodes))
    }

    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let Some((least, most)) = self.repetition()? else { return Ok(node) };
        // Which of several matches it is makes no difference here.
        self.take("?");
        if self.repetition()?.is_some() {
            return Err("invalid nested repetition operator".into());
        }
        Ok(Node::Repeat(Box::new(node), least, most))
    }

    fn repetition(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let begin = self.at;
        Ok(match self.next() {
            Some('*') => Some((0, None)),
            Some('+') => Some((1, None)),
            Some('?') => Some((0, Some(1))),
            Some('{') => match self.counts() {
                Some((least, most)) => {
                    let too_many = least.max(most.unwrap_or(0)) > REPEAT_MAX;
                    if too_many || most.is_some_and(|most| most < least) {
                        return Err("invalid repeat count".into());
                    }
                    Some((least, most))
                }
                // Then it stands for itself.
                None => {
                    self.at = begin;
                    None
                }
            },
            _ => {
                self.at = begin;
                None
            }
        })
    }

    /// `n}`, `n,}` or `n,m}`.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let least = self.number()?;
        let most = match self.take(",") {
            false => Some(least),
            true if self.peek() == Some('}') => None,
            true => Some(self.number()?),
        };
        self.take("}").then_some((least, most))
    }

    fn number(&mut self) -> Option<u32> {
        let begin = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let digits: String = self.text[begin..self.at].iter().collect();
        match digits.is_empty() {
            true => None,
            // More than fits is too many in any case.
            false => Some(digits.parse().unwrap_or(u32::MAX)),
        }
    }

    fn atom(&mut self) -> Result<Node, String> {
        Ok(match self.next() {
            None => Node::Empty,
            Some('^') => Node::Assert(Assert::Start),
            Some('$') => Node::Assert(Assert::End),
            Some('.') => Node::One(Set { ranges: vec![('\n', '\n')], negated: true }),
            Some('[') => Node::One(self.class()?),
            Some('(') => self.group()?,
            Some(c @ ('*' | '+' | '?')) => {
                return Err(format!("missing argument to repetition operator: {c}"));
            }
            Some('\\') => self.escape()?,
            Some(c) => Node::One(self.one(c)),
        })
    }

    fn group(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("expression nests too deeply".into());
        }
        let outside = self.ignore_case;
        if self.take("?P<") || self.take("?<") {
            while !self.take(">") {
                let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
                self.next().filter(is_name).ok_or("invalid named capture")?;
            }
        } else if self.take("?") {
            let mut on = true;
            loop {
                match self.next() {
                    Some('i') => self.ignore_case = on,
                    // About lines, of which there is one, and about which of
                    // several matches it is.
                    Some('m' | 's' | 'U') => {}
                    Some('-') => on = false,
                    Some(':') => break,
                    Some(')') => {
                        // Until the end of the group around it.
                        self.depth -= 1;
                        return Ok(Node::Empty);
                    }
                    _ => return Err("invalid or unsupported Perl syntax".into()),
                }
            }
        }
        let node = self.alternatives()?;
        self.ignore_case = outside;
        self.depth -= 1;
        match self.take(")") {
            true => Ok(node),
            false => Err("missing closing )".into()),
        }
    }

    fn escape(&mut self) -> Result<Node, String> {
        Ok(match self.next() {
            Some('A') => Node::Assert(Assert::Start),
            Some('z') => Node::Assert(Assert::End),
            Some('b') => Node::Assert(Assert::WordBoundary),
            Some('B') => Node::Assert(Assert::NoWordBoundary),
            Some('Q') => {
                let mut nodes = Vec::new();
                while !self.take("\\E") {
                    let Some(c) = self.next() else { break };
                    nodes.push(Node::One(self.one(c)));
                }
                Node::All(nodes)
            }
            Some(c) => match perl_class(c) {
                Some(set) => Node::One(set),
                None => {
                    let c = self.escaped(c)?;
                    Node::One(self.one(c))
                }
            },
            None => return Err("trailing backslash at end of expression".into()),
        })
    }

    /// The character that `\c` stands for.
    fn escaped(&mut self, c: char) -> Result<char, String> {
        match c {
            'n' => Ok('\n'),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            c if c.is_ascii_punctuation() => Ok(c),
            c => Err(format!("invalid or unsupported escape sequence: \\{c}")),
        }
    }

    fn class(&mut self) -> Result<Set, String> {
        let mut set = Set { negated: self.take("^"), ranges: Vec::new() };
        let mut is_first = true;
        loop {
            let c = self.next().ok_or("missing closing ]")?;
            if c == ']' && !is_first {
                break;
            }
            is_first = false;
            if c == '[' && self.take(":") {
                set.ranges.extend(self.named_class()?);
                continue;
            }
            let low = match c {
                '\\' => {
                    let c = self.next().ok_or("missing closing ]")?;
                    match perl_class(c) {
                        Some(class) if class.negated => {
                            return Err(format!("\\{c} in brackets is not supported"));
                        }
                        Some(class) => {
                            set.ranges.extend(class.ranges);
                            continue;
                        }
                        None => self.escaped(c)?,
                    }
                }
                c => c,
            };
            let is_range = self.peek() == Some('-') && self.text.get(self.at + 1) != Some(&']');
            let high = match is_range {
                false => low,
                true => {
                    self.at += 1;
                    match self.next().ok_or("missing closing ]")? {
                        '\\' => {
                            let c = self.next().ok_or("missing closing ]")?;
                            self.escaped(c)?
                        }
                        c => c,
                    }
                }
            };
            if high < low {
                return Err(format!("invalid character class range: {low}-{high}"));
            }
            set.ranges.push((low, high));
        }
        if self.ignore_case {
            fold(&mut set.ranges);
        }
        Ok(set)
    }

    /// Behind `[:`.
    fn named_class(&mut self) -> Result<&'static [(char, char)], String> {
        let known = CLASSES.iter().find(|(name, _)| self.take(&format!("{name}:]")));
        known.map(|(_, ranges)| *ranges).ok_or_else(|| "invalid character class".into())
    }

    fn one(&self, c: char) -> Set {
        let mut ranges = vec![(c, c)];
        if self.ignore_case {
            fold(&mut ranges);
        }
        Set { ranges, negated: false }
    }
}

fn perl_class(c: char) -> Option<Set> {
    let ranges = match c.to_ascii_lowercase() {
        'd' => DIGITS,
        'w' => WORD,
        's' => SPACE,
        _ => return None,
    };
    Some(Set { ranges: ranges.to_vec(), negated: c.is_ascii_uppercase() })
}

/// Adds the letters of the ranges in the other case.
fn fold(ranges: &mut Vec<(char, char)>) {
    let of = |first: char, last: char, &(low, high): &(char, char)| {
        let (low, high) = (low.max(first), high.min(last));
        (low <= high).then_some((low, high))
    };
    let mut other = Vec::new();
    for range in ranges.iter() {
        let lower = of('a', 'z', range);
        other.extend(lower.map(|(l, h)| (l.to_ascii_uppercase(), h.to_ascii_uppercase())));
        let upper = of('A', 'Z', range);
        other.extend(upper.map(|(l, h)| (l.to_ascii_lowercase(), h.to_ascii_lowercase())));
    }
    ranges.extend(other);
}
