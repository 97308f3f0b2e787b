//! What all steps of one build share.

mod cache;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_image::archive::{self, ArchiveError, Loaded};
use rbuild_image::compression::ReadAhead;
use rbuild_image::digest::{DiffId, ImageId};
use rbuild_image::layer::LayerReader;
use rbuild_image::manifest::{Descriptor, annotation};
use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::registry::{CredentialUse, Found, Registry, RegistryError, Resolved, TransferEvent};
use rbuild_image::store::{LayerBlob, Lease, NamedLock, Store, StoreError};
use rbuild_logfmt::event::{Builder, Failure, PullFailure, StepKind, Version};
use rbuild_sandbox::root::{Ownership, Root};
use rbuild_sandbox::{Facts, Privilege};

use crate::base::{BaseImage, BaseLayer, Remote};
use crate::cancel::{Cancel, Cancellable};
use crate::context::{Context, ContextError, NamedContext, NamedSource, layout_digest};
use crate::download::Download;
use crate::emit::Emitter;
use crate::interactive::{Hands, Shells};
use crate::journal::Journal;
use crate::options::BuildOptions;
use crate::plan::buildkit::NamedBase;
use crate::pull_failure::pull_failure;
use crate::removal::{Removals, remove_large_tree};
use crate::stop::Stop;
use crate::{git, manage, rootfs};

/// What all steps of one build share.
pub(crate) struct Session<'a> {
    options: &'a BuildOptions,
    facts: Facts,
    /// Cancelled from outside, or because a step failed.
    abort: Cancel,
    emitter: Emitter,
    store: Store,
    lease: Lease,
    registry: Registry,
    mount_points: Mutex<Option<PathBuf>>,
    /// Files from the web that came in this build, by address.
    downloads: Mutex<HashMap<String, Download>>,
    /// Git repositories that ADD names, by what is wanted of them.
    repositories: Mutex<HashMap<String, git::Loaded>>,
    input: Mutex<Option<OwnedFd>>,
    output: Mutex<Option<OwnedFd>>,
    removals: Removals,
    /// Uses of passwords that the log has.
    told_uses: Mutex<HashSet<CredentialUse>>,
    journal: Arc<Journal>,
    shells: Shells,
    hands: Hands,
}

/// Layers of a base image as they come.
pub(crate) trait PullProgress: Sync {
    /// The pull begins.
    fn begin(&self) {}
    /// The layer is here already.
    fn exists(&self, _layer: &BaseLayer) {}
    /// The layer is to be fetched.
    fn pulling(&self, _layer: &BaseLayer) {}
    /// So much of its blob is here.
    fn downloading(&self, _blob: &Descriptor, _current: u64) {}
    /// Its blob is here whole.
    fn downloaded(&self, _blob: &Descriptor) {}
    /// It is being unpacked.
    fn extracting(&self, _layer: &BaseLayer) {}
    /// It is unpacked.
    fn extracted(&self, _layer: &BaseLayer) {}
    /// Nothing at all of its blob came.
    fn refused(&self, _blob: &Descriptor) {}
}

/// For pulls that nobody watches.
pub(crate) struct Unwatched;

impl PullProgress for Unwatched {}

impl<'a> Session<'a> {
    pub(crate) fn open(
        options: &'a BuildOptions,
        facts: Facts,
        cancel: &Cancel,
        emitter: Emitter,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<Session<'a>, (Emitter, Stop)> {
        let open = || -> Result<_, Stop> {
            let store = Store::open(&options.store.root)?.with_owners(&facts.owners());
            let lease = store.lease()?;
            lease.stop_with(cancel.shared_flag());
            let registry =
                manage::registry_of_build(&options.registry, options.dialect).map_err(|error| Stop::own(&error))?;
            Ok((store, lease, registry))
        };
        let (store, lease, registry) = match open() {
            Ok(parts) => parts,
            Err(stop) => return Err((emitter, stop)),
        };
        Ok(Session {
            options,
            facts,
            abort: cancel.clone(),
            emitter,
            store,
            lease,
            registry,
            mount_points: Mutex::default(),
            downloads: Mutex::default(),
            repositories: Mutex::default(),
            input: Mutex::new(input),
            output: Mutex::new(output),
            removals: Removals::default(),
            told_uses: Mutex::default(),
            journal: Arc::default(),
            shells: Shells::default(),
            hands: Hands::new(&options.by_hand),
        })
    }

    /// With a journal that somebody reads, and shells that somebody can open.
    pub(crate) fn watched(self, journal: &Arc<Journal>, shells: Shells) -> Session<'a> {
        Session { journal: Arc::clone(journal), shells, ..self }
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn shells(&self) -> &Shells {
        &self.shells
    }

    /// Layers of steps that were made by hand.
    pub(crate) fn hands(&self) -> &Hands {
        &self.hands
    }

    pub(crate) fn options(&self) -> &BuildOptions {
        self.options
    }

    pub(crate) fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.abort
    }

    pub(crate) fn is_legacy(&self) -> bool {
        self.options.dialect.builder == Builder::Legacy
    }

    /// Whether ADD unpacks xz archives. Docker runs the `xz` program for it: where the daemon finds none, as in the
    /// recordings of 28.5, an xz archive is no archive to it; 20.10's were made with one.
    pub(crate) fn unpacks_xz(&self) -> bool {
        self.options.unpack_xz.unwrap_or(self.options.dialect.version == Version::V20)
    }

    /// Standard input of the caller; to be had once.
    pub(crate) fn take_input(&self) -> Option<OwnedFd> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Standard output of the caller; to be had once.
    pub(crate) fn take_output(&self) -> Option<OwnedFd> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How this process is confined.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How owners are kept in files.
    pub(crate) fn ownership(&self) -> Ownership {
        match self.facts.privilege {
            Privilege::OneId => Ownership::Recorded,
            _ => Ownership::Real,
        }
    }

    /// Ends the build if it was cancelled.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if self.abort.is_cancelled() { Err(Stop::Cancelled) } else { Ok(()) }
    }

    /// Ends running commands and transfers, because a step failed.
    pub(crate) fn abort(&self) {
        self.abort.cancel();
    }

    /// A new empty directory of this build, on the file system of the store.
    pub(crate) fn scratch_dir(&self) -> Result<PathBuf, Stop> {
        Ok(self.lease.stage_dir()?)
    }

    /// Where mount points lie that images lack; the same for all steps, so that they are made once.
    pub(crate) fn mount_points(&self) -> Result<PathBuf, Stop> {
        let mut dir = self.mount_points.lock().unwrap_or_else(PoisonError::into_inner);
        match &*dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(dir.insert(self.scratch_dir()?).clone()),
        }
    }

    /// Removes a directory of this build, while the build goes on.
    pub(crate) fn forget_dir(&self, dir: &Path) {
        self.removals.begin(dir);
    }

    /// Directories of unpacked layers, top first, from a stack with the lowest first.
    ///
    /// A layer that occurs several times counts where it is topmost: whatever is in it, and whatever it hides, is
    /// decided there, and overlayfs takes no directory twice.
    pub(crate) fn unpacked(&self, layers: &[DiffId]) -> Result<Vec<PathBuf>, Stop> {
        let mut seen = std::collections::HashSet::new();
        let topmost = layers.iter().rev().filter(|layer| seen.insert(*layer));
        topmost.map(|layer| self.unpacked_layer(layer)).collect()
    }

    fn unpacked_layer(&self, layer: &DiffId) -> Result<PathBuf, Stop> {
        if let Some(path) = self.lease.hold_layer(layer)? {
            return Ok(path);
        }
        let _one_at_a_time = self.lock(&layer_lock(layer))?;
        if let Some(path) = self.lease.hold_layer(layer)? {
            return Ok(path);
        }
        // Any blob will do that holds it; one may have been torn by a power cut.
        let mut failed = None;
        for blob in self.store.diff_blobs(layer)? {
            match self.unpack(layer, &blob) {
                Ok(path) => return Ok(path),
                Err(stop) => {
                    self.check()?;
                    failed.get_or_insert(stop);
                }
            }
        }
        match failed {
            Some(stop) => Err(stop),
            None => Err(StoreError::NoLayer(layer.clone()).into()),
        }
    }

    /// Waits for a lock among all builds on the store, as long as nobody cancels.
    pub(crate) fn lock(&self, name: &str) -> Result<NamedLock, Stop> {
        loop {
            self.check()?;
            if let Some(lock) = self.store.try_lock(name)? {
                return Ok(lock);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }

    /// Unpacks a layer from a blob of the store, if the blob holds that layer.
    fn unpack(&self, layer: &DiffId, blob: &LayerBlob) -> Result<PathBuf, Stop> {
        let dir = self.scratch_dir()?;
        let unpacked = self.unpack_into(&dir, layer, blob);
        if unpacked.is_err() {
            self.forget_dir(&dir);
        }
        unpacked
    }

    fn unpack_into(&self, dir: &Path, layer: &DiffId, blob: &LayerBlob) -> Result<PathBuf, Stop> {
        let target = dir.join("fs");
        std::fs::create_dir(&target)?;
        let root = Root::open(&target, self.ownership())?;
        let tar = self.store.open_layer_in(&blob.digest, layer)?;
        let tar = ReadAhead::new(tar)?;
        let mut reader = LayerReader::new(Cancellable { inner: tar, cancel: self.abort.flag() });
        let read = rootfs::apply(&mut reader, &root, &[]).map_err(Stop::from);
        // To the end: only there its digest is known.
        if let Err(stop) = read.and_then(|_| reader.drain().map_err(Stop::from)) {
            self.check()?;
            return Err(self.bad_layer(blob, stop));
        }
        drop(root);
        Ok(self.store.publish_unpacked(layer, dir)?)
    }

    /// Says which layer could not be unpacked. A blob that is not even what it was stored as is removed, so that it is
    /// fetched again.
    fn bad_layer(&self, blob: &LayerBlob, stop: Stop) -> Stop {
        let Stop::Failed(mut failed) = stop else { return stop };
        if let Failure::Own { message, hint } = &mut failed.failure {
            *message = format!("cannot unpack layer {}: {message}", blob.digest);
            match self.store.remove_if_torn(&blob.digest) {
                Ok(true) => {
                    *hint = Some(
                        "the store's copy was damaged and is removed now; build again to fetch it anew".to_owned(),
                    );
                }
                Ok(false) if hint.is_none() => {
                    *hint = Some("the image itself is damaged: whoever made it must push it again".to_owned());
                }
                _ => {}
            }
        }
        Stop::Failed(failed)
    }

    /// Gives a directory mode and owner of another (a layer's root), or those of an empty image.
    pub(crate) fn copy_root_attributes(&self, from: Option<&Path>, to: &Path) -> Result<(), Stop> {
        let target = Root::open(to, self.ownership())?;
        let node = target.node("/")?;
        match from {
            Some(from) => {
                let source = Root::open(from, self.ownership())?.stat("/")?;
                node.chown(source.uid, source.gid)?;
                node.chmod(source.mode)?;
                node.set_times(source.mtime, source.mtime)?;
            }
            None => node.chmod(0o755)?,
        }
        Ok(())
    }

    /// Looks an image up in the store: by name, id or prefix of one; of any platform.
    pub(crate) fn local_image(&self, name: &str) -> Result<Option<BaseImage>, Stop> {
        let id = if name.len() < SHORTEST_ID {
            let Ok(name) = Reference::parse_normalized(name, DockerVersion::V28) else { return Ok(None) };
            let Some(id) = self.store.resolve_reference(&name.or_latest())? else { return Ok(None) };
            id
        } else {
            match self.store.resolve(name) {
                Ok(id) => id,
                Err(StoreError::NoImage(_) | StoreError::Ambiguous(..)) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        self.stored_image(id, name)
    }

    fn stored_image(&self, id: ImageId, name: &str) -> Result<Option<BaseImage>, Stop> {
        if !self.lease.hold_image(&id)? {
            return Ok(None);
        }
        let image = self.store.image(&id)?;
        let mut layers = Vec::new();
        for layer in image.layers {
            if layer.unpacked.is_none() && layer.blobs.is_empty() {
                // Its layers were never fetched: the registry has them.
                return Ok(None);
            }
            layers.push(BaseLayer { diff_id: layer.diff_id, blob: None });
        }
        Ok(Some(BaseImage { id, config: image.config, layers, shown: name.to_owned(), remote: None }))
    }

    /// An image of the store, if it is for this platform.
    fn stored_image_for(&self, id: ImageId, name: &str, platform: &Platform) -> Result<Option<BaseImage>, Stop> {
        Ok(self.stored_image(id, name)?.filter(|image| {
            let has = image.config.platform().normalized();
            platform.compatible().iter().any(|wanted| wanted.is_same(&has))
        }))
    }

    /// An image of the store that no registry gave: built, loaded or imported here.
    pub(crate) fn built_here(&self, reference: &Reference, platform: &Platform) -> Result<Option<BaseImage>, Stop> {
        let Some(id) = self.store.resolve_reference(reference)? else { return Ok(None) };
        let pulled = self.store.list()?.into_iter().any(|image| image.id == id && !image.pulled.is_empty());
        if pulled {
            return Ok(None);
        }
        self.stored_image_for(id, &reference.to_string(), platform)
    }

    /// Whether an earlier build, or a pull, gave the store this very image under this very name.
    pub(crate) fn is_named(&self, image: &BaseImage) -> Result<bool, Stop> {
        match &image.remote {
            Some(remote) => Ok(self.store.resolve_reference(&remote.reference)?.as_ref() == Some(&image.id)),
            None => Ok(true),
        }
    }

    /// Whether all layers of an image are here, ready to be mounted.
    pub(crate) fn is_unpacked(&self, image: &BaseImage) -> Result<bool, Stop> {
        for layer in &image.layers {
            if self.lease.hold_layer(&layer.diff_id)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the store lists this very image, whatever its names.
    pub(crate) fn is_listed(&self, image: &BaseImage) -> Result<bool, Stop> {
        Ok(self.store.list()?.iter().any(|listed| listed.id == image.id))
    }

    /// Lists a base image by its name, so that it outlives this build.
    pub(crate) fn name_base(&self, image: &BaseImage) -> Result<(), Stop> {
        let Some(remote) = &image.remote else { return Ok(()) };
        for bytes in [remote.top_bytes.as_slice(), remote.manifest.bytes()] {
            self.store.put_blob(&self.lease, bytes)?;
        }
        let id = self.store.put_image(&self.lease, &remote.config_bytes, Some(&remote.manifest), &[])?;
        Ok(self.store.tag_pulled(&self.lease, &id, &remote.reference, Some(&remote.top.digest))?)
    }

    /// Asks the registry for an image.
    pub(crate) fn remote_image(&self, reference: &Reference, platform: &Platform) -> Result<BaseImage, Stop> {
        self.remote_image_noting(reference, platform, &mut |_| {})
    }

    /// As [`Session::remote_image`]; `found` hears how far it got.
    pub(crate) fn remote_image_noting(
        &self,
        reference: &Reference,
        platform: &Platform,
        found: &mut dyn FnMut(Found<'_>),
    ) -> Result<BaseImage, Stop> {
        let resolved = self.registry.resolve_noting(reference, platform, found, self.abort.flag());
        for used in self.registry.take_credential_uses() {
            if !self.told_uses.lock().unwrap_or_else(PoisonError::into_inner).insert(used.clone()) {
                continue;
            }
            let step = self.emitter.begin(StepKind::Auth { scope: used.scope, host: used.host }, &[]);
            self.emitter.done(step);
        }
        let resolved = resolved.map_err(|error| self.pull_failed(&reference.to_string(), platform, None, &error))?;
        self.image_of(reference, resolved)
    }

    /// An image as a registry told it.
    pub(crate) fn image_of(&self, reference: &Reference, resolved: Resolved) -> Result<BaseImage, Stop> {
        let image = resolved.image().clone();
        let diff_ids = resolved.config.diff_ids();
        if diff_ids.len() != image.layers.len() {
            return Err(Stop::failed(Failure::Pull {
                flag: None,
                reference: reference.to_string(),
                cause: Box::new(PullFailure::Other {
                    detail: format!(
                        "its configuration names {} layers, its manifest {}",
                        diff_ids.len(),
                        image.layers.len()
                    ),
                }),
            }));
        }
        let layers = diff_ids.iter().zip(&image.layers);
        let layers =
            layers.map(|(diff_id, blob)| BaseLayer { diff_id: diff_id.clone(), blob: Some(blob.clone()) }).collect();
        let top = resolved.top.descriptor();
        let shown = match reference.digest() {
            Some(_) => reference.to_string(),
            None => reference.with_digest(top.digest.clone()).to_string(),
        };
        Ok(BaseImage {
            id: ImageId(image.config.digest.clone()),
            config: resolved.config.clone(),
            layers,
            shown,
            remote: Some(Remote {
                reference: reference.clone(),
                config: image.config.clone(),
                top,
                top_bytes: resolved.top.bytes().to_vec(),
                config_bytes: resolved.config_bytes.clone(),
                manifest: resolved.manifest,
            }),
        })
    }

    pub(crate) fn pull_failed(
        &self,
        reference: &str,
        platform: &Platform,
        layer: Option<&Descriptor>,
        error: &RegistryError,
    ) -> Stop {
        if self.abort.is_cancelled() {
            return Stop::Cancelled;
        }
        if matches!(error, RegistryError::Sink { .. }) {
            // It is our own disk that failed, and not the registry.
            let root = self.store.root();
            return Stop::own(error).while_doing(|| format!("cannot store {reference} in `{}`", root.display()));
        }
        Stop::failed(Failure::Pull {
            reference: reference.to_owned(),
            cause: Box::new(pull_failure(platform, layer, error)),
            flag: None,
        })
    }

    /// Fetches and unpacks what is missing of an image: several blobs at once, each layer unpacked as soon as it is
    /// here.
    pub(crate) fn fetch(&self, image: &BaseImage, progress: &dyn PullProgress) -> Result<(), Stop> {
        let mut missing = Vec::new();
        progress.begin();
        for layer in &image.layers {
            if self.lease.hold_layer(&layer.diff_id)?.is_some() {
                progress.exists(layer);
            } else {
                progress.pulling(layer);
                missing.push(layer);
            }
        }
        let next = AtomicU64::new(0);
        let failed: Mutex<Option<Stop>> = Mutex::new(None);
        let fetch_some = || {
            while failed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                let Some(layer) = missing.get(index) else { return };
                if let Err(stop) = self.fetch_layer(image, layer, progress) {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stop);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..missing.len().min(PARALLEL_LAYERS) {
                scope.spawn(fetch_some);
            }
            fetch_some();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }

    fn fetch_layer(&self, image: &BaseImage, layer: &BaseLayer, progress: &dyn PullProgress) -> Result<(), Stop> {
        // Of several builds, and of several images that share it, one fetches the layer.
        let _one_at_a_time = self.lock(&layer_lock(&layer.diff_id))?;
        let is_here = self.lease.hold_layer(&layer.diff_id)?.is_some();
        let Some((blob, remote)) = layer.blob.as_ref().zip(image.remote.as_ref()) else {
            progress.extracting(layer);
            drop(_one_at_a_time);
            self.unpacked_layer(&layer.diff_id)?;
            progress.extracted(layer);
            return Ok(());
        };
        if !is_here {
            let complete =
                self.lease.hold_blob(&blob.digest)? && self.store.blob_size(&blob.digest)? == Some(blob.size);
            if !complete {
                let mut writer = self.store.blob_writer(&self.lease)?;
                let mut report = |event: TransferEvent<'_>| {
                    if let TransferEvent::Progress { current, .. } = event {
                        progress.downloading(blob, current);
                    }
                };
                self.registry
                    .fetch_blob(&remote.reference, blob, &mut writer, &mut report, self.abort.flag())
                    .map_err(|error| {
                        if !matches!(error, RegistryError::Content { .. } | RegistryError::Sink { .. }) {
                            progress.refused(blob);
                        }
                        let name = remote.reference.to_string();
                        self.pull_failed(&name, &image.config.platform(), Some(blob), &error)
                    })?;
                writer.commit()?;
            }
        }
        progress.downloaded(blob);
        progress.extracting(layer);
        if !is_here {
            let known = LayerBlob {
                media_type: blob.media_type.clone(),
                digest: blob.digest.clone(),
                size: blob.size,
                tar_size: None,
            };
            self.unpack(&layer.diff_id, &known)?;
            // Not before: an image may claim that its blob is the layer of another.
            self.store.add_diff_blob(&layer.diff_id, &known)?;
        }
        progress.extracted(layer);
        Ok(())
    }

    /// A file from the web, fetched once in a build.
    pub(crate) fn download(&self, url: &str, checksum: Option<&str>) -> Result<Download, Stop> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match downloads.get(url) {
            Some(file) => file.clone(),
            None => {
                let file = Download::fetch(self, url)?;
                downloads.insert(url.to_owned(), file.clone());
                file
            }
        };
        file.check(checksum)?;
        Ok(file)
    }

    /// Git repositories that ADD names and that are here.
    pub(crate) fn repositories(&self) -> &Mutex<HashMap<String, git::Loaded>> {
        &self.repositories
    }

    /// What Docker says of a context that cannot be used.
    pub(crate) fn context_failed(&self, error: &ContextError) -> Stop {
        Stop::failed(error.failure(self.options.dialect))
    }

    /// A source that `--build-context` names; a directory is opened.
    pub(crate) fn named_base(&self, mut named: NamedContext) -> Result<NamedBase, Stop> {
        if let NamedSource::OciLayout { path, tag, digest: digest @ None } = &mut named.source {
            let found = layout_digest(path, tag).map_err(|reason| {
                let layout = format!("oci-layout://{}", path.display());
                self.context_failed(&ContextError::NamedLayout { layout, reason })
            })?;
            *digest = Some(found);
        }
        let directory = match &named.source {
            NamedSource::Directory(path) => {
                let here = if path.is_absolute() { PathBuf::from("/") } else { std::env::current_dir()? };
                let opened = Context::open_named(&named.name, path, &here, self.options.dialect);
                Some(Arc::new(opened.map_err(|error| self.context_failed(&error))?))
            }
            _ => None,
        };
        Ok(NamedBase { context: named, directory })
    }

    /// The image of a named context that is a file or a directory with images.
    pub(crate) fn named_image(&self, named: &NamedContext, platform: &Platform) -> Result<BaseImage, Stop> {
        let name = &named.name;
        let unsupported = |what: &str| {
            Stop::failed(Failure::Own {
                message: format!("the build context `{name}` is {what}, which is not supported yet"),
                hint: None,
            })
        };
        match &named.source {
            NamedSource::OciLayout { path, tag, digest } => {
                let select = |entry: &Descriptor| match digest {
                    Some(digest) => entry.digest.as_str() == digest,
                    None => entry.annotations.get(annotation::REF_NAME).is_some_and(|name| name == tag),
                };
                let loaded = archive::load_dir(&self.store, &self.lease, path, platform, &select);
                self.imported(loaded, &path.to_string_lossy(), platform)
            }
            NamedSource::DockerArchive(path) => {
                let file = std::fs::File::open(path).map_err(|error| {
                    Stop::failed(Failure::Own {
                        message: format!("cannot open `{}`: {error}", path.display()),
                        hint: None,
                    })
                })?;
                let loaded = archive::load(&self.store, &self.lease, file, platform);
                self.imported(loaded, &path.to_string_lossy(), platform)
            }
            NamedSource::Directory(_) | NamedSource::Image(_) => Err(unsupported("no file with images")),
            NamedSource::Target(_) => Err(unsupported("a target of another build")),
            NamedSource::Remote(_) => Err(unsupported("a URL that is no git repository")),
        }
    }

    fn imported(
        &self,
        loaded: Result<Vec<Loaded>, ArchiveError>,
        shown: &str,
        platform: &Platform,
    ) -> Result<BaseImage, Stop> {
        let first = loaded.map_err(|error| Stop::own(&error))?.into_iter().next();
        let image = match first {
            Some(loaded) => self.stored_image_for(loaded.id, shown, platform)?,
            None => None,
        };
        image.ok_or_else(|| {
            Stop::failed(Failure::Own { message: format!("`{shown}` has no image for {platform}"), hint: None })
        })
    }

    /// The directory of a cache mount; `fill` gives a new one its content and attributes before anybody sees it.
    pub(crate) fn cache_mount(&self, id: &str, fill: impl FnOnce(&Path) -> Result<(), Stop>) -> Result<PathBuf, Stop> {
        if let Some(dir) = self.lease.hold_mount(id)? {
            return Ok(dir);
        }
        let staged = self.scratch_dir()?;
        let content = staged.join("fs");
        std::fs::create_dir(&content)?;
        fill(&content)?;
        Ok(self.store.publish_mount(id, &staged)?)
    }

    /// Removes what this build kept for itself.
    pub(crate) fn close(self) {
        self.removals.finish();
        let ended = self.lease.end(&mut |path| {
            remove_large_tree(path).map_err(std::io::Error::other)?;
            Ok(0)
        });
        let swept = ended.and_then(|()| {
            self.store.sweep_dead(&mut |path| {
                remove_large_tree(path).map_err(std::io::Error::other)?;
                Ok(0)
            })
        });
        if let Err(error) = swept {
            tracing::debug!(%error, "left for the next collection");
        }
    }
}

/// So much of an image's id stands for it in a Dockerfile: less is a name, and may be the beginning of an id by chance.
const SHORTEST_ID: usize = 4;

/// How many layers of an image are fetched and unpacked at once.
const PARALLEL_LAYERS: usize = 3;

/// The lock under which a layer is fetched and unpacked.
fn layer_lock(layer: &DiffId) -> String {
    format!("layer {}", layer.digest())
}

/// How often a lock that somebody has is tried.
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
