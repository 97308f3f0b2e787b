//! Resolution of paths so that nothing leads out of the root.
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Symbolic links followed in one path before `ELOOP`, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// A path resolved component by component.
pub(super) struct Resolved {
    /// The directories on the way, each with its name.
    dirs: Vec<(OsString, OwnedFd)>,
    /// An existing last component that is no directory.
    last: Option<OsString>,
    /// Components that do not exist.
    missing: Vec<OsString>,
    /// Whether `..` was met at the root before an absolute link had led there.
    escaped: bool,
}

impl Resolved {
    /// The canonical path inside the root, without a leading slash; empty for the root itself.
    pub(super) fn path(&self) -> PathBuf {
        self.dirs
            .iter()
            .map(|(name, _)| name.as_os_str())
            .chain(self.last.as_deref())
            .chain(self.missing.iter().map(OsString::as_os_str))
            .collect()
    }

    /// Whether the path would lead out of a root that does not hold `..` back.
    pub(super) fn escaped(&self) -> bool {
        self.escaped
    }

    /// Whether every component exists.
    pub(super) fn exists(&self) -> bool {
        self.missing.is_empty()
    }
}

fn push_front(pending: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => pending.push_front(name.to_os_string()),
            Component::ParentDir => pending.push_front(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// Resolves `path` step by step without letting the kernel follow anything.
pub(super) fn resolve_steps(root: BorrowedFd<'_>, path: &Path, follow_last: bool) -> Result<Resolved, Errno> {
    let mut resolved = Resolved { dirs: Vec::new(), last: None, missing: Vec::new(), escaped: false };
    let mut absolute = false;
    let mut pending = VecDeque::new();
    push_front(&mut pending, path);
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            let at_root = resolved.dirs.pop().is_none();
            resolved.escaped |= at_root && !absolute;
            continue;
        }
        let current = resolved.dirs.last().map_or(root, |(_, fd)| fd.as_fd());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(current, &name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                resolved.missing.push(name);
                for rest in pending {
                    if rest == ".." {
                        if resolved.missing.pop().is_none() {
                            resolved.dirs.pop();
                        }
                    } else {
                        resolved.missing.push(rest);
                    }
                }
                break;
            }
            Err(errno) => return Err(errno),
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Directory => resolved.dirs.push((name, fd)),
            FileType::Symlink if follow_last || !pending.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    absolute = true;
                    resolved.dirs.clear();
                }
                push_front(&mut pending, target);
            }
            _ if pending.is_empty() => resolved.last = Some(name),
            _ => return Err(Errno::NOTDIR),
        }
    }
    Ok(resolved)
}

/// Opens paths inside a root, with `openat2` where the kernel and its filters allow it.
#[derive(Debug)]
pub(super) struct Resolver {
    openat2: AtomicBool,
}

impl Resolver {
    pub(super) fn new(openat2: bool) -> Self {
        Resolver { openat2: AtomicBool::new(openat2) }
    }

    /// Opens `path` with `flags`; the last component is followed unless `flags` has `NOFOLLOW`.
    pub(super) fn open(&self, root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut attempts = 0;
        while self.openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(root, path, flags, mode, resolve) {
                // A rename elsewhere raced with `..`: openat2(2) asks for another try.
                Err(Errno::AGAIN) if attempts < 128 => attempts += 1,
                // Refused by a filter that does not know the call, or missing (before Linux 5.6); EPERM can also be
                // the file's own answer, then the steps below find it again.
                Err(Errno::NOSYS) => self.openat2.store(false, Ordering::Relaxed),
                Err(Errno::PERM | Errno::AGAIN) => break,
                result => return result,
            }
        }
        self.open_steps(root, path, flags, mode)
    }

    fn open_steps(&self, root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolved = resolve_steps(root, path, !flags.contains(OFlags::NOFOLLOW))?;
        let parent = resolved.dirs.last().map_or(root, |(_, fd)| fd.as_fd());
        let flags = flags | OFlags::NOFOLLOW;
        match (&resolved.last, resolved.missing.as_slice()) {
            (Some(name), []) => rustix::fs::openat(parent, name, flags, mode),
            (None, []) => rustix::fs::openat(parent, ".", flags, mode),
            (_, [name]) if flags.contains(OFlags::CREATE) => rustix::fs::openat(parent, name, flags, mode),
            _ => Err(Errno::NOENT),
        }
    }
}
