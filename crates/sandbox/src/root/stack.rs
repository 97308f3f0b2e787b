//! The open directories from a start down to where a walk is.
use std::ffi::OsString;

use super::dir::Dir;
use super::error::Result;

/// Directories kept open at most; the soft limit of descriptors is often 1024 and others need some.
const OPEN_LEVELS: usize = 128;

/// A stack of directories of any depth with a bounded number of open handles. Handles that were closed are opened again
/// name by name, so that no path is ever longer than the kernel takes.
#[derive(Debug)]
pub(super) struct DirStack {
    start: Dir,
    levels: Vec<(OsString, Option<Dir>)>,
}

impl DirStack {
    pub(super) fn new(start: Dir) -> Self {
        DirStack { start, levels: Vec::new() }
    }

    pub(super) fn push(&mut self, name: OsString, dir: Dir) {
        self.levels.push((name, Some(dir)));
        if let Some(far) = self.levels.len().checked_sub(OPEN_LEVELS + 1)
            && let Some((_, handle)) = self.levels.get_mut(far)
        {
            *handle = None;
        }
    }

    /// Leaves the innermost directory and returns its name.
    pub(super) fn pop(&mut self) -> OsString {
        self.levels.pop().map(|(name, _)| name).unwrap_or_default()
    }

    /// The innermost directory.
    pub(super) fn top(&mut self) -> Result<Dir> {
        match self.levels.last() {
            None => return Ok(self.start.clone()),
            Some((_, Some(dir))) => return Ok(dir.clone()),
            Some((_, None)) => {}
        }
        let mut dir = self.start.clone();
        let keep_from = self.levels.len().saturating_sub(OPEN_LEVELS / 2);
        for (depth, (name, handle)) in self.levels.iter_mut().enumerate() {
            dir = dir.open_dir(name)?;
            if depth >= keep_from {
                *handle = Some(dir.clone());
            }
        }
        Ok(dir)
    }
}
