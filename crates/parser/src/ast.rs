//! The syntax tree: one [`Node`] an instruction, nothing interpreted yet.

use std::fmt;

use crate::directive::Directive;
use crate::options::ParseOptions;
use crate::source::{LineRange, Span};
use crate::text::lossy;

/// A parsed Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// What it was parsed as.
    pub options: ParseOptions,
    /// Parser directives, in order.
    pub directives: Vec<Directive>,
    /// The escape character: `\` or a backtick. Words are expanded with it.
    pub escape: char,
    /// Instructions, at least one.
    pub nodes: Vec<Node>,
    /// What Docker warns of while it reads lines.
    pub warnings: Vec<Warning>,
}

/// An instruction as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The keyword in the case it was written.
    pub keyword: String,
    /// Flags before the arguments, each with its leading `--`, quotes removed.
    pub flags: Vec<String>,
    /// The arguments, cut by the rule of the keyword. ENV and LABEL give triples of name, value
    /// and `=` (or nothing in the form `ENV name value`).
    pub args: Vec<String>,
    /// Whether the arguments were a JSON array.
    pub json: bool,
    /// The instruction that an ONBUILD postpones.
    pub trigger: Option<Box<Node>>,
    /// The text, continuation lines joined and comments removed; Docker's `Original`.
    pub original: String,
    /// Bodies of here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// Comment lines above, without `#`; cleared by an empty comment.
    pub comments: Vec<String>,
    /// Lines, here-documents included.
    pub lines: LineRange,
    /// Bytes, here-documents included.
    pub span: Span,
}

impl Node {
    /// Whether the keyword is this one, which must be given in lower case.
    #[must_use]
    pub fn is(&self, keyword: &str) -> bool {
        self.keyword.eq_ignore_ascii_case(keyword)
    }
}

/// A here-document.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminator.
    pub name: String,
    /// The number before `<<`, 0 without one.
    pub file_descriptor: u64,
    /// Whether variables in the body are expanded: no part of the terminator was quoted.
    pub expand: bool,
    /// Whether leading tabs are removed (`<<-`).
    pub chomp: bool,
    /// The body as it stands in the file, tabs kept, with its line ends.
    pub content: Vec<u8>,
}

impl fmt::Debug for Heredoc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heredoc")
            .field("name", &self.name)
            .field("file_descriptor", &self.file_descriptor)
            .field("expand", &self.expand)
            .field("chomp", &self.chomp)
            .field("content", &lossy(&self.content))
            .finish()
    }
}

impl Heredoc {
    /// The body, leading tabs of each line removed if `<<-` asked for it.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        if self.chomp { chomp_tabs(&self.content) } else { self.content.clone() }
    }
}

/// Removes the tabs at the start of each line.
#[must_use]
pub fn chomp_tabs(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    for line in content.split_inclusive(|&b| b == b'\n') {
        let tabs = line.iter().take_while(|&&b| b == b'\t').count();
        out.extend_from_slice(&line[tabs..]);
    }
    out
}

/// A warning of the line reader.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A blank line inside a continued instruction (`NoEmptyContinuation`).
    EmptyContinuation {
        /// The joined text of the instruction.
        instruction: String,
        /// The line that Docker names: the instruction's last.
        line: usize,
    },
}
