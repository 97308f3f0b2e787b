//! Directories of the real file system. Nothing is remembered: others may change them.

use super::{
    Entry, Identity, NewTime, Opened, ProcLink, ProcLinks, Result, Stat, attributes,
    overlay::{New, make_real, move_owner},
    permission::{self, EXECUTE, WRITE},
    real::{self, InDir, Policy, Real, Shown, Stored, each_entry},
};
use crate::root::{FileKind, beside, xattr::Target};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

#[derive(Debug)]
pub(crate) struct HostFs {
    policy: Policy,
    root: Arc<HostFile>,
    /// Where the root really is.
    pub(crate) path: PathBuf,
    pub(crate) is_proc: bool,
    /// Removed with this.
    temporary: Option<PathBuf>,
    /// The device number that the files of a temporary one show.
    device: Option<u64>,
    /// What the size of a temporary one is said to be.
    size: Option<u64>,
    /// Attributes of records are not shown.
    private: bool,
}

/// `linux/magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// An open file.
#[derive(Debug)]
pub(crate) struct HostFile {
    fd: OwnedFd,
    kind: FileKind,
    device: u64,
    ino: u64,
    /// Where the owner of what is no regular file or directory is recorded.
    at: Option<(Arc<HostFile>, Box<[u8]>)>,
    /// In /proc: the path from its root.
    proc_path: Option<Box<[u8]>>,
    made_up: MadeUp,
    /// A file of an overlay's upper layer that has no name any more: its records are not shown.
    private: bool,
}

/// What is not as the real file system has it.
#[derive(Debug, Default)]
enum MadeUp {
    #[default]
    Nothing,
    /// The text of a link.
    Link(Vec<u8>),
    Content(Vec<u8>),
}

impl Drop for HostFs {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take() {
            let _ = crate::remove::remove_tree(&path);
        }
    }
}

impl HostFile {
    fn new(fd: OwnedFd) -> Result<(Self, Statx)> {
        let statx = Real::Fd(fd.as_fd()).statx()?;
        let file = HostFile {
            fd,
            kind: FileKind::from_raw(u32::from(statx.stx_mode)),
            device: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
            ino: statx.stx_ino,
            at: None,
            proc_path: None,
            made_up: MadeUp::Nothing,
            private: false,
        };
        Ok((file, statx))
    }

    /// A file that a process has open.
    pub(crate) fn of_descriptor(path: &Path, real_path: Option<&Path>, private: bool) -> Result<Arc<Self>> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let (mut file, _) = Self::new(fd)?;
        file.private = private;
        if !matches!(file.kind, FileKind::File | FileKind::Directory)
            && let Some((dir, name)) = real_path.and_then(|path| path.parent().zip(path.file_name()))
            && let Ok(fd) = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        {
            file.at = Some((Arc::new(Self::new(fd)?.0), Box::from(name.as_bytes())));
        }
        Ok(Arc::new(file))
    }

    pub(crate) fn key(&self) -> (u64, u64) {
        (self.device, self.ino)
    }

    pub(crate) fn kind(&self) -> FileKind {
        self.kind
    }

    fn real(&self) -> Real<'_> {
        Real::Fd(self.fd.as_fd())
    }

    fn in_dir(&self) -> InDir<'_> {
        self.at.as_ref().map(|(dir, name)| (dir.real(), &**name))
    }

    /// Where it really is now; none if it was removed.
    pub(crate) fn real_path(&self) -> Result<Option<PathBuf>> {
        let path = rustix::fs::readlink(real::descriptor_path(self.fd.as_fd()), Vec::new())?.into_bytes();
        Ok(live_path(path))
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

/// The path that a link of `/proc/PID/fd` names; none for what has no path, or was removed.
pub(super) fn live_path(text: Vec<u8>) -> Option<PathBuf> {
    let live = text.starts_with(b"/") && !text.ends_with(b" (deleted)");
    live.then(|| PathBuf::from(OsString::from_vec(text)))
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl HostFs {
    pub(crate) fn new(root: OwnedFd, path: PathBuf, is_proc: bool) -> Result<Self> {
        let (mut root, _) = HostFile::new(root)?;
        if is_proc {
            root.proc_path = Some(Box::default());
        }
        let path = root.real_path()?.unwrap_or(path);
        let root = Arc::new(root);
        Ok(HostFs {
            policy: Policy::detect(),
            root,
            path,
            is_proc,
            temporary: None,
            device: None,
            size: None,
            private: false,
        })
    }

    /// An empty directory in `backing`, removed with the file system.
    pub(crate) fn temporary(backing: &Path, mode: u32, size: Option<u64>) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = backing.join(format!("tmpfs-{}-{number}", rustix::process::getpid().as_raw_nonzero()));
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut fs = Self::new(fd, path.clone(), false)?;
        fs.temporary = Some(path);
        fs.size = size;
        fs.device = Some(super::overlay::unnamed_device());
        fs.private = true;
        let (mut shown, mut stored) = fs.look(&fs.root)?;
        shown.mode = mode & 0o7777;
        (shown.uid, shown.gid) = (0, 0);
        real::store(fs.policy, fs.root.real(), None, &mut stored, &shown)?;
        Ok(fs)
    }

    pub(crate) fn root(&self) -> Arc<HostFile> {
        Arc::clone(&self.root)
    }

    pub(crate) fn statfs(&self, file: &HostFile) -> Result<rustix::fs::StatFs> {
        let mut stat = rustix::fs::fstatfs(file.fd())?;
        if self.temporary.is_some() {
            stat.f_type = TMPFS_MAGIC;
            if let (Some(size), Ok(unit)) = (self.size, u64::try_from(stat.f_bsize)) {
                stat.f_blocks = size / unit.max(1);
                stat.f_bfree = stat.f_bfree.min(stat.f_blocks);
                stat.f_bavail = stat.f_bavail.min(stat.f_blocks);
            }
        }
        Ok(stat)
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    fn look(&self, file: &HostFile) -> Result<(Shown, Stored)> {
        let (shown, stored, _) = real::load(self.policy, file.real(), file.in_dir())?;
        Ok((shown, stored))
    }

    pub(crate) fn shown(&self, file: &HostFile) -> Result<Shown> {
        self.look(file).map(|(shown, _)| shown)
    }

    /// The file of this name in a directory, not followed; search permission was checked.
    pub(crate) fn lookup(
        &self,
        dir: &Arc<HostFile>,
        name: &[u8],
        links: &dyn ProcLinks,
    ) -> Result<Option<Arc<HostFile>>> {
        if dir.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if dir.proc_path.as_deref().is_some_and(<[u8]>::is_empty)
            && let Some(id) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok())
            && !links.visible(id)
        {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Not openat2: it is refused a link itself with NO_SYMLINKS. A single name cannot lead out.
        let fd = match rustix::fs::openat(&dir.fd, OsStr::from_bytes(name), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let (mut file, _) = HostFile::new(fd)?;
        if !matches!(file.kind, FileKind::File | FileKind::Directory) {
            file.at = Some((Arc::clone(dir), Box::from(name)));
        }
        if let Some(path) = &dir.proc_path {
            let path = if path.is_empty() { name.to_vec() } else { [path, &b"/"[..], name].concat() };
            self.make_up(&mut file, &path, links);
            file.proc_path = Some(path.into_boxed_slice());
        }
        Ok(Some(Arc::new(file)))
    }

    /// What of /proc is answered by the task layer.
    fn make_up(&self, file: &mut HostFile, path: &[u8], links: &dyn ProcLinks) {
        let (process, thread) = links.own();
        match path {
            b"self" => file.made_up = MadeUp::Link(process.to_string().into_bytes()),
            b"thread-self" => file.made_up = MadeUp::Link(format!("{process}/task/{thread}").into_bytes()),
            _ if path.first().is_some_and(u8::is_ascii_digit) => match file.kind {
                FileKind::Symlink => match links.link(path) {
                    Some(ProcLink::Place(_, text) | ProcLink::Descriptor(text)) => file.made_up = MadeUp::Link(text),
                    None => {}
                },
                FileKind::File => {
                    if let Some(content) = links.content(path) {
                        file.made_up = MadeUp::Content(content);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A directory several names beneath another one, if there is one and no link on the way.
    pub(crate) fn descend(&self, dir: &Arc<HostFile>, path: &[u8]) -> Option<Arc<HostFile>> {
        if dir.proc_path.is_some() {
            return None;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(&dir.fd, OsStr::from_bytes(path), flags, Mode::empty(), BENEATH).ok()?;
        HostFile::new(fd).ok().map(|(file, _)| Arc::new(file))
    }

    /// The directory above; the root is its own.
    pub(crate) fn parent(&self, file: &Arc<HostFile>) -> Result<Arc<HostFile>> {
        if file.key() == self.root.key() {
            return Ok(self.root());
        }
        if let Some((dir, _)) = &file.at {
            return Ok(Arc::clone(dir));
        }
        let fd = if file.kind == FileKind::Directory {
            rustix::fs::openat(&file.fd, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
        } else {
            let path = file.real_path()?.ok_or(Errno::NOENT)?;
            let parent = path.parent().ok_or(Errno::NOENT)?;
            rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
        };
        let (mut parent, _) = HostFile::new(fd)?;
        if parent.key() == self.root.key() {
            return Ok(self.root());
        }
        if let Some(path) = &file.proc_path {
            let cut = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            parent.proc_path = Some(Box::from(path.get(..cut).unwrap_or_default()));
        }
        // A directory that was moved out of the root meanwhile leads nowhere.
        if let Some(path) = parent.real_path()?
            && !path.starts_with(&self.path)
        {
            return Ok(self.root());
        }
        Ok(Arc::new(parent))
    }

    /// An open file of /proc whose real path is known.
    pub(crate) fn in_proc(&self, file: Arc<HostFile>, path: &Path) -> Arc<HostFile> {
        let Ok(rest) = path.strip_prefix(&self.path) else {
            return file;
        };
        match Arc::try_unwrap(file) {
            Ok(mut file) => {
                file.proc_path = Some(Box::from(rest.as_os_str().as_bytes()));
                Arc::new(file)
            }
            Err(file) => file,
        }
    }

    /// The path in /proc of a link that leads somewhere else than its text says.
    pub(crate) fn magic(&self, file: &HostFile, links: &dyn ProcLinks) -> Option<(ProcLink, PathBuf)> {
        let path = file.proc_path.as_deref().filter(|path| path.first().is_some_and(u8::is_ascii_digit))?;
        Some((links.link(path)?, self.path.join(OsStr::from_bytes(path))))
    }

    pub(crate) fn stat(&self, file: &HostFile) -> Result<Stat> {
        let (shown, _, statx) = real::load(self.policy, file.real(), file.in_dir())?;
        let mut stat = real::stat(&statx, &shown);
        stat.dev = self.device.unwrap_or(stat.dev);
        if let MadeUp::Link(text) = &file.made_up {
            stat.size = if file.proc_path.is_some() { stat.size } else { i64::try_from(text.len()).unwrap_or(0) };
        }
        Ok(stat)
    }

    pub(crate) fn read_link(&self, file: &HostFile) -> Result<Vec<u8>> {
        if file.kind != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        match &file.made_up {
            MadeUp::Link(text) => Ok(text.clone()),
            _ => file.real().read_link(),
        }
    }

    pub(crate) fn entries(&self, file: &Arc<HostFile>) -> Result<Vec<Entry>> {
        let fd = file.real().open_own(OFlags::RDONLY | OFlags::DIRECTORY, self.policy)?;
        let kind = |kind: FileType| u8::try_from(kind.as_raw_mode() >> 12 & 0xf).unwrap_or(0);
        let directory = kind(FileType::Directory);
        let parent = self.parent(file).map_or(file.ino, |parent| parent.ino);
        let mut entries = vec![
            Entry { name: b".".to_vec(), ino: file.ino, kind: directory },
            Entry { name: b"..".to_vec(), ino: parent, kind: directory },
        ];
        each_entry(&fd, |name, ino, file_type| {
            let kind = if file_type == FileType::Unknown { 0 } else { kind(file_type) };
            entries.push(Entry { name: name.to_vec(), ino, kind });
            Ok(())
        })?;
        Ok(entries)
    }

    pub(crate) fn open(&self, file: &HostFile, flags: OFlags, who: &Identity) -> Result<Opened> {
        if let MadeUp::Content(content) = &file.made_up {
            return made_up_file(content).map(Opened::File);
        }
        let opened = file.real().open_own(flags, self.policy)?;
        if flags.contains(OFlags::TRUNC) && file.kind == FileKind::File {
            self.drop_privileges(file, who)?;
        }
        Ok(Opened::File(opened))
    }

    fn drop_privileges(&self, file: &HostFile, who: &Identity) -> Result<()> {
        let (shown, mut stored) = self.look(file)?;
        let new = permission::truncated(&shown, who);
        if new != shown {
            real::store(self.policy, file.real(), file.in_dir(), &mut stored, &new)?;
        }
        real::clear_capability(file.real())
    }

    fn check_write(&self, dir: &HostFile, who: &Identity) -> Result<Shown> {
        let above = self.shown(dir)?;
        if above.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        permission::check(&above, who, WRITE | EXECUTE)?;
        Ok(above)
    }

    fn exists(dir: &HostFile, name: &[u8]) -> bool {
        rustix::fs::statat(&dir.fd, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub(crate) fn make(
        &self,
        dir: &Arc<HostFile>,
        name: &[u8],
        new: New<'_>,
        mode: u32,
        who: &Identity,
    ) -> Result<Option<OwnedFd>> {
        if Self::exists(dir, name) {
            return Err(Errno::EXIST);
        }
        let above = self.check_write(dir, who)?;
        let mut shown = permission::owner_of_new(&above, who, new.kind(), mode);
        if let New::Special(_, rdev) = new {
            shown.rdev = rdev;
        }
        let mode = Mode::from_raw_mode(self.policy.real_mode(shown.kind, shown.mode));
        let file = make_real(dir.fd.as_fd(), OsStr::from_bytes(name), new, mode)?;
        let finish = |real: Real<'_>| -> Result<()> {
            let (_, mut stored) = real::bare(self.policy, &real.statx()?);
            real::store(self.policy, real, Some((dir.real(), name)), &mut stored, &shown)
        };
        let result = match &file {
            Some(file) => finish(Real::Fd(file.as_fd())),
            None => finish(Real::At(dir.fd.as_fd(), OsStr::from_bytes(name))),
        };
        if result.is_err() {
            let flags = if shown.kind == FileKind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(&dir.fd, OsStr::from_bytes(name), flags);
        }
        result.map(|()| file)
    }

    pub(crate) fn make_unnamed(&self, dir: &HostFile, flags: OFlags, mode: u32, who: &Identity) -> Result<OwnedFd> {
        let above = self.check_write(dir, who)?;
        let shown = permission::owner_of_new(&above, who, FileKind::File, mode);
        let real_mode = Mode::from_raw_mode(self.policy.real_mode(FileKind::File, shown.mode));
        let path = real::descriptor_path(dir.fd.as_fd());
        let file = rustix::fs::open(path, flags | OFlags::TMPFILE | OFlags::CLOEXEC, real_mode)?;
        beside::forget(Target::Open(file.as_fd()))?;
        let real = Real::Fd(file.as_fd());
        let (_, mut stored) = real::bare(self.policy, &real.statx()?);
        real::store(self.policy, real, None, &mut stored, &shown)?;
        Ok(file)
    }

    pub(crate) fn link(&self, file: &HostFile, dir: &Arc<HostFile>, name: &[u8], who: &Identity) -> Result<()> {
        if Self::exists(dir, name) {
            return Err(Errno::EXIST);
        }
        let (shown, stored) = self.look(file)?;
        permission::check_link(&shown, who)?;
        self.check_write(dir, who)?;
        if file.kind == FileKind::Directory {
            return Err(Errno::PERM);
        }
        let (from, flags) = (real::descriptor_path(file.fd.as_fd()), AtFlags::SYMLINK_FOLLOW);
        rustix::fs::linkat(rustix::fs::CWD, from, &dir.fd, OsStr::from_bytes(name), flags)?;
        if stored.recorded && !matches!(stored.kind, FileKind::File | FileKind::Directory) {
            move_owner(None, (dir.real(), name), Some((shown.uid, shown.gid)))?;
        }
        Ok(())
    }

    /// The file of a name that is to be removed or renamed.
    fn entry(&self, dir: &Arc<HostFile>, name: &[u8]) -> Result<(Shown, Stored, (u64, u64))> {
        let real = Real::At(dir.fd.as_fd(), OsStr::from_bytes(name));
        let (shown, stored, statx) = real::load(self.policy, real, Some((dir.real(), name)))?;
        let device = rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor);
        Ok((shown, stored, (device, statx.stx_ino)))
    }

    fn check_delete(&self, above: &Shown, file: &Shown, directory: bool, who: &Identity) -> Result<()> {
        permission::check_sticky(above, file, who)?;
        match (directory, file.kind == FileKind::Directory) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            _ => Ok(()),
        }
    }

    pub(crate) fn remove(
        &self,
        dir: &Arc<HostFile>,
        name: &[u8],
        directory: bool,
        who: &Identity,
        is_mount_point: &dyn Fn((u64, u64)) -> bool,
    ) -> Result<()> {
        let (shown, stored, key) = self.entry(dir, name)?;
        let above = self.check_write(dir, who)?;
        self.check_delete(&above, &shown, directory, who)?;
        if is_mount_point(key) {
            return Err(Errno::BUSY);
        }
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&dir.fd, OsStr::from_bytes(name), flags)?;
        if stored.recorded && !matches!(stored.kind, FileKind::File | FileKind::Directory) {
            move_owner(None, (dir.real(), name), None)?;
        }
        Ok(())
    }

    pub(crate) fn rename(
        &self,
        (old_dir, old_name): (&Arc<HostFile>, &[u8]),
        (new_dir, new_name): (&Arc<HostFile>, &[u8]),
        flags: RenameFlags,
        who: &Identity,
        is_mount_point: &dyn Fn((u64, u64)) -> bool,
    ) -> Result<()> {
        let (old, old_stored, old_key) = self.entry(old_dir, old_name)?;
        let above = self.check_write(old_dir, who)?;
        let is_dir = old.kind == FileKind::Directory;
        permission::check_sticky(&above, &old, who)?;
        let new_above = self.check_write(new_dir, who)?;
        let mut new_owner = None;
        match self.entry(new_dir, new_name) {
            Ok((new, new_stored, new_key)) => {
                let exchange = flags.contains(RenameFlags::EXCHANGE);
                let wanted = if exchange { new.kind == FileKind::Directory } else { is_dir };
                if flags.contains(RenameFlags::NOREPLACE) {
                    return Err(Errno::EXIST);
                }
                self.check_delete(&new_above, &new, wanted, who)?;
                if is_mount_point(new_key) {
                    return Err(Errno::BUSY);
                }
                let own = matches!(new_stored.kind, FileKind::File | FileKind::Directory);
                new_owner = (!own && new_stored.recorded).then_some((new.uid, new.gid));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if is_mount_point(old_key) {
            return Err(Errno::BUSY);
        }
        let (from, to) = (OsStr::from_bytes(old_name), OsStr::from_bytes(new_name));
        rustix::fs::renameat_with(&old_dir.fd, from, &new_dir.fd, to, flags)?;
        let own = matches!(old_stored.kind, FileKind::File | FileKind::Directory);
        let owner = (!own && old_stored.recorded).then_some((old.uid, old.gid));
        if owner.is_some() || new_owner.is_some() {
            let back = new_owner.filter(|_| flags.contains(RenameFlags::EXCHANGE));
            move_owner(None, (old_dir.real(), old_name), back)?;
            move_owner(None, (new_dir.real(), new_name), owner)?;
        }
        Ok(())
    }

    pub(crate) fn chmod(&self, file: &HostFile, mode: u32, who: &Identity) -> Result<()> {
        let (mut shown, mut stored) = self.look(file)?;
        if shown.kind == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        shown.mode = permission::chmod(&shown, who, mode)?;
        real::store(self.policy, file.real(), file.in_dir(), &mut stored, &shown)
    }

    pub(crate) fn chown(&self, file: &HostFile, uid: u32, gid: u32, who: &Identity) -> Result<()> {
        let (shown, mut stored) = self.look(file)?;
        let new = permission::chown(&shown, who, uid, gid)?;
        if shown.kind == FileKind::File {
            real::clear_capability(file.real())?;
        }
        real::store(self.policy, file.real(), file.in_dir(), &mut stored, &new)
    }

    pub(crate) fn set_times(&self, file: &HostFile, atime: NewTime, mtime: NewTime, who: &Identity) -> Result<()> {
        permission::set_times(&self.shown(file)?, who, atime, mtime)?;
        file.real().set_times(atime, mtime)
    }

    pub(crate) fn truncate(&self, file: &HostFile, length: u64, who: &Identity) -> Result<()> {
        match file.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        permission::check(&self.shown(file)?, who, WRITE)?;
        rustix::fs::ftruncate(file.real().open_own(OFlags::WRONLY, self.policy)?, length)?;
        self.drop_privileges(file, who)
    }

    fn is_private(&self, file: &HostFile) -> bool {
        self.private || file.private
    }

    pub(crate) fn get_xattr(&self, file: &HostFile, name: &[u8], who: &Identity) -> Result<Vec<u8>> {
        let name = attributes::Name::for_reading(name, &self.shown(file)?, who, self.is_private(file))?;
        name.get(file.real())
    }

    pub(crate) fn list_xattr(&self, file: &HostFile, who: &Identity) -> Result<Vec<Vec<u8>>> {
        attributes::list(file.real(), who, self.is_private(file))
    }

    pub(crate) fn set_xattr(
        &self,
        file: &HostFile,
        name: &[u8],
        value: &[u8],
        flags: u32,
        who: &Identity,
    ) -> Result<()> {
        let shown = self.shown(file)?;
        let name = attributes::Name::for_writing(name, Some(value), &shown, who, self.is_private(file))?;
        name.set(file.real(), value, flags)
    }

    pub(crate) fn remove_xattr(&self, file: &HostFile, name: &[u8], who: &Identity) -> Result<()> {
        let name = attributes::Name::for_writing(name, None, &self.shown(file)?, who, self.is_private(file))?;
        name.remove(file.real())
    }
}

/// A file in memory that can be read from its beginning.
fn made_up_file(content: &[u8]) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create("proc", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::open(real::descriptor_path(file.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
