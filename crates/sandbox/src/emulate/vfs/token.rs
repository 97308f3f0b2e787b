//! What a process gets for an open directory of an overlay, which is many real directories: an empty file, known by its
//! numbers. It is a file in memory where a directory was asked for (O_DIRECTORY, as opendir(3) does), else an empty
//! directory, for which read(2) fails as it must; that costs more.

use super::{Result, mount::Mount, overlay::Node, real::descriptor_path};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, Mode, OFlags, Stat},
};
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

#[derive(Debug, Default)]
struct Tokens {
    known: HashMap<(u64, u64), Token>,
    /// How many are kept before those of closed files are looked for.
    limit: usize,
    /// Where directories are made, and how many were.
    directories: Option<(PathBuf, u64)>,
}

#[derive(Debug)]
struct Token {
    /// A mount lives as long as its namespace, not as long as a descriptor that leads to it; a removed directory stays.
    mount: Weak<Mount>,
    node: Arc<Node>,
    /// The real directory. It exists as long as its numbers mean this.
    directory: Option<PathBuf>,
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(path) = &self.directory {
            // What is left goes with the directory around it.
            let _ = std::fs::remove_dir(path);
        }
    }
}

static TOKENS: LazyLock<Mutex<Tokens>> = LazyLock::new(Mutex::default);

const FEWEST: usize = 16_384;

fn tokens() -> MutexGuard<'static, Tokens> {
    TOKENS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says in which directory those for tokens are to be made.
pub(crate) fn keep_directories_in(path: PathBuf) {
    tokens().directories = Some((path, 0));
}

/// A new token, with an offset of its own. `readable`: what is not a directory could be read from it.
pub(super) fn make(mount: &Arc<Mount>, node: &Arc<Node>, readable: bool) -> Result<OwnedFd> {
    let directory = if readable { new_directory() } else { None };
    let token = match &directory {
        Some(path) => rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
        None => {
            let file = rustix::fs::memfd_create("directory", MemfdFlags::CLOEXEC)?;
            rustix::fs::open(descriptor_path(file.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
        }
    };
    let stat = rustix::fs::fstat(&token)?;
    let mut tokens = tokens();
    if tokens.known.len() >= tokens.limit.max(FEWEST) {
        let devices: HashSet<u64> = tokens.known.keys().map(|(device, _)| *device).collect();
        let open = open_files(&devices);
        tokens.known.retain(|key, _| open.contains(key));
        tokens.limit = tokens.known.len() * 2;
    }
    let known = Token { mount: Arc::downgrade(mount), node: Arc::clone(node), directory };
    tokens.known.insert((stat.st_dev, stat.st_ino), known);
    Ok(token)
}

fn new_directory() -> Option<PathBuf> {
    let mut tokens = tokens();
    let (base, count) = tokens.directories.as_mut()?;
    *count += 1;
    let path = base.join(format!("directory-{count}"));
    std::fs::create_dir(&path).ok().map(|()| path)
}

/// The directory that a token stands for.
pub(super) fn find(key: (u64, u64)) -> Option<(Arc<Mount>, Arc<Node>)> {
    let tokens = tokens();
    let token = tokens.known.get(&key)?;
    Some((token.mount.upgrade()?, Arc::clone(&token.node)))
}

/// Whether these are the numbers of a token.
pub(crate) fn is_token(stat: &Stat) -> bool {
    tokens().known.contains_key(&(stat.st_dev, stat.st_ino))
}

/// Lets go of the directories of mounts that are no more.
pub(super) fn forget_dead() {
    tokens().known.retain(|_, token| token.mount.strong_count() > 0);
}

/// The files on these devices that any process has open that this one may look at.
fn open_files(devices: &HashSet<u64>) -> HashSet<(u64, u64)> {
    let mut open = HashSet::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)) {
        for file in std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            if let Ok(stat) = rustix::fs::stat(file.path())
                && devices.contains(&stat.st_dev)
            {
                open.insert((stat.st_dev, stat.st_ino));
            }
        }
    }
    open
}
