//! Why a git repository cannot be had, as facts.

use serde::{Deserialize, Serialize};

/// What was asked of git.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GitTask {
    /// Which branch is the repository's default.
    DefaultBranch,
    /// Which commit a name stands for.
    Resolve,
    /// The repository that keeps what was fetched.
    Initialise,
    /// The remote of that repository.
    AddRemote,
    /// A commit.
    Fetch,
    /// The files of a commit.
    Checkout,
    /// The repositories inside of it.
    Submodules,
    /// Which commit came.
    Compare,
    /// Anything else.
    Other,
}

/// How git ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitFailed {
    /// What it was asked.
    pub task: GitTask,
    /// What it wrote to standard error; of Docker's legacy client also to standard output.
    pub output: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
}

/// Why a git repository cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RepositoryProblem {
    /// git failed.
    Git {
        /// How.
        #[serde(flatten)]
        failed: GitFailed,
        /// The name that was checked out, or the directory that was to be made a repository.
        #[serde(default)]
        what: String,
    },
    /// The repository has no such branch, tag or commit.
    NoReference {
        /// The name.
        reference: String,
        /// What `git ls-remote` said.
        output: String,
    },
    /// The server does not tell which branch is the default.
    NoDefaultBranch,
    /// The checksum is no hash.
    ChecksumForm {
        /// As given.
        checksum: String,
    },
    /// The commit is another.
    Checksum {
        /// The wanted hash, or its beginning.
        expected: String,
        /// That of the commit.
        actual: String,
    },
    /// The directory is not in the repository.
    NoDirectory {
        /// As given, from the root of the repository.
        directory: String,
        /// The first part of it that is not there.
        missing: String,
    },
    /// The directory is something else.
    NotADirectory {
        /// As given, from the root of the repository.
        directory: String,
        /// The part of it that is no directory.
        part: String,
    },
    /// The directory lies outside of the repository.
    Outside {
        /// As given.
        directory: String,
        /// Where it leads.
        path: String,
        /// Where the repository is.
        root: String,
    },
    /// 20.10's BuildKit takes no directory.
    DirectoryUnsupported,
}
