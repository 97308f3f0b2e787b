//! Snapshots: stacks of unpacked layers, mounted to be read or changed, and what a change becomes.

use std::path::{Path, PathBuf};

use rbuild_image::digest::DiffId;
use rbuild_image::layer::{LayerReader, LayerWriter};
use rbuild_image::manifest::media_type;
use rbuild_image::store::LayerBlob;
use rbuild_sandbox::root::Root;
use rbuild_sandbox::{Durability, Overlay, OverlayMount, mount_layers, mount_overlay};

use crate::cancel::Cancellable;
use crate::rootfs;
use crate::session::Session;
use crate::stop::Stop;

/// A place where a snapshot is changed: all changes end up in one directory.
#[derive(Debug)]
pub(crate) struct Change {
    dir: PathBuf,
    overlay: Overlay,
    /// Something was changed before.
    resumed: bool,
}

/// A layer that a change became.
#[derive(Clone, Debug)]
pub(crate) struct NewLayer {
    pub(crate) diff_id: DiffId,
    /// Nothing was changed: its tar has no entries.
    pub(crate) empty: bool,
}

impl Change {
    /// Begins a change of a stack of layers (lowest first), all of which are unpacked. `beneath` are directories
    /// between the stack and the change, which become part of no layer.
    pub(crate) fn begin(session: &Session, layers: &[DiffId], beneath: &[PathBuf]) -> Result<Change, Stop> {
        let dir = session.scratch_dir()?;
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for path in [&upper, &work] {
            std::fs::create_dir(path)?;
        }
        let stack = session.unpacked(layers)?;
        // The root directory keeps mode and owner of the layer beneath.
        session.copy_root_attributes(stack.first().map(PathBuf::as_path), &upper)?;
        let lower = beneath.iter().cloned().chain(stack).collect();
        let overlay = Overlay { lower, upper, work, durability: Durability::Volatile };
        Ok(Change { dir, overlay, resumed: false })
    }

    /// Goes on with a change that outlives the session: `place` has the directory of changes, `fs`, and one for the
    /// kernel's use, `work`. Neither [`Change::pack`] nor [`Change::discard`] takes anything of it away.
    pub(crate) fn resume(
        session: &Session,
        layers: &[DiffId],
        beneath: &[PathBuf],
        place: &Path,
    ) -> Result<Change, Stop> {
        let lower = beneath.iter().cloned().chain(session.unpacked(layers)?).collect();
        let (upper, work) = (place.join("fs"), place.join("work"));
        let overlay = Overlay { lower, upper, work, durability: Durability::Volatile };
        Ok(Change { dir: session.scratch_dir()?, overlay, resumed: true })
    }

    /// Begins with what a layer changes, which is copied.
    pub(crate) fn start_with(&self, session: &Session<'_>, layer: &DiffId) -> Result<(), Stop> {
        let upper = Root::open(&self.overlay.upper, session.ownership())?;
        let mut reader = LayerReader::new(session.store().open_layer(layer)?);
        rootfs::apply(&mut reader, &upper, &[])?;
        Ok(())
    }

    /// For a command, which mounts it by itself.
    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Mounts it, to be changed by this process.
    pub(crate) fn mount(&self) -> Result<OverlayMount, Stop> {
        let target = self.dir.join("merged");
        std::fs::create_dir(&target)?;
        Ok(mount_overlay(&self.overlay, &target)?)
    }

    /// What is there before the change, or so far in one that is gone on with, to be read: far cheaper than to mount it
    /// to be changed.
    pub(crate) fn look(&self) -> Result<View, Stop> {
        if self.resumed {
            let layers: Vec<PathBuf> =
                std::iter::once(&self.overlay.upper).chain(&self.overlay.lower).cloned().collect();
            return View::of(&layers, &self.overlay.upper, &self.dir);
        }
        // The directory is only used while the change is mounted.
        View::of(&self.overlay.lower, &self.overlay.upper, &self.overlay.work)
    }

    /// Writes the layer's tar into the store while hashing it.
    pub(crate) fn pack(&self, session: &Session<'_>) -> Result<NewLayer, Stop> {
        pack(session, &self.overlay.upper)
    }

    /// Writes the layer's tar into the store while hashing it, and keeps the directory as its unpacked form.
    pub(crate) fn commit(self, session: &Session<'_>) -> Result<NewLayer, Stop> {
        let layer = self.pack(session)?;
        // What the kernel kept beside it is of no use to a layer.
        let unpacked = self.dir.join("layer");
        std::fs::create_dir(&unpacked)?;
        std::fs::rename(&self.overlay.upper, unpacked.join("fs"))?;
        session.store().publish_unpacked(&layer.diff_id, &unpacked)?;
        session.forget_dir(&self.dir);
        Ok(layer)
    }

    /// Gives up the change.
    pub(crate) fn discard(self, session: &Session) {
        session.forget_dir(&self.dir);
    }
}

/// Writes a directory into the store as the tar of a layer.
pub(crate) fn pack(session: &Session<'_>, dir: &Path) -> Result<NewLayer, Stop> {
    let files = Root::open(dir, session.ownership())?;
    let blob = session.store().blob_writer(session.lease())?;
    let mut writer = LayerWriter::new(Cancellable { inner: blob, cancel: session.cancel().flag() });
    let options = rootfs::DiffOptions { rewrite_timestamp: session.options().source_date_epoch, ..Default::default() };
    let written = rootfs::diff(&files, &mut writer, options).map_err(Stop::from);
    let root = session.store().root();
    let what = || format!("cannot store the changes as a layer in `{}`", root.display());
    let written = written.map_err(|stop| session.check().err().unwrap_or(stop.while_doing(what)))?;
    drop(files);
    let (digest, size) = writer.finish().map_err(|e| Stop::from(e).while_doing(what))?.inner.commit()?;
    let diff_id = DiffId(digest.clone());
    let blob = LayerBlob { media_type: media_type::OCI_LAYER.to_owned(), digest, size, tar_size: Some(size) };
    session.store().add_diff_blob(&diff_id, &blob)?;
    Ok(NewLayer { diff_id, empty: written.entries == 0 })
}

/// A stack of layers mounted to be read.
pub(crate) struct View {
    root: PathBuf,
    // Unmounted before the directory goes.
    _mount: Option<OverlayMount>,
}

impl View {
    /// Mounts a stack of layers (lowest first), all of which are unpacked.
    pub(crate) fn open(session: &Session, layers: &[DiffId]) -> Result<View, Stop> {
        let stack = session.unpacked(layers)?;
        if let [only] = stack.as_slice() {
            return Ok(View { root: only.clone(), _mount: None });
        }
        let dir = session.scratch_dir()?;
        if stack.is_empty() {
            session.copy_root_attributes(None, &dir)?;
        }
        View::of(&stack, &dir, &dir)
    }

    /// The layers (top first) mounted on `target`, where there is more than one; `empty` where there is none.
    fn of(layers: &[PathBuf], empty: &Path, target: &Path) -> Result<View, Stop> {
        let alone = match layers {
            [] => Some(empty),
            [only] => Some(only.as_path()),
            _ => None,
        };
        if let Some(root) = alone {
            return Ok(View { root: root.to_owned(), _mount: None });
        }
        let mount = mount_layers(layers, target)?;
        Ok(View { root: target.to_owned(), _mount: Some(mount) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }
}
