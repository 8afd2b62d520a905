//! A line diff for failure messages.

use std::fmt::Write as _;

/// Unchanged lines shown round a change.
const CONTEXT: usize = 1;

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Both,
    Before,
    After,
}

/// What changed from `before` to `after`, line by line, with `-` and `+` as in
/// `diff -u`; `None` when they are equal.
#[must_use]
pub fn unified_diff(before: &[String], after: &[String]) -> Option<String> {
    if before == after {
        return None;
    }
    let lines = merge(before, after);
    let mut text = String::new();
    let mut last_shown = None;
    for (index, (side, line)) in lines.iter().enumerate() {
        let from = index.saturating_sub(CONTEXT);
        let to = (index + CONTEXT + 1).min(lines.len());
        if lines[from..to].iter().all(|(side, _)| *side == Side::Both) {
            continue;
        }
        if last_shown.is_some_and(|shown| shown + 1 != index) {
            text.push_str("  ...\n");
        }
        last_shown = Some(index);
        let mark = match side {
            Side::Both => ' ',
            Side::Before => '-',
            Side::After => '+',
        };
        writeln!(text, "{mark} {line}").expect("writing to a string");
    }
    Some(text)
}

/// Both texts merged along their longest common subsequence.
fn merge<'a>(before: &'a [String], after: &'a [String]) -> Vec<(Side, &'a str)> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let tail = before[head..]
        .iter()
        .rev()
        .zip(after[head..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let old = &before[head..before.len() - tail];
    let new = &after[head..after.len() - tail];

    // lengths[i][j]: the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if old[i] == new[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }

    let mut lines: Vec<_> = before[..head].iter().map(|l| (Side::Both, l.as_str())).collect();
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((Side::Both, old[i].as_str()));
            i += 1;
            j += 1;
        } else if j == new.len() || (i < old.len() && lengths[i + 1][j] >= lengths[i][j + 1]) {
            lines.push((Side::Before, old[i].as_str()));
            i += 1;
        } else {
            lines.push((Side::After, new[j].as_str()));
            j += 1;
        }
    }
    lines.extend(before[before.len() - tail..].iter().map(|l| (Side::Both, l.as_str())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn equal_texts_have_no_diff() {
        assert_eq!(unified_diff(&lines("a b"), &lines("a b")), None);
    }

    #[test]
    fn a_change_is_shown_with_its_surroundings() {
        let diff = unified_diff(&lines("a b c d e f g"), &lines("a b X d e f g Y"));
        assert_eq!(diff.as_deref(), Some("  b\n- c\n+ X\n  d\n  ...\n  g\n+ Y\n"));
    }
}
