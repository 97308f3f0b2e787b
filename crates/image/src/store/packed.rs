//! Layers packed as an output wants them.

use std::io::Write;

use super::{LayerBlob, Lease, Store, StoreError};
use crate::compression::{Encoder, EncoderOptions};
use crate::digest::{DiffId, ImageId};
use crate::manifest::media_type::{self, Family};
use crate::manifest::{Descriptor, ImageManifest, Manifest};

impl Store {
    /// A blob that holds a layer and is compressed in this way: one that is there, else a new one, which is kept with the
    /// layer so that the next output need not compress it again.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] or [`StoreError::Io`]; a layer whose blob is corrupt is of kind `InvalidData`.
    pub fn pack_layer(
        &self,
        lease: &Lease,
        diff_id: &DiffId,
        options: EncoderOptions,
    ) -> Result<LayerBlob, StoreError> {
        lease.hold_layer(diff_id)?;
        let wanted = options.compression();
        let there = self.diff_blobs(diff_id)?;
        if let Some(blob) = there.into_iter().find(|blob| media_type::compression(&blob.media_type) == wanted) {
            return Ok(blob);
        }
        let media_type = Family::Oci.layer(wanted).ok_or(StoreError::Inconsistent("no layer is compressed so"))?;
        let mut tar = lease.stoppable(self.open_layer(diff_id)?);
        let target = self.layer_dir(diff_id);
        let failed = |action| StoreError::io(action, &target);
        let mut encoder = Encoder::new(self.blob_writer(lease)?, options).map_err(failed("compress layer"))?;
        let tar_size = std::io::copy(&mut tar, &mut encoder).map_err(failed("compress layer"))?;
        let mut writer = encoder.finish().map_err(failed("compress layer"))?;
        writer.flush().map_err(failed("compress layer"))?;
        let (digest, size) = writer.commit()?;
        let blob = LayerBlob { media_type: media_type.to_owned(), digest, size, tar_size: Some(tar_size) };
        self.add_diff_blob(diff_id, &blob)?;
        Ok(blob)
    }

    /// A manifest of an image with these media types, its layers compressed in this way, and the blobs it names; nothing
    /// is listed or stored but blobs of layers.
    ///
    /// # Errors
    /// As [`Store::pack_layer`] and [`Store::image`].
    pub fn pack_image(
        &self,
        lease: &Lease,
        id: &ImageId,
        family: Family,
        options: EncoderOptions,
    ) -> Result<(Manifest, Vec<LayerBlob>), StoreError> {
        lease.hold_image(id)?;
        let (bytes, config) = self.config(id)?;
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        for diff_id in config.diff_ids() {
            let blob = self.pack_layer(lease, diff_id, options)?;
            let media_type = family.layer(options.compression()).unwrap_or(&blob.media_type);
            layers.push(Descriptor::new(media_type, blob.digest.clone(), blob.size));
            blobs.push(blob);
        }
        let config = Descriptor::of(family.config(), &bytes);
        let manifest = ImageManifest::new(family.manifest(), config, layers);
        Ok((Manifest::parse(manifest.to_bytes()?, None)?, blobs))
    }
}
