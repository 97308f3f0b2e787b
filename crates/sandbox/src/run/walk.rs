//! Finds and makes mount points inside a root that is not trusted: one component at a time, each opened without
//! following, so that no symbolic link leads outside.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing: it is an error.
    Refuse,
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Something that is about to be made: its real path, whether it is a directory, and the directory that will hold it.
pub(super) type OnMake<'a> = dyn FnMut(&Path, bool, BorrowedFd<'_>) -> Result<(), Errno> + 'a;

const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The file at `path` inside `root`, opened as a mere handle, and its real path inside. Directories on the way to a
/// missing one are made as well.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
    on_make: &mut OnMake<'_>,
) -> Result<(OwnedFd, PathBuf), Errno> {
    let mut queue = components(path.as_os_str().as_bytes());
    let mut stack: Vec<(OwnedFd, OsString)> = Vec::new();
    let mut links = 0;
    while let Some(name) = queue.pop_front() {
        if name == ".." {
            stack.pop();
            continue;
        }
        let parent = stack.last().map_or(root, |(fd, _)| fd.as_fd());
        let found = match openat(parent, &name, HANDLE, Mode::empty()) {
            Err(Errno::NOENT) if missing != Missing::Refuse => {
                let directory = missing == Missing::Directory || !queue.is_empty();
                let path: PathBuf = stack.iter().map(|(_, name)| name.as_os_str()).chain([name.as_os_str()]).collect();
                on_make(&path, directory, parent)?;
                make(parent, &name, directory)?
            }
            other => other?,
        };
        if FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = readlinkat(&found, "", Vec::new())?.into_bytes();
            if target.first() == Some(&b'/') {
                stack.clear();
            }
            let mut expanded = components(&target);
            expanded.append(&mut queue);
            queue = expanded;
            continue;
        }
        stack.push((found, name));
    }
    let real = stack.iter().map(|(_, name)| name.as_os_str()).collect();
    match stack.pop() {
        Some((fd, _)) => Ok((fd, real)),
        None => Ok((openat(root, ".", HANDLE | OFlags::DIRECTORY, Mode::empty())?, real)),
    }
}

/// Makes nothing.
pub(super) fn find(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside) {
        Ok(found) => return Ok(found),
        // An empty path, which is the root itself, is no path for the kernel.
        Err(Errno::NOENT) if !path.as_os_str().is_empty() => return Err(Errno::NOENT),
        // A seccomp filter, a rename elsewhere meanwhile, a magic link, a slash after a file: step by step.
        Err(_) => {}
    }
    walk(root, path, Missing::Refuse, &mut |_, _, _| Ok(())).map(|(fd, _)| fd)
}

fn components(path: &[u8]) -> VecDeque<OsString> {
    path.split(|&b| b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

fn make(parent: BorrowedFd<'_>, name: &OsStr, directory: bool) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o755);
    if directory {
        mkdirat(parent, name, mode)?;
    } else {
        openat(
            parent,
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            mode,
        )?;
    }
    openat(parent, name, HANDLE, Mode::empty())
}

/// Whether a handle is that of a directory.
pub(super) fn is_directory(fd: impl AsFd) -> Result<bool, Errno> {
    let status = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

/// The components of a path without `.` and with `..` taken away, as if there were no symbolic link.
pub(super) fn lexical(path: &Path) -> PathBuf {
    let mut clean: Vec<OsString> = Vec::new();
    for name in components(path.as_os_str().as_bytes()) {
        if name == ".." {
            clean.pop();
        } else {
            clean.push(name);
        }
    }
    clean.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::{fs, os::unix::fs::symlink};

    fn root() -> (tempdir::Dir, OwnedFd) {
        let dir = tempdir::Dir::new();
        let fd = openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        (dir, fd)
    }

    mod tempdir {
        use std::{
            path::{Path, PathBuf},
            sync::atomic::{AtomicU32, Ordering},
        };

        pub(super) struct Dir(PathBuf);

        impl Dir {
            pub(super) fn new() -> Self {
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let name = format!("rbuild-walk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
                let path = std::env::temp_dir().join(name);
                std::fs::create_dir_all(path.join("root/sub")).unwrap();
                Self(path)
            }

            pub(super) fn path(&self) -> PathBuf {
                self.0.join("root")
            }

            pub(super) fn outside(&self) -> &Path {
                &self.0
            }
        }

        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = crate::remove_tree(&self.0);
            }
        }
    }

    #[test]
    fn links_stay_inside() {
        let (dir, fd) = root();
        fs::create_dir(dir.outside().join("etc")).unwrap();
        symlink("/etc", dir.path().join("absolute")).unwrap();
        symlink("../../../../etc", dir.path().join("sub/up")).unwrap();
        for (path, made) in
            [("absolute/x", vec!["etc", "etc/x"]), ("/sub/up/y", vec!["etc/y"]), ("../../z/.", vec!["z"])]
        {
            let mut seen = Vec::new();
            walk(fd.as_fd(), Path::new(path), Missing::Directory, &mut |path, _, _| {
                seen.push(path.to_str().unwrap().to_owned());
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, made, "{path}");
        }
        assert!(dir.path().join("etc/x").is_dir() && dir.path().join("etc/y").is_dir());
        assert_eq!(fs::read_dir(dir.outside().join("etc")).unwrap().count(), 0);
    }

    #[test]
    fn loops_and_files_on_the_way_are_errors() {
        let (dir, fd) = root();
        symlink("loop", dir.path().join("loop")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let go = |path: &str, missing| walk(fd.as_fd(), Path::new(path), missing, &mut |_, _, _| Ok(())).map(|_| ());
        assert_eq!(go("loop/x", Missing::Directory), Err(Errno::LOOP));
        assert_eq!(go("file/x", Missing::Directory), Err(Errno::NOTDIR));
        assert_eq!(go("none", Missing::Refuse), Err(Errno::NOENT));
        assert_eq!(go("a/b", Missing::File), Ok(()));
        assert!(dir.path().join("a/b").is_file());
        assert_eq!(lexical(Path::new("/a/./b/../../../c//d/")), Path::new("c/d"));
    }
}
