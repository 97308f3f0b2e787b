//! The BuildKit dialect's plan: all stages that the target needs, as operations, before anything runs.
//!
//! Follows `frontend/dockerfile/dockerfile2llb/convert.go` of BuildKit 0.25 (Docker 28.5). A [`Draft`] is the graph of
//! stages with the base images still unknown; the caller looks those up ([`Draft::wanted_images`]) and the draft
//! becomes a [`Plan`].

mod command;
mod dispatch;
mod draft;
mod lint;
mod sources;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rbuild_image::platform::Platform;
use rbuild_image::reference::DockerVersion;
use rbuild_logfmt::event::{Failure, Lines};
use rbuild_parser::mount::{MountType, Sharing};
use rbuild_parser::{Network as RunNetwork, Version};

pub(crate) use command::{InlineCommand, PIPES, check_security, inline_command, resolve_mount};
pub(crate) use draft::{Draft, WantedImage};
pub(crate) use lint::{Linter, requested_config};
pub(crate) use sources::{check_chmod, copy_dest, files_source, is_http, url_file_name};

use super::PlanError;
use super::image::{StageImage, Variables};
use crate::base::BaseImage;
use crate::context::{Context, NamedContext};
use crate::emit;
use crate::journal::Surroundings;
use crate::options::BuildOptions;

/// Which stage, counted in the order of the Dockerfile; images that are only copied from come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StageIndex(pub(crate) usize);

/// What is to be done for one target.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All stages; those that the target does not need have no steps.
    pub(crate) stages: Vec<StagePlan>,
    /// The stage that becomes the image.
    pub(crate) target: StageIndex,
    /// Paths of the context that some instruction reads.
    pub(crate) context_paths: BTreeSet<String>,
    /// The same of stages, each with all that begin with it: so much of a directory is loaded that stands for one.
    pub(crate) stage_paths: HashMap<StageIndex, BTreeSet<String>>,
}

impl Plan {
    /// The paths of a directory, which a stage begins with, that are read; none stands for all.
    pub(crate) fn wanted_paths(&self, stage: StageIndex) -> Vec<String> {
        match self.stage_paths.get(&stage) {
            Some(paths) if !paths.contains("/") => paths.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

/// A source that `--build-context` names.
#[derive(Clone, Debug)]
pub(crate) struct NamedBase {
    pub(crate) context: NamedContext,
    /// The directory, if it is one.
    pub(crate) directory: Option<Arc<Context>>,
}

/// One stage.
#[derive(Debug)]
pub(crate) struct StagePlan {
    /// Name as the log shows it in brackets; `None` for the only stage without a name.
    pub(crate) shown: Option<String>,
    /// What it begins with.
    pub(crate) base: StageBase,
    /// Whether the target needs it.
    pub(crate) reachable: bool,
    /// What is done, in order.
    pub(crate) steps: Vec<PlannedStep>,
    /// What `FROM` is shown with, if the stage has a base image of its own.
    pub(crate) from: Option<StepLabel>,
    /// The source that `--build-context` gave in place of the base image.
    pub(crate) context: Option<Arc<NamedBase>>,
    /// The image it makes.
    pub(crate) image: StageImage,
    /// No cache is read for it.
    pub(crate) no_cache: bool,
}

/// What a stage begins with.
#[derive(Clone, Debug)]
pub(crate) enum StageBase {
    /// Nothing.
    Scratch,
    /// The result of another stage.
    Stage(StageIndex),
    /// An image.
    Image(Arc<BaseImage>),
    /// A directory given by `--build-context`.
    Directory(Arc<Context>),
    /// An image that cannot be had, which 20.10 notices where it is needed: what the log calls it, and why.
    Missing(String, Failure),
    /// Never looked up, since nothing needs it.
    Unresolved,
}

/// How a step is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepLabel {
    /// Keyword in capitals.
    pub(crate) instruction: String,
    /// Text behind the brackets.
    pub(crate) title: String,
    /// Position in the stage, counted from 1; 0 where the log shows none.
    pub(crate) position: u32,
    /// How many positions it is shown with. FROM is told before the triggers of its image are known.
    pub(crate) positions: u32,
    /// Where it stands.
    pub(crate) lines: Option<Lines>,
}

/// One operation on the file system.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedStep {
    /// How it is shown.
    pub(crate) label: StepLabel,
    /// What is done.
    pub(crate) op: Op,
    /// What a command after it finds.
    pub(crate) surroundings: Surroundings,
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// A command.
    Run(RunOp),
    /// Files come in.
    Copy(CopyOp),
    /// A directory is made, with its parents.
    Mkdir {
        /// Absolute path.
        path: String,
        /// Value of USER, empty for root.
        user: String,
    },
}

/// RUN.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunOp {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    /// Proxies given as build arguments: in the environment, but in no cache key and no history.
    pub(crate) proxy: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) mounts: Vec<RunMount>,
    pub(crate) network: RunNetwork,
    /// A here-document with an interpreter line, run as a file of this name in /dev/pipes.
    pub(crate) script: Option<(String, Vec<u8>)>,
}

/// A mount of a RUN.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunMount {
    pub(crate) kind: MountType,
    pub(crate) from: MountFrom,
    /// Path inside `from`, absolute.
    pub(crate) source: String,
    /// Absolute path; empty for a secret that is only put into the environment.
    pub(crate) target: String,
    pub(crate) read_only: bool,
    pub(crate) size: Option<u64>,
    /// Id of the cache, secret or agent.
    pub(crate) id: String,
    pub(crate) sharing: Sharing,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// Where a mount comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountFrom {
    /// Nothing: it begins empty.
    Empty,
    /// The build context.
    Context,
    /// A stage or image.
    Stage(StageIndex),
}

/// COPY or ADD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CopyOp {
    pub(crate) sources: Vec<CopySource>,
    /// Absolute path; ends in `/` where it must be a directory.
    pub(crate) dest: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) link: bool,
    pub(crate) exclude: Vec<String>,
}

/// A source of COPY or ADD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CopySource {
    /// Files of the context or a stage.
    Files {
        from: MountFrom,
        /// Absolute path or pattern in it.
        pattern: String,
        /// `--parents`: what below `pattern` is taken, with its directories.
        parents: Option<String>,
        /// Archives are unpacked.
        unpack: bool,
    },
    /// A here-document.
    Inline { name: String, data: Vec<u8> },
    /// A file from the web.
    Http { url: String, file_name: String, checksum: Option<String>, unpack: bool },
    /// A git repository.
    Git { url: String, checksum: Option<String>, keep_git_dir: bool },
}

/// Variables as the parser looks them up.
pub(crate) struct Lookup<'a>(pub(crate) &'a Variables);

impl rbuild_parser::words::Environment for Lookup<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }
}

/// A parse error as BuildKit tells it.
pub(crate) fn parse_failure(error: &rbuild_parser::ParseError) -> PlanError {
    let failure = Failure::Parse { message: error.to_string(), file: None };
    PlanError { failure, lines: Some(emit::lines(error.lines)) }
}

/// The platform that a build is for.
pub(crate) fn target_platform(options: &BuildOptions) -> Result<Platform, PlanError> {
    match &options.platform {
        Some(text) => Platform::parse(text, DockerVersion::V28)
            .map_err(|error| PlanError::builder(format!("failed to parse target platform {text}: {error}"), None)),
        None => Ok(Platform::host()),
    }
}

pub(crate) fn docker_version(version: Version) -> DockerVersion {
    match version {
        Version::V20 => DockerVersion::V20,
        _ => DockerVersion::V28,
    }
}
