//! Lines to nodes (BuildKit `frontend/dockerfile/parser/parser.go`, 0.25 and 0.8).

use crate::ast::{Dockerfile, Heredoc, Node, Warning};
use crate::directive::{Directive, DirectiveName, DirectiveParser};
use crate::error::{MAX_LINE, ParseError, ParseErrorKind};
use crate::node::{LineRules, parse_node};
use crate::options::{ParseOptions, Version};
use crate::source::{LineRange, Span};
use crate::text::{lossy, strip_bom};
use crate::words::Lexer;

/// Reads a Dockerfile as Docker 28.5 does.
///
/// ```
/// let file = rbuild_parser::parse(b"FROM busybox\nRUN echo one && \\\n    echo two\n")?;
/// assert_eq!(file.nodes[1].original, "RUN echo one &&     echo two");
/// assert_eq!(file.nodes[1].lines.end, 3);
/// # Ok::<(), rbuild_parser::ParseError>(())
/// ```
///
/// # Errors
///
/// What Docker refuses while it reads lines. What it refuses later on comes from
/// [`Dockerfile::instructions`].
pub fn parse(dockerfile: &[u8]) -> Result<Dockerfile, ParseError> {
    parse_with(dockerfile, ParseOptions::default())
}

/// Reads a Dockerfile by the given rules.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_with(dockerfile: &[u8], options: ParseOptions) -> Result<Dockerfile, ParseError> {
    Reader::new(dockerfile, options).read()
}

/// Gives lines with their ends, and stops at one that is too long.
struct Lines<'a> {
    data: &'a [u8],
    at: usize,
    too_long: bool,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<(usize, &'a [u8])> {
        let rest = &self.data[self.at..];
        if rest.is_empty() || self.too_long {
            return None;
        }
        // Docker reads into a buffer that must hold the line and its end.
        let window = &rest[..rest.len().min(MAX_LINE + 1)];
        let length = match window.iter().position(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if window.len() > MAX_LINE => {
                self.too_long = true;
                return None;
            }
            None => window.len(),
        };
        let start = self.at;
        self.at += length;
        Some((start, &rest[..length]))
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    options: ParseOptions,
    rules: LineRules,
    directive_parser: DirectiveParser,
    directives: Vec<Directive>,
    warnings: Vec<Warning>,
    /// Lines read so far.
    line: usize,
}

impl<'a> Reader<'a> {
    fn new(data: &'a [u8], options: ParseOptions) -> Self {
        Self {
            lines: Lines { data, at: 0, too_long: false },
            options,
            rules: LineRules { escape: '\\', version: options.version },
            directive_parser: DirectiveParser::default(),
            directives: Vec::new(),
            warnings: Vec::new(),
            line: 0,
        }
    }

    fn error(&self, kind: ParseErrorKind, start: usize, end: usize) -> ParseError {
        ParseError::reader(kind, LineRange::new(start, end), self.options.version)
    }

    fn read(mut self) -> Result<Dockerfile, ParseError> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut comments: Vec<String> = Vec::new();
        while let Some((offset, raw)) = self.lines.next() {
            let raw = if self.line == 0 { strip_bom(raw) } else { raw };
            if is_comment(raw) {
                // The first byte goes, which is a blank if the `#` is indented.
                let comment = lossy(&raw[1..]).trim().to_owned();
                if comment.is_empty() {
                    comments.clear();
                } else {
                    comments.push(comment);
                }
            }
            let text = lossy(self.trim_newline(raw));
            let text = text.trim_start();
            if self.directive(text, offset)? && self.options.version >= Version::V28 {
                comments.pop();
            }
            self.line += 1;
            let text = if text.starts_with('#') { "" } else { text };
            let (text, ends) = self.trim_continuation(text);
            if ends && text.is_empty() {
                continue;
            }
            let node = self.node(offset, text.to_owned(), ends)?;
            nodes.push(Node { comments: std::mem::take(&mut comments), ..node });
        }
        if nodes.is_empty() {
            return Err(self.error(ParseErrorKind::NoInstructions, self.line, 0));
        }
        if self.lines.too_long {
            return Err(self.error(ParseErrorKind::LineTooLong, self.line, 0));
        }
        Ok(Dockerfile {
            options: self.options,
            directives: self.directives,
            escape: self.rules.escape,
            nodes,
            warnings: self.warnings,
        })
    }

    /// Reads the rest of an instruction whose first line is given.
    fn node(&mut self, offset: usize, mut text: String, mut ends: bool) -> Result<Node, ParseError> {
        let start = self.line;
        let mut blank_line = false;
        while !ends {
            let Some((_, raw)) = self.lines.next() else {
                break;
            };
            self.line += 1;
            if is_comment(raw) {
                continue;
            }
            let more = lossy(self.trim_newline(raw));
            if more.trim_start().is_empty() {
                blank_line = true;
                continue;
            }
            let (more, end) = self.trim_continuation(&more);
            text.push_str(more);
            ends = end;
        }
        if blank_line {
            self.warnings.push(Warning::EmptyContinuation { instruction: text.clone(), line: self.line });
        }
        let mut node = parse_node(&text, self.rules).map_err(|kind| self.error(kind, start, self.line))?;
        if self.options.heredocs && can_contain_heredoc(&node) && text.contains("<<") {
            self.heredocs(&mut node, start)?;
        }
        node.lines = LineRange::new(start, self.line);
        node.span = Span {
            start: offset + self.indent(offset),
            end: offset + self.trim_newline(&self.lines.data[offset..self.lines.at]).len(),
        };
        Ok(node)
    }

    /// Bytes before the first character of an instruction: blanks, and the byte order mark.
    fn indent(&self, offset: usize) -> usize {
        let data = &self.lines.data[offset..self.lines.at];
        let text = if offset == 0 { strip_bom(data) } else { data };
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let blanks = match std::str::from_utf8(first) {
            Ok(first) => first.len() - first.trim_start().len(),
            Err(error) => {
                let valid = first.get(..error.valid_up_to()).unwrap_or_default();
                let valid = String::from_utf8_lossy(valid);
                valid.len() - valid.trim_start().len()
            }
        };
        data.len() - text.len() + blanks
    }

    fn heredocs(&mut self, node: &mut Node, start: usize) -> Result<(), ParseError> {
        let heredocs = heredocs_of_line(&node.original).map_err(|kind| self.error(kind, start, self.line))?;
        for mut heredoc in heredocs {
            let first = self.lines.at;
            loop {
                let at = self.lines.at;
                let Some((_, raw)) = self.lines.next() else {
                    return Err(self.error(ParseErrorKind::UnterminatedHeredoc, start, self.line));
                };
                self.line += 1;
                let mut terminator = trim_all_newlines(raw);
                if heredoc.chomp {
                    let tabs = terminator.iter().take_while(|&&byte| byte == b'\t').count();
                    terminator = &terminator[tabs..];
                }
                if terminator == heredoc.name.as_bytes() {
                    heredoc.content = self.lines.data[first..at].to_vec();
                    break;
                }
            }
            node.heredocs.push(heredoc);
        }
        Ok(())
    }

    /// Reads a directive, if the line is one; whether it is.
    fn directive(&mut self, text: &str, offset: usize) -> Result<bool, ParseError> {
        let found = self.directive_parser.line(text, "#").map_err(|name| {
            let name = name.as_str();
            self.error(ParseErrorKind::DuplicateDirective { name }, self.line, 0)
        })?;
        let Some((name, value)) = found else {
            return Ok(false);
        };
        if name == DirectiveName::Check && self.options.version == Version::V20 {
            // 20.10 does not know it, and looks for no further directive.
            self.directive_parser.stop();
            return Ok(false);
        }
        if name == DirectiveName::Escape {
            self.rules.escape = match value.as_str() {
                "\\" => '\\',
                "`" => '`',
                _ => {
                    let kind = ParseErrorKind::InvalidEscape { token: value };
                    return Err(self.error(kind, self.line, 0));
                }
            };
        }
        let start = offset + self.indent(offset);
        self.directives.push(Directive {
            name,
            value,
            lines: LineRange::line(self.line + 1),
            span: Span { start, end: offset + self.trim_newline(&self.lines.data[offset..self.lines.at]).len() },
        });
        Ok(true)
    }

    /// Cuts off the escape character at the end of a line, and blanks behind it; whether there is
    /// none, so that the instruction ends here.
    fn trim_continuation<'t>(&self, text: &'t str) -> (&'t str, bool) {
        let escape = self.rules.escape;
        match text.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(before) if !before.ends_with(escape) => (before, false),
            _ => (text, true),
        }
    }

    /// Cuts the line end off: 28 all of `\r` and `\n`, 20.10 one of each.
    fn trim_newline<'t>(&self, line: &'t [u8]) -> &'t [u8] {
        if self.options.version >= Version::V28 {
            return trim_all_newlines(line);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    }
}

fn trim_all_newlines(line: &[u8]) -> &[u8] {
    let kept = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
    &line[..kept]
}

fn is_comment(line: &[u8]) -> bool {
    lossy(line).trim_start().starts_with('#')
}

/// Whether `<<` means a here-document there: in RUN, COPY and ADD without JSON, or one of them
/// behind ONBUILD.
fn can_contain_heredoc(node: &Node) -> bool {
    let node = match &node.trigger {
        Some(trigger) => trigger,
        None => node,
    };
    !node.json && ["add", "copy", "run"].iter().any(|keyword| node.is(keyword))
}

/// The here-documents that a line begins, their bodies still empty.
fn heredocs_of_line(line: &str) -> Result<Vec<Heredoc>, ParseErrorKind> {
    // Here the escape character is a backslash whatever the directive says.
    let lexer = Lexer::new('\\').raw_quotes().raw_escapes().skip_unset();
    // A line that cannot be read, with a single apostrophe say, begins none.
    let words = lexer.process_words(line, &()).unwrap_or_default();
    let mut found = Vec::new();
    for word in words {
        found.extend(parse_heredoc(&word)?);
    }
    Ok(found)
}

/// Reads `<<WORD`, with its quotes.
pub(crate) fn parse_heredoc(word: &str) -> Result<Option<Heredoc>, ParseErrorKind> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (descriptor, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let lexer = Lexer::new('\\').skip_unset();
    let read = |lexer: Lexer| lexer.process_words(rest, &()).map_err(ParseErrorKind::HeredocWord);
    let plain = read(lexer)?;
    let [name] = &plain[..] else {
        return Ok(None);
    };
    let raw = read(lexer.raw_quotes())?;
    let [raw] = &raw[..] else {
        return Err(ParseErrorKind::HeredocInconsistent { word: rest.to_owned() });
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        file_descriptor: match descriptor {
            "" => 0,
            digits => digits.parse().unwrap_or(u64::MAX),
        },
        expand: quotes(name) == quotes(raw),
        chomp,
        content: Vec::new(),
    }))
}
