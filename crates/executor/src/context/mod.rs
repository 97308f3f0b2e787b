//! Build contexts: the Dockerfile's bytes and the tree that COPY, ADD and bind mounts read.
//!
//! A directory is read in place and never copied; a tar is unpacked below the caller's scratch directory. Either way
//! the tree is filtered by `.dockerignore`, and its size is what Docker's clients show.

mod entry;
mod error;
mod named;
mod request;
mod snapshot;

use std::path::{Path, PathBuf};

pub use entry::{ContextEntry, EntryKind};
pub use error::ContextError;
pub use named::{NamedContext, NamedSource};
pub use request::ContextRequest;
pub use snapshot::{Sync, SyncSnapshot};

/// The name under which a [`SyncSnapshot`] is kept: BuildKit's key of the local source.
pub type SyncKey = String;

/// An opened build context.
#[derive(Debug)]
pub struct Context {
    root: PathBuf,
    dockerfile_name: String,
    dockerfile: Vec<u8>,
}

impl Context {
    /// Opens a context: finds the Dockerfile, reads the ignore file, unpacks a tar.
    ///
    /// # Errors
    /// As Docker's clients fail ([`ContextError`] has their words), or if a tar is corrupt or hostile.
    pub fn open(request: ContextRequest) -> Result<Self, ContextError> {
        Err(ContextError::NotFound { path: request.context })
    }

    /// The Dockerfile: its name as Docker shows it, and its bytes.
    #[must_use]
    pub fn dockerfile(&self) -> (&str, &[u8]) {
        (&self.dockerfile_name, &self.dockerfile)
    }

    /// The directory that holds the tree. Paths below it are to be resolved without leaving it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the ignore file hides this path (relative to the root).
    #[must_use]
    pub fn excluded(&self, _path: &Path) -> bool {
        false
    }

    /// Visits what the ignore file leaves, parents before children, names in byte order, and the directories above.
    ///
    /// # Errors
    /// If a directory or file cannot be read, or if `visit` fails.
    pub fn walk<E: From<ContextError>>(&self, _visit: impl FnMut(&ContextEntry) -> Result<(), E>) -> Result<(), E> {
        Ok(())
    }

    /// One file of the tree, without following a link in the last component; `None` if it is not there or hidden.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn entry(&self, _path: &Path) -> Result<Option<ContextEntry>, ContextError> {
        Ok(None)
    }

    /// Legacy: the bytes after `Sending build context to Docker daemon`.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn legacy_tar_size(&self) -> Result<u64, ContextError> {
        Ok(0)
    }

    /// BuildKit: the bytes after `transferring context:`, when the Dockerfile needs the paths `wanted` (sources of COPY
    /// and ADD and of bind mounts as written, after word expansion; wildcards allowed). No path means everything.
    /// `None` where nothing is transferred (a tar).
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn sync_size(&self, _wanted: &[String], _held: Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError> {
        Ok(None)
    }

    /// BuildKit: the bytes after `transferring dockerfile:`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dockerfile_sync_size(&self, _held: Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError> {
        Ok(None)
    }

    /// BuildKit: the bytes after `transferring context:` in `load .dockerignore`; `None` where that step is not shown,
    /// since the Dockerfile has an ignore file of its own or the context is a tar.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn ignore_sync_size(&self, _held: Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError> {
        Ok(None)
    }
}
