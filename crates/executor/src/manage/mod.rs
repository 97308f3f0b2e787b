//! Operations on a store other than building: images, tags, archives, registries, pruning.
