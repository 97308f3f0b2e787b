//! Why a build gave no image.

use rbuild_logfmt::event::Failure;
use serde::{Deserialize, Serialize};

use crate::record::FailureReport;

/// Why a build gave no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The build failed; the last event told so, with the same facts.
    #[error("the build failed")]
    Failed(Box<FailedBuild>),
    /// It was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
    /// The process that does the work could not be started or was lost.
    #[error("the build worker failed: {message}")]
    Worker {
        /// What happened, with its causes.
        message: String,
        /// What to do about it, if anything is known.
        hint: Option<String>,
    },
}

/// A build that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedBuild {
    /// What Docker says of it, as a fact.
    pub failure: Failure,
    /// What else is known; nothing where not even the store could be opened.
    pub report: Option<FailureReport>,
}
