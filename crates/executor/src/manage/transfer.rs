//! Pulling and pushing images.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use rbuild_image::compression::{self, Encoder, EncoderOptions};
use rbuild_image::config::ImageConfig;
use rbuild_image::digest::{DiffId, HashingWriter, ImageId};
use rbuild_image::manifest::{Descriptor, ImageManifest, Manifest, media_type};
use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::registry::{Pushed, Registry, RegistryError, TransferEvent};
use rbuild_image::store::{LayerBlob, Lease, Store};

use super::images::{open, parse_reference};
use super::{ManageError, registry};
use crate::{RegistryAccess, StoreOptions};

/// How many blobs move at once, as Docker's daemon does.
const DOWNLOADS: usize = 3;
const UPLOADS: usize = 5;

/// What happens while an image moves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferFact {
    /// It begins.
    Started {
        /// Name of the registry and the repository: `docker.io/library/busybox`.
        repository: String,
        /// The repository within its registry: `library/busybox`.
        path: String,
        /// Tag, or digest where there is no tag.
        version: String,
    },
    /// The state of a layer changed.
    Layer {
        /// Digest of the layer's blob for a pull, its diff id for a push.
        digest: String,
        /// Its new state.
        state: LayerState,
    },
    /// An attempt failed, and after a pause there will be another.
    Retrying {
        /// The layer.
        digest: String,
        /// The error, with its causes.
        error: String,
    },
}

/// States of a layer that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerState {
    /// It is there already.
    Exists,
    /// It is going to be moved.
    Waiting,
    /// So much of it was moved.
    Progress {
        /// Bytes moved.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// All of it has come.
    Downloaded,
    /// The registry took it from another of its repositories.
    Mounted {
        /// That repository.
        from: String,
    },
    /// It is where it should be.
    Complete,
}

/// What a pull gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Id of the image, `sha256:…`.
    pub id: String,
    /// Digest by which the registry knows what was pulled.
    pub digest: String,
    /// The name as Docker shows it: `busybox:latest`.
    pub name: String,
    /// The name in full: `docker.io/library/busybox:latest`.
    pub canonical: String,
    /// Whether the name meant another image before, or none.
    pub newer: bool,
}

/// What a push gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedImage {
    /// The name as Docker shows it.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Bytes of the manifest.
    pub size: u64,
}

/// Downloads an image and names it. Every layer is checked against the image's configuration.
///
/// # Errors
/// [`ManageError::Reference`], [`ManageError::Platform`], [`ManageError::Registry`], [`ManageError::Inconsistent`],
/// [`ManageError::Store`] and [`ManageError::Cancelled`].
pub fn pull(
    store: &StoreOptions,
    access: &RegistryAccess,
    name: &str,
    platform: Option<&str>,
    on_fact: &mut dyn FnMut(&TransferFact),
    cancel: &AtomicBool,
) -> Result<Pulled, ManageError> {
    let reference = parse_reference(name)?.or_latest();
    let platform = match platform {
        None => Platform::host(),
        Some(text) => Platform::parse(text, DockerVersion::V28)
            .map_err(|source| ManageError::Platform { text: text.to_owned(), source })?,
    };
    let failed = |error| registry_failed("pull", &reference, error);
    let registry = registry(access).map_err(failed)?;
    let store = open(store)?;
    let lease = store.lease()?;
    let resolved = registry.resolve(&reference, &platform, cancel).map_err(failed)?;
    let inconsistent = |problem: String| ManageError::Inconsistent { name: reference.familiar(), problem };
    let (diff_ids, layers) = (resolved.config.diff_ids(), &resolved.image().layers);
    if diff_ids.len() != layers.len() {
        return Err(inconsistent(format!(
            "its configuration names {} layers and its manifest {}",
            diff_ids.len(),
            layers.len()
        )));
    }
    on_fact(&TransferFact::Started {
        repository: reference.name(),
        path: reference.path().to_owned(),
        version: version(&reference),
    });
    let download = Download { store: &store, lease: &lease, registry: &registry, reference: &reference, cancel };
    let work: Vec<(&DiffId, &Descriptor)> = diff_ids.iter().zip(layers).collect();
    let blobs =
        in_parallel(DOWNLOADS, &work, cancel, on_fact, &|(diff_id, layer), say| download.layer(diff_id, layer, say))?;
    let before = store.resolve_reference(&reference)?;
    let id = store.put_image(&lease, &resolved.config_bytes, Some(&resolved.manifest), &blobs)?;
    store.tag_pulled(&lease, &id, &reference, Some(resolved.top.digest()))?;
    Ok(Pulled {
        newer: before.as_ref() != Some(&id),
        id: id.to_string(),
        digest: resolved.top.digest().to_string(),
        name: reference.familiar(),
        canonical: reference.to_string(),
    })
}

struct Download<'a> {
    store: &'a Store,
    lease: &'a Lease,
    registry: &'a Registry,
    reference: &'a Reference,
    cancel: &'a AtomicBool,
}

impl Download<'_> {
    fn layer(
        &self,
        diff_id: &DiffId,
        layer: &Descriptor,
        say: &dyn Fn(TransferFact),
    ) -> Result<LayerBlob, ManageError> {
        let digest = layer.digest.to_string();
        let state = |state| say(TransferFact::Layer { digest: digest.clone(), state });
        let known = self.store.diff_blobs(diff_id)?.into_iter().find(|blob| blob.digest == layer.digest);
        if let Some(known) = known
            && self.lease.hold_blob(&layer.digest)?
        {
            state(LayerState::Exists);
            return Ok(LayerBlob { media_type: layer.media_type.clone(), ..known });
        }
        state(LayerState::Waiting);
        if !(self.lease.hold_blob(&layer.digest)? && self.store.blob_size(&layer.digest)? == Some(layer.size)) {
            let mut writer = self.store.blob_writer(self.lease)?;
            let mut on_event = |event: TransferEvent<'_>| match event {
                TransferEvent::Progress { current, total } => state(LayerState::Progress { current, total }),
                TransferEvent::Retrying { error, .. } => {
                    say(TransferFact::Retrying { digest: digest.clone(), error: with_causes(error) });
                }
                _ => {}
            };
            self.registry
                .fetch_blob(self.reference, layer, &mut writer, &mut on_event, self.cancel)
                .map_err(|error| registry_failed("pull", self.reference, error))?;
            writer.commit()?;
        }
        state(LayerState::Downloaded);
        let tar_size = self.verify(diff_id, layer)?;
        state(LayerState::Complete);
        Ok(LayerBlob {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            tar_size: Some(tar_size),
        })
    }

    /// Checks that a blob holds the layer that the configuration names; the size of its tar.
    fn verify(&self, diff_id: &DiffId, layer: &Descriptor) -> Result<u64, ManageError> {
        let path = self.store.blob_path(&layer.digest);
        let failed = |source| ManageError::Io { action: "read", path: path.clone(), source };
        let mut tar = compression::decoder(File::open(&path).map_err(failed)?).map_err(failed)?;
        let mut hash = HashingWriter::new(io::sink());
        copy(&mut tar, &mut hash, self.cancel).map_err(|error| match error {
            CopyError::Cancelled => ManageError::Cancelled,
            // The blob is what the registry promised, so a fault in it is the image's.
            CopyError::Read(error) => ManageError::Inconsistent {
                name: self.reference.familiar(),
                problem: format!("the layer {} cannot be decompressed: {error}", layer.digest),
            },
            CopyError::Write(source) => failed(source),
        })?;
        let (_, digest, size) = hash.finish();
        if digest != *diff_id.digest() {
            return Err(ManageError::Inconsistent {
                name: self.reference.familiar(),
                problem: format!("its layer {} holds {digest}, not {diff_id}", layer.digest),
            });
        }
        Ok(size)
    }
}

/// Uploads an image by its name. Layers that the store has uncompressed are compressed first, and kept.
///
/// # Errors
/// [`ManageError::Reference`], [`ManageError::NoImage`], [`ManageError::Registry`], [`ManageError::Store`] and
/// [`ManageError::Cancelled`].
pub fn push(
    store: &StoreOptions,
    access: &RegistryAccess,
    name: &str,
    on_fact: &mut dyn FnMut(&TransferFact),
    cancel: &AtomicBool,
) -> Result<PushedImage, ManageError> {
    let reference = parse_reference(name)?.or_latest();
    let store = open(store)?;
    let id = store.resolve_reference(&reference)?.ok_or_else(|| ManageError::NoImage { name: reference.familiar() })?;
    let registry = registry(access).map_err(|error| registry_failed("push", &reference, error))?;
    push_image(&store, &store.lease()?, &registry, &id, &reference, on_fact, cancel)
}

/// The tags of a repository that the store has, for pushing them all.
///
/// # Errors
/// [`ManageError::Reference`] and [`ManageError::Store`].
pub fn tags(store: &StoreOptions, repository: &str) -> Result<Vec<String>, ManageError> {
    let wanted = parse_reference(repository)?;
    let list = open(store)?.list()?;
    let names = list.iter().flat_map(|listed| &listed.references);
    Ok(names.filter(|name| name.name() == wanted.name() && name.tag().is_some()).map(Reference::familiar).collect())
}

/// Uploads an image of the store under a name that it need not have there. Where it has it, the digest by which the
/// registry now knows it is remembered.
pub(crate) fn push_image(
    store: &Store,
    lease: &Lease,
    registry: &Registry,
    id: &ImageId,
    reference: &Reference,
    on_fact: &mut dyn FnMut(&TransferFact),
    cancel: &AtomicBool,
) -> Result<PushedImage, ManageError> {
    let failed = |error| registry_failed("push", reference, error);
    lease.hold_image(id)?;
    on_fact(&TransferFact::Started {
        repository: reference.name(),
        path: reference.path().to_owned(),
        version: version(reference),
    });
    let listed = store.image_manifest(id)?;
    let inconsistent =
        |problem: &str| ManageError::Inconsistent { name: reference.familiar(), problem: problem.to_owned() };
    let image = listed.image().ok_or_else(|| inconsistent("it has no manifest"))?;
    let config_bytes = store.read_blob(id.digest())?;
    let config = ImageConfig::parse(&config_bytes).map_err(|_| inconsistent("its configuration is none"))?;
    if config.diff_ids().len() != image.layers.len() {
        return Err(inconsistent("configuration and manifest differ in the number of layers"));
    }
    let summary = store.list()?.into_iter().find(|listed| listed.id == *id);
    let known = summary.iter().flat_map(|listed| listed.pulled.iter().chain(&listed.references));
    let mount_from = known
        .filter(|known| known.domain() == reference.domain() && known.path() != reference.path())
        .map(|known| known.path().to_owned())
        .next();
    let upload = Upload { store, lease, registry, reference, mount_from, cancel };
    let work: Vec<(&DiffId, &Descriptor)> = config.diff_ids().iter().zip(&image.layers).collect();
    let layers =
        in_parallel(UPLOADS, &work, cancel, on_fact, &|(diff_id, layer), say| upload.layer(diff_id, layer, say))?;
    let manifest = if layers == image.layers {
        listed.clone()
    } else {
        let mut image: ImageManifest = image.clone();
        image.layers = layers;
        let bytes = image.to_bytes().map_err(|error| inconsistent(&error.to_string()))?;
        Manifest::parse(bytes, Some(listed.media_type())).map_err(|error| inconsistent(&error.to_string()))?
    };
    upload.blob(&image.config, &|_| {})?;
    let digest = registry.push_manifest(reference, manifest.media_type(), manifest.bytes(), cancel).map_err(failed)?;
    if store.resolve_reference(reference)?.as_ref() == Some(id) {
        store.tag_pulled(lease, id, reference, Some(&digest))?;
    }
    Ok(PushedImage {
        name: reference.familiar(),
        tag: version(reference),
        digest: digest.to_string(),
        size: manifest.bytes().len() as u64,
    })
}

struct Upload<'a> {
    store: &'a Store,
    lease: &'a Lease,
    registry: &'a Registry,
    reference: &'a Reference,
    mount_from: Option<String>,
    cancel: &'a AtomicBool,
}

impl Upload<'_> {
    fn layer(
        &self,
        diff_id: &DiffId,
        listed: &Descriptor,
        say: &dyn Fn(TransferFact),
    ) -> Result<Descriptor, ManageError> {
        let digest = diff_id.to_string();
        let state = |state| say(TransferFact::Layer { digest: digest.clone(), state });
        state(LayerState::Waiting);
        let layer = if is_plain(&listed.media_type) { self.compressed(diff_id, listed)? } else { listed.clone() };
        let pushed = self.blob(&layer, &|event| match event {
            TransferEvent::Progress { current, total } => state(LayerState::Progress { current, total }),
            TransferEvent::Retrying { error, .. } => {
                say(TransferFact::Retrying { digest: digest.clone(), error: with_causes(error) });
            }
            _ => {}
        })?;
        state(match (pushed, &self.mount_from) {
            (Pushed::Existed, _) => LayerState::Exists,
            (Pushed::Mounted, Some(from)) => LayerState::Mounted { from: from.clone() },
            _ => LayerState::Complete,
        });
        Ok(layer)
    }

    fn blob(&self, blob: &Descriptor, on_event: &dyn Fn(TransferEvent<'_>)) -> Result<Pushed, ManageError> {
        let path = self.store.blob_path(&blob.digest);
        self.registry
            .push_blob(
                self.reference,
                blob,
                &mut || Ok(Box::new(File::open(&path)?) as Box<dyn Read>),
                self.mount_from.as_deref(),
                &mut |event| on_event(event),
                self.cancel,
            )
            .map_err(|error| registry_failed("push", self.reference, error))
    }

    /// A gzip of a layer: one that the store has, else one made now, and kept.
    fn compressed(&self, diff_id: &DiffId, listed: &Descriptor) -> Result<Descriptor, ManageError> {
        let gzip = if listed.media_type.starts_with("application/vnd.docker.") {
            media_type::DOCKER_LAYER_GZIP
        } else {
            media_type::OCI_LAYER_GZIP
        };
        let known = self.store.diff_blobs(diff_id)?.into_iter().find(|blob| blob.media_type.ends_with("gzip"));
        if let Some(known) = known
            && self.lease.hold_blob(&known.digest)?
        {
            return Ok(Descriptor::new(gzip, known.digest, known.size));
        }
        let path = self.store.blob_path(&listed.digest);
        let failed = |action| {
            let path = path.clone();
            move |source| ManageError::Io { action, path, source }
        };
        let mut tar = self.store.open_layer(diff_id)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let options = EncoderOptions::Gzip { level: 6, threads };
        let mut encoder = Encoder::new(self.store.blob_writer(self.lease)?, options).map_err(failed("compress"))?;
        let tar_size = copy(&mut tar, &mut encoder, self.cancel).map_err(|error| match error {
            CopyError::Cancelled => ManageError::Cancelled,
            CopyError::Read(source) => failed("read")(source),
            CopyError::Write(source) => failed("compress")(source),
        })?;
        let (digest, size) = encoder.finish().map_err(failed("compress"))?.commit()?;
        let blob = LayerBlob { media_type: gzip.to_owned(), digest: digest.clone(), size, tar_size: Some(tar_size) };
        self.store.add_diff_blob(diff_id, &blob)?;
        Ok(Descriptor::new(gzip, digest, size))
    }
}

fn is_plain(media_type: &str) -> bool {
    matches!(media_type, media_type::DOCKER_LAYER | media_type::OCI_LAYER)
}

/// What is done with one piece of work; it may tell facts.
type Each<'a, T, R> = dyn Fn(&T, &dyn Fn(TransferFact)) -> Result<R, ManageError> + Sync + 'a;

/// Does every piece of work, some at once; facts are told by the calling thread. The first error ends it all.
fn in_parallel<T: Sync, R: Send>(
    threads: usize,
    work: &[T],
    cancel: &AtomicBool,
    on_fact: &mut dyn FnMut(&TransferFact),
    each: &Each<'_, T, R>,
) -> Result<Vec<R>, ManageError> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (facts, said) = mpsc::channel();
    let mut results: Vec<(usize, Result<R, ManageError>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(work.len()))
            .map(|_| {
                let (facts, next, stop) = (facts.clone(), &next, &stop);
                scope.spawn(move || {
                    let mut done = Vec::new();
                    while !stop.load(Ordering::SeqCst) && !cancel.load(Ordering::SeqCst) {
                        let at = next.fetch_add(1, Ordering::SeqCst);
                        let Some(piece) = work.get(at) else { break };
                        // A caller that no longer listens is about to return.
                        let result = each(piece, &|fact| drop(facts.send(fact)));
                        if result.is_err() {
                            stop.store(true, Ordering::SeqCst);
                        }
                        done.push((at, result));
                    }
                    done
                })
            })
            .collect();
        drop(facts);
        for fact in said {
            on_fact(&fact);
        }
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(at, _)| *at);
    let results: Vec<R> = results.into_iter().map(|(_, result)| result).collect::<Result<_, _>>()?;
    if results.len() != work.len() || cancel.load(Ordering::SeqCst) {
        return Err(ManageError::Cancelled);
    }
    Ok(results)
}

enum CopyError {
    Cancelled,
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut dyn Read, to: &mut dyn io::Write, cancel: &AtomicBool) -> Result<u64, CopyError> {
    let mut buffer = vec![0; 128 * 1024];
    let mut copied = 0;
    loop {
        if cancel.load(Ordering::SeqCst) {
            return Err(CopyError::Cancelled);
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        to.write_all(buffer.get(..count).unwrap_or_default()).map_err(CopyError::Write)?;
        copied += count as u64;
    }
}

fn registry_failed(action: &'static str, reference: &Reference, error: RegistryError) -> ManageError {
    match error {
        RegistryError::Cancelled => ManageError::Cancelled,
        error => ManageError::Registry { action, name: reference.familiar(), source: Box::new(error) },
    }
}

fn version(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), None) => digest.to_string(),
        (_, Some(tag)) => tag.to_owned(),
        (None, None) => String::new(),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let texts: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    texts.join(": ")
}
