//! Doing what was planned: each step from the cache or run in a snapshot, until there is an image.

pub(crate) mod buildkit;
pub(crate) mod copy;
pub(crate) mod legacy;
mod mounts;

use rbuild_image::config::{History, ImageConfig, KeyOrder, RootFs, go_time};
use rbuild_image::digest::{DiffId, ImageId};
use rbuild_logfmt::event::{Builder, Failure};
use time::OffsetDateTime;

use crate::session::Session;
use crate::stop::{Failed, Stop};

/// A built image.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) id: ImageId,
    pub(crate) config: ImageConfig,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<DiffId>,
}

/// What the build checks found.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) warnings: usize,
    /// What is wrong with the Dockerfile.
    pub(crate) failed: Option<Box<Failed>>,
}

/// The time that an image of this build bears, as Docker writes it.
pub(crate) fn created(session: &Session<'_>) -> String {
    let fixed = session.options().source_date_epoch.and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    go_time(fixed.unwrap_or_else(OffsetDateTime::now_utc))
}

/// Completes a configuration with its layers and time, and puts it into the store.
pub(crate) fn write_config(
    session: &Session<'_>,
    mut config: ImageConfig,
    layers: &[DiffId],
    created: &str,
) -> Result<Built, Stop> {
    config.created.set(created.to_owned());
    config.rootfs.set(RootFs::new(layers.to_vec()));
    for step in config.history.get_or_default() {
        if step.created.is_absent() {
            step.created.set(created.to_owned());
        }
    }
    let order = match session.options().dialect.builder {
        Builder::Legacy => KeyOrder::Legacy,
        Builder::Buildkit => KeyOrder::Buildkit,
    };
    let bytes = config.to_bytes(order)?;
    let digest = session.store().put_blob(session.lease(), &bytes)?;
    Ok(Built { id: ImageId(digest), config, layers: layers.to_vec() })
}

/// A line of history of the legacy builder.
fn legacy_history(created_by: String, created: &str, author: Option<&str>, empty: bool) -> History {
    let mut history = History::default();
    history.created.set(created.to_owned());
    if let Some(author) = author.filter(|author| !author.is_empty()) {
        history.author.set(author.to_owned());
    }
    history.created_by.set(created_by);
    if empty {
        history.empty_layer.set(true);
    }
    history
}

/// Docker's text for an instruction that cannot be done.
pub(crate) fn instruction_failed(message: impl Into<String>) -> Stop {
    Stop::failed(Failure::Instruction { message: message.into() })
}
