//! Why a build gave no image.

use rbuild_logfmt::event::Failure;

/// Why a build gave no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The build failed; the last event told so, with the same facts.
    #[error("the build failed")]
    Failed(Box<Failure>),
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
