//! Who may do what: the checks that the kernel makes by owner, mode and capabilities (`fs/namei.c`, `fs/attr.c`).

use super::{Identity, NewTime, Result, real::Shown};
use crate::root::FileKind;
use rustix::io::Errno;

pub(crate) const CAP_CHOWN: u32 = 0;
pub(crate) const CAP_DAC_OVERRIDE: u32 = 1;
pub(crate) const CAP_DAC_READ_SEARCH: u32 = 2;
pub(crate) const CAP_FOWNER: u32 = 3;
pub(crate) const CAP_FSETID: u32 = 4;
pub(crate) const CAP_SYS_ADMIN: u32 = 21;
pub(crate) const CAP_MKNOD: u32 = 27;
pub(crate) const CAP_SETFCAP: u32 = 31;

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

pub(super) const SET_UID: u32 = 0o4000;
pub(super) const SET_GID: u32 = 0o2000;
pub(super) const STICKY: u32 = 0o1000;

impl Identity {
    pub(crate) fn has(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    pub(super) fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether every directory can be searched, so that no owner or mode need be known.
    pub(super) fn searches_all(&self) -> bool {
        self.has(CAP_DAC_OVERRIDE) || self.has(CAP_DAC_READ_SEARCH)
    }
}

/// Read, write and execute permission by mode, with the capabilities that override it.
pub(super) fn check(file: &Shown, who: &Identity, wanted: u32) -> Result<()> {
    let bits = if who.uid == file.uid {
        file.mode >> 6
    } else if who.in_group(file.gid) {
        file.mode >> 3
    } else {
        file.mode
    };
    if wanted & !bits & 7 == 0 {
        return Ok(());
    }
    let allowed = if file.kind == FileKind::Directory {
        who.has(CAP_DAC_OVERRIDE) || (wanted & WRITE == 0 && who.has(CAP_DAC_READ_SEARCH))
    } else {
        (wanted == READ && who.has(CAP_DAC_READ_SEARCH))
            || ((wanted & EXECUTE == 0 || file.mode & 0o111 != 0) && who.has(CAP_DAC_OVERRIDE))
    };
    if allowed { Ok(()) } else { Err(Errno::ACCESS) }
}

/// Whether an entry of a sticky directory may be removed or renamed.
pub(super) fn check_sticky(dir: &Shown, file: &Shown, who: &Identity) -> Result<()> {
    if dir.mode & STICKY == 0 || who.uid == file.uid || who.uid == dir.uid || who.has(CAP_FOWNER) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

pub(super) fn check_owner(file: &Shown, who: &Identity) -> Result<()> {
    if who.uid == file.uid || who.has(CAP_FOWNER) { Ok(()) } else { Err(Errno::PERM) }
}

/// Whether a file may get a further name, with the sysctl `fs.protected_hardlinks` as all distributions set it.
pub(super) fn check_link(file: &Shown, who: &Identity) -> Result<()> {
    let is_safe = file.kind == FileKind::File
        && file.mode & SET_UID == 0
        && file.mode & (SET_GID | 0o010) != SET_GID | 0o010
        && check(file, who, READ | WRITE).is_ok();
    if is_safe { Ok(()) } else { check_owner(file, who) }
}

/// Owner and mode of a file that is made in a directory.
pub(super) fn owner_of_new(dir: &Shown, who: &Identity, kind: FileKind, mut mode: u32) -> Shown {
    mode &= 0o7777;
    let mut gid = who.gid;
    if dir.mode & SET_GID != 0 {
        gid = dir.gid;
        if kind == FileKind::Directory {
            mode |= SET_GID;
        } else if mode & (SET_GID | 0o010) == SET_GID | 0o010 && !who.in_group(gid) && !who.has(CAP_FSETID) {
            mode &= !SET_GID;
        }
    }
    if kind == FileKind::Symlink {
        mode = 0o777;
    }
    Shown { kind, mode, uid: who.uid, gid, rdev: 0 }
}

/// The mode after chmod(2).
pub(super) fn chmod(file: &Shown, who: &Identity, mode: u32) -> Result<u32> {
    check_owner(file, who)?;
    let mut mode = mode & 0o7777;
    if !who.in_group(file.gid) && !who.has(CAP_FSETID) {
        mode &= !SET_GID;
    }
    Ok(mode)
}

/// The mode without the bits that a change of owner takes away.
fn without_privileges(file: &Shown, who: &Identity) -> u32 {
    let mut mode = file.mode & !SET_UID;
    if mode & 0o010 != 0 || !(who.in_group(file.gid) || who.has(CAP_FSETID)) {
        mode &= !SET_GID;
    }
    mode
}

/// What a file shows after chown(2); the caller takes away file capabilities of what is no directory.
pub(super) fn chown(file: &Shown, who: &Identity, uid: u32, gid: u32) -> Result<Shown> {
    let mut new = *file;
    if uid != u32::MAX {
        if !(who.has(CAP_CHOWN) || (who.uid == file.uid && uid == file.uid)) {
            return Err(Errno::PERM);
        }
        new.uid = uid;
    }
    if gid != u32::MAX {
        if !(who.has(CAP_CHOWN) || (who.uid == file.uid && (who.in_group(gid) || gid == file.gid))) {
            return Err(Errno::PERM);
        }
        new.gid = gid;
    }
    if !matches!(file.kind, FileKind::Directory | FileKind::Symlink) {
        new.mode = without_privileges(file, who);
        // To change nothing is allowed to everybody, but this is a change.
        if new.mode != file.mode {
            check_owner(file, who)?;
        }
    }
    Ok(new)
}

/// What a regular file shows after its content was cut.
pub(super) fn truncated(file: &Shown, who: &Identity) -> Shown {
    let mode =
        if who.has(CAP_FSETID) || file.kind != FileKind::File { file.mode } else { without_privileges(file, who) };
    Shown { mode, ..*file }
}

/// Whether utimensat(2) may do this.
pub(super) fn set_times(file: &Shown, who: &Identity, atime: NewTime, mtime: NewTime) -> Result<()> {
    match (atime, mtime) {
        (NewTime::Omit, NewTime::Omit) => Ok(()),
        (NewTime::Now, NewTime::Now) if check(file, who, WRITE).is_ok() => Ok(()),
        (NewTime::Now, NewTime::Now) => check_owner(file, who).map_err(|_| Errno::ACCESS),
        _ => check_owner(file, who),
    }
}
