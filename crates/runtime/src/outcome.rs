//! A result on its way through a chain, always in the version of the list.

use cni::{Code, Error, Result, Success, Version, config, versions};
use serde_json::Value;

/// What a chain made: the result of its last plugin, in the version of the
/// configuration list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    success: Success,
    version: Version,
    /// A result without any address, in a version that requires one: it came
    /// like that, and goes on like that.
    bare: bool,
}

impl Outcome {
    /// Reads what a plugin printed for ADD, and converts it to `version` when
    /// the plugin answered in another.
    pub(crate) fn read(stdout: &[u8], version: Version) -> Result<Outcome> {
        let value = config::parse(stdout)
            .map_err(|e| Error::new(Code::DECODE, format!("read its result: {e}")))?;
        if let Some(error) = mistaken_error(&value) {
            return Err(error.context("it exited with status 0 but printed an error"));
        }
        Outcome::convert(&value, version, version)
    }

    /// Reads a cached result; one without a version is the oldest.
    pub(crate) fn cached(value: Option<&Value>, version: Version) -> Result<Outcome> {
        Outcome::convert(value.unwrap_or(&Value::Null), Version::V0_1_0, version)
    }

    fn convert(value: &Value, default: Version, version: Version) -> Result<Outcome> {
        let success = versions::parse_result(value, default)?;
        let from = config::get(value, "cniVersion")
            .and_then(Value::as_str)
            .and_then(|text| if text.is_empty() { None } else { text.parse().ok() })
            .unwrap_or(default);
        let bare = success.ips.is_empty() && version <= Version::V0_2_0;
        if bare && from > Version::V0_2_0 {
            // The error is the one of the conversion.
            versions::narrow(success.clone(), version)?;
        }
        Ok(Outcome { success, version, bare })
    }

    /// The result in the newest shape.
    pub fn success(&self) -> &Success {
        &self.success
    }

    /// The version it is printed in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// As `prevResult` and in the cache.
    pub(crate) fn to_value(&self) -> Value {
        if self.bare {
            // Versions up to 0.4.0 write the rest of it alike.
            let rest = Success { dns: self.success.dns.clone(), ..Success::default() };
            let mut value =
                versions::to_value(&rest, Version::V0_4_0).expect("nothing needs an address");
            value["cniVersion"] = self.version.as_str().into();
            return value;
        }
        versions::to_value(&self.success, self.version).expect("it has an address, or needs none")
    }

    /// As runtimes print it: 4 spaces, no newline at the end.
    pub fn render(&self) -> Vec<u8> {
        match self.bare {
            true => versions::pretty(&self.to_value()),
            false => versions::render(&self.success, self.version)
                .expect("it has an address, or needs none"),
        }
    }
}

/// An error object where a result should be.
fn mistaken_error(value: &Value) -> Option<Error> {
    let error: Error = serde_json::from_value(value.clone()).ok()?;
    (error.code() != Code(0) && !error.msg().is_empty()).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value, version: Version) -> Result<Outcome> {
        Outcome::read(value.to_string().as_bytes(), version)
    }

    #[test]
    fn results_take_the_version_of_the_list() {
        let one =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}]});
        for (version, ips) in [
            (Version::V1_1_0, json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]})),
            (
                Version::V0_3_1,
                json!({"cniVersion": "0.3.1", "dns": {},
                "ips": [{"version": "4", "address": "10.0.0.2/24"}]}),
            ),
            (
                Version::V0_2_0,
                json!({"cniVersion": "0.2.0", "dns": {}, "ip4": {"ip": "10.0.0.2/24"}}),
            ),
        ] {
            let outcome = read(one.clone(), version).expect("convertible");
            assert_eq!(outcome.to_value(), ips);
            assert_eq!(serde_json::from_slice::<Value>(&outcome.render()).expect("JSON"), ips);
        }
        // Without a version it is the list's.
        let outcome = read(json!({"ips": [{"address": "fd00::1/64"}]}), Version::V1_0_0);
        assert_eq!(outcome.expect("valid").to_value()["cniVersion"], "1.0.0");
        assert_eq!(
            read(json!(null), Version::V1_0_0).expect("empty").success(),
            &Success::default()
        );
    }

    #[test]
    fn a_result_without_an_address_is_only_refused_where_it_must_be() {
        let old = read(json!({"cniVersion": "0.2.0", "dns": {"domain": "d"}}), Version::V0_1_0);
        let old = old.expect("as it came");
        assert_eq!(old.to_value(), json!({"cniVersion": "0.1.0", "dns": {"domain": "d"}}));
        assert_eq!(
            String::from_utf8_lossy(&old.render()),
            "{\n    \"cniVersion\": \"0.1.0\",\n    \"dns\": {\n        \"domain\": \"d\"\n    }\n}"
        );
        let error = read(json!({"cniVersion": "0.4.0", "dns": {}}), Version::V0_2_0);
        assert!(error.expect_err("no address").msg().contains("no address"));
    }

    #[test]
    fn what_is_no_result_is_an_error() {
        for (stdout, culprit) in [
            ("", "EOF"),
            ("[]", "not a JSON object"),
            ("{} {}", "trailing"),
            (r#"{"cniVersion":"9.0.0"}"#, "9.0.0"),
            (r#"{"cniVersion":"1.0.0","ips":[{"address":"x"}]}"#, "x"),
            (r#"{"code":7,"msg":"broken"}"#, "broken"),
        ] {
            let error = Outcome::read(stdout.as_bytes(), Version::V1_1_0).expect_err(stdout);
            assert!(error.to_string().contains(culprit), "{stdout}: {error}");
        }
    }
}
