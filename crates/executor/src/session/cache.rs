//! The build cache, as a build sees it.

use std::borrow::Cow;

use rbuild_image::digest::{DiffId, ImageId};
use rbuild_image::store::{CacheRecord, StoreError};

use super::Session;
use crate::base::{BaseImage, BaseLayer};
use crate::key::{CacheKey, KeyBuilder};
use crate::stop::Stop;

impl Session<'_> {
    /// The record that the cache has under a key.
    fn record(&self, key: &CacheKey) -> Result<Option<CacheRecord>, Stop> {
        Ok(self.store.cache_get(self.scoped(key).as_str())?)
    }

    /// What a key is in the store: a build may have a cache of its own.
    fn scoped<'k>(&self, key: &'k CacheKey) -> Cow<'k, CacheKey> {
        match &self.options.cache_scope {
            None => Cow::Borrowed(key),
            Some(scope) => Cow::Owned(KeyBuilder::new("scope").field("scope", scope).key("key", key).finish()),
        }
    }

    fn remember(&self, key: &CacheKey, fill: impl FnOnce(&mut CacheRecord)) -> Result<(), Stop> {
        let mut record = CacheRecord { key: self.scoped(key).as_str().to_owned(), ..CacheRecord::default() };
        fill(&mut record);
        Ok(self.store.cache_put(&record)?)
    }

    /// The image that the cache has under a key, if all of it is here.
    pub(crate) fn cached_image(&self, key: &CacheKey) -> Result<Option<BaseImage>, Stop> {
        let Some(id) = self.record(key)?.and_then(|record| record.images.into_iter().next()) else { return Ok(None) };
        if !self.lease.hold_image(&id)? {
            return Ok(None);
        }
        let image = match self.store.image(&id) {
            Ok(image) => image,
            Err(StoreError::NoImage(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if image.layers.iter().any(|layer| layer.unpacked.is_none() && layer.blobs.is_empty()) {
            return Ok(None);
        }
        let layers = image.layers.into_iter().map(|layer| BaseLayer { diff_id: layer.diff_id, blob: None }).collect();
        Ok(Some(BaseImage { shown: id.digest().to_string(), id, config: image.config, layers, remote: None }))
    }

    pub(crate) fn remember_image(&self, key: &CacheKey, image: &ImageId) -> Result<(), Stop> {
        self.remember(key, |record| record.images.push(image.clone()))
    }

    /// The layer that the cache has under a key, if it is here.
    pub(crate) fn cached_layer(&self, key: &CacheKey) -> Result<Option<DiffId>, Stop> {
        let Some(layer) = self.record(key)?.and_then(|record| record.layers.into_iter().next()) else {
            return Ok(None);
        };
        let here = self.lease.hold_layer(&layer)?.is_some() || !self.store.diff_blobs(&layer)?.is_empty();
        Ok(here.then_some(layer))
    }

    pub(crate) fn remember_layer(&self, key: &CacheKey, layer: &DiffId) -> Result<(), Stop> {
        self.remember(key, |record| record.layers.push(layer.clone()))
    }

    /// A value that the cache has under a key.
    pub(crate) fn cached_value<T: serde::de::DeserializeOwned>(&self, key: &CacheKey) -> Result<Option<T>, Stop> {
        Ok(self.record(key)?.and_then(|record| serde_json::from_value(record.data).ok()))
    }

    pub(crate) fn remember_value<T: serde::Serialize>(&self, key: &CacheKey, value: &T) -> Result<(), Stop> {
        let data = serde_json::to_value(value).map_err(|error| Stop::own(&error))?;
        self.remember(key, |record| record.data = data)
    }
}
