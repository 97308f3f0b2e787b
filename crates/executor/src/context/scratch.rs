//! A directory that lives as long as its context.

use std::path::{Path, PathBuf};

use rbuild_sandbox::root::{Ownership, Root};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;

use super::ContextError;

/// Removed with all it holds when dropped.
#[derive(Debug)]
pub(super) struct ScratchDir {
    parent: PathBuf,
    name: String,
}

impl ScratchDir {
    /// Makes a new directory below `parent`, which is made too if need be.
    pub(super) fn new(parent: &Path) -> Result<Self, ContextError> {
        let failed = |path: &Path, errno: Errno| ContextError::Io {
            action: "create",
            path: path.to_owned(),
            source: errno.into(),
        };
        match rustix::fs::mkdirat(CWD, parent, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(parent, errno)),
        }
        let process = rustix::process::getpid().as_raw_nonzero();
        let mut number = 0_u64;
        loop {
            let name = format!("context-{process}-{number}");
            let path = parent.join(&name);
            match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
                Ok(()) => {
                    return Ok(Self { parent: parent.to_owned(), name });
                }
                Err(Errno::EXIST) => number += 1,
                Err(errno) => return Err(failed(&path, errno)),
            }
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What cannot be removed now is left to the store's collection of garbage.
        let removed = Root::open(&self.parent, Ownership::Real).and_then(|root| root.remove_tree(&self.name));
        if let Err(error) = removed {
            tracing::debug!(%error, "cannot remove an unpacked context");
        }
    }
}
