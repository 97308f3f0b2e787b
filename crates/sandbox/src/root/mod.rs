//! A directory opened as the root of a tree that nobody vouches for.
//!
//! Every path is resolved inside the root: absolute paths, `..` and symbolic links cannot lead out of it. The last
//! component is not followed unless an operation says so. Files that this process may not give their owner, mode or
//! device number carry a record of it, and are shown as recorded (see [`Ownership`]).
//!
//! The root guards against what is in the tree, and against changes to the tree while it is worked on. It is no guard
//! against a caller that passes names with slashes to [`Dir`]: names there are single components.

pub(crate) mod beside;
mod dir;
mod error;
mod metadata;
mod node;
pub(crate) mod record;
mod remove;
mod resolve;
mod stack;
#[cfg(test)]
mod tests;
mod walk;
pub(crate) mod xattr;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use dir::Dir;
pub use error::{Result, RootError};
pub use metadata::{FileKind, Metadata, Timestamp};
pub use node::Node;
pub use record::Ownership;
pub use walk::{Found, Visit, Walk};
pub use xattr::{CAPABILITY, XattrOutcome, is_reserved};

use dir::Shared;
use resolve::Resolver;

/// Handles of parent directories kept at most.
const CACHED_DIRS: usize = 64;

#[derive(Debug, Default)]
struct Cache {
    generation: u64,
    dirs: HashMap<PathBuf, Dir>,
}

/// A directory opened as the root of an untrusted tree.
///
/// Handles of directories that were used are kept, so that many files in one directory cost no further resolution.
/// They are dropped when something is removed or renamed through this root; after another process has changed the tree,
/// open it again or call [`Root::forget_handles`].
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    resolver: Resolver,
    cache: Mutex<Cache>,
}

/// What new directories get in [`Root::create_dir_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDirs {
    /// The mode of each, whatever the umask.
    pub mode: u32,
    /// The owner and group of each.
    pub owner: (u32, u32),
    /// The time of last access and modification, or the present.
    pub time: Option<Timestamp>,
}

impl Root {
    /// Opens a directory of this process's view as a root. Symbolic links in `path` are followed: it is trusted.
    ///
    /// # Errors
    /// Fails if `path` is no directory or may not be opened.
    pub fn open(path: impl AsRef<Path>, ownership: Ownership) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| RootError::io("open the root", path, errno))?;
        Ok(Self::from_fd(fd, ownership))
    }

    /// Uses an open directory as a root.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, ownership: Ownership) -> Self {
        Self::with_resolver(fd, ownership, true)
    }

    fn with_resolver(fd: OwnedFd, ownership: Ownership, openat2: bool) -> Self {
        let shared = Shared {
            ownership,
            ids: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            use_proc: rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXEC_OK).is_ok(),
            generation: AtomicU64::new(0),
        };
        Root {
            dir: Dir::new(fd, PathBuf::new(), Arc::new(shared)),
            resolver: Resolver::new(openat2),
            cache: Mutex::default(),
        }
    }

    /// A directory of this root as a root of its own, that links cannot lead out of. Links in `path` are followed.
    ///
    /// # Errors
    /// Fails if there is no such directory.
    pub fn subtree(&self, path: impl AsRef<Path>) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = self.open_raw("open the directory", &relative(path.as_ref()), flags)?;
        Ok(Self::from_fd(fd, self.ownership()))
    }

    /// How owners are kept in this tree.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        self.dir.shared().ownership
    }

    /// The root directory itself.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Drops the kept directory handles, because the tree was changed by somebody else.
    pub fn forget_handles(&self) {
        self.lock().dirs.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.dir.shared().generation.load(Ordering::Acquire);
        if cache.generation != generation {
            cache.dirs.clear();
            cache.generation = generation;
        }
        cache
    }

    fn keep(&self, path: PathBuf, dir: Dir) {
        let mut cache = self.lock();
        if cache.dirs.len() >= CACHED_DIRS {
            cache.dirs.clear();
        }
        cache.dirs.insert(path, dir);
    }

    fn open_raw(&self, operation: &'static str, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        self.resolver
            .open(self.dir.as_fd(), path, flags, Mode::empty())
            .map_err(|errno| RootError::io(operation, path, errno))
    }

    /// Opens a directory, following symbolic links inside the root.
    ///
    /// # Errors
    /// Fails if there is no such directory.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        let path = relative(path.as_ref());
        if path.as_os_str().is_empty() {
            return Ok(self.dir.clone());
        }
        if let Some(dir) = self.lock().dirs.get(&path) {
            return Ok(dir.clone());
        }
        let fd = self.open_raw("open the directory", &path, OFlags::PATH | OFlags::DIRECTORY)?;
        let dir = Dir::new(fd, path.clone(), Arc::clone(self.dir.shared()));
        self.keep(path, dir.clone());
        Ok(dir)
    }

    /// Opens a directory as [`Root::open_dir`] does, but a path on which `..` would lead above the root, as written or by
    /// a relative link, is an error (`EXDEV`) and not held back. Absolute links start at the root.
    ///
    /// # Errors
    /// Fails if there is no such directory, or the path leads out.
    pub fn open_dir_beneath(&self, path: impl AsRef<Path>) -> Result<Dir> {
        let path = relative(path.as_ref());
        // What the kernel finds without any step above the root is right; all else is looked at in detail.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_MAGICLINKS;
        if !path.as_os_str().is_empty() {
            let opened = rustix::fs::openat2(&self.dir, &path, flags, Mode::empty(), resolve);
            match opened {
                Ok(fd) => return Ok(Dir::new(fd, path, Arc::clone(self.dir.shared()))),
                Err(Errno::NOENT) => {
                    return Err(RootError::io("open the directory", &path, Errno::NOENT));
                }
                Err(_) => {}
            }
            if self.resolve_steps(&path, true)?.escaped() {
                return Err(RootError::io("open the directory", &path, Errno::XDEV));
            }
        }
        self.open_dir(path)
    }

    /// The directory that holds the last component of `path`, and that component. Links on the way are followed.
    ///
    /// # Errors
    /// Fails if the directory does not exist, or the path does not end in a name.
    pub fn parent(&self, path: impl AsRef<Path>) -> Result<(Dir, OsString)> {
        let path = relative(path.as_ref());
        let Some(name) = path.file_name() else {
            return Err(RootError::NoName { operation: "find the directory of", path });
        };
        let dir = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.to_os_string()))
    }

    /// Opens a file for reading, following symbolic links inside the root.
    ///
    /// # Errors
    /// Fails if the file does not exist or may not be read.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.open_raw("open", &relative(path.as_ref()), flags).map(File::from)
    }

    /// Reads a whole file of at most `limit` bytes, following symbolic links inside the root.
    ///
    /// # Errors
    /// Fails if the file does not exist, may not be read, is no regular file, or is longer than `limit` (`EFBIG`).
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        use std::io::Read as _;
        let path = relative(path.as_ref());
        let file = self.open_file(&path)?;
        let fail = |source: std::io::Error| RootError::Io { operation: "read", path: path.clone(), source };
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(RootError::io("read", &path, Errno::INVAL));
        }
        let mut content = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(fail)?;
        if content.len() as u64 > limit {
            return Err(RootError::io("read", &path, Errno::FBIG));
        }
        Ok(content)
    }

    /// The canonical path inside the root, without a leading slash: links are followed, what does not exist is kept as
    /// it is written.
    ///
    /// # Errors
    /// Fails if a component on the way is no directory, or there are too many links.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        self.resolve_steps(path.as_ref(), true).map(|resolved| resolved.path())
    }

    /// As [`Root::resolve`], but the last component is not followed.
    ///
    /// # Errors
    /// Fails as [`Root::resolve`] does.
    pub fn resolve_parent(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        self.resolve_steps(path.as_ref(), false).map(|resolved| resolved.path())
    }

    fn resolve_steps(&self, path: &Path, follow_last: bool) -> Result<resolve::Resolved> {
        resolve::resolve_steps(self.dir.as_fd(), path, follow_last)
            .map_err(|errno| RootError::io("resolve", &relative(path), errno))
    }

    /// Describes a file, following symbolic links inside the root.
    ///
    /// # Errors
    /// Fails if the file, or what it leads to, does not exist.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let path = path.as_ref();
        let resolved = self.resolve_steps(path, true)?;
        if !resolved.exists() {
            return Err(RootError::io("look at", &relative(path), Errno::NOENT));
        }
        self.lstat(resolved.path())
    }

    /// Describes a file; a symbolic link at the end is not followed.
    ///
    /// # Errors
    /// Fails if the file does not exist.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let path = relative(path.as_ref());
        if path.file_name().is_some() {
            let (dir, name) = self.parent(&path)?;
            return dir.lstat(name);
        }
        // The root itself, or a path that ends in `..`.
        let dir = self.open_dir(&path)?;
        dir.lstat(".")
    }

    /// Describes a file as [`Root::lstat`] does, or tells that it does not exist.
    ///
    /// # Errors
    /// Fails if it cannot be told.
    pub fn try_lstat(&self, path: impl AsRef<Path>) -> Result<Option<Metadata>> {
        match self.lstat(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Fails if `path` is no symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let (dir, name) = self.parent(path)?;
        dir.read_link(name)
    }

    /// The names in a directory, sorted by bytes; a symbolic link to a directory is followed.
    ///
    /// # Errors
    /// Fails if there is no such directory or it may not be read.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Vec<OsString>> {
        self.open_dir(path)?.read_names()
    }

    /// Walks all that is below a directory; see [`Walk`].
    ///
    /// # Errors
    /// Fails if there is no such directory.
    pub fn walk(&self, path: impl AsRef<Path>) -> Result<Walk> {
        Ok(Walk::new(self.open_dir(path)?))
    }

    /// Creates an empty regular file; see [`Dir::create_file`].
    ///
    /// # Errors
    /// Fails if the name exists or its directory does not.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<Node> {
        let (dir, name) = self.parent(path)?;
        dir.create_file(name)
    }

    /// Creates a directory; see [`Dir::create_dir`].
    ///
    /// # Errors
    /// Fails if the name exists or its directory does not.
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Result<Node> {
        let (dir, name) = self.parent(path)?;
        dir.create_dir(name)
    }

    /// Makes sure that `path` is a directory, creating it and its parents as far as they are missing, and gives the
    /// paths of those that were created, outermost first. Links to directories are followed.
    ///
    /// # Errors
    /// Fails if a component is no directory or cannot be created.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, new: NewDirs) -> Result<Vec<PathBuf>> {
        let path = path.as_ref();
        match self.open_dir(path) {
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let canonical = self.resolve(path)?;
        let mut created = Vec::new();
        let mut current = PathBuf::new();
        let mut dir = self.dir.clone();
        for component in canonical.components() {
            let name = component.as_os_str();
            current.push(name);
            match dir.open_dir(name) {
                Ok(next) => dir = next,
                Err(error) if error.is_not_found() => {
                    let node = dir.create_dir(name)?;
                    node.chown(new.owner.0, new.owner.1)?;
                    node.chmod(new.mode)?;
                    if let Some(time) = new.time {
                        node.set_times(time, time)?;
                    }
                    created.push(current.clone());
                    dir = match node.into_dir() {
                        Some(next) => next,
                        None => dir.open_dir(name)?,
                    };
                }
                Err(error) => return Err(error),
            }
        }
        self.keep(canonical, dir);
        Ok(created)
    }

    /// Creates a symbolic link at `path`; the target is stored as it is.
    ///
    /// # Errors
    /// Fails if the name exists or its directory does not.
    pub fn create_symlink(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Node> {
        let (dir, name) = self.parent(path)?;
        dir.create_symlink(name, target)
    }

    /// Gives the file at `existing` the further name `path`. Neither last component is followed.
    ///
    /// # Errors
    /// Fails if `existing` does not exist or `path` does.
    pub fn hard_link(&self, existing: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (from, from_name) = self.parent(existing)?;
        let (dir, name) = self.parent(path)?;
        dir.hard_link(name, &from, from_name)
    }

    /// Creates a named pipe, device or socket; see [`Dir::create_special`].
    ///
    /// # Errors
    /// Fails if the name exists or its directory does not.
    pub fn create_special(&self, path: impl AsRef<Path>, kind: FileKind, device: (u32, u32)) -> Result<Node> {
        let (dir, name) = self.parent(path)?;
        dir.create_special(name, kind, device)
    }

    /// Creates an overlayfs whiteout; see [`Dir::create_whiteout`].
    ///
    /// # Errors
    /// Fails if the name exists or its directory does not.
    pub fn create_whiteout(&self, path: impl AsRef<Path>) -> Result<Node> {
        let (dir, name) = self.parent(path)?;
        dir.create_whiteout(name)
    }

    /// The existing file at `path`, to be changed; a symbolic link at the end is not followed. The root itself can be
    /// changed as `/`.
    ///
    /// # Errors
    /// Fails if the file does not exist.
    pub fn node(&self, path: impl AsRef<Path>) -> Result<Node> {
        let path = relative(path.as_ref());
        if path.file_name().is_some() {
            let (dir, name) = self.parent(&path)?;
            return dir.node(name);
        }
        self.open_dir(&path)?.node(".")
    }

    /// Removes a file that is no directory.
    ///
    /// # Errors
    /// Fails if there is no such file.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        dir.remove_file(name)
    }

    /// Removes a file or a whole directory; see [`Dir::remove_tree`].
    ///
    /// # Errors
    /// Fails at the first file that cannot be removed.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<()> {
        match self.parent(path) {
            Ok((dir, name)) => dir.remove_tree(name),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Moves a file, replacing what is there as rename(2) does.
    ///
    /// # Errors
    /// Fails as rename(2) does.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        from_dir.rename(from_name, &to_dir, to_name)
    }

    /// Changes the owner of a file, not followed; see [`Node::chown`].
    ///
    /// # Errors
    /// Fails if the file does not exist or its owner may not be changed.
    pub fn chown(&self, path: impl AsRef<Path>, uid: u32, gid: u32) -> Result<()> {
        self.node(path)?.chown(uid, gid)
    }

    /// Changes the mode of a file, not followed; see [`Node::chmod`].
    ///
    /// # Errors
    /// Fails if the file does not exist or its mode may not be changed.
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.node(path)?.chmod(mode)
    }

    /// Sets the times of a file, not followed.
    ///
    /// # Errors
    /// Fails if the file does not exist or its times may not be changed.
    pub fn set_times(&self, path: impl AsRef<Path>, atime: Timestamp, mtime: Timestamp) -> Result<()> {
        self.node(path)?.set_times(atime, mtime)
    }

    /// Sets the times of a file, not followed, to now.
    ///
    /// # Errors
    /// Fails if the file does not exist or its times may not be changed.
    pub fn touch(&self, path: impl AsRef<Path>) -> Result<()> {
        self.node(path)?.touch()
    }

    /// One extended attribute of a file, not followed; see [`Dir::xattr`].
    ///
    /// # Errors
    /// Fails if the file does not exist or the attribute cannot be read.
    pub fn xattr(&self, path: impl AsRef<Path>, attribute: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        let (dir, name) = self.parent_or_self(path.as_ref())?;
        dir.xattr(name, attribute)
    }

    /// All extended attributes of a file, not followed; see [`Dir::xattrs`].
    ///
    /// # Errors
    /// Fails if the file does not exist or an attribute cannot be read.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, Vec<u8>)>> {
        let (dir, name) = self.parent_or_self(path.as_ref())?;
        dir.xattrs(name)
    }

    /// Sets an extended attribute of a file, not followed; see [`Node::set_xattr`].
    ///
    /// # Errors
    /// Fails if the file does not exist or the attribute is refused for good.
    pub fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        attribute: impl AsRef<OsStr>,
        value: &[u8],
    ) -> Result<XattrOutcome> {
        self.node(path)?.set_xattr(attribute, value)
    }

    /// Removes an extended attribute of a file, not followed; see [`Node::remove_xattr`].
    ///
    /// # Errors
    /// Fails if the file does not exist or the attribute may not be removed.
    pub fn remove_xattr(&self, path: impl AsRef<Path>, attribute: impl AsRef<OsStr>) -> Result<()> {
        self.node(path)?.remove_xattr(attribute)
    }

    fn parent_or_self(&self, path: &Path) -> Result<(Dir, OsString)> {
        let path = relative(path);
        if path.file_name().is_some() {
            return self.parent(path);
        }
        Ok((self.open_dir(path)?, OsString::from(".")))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The path without a leading slash, without `.` and doubled slashes; `..` is kept, since what it means depends on the
/// links before it.
fn relative(path: &Path) -> PathBuf {
    path.components().filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir)).collect()
}
