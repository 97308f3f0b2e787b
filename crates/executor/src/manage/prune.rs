//! Pruning: giving up what is not needed, and freeing its space.

use std::collections::BTreeSet;

use rbuild_image::store::Prune;

use super::images::open;
use super::remove::{Removed, all_of};
use super::{ManageError, worker};
use crate::StoreOptions;
use crate::record;

/// What is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneScope {
    /// Images without a name.
    Dangling,
    /// The build cache.
    Cache,
    /// All images, the build cache, and the records of builds.
    All,
}

/// What pruning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Images and names that are gone.
    pub removed: Vec<Removed>,
    /// Records of the build cache that are gone.
    pub cache_records: u64,
    /// Bytes freed on the disk.
    pub freed_bytes: u64,
    /// Running builds whose work was spared.
    pub running: u64,
}

/// Gives up what `scope` says and removes from the disk what nothing else needs. What a running build uses stays.
///
/// # Errors
/// [`ManageError::Store`] and [`ManageError::Collect`].
pub fn prune(store: &StoreOptions, scope: PruneScope) -> Result<PruneReport, ManageError> {
    let before = open(store)?.list()?;
    let report = worker::collect(
        store,
        match scope {
            PruneScope::Dangling => Prune::Dangling,
            PruneScope::Cache => Prune::Cache,
            PruneScope::All => Prune::All,
        },
    )?;
    if scope == PruneScope::All {
        let path = store.root.join(record::BUILDS);
        record::forget_all(&store.root, report.live_leases > 0).map_err(|source| ManageError::Io {
            action: "remove",
            path,
            source,
        })?;
    }
    let after: BTreeSet<_> = open(store)?.list()?.into_iter().map(|listed| listed.id).collect();
    let gone = before.iter().filter(|listed| !after.contains(&listed.id));
    Ok(PruneReport {
        removed: gone.flat_map(all_of).collect(),
        cache_records: report.cache_records,
        freed_bytes: report.freed,
        running: report.live_leases,
    })
}
