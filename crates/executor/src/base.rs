//! Base images: where they come from, and their layers on disk.

use rbuild_image::config::ImageConfig;
use rbuild_image::digest::{DiffId, Digest, ImageId};
use rbuild_image::manifest::{Descriptor, Manifest};
use rbuild_image::reference::Reference;

/// An image that a stage begins with or copies from.
#[derive(Clone, Debug)]
pub(crate) struct BaseImage {
    /// Digest of its configuration.
    pub(crate) id: ImageId,
    /// Its configuration.
    pub(crate) config: ImageConfig,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<BaseLayer>,
    /// As BuildKit shows it: canonical name, with the digest if the registry was asked.
    pub(crate) shown: String,
    /// Where missing layers are fetched from; `None` for an image that is all here.
    pub(crate) remote: Option<Remote>,
}

/// Where an image was found.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// Name with tag, as asked for.
    pub(crate) reference: Reference,
    /// What the tag led to: an index or a manifest.
    pub(crate) top: Descriptor,
    /// Its bytes.
    pub(crate) top_bytes: Vec<u8>,
    /// The manifest.
    pub(crate) manifest: Manifest,
    /// The configuration.
    pub(crate) config: Descriptor,
    /// Its bytes.
    pub(crate) config_bytes: Vec<u8>,
}

/// A layer of a base image.
#[derive(Clone, Debug)]
pub(crate) struct BaseLayer {
    /// Digest of its tar.
    pub(crate) diff_id: DiffId,
    /// Its blob as the registry has it; `None` for a layer that exists only here.
    pub(crate) blob: Option<Descriptor>,
}

impl BaseImage {
    /// Its ONBUILD triggers.
    pub(crate) fn triggers(&self) -> Vec<String> {
        self.config.config.get().and_then(|run| run.on_build.get()).cloned().unwrap_or_default()
    }

    /// Digests of its layers.
    pub(crate) fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|layer| layer.diff_id.clone()).collect()
    }

    /// What the cache knows it by: its layers are what a build sees of it.
    pub(crate) fn cache_name(&self) -> String {
        self.config.chain_id().map_or_else(|| "scratch".to_owned(), |chain| chain.digest().as_str().to_owned())
    }

    /// Digest of the index or manifest, if the registry was asked.
    pub(crate) fn top_digest(&self) -> Option<&Digest> {
        self.remote.as_ref().map(|remote| &remote.top.digest)
    }
}
