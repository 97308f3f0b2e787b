//! The error of operations on root file systems.
use std::path::{Path, PathBuf};

use rbuild_image::layer::LayerError;
use rbuild_sandbox::root::RootError;

/// Why a root file system could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// An operation on a file failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A layer or archive could not be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A file's content could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Content {
        /// What was tried, as it completes "cannot …".
        action: &'static str,
        /// The path inside its root.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A file changed its length while it was read.
    #[error("`{}` changed while it was read: {expected} bytes expected, {found} found", path.display())]
    Changed {
        /// The path inside its root.
        path: PathBuf,
        /// The length when the reading began.
        expected: u64,
        /// The length that was met, at least.
        found: u64,
    },
    /// A file would replace a directory.
    #[error("cannot replace to directory {} with file", path.display())]
    FileOverDirectory {
        /// The path of the directory.
        path: PathBuf,
    },
    /// A directory would be merged into something that is none.
    #[error("cannot copy to non-directory: {}", path.display())]
    DirectoryOverFile {
        /// The path of the file.
        path: PathBuf,
    },
    /// The name of an archive's entry, or of what a hard link leads to, is outside of the target.
    #[error("archive entry `{}` leads out of the target: `{}`", entry.display(), target.display())]
    Breakout {
        /// The entry's name as the archive has it.
        entry: PathBuf,
        /// The name that leads out: that of the entry or that of its link target.
        target: PathBuf,
    },
    /// An entry of an archive is not what an archive may hold.
    #[error("archive entry `{}` is not valid: {reason}", entry.display())]
    InvalidEntry {
        /// The entry's name as the archive has it.
        entry: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link of an archive leads to nothing.
    #[error("archive entry `{}` is a hard link to `{}`, which does not exist", entry.display(), target.display())]
    MissingLinkTarget {
        /// The entry's name as the archive has it.
        entry: PathBuf,
        /// The name it links to.
        target: PathBuf,
    },
    /// An entry of an archive could not be created.
    #[error("cannot unpack archive entry `{}`", entry.display())]
    Entry {
        /// The entry's name as the archive has it.
        entry: PathBuf,
        /// Why not.
        source: Box<RootfsError>,
    },
}

impl RootfsError {
    pub(super) fn content(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        RootfsError::Content { action, path: path.to_path_buf(), source }
    }

    /// Whether the kernel refused an owner that the user namespace has no id for.
    pub fn is_unmapped_owner(&self) -> bool {
        match self {
            RootfsError::Root(RootError::Io { operation: "change the owner of", source, .. }) => {
                source.kind() == std::io::ErrorKind::InvalidInput
            }
            RootfsError::Entry { source, .. } => source.is_unmapped_owner(),
            _ => false,
        }
    }

    /// Whether the cause is that a file does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            RootfsError::Root(error) => error.is_not_found(),
            RootfsError::Content { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            RootfsError::Entry { source, .. } => source.is_not_found(),
            _ => false,
        }
    }
}

/// Result of an operation on a root file system.
pub type Result<T> = std::result::Result<T, RootfsError>;
