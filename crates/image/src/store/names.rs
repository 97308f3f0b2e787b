//! Locks with names, and directories that outlive builds: the mounts of caches.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::atomic::{self, Lock};
use super::{Lease, Store, StoreError};
use crate::digest::Digest;

/// A lock that one holder has in all processes that use the store, until it is dropped or its process dies.
#[derive(Debug)]
pub struct NamedLock {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for NamedLock {
    fn drop(&mut self) {
        // While it is held, so that whoever waits for this very file finds out that it is gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// Takes the lock of this name, unless somebody has it, in this process or another.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::NoLocks`].
    pub fn try_lock(&self, name: &str) -> Result<Option<NamedLock>, StoreError> {
        self.try_lock_file(self.root.join("locks").join(hashed(name)))
    }

    fn try_lock_file(&self, path: PathBuf) -> Result<Option<NamedLock>, StoreError> {
        loop {
            let Some(lock) = Lock::try_exclusive(&path)? else {
                return Ok(None);
            };
            // The one before may have removed the file between its being opened and its being locked.
            let locked = lock.metadata(&path)?;
            if path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino())) {
                return Ok(Some(NamedLock { path, _lock: lock }));
            }
        }
    }

    /// Removes the locks that killed processes have left.
    pub(super) fn sweep_locks(&self) -> Result<(), StoreError> {
        for path in super::gc::list(&self.root.join("locks"))? {
            drop(self.try_lock_file(path)?);
        }
        Ok(())
    }

    fn mount_dir(&self, id: &str) -> PathBuf {
        self.root.join("mounts").join(format!("{}{}", hashed(id), self.owners))
    }

    /// Publishes the directory of a cache mount: `staged`, from [`Lease::stage_dir`] with the first content in `fs`. If
    /// another process was first, its directory stands and `staged` is left for the lease's end.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish_mount(&self, id: &str, staged: &Path) -> Result<PathBuf, StoreError> {
        self.publish_dir(&self.mount_dir(id), staged, "publish cache mount")
    }
}

impl Lease {
    /// Keeps the directory of a cache mount from collections and gives its path; nothing if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn hold_mount(&self, id: &str) -> Result<Option<PathBuf>, StoreError> {
        let dir = self.store().mount_dir(id);
        let _shared = self.store().gc_shared()?;
        atomic::touch(&dir)?;
        let content = dir.join("fs");
        Ok(content.is_dir().then_some(content))
    }
}

fn hashed(name: &str) -> String {
    Digest::of(name.as_bytes()).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Prune, remove_tree};

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.try_lock("a").unwrap().unwrap();
        assert!(store.try_lock("a").unwrap().is_none());
        let other = store.try_lock("b").unwrap();
        assert!(other.is_some());
        drop(first);
        let again = store.try_lock("a").unwrap();
        assert!(again.is_some());
        drop((again, other));
        assert_eq!(std::fs::read_dir(dir.path().join("locks")).unwrap().count(), 0);
    }

    #[test]
    fn locks_exclude_among_threads() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = loop {
                            if let Some(lock) = store.try_lock("x").unwrap() {
                                break lock;
                            }
                            std::thread::yield_now();
                        };
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn what_the_killed_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let left = dir.path().join("locks").join(hashed("gone"));
        std::fs::write(&left, "").unwrap();
        let held = store.try_lock("held").unwrap().unwrap();
        store.gc(Prune::Unreferenced, &mut remove_tree).unwrap();
        assert!(!left.exists());
        assert!(held.path.exists());
    }

    #[test]
    fn cache_mounts_go_with_the_cache_unless_a_build_uses_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        assert_eq!(lease.hold_mount("apt").unwrap(), None);
        for content in ["first", "second"] {
            let staged = lease.stage_dir().unwrap();
            std::fs::create_dir(staged.join("fs")).unwrap();
            std::fs::write(staged.join("fs/file"), content).unwrap();
            let fs = store.publish_mount("apt", &staged).unwrap();
            assert_eq!(std::fs::read_to_string(fs.join("file")).unwrap(), "first");
        }
        lease.end(&mut remove_tree).unwrap();
        for keeps in [Prune::Unreferenced, Prune::Dangling] {
            store.gc(keeps, &mut remove_tree).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        let lease = store.lease().unwrap();
        let held = lease.hold_mount("apt").unwrap().unwrap();
        store.gc(Prune::All, &mut remove_tree).unwrap();
        assert!(held.exists());
        lease.end(&mut remove_tree).unwrap();
        let report = store.gc(Prune::Cache, &mut remove_tree).unwrap();
        assert_eq!(report.mounts, 1);
        assert_eq!(std::fs::read_dir(dir.path().join("mounts")).unwrap().count(), 0);
    }

    #[test]
    fn compressing_ends_when_it_is_told_to() {
        use crate::compression::EncoderOptions;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        let (diff_id, blob) = crate::store::tests::put_layer(&store, &lease, b"x");
        store.add_diff_blob(&diff_id, &blob).unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        lease.stop_with(stop.clone());
        let options = EncoderOptions::Gzip { level: 1, threads: 1 };
        assert!(store.pack_layer(&lease, &diff_id, options).is_err());
        stop.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(store.pack_layer(&lease, &diff_id, options).is_ok());
    }

    #[test]
    fn what_a_killed_build_left_goes_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("leases/dead"), "").unwrap();
        std::fs::create_dir_all(dir.path().join("tmp/dead/fs")).unwrap();
        let alive = store.lease().unwrap();
        store.sweep_dead(&mut remove_tree).unwrap();
        assert!(!dir.path().join("tmp/dead").exists());
        assert!(!dir.path().join("leases/dead").exists());
        assert!(alive.dir().exists());
    }
}
