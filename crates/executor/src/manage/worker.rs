//! The process that removes files from the store. Layers hold files of other owners; inside a worker they can be removed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rbuild_image::store::{GcReport, Prune, Store};
use rbuild_sandbox::{Entry, SpawnError, Worker, WorkerChannel};
use serde::{Deserialize, Serialize};

use super::ManageError;
use crate::{StoreOptions, worker::worker_options};

/// Name and function of the worker, for [`rbuild_sandbox::init`].
pub(crate) const ENTRY: (&str, Entry) = ("manage", serve);

/// What the caller asks for.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    root: PathBuf,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Scope {
    Unreferenced,
    Dangling,
    Cache,
    All,
    /// What killed processes left, and nothing else.
    Dead,
}

/// What was collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Collected {
    pub(super) cache_records: u64,
    pub(super) freed: u64,
    pub(super) live_leases: u64,
}

impl From<GcReport> for Collected {
    fn from(report: GcReport) -> Collected {
        Collected { cache_records: report.cache_records, freed: report.freed, live_leases: report.live_leases }
    }
}

/// The worker's answer: an error comes as its text and those of its causes.
type Reply = Result<Collected, Vec<String>>;

/// Collects in a worker. Where none can be had there are no files of other owners either, unless the store came from
/// elsewhere: then the collection is done here.
pub(super) fn collect(store: &StoreOptions, prune: Prune) -> Result<Collected, ManageError> {
    match Worker::spawn(worker_options(store, ENTRY.0)) {
        Ok(worker) => in_worker(worker, store, prune),
        Err(why) => here(&store.root, prune, &mut rbuild_image::store::remove_tree)
            .map_err(|causes| ManageError::Collect { causes, no_worker: Some(why) }),
    }
}

fn in_worker(worker: Worker, store: &StoreOptions, prune: Prune) -> Result<Collected, ManageError> {
    let scope = match prune {
        Prune::Unreferenced => Scope::Unreferenced,
        Prune::Dangling => Scope::Dangling,
        Prune::Cache => Scope::Cache,
        Prune::All => Scope::All,
    };
    ask(worker, store, scope)
}

/// Removes what a worker that was killed has left. What cannot be removed is left to the next build or collection.
pub(crate) fn sweep_dead(store: &StoreOptions) {
    let swept = Worker::spawn(worker_options(store, ENTRY.0)).map(|worker| ask(worker, store, Scope::Dead));
    tracing::debug!(?swept, "removed what the worker left");
}

fn ask(mut worker: Worker, store: &StoreOptions, scope: Scope) -> Result<Collected, ManageError> {
    let failed = |causes| ManageError::Collect { causes, no_worker: None };
    let lost = |error: &dyn std::error::Error| failed(texts(error));
    let root = std::path::absolute(&store.root).map_err(|error| lost(&error))?;
    worker.send(&Request { root, scope }).map_err(|error| lost(&error))?;
    let reply: Option<Reply> = worker.recv().map_err(|error| lost(&error))?;
    worker.wait().map_err(|error| lost(&error))?;
    reply.unwrap_or_else(|| Err(vec!["the worker ended without an answer".to_owned()])).map_err(failed)
}

fn serve(channel: WorkerChannel) -> i32 {
    let Ok(Some(Request { root, scope })) = channel.recv() else {
        return 1;
    };
    let prune = match scope {
        Scope::Unreferenced => Prune::Unreferenced,
        Scope::Dangling => Prune::Dangling,
        Scope::Cache => Prune::Cache,
        Scope::All => Prune::All,
        Scope::Dead => {
            let swept = Store::open(&root).and_then(|store| store.sweep_dead(&mut remove_any_owner));
            let reply: Reply = match swept {
                Ok(freed) => Ok(Collected { freed, ..Collected::default() }),
                Err(error) => Err(texts(&error)),
            };
            return i32::from(channel.send(&reply).is_err());
        }
    };
    let reply: Reply = here(&root, prune, &mut remove_any_owner);
    i32::from(channel.send(&reply).is_err())
}

fn here(root: &Path, prune: Prune, remover: &mut dyn FnMut(&Path) -> io::Result<u64>) -> Reply {
    Store::open(root).and_then(|store| store.gc(prune, remover)).map(Collected::from).map_err(|error| texts(&error))
}

pub(super) fn texts(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

/// Removes a tree whatever its owners, modes and depth, and says how many bytes that freed.
fn remove_any_owner(path: &Path) -> io::Result<u64> {
    let freed = disk_usage(path);
    rbuild_sandbox::remove_tree(path).map_err(|error| match error {
        rbuild_sandbox::RemoveError::Io { source, .. } => source,
        other => io::Error::other(other),
    })?;
    Ok(freed)
}

/// Bytes on the disk that a tree takes and nothing outside shares, as far as can be seen: a directory that cannot be
/// read counts as empty, since this only tells how much was won.
fn disk_usage(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(found) = path.symlink_metadata() else {
            continue;
        };
        if found.is_dir() {
            let Ok(entries) = std::fs::read_dir(&path) else {
                continue;
            };
            waiting.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        } else if found.nlink() == 1 {
            bytes += found.blocks() * 512;
        }
    }
    bytes
}

/// That no worker can be had, for the error's hint.
pub(super) fn explain(why: &SpawnError) -> String {
    format!("files of other owners can only be removed in a worker, and there is none: {}", texts(why).join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_follows_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/b/f"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", tree.join("root")).unwrap();
        let freed = disk_usage(&tree);
        assert!((8192..100_000).contains(&freed), "{freed}");
        assert_eq!(disk_usage(&dir.path().join("none")), 0);
        remove_any_owner(&tree).unwrap();
        assert!(!tree.exists());
    }
}
