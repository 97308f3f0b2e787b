//! Layer tars: entries, a reader for all that is met in the wild, a writer that writes as Docker does.
//!
//! Header fields are those of the `tar` crate's header types. The framing is ours: the crate reads long names and
//! extended headers of any size into memory, knows no PAX sparse files and writes GNU headers where Docker writes PAX.
//! Nothing is rejected by its path: what is safe is for the one to decide who unpacks.

mod reader;
mod sparse;
mod writer;

use std::collections::BTreeMap;
use std::io;

pub use reader::{Content, LayerReader};
pub use writer::{LayerWriter, TRAILER_SIZE, go_tar_size};

/// The size of a tar block in bytes.
pub const BLOCK: u64 = 512;

/// The largest extended header or long name that is read, as in Go's archive/tar: 1 MiB.
pub(crate) const SPECIAL_MAX: u64 = 1 << 20;

/// Prefix of a name that says a file of a lower layer is gone.
pub const WHITEOUT_PREFIX: &str = ".wh.";
/// Prefix of names reserved for purposes of the layer format itself; such entries are no files.
pub const WHITEOUT_META_PREFIX: &str = ".wh..wh.";
/// Name of the entry that hides everything lower layers have in its directory.
pub const WHITEOUT_OPAQUE: &str = ".wh..wh..opq";

/// What an entry's name says about lower layers (OCI image specification, "Layer", section "Whiteouts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// The file of this name, in this directory, is gone.
    File {
        /// The directory, without a slash at its end; empty at the root.
        dir: &'a [u8],
        /// The name of what is gone.
        name: &'a [u8],
    },
    /// The directory shows nothing of lower layers.
    Opaque {
        /// The directory, without a slash at its end; empty at the root.
        dir: &'a [u8],
    },
    /// Another reserved name (AUFS left some in old layers); to be ignored.
    Reserved,
}

impl<'a> Whiteout<'a> {
    /// Reads the meaning of a path; `None` for an ordinary one.
    pub fn of(path: &'a [u8]) -> Option<Whiteout<'a>> {
        let (dir, base) = match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        if base == WHITEOUT_OPAQUE.as_bytes() {
            Some(Whiteout::Opaque { dir })
        } else if base.starts_with(WHITEOUT_META_PREFIX.as_bytes()) {
            Some(Whiteout::Reserved)
        } else {
            base.strip_prefix(WHITEOUT_PREFIX.as_bytes()).map(|name| Whiteout::File { dir, name })
        }
    }
}

fn join(dir: &[u8], prefix: &str, name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(prefix.as_bytes());
    path.extend_from_slice(name);
    path
}

/// The path of the entry that says `dir/name` is gone.
pub fn whiteout_path(dir: &[u8], name: &[u8]) -> Vec<u8> {
    join(dir, WHITEOUT_PREFIX, name)
}

/// The path of the entry that makes `dir` opaque.
pub fn opaque_path(dir: &[u8]) -> Vec<u8> {
    join(dir, WHITEOUT_OPAQUE, b"")
}

/// A moment: seconds since 1970 and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mtime {
    /// Seconds since 1970; negative before.
    pub secs: i64,
    /// Nanoseconds, always counted forward from `secs`; below 1 000 000 000.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// What it contains.
        target: Vec<u8>,
    },
    /// Another name of a file that came before.
    Hardlink {
        /// The path of that file in the archive.
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path in bytes; directories have no slash at the end here, though they have one in the tar.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky bits: 0o7777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was changed. The writer cuts it to whole seconds, as Docker does in layers.
    pub mtime: Mtime,
    /// Extended attributes by their full names, such as `security.capability`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry of root's, of time 0, without attributes; mode 0755 for directories, 0777 for symbolic links, else 0644.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Entry {
        let mode = match kind {
            Kind::Dir => 0o755,
            Kind::Symlink { .. } => 0o777,
            _ => 0o644,
        };
        Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: BTreeMap::new() }
    }

    /// The number of bytes that follow the header; not zero for regular files only.
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size } => size,
            _ => 0,
        }
    }
}

/// Why a layer cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The stream failed; decompression and verification faults come this way too.
    #[error("cannot {action} layer at byte {offset}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// How far the tar stream had come.
        offset: u64,
        /// The fault.
        source: io::Error,
    },
    /// The stream ends within a header or a file.
    #[error("layer is truncated at byte {offset}{}", in_entry(.path))]
    Truncated {
        /// Where it ends.
        offset: u64,
        /// The entry whose content is cut, lossily as text; empty in a header.
        path: String,
    },
    /// A header is malformed.
    #[error("layer is corrupt at byte {offset}: {what}")]
    Corrupt {
        /// Where the header is.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry is of a type that no layer has.
    #[error("layer has entry `{path}` of unsupported type {flag:?} at byte {offset}")]
    Unsupported {
        /// Where the header is.
        offset: u64,
        /// The entry, lossily as text.
        path: String,
        /// The type flag.
        flag: char,
    },
    /// An extended attribute has a name that a PAX record cannot have.
    #[error("cannot write `{path}` to a layer: extended attribute name has `=` or a NUL byte")]
    XattrName {
        /// The entry, lossily as text.
        path: String,
    },
    /// A path or target has a NUL byte, or all of them together are too long for a header.
    #[error("cannot write `{path}` to a layer: {what}")]
    Unencodable {
        /// The entry, lossily as text.
        path: String,
        /// What does not fit.
        what: &'static str,
    },
    /// A file's content could not be read while the layer was written.
    #[error("cannot read content of `{path}`")]
    Content {
        /// The entry, lossily as text.
        path: String,
        /// The fault.
        source: io::Error,
    },
    /// A file has not the size its entry says: it changed while it was read.
    #[error("`{path}` changed while it was read: expected {expected} bytes, got {}", if *.actual > *.expected { "more".to_owned() } else { .actual.to_string() })]
    SizeChanged {
        /// The entry, lossily as text.
        path: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes read; one above `expected` stands for any larger number.
        actual: u64,
    },
}

fn in_entry(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" in `{path}`") }
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
