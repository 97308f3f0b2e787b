//! The view of files that a caller has, and how its arguments lead to them.

use super::{
    super::{
        Kernel,
        task::{Fs, Task},
        vfs::{Found, Identity, Namespace, Place, Start},
    },
    Calls,
    proc::Links,
};
use crate::memory::Memory;
use nix::libc;
use rustix::io::Errno;
use std::{
    path::PathBuf,
    sync::{Arc, MutexGuard, PoisonError},
};

/// Locks, whatever happened to another thread.
pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task in the middle of a call; what it may and sees is taken once.
pub(super) struct Caller<'a> {
    pub(super) calls: &'a Calls,
    pub(super) kernel: &'a Kernel,
    pub(super) task: &'a Arc<Task>,
    pub(super) memory: Memory,
    pub(super) fs: Fs,
    pub(super) namespace: Arc<Namespace>,
    pub(super) who: Identity,
    pub(super) links: Links<'a>,
}

/// What an argument names.
#[derive(Debug)]
pub(super) enum Target {
    Place(Place),
    /// A descriptor without a place: a pipe, a socket, a file that has lost its name. Its path under `/proc`.
    Descriptor(PathBuf),
}

impl Target {
    /// The place; a descriptor without one gives this error.
    pub(super) fn place(self, or: Errno) -> Result<Place, Errno> {
        match self {
            Self::Place(place) => Ok(place),
            Self::Descriptor(_) => Err(or),
        }
    }
}

impl<'a> Caller<'a> {
    pub(super) fn new(calls: &'a Calls, kernel: &'a Kernel, task: &'a Arc<Task>) -> Self {
        let fs = lock(&lock(&task.fs)).clone();
        let namespace = Arc::clone(&lock(&task.namespace));
        let who = lock(&task.credentials).identity();
        let links = Links { calls, kernel, task, root: fs.root.clone(), namespace: Arc::clone(&namespace) };
        Self { calls, kernel, task, memory: task.memory(), fs, namespace, who, links }
    }

    pub(super) fn may(&self, capability: u32) -> bool {
        self.who.capabilities & (1 << capability) != 0
    }

    /// The path under which the supervisor sees a descriptor of the caller.
    pub(super) fn fd_path(&self, fd: i32) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{fd}", self.task.tid))
    }

    /// What a descriptor is.
    pub(super) fn descriptor(&self, fd: i32) -> Result<Target, Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        let path = self.fd_path(fd);
        let place = match self.namespace.place_of(&path) {
            Err(Errno::NOENT) => return Err(Errno::BADF),
            other => other?,
        };
        if let Some(place) = place {
            return Ok(Target::Place(place));
        }
        let status = rustix::fs::stat(&path).map_err(|_| Errno::BADF)?;
        let objects = &self.calls.objects;
        Ok(match objects.place(&status).or_else(|| objects.place_in_mounts(&path)) {
            Some(place) => Target::Place(place),
            None => Target::Descriptor(path),
        })
    }

    /// The directory from which a relative path starts.
    fn base(&self, dir: i32) -> Result<Place, Errno> {
        if dir == libc::AT_FDCWD {
            return Ok(self.fs.cwd.clone());
        }
        match self.descriptor(dir)? {
            Target::Place(place) if place.is_dir() => Ok(place),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The directory from which this path starts: an absolute one needs no valid descriptor.
    pub(super) fn base_of(&self, dir: i32, path: &[u8]) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if path.first() == Some(&b'/') { Ok(self.fs.root.clone()) } else { self.base(dir) }
    }

    pub(super) fn start<'s>(&'s self, base: &'s Place) -> Start<'s> {
        Start { root: &self.fs.root, base, who: &self.who, proc: &self.links }
    }

    /// What a path leads to, which may be nothing.
    pub(super) fn look_up(&self, dir: i32, path: &[u8], follow: bool) -> Result<Found, Errno> {
        let base = self.base_of(dir, path)?;
        self.namespace.resolve(&self.start(&base), path, follow)
    }

    /// What a path leads to.
    pub(super) fn find(&self, dir: i32, path: &[u8], follow: bool) -> Result<Target, Errno> {
        match self.look_up(dir, path, follow)? {
            Found::File(place) => Ok(Target::Place(place)),
            Found::Descriptor(path) => Ok(Target::Descriptor(path)),
            Found::Missing { .. } => Err(Errno::NOENT),
        }
    }

    /// What the arguments of a `…at` call name: AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH are honoured.
    pub(super) fn find_at(&self, dir: i32, address: u64, flags: i32) -> Result<Target, Errno> {
        let empty_allowed = flags & libc::AT_EMPTY_PATH != 0;
        // Since Linux 6.11 there need be no path at all.
        let path = if empty_allowed && address == 0 { Vec::new() } else { self.memory.read_path(address)? };
        if path.is_empty() && empty_allowed {
            return match dir {
                libc::AT_FDCWD => Ok(Target::Place(self.fs.cwd.clone())),
                _ => self.descriptor(dir),
            };
        }
        self.find(dir, &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
    }

    /// The existing file at a path that is no magic link.
    pub(super) fn place(&self, dir: i32, address: u64, follow: bool) -> Result<Place, Errno> {
        let path = self.memory.read_path(address)?;
        self.find(dir, &path, follow)?.place(Errno::NOENT)
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.memory.write(address, bytes)
    }
}
