//! What a file gets after it was created.
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use rbuild_image::layer::{Entry, Mtime};
use rbuild_sandbox::root::{CAPABILITY, Metadata, Node, Timestamp};

use super::error::Result;

/// Owner, mode, times and extended attributes.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    pub(super) owner: (u32, u32),
    pub(super) mode: u32,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// Those of an archive's entry. Times before 1970 become 1970, as in Docker's `boundTime`.
    pub(super) fn of_entry(entry: &Entry) -> Self {
        let mtime = if entry.mtime.secs < 0 { Timestamp::default() } else { timestamp(entry.mtime) };
        Attributes {
            owner: (entry.uid, entry.gid),
            mode: entry.mode,
            atime: mtime,
            mtime,
            xattrs: entry
                .xattrs
                .iter()
                .map(|(name, value)| (OsStr::from_bytes(name).to_os_string(), value.clone()))
                .collect(),
        }
    }

    pub(super) fn of_metadata(metadata: &Metadata, xattrs: Vec<(OsString, Vec<u8>)>) -> Self {
        Attributes {
            owner: (metadata.uid, metadata.gid),
            mode: metadata.mode,
            atime: metadata.atime,
            mtime: metadata.mtime,
            xattrs,
        }
    }

    /// What chown(2) after the copy would take away, as the legacy builder does it: setuid, setgid of files that the
    /// group may execute, and file capabilities.
    pub(super) fn lose_privileges(&mut self, is_dir: bool) {
        if is_dir {
            return;
        }
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
        self.xattrs.retain(|(name, _)| name != CAPABILITY);
    }

    /// Gives everything to a new file, in the order that loses nothing.
    pub(super) fn give(&self, node: &Node) -> Result<()> {
        self.give_without_times(node)?;
        node.set_times(self.atime, self.mtime)?;
        Ok(())
    }

    pub(super) fn give_without_times(&self, node: &Node) -> Result<()> {
        node.chown(self.owner.0, self.owner.1)?;
        for (name, value) in &self.xattrs {
            node.set_xattr(name, value)?;
        }
        node.chmod(self.mode)?;
        Ok(())
    }
}

pub(super) fn timestamp(mtime: Mtime) -> Timestamp {
    Timestamp { seconds: mtime.secs, nanoseconds: mtime.nanos }
}
