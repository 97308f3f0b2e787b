//! Images in full, and how they were made.

use rbuild_image::config::{ContainerConfig, History, ImageConfig};
use rbuild_image::digest::DiffId;
use rbuild_image::reference::Reference;
use rbuild_image::store::{Image, ImageSummary as Listed, Store};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ManageError;
use super::images::{Time, open, resolve};
use crate::StoreOptions;

/// Tells all of an image, in the form of Docker 28's `docker inspect`. What rbuild does not have (the daemon's storage
/// driver, the time of the last tag) is absent.
///
/// # Errors
/// [`ManageError::NoImage`], [`ManageError::Ambiguous`] and [`ManageError::Store`].
pub fn inspect(store: &StoreOptions, name: &str) -> Result<Value, ManageError> {
    let store = open(store)?;
    let id = resolve(&store, name)?;
    let image = store.image(&id)?;
    let listed = store.list()?.into_iter().find(|listed| listed.id == id);
    Ok(describe(&store, &image, listed.as_ref()))
}

fn describe(store: &Store, image: &Image, listed: Option<&Listed>) -> Value {
    let config = &image.config;
    let text = |field: Option<&String>| field.cloned().unwrap_or_default();
    let references = listed.map(|listed| listed.references.as_slice()).unwrap_or_default();
    let tags: Vec<String> = references.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect();
    let mut digests: Vec<String> = Vec::new();
    for pulled in listed.into_iter().flat_map(|listed| &listed.pulled) {
        if let Some(digest) = pulled.digest() {
            let shown = pulled.without_version().with_digest(digest.clone()).familiar();
            if !digests.contains(&shown) {
                digests.push(shown);
            }
        }
    }
    let mut shown = Map::new();
    shown.insert("Id".into(), json!(image.id.to_string()));
    shown.insert("RepoTags".into(), json!(tags));
    shown.insert("RepoDigests".into(), json!(digests));
    shown.insert("Parent".into(), json!(""));
    shown.insert("Comment".into(), json!(config.comment.get().cloned().unwrap_or_else(|| last_comment(config))));
    shown.insert("Created".into(), json!(text(config.created.get())));
    shown.insert("DockerVersion".into(), json!(text(config.docker_version.get())));
    shown.insert("Author".into(), json!(text(config.author.get())));
    shown.insert("Architecture".into(), json!(text(config.architecture.get())));
    if let Some(variant) = config.variant.get().filter(|variant| !variant.is_empty()) {
        shown.insert("Variant".into(), json!(variant));
    }
    shown.insert("Os".into(), json!(text(config.os.get())));
    if let Some(version) = config.os_version.get().filter(|version| !version.is_empty()) {
        shown.insert("OsVersion".into(), json!(version));
    }
    shown.insert("Size".into(), json!(image.layers.iter().map(|layer| layer_size(store, &layer.diff_id)).sum::<u64>()));
    let layers: Vec<String> = config.diff_ids().iter().map(ToString::to_string).collect();
    shown.insert("RootFS".into(), json!({ "Type": "layers", "Layers": layers }));
    shown.insert("Config".into(), container_config(config.config.get()));
    Value::Object(shown)
}

/// As Docker, which has a comment of the whole image only in that of its last step.
fn last_comment(config: &ImageConfig) -> String {
    let history: &[History] = config.history.get().map(Vec::as_slice).unwrap_or_default();
    history.last().and_then(|last| last.comment.get().cloned()).unwrap_or_default()
}

/// The configuration as it is written in the image, but for the fields that Docker always shows.
fn container_config(config: Option<&ContainerConfig>) -> Value {
    let written = match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    const ALWAYS: [(&str, Value); 8] = [
        ("Cmd", Value::Null),
        ("Entrypoint", Value::Null),
        ("Env", Value::Null),
        ("Labels", Value::Null),
        ("OnBuild", Value::Null),
        ("User", Value::String(String::new())),
        ("Volumes", Value::Null),
        ("WorkingDir", Value::String(String::new())),
    ];
    // What Docker 28 shows of containers' settings that stand in images of older builders.
    const NEVER: [&str; 10] = [
        "Hostname",
        "Domainname",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "Image",
        "MacAddress",
    ];
    let mut shown: std::collections::BTreeMap<String, Value> =
        ALWAYS.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for (name, value) in written {
        if !NEVER.contains(&name.as_str()) {
            shown.insert(name, value);
        }
    }
    Value::Object(shown.into_iter().collect())
}

/// Bytes of a layer: of its tar if known, else of a blob that holds it.
fn layer_size(store: &Store, layer: &DiffId) -> u64 {
    let blobs = store.diff_blobs(layer).unwrap_or_default();
    let plain = blobs.iter().find(|blob| blob.digest == *layer.digest()).map(|blob| blob.size);
    let tar = blobs.iter().find_map(|blob| blob.tar_size);
    tar.or(plain).or_else(|| blobs.first().map(|blob| blob.size)).unwrap_or_default()
}

/// One step of an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Id of the image after this step; none where no image is known for it.
    pub id: Option<String>,
    /// When the step was done, if it says so.
    pub created: Option<Time>,
    /// The same as it stands in the image.
    pub created_text: String,
    /// What did it.
    pub created_by: String,
    /// Bytes of its layer; 0 where it made none.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

/// Tells how an image was made, last step first, as `docker history` does.
///
/// # Errors
/// [`ManageError::NoImage`], [`ManageError::Ambiguous`] and [`ManageError::Store`].
pub fn history(store: &StoreOptions, name: &str) -> Result<Vec<HistoryRow>, ManageError> {
    let store = open(store)?;
    let id = resolve(&store, name)?;
    let image = store.image(&id)?;
    let mut layers = image.config.diff_ids().iter();
    let steps: &[History] = image.config.history.get().map(Vec::as_slice).unwrap_or_default();
    let mut rows: Vec<HistoryRow> = steps
        .iter()
        .map(|step| {
            let layer = if step.empty_layer.get() == Some(&true) { None } else { layers.next() };
            let created_text = step.created.get().cloned().unwrap_or_default();
            HistoryRow {
                id: None,
                created: OffsetDateTime::parse(&created_text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp),
                created_text,
                created_by: step.created_by.get().cloned().unwrap_or_default(),
                size: layer.map_or(0, |layer| layer_size(&store, layer)),
                comment: step.comment.get().cloned().unwrap_or_default(),
            }
        })
        .collect();
    rows.reverse();
    if let Some(last) = rows.first_mut() {
        last.id = Some(id.to_string());
    }
    Ok(rows)
}
