//! Files that appear whole or not at all, and locks.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde::de::DeserializeOwned;

use super::{StoreError, TMP};
use crate::json;

/// A lock on a file, until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Waits for a lock that others may share.
    pub(super) fn shared(path: &Path) -> Result<Lock, StoreError> {
        Lock::wait(path, FlockOperation::LockShared)
    }

    /// Waits for a lock that nobody shares.
    pub(super) fn exclusive(path: &Path) -> Result<Lock, StoreError> {
        Lock::wait(path, FlockOperation::LockExclusive)
    }

    /// Facts about the file that is locked, which may not be the one at `path` any more.
    pub(super) fn metadata(&self, path: &Path) -> Result<std::fs::Metadata, StoreError> {
        self.file.metadata().map_err(StoreError::io("look at", path))
    }

    fn wait(path: &Path, operation: FlockOperation) -> Result<Lock, StoreError> {
        let file = open_lock(path)?;
        flock(&file, path, operation)?;
        Ok(Lock { file })
    }

    /// Takes the lock if nobody has it.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Lock>, StoreError> {
        let file = open_lock(path)?;
        match flock(&file, path, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { file })),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    // Written to, since an exclusive lock on NFS wants a file open for writing.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StoreError::io("open lock file", path))
}

fn flock(file: &File, path: &Path, operation: FlockOperation) -> Result<(), StoreError> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e @ (rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP)) => {
                return Err(StoreError::NoLocks { path: path.to_owned(), source: e.into() });
            }
            Err(e) => return Err(StoreError::io("lock", path)(e.into())),
        }
    }
}

/// A name that nothing else uses now: process, time and a counter. Creation is exclusive all the same.
pub(crate) fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{nanos:x}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Replaces `path` by these bytes. The caller holds the shared lock of collections, which sweep lone files in `tmp`.
pub(super) fn write(root: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let (mut file, temporary) = loop {
        let temporary: PathBuf = root.join(TMP).join(format!("write-{}", unique_name()));
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => break (file, temporary),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(StoreError::io("create", &temporary)(e)),
        }
    };
    let done = file
        .write_all(bytes)
        .map_err(StoreError::io("write", path))
        .and_then(|()| std::fs::rename(&temporary, path).map_err(StoreError::io("write", path)));
    if done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

/// Reads a file of bounded size; nothing if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(json::DOCUMENT_MAX).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
            Ok(Some(bytes))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("open", path)(e)),
    }
}

/// Reads a JSON file; nothing if there is none.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    json::from_bytes(&bytes).map(Some).map_err(|source| StoreError::Json { path: path.to_owned(), source })
}

/// Sets the time of last change to now, by the clock of the file system; `false` if there is no such file.
pub(super) fn touch(path: &Path) -> Result<bool, StoreError> {
    let now = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    match rustix::fs::utimensat(CWD, path, &now, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(StoreError::io("touch", path)(e.into())),
    }
}
