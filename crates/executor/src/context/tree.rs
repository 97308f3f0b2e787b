//! A directory read in place: never outside of it, whatever links it holds and whoever changes it meanwhile.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rbuild_sandbox::root::{Metadata, Ownership, Root, RootError};
use rustix::fs::AtFlags;

use super::ContextError;
use crate::rootfs::KnownFiles;

/// A root directory, held open.
#[derive(Debug)]
pub(super) struct SourceTree {
    path: PathBuf,
    root: Root,
    known: KnownFiles,
}

/// What to do after a file was visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on; a directory is entered, and cannot be read only on pain of an error.
    Enter,
    /// Go on; a directory is entered as far as permissions allow.
    EnterIfAllowed,
    /// Go on; a directory is not entered.
    Skip,
}

/// A file met in a walk.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Relative to the root.
    pub(super) path: PathBuf,
    pub(super) status: Metadata,
    /// Target of a symbolic link.
    pub(super) target: Option<PathBuf>,
}

/// The file is not there (any more), or a parent is no directory.
pub(super) fn is_absent(error: &RootError) -> bool {
    const NOTDIR: i32 = rustix::io::Errno::NOTDIR.raw_os_error();
    const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();
    error.is_not_found() || matches!(error.errno(), Some(NOTDIR | LOOP))
}

/// The kernel refused for lack of permission.
pub(super) fn is_denied(error: &RootError) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

impl SourceTree {
    /// Opens a directory; links in `path` itself are followed.
    pub(super) fn open(path: &Path, ownership: Ownership) -> Result<Self, ContextError> {
        let root = Root::open(path, ownership).map_err(|source| ContextError::root(path, source))?;
        let known = KnownFiles::new(&root);
        Ok(Self { path: path.to_owned(), root, known })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    pub(super) fn failed(&self, path: &Path, source: RootError) -> ContextError {
        ContextError::root(&self.path.join(path), source)
    }

    /// The file at this path, no link followed; `None` if there is none.
    pub(super) fn node(&self, path: &Path) -> Result<Option<Node>, ContextError> {
        let inspected = self.root.lstat(path).and_then(|status| {
            let target = if status.is_symlink() { Some(self.root.read_link(path)?) } else { None };
            Ok(Node { path: path.to_owned(), status, target })
        });
        match inspected {
            Ok(node) => Ok(Some(node)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed(path, error)),
        }
    }

    /// Opens a file for reading, following links inside the root; never waits for a FIFO's other end.
    pub(super) fn file(&self, path: &Path) -> Result<File, RootError> {
        self.root.open_file(path)
    }

    /// Whether a file that is no symbolic link may be read.
    pub(super) fn is_readable(&self, path: &Path) -> bool {
        let place = self.root.parent(path).ok();
        let access = rustix::fs::Access::READ_OK;
        place.is_some_and(|(dir, name)| rustix::fs::accessat(&dir, &name, access, AtFlags::empty()).is_ok())
    }

    /// The bytes of a small file (a Dockerfile, an ignore file), refusing more than `limit`.
    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, RootError> {
        self.root.read(path, limit)
    }

    /// What is known of its files from earlier.
    pub(super) fn known(&self) -> &KnownFiles {
        &self.known
    }

    /// Extended attributes of a file, as far as they can be read.
    pub(super) fn xattrs(&self, node: &Node) -> Vec<(OsString, Vec<u8>)> {
        if self.known.is_plain(&node.status) {
            return Vec::new();
        }
        let Ok(xattrs) = self.root.xattrs(&node.path) else { return Vec::new() };
        if xattrs.is_empty() {
            self.known.set_plain(&node.status);
        }
        xattrs
    }

    /// Names in a directory, in byte order.
    pub(super) fn names(&self, path: &Path) -> Result<Vec<OsString>, RootError> {
        self.root.read_dir(path)
    }

    /// Visits every file but the root itself, depth first, names in byte order. What goes away meanwhile is passed over.
    pub(super) fn walk(&self, visit: &mut dyn FnMut(&Node) -> Result<Step, ContextError>) -> Result<(), ContextError> {
        // A level holds the names that are left, not a descriptor: a tree may be deeper than there are descriptors.
        let mut levels: Vec<(PathBuf, std::vec::IntoIter<OsString>)> = Vec::new();
        levels.extend(self.level(Path::new(""), Step::Enter)?);
        while let Some((directory, names)) = levels.last_mut() {
            let Some(name) = names.next() else {
                levels.pop();
                continue;
            };
            let path = directory.join(name);
            let Some(node) = self.node(&path)? else {
                continue;
            };
            let step = visit(&node)?;
            if step != Step::Skip && node.status.is_dir() {
                levels.extend(self.level(&path, step)?);
            }
        }
        Ok(())
    }

    fn level(&self, path: &Path, step: Step) -> Result<Option<(PathBuf, std::vec::IntoIter<OsString>)>, ContextError> {
        match self.names(path) {
            Ok(names) => Ok(Some((path.to_owned(), names.into_iter()))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) if is_denied(&error) && step == Step::EnterIfAllowed => Ok(None),
            Err(error) if is_denied(&error) => Err(ContextError::DirectoryDenied { path: path.to_owned() }),
            Err(error) => Err(self.failed(path, error)),
        }
    }
}

/// Reads to the end of a stream, refusing more than `limit` bytes.
pub(super) fn read_limited(input: impl Read, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    input.take(limit.saturating_add(1)).read_to_end(&mut data)?;
    if data.len() as u64 > limit {
        return Err(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
    }
    Ok(data)
}
