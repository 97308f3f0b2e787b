//! Reads Dockerfiles as Docker does: text to a syntax tree with lines and byte spans, the tree to
//! typed instructions, words to their expansion, and ignore files to a matcher.
//!
//! What it does not do: no file, clock or environment variable is touched, nothing is built or
//! printed. Everything works on bytes it is given, never panics on them, and answers errors as
//! facts, whose Docker-visible words are [`ParseError::message`] and the like.
//!
//! ```
//! use rbuild_parser::{InstructionKind, parse};
//!
//! let file = parse(b"FROM busybox AS base\nCOPY --chown=1 a b /dest/\n")?;
//! let stages = file.instructions()?.stages;
//! assert_eq!(stages[0].name.as_deref(), Some("base"));
//! let InstructionKind::Copy(copy) = &stages[0].instructions[0].kind else { panic!() };
//! assert_eq!((copy.paths.sources.len(), copy.paths.dest.as_str()), (2, "/dest/"));
//!
//! let error = parse(b"FROM busybox\nCOPPY a b\n")?.instructions().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)"
//! );
//! # Ok::<(), rbuild_parser::ParseError>(())
//! ```
#![forbid(unsafe_code)]

pub mod args;
mod ast;
mod csv;
mod directive;
mod duration;
mod error;
mod flags;
pub mod glob;
mod go_regex;
pub mod ignore;
mod instruction;
mod json;
pub mod legacy;
pub mod lint;
pub mod mount;
mod node;
mod options;
mod parse;
mod shell_pattern;
mod source;
pub mod suggest;
mod text;
mod typed;
pub mod words;

pub use ast::{Dockerfile, Heredoc, Node, Warning, chomp_tabs};
pub use csv::CsvError;
pub use directive::{Directive, DirectiveName, Syntax, detect_check, detect_syntax};
pub use duration::{DurationError, parse_duration};
pub use error::{MAX_LINE, ParseError, ParseErrorKind};
pub use instruction::{
    Add, ArgVariable, CommandLine, Copy, Healthcheck, InlineFile, Instruction, InstructionKind, Instructions, KeyValue,
    Network, Run, Security, SourceContent, SourcesAndDest, Stage,
};
pub use options::{ParseOptions, Version};
pub use parse::{parse, parse_with};
pub use source::{LineRange, Span};
pub use text::{go_quote, lossy};
pub use typed::{KEYWORDS, parse_trigger};
