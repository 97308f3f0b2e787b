//! Flags of instructions: how they are cut off the line, and what they may be.

use std::borrow::Cow;

use crate::error::ParseErrorKind;
use crate::options::Version;
use crate::suggest::nearest;
use crate::text::{is_space_byte, lossy};

/// Cuts the words that begin with `--` off the arguments, and gives what follows them.
///
/// Docker works byte by byte here, each byte a Latin-1 character: a flag with other characters
/// than ASCII comes out garbled.
pub(crate) fn split_flags(line: &str, escape: char) -> (Vec<String>, Cow<'_, str>) {
    #[derive(PartialEq)]
    enum Phase {
        Spaces,
        Word,
        Quote(u8),
    }
    let bytes = line.as_bytes();
    // The end of a flag may lie within a character.
    let rest = |at: usize| match line.get(at..) {
        Some(rest) => Cow::Borrowed(rest),
        None => Cow::Owned(lossy(&bytes[at..])),
    };
    let is_escape = |byte: u8| char::from(byte) == escape;
    let mut flags = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    let mut phase = Phase::Spaces;
    let mut at = 0;
    while at < bytes.len() {
        let mut byte = bytes[at];
        if phase == Phase::Spaces {
            if is_space_byte(byte) {
                at += 1;
                continue;
            }
            if !bytes[at..].starts_with(b"--") {
                return (flags, rest(at));
            }
            phase = Phase::Word;
        }
        match phase {
            Phase::Word if is_space_byte(byte) => {
                phase = Phase::Spaces;
                let done = std::mem::take(&mut word);
                if done == "--" {
                    return (flags, rest(at));
                }
                if quoted || !done.is_empty() {
                    flags.push(done);
                }
                quoted = false;
                at += 1;
                continue;
            }
            Phase::Word if byte == b'\'' || byte == b'"' => {
                quoted = true;
                phase = Phase::Quote(byte);
                at += 1;
                continue;
            }
            Phase::Quote(quote) if byte == quote => {
                phase = Phase::Word;
                at += 1;
                continue;
            }
            _ => {}
        }
        if is_escape(byte) {
            at += 1;
            match bytes.get(at) {
                Some(&next) => byte = next,
                // An escape at the end is dropped.
                None => break,
            }
        }
        word.push(char::from(byte));
        at += 1;
    }
    if phase != Phase::Spaces && word != "--" && (quoted || !word.is_empty()) {
        flags.push(word);
    }
    (flags, Cow::Borrowed(""))
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagType {
    Bool,
    String,
    /// May be given several times.
    Strings,
}

/// The flags of one instruction, read.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    values: Vec<(&'static str, String)>,
}

impl Flags {
    /// Reads flags against the ones that the instruction has.
    pub(crate) fn parse(
        args: &[String],
        known: &[(&'static str, FlagType)],
        version: Version,
    ) -> Result<Self, ParseErrorKind> {
        let mut flags = Self::default();
        for arg in args {
            // Each begins with dashes and is no lone `--`: they were cut off that way. Quotes
            // inside of the dashes do not change that.
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg.as_str(), None),
            };
            let name = flag.get(2..).unwrap_or_default();
            let Some(&(name, flag_type)) = known.iter().find(|(known, _)| *known == name) else {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                return Err(ParseErrorKind::UnknownFlag {
                    flag: flag.to_owned(),
                    suggestion: (version >= Version::V28).then(|| nearest(name, &names).map(str::to_owned)).flatten(),
                });
            };
            let flag = flag.to_owned();
            if flag_type != FlagType::Strings && flags.is_used(name) {
                return Err(ParseErrorKind::DuplicateFlag { flag });
            }
            let value = match (flag_type, value) {
                (FlagType::Bool, None) => "true".to_owned(),
                (FlagType::Bool, Some("")) | (_, None) => {
                    return Err(ParseErrorKind::FlagMissingValue { flag });
                }
                (FlagType::Bool, Some(value)) => match value.to_lowercase().as_str() {
                    lower @ ("true" | "false") => lower.to_owned(),
                    _ => {
                        return Err(ParseErrorKind::FlagNotBoolean { flag, value: value.to_owned() });
                    }
                },
                (_, Some(value)) => value.to_owned(),
            };
            flags.values.push((name, value));
        }
        Ok(flags)
    }

    fn is_used(&self, name: &str) -> bool {
        self.values.iter().any(|(used, _)| *used == name)
    }

    /// The value, `None` if it was not given or is empty.
    pub(crate) fn string(&self, name: &str) -> Option<String> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// Whether it was given, and as what.
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.all(name).next().map(|value| value == "true")
    }

    /// All values in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = String> {
        self.values.iter().filter(move |(used, _)| *used == name).map(|(_, value)| value.clone())
    }

    /// Names of the flags given, each once.
    pub(crate) fn used(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in &self.values {
            if !names.iter().any(|seen| seen == name) {
                names.push((*name).to_owned());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_flags_off() {
        for (line, flags, rest) in [
            ("a --b", &[][..], "a --b"),
            ("--x --y=1  a", &["--x", "--y=1"], "a"),
            ("--x=\"a b\" c", &["--x=a b"], "c"),
            ("--x='a' -- --y", &["--x=a"], " --y"),
            ("--", &[], ""),
            ("--x=a\\ b c", &["--x=a b"], "c"),
            ("--x=\"a\\", &["--x=a"], ""),
            ("-x a", &[], "-x a"),
            ("--x=\u{e9} a", &["--x=\u{c3}\u{a9}"], "a"),
            ("--x=\u{e0}b c", &["--x=\u{c3}"], "b c"),
            ("--\"\" a", &[], " a"),
        ] {
            let expected: Vec<String> = flags.iter().map(ToString::to_string).collect();
            assert_eq!(split_flags(line, '\\'), (expected, Cow::Borrowed(rest)), "{line}");
        }
    }
}
