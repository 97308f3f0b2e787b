//! Steps of builds that the store remembers, by the names that people give them.

use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use rbuild_image::config::{ContainerConfig, History, ImageConfig, KeyOrder, RootFs};
use rbuild_image::digest::{DiffId, Digest, ImageId};
use rbuild_image::platform::Platform;
use rbuild_image::reference::DockerVersion;
use rbuild_image::store::{Store, StoreError};

use super::images::{open, resolve};
use super::{Force, ManageError, build_record, load_failed, resumable};
use crate::interactive::ByHand;
use crate::journal::{StepRecord, StepState, StepStatus};
use crate::record::BuildRecord;
use crate::{BuildOptions, StoreOptions};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Located {
    /// A build: what it gave, or what it left.
    Build(Box<BuildRecord>),
    /// A step of a build.
    Step(Box<BuildRecord>, Box<StepRecord>),
    /// An image, which the store may not have.
    Image(String),
}

/// Finds out what is meant: `[BUILD/]STEP`, where a step is its number in `rbuild builds show`, `STAGE:NUMBER` or the
/// last step of a `STAGE` that the build came to; a build, or a file with one; or else an image. Without a build the last
/// one is meant.
///
/// # Errors
/// [`ManageError::NoBuild`], [`ManageError::NoStep`], [`ManageError::Ambiguous`] and [`ManageError::Io`].
pub fn locate(store: &StoreOptions, name: Option<&str>) -> Result<Located, ManageError> {
    let Some(name) = name else { return Ok(Located::Build(Box::new(build_record(store, None)?))) };
    if let Some(record) = build_in_file(store, name)? {
        return Ok(Located::Build(Box::new(record)));
    }
    if let Some((build, step)) = name.split_once('/')
        && let Ok(record) = build_record(store, Some(build))
    {
        return step_of(record, step).map(|(build, step)| Located::Step(build, step));
    }
    if is_number(name) {
        return step_of(build_record(store, None)?, name).map(|(build, step)| Located::Step(build, step));
    }
    match build_record(store, Some(name)) {
        Ok(record) => return Ok(Located::Build(Box::new(record))),
        Err(ManageError::NoBuild { .. }) => {}
        Err(error) => return Err(error),
    }
    if resolve(&open(store)?, name).is_err()
        && let Ok(last) = build_record(store, None)
        && let Ok((build, step)) = step_of(last, name)
    {
        return Ok(Located::Step(build, step));
    }
    Ok(Located::Image(name.to_owned()))
}

/// The failed build in a file that [`save_failed`](super::save_failed) wrote, if there is such a file.
///
/// # Errors
/// As [`load_failed`].
pub fn build_in_file(store: &StoreOptions, name: &str) -> Result<Option<BuildRecord>, ManageError> {
    let path = Path::new(name);
    // A name alone is that of a build, a stage or an image.
    if !name.contains(['/', '.']) || !path.is_file() {
        return Ok(None);
    }
    load_failed(store, path, &AtomicBool::new(false)).map(Some)
}

/// Finds a step, as [`locate`] does; a build stands for the step that failed, or the last one
/// with a layer.
///
/// # Errors
/// As [`locate`].
pub fn find_step(store: &StoreOptions, name: Option<&str>) -> Result<(BuildRecord, StepRecord), ManageError> {
    match locate(store, name)? {
        Located::Step(build, step) => Ok((*build, *step)),
        Located::Build(build) => {
            let failed = build.steps.iter().find(|step| step.status == StepStatus::Failed);
            let last = build.steps.iter().rev().find(|step| step.state.as_ref().is_some_and(|state| state.has_layer));
            match failed.or(last).cloned() {
                Some(step) => Ok((*build, step)),
                None => Err(ManageError::NoStep { build: build.id, step: "1".to_owned() }),
            }
        }
        Located::Image(name) => {
            let last = build_record(store, None)?;
            Err(ManageError::NoStep { build: last.id, step: name })
        }
    }
}

/// Longer numbers are ids of builds or images.
fn is_number(name: &str) -> bool {
    name.len() <= 4 && name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty()
}

fn step_of(build: BuildRecord, name: &str) -> Result<(Box<BuildRecord>, Box<StepRecord>), ManageError> {
    let in_stage = |stage: &str, step: &StepRecord| match &step.stage {
        Some(shown) => {
            let number = |name: &str| name.strip_prefix("stage-").and_then(|number| number.parse::<u32>().ok());
            shown.eq_ignore_ascii_case(stage) || number(shown).is_some_and(|number| Ok(number) == stage.parse())
        }
        None => matches!(stage, "0" | "stage-0"),
    };
    let mut steps = build.steps.iter();
    let found = match name.rsplit_once(':') {
        _ if is_number(name) => steps.find(|step| Ok(step.number) == name.parse()),
        Some((stage, number)) => steps.find(|step| Ok(step.position) == number.parse() && in_stage(stage, step)),
        None => steps.rev().find(|step| in_stage(name, step) && step.state.is_some()),
    };
    match found.cloned() {
        Some(step) => Ok((Box::new(build), Box::new(step))),
        None => Err(ManageError::NoStep { build: build.id, step: name.to_owned() }),
    }
}

/// The id of an image with what is there after a step: what its command left, if it failed. It has no name, and is gone
/// with the next collection.
///
/// # Errors
/// [`ManageError::StepNotDone`]; [`ManageError::StepGone`] where its layers were removed; [`ManageError::Store`].
pub fn step_image(store: &StoreOptions, build: &BuildRecord, step: &StepRecord) -> Result<String, ManageError> {
    let store = open(store)?;
    let gone = || ManageError::StepGone { build: build.id.clone(), step: step.number };
    if step.status == StepStatus::Failed
        && let Some(image) = build.failure.as_ref().and_then(|failure| failure.image.as_ref())
    {
        return resolve(&store, image).map(|id| id.to_string()).map_err(|_| gone());
    }
    let state =
        step.state.as_ref().ok_or_else(|| ManageError::StepNotDone { build: build.id.clone(), step: step.number })?;
    let layers = layers_of(&store, state).ok_or_else(gone)?;
    let bytes = config_of(build, step, state, layers).to_bytes(KeyOrder::Buildkit).map_err(StoreError::from)?;
    let digest = store.put_blob(&store.lease()?, &bytes)?;
    Ok(ImageId(digest).to_string())
}

/// The layers of a step, if the store has them all.
fn layers_of(store: &Store, state: &StepState) -> Option<Vec<DiffId>> {
    let layers = state.layers.iter().map(|layer| Digest::from_str(layer).ok().map(DiffId));
    let layers = layers.collect::<Option<Vec<_>>>()?;
    let is_here = |layer: &DiffId| {
        store.unpacked(layer).is_some() || store.diff_blobs(layer).is_ok_and(|blobs| !blobs.is_empty())
    };
    layers.iter().all(is_here).then_some(layers)
}

fn config_of(build: &BuildRecord, step: &StepRecord, state: &StepState, layers: Vec<DiffId>) -> ImageConfig {
    let wanted = build.options.platform.as_deref();
    let platform =
        wanted.and_then(|text| Platform::parse(text, DockerVersion::V28).ok()).unwrap_or_else(Platform::host);
    let mut config = ImageConfig::default();
    config.architecture.set(platform.architecture);
    config.os.set(platform.os);
    if !platform.variant.is_empty() {
        config.variant.set(platform.variant);
    }
    let mut container = ContainerConfig::default();
    container.env.set(state.env.clone());
    container.working_dir.set(state.working_dir.clone());
    if !state.user.is_empty() {
        container.user.set(state.user.clone());
    }
    container.cmd.set(vec!["/bin/sh".to_owned()]);
    config.config.set(container);
    let history = config.history.get_or_default();
    for index in 0..layers.len() {
        let mut entry = History::default();
        let is_last = index + 1 == layers.len();
        entry.created_by.set(if is_last { step.text.clone() } else { "a layer beneath the step".to_owned() });
        history.push(entry);
    }
    config.rootfs.set(RootFs::new(layers));
    config
}

/// What goes on with a build after a step that was done by hand: an image whose topmost layer is the step's.
///
/// # Errors
/// [`ManageError::CannotResume`] with the reason.
pub fn resumed_after(
    build: &BuildRecord,
    step: &StepRecord,
    image: &str,
    force: Force,
) -> Result<BuildOptions, ManageError> {
    let mut options = resumable(build, force)?;
    let Some(key) = &step.key else {
        let reason = format!("`{}` makes no layer, so that none can take its place", step.text);
        return Err(ManageError::CannotResume { build: build.id.clone(), reason });
    };
    options.by_hand.retain(|hand| hand.step != *key);
    options.by_hand.push(ByHand { step: key.clone(), image: image.to_owned(), complete: true });
    Ok(options)
}
