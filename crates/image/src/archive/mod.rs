//! Archives of images: docker-archive (`docker save`), OCI archives and OCI directories, written and read.
//!
//! A docker-archive is written as Docker 28 does, an OCI layout with `manifest.json` and `repositories` in it, which
//! `docker load` of 20.10 takes too. What is written depends on the images alone: all times are 1970.
//!
//! Reading trusts nothing: names in an archive are compared, never used as paths on disk; tables are bounded; every blob
//! is checked against the digest that names it and every layer against its diff ID.

mod read;
mod write;

use std::path::PathBuf;

pub use read::{Loaded, load, load_dir};
pub use write::{ToSave, save_docker, save_oci, save_oci_dir};

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::store::StoreError;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The tar of the archive is at fault.
    #[error("cannot {action} archive")]
    Tar {
        /// `read` or `write`.
        action: &'static str,
        /// The fault.
        source: LayerError,
    },
    /// A file of an OCI directory, or the stream, is at fault.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The fault.
        source: std::io::Error,
    },
    /// The store is at fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table of the archive is no JSON of the right form.
    #[error("`{name}` of the archive is not valid")]
    Json {
        /// Its name in the archive.
        name: String,
        /// The fault.
        source: serde_json::Error,
    },
    /// A manifest of the archive cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A table names what is not there.
    #[error("archive has no `{0}`")]
    Missing(String),
    /// The stream holds neither `manifest.json` nor `index.json`.
    #[error("not an archive of images: neither `manifest.json` nor `index.json` is in it")]
    NotImages,
    /// No image is for the platform, or none was selected.
    #[error("archive has no image that fits")]
    NoImage,
    /// A blob has not the content its name says.
    #[error("`{name}` of the archive has digest {actual}")]
    Mismatch {
        /// Its name in the archive.
        name: String,
        /// The digest of what is there.
        actual: Digest,
    },
    /// A layer is not the one that the configuration names.
    #[error("`{name}` of the archive is not layer {diff_id}")]
    WrongLayer {
        /// Its name in the archive.
        name: String,
        /// The layer it should be.
        diff_id: DiffId,
        /// The fault.
        source: std::io::Error,
    },
    /// Configuration and layers differ in number, or a manifest of an index is no image's.
    #[error("archive is inconsistent: {0}")]
    Inconsistent(&'static str),
    /// More entries than any archive of images has.
    #[error("archive has too many entries")]
    TooMany,
}

/// One image in `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion": "1.0.0"}"#;

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

#[cfg(test)]
mod tests;
