//! A file of the real file system and what is shown of it: its own attributes, or those recorded beside it.

use super::{NewTime, Result, Stat};
use crate::root::{
    FileKind,
    record::{self, Place as RecordPlace},
    xattr::{self, Target},
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr},
    os::unix::ffi::OsStrExt,
};

/// The id of whoever is not the user of this process.
const OTHER: u32 = 65_534;

/// What this process may do itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Real owners can be given; they are tried before they are recorded.
    pub(super) gives_owners: bool,
    uid: u32,
    gid: u32,
}

impl Policy {
    /// That of this thread.
    pub(super) fn detect() -> Self {
        let gives_owners = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::CHOWN));
        Policy { gives_owners, uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// As whom a file of this real owner is shown where nothing is recorded.
    fn shown_owner(self, uid: u32, gid: u32) -> (u32, u32) {
        if self.gives_owners {
            return (uid, gid);
        }
        let shown = |id, own| if id == own { 0 } else { OTHER };
        (shown(uid, self.uid), shown(gid, self.gid))
    }

    /// The mode that a real file gets, so that this process can always reach it. Bits that would give the rights of its
    /// user away are recorded only.
    pub(super) fn real_mode(self, kind: FileKind, mode: u32) -> u32 {
        if self.gives_owners {
            return mode & 0o7777;
        }
        match kind {
            FileKind::Directory => mode & 0o777 | 0o700,
            _ => mode & 0o777 | 0o600,
        }
    }
}

/// What is shown of a file: type, permissions with the set-id and sticky bits, owner and device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
}

impl Shown {
    pub(super) fn full_mode(&self) -> u32 {
        self.kind.raw().as_raw_mode() | self.mode
    }
}

/// What a file is really, as far as records depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// The type; a device may be stored as a regular file.
    pub(super) kind: FileKind,
    /// Permission bits.
    pub(super) mode: u32,
    /// As whom it is shown without a record.
    pub(super) owner: (u32, u32),
    /// It has a record of its owner.
    pub(super) recorded: bool,
}

/// How a real file is reached: by a descriptor, that may be one of O_PATH, or by a path without links from a directory.
#[derive(Clone, Copy)]
pub(super) enum Real<'a> {
    Fd(BorrowedFd<'a>),
    At(BorrowedFd<'a>, &'a OsStr),
}

pub(super) fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn timespec(time: NewTime) -> Timespec {
    match time {
        NewTime::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        NewTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        NewTime::At(seconds, nanoseconds) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    }
}

impl<'a> Real<'a> {
    pub(super) fn target(self) -> Target<'a> {
        match self {
            Real::Fd(fd) => Target::Dir(fd),
            Real::At(dir, path) => Target::Name(dir, path),
        }
    }

    pub(super) fn statx(self) -> Result<Statx> {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        match self {
            Real::Fd(fd) => rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, mask),
            Real::At(dir, path) => rustix::fs::statx(dir, path, AtFlags::SYMLINK_NOFOLLOW, mask),
        }
    }

    /// Changes the mode of what is no symbolic link.
    pub(super) fn chmod(self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Real::Fd(fd) => rustix::fs::chmod(descriptor_path(fd), mode),
            Real::At(dir, path) => rustix::fs::chmodat(dir, path, mode, AtFlags::empty()),
        }
    }

    fn chown(self, uid: u32, gid: u32) -> Result<()> {
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)));
        match self {
            Real::Fd(fd) => rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
            Real::At(dir, path) => rustix::fs::chownat(dir, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(super) fn set_times(self, atime: NewTime, mtime: NewTime) -> Result<()> {
        let times = Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
        match self {
            Real::Fd(fd) => rustix::fs::utimensat(CWD, descriptor_path(fd), &times, AtFlags::empty()),
            Real::At(dir, path) => rustix::fs::utimensat(dir, path, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(super) fn open(self, flags: OFlags) -> Result<OwnedFd> {
        match self {
            Real::Fd(fd) => rustix::fs::open(
                descriptor_path(fd),
                flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC,
                Mode::empty(),
            ),
            Real::At(dir, path) => {
                rustix::fs::openat(dir, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            }
        }
    }

    /// A further O_PATH descriptor.
    pub(super) fn pin(self) -> Result<OwnedFd> {
        match self {
            Real::Fd(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 0),
            Real::At(..) => self.open(OFlags::PATH),
        }
    }

    pub(super) fn read_link(self) -> Result<Vec<u8>> {
        let link = match self {
            Real::Fd(fd) => rustix::fs::readlinkat(fd, c"", Vec::new()),
            Real::At(dir, path) => rustix::fs::readlinkat(dir, path, Vec::new()),
        };
        link.map(CString::into_bytes)
    }

    /// Opens a file whose real mode does not let this process in although the file is its own: one that was not made
    /// here. Its mode is recorded and replaced.
    pub(super) fn open_own(self, flags: OFlags, policy: Policy) -> Result<OwnedFd> {
        match self.open(flags) {
            Err(Errno::ACCESS) if !policy.gives_owners => {
                let (shown, stored, statx) = load(policy, self, None)?;
                let mode = policy.real_mode(stored.kind, stored.mode);
                if statx.stx_uid != policy.uid || mode == stored.mode {
                    return Err(Errno::ACCESS);
                }
                if !matches!(stored.kind, FileKind::File | FileKind::Directory) {
                    return Err(Errno::ACCESS);
                }
                record::replace_owner(
                    RecordPlace::Own(self.target()),
                    Some((shown.uid, shown.gid, (shown.mode != mode).then_some(shown.mode))),
                )?;
                self.chmod(mode)?;
                self.open(flags)
            }
            result => result,
        }
    }
}

/// Where owners of symbolic links, pipes and sockets are recorded: their directory and their name there.
pub(super) type InDir<'a> = Option<(Real<'a>, &'a [u8])>;

fn place<'a>(kind: FileKind, real: Real<'a>, in_dir: InDir<'a>) -> Option<RecordPlace<'a>> {
    match kind {
        FileKind::File | FileKind::Directory => Some(RecordPlace::Own(real.target())),
        _ => in_dir.map(|(dir, name)| RecordPlace::InDir(dir.target(), OsStr::from_bytes(name))),
    }
}

/// What an attribute that cannot be told, since the file system keeps none or this process may not see it, means.
fn unless_refused<T>(result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(Errno::ACCESS | Errno::PERM | Errno::OPNOTSUPP | Errno::NODATA) => Ok(None),
        result => result,
    }
}

/// Looks at a real file and its records.
pub(super) fn load(policy: Policy, real: Real<'_>, in_dir: InDir<'_>) -> Result<(Shown, Stored, Statx)> {
    let statx = real.statx()?;
    let (shown, stored) = show(policy, real, in_dir, &statx)?;
    Ok((shown, stored, statx))
}

/// What is shown of a file that was looked at.
pub(super) fn show(policy: Policy, real: Real<'_>, in_dir: InDir<'_>, statx: &Statx) -> Result<(Shown, Stored)> {
    let (mut shown, mut stored) = bare(policy, statx);
    let kind = stored.kind;
    if let Some(place) = place(kind, real, in_dir)
        && let Some((uid, gid, mode)) = unless_refused(record::read_owner(place))?
    {
        shown.uid = uid;
        shown.gid = gid;
        shown.mode = mode.unwrap_or(shown.mode);
        stored.recorded = true;
    }
    if kind == FileKind::File
        && statx.stx_size == 0
        && let Some((kind, (major, minor))) = unless_refused(record::read_device(real.target(), true))?
    {
        shown.kind = kind;
        shown.rdev = rustix::fs::makedev(major, minor);
    }
    Ok((shown, stored))
}

/// A file that was just made and has no records.
pub(super) fn bare(policy: Policy, statx: &Statx) -> (Shown, Stored) {
    let mode = u32::from(statx.stx_mode);
    let kind = FileKind::from_raw(mode);
    let owner = policy.shown_owner(statx.stx_uid, statx.stx_gid);
    let shown = Shown { kind, mode: mode & 0o7777, uid: owner.0, gid: owner.1, rdev: rdev(statx) };
    (shown, Stored { kind, mode: mode & 0o7777, owner, recorded: false })
}

fn rdev(statx: &Statx) -> u64 {
    rustix::fs::makedev(statx.stx_rdev_major, statx.stx_rdev_minor)
}

/// Makes a real file show owner and mode: really, as far as this process may, else by a record.
pub(super) fn store(
    policy: Policy,
    real: Real<'_>,
    in_dir: InDir<'_>,
    stored: &mut Stored,
    shown: &Shown,
) -> Result<()> {
    if policy.gives_owners && (shown.uid, shown.gid) != stored.owner {
        match real.chown(shown.uid, shown.gid) {
            // The kernel takes set-id bits away with that.
            Ok(()) => {
                stored.owner = (shown.uid, shown.gid);
                stored.mode = u32::MAX;
            }
            Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    if stored.kind != FileKind::Symlink {
        let mode = match stored.kind {
            FileKind::File | FileKind::Directory => policy.real_mode(stored.kind, shown.mode),
            // Such a file cannot record a mode.
            _ => shown.mode,
        };
        if mode != stored.mode {
            real.chmod(mode)?;
            stored.mode = mode;
        }
    }
    let has_own_mode = matches!(stored.kind, FileKind::File | FileKind::Directory) && shown.mode != stored.mode;
    let wanted = ((shown.uid, shown.gid) != stored.owner || has_own_mode).then_some((
        shown.uid,
        shown.gid,
        has_own_mode.then_some(shown.mode),
    ));
    if wanted.is_none() && !stored.recorded {
        return Ok(());
    }
    let Some(place) = place(stored.kind, real, in_dir) else {
        return Err(Errno::PERM);
    };
    match record::replace_owner(place, wanted) {
        // A file of somebody else, or of a file system without such attributes.
        Err(Errno::ACCESS | Errno::OPNOTSUPP) => return Err(Errno::PERM),
        result => result?,
    }
    stored.recorded = wanted.is_some();
    Ok(())
}

/// Takes file capabilities away.
pub(super) fn clear_capability(real: Real<'_>) -> Result<()> {
    // Those that the kernel itself keeps it takes away by itself, and lets nobody else without privileges do so.
    let _ = xattr::remove(real.target(), OsStr::new(xattr::CAPABILITY), true);
    record::clear_capability(real.target(), true)
}

/// What stat shows of a file, its numbers as they are really.
pub(super) fn stat(statx: &Statx, shown: &Shown) -> Stat {
    let time = |time: &rustix::fs::StatxTimestamp| (time.tv_sec, i64::from(time.tv_nsec));
    Stat {
        dev: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
        ino: statx.stx_ino,
        mode: shown.full_mode(),
        nlink: u64::from(statx.stx_nlink),
        uid: shown.uid,
        gid: shown.gid,
        rdev: shown.rdev,
        size: i64::try_from(statx.stx_size).unwrap_or(i64::MAX),
        blksize: i64::from(statx.stx_blksize),
        blocks: i64::try_from(statx.stx_blocks).unwrap_or(i64::MAX),
        atime: time(&statx.stx_atime),
        mtime: time(&statx.stx_mtime),
        ctime: time(&statx.stx_ctime),
        btime: (statx.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(&statx.stx_btime)),
        attributes: statx.stx_attributes.bits(),
        mount: 0,
    }
}

/// An open directory's entries: name, inode number, type as the file system tells it.
pub(super) fn each_entry(
    dir: impl AsFd,
    mut found: impl FnMut(&[u8], u64, rustix::fs::FileType) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found(name, entry.ino(), entry.file_type())?;
        }
    }
    Ok(())
}
