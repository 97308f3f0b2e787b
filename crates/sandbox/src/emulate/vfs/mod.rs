//! File systems in user space: mount namespaces, host directories, overlays; resolution of paths and all operations on
//! files. Knows neither tasks nor how calls arrive. All methods may be called from several threads.

mod attributes;
mod host;
mod mount;
mod names;
mod overlay;
mod permission;
mod place;
mod real;
mod resolve;
mod token;

pub(crate) use mount::{Detached, Namespace};
pub(crate) use place::{Place, PlaceKey};
pub(crate) use resolve::Parent;
pub(crate) use token::{is_token, keep_directories_in};

use rustix::{fd::OwnedFd, io::Errno};
use std::path::PathBuf;

/// The result of every operation: an error number as the kernel would give it.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Who asks, for permission checks and for the owner of what is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Effective capabilities (bits of capabilities(7)): DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, CHOWN, FSETID, MKNOD, SETFCAP, SYS_ADMIN matter.
    pub(crate) capabilities: u64,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Found {
    /// A file.
    File(Place),
    /// Nothing, in an existing directory.
    Missing { parent: Place, name: Vec<u8>, trailing_slash: bool },
    /// A magic link of /proc that is no path: a descriptor of some process. The real path (`/proc/PID/fd/N`) opens it.
    Descriptor(PathBuf),
}

/// Where the lookup of a path begins.
pub(crate) struct Start<'a> {
    pub(crate) root: &'a Place,
    /// The directory of a relative path.
    pub(crate) base: &'a Place,
    pub(crate) who: &'a Identity,
    pub(crate) proc: &'a dyn ProcLinks,
}

/// What the task layer knows of /proc on behalf of the caller.
pub(crate) trait ProcLinks {
    /// What `self` and `thread-self` mean for the caller: process id, thread id.
    fn own(&self) -> (u32, u32);
    /// A link of `/proc/PID/…` that is emulated: `path` is relative to the real proc file system and begins with digits
    /// (`12/exe`, `12/cwd`, `12/fd/3`, `12/task/13/root`). `None`: not one of those, ask the real file system.
    fn link(&self, path: &[u8]) -> Option<ProcLink>;
    /// Whether the caller sees this process or thread of /proc.
    fn visible(&self, id: u32) -> bool;
    /// Content of a file of /proc that is made up (`12/mounts`, `12/mountinfo`, `12/status`, `12/uid_map`…).
    fn content(&self, path: &[u8]) -> Option<Vec<u8>>;
}

/// Nothing of /proc is emulated: there are no tasks yet.
pub(crate) struct NoLinks;

impl ProcLinks for NoLinks {
    fn visible(&self, _id: u32) -> bool {
        true
    }

    fn own(&self) -> (u32, u32) {
        (0, 0)
    }

    fn link(&self, _path: &[u8]) -> Option<ProcLink> {
        None
    }

    fn content(&self, _path: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// What a magic link leads to.
pub(crate) enum ProcLink {
    /// A file of a namespace, and what readlink shows.
    Place(Place, Vec<u8>),
    /// An open file that has no place (pipe, socket, token, deleted or real file): readlink's text. Opened by its real path.
    Descriptor(Vec<u8>),
}

/// Flags of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountFlags {
    pub(crate) read_only: bool,
    pub(crate) noexec: bool,
    pub(crate) nosuid: bool,
    pub(crate) nodev: bool,
}

impl MountFlags {
    /// Whether each of the others is set here.
    fn include(self, other: MountFlags) -> bool {
        (self.read_only || !other.read_only)
            && (self.noexec || !other.noexec)
            && (self.nosuid || !other.nosuid)
            && (self.nodev || !other.nodev)
    }
}

/// A file system to be mounted.
#[derive(Debug)]
pub(crate) enum FileSystem {
    /// A directory or file of the real file system, given by an open O_PATH descriptor and its real path.
    Host { root: OwnedFd, path: PathBuf, is_proc: bool },
    /// An empty directory of this mode, backed by a new directory beneath `backing` (removed when the last mount goes): tmpfs. The
    /// size is shown only.
    Temporary { backing: PathBuf, mode: u32, size: Option<u64> },
    /// Real directories, top first. Without `upper` read only.
    Overlay { lower: Vec<OwnedFd>, upper: Option<OwnedFd> },
}

/// What stat shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// With the type bits.
    pub(crate) mode: u32,
    pub(crate) nlink: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u64,
    pub(crate) size: i64,
    pub(crate) blksize: i64,
    pub(crate) blocks: i64,
    pub(crate) atime: (i64, i64),
    pub(crate) mtime: (i64, i64),
    pub(crate) ctime: (i64, i64),
    pub(crate) btime: Option<(i64, i64)>,
    pub(crate) attributes: u64,
    pub(crate) mount: u64,
}

/// What open gives to the process.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A descriptor, to be handed out.
    File(OwnedFd),
    /// A FIFO, whose open may block: to be opened in another thread, with the flags of the call, by this real path (of an O_PATH descriptor that is kept).
    Blocking(OwnedFd),
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) ino: u64,
    /// DT_* of dirent.h.
    pub(crate) kind: u8,
}

/// A change of time: UTIME_OMIT, UTIME_NOW or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewTime {
    Omit,
    Now,
    At(i64, i64),
}

#[cfg(test)]
mod tests;
