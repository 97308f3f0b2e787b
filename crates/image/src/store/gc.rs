//! Collection of what is no longer used.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::atomic::Lock;
use super::containers::CONTAINERS;
use super::{ATTRIBUTES, Store, StoreError, TMP};
use crate::digest::{DiffId, Digest, ImageId};
use crate::manifest::{Index, Manifest, ManifestKind, annotation};

/// What a collection gives up before it removes what is not referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Nothing.
    Unreferenced,
    /// Images without a name.
    Dangling,
    /// The build cache, with the directories of cache mounts.
    Cache,
    /// All images and the build cache: the store will be empty but for working containers and their layers.
    All,
}

/// What a collection removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Names taken away and identifiers removed from the list, as text.
    pub images: Vec<String>,
    /// Cache records removed.
    pub cache_records: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
    /// Directories of cache mounts removed.
    pub mounts: u64,
    /// Bytes freed.
    pub freed: u64,
    /// Running processes whose work was spared.
    pub live_leases: u64,
}

/// The lease of a process that is gone; locked, so that only one process at a time removes what it left.
struct Stale {
    id: String,
    _lock: Lock,
}

#[derive(Default)]
struct Marked {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<DiffId>,
}

/// Removes a tree of files owned by this process's user, making directories writable where they are not, and returns the
/// bytes freed. A tree that is not there is no error. Symbolic links are not followed.
///
/// # Errors
/// The first fault, after everything else was removed.
pub fn remove_tree(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    if !meta.is_dir() {
        std::fs::remove_file(path)?;
        return Ok(if meta.nlink() == 1 { meta.blocks() * 512 } else { 0 });
    }
    if meta.mode() & 0o700 != 0o700 {
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    }
    let (mut freed, mut fault) = (0, None);
    for entry in std::fs::read_dir(path)? {
        match entry.and_then(|entry| remove_tree(&entry.path())) {
            Ok(bytes) => freed += bytes,
            // Another process removes the same tree.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => fault = fault.or(Some(e)),
        }
    }
    match fault {
        Some(fault) => Err(fault),
        None => std::fs::remove_dir(path).map(|()| freed),
    }
}

impl Store {
    /// Removes what nothing refers to, after giving up what `prune` says. What a running process made, or used since it
    /// began, stays. `remover` removes a tree and returns the bytes freed; use [`remove_tree`], or the sandbox where
    /// files may have other owners.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Json`]; nothing that is referred to is lost then.
    pub fn gc(&self, prune: Prune, remover: &mut dyn FnMut(&Path) -> io::Result<u64>) -> Result<GcReport, StoreError> {
        // Trees are only moved away under the lock, into the collection's own lease, and removed after it.
        let lease = self.lease()?;
        let trash = lease.stage_dir()?;
        let mut report = GcReport::default();
        let stale = {
            let _exclusive = Lock::exclusive(&self.root.join("gc.lock"))?;
            let (cutoff, mut stale) = self.leases(lease.id(), &mut report)?;
            self.give_up(prune, cutoff, &mut report)?;
            let marked = self.mark()?;
            self.sweep_blobs(&marked, cutoff, &mut report)?;
            self.sweep_layers(&marked, cutoff, &trash, &mut report)?;
            self.sweep_diffs(&marked, cutoff)?;
            if matches!(prune, Prune::Cache | Prune::All) {
                self.sweep_mounts(cutoff, &trash, &mut report)?;
            }
            if cutoff.is_none() {
                self.sweep_attributes()?;
            }
            self.sweep_locks()?;
            stale.extend(self.sweep_tmp()?);
            stale
        };
        report.freed += self.remove_stale(&stale, remover)?;
        let dir = lease.dir();
        report.freed += remover(&dir).map_err(StoreError::io("remove", &dir))?;
        Ok(report)
    }

    /// Removes what killed processes were making, and nothing else; the bytes freed. Does nothing while a collection or
    /// another such call is at work.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep_dead(&self, remover: &mut dyn FnMut(&Path) -> io::Result<u64>) -> Result<u64, StoreError> {
        let stale = {
            let Some(_exclusive) = Lock::try_exclusive(&self.root.join("gc.lock"))? else {
                return Ok(0);
            };
            let (_, mut stale) = self.leases("", &mut GcReport::default())?;
            stale.extend(self.sweep_tmp()?);
            stale
        };
        self.remove_stale(&stale, remover)
    }

    fn remove_stale(
        &self,
        stale: &[Stale],
        remover: &mut dyn FnMut(&Path) -> io::Result<u64>,
    ) -> Result<u64, StoreError> {
        let mut freed = 0;
        for Stale { id, .. } in stale {
            let dir = self.root.join(TMP).join(id);
            freed += remover(&dir).map_err(StoreError::io("remove", &dir))?;
            // The file goes last: until then another collection will try again.
            self.remove_file(&self.root.join("leases").join(id))?;
        }
        Ok(freed)
    }

    /// The start of the oldest running lease, and the leases of processes that are gone.
    fn leases(&self, own: &str, report: &mut GcReport) -> Result<(Option<SystemTime>, Vec<Stale>), StoreError> {
        let (mut oldest, mut stale) = (None::<SystemTime>, Vec::new());
        for path in list(&self.root.join("leases"))? {
            let Some(id) = path.file_name().and_then(|n| n.to_str()).filter(|id| *id != own) else {
                continue;
            };
            let started = match path.metadata().and_then(|meta| meta.modified()) {
                Ok(time) => time,
                // It just ended.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("look at", &path)(e)),
            };
            if let Some(lock) = Lock::try_exclusive(&path)? {
                let id = id.to_owned();
                stale.push(Stale { id, _lock: lock });
            } else {
                report.live_leases += 1;
                oldest = Some(oldest.map_or(started, |oldest| oldest.min(started)));
            }
        }
        Ok((oldest, stale))
    }

    fn give_up(&self, prune: Prune, cutoff: Option<SystemTime>, report: &mut GcReport) -> Result<(), StoreError> {
        if matches!(prune, Prune::Dangling | Prune::All) {
            self.change_index_locked(|entries| {
                entries.retain(|entry| {
                    let name = entry.annotations.get(annotation::IMAGE_NAME);
                    let keep = prune == Prune::Dangling && name.is_some();
                    if !keep {
                        report.images.push(name.cloned().unwrap_or_else(|| entry.digest.to_string()));
                    }
                    keep
                });
                Ok(())
            })?;
        }
        if matches!(prune, Prune::Cache | Prune::All) {
            for path in list(&self.root.join("cache"))? {
                if is_old(&path, cutoff)? {
                    self.remove_file(&path)?;
                    report.cache_records += 1;
                }
            }
        }
        Ok(())
    }

    fn mark(&self) -> Result<Marked, StoreError> {
        let mut marked = Marked::default();
        for entry in self.index()?.manifests {
            self.mark_manifest(&entry.digest, Some(&entry.media_type), 0, &mut marked)?;
        }
        for (_, record) in self.cache_list()? {
            for id in &record.images {
                self.mark_image(id, &mut marked)?;
            }
            for diff_id in &record.layers {
                self.mark_layer(diff_id, &mut marked)?;
            }
            marked.blobs.extend(record.blobs);
        }
        for diff_id in self.layers_of_containers()? {
            self.mark_layer(&diff_id, &mut marked)?;
        }
        Ok(marked)
    }

    fn mark_manifest(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        depth: u32,
        marked: &mut Marked,
    ) -> Result<(), StoreError> {
        if !marked.blobs.insert(digest.clone()) || depth > 4 {
            return Ok(());
        }
        let manifest: Manifest = match self.manifest(digest, media_type) {
            Ok(manifest) => manifest,
            // A torn or missing manifest refers to nothing; using the image tells of it.
            Err(StoreError::NoBlob(_) | StoreError::Manifest(_)) => return Ok(()),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        match manifest.kind() {
            ManifestKind::Image(image) => {
                self.mark_image(&ImageId(image.config.digest.clone()), marked)?;
                marked.blobs.extend(image.layers.iter().map(|layer| layer.digest.clone()));
            }
            ManifestKind::Index(Index { manifests, .. }) => {
                for entry in manifests {
                    self.mark_manifest(&entry.digest, Some(&entry.media_type), depth + 1, marked)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn mark_image(&self, id: &ImageId, marked: &mut Marked) -> Result<(), StoreError> {
        if !marked.blobs.insert(id.digest().clone()) {
            return Ok(());
        }
        match self.config(id) {
            Ok((_, config)) => config.diff_ids().iter().try_for_each(|diff_id| self.mark_layer(diff_id, marked)),
            Err(StoreError::NoImage(_) | StoreError::Config(_)) => Ok(()),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn mark_layer(&self, diff_id: &DiffId, marked: &mut Marked) -> Result<(), StoreError> {
        if marked.layers.insert(diff_id.clone()) {
            marked.blobs.extend(self.diff_blobs(diff_id)?.into_iter().map(|blob| blob.digest));
        }
        Ok(())
    }

    fn sweep_blobs(
        &self,
        marked: &Marked,
        cutoff: Option<SystemTime>,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for algorithm in list(&self.root.join("blobs"))? {
            let Some(name) = algorithm.file_name().and_then(|n| n.to_str()).map(str::to_owned) else {
                continue;
            };
            for path in list(&algorithm)? {
                let digest =
                    path.file_name().and_then(|n| n.to_str()).and_then(|hex| format!("{name}:{hex}").parse().ok());
                if digest.is_some_and(|digest: Digest| marked.blobs.contains(&digest)) || !is_old(&path, cutoff)? {
                    continue;
                }
                report.freed += path.metadata().map_or(0, |meta| meta.len());
                self.remove_file(&path)?;
                report.blobs += 1;
            }
        }
        Ok(())
    }

    fn sweep_layers(
        &self,
        marked: &Marked,
        cutoff: Option<SystemTime>,
        trash: &Path,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let live: BTreeSet<&str> = marked.layers.iter().map(DiffId::hex).collect();
        for path in list(&self.root.join("layers"))? {
            let Some(name) = path.file_name() else {
                continue;
            };
            // Whatever the way in which the owners of its files are kept.
            let diff_id = name.to_str().and_then(|name| name.split('.').next());
            if diff_id.is_some_and(|hex| live.contains(hex)) || !is_old(&path, cutoff)? {
                continue;
            }
            std::fs::rename(&path, trash.join(name)).map_err(StoreError::io("move away", &path))?;
            report.layers += 1;
        }
        Ok(())
    }

    fn sweep_mounts(&self, cutoff: Option<SystemTime>, trash: &Path, report: &mut GcReport) -> Result<(), StoreError> {
        for path in list(&self.root.join("mounts"))? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if is_old(&path, cutoff)? {
                std::fs::rename(&path, trash.join(format!("mount-{name}")))
                    .map_err(StoreError::io("move away", &path))?;
                report.mounts += 1;
            }
        }
        Ok(())
    }

    /// Attributes that a file system does not keep: they belong to unpacked files, and go when there are none.
    fn sweep_attributes(&self) -> Result<(), StoreError> {
        for dir in ["layers", "mounts", CONTAINERS] {
            if !list(&self.root.join(dir))?.is_empty() {
                return Ok(());
            }
        }
        list(&self.root.join(ATTRIBUTES))?.iter().try_for_each(|path| self.remove_file(path))
    }

    fn sweep_diffs(&self, marked: &Marked, cutoff: Option<SystemTime>) -> Result<(), StoreError> {
        let live: BTreeSet<&str> = marked.layers.iter().map(DiffId::hex).collect();
        for path in list(&self.root.join("diffs"))? {
            let stem = path.file_stem().and_then(|n| n.to_str());
            if stem.is_some_and(|stem| live.contains(stem)) || !is_old(&path, cutoff)? {
                continue;
            }
            self.remove_file(&path)?;
        }
        Ok(())
    }

    /// Lone files in `tmp` are unfinished writes of dead processes, since writers hold the shared lock. Directories
    /// without a lease are what is left of ended ones; they are returned.
    fn sweep_tmp(&self) -> Result<Vec<Stale>, StoreError> {
        let mut left = Vec::new();
        for path in list(&self.root.join(TMP))? {
            if !path.is_dir() {
                self.remove_file(&path)?;
            } else if let Some(name) = path.file_name().and_then(|n| n.to_str())
                && !self.root.join("leases").join(name).exists()
                && let Some(lock) = Lock::try_exclusive(&self.root.join("leases").join(name))?
            {
                let id = name.to_owned();
                left.push(Stale { id, _lock: lock });
            }
        }
        Ok(left)
    }

    fn remove_file(&self, path: &Path) -> Result<(), StoreError> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(e)),
            _ => Ok(()),
        }
    }
}

/// The paths in a directory, sorted; none if there is no such directory.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("list", dir)(e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(StoreError::io("list", dir))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Whether a file was last changed or touched before `cutoff`, or at all.
fn is_old(path: &Path, cutoff: Option<SystemTime>) -> Result<bool, StoreError> {
    let Some(cutoff) = cutoff else {
        return Ok(true);
    };
    match path.symlink_metadata().and_then(|meta| meta.modified()) {
        Ok(time) => Ok(time < cutoff),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("look at", path)(e)),
    }
}
