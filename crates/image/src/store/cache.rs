//! Build cache records.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::atomic;
use super::{Store, StoreError};
use crate::digest::{DiffId, Digest, ImageId};
use crate::json;

/// A record of the build cache. What it refers to is kept as long as the record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The key, in full.
    pub key: String,
    /// Images it refers to, with all their layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageId>,
    /// Layers it refers to, packed and unpacked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<DiffId>,
    /// Other blobs it refers to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// Whatever else the builder wants to find again.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl Store {
    fn cache_path(&self, key: &str) -> PathBuf {
        self.root.join("cache").join(format!("{}.json", Digest::of(key.as_bytes()).hex()))
    }

    /// The record of a key. One that cannot be read is none: the cache may be lost at any time.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn cache_get(&self, key: &str) -> Result<Option<CacheRecord>, StoreError> {
        let path = self.cache_path(key);
        match atomic::read_json::<CacheRecord>(&path) {
            Ok(Some(record)) if record.key == key => {
                // Being used, it is younger than what was not.
                let _shared = self.gc_shared()?;
                atomic::touch(&path)?;
                Ok(Some(record))
            }
            Ok(_) | Err(StoreError::Json { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Puts a record in place of any other of its key.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn cache_put(&self, record: &CacheRecord) -> Result<(), StoreError> {
        let path = self.cache_path(&record.key);
        let bytes = json::to_go_bytes(record).map_err(|source| StoreError::Encode { path: path.clone(), source })?;
        let _shared = self.gc_shared()?;
        atomic::write(&self.root, &path, &bytes)
    }

    /// Removes a record; whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn cache_remove(&self, key: &str) -> Result<bool, StoreError> {
        let path = self.cache_path(key);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(StoreError::io("remove", path)(e)),
        }
    }

    /// All records with the time of their last use, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn cache_list(&self) -> Result<Vec<(SystemTime, CacheRecord)>, StoreError> {
        let dir = self.root.join("cache");
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let entry = entry.map_err(StoreError::io("list", &dir))?;
            // A record may go while the list is made.
            let Ok(time) = entry.metadata().and_then(|meta| meta.modified()) else {
                continue;
            };
            match atomic::read_json::<CacheRecord>(&entry.path()) {
                Ok(Some(record)) => all.push((time, record)),
                Ok(None) | Err(StoreError::Json { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.key.cmp(&b.1.key)));
        Ok(all)
    }
}
