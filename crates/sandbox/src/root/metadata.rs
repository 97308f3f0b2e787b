//! What is known of a file without reading it.
use rustix::fs::{FileType, Nsecs, Stat, Timespec};

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket, or a type the kernel does not name.
    Socket,
}

impl FileKind {
    pub(crate) fn from_raw(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::CharacterDevice => FileKind::CharDevice,
            FileType::BlockDevice => FileKind::BlockDevice,
            FileType::Fifo => FileKind::Fifo,
            _ => FileKind::Socket,
        }
    }

    pub(crate) fn raw(self) -> FileType {
        match self {
            FileKind::File => FileType::RegularFile,
            FileKind::Directory => FileType::Directory,
            FileKind::Symlink => FileType::Symlink,
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
        }
    }
}

/// A point in time, counted from the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds since the epoch; negative before it.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A time of whole seconds.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Timestamp { seconds, nanoseconds: 0 }
    }

    pub(super) fn timespec(self) -> Timespec {
        Timespec { tv_sec: self.seconds, tv_nsec: Nsecs::from(self.nanoseconds.min(999_999_999)) }
    }
}

/// What `lstat` tells of a file, with recorded ownership and placeholders of devices already resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The type, that of the device for a device placeholder.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits: the low 12 bits of `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; for a symbolic link, of its target.
    pub size: u64,
    /// Device number of a device node, (major, minor); zeros otherwise.
    pub device: (u32, u32),
    /// Last modification.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Number of hard links.
    pub links: u64,
    /// Number of the file system and of the inode in it: equal for hard links of one file.
    pub id: (u64, u64),
    /// Allocated blocks of 512 bytes; fewer than the size needs if the file is sparse.
    pub blocks: u64,
}

impl Metadata {
    // The field types of `struct stat` differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    pub(super) fn from_stat(stat: &Stat) -> Self {
        let kind = FileKind::from_raw(stat.st_mode as u32);
        let device = match kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                (rustix::fs::major(stat.st_rdev as u64), rustix::fs::minor(stat.st_rdev as u64))
            }
            _ => (0, 0),
        };
        Metadata {
            kind,
            mode: stat.st_mode as u32 & 0o7777,
            uid: stat.st_uid as u32,
            gid: stat.st_gid as u32,
            size: stat.st_size as u64,
            device,
            mtime: Timestamp { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
            atime: Timestamp { seconds: stat.st_atime as i64, nanoseconds: stat.st_atime_nsec as u32 },
            ctime: Timestamp { seconds: stat.st_ctime as i64, nanoseconds: stat.st_ctime_nsec as u32 },
            links: stat.st_nlink as u64,
            id: (stat.st_dev as u64, stat.st_ino as u64),
            blocks: stat.st_blocks as u64,
        }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Whether this is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.kind == FileKind::Symlink
    }

    /// Whether this is an overlayfs whiteout, a character device 0:0 (kernel `Documentation/filesystems/overlayfs.rst`,
    /// "whiteouts and opaque directories").
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice && self.device == (0, 0)
    }

    /// Whether fewer blocks are allocated than the size needs, as far as the file system tells.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.kind == FileKind::File && self.blocks.saturating_mul(512) < self.size
    }
}
