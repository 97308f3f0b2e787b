//! Operations on a store other than building: images, tags, archives, registries, pruning.
//!
//! Nothing here prints, reads the environment or keeps state: the caller names the store and how registries are reached.

mod archive;
mod builds;
mod doctor;
mod error;
mod forecast;
mod images;
mod inspect;
mod login;
mod portable;
mod prune;
mod remove;
mod steps;
#[cfg(test)]
mod tests;
mod transfer;
pub(crate) mod worker;

use std::sync::Arc;

use rbuild_image::registry::{DockerConfig, ProxyOptions, Registry, RegistryError, RegistryOptions, TellingError};
use rbuild_logfmt::event::{Builder, Dialect, Version};

use crate::RegistryAccess;

pub use archive::{ArchiveFormat, Loaded, load, load_file, save, save_file};
use builds::resumable;
pub use builds::{ResumeFrom, build_log, build_record, builds, remove_build, resumed};
pub use doctor::{Check, CheckState, Diagnosis, doctor, doctor_of};
pub use error::ManageError;
pub use forecast::{StepForecast, Trouble};
pub(crate) use images::resolve;
pub use images::{ImageName, ImageSummary, Time, list, tag};
pub use inspect::{HistoryRow, history, inspect};
pub use login::{Kept, login, logout, server_name};
pub use portable::{load_failed, save_failed};
pub use prune::{PruneReport, PruneScope, prune};
pub use remove::{Force, Removed, collect, remove};
pub use steps::{Located, build_in_file, find_step, locate, resumed_after, step_image};
pub(crate) use transfer::push_image;
pub use transfer::{LayerState, Pulled, PushedImage, TransferFact, pull, push, tags};

/// A client of registries that are reached this way.
pub(crate) fn registry(access: &RegistryAccess) -> Result<Registry, RegistryError> {
    Registry::new(registry_options(access))
}

/// The same for a build of this dialect.
pub(crate) fn registry_of_build(access: &RegistryAccess, dialect: Dialect) -> Result<Registry, RegistryError> {
    let telling_error = match dialect {
        Dialect { builder: Builder::Buildkit, version: Version::V28 } => TellingError::Furthest,
        _ => TellingError::Last,
    };
    Registry::new(RegistryOptions { telling_error, ..registry_options(access) })
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
