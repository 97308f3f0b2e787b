//! What a process gets for an open directory of an overlay, which is many real directories: an empty file in memory,
//! known by its numbers.

use super::{Result, mount::Mount, overlay::Node, real::descriptor_path};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, Mode, OFlags},
};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

#[derive(Debug, Default)]
struct Tokens {
    /// A mount lives as long as its namespace, not as long as a descriptor that leads to it; a removed directory stays.
    known: HashMap<(u64, u64), (Weak<Mount>, Arc<Node>)>,
    /// How many are kept before those of closed files are looked for.
    limit: usize,
}

static TOKENS: LazyLock<Mutex<Tokens>> = LazyLock::new(Mutex::default);

const FEWEST: usize = 16_384;

fn tokens() -> MutexGuard<'static, Tokens> {
    TOKENS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new token, with an offset of its own.
pub(super) fn make(mount: &Arc<Mount>, node: &Arc<Node>) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create("directory", MemfdFlags::CLOEXEC)?;
    let stat = rustix::fs::fstat(&file)?;
    let token = rustix::fs::open(descriptor_path(file.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut tokens = tokens();
    if tokens.known.len() >= tokens.limit.max(FEWEST) {
        let open = open_files(stat.st_dev);
        tokens.known.retain(|key, _| open.contains(key));
        tokens.limit = tokens.known.len() * 2;
    }
    tokens.known.insert((stat.st_dev, stat.st_ino), (Arc::downgrade(mount), Arc::clone(node)));
    Ok(token)
}

/// The directory that a token stands for.
pub(super) fn find(key: (u64, u64)) -> Option<(Arc<Mount>, Arc<Node>)> {
    let (mount, node) = tokens().known.get(&key).cloned()?;
    Some((mount.upgrade()?, node))
}

/// Lets go of the directories of mounts that are no more.
pub(super) fn forget_dead() {
    tokens().known.retain(|_, (mount, _)| mount.strong_count() > 0);
}

/// The files on this device that any process has open that this one may look at.
fn open_files(device: u64) -> std::collections::HashSet<(u64, u64)> {
    let mut open = std::collections::HashSet::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)) {
        for file in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            if let Ok(stat) = rustix::fs::stat(file.path())
                && stat.st_dev == device
            {
                open.insert((stat.st_dev, stat.st_ino));
            }
        }
    }
    open
}
