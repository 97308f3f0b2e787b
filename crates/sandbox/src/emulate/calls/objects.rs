//! Objects of the mount API, and files opened with O_PATH, that a process holds by a descriptor.
//!
//! The descriptor is one end of a pair of sockets. It tells of itself by its number on the socket file system; reading
//! gives the messages of a file system context; and when no process has it any more, the other end hangs up.

use super::caller::{Caller, lock};
use crate::emulate::vfs::{Detached, FileSystem, Found, Identity, MountFlags, Place, Start};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, Stat, fstat},
    io::Errno,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair},
};
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex},
};

/// A file system that is being configured.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) kind: Vec<u8>,
    pub(super) options: Vec<Setting>,
    /// From its creation until it is mounted.
    pub(super) created: Option<Created>,
}

/// A file system, and what its root is to have.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) file_system: FileSystem,
    pub(super) read_only: bool,
    pub(super) owner: Option<(u32, u32)>,
    /// What is put into it before anybody sees it.
    pub(super) within: Option<Within>,
}

/// What a file system of this machine would have if it were one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// `/dev/pts/ptmx` that everybody may open.
    Terminals,
    /// No network interface but that of the loopback.
    Loopback,
    /// Of `/sys`, where this machine shows none, the network interfaces alone; only that of the loopback if so.
    Interfaces { lonely: bool },
}

const LOOPBACK: &str = "lo";

/// The network interfaces: two lines of heads, then one for each.
fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Makes the links to interfaces that `/sys/class/net` has.
fn link_interfaces(net: &Place, names: &[String], who: &Identity) -> Result<(), Errno> {
    for name in names {
        net.symlink(name.as_bytes(), format!("../../devices/virtual/net/{name}").as_bytes(), who)?;
    }
    Ok(())
}

impl Created {
    /// Makes a mount of it.
    pub(super) fn mount(self, caller: &Caller<'_>, flags: MountFlags) -> Result<Detached, Errno> {
        let namespace = &caller.namespace;
        let flags = MountFlags { read_only: flags.read_only || self.read_only, ..flags };
        let mounted = namespace.mount(self.file_system, MountFlags { read_only: false, ..flags })?;
        if let Some((uid, gid)) = self.owner {
            let root = Identity { capabilities: u64::MAX, ..Identity::default() };
            mounted.root().chown(uid, gid, &root)?;
        }
        if let Some(within) = self.within {
            within.put(caller, &mounted)?;
        }
        if flags.read_only {
            mounted.set_flags(MountFlags { read_only: true, ..Default::default() }, MountFlags::default(), false)?;
        }
        Ok(mounted)
    }
}

impl Within {
    fn put(self, caller: &Caller<'_>, mounted: &Detached) -> Result<(), Errno> {
        let (root, anybody) = (mounted.root(), Identity { capabilities: u64::MAX, ..Identity::default() });
        let start = Start { root: &root, base: &root, who: &anybody, proc: &caller.links };
        let path: &[u8] = match self {
            Self::Terminals => b"ptmx",
            Self::Loopback => b"class/net",
            Self::Interfaces { lonely } => {
                let names = if lonely { vec![LOOPBACK.to_owned()] } else { interfaces() };
                root.mkdir(b"class", 0o755, &anybody)?;
                let Found::File(class) = caller.namespace.resolve(&start, b"class", false)? else { return Ok(()) };
                class.mkdir(b"net", 0o755, &anybody)?;
                let Found::File(net) = caller.namespace.resolve(&start, b"class/net", false)? else { return Ok(()) };
                return link_interfaces(&net, &names, &anybody);
            }
        };
        let Ok(Found::File(point)) = caller.namespace.resolve(&start, path, true) else { return Ok(()) };
        let cover = match self {
            Self::Terminals => {
                let device = Path::new("/dev/ptmx");
                let path = device.canonicalize().map_err(|_| Errno::NOENT)?;
                let root = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                caller.namespace.mount(FileSystem::Host { root, path, is_proc: false }, MountFlags::default())?
            }
            Self::Loopback | Self::Interfaces { .. } => {
                let backing = caller.kernel.scratch.clone();
                let cover = FileSystem::Temporary { backing, mode: 0o755, size: None };
                let cover = caller.namespace.mount(cover, MountFlags::default())?;
                link_interfaces(&cover.root(), &[LOOPBACK.to_owned()], &anybody)?;
                let read_only = MountFlags { read_only: true, ..MountFlags::default() };
                cover.set_flags(read_only, MountFlags::default(), false)?;
                cover
            }
        };
        mounted.attach(&cover, &point)
    }
}

/// An option of a file system. Paths are looked up when they are set.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) name: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) place: Option<Place>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Context(Mutex<Context>),
    Mount(Detached),
    /// A file that was opened with O_PATH.
    File(Place),
}

#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    other_end: OwnedFd,
}

impl Object {
    /// Tells why something failed, as fsopen(2) has it: `e` for an error.
    pub(super) fn tell(&self, message: &str) {
        let _ = send(&self.other_end, format!("e {message}\n").as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// All objects, by device and inode of their sockets.
#[derive(Debug, Default)]
pub(super) struct Objects(Mutex<HashMap<(u64, u64), Arc<Object>>>);

impl Objects {
    /// A descriptor for a new object.
    pub(super) fn add(&self, kind: Kind) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, other_end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let status = fstat(&fd)?;
        let mut objects = lock(&self.0);
        objects.retain(|_, object| !is_closed(&object.other_end));
        objects.insert((status.st_dev, status.st_ino), Arc::new(Object { kind, other_end }));
        Ok(fd)
    }

    /// The object that an open file is.
    pub(super) fn get(&self, status: &Stat) -> Option<Arc<Object>> {
        if FileType::from_raw_mode(status.st_mode) != FileType::Socket {
            return None;
        }
        lock(&self.0).get(&(status.st_dev, status.st_ino)).map(Arc::clone)
    }

    /// The file that a descriptor stands for: that of a mount for its root.
    pub(super) fn place(&self, status: &Stat) -> Option<Place> {
        match &self.get(status)?.kind {
            Kind::Mount(mount) => Some(mount.root()),
            Kind::File(place) => Some(place.clone()),
            Kind::Context(_) => None,
        }
    }
}

impl Objects {
    /// The place of an open file that lies in a mount that is attached nowhere.
    pub(super) fn place_in_mounts(&self, path: &Path) -> Option<Place> {
        let objects: Vec<_> = lock(&self.0).values().map(Arc::clone).collect();
        objects.iter().find_map(|object| match &object.kind {
            Kind::Mount(mount) => mount.place_of(path).ok().flatten(),
            Kind::Context(_) | Kind::File(_) => None,
        })
    }
}

/// Whether nobody has the other end any more.
fn is_closed(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Kind {
        Kind::Context(Mutex::new(Context { kind: b"tmpfs".to_vec(), options: Vec::new(), created: None }))
    }

    #[test]
    fn objects_live_as_long_as_their_descriptors() {
        let objects = Objects::default();
        let first = objects.add(context()).unwrap();
        let status = fstat(&first).unwrap();
        let copy = first.try_clone().unwrap();
        drop(first);
        let second = objects.add(context()).unwrap();
        assert!(objects.get(&status).is_some() && objects.place(&status).is_none());
        objects.get(&status).unwrap().tell("no");
        let mut text = [0; 16];
        assert_eq!(rustix::io::read(&copy, &mut text), Ok(5));
        assert_eq!(&text[..5], b"e no\n");
        assert_eq!(rustix::io::read(&copy, &mut text), Err(Errno::AGAIN));
        drop(copy);
        let _third = objects.add(context()).unwrap();
        assert!(objects.get(&status).is_none());
        assert!(objects.get(&fstat(&second).unwrap()).is_some());
        assert!(objects.get(&rustix::fs::stat("/").unwrap()).is_none());
    }
}
