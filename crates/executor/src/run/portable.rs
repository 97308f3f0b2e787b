//! The worker's part of builds that move to another machine: what is packed, and what is taken over.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rbuild_image::config::{ContainerConfig, History, ImageConfig};
use rbuild_image::digest::{DiffId, Digest, ImageId};
use rbuild_image::platform::Platform;
use rbuild_sandbox::Facts;
use rbuild_sandbox::root::Root;
use serde::{Deserialize, Serialize};

use super::container::stopped;
use super::control::RunControl;
use super::error::RunError;
use super::host::{begin, died, lost};
use super::worker::{ENTRY, Reply, Request};
use crate::cancel::Cancel;
use crate::context::{Context, ContextRequest};
use crate::emit::Emitter;
use crate::key::CacheKey;
use crate::options::{BuildOptions, ContextSource, Isolation, StoreOptions};
use crate::record::{BuildRecord, RECORD};
use crate::rootfs::{self, CopyOptions};
use crate::session::Session;
use crate::snapshot::Change;
use crate::solve::{created, write_config};
use crate::stop::Stop;
use crate::worker::{sandbox_isolation, worker_options};

/// The label of an image that holds the record of a build: the build's id.
pub(crate) const LABEL: &str = "org.rbuild.build";
/// Names in such an image.
pub(crate) const CONTEXT: &str = "context";
pub(crate) const DOCKERFILE: &str = "dockerfile";

/// What is asked of the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Portable {
    /// An image with the record of a build, its context and its Dockerfile.
    Pack(Box<BuildRecord>),
    /// The results of steps become part of the cache of a build.
    Adopt {
        /// For its cache.
        options: Box<BuildOptions>,
        /// Keys, with a diff ID or the id of an image.
        results: Vec<(String, StepResult)>,
    },
}

/// What the cache has of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StepResult {
    Layer(String),
    Image(String),
}

/// Has a worker do it; the id of the image, if one was made.
pub(crate) fn ask(store: &StoreOptions, isolation: Isolation, asked: Portable) -> Result<Option<String>, RunError> {
    let control = RunControl::new();
    let mut spawn = worker_options(store, ENTRY.0);
    spawn.isolation = sandbox_isolation(isolation);
    spawn.stderr = std::io::stderr().as_fd().try_clone_to_owned().ok();
    let mut worker = begin(spawn, &Request::Portable(asked), &control)?;
    let mut made = None;
    let answer = loop {
        match worker.recv::<Reply>().map_err(|error| lost(&error))? {
            Some(Reply::Committed(image, _)) => made = Some(image),
            Some(Reply::End(end)) => break Some(end),
            Some(_) => {}
            None => break None,
        }
    };
    let status = worker.wait();
    match answer {
        Some(end) => end.map(|_| made).map_err(RunError::from),
        None => Err(died(store, status, &control)),
    }
}

/// Does it; the id of the image, if one was made.
pub(super) fn in_worker(asked: &Portable, facts: &Facts, cancel: &Cancel) -> Result<Option<String>, RunError> {
    let options = match asked {
        Portable::Pack(record) => &record.options,
        Portable::Adopt { options, .. } => options,
    };
    let session = Session::open(options, facts.clone(), cancel, Emitter::new(Box::new(drop)), None, None)
        .map_err(|(_, stop)| stopped(stop))?;
    let done = match asked {
        Portable::Pack(record) => pack(&session, record).map(Some),
        Portable::Adopt { results, .. } => adopt(&session, results).map(|()| None),
    };
    session.close();
    done.map_err(stopped)
}

fn pack(session: &Session<'_>, record: &BuildRecord) -> Result<String, Stop> {
    let change = Change::begin(session, &[], &[])?;
    let filled = fill(session, record, &change);
    let layer = match filled {
        Ok(()) => change.commit(session)?.diff_id,
        Err(stop) => {
            change.discard(session);
            return Err(stop);
        }
    };
    let mut config = ImageConfig::default();
    let platform = Platform::host();
    config.architecture.set(platform.architecture);
    config.os.set(platform.os);
    let mut container = ContainerConfig::default();
    container.labels.get_or_default().insert(LABEL.to_owned(), record.id.clone());
    config.config.set(container);
    let mut entry = History::default();
    entry.created_by.set(format!("the record of the build {}", record.id));
    config.history.get_or_default().push(entry);
    let built = write_config(session, config, &[layer], &created(session))?;
    Ok(built.id.digest().to_string())
}

fn fill(session: &Session<'_>, record: &BuildRecord, change: &Change) -> Result<(), Stop> {
    let mount = change.mount()?;
    let root = Root::open(mount.target(), session.ownership())?;
    let write = |path: &Path, bytes: &[u8]| -> Result<(), Stop> {
        let node = root.create_file(path)?;
        node.chmod(0o644)?;
        if let Some(mut file) = node.file() {
            file.write_all(bytes)?;
        }
        Ok(())
    };
    let json = serde_json::to_vec_pretty(record).map_err(|error| Stop::own(&error))?;
    write(Path::new(RECORD), &json)?;
    let options = session.options();
    let ContextSource::Dir(directory) = &options.context else { return Ok(()) };
    // Where it is gone there is nothing to go on with, but what is left can be looked at.
    if !directory.is_dir() {
        return Ok(());
    }
    let request = ContextRequest {
        source: options.context.clone(),
        dockerfile: options.dockerfile.clone(),
        input: None,
        working_dir: PathBuf::from("/"),
        scratch_dir: session.scratch_dir()?,
        dialect: options.dialect,
    };
    let context = Context::open(request).map_err(|error| session.context_failed(&error))?;
    let (name, text) = context.dockerfile();
    root.create_dir(DOCKERFILE)?.chmod(0o755)?;
    let name = Path::new(name).file_name().unwrap_or("Dockerfile".as_ref());
    write(&Path::new(DOCKERFILE).join(name), text)?;
    root.create_dir(CONTEXT)?.chmod(0o755)?;
    let options = CopyOptions { contents: true, ..CopyOptions::default() };
    rootfs::copy(&context.source(), Path::new("/"), &root, Path::new(CONTEXT), options)?;
    Ok(())
}

fn adopt(session: &Session<'_>, results: &[(String, StepResult)]) -> Result<(), Stop> {
    let digest = |text: &str| Digest::from_str(text).ok();
    for (key, result) in results {
        let Some(key) = digest(key).map(CacheKey::from) else { continue };
        match result {
            StepResult::Layer(layer) => {
                if let Some(layer) = digest(layer).map(DiffId) {
                    session.remember_layer(&key, &layer)?;
                }
            }
            StepResult::Image(image) => {
                if let Some(image) = digest(image).map(ImageId) {
                    session.remember_image(&key, &image)?;
                }
            }
        }
    }
    Ok(())
}
