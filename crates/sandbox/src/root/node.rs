//! One file of a directory whose attributes are changed.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, Uid};
use rustix::io::Errno;

use super::dir::{self, Dir};
use super::error::Result;
use super::metadata::{FileKind, Metadata, Timestamp};
use super::record::{self, Ownership, Place};
use super::xattr::{Target, XattrOutcome};

/// A file in a directory: a new one, or one to be changed. Symbolic links are never followed.
///
/// A change of owner clears setuid bits and capabilities, so set the owner first, then attributes, mode and times.
#[derive(Debug)]
pub struct Node {
    dir: Dir,
    name: OsString,
    kind: FileKind,
    stored: FileKind,
    file: Option<File>,
    fresh: bool,
}

impl Node {
    pub(super) fn new(dir: Dir, name: &OsStr, kind: FileKind, stored: FileKind, file: Option<File>) -> Self {
        Node { dir, name: name.to_os_string(), kind, stored, file, fresh: false }
    }

    /// Marks the node as just created: it has no records, and the ids of a new file.
    pub(super) fn created(mut self) -> Self {
        self.fresh = true;
        self
    }

    pub(super) fn standing_for(mut self, kind: FileKind) -> Self {
        self.kind = kind;
        self
    }

    /// The type; that of the device for a placeholder.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The path inside the root.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// The open file: regular files and directories that were just created have one.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// The open directory, if this is a directory that was just created.
    #[must_use]
    pub fn into_dir(self) -> Option<Dir> {
        let path = self.path();
        match (self.kind, self.file) {
            (FileKind::Directory, Some(file)) => {
                Some(Dir::new(OwnedFd::from(file), path, Arc::clone(self.dir.shared())))
            }
            _ => None,
        }
    }

    pub(super) fn raw_ids(&self) -> Option<(u32, u32)> {
        let metadata = match &self.file {
            Some(file) => Metadata::from_stat(&rustix::fs::fstat(file).ok()?),
            None => self.dir.stored(&self.name).ok()?,
        };
        Some((metadata.uid, metadata.gid))
    }

    fn target(&self) -> Target<'_> {
        match &self.file {
            Some(file) => Target::Open(file.as_fd()),
            None => Target::Name(self.dir.as_fd(), &self.name),
        }
    }

    fn place(&self) -> Place<'_> {
        match self.stored {
            FileKind::File | FileKind::Directory => Place::Own(self.target()),
            _ => self.dir.record_place(&self.name, self.stored),
        }
    }

    /// Describes the file as it is now.
    ///
    /// # Errors
    /// Fails if the file is gone or its record is malformed.
    pub fn metadata(&self) -> Result<Metadata> {
        self.dir.lstat(&self.name)
    }

    /// Gives the file an owner, or records it where only that is possible.
    ///
    /// # Errors
    /// Fails if the ids are not mapped into the user namespace, or the owner may not be changed.
    pub fn chown(&self, uid: u32, gid: u32) -> Result<()> {
        let shared = self.dir.shared();
        if self.fresh && (uid, gid) == shared.ids && self.dir.new_files_have_own_ids(self) {
            return Ok(());
        }
        // -1 means "leave it" to the kernel and is no id.
        let result = if uid == u32::MAX || gid == u32::MAX {
            Err(Errno::INVAL)
        } else {
            let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            match &self.file {
                Some(file) => rustix::fs::fchown(file, owner, group),
                None => {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(&self.dir, &self.name, owner, group, flags)
                }
            }
        };
        let recorded = shared.ownership == Ownership::Recorded;
        let result = match result {
            Ok(()) if recorded && !self.fresh => record::clear_owner(self.place(), shared.use_proc),
            Err(Errno::PERM | Errno::INVAL) if recorded => record::write_owner(self.place(), uid, gid, shared.use_proc),
            result => result,
        };
        result.map_err(|errno| self.dir.error("change the owner of", &self.name, errno))
    }

    /// Sets the low 12 mode bits, whatever the umask; a symbolic link has no mode and is left alone.
    ///
    /// # Errors
    /// Fails if the mode may not be changed.
    pub fn chmod(&self, mode: u32) -> Result<()> {
        if self.stored == FileKind::Symlink {
            return Ok(());
        }
        self.chmod_raw(mode & 0o7777).map_err(|errno| self.dir.error("change the mode of", &self.name, errno))
    }

    fn chmod_raw(&self, mode: u32) -> std::result::Result<(), Errno> {
        let shared = self.dir.shared();
        let bits = Mode::from_raw_mode(mode);
        match &self.file {
            Some(file) => rustix::fs::fchmod(file, bits)?,
            None => chmod_unopened(&self.dir, &self.name, bits, shared.use_proc)?,
        }
        if shared.ownership == Ownership::Recorded && matches!(self.stored, FileKind::File | FileKind::Directory) {
            // The kernel drops setgid silently if the group is not one of the process (chmod(2)).
            let kept = mode & 0o2000 == 0 || self.dir.stored(&self.name)?.mode == mode;
            if !kept {
                let shown = self.metadata().map_err(|_| Errno::IO)?;
                record::write_mode(self.target(), &shown, mode, shared.use_proc)?;
            } else if !self.fresh {
                record::clear_mode(self.target(), shared.use_proc)?;
            }
        }
        Ok(())
    }

    /// Sets the times of last access and last modification.
    ///
    /// # Errors
    /// Fails if the times may not be changed.
    pub fn set_times(&self, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.set_timestamps(&Timestamps { last_access: atime.timespec(), last_modification: mtime.timespec() })
    }

    /// Sets both times to now.
    ///
    /// # Errors
    /// Fails if the times may not be changed.
    pub fn touch(&self) -> Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        self.set_timestamps(&Timestamps { last_access: now, last_modification: now })
    }

    fn set_timestamps(&self, times: &Timestamps) -> Result<()> {
        let result = match &self.file {
            Some(file) => rustix::fs::futimens(file, times),
            None => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(&self.dir, &self.name, times, flags)
            }
        };
        result.map_err(|errno| self.dir.error("set the times of", &self.name, errno))
    }

    /// Sets an extended attribute. Attributes of overlayfs and of rbuild are skipped, as are those that the kernel or
    /// file system refuses; see [`XattrOutcome`].
    ///
    /// # Errors
    /// Fails if file capabilities can neither be set nor recorded, or there is no space.
    pub fn set_xattr(&self, attribute: impl AsRef<OsStr>, value: &[u8]) -> Result<XattrOutcome> {
        dir::set_xattr(self.dir.shared(), self.target(), attribute.as_ref(), value)
            .map_err(|errno| self.dir.error("set an extended attribute of", &self.name, errno))
    }

    /// Removes an extended attribute; reserved ones stay, a missing one is no error.
    ///
    /// # Errors
    /// Fails if the attribute may not be removed.
    pub fn remove_xattr(&self, attribute: impl AsRef<OsStr>) -> Result<()> {
        let (attribute, shared) = (attribute.as_ref(), self.dir.shared());
        if super::xattr::is_reserved(attribute) {
            return Ok(());
        }
        let mut result = super::xattr::remove(self.target(), attribute, shared.use_proc);
        if shared.ownership == Ownership::Recorded && attribute == super::xattr::CAPABILITY {
            result = result.and(record::clear_capability(self.target(), shared.use_proc));
        }
        result.map_err(|errno| self.dir.error("remove an extended attribute of", &self.name, errno))
    }
}

/// Changes the mode of a file that is not open. chmod(2) follows symbolic links and fchmodat2 is young (Linux 6.6), so
/// the file is pinned by a path handle first.
pub(super) fn chmod_unopened(dir: &Dir, name: &OsStr, mode: Mode, use_proc: bool) -> std::result::Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let pinned = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if FileKind::from_raw(rustix::fs::fstat(&pinned)?.st_mode) == FileKind::Symlink {
        return Err(Errno::LOOP);
    }
    if use_proc {
        let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        return rustix::fs::chmod(path, mode);
    }
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
}
