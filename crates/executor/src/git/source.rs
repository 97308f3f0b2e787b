//! A repository's files as BuildKit gets them: a shared copy of what was fetched, and a snapshot of each commit.

use std::path::{Path, PathBuf};

use rbuild_logfmt::event::{Failure, GitTask, RepositoryProblem, StepId, Version};
use rustix::io::Errno;

use super::command::{Git, GitError};
use super::shown::{Shown, StepLog};
use super::{Address, Auth, is_commit};
use crate::session::Session;
use crate::stop::Stop;

/// What is wanted of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Where it is, and which commit.
    pub(crate) address: Address,
    /// Whether `.git` is part of it.
    pub(crate) keep_git_dir: bool,
}

/// Files of a commit.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Where they are; held for this build.
    pub(crate) path: PathBuf,
    /// What tells them from all others.
    pub(crate) key: String,
}

/// Loads a repository in a step that has begun, and ends the step.
pub(crate) fn load(session: &Session<'_>, wanted: &Wanted, step: StepId) -> Result<Loaded, Stop> {
    let shown = Shown::new(session.emitter(), step);
    let stop = match load_shown(session, wanted, &shown) {
        Ok(loaded) => return Ok(loaded),
        Err(stop) => stop,
    };
    shown.failed(&stop);
    Err(stop.at(step, None))
}

/// Loads a repository, and keeps what its step will show.
pub(crate) fn load_quietly(session: &Session<'_>, wanted: &Wanted) -> (Result<Loaded, Stop>, StepLog) {
    let shown = Shown::kept(session.emitter());
    let loaded = load_shown(session, wanted, &shown);
    if let Err(stop) = &loaded {
        shown.failed(stop);
    }
    (loaded, shown.into_log())
}

fn load_shown(session: &Session<'_>, wanted: &Wanted, shown: &Shown<'_>) -> Result<Loaded, Stop> {
    let done = Loader::new(session, wanted, shown).and_then(|loader| loader.load(shown));
    done.map_err(|(error, resolving)| match error {
        Problem::Stop(stop) => stop,
        Problem::Repository(problem) => {
            let remote = wanted.address.shown.clone();
            Stop::failed(Failure::Repository { remote, problem, resolving })
        }
    })
}

/// Why a repository cannot be had.
enum Problem {
    Repository(RepositoryProblem),
    Stop(Stop),
}

impl From<GitError> for Problem {
    fn from(error: GitError) -> Problem {
        match error {
            GitError::Failed(failed) => Problem::Repository(RepositoryProblem::Git { failed, what: String::new() }),
            GitError::Stop(stop) => Problem::Stop(stop),
        }
    }
}

impl From<Stop> for Problem {
    fn from(stop: Stop) -> Problem {
        Problem::Stop(stop)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Problem {
        Problem::Stop(error.into())
    }
}

impl From<RepositoryProblem> for Problem {
    fn from(problem: RepositoryProblem) -> Problem {
        Problem::Repository(problem)
    }
}

struct Loader<'a> {
    session: &'a Session<'a>,
    wanted: &'a Wanted,
    git: Git<'a>,
    is_old: bool,
}

impl<'a> Loader<'a> {
    fn new(session: &'a Session<'a>, wanted: &'a Wanted, shown: &'a Shown<'a>) -> Result<Loader<'a>, (Problem, bool)> {
        let options = session.options();
        let git = Auth::of(&wanted.address, &options.secrets, &options.ssh)
            .and_then(|auth| Ok(Git::new(session.cancel(), &session.scratch_dir()?, Some(shown), auth)))
            .map_err(|stop| (stop.into(), true))?;
        let git = git.reaching(&wanted.address).map_err(|stop| (stop.into(), true))?;
        Ok(Loader { session, wanted, git, is_old: options.dialect.version == Version::V20 })
    }

    fn load(&self, shown: &Shown<'_>) -> Result<Loaded, (Problem, bool)> {
        let found = self.resolve().map_err(|problem| (problem, true))?;
        let snapshot = format!("git snapshot {}:{}", found.key, self.wanted.address.directory);
        let loaded = |path: PathBuf| Loaded { path, key: snapshot.clone() };
        let held = || self.session.lease().hold_mount(&snapshot).map_err(|error| (Stop::from(error).into(), false));
        if let Some(path) = held()? {
            shown.done(true);
            return Ok(loaded(path));
        }
        // Its key is known; it begins again for the files.
        shown.done(false);
        shown.started();
        let _one_at_a_time = self.lock().map_err(|stop| (stop.into(), false))?;
        let path = match held()? {
            Some(path) => path,
            None => self.fetch(&found, &snapshot).map_err(|problem| (problem, false))?,
        };
        shown.done(false);
        Ok(loaded(path))
    }

    /// One build at a time changes what was fetched of a repository.
    fn lock(&self) -> Result<rbuild_image::store::NamedLock, Stop> {
        self.session.lock(&format!("git {}", self.wanted.address.remote))
    }

    /// Finds the commit (`gitSourceHandler.CacheKey`).
    fn resolve(&self) -> Result<Found, Problem> {
        let address = &self.wanted.address;
        let checksum = &address.checksum;
        if !checksum.is_empty() && !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(RepositoryProblem::ChecksumForm { checksum: checksum.clone() }.into());
        }
        if self.is_old && !address.directory.is_empty() {
            return Err(RepositoryProblem::DirectoryUnsupported.into());
        }
        let given = [checksum, &address.reference];
        let given = given
            .into_iter()
            .enumerate()
            .find(|(index, text)| is_commit(text) && (*index > 0 || !self.wanted.keep_git_dir));
        if let Some((index, commit)) = given {
            let reference = if index == 0 { address.reference.as_str() } else { "" };
            return Ok(self.found(commit, reference));
        }
        if self.is_old {
            return self.resolve_old();
        }
        let reference = self.reference(&self.git)?;
        let dereferenced = format!("{reference}^{{}}");
        let output =
            self.git.run(GitTask::Resolve, &["ls-remote", "--", &address.remote, &reference, &dereferenced])?;
        let find = |name: &str| {
            let line = output.lines().filter_map(|line| line.split_once('\t')).find(|(_, found)| *found == name);
            line.map(|(commit, _)| commit.to_owned())
        };
        let below = |prefix: &str| format!("{prefix}{}", reference.strip_prefix(prefix).unwrap_or(&reference));
        let (partial, head, tag) = (below("refs/"), below("refs/heads/"), below("refs/tags/"));
        // As git checkout: a branch comes before a tag of its name.
        let found = find(&partial)
            .map(|commit| (commit, partial))
            .or_else(|| find(&head).map(|commit| (commit, head)))
            .or_else(|| find(&format!("{tag}^{{}}")).map(|commit| (commit, tag.clone())))
            .or_else(|| find(&tag).map(|commit| (commit, tag.clone())));
        let Some((commit, name)) = found.filter(|(commit, _)| is_commit(commit)) else {
            return Err(RepositoryProblem::NoReference { reference, output }.into());
        };
        if !commit.starts_with(checksum.as_str()) {
            return Err(RepositoryProblem::Checksum { expected: checksum.clone(), actual: commit }.into());
        }
        Ok(self.found(&commit, &name))
    }

    /// 20.10 asks through the shared copy.
    fn resolve_old(&self) -> Result<Found, Problem> {
        let _one_at_a_time = self.lock()?;
        let git = self.git.git_dir(&self.shared()?);
        let reference = self.reference(&git)?;
        let output = git.run(GitTask::Resolve, &["ls-remote", "origin", &reference])?;
        match output.split_once('\t').filter(|(commit, _)| is_commit(commit)) {
            Some((commit, _)) => Ok(self.found(commit, "")),
            None => Err(RepositoryProblem::NoReference { reference, output }.into()),
        }
    }

    /// `shaToCacheKey`.
    fn found(&self, commit: &str, reference: &str) -> Found {
        let address = &self.wanted.address;
        let mut key = commit.to_owned();
        if self.wanted.keep_git_dir {
            key.push_str(".git");
            if !reference.is_empty() {
                key.push_str(&format!("#{reference}"));
            }
        }
        if !address.directory.is_empty() {
            key.push_str(&format!(":{}", address.directory));
        }
        if address.submodules == Some(false) {
            key.push_str("(skip-submodules)");
        }
        Found { key, has_long_hashes: commit.len() == 64 }
    }

    /// The name that was asked for, else the default branch.
    fn reference(&self, git: &Git<'_>) -> Result<String, Problem> {
        let address = &self.wanted.address;
        if !address.reference.is_empty() {
            return Ok(address.reference.clone());
        }
        let output = git.run(GitTask::DefaultBranch, &["ls-remote", "--symref", &address.remote, "HEAD"])?;
        let branch = output.lines().find_map(|line| {
            let name = line.strip_prefix("ref: refs/heads/")?;
            name.split_whitespace().next().map(str::to_owned)
        });
        branch.ok_or_else(|| RepositoryProblem::NoDefaultBranch.into())
    }

    /// The repository that keeps what was fetched of this one; made if need be (`gitSource.mountRemote`).
    fn shared(&self) -> Result<PathBuf, Problem> {
        let remote = &self.wanted.address.remote;
        let id = format!("git repository {remote}");
        if let Some(dir) = self.session.lease().hold_mount(&id).map_err(Stop::from)? {
            return Ok(dir);
        }
        let staged = self.session.scratch_dir()?;
        let dir = staged.join("fs");
        std::fs::create_dir(&dir)?;
        let git = self.git.git_dir(&dir);
        let mut initialise = vec!["-c", "init.defaultBranch=master", "init", "--bare"];
        if is_commit(&self.wanted.address.reference) && self.wanted.address.reference.len() == 64 {
            initialise.push("--object-format=sha256");
        }
        let at = |error: GitError| match error {
            GitError::Failed(failed) => {
                Problem::Repository(RepositoryProblem::Git { failed, what: dir.display().to_string() })
            }
            GitError::Stop(stop) => Problem::Stop(stop),
        };
        git.run(GitTask::Initialise, &initialise).map_err(at)?;
        git.run(GitTask::AddRemote, &["remote", "add", "origin", remote]).map_err(at)?;
        Ok(self.session.store().publish_mount(&id, &staged).map_err(Stop::from)?)
    }

    /// Fetches a commit and takes its files out (`gitSourceHandler.Snapshot`).
    fn fetch(&self, found: &Found, snapshot: &str) -> Result<PathBuf, Problem> {
        let shared = self.shared()?;
        let git = self.git.git_dir(&shared);
        let reference = if self.is_old { self.reference(&git)? } else { self.reference(&self.git)? };
        let is_commit = is_commit(&reference);
        let here = is_commit && {
            match git.run(GitTask::Other, &["cat-file", "-e", &format!("{reference}^{{commit}}")]) {
                Ok(_) => true,
                Err(GitError::Failed(_)) => false,
                Err(GitError::Stop(stop)) => return Err(stop.into()),
            }
        };
        if !here {
            self.fetch_into(&git, &shared, &reference, is_commit)?;
        }
        let checksum = &self.wanted.address.checksum;
        if !checksum.is_empty() {
            let output = git.run(GitTask::Compare, &["rev-parse", &reference]).map_err(|error| match error {
                GitError::Failed(failed) => {
                    Problem::Repository(RepositoryProblem::Git { failed, what: reference.clone() })
                }
                GitError::Stop(stop) => Problem::Stop(stop),
            })?;
            let actual = output.trim().to_owned();
            if !actual.starts_with(checksum.as_str()) {
                return Err(RepositoryProblem::Checksum { expected: checksum.clone(), actual }.into());
            }
        }
        let staged = self.session.scratch_dir()?;
        let published = self
            .check_out(&git, &shared, &reference, found, &staged)
            .and_then(|()| Ok(self.session.store().publish_mount(snapshot, &staged).map_err(Stop::from)?));
        if published.is_err() {
            self.session.forget_dir(&staged);
        }
        published
    }

    fn fetch_into(&self, git: &Git<'_>, shared: &Path, reference: &str, is_commit: bool) -> Result<(), Problem> {
        // What was killed may have left it.
        let _ = std::fs::remove_file(shared.join("shallow.lock"));
        let target = match reference.starts_with("refs/tags/") && !self.is_old {
            true => format!("{reference}:{reference}"),
            false => format!("{reference}:tags/{reference}"),
        };
        let mut arguments = vec!["fetch"];
        if !is_commit {
            arguments.extend(["--depth=1", "--no-tags"]);
        } else {
            if !self.is_old {
                arguments.push("--tags");
            }
            if shared.join("shallow").exists() {
                arguments.push("--unshallow");
            }
        }
        arguments.push("origin");
        match (is_commit, self.is_old) {
            (true, false) => arguments.push(reference),
            (true, true) => {}
            (false, _) => arguments.extend(["--force", &target]),
        }
        git.run(GitTask::Fetch, &arguments)?;
        if !self.is_old {
            git.run(GitTask::Fetch, &["reflog", "expire", "--all", "--expire=now"])?;
        }
        Ok(())
    }

    /// Puts the files of a commit into `fs` below the staged directory.
    fn check_out(
        &self,
        git: &Git<'_>,
        shared: &Path,
        reference: &str,
        found: &Found,
        staged: &Path,
    ) -> Result<(), Problem> {
        let address = &self.wanted.address;
        let files = staged.join("fs");
        let directory = clean(&address.directory);
        let all = if directory.is_empty() { files.clone() } else { staged.join("checkout") };
        std::fs::create_dir(&all)?;
        let keeps = self.wanted.keep_git_dir && directory.is_empty();
        let git_dir = if keeps {
            self.clone_shared(git, shared, reference, found, &all)?
        } else {
            git.work_tree(&all).run(GitTask::Checkout, &["checkout", reference, "--", "."])?;
            shared.to_owned()
        };
        if address.submodules != Some(false) {
            let update = ["submodule", "update", "--init", "--recursive", "--depth=1"];
            self.git.git_dir(&git_dir).work_tree(&all).run(GitTask::Submodules, &update)?;
        }
        if !directory.is_empty() {
            let found = descend(&all, &directory, &address.directory)?;
            std::fs::rename(&found, &files)?;
            std::fs::remove_dir_all(&all)?;
        }
        plain_modes(&files, true)?;
        Ok(())
    }

    /// A repository of its own with one commit, for builds that keep `.git`.
    fn clone_shared(
        &self,
        git: &Git<'_>,
        shared: &Path,
        reference: &str,
        found: &Found,
        files: &Path,
    ) -> Result<PathBuf, Problem> {
        let git_dir = files.join(".git");
        // The shared copy is a repository on this machine's disks.
        let own = self.git.with_files().git_dir(&git_dir).work_tree(files);
        let mut initialise = vec!["-c", "init.defaultBranch=master", "init"];
        if found.has_long_hashes {
            initialise.push("--object-format=sha256");
        }
        own.run(GitTask::Other, &initialise)?;
        own.run(GitTask::Other, &["remote", "add", "origin", &format!("file://{}", shared.display())])?;
        let is_tag = !self.is_old && git.run(GitTask::Other, &["cat-file", "-t", reference])?.trim() == "tag";
        let wanted = if is_tag {
            let tag = match reference.starts_with("refs/tags/") {
                true => reference.to_owned(),
                false => format!("refs/tags/{reference}"),
            };
            format!("{reference}:{tag}")
        } else if is_commit(reference) {
            // A commit alone may not be asked for; BuildKit's name is drawn at random and as long.
            let name = format!("refs/buildkit/{}", reference.get(..25).unwrap_or(reference));
            git.run(GitTask::Other, &["update-ref", &name, reference])?;
            name
        } else {
            format!("{reference}:{reference}")
        };
        own.run(GitTask::Other, &["fetch", "-u", "--depth=1", "origin", &wanted])?;
        own.run(GitTask::Checkout, &["checkout", "FETCH_HEAD"])?;
        if !self.is_old {
            own.run(GitTask::Other, &["remote", "set-url", "origin", &self.wanted.address.shown])?;
            own.run(GitTask::Fetch, &["reflog", "expire", "--all", "--expire=now"])?;
            match std::fs::remove_file(git_dir.join("FETCH_HEAD")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(git_dir)
    }
}

/// A commit that was found.
struct Found {
    /// What tells its files from all others.
    key: String,
    has_long_hashes: bool,
}

/// The parts of a directory in a repository; `..` leads nowhere at its root (`path.Clean`).
fn clean(directory: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in directory.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// Goes into a directory of a checkout, through directories alone: a link in it might lead anywhere.
fn descend(root: &Path, parts: &[String], given: &str) -> Result<PathBuf, Problem> {
    let mut found = root.to_owned();
    let directory = format!("/{}", given.trim_start_matches('/'));
    for part in parts {
        found.push(part);
        match std::fs::symlink_metadata(&found) {
            Ok(status) if status.is_dir() => {}
            Ok(_) => return Err(RepositoryProblem::NotADirectory { directory, part: part.clone() }.into()),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                return Err(RepositoryProblem::NoDirectory { directory, missing: part.clone() }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Gives files the modes that a umask of 022 leaves, whatever that of the build is: git keeps no more than whether a file
/// may be executed.
pub(super) fn plain_modes(dir: &Path, is_top: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        set(&dir, 0o755)?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let is_git_dir = is_top && entry.file_name() == ".git";
            if kind.is_dir() && !is_git_dir {
                pending.push(entry.path());
            } else if kind.is_file() {
                let is_program = entry.metadata()?.permissions().mode() & 0o100 != 0;
                set(&entry.path(), if is_program { 0o755 } else { 0o644 })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_do_not_leave_the_repository() {
        assert_eq!(clean("a//./b/../c/"), ["a", "c"]);
        assert_eq!(clean("../../a"), ["a"]);
        assert!(clean("../..").is_empty());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/deep")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("out")).unwrap();
        let go = |path: &str| descend(dir.path(), &clean(path), path);
        assert!(matches!(go("in/deep"), Ok(found) if found == dir.path().join("in/deep")));
        for path in ["out", "out/etc"] {
            let Err(Problem::Repository(problem)) = go(path) else { panic!("{path} leads out") };
            assert_eq!(
                problem,
                RepositoryProblem::NotADirectory { directory: format!("/{path}"), part: "out".to_owned() }
            );
        }
        assert!(matches!(go("no"), Err(Problem::Repository(RepositoryProblem::NoDirectory { .. }))));
    }

    #[test]
    fn modes_are_those_of_the_usual_umask() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        make("text", 0o600);
        make("program", 0o700);
        std::fs::create_dir(dir.path().join("d")).unwrap();
        make("d/open", 0o666);
        plain_modes(dir.path(), true).unwrap();
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("text"), mode("program"), mode("d"), mode("d/open")], [0o644, 0o755, 0o755, 0o644]);
    }
}
