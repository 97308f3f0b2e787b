//! Removing names and images, as `docker rmi` does.

use rbuild_image::digest::ImageId;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::store::{ImageSummary as Listed, Prune, Store, StoreError};

use super::ManageError;
use super::images::{open, resolve};
use super::worker;
use crate::StoreOptions;

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removed {
    /// A name was taken away: `busybox:latest`, or `busybox@sha256:…` for what a registry calls it.
    Untagged(String),
    /// An image was removed: its id, `sha256:…`.
    Deleted(String),
}

/// Whether an image that several names mean may be removed by its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Force {
    /// It may not.
    #[default]
    No,
    /// It may.
    Yes,
}

/// Removes one name, or one image, from the list; call [`collect`] when all are removed.
///
/// A name is taken away, and with the last one its image. An id, or the beginning of one, removes the image with all its
/// names, where there are several only with [`Force::Yes`].
///
/// # Errors
/// [`ManageError::NoImage`], [`ManageError::Ambiguous`], [`ManageError::SeveralNames`] and [`ManageError::Store`].
pub fn remove(store: &StoreOptions, name: &str, force: Force) -> Result<Vec<Removed>, ManageError> {
    let store = open(store)?;
    let id = resolve(&store, name)?;
    let Some(listed) = find(&store, &id)? else {
        // Known to the build cache alone; pruning that removes it.
        return Err(ManageError::NoImage { name: name.to_owned() });
    };
    match named_by(&store, &id, name)? {
        Some(reference) => untag(&store, &listed, &reference),
        None if listed.references.len() > 1 && force == Force::No => {
            Err(ManageError::SeveralNames { id: id.short().to_owned() })
        }
        None => delete(&store, &listed),
    }
}

/// Removes from the disk what no image and no cache record needs any more; the bytes freed.
///
/// # Errors
/// [`ManageError::Collect`].
pub fn collect(store: &StoreOptions) -> Result<u64, ManageError> {
    Ok(worker::collect(store, Prune::Unreferenced)?.freed)
}

fn find(store: &Store, id: &ImageId) -> Result<Option<Listed>, ManageError> {
    Ok(store.list()?.into_iter().find(|listed| listed.id == *id))
}

/// The name that `text` is, if it is one and no id.
fn named_by(store: &Store, id: &ImageId, text: &str) -> Result<Option<Reference>, ManageError> {
    let Ok(reference) = Reference::parse_normalized(text, DockerVersion::V28) else {
        return Ok(None);
    };
    let reference = reference.or_latest();
    Ok((store.resolve_reference(&reference)?.as_ref() == Some(id)).then_some(reference))
}

fn untag(store: &Store, listed: &Listed, reference: &Reference) -> Result<Vec<Removed>, ManageError> {
    let names: Vec<&Reference> = match reference.digest() {
        // A digest stands for every name of that repository that has it.
        Some(_) => listed.references.iter().filter(|name| name.name() == reference.name()).collect(),
        None => vec![reference],
    };
    if names.len() == listed.references.len() {
        return delete(store, listed);
    }
    let mut removed = Vec::new();
    for name in &names {
        gone_is_fine(store.untag(name).map(drop))?;
        removed.push(Removed::Untagged(name.familiar()));
    }
    let left = |pulled: &Reference| {
        listed.references.iter().any(|name| name.name() == pulled.name() && !names.contains(&name))
    };
    removed.extend(digests(listed, |pulled| pulled.name() == reference.name() && !left(pulled)));
    Ok(removed)
}

fn delete(store: &Store, listed: &Listed) -> Result<Vec<Removed>, ManageError> {
    gone_is_fine(store.remove_image(&listed.id).map(drop))?;
    Ok(all_of(listed))
}

/// What is said of an image that was removed with all its names.
pub(super) fn all_of(listed: &Listed) -> Vec<Removed> {
    let mut removed: Vec<Removed> = Vec::new();
    let mut repositories: Vec<String> = Vec::new();
    for name in &listed.references {
        if !repositories.contains(&name.name()) {
            repositories.push(name.name());
        }
    }
    for repository in repositories {
        let of_it = |name: &&Reference| name.name() == repository;
        removed.extend(listed.references.iter().filter(of_it).map(|name| Removed::Untagged(name.familiar())));
        removed.extend(digests(listed, |pulled| pulled.name() == repository));
    }
    removed.push(Removed::Deleted(listed.id.to_string()));
    removed
}

/// The names with digests that go, each once.
fn digests(listed: &Listed, goes: impl Fn(&Reference) -> bool) -> Vec<Removed> {
    let mut texts: Vec<String> = Vec::new();
    for pulled in listed.pulled.iter().filter(|pulled| goes(pulled)) {
        if let Some(digest) = pulled.digest() {
            let text = pulled.without_version().with_digest(digest.clone()).familiar();
            if !texts.contains(&text) && !listed.references.iter().any(|name| name.familiar() == text) {
                texts.push(text);
            }
        }
    }
    texts.into_iter().map(Removed::Untagged).collect()
}

/// Another process may have been faster.
fn gone_is_fine(result: Result<(), StoreError>) -> Result<(), ManageError> {
    match result {
        Ok(()) | Err(StoreError::NoImage(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
