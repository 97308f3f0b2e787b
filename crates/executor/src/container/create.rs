//! Beginning a working container.

use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use serde::{Deserialize, Serialize};

use super::options::Created;
use super::state::{State, check_name};
use crate::options::StoreOptions;
use crate::plan::buildkit::target_platform;
use crate::plan::image::StageImage;
use crate::run::{RunError, stopped};
use crate::session::Session;
use crate::stop::Stop;

/// What the worker is told: the image is in the store by then.
#[derive(Serialize, Deserialize)]
pub(crate) struct CreateRequest {
    pub(super) store: StoreOptions,
    /// As it was asked for.
    pub(super) image_name: String,
    /// Its id; none for `scratch`.
    pub(super) image_id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) platform: Option<String>,
}

/// Begins it.
pub(super) fn create(session: &Session<'_>, request: &CreateRequest) -> Result<Created, RunError> {
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    let (mut image, layers) = match &request.image_id {
        None => {
            let platform: Platform = target_platform(session.options()).map_err(|error| stopped(error.into()))?;
            (StageImage::scratch(&platform), Vec::new())
        }
        Some(id) => {
            let image = session.local_image(id).map_err(stopped)?;
            let image = image.ok_or_else(|| RunError::refused(format!("the image {id} is gone")))?;
            (StageImage::from_base(&image.config), image.diff_ids())
        }
    };
    image.keep_buildkit_members();
    let triggers = image.triggers();
    if !triggers.is_empty() {
        image.clear_triggers();
    }
    let mut state = State::new(session.facts(), request.image_name.clone(), image.config, layers);
    state.image_id.clone_from(&request.image_id);
    let name = publish(session, request, &state)?;
    Ok(Created { name, triggers })
}

/// Makes its directory, and finds it a name.
fn publish(session: &Session<'_>, request: &CreateRequest, state: &State) -> Result<String, RunError> {
    let stage = || -> Result<_, Stop> {
        let dir = session.scratch_dir()?;
        let files = dir.join("fs");
        for path in [&files, &dir.join("work")] {
            std::fs::create_dir(path)?;
        }
        let stack = session.unpacked(&state.layers)?;
        session.copy_root_attributes(stack.first().map(std::path::PathBuf::as_path), &files)?;
        session.store().write_container(&dir, state)?;
        Ok(dir)
    };
    let staged = stage().map_err(stopped)?;
    let publish = |name: &str| session.store().publish_container(name, &staged).map_err(|error| stopped(error.into()));
    if let Some(name) = &request.name {
        if publish(name)? {
            return Ok(name.clone());
        }
        return Err(RunError::Refused {
            message: format!("there is a working container `{name}` already"),
            hint: Some(format!("choose another name, or remove it: `rbuild rm {name}`")),
        });
    }
    let plain = default_name(&request.image_name, request.image_id.as_deref());
    let mut name = plain.clone();
    for number in 1_u64.. {
        session.check().map_err(stopped)?;
        if publish(&name)? {
            break;
        }
        name = format!("{plain}-{number}");
    }
    Ok(name)
}

/// The name of a container that nobody names: the last part of the image's.
fn default_name(image_name: &str, image_id: Option<&str>) -> String {
    let Some(id) = image_id else { return "working-container".to_owned() };
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    let asked = image_name.strip_prefix("sha256:").unwrap_or(image_name);
    let of_image = if hex.starts_with(asked) {
        None
    } else {
        let name = Reference::parse_normalized(image_name, DockerVersion::V28).ok().map(|name| name.familiar_name());
        name.and_then(|name| name.rsplit('/').next().map(str::to_owned))
    };
    let part = of_image.filter(|part| part.len() <= 64).unwrap_or_else(|| hex.chars().take(12).collect());
    format!("{part}-working-container")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers() {
        let id = "sha256:0123456789abcdef";
        for (image, wanted) in [
            ("busybox", "busybox-working-container"),
            ("localhost:5000/a/b.c:1", "b.c-working-container"),
            ("a__b@sha256:0000000000000000000000000000000000000000000000000000000000000000", "a__b-working-container"),
            ("012345", "0123456789ab-working-container"),
            (id, "0123456789ab-working-container"),
        ] {
            let name = default_name(image, Some(id));
            assert_eq!(name, wanted);
            assert!(check_name(&name).is_ok());
        }
        assert_eq!(default_name("scratch", None), "working-container");
    }
}
