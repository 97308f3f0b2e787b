//! Writing archives.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use super::{ArchiveError, DockerEntry, OCI_LAYOUT, blob_name};
use crate::compression::EncoderOptions;
use crate::digest::{DiffId, Digest, ImageId};
use crate::json;
use crate::layer::{Entry, Kind, LayerWriter};
use crate::manifest::media_type::{self, Family};
use crate::manifest::{Descriptor, ImageManifest, Index, ManifestError, annotation};
use crate::reference::Reference;
use crate::store::{Lease, Store, StoreError, unique_name};

/// An image to save, with the names the archive gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToSave {
    /// The image.
    pub id: ImageId,
    /// Its names in the archive; there may be none.
    pub references: Vec<Reference>,
}

/// Where the bytes of a blob come from.
enum Source {
    Bytes(Vec<u8>),
    /// A blob of the store as it is.
    Blob,
    /// A layer that has to be decompressed.
    Layer(DiffId),
}

/// The files of an archive under their names, in order.
type Blobs = BTreeMap<Digest, (u64, Source)>;

fn open(store: &Store, digest: &Digest, source: &Source) -> Result<Box<dyn Read + Send>, ArchiveError> {
    Ok(match source {
        Source::Bytes(bytes) => Box::new(Cursor::new(bytes.clone())),
        Source::Blob => Box::new(store.open_blob(digest)?),
        Source::Layer(diff_id) => Box::new(store.open_layer(diff_id)?),
    })
}

fn entry_names(entry: &Descriptor, references: &[Reference]) -> Vec<Descriptor> {
    if references.is_empty() {
        return vec![entry.clone()];
    }
    let named = |reference: &Reference| {
        let mut entry = entry.clone();
        let name = reference.to_string();
        let tag = reference.tag().map_or_else(|| name.clone(), str::to_owned);
        entry.annotations.insert(annotation::REF_NAME.to_owned(), tag);
        entry.annotations.insert(annotation::IMAGE_NAME.to_owned(), name);
        entry
    };
    references.iter().map(named).collect()
}

struct TarSink<W: Write> {
    tar: LayerWriter<W>,
}

impl<W: Write> TarSink<W> {
    fn dir(&mut self, name: &str) -> Result<(), ArchiveError> {
        self.put(&Entry::new(name, Kind::Dir), std::io::empty())
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.put(&Entry::new(name, Kind::File { size: bytes.len() as u64 }), bytes)
    }

    fn put(&mut self, entry: &Entry, content: impl Read) -> Result<(), ArchiveError> {
        self.tar.append(entry, content).map_err(|source| ArchiveError::Tar { action: "write", source })
    }

    fn blobs(&mut self, store: &Store, blobs: &Blobs) -> Result<(), ArchiveError> {
        self.dir("blobs")?;
        self.dir("blobs/sha256")?;
        for (digest, (size, source)) in blobs {
            let entry = Entry::new(blob_name(digest), Kind::File { size: *size });
            self.put(&entry, open(store, digest, source)?)?;
        }
        Ok(())
    }
}

/// Writes images as `docker save` does, layers as plain tars, and gives the writer back, flushed.
///
/// # Errors
/// [`ArchiveError::Store`] for what the store lacks, [`ArchiveError::Tar`] for the writer's faults.
pub fn save_docker<W: Write>(store: &Store, lease: &Lease, images: &[ToSave], out: W) -> Result<W, ArchiveError> {
    let mut blobs = Blobs::new();
    let mut entries: BTreeMap<ImageId, (DockerEntry, Descriptor, Vec<Reference>)> = BTreeMap::new();
    let mut order = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for save in images {
        if let Some((_, _, references)) = entries.get_mut(&save.id) {
            references.extend(save.references.iter().filter(|r| !references.contains(r)).cloned().collect::<Vec<_>>());
            continue;
        }
        if !lease.hold_image(&save.id)? {
            return Err(StoreError::NoImage(save.id.to_string()).into());
        }
        let image = store.image(&save.id)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let digest = layer.diff_id.digest();
            let known = layer.blobs.iter().find(|blob| blob.digest == *digest);
            let (size, source) = match known {
                Some(blob) => (blob.size, Source::Blob),
                None => (layer_size(store, &layer.diff_id)?, Source::Layer(layer.diff_id.clone())),
            };
            blobs.entry(digest.clone()).or_insert((size, source));
            layers.push(Descriptor::new(media_type::OCI_LAYER, digest.clone(), size));
        }
        let config = Descriptor::of(media_type::OCI_CONFIG, &image.config_bytes);
        blobs.insert(config.digest.clone(), (config.size, Source::Bytes(image.config_bytes)));
        let docker = DockerEntry {
            config: blob_name(&config.digest),
            repo_tags: None,
            layers: Some(layers.iter().map(|layer| blob_name(&layer.digest)).collect()),
        };
        let manifest = ImageManifest::new(media_type::OCI_MANIFEST, config, layers).to_bytes()?;
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        blobs.insert(descriptor.digest.clone(), (descriptor.size, Source::Bytes(manifest)));
        entries.insert(save.id.clone(), (docker, descriptor, save.references.clone()));
        order.push(save.id.clone());
    }
    let (mut table, mut index) = (Vec::new(), Vec::new());
    for id in &order {
        let Some((mut docker, descriptor, references)) = entries.remove(id) else {
            continue;
        };
        index.extend(entry_names(&descriptor, &references));
        for reference in &references {
            let top = docker.layers.as_ref().and_then(|layers| layers.last()).and_then(|name| name.rsplit('/').next());
            if let (Some(top), Some(tag)) = (top, reference.tag()) {
                repositories.entry(reference.familiar_name()).or_default().insert(tag.to_owned(), top.to_owned());
            }
        }
        // As Docker: null rather than an empty list.
        docker.repo_tags = (!references.is_empty()).then(|| references.iter().map(Reference::familiar).collect());
        table.push(docker);
    }
    let mut sink = TarSink { tar: LayerWriter::new(out) };
    sink.blobs(store, &blobs)?;
    sink.bytes("index.json", &Index::new(media_type::OCI_INDEX, index).to_bytes()?)?;
    sink.bytes("manifest.json", &to_json(&table)?)?;
    sink.bytes("oci-layout", OCI_LAYOUT)?;
    if !repositories.is_empty() {
        sink.bytes("repositories", &to_json(&repositories)?)?;
    }
    finish(sink)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, ArchiveError> {
    json::to_go_bytes(value).map_err(|e| ManifestError::Write(e).into())
}

fn finish<W: Write>(sink: TarSink<W>) -> Result<W, ArchiveError> {
    let mut out = sink.tar.finish().map_err(|source| ArchiveError::Tar { action: "write", source })?;
    out.flush().map_err(|source| ArchiveError::Io { action: "write", path: PathBuf::from("archive"), source })?;
    Ok(out)
}

/// The size of a layer's tar, which the header before it must tell.
fn layer_size(store: &Store, diff_id: &DiffId) -> Result<u64, ArchiveError> {
    if let Some(size) = store.diff_blobs(diff_id)?.iter().find_map(|blob| blob.tar_size) {
        return Ok(size);
    }
    let mut tar = store.open_layer(diff_id)?;
    std::io::copy(&mut tar, &mut std::io::sink()).map_err(|source| ArchiveError::Io {
        action: "read layer",
        path: store.layer_dir(diff_id),
        source,
    })
}

/// What an OCI layout of these images consists of.
fn oci_parts(
    store: &Store,
    lease: &Lease,
    images: &[ToSave],
    options: EncoderOptions,
) -> Result<(Blobs, Vec<Descriptor>), ArchiveError> {
    let (mut blobs, mut index) = (Blobs::new(), Vec::new());
    for save in images {
        if !lease.hold_image(&save.id)? {
            return Err(StoreError::NoImage(save.id.to_string()).into());
        }
        let (manifest, layers) = store.pack_image(lease, &save.id, Family::Oci, options)?;
        for layer in layers {
            blobs.insert(layer.digest, (layer.size, Source::Blob));
        }
        let image = store.image(&save.id)?;
        blobs.insert(save.id.digest().clone(), (image.config_bytes.len() as u64, Source::Bytes(image.config_bytes)));
        let mut entry = manifest.descriptor();
        let platform = image.config.platform();
        entry.platform = (!platform.os.is_empty()).then_some(platform);
        blobs.insert(entry.digest.clone(), (entry.size, Source::Bytes(manifest.bytes().to_vec())));
        index.extend(entry_names(&entry, &save.references));
    }
    Ok((blobs, index))
}

/// Writes images as an OCI archive with layers compressed in this way (gzip is usual), and gives the writer back, flushed.
///
/// # Errors
/// As [`save_docker`].
pub fn save_oci<W: Write>(
    store: &Store,
    lease: &Lease,
    images: &[ToSave],
    options: EncoderOptions,
    out: W,
) -> Result<W, ArchiveError> {
    let (blobs, index) = oci_parts(store, lease, images, options)?;
    let mut sink = TarSink { tar: LayerWriter::new(out) };
    sink.blobs(store, &blobs)?;
    sink.bytes("index.json", &Index::new(media_type::OCI_INDEX, index).to_bytes()?)?;
    sink.bytes("oci-layout", OCI_LAYOUT)?;
    finish(sink)
}

/// Writes images as an OCI layout into a directory, which may have one already: its other images stay.
///
/// # Errors
/// As [`save_docker`], and [`ArchiveError::Io`] for the directory.
pub fn save_oci_dir(
    store: &Store,
    lease: &Lease,
    images: &[ToSave],
    options: EncoderOptions,
    dir: &Path,
) -> Result<(), ArchiveError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ArchiveError::Io { action, path, source }
    };
    let (blobs, added) = oci_parts(store, lease, images, options)?;
    let blob_dir = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blob_dir).map_err(io("create directory", &blob_dir))?;
    let put = |name: &str, content: &mut dyn Read| {
        let (path, temporary) = (dir.join(name), dir.join(format!("{name}.{}.tmp", unique_name())));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(io("create", &temporary))?;
        let done = std::io::copy(content, &mut file)
            .and_then(|_| std::fs::rename(&temporary, &path))
            .map_err(io("write", &path));
        if done.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        done
    };
    for (digest, (size, source)) in &blobs {
        let name = blob_name(digest);
        let there = std::fs::metadata(dir.join(&name)).is_ok_and(|meta| meta.len() == *size);
        if !there {
            put(&name, &mut open(store, digest, source)?)?;
        }
    }
    let index_path = dir.join("index.json");
    let mut index = match File::open(&index_path) {
        Ok(file) => {
            let bytes = json::read_document(file).map_err(io("read", &index_path))?;
            json::from_bytes(&bytes).map_err(|source| ArchiveError::Json { name: "index.json".into(), source })?
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Index::new(media_type::OCI_INDEX, Vec::new()),
        Err(e) => return Err(io("open", &index_path)(e)),
    };
    let name = |entry: &Descriptor| entry.annotations.get(annotation::IMAGE_NAME).cloned();
    index.manifests.retain(|old| {
        !added.iter().any(|new| name(new) == name(old) && (name(new).is_some() || new.digest == old.digest))
    });
    index.manifests.extend(added);
    put("oci-layout", &mut &OCI_LAYOUT[..])?;
    put("index.json", &mut &index.to_bytes()?[..])
}
