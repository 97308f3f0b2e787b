//! Why a context cannot be had, and Docker's words for it.

use std::io;
use std::path::PathBuf;

use rbuild_logfmt::event::{Dialect, Failure, Speaker};

/// Why a build context could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The positional argument is neither a directory nor anything else Docker knows.
    #[error("build context {path:?} not found")]
    NotFound {
        /// As given.
        path: PathBuf,
    },
    /// `--build-context` has not the form `NAME=SOURCE`.
    #[error("invalid named context `{value}`")]
    NamedContextForm {
        /// As given.
        value: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ContextError {
    /// What a log says of it.
    #[must_use]
    pub fn into_failure(self, _dialect: Dialect) -> Failure {
        Failure::Request { message: self.to_string(), by: Speaker::Client }
    }
}
