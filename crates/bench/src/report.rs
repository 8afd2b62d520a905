//! What was found, as text for people and as JSON for programs.

use crate::contender::Who;
use crate::counts::{Counts, SHOWN};
use crate::installed::Installed;
use crate::judge::{Measured, Verdict, judge, ms, ratio};
use crate::measure::Row;
use crate::rows::{INSTALLED_KIB, PEAK_KIB};
use crate::stats::Summary;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Everything that is reported.
pub(crate) struct Report<'a> {
    /// What the numbers depend on, a line each.
    pub(crate) conditions: Vec<String>,
    pub(crate) measured: Measured<'a>,
    pub(crate) installed: [Installed; 2],
}

/// How many needs came out how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) missed: usize,
    /// Rows that could not be measured, for one side at least.
    pub(crate) failed: usize,
}

impl Report<'_> {
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        let of_rows = self.rows().flat_map(|(.., verdicts)| verdicts);
        for verdict in of_rows.chain([self.peak(), self.size()]) {
            match verdict {
                Verdict { passed: true, .. } => tally.passed += 1,
                Verdict { measured: None, .. } => (),
                Verdict { .. } => tally.missed += 1,
            }
        }
        tally.failed = self.measured.iter().map(|(_, results)| results.failures.len()).sum();
        tally
    }

    pub(crate) fn text(&self) -> String {
        let mut text = self.conditions.join("\n");
        text.push_str("\n\n");
        text.push_str(&self.times());
        text.push('\n');
        text.push_str(&self.counts());
        text.push('\n');
        for (what, verdict) in [
            ("peak memory of any verb of ours, without iptables' programs", self.peak()),
            ("all plugins installed", self.size()),
        ] {
            let _ = writeln!(text, "{what}: {}", shown(&verdict));
        }
        let [ours, peer] = &self.installed;
        let _ = writeln!(
            text,
            "  (ours {} names, {} KiB; the peer's {} of the same names {} KiB)",
            ours.names.len(),
            ours.bytes.div_ceil(1024),
            peer.names.len(),
            peer.bytes.div_ceil(1024)
        );
        for (scenario, results) in self.measured {
            for (what, all) in [("DUPLICATE", &results.duplicates), ("LEFT", &results.left)] {
                for (who, found) in all.iter().filter(|(_, found)| !found.is_empty()) {
                    let _ = writeln!(text, "{what}, {}: {found:?}", who.name());
                }
            }
            for (who, reason) in &results.failures {
                let _ = writeln!(text, "FAILED: {}, {}: {reason}", scenario.name(), who.name());
            }
        }
        let Tally { passed, missed, failed } = self.tally();
        let _ = writeln!(text, "\n{passed} passed, {missed} missed, {failed} failed to run");
        text
    }

    /// Name, what was measured, verdicts.
    fn rows(&self) -> impl Iterator<Item = (String, &Row, Vec<Verdict>)> {
        self.measured.iter().flat_map(|(scenario, results)| {
            scenario.verbs.iter().map(|(verb, needs)| {
                let judge = |need: &_| judge(*need, *verb, (scenario, results), self.measured);
                let row = &results.rows[verb];
                (scenario.row(*verb), row, needs.iter().map(judge).collect())
            })
        })
    }

    fn times(&self) -> String {
        let head = ["milliseconds, q25 / median", "ours", "peer", "times", "cpu times", "needed"];
        let mut lines = vec![head.map(str::to_owned)];
        for (name, row, verdicts) in self.rows() {
            let cpu = |who| row.summary(who).map(|summary| summary.cpu.as_secs_f64());
            let cpu = ratio(cpu(Who::Peer), cpu(Who::Ours));
            let verdicts: Vec<_> = verdicts.iter().map(shown).collect();
            let times = |times: Option<f64>| times.map_or_else(String::new, |t| format!("{t:.1}"));
            lines.push([
                name,
                pair(row.summary(Who::Ours)),
                pair(row.summary(Who::Peer)),
                times(ratio(ms(row, Who::Peer), ms(row, Who::Ours))),
                times(cpu),
                verdicts.join("; "),
            ]);
            if let Some(summary) = row.summary(Who::Link) {
                let name = "  ip link del of such a link".to_owned();
                let none = String::new;
                lines.push([name, pair(Some(summary)), none(), none(), none(), none()]);
            }
        }
        table(&lines)
    }

    fn counts(&self) -> String {
        let mut head = vec!["counts and KiB, ours / peer".to_owned()];
        head.extend(SHOWN.map(str::to_owned));
        head.push("peak KiB".to_owned());
        let mut lines = vec![head];
        for (name, row, _) in self.rows() {
            if row.counts.is_empty() && row.peak.is_empty() {
                continue;
            }
            let both = |of: &dyn Fn(Who) -> Option<String>| {
                let text = |who| of(who).unwrap_or_else(|| "-".to_owned());
                format!("{} / {}", text(Who::Ours), text(Who::Peer))
            };
            let mut line = vec![name];
            for counter in SHOWN {
                let count = |counts: &Counts| counts[counter].to_string();
                line.push(both(&|who| row.counts.get(&who).map(count)));
            }
            line.push(both(&|who| row.peak.get(&who).map(u64::to_string)));
            lines.push(line);
        }
        table(&lines)
    }

    /// Of our own programs: what waits for iptables' has the peak of these.
    fn peak(&self) -> Verdict {
        let alone = self.measured.iter().filter(|(scenario, _)| !scenario.by_iptables);
        let rows = alone.flat_map(|(_, results)| results.rows.values());
        kib(rows.filter_map(|row| row.peak.get(&Who::Ours).copied()).max(), PEAK_KIB)
    }

    fn size(&self) -> Verdict {
        kib(Some(self.installed[0].bytes.div_ceil(1024)), INSTALLED_KIB)
    }

    pub(crate) fn json(&self) -> Value {
        let verdict = |verdict: &Verdict| {
            json!({
                "needed": verdict.needed,
                "measured": verdict.measured,
                "passed": verdict.passed,
            })
        };
        let side = |row: &Row, who| {
            let summary = row.summary(who)?;
            let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
            Some(json!({
                "runs": summary.runs,
                "q25_ms": ms(summary.q25),
                "median_ms": ms(summary.median),
                "cpu_median_ms": ms(summary.cpu),
                "peak_kib": row.peak.get(&who),
                "counts": row.counts.get(&who),
            }))
        };
        let rows: Vec<_> = self
            .rows()
            .map(|(name, row, verdicts)| {
                json!({
                    "name": name,
                    "ours": side(row, Who::Ours),
                    "peer": side(row, Who::Peer),
                    "ip_link_del": side(row, Who::Link),
                    "needs": verdicts.iter().map(verdict).collect::<Vec<_>>(),
                })
            })
            .collect();
        let failures: Vec<_> = self
            .measured
            .iter()
            .flat_map(|(scenario, results)| {
                results.failures.iter().map(|(who, reason)| {
                    json!({"scenario": scenario.name(), "who": who.name(), "reason": reason})
                })
            })
            .collect();
        let size =
            |installed: &Installed| json!({"names": installed.names, "bytes": installed.bytes});
        json!({
            "conditions": self.conditions,
            "rows": rows,
            "peak": verdict(&self.peak()),
            "installed": {
                "need": verdict(&self.size()),
                "ours": size(&self.installed[0]),
                "peer": size(&self.installed[1]),
            },
            "failures": failures,
        })
    }
}

fn kib(measured: Option<u64>, most: u64) -> Verdict {
    Verdict {
        needed: format!("at most {most} KiB"),
        measured: measured.map(|kib| kib.to_string()),
        passed: measured.is_some_and(|kib| kib <= most),
    }
}

fn shown(Verdict { needed, measured, passed }: &Verdict) -> String {
    match measured {
        None => format!("not measured ({needed})"),
        Some(measured) => {
            format!("{} {measured} ({needed})", if *passed { "PASS" } else { "MISS" })
        }
    }
}

fn pair(summary: Option<Summary>) -> String {
    let Some(Summary { q25, median, .. }) = summary else { return "-".to_owned() };
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
    format!("{:.2} / {:.2}", ms(q25), ms(median))
}

/// Columns two spaces apart, the first to the left, numbers to the right, the
/// last not filled up.
fn table<Line: AsRef<[String]>>(lines: &[Line]) -> String {
    let columns = lines.first().map_or(0, |line| line.as_ref().len());
    let width = |column: usize| {
        lines.iter().map(|line| line.as_ref()[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        for (column, (cell, width)) in line.as_ref().iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(shown, "{cell:<width$}"),
                _ if column + 1 == columns => write!(shown, "  {cell}"),
                _ => write!(shown, "  {cell:>width$}"),
            };
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}
