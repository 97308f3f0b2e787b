//! A tree to copy from or to hash, as the builder sees it.
use std::path::{Path, PathBuf};

use rbuild_sandbox::root::{Dir, Found, Metadata, Root, Visit, Walk};

use super::error::Result;
use super::known_files::KnownFiles;

/// What of a path is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The file, and what is in it as far as that is shown itself.
    Yes,
    /// Nothing.
    No,
    /// Not the directory, but perhaps something in it; the directory then is there for its sake.
    Inside,
}

impl Shown {
    /// What is left if both have a say.
    fn and(self, other: Shown) -> Shown {
        match (self, other) {
            (Shown::No, _) | (_, Shown::No) => Shown::No,
            (Shown::Inside, _) | (_, Shown::Inside) => Shown::Inside,
            (Shown::Yes, Shown::Yes) => Shown::Yes,
        }
    }
}

/// Tells what of a path is seen; the path is relative, without a leading slash.
pub type Filter<'a> = dyn Fn(&Path) -> Shown + Sync + 'a;

/// A tree to copy from: a context, or the merged file system of a stage or an image.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The tree.
    pub root: &'a Root,
    /// What the ignore file leaves of it; nothing is hidden without.
    pub filter: Option<&'a Filter<'a>>,
    /// The owner that every file is seen to have: 0:0 for a directory context, whose real owners Docker does not send.
    pub owner: Option<(u32, u32)>,
    /// Whether file capabilities are seen. BuildKit loses those of a context on the way to the daemon.
    pub capabilities: bool,
    /// What is known of its files from earlier.
    pub known: Option<&'a KnownFiles>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("root", self.root)
            .field("filtered", &self.filter.is_some())
            .field("owner", &self.owner)
            .field("capabilities", &self.capabilities)
            .finish()
    }
}

impl<'a> Source<'a> {
    /// A whole tree with its own owners and attributes.
    #[must_use]
    pub fn new(root: &'a Root) -> Self {
        Source { root, filter: None, owner: None, capabilities: true, known: None }
    }

    /// What is seen of a path.
    #[must_use]
    pub fn shown(&self, path: &Path) -> Shown {
        match self.filter {
            Some(filter) if !path.as_os_str().is_empty() => filter(path),
            _ => Shown::Yes,
        }
    }

    /// The file at a path, if it is there and seen; a symbolic link at the end is not followed.
    ///
    /// # Errors
    /// Fails if it cannot be told.
    pub fn lstat(&self, path: &Path) -> Result<Option<Metadata>> {
        let path = self.root.resolve_parent(path)?;
        if self.shown(&path) == Shown::No {
            return Ok(None);
        }
        let metadata = self.root.try_lstat(&path)?;
        Ok(metadata.map(|metadata| self.seen(metadata)))
    }

    pub(super) fn seen(&self, mut metadata: Metadata) -> Metadata {
        if let Some((uid, gid)) = self.owner {
            metadata.uid = uid;
            metadata.gid = gid;
        }
        metadata
    }

    /// The extended attributes that are seen of a file of this status.
    pub(super) fn xattrs(
        &self,
        dir: &Dir,
        name: &std::ffi::OsStr,
        metadata: &Metadata,
    ) -> Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
        if self.known.is_some_and(|known| known.is_plain(metadata)) {
            return Ok(Vec::new());
        }
        let mut xattrs = dir.xattrs(name)?;
        if let Some(known) = self.known.filter(|_| xattrs.is_empty()) {
            known.set_plain(metadata);
        }
        if !self.capabilities {
            xattrs.retain(|(name, _)| name != rbuild_sandbox::root::CAPABILITY);
        }
        Ok(xattrs)
    }

    /// Walks what is seen below a directory given by its canonical path.
    /// A further filter goes by the path from there.
    pub(super) fn walk<'w>(&self, path: &Path, filter: Option<&'w Filter<'w>>) -> Result<SourceWalk<'w>>
    where
        'a: 'w,
    {
        Ok(SourceWalk {
            filter,
            source: *self,
            base: path.to_path_buf(),
            walk: self.root.walk(path)?,
            pending: Vec::new(),
            queue: std::collections::VecDeque::new(),
        })
    }
}

/// A walk over what is seen. Directories that are not seen themselves come when something in them does.
pub(super) struct SourceWalk<'a> {
    source: Source<'a>,
    filter: Option<&'a Filter<'a>>,
    base: PathBuf,
    walk: Walk,
    /// Entered directories that are there only for what may be in them.
    pending: Vec<Found>,
    queue: std::collections::VecDeque<Visit>,
}

impl SourceWalk<'_> {
    /// Leaves out what is in the directory just entered.
    pub(super) fn skip_dir(&mut self) {
        self.walk.skip_dir();
    }

    pub(super) fn next(&mut self) -> Result<Option<Visit>> {
        loop {
            if let Some(visit) = self.queue.pop_front() {
                return Ok(Some(visit));
            }
            let Some(visit) = self.walk.next() else {
                return Ok(None);
            };
            match visit? {
                Visit::Enter(mut found) => {
                    let is_dir = found.metadata.is_dir();
                    found.metadata = self.source.seen(found.metadata);
                    let shown = self.source.shown(&self.base.join(&found.path));
                    let wanted = self.filter.map_or(Shown::Yes, |filter| filter(&found.path));
                    match shown.and(wanted) {
                        Shown::Yes => {
                            self.queue.extend(self.pending.drain(..).map(Visit::Enter));
                            if self.queue.is_empty() {
                                return Ok(Some(Visit::Enter(found)));
                            }
                            self.queue.push_back(Visit::Enter(found));
                        }
                        Shown::Inside if is_dir => self.pending.push(found),
                        _ => self.walk.skip_dir(),
                    }
                }
                Visit::Leave(found) => {
                    if self.pending.last().is_some_and(|dir| dir.path == found.path) {
                        self.pending.pop();
                    } else {
                        return Ok(Some(Visit::Leave(found)));
                    }
                }
            }
        }
    }
}
