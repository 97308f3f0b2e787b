//! What Docker says of a git repository that cannot be had.
//!
//! Recorded from Docker 28.5.2 and 20.10.24, with both builders.

use crate::event::Version;
use crate::go_quote::quote;
use crate::repository_failure::{GitFailed, GitTask, RepositoryProblem};

/// BuildKit, at the step that loads the repository.
pub(crate) fn buildkit(remote: &str, problem: &RepositoryProblem, version: Version) -> String {
    match problem {
        RepositoryProblem::Git { failed, what } => {
            let doing = match failed.task {
                GitTask::DefaultBranch => format!("error fetching default branch for repository {remote}: "),
                GitTask::Resolve | GitTask::Fetch => format!("failed to fetch remote {remote}: "),
                GitTask::Initialise => format!("failed to init repo at {what}: "),
                GitTask::AddRemote => format!("failed add origin repo at {what}: "),
                GitTask::Checkout => format!("failed to checkout remote {remote}: "),
                GitTask::Submodules => format!("failed to update submodules for {remote}: "),
                GitTask::Compare => format!("failed to rev-parse {what} for {remote}: "),
                GitTask::Other => String::new(),
            };
            match version {
                Version::V20 => format!("{doing}{}", end(failed)),
                Version::V28 => format!("{doing}git stderr:\n{}: {}", failed.output, end(failed)),
            }
        }
        RepositoryProblem::NoReference { reference, output } => {
            format!("repository does not contain ref {reference}, output: {}", quote(output))
        }
        RepositoryProblem::NoDefaultBranch => format!("could not find default branch for repository: {remote}"),
        RepositoryProblem::ChecksumForm { checksum } => {
            format!("invalid checksum {checksum} for Git URL, expected hex commit hash")
        }
        RepositoryProblem::Checksum { expected, actual } => {
            format!("expected checksum to match {expected}, got {actual}")
        }
        RepositoryProblem::NoDirectory { directory, missing } => {
            let missing_quoted = quote(missing);
            format!(
                "invalid subdir {directory}: failed to lstat {missing_quoted}: statat {missing}: no such file or directory"
            )
        }
        RepositoryProblem::NotADirectory { directory, part } => {
            format!(
                "invalid subdir {directory}: git subpath {} contains non-directory {}",
                quote(directory),
                quote(part)
            )
        }
        RepositoryProblem::Outside { directory, .. } => {
            format!("invalid subdir {directory}: the path leads out of the repository")
        }
        RepositoryProblem::DirectoryUnsupported => "subdir not supported yet".to_owned(),
    }
}

/// Docker's legacy client, which clones by itself.
pub(crate) fn legacy(remote: &str, problem: &RepositoryProblem) -> String {
    let why = match problem {
        RepositoryProblem::Git { failed, what } => {
            let doing = match failed.task {
                GitTask::Initialise => format!("failed to init repo at {what}: "),
                GitTask::AddRemote => format!("failed add origin repo at {remote}: "),
                GitTask::Checkout => format!("error checking out {what}: "),
                GitTask::Submodules => "error initializing submodules: ".to_owned(),
                _ => "error fetching: ".to_owned(),
            };
            format!("{doing}{}: {}", failed.output, end(failed))
        }
        RepositoryProblem::NoDirectory { directory, .. } => {
            format!("stat {directory}: no such file or directory")
        }
        RepositoryProblem::NotADirectory { directory, .. } => {
            format!("error setting git context, not a directory: {directory}")
        }
        RepositoryProblem::Outside { directory, path, root } => {
            let quoted = quote(directory);
            format!(
                "error setting git context, {quoted} not within git root: evalSymlinksInScope: {path} is not in {root}"
            )
        }
        RepositoryProblem::NoReference { reference, .. } => format!("invalid refspec: {reference}"),
        other => buildkit(remote, other, Version::V28),
    };
    format!("unable to prepare context: unable to 'git clone' to temporary context directory: {why}")
}

/// Go's words for how a program ended.
fn end(failed: &GitFailed) -> String {
    match failed.code {
        Some(code) => format!("exit status {code}"),
        None => "signal: killed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let git = |task, what: &str| RepositoryProblem::Git {
            failed: GitFailed { task, output: "fatal: no\n".to_owned(), code: Some(128) },
            what: what.to_owned(),
        };
        let remote = "http://h/x.git";
        assert_eq!(
            buildkit(remote, &git(GitTask::Fetch, ""), Version::V28),
            "failed to fetch remote http://h/x.git: git stderr:\nfatal: no\n: exit status 128"
        );
        assert_eq!(
            legacy(remote, &git(GitTask::Fetch, "")),
            "unable to prepare context: unable to 'git clone' to temporary context directory: error fetching: fatal: \
             no\n: exit status 128"
        );
        let missing = RepositoryProblem::NoDirectory { directory: "/a/b".to_owned(), missing: "a".to_owned() };
        assert_eq!(
            buildkit(remote, &missing, Version::V28),
            "invalid subdir /a/b: failed to lstat \"a\": statat a: no such file or directory"
        );
        let killed = RepositoryProblem::Git {
            failed: GitFailed { task: GitTask::Checkout, output: String::new(), code: None },
            what: "main".to_owned(),
        };
        assert!(legacy(remote, &killed).ends_with("error checking out main: : signal: killed"));
    }
}
