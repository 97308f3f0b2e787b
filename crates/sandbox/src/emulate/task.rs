//! Processes and threads as the supervisor knows them.

use super::{
    memory::Memory,
    vfs::{Identity, Namespace, Place},
};
use std::sync::{Arc, Mutex};

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

/// What is common to the threads of a process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// What `/proc/PID/exe` shows: the program's place when it was executed.
    pub(crate) exe: Mutex<Option<Place>>,
    pub(crate) dumpable: Mutex<u32>,
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
}

impl Task {
    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.tid)
    }
}
