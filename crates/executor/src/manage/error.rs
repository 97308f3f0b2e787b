//! Why an operation on the store failed.

use std::io;
use std::path::PathBuf;

use rbuild_image::archive::ArchiveError;
use rbuild_image::reference::ReferenceError;
use rbuild_image::registry::{CredentialError, RegistryError, RegistryErrorKind};
use rbuild_image::store::StoreError;
use rbuild_sandbox::SpawnError;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManageError {
    /// There is no such image.
    #[error("no such image: {name}")]
    NoImage {
        /// As it was asked for, with the tag that was meant.
        name: String,
    },
    /// The beginning of an id fits several images, or builds.
    #[error("several ids begin with {prefix}")]
    Ambiguous {
        /// The beginning.
        prefix: String,
    },
    /// There is no record of such a build.
    #[error("there is no record of {}", name.as_ref().map_or("any build".to_owned(), |name| format!("the build {name}")))]
    NoBuild {
        /// As it was asked for.
        name: Option<String>,
    },
    /// A build cannot be repeated.
    #[error("the build {build} cannot be resumed: {reason}")]
    CannotResume {
        /// Its id.
        build: String,
        /// Why not.
        reason: String,
    },
    /// An archive without a failed build.
    #[error("`{path}` holds no failed build")]
    NoFailedBuild {
        /// The file.
        path: PathBuf,
    },
    /// The process that does the work could not do it.
    #[error("{message}")]
    Worker {
        /// Why.
        message: String,
    },
    /// There is no such step.
    #[error("the build {build} has no step `{step}`")]
    NoStep {
        /// Id of the build.
        build: String,
        /// As it was named.
        step: String,
    },
    /// The build did not come to a step.
    #[error("the build {build} did not come to its step {step}")]
    StepNotDone {
        /// Id of the build.
        build: String,
        /// Its number.
        step: u32,
    },
    /// The files of a step are no longer there.
    #[error("the files of step {step} of the build {build} are no longer in the store")]
    StepGone {
        /// Id of the build.
        build: String,
        /// Its number.
        step: u32,
    },
    /// Nothing is left of a build.
    #[error("nothing is left of the build {build}")]
    NothingKept {
        /// Its id.
        build: String,
    },
    /// The log of a build was not kept.
    #[error("the log of the build {build} was not kept")]
    NoLog {
        /// Its id.
        build: String,
    },
    /// A name is none.
    #[error("`{name}` is no name of an image")]
    Reference {
        /// The name.
        name: String,
        /// Why not.
        source: ReferenceError,
    },
    /// The new name of an image has a digest.
    #[error("an image cannot be named by a digest: `{name}`")]
    NameWithDigest {
        /// The name.
        name: String,
    },
    /// An image that several names mean was to be removed by its id.
    #[error("the image {id} has several names")]
    SeveralNames {
        /// Its id, shortened.
        id: String,
    },
    /// A Dockerfile is none.
    #[error(transparent)]
    Dockerfile(Box<rbuild_parser::ParseError>),
    /// A platform is none.
    #[error("`{text}` is no platform")]
    Platform {
        /// What was given.
        text: String,
        /// Why not.
        source: rbuild_image::platform::PlatformError,
    },
    /// A registry could not be used.
    #[error("cannot {action} {name}")]
    Registry {
        /// What was tried: `pull`, `push`, `log in to`.
        action: &'static str,
        /// The image or the server.
        name: String,
        /// Why not.
        source: Box<RegistryError>,
    },
    /// There is no configuration of Docker's to keep credentials in.
    #[error("there is no place for credentials: neither DOCKER_CONFIG nor HOME is set")]
    NoConfig,
    /// Credentials could not be read or kept.
    #[error("cannot {action} the credentials of {server}")]
    Credentials {
        /// What was tried.
        action: &'static str,
        /// Which server.
        server: String,
        /// Why not.
        source: CredentialError,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An archive could not be read or written.
    #[error("cannot {action} the archive")]
    Archive {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: ArchiveError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is no longer needed could not be removed from the disk.
    #[error("cannot free the space of what is no longer needed{}", causes.iter().map(|c| format!(": {c}")).collect::<String>())]
    Collect {
        /// Why not, each the cause of the one before.
        causes: Vec<String>,
        /// Why it was not done in a worker, if it was not.
        no_worker: Option<SpawnError>,
    },
    /// Configuration and manifest of an image do not fit each other, or its layers are not what they should be.
    #[error("the image {name} is inconsistent: {problem}")]
    Inconsistent {
        /// The image.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The caller cancelled.
    #[error("it was cancelled")]
    Cancelled,
}

impl ManageError {
    /// What to do about it, where something is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            ManageError::NoImage { .. } => Some("`rbuild images` shows the images there are".to_owned()),
            ManageError::NoBuild { .. } => Some("`rbuild builds` lists the builds that are remembered".to_owned()),
            ManageError::CannotResume { reason, .. } if reason.ends_with("has changed since") => {
                Some("resume with --force, or build anew".to_owned())
            }
            ManageError::NoFailedBuild { .. } => {
                Some("`rbuild save --failed` writes one; `rbuild load` reads archives of images".to_owned())
            }
            ManageError::NoStep { build, .. } => Some(format!("`rbuild builds show {build}` lists its steps")),
            ManageError::StepGone { .. } => Some("they were pruned; build again".to_owned()),
            ManageError::NothingKept { .. } => {
                Some("it did not fail in a RUN, or that was not kept (`--keep-failed`)".to_owned())
            }
            ManageError::NoLog { .. } => {
                Some("logs of more than 64 MiB are not kept; write one with `--log-file events:FILE`".to_owned())
            }
            ManageError::Ambiguous { .. } => Some("give more of the id".to_owned()),
            ManageError::SeveralNames { .. } => Some("remove its names, or use --force".to_owned()),
            ManageError::Collect { no_worker: Some(why), .. } => Some(super::worker::explain(why)),
            ManageError::Store(error) if error.is_no_space() => {
                Some("make room, `rbuild prune` frees some, or put the store elsewhere with --root".to_owned())
            }
            ManageError::Store(StoreError::Io { action: "create directory", .. } | StoreError::NoLocks { .. }) => {
                Some("name another directory for the store with --root or RBUILD_ROOT".to_owned())
            }
            ManageError::NoConfig => Some("name a directory with the variable DOCKER_CONFIG".to_owned()),
            ManageError::Registry { source, .. } => match source.kind() {
                RegistryErrorKind::Unauthorized | RegistryErrorKind::Denied => {
                    Some("log in with `rbuild login`".to_owned())
                }
                RegistryErrorKind::Tls => Some(
                    "name the registry's authority with --registry-certificate, or the registry with \
                          --insecure-registry"
                        .to_owned(),
                ),
                _ => None,
            },
            _ => None,
        }
    }
}
