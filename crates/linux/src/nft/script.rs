//! The `nft` command, for the one thing that only it can do: read conditions
//! that a person wrote in nft's syntax.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, ErrorKind, Result};
use crate::iptables::SEARCH;

const OPERATION: &str = "execute nft -f -";

/// Where the command is, the first in [`SEARCH`].
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is none.
pub fn find() -> Result<PathBuf> {
    SEARCH.iter().map(|folder| Path::new(folder).join("nft")).find(|p| p.is_file()).ok_or_else(
        || {
            let cause = format!("no nft in {}", SEARCH.join(", "));
            Error::with_kind(OPERATION, ErrorKind::NotFound, cause).hint("install nftables")
        },
    )
}

/// Applies a script, all of it or nothing, like `nft -f -`. It acts on the
/// network namespace the calling thread is in. The command is looked for in
/// [`SEARCH`]; the environment is not looked at.
///
/// # Errors
///
/// [`is_not_found`](Error::is_not_found) when there is no such command,
/// [`is_exists`](Error::is_exists) when something the script makes is there,
/// `Invalid` when the command does not understand it, else what the command said.
pub fn apply(script: &str) -> Result<()> {
    let failed = |error: &std::io::Error| Error::from_io(OPERATION, error);
    let mut child = Command::new(find()?)
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(script.as_bytes()) {
            // It gave up half way, and will say why.
            Err(error) if error.kind() == IoErrorKind::BrokenPipe => {}
            Err(error) => return Err(failed(&error)),
            Ok(()) => {}
        }
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    // `/dev/stdin:7:12-18: Error: syntax error, ..`, the line, and marks below.
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.chars().all(|c| matches!(c, '^' | '~' | ' ')))
        .collect();
    let kind = match lines.iter().find(|line| line.contains("Could not process rule")) {
        None if lines.is_empty() => ErrorKind::Other,
        None => ErrorKind::Invalid,
        Some(line) if line.ends_with("File exists") => ErrorKind::Exists,
        Some(_) => ErrorKind::Other,
    };
    // Where in the script says nothing to anybody else.
    let said: Vec<&str> = lines
        .iter()
        .map(|line| line.split_once("Error: ").map_or(*line, |(_, what)| what))
        .collect();
    let cause = match said.as_slice() {
        [] => output.status.to_string(),
        said => said.join("; "),
    };
    Err(Error::with_kind(OPERATION, kind, cause))
}
