//! Extended attributes of files named without following symbolic links.
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::beside;

/// File capabilities, capabilities(7).
pub const CAPABILITY: &str = "security.capability";

/// Prefixes of attributes that belong to overlayfs and to rbuild's own records: they are shown to nobody and written
/// for nobody, else an image could make a directory opaque or give a file a false owner.
const RESERVED: [&str; 3] = ["user.overlay.", "trusted.overlay.", "user.rbuild."];

/// Whether an attribute belongs to overlayfs or to rbuild and is never taken from or shown to the outside.
#[must_use]
pub fn is_reserved(name: &OsStr) -> bool {
    RESERVED.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
}

/// What became of an attribute that was to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrOutcome {
    /// It is set.
    Set,
    /// The file system, the kernel or the rules of the root do not allow it, and Docker would go on without it.
    Skipped,
}

/// A file whose attributes are wanted.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// An open file.
    Open(BorrowedFd<'a>),
    /// The directory itself, whose handle may be open as a path only.
    Dir(BorrowedFd<'a>),
    /// A name in a directory; not followed.
    Name(BorrowedFd<'a>, &'a OsStr),
}

enum Access<'a> {
    Fd(BorrowedFd<'a>),
    Owned(OwnedFd),
    Path(CString),
    LinkPath(CString),
}

fn proc_path(fd: BorrowedFd<'_>, name: Option<&OsStr>) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    CString::new(path).map_err(|_| Errno::INVAL)
}

impl<'a> Target<'a> {
    fn access(self, use_proc: bool) -> Result<Access<'a>, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match self {
            Target::Open(fd) => Ok(Access::Fd(fd)),
            Target::Dir(fd) if use_proc => Ok(Access::Path(proc_path(fd, None)?)),
            Target::Name(fd, name) if use_proc => Ok(Access::LinkPath(proc_path(fd, Some(name))?)),
            Target::Dir(fd) => Ok(Access::Owned(rustix::fs::openat(fd, ".", flags, Mode::empty())?)),
            Target::Name(fd, name) => match rustix::fs::openat(fd, name, flags, Mode::empty()) {
                Ok(fd) => Ok(Access::Owned(fd)),
                // A symbolic link, socket or device: without /proc its attributes cannot be reached.
                Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => Err(Errno::OPNOTSUPP),
                Err(errno) => Err(errno),
            },
        }
    }
}

impl Access<'_> {
    fn read(&self, name: &OsStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Access::Fd(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Access::Owned(fd) => rustix::fs::fgetxattr(fd, name, buffer),
            Access::Path(path) => rustix::fs::getxattr(path, name, buffer),
            Access::LinkPath(path) => rustix::fs::lgetxattr(path, name, buffer),
        }
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Access::Fd(fd) => rustix::fs::flistxattr(fd, buffer),
            Access::Owned(fd) => rustix::fs::flistxattr(fd, buffer),
            Access::Path(path) => rustix::fs::listxattr(path, buffer),
            Access::LinkPath(path) => rustix::fs::llistxattr(path, buffer),
        }
    }
}

/// Reads into a small buffer first: most lists and values are short, and one call is enough.
fn read_growing(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0_u8; 256];
    match read(&mut small) {
        Ok(length) => return Ok(small.get(..length).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(errno) => return Err(errno),
    }
    // XATTR_SIZE_MAX and XATTR_LIST_MAX (linux/limits.h) are both 64 KiB.
    let mut large = vec![0; 65536];
    let length = read(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// The value of one attribute; none if it is not there or the file cannot have any.
pub(crate) fn get(target: Target<'_>, name: &OsStr, use_proc: bool) -> Result<Option<Vec<u8>>, Errno> {
    let access = match target.access(use_proc) {
        Ok(access) => access,
        Err(Errno::OPNOTSUPP) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    match read_growing(|buffer| access.read(name, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(Errno::OPNOTSUPP) => beside::get(target, name),
        Err(errno) => Err(errno),
    }
}

/// The names of all attributes, in the order the kernel gives them.
pub(crate) fn list(target: Target<'_>, use_proc: bool) -> Result<Vec<OsString>, Errno> {
    let access = match target.access(use_proc) {
        Ok(access) => access,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let names = match read_growing(|buffer| access.list(buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(errno) => return Err(errno),
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<OsString> = names.map(|name| OsString::from_vec(name.to_vec())).collect();
    names.extend(beside::list(target)?);
    Ok(names)
}

pub(crate) fn set(target: Target<'_>, name: &OsStr, value: &[u8], use_proc: bool) -> Result<(), Errno> {
    let none = XattrFlags::empty();
    let result = match target.access(use_proc)? {
        Access::Fd(fd) => rustix::fs::fsetxattr(fd, name, value, none),
        Access::Owned(fd) => rustix::fs::fsetxattr(fd.as_fd(), name, value, none),
        Access::Path(path) => rustix::fs::setxattr(&path, name, value, none),
        Access::LinkPath(path) => rustix::fs::lsetxattr(&path, name, value, none),
    };
    match result {
        Err(Errno::OPNOTSUPP) => beside::set(target, name, value),
        result => result,
    }
}

/// Removes an attribute; that it is not there is no error.
pub(crate) fn remove(target: Target<'_>, name: &OsStr, use_proc: bool) -> Result<(), Errno> {
    let result = match target.access(use_proc) {
        Ok(Access::Fd(fd)) => rustix::fs::fremovexattr(fd, name),
        Ok(Access::Owned(fd)) => rustix::fs::fremovexattr(fd.as_fd(), name),
        Ok(Access::Path(path)) => rustix::fs::removexattr(&path, name),
        Ok(Access::LinkPath(path)) => rustix::fs::lremovexattr(&path, name),
        Err(errno) => Err(errno),
    };
    match result {
        Err(Errno::NODATA) => Ok(()),
        Err(Errno::OPNOTSUPP) => beside::remove(target, name),
        result => result,
    }
}

/// Whether the file system of a directory keeps attributes of users.
pub(crate) fn are_kept(dir: &Path) -> bool {
    let name = "user.rbuild.probe";
    rustix::fs::setxattr(dir, name, b"", XattrFlags::empty()).is_ok() && rustix::fs::removexattr(dir, name).is_ok()
}

/// Turns a capability attribute of revision 3, which names the root of a user namespace, into revision 2: outside of
/// the namespace that id has no meaning (linux/capability.h; Docker 28 does the same when it packs a layer).
pub(crate) fn portable_capability(mut value: Vec<u8>) -> Vec<u8> {
    const REVISION_2_LENGTH: usize = 20;
    if value.len() > REVISION_2_LENGTH && value.get(3) == Some(&3) {
        value.truncate(REVISION_2_LENGTH);
        if let Some(revision) = value.get_mut(3) {
            *revision = 2;
        }
    }
    value
}
