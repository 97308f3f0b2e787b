//! Leases: what a running process uses is not collected.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{IFlags, Mode, OFlags};

use super::atomic::{self, Lock};
use super::{Store, StoreError, TMP, file_name};
use crate::digest::{DiffId, Digest, ImageId};

/// A running process's claim on what it puts, holds or stages. It ends when dropped, or when the process dies: the
/// kernel then lets go of the lock on its file.
///
/// What it staged and did not publish is left behind under `tmp` for the next collection, since only the sandbox may be
/// able to remove files of other owners; call [`Lease::end`] to remove it at once.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    id: String,
    _lock: Lock,
    stop: OnceLock<Arc<AtomicBool>>,
}

impl Lease {
    pub(super) fn new(store: &Store) -> Result<Lease, StoreError> {
        // No collection may see the file before it is locked.
        let _shared = store.gc_shared()?;
        loop {
            let id = atomic::unique_name();
            let path = store.root.join("leases").join(&id);
            if path.exists() {
                continue;
            }
            let Some(lock) = Lock::try_exclusive(&path)? else {
                continue;
            };
            let dir = store.root.join(TMP).join(&id);
            std::fs::create_dir(&dir).map_err(StoreError::io("create directory", &dir))?;
            spread_directories(&dir);
            return Ok(Lease { store: store.clone(), id, _lock: lock, stop: OnceLock::new() });
        }
    }

    /// The name of the lease.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The store it is for.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Lets a flag end long work that is done with this lease: compressing layers. The first flag counts.
    pub fn stop_with(&self, flag: Arc<AtomicBool>) {
        self.stop.get_or_init(|| flag);
    }

    /// A reader that fails as soon as the work is to end.
    pub(super) fn stoppable<R: Read>(&self, inner: R) -> impl Read {
        Stoppable { inner, stop: self.stop.get().cloned() }
    }

    /// The directory for whatever the process makes. It is on the same file system as the rest of the store.
    pub fn dir(&self) -> PathBuf {
        self.store.root.join(TMP).join(&self.id)
    }

    /// Makes a new empty directory within [`Lease::dir`], for instance to unpack a layer into.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn stage_dir(&self) -> Result<PathBuf, StoreError> {
        let path = self.dir().join(atomic::unique_name());
        std::fs::create_dir(&path).map_err(StoreError::io("create directory", &path))?;
        Ok(path)
    }

    /// Keeps a blob from collections; `false` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn hold_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let _shared = self.store.gc_shared()?;
        atomic::touch(&self.store.blob_path(digest))
    }

    /// Keeps an unpacked layer from collections and gives its `fs`; nothing if it is not unpacked.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn hold_layer(&self, diff_id: &DiffId) -> Result<Option<PathBuf>, StoreError> {
        let _shared = self.store.gc_shared()?;
        self.touch_diff(diff_id)?;
        Ok(self.store.unpacked(diff_id))
    }

    /// Keeps an image with all its layers, packed and unpacked, from collections; `false` if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`], or [`StoreError::Config`] for what is no image.
    pub fn hold_image(&self, id: &ImageId) -> Result<bool, StoreError> {
        let _shared = self.store.gc_shared()?;
        if !atomic::touch(&self.store.blob_path(id.digest()))? {
            return Ok(false);
        }
        let config = self.store.config(id)?.1;
        for diff_id in config.diff_ids() {
            self.touch_diff(diff_id)?;
        }
        Ok(true)
    }

    fn touch_diff(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        atomic::touch(&self.store.layer_dir(diff_id))?;
        atomic::touch(&self.store.diff_path(diff_id))?;
        for blob in self.store.diff_blobs(diff_id)? {
            atomic::touch(&self.store.blob_path(&blob.digest))?;
        }
        Ok(())
    }

    /// Ends the lease and removes what it staged, with `remover` as in [`Store::gc`].
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn end(self, remover: &mut dyn FnMut(&Path) -> std::io::Result<u64>) -> Result<(), StoreError> {
        let dir = self.dir();
        remover(&dir).map_err(StoreError::io("remove", &dir))?;
        Ok(())
    }
}

struct Stoppable<R> {
    inner: R,
    stop: Option<Arc<AtomicBool>>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(io::Error::other("it was cancelled")),
            _ => self.inner.read(buffer),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A collection does the same for leases whose process was killed. What cannot be removed is left to it.
        let dir = self.dir();
        let empty = match std::fs::remove_dir(&dir) {
            Ok(()) => true,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        };
        if empty {
            let _ = std::fs::remove_file(self.store.root.join("leases").join(&self.id));
        }
    }
}

/// Asks ext4 to put each directory made in this one into a block group of its own (chattr(1), `T`).
///
/// Without, all layers share the block groups around the store. There ext4 passes one by one over every inode that was
/// freed within the last minute or five (`recently_deleted` in fs/ext4/ialloc.c, Linux 3.14), for each file anew: after a
/// layer of thousands of files was removed, making a file takes ten times as long. Other file systems need no such hint.
fn spread_directories(dir: &Path) {
    // EXT4_SUPER_MAGIC, which ext2 and ext3 have too.
    const EXT: i128 = 0xef53;
    let spread = || -> rustix::io::Result<()> {
        let file = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if i128::from(rustix::fs::fstatfs(&file)?.f_type) == EXT {
            let flags = rustix::fs::ioctl_getflags(&file)?;
            rustix::fs::ioctl_setflags(&file, flags | IFlags::TOPDIR)?;
        }
        Ok(())
    };
    if let Err(error) = spread() {
        tracing::debug!(%error, "directories are not spread over the disk");
    }
}

impl Store {
    /// Where a blob lies, or would lie.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(file_name(digest))
    }

    pub(super) fn diff_path(&self, diff_id: &DiffId) -> PathBuf {
        self.root.join("diffs").join(format!("{}.json", file_name(diff_id.digest())))
    }
}
