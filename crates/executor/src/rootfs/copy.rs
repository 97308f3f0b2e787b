//! Copying for COPY, ADD and bind sources, as each builder copies.
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_sandbox::root::{Dir, FileKind, Found, Metadata, NewDirs, Node, Root, RootError, Timestamp, Visit};

use super::attributes::Attributes;
use super::content::Mover;
use super::error::{Result, RootfsError};
use super::source::{Filter, Source};

/// Changes a mode: takes the low 12 bits and whether it is a directory.
pub type ChangeMode<'a> = dyn Fn(u32, bool) -> u32 + 'a;

/// How BuildKit copies.
#[derive(Clone, Copy)]
pub struct CopyOptions<'a> {
    /// The owner of everything copied; without it, the source's is kept.
    pub chown: Option<(u32, u32)>,
    /// What becomes of the mode of everything copied.
    pub chmod: Option<&'a ChangeMode<'a>>,
    /// What of the source is copied, by the path inside of it.
    pub filter: Option<&'a Filter<'a>>,
    /// Whether a source that is a symbolic link is followed.
    pub follow: bool,
    /// Whether of a directory its content is copied, and not the directory itself into an existing one.
    pub contents: bool,
    /// Whether what exists is replaced whatever it is; else a file in place of a directory is an error, and the reverse.
    pub replace: bool,
    /// The time of everything copied and created; without it, the source's, and the present for new parents.
    pub time: Option<Timestamp>,
    /// Mode and owner of directories that are created on the way to the destination.
    pub parents: (u32, (u32, u32)),
}

impl Default for CopyOptions<'_> {
    /// As COPY without any flag: links followed, contents of directories, parents of root with mode 0755.
    fn default() -> Self {
        CopyOptions {
            chown: None,
            chmod: None,
            filter: None,
            follow: true,
            contents: true,
            replace: false,
            time: None,
            parents: (0o755, (0, 0)),
        }
    }
}

impl std::fmt::Debug for CopyOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyOptions")
            .field("chown", &self.chown)
            .field("chmod", &self.chmod.is_some())
            .field("filtered", &self.filter.is_some())
            .field("follow", &self.follow)
            .field("contents", &self.contents)
            .field("replace", &self.replace)
            .field("time", &self.time)
            .field("parents", &self.parents)
            .finish()
    }
}

/// Whether a path is written as a directory: it ends in a slash or in `/.`.
fn names_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.is_empty() || bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"."
}

fn not_found(path: &Path) -> RootfsError {
    RootfsError::Root(RootError::Io {
        operation: "look at",
        path: path.to_path_buf(),
        source: std::io::ErrorKind::NotFound.into(),
    })
}

/// The canonical path of a source and what is there.
fn find(source: &Source<'_>, from: &Path, follow: bool) -> Result<(PathBuf, Metadata)> {
    let path = if follow { source.root.resolve(from)? } else { source.root.resolve_parent(from)? };
    match source.lstat(&path)? {
        Some(metadata) => Ok((path, metadata)),
        None => Err(not_found(from)),
    }
}

/// Copies a file or directory as BuildKit does (fsutil `Copy`): `to` is made a directory if it ends in a slash; a file is
/// put into a directory that exists; hard links of what is copied stay hard links; a socket becomes an empty file.
///
/// # Errors
/// Fails if the source does not exist, is not seen, or changes while it is read; if a file would replace a directory or
/// the reverse; or if the destination cannot be written.
pub fn copy(source: &Source<'_>, from: &Path, dest: &Root, to: &Path, options: CopyOptions<'_>) -> Result<()> {
    let parents = NewDirs { mode: options.parents.0, owner: options.parents.1, time: options.time };
    let ensured = if names_directory(to) { to } else { to.parent().unwrap_or(Path::new("")) };
    let mut created = dest.create_dir_all(ensured, parents)?;
    let (path, metadata) = find(source, from, options.follow)?;
    let mut target = dest.resolve(to)?;
    let existing = dest.try_lstat(&target)?;
    let into = if metadata.is_dir() {
        !options.contents && existing.is_some()
    } else {
        existing.as_ref().is_some_and(Metadata::is_dir)
    };
    if into && let Some(name) = from.file_name() {
        target.push(name);
    }
    let above = if options.contents && metadata.is_dir() && existing.is_none() {
        target.as_path()
    } else {
        target.parent().unwrap_or(Path::new(""))
    };
    created.extend(dest.create_dir_all(above, parents)?);

    let mut copier = Copier::new(*source, dest, Style::Buildkit(options));
    if metadata.is_dir() {
        copier.directory(&path, &metadata, &target)?;
    } else {
        copier.single(&path, metadata, &target)?;
    }
    if let Some(time) = options.time {
        for dir in created.iter().rev() {
            dest.set_times(dir, time, time)?;
        }
    }
    Ok(())
}

/// Copies a file or directory as the legacy builder does (moby 28 `performCopyForInfo`): links to the source are followed;
/// of a directory always the content is copied, whatever it replaces; a file is put into a directory that exists or is
/// written with a slash at the end. Times are cut to seconds.
///
/// With an owner, everything copied and the parents of a file get it, and with that lose setuid bits and capabilities, as
/// chown(2) takes them. Without (COPY `--from` and no `--chown`), the source's are kept.
///
/// # Errors
/// Fails if the source does not exist, is not seen, or changes while it is read, or if the destination cannot be written.
pub fn copy_legacy(source: &Source<'_>, from: &Path, dest: &Root, to: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let (path, metadata) = find(source, from, true)?;
    let mut target = dest.resolve(to)?;
    let existing = dest.try_lstat(&target)?;
    let is_dir = existing.as_ref().is_some_and(Metadata::is_dir);
    let mut parents = NewDirs { mode: 0o755, owner: (0, 0), time: None };
    let mut copier = Copier::new(*source, dest, Style::Legacy { owner });
    if metadata.is_dir() {
        if existing.is_some() && !is_dir {
            return Err(RootfsError::DirectoryOverFile { path: target });
        }
        dest.create_dir_all(&target, parents)?;
        copier.below(&path, &target)?;
        if is_dir {
            // Docker touches it even where nothing was copied, so that it is in the layer.
            dest.touch(&target)?;
        } else if let Some((uid, gid)) = owner {
            dest.chown(&target, uid, gid)?;
        }
        return Ok(());
    }
    if (is_dir || names_directory(to))
        && let Some(name) = from.file_name()
    {
        target.push(name);
    }
    parents.owner = owner.unwrap_or((0, 0));
    dest.create_dir_all(target.parent().unwrap_or(Path::new("")), parents)?;
    copier.capabilities = false;
    copier.single(&path, metadata, &target)
}

enum Style<'a> {
    Buildkit(CopyOptions<'a>),
    Legacy { owner: Option<(u32, u32)> },
}

struct Copier<'a> {
    source: Source<'a>,
    dest: &'a Root,
    style: Style<'a>,
    capabilities: bool,
    mover: Mover,
    /// Where a file with several names was put first.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Copier<'a> {
    fn new(source: Source<'a>, dest: &'a Root, style: Style<'a>) -> Self {
        Copier { source, dest, style, capabilities: true, mover: Mover::default(), links: HashMap::new() }
    }

    fn replaces(&self) -> bool {
        match &self.style {
            Style::Buildkit(options) => options.replace,
            Style::Legacy { .. } => true,
        }
    }

    fn attributes(&self, dir: &Dir, name: &OsStr, metadata: &Metadata) -> Result<Attributes> {
        let mut xattrs = self.source.xattrs(dir, name, metadata)?;
        if matches!(self.style, Style::Legacy { .. }) {
            xattrs.retain(|(name, _)| self.capabilities && name == rbuild_sandbox::root::CAPABILITY);
        }
        let mut attributes = Attributes::of_metadata(metadata, xattrs);
        match &self.style {
            Style::Buildkit(options) => {
                attributes.owner = options.chown.unwrap_or(attributes.owner);
                if let Some(change) = options.chmod {
                    attributes.mode = change(attributes.mode, metadata.is_dir()) & 0o7777;
                }
                if let Some(time) = options.time {
                    attributes.atime = time;
                    attributes.mtime = time;
                }
            }
            Style::Legacy { owner } => {
                if let Some(owner) = owner {
                    attributes.owner = *owner;
                    attributes.lose_privileges(metadata.is_dir());
                }
                let seconds = attributes.mtime.seconds.max(0);
                attributes.mtime = Timestamp::from_seconds(seconds);
                attributes.atime = attributes.mtime;
            }
        }
        Ok(attributes)
    }

    /// Copies a directory of BuildKit's: one that exists keeps owner and mode and takes the times only.
    fn directory(&mut self, path: &Path, metadata: &Metadata, target: &Path) -> Result<()> {
        let created = match self.dest.try_lstat(target)? {
            Some(existing) if existing.is_dir() => false,
            Some(_) if self.replaces() => {
                self.dest.remove_tree(target)?;
                self.dest.create_dir(target)?;
                true
            }
            Some(_) => {
                return Err(RootfsError::DirectoryOverFile { path: target.to_path_buf() });
            }
            None => {
                self.dest.create_dir(target)?;
                true
            }
        };
        self.below(path, target)?;
        let (dir, name) = if path.as_os_str().is_empty() {
            (self.source.root.dir().clone(), ".".into())
        } else {
            self.source.root.parent(path)?
        };
        let attributes = self.attributes(&dir, &name, metadata)?;
        let node = self.dest.node(target)?;
        if created { attributes.give(&node) } else { Ok(node.set_times(attributes.atime, attributes.mtime)?) }
    }

    fn single(&mut self, path: &Path, metadata: Metadata, target: &Path) -> Result<()> {
        let (dir, name) = self.source.root.parent(path)?;
        let found = Found { dir, name, path: path.to_path_buf(), metadata };
        let (dir, name) = self.dest.parent(target)?;
        self.file(&found, &dir, &name, target)
    }

    /// Copies all that is below a directory into one that exists.
    fn below(&mut self, path: &Path, target: &Path) -> Result<()> {
        let filter = match &self.style {
            Style::Buildkit(options) => options.filter,
            Style::Legacy { .. } => None,
        };
        let mut walk = self.source.walk(path, filter)?;
        while let Some(visit) = walk.next()? {
            match visit {
                Visit::Enter(found) => {
                    let to = target.join(&found.path);
                    let (dir, name) = self.dest.parent(&to)?;
                    if found.metadata.is_dir() {
                        self.enter(&dir, &name, &to)?;
                    } else {
                        self.file(&found, &dir, &name, &to)?;
                    }
                }
                Visit::Leave(found) => {
                    let attributes = self.attributes(&found.dir, &found.name, &found.metadata)?;
                    attributes.give(&self.dest.node(target.join(&found.path))?)?;
                }
            }
        }
        Ok(())
    }

    /// Makes sure of a directory inside of the one that is copied.
    fn enter(&mut self, dir: &Dir, name: &OsStr, to: &Path) -> Result<()> {
        match dir.create_dir(name) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        if dir.lstat(name)?.is_dir() {
            return Ok(());
        }
        if !self.replaces() {
            return Err(RootfsError::DirectoryOverFile { path: to.to_path_buf() });
        }
        dir.remove_tree(name)?;
        dir.create_dir(name)?;
        Ok(())
    }

    /// Creates something that is no directory in place of what is there.
    fn place<T>(
        &self,
        dir: &Dir,
        name: &OsStr,
        to: &Path,
        create: impl Fn() -> std::result::Result<T, RootError>,
    ) -> Result<T> {
        match create() {
            Ok(done) => return Ok(done),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        if dir.lstat(name)?.is_dir() && !self.replaces() {
            return Err(RootfsError::FileOverDirectory { path: to.to_path_buf() });
        }
        dir.remove_tree(name)?;
        Ok(create()?)
    }

    fn file(&mut self, found: &Found, dir: &Dir, name: &OsStr, to: &Path) -> Result<()> {
        let metadata = &found.metadata;
        let linked = metadata.links > 1 && (metadata.is_file() || matches!(self.style, Style::Legacy { .. }));
        if linked {
            if let Some(first) = self.links.get(&metadata.id) {
                let (from, from_name) = self.dest.parent(first)?;
                self.place(dir, name, to, || dir.hard_link(name, &from, &from_name))?;
                return Ok(());
            }
            self.links.insert(metadata.id, to.to_path_buf());
        }
        let node = match metadata.kind {
            FileKind::File => {
                let node = self.place(dir, name, to, || dir.create_file(name))?;
                self.content(found, &node)?;
                node
            }
            FileKind::Symlink => {
                let target = found.read_link()?;
                self.place(dir, name, to, || dir.create_symlink(name, &target))?
            }
            FileKind::Socket => match self.style {
                // The type bits are lost on the way, and mknod(2) takes none for a regular file.
                Style::Buildkit(_) => self.place(dir, name, to, || dir.create_file(name))?,
                // No archive holds a socket.
                Style::Legacy { .. } => return Ok(()),
            },
            kind => self.place(dir, name, to, || dir.create_special(name, kind, metadata.device))?,
        };
        self.attributes(&found.dir, &found.name, metadata)?.give(&node)
    }

    fn content(&mut self, found: &Found, node: &Node) -> Result<()> {
        let Some(target) = node.file() else {
            return Ok(());
        };
        let expected = found.metadata.size;
        if expected == 0 {
            return Ok(());
        }
        let path = found.path_in_root();
        let source: File = found.dir.open_file(&found.name)?;
        let copied = self
            .mover
            .copy(&source, target, expected, found.metadata.is_sparse())
            .map_err(|source| RootfsError::content("copy", &path, source))?;
        if copied == expected { Ok(()) } else { Err(RootfsError::Changed { path, expected, found: copied }) }
    }
}
