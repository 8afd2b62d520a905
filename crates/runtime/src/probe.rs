//! Asking a plugin which versions it speaks.

use cni::dispatch::Verb;
use cni::{Code, Error, Result, Version, config, delegate};
use serde::Deserialize;
use std::path::Path;

/// What plugins say that are older than VERSION itself.
const NO_VERSION_VERB: &str = "unknown CNI_COMMAND: VERSION";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply {
    #[serde(rename = "cniVersion")]
    version: String,
    #[serde(rename = "supportedVersions")]
    supported: Vec<String>,
}

/// Which versions the plugin `file` says it speaks.
///
/// # Errors
/// It cannot be run, or does not answer VERSION as the specification says.
pub fn versions_of(file: &Path) -> Result<Vec<String>> {
    // Old plugins insist on variables they do not use.
    let outcome = delegate::execute(file, br#"{"cniVersion":"1.1.0"}"#, &|command| {
        command
            .env("CNI_COMMAND", Verb::Version.as_str())
            .env("CNI_NETNS", "dummy")
            .env("CNI_IFNAME", "dummy")
            .env("CNI_PATH", "dummy");
    });
    let invalid = |what: String| {
        Error::new(Code::DECODE, format!("read the versions of {}: {what}", file.display()))
    };
    let stdout = match outcome {
        Err(e) if e.msg() == NO_VERSION_VERB => return Ok(vec![Version::V0_1_0.to_string()]),
        outcome => outcome?,
    };
    let value = config::parse(&stdout).map_err(|e| invalid(e.to_string()))?;
    let reply: Reply = config::decode(&value).map_err(|e| invalid(e.to_string()))?;
    match (reply.version.as_str(), reply.supported.is_empty()) {
        ("", _) => Err(invalid("its answer has no cniVersion".to_owned())),
        (_, false) => Ok(reply.supported),
        // The first version with VERSION did not ask for the list.
        ("0.2.0", true) => Ok(vec![Version::V0_1_0.to_string(), Version::V0_2_0.to_string()]),
        (_, true) => Err(invalid("its answer has no supportedVersions".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::tests::Folder;

    #[test]
    fn answers_of_all_ages() {
        let folder = Folder::new();
        let ask = |script: &str| versions_of(&folder.script("plugin", script));
        let list =
            |versions: &[&str]| Ok(versions.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            ask(r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","9.9.9"]}'"#),
            list(&["0.4.0", "9.9.9"])
        );
        assert_eq!(ask(r#"echo '{"cniVersion":"0.2.0"}'"#), list(&["0.1.0", "0.2.0"]));
        assert_eq!(
            ask(r#"echo "{\"code\":4,\"msg\":\"unknown CNI_COMMAND: $CNI_COMMAND\"}"; exit 1"#),
            list(&["0.1.0"])
        );
        for (script, culprit) in [
            ("echo '{}'", "no cniVersion"),
            (r#"echo '{"cniVersion":"1.0.0"}'"#, "no supportedVersions"),
            (r#"echo '{"cniVersion":1}'"#, "cniVersion"),
            ("echo nonsense", "read the versions of"),
            (r#"echo '{"code":7,"msg":"broken"}'; exit 1"#, "broken"),
        ] {
            let error = ask(script).expect_err(script);
            assert!(error.msg().contains(culprit), "{script}: {error}");
        }
    }
}
