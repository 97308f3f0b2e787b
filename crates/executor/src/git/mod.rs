//! Git repositories: as build contexts, and as sources of ADD.
//!
//! The program `git` that is found on the path does the transfer. Which of its commands are run, and with which
//! settings, follows BuildKit (`source/git/source.go`, `util/gitutil/git_cli.go`; v0.25 for 28, v0.8 for 20) and Docker's
//! legacy client (`docker/cli`, `cli/command/image/build/internal/git`), since a log shows what git writes.

mod address;
mod clone;
mod command;
mod find;
mod shown;
mod source;

pub(crate) use address::{Address, AddressError, without_password};
pub(crate) use clone::{clone, directory_of};
pub(crate) use command::Auth;
pub use find::{FoundDockerfiles, RepositoryOptions, find_dockerfiles};
pub(crate) use find::{check_out, dockerfiles};
pub(crate) use shown::StepLog;
pub(crate) use source::{Loaded, Wanted, load, load_quietly};

/// Whether this is the whole hash of a commit (`gitutil.IsCommitSHA`).
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
