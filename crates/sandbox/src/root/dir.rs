//! An open directory of a root and the files in it.
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Timestamps};
use rustix::io::Errno;

use super::error::{Result, RootError};
use super::metadata::{FileKind, Metadata};
use super::node::Node;
use super::record::{self, Ownership, Place, ShowError};
use super::xattr::{self, Target, XattrOutcome};

/// What the handles of one root have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ownership: Ownership,
    /// The ids that a new file gets.
    pub(super) ids: (u32, u32),
    /// Whether `/proc/self/fd` is there, through which attributes and modes of unopened files are reached.
    pub(super) use_proc: bool,
    /// Counts removals and renames, after which cached handles may stand for other paths.
    pub(super) generation: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    path: PathBuf,
    shared: Arc<Shared>,
    /// Whether new files here get the ids of the process, known after the first one.
    inherits_ids: OnceLock<bool>,
}

/// An open directory inside a root. Names are single components and are never followed.
///
/// The handle stays at the directory it was opened for, wherever that is moved.
#[derive(Debug, Clone)]
pub struct Dir(Arc<Inner>);

pub(super) const READ_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Dir {
    pub(super) fn new(fd: OwnedFd, path: PathBuf, shared: Arc<Shared>) -> Self {
        Dir(Arc::new(Inner { fd, path, shared, inherits_ids: OnceLock::new() }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// The path of the directory inside the root as it was opened, without a leading slash.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn error(&self, operation: &'static str, name: &OsStr, errno: Errno) -> RootError {
        RootError::io(operation, &self.0.path.join(name), errno)
    }

    fn changed(&self) {
        self.0.shared.generation.fetch_add(1, Ordering::Release);
    }

    /// Where the record of a stored file of this type is.
    pub(super) fn record_place<'a>(&'a self, name: &'a OsStr, stored: FileKind) -> Place<'a> {
        match stored {
            FileKind::File | FileKind::Directory => Place::Own(Target::Name(self.as_fd(), name)),
            _ => Place::InDir(Target::Dir(self.as_fd()), name),
        }
    }

    /// Describes a file without following it.
    ///
    /// # Errors
    /// Fails if the file does not exist, cannot be looked at, or its ownership record is malformed.
    pub fn lstat(&self, name: impl AsRef<OsStr>) -> Result<Metadata> {
        let name = name.as_ref();
        let mut metadata = self.stored(name).map_err(|errno| self.error("look at", name, errno))?;
        self.show(name, &mut metadata)?;
        Ok(metadata)
    }

    /// Describes a file, or tells that it does not exist.
    ///
    /// # Errors
    /// Fails as [`Dir::lstat`] does, but for a missing file.
    pub fn try_lstat(&self, name: impl AsRef<OsStr>) -> Result<Option<Metadata>> {
        match self.lstat(name) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn stored(&self, name: &OsStr) -> std::result::Result<Metadata, Errno> {
        let stat = rustix::fs::statat(&self.0.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Metadata::from_stat(&stat))
    }

    pub(super) fn show(&self, name: &OsStr, metadata: &mut Metadata) -> Result<()> {
        let shared = &self.0.shared;
        if shared.ownership == Ownership::Real && !record::may_be_device(metadata) {
            return Ok(());
        }
        let place = self.record_place(name, metadata.kind);
        record::show(shared.ownership, place, metadata, shared.use_proc).map_err(|error| match error {
            ShowError::Errno(errno) => self.error("read the ownership record of", name, errno),
            ShowError::Malformed => RootError::BadRecord { path: self.0.path.join(name) },
        })
    }

    /// Where a regular file that is not empty stands for a device, takes its content away, which the device would not have
    /// kept; whether it was one. Programs in a user namespace see the file alone, and write to it.
    ///
    /// # Errors
    /// Fails if the file cannot be examined or changed.
    pub fn empty_device(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        let name = name.as_ref();
        let error = |errno| self.error("empty the stand-in of a device", name, errno);
        let shared = &self.0.shared;
        let target = Target::Name(self.0.fd.as_fd(), name);
        if record::read_device(target, shared.use_proc).map_err(error)?.is_none() {
            return Ok(false);
        }
        let before = self.stored(name).map_err(error)?;
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0.fd, name, flags, Mode::empty()).map_err(error)?;
        let time = before.mtime.timespec();
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).map_err(error)?;
        Ok(true)
    }

    /// The target of a symbolic link, as it is stored.
    ///
    /// # Errors
    /// Fails if the file is no symbolic link or cannot be read.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> Result<PathBuf> {
        let name = name.as_ref();
        let target = rustix::fs::readlinkat(&self.0.fd, name, Vec::new())
            .map_err(|errno| self.error("read the link", name, errno))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// The names in this directory, sorted by bytes.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub fn read_names(&self) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        self.each_name(|name, _| names.push(name.to_os_string()))
            .map_err(|errno| RootError::io("list", &self.0.path, errno))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Calls `found` with each name and whether the file system says it is a directory.
    pub(super) fn each_name(&self, mut found: impl FnMut(&OsStr, bool)) -> std::result::Result<(), Errno> {
        let fd = rustix::fs::openat(&self.0.fd, ".", READ_DIR.union(OFlags::RDONLY), Mode::empty())?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
                found(OsStr::from_bytes(name), is_dir);
            }
        }
        Ok(())
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// Fails if there is no such directory; a symbolic link is not followed.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> Result<Dir> {
        let name = name.as_ref();
        self.open_dir_raw(name).map_err(|errno| self.error("open the directory", name, errno))
    }

    pub(super) fn open_dir_raw(&self, name: &OsStr) -> std::result::Result<Dir, Errno> {
        let flags = READ_DIR | OFlags::PATH;
        let fd = rustix::fs::openat(&self.0.fd, name, flags, Mode::empty())?;
        Ok(Dir::new(fd, self.0.path.join(name), Arc::clone(&self.0.shared)))
    }

    /// Opens a file for reading, without following a symbolic link and without waiting for a pipe's writer.
    ///
    /// # Errors
    /// Fails if the file does not exist, is a symbolic link, or may not be read.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> Result<File> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0.fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| self.error("open", name, errno))
    }

    /// Creates an empty regular file, open for reading and writing, with mode 0600 until it is given another.
    ///
    /// # Errors
    /// Fails if the name exists or the file cannot be created.
    pub fn create_file(&self, name: impl AsRef<OsStr>) -> Result<Node> {
        let name = name.as_ref();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.error("create", name, errno))?;
        let node = Node::new(self.clone(), name, FileKind::File, FileKind::File, Some(File::from(fd)));
        Ok(node.created())
    }

    /// Creates a directory, with mode 0700 until it is given another.
    ///
    /// # Errors
    /// Fails if the name exists or the directory cannot be created.
    pub fn create_dir(&self, name: impl AsRef<OsStr>) -> Result<Node> {
        let name = name.as_ref();
        rustix::fs::mkdirat(&self.0.fd, name, Mode::RWXU)
            .map_err(|errno| self.error("create the directory", name, errno))?;
        let flags = READ_DIR | OFlags::RDONLY;
        let fd = rustix::fs::openat(&self.0.fd, name, flags, Mode::empty())
            .map_err(|errno| self.error("open the directory", name, errno))?;
        let kind = FileKind::Directory;
        Ok(Node::new(self.clone(), name, kind, kind, Some(File::from(fd))).created())
    }

    /// Creates a symbolic link; the target is stored as it is.
    ///
    /// # Errors
    /// Fails if the name exists or the link cannot be created.
    pub fn create_symlink(&self, name: impl AsRef<OsStr>, target: impl AsRef<Path>) -> Result<Node> {
        let name = name.as_ref();
        rustix::fs::symlinkat(target.as_ref(), &self.0.fd, name)
            .map_err(|errno| self.error("create the symbolic link", name, errno))?;
        let kind = FileKind::Symlink;
        Ok(Node::new(self.clone(), name, kind, kind, None).created())
    }

    /// Gives the file `from_name` of `from` a further name here; symbolic links are not followed.
    ///
    /// # Errors
    /// Fails if the file does not exist, is a directory, lies on another file system, or the name exists.
    pub fn hard_link(&self, name: impl AsRef<OsStr>, from: &Dir, from_name: impl AsRef<OsStr>) -> Result<()> {
        let (name, from_name) = (name.as_ref(), from_name.as_ref());
        rustix::fs::linkat(&from.0.fd, from_name, &self.0.fd, name, AtFlags::empty())
            .map_err(|errno| self.error("create the hard link", name, errno))?;
        if self.0.shared.ownership == Ownership::Recorded {
            let stored = from.stored(from_name).map_err(|errno| from.error("look at", from_name, errno))?;
            if !matches!(stored.kind, FileKind::File | FileKind::Directory) {
                let mut shown = stored.clone();
                from.show(from_name, &mut shown)?;
                if (shown.uid, shown.gid) != (stored.uid, stored.gid) {
                    let place = self.record_place(name, stored.kind);
                    record::write_owner(place, shown.uid, shown.gid, self.0.shared.use_proc)
                        .map_err(|errno| self.error("record the owner of", name, errno))?;
                }
            }
        }
        Ok(())
    }

    /// Creates a named pipe, device or socket, with no permissions until it is given some.
    ///
    /// Where the kernel refuses a device (mknod(2): it needs `CAP_MKNOD` outside of user namespaces), an empty regular
    /// file is created that every look through a root shows as the device. The device 0:0 is never made so.
    ///
    /// # Errors
    /// Fails if the name exists, the node cannot be created, or `kind` is none of these.
    pub fn create_special(&self, name: impl AsRef<OsStr>, kind: FileKind, device: (u32, u32)) -> Result<Node> {
        let name = name.as_ref();
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        if !is_device && !matches!(kind, FileKind::Fifo | FileKind::Socket) {
            return Err(self.error("create the node", name, Errno::INVAL));
        }
        let number = rustix::fs::makedev(device.0, device.1);
        match rustix::fs::mknodat(&self.0.fd, name, kind.raw(), Mode::empty(), number) {
            Ok(()) => Ok(Node::new(self.clone(), name, kind, kind, None).created()),
            // 0:0 is overlayfs's whiteout: on an overlay it is refused for good, and a placeholder would be taken for one.
            Err(Errno::PERM) if is_device && number != 0 => {
                let file = self.create_file(name)?;
                let target = Target::Name(self.as_fd(), name);
                record::write_device(target, kind, device, self.0.shared.use_proc)
                    .map_err(|errno| self.error("record the device", name, errno))?;
                Ok(file.standing_for(kind))
            }
            Err(errno) => Err(self.error("create the node", name, errno)),
        }
    }

    /// Creates an overlayfs whiteout: a character device 0:0, which mknod(2) allows to everyone since Linux 5.8.
    ///
    /// # Errors
    /// Fails if the name exists or the whiteout cannot be created.
    pub fn create_whiteout(&self, name: impl AsRef<OsStr>) -> Result<Node> {
        let name = name.as_ref();
        let kind = FileKind::CharDevice;
        rustix::fs::mknodat(&self.0.fd, name, kind.raw(), Mode::empty(), 0)
            .map_err(|errno| self.error("create the whiteout", name, errno))?;
        Ok(Node::new(self.clone(), name, kind, kind, None).created())
    }

    /// An existing file, to change its owner, mode, times or attributes.
    ///
    /// # Errors
    /// Fails if the file does not exist.
    pub fn node(&self, name: impl AsRef<OsStr>) -> Result<Node> {
        let name = name.as_ref();
        let stored = self.stored(name).map_err(|errno| self.error("look at", name, errno))?;
        let mut shown = stored.clone();
        self.show(name, &mut shown)?;
        Ok(Node::new(self.clone(), name, shown.kind, stored.kind, None))
    }

    /// Removes a file that is no directory.
    ///
    /// # Errors
    /// Fails if the file does not exist, is a directory, or may not be removed.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::unlinkat(&self.0.fd, name, AtFlags::empty()).map_err(|errno| self.error("remove", name, errno))?;
        self.forget(name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Fails if the directory does not exist, is not empty, or may not be removed.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::unlinkat(&self.0.fd, name, AtFlags::REMOVEDIR)
            .map_err(|errno| self.error("remove the directory", name, errno))?;
        self.changed();
        Ok(())
    }

    fn forget(&self, name: &OsStr) -> Result<()> {
        self.changed();
        let shared = &self.0.shared;
        if shared.ownership == Ownership::Recorded {
            let place = Place::InDir(Target::Dir(self.as_fd()), name);
            record::clear_owner(place, shared.use_proc)
                .map_err(|errno| self.error("forget the owner of", name, errno))?;
        }
        Ok(())
    }

    /// Removes a file or a directory with all that is in it, without following anything; directories without
    /// permissions are given some first. A missing name is no error.
    ///
    /// # Errors
    /// Fails at the first file that cannot be removed.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        match rustix::fs::unlinkat(&self.0.fd, name, AtFlags::empty()) {
            Ok(()) => return self.forget(name),
            Err(Errno::NOENT) => return Ok(()),
            // unlink(2) of a directory: EISDIR on Linux, EPERM by POSIX; also EPERM or EACCES of an unwritable parent.
            Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(self.error("remove", name, errno)),
        }
        self.changed();
        super::remove::remove_dir_tree(self, name)
    }

    /// Moves a file to a name in a directory of the same file system, replacing what is there as rename(2) does.
    ///
    /// # Errors
    /// Fails as rename(2) does.
    pub fn rename(&self, name: impl AsRef<OsStr>, to: &Dir, to_name: impl AsRef<OsStr>) -> Result<()> {
        let (name, to_name) = (name.as_ref(), to_name.as_ref());
        let shared = &self.0.shared;
        let mut moved = None;
        if shared.ownership == Ownership::Recorded {
            let stored = self.stored(name).map_err(|errno| self.error("look at", name, errno))?;
            let mut shown = stored.clone();
            self.show(name, &mut shown)?;
            moved = Some((stored, shown));
        }
        rustix::fs::renameat(&self.0.fd, name, &to.0.fd, to_name).map_err(|errno| self.error("rename", name, errno))?;
        self.forget(name)?;
        if let Some((stored, shown)) = moved {
            to.forget(to_name)?;
            let own = matches!(stored.kind, FileKind::File | FileKind::Directory);
            if !own && (stored.uid, stored.gid) != (shown.uid, shown.gid) {
                let place = to.record_place(to_name, stored.kind);
                record::write_owner(place, shown.uid, shown.gid, shared.use_proc)
                    .map_err(|errno| to.error("record the owner of", to_name, errno))?;
            }
        }
        Ok(())
    }

    /// One extended attribute of a file, not followed. Reserved attributes are never there, and file capabilities are
    /// given in the form that means the same outside of a user namespace.
    ///
    /// # Errors
    /// Fails if the file does not exist or the attribute cannot be read.
    pub fn xattr(&self, name: impl AsRef<OsStr>, attribute: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        let name = name.as_ref();
        get_xattr(&self.0.shared, Target::Name(self.as_fd(), name), attribute.as_ref())
            .map_err(|errno| self.error("read an extended attribute of", name, errno))
    }

    /// All extended attributes of a file that are not reserved, sorted by name; the file is not followed.
    ///
    /// # Errors
    /// Fails if the file does not exist or an attribute cannot be read.
    pub fn xattrs(&self, name: impl AsRef<OsStr>) -> Result<Vec<(OsString, Vec<u8>)>> {
        let name = name.as_ref();
        list_xattrs(&self.0.shared, Target::Name(self.as_fd(), name))
            .map_err(|errno| self.error("list the extended attributes of", name, errno))
    }

    /// Whether overlayfs takes a directory in this one as opaque (`user.overlay.opaque`, or `trusted.overlay.opaque`
    /// where that can be read, is `y`).
    ///
    /// # Errors
    /// Fails if the directory does not exist or the attribute cannot be read.
    pub fn is_opaque(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        let name = name.as_ref();
        for attribute in [OPAQUE, "trusted.overlay.opaque"] {
            let target = Target::Name(self.as_fd(), name);
            let value = xattr::get(target, OsStr::new(attribute), self.0.shared.use_proc)
                .map_err(|errno| self.error("read an extended attribute of", name, errno))?;
            if value.as_deref() == Some(b"y") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a directory in this one opaque for an overlay mounted with `userxattr`.
    ///
    /// # Errors
    /// Fails if the directory does not exist or the file system keeps no attributes.
    pub fn set_opaque(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        let target = Target::Name(self.as_fd(), name);
        xattr::set(target, OsStr::new(OPAQUE), b"y", self.0.shared.use_proc)
            .map_err(|errno| self.error("make opaque", name, errno))
    }

    /// Whether a file just made here has the ids of the process, so that giving it these again can be left out.
    pub(super) fn new_files_have_own_ids(&self, node: &Node) -> bool {
        *self.0.inherits_ids.get_or_init(|| node.raw_ids().is_some_and(|ids| ids == self.0.shared.ids))
    }
}

/// The attribute of an opaque directory of an overlay mounted with `userxattr`.
const OPAQUE: &str = "user.overlay.opaque";

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

pub(super) fn get_xattr(
    shared: &Shared,
    target: Target<'_>,
    attribute: &OsStr,
) -> std::result::Result<Option<Vec<u8>>, Errno> {
    if xattr::is_reserved(attribute) {
        return Ok(None);
    }
    let value = xattr::get(target, attribute, shared.use_proc)?;
    if attribute != xattr::CAPABILITY {
        return Ok(value);
    }
    match value {
        Some(value) => Ok(Some(xattr::portable_capability(value))),
        None if shared.ownership == Ownership::Recorded => record::read_capability(target, shared.use_proc),
        None => Ok(None),
    }
}

pub(super) fn list_xattrs(shared: &Shared, target: Target<'_>) -> std::result::Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let names = xattr::list(target, shared.use_proc)?;
    let mut attributes = Vec::new();
    for name in &names {
        if let Some(value) = get_xattr(shared, target, name)? {
            attributes.push((name.clone(), value));
        } else if shared.ownership == Ownership::Recorded
            && let Some(trusted) = record::shown_name(name)
            && let Some(value) = xattr::get(target, name, shared.use_proc)?
        {
            attributes.push((trusted, value));
        }
    }
    let has_capability = names.iter().any(|name| name == xattr::CAPABILITY);
    if !has_capability
        && shared.ownership == Ownership::Recorded
        && !names.is_empty()
        && let Some(value) = record::read_capability(target, shared.use_proc)?
    {
        attributes.push((OsString::from(xattr::CAPABILITY), value));
    }
    attributes.sort_unstable();
    Ok(attributes)
}

pub(super) fn set_xattr(
    shared: &Shared,
    target: Target<'_>,
    attribute: &OsStr,
    value: &[u8],
) -> std::result::Result<XattrOutcome, Errno> {
    if xattr::is_reserved(attribute) {
        return Ok(XattrOutcome::Skipped);
    }
    let is_capability = attribute == xattr::CAPABILITY;
    match xattr::set(target, attribute, value, shared.use_proc) {
        Ok(()) => Ok(XattrOutcome::Set),
        Err(Errno::PERM | Errno::OPNOTSUPP) if is_capability && shared.ownership == Ownership::Recorded => {
            record::write_capability(target, value, shared.use_proc)?;
            Ok(XattrOutcome::Set)
        }
        // Docker's unpacker ignores exactly these two for attributes (go-archive, `createTarFile`); a lost capability
        // would be a program that no longer works, so that one is an error.
        Err(Errno::PERM | Errno::OPNOTSUPP) if !is_capability => Ok(XattrOutcome::Skipped),
        Err(errno) => Err(errno),
    }
}
