//! Reading archives into the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{ArchiveError, DockerEntry, blob_name};
use crate::compression;
use crate::config::ImageConfig;
use crate::digest::{DiffId, Digest, ImageId, VerifiedReader};
use crate::json;
use crate::layer::{Kind, LayerReader};
use crate::manifest::media_type::Family;
use crate::manifest::{Descriptor, Index, Manifest, ManifestKind, annotation};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{LayerBlob, Lease, Store, StoreError};

/// More entries than this no archive of images has; they are kept in memory while it is read.
const ENTRIES_MAX: usize = 1 << 16;
/// Longer names than this no archive of images has.
const NAME_MAX: usize = 4096;

/// An image that was read into the store. It is not given its names there: that is for the caller, [`Store::tag`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The image.
    pub id: ImageId,
    /// The names it has in the archive.
    pub references: Vec<Reference>,
    /// The digest of its manifest in an OCI layout.
    pub manifest: Option<Digest>,
    /// What an OCI layout calls it (`org.opencontainers.image.ref.name`), which may be a tag alone.
    pub ref_name: Option<String>,
}

/// What a name in a tar stands for.
enum Member {
    Blob(Digest, u64),
    /// Old archives link equal layers to one another.
    Link(String),
}

/// Where blobs named by digest come from.
trait Source {
    /// Brings a blob into the store, verified.
    fn fetch(&mut self, descriptor: &Descriptor) -> Result<(), ArchiveError>;
}

/// Reads a docker-archive or OCI archive, however compressed, into the store. Of an image for several platforms the one
/// for `platform` is taken.
///
/// # Errors
/// [`ArchiveError`]; the store then has at most blobs that nothing refers to.
pub fn load(store: &Store, lease: &Lease, reader: impl Read, platform: &Platform) -> Result<Vec<Loaded>, ArchiveError> {
    let stream = |source| ArchiveError::Io { action: "read", path: PathBuf::from("archive"), source };
    let tar = |source| ArchiveError::Tar { action: "read", source };
    let decoder = compression::decoder(reader).map_err(stream)?;
    let mut archive = LayerReader::new(decoder);
    let mut members: BTreeMap<String, Member> = BTreeMap::new();
    let (mut docker, mut index) = (None, None);
    while let Some(entry) = archive.next_entry().map_err(tar)? {
        let Some(name) = clean(&entry.path) else {
            continue;
        };
        if members.len() >= ENTRIES_MAX || name.len() > NAME_MAX {
            return Err(ArchiveError::TooMany);
        }
        match entry.kind {
            Kind::File { .. } if name == "manifest.json" || name == "index.json" => {
                let bytes = json::read_document(archive.content()).map_err(stream)?;
                if name == "manifest.json" { docker = Some(bytes) } else { index = Some(bytes) }
            }
            // Docker's old per-layer descriptions, superseded by manifest.json.
            Kind::File { .. }
                if matches!(name.rsplit('/').next(), Some("json" | "VERSION" | "repositories" | "oci-layout")) => {}
            Kind::File { .. } => {
                let mut writer = store.blob_writer(lease)?;
                io::copy(&mut archive.content(), &mut writer).map_err(|source| ArchiveError::Io {
                    action: "unpack",
                    path: PathBuf::from(&name),
                    source,
                })?;
                let (digest, size) = writer.commit()?;
                if let Some(hex) = name.strip_prefix("blobs/sha256/")
                    && hex != digest.hex()
                {
                    return Err(ArchiveError::Mismatch { name, actual: digest });
                }
                members.insert(name, Member::Blob(digest, size));
            }
            Kind::Symlink { target } => {
                let dir = name.rfind('/').map_or("", |at| &name[..at]);
                if let Some(target) = clean(&[dir.as_bytes(), b"/", &target].concat()) {
                    members.insert(name, Member::Link(target));
                }
            }
            Kind::Hardlink { target } => {
                if let Some(target) = clean(&target) {
                    members.insert(name, Member::Link(target));
                }
            }
            _ => {}
        }
    }
    if let Some(bytes) = docker {
        return load_docker(store, lease, &members, &bytes);
    }
    let index = index.ok_or(ArchiveError::NotImages)?;
    let mut source = InStore { members: &members };
    load_index(store, lease, &mut source, &index, platform, &|_| true)
}

/// Reads images of an OCI directory into the store: those whose entry in its index `select` takes.
///
/// # Errors
/// [`ArchiveError`], as [`load`].
pub fn load_dir(
    store: &Store,
    lease: &Lease,
    dir: &Path,
    platform: &Platform,
    select: &dyn Fn(&Descriptor) -> bool,
) -> Result<Vec<Loaded>, ArchiveError> {
    let path = dir.join("index.json");
    let bytes = File::open(&path).and_then(json::read_document).map_err(|source| ArchiveError::Io {
        action: "read",
        path,
        source,
    })?;
    load_index(store, lease, &mut Directory { store, lease, dir }, &bytes, platform, select)
}

/// A name as a plain relative path, for comparison only; none if it leaves the archive or is no text.
fn clean(path: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn find<'a>(members: &'a BTreeMap<String, Member>, name: &str) -> Result<(&'a Digest, u64), ArchiveError> {
    let missing = || ArchiveError::Missing(name.to_owned());
    let mut at = clean(name.as_bytes()).ok_or_else(missing)?;
    // A chain of links is as long as the archive has entries at most, but no honest one has more than a few.
    for _ in 0..16 {
        match members.get(&at).ok_or_else(missing)? {
            Member::Blob(digest, size) => return Ok((digest, *size)),
            Member::Link(target) => at.clone_from(target),
        }
    }
    Err(missing())
}

fn read_config(store: &Store, digest: &Digest) -> Result<(Vec<u8>, ImageConfig), ArchiveError> {
    let bytes = store.read_blob(digest)?;
    let config = ImageConfig::parse(&bytes).map_err(StoreError::from)?;
    Ok((bytes, config))
}

fn load_docker(
    store: &Store,
    lease: &Lease,
    members: &BTreeMap<String, Member>,
    table: &[u8],
) -> Result<Vec<Loaded>, ArchiveError> {
    let table: Vec<DockerEntry> =
        json::from_bytes(table).map_err(|source| ArchiveError::Json { name: "manifest.json".into(), source })?;
    let mut loaded = Vec::new();
    for entry in table {
        let (bytes, config) = read_config(store, find(members, &entry.config)?.0)?;
        let layers = entry.layers.unwrap_or_default();
        if layers.len() != config.diff_ids().len() {
            return Err(ArchiveError::Inconsistent("an image's configuration names another number of layers"));
        }
        let mut blobs = Vec::new();
        for (name, diff_id) in layers.iter().zip(config.diff_ids()) {
            let (digest, size) = find(members, name)?;
            blobs.push(check_layer(store, name, digest, size, diff_id)?);
        }
        let id = store.put_image(lease, &bytes, None, &blobs)?;
        let references = entry.repo_tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
        loaded.push(Loaded { id, references, manifest: None, ref_name: None });
    }
    if loaded.is_empty() { Err(ArchiveError::NoImage) } else { Ok(loaded) }
}

/// Checks that a blob of the store holds a layer, whatever its compression.
fn check_layer(
    store: &Store,
    name: &str,
    digest: &Digest,
    size: u64,
    diff_id: &DiffId,
) -> Result<LayerBlob, ArchiveError> {
    let known = store.diff_blobs(diff_id)?;
    if let Some(blob) = known.into_iter().find(|blob| blob.digest == *digest) {
        return Ok(blob);
    }
    let wrong = |source| ArchiveError::WrongLayer { name: name.to_owned(), diff_id: diff_id.clone(), source };
    let decoder = compression::decoder(store.open_blob(digest)?).map_err(wrong)?;
    let compression = decoder.compression();
    let media_type = Family::Oci
        .layer(compression)
        .ok_or(ArchiveError::Inconsistent("a layer is compressed in a way that layers cannot be"))?
        .to_owned();
    let tar_size = if digest == diff_id.digest() {
        size
    } else {
        VerifiedReader::new(decoder, diff_id.digest().clone(), None).finish().map_err(wrong)?
    };
    Ok(LayerBlob { media_type, digest: digest.clone(), size, tar_size: Some(tar_size) })
}

fn load_index(
    store: &Store,
    lease: &Lease,
    source: &mut dyn Source,
    index: &[u8],
    platform: &Platform,
    select: &dyn Fn(&Descriptor) -> bool,
) -> Result<Vec<Loaded>, ArchiveError> {
    let index: Index =
        json::from_bytes(index).map_err(|source| ArchiveError::Json { name: "index.json".into(), source })?;
    let mut loaded: Vec<Loaded> = Vec::new();
    for entry in index.manifests.iter().filter(|entry| !entry.is_attestation() && select(entry)) {
        let mut manifest = fetch_manifest(store, source, entry)?;
        for _ in 0..4 {
            let ManifestKind::Index(inner) = manifest.kind() else {
                break;
            };
            let Some(chosen) = inner.choose(platform).cloned() else {
                break;
            };
            manifest = fetch_manifest(store, source, &chosen)?;
        }
        let Some(image) = manifest.image() else {
            continue;
        };
        source.fetch(&image.config)?;
        let (bytes, config) = read_config(store, &image.config.digest)?;
        if image.layers.len() != config.diff_ids().len() {
            return Err(ArchiveError::Inconsistent("an image's configuration names another number of layers"));
        }
        let mut blobs = Vec::new();
        for (layer, diff_id) in image.layers.iter().zip(config.diff_ids()) {
            source.fetch(layer)?;
            blobs.push(check_layer(store, &blob_name(&layer.digest), &layer.digest, layer.size, diff_id)?);
        }
        let id = store.put_image(lease, &bytes, Some(&manifest), &blobs)?;
        let ref_name = entry.annotations.get(annotation::REF_NAME).cloned();
        let text = entry.annotations.get(annotation::IMAGE_NAME).or_else(|| {
            // A tag alone names nothing; skopeo and buildah put whole names here.
            ref_name.as_ref().filter(|name| name.contains(['/', ':']))
        });
        let references: Vec<Reference> = text.and_then(|text| text.parse().ok()).into_iter().collect();
        let digest = Some(manifest.digest().clone());
        match loaded.iter_mut().find(|known| known.id == id && known.manifest == digest) {
            Some(known) => known.references.extend(references),
            None => loaded.push(Loaded { id, references, manifest: digest, ref_name }),
        }
    }
    if loaded.is_empty() { Err(ArchiveError::NoImage) } else { Ok(loaded) }
}

fn fetch_manifest(store: &Store, source: &mut dyn Source, entry: &Descriptor) -> Result<Manifest, ArchiveError> {
    source.fetch(entry)?;
    Ok(store.manifest(&entry.digest, Some(&entry.media_type))?)
}

/// A tar whose blobs are all in the store already.
struct InStore<'a> {
    members: &'a BTreeMap<String, Member>,
}

impl Source for InStore<'_> {
    fn fetch(&mut self, descriptor: &Descriptor) -> Result<(), ArchiveError> {
        let name = blob_name(&descriptor.digest);
        let (digest, size) = find(self.members, &name)?;
        if *digest != descriptor.digest {
            return Err(ArchiveError::Mismatch { name, actual: digest.clone() });
        }
        if size != descriptor.size {
            return Err(ArchiveError::Inconsistent("a descriptor tells another size than the blob has"));
        }
        Ok(())
    }
}

/// A directory, from which blobs are copied as they are needed.
struct Directory<'a> {
    store: &'a Store,
    lease: &'a Lease,
    dir: &'a Path,
}

impl Source for Directory<'_> {
    fn fetch(&mut self, descriptor: &Descriptor) -> Result<(), ArchiveError> {
        let digest = &descriptor.digest;
        if self.lease.hold_blob(digest)? && self.store.blob_size(digest)? == Some(descriptor.size) {
            return Ok(());
        }
        // A digest has no characters that a path could be made of.
        let path = self.dir.join(blob_name(digest));
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ArchiveError::Missing(blob_name(digest)),
            _ => ArchiveError::Io { action: "open", path, source },
        })?;
        self.store.put_blob_from(self.lease, file, digest, Some(descriptor.size))?;
        Ok(())
    }
}
