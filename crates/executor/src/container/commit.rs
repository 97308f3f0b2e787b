//! Making an image of a working container.

use rbuild_image::config::{History, ImageConfig};
use rbuild_image::digest::DiffId;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_sandbox::WorkerChannel;
use serde::{Deserialize, Serialize};

use super::options::Committed;
use super::state::State;
use super::worker::open;
use crate::export;
use crate::manage::ManageError;
use crate::options::StoreOptions;
use crate::run::{RunError, stopped};
use crate::session::Session;
use crate::snapshot::{Change, NewLayer, pack};
use crate::solve::{created, write_config};
use crate::stop::Stop;

/// What the worker is told.
#[derive(Serialize, Deserialize)]
pub(crate) struct CommitRequest {
    pub(super) store: StoreOptions,
    pub(super) container: String,
    pub(super) names: Vec<String>,
    pub(super) source_date_epoch: Option<i64>,
    pub(super) squash: bool,
}

/// What history says of a layer of which nothing else is known.
const CREATED_BY: &str = "rbuild commit";

/// The names of an image that is to be made.
pub(super) fn parse_names(names: &[String]) -> Result<Vec<Reference>, RunError> {
    let parse = |name: &String| {
        if let Some((transport, rest)) = name.split_once(':')
            && (rest.starts_with('/') || rest.starts_with("./"))
        {
            let hint = if transport == "docker" { "push" } else { "save" };
            return Err(RunError::Refused {
                message: format!("`{name}` is no name: images go into the store"),
                hint: Some(format!("give it a name, and then use `rbuild {hint}`")),
            });
        }
        let reference = Reference::parse_normalized(name, DockerVersion::V28)
            .map_err(|source| RunError::Image(ManageError::Reference { name: name.clone(), source }))?;
        if reference.digest().is_some() {
            return Err(RunError::Image(ManageError::NameWithDigest { name: name.clone() }));
        }
        Ok(reference.or_latest())
    };
    names.iter().map(parse).collect()
}

/// Makes it. The container's own directory stays as it is.
pub(super) fn commit(
    session: &Session<'_>,
    request: &CommitRequest,
    channel: &WorkerChannel,
) -> Result<Committed, RunError> {
    let names = parse_names(&request.names)?;
    let (_lock, state) = open(session, &request.container, channel)?;
    make(session, request, &state, &names).map_err(stopped)
}

fn make(session: &Session<'_>, request: &CommitRequest, state: &State, names: &[Reference]) -> Result<Committed, Stop> {
    let change = Change::resume(session, &state.layers, &[], &session.store().container_dir(&request.container))?;
    let (layer, mut layers, mut config) = if request.squash {
        let whole = change.look()?;
        let mut config = state.config.clone();
        config.history.set(Vec::new());
        (pack(session, whole.path())?, Vec::new(), config)
    } else {
        (change.pack(session)?, state.layers.clone(), state.config.clone())
    };
    describe(&mut config, state, &layer);
    if !layer.empty {
        layers.push(layer.diff_id);
    }
    let built = write_config(session, config, &layers, &created(session))?;
    let (store, lease) = (session.store(), session.lease());
    let manifest = export::manifest(session, &built)?;
    store.put_blob(lease, manifest.bytes())?;
    store.put_image(lease, &store.read_blob(built.id.digest())?, Some(&manifest), &[])?;
    for name in names {
        store.tag(lease, &built.id, name)?;
    }
    Ok(Committed {
        image_id: built.id.to_string(),
        names: names.iter().map(ToString::to_string).collect(),
        layers: layers.iter().map(DiffId::to_string).collect(),
    })
}

/// Adds the last line of history.
fn describe(config: &mut ImageConfig, state: &State, layer: &NewLayer) {
    let mut entry = History::default();
    entry.created_by.set(state.created_by.clone().unwrap_or_else(|| CREATED_BY.to_owned()));
    entry.comment.set(state.comment.clone().unwrap_or_else(|| format!("FROM {}", state.image_name)));
    if let Some(author) = config.author.get() {
        entry.author.set(author.clone());
    }
    if layer.empty {
        entry.empty_layer.set(true);
    }
    config.history.get_or_default().push(entry);
}
