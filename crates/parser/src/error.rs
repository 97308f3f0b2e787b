//! What can be wrong with a Dockerfile, as facts; Docker's words for it come from
//! [`ParseError::message`].

use std::fmt;

use crate::duration::DurationError;
use crate::mount::{DeviceError, MountError};
use crate::options::Version;
use crate::source::LineRange;
use crate::text::go_quote;
use crate::words::WordError;

/// The longest line that Docker reads, in bytes, its end not counted.
pub const MAX_LINE: usize = 64 * 1024 - 1;

/// A Dockerfile that Docker refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// What is wrong.
    pub kind: ParseErrorKind,
    /// The lines that Docker points at. A directive's error stands one line before it.
    pub lines: LineRange,
    /// Whose words [`fmt::Display`] uses.
    pub version: Version,
    /// Whether the message begins with the line: so do errors within an instruction, and errors of
    /// the line reader do not.
    pub names_line: bool,
}

impl ParseError {
    pub(crate) fn reader(kind: ParseErrorKind, lines: LineRange, version: Version) -> Self {
        Self { kind, lines, version, names_line: false }
    }

    /// Docker's message, without the `failed to …` that its callers put before it.
    #[must_use]
    pub fn message(&self, version: Version) -> String {
        let text = self.kind.message(version);
        match (self.names_line, version) {
            (false, _) => text,
            (true, Version::V28) => {
                format!("dockerfile parse error on line {}: {text}", self.lines.start)
            }
            (true, Version::V20) => {
                format!("dockerfile parse error line {}: {text}", self.lines.start)
            }
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message(self.version))
    }
}

/// What is wrong with a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// The same parser directive twice.
    DuplicateDirective {
        /// Its name, in lower case.
        name: &'static str,
    },
    /// An escape directive that names something else than a backslash or a backtick.
    InvalidEscape {
        /// What it names.
        token: String,
    },
    /// No instruction at all.
    NoInstructions,
    /// A line longer than [`MAX_LINE`].
    LineTooLong,
    /// A here-document whose terminator never comes.
    UnterminatedHeredoc,
    /// The word after `<<` cannot be read.
    HeredocWord(WordError),
    /// The word after `<<` reads differently with and without quotes.
    HeredocInconsistent {
        /// The word.
        word: String,
    },
    /// `ENV name` or `LABEL name` without a value.
    MissingValue {
        /// The instruction.
        instruction: &'static str,
    },
    /// A word without `=` among the `name=value` of ENV or LABEL.
    NoEqualsSign {
        /// The word.
        word: String,
    },
    /// A JSON array with something else than strings.
    NotStringArray,
    /// An instruction before the first FROM.
    NoStage,
    /// A keyword that does not exist.
    UnknownInstruction {
        /// The keyword as written.
        keyword: String,
        /// The nearest keyword there is.
        suggestion: Option<String>,
    },
    /// A flag that the instruction does not have.
    UnknownFlag {
        /// The flag with its dashes.
        flag: String,
        /// The nearest flag there is, without dashes.
        suggestion: Option<String>,
    },
    /// A flag given twice.
    DuplicateFlag {
        /// The flag with its dashes.
        flag: String,
    },
    /// A flag without the value it needs.
    FlagMissingValue {
        /// The flag with its dashes.
        flag: String,
    },
    /// A value other than `true` and `false`.
    FlagNotBoolean {
        /// The flag with its dashes.
        flag: String,
        /// The value.
        value: String,
    },
    /// An instruction without arguments.
    AtLeastOneArgument {
        /// The instruction.
        instruction: &'static str,
    },
    /// An instruction with no argument, or too many.
    ExactlyOneArgument {
        /// The instruction.
        instruction: &'static str,
    },
    /// COPY or ADD without a destination.
    NoDestination {
        /// The instruction.
        instruction: &'static str,
    },
    /// COPY or ADD into a here-document.
    HeredocDestination {
        /// The instruction.
        instruction: &'static str,
    },
    /// A variable or label without a name.
    BlankName {
        /// The instruction.
        instruction: &'static str,
    },
    /// A stage name that Docker does not allow.
    InvalidStageName {
        /// The name as written.
        name: String,
    },
    /// FROM with two, or more than three arguments, or something else than AS between them.
    FromArguments,
    /// `ONBUILD ONBUILD`.
    ChainedOnbuild,
    /// `ONBUILD FROM` and `ONBUILD MAINTAINER`.
    OnbuildTrigger {
        /// The instruction.
        instruction: String,
    },
    /// `HEALTHCHECK NONE` with arguments.
    HealthcheckNoneArguments,
    /// `HEALTHCHECK CMD` without a command.
    HealthcheckMissingCommand,
    /// HEALTHCHECK with neither CMD nor NONE.
    HealthcheckUnknownType {
        /// What stands there, in upper case.
        kind: String,
    },
    /// A duration that cannot be read.
    Duration(DurationError),
    /// A duration under a millisecond.
    IntervalTooShort {
        /// The flag, without dashes.
        flag: &'static str,
    },
    /// A number of retries that cannot be read.
    InvalidRetries {
        /// What stands there.
        value: String,
        /// Whether it is a number, too large for 32 bits.
        out_of_range: bool,
    },
    /// A number of retries too small: below 0, or in 20.10 below 1.
    RetriesTooSmall {
        /// The number.
        retries: i64,
    },
    /// An empty path in VOLUME.
    EmptyVolume,
    /// SHELL with something else than a JSON array.
    NotJson {
        /// The instruction.
        instruction: &'static str,
    },
    /// `RUN --mount` that is wrong whatever its variables are.
    Mount(MountError),
    /// `RUN --device` that cannot be read.
    Device(DeviceError),
    /// `RUN --network` with an unknown mode.
    InvalidNetwork {
        /// The mode.
        mode: String,
    },
    /// `RUN --security` with an unknown mode.
    InvalidSecurity {
        /// The mode.
        mode: String,
    },
    /// An ONBUILD trigger of an image that is not one instruction.
    TriggerNotSingle,
}

fn with_suggestion(text: String, suggestion: Option<&String>) -> String {
    match suggestion {
        Some(suggestion) => format!("{text} (did you mean {suggestion}?)"),
        None => text,
    }
}

/// 20.10 names flags without their dashes.
fn bare(flag: &str) -> &str {
    flag.trim_start_matches("--")
}

impl ParseErrorKind {
    /// Docker's words.
    #[must_use]
    pub fn message(&self, version: Version) -> String {
        let old = version == Version::V20;
        match self {
            Self::DuplicateDirective { name } => {
                format!("only one {name} parser directive can be used")
            }
            Self::InvalidEscape { token } => {
                format!("invalid escape token '{token}' does not match ` or \\")
            }
            Self::NoInstructions => "file with no instructions".to_owned(),
            Self::LineTooLong => {
                format!("dockerfile line greater than max allowed size of {MAX_LINE}")
            }
            Self::UnterminatedHeredoc => "unterminated heredoc".to_owned(),
            Self::HeredocWord(error) => error.to_string(),
            Self::HeredocInconsistent { word } => {
                format!("internal lexing of heredoc produced inconsistent results: {word}")
            }
            Self::MissingValue { instruction } => {
                format!("{instruction} must have two arguments")
            }
            Self::NoEqualsSign { word } => {
                format!("Syntax error - can't find = in {}. Must be of the form: name=value", go_quote(word))
            }
            Self::NotStringArray => "when using JSON array syntax, arrays must be comprised of strings only".to_owned(),
            Self::NoStage => "no build stage in current context".to_owned(),
            Self::UnknownInstruction { keyword, .. } if old => {
                format!("unknown instruction: {}", keyword.to_uppercase())
            }
            Self::UnknownInstruction { keyword, suggestion } => {
                with_suggestion(format!("unknown instruction: {keyword}"), suggestion.as_ref())
            }
            Self::UnknownFlag { flag, .. } if old => format!("Unknown flag: {}", bare(flag)),
            Self::UnknownFlag { flag, suggestion } => {
                with_suggestion(format!("unknown flag: {flag}"), suggestion.as_ref())
            }
            Self::DuplicateFlag { flag } if old => {
                format!("Duplicate flag specified: {}", bare(flag))
            }
            Self::DuplicateFlag { flag } => format!("duplicate flag specified: {flag}"),
            Self::FlagMissingValue { flag } if old => {
                format!("Missing a value on flag: {}", bare(flag))
            }
            Self::FlagMissingValue { flag } => format!("missing a value on flag: {flag}"),
            Self::FlagNotBoolean { flag, value } if old => {
                format!("Expecting boolean value for flag {}, not: {value}", bare(flag))
            }
            Self::FlagNotBoolean { flag, value } => {
                format!("expecting boolean value for flag {flag}, not: {value}")
            }
            Self::AtLeastOneArgument { instruction } => {
                format!("{instruction} requires at least one argument")
            }
            Self::ExactlyOneArgument { instruction } => {
                format!("{instruction} requires exactly one argument")
            }
            Self::NoDestination { instruction } => format!(
                "{instruction} requires at least two arguments, but only one was provided. \
                 Destination could not be determined"
            ),
            Self::HeredocDestination { instruction } => {
                format!("{instruction} cannot accept a heredoc as a destination")
            }
            Self::BlankName { instruction } => format!("{instruction} names can not be blank"),
            Self::InvalidStageName { name } => format!(
                "invalid name for build stage: {}, name can't start with a number or contain \
                 symbols",
                go_quote(name)
            ),
            Self::FromArguments => "FROM requires either one or three arguments".to_owned(),
            Self::ChainedOnbuild => "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned(),
            Self::OnbuildTrigger { instruction } => {
                format!("{instruction} isn't allowed as an ONBUILD trigger")
            }
            Self::HealthcheckNoneArguments => "HEALTHCHECK NONE takes no arguments".to_owned(),
            Self::HealthcheckMissingCommand => "Missing command after HEALTHCHECK CMD".to_owned(),
            Self::HealthcheckUnknownType { kind } => {
                format!("Unknown type {} in HEALTHCHECK (try CMD)", go_quote(kind))
            }
            Self::Duration(error) => error.to_string(),
            Self::IntervalTooShort { flag } => {
                format!("Interval {} cannot be less than 1ms", go_quote(flag))
            }
            Self::InvalidRetries { value, out_of_range } => format!(
                "strconv.ParseInt: parsing {}: {}",
                go_quote(value),
                if *out_of_range { "value out of range" } else { "invalid syntax" }
            ),
            Self::RetriesTooSmall { retries } if old => {
                format!("--retries must be at least 1 (not {retries})")
            }
            Self::RetriesTooSmall { retries } => {
                format!("--retries cannot be negative ({retries})")
            }
            Self::EmptyVolume => "VOLUME specified can not be an empty string".to_owned(),
            Self::NotJson { instruction } => {
                format!("{instruction} requires the arguments to be in JSON form")
            }
            Self::Mount(error) => error.message(version),
            Self::Device(error) => error.to_string(),
            Self::InvalidNetwork { mode } => format!("invalid network mode {}", go_quote(mode)),
            Self::InvalidSecurity { mode } => format!("security {} is not valid", go_quote(mode)),
            Self::TriggerNotSingle => "onbuild trigger should be a single expression".to_owned(),
        }
    }
}
