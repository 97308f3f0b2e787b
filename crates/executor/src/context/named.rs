//! `--build-context NAME=SOURCE`: contexts beside the main one.

use std::path::PathBuf;

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
        /// Tag (`latest` if none is given).
        tag: String,
        /// Digest of the manifest, if given.
        digest: Option<String>,
    },
    /// A file that `docker save` or another builder wrote: `docker-archive:PATH` or `docker-archive://PATH`.
    DockerArchive(PathBuf),
    /// Another stage of the build: `target:STAGE`.
    Target(String),
}

impl NamedContext {
    /// Parses the value of `--build-context`.
    ///
    /// # Errors
    /// If it has not the form `NAME=SOURCE`, or names a kind of source that is not supported.
    pub fn parse(_value: &str) -> Result<Self, ContextError> {
        Err(ContextError::NamedContextForm { value: _value.to_owned() })
    }
}
