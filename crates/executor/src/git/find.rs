//! `rbuild repo`: one commit of a repository, and the Dockerfiles in it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rbuild_logfmt::event::{Builder, Dialect, Failure, GitTask, RepositoryProblem, Version};

use super::command::{Git, GitError};
use super::source::plain_modes;
use super::{Address, Auth, is_commit};
use crate::cancel::Cancel;
use crate::error::{BuildError, FailedBuild};
use crate::options::{Secret, Ssh};
use crate::session::Session;
use crate::stop::Stop;

/// A repository whose Dockerfiles are looked for.
#[derive(Clone, Debug, Default)]
pub struct RepositoryOptions {
    /// Its address.
    pub url: String,
    /// Commit, branch or tag; the default branch if there is none.
    pub reference: Option<String>,
    /// Tokens, as for contexts: `GIT_AUTH_TOKEN`, `GIT_AUTH_HEADER`.
    pub secrets: Vec<Secret>,
    /// Agents, of which `default` is used.
    pub ssh: Vec<Ssh>,
}

/// What [`find_dockerfiles`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDockerfiles {
    /// The hash of the commit.
    pub commit: String,
    /// Paths in the repository, that which is built first.
    pub paths: Vec<PathBuf>,
}

/// Lists the Dockerfiles of a commit, in the order in which they would be built: that at the root, then the shallowest,
/// of equally deep ones by name. Files called `Dockerfile.NAME` or `NAME.Dockerfile` come after all others.
///
/// # Errors
/// [`BuildError::Failed`] if the repository or the commit cannot be had, or git is not there.
pub fn find_dockerfiles(options: &RepositoryOptions) -> Result<FoundDockerfiles, BuildError> {
    let found = || -> Result<FoundDockerfiles, Stop> {
        let cancel = Cancel::new()?;
        let place = TemporaryDir::new()?;
        let address = address(&options.url)?;
        let auth = Auth::of(&address, &options.secrets, &options.ssh)?;
        let git = Git::new(&cancel, &place.0, None, auth);
        let repository = place.0.join("repository");
        let (git, fetched) = fetch(&git, &address, options.reference.as_deref(), &repository)?;
        let run = |arguments: &[&str]| git.run(GitTask::Other, arguments).map_err(|error| stop(&address, error, ""));
        let commit = run(&["rev-parse", &format!("{fetched}^{{commit}}")])?.trim().to_owned();
        let names = run(&["ls-tree", "-r", "-z", "--name-only", &fetched])?;
        let paths = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
        Ok(FoundDockerfiles { commit, paths: in_order(paths) })
    };
    found().map_err(|stop| match stop {
        Stop::Failed(failed) => BuildError::Failed(Box::new(FailedBuild { failure: failed.failure, report: None })),
        Stop::Cancelled => BuildError::Cancelled,
    })
}

/// A directory that goes when it is dropped.
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new() -> std::io::Result<TemporaryDir> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("rbuild-repo-{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| TemporaryDir(path)),
            }
        }
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "cannot remove `{}`", self.0.display());
        }
    }
}

fn address(url: &str) -> Result<Address, Stop> {
    // The newest forms are taken, whatever log is wanted.
    let dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
    let wrong = |message: String| {
        let hint = "as https://host/repository.git, ssh://…, git@host:path, or file:///path".to_owned();
        Stop::failed(Failure::Own { message, hint: Some(hint) })
    };
    // A repository is expected, with or without the suffix that tells one from a file.
    let parsed = Address::parse(url, dialect).or_else(|| {
        Address::parse(&format!("{url}.git"), dialect).map(|parsed| {
            parsed.map(|mut address| {
                for text in [&mut address.remote, &mut address.shown] {
                    text.truncate(text.len().saturating_sub(".git".len()));
                }
                address
            })
        })
    });
    match parsed {
        Some(Ok(address)) => Ok(address),
        Some(Err(error)) => Err(wrong(error.to_string())),
        None => Err(wrong(format!("`{}` is no address of a repository", super::without_password(url)))),
    }
}

fn stop(address: &Address, error: GitError, what: &str) -> Stop {
    match error {
        GitError::Stop(stop) => stop,
        GitError::Failed(failed) => Stop::failed(Failure::Repository {
            remote: address.shown.clone(),
            problem: RepositoryProblem::Git { failed, what: what.to_owned() },
            resolving: false,
        }),
    }
}

/// Makes a repository with one commit, and gives the commit's name: with as little of its history as the server allows.
fn fetch<'a>(git: &Git<'a>, address: &Address, reference: Option<&str>, dir: &Path) -> Result<(Git<'a>, String), Stop> {
    let given = reference.unwrap_or(&address.reference);
    let reference = if given.is_empty() { "HEAD" } else { given };
    let failed = |error| stop(address, error, &dir.display().to_string());
    if reference.starts_with('-') {
        let message = format!("`{reference}` is no commit, branch or tag");
        return Err(Stop::failed(Failure::Own { message, hint: None }));
    }
    std::fs::create_dir(dir)?;
    let git = git.reaching(address)?.within(dir);
    git.run(GitTask::Initialise, &["-c", "init.defaultBranch=main", "init", "-q"]).map_err(failed)?;
    git.run(GitTask::AddRemote, &["remote", "add", "origin", &address.remote]).map_err(failed)?;
    let wanted = ["fetch", "-q", "--no-tags", "--depth=1", "origin", reference];
    let error = match git.run_once(GitTask::Fetch, &wanted) {
        Ok(_) => return Ok((git, FETCHED.to_owned())),
        Err(GitError::Stop(stop)) => return Err(stop),
        Err(error) => error,
    };
    if is_commit(reference) {
        // The server tells of branches alone: the commit is in one of them, or cannot be had.
        let all = ["fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"];
        git.run_once(GitTask::Fetch, &all).map_err(failed)?;
        let name = format!("{reference}^{{commit}}");
        git.run(GitTask::Compare, &["cat-file", "-e", &name]).map_err(|_| {
            let (remote, reference) = (address.shown.clone(), reference.to_owned());
            let problem = RepositoryProblem::NoReference { reference, output: String::new() };
            Stop::failed(Failure::Repository { remote, problem, resolving: false })
        })?;
        return Ok((git, reference.to_owned()));
    }
    // Servers of plain files give no part of a history.
    match &error {
        GitError::Failed(cause) if cause.output.contains("shallow") => {}
        _ => return Err(failed(error)),
    }
    git.run_once(GitTask::Fetch, &["fetch", "-q", "--no-tags", "origin", reference]).map_err(failed)?;
    Ok((git, FETCHED.to_owned()))
}

/// git's name for what came last.
const FETCHED: &str = "FETCH_HEAD";

/// Checks out a commit, with the repositories inside of it; gives the directory.
pub(crate) fn check_out(session: &Session<'_>, url: &str, reference: Option<&str>) -> Result<PathBuf, Stop> {
    let options = session.options();
    let address = address(url)?;
    let auth = Auth::of(&address, &options.secrets, &options.ssh)?;
    let own = session.scratch_dir()?;
    let dir = own.join("repository");
    let git = Git::new(session.cancel(), &own, None, auth);
    let (git, fetched) = fetch(&git, &address, reference, &dir)?;
    let run = |task, arguments: &[&str]| git.run(task, arguments).map_err(|error| stop(&address, error, ""));
    run(GitTask::Checkout, &["checkout", "-q", "--detach", &fetched])?;
    if dir.join(".gitmodules").exists() {
        run(GitTask::Submodules, &["submodule", "update", "-q", "--init", "--recursive", "--depth=1"])?;
    }
    plain_modes(&dir, true)?;
    Ok(dir)
}

/// The Dockerfiles below a directory, relative to it, that which is built first.
pub(crate) fn dockerfiles(root: &Path) -> Result<Vec<PathBuf>, Stop> {
    let mut paths = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let (path, kind) = (dir.join(entry.file_name()), entry.file_type()?);
            if kind.is_dir() && entry.file_name() != ".git" {
                pending.push(path);
            } else if !kind.is_dir() {
                paths.push(path);
            }
        }
    }
    Ok(in_order(paths))
}

/// Those of the paths that are Dockerfiles, in order.
fn in_order(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let rank = |path: &Path| {
        let name = path.file_name()?.to_string_lossy();
        let lower = name.to_ascii_lowercase();
        let rank = match (&*name, &*lower) {
            ("Dockerfile", _) => 0,
            (_, "dockerfile") => 1,
            (_, lower) if lower.starts_with("dockerfile.") && !lower.ends_with(".dockerignore") => 2,
            (_, lower) if lower.ends_with(".dockerfile") => 2,
            _ => return None,
        };
        let is_other = rank == 2;
        Some((is_other, path.components().count(), path.parent().map(Path::to_owned), rank, path.to_owned()))
    };
    let mut ranked: Vec<_> = paths.iter().filter_map(|path| rank(path)).collect();
    ranked.sort();
    ranked.into_iter().map(|(.., path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shallowest_comes_first() {
        let paths =
            ["b/Dockerfile", "x.txt", "a/c/Dockerfile", "a/Dockerfile", "Dockerfile.dev", "b/Dockerfile.dockerignore"];
        let found = in_order(paths.map(PathBuf::from).to_vec());
        assert_eq!(found, ["a/Dockerfile", "b/Dockerfile", "a/c/Dockerfile", "Dockerfile.dev"].map(PathBuf::from));
        let root = in_order(["a/Dockerfile", "dockerfile", "Dockerfile"].map(PathBuf::from).to_vec());
        assert_eq!(root, ["Dockerfile", "dockerfile", "a/Dockerfile"].map(PathBuf::from));
    }

    #[test]
    fn addresses_need_no_suffix() {
        assert_eq!(address("https://h/o/r").unwrap().remote, "https://h/o/r");
        assert_eq!(address("https://h/o/r.git").unwrap().remote, "https://h/o/r.git");
        assert!(address("not-an-address").is_err());
    }
}
