//! Removal of whole trees.
use std::ffi::{OsStr, OsString};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::dir::Dir;
use super::error::Result;
use super::node::chmod_unopened;
use super::stack::DirStack;

struct Level {
    /// Subdirectories that are still there.
    dirs: Vec<OsString>,
}

/// Removes the directory `name` of `parent` with all that is in it.
pub(super) fn remove_dir_tree(parent: &Dir, name: &OsStr) -> Result<()> {
    let use_proc = parent.shared().use_proc;
    let mut stack = DirStack::new(parent.clone());
    let mut levels: Vec<Level> = Vec::new();
    let mut next = Some(name.to_os_string());
    loop {
        if let Some(name) = next.take() {
            let dir = stack.top()?;
            let child =
                open_writable(&dir, &name, use_proc).map_err(|errno| dir.error("open the directory", &name, errno))?;
            let mut level = Level { dirs: Vec::new() };
            empty(&child, &mut level)?;
            stack.push(name, child);
            levels.push(level);
        }
        match levels.last_mut() {
            None => return Ok(()),
            Some(level) => match level.dirs.pop() {
                Some(name) => next = Some(name),
                None => {
                    levels.pop();
                    let name = stack.pop();
                    let dir = stack.top()?;
                    rustix::fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR)
                        .map_err(|errno| dir.error("remove the directory", &name, errno))?;
                }
            },
        }
    }
}

fn open_writable(dir: &Dir, name: &OsStr, use_proc: bool) -> std::result::Result<Dir, Errno> {
    let stored = dir.stored(name)?;
    // Listing and emptying a directory needs all three; root has them anyway and is spared the call.
    if stored.is_dir() && stored.mode & 0o700 != 0o700 && dir.shared().ids.0 == stored.uid {
        chmod_unopened(dir, name, Mode::RWXU, use_proc)?;
    }
    dir.open_dir_raw(name)
}

/// Removes the files in a directory and notes its subdirectories.
fn empty(dir: &Dir, level: &mut Level) -> Result<()> {
    let mut files = Vec::new();
    dir.each_name(|name, is_dir| {
        if is_dir {
            level.dirs.push(name.to_os_string());
        } else {
            files.push(name.to_os_string());
        }
    })
    .map_err(|errno| super::RootError::io("list", dir.path(), errno))?;
    for name in files {
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A file system that does not tell types while listing.
            Err(Errno::ISDIR) => level.dirs.push(name),
            Err(errno) => return Err(dir.error("remove", &name, errno)),
        }
    }
    Ok(())
}
