//! Manifests and indexes: Docker's schema 2 and manifest list, OCI's manifest and index.
//!
//! The types are our own and not `oci-spec`'s: those keep annotations in a map of random order, so that what is written
//! would differ from run to run. A manifest that was read keeps its raw bytes, since those are what digests name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::json;
use crate::platform::Platform;

/// The media types of manifests, configurations and layers.
pub mod media_type {
    use crate::compression::Compression;

    /// Docker's image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image manifest, schema 1.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker's signed image manifest, schema 1.
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer, plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer, zstd; not official, but met.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// Docker's layer that is fetched from elsewhere (Windows).
    pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    /// OCI's image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI's image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI's layer, plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI's layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI's layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

    /// Whose media types a manifest has.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub enum Family {
        /// OCI's.
        #[default]
        Oci,
        /// Docker's, schema 2.
        Docker,
    }

    impl Family {
        /// The type of an image manifest.
        pub fn manifest(self) -> &'static str {
            match self {
                Family::Oci => OCI_MANIFEST,
                Family::Docker => DOCKER_MANIFEST,
            }
        }
        /// The type of a configuration.
        pub fn config(self) -> &'static str {
            match self {
                Family::Oci => OCI_CONFIG,
                Family::Docker => DOCKER_CONFIG,
            }
        }
        /// The type of a layer; none for a compression that layers cannot have.
        pub fn layer(self, compression: Compression) -> Option<&'static str> {
            Some(match (self, compression) {
                (Family::Oci, Compression::None) => OCI_LAYER,
                (Family::Oci, Compression::Gzip) => OCI_LAYER_GZIP,
                (Family::Oci, Compression::Zstd) => OCI_LAYER_ZSTD,
                (Family::Docker, Compression::None) => DOCKER_LAYER,
                (Family::Docker, Compression::Gzip) => DOCKER_LAYER_GZIP,
                (Family::Docker, Compression::Zstd) => DOCKER_LAYER_ZSTD,
                (_, Compression::Bzip2 | Compression::Xz) => return None,
            })
        }
    }

    /// The compression that a layer's type promises; one that says nothing promises a plain tar.
    pub fn compression(text: &str) -> Compression {
        match text {
            DOCKER_LAYER_GZIP | DOCKER_LAYER_FOREIGN => Compression::Gzip,
            DOCKER_LAYER_ZSTD => Compression::Zstd,
            _ if text.ends_with("+gzip") => Compression::Gzip,
            _ if text.ends_with("+zstd") => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// Whether this is an image manifest, Docker's or OCI's.
    pub fn is_manifest(text: &str) -> bool {
        matches!(text, DOCKER_MANIFEST | OCI_MANIFEST)
    }
    /// Whether this is an index or a manifest list.
    pub fn is_index(text: &str) -> bool {
        matches!(text, DOCKER_LIST | OCI_INDEX)
    }
    /// Whether this is an image configuration.
    pub fn is_config(text: &str) -> bool {
        matches!(text, DOCKER_CONFIG | OCI_CONFIG)
    }
    /// Whether this is a layer whose content is a tar, however compressed. OCI's non-distributable layers count.
    pub fn is_layer(text: &str) -> bool {
        matches!(text, DOCKER_LAYER | DOCKER_LAYER_GZIP | DOCKER_LAYER_ZSTD | DOCKER_LAYER_FOREIGN)
            || text.starts_with("application/vnd.oci.image.layer.v1.tar")
            || text.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
    }
}

/// Names of annotations.
pub mod annotation {
    /// The tag of a manifest in an image layout's index (OCI).
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// The canonical name of a manifest in an image layout's index (containerd, Docker 28).
    pub const IMAGE_NAME: &str = "io.containerd.image.name";
    /// When an image was made, RFC 3339.
    pub const CREATED: &str = "org.opencontainers.image.created";
    /// What a manifest in an index refers to (BuildKit's attestations).
    pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
}

/// Why bytes are no manifest that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are no JSON of the right form.
    #[error("manifest {digest} is not valid JSON of the type {media_type}")]
    Parse {
        /// The manifest.
        digest: Digest,
        /// What it should be.
        media_type: String,
        /// The fault.
        source: serde_json::Error,
    },
    /// The document could not be written.
    #[error("cannot write manifest as JSON")]
    Write(#[source] serde_json::Error),
}

/// A pointer to some content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where else it can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Remarks for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            extra: Map::new(),
        }
    }

    /// A descriptor of these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Whether an index has it for some other purpose than running it (attestations, signatures).
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(annotation::REFERENCE_TYPE)
    }
}

/// An image manifest: configuration and layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document is; OCI allows it to be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Remarks for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ImageManifest {
    /// A manifest of this media type.
    pub fn new(media_type: &str, config: Descriptor, layers: Vec<Descriptor>) -> ImageManifest {
        ImageManifest {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            config,
            layers,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// The bytes to store and push.
    ///
    /// # Errors
    /// [`ManifestError::Write`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        json::to_go_bytes(self).map_err(ManifestError::Write)
    }
}

/// An index of manifests, by platform or by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What the document is; OCI allows it to be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests, in order of preference.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Remarks for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Index {
    /// An index of this media type.
    pub fn new(media_type: &str, manifests: Vec<Descriptor>) -> Index {
        Index {
            schema_version: 2,
            media_type: Some(media_type.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// The best manifest for a platform. Entries without a platform are taken only if there is no other match, as
    /// containerd does; attestations never.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let candidates: Vec<&Descriptor> = self.manifests.iter().filter(|d| !d.is_attestation()).collect();
        let with_platform: Vec<(&Descriptor, &Platform)> =
            candidates.iter().filter_map(|d| d.platform.as_ref().map(|p| (*d, p))).collect();
        match platform.best(with_platform.iter().map(|(_, p)| *p)) {
            Some(at) => with_platform.get(at).map(|(d, _)| *d),
            None => candidates.into_iter().find(|d| {
                d.platform.is_none() && (media_type::is_manifest(&d.media_type) || media_type::is_index(&d.media_type))
            }),
        }
    }

    /// The bytes to store and push.
    ///
    /// # Errors
    /// [`ManifestError::Write`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        json::to_go_bytes(self).map_err(ManifestError::Write)
    }
}

/// What a manifest turned out to be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
// There are only ever a few, and they are moved rarely.
#[allow(clippy::large_enum_variant)]
pub enum ManifestKind {
    /// An image.
    Image(ImageManifest),
    /// An index or manifest list.
    Index(Index),
    /// Docker's schema 1, which is known but not supported.
    Schema1,
    /// Something else; its media type, or nothing.
    Unknown(String),
}

/// A manifest with the bytes it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
    kind: ManifestKind,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Value>,
    config: Option<Value>,
    layers: Option<Value>,
}

impl Manifest {
    /// Parses a manifest. `content_type` is what its carrier (HTTP header, descriptor) called it; the document's own
    /// `mediaType` wins, and without either its form decides.
    ///
    /// # Errors
    /// [`ManifestError::Parse`]; an unknown type is no error.
    pub fn parse(bytes: Vec<u8>, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
        let digest = Digest::of(&bytes);
        // Parameters such as `; charset=utf-8` are no part of the type.
        let content_type = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        let failed = |media_type: &str, source| ManifestError::Parse {
            digest: digest.clone(),
            media_type: media_type.to_owned(),
            source,
        };
        let probe: Probe = json::from_bytes(&bytes).map_err(|e| failed(content_type.unwrap_or("manifest"), e))?;
        let media_type = match (&probe.media_type, content_type) {
            (Some(own), _) if !own.is_empty() => own.clone(),
            (_, Some(media_type::DOCKER_SCHEMA1_SIGNED)) => media_type::DOCKER_SCHEMA1_SIGNED.to_owned(),
            _ if probe.schema_version == Some(1) => media_type::DOCKER_SCHEMA1.to_owned(),
            (_, Some(given)) if media_type::is_manifest(given) || media_type::is_index(given) => given.to_owned(),
            _ if probe.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
            _ if probe.config.is_some() && probe.layers.is_some() => media_type::OCI_MANIFEST.to_owned(),
            (_, given) => given.unwrap_or_default().to_owned(),
        };
        let kind = match media_type.as_str() {
            media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED => ManifestKind::Schema1,
            text if media_type::is_index(text) => {
                ManifestKind::Index(json::from_bytes(&bytes).map_err(|e| failed(text, e))?)
            }
            text if media_type::is_manifest(text) => {
                ManifestKind::Image(json::from_bytes(&bytes).map_err(|e| failed(text, e))?)
            }
            text => ManifestKind::Unknown(text.to_owned()),
        };
        Ok(Manifest { bytes, digest, media_type, kind })
    }

    /// The bytes as they were read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it is.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// What it says.
    pub fn kind(&self) -> &ManifestKind {
        &self.kind
    }

    /// The image manifest, if it is one.
    pub fn image(&self) -> Option<&ImageManifest> {
        match &self.kind {
            ManifestKind::Image(image) => Some(image),
            _ => None,
        }
    }

    /// The index, if it is one.
    pub fn index(&self) -> Option<&Index> {
        match &self.kind {
            ManifestKind::Index(index) => Some(index),
            _ => None,
        }
    }

    /// A descriptor that points to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest.clone(), self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn sample() -> ImageManifest {
        let config = Descriptor::of(media_type::DOCKER_CONFIG, b"{}");
        let mut layer = Descriptor::of(media_type::DOCKER_LAYER_GZIP, b"x");
        layer.annotations.insert("b".into(), "<2>".into());
        layer.annotations.insert("a".into(), "1".into());
        ImageManifest::new(media_type::DOCKER_MANIFEST, config, vec![layer])
    }

    #[test]
    fn round_trips_and_agrees_with_oci_spec() {
        let bytes = sample().to_bytes().unwrap();
        let manifest = Manifest::parse(bytes.clone(), None).unwrap();
        assert_eq!(manifest.bytes(), bytes);
        assert_eq!(manifest.digest(), &Digest::of(&bytes));
        assert_eq!(manifest.image().unwrap(), &sample());
        let theirs = oci_spec::image::ImageManifest::from_reader(&bytes[..]).unwrap();
        assert_eq!(theirs.config().digest().to_string(), sample().config.digest.to_string());
        assert_eq!(theirs.layers()[0].size(), 1);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"#));
        assert!(text.contains(r#""annotations":{"a":"1","b":"\u003c2\u003e"}"#));
    }

    #[test]
    fn recognises_kinds() {
        let kind = |text: &str, given| Manifest::parse(text.as_bytes().to_vec(), given).unwrap().kind().clone();
        assert_eq!(kind(r#"{"schemaVersion":1,"fsLayers":[]}"#, None), ManifestKind::Schema1);
        assert_eq!(
            kind(r#"{"schemaVersion":1}"#, Some("application/vnd.docker.distribution.manifest.v1+prettyjws")),
            ManifestKind::Schema1
        );
        assert_eq!(kind(r#"{"schemaVersion":2,"mediaType":"text/x"}"#, None), ManifestKind::Unknown("text/x".into()));
        assert!(matches!(kind(r#"{"schemaVersion":2,"manifests":[]}"#, None), ManifestKind::Index(_)));
        assert!(matches!(
            kind(
                r#"{"schemaVersion":2,"manifests":[]}"#,
                Some("application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8")
            ),
            ManifestKind::Index(_)
        ));
        assert!(Manifest::parse(b"{".to_vec(), None).is_err());
        assert!(Manifest::parse(br#"{"schemaVersion":2,"config":{"digest":"x"},"layers":[]}"#.to_vec(), None).is_err());
    }

    #[test]
    fn chooses_by_platform() {
        let entry = |platform: Option<&str>, n: u8| Descriptor {
            platform: platform.map(|p| p.parse().unwrap()),
            ..Descriptor::of(media_type::OCI_MANIFEST, &[n])
        };
        let mut attestation = entry(Some("linux/amd64"), 0);
        attestation.annotations.insert(annotation::REFERENCE_TYPE.into(), "attestation-manifest".into());
        let index = Index::new(
            media_type::OCI_INDEX,
            vec![
                attestation,
                entry(Some("linux/386"), 1),
                entry(Some("linux/amd64"), 2),
                entry(Some("linux/arm64/v8"), 3),
            ],
        );
        let choose = |p: &str| index.choose(&p.parse().unwrap()).map(|d| d.digest.clone());
        assert_eq!(choose("linux/amd64"), Some(Digest::of(&[2])));
        assert_eq!(choose("linux/arm64"), Some(Digest::of(&[3])));
        assert_eq!(choose("linux/s390x"), None);
        let bare = Index::new(media_type::OCI_INDEX, vec![entry(None, 7)]);
        assert_eq!(bare.choose(&Platform::host()).unwrap().digest, Digest::of(&[7]));
    }
}
