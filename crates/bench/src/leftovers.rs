//! What a contender's host holds, to be compared after each cycle.

use crate::Outcome;
use crate::contender::Contender;
use crate::host::run;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Links, rules and files for data; to be called on the contender's host.
pub(crate) fn of(contender: &Contender) -> Outcome<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for line in run("ip", &["-brief", "link"], "")?.lines() {
        all.insert(format!("link {}", line.split_whitespace().next().unwrap_or_default()));
    }
    // With where it stands, so that a second one of a kind is another one.
    for (number, line) in run("nft", &["--stateless", "list", "ruleset"], "")?.lines().enumerate() {
        all.insert(format!("ruleset, line {number}: {}", line.trim()));
    }
    files(&contender.data, &mut all)?;
    Ok(all)
}

fn files(folder: &Path, all: &mut BTreeSet<String>) -> Outcome<()> {
    let failed = |e| format!("read {}: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            files(&entry.path(), all)?;
        } else {
            all.insert(format!("file {}", entry.path().display()));
        }
    }
    Ok(())
}
