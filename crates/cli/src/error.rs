//! What ends the program, and the exit code of each.

use std::error::Error;

use rbuild_executor::RunError;
use rbuild_executor::logfmt::event::{Dialect, Outcome};
use rbuild_executor::manage::ManageError;
use rbuild_logfmt::EventsError;

use crate::args::ArgsError;
use crate::convert::ConvertError;
use crate::logs::LogFileError;
use crate::output::WriteError;
use crate::results::ResultFileError;

/// Why the program ends otherwise than well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// The command line is not understood.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The flags make no sense together.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A build ended otherwise than well; its log has said why.
    #[error("the build failed")]
    Build {
        /// How it ended.
        outcome: Box<Outcome>,
        /// Whose exit codes hold.
        dialect: Dialect,
    },
    /// A signal ended what was being done; the log has said so.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// Which.
        signal: i32,
    },
    /// A command that was run ended otherwise than well.
    #[error("the command ended with exit code {code}")]
    Ended {
        /// Its exit code.
        code: u8,
    },
    /// A command could not be run.
    #[error(transparent)]
    Executor(#[from] RunError),
    /// Files could not be taken out of an image.
    #[error(transparent)]
    Take(RunError),
    /// Something could not be done with a working container.
    #[error(transparent)]
    Container(RunError),
    /// `cp` of something that is no image with a path.
    #[error("`{0}` is no image with a path in it")]
    NoImagePath(String),
    /// Anything that ends `run` but its command.
    #[error(transparent)]
    Run(Box<CliError>),
    /// `run -it` without a terminal.
    #[error("the input device is not a TTY")]
    NotATerminal,
    /// The worker of a build was lost.
    #[error("{message}")]
    Worker {
        /// What happened: a line for each cause.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Another operation failed.
    #[error(transparent)]
    Manage(#[from] ManageError),
    /// Something failed that was told where it did; the rest went well.
    #[error("not everything was done")]
    Partly,
    /// A recording cannot be shown to its end.
    #[error("cannot replay `{}`", .file.display())]
    Replay {
        /// The file.
        file: std::path::PathBuf,
        /// Why not.
        source: EventsError,
    },
    /// A file of the log could not be written.
    #[error(transparent)]
    LogFile(#[from] LogFileError),
    /// Output could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file about the result could not be written.
    #[error(transparent)]
    ResultFile(#[from] ResultFileError),
    /// The same, as Docker's client tells it: its whole text.
    #[error("{0}")]
    Told(String),
    /// Signals cannot be handled, a file cannot be read, and the like.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Archives are not for terminals.
    #[error("an archive is not {0} a terminal")]
    Terminal(&'static str),
    /// A login without a password.
    #[error("{message}")]
    Login {
        /// What is missing.
        message: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A shell that nobody can type into.
    #[error("a shell needs a terminal, and standard input is none")]
    ShellWithoutTerminal,
    /// An image that has no shell.
    #[error("there is no `/bin/sh` in the image")]
    NoShell,
    /// A build that does not go on from where the shell was.
    #[error("only a step of a build can be gone on from")]
    ResumeWithoutStep,
    /// A failed build that is to go nowhere.
    #[error("--failed needs a file to write: --output FILE")]
    SaveFailedWhere,
    /// Several failed builds for one file.
    #[error("--failed writes one build")]
    SaveFailedOne,
    /// A step without a layer.
    #[error("`{step}` changes no files")]
    NoLayer {
        /// The step.
        step: String,
    },
    /// A question without anybody to answer it.
    #[error("nobody can be asked: standard input is not a terminal")]
    NobodyToAsk,
    /// `push --all-tags` of one tag.
    #[error("a tag cannot be used together with --all-tags")]
    TagWithAllTags,
    /// `man` of a command there is not.
    #[error("there is no command `{0}`")]
    NoCommand(String),
}

impl CliError {
    /// The exit code of the program: as Docker's client where that has one, 1 for other errors, 128 and the signal's
    /// number for a signal.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Args(ArgsError::Shown(_)) | CliError::Convert(ConvertError::Args(ArgsError::Shown(_))) => 0,
            CliError::Args(ArgsError::Flag { .. }) | CliError::Convert(ConvertError::Args(ArgsError::Flag { .. })) => {
                125
            }
            CliError::Args(ArgsError::Usage { code, .. })
            | CliError::Convert(ConvertError::Args(ArgsError::Usage { code, .. })) => *code,
            CliError::Convert(ConvertError::Refused { .. }) => 125,
            CliError::Build { outcome, dialect } => {
                // Codes of commands are from 1 to 255; whatever else comes must not look like success.
                u8::try_from(rbuild_logfmt::exit_code(outcome, *dialect)).ok().filter(|code| *code != 0).unwrap_or(1)
            }
            CliError::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(130),
            CliError::Ended { code } => *code,
            CliError::Executor(error) => error.exit_code(),
            CliError::Run(error) => match &**error {
                CliError::Executor(_) | CliError::Args(_) | CliError::NotATerminal => error.exit_code(),
                _ => 125,
            },
            // What a shell reports of a program that SIGPIPE ended.
            CliError::Write(WriteError::Closed { .. }) => 141,
            CliError::Convert(_)
            | CliError::Worker { .. }
            | CliError::Take(_)
            | CliError::Container(_)
            | CliError::NoImagePath(_)
            | CliError::Manage(_)
            | CliError::Partly
            | CliError::Write(_)
            | CliError::LogFile(_)
            | CliError::Replay { .. }
            | CliError::ResultFile(_)
            | CliError::Told(_)
            | CliError::Io { .. }
            | CliError::Terminal(_)
            | CliError::Login { .. }
            | CliError::NobodyToAsk
            | CliError::ShellWithoutTerminal
            | CliError::NoShell
            | CliError::SaveFailedWhere
            | CliError::SaveFailedOne
            | CliError::ResumeWithoutStep
            | CliError::NoLayer { .. }
            | CliError::NotATerminal
            | CliError::TagWithAllTags
            | CliError::NoCommand(_) => 1,
        }
    }

    /// What to do about it, where something is known.
    fn hint(&self) -> Option<String> {
        match self {
            CliError::Args(ArgsError::Flag { hint, .. }) | CliError::Worker { hint, .. } => hint.clone(),
            CliError::Convert(error) => error.hint().map(str::to_owned),
            CliError::Manage(error) => error.hint(),
            CliError::Executor(error) | CliError::Take(error) | CliError::Container(error) => error.hint(),
            CliError::NoImagePath(_) => {
                Some("write IMAGE:PATH and a destination; only out of images can be copied".to_owned())
            }
            CliError::Run(error) => error.hint(),
            CliError::NotATerminal => Some("leave out --tty, which is for terminals".to_owned()),
            CliError::Terminal("written to") => {
                Some("redirect standard output, or name a file with --output".to_owned())
            }
            CliError::Terminal(_) => Some("redirect standard input, or name a file with --input".to_owned()),
            CliError::Replay { source: EventsError::Truncated { .. }, .. } => Some(
                "the build was killed or still runs, or the file was cut; what there is of its log was shown"
                    .to_owned(),
            ),
            CliError::Replay { source: EventsError::Format { .. }, .. } => {
                Some("a newer rbuild wrote the file; use that one".to_owned())
            }
            CliError::Replay { .. } => {
                Some("a recording is what `--log-format=events` or `--log-file events:FILE` writes".to_owned())
            }
            CliError::ShellWithoutTerminal => {
                Some("give a command after the build: `rbuild shell BUILD COMMAND…`".to_owned())
            }
            CliError::NoShell => {
                Some("`--with-shell` uses a busybox of this machine; or name a program of the image".to_owned())
            }
            CliError::ResumeWithoutStep => {
                Some("name a failed build or a step; `rbuild builds show` lists steps".to_owned())
            }
            CliError::NobodyToAsk => Some("say yes with --force".to_owned()),
            CliError::Login { hint, .. } => Some((*hint).to_owned()),
            _ => None,
        }
    }

    /// The text for standard error; empty where everything was said already.
    pub(crate) fn report(&self, hints: bool) -> String {
        match self {
            CliError::Args(ArgsError::Usage { text, .. })
            | CliError::Convert(ConvertError::Args(ArgsError::Usage { text, .. })) => {
                return text.clone();
            }
            CliError::Told(text) => return text.clone(),
            CliError::Run(error) => return error.report(hints),
            CliError::Args(ArgsError::Shown(_))
            | CliError::Convert(ConvertError::Args(ArgsError::Shown(_)))
            | CliError::Build { .. }
            | CliError::Interrupted { .. }
            | CliError::Ended { .. }
            | CliError::Partly
            | CliError::Write(WriteError::Closed { .. }) => return String::new(),
            _ => {}
        }
        let mut message = self.to_string();
        if let CliError::Args(ArgsError::Flag { cause: Some(cause), .. }) = self {
            message.push('\n');
            message.push_str(cause);
        }
        let mut source = self.source();
        let mut last = message.clone();
        while let Some(cause) = source {
            let text = cause.to_string();
            // A transparent wrapper says what it wraps.
            if text != last {
                message.push('\n');
                message.push_str(&text);
                last = text;
            }
            source = cause.source();
        }
        let hint = if hints { self.hint() } else { None };
        rbuild_logfmt::report::report(&message, hint.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rbuild_executor::logfmt::event::{Builder, Failure, Version};
    use rbuild_logfmt::OutputStream;

    use super::*;

    const LEGACY: Dialect = Dialect { builder: Builder::Legacy, version: Version::V28 };
    const BUILDKIT: Dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };

    fn build(failure: Failure, dialect: Dialect) -> CliError {
        CliError::Build { outcome: Box::new(Outcome::Failure { failure, step: None, lines: None }), dialect }
    }

    fn run(code: i32) -> Failure {
        Failure::Run { argv: vec!["false".into()], code }
    }

    #[test]
    fn exit_codes() {
        let flag = || ArgsError::Flag { message: "unknown flag: --x".into(), cause: None, hint: None, wrong: None };
        let cases = [
            (CliError::Args(ArgsError::Shown("help".into())), 0),
            (CliError::Args(flag()), 125),
            (CliError::Convert(ConvertError::Args(flag())), 125),
            (CliError::Convert(ConvertError::Refused { flag: "--memory", hint: "none" }), 125),
            (CliError::Args(ArgsError::Usage { text: "x".into(), code: 1 }), 1),
            (CliError::Convert(ConvertError::NoRoot), 1),
            (build(run(42), LEGACY), 42),
            (build(run(42), BUILDKIT), 1),
            (build(run(256), LEGACY), 1),
            (build(Failure::Parse { message: "x".into(), file: None }, LEGACY), 1),
            (CliError::Build { outcome: Box::new(Outcome::Cancelled { signal: Some(15) }), dialect: LEGACY }, 143),
            (CliError::Interrupted { signal: 2 }, 130),
            (CliError::Interrupted { signal: 15 }, 143),
            (CliError::Interrupted { signal: 1 }, 129),
            (CliError::Write(WriteError::Closed { stream: OutputStream::Stdout }), 141),
            (
                CliError::Write(WriteError::Io {
                    stream: OutputStream::Stdout,
                    source: io::Error::from(io::ErrorKind::StorageFull),
                }),
                1,
            ),
            (CliError::Worker { message: "x".into(), hint: None }, 1),
            (CliError::Manage(ManageError::NoImage { name: "x".into() }), 1),
            (CliError::Partly, 1),
            (CliError::Terminal("written to"), 1),
        ];
        for (error, code) in cases {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }

    #[test]
    fn reports() {
        let error =
            CliError::Io { action: "read `x`".into(), source: io::Error::new(io::ErrorKind::NotFound, "no such file") };
        assert_eq!(error.report(true), "rbuild: error: cannot read `x`\ncaused by: no such file\n");
        let error = CliError::Convert(ConvertError::NoRoot);
        assert_eq!(
            error.report(true),
            "rbuild: error: there is no place for the store: neither RBUILD_ROOT nor XDG_DATA_HOME nor HOME is set\n\
             hint: name a directory with --root or the variable RBUILD_ROOT\n"
        );
        assert!(!error.report(false).contains("hint"));
        // What was said is not said again.
        assert_eq!(build(run(1), LEGACY).report(true), "");
        assert_eq!(CliError::Interrupted { signal: 2 }.report(true), "");
        assert_eq!(CliError::Args(ArgsError::Usage { text: "all\n".into(), code: 1 }).report(true), "all\n");
    }
}
