//! `CNI_ARGS`: `KEY=VALUE;KEY2=VALUE2`.
//!
//! Keys are case-sensitive. A key the plugin does not know is an error unless
//! `IgnoreUnknown=1` (or `true`) is among them; container runtimes send it
//! with their own keys.

use crate::{Code, Error, Result};

/// The pairs, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Args<'a> {
    /// Parses `raw`, accepting the keys in `known`.
    ///
    /// # Errors
    /// Code 4: a pair without exactly one `=`, an unknown key, or an
    /// `IgnoreUnknown` that is not a boolean. No error has a value in it: some are
    /// secret (CVE-2026-41184).
    pub fn parse(raw: &'a str, known: &[&str]) -> Result<Args<'a>> {
        let error =
            |text: String| Error::new(Code::INVALID_ENVIRONMENT, format!("parse CNI_ARGS: {text}"));
        let mut args = Args::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        if raw.is_empty() {
            return Ok(args);
        }
        for (pair, number) in raw.split(';').zip(1..) {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) if !value.contains('=') => (key, value),
                _ => return Err(error(format!("invalid pair {number}: it must be KEY=VALUE"))),
            };
            if key == "IgnoreUnknown" {
                ignore_unknown = match value.to_ascii_lowercase().as_str() {
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => {
                        return Err(error("IgnoreUnknown must be true, false, 1 or 0".into()));
                    }
                };
            } else if known.contains(&key) {
                args.pairs.push((key, value));
            } else {
                unknown.push(key);
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(error(format!(
                "unknown args {unknown:?}: this plugin knows {known:?}; IgnoreUnknown=1 ignores others"
            )));
        }
        Ok(args)
    }

    /// The value of `key`: the last one given, if it is not empty.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().rev().find(|(k, _)| *k == key).map(|(_, v)| *v).filter(|v| !v.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let args = Args::parse("IP=10.0.0.1;MAC=;IP=10.0.0.2", &["IP", "MAC"]).expect("valid");
        assert_eq!(
            (args.get("IP"), args.get("MAC"), args.get("X")),
            (Some("10.0.0.2"), None, None)
        );
        assert_eq!(Args::parse("", &[]), Ok(Args::default()));
        assert_eq!(Args::parse("A=1;IgnoreUnknown=TRUE;=", &[]), Ok(Args::default()));
        for (raw, culprit) in [
            ("FOO", "invalid pair 1:"),
            ("IP=1;A=B=C", "invalid pair 2:"),
            ("IP=1;", "invalid pair 2:"),
            ("ip=1", "unknown args [\"ip\"]"),
            ("A=1;B=2;IgnoreUnknown=0", "unknown args [\"A\", \"B\"]"),
            ("IgnoreUnknown=maybe", "IgnoreUnknown must be true"),
        ] {
            let error = Args::parse(raw, &["IP"]).expect_err(raw);
            assert_eq!(error.code(), Code::INVALID_ENVIRONMENT);
            assert!(error.msg().contains(culprit), "{raw}: {error}");
            assert!(!error.msg().contains("maybe") && !error.msg().contains("A="), "{error}");
        }
    }
}
