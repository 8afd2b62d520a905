//! Characters beyond U+FFFF are escaped in JSON as pairs of surrogates (RFC 8259
//! section 7). One without the other is no character.

use std::borrow::Cow;

/// Bytes of `\uD800`.
const ESCAPE: usize = 6;

/// Puts `\uFFFD` where one half of a pair is escaped without the other. `text` is
/// what it was in all else, in particular as long as before.
pub(super) fn replace_lone(mut text: Cow<str>) -> Cow<str> {
    let mut at = 0;
    while let Some(next) = text[at..].find('\\') {
        at += next;
        at += match unit(&text[at..]) {
            // Whatever is escaped, the backslash of another escape among it.
            None => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            Some(0xd800..=0xdbff)
                if matches!(unit(&text[at + ESCAPE..]), Some(0xdc00..=0xdfff)) =>
            {
                2 * ESCAPE
            }
            Some(0xd800..=0xdfff) => {
                text.to_mut().replace_range(at..at + ESCAPE, r"\uFFFD");
                ESCAPE
            }
            Some(_) => ESCAPE,
        };
    }
    text
}

/// The UTF-16 unit whose escape `text` begins with.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(r"\u")?.get(..4)?;
    // `from_str_radix` takes a sign.
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hexadecimal.then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_halves_are_replaced() {
        for (text, replaced) in [
            ("", ""),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\uFFFD""#),
            (r#""\uDE00\ud83d""#, r#""\uFFFD\uFFFD""#),
            (r#""\ud83d\ud83d\ude00x""#, r#""\uFFFD\ud83d\ude00x""#),
            (r#""\\ud83d \\\ud83d""#, r#""\\ud83d \\\uFFFD""#),
            (r#""\ud83d\n\u00e4\u+d83""#, r#""\uFFFD\n\u00e4\u+d83""#),
            ("\\é\\ud8", "\\é\\ud8"),
            ("\\", "\\"),
            ("\\ud83", "\\ud83"),
        ] {
            assert_eq!(replace_lone(text.into()), replaced, "{text}");
        }
    }
}
