//! COPY and ADD of BuildKit (`solver/llbsolver/file` and `tonistiigi/fsutil/copy` of BuildKit 0.25).

use std::io::Write;
use std::path::{Path, PathBuf};

use rbuild_logfmt::event::{Failure, Version};
use rbuild_parser::ignore::PatternMatcher;
use rbuild_sandbox::root::{Root, Timestamp};

use super::{CopySourceTree, docker_text, in_the_way, try_unpack};
use crate::context::{Context, DAEMON_MOUNT};
use crate::key::KeyBuilder;
use crate::mode::ModeChange;
use crate::plan::buildkit::{CopyOp, CopySource, MountFrom};
use crate::remote;
use crate::rootfs::{self, CopyOptions, HashOptions, RootfsError, Shown, Source};
use crate::session::Session;
use crate::snapshot::Change;
use crate::solve::buildkit::owner_of;
use crate::solve::instruction_failed;
use crate::stop::Stop;

/// What of a source `--parents` and `--exclude` leave, by the path inside of it.
struct Selection {
    include: Option<PatternMatcher>,
    exclude: PatternMatcher,
}

impl Selection {
    fn new(parents: Option<&str>, exclude: &[String]) -> Result<Selection, Stop> {
        let bad = |error: rbuild_parser::ignore::IgnoreError| instruction_failed(error.to_string());
        Ok(Selection {
            include: parents.map(|pattern| PatternMatcher::new([pattern])).transpose().map_err(bad)?,
            exclude: PatternMatcher::new(exclude).map_err(bad)?,
        })
    }

    fn is_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    fn shown(&self, path: &Path) -> Shown {
        let text = rbuild_parser::lossy(path.as_os_str().as_encoded_bytes());
        if self.exclude.matches(&text).unwrap_or(false) {
            return if self.exclude.has_exclusions() { Shown::Inside } else { Shown::No };
        }
        match &self.include {
            None => Shown::Yes,
            Some(include) if include.matches(&text).unwrap_or(false) => Shown::Yes,
            // A deeper path may match; a directory without one is not made.
            Some(_) => Shown::Inside,
        }
    }
}

fn missing(path: &str) -> Stop {
    let quoted = crate::plan::go::quote(path);
    unreadable(path, format!("{quoted}: not found"))
}

/// A source that the search for the cache key cannot read.
fn unreadable(path: &str, message: impl Into<String>) -> Stop {
    Stop::failed(Failure::Copy {
        instruction: "COPY".to_owned(),
        message: message.into(),
        missing: Some(path.to_owned()),
    })
}

/// The kernel's number of links that lead to each other.
const TOO_MANY_LINKS: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// A missing source as the copying itself tells of it, and not the search for the cache key.
pub(in crate::solve) fn found_missing_late(stop: Stop, version: Version) -> Stop {
    // 20.10 tells where its daemon has the source mounted.
    let mount = if version == Version::V20 { DAEMON_MOUNT } else { "" };
    match stop {
        Stop::Failed(mut failed) => {
            if let Failure::Copy { message, missing: missing @ Some(_), .. } = &mut failed.failure
                && let Some(path) = missing.take()
            {
                *message = format!("lstat {mount}{path}: no such file or directory");
            }
            Stop::Failed(failed)
        }
        other => other,
    }
}

/// The paths that a source stands for. A path without wildcards that does not exist is an error; a pattern may match
/// nothing.
fn find(source: &Source<'_>, pattern: &str) -> Result<Vec<PathBuf>, Stop> {
    let path = Path::new(pattern);
    let found = rootfs::buildkit_matches(source, path)?;
    if !rootfs::has_wildcards(path) {
        for path in &found {
            let there = source.root.resolve(path).map_err(RootfsError::from).and_then(|path| source.lstat(&path));
            match there {
                Ok(Some(_)) => {}
                Ok(None) => return Err(missing(pattern)),
                Err(RootfsError::Root(error)) if error.errno() == Some(TOO_MANY_LINKS) => {
                    return Err(unreadable(pattern, "too many links"));
                }
                Err(error) if error.is_not_found() => return Err(missing(pattern)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(found)
}

/// Whether all that is to be copied from contexts is there.
pub(in crate::solve) fn check_sources<'c>(
    op: &CopyOp,
    context: &dyn Fn(MountFrom) -> Option<&'c Context>,
) -> Result<(), Stop> {
    for source in &op.sources {
        if let CopySource::Files { from, pattern, .. } = source
            && let Some(context) = context(*from)
        {
            find(&context.source(), pattern)?;
        }
    }
    Ok(())
}

/// The digest of what a source stands for.
pub(in crate::solve) fn selection_hash(
    tree: &CopySourceTree<'_>,
    pattern: &str,
    parents: Option<&str>,
    exclude: &[String],
) -> Result<String, Stop> {
    if let CopySourceTree::Context(context) = tree {
        let key =
            KeyBuilder::new("selection").field("pattern", pattern).list("parents", parents).list("exclude", exclude);
        return context.selection_hash(&key.finish(), || read_selection(&tree.source(), pattern, parents, exclude));
    }
    read_selection(&tree.source(), pattern, parents, exclude)
}

fn read_selection(
    source: &Source<'_>,
    pattern: &str,
    parents: Option<&str>,
    exclude: &[String],
) -> Result<String, Stop> {
    let selection = Selection::new(parents, exclude)?;
    let filter = |path: &Path| selection.shown(path);
    let paths = find(source, pattern)?;
    let options =
        HashOptions { follow: true, contents: true, filter: if selection.is_all() { None } else { Some(&filter) } };
    let digest = rootfs::content_hash(source, &paths, options)?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The digest of all that an operation copies.
pub(in crate::solve) fn op_hash<'t>(
    session: &Session<'_>,
    op: &CopyOp,
    tree: &dyn Fn(&MountFrom) -> Result<CopySourceTree<'t>, Stop>,
) -> Result<String, Stop> {
    let mut key =
        KeyBuilder::new("sources").field("chmod", op.chmod.as_deref().unwrap_or_default()).list("exclude", &op.exclude);
    for source in &op.sources {
        key = match source {
            CopySource::Files { from, pattern, parents, .. } => {
                key.field("content", selection_hash(&tree(from)?, pattern, parents.as_deref(), &op.exclude)?)
            }
            CopySource::Inline { name, data } => key.field("inline", name).field("data", data),
            CopySource::Http { url, checksum, .. } => {
                key.field("url", session.download(url, checksum.as_deref())?.digest())
            }
            CopySource::Git { url, checksum, keep_git_dir } => {
                key.field("git", remote::load_added(session, url, checksum.as_deref(), *keep_git_dir, None)?.key)
            }
        };
    }
    Ok(key.finish().as_str().trim_start_matches("sha256:").to_owned())
}

/// Copies all sources into a change.
pub(in crate::solve) fn perform<'t>(
    session: &Session<'_>,
    change: &Change,
    op: &CopyOp,
    tree: &dyn Fn(&MountFrom) -> Result<CopySourceTree<'t>, Stop>,
) -> Result<(), Stop> {
    let mount = change.mount()?;
    let dest = Root::open(mount.target(), session.ownership())?;
    let chown = op.chown.as_deref().map(|spec| owner_of(&dest, spec));
    let mode = op.chmod.as_deref().and_then(ModeChange::parse);
    let chmod = |bits: u32, is_dir: bool| mode.as_ref().map_or(bits, |mode| mode.apply(bits, is_dir));
    let time = session.options().source_date_epoch.map(|seconds| Timestamp { seconds, nanoseconds: 0 });
    let to = Path::new(&op.dest);
    let options = CopyOptions {
        chown,
        chmod: mode.as_ref().map(|_| &chmod as &rootfs::ChangeMode<'_>),
        time,
        // Directories made on the way get the mode too, if it is one for all.
        parents: (mode.as_ref().and_then(ModeChange::fixed).unwrap_or(0o755), chown.unwrap_or((0, 0))),
        ..CopyOptions::default()
    };
    for from in &op.sources {
        session.check()?;
        match from {
            CopySource::Files { from, pattern, parents, unpack } => {
                let tree = tree(from)?;
                let source = tree.source();
                let selection = Selection::new(parents.as_deref(), &op.exclude)?;
                let filter = |path: &Path| selection.shown(path);
                let filter: Option<&rootfs::Filter<'_>> = if selection.is_all() { None } else { Some(&filter) };
                for path in find(&source, pattern)? {
                    if *unpack
                        && try_unpack(session, &source, &path, &dest, to, chown)
                            .map_err(|error| failed(&error, &dest, to))?
                    {
                        continue;
                    }
                    let options = CopyOptions { filter, ..options };
                    rootfs::copy(&source, &path, &dest, to, options).map_err(|error| failed(&error, &dest, to))?;
                }
            }
            CopySource::Inline { name, data } => {
                let dir = session.scratch_dir()?;
                let root = Root::open(&dir, session.ownership())?;
                let name = Path::new(name.trim_start_matches('/'));
                let file_name = name.file_name().map(PathBuf::from).unwrap_or_default();
                let node = root.create_file(&file_name)?;
                if let Some(mut file) = node.file() {
                    file.write_all(data)?;
                }
                node.chmod(0o644)?;
                rootfs::copy(&Source::new(&root), &file_name, &dest, to, options)
                    .map_err(|error| failed(&error, &dest, to))?;
            }
            CopySource::Http { url, checksum, file_name, unpack } => {
                let file = session.download(url, checksum.as_deref())?.named(session, file_name)?;
                let root = Root::open(file.directory(), session.ownership())?;
                let source = Source::new(&root);
                let path = Path::new(file.name());
                if *unpack
                    && try_unpack(session, &source, path, &dest, to, chown)
                        .map_err(|error| failed(&error, &dest, to))?
                {
                    continue;
                }
                rootfs::copy(&source, path, &dest, to, options).map_err(|error| failed(&error, &dest, to))?;
            }
            CopySource::Git { url, checksum, keep_git_dir } => {
                let files = remote::load_added(session, url, checksum.as_deref(), *keep_git_dir, None)?;
                let root = Root::open(&files.path, session.ownership())?;
                // The daemon, which clones, is root.
                let source = Source { owner: Some((0, 0)), ..Source::new(&root) };
                rootfs::copy(&source, Path::new("/"), &dest, to, options).map_err(|error| failed(&error, &dest, to))?;
            }
        }
    }
    Ok(())
}

fn failed(error: &RootfsError, dest: &Root, to: &Path) -> Stop {
    if let RootfsError::Root(root) = error
        && root.kind() == std::io::ErrorKind::NotADirectory
        && let Some((file, below)) = in_the_way(dest, to)
    {
        return instruction_failed(match below {
            Some(below) => format!("lstat {}: not a directory", below.display()),
            None => format!("mkdir {}: not a directory", file.display()),
        });
    }
    match docker_text(error) {
        Some(text) => instruction_failed(text),
        None => Stop::own(error),
    }
}
