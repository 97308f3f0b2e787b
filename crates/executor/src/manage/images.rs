//! Images of the store: listing, finding, naming.

use rbuild_image::digest::ImageId;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::store::{ImageSummary as Listed, Store, StoreError};

use super::ManageError;
use crate::StoreOptions;

/// Seconds since 1970.
pub type Time = i64;

/// An image as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its id, `sha256:…`.
    pub id: String,
    /// Its names.
    pub names: Vec<ImageName>,
    /// When it was made, if it says so.
    pub created: Option<Time>,
    /// Bytes of its layers.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
}

/// A name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// Repository as Docker shows it, `busybox`.
    pub repository: String,
    /// Tag; none for a name that has a digest only.
    pub tag: Option<String>,
    /// Digest by which the registry of this repository knows the image, if it was pulled or pushed.
    pub digest: Option<String>,
}

impl ImageName {
    /// Repository and tag as Docker shows them: `busybox:latest`.
    pub fn familiar(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.repository))
    }
}

/// Lists the images of a store, newest first.
///
/// # Errors
/// [`ManageError::Store`].
pub fn list(store: &StoreOptions) -> Result<Vec<ImageSummary>, ManageError> {
    let store = open(store)?;
    let mut images = Vec::new();
    for listed in store.list()? {
        let layers = match store.image(&listed.id) {
            Ok(image) => image.layers.len(),
            // Another process may just be removing it.
            Err(StoreError::NoImage(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        images.push(ImageSummary {
            id: listed.id.to_string(),
            names: names(&listed),
            created: listed.created.map(time::OffsetDateTime::unix_timestamp),
            size: listed.size,
            layers,
        });
    }
    Ok(images)
}

/// Gives an image another name.
///
/// # Errors
/// [`ManageError::NoImage`], [`ManageError::Ambiguous`], [`ManageError::Reference`], [`ManageError::NameWithDigest`] and
/// [`ManageError::Store`].
pub fn tag(store: &StoreOptions, image: &str, name: &str) -> Result<(), ManageError> {
    let target = parse_reference(name)?;
    if target.digest().is_some() {
        return Err(ManageError::NameWithDigest { name: name.to_owned() });
    }
    let store = open(store)?;
    let id = resolve(&store, image)?;
    Ok(store.tag(&store.lease()?, &id, &target.or_latest())?)
}

/// Opens the store.
pub(super) fn open(store: &StoreOptions) -> Result<Store, ManageError> {
    Ok(Store::open(&store.root)?)
}

/// Reads a name as a user writes it.
pub(super) fn parse_reference(name: &str) -> Result<Reference, ManageError> {
    Reference::parse_normalized(name, DockerVersion::V28)
        .map_err(|source| ManageError::Reference { name: name.to_owned(), source })
}

/// Finds an image by name, id or beginning of an id.
pub(crate) fn resolve(store: &Store, name: &str) -> Result<ImageId, ManageError> {
    store.resolve(name).map_err(|error| match error {
        StoreError::NoImage(_) => no_image(name),
        StoreError::Ambiguous(prefix) => ManageError::Ambiguous { prefix },
        error => error.into(),
    })
}

/// That there is no such image, with the tag that was meant.
fn no_image(name: &str) -> ManageError {
    let meant = Reference::parse_normalized(name, DockerVersion::V28).map(|reference| reference.or_latest().familiar());
    ManageError::NoImage { name: meant.unwrap_or_else(|_| name.to_owned()) }
}

/// The names of an image, each with the digest of its repository.
pub(super) fn names(listed: &Listed) -> Vec<ImageName> {
    let digest_of = |name: &Reference| {
        let same = |pulled: &&Reference| pulled.name() == name.name();
        let mut candidates = listed.pulled.iter().filter(same);
        // That of the tag itself if it is known, else that of the repository.
        let exact = listed.pulled.iter().filter(same).find(|pulled| pulled.tag() == name.tag());
        exact.or_else(|| candidates.next()).and_then(|pulled| pulled.digest()).map(ToString::to_string)
    };
    listed
        .references
        .iter()
        .map(|name| ImageName {
            repository: name.familiar_name(),
            tag: name.tag().map(str::to_owned),
            digest: name.digest().map(ToString::to_string).or_else(|| digest_of(name)),
        })
        .collect()
}
