//! Blobs, and which of them hold a layer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::atomic;
use super::background::HashedFile;
use super::{Lease, Store, StoreError};
use crate::digest::{DiffId, Digest, VerifiedReader};
use crate::json;
use crate::manifest::Descriptor;

/// A blob that holds a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerBlob {
    /// Tar and compression, as in a manifest.
    pub media_type: String,
    /// The blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// The size of the tar within, in bytes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar_size: Option<u64>,
}

impl LayerBlob {
    /// A descriptor for a manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest.clone(), self.size)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct DiffRecord {
    blobs: Vec<LayerBlob>,
}

/// Writes a new blob; it appears in the store with [`BlobWriter::commit`], and never if that is not called.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    temporary: PathBuf,
    inner: Option<HashedFile>,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.inner.as_ref().map_or(0, HashedFile::size)
    }

    /// Publishes the blob, and returns its digest and size.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn commit(mut self) -> Result<(Digest, u64), StoreError> {
        let Some(inner) = self.inner.take() else {
            return Err(StoreError::Inconsistent("a blob was committed twice"));
        };
        let (digest, size) = inner.finish().map_err(StoreError::io("write", &self.temporary))?;
        let path = self.store.blob_path(&digest);
        std::fs::rename(&self.temporary, &path).map_err(StoreError::io("write blob", &path))?;
        Ok((digest, size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Some(inner) => inner.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        self.inner = None;
        // Gone already after a commit.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

impl Store {
    /// Starts a blob.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn blob_writer(&self, lease: &Lease) -> Result<BlobWriter, StoreError> {
        let temporary = lease.dir().join(format!("blob-{}", atomic::unique_name()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(StoreError::io("create", &temporary))?;
        Ok(BlobWriter { store: self.clone(), temporary, inner: Some(HashedFile::new(file)) })
    }

    /// Stores a small blob.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_blob(&self, lease: &Lease, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if lease.hold_blob(&digest)? && self.blob_size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.blob_writer(lease)?;
        writer.write_all(bytes).map_err(StoreError::io("write blob", self.blob_path(&digest)))?;
        writer.commit().map(|(digest, _)| digest)
    }

    /// Stores what a reader yields if it has this digest and size, else nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`]; a wrong digest or size is one of kind `InvalidData` ([`VerifiedReader`]).
    pub fn put_blob_from(
        &self,
        lease: &Lease,
        reader: impl Read,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<u64, StoreError> {
        let mut writer = self.blob_writer(lease)?;
        io::copy(&mut VerifiedReader::new(reader, digest.clone(), size), &mut writer)
            .map_err(StoreError::io("write blob", self.blob_path(digest)))?;
        let (written, size) = writer.commit()?;
        if written != *digest {
            return Err(StoreError::Inconsistent("a blob of a digest other than sha256 cannot be stored"));
        }
        Ok(size)
    }

    /// The size of a blob; nothing if there is none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("look at", path)(e)),
        }
    }

    /// Opens a blob for reading; its content is verified at the end of file.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] or [`StoreError::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<VerifiedReader<File>, StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(VerifiedReader::new(file, digest.clone(), None)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::NoBlob(digest.clone())),
            Err(e) => Err(StoreError::io("open blob", path)(e)),
        }
    }

    /// Reads a small blob, verified: a configuration or a manifest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] or [`StoreError::Io`].
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        json::read_document(self.open_blob(digest)?).map_err(StoreError::io("read blob", self.blob_path(digest)))
    }

    /// Says that a blob holds a layer. Several may: compressed in one way and another.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Json`].
    pub fn add_diff_blob(&self, diff_id: &DiffId, blob: &LayerBlob) -> Result<(), StoreError> {
        let path = self.diff_path(diff_id);
        let _shared = self.gc_shared()?;
        let _lock = atomic::Lock::exclusive(&self.root.join("index.lock"))?;
        let mut record: DiffRecord = atomic::read_json(&path)?.unwrap_or_default();
        match record.blobs.iter_mut().find(|known| known.digest == blob.digest) {
            Some(known) if known == blob => {
                atomic::touch(&path)?;
                return Ok(());
            }
            Some(known) => *known = LayerBlob { tar_size: blob.tar_size.or(known.tar_size), ..blob.clone() },
            None => record.blobs.push(blob.clone()),
        }
        let bytes = json::to_go_bytes(&record).map_err(|source| StoreError::Encode { path: path.clone(), source })?;
        atomic::write(&self.root, &path, &bytes)
    }

    /// Removes a blob whose content is not what its name says, as a power cut leaves it; whoever needs it fetches or
    /// makes it again. A blob that is sound stays.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_if_torn(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        let checked = match self.open_blob(digest) {
            Ok(reader) => reader.finish(),
            Err(StoreError::NoBlob(_)) => return Ok(false),
            Err(e) => return Err(e),
        };
        match checked {
            Ok(_) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                Ok(true)
            }
            Err(e) => Err(StoreError::io("read blob", &path)(e)),
        }
    }

    /// The blobs that hold a layer and are there.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Json`].
    pub fn diff_blobs(&self, diff_id: &DiffId) -> Result<Vec<LayerBlob>, StoreError> {
        let record: DiffRecord = atomic::read_json(&self.diff_path(diff_id))?.unwrap_or_default();
        let mut there = Vec::with_capacity(record.blobs.len());
        for blob in record.blobs {
            if self.blob_size(&blob.digest)? == Some(blob.size) {
                there.push(blob);
            }
        }
        Ok(there)
    }

    /// Opens a layer's tar, decompressed and verified: reading it to the end checks that it is this layer. The plain
    /// blob is taken if there is one.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] or [`StoreError::Io`].
    pub fn open_layer(&self, diff_id: &DiffId) -> Result<impl Read + Send + use<>, StoreError> {
        let blobs = self.diff_blobs(diff_id)?;
        let plain = blobs.iter().find(|blob| blob.digest == *diff_id.digest());
        let blob = plain.or(blobs.first()).ok_or_else(|| StoreError::NoLayer(diff_id.clone()))?;
        self.open_layer_in(&blob.digest, diff_id)
    }

    /// As [`Store::open_layer`], from a certain blob, whether or not it is known to hold the layer.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open_layer_in(&self, blob: &Digest, diff_id: &DiffId) -> Result<impl Read + Send + use<>, StoreError> {
        let path = self.blob_path(blob);
        let file = File::open(&path).map_err(StoreError::io("open blob", &path))?;
        let decoder = crate::compression::decoder(file).map_err(StoreError::io("read blob", &path))?;
        Ok(VerifiedReader::new(decoder, diff_id.digest().clone(), None))
    }
}
