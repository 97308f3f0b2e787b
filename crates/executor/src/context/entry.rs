//! One file of a context, as the builder sees it.

use std::ffi::OsString;
use std::path::PathBuf;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its target, as stored.
        target: OsString,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A file of a context with what the builder keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextEntry {
    /// Path relative to the context's root, without a leading `/` or `./`.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner as the builder sees it: 0 for a directory context, that of the tar for a tar.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Length in bytes; 0 for anything but a regular file.
    pub size: u64,
    /// Time of last modification in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Device and inode where several names may share the file (more than one link), for hard links.
    pub shared_inode: Option<(u64, u64)>,
}
