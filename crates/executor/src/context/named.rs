//! `--build-context NAME=SOURCE`: contexts beside the main one.

use std::path::{Path, PathBuf};

use rbuild_image::manifest::{Descriptor, annotation};
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_logfmt::go_reason;

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

/// Docker's reason why the name of a named context is none.
#[must_use]
pub fn context_name_error(name: &str) -> Option<String> {
    Reference::parse_normalized(name, DockerVersion::V28).err().map(|error| error.to_string())
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
            .map_err(|source| ContextError::NamedName { name: name.to_owned(), source })?;
        Ok(Self { name: Self::key(&reference), source: NamedSource::parse(source) })
    }

    /// The name of a context as it is looked up: `NAME:latest` and `NAME` are one.
    pub(crate) fn key(reference: &Reference) -> String {
        let familiar = reference.familiar();
        familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
    }
}

/// The part of an OCI index that says which image a tag is.
#[derive(serde::Deserialize)]
struct LayoutIndex {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Finds the image of an OCI layout as Docker's client does (buildx `resolveDigest`): by its name, by its tag, or because
/// it is the only one.
pub(crate) fn layout_digest(path: &Path, tag: &str) -> Result<String, String> {
    let index = path.join("index.json");
    let shown = index.display();
    let open = |path: &dyn std::fmt::Display, error: &std::io::Error| format!("open {path}: {}", go_reason(error));
    if !path.is_dir() {
        let lock = format!("{shown}.lock");
        return Err(format!(
            "could not lock {lock}: {}",
            open(&lock, &std::io::Error::from_raw_os_error(NO_SUCH_FILE))
        ));
    }
    let text = std::fs::read(&index).map_err(|error| format!("could not read {shown}: {}", open(&shown, &error)))?;
    let index: LayoutIndex =
        serde_json::from_slice(&text).map_err(|error| format!("could not unmarshal {shown}: {error}"))?;
    let annotated =
        |name: &str| index.manifests.iter().find(|entry| entry.annotations.get(name).is_some_and(|value| value == tag));
    let single = || index.manifests.first().filter(|_| index.manifests.len() == 1);
    annotated(CONTAINERD_NAME)
        .or_else(|| annotated(annotation::REF_NAME))
        .or_else(single)
        .map(|entry| entry.digest.to_string())
        .ok_or_else(|| "failed to resolve digest".to_owned())
}

/// The kernel's number of it.
const NO_SUCH_FILE: i32 = rustix::io::Errno::NOENT.raw_os_error();

/// Where containerd keeps an image's name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

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
