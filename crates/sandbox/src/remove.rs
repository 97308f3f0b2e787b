//! Removes directory trees of hostile making: any depth, any mode, any name, symbolic links never followed.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Directories held open at once; a deeper tree is folded, so that depth costs neither descriptors nor stack.
const MAX_DEPTH: usize = 64;

/// Names held at once for each directory, so that the largest costs little memory.
const BATCH: usize = 4096;

/// Why a tree could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The kernel refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Removes `path` and all beneath it, without following symbolic links; a missing one is no error.
///
/// # Errors
/// The first that hindered it.
pub fn remove_tree(path: &Path) -> Result<(), RemoveError> {
    let failed = |action, path: PathBuf, error: Errno| RemoveError::Io { action, path, source: error.into() };
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(failed("remove", path.to_owned(), error)),
    }
    let mut stack = vec![Level::open(CWD, path).map_err(|error| failed("open", path.to_owned(), error))?];
    let mut folded = 0u64;
    loop {
        let depth = stack.len();
        let Some(level) = stack.last_mut() else { break };
        let Some(name) = level.names.pop() else {
            // There may be more than one batch, and folding puts more into the first level.
            if level.reread().map_err(|error| failed("read", path.to_owned(), error))? {
                continue;
            }
            let done = stack.pop();
            if let (Some(parent), Some(done)) = (stack.last(), done) {
                unlinkat(&parent.fd, &done.name, AtFlags::REMOVEDIR)
                    .map_err(|error| failed("remove", describe(path, &stack, &done.name), error))?;
            }
            continue;
        };
        match unlinkat(&level.fd, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(failed("remove", describe(path, &stack, &name), error)),
        }
        if depth >= MAX_DEPTH {
            folded += 1;
            let to = CString::new(format!(".rbuild-removed-{folded}")).unwrap_or_default();
            let (from, base) = (stack[depth - 1].fd.as_fd(), stack[0].fd.as_fd());
            renameat(from, &name, base, &to).map_err(|error| failed("move", describe(path, &stack, &name), error))?;
            continue;
        }
        let next = Level::open(level.fd.as_fd(), &name);
        stack.push(next.map_err(|error| failed("open", describe(path, &stack, &name), error))?);
    }
    unlinkat(CWD, path, AtFlags::REMOVEDIR).map_err(|error| failed("remove", path.to_owned(), error))
}

fn describe(path: &Path, stack: &[Level], name: &CString) -> PathBuf {
    let mut path = path.to_owned();
    path.extend(stack.iter().skip(1).map(|level| OsStr::from_bytes(level.name.as_bytes())));
    path.join(OsStr::from_bytes(name.as_bytes()))
}

struct Level {
    fd: OwnedFd,
    name: CString,
    names: Vec<CString>,
}

impl Level {
    fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<Self, Errno> {
        let name = name.into_c_str()?.into_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat(&parent, &name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                // A directory of our own without permissions; never through a symbolic link.
                if FileType::from_raw_mode(statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                    != FileType::Directory
                {
                    return Err(Errno::NOTDIR);
                }
                chmodat(&parent, &name, Mode::RWXU, AtFlags::empty())?;
                openat(&parent, &name, flags, Mode::empty())?
            }
            other => other?,
        };
        let mut level = Self { fd, name, names: Vec::new() };
        level.reread()?;
        Ok(level)
    }

    /// Whether there is anything.
    fn reread(&mut self) -> Result<bool, Errno> {
        // Entries of a directory without write permission cannot be removed, not even by its owner.
        let status = rustix::fs::fstat(&self.fd)?;
        if Mode::from_raw_mode(status.st_mode) & Mode::RWXU != Mode::RWXU {
            let _ = rustix::fs::fchmod(&self.fd, Mode::RWXU);
        }
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            if self.names.len() == BATCH {
                break;
            }
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.names.push(entry.file_name().to_owned());
            }
        }
        Ok(!self.names.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn deep_closed_and_linked_trees_go() {
        let base = std::env::temp_dir().join(format!("rbuild-remove-{}", std::process::id()));
        fs::create_dir_all(base.join("tree/closed/inner")).unwrap();
        fs::write(base.join("tree/closed/inner/file"), "").unwrap();
        fs::write(base.join("kept"), "").unwrap();
        std::os::unix::fs::symlink("../kept", base.join("tree/link")).unwrap();
        std::os::unix::fs::symlink("..", base.join("tree/up")).unwrap();
        let mut deep = rustix::fs::open(base.join("tree"), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..500 {
            rustix::fs::mkdirat(&deep, "some-longer-name-so-that-the-path-is-too-long", Mode::RWXU).unwrap();
            deep = openat(&deep, "some-longer-name-so-that-the-path-is-too-long", OFlags::PATH, Mode::empty()).unwrap();
        }
        fs::set_permissions(base.join("tree/closed/inner"), fs::Permissions::from_mode(0o0)).unwrap();
        fs::set_permissions(base.join("tree/closed"), fs::Permissions::from_mode(0o0)).unwrap();
        remove_tree(&base.join("tree")).unwrap();
        assert!(!base.join("tree").exists());
        assert!(base.join("kept").exists());
        remove_tree(&base.join("tree")).unwrap();
        remove_tree(&base).unwrap();
        assert!(!base.exists());
    }
}
