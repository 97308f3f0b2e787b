//! Images into archives and out of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rbuild_image::archive::{self, ArchiveError, ToSave};
use rbuild_image::compression::EncoderOptions;
use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::store::Store;

use super::ManageError;
use super::images::{open, resolve};
use crate::StoreOptions;
use crate::cancel::Cancellable;
use crate::whole_file::WholeFile;

/// Forms of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// As `docker save` writes it: layers as plain tars.
    Docker,
    /// An OCI image layout in a tar: layers with gzip.
    Oci,
}

/// An image that came from an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id, `sha256:…`.
    pub id: String,
    /// The names it was given, as Docker shows them.
    pub names: Vec<String>,
}

/// Writes images into a file, which appears whole or not at all. What exists under that name and is no regular file, a
/// pipe or a device, is written to instead.
///
/// A name without tag stands for all tags of that repository, as with `docker save`; an image that is given by its id has
/// no name in the archive.
///
/// # Errors
/// [`ManageError::NoImage`], [`ManageError::Ambiguous`], [`ManageError::Store`], [`ManageError::Io`],
/// [`ManageError::Archive`] and [`ManageError::Cancelled`].
pub fn save_file(
    store: &StoreOptions,
    names: &[String],
    format: ArchiveFormat,
    path: &Path,
    cancel: &AtomicBool,
) -> Result<(), ManageError> {
    let store = open(store)?;
    let mut images = Vec::new();
    for name in names {
        images.extend(find(&store, name)?);
    }
    save_images(&store, &images, format, path, cancel)
}

/// Writes images into a file.
pub(super) fn save_images(
    store: &Store,
    images: &[ToSave],
    format: ArchiveFormat,
    path: &Path,
    cancel: &AtomicBool,
) -> Result<(), ManageError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ManageError::Io { action, path, source }
    };
    // An image that is not there must not cost the archive that is. As Docker's, an archive is for its owner alone: it
    // may hold secrets.
    let whole = WholeFile::create(path, 0o600).map_err(failed("create", path))?;
    let mut file = io::BufWriter::with_capacity(256 * 1024, whole.file());
    write_images(store, images, format, &mut file, cancel)?;
    file.flush().map_err(failed("write", path))?;
    drop(file);
    whole.publish().map_err(failed("write", path))
}

/// Writes images to a writer; see [`save_file`] for names.
///
/// # Errors
/// As [`save_file`].
pub fn save(
    store: &StoreOptions,
    names: &[String],
    format: ArchiveFormat,
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<(), ManageError> {
    let store = open(store)?;
    let mut images = Vec::new();
    for name in names {
        images.extend(find(&store, name)?);
    }
    write_images(&store, &images, format, out, cancel)
}

fn write_images(
    store: &Store,
    images: &[ToSave],
    format: ArchiveFormat,
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<(), ManageError> {
    let lease = store.lease()?;
    let out = Cancellable { inner: out, cancel };
    let saved = match format {
        ArchiveFormat::Docker => archive::save_docker(store, &lease, images, out).map(drop),
        ArchiveFormat::Oci => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
            let options = EncoderOptions::Gzip { level: 6, threads };
            archive::save_oci(store, &lease, images, options, out).map(drop)
        }
    };
    saved.map_err(|source| archive_failed("write", source, cancel))
}

/// Reads images from an archive, docker-archive or OCI, however compressed, and gives them the names they have there.
///
/// # Errors
/// [`ManageError::Archive`], [`ManageError::Store`] and [`ManageError::Cancelled`].
pub fn load(store: &StoreOptions, reader: &mut dyn Read, cancel: &AtomicBool) -> Result<Vec<Loaded>, ManageError> {
    let store = open(store)?;
    let lease = store.lease()?;
    let reader = Cancellable { inner: reader, cancel };
    let found = archive::load(&store, &lease, reader, &Platform::host())
        .map_err(|source| archive_failed("read", source, cancel))?;
    let mut loaded = Vec::new();
    for image in found {
        let mut references = image.references;
        if references.is_empty() {
            // Other programs put a whole name where the specification has a tag.
            let whole = image.ref_name.filter(|name| name.contains(['/', ':']));
            let whole = whole.and_then(|name| Reference::parse_normalized(&name, DockerVersion::V28).ok());
            references.extend(whole.filter(|name| name.digest().is_none()).map(Reference::or_latest));
        }
        for reference in &references {
            store.tag(&lease, &image.id, reference)?;
        }
        let names = references.iter().map(Reference::familiar).collect();
        loaded.push(Loaded { id: image.id.to_string(), names });
    }
    Ok(loaded)
}

/// Reads images from an archive in a file.
///
/// # Errors
/// As [`load`], and [`ManageError::Io`].
pub fn load_file(store: &StoreOptions, path: &Path, cancel: &AtomicBool) -> Result<Vec<Loaded>, ManageError> {
    let mut file =
        File::open(path).map_err(|source| ManageError::Io { action: "open", path: path.to_owned(), source })?;
    load(store, &mut file, cancel)
}

fn find(store: &Store, name: &str) -> Result<Vec<ToSave>, ManageError> {
    if let Ok(reference) = Reference::parse_normalized(name, DockerVersion::V28) {
        if reference.tag().is_some() || reference.digest().is_some() {
            if let Some(id) = store.resolve_reference(&reference)? {
                let references = if reference.digest().is_some() { Vec::new() } else { vec![reference] };
                return Ok(vec![ToSave { id, references }]);
            }
        } else {
            let of_it = |known: &&Reference| known.name() == reference.name() && known.tag().is_some();
            let images: Vec<ToSave> = store
                .list()?
                .into_iter()
                .map(|listed| ToSave {
                    references: listed.references.iter().filter(of_it).cloned().collect(),
                    id: listed.id,
                })
                .filter(|image| !image.references.is_empty())
                .collect();
            if !images.is_empty() {
                return Ok(images);
            }
        }
    }
    Ok(vec![ToSave { id: resolve(store, name)?, references: Vec::new() }])
}

pub(super) fn archive_failed(action: &'static str, source: ArchiveError, cancel: &AtomicBool) -> ManageError {
    if cancel.load(Ordering::SeqCst) {
        return ManageError::Cancelled;
    }
    ManageError::Archive { action, source }
}
