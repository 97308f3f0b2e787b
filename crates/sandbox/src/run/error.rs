//! Why a command did not run to its end.

use crate::{channel::ChannelError, idmap::IdKind};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// Why the command itself could not be started, as facts: the words are the dialect's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecError {
    /// A name without slash is in no directory of `PATH`.
    NotFoundInPath,
    /// The file of a name with slash could not be examined: `errno`, mostly ENOENT or ENOTDIR.
    Stat(i32),
    /// It is a directory.
    IsDirectory,
    /// It cannot be executed by this user.
    PermissionDenied,
    /// execve(2) refused it: `errno`, mostly ENOEXEC, ENOENT (no interpreter) or EACCES.
    Exec(i32),
}

/// Why [`run`](crate::run()) gave no exit status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The command could not be started.
    #[error("cannot execute `{}`: {reason:?}", String::from_utf8_lossy(.argv0))]
    Exec {
        /// The first word of the command.
        argv0: Vec<u8>,
        /// Why.
        reason: ExecError,
    },
    /// The working directory could not be entered.
    #[error("cannot change to directory `{}`", path.display())]
    Chdir {
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Something could not be mounted.
    #[error("cannot mount {what} on `{}`: {action}", target.display())]
    Mount {
        /// What: the source, or the type of the file system.
        what: String,
        /// Where, inside the root.
        target: PathBuf,
        /// Which step of it failed.
        action: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The confinement could not be set up.
    #[error("cannot set up the step: {action}")]
    Setup {
        /// What failed.
        action: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The user namespace has no such user or group.
    #[error("{kind} {id} does not exist here: {}", counted(*available))]
    NoSuchId {
        /// Whether a user or a group.
        kind: IdKind,
        /// The one that the command was to have.
        id: u32,
        /// How many of its kind there are; see [`Facts::why_one_id`](crate::Facts) where it is one.
        available: u64,
    },
    /// The process could not be started, for a reason that the program can mend.
    #[error(transparent)]
    Spawn(#[from] crate::worker::SpawnError),
    /// The process that sets up the step said nothing intelligible.
    #[error("lost the process that starts the command")]
    Channel(#[from] ChannelError),
    /// The process that sets up the step died before the command began.
    #[error("the process that starts the command died: {status}")]
    Died {
        /// How.
        status: String,
    },
    /// It was cancelled by its [`Cancel`](crate::Cancel).
    #[error("the command was cancelled")]
    Cancelled,
}

fn counted(ids: u64) -> String {
    match ids {
        1 => "there is one id only, that of root".to_owned(),
        _ => format!("there are {ids} ids"),
    }
}

impl RunError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Chdir { source, .. } | Self::Mount { source, .. } | Self::Setup { source, .. } => {
                source.raw_os_error()
            }
            Self::Exec { reason: ExecError::Stat(errno) | ExecError::Exec(errno), .. } => Some(*errno),
            Self::Exec { reason: ExecError::IsDirectory, .. } => Some(Errno::ISDIR.raw_os_error()),
            Self::Exec { reason: ExecError::PermissionDenied, .. } => Some(Errno::ACCESS.raw_os_error()),
            _ => None,
        }
    }
}
