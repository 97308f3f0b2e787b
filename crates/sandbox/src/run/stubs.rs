//! Mount points that a root lacks.
//!
//! For an overlay they lie in a layer of their own under all others, so that nothing has to be taken back. Where a
//! layer hides them (whiteouts, opaque directories, symbolic links), and in a plain directory, they are made in the
//! root itself and removed after the command, which must leave no trace in the layer.

use super::{Stub, walk::find, wire::Made};
use crate::{
    overlay::{OverlayError, make_directory, open_directory},
    remove::{RemoveError, remove_tree},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, FileType, Mode, OFlags, RawDir, Timespec, Timestamps, UTIME_OMIT, fstat, openat, statat, unlinkat,
        utimensat,
    },
    io::Errno,
};
use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher},
    io,
    mem::MaybeUninit,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where the layer lies in a work directory.
const IN_WORK: &str = "points";

/// The layer of mount points, made in `kept` if it is not there yet, or anew in `work`.
pub(super) fn layer(
    kept: Option<&Path>,
    work: &Path,
    mut targets: Vec<(PathBuf, bool)>,
) -> Result<PathBuf, OverlayError> {
    let Some(kept) = kept else {
        let dir = work.join(IN_WORK);
        remove_tree(&dir).map_err(remove_error(&dir))?;
        make_layer(&dir, &targets)?;
        return Ok(dir);
    };
    targets.sort();
    targets.dedup();
    // Two lists with one name would cost nothing but that a mount point is made in the upper directory.
    let mut hasher = DefaultHasher::new();
    targets.hash(&mut hasher);
    let dir = kept.join(format!("{:016x}", hasher.finish()));
    if dir.symlink_metadata().is_ok() {
        return Ok(dir);
    }
    let new = kept.join(format!(".new-{:016x}", RandomState::new().build_hasher().finish()));
    make_layer(&new, &targets)?;
    match fs::rename(&new, &dir) {
        // Another command was faster.
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            remove_tree(&new).map_err(remove_error(&new))?;
        }
        Err(source) => {
            return Err(OverlayError::Io { action: "rename", path: new, source });
        }
        Ok(()) => {}
    }
    Ok(dir)
}

fn remove_error(path: &Path) -> impl FnOnce(RemoveError) -> OverlayError {
    let path = path.to_owned();
    |error| OverlayError::Io { action: "remove", path, source: io::Error::other(error) }
}

/// Makes the layer of mount points in `dir`: directories, and files for the targets that are files.
fn make_layer(dir: &Path, targets: &[(PathBuf, bool)]) -> Result<(), OverlayError> {
    make_directory(dir)?;
    for (target, directory) in targets {
        let mut path = dir.to_owned();
        let mut names = target.components().peekable();
        while let Some(name) = names.next() {
            path.push(name);
            let made = if *directory || names.peek().is_some() {
                // The step has no umask yet; these are runc's modes.
                fs::DirBuilder::new().mode(0o755).create(&path)
            } else {
                fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path).map(drop)
            };
            match made {
                // What another target made there comes first: then the walk says what is wrong with this one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => break,
                Err(source) => {
                    return Err(OverlayError::Io { action: "create the mount point", path, source });
                }
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

/// Mode, owner and group, in `root`, of the directories above `path`, from the nearest, that are not in `upper`.
pub(super) fn not_copied_up(root: BorrowedFd<'_>, upper: &OwnedFd, path: &Path) -> Vec<(u32, u32, u32)> {
    path.ancestors()
        .skip(1)
        .filter(|dir| !dir.as_os_str().is_empty())
        .take_while(|dir| find(upper.as_fd(), dir).is_err())
        .map_while(|dir| find(root, dir).and_then(|fd| owner_and_mode(&fd)).ok())
        .collect()
}

fn owner_and_mode(fd: &OwnedFd) -> Result<(u32, u32, u32), Errno> {
    let status = statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok((status.st_mode, status.st_uid, status.st_gid))
}

/// Removes what was made, the last first, and says of each whether it is gone. `changed` is the directory that took
/// the changes: the upper one, or the root itself.
pub(super) fn remove(changed: &Path, made: &[Made]) -> Vec<Stub> {
    let Ok(root) = open_directory(changed) else {
        return Vec::new();
    };
    let mut stubs: Vec<Stub> = made
        .iter()
        .rev()
        .map(|made| Stub { path: made.path.clone(), removed: remove_one(&root, made).is_ok() })
        .collect();
    stubs.reverse();
    stubs
}

fn remove_one(root: &OwnedFd, made: &Made) -> Result<(), Errno> {
    let (Some(parent_path), Some(name)) = (made.path.parent(), made.path.file_name()) else {
        return Err(Errno::INVAL);
    };
    // All processes of the command are dead, and `find` follows links only inside.
    let parent = find(root.as_fd(), parent_path)?;
    let status = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let flags = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory if made.directory => AtFlags::REMOVEDIR,
        FileType::RegularFile if !made.directory && status.st_size == 0 => AtFlags::empty(),
        _ => return Err(Errno::EXIST),
    };
    unlinkat(&parent, name, flags)?;
    let (seconds, nanos) = made.parent_modified;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    };
    // As BuildKit does: the time that the directory had, even if the command changed something else in it.
    let _ = utimensat(&parent, "", &times, AtFlags::EMPTY_PATH);
    drop(parent);
    // Directories that were copied up for the mount point alone, and in which nothing else has happened.
    for (directory, before) in made.path.ancestors().skip(1).zip(&made.copied_up) {
        if !is_plain_copy(root, directory, *before)? {
            break;
        }
        let (Some(above), Some(name)) = (directory.parent(), directory.file_name()) else {
            break;
        };
        let above = find(root.as_fd(), above)?;
        let before = fstat(&above)?;
        if unlinkat(&above, name, AtFlags::REMOVEDIR).is_err() {
            break;
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: before.st_mtime as _, tv_nsec: before.st_mtime_nsec as _ },
        };
        let _ = utimensat(&above, "", &times, AtFlags::EMPTY_PATH);
    }
    Ok(())
}

/// Whether a directory of the upper layer is empty, hides nothing beneath it, and is still as the one it was copied from.
fn is_plain_copy(root: &OwnedFd, path: &Path, before: (u32, u32, u32)) -> Result<bool, Errno> {
    let fd = find(root.as_fd(), path)?;
    if owner_and_mode(&fd)? != before {
        return Ok(false);
    }
    let fd = openat(&fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut value = [0u8; 8];
    if rustix::fs::fgetxattr(&fd, "user.overlay.opaque", &mut value[..]).is_ok() {
        return Ok(false);
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
    let mut entries = RawDir::new(&fd, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
