use std::io::Read;

use pretty_assertions::assert_eq;
use rbuild_testkit::docker_registry::DockerRegistry;
use rbuild_testkit::require;

use super::*;
use crate::digest::{Digest, Hasher};
use crate::manifest::{Descriptor, media_type};

/// Pushes to Docker's own registry and pulls again.
#[test]
fn a_real_registry() {
    let server = require!(DockerRegistry::start());
    let host = server.host();
    let registry = client();
    let blob = noise(5_000_000);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&blob)]}})
    .to_string()
    .into_bytes();
    let layer = Descriptor::of(media_type::OCI_LAYER, &blob);
    let config_descriptor = Descriptor::of(media_type::OCI_CONFIG, &config);
    let reference: Reference = format!("{host}/rbuild/test:1").parse().unwrap();
    for (descriptor, bytes) in [(&layer, &blob), (&config_descriptor, &config)] {
        let mut source = || Ok(Box::new(&bytes[..]) as Box<dyn Read>);
        registry.push_blob(&reference, descriptor, &mut source, None, &mut |_| {}, &GO_ON).unwrap();
        assert!(registry.has_blob(&reference, &descriptor.digest, &GO_ON).unwrap());
    }
    let mut source = || Ok(Box::new(&blob[..]) as Box<dyn Read>);
    let other: Reference = format!("{host}/rbuild/mounted").parse().unwrap();
    let mounted = registry.push_blob(&other, &layer, &mut source, Some(reference.path()), &mut |_| {}, &GO_ON);
    assert_eq!(mounted.unwrap(), Pushed::Mounted);
    let manifest = crate::manifest::ImageManifest::new(media_type::OCI_MANIFEST, config_descriptor, vec![layer]);
    let bytes = manifest.to_bytes().unwrap();
    let digest = registry.push_manifest(&reference, media_type::OCI_MANIFEST, &bytes, &GO_ON).unwrap();
    let found = registry.resolve(&reference, &amd64(), &GO_ON).unwrap();
    assert_eq!((found.manifest.digest(), &found.config_bytes), (&digest, &config));
    let mut hasher = Hasher::sha256();
    registry.fetch_blob(&reference, &found.image().layers[0], &mut hasher, &mut |_| {}, &GO_ON).unwrap();
    assert_eq!(hasher.finish(), Digest::of(&blob));
    let missing: Reference = format!("{host}/rbuild/missing:x").parse().unwrap();
    let error = registry.resolve(&missing, &amd64(), &GO_ON).unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::NotFound | RegistryErrorKind::NameUnknown), "{error}");
}
