//! The CNI error object: a code the runtime may act on, a message and details
//! for the person who reads the log.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An error code of the specification, section "Error", or a plugin's own
/// (100 and above).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The version in the configuration is not one the plugin speaks.
    pub const INCOMPATIBLE_VERSION: Code = Code(1);
    /// A field of the configuration asks for what the plugin cannot do.
    pub const UNSUPPORTED_FIELD: Code = Code(2);
    /// The container is unknown; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Code = Code(3);
    /// A `CNI_*` variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: Code = Code(4);
    /// Reading or writing failed.
    pub const IO: Code = Code(5);
    /// The document could not be decoded.
    pub const DECODE: Code = Code(6);
    /// The configuration was decoded but is not valid.
    pub const INVALID_CONFIG: Code = Code(7);
    /// The network namespace is not usable (in libcni, not in the table of
    /// the specification).
    pub const INVALID_NETNS: Code = Code(8);
    /// A passing condition: the runtime should try again.
    pub const TRY_AGAIN: Code = Code(11);
    /// STATUS: ADD requests cannot be served now.
    pub const NOT_AVAILABLE: Code = Code(50);
    /// Everything else.
    pub const INTERNAL: Code = Code(999);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a plugin prints when it fails.
///
/// `msg` says operation, object, cause and hint in one line; `details` holds
/// what came on top, for example errors met while undoing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    code: Code,
    msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    details: String,
}

impl Error {
    /// An error with `code` and a one-line message.
    pub fn new(code: Code, msg: impl Into<String>) -> Error {
        Error { code, msg: msg.into(), details: String::new() }
    }

    /// An error of the plugin's own work, code 999.
    pub fn internal(msg: impl Into<String>) -> Error {
        Error::new(Code::INTERNAL, msg)
    }

    /// A configuration that was decoded but cannot be accepted, code 7.
    pub fn invalid_config(msg: impl Into<String>) -> Error {
        Error::new(Code::INVALID_CONFIG, msg)
    }

    /// STATUS: the plugin cannot serve ADD now, code 50.
    pub fn not_available(msg: impl Into<String>) -> Error {
        Error::new(Code::NOT_AVAILABLE, msg)
    }

    /// The same error with another code.
    pub fn with_code(mut self, code: Code) -> Error {
        self.code = code;
        self
    }

    /// The same error with `details` added after those it already has.
    pub fn with_details(mut self, details: impl AsRef<str>) -> Error {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(details.as_ref());
        self
    }

    /// The same error with `context: ` in front of its message; its code
    /// stays.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.msg = format!("{context}: {}", self.msg);
        self
    }

    /// The same error with each text of up to `limit` bytes, for one that somebody
    /// else wrote.
    pub(crate) fn shortened(self, limit: usize) -> Error {
        let short = |text: String| match cut(&text, limit, text.len()) {
            (_, rest) if rest.is_empty() => text,
            (start, rest) => format!("{start}{rest}"),
        };
        Error { code: self.code, msg: short(self.msg), details: short(self.details) }
    }

    /// What the runtime acts on.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The one-line message.
    pub fn msg(&self) -> &str {
        &self.msg
    }

    /// What came on top; empty when there is nothing.
    pub fn details(&self) -> &str {
        &self.details
    }

    /// What came of steps that were all taken, whatever each answered: the
    /// errors [joined](Error::join).
    ///
    /// # Errors
    /// Those of the steps.
    pub fn all<const N: usize>(outcomes: [Result<(), Error>; N]) -> Result<(), Error> {
        Error::join(outcomes.into_iter().filter_map(Result::err).collect())
    }

    /// Joins the errors of a teardown that went on after each of them: the
    /// first keeps its code and message, the rest become details.
    pub fn join(errors: Vec<Error>) -> Result<(), Error> {
        let mut errors = errors.into_iter();
        let Some(first) = errors.next() else { return Ok(()) };
        Err(errors.fold(first, |all, next| all.with_details(next.to_string())))
    }
}

/// The beginning of `text`, of up to `limit` bytes, and, where that is not all, a
/// note of the `total` it was cut from.
pub(crate) fn cut(text: &str, limit: usize, total: usize) -> (&str, String) {
    match text.floor_char_boundary(limit) {
        end if end == text.len() => (text, String::new()),
        end => (&text[..end], format!("... ({total} bytes in all)")),
    }
}

/// `msg`, or `msg; details`: as runtimes print it.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_cut_between_characters() {
        assert_eq!(cut("abc", 3, 3), ("abc", String::new()));
        assert_eq!(cut("abcd", 3, 9), ("abc", "... (9 bytes in all)".to_owned()));
        assert_eq!(cut("aé", 2, 3), ("a", "... (3 bytes in all)".to_owned()));
        let error = Error::internal("x".repeat(9)).with_details("y".repeat(8));
        let short = error.shortened(8);
        assert_eq!(short.msg(), "xxxxxxxx... (9 bytes in all)");
        assert_eq!((short.details(), short.code()), ("yyyyyyyy", Code::INTERNAL));
    }
}
