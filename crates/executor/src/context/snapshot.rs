//! What BuildKit's daemon would still hold of a context from the build before.

use serde::{Deserialize, Serialize};

/// Which regular files were transferred in the last synchronisation, each known by a digest of path and status.
///
/// BuildKit keeps the files of a local source between builds and asks only for those that changed, so the number it
/// shows depends on the build before. The caller keeps one snapshot for each [`SyncKey`](super::SyncKey).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSnapshot {
    /// Sorted digests.
    pub(super) files: Vec<String>,
}

/// Size and outcome of one synchronisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Bytes that BuildKit shows after `transferring …:`.
    pub bytes: u64,
    /// What the daemon holds afterwards.
    pub snapshot: SyncSnapshot,
}
