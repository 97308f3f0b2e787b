//! Why a context cannot be had, and Docker's words for it.

use std::io;
use std::path::{Path, PathBuf};

use rbuild_image::layer::LayerError;
use rbuild_logfmt::event::{Builder, Dialect, Failure, Speaker, Version};
use rbuild_logfmt::go_reason;
use rbuild_parser::ignore::IgnoreError;
use rbuild_sandbox::root::RootError;

use crate::plan::go;
use crate::rootfs::RootfsError;

/// Where Docker's daemon keeps what it reads, as its errors show it; the name of the last directory ends in digits drawn
/// at random.
pub(crate) const DAEMON_MOUNT: &str = "/var/lib/docker/tmp/buildkit-mount1";
const DAEMON_TEMP: &str = "/var/lib/docker/tmp/docker-builder1";

/// Why a build context could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The context is neither a directory nor anything else Docker knows.
    #[error("build context `{}` not found", path.display())]
    NotFound {
        /// As given.
        path: PathBuf,
    },
    /// The context is a file.
    #[error("build context `{}` is not a directory", path.display())]
    NotADirectory {
        /// As given.
        given: PathBuf,
        /// With links followed.
        path: PathBuf,
    },
    /// The context is a URL.
    #[error("remote build context `{url}` is not supported")]
    Remote {
        /// As given.
        url: String,
    },
    /// Context and Dockerfile are both to come from standard input.
    #[error("build context and Dockerfile cannot both be standard input")]
    StdinTwice,
    /// Standard input holds a Dockerfile, and `-f` names another.
    #[error("standard input holds a Dockerfile, and another is named")]
    TwoDockerfiles,
    /// Standard input is needed and was not given, or is empty.
    #[error("standard input is empty")]
    NoInput,
    /// The path to the Dockerfile leads to nothing.
    #[error("cannot find the Dockerfile: `{}`", path.display())]
    DockerfilePath {
        /// The component that cannot be looked at.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The context has no Dockerfile.
    #[error("Dockerfile `{name}` not found")]
    DockerfileMissing {
        /// Its name relative to the context or its directory.
        name: String,
    },
    /// The Dockerfile is a directory.
    #[error("Dockerfile `{name}` is a directory")]
    DockerfileIsDirectory {
        /// Its name relative to the context or its directory.
        name: String,
    },
    /// The Dockerfile has no bytes (legacy; BuildKit leaves this to its parser).
    #[error("Dockerfile `{name}` is empty")]
    DockerfileEmpty {
        /// Its name relative to the context.
        name: String,
    },
    /// The legacy client cannot list a directory of the context.
    #[error("cannot list `{}`", path.display())]
    CannotStat {
        /// The directory.
        path: PathBuf,
    },
    /// The legacy client cannot read a file of the context.
    #[error("no permission to read `{}`", path.display())]
    NoPermission {
        /// The file.
        path: PathBuf,
    },
    /// BuildKit's client cannot list a directory of the context.
    #[error("no permission to list `{}`", path.display())]
    DirectoryDenied {
        /// The directory, as Docker shows it.
        path: PathBuf,
    },
    /// The ignore file cannot be read.
    #[error("cannot read `{name}`: {source}")]
    IgnoreFile {
        /// Its name.
        name: String,
        /// Why.
        source: IgnoreError,
    },
    /// The ignore file holds a pattern that is none.
    #[error("invalid pattern in the ignore file: {source}")]
    IgnorePattern {
        /// All patterns.
        patterns: Vec<String>,
        /// What is wrong.
        source: IgnoreError,
    },
    /// The ignore file holds a pattern that shows to be none when it is used.
    #[error("invalid pattern in the ignore file: {0}")]
    IgnoreChecked(IgnoreError),
    /// The context is an archive that cannot be unpacked.
    #[error("cannot unpack the build context")]
    Archive {
        /// Why.
        source: Box<RootfsError>,
    },
    /// A named context has not the form `NAME=SOURCE`.
    #[error("invalid value `{value}`, expected key=value")]
    NamedForm {
        /// As given.
        value: String,
    },
    /// A named context has a name that is no reference.
    #[error("invalid context name `{name}`: {source}")]
    NamedName {
        /// As given.
        name: String,
        /// What is wrong with it.
        source: rbuild_image::reference::ReferenceError,
    },
    /// The directory of a named context is not there.
    #[error("cannot open named context `{name}`: `{}`", path.display())]
    NamedMissing {
        /// Its name.
        name: String,
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of a named context is a file.
    #[error("named context `{}` is not a directory", path.display())]
    NamedNotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// What is wanted of a context is no pattern (28's BuildKit).
    #[error("invalid pattern: {source}")]
    IncludePattern {
        /// All that is wanted.
        patterns: Vec<String>,
        /// What is wrong.
        source: IgnoreError,
    },
    /// A pattern of the ignore file of a named context is none.
    #[error("invalid pattern in the ignore file of a named context: {source}")]
    NamedIgnorePattern {
        /// All patterns.
        patterns: Vec<String>,
        /// What is wrong.
        source: IgnoreError,
    },
    /// The OCI layout of a named context has not the image.
    #[error("`{layout}` cannot be resolved: {reason}")]
    NamedLayout {
        /// As given.
        layout: String,
        /// Docker's reason.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as it completes "cannot …".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of a tree could not be reached.
    #[error("cannot read `{}`", path.display())]
    Tree {
        /// Which.
        path: PathBuf,
        /// Why.
        source: RootError,
    },
    /// It failed after something was transferred, which a log shows first.
    #[error("{source}")]
    Transferred {
        /// Legacy: the bytes after `Sending build context to Docker daemon`.
        tar_bytes: Option<u64>,
        /// BuildKit: the Dockerfile's name, and the bytes after `transferring dockerfile:`.
        dockerfile: Option<(String, u64)>,
        /// What failed.
        source: Box<ContextError>,
    },
}

impl ContextError {
    pub(super) fn root(path: &Path, source: RootError) -> Self {
        Self::Tree { path: path.to_owned(), source }
    }

    /// The error without what was transferred before it.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Transferred { source, .. } => source.cause(),
            other => other,
        }
    }

    /// What Docker says of it, in a dialect.
    #[must_use]
    pub fn failure(&self, dialect: Dialect) -> Failure {
        match dialect.builder {
            Builder::Legacy => self.legacy(dialect.version),
            Builder::Buildkit => self.buildkit(dialect.version),
        }
    }

    fn legacy(&self, version: Version) -> Failure {
        let client = |message: String| Failure::Request { message, by: Speaker::Client };
        let daemon = |message: String| Failure::Request { message, by: Speaker::Daemon };
        // Docker 28 dropped the word.
        let checking = match version {
            Version::V20 => "error checking context",
            Version::V28 => "checking context",
        };
        let prepare = "unable to prepare context";
        match self.cause() {
            Self::NotFound { path } => client(format!("{prepare}: path {} not found", quoted(path))),
            Self::NotADirectory { path, .. } => {
                client(format!("{prepare}: context must be a directory: {}", path.display()))
            }
            Self::StdinTwice => client(STDIN_TWICE.into()),
            Self::TwoDockerfiles => client(format!("{prepare} from STDIN: {TWO_DOCKERFILES}")),
            Self::DockerfilePath { path, source } => client(format!(
                "{prepare}: unable to evaluate symlinks in Dockerfile path: lstat {}: {}",
                path.display(),
                go_reason(source)
            )),
            Self::DockerfileMissing { name } => daemon(format!("Cannot locate specified Dockerfile: {name}")),
            Self::DockerfileIsDirectory { name } => {
                daemon(format!("unexpected error reading Dockerfile: read {DAEMON_TEMP}/{name}: is a directory"))
            }
            Self::DockerfileEmpty { name } => daemon(format!("the Dockerfile ({name}) cannot be empty")),
            Self::CannotStat { path } => client(format!("{checking}: can't stat '{}'", path.display())),
            Self::NoPermission { path } => {
                client(format!("{checking}: no permission to read from '{}'", path.display()))
            }
            Self::IgnoreFile { name, source } => client(format!("error reading {name}: {source}")),
            Self::IgnorePattern { source, .. } => client(format!("{checking}: {source}")),
            Self::IgnoreChecked(source) => client(format!("{checking}: {source}")),
            Self::Archive { source } => archive(source).map_or_else(|| self.own(), daemon),
            _ => self.own(),
        }
    }

    fn buildkit(&self, version: Version) -> Failure {
        let client = |message: String| Failure::Request { message, by: Speaker::Client };
        let builder = |message: String| Failure::Request { message, by: Speaker::Builder };
        let frontend = |message: String| Failure::Request { message, by: Speaker::Daemon };
        let not_found = |path: &Path| client(format!("unable to prepare context: path {} not found", quoted(path)));
        let read = "failed to read dockerfile";
        match self.cause() {
            Self::NotFound { path } => not_found(path),
            Self::NotADirectory { given, .. } if version == Version::V20 => {
                builder(format!("{read}: error from sender: walk {}: not a directory", given.display()))
            }
            Self::NotADirectory { given, .. } => not_found(given),
            Self::StdinTwice => client(STDIN_TWICE.into()),
            Self::TwoDockerfiles => client(TWO_DOCKERFILES.into()),
            Self::NoInput => builder(format!("{read}: no local sources enabled")),
            Self::DockerfilePath { path, source } => {
                builder(format!("resolve {}: {}", path.display(), go_reason(source)))
            }
            Self::DockerfileMissing { name } => {
                let mount = if version == Version::V20 { format!("{DAEMON_MOUNT}/") } else { String::new() };
                frontend(format!("{read}: open {mount}{name}: no such file or directory"))
            }
            Self::DockerfileIsDirectory { name } => {
                frontend(format!("{read}: read {DAEMON_MOUNT}/{name}: is a directory"))
            }
            Self::DirectoryDenied { path } => {
                builder(format!("error from sender: open {}: permission denied", path.display()))
            }
            Self::IgnoreFile { name, source } => builder(format!("failed parsing {name}: {source}")),
            Self::IgnorePattern { patterns, source } if version == Version::V20 => {
                builder(format!("error from sender: invalid excludepatterns: [{}]: {source}", patterns.join(" ")))
            }
            Self::IgnorePattern { source, .. } => builder(source.to_string()),
            Self::IgnoreChecked(source) => {
                builder(format!("error from sender: failed to match excludepatterns: {source}"))
            }
            Self::Archive { source } => {
                archive(source).map_or_else(|| self.own(), |message| builder(format!("{read}: {message}")))
            }
            Self::IncludePattern { patterns, source } => builder(format!(
                "rpc error: code = Unknown desc = invalid includepatterns: [{}]: {source}",
                patterns.join(" ")
            )),
            Self::NamedIgnorePattern { patterns, source } => builder(format!(
                "rpc error: code = Unknown desc = invalid excludepatterns: [{}]: {source}",
                patterns.join(" ")
            )),
            Self::NamedLayout { layout, reason } => {
                client(format!("oci-layout reference {} could not be resolved: {reason}", go::quote(layout)))
            }
            Self::NamedForm { value } => client(format!("invalid context value: {value}, expected key=value")),
            Self::NamedName { name, source } => client(format!("invalid context name {name}: {source}")),
            Self::NamedNotADirectory { path } => {
                client(format!("failed to get build context path {{{} <nil>}}: not a directory", path.display()))
            }
            Self::NamedMissing { name, path, source } => {
                client(format!("failed to get build context {name}: stat {}: {}", path.display(), go_reason(source)))
            }
            _ => self.own(),
        }
    }

    /// Why the archive of a context cannot be unpacked, as the step that does it shows it; `None` of any other error.
    pub(crate) fn unpack_failure(&self) -> Option<Failure> {
        let Self::Archive { source } = self.cause() else { return None };
        let by = Speaker::Builder;
        Some(archive(source).map_or_else(|| self.own(), |message| Failure::Request { message, by }))
    }

    /// Whether the transfer had begun when its other end refused it.
    #[must_use]
    pub(crate) fn is_told_late(&self) -> bool {
        matches!(self, Self::IncludePattern { .. } | Self::NamedIgnorePattern { .. })
    }

    /// The error as it is told of a named context.
    #[must_use]
    pub(crate) fn of_named(self) -> Self {
        match self {
            Self::IgnorePattern { patterns, source } => Self::NamedIgnorePattern { patterns, source },
            other => other,
        }
    }

    /// Our own words, where Docker has none or tells of its own insides.
    fn own(&self) -> Failure {
        let cause = self.cause();
        let mut message = cause.to_string();
        let mut next = std::error::Error::source(cause);
        while let Some(source) = next {
            message = format!("{message}: {source}");
            next = source.source();
        }
        let hint = match cause {
            Self::Remote { .. } => Some("fetch it first and pass the directory, or a tar of it as `-`".to_owned()),
            // Our own disk or ids may be at fault, and then the archive is not.
            Self::Archive { source } => match crate::stop::own(source.as_ref()) {
                Failure::Own { hint: Some(hint), .. } => Some(hint),
                _ => Some("make the archive again with tar".to_owned()),
            },
            _ => None,
        };
        Failure::Own { message, hint }
    }
}

const STDIN_TWICE: &str = "invalid argument: can't use stdin for both build context and dockerfile";
const TWO_DOCKERFILES: &str = "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles";

fn quoted(path: &Path) -> String {
    rbuild_parser::go_quote(&path.to_string_lossy())
}

/// Docker's words for an archive that it does not unpack; `None` where the fault is not the archive's.
fn archive(error: &RootfsError) -> Option<String> {
    match error {
        RootfsError::Breakout { entry, target } if entry == target => {
            Some(format!("invalid entry name {}", quoted(entry)))
        }
        RootfsError::Breakout { target, .. } => Some(format!("invalid hardlink target {}", quoted(target))),
        RootfsError::MissingLinkTarget { entry, target } => {
            Some(format!("linkat {} {}: no such file or directory", target.display(), entry.display()))
        }
        RootfsError::Layer(LayerError::Truncated { .. }) => Some("unexpected EOF".to_owned()),
        RootfsError::Layer(LayerError::Corrupt { .. }) => Some("archive/tar: invalid tar header".to_owned()),
        RootfsError::Layer(LayerError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            Some("unexpected EOF".to_owned())
        }
        RootfsError::Content { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
            Some("unexpected EOF".to_owned())
        }
        // `open_dir_beneath` met a link that leads out on the way to the entry.
        RootfsError::Entry { entry, source } => match source.as_ref() {
            RootfsError::Root(error) if error.errno() == Some(rustix::io::Errno::XDEV.raw_os_error()) => {
                let parent = entry.parent().unwrap_or(entry);
                Some(format!("statat {}: path escapes from parent", parent.display()))
            }
            RootfsError::Content { .. } => archive(source),
            _ => None,
        },
        _ => None,
    }
}
