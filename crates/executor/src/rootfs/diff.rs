//! Writing what a step changed as a layer.
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_image::layer::{Entry, Kind, LayerWriter, Mtime, opaque_path, whiteout_path};
use rbuild_sandbox::root::{CAPABILITY, FileKind, Found, Root, Timestamp, Visit};

use super::error::Result;

/// Which extended attributes go into a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerXattrs {
    /// File capabilities alone, as Docker packs layers with overlay2 (`ReadSecurityXattrToTarHeader`).
    #[default]
    Capabilities,
    /// All but those of overlayfs and of rbuild, as containerd packs layers.
    All,
}

/// How a layer is written.
#[derive(Clone, Copy, Default)]
pub struct DiffOptions<'a> {
    /// Times after this one, in seconds since 1970, become this one (BuildKit's `rewrite-timestamp` with
    /// `SOURCE_DATE_EPOCH`).
    pub rewrite_timestamp: Option<i64>,
    /// Paths, relative to the root, that are left out with all that is below them.
    pub exclude: Option<&'a dyn Fn(&Path) -> bool>,
    /// Which extended attributes are written.
    pub xattrs: LayerXattrs,
}

impl std::fmt::Debug for DiffOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiffOptions")
            .field("rewrite_timestamp", &self.rewrite_timestamp)
            .field("excludes", &self.exclude.is_some())
            .field("xattrs", &self.xattrs)
            .finish()
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Diffed {
    /// Entries of the layer.
    pub entries: u64,
    /// Bytes of file content; a file with several names counts once.
    pub bytes: u64,
}

/// Writes what an overlay's upper directory holds as a layer, in one pass and with each file read once.
///
/// The order is that of Docker's overlay2: a directory, then what is in it sorted by name. A character device 0:0 becomes
/// a whiteout of mode 0600; an opaque directory is followed by an entry `.wh..wh..opq` of its owner and permissions and of
/// time 0. Of several names of one file the first has the content. Sockets are left out. What a program has written into
/// the stand-in of a device is taken away. The trailer is the caller's business ([`LayerWriter::finish`]).
///
/// # Errors
/// Fails if a file cannot be read, has not the length it had when it was met, or the writer fails.
pub fn diff<W: Write>(upper: &Root, writer: &mut LayerWriter<W>, options: DiffOptions<'_>) -> Result<Diffed> {
    let mut names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut done = Diffed::default();
    let mut walk = upper.walk("")?;
    while let Some(visit) = walk.next() {
        let Visit::Enter(mut found) = visit? else {
            continue;
        };
        if found.metadata.is_file() && found.metadata.size > 0 && found.dir.empty_device(&found.name)? {
            found.metadata = found.dir.lstat(&found.name)?;
        }
        if options.exclude.is_some_and(|exclude| exclude(&found.path)) {
            walk.skip_dir();
            continue;
        }
        let Some(entry) = entry(&found, &mut names, options)? else {
            continue;
        };
        match entry.kind {
            Kind::File { size } if found.metadata.is_file() && size > 0 => {
                writer.append(&entry, found.dir.open_file(&found.name)?)?;
                done.bytes += size;
            }
            _ => writer.append_empty(&entry)?,
        }
        done.entries += 1;
        if entry.kind == Kind::Dir && found.dir.is_opaque(&found.name)? {
            let mut opaque = Entry::new(opaque_path(&entry.path), Kind::File { size: 0 });
            opaque.mode = entry.mode & 0o777;
            opaque.uid = entry.uid;
            opaque.gid = entry.gid;
            writer.append_empty(&opaque)?;
            done.entries += 1;
        }
    }
    Ok(done)
}

/// Writes a file, or a directory with all that is in it, as an archive: `name` is what it is called there, and for the
/// whole of a root, which itself has no entry, empty. Links are not followed. Order, hard links and sockets are as in
/// [`diff`], but nothing stands for what was removed.
///
/// # Errors
/// As [`diff`], and if there is no such file.
pub fn archive<W: Write>(
    root: &Root,
    path: &Path,
    name: &Path,
    writer: &mut LayerWriter<W>,
    options: DiffOptions<'_>,
) -> Result<()> {
    let mut names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut append = |mut found: Found| -> Result<()> {
        if found.metadata.is_file() && found.metadata.size > 0 && found.dir.empty_device(&found.name)? {
            found.metadata = found.dir.lstat(&found.name)?;
        }
        if found.metadata.is_whiteout() {
            return Ok(());
        }
        match entry(&found, &mut names, options)? {
            Some(entry @ Entry { kind: Kind::File { size: 1.. }, .. }) => {
                Ok(writer.append(&entry, found.dir.open_file(&found.name)?)?)
            }
            Some(entry) => Ok(writer.append_empty(&entry)?),
            None => Ok(()),
        }
    };
    if !name.as_os_str().is_empty() {
        let (dir, own) = root.parent(path)?;
        let metadata = dir.lstat(&own)?;
        let is_dir = metadata.is_dir();
        append(Found { dir, name: own, path: name.to_owned(), metadata })?;
        if !is_dir {
            return Ok(());
        }
    }
    for visit in root.subtree(path)?.walk("")? {
        if let Visit::Enter(found) = visit? {
            append(Found { path: name.join(&found.path), ..found })?;
        }
    }
    Ok(())
}

/// The entry of a file; none for a socket, which no archive can hold.
fn entry(found: &Found, names: &mut HashMap<(u64, u64), Vec<u8>>, options: DiffOptions<'_>) -> Result<Option<Entry>> {
    let metadata = &found.metadata;
    let mut path = found.path.as_os_str().as_bytes().to_vec();
    let (major, minor) = metadata.device;
    let mut mode = metadata.mode;
    let mut kind = match metadata.kind {
        FileKind::File => Kind::File { size: metadata.size },
        FileKind::Directory => Kind::Dir,
        FileKind::Symlink => Kind::Symlink { target: found.read_link()?.into_os_string().as_bytes().to_vec() },
        FileKind::CharDevice if metadata.is_whiteout() => {
            let parent = found.path.parent().unwrap_or(Path::new(""));
            path = whiteout_path(parent.as_os_str().as_bytes(), found.name.as_bytes());
            mode = 0o600;
            Kind::File { size: 0 }
        }
        FileKind::CharDevice => Kind::Char { major, minor },
        FileKind::BlockDevice => Kind::Block { major, minor },
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => return Ok(None),
    };
    // The kernel gives all whiteouts of an overlay one inode where it can; they are no links of each other.
    if metadata.links > 1 && kind != Kind::Dir && !metadata.is_whiteout() {
        match names.get(&metadata.id) {
            Some(first) => {
                kind = Kind::Hardlink { target: first.clone() };
            }
            None => {
                names.insert(metadata.id, path.clone());
            }
        }
    }
    let mut entry = Entry::new(path, kind);
    entry.mode = mode;
    entry.uid = metadata.uid;
    entry.gid = metadata.gid;
    entry.mtime = clamp(metadata.mtime, options.rewrite_timestamp);
    match options.xattrs {
        LayerXattrs::Capabilities if metadata.is_file() => {
            if let Some(value) = found.xattr(CAPABILITY)? {
                entry.xattrs.insert(CAPABILITY.as_bytes().to_vec(), value);
            }
        }
        LayerXattrs::Capabilities => {}
        LayerXattrs::All => {
            for (name, value) in found.dir.xattrs(&found.name)? {
                entry.xattrs.insert(name.as_bytes().to_vec(), value);
            }
        }
    }
    Ok(Some(entry))
}

fn clamp(mtime: Timestamp, latest: Option<i64>) -> Mtime {
    match latest {
        Some(latest) if mtime > Timestamp::from_seconds(latest) => Mtime { secs: latest, nanos: 0 },
        _ => Mtime { secs: mtime.seconds, nanos: mtime.nanoseconds },
    }
}
