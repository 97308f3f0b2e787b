//! The store: images, layers and build cache on disk, shared by many processes.
//!
//! The root is an OCI image layout (`oci-layout`, `index.json`, `blobs/`), so that other tools can read it, and beside it:
//!
//! | path | what |
//! |---|---|
//! | `layers/<diff ID>[.<owners>]/` | an unpacked layer: `fs`, and what the unpacker keeps beside it |
//! | `diffs/<diff ID>.json` | which blobs hold a layer |
//! | `cache/<hash of key>.json` | build cache records |
//! | `leases/<id>` | a file that a running process keeps locked |
//! | `tmp/<lease>/` | what that process is making |
//! | `mounts/<hash of id>[.<owners>]/` | the directory of a cache mount: `fs` |
//! | `containers/<name>/` | a working container: `container.json`, and what its users keep beside it |
//! | `locks/<hash of name>` | locked by who does what is to be done once: fetching a layer, changing a cache |
//! | `gc.lock`, `index.lock` | held for moments |
//!
//! Everything is written under a temporary name and renamed, so that a process may be killed at any point and nobody sees
//! half a file. Nothing is synced: after a power cut a blob may be torn, which reading it finds out, since every read is
//! verified. A collection removes only what nothing refers to and no running process has touched since it started; that
//! compares times of one file server, so it is right on NFS too. Locks are `flock`, which Linux passes on to an NFS
//! server; where there are no locks, opening the store fails.
//!
//! The `ocidir` crate writes such layouts too, but it needs OpenSSL and knows neither leases nor several writers.

mod atomic;
mod background;
mod blobs;
mod cache;
mod containers;
mod gc;
mod images;
mod lease;
mod names;
mod packed;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use atomic::unique_name;
pub use blobs::{BlobWriter, LayerBlob};
pub use cache::CacheRecord;
pub use gc::{GcReport, Prune, remove_tree};
pub use images::{Image, ImageLayer, ImageSummary};
pub use lease::Lease;
pub use names::NamedLock;

use crate::config::ConfigError;
use crate::digest::{DiffId, Digest};
use crate::manifest::ManifestError;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed; no space and no permission come this way.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// The file system has no locks, so several processes could destroy each other's work.
    #[error("cannot lock `{}`: the file system has no locks; put the store on another one", path.display())]
    NoLocks {
        /// The lock file.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// A file of the store is not what it should be.
    #[error("store file `{}` is corrupt", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: serde_json::Error,
    },
    /// A record could not be written as JSON.
    #[error("cannot write `{}` as JSON", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: serde_json::Error,
    },
    /// The root is a layout of a version that is not known.
    #[error("`{}` is an image layout of version {version:?}; only 1.0.0 is known", path.display())]
    Version {
        /// The root.
        path: PathBuf,
        /// What it says.
        version: String,
    },
    /// A blob is not there.
    #[error("store has no blob {0}")]
    NoBlob(Digest),
    /// No blob holds a layer.
    #[error("store has no content of layer {0}")]
    NoLayer(DiffId),
    /// No image has this name or identifier.
    #[error("no such image: {0}")]
    NoImage(String),
    /// Several images have an identifier that begins this way.
    #[error("several images have an identifier that begins with {0}")]
    Ambiguous(String),
    /// Configuration, manifest and layers of an image do not fit each other.
    #[error("parts of an image do not fit each other: {0}")]
    Inconsistent(&'static str),
    /// An image has no usable configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An image has no usable manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io { action, path, source }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// A store. Cheap to clone; holds no open file and no state but its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
    /// Follows the names of directories whose files have owners.
    owners: String,
}

const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";

/// The directory of a store in which a process makes what it publishes then.
pub const TMP: &str = "tmp";
/// The directory of a store for attributes of unpacked files that its file system does not keep; made by who needs it.
pub const ATTRIBUTES: &str = "attributes";

impl Store {
    /// Opens the store, and makes it first where there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NoLocks`], [`StoreError::Version`] or [`StoreError::Json`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Store, StoreError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Layout {
            image_layout_version: String,
        }
        let store = Store { root: root.into(), owners: String::new() };
        for dir in ["blobs/sha256", "layers", "diffs", "cache", "leases", "locks", "mounts", TMP] {
            let path = store.root.join(dir);
            std::fs::create_dir_all(&path).map_err(StoreError::io("create directory", &path))?;
        }
        let layout = store.root.join("oci-layout");
        match atomic::read_json::<Layout>(&layout)? {
            Some(found) if found.image_layout_version == "1.0.0" => {}
            Some(found) => {
                return Err(StoreError::Version { path: store.root, version: found.image_layout_version });
            }
            None => {
                let _shared = store.gc_shared()?;
                atomic::write(&store.root, &layout, LAYOUT.as_bytes())?;
            }
        }
        Ok(store)
    }

    /// The same store for a process that keeps owners of files in a way of its own: with other ids in its user namespace,
    /// or as records beside the files. Unpacked layers and cache mounts of one way are of no use to another, so each has
    /// its own; `owners` (letters and digits) tells them apart.
    #[must_use]
    pub fn with_owners(self, owners: &str) -> Store {
        let owners = if owners.is_empty() { String::new() } else { format!(".{owners}") };
        Store { owners, ..self }
    }

    /// The directory the store lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts a lease: while it lives, what is put, held or staged with it is safe from collections.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::NoLocks`].
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Lease::new(self)
    }

    fn gc_shared(&self) -> Result<atomic::Lock, StoreError> {
        atomic::Lock::shared(&self.root.join("gc.lock"))
    }

    /// Where an unpacked layer lies, or would lie. Beside `fs` it may hold whatever the unpacker put there.
    pub fn layer_dir(&self, diff_id: &DiffId) -> PathBuf {
        self.root.join("layers").join(format!("{}{}", file_name(diff_id.digest()), self.owners))
    }

    /// The root of an unpacked layer's files (`…/fs`), if it is unpacked. Hold it with [`Lease::hold_layer`] to use it.
    pub fn unpacked(&self, diff_id: &DiffId) -> Option<PathBuf> {
        let path = self.layer_dir(diff_id).join("fs");
        path.symlink_metadata().is_ok_and(|meta| meta.is_dir()).then_some(path)
    }

    /// Publishes an unpacked layer: `staged`, a directory from [`Lease::stage_dir`] with the files in `fs`, becomes the
    /// layer. If another process was first, its layer stands and `staged` is left for the lease's end.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish_unpacked(&self, diff_id: &DiffId, staged: &Path) -> Result<PathBuf, StoreError> {
        self.publish_dir(&self.layer_dir(diff_id), staged, "publish unpacked layer")
    }

    /// Gives a staged directory with `fs` in it its place, unless another process was first.
    fn publish_dir(&self, target: &Path, staged: &Path, action: &'static str) -> Result<PathBuf, StoreError> {
        let shared = self.gc_shared()?;
        let renamed = std::fs::rename(staged, target);
        let published = target.join("fs");
        match renamed {
            Ok(()) => {}
            Err(_) if published.is_dir() => {}
            Err(e) => return Err(StoreError::io(action, target)(e)),
        }
        // The rename keeps the time of the directory's last change, which may be long ago.
        atomic::touch(target)?;
        drop(shared);
        Ok(published)
    }
}

/// A digest as the name of a file. SHA-512 digits are told from SHA-256 ones by their number.
fn file_name(digest: &Digest) -> &str {
    digest.hex()
}

#[cfg(test)]
pub(crate) mod tests;
