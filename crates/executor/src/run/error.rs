//! Why a run gave no exit status.

use serde::{Deserialize, Serialize};

use crate::manage::ManageError;

/// Why a run gave no exit status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The image cannot be had.
    #[error(transparent)]
    Image(ManageError),
    /// The command is not there.
    #[error("{message}")]
    NotFound {
        /// Which, and where it was looked for.
        message: String,
    },
    /// The command cannot be executed.
    #[error("{message}")]
    NotExecutable {
        /// Which, and why.
        message: String,
    },
    /// What was asked for cannot be done.
    #[error("{message}")]
    Refused {
        /// What, and why.
        message: String,
        /// What to do about it, if anything is known.
        hint: Option<String>,
    },
    /// What the command wrote could not be passed on.
    #[error("cannot write to {stream}")]
    Write {
        /// Which stream.
        stream: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody reads standard output.
    #[error("nobody reads standard output")]
    Closed,
    /// It was cancelled.
    #[error("it was cancelled")]
    Cancelled,
    /// The process that does the work could not be started or was lost.
    #[error("the worker failed: {message}")]
    Worker {
        /// What happened, with its causes.
        message: String,
        /// What to do about it, if anything is known.
        hint: Option<String>,
    },
}

impl RunError {
    /// The exit code of `docker run` for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::NotFound { .. } => 127,
            RunError::NotExecutable { .. } => 126,
            _ => 125,
        }
    }

    /// What to do about it, where something is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            RunError::Image(error) => error.hint(),
            RunError::Refused { hint, .. } | RunError::Worker { hint, .. } => hint.clone(),
            _ => None,
        }
    }

    pub(crate) fn refused(message: impl Into<String>) -> RunError {
        RunError::Refused { message: message.into(), hint: None }
    }
}

impl From<ManageError> for RunError {
    fn from(error: ManageError) -> RunError {
        match error {
            ManageError::Cancelled => RunError::Cancelled,
            error => RunError::Image(error),
        }
    }
}

/// The errors that a worker has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failed {
    NotFound(String),
    NotExecutable(String),
    Refused(String, Option<String>),
    Closed,
    Cancelled,
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Failed {
        match error {
            RunError::NotFound { message } => Failed::NotFound(message),
            RunError::NotExecutable { message } => Failed::NotExecutable(message),
            RunError::Closed => Failed::Closed,
            RunError::Cancelled => Failed::Cancelled,
            error => Failed::Refused(crate::worker::with_causes(&error), error.hint()),
        }
    }
}

impl From<Failed> for RunError {
    fn from(failed: Failed) -> RunError {
        match failed {
            Failed::NotFound(message) => RunError::NotFound { message },
            Failed::NotExecutable(message) => RunError::NotExecutable { message },
            Failed::Refused(message, hint) => RunError::Refused { message, hint },
            Failed::Closed => RunError::Closed,
            Failed::Cancelled => RunError::Cancelled,
        }
    }
}
