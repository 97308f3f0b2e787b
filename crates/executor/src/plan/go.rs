//! Go's formatting, which Docker's histories are written in.

use std::fmt::Write;

/// A string as `%q` (`strconv.Quote`).
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_escaped(&mut out, c, '"');
    }
    out.push('"');
    out
}

/// A number as `%q`, which takes it for a rune (`strconv.QuoteRune`).
pub(crate) fn quote_rune(number: i64) -> String {
    let c = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut out = String::from("'");
    push_escaped(&mut out, c, '\'');
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    match c {
        _ if c == quote || c == '\\' => out.extend(['\\', c]),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        _ if is_print(c) => out.push(c),
        // Writing to a string cannot fail.
        _ if u32::from(c) < 0x80 => drop(write!(out, "\\x{:02x}", u32::from(c))),
        _ if u32::from(c) < 0x1_0000 => drop(write!(out, "\\u{:04x}", u32::from(c))),
        _ => drop(write!(out, "\\U{:08x}", u32::from(c))),
    }
}

/// Go's `strconv.IsPrint`, but for unassigned code points, which no history should hold.
fn is_print(c: char) -> bool {
    match u32::from(c) {
        0x20..=0x7e => true,
        0..=0x9f => false,
        0xa0 | 0xad | 0x2028..=0x202f | 0x2000..=0x200f | 0x205f..=0x206f | 0x3000 | 0x1680 | 0xfeff => false,
        0xe000..=0xf8ff | 0xfff9..=0xffff | 0xe_0000..=0x10_ffff => false,
        _ => true,
    }
}

/// A kernel's error as Go words it.
pub(crate) fn errno_text(errno: i32) -> String {
    rbuild_logfmt::go_reason(&std::io::Error::from_raw_os_error(errno))
}

/// A list of strings as `%q`: `["a" "b"]`.
pub(crate) fn quote_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// A list of strings as `%v`: `[a b]`.
pub(crate) fn list(list: &[String]) -> String {
    format!("[{}]", list.join(" "))
}

/// A duration in nanoseconds as `time.Duration` prints itself: `1m30s`, `1.5s`, `0s`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    let total = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let fraction = |whole: u64, rest: u64, digits: usize| {
        let text = format!("{whole}.{rest:0digits$}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let text = match total {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(total / 1_000, total % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(total / 1_000_000, total % 1_000_000, 6)),
        _ => {
            let (seconds, rest) = (total / 1_000_000_000, total % 1_000_000_000);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let last = fraction(seconds % 60, rest, 9);
            match (hours, minutes) {
                (0, 0) => format!("{last}s"),
                (0, _) => format!("{minutes}m{last}s"),
                _ => format!("{hours}h{minutes}m{last}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// Go's `path.Clean`: the shortest path of the same meaning, lexically.
pub(crate) fn clean_path(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Go's `path.Join` of two elements.
pub(crate) fn join_path(base: &str, path: &str) -> String {
    match (base, path) {
        ("", "") => String::new(),
        ("", path) => clean_path(path),
        (base, "") => clean_path(base),
        (base, path) => clean_path(&format!("{base}/{path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(quote("a \"b\" \\ \n\u{1}é\u{200b}"), "\"a \\\"b\\\" \\\\ \\n\\x01é\\u200b\"");
        assert_eq!(quote_rune(2), "'\\x02'");
        assert_eq!(quote_rune(39), "'\\''");
        assert_eq!(quote_rune(10), "'\\n'");
        assert_eq!(quote_rune(65), "'A'");
        assert_eq!(quote_list(&["a".into(), "b c".into()]), "[\"a\" \"b c\"]");
    }

    #[test]
    fn durations() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (300_000_000_000, "5m0s"),
            (3_000_000_000, "3s"),
            (1_500_000_000, "1.5s"),
            (2_000_000, "2ms"),
            (1_500, "1.5µs"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_000_000_000, "-5s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn paths() {
        for (path, clean) in [("", "."), ("/", "/"), ("/../a", "/a"), ("a/../..", ".."), ("/a//b/./c/", "/a/b/c")] {
            assert_eq!(clean_path(path), clean);
        }
        assert_eq!(join_path("/a", "../b"), "/b");
        assert_eq!(join_path("", ""), "");
    }
}
