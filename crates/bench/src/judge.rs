//! Whether what was measured is what was asked for.

use crate::contender::Who;
use crate::measure::{Results, Row};
use crate::scenario::{Need, Scenario, Verb};
use std::collections::BTreeSet;

/// One need of one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) needed: String,
    /// `None` when it could not be measured.
    pub(crate) measured: Option<String>,
    pub(crate) passed: bool,
}

/// All that was measured, to be referred to.
pub(crate) type Measured<'a> = &'a [(&'a Scenario, &'a Results)];

/// Judges one need of one row.
pub(crate) fn judge(
    need: Need,
    verb: Verb,
    (scenario, results): (&Scenario, &Results),
    all: Measured<'_>,
) -> Verdict {
    let row = &results.rows[&verb];
    let ours = ms(row, Who::Ours);
    let other = |name: &str| {
        let (_, results) = all.iter().find(|(other, _)| other.name() == name)?;
        ms(results.rows.get(&verb)?, Who::Ours)
    };
    match need {
        Need::Faster(times) => at_least(ratio(ms(row, Who::Peer), ours), times),
        Need::Slower(times) => at_most(ratio(ours, ms(row, Who::Peer)), times, "times the peer's"),
        Need::NoMoreProcesses => {
            let count = |who| Some(row.counts.get(&who)?["processes"]);
            let (count, peer) = (count(Who::Ours), count(Who::Peer));
            Verdict {
                needed: "as many processes".to_owned(),
                measured: count.filter(|_| peer.is_some()).map(|count| count.to_string()),
                passed: peer.is_some() && count <= peer,
            }
        }
        Need::Growth { than, times } => {
            at_most(ratio(ours, other(than)), times, &format!("times {}", short(scenario, than)))
        }
        Need::Within { than, ms } => {
            at_most(difference(ours, other(than)), ms, &format!("ms over {than}"))
        }
        Need::LinkDeletion { ms: most } => {
            at_most(difference(ours, ms(row, Who::Link)), most, "ms over ip link del")
        }
        Need::AtMost { counter, most } => {
            let count = row.counts.get(&Who::Ours).map(|counts| counts[counter]);
            Verdict {
                needed: format!("at most {most} {counter}"),
                measured: count.map(|count| count.to_string()),
                passed: count.is_some_and(|count| count <= most),
            }
        }
        Need::NoDuplicate => none("no duplicate", ours.and(results.duplicates.get(&Who::Ours))),
        Need::NothingLeft => none("nothing left", ours.and(results.left.get(&Who::Ours))),
    }
}

/// Of what must not be found; that nothing was looked for is no success.
fn none(needed: &str, found: Option<&BTreeSet<String>>) -> Verdict {
    Verdict {
        needed: needed.to_owned(),
        measured: found.map(|found| found.len().to_string()),
        passed: found.is_some_and(BTreeSet::is_empty),
    }
}

/// The circumstance alone, of a scenario with the same subject.
fn short<'a>(scenario: &Scenario, than: &'a str) -> &'a str {
    than.strip_prefix(scenario.subject).map_or(than, |rest| rest.trim_start_matches(", "))
}

/// The first quartile in milliseconds.
pub(crate) fn ms(row: &Row, who: Who) -> Option<f64> {
    row.summary(who).map(|summary| summary.q25.as_secs_f64() * 1000.0)
}

/// How many times `larger` is `smaller`.
pub(crate) fn ratio(larger: Option<f64>, smaller: Option<f64>) -> Option<f64> {
    Some(larger? / smaller?)
}

fn difference(left: Option<f64>, right: Option<f64>) -> Option<f64> {
    Some(left? - right?)
}

fn at_least(measured: Option<f64>, times: f64) -> Verdict {
    Verdict {
        needed: format!("at least {times} times faster"),
        measured: measured.map(|times| format!("{times:.1}")),
        passed: measured.is_some_and(|measured| measured >= times),
    }
}

fn at_most(measured: Option<f64>, most: f64, unit: &str) -> Verdict {
    Verdict {
        needed: format!("at most {most} {unit}"),
        measured: measured.map(|measured| format!("{measured:.2}")),
        passed: measured.is_some_and(|measured| measured <= most),
    }
}
