//! JSON as the reference library prints it: compact, `<`, `>`, `&`, U+2028
//! and U+2029 escaped, floating point numbers in Go's notation. Keys come out
//! sorted because maps are.

use serde::Serialize;
use serde_json::ser::Formatter;
use std::io::{self, Write};

/// Renders `value` on one line.
pub(crate) fn compact<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Go);
    value
        .serialize(&mut serializer)
        .expect("writing to a vector cannot fail, and keys are strings");
    out
}

struct Go;

impl Formatter for Go {
    /// Go's `encoding/json`: plain digits, with an exponent below 1e-6 and
    /// from 1e21 on.
    fn write_f64<W: ?Sized + Write>(&mut self, w: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size != 0.0 && !(1e-6..1e21).contains(&size) {
            let text = format!("{value:e}");
            return w
                .write_all(text.replacen('e', if size < 1.0 { "e" } else { "e+" }, 1).as_bytes());
        }
        write!(w, "{value}")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        w: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        cni::versions::escape(w, fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::compact;
    use cni::config;

    #[test]
    fn documents_print_as_the_reference_does() {
        for (given, printed) in [
            (r#"{"b": 1, "a": [ {"d":null , "c":true} ]}"#, r#"{"a":[{"c":true,"d":null}],"b":1}"#),
            (
                r#"[1.0, 1e3, 1e21, 1e20, 1e-7, 1e-6, -0.0, 1.5, -2]"#,
                "[1,1000,1e+21,100000000000000000000,1e-7,0.000001,-0,1.5,-2]",
            ),
            // The reference rounds this one to a float; we keep it.
            ("9007199254740993", "9007199254740993"),
            (r#""<a&b>\u2028é/\u0007""#, r#""\u003ca\u0026b\u003e\u2028é/\u0007""#),
        ] {
            let value = config::parse(given.as_bytes()).expect(given);
            assert_eq!(String::from_utf8_lossy(&compact(&value)), printed);
        }
    }
}
