//! A repository as Docker's legacy client clones it, and as `rbuild repo` does.

use std::path::{Path, PathBuf};

use rbuild_logfmt::event::{Failure, GitTask, RepositoryProblem};
use rbuild_sandbox::root::{Ownership, Root};

use super::command::{Git, GitError};
use super::source::plain_modes;
use super::{Address, Auth};
use crate::session::Session;
use crate::stop::Stop;

/// Clones into a new directory, and gives that which the build reads (`gitRepo.clone`).
pub(crate) fn clone(session: &Session<'_>, address: &Address) -> Result<PathBuf, Stop> {
    let failed = |problem| {
        let remote = address.shown.clone();
        Stop::failed(Failure::Repository { remote, problem, resolving: false })
    };
    if address.reference.starts_with('-') {
        let reference = address.reference.clone();
        return Err(failed(RepositoryProblem::NoReference { reference, output: String::new() }));
    }
    let auth = Auth::of(address, &session.options().secrets, &session.options().ssh)?;
    let own = session.scratch_dir()?;
    let git = Git::new(session.cancel(), &own, None, auth);
    let git = git.reaching(address)?;
    let root = own.join("clone");
    std::fs::create_dir(&root)?;
    let git = git.within(&root);
    let run = |task: GitTask, what: &str, arguments: &[&str]| match git.run_once(task, arguments) {
        Ok(output) => Ok(output),
        Err(GitError::Stop(stop)) => Err(stop),
        Err(GitError::Failed(cause)) => Err(failed(RepositoryProblem::Git { failed: cause, what: what.to_owned() })),
    };
    let place = root.display().to_string();
    run(GitTask::Initialise, &place, &["init"])?;
    run(GitTask::AddRemote, &place, &["remote", "add", "origin", &address.remote])?;
    let reference = address.reference.as_str();
    // Servers of plain files give no part of a history; Docker asks them first.
    let shallow = ["fetch", "--depth", "1", "origin", "--", reference];
    let whole = ["fetch", "origin", "--", reference];
    match git.run_once(GitTask::Fetch, &shallow) {
        Ok(_) => {}
        Err(GitError::Stop(stop)) => return Err(stop),
        Err(GitError::Failed(cause)) if cause.output.contains("shallow") => {
            run(GitTask::Fetch, "", &whole)?;
        }
        Err(GitError::Failed(cause)) => {
            return Err(failed(RepositoryProblem::Git { failed: cause, what: String::new() }));
        }
    }
    if let Err(first) = run(GitTask::Checkout, reference, &["checkout", reference]) {
        // What is no branch of ours is what came last.
        match git.run_once(GitTask::Checkout, &["checkout", "FETCH_HEAD"]) {
            Ok(_) => {}
            Err(GitError::Stop(stop)) => return Err(stop),
            Err(GitError::Failed(_)) => return Err(first),
        }
    }
    let update = ["submodule", "update", "--init", "--recursive", "--depth=1"];
    let built = directory(&root, &address.directory).map_err(failed)?;
    run(GitTask::Submodules, "", &update)?;
    plain_modes(&root, true)?;
    Ok(built)
}

/// A directory of a repository that was checked out; links are followed inside of it.
pub(crate) fn directory_of(root: &Path, given: &Path) -> Result<PathBuf, Stop> {
    directory(root, &given.to_string_lossy()).map_err(|_| {
        Stop::failed(Failure::Own {
            message: format!("`{}` is no directory of the repository", given.display()),
            hint: None,
        })
    })
}

/// The directory of a clone that is the context; links are followed inside of it.
fn directory(root: &Path, given: &str) -> Result<PathBuf, RepositoryProblem> {
    if given.is_empty() {
        return Ok(root.to_owned());
    }
    let shown = crate::plan::go::join_path(&root.to_string_lossy(), given);
    let outside = || {
        let root = root.display().to_string();
        RepositoryProblem::Outside { directory: given.to_owned(), path: shown.clone(), root }
    };
    // A word that leads out is refused, a link that does ends at the root.
    let mut depth = 0_usize;
    for part in given.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or_else(outside)?,
            _ => depth += 1,
        }
    }
    let tree = Root::open(root, Ownership::Real).map_err(|_| outside())?;
    let missing = |_| RepositoryProblem::NoDirectory { directory: shown.clone(), missing: given.to_owned() };
    let resolved = tree.resolve(given).map_err(missing)?;
    let status = tree.lstat(&resolved).map_err(missing)?;
    if !status.is_dir() {
        return Err(RepositoryProblem::NotADirectory { directory: shown, part: given.to_owned() });
    }
    Ok(root.join(resolved.strip_prefix("/").unwrap_or(&resolved)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_in_the_clone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("a/b", root.join("inside")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("outside")).unwrap();
        let of = |given: &str| directory(root, given);
        assert_eq!(of(""), Ok(root.to_owned()));
        assert_eq!(of("a/b"), Ok(root.join("a/b")));
        assert_eq!(of("inside"), Ok(root.join("a/b")));
        assert!(matches!(of("outside"), Err(RepositoryProblem::NoDirectory { .. })));
        assert!(matches!(of("file"), Err(RepositoryProblem::NotADirectory { .. })));
        assert!(matches!(of("a/../../x"), Err(RepositoryProblem::Outside { .. })));
    }
}
