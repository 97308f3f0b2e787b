//! An overlay of directories in user space, with the on-disk form of the kernel's overlayfs (`userxattr`, `index=off`,
//! `redirect_dir=off`, `metacopy=off`).
//!
//! The lower layers never change and the upper one is changed through here only, so what is in a directory and what a
//! file shows is kept in memory once it was looked at. Operations that change names or layers hold the overlay's lock
//! alone, all others share it: under it, the path of a node is where its real file is.

mod attributes;
mod change;
mod copy_up;
mod rename;

pub(crate) use change::New;
use copy_up::{has_stand_ins, is_stand_in};
pub(super) use copy_up::{make_real, move_owner};

use super::{
    Entry, Result, Stat,
    real::{self, Policy, Real, Shown, Stored, each_entry},
};
use crate::root::FileKind;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, OFlags},
    io::Errno,
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// The attribute of an opaque directory.
const OPAQUE: &str = "user.overlay.opaque";

/// Number of a layer, top first; the upper one is 0 whether there is one or not.
type LayerId = u16;
const UPPER: LayerId = 0;

#[derive(Debug)]
pub(crate) struct Layer {
    fd: OwnedFd,
    /// Where it is, to find files again by their real paths.
    pub(crate) path: PathBuf,
    device: u64,
    /// Set in inode numbers of layers of further file systems, so that no two files show the same one.
    tag: u64,
}

/// A device number for a file system that is on none.
pub(super) fn unnamed_device() -> u64 {
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    // Those of the kernel are small; these are taken where it does not come to.
    let minor = 0x8_0000 + DEVICES.fetch_add(1, Ordering::Relaxed) % 0x8_0000;
    rustix::fs::makedev(0, minor)
}

#[derive(Debug)]
pub(crate) struct OverlayFs {
    policy: Policy,
    upper: Option<Layer>,
    lower: Vec<Layer>,
    /// The device number that its files show.
    pub(crate) device: u64,
    root: Arc<Node>,
    lock: RwLock<()>,
    /// Files of the upper layer that had several names when they were found, by real inode number.
    links: Mutex<HashMap<u64, Weak<Inode>>>,
    /// Real files that were given to processes, by real device and inode number.
    opened: Mutex<HashMap<(u64, u64), Weak<Node>>>,
}

/// A name in an overlay, and the file behind it.
#[derive(Debug)]
pub(crate) struct Node {
    at: Mutex<At>,
    inode: Arc<Inode>,
}

#[derive(Debug)]
struct At {
    parent: Parent,
    name: Arc<[u8]>,
}

#[derive(Debug)]
enum Parent {
    /// None: this is the root.
    Root,
    /// A directory that keeps this node.
    Linked(Weak<Node>),
    /// The directory from which this was removed.
    Unlinked(Arc<Node>),
}

/// A file.
#[derive(Debug)]
struct Inode {
    kind: FileKind,
    /// No other file of this process has, or had, the same.
    number: u64,
    state: Mutex<State>,
    /// Of a file whose owner is recorded by its name: its names.
    names: Mutex<Vec<Weak<Node>>>,
}

impl Inode {
    fn new(kind: FileKind, state: State) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Inode { kind, number, state: Mutex::new(state), names: Mutex::default() })
    }
}

#[derive(Debug)]
struct State {
    /// As shown.
    ino: u64,
    /// The topmost layer that has it.
    layer: LayerId,
    /// Number in that layer.
    real_ino: u64,
    shown: Shown,
    stored: Stored,
    /// A file of a lower layer with several names, each of which is copied up to a file of its own.
    several: bool,
    /// Of a file of a lower layer, which cannot change. Of a removed file, what it was last.
    known: Option<Box<Stat>>,
    dir: Option<Box<Directory>>,
}

#[derive(Debug)]
struct Directory {
    /// The layers that are merged, top first.
    layers: Vec<LayerId>,
    children: Option<BTreeMap<Arc<[u8]>, Child>>,
}

#[derive(Debug)]
struct Child {
    /// A lower layer has something of this name, so that its removal needs a whiteout.
    lower: bool,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A whiteout of the upper layer: nothing.
    Whiteout,
    /// A file that was not looked at yet.
    File {
        layer: LayerId,
        kind: u8,
        ino: u64,
    },
    /// A directory that was not looked at yet: layers that may be merged.
    Directory {
        layers: Box<[LayerId]>,
        ino: u64,
    },
    Node(Arc<Node>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    fn named(at: Mutex<At>, inode: Arc<Inode>) -> Arc<Self> {
        let node = Arc::new(Node { at, inode });
        if !matches!(node.state().stored.kind, FileKind::File | FileKind::Directory) {
            locked(&node.inode.names).push(Arc::downgrade(&node));
        }
        node
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.inode.state)
    }

    pub(crate) fn kind(&self) -> FileKind {
        self.inode.kind
    }

    pub(crate) fn number(&self) -> u64 {
        self.inode.number
    }

    /// Stands for the file, whatever its name is.
    pub(crate) fn inode_key(&self) -> usize {
        Arc::as_ptr(&self.inode) as usize
    }

    /// The directory that holds it, or held it; none for the root.
    pub(crate) fn parent(&self) -> Option<Arc<Node>> {
        match &locked(&self.at).parent {
            Parent::Root => None,
            Parent::Linked(parent) => parent.upgrade(),
            Parent::Unlinked(parent) => Some(Arc::clone(parent)),
        }
    }

    pub(crate) fn name(&self) -> Arc<[u8]> {
        Arc::clone(&locked(&self.at).name)
    }

    pub(crate) fn is_linked(&self) -> bool {
        !matches!(locked(&self.at).parent, Parent::Unlinked(_))
    }

    /// The path from the root of the overlay, `.` for itself.
    fn path(&self) -> Result<OsString> {
        let mut names = vec![self.name()];
        let mut next = self.parent();
        while let Some(node) = next {
            names.push(node.name());
            next = node.parent();
        }
        // The root has an empty name.
        if names.pop().is_some_and(|root| !root.is_empty()) {
            return Err(Errno::NOENT);
        }
        if names.is_empty() {
            return Ok(OsString::from("."));
        }
        let mut path = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Ok(OsString::from_vec(path))
    }

    fn unlink_from(&self, dir: &Arc<Node>) {
        locked(&self.at).parent = Parent::Unlinked(Arc::clone(dir));
    }
}

/// The path of a name in a directory of this path.
fn join(dir: &OsString, name: &[u8]) -> OsString {
    if dir.as_bytes() == b"." {
        return OsString::from_vec(name.to_vec());
    }
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir.as_bytes());
    path.push(b'/');
    path.extend_from_slice(name);
    OsString::from_vec(path)
}

fn kind_number(kind: FileType) -> u8 {
    // DT_* are the type bits of a mode, shifted.
    u8::try_from(kind.as_raw_mode() >> 12 & 0xf).unwrap_or(0)
}

fn is_whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
}

impl Layer {
    fn open(fd: OwnedFd, devices: &mut Vec<u64>) -> Result<Self> {
        let statx = Real::Fd(fd.as_fd()).statx()?;
        if FileKind::from_raw(u32::from(statx.stx_mode)) != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        let device = rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor);
        let index = devices.iter().position(|other| *other == device).unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        let path = rustix::fs::readlink(real::descriptor_path(fd.as_fd()), Vec::new())?;
        let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
        Ok(Layer { fd, path, device, tag: (index as u64) << 56 })
    }
}

/// What a directory is made of while its layers are read.
struct Merged {
    what: What,
    layers: Vec<LayerId>,
    top: LayerId,
    lower: Option<bool>,
    closed: bool,
}

impl OverlayFs {
    pub(crate) fn new(lower: Vec<OwnedFd>, upper: Option<OwnedFd>) -> Result<Self> {
        let policy = Policy::detect();
        let mut devices = Vec::new();
        let upper = upper.map(|fd| Layer::open(fd, &mut devices)).transpose()?;
        let lower = lower.into_iter().map(|fd| Layer::open(fd, &mut devices)).collect::<Result<Vec<_>>>()?;
        let layers: Vec<LayerId> =
            (LayerId::from(upper.is_none())..=LayerId::try_from(lower.len()).unwrap_or(LayerId::MAX)).collect();
        let top = layers.first().copied().ok_or(Errno::INVAL)?;
        let first = if top == UPPER { upper.as_ref() } else { lower.first() }.ok_or(Errno::INVAL)?;
        let dot = OsString::from(".");
        let (shown, stored, statx) = real::load(policy, Real::At(first.fd.as_fd(), &dot), None)?;
        let state = State {
            ino: statx.stx_ino | first.tag,
            layer: top,
            real_ino: statx.stx_ino,
            shown,
            stored,
            several: false,
            known: (top != UPPER).then(|| Box::new(real::stat(&statx, &shown))),
            dir: Some(Box::new(Directory { layers, children: None })),
        };
        let root = Node {
            at: Mutex::new(At { parent: Parent::Root, name: Arc::from(&b""[..]) }),
            inode: Inode::new(FileKind::Directory, state),
        };
        Ok(OverlayFs {
            policy,
            upper,
            lower,
            device: unnamed_device(),
            root: Arc::new(root),
            lock: RwLock::new(()),
            links: Mutex::default(),
            opened: Mutex::default(),
        })
    }

    pub(crate) fn root(&self) -> Arc<Node> {
        Arc::clone(&self.root)
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.upper.is_some()
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.upper.iter().chain(&self.lower)
    }

    fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer(&self, id: LayerId) -> Result<&Layer> {
        if id == UPPER { self.upper.as_ref() } else { self.lower.get(usize::from(id) - 1) }.ok_or(Errno::IO)
    }

    fn upper(&self) -> Result<BorrowedFd<'_>> {
        self.upper.as_ref().map(|layer| layer.fd.as_fd()).ok_or(Errno::ROFS)
    }

    /// Reads and merges what the layers of a directory have.
    fn list(&self, node: &Node, layers: &[LayerId]) -> Result<BTreeMap<Arc<[u8]>, Child>> {
        let path = node.path()?;
        let mut merged: BTreeMap<Arc<[u8]>, Merged> = BTreeMap::new();
        for &id in layers {
            let layer = self.layer(id)?;
            let real = Real::At(layer.fd.as_fd(), &path);
            let fd = real.open_own(OFlags::RDONLY | OFlags::DIRECTORY, self.policy)?;
            let stand_ins = has_stand_ins(fd.as_fd());
            each_entry(&fd, |name, ino, kind| {
                let kind = match kind {
                    FileType::Unknown => {
                        FileType::from_raw_mode(rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                    }
                    kind => kind,
                };
                let whiteout = match kind {
                    FileType::CharacterDevice => is_whiteout(fd.as_fd(), name)?,
                    FileType::RegularFile => stand_ins && is_stand_in(fd.as_fd(), name)?,
                    _ => false,
                };
                let directory = kind == FileType::Directory;
                if let Some(seen) = merged.get_mut(name) {
                    if id != UPPER && seen.lower.is_none() {
                        seen.lower = Some(!whiteout);
                    }
                    if !seen.closed && directory {
                        seen.layers.push(id);
                    } else {
                        seen.closed = true;
                    }
                    return Ok(());
                }
                let ino = ino | layer.tag;
                let what = if whiteout {
                    What::Whiteout
                } else if directory {
                    What::Directory { layers: Box::default(), ino }
                } else {
                    What::File { layer: id, kind: kind_number(kind), ino }
                };
                let lower = (id != UPPER).then_some(!whiteout);
                let layers = if directory { vec![id] } else { Vec::new() };
                merged.insert(Arc::from(name), Merged { what, layers, top: id, lower, closed: !directory });
                Ok(())
            })?;
        }
        let children = merged.into_iter().filter_map(|(name, mut seen)| {
            if let What::Directory { layers, .. } = &mut seen.what {
                *layers = seen.layers.into_boxed_slice();
            }
            // A whiteout of a lower layer only hides what is beneath.
            let hides = matches!(seen.what, What::Whiteout) && seen.top != UPPER;
            (!hides).then(|| (name, Child { lower: seen.lower.unwrap_or(false), what: seen.what }))
        });
        Ok(children.collect())
    }

    /// The children of a directory, read if they are not known yet.
    fn children<'a>(&self, node: &Node, directory: &'a mut Directory) -> Result<&'a mut BTreeMap<Arc<[u8]>, Child>> {
        if directory.children.is_none() {
            directory.children = Some(self.list(node, &directory.layers)?);
        }
        directory.children.as_mut().ok_or(Errno::IO)
    }

    /// Looks at a child for the first time.
    fn find(&self, dir: &Arc<Node>, name: &Arc<[u8]>, what: &What) -> Result<Arc<Node>> {
        let dir_path = dir.path()?;
        let path = join(&dir_path, name);
        let (top, mut layers) = match what {
            What::Whiteout => return Err(Errno::NOENT),
            What::Node(node) => return Ok(Arc::clone(node)),
            What::File { layer, .. } => (*layer, Vec::new()),
            What::Directory { layers, .. } => (layers.first().copied().ok_or(Errno::IO)?, layers.to_vec()),
        };
        let layer = self.layer(top)?;
        let real = Real::At(layer.fd.as_fd(), &path);
        let in_dir = Real::At(layer.fd.as_fd(), &dir_path);
        let (shown, stored, statx) = real::load(self.policy, real, Some((in_dir, name)))?;
        let several = statx.stx_nlink > 1 && stored.kind != FileKind::Directory;
        let at = || Mutex::new(At { parent: Parent::Linked(Arc::downgrade(dir)), name: Arc::clone(name) });
        if several
            && top == UPPER
            && let Some(inode) = locked(&self.links).get(&statx.stx_ino).and_then(Weak::upgrade)
        {
            return Ok(Node::named(at(), inode));
        }
        if layers.len() > 1 {
            for (index, id) in layers.iter().enumerate() {
                if self.is_opaque(Real::At(self.layer(*id)?.fd.as_fd(), &path))? {
                    layers.truncate(index + 1);
                    break;
                }
            }
        }
        let ino = statx.stx_ino | layer.tag;
        let mut stat = real::stat(&statx, &shown);
        self.dress(&mut stat, ino, layers.len());
        let state = State {
            ino,
            layer: top,
            real_ino: statx.stx_ino,
            shown,
            stored,
            several: several && top != UPPER,
            known: (top != UPPER).then(|| Box::new(stat)),
            dir: (stored.kind == FileKind::Directory).then(|| Box::new(Directory { layers, children: None })),
        };
        let inode = Inode::new(shown.kind, state);
        if several && top == UPPER {
            locked(&self.links).insert(statx.stx_ino, Arc::downgrade(&inode));
        }
        Ok(Node::named(at(), inode))
    }

    fn is_opaque(&self, dir: Real<'_>) -> Result<bool> {
        let value = crate::root::xattr::get(dir.target(), OPAQUE.as_ref(), true)?;
        Ok(value.as_deref() == Some(b"y"))
    }

    /// Gives a stat the numbers that the overlay shows. A merged directory has one link, as overlayfs shows it: its
    /// subdirectories are not counted.
    fn dress(&self, stat: &mut Stat, ino: u64, layers: usize) {
        stat.dev = self.device;
        stat.ino = ino;
        if layers > 1 {
            stat.nlink = 1;
        }
    }

    /// What a directory has of this name. The overlay's lock is held.
    fn child(&self, dir: &Arc<Node>, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let mut state = dir.state();
        let directory = state.dir.as_mut().ok_or(Errno::NOTDIR)?;
        let children = self.children(dir, directory)?;
        let Some((key, child)) = children.get_key_value(name) else {
            return Ok(None);
        };
        match &child.what {
            What::Whiteout => Ok(None),
            What::Node(node) => Ok(Some(Arc::clone(node))),
            what => {
                let node = self.find(dir, key, what)?;
                if let Some(child) = children.get_mut(name) {
                    child.what = What::Node(Arc::clone(&node));
                }
                Ok(Some(node))
            }
        }
    }

    pub(crate) fn lookup(&self, dir: &Arc<Node>, name: &[u8]) -> Result<Option<Arc<Node>>> {
        let _shared = self.read();
        self.child(dir, name)
    }

    pub(crate) fn shown(&self, node: &Node) -> Shown {
        node.state().shown
    }

    pub(crate) fn stat(&self, node: &Node) -> Result<Stat> {
        let _shared = self.read();
        let state = node.state();
        let layers = state.dir.as_ref().map_or(0, |dir| dir.layers.len());
        let mut stat = match &state.known {
            Some(known) => **known,
            None if !node.is_linked() => return Err(Errno::NOENT),
            None => {
                let path = node.path()?;
                real::stat(&Real::At(self.layer(state.layer)?.fd.as_fd(), &path).statx()?, &state.shown)
            }
        };
        stat.mode = state.shown.full_mode();
        (stat.uid, stat.gid, stat.rdev) = (state.shown.uid, state.shown.gid, state.shown.rdev);
        self.dress(&mut stat, state.ino, layers);
        if state.dir.is_some() && !node.is_linked() {
            stat.nlink = 0;
        }
        Ok(stat)
    }

    pub(crate) fn ino(&self, node: &Node) -> u64 {
        node.state().ino
    }

    /// Calls `act` with the real file. Not for files that were removed from the upper layer.
    fn with_real<T>(&self, node: &Node, act: impl FnOnce(Real<'_>, &State) -> Result<T>) -> Result<T> {
        let state = node.state();
        if state.layer == UPPER && !node.is_linked() {
            return Err(Errno::NOENT);
        }
        let path = node.path()?;
        act(Real::At(self.layer(state.layer)?.fd.as_fd(), &path), &state)
    }

    pub(crate) fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        let _shared = self.read();
        if node.kind() != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        self.with_real(node, |real, _| real.read_link())
    }

    /// All entries, in the order of their names.
    pub(crate) fn entries(&self, node: &Arc<Node>) -> Result<Vec<Entry>> {
        let _shared = self.read();
        let parent = node.parent().map_or_else(|| self.ino(node), |parent| self.ino(&parent));
        let mut state = node.state();
        let own = state.ino;
        let directory = state.dir.as_mut().ok_or(Errno::NOTDIR)?;
        let children = self.children(node, directory)?;
        let kind = kind_number(FileType::Directory);
        let mut entries = Vec::with_capacity(children.len() + 2);
        entries.push(Entry { name: b".".to_vec(), ino: own, kind });
        entries.push(Entry { name: b"..".to_vec(), ino: parent, kind });
        for (name, child) in children {
            let (ino, kind) = match &child.what {
                What::Whiteout => continue,
                What::File { kind, ino, .. } => (*ino, *kind),
                What::Directory { ino, .. } => (*ino, kind),
                What::Node(node) => (self.ino(node), kind_number(node.kind().raw())),
            };
            entries.push(Entry { name: name.to_vec(), ino, kind });
        }
        Ok(entries)
    }

    pub(crate) fn statfs(&self) -> Result<rustix::fs::StatFs> {
        let layer = self.layers().next().ok_or(Errno::IO)?;
        let mut stat = rustix::fs::fstatfs(&layer.fd)?;
        // One that tells no sizes is known by its type: apt takes it for full otherwise.
        if stat.f_blocks > 0 {
            // OVERLAYFS_SUPER_MAGIC of linux/magic.h.
            stat.f_type = 0x794c_7630;
        }
        Ok(stat)
    }

    /// The file that a process has open, by the numbers of the real one.
    pub(crate) fn by_real(&self, device: u64, ino: u64) -> Option<Arc<Node>> {
        locked(&self.opened).get(&(device, ino)).and_then(Weak::upgrade).filter(|node| node.is_linked())
    }

    /// An O_PATH descriptor of the topmost real file.
    pub(crate) fn real(&self, node: &Arc<Node>, write: bool) -> Result<OwnedFd> {
        if write {
            let _alone = self.write();
            self.copy_up(node, true)?;
            self.with_real(node, |real, _| real.pin())
        } else {
            let _shared = self.read();
            self.with_real(node, |real, _| real.pin())
        }
    }
}
