//! What is wrong with a list, found before a container needs it.

use crate::chain::Runtime;
use crate::list::{ConfigList, LIST_KEYS, PluginConfig, is_runtimes_own};
use cni::{Version, config, delegate};
use serde_json::Value;
use std::fmt;
use std::os::unix::fs::PermissionsExt;

/// Something a person should know about a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Would an ADD fail?
    pub fatal: bool,
    /// What, where, and what to do about it.
    pub text: String,
}

impl Finding {
    fn error(text: String) -> Finding {
        Finding { fatal: true, text }
    }

    fn warning(text: String) -> Finding {
        Finding { fatal: false, text }
    }
}

/// `error: ..` or `warning: ..`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.fatal { "error" } else { "warning" }, self.text)
    }
}

/// Looks for versions nobody speaks, plugins that are missing, and keys that
/// do not do what they seem to. Asks each plugin for its VERSION, nothing
/// else.
pub fn lint(runtime: &Runtime, list: &ConfigList) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(e) = list.version() {
        findings.push(Finding::error(e.to_string()));
    }
    lint_keys(list, &mut findings);
    for (at, plugin) in list.plugins().iter().enumerate() {
        let place = format!("plugins[{at}] {:?}", plugin.kind());
        lint_executable(runtime, list, &place, plugin.kind(), &mut findings);
        if let Some(ipam) = plugin.ipam() {
            lint_executable(runtime, list, &format!("{place}: ipam {ipam:?}"), ipam, &mut findings);
        }
        lint_plugin(plugin, &place, &mut findings);
    }
    findings
}

/// Keys of the list, and those of plugins that only the runtime writes; looked
/// for in the file, for a list that was read has lost them.
fn lint_keys(list: &ConfigList, findings: &mut Vec<Finding>) {
    let Ok(Value::Object(document)) = config::parse(list.bytes()) else { return };
    for key in document.keys().filter(|key| !LIST_KEYS.contains(&key.as_str())) {
        let close = LIST_KEYS.iter().find(|known| known.eq_ignore_ascii_case(key));
        findings.push(Finding::warning(match close {
            Some(known) => format!("key {key:?} is ignored: it is written {known:?}"),
            None => format!("key {key:?} is not one of a list and is ignored"),
        }));
    }
    let plugins = document.get("plugins").and_then(Value::as_array).into_iter().flatten();
    for (at, plugin) in plugins.enumerate() {
        for key in plugin.as_object().into_iter().flat_map(|plugin| plugin.keys()) {
            let harmless = ["name", "cniVersion", "capabilities"];
            if is_runtimes_own(key) && !harmless.iter().any(|own| key.eq_ignore_ascii_case(own)) {
                findings.push(Finding::warning(format!(
                    "plugins[{at}]: key {key:?} is only for the runtime to write and is left out"
                )));
            }
        }
    }
}

fn lint_plugin(plugin: &PluginConfig, place: &str, findings: &mut Vec<Finding>) {
    // CONVENTIONS.md of the specification's repository, "Well-known
    // Capabilities", and those of the reference plugins.
    const KNOWN: &[&str] = &[
        "aliases",
        "bandwidth",
        "cgroupPath",
        "deviceID",
        "dns",
        "infinibandGUID",
        "ipRanges",
        "ips",
        "mac",
        "portMappings",
    ];
    for capability in plugin.capabilities().iter().filter(|c| !KNOWN.contains(&c.as_str())) {
        let close = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(capability));
        let hint = close.map(|known| format!(": it is written {known:?}")).unwrap_or_default();
        findings.push(Finding::warning(format!(
            "{place}: capability {capability:?} is not a well-known one{hint}"
        )));
    }
}

fn lint_executable(
    runtime: &Runtime,
    list: &ConfigList,
    place: &str,
    kind: &str,
    findings: &mut Vec<Finding>,
) {
    let file = match delegate::find_file(runtime.path(), kind) {
        Ok(file) => file,
        Err(e) => return findings.push(Finding::error(format!("{place}: {e}"))),
    };
    if file.metadata().is_ok_and(|m| m.permissions().mode() & 0o111 == 0) {
        return findings.push(Finding::error(format!(
            "{place}: {} is not executable: chmod +x it",
            file.display()
        )));
    }
    let wanted = match list.version_text() {
        "" => Version::V0_1_0.as_str(),
        wanted => wanted,
    };
    match crate::probe::versions_of(&file) {
        Err(e) => findings.push(Finding::error(format!("{place}: {e}"))),
        Ok(spoken) if !spoken.iter().any(|version| version == wanted) => {
            findings.push(Finding::error(format!(
                "{place}: {} does not speak version {wanted:?}, only {}",
                file.display(),
                spoken.join(", ")
            )));
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::lint;
    use crate::chain::tests::Folder;
    use crate::{ConfigList, Runtime};

    #[test]
    fn what_would_fail_is_found() {
        let folder = Folder::new();
        let speak = |versions: &str| {
            format!(r#"echo '{{"cniVersion":"1.1.0","supportedVersions":[{versions}]}}'"#)
        };
        folder.script("good", &speak(r#""0.4.0","1.1.0""#));
        folder.script("old", &speak(r#""0.4.0""#));
        std::fs::write(folder.path().join("flat"), "").expect("our folder");
        let runtime = Runtime::new(folder.path(), folder.path());
        let found = |text: &str| {
            let list = ConfigList::parse(text.as_bytes()).expect(text);
            lint(&runtime, &list).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            found(
                r#"{"name":"n","cniVersion":"1.1.0","plugins":[
                    {"type":"good","ipam":{"type":"good"},"capabilities":{"ips":true,"x":false}}]}"#
            ),
            Vec::<String>::new()
        );
        for (text, culprit) in [
            (
                r#"{"name":"n","cniVersion":"1.2.0","plugins":[{"type":"good"}]}"#,
                "error: network \"n\": its cniVersion",
            ),
            (
                r#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"none"}]}"#,
                "error: plugins[0] \"none\": find plugin",
            ),
            (
                r#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"flat"}]}"#,
                "is not executable",
            ),
            (
                r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"good","ipam":{"type":"old"}}]}"#,
                "ipam \"old\": ",
            ),
            (
                r#"{"name":"n","cniVersion":"0.4.0","disablecheck":1,"plugins":[{"type":"good"}]}"#,
                "warning: key \"disablecheck\" is ignored: it is written \"disableCheck\"",
            ),
            (
                r#"{"name":"n","cniVersion":"0.4.0","x":1,"plugins":[{"type":"good"}]}"#,
                "warning: key \"x\" is not one of a list",
            ),
            (
                r#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"good","prevresult":{}}]}"#,
                "warning: plugins[0]: key \"prevresult\"",
            ),
            (
                r#"{"name":"n","cniVersion":"0.4.0","plugins":[{"type":"good","capabilities":{"portmappings":true}}]}"#,
                "it is written \"portMappings\"",
            ),
        ] {
            let found = found(text);
            assert!(found.iter().any(|f| f.contains(culprit)), "{text}: {found:?}");
        }
    }
}
