//! COPY and ADD of the legacy builder (moby `builder/dockerfile/copy.go`).

use std::path::{Path, PathBuf};

use rbuild_logfmt::event::{Failure, Item as Progress, StepId};
use rbuild_sandbox::root::Root;

use super::{CopySourceTree, docker_text, in_the_way, try_unpack};
use crate::download::{self, NamedDownload};
use crate::plan::buildkit::is_http;
use crate::plan::go;
use crate::plan::legacy::CopyAction;
use crate::plan::users::{self, ChownError};
use crate::rootfs::{self, HeaderModes, RootfsError, Sums};
use crate::session::Session;
use crate::snapshot::Change;
use crate::solve::instruction_failed;
use crate::stop::Stop;

/// Sources found and hashed.
pub(in crate::solve) struct PreparedCopy {
    items: Vec<Item>,
    hash: String,
}

enum Item {
    /// A path of the source tree.
    Path(PathBuf),
    /// A file from the web.
    Remote(NamedDownload),
}

impl PreparedCopy {
    /// What history has for the sources.
    pub(in crate::solve) fn hash(&self) -> &str {
        &self.hash
    }
}

fn failed(copy: &CopyAction, message: impl Into<String>, missing: Option<String>) -> Stop {
    Stop::failed(Failure::Copy { instruction: copy.instruction.to_owned(), message: message.into(), missing })
}

/// Finds the sources and hashes them.
pub(in crate::solve) fn prepare(
    session: &Session<'_>,
    tree: &CopySourceTree<'_>,
    copy: &CopyAction,
    step: StepId,
) -> Result<PreparedCopy, Stop> {
    let source = tree.source();
    let files = Sums::Files(HeaderModes::of(session.options().dialect.version));
    let sums = match tree {
        CopySourceTree::Tree(_) => &files,
        CopySourceTree::Context(context) => context.sums(),
    };
    let mut items = Vec::new();
    let mut hashes = Vec::new();
    for written in &copy.paths.sources {
        if is_http(written) || written.starts_with("http://") || written.starts_with("https://") {
            if copy.instruction == "COPY" {
                return Err(failed(copy, "source can't be a URL for COPY", None));
            }
            let downloaded = session.download(written, None);
            // A file of which something came.
            let came = match &downloaded {
                Ok(file) => Some((file.size(), file.announced_size())),
                Err(stop) => download::was_cut(stop).then_some((0, Some(0))),
            };
            if let Some((current, total)) = came {
                session.emitter().progress(step, Progress::Fetch { url: written.clone() }, current, total, true);
            }
            let file = downloaded?;
            let name = file.legacy_name();
            if name.is_none() && copy.paths.dest.ends_with('/') {
                return Err(failed(copy, format!("cannot determine filename for source {written}"), None));
            }
            let named = file.named(session, name.as_deref().unwrap_or("__unnamed__"))?;
            let root = Root::open(named.directory(), session.ownership())?;
            let hash = rootfs::legacy_hash(&rootfs::Source::new(&root), &files, Path::new(named.name()))?;
            // Only what is copied from a tree has its kind before the digits.
            hashes.extend(hash.map(|hash| hash.trim_start_matches("file:").to_owned()));
            items.push(Item::Remote(named));
            continue;
        }
        let is_context = copy.from.is_none();
        let path = source_path(written)
            .ok_or_else(|| failed(copy, format!("forbidden path outside the build context: {written} ()"), None))?;
        if rootfs::has_wildcards(&path) {
            for found in rootfs::legacy_matches(&source, &path)? {
                hashes.push(hash_of(&source, sums, &found, is_context, copy)?);
                items.push(Item::Path(found));
            }
        } else {
            hashes.push(hash_of(&source, sums, &path, is_context, copy)?);
            items.push(Item::Path(path));
        }
    }
    if items.is_empty() {
        return Err(failed(copy, "no source files were specified", None));
    }
    if items.len() > 1 && !copy.paths.dest.ends_with('/') {
        return Err(instruction_failed(format!(
            "When using {} with more than one source file, the destination must be a directory and end with a /",
            copy.instruction
        )));
    }
    let hash = rootfs::legacy_multi_hash(&hashes);
    Ok(PreparedCopy { items, hash })
}

/// A source without its leading `/` or `./`; `None` if it leads out of the tree.
fn source_path(written: &str) -> Option<PathBuf> {
    let path = written.strip_prefix('/').unwrap_or(written);
    let path = path.strip_prefix("./").unwrap_or(path);
    let clean = go::clean_path(path);
    if clean == ".." || clean.starts_with("../") {
        return None;
    }
    Some(PathBuf::from(if clean == "." || clean == "/" { String::new() } else { path.to_owned() }))
}

fn hash_of(
    source: &rootfs::Source<'_>,
    sums: &Sums,
    path: &Path,
    is_context: bool,
    copy: &CopyAction,
) -> Result<String, Stop> {
    let found = match rootfs::legacy_hash(source, sums, path) {
        // The source itself; a file in it that is gone since it was listed is another matter.
        Err(error) if error.is_not_found() && !matches!(source.lstat(path), Ok(Some(_))) => None,
        // Links that lead nowhere but to each other.
        Err(RootfsError::Root(error)) if error.errno() == Some(TOO_MANY_LINKS) => {
            return Err(failed(copy, format!("forbidden path outside the build context: {} ()", path.display()), None));
        }
        other => other?,
    };
    found.ok_or_else(|| {
        let text = format!("stat {}: file does not exist", path.display());
        let text = if is_context {
            format!("file not found in build context or excluded by .dockerignore: {text}")
        } else {
            text
        };
        failed(copy, text, Some(path.display().to_string()))
    })
}

/// Copies what was found into a change.
pub(in crate::solve) fn perform(
    session: &Session<'_>,
    change: &Change,
    tree: &CopySourceTree<'_>,
    prepared: &PreparedCopy,
    copy: &CopyAction,
    working_dir: &str,
) -> Result<(), Stop> {
    let mount = change.mount()?;
    let dest = Root::open(mount.target(), session.ownership())?;
    let owner = match copy.chown.as_deref().filter(|owner| !owner.is_empty()) {
        Some(spec) => Some(owner(&dest, spec)?),
        None if copy.from.is_some() => None,
        None => Some((0, 0)),
    };
    let to = destination(working_dir, &copy.paths.dest);
    for item in &prepared.items {
        session.check()?;
        let remote;
        let (source, path, unpacks) = match item {
            Item::Path(path) => (tree.source(), path.as_path(), copy.instruction == "ADD"),
            Item::Remote(file) => {
                remote = Root::open(file.directory(), session.ownership())?;
                (rootfs::Source::new(&remote), Path::new(file.name()), false)
            }
        };
        let copied = copy_one(session, &source, path, unpacks, &dest, &to, owner);
        copied.map_err(|error| copy_failed(&error, &to, &dest, owner.is_some()))?;
    }
    Ok(())
}

fn copy_one(
    session: &Session<'_>,
    source: &rootfs::Source<'_>,
    path: &Path,
    unpacks: bool,
    dest: &Root,
    to: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), RootfsError> {
    if unpacks && try_unpack(session, source, path, dest, to, None)? {
        return Ok(());
    }
    rootfs::copy_legacy(source, path, dest, to, owner)
}

/// Where Docker's daemon has the files that it changes.
const DAEMON_LAYER: &str =
    "/var/lib/docker/overlay2/0000000000000000000000000000000000000000000000000000000000000000/merged";

/// A destination without what its path has too much.
fn cleaned(to: &Path) -> PathBuf {
    PathBuf::from(go::clean_path(&to.to_string_lossy()))
}

/// The destination as an absolute path that keeps its final slash.
fn destination(working_dir: &str, dest: &str) -> PathBuf {
    if dest.starts_with('/') {
        return PathBuf::from(dest);
    }
    let mut path = go::join_path("/", &go::join_path(working_dir, dest));
    if dest.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    }
    PathBuf::from(path)
}

fn owner(dest: &Root, spec: &str) -> Result<(u32, u32), Stop> {
    let file = |path: &str| {
        let bytes = dest.read(path, 4 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let missing = |path: &str| {
        let gone = dest.stat(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        gone.then(|| format!("open {DAEMON_LAYER}/{path}: no such file or directory"))
    };
    users::chown(spec, &file("etc/passwd"), &file("etc/group")).map_err(|error| {
        let cause = match error {
            ChownError::Format(text) => format!("invalid chown string format: {text}"),
            ChownError::User(name) => {
                let reason = missing("etc/passwd").unwrap_or_else(|| format!("no such user: {name}"));
                format!("can't find uid for user {name}: {reason}")
            }
            ChownError::Group(name) => {
                let reason = missing("etc/group").unwrap_or_else(|| format!("no such group: {name}"));
                format!("can't find gid for group {name}: {reason}")
            }
        };
        instruction_failed(format!("unable to convert uid/gid chown string to host mapping: {cause}"))
    })
}

/// The kernel's number of it.
const TOO_MANY_LINKS: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// `owned`: what is copied gets an owner, so that directories are made in another way.
fn copy_failed(error: &RootfsError, to: &Path, dest: &Root, owned: bool) -> Stop {
    if let RootfsError::DirectoryOverFile { path } = error
        && Path::new("/").join(path) == cleaned(to)
    {
        let text = format!("mkdir {DAEMON_LAYER}/{}: not a directory", path.display());
        return instruction_failed(format!("failed to copy files: failed to copy directory: {text}"));
    }
    if let RootfsError::Root(root) = error
        && root.kind() == std::io::ErrorKind::NotADirectory
    {
        let text = match in_the_way(dest, &cleaned(to)) {
            // Docker follows links before it makes anything.
            Some((_, Some(below))) => format!("lstat {DAEMON_LAYER}{}: not a directory", below.display()),
            Some((file, None)) => format!("mkdir {DAEMON_LAYER}{}: not a directory", file.display()),
            None => format!("mkdir {DAEMON_LAYER}/{}: not a directory", root.path().display()),
        };
        let making = if owned && text.starts_with("mkdir") { "failed to create new directory: " } else { "" };
        return instruction_failed(format!("failed to copy files: {making}{text}"));
    }
    match docker_text(error) {
        Some(text) => instruction_failed(format!("failed to copy files: {text}")),
        None => Stop::own(error),
    }
}
