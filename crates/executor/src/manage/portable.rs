//! Failed builds in archives, for other machines.
//!
//! Such an archive is an OCI image layout: the image of the half-built layer, those of the steps that were done, the base
//! images, and one with the record of the build, its Dockerfile and its context.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use rbuild_image::archive::{self, ToSave};
use rbuild_image::digest::{Digest, ImageId};
use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::store::Store;
use rbuild_logfmt::event::Builder;

use super::archive::{ArchiveFormat, archive_failed, save_images};
use super::builds::resumable;
use super::images::open;
use super::{Force, ManageError, build_record, step_image};
use crate::StoreOptions;
use crate::journal::{StepRecord, StepStatus};
use crate::options::{BuildOptions, ContextSource, DockerfileSource, Isolation, Output, RegistryAccess};
use crate::record::{self, BUILDS, BuildRecord, RECORD, is_build_id};
use crate::run::{self, CONTEXT, DOCKERFILE, LABEL, Portable, RunControl, StepResult, Take, TakeOptions};

/// Bytes of a record: one of ten thousand files has not so many.
const MOST_RECORD: u64 = 64 << 20;

/// Writes what is left of a failed build into an archive, which [`load_failed`] reads on another machine.
///
/// # Errors
/// [`ManageError::NothingKept`]; [`ManageError::CannotResume`] where the Dockerfile is another now; as
/// [`save_file`](super::save_file).
pub fn save_failed(
    store: &StoreOptions,
    build: Option<&str>,
    path: &Path,
    cancel: &AtomicBool,
) -> Result<(), ManageError> {
    let mut record = build_record(store, build)?;
    let half = record.failure.as_ref().and_then(|failure| failure.image.clone());
    let half = half.ok_or_else(|| ManageError::NothingKept { build: record.id.clone() })?;
    if !matches!(record.options.context, ContextSource::Stdin) && record.options.dockerfile != DockerfileSource::Stdin {
        resumable(&record, Force::No)?;
    }
    record.options.store = store.clone();
    let store_dir = open(store)?;
    let mut images = vec![half];
    for step in &record.steps {
        images.extend(saved_image(store, &record, step));
    }
    images.push(ask(store, &record.options.isolation, Portable::Pack(Box::new(record.clone())))?.unwrap_or_default());
    let mut seen = HashSet::new();
    images.retain(|image| seen.insert(image.clone()));
    let id = |image: &String| Digest::from_str(image).ok().map(ImageId);
    let unnamed = images.iter().filter_map(id).map(|id| ToSave { id, references: Vec::new() });
    let bases = record.steps.iter().filter_map(|step| base_image(&store_dir, step));
    let images: Vec<ToSave> = unnamed.chain(bases).collect();
    save_images(&store_dir, &images, ArchiveFormat::Oci, path, cancel)
}

/// The image of a step that was done, where something is to go on from it.
fn saved_image(store: &StoreOptions, record: &BuildRecord, step: &StepRecord) -> Option<String> {
    if !matches!(step.status, StepStatus::Done | StepStatus::Cached) || step.key.is_none() {
        return None;
    }
    if record.options.dialect.builder == Builder::Legacy {
        return step.image.clone();
    }
    step_image(store, record, step).ok()
}

/// The base image of a FROM, under its name.
fn base_image(store: &Store, step: &StepRecord) -> Option<ToSave> {
    let mut words = step.text.strip_prefix("FROM ")?.split_whitespace();
    let name = words.find(|word| !word.starts_with("--"))?;
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let reference = Reference::parse_normalized(name, DockerVersion::V28).ok()?.or_latest();
    let id = store.resolve_reference(&reference).ok()??;
    Some(ToSave { id, references: vec![reference] })
}

/// Takes over a failed build from an archive that [`save_failed`] wrote: from then on it is one of the store's. Of what it
/// was asked to do only that is kept which changes nothing but the store, and what it has in the cache is for its own
/// continuation alone: the archive may be anybody's.
///
/// # Errors
/// [`ManageError::NoFailedBuild`] where the archive has none; as [`load_file`](super::load_file).
pub fn load_failed(store: &StoreOptions, path: &Path, cancel: &AtomicBool) -> Result<BuildRecord, ManageError> {
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| ManageError::Io { action, path, source }
    };
    let no_build = || ManageError::NoFailedBuild { path: path.to_owned() };
    let store_dir = open(store)?;
    let lease = store_dir.lease()?;
    let listed: HashSet<ImageId> = store_dir.list()?.into_iter().map(|image| image.id).collect();
    let file = File::open(path).map_err(io("open", path))?;
    let reader = crate::cancel::Cancellable { inner: file, cancel };
    let images = archive::load(&store_dir, &lease, reader, &Platform::host())
        .map_err(|source| archive_failed("read", source, cancel))?;
    let label = |id: &ImageId| -> Option<String> {
        let image = store_dir.image(id).ok()?;
        image.config.config.get()?.labels.get()?.get(LABEL).cloned()
    };
    let found = images.iter().find_map(|image| Some((image.id.to_string(), label(&image.id)?)));
    let (image, id) = found.ok_or_else(no_build)?;
    if !is_build_id(&id) {
        return Err(no_build());
    }
    let home = store.root.join(BUILDS).join(&id);
    // What is there for its cache alone needs no place in the list of images.
    let unlist = |half: Option<&str>| -> Result<(), ManageError> {
        let unnamed = images.iter().filter(|image| image.references.is_empty() && !listed.contains(&image.id));
        for image in unnamed.filter(|image| half != Some(image.id.to_string().as_str())) {
            store_dir.remove_image(&image.id)?;
        }
        Ok(())
    };
    if home.join(RECORD).exists() {
        let record = build_record(store, Some(&id))?;
        unlist(record.failure.as_ref().and_then(|failure| failure.image.as_deref()))?;
        return Ok(record);
    }
    // Whole or not at all.
    let staged = lease.stage_dir()?;
    let take = Take::Copy { path: "/.".to_owned(), follow: false, to: staged.clone(), keep_owners: false };
    let options = TakeOptions { store: store.clone(), image, isolation: Isolation::Auto, take };
    run::take(options, &RunControl::new()).map_err(|error| ManageError::Worker { message: error.to_string() })?;
    // A link may lead anywhere.
    let recorded = staged.join(RECORD);
    if !recorded.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() <= MOST_RECORD) {
        return Err(no_build());
    }
    let text = fs::read(recorded).map_err(io("read", path))?;
    let mut record: BuildRecord = serde_json::from_slice(&text).map_err(|_| no_build())?;
    if record.id != id {
        return Err(no_build());
    }
    let (has_context, dockerfile) = packed(&staged);
    let dockerfile = dockerfile.map(|name| home.join(DOCKERFILE).join(name));
    record.options = harmless(record.options, store, &home, has_context, dockerfile);
    record.has_log = false;
    for image in &images {
        for reference in &image.references {
            if store_dir.resolve_reference(reference)?.is_none() {
                store_dir.tag(&lease, &image.id, reference)?;
            }
        }
    }
    if let Some(half) = record.failure.as_ref().and_then(|failure| failure.image.as_ref()) {
        let half = Digest::from_str(half).map_err(|_| no_build())?;
        store_dir.keep(&lease, &ImageId(half))?;
    }
    let half = record.failure.as_ref().and_then(|failure| failure.image.as_deref());
    let results = record.steps.iter().filter_map(|step| result(&record, step)).collect();
    ask(store, &Isolation::Auto, Portable::Adopt { options: Box::new(record.options.clone()), results })?;
    unlist(half)?;
    record::write(&staged, &record).map_err(io("write the record in", &staged))?;
    fs::create_dir_all(store.root.join(BUILDS)).map_err(io("create", &store.root.join(BUILDS)))?;
    fs::rename(&staged, &home).map_err(io("create", &home))?;
    Ok(record)
}

/// Whether there is a context, and the name of the Dockerfile. Links, which may lead anywhere, are neither.
fn packed(staged: &Path) -> (bool, Option<OsString>) {
    let is_dir = |name: &str| staged.join(name).symlink_metadata().is_ok_and(|found| found.is_dir());
    let dockerfile = || {
        let entry = fs::read_dir(staged.join(DOCKERFILE)).ok()?.next()?.ok()?;
        entry.file_type().ok()?.is_file().then(|| entry.file_name())
    };
    (is_dir(CONTEXT), if is_dir(DOCKERFILE) { dockerfile() } else { None })
}

/// What the cache gets of a step.
fn result(record: &BuildRecord, step: &StepRecord) -> Option<(String, StepResult)> {
    if !matches!(step.status, StepStatus::Done | StepStatus::Cached) {
        return None;
    }
    let result = match record.options.dialect.builder {
        Builder::Legacy => StepResult::Image(step.image.clone()?),
        Builder::Buildkit => StepResult::Layer(step.state.as_ref()?.layers.last()?.clone()),
    };
    Some((step.key.clone()?, result))
}

/// The options of somebody else's build, without all that reads or writes files of this machine.
fn harmless(
    options: BuildOptions,
    store: &StoreOptions,
    home: &Path,
    has_context: bool,
    dockerfile: Option<PathBuf>,
) -> BuildOptions {
    let is_remote =
        |url: &str| ["http://", "https://", "git://", "ssh://"].iter().any(|scheme| url.starts_with(scheme));
    let context = match options.context {
        ContextSource::Url(url) if is_remote(&url) => ContextSource::Url(url),
        ContextSource::Repository { url, reference, dockerfile } if is_remote(&url) => {
            ContextSource::Repository { url, reference, dockerfile }
        }
        _ if has_context => ContextSource::Dir(home.join(CONTEXT)),
        _ => ContextSource::Stdin,
    };
    let dockerfile = match (&context, dockerfile) {
        (ContextSource::Dir(_), Some(file)) => DockerfileSource::Path(file),
        (_, _) => match options.dockerfile {
            // Within the repository, or the archive.
            DockerfileSource::Path(path) if path.is_relative() => DockerfileSource::Path(path),
            DockerfileSource::Stdin => DockerfileSource::Stdin,
            _ => DockerfileSource::Default,
        },
    };
    let is_image = |value: &str| value.starts_with("docker-image://") || is_remote(value);
    BuildOptions {
        store: store.clone(),
        registry: RegistryAccess::default(),
        context,
        dockerfile,
        build_contexts: options.build_contexts.into_iter().filter(|(_, value)| is_image(value)).collect(),
        outputs: vec![Output::Store],
        secrets: Vec::new(),
        ssh: Vec::new(),
        isolation: Isolation::Auto,
        cache_scope: Some(home.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        ..options
    }
}

/// Has a worker do something.
fn ask(store: &StoreOptions, isolation: &Isolation, request: Portable) -> Result<Option<String>, ManageError> {
    run::ask_portable(store, *isolation, request).map_err(|error| ManageError::Worker { message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Secret, SecretSource, Ssh};

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("file"), "x").unwrap();
        let staged = dir.path().join("staged");
        fs::create_dir_all(staged.join(DOCKERFILE)).unwrap();
        assert_eq!(packed(&staged), (false, None));
        std::os::unix::fs::symlink(secret.join("file"), staged.join(DOCKERFILE).join("D")).unwrap();
        std::os::unix::fs::symlink(&secret, staged.join(CONTEXT)).unwrap();
        assert_eq!(packed(&staged), (false, None));
        fs::remove_dir_all(staged.join(DOCKERFILE)).unwrap();
        std::os::unix::fs::symlink(&secret, staged.join(DOCKERFILE)).unwrap();
        assert_eq!(packed(&staged), (false, None));
        fs::remove_file(staged.join(DOCKERFILE)).unwrap();
        fs::remove_file(staged.join(CONTEXT)).unwrap();
        fs::create_dir_all(staged.join(CONTEXT)).unwrap();
        fs::create_dir_all(staged.join(DOCKERFILE)).unwrap();
        fs::write(staged.join(DOCKERFILE).join("D"), "x").unwrap();
        assert_eq!(packed(&staged), (true, Some("D".into())));
    }

    #[test]
    fn nothing_of_this_machine_is_read_or_written() {
        let mut theirs = BuildOptions::new("/their/store", ContextSource::Dir("/home/victim".into()));
        theirs.dockerfile = DockerfileSource::Path("/etc/shadow".into());
        theirs.outputs = vec![Output::Local("/home/victim/bin".into())];
        theirs.secrets = vec![Secret { id: "s".to_owned(), source: SecretSource::File("/etc/shadow".into()) }];
        theirs.ssh = vec![Ssh { id: "default".to_owned(), socket: "/run/agent".into() }];
        theirs.registry.docker_config = Some("/home/victim/.docker/config.json".into());
        let named = ["/home/victim", "../x", "oci-layout:///x", "docker-image://a", "https://h/r.git", "file:///r"];
        theirs.build_contexts = named.iter().map(|value| ("n".to_owned(), (*value).to_owned())).collect();
        theirs.tags = vec!["t".to_owned()];
        let store = StoreOptions { root: "/ours".into() };
        let home = Path::new("/ours/builds/000000000000");
        let ours = harmless(theirs.clone(), &store, home, true, Some(home.join("dockerfile/D")));
        assert_eq!(ours.context, ContextSource::Dir(home.join(CONTEXT)));
        assert_eq!(ours.dockerfile, DockerfileSource::Path(home.join("dockerfile/D")));
        assert_eq!((ours.outputs, ours.store), (vec![Output::Store], store.clone()));
        assert!(ours.secrets.is_empty() && ours.ssh.is_empty() && ours.registry == RegistryAccess::default());
        let left: Vec<&str> = ours.build_contexts.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(left, ["docker-image://a", "https://h/r.git"]);
        assert_eq!((ours.cache_scope.as_deref(), ours.tags), (Some("000000000000"), vec!["t".to_owned()]));
        for (url, is_kept) in [("file:///home/victim/r", false), ("https://h/r.git", true), ("/home/victim/r", false)] {
            theirs.context = ContextSource::Url(url.to_owned());
            let context = harmless(theirs.clone(), &store, home, false, None).context;
            assert_eq!(context, if is_kept { theirs.context.clone() } else { ContextSource::Stdin }, "{url}");
        }
    }
}
