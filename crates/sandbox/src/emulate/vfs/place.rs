//! Operations on a file in a namespace, whatever file system it is in.

use super::{
    Entry, Identity, MountFlags, NewTime, Opened, Result, Stat,
    host::{HostFile, HostFs},
    mount::{FileRef, Fs, Key, Mount},
    overlay::{New, Node, OverlayFs},
    permission::{self, CAP_MKNOD, EXECUTE, READ, WRITE},
    real::Shown,
    token,
};
use crate::root::FileKind;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, OFlags, RenameFlags},
    io::{Errno, fcntl_dupfd_cloexec},
};
use std::sync::Arc;

/// A file in a mount namespace: where it is found, and what it is. Stays valid when the file is renamed or removed.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(super) mount: Arc<Mount>,
    pub(super) file: FileRef,
}

/// Stands for a directory of an overlay, as long as this process lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PlaceKey {
    mount: u64,
    file: u64,
}

/// A place together with the file system that knows it.
enum In<'a> {
    Host(&'a HostFs, &'a Arc<HostFile>),
    Overlay(&'a OverlayFs, &'a Arc<Node>),
}

/// Operations. Links are never followed here: `resolve` did. Each checks permissions for `who`, read-only mounts (EROFS),
/// and copies up where a lower file is changed.
impl Place {
    fn inside(&self) -> Result<In<'_>> {
        match (&self.mount.fs, &self.file) {
            (Fs::Host(fs) | Fs::Overlay(_, fs), FileRef::Host(file)) => Ok(In::Host(fs, file)),
            (Fs::Overlay(fs, _), FileRef::Overlay(node)) => Ok(In::Overlay(fs, node)),
            (Fs::Host(_), FileRef::Overlay(_)) => Err(Errno::IO),
        }
    }

    pub(super) fn shown(&self) -> Result<Shown> {
        match self.inside()? {
            In::Host(fs, file) => fs.shown(file),
            In::Overlay(fs, node) => Ok(fs.shown(node)),
        }
    }

    /// Whether nothing here may be changed, by whomever.
    pub(crate) fn is_read_only(&self) -> bool {
        self.mount.flags().read_only || matches!(&self.mount.fs, Fs::Overlay(fs, _) if !fs.is_writable())
    }

    /// None where it is in no overlay.
    pub(crate) fn key(&self) -> Option<PlaceKey> {
        match &self.file {
            FileRef::Overlay(node) => Some(PlaceKey { mount: self.mount.id, file: node.number() }),
            FileRef::Host(_) => None,
        }
    }

    fn check_writable(&self) -> Result<()> {
        if self.is_read_only() { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Whether this directory has something of this name.
    fn find_name(&self, name: &[u8]) -> Result<bool> {
        check_name(name)?;
        Ok(match self.inside()? {
            In::Overlay(fs, node) => fs.lookup(node, name)?.is_some(),
            In::Host(_, file) => {
                let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name);
                rustix::fs::statat(file.fd(), name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
            }
        })
    }

    /// Of two errors, that of an existing file comes before that of a read-only mount.
    fn check_new(&self, name: &[u8]) -> Result<()> {
        check_name(name)?;
        if self.file.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if !self.is_read_only() {
            return Ok(());
        }
        Err(if self.find_name(name)? { Errno::EXIST } else { Errno::ROFS })
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        let mut stat = match self.inside()? {
            In::Host(fs, file) => fs.stat(file)?,
            In::Overlay(fs, node) => fs.stat(node)?,
        };
        stat.mount = self.mount.id;
        Ok(stat)
    }

    pub(crate) fn is_in_overlay(&self) -> bool {
        matches!(self.mount.fs, Fs::Overlay(..))
    }

    /// Those of the mount in which it was found.
    pub(crate) fn flags(&self) -> MountFlags {
        self.mount.flags()
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file.kind() == FileKind::Directory
    }

    /// The same file, by whatever name or mount.
    pub(crate) fn same(&self, other: &Place) -> bool {
        match (&self.file, &other.file) {
            (FileRef::Overlay(one), FileRef::Overlay(other)) => one.inode_key() == other.inode_key(),
            (one, other) => one.key() == other.key(),
        }
    }

    /// open(2) of an existing file with these O_* flags (O_CREAT without O_EXCL allowed), symlink → ELOOP unless O_PATH.
    pub(crate) fn open(&self, flags: u32, who: &Identity) -> Result<Opened> {
        let flags = OFlags::from_bits_retain(flags);
        let kind = self.file.kind();
        if flags.contains(OFlags::DIRECTORY) && kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if flags.contains(OFlags::PATH) {
            return self.real_or_token().map(Opened::File);
        }
        if flags.contains(OFlags::CREATE) && kind == FileKind::Directory {
            return Err(Errno::ISDIR);
        }
        let mut wanted = match flags & OFlags::ACCMODE {
            mode if mode == OFlags::RDONLY => READ,
            mode if mode == OFlags::WRONLY => WRITE,
            _ => READ | WRITE,
        };
        let truncates = flags.contains(OFlags::TRUNC) && kind == FileKind::File;
        if truncates {
            wanted |= WRITE;
        }
        let shown = self.shown()?;
        match shown.kind {
            FileKind::Symlink => return Err(Errno::LOOP),
            FileKind::Directory if wanted & WRITE != 0 => return Err(Errno::ISDIR),
            FileKind::CharDevice | FileKind::BlockDevice if self.mount.flags().nodev => return Err(Errno::ACCESS),
            FileKind::File if wanted & WRITE != 0 => self.check_writable()?,
            _ => {}
        }
        permission::check(&shown, who, wanted)?;
        if flags.contains(OFlags::NOATIME) {
            permission::check_owner(&shown, who)?;
        }
        let kept = flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NOATIME);
        let kept = if truncates { kept } else { kept.difference(OFlags::TRUNC) };
        match shown.kind {
            FileKind::Socket => Err(Errno::NXIO),
            FileKind::Fifo => self.real(false).map(Opened::Blocking),
            FileKind::CharDevice | FileKind::BlockDevice if self.is_stand_in() => {
                open_device(shown.rdev, shown.kind, kept).map(Opened::File)
            }
            FileKind::Directory => match self.inside()? {
                In::Host(fs, file) => fs.open(file, kept, who),
                In::Overlay(_, node) => {
                    token::make(&self.mount, node, !flags.contains(OFlags::DIRECTORY)).map(Opened::File)
                }
            },
            _ => match self.inside()? {
                In::Host(fs, file) => fs.open(file, kept, who),
                In::Overlay(fs, node) => fs.open(node, kept, who).map(Opened::File),
            },
        }
    }

    /// Whether a device is a regular file really.
    fn is_stand_in(&self) -> bool {
        match &self.file {
            FileRef::Host(file) => file.kind() == FileKind::File,
            FileRef::Overlay(_) => true,
        }
    }

    fn real_or_token(&self) -> Result<OwnedFd> {
        match &self.file {
            FileRef::Overlay(node) if node.kind() == FileKind::Directory => token::make(&self.mount, node, false),
            _ => self.real(false),
        }
    }

    fn make(&self, name: &[u8], new: New<'_>, mode: u32, who: &Identity) -> Result<Option<OwnedFd>> {
        self.check_new(name)?;
        match self.inside()? {
            In::Host(fs, dir) => fs.make(dir, name, new, mode, who),
            In::Overlay(fs, dir) => fs.make(dir, name, new, mode, who),
        }
    }

    /// open(2) with O_CREAT of a missing file in this directory; the mode has the umask applied.
    pub(crate) fn create(&self, name: &[u8], flags: u32, mode: u32, who: &Identity) -> Result<OwnedFd> {
        let flags = OFlags::from_bits_retain(flags);
        let kept = flags.difference(OFlags::NOATIME | OFlags::TRUNC | OFlags::DIRECTORY);
        self.make(name, New::File(kept), mode & 0o7777, who)?.ok_or(Errno::IO)
    }

    /// open(2) with O_TMPFILE in this directory; the mode has the umask applied.
    pub(crate) fn create_unnamed(&self, flags: u32, mode: u32, who: &Identity) -> Result<OwnedFd> {
        let flags = OFlags::from_bits_retain(flags);
        if flags & OFlags::ACCMODE == OFlags::RDONLY {
            return Err(Errno::INVAL);
        }
        self.check_writable()?;
        let flags = flags.difference(OFlags::NOATIME | OFlags::CREATE);
        match self.inside()? {
            In::Host(fs, dir) => fs.make_unnamed(dir, flags, mode & 0o7777, who),
            In::Overlay(fs, dir) => fs.make_unnamed(dir, flags, mode & 0o7777, who),
        }
    }

    pub(crate) fn mkdir(&self, name: &[u8], mode: u32, who: &Identity) -> Result<()> {
        self.make(name, New::Directory, mode & 0o1777, who).map(drop)
    }

    pub(crate) fn mknod(&self, name: &[u8], mode: u32, dev: u64, who: &Identity) -> Result<()> {
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Directory => return Err(Errno::PERM),
            FileType::RegularFile => FileKind::File,
            FileType::Unknown if mode & 0o170_000 == 0 => FileKind::File,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            _ => return Err(Errno::INVAL),
        };
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let whiteout = kind == FileKind::CharDevice && dev == 0;
        // A device 0:0 is a whiteout, which anybody may make, but overlayfs for nobody.
        let refused = if whiteout { self.is_in_overlay() } else { !who.has(CAP_MKNOD) };
        if is_device && refused {
            return Err(match self.find_name(name)? {
                true => Errno::EXIST,
                false if self.is_read_only() => Errno::ROFS,
                false => permission::check(&self.shown()?, who, WRITE | EXECUTE).err().unwrap_or(Errno::PERM),
            });
        }
        self.make(name, New::Special(kind, if is_device { dev } else { 0 }), mode & 0o7777, who).map(drop)
    }

    pub(crate) fn symlink(&self, name: &[u8], target: &[u8], who: &Identity) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        self.make(name, New::Symlink(target), 0o777, who).map(drop)
    }

    /// Gives this file the further name `name` in `dir`.
    pub(crate) fn link(&self, dir: &Place, name: &[u8], who: &Identity) -> Result<()> {
        dir.check_new(name)?;
        if !Arc::ptr_eq(&self.mount, &dir.mount) {
            return Err(Errno::XDEV);
        }
        match (self.inside()?, dir.inside()?) {
            (In::Overlay(fs, node), In::Overlay(_, dir)) => fs.link(node, dir, name, who),
            (In::Host(_, file), In::Overlay(fs, dir)) => fs.link_open(file.fd(), dir, name, who),
            (In::Host(fs, file), In::Host(_, dir)) => fs.link(file, dir, name, who),
            (In::Overlay(..), In::Host(..)) => Err(Errno::XDEV),
        }
    }

    fn remove(&self, name: &[u8], directory: bool, who: &Identity) -> Result<()> {
        check_name(name)?;
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, dir) => {
                let is_mount_point = |(device, ino)| self.mount.is_mount_point(Key::Host(device, ino));
                fs.remove(dir, name, directory, who, &is_mount_point)
            }
            In::Overlay(fs, dir) => {
                let is_mount_point =
                    |node: &Arc<Node>| self.mount.is_mount_point(Key::Node(Arc::as_ptr(node) as usize));
                fs.remove(dir, name, directory, who, &is_mount_point)
            }
        }
    }

    pub(crate) fn unlink(&self, name: &[u8], who: &Identity) -> Result<()> {
        self.remove(name, false, who)
    }

    pub(crate) fn rmdir(&self, name: &[u8], who: &Identity) -> Result<()> {
        self.remove(name, true, who)
    }

    /// renameat2 with RENAME_NOREPLACE and RENAME_EXCHANGE.
    pub(crate) fn rename(&self, name: &[u8], to: &Place, to_name: &[u8], flags: u32, who: &Identity) -> Result<()> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        check_name(name)?;
        check_name(to_name)?;
        if !Arc::ptr_eq(&self.mount, &to.mount) {
            return Err(Errno::XDEV);
        }
        self.check_writable()?;
        match (self.inside()?, to.inside()?) {
            (In::Host(fs, from), In::Host(_, to)) => {
                let is_mount_point = |(device, ino)| self.mount.is_mount_point(Key::Host(device, ino));
                fs.rename((from, name), (to, to_name), flags, who, &is_mount_point)
            }
            (In::Overlay(fs, from), In::Overlay(_, to)) => {
                let is_mount_point =
                    |node: &Arc<Node>| self.mount.is_mount_point(Key::Node(Arc::as_ptr(node) as usize));
                fs.rename((from, name), (to, to_name), flags, who, &is_mount_point)
            }
            _ => Err(Errno::XDEV),
        }
    }

    pub(crate) fn read_link(&self) -> Result<Vec<u8>> {
        match self.inside()? {
            In::Host(fs, file) => fs.read_link(file),
            In::Overlay(fs, node) => fs.read_link(node),
        }
    }

    /// Entries with `.` and `..` first; the whole directory (the caller has the cursor).
    pub(crate) fn read_dir(&self, who: &Identity) -> Result<Arc<Vec<Entry>>> {
        if !self.is_dir() {
            return Err(Errno::NOTDIR);
        }
        permission::check(&self.shown()?, who, READ)?;
        let entries = match self.inside()? {
            In::Host(fs, file) => fs.entries(file),
            In::Overlay(fs, node) => fs.entries(node),
        };
        entries.map(Arc::new)
    }

    pub(crate) fn chmod(&self, mode: u32, who: &Identity) -> Result<()> {
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, file) => fs.chmod(file, mode, who),
            In::Overlay(fs, node) => fs.chmod(node, mode, who),
        }
    }

    /// `u32::MAX` leaves an id as it is. Set-user-id bits and file capabilities go as the kernel makes them go.
    pub(crate) fn chown(&self, uid: u32, gid: u32, who: &Identity) -> Result<()> {
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, file) => fs.chown(file, uid, gid, who),
            In::Overlay(fs, node) => fs.chown(node, uid, gid, who),
        }
    }

    pub(crate) fn set_times(&self, atime: NewTime, mtime: NewTime, who: &Identity) -> Result<()> {
        if (atime, mtime) == (NewTime::Omit, NewTime::Omit) {
            return Ok(());
        }
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, file) => fs.set_times(file, atime, mtime, who),
            In::Overlay(fs, node) => fs.set_times(node, atime, mtime, who),
        }
    }

    pub(crate) fn truncate(&self, length: u64, who: &Identity) -> Result<()> {
        match self.file.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        if i64::try_from(length).is_err() {
            return Err(Errno::INVAL);
        }
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, file) => fs.truncate(file, length, who),
            In::Overlay(fs, node) => fs.truncate(node, length, who),
        }
    }

    /// access(2) with R_OK|W_OK|X_OK.
    pub(crate) fn access(&self, mode: u32, who: &Identity) -> Result<()> {
        let shown = self.shown()?;
        if mode & EXECUTE != 0 && shown.kind == FileKind::File && self.mount.flags().noexec {
            return Err(Errno::ACCESS);
        }
        permission::check(&shown, who, mode & 7)?;
        let special =
            matches!(shown.kind, FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket);
        if mode & WRITE != 0 && !special { self.check_writable() } else { Ok(()) }
    }

    pub(crate) fn get_xattr(&self, name: &[u8], who: &Identity) -> Result<Vec<u8>> {
        match self.inside()? {
            In::Host(fs, file) => fs.get_xattr(file, name, who),
            In::Overlay(fs, node) => fs.get_xattr(node, name, who),
        }
    }

    pub(crate) fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32, who: &Identity) -> Result<()> {
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, file) => fs.set_xattr(file, name, value, flags, who),
            In::Overlay(fs, node) => fs.set_xattr(node, name, value, flags, who),
        }
    }

    pub(crate) fn remove_xattr(&self, name: &[u8], who: &Identity) -> Result<()> {
        self.check_writable()?;
        match self.inside()? {
            In::Host(fs, file) => fs.remove_xattr(file, name, who),
            In::Overlay(fs, node) => fs.remove_xattr(node, name, who),
        }
    }

    pub(crate) fn list_xattr(&self, who: &Identity) -> Result<Vec<Vec<u8>>> {
        match self.inside()? {
            In::Host(fs, file) => fs.list_xattr(file, who),
            In::Overlay(fs, node) => fs.list_xattr(node, who),
        }
    }

    pub(crate) fn statfs(&self) -> Result<rustix::fs::StatFs> {
        match self.inside()? {
            In::Host(fs, file) => fs.statfs(file),
            In::Overlay(fs, _) => fs.statfs(),
        }
    }

    /// An O_PATH descriptor of the real file (topmost), for exec, sockets, inotify; `write` copies up first.
    pub(crate) fn real(&self, write: bool) -> Result<OwnedFd> {
        match self.inside()? {
            In::Host(_, file) => fcntl_dupfd_cloexec(file.fd().as_fd(), 0),
            In::Overlay(fs, node) => fs.real(node, write),
        }
    }
}

/// A name of a directory's entry, as `resolve` gives it.
fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::INVAL),
        name if name.len() > 255 => Err(Errno::NAMETOOLONG),
        name if name.contains(&b'/') || name.contains(&0) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

/// Opens a device of this machine that every container has; others are out of reach.
fn open_device(rdev: u64, kind: FileKind, flags: OFlags) -> Result<OwnedFd> {
    let name = match (kind, rustix::fs::major(rdev), rustix::fs::minor(rdev)) {
        (FileKind::CharDevice, 1, 3) => "/dev/null",
        (FileKind::CharDevice, 1, 5) => "/dev/zero",
        (FileKind::CharDevice, 1, 7) => "/dev/full",
        (FileKind::CharDevice, 1, 8) => "/dev/random",
        (FileKind::CharDevice, 1, 9) => "/dev/urandom",
        (FileKind::CharDevice, 5, 0) => "/dev/tty",
        _ => return Err(Errno::PERM),
    };
    let file = rustix::fs::open(name, flags | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    if rustix::fs::fstat(&file)?.st_rdev == rdev { Ok(file) } else { Err(Errno::NXIO) }
}
