//! File systems in user space: mount namespaces, host directories, overlays; resolution of paths and all operations on
//! files. Knows neither tasks nor how calls arrive. All methods may be called from several threads.

use rustix::{fd::OwnedFd, io::Errno};
use std::{path::PathBuf, sync::Arc};

/// The result of every operation: an error number as the kernel would give it.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// Who asks, for permission checks and for the owner of what is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Effective capabilities (bits of capabilities(7)): DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, CHOWN, FSETID, MKNOD, SETFCAP, SYS_ADMIN matter.
    pub(crate) capabilities: u64,
}

/// A file in a mount namespace: where it is found, and what it is. Stays valid when the file is renamed or removed.
#[derive(Debug, Clone)]
pub(crate) struct Place {/* mount: Arc<Mount>, node: Arc<Node> */}

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
    /// Content of a file of /proc that is made up (`12/mounts`, `12/mountinfo`, `12/status`, `12/uid_map`…).
    fn content(&self, path: &[u8]) -> Option<Vec<u8>>;
}

/// What a magic link leads to.
pub(crate) enum ProcLink {
    /// A file of a namespace, and what readlink shows.
    Place(Place, Vec<u8>),
    /// An open file that has no place (pipe, socket, token, deleted or real file): readlink's text. Opened by its real path.
    Descriptor(Vec<u8>),
}

/// A mount namespace. `clone_namespace` copies the table, the file systems are shared.
#[derive(Debug)]
pub(crate) struct Namespace {/* Mutex<table> */}

/// A mount or a tree of them that is attached nowhere (fsmount, open_tree).
#[derive(Debug, Clone)]
pub(crate) struct Detached {/* … */}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountFlags {
    pub(crate) read_only: bool,
    pub(crate) noexec: bool,
    pub(crate) nosuid: bool,
    pub(crate) nodev: bool,
}

/// A file system to be mounted.
#[derive(Debug)]
pub(crate) enum FileSystem {
    /// A directory or file of the real file system, given by an open O_PATH descriptor and its real path.
    Host { root: OwnedFd, path: PathBuf, is_proc: bool },
    /// An empty directory of this mode, backed by a new directory beneath `backing` (removed when the last mount goes): tmpfs.
    Temporary { backing: PathBuf, mode: u32 },
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

impl Namespace {
    /// A namespace whose root is this file system.
    pub(crate) fn new(_root: FileSystem) -> Result<Arc<Namespace>> {
        todo!()
    }
    pub(crate) fn clone_namespace(&self) -> Arc<Namespace> {
        todo!()
    }
    pub(crate) fn root(&self) -> Place {
        todo!()
    }
    /// The same place in a copy of the namespace (after unshare: root and cwd move over).
    pub(crate) fn same_place(&self, _place: &Place) -> Place {
        todo!()
    }
    pub(crate) fn mount(&self, _file_system: FileSystem, _flags: MountFlags) -> Result<Detached> {
        todo!()
    }
    /// A copy of the mount at a place, with those beneath it if recursive (bind mount).
    pub(crate) fn copy_tree(&self, _at: &Place, _recursive: bool) -> Result<Detached> {
        todo!()
    }
    pub(crate) fn attach(&self, _tree: &Detached, _at: &Place) -> Result<()> {
        todo!()
    }
    pub(crate) fn set_flags(&self, _at: &Place, _set: MountFlags, _clear: MountFlags, _recursive: bool) -> Result<()> {
        todo!()
    }
    pub(crate) fn detach(&self, _at: &Place) -> Result<()> {
        todo!()
    }
    /// pivot_root: `new` (a mount's root) becomes the root of the namespace; the old root is attached at `old`.
    pub(crate) fn pivot(&self, _new: &Place, _old: &Place) -> Result<()> {
        todo!()
    }
    /// Follows a path. `follow`: the last component, too, if it is a link. Search permission is checked.
    pub(crate) fn resolve(&self, _start: &Start<'_>, _path: &[u8], _follow: bool) -> Result<Found> {
        todo!()
    }
    /// The path of a place from `root`; `None` if it cannot be reached from there ("(unreachable)").
    pub(crate) fn path_of(&self, _root: &Place, _place: &Place) -> Option<Vec<u8>> {
        todo!()
    }
    /// The place of an open directory (token or real) or real file: `fd_path` is `/proc/PID/fd/N`. `None` if it has none here.
    pub(crate) fn place_of(&self, _fd_path: &std::path::Path) -> Result<Option<Place>> {
        todo!()
    }
    /// /proc/PID/mountinfo as seen from `root`.
    pub(crate) fn mountinfo(&self, _root: &Place) -> Vec<u8> {
        todo!()
    }
}

impl Detached {
    pub(crate) fn root(&self) -> Place {
        todo!()
    }
    pub(crate) fn set_flags(&self, _set: MountFlags, _clear: MountFlags, _recursive: bool) -> Result<()> {
        todo!()
    }
}

/// Operations. Links are never followed here: `resolve` did. Each checks permissions for `who`, read-only mounts (EROFS),
/// and copies up where a lower file is changed.
impl Place {
    pub(crate) fn stat(&self) -> Result<Stat> {
        todo!()
    }
    pub(crate) fn is_dir(&self) -> bool {
        todo!()
    }
    pub(crate) fn same(&self, _other: &Place) -> bool {
        todo!()
    }
    /// open(2) of an existing file with these O_* flags (O_CREAT without O_EXCL allowed), symlink → ELOOP unless O_PATH.
    pub(crate) fn open(&self, _flags: u32, _who: &Identity) -> Result<Opened> {
        todo!()
    }
    /// open(2) with O_CREAT of a missing file in this directory; the mode has the umask applied.
    pub(crate) fn create(&self, _name: &[u8], _flags: u32, _mode: u32, _who: &Identity) -> Result<OwnedFd> {
        todo!()
    }
    pub(crate) fn mkdir(&self, _name: &[u8], _mode: u32, _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn mknod(&self, _name: &[u8], _mode: u32, _dev: u64, _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn symlink(&self, _name: &[u8], _target: &[u8], _who: &Identity) -> Result<()> {
        todo!()
    }
    /// Gives this file the further name `name` in `dir`.
    pub(crate) fn link(&self, _dir: &Place, _name: &[u8], _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn unlink(&self, _name: &[u8], _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn rmdir(&self, _name: &[u8], _who: &Identity) -> Result<()> {
        todo!()
    }
    /// renameat2 with RENAME_NOREPLACE and RENAME_EXCHANGE.
    pub(crate) fn rename(
        &self,
        _name: &[u8],
        _to: &Place,
        _to_name: &[u8],
        _flags: u32,
        _who: &Identity,
    ) -> Result<()> {
        todo!()
    }
    pub(crate) fn read_link(&self) -> Result<Vec<u8>> {
        todo!()
    }
    /// Entries with `.` and `..` first; the whole directory (the caller has the cursor).
    pub(crate) fn read_dir(&self, _who: &Identity) -> Result<Arc<Vec<Entry>>> {
        todo!()
    }
    pub(crate) fn chmod(&self, _mode: u32, _who: &Identity) -> Result<()> {
        todo!()
    }
    /// `u32::MAX` leaves an id as it is. Set-user-id bits and file capabilities go as the kernel makes them go.
    pub(crate) fn chown(&self, _uid: u32, _gid: u32, _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn set_times(&self, _atime: NewTime, _mtime: NewTime, _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn truncate(&self, _length: u64, _who: &Identity) -> Result<()> {
        todo!()
    }
    /// access(2) with R_OK|W_OK|X_OK.
    pub(crate) fn access(&self, _mode: u32, _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn get_xattr(&self, _name: &[u8], _who: &Identity) -> Result<Vec<u8>> {
        todo!()
    }
    pub(crate) fn set_xattr(&self, _name: &[u8], _value: &[u8], _flags: u32, _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn remove_xattr(&self, _name: &[u8], _who: &Identity) -> Result<()> {
        todo!()
    }
    pub(crate) fn list_xattr(&self, _who: &Identity) -> Result<Vec<Vec<u8>>> {
        todo!()
    }
    pub(crate) fn statfs(&self) -> Result<rustix::fs::StatFs> {
        todo!()
    }
    /// An O_PATH descriptor of the real file (topmost), for exec, sockets, inotify; `write` copies up first.
    pub(crate) fn real(&self, _write: bool) -> Result<OwnedFd> {
        todo!()
    }
}
