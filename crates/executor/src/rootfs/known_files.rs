//! What was found out about files in earlier builds, so that a file that did not change need not be read again.
//!
//! A file is known by inode number, size, and times of modification and of inode change to the nanosecond. The kernel
//! sets the last whenever content or attributes change, and nobody can set it back. As in git, a file that changed
//! within the last two seconds is not trusted, since a clock may stand still between two changes; and nothing is where
//! the file system is not known to keep such times itself.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rbuild_sandbox::root::{Metadata, Root, Timestamp};

/// How long a file must have been at rest, in seconds.
const AT_REST: i64 = 2;

/// Files remembered at most.
const MOST: usize = 100_000;

/// Fewer new files than these, with less content, are read faster than remembered.
const FEW_FILES: u64 = 64;
const FEW_BYTES: u64 = 1 << 20;

/// The form of what is remembered; another form is forgotten.
const FORMAT: u8 = 1;
const ENTRY: usize = 8 + 8 + 12 + 12 + 1 + 32;

/// File systems of this machine that keep times of change themselves: ext, XFS, Btrfs, tmpfs, overlayfs, F2FS, ZFS and
/// bcachefs (`linux/magic.h`; statfs(2)).
const LOCAL: [i128; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

/// What is known of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Known {
    /// The SHA-256 of its content.
    pub(super) content: Option<[u8; 32]>,
    /// It has no extended attributes.
    pub(super) plain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
}

#[derive(Debug, Default)]
struct Files {
    before: HashMap<u64, (Stamp, Known)>,
    now: HashMap<u64, (Stamp, Known)>,
    new_files: u64,
    new_bytes: u64,
}

/// What is known of the regular files of one tree.
#[derive(Debug)]
pub struct KnownFiles {
    /// The tree's file system and the last second that is trusted; none is where nothing is.
    trusted: Option<(u64, i64)>,
    files: Mutex<Files>,
}

impl KnownFiles {
    /// Knows nothing yet of the files in a tree.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        let is_local = rustix::fs::fstatfs(root).is_ok_and(|stat| LOCAL.contains(&i128::from(stat.f_type)));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        let now = now.and_then(|now| i64::try_from(now.as_secs()).ok());
        let device = root.dir().lstat(".").ok().map(|status| status.id.0);
        KnownFiles {
            trusted: device.zip(now).filter(|_| is_local).map(|(device, now)| (device, now - AT_REST - 1)),
            files: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what [`KnownFiles::save`] gave; what is not in that form, or of another file system, is forgotten.
    pub fn recall(&self, saved: &[u8]) {
        let Some((device, _)) = self.trusted else { return };
        let Some((head, entries)) = saved.split_at_checked(9) else { return };
        if head.first() != Some(&FORMAT) || head.get(1..) != Some(device.to_le_bytes().as_slice()) {
            return;
        }
        let entries = entries.as_chunks::<ENTRY>().0.iter().take(MOST).filter_map(decode);
        self.lock().before = entries.collect();
    }

    /// What is to be remembered; none if it is no more than was recalled.
    #[must_use]
    pub fn save(&self) -> Option<Vec<u8>> {
        let (device, _) = self.trusted?;
        let files = self.lock();
        if files.new_files < FEW_FILES && files.new_bytes < FEW_BYTES {
            return None;
        }
        let mut saved = vec![FORMAT];
        saved.extend_from_slice(&device.to_le_bytes());
        for (inode, (stamp, known)) in files.now.iter().take(MOST) {
            encode(&mut saved, *inode, stamp, known);
        }
        Some(saved)
    }

    fn stamp(&self, metadata: &Metadata) -> Option<(u64, Stamp)> {
        let (device, latest) = self.trusted?;
        let (on, inode) = metadata.id;
        let at_rest = metadata.ctime.seconds < latest && metadata.mtime.seconds < latest;
        let stamp = Stamp { size: metadata.size, mtime: metadata.mtime, ctime: metadata.ctime };
        (metadata.is_file() && on == device && at_rest).then_some((inode, stamp))
    }

    /// Whether it is known that a file of this status has no extended attributes.
    #[must_use]
    pub fn is_plain(&self, metadata: &Metadata) -> bool {
        self.get(metadata).plain
    }

    /// What is known of a file that now has this status.
    pub(super) fn get(&self, metadata: &Metadata) -> Known {
        let Some((inode, stamp)) = self.stamp(metadata) else { return Known::default() };
        let mut files = self.lock();
        let same = |found: &&(Stamp, Known)| found.0 == stamp;
        if let Some((_, known)) = files.now.get(&inode).filter(same) {
            return *known;
        }
        let found = files.before.get(&inode).filter(same).copied();
        match found {
            Some((stamp, known)) => {
                files.now.insert(inode, (stamp, known));
                known
            }
            None => Known::default(),
        }
    }

    /// The file had this content after it had this status.
    pub(super) fn set_content(&self, metadata: &Metadata, digest: [u8; 32]) {
        self.set(metadata, metadata.size, |known| known.content = Some(digest));
    }

    /// The file had no extended attributes after it had this status.
    pub fn set_plain(&self, metadata: &Metadata) {
        self.set(metadata, 0, |known| known.plain = true);
    }

    fn set(&self, metadata: &Metadata, bytes: u64, change: impl FnOnce(&mut Known)) {
        let Some((inode, stamp)) = self.stamp(metadata) else { return };
        let mut files = self.lock();
        if files.now.len() >= MOST && !files.now.contains_key(&inode) {
            return;
        }
        let before = files.before.get(&inode).copied();
        let entry = files.now.entry(inode).or_insert_with(|| before.unwrap_or((stamp, Known::default())));
        if entry.0 != stamp {
            *entry = (stamp, Known::default());
        }
        change(&mut entry.1);
        files.new_files += 1;
        files.new_bytes += bytes;
    }
}

fn encode(out: &mut Vec<u8>, inode: u64, stamp: &Stamp, known: &Known) {
    out.extend_from_slice(&inode.to_le_bytes());
    out.extend_from_slice(&stamp.size.to_le_bytes());
    for time in [stamp.mtime, stamp.ctime] {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanoseconds.to_le_bytes());
    }
    out.push(u8::from(known.plain) | u8::from(known.content.is_some()) << 1);
    out.extend_from_slice(&known.content.unwrap_or_default());
}

/// The next `N` bytes; an entry has enough of them.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn decode(entry: &[u8; ENTRY]) -> Option<(u64, (Stamp, Known))> {
    let mut rest = entry.as_slice();
    let inode = u64::from_le_bytes(take(&mut rest)?);
    let size = u64::from_le_bytes(take(&mut rest)?);
    let mut time = || {
        let seconds = i64::from_le_bytes(take(&mut rest)?);
        let nanoseconds = u32::from_le_bytes(take(&mut rest)?);
        Some(Timestamp { seconds, nanoseconds })
    };
    let (mtime, ctime) = (time()?, time()?);
    let [flags] = take(&mut rest)?;
    let digest = take(&mut rest)?;
    let known = Known { content: (flags & 2 != 0).then_some(digest), plain: flags & 1 != 0 };
    Some((inode, (Stamp { size, mtime, ctime }, known)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_sandbox::root::Ownership;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), Ownership::Real).unwrap();
        (dir, root)
    }

    /// As if the build came some seconds later.
    fn later(root: &Root) -> KnownFiles {
        let mut known = KnownFiles::new(root);
        known.trusted = known.trusted.map(|(device, latest)| (device, latest + 100));
        known
    }

    fn plain(content: [u8; 32]) -> Known {
        Known { content: Some(content), plain: true }
    }

    #[test]
    fn knows_a_file_until_it_changes() {
        let (dir, root) = tree();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 2 << 20]).unwrap();
        let before = root.lstat("file").unwrap();
        let first = later(&root);
        assert_eq!(first.get(&before), Known::default());
        assert!(first.save().is_none());
        first.set_content(&before, [7; 32]);
        first.set_plain(&before);
        let saved = first.save().unwrap();

        let second = later(&root);
        second.recall(&saved);
        assert_eq!(second.get(&before), plain([7; 32]));
        // Nothing was added: there is nothing to write.
        assert!(second.save().is_none());
        // The same size and time of modification, and yet another file.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, vec![2; 2 << 20]).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let mtime = before.mtime;
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::new(mtime.seconds.unsigned_abs(), mtime.nanoseconds);
        file.set_modified(time).unwrap();
        let after = root.lstat("file").unwrap();
        assert_eq!((after.size, after.mtime, after.id), (before.size, before.mtime, before.id));
        assert_eq!(second.get(&after), Known::default());
        second.set_plain(&after);
        assert_eq!(second.get(&after), Known { content: None, plain: true });
        assert_eq!(second.get(&before), plain([7; 32]), "what was recalled stands for the old status only");
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_trusted() {
        let (dir, root) = tree();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let status = root.lstat("file").unwrap();
        let known = KnownFiles::new(&root);
        known.set_content(&status, [7; 32]);
        assert_eq!(known.get(&status), Known::default());
        let mut old = status.clone();
        old.ctime.seconds -= 60;
        assert_eq!(known.get(&old), Known::default());
        known.set_plain(&old);
        assert_eq!(known.get(&old), Known::default(), "its time of modification is new");
    }

    #[test]
    fn digests_are_the_same_with_and_without_it() {
        use crate::rootfs::{HashOptions, Source, content_hash};
        let (dir, root) = tree();
        for (name, size) in [("small", 10), ("large", 3 << 20), ("empty", 0)] {
            std::fs::write(dir.path().join(name), vec![b'a'; size]).unwrap();
        }
        let paths = [std::path::PathBuf::new()];
        let hash = |known| {
            let source = Source { known, ..Source::new(&root) };
            content_hash(&source, &paths, HashOptions::default()).unwrap()
        };
        let known = later(&root);
        let first = hash(Some(&known));
        assert_eq!(first, hash(None));
        let recalled = later(&root);
        recalled.recall(&known.save().unwrap());
        assert_eq!(first, hash(Some(&recalled)));
        assert!(recalled.save().is_none(), "nothing was read");
        std::thread::sleep(std::time::Duration::from_millis(20));
        for name in ["small", "large"] {
            let path = dir.path().join(name);
            let time = path.metadata().unwrap().modified().unwrap();
            let mut content = std::fs::read(&path).unwrap();
            content[5] = b'b';
            std::fs::write(&path, content).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            let changed = hash(Some(&recalled));
            assert_ne!(changed, first);
            assert_eq!(changed, hash(None));
        }
        assert!(recalled.save().is_some());
    }

    #[test]
    fn forgets_what_it_cannot_read() {
        let (_dir, root) = tree();
        let known = later(&root);
        for bytes in [&b""[..], b"\x01", b"\x02aaaaaaaabbbbbbb", &[1; 500]] {
            known.recall(bytes);
            assert!(known.lock().before.is_empty());
        }
    }
}
