//! The size of BuildKit's file synchronisation: the sum of the protobuf packets that its daemon receives.
//!
//! The protocol is that of `tonistiigi/fsutil` (`types/wire.proto`, `types/stat.proto`): a packet of status for each
//! file in walking order, packets of data for the files that the daemon asks for, and a last packet. A regular file is
//! asked for unless the daemon holds one with the same status from the build before.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_sandbox::root::{FileKind, Metadata, Timestamp};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::tree::{Node, SourceTree};

/// The sender reads and sends files in pieces of this size.
const CHUNK: u64 = 32 * 1024;
/// The packet that ends a synchronisation.
const LAST_PACKET: u64 = 2;

/// Which regular files BuildKit's daemon holds after a synchronisation, each known by a digest of path and status.
///
/// BuildKit keeps the files of a local source between builds and asks only for those that changed, so the number it
/// shows depends on the build before. The caller keeps one snapshot under each key ([`Context::sync_key`] and its
/// like).
///
/// [`Context::sync_key`]: super::Context::sync_key
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSnapshot {
    files: BTreeSet<String>,
}

/// Size and outcome of one synchronisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Bytes that BuildKit shows after `transferring …:`.
    pub bytes: u64,
    /// What the daemon holds afterwards.
    pub snapshot: SyncSnapshot,
}

/// The status of a file as the sender describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WireStatus {
    path: PathBuf,
    /// Bits of Go's `fs.FileMode`.
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime_ns: i64,
    /// Target of a symbolic link, or the first name of a hard link.
    link: OsString,
    device: (u32, u32),
    xattrs: Vec<(OsString, Vec<u8>)>,
}

/// Bits of Go's `fs.FileMode` for a file's mode; the sender makes a socket a regular file.
fn go_mode(status: &Metadata) -> u32 {
    let kind = match status.kind {
        FileKind::Directory => 1 << 31,
        FileKind::Symlink => 1 << 27,
        FileKind::BlockDevice => 1 << 26,
        FileKind::CharDevice => (1 << 26) | (1 << 21),
        FileKind::Fifo => 1 << 25,
        FileKind::File | FileKind::Socket => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| status.mode & bit != 0).fold(0, |mode, (_, go)| mode | go);
    kind | special | (status.mode & 0o777)
}

/// Nanoseconds since the epoch; wraps beyond the years 1677 and 2262 as Go's `UnixNano` does.
fn nanoseconds(time: Timestamp) -> i64 {
    time.seconds.wrapping_mul(1_000_000_000).wrapping_add(time.nanoseconds.into())
}

impl WireStatus {
    fn of(node: &Node, tree: &SourceTree, owner: (u32, u32)) -> Self {
        let status = &node.status;
        Self {
            path: node.path.clone(),
            mode: go_mode(status),
            uid: owner.0,
            gid: owner.1,
            size: if status.is_dir() { 0 } else { status.size },
            mtime_ns: nanoseconds(status.mtime),
            link: node.target.clone().unwrap_or_default().into_os_string(),
            device: status.device,
            xattrs: tree.xattrs(node),
        }
    }

    fn is_regular(&self) -> bool {
        const TYPE: u32 = (1 << 31) | (1 << 27) | (1 << 26) | (1 << 25) | (1 << 21);
        self.mode & TYPE == 0
    }

    /// Length of the `Stat` message.
    fn message_len(&self) -> u64 {
        let number = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
        let text = |length: usize| {
            if length == 0 { 0 } else { bytes_len(length as u64) }
        };
        let attributes = self.xattrs.iter().map(|(name, value)| {
            let entry = bytes_len(name.len() as u64) + bytes_len(value.len() as u64);
            bytes_len(entry)
        });
        text(self.path.as_os_str().len())
            + number(self.mode.into())
            + number(self.uid.into())
            + number(self.gid.into())
            + number(self.size)
            + number(self.mtime_ns.cast_unsigned())
            + text(self.link.len())
            + number(self.device.0.into())
            + number(self.device.1.into())
            + attributes.sum::<u64>()
    }

    /// What the daemon compares to tell whether its copy is the same file.
    fn key(&self) -> String {
        let mut data = Vec::new();
        for text in [self.path.as_os_str(), self.link.as_os_str()] {
            data.extend_from_slice(&(text.len() as u64).to_le_bytes());
            data.extend_from_slice(text.as_bytes());
        }
        data.extend_from_slice(&self.mtime_ns.to_le_bytes());
        data.extend_from_slice(&self.size.to_le_bytes());
        for number in [self.mode, self.uid, self.gid, self.device.0, self.device.1] {
            data.extend_from_slice(&number.to_le_bytes());
        }
        digest(&SHA256, &data).as_ref()[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // Writing to a string does not fail.
            text
        })
    }
}

/// Length of a field of bytes: tag, length, content.
fn bytes_len(length: u64) -> u64 {
    1 + varint_len(length) + length
}

fn varint_len(value: u64) -> u64 {
    u64::from((64 - value.leading_zeros()).div_ceil(7).max(1))
}

/// Length of the packets of one file's content.
fn data_len(id: u64, size: u64) -> u64 {
    let head = 2 + if id == 0 { 0 } else { 1 + varint_len(id) };
    let rest = size % CHUNK;
    let last = if rest == 0 { 0 } else { head + bytes_len(rest) };
    (size / CHUNK).saturating_mul(head + bytes_len(CHUNK)) + last + head
}

/// The size of a synchronisation of one new regular file, as of a Dockerfile that the client wrote to a directory of
/// its own. All times of our days are equally long.
pub(super) fn single_file(name: &str, size: u64) -> Sync {
    let status = WireStatus {
        path: name.into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime_ns: i64::MAX,
        link: OsString::new(),
        device: (0, 0),
        xattrs: Vec::new(),
    };
    let bytes = bytes_len(status.message_len()) + data_len(0, size) + LAST_PACKET;
    Sync { bytes, snapshot: SyncSnapshot::default() }
}

/// Which files the daemon asks for although it holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Those that changed.
    Changed,
    /// All (28 for the Dockerfile and the ignore file).
    All,
}

/// Whether names of a hard link that is filtered out are made up for (since fsutil of 2022).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HardLinks {
    /// The first name that is sent stands for the file.
    Reset,
    /// The first name met stands for the file, sent or not.
    Kept,
}

/// Adds up one synchronisation.
pub(super) struct SyncSizer<'a> {
    tree: &'a SourceTree,
    held: Option<&'a SyncSnapshot>,
    asks: Asks,
    hard_links: HardLinks,
    bytes: u64,
    next_id: u64,
    snapshot: SyncSnapshot,
    /// First name met of each inode that has several.
    met: HashMap<u64, PathBuf>,
    /// For a first name met: the first name sent.
    sent: HashMap<PathBuf, PathBuf>,
}

impl<'a> SyncSizer<'a> {
    pub(super) fn new(tree: &'a SourceTree, held: Option<&'a SyncSnapshot>, asks: Asks, hard_links: HardLinks) -> Self {
        Self {
            tree,
            held,
            asks,
            hard_links,
            bytes: 0,
            next_id: 0,
            snapshot: SyncSnapshot::default(),
            met: HashMap::new(),
            sent: HashMap::new(),
        }
    }

    /// Takes note of a file that the walk meets, whether it is sent or not.
    pub(super) fn meet(&mut self, node: &Node) {
        if !node.status.is_dir() && node.status.links > 1 {
            self.met.entry(node.status.id.1).or_insert_with(|| node.path.clone());
        }
    }

    /// Sends a file.
    pub(super) fn send(&mut self, node: &Node, owner: (u32, u32)) {
        let mut status = WireStatus::of(node, self.tree, owner);
        let first_name = self.met.get(&node.status.id.1).filter(|_| node.status.links > 1 && !node.status.is_dir());
        if let (Some(first), false) = (first_name, node.status.is_symlink()) {
            status.link = self.hard_link(&node.path, &first.clone());
        }
        let message = status.message_len();
        self.bytes += bytes_len(message);
        let id = self.next_id;
        self.next_id += 1;
        if !status.is_regular() {
            return;
        }
        let key = status.key();
        let is_held = self.asks == Asks::Changed && self.held.is_some_and(|held| held.files.contains(&key));
        self.snapshot.files.insert(key);
        if status.link.is_empty() && !is_held {
            self.data(node, id);
        }
    }

    fn hard_link(&mut self, path: &Path, first: &Path) -> OsString {
        if self.hard_links == HardLinks::Kept {
            return if path == first { OsString::new() } else { first.as_os_str().to_owned() };
        }
        match self.sent.get(first) {
            Some(sent) => sent.as_os_str().to_owned(),
            None => {
                self.sent.insert(first.to_owned(), path.to_owned());
                OsString::new()
            }
        }
    }

    fn data(&mut self, node: &Node, id: u64) {
        // The sender passes over what it cannot open: such a file arrives empty.
        let size = if self.tree.is_readable(&node.path) { node.status.size } else { 0 };
        self.bytes += data_len(id, size);
    }

    pub(super) fn finish(self) -> Sync {
        Sync { bytes: self.bytes + LAST_PACKET, snapshot: self.snapshot }
    }
}
