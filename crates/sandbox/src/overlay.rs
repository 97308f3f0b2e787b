//! Overlay mounts (kernel documentation, `filesystems/overlayfs.rst`).
//!
//! All mounts have `userxattr` (kernel 5.11), also those of real root, so that a layer written by one kind of worker
//! can be used by the other.

use crate::{bytes, remove::remove_tree};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// Whether what is written to an overlay is synced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// fsync(2) inside reaches the disk, and so does the unmounting.
    #[default]
    Synced,
    /// Nothing is synced (option `volatile`, kernel 5.10): much faster, and the upper directory may be damaged if the
    /// machine dies. For layers that are read, packed and synced elsewhere.
    Volatile,
}

/// A stack of directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The directories beneath, top first; may be empty. The kernel takes 500.
    #[serde(with = "bytes::path_list")]
    pub lower: Vec<PathBuf>,
    /// Takes all changes.
    #[serde(with = "bytes::path")]
    pub upper: PathBuf,
    /// An existing directory on the same file system as `upper`, outside of it, in which what the mount needs is made;
    /// to be removed with [`remove_tree`] after the last use.
    #[serde(with = "bytes::path")]
    pub work: PathBuf,
    /// Whether changes are synced.
    pub durability: Durability,
}

/// Why an overlay could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// A directory could not be made, opened or removed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel refused the overlay.
    #[error("cannot mount an overlay of {layers} layers: {action}{}", .detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Mount {
        /// Directories beneath.
        layers: usize,
        /// Which step failed.
        action: &'static str,
        /// What the kernel says about it.
        detail: Option<String>,
        /// The cause.
        source: io::Error,
    },
    /// The overlay does not behave as one.
    #[error("the overlay on `{}` does not work: {problem}", path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

impl OverlayError {
    /// The kernel's reason.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } | Self::Mount { source, .. } => source.raw_os_error(),
            Self::Broken { .. } => None,
        }
    }
}

/// A mounted overlay; unmounted when dropped.
#[derive(Debug)]
pub struct OverlayMount {
    target: Option<PathBuf>,
}

impl OverlayMount {
    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        self.target.as_deref().unwrap_or(Path::new(""))
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// Where it is in use.
    pub fn unmount(mut self) -> Result<(), OverlayError> {
        match self.target.take() {
            Some(target) => unmount(&target, UnmountFlags::NOFOLLOW).map_err(|error| OverlayError::Io {
                action: "unmount",
                path: target,
                source: error.into(),
            }),
            None => Ok(()),
        }
    }
}

impl Drop for OverlayMount {
    fn drop(&mut self) {
        if let Some(target) = self.target.take() {
            let _ = unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
}

/// Mounts an overlay on the existing directory `target`.
///
/// # Errors
/// Where a directory is missing or the kernel refuses.
pub fn mount_overlay(overlay: &Overlay, target: &Path) -> Result<OverlayMount, OverlayError> {
    let directory = open_directory(target)?;
    attach(overlay, None, directory.as_fd())?;
    Ok(OverlayMount { target: Some(target.to_owned()) })
}

/// Mounts two or more directories, top first, on the existing directory `target`, to be read only. Nothing is written to
/// disk for it, so that it costs a fraction of what an [`Overlay`] does.
///
/// # Errors
/// Where a directory is missing or the kernel refuses.
pub fn mount_layers(lower: &[PathBuf], target: &Path) -> Result<OverlayMount, OverlayError> {
    let directory = open_directory(target)?;
    let lower = lower.iter().map(|path| open_directory(path)).collect::<Result<Vec<_>, _>>()?;
    Stack { lower: &lower, changes: None }.attach(directory.as_fd())?;
    Ok(OverlayMount { target: Some(target.to_owned()) })
}

/// Mounts an overlay in a new directory inside `dir`, writes to it and takes it away: whether one works there.
///
/// # Errors
/// What failed.
pub fn probe_overlay(dir: &Path) -> Result<(), OverlayError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
    let name = format!(".rbuild-probe-{nanos:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let base = dir.join(name);
    let result = try_overlay(&base);
    let _ = remove_tree(&base);
    result
}

fn try_overlay(base: &Path) -> Result<(), OverlayError> {
    fs::create_dir(base).map_err(|source| OverlayError::Io { action: "create", path: base.to_owned(), source })?;
    let sub = |name: &str| make_directory(&base.join(name));
    let overlay = Overlay {
        lower: vec![sub("lower")?],
        upper: sub("upper")?,
        work: sub("work")?,
        durability: Durability::Volatile,
    };
    let target = sub("merged")?;
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OverlayError::Io { action, path, source }
    };
    let (in_lower, in_upper) = (overlay.lower[0].join("file"), overlay.upper.join("file"));
    fs::write(&in_lower, "lower").map_err(io("write", &in_lower))?;
    let hidden = sub("lower/directory").and_then(|_| sub("lower/directory/hidden"))?;
    let mounted = mount_overlay(&overlay, &target)?;
    let seen = target.join("file");
    fs::write(&seen, "upper").map_err(io("write", &seen))?;
    let broken = |problem| OverlayError::Broken { path: target.clone(), problem };
    if fs::read(&in_upper).ok().as_deref() != Some(b"upper") || fs::read(&in_lower).ok().as_deref() != Some(b"lower") {
        return Err(broken("a change did not go to the upper directory"));
    }
    fs::remove_file(&seen).map_err(io("remove", &seen))?;
    if seen.exists() || fs::symlink_metadata(&in_upper).is_err() {
        return Err(broken("a removal left no whiteout"));
    }
    // Where directories cannot be marked, what a lower one had would be seen again.
    let seen = target.join("directory");
    let anew = remove_tree(&seen).map_err(io::Error::other).and_then(|()| fs::create_dir(&seen));
    anew.map_err(io("make anew", &seen))?;
    if seen.join("hidden").exists() || !hidden.exists() {
        return Err(broken("a directory that is made anew shows what was in the former one"));
    }
    mounted.unmount()
}

/// Mounts an overlay on the directory `target`; `bottom` is one more layer under all others.
pub(crate) fn attach(overlay: &Overlay, bottom: Option<&Path>, target: BorrowedFd<'_>) -> Result<(), OverlayError> {
    let work = make_directory(&overlay.work.join("work"))?;
    // The kernel's mark that an upper directory may be damaged, since it was mounted without syncs; where the machine
    // died meanwhile, the caller does not come here.
    let mark = work.join("work/incompat/volatile");
    if mark.symlink_metadata().is_ok() {
        remove_tree(&mark).map_err(|error| OverlayError::Io {
            action: "remove",
            path: mark.clone(),
            source: io::Error::other(error),
        })?;
    }
    let mut lower: Vec<PathBuf> = overlay.lower.clone();
    lower.extend(bottom.map(Path::to_owned));
    if lower.is_empty() {
        lower.push(make_directory(&overlay.work.join("empty"))?);
    }
    // Named by descriptor: such a name is short, whatever the path, and has no character that is special in options.
    let lower = lower.iter().map(|path| open_directory(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open_directory(&overlay.upper)?, open_directory(&work)?);
    let changes = Changes { upper: &upper, work: &work, durability: overlay.durability };
    Stack { lower: &lower, changes: Some(changes) }.attach(target)
}

const OPEN: &str = "open the file system";
const ADD_LAYER: &str = "add a layer";
/// What mount(2) copies of its options, on every architecture at least.
const PAGE: usize = 4096;

struct Stack<'a> {
    lower: &'a [OwnedFd],
    /// Without them it is read only.
    changes: Option<Changes<'a>>,
}

struct Changes<'a> {
    upper: &'a OwnedFd,
    work: &'a OwnedFd,
    durability: Durability,
}

fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

impl Stack<'_> {
    fn error(&self, action: &'static str, error: Errno, context: Option<&OwnedFd>) -> OverlayError {
        let mut message = [0u8; 1024];
        let detail = context
            .and_then(|context| rustix::io::read(context, &mut message).ok())
            .and_then(|length| message.get(..length))
            .map(|text| String::from_utf8_lossy(text).trim().to_owned());
        OverlayError::Mount { layers: self.lower.len(), action, detail, source: error.into() }
    }

    fn attach(&self, target: BorrowedFd<'_>) -> Result<(), OverlayError> {
        match self.attach_one_by_one(target) {
            // `lowerdir+` is from kernel 6.7; some seccomp profiles refuse the new calls altogether.
            Err(OverlayError::Mount { action: ADD_LAYER | OPEN, .. }) => self.attach_at_once(target),
            other => other,
        }
    }

    fn attach_one_by_one(&self, target: BorrowedFd<'_>) -> Result<(), OverlayError> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| self.error(OPEN, error, None))?;
        let log = &context;
        let failed = |action: &'static str| move |error| self.error(action, error, Some(log));
        for layer in self.lower {
            fsconfig_set_string(&context, "lowerdir+", name_of(layer)).map_err(|e| self.error(ADD_LAYER, e, None))?;
        }
        if let Some(Changes { upper, work, durability }) = &self.changes {
            fsconfig_set_string(&context, "upperdir", name_of(upper)).map_err(failed("set the upper directory"))?;
            fsconfig_set_string(&context, "workdir", name_of(work)).map_err(failed("set the work directory"))?;
            if *durability == Durability::Volatile {
                fsconfig_set_flag(&context, "volatile").map_err(failed("do without syncs"))?;
            }
        }
        fsconfig_set_flag(&context, "userxattr").map_err(failed("use user attributes"))?;
        fsconfig_set_string(&context, "index", "off").map_err(failed("do without an index"))?;
        fsconfig_set_string(&context, "source", "overlay").map_err(failed("set the source"))?;
        fsconfig_create(&context).map_err(failed("create it"))?;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .map_err(failed("make a mount of it"))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mounted, "", target, "", flags).map_err(failed("attach it"))
    }

    /// With mount(2), whose options are limited to a page: about 220 layers.
    fn attach_at_once(&self, target: BorrowedFd<'_>) -> Result<(), OverlayError> {
        let lower: Vec<String> = self.lower.iter().map(name_of).collect();
        let mut options = format!("lowerdir={},userxattr,index=off", lower.join(":"));
        if let Some(Changes { upper, work, durability }) = &self.changes {
            options.push_str(&format!(",upperdir={},workdir={}", name_of(upper), name_of(work)));
            if *durability == Durability::Volatile {
                options.push_str(",volatile");
            }
        }
        if options.len() >= PAGE {
            return Err(self.error("name so many layers to this kernel (6.7 can)", Errno::TOOBIG, None));
        }
        let options = CString::new(options).map_err(|_| self.error("name the layers", Errno::INVAL, None))?;
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .map_err(|error| self.error("mount it", error, None))
    }
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, OverlayError> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| OverlayError::Io { action: "open the directory", path: path.to_owned(), source: error.into() })
}

pub(crate) fn make_directory(path: &Path) -> Result<PathBuf, OverlayError> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(OverlayError::Io { action: "create the directory", path: path.to_owned(), source })
        }
        _ => Ok(path.to_owned()),
    }
}
