//! Images: what `index.json` names, and configurations without a manifest, which the legacy builder leaves for every step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use time::OffsetDateTime;

use super::atomic;
use super::{LayerBlob, Lease, Store, StoreError};
use crate::config::ImageConfig;
use crate::digest::{DiffId, Digest, ImageId};
use crate::json;
use crate::manifest::{Descriptor, ImageManifest, Index, Manifest, annotation, media_type};
use crate::reference::{DockerVersion, Reference};

/// The annotation that keeps an entry's image identifier, so that manifests need not be read to find it.
const IMAGE_ID: &str = "org.rbuild.image.id";
/// The annotation that keeps the digest an image was pulled by: that of the index, if there was one.
const PULLED: &str = "org.rbuild.pulled.digest";

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Its identifier.
    pub diff_id: DiffId,
    /// The blobs that hold it; perhaps none, if it is only unpacked.
    pub blobs: Vec<LayerBlob>,
    /// The root of its unpacked files.
    pub unpacked: Option<PathBuf>,
}

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration.
    pub id: ImageId,
    /// The configuration as it is stored.
    pub config_bytes: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// The names it has, sorted.
    pub references: Vec<Reference>,
    /// The manifest it is listed with; none for one that only the cache knows.
    pub manifest: Option<Manifest>,
}

/// An image as a list shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSummary {
    /// The digest of its configuration.
    pub id: ImageId,
    /// The names it has, sorted; none for a dangling one.
    pub references: Vec<Reference>,
    /// The names with digests it was pulled by, sorted.
    pub pulled: Vec<Reference>,
    /// The digests of its manifests.
    pub digests: Vec<Digest>,
    /// When it was made.
    pub created: Option<OffsetDateTime>,
    /// The bytes of its layers: tars where their size is known, else blobs.
    pub size: u64,
}

fn named(entry: &Descriptor) -> Option<Reference> {
    Reference::parse_normalized(entry.annotations.get(annotation::IMAGE_NAME)?, DockerVersion::V28).ok()
}

impl Store {
    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    /// The index as it is now.
    pub(super) fn index(&self) -> Result<Index, StoreError> {
        Ok(atomic::read_json(&self.index_path())?.unwrap_or_else(|| Index::new(media_type::OCI_INDEX, Vec::new())))
    }

    /// Changes the index while nobody else does.
    fn change_index<T>(
        &self,
        change: impl FnOnce(&mut Vec<Descriptor>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _shared = self.gc_shared()?;
        self.change_index_locked(change)
    }

    /// As `change_index`, for who holds a lock of collections already.
    pub(super) fn change_index_locked<T>(
        &self,
        change: impl FnOnce(&mut Vec<Descriptor>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _lock = atomic::Lock::exclusive(&self.root.join("index.lock"))?;
        let mut index = self.index()?;
        let before = index.manifests.clone();
        let result = change(&mut index.manifests)?;
        if index.manifests != before || !self.index_path().exists() {
            atomic::write(&self.root, &self.index_path(), &index.to_bytes()?)?;
        }
        Ok(result)
    }

    /// The image an entry of the index stands for; none for an index of several platforms.
    fn entry_image(&self, entry: &Descriptor) -> Result<Option<ImageId>, StoreError> {
        if let Some(id) = entry.annotations.get(IMAGE_ID).and_then(|text| text.parse().ok()) {
            return Ok(Some(id));
        }
        match self.manifest(&entry.digest, Some(&entry.media_type)) {
            Ok(manifest) => Ok(manifest.image().map(|image| ImageId(image.config.digest.clone()))),
            Err(StoreError::NoBlob(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A manifest that the store holds.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::Io`] or [`StoreError::Manifest`].
    pub fn manifest(&self, digest: &Digest, media_type: Option<&str>) -> Result<Manifest, StoreError> {
        Ok(Manifest::parse(self.read_blob(digest)?, media_type)?)
    }

    /// The configuration of an image: bytes and meaning.
    pub(super) fn config(&self, id: &ImageId) -> Result<(Vec<u8>, ImageConfig), StoreError> {
        let bytes = self.read_blob(id.digest()).map_err(|e| match e {
            StoreError::NoBlob(_) => StoreError::NoImage(id.to_string()),
            e => e,
        })?;
        let config = ImageConfig::parse(&bytes)?;
        if config.rootfs.get().is_none() {
            return Err(crate::config::ConfigError::NoRootfs.into());
        }
        Ok((bytes, config))
    }

    /// Stores an image whose layers' blobs are stored, or unpacked, already. `blobs` are those of the configuration's
    /// layers, in order, or empty if nothing is to be said of them.
    ///
    /// With a manifest the image is listed, without a name; without one it is known by its identifier only, and kept as
    /// long as a cache record or the lease does. [`Store::tag`] gives it a name either way.
    ///
    /// # Errors
    /// [`StoreError::Inconsistent`] if the parts do not fit, [`StoreError::Config`], or [`StoreError::Io`].
    pub fn put_image(
        &self,
        lease: &Lease,
        config: &[u8],
        manifest: Option<&Manifest>,
        blobs: &[LayerBlob],
    ) -> Result<ImageId, StoreError> {
        let parsed = ImageConfig::parse(config)?;
        if parsed.rootfs.get().is_none() {
            return Err(crate::config::ConfigError::NoRootfs.into());
        }
        let id = ImageConfig::id_of(config);
        if !blobs.is_empty() && blobs.len() != parsed.diff_ids().len() {
            return Err(StoreError::Inconsistent("the configuration names another number of layers"));
        }
        if let Some(manifest) = manifest {
            let image = manifest.image().ok_or(StoreError::Inconsistent("the manifest is not an image's"))?;
            if image.config.digest != *id.digest() {
                return Err(StoreError::Inconsistent("the manifest names another configuration"));
            }
            if image.layers.len() != parsed.diff_ids().len() {
                return Err(StoreError::Inconsistent("manifest and configuration differ in the number of layers"));
            }
        }
        for (diff_id, blob) in parsed.diff_ids().iter().zip(blobs) {
            self.add_diff_blob(diff_id, blob)?;
        }
        self.put_blob(lease, config)?;
        if let Some(manifest) = manifest {
            self.put_blob(lease, manifest.bytes())?;
            let entry = self.entry(manifest, &id, &parsed);
            self.change_index(|entries| {
                if !entries.iter().any(|known| known.digest == entry.digest) {
                    entries.push(entry);
                }
                Ok(())
            })?;
        }
        Ok(id)
    }

    fn entry(&self, manifest: &Manifest, id: &ImageId, config: &ImageConfig) -> Descriptor {
        let mut entry = manifest.descriptor();
        entry.annotations.insert(IMAGE_ID.to_owned(), id.to_string());
        let platform = config.platform();
        entry.platform = (!platform.os.is_empty()).then_some(platform);
        entry
    }

    /// Gives an image a name, taking it from any other image, which stays, perhaps without a name. An image without a
    /// manifest gets one, of its layers' blobs.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::NoLayer`] for a layer that no blob holds, or [`StoreError::Io`].
    pub fn tag(&self, lease: &Lease, id: &ImageId, name: &Reference) -> Result<(), StoreError> {
        self.tag_pulled(lease, id, name, None)
    }

    /// As [`Store::tag`], remembering the digest by which a registry knows what was pulled: the index's if there was one.
    ///
    /// # Errors
    /// As [`Store::tag`].
    pub fn tag_pulled(
        &self,
        lease: &Lease,
        id: &ImageId,
        name: &Reference,
        pulled: Option<&Digest>,
    ) -> Result<(), StoreError> {
        if !lease.hold_image(id)? {
            return Err(StoreError::NoImage(id.to_string()));
        }
        let template = match self.entry_of(id)? {
            Some(entry) => entry,
            None => {
                let manifest = self.synthesise_manifest(id)?;
                self.put_blob(lease, manifest.bytes())?;
                self.entry(&manifest, id, &self.config(id)?.1)
            }
        };
        let mut name = name.clone();
        if name.tag().is_none() && name.digest().is_none() {
            name = name.or_latest();
        }
        let canonical = name.to_string();
        self.change_index(|entries| {
            let mut entry = template;
            let at = entries.iter().position(|e| e.annotations.get(annotation::IMAGE_NAME) == Some(&canonical));
            // The manifest by which it was pulled stays the one it is known by.
            entry.annotations.remove(PULLED);
            if let Some(pulled) = pulled {
                entry.annotations.insert(PULLED.to_owned(), pulled.to_string());
            }
            entry.annotations.insert(annotation::IMAGE_NAME.to_owned(), canonical.clone());
            entry
                .annotations
                .insert(annotation::REF_NAME.to_owned(), name.tag().map_or_else(|| canonical.clone(), str::to_owned));
            let image = |e: &Descriptor| e.annotations.get(IMAGE_ID).cloned();
            // A nameless entry of the same manifest has served its purpose.
            let old = at.map(|at| entries.remove(at));
            entries.retain(|e| e.digest != entry.digest || e.annotations.contains_key(annotation::IMAGE_NAME));
            if let Some(mut old) = old
                && image(&old) != image(&entry)
                && !entries.iter().any(|e| image(e) == image(&old))
            {
                for key in [annotation::IMAGE_NAME, annotation::REF_NAME, PULLED] {
                    old.annotations.remove(key);
                }
                entries.push(old);
            }
            entries.push(entry);
            entries.sort_by(|a, b| {
                a.annotations.get(annotation::IMAGE_NAME).cmp(&b.annotations.get(annotation::IMAGE_NAME))
            });
            Ok(())
        })
    }

    /// Lists an image without giving it a name, unless it is listed already: it will show as dangling, and stay.
    ///
    /// # Errors
    /// As [`Store::tag`].
    pub fn keep(&self, lease: &Lease, id: &ImageId) -> Result<(), StoreError> {
        if !lease.hold_image(id)? {
            return Err(StoreError::NoImage(id.to_string()));
        }
        if self.entry_of(id)?.is_some() {
            return Ok(());
        }
        let manifest = self.synthesise_manifest(id)?;
        self.put_blob(lease, manifest.bytes())?;
        let entry = self.entry(&manifest, id, &self.config(id)?.1);
        self.change_index(|entries| {
            if !entries.iter().any(|known| known.digest == entry.digest) {
                entries.push(entry);
            }
            Ok(())
        })
    }

    fn entry_of(&self, id: &ImageId) -> Result<Option<Descriptor>, StoreError> {
        for entry in self.index()?.manifests {
            if self.entry_image(&entry)?.as_ref() == Some(id) {
                let mut entry = entry;
                entry.annotations.insert(IMAGE_ID.to_owned(), id.to_string());
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// A manifest of an image's configuration and its layers' blobs, plain ones if there are.
    pub(super) fn synthesise_manifest(&self, id: &ImageId) -> Result<Manifest, StoreError> {
        let (bytes, config) = self.config(id)?;
        let mut layers = Vec::new();
        for diff_id in config.diff_ids() {
            let blobs = self.diff_blobs(diff_id)?;
            let plain = blobs.iter().find(|blob| blob.digest == *diff_id.digest());
            let blob = plain.or(blobs.first()).ok_or_else(|| StoreError::NoLayer(diff_id.clone()))?;
            let mut layer = blob.descriptor();
            // An OCI manifest with Docker's layer types is not valid.
            if let Some(text) = media_type::Family::Oci.layer(media_type::compression(&layer.media_type)) {
                layer.media_type = text.to_owned();
            }
            layers.push(layer);
        }
        let config = Descriptor::of(media_type::OCI_CONFIG, &bytes);
        let manifest = ImageManifest::new(media_type::OCI_MANIFEST, config, layers);
        Ok(Manifest::parse(manifest.to_bytes()?, None)?)
    }

    /// Takes a name away; the image it named. Without another name the image is no longer listed, and the next collection
    /// removes what only it used.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] or [`StoreError::Io`].
    pub fn untag(&self, name: &Reference) -> Result<ImageId, StoreError> {
        let canonical = name.clone().or_latest().to_string();
        let entry = self.change_index(|entries| {
            let at = entries
                .iter()
                .position(|e| e.annotations.get(annotation::IMAGE_NAME) == Some(&canonical))
                .ok_or_else(|| StoreError::NoImage(name.familiar()))?;
            Ok(entries.remove(at))
        })?;
        self.entry_image(&entry)?.ok_or_else(|| StoreError::NoImage(name.familiar()))
    }

    /// Takes an image off the list, with all its names, which are returned.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] or [`StoreError::Io`].
    pub fn remove_image(&self, id: &ImageId) -> Result<Vec<Reference>, StoreError> {
        self.change_index(|entries| {
            let (mut gone, mut kept) = (Vec::new(), Vec::new());
            for entry in entries.drain(..) {
                if self.entry_image(&entry)?.as_ref() == Some(id) { gone.push(entry) } else { kept.push(entry) }
            }
            *entries = kept;
            if gone.is_empty() {
                return Err(StoreError::NoImage(id.to_string()));
            }
            Ok(gone.iter().filter_map(named).collect())
        })
    }

    /// Finds an image by name, name with digest, identifier, or beginning of an identifier, in Docker's order.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::Ambiguous`] or [`StoreError::Io`].
    pub fn resolve(&self, text: &str) -> Result<ImageId, StoreError> {
        let full =
            if text.len() == 64 { text.parse().or_else(|_| format!("sha256:{text}").parse()) } else { text.parse() };
        if let Ok(digest) = full {
            return self.resolve_digest(&digest, text);
        }
        if let Ok(name) = Reference::parse_normalized(text, DockerVersion::V28)
            && let Some(id) = self.resolve_reference(&name.or_latest())?
        {
            return Ok(id);
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(StoreError::NoImage(text.to_owned()));
        }
        let mut found = BTreeSet::new();
        let dir = self.root.join("blobs/sha256");
        for entry in std::fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let name = entry.map_err(StoreError::io("list", &dir))?.file_name();
            let Some(digest) =
                name.to_str().filter(|n| n.starts_with(prefix)).and_then(|n| Digest::from_sha256_hex(n).ok())
            else {
                continue;
            };
            // Most blobs are layers: those that begin like JSON and are small may be configurations.
            let small = self.blob_size(&digest)?.is_some_and(|size| size <= json::DOCUMENT_MAX);
            if small && self.config(&ImageId(digest.clone())).is_ok() {
                found.insert(ImageId(digest));
            }
        }
        match (found.pop_first(), found.is_empty()) {
            (Some(id), true) => Ok(id),
            (Some(_), false) => Err(StoreError::Ambiguous(text.to_owned())),
            (None, _) => Err(StoreError::NoImage(text.to_owned())),
        }
    }

    fn resolve_digest(&self, digest: &Digest, text: &str) -> Result<ImageId, StoreError> {
        for entry in self.index()?.manifests {
            let pulled = entry.annotations.get(PULLED).is_some_and(|p| p == digest.as_str());
            if (entry.digest == *digest || pulled)
                && let Some(id) = self.entry_image(&entry)?
            {
                return Ok(id);
            }
        }
        let id = ImageId(digest.clone());
        match self.config(&id) {
            Ok(_) => Ok(id),
            Err(StoreError::NoImage(_) | StoreError::Config(_)) => Err(StoreError::NoImage(text.to_owned())),
            Err(e) => Err(e),
        }
    }

    /// Finds an image by its name, exactly; with a digest, whatever its tag.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Json`].
    pub fn resolve_reference(&self, name: &Reference) -> Result<Option<ImageId>, StoreError> {
        let canonical = name.to_string();
        for entry in self.index()?.manifests {
            let matches = match name.digest() {
                Some(digest) => named(&entry).is_some_and(|known| {
                    known.name() == name.name()
                        && (entry.digest == *digest
                            || known.digest() == Some(digest)
                            || entry.annotations.get(PULLED).is_some_and(|p| p == digest.as_str()))
                }),
                None => entry.annotations.get(annotation::IMAGE_NAME) == Some(&canonical),
            };
            if matches && let Some(id) = self.entry_image(&entry)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// All listed images, newest first.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Json`].
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let mut images: BTreeMap<ImageId, ImageSummary> = BTreeMap::new();
        for entry in self.index()?.manifests {
            let Some(id) = self.entry_image(&entry)? else {
                continue;
            };
            let summary = match images.entry(id.clone()) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    // Another process may just be removing it.
                    let Ok((_, config)) = self.config(&id) else {
                        continue;
                    };
                    let mut size = 0;
                    for diff_id in config.diff_ids() {
                        let blobs = self.diff_blobs(diff_id)?;
                        let tar = blobs.iter().find_map(|b| b.tar_size);
                        size += tar.or(blobs.first().map(|b| b.size)).unwrap_or(0);
                    }
                    place.insert(ImageSummary {
                        id,
                        references: Vec::new(),
                        pulled: Vec::new(),
                        digests: Vec::new(),
                        created: config.created_time(),
                        size,
                    })
                }
            };
            let name = named(&entry);
            let pulled: Option<Digest> = entry.annotations.get(PULLED).and_then(|p| p.parse().ok());
            if let (Some(name), Some(pulled)) = (&name, pulled) {
                summary.pulled.push(name.without_version().with_digest(pulled));
            }
            summary.references.extend(name);
            if !summary.digests.contains(&entry.digest) {
                summary.digests.push(entry.digest);
            }
        }
        let mut list: Vec<ImageSummary> = images.into_values().collect();
        for summary in &mut list {
            summary.references.sort();
            summary.pulled.sort();
            summary.pulled.dedup();
        }
        list.sort_by_key(|summary| std::cmp::Reverse(summary.created));
        Ok(list)
    }

    /// An image, listed or not.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::Config`] or [`StoreError::Io`].
    pub fn image(&self, id: &ImageId) -> Result<Image, StoreError> {
        let (config_bytes, config) = self.config(id)?;
        let mut layers = Vec::with_capacity(config.diff_ids().len());
        for diff_id in config.diff_ids() {
            layers.push(ImageLayer {
                diff_id: diff_id.clone(),
                blobs: self.diff_blobs(diff_id)?,
                unpacked: self.unpacked(diff_id),
            });
        }
        let (mut references, mut manifest) = (Vec::new(), None);
        for entry in self.index()?.manifests {
            if self.entry_image(&entry)?.as_ref() == Some(id) {
                references.extend(named(&entry));
                if manifest.is_none() {
                    manifest = match self.manifest(&entry.digest, Some(&entry.media_type)) {
                        Ok(found) => Some(found),
                        // Another process is removing the image from the list.
                        Err(StoreError::NoBlob(_)) => None,
                        Err(e) => return Err(e),
                    };
                }
            }
        }
        references.sort();
        Ok(Image { id: id.clone(), config_bytes, config, layers, references, manifest })
    }

    /// The manifest of an image: the one it is listed with, else one made of its layers' blobs.
    ///
    /// # Errors
    /// As [`Store::image`], and [`StoreError::NoLayer`].
    pub fn image_manifest(&self, id: &ImageId) -> Result<Manifest, StoreError> {
        match self.entry_of(id)? {
            Some(entry) => self.manifest(&entry.digest, Some(&entry.media_type)),
            None => self.synthesise_manifest(id),
        }
    }
}
