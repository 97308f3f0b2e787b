//! Builds that the store remembers.

use std::fs;
use std::path::PathBuf;

use super::images::{open, resolve};
use super::{Force, ManageError, remove};
use crate::record::{self, BUILDS, BuildRecord, BuildStatus};
use crate::{BuildOptions, ByHand, ContextSource, DockerfileSource, ExpectedStep, StepStatus, StoreOptions};

/// The builds that are remembered, oldest first. Those that still run, or were killed, are not among them.
///
/// # Errors
/// [`ManageError::Io`].
pub fn builds(store: &StoreOptions) -> Result<Vec<BuildRecord>, ManageError> {
    let failed = |source| ManageError::Io { action: "read", path: store.root.join(BUILDS), source };
    record::list(&store.root).map_err(failed)
}

/// One of them: by its id or the beginning of that, or by the image that is left of its failed step; the last one where
/// none is named.
///
/// # Errors
/// [`ManageError::NoBuild`], [`ManageError::Ambiguous`] and [`ManageError::Io`].
pub fn build_record(store: &StoreOptions, name: Option<&str>) -> Result<BuildRecord, ManageError> {
    let mut records = builds(store)?;
    let none = || ManageError::NoBuild { name: name.map(str::to_owned) };
    let Some(name) = name else { return records.pop().ok_or_else(none) };
    let image = |record: &BuildRecord| record.failure.as_ref().and_then(|failure| failure.image.clone());
    let is_meant = |record: &BuildRecord| {
        record.id.starts_with(name) || image(record).is_some_and(|image| image.trim_start_matches("sha256:") == name)
    };
    records.retain(is_meant);
    if records.len() > 1 {
        return Err(ManageError::Ambiguous { prefix: name.to_owned() });
    }
    records.pop().ok_or_else(none)
}

/// The recorded events of a build.
///
/// # Errors
/// [`ManageError::NoLog`].
pub fn build_log(store: &StoreOptions, record: &BuildRecord) -> Result<PathBuf, ManageError> {
    let path = record::events_of(&store.root, &record.id);
    if record.has_log && path.exists() { Ok(path) } else { Err(ManageError::NoLog { build: record.id.clone() }) }
}

/// What repeats a build that did not succeed: what it had done is in the build cache, so that it goes on at the instruction
/// that failed. Secrets are not remembered. With [`Force::Yes`] also where the Dockerfile is another now.
/// [`ResumeFrom::Partial`] has the command that failed begin with what it had done.
///
/// # Errors
/// [`ManageError::CannotResume`] with the reason.
pub fn resumed(record: &BuildRecord, force: Force, from: ResumeFrom) -> Result<BuildOptions, ManageError> {
    let cannot = |reason: &str| Err(ManageError::CannotResume { build: record.id.clone(), reason: reason.to_owned() });
    if record.status == BuildStatus::Succeeded {
        return cannot("it succeeded");
    }
    let mut options = resumable(record, force)?;
    if from == ResumeFrom::Partial {
        let step = record.steps.iter().find(|step| step.status == StepStatus::Failed).and_then(|step| step.key.clone());
        let image = record.failure.as_ref().and_then(|failure| failure.image.clone());
        let (Some(step), Some(image)) = (step, image) else {
            return cannot("nothing is left of a command that failed");
        };
        if resolve(&open(&options.store)?, &image).is_err() {
            return cannot("what was left of its command was removed since");
        }
        options.by_hand.retain(|hand| hand.step != step);
        options.by_hand.push(ByHand { step, image, complete: false });
    }
    Ok(options)
}

/// What repeats a build. Unless it is forced to, that ends where something is not what it was.
pub(super) fn resumable(record: &BuildRecord, force: Force) -> Result<BuildOptions, ManageError> {
    let cannot = |reason: String| Err(ManageError::CannotResume { build: record.id.clone(), reason });
    let mut options = record.options.clone();
    // What it had done is in the cache now, and is what it goes on with.
    (options.no_cache, options.pull) = (false, false);
    options.no_cache_filter.clear();
    let dockerfile = match (&options.dockerfile, &options.context) {
        (DockerfileSource::Stdin, _) => {
            return cannot("its Dockerfile came from standard input and is gone".to_owned());
        }
        (_, ContextSource::Stdin) => return cannot("its context came from standard input and is gone".to_owned()),
        (DockerfileSource::Path(path), ContextSource::Dir(_)) => Some(path.clone()),
        (DockerfileSource::Default, ContextSource::Dir(context)) => Some(context.join("Dockerfile")),
        // What it is now is found out by the build.
        (_, ContextSource::Url(_) | ContextSource::Repository { .. }) => None,
    };
    if force == Force::No
        && let (Some(was), Some(dockerfile)) = (&record.dockerfile, dockerfile)
    {
        match fs::read(&dockerfile) {
            Ok(bytes) if record::dockerfile_digest(&bytes) == *was => {}
            Ok(_) => return cannot(format!("`{}` has changed since", dockerfile.display())),
            Err(error) => return cannot(format!("`{}` cannot be read: {error}", dockerfile.display())),
        }
    }
    if force == Force::No {
        let known = record.steps.iter().filter_map(|step| {
            Some(ExpectedStep { stage: step.stage.clone(), position: step.position, key: step.key.clone()? })
        });
        options.expected = known.collect();
    }
    Ok(options)
}

/// Where a build goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeFrom {
    /// With the instruction that failed.
    Step,
    /// In the midst of it.
    Partial,
}

/// Forgets a build, and removes the image that is left of its failed step, unless that has a name; call
/// [`collect`](super::collect) afterwards.
///
/// # Errors
/// As [`remove`], and [`ManageError::Io`].
pub fn remove_build(store: &StoreOptions, record: &BuildRecord) -> Result<(), ManageError> {
    if let Some(failure) = &record.failure
        && let Some(image) = failure.image.as_ref().filter(|_| failure.image_names.is_empty())
    {
        match remove(store, image, Force::No) {
            // It was pruned, or named since.
            Ok(_) | Err(ManageError::NoImage { .. } | ManageError::SeveralNames { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let path = store.root.join(BUILDS).join(&record.id);
    fs::remove_dir_all(&path).map_err(|source| ManageError::Io { action: "remove", path, source })
}
