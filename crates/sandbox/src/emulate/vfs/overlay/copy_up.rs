//! Bringing files of lower layers to the upper one, before they are changed.

use super::{New, Node, OPAQUE, OverlayFs, State, UPPER};
use crate::{
    emulate::vfs::{
        NewTime, Result,
        real::{self, Policy, Real, Stored},
    },
    root::{
        FileKind, beside, is_reserved,
        record::{self, Place as RecordPlace},
        xattr::{self, Target},
    },
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};

/// Sets the times of a directory back, as if nothing had been made in it.
pub(super) fn restore_times(dir: Real<'_>, before: &rustix::fs::Statx) -> Result<()> {
    let at = |time: &rustix::fs::StatxTimestamp| NewTime::At(time.tv_sec, i64::from(time.tv_nsec));
    dir.set_times(at(&before.stx_atime), at(&before.stx_mtime))
}

impl OverlayFs {
    /// Makes sure that a file is in the upper layer, with its parents; without `content`, a regular file is empty there.
    /// The overlay's lock is held alone.
    pub(super) fn copy_up(&self, node: &Arc<Node>, content: bool) -> Result<()> {
        let upper = self.upper()?;
        if node.state().layer == UPPER {
            return Ok(());
        }
        let Some(parent) = node.parent().filter(|_| node.is_linked()) else {
            return Err(Errno::NOENT);
        };
        self.copy_up(&parent, true)?;
        let parent_path = parent.path()?;
        let path = node.path()?;
        let in_dir = Real::At(upper, &parent_path);
        let before = in_dir.statx()?;
        let mut state = node.state();
        let lower = Real::At(self.layer(state.layer)?.fd.as_fd(), &path);
        let name = node.name();
        let made = copy(self.policy, lower, upper, &path, (in_dir, &name), &state, content);
        restore_times(in_dir, &before)?;
        let (stored, ino) = match made {
            Ok(made) => made,
            Err(errno) => {
                let flags = if state.dir.is_some() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let _ = rustix::fs::unlinkat(upper, &path, flags);
                return Err(errno);
            }
        };
        state.stored = stored;
        state.layer = UPPER;
        state.real_ino = ino;
        state.known = None;
        if state.several {
            // Names of one file become different files, and must show that.
            state.several = false;
            state.ino = ino;
        }
        if let Some(dir) = &mut state.dir {
            dir.layers.insert(0, UPPER);
        }
        Ok(())
    }

    /// Hides what lower layers have in a directory of the upper one.
    pub(super) fn make_opaque(&self, path: &OsStr) -> Result<()> {
        xattr::set(Real::At(self.upper()?, path).target(), OPAQUE.as_ref(), b"y", true)
    }
}

/// Copies one file, and gives how it is stored there.
fn copy(
    policy: Policy,
    lower: Real<'_>,
    upper: BorrowedFd<'_>,
    path: &OsString,
    in_dir: (Real<'_>, &[u8]),
    state: &State,
    content: bool,
) -> Result<(Stored, u64)> {
    let mode = Mode::from_raw_mode(policy.real_mode(state.stored.kind, state.shown.mode));
    let new = Real::At(upper, path);
    match state.stored.kind {
        FileKind::File => {
            let target = make_real(upper, path, New::File(OFlags::WRONLY), mode)?;
            let size = state.known.as_ref().map_or(0, |stat| stat.size.unsigned_abs());
            if let Some(target) = target.filter(|_| content && size > 0) {
                let source = lower.open_own(OFlags::RDONLY, policy)?;
                copy_content(&source, &target, size)?;
            }
        }
        FileKind::Directory => drop(make_real(upper, path, New::Directory, mode)?),
        FileKind::Symlink => drop(make_real(upper, path, New::Symlink(&lower.read_link()?), mode)?),
        kind => drop(make_real(upper, path, New::Special(kind, state.shown.rdev), mode)?),
    }
    copy_attributes(lower, new, state.stored.kind)?;
    let statx = new.statx()?;
    let (_, mut stored) = real::bare(policy, &statx);
    real::store(policy, new, Some(in_dir), &mut stored, &state.shown)?;
    if let Some(stat) = &state.known {
        let at = |time: (i64, i64)| NewTime::At(time.0, time.1);
        new.set_times(at(stat.atime), at(stat.mtime))?;
    }
    Ok((stored, statx.stx_ino))
}

/// Makes a file, without attributes; gives the open file if it is a regular one.
pub(crate) fn make_real(dir: BorrowedFd<'_>, path: &OsStr, new: New<'_>, mode: Mode) -> Result<Option<OwnedFd>> {
    let mut file = None;
    match new {
        New::File(flags) => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            file = Some(rustix::fs::openat(dir, path, flags, mode)?);
        }
        New::Directory => rustix::fs::mkdirat(dir, path, mode)?,
        New::Symlink(target) => rustix::fs::symlinkat(OsStr::from_bytes(target), dir, path)?,
        New::Special(FileKind::CharDevice, 0) => return make_whiteout(dir, path).map(|()| None),
        New::Special(kind, rdev) => match rustix::fs::mknodat(dir, path, kind.raw(), mode, rdev) {
            Err(Errno::PERM | Errno::NOSYS) if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) => {
                return make_device(dir, path, kind, mode, rdev).map(|()| None);
            }
            result => result?,
        },
    }
    beside::forget(Target::Name(dir, path))?;
    Ok(file)
}

/// Makes a file that stands for a device which the kernel refuses.
fn make_device(dir: BorrowedFd<'_>, path: &OsStr, kind: FileKind, mode: Mode, rdev: u64) -> Result<()> {
    make_real(dir, path, New::Special(FileKind::File, 0), mode)?;
    let device = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    record::write_device(Real::At(dir, path).target(), kind, device, true)
}

/// Makes a whiteout. An overlay of the kernel, as the root of a container is, takes none: there it is a regular file
/// that is recorded as the device, and the directory says that there are such.
pub(super) fn make_whiteout(upper: BorrowedFd<'_>, path: &OsStr) -> Result<()> {
    match rustix::fs::mknodat(upper, path, FileType::CharacterDevice, Mode::empty(), 0) {
        // The latter in a step of a build, which answers such calls no more.
        Err(Errno::PERM | Errno::NOSYS) => {}
        other => return other,
    }
    let parent = match Path::new(path).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.as_os_str(),
        _ => OsStr::new("."),
    };
    xattr::set(Real::At(upper, parent).target(), OsStr::new(record::STAND_INS), b"y", true)?;
    make_device(upper, path, FileKind::CharDevice, Mode::RUSR | Mode::WUSR, 0)
}

/// Whether some whiteouts of a directory are stand-ins.
pub(super) fn has_stand_ins(dir: BorrowedFd<'_>) -> bool {
    matches!(xattr::get(Target::Open(dir), OsStr::new(record::STAND_INS), true), Ok(Some(_)))
}

/// Whether a regular file in such a directory is one.
pub(super) fn is_stand_in(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    let name = OsStr::from_bytes(name);
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(stat.st_size == 0
        && record::read_device(Real::At(dir, name).target(), true)? == Some((FileKind::CharDevice, (0, 0))))
}

/// Copies extended attributes, but for those of overlays and owners.
fn copy_attributes(lower: Real<'_>, new: Real<'_>, kind: FileKind) -> Result<()> {
    if !matches!(kind, FileKind::File | FileKind::Directory) {
        return Ok(());
    }
    for name in xattr::list(lower.target(), true)? {
        if is_reserved(&name) && !record::is_copied(name.as_bytes()) {
            continue;
        }
        let Some(value) = xattr::get(lower.target(), &name, true)? else {
            continue;
        };
        match xattr::set(new.target(), &name, &value, true) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::OPNOTSUPP) if name == xattr::CAPABILITY => {
                record::write_capability(new.target(), &value, true)?;
            }
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The record of an owner in the directory's map follows a file to another name.
pub(crate) fn move_owner(
    from: Option<(Real<'_>, &[u8])>,
    to: (Real<'_>, &[u8]),
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let (dir, name) = to;
    let owner = owner.map(|(uid, gid)| (uid, gid, None));
    record::replace_owner(RecordPlace::InDir(dir.target(), OsStr::from_bytes(name)), owner)?;
    if let Some((dir, name)) = from {
        record::replace_owner(RecordPlace::InDir(dir.target(), OsStr::from_bytes(name)), None)?;
    }
    Ok(())
}

/// Up to this size neither sharing of blocks nor holes pay.
const SMALL: u64 = 64 << 10;

/// Bytes moved at once.
const CHUNK: usize = 128 << 10;

/// Copies a whole file, sharing blocks where the file system can; holes stay holes.
fn copy_content(source: &OwnedFd, target: &OwnedFd, size: u64) -> Result<()> {
    if size <= SMALL {
        return copy_range(source, target, 0, size);
    }
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let mut position = 0;
    while position < size {
        let data = match rustix::fs::seek(source, rustix::fs::SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(_) => position,
        };
        let end = rustix::fs::seek(source, rustix::fs::SeekFrom::Hole(data)).map_or(size, |end| end.min(size));
        copy_range(source, target, data, end)?;
        position = end.max(data + 1);
    }
    rustix::fs::ftruncate(target, size)
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, mut from: u64, end: u64) -> Result<()> {
    let mut by_kernel = end - from > CHUNK as u64;
    let mut buffer = Vec::new();
    while from < end {
        let left = usize::try_from(end - from).unwrap_or(usize::MAX);
        if by_kernel {
            let (mut read, mut written) = (from, from);
            match rustix::fs::copy_file_range(source, Some(&mut read), target, Some(&mut written), left.min(1 << 30)) {
                Ok(0) => return Ok(()),
                Ok(length) => from += length as u64,
                Err(Errno::INTR) => {}
                Err(_) => by_kernel = false,
            }
            continue;
        }
        buffer.resize(left.min(CHUNK), 0);
        let length = match rustix::io::pread(source, buffer.as_mut_slice(), from) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(target, rest, from))?;
            from += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}
