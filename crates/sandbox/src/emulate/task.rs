//! Processes and threads as the supervisor knows them.

use super::{
    lookaside::AddressSpace,
    vfs::{Identity, Namespace, Place},
};
use crate::memory::Memory;
use nix::libc;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

/// The state that CLONE_FS shares.
#[derive(Debug, Clone)]
pub(crate) struct Fs {
    pub(crate) root: Place,
    pub(crate) cwd: Place,
    pub(crate) umask: u32,
}

/// Ids and capabilities of a thread, as credentials(7) and capabilities(7) have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Real, effective, saved, file system.
    pub(crate) uid: [u32; 4],
    pub(crate) gid: [u32; 4],
    pub(crate) groups: Vec<u32>,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
    pub(crate) bounding: u64,
    pub(crate) securebits: u32,
    /// As shown by prctl(PR_GET_NO_NEW_PRIVS); the real one is always set.
    pub(crate) no_new_privs: bool,
}

impl Credentials {
    /// For access to files.
    pub(crate) fn identity(&self) -> Identity {
        Identity { uid: self.uid[3], gid: self.gid[3], groups: self.groups.clone(), capabilities: self.effective }
    }
}

/// A process id namespace: ids are the real ones, but the end of its first process is the end of all others in it.
#[derive(Debug, Default)]
pub(crate) struct PidSpace {
    /// The process id of the first process; 0 until there is one.
    pub(crate) init: AtomicU32,
    /// The one around it; `None` for that of the worker.
    pub(crate) parent: Option<Arc<PidSpace>>,
}

impl PidSpace {
    /// Whether this is, or lies in, the namespace whose first process is `init`.
    pub(crate) fn is_within(&self, init: u32) -> bool {
        let mut space = Some(self);
        while let Some(this) = space {
            if this.init.load(Ordering::Relaxed) == init {
                return true;
            }
            space = this.parent.as_deref();
        }
        false
    }
}

/// What is common to the threads of a process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// What `/proc/PID/exe` shows: the program's place when it was executed.
    pub(crate) exe: Mutex<Option<Place>>,
    pub(crate) dumpable: Mutex<u32>,
    pub(crate) pids: Arc<PidSpace>,
    pub(crate) space: Mutex<Arc<AddressSpace>>,
}

/// A thread. The pieces behind `Arc` are shared as clone(2) shares them; `namespace` and `hostname` as unshare(2) parts them.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) tid: u32,
    pub(crate) process: Arc<Process>,
    pub(crate) fs: Mutex<Arc<Mutex<Fs>>>,
    pub(crate) credentials: Mutex<Credentials>,
    pub(crate) namespace: Mutex<Arc<Namespace>>,
    pub(crate) hostname: Mutex<Arc<Mutex<Vec<u8>>>>,
    /// No network but what is already open (CLONE_NEWNET).
    pub(crate) network_none: Mutex<bool>,
    /// Where processes go that it starts, after unshare(CLONE_NEWPID).
    pub(crate) pids_for_children: Mutex<Option<Arc<PidSpace>>>,
}

/// Locks, whatever happened to another thread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Task {
    /// Whether another task exists for this one: it is in the same pid namespace, or in one inside of it.
    pub(crate) fn sees(&self, other: &Task) -> bool {
        other.process.pids.is_within(self.process.pids.init.load(Ordering::Relaxed))
    }

    pub(crate) fn space(&self) -> Arc<AddressSpace> {
        Arc::clone(&lock(&self.process.space))
    }

    /// Whether its process may have others.
    pub(crate) fn has_threads(&self) -> bool {
        Arc::strong_count(&self.process) > 1
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.tid)
    }

    /// What a task with these flags of clone(2) inherits from this one.
    pub(crate) fn child(&self, tid: u32, flags: u64) -> Arc<Task> {
        let has = |flag: i32| flags & u64::from(flag as u32) != 0;
        let process = if has(libc::CLONE_THREAD) {
            Arc::clone(&self.process)
        } else {
            let pids = if has(libc::CLONE_NEWPID) {
                Arc::new(PidSpace { init: AtomicU32::new(tid), parent: Some(Arc::clone(&self.process.pids)) })
            } else if let Some(pids) = &*lock(&self.pids_for_children) {
                // The first one is the init of all that follow.
                let _ = pids.init.compare_exchange(0, tid, Ordering::Relaxed, Ordering::Relaxed);
                Arc::clone(pids)
            } else {
                Arc::clone(&self.process.pids)
            };
            Arc::new(Process {
                pid: tid,
                exe: Mutex::new(lock(&self.process.exe).clone()),
                dumpable: Mutex::new(*lock(&self.process.dumpable)),
                pids,
                space: Mutex::new(if has(libc::CLONE_VM) { self.space() } else { self.space().fork() }),
            })
        };
        let fs = lock(&self.fs);
        let fs = if has(libc::CLONE_FS) { Arc::clone(&fs) } else { Arc::new(Mutex::new(lock(&fs).clone())) };
        let child = Self {
            tid,
            process,
            fs: Mutex::new(fs),
            credentials: Mutex::new(lock(&self.credentials).clone()),
            namespace: Mutex::new(Arc::clone(&lock(&self.namespace))),
            hostname: Mutex::new(Arc::clone(&lock(&self.hostname))),
            network_none: Mutex::new(*lock(&self.network_none)),
            pids_for_children: Mutex::new(None),
        };
        child.part(flags);
        Arc::new(child)
    }

    /// Takes part in nothing that these flags of unshare(2) name: CLONE_FS, CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET,
    /// CLONE_NEWPID. Others have no effect.
    pub(crate) fn unshare(&self, flags: u64) {
        let has = |flag: i32| flags & u64::from(flag as u32) != 0;
        if has(libc::CLONE_FS) || has(libc::CLONE_NEWNS) {
            self.own_fs();
        }
        if has(libc::CLONE_NEWPID) {
            let parent = Some(Arc::clone(&self.process.pids));
            *lock(&self.pids_for_children) = Some(Arc::new(PidSpace { init: AtomicU32::new(0), parent }));
        }
        self.part(flags);
    }

    /// Makes root the root of a kernel of its own, as a user namespace would: with all capabilities, but in a mount
    /// namespace in which it cannot undo what was mounted before. False where it is not root.
    pub(crate) fn nest(&self) -> bool {
        {
            let mut it = lock(&self.credentials);
            if it.uid[1] != 0 {
                return false;
            }
            *it = Credentials { no_new_privs: it.no_new_privs, ..Credentials::root() };
        }
        self.own_fs();
        let mut namespace = lock(&self.namespace);
        let copy = namespace.clone_limited();
        self.enter(&mut namespace, copy);
        true
    }

    /// Shares root and directory with nobody.
    fn own_fs(&self) {
        let mut fs = lock(&self.fs);
        let own = lock(&fs).clone();
        *fs = Arc::new(Mutex::new(own));
    }

    fn enter(&self, namespace: &mut Arc<Namespace>, copy: Arc<Namespace>) {
        let fs = lock(&self.fs);
        let mut fs = lock(&fs);
        fs.root = copy.same_place(&fs.root);
        fs.cwd = copy.same_place(&fs.cwd);
        *namespace = copy;
    }

    fn part(&self, flags: u64) {
        let has = |flag: i32| flags & u64::from(flag as u32) != 0;
        if has(libc::CLONE_NEWNS) {
            let mut namespace = lock(&self.namespace);
            let copy = namespace.clone_namespace();
            self.enter(&mut namespace, copy);
        }
        if has(libc::CLONE_NEWUTS) {
            let mut hostname = lock(&self.hostname);
            let copy = lock(&hostname).clone();
            *hostname = Arc::new(Mutex::new(copy));
        }
        if has(libc::CLONE_NEWNET) {
            *lock(&self.network_none) = true;
        }
    }

    /// The same task under the id of its process, as it goes on after execve(2), when all other threads are gone.
    pub(crate) fn as_leader(&self) -> Arc<Task> {
        Arc::new(Self {
            tid: self.process.pid,
            process: Arc::clone(&self.process),
            fs: Mutex::new(Arc::clone(&lock(&self.fs))),
            credentials: Mutex::new(lock(&self.credentials).clone()),
            namespace: Mutex::new(Arc::clone(&lock(&self.namespace))),
            hostname: Mutex::new(Arc::clone(&lock(&self.hostname))),
            network_none: Mutex::new(*lock(&self.network_none)),
            pids_for_children: Mutex::new(lock(&self.pids_for_children).clone()),
        })
    }
}
