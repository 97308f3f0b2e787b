//! `--build-context NAME=SOURCE`: contexts beside the main one.

use std::path::PathBuf;

use rbuild_image::reference::{DockerVersion, Reference};

use super::ContextError;

/// A named context as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedContext {
    /// The name that `FROM` and `--from` use.
    pub name: String,
    /// Where it comes from.
    pub source: NamedSource,
}

/// Where a named context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamedSource {
    /// A directory.
    Directory(PathBuf),
    /// An image by reference: `docker-image://REFERENCE`.
    Image(String),
    /// An image in an OCI layout on disk: `oci-layout://PATH[:TAG][@DIGEST]`.
    OciLayout {
        /// Directory of the layout.
        path: PathBuf,
        /// Tag; `latest` if none is given.
        tag: String,
        /// Digest of the manifest, if given.
        digest: Option<String>,
    },
    /// A file that `docker save` or another builder wrote: `docker-archive:PATH` or `docker-archive://PATH`.
    DockerArchive(PathBuf),
    /// Another stage of the build: `target:STAGE`.
    Target(String),
    /// A git repository or other URL.
    Remote(String),
}

impl NamedContext {
    /// Parses the value of `--build-context`.
    ///
    /// # Errors
    /// [`ContextError::NamedForm`] if there is no `=`, [`ContextError::NamedName`] if the name is no reference.
    pub fn parse(value: &str) -> Result<Self, ContextError> {
        let (name, source) =
            value.split_once('=').ok_or_else(|| ContextError::NamedForm { value: value.to_owned() })?;
        Self::new(name, source)
    }

    /// A named context from its two halves.
    ///
    /// # Errors
    /// [`ContextError::NamedName`] if the name is no reference.
    pub fn new(name: &str, source: &str) -> Result<Self, ContextError> {
        let reference = Reference::parse_normalized(name, DockerVersion::V28)
            .map_err(|source| ContextError::NamedName { name: name.to_owned(), source })?
            .familiar();
        // `NAME:latest` and `NAME` are one name to the frontend.
        let name = reference.strip_suffix(":latest").unwrap_or(&reference);
        Ok(Self { name: name.to_owned(), source: NamedSource::parse(source) })
    }
}

impl NamedSource {
    /// Tells the kind of source; what is nothing else is a directory.
    #[must_use]
    pub fn parse(source: &str) -> Self {
        if let Some(reference) = source.strip_prefix("docker-image://") {
            return Self::Image(reference.to_owned());
        }
        if let Some(layout) = source.strip_prefix("oci-layout://") {
            let (layout, digest) = match layout.split_once('@') {
                Some((layout, digest)) => (layout, Some(digest.to_owned())),
                None => (layout, None),
            };
            let (path, tag) = layout.split_once(':').unwrap_or((layout, "latest"));
            return Self::OciLayout { path: path.into(), tag: tag.to_owned(), digest };
        }
        if let Some(path) = source.strip_prefix("docker-archive:") {
            return Self::DockerArchive(path.strip_prefix("//").unwrap_or(path).into());
        }
        if let Some(stage) = source.strip_prefix("target:") {
            return Self::Target(stage.to_owned());
        }
        if is_remote(source) {
            return Self::Remote(source.to_owned());
        }
        Self::Directory(source.into())
    }
}

/// Whether Docker's client takes an argument for a URL.
pub(super) fn is_remote(argument: &str) -> bool {
    const PREFIXES: [&str; 6] = ["http://", "https://", "git://", "ssh://", "git@", "github.com/"];
    PREFIXES.iter().any(|prefix| argument.starts_with(prefix))
}
