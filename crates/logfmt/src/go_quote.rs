//! Strings as Go's `%q` writes them.

use std::fmt::Write as _;

/// Quotes as Go's `strconv.Quote` does: printable characters stand for themselves, others are escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            ' '..='~' => out.push(c),
            c if (c as u32) < 0x80 => drop(write!(out, "\\x{:02x}", c as u32)),
            c if is_printable(c) => out.push(c),
            c if (c as u32) < 0x1_0000 => drop(write!(out, "\\u{:04x}", c as u32)),
            c => drop(write!(out, "\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// Whether Go's `unicode.IsPrint` holds for a character beyond ASCII, as far as texts of builds go: controls, spaces
/// other than U+0020, format characters, surrogates, private use and noncharacters are not printable.
fn is_printable(c: char) -> bool {
    let hidden = c.is_control()
        || c.is_whitespace()
        || matches!(
            c as u32,
            0xad | 0x600..=0x605
                | 0x61c
                | 0x6dd
                | 0x70f
                | 0x180e
                | 0x200b..=0x200f
                | 0x202a..=0x202e
                | 0x2060..=0x206f
                | 0xe000..=0xf8ff
                | 0xfeff
                | 0xfff0..=0xfffb
                | 0xfffe..=0xffff
                | 0xe0000..=0x10_ffff
        );
    !hidden
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quotes_like_go() {
        assert_eq!(quote("/bin/sh -c false"), r#""/bin/sh -c false""#);
        assert_eq!(quote("a\"b\\c\n\t\x01\x7f"), r#""a\"b\\c\n\t\x01\x7f""#);
        assert_eq!(quote("é…\u{a0}\u{200b}\u{1f600}\u{e0001}"), "\"é…\\u00a0\\u200b\u{1f600}\\U000e0001\"");
    }
}
