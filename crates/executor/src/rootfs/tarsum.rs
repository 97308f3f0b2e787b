//! The hashes in the legacy builder's history lines: `file:`, `dir:` and `multi:` of COPY and ADD.
//!
//! They are tar sums of version 1 (moby 28 `daemon/builder/remotecontext`): the fields of a file's tar header and its
//! content, without its time. The modes in headers that 20.10 makes tell the type of the file, too. Which header is meant differs: a context counts as the tar that the client sends, a stage,
//! an image or a download as the files that lie there.
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rbuild_image::layer::{Entry, Kind, LayerReader};
use rbuild_logfmt::event::Version;
use rbuild_sandbox::root::{CAPABILITY, Dir, FileKind, Metadata, Visit};
use ring::digest::{Context, SHA256};

use super::content::fill;
use super::error::{Result, RootfsError};
use super::source::{Shown, Source};

/// Where the hashes of the files come from.
#[derive(Debug)]
pub enum Sums {
    /// A directory that the client would pack: owners are root's, hard links are those within the context.
    Directory(DirectorySums),
    /// A tar given as context.
    Archive(ArchiveSums),
    /// Files as they lie there: a stage, an image, or a download.
    Files(HeaderModes),
}

/// What the mode of a tar header has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderModes {
    /// Permissions alone.
    #[default]
    Permissions,
    /// The type of the file as well, as Docker 20.10 writes it.
    WithType,
}

impl HeaderModes {
    /// Those that a release of Docker writes.
    #[must_use]
    pub fn of(version: Version) -> HeaderModes {
        match version {
            Version::V20 => HeaderModes::WithType,
            Version::V28 => HeaderModes::Permissions,
        }
    }
}

/// Names of files in a context directory that have more than one.
#[derive(Debug, Default)]
pub struct DirectorySums {
    modes: HeaderModes,
    first_names: OnceLock<HashMap<(u64, u64), PathBuf>>,
}

/// Hashes of the entries of a context tar by their names.
#[derive(Debug, Default)]
pub struct ArchiveSums {
    sums: HashMap<PathBuf, String>,
}

impl ArchiveSums {
    /// Reads a whole tar, decompressed already.
    ///
    /// # Errors
    /// Fails if the tar is damaged.
    pub fn read<R: Read>(reader: &mut LayerReader<R>) -> Result<Self> {
        let mut sums = ArchiveSums::default();
        while let Some(entry) = reader.next_entry()? {
            sums.record(&entry, reader.content())?;
        }
        Ok(sums)
    }

    /// Adds one entry with its content; of several of one name the first counts.
    ///
    /// # Errors
    /// Fails if the content cannot be read.
    pub fn record(&mut self, entry: &Entry, content: impl Read) -> Result<()> {
        let mut name = entry.path.clone();
        let (flag, link, device) = match &entry.kind {
            Kind::File { .. } => (b'0', [].as_slice(), (0, 0)),
            Kind::Hardlink { target } => (b'1', target.as_slice(), (0, 0)),
            Kind::Symlink { target } => (b'2', target.as_slice(), (0, 0)),
            Kind::Char { major, minor } => (b'3', [].as_slice(), (*major, *minor)),
            Kind::Block { major, minor } => (b'4', [].as_slice(), (*major, *minor)),
            Kind::Dir => {
                name.push(b'/');
                (b'5', [].as_slice(), (0, 0))
            }
            Kind::Fifo => (b'6', [].as_slice(), (0, 0)),
        };
        let header = Header {
            name: &name,
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            size: entry.size(),
            flag,
            link,
            device,
        };
        let xattrs = entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let path = lexical(Path::new(std::ffi::OsStr::from_bytes(&entry.path)));
        let sum = header.sum(xattrs, content).map_err(|source| RootfsError::content("read", &path, source))?;
        self.sums.entry(path).or_insert(sum);
        Ok(())
    }
}

struct Header<'a> {
    name: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    size: u64,
    flag: u8,
    link: &'a [u8],
    device: (u32, u32),
}

impl Header<'_> {
    /// Key and value of each field, without anything between, then the content.
    fn sum<'x>(
        &self,
        xattrs: impl Iterator<Item = (&'x [u8], &'x [u8])>,
        mut content: impl Read,
    ) -> std::io::Result<String> {
        let mut hash = Context::new(&SHA256);
        hash.update(b"name");
        hash.update(self.name);
        let (uid, gid) = self.owner;
        let (mode, size) = (self.mode, self.size);
        hash.update(format!("mode{mode}uid{uid}gid{gid}size{size}typeflag").as_bytes());
        hash.update(&[self.flag]);
        hash.update(b"linkname");
        hash.update(self.link);
        // Names of users are left empty, as before Go 1.10.
        let (major, minor) = self.device;
        hash.update(format!("unamegnamedevmajor{major}devminor{minor}").as_bytes());
        for (name, value) in xattrs {
            hash.update(name);
            hash.update(value);
        }
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = fill(&mut content, &mut buffer)?;
            hash.update(buffer.get(..length).unwrap_or_default());
            if length < buffer.len() {
                break;
            }
        }
        Ok(hex(hash.finish().as_ref()))
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// The hash of one source of COPY or ADD, without wildcards: `file:` or `dir:` with 64 hexadecimal digits. Links are
/// followed. None if there is nothing, or nothing that is seen.
///
/// # Errors
/// Fails if a file cannot be read.
pub fn legacy_hash(source: &Source<'_>, sums: &Sums, path: &Path) -> Result<Option<String>> {
    let canonical = source.root.resolve(path)?;
    let Some(metadata) = source.lstat(&canonical)? else {
        return Ok(None);
    };
    if !metadata.is_dir() {
        return Ok(Some(format!("file:{}", file_sum(source, sums, &canonical)?)));
    }
    let mut parts = Vec::new();
    // The root of a source has no entry.
    if !canonical.as_os_str().is_empty() {
        parts.push(file_sum(source, sums, &canonical)?);
    }
    let mut walk = source.walk(&canonical, None)?;
    while let Some(visit) = walk.next()? {
        if let Visit::Enter(found) = visit {
            let path = canonical.join(&found.path);
            match file_sum(source, sums, &path) {
                Ok(sum) => parts.push(sum),
                // A link that leads in circles has no hash, and is left out.
                Err(_) if found.metadata.is_symlink() => {}
                Err(error) => return Err(error),
            }
        }
    }
    parts.sort_unstable();
    Ok(Some(hash_list("dir", &parts)))
}

/// The hash of all sources of one instruction: that of the only one, or `multi:` of several.
#[must_use]
pub fn legacy_multi_hash(hashes: &[String]) -> String {
    match hashes {
        [only] => only.clone(),
        several => hash_list("multi", several),
    }
}

fn hash_list(prefix: &str, parts: &[String]) -> String {
    let digest = ring::digest::digest(&SHA256, parts.join(",").as_bytes());
    format!("{prefix}:{}", hex(digest.as_ref()))
}

/// The sum of a file, or of what a link leads to. What has none stands for itself with its path.
fn file_sum(source: &Source<'_>, sums: &Sums, path: &Path) -> Result<String> {
    let followed = source.root.resolve(path)?;
    let itself = |path: &Path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    match sums {
        Sums::Archive(archive) => Ok(archive.sums.get(&followed).cloned().unwrap_or_else(|| itself(path))),
        Sums::Directory(directory) => match source.lstat(&followed)? {
            Some(metadata)
                if metadata.kind != FileKind::Socket
                    && !followed.as_os_str().is_empty()
                    && source.shown(&followed) == Shown::Yes =>
            {
                let first = directory.first_name(source, &followed, &metadata)?;
                stored_sum(source, &followed, &metadata, first, directory.modes)
            }
            _ => Ok(itself(path)),
        },
        Sums::Files(modes) => match source.lstat(&followed)? {
            Some(metadata) => stored_sum(source, &followed, &metadata, None, *modes),
            None => Ok(itself(&followed)),
        },
    }
}

impl DirectorySums {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(modes: HeaderModes) -> DirectorySums {
        DirectorySums { modes, first_names: OnceLock::new() }
    }

    /// The name under which the client has packed a file before it comes to this one.
    fn first_name(&self, source: &Source<'_>, path: &Path, metadata: &Metadata) -> Result<Option<&Path>> {
        if metadata.is_dir() || metadata.links < 2 {
            return Ok(None);
        }
        let names = match self.first_names.get() {
            Some(names) => names,
            None => {
                let mut names = HashMap::new();
                let mut walk = source.walk(Path::new(""), None)?;
                while let Some(visit) = walk.next()? {
                    if let Visit::Enter(found) = visit
                        && !found.metadata.is_dir()
                        && found.metadata.links > 1
                    {
                        names.entry(found.metadata.id).or_insert(found.path);
                    }
                }
                self.first_names.get_or_init(|| names)
            }
        };
        Ok(names.get(&metadata.id).map(PathBuf::as_path).filter(|first| *first != path))
    }
}

fn stored_sum(
    source: &Source<'_>,
    path: &Path,
    metadata: &Metadata,
    first_name: Option<&Path>,
    modes: HeaderModes,
) -> Result<String> {
    let mut name = path.as_os_str().as_bytes().to_vec();
    if metadata.is_dir() {
        if name.is_empty() {
            name.push(b'.');
        }
        name.push(b'/');
    }
    let (dir, last) = if path.as_os_str().is_empty() {
        (source.root.dir().clone(), std::ffi::OsString::from("."))
    } else {
        source.root.parent(path)?
    };
    let flag = match (first_name, metadata.kind) {
        (Some(_), _) => b'1',
        (None, FileKind::Symlink) => b'2',
        (None, FileKind::CharDevice) => b'3',
        (None, FileKind::BlockDevice) => b'4',
        (None, FileKind::Directory) => b'5',
        (None, FileKind::Fifo) => b'6',
        (None, FileKind::File | FileKind::Socket) => b'0',
    };
    let has_content = metadata.is_file() && first_name.is_none();
    let header = Header {
        name: &name,
        mode: metadata.mode
            | match modes {
                HeaderModes::Permissions => 0,
                HeaderModes::WithType => type_bits(metadata.kind),
            },
        owner: (metadata.uid, metadata.gid),
        size: if has_content { metadata.size } else { 0 },
        flag,
        link: first_name.map_or(&[], |first| first.as_os_str().as_bytes()),
        device: metadata.device,
    };
    let capability = capability(&dir, &last, metadata)?;
    let xattrs = capability.iter().map(|value| (CAPABILITY.as_bytes(), value.as_slice()));
    let sum = if has_content && metadata.size > 0 {
        header.sum(xattrs, dir.open_file(&last)?)
    } else {
        header.sum(xattrs, std::io::empty())
    };
    sum.map_err(|source| RootfsError::content("read", path, source))
}

/// A file's type as in `st_mode`.
fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o010_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::Directory => 0o040_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::File => 0o100_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Socket => 0o140_000,
    }
}

/// The client packs capabilities, whether or not they survive the copy.
fn capability(dir: &Dir, name: &std::ffi::OsStr, metadata: &Metadata) -> Result<Option<Vec<u8>>> {
    if metadata.is_file() { Ok(dir.xattr(name, CAPABILITY)?) } else { Ok(None) }
}
