//! What the process that becomes a command and the worker tell each other.

use super::{ExecError, RunError, RunSpec, TerminalSize};
use crate::bytes;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// To the step.
#[derive(Debug, Serialize)]
pub(super) struct Order<'a> {
    pub(super) spec: &'a RunSpec,
    /// The command gets a pseudo terminal of this size.
    pub(super) terminal: Option<TerminalSize>,
}

/// The same, as the step receives it.
#[derive(Debug, Deserialize)]
pub(super) struct Received {
    pub(super) spec: RunSpec,
    pub(super) terminal: Option<TerminalSize>,
}

/// From the step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// A missing mount point was made; told before it is made, so that a step that dies leaves none behind.
    Made(Made),
    /// The descriptor follows on which calls that make devices are received.
    Listener,
    /// The descriptor of the master side of the command's terminal follows.
    Terminal,
    /// All is ready; next comes the exec, or `Failed`.
    Starting,
    /// Something failed.
    Failed(Failure),
}

/// A mount point that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Made {
    /// Its path in the root without symbolic links, relative.
    #[serde(with = "bytes::path")]
    pub(super) path: PathBuf,
    /// Whether it is a directory.
    pub(super) directory: bool,
    /// When the directory that holds it was last changed before, in seconds and nanoseconds.
    pub(super) parent_modified: (i64, i64),
    /// Mode, owner and group of the directories above it, from the nearest, that were not in the upper directory.
    pub(super) copied_up: Vec<(u32, u32, u32)>,
}

/// Why a step failed, with the kernel's error number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Exec(ExecError),
    Chdir(i32),
    Mount {
        what: String,
        #[serde(with = "bytes::path")]
        target: PathBuf,
        action: String,
        errno: i32,
    },
    Setup {
        action: String,
        errno: i32,
    },
}

impl Failure {
    pub(super) fn into_error(self, spec: &RunSpec) -> RunError {
        let source = io::Error::from_raw_os_error;
        match self {
            Self::Exec(reason) => RunError::Exec { argv0: spec.argv.first().cloned().unwrap_or_default(), reason },
            Self::Chdir(errno) => RunError::Chdir { path: spec.cwd.clone(), source: source(errno) },
            Self::Mount { what, target, action, errno } => {
                RunError::Mount { what, target, action, source: source(errno) }
            }
            Self::Setup { action, errno } => RunError::Setup { action, source: source(errno) },
        }
    }
}

/// Says what was tried when the kernel refused.
pub(super) trait OrFail<T> {
    fn or_fail(self, action: &str) -> Result<T, Failure>;
}

impl<T> OrFail<T> for Result<T, Errno> {
    fn or_fail(self, action: &str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::Setup { action: action.to_owned(), errno: errno.raw_os_error() })
    }
}

impl<T> OrFail<T> for Result<T, nix::errno::Errno> {
    fn or_fail(self, action: &str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::Setup { action: action.to_owned(), errno: errno as i32 })
    }
}

impl<T> OrFail<T> for io::Result<T> {
    fn or_fail(self, action: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            let action = match error.raw_os_error() {
                Some(_) => action.to_owned(),
                None => format!("{action}: {error}"),
            };
            Failure::Setup { action, errno: error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()) }
        })
    }
}
