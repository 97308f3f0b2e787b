//! Walking a tree in a fixed order.
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::dir::Dir;
use super::error::Result;
use super::metadata::Metadata;
use super::stack::DirStack;

/// A file met on a walk.
#[derive(Debug, Clone)]
pub struct Found {
    /// The directory that holds it.
    pub dir: Dir,
    /// Its name there.
    pub name: OsString,
    /// Its path from the start of the walk.
    pub path: PathBuf,
    /// What it is.
    pub metadata: Metadata,
}

/// One step of a walk.
#[derive(Debug, Clone)]
pub enum Visit {
    /// A file or directory; a directory comes before what is in it.
    Enter(Found),
    /// A directory after all that is in it.
    Leave(Found),
}

#[derive(Debug)]
struct Level {
    names: std::vec::IntoIter<OsString>,
    metadata: Option<Metadata>,
}

/// A walk over everything below a directory: a directory, then its files sorted by the bytes of their names, each
/// directory with its content where its name stands, as Go's `filepath.Walk` goes. Nothing is followed, and the number
/// of open handles is bounded whatever the depth.
#[derive(Debug)]
pub struct Walk {
    stack: DirStack,
    levels: Vec<Level>,
    path: PathBuf,
    descend: Option<(OsString, Metadata)>,
    start: Option<Dir>,
}

impl Walk {
    pub(super) fn new(start: Dir) -> Self {
        Walk {
            stack: DirStack::new(start.clone()),
            levels: Vec::new(),
            path: PathBuf::new(),
            descend: None,
            start: Some(start),
        }
    }

    /// Leaves out what is in the directory that was just entered; then it is not left either.
    pub fn skip_dir(&mut self) {
        if self.descend.take().is_some() {
            self.path.pop();
        }
    }

    fn list(&mut self, dir: &Dir, metadata: Option<Metadata>) -> Result<()> {
        self.levels.push(Level { names: dir.read_names()?.into_iter(), metadata });
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Visit>> {
        if let Some(start) = self.start.take() {
            self.list(&start, None)?;
        }
        if let Some((name, metadata)) = self.descend.take() {
            let dir = self.stack.top()?.open_dir(&name)?;
            self.list(&dir, Some(metadata))?;
            self.stack.push(name, dir);
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(None);
        };
        if let Some(name) = level.names.next() {
            let dir = self.stack.top()?;
            let metadata = dir.lstat(&name)?;
            let path = self.path.join(&name);
            if metadata.is_dir() {
                self.path.push(&name);
                self.descend = Some((name.clone(), metadata.clone()));
            }
            return Ok(Some(Visit::Enter(Found { dir, name, path, metadata })));
        }
        let Some(Level { metadata: Some(metadata), .. }) = self.levels.pop() else {
            return Ok(None);
        };
        let name = self.stack.pop();
        let path = self.path.clone();
        self.path.pop();
        Ok(Some(Visit::Leave(Found { dir: self.stack.top()?, name, path, metadata })))
    }
}

impl Iterator for Walk {
    type Item = Result<Visit>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.step().transpose();
        if matches!(result, Some(Err(_))) {
            // A walk that failed has no place to go on from.
            self.levels.clear();
            self.descend = None;
        }
        result
    }
}

impl Found {
    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Fails if this is no symbolic link.
    pub fn read_link(&self) -> Result<PathBuf> {
        self.dir.read_link(&self.name)
    }

    /// One extended attribute; see [`Dir::xattr`].
    ///
    /// # Errors
    /// Fails if the attribute cannot be read.
    pub fn xattr(&self, attribute: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        self.dir.xattr(&self.name, attribute)
    }

    /// The path inside the root.
    #[must_use]
    pub fn path_in_root(&self) -> PathBuf {
        self.dir.path().join(Path::new(&self.name))
    }
}
