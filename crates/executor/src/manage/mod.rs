//! Operations on a store other than building: images, tags, archives, registries, pruning.
//!
//! Nothing here prints, reads the environment or keeps state: the caller names the store and how registries are reached.

mod error;
mod login;

use std::sync::Arc;

use rbuild_image::registry::{DockerConfig, ProxyOptions, Registry, RegistryError, RegistryOptions};

use crate::RegistryAccess;

pub use error::ManageError;
pub use login::{Kept, login, logout, server_name};

/// A client of registries that are reached this way.
pub(crate) fn registry(access: &RegistryAccess) -> Result<Registry, RegistryError> {
    Registry::new(registry_options(access))
}

/// What the registry client is told.
fn registry_options(access: &RegistryAccess) -> RegistryOptions {
    RegistryOptions {
        mirrors: access.mirrors.clone(),
        insecure: access.insecure.clone(),
        certificates: access.certificates.iter().cloned().collect(),
        proxy: ProxyOptions {
            http: access.http_proxy.clone(),
            https: access.https_proxy.clone(),
            no_proxy: access.no_proxy.clone(),
        },
        credentials: access.docker_config.as_ref().map(|path| Arc::new(DockerConfig::new(path)) as Arc<_>),
        ..RegistryOptions::default()
    }
}
