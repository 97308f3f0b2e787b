//! Bytes as Go's strings see them: decoding, blanks and quoting.

/// Decodes UTF-8 as Go does: each byte that is not part of a character becomes U+FFFD.
#[must_use]
pub fn lossy(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    out
}

/// Drops a byte order mark.
pub(crate) fn strip_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Whether a byte, taken as a Latin-1 character, is a blank. Docker cuts flags byte by byte.
pub(crate) fn is_space_byte(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0x85 | 0xA0)
}

/// Whether a character separates arguments: `[\t\v\f\r ]`.
pub(crate) fn is_separator(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Cuts at runs of separators, into at most `limit` parts. A separator at an end gives an empty
/// part, as with Go's `Regexp.Split`.
pub(crate) fn split_separators(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while parts.len() + 1 < limit {
        let Some(at) = rest.find(is_separator) else {
            break;
        };
        parts.push(&rest[..at]);
        rest = rest[at..].trim_start_matches(is_separator);
    }
    parts.push(rest);
    parts
}

/// Quotes as Go's `%q` does.
#[must_use]
pub fn go_quote(text: &str) -> String {
    use std::fmt::Write as _;

    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                // Writing to a String cannot fail.
                let _ = if code < 0x20 || code == 0x7f {
                    write!(out, "\\x{code:02x}")
                } else if code < 0x1_0000 {
                    write!(out, "\\u{code:04x}")
                } else {
                    write!(out, "\\U{code:08x}")
                };
            }
        }
    }
    out.push('"');
    out
}

/// Go's `unicode.IsPrint`: no control, format, private or unassigned character, no blank but the
/// ASCII space.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // The standard library escapes the same categories; a leading letter keeps it from escaping
    // combining marks too.
    let mut buffer = ['a'; 2];
    buffer[1] = c;
    let text: String = buffer.iter().collect();
    text.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        for (text, quoted) in [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a\"\\", r#""a\"\\""#),
            ("\t\n\x00\x7f", r#""\t\n\x00\x7f""#),
            ("é", "\"é\""),
            ("\u{a0}", r#""\u00a0""#),
            ("e\u{301}", "\"e\u{301}\""),
            ("\u{200b}", r#""\u200b""#),
            ("\u{1F600}\u{10FFFD}", "\"\u{1F600}\\U0010fffd\""),
        ] {
            assert_eq!(go_quote(text), quoted);
        }
    }

    #[test]
    fn invalid_bytes_become_one_mark_each() {
        assert_eq!(lossy(b"a\xe2\x82z\xff"), "a\u{fffd}\u{fffd}z\u{fffd}");
    }

    #[test]
    fn splits_as_a_regular_expression_does() {
        assert_eq!(split_separators("a \t b  c", 2), ["a", "b  c"]);
        assert_eq!(split_separators("a b", 1), ["a b"]);
        assert_eq!(split_separators("", 9), [""]);
        assert_eq!(split_separators("a ", 9), ["a", ""]);
    }
}
