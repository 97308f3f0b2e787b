//! Removing directories beside the build.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rbuild_sandbox::{RemoveError, remove_tree};

/// Threads that remove one large tree. Freeing a file's blocks may mean waiting for the disk (mount option `discard`).
const THREADS: usize = 4;

/// Directories deep that a tree is looked into for a place where it branches.
const DEEP: usize = 8;

/// Removals that go on while the build does.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Removals {
    /// Begins to remove a directory. What cannot be removed goes with the lease.
    pub(crate) fn begin(&self, dir: &Path) {
        let path = dir.to_owned();
        let remove = move || {
            if let Err(error) = remove_large_tree(&path) {
                tracing::debug!(%error, "left for the end of the build");
            }
        };
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        // Without a thread it is left to the end.
        threads.extend(std::thread::Builder::new().name("remove".to_owned()).spawn(remove).ok());
    }

    /// Waits for all.
    pub(crate) fn finish(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // What a thread that panicked has left goes with the lease.
            let _ = thread.join();
        }
    }
}

/// Removes a tree of which nobody makes use any more, its branches in parallel.
pub(crate) fn remove_large_tree(path: &Path) -> Result<(), RemoveError> {
    let branches = Mutex::new(branches(path));
    let remove_some = || {
        loop {
            let next = branches.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(branch) = next else { return };
            // What is left, and why, is found out below.
            let _ = remove_tree(&branch);
        }
    };
    let count = branches.lock().unwrap_or_else(PoisonError::into_inner).len();
    if count > 1 {
        std::thread::scope(|scope| {
            for _ in 1..count.min(THREADS) {
                scope.spawn(remove_some);
            }
            remove_some();
        });
    }
    remove_tree(path)
}

/// The directories where a tree first branches: real ones, no link is followed.
fn branches(path: &Path) -> Vec<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..DEEP {
        let Ok(entries) = at.read_dir() else { break };
        let dirs = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut dirs: Vec<PathBuf> = dirs.map(|entry| entry.path()).collect();
        match dirs.pop() {
            Some(only) if dirs.is_empty() => at = only,
            Some(last) => {
                dirs.push(last);
                return dirs;
            }
            None => break,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_many_branches_goes_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        std::fs::create_dir_all(kept.join("inner")).unwrap();
        let tree = dir.path().join("tree");
        for branch in 0..9 {
            let below = tree.join(format!("one/two/{branch}/x"));
            std::fs::create_dir_all(&below).unwrap();
            std::fs::write(below.join("file"), "x").unwrap();
            std::os::unix::fs::symlink(&kept, tree.join(format!("one/two/{branch}/link"))).unwrap();
        }
        std::os::unix::fs::symlink(&kept, tree.join("one/two/link")).unwrap();
        let removals = Removals::default();
        removals.begin(&tree);
        removals.finish();
        assert!(!tree.exists());
        assert!(kept.join("inner").exists());
        remove_large_tree(&tree).unwrap();
    }
}
