//! JSON arrays of strings, as Go's `encoding/json` reads them: Docker falls back to the shell form
//! where Go finds an error, so that Go's own notion of an error counts.

use std::iter::Peekable;
use std::str::CharIndices;

/// Go's limit of nesting.
const MAX_DEPTH: usize = 10_000;

/// What stands where an array of strings may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Array {
    /// Not a JSON array.
    No,
    /// A JSON array with something else than strings.
    Mixed,
    /// An array of strings.
    Strings(Vec<String>),
}

/// Whether text may follow the array: 20.10 ignored it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trailing {
    Refuse,
    Ignore,
}

/// Reads an array of strings.
pub(crate) fn string_array(text: &str, trailing: Trailing) -> Array {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Array::No;
    }
    let mut reader = Reader::new(text);
    let mut strings = Vec::new();
    let mut mixed = false;
    let read = reader.value(&mut |depth, key, string| {
        debug_assert!(key.is_none() || depth > 1);
        if depth == 1 {
            match string {
                Some(string) => strings.push(string),
                None => mixed = true,
            }
        }
    });
    match read {
        Some(()) if trailing == Trailing::Ignore || reader.at_end() => {
            if mixed {
                Array::Mixed
            } else {
                Array::Strings(strings)
            }
        }
        _ => Array::No,
    }
}

/// Reads a member of an object that is the whole text, if it is a string. Of several, the last.
pub(crate) fn string_member(text: &str, name: &str) -> Option<String> {
    let mut reader = Reader::new(text);
    reader.blanks();
    if reader.peek() != Some('{') {
        return None;
    }
    let mut found = None;
    reader.value(&mut |depth, key, string| {
        if depth == 1 && key == Some(name) {
            found = string;
        }
    })?;
    reader.at_end().then_some(found).flatten()
}

struct Reader<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
}

/// Told of each value: its depth, the name of the member it is, and its text if it is a string.
type Visit<'v> = dyn FnMut(usize, Option<&str>, Option<String>) + 'v;

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, chars: text.char_indices().peekable() }
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|&(_, c)| c)
    }

    fn next(&mut self) -> Option<char> {
        self.chars.next().map(|(_, c)| c)
    }

    fn offset(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |&(at, _)| at)
    }

    fn blanks(&mut self) {
        while self.chars.next_if(|&(_, c)| matches!(c, ' ' | '\t' | '\r' | '\n')).is_some() {}
    }

    fn at_end(&mut self) -> bool {
        self.blanks();
        self.peek().is_none()
    }

    /// Reads one value of any kind. Nesting is kept on a list, not on the stack.
    fn value(&mut self, visit: &mut Visit<'_>) -> Option<()> {
        // The closing character of each open array or object.
        let mut open: Vec<char> = Vec::new();
        let mut key: Option<String> = None;
        loop {
            self.blanks();
            let depth = open.len();
            let opened = match self.peek()? {
                '[' => Some(']'),
                '{' => Some('}'),
                '"' => {
                    let string = self.string()?;
                    visit(depth, key.as_deref(), Some(string));
                    None
                }
                _ => {
                    self.scalar()?;
                    visit(depth, key.as_deref(), None);
                    None
                }
            };
            key = None;
            if let Some(close) = opened {
                self.next();
                visit(depth, None, None);
                open.push(close);
                if open.len() > MAX_DEPTH {
                    return None;
                }
                self.blanks();
                if self.peek() != Some(close) {
                    if close == '}' {
                        key = Some(self.key()?);
                    }
                    continue;
                }
            }
            // Behind a value: close what ends here, or go on behind a comma.
            loop {
                let Some(&close) = open.last() else {
                    return Some(());
                };
                self.blanks();
                match self.next()? {
                    c if c == close => {
                        open.pop();
                    }
                    ',' => {
                        self.blanks();
                        if close == '}' {
                            key = Some(self.key()?);
                        }
                        break;
                    }
                    _ => return None,
                }
            }
        }
    }

    fn key(&mut self) -> Option<String> {
        if self.peek()? != '"' {
            return None;
        }
        let key = self.string()?;
        self.blanks();
        (self.next()? == ':').then_some(key)
    }

    fn string(&mut self) -> Option<String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next()? {
                '"' => return Some(text),
                '\\' => match self.next()? {
                    c @ ('"' | '\\' | '/') => text.push(c),
                    'b' => text.push('\x08'),
                    'f' => text.push('\x0c'),
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    'u' => {
                        let unit = self.hex()?;
                        self.push_unit(&mut text, unit)?;
                    }
                    _ => return None,
                },
                c if c < ' ' => return None,
                c => text.push(c),
            }
        }
    }

    /// Adds a UTF-16 unit, with its other half if that follows; a half alone becomes U+FFFD.
    fn push_unit(&mut self, text: &mut String, mut unit: u32) -> Option<()> {
        while (0xD800..0xDC00).contains(&unit) && self.text[self.offset()..].starts_with("\\u") {
            self.next();
            self.next();
            let low = self.hex()?;
            if (0xDC00..0xE000).contains(&low) {
                let code = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                return Some(());
            }
            text.push(char::REPLACEMENT_CHARACTER);
            unit = low;
        }
        text.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        Some(())
    }

    fn hex(&mut self) -> Option<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + self.next()?.to_digit(16)?;
        }
        Some(unit)
    }

    fn scalar(&mut self) -> Option<()> {
        let start = self.offset();
        for word in ["true", "false", "null"] {
            if self.text[start..].starts_with(word) {
                for _ in word.chars() {
                    self.next();
                }
                return Some(());
            }
        }
        self.number()?;
        let end = self.offset();
        // Go refuses numbers that its floating point cannot hold.
        let number: f64 = self.text[start..end].parse().ok()?;
        number.is_finite().then_some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some('-') {
            self.next();
        }
        if self.peek()? == '0' {
            self.next();
        } else {
            self.digits()?;
        }
        if self.peek() == Some('.') {
            self.next();
            self.digits()?;
        }
        if let Some('e' | 'E') = self.peek() {
            self.next();
            if let Some('+' | '-') = self.peek() {
                self.next();
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        if !self.peek()?.is_ascii_digit() {
            return None;
        }
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.next();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Array {
        Array::Strings(items.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn reads_arrays() {
        for (text, expected) in [
            ("[]", strings(&[])),
            (" [ ] ", strings(&[])),
            (r#"["a", "b c"]"#, strings(&["a", "b c"])),
            (r#"["\u00e9\ud83d\ude00\n\/"]"#, strings(&["é\u{1F600}\n/"])),
            (r#"["\ud83dx\udc00"]"#, strings(&["\u{fffd}x\u{fffd}"])),
            (r#"["\ud83d\u0041"]"#, strings(&["\u{fffd}A"])),
            (r#"["a", 1]"#, Array::Mixed),
            ("[null]", Array::Mixed),
            ("[true,false]", Array::Mixed),
            (r#"["a", ["b"]]"#, Array::Mixed),
            (r#"[{"a": {"b": []}}]"#, Array::Mixed),
            ("[-1.5e+3, 0]", Array::Mixed),
            ("", Array::No),
            ("a", Array::No),
            ("[", Array::No),
            (r#"["a",]"#, Array::No),
            (r#"["a"] b"#, Array::No),
            ("['a']", Array::No),
            (r#"["a" "b"]"#, Array::No),
            (r#"["\x"]"#, Array::No),
            ("[\"a\tb\"]", Array::No),
            ("[01]", Array::No),
            ("[1e999]", Array::No),
            ("[nul]", Array::No),
            ("[{\"a\"}]", Array::No),
            ("[{,}]", Array::No),
        ] {
            assert_eq!(string_array(text, Trailing::Refuse), expected, "{text}");
        }
        assert_eq!(string_array(r#"["a"] b"#, Trailing::Ignore), strings(&["a"]));
    }

    #[test]
    fn deep_nesting_is_refused_without_a_deep_stack() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(string_array(&deep(10_000), Trailing::Refuse), Array::Mixed);
        assert_eq!(string_array(&deep(10_001), Trailing::Refuse), Array::No);
        assert_eq!(string_array(&"[".repeat(1_000_000), Trailing::Refuse), Array::No);
    }

    #[test]
    fn reads_members() {
        let text = " {\"a\": [\"syntax\"], \"syntax\": \"x\", \"b\": {\"syntax\": \"no\"}}\n";
        assert_eq!(string_member(text, "syntax").as_deref(), Some("x"));
        assert_eq!(string_member("{\"syntax\": 1}", "syntax"), None);
        assert_eq!(string_member("{\"syntax\": \"x\"} y", "syntax"), None);
        assert_eq!(string_member("[\"syntax\"]", "syntax"), None);
    }
}
