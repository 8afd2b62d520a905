//! Regular expressions of an allowlist, in Go's syntax (RE2), as far as lists
//! of sysctls need it. What is not understood is an error, so that a rule is
//! never taken for one that allows more.
//!
//! A pattern becomes a small program whose states are followed side by side
//! (Thompson's construction), so the time is that of pattern times text,
//! whatever the pattern.

mod parse;

/// Steps of the longest program: a few for each letter of the pattern, times
/// what is repeated.
const PROGRAM_MAX: usize = 20_000;

/// What a pattern is made of.
#[derive(Debug, Clone)]
enum Node {
    Empty,
    One(Set),
    Assert(Assert),
    All(Vec<Node>),
    Any(Vec<Node>),
    /// So many times at least, so many at most; `None` is any number.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// Characters, as inclusive ranges.
#[derive(Debug, Clone, Default)]
struct Set {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Set {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != self.negated
    }
}

/// What must hold between two characters.
#[derive(Debug, Clone, Copy)]
enum Assert {
    Start,
    End,
    WordBoundary,
    NoWordBoundary,
}

enum Step {
    One(Set),
    Assert(Assert),
    /// Goes on at both places.
    Split(usize, usize),
    Jump(usize),
    Match,
}

/// A pattern that was understood.
pub(crate) struct Pattern {
    program: Vec<Step>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, or not supported.
    pub(crate) fn new(text: &str) -> Result<Pattern, String> {
        let mut program = Vec::new();
        compile(&parse::parse(text)?, &mut program)?;
        program.push(Step::Match);
        Ok(Pattern { program })
    }

    /// Whether it is found anywhere in `text`.
    pub(crate) fn is_found_in(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut states: Vec<usize> = Vec::new();
        for at in 0..=text.len() {
            // A match may begin anywhere.
            states.push(0);
            let (reached, is_match) = self.follow(&states, &text, at);
            if is_match {
                return true;
            }
            let Some(&c) = text.get(at) else { break };
            states = reached.into_iter().filter(|&(_, set)| set.has(c)).map(|(n, _)| n).collect();
        }
        false
    }

    /// The characters wanted next, each with the state behind it; and whether
    /// the pattern is at its end.
    fn follow(&self, states: &[usize], text: &[char], at: usize) -> (Vec<(usize, &Set)>, bool) {
        let mut seen = vec![false; self.program.len()];
        let (mut open, mut reached) = (states.to_vec(), Vec::new());
        while let Some(state) = open.pop() {
            if std::mem::replace(&mut seen[state], true) {
                continue;
            }
            match &self.program[state] {
                Step::One(set) => reached.push((state + 1, set)),
                Step::Assert(assert) if assert.holds(text, at) => open.push(state + 1),
                Step::Assert(_) => {}
                Step::Split(one, other) => open.extend([*other, *one]),
                Step::Jump(to) => open.push(*to),
                Step::Match => return (reached, true),
            }
        }
        (reached, false)
    }
}

impl Assert {
    fn holds(self, text: &[char], at: usize) -> bool {
        let is_word = |c: Option<&char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_');
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        let is_boundary = is_word(before) != is_word(text.get(at));
        match self {
            Assert::Start => at == 0,
            Assert::End => at == text.len(),
            Assert::WordBoundary => is_boundary,
            Assert::NoWordBoundary => !is_boundary,
        }
    }
}

fn compile(node: &Node, program: &mut Vec<Step>) -> Result<(), String> {
    if program.len() > PROGRAM_MAX {
        return Err("expression too large".into());
    }
    match node {
        // Never without a step, so that repeating it ends at the limit.
        Node::Empty => program.push(Step::Jump(program.len() + 1)),
        Node::All(nodes) if nodes.is_empty() => compile(&Node::Empty, program)?,
        Node::One(set) => program.push(Step::One(set.clone())),
        Node::Assert(assert) => program.push(Step::Assert(*assert)),
        Node::All(nodes) => {
            for node in nodes {
                compile(node, program)?;
            }
        }
        Node::Any(nodes) => {
            let mut ends = Vec::new();
            for (nth, node) in nodes.iter().enumerate() {
                let split = program.len();
                let is_last = nth + 1 == nodes.len();
                if !is_last {
                    program.push(Step::Split(split + 1, 0));
                }
                compile(node, program)?;
                if !is_last {
                    ends.push(program.len());
                    program.push(Step::Jump(0));
                    program[split] = Step::Split(split + 1, program.len());
                }
            }
            for end in ends {
                program[end] = Step::Jump(program.len());
            }
        }
        Node::Repeat(node, least, most) => {
            for _ in 0..*least {
                compile(node, program)?;
            }
            match most {
                None => {
                    let split = program.len();
                    program.push(Step::Split(split + 1, 0));
                    compile(node, program)?;
                    program.push(Step::Jump(split));
                    program[split] = Step::Split(split + 1, program.len());
                }
                Some(most) => {
                    let mut splits = Vec::new();
                    for _ in *least..*most {
                        splits.push(program.len());
                        program.push(Step::Split(0, 0));
                        compile(node, program)?;
                    }
                    for split in splits {
                        program[split] = Step::Split(split + 1, program.len());
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
