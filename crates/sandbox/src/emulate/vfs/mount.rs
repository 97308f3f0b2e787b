//! Mounts and the namespaces they make up.

use super::{
    FileSystem, MountFlags, Place, Result,
    host::{HostFile, HostFs, live_path},
    overlay::{Node, OverlayFs},
    token,
};
use crate::{emulate::lookaside::mounts_changed, root::FileKind};
use rustix::{
    fd::AsFd,
    io::{Errno, fcntl_dupfd_cloexec},
};
use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

#[derive(Debug, Clone)]
pub(super) enum Fs {
    Host(Arc<HostFs>),
    /// The second is for files that have no name in the overlay any more.
    Overlay(Arc<OverlayFs>, Arc<HostFs>),
}

#[derive(Debug, Clone)]
pub(super) enum FileRef {
    Host(Arc<HostFile>),
    Overlay(Arc<Node>),
}

/// Stands for a file as a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Host(u64, u64),
    Node(usize),
}

impl FileRef {
    pub(super) fn key(&self) -> Key {
        match self {
            FileRef::Host(file) => {
                let (device, ino) = file.key();
                Key::Host(device, ino)
            }
            FileRef::Overlay(node) => Key::Node(Arc::as_ptr(node) as usize),
        }
    }

    pub(super) fn kind(&self) -> FileKind {
        match self {
            FileRef::Host(file) => file.kind(),
            FileRef::Overlay(node) => node.kind(),
        }
    }
}

/// Where a mount is attached.
type Point = (Weak<Mount>, FileRef);

/// One mount of a file system, or of a part of it.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(super) id: u64,
    /// The mount of which this is a copy in another namespace.
    origin: u64,
    pub(super) fs: Fs,
    pub(super) root: FileRef,
    /// Where the root really is, for a host file system.
    real_root: Option<PathBuf>,
    flags: Mutex<MountFlags>,
    /// Those that may not be taken off (`MNT_LOCK_*` of the kernel).
    kept_flags: MountFlags,
    /// It may not be taken away or moved, so that what it covers stays covered (`MNT_LOCKED`).
    is_locked: AtomicBool,
    above: Mutex<Option<Point>>,
    children: RwLock<HashMap<Key, Arc<Mount>>>,
}

/// What a copy of mounts is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A bind mount.
    Bind,
    /// A namespace.
    Namespace,
    /// A namespace for somebody who may not undo what was mounted before; mount_namespaces(7), "Restrictions".
    Limited,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes of the tree of mounts are made one after another.
static TREE: Mutex<()> = Mutex::new(());

impl Mount {
    fn new(fs: Fs, root: FileRef, flags: MountFlags, kept_flags: MountFlags, origin: u64) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1000);
        let real_root = match (&fs, &root) {
            (Fs::Host(_), FileRef::Host(file)) => file.real_path().ok().flatten(),
            _ => None,
        };
        Arc::new(Mount {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            origin,
            fs,
            root,
            real_root,
            flags: Mutex::new(flags),
            kept_flags,
            is_locked: AtomicBool::new(false),
            above: Mutex::default(),
            children: RwLock::default(),
        })
    }

    fn of_file_system(file_system: FileSystem, flags: MountFlags) -> Result<Arc<Self>> {
        let (fs, root) = match file_system {
            FileSystem::Host { root, path, is_proc } => {
                let fs = HostFs::new(root, path, is_proc)?;
                let root = fs.root();
                (Fs::Host(Arc::new(fs)), FileRef::Host(root))
            }
            FileSystem::Temporary { backing, mode, size } => {
                let fs = HostFs::temporary(&backing, mode, size)?;
                let root = fs.root();
                (Fs::Host(Arc::new(fs)), FileRef::Host(root))
            }
            FileSystem::Overlay { lower, upper } => {
                let top = upper.as_ref().or(lower.first()).ok_or(Errno::INVAL)?;
                let loose = HostFs::new(fcntl_dupfd_cloexec(top.as_fd(), 0)?, PathBuf::new(), false)?;
                let fs = OverlayFs::new(lower, upper)?;
                let root = fs.root();
                (Fs::Overlay(Arc::new(fs), Arc::new(loose)), FileRef::Overlay(root))
            }
        };
        Ok(Self::new(fs, root, flags, MountFlags::default(), 0))
    }

    pub(super) fn flags(&self) -> MountFlags {
        *locked(&self.flags)
    }

    /// All that are named are changed, or none.
    fn change_flags(self: &Arc<Self>, set: MountFlags, clear: MountFlags, recursive: bool) -> Result<()> {
        let mounts = if recursive { self.all() } else { vec![Arc::clone(self)] };
        let change = |now: bool, set: bool, clear: bool| (now && !clear) || set;
        let changed = |now: MountFlags| MountFlags {
            read_only: change(now.read_only, set.read_only, clear.read_only),
            noexec: change(now.noexec, set.noexec, clear.noexec),
            nosuid: change(now.nosuid, set.nosuid, clear.nosuid),
            nodev: change(now.nodev, set.nodev, clear.nodev),
        };
        if mounts.iter().any(|mount| !changed(mount.flags()).include(mount.kept_flags)) {
            return Err(Errno::PERM);
        }
        for mount in mounts {
            let mut flags = locked(&mount.flags);
            *flags = changed(*flags);
        }
        Ok(())
    }

    fn is_locked(&self) -> bool {
        self.is_locked.load(Ordering::Relaxed)
    }

    /// The mount that this is attached to in the end, or itself.
    fn top(self: &Arc<Self>) -> Arc<Mount> {
        let mut top = Arc::clone(self);
        while let Some((above, _)) = top.above() {
            top = above;
        }
        top
    }

    fn children(&self) -> RwLockReadGuard<'_, HashMap<Key, Arc<Mount>>> {
        self.children.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn children_mut(&self) -> RwLockWriteGuard<'_, HashMap<Key, Arc<Mount>>> {
        self.children.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_children(&self) -> bool {
        !self.children().is_empty()
    }

    /// The mount that is attached to a file of this one.
    pub(super) fn mounted_on(&self, key: Key) -> Option<Arc<Mount>> {
        let children = self.children();
        if children.is_empty() { None } else { children.get(&key).cloned() }
    }

    pub(super) fn is_mount_point(&self, key: Key) -> bool {
        self.children().contains_key(&key)
    }

    /// Where this is attached.
    pub(super) fn above(&self) -> Option<(Arc<Mount>, FileRef)> {
        let above = locked(&self.above);
        let (mount, point) = above.as_ref()?;
        Some((mount.upgrade()?, point.clone()))
    }

    fn put(self: &Arc<Self>, child: &Arc<Mount>, point: FileRef) {
        let key = point.key();
        *locked(&child.above) = Some((Arc::downgrade(self), point));
        self.children_mut().insert(key, Arc::clone(child));
        mounts_changed();
    }

    /// What is attached beneath `root`, and where.
    fn beneath(&self, root: &FileRef) -> Vec<(Arc<Mount>, FileRef)> {
        let children = self.children();
        let placed = children.values().filter_map(|child| Some((Arc::clone(child), child.above()?.1)));
        placed.filter(|(_, point)| is_beneath(point, root)).collect()
    }

    /// A copy with all that is attached beneath `root`.
    fn copy(self: &Arc<Self>, root: FileRef, recursive: bool, purpose: Purpose) -> Arc<Mount> {
        let origin = if purpose == Purpose::Bind { 0 } else { self.id };
        let kept = if purpose == Purpose::Limited { self.flags() } else { self.kept_flags };
        let copy = Mount::new(self.fs.clone(), root.clone(), self.flags(), kept, origin);
        if recursive {
            for (child, point) in self.beneath(&root) {
                let below = child.copy(child.root.clone(), true, purpose);
                below.is_locked.store(purpose == Purpose::Limited || child.is_locked(), Ordering::Relaxed);
                copy.put(&below, point);
            }
        }
        copy
    }

    /// This and all that is attached to it.
    fn all(self: &Arc<Self>) -> Vec<Arc<Mount>> {
        let mut all = vec![Arc::clone(self)];
        let mut index = 0;
        while let Some(mount) = all.get(index).cloned() {
            let mut children: Vec<_> = mount.children().values().cloned().collect();
            children.sort_by_key(|child| child.id);
            all.extend(children);
            index += 1;
        }
        all
    }
}

/// Whether a file is another one or lies beneath it, in the same file system.
fn is_beneath(file: &FileRef, root: &FileRef) -> bool {
    match (file, root) {
        (FileRef::Overlay(node), FileRef::Overlay(root)) => node.is_beneath(root),
        (FileRef::Host(file), FileRef::Host(root)) => {
            file.key() == root.key()
                || matches!((file.real_path(), root.real_path()), (Ok(Some(file)), Ok(Some(root))) if file.starts_with(&root))
        }
        _ => false,
    }
}

/// A mount namespace. `clone_namespace` copies the table, the file systems are shared.
#[derive(Debug)]
pub(crate) struct Namespace {
    root: Mutex<Arc<Mount>>,
    is_limited: bool,
}

/// A mount or a tree of them that is attached nowhere (fsmount, open_tree).
#[derive(Debug, Clone)]
pub(crate) struct Detached {
    root: Arc<Mount>,
}

fn place_of_root(mount: &Arc<Mount>) -> Place {
    Place { mount: Arc::clone(mount), file: mount.root.clone() }
}

impl Namespace {
    /// A namespace whose root is this file system. Sets the umask of this process to 0, so that files get the modes that
    /// they are given.
    pub(crate) fn new(root: FileSystem) -> Result<Arc<Namespace>> {
        rustix::process::umask(rustix::fs::Mode::empty());
        let root = Mount::of_file_system(root, MountFlags::default())?;
        Ok(Arc::new(Namespace { root: Mutex::new(root), is_limited: false }))
    }

    fn root_mount(&self) -> Arc<Mount> {
        Arc::clone(&locked(&self.root))
    }

    pub(crate) fn clone_namespace(&self) -> Arc<Namespace> {
        self.clone_for(Purpose::Namespace)
    }

    /// A copy for somebody with fewer rights than those who made the mounts: they can be covered, but not be taken away,
    /// and what they forbid stays forbidden.
    pub(crate) fn clone_limited(&self) -> Arc<Namespace> {
        self.clone_for(Purpose::Limited)
    }

    fn clone_for(&self, purpose: Purpose) -> Arc<Namespace> {
        let _tree = locked(&TREE);
        let root = self.root_mount();
        let copy = root.copy(root.root.clone(), true, purpose);
        Arc::new(Namespace { root: Mutex::new(copy), is_limited: self.is_limited || purpose == Purpose::Limited })
    }

    /// Whether it, or one that it was copied from, was made by [`Namespace::clone_limited`].
    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Nobody changes the mounts of a namespace that he is not in.
    fn check_own(&self, at: &Place) -> Result<()> {
        if Arc::ptr_eq(&at.mount.top(), &self.root_mount()) { Ok(()) } else { Err(Errno::INVAL) }
    }

    pub(crate) fn root(&self) -> Place {
        place_of_root(&self.root_mount())
    }

    /// The same place in a copy of the namespace (after unshare: root and cwd move over).
    pub(crate) fn same_place(&self, place: &Place) -> Place {
        let id = place.mount.id;
        match self.root_mount().all().into_iter().find(|mount| mount.origin == id) {
            Some(mount) => Place { mount, file: place.file.clone() },
            None => place.clone(),
        }
    }

    pub(crate) fn mount(&self, file_system: FileSystem, flags: MountFlags) -> Result<Detached> {
        Ok(Detached { root: Mount::of_file_system(file_system, flags)? })
    }

    /// A copy of the mount at a place, with those beneath it if recursive (bind mount).
    pub(crate) fn copy_tree(&self, at: &Place, recursive: bool) -> Result<Detached> {
        let _tree = locked(&TREE);
        self.check_own(at)?;
        if !recursive && at.mount.beneath(&at.file).iter().any(|(child, _)| child.is_locked()) {
            return Err(Errno::INVAL);
        }
        Ok(Detached { root: at.mount.copy(at.file.clone(), recursive, Purpose::Bind) })
    }

    pub(crate) fn attach(&self, tree: &Detached, at: &Place) -> Result<()> {
        attach(&self.root_mount(), tree, at)
    }

    pub(crate) fn set_flags(&self, at: &Place, set: MountFlags, clear: MountFlags, recursive: bool) -> Result<()> {
        let _tree = locked(&TREE);
        self.check_own(at)?;
        if at.file.key() != at.mount.root.key() {
            return Err(Errno::INVAL);
        }
        at.mount.change_flags(set, clear, recursive)
    }

    /// Takes a mount away with all that is attached beneath it, as umount2(2) with MNT_DETACH.
    pub(crate) fn detach(&self, at: &Place) -> Result<()> {
        let _tree = locked(&TREE);
        // What was mounted last there, if more than one was.
        let at = at.clone().topmost();
        self.check_own(&at)?;
        if at.file.key() != at.mount.root.key() || at.mount.is_locked() {
            return Err(Errno::INVAL);
        }
        detach(&at.mount)?;
        // What is still in use somewhere keeps itself alone, and not what is attached to it, but for what must stay covered.
        for mount in at.mount.all() {
            mount.children_mut().retain(|_, child| {
                if !child.is_locked() {
                    *locked(&child.above) = None;
                }
                child.is_locked()
            });
        }
        mounts_changed();
        Ok(())
    }

    /// pivot_root: `new` (a mount's root) becomes the root of the namespace; the old root is attached at `old`.
    pub(crate) fn pivot(&self, new: &Place, old: &Place) -> Result<()> {
        let _tree = locked(&TREE);
        self.check_own(new)?;
        self.check_own(old)?;
        let mut root = locked(&self.root);
        if new.mount.is_locked() {
            return Err(Errno::INVAL);
        }
        if new.file.key() != new.mount.root.key() || old.file.kind() != FileKind::Directory {
            return Err(if old.file.kind() == FileKind::Directory { Errno::INVAL } else { Errno::NOTDIR });
        }
        if Arc::ptr_eq(&new.mount, &root) || Arc::ptr_eq(&old.mount, &root) {
            return Err(Errno::BUSY);
        }
        let mut up = Some(Arc::clone(&old.mount));
        let mut beneath = false;
        while let Some(mount) = up {
            beneath |= Arc::ptr_eq(&mount, &new.mount);
            up = mount.above().map(|(mount, _)| mount);
        }
        if !beneath {
            return Err(Errno::INVAL);
        }
        detach(&new.mount)?;
        let before = std::mem::replace(&mut *root, Arc::clone(&new.mount));
        old.mount.put(&before, old.file.clone());
        Ok(())
    }

    /// The path of a place from `root`; `None` if it cannot be reached from there ("(unreachable)").
    pub(crate) fn path_of(&self, root: &Place, place: &Place) -> Option<Vec<u8>> {
        path_of(root, place)
    }

    /// The path of a place from the root of its own namespace, whichever that is.
    pub(crate) fn own_path(&self, place: &Place) -> Option<Vec<u8>> {
        path_of(&place_of_root(&place.mount.top()), place)
    }

    /// The place of an open directory (token or real) or real file: `fd_path` is `/proc/PID/fd/N`. `None` if it has none
    /// here. A regular file of an overlay without a name has one nevertheless, by which it can be changed.
    pub(crate) fn place_of(&self, fd_path: &Path) -> Result<Option<Place>> {
        place_of(&self.root_mount(), fd_path)
    }

    /// /proc/PID/mountinfo as seen from `root`.
    pub(crate) fn mountinfo(&self, root: &Place) -> Vec<u8> {
        let mut mounts = self.root_mount().all();
        mounts.sort_by_key(|mount| mount.id);
        let mut text = Vec::new();
        for mount in &mounts {
            let Some(point) = path_of(root, &place_of_root(mount)) else {
                continue;
            };
            let Ok(stat) = place_of_root(mount).stat() else {
                continue;
            };
            let above = mount.above().map_or(mount.id, |(above, _)| above.id);
            let (kind, source) = match &mount.fs {
                Fs::Overlay(..) => ("overlay", "overlay"),
                Fs::Host(fs) if fs.is_proc => ("proc", "proc"),
                Fs::Host(fs) if fs.is_temporary() => ("tmpfs", "tmpfs"),
                Fs::Host(_) => ("none", "none"),
            };
            let in_fs = mount_root_path(mount);
            let flags = mount.flags();
            let mut options = if flags.read_only { "ro" } else { "rw" }.to_owned();
            for (on, name) in [(flags.nosuid, ",nosuid"), (flags.nodev, ",nodev"), (flags.noexec, ",noexec")] {
                if on {
                    options.push_str(name);
                }
            }
            options.push_str(",relatime");
            let (major, minor) = (rustix::fs::major(stat.dev), rustix::fs::minor(stat.dev));
            text.extend_from_slice(format!("{} {above} {major}:{minor} ", mount.id).as_bytes());
            escape(&in_fs, &mut text);
            text.push(b' ');
            escape(&point, &mut text);
            text.extend_from_slice(format!(" {options} - {kind} {source} rw\n").as_bytes());
        }
        text
    }
}

/// Octal for what would break a line of mountinfo, as the kernel's `mangle`.
fn escape(path: &[u8], text: &mut Vec<u8>) {
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            byte => text.push(*byte),
        }
    }
}

/// The root of a mount inside of its file system.
fn mount_root_path(mount: &Mount) -> Vec<u8> {
    match (&mount.fs, &mount.root) {
        (Fs::Host(fs), FileRef::Host(_)) => {
            let rest = mount.real_root.as_ref().and_then(|root| root.strip_prefix(&fs.path).ok());
            [&b"/"[..], rest.map_or(&b""[..], |rest| rest.as_os_str().as_bytes())].concat()
        }
        (_, FileRef::Overlay(node)) => {
            let mut path = Vec::new();
            let mut next = Some(Arc::clone(node));
            while let Some(node) = next {
                next = node.parent();
                if next.is_some() {
                    path.splice(0..0, [b"/", &*node.name()].concat());
                }
            }
            if path.is_empty() { b"/".to_vec() } else { path }
        }
        _ => b"/".to_vec(),
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.fs, Fs::Overlay(..)) {
            token::forget_dead();
        }
    }
}

/// Attaches a tree somewhere beneath `root`, over what is there.
fn attach(root: &Arc<Mount>, tree: &Detached, at: &Place) -> Result<()> {
    let _tree = locked(&TREE);
    if tree.root.above().is_some() || Arc::ptr_eq(&tree.root, root) || !Arc::ptr_eq(&at.mount.top(), root) {
        return Err(Errno::INVAL);
    }
    let is_dir = |file: &FileRef| file.kind() == FileKind::Directory;
    if is_dir(&tree.root.root) != is_dir(&at.file) {
        return Err(Errno::NOTDIR);
    }
    let at = at.clone().topmost();
    at.mount.put(&tree.root, at.file);
    Ok(())
}

fn detach(mount: &Arc<Mount>) -> Result<()> {
    let (above, point) = mount.above().ok_or(Errno::INVAL)?;
    above.children_mut().remove(&point.key());
    *locked(&mount.above) = None;
    mounts_changed();
    Ok(())
}

fn path_of(root: &Place, place: &Place) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut at = place.clone();
    loop {
        if at.same(root) && Arc::ptr_eq(&at.mount, &root.mount) {
            break;
        }
        if at.file.key() == at.mount.root.key() {
            let (mount, file) = at.mount.above()?;
            at = Place { mount, file };
            continue;
        }
        match &at.file {
            FileRef::Overlay(node) => {
                if !node.is_linked() {
                    return None;
                }
                parts.push(node.name().to_vec());
                at.file = FileRef::Overlay(node.parent()?);
            }
            FileRef::Host(file) => {
                let path = file.real_path().ok()??;
                // Up to the root that is asked for, or to that of the mount.
                let same_mount = Arc::ptr_eq(&at.mount, &root.mount);
                let top = match &root.file {
                    FileRef::Host(top) if same_mount => top.real_path().ok().flatten(),
                    _ => None,
                };
                let rest = top.as_ref().and_then(|top| path.strip_prefix(top).ok());
                if let Some(rest) = rest {
                    parts.push(rest.as_os_str().as_bytes().to_vec());
                    break;
                }
                let rest = path.strip_prefix(at.mount.real_root.as_ref()?).ok()?;
                parts.push(rest.as_os_str().as_bytes().to_vec());
                at.file = at.mount.root.clone();
            }
        }
    }
    let mut path = Vec::new();
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Some(path)
}

impl Detached {
    pub(crate) fn root(&self) -> Place {
        place_of_root(&self.root)
    }

    /// As [`Namespace::place_of`], of a file in these mounts.
    pub(crate) fn place_of(&self, fd_path: &Path) -> Result<Option<Place>> {
        place_of(&self.root, fd_path)
    }

    pub(crate) fn set_flags(&self, set: MountFlags, clear: MountFlags, recursive: bool) -> Result<()> {
        self.root.change_flags(set, clear, recursive)
    }

    /// Attaches another tree in this one.
    pub(crate) fn attach(&self, tree: &Detached, at: &Place) -> Result<()> {
        attach(&self.root, tree, at)
    }
}

/// See [`Namespace::place_of`].
fn place_of(root: &Arc<Mount>, fd_path: &Path) -> Result<Option<Place>> {
    let stat = rustix::fs::stat(fd_path)?;
    let key = (stat.st_dev, stat.st_ino);
    if let Some((mount, node)) = token::find(key) {
        return Ok(Some(Place { mount, file: FileRef::Overlay(node) }));
    }
    let mounts = root.all();
    for mount in mounts.iter().rev() {
        if let Fs::Overlay(fs, _) = &mount.fs
            && let Some(node) = fs.by_real(key.0, key.1)
            && is_beneath(&FileRef::Overlay(Arc::clone(&node)), &mount.root)
        {
            return Ok(Some(Place { mount: Arc::clone(mount), file: FileRef::Overlay(node) }));
        }
    }
    let text = rustix::fs::readlink(fd_path, Vec::new())?.into_bytes();
    let deleted = text.strip_suffix(b" (deleted)").filter(|text| text.starts_with(b"/")).map(<[u8]>::to_vec);
    let is_file = FileKind::from_raw(stat.st_mode) == FileKind::File;
    let named = live_path(text);
    let Some(path) = named.clone().or(deleted.filter(|_| is_file).and_then(live_path)) else {
        return Ok(None);
    };
    Ok(by_path(&mounts, fd_path, &path, named.is_some()))
}

/// The mount in whose real directories a path lies.
fn by_path(mounts: &[Arc<Mount>], fd_path: &Path, path: &Path, named: bool) -> Option<Place> {
    let mut best: Option<(bool, bool, usize, &Arc<Mount>)> = None;
    // A terminal is known by its name in devpts, though it is the console, too.
    let is_device =
        rustix::fs::stat(fd_path).is_ok_and(|stat| FileKind::from_raw(stat.st_mode) == FileKind::CharDevice);
    for mount in mounts {
        // What has a name and was not opened in an overlay is a file of the machine, where that is seen; so are the
        // layers themselves.
        let preferred = named == matches!(mount.fs, Fs::Host(_));
        let roots: Vec<&Path> = match &mount.fs {
            Fs::Host(_) => mount.real_root.as_deref().into_iter().collect(),
            Fs::Overlay(fs, _) => fs.layers().map(|layer| layer.path.as_path()).collect(),
        };
        let longest = roots.into_iter().filter(|root| path.starts_with(root)).map(|root| root.as_os_str().len()).max();
        if let Some(length) = longest {
            let listed = !(is_device && length == path.as_os_str().len());
            if best.is_none_or(|(other, its, than, _)| (preferred, listed, length) >= (other, its, than)) {
                best = Some((preferred, listed, length, mount));
            }
        }
    }
    let (_, _, _, mount) = best?;
    let private = matches!(mount.fs, Fs::Overlay(..));
    if !named && !private {
        return None;
    }
    let file = HostFile::of_descriptor(fd_path, named.then_some(path), private).ok()?;
    if private && file.kind() == FileKind::Directory {
        return None;
    }
    let file = match &mount.fs {
        Fs::Host(fs) if fs.is_proc => fs.in_proc(file, path),
        _ => file,
    };
    Some(Place { mount: Arc::clone(mount), file: FileRef::Host(file) })
}
