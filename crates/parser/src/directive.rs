//! Parser directives: comments such as `# syntax=docker/dockerfile:1` at the top of a file.
//!
//! Rules of BuildKit `frontend/dockerfile/parser/directives.go` at 0.25.

use serde::{Deserialize, Serialize};

use crate::json;
use crate::source::{LineRange, Span};
use crate::text::{lossy, strip_bom};

/// The directives that Docker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DirectiveName {
    /// `# syntax=IMAGE`: the front end that reads the file.
    Syntax,
    /// `# escape=CHAR`: backslash or backtick.
    Escape,
    /// `# check=…`: configuration of the lint rules.
    Check,
}

impl DirectiveName {
    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }

    fn from_key(key: &str) -> Option<Self> {
        [Self::Syntax, Self::Escape, Self::Check].into_iter().find(|name| name.as_str().eq_ignore_ascii_case(key))
    }
}

/// One directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Which.
    pub name: DirectiveName,
    /// Its value, blanks at the ends removed.
    pub value: String,
    /// Its line.
    pub lines: LineRange,
    /// Its bytes, without the line end.
    pub span: Span,
}

/// The front end that a file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// The image: the directive's value up to the first blank.
    pub image: String,
    /// The whole value.
    pub command_line: String,
    /// Where it stands.
    pub lines: LineRange,
}

impl Syntax {
    /// Whether the image is one of Docker's own `docker/dockerfile` (or its `-upstream`).
    #[must_use]
    pub fn is_docker_frontend(&self) -> bool {
        let name = self.image.split(['@', ':']).next().unwrap_or_default();
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
    }
}

/// Finds the directive of a line: `COMMENT key = value`, if the key is known.
pub(crate) fn parse_line(line: &str, comment: &str) -> Option<(DirectiveName, String)> {
    // Blanks are those of a regular expression's \s: no form other than ASCII.
    let blank = |c: char| matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let rest = line.strip_prefix(comment)?.trim_start_matches(blank);
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (key, rest) = rest.split_at(end);
    if !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let value = rest.trim_start_matches(blank).strip_prefix('=')?;
    // A value of blanks alone is still a value: the last of them.
    let trimmed = value.trim_matches(blank);
    let value =
        if trimmed.is_empty() { &value[value.len() - value.chars().next_back()?.len_utf8()..] } else { trimmed };
    if value.contains('\n') {
        return None;
    }
    Some((DirectiveName::from_key(key)?, value.to_owned()))
}

/// Reads directives line by line until something else comes.
#[derive(Debug, Default)]
pub(crate) struct DirectiveParser {
    seen: Vec<DirectiveName>,
    done: bool,
}

impl DirectiveParser {
    /// Looks for no further directive.
    pub(crate) fn stop(&mut self) {
        self.done = true;
    }

    /// The directive of this line; `Err` if the same was seen before.
    pub(crate) fn line(&mut self, line: &str, comment: &str) -> Result<Option<(DirectiveName, String)>, DirectiveName> {
        if self.done {
            return Ok(None);
        }
        let Some((name, value)) = parse_line(line, comment) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(name);
        }
        self.seen.push(name);
        Ok(Some((name, value)))
    }
}

/// Finds the `syntax` directive as BuildKit does before it parses: in `#` comments, in `//`
/// comments, or as a member of a JSON object; a `#!` line before is skipped.
#[must_use]
pub fn detect_syntax(dockerfile: &[u8]) -> Option<Syntax> {
    detect(dockerfile, DirectiveName::Syntax, true)
}

/// Finds the `check` directive, which BuildKit's linter reads before the parse.
#[must_use]
pub fn detect_check(dockerfile: &[u8]) -> Option<Syntax> {
    detect(dockerfile, DirectiveName::Check, false)
}

fn detect(dockerfile: &[u8], wanted: DirectiveName, any_form: bool) -> Option<Syntax> {
    let mut data = strip_bom(dockerfile);
    let mut offset = 0;
    if data.starts_with(b"#!") {
        let end = data.iter().position(|&b| b == b'\n');
        data = end.map_or(&[][..], |end| &data[end + 1..]);
        offset = 1;
    }
    let comments: &[&str] = if any_form { &["#", "//"] } else { &["#"] };
    for comment in comments {
        let mut parser = DirectiveParser::default();
        for (i, line) in data.split(|&b| b == b'\n').enumerate() {
            let line = lossy(line.strip_suffix(b"\r").unwrap_or(line));
            let Ok(Some((name, value))) = parser.line(&line, comment) else {
                break;
            };
            if name == wanted {
                let image = value.split(' ').next().unwrap_or_default().to_owned();
                return Some(Syntax { image, command_line: value, lines: LineRange::line(offset + i + 1) });
            }
        }
    }
    if !any_form {
        return None;
    }
    let value = json::string_member(&lossy(data), wanted.as_str())?;
    Some(Syntax { image: value.clone(), command_line: value, lines: LineRange::line(offset) })
}
