//! The error of operations inside a [`Root`](super::Root).
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why an operation inside a root failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The kernel refused the operation.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, as it completes "cannot …".
        operation: &'static str,
        /// The path inside the root.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The path names the root itself or ends in `..`, where a new or removable name is needed.
    #[error("cannot {operation} `{}`: the path does not end in a name", path.display())]
    NoName {
        /// What was tried.
        operation: &'static str,
        /// The path inside the root.
        path: PathBuf,
    },
    /// An attribute that records ownership or a device could not be read.
    #[error("the ownership record of `{}` is malformed", path.display())]
    BadRecord {
        /// The path inside the root.
        path: PathBuf,
    },
}

impl RootError {
    pub(super) fn io(operation: &'static str, path: &Path, errno: Errno) -> Self {
        RootError::Io {
            operation,
            path: path.to_path_buf(),
            source: io::Error::from_raw_os_error(errno.raw_os_error()),
        }
    }

    /// The path inside the root that the error is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            RootError::Io { path, .. } | RootError::NoName { path, .. } | RootError::BadRecord { path } => path,
        }
    }

    /// The kind of the kernel's reason; [`io::ErrorKind::InvalidInput`] for a path without a name.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            RootError::Io { source, .. } => source.kind(),
            RootError::NoName { .. } => io::ErrorKind::InvalidInput,
            RootError::BadRecord { .. } => io::ErrorKind::InvalidData,
        }
    }

    /// The kernel's error number, if the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            RootError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the path, or a directory on the way to it, does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

/// Result of an operation inside a root.
pub type Result<T> = std::result::Result<T, RootError>;
