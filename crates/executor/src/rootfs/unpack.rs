//! Unpacking archives: layers into their own directories, and archives that ADD finds into a file system.
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rbuild_image::layer::{Entry, Kind, LayerReader, WHITEOUT_META_PREFIX, WHITEOUT_OPAQUE, WHITEOUT_PREFIX};
use rbuild_sandbox::root::{Dir, FileKind, Metadata, NewDirs, Node, Root, RootError, Timestamp};

use super::attributes::Attributes;
use super::content::Mover;
use super::error::{Result, RootfsError};

/// Directory handles kept at most while unpacking.
const KNOWN_DIRS: usize = 64;

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Entries of the archive, whatever became of them.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
}

/// Unpacks one layer into an empty directory, in the form in which overlayfs takes it as a layer: what the layer says is
/// gone becomes a character device 0:0, a directory that shows nothing of lower layers gets `user.overlay.opaque`.
///
/// `lower` are the layers below, the nearest first, in the same form. A hard link to a file that only a lower layer has
/// becomes a copy of that file. Names that lead out of the target are refused as Docker 28 refuses them.
///
/// # Errors
/// Fails if the archive is damaged, an entry leads out of the target, or a file cannot be created; the target is then
/// half filled.
pub fn apply<R: Read>(reader: &mut LayerReader<R>, target: &Root, lower: &[&Root]) -> Result<Unpacked> {
    Unpacker::new(target, Meaning::Layer { lower }).run(reader)
}

/// How ADD unpacks an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnpackOptions {
    /// The owner of every file; without it, the archive says. The legacy builder ignores `--chown` for archives.
    pub chown: Option<(u32, u32)>,
}

/// Unpacks an archive into a directory of a file system, as ADD does: what exists is replaced, directories are merged,
/// directories that are links are followed, and `.wh.` names are ordinary names (both builders of Docker 28). A missing
/// destination is created with its parents, with mode 0755 and the owner of the options, or else of root.
///
/// As with Docker, which unpacks with the destination as the root, links cannot lead out of the destination. The archive
/// is plain here; see [`rbuild_image::compression::decoder`].
///
/// # Errors
/// Fails if the destination is no directory, the archive is damaged, an entry leads out of the destination, or a file
/// cannot be created.
pub fn unpack_archive<R: Read>(
    reader: &mut LayerReader<R>,
    target: &Root,
    path: &Path,
    options: UnpackOptions,
) -> Result<Unpacked> {
    let new = NewDirs { mode: 0o755, owner: options.chown.unwrap_or((0, 0)), time: None };
    target.create_dir_all(path, new)?;
    let destination = target.subtree(path)?;
    let meaning = Meaning::Archive { chown: options.chown };
    Unpacker::new(&destination, meaning).run(reader)
}

/// What names mean.
enum Meaning<'a> {
    Layer { lower: &'a [&'a Root] },
    Archive { chown: Option<(u32, u32)> },
}

struct Unpacker<'a> {
    target: &'a Root,
    meaning: Meaning<'a>,
    mover: Mover,
    known: HashMap<PathBuf, Dir>,
    /// Directories whose times are set at the end, since each file in them changes these.
    dirs: Vec<(PathBuf, Timestamp)>,
    done: Unpacked,
}

/// The name of an entry as a path inside of the target; none is the target itself.
///
/// A leading slash counts for nothing; a name that then leads above the target is refused, even as `/../x`.
fn clean(name: &[u8]) -> std::result::Result<Option<PathBuf>, ()> {
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                if !clean.pop() {
                    return Err(());
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

fn os_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

impl<'a> Unpacker<'a> {
    fn new(target: &'a Root, meaning: Meaning<'a>) -> Self {
        Unpacker {
            target,
            meaning,
            mover: Mover::default(),
            known: HashMap::new(),
            dirs: Vec::new(),
            done: Unpacked::default(),
        }
    }

    fn run<R: Read>(mut self, reader: &mut LayerReader<R>) -> Result<Unpacked> {
        while let Some(entry) = reader.next_entry()? {
            self.done.entries += 1;
            self.entry(&entry, reader).map_err(|source| in_entry(&entry, source))?;
        }
        // Later entries of the same name win, as their attributes did.
        for (path, time) in std::mem::take(&mut self.dirs) {
            let (dir, name) = self.place(&path)?;
            let Some(metadata) = dir.try_lstat(&name)? else {
                continue;
            };
            if metadata.is_dir() {
                dir.node(&name)?.set_times(time, time)?;
            }
        }
        Ok(self.done)
    }

    fn entry<R: Read>(&mut self, entry: &Entry, reader: &mut LayerReader<R>) -> Result<()> {
        let breakout = || RootfsError::Breakout { entry: os_path(&entry.path), target: os_path(&entry.path) };
        let Some(path) = clean(&entry.path).map_err(|()| breakout())? else {
            return Ok(());
        };
        let (dir, name) = self.place(&path)?;
        let mut attributes = Attributes::of_entry(entry);
        match self.meaning {
            Meaning::Layer { .. } => {
                if self.whiteout(entry, &path, &dir, &name)? {
                    return Ok(());
                }
            }
            Meaning::Archive { chown } => attributes.owner = chown.unwrap_or(attributes.owner),
        }
        match &entry.kind {
            Kind::Dir => {
                let node = match self.create(&path, &dir, &name, true, |dir, name| dir.create_dir(name))? {
                    Some(node) => node,
                    None => dir.node(&name)?,
                };
                attributes.give_without_times(&node)?;
                self.dirs.push((path.clone(), attributes.mtime));
                if let Some(dir) = node.into_dir() {
                    self.keep(path, dir);
                }
            }
            Kind::File { .. } => {
                let node = self.create_file(&path, &dir, &name, |dir, name| dir.create_file(name))?;
                let written = match node.file() {
                    Some(file) => self
                        .mover
                        .write(reader.content(), file)
                        .map_err(|source| RootfsError::content("write", &path, source))?,
                    None => 0,
                };
                self.done.bytes += written;
                attributes.give(&node)?;
            }
            Kind::Symlink { target } => {
                let target = os_path(target);
                let node = self.create_file(&path, &dir, &name, |dir, name| dir.create_symlink(name, &target))?;
                attributes.give(&node)?;
            }
            Kind::Hardlink { target } => self.hard_link(entry, target, &path, &dir, &name, attributes)?,
            Kind::Char { major, minor } => {
                let device = (*major, *minor);
                let node = self.create_file(&path, &dir, &name, |dir, name| {
                    dir.create_special(name, FileKind::CharDevice, device)
                })?;
                attributes.give(&node)?;
            }
            Kind::Block { major, minor } => {
                let device = (*major, *minor);
                let node = self.create_file(&path, &dir, &name, |dir, name| {
                    dir.create_special(name, FileKind::BlockDevice, device)
                })?;
                attributes.give(&node)?;
            }
            Kind::Fifo => {
                let node =
                    self.create_file(&path, &dir, &name, |dir, name| dir.create_special(name, FileKind::Fifo, (0, 0)))?;
                attributes.give(&node)?;
            }
        }
        Ok(())
    }

    /// Turns a name that speaks of lower layers into overlayfs's form.
    fn whiteout(&mut self, entry: &Entry, path: &Path, dir: &Dir, name: &OsStr) -> Result<bool> {
        let bytes = name.as_bytes();
        let Some(gone) = bytes.strip_prefix(WHITEOUT_PREFIX.as_bytes()) else {
            return Ok(false);
        };
        if bytes == WHITEOUT_OPAQUE.as_bytes() {
            match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => {
                    let (above, name) = self.place(parent)?;
                    above.set_opaque(name)?;
                }
                // An opaque root hides all layers below, which overlayfs has no way to say of the root itself.
                None => self.target.dir().set_opaque(".")?,
            }
            return Ok(true);
        }
        if bytes.starts_with(WHITEOUT_META_PREFIX.as_bytes()) {
            // What AUFS left for itself.
            return Ok(true);
        }
        if matches!(gone, b"" | b"." | b"..") {
            return Err(RootfsError::InvalidEntry { entry: os_path(&entry.path), reason: "a whiteout without a name" });
        }
        let gone = OsStr::from_bytes(gone);
        let gone_path = path.with_file_name(gone);
        let node = self.create_file(&gone_path, dir, gone, |dir, name| dir.create_whiteout(name))?;
        node.chown(entry.uid, entry.gid)?;
        Ok(true)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        target: &[u8],
        path: &Path,
        dir: &Dir,
        name: &OsStr,
        mut attributes: Attributes,
    ) -> Result<()> {
        let Ok(Some(target_path)) = clean(target) else {
            return Err(RootfsError::Breakout { entry: os_path(&entry.path), target: os_path(target) });
        };
        let missing = || RootfsError::MissingLinkTarget { entry: os_path(&entry.path), target: os_path(target) };
        if target_path == path {
            // A link to itself, which some archivers write; the file is there already.
            return match dir.try_lstat(name)? {
                Some(_) => Ok(()),
                None => Err(missing()),
            };
        }
        let place = match self.open_parent(&target_path) {
            Ok(place) => Some(place),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let found = match &place {
            Some((from, from_name)) => from.try_lstat(from_name)?.map(|metadata| (from, from_name, metadata)),
            None => None,
        };
        if let Some((from, from_name, metadata)) = found {
            if metadata.is_dir() {
                return Err(RootfsError::InvalidEntry {
                    entry: os_path(&entry.path),
                    reason: "a hard link to a directory",
                });
            }
            self.replace(path, dir, name, false, |dir, name| dir.hard_link(name, from, from_name))?;
            // The entry's attributes are those of the file, which another name may have changed.
            if !metadata.is_symlink() {
                attributes.give(&dir.node(name)?)?;
            }
            return Ok(());
        }
        let Meaning::Layer { lower } = self.meaning else {
            return Err(missing());
        };
        let Some((root, lower_path, metadata)) = find_lower(lower, &target_path)? else {
            return Err(missing());
        };
        self.copy_lower(root, &lower_path, &metadata, path, dir, name)?;
        if !metadata.is_symlink() {
            if attributes.xattrs.is_empty() {
                attributes.xattrs = root.xattrs(&lower_path)?;
            }
            attributes.give(&dir.node(name)?)?;
        }
        Ok(())
    }

    fn copy_lower(
        &mut self,
        root: &Root,
        from: &Path,
        metadata: &Metadata,
        path: &Path,
        dir: &Dir,
        name: &OsStr,
    ) -> Result<()> {
        let attributes = Attributes::of_metadata(metadata, root.xattrs(from)?);
        let node = match metadata.kind {
            FileKind::File => {
                let node = self.create_file(path, dir, name, |dir, name| dir.create_file(name))?;
                if let Some(file) = node.file() {
                    let source = root.open_file(from)?;
                    self.mover
                        .copy(&source, file, metadata.size, metadata.is_sparse())
                        .map_err(|source| RootfsError::content("copy", from, source))?;
                }
                node
            }
            FileKind::Symlink => {
                let target = root.read_link(from)?;
                self.create_file(path, dir, name, |dir, name| dir.create_symlink(name, &target))?
            }
            kind => self.create_file(path, dir, name, |dir, name| dir.create_special(name, kind, metadata.device))?,
        };
        attributes.give(&node)
    }

    /// Creates something that is no directory in place of whatever is there.
    fn create_file(
        &mut self,
        path: &Path,
        dir: &Dir,
        name: &OsStr,
        create: impl Fn(&Dir, &OsStr) -> std::result::Result<Node, RootError>,
    ) -> Result<Node> {
        match self.create(path, dir, name, false, create)? {
            Some(node) => Ok(node),
            None => Ok(dir.node(name)?),
        }
    }

    fn create(
        &mut self,
        path: &Path,
        dir: &Dir,
        name: &OsStr,
        is_dir: bool,
        create: impl Fn(&Dir, &OsStr) -> std::result::Result<Node, RootError>,
    ) -> Result<Option<Node>> {
        self.replace(path, dir, name, is_dir, create)
    }

    /// Creates a file; if the name is taken, what has it is removed first, but a directory that is to be a directory
    /// stays: then the answer is none.
    fn replace<T>(
        &mut self,
        path: &Path,
        dir: &Dir,
        name: &OsStr,
        is_dir: bool,
        create: impl Fn(&Dir, &OsStr) -> std::result::Result<T, RootError>,
    ) -> Result<Option<T>> {
        match create(dir, name) {
            Ok(done) => return Ok(Some(done)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let existing = dir.lstat(name)?;
        if is_dir && existing.is_dir() {
            return Ok(None);
        }
        if existing.is_dir() || existing.is_symlink() {
            self.known.clear();
            self.dirs.retain(|(dir, _)| !dir.starts_with(path));
        }
        dir.remove_tree(name)?;
        Ok(Some(create(dir, name)?))
    }

    /// The directory that holds an entry, created with its parents if it is missing.
    fn place(&mut self, path: &Path) -> Result<(Dir, OsString)> {
        match self.open_parent(path) {
            Err(error) if error.is_not_found() => {}
            result => return result,
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        // Docker's `ImpliedDirectoryMode`; the owner is root.
        let new = NewDirs { mode: 0o755, owner: (0, 0), time: None };
        self.target.create_dir_all(parent, new)?;
        self.open_parent(path)
    }

    fn open_parent(&mut self, path: &Path) -> Result<(Dir, OsString)> {
        let name = path.file_name().unwrap_or_default().to_os_string();
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some(dir) = self.known.get(parent) {
            return Ok((dir.clone(), name));
        }
        let dir = self.target.open_dir_beneath(parent)?;
        self.keep(parent.to_path_buf(), dir.clone());
        Ok((dir, name))
    }

    fn keep(&mut self, path: PathBuf, dir: Dir) {
        if self.known.len() >= KNOWN_DIRS {
            self.known.clear();
        }
        self.known.insert(path, dir);
    }
}

/// The file that a path names in the layers below, seen as overlayfs would: a whiteout or an opaque directory on the way
/// hides what is below it.
fn find_lower<'r>(lower: &[&'r Root], path: &Path) -> Result<Option<(&'r Root, PathBuf, Metadata)>> {
    for root in lower {
        let mut prefix = PathBuf::new();
        let mut hides = false;
        for component in path.components() {
            prefix.push(component);
            let Some(metadata) = root.try_lstat(&prefix)? else {
                break;
            };
            if metadata.is_whiteout() {
                return Ok(None);
            }
            if prefix == path {
                let found = (!metadata.is_dir()).then_some((*root, prefix, metadata));
                return Ok(found);
            }
            if !metadata.is_dir() {
                // A link or file on the way hides all below it.
                hides = true;
                break;
            }
            let (dir, name) = root.parent(&prefix)?;
            hides |= dir.is_opaque(name)?;
        }
        if hides {
            return Ok(None);
        }
    }
    Ok(None)
}

fn in_entry(entry: &Entry, source: RootfsError) -> RootfsError {
    match source {
        error @ (RootfsError::Breakout { .. }
        | RootfsError::InvalidEntry { .. }
        | RootfsError::MissingLinkTarget { .. }
        | RootfsError::Entry { .. }
        | RootfsError::Layer(_)) => error,
        source => RootfsError::Entry { entry: os_path(&entry.path), source: Box::new(source) },
    }
}
