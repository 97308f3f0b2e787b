//! Tar archives with any name in them, also those that no honest program writes.

use std::io::Write;

use tar::{EntryType, Header};

/// Seconds since 1970 that everything made for tests bears.
pub const TIME: u64 = 1_700_000_000;

/// An archive in the making.
pub struct Tarball {
    builder: tar::Builder<Vec<u8>>,
}

impl Default for Tarball {
    fn default() -> Self {
        Tarball::new()
    }
}

impl Tarball {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Tarball {
        Tarball { builder: tar::Builder::new(Vec::new()) }
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Tarball {
        self.entry(name, EntryType::Regular, mode, "", content)
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, name: &str, mode: u32) -> Tarball {
        self.entry(name, EntryType::Directory, mode, "", b"")
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Tarball {
        self.entry(name, EntryType::Symlink, 0o777, target, b"")
    }

    /// Adds another name of a file.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Tarball {
        self.entry(name, EntryType::Link, 0o644, target, b"")
    }

    /// Adds an entry of root; the name goes in as it is, whatever it says.
    ///
    /// # Panics
    /// If a name has more than 99 bytes.
    #[must_use]
    pub fn entry(mut self, name: &str, kind: EntryType, mode: u32, target: &str, content: &[u8]) -> Tarball {
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(TIME);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
        self
    }

    /// The archive.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

/// Compresses with gzip, always to the same bytes.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
